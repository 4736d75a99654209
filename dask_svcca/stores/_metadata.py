"""What the metadata of a store must say before it is believed, whoever wrote it and whatever befell it since.

A store may come from anywhere, and a disk may change a byte. Metadata decides which numbers are read as what: where it
is not what this package writes, the store is refused in a sentence, instead of being read wrongly or not at all.
"""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import numcodecs.zstd
import zarr

from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import DamagedStoreError, DaskSvccaError, StoreFormatError
from dask_svcca.stores._access import ABSENT, UNREADABLE, accessing
from dask_svcca.variables import DETAIL_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dask_svcca.variables import Variable

MOST_ROWS = 2**22
"""More representations than any comparison has: a matrix of their pairs would take 140 TB."""


@contextmanager
def understanding(place: object) -> Iterator[None]:
    """Raise `StoreFormatError` for metadata that this version of zarr does not understand."""
    try:
        yield
    except (*ABSENT, OSError, DaskSvccaError):
        raise
    except UNREADABLE as error:
        raise StoreFormatError(
            f"zarr {zarr.__version__} cannot read the metadata of {str(place)!r} ({said(error)}). A newer zarr may "
            f"have written it: upgrade zarr; otherwise the file is damaged"
        ) from error


@contextmanager
def reading(name: str, place: object) -> Iterator[None]:
    """Raise `StoreFormatError` where a part of a store that everything else depends on cannot be read."""
    try:
        with accessing(place):
            yield
    except DaskSvccaError:
        raise
    except UNREADABLE as error:
        raise StoreFormatError(
            f"{name!r} of {str(place)!r} cannot be read ({said(error)}): it is missing or damaged. "
            f"'dask-svcca verify' names all that is, and 'dask-svcca verify --repair' mends what it can"
        ) from error


def said(error: BaseException) -> str:
    """What an error says, in one line.

    Examples
    --------
    >>> said(KeyError("codecs"))
    "KeyError: 'codecs'"
    """
    text = " ".join(str(error).split())[:300].encode(errors="replace").decode()
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def is_whole(value: object, low: int = 0) -> TypeGuard[int]:
    """Whether a JSON value is an integer from a bound on, and of a size that a file can have.

    Examples
    --------
    >>> is_whole(3), is_whole(True), is_whole(0, 1), is_whole(2**70), is_whole("3")
    (True, False, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63


def is_number(value: object) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_HALF = re.compile("[\ud800-\udfff]")
"""Half of a character."""


def is_text(value: object) -> bool:
    """Whether a JSON value is text that can be written and shown: no half of a character.

    Examples
    --------
    >>> is_text("x"), is_text(None)
    (True, False)
    """
    return isinstance(value, str) and _HALF.search(value) is None


def are_texts(value: object) -> bool:
    """Whether a JSON value is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def _is_run(value: object) -> bool:
    numbers = ("seconds", "workers", "pairs", "pairs_per_second", "bytes_read", "overhead")
    return (
        isinstance(value, dict)
        and is_text(value.get("finished"))
        and is_text(value.get("device", ""))
        and all(is_number(value.get(name)) for name in numbers)
        and isinstance(value.get("stages"), dict)
        and all(map(is_number, value["stages"].values()))
    )


def _are_failures(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and is_text(one.get("reason"))
        and all(_are_ends(one.get(axis)) for axis in ("rows", "columns"))
        for one in value
    )


def _is_planned(value: object) -> bool:
    return (
        isinstance(value, dict)
        and is_whole(value.get("workers"), 1)
        and isinstance(value.get("parts"), dict)
        and all(is_whole(parts, 2) for parts in value["parts"].values())
    )


def _are_ends(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_whole, value)) and value[0] <= value[1]


def _is_parameters(value: object) -> bool:
    return (
        isinstance(value, dict)
        and are_texts(value.get("measures"))
        and are_texts(value.get("keep"))
        and set(value["keep"]) <= set(DETAIL_VARIABLES)
    )


def _is_identity(value: object) -> bool:
    return isinstance(value, dict) and is_whole(value.get("n_examples"), 1) and is_text(value.get("examples_digest"))


