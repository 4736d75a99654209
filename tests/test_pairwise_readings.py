"""Convolutional layers and sequences: over all translations, on common grids, and read otherwise."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from oracles import correlations, translations
from pairwise_oracles import IMAGE, N, applied, centred, flat, layers
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import cca, pca, pls


@pytest.mark.parametrize("variance", [None, 0.8])
@pytest.mark.parametrize("sizes", [(4, 3), (2, 2), (1, 5)])
def test_dft__is_cca_over_all_translations(sizes: tuple[int, ...], variance: float | None) -> None:
    x, y = layers(3, 2, sizes=sizes, examples=40)
    everywhere = [translations(array) for array in (x, y)]
    found = cca(x, y, variance=variance, dims=IMAGE)
    expected = correlations(*everywhere, variance)
    # Frequencies that keep nothing in one of the two have no component: they count as zeros.
    np.testing.assert_allclose(found.correlation, expected[: found.sizes["component"]], rtol=0, atol=1e-10)
    np.testing.assert_allclose(expected[found.sizes["component"] :], 0, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.mean_correlation, expected.mean(), rtol=0, atol=1e-9)
    a, b = applied(found, everywhere[0]), applied(found, everywhere[1], "_y")
    shifts = np.prod(sizes)
    np.testing.assert_allclose(a.T @ a / shifts, np.eye(a.shape[1]), rtol=0, atol=1e-10)
    np.testing.assert_allclose(a.T @ b / shifts, np.diag(found.correlation), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.direction_x, a[:40], rtol=0, atol=1e-10)
    np.testing.assert_allclose(flat(found, "mean_y"), everywhere[1].mean(axis=0), rtol=1e-10)
    shares = [(np.outer(one, one @ centred(everywhere[0])) ** 2).sum() for one in a.T / np.sqrt(shifts)]
    np.testing.assert_allclose(found.explained_variance_x, shares / (centred(everywhere[0]) ** 2).sum(), rtol=1e-8)


def test_dft__pls_and_pca_over_all_translations() -> None:
    x, y = layers(3, 2, sizes=(4, 3), examples=40)
    a, b = (translations(array) for array in (x, y))
    cross = centred(a).T @ centred(b) / (len(a) - 1)
    np.testing.assert_allclose(
        pls(x, y, dims=IMAGE).covariance, np.linalg.svd(cross, compute_uv=False), rtol=0, atol=1e-10
    )
    found = pca(x, dims=IMAGE)
    np.testing.assert_allclose(found.variance, np.linalg.eigvalsh(np.cov(a.T))[::-1], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.explained_variance.sum(), 1, rtol=1e-12)
    w = flat(found, "coefficients")
    np.testing.assert_allclose(w.T @ w, np.eye(36), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.direction, applied(found, x, ""), rtol=0, atol=1e-10)


def test_dft__folds_onto_a_coarser_grid_exactly() -> None:
    rng = np.random.default_rng(7)
    (x,) = layers(2, sizes=(4, 4), examples=60)
    y = x[:, ::2, ::2] @ rng.normal(size=(2, 3)) + rng.normal(size=(60, 2, 2, 3))
    shifts = [(i, j) for i in range(2) for j in range(2)]
    a = np.concatenate([np.roll(x, (2 * i, 2 * j), (1, 2)).reshape(60, -1) for i, j in shifts])
    b = translations(y)
    for one, other, (left, right) in ((x, y, (a, b)), (y, x, (b, a))):
        found = cca(one, other, match="fold", dims=IMAGE)
        np.testing.assert_allclose(found.correlation, correlations(left, right), rtol=0, atol=1e-10)
        first, second = applied(found, left), applied(found, right, "_y")
        np.testing.assert_allclose(first.T @ second / 4, np.diag(found.correlation), rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.direction_x, first[:60], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("fine", "coarse"), [((5, 5), (3, 3)), ((4, 4), (2, 2)), ((6, 4), (4, 6)), ((4, 4), (4, 1))])
def test_dft__crops_as_a_comparison_does(fine: tuple[int, int], coarse: tuple[int, int]) -> None:
    x, y = layers(2, sizes=fine, examples=40)[0], layers(3, sizes=coarse, examples=40)[0]
    y = y + x.mean(axis=(1, 2), keepdims=True)[..., [0, 1, 0]]
    found = cca(x, y, variance=0.95, dims=IMAGE)
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(40))
    with zoo:
        for name, array in (("x", x), ("y", y)):
            zoo.write("net", "0", name, array, dims=IMAGE)
    with dask.config.set(scheduler="synchronous"):
        compared = dask_svcca.compare(zoo, MemoryStore(), variance=0.95, precision="float64")
    np.testing.assert_allclose(found.mean_correlation, compared.svcca[0, 1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.expected_correlation, compared.null_svcca[0, 1], rtol=0, atol=1e-12)
    assert int(found.significant) == int(compared.significant[0, 1])
    assert int(found.rank_x) == int(compared.rank_a[0])
    for side, array in (("x", x), ("y", y)):
        np.testing.assert_allclose(found[f"direction_{side}"], applied(found, array, f"_{side}"), rtol=0, atol=1e-10)
        moved = applied(found, translations(array), f"_{side}")
        gram = moved.conj().T @ moved / np.prod(array.shape[1:3])
        np.testing.assert_allclose(gram, np.eye(len(gram)), rtol=0, atol=1e-10)
    # Complex only where a highest frequency of one layer is an ordinary one of the other.
    edge = any(a != b and min(a, b) % 2 == 0 for a, b in zip(fine, coarse, strict=True))
    assert (found.direction_x.dtype.kind == "c") == edge


def test_dft__dense_against_convolutional_meets_the_zero_frequency() -> None:
    (x,) = layers(2, sizes=(3, 3))
    y = x.mean(axis=(1, 2)) @ np.ones((2, 1)) + 0.1 * layers(1)[0]
    found = cca(x, y, dims=IMAGE)
    np.testing.assert_allclose(found.correlation, correlations(x.mean(axis=(1, 2)), y), rtol=0, atol=1e-10)
    a, b = found.direction_x.to_numpy(), found.direction_y.to_numpy()
    np.testing.assert_allclose(a.T @ b, np.diag(found.correlation), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        pls(x, y, dims=IMAGE).covariance,
        np.linalg.svd(np.cov(3 * x.mean(axis=(1, 2)).T, y.T)[:2, 2:], compute_uv=False),
        atol=1e-12,
    )


def test_readings__of_convolutional_layers_and_sequences() -> None:
    x, y = layers(3, 2, sizes=(2, 3))
    means = cca(x.mean(axis=(1, 2)), y.mean(axis=(1, 2)))
    xr.testing.assert_allclose(cca(x, y, conv="mean", dims=IMAGE).correlation, means.correlation)
    assert cca(x, y, conv="mean", dims=IMAGE).coefficients_x.dims == ("channel_x", "component")
    flattened = cca(x.reshape(N, -1), y.reshape(N, -1))
    found = cca(x, y, conv="flatten", dims=IMAGE)
    xr.testing.assert_allclose(found.correlation, flattened.correlation)
    assert found.coefficients_x.dims == ("height_x", "width_x", "channel_x", "component")
    np.testing.assert_allclose(flat(found, "coefficients_x"), flattened.coefficients_x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(flat(found, "mean_x"), flattened.mean_x, rtol=0, atol=1e-12)
    positions = cca(x.reshape(N * 6, 3), y.reshape(N * 6, 2))
    found = cca(x, y, conv="positions", dims=IMAGE)
    xr.testing.assert_allclose(found.correlation, positions.correlation)
    assert found.direction_x.dims == ("example", "height", "width", "component")
    np.testing.assert_allclose(
        found.direction_x.to_numpy().reshape(N * 6, -1), positions.direction_x, rtol=0, atol=1e-12
    )
    tokens = x.reshape(N, 6, 3), y.reshape(N, 6, 2)
    last = cca(*(array[:, -1] for array in tokens))
    xr.testing.assert_allclose(cca(*tokens, sequence="last").correlation, last.correlation)
    first = cca(*(array[:, 0] for array in tokens))
    xr.testing.assert_allclose(cca(*tokens, sequence="first").correlation, first.correlation)
    xr.testing.assert_allclose(cca(*tokens, sequence="positions").correlation, positions.correlation)
    xr.testing.assert_allclose(cca(*tokens).correlation, means.correlation)
