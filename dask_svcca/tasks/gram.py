"""Pairs by the inner products of samples, where no measure asks for more of a coupling than its norm."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from dask_svcca.kernels.grams import PORTIONS, block_samples
from dask_svcca.tasks.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dask_svcca.devices.interface import Array
    from dask_svcca.errors import DamagedSubspacesError
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


class Sums(NamedTuple):
    """Sums over blocks of the Gram matrices of some members of each side, scaled to a norm of one.

    Attributes
    ----------
    cross, rows : (a, b)
        Of the products of Gram matrices, and of the products of their diagonals.
    own, squares : ((a,), (b,))
        The same of each member with itself.
    """

    cross: FloatArray
    rows: FloatArray
    own: tuple[FloatArray, FloatArray]
    squares: tuple[FloatArray, FloatArray]

    def plus(self, other: Sums) -> Sums:
        """Those of the blocks of both."""
        own, squares = (
            (mine[0] + others[0], mine[1] + others[1])
            for mine, others in ((self.own, other.own), (self.squares, other.squares))
        )
        return Sums(self.cross + other.cross, self.rows + other.rows, own, squares)


SumsKey: TypeAlias = "tuple[bool, tuple[tuple[tuple[str, int, int], ...], ...]]"
"""What was summed: whether with norms of samples, and the members of each side, by pack, position and directions."""


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What a task has summed for a tile.

    Attributes
    ----------
    sums : dict of SumsKey to Sums
    seconds : dict of str to float
        Time by stage.
    damage : DamagedSubspacesError or None
        Why nothing was summed, where subspaces are damaged.
    device_failure : str
        See `dask_svcca.plan.tasks.TileReport`.
    """

    sums: Mapping[SumsKey, Sums]
    seconds: Mapping[str, float]
    damage: DamagedSubspacesError | None = None
    device_failure: str = ""


class _Tree:
    """Adds up sums two by two, so that the order of additions does not hang on who has which of them.

    A share of a power of two of them, from a multiple of it on, has a branch of the tree as its whole.
    """

    def __init__(self) -> None:
        self._branches: list[tuple[int, Sums]] = []

    def add(self, sums: Sums) -> None:
        """Take the next ones."""
        level = 0
        while self._branches and self._branches[-1][0] == level:
            sums = self._branches.pop()[1].plus(sums)
            level += 1
        self._branches.append((level, sums))

    @property
    def whole(self) -> Sums:
        """Those of all, a power of two."""
        ((_, sums),) = self._branches
        return sums


def _added(sums: Iterable[Sums]) -> Sums:
    tree = _Tree()
    for one in sums:
        tree.add(one)
    return tree.whole


