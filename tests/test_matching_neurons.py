"""Measures that match neurons, against SciPy on the activations themselves."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from measured import compared, images, related
from scipy.optimize import linear_sum_assignment, linprog

from dask_svcca.errors import InvalidActivationsError, ReadingWarning

NAMES = ("hard_correlation_match", "soft_correlation_match", "permutation_procrustes", "soft_matching")
pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")


def correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.corrcoef(x, y, rowvar=False)[: x.shape[1], x.shape[1] :]


def transported(gain: np.ndarray) -> float:
    """Gain of the best plan, by one linear program over all of its entries, row by row."""
    rows, columns = gain.shape
    of_rows, of_columns = np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))
    sums = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    return -float(linprog(-gain.ravel(), A_eq=np.concatenate([of_rows, of_columns]), b_eq=sums).fun)


def expected(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """A measure by its definition."""
    if name == "permutation_procrustes":
        a, b = x - x.mean(axis=0), y - y.mean(axis=0)
        covariances = a.T @ b
        best = covariances[linear_sum_assignment(covariances, maximize=True)].sum()
        return float(best / (np.linalg.norm(a) * np.linalg.norm(b)))
    found = correlations(x, y)
    if name == "soft_matching":
        return transported(found)
    if name == "soft_correlation_match":
        return float((found.max(axis=0).mean() + found.max(axis=1).mean()) / 2)
    return float(found[linear_sum_assignment(found, maximize=True)].mean())


@pytest.mark.parametrize("shape", [(60, 6, 4, 9), (12, 20, 15, 20)])
def test_matching__equals_its_definition(shape: tuple[int, ...]) -> None:
    arrays = related(*shape)
    found = compared(*arrays, measures=NAMES, precision="float64")
    for name in NAMES:
        values = [[expected(name, x, y) for y in arrays] for x in arrays]
        np.testing.assert_allclose(found[name], values, atol=1e-9, err_msg=name)
        assert found[name].attrs["symmetric"] == 1


def test_hard_correlation_match__tries_all_orders() -> None:
    x, y = related(40, 4, 4)
    best = max(np.diag(correlations(x, y)[:, list(order)]).mean() for order in permutations(range(4)))
    assert float(compared(x, y, measures=NAMES[0])[NAMES[0]][0, 1]) == pytest.approx(best, abs=1e-6)


def test_matching__ignores_the_order_of_neurons() -> None:
    rng = np.random.default_rng(0)
    (x,) = related(60, 7)
    scaled = x[:, rng.permutation(7)] * rng.uniform(1, 3, size=7) + 5
    turned = x @ np.linalg.qr(rng.normal(size=(7, 7)))[0]
    found = compared(x, 2 * x[:, ::-1] - 3, scaled, turned, measures=NAMES)
    for name in NAMES:
        np.testing.assert_allclose(np.diag(found[name]), 1, atol=1e-6)
        assert float(found[name][0, 1]) == pytest.approx(1, abs=1e-6)
        assert float(found[name][0, 3]) < 0.99
    for name in (*NAMES[:2], "soft_matching"):
        assert float(found[name][0, 2]) == pytest.approx(1, abs=1e-6)


def test_soft_matching__shares_out_neurons_of_the_wider_layer() -> None:
    x, y = related(60, 3, 5)
    twice = np.concatenate([x, 2 * x], axis=1)
    found = compared(x, twice, y, measures=["soft_matching", "hard_correlation_match"])
    values = found["soft_matching"]
    # All of a layer counts, and the half of it that was there before does not count more.
    assert float(values[0, 1]) == pytest.approx(1, abs=1e-6)
    assert float(values[1, 2]) == pytest.approx(float(values[0, 2]), abs=1e-6)
    assert float(found["hard_correlation_match"][1, 2]) > float(values[1, 2]) + 0.01


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(60, 6, 4), (9, 20, 14)])
def test_matching__constant_neurons_are_left_out(shape: tuple[int, ...], dtype: str) -> None:
    x, y = (one.astype(dtype) for one in related(*shape))
    constants = np.tile(np.array([0.0, 7.1, -1e4], dtype=dtype), (len(x), 1))
    dead = np.concatenate([x[:, :2], constants, x[:, 2:]], axis=1)
    both = np.concatenate([constants[:, :1], y], axis=1)
    found = compared(x, dead, y, both, measures=NAMES)
    for name in NAMES:
        values = [[expected(name, one, other) for other in (x, x, y, y)] for one in (x, x, y, y)]
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(np.diag(found[name]), 1, atol=1e-6)


def test_matching__small_neurons_count() -> None:
    (x,) = related(60, 6)
    (y,) = related(60, 6, seed=1)
    scaled = x * 10.0 ** -np.arange(6)
    found = compared(x, scaled, y, measures=NAMES[:2], precision="float64")
    for name in NAMES[:2]:
        np.testing.assert_allclose(found[name][1], [1, 1, expected(name, x, y)], atol=1e-5)


def test_matching__at_several_frequencies_has_no_value() -> None:
    maps = images((4, 4, 3), (4, 4, 3), examples=40)
    with pytest.warns(ReadingWarning, match="hard_correlation_match"):
        found = compared(*maps, measures=NAMES)
    assert all(np.isnan(found[name]).all() for name in NAMES)
    means = [layer.mean(axis=(1, 2)) for layer in maps]
    found = compared(*maps, measures=NAMES, conv="mean")
    for name in NAMES:
        assert float(found[name][0, 1]) == pytest.approx(expected(name, *means), abs=1e-6)


def test_matching__of_too_many_neurons_is_refused() -> None:
    wide = np.random.default_rng(0).normal(size=(8, 1025))
    with pytest.raises(InvalidActivationsError, match="up to 1,024 of a layer, and 'net/1/00' has 1,025"):
        compared(wide, measures=NAMES[0])


def test_all__leaves_matching_out() -> None:
    assert not set(NAMES) & set(compared(*related(60, 4, 4), measures="all"))
