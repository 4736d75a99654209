"""Distances between examples: of all pairs of them, or of a sample of pairs, and how those of two layers compare.

The distances are found block by block, so that no matrix of examples x examples is ever held. Of a layer one vector is
kept, of the same pairs for all layers, with a mean square of 1: what is asked of two layers is then a product.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
import scipy.stats

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, IntArray

Metric: TypeAlias = Literal["correlation", "euclidean"]
Form: TypeAlias = Literal["plain", "ranks", "centred"]

MOST_PAIRS = 2**19
"""Pairs of examples that are kept: all of up to 1,024 examples, a sample of those of more."""

SEED = 20230
"""Of the sample: it is the same for all layers of any zoo with as many examples."""

NOTHING = 1e-14
"""Squared distance, over the squared lengths of both, that is rounding: copies of an example have none."""

STEPS = 2.0**34
"""Steps up to the largest distance: distances in the same step have the same rank."""

UNIFORM = 2.0
"""Factor of the squared distances in `Found.uniformity`."""


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
    places = np.minimum(((np.arange(MOST_PAIRS) + draws) * (total / MOST_PAIRS)).astype(np.int64), total - 1)
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
    mean, deviation : float
        Of the distances of the pairs.
    fourth : float
        Mean of the fourth powers of the values.
    uniformity : float
        Logarithm of the mean, over all examples and all others with themselves, of ``exp(-2 d**2)``.
    """

    values: FloatArray
    mean: float
    deviation: float
    fourth: float
    uniformity: float


class Distances:
    """Distances of examples, found while their inner products come in block by block.

    Parameters
    ----------
    examples : int
    metric : {"correlation", "euclidean"}
        Of what the inner products are: of examples without their mean over neurons and of length one, or as they are.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [3.0]])
    >>> distances = Distances(3, "euclidean")
    >>> distances.know_lengths(np.square(x).sum(axis=1), 0)
    >>> distances.add(x @ x.T, 0, 0)
    >>> found = distances.found("plain")
    >>> found.mean, round(found.deviation, 4), found.values.round(4)
    (2.0, 0.8165, array([-1.2247,  1.2247,  0.    ]))
    """

    def __init__(self, examples: int, metric: Metric) -> None:
        self._examples, self._metric = examples, metric
        self._pairs = example_pairs(examples)
        self._distances = np.zeros(len(self._pairs.first))
        self._lengths = np.zeros(examples)
        self._sums = np.zeros(examples)
        self._near = 0.0

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
        start, stop = np.searchsorted(self._pairs.first, (columns.start, columns.stop))
        second = self._pairs.second[start:stop]
        here = np.flatnonzero((second >= rows.start) & (second < rows.stop))
        first = self._pairs.first[start:stop][here]
        self._distances[start + here] = distances[second[here] - rows.start, first - columns.start]

    def found(self, form: Form) -> Found:
        """What is kept, once all are there.

        Parameters
        ----------
        form : {"plain", "ranks", "centred"}
            The distances, or their ranks, equal ones sharing theirs, both less their mean; or the distances less the
            means of both examples.
        """
        distances, n = self._distances, self._examples
        mean = float(distances.mean())
        values = distances - mean
        deviation = float(np.sqrt(np.mean(np.square(values))))
        if form == "ranks":
            values = scipy.stats.rankdata(np.rint(distances * (STEPS / max(float(distances.max()), 1e-300))))
            values -= values.mean()
        elif form == "centred":
            means = self._sums / n
            overall = float(means.mean())
            values = distances - means[self._pairs.first] - means[self._pairs.second] + overall
            # All pairs count twice, and those that are not in the sample are like those that are.
            values *= np.sqrt(2 / self._pairs.share)
            values = np.concatenate([values, overall - 2 * means])
        size = float(np.sqrt(np.mean(np.square(values))))
        if size > 0:
            values /= size
        uniformity = float(np.log(self._near / n**2)) if self._near > 0 else -np.inf
        return Found(values, mean, deviation, float(np.mean(np.square(np.square(values)))), uniformity)


def compare_values(a: FloatArray, b: FloatArray, *, powers: bool) -> FloatArray:
    """Sums of products of the values of two groups: what `Found.values` of two layers are compared by.

    Parameters
    ----------
    a, b : (member, value)
    powers : bool
        Whether those are needed that a standard error is made of; they are zero otherwise.

    Returns
    -------
    (a, b, 4)
        Sums of ``u v``, ``u**2 v**2``, ``u**3 v`` and ``u v**3``.
    """
    sums = np.zeros((len(a), len(b), 4))
    sums[..., 0] = a @ b.T
    if powers:
        squares = np.square(a), np.square(b)
        sums[..., 1] = squares[0] @ squares[1].T
        sums[..., 2] = (squares[0] * a) @ b.T
        sums[..., 3] = a @ (squares[1] * b).T
    return sums


def standard_error(means: FloatArray, fourth: tuple[FloatArray, FloatArray], count: int, share: float) -> FloatArray:
    """Standard error of a mean product of values, from having drawn some pairs of examples in place of all.

    Parameters
    ----------
    means : (..., 4)
        As `compare_values`, over the number of values.
    fourth : (array, array)
        Means of the fourth powers of the values of both.
    count : int
        Number of values.
    share : float
        Of all pairs that were drawn: with all of them there is no error.
    """
    r, both, first, second = np.moveaxis(means, -1, 0)
    # The mean square of u v - r (u**2 + v**2) / 2, by which each pair moves the ratio r.
    spread = both - r * (first + second) + np.square(r) / 4 * (fourth[0] + 2 * both + fourth[1])
    return np.asarray(np.sqrt(np.maximum(spread, 0.0) * (1 - share) / count))
