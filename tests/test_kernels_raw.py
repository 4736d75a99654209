"""Samples as they are: centred, scaled, and summed up."""

from __future__ import annotations

import numpy as np
import pytest

from dask_svcca.kernels.raw import Centring, KernelNorm, orthonormal


@pytest.mark.parametrize("neurons", [5, 30, 70])
def test_kernel_norm__is_that_of_all_inner_products(neurons: int) -> None:
    rng = np.random.default_rng(neurons)
    x = (rng.normal(size=(700, neurons)) * np.logspace(0, 3, neurons) + 100).astype(np.float32)
    centred = x - x.mean(axis=0, dtype=float)
    variances = np.square(centred).sum(axis=0)
    scaled = np.empty((neurons, 700), np.float32).T
    Centring(x.mean(axis=0, dtype=float), variances)(x[:, np.newaxis], scaled)
    np.testing.assert_allclose(scaled, centred / np.sqrt(variances), rtol=0, atol=1e-7)
    norm = KernelNorm(variances)
    for start in (0, 300, 650):
        norm.add(scaled[start : {0: 300, 300: 650, 650: 700}[start]])
    np.testing.assert_allclose(norm.value, np.square(centred @ centred.T).sum(), rtol=1e-6)


def test_orthonormal__are_the_principal_directions() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 12)) * np.logspace(0, -2, 12)
    x[:, 5] = 0
    x -= x.mean(axis=0)
    basis, scores = orthonormal(x, np.zeros(12), 1.2e-7)
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(basis.spectrum, singular[:11] ** 2)
    np.testing.assert_allclose(np.abs(left[:, :11].T @ scores), np.eye(11), atol=1e-9)
    # More neurons than samples; and such of which some are small beside the rounding of others.
    for scale in (1.0, np.logspace(0, -7, 12)):
        y = x[:10] * scale
        y -= y.mean(axis=0)
        dual, scores = orthonormal(y, np.zeros(12), 1.2e-7)
        left, singular, _ = np.linalg.svd(y, full_matrices=False)
        np.testing.assert_allclose(dual.spectrum[:4], singular[:4] ** 2)
        np.testing.assert_allclose(np.abs(left[:, :4].T @ scores[:, :4]), np.eye(4), atol=1e-6)
        np.testing.assert_allclose(scores.T @ scores, np.eye(scores.shape[1]), atol=1e-9)


@pytest.mark.parametrize(("size", "mean"), [(1.0, 0.0), (1.0, 1e5), (1e-39, 0.0), (1e-36, 1e-33), (1e36, 1e37)])
def test_centring__is_as_precise_as_single_precision_holds(size: float, mean: float) -> None:
    rng = np.random.default_rng(3)
    x = (size * rng.normal(size=(300, 4)) + mean * rng.normal(size=4)).astype(np.float32)
    middle = x.mean(axis=0, dtype=float)
    variances = np.square(x - middle).sum(axis=0)
    out = np.empty((4, 300), np.float32).T
    Centring(middle, variances)(x[:, np.newaxis], out)
    np.testing.assert_allclose(out, (x - middle) / np.sqrt(variances), rtol=3e-7, atol=1e-9)
    # What rounding leaves of the mean is common to all samples: it must not add up.
    assert np.abs(out.mean(axis=0, dtype=float)).max() < 1e-9
