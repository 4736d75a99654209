"""The pairwise call: against direct decompositions, over all translations, lazily, and on the worst of inputs."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from cca_zoo import linear
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import OTHER, RAMP, basis, correlations, scatter, translations
from sklearn import cross_decomposition, decomposition
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import cca, pca, pls, projection
from dask_svcca.cluster import connect
from dask_svcca.errors import (
    FewSamplesWarning,
    IncompatibleError,
    InvalidActivationsError,
    MemoryLimitError,
    MismatchedExamplesError,
)
from dask_svcca.kernels.factors import factor, merge

if TYPE_CHECKING:
    from collections.abc import Callable

N = 80


def layers(*widths: int, sizes: tuple[int, ...] = (), examples: int = N, seed: int = 0) -> list[np.ndarray]:
    """Layers that have something in common, and a mean."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(examples, *sizes, 4))
    return [
        common @ rng.normal(size=(4, width)) + rng.normal(size=(examples, *sizes, width)) + 3 * rng.normal(size=width)
        for width in widths
    ]


def centred(array: np.ndarray) -> np.ndarray:
    return array - array.mean(axis=0)


def by_qr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Björck and Golub's own algorithm, for full column rank."""
    bases = (np.linalg.qr(centred(array))[0] for array in (x, y))
    return np.linalg.svd(next(bases).T @ next(bases), compute_uv=False)


def flat(result: xr.Dataset, name: str) -> np.ndarray:
    """Coefficients as (neuron, component), whatever the axes of neurons; means as (neuron,)."""
    values = result[name].to_numpy()
    return values.reshape(-1, values.shape[-1]) if "component" in result[name].dims else values.ravel()


def applied(result: xr.Dataset, array: np.ndarray, suffix: str = "_x") -> np.ndarray:
    """Directions of these samples, by the stated formula."""
    return (array.reshape(len(array), -1) - flat(result, f"mean{suffix}")) @ flat(result, f"coefficients{suffix}")


def nothing_computes(*_: Any, **__: Any) -> None:
    raise AssertionError("something was computed")


