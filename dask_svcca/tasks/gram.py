"""Pairs by the inner products of samples, where no measure asks for more of a coupling than its norm."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from dask_svcca.kernels.grams import PORTIONS, block_entries, block_samples
from dask_svcca.tasks.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dask_svcca.devices.interface import Array
    from dask_svcca.errors import DamagedSubspacesError
    from dask_svcca.evaluate import Basis
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.plan.memory import TileMemory
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
    memory: TileMemory,
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
    memory : TileMemory
    row_norms : bool
        Whether norms of samples are needed.
    found : dict of SumsKey to Sums
        What other tasks have summed already, all shares of it together: see `sums_by_samples`.
    """
    norms = Norms(np.zeros(shape), np.zeros(shape), (np.zeros(shape[0]), np.zeros(shape[1])))
    for part_a, part_b in _parts(a, b, memory.by_samples):
        groups = _groups(context, part_a, part_b)
        sums = found.get(_key(groups, row_norms=row_norms))
        if sums is None:
            sums = _sum(context, groups, memory, (0, 1), row_norms=row_norms)
        _add_norms(norms, groups, sums)
    return norms


def sums_by_samples(
    context: Context,
    a: Mapping[int, Member],
    b: Mapping[int, Member],
    memory: TileMemory,
    share: tuple[int, int],
    *,
    row_norms: bool,
) -> dict[SumsKey, Sums]:
    """The sums of one share of the blocks, of which `norms_by_samples` makes norms; ``share`` is its number of so many.

    Other parameters are those of `norms_by_samples`.
    """
    sides = (_groups(context, part_a, part_b) for part_a, part_b in _parts(a, b, memory.by_samples))
    return {
        _key(groups, row_norms=row_norms): _sum(context, groups, memory, share, row_norms=row_norms) for groups in sides
    }


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


def _sum(
    context: Context, groups: list[_Group], memory: TileMemory, share: tuple[int, int], *, row_norms: bool
) -> Sums:
    """The sums of one share of the blocks."""
    number, shares = share
    same = len(groups) == 1
    a, b = (len(groups[side].numbers) for side in (0, -1))
    first = groups[0].panel
    columns = block_samples(first.length, first.samples, memory.narrow)
    entries = block_entries(first.length, first.samples, memory.narrow)
    products = context.device.gram_products(a, b, first.samples, entries, first.dtype, same=same)
    rows, squares = np.zeros((a, b)), [np.zeros(len(group.numbers)) for group in groups]
    slots = min(memory.held + 1, first.chunks)
    scores = [_Scores(context, group, slots) for group in groups]

    def taken() -> Sums:
        nonlocal rows, squares
        with context.timed("coupling"):
            total, own = products.take()
            found = Sums(total, rows, (own[0], own[-1]), (squares[0], squares[-1]))
        rows, squares = np.zeros_like(rows), [np.zeros_like(one) for one in squares]
        return found

    tree = _Tree()
    portions = range(PORTIONS * number // shares, PORTIONS * (number + 1) // shares)
    blocks = list(_blocks(first.length, first.samples, columns, memory.held))
    done = portions.start
    for portion, block in _portions(blocks):
        if portion not in portions:
            continue
        for _ in range(done, portion):
            tree.add(taken())
        done = portion
        band, slot = divmod(block.chunk, memory.held)
        beside = block.other % memory.held if block.other // memory.held == band else memory.held
        upper = [one.of(block.chunk, slot) for one in scores]
        # Inner products of all samples with those of a chunk are there already.
        lower = [
            parts if all(one.group.kernels) else one.of(block.other, beside)
            for one, parts in zip(scores, upper, strict=True)
        ]
        with context.timed("coupling"):
            if row_norms and block.is_first:
                own = [group.squares(block.chunk, parts.there) for group, parts in zip(groups, upper, strict=True)]
                rows += own[0] @ own[-1].T
                for square, norm in zip(squares, own, strict=True):
                    square[...] += np.einsum("ms,ms->m", norm, norm)
            parts = [
                group.block(above.sent, below.sent, block.rows, block.columns, block.other * first.length)
                for group, above, below in zip(groups, upper, lower, strict=True)
            ]
            products.add(parts, 1 if block.on_diagonal else 2)
    # Of few samples some portions have no block.
    for _ in range(done, portions.stop):
        tree.add(taken())
    return tree.whole


class _Chunk(NamedTuple):
    """Scores of each member in a chunk, (direction, sample): here, and on the device."""

    there: list[FloatArray]
    sent: list[Array]


class _Scores:
    """Chunks of the scores of one side, of which some are held."""

    def __init__(self, context: Context, group: _Group, slots: int) -> None:
        self._context, self.group = context, group
        self._buffers = [group.panel.buffer() for _ in range(slots)]
        self._held: dict[int, tuple[int, _Chunk]] = {}

    def of(self, chunk: int, slot: int) -> _Chunk:
        """Those of a chunk, read into the buffer of a slot unless they are there."""
        number, scores = self._held.pop(slot, (-1, None))
        if scores is None or number != chunk:
            # What was there is let go of first, on the device, too.
            del scores
            there = self.group.read(chunk, self._buffers[slot])
            with self._context.timed("coupling"):
                scores = _Chunk(there, [self._context.device.sent(part) for part in there])
        self._held[slot] = chunk, scores
        return scores


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
    def entries(self) -> int:
        """Numbers in it."""
        rows, columns = (len(range(one.start, one.stop)) for one in (self.rows, self.columns))
        return rows * columns

    @property
    def is_first(self) -> bool:
        """Whether it is the first of all blocks with rows of its chunk."""
        return (self.other, self.rows.start, self.columns.start) == (0, 0, 0)


def _blocks(length: int, samples: int, most: int, held: int) -> Iterator[_Block]:
    """All blocks on the diagonal and to one side of it, with so many columns at most.

    Rows are of so many chunks at a time as are held: those of the columns are read once for all of them.
    """
    chunks = -(-samples // length)
    for begin in range(0, chunks, held):
        band = range(begin, min(begin + held, chunks))
        for other, chunk in itertools.product(range(band.stop), band):
            height, width = (min(length, samples - number * length) for number in (chunk, other))
            for start in range(0, width if other <= chunk else 0, most):
                columns, below = slice(start, min(start + most, width)), 0
                if other == chunk:
                    yield _Block(chunk, other, columns, columns)
                    below = columns.stop
                if below < height:
                    yield _Block(chunk, other, slice(below, height), columns)


def _portions(blocks: Sequence[_Block]) -> Iterator[tuple[int, _Block]]:
    """The portion that each block is summed in: as even as blocks allow, whoever sums which."""
    ends = np.cumsum([block.entries for block in blocks])
    # Of each block, where its middle is among all entries.
    middles = ends - [block.entries / 2 for block in blocks]
    yield from zip((middles * (PORTIONS / ends[-1])).astype(int).tolist(), blocks, strict=True)


def _squares(scores: FloatArray) -> FloatArray:
    """Squared norm of each sample, (sample,), in double precision."""
    return np.asarray(np.einsum("ks,ks->s", scores, scores, dtype=np.float64))
