"""How near the nearest neighbours of an example are in two layers, for all examples or a sample of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.kernels.chosen import seeded_examples
from dask_svcca.kernels.neighbours import MOST_EXAMPLES, chance_of_shared, nearest_keys, of_keys

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

DRAWS = 2**17
"""Sets of examples, over all chosen ones, that the mean over orders is found by, or somewhat more."""

AT_ONCE = 2**16
"""Distances of which sets are drawn at a time: they stay in a cache."""


def chosen_count(examples: int) -> int:
    """How many examples are chosen.

    Examples
    --------
    >>> [chosen_count(examples) for examples in (1_000, 10_000, 100_000)]
    [1000, 104, 32]
    """
    return min(examples, max(LEAST_CHOSEN, MOST_NUMBERS // examples))


class NearestOfChosen:
    """The nearest neighbours of chosen examples and their distances to all, found while cosines come in by blocks.

    Parameters
    ----------
    examples, count : int
        Number of examples, and of neighbours of each.
    """

    def __init__(self, examples: int, count: int) -> None:
        self._chosen, self._count = seeded_examples(examples, chosen_count(examples), SEED), count
        self._cosines = np.zeros((len(self._chosen), examples))

    def add(self, cosines: FloatArray, first_row: int, first_column: int) -> None:
        """Take the cosines of consecutive examples with others, (row, column), for both; of none twice."""
        for values, first, across in ((cosines, first_row, first_column), (cosines.T, first_column, first_row)):
            start, stop = np.searchsorted(self._chosen, (first, first + len(values)))
            mine = self._chosen[start:stop] - first
            self._cosines[start:stop, across : across + values.shape[1]] = values[mine]

    def found(self) -> tuple[FloatArray, tuple[float, ...]]:
        """What is kept of a layer, once all cosines are there.

        Returns
        -------
        values : (example + neighbour, chosen example)
            Distances to all examples, and then which are nearest.
        own : tuple of float
            Share of the chosen examples whose last neighbour is as near as the next one, and `sums_of_draws`.
        """
        keys = nearest_keys(self._cosines, 0)
        keys[np.arange(len(self._chosen)), self._chosen] = np.iinfo(np.int64).min
        # One more than is asked for says whether the order of the zoo has decided which is the last.
        last = np.sort(np.partition(keys, -self._count - 1, axis=1)[:, -self._count - 1 :], axis=1)
        nearest = of_keys(last[:, 1:])
        grades = -(-last[:, :2] // MOST_EXAMPLES)
        tied = float(np.mean(grades[:, 0] == grades[:, 1]))
        distances = 1 - self._cosines
        distances[distances < NOTHING] = 0.0
        sums = sums_of_draws(distances, nearest, self._chosen)
        return np.concatenate([distances, nearest], axis=1).T, (tied, *sums.ravel().tolist())


def sums_of_draws(distances: FloatArray, nearest: IntArray, itself: IntArray) -> FloatArray:
    """What the mean over all orders of the examples needs of one layer.

    In any order of the examples of the other layer, what is near to an example there is drawn from all others here. Of
    those that are drawn c are near here as well, and the rest is drawn from what is not near: seeded draws.

    Parameters
    ----------
    distances : (chosen example, example)
    nearest : (chosen example, neighbour)
    itself : (chosen example,)
        Which example each is.

    Returns
    -------
    (3, neighbours + 1)
        By how many are near in both, means over examples and draws: of the mean distance of what is near here, and of
        what is drawn, both over the length of all of these distances; and how often that length is zero. Zero for
        numbers that cannot be.

    Examples
    --------
    >>> distances = np.array([[0.0, 3.0, 4.0, 4.0]])
    >>> sums_of_draws(distances, np.array([[1]]), np.array([0])).round(12)
    array([[0.6, 1. ],
           [0.8, 0. ],
           [0. , 0. ]])
    """
    examples, count = distances.shape[1], nearest.shape[1]
    others = examples - 1 - count
    most = min(count, others)
    sums = np.zeros((3, count + 1))
    rng = np.random.default_rng(SEED)
    width = min(others, max(most, DRAWS // len(distances)))
    rounds = -(-DRAWS // (len(distances) * width))
    length = max(1, AT_ONCE // others)
    for start in range(0, len(distances), length):
        some = slice(start, start + length)
        near = np.take_along_axis(distances[some], nearest[some], axis=1)
        apart = np.ones(distances[some].shape, dtype=bool)
        np.put_along_axis(apart, nearest[some], values=False, axis=1)
        np.put_along_axis(apart, itself[some, np.newaxis], values=False, axis=1)
        far = distances[some][apart].reshape(-1, others)
        mean, squares_near = near.mean(axis=1), np.square(near).sum(axis=1)[:, np.newaxis]
        # Few distances are drawn from many times, which would be as many small steps.
        together = max(1, AT_ONCE // far.size)
        for begun in range(0, rounds, together):
            times = min(together, rounds - begun)
            means, lengths = np.tile(mean, times), np.tile(squares_near, (times, 1))
            # Those that follow one another, around the end, in an order of each example's own.
            order = rng.permuted(np.tile(far, (times, 1)), axis=1)[:, :width]
            drawn, squares = np.zeros(order.shape), np.zeros(order.shape)
            for size in range(most + 1):
                length_squared = lengths + squares
                there = length_squared > 0
                over = np.where(there, 1 / np.sqrt(np.where(there, length_squared, 1)), 0)
                sums[:, count - size] += (
                    means @ over.sum(axis=1),
                    np.vdot(drawn, over) / max(size, 1),
                    there.size - np.count_nonzero(there),
                )
                if size < most:
                    following = np.roll(order, -size, axis=1)
                    drawn += following
                    squares += np.square(following)
    return np.asarray(sums / (rounds * len(distances) * width))


def expected_second_order(a: FloatArray, b: FloatArray, count: int, examples: int) -> FloatArray:
    """Mean of the cosines of `second_order` over all orders of the examples of one of two layers.

    Parameters
    ----------
    a, b : (3, neighbours + 1, ...)
        See `sums_of_draws`; they broadcast.
    count, examples : int

    Examples
    --------
    >>> a = sums_of_draws(np.array([[0.0, 3.0, 4.0, 4.0]]), np.array([[1]]), np.array([0]))
    >>> float(expected_second_order(a, a, 1, 4).round(12))
    0.973333333333
    """
    shared = np.arange(count + 1.0).reshape(-1, *(1,) * (np.ndim(a) - 2))
    # What is near in one layer alone is drawn in the other, and independent of what is drawn here.
    cosines = (count - shared) * (a[0] * b[1] + a[1] * b[0]) + shared * a[0] * b[0] + a[2] * b[2]
    return np.asarray(np.tensordot(chance_of_shared(count, examples), cosines, axes=1))


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
