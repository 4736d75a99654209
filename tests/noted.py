"""A matrix that does not exist but where it is asked for, and notes what is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from collections.abc import Callable


def read_when_used(
    count: int, values: Callable[[np.ndarray, np.ndarray], np.ndarray], read: list[tuple[int, int]]
) -> Any:
    """So many rows and columns, whose values follow from their places."""

    class Noting(xr.backends.BackendArray):  # type: ignore[misc]
        shape, dtype = (count, count), np.dtype("float64")

        def __getitem__(self, key: Any) -> Any:
            def get(places: tuple[Any, ...]) -> np.ndarray:
                rows, columns = (np.arange(count)[place] for place in places)
                read.append((len(rows), len(columns)))
                return values(rows, columns)

            return xr.core.indexing.explicit_indexing_adapter(
                key, self.shape, xr.core.indexing.IndexingSupport.OUTER, get
            )

    return xr.core.indexing.LazilyIndexedArray(Noting())
