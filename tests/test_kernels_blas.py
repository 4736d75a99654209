"""Products that BLAS adds to a sum, against NumPy's."""

from __future__ import annotations

import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_svcca.kernels import blas
from dask_svcca.kernels.blas import add_product, add_square

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TYPES = ["float32", "float64", "complex64", "complex128"]
ORDERS = ["C", "F", "strided", "backwards"]


@pytest.fixture(params=["BLAS", "NumPy"])
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether SciPy has these functions, declared as they are."""
    blas._function.cache_clear()
    if request.param == "NumPy":
        monkeypatch.setattr(blas, "_GEMM", re.compile("void"))
        monkeypatch.setattr(blas, "_SYRK", re.compile("void"))
    found = [blas._function(f"{letter}gemm", blas._GEMM, 13) for letter in "sdcz"]
    found += [blas._function(f"{letter}syrk", blas._SYRK, 10) for letter in "sd"]
    assert all((one is None) == (request.param == "NumPy") for one in found)
    yield
    blas._function.cache_clear()


def draw(seed: int, shape: tuple[int, int], dtype: str, order: str = "C") -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.normal(size=shape)
    if np.dtype(dtype).kind == "c":
        found = found + 1j * rng.normal(size=shape)
    found = found.astype(dtype)
    if order == "strided":
        return np.repeat(np.repeat(found, 2, axis=0), 3, axis=1)[::2, ::3]
    return found[::-1, ::-1] if order == "backwards" else np.asarray(found, order=order)  # type: ignore[call-overload]


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("dtype", TYPES)
@given(
    sizes=st.tuples(*[st.integers(0, 9)] * 3),
    orders=st.tuples(*[st.sampled_from(ORDERS)] * 2),
    scale=st.sampled_from([1.0, -1.0, 0.5]),
    onto=st.booleans(),
)
def test_add_product__is_numpys(
    dtype: str, sizes: tuple[int, int, int], orders: tuple[str, str], scale: float, onto: bool
) -> None:
    m, n, k = sizes
    a, b = draw(0, (m, k), dtype, orders[0]), draw(1, (n, k), dtype, orders[1])
    # What is not added to is not read.
    out = draw(2, (m, n), dtype) if onto else np.full((m, n), np.nan, dtype)
    expected = scale * (a.astype("complex128") @ b.T) + (out if onto else 0)
    before = a.copy(), b.copy()
    add_product(a, b, out, scale=scale, onto=onto)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4 if out.real.itemsize == 4 else 1e-12)
    for one, other in zip((a, b), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(sizes=st.tuples(*[st.integers(0, 9)] * 2), order=st.sampled_from(ORDERS), onto=st.booleans())
def test_add_square__is_the_lower_half_of_numpys(dtype: str, sizes: tuple[int, int], order: str, onto: bool) -> None:
    m, k = sizes
    a, out = draw(0, (m, k), dtype, order), draw(1, (m, m), dtype)
    upper, expected = np.triu(out, 1), a.astype("float64") @ a.T + (out if onto else 0)
    add_square(a, out, onto=onto)
    np.testing.assert_array_equal(np.triu(out, 1), upper)
    np.testing.assert_allclose(np.tril(out), np.tril(expected), rtol=0, atol=1e-4 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        (np.ones((2, 3)), np.ones((4, 2)), np.ones((2, 4))),
        (np.ones((2, 3)), np.ones((4, 3)), np.ones((2, 5))),
        (np.ones((2, 3)), np.ones((4, 3)), np.ones((4, 2)).T),
        (np.ones((2, 3)), np.ones((4, 3)), np.ones((2, 8))[:, ::2]),
        (np.ones((2, 3), "f4"), np.ones((4, 3)), np.ones((2, 4))),
        (np.ones((2, 3), "f4"), np.ones((4, 3), "f4"), np.ones((2, 4))),
        (np.ones((2, 3), "f2"), np.ones((4, 3), "f2"), np.ones((2, 4), "f2")),
        (np.ones((2, 3), ">f8"), np.ones((4, 3), ">f8"), np.ones((2, 4), ">f8")),
        (np.ones((2, 3)), np.ones((4, 3)), np.broadcast_to(np.float64(1), (2, 4))),
    ],
)
def test_add_product__writes_nowhere_else(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no product of"):
        add_product(a, b, out)
    with pytest.raises(ValueError, match="no product of"):
        add_square(a, out)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("function", ["product", "square"])
def test_products__let_other_threads_run(function: str, dtype: str) -> None:
    if function == "square" and dtype.startswith("complex"):
        pytest.skip("squares are of real numbers")
    a, out = draw(0, (300, 2000), dtype), np.zeros((300, 300), dtype)
    work: dict[str, Callable[[], Any]] = {
        "product": lambda: add_product(a, a.copy(), out),
        "square": lambda: add_square(a, out),
    }
    begin, ran = threading.Event(), threading.Event()

    def run() -> None:
        begin.wait()
        ran.set()

    other = threading.Thread(target=run)
    other.start()
    before, until = sys.getswitchinterval(), time.monotonic() + 60
    # Nobody is asked to let others run: only who waits, or works without the lock, does.
    sys.setswitchinterval(3600)
    try:
        begin.set()
        while not ran.is_set() and time.monotonic() < until:
            work[function]()
        found = ran.is_set()
    finally:
        sys.setswitchinterval(before)
        other.join()
    assert found
