"""Cells in an order in which those that are alike stand beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def leaf_order(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Order of the leaves of a tree of the rows of a matrix, by average linkage of their distances.

    Parameters
    ----------
    values : (row, column)
        What is not a number counts as the mean of its column.

    Examples
    --------
    >>> leaf_order(np.array([[0.0, 0.0], [1.0, 1.0], [0.1, 0.1]])).tolist()
    [0, 2, 1]
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # noqa: PLC0415 - only this order needs it
    from scipy.spatial.distance import pdist  # noqa: PLC0415

    finite = np.isfinite(values)
    counts = np.maximum(finite.sum(axis=0), 1)
    means = np.where(finite, values, 0.0).sum(axis=0) / counts
    rows = np.where(finite, values, means)
    if len(rows) < 3:
        return np.arange(len(rows))
    found = leaves_list(linkage(pdist(rows), "average", optimal_ordering=True))
    # A tree may be drawn from either end: the first row stays in the first half.
    places = np.asarray(found, dtype=np.int64)
    return places[::-1] if 2 * int(np.argmin(places)) >= len(places) else places
