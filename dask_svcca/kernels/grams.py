"""Inner products of Gram matrices of samples: the squared norms of cross-covariances, without the couplings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.kernels._types import FloatArray

    Block = tuple[FloatArray, FloatArray] | FloatArray

TERMS = 2**10
"""Entries of Gram matrices whose products are summed in one precision before they are added up in double."""

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
    block : int
        Most samples in a block.
    dtype : numpy.dtype
    same : bool
        Whether both groups are the same.

    Examples
    --------
    >>> z = np.arange(6.0).reshape(2, 3)
    >>> products = GramProducts(1, 1, 2, z.dtype, same=True)
    >>> for rows, columns in (((0, 2), (0, 2)), ((2, 3), (0, 2)), ((2, 3), (2, 3))):
    ...     first, second = (z[:, slice(*place)] for place in (rows, columns))
    ...     products.add([[(first, second)]], times=1 if rows == columns else 2)
    >>> total, own = products.take()
    >>> bool(total[0, 0] == own[0][0] == np.square(z.T @ z).sum())
    True
    """

    def __init__(self, a: int, b: int, block: int, dtype: np.dtype[np.floating], *, same: bool) -> None:
        self._counts, self._shape = (a,) if same else (a, b), (a, b)
        self._rooms = [np.empty((count, block * block), dtype=dtype) for count in self._counts]
        self._begin()

    def _begin(self) -> None:
        self._total: FloatArray = np.zeros(self._shape)
        self._own: list[FloatArray] = [np.zeros(count) for count in self._counts]

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
        for start in range(0, entries, TERMS):
            part = slice(start, min(start + TERMS, entries))
            self._total += times * (self._rooms[0][:, part] @ self._rooms[-1][:, part].T)
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
        taken = self._total, self._own
        self._begin()
        return taken


def block_samples(length: int, samples: int) -> int:
    """Most samples in a block: few enough that little is computed twice on the diagonal, enough for BLAS.

    Examples
    --------
    >>> block_samples(500, 500), block_samples(2500, 5000)
    (63, 500)
    """
    most = min(512, max(64, samples // 8))
    return -(-length // -(-length // most))


def products_by_samples(samples: int, directions: int, pairs: int) -> float:
    """Multiplications for all pairs of groups with so many directions in all, by Gram matrices of samples."""
    return 0.55 * samples**2 * (directions + pairs)
