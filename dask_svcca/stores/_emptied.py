"""Forgetting the pairs of some representations: values are taken out of the blocks that have them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import numpy as np

from dask_svcca.errors import DamagedStoreError
from dask_svcca.machine import cores
from dask_svcca.stores._blocks import block_arrays
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import zarr

    from dask_svcca.stores._blocks import Block, BlockArray, Parts

    Forget = Callable[[Collection[Block]], None]

AT_ONCE = 4
"""Arrays that are emptied at a time at most: of each, blocks are in memory, and what is on its way to the store."""


def invalidate(root: zarr.Group, names: Sequence[str], positions: Sequence[int], forget: Forget) -> bool:
    """Take from arrays along pairs the values of the representations at some positions.

    Parameters
    ----------
    root : zarr.Group
        The comparison.
    names : sequence of str
        All arrays along pairs, the status first: a pair without a value must not look done.
    positions : sequence of int
    forget : callable
        Takes away blocks that cannot be read, from all arrays.

    Returns
    -------
    bool
        Whether other pairs are missing, too: all of a block that could not be read.
    """
    status, *others = block_arrays(root, names).values()
    with _Emptying(root, positions, forget) as emptying:
        lost = emptying.empty([status])
        # They have nothing to do with each other: while one waits for the disk, or sums up bytes, another is read.
        return emptying.empty(others) or lost


class _Emptying:
    """Takes values out of several arrays at a time.

    As a context manager it ends with its threads; where something fails, or is interrupted, none begins another block.
    """

    def __init__(self, root: zarr.Group, positions: Sequence[int], forget: Forget) -> None:
        self._root, self._positions, self._forget = root, positions, forget
        self._threads = ThreadPoolExecutor(min(cores(), AT_ONCE))
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._threads.shutdown(cancel_futures=True)

    def empty(self, arrays: Sequence[BlockArray]) -> bool:
        """Empty some arrays; see `invalidate`."""
        lost = False
        while arrays:
            found = list(self._threads.map(self._damage, arrays))
            arrays = [array for array, block in zip(arrays, found, strict=True) if block is not None]
            if arrays:
                # It is rare, and those are emptied once more. Nobody writes meanwhile: in a folder that is being taken
                # away, nothing can be written.
                self._forget({block for block in found if block is not None})
                lost = True
        return lost

    def _damage(self, array: BlockArray) -> Block | None:
        """Empty one array up to the first block that cannot be read, which is returned."""
        # Where a run was stopped while it made room, arrays have different sizes.
        gone = np.zeros(array.shape[0], dtype=np.bool_)
        gone[[position for position in self._positions if position < len(gone)]] = True
        try:
            backend_of(self._root).write_many(self._until_stopped(array.emptied(gone)))
        except DamagedStoreError as error:
            _, _, row, column, *_ = error.key.split("/")
            return int(row), int(column)
        except BaseException:
            self._stopped.set()
            raise
        return None

    def _until_stopped(self, items: Iterator[tuple[str, Parts]]) -> Iterator[tuple[str, Parts]]:
        for item in items:
            if self._stopped.is_set():
                return
            yield item
