"""Names of representations, and the paths that stand for them in a store."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple, Self
from urllib.parse import quote, unquote

from dask_svcca.errors import RepresentationNotFoundError

LONGEST = 255
"""Bytes in a file name, on the file systems in use."""

_NAMES = 2**14
"""Names to remember: those of models, checkpoints and layers recur, and an index asks for each some ten times."""

# A path segment must not be empty, hold a slash, or look like a file of zarr's or a hidden file.
_SAFE = "".join(chr(code) for code in range(32, 127) if chr(code) not in '/%\\:*?"<>|')


_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
"""Names that Windows gives to devices, in any folder and with any ending. Nor do its names end in dots or spaces."""


@lru_cache(maxsize=_NAMES)
def encode(name: str) -> str:
    """Path segment for any name; reversible, readable for ordinary names. That of no name at all is a percent sign.

    Examples
    --------
    >>> encode("block1.conv1"), encode("/backbone/50%"), encode("..")
    ('block1.conv1', '%2Fbackbone%2F50%25', '%2E%2E')
    >>> encode("aux"), encode("fc. ")
    ('%61ux', 'fc.%20')
    """
    segment = quote(name, safe=_SAFE) or "%"
    if segment == "zarr.json":
        return "zarr%2Ejson"
    if segment.endswith((".", " ")):
        segment = f"{segment[:-1]}%{ord(segment[-1]):02X}"
    if segment.startswith((".", "_")) or segment.partition(".")[0].lower() in _DEVICES:
        segment = f"%{ord(segment[0]):02X}{segment[1:]}"
    return segment


@lru_cache(maxsize=_NAMES)
def decode(segment: str) -> str:
    """Name that `encode` made a path segment of.

    Examples
    --------
    >>> [decode(encode(name)) for name in ("block1.conv1", "/backbone/50%", "%", "")]
    ['block1.conv1', '/backbone/50%', '%', '']
    """
    return "" if segment == "%" else unquote(segment)


@lru_cache(maxsize=_NAMES)
def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """Key to sort names by, with the numbers in them in order of size.

    Examples
    --------
    >>> sorted(["epoch-10", "epoch-9", "epoch-09"], key=natural_order)
    ['epoch-09', 'epoch-9', 'epoch-10']
    """
    # Every second part is a number.
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


def checkpoint_label(model: str, checkpoint: str) -> str:
    """How the label of a representation begins: its checkpoint.

    Examples
    --------
    >>> checkpoint_label("resnet-s0", "step00100")
    'resnet-s0/step00100'
    """
    return "/".join(encode(part) for part in (model, checkpoint) if part)


class RepresentationName(NamedTuple):
    """Model, checkpoint and layer: together they identify a representation."""

    model: str
    checkpoint: str
    layer: str

    @property
    def path(self) -> str:
        """Where the representation lies in a store.

        Examples
        --------
        >>> RepresentationName("resnet-s0", "step00100", "/conv").path
        'resnet-s0/step00100/%2Fconv'
        """
        return "/".join(map(encode, self))

    @property
    def label(self) -> str:
        """Name for people to read and select by: unique, with the layer's name as it is.

        A model or checkpoint without a name, as arrays at hand may have, is left out.

        Examples
        --------
        >>> RepresentationName("resnet-s0", "step00100", "/conv").label
        'resnet-s0/step00100//conv'
        """
        return "/".join([*(encode(part) for part in self[:2] if part), self.layer])

    @classmethod
    def of(cls, key: object) -> Self:
        """Name from what people select by: a label, or the three parts.

        Raises
        ------
        RepresentationNotFoundError
            Where it is neither.

        Examples
        --------
        >>> RepresentationName.of("resnet-s0/step00100//conv")
        RepresentationName(model='resnet-s0', checkpoint='step00100', layer='/conv')
        """
        if isinstance(key, str) and key.count("/") >= 2:
            model, checkpoint, layer = key.split("/", 2)
            return cls(decode(model), decode(checkpoint), layer)
        if isinstance(key, tuple) and len(key) == 3:
            return cls(*key)
        raise RepresentationNotFoundError(
            f"{key!r} does not name a representation: give its model, checkpoint and layer, for example "
            f"zoo['net', 'step1', 'fc'], or its label, 'net/step1/fc'"
        )

    def check(self) -> None:
        """Raise ValueError where a part is empty or not text."""
        for part, value in self._asdict().items():
            if not isinstance(value, str) or not value:
                raise ValueError(f"the name of a {part} must be text of at least one character; got {value!r}")
            try:
                length = len(encode(value))
            except UnicodeEncodeError:
                raise ValueError(f"the name of a {part} has a character that is not valid text: {value!r}") from None
            if length > LONGEST:
                raise ValueError(
                    f"the name of a {part} takes {length} bytes as a file name, and file systems allow 255: "
                    f"{value[:40]!r}... Give it a shorter name"
                )


def label_of(text: str) -> str:
    """The label of a representation whose names are spelt as people do; other texts as they are.

    Examples
    --------
    >>> label_of("résumé/1/fc"), label_of("fc")
    ('r%C3%A9sum%C3%A9/1/fc', 'fc')
    """
    return RepresentationName.of(text).label if text.count("/") >= 2 else text
