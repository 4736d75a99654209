"""Singular values of many matrices at once, against LAPACK's one by one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.kernels import lanes
from dask_svcca.kernels.couplings import HostCouplings, gathered

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("numba")


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LEAST_PAIRS", 1)


def random_matrices(pairs: int, k: int, l: int, rank: int, decay: float) -> np.ndarray:
    """Matrices of a rank with singular values that fall from 1 by so many powers of ten."""
    rng = np.random.default_rng(k * 1000 + l)
    left, right = (np.linalg.qr(rng.normal(size=(pairs, size, rank)))[0] for size in (k, l))
    return (left * 10.0 ** -np.linspace(0, decay, rank)) @ right.transpose(0, 2, 1)


@pytest.mark.parametrize("decay", [0.0, 0.5, 4.0, 12.0])
@pytest.mark.parametrize(
    ("pairs", "k", "l", "rank"),
    [(9, 2, 2, 2), (1, 3, 7, 3), (8, 5, 4, 4), (17, 11, 40, 6), (3, 40, 33, 33), (5, 70, 90, 70), (8, 6, 6, 1)],
)
def test_singular_values_abreast__are_those_of_lapack(pairs: int, k: int, l: int, rank: int, decay: float) -> None:
    matrices = random_matrices(pairs, k, l, rank, decay)
    found, exact = lanes.singular_values_abreast(matrices), np.linalg.svd(matrices, compute_uv=False)
    assert found is not None
    assert found.shape == exact.shape
    # Squaring costs a value of r about 1e-15 / r.
    assert np.all(np.abs(found - exact) <= np.minimum(5e-8, 2e-15 / np.maximum(exact, 1e-30) + 1e-15))


def test_singular_values_abreast__of_matrices_of_every_kind_side_by_side() -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    kinds = [np.zeros((9, 9)), np.eye(9), rotation, np.diag(np.arange(9) % 2), 1e-200 * rotation, 1e-9 * np.eye(9)]
    kinds += [np.diag(np.linspace(1, 0, 9)), np.ones((9, 9)) / 9, rng.normal(size=(9, 9)) / 9, np.triu(rotation)]
    matrices = np.array(kinds, dtype=np.float64)
    found = lanes.singular_values_abreast(matrices)
    np.testing.assert_allclose(found, np.linalg.svd(matrices, compute_uv=False), rtol=0, atol=5e-8)
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(found[1:3], 1, rtol=0, atol=1e-14)


@pytest.mark.parametrize("seed", range(20))
def test_singular_values_abreast__of_few_signs_among_zeros_are_those_of_lapack(seed: int) -> None:
    # Numbers cancel exactly here, at any step of the algorithm.
    rng = np.random.default_rng(seed)
    shape = 64, int(rng.integers(2, 30)), 30
    matrices = rng.integers(-1, 2, shape) * (rng.random(shape) < 0.1) / 30
    found, exact = lanes.singular_values_abreast(matrices), np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(found, exact, rtol=0, atol=5e-8)


def test_singular_values_abreast__of_one_do_not_depend_on_its_neighbours() -> None:
    matrices = random_matrices(20, 12, 15, 12, 2.0)
    found, turned = lanes.singular_values_abreast(matrices), lanes.singular_values_abreast(matrices[::-1])
    np.testing.assert_allclose(found, turned[::-1], rtol=1e-13)


@pytest.mark.parametrize("pairs", [3, 8, 9, 16, 17, 40])
@pytest.mark.parametrize(("k", "l"), [(2, 3), (7, 8), (10, 10), (24, 24), (33, 40)])
def test_singular_values_abreast__hang_on_nothing_that_lay_in_memory(
    pairs: int, k: int, l: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices, empty = np.random.default_rng(k).normal(size=(pairs, k, l)) / (k + l), np.empty
    found = set()
    for number in (np.nan, 0.0, 1e5, -3.0):
        with monkeypatch.context() as patched:

            def filled(*args: Any, number: float = number, **options: Any) -> np.ndarray:
                array = empty(*args, **options)
                array.fill(number if array.dtype.kind == "f" else 0)
                return array

            patched.setattr(np, "empty", filled)
            values = lanes.singular_values_abreast(matrices)
        assert values is not None
        found.add(values.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_singular_values_abreast__of_numbers_that_are_not_finite_are_left_to_lapack(bad: float) -> None:
    matrices = np.zeros((9, 4, 4))
    matrices[3, 1, 2] = bad
    assert lanes.singular_values_abreast(matrices) is None


def test_singular_values_abreast__leave_what_is_complex_or_large_to_lapack() -> None:
    assert lanes.singular_values_abreast(np.zeros((2, 3, 3), dtype=complex)) is None
    assert lanes.singular_values_abreast(np.zeros((2, 1, 3))) is None
    assert lanes.singular_values_abreast(np.zeros((1, 300, 300))) is None


def test_canonical_correlations__abreast_stay_in_their_range() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 6, 6)))[0]
    couplings = HostCouplings(rotation * (1 + 1e-9))
    found = couplings.correlations(single=True, many=True)
    assert found.max() <= 1
    np.testing.assert_allclose(found, 1, rtol=1e-12)
    sums = couplings.correlation_sums(single=True, many=True)
    assert sums is not None
    assert sums.max() <= 6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("k", "l"), [(5, 9), (9, 5), (1, 4), (40, 36)])
def test_couplings__in_a_product_are_solved_as_if_copied(
    k: int, l: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(k)
    rows, columns = np.array([0, 0, 2, 3, 1, 1, 3]), np.array([1, 2, 0, 0, 0, 2, 1])
    product = (rng.normal(size=(4 * k, 3 * l)) / (k + l)).astype(dtype)
    cells = product.reshape(4, k, 3, l).swapaxes(1, 2)
    pieces = [(cells, rows, columns), (cells[::2], rows[:3] // 2, columns[:3])]
    stack = gathered(pieces)
    monkeypatch.setattr("dask_svcca.kernels.couplings.LEAST_CELLS", 3)
    found = HostCouplings(pieces)
    assert found.shape == stack.shape
    assert found.adjoint.shape == (10, l, k)
    exact = np.minimum(np.linalg.svd(stack, compute_uv=False), 1)
    for one in (found, found.adjoint):
        np.testing.assert_allclose(one.correlations(single=True, many=True), exact, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.square_sums(), np.square(stack).sum(axis=(1, 2)), rtol=1e-14)
        sums = one.correlation_sums(single=True, many=True, each=True)
        assert (sums is None) == (min(k, l) == 1)
        if sums is not None:
            np.testing.assert_allclose(sums, exact.sum(axis=1), rtol=1e-12)
    # Nobody asked for more than these, and one array was made only where lanes do not solve them.
    assert ("_given" in vars(found)) == (min(k, l) == 1)
    np.testing.assert_array_equal(found.host, stack)
    np.testing.assert_array_equal(found.adjoint.host, stack.transpose(0, 2, 1))


@pytest.mark.parametrize("layout", ["rows", "columns", "neither"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("k", "l"), [(2, 3), (7, 8), (8, 8), (8, 13), (9, 7), (16, 31), (20, 33), (24, 24), (33, 40), (5, 65), (41, 64)]
)
def test_singular_values_of_cells__however_numbers_lie_in_memory(k: int, l: int, dtype: str, layout: str) -> None:
    rng = np.random.default_rng(k + l)
    # Eight pairs at a time, of which the last are not whole; what lies beside a matrix is not to be read into it.
    rows, columns = rng.integers(0, 5, 21), rng.integers(0, 3, 21)
    stored = {"rows": (5, k, 3, l), "columns": (5, l, 3, k), "neither": (5, 2 * k, 3, 2 * l)}[layout]
    cells = (rng.normal(size=stored) / (k + l)).astype(dtype).swapaxes(1, 2)
    cells = {"rows": cells, "columns": cells.swapaxes(2, 3), "neither": cells[..., ::2, 1::2]}[layout]
    found = lanes.singular_values_of_cells(cells, rows, columns)
    assert found is not None
    exact = np.linalg.svd(cells[rows, columns].astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(found[0], exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[1], exact.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found[2], np.square(exact).sum(axis=1), rtol=1e-13)
    most = float(np.median(exact))
    some = lanes.singular_values_of_cells(cells, rows, columns, most)
    assert some is not None
    np.testing.assert_array_equal(some[0], np.minimum(found[0], most))
    np.testing.assert_allclose(some[1], some[0].sum(axis=1), rtol=1e-14)
    np.testing.assert_array_equal(some[2], found[2])


SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np
from dask_svcca.kernels import lanes
if sys.argv[1] == "absent":
    sys.modules["numba"] = None
found = lanes.singular_values_abreast(np.eye(4)[np.newaxis] * np.ones((9, 1, 1)))
print(found if found is None else float(found.sum()))
"""


