"""What independent representations would score, and how many correlations are more than chance."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.special

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, IntArray


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_ANGLES = (_NODES + 1) * (np.pi / 2), _WEIGHTS * (np.pi / 2)
"""Gauss-Legendre nodes and weights on [0, pi]."""


@lru_cache(maxsize=100_000)
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
    small, large = min(k, l), max(k, l)
    if small == 0:
        return 0.0
    if large >= degrees:
        return 1.0
    ones = max(0, small + large - degrees) / small
    low, high = edges_of_correlations(k, l, degrees)
    # In the angle between the edges of the law the integrand is smooth, even where the lower edge is zero.
    nodes, shares = _ANGLES
    squared = (low + high) / 2 + (high - low) / 2 * np.cos(nodes)
    density = ((high - low) / 2 * np.sin(nodes)) ** 2 / (squared * (1 - squared))
    mean = float(shares @ (density * np.sqrt(squared))) / float(shares @ density)
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

NODES = 6
"""Degrees of freedom at which thresholds are computed; between them they follow a polynomial."""

DOUBTFUL = 1e-3
"""Relative distance from such a threshold within which the test itself decides."""

ROOMY = 0.8
"""Share of the degrees of freedom that the directions may take for thresholds to be that smooth: to 1e-4, with all."""


def significant_correlations(
    correlations: FloatArray, k: int, l: int, degrees: int, *, is_complex: bool, level: float = 0.05
) -> IntArray:
    """How many leading correlations are more than chance: Bartlett's sequential test with Lawley's correction.

    The statistic, minus the logarithm of Wilks' lambda of the correlations that remain, is held against a gamma
    distribution of its exact mean and variance under independence. With many more samples than directions that is
    Bartlett's chi-squared; with few, where this takes four of five independent pairs for related (40 directions each,
    100 samples), it keeps the level.

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
    level : float
        Level of each test.

    Returns
    -------
    (pair,)
        Number of leading correlations after which none is significant.

    References
    ----------
    Bartlett (1941), Biometrika 32; Lawley (1959), Tests of significance in canonical analysis, Biometrika 46, eq. 7;
    Anderson (2003), An introduction to multivariate statistical analysis, section 8.4.

    Examples
    --------
    >>> significant_correlations(np.array([[0.9, 0.05], [0.03, 0.02]]), 2, 2, 99, is_complex=False)
    array([1, 0])
    """
    pairs, count = correlations.shape
    if count == 0 or k + l >= degrees:
        return np.zeros(pairs, dtype=np.int64)
    # Some pairs at a time: a dozen arrays are made of the correlations, which then stay in the cache.
    step = max(1, TESTED_AT_ONCE // count)
    parts = (correlations[start : start + step] for start in range(0, pairs, step))
    counts = [_test(part, k, l, degrees, level, half=1.0 if is_complex else 0.5) for part in parts]
    return np.concatenate([np.zeros(0, dtype=np.int64), *counts])


def _test(correlations: FloatArray, k: int, l: int, degrees: int, level: float, *, half: float) -> IntArray:
    """The test of `significant_correlations`, for some of the pairs."""
    pairs, count = correlations.shape
    # A correlation of one has an infinite statistic; the largest double below one has a large one.
    squared = np.clip(correlations**2, 1e-300, 1 - 1e-15)
    before = np.arange(count)
    tail = -np.cumsum(np.log1p(-squared)[:, ::-1], axis=1)[:, ::-1]
    reciprocal = 1 / squared
    inverse = np.cumsum(reciprocal, axis=1) - reciprocal
    # Lawley's correction: degrees of freedom that are left for the remaining directions. Where earlier correlations
    # are almost zero it has no meaning, but the test has ended by then.
    left = degrees - 2 * before + np.clip(inverse, before, degrees)
    doubtful = np.ones(left.shape, dtype=np.bool_)
    significant = doubtful.copy()
    if k + l <= ROOMY * degrees:
        threshold = _thresholds(k, l, degrees, level, half)
        most = threshold[-1]
        for coefficients in threshold[-2::-1]:
            most = most / left + coefficients
        ratio = tail * left / most
        significant = ratio > 1
        # Of those that are close only the ones up to the first that is clearly not significant matter.
        doubtful = (ratio < 1 + DOUBTFUL) & (np.cumsum(ratio < 1 - DOUBTFUL, axis=1) == 0)
    rows, columns = np.nonzero(doubtful)
    if len(rows):
        mean, variance = _moments_of_wilks(
            max(k, l) - columns, min(k, l) - columns, left[rows, columns].astype(np.float64), half
        )
        chance = scipy.special.gammaincc(mean**2 / variance, tail[rows, columns] * mean / variance)
        significant[rows, columns] = chance < level
    return np.asarray(np.argmin(np.column_stack([significant, np.zeros(pairs, dtype=bool)]), axis=1))


@lru_cache(maxsize=10_000)
def _thresholds(k: int, l: int, degrees: int, level: float, half: float) -> FloatArray:
    """From which statistic on the correlations that remain are significant, times the degrees that are left.

    Close to a constant, by Bartlett's approximation: a polynomial in the reciprocal of the degrees that are left.

    Returns
    -------
    (NODES, min(k, l))
        Coefficients for each number of correlations before, the constant first.
    """
    before = np.arange(min(k, l))
    first, last = 1 / (degrees - before), 1 / (2 * degrees - 2 * before)
    nodes = np.cos((np.arange(NODES) + 0.5) * np.pi / NODES)[:, np.newaxis]
    places = (first + last) / 2 + (first - last) / 2 * nodes
    left = 1 / places
    mean, variance = _moments_of_wilks(max(k, l) - before, min(k, l) - before, left, half)
    exact = left * scipy.special.gammainccinv(mean**2 / variance, level) * variance / mean
    powers = (places * degrees)[:, :, np.newaxis] ** np.arange(NODES)
    scaled = np.linalg.solve(powers.transpose(1, 0, 2), exact.T[:, :, np.newaxis])[:, :, 0].T
    return np.asarray(scaled * float(degrees) ** np.arange(NODES)[:, np.newaxis])


def _moments_of_wilks(
    large: IntArray, small: IntArray, degrees: FloatArray, half: float
) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of minus the logarithm of Wilks' lambda under independence.

    Lambda is a product of independent beta variables, one for each direction of the smaller set, with parameters
    ``half * (degrees - large - i)`` and ``half * large`` for ``i = 0, 1, ...``, where ``half`` is 1/2 for real and 1
    for complex samples.
    """
    mean, variance = np.zeros(degrees.shape), np.zeros(degrees.shape)
    for sign, top in ((1, degrees), (-1, degrees - large)):
        # Sums of polygamma functions by the midpoint rule and its first correction: to 0.3 % with one degree to spare.
        high, low = half * (top + 0.5), half * (top - small + 0.5)
        slope, curve = half / 24, -2.0
        mean += sign * (
            (scipy.special.gammaln(high) - scipy.special.gammaln(low)) / half - slope * (_zeta(2, high) - _zeta(2, low))
        )
        variance -= sign * (
            (scipy.special.digamma(high) - scipy.special.digamma(low)) / half
            - slope * curve * (_zeta(3, high) - _zeta(3, low))
        )
    return mean, variance


def _zeta(order: Literal[2, 3], x: FloatArray) -> FloatArray:
    """Hurwitz's zeta function, to 1e-4 of its value from 3/4 on; a tenth of the time that full precision takes.

    By the Euler-Maclaurin formula, two terms on.

    Examples
    --------
    >>> x = np.array([0.75, 2.0, 100.0])
    >>> [bool(np.allclose(_zeta(order, x), scipy.special.zeta(order, x), rtol=1e-4)) for order in (2, 3)]
    [True, True]
    """
    first, second, inverse = 1 / x, 1 / (x + 1), 1 / (x + 2)
    square = inverse * inverse
    if order == 2:
        return first**2 + second**2 + inverse + square * (0.5 + inverse * (1 / 6 - square / 30))
    return first**3 + second**3 + square * (0.5 + inverse * (0.5 + inverse * (0.25 - square / 12)))


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
