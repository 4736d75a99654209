"""Estimates in a comparison: variables of their own, of pairs that are not computed yet.

They never stand where an exact value may: whoever reads a measure, with this package or without, finds a number only
where it was computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from dask_svcca.stores import _io
from dask_svcca.stores._blocks import block_arrays, pair_document
from dask_svcca.stores._stored import ESTIMATED
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import (
    ESTIMATE_VARIABLES,
    ESTIMATED_MEASURE,
    PAIR_STATUS,
    PENDING,
    STATUS_ATTRIBUTES,
    UNFINISHED,
    PairStatus,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.kernels._types import BoolArray, FloatArray

    IntVector = npt.NDArray[np.int64]
    Place = tuple[slice, slice]


SPAN: Final = 1024
"""Representations along each axis of what is estimated together: one product for many blocks."""


class Likeness(Protocol):
    """How similar representations are, as far as it is known before they are compared."""

    def block(self, rows: IntVector, columns: IntVector) -> tuple[FloatArray, FloatArray]:
        """Estimates of some pairs, and their standard errors.

        Parameters
        ----------
        rows, columns : (a,) and (b,) int
            Positions of representations in the zoo, not negative.

        Returns
        -------
        values, errors : (a, b)
            NaN where two are not comparable, or one cannot be estimated.
        """


class Asked(Protocol):
    """Which pairs are asked for."""

    def block(self, rows: IntVector, columns: IntVector) -> BoolArray:
        """Of some representations, (a, b), by their positions in the zoo."""


def add_estimates(root: zarr.Group, count: int, tile: int) -> None:
    """Make room for estimates in a comparison, where there is none yet.

    Parameters
    ----------
    root : zarr.Group
    count : int
        Rows of its matrices.
    tile : int
        Representations along each axis of a block.
    """
    if root.attrs.get(ESTIMATED):
        return
    backend = backend_of(root)
    for variable in ESTIMATE_VARIABLES:
        attributes = {**variable.attributes, "estimate_of": ESTIMATED_MEASURE, "valid_range": [-1.0, 1.0]}
        backend.remove(variable.name)
        backend.write(f"{variable.name}/zarr.json", pair_document(variable, (), attributes, count=count, tile=tile))
    # A comparison that was made before there were estimates does not say what their status means.
    status = {**PAIR_STATUS.attributes, **STATUS_ATTRIBUTES}
    backend.write(f"{PAIR_STATUS.name}/zarr.json", pair_document(PAIR_STATUS, (), status, count=count, tile=tile))
    _io.consolidate(root, {**root.attrs, ESTIMATED: [ESTIMATED_MEASURE]})


def write_estimates(root: zarr.Group, likeness: Likeness, asked: Asked, places: Sequence[int]) -> int:
    """Write estimates of the pairs asked for that are not finished; the status of those without any value last.

    Parameters
    ----------
    root : zarr.Group
        A comparison that has room for them: see `add_estimates`.
    likeness : Likeness
    asked : Asked
    places : sequence of int
        Where in the zoo each representation of the comparison is; -1 if it has left.

    Returns
    -------
    int
        Pairs that have an estimate and no value now, each counted once, a representation with itself included.
    """
    names = [PAIR_STATUS.name, *(variable.name for variable in ESTIMATE_VARIABLES)]
    status, *estimates = block_arrays(root, names).values()
    backend, index, side = backend_of(root), np.array(places, dtype=np.int64), status.side
    written = 0
    for row, column in _blocks(len(index), side):
        place = row, column
        known = status.read(place)
        wanted = np.isin(known, UNFINISHED) & _present(asked, index[row], index[column])
        if not wanted.any():
            continue
        both = estimates_of(likeness, index[row], index[column])
        wanted &= np.isfinite(both[0])
        for array, values in zip(estimates, both, strict=True):
            if row != column:
                backend.write_many(array.merged(place[::-1], values.T, wanted.T))
            backend.write_many(array.merged(place, values, wanted))
        marked = wanted & np.isin(known, PENDING)
        states = np.full(known.shape, PairStatus.ESTIMATED, dtype=np.uint8)
        if row != column:
            backend.write_many(status.merged(place[::-1], states.T, marked.T))
        backend.write_many(status.merged(place, states, marked))
        written += int(np.count_nonzero(np.triu(marked) if row == column else marked))
    return written


def _blocks(count: int, side: int) -> Iterator[Place]:
    """Squares of some blocks each, on the diagonal and above it."""
    step = side * max(1, SPAN // side)
    parts = [slice(start, min(start + step, count)) for start in range(0, count, step)]
    for number, row in enumerate(parts):
        for column in parts[number:]:
            yield row, column


def _present(asked: Asked, rows: IntVector, columns: IntVector) -> BoolArray:
    """Pairs asked for, of representations that are in the zoo."""
    there: BoolArray = np.logical_and.outer(rows >= 0, columns >= 0)
    return asked.block(rows, columns) & there


def estimates_of(likeness: Likeness, rows: IntVector, columns: IntVector) -> tuple[FloatArray, FloatArray]:
    """Estimates and standard errors of some pairs, (a, b), NaN for those that have left.

    Parameters
    ----------
    likeness : Likeness
    rows, columns : (a,) and (b,) int
        Positions in the zoo; -1 for those that have left.
    """
    here, there = rows >= 0, columns >= 0
    if here.all() and there.all():
        return likeness.block(rows, columns)
    found = []
    for part in likeness.block(rows[here], columns[there]):
        whole = np.full((len(rows), len(columns)), np.nan, dtype=np.float32)
        whole[np.ix_(here, there)] = part
        found.append(whole)
    return found[0], found[1]
