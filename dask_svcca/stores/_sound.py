"""The status of pairs, of which nothing is believed whose values are not there."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.stores._access import UNREADABLE
from dask_svcca.stores._blocks import block_arrays
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import PAIR_STATUS, VALUED, PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import zarr

    Block = tuple[int, int]


STRIPE = 640
"""Rows whose status is read at a time, or as many as a tile has."""

UNCOUNTED = np.iinfo(np.uint8).max
"""No status: stands for the half of a matrix that mirrors the other while pairs are counted."""


class SoundStatus:
    """Status of pairs, read block by block: missing where values are gone, or where it cannot be read.

    Whether values are there is seen from the names and sizes of files alone: `dask_svcca.verify` reads them.

    Parameters
    ----------
    root : zarr.Group
        The comparison.
    status : zarr.Array
        As it is stored.
    variables : sequence of str
        What a pair with values has, by name.

    Attributes
    ----------
    lost : set of (int, int)
        Blocks that were found to have lost something, by their position among the tiles.
    """

    def __init__(self, root: zarr.Group, status: zarr.Array[Any], variables: Sequence[str]) -> None:
        self._status = status
        self._side = status.chunks[0]
        self._suspects = _suspects(root, variables)
        self.lost: set[Block] = set()

    def __getitem__(self, place: tuple[slice, slice], /) -> npt.NDArray[np.uint8]:
        """Some rows and columns."""
        try:
            values = np.array(self._status[place], dtype=np.uint8)
        except UNREADABLE:
            values = self._by_block(place)
        for block, part in self._blocks(place) if self._suspects or self.lost else ():
            gone = block in self.lost or (block in self._suspects and bool(np.isin(values[part], VALUED).any()))
            if gone:
                # A block and its mirror image are made together.
                self.lost |= {block, block[::-1]}
                values[part] = PairStatus.MISSING
        return values

    def _by_block(self, place: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
        """The same, where some of it cannot be read."""
        rows, columns = (range(*one.indices(size)) for one, size in zip(place, self._status.shape, strict=True))
        values = np.full((len(rows), len(columns)), PairStatus.MISSING, dtype=np.uint8)
        for block, part in self._blocks(place):
            inner_rows, inner_columns = rows[part[0]], columns[part[1]]
            try:
                values[part] = self._status[
                    inner_rows.start : inner_rows.stop, inner_columns.start : inner_columns.stop
                ]
            except UNREADABLE:
                self.lost |= {block, block[::-1]}
        return values

    def _blocks(self, place: tuple[slice, slice]) -> Iterator[tuple[Block, tuple[slice, slice]]]:
        """Blocks that a place meets, and where they are in it."""
        axes = []
        for one, size in zip(place, self._status.shape, strict=True):
            start, stop, _ = one.indices(size)
            parts = range(start // self._side, -(-stop // self._side)) if stop > start else range(0)
            axes.append(
                [
                    (part, slice(max(start, part * self._side) - start, min(stop, (part + 1) * self._side) - start))
                    for part in parts
                ]
            )
        for (row, rows), (column, columns) in product(*axes):
            yield (row, column), (rows, columns)


def count_pairs(status: SoundStatus, rows: int, tile: int) -> dict[PairStatus, int]:
    """Number of pairs of each status, each pair once and a representation with itself included."""
    found = np.zeros(len(PairStatus), dtype=np.int64)
    height = tile * max(1, STRIPE // tile)
    for start in range(0, rows, height):
        block = status[start : start + height, start:]
        square = block[:, : len(block)]
        square[np.tri(len(block), k=-1, dtype=np.bool_)] = UNCOUNTED
        left = block.size - len(block) * (len(block) - 1) // 2
        # Nearly all are done, and the others are rarely looked for.
        for one in sorted(PairStatus, key=lambda one: one is not PairStatus.DONE):
            if left:
                count = int(np.count_nonzero(block == one))
                found[one] += count
                left -= count
    return {one: int(found[one]) for one in PairStatus}


def _suspects(root: zarr.Group, variables: Sequence[str]) -> set[Block]:
    """Blocks of which something that was written is not there, or has another size; with their mirror images.

    The status is looked at first: whatever is there then was written behind its values.
    """
    backend, names = backend_of(root), (PAIR_STATUS.name, *variables)
    arrays = block_arrays(root, names)
    (status,) = backend.sizes_many([f"{PAIR_STATUS.name}/c"])
    others = backend.sizes_many([f"{name}/c" for name in variables])
    every = dict(zip(names, [status, *others], strict=True))

    def there(name: str) -> set[Block]:
        pieces = Counter(
            (int(row), int(column))
            for key, whole in arrays[name].are_sized(backend, every[name]).items()
            if whole
            for row, column, *_ in [key.split("/")]
        )
        return {block for block, count in pieces.items() if count >= len(arrays[name].keys(block))}

    known = there(PAIR_STATUS.name)
    known |= {block[::-1] for block in known}
    found: set[Block] = set()
    for name in (PAIR_STATUS.name, *variables):
        found |= known - there(name)
    return found | {block[::-1] for block in found}
