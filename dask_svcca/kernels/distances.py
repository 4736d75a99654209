"""Distances between examples: of all pairs of them, or of a sample of pairs, and how those of two layers compare.

The distances are found block by block, so that no matrix of examples x examples is ever held. Of a layer one vector is
kept, of the same pairs for all layers, with a mean square of 1: what is asked of two layers is then a product.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from dask_svcca.kernels.chosen import seeded_examples
from dask_svcca.kernels.mantel import KINDS, LEAST, mean_triples

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, IntArray

Metric: TypeAlias = Literal["correlation", "euclidean"]
Form: TypeAlias = Literal["plain", "ranks", "centred"]

MOST_PAIRS = 2**19
"""Pairs of examples that are kept: all of up to 1,024 examples, a sample of those of more."""

MOST_AMONG = 2**10
"""Examples whose distances are all kept for triples of pairs, until these are summed."""

SEED = 20230
"""Of the sample: it is the same for all layers of any zoo with as many examples."""

NOTHING = 1e-14
"""Squared distance, over the squared lengths of both, that is rounding: copies of an example have none."""

ROUNDING = 1e-14
"""What a mean product of two vectors of a mean square of 1 may be from 1 by rounding."""

STEPS = 2.0**34
"""Steps up to the largest distance: distances in the same step have the same rank."""

UNIFORM = 2.0
"""Factor of the squared distances in what says how uniformly examples lie."""


PAIR_NUMBERS = 6
"""See `compare_values`."""


def pair_count(examples: int) -> int:
    """How many pairs of examples are kept.

    Examples
    --------
    >>> pair_count(1024), pair_count(1025)
    (523776, 524288)
    """
    return min(MOST_PAIRS, examples * (examples - 1) // 2)


def is_sampled(examples: int) -> bool:
    """Whether pairs are a sample.

    Examples
    --------
    >>> is_sampled(1024), is_sampled(1025)
    (False, True)
    """
    return pair_count(examples) < examples * (examples - 1) // 2


def value_count(examples: int, form: Form) -> int:
    """How many values are kept: those of the pairs; in the centred form also one of each example."""
    return pair_count(examples) + (examples if form == "centred" else 0)


class ExamplePairs(NamedTuple):
    """Pairs of examples, sorted.

    Attributes
    ----------
    first, second : (pair,)
        The first is less than the second.
    share : float
        Of all pairs.
    """

    first: IntArray
    second: IntArray
    share: float


@lru_cache(maxsize=4)
def example_pairs(examples: int) -> ExamplePairs:
    """All pairs of examples, or a sample of them: one out of each of equally many that follow one another.

    Examples
    --------
    >>> pairs = example_pairs(4)
    >>> pairs.first, pairs.second, pairs.share
    (array([0, 0, 0, 1, 1, 2]), array([1, 2, 3, 2, 3, 3]), 1.0)
    >>> example_pairs(10_000).first.size
    524288
    """
    total = examples * (examples - 1) // 2
    if total <= MOST_PAIRS:
        return ExamplePairs(*np.triu_indices(examples, 1), 1.0)
    draws = np.random.default_rng(SEED).random(MOST_PAIRS)
    edges = np.arange(MOST_PAIRS + 1) * total // MOST_PAIRS
    places = edges[:-1] + (draws * np.diff(edges)).astype(np.int64)
    # Pairs in front of those of each first example.
    before = np.arange(examples, dtype=np.int64)
    before = before * (2 * examples - before - 1) // 2
    first = np.searchsorted(before, places, side="right") - 1
    return ExamplePairs(first, places - before[first] + first + 1, MOST_PAIRS / total)


class Found(NamedTuple):
    """What is kept of the distances of one layer.

    Attributes
    ----------
    values : (value,)
        Of each pair, in the form asked for, with a mean square of 1; in the centred form those of each example with
        itself follow.
    own : tuple of float
        Mean and standard deviation of the distances of the pairs; mean second, third and fourth powers of the values as
        they are rounded; for Euclidean distances the logarithm of the mean of ``exp(-2 d**2)`` over all examples with
        all, themselves included; in the centred form, of the values of examples with themselves, the sum and that of
        the squares; the sum of products of values of pairs of examples that share one; and, unless centred,
        `dask_svcca.kernels.mantel.mean_triples` of all examples or a sample of them.
    """

    values: FloatArray
    own: tuple[float, ...]


class PairDistances:
    """Distances of examples, found while their inner products come in block by block.

    Parameters
    ----------
    examples : int
    metric : {"correlation", "euclidean"}
        Of what the inner products are: of examples without their mean over neurons and of length one, or as they are.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [3.0]])
    >>> distances = PairDistances(3, "euclidean")
    >>> distances.know_lengths(np.square(x).sum(axis=1), 0)
    >>> distances.add(x @ x.T, 0, 0)
    >>> found = distances.found("plain")
    >>> found.own[0], round(found.own[1], 4), found.values.round(4)
    (2.0, 0.8165, array([-1.2247,  1.2247,  0.    ]))
    """

    def __init__(self, examples: int, metric: Metric) -> None:
        self._examples, self._metric = examples, metric
        self._pairs = example_pairs(examples)
        self._distances = np.zeros(len(self._pairs.first))
        self._lengths = np.zeros(examples)
        self._sums = np.zeros(examples)
        self._near = 0.0
        self._chosen = seeded_examples(examples, MOST_AMONG, SEED)
        self._among = np.zeros((len(self._chosen),) * 2)

    def know_lengths(self, squared: FloatArray, first: int) -> None:
        """Take the squared lengths of consecutive examples."""
        self._lengths[first : first + len(squared)] = squared

    def add(self, products: FloatArray, first_row: int, first_column: int) -> None:
        """Take inner products, (row, column), of examples with others before them or with themselves; of none twice."""
        rows = slice(first_row, first_row + products.shape[0])
        columns = slice(first_column, first_column + products.shape[1])
        if self._metric == "correlation":
            distances = np.maximum(1 - products, 0.0)
        else:
            lengths = np.add.outer(self._lengths[rows], self._lengths[columns])
            squares = lengths - 2 * products
            squares[squares < NOTHING * lengths] = 0.0
            near = float(np.exp(-UNIFORM * squares).sum())
            self._near += near if first_row == first_column else 2 * near
            distances = np.sqrt(squares)
        if first_row == first_column:
            np.fill_diagonal(distances, 0.0)
        else:
            self._sums[columns] += distances.sum(axis=0)
        self._sums[rows] += distances.sum(axis=1)
        there, across = (
            slice(*np.searchsorted(self._chosen, (some.start, some.stop)).tolist()) for some in (rows, columns)
        )
        among = distances[np.ix_(self._chosen[there] - rows.start, self._chosen[across] - columns.start)]
        self._among[there, across], self._among[across, there] = among, among.T
        start, stop = np.searchsorted(self._pairs.first, (columns.start, columns.stop))
        second = self._pairs.second[start:stop]
        here = np.flatnonzero((second >= rows.start) & (second < rows.stop))
        first = self._pairs.first[start:stop][here]
        self._distances[start + here] = distances[second[here] - rows.start, first - columns.start]

    def found(self, form: Form, dtype: npt.DTypeLike = np.float64) -> Found:
        """What is kept, once all are there.

        Parameters
        ----------
        dtype : dtype
            Of the values.
        form : {"plain", "ranks", "centred"}
            The distances, or their ranks, equal ones sharing theirs, both less their mean; or the distances less the
            means of both examples.
        """
        distances, n = self._distances, self._examples
        mean = float(distances.mean())
        values = distances - mean
        deviation = float(np.sqrt(np.mean(np.square(values))))
        among = self._among - mean
        if form == "ranks":
            step = STEPS / max(float(distances.max()), 1e-300)
            steps = np.rint(distances * step)
            from scipy.stats import rankdata  # noqa: PLC0415 - to import it takes every process half a second

            values = rankdata(steps)
            steps.sort()
            below, up_to = (
                np.searchsorted(steps, np.rint(self._among * step), side=side) for side in ("left", "right")
            )
            # Those that are in the sample have their ranks.
            among = (below + up_to + 1) / 2 - values.mean()
            values -= values.mean()
        elif form == "centred":
            means = self._sums / n
            overall = float(means.mean())
            values = distances - means[self._pairs.first] - means[self._pairs.second] + overall
            # All pairs count twice, and those that are not in the sample are like those that are.
            values *= np.sqrt(2 / self._pairs.share)
            values = np.concatenate([values, overall - 2 * means])
        size = float(np.sqrt(np.mean(np.square(values))))
        if form == "plain" and size <= float(distances.max()) / STEPS:
            # All as far from each other: what is left is rounding.
            values, size = np.zeros(values.shape), 0.0
        if size > 0:
            values /= size
        values = values.astype(dtype, copy=False)
        wide = values.astype(np.float64, copy=False)
        squares = np.square(wide)
        uniformity = float(np.log(self._near / n**2)) if self._near > 0 else 0.0
        powers = [float(np.mean(power)) for power in (squares, squares * wide, np.square(squares))]
        itself = wide[len(distances) :]
        shared = self._shared_ends(wide[: len(distances)])
        own = mean, deviation, *powers, uniformity, float(itself.sum()), float(itself @ itself), shared
        if form == "centred" or n < LEAST or size == 0:
            return Found(values, (*own, *(0.0,) * KINDS))
        np.fill_diagonal(among, 0.0)
        return Found(values, (*own, *mean_triples(among / size)))

    def _shared_ends(self, values: FloatArray) -> float:
        """Sum of the products of the values of all pairs of pairs that share an example, both orders counted."""
        ends = [np.bincount(end, weights=values, minlength=self._examples) for end in self._pairs[:2]]
        sums = ends[0] + ends[1]
        share, n = self._pairs.share, self._examples
        # The mean of the sample, which was taken off, is off the mean of all by what it varies between samples.
        off = n * (n - 1) * (n - 2) * (1 - share) / len(values)
        # Two pairs are in the sample together as often as each by itself, squared.
        return float(sums @ sums - 2 * (values @ values)) / share**2 + off


def compare_values(a: FloatArray, b: FloatArray, *, powers: bool) -> FloatArray:
    """Sums of products of the values of two groups: what `Found.values` of two layers are compared by.

    Parameters
    ----------
    a, b : (member, value)
    powers : bool
        Whether those are needed that a standard error is made of; they are zero otherwise.

    Returns
    -------
    (a, b, 6)
        Sums of ``u v``, ``u**2 v``, ``u v**2``, ``u**2 v**2``, ``u**3 v`` and ``u v**3``.

    Examples
    --------
    >>> compare_values(np.array([[1.0, -2.0]]), np.array([[3.0, 1.0]]), powers=True)
    array([[[  1.,   7.,   7.,  13.,  -5.,  25.]]])
    """
    sums = np.zeros((len(a), len(b), PAIR_NUMBERS))
    sums[..., 0] = a @ b.T
    if powers:
        squares = np.square(a), np.square(b)
        sums[..., 1] = squares[0] @ b.T
        sums[..., 2] = a @ squares[1].T
        sums[..., 3] = squares[0] @ squares[1].T
        sums[..., 4] = (squares[0] * a) @ b.T
        sums[..., 5] = a @ (squares[1] * b).T
    return sums


def normalised(means: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """Means of products, as `compare_values` has them, of values scaled to a mean square of 1.

    Parameters
    ----------
    means : (..., 6)
    a, b : array
        Mean squares of the values of both.
    """
    scaled = means.copy()
    for place, (times_a, times_b) in enumerate(((1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3))):
        scaled[..., place] /= np.where(a > 0, a, 1) ** (times_a / 2) * np.where(b > 0, b, 1) ** (times_b / 2)
    return scaled


def error_of_product(means: FloatArray, fourth: tuple[FloatArray, FloatArray], values: int, share: float) -> FloatArray:
    """Standard error of a mean product of values, from having drawn some pairs of examples in place of all.

    Parameters
    ----------
    means : (..., 6)
        As `compare_values`, over the number of values.
    fourth : (array, array)
        Means of the fourth powers of the values of both.
    values : int
    share : float
        Of all pairs that were drawn: with all of them there is no error.
    """
    product, both, first, second = (means[..., place] for place in (0, 3, 4, 5))
    # The mean square of u v - r (u**2 + v**2) / 2, by which each pair moves r.
    spread = both - product * (first + second) + np.square(product) / 4 * (fourth[0] + 2 * both + fourth[1])
    return np.asarray(np.sqrt(np.maximum(spread, 0.0) * (1 - share) / values))


def spread_over_orders(
    squares: tuple[FloatArray, FloatArray], shared: tuple[FloatArray, FloatArray], examples: int
) -> FloatArray:
    """Standard deviation, over all orders of the examples of one layer, of the sum of products of two layers' values.

    Parameters
    ----------
    squares : (array, array)
        Sums of the squares of the values of all pairs of examples, of both; the values sum to zero.
    shared : (array, array)
        Sums of products of values of pairs that share an example, both orders counted.
    examples : int
        At least four.

    References
    ----------
    Mantel (1967), The detection of disease clustering and a generalized regression approach, Cancer Research 27.

    Examples
    --------
    Four examples, in all orders:

    >>> from itertools import permutations
    >>> matrix = np.array([[0, 1, -1, -1], [1, 0, 2, -2], [-1, 2, 0, 1], [-1, -2, 1, 0.0]])
    >>> sums = [(matrix * matrix[np.ix_(order, order)]).sum() / 2 for order in map(list, permutations(range(4)))]
    >>> rows = matrix.sum(axis=1)
    >>> squares, shared = (matrix**2).sum() / 2, rows @ rows - (matrix**2).sum()
    >>> spread = spread_over_orders((squares, squares), (shared, shared), 4)
    >>> round(float(np.std(sums)), 6), round(float(spread), 6)
    (5.730038, 5.730038)
    """
    n = float(examples)
    # In matrices each pair is there twice. Those apart from each other make up what is left of a sum of zero.
    apart = [-4 * square - 4 * end for square, end in zip(squares, shared, strict=True)]
    doubled = (
        8 * squares[0] * squares[1] / (n * (n - 1))
        + 4 * shared[0] * shared[1] / (n * (n - 1) * (n - 2))
        + apart[0] * apart[1] / (n * (n - 1) * (n - 2) * (n - 3))
    )
    return np.asarray(np.sqrt(np.maximum(doubled, 0.0)) / 2)


def squared_difference(a: FloatArray, b: FloatArray, means: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean square of the difference of the distances of two layers, and the variance of that square over pairs.

    Parameters
    ----------
    a, b : (number, ...)
        See `Found.own`, of the plain form.
    means : (..., 6)
        As `compare_values`, over the number of values.
    """
    shift, (s, t) = a[0] - b[0], (a[1], b[1])
    product, m21, m12, m22, m31, m13 = np.moveaxis(means, -1, 0)
    apart = np.where(1 - product > ROUNDING, 1 - product, 0.0)
    second = np.square(s - t) + 2 * s * t * apart
    third = s**3 * a[3] - 3 * s**2 * t * m21 + 3 * s * t**2 * m12 - t**3 * b[3]
    fourth = s**4 * a[4] - 4 * s**3 * t * m31 + 6 * s**2 * t**2 * m22 - 4 * s * t**3 * m13 + t**4 * b[4]
    square = np.maximum(np.square(shift) + second, 0.0)
    return square, np.maximum(shift**4 + 6 * shift**2 * second + 4 * shift * third + fourth - np.square(square), 0.0)
