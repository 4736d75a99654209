"""Arrays and groups below the root of a store, opened by whoever believes nothing of what they say."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr
import zarr.errors

from dask_svcca import machine
from dask_svcca.errors import StoreFormatError
from dask_svcca.stores._metadata import check_texts, reading, understanding
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    import numpy.typing as npt

LARGE = 2**28
"""Bytes of an array from which the memory that there is is looked up first."""


def open_array(root: zarr.Group, path: str, *, mode: Literal["r", "r+"] = "r") -> zarr.Array[Any]:
    """Open an array below a root through zarr.

    Raises
    ------
    StoreFormatError
        Where it is not there, or this zarr cannot read it, as when a newer one wrote it.
    """
    full = f"{root.path}/{path}".lstrip("/")
    try:
        with reading(path, root.store_path), understanding(root.store_path / path):
            return zarr.open_array(root.store, path=full, mode=mode)
    except StoreFormatError as error:
        if isinstance(error.__cause__, zarr.errors.NodeTypeValidationError):
            raise StoreFormatError(f"{path!r} in {str(root.store_path)!r} is a group, not an array") from None
        raise


def read_whole(root: zarr.Group, name: str) -> npt.NDArray[Any]:
    """All values of a small array below a root.

    Raises
    ------
    StoreFormatError
        Where it cannot be read, or says that it is larger than memory.
    """
    array = open_array(root, name)
    with reading(name, root.store_path):
        metadata = array.metadata.to_dict()
        size = math.prod(array.shape) * max(1, array.dtype.itemsize)
        if size > LARGE and size > (most := machine.available_memory()):
            raise ValueError(f"it would take {size:,} bytes, and there are {most:,} of memory")
        if metadata["data_type"] == "string":
            chunks = itertools.product(*(range(count) for count in array.cdata_shape))
            keys = [f"{name}/{array.metadata.encode_chunk_key(chunk)}" for chunk in chunks]
            for chunk in filter(None, backend_of(root).read_many(keys)):
                check_texts(metadata["codecs"], chunk)  # type: ignore[arg-type]
        return np.asarray(array[...])


def has_node(root: zarr.Group, path: str) -> bool:
    """Whether there is a group or an array below a root, readable or not."""
    return backend_of(root).read_many([f"{path}/zarr.json"]) != [None]


def open_inside(root: zarr.Group, path: str) -> zarr.Group:
    """Open a group below a root, to write to where the root is.

    Raises
    ------
    StoreFormatError
        Where it is not there, or cannot be understood.
    """
    try:
        with reading(path, root.store_path), understanding(root.store_path / path):
            return zarr.open_group(
                root.store_path / path, mode="r" if root.read_only else "r+", zarr_format=3, use_consolidated=False
            )
    except StoreFormatError as error:
        if isinstance(error.__cause__, zarr.errors.ContainsArrayError):
            raise StoreFormatError(f"{path!r} in {str(root.store_path)!r} is an array, not a group") from None
        raise
