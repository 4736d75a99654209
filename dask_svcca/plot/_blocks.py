"""Values of pairs as cells of a picture: each pair a cell, or where those are too many, means of neighbours."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.analysis.selection import values_of
from dask_svcca.plot._sides import evenly
from dask_svcca.stores.choice import as_slice
from dask_svcca.variables import PAIR_STATUS, UNFINISHED, VALUED, PairStatus

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

    from dask_svcca.plot._sides import Along

CELLS: Final = 256
"""Largest number of cells along an axis: more of them would be smaller than what a screen can show."""

READ: Final = 2048
"""Largest number of representations of a side of which values are read."""

DECODED: Final = 2**27
"""Largest number of values in the chunks that are read for a picture, a GiB of them."""


@dataclass(frozen=True)
class Cells:
    """A part of the matrix of a measure, as it is drawn.

    Attributes
    ----------
    matrix : (cell_a, cell_b)
        Means of the pairs of a cell that have a value; NaN where none has.
    a, b : Along
        Representations that were read.
    first_a, first_b : (cell,) int
        The first representation of each cell.
    asked : (int, int)
        Number of representations that were asked for, of both sides.
    without : Counter
        Number of pairs that were read and have no value, by the reason.
    """

    matrix: npt.NDArray[np.float64]
    a: Along
    b: Along
    first_a: npt.NDArray[np.intp]
    first_b: npt.NDArray[np.intp]
    asked: tuple[int, int]
    without: Counter[str] = field(default_factory=Counter)

    def pooled(self) -> str:
        """What a cell is, where it is not one pair."""
        sizes = [-(-len(side) // len(first)) for side, first in ((self.a, self.first_a), (self.b, self.first_b))]
        if sizes == [1, 1] and self.asked == (len(self.a), len(self.b)):
            return ""
        text = "" if sizes == [1, 1] else f"cells are means of {sizes[0]} x {sizes[1]} pairs"
        if self.asked != (len(self.a), len(self.b)):
            sample = f"{len(self.a):,} x {len(self.b):,} of {self.asked[0]:,} x {self.asked[1]:,} pairs"
            text = f"{text}, of {sample}" if text else f"a sample: {sample}"
        return text


def cells_of(result: xr.Dataset, measure: str, a: Along, b: Along, *, most: int = CELLS) -> Cells:
    """Values of a measure for some rows and columns, in the order of both, read and pooled as far as is needed."""
    asked = len(a), len(b)
    a, b = _sample(result[measure], a, b)
    values = read_pairs(result, measure, a, b)
    absent = np.isnan(values)
    without: Counter[str] = Counter()
    if absent.any():
        without = (
            reasons(read_pairs(result, PAIR_STATUS.name, a, b)[absent])
            if PAIR_STATUS.name in result
            else Counter({"no value": int(absent.sum())})
        )
    first_a, first_b = (_first(len(side), most) for side in (a, b))
    if len(first_a) < len(a) or len(first_b) < len(b):
        sums, counts = (
            np.add.reduceat(np.add.reduceat(each, first_a, axis=0), first_b, axis=1)
            for each in (np.where(absent, 0.0, values), (~absent).astype(np.float64))
        )
        values = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return Cells(values, a, b, first_a, first_b, asked, without)


def read_pairs(result: xr.Dataset, name: str, a: Along, b: Along) -> npt.NDArray[Any]:
    """A variable of pairs, (a, b), for some rows and columns."""
    # In the order of the store, each chunk is read once.
    rows, row = np.unique(a.places, return_inverse=True)
    columns, column = np.unique(b.places, return_inverse=True)
    found = values_of(
        result[name]
        .isel(representation_a=as_slice(rows), representation_b=as_slice(columns))
        .transpose("representation_a", "representation_b", ...)
    )
    return found[row[:, np.newaxis], column[np.newaxis, :]]


def reasons(status: npt.NDArray[Any]) -> Counter[str]:
    """Why pairs have no value: how many, by the reason."""
    found: Counter[str] = Counter()
    for value, count in zip(*np.unique(status, return_counts=True), strict=True):
        one = PairStatus(int(value))
        name = "not computed yet" if one in UNFINISHED else "no value" if one in VALUED else one.name.lower()
        found[name.replace("_", " ")] += int(count)
    return found


def without_text(without: Counter[str]) -> str:
    """What grey means, for a legend; empty where everything has a value."""
    if not without:
        return ""
    if set(without) == {"no value"}:
        return "no value"
    return "\n".join(["no value:", *(f"{count:,} {reason}" for reason, count in sorted(without.items()))])


def _sample(array: xr.DataArray, a: Along, b: Along) -> tuple[Along, Along]:
    """Both sides, or as much of them as may be read: evenly in their order, and from few enough chunks."""
    a, b = (side.take(evenly(range(len(side)), READ)) if len(side) > READ else side for side in (a, b))
    chunks = array.encoding.get("chunks")
    if not chunks:
        return a, b
    size_a, size_b = (int(chunks[array.get_axis_num(f"representation_{side}")]) for side in "ab")
    touched_a, touched_b = (np.unique(side.places // size) for side, size in ((a, size_a), (b, size_b)))
    excess = len(touched_a) * size_a * len(touched_b) * size_b / DECODED
    if excess <= 1:
        return a, b
    share = excess**-0.5
    return _in_some_chunks(a, size_a, touched_a, share), _in_some_chunks(b, size_b, touched_b, share)


def _in_some_chunks(side: Along, size: int, touched: npt.NDArray[np.intp], share: float) -> Along:
    """Representations in a share of the chunks, evenly spaced ones."""
    kept = evenly(touched, max(1, int(len(touched) * share)))
    return side.take(np.flatnonzero(np.isin(side.places // size, kept)))


def _first(count: int, most: int) -> npt.NDArray[np.intp]:
    """Place of the first of each cell; cells are of equal size, the last may be smaller."""
    return np.arange(0, count, max(1, -(-count // most)), dtype=np.intp)
