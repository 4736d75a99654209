"""Streaming moments: against a sum of outer products, split anywhere, and where cancellation would show."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import scatter

from dask_svcca.kernels.moments import merge, moments


def draw(seed: int, shape: tuple[int, int, int], *, complex_values: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(3.0, 1.0, shape)
    return values + 1j * rng.normal(size=shape) if complex_values else values


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_moments__agree_with_numpy_cov(dtype: str) -> None:
    x = draw(0, (40, 1, 5)).astype(dtype)
    found = moments(x)
    assert found.count == 40
    assert found.mean.dtype == found.scatter.dtype == np.float64
    np.testing.assert_allclose(found.mean, x[:, 0].astype(float).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.scatter[0] / 40, np.cov(x[:, 0].astype(float).T, bias=True), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_moments__centre_only_the_first_of_complex_blocks(dtype: str) -> None:
    x = draw(1, (30, 3, 4), complex_values=True).astype(dtype)
    found = moments(x)
    np.testing.assert_allclose(found.scatter, scatter(x), rtol=1e-12)
    np.testing.assert_allclose(found.scatter, found.scatter.conj().transpose(0, 2, 1), rtol=1e-14)


def test_moments__leave_their_input_alone() -> None:
    x = draw(2, (10, 2, 3))
    before = x.copy()
    moments(x)
    np.testing.assert_array_equal(x, before)


@given(
    seed=st.integers(0, 99),
    blocks=st.integers(1, 3),
    complex_values=st.booleans(),
    cuts=st.sets(st.integers(1, 19), max_size=19),
)
def test_merge__any_split_equals_the_whole(seed: int, blocks: int, complex_values: bool, cuts: set[int]) -> None:
    x = draw(seed, (20, blocks, 3), complex_values=complex_values)
    merged, whole = reduce(merge, map(moments, np.split(x, sorted(cuts)))), moments(x)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-11, atol=1e-11)


def test_merge__leaves_its_inputs_alone() -> None:
    first, second = moments(draw(3, (5, 1, 2))), moments(draw(4, (6, 1, 2)))
    before = first.scatter.copy(), second.scatter.copy()
    merge(first, second)
    np.testing.assert_array_equal(first.scatter, before[0])
    np.testing.assert_array_equal(second.scatter, before[1])


def test_merge__keeps_every_digit_under_a_mean_a_billion_times_the_spread() -> None:
    # Multiples of 1/1024, so that adding the mean rounds nothing.
    spread = np.random.default_rng(5).integers(-1024, 1024, (500, 1, 3)) / 1024
    found = reduce(merge, map(moments, np.array_split(spread + 2.0**30, 7)))
    np.testing.assert_allclose(found.scatter, scatter(spread), rtol=1e-6)
    exact = moments(spread + 2.0**30)
    np.testing.assert_allclose(exact.scatter, scatter(spread), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments__constant_neurons_do_not_vary(dtype: str) -> None:
    # 0.1 has no exact sum: a mean rounded once would leave every sample the same small distance from it.
    constant = np.full((1001, 1, 3), 0.1, dtype=dtype)
    constant[:, :, 1] = 1e6 / 3
    found = reduce(merge, map(moments, np.array_split(constant, 4)))
    np.testing.assert_array_equal(found.mean, constant[0, 0].astype(float))
    np.testing.assert_array_equal(found.scatter, 0)
