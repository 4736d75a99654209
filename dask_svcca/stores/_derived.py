"""Variables of a comparison that follow from others of it: computed where they are read, and not stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from dask_svcca.kernels.orders import no_rarer_than_one_order
from dask_svcca.measures import DERIVED, find_derived

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.measures import Derived


class DerivedArray(BackendArray):
    """A derived variable: of its parents only the part that is read.

    Parameters
    ----------
    derived : Derived
    parents : sequence of xarray.Variable
        Of one shape.
    examples : float
        Infinite where that is not known.
    """

    dtype = np.dtype(np.float64)

    def __init__(self, derived: Derived, *parents: xr.Variable, examples: float) -> None:
        self._derived, self._parents = derived, parents
        self._examples = examples
        self.shape = parents[0].shape

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Some of it."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, places: tuple[Any, ...]) -> FloatArray:
        values = self._derived.formula(*(parent[places].to_numpy() for parent in self._parents))
        return no_rarer_than_one_order(values, self._examples) if self._derived.of_orders else values

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def derived_variables(variables: Mapping[Any, xr.Variable], examples: float) -> dict[Any, xr.Variable]:
    """Derived variables, by name, of which all parents are there."""
    found = {}
    # Those with a parameter are found by the companions of what is there.
    companions = (name for one in variables.values() for name in one.attrs.get("companions", ()))
    for name in dict.fromkeys((*DERIVED, *companions)):
        derived = find_derived(name)
        if derived is not None and all(parent in variables for parent in derived.parents):
            parents = [variables[parent] for parent in derived.parents]
            array = indexing.LazilyIndexedArray(DerivedArray(derived, *parents, examples=examples))
            found[name] = xr.Variable(parents[0].dims, array, derived.attributes)
    return found
