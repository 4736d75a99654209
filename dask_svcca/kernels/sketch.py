"""A sketch: a few thousand numbers of a layer, whose products with another's estimate linear CKA.

For the Gram matrix K of centred samples, coordinate f of a sketch is sum_ij K_ij u_f(i) v_f(j), where u_f and v_f are
complex numbers of modulus 1 that hang on the sample alone. K is never formed: the numbers of a neuron are hashed twice
into buckets, and one product of their Fourier transforms gives all coordinates at once.

References
----------
Pham and Pagh (2013), Fast and scalable polynomial kernels via explicit feature maps, KDD: the transform of two hashes.
Wacker, Ohana and Filippone (2023), Complex-to-real sketches for tensor products, AISTATS: why the numbers are complex.
Li, Hastie and Church (2006), Improving random projections using marginal information, COLT: `estimate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.fft
import scipy.sparse

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray

    Words = npt.NDArray[np.uint64]

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)

TRANSFORMED: Final = 64
"""Neurons whose buckets are transformed at a time: what they take stays in the cache."""


def mixed(words: Words) -> Words:
    """Finaliser of SplitMix64: each bit of a word decides about half of the bits of the result.

    Parameters
    ----------
    words : (...) uint64

    Examples
    --------
    >>> [hex(word) for word in mixed(np.array([0, 1], dtype=np.uint64)).tolist()]
    ['0x0', '0x5692161d100b05e5']
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)), dtype=np.uint64)


def seeded(words: Words, seed: int) -> Words:
    """Words of examples under a seed.

    Parameters
    ----------
    words : (example,) uint64
        XXH3 (64 bits) of the text of each id.
    seed : int
        From 0 to 2**64 - 1.
    """
    return mixed(words ^ mixed(np.array([seed], dtype=np.uint64) + GOLDEN))


def at(words: Words, places: IntArray) -> Words:
    """Words of samples that are a place of an example: a position, or an axis of a spatial frequency.

    Parameters
    ----------
    words : (sample,) uint64
    places : (sample,) or scalar int
        Negative ones count from 2**64.
    """
    counted = np.atleast_1d(places).astype(np.int64).view(np.uint64)
    return mixed(words + (counted + np.uint64(1)) * GOLDEN)


@dataclass(frozen=True, slots=True, eq=False)
class Hashes:
    """Where samples go, twice.

    Attributes
    ----------
    bucket : (2, sample) int
        Bucket of each, from 0 to half the size of the sketch.
    turn : (2, sample) int
        Quarter turns of each in the complex plane, from 0 to 3.
    half : int
        Number of buckets: half the size.
    """

    bucket: IntArray
    turn: IntArray
    half: int

    @classmethod
    def of(cls, words: Words, size: int) -> Hashes:
        """Hashes of samples by their words, (sample,) uint64, for sketches of a size."""
        half = size // 2
        sides = mixed(words + np.array([[1], [2]], dtype=np.uint64) * GOLDEN)
        bucket = ((sides >> np.uint64(32)) * np.uint64(half)) >> np.uint64(32)
        return cls(bucket.astype(np.int64), (sides & np.uint64(3)).astype(np.int64), half)

    def part(self, start: int, stop: int) -> Hashes:
        """Those of some consecutive samples."""
        return Hashes(self.bucket[:, start:stop], self.turn[:, start:stop], self.half)


def counts(samples: FloatArray, hashes: Hashes) -> FloatArray:
    """Sums of the samples in each bucket, turned: they add up over samples.

    Parameters
    ----------
    samples : (sample, neuron)
        Real, in single precision.
    hashes : Hashes

    Returns
    -------
    (2, size, neuron)
        For both hashes; the real parts of all buckets, then the imaginary parts.
    """
    sample = np.arange(len(samples) + 1)
    sums = []
    for bucket, turn in zip(hashes.bucket, hashes.turn, strict=True):
        sign = (1 - 2 * (turn >> 1)).astype(np.float32)
        row = bucket + hashes.half * (turn & 1)
        shape = (2 * hashes.half, len(samples))
        sums.append(scipy.sparse.csc_array((sign, row, sample), shape=shape) @ samples)
    return np.stack(sums)


