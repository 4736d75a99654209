"""Samples as they are: centred, scaled, and summed up."""

from __future__ import annotations

import numpy as np
import pytest

from dask_svcca.kernels.raw import Centring, KernelNorm, orthonormal, square_root


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


def test_square_root__refuses_directions_that_may_be_noise() -> None:
    x = np.random.default_rng(0).normal(size=(30, 80))
    x -= x.mean(axis=0)
    weakest = np.linalg.eigvalsh(x @ x.T)[1]
    assert square_root(x @ x.T, 1.01 * weakest) is None
    root, squares = square_root(x @ x.T, 0.99 * weakest)
    np.testing.assert_allclose(root @ root.T, x @ x.T, atol=1e-12)
    np.testing.assert_allclose(root.sum(axis=0), 0, atol=1e-12)
    assert squares == pytest.approx(np.square(x @ x.T).sum())


def test_orthonormal__are_the_principal_directions() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 12)) * np.logspace(0, -2, 12)
    x[:, 5] = 0
    x -= x.mean(axis=0)
    basis, scores = orthonormal(x, np.zeros(12), 1.2e-7)
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(basis.spectrum, singular[:11] ** 2)
    np.testing.assert_allclose(np.abs(left[:, :11].T @ scores), np.eye(11), atol=1e-9)
    root, _ = square_root((y := x[:10] - x[:10].mean(axis=0)) @ y.T, 1e-14)
    dual, scores = orthonormal(root, np.zeros(12), 1.2e-7)
    left, singular, _ = np.linalg.svd(y, full_matrices=False)
    np.testing.assert_allclose(dual.spectrum, singular[:9] ** 2)
    np.testing.assert_allclose(np.abs(left[:, :9].T @ scores), np.eye(9), atol=1e-6)
