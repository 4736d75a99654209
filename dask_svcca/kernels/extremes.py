"""What the largest of several values is by chance: the price of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.special

from dask_svcca.kernels.orders import chance_of

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, IntArray

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)

BELOW, ABOVE = 4.0, 6.0
"""Standard deviations from the mean beyond which no value is expected."""


def moments_of_largest(mean: FloatArray, spread: FloatArray, first: IntArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the largest of independent gamma variables, for groups of neighbouring columns.

    Parameters
    ----------
    mean, spread : (row, column)
        Means, positive, and standard deviations; a variable whose spread is 0 or NaN is its mean.
    first : (group,)
        The first column of each group, ascending, from 0.

    Returns
    -------
    mean, spread : (row, group)
        NaN where a mean is. The mean is within 3 % of the largest standard deviation, where none is above 1.4 times its
        mean; beyond, it is too low.

    References
    ----------
    Wilson and Hilferty (1931), The distribution of chi-square, PNAS 17: cube roots of them are nearly normal.

    Examples
    --------
    The largest of three standard normal variables is 0.846 in the mean, and varies by 0.748:

    >>> mean, spread = np.full((1, 4), 100.0), np.ones((1, 4))
    >>> [one.round(2) for one in moments_of_largest(mean, spread, np.array([0, 3]))]
    [array([[100.85, 100.  ]]), array([[0.75, 1.  ]])]
    """
    certain = np.maximum.reduceat(mean, first, axis=1)
    if not (spread > 0).any():
        return certain, np.zeros(certain.shape)
    sizes = np.diff([*first, mean.shape[1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        ninth = np.square(spread / mean) / 9
    ninth = np.where(np.isfinite(ninth), ninth, 0.0)
    root = np.cbrt(mean)
    centre, width = root * (1 - ninth), root * np.sqrt(ninth)
    low = np.maximum.reduceat(centre - BELOW * width, first, axis=1)
    high = np.maximum.reduceat(centre + ABOVE * width, first, axis=1)
    # One that does not vary is below each node, or above it.
    scale = 1 / np.maximum(width, 1e-300)
    half = (high - low) / 2
    # Of what is above the lowest: moments about it leave nothing to cancel.
    above, squared = np.zeros(low.shape), np.zeros(low.shape)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        at = low + half * (1 + node)
        deviation = (np.repeat(at, sizes, axis=1) - centre) * scale
        below = np.multiply.reduceat(scipy.special.ndtr(deviation), first, axis=1)
        share = weight * half * 3 * at**2 * (1 - below)
        above += share
        squared += 2 * (at**3 - low**3) * share
    variance = np.maximum(squared - np.square(above), 0.0)
    # Without any spread there is no interval to integrate over.
    return np.where(half > 0, low**3 + above, certain), np.where(half > 0, np.sqrt(variance), 0.0)


def chance_of_a_search(score: FloatArray, mean: FloatArray, variance: FloatArray) -> FloatArray:
    """How often an order of the examples scores as much, for a sum over all that were searched.

    Such a sum is at least the chance that any scores as much, however they depend on each other, if each of its terms
    is. A search asks for small chances, and there the gamma distribution falls too fast for layers of a few strong
    directions: a sum of squares of unequal weights is more skewed. Above the mean it is therefore the larger of that
    and of the inverse Gaussian distribution of the same mean and variance, which is half as skewed again.

    Parameters
    ----------
    score, mean, variance : array
        As of `chance_of`.

    Returns
    -------
    array
        In [0, 1], at least that of `chance_of`.

    References
    ----------
    Chhikara and Folks (1989), The inverse Gaussian distribution.

    Examples
    --------
    >>> given = np.array([0.5, 9.0, 1.0]), np.array([1.0, 3.0, 1.0]), np.array([0.25, 3.0, 0.0])
    >>> chance_of_a_search(*given).round(3)
    array([0.857, 0.01 , 1.   ])
    """
    score, mean, variance = np.broadcast_arrays(score, mean, variance)
    chance = chance_of(score, mean, variance)
    above = (variance > 0) & (score > mean)
    ratio, shape = score[above] / mean[above], mean[above] ** 2 / variance[above]
    near, far = (np.sqrt(shape / ratio) * (ratio + sign) for sign in (-1, 1))
    # With a common factor taken out, nothing overflows where the variance is small.
    scaled = scipy.special.erfcx(near / np.sqrt(2)) - scipy.special.erfcx(far / np.sqrt(2))
    chance[above] = np.maximum(chance[above], np.exp(-np.square(near) / 2) * scaled / 2)
    return chance
