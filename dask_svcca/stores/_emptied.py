"""Forgetting the pairs of some representations: values are taken out of the blocks that have them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.errors import DamagedStoreError
from dask_svcca.machine import cores
from dask_svcca.stores._blocks import block_arrays
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import zarr

    from dask_svcca.stores._blocks import Block, BlockArray

    Forget = Callable[[Sequence[Block]], None]


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
    lost = _empty(root, status, positions, forget)
    # They have nothing to do with each other: while one waits for the disk, or sums up bytes, another is read.
    threads = ThreadPoolExecutor(cores())
    try:
        return any(list(threads.map(lambda array: _empty(root, array, positions, forget), others))) or lost
    finally:
        threads.shutdown(cancel_futures=True)


def _empty(root: zarr.Group, array: BlockArray, positions: Sequence[int], forget: Forget) -> bool:
    """The same of one array."""
    # Where a run was stopped while it made room, arrays have different sizes.
    gone, lost = np.zeros(array.shape[0], dtype=np.bool_), False
    gone[[position for position in positions if position < len(gone)]] = True
    while True:
        try:
            backend_of(root).write_many(array.emptied(gone))
        except DamagedStoreError as error:
            # It is rare, and the others are emptied once more.
            _, _, row, column, *_ = error.key.split("/")
            forget([(int(row), int(column))])
            lost = True
        else:
            return lost
