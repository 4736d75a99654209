"""Scores of some members of a group, a chunk of samples at a time, and the couplings of two such panels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from dask_svcca.kernels.pairs import squared_magnitudes
from dask_svcca.kernels.products import ProductSum
from dask_svcca.plan.memory import LEAST_PIECE, NORM_COPIES, loadings_bytes
from dask_svcca.stores.subspaces import chunk_length, read_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dask_svcca.evaluate import Basis, MemberBlock
    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import SharedFrequency
    from dask_svcca.kernels.products import Summing
    from dask_svcca.plan.memory import PanelUnits, TileMemory
    from dask_svcca.stores.subspaces import Pack, SubspaceRecord
    from dask_svcca.tasks.worker import Context


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One representation of a group, as far as a tile needs it.

    Attributes
    ----------
    pack : Pack
    record : SubspaceRecord
    basis : Basis
    blocks : tuple of MemberBlock
        Directions that are compared: all, or the kept ones where no measure looks at others.
    """

    pack: Pack
    record: SubspaceRecord
    basis: Basis
    blocks: tuple[MemberBlock, ...]

    @property
    def directions(self) -> int:
        """Number of directions that are compared."""
        return sum(block.directions for block in self.blocks)

    @property
    def loadings(self) -> int:
        """Bytes of its loadings."""
        entry = self.record.entry
        return loadings_bytes(entry.neurons, entry.directions, is_complex=bool(entry.grid))


