"""Pairs by the inner products of samples, where no measure asks for more of a coupling than its norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dask_svcca.kernels.grams import block_samples
from dask_svcca.tasks.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_svcca.devices.interface import Array
    from dask_svcca.evaluate import Basis
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.grams import SumsGrams
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
        self._members = list(members.values())
        self.kernels = [member.record.entry.is_kernel for member in self._members]
        self._scales = [
            None if kernel else np.sqrt(member.basis.spectrum / norm).astype(self.panel.dtype)[:, np.newaxis]
            for member, norm, kernel in zip(self._members, self.norms, self.kernels, strict=True)
        ]

    def read(self, chunk: int, buffer: InexactArray) -> list[FloatArray]:
        """Scores of each member in one chunk, (direction, sample), without what follows the last sample."""
        scores = self.panel.read(chunk, buffer)
        with self._context.timed("coupling"):
            for scale, place in zip(self._scales, self.places, strict=True):
                if scale is not None:
                    scores[place] *= scale
        count = min(self.panel.length, self.panel.samples - chunk * self.panel.length)
        return [np.asarray(scores[place, :count].real) for place in self.places]

    def squares(self, chunk: int, parts: list[FloatArray]) -> FloatArray:
        """Squared norms of the samples of a chunk, (member, sample), in double precision."""
        start = chunk * self.panel.length
        return np.array(
            [
                member.basis.spectrum[start : start + part.shape[1]] / norm if kernel else _squares(part)
                for member, norm, kernel, part in zip(self._members, self.norms, self.kernels, parts, strict=True)
            ]
        )

    def block(self, upper: list[Array], lower: list[Array], rows: slice, columns: slice, first: int) -> list[Array]:
        """What a block of each Gram matrix is made of.

        Parameters
        ----------
        upper, lower : list of (direction, sample)
            Of the chunks of its rows and of its columns.
        rows, columns : slice
            Samples of these chunks.
        first : int
            First sample of the chunk of its columns.
        """
        within = slice(first + columns.start, first + columns.stop)
        return [
            row[within, rows] if kernel else (row[:, rows], column[:, columns])
            for row, column, kernel in zip(upper, lower, self.kernels, strict=True)
        ]


def _norm(basis: Basis) -> float:
    return float(np.linalg.norm(basis.spectrum)) if basis.squares is None else basis.squares**0.5


def norms_by_samples(
    context: Context,
    a: Mapping[int, Member],
    b: Mapping[int, Member],
    shape: tuple[int, int],
    most: int,
    *,
    row_norms: bool,
) -> Norms:
    """Norms of all pairs of two groups of dense layers.

    Parameters
    ----------
    context : Context
    a, b : mapping of int to Member
        By position in the group. The very same for a group with itself.
    shape : (int, int)
        Members of the two groups, with those that are not compared.
    most : int
        Members of each side that are compared at a time.
    row_norms : bool
        Whether norms of samples are needed.
    """
    norms = Norms(np.zeros(shape), np.zeros(shape), (np.zeros(shape[0]), np.zeros(shape[1])))
    parts_a = _parts(a, most)
    parts_b = parts_a if b is a else _parts(b, most)
    for number, part_a in enumerate(parts_a):
        # Of a group with itself each pair is asked for once.
        for part_b in parts_b[number if b is a else 0 :]:
            _add_norms(context, norms, part_a, part_b, row_norms=row_norms)
    return norms


def _parts(members: Mapping[int, Member], most: int) -> list[dict[int, Member]]:
    items = list(members.items())
    return [dict(items[start : start + most]) for start in range(0, len(items), most)]


def _add_norms(
    context: Context, norms: Norms, a: Mapping[int, Member], b: Mapping[int, Member], *, row_norms: bool
) -> None:
    """Fill in the norms of the pairs of some members."""
    same = b is a
    groups = [_Group(context, members) for members in ((a,) if same else (a, b))]
    first = groups[0].panel
    block = block_samples(first.length, first.samples)
    products = context.device.gram_products(len(a), len(b), block, first.dtype, same=same)
    rows, squares = np.zeros((len(a), len(b))), [np.zeros(len(group.numbers)) for group in groups]
    buffers = [[group.panel.buffer() for group in groups] for _ in range(min(2, first.chunks))]
    for chunk in range(first.chunks):
        upper = [group.read(chunk, buffer) for group, buffer in zip(groups, buffers[0], strict=True)]
        if row_norms:
            with context.timed("coupling"):
                own = [group.squares(chunk, parts) for group, parts in zip(groups, upper, strict=True)]
                rows += own[0] @ own[-1].T
                for square, norm in zip(squares, own, strict=True):
                    square[...] += np.einsum("ms,ms->m", norm, norm)
        with context.timed("coupling"):
            sent = _sent(context, upper)
        for other in range(chunk + 1):
            beside = sent
            if other < chunk:
                # Inner products of all samples with those of a chunk are there already.
                lower = [
                    parts if all(group.kernels) else group.read(other, buffer)
                    for group, parts, buffer in zip(groups, upper, buffers[1], strict=True)
                ]
                with context.timed("coupling"):
                    beside = _sent(context, lower)
            with context.timed("coupling"):
                _add_blocks(products, groups, sent, beside, block, chunk, other)
    with context.timed("coupling"):
        sums, own_sums = products.total, products.own
    if same:
        np.fill_diagonal(sums, own_sums[0])
    scale = np.multiply.outer(groups[0].norms, groups[-1].norms)
    # With itself each makes one: what rounding leaves of that is common to all of its pairs.
    cross_scale = scale / np.sqrt(np.multiply.outer(own_sums[0], own_sums[-1]))
    cells = np.ix_(groups[0].numbers, groups[-1].numbers)
    norms.cross[cells], norms.rows[cells] = sums * cross_scale, rows * scale
    for fourth, group, square in zip(norms.squares, (groups[0], groups[-1]), (squares[0], squares[-1]), strict=True):
        fourth[group.numbers] = square * group.norms**2


def _sent(context: Context, groups: list[list[FloatArray]]) -> list[list[Array]]:
    return [[context.device.sent(part) for part in parts] for parts in groups]


def _squares(scores: FloatArray) -> FloatArray:
    """Squared norm of each sample, (sample,), in double precision."""
    return np.asarray(np.einsum("ks,ks->s", scores, scores, dtype=np.float64))


def _add_blocks(
    products: SumsGrams,
    groups: list[_Group],
    upper: list[list[Array]],
    lower: list[list[Array]],
    block: int,
    chunk: int,
    other: int,
) -> None:
    """Add the blocks of two chunks: on the diagonal, those on it and to one side of it."""
    panel = groups[0].panel
    height, width = (min(panel.length, panel.samples - number * panel.length) for number in (chunk, other))
    for row in range(0, height, block):
        rows = slice(row, min(row + block, height))
        for column in range(0, row + 1 if other == chunk else width, block):
            columns = slice(column, min(column + block, width))
            parts = [
                group.block(above, below, rows, columns, other * panel.length)
                for group, above, below in zip(groups, upper, lower, strict=True)
            ]
            products.add(parts, 1 if other == chunk and row == column else 2)
