"""Pairs whose task failed for good: marked with the reason, and tried again by the next run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.stores import _io
from dask_svcca.stores._blocks import block_arrays
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import PAIR_STATUS, PENDING, PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.kernels._types import BoolArray
    from dask_svcca.stores._state import Blocks

FAILURES: Final = "failures"
"""Attribute of a comparison that has the reasons."""


@dataclass(frozen=True, slots=True)
class Block:
    """Pairs that failed together.

    Attributes
    ----------
    rows, columns : (int, int)
        First representation, and the one behind the last.
    reason : str
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    reason: str

    @property
    def places(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The block and its mirror image."""
        rows, columns = slice(*self.rows), slice(*self.columns)
        return (columns, rows), (rows, columns)


def read_failures(root: zarr.Group) -> tuple[Block, ...]:
    """What failed in the latest run."""
    stored: Any = root.attrs.get(FAILURES, [])
    return tuple(Block(tuple(one["rows"]), tuple(one["columns"]), one["reason"]) for one in stored)


def write_failures(root: zarr.Group, blocks: Sequence[Block]) -> None:
    """Store what failed, beside what is stored already."""
    stored = [*read_failures(root), *blocks]
    _io.consolidate(root, {**root.attrs, FAILURES: [_document(block) for block in dict.fromkeys(stored)]})


def _document(block: Block) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(block).items()}


def forget_failures(root: zarr.Group) -> None:
    """Have what failed tried again: it is missing from now on."""
    failed = read_failures(root)
    if not failed:
        return
    (array,) = block_arrays(root, [PAIR_STATUS.name]).values()
    backend = backend_of(root)
    for place in (place for block in failed for place in block.places):
        rows, columns = (_whole(one, array.side, array.shape[0]) for one in place)
        status = array.read((rows, columns))
        again = np.zeros(status.shape, dtype=np.bool_)
        inner = [
            slice(max(0, one.start - all_.start), one.stop - all_.start)
            for one, all_ in zip(place, (rows, columns), strict=True)
        ]
        again[inner[0], inner[1]] = True
        again &= status == PairStatus.FAILED
        backend.write_many(array.merged((rows, columns), np.full_like(status, PairStatus.MISSING), again))
    _io.consolidate(root, {name: value for name, value in root.attrs.items() if name != FAILURES})


def _whole(one: slice, side: int, count: int) -> slice:
    """The rows of all blocks that some rows are in."""
    first, stop = min(one.start, count) // side * side, min(-(-one.stop // side) * side, count)
    return slice(first, max(first, stop))


def mark_failed(root: zarr.Group, place: tuple[slice, slice], asked: BoolArray) -> int:
    """Mark pairs as failed that were asked for and are missing, and their mirror images. Returns how many pairs.

    Parameters
    ----------
    root : zarr.Group
    place : (slice, slice)
        Some whole blocks.
    asked : (a, b)
        Each pair once.
    """
    (array,) = block_arrays(root, [PAIR_STATUS.name]).values()
    backend = backend_of(root)
    failed: BoolArray = asked & np.isin(array.read(place), PENDING)
    for where, pairs in ((place[::-1], failed.T), (place, failed)):
        backend.write_many(array.merged(where, np.full(pairs.shape, PairStatus.FAILED, dtype=np.uint8), pairs))
    return int(failed.sum())


class TriedAgain:
    """Status of pairs, of which those that failed are missing.

    Parameters
    ----------
    status : Blocks
    failed : iterable of Block
    """

    def __init__(self, status: Blocks, failed: Iterable[Block]) -> None:
        self._status = status
        self._places = [place for block in failed for place in block.places]

    def __getitem__(self, place: tuple[slice, slice], /) -> npt.NDArray[np.uint8]:
        """Some rows and columns."""
        values = np.array(self._status[place], dtype=np.uint8)
        for failed in self._places:
            inner = []
            for one, other, size in zip(failed, place, values.shape, strict=True):
                start = other.start or 0
                inner.append(slice(max(0, one.start - start), min(size, max(0, one.stop - start))))
            part = values[tuple(inner)]
            part[part == PairStatus.FAILED] = PairStatus.MISSING
        return values
