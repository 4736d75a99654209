"""Gram matrices, tridiagonal forms and eigenvalues of eight matrices at a time, compiled by Numba.

Symmetric matrices are stored as the rows of their lower triangles, one after another. An element is a vector: the
numbers of eight matrices at that place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import types

from dask_svcca.kernels._rooms import at_a_line
from dask_svcca.kernels.lanes.compiling import compiled
from dask_svcca.kernels.lanes.vectors import (
    LANES,
    any_larger,
    fetch,
    gather,
    larger,
    load,
    magnitude,
    splat,
    sqrt,
    store,
    turn,
    where_larger,
    with_sign,
)

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, IntArray

    Found = tuple[FloatArray, FloatArray, FloatArray]

COLUMNS = 32
"""Columns of eight matrices that are laid out at a time: few enough to stay in the cache."""

STRIDE = COLUMNS + 1
"""Vectors from row to row: after a power of two, all rows would compete for the same lines of the cache."""

MOST_STEPS = 60
"""Steps of the QL algorithm for one eigenvalue; two are usual."""

SMALLEST = 1e-290
"""What divides instead of zero."""

LEAST_PIVOT = 1e-30
"""What pivots are at least: it is as if numbers on the diagonal changed by so much, and no power of it is a zero."""

SQUARED_PRECISION = 4.9e-32
NEGLIGIBLE = 1e-40
"""Squares of off-diagonal numbers, relative to their neighbours on the diagonal and absolute, that count as zero."""


def singular_values(
    cells: FloatArray, rows: IntArray, columns: IntArray, k: int, l: int, most: float = np.inf
) -> Found | None:
    """Singular values of some matrices of a table of them, (pair, k), descending; their sums and sums of squares.

    None where the algorithm does not converge, as with numbers that are not finite.

    Parameters
    ----------
    cells : (row, column, k, l)
        In single or double precision, with any strides; k or more, and l or more.
    rows, columns : (pair,)
        Which of them.
    k, l : int
        Their rows and columns, k <= l; columns of zeros change no bit.
    most : float
        What values are at most. Sums of squares, (pair,), are of those that were found; sums, (pair,), of these.
    """
    values, sums, squares = np.empty((len(rows), k)), np.empty(len(rows)), np.empty(len(rows))
    room = at_a_line((k * (k + 1) // 2 + 8 * k + k * STRIDE) * LANES, np.float64)
    places = np.stack([rows, columns]).astype(np.int64, copy=False)
    return (values, sums, squares) if _solve(cells, places, l, most, values, sums, squares, room) else None


@compiled
def _find(cells, places, first, starts):  # type: ignore[no-untyped-def]  # compiled
    """Where in memory eight matrices begin; the last one is repeated."""
    for lane in range(LANES):
        pair = min(first + lane, places.shape[1] - 1)
        starts[lane] = places[0, pair] * cells.strides[0] + places[1, pair] * cells.strides[1]


@compiled
def _lay_out(cells, starts, following, k, start, count, columns):  # type: ignore[no-untyped-def]  # compiled
    """Some columns of eight matrices as vectors, row after row of them.

    Eight numbers that are neighbours in memory are turned at a time; the last eight may begin before others end.
    """
    of_row, of_column = cells.strides[2:]
    if of_column == cells.itemsize and count >= LANES:
        for i in range(k):
            for column in range(0, count, LANES):
                t = min(column, count - LANES)
                offset = i * of_row + (start + t) * of_column
                fetch(cells, following, offset)
                turn(cells, starts, offset, columns, i * STRIDE + t, 1)
    elif of_row == cells.itemsize and k >= LANES:
        for t in range(count):
            for row in range(0, k, LANES):
                i = min(row, k - LANES)
                offset = i * of_row + (start + t) * of_column
                fetch(cells, following, offset)
                turn(cells, starts, offset, columns, i * STRIDE + t, STRIDE)
    else:
        for i in range(k):
            for t in range(count):
                store(columns, i * STRIDE + t, gather(cells, starts, i * of_row + (start + t) * of_column))


@compiled
def _gram(cells, starts, following, k, l, gram, columns):  # type: ignore[no-untyped-def]  # compiled
    """Gram matrices of the rows of eight matrices."""
    for place in range(k * (k + 1) // 2):
        store(gram, place, splat(0.0))
    for start in range(0, l, COLUMNS):
        count = min(COLUMNS, l - start)
        _lay_out(cells, starts, following, k, start, count, columns)
        # Two rows by two: four sums in registers. Beyond the last row they are those of the last, and not stored.
        for i in range(0, k, 2):
            whole = i + 1 < k
            row, below = i * STRIDE, min(i + 1, k - 1) * STRIDE
            at, under = i * (i + 1) // 2, (i + 1) * (i + 2) // 2
            for j in range(0, i + 1, 2):
                left, right = j * STRIDE, min(j + 1, k - 1) * STRIDE
                a = b = c = d = splat(0.0)
                for t in range(count):
                    x, y, u, v = (
                        load(columns, row + t),
                        load(columns, below + t),
                        load(columns, left + t),
                        load(columns, right + t),
                    )
                    a, b, c, d = a + x * u, b + x * v, c + y * u, d + y * v
                store(gram, at + j, load(gram, at + j) + a)
                if j < i:
                    store(gram, at + j + 1, load(gram, at + j + 1) + b)
                if whole:
                    store(gram, under + j, load(gram, under + j) + c)
                    store(gram, under + j + 1, load(gram, under + j + 1) + d)


@compiled
def _reflect(matrix, row, v, w, x, diagonal, squared):  # type: ignore[no-untyped-def]  # compiled
    """Householder's vector of a row, in x; returns what its products are divided by, as a factor.

    The row is still without the update by v and w of the row before.
    """
    start = row * (row + 1) // 2
    vi, wi, norm = load(v, row), load(w, row), splat(0.0)
    for j in range(row):
        a = load(matrix, start + j) - vi * load(w, j) - wi * load(v, j)
        store(x, j, a)
        norm = norm + a * a
    store(diagonal, row, load(matrix, start + row) - (vi * wi + wi * vi))
    store(squared, row - 1, norm)
    last = load(x, row - 1)
    root = with_sign(sqrt(norm), last)
    last = last + root
    store(x, row - 1, last)
    product, smallest = root * last, splat(SMALLEST)
    return where_larger(product, smallest, splat(1.0) / larger(product, smallest), splat(0.0))


@compiled
def _changed(matrix, place, vi, wi, vj, wj):  # type: ignore[no-untyped-def]  # compiled
    """A number of a matrix, updated by v and w."""
    a = load(matrix, place) - vi * wj - wi * vj
    store(matrix, place, a)
    return a


@compiled
def _row(matrix, i, v, w, x, y):  # type: ignore[no-untyped-def]  # compiled
    """One row of a matrix: the update by v and w, and its part of the product with x, in y."""
    start = i * (i + 1) // 2
    vi, wi, xi, total = load(v, i), load(w, i), load(x, i), splat(0.0)
    for j in range(i):
        a = _changed(matrix, start + j, vi, wi, load(v, j), load(w, j))
        store(y, j, load(y, j) + a * xi)
        total = total + a * load(x, j)
    store(y, i, total + _changed(matrix, start + i, vi, wi, vi, wi) * xi)


@compiled
def _four_rows(matrix, i, v, w, x, y):  # type: ignore[no-untyped-def]  # compiled
    """The same for four rows: what is read of v, w, x and y serves them all."""
    p = i * (i + 1) // 2
    q = p + i + 1
    r = q + i + 2
    s = r + i + 3
    vp, vq, vr, vs = load(v, i), load(v, i + 1), load(v, i + 2), load(v, i + 3)
    wp, wq, wr, ws = load(w, i), load(w, i + 1), load(w, i + 2), load(w, i + 3)
    xp, xq, xr, xs = load(x, i), load(x, i + 1), load(x, i + 2), load(x, i + 3)
    yp = yq = yr = ys = splat(0.0)
    for j in range(i):
        vj, wj, xj, yj = load(v, j), load(w, j), load(x, j), load(y, j)
        a = _changed(matrix, p + j, vp, wp, vj, wj)
        yj, yp = yj + a * xp, yp + a * xj
        b = _changed(matrix, q + j, vq, wq, vj, wj)
        yj, yq = yj + b * xq, yq + b * xj
        c = _changed(matrix, r + j, vr, wr, vj, wj)
        yj, yr = yj + c * xr, yr + c * xj
        d = _changed(matrix, s + j, vs, ws, vj, wj)
        yj, ys = yj + d * xs, ys + d * xj
        store(y, j, yj)
    # The corner on the diagonal.
    yp = yp + _changed(matrix, p + i, vp, wp, vp, wp) * xp
    a = _changed(matrix, q + i, vq, wq, vp, wp)
    yp, yq = yp + a * xq, yq + a * xp
    yq = yq + _changed(matrix, q + i + 1, vq, wq, vq, wq) * xq
    a, b = _changed(matrix, r + i, vr, wr, vp, wp), _changed(matrix, r + i + 1, vr, wr, vq, wq)
    yp, yq, yr = yp + a * xr, yq + b * xr, yr + a * xp + b * xq
    yr = yr + _changed(matrix, r + i + 2, vr, wr, vr, wr) * xr
    a, b = _changed(matrix, s + i, vs, ws, vp, wp), _changed(matrix, s + i + 1, vs, ws, vq, wq)
    c = _changed(matrix, s + i + 2, vs, ws, vr, wr)
    yp, yq, yr, ys = yp + a * xs, yq + b * xs, yr + c * xs, ys + a * xp + b * xq + c * xr
    ys = ys + _changed(matrix, s + i + 3, vs, ws, vs, ws) * xs
    store(y, i, yp)
    store(y, i + 1, yq)
    store(y, i + 2, yr)
    store(y, i + 3, ys)


@compiled
def _tridiagonal(matrix, k, diagonal, squared, v, w, x, y):  # type: ignore[no-untyped-def]  # compiled
    """Tridiagonal form, by Householder's reflections: its diagonal, and the squares beside it.

    A reflection changes the whole matrix. It is applied on the next pass over it, which also takes the product with
    the next vector: memory, not arithmetic, is what limits.
    """
    for j in range(k):
        store(v, j, splat(0.0))
        store(w, j, splat(0.0))
    for row in range(k - 1, 0, -1):
        factor = _reflect(matrix, row, v, w, x, diagonal, squared)
        # The first rows are the shortest.
        for i in range(row % 4):
            _row(matrix, i, v, w, x, y)
        for i in range(row % 4, row, 4):
            _four_rows(matrix, i, v, w, x, y)
        inner = splat(0.0)
        for j in range(row):
            scaled = load(y, j) * factor
            store(y, j, scaled)
            inner = inner + scaled * load(x, j)
        inner = inner * splat(0.5) * factor
        for j in range(row):
            store(y, j, load(y, j) - inner * load(x, j))
        v, w, x, y = x, y, v, w
    store(diagonal, 0, load(matrix, 0) - load(v, 0) * load(w, 0) - load(w, 0) * load(v, 0))


@compiled
def _is_open(diagonal, squared, l):  # type: ignore[no-untyped-def]  # compiled
    """Whether what stands beside a number of the diagonal is more than negligible in any lane."""
    here, following = load(diagonal, l), load(diagonal, l + 1)
    negligible = larger(splat(SQUARED_PRECISION) * magnitude(here * following), splat(NEGLIGIBLE))
    return any_larger(load(squared, l), negligible)


@compiled
def _begin(diagonal, squared, k, l):  # type: ignore[no-untyped-def]  # compiled
    """A step of the QL algorithm from the last row to row l, before its first rotation."""
    one, least = splat(1.0), splat(LEAST_PIVOT)
    here, following = load(diagonal, l), load(diagonal, l + 1)
    root = sqrt(load(squared, l))
    ratio = (following - here) / larger(root + root, splat(1e-160))
    shift = here - root / (ratio + with_sign(sqrt(ratio * ratio + one), ratio))
    g = load(diagonal, k - 1) - shift
    old = with_sign(larger(magnitude(g), least), g)
    return shift, g, old, old * old, splat(0.0)


@compiled
def _rotate(diagonal, squared, i, state):  # type: ignore[no-untyped-def]  # compiled
    """A rotation of a step, at row i."""
    shift, g, old, p, sine = state
    b, number = load(squared, i), load(diagonal, i)
    r = p + b
    store(squared, i + 1, sine * r)
    # With c = p / r and s = b / r, c * (number - shift) - s * old is next, and p its square over c. Little but one
    # division stands between this p and the next, for which everything waits.
    over = splat(1.0) / (p * r)
    whole = p * (number - shift) - b * old
    over_r = p * over
    after = whole * over_r
    store(diagonal, i + 1, g + (number - after))
    whole = with_sign(larger(magnitude(whole), p * splat(LEAST_PIVOT)), whole)
    return shift, after, whole * over_r, whole * whole * over, b * over_r


@compiled
def _end(diagonal, squared, l, state):  # type: ignore[no-untyped-def]  # compiled
    """The end of a step."""
    shift, g, _, p, sine = state
    store(squared, l, sine * p)
    store(diagonal, l, shift + g)


@compiled
def _diagonalise(diagonal, squared, others, beside, k):  # type: ignore[no-untyped-def]  # compiled
    """Eigenvalues of tridiagonal matrices, in place of their diagonals; false where they do not converge.

    Of twice eight matrices: while a division of the one is waited for, that of the other is under way.
    """
    for l in range(k - 1):
        steps = 0
        while _is_open(diagonal, squared, l) or _is_open(others, beside, l):
            if steps == MOST_STEPS:
                return False
            steps += 1
            one, other = _begin(diagonal, squared, k, l), _begin(others, beside, k, l)
            for i in range(k - 2, l - 1, -1):
                one, other = _rotate(diagonal, squared, i, one), _rotate(others, beside, i, other)
            _end(diagonal, squared, l, one)
            _end(others, beside, l, other)
    return True


@compiled
def _sort(values, k):  # type: ignore[no-untyped-def]  # compiled
    """Numbers of each lane, descending, by Batcher's merge exchange: which are compared does not hang on them.

    Knuth (1998), The art of computer programming 3, section 5.2.2, algorithm M.
    """
    half = 1
    while 2 * half < k:
        half *= 2
    bit = half
    while bit > 0:
        span, chosen, distance = half, 0, bit
        while True:
            for i in range(k - distance):
                if i & bit == chosen:
                    a, b = load(values, i), load(values, i + distance)
                    store(values, i, where_larger(a, b, a, b))
                    store(values, i + distance, where_larger(a, b, b, a))
            if span == bit:
                break
            distance, chosen = span - bit, bit
            span //= 2
        bit //= 2


@compiled
def _vectors(room, number, k):  # type: ignore[no-untyped-def]  # compiled
    """The place of one of several sets of k vectors."""
    return room[number * k * LANES : (number + 1) * k * LANES]


@compiled
def _put(diagonal, first, most, values, sums, squares, v, w):  # type: ignore[no-untyped-def]  # compiled
    """Roots of the eigenvalues of eight matrices, in place; false where some are not finite."""
    pairs, k = values.shape
    _sort(diagonal, k)
    of_squares = total = splat(0.0)
    for i in range(k):
        square = load(diagonal, i)
        of_squares = of_squares + square
        root = sqrt(larger(square, splat(0.0)))
        root = where_larger(root, splat(most), splat(most), root)
        total = total + root
        store(diagonal, i, root)
    store(v, 0, of_squares)
    store(w, 0, total)
    for lane in range(min(LANES, pairs - first)):
        pair = first + lane
        squares[pair], sums[pair] = v[lane], w[lane]
        # One that is not finite leaves no finite sum.
        if not np.isfinite(squares[pair]):
            return False
        for i in range(k):
            values[pair, i] = diagonal[i * LANES + lane]
    return True


def _singular_values(cells, places, l, most, values, sums, squares, room):  # type: ignore[no-untyped-def]  # compiled
    """Roots of the eigenvalues of the Gram matrices of some of a stack; false where some do not converge."""
    pairs, k = values.shape
    # One by one: to Numba, what a list of them is unpacked into may be a copy.
    diagonal, squared = _vectors(room, 0, k), _vectors(room, 1, k)
    others, beside = _vectors(room, 2, k), _vectors(room, 3, k)
    v, w, x, y = _vectors(room, 4, k), _vectors(room, 5, k), _vectors(room, 6, k), _vectors(room, 7, k)
    whole = 8 * k * LANES
    matrix, columns = room[whole : whole + k * (k + 1) // 2 * LANES], room[whole + k * (k + 1) // 2 * LANES :]
    starts, following = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    _find(cells, places, 0, following)
    for first in range(0, pairs, 2 * LANES):
        second = first + LANES
        for start, on, off in ((first, diagonal, squared), (second, others, beside)):
            if start >= pairs:
                # Nothing, which is diagonal as it is.
                for i in range(k):
                    store(on, i, splat(0.0))
                    store(off, i, splat(0.0))
                break
            starts, following = following, starts
            _find(cells, places, start + LANES, following)
            _gram(cells, starts, following, k, l, matrix, columns)
            _tridiagonal(matrix, k, on, off, v, w, x, y)
        if not _diagonalise(diagonal, squared, others, beside, k):
            return False
        if not _put(diagonal, first, most, values, sums, squares, v, w):
            return False
        if second < pairs and not _put(others, second, most, values, sums, squares, v, w):
            return False
    return True


_solve = compiled(
    _singular_values,
    # One for all layouts: each takes seconds to compile.
    [
        types.boolean(
            types.Array(number, 4, "A", readonly=True),
            types.int64[:, ::1],
            types.int64,
            types.float64,
            types.float64[:, ::1],
            types.float64[::1],
            types.float64[::1],
            types.float64[::1],
        )
        for number in (types.float64, types.float32)
    ],
)
