"""Samples as they are, up to the scale of each neuron: all that inner products of samples ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.kernels.moments import moments
from dask_svcca.kernels.noise import live_noise
from dask_svcca.kernels.products import FEW_SAMPLES, ProductSum, Summing
from dask_svcca.kernels.projection import DoubleProjection
from dask_svcca.kernels.subspace import (
    dual_basis,
    dual_basis_within,
    eigenbasis,
    gram_correction,
    samples_above_noise,
)

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.products import MakesProducts
    from dask_svcca.kernels.subspace import Eigenbasis

IN_CACHE = 2**17
"""Numbers that are centred at a time, in the cache: they are written across the order in which they lie."""

ORDINARY = 1e30
"""Scale up to which, and deviation up to which, single precision neither overflows nor loses digits."""


def at_once(neurons: int) -> int:
    """Samples that are centred at a time.

    Examples
    --------
    >>> at_once(64), at_once(1024), at_once(8192)
    (128, 128, 16)
    """
    return max(16, min(128, IN_CACHE // neurons))


SUMMED = 2**12
"""Samples whose products are summed in single precision, at most: directions may be made of the sums.

Where they are, and there are no more samples than these, products are formed in double precision. The fewer samples
there are, the more a sum in single precision moves means of canonical correlations: of 128 neurons whose variances fall
with the power 2.4, by up to 1.6e-6 with 300 samples, 9e-7 with 700, and 2e-7 with 4,000 and more; in double precision,
by less than 1e-7.
"""


def summing_of(neurons: int, samples: int | None = None) -> Summing:
    """How inner products of neurons are summed.

    Parameters
    ----------
    neurons : int
    samples : int, optional
        How many there are, where directions are made of the products.

    Examples
    --------
    >>> summing_of(200), summing_of(200, samples=700)
    (Summing(samples=4096, double=False), Summing(samples=256, double=True))
    """
    summing = Summing.of(neurons)
    if summing.double or (samples is not None and samples <= SUMMED):
        return Summing(FEW_SAMPLES, double=True)
    return Summing(min(summing.samples, SUMMED), double=False)


class Centring:
    """Takes the mean off samples of one block, real, and scales neurons to length one.

    Parameters
    ----------
    mean : (neuron,)
    variances : (neuron,)
        Sums of squares about the mean; zero for neurons that take no part.

    Examples
    --------
    >>> x = np.array([[[3.0, 5]], [[-3, 5]]])
    >>> out = np.empty((2, 2), np.float32)
    >>> Centring(np.array([0.0, 5]), np.array([18.0, 0]))(x, out)
    >>> out.round(4)
    array([[ 0.7071,  0.    ],
           [-0.7071,  0.    ]], dtype=float32)
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, mean: InexactArray, variances: FloatArray) -> None:
        scale = np.divide(1.0, np.sqrt(variances), out=np.zeros_like(variances), where=variances > 0)
        live = scale[scale > 0]
        ordinary = bool(((live < ORDINARY) & (live > 1 / ORDINARY)).all())
        self._wide: np.dtype[Any] = np.dtype(np.float32 if ordinary else np.float64)
        # In two parts, in single precision where that will do: half the time, and what is taken off is as precise.
        self._mean = mean.astype(self._wide)
        self._rest = (mean - self._mean).astype(self._wide)
        self._scale = scale.astype(self._wide)

    def __call__(self, samples: InexactArray, out: InexactArray) -> None:
        """Write some samples, (sample, block, neuron), into ``out``, (sample, neuron)."""
        step = at_once(len(self._mean))
        room = np.empty((min(step, len(samples)), len(self._mean)), self._wide)
        for start in range(0, len(samples), step):
            part = room[: len(samples) - start]
            np.subtract(samples[start : start + step, 0], self._mean, out=part, casting="same_kind")
            part -= self._rest
            np.multiply(part, self._scale, out=out[start : start + step], casting="same_kind")


