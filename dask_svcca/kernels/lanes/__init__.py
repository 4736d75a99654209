"""Singular values of many small matrices, eight at a time in the lanes of vector registers, where Numba is there.

What counts those that are more than chance is compiled beside them, and what takes inner products of a few long rows.

LAPACK solves them one by one, at a hundredth of the speed of a product; abreast they take about a tenth of its time.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray

    Found = tuple[FloatArray, FloatArray, FloatArray]
    Solver = Callable[..., Found | None]
    Counter = Callable[..., IntArray]
    Adder = Callable[..., FloatArray]

LEAST_NUMBERS = 2**19
"""Numbers in all matrices of a task from which it is worth to load the compiled code, or to compile it once."""

LEAST_PAIRS = 3
"""Matrices of one shape that are solved abreast: with fewer, LAPACK is as fast as lanes that are mostly empty."""

MOST_DIRECTIONS = 256
"""Largest matrices that are solved abreast: eight that are larger leave the cache."""

MOST_ROWS = 96
"""Rows of which `adder_of_inner_products` is no slower than BLAS: 2.9 times as fast at 24, 1.7 times at 48, 1.35 times
here; with other rows 2.2, 1.3 and 1.0 times."""


def singular_values_abreast(matrices: InexactArray) -> FloatArray | None:
    """Singular values of a stack, by the eigenvalues of the smaller of the two Gram matrices of each.

    Parameters
    ----------
    matrices : (pair, k, l)

    Returns
    -------
    (pair, min(k, l)) or None
        Descending; squaring costs a value of ``r`` about ``1e-15 / r``. None where LAPACK is to do it: matrices that
        are few, large, complex or not finite, or Numba is not there.

    References
    ----------
    Pal, Walker and Kahan's variant of the QL algorithm without square roots, as in LAPACK's ``dsterf``; Parlett (1998),
    The symmetric eigenvalue problem, section 8.15.

    Examples
    --------
    >>> singular_values_abreast(np.eye(3)[np.newaxis]) is None
    True
    """
    if matrices.ndim != 3 or matrices.dtype != np.float64:
        return None
    pairs = np.arange(len(matrices))
    found = singular_values_of_cells(matrices[:, np.newaxis], pairs, np.zeros_like(pairs))
    return None if found is None else found[0]


def singular_values_of_cells(
    cells: InexactArray, rows: IntArray, columns: IntArray, most: float = np.inf
) -> Found | None:
    """The same of some matrices of a table of them, where they are; their sums, and sums of their squares.

    Parameters
    ----------
    cells : (row, column, k, l)
        In single or double precision.
    rows, columns : (pair,)
    most : float
        What values are at most where rounding took them above; squares are summed up as they were found.

    Returns
    -------
    (pair, min(k, l)), (pair,), (pair,)
        Or None, see `singular_values_abreast`.
    """
    if cells.dtype.char not in "fd" or len(rows) < LEAST_PAIRS or not 1 < min(cells.shape[2:]) <= MOST_DIRECTIONS:
        return None
    solve = _solver()
    if solve is None:
        return None
    real = cells.real
    across = real if real.shape[2] <= real.shape[3] else real.transpose(0, 1, 3, 2)
    return solve(across, rows, columns, *across.shape[2:], most)


def solves_many() -> bool:
    """Whether there is compiled code, so that matrices of several shapes are worth to be put into one stack."""
    return _solver() is not None


def singular_values_of_sizes(
    matrices: FloatArray, sizes: IntArray, otherwise: Callable[[FloatArray], FloatArray], most: float = np.inf
) -> tuple[FloatArray, FloatArray]:
    """Singular values of a stack of matrices of several sizes, and their sums.

    Parameters
    ----------
    matrices : (pair, k, l)
        Zero beyond the size of each.
    sizes : (pair, 2)
        Rows and columns of each.
    otherwise : callable
        From a stack of matrices of one size to their singular values, where too few are alike to be solved abreast.
    most : float
        What values are at most.

    Returns
    -------
    (pair, min(k, l)), (pair,)
        Descending; zero beyond those that a matrix has.

    Examples
    --------
    >>> matrices = np.zeros((2, 2, 3))
    >>> matrices[0, 0, 0], matrices[1] = 2, np.eye(2, 3)
    >>> def lapack(stack):
    ...     return np.linalg.svd(stack, compute_uv=False)
    >>> singular_values_of_sizes(matrices, np.array([[1, 1], [2, 3]]), lapack)
    (array([[2., 0.],
           [1., 1.]]), array([2., 2.]))
    """
    values, sums = np.zeros((len(matrices), min(matrices.shape[1:]))), np.zeros(len(matrices))
    solve = _solver()
    smaller, turned = sizes.min(axis=1), sizes[:, 0] > sizes[:, 1]
    # Alike are those with as many singular values: of the other side, zeros are added to the shorter ones.
    order = np.lexsort((sizes.max(axis=1), turned, smaller))
    starts = np.flatnonzero(np.diff(smaller[order] * 2 + turned[order], prepend=-1))
    for places in np.split(order, starts[1:]):
        k, l = int(smaller[places[0]]), int(sizes[places].max())
        across = matrices.transpose(0, 2, 1) if turned[places[0]] else matrices
        found = None
        if solve is not None and len(places) >= LEAST_PAIRS and 1 < k <= MOST_DIRECTIONS:
            found = solve(across[:, np.newaxis], places, np.zeros_like(places), k, l, most)
        if found is not None:
            values[places, :k], sums[places], _ = found
            continue
        for place in places:
            rows, columns = sizes[place]
            one = np.minimum(otherwise(matrices[place : place + 1, :rows, :columns])[0], most)
            values[place, :k], sums[place] = one, one.sum()
    return values, sums


def significance_counter() -> Counter | None:
    """What counts significant correlations of many pairs, `dask_svcca.kernels.lanes.significance.count_significant`."""
    found = _compiled()
    return None if found is None else found[1]


@cache
def adder_of_inner_products() -> Adder | None:
    """What takes inner products of some long rows, `dask_svcca.kernels.lanes.sums.inner_products`; or None."""
    if not _compiles():
        return None
    try:
        from dask_svcca.kernels.lanes.sums import inner_products  # noqa: PLC0415
    except (ImportError, AttributeError, OSError):
        return None
    return inner_products


def _solver() -> Solver | None:
    found = _compiled()
    return None if found is None else found[0]


def _compiles() -> bool:
    """Whether there is a Numba that this NumPy can work with.

    None is taken to be there where it is told to compile nothing (``NUMBA_DISABLE_JIT``), as whoever debugs other code
    may.
    """
    if find_spec("numba") is None:
        return False
    try:
        # Loading Numba takes a while.
        from numba import config  # noqa: PLC0415
    except (ImportError, AttributeError, OSError):
        return False
    return not config.DISABLE_JIT


@cache
def _compiled() -> tuple[Solver, Counter] | None:
    """The compiled code; None without Numba, or with one that this processor cannot work with."""
    if not _compiles():
        return None
    try:
        from dask_svcca.kernels.lanes.significance import count_significant  # noqa: PLC0415
        from dask_svcca.kernels.lanes.solve import singular_values  # noqa: PLC0415
    except (ImportError, AttributeError, OSError):
        return None
    return singular_values, count_significant
