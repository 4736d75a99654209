"""Couplings on a device, against singular values by LAPACK: spectra of every kind, real and complex."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_svcca.kernels.couplings import HostCouplings
from dask_svcca.kernels.pairs import PairStack, Side

if TYPE_CHECKING:
    from dask_svcca.devices.interface import Device
    from dask_svcca.kernels.pairs import Couplings

K, L = 70, 90


def unitary(rng: np.random.Generator, n: int, *, is_complex: bool) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(n, n)) + (1j * rng.normal(size=(n, n)) if is_complex else 0))[0]


def spectra() -> dict[str, np.ndarray]:
    ends = np.ones(K // 2)
    return {
        "noise": np.linalg.svd(np.random.default_rng(0).normal(size=(K, L)) / 60, compute_uv=False),
        "power": np.arange(1, K + 1) ** -0.7,
        "dense in logarithms": 10.0 ** np.linspace(0, -8, K),
        "identical": np.ones(K),
        "half hardly there": np.r_[ends, np.full(K - len(ends), 1e-5)],
        "half of rounding": np.r_[ends, np.full(K - len(ends), 1e-9)],
        "half zero": np.r_[ends, np.zeros(K - len(ends))],
        "tiny": np.full(K, 5e-7),
        "zero": np.zeros(K),
        "pairs of equals": np.repeat(np.linspace(0.9, 0.1, K // 2), 2),
    }


def coupling(singular: np.ndarray, *, is_complex: bool, turned: bool = False) -> np.ndarray:
    rng = np.random.default_rng(1)
    left, right = unitary(rng, K, is_complex=is_complex), unitary(rng, L, is_complex=is_complex)
    found = (left * singular) @ right[:, :K].conj().T
    return found.conj().T if turned else found


def stacked(device: Device, matrices: list[np.ndarray], *, single: bool = False) -> Couplings:
    """A stack of pairs of one row of members with all others, as a tile would hand it over."""
    cells = np.stack(matrices)[np.newaxis]
    if single:
        cells = cells.astype(np.complex64 if cells.dtype.kind == "c" else np.float32)
    count = len(matrices)
    return device.couplings([(device.sent(cells), np.zeros(count, int), np.arange(count))])


@pytest.fixture(params=[(complex_values, turned) for complex_values in (False, True) for turned in (False, True)])
def matrices(request: pytest.FixtureRequest) -> list[np.ndarray]:
    is_complex, turned = request.param
    return [coupling(singular, is_complex=is_complex, turned=turned) for singular in spectra().values()]


@pytest.mark.parametrize("single", [False, True])
def test_correlations__and_their_sums_are_those_of_lapack(
    device: Device, matrices: list[np.ndarray], single: bool
) -> None:
    couplings = stacked(device, matrices, single=single)
    assert couplings.shape == (len(matrices), *matrices[0].shape)
    found = couplings.correlations(single=single, many=False)
    expected = np.array(list(spectra().values()))
    assert (np.diff(found, axis=1) <= 0).all()
    assert 0 <= found.min() <= found.max() <= 1
    # Scores in single precision are off by 1e-7 themselves, and squares of nothing are rounding.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if single else 1e-7)
    sums = couplings.correlation_sums(single=single, many=False)
    if sums is None:
        assert device.name == "cpu"
        sums = found.sum(axis=1)
    np.testing.assert_allclose(sums / K, expected.mean(axis=1), rtol=0, atol=4e-7 if single else 3e-7)


def test_singular_sums__of_unequal_weights(device: Device, matrices: list[np.ndarray]) -> None:
    couplings = stacked(device, matrices)
    k, l = matrices[0].shape
    for weights in (np.ones, lambda n: np.arange(1, n + 1) ** -1.5, lambda n: 1e8 * np.logspace(0, -12, n)):
        a, b = (np.broadcast_to(weights(n), (len(matrices), n)) for n in (k, l))
        expected = [np.linalg.svd(a[0][:, None] * one * b[0], compute_uv=False).sum() for one in matrices]
        np.testing.assert_allclose(couplings.singular_sums(a, b), expected, rtol=3e-7, atol=1e-9)


def test_sums_of_squares__are_those_of_the_matrices(device: Device, matrices: list[np.ndarray]) -> None:
    couplings, whole = stacked(device, matrices), np.stack(matrices)
    squares, (k, l) = np.square(np.abs(whole)), matrices[0].shape
    rng = np.random.default_rng(2)
    a, b = rng.uniform(size=(len(whole), k)), rng.uniform(size=(len(whole), l))
    np.testing.assert_allclose(couplings.square_sums(), squares.sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(couplings.weighted_sums(a, None), np.einsum("pk,pkl->p", a, squares), rtol=1e-12)
    np.testing.assert_allclose(couplings.weighted_sums(a, b), np.einsum("pk,pkl,pl->p", a, squares, b), rtol=1e-12)
    np.testing.assert_allclose(couplings.adjoint.weighted_sums(b, a), couplings.weighted_sums(a, b), rtol=1e-12)
    np.testing.assert_allclose(couplings.host, whole, rtol=1e-13)
    np.testing.assert_allclose(couplings.squares, squares, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(couplings.weighted(a, b), a[:, :, None] * whole * b[:, None], rtol=1e-12)
    np.testing.assert_allclose(couplings.adjoint.host, whole.conj().swapaxes(1, 2), rtol=1e-13)
    np.testing.assert_allclose(couplings.leading(5, 4).host, whole[:, :5, :4], rtol=1e-13)
    with pytest.raises(ValueError, match="read-only"):
        couplings.host[0] = 0


def test_decomposition__is_one_of_the_matrices(device: Device, matrices: list[np.ndarray]) -> None:
    couplings, expected = stacked(device, matrices), np.array(list(spectra().values()))
    for one, whole in ((couplings, np.stack(matrices)), (couplings.adjoint, np.stack(matrices).conj().swapaxes(1, 2))):
        left, values, adjoint = one.decomposition
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose((left * values[:, None]) @ adjoint, whole, rtol=0, atol=1e-12)
        unit = np.broadcast_to(np.eye(K), (len(whole), K, K))
        np.testing.assert_allclose(left.conj().swapaxes(1, 2) @ left, unit, rtol=0, atol=1e-9)
        np.testing.assert_allclose(adjoint @ adjoint.conj().swapaxes(1, 2), unit, rtol=0, atol=1e-9)


def test_neuron_weights__are_sums_over_neurons(device: Device) -> None:
    rng = np.random.default_rng(3)
    matrices = [coupling(np.linspace(0.9, 0.1, K), is_complex=False, turned=turned) for turned in (False,) * 3]
    loadings = {4: rng.normal(size=(200, K)), 7: rng.normal(size=(150, K))}
    side = Side(
        rng.uniform(1, 2, (3, K)), np.ones(3), np.full(3, K), np.array([4, 7, 4]), {4: loadings[4], 7: loadings[7]}
    )
    weights, values = stacked(device, matrices).neuron_weights(side)
    for place, member in enumerate(side.member):
        left, singular, _ = np.linalg.svd(matrices[place], full_matrices=False)
        products = loadings[member] @ (np.sqrt(side.spectrum[place])[:, None] * left)
        np.testing.assert_allclose(weights[place], np.abs(products).sum(axis=0), rtol=1e-8)
        np.testing.assert_allclose(values[place], singular, rtol=1e-10)


def test_couplings__are_gathered_from_several_products(device: Device) -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(3, 2, 5, 4)).astype("f4"), rng.normal(size=(2, 2, 5, 4)).astype("f4")
    found = device.couplings(
        [(device.sent(first), np.array([2, 0]), np.array([1, 1])), (device.sent(second), np.array([1]), np.array([0]))]
    )
    assert found.host.dtype == np.float64
    np.testing.assert_array_equal(found.host, np.stack([first[2, 1], first[0, 1], second[1, 0]]))


SHAPES = ((1, 1), (1, 5), (5, 1), (2, 40), (31, 31), (32, 32), (33, 33), (32, 50), (50, 32), (33, 1), (40, 34))
"""Directions of both sides: one, and on both sides of where a device begins to use products."""


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("pairs", [1, 3, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_couplings__of_all_shapes(device: Device, shape: tuple[int, int], pairs: int, is_complex: bool) -> None:
    if pairs == 40 and min(shape) > 33:
        pytest.skip("as with fewer pairs")
    rng, (k, l) = np.random.default_rng(6), shape
    whole = rng.normal(size=(pairs, k, l)) + (1j * rng.normal(size=(pairs, k, l)) if is_complex else 0)
    whole /= 1.1 * np.linalg.norm(whole, axis=(1, 2), ord=2, keepdims=True)
    couplings, exact = stacked(device, list(whole)), np.linalg.svd(whole, compute_uv=False)
    assert couplings.shape == whole.shape
    for single in (False, True):
        np.testing.assert_allclose(couplings.correlations(single=single, many=pairs > 1), exact, rtol=0, atol=1e-6)
        sums = couplings.correlation_sums(single=single, many=pairs > 1)
        if sums is not None:
            np.testing.assert_allclose(sums / min(k, l), exact.mean(axis=1), rtol=0, atol=3e-7)
    a, b = rng.uniform(0.1, 2, (pairs, k)), rng.uniform(0.1, 2, (pairs, l))
    scaled = a[:, :, None] * whole * b[:, None, :]
    nuclear = np.linalg.svd(scaled, compute_uv=False).sum(axis=1)
    np.testing.assert_allclose(couplings.singular_sums(a, b), nuclear, rtol=1e-7)
    np.testing.assert_allclose(couplings.adjoint.singular_sums(b, a), nuclear, rtol=1e-7)
    np.testing.assert_allclose(couplings.weighted(a, b), scaled, rtol=1e-14)
    squares = np.square(np.abs(whole))
    np.testing.assert_allclose(couplings.weighted_sums(a, b), (a[:, :, None] * squares * b[:, None]).sum((1, 2)))
    np.testing.assert_allclose(couplings.square_sums(), squares.sum((1, 2)))
    for one, matrices in ((couplings, whole), (couplings.adjoint, whole.conj().swapaxes(1, 2))):
        left, values, adjoint = one.decomposition
        np.testing.assert_allclose(values, exact, rtol=0, atol=1e-12)
        np.testing.assert_allclose((left * values[:, None]) @ adjoint, matrices, rtol=0, atol=1e-12)
        unit = np.broadcast_to(np.eye(min(k, l)), (pairs, min(k, l), min(k, l)))
        np.testing.assert_allclose(left.conj().swapaxes(1, 2) @ left, unit, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0)])
def test_couplings__without_directions(device: Device, shape: tuple[int, int, int]) -> None:
    couplings = stacked(device, list(np.zeros(shape)))
    assert couplings.correlations(single=True, many=True).shape == (2, 0)
    assert not couplings.square_sums().any()
    assert not couplings.singular_sums(np.ones((2, shape[1])), np.ones((2, shape[2]))).any()


def test_couplings__twice_are_the_same_bits(device: Device, matrices: list[np.ndarray]) -> None:
    def numbers() -> list[np.ndarray]:
        couplings = stacked(device, matrices, single=True)
        ones = [np.ones((len(matrices), n)) for n in matrices[0].shape]
        sums = couplings.correlation_sums(single=True, many=False)
        found = [couplings.correlations(single=True, many=False), couplings.singular_sums(*ones)]
        return [*found, *couplings.decomposition, *([] if sums is None else [sums])]

    for first, second in zip(numbers(), numbers(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_pair_stack__of_a_device_is_as_that_of_the_processor(device: Device) -> None:
    rng = np.random.default_rng(5)
    matrices = [coupling(rng.uniform(size=K), is_complex=False) for _ in range(3)]
    members = np.arange(3)
    loadings = [{m: rng.normal(size=(40, n)) for m in range(3)} for n in (K, L)]
    sides = [
        Side(rng.uniform(1, 9, (3, n)), np.ones(3), np.full(3, n), members, own)
        for n, own in zip((K, L), loadings, strict=True)
    ]
    here = PairStack(HostCouplings(np.stack(matrices)), *sides, degrees=99)
    there = PairStack(stacked(device, matrices), *sides, degrees=99)
    for one, other in ((here, there), (here.reversed, there.reversed), (here.leading(40, 50), there.leading(40, 50))):
        assert one.shape == other.shape
        sums = "correlation_sum", "square_sum", "squared_norm", "nuclear_norm"
        for name in (*sums, "correlations", "squared_coupling"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=2e-7, atol=1e-8, err_msg=name)
        for found, expected in zip(other.neuron_weights, one.neuron_weights, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        vectors, values = other.canonical_vectors
        np.testing.assert_allclose(values, one.canonical_vectors[1], rtol=0, atol=1e-9)
        assert vectors.shape == one.canonical_vectors[0].shape
        assert other.coupling.shape == other.shape
