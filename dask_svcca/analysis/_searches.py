"""What is searched in blocks of pairs of layers, one block for each two models, and what such a search finds by chance.

``first`` has the first row, and the first column, of each block.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.kernels.extremes import chance_of_a_search, moments_of_largest

if TYPE_CHECKING:
    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray


def sums(values: BoolArray, first: tuple[IntArray, IntArray]) -> IntArray:
    """Number of true ones in each block."""
    return np.add.reduceat(np.add.reduceat(values.astype(np.int64), first[0], axis=0), first[1], axis=1)


def widest(spread: FloatArray, first: tuple[IntArray, IntArray]) -> FloatArray:
    """Largest of the standard deviations of each block that are known; 0 without any."""
    known = np.where(np.isfinite(spread), spread, 0.0)
    return np.asarray(np.maximum.reduceat(np.maximum.reduceat(known, first[0], axis=0), first[1], axis=1))


def of_all(values: FloatArray, shape: tuple[int, ...], first: tuple[IntArray, IntArray]) -> FloatArray:
    """The value of each block, in all of its entries."""
    sizes = [np.diff([*starts, end]) for starts, end in zip(first, shape, strict=True)]
    return np.repeat(np.repeat(values, sizes[0], axis=0), sizes[1], axis=1)


def mean_over_rows(values: FloatArray, first: IntArray) -> FloatArray:
    """Means of groups of neighbouring rows."""
    return np.add.reduceat(values, first, axis=0) / np.diff([*first, len(values)])[:, np.newaxis]


def searched(values: FloatArray, first: tuple[IntArray, IntArray], kind: str) -> FloatArray:
    """The best of each block, or the mean of the best of each of its rows; NaN where one of them is.

    Examples
    --------
    >>> values = np.array([[0.9, 0.2, 0.1], [0.5, 0.4, 0.3]])
    >>> both = np.array([0]), np.array([0, 2])
    >>> searched(values, both, "best"), searched(values, both, "maximum")
    (array([[0.7, 0.2]]), array([[0.9, 0.3]]))
    """
    best = np.maximum.reduceat(values, first[1], axis=1)
    return np.maximum.reduceat(best, first[0], axis=0) if kind == "maximum" else mean_over_rows(best, first[0])


def best_by_chance(
    mean: FloatArray, spread: FloatArray, first: tuple[IntArray, IntArray]
) -> tuple[FloatArray, FloatArray]:
    """Mean over the rows of a block of what their best is by chance, and the most that this mean may vary by."""
    expected, deviation = moments_of_largest(mean, spread, first[1])
    # However rows depend on each other, their mean varies by no more than they do on average.
    return mean_over_rows(expected, first[0]), mean_over_rows(deviation, first[0])


def chance_of_largest(
    found: FloatArray, mean: FloatArray, spread: FloatArray, first: tuple[IntArray, IntArray]
) -> FloatArray:
    """How often the largest of each block is as large by chance: no more than this, however its entries depend."""
    each = chance_of_a_search(of_all(found, mean.shape, first), mean, np.square(spread))
    return np.minimum(np.add.reduceat(np.add.reduceat(each, first[0], axis=0), first[1], axis=1), 1.0)


def largest_of_blocks(mean: FloatArray, spread: FloatArray, first: tuple[IntArray, IntArray]) -> FloatArray:
    """What is the largest of each block by chance."""
    ends = [*first[0], len(mean)]
    found = []
    for start, stop in pairwise(ends):
        # The layers of all rows behind each other: those of one checkpoint of b stay together.
        group = np.tile(np.repeat(np.arange(len(first[1])), np.diff([*first[1], mean.shape[1]])), stop - start)
        wide = np.argsort(group, kind="stable")
        flat = [np.asarray(each[start:stop]).ravel()[np.newaxis, :] for each in (mean, spread)]
        groups = first[1] * (stop - start)
        found.append(moments_of_largest(flat[0][:, wide], flat[1][:, wide], groups)[0][0])
    return np.stack(found)