class Panel:
    """Scores of some members of a group, sorted by block.

    Within a block, members with equally many directions stand together: their couplings form one stack.

    Attributes
    ----------
    members : list of int
    directions : int
    samples : int
    length, chunks : int
        Samples in a chunk, and how many chunks there are.
    """

    def __init__(self, context: Context, members: Mapping[int, Member]) -> None:
        self._context = context
        self.members = list(members)
        self._members = members
        first = next(iter(members.values()))
        self.length = first.pack.chunk_samples
        self.dtype = first.pack.dtype
        self.samples = first.record.entry.samples
        self.chunks = -(-self.samples // self.length)
        by_index: dict[int, list[MemberBlock]] = {}
        for member in members.values():
            for block in member.blocks:
                by_index.setdefault(block.index, []).append(block)
        self._blocks: dict[int, list[MemberBlock]] = {}
        self._spans: dict[int, slice] = {}
        # By pack, the first of consecutive directions in it, and their rows in the panel.
        ranges: dict[str, list[tuple[int, slice]]] = {}
        self._places: dict[int, list[slice]] = {member: [] for member in members}
        start = 0
        for index in sorted(by_index):
            blocks = sorted(by_index[index], key=lambda block: (block.directions, block.kept, block.member))
            self._blocks[index] = blocks
            begin = start
            for block in blocks:
                member = members[block.member]
                place = slice(start, start + block.directions)
                ranges.setdefault(member.pack.name, []).append((member.record.first + block.start, place))
                self._places[block.member].append(place)
                start = place.stop
            self._spans[index] = slice(begin, start)
        self.directions = start
        self._ranges = {name: sorted(wanted, key=lambda item: item[0]) for name, wanted in ranges.items()}

    def only(self, numbers: Sequence[int]) -> Panel | None:
        """The panel of some of its members; None for none of them."""
        some = {number: member for number, member in self._members.items() if number in numbers}
        if len(some) == len(self._members):
            return self
        return Panel(self._context, some) if some else None

    @property
    def stored(self) -> dict[int, tuple[str, int]]:
        """Pack of each member, and its position there."""
        return {number: (member.pack.name, member.record.position) for number, member in self._members.items()}

    def buffer(self) -> InexactArray:
        """Memory for `read` to fill."""
        return np.empty((self.directions, self.length), dtype=self.dtype)

    def read(self, chunk: int, buffer: InexactArray) -> InexactArray:
        """Scores of all blocks in one chunk, (direction, sample), in the first rows of a buffer."""
        packs = {member.pack.name: member.pack for member in self._members.values()}
        with self._context.timed("read"):
            read_scores(
                chunk,
                [
                    (packs[name], [(first, buffer[place]) for first, place in wanted])
                    for name, wanted in self._ranges.items()
                ],
            )
        # With the zeros after the last sample, which are few: without them BLAS would be given a copy.
        return buffer[: self.directions]

    @property
    def places(self) -> list[slice]:
        """Rows of each member, where all have one block."""
        return [place for places in self._places.values() for place in places]

    def span(self, index: int) -> slice:
        """Rows of a block."""
        return self._spans[index]

    def has(self, index: int) -> bool:
        """Whether any member has directions in a block."""
        return index in self._spans

    def count(self, index: int) -> int:
        """Number of members that have directions in a block."""
        return len(self._blocks[index])

    def alike(self, index: int) -> list[list[MemberBlock]]:
        """Members of a block, those with equally many directions together, in the order of the panel."""
        return [
            list(blocks) for _, blocks in groupby(self._blocks[index], key=lambda block: (block.directions, block.kept))
        ]

    def leverages(self, scores: InexactArray, index: int) -> FloatArray:
        """Squared norms of some samples in the kept directions of the members of a block, (member, sample).

        Parameters
        ----------
        scores : (direction, sample)
        index : int
            The block; its members are in the order of `alike`.
        """
        blocks, start = self._blocks[index], self._spans[index].start
        found = np.empty((len(blocks), scores.shape[1]))
        for row, block in zip(found, blocks, strict=True):
            kept = scores[start : start + block.kept]
            # In the precision of the scores: converting them takes four times as long.
            row[...] = np.einsum("ks,ks->s", kept.real, kept.real)
            if kept.dtype.kind == "c":
                np.add(row, np.einsum("ks,ks->s", kept.imag, kept.imag), out=row)
            start += block.directions
        return found

    def read_loadings(self) -> dict[int, InexactArray]:
        """Loadings of all directions of each member, (neuron, direction)."""
        with self._context.timed("read"):
            return {number: member.pack.loadings(member.record) for number, member in self._members.items()}

    def sums_of_squares(
        self,
        chunk: int,
        buffer: InexactArray,
        weights: Sequence[Mapping[int, FloatArray]],
        room: int,
        out: Sequence[FloatArray],
    ) -> None:
        """Weighted sums of the squared scores of each sample of each member.

        Parameters
        ----------
        chunk : int
        buffer : (direction, sample)
        weights : sequence of mapping of int to (direction,)
            By member, as often as sums are asked for.
        room : int
            Bytes that scores in double precision may take.
        out : sequence of (member of the group, sample)
            Each takes the sums of the members by one of the weights.
        """
        scores = self.read(chunk, buffer)
        columns = [np.r_[tuple(self._places[number])] for number in self.members]
        places, ends = np.concatenate(columns), np.cumsum([0, *map(len, columns)])
        summing = [
            scipy.sparse.csr_array(
                (
                    np.concatenate(
                        [
                            one[number][block.columns]
                            for number, member in self._members.items()
                            for block in member.blocks
                        ]
                    ),
                    places,
                    ends,
                )
            )
            for one in weights
        ]
        wide = np.result_type(scores.dtype, np.float64)
        step = max(LEAST_PIECE, room // (NORM_COPIES * wide.itemsize * max(1, len(scores))))
        for start in range(0, scores.shape[1], step):
            piece = slice(start, start + step)
            with self._context.timed("values"):
                squares = squared_magnitudes(scores[:, piece].astype(wide))
                for target, one in zip(out, summing, strict=True):
                    target[self.members, piece] = one @ squares
                del squares


def cut(
    context: Context,
    members: Mapping[int, Member],
    units: PanelUnits,
    memory: TileMemory,
    times: IntArray,
    *,
    loadings: bool,
) -> list[Panel]:
    """Cut a group into panels of which two, with their couplings, fit in memory; at least one member each.

    Parameters
    ----------
    context : Context
    members : mapping of int to Member
    units : PanelUnits
    memory : TileMemory
    times : (block,)
        How often a block is compared with one of the other side.
    loadings : bool
        Whether loadings are needed.
    """
    panels: list[dict[int, Member]] = [{}]
    loaded, widths = 0, np.zeros(len(times))
    for position, member in members.items():
        own = np.zeros(len(times))
        for block in member.blocks:
            own[block.index] = block.directions
        together = widths + own
        full = (
            units.operand(together.sum(), together.max()) > memory.operand
            or units.number * float(times @ together**2) > memory.couplings
            or (loadings and loaded + member.loadings > memory.loadings)
        )
        if panels[-1] and full:
            panels.append({})
            loaded, together = 0, own
        panels[-1][position] = member
        loaded, widths = loaded + member.loadings, together
    return [Panel(context, panel) for panel in panels]


def couplings(
    context: Context,
    a: Panel,
    b: Panel,
    buffers: tuple[InexactArray, InexactArray],
    shared: Sequence[SharedFrequency],
    *,
    summing: Summing,
    with_leverages: bool,
) -> list[tuple[InexactArray, FloatArray | None]]:
    """Couplings of all members of two panels at each shared frequency, summed over all samples.

    With them come sums of the products of their leverages, where these are needed: (member of a, member of b).
    """
    overlaps: list[FloatArray | None] = [None for _ in shared]
    if with_leverages:
        overlaps = [np.zeros((a.count(one.a), b.count(one.b))) for one in shared]
    totals = [ProductSum(summing.samples) for _ in shared]
    # The very same array on both sides lets BLAS compute half of the product.
    sides = ((a, buffers[0]),) if b is a else ((a, buffers[0]), (b, buffers[1]))
    pieces = [_Pieces(panel, summing) for panel, _ in sides]
    for chunk in range(a.chunks):
        read = [panel.read(chunk, buffer) for panel, buffer in sides]
        for parts in zip(*(one.of(scores) for one, scores in zip(pieces, read, strict=True)), strict=True):
            for total, overlap, frequency in zip(totals, overlaps, shared, strict=True):
                with context.timed("coupling"):
                    rows = parts[0][a.span(frequency.a)]
                    total.add(rows if frequency.conjugate else rows.conj(), parts[-1][b.span(frequency.b)])
                    del rows
                    if overlap is not None:
                        one = a.leverages(parts[0], frequency.a)
                        same = b is a and frequency.a == frequency.b
                        other = one if same else b.leverages(parts[-1], frequency.b)
                        np.add(overlap, one @ other.T, out=overlap)
    return [(total.value, overlap) for total, overlap in zip(totals, overlaps, strict=True)]


class _Pieces:
    """The scores of a panel some samples at a time, contiguous and precise as is wanted, in memory that is reused."""

    def __init__(self, panel: Panel, summing: Summing) -> None:
        self._length = chunk_length(panel.length, summing.samples)
        dtype = np.result_type(panel.dtype, np.float64) if summing.double else panel.dtype
        self._room = None
        if self._length < panel.length or dtype != panel.dtype:
            self._room = np.empty((panel.directions, self._length), dtype=dtype)

    def of(self, scores: InexactArray) -> Iterator[InexactArray]:
        """All samples, followed by zeros."""
        if self._room is None:
            yield scores
            return
        for start in range(0, scores.shape[1], self._length):
            part = scores[:, start : start + self._length]
            self._room[:, : part.shape[1]] = part
            self._room[:, part.shape[1] :] = 0
            yield self._room