# --- against direct computations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [None, 1.0, 0.9, 0.5])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int32"])
def test_cca__agrees_with_principal_angles(variance: float | None, dtype: str) -> None:
    x, y = ((10 * array).astype(dtype) for array in layers(7, 5))
    found = cca(x, y, variance=variance)
    stored = (x.astype(float), y.astype(float)) if dtype == "int32" else (x, y)
    expected = correlations(*stored, variance)
    np.testing.assert_allclose(found.correlation, expected, rtol=0, atol=1e-10)
    assert int(found.rank_x) == basis(stored[0], variance).shape[1]
    assert int(found.rank_y) == basis(stored[1], variance).shape[1]
    np.testing.assert_allclose(found.mean_correlation, expected.mean(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shapes", [(7, 5), (5, 7), (4, 4), (1, 3)])
def test_cca__directions_are_what_they_are_said_to_be(shapes: tuple[int, int]) -> None:
    x, y = layers(*shapes)
    found = cca(x, y)
    a, b = found.direction_x.to_numpy(), found.direction_y.to_numpy()
    np.testing.assert_allclose(a.T @ a, np.eye(min(shapes)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(b.T @ b, np.eye(min(shapes)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(a.T @ b, np.diag(found.correlation), rtol=0, atol=1e-12)
    np.testing.assert_allclose(applied(found, x), a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(applied(found, y, "_y"), b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.mean_x, x.mean(axis=0), rtol=1e-12)
    weights = flat(found, "coefficients_x")
    assert (weights[np.abs(weights).argmax(axis=0), np.arange(min(shapes))] > 0).all()
    for side, array, directions in (("x", x, a), ("y", y, b)):
        fitted = [np.outer(one, one @ centred(array)) for one in directions.T]
        shares = [(fit**2).sum() / (centred(array) ** 2).sum() for fit in fitted]
        np.testing.assert_allclose(found[f"explained_variance_{side}"], shares, rtol=1e-10)


def test_cca__directions_of_the_smaller_explain_all_of_it() -> None:
    x, y = layers(7, 5)
    np.testing.assert_allclose(cca(x, y).explained_variance_y.sum(), 1, rtol=1e-12)


def test_cca__agrees_with_scikit_learn() -> None:
    x, y = layers(5, 3, examples=300)
    found = cca(x, y)
    theirs = cross_decomposition.CCA(n_components=2, scale=False, max_iter=100_000, tol=1e-14).fit_transform(x, y)
    for column in range(2):
        pair = [scores[:, column] / np.linalg.norm(scores[:, column]) for scores in theirs]
        np.testing.assert_allclose(pair[0] @ pair[1], found.correlation[column], rtol=0, atol=1e-7)
        for mine, one in zip((found.direction_x, found.direction_y), pair, strict=True):
            np.testing.assert_allclose(abs(mine[:, column].to_numpy() @ one), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("widths", [(5, 3), (4, 9), (6, 6)])
def test_cca__agrees_with_cca_zoo(widths: tuple[int, int]) -> None:
    x, y = layers(*widths, examples=300)
    found, count = cca(x, y), min(widths)
    theirs = linear.CCA(n_components=count).fit([x, y])
    for mine, scores in zip((found.direction_x, found.direction_y), theirs.transform([x, y]), strict=True):
        angles = np.abs(np.sum(mine.to_numpy() * scores / np.linalg.norm(scores, axis=0), axis=0))
        np.testing.assert_allclose(angles, 1, rtol=1e-10)
    pair = [scores / np.linalg.norm(scores, axis=0) for scores in theirs.transform([x, y])]
    np.testing.assert_allclose(found.correlation, np.sum(pair[0] * pair[1], axis=0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.correlation.mean(), theirs.score([x, y]), rtol=1e-10)


@pytest.mark.parametrize("widths", [(5, 3), (4, 9)])
def test_pls__agrees_with_cca_zoo(widths: tuple[int, int]) -> None:
    x, y = layers(*widths)
    found = pls(x, y)
    theirs = linear.PLS(n_components=min(widths)).fit([x, y]).transform([x, y])
    for mine, scores in zip((found.direction_x, found.direction_y), theirs, strict=True):
        np.testing.assert_allclose(np.abs(mine), np.abs(scores), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.covariance, np.sum(theirs[0] * theirs[1], axis=0) / (N - 1), rtol=1e-9)


def test_pls__agrees_with_scikit_learn() -> None:
    x, y = layers(5, 3)
    found = pls(x, y)
    theirs = cross_decomposition.PLSSVD(n_components=3, scale=False).fit(x, y)
    for mine, weights in ((found.coefficients_x, theirs.x_weights_), (found.coefficients_y, theirs.y_weights_)):
        np.testing.assert_allclose(np.abs((mine.to_numpy() * weights).sum(axis=0)), 1, rtol=1e-10)
    for mine, scores in zip((found.direction_x, found.direction_y), theirs.transform(x, y), strict=True):
        np.testing.assert_allclose(np.abs(mine), np.abs(scores), rtol=0, atol=1e-10)


def test_pca__agrees_with_scikit_learn() -> None:
    (x,) = layers(6)
    found, theirs = pca(x), decomposition.PCA().fit(x)
    np.testing.assert_allclose(found.variance, theirs.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(found.explained_variance, theirs.explained_variance_ratio_, rtol=1e-10)
    np.testing.assert_allclose(np.abs(found.coefficients), np.abs(theirs.components_.T), rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.abs(found.direction), np.abs(theirs.transform(x)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["mean"], theirs.mean_, rtol=1e-12)


@pytest.mark.parametrize("shapes", [(7, 5), (5, 7)])
def test_pls__is_the_svd_of_the_cross_covariance(shapes: tuple[int, int]) -> None:
    x, y = layers(*shapes)
    found = pls(x, y)
    cross = centred(x).T @ centred(y) / (N - 1)
    np.testing.assert_allclose(found.covariance, np.linalg.svd(cross, compute_uv=False), rtol=1e-10)
    a, b = found.direction_x.to_numpy(), found.direction_y.to_numpy()
    np.testing.assert_allclose(a.T @ b / (N - 1), np.diag(found.covariance), rtol=0, atol=1e-10)
    expected = [np.corrcoef(one, other)[0, 1] for one, other in zip(a.T, b.T, strict=True)]
    np.testing.assert_allclose(found.correlation, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.explained_variance_x, a.var(axis=0) / x.var(axis=0).sum(), rtol=1e-10)
    w = found.coefficients_y.to_numpy()
    np.testing.assert_allclose(w.T @ w, np.eye(w.shape[1]), rtol=0, atol=1e-12)


# --- closed forms and golden numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 1e-8, 0.3, 1 - 1e-12, 1.0])
def test_cca__recovers_a_correlation_by_construction(rho: float) -> None:
    q = np.linalg.qr(centred(np.random.default_rng(1).normal(size=(50, 4))))[0]
    x, y = q[:, :2], np.stack([rho * q[:, 0] + np.sqrt(1 - rho**2) * q[:, 2], q[:, 3]], axis=1)
    np.testing.assert_allclose(cca(5 * x + 1, y @ [[1, 2], [3, 4]] - 7).correlation, [rho, 0], rtol=0, atol=1e-14)


def test_golden__rank_one_once_centred() -> None:
    # At 99 % of the variance all four directions of the other layer are kept, and the one of this.
    found = cca(RAMP, OTHER, variance=0.99)
    np.testing.assert_allclose(found.mean_correlation, 0.8125, atol=5e-5)
    assert (int(found.rank_x), int(found.rank_y)) == (1, 4)
    np.testing.assert_allclose(found.explained_variance_x, [1], rtol=1e-12)


def test_golden__a_comparison_gives_the_same() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(8))
    with zoo:
        zoo.write("net", "0", "ramp", RAMP)
        zoo.write("net", "0", "other", OTHER.astype(float))
    with dask.config.set(scheduler="synchronous"), pytest.warns(FewSamplesWarning):
        found = dask_svcca.compare(zoo, MemoryStore(), measures=["cka", "svcca"], precision="float64")
    np.testing.assert_allclose(found.cka[0, 1], 0.2815, atol=5e-5)
    np.testing.assert_allclose(found.svcca[0, 1], 0.8125, atol=5e-5)


def test_golden__independent_layers() -> None:
    rng = np.random.default_rng(2)
    found = [cca(rng.normal(size=(2000, 100)), rng.normal(size=(2000, 50))) for _ in range(6)]
    # Of one such pair it is 0.0025 off, as standard deviations go.
    mean = np.mean([one.mean_correlation for one in found])
    np.testing.assert_allclose(mean, 0.2084, atol=2 * 0.0008)
    np.testing.assert_allclose(found[0].expected_correlation, mean, atol=2 * 0.0008)
    assert int(found[0].significant) <= 1


@pytest.mark.slow
def test_golden__large_independent_layers() -> None:
    rng = np.random.default_rng(3)
    found = cca(rng.normal(size=(10_000, 500)), rng.normal(size=(10_000, 500)))
    np.testing.assert_allclose(found.mean_correlation, 0.1908, atol=0.001)
    np.testing.assert_allclose(found.correlation[:20].mean(), 0.412, atol=0.003)


def test_cca__says_what_chance_gives() -> None:
    x, y = layers(6, 5, examples=10)
    found = cca(x, y)
    # Subspaces of 6 and 5 dimensions in one of 9 meet in two.
    assert int(found.spurious) == 2
    np.testing.assert_allclose(found.correlation[:2], 1, rtol=0, atol=1e-12)
    assert int(found.significant) == 0
    assert int(cca(*layers(6, 5, examples=400)).significant) == 4
    # By frequency, of which pairs count twice; the zero frequency alone is centred.
    conv = cca(*layers(3, 3, sizes=(3, 1), examples=5))
    assert int(conv.spurious) == 2 * (3 + 3 - 5) + (3 + 3 - 4)
    np.testing.assert_allclose(conv.correlation[:4], 1, rtol=0, atol=1e-12)


# --- what is hard --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 60])
@pytest.mark.parametrize("decades", [6, 12])
def test_cca__loses_nothing_to_neurons_of_different_scales(decades: int, chunks: int | None) -> None:
    x, y = layers(12, 8, examples=300)
    scaled = x * np.logspace(-decades, 0, 12)
    given = scaled if chunks is None else da.from_array(scaled, chunks=(chunks, 5))
    found = cca(given, y)
    assert int(found.rank_x) == 12
    np.testing.assert_allclose(found.correlation, by_qr(x, y), rtol=0, atol=1e-10)
    directions = found.direction_x.to_numpy()
    np.testing.assert_allclose(directions.T @ directions, np.eye(8), rtol=0, atol=1e-10)


@pytest.mark.parametrize("decades", [3, 6, 9, 12])
def test_cca__stays_a_correlation_when_ill_conditioned(decades: int) -> None:
    rng = np.random.default_rng(4)
    x, y = layers(12, 8, examples=300)
    turned = centred(x) * np.logspace(0, -decades, 12) @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    for other in (y, turned, turned @ rng.normal(size=(12, 12)), turned[:, :3]):
        found = cca(turned, other)
        values = found.correlation.to_numpy()
        assert ((values >= 0) & (values <= 1)).all()
        assert all(np.isfinite(found[name]).all() for name in found.data_vars)
    # The rounding of the input alone moves the directions by the condition number.
    np.testing.assert_allclose(cca(turned, y).correlation, by_qr(x, y), rtol=0, atol=1e-15 * 10**decades)


@pytest.mark.parametrize("variance", [None, 0.9])
@pytest.mark.parametrize("chunks", [None, 7])
def test_cca__more_neurons_than_examples(chunks: int | None, variance: float | None) -> None:
    x, y = layers(100, 5, examples=30)
    given = x if chunks is None else da.from_array(x, chunks=(chunks, 30))
    found = cca(given, y, variance=variance)
    np.testing.assert_allclose(found.correlation, correlations(x, y, variance), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.direction_x, applied(found, x), rtol=0, atol=1e-10)
    assert int(cca(given, y).rank_x) == 29
    if chunks is None:
        np.testing.assert_allclose(cca(x, x + 1).correlation, np.ones(29), rtol=0, atol=1e-12)


def test_cca__counts_no_neuron_twice() -> None:
    x, y = layers(5, 3)
    same = np.hstack([x, x[:, :2], x @ np.ones((5, 1)), np.full((N, 2), 1e4 / 3)])
    found = cca(same, y)
    assert int(found.rank_x) == 5
    np.testing.assert_allclose(found.correlation, by_qr(x, y), rtol=0, atol=1e-10)
    np.testing.assert_allclose(applied(found, same), found.direction_x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("value", [0.1, 1e9 / 3])
def test_cca__constant_neurons_stay_constant_over_chunks(value: float) -> None:
    x, y = layers(3, 2)
    wider = np.insert(x, 1, value, axis=1)
    found = cca(da.from_array(wider, chunks=((7, 23, 11, 1, 38), (4,))), y)
    assert int(found.rank_x) == 3
    np.testing.assert_allclose(found.correlation, by_qr(x, y), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(found.coefficients_x[1], 0)
    np.testing.assert_array_equal(pls(wider, y).coefficients_x[1], 0)


def test_dft__constant_channels_have_no_frequency() -> None:
    # Sizes for which a transform of a constant is not exactly zero.
    x, y = layers(2, 2, sizes=(7, 5), examples=20)
    wider = np.insert(1e-3 * x, 1, 1e9 / 3, axis=-1)
    found = cca(wider, y)
    assert int(found.rank_x) == int(cca(x, y).rank_x)
    np.testing.assert_allclose(found.correlation, cca(x, y).correlation, rtol=0, atol=1e-6)


def test_pca__rank_does_not_grow_with_the_number_of_chunks() -> None:
    x = np.random.default_rng(9).normal(size=(40_000, 10))
    dependent = np.hstack([x, x[:, ::-1], x @ np.ones((10, 3))])
    assert int(pca(da.from_array(dependent, chunks=(100, 23)))["rank"]) == 10


def test_cca__knows_the_rounding_of_its_input() -> None:
    x, y = layers(1, 3)
    copies = (100 * x + 1e4 + 1e-5 * layers(4)[0]).astype("float32")
    assert int(cca(copies, y).rank_x) == 1
    assert int(cca(copies.astype("float64"), y).rank_x) > 1


def test_cca__of_two_examples() -> None:
    found = cca(np.array([[1.0, 5], [2, 3]]), np.array([[7.0], [4]]))
    np.testing.assert_allclose(found.correlation, [1], rtol=0, atol=1e-15)
    assert int(found.spurious) == 1


# --- properties ----------------------------------------------------------------------------------------------------

activations = hnp.arrays(np.float64, (20, 3), elements=st.floats(-1, 1, width=16))


def noisy(array: np.ndarray, seed: int) -> np.ndarray:
    """Of full rank and not too ill-conditioned, whatever was drawn."""
    return array + np.random.default_rng(seed).normal(size=array.shape)


@given(activations, activations, st.permutations(range(20)))
@settings(max_examples=25)
def test_cca__invariances(x: np.ndarray, y: np.ndarray, order: list[int]) -> None:
    x, y = noisy(x, 1), noisy(y, 2)
    expected = cca(x, y).correlation.to_numpy()
    linear = np.array([[2.0, 1, 0], [0, 1, -1], [1, 0, 3]])
    for a, b in ((x @ linear + [1, 2, 3], y), (x, y @ linear.T * -1e3), (y, x), (x[order], y[order])):
        np.testing.assert_allclose(cca(a, b).correlation, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(cca(x, x @ linear).correlation, np.ones(3), rtol=0, atol=1e-9)


@given(activations, activations)
@settings(max_examples=25)
def test_pls__invariances(x: np.ndarray, y: np.ndarray) -> None:
    x, y = noisy(x, 1), noisy(y, 2)
    expected = pls(x, y).covariance.to_numpy()
    turn = np.linalg.qr(np.array([[2.0, 1, 0], [0, 1, -1], [1, 0, 3]]))[0]
    for a, b in ((x @ turn + 5, y), (x, y @ turn), (y, x)):
        np.testing.assert_allclose(pls(a, b).covariance, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(pls(3 * x, -2 * y).covariance, 6 * expected, rtol=1e-9)


@given(hnp.arrays(np.float64, (23, 4), elements=st.floats(-1e3, 1e3)), st.sets(st.integers(1, 22), max_size=6))
def test_factor__does_not_depend_on_chunks(x: np.ndarray, cuts: set[int]) -> None:
    parts = np.split(x, sorted(cuts))
    whole = merge([factor([part, np.exp(1j * part)]) for part in parts])
    expected = scatter(np.stack([x, np.exp(1j * x)], axis=1))
    for rows, one in zip(whole.rows, expected, strict=True):
        np.testing.assert_allclose(rows.conj().T @ rows, one, rtol=0, atol=1e-10 * max(1.0, np.abs(one).max()))
    np.testing.assert_allclose(whole.mean, x.mean(axis=0), rtol=0, atol=1e-11)
    np.testing.assert_array_equal(whole.varies, np.ptp(x, axis=0) > 0)
    assert whole.count == 23


def test_factor__keeps_a_spread_far_below_the_mean() -> None:
    x = np.random.default_rng(5).normal(size=(1000, 3))
    whole = merge([factor([part + 1e9]) for part in np.split(x, 10)])
    np.testing.assert_allclose(whole.rows[0].T @ whole.rows[0], centred(x).T @ centred(x), rtol=1e-5, atol=1e-4)


# --- convolutional layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [None, 0.8])
@pytest.mark.parametrize("sizes", [(4, 3), (2, 2), (1, 5)])
def test_dft__is_cca_over_all_translations(sizes: tuple[int, ...], variance: float | None) -> None:
    x, y = layers(3, 2, sizes=sizes, examples=40)
    everywhere = [translations(array) for array in (x, y)]
    found = cca(x, y, variance=variance)
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
    np.testing.assert_allclose(pls(x, y).covariance, np.linalg.svd(cross, compute_uv=False), rtol=0, atol=1e-10)
    found = pca(x)
    np.testing.assert_allclose(found.variance, np.linalg.eigvalsh(np.cov(a.T))[::-1], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.explained_variance.sum(), 1, rtol=1e-12)
    w = flat(found, "coefficients")
    np.testing.assert_allclose(w.T @ w, np.eye(36), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.direction, applied(found, x, ""), rtol=0, atol=1e-10)


@pytest.mark.parametrize("sizes", [(), (4, 3)])
@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_components__are_the_leading_ones(count: int, sizes: tuple[int, ...]) -> None:
    x, y = layers(3, 4, sizes=sizes)
    for found, every in ((cca(x, y, components=count), cca(x, y)), (pca(x, components=count), pca(x))):
        xr.testing.assert_allclose(found, every.isel(component=slice(count)), rtol=0, atol=1e-14)


def test_dft__names_the_frequency_of_each_component() -> None:
    (x,) = layers(1, sizes=(4, 3), examples=40)
    # A wave down the height, of random amplitude and phase, is one pair of components.
    rng = np.random.default_rng(6)
    phase = 2 * np.pi * (np.arange(4) / 4 + rng.uniform(size=(40, 1)))
    x = 0.01 * x + (rng.normal(size=(40, 1)) * np.cos(phase))[:, :, np.newaxis, np.newaxis]
    found = pca(x)
    assert np.abs(found.frequency[:2]).to_numpy().tolist() == [[1, 0], [1, 0]]
    assert found.axis.to_numpy().tolist() == ["height", "width"]
    assert (found.explained_variance[:2] > 0.4).all()


def test_dft__folds_onto_a_coarser_grid_exactly() -> None:
    rng = np.random.default_rng(7)
    (x,) = layers(2, sizes=(4, 4), examples=60)
    y = x[:, ::2, ::2] @ rng.normal(size=(2, 3)) + rng.normal(size=(60, 2, 2, 3))
    shifts = [(i, j) for i in range(2) for j in range(2)]
    a = np.concatenate([np.roll(x, (2 * i, 2 * j), (1, 2)).reshape(60, -1) for i, j in shifts])
    b = translations(y)
    for one, other, (left, right) in ((x, y, (a, b)), (y, x, (b, a))):
        found = cca(one, other, match="fold")
        np.testing.assert_allclose(found.correlation, correlations(left, right), rtol=0, atol=1e-10)
        first, second = applied(found, left), applied(found, right, "_y")
        np.testing.assert_allclose(first.T @ second / 4, np.diag(found.correlation), rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.direction_x, first[:60], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("fine", "coarse"), [((5, 5), (3, 3)), ((4, 4), (2, 2)), ((6, 4), (4, 6)), ((4, 4), (4, 1))])
def test_dft__crops_as_a_comparison_does(fine: tuple[int, int], coarse: tuple[int, int]) -> None:
    x, y = layers(2, sizes=fine, examples=40)[0], layers(3, sizes=coarse, examples=40)[0]
    y = y + x.mean(axis=(1, 2), keepdims=True)[..., [0, 1, 0]]
    found = cca(x, y, variance=0.95)
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(40))
    with zoo:
        for name, array in (("x", x), ("y", y)):
            zoo.write("net", "0", name, array)
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
    found = cca(x, y)
    np.testing.assert_allclose(found.correlation, correlations(x.mean(axis=(1, 2)), y), rtol=0, atol=1e-10)
    a, b = found.direction_x.to_numpy(), found.direction_y.to_numpy()
    np.testing.assert_allclose(a.T @ b, np.diag(found.correlation), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        pls(x, y).covariance,
        np.linalg.svd(np.cov(3 * x.mean(axis=(1, 2)).T, y.T)[:2, 2:], compute_uv=False),
        atol=1e-12,
    )


def test_readings__of_convolutional_layers_and_sequences() -> None:
    x, y = layers(3, 2, sizes=(2, 3))
    means = cca(x.mean(axis=(1, 2)), y.mean(axis=(1, 2)))
    xr.testing.assert_allclose(cca(x, y, conv="mean").correlation, means.correlation)
    assert cca(x, y, conv="mean").coefficients_x.dims == ("channel_x", "component")
    flattened = cca(x.reshape(N, -1), y.reshape(N, -1))
    found = cca(x, y, conv="flatten")
    xr.testing.assert_allclose(found.correlation, flattened.correlation)
    assert found.coefficients_x.dims == ("height_x", "width_x", "channel_x", "component")
    np.testing.assert_allclose(flat(found, "coefficients_x"), flattened.coefficients_x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(flat(found, "mean_x"), flattened.mean_x, rtol=0, atol=1e-12)
    positions = cca(x.reshape(N * 6, 3), y.reshape(N * 6, 2))
    found = cca(x, y, conv="positions")
    xr.testing.assert_allclose(found.correlation, positions.correlation)
    assert found.direction_x.dims == ("example", "height", "width", "component")
    np.testing.assert_allclose(
        found.direction_x.to_numpy().reshape(N * 6, -1), positions.direction_x, rtol=0, atol=1e-12
    )
    tokens = x.reshape(N, 6, 3), y.reshape(N, 6, 2)
    last = cca(*(array[:, -1] for array in tokens))
    xr.testing.assert_allclose(cca(*tokens, sequence="last").correlation, last.correlation)
    xr.testing.assert_allclose(cca(*tokens, sequence="positions").correlation, positions.correlation)
    xr.testing.assert_allclose(cca(*tokens).correlation, means.correlation)


# --- projection ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cca", "pls", "pca"])
@pytest.mark.parametrize("sizes", [(), (3, 2)])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_projection__is_idempotent_and_of_rank_k(method: Any, sizes: tuple[int, ...], k: int) -> None:
    x, y = layers(6, 5, sizes=sizes)
    found = projection(x, None if method == "pca" else y, k=k, method=method)
    size = 6 * int(np.prod(sizes))
    p = found.projector.to_numpy().reshape(size, size)
    np.testing.assert_allclose(p @ p, p, rtol=0, atol=1e-12)
    assert np.linalg.matrix_rank(p) == k
    np.testing.assert_allclose(p, flat(found, "coefficients") @ found.reconstruction.to_numpy().reshape(k, -1))
    samples = translations(x) if sizes else x
    kept = centred(samples) @ p
    np.testing.assert_allclose(found.explained_variance, (kept**2).sum() / (centred(samples) ** 2).sum(), rtol=1e-10)
    np.testing.assert_allclose(found["mean"].to_numpy().ravel(), samples.mean(axis=0), rtol=1e-10)


def test_projection__reconstructs_by_least_squares() -> None:
    x, y = layers(6, 5)
    directions = cca(x, y).direction_x[:, :3].to_numpy()
    fitted = directions @ np.linalg.lstsq(directions, centred(x))[0]
    found = projection(x, y, k=3)
    np.testing.assert_allclose(centred(x) @ found.projector.to_numpy(), fitted, rtol=0, atol=1e-11)
    np.testing.assert_allclose(
        (x - found["mean"].to_numpy()) @ found.coefficients.to_numpy(), directions, rtol=0, atol=1e-12
    )


def test_projection__onto_all_directions_changes_nothing() -> None:
    x, y = layers(4, 6)
    for method in ("cca", "pls"):
        np.testing.assert_allclose(projection(x, y, k=4, method=method).projector, np.eye(4), rtol=0, atol=1e-12)


def test_projection__of_a_dask_array() -> None:
    x, y = layers(4, 6)
    found = projection(da.from_array(x, chunks=30), da.from_array(y, chunks=17), k=2)
    xr.testing.assert_allclose(found, projection(x, y, k=2), rtol=0, atol=1e-12)


# --- Dask and xarray -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(), (3, 2)])
@pytest.mark.parametrize("call", [cca, pls, lambda x, _: pca(x)])
def test_dask__gives_what_numpy_gives(call: Callable[..., xr.Dataset], sizes: tuple[int, ...]) -> None:
    x, y = layers(4, 3, sizes=sizes)
    given = da.from_array(x, chunks=(13, *[2] * (x.ndim - 1))), da.from_array(y, chunks=(30, *[2] * (y.ndim - 1)))
    found, expected = call(*given), call(x, y)
    assert set(found.variables) == set(expected.variables)
    for name, variable in expected.variables.items():
        if str(name).startswith("direction"):
            assert isinstance(found[name].data, da.Array)
        else:
            assert isinstance(found[name].data, np.ndarray)
        # Components of one pair may turn into each other: of equal values, any basis will do.
        if sizes and "component" in variable.dims and str(name).startswith(("direction", "coefficients")):
            continue
        if name == "axis":
            np.testing.assert_array_equal(found[name], variable)
        else:
            np.testing.assert_allclose(found[name], variable, rtol=0, atol=1e-10)


def test_dask__directions_are_lazy() -> None:
    x, y = layers(4, 3)
    read: list[Any] = []

    def block(values: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info:
            read.append(block_info[0]["chunk-location"])
        return values

    lazy = da.from_array(x, chunks=(20, 4)).map_blocks(block, dtype=x.dtype, meta=np.empty((0, 0)))
    found = cca(lazy, y)
    # One pass: each chunk once.
    assert sorted(read) == [(index, 0) for index in range(4)]
    assert isinstance(found.direction_y.data, np.ndarray)
    with dask.config.set(scheduler=nothing_computes):
        one = found.direction_x.isel(component=0)[25:35]
        assert one.data.shape == (10,)
        with pytest.raises(AssertionError, match="computed"):
            one.compute()
    read.clear()
    np.testing.assert_allclose(one.compute(), cca(x, y).direction_x[25:35, 0], rtol=0, atol=1e-12)
    assert read == [(1, 0)]


def test_dask__reads_what_both_arrays_are_made_of_once() -> None:
    read: list[int] = []

    def load(values: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info:
            read.append(block_info[0]["chunk-location"][0])
        return values

    source = da.from_array(np.hstack(layers(4, 3)), chunks=(20, 7)).map_blocks(load, meta=np.empty((0, 0)))
    cca(source[:, :4], source[:, 4:])
    assert sorted(read) == [0, 1, 2, 3]


def test_dask__never_holds_the_whole_array() -> None:
    x = da.random.default_rng(8).normal(size=(40_000, 50), chunks=(2_000, 50))
    with dask.config.set(scheduler="synchronous"):
        cca(x[:4_000], x[:4_000, :5])  # what is loaded on first use is no memory of the arrays
        tracemalloc.start()
        cca(x, x[:, :20] + 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < x.nbytes / 2


@pytest.mark.slow
def test_dask__runs_on_a_cluster() -> None:
    x, y = layers(4, 3)
    with connect(workers=2, memory=2**30):
        found = cca(da.from_array(x, chunks=(13, 2)), da.from_array(y, chunks=(20, 3)))
        xr.testing.assert_allclose(found.compute(), cca(x, y), rtol=0, atol=1e-12)


def test_dask__numpy_arrays_of_any_length_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = layers(4, 3, examples=500)
    expected = cca(x, y)
    monkeypatch.setattr("dask_svcca.engine.pairwise.CHUNK_BYTES", 0)
    xr.testing.assert_allclose(cca(x, y), expected, rtol=0, atol=1e-12)


def test_xarray__takes_named_dims_in_any_order_and_keeps_coordinates() -> None:
    x, y = layers(3, 2, sizes=(4, 5))
    labels = {"example": [f"image{index}" for index in range(N)], "label": ("example", np.arange(N) % 10)}
    given = xr.DataArray(x, dims=("example", "height", "width", "channel"), coords=labels)
    other = xr.DataArray(np.moveaxis(y, -1, 1), dims=("example", "channel", "height", "width"))
    found = cca(given.transpose("width", "example", "channel", "height"), other)
    xr.testing.assert_allclose(found.drop_vars(["example", "label"]), cca(x, y))
    xr.testing.assert_equal(found.direction_y.label, given.label)
    xr.testing.assert_equal(cca(y, given).label, given.label)
    units = xr.DataArray(x[:, 0, 0], dims=("example", "unit"), coords=labels).transpose()
    xr.testing.assert_equal(pca(units).label, given.label)
    np.testing.assert_allclose(pca(units).variance, pca(x[:, 0, 0]).variance, rtol=1e-12)
    one_axis = xr.DataArray(x[:, 0], dims=("example", "width", "channel"))
    np.testing.assert_allclose(pca(one_axis).variance, pca(x[:, :1]).variance, rtol=1e-10)


# --- refusals ------------------------------------------------------------------------------------------------------


def test_errors__mismatched_examples() -> None:
    x, y = layers(3, 2)
    with pytest.raises(MismatchedExamplesError, match="x has 80 examples and y has 79"):
        cca(x, y[:-1])
    names = [list("abc"), list("acb")]
    arrays = [
        xr.DataArray(array[:3], dims=("example", "neuron"), coords={"example": one})
        for array, one in zip((x, y), names, strict=True)
    ]
    with pytest.raises(MismatchedExamplesError, match=r"first at 1: 'b' and 'c'.*y\.sel"):
        cca(*arrays)


@pytest.mark.parametrize("chunks", [None, 30])
def test_errors__values_that_are_not_finite(chunks: int | None) -> None:
    x, y = layers(3, 2)
    x[41, 2], x[70, 0], x[70, 1] = np.nan, np.inf, -np.inf
    given = x if chunks is None else da.from_array(x, chunks=chunks)
    with pytest.raises(InvalidActivationsError, match=r"3 of 240 values of x are NaN .* first at index \(41, 2\)"):
        cca(given, y)
    with pytest.raises(InvalidActivationsError, match=r"3 of 240 values of y"):
        pls(y, given)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.full((N, 3), 1e4 / 3), "x is constant"),
        (np.full((N, 3, 3, 2), 0.1), "x is constant"),
        (np.zeros((N, 3)), "x is constant"),
        (np.ones((1, 3)), "at least two examples"),
        (np.ones((N, 0)), "at least two examples and one neuron"),
        (np.ones(N), "x has 1 axes"),
        (np.ones((N, 2, 2, 2, 2)), "Name others in a DataArray"),
        (np.ones((N, 3)) * 1j, "complex128 values"),
        (layers(3)[0] * 1e200, "double precision; rescale it"),
        (np.clip(layers(3)[0], -1, 1) * 1.7e308, "double precision; rescale it"),
        (layers(3)[0] * 1e-200, "double precision; rescale it"),
    ],
)
def test_errors__arrays_that_cannot_be_compared(x: np.ndarray, match: str) -> None:
    with pytest.raises(InvalidActivationsError, match=match):
        cca(x, layers(2, examples=len(x))[0])


def test_errors__results_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    (x,) = layers(16, sizes=(8, 8), examples=40)
    memory = SimpleNamespace(available=5 * 10**6)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert pca(x, components=10).sizes["component"] == 10
    with pytest.raises(MemoryLimitError, match=r"of 1024 components take 0\.0\d GB.* 0\.0\d GB .* pass comp"):
        pca(x)
    with pytest.raises(MemoryLimitError, match="a projector of 1024 x 1024 neurons"):
        projection(x, k=3, method="pca")


def test_errors__unknown_chunks() -> None:
    x = da.from_array(layers(3)[0], chunks=20)
    with pytest.raises(InvalidActivationsError, match="compute_chunk_sizes"):
        pca(x[x[:, 0] > 0])


def test_errors__readings_that_do_not_meet() -> None:
    x, y = layers(3, 2, sizes=(5, 5))
    with pytest.raises(IncompatibleError, match=r"x has the grid \(5, 5\), y \(2, 2\)"):
        cca(x, y[:, :2, :2], match="fold")
    with pytest.raises(IncompatibleError, match="samples of x are all positions of 5x5, of y examples"):
        cca(x, y[:, 0, 0], conv="positions")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variance": 0}, "variance is the share"),
        ({"conv": "fourier"}, "conv is one of"),
        ({"match": "pad"}, "match is one of"),
        ({"sequence": "first"}, "sequence is one of"),
        ({"components": 0}, "components is how many to return, at least 1"),
    ],
)
def test_errors__options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cca(*layers(3, 2), **options)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"k": 0, "method": "pca"}, "from 1 to the number of components, 3; got 0"),
        ({"k": 4, "method": "pca"}, "got 4"),
        ({"k": 1}, "method='cca' is of two arrays; pass y"),
        ({"k": 1, "method": "pca", "y": layers(2)[0]}, "method='pca' is of one array; leave y out"),
        ({"k": 1, "method": "ica"}, "method is one of 'cca', 'pls', 'pca'"),
    ],
)
def test_errors__projection(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        projection(layers(3)[0], **arguments)


def test_errors__projection_at_the_edge_of_a_cropped_grid() -> None:
    x, y = layers(3, 2, sizes=(4, 4))
    with pytest.raises(IncompatibleError, match=r"grids \(4, 4\) of x and \(2, 2\) of y"):
        projection(x, y[:, :2, :2], k=1)
