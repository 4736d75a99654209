"""Means over blocks of the matrix: read tile by tile, once, with progress, in memory that does not grow with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from dask_svcca.errors import DaskSvccaError

    IntVector = npt.NDArray[np.int64]
    FloatMatrix = npt.NDArray[np.float64]

PANEL: Final = 2**21
"""Elements of the matrix that are in memory at a time."""


class Reader(Protocol):
    """Values of some rows and columns of the matrix."""

    def __call__(self, rows: IntVector, columns: IntVector) -> FloatMatrix:
        """Read them."""


@dataclass
class Means:
    """Sums over blocks of the matrix, and of how many values.

    Attributes
    ----------
    rows, columns : (representation,) int
        For each place in the comparison, which block it belongs to; -1 for none.
    sums : (a, b) float
    counts : (a, b) int
        Of values that are numbers.
    """

    rows: IntVector
    columns: IntVector
    sums: FloatMatrix
    counts: npt.NDArray[np.int64]

    @classmethod
    def build(cls, count: int, rows: Sequence[IntVector], columns: Sequence[IntVector]) -> Means:
        """Nothing read yet.

        Parameters
        ----------
        count : int
            Number of representations.
        rows, columns : sequence of (member,) int
            Places of the members of each block.
        """
        shape = len(rows), len(columns)
        return cls(_blocks(count, rows), _blocks(count, columns), np.zeros(shape), np.zeros(shape, np.int64))

    def add(self, rows: IntVector, columns: IntVector, values: FloatMatrix) -> None:
        """Add the values of some rows and columns."""
        own_rows, own_columns = self.rows[rows], self.columns[columns]
        kept_rows, kept_columns = own_rows >= 0, own_columns >= 0
        if not kept_rows.all() or not kept_columns.all():
            values = values[np.ix_(kept_rows, kept_columns)]
        finite = np.isfinite(values)
        total = np.where(finite, values, 0.0)
        for axis, blocks in ((1, own_columns[kept_columns]), (0, own_rows[kept_rows])):
            total, finite = _pooled(total, blocks, axis), _pooled(finite, blocks, axis)
        place = np.ix_(np.unique(own_rows[kept_rows]), np.unique(own_columns[kept_columns]))
        self.sums[place] += total
        self.counts[place] += finite


def _blocks(count: int, members: Sequence[IntVector]) -> IntVector:
    blocks = np.full(count, -1, dtype=np.int64)
    for number, places in enumerate(members):
        blocks[places] = number
    return blocks


def _pooled(values: npt.NDArray[np.generic], blocks: IntVector, axis: int) -> npt.NDArray[np.generic]:
    """Sums over the members of each block, in ascending order of blocks; counts where values are boolean."""
    order = np.argsort(blocks, kind="stable")
    starts = np.flatnonzero(np.diff(blocks[order], prepend=-1))
    if not np.array_equal(order, np.arange(len(order))):
        values = values.take(order, axis)
    kind = np.int64 if values.dtype == np.bool_ else values.dtype
    return np.add.reduceat(values, starts, axis=axis, dtype=kind) if len(starts) else values


@dataclass
class Pass:
    """One reading of some rows and columns of the matrix, added up in several ways.

    Attributes
    ----------
    rows, columns : (place,) int
        In ascending order.
    tile : int
        Representations along each axis of a tile.
    targets : sequence of Means
    low, high : float
        Bounds of the values read; infinite the wrong way round before the first.
    problem : DaskSvccaError or None
        Why it ended before it was done.
    stopped : bool
        Set to have it end early.
    """

    rows: IntVector
    columns: IntVector
    tile: int
    targets: Sequence[Means]
    low: float = np.inf
    high: float = -np.inf
    problem: DaskSvccaError | None = None
    stopped: bool = False
    _read: int = field(default=0, repr=False)

    @property
    def done(self) -> float:
        """Share that has been read."""
        total = len(self.rows) * len(self.columns)
        return self._read / total if total else 1.0

    def finish(self, low: float, high: float) -> None:
        """Take it as read, with these bounds: its targets were filled in."""
        self.low, self.high = low, high
        self._read = len(self.rows) * len(self.columns)

    def run(self, read: Reader) -> None:
        """Read everything."""
        for rows, columns in self._panels():
            if self.stopped:
                return
            values = read(rows, columns)
            for target in self.targets:
                target.add(rows, columns, values)
            finite = values[np.isfinite(values)]
            self.low = min(self.low, float(finite.min(initial=np.inf)))
            self.high = max(self.high, float(finite.max(initial=-np.inf)))
            self._read += values.size

    def _panels(self) -> Iterator[tuple[IntVector, IntVector]]:
        """Rows of one tile at a time, with as many columns as memory holds: whole tiles, each read once."""
        height = min(self.tile, len(self.rows))
        width = max(1, PANEL // max(1, height) // self.tile) * self.tile
        for rows in _together(self.rows, self.tile):
            for columns in _together(self.columns, width):
                yield rows, columns


def _together(places: IntVector, width: int) -> list[IntVector]:
    """Places that lie in the same part of the axis, for parts of one width."""
    return np.split(places, np.flatnonzero(np.diff(places // width)) + 1) if len(places) else []


def touched(rows: IntVector, columns: IntVector, tile: int) -> int:
    """Number of elements in the tiles that have some of these rows and columns.

    Examples
    --------
    >>> touched(np.array([0, 1, 25]), np.array([3]), 10)
    200
    """
    tall, wide = (len(np.unique(places // tile)) for places in (rows, columns))
    return tall * wide * tile**2


def runs(places: IntVector, tile: int) -> list[IntVector]:
    """Ascending places in parts between which whole tiles are not asked for.

    Examples
    --------
    >>> runs(np.array([0, 3, 11, 50]), 10)
    [array([ 0,  3, 11]), array([50])]
    """
    return np.split(places, np.flatnonzero(np.diff(places // tile) > 1) + 1) if len(places) else []