def coordinates(sums: FloatArray, imaginary: FloatArray | None = None) -> InexactArray:
    """Coordinates of a sketch from the sums in its buckets, not divided by anything.

    Parameters
    ----------
    sums : (2, size, neuron)
        From `counts`, of centred samples.
    imaginary : (2, size, neuron), optional
        The same of the imaginary parts of the samples, where they are complex.

    Returns
    -------
    (size / 2,)
        Complex, in double precision.
    """
    half = sums.shape[1] // 2
    total = np.zeros(half, dtype=np.complex128)
    for start in range(0, sums.shape[2], TRANSFORMED):
        neurons = slice(start, start + TRANSFORMED)
        parts = [_complex(side[:, neurons], half) for side in sums]
        if imaginary is not None:
            more = [_complex(side[:, neurons], half) for side in imaginary]
            # The Gram matrix is x times its conjugate: one side takes that.
            parts = [parts[0] + 1j * more[0], parts[1] - 1j * more[1]]
        first, second = (scipy.fft.fft(part, axis=1, overwrite_x=True) for part in parts)
        total += np.einsum("df,df->f", first, second)
    return total


def _complex(sums: FloatArray, half: int) -> InexactArray:
    """Buckets along the last axis, as complex numbers."""
    made = np.empty((sums.shape[1], half), dtype=np.complex64)
    made.real, made.imag = sums[:half].T, sums[half:].T
    return made


def finished(total: InexactArray, norm: float) -> FloatArray:
    """The numbers that are stored: coordinates over the norm of the Gram matrix, real and imaginary parts in turns.

    Parameters
    ----------
    total : (size / 2,)
        Sum of what `coordinates` gives.
    norm : float
        Frobenius norm of the Gram matrix.

    Returns
    -------
    (size,)
        In single precision; the sum of squares is 1 but for the error of the sketch.
    """
    scaled: InexactArray = total / (norm * np.sqrt(len(total)))
    return np.asarray(scaled.astype(np.complex64).view(np.float32))


def concentration(sketch: FloatArray) -> FloatArray:
    """How much of a Gram matrix lies in few directions: near tr(K**4) / tr(K**2)**2, 1 for a single one.

    Parameters
    ----------
    sketch : (..., size)

    Returns
    -------
    (...)
        In [0, 1], from how unequal the coordinates are.
    """
    squares = np.square(sketch, dtype=np.float64)
    power = squares[..., 0::2] + squares[..., 1::2]
    mean = power.mean(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip((np.square(power).mean(axis=-1) / np.square(mean) - 2) / 2, 0.0, 1.0))


def estimate(products: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """Estimates of CKA from products of sketches: the likeliest values, given that true sums of squares are 1.

    Where two layers are alike, their sketches err alike, and their sums of squares show how. A product alone has an
    error of sqrt((1 + c**2) / size), the estimate one of (1 - c**2) / sqrt((1 + c**2) size), and none for a layer
    with itself.

    Parameters
    ----------
    products : (...)
        Sums of products of two sketches.
    a, b : (...)
        Sums of squares of either.

    Returns
    -------
    (...)
        In [-1, 1], of the type of the products.

    Examples
    --------
    >>> estimate(np.array([0.5, 1.1]), np.array([1.0, 1.1]), np.array([1.0, 1.1])).round(3)
    array([0.5, 1. ])
    """
    total = a + b - 1
    value = products / np.sqrt(a * b)
    # The root of value**3 - products * value**2 + total * value - products, near which it begins.
    for _ in range(2):
        apart = value - products
        rest = apart * value
        rest += total
        slope = apart + value
        slope *= value
        slope += rest
        rest *= value
        rest -= products
        rest /= slope
        value = value - rest
    return np.asarray(np.clip(value, -1.0, 1.0))


def standard_error(cka: FloatArray, a: FloatArray, b: FloatArray, size: int) -> FloatArray:
    """Standard errors of `estimate`.

    Coordinates of a layer of many directions are like complex Gaussian numbers; of a single one, like products of two.
    The variance is that of the first, and a share of what the second have more.

    Parameters
    ----------
    cka : (...)
        The estimates.
    a, b : (...)
        `concentration` of either layer.
    size : int
    """
    c = np.clip(cka, 0.0, 1.0)
    square = c * c
    both = 1 + square
    # What the second have more, times both.
    more = (3 + c) * square
    more -= c
    more += 1
    more *= c
    more *= 2 * np.sqrt(a * b)
    variance = np.square(1 + c)
    variance *= both
    variance += more
    error = np.sqrt(variance)
    error *= 1 - c
    error /= both * size**0.5
    return np.asarray(error)
