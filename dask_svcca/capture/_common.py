"""What every way of capturing shares: the report, choosing layers by name, and the axes of a tensor."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from dask_svcca.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

SPATIAL_DIMS = {3: ("width",), 4: ("height", "width"), 5: ("depth", "height", "width")}


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """What became of one checkpoint.

    Attributes
    ----------
    model, checkpoint : str
    written : int
        Representations added to the zoo.
    present : int
        Representations the zoo had already.
    skipped : mapping of str to str
        Tensors that cannot be representations, and why.
    examples : int
    nbytes : int
        Size of the activations written, before compression.
    seconds : float
    """

    model: str
    checkpoint: str
    written: int
    present: int
    examples: int
    nbytes: int
    seconds: float
    skipped: Mapping[str, str] = field(default_factory=dict)


def require(package: str, extra: str) -> Any:
    """Import an optional package.

    Raises
    ------
    MissingPackageError
        Where it cannot be imported, naming the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"capturing needs the package {package!r}, which cannot be imported ({error}); "
            f"pip install 'dask-svcca[{extra}]'"
        ) from error


def select(names: Iterable[str], patterns: str | Sequence[str] | None) -> list[str]:
    """Names that match any of some patterns; all of them without patterns.

    Parameters
    ----------
    names : iterable of str
    patterns : str or sequence of str, optional
        As for files: ``*`` for any text (dots and slashes too), ``?`` and ``[abc]`` for one character. One text may
        hold several, separated by commas. A name matches itself, whatever it consists of.

    Returns
    -------
    list of str
        In the order of ``names``.

    Examples
    --------
    >>> select(["conv1", "block1.conv1", "block1.relu", "fc"], "*conv?, fc")
    ['conv1', 'block1.conv1', 'fc']
    """
    if patterns is None:
        return list(names)
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    globs = {*given, *(part.strip() for text in given for part in text.split(","))}
    return [name for name in names if name in globs or any(fnmatchcase(name, glob) for glob in globs)]


def dims_of(shape: Sequence[int], channel_axis: int | None) -> tuple[str, ...] | None:
    """Names of the axes of a batch of activations.

    Parameters
    ----------
    shape : sequence of int
        The first axis is the examples.
    channel_axis : int, optional
        Where the channels of a convolution are. Without, four axes are taken for channels-first images and three for
        sequences.

    Returns
    -------
    tuple of str, or None
        None where there is no name for the axes. Two names for what is dense: to be reshaped to two axes.

    Examples
    --------
    >>> dims_of((500, 16, 8, 8), None), dims_of((500, 16, 100), 1)
    (('example', 'channel', 'height', 'width'), ('example', 'channel', 'width'))

    Pooled to a single position, channels are neurons:

    >>> dims_of((500, 16, 1, 1), 1)
    ('example', 'neuron')
    """
    if channel_axis is None and len(shape) == 4:
        channel_axis = 1
    if len(shape) <= 2:
        return ("example", "neuron")
    if channel_axis is None:
        return ("example", "token", "neuron") if len(shape) == 3 else None
    if all(size == 1 for axis, size in enumerate(shape) if axis not in {0, channel_axis}):
        return ("example", "neuron")
    if len(shape) not in SPATIAL_DIMS:
        return None
    dims = ["example", *SPATIAL_DIMS[len(shape)]]
    dims.insert(channel_axis, "channel")
    return tuple(dims)


def as_dims(values: npt.NDArray[Any], dims: tuple[str, ...]) -> npt.NDArray[Any]:
    """Activations with as many axes as `dims_of` names."""
    return values.reshape(len(values), -1) if len(dims) == 2 else values


def listing(names: Iterable[str], limit: int = 8) -> str:
    """Names for a message, no more than a few.

    Examples
    --------
    >>> listing(["a", "b", "c"], limit=2), listing([])
    ("'a', 'b' and 1 more", 'none')
    """
    shown = [repr(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (", ".join(shown[:limit]) or "none") + more
