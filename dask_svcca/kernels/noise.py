"""Rounding noise: what it adds to each neuron, and the directions that rise above it.

Rounding is relative to a value, so that every neuron has a floor of its own. One floor for all, that of the largest
neuron, would take a neuron a thousand times smaller for noise where activations are in half precision.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray

DOUBLE = float(np.finfo(np.float64).eps)

SCATTER_SUFFICES = math.sqrt(DOUBLE)
"""Relative precision of activations from which on their scatter, in double precision, shows all that they hold."""


SPARE = 64
"""Times its precision that a computed activation may be off, where that leaves enough digits.

A neuron in which large terms cancel has the rounding of those terms, not of what is left of them. Nothing stored tells
it from a neuron that is small.
"""

ENOUGH = 2.0**-20
"""Relative precision down to which `SPARE` is taken from activations."""


def precision_of_means(epsilon: float, count: int) -> float:
    """Relative precision of means of rounded values, in double precision themselves.

    Errors of several values cancel out in part, so that their mean is finer than any of them.

    Parameters
    ----------
    epsilon : float
        Relative precision of the values.
    count : int
        How many are averaged, at least.

    Returns
    -------
    float
        Not below `SCATTER_SUFFICES` where the values are not: what they do not show, more of them do not either.

    Examples
    --------
    >>> precision_of_means(2**-7, 64), precision_of_means(2**-7, 1) == 2**-7
    (0.0009765625, True)
    """
    least = SCATTER_SUFFICES if epsilon > SCATTER_SUFFICES else DOUBLE
    return max(epsilon / math.sqrt(count), min(epsilon, least))


def neuron_noise(variances: FloatArray, squares: FloatArray, samples: int, epsilon: float) -> FloatArray:
    """Largest scatter that rounding may give a direction, in each neuron.

    Rounding a value x to relative precision ``epsilon`` is off by at most ``epsilon * abs(x)``, one time in two to
    either side. Over n samples of p neurons such errors give no direction more than
    ``epsilon**2 * (sqrt(n) + sqrt(p))**2 / 12`` times the mean square. The floor is above that: for a layer that was
    computed in the precision that it is stored in, sums of products have added noise of their own, and ``p`` times the
    square of ``epsilon`` was seen to cover it. It is never more than ``epsilon`` of the variance for that reason.
    Neurons in which sums cancel have more: single precision is taken to be 8 times and double 64 times as coarse, so
    that a layer of few directions keeps its rank when it is rotated.

    Parameters
    ----------
    variances : (neuron,)
        Sum of squares about the mean.
    squares : (neuron,)
        Sum of squares, mean included.
    samples : int
    epsilon : float
        Relative precision of the activations: 1.2e-7 for float32.

    Returns
    -------
    (neuron,)
        Zero only where all values are.

    References
    ----------
    Marchenko and Pastur (1967), for the largest singular value of noise.

    Examples
    --------
    >>> neuron_noise(np.array([100.0, 1e-4]), np.array([100.0, 1e-4]), samples=100, epsilon=1e-3)
    array([2.e-04, 2.e-10])
    """
    neurons = int(np.count_nonzero(variances))
    edge = (1 + (neurons / samples) ** 0.5) ** 2 / 6
    computed = max(epsilon, min(SPARE * epsilon, ENOUGH))
    stored = max(edge, 1.0) * squares
    terms = np.maximum(neurons * variances, stored)
    if computed > epsilon:
        # What cancels in one neuron may be the mean of others.
        terms = np.maximum(terms, float(stored.sum() - max(edge, 1.0) * variances.sum()) / max(1, neurons))
    cancelled = np.minimum(computed**2 * terms, epsilon * variances)
    return np.asarray(np.maximum(cancelled, epsilon**2 * stored))


def live_noise(
    variances: FloatArray, mean: InexactArray, samples: int, multiplicity: IntArray, epsilon: float
) -> FloatArray:
    """Noise of each neuron, as `neuron_noise` has it; zero for those that do not vary by more than that.

    The transform to spatial frequencies spreads the rounding of a channel evenly: in each it is that of their mean.

    Parameters
    ----------
    variances : (block, neuron)
        Sum of squares, in the first block about the mean.
    mean : (neuron,)
        In the first block.
    samples : int
    multiplicity : (block,)
        How often a block counts.
    epsilon : float

    Examples
    --------
    >>> one = np.ones(1, dtype=int)
    >>> live_noise(np.array([[100.0, 1e-9]]), np.array([0.0, 10.0]), 100, one, epsilon=1e-6)
    array([2.e-10, 0.e+00])
    """
    average = multiplicity @ variances / multiplicity.sum()
    noise = neuron_noise(average, average + samples * np.abs(mean) ** 2 / multiplicity.sum(), samples, epsilon)
    return np.where(variances.max(axis=0) > noise, noise, 0.0)


def is_noise(values: FloatArray, noise: FloatArray, rounding: float) -> bool:
    """Whether variances are noise, whichever neurons their directions are of.

    Parameters
    ----------
    values : (direction,)
    noise : (neuron,)
        Zero for neurons that take no part.
    rounding : float
        How far values may be off in double precision.

    Examples
    --------
    >>> noise = np.array([1e-3, 0.0, 1e-6])
    >>> [is_noise(np.array([value]), noise, 1e-9) for value in (1e-7, 1e-5)], is_noise(np.array([1e-7]), noise, 1e-4)
    ([True, False], False)
    """
    least = float(noise.min(initial=np.inf, where=noise > 0))
    return bool((values <= least).all() and least >= rounding)


def scatter_above_noise(scatter: InexactArray, noise: FloatArray) -> InexactArray:
    """Factor of the part of a scatter that is above noise.

    In units of its noise every neuron has the same floor, 1; the directions above it span what the samples hold.

    Parameters
    ----------
    scatter : (neuron, neuron)
        Hermitian; overwritten.
    noise : (neuron,)
        Zero for neurons that take no part.

    Returns
    -------
    (neuron, direction)
        ``factor @ factor.conj().T`` is the scatter without noise. In the memory of the scatter.

    Examples
    --------
    Two copies of a large neuron, but for their rounding, and a small neuron:

    >>> noise = np.array([1.0, 1.0, 1e-6])
    >>> scatter = np.array([[1e4, 1e4, 0], [1e4, 1e4 + 0.1, 0], [0, 0, 0.05]])
    >>> scatter_above_noise(scatter, noise).shape
    (3, 2)
    """
    unit = np.sqrt(noise)
    scale = np.divide(1.0, unit, out=np.zeros_like(unit), where=unit > 0)
    scatter *= scale
    scatter *= scale[:, np.newaxis]
    # LAPACK takes columns: the transpose is the conjugate, and is overwritten without a copy.
    ascending, vectors = scipy.linalg.eigh(scatter.T, overwrite_a=True, check_finite=False)
    first = len(ascending) - above_noise(ascending[::-1], len(noise) * DOUBLE)
    # In the memory of the scatter: LAPACK is to work beside it.
    factor = scatter.T[:, first:]
    np.conjugate(vectors[:, first:], out=factor)
    factor *= np.sqrt(ascending[first:])
    factor *= unit[:, np.newaxis]
    return factor


def rounding_of_rows(rows: InexactArray, samples: int) -> float:
    """Relative rounding, in double precision, of singular values of rows that stand for some samples."""
    return float(max(*rows.shape, samples**0.5)) * DOUBLE


def rows_above_noise(rows: InexactArray, noise: FloatArray, samples: int) -> InexactArray:
    """Orthonormal basis, over the rows, of what is above noise; see `scatter_above_noise`.

    Parameters
    ----------
    rows : (row, neuron)
        The samples, up to a rotation of them.
    noise : (neuron,)
    samples : int
        Number of samples.

    Returns
    -------
    (row, direction)

    Examples
    --------
    >>> rows = np.array([[100.0, 100, 0], [0, 0.1, 0], [0, 0, 0.2]])
    >>> np.abs(rows_above_noise(rows, np.array([1.0, 1.0, 1e-6]), samples=3)).round(2)
    array([[0., 1.],
           [0., 0.],
           [1., 0.]])
    """
    unit = np.sqrt(noise)
    scale = np.divide(1.0, unit, out=np.zeros_like(unit), where=unit > 0)
    # LAPACK takes columns: the transpose is overwritten without a copy, and its right vectors are the left ones.
    scaled: Any = (rows * scale).T
    _, singular, left = scipy.linalg.svd(scaled, full_matrices=False, overwrite_a=True, check_finite=False)
    # Values, not their squares: rounding in double precision is that much smaller.
    count = above_noise(singular**2, rounding_of_rows(rows, samples) ** 2)
    return np.asarray(left[:count].T)


def above_noise(values: FloatArray, rounding: float) -> int:
    """How many of some variances, in units of the noise and descending, are above it.

    Parameters
    ----------
    values : (direction,)
    rounding : float
        Share of the largest below which values are not told from rounding in double precision.

    Examples
    --------
    >>> above_noise(np.array([1e8, 2.0, 0.3]), 1e-12), above_noise(np.array([1e8, 2.0, 0.3]), 1e-7)
    (2, 1)
    """
    return int((values > max(1.0, rounding * float(values.max(initial=0.0)))).sum())


def singular_directions(factor: InexactArray) -> tuple[Any, Any]:
    """Left singular vectors, and squared singular values, of a factor, which is overwritten.

    Parameters
    ----------
    factor : (neuron, direction)

    Returns
    -------
    vectors : (neuron, direction)
    spectrum : (direction,)
        Descending.
    """
    if not factor.size:
        return np.zeros((len(factor), 0), factor.dtype), np.zeros(0)
    vectors, singular, _ = scipy.linalg.svd(
        np.asarray(factor), full_matrices=False, overwrite_a=True, check_finite=False
    )
    return vectors, singular**2
