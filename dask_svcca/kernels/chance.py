"""What independent representations would score, and how many correlations are more than chance."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.special

from dask_svcca.kernels.lanes import significance_counter

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, IntArray


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_COSINES, _SHARES = np.cos((_NODES + 1) * (np.pi / 2)), _WEIGHTS * np.sin((_NODES + 1) * (np.pi / 2)) ** 2
"""Cosines of Gauss-Legendre nodes on [0, pi], and the nodes' weights times their squared sines."""


def expected_correlation(k: int, l: int, degrees: int) -> float:
    """Mean canonical correlation of two independent Gaussian representations: Wachter's law.

    Parameters
    ----------
    k, l : int
        Directions.
    degrees : int
        Degrees of freedom: samples, less one for centring.

    Returns
    -------
    float
        Mean over ``min(k, l)`` correlations, in [0, 1]. The law is that of many directions; with one or two it is a
        few percent high.

    References
    ----------
    Wachter (1980), The limiting empirical measure of multiple discriminant ratios, Annals of Statistics 8.

    Examples
    --------
    >>> round(expected_correlation(100, 50, 1999), 4)
    0.2092
    """
    return _expected_correlation(min(k, l), max(k, l), degrees)


@lru_cache(maxsize=100_000)
def _expected_correlation(small: int, large: int, degrees: int) -> float:
    if small == 0:
        return 0.0
    if large >= degrees:
        return 1.0
    ones = max(0, small + large - degrees) / small
    low, high = edges_of_correlations(small, large, degrees)
    # In the angle between the edges of the law the integrand is smooth, even where the lower edge is zero.
    squared = (low + high) / 2 + (high - low) / 2 * _COSINES
    density = _SHARES / (squared * (1 - squared))
    mean = float(density @ np.sqrt(squared)) / float(density.sum())
    return float(ones + (1 - ones) * mean)


def edges_of_correlations(k: int, l: int, degrees: int) -> tuple[float, float]:
    """Between which the squared canonical correlations of independent representations lie, by Wachter's law.

    Examples
    --------
    >>> low, high = edges_of_correlations(100, 50, 1999)
    >>> round(low, 4), round(high, 4)
    (0.0044, 0.1406)
    """
    x, y = k / degrees, l / degrees
    across, back = np.sqrt(x * (1 - y)), np.sqrt(y * (1 - x))
    return float((across - back) ** 2), float((across + back) ** 2)


def spurious_correlations(k: int, l: int, degrees: int) -> int:
    """How many correlations are 1 whatever the data: two subspaces of dimensions k and l must intersect in so many.

    Examples
    --------
    >>> spurious_correlations(60, 50, 99), spurious_correlations(10, 10, 99)
    (11, 0)
    """
    return min(k, l, max(0, k + l - degrees))


TESTED_AT_ONCE = 2**13
"""Correlations that are tested at a time."""

LEAST_DOUBT, CUBIC_DOUBT = 0.015, 0.01
"""Relative distance from an approximate threshold within which the law itself decides, over the relative variance to
the power 3/2: a constant, and a factor of ``3 z - z**3``, with z the normal deviate of the level.

Wilson and Hilferty's approximation is off by ``(3 z - z**3) / 108`` of large shapes; of all from 1/2 on, the smallest
that there is, and at levels up to a half, by at most 0.93 times as much as this.
"""