@pytest.mark.parametrize(("case", "printed"), [("absent", "None"), ("uncached", "36.0"), ("not compiling", "None")])
def test_singular_values_abreast__without_numba_or_a_place_to_cache(case: str, printed: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    # A folder below a file cannot be made, whoever asks.
    environment = {
        "absent": {},
        "uncached": {"NUMBA_CACHE_DIR": str(file / "cache")},
        "not compiling": {"NUMBA_DISABLE_JIT": "1"},
    }[case]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, case],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.strip(), done.stderr) == (printed, "")


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(
    ("a", "b", "count", "terms"), [(1, 1, 1, 8), (2, 5, 7, 8), (4, 3, 64, 64), (9, 7, 1003, 256), (5, 128, 4500, 4096)]
)
def test_inner_products__are_those_of_double_precision(a: int, b: int, count: int, terms: int, same: bool) -> None:
    rng = np.random.default_rng(a * count)
    widths = [-(-count // 8) * 8 + more for more in (8, 16)]
    left, right = (
        rng.normal(size=(rows, width)).astype(np.float32) for rows, width in zip((a, b), widths, strict=True)
    )
    for side in (left, right):
        side[:, count:] = np.nan
        side[:, count : -(-count // 8) * 8] = 0
    right = left if same else right
    multiply = lanes.adder_of_inner_products()
    assert multiply is not None
    found = multiply(left, right, count, terms, same=same)
    one, other = (side[:, :count].astype(float) for side in (left, right))
    # Eight sums of up to so many terms, each rounded to single precision.
    norms = np.multiply.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    assert np.all(np.abs(found - one @ other.T) <= 6e-8 * max(1, terms // 8) * norms)
    if same:
        np.testing.assert_array_equal(found, found.T)


def test_inner_products__of_like_numbers_are_not_rounded_the_same_way_too_often() -> None:
    """As they are of layers with a few values, such as classes, where examples are in the order of these."""
    values = np.random.default_rng(0).uniform(1, 2, 24).astype(np.float32)
    rows = np.repeat(values[:, np.newaxis], 8192, axis=1)
    multiply = lanes.adder_of_inner_products()
    assert multiply is not None
    found = multiply(rows, rows, 8192, 4096, same=True)
    np.testing.assert_allclose(found, 8192 * np.multiply.outer(*[values.astype(float)] * 2), rtol=1.5e-6)


LOADS = """
import sys
from dask_svcca.kernels import lanes
lanes.adder_of_inner_products()
print(*sorted(name.rpartition(".")[2] for name in sys.modules if name.startswith("dask_svcca.kernels.lanes.")))
"""


def test_adder_of_inner_products__loads_no_solver() -> None:
    """It takes nine seconds to compile, several times as long as what the sums are worth."""
    done = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, check=True)
    assert "sums" in done.stdout.split()
    assert "solve" not in done.stdout.split()
