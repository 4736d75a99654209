"""Inner products of a few long rows with one another, compiled by Numba.

BLAS divides a product of matrices into panels of its rows. Where there are only two dozen rows, most of its time goes
into copying them: it works at a quarter of its speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import types

from dask_svcca.kernels.lanes.compiling import compiled
from dask_svcca.kernels.lanes.vectors import LANES, load, splat, store

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray

ROWS, COLUMNS = 4, 3
"""Rows of both sides whose products are summed at a time: their sums fill the registers, short ones, too."""

CACHED = 64
"""Vectors of each row that are taken at a time: few enough that those of all rows stay in the cache."""


def inner_products(a: FloatArray, b: FloatArray, count: int, terms: int, *, same: bool) -> FloatArray:
    """Inner products of all rows of the one with all rows of the other, (row of a, row of b).

    Parameters
    ----------
    a, b : (row, number)
        Contiguous, in single precision; of a multiple of eight numbers.
    count : int
        Numbers of each row that count, with zeros behind them up to the next multiple of eight.
    terms : int
        How many products are added up in single precision, before their sum is in double: a multiple of eight.
    same : bool
        Whether both are the same.
    """
    tiles = -(-len(a) // ROWS) * -(-len(b) // COLUMNS)
    sums = np.empty(tiles * ROWS * COLUMNS * LANES, dtype=a.dtype)
    found = np.zeros((len(a), len(b)))
    vectors = -(-count // LANES)
    _add(a.reshape(-1), b.reshape(-1), a.shape[1] // LANES, b.shape[1] // LANES, vectors, terms, same, sums, found)
    return np.tril(found) + np.tril(found, -1).T if same else found


@compiled
def _add_tile(a, b, p, q, r, s, x, y, z, count, sums, at):  # type: ignore[no-untyped-def]  # compiled
    """Add to the sums of four rows by three, which begin at p to s and at x to z."""
    # Begun anew each time: of a layer with few values, many products in a row may be rounded the same way.
    px = py = pz = qx = qy = qz = rx = ry = rz = sx = sy = sz = splat(np.float32(0))
    for place in range(count):
        u, v, w = load(b, x + place), load(b, y + place), load(b, z + place)
        one = load(a, p + place)
        px, py, pz = px + one * u, py + one * v, pz + one * w
        one = load(a, q + place)
        qx, qy, qz = qx + one * u, qy + one * v, qz + one * w
        one = load(a, r + place)
        rx, ry, rz = rx + one * u, ry + one * v, rz + one * w
        one = load(a, s + place)
        sx, sy, sz = sx + one * u, sy + one * v, sz + one * w
    store(sums, at, load(sums, at) + px)
    store(sums, at + 1, load(sums, at + 1) + py)
    store(sums, at + 2, load(sums, at + 2) + pz)
    store(sums, at + 3, load(sums, at + 3) + qx)
    store(sums, at + 4, load(sums, at + 4) + qy)
    store(sums, at + 5, load(sums, at + 5) + qz)
    store(sums, at + 6, load(sums, at + 6) + rx)
    store(sums, at + 7, load(sums, at + 7) + ry)
    store(sums, at + 8, load(sums, at + 8) + rz)
    store(sums, at + 9, load(sums, at + 9) + sx)
    store(sums, at + 10, load(sums, at + 10) + sy)
    store(sums, at + 11, load(sums, at + 11) + sz)


@compiled
def _take(sums, at, i, j, found):  # type: ignore[no-untyped-def]  # compiled
    """Add the sums of a tile to those in double precision."""
    for row in range(min(ROWS, found.shape[0] - i)):
        for column in range(min(COLUMNS, found.shape[1] - j)):
            first = (at + row * COLUMNS + column) * LANES
            total = 0.0
            for lane in range(LANES):
                total += sums[first + lane]
            found[i + row, j + column] += total


def _add_all(a, b, a_row, b_row, vectors, terms, same, sums, found):  # type: ignore[no-untyped-def]  # compiled
    """The same of rows that begin so many vectors after one another; where both are the same, of half of them."""
    rows, columns = found.shape
    for start in range(0, vectors, terms // LANES):
        end = min(start + terms // LANES, vectors)
        sums[:] = 0
        for first in range(start, end, CACHED):
            count = min(CACHED, end - first)
            at = 0
            for i in range(0, rows, ROWS):
                # Beyond the last row they are those of the last, and not taken.
                p, q = i * a_row + first, min(i + 1, rows - 1) * a_row + first
                r, s = min(i + 2, rows - 1) * a_row + first, min(i + 3, rows - 1) * a_row + first
                for j in range(0, min(i + ROWS, columns) if same else columns, COLUMNS):
                    x, y = j * b_row + first, min(j + 1, columns - 1) * b_row + first
                    z = min(j + 2, columns - 1) * b_row + first
                    _add_tile(a, b, p, q, r, s, x, y, z, count, sums, at)
                    at += ROWS * COLUMNS
        at = 0
        for i in range(0, rows, ROWS):
            for j in range(0, min(i + ROWS, columns) if same else columns, COLUMNS):
                _take(sums, at, i, j, found)
                at += ROWS * COLUMNS


_add = compiled(
    _add_all,
    types.void(
        *[types.float32[::1]] * 2,
        *[types.int64] * 4,
        types.boolean,
        types.float32[::1],
        types.float64[:, ::1],
    ),
)
