"""Subspaces: against an SVD, the threshold against counting, and where rounding noise must not pass for a direction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import basis as svd_basis
from oracles import fewest

from dask_svcca.kernels.factors import factor
from dask_svcca.kernels.moments import moments
from dask_svcca.kernels.noise import live_noise, neuron_noise
from dask_svcca.kernels.subspace import (
    Eigenbasis,
    dual_basis,
    eigenbasis,
    eigenbasis_of_rows,
    gram_correction,
    project,
)
from dask_svcca.kernels.threshold import leading_directions


def full(x: np.ndarray, multiplicity: Any = None) -> Eigenbasis:
    """Eigenbasis of samples: (sample, neuron), or (sample, block, neuron)."""
    samples = x if x.ndim == 3 else x[:, np.newaxis]
    counts = np.ones(samples.shape[1], dtype=int) if multiplicity is None else np.array(multiplicity)
    epsilon = float(np.finfo(x.dtype).eps)
    found = eigenbasis(moments(samples), multiplicity=counts, epsilon=epsilon)
    if found is None:
        found = eigenbasis_of_rows(factor(list(np.moveaxis(samples, 1, 0))), multiplicity=counts, epsilon=epsilon)
    return found


def kept(basis: Eigenbasis, variance: float | None, multiplicity: Any = 1) -> np.ndarray:
    """Which directions of a basis a threshold over all of its blocks keeps."""
    weights = np.broadcast_to(multiplicity, basis.block.max() + 1)[basis.block]
    return leading_directions(basis.spectrum, weights, variance)


def correlated(samples: int, neurons: int, rank: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, rank)) @ rng.normal(size=(rank, neurons)) + 2.0


def projector(basis: np.ndarray) -> np.ndarray:
    """What two bases of one subspace have in common."""
    return basis @ basis.conj().T


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0, None])
def test_eigenbasis__agrees_with_svd(variance: float | None) -> None:
    x = correlated(80, 12, 12)
    found = full(x)
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(found.spectrum, singular**2, rtol=1e-10)
    np.testing.assert_allclose(found.total, (singular**2).sum(), rtol=1e-12)
    scores = project(x[:, np.newaxis], x.mean(axis=0), found.loadings / np.sqrt(found.spectrum), found.block)
    leading = kept(found, variance)
    expected = svd_basis(x, variance)
    assert leading.sum() == expected.shape[1]
    np.testing.assert_allclose(projector(scores[:, leading]), projector(expected), rtol=0, atol=1e-10)


def test_eigenbasis__complex_blocks_share_one_threshold() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3, 4)) + 1j * rng.normal(size=(60, 3, 4))
    x *= np.array([3.0, 1.0, 0.3])[:, np.newaxis]
    multiplicity = np.array([1, 2, 2])
    found = full(x, multiplicity)
    leading = kept(found, 0.9, multiplicity)
    # Every block as often as it counts, as one great covariance would have it.
    every = np.concatenate([np.linalg.eigvalsh(moments(x).scatter[b]) for b in (0, 1, 1, 2, 2)])
    np.testing.assert_allclose(found.total, every.sum(), rtol=1e-12)
    smallest = np.sort(every)[::-1][fewest(every, 0.9) - 1]
    np.testing.assert_array_equal(leading, found.spectrum >= smallest * (1 - 1e-9))
    assert 0 < leading[found.block == 1].sum() < 4
    assert not leading[found.block == 2].any()
    for block, scatter in enumerate(moments(x).scatter):
        mine = found.loadings[:, found.block == block]
        diagonal = mine.conj().T @ scatter @ mine
        np.testing.assert_allclose(mine.conj().T @ mine, np.eye(4), rtol=0, atol=1e-12)
        np.testing.assert_allclose(diagonal, np.diag(found.spectrum[found.block == block]), rtol=0, atol=1e-9)


def test_eigenbasis__order_is_by_block_then_falling() -> None:
    x = np.random.default_rng(2).normal(size=(50, 3, 4)) * np.array([1.0, 5.0, 2.0])[:, np.newaxis]
    found = full(x)
    order = np.lexsort((-found.spectrum, found.block))
    np.testing.assert_array_equal(order, np.arange(12))
    leading = kept(found, 0.7)
    assert 0 < leading.sum() < 12
    for block in range(3):
        # The first of each block: a run of directions.
        own = leading[found.block == block]
        np.testing.assert_array_equal(own, np.sort(own)[::-1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_eigenbasis__finds_a_deficient_rank(rank: int, dtype: str) -> None:
    assert len(full(correlated(100, 20, rank).astype(dtype)).spectrum) == rank


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3])
def test_eigenbasis__constant_neurons_have_no_direction(value: float, dtype: str) -> None:
    constant = np.full((100, 6), value, dtype=dtype)
    assert len(full(constant).spectrum) == 0
    # Nor does their mean, however large, drown neurons that vary.
    varied = np.random.default_rng(3).normal(size=(100, 2)).astype(dtype)
    assert len(full(np.hstack([constant, varied])).spectrum) == 2


@pytest.mark.parametrize("value", [0.1, 1e9 / 3])
def test_dual_basis__constant_neurons_have_no_direction(value: float) -> None:
    # What is left of a constant when a mean that was rounded is taken off.
    left = np.full((20, 50), value) - np.nextafter(value, 1)
    squares = np.full(50, 20 * value**2)
    found = dual_basis(left @ left.T, neuron_noise(squares, squares, 20, epsilon=2.2e-16))
    assert found is not None
    basis, scores = found
    assert len(basis.spectrum) == scores.shape[1] == 0


@pytest.mark.parametrize("neurons", [10, 11, 30])
def test_eigenbasis__has_fewer_directions_than_samples(neurons: int) -> None:
    x = np.random.default_rng(5).normal(size=(10, 2, neurons)) + 100
    found = full(x)
    # Centring costs the first block one.
    np.testing.assert_array_equal(np.bincount(found.block), [9, 10])


@given(
    spectrum=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    weights=st.data(),
    share=st.floats(0.01, 1.0),
)
def test_leading_directions__are_the_fewest_that_reach_the_share_and_their_equals(
    spectrum: list[int], weights: st.DataObject, share: float
) -> None:
    counts = weights.draw(st.lists(st.sampled_from([1, 2]), min_size=len(spectrum), max_size=len(spectrum)))
    values = np.array(spectrum, dtype=float)
    kept = leading_directions(values, np.array(counts), share)
    explained = values * counts
    reached = explained[kept].sum()
    assert reached >= share * explained.sum() * (1 - 1e-9)
    assert values[kept].min() > values[~kept].max(initial=0)
    last = kept & (values == values[kept].min())
    assert reached - explained[last].sum() < share * explained.sum()
    # As many as in a covariance that has every direction as often as it counts.
    whole = fewest(np.repeat(values, counts), share)
    assert (kept * counts).sum() - counts @ last < whole <= (kept * counts).sum()


@pytest.mark.parametrize("count", range(1, 11))
def test_leading_directions__reaching_the_share_is_enough(count: int) -> None:
    # 0.7 * 10 is more than 7.
    values = np.array([float(count)] + [0.25] * 4 * (10 - count))
    assert leading_directions(values, np.ones(len(values), dtype=int), count / 10).sum() == 1


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 4), (5e-7, 4), (-5e-7, 4), (2e-6, 2)])
def test_leading_directions__equal_to_rounding_stay_together(gap: float, expected: int) -> None:
    # The threshold falls behind the second; of two blocks, as of a Fourier transform.
    values = np.array([4.0, 1.0, 1.0 - gap, 1.0 - gap, 0.5])
    kept = leading_directions(values, np.ones(5, dtype=int), 0.6)
    assert kept.sum() == expected
    turned = leading_directions(values[::-1].copy(), np.ones(5, dtype=int), 0.6)
    np.testing.assert_array_equal(turned, kept[::-1])


@pytest.mark.parametrize("variance", [1.0, None])
def test_leading_directions__all_of_the_variance_is_all_directions(variance: float | None) -> None:
    # Tenths, whose running sum does not end exactly at their sum.
    assert leading_directions(np.full(10, 0.1), np.ones(10, dtype=int), variance).all()


def test_leading_directions__of_none_are_none() -> None:
    assert leading_directions(np.zeros(0), np.zeros(0, dtype=int), 0.99).shape == (0,)


@pytest.mark.parametrize("variance", [0.9, None])
@pytest.mark.parametrize("neurons", [31, 200])
def test_dual_basis__agrees_with_svd(neurons: int, variance: float | None) -> None:
    x = np.random.default_rng(6).normal(size=(30, neurons)) * np.linspace(3, 0.1, neurons) + 1
    centred = x - x.mean(axis=0)
    noise = live_noise((centred**2).sum(axis=0)[np.newaxis], x.mean(axis=0), len(x), np.ones(1, int), epsilon=2e-16)
    basis = dual_basis(centred @ centred.T, noise)
    assert basis is not None
    found, scores = basis
    leading = kept(found, variance)
    expected = svd_basis(x, variance)
    assert leading.sum() == expected.shape[1]
    np.testing.assert_allclose(projector(scores[:, leading]), projector(expected), rtol=0, atol=1e-9)
    np.testing.assert_allclose(scores.T @ scores, np.eye(scores.shape[1]), rtol=0, atol=1e-12)
    singular = np.linalg.svd(centred, compute_uv=False)[: len(found.spectrum)]
    np.testing.assert_allclose(found.spectrum, singular**2, rtol=1e-9)


def test_dual_basis__an_offset_common_to_all_samples_does_not_matter() -> None:
    x = np.random.default_rng(9).normal(size=(20, 30))
    centred, offset = x - x.mean(axis=0), np.linspace(-1, 1, 30)
    expected = dual_basis(centred @ centred.T, np.full(30, 1e-30))
    found = dual_basis((centred + offset) @ (centred + offset).T, np.full(30, 1e-30))
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found[0].spectrum, expected[0].spectrum, rtol=1e-12)


def test_project__centres_the_first_block_only() -> None:
    rng = np.random.default_rng(7)
    x, mean, weights = rng.normal(size=(9, 3, 4)), rng.normal(size=4), rng.normal(size=(4, 5))
    block = np.array([0, 0, 2, 2, 2])
    expected = np.stack([(x[:, b] - mean * (b == 0)) @ weights[:, d] for d, b in enumerate(block)], axis=1)
    np.testing.assert_allclose(project(x, mean, weights, block), expected, rtol=1e-12)


@pytest.mark.parametrize("complex_values", [False, True])
def test_gram_correction__makes_scores_orthonormal(complex_values: bool) -> None:
    rng = np.random.default_rng(8)
    orthonormal, _ = np.linalg.qr(rng.normal(size=(50, 6)) + 1j * complex_values * rng.normal(size=(50, 6)))
    scores = orthonormal @ (np.eye(6) + 1e-2 * rng.normal(size=(6, 6)))
    correction = gram_correction(scores.conj().T @ scores)
    # A direction takes only from those of larger variance, which come first.
    np.testing.assert_array_equal(correction[np.tril_indices(6, -1)], 0)
    corrected = scores @ correction
    np.testing.assert_allclose(corrected.conj().T @ corrected, np.eye(6), rtol=0, atol=1e-13)
    np.testing.assert_allclose(projector(corrected), projector(orthonormal), rtol=0, atol=1e-12)
