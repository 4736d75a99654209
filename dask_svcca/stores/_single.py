"""Small arrays of one chunk, written and read as they lie in the store: zarr takes a millisecond to open one."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from dask_svcca.stores._documents import array_document, parse
from dask_svcca.stores._nodes import open_array
from dask_svcca.stores._packed import is_text, packed, unpacked
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import zarr

NUMBERS: Final = frozenset(
    {"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"}
)
"""Types of numbers that an array may have."""


def write_single(root: zarr.Group, name: str, values: npt.NDArray[Any], dims: Sequence[str]) -> None:
    """Write an array of one chunk, of one of `NUMBERS` or of text, in place of what is there."""
    backend = backend_of(root)
    # What an interrupted creation left.
    backend.remove(name)
    text = is_text(values)
    backend.write(_key(name, values.ndim), *packed(values))
    document = array_document(
        shape=values.shape,
        chunk_shape=values.shape,
        dtype="string" if text else values.dtype.name,
        fill="" if text else values.dtype.type(0).item(),
        dims=dims,
        compression="zstd",
    )
    backend.write(f"{name}/zarr.json", document)


def read_single(root: zarr.Group, name: str) -> npt.NDArray[Any]:
    """What `write_single` wrote; text as objects.

    Raises
    ------
    ValueError, StoreFormatError
        Where it is missing or damaged, or was written by something else.
    """
    shape, dtype = _declared(root, name)
    (chunk,) = backend_of(root).read_many([_key(name, len(shape))])
    values = unpacked(chunk, dtype)
    if values.size != math.prod(shape):
        raise ValueError(f"it has {values.size} values, and its shape is {shape}")
    # Whoever reads it may change it.
    return values.astype(object if dtype == "string" else dtype).reshape(shape)


def _declared(root: zarr.Group, name: str) -> tuple[tuple[int, ...], str]:
    """Shape and type of an array whose metadata is that of `write_single`, or of zarr for the same bytes."""
    (document,) = backend_of(root).read_many([f"{name}/zarr.json"])
    if document is None:
        raise ValueError("its metadata is missing")
    found = parse(document)
    try:
        shape, dtype = tuple(found["shape"]), found["data_type"]
        codecs = [codec["name"] for codec in found["codecs"]]
        little = (found["codecs"][0].get("configuration") or {}).get("endian", "little") == "little"
        grid, keys = found["chunk_grid"], found["chunk_key_encoding"]
        plain = (
            (found["zarr_format"], found["node_type"]) == (3, "array")
            and all(isinstance(length, int) for length in shape)
            and (dtype == "string" or dtype in NUMBERS)
            and little
            and codecs == ["vlen-utf8" if dtype == "string" else "bytes", "zstd", "crc32c"]
            and grid == {"name": "regular", "configuration": {"chunk_shape": list(shape)}}
            and keys == {"name": "default", "configuration": {"separator": "/"}}
        )
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"its metadata is not that of an array: {json.dumps(found)[:80]}") from error
    if not plain:
        # It says so where a newer zarr wrote it.
        open_array(root, name)
        raise ValueError("it is not stored as this package stores it")
    return shape, dtype


def _key(name: str, axes: int) -> str:
    return "/".join([name, "c", *["0"] * axes])
