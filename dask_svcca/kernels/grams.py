"""Inner products of Gram matrices of samples: the squared norms of cross-covariances, without the couplings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dask_svcca.kernels._rooms import at_a_line
from dask_svcca.kernels.lanes import MOST_ROWS, adder_of_inner_products

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.kernels._types import FloatArray

    Block = tuple[FloatArray, FloatArray] | FloatArray

TERMS = 2**12
"""Entries of Gram matrices whose products are summed in one precision before they are added up in double."""

LEAST_PRODUCTS = 2**35
"""Multiplications for the sums over all pairs from which it is worth to load what is compiled for few members."""

LINE = 16
"""Numbers to a multiple of which the room of each member is rounded up, and an odd one: all begin with a line of the
cache, and do not compete for the same ones."""

LEAST_COLUMNS = 32
"""Samples in the columns of a block, however little memory there is."""

PORTIONS = 16
"""Portions of the blocks that are summed on their own, a power of two: at most so many tasks can share them."""

HELD_SUMS = 6
"""Sums of portions that are held at a time while they are added up two by two, with those that come."""


class SumsGrams(Protocol):
    """What `GramProducts` computes, wherever it is computed."""

    def add(self, groups: Sequence[Sequence[Any]], times: int) -> None:
        """Add one block of all Gram matrices."""

    def take(self) -> tuple[FloatArray, list[FloatArray]]:
        """Sums of all pairs so far, and of each member with itself; then it begins anew."""


class GramProducts:
    """Sums over all entries of ``K_a * K_b`` for all pairs of two groups, a block of samples by another at a time.

    With ``K = Z Z.T`` of scores that are scaled to their standard deviations, the sum is ``|Z_a.T Z_b|**2``. A pair
    costs a multiplication for every two samples, however many directions it has.

    Parameters
    ----------
    a, b : int
        Members of the two groups.
    samples : int
        In all blocks together.
    entries : int
        Most entries of a block.
    dtype : numpy.dtype
    same : bool
        Whether both groups are the same.

    Examples
    --------
    >>> z = np.arange(6.0).reshape(2, 3)
    >>> products = GramProducts(1, 1, 3, 4, z.dtype, same=True)
    >>> for rows, columns in (((0, 2), (0, 2)), ((2, 3), (0, 2)), ((2, 3), (2, 3))):
    ...     first, second = (z[:, slice(*place)] for place in (rows, columns))
    ...     products.add([[(first, second)]], times=1 if rows == columns else 2)
    >>> total, own = products.take()
    >>> bool(total[0, 0] == own[0][0] == np.square(z.T @ z).sum())
    True
    """

    def __init__(self, a: int, b: int, samples: int, entries: int, dtype: np.dtype[np.floating], *, same: bool) -> None:
        self._shape, self._same = (a, b), same
        width = room_entries(entries)
        self._rooms = [at_a_line(count * width, dtype).reshape(count, width) for count in ((a,) if same else (a, b))]
        few = dtype == np.float32 and max(a, b) <= MOST_ROWS and a * b * samples**2 >= LEAST_PRODUCTS
        self._add_all = adder_of_inner_products() if few else None
        self._begin()

    def _begin(self) -> None:
        self._total: FloatArray = np.zeros(self._shape)
        self._own: list[FloatArray] = [] if self._same else [np.zeros(count) for count in self._shape]

    def add(self, groups: Sequence[Sequence[Block]], times: int) -> None:
        """Add one block of all Gram matrices.

        Parameters
        ----------
        groups : sequence of sequence of ((direction, row), (direction, column)), or (column, row)
            For each group, one where both are the same: what the block is made of, member by member. Scores at the
            samples of its rows and at those of its columns; or the block, transposed.
        times : int
            How often the block counts: twice off the diagonal, since Gram matrices are symmetric.
        """
        entries = 0
        for room, members in zip(self._rooms, groups, strict=True):
            for gram, member in zip(room, members, strict=True):
                if isinstance(member, tuple):
                    row, column = member
                    entries = row.shape[1] * column.shape[1]
                    np.matmul(column.T, row, out=gram[:entries].reshape(column.shape[1], row.shape[1]))
                else:
                    entries = member.size
                    gram[:entries].reshape(member.shape)[...] = member
        if self._add_all is not None:
            for room in self._rooms:
                # The last line is taken whole.
                room[:, entries : entries + -entries % LINE] = 0
            self._total += times * self._add_all(self._rooms[0], self._rooms[-1], entries, TERMS, same=self._same)
        for start in range(0, entries, TERMS):
            part = slice(start, min(start + TERMS, entries))
            if self._add_all is None:
                self._total += times * (self._rooms[0][:, part] @ self._rooms[-1][:, part].T)
            if not self._same:
                for own, room in zip(self._own, self._rooms, strict=True):
                    own[...] += times * np.vecdot(room[:, part], room[:, part])

    def take(self) -> tuple[FloatArray, list[FloatArray]]:
        """Sums of all pairs so far, and of each member with itself; then it begins anew.

        Returns
        -------
        total : (a, b)
        own : list of (a,) and (b,)
            Of one group where both are the same.
        """
        taken = self._total, [self._total.diagonal().copy()] if self._same else self._own
        self._begin()
        return taken


def room_entries(entries: int) -> int:
    """Numbers for which there is room where a block of so many is put.

    Examples
    --------
    >>> room_entries(1), room_entries(17), room_entries(33)
    (16, 48, 48)
    """
    return LINE * (-(-entries // LINE) | 1)


def block_samples(length: int, samples: int, narrow: int = 1) -> int:
    """Most samples in the columns of a block, of which the rows may be a whole chunk: BLAS is faster the more they are.

    They are few enough that little is computed twice on the diagonal.

    Parameters
    ----------
    length, samples : int
        Samples in a chunk, and in all.
    narrow : int
        How often narrower they are for want of memory, at least a little.

    Examples
    --------
    >>> block_samples(500, 500), block_samples(2500, 5000), block_samples(2500, 5000, 4), block_samples(1000, 20_000)
    (63, 250, 61, 1000)
    """
    most = max(LEAST_COLUMNS, min(1024, max(64, samples // 20)) // narrow)
    return -(-length // -(-length // most))


def block_entries(length: int, samples: int, narrow: int = 1) -> int:
    """Most entries of a block.

    Examples
    --------
    >>> block_entries(500, 500), block_entries(2500, 5000)
    (27531, 625000)
    """
    columns = block_samples(length, samples, narrow)
    # Of a single chunk all rows are not in one block: those of the diagonal are squares.
    rows = length if samples > length else max(columns, length - columns)
    return rows * columns


def products_by_samples(samples: int, directions: int, members: int, pairs: int) -> float:
    """Multiplications for all pairs of so many members, by Gram matrices of samples, in those of one large product.

    Blocks of few directions take longer: at 32, 64, 256 and 1,024 of them 3.4, 2.4, 1.2 and 1.03 times as long; so do
    the sums over pairs, 1.5 times and what it takes to gather each member. Measured; how it compares with couplings,
    too: 1.4 times their time for 48 layers of 10,000 x 256, 0.9 times for 24 of 20,000 x 1,024.

    Parameters
    ----------
    samples : int
    directions : int
        Of all members; 0 where their Gram matrices are there.
    members, pairs : int
    """
    return 0.525 * samples**2 * (directions + 130 * members + 1.5 * pairs)
