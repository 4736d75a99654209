"""Scores over all orders of the examples: sums of each layer against the orders themselves."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy.stats

from dask_svcca.kernels.orders import KernelSums, chance_of, moments_over_orders, spread_of_correlations

KINDS = {
    "Gaussian": lambda rng, shape: rng.normal(size=shape),
    "t(2)": lambda rng, shape: rng.standard_t(2, size=shape),
    "lognormal": lambda rng, shape: rng.lognormal(sigma=1.5, size=shape),
    "sparse": lambda rng, shape: np.where(rng.random(shape) < 0.1, rng.normal(size=shape), 0.0),
    "scaled rows": lambda rng, shape: rng.normal(size=shape) * rng.standard_t(2, size=(shape[0], 1)),
}
"""Layers of independent examples."""


def layer(kind: str, samples: int, neurons: int, *, whitened: bool, seed: int) -> np.ndarray:
    values = KINDS[kind](np.random.default_rng(seed), (samples, neurons))
    values = values - values.mean(axis=0)
    if not whitened:
        return values
    left, singular, _ = np.linalg.svd(values, full_matrices=False)
    return left[:, singular > 1e-9 * max(singular[0], 1.0)]


def scores(a: np.ndarray, b: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """From the inner products of all samples, order by order: (order,)."""
    kernel_a, kernel_b = a @ a.T, b @ b.T
    return np.array([(kernel_a * kernel_b[np.ix_(order, order)]).sum() for order in orders])


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("samples", "k", "m"), [(4, 2, 1), (5, 1, 3), (6, 2, 2)])
def test_moments_over_orders__are_those_of_all_orders(kind: str, samples: int, k: int, m: int, whitened: bool) -> None:
    # A sparse layer may have no value at all but zeros.
    a, b = (layer(kind, samples, width, whitened=whitened, seed=seed) for seed, width in ((11, k), (12, m)))
    every = scores(a, b, np.array(list(permutations(range(samples)))))
    mean, variance = moments_over_orders(KernelSums.of(a), KernelSums.of(b), samples)
    np.testing.assert_allclose(mean, every.mean(), rtol=1e-9)
    np.testing.assert_allclose(variance, every.var(), rtol=1e-9, atol=1e-12 * every.mean() ** 2)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_over_orders__are_those_of_random_orders(kind: str) -> None:
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(50) for _ in range(2000)])
    for whitened in (False, True):
        a, b = (layer(kind, 50, width, whitened=whitened, seed=seed) for seed, width in ((1, 4), (2, 6)))
        found = scores(a, b, orders)
        mean, variance = moments_over_orders(KernelSums.of(a), KernelSums.of(b), 50)
        assert abs(found.mean() - mean) < 4 * np.sqrt(variance / len(orders))
        # The error of a variance follows from the fourth moment.
        fourth = np.mean((found - found.mean()) ** 4)
        assert abs(found.var() - variance) < 4 * np.sqrt((fourth - variance**2) / len(orders))


def test_moments_over_orders__of_many_pairs_at_once() -> None:
    layers = [layer("t(2)", 20, width, whitened=False, seed=width) for width in range(1, 5)]
    each = [KernelSums.of(one) for one in layers]
    rows, columns = (
        KernelSums(*(np.array([getattr(one, name) for one in each]).reshape(shape) for name in KernelSums.__slots__))
        for shape in ((-1, 1), (1, -1))
    )
    mean, variance = moments_over_orders(rows, columns, 20)
    for i, a in enumerate(each):
        for j, b in enumerate(each):
            one = moments_over_orders(a, b, 20)
            np.testing.assert_allclose((mean[i, j], variance[i, j]), one, rtol=1e-12)


def test_moments_over_orders__where_all_orders_score_the_same() -> None:
    # All directions of centred samples: what is projected is the same in any order.
    whole, other = (layer("Gaussian", 9, width, whitened=True, seed=width) for width in (8, 3))
    mean, variance = moments_over_orders(KernelSums.of(whole), KernelSums.of(other), 9)
    assert (mean, variance) == (pytest.approx(3), 0)
    assert chance_of(np.array(3.0), mean, variance) == 1


def test_moments_over_orders__of_three_samples_have_no_variance() -> None:
    one = KernelSums.of(layer("Gaussian", 3, 1, whitened=False, seed=0))
    mean, variance = moments_over_orders(one, one, 3)
    assert mean > 0
    assert np.isnan(variance)
    assert np.isnan(chance_of(mean, mean, variance))


def test_moments_over_orders__without_a_diagonal_have_no_variance() -> None:
    one = KernelSums.of(layer("Gaussian", 9, 2, whitened=False, seed=0))
    mean, variance = moments_over_orders(one, KernelSums(one.trace, one.squares, np.float64(np.nan)), 9)
    assert mean == pytest.approx(moments_over_orders(one, one, 9)[0])
    assert np.isnan(variance)


def test_chance_of__is_the_tail_of_a_gamma_distribution() -> None:
    score = np.array([0.1, 1.0, 2.5, 7.0])
    law = scipy.stats.gamma(a=4.0, scale=0.5)
    np.testing.assert_allclose(chance_of(score, law.mean(), law.var()), law.sf(score), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_chance_of__holds_its_level(kind: str) -> None:
    # Of independent pairs, each in an order of its own: 600 of them find 0.05 within 0.03.
    rng = np.random.default_rng(5)
    for whitened in (False, True):
        found = []
        for pair in range(30):
            a, b = (layer(kind, 60, 5, whitened=whitened, seed=2 * pair + side) for side in (0, 1))
            mean, variance = moments_over_orders(KernelSums.of(a), KernelSums.of(b), 60)
            score = scores(a, b, np.array([rng.permutation(60) for _ in range(20)]))
            found.append(chance_of(score, mean, variance))
        assert 0.02 < np.mean(np.array(found) < 0.05) < 0.08


@pytest.mark.parametrize(("k", "m", "samples"), [(10, 10, 100), (3, 8, 100), (30, 40, 100), (55, 55, 100)])
def test_spread_of_correlations__is_what_simulation_gives(k: int, m: int, samples: int) -> None:
    rng = np.random.default_rng(1)
    a, b = (layer("Gaussian", samples, width, whitened=True, seed=width) for width in (k, m))
    each = np.array([np.linalg.svd(a.T @ b[rng.permutation(samples)], compute_uv=False) for _ in range(400)])
    found = each.sum(axis=1).std() / np.square(each).sum(axis=1).std()
    assert spread_of_correlations(k, m, samples - 1) == pytest.approx(found, rel=0.08)


def test_spread_of_correlations__where_samples_fix_all_of_them() -> None:
    assert spread_of_correlations(5, 99, 99) == 0
    assert spread_of_correlations(0, 3, 99) == 0
