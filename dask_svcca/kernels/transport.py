"""Optimal transport between a few things: how much of each goes where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment, linprog

if TYPE_CHECKING:
    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray

MOST_PARTS: Final = 1024
"""Parts up to which an assignment is faster than linear programs: a hundred times for 20 by 30."""

AT_ONCE: Final = 10
"""Entries of a row, and of a column, that are tried at once."""

NOTHING_GAINED: Final = 1e-9
"""Share of the largest gain up to which an entry is no better than others."""


def transport_plan(gain: FloatArray) -> FloatArray:
    """Plan of largest gain that spreads each row evenly, and fills each column evenly.

    Parameters
    ----------
    gain : (row, column)
        Finite.

    Returns
    -------
    (row, column)
        At least 0; each row has the sum 1 / rows, each column 1 / columns. Where there are as many rows as columns,
        it is the best assignment.

    References
    ----------
    Peyré and Cuturi (2019), Computational optimal transport, section 3. Linear programs over some of the entries:
    Gilmore and Gomory (1961), A linear programming approach to the cutting-stock problem, Operations Research 9.

    Examples
    --------
    >>> transport_plan(np.array([[0.9, 0.8, 0.1], [0.8, 0.1, 0.9]])).round(3)
    array([[0.167, 0.333, 0.   ],
           [0.167, 0.   , 0.333]])
    """
    rows, columns = gain.shape
    parts = math.lcm(rows, columns)
    if parts <= MOST_PARTS:
        # In equal parts of rows and of columns, the best plan is an assignment.
        of_row, of_column = parts // rows, parts // columns
        cut = np.repeat(np.repeat(gain, of_row, axis=0), of_column, axis=1)
        row, column = linear_sum_assignment(cut, maximize=True)
        plan = np.zeros(gain.shape)
        np.add.at(plan, (row // of_row, column // of_column), 1 / parts)
        return plan
    return _by_linear_programs(gain)


def _by_linear_programs(gain: FloatArray) -> FloatArray:
    """The plan of `transport_plan` by linear programs over few of the entries, until no other would gain.

    The best plan uses fewer entries than rows and columns together. Those that each row and each column gains most by
    are tried first; the prices of rows and columns that a program finds say which of the others would gain.
    """
    largest = float(np.abs(gain).max())
    scaled = gain / (largest or 1.0)
    tried = _first_plan(*gain.shape) | _leading(scaled, np.ones(gain.shape, dtype=np.bool_))
    while True:
        row, column = np.nonzero(tried)
        amounts, prices = _program(scaled, row, column)
        beyond = scaled - np.add.outer(*prices)
        better = (beyond > NOTHING_GAINED) & ~tried
        if not better.any():
            plan = np.zeros(gain.shape)
            plan[row, column] = amounts
            return plan
        tried |= _leading(beyond, better)


def _program(gain: FloatArray, row: IntArray, column: IntArray) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
    """Amounts of some entries, (entry,), and the prices of all rows and all columns."""
    rows, columns = gain.shape
    places = np.concatenate([row, rows + column]), np.tile(np.arange(len(row)), 2)
    sums: Any = scipy.sparse.csr_array((np.ones(2 * len(row)), places), shape=(rows + columns, len(row)))
    found: Any = linprog(
        -gain[row, column],
        A_eq=sums,
        b_eq=np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)]),
        method="highs",
        options={"dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-10},
    )
    prices = -np.asarray(found.eqlin.marginals)
    return np.asarray(found.x), (prices[:rows], prices[rows:])


def _first_plan(rows: int, columns: int) -> BoolArray:
    """Entries that a plan can do with: rows and columns filled one after another."""
    cuts = np.unique(np.concatenate([np.arange(rows) * columns, np.arange(columns) * rows]))
    there = np.zeros((rows, columns), dtype=np.bool_)
    there[cuts // columns, cuts // rows] = True
    return there


def _leading(gain: FloatArray, among: BoolArray) -> BoolArray:
    """The entries of largest gain of each row, and of each column, among some."""
    values = np.where(among, gain, -np.inf)
    found = np.zeros(gain.shape, dtype=np.bool_)
    for axis in (0, 1):
        count = min(AT_ONCE, gain.shape[axis])
        places = np.argpartition(-values, count - 1, axis=axis).take(np.arange(count), axis=axis)
        np.put_along_axis(found, places, True, axis=axis)
    return found & among
