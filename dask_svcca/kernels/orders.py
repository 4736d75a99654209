"""What a pair scores over all orders of the examples, from a few numbers of each of its layers.

The score is ``S = sum_ij W_a[i, j] W_b[i, j]``: W is the inner products of a layer's centred samples, or the projection
onto its directions. Over the orders of the examples of one layer its mean and variance follow from three sums of each
layer, so that a null for all pairs is paid per layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
import scipy.special

from dask_svcca.kernels.chance import edges_of_correlations

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray

LEAST_SAMPLES = 4
"""With fewer, the formula divides by zero."""

ROUNDING = 3e-5
"""Standard deviation, over the mean, up to which all orders score the same.

Of scores in single precision as many directions as the samples allow leave up to 1e-5 of rounding. Where orders truly
differ by as little, the score is what the numbers of directions and samples make it.
"""

ROUNDING_OF_FEW = 2e-3
"""The same, times the number of samples, of fewer than 70 of them.

A variance is a difference, whose terms single precision leaves 1e-7 of where there are four samples, and less where
there are more. Of directions that are one fewer than the samples allow, the deviation is the square root of 2 over the
square of the number of samples, which is more.
"""

LEAST_SKEWNESS = 1e-3
"""Up to which a distribution is taken for normal: p-values of 1e-7 differ by 3 %."""

ANGLES = 512
"""Points at which a function of correlations is taken to expand it in cosines."""

_COSINES, _ORDERS = np.cos((np.arange(ANGLES) + 0.5) * (np.pi / ANGLES)), np.arange(1, ANGLES // 2)


@dataclass(frozen=True, slots=True)
class KernelSums:
    """Three sums of a symmetric matrix W whose rows sum to zero, (sample, sample). Arrays of any shape broadcast.

    Attributes
    ----------
    trace : array
    squares : array
        Sum of the squares of all of its numbers.
    diagonal : array
        Sum of the squares of those on its diagonal; NaN where it is not known.

    Examples
    --------
    >>> x = np.array([[1.0], [-1.0], [0.0]])
    >>> sums = KernelSums.of(x)
    >>> float(sums.trace), float(sums.squares), float(sums.diagonal)
    (2.0, 4.0, 2.0)
    """

    trace: FloatArray
    squares: FloatArray
    diagonal: FloatArray

    @classmethod
    def of(cls, samples: FloatArray) -> KernelSums:
        """Those of the inner products of some samples, (sample, direction), centred."""
        products = samples.T @ samples
        lengths = np.square(samples).sum(axis=1)
        sums = np.trace(products), np.vdot(products, products), lengths @ lengths
        return cls(*map(np.asarray, sums))


def moments_over_orders(a: KernelSums, b: KernelSums, samples: int) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of ``sum_ij W_a[i, j] W_b[i, j]`` over all orders of the samples of b.

    Parameters
    ----------
    a, b : KernelSums
    samples : int

    Returns
    -------
    mean, variance : array
        The variance is zero where it is rounding, and NaN with fewer than four samples.

    References
    ----------
    Kazi-Aoual, Hitier, Sabatier and Lebreton (1995), Refined approximations to permutation tests for multivariate
    inference, Computational Statistics and Data Analysis 20.

    Examples
    --------
    Ten pairs of directions that have nothing to do with each other:

    >>> rng = np.random.default_rng(0)
    >>> x, y = (np.linalg.qr(z - z.mean(axis=0))[0] for z in rng.normal(size=(2, 100, 10)))
    >>> mean, variance = moments_over_orders(KernelSums.of(x), KernelSums.of(y), 100)
    >>> scores = [np.square(x.T @ y[rng.permutation(100)]).sum() for _ in range(2000)]
    >>> [round(float(value), 2) for value in (mean, np.mean(scores), variance**0.5, np.std(scores))]
    [1.01, 1.01, 0.13, 0.13]
    """
    n = float(samples)
    mean = np.asarray(a.trace * b.trace / (n - 1))
    if samples < LEAST_SAMPLES:
        return mean, np.full(mean.shape, np.nan)
    spread = [(n - 1) * one.squares - np.square(one.trace) for one in (a, b)]
    peaks = [n * (n + 1) * one.diagonal - (n - 1) * (np.square(one.trace) + 2 * one.squares) for one in (a, b)]
    variance = (
        2 * spread[0] * spread[1] / ((n - 1) ** 2 * (n + 1) * (n - 2))
        + peaks[0] * peaks[1] / (n * (n + 1) * (n - 1) * (n - 2) * (n - 3))
    )  # fmt: skip
    rounding = np.maximum(ROUNDING, ROUNDING_OF_FEW / n)
    return mean, np.where(variance > np.square(rounding * mean), variance, np.abs(variance) * 0.0)


