"""Values of pairs in memory: those that a tile holds until it writes them, and those that are evaluated at a time.

What a tile holds of a pair until then is less than half of what it takes to evaluate it. So a tile may be large, which
makes few files of many variables, and its pairs are evaluated patch by patch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dask_svcca.plan.relations import sum_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.measures import Measure

STORED_COPIES = 3
"""Matrices of all pairs beside their values: states, masks, one of them turned to be written; measured."""

VALUE_COPIES = 9
"""Matrices of the pairs that are evaluated beside their sums: values while they are computed, norms; measured."""

VALUES_SHARE = 0.75
"""Share of the memory that there is which the values of a tile take at most: they cannot be cut, all else can."""

ROOM = 160 * 2**20
"""Bytes that they leave for all else, up to half of the memory."""

PATCH_SHARE = 0.25
"""Share of what they leave for the pairs that are evaluated at a time."""


def stored_bytes(measures: Sequence[Measure]) -> int:
    """Bytes that a tile holds of one pair until it is written: of a with b, and of b with a where that is another.

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> [stored_bytes(find_measures(name)) for name in ("svcca", "pwcca")]
    [32, 40]
    """
    return 8 * (STORED_COPIES + sum(1 if measure.symmetric else 2 for measure in measures))


def value_bytes(measures: Sequence[Measure]) -> int:
    """Bytes that are held of one pair while it is evaluated: sums, and values on the way from one to the other.

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> [value_bytes(find_measures(name)) for name in ("svcca", "pwcca")]
    [80, 104]
    """
    sums = sum(measure.components * (1 if measure.symmetric else 2) for measure in measures)
    return 8 * (VALUE_COPIES + sums) + sum_bytes(measures)


def most_by_values(available: int, pair_bytes: int) -> int:
    """Representations along each axis of a tile whose values fit in memory, beside all that can be cut.

    Parameters
    ----------
    available : int
        Bytes that there are.
    pair_bytes : int
        Bytes that the tile holds of one pair.

    Examples
    --------
    >>> most_by_values(2**31, 1000)
    1269
    """
    values = min(VALUES_SHARE * available, max(available / 2, available - ROOM))
    return math.isqrt(int(values // pair_bytes))


def choose_patch(side: int, measures: Sequence[Measure], available: int) -> int:
    """Representations along each axis of what a tile evaluates at a time: all where that fits, or patches of one size.

    Parameters
    ----------
    side : int
        Representations along each axis of the tile.
    measures : sequence of Measure
    available : int
        Bytes.

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> [choose_patch(1000, find_measures("svcca"), 2**20 * memory) for memory in (500, 150, 100)]
    [1000, 500, 334]
    """
    left = PATCH_SHARE * max(0, available - side**2 * stored_bytes(measures))
    most = max(1, math.isqrt(int(left // value_bytes(measures))))
    return math.ceil(side / math.ceil(side / most))
