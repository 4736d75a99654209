"""Text of variable width as text of fixed width, which plots and files need; read when it is used."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

if TYPE_CHECKING:
    import numpy.typing as npt


class Whole(BackendArray):
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


class FixedWidth(Whole):
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
        return text_of_fixed_width(self._variable.to_numpy())

    @property
    def dtype(self) -> np.dtype[np.str_]:
        """Known as soon as it is read."""
        return self.values.dtype


def text_of_fixed_width(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """Text as an array whose width is that of its longest entry."""
    return np.array(values.tolist(), dtype=np.str_)


def fixed_width(variable: xr.Variable) -> xr.Variable:
    """The same variable as text of fixed width."""
    # A cache of xarray's would ask for the type at once.
    lazy = indexing.LazilyIndexedArray(FixedWidth(variable))
    return xr.Variable(variable.dims, lazy, variable.attrs, variable.encoding)
