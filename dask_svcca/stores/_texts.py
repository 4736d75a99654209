"""Variables along one axis, read whole when they are used; their text is of fixed width, as plots and files need it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.codecs import BytesCodec, Crc32cCodec, VLenUTF8Codec, ZstdCodec

from dask_svcca.stores._columns import read_each
from dask_svcca.stores._documents import SEAL

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    import numpy.typing as npt
    import zarr


class _Whole(BackendArray):
    """A variable that is read whole, once, as soon as anything is asked."""

    shape: tuple[int, ...]
    values: npt.NDArray[Any]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Some of it, as an array that may be changed."""
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, lambda places: self.values[places].copy()
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class FixedWidth(_Whole):
    """A text variable, whose width is that of its longest entry.

    Parameters
    ----------
    variable : xarray.Variable
    """

    def __init__(self, variable: xr.Variable) -> None:
        self._variable = variable
        self.shape = variable.shape

    @cached_property
    def values(self) -> npt.NDArray[np.str_]:  # type: ignore[override]
        """All of it."""
        return _of_fixed_width(self._variable.to_numpy())

    @property
    def dtype(self) -> np.dtype[np.str_]:
        """Known as soon as it is read."""
        return self.values.dtype


class Column(_Whole):
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
        return column_values(self._root, {self._name: self._document})[self._name]

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of text is known as soon as it is read."""
        kind = self._document["data_type"]
        return self.values.dtype if kind == "string" else np.dtype(kind)


def column_values(root: zarr.Group, documents: Mapping[str, Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """Values of columns, text of fixed width; see `dask_svcca.stores._columns.read_each`."""
    found = read_each(root, documents)
    return {name: _of_fixed_width(values) if values.dtype == object else values for name, values in found.items()}


def column_variables(
    root: zarr.Group, documents: Mapping[str, Mapping[str, Any]], *, at_once: Container[str]
) -> dict[str, xr.Variable]:
    """Variables along one axis of a comparison, without zarr and xarray, which take a millisecond for each.

    Parameters
    ----------
    root : zarr.Group
    documents : mapping of str to mapping
        Their metadata, by name with its axis.
    at_once : container of str
        Those that are read now.
    """
    read = column_values(root, {name: one for name, one in documents.items() if name in at_once})
    found = {}
    for name, document in documents.items():
        # A cache of xarray's would ask for the type at once.
        data = read[name] if name in read else indexing.LazilyIndexedArray(Column(root, name, document))
        attributes = {key: value for key, value in document["attributes"].items() if key != SEAL}
        (dim,) = document["dimension_names"]
        found[name] = xr.Variable(dim, data, attributes, _encoding(document, dim), fastpath=True)
    return found


def _encoding(document: Mapping[str, Any], dim: str) -> dict[str, Any]:
    """How a column is stored, as xarray says it."""
    text = document["data_type"] == "string"
    dtype = np.dtypes.StringDType() if text else np.dtype(document["data_type"])
    chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    return {
        "chunks": chunks,
        "preferred_chunks": {dim: chunks[0]},
        "compressors": (ZstdCodec(level=1, checksum=True), Crc32cCodec()),
        "filters": (),
        "shards": None,
        "serializer": VLenUTF8Codec() if text else BytesCodec(endian="little"),
        "fill_value": "" if text else dtype.type(document["fill_value"]),
        "dtype": dtype,
    }


def _of_fixed_width(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    return np.array(values.tolist(), dtype=np.str_)


def fixed_width(variable: xr.Variable) -> xr.Variable:
    """The same variable as text of fixed width."""
    # A cache of xarray's would ask for the type at once.
    lazy = indexing.LazilyIndexedArray(FixedWidth(variable))
    return xr.Variable(variable.dims, lazy, variable.attrs, variable.encoding)