def _is_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_text, value.values())) and all(map(_is_key, value))


def _is_key(name: str) -> bool:
    """Whether a name leads to nothing but its own array: those of measures may have parameters in brackets."""
    return bool(name) and not set(name) & set("/\\\0") and name not in {".", ".."}


def _are_coordinates(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and EXAMPLE in value
        and all(map(_is_key, value))
        and all(map(is_text, (*value, *value.values())))
    )


_REQUIRED: dict[str, dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "zoo": {
        "n_examples": ("a number of examples", lambda value: is_whole(value, 1)),
        "examples_digest": ("text", is_text),
        "example_coordinates": ("an object with the digest of each coordinate, 'example' among them", _are_coordinates),
    },
    "comparison": {
        "parameters": ("an object with lists of measures and of what is kept", _is_parameters),
        "versions": ("an object with the version of each measure", _is_versions),
        "settled": ("a list of names", are_texts),
        "growing": ("true or false", lambda value: isinstance(value, bool)),
        "zoo": ("text", is_text),
        "subspaces": ("text", is_text),
        "examples_digest": ("text", is_text),
        "n_examples": ("a number of examples", lambda value: is_whole(value, 1)),
        "tile": ("a number of representations", lambda value: is_whole(value, 1) and value <= MOST_ROWS),
    },
    "subspaces": {
        "identity": ("an object that says of which examples they are", _is_identity),
        "chunk_samples": ("a number of samples", lambda value: is_whole(value, 1)),
    },
}
_OPTIONAL: dict[str, dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "comparison": {
        "runs": ("a list of records of runs", lambda value: isinstance(value, list) and all(map(_is_run, value))),
        "left_zoo": ("a list of labels", are_texts),
        "planned": ("an object with a number of workers and with parts", _is_planned),
        "failures": ("a list of blocks that failed", _are_failures),
        "estimated": ("a list of measures", are_texts),
        "rechunked": ("a number of representations", lambda value: is_whole(value, 1) and value <= MOST_ROWS),
    }
}


def check_attributes(attributes: Mapping[str, Any], kind: str, place: object) -> None:
    """Refuse a root whose attributes are not those of a zoo, a comparison, or a store of subspaces.

    Parameters
    ----------
    attributes : mapping
    kind : {"zoo", "comparison", "subspaces"}
    place : object
        The store, for the message.

    Raises
    ------
    DamagedStoreError
    StoreFormatError
        For a comparison that xarray saved: as `open_comparison` has it, what is nested is text.

    Examples
    --------
    >>> check_attributes({"identity": {}, "chunk_samples": "x"}, "subspaces", "s.zarr")
    Traceback (most recent call last):
    dask_svcca.errors.DamagedStoreError: the attribute 'identity' of 's.zarr' is not an object that says of which ...
    """
    if kind == "comparison" and isinstance(attributes.get("parameters"), str):
        raise StoreFormatError(
            f"{str(place)!r} is a Dataset that xarray saved, without the subspaces of the comparison that it was. "
            f"Questions about its values take it as xarray.open_zarr opens it; for all else, give the path of the "
            f"comparison itself"
        )
    there = {
        **_REQUIRED.get(kind, {}),
        **{name: one for name, one in _OPTIONAL.get(kind, {}).items() if name in attributes},
    }
    for name, (what, valid) in there.items():
        if not valid(attributes.get(name)):
            raise DamagedStoreError(
                f"the attribute {name!r} of {str(place)!r} is not {what}: {str(attributes.get(name))[:80]!r}. The "
                f"store is damaged, or another program changed it: restore it from a copy, or make it anew"
            )


