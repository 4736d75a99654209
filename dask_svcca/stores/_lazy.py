"""Variables of a comparison as xarray has them, made of metadata alone; values are read when they are used.

xarray opens arrays through zarr, which takes a millisecond for each, and a comparison has dozens.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, VLenUTF8Codec, ZstdCodec
from zarr.storage import StorePath

from dask_svcca.stores._checked import CheckedStore
from dask_svcca.stores._columns import read_each
from dask_svcca.stores._documents import SEAL
from dask_svcca.stores._texts import Whole, text_of_fixed_width

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    import numpy.typing as npt


class Column(Whole):
    """A variable along one axis of a comparison, as it is stored.

    Parameters
    ----------
    root : zarr.Group
    name : str
        With its axis.
    document : mapping
        Its metadata.
    """

    def __init__(self, root: zarr.Group, name: str, document: Mapping[str, Any]) -> None:
        self._root, self._name, self._document = root, name, document
        self.shape = tuple(document["shape"])

    @cached_property
    def values(self) -> npt.NDArray[Any]:  # type: ignore[override]
        """All of it."""
        return _column_values(self._root, {self._name: self._document})[self._name]

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of text is known as soon as it is read."""
        kind = self._document["data_type"]
        return self.values.dtype if kind == "string" else np.dtype(kind)


class Matrix(BackendArray):
    """A variable along pairs of a comparison, opened through zarr as soon as some of it is read.

    Parameters
    ----------
    root : zarr.Group
    name : str
    document : mapping
        Its metadata.
    """

    def __init__(self, root: zarr.Group, name: str, document: Mapping[str, Any]) -> None:
        self._root, self._name, self._document = root, name, document
        self.shape, self.dtype = tuple(document["shape"]), np.dtype(document["data_type"])

    @cached_property
    def _array(self) -> zarr.Array[Any]:
        path = f"{self._root.path}/{self._name}".lstrip("/")
        return zarr.Array.from_dict(StorePath(CheckedStore(self._root.store, self._root), path), dict(self._document))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Some of it, of those chunks alone that it is in."""
        array = self._array
        read: Any = array.__getitem__
        if isinstance(key, indexing.VectorizedIndexer):
            read = array.vindex.__getitem__
        elif isinstance(key, indexing.OuterIndexer):
            read = array.oindex.__getitem__
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.VECTORIZED, read)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def variables_of(
    root: zarr.Group, documents: Mapping[str, Mapping[str, Any]], *, at_once: Container[str]
) -> dict[str, xr.Variable]:
    """Variables of a comparison, text of fixed width.

    Parameters
    ----------
    root : zarr.Group
    documents : mapping of str to mapping
        Their metadata, by name.
    at_once : container of str
        Those along one axis that are read now.
    """
    read = _column_values(root, {name: one for name, one in documents.items() if name in at_once})
    found = {}
    for name, document in documents.items():
        if name in read:
            data: Any = read[name]
        elif len(document["shape"]) > 1:
            data = indexing.LazilyIndexedArray(Matrix(root, name, document))
            data = indexing.MemoryCachedArray(indexing.CopyOnWriteArray(data))  # type: ignore[no-untyped-call]
        else:
            # A cache of xarray's would ask for the type at once.
            data = indexing.LazilyIndexedArray(Column(root, name, document))
        attributes = {key: value for key, value in document["attributes"].items() if key != SEAL}
        found[name] = xr.Variable(document["dimension_names"], data, attributes, _encoding(document))
    return found


def _column_values(root: zarr.Group, documents: Mapping[str, Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    found = read_each(root, documents)
    return {name: text_of_fixed_width(values) if values.dtype == object else values for name, values in found.items()}


_CODECS: dict[str, Any] = {"zstd": ZstdCodec, "blosc": BloscCodec, "crc32c": Crc32cCodec}


def _encoding(document: Mapping[str, Any]) -> dict[str, Any]:
    """How a variable is stored, as xarray says it."""
    text = document["data_type"] == "string"
    dtype = np.dtypes.StringDType() if text else np.dtype(document["data_type"])
    chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    packing = [_CODECS[codec["name"]](**codec.get("configuration", {})) for codec in document["codecs"][1:]]
    return {
        "chunks": chunks,
        "preferred_chunks": dict(zip(document["dimension_names"], chunks, strict=True)),
        "compressors": tuple(packing),
        "filters": (),
        "shards": None,
        "serializer": VLenUTF8Codec() if text else BytesCodec(endian="little" if dtype.itemsize > 1 else None),
        "fill_value": "" if text else dtype.type(document["fill_value"]),
        "dtype": dtype,
    }
