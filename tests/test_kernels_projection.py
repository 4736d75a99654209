"""Scores made in single precision, against an SVD in double."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_svcca.kernels.moments import moments
from dask_svcca.kernels.projection import (
    SINGLE_RANGE,
    DoubleProjection,
    SingleProjection,
    in_single_precision,
    projection,
)
from dask_svcca.kernels.subspace import eigenbasis

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels.subspace import Eigenbasis

SAMPLES, NEURONS = 3000, 160
SINGLE, DOUBLE = np.dtype("float32"), np.dtype("float64")


def layer(decay: float, seed: int = 0, *, offset: float = 0.0) -> npt.NDArray[np.float32]:
    """Neurons whose variances fall as a power; with a mean many times larger than they."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(NEURONS, NEURONS)))[0]
    values = rng.normal(size=(SAMPLES, NEURONS)) * np.arange(1, NEURONS + 1) ** (-decay / 2)
    return np.asarray(values @ rotation + offset, dtype=np.float32)


def basis_of(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], Eigenbasis]:
    total = moments(x[:, np.newaxis])
    found = eigenbasis(total, multiplicity=np.ones(1, dtype=np.int64), epsilon=float(np.finfo(x.dtype).eps))
    assert found is not None
    return np.asarray(total.mean, dtype=np.float64), found


def scores_of(
    x: npt.NDArray[np.float32], dtype: np.dtype[np.float32] | np.dtype[np.float64]
) -> npt.NDArray[np.float64]:
    mean, basis = basis_of(x)
    projected = projection(mean, basis, dtype)
    scores = np.empty((len(basis.spectrum), len(x)), dtype=projected.dtype).T
    projected(x[:, np.newaxis], scores)
    return scores.astype(np.float64)


def exact(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = x.astype(np.float64)
    left: npt.NDArray[np.float64] = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)[0]
    return left


@pytest.mark.parametrize("offset", [0.0, 50.0])
@pytest.mark.parametrize("decay", [0.0, 1.0, 1.7])
def test_single_projection__differs_by_rounding_from_the_svd(decay: float, offset: float) -> None:
    x = layer(decay, offset=offset)
    mean, basis = basis_of(x)
    assert isinstance(projection(mean, basis, SINGLE), SingleProjection)
    scores, expected = scores_of(x, SINGLE), exact(x)
    # It differs from sample to sample: canonical correlations see almost nothing of it, less than of their own sum.
    other = exact(layer(decay, seed=1))
    found = np.linalg.svd(scores.T @ other, compute_uv=False)
    np.testing.assert_allclose(found, np.linalg.svd(expected.T @ other, compute_uv=False), rtol=0, atol=4e-8)
    np.testing.assert_allclose(np.linalg.svd(scores, compute_uv=False), 1.0, rtol=0, atol=3e-7)


def test_projection__in_double_precision_is_as_before() -> None:
    x = layer(1.7)
    np.testing.assert_allclose(np.linalg.svd(scores_of(x, DOUBLE), compute_uv=False), 1.0, rtol=0, atol=1e-11)


def test_projection__of_weak_directions_is_in_double_precision() -> None:
    # Whether their scores are orthonormal is judged by what is made here.
    mean, basis = basis_of(layer(6.0))
    assert basis.spectrum[-1] < 1e-5 * basis.spectrum[0]
    assert isinstance(projection(mean, basis, SINGLE), DoubleProjection)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.7, 3.0])
def test_in_single_precision__spans_no_more_than_its_range(decay: float) -> None:
    spectrum = np.arange(1, 1001) ** -decay
    within = in_single_precision(spectrum)
    assert within.stop > within.start
    assert spectrum[within.start] <= SINGLE_RANGE * spectrum[within.stop - 1]
    # What remains in double precision, and what is taken off, pay for themselves.
    assert 2 * within.start + (within.stop - within.start) / 2 + (1000 - within.stop) < 900
