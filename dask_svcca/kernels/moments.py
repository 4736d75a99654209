"""Streaming moments: count, mean and centred scatter, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dask_svcca.kernels._types import InexactArray


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and scatter of a set of samples, in double precision.

    Attributes
    ----------
    count : int
        Number of samples.
    mean : (neuron,)
        Of the first block. Only this block is centred: over all translations of the input, the mean of any other
        spatial frequency is zero.
    scatter : (block, neuron, neuron)
        Sum over samples of the centred outer products ``conj(x) x.T``; Hermitian. Divided by ``count`` it is the
        covariance.
    """

    count: int
    mean: InexactArray
    scatter: InexactArray


def moments(samples: InexactArray) -> Moments:
    """Moments of one chunk.

    Parameters
    ----------
    samples : (sample, block, neuron)
        At least one sample; real or complex, of any precision.

    Returns
    -------
    Moments
        In double precision, whatever the input's.

    Examples
    --------
    >>> chunk = moments(np.array([[[1.0, 2.0]], [[3.0, 6.0]]]))
    >>> chunk.mean
    array([2., 4.])
    >>> chunk.scatter
    array([[[2., 4.],
            [4., 8.]]])
    """
    count, blocks, neurons = samples.shape
    dtype = np.result_type(samples.dtype, np.float64)
    first = np.array(samples[:, 0], dtype=dtype)
    mean = first.mean(axis=0)
    first -= mean
    # The rounding of a mean is one error common to all samples: left in, a constant neuron would seem to vary.
    rest = first.mean(axis=0)
    first -= rest
    scatter = np.empty((blocks, neurons, neurons), dtype=dtype)
    for index in range(blocks):
        block = first if index == 0 else samples[:, index].astype(dtype, copy=False)
        # Of real samples, it is an array times its own transpose, of which BLAS computes only half.
        np.matmul(block.conj().T, block, out=scatter[index])
    return Moments(count, mean + rest, scatter)


def merge(first: Moments, second: Moments) -> Moments:
    """Moments of two disjoint sets of samples from the moments of each.

    Centred sums are merged, never raw sums of squares: with a mean a million times the spread, those would keep no
    digit of the covariance.

    References
    ----------
    Chan, Golub and LeVeque (1979), Updating formulae and a pairwise algorithm for computing sample variances, eq. 2.1.

    Examples
    --------
    >>> x = np.arange(12.0).reshape(6, 1, 2) ** 2
    >>> both, whole = merge(moments(x[:2]), moments(x[2:])), moments(x)
    >>> np.allclose(both.scatter, whole.scatter), both.count
    (True, 6)
    """
    count = first.count + second.count
    shift = second.mean - first.mean
    scatter = first.scatter + second.scatter
    scatter[0] += np.outer(shift.conj(), shift) * (first.count * second.count / count)
    return Moments(count, first.mean + shift * (second.count / count), scatter)
