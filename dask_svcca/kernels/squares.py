"""Sums, over directions, of the squared scores of each sample."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from dask_svcca.kernels.pairs import squared_magnitudes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray


def leverages(scores: InexactArray, places: Sequence[slice]) -> FloatArray:
    """Squared norms of samples in the directions of each of several members.

    Parameters
    ----------
    scores : (direction, sample)
    places : sequence of slice
        Directions of each member.

    Returns
    -------
    (member, sample)
        In double precision.

    Examples
    --------
    >>> leverages(np.array([[1.0, 2.0], [3.0, 4.0]]), [slice(0, 2), slice(1, 2)])
    array([[10., 20.],
           [ 9., 16.]])
    """
    found = np.empty((len(places), scores.shape[1]))
    for first, stop in _runs(places):
        size = places[first].stop - places[first].start
        kept = scores[places[first].start : places[stop - 1].stop].reshape(stop - first, size, scores.shape[1])
        rows = found[first:stop]
        # In the precision of the scores: converting them takes four times as long.
        rows[...] = np.einsum("mks,mks->ms", kept.real, kept.real)
        if kept.dtype.kind == "c":
            np.add(rows, np.einsum("mks,mks->ms", kept.imag, kept.imag), out=rows)
    return found


def _runs(places: Sequence[slice]) -> Iterator[tuple[int, int]]:
    """First and stop of members with equally many directions, one behind the other."""
    first = 0
    for number, (place, after) in enumerate(pairwise([*places, slice(-1, -1)]), start=1):
        if after.start != place.stop or after.stop - after.start != place.stop - place.start:
            yield first, number
            first = number


def weighted_squares(
    scores: InexactArray,
    rows: Sequence[IntArray],
    weights: Sequence[Sequence[FloatArray]],
    step: int,
    members: Sequence[int],
    out: Sequence[FloatArray],
) -> None:
    """Weighted sums of the squared scores of each sample, for each of several members.

    Parameters
    ----------
    scores : (direction, sample)
    rows : sequence of (direction,)
        Directions of each member.
    weights : sequence of sequence of (direction,)
        Of the same directions, member by member, as often as sums are asked for.
    step : int
        Samples that are squared at a time.
    members : sequence of int
        Rows of ``out`` of the members.
    out : sequence of (row, sample)
        Each takes the sums by one of the weights.

    Examples
    --------
    >>> scores, out = np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((1, 2))
    >>> weighted_squares(scores, [np.array([0, 1])], [[np.array([10.0, 1.0])]], 1, [0], [out])
    >>> out
    array([[19., 56.]])
    """
    ends = np.cumsum([0, *map(len, rows)])
    summing = [scipy.sparse.csr_array((np.concatenate(one), np.concatenate(rows), ends)) for one in weights]
    for start in range(0, scores.shape[1], step):
        piece = slice(start, start + step)
        squares = squared_magnitudes(scores[:, piece])
        for target, one in zip(out, summing, strict=True):
            target[members, piece] = one @ squares
        del squares
