"""Operations of a device, against their definitions in NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from oracles import scatter

from dask_svcca.kernels.fourier import half_plane
from dask_svcca.kernels.moments import moments
from dask_svcca.kernels.products import Summing
from dask_svcca.kernels.projection import DoubleProjection
from dask_svcca.kernels.subspace import eigenbasis, gram_correction

if TYPE_CHECKING:
    from dask_svcca.devices.interface import Device


def draw(seed: int, shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(3.0, 1.0, shape)
    imaginary = 1j * rng.normal(size=shape) if np.dtype(dtype).kind == "c" else 0
    return (values + imaginary).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("cuts", [(), (7,), (1, 20, 39)])
def test_moments__agree_with_numpy_cov(device: Device, dtype: str, cuts: tuple[int, ...]) -> None:
    x = draw(0, (40, 1, 5), dtype)
    total = device.moments()
    for part in np.split(x, cuts):
        total.add(part)
    found = total.value
    assert found.count == 40
    assert found.mean.dtype == found.scatter.dtype == np.float64
    np.testing.assert_allclose(found.mean, x[:, 0].astype(float).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.scatter[0] / 40, np.cov(x[:, 0].astype(float).T, bias=True), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_moments__centre_only_the_first_of_complex_blocks(device: Device, dtype: str) -> None:
    x = draw(1, (30, 3, 4), dtype)
    before = x.copy()
    total = device.moments()
    for part in np.split(x, [11]):
        total.add(device.sent(part))
    np.testing.assert_allclose(total.value.scatter, scatter(x), rtol=1e-12)
    np.testing.assert_array_equal(x, before)


def test_moments__keep_every_digit_under_a_mean_a_billion_times_the_spread(device: Device) -> None:
    spread = np.random.default_rng(5).integers(-1024, 1024, (500, 1, 3)) / 1024
    total = device.moments()
    for part in np.array_split(spread + 2.0**30, 7):
        total.add(part)
    np.testing.assert_allclose(total.value.scatter, scatter(spread), rtol=1e-6)


def test_moments__of_constant_neurons_are_zero_to_rounding(device: Device) -> None:
    total = device.moments()
    for part in np.array_split(np.full((1001, 1, 3), 0.1, np.float32), 4):
        total.add(part)
    assert np.abs(total.value.scatter).max() < 1e-30


def test_moments__of_infinities_are_not_finite(device: Device) -> None:
    x = draw(2, (10, 1, 2))
    x[3, 0, 1] = np.inf
    total = device.moments()
    total.add(x)
    assert not np.isfinite(total.value.scatter).all()
    with pytest.raises(ValueError, match="no samples"):
        _ = device.moments().value


@pytest.mark.parametrize("grid", [(4,), (5, 6)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_split__has_the_blocks_of_the_unitary_transform(device: Device, grid: tuple[int, ...], dtype: str) -> None:
    x = draw(3, (7, *grid, 3), dtype)
    found = device.host(device.split(x, grid))
    whole = np.fft.fftn(x.astype(float), axes=range(1, len(grid) + 1), norm="ortho")
    assert found.dtype == np.complex128
    # The first is the zero frequency, and squares are those of the whole plane.
    np.testing.assert_allclose(found[:, 0], whole[(slice(None), *(0 for _ in grid))], rtol=1e-12)
    squares = np.square(np.abs(found)).sum(axis=(0, 2))
    places = [tuple(np.argwhere(np.isclose(np.square(np.abs(whole)).sum(axis=(0, -1)), one))[0]) for one in squares]
    for place, block in zip(places, np.moveaxis(found, 1, 0), strict=True):
        there = whole[(slice(None), *place)]
        assert min(np.abs(there - block).max(), np.abs(there.conj() - block).max()) < 1e-12


@pytest.mark.parametrize("is_complex", [False, True])
def test_eigenvectors__are_those_of_the_matrix(device: Device, is_complex: bool) -> None:
    x = draw(4, (30, 12), "complex128" if is_complex else "float64")
    matrix = x.conj().T @ x
    solvers: list[Any] = [device.eigenvectors] + ([] if is_complex else [device.eigenvectors_in_place])
    for solve in solvers:
        values, vectors = solve(matrix.copy())
        np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), rtol=1e-10)
        np.testing.assert_allclose(matrix @ vectors, vectors * values, rtol=0, atol=1e-10 * values[-1])
        np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(12), rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_leading_eigenvectors__are_as_many_as_are_chosen(device: Device, count: int) -> None:
    x = draw(4, (30, 12), "float64")
    matrix = x.T @ x
    seen = []

    def choose(values: np.ndarray) -> int:
        seen.append(values)
        return count

    values, vectors = device.leading_eigenvectors(matrix.copy(), choose)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], rtol=1e-10)
    np.testing.assert_array_equal(seen, [values])
    assert vectors.shape == (12, count)
    np.testing.assert_allclose(matrix @ vectors, vectors * values[:count], rtol=0, atol=1e-10 * values[0])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weak", [False, True])
def test_projection__makes_orthonormal_scores(device: Device, dtype: str, weak: bool) -> None:
    x = draw(5, (400, 1, 150)) * (np.logspace(0, -4, 150) if weak else 1.0)
    total = moments(x)
    basis = eigenbasis(replace(total, scatter=total.scatter.copy()), multiplicity=np.ones(1, int), epsilon=1e-7)
    assert basis is not None
    project = device.projection(total.mean, basis, np.dtype(dtype))
    assert project.dtype == (np.float64 if weak else np.dtype(dtype))
    scores = np.empty((len(basis.spectrum), 400), project.dtype).T
    project(x[:300], scores[:300])
    project(device.sent(x[300:]), scores[300:])
    exact = np.empty(scores.shape)
    DoubleProjection(total.mean, basis)(x, exact)
    np.testing.assert_allclose(scores, exact, rtol=0, atol=1e-6 if dtype == "float32" else 1e-7)
    if weak:
        factor = gram_correction(scores.T @ scores)
        corrected = device.projection(total.mean, basis, np.dtype(dtype), {0: factor})
        assert corrected.dtype == np.float64
        corrected(x, scores)
        np.testing.assert_allclose(scores.T @ scores, np.eye(scores.shape[1]), rtol=0, atol=1e-9)


def test_projection__of_complex_blocks(device: Device) -> None:
    x = draw(6, (60, 3, 4), "complex128")
    total = moments(x)
    multiplicity = np.array([1, 2, 2])
    basis = eigenbasis(replace(total, scatter=total.scatter.copy()), multiplicity=multiplicity, epsilon=1e-7)
    assert basis is not None
    scores = np.empty((len(basis.spectrum), 60), np.complex64).T
    project = device.projection(total.mean, basis, np.dtype(np.complex64))
    exact = np.empty(scores.shape, np.complex128)
    DoubleProjection(total.mean, basis)(x, exact)
    out = np.empty(scores.shape[::-1], project.dtype).T
    project(x, out)
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("most", [2**14, 64])
@pytest.mark.parametrize("dtypes", [("float32",) * 2, ("float64",) * 2, ("complex64",) * 2, ("float32", "complex64")])
def test_products__are_those_of_everything(device: Device, most: int, dtypes: tuple[str, str]) -> None:
    a, b = (draw(seed, (width, 300), dtype) for seed, width, dtype in zip((7, 8), (9, 5), dtypes, strict=True))
    total, own = device.products(most), device.products(most)
    for start in range(0, 300, 90):
        part_a, part_b = (np.ascontiguousarray(each[:, start : start + 90]) for each in (a, b))
        total.add(device.sent(part_a), device.sent(part_b))
        sent = device.sent(part_a)
        own.add(sent.conj(), sent)
    tolerance = 1e-10 if "float64" in dtypes else 1e-2
    np.testing.assert_allclose(total.value, a.astype("complex128") @ b.T, rtol=0, atol=tolerance)
    np.testing.assert_allclose(own.value, a.astype("complex128").conj() @ a.T, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(device.host(total.kept), total.value)
    with pytest.raises(ValueError, match="nothing was added yet"):
        _ = device.products(most).value


@pytest.mark.parametrize("double", [False, True])
def test_pieces__are_all_samples(device: Device, double: bool) -> None:
    x = draw(9, (4, 30), "float32")
    total = device.products(8)
    for piece in device.pieces(4, 30, x.dtype, Summing(8, double)).of(device.sent(x)):
        total.add(piece, piece)
    exact = x.astype(float)
    np.testing.assert_allclose(total.value, exact @ exact.T, rtol=1e-13 if double else 1e-6)


def test_multiply__writes_into_what_is_given(device: Device) -> None:
    a, b = draw(10, (5, 7)), draw(11, (7, 3))
    out = np.zeros((3, 5)).T
    assert device.multiply(device.sent(a), b, out=out) is out
    np.testing.assert_allclose(out, a @ b, rtol=1e-14)
    square = np.zeros((9, 9), np.float32)
    single = a.astype(np.float32)
    device.multiply(single, device.sent(single).T, out=square[2:7, 1:6])
    np.testing.assert_allclose(square[2:7, 1:6], single @ single.T, rtol=1e-6)
    assert not square[:2].any()


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_leverages_and_weighted_squares__are_sums_of_squares(device: Device, dtype: str) -> None:
    scores = draw(12, (6, 20), dtype)
    squares = np.square(np.abs(scores.astype("complex128")))
    # One behind the other and alike, with some directions left out, and of other sizes.
    for ends in ([(0, 2), (3, 6)], [(0, 2), (2, 4), (4, 6)], [(0, 2), (3, 5)], [(0, 1), (1, 2), (2, 5), (5, 6)]):
        places = [slice(*one) for one in ends]
        found = device.host(device.leverages(device.sent(scores), places))
        # NumPy squares in the precision of the scores.
        np.testing.assert_allclose(found, [squares[one].sum(axis=0) for one in places], rtol=1e-6)
    rows = [np.array([0, 4]), np.array([5, 1, 2])]
    weights = [[np.array([2.0, 3.0]), np.array([1.0, 0.5, 4.0])], [np.ones(2), np.ones(3)]]
    out = [np.zeros((4, 20)) for _ in weights]
    device.weighted_squares(device.sent(scores), rows, weights, 7, [3, 1], out)
    for target, one in zip(out, weights, strict=True):
        np.testing.assert_allclose(target[[3, 1]], [w @ squares[r] for w, r in zip(one, rows, strict=True)], rtol=1e-12)
        assert not target[[0, 2]].any()


@pytest.mark.parametrize("same", [False, True])
def test_gram_products__are_those_of_the_matrices(device: Device, same: bool) -> None:
    a = [draw(seed, (width, 70), "float32") - 3 for seed, width in ((20, 9), (21, 4), (22, 90))]
    b = a if same else [draw(seed, (width, 70), "float32") - 3 for seed, width in ((23, 5), (24, 60))]
    block = 40
    products = device.gram_products(len(a), len(b), 70, block**2, np.dtype(np.float32), same=same)
    for row in range(0, 70, block):
        for column in range(0, row + 1, block):
            rows, columns = slice(row, row + block), slice(column, column + block)
            sides = [[device.sent(z) for z in side] for side in ((a,) if same else (a, b))]
            groups: list[list[Any]] = [[(z[:, rows], z[:, columns]) for z in side] for side in sides]
            # The last member is given as a block of its Gram matrix.
            last = groups[0][-1]
            groups[0][-1] = device.sent(np.ascontiguousarray(device.host(last[1]).T @ device.host(last[0])))
            products.add(groups, 1 if row == column else 2)
    grams = [[one.astype(float).T @ one for one in side] for side in (a, b)]
    expected = [[np.sum(one * other) for other in grams[1]] for one in grams[0]]
    total, own = products.take()
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(own[0], [np.square(one).sum() for one in grams[0]], rtol=1e-5)
    assert len(own) == (1 if same else 2)
    anew, own_anew = products.take()
    assert not anew.any()
    assert not any(one.any() for one in own_anew)
    assert total.any()


def test_arrays__may_be_read_only_backwards_or_of_other_types(device: Device) -> None:
    fixed = draw(13, (4, 3))
    fixed.flags.writeable = False
    out = np.empty((4, 4))
    device.multiply(fixed[::-1], fixed[::-1].T, out=out)
    np.testing.assert_allclose(out, fixed[::-1] @ fixed[::-1].T, rtol=1e-14)
    total = device.moments()
    total.add(np.arange(12, dtype=np.uint8).reshape(6, 1, 2))
    np.testing.assert_allclose(total.value.mean, [5, 6])


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">c8", ">c16", "<f2", ">i8", ">u2", "i1", "?", "longdouble"])
def test_arrays__of_any_type_and_order_of_bytes_have_their_values(device: Device, dtype: str) -> None:
    values = draw(30, (7, 5), "complex128" if np.dtype(dtype).kind == "c" else "float64").astype(dtype)
    expected = values.astype("complex128" if values.dtype.kind == "c" else "float64")
    found = device.host(device.sent(values))
    np.testing.assert_array_equal(found, expected)
    total = device.moments()
    total.add(values[:, np.newaxis])
    np.testing.assert_allclose(total.value.mean, expected.mean(axis=0), rtol=1e-12)


def test_arrays__may_lie_askew_or_far_apart_in_memory(device: Device) -> None:
    values = draw(31, (6, 4), "float32")
    records = np.zeros((6, 4), [("flag", "i1"), ("value", "f4")])
    records["value"] = values
    columns = np.asfortranarray(values)
    wide = np.zeros((12, 8), "f4")
    wide[::2, ::2] = values
    shifted = np.frombuffer(b"x" + values.tobytes(), np.uint8)[1:].view("f4").reshape(6, 4)
    for given in (records["value"], columns, wide[::2, ::2], shifted, values[::-1, ::-1][::-1, ::-1]):
        np.testing.assert_array_equal(device.host(device.sent(given)), values)
    same = np.broadcast_to(values[:1], (6, 4))
    np.testing.assert_array_equal(device.host(device.sent(same)), same)


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64", "complex128"])
@pytest.mark.parametrize("shape", [(9, 1, 1), (1, 1, 4), (2, 3, 1), (70, 1, 40)])
def test_moments__of_one_sample_one_neuron_or_many(device: Device, dtype: str, shape: tuple[int, int, int]) -> None:
    x = draw(40, shape, dtype)
    total = device.moments()
    for one in x:
        total.add(one[np.newaxis])
    assert total.value.count == shape[0]
    exact = x.astype("complex128")
    np.testing.assert_allclose(total.value.mean, exact[:, 0].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(total.value.scatter, scatter(exact), rtol=0, atol=1e-11 * shape[0])


@pytest.mark.parametrize("grid", [(1,), (1, 1), (2, 1), (1, 3), (3, 2)])
def test_split__of_narrow_grids(device: Device, grid: tuple[int, ...]) -> None:
    x = draw(41, (5, *grid, 2), "float32")
    found = device.host(device.split(x, grid))
    weights = half_plane(grid).multiplicity
    np.testing.assert_allclose(found[:, 0], x.astype(float).reshape(5, -1, 2).mean(axis=1) * np.prod(grid) ** 0.5)
    squares = np.square(np.abs(found)).sum(axis=2) @ weights
    np.testing.assert_allclose(squares, np.square(x.astype(float)).reshape(5, -1).sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 70])
@pytest.mark.parametrize("is_complex", [False, True])
def test_eigenvectors__of_all_sizes(device: Device, n: int, is_complex: bool) -> None:
    x = draw(42, (n + 3, n), "complex128" if is_complex else "float64")
    matrix = x.conj().T @ x
    values, vectors = device.eigenvectors(matrix)
    np.testing.assert_allclose((vectors * values) @ vectors.conj().T, matrix, rtol=0, atol=1e-10 * values[-1])
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(n), rtol=0, atol=1e-12)
    assert (np.diff(values) >= 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("widths", [(1, 1), (1, 40), (40, 33)])
def test_products__of_one_direction_or_many(device: Device, dtype: str, widths: tuple[int, int]) -> None:
    a, b = (draw(seed, (width, 50), dtype) for seed, width in zip((43, 44), widths, strict=True))
    total = device.products(16)
    for start in (0, 49):
        total.add(device.sent(a[:, start:][:, :49]), device.sent(b[:, start:][:, :49]))
    exact = a.astype("complex128") @ b.T
    np.testing.assert_allclose(total.value, exact, rtol=0, atol=1e-3 if dtype != "float64" else 1e-10)
    out = np.zeros(widths, dtype)
    np.testing.assert_allclose(device.multiply(a, b.T, out=out), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
def test_sums_of_squares__of_none_or_one_direction(device: Device, dtype: str) -> None:
    scores = draw(45, (3, 8), dtype)
    squares = np.square(np.abs(scores.astype("complex128")))
    found = device.host(device.leverages(device.sent(scores), [slice(0, 1), slice(1, 1), slice(1, 3)]))
    np.testing.assert_allclose(found, [squares[0], np.zeros(8), squares[1:].sum(axis=0)], rtol=1e-6)
    for places in ([slice(0, 0)], [slice(0, 1), slice(1, 1)], [slice(0, 0), slice(0, 0)]):
        found = device.host(device.leverages(device.sent(scores), places))
        expected = [squares[one].sum(axis=0) for one in places]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    out = [np.full((2, 8), 7.0)]
    weights = [[np.array([2.0]), np.array([0.5, 3.0])]]
    device.weighted_squares(device.sent(scores), [np.array([1]), np.array([0, 2])], weights, 1, [1, 0], out)
    np.testing.assert_allclose(out[0], [0.5 * squares[0] + 3 * squares[2], 2 * squares[1]], rtol=1e-12)


@pytest.mark.parametrize("width", [1, 40])
def test_projection__on_one_direction_or_many_of_one_sample(device: Device, width: int) -> None:
    x = draw(46, (90, 1, width), "float32")
    total = moments(x)
    basis = eigenbasis(replace(total, scatter=total.scatter.copy()), multiplicity=np.ones(1, int), epsilon=1e-7)
    assert basis is not None
    project = device.projection(total.mean, basis, np.dtype(np.float32))
    scores = np.empty((len(basis.spectrum), 90), project.dtype).T
    for sample in range(90):
        project(x[sample : sample + 1], scores[sample : sample + 1])
    np.testing.assert_allclose(scores.T @ scores, np.eye(width), rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 40])
def test_gram_products__of_one_member_of_one_direction(device: Device, samples: int) -> None:
    a = draw(47, (1, samples), "float32")
    products = device.gram_products(1, 1, samples, samples**2, np.dtype(np.float32), same=True)
    sent = device.sent(a)
    products.add([[(sent, sent)]], 1)
    exact = np.square(np.square(a.astype(float)).sum())
    total, own = products.take()
    np.testing.assert_allclose(total, [[exact]], rtol=1e-6)
    np.testing.assert_allclose(own[0], [exact], rtol=1e-6)
