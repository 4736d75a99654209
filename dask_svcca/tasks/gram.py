"""Pairs by the inner products of samples, where no measure asks for more of a coupling than its norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dask_svcca.kernels.grams import GramProducts, block_samples
from dask_svcca.tasks.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_svcca.evaluate import Basis
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.tasks.panel import Member
    from dask_svcca.tasks.worker import Context


class Norms(NamedTuple):
    """What follows from the Gram matrices of the samples of two groups.

    Attributes
    ----------
    cross : (a, b)
        Squared norms of the cross-covariances.
    rows : (a, b)
        Inner products, over samples, of the squared norms of the samples.
    squares : ((a,), (b,))
        Sums over samples of the fourth powers of the norms.
    """

    cross: FloatArray
    rows: FloatArray
    squares: tuple[FloatArray, FloatArray]


class _Group:
    """Scores of one side, scaled to standard deviations of which the squares have a norm of one."""

    def __init__(self, context: Context, members: Mapping[int, Member]) -> None:
        self._context = context
        self.panel = Panel(context, members)
        self.numbers = self.panel.members
        self.places = self.panel.places
        self.norms = np.array([_norm(member.basis) for member in members.values()])
        scales = np.empty(self.panel.directions)
        for member, place, norm in zip(members.values(), self.places, self.norms, strict=True):
            scales[place] = np.sqrt(member.basis.spectrum / norm)
        self._scales = scales.astype(self.panel.dtype)[:, np.newaxis]

    def read(self, chunk: int, buffer: InexactArray) -> list[FloatArray]:
        """Scores of each member in one chunk, (direction, sample), without what follows the last sample."""
        scores = self.panel.read(chunk, buffer)
        with self._context.timed("coupling"):
            scores *= self._scales
        count = min(self.panel.length, self.panel.samples - chunk * self.panel.length)
        return [np.asarray(scores[place, :count].real) for place in self.places]


def _norm(basis: Basis) -> float:
    return float(np.linalg.norm(basis.spectrum)) if basis.squares is None else basis.squares**0.5


def norms_by_samples(
    context: Context, a: Mapping[int, Member], b: Mapping[int, Member], shape: tuple[int, int], *, row_norms: bool
) -> Norms:
    """Norms of all pairs of two groups of dense layers.

    Parameters
    ----------
    context : Context
    a, b : mapping of int to Member
        By position in the group. The very same for a group with itself.
    shape : (int, int)
        Members of the two groups, with those that are not compared.
    row_norms : bool
        Whether norms of samples are needed.
    """
    same = b is a
    groups = [_Group(context, members) for members in ((a,) if same else (a, b))]
    first = groups[0].panel
    block = block_samples(first.length, first.samples)
    products = GramProducts(len(a), len(b), block, first.dtype, same=same)
    rows, squares = np.zeros(products.total.shape), [np.zeros(len(group.numbers)) for group in groups]
    buffers = [[group.panel.buffer() for group in groups] for _ in range(min(2, first.chunks))]
    for chunk in range(first.chunks):
        upper = [group.read(chunk, buffer) for group, buffer in zip(groups, buffers[0], strict=True)]
        if row_norms:
            with context.timed("coupling"):
                own = [np.array([_squares(part) for part in parts]) for parts in upper]
                rows += own[0] @ own[-1].T
                for total, norm in zip(squares, own, strict=True):
                    total[...] += np.einsum("ms,ms->m", norm, norm)
        for other in range(chunk + 1):
            lower = upper
            if other < chunk:
                lower = [group.read(other, buffer) for group, buffer in zip(groups, buffers[1], strict=True)]
            with context.timed("coupling"):
                _add_blocks(products, upper, lower, block, diagonal=other == chunk)
    if same:
        np.fill_diagonal(products.total, products.own[0])
    scale = np.multiply.outer(groups[0].norms, groups[-1].norms)
    # With itself each makes one: what rounding leaves of that is common to all of its pairs.
    cross_scale = scale / np.sqrt(np.multiply.outer(products.own[0], products.own[-1]))
    cells = np.ix_(groups[0].numbers, groups[-1].numbers)
    cross, inner = np.zeros(shape), np.zeros(shape)
    cross[cells], inner[cells] = products.total * cross_scale, rows * scale
    fourth = [np.zeros(size) for size in shape]
    for side, group, total in ((0, groups[0], squares[0]), (1, groups[-1], squares[-1])):
        fourth[side][group.numbers] = total * group.norms**2
    return Norms(cross, inner, (fourth[0], fourth[1]))


def _squares(scores: FloatArray) -> FloatArray:
    """Squared norm of each sample, (sample,), in double precision."""
    return np.asarray(np.einsum("ks,ks->s", scores, scores, dtype=np.float64))


def _add_blocks(
    products: GramProducts,
    upper: list[list[FloatArray]],
    lower: list[list[FloatArray]],
    block: int,
    *,
    diagonal: bool,
) -> None:
    """Add the blocks of two chunks: on the diagonal, those on it and to one side of it."""
    for row in range(0, upper[0][0].shape[1], block):
        rows = [[part[:, row : row + block] for part in parts] for parts in upper]
        for column in range(0, row + 1 if diagonal else lower[0][0].shape[1], block):
            columns = [[part[:, column : column + block] for part in parts] for parts in lower]
            times = 1 if diagonal and row == column else 2
            products.add(rows[0], columns[0], rows[-1], columns[-1], times)
