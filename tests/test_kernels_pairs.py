"""Pairs: canonical correlations against angles between subspaces, one pair or a stack of them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import example, given
from hypothesis import strategies as st

from dask_svcca.kernels.couplings import HostCouplings, gathered
from dask_svcca.kernels.pairs import PairStack, Side, canonical_correlations


def orthonormal(seed: int, samples: int, directions: int, *, complex_values: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    imaginary = 1j * rng.normal(size=(samples, directions)) if complex_values else 0
    return np.linalg.qr(rng.normal(size=(samples, directions)) + imaginary)[0]


@example(seed=337, k=6, m=6, complex_values=False)
@given(seed=st.integers(0, 999), k=st.integers(1, 8), m=st.integers(1, 8), complex_values=st.booleans())
def test_canonical_correlations__are_cosines_of_the_angles_between(
    seed: int, k: int, m: int, complex_values: bool
) -> None:
    a = orthonormal(seed, 20, k, complex_values=complex_values)
    b = orthonormal(seed + 1000, 20, m, complex_values=complex_values)
    found = canonical_correlations(a.conj().T @ b)
    assert found.shape == (min(k, m),)
    # Independently, by way of the sum of both projectors, whose eigenvalues are 1 + cosine and 1 - cosine.
    # SciPy's subspace_angles has the sine of some that are nearly right, and so loses four digits of their cosines.
    cosines = np.linalg.eigvalsh(a @ a.conj().T + b @ b.conj().T)[::-1][: min(k, m)] - 1
    np.testing.assert_allclose(found, cosines, rtol=0, atol=1e-13)


def test_canonical_correlations__of_a_stack_are_those_of_each() -> None:
    a, b = orthonormal(0, 30, 12).reshape(30, 4, 3), orthonormal(1, 30, 20).reshape(30, 4, 5)
    couplings = np.einsum("sik,sjl->ijkl", a, b)
    found = canonical_correlations(couplings)
    assert found.shape == (4, 4, 3)
    for i, j in np.ndindex(4, 4):
        np.testing.assert_allclose(found[i, j], canonical_correlations(couplings[i, j]), rtol=1e-13)


def test_canonical_correlations__of_a_subspace_with_itself_are_one() -> None:
    a = orthonormal(2, 30, 6)
    rotated = a @ orthonormal(3, 6, 6)
    np.testing.assert_allclose(canonical_correlations(a.T @ rotated), 1, rtol=1e-14)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("shape", [(70, 70), (64, 90), (90, 64), (63, 90)])
def test_canonical_correlations__in_single_precision_are_as_good(shape: tuple[int, int], is_complex: bool) -> None:
    rng = np.random.default_rng(3)
    samples = [rng.normal(size=(200, width)) + is_complex * 1j * rng.normal(size=(200, width)) for width in shape]
    samples[1][:, :40] = samples[0][:, :40]
    a, b = (np.linalg.qr(sample)[0] for sample in samples)
    coupling = a.conj().T @ b
    exact, found = canonical_correlations(coupling), canonical_correlations(coupling, single=True)
    assert found.shape == exact.shape
    assert (np.diff(found) <= 0).all()
    assert found[0] <= 1
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-8)


def test_canonical_correlations__in_single_precision_of_nothing_in_common() -> None:
    assert canonical_correlations(np.zeros((2, 70, 70)), single=True).max() == 0
    np.testing.assert_allclose(canonical_correlations(np.diag([1.0] * 69 + [0]), single=True)[-1], 0, rtol=0, atol=1e-7)


def test_canonical_correlations__do_not_leave_their_range() -> None:
    np.testing.assert_array_equal(canonical_correlations(np.diag([1 + 1e-15, 0.5, 0.0])), [1, 0.5, 0])


@pytest.mark.parametrize("shape", [(4, 0, 3), (4, 3, 0), (0, 2)])
def test_canonical_correlations__of_no_directions_are_none(shape: tuple[int, ...]) -> None:
    assert canonical_correlations(np.zeros(shape)).shape == (*shape[:-2], 0)


def test_pair_stack__leading_compares_the_leading_directions_only() -> None:
    a, b = orthonormal(4, 30, 6), orthonormal(5, 30, 5)
    spectra = np.array([[6.0, 5, 4, 3, 2, 1]]), np.array([[5.0, 4, 3, 2, 1]])
    sides = [Side(spectrum, np.ones(1), np.ones(1), np.zeros(1, int)) for spectrum in spectra]
    stack = PairStack(HostCouplings((a.T @ b)[np.newaxis]), *sides, degrees=29)
    leading = stack.leading(3, 2)
    angles = scipy.linalg.subspace_angles(a[:, :3], b[:, :2])
    np.testing.assert_allclose(leading.correlations[0], np.sort(np.cos(angles))[::-1], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(leading.a.spectrum, [[6, 5, 4]])
    np.testing.assert_array_equal(leading.b.spectrum, [[5, 4]])
    assert stack.leading(6, 5) is stack


def test_pair_stack__reversed_exchanges_the_sides() -> None:
    a, b = orthonormal(6, 30, 4, complex_values=True), orthonormal(7, 30, 3, complex_values=True)
    sides = [Side(np.ones((1, k)), np.ones(1), np.array([k]), np.zeros(1, int)) for k in (4, 3)]
    stack = PairStack(HostCouplings((a.conj().T @ b)[np.newaxis]), *sides, degrees=29, is_complex=True)
    np.testing.assert_allclose(stack.reversed.coupling[0], b.conj().T @ a, rtol=0, atol=1e-14)
    assert (stack.reversed.a, stack.reversed.b) == (stack.b, stack.a)
    np.testing.assert_allclose(stack.reversed.correlations, stack.correlations, rtol=0, atol=1e-14)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("complex_values", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        # All of some rows and columns; these column by column, back to front, and without the last.
        ([1, 1, 2, 2, 3, 3], [2, 3, 2, 3, 2, 3]),
        ([1, 2, 3, 1, 2, 3], [2, 2, 2, 3, 3, 3]),
        ([3, 3, 2, 2, 1, 1], [3, 2, 3, 2, 3, 2]),
        ([1, 1, 2, 2, 3], [2, 3, 2, 3, 2]),
        # As many as a rectangle has, but not one; a row, a column, and one twice.
        ([0, 0, 1, 1], [0, 2, 0, 2]),
        ([0, 0, 2, 2], [0, 1, 0, 1]),
        ([0, 1, 1, 2], [1, 0, 1, 0]),
        ([2, 2, 2], [0, 1, 2]),
        ([0, 1, 2], [1, 1, 1]),
        ([1, 1], [1, 1]),
    ],
)
def test_gathered__are_the_couplings_of_these_pairs(
    monkeypatch: pytest.MonkeyPatch, rows: list[int], columns: list[int], complex_values: bool, together: bool
) -> None:
    if not together:
        monkeypatch.setattr("dask_svcca.kernels.couplings.WIDE_CELL", 0)
    rng = np.random.default_rng(0)
    product = rng.normal(size=(12, 8)).astype(np.complex64 if complex_values else np.float32)
    if complex_values:
        product += np.complex64(1j) * rng.normal(size=product.shape).astype(np.float32)
    couplings = product.reshape(4, 3, 4, 2).swapaxes(1, 2)
    some = couplings, np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)
    pairs = zip(rows, columns, strict=True)
    expected = [product[3 * row : 3 * row + 3, 2 * column : 2 * column + 2] for row, column in pairs]
    found = gathered([some, some])
    assert found.dtype == np.result_type(product.dtype, np.float64)
    np.testing.assert_array_equal(found, [*expected, *expected])


@pytest.mark.parametrize("at_once", [1, 12, 40, 2**17])
@pytest.mark.parametrize("complex_values", [False, True])
def test_weighted_sums__of_some_numbers_at_a_time_are_those_of_all(
    monkeypatch: pytest.MonkeyPatch, complex_values: bool, at_once: int
) -> None:
    monkeypatch.setattr("dask_svcca.kernels.couplings.SQUARED_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    matrices = rng.normal(size=(7, 5, 3)) + (1j * rng.normal(size=(7, 5, 3)) if complex_values else 0)
    a, b, squares = rng.uniform(size=(7, 5)), rng.uniform(size=(7, 3)), np.abs(matrices) ** 2
    couplings = HostCouplings(matrices)
    np.testing.assert_allclose(couplings.weighted_sums(a, b), np.einsum("pk,pkl,pl->p", a, squares, b), rtol=1e-13)
    np.testing.assert_allclose(couplings.weighted_sums(a, None), np.einsum("pk,pkl->p", a, squares), rtol=1e-13)
    np.testing.assert_allclose(couplings.adjoint.weighted_sums(b, None), np.einsum("pl,pkl->p", b, squares), rtol=1e-13)
    # Where a layer keeps nothing.
    assert HostCouplings(matrices[:, :0]).weighted_sums(a[:, :0], b).tolist() == [0.0] * 7
    assert HostCouplings(matrices[:, :, :0]).weighted_sums(a, b[:, :0]).tolist() == [0.0] * 7


@pytest.mark.parametrize("shape", [(2, 70, 90), (2, 90, 70), (2, 3, 70, 70), (0, 70, 70)])
@pytest.mark.parametrize("complex_values", [False, True])
def test_canonical_correlations__by_gram_matrices_are_singular_values(
    complex_values: bool, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(2)
    matrices = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_values else 0)
    matrices /= 40
    expected = np.minimum(np.linalg.svd(matrices, compute_uv=False), 1)
    found = canonical_correlations(matrices, single=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
