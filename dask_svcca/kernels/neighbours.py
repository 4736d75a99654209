"""Nearest neighbours of examples by cosine, and how many of them two representations share.

A cosine is one product of two examples of length one. Which neighbours an example has is found block by block, so that
no matrix of examples x examples is ever held; of a representation only their indices are kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.special

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray

GRADES = 2.0**34
"""Steps of a cosine between 0 and 1: examples whose cosines are in the same step are equally near.

Rounding in double precision is a hundred-thousandth of a step, so that copies of an example are equally near.
"""

MOST_EXAMPLES = 2**28
"""Examples that can be told apart beside the step of a cosine in 64 bits."""

EXAMPLES_AT_ONCE = 2**12
"""Examples whose neighbours are compared at a time: they stay in a cache."""


class Nearest:
    """The nearest neighbours of each example, found while cosines come in block by block.

    Of examples that are equally near the one with the lower index comes first, whatever the order of the blocks.

    Parameters
    ----------
    examples : int
        At most `MOST_EXAMPLES`.
    count : int
        Number of neighbours of each example, fewer than there are others.

    Examples
    --------
    >>> unit = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.6, 0.8]])
    >>> nearest = Nearest(4, 2)
    >>> nearest.add(unit @ unit.T, 0, 0)
    >>> nearest.indices
    array([[2, 3],
           [2, 3],
           [3, 1],
           [2, 1]], dtype=int32)
    """

    def __init__(self, examples: int, count: int) -> None:
        # What is nearer has the higher key, and of what is equally near the lower index.
        self._keys = np.full((examples, count), np.iinfo(np.int64).min)

    def add(self, cosines: FloatArray, first_row: int, first_column: int) -> None:
        """Take the cosines of consecutive examples with others, (row, column); of none twice."""
        count = self._keys.shape[1]
        rows, columns = cosines.shape
        keys = nearest_keys(cosines, first_column)
        overlap = np.arange(max(first_row, first_column), min(first_row + rows, first_column + columns))
        keys[overlap - first_row, overlap - first_column] = np.iinfo(np.int64).min
        if columns > count:
            keys = np.partition(keys, columns - count, axis=1)[:, columns - count :]
        known = self._keys[first_row : first_row + rows]
        both = np.concatenate([known, keys], axis=1)
        known[...] = np.partition(both, both.shape[1] - count, axis=1)[:, both.shape[1] - count :]

    @property
    def indices(self) -> IntArray:
        """Neighbours of each example, nearest first, (example, neighbour)."""
        return of_keys(self._keys).astype(np.int32)

    @property
    def tied(self) -> float:
        """Share of the examples whose last two neighbours are equally near: which comes first, the order decides."""
        last = np.partition(self._keys, 1, axis=1)[:, :2]
        grades = -(-last // MOST_EXAMPLES)
        return float(np.mean(grades[:, 0] == grades[:, 1]))


def nearest_keys(cosines: FloatArray, first_column: int) -> npt.NDArray[np.int64]:
    """Whole numbers, (row, column): those of nearer examples are higher, and of equally near ones that of the first."""
    keys: npt.NDArray[np.int64] = np.rint(cosines * GRADES).astype(np.int64)
    keys *= MOST_EXAMPLES
    keys -= np.arange(first_column, first_column + cosines.shape[1])
    return keys


def of_keys(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The examples that keys are of, nearest first."""
    return np.asarray(-np.sort(keys, axis=1)[:, ::-1] % MOST_EXAMPLES)


def neighbour_sums(indices: IntArray) -> tuple[float, float]:
    """What the spread of shared neighbours over all orders of the examples needs of one representation.

    Parameters
    ----------
    indices : (example, neighbour)

    Returns
    -------
    mutual : float
        Pairs (i, j) such that each is a neighbour of the other, both orders counted.
    squares : float
        Sum over examples of the squares of how often each is a neighbour.

    Examples
    --------
    >>> neighbour_sums(np.array([[1], [0], [1]]))
    (2.0, 5.0)
    """
    examples, count = indices.shape
    rows = np.repeat(np.arange(examples, dtype=np.int64), count)
    columns = indices.ravel().astype(np.int64)
    mutual = np.intersect1d(rows * examples + columns, columns * examples + rows, assume_unique=True).size
    times = np.bincount(columns, minlength=examples).astype(np.float64)
    return float(mutual), float(times @ times)


