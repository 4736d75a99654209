"""What the largest of several values is by chance: the price of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.special

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, IntArray

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)

BELOW, ABOVE = 4.0, 6.0
"""Standard deviations from the mean beyond which no value is expected."""


def expected_largest(mean: FloatArray, spread: FloatArray, first: IntArray) -> FloatArray:
    """Mean of the largest of independent gamma variables, for groups of neighbouring columns.

    Parameters
    ----------
    mean, spread : (row, column)
        Means, positive, and standard deviations; a variable whose spread is 0 or NaN is its mean.
    first : (group,)
        The first column of each group, ascending, from 0.

    Returns
    -------
    (row, group)
        NaN where a mean is. Within 3 % of the largest standard deviation, where none is above 1.4 times its mean;
        beyond, it is too low.

    References
    ----------
    Wilson and Hilferty (1931), The distribution of chi-square, PNAS 17: cube roots of them are nearly normal.

    Examples
    --------
    The largest of three standard normal variables is 0.846 in the mean:

    >>> mean, spread = np.full((1, 4), 100.0), np.ones((1, 4))
    >>> expected_largest(mean, spread, np.array([0, 3])).round(2)
    array([[100.85, 100.  ]])
    """
    certain = np.maximum.reduceat(mean, first, axis=1)
    if not (spread > 0).any():
        return certain
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
    total = low**3
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        at = low + half * (1 + node)
        deviation = (np.repeat(at, sizes, axis=1) - centre) * scale
        below = np.multiply.reduceat(scipy.special.ndtr(deviation), first, axis=1)
        total += weight * half * 3 * at**2 * (1 - below)
    # Without any spread there is no interval to integrate over.
    return np.where(half > 0, total, certain)
