"""Directions and ranks on the worst of inputs: scales, dependence, constants, few examples."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from oracles import correlations
from pairwise_oracles import IMAGE, N, applied, by_qr, centred, layers

from dask_svcca import cca, pca, pls
from dask_svcca.errors import InvalidActivationsError


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
    found, expected = cca(wider, y, dims=IMAGE), cca(x, y, dims=IMAGE)
    assert int(found.rank_x) == int(expected.rank_x)
    np.testing.assert_allclose(found.correlation, expected.correlation, rtol=0, atol=1e-6)


def test_pca__rank_does_not_grow_with_the_number_of_chunks() -> None:
    x = np.random.default_rng(9).normal(size=(40_000, 10))
    dependent = np.hstack([x, x[:, ::-1], x @ np.ones((10, 3))])
    assert int(pca(da.from_array(dependent, chunks=(100, 23)))["rank"]) == 10


def test_cca__knows_the_rounding_of_its_input() -> None:
    x, y = layers(1, 3)
    copies = (100 * x + 1e4 + 1e-5 * layers(4)[0]).astype("float32")
    assert int(cca(copies, y).rank_x) == 1
    assert int(cca(copies.astype("float64"), y).rank_x) > 1


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.full((N, 3), 1e4 / 3), "x is constant"),
        (np.full((N, 3, 3, 2), 0.1), "x is constant"),
        (np.zeros((N, 3)), "x is constant"),
        (np.ones((1, 3)), "at least two examples"),
        (np.ones((N, 0)), "at least two examples and one neuron"),
        (np.ones(N), r"x has 1 axis; .* x\[:, None\]"),
        (np.ones((N, 2, 2, 2)), r"x has 4 axes; .* dims=\('example', 'channel', .* or name them in a DataArray"),
        (np.ones((N, 2, 2, 2, 2)), "x has 5 axes"),
        (np.ones((N, 3)) * 1j, "complex128 values"),
        (layers(3)[0] * 1e200, "double precision; rescale it"),
        (np.clip(layers(3)[0], -1, 1) * 1.7e308, "double precision; rescale it"),
        (layers(3)[0] * 1e-200, "double precision; rescale it"),
    ],
)
def test_errors__arrays_that_cannot_be_compared(x: np.ndarray, match: str) -> None:
    with pytest.raises(InvalidActivationsError, match=match):
        cca(x, layers(2, examples=len(x))[0], dims=IMAGE if match == "x is constant" and x.ndim == 4 else None)
