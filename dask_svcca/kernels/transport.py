"""Optimal transport between a few things: how much of each goes where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment, linprog

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray

MOST_PARTS: Final = 256
"""Parts up to which an assignment is faster than a linear program: a hundred times for 20 by 30."""


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
    Peyré and Cuturi (2019), Computational optimal transport, section 3.

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
    every = np.arange(gain.size)
    ones = np.ones(gain.size)
    of_rows = scipy.sparse.csr_array((ones, (every // columns, every)), shape=(rows, gain.size))
    of_columns = scipy.sparse.csr_array((ones, (every % columns, every)), shape=(columns, gain.size))
    sums: Any = scipy.sparse.vstack([of_rows, of_columns])
    found = linprog(
        -gain.ravel(),
        A_eq=sums,
        b_eq=np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)]),
        method="highs",
    )
    return np.asarray(found.x).reshape(gain.shape)