def count_shared(shared: IntArray, a: IntArray, b: IntArray, wanted: BoolArray) -> None:
    """Count of how many examples two representations share how many neighbours, for all pairs of two groups.

    Parameters
    ----------
    shared : (a, b, neighbours + 1)
        Number of examples by how many neighbours are shared: these are added to it.
    a, b : (member, neighbour, example)
        Neighbours of the same examples, some in a row.
    wanted : (a, b)
        Pairs to count.

    Examples
    --------
    >>> shared = np.zeros((1, 1, 3), dtype=np.int64)
    >>> a, b = np.array([[[1, 0, 0], [2, 2, 1]]]), np.array([[[1, 0, 3], [3, 2, 2]]])
    >>> count_shared(shared, a, b, np.ones((1, 1), dtype=bool))
    >>> shared
    array([[[1, 1, 1]]])
    """
    count, length = a.shape[1:]
    small = np.min_scalar_type(count)
    for start in range(0, length, EXAMPLES_AT_ONCE):
        some = slice(start, start + EXAMPLES_AT_ONCE)
        for member, other in np.argwhere(wanted):
            mine = a[member, :, some]
            found = np.zeros(mine.shape[1], dtype=small)
            # No example is a neighbour twice.
            for neighbour in b[other, :, some]:
                found += (mine == neighbour).any(axis=0)
            shared[member, other] += np.bincount(found, minlength=count + 1)


@lru_cache(maxsize=1024)
def chance_of_shared(count: int, examples: int) -> FloatArray:
    """How likely an example shares how many neighbours with one of another order: hypergeometric, (neighbours + 1,).

    Over all orders of the examples of one representation, its neighbours of an example are any of the others, all
    sets alike.

    Examples
    --------
    >>> chance_of_shared(1, 5).round(12)
    array([0.75, 0.25])
    """
    shared = np.arange(count + 1.0)
    others = examples - 1

    def log_choose(n: float, k: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            ways = scipy.special.gammaln(n + 1) - scipy.special.gammaln(k + 1) - scipy.special.gammaln(n - k + 1)
        return np.where((k >= 0) & (k <= n), ways, -np.inf)

    logarithm = (
        log_choose(count, shared)
        + log_choose(others - count, count - shared)
        - log_choose(others, np.array(float(count)))
    )
    return np.asarray(np.exp(logarithm))


def spread_of_shared(
    mutual: tuple[FloatArray, FloatArray], squares: tuple[FloatArray, FloatArray], count: int, examples: int
) -> FloatArray:
    """Standard deviation, over all orders of the examples of one of two, of the number of neighbours they share.

    Parameters
    ----------
    mutual, squares : (array, array)
        Those of `neighbour_sums`, of both sides; they broadcast.
    count : int
        Neighbours of each example.
    examples : int
        At least four.

    References
    ----------
    Mantel (1967), The detection of disease clustering and a generalized regression approach, Cancer Research 27: the
    variance for matrices that are not symmetric.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a, b = (np.argsort(rng.random((30, 30)) + 9 * np.eye(30))[:, :3] for _ in range(2))
    >>> sums = np.array([neighbour_sums(a), neighbour_sums(b)])
    >>> round(float(spread_of_shared(tuple(sums[:, 0]), tuple(sums[:, 1]), 3, 30)), 1)
    2.8
    """
    n, k = float(examples), float(count)
    total = n * k
    pairs, triples = n * (n - 1), n * (n - 1) * (n - 2)
    # Pairs of neighbours (i, j) and (i, k); (j, i) and (k, i); (i, j) and (j, k), which come in two ways.
    rows = total * (k - 1)
    columns = [one - total for one in squares]
    chains = [total * k - one for one in mutual]
    apart = [
        total**2 - total - both - rows - column - 2 * chain
        for both, column, chain in zip(mutual, columns, chains, strict=True)
    ]
    second = (
        (total**2 + mutual[0] * mutual[1]) / pairs
        + (rows**2 + columns[0] * columns[1] + 2 * chains[0] * chains[1]) / triples
        + apart[0] * apart[1] / (triples * (n - 3))
    )
    return np.asarray(np.sqrt(np.maximum(second - (total**2 / pairs) ** 2, 0.0)))