def chance_of(score: FloatArray, mean: FloatArray, variance: FloatArray) -> FloatArray:
    """How often an order of the examples scores as much: by the gamma distribution of that mean and variance.

    Returns
    -------
    array
        In [0, 1]: 1 where all orders score the same.

    Examples
    --------
    >>> chance_of(np.array([0.5, 9.0, 1.0]), np.array([1.0, 3.0, 1.0]), np.array([0.25, 3.0, 0.0])).round(3)
    array([0.857, 0.006, 1.   ])
    """
    score, mean, variance = np.broadcast_arrays(score, mean, variance)
    known = ~(variance <= 0)
    chance = np.ones(score.shape)
    ratio = mean[known] / variance[known]
    chance[known] = scipy.special.gammaincc(ratio * mean[known], ratio * np.maximum(score[known], 0.0))
    return chance


def chance_of_skewed(deviations: FloatArray, skewness: FloatArray) -> FloatArray:
    """How often a variable is as many standard deviations above its mean: of Pearson's third kind, skewed to the right.

    Parameters
    ----------
    deviations, skewness : array
        One that is skewed to the left counts as normal: the other kind ends somewhere, and beyond it nothing would be
        possible.

    Examples
    --------
    >>> chance_of_skewed(np.array([1.6449, 1.6449, 3.0, -5.0]), np.array([0.0, 1.0, 1.0, 1.0])).round(4)
    array([0.05  , 0.0679, 0.0103, 1.    ])
    """
    deviations, skewness = np.broadcast_arrays(deviations, skewness)
    chance = np.asarray(scipy.special.ndtr(-deviations))
    skewed = skewness > LEAST_SKEWNESS
    shape = 4 / np.square(skewness[skewed])
    chance[skewed] = scipy.special.gammaincc(shape, np.maximum(shape + np.sqrt(shape) * deviations[skewed], 0.0))
    return chance


def least_chance(examples: float) -> float:
    """Smallest share of all orders of some examples: that of one of them, 1 / n!.

    A fitted distribution has less where there are few.

    Examples
    --------
    >>> round(1 / least_chance(5)), least_chance(1000)
    (120, 0.0)
    """
    return float(np.exp(-scipy.special.gammaln(examples + 1.0)))


def no_rarer_than_one_order(chance: FloatArray, examples: float) -> FloatArray:
    """P-values that fitted distributions give, none below the share of one order of the examples.

    Examples
    --------
    >>> no_rarer_than_one_order(np.array([1e-9, 0.5, np.nan]), 4).round(4)
    array([0.0417, 0.5   ,    nan])
    """
    return np.maximum(chance, least_chance(examples))


def spread_of_correlations(k: int, l: int, degrees: int) -> float:
    """Standard deviation of the sum of the canonical correlations over that of the sum of their squares.

    For independent Gaussian representations of many directions: their squared correlations are a Jacobi ensemble, in
    which the variance of a sum of f of each is half of the sum of ``j c_j**2``, where ``c_j`` are the coefficients of f
    in ``cos(j x)`` between the edges of the law.

    Parameters
    ----------
    k, l : int
        Directions.
    degrees : int
        Degrees of freedom.

    Returns
    -------
    float
        Zero where all correlations are 1 whatever the data.

    References
    ----------
    Johansson (1998), On fluctuations of eigenvalues of random Hermitian matrices, Duke Mathematical Journal 91.

    Examples
    --------
    >>> round(spread_of_correlations(10, 10, 99), 2)
    1.49
    """
    return _spread_of_correlations(min(k, l), max(k, l), degrees)


@lru_cache(maxsize=100_000)
def _spread_of_correlations(small: int, large: int, degrees: int) -> float:
    if small == 0 or large >= degrees:
        return 0.0
    low, high = edges_of_correlations(small, large, degrees)
    values = np.sqrt((low + high) / 2 + (high - low) / 2 * _COSINES)
    coefficients = scipy.fft.dct(values)[_ORDERS] / ANGLES
    return float(np.sqrt(_ORDERS @ np.square(coefficients)) / ((high - low) / 2))
