"""Pairs of a tile as rectangles: a product is over whole rows and columns, however few of its pairs are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dask_svcca.kernels._types import BoolArray


def rectangles(pairs: BoolArray) -> list[BoolArray]:
    """Pairs, or two parts of them, whose rows and columns span much less than those of all.

    Where some representations of a group are replaced, their rows and their columns are missing, and span the tile.

    Parameters
    ----------
    pairs : (a, b)

    Returns
    -------
    list of (a, b)
        Each pair in one of them.

    Examples
    --------
    >>> replaced = np.arange(8) == 3
    >>> [part.sum() for part in rectangles(replaced[:, np.newaxis] | replaced)]
    [np.int64(8), np.int64(7)]
    """
    full = pairs.sum(axis=1) * 2 > np.count_nonzero(pairs.any(axis=0))
    first, second = pairs & full[:, np.newaxis], pairs & ~full[:, np.newaxis]
    if 2 * (_spanned(first) + _spanned(second)) < _spanned(pairs):
        return [first, second]
    return [pairs]


def _spanned(pairs: BoolArray) -> int:
    """Pairs of all rows and all columns that have some."""
    return int(np.count_nonzero(pairs.any(axis=1))) * int(np.count_nonzero(pairs.any(axis=0)))
