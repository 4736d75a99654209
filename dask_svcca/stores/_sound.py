"""The status of pairs, of which nothing is believed whose values are not there."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.stores._access import UNREADABLE
from dask_svcca.stores._blocks import block_arrays
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import PAIR_STATUS, VALUED, PairStatus, have_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.stores._blocks import Block, BlockArray, Place
    from dask_svcca.stores.backend import Backend


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
    variables : sequence of str
        What a pair with values has, by name.

    Attributes
    ----------
    lost : set of (int, int)
        Blocks that were found to have lost something, by their position among the tiles.
    """

    def __init__(self, root: zarr.Group, variables: Sequence[str]) -> None:
        arrays = block_arrays(root, (PAIR_STATUS.name, *variables))
        self._status = arrays[PAIR_STATUS.name]
        self._suspects = _suspects(backend_of(root), arrays)
        self.lost: set[Block] = set()

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns of the matrix."""
        return self._status.shape

    def __getitem__(self, place: tuple[slice, slice], /) -> npt.NDArray[np.uint8]:
        """Some rows and columns."""
        rows, columns = (slice(*one.indices(size)[:2]) for one, size in zip(place, self.shape, strict=True))
        shape = [max(0, one.stop - one.start) for one in (rows, columns)]
        values = np.full(shape, PairStatus.MISSING, dtype=np.uint8)
        parts = list(self._status.parts((rows, columns)))
        try:
            stored = self._status.read_blocks([block for block, _, _ in parts])
            for (_, part, inner), found in zip(parts, stored, strict=True):
                if found is not None:
                    values[part] = found[inner]
        except UNREADABLE:
            self._read_one_by_one(parts, values)
        for block, part, _ in parts if self._suspects or self.lost else ():
            gone = block in self.lost or (block in self._suspects and bool(have_status(values[part], VALUED).any()))
            if gone:
                # A block and its mirror image are made together.
                self.lost |= {block, block[::-1]}
                values[part] = PairStatus.MISSING
        return values

    def _read_one_by_one(self, parts: Sequence[tuple[Block, Place, Place]], values: npt.NDArray[np.uint8]) -> None:
        """Read parts of a place of which some cannot be read."""
        for block, part, inner in parts:
            try:
                found = self._status.read_block(block)
            except UNREADABLE:
                self.lost |= {block, block[::-1]}
            else:
                if found is not None:
                    values[part] = found[inner]


def count_pairs(status: SoundStatus, tile: int) -> dict[PairStatus, int]:
    """Number of pairs of each status, each pair once and a representation with itself included."""
    found = np.zeros(len(PairStatus), dtype=np.int64)
    height = tile * max(1, STRIPE // tile)
    for start in range(0, status.shape[0], height):
        block = status[start : start + height, start:]
        square = block[:, : len(block)]
        square[np.tri(len(block), k=-1, dtype=np.bool_)] = UNCOUNTED
        left = block.size - len(block) * (len(block) - 1) // 2
        # Nearly all are done, and the others are rarely looked for.
        for one in sorted(PairStatus, key=lambda one: one is not PairStatus.DONE):
            if left:
                count = int(np.count_nonzero(block == np.uint8(one)))
                found[one] += count
                left -= count
    return {one: int(found[one]) for one in PairStatus}


def _suspects(backend: Backend, arrays: Mapping[str, BlockArray]) -> set[Block]:
    """Blocks of which something that was written is not there, or has another size; with their mirror images.

    The status is looked at first: whatever is there then was written behind its values.
    """
    first, *rest = arrays
    (status,) = backend.sizes_many([f"{first}/c"])
    others = backend.sizes_many([f"{name}/c" for name in rest])
    every = dict(zip(arrays, [status, *others], strict=True))

    def there(name: str) -> set[Block]:
        pieces = Counter(
            (int(row), int(column))
            for key, whole in arrays[name].are_sized(backend, every[name]).items()
            if whole
            for row, column, *_ in [key.split("/")]
        )
        return {block for block, count in pieces.items() if count >= len(arrays[name].keys(block))}

    known = there(first)
    known |= {block[::-1] for block in known}
    found: set[Block] = set()
    for name in arrays:
        found |= known - there(name)
    return found | {block[::-1] for block in found}
