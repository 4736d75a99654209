"""How near the nearest neighbours of an example are in two layers, for all examples or a sample of them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.kernels.neighbours import nearest_keys, of_keys

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray

MOST_NUMBERS = 2**20
"""Cosines that are kept: those of up to 1,024 examples with all; of more, those of some with all."""

LEAST_CHOSEN = 32
"""Examples whose cosines are kept at least."""

SEED = 20231
"""Of the sample: it is the same for all layers of any zoo with as many examples."""

NOTHING = 1e-12
"""Distance by cosine that is rounding: copies of an example have none."""


def chosen_count(examples: int) -> int:
    """How many examples are chosen.

    Examples
    --------
    >>> [chosen_count(examples) for examples in (1_000, 10_000, 100_000)]
    [1000, 104, 32]
    """
    return min(examples, max(LEAST_CHOSEN, MOST_NUMBERS // examples))


@lru_cache(maxsize=16)
def chosen_examples(examples: int) -> IntArray:
    """Examples whose neighbours are compared, in ascending order: all, or a seeded sample."""
    count = chosen_count(examples)
    if count == examples:
        return np.arange(examples)
    return np.sort(np.random.default_rng(SEED).choice(examples, count, replace=False))


class NearestOfChosen:
    """The nearest neighbours of chosen examples and their distances to all, found while cosines come in by blocks.

    Parameters
    ----------
    examples, count : int
        Number of examples, and of neighbours of each.
    """

    def __init__(self, examples: int, count: int) -> None:
        self._chosen, self._count = chosen_examples(examples), count
        self._cosines = np.zeros((len(self._chosen), examples))

    def add(self, cosines: FloatArray, first_row: int, first_column: int) -> None:
        """Take the cosines of consecutive examples with others, (row, column), for both; of none twice."""
        for values, first, across in ((cosines, first_row, first_column), (cosines.T, first_column, first_row)):
            start, stop = np.searchsorted(self._chosen, (first, first + len(values)))
            mine = self._chosen[start:stop] - first
            self._cosines[start:stop, across : across + values.shape[1]] = values[mine]

    @property
    def found(self) -> FloatArray:
        """Distances to all examples, and then which are nearest, (example + neighbour, chosen example)."""
        keys = nearest_keys(self._cosines, 0)
        keys[np.arange(len(self._chosen)), self._chosen] = np.iinfo(np.int64).min
        nearest = of_keys(np.partition(keys, -self._count, axis=1)[:, -self._count :])
        distances = 1 - self._cosines
        distances[distances < NOTHING] = 0.0
        return np.concatenate([distances, nearest], axis=1).T


def second_order(a: FloatArray, b: FloatArray, wanted: BoolArray, count: int) -> FloatArray:
    """Cosines of the distances from examples to all that are near to them in either of two layers.

    Parameters
    ----------
    a, b : (member, chosen example, example + neighbour)
        Distances, and then neighbours: see `NearestOfChosen.found`.
    wanted : (a, b)
        Pairs to compare.
    count : int
        Neighbours of each example.

    Returns
    -------
    (a, b, 2)
        Sum over the chosen examples of the cosines, and of their squares. The cosine is 1 where all that is near to an
        example are copies of it in both layers, and 0 where it is so in one.

    Examples
    --------
    >>> a, b = np.array([[[0.0, 0.3, 0.4, 1.0]]]), np.array([[[0.0, 0.3, 0.4, 2.0]]])
    >>> second_order(a, b, np.ones((1, 1), dtype=bool), 1).round(12)
    array([[[1., 1.]]])
    """
    sums = np.zeros((*wanted.shape, 2))
    distances = [side[..., :-count] for side in (a, b)]
    nearest = [side[..., -count:].astype(np.int64) for side in (a, b)]
    for one, other in np.argwhere(wanted):
        mine, others = nearest[0][one], nearest[1][other]
        # Each example of both counts once.
        new = (others[:, :, np.newaxis] != mine[:, np.newaxis, :]).all(axis=2)
        times = np.concatenate([np.ones(mine.shape), new], axis=1)
        near = np.concatenate([mine, others], axis=1)
        first, second = (
            np.take_along_axis(side[number], near, axis=1).astype(np.float64)
            for side, number in zip(distances, (one, other), strict=True)
        )
        cosines = _cosines(first, second, times)
        sums[one, other] = cosines.sum(), cosines @ cosines
    return sums


def _cosines(a: FloatArray, b: FloatArray, times: FloatArray) -> npt.NDArray[np.float64]:
    both, first, second = (np.einsum("ij,ij,ij->i", x, y, times) for x, y in ((a, b), (a, a), (b, b)))
    sizes = np.sqrt(first) * np.sqrt(second)
    nothing = np.where(first == second, 1.0, 0.0)
    return np.asarray(np.where(sizes > 0, np.minimum(both / np.where(sizes > 0, sizes, 1), 1.0), nothing))