def together(shares: Sequence[Share]) -> dict[SumsKey, Sums]:
    """Sums of all blocks, from those of all shares: of what all of them have summed."""
    keys = [key for key in shares[0].sums if all(key in share.sums for share in shares)] if shares else []
    return {key: _added(share.sums[key] for share in shares) for key in keys}


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
        self.key = tuple((one.pack.name, one.record.position, one.directions) for one in self._members)
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
    found: Mapping[SumsKey, Sums],
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
    found : dict of SumsKey to Sums
        What other tasks have summed already, all shares of it together: see `sums_by_samples`.
    """
    norms = Norms(np.zeros(shape), np.zeros(shape), (np.zeros(shape[0]), np.zeros(shape[1])))
    for part_a, part_b in _parts(a, b, most):
        groups = _groups(context, part_a, part_b)
        sums = found.get(_key(groups, row_norms=row_norms))
        if sums is None:
            sums = _sum(context, groups, 0, 1, row_norms=row_norms)
        _add_norms(norms, groups, sums)
    return norms


def sums_by_samples(
    context: Context,
    a: Mapping[int, Member],
    b: Mapping[int, Member],
    most: int,
    share: tuple[int, int],
    *,
    row_norms: bool,
) -> dict[SumsKey, Sums]:
    """The sums of one share of the blocks, of which `norms_by_samples` makes norms; ``share`` is its number of so many.

    Other parameters are those of `norms_by_samples`.
    """
    sides = (_groups(context, part_a, part_b) for part_a, part_b in _parts(a, b, most))
    return {_key(groups, row_norms=row_norms): _sum(context, groups, *share, row_norms=row_norms) for groups in sides}


def _parts(
    a: Mapping[int, Member], b: Mapping[int, Member], most: int
) -> Iterator[tuple[dict[int, Member], dict[int, Member]]]:
    """Members of both sides that are compared at a time; the very same for some members with themselves."""
    parts_a = _cut(a, most)
    parts_b = parts_a if b is a else _cut(b, most)
    for number, part_a in enumerate(parts_a):
        # Of a group with itself each pair is asked for once.
        for part_b in parts_b[number if b is a else 0 :]:
            yield part_a, part_b


def _cut(members: Mapping[int, Member], most: int) -> list[dict[int, Member]]:
    items = list(members.items())
    return [dict(items[start : start + most]) for start in range(0, len(items), most)]


def _groups(context: Context, a: Mapping[int, Member], b: Mapping[int, Member]) -> list[_Group]:
    """The two sides, or the one where both are the same."""
    return [_Group(context, members) for members in ((a,) if b is a else (a, b))]


def _key(groups: list[_Group], *, row_norms: bool) -> SumsKey:
    return row_norms, tuple(group.key for group in groups)


def _sum(context: Context, groups: list[_Group], number: int, shares: int, *, row_norms: bool) -> Sums:
    """The sums of one share of the blocks."""
    same = len(groups) == 1
    a, b = (len(groups[side].numbers) for side in (0, -1))
    first = groups[0].panel
    block = block_samples(first.length, first.samples)
    products = context.device.gram_products(a, b, block, first.dtype, same=same)
    rows, squares = np.zeros((a, b)), [np.zeros(len(group.numbers)) for group in groups]
    buffers = [[group.panel.buffer() for group in groups] for _ in range(min(2, first.chunks))]

    def taken() -> Sums:
        nonlocal rows, squares
        with context.timed("coupling"):
            total, own = products.take()
            if same:
                np.fill_diagonal(total, own[0])
            found = Sums(total, rows, (own[0], own[-1]), (squares[0], squares[-1]))
        rows, squares = np.zeros_like(rows), [np.zeros_like(one) for one in squares]
        return found

    tree = _Tree()
    portions = range(PORTIONS * number // shares, PORTIONS * (number + 1) // shares)
    blocks = list(_blocks(first.length, first.samples, block))
    mine = [
        (portion, one)
        for portion in portions
        for one in blocks[len(blocks) * portion // PORTIONS : len(blocks) * (portion + 1) // PORTIONS]
    ]
    done = portions.start
    for chunk, of_chunk in groupby(mine, key=lambda one: one[1].chunk):
        upper = [group.read(chunk, buffer) for group, buffer in zip(groups, buffers[0], strict=True)]
        with context.timed("coupling"):
            sent = _sent(context, upper)
        for other, of_both in groupby(of_chunk, key=lambda one: one[1].other):
            beside = sent if other == chunk else _beside(context, groups, upper, other, buffers[1])
            for portion, one in of_both:
                for _ in range(done, portion):
                    tree.add(taken())
                done = portion
                with context.timed("coupling"):
                    if row_norms and one.is_first:
                        own = [group.squares(chunk, parts) for group, parts in zip(groups, upper, strict=True)]
                        rows += own[0] @ own[-1].T
                        for square, norm in zip(squares, own, strict=True):
                            square[...] += np.einsum("ms,ms->m", norm, norm)
                    parts = [
                        group.block(above, below, one.rows, one.columns, other * first.length)
                        for group, above, below in zip(groups, sent, beside, strict=True)
                    ]
                    products.add(parts, 1 if one.on_diagonal else 2)
    # Of few samples some portions have no block.
    for _ in range(done, portions.stop):
        tree.add(taken())
    return tree.whole


def _beside(
    context: Context, groups: list[_Group], upper: list[list[FloatArray]], chunk: int, buffers: list[InexactArray]
) -> list[list[Array]]:
    """Scores of a chunk before that of the rows, on the device."""
    # Inner products of all samples with those of a chunk are there already.
    lower = [
        parts if all(group.kernels) else group.read(chunk, buffer)
        for group, parts, buffer in zip(groups, upper, buffers, strict=True)
    ]
    with context.timed("coupling"):
        return _sent(context, lower)


def _add_norms(norms: Norms, groups: list[_Group], sums: Sums) -> None:
    """Fill in the norms of the pairs of some members."""
    scale = np.multiply.outer(groups[0].norms, groups[-1].norms)
    # With itself each makes one: what rounding leaves of that is common to all of its pairs.
    cross_scale = scale / np.sqrt(np.multiply.outer(*sums.own))
    cells = np.ix_(groups[0].numbers, groups[-1].numbers)
    norms.cross[cells], norms.rows[cells] = sums.cross * cross_scale, sums.rows * scale
    for fourth, group, square in zip(norms.squares, (groups[0], groups[-1]), sums.squares, strict=True):
        fourth[group.numbers] = square * group.norms**2


class _Block(NamedTuple):
    """One block of each Gram matrix: samples of a chunk by samples of the same, or of one before it.

    Attributes
    ----------
    chunk, other : int
        Chunks of its rows and of its columns.
    rows, columns : slice
        Samples of these chunks.
    """

    chunk: int
    other: int
    rows: slice
    columns: slice

    @property
    def on_diagonal(self) -> bool:
        """Whether its rows are its columns: all other blocks count twice, since the matrices are symmetric."""
        return self.chunk == self.other and self.rows == self.columns

    @property
    def is_first(self) -> bool:
        """Whether it is the first of all blocks with rows of its chunk."""
        return (self.other, self.rows.start, self.columns.start) == (0, 0, 0)


def _blocks(length: int, samples: int, block: int) -> Iterator[_Block]:
    """All blocks on the diagonal and to one side of it, chunk by chunk."""
    for chunk in range(-(-samples // length)):
        for other in range(chunk + 1):
            height, width = (min(length, samples - number * length) for number in (chunk, other))
            for row in range(0, height, block):
                for column in range(0, row + 1 if other == chunk else width, block):
                    rows, columns = (
                        slice(start, min(start + block, most)) for start, most in ((row, height), (column, width))
                    )
                    yield _Block(chunk, other, rows, columns)


def _sent(context: Context, groups: list[list[FloatArray]]) -> list[list[Array]]:
    return [[context.device.sent(part) for part in parts] for parts in groups]


def _squares(scores: FloatArray) -> FloatArray:
    """Squared norm of each sample, (sample,), in double precision."""
    return np.asarray(np.einsum("ks,ks->s", scores, scores, dtype=np.float64))
