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
        Mean of the first block. Only this block is centred: over all translations of the input, the mean of any other
        spatial frequency is zero.
    scatter : (block, neuron, neuron)
        Sum over samples of the centred outer products ``conj(x) x.T``; Hermitian. Divided by ``count`` it is the
        covariance.
    """

    count: int
    mean: InexactArray
    scatter: InexactArray


IN_CACHE = 2**15
"""Numbers that are converted to double precision and summed at a time."""


class NeuronSums:
    """Sum, sum of squares, least and greatest value of each neuron, chunk by chunk, in double precision.

    Parameters
    ----------
    neurons : int

    Attributes
    ----------
    count : int
    total, squares, low, high : (neuron,)

    Examples
    --------
    >>> sums = NeuronSums(2)
    >>> sums.add(np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
    >>> sums.total, sums.squares, sums.high
    (array([4., 8.]), array([10., 40.]), array([3., 6.]))
    """

    def __init__(self, neurons: int) -> None:
        self.count = 0
        self.total, self.squares = np.zeros(neurons), np.zeros(neurons)
        self.low, self.high = np.full(neurons, np.inf), np.full(neurons, -np.inf)
        self._room = np.empty((max(1, IN_CACHE // neurons), neurons))
        self._ones = np.ones(len(self._room))

    def add(self, samples: InexactArray) -> None:
        """Take some samples, (sample, neuron), real."""
        self.count += len(samples)
        for start in range(0, len(samples), len(self._room)):
            part = samples[start : start + len(self._room)]
            wide, ones = self._room[: len(part)], self._ones[: len(part)]
            wide[...] = part
            # Products with ones: BLAS sums twice as fast.
            self.total += ones @ wide
            np.square(wide, out=wide)
            self.squares += ones @ wide
            np.minimum(self.low, part.min(axis=0), out=self.low)
            np.maximum(self.high, part.max(axis=0), out=self.high)


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
    _, blocks, neurons = samples.shape
    scatter = np.zeros((blocks, neurons, neurons), dtype=np.result_type(samples.dtype, np.float64))
    return add_chunk(Moments(0, np.zeros(neurons, dtype=scatter.dtype), scatter), samples)


def add_chunk(before: Moments, samples: InexactArray) -> Moments:
    """Moments of earlier samples and of one more chunk; the scatter before is overwritten by the new one.

    Beyond the scatter it takes one block of it, and one block of the chunk in double precision: the scatter may be as
    large as all else that a task holds.

    Parameters
    ----------
    before : Moments
        Its scatter is overwritten.
    samples : (sample, block, neuron)

    Examples
    --------
    >>> x = np.arange(12.0).reshape(6, 1, 2) ** 2
    >>> whole, both = moments(x), add_chunk(moments(x[:2]), x[2:])
    >>> np.allclose(both.scatter, whole.scatter), both.count
    (True, 6)
    """
    scatter, dtype = before.scatter, before.scatter.dtype
    first = np.array(samples[:, 0], dtype=dtype)
    mean = first.mean(axis=0)
    first -= mean
    # The rounding of a mean is one error common to all samples: left in, a constant neuron would seem to vary.
    rest = first.mean(axis=0)
    first -= rest
    product = np.empty_like(scatter[0])
    for index in range(len(scatter)):
        block = first if index == 0 else samples[:, index].astype(dtype, copy=False)
        # For real samples it is an array times its own transpose, of which BLAS computes only half.
        np.matmul(block.conj().T, block, out=product)
        scatter[index] += product
    return _shifted(before, len(samples), mean + rest, product)


def merge(first: Moments, *others: Moments) -> Moments:
    """Moments of disjoint sets of samples from the moments of each, which stay as they are.

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
    total = Moments(first.count, first.mean, first.scatter.copy())
    room = np.empty_like(total.scatter[0])
    for other in others:
        np.add(total.scatter, other.scatter, out=total.scatter)
        total = _shifted(total, other.count, other.mean, room)
    return total


def _shifted(before: Moments, count: int, mean: InexactArray, room: InexactArray) -> Moments:
    """Moments that include samples whose scatter, about their own mean, was added; ``room`` is a block to use."""
    if not before.count:
        return Moments(count, mean, before.scatter)
    total = before.count + count
    shift = mean - before.mean
    np.multiply.outer(shift.conj(), shift, out=room)
    room *= before.count * count / total
    before.scatter[0] += room
    return Moments(total, before.mean + shift * (count / total), before.scatter)
