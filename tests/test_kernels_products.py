"""Sums of products, against the product of everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_svcca.kernels import products
from dask_svcca.kernels.products import FEW_SAMPLES, Pieces, ProductSum, Room, Summing, samples_in_single


def samples(width: int, count: int, dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(width, count))
    if np.dtype(dtype).kind == "c":
        found = found + 1j * rng.normal(size=(width, count))
    return found.astype(dtype)


@pytest.mark.parametrize("most", [2**14, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@given(widths=st.tuples(st.integers(1, 9), st.integers(1, 9)), count=st.integers(1, 300), chunk=st.integers(1, 90))
def test_product_sum__is_the_product_of_everything(
    dtype: str, most: int, widths: tuple[int, int], count: int, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "SINGLE_SAMPLES", most)
        a, b = (samples(width, count, dtype, seed) for seed, width in enumerate(widths))
        total, own = ProductSum(), ProductSum()
        for start in range(0, count, chunk):
            part_a, part_b = (np.ascontiguousarray(each[:, start : start + chunk]) for each in (a, b))
            total.add(part_a, part_b)
            own.add(part_a.conj(), part_a)
    tolerance = 1e-12 if np.dtype(dtype).itemsize // (1 + (np.dtype(dtype).kind == "c")) == 8 else 1e-3
    np.testing.assert_allclose(total.value, a.astype("complex128") @ b.T, rtol=0, atol=tolerance)
    np.testing.assert_allclose(own.value, a.astype("complex128").conj() @ a.T, rtol=0, atol=tolerance)


def test_product_sum__of_real_and_complex() -> None:
    # A dense layer meets the zero frequency of a convolutional one.
    a, b = samples(5, 90, "float32", 0), samples(4, 90, "complex64", 1)
    for rows, columns in ((a, b), (b, a)):
        total = ProductSum()
        for start in range(0, 90, 30):
            total.add(*(np.ascontiguousarray(each[:, start : start + 30]) for each in (rows, columns)))
        np.testing.assert_allclose(total.value, rows.astype("complex128") @ columns.T, rtol=0, atol=1e-4)


def test_product_sum__adds_up_in_double_beyond_so_many_samples() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(5, 1000)).astype("float32") for _ in range(2))
    short, long = ProductSum(), ProductSum()
    for _ in range(16):
        short.add(a, b)
    for _ in range(40):
        long.add(a, b)
    assert short.value.dtype == "float32"
    assert long.value.dtype == "float64"
    np.testing.assert_allclose(long.value, 40 * (a.astype("float64") @ b.T), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("count", [300, 1000, 5000])
def test_product_sum__of_short_sums_added_up_in_single_precision_is_right_to_5e_8(count: int) -> None:
    rng, errors = np.random.default_rng(count), []
    length = -(-count // -(-count // FEW_SAMPLES))
    for _ in range(20):
        common = rng.normal(size=(count, 24))
        a, b = (
            np.linalg.qr(common + 0.3 * rng.normal(size=(count, 24)))[0].T.astype("float32", order="C")
            for _ in range(2)
        )
        exact = np.linalg.svd(a.astype("float64") @ b.T.astype("float64"), compute_uv=False)
        total = ProductSum(samples_in_single(FEW_SAMPLES))
        for start in range(0, count, length):
            total.add(*(np.ascontiguousarray(one[:, start : start + length]) for one in (a, b)))
        errors.append(np.linalg.svd(total.value.astype("float64"), compute_uv=False).mean() - exact.mean())
    # How much less it is where each is added up in double precision hangs on BLAS: nothing, or a half.
    assert np.abs(errors).max() < 5e-8


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_room__changes_no_bit_of_sums_that_are_formed_one_after_another(dtype: str) -> None:
    rng, room = np.random.default_rng(5), Room(np.dtype(dtype))
    for k, l in ((40, 40), (3, 70), (70, 3), (90, 30), (5, 5)):
        a, b = (rng.normal(size=(size, 30)).astype(dtype) for size in (k, l))
        pairs = [(a, a), (a, b), (b, b)]
        rooms = room.cut([(len(rows), len(columns)) for rows, columns in pairs])
        alone, within = [ProductSum() for _ in pairs], [ProductSum(room=one) for one in rooms]
        for (rows, columns), one, other in zip(pairs, alone, within, strict=True):
            for total in (one, one, other, other):
                total.add(rows, columns)
        for one, other, memory in zip(alone, within, rooms, strict=True):
            np.testing.assert_array_equal(one.value, other.value)
            assert np.shares_memory(other.value, memory)
    assert room.cut([]) == []


@pytest.mark.parametrize(("directions", "count"), [(1, 5000), (3, 20_000), (13, 5000), (20, 2000)])
def test_summing__of_few_directions_that_take_few_values_is_right_to_1e_7(directions: int, count: int) -> None:
    # One-hot: rounding of sums of equal numbers goes one way, and samples do not average it out.
    hot = np.eye(directions + 1)[np.random.default_rng(0).integers(0, directions + 1, count)]
    scores = np.linalg.svd(hot - hot.mean(axis=0), full_matrices=False)[0].T[:directions].astype("float32")
    summing = Summing.of(directions)
    total = ProductSum(samples_in_single(summing.samples))
    for piece in Pieces(directions, count, scores.dtype, summing).of(scores):
        total.add(piece, piece.copy())
    exact = scores.astype("float64") @ scores.T.astype("float64")
    found, expected = (np.linalg.svd(one, compute_uv=False).mean() for one in (total.value.astype("float64"), exact))
    assert abs(found - expected) < 1e-7


def test_product_sum__of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was added yet"):
        _ = ProductSum().value
