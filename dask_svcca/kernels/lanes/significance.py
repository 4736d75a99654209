"""The test of `dask_svcca.kernels.chance.significant_correlations`, pair by pair, compiled by Numba."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import types

from dask_svcca.kernels.lanes.compiling import compiled

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, IntArray


def count_significant(
    correlations: FloatArray,
    k: IntArray,
    l: IntArray,
    degrees: int,
    deviates: FloatArray,
    doubts: FloatArray,
    excess: FloatArray,
    *,
    is_complex: bool,
) -> IntArray:
    """How many leading correlations are more than chance, by an approximation; -1 where that is not sure.

    Parameters
    ----------
    correlations : (pair, most)
        Descending.
    k, l : (pair,)
    degrees : int
    deviates : (pair,)
        Normal deviates of the levels.
    doubts : (pair,)
        Relative distance from a threshold, over the relative variance to the power 3/2, within which it is not sure.
    excess : (pair,)
    is_complex : bool
    """
    counts = np.empty(len(correlations), dtype=np.int64)
    tails, ratios, margins = (np.empty(correlations.shape[1]) for _ in range(3))
    _count(correlations, k, l, degrees, deviates, doubts, excess, is_complex, tails, ratios, margins, counts)
    return counts


@compiled
def _hold(tails, ratios, margins, count, most, rows, columns, third, doubt, times, is_complex):  # type: ignore[no-untyped-def]  # compiled
    """Sums of squares over thresholds, and margins, of one pair."""
    for i in range(count):
        before = float(i)
        left = most - 2 * before + min(most, max(before, ratios[i]))
        rest_k, rest_l = max(rows - before, 1.0), max(columns - before, 1.0)
        both = rest_k * rest_l
        freedom = left * left - 1 if is_complex else (left + 2) * (left - 1) / 2
        spread = (left - rest_k) * (left - rest_l) / (both * freedom)
        deviation = np.sqrt(spread)
        root = max(0.0, 1 - spread / 9 - third * deviation)
        ratios[i] = tails[i] / (times * both / left * (root * root * root))
        margins[i] = doubt * (spread * deviation)


def _count_each(correlations, k, l, degrees, deviates, doubts, excess, is_complex, tails, ratios, margins, counts):  # type: ignore[no-untyped-def]  # compiled
    """Put a count for each pair, as the NumPy twin does for all at once, where its formulas are explained."""
    width = correlations.shape[1]
    for pair in range(len(correlations)):
        count = min(k[pair], l[pair], width)
        for i in range(width):
            margins[i] = correlations[pair, i] * correlations[pair, i]
        # What is summed up one by one comes first: the rest is done for several correlations at a time.
        rest = 0.0
        for i in range(width - 1, -1, -1):
            rest += margins[i]
            tails[i] = rest
        for i in range(count):
            margins[i] = 1 / max(1e-300, margins[i])
        total = 0.0
        for i in range(count):
            total += margins[i]
            ratios[i] = total - margins[i]
        rows, columns, third, doubt = float(k[pair]), float(l[pair]), deviates[pair] / 3, doubts[pair]
        _hold(tails, ratios, margins, count, float(degrees), rows, columns, third, doubt, excess[pair], is_complex)
        found = count
        for i in range(count):
            if abs(ratios[i] - 1) < margins[i]:
                found = -1
                break
            if not ratios[i] > 1:
                found = i
                break
        counts[pair] = found


def _given(kind: types.Type, axes: int = 1) -> types.Type:
    """An array that is read, with any strides: what is compiled is one for all."""
    return types.Array(kind, axes, "A", readonly=True)


_count = compiled(
    _count_each,
    types.void(
        _given(types.float64, 2),
        _given(types.int64),
        _given(types.int64),
        types.int64,
        *[_given(types.float64)] * 3,
        types.boolean,
        *[types.float64[::1]] * 3,
        types.int64[::1],
    ),
)
