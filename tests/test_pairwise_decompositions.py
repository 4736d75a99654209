"""The pairwise calls against direct computations, closed forms and other packages."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest
from cca_zoo import linear
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import OTHER, RAMP, basis, correlations
from pairwise_oracles import N, applied, centred, flat, layers
from sklearn import cross_decomposition, decomposition
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import cca, pca, pls
from dask_svcca.errors import FewSamplesWarning


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


@pytest.mark.parametrize("rho", [0.0, 1e-8, 0.3, 1 - 1e-12, 1.0])
def test_cca__recovers_a_correlation_by_construction(rho: float) -> None:
    q = np.linalg.qr(centred(np.random.default_rng(1).normal(size=(50, 4))))[0]
    x, y = q[:, :2], np.stack([rho * q[:, 0] + np.sqrt(1 - rho**2) * q[:, 2], q[:, 3]], axis=1)
    np.testing.assert_allclose(cca(5 * x + 1, y @ [[1, 2], [3, 4]] - 7).correlation, [rho, 0], rtol=0, atol=1e-14)


def test_cca__of_two_examples() -> None:
    found = cca(np.array([[1.0, 5], [2, 3]]), np.array([[7.0], [4]]))
    np.testing.assert_allclose(found.correlation, [1], rtol=0, atol=1e-15)
    assert int(found.spurious) == 1


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


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variance": 0}, "variance is the share"),
        ({"conv": "fourier"}, "conv is one of"),
        ({"match": "pad"}, "match is one of"),
        ({"sequence": "firs"}, "sequence is one of .*Did you mean 'first'"),
        ({"components": 0}, "components is how many to return, at least 1"),
    ],
)
def test_errors__options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cca(*layers(3, 2), **options)