def significant_correlations(
    correlations: FloatArray,
    k: int,
    l: int,
    degrees: int,
    *,
    is_complex: bool,
    level: FloatArray | float = 0.05,
    overlap: FloatArray | float = 1.0,
    many: bool = False,
) -> IntArray:
    """How many leading correlations are more than chance: a sequential test of the sum of the squares that remain.

    The sum, Pillai's trace, is held against a gamma distribution of its exact mean and variance in independent Gaussian
    samples, with Lawley's correction for the correlations before. Where directions have nothing to do with each other,
    but a few samples are extreme in both representations, these carry the sum: mean and standard deviation grow
    with the sum over samples of the products of both leverages, for which ``overlap`` makes up. Unlike the logarithm of
    Wilks' lambda the trace is bounded, so that one extreme sample that both have by chance does not decide alone.

    Parameters
    ----------
    correlations : (pair, min(k, l))
        Descending.
    k, l : int
        Directions.
    degrees : int
        Degrees of freedom.
    is_complex : bool
        Complex samples have twice the degrees.
    level : float or (pair,)
        Level of each test.
    overlap : float or (pair,)
        Sum over the samples of the products of the two leverages, over that of unrelated samples, ``k * l / samples``.
        Counts as 1 where it is less.
    many : bool
        Whether there are so many in all that compiled code is worth to be loaded: see `dask_svcca.kernels.lanes`.

    Returns
    -------
    (pair,)
        Number of leading correlations after which none is significant. Those that are 1 whatever the data do not count.

    References
    ----------
    Pillai (1955), Some new test criteria in multivariate analysis, Annals of Mathematical Statistics 26; Lawley (1959),
    Tests of significance in canonical analysis, Biometrika 46, eq. 7.

    Examples
    --------
    >>> correlations = np.array([[0.9, 0.05], [0.03, 0.02], [0.4, 0.02]])
    >>> significant_correlations(correlations, 2, 2, 99, is_complex=False)
    array([1, 0, 1])

    Three times as much is asked of a pair whose extreme samples coincide:

    >>> significant_correlations(correlations, 2, 2, 99, is_complex=False, overlap=3.0)
    array([1, 0, 0])
    """
    if spurious := spurious_correlations(k, l, degrees):
        # The others are those between what is orthogonal to either.
        correlations, k, l = correlations[:, spurious:], degrees - l, degrees - k
    pairs, count = correlations.shape
    if count == 0:
        return np.zeros(pairs, dtype=np.int64)
    levels, excess = (np.broadcast_to(one, pairs) for one in (level, np.maximum(overlap, 1.0)))
    sizes = np.broadcast_to(np.array([k, l]), (pairs, 2))
    return _counts(correlations, sizes, degrees, levels, excess, is_complex, many)


def significant_of_sizes(
    correlations: FloatArray,
    sizes: IntArray,
    degrees: int,
    *,
    level: FloatArray | float = 0.05,
    overlap: FloatArray | float = 1.0,
    many: bool = False,
) -> IntArray:
    """The same of pairs of several sizes, of samples that are real.

    Parameters
    ----------
    correlations : (pair, most)
        Zero beyond those that a pair has.
    sizes : (pair, 2)
        Directions of both sides.
    degrees, level, overlap, many
        See `significant_correlations`.

    Examples
    --------
    >>> correlations = np.array([[0.9, 0.05], [0.4, 0.0]])
    >>> significant_of_sizes(correlations, np.array([[2, 2], [1, 1]]), 99)
    array([1, 1])
    """
    pairs = len(correlations)
    counts = np.zeros(pairs, dtype=np.int64)
    levels, excess = (np.broadcast_to(one, pairs) for one in (level, overlap))
    forced = sizes.sum(axis=1) > degrees
    for k, l in np.unique(sizes[forced], axis=0).tolist():
        alike = np.flatnonzero((sizes == (k, l)).all(axis=1))
        some = correlations[alike, : min(k, l)]
        counts[alike] = significant_correlations(
            some, k, l, degrees, is_complex=False, level=levels[alike], overlap=excess[alike], many=many
        )
    rest = np.flatnonzero(~forced)
    # Those that are forced may have more, for which samples leave the others no degrees of freedom.
    most = int(sizes[rest].min(axis=1).max(initial=0))
    if most:
        found = correlations[rest, :most], sizes[rest], degrees, levels[rest], np.maximum(excess[rest], 1.0)
        counts[rest] = _counts(*found, is_complex=False, many=many)
    return counts


