"""Relatives: models of which one began with the other, or both with one."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse

from dask_svcca.analysis.selection import SIDES, column
from dask_svcca.stores._names import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr

    from dask_svcca.kernels._types import BoolArray


class Kin:
    """Which models of a comparison are relatives, by the parents of their checkpoints.

    A model is a relative of those that it began with, of those that they began with, and of all that began with one of
    these, be it in the comparison or not.

    Parameters
    ----------
    result : xarray.Dataset
        The whole of it: a part may lack the checkpoints that say where a model began.

    Examples
    --------
    >>> import dask_svcca, zarr
    >>> zoo = dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(30))
    >>> for model, parent in {"base": None, "tuned": "base/end", "other": None}.items():
    ...     zoo.write(model, "end", "fc", np.random.default_rng(0).normal(size=(30, 2)), parent=parent)
    >>> Kin(dask_svcca.compare(zoo)).related(["base", "tuned", "other"]).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """

    def __init__(self, result: xr.Dataset) -> None:
        self._parents: dict[str, set[str]] = {}
        for side in SIDES:
            if f"parent_{side}" not in result.variables:
                continue
            models, parents = (column(result, name, side).astype(str) for name in ("model", "parent"))
            said = pd.DataFrame({"model": models, "parent": parents})[parents != ""].drop_duplicates()
            for model, parent in said.itertuples(index=False):
                self._parents.setdefault(model, set()).add(decode(parent.partition("/")[0]))

    def related(self, models: Sequence[str]) -> BoolArray:
        """Whether each two of some models are relatives, (model, model); each is one of itself."""
        ancestors = [self._ancestors(model) for model in models]
        _, codes = np.unique([name for some in ancestors for name in some], return_inverse=True)
        rows = np.repeat(np.arange(len(models)), [len(some) for some in ancestors])
        began = scipy.sparse.coo_array((np.ones(len(rows), dtype=np.int32), (rows, codes))).tocsr()
        return np.asarray((began @ began.T).astype(np.bool_).toarray())

    def apart(self, models: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Ordered pairs of models that are not relatives."""
        ancestors = [self._ancestors(model) for model in models]
        for (of_a, a), (of_b, b) in permutations(zip(ancestors, models, strict=True), 2):
            if of_a.isdisjoint(of_b):
                yield a, b

    def _ancestors(self, model: str) -> set[str]:
        """The model, those that it began with, and so on."""
        found, waiting = {model}, [model]
        while waiting:
            new = self._parents.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found
