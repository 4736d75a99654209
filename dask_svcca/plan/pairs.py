"""Which pairs are asked for and not there yet: found stripe by stripe, without a matrix of all pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.variables import UNFINISHED, VALUED, PairStatus, have_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.kernels._types import BoolArray
    from dask_svcca.plan.selection import Selection
    from dask_svcca.stores._state import ComparisonState

AT_ONCE = 2**18
"""Pairs of a stripe that are looked at together: what is made of them stays in the cache."""


@dataclass(slots=True)
class MissingPairs:
    """Pairs to compute, by tile; each counted once, a representation with itself included.

    Attributes
    ----------
    count, side : int
        Number of representations, and of those along each axis of a tile.
    asked, missing : int
        Pairs asked for, and those among them that are not there.
    partial : bool
        Whether the comparison has pairs that lack a measure.
    needed : (representation,) bool
        Representations of which a pair is missing.
    tiles : dict of (int, int) to bytes
        Packed bits of the missing pairs of each tile that has some, by row and column, row <= column. Tiles that miss
        the same pairs share them.
    """

    count: int
    side: int
    asked: int = 0
    missing: int = 0
    partial: bool = False
    needed: BoolArray = field(init=False)
    tiles: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.needed = np.zeros(self.count, dtype=np.bool_)

    def with_itself(self) -> dict[tuple[int, int], bool]:
        """For each tile, whether all pairs of a group with itself are missing."""
        found = {}
        for (row, column), bits in self.tiles.items():
            length = min(self.side, self.count - row * self.side)
            pairs = np.unpackbits(np.frombuffer(bits, np.uint8), count=length**2) if row == column else np.zeros(1)
            found[row, column] = bool(pairs.all())
        return found

    def with_any(self, of: Sequence[int], others: Sequence[int]) -> BoolArray:
        """Which of some representations miss a pair with any of some others."""
        chosen, found = np.zeros(self.count, dtype=np.bool_), np.zeros(self.count, dtype=np.bool_)
        chosen[others] = True
        for (row, column), bits in self.tiles.items():
            a, b = (slice(number * self.side, (number + 1) * self.side) for number in (row, column))
            shape = len(chosen[a]), len(chosen[b])
            pairs = np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1]).reshape(shape) > 0
            found[a] |= pairs[:, chosen[b]].any(axis=1)
            found[b] |= pairs[chosen[a]].any(axis=0)
        return found[of]


def find_missing(
    selected: Selection,
    places: Sequence[int],
    state: ComparisonState | None,
    changed: Sequence[int],
    side: int,
    *,
    lacking: bool,
) -> MissingPairs:
    """Find the pairs to compute.

    The status above the diagonal decides: its mirror image is written before it.

    Parameters
    ----------
    selected : Selection
        Pairs asked for, by the order of the zoo.
    places : sequence of int
        Where in the zoo each representation of the comparison is; -1 if it has left.
    state : ComparisonState or None
    changed : sequence of int
        Representations whose pairs are void.
    side : int
        Representations along each axis of a tile.
    lacking : bool
        Whether all pairs that have values lack some; pairs that failed may then have values of what is added.
    """
    count, known = len(places), 0 if state is None else len(state.labels)
    found = MissingPairs(count, side)
    index = np.array(places, dtype=np.int64)
    void = np.zeros(count, dtype=np.bool_)
    void[list(changed)] = True
    left = bool((index < 0).any())
    wanted = (*UNFINISHED, *((*VALUED, PairStatus.FAILED) if lacking else ()))
    shared: dict[bytes, bytes] = {}
    for start in range(0, count, side):
        height, columns = min(side, count - start), index[start:]
        status = None
        if state is not None and start < known:
            status = np.asarray(state.status[start : min(start + side, known), start:known])
        # Nothing of it is touched, and so takes memory, where no pair is missing.
        pairs, once = np.zeros((height, count - start), dtype=np.bool_), 0
        in_rows, in_columns = np.zeros(height, dtype=np.bool_), np.zeros(count - start, dtype=np.bool_)
        step = max(1, AT_ONCE // (count - start))
        for first in range(0, height, step):
            part = slice(first, min(first + step, height))
            rows = index[start:][part]
            asked = selected.block(rows, columns)
            if left:
                asked &= (rows >= 0)[:, np.newaxis]
                asked &= columns >= 0
            found.asked += _count_once(asked, first)
            if status is not None and first < len(status):
                some = status[part]
                missing = have_status(some, wanted)
                missing[void[start:][part][: len(some)]] = True
                missing |= void[start:known]
                asked[: len(some), : known - start] &= missing
                found.partial = found.partial or bool(have_status(some, (PairStatus.PARTIAL,)).any())
            of_columns = np.asarray(asked.any(axis=0))
            if not of_columns.any():
                continue
            once += _count_once(asked, first)
            in_columns |= of_columns
            in_rows[part] = asked.any(axis=1)
            span = slice(int(of_columns.argmax()), len(of_columns) - int(of_columns[::-1].argmax()))
            pairs[part, span] = asked[:, span]
        if not once:
            continue
        found.missing += once
        found.needed[start : start + height] |= in_rows
        found.needed[start:] |= in_columns
        for column in range(start, count, side):
            place = slice(column - start, column - start + side)
            if in_columns[place].any():
                bits = np.packbits(pairs[:, place]).tobytes()
                found.tiles[start // side, column // side] = shared.setdefault(bits, bits)
    return found


def _count_once(pairs: BoolArray, first: int) -> int:
    """Pairs of some rows of a stripe that begins on the diagonal, from a row on, each once."""
    square = pairs[:, first : first + len(pairs)]
    return int(np.count_nonzero(pairs[:, first:])) - int(np.count_nonzero(np.tril(square, -1)))