def _counts(
    correlations: FloatArray,
    sizes: IntArray,
    degrees: int,
    levels: FloatArray,
    excess: FloatArray,
    is_complex: bool,
    many: bool,
) -> IntArray:
    """The test for all of some pairs; sizes are (pair, 2), levels and excess (pair,)."""
    counts: IntArray = np.full(len(correlations), -1, dtype=np.int64)
    counter = significance_counter() if many else None
    if counter is not None:
        counts = counter(correlations, *sizes.T, degrees, *_deviates(levels), excess, is_complex=is_complex)
    # Where compiled code is not sure, the law decides.
    rest = np.flatnonzero(counts < 0)
    # Some pairs at a time: a dozen arrays are made of the correlations, which then stay in the cache.
    step = max(1, TESTED_AT_ONCE // correlations.shape[1])
    for start in range(0, len(rest), step):
        part = rest[start : start + step]
        k, l = sizes[part].T[:, :, np.newaxis]
        own = levels[part, np.newaxis], excess[part, np.newaxis]
        counts[part] = _test(correlations[part], k, l, degrees, *own, is_complex)
    return counts


def _deviates(levels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Normal deviates of levels, and how far from a threshold, over the spread to the power 3/2, the law decides."""
    deviates = scipy.special.ndtri(levels)
    return deviates, LEAST_DOUBT + CUBIC_DOUBT * np.abs(3 * deviates - deviates**3)


def _test(
    correlations: FloatArray,
    k: IntArray,
    l: IntArray,
    degrees: int,
    level: FloatArray,
    excess: FloatArray,
    is_complex: bool,
) -> IntArray:
    """The test of `significant_correlations`, for some of the pairs; what each has is (pair, 1)."""
    pairs, count = correlations.shape
    squared = correlations**2
    before = np.arange(count)
    tail = np.cumsum(squared[:, ::-1], axis=1)[:, ::-1]
    reciprocal = 1 / np.maximum(squared, 1e-300)
    inverse = np.cumsum(reciprocal, axis=1) - reciprocal
    # Lawley's correction: degrees of freedom that are left for the remaining directions. Where earlier correlations
    # are almost zero it has no meaning, but the test has ended by then.
    left = degrees - 2 * before + np.clip(inverse, before, degrees)
    # Where pairs have unequal numbers of directions, there may be none left.
    rest_k, rest_l = np.maximum(k - before, 1), np.maximum(l - before, 1)
    mean = excess * (rest_k * rest_l) / left
    freedom = left**2 - 1 if is_complex else (left + 2) * (left - 1) / 2
    # Of the variance over the squared mean: the reciprocal of the shape of the gamma distribution.
    spread = (left - rest_k) * (left - rest_l) / (rest_k * rest_l * freedom)
    # Wilson and Hilferty's approximation.
    deviation = np.sqrt(spread)
    deviate, doubt = _deviates(level)
    root = np.maximum(1 - spread / 9 - deviate / 3 * deviation, 0)
    # A product: as a power it would take a quarter of the time of the test.
    ratio = tail / (mean * (root * root * root))
    significant = ratio > 1
    # Of those that are close only the ones up to the first that is clearly not significant matter.
    margin = doubt * (spread * deviation)
    doubtful = (np.abs(ratio - 1) < margin) & (np.cumsum(ratio < 1 - margin, axis=1) == 0)
    if doubtful.any():
        shape = 1 / spread[doubtful]
        chance = scipy.special.gammaincc(shape, shape * tail[doubtful] / mean[doubtful])
        significant[doubtful] = chance < np.broadcast_to(level, doubtful.shape)[doubtful]
    significant &= before < np.minimum(k, l)
    return np.asarray(np.argmin(np.column_stack([significant, np.zeros(pairs, dtype=bool)]), axis=1))


def multiple_correlation(directions: float, examples: int) -> float:
    """Multiple correlation of a normal variable with directions that it has nothing to do with, in expectation.

    Its square is beta distributed, as Fisher (1928) found.

    Parameters
    ----------
    directions : float
        At most ``examples - 1``.
    examples : int

    Examples
    --------
    >>> y = np.random.default_rng(0).normal(size=(20_000, 4))
    >>> simulated = np.mean(np.linalg.norm(y[:, :2], axis=1) / np.linalg.norm(y, axis=1))
    >>> round(float(simulated), 2), round(multiple_correlation(2, 5), 2)
    (0.67, 0.67)
    """
    half, whole = directions / 2, (examples - 1) / 2
    logarithm = scipy.special.gammaln([half + 0.5, whole, half, whole + 0.5]) @ np.array([1, 1, -1, -1])
    return float(np.exp(logarithm))