def check_variable(document: Mapping[str, Any], name: str, variable: Variable, chunks: tuple[int, ...]) -> None:
    """Refuse the metadata of an array of a comparison under which its bytes would be read as other numbers.

    Parameters
    ----------
    document : mapping
        Metadata as it is stored.
    name : str
    variable : Variable
    chunks : tuple of int
        Chunk along the first axes; further axes have a chunk as long as they are.

    Raises
    ------
    AttributeError, LookupError, TypeError, ValueError
    """
    shape, dims = document.get("shape"), document.get("dimension_names")
    if document.get("node_type") != "array" or not isinstance(shape, list | tuple) or not all(map(is_whole, shape)):
        raise ValueError(f"{name!r} is not an array with a shape")
    if any(length > MOST_ROWS for length in shape):
        raise ValueError(f"{name!r} has the shape {tuple(shape)}, and no comparison is as large")
    axes = {"pair": ("representation_a", "representation_b"), "axis": ()}.get(
        variable.kind, (f"representation{name[-2:]}",)
    )
    wanted = (*axes, *variable.dims)
    if len(shape) != len(wanted) or (dims is not None and tuple(dims) != wanted):
        raise ValueError(f"{name!r} has the axes {dims} and the shape {tuple(shape)}; they should be {wanted}")
    if variable.kind == "pair" and shape[0] != shape[1]:
        raise ValueError(f"{name!r} has the shape {tuple(shape)}, which is not square")
    if document.get("data_type") != variable.dtype:
        raise ValueError(f"{name!r} is of type {document.get('data_type')!r}; it should be {variable.dtype!r}")
    if not _same_fill(document.get("fill_value"), variable.fill):
        raise ValueError(f"{name!r} has the fill value {document.get('fill_value')!r}, not {variable.fill!r}")
    _check_chunks(document, name, len(shape), chunks)
    _check_codecs(document, name, "vlen-utf8" if variable.dtype == "string" else "bytes")


def _check_chunks(document: Mapping[str, Any], name: str, axes: int, chunks: tuple[int, ...]) -> None:
    grid, keys = document["chunk_grid"], document["chunk_key_encoding"]
    found = tuple(grid["configuration"]["chunk_shape"])
    # Further axes have one chunk, as long as they were at first.
    further = all(is_whole(length, 1) and length <= MOST_ROWS for length in found[len(chunks) :])
    if grid["name"] != "regular" or found[: len(chunks)] != chunks or len(found) != axes or not further:
        raise ValueError(f"{name!r} has chunks {found}; they should be {chunks}")
    if keys != {"name": "default", "configuration": {"separator": "/"}}:
        raise ValueError(f"{name!r} has chunks of other names: {keys}")


def _check_codecs(document: Mapping[str, Any], name: str, first: str) -> None:
    codecs = document["codecs"]
    little = (codecs[0].get("configuration") or {}).get("endian", "little") == "little"
    plain = codecs[0]["name"] == first and little and not document.get("storage_transformers")
    if not plain or not all(codec["name"] in _PACKING for codec in codecs[1:]):
        raise ValueError(f"{name!r} is stored by codecs that this package does not write: {codecs}")


_PACKING = frozenset({"zstd", "blosc", "gzip", "crc32c"})
"""Codecs of zarr that leave bytes as they are, once they are decoded."""


def _same_fill(stored: object, fill: float | str) -> bool:
    if isinstance(fill, float) and math.isnan(fill):
        return stored == "NaN" or (isinstance(stored, float) and math.isnan(stored))
    return stored == fill and isinstance(stored, bool) is isinstance(fill, bool)


def check_texts(codecs: Sequence[Mapping[str, Any]], chunk: bytes) -> None:
    """Refuse a chunk of texts that says there are more than fit into it: zarr would make room for them first.

    Parameters
    ----------
    codecs : sequence of mapping
        Of its array, as they are stored. Under codecs that this package does not write, nothing is checked.
    chunk : bytes

    Raises
    ------
    RuntimeError, ValueError
    """
    for codec in reversed(codecs[1:]):
        if codec["name"] == "crc32c":
            chunk = chunk[:-4]
        elif codec["name"] == "zstd":
            chunk = bytes(numcodecs.zstd.Zstd().decode(chunk))
        else:
            return
    check_count(chunk)


def check_count(texts: bytes) -> None:
    """Refuse texts behind their number, each behind its length, that say there are more than fit: see `check_texts`."""
    if len(texts) < 4 or 4 * int.from_bytes(texts[:4], "little") > len(texts) - 4:
        raise ValueError("a chunk of texts is damaged")
