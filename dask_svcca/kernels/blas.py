"""Products that BLAS adds to a sum, while other threads of Python run.

NumPy lets others run, but adds no product to a sum; what SciPy wraps adds, but no other thread runs meanwhile: on two
threads, comparisons took as long as on one.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.linalg.cython_blas

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from dask_svcca.kernels._types import InexactArray

_GEMM: Final = re.compile(r"void \((char \*, ){2}(int \*, ){3}([^,]+, ){2}int \*, [^,]+, int \*, ([^,]+, ){2}int \*\)")
_SYRK: Final = re.compile(r"void \((char \*, ){2}(int \*, ){2}([^,]+, ){2}int \*, ([^,]+, ){2}int \*\)")
"""What arguments of these functions are, as SciPy declares them for Cython: with others they are not called."""

TYPES: Final = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}


@cache
def _function(name: str, declared: re.Pattern[str], arguments: int) -> Callable[..., None] | None:
    """A function of BLAS, which is given addresses; None where SciPy has none that is declared so."""
    capsule = getattr(scipy.linalg.cython_blas, "__pyx_capi__", {}).get(name)
    if capsule is None:
        return None
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    signature = name_of(capsule)
    if signature is None or not declared.fullmatch(signature.decode()):
        return None
    address = address_of(capsule, signature)
    # Functions that are called by such a prototype are without the lock of the interpreter.
    return None if address is None else ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address)


def add_product(
    a: InexactArray, b: InexactArray, out: npt.NDArray[Any], *, scale: float = 1.0, onto: bool = False
) -> None:
    """Write ``scale * a @ b.T`` into ``out``, or add it to what is there.

    Parameters
    ----------
    a : (m, k)
    b : (n, k)
        Both of the type of ``out``. What is contiguous along neither axis is copied.
    out : (m, n)
        Contiguous along n.
    scale : float
    onto : bool
        Whether the product is added.

    Raises
    ------
    ValueError
        Where shapes, types or memory are others.

    Examples
    --------
    >>> total = np.ones((1, 2))
    >>> add_product(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]), total, scale=-1, onto=True)
    >>> total
    array([[-10., -16.]])
    """
    (m, k), n = a.shape, len(b)
    _check(out, (m, n), a, b)
    gemm = _function(f"{TYPES[out.dtype.name]}gemm", _GEMM, 13)
    if gemm is None or not (m and n and k):
        product = scale * (a @ b.T)
        out[...] = out + product if onto else product
        return
    # Fortran sees the transposes of all three arrays.
    (by_b, b, width_b), (by_a, a, width_a) = _operand(b, b"TN"), _operand(a, b"NT")
    factors = np.array([scale, onto], out.dtype)
    _call(gemm, by_b, by_a, n, m, k, factors[:1], b, width_b, a, width_a, factors[1:], out, n)


def add_square(a: InexactArray, out: npt.NDArray[Any], *, onto: bool = False) -> None:
    """Write the lower triangle of ``a @ a.T`` into ``out``, or add it to what is there: half of the work.

    Parameters
    ----------
    a : (m, k)
        Real, and contiguous along k; of the type of ``out``.
    out : (m, m)
        Contiguous. What is above the diagonal is left as it is.
    onto : bool
        Whether the product is added.

    Raises
    ------
    ValueError
        Where shapes, types or memory are others.

    Examples
    --------
    >>> total = np.zeros((2, 2))
    >>> add_square(np.array([[1.0, 2.0], [3.0, 4.0]]), total)
    >>> total
    array([[ 5.,  0.],
           [11., 25.]])
    """
    m, k = a.shape
    _check(out, (m, m), a, a)
    syrk = _function(f"{TYPES[out.dtype.name]}syrk", _SYRK, 10)
    if syrk is None or not (m and k):
        lower = np.tri(m, dtype=np.bool_)
        product = a @ a.T
        np.copyto(out, out + product if onto else product, where=lower)
        return
    factors = np.array([1, onto], out.dtype)
    _call(syrk, b"U", b"T", m, k, factors[:1], np.ascontiguousarray(a), k, factors[1:], out, m)


def _check(out: npt.NDArray[Any], shape: tuple[int, int], a: InexactArray, b: InexactArray) -> None:
    """Refuse what BLAS, which is given addresses, would take for other numbers, or write beyond."""
    alike = a.dtype == b.dtype == out.dtype and a.shape[1] == b.shape[1] and out.shape == shape
    if not (
        alike and out.dtype.name in TYPES and out.dtype.isnative and out.flags.c_contiguous and out.flags.writeable
    ):
        raise ValueError(f"no product of {a.dtype} {a.shape} and {b.dtype} {b.shape} fits into {out.dtype} {out.shape}")


def _operand(array: InexactArray, letters: bytes) -> tuple[bytes, InexactArray, int]:
    """Whether Fortran is to transpose an array, the array, and the length of what is contiguous in it."""
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        return letters[1:], array, array.shape[0]
    return letters[:1], np.ascontiguousarray(array), array.shape[1]


def _call(function: Callable[..., None], *arguments: bytes | int | npt.NDArray[Any]) -> None:
    """Call a function of Fortran, all of whose arguments are addresses."""
    held = [
        ctypes.c_char(one) if isinstance(one, bytes) else ctypes.c_int(one) if isinstance(one, int) else one
        for one in arguments
    ]
    function(*(one.ctypes.data if isinstance(one, np.ndarray) else ctypes.addressof(one) for one in held))
