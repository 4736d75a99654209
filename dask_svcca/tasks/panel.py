"""Scores of some members of a group, a chunk of samples at a time, and the couplings of two such panels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.plan.memory import LEAST_PIECE, NORM_COPIES, loadings_bytes
from dask_svcca.stores.subspaces import read_scores
from dask_svcca.tasks.ahead import Ahead, Coming

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.devices.interface import Array
    from dask_svcca.evaluate import Basis, MemberBlock
    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import SharedFrequency
    from dask_svcca.kernels.products import Room, Summing
    from dask_svcca.plan.memory import PanelUnits, TileMemory
    from dask_svcca.stores.subspaces import Pack, SubspaceRecord
    from dask_svcca.tasks.ahead import Wait
    from dask_svcca.tasks.worker import Context

    Buffers = list[InexactArray]


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

    def at(self, number: int) -> Member:
        """The same at another position."""
        return replace(self, blocks=tuple(replace(block, member=number) for block in self.blocks))


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
        self._key = tuple(
            (name, first, place.start, place.stop) for name, wanted in self._ranges.items() for first, place in wanted
        )

    def buffers(self) -> Buffers:
        """Memory for `read` to fill by turns: while one is sent to a device, the next is filled."""
        device = self._context.device
        return [device.buffer((self.directions, self.length), self.dtype) for _ in range(device.turns)]

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
        """Memory for `read` to fill, of which nothing is sent while it is filled."""
        return np.empty((self.directions, self.length), dtype=self.dtype)

    def coming(self, chunk: int, buffers: Buffers, step: int) -> Array | Coming:
        """Scores of all blocks in one chunk: on the device still, or to be read into the buffer of a step, and sent."""
        held = self._context.worker.held.get((self._context.device.name, self._key, chunk))
        if held is not None:
            return held
        buffer = buffers[step % len(buffers)]
        return Coming(partial(self._read_after, chunk, buffer), partial(self._sent, chunk))

    def _read_after(self, chunk: int, buffer: InexactArray, wait: Wait) -> InexactArray:
        with self._context.timed("read"):
            wait()
        return self.read(chunk, buffer)

    def _sent(self, chunk: int, scores: InexactArray) -> Array:
        device = self._context.device
        sent = device.sent(scores)
        self._context.worker.held.add((device.name, self._key, chunk), sent)
        return sent

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

    def leverages(self, scores: Array, index: int) -> Array:
        """Squared norms of some samples in the kept directions of the members of a block, (member, sample).

        Parameters
        ----------
        scores : (direction, sample)
        index : int
            The block; its members are in the order of `alike`.
        """
        places, start = [], self._spans[index].start
        for block in self._blocks[index]:
            places.append(slice(start, start + block.kept))
            start += block.directions
        return self._context.device.leverages(scores, places)

    def read_loadings(self) -> dict[int, InexactArray]:
        """Loadings of all directions of each member, (neuron, direction)."""
        with self._context.timed("read"):
            return {number: member.pack.loadings(member.record) for number, member in self._members.items()}

    def sums_of_squares(
        self,
        scores: Array,
        weights: Sequence[Mapping[int, FloatArray]],
        room: int,
        out: Sequence[FloatArray],
    ) -> None:
        """Weighted sums of the squared scores of each sample of each member.

        Parameters
        ----------
        scores : (direction, sample)
            Of one chunk, on the device.
        weights : sequence of mapping of int to (direction,)
            By member, as often as sums are asked for.
        room : int
            Bytes that scores in double precision may take.
        out : sequence of (member of the group, sample)
            Each takes the sums of the members by one of the weights.
        """
        device = self._context.device
        rows = [
            np.concatenate([np.arange(place.start, place.stop) for place in self._places[number]])
            for number in self.members
        ]
        summing = [
            [
                np.concatenate([one[number][block.columns] for block in member.blocks])
                for number, member in self._members.items()
            ]
            for one in weights
        ]
        itemsize = 16 if device.is_complex(scores) else 8
        step = max(LEAST_PIECE, room // (NORM_COPIES * itemsize * max(1, len(scores))))
        with self._context.timed("values"):
            device.weighted_squares(scores, rows, summing, step, self.members, out)


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
    buffers: tuple[Buffers, Buffers],
    shared: Sequence[SharedFrequency],
    *,
    summing: Summing,
    room: Room | None,
    with_leverages: bool,
) -> list[tuple[Array, FloatArray | None]]:
    """Couplings of all members of two panels at each shared frequency, summed over all samples.

    They may lie in ``room``. With them come sums of the products of their leverages, where these are needed: (member of
    a, member of b).
    """
    device = context.device
    spans = [(a.span(one.a), b.span(one.b)) for one in shared]
    shapes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in spans]
    parts_of_room = [None for _ in shared] if room is None else room.cut(shapes)
    totals = [device.products(summing.samples, part) for part in parts_of_room]
    overlaps = [device.products(summing.samples) for _ in shared if with_leverages]
    # The very same array on both sides lets BLAS compute half of the product.
    sides = ((a, buffers[0]),) if b is a else ((a, buffers[0]), (b, buffers[1]))
    pieces = [device.pieces(panel.directions, panel.length, panel.dtype, summing) for panel, _ in sides]
    with Ahead(device, len(sides)) as ahead:
        steps = ([panel.coming(chunk, own, chunk) for panel, own in sides] for chunk in range(a.chunks))
        for sent in ahead(steps):
            for parts in zip(*(one.of(scores) for one, scores in zip(pieces, sent, strict=True)), strict=True):
                for number, (total, frequency) in enumerate(zip(totals, shared, strict=True)):
                    with context.timed("coupling"):
                        rows = parts[0][a.span(frequency.a)]
                        total.add(rows if frequency.conjugate else rows.conj(), parts[-1][b.span(frequency.b)])
                        del rows
                        if with_leverages:
                            one = a.leverages(parts[0], frequency.a)
                            same = b is a and frequency.a == frequency.b
                            overlaps[number].add(one, one if same else b.leverages(parts[-1], frequency.b))
            # Otherwise the device would have three chunks, with the one that comes.
            del sent, parts
    with context.timed("coupling"):
        found: list[Any] = [overlap.value for overlap in overlaps] or [None for _ in shared]
        return [(total.kept, overlap) for total, overlap in zip(totals, found, strict=True)]