class KernelNorm:
    """Sum of squares of the inner products of all samples, from the neurons' inner products.

    Parameters
    ----------
    variances : (neuron,)
    products : callable
        Makes a sum of products, from the number of samples that are multiplied in one precision.
    samples : int, optional
        How many there are, where directions are made of the products.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(40, 3))
    >>> norm = KernelNorm(np.array([1.0, 4.0, 9.0]))
    >>> norm.add(np.asfortranarray(x))
    >>> bool(np.isclose(norm.value, np.square((x * [1, 4, 9]) @ x.T).sum()))
    True
    """

    def __init__(
        self, variances: FloatArray, products: MakesProducts = ProductSum, *, samples: int | None = None
    ) -> None:
        self._variances = variances
        self._products = products
        self._samples, self._double = summing_of(len(variances), samples)
        self._total = products(self._samples)

    def add(self, samples: InexactArray) -> None:
        """Take some samples, (sample, neuron), scaled to length one."""
        for start in range(0, len(samples), self._samples):
            rows = samples[start : start + self._samples].T
            rows = np.ascontiguousarray(rows, dtype=np.float64 if self._double else rows.dtype)
            self._total.add(rows, rows)

    def take_products(self) -> FloatArray:
        """Inner products of the neurons, (neuron, neuron), in double precision; nothing is left here of them."""
        products, self._total = self._total.value, self._products(self._samples)
        return products.astype(np.float64, copy=False)

    @property
    def value(self) -> float:
        """The sum, about as precise as those of pairs in single precision."""
        total, step = 0.0, at_once(len(self._variances))
        products = self._total.value
        for start in range(0, len(products), step):
            part = np.square(products[start : start + step], dtype=np.float64)
            total += float(self._variances[start : start + step] @ (part @ self._variances))
        return total


def orthonormal(samples: FloatArray, mean: InexactArray, epsilon: float) -> tuple[Eigenbasis, FloatArray]:
    """Principal directions, and scores, of samples that were stored as they are.

    Parameters
    ----------
    samples : (sample, neuron)
        Centred.
    mean : (neuron,)
        The mean that was taken off.
    epsilon : float
        Relative precision of the samples before: that of single precision, or less precise.

    Returns
    -------
    basis : Eigenbasis
        Without loadings, (0, direction), where neurons outnumber samples.
    scores : (sample, direction)

    Examples
    --------
    >>> x = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> basis, scores = orthonormal(x, np.zeros(2), 1e-7)
    >>> basis.spectrum, np.allclose(scores.T @ scores, np.eye(2))
    (array([18.,  2.]), True)
    """
    if samples.shape[1] > len(samples):
        return _by_samples(samples, mean, epsilon)
    total = moments(samples[:, np.newaxis])
    basis = eigenbasis(replace(total, mean=mean), multiplicity=np.ones(1, dtype=np.int64), epsilon=epsilon)
    assert basis is not None  # noqa: S101 - single precision shows in the scatter all that it holds
    scores: FloatArray = np.empty((len(samples), len(basis.spectrum)))
    DoubleProjection(total.mean, basis)(samples[:, np.newaxis], scores)
    return basis, np.asarray(scores @ gram_correction(scores.T @ scores).real)


def _by_samples(samples: FloatArray, mean: InexactArray, epsilon: float) -> tuple[Eigenbasis, FloatArray]:
    """The same where neurons outnumber samples."""
    variances = np.square(samples).sum(axis=0)
    noise = live_noise(variances[np.newaxis], mean, len(samples), np.ones(1, dtype=np.int64), epsilon)
    found = dual_basis(samples @ samples.T, noise)
    if found is not None:
        return found
    units = np.divide(samples, np.sqrt(noise), out=np.zeros_like(samples), where=noise > 0)
    return dual_basis_within(samples @ samples.T, samples_above_noise(units @ units.T))
