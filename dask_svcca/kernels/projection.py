"""From samples to scores: in double precision, or in single where that is as good as how they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dask_svcca.kernels.blas import add_product
from dask_svcca.kernels.subspace import blocks_of, needs_correction, project

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.subspace import Eigenbasis

SINGLE_RANGE = 128.0
"""Ratio of variances up to which directions share a product in single precision.

Rounding a sample is off by its share of the largest variance that is left in it: relative to the score, by no more than
the square root of this ratio times 6e-8. That differs from sample to sample: with 3,000 of them, canonical correlations
are off by up to 2e-8 and their mean by less than 1e-9, where their own sums in single precision are off by up to 2e-7.
"""

LEAST_DIRECTIONS = 128
"""Directions below which all stay in double precision: that is cheap, and the mean over few averages nothing out."""

AT_ONCE = 1024
"""Samples that are projected at a time: what single precision takes beside is no more than scores in double would."""

WORTH_WHILE = 0.9
"""Share of the time of products in double precision that others may take, so that they are made."""


def in_single_precision(spectrum: FloatArray) -> slice:
    """Directions whose scores are cheapest made in single precision, once those before them are taken off.

    Taking directions off costs another product in double precision for each. All others stay in double.

    Parameters
    ----------
    spectrum : (direction,)
        Eigenvalues, descending.

    Returns
    -------
    slice
        Empty where nothing would be gained.

    Examples
    --------
    >>> in_single_precision(np.ones(200)), in_single_precision(np.arange(1, 257) ** -1.7)
    (slice(0, 200, None), slice(14, 256, None))
    >>> in_single_precision(np.logspace(0, -30, 200)), in_single_precision(np.ones(20))
    (slice(0, 0, None), slice(0, 0, None))
    """
    count = len(spectrum)
    if count < LEAST_DIRECTIONS:
        return slice(0, 0)
    first = np.arange(count)
    stop = np.searchsorted(-spectrum, -spectrum / SINGLE_RANGE, side="right")
    cost = 2 * first + (stop - first) / 2 + (count - stop)
    best = int(np.argmin(cost))
    if cost[best] > WORTH_WHILE * count:
        return slice(0, 0)
    return slice(best, int(stop[best]))


class DoubleProjection:
    """Projects samples on directions in double precision.

    Parameters
    ----------
    mean : (neuron,)
    basis : Eigenbasis
    correction : mapping of int to (direction, direction), optional
        By the first direction of a block: what its scores are multiplied by from the right.
    """

    def __init__(
        self, mean: InexactArray, basis: Eigenbasis, correction: Mapping[int, InexactArray] | None = None
    ) -> None:
        self._mean, self._block = mean, basis.block
        self._weights, self._scale = basis.loadings, 1 / np.sqrt(basis.spectrum)
        if correction:
            self._weights = self._weights * self._scale
            self._scale[:] = 1
            for first, factor in correction.items():
                columns = slice(first, first + len(factor))
                self._weights[:, columns] = self._weights[:, columns] @ factor
        self.dtype: np.dtype[Any] = np.result_type(self._weights.dtype, np.float64)

    def __call__(self, samples: InexactArray, out: InexactArray) -> None:
        """Write the scores of some samples, (sample, block, neuron), into ``out``, (sample, direction)."""
        project(samples, self._mean, self._weights, self._block, out=out)
        # Weights that are scaled beforehand would be a second array as large as the loadings.
        out *= self._scale


class SingleProjection:
    """Projects samples of one block, real, on directions; most of them in single precision.

    Parameters
    ----------
    mean : (neuron,)
    basis : Eigenbasis
    within : slice
        From `in_single_precision`.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> x -= x.mean(axis=0)
    >>> left, singular, right = np.linalg.svd(x, full_matrices=False)
    >>> from dask_svcca.kernels.subspace import Eigenbasis
    >>> basis = Eigenbasis(singular**2, np.asfortranarray(right.T), np.zeros(3, int), 1.0)
    >>> scores = np.empty((50, 3), np.float32)
    >>> SingleProjection(np.zeros(3), basis, slice(1, 3))(x[:, np.newaxis], scores)
    >>> bool(np.abs(scores - left).max() < 1e-6)
    True
    """

    def __init__(self, mean: InexactArray, basis: Eigenbasis, within: slice) -> None:
        self._mean, self._loadings, self._within = mean, basis.loadings, within
        self.dtype = np.dtype(np.float32)
        self._scale = 1 / np.sqrt(basis.spectrum)
        self._weights = np.empty(self._loadings[:, within].shape, dtype=np.float32, order="F")
        np.multiply(self._loadings[:, within], self._scale[within], out=self._weights, casting="same_kind")

    def __call__(self, samples: InexactArray, out: InexactArray) -> None:
        """Write the scores of some samples, (sample, block, neuron), into ``out``, (sample, direction)."""
        for start in range(0, len(samples), AT_ONCE):
            self._project(samples[start : start + AT_ONCE, 0], out[start : start + AT_ONCE])

    def _project(self, samples: InexactArray, out: InexactArray) -> None:
        first, stop = self._within.start, self._within.stop
        centred = np.subtract(samples, self._mean, dtype=np.float64)
        for columns in (slice(stop, None), slice(0, first)):
            weights = self._loadings[:, columns]
            if weights.shape[1]:
                part = centred @ weights
                np.multiply(part, self._scale[columns], out=out[:, columns], casting="same_kind")
        if first:
            # Whatever the rounding of these scores: it lies in directions that the others are orthogonal to.
            add_product(part, weights, centred, scale=-1, onto=True)
        np.matmul(centred.astype(np.float32), self._weights, out=out[:, self._within])


Projection: TypeAlias = "DoubleProjection | SingleProjection"


def projection(
    mean: InexactArray, basis: Eigenbasis, dtype: np.dtype[Any], correction: Mapping[int, InexactArray] | None = None
) -> Projection:
    """What makes scores that are stored in a precision.

    Parameters
    ----------
    mean, basis, correction
        As for `DoubleProjection`. Scores that may need correction are made in double precision, which shows it.
    dtype : numpy.dtype
        Type of the scores as they are stored.

    Examples
    --------
    >>> from dask_svcca.kernels.subspace import Eigenbasis
    >>> basis = Eigenbasis(np.ones(200), np.eye(200), np.zeros(200, int), 200.0)
    >>> [type(projection(np.zeros(200), basis, np.dtype(name))).__name__ for name in ("float32", "float64")]
    ['SingleProjection', 'DoubleProjection']
    """
    within = slice(0, 0)
    if dtype == np.float32 and not any(needs_correction(basis, columns) for _, columns in blocks_of(basis.block)):
        within = in_single_precision(basis.spectrum)
    if within.stop == 0:
        return DoubleProjection(mean, basis, correction)
    return SingleProjection(mean, basis, within)
