"""Scores of some members of a group, a chunk of samples at a time, and the couplings of two such panels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from dask_svcca.kernels.products import ProductSum
from dask_svcca.plan.memory import PIECE, coupling_bytes, loadings_bytes, operand_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dask_svcca.evaluate import Basis, MemberBlock
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.fourier import SharedFrequency
    from dask_svcca.plan.memory import TileMemory
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
    chunks : int
    """

    def __init__(self, context: Context, members: Mapping[int, Member]) -> None:
        self._context = context
        self.members = list(members)
        self._members = members
        first = next(iter(members.values()))
        self._length = first.pack.chunk_samples
        self.dtype = first.pack.dtype
        self.samples = first.record.entry.samples
        self.chunks = -(-self.samples // self._length)
        by_index: dict[int, list[MemberBlock]] = {}
        for member in members.values():
            for block in member.blocks:
                by_index.setdefault(block.index, []).append(block)
        self._blocks: dict[int, list[MemberBlock]] = {}
        self._spans: dict[int, slice] = {}
        # By pack, where in it a run of directions begins and where in the panel it goes.
        runs: dict[str, list[tuple[int, slice]]] = {}
        self._places: dict[int, list[slice]] = {member: [] for member in members}
        start = 0
        for index in sorted(by_index):
            blocks = sorted(by_index[index], key=lambda block: (block.directions, block.kept, block.member))
            self._blocks[index] = blocks
            begin = start
            for block in blocks:
                member = members[block.member]
                place = slice(start, start + block.directions)
                runs.setdefault(member.pack.name, []).append((member.record.first + block.start, place))
                self._places[block.member].append(place)
                start = place.stop
            self._spans[index] = slice(begin, start)
        self.directions = start
        self._runs = {name: sorted(wanted, key=lambda run: run[0]) for name, wanted in runs.items()}

    def buffer(self) -> InexactArray:
        """What `read` fills."""
        return np.empty((self.directions, self._length), dtype=self.dtype)

    def read(self, chunk: int, buffer: InexactArray) -> InexactArray:
        """Scores of all blocks in one chunk, (direction, sample), in the first rows of a buffer."""
        packs = {member.pack.name: member.pack for member in self._members.values()}
        with self._context.timed("read"):
            for name, wanted in self._runs.items():
                packs[name].read_scores(chunk, [(first, buffer[place]) for first, place in wanted])
        # Nothing is multiplied that is behind the last sample.
        return buffer[: self.directions, : min(self._length, self.samples - chunk * self._length)]

    def span(self, index: int) -> slice:
        """Rows of a block."""
        return self._spans[index]

    def has(self, index: int) -> bool:
        """Whether any member has directions in a block."""
        return index in self._spans

    def alike(self, index: int) -> list[list[MemberBlock]]:
        """Members of a block, those of equally many directions together, as they stand in the panel."""
        return [
            list(found) for _, found in groupby(self._blocks[index], key=lambda block: (block.directions, block.kept))
        ]

    def read_loadings(self) -> dict[int, InexactArray]:
        """Loadings of all directions of each member, (neuron, direction)."""
        with self._context.timed("read"):
            return {number: member.pack.loadings(member.record) for number, member in self._members.items()}

    def row_norms(self, chunk: int, buffer: InexactArray, weights: Mapping[int, FloatArray]) -> FloatArray:
        """Squared norm of each sample of each member, (member, sample), in the units of the activations.

        Parameters
        ----------
        chunk : int
        buffer : (direction, sample)
        weights : mapping of int to (direction,)
            How often each direction of a member counts.
        """
        scores = self.read(chunk, buffer)
        columns = [np.r_[tuple(self._places[number])] for number in self.members]
        shares = [
            np.concatenate([(weights[number] * member.basis.spectrum)[block.columns] for block in member.blocks])
            for number, member in self._members.items()
        ]
        ends = np.cumsum([0, *map(len, columns)])
        summing = scipy.sparse.csr_array((np.concatenate(shares), np.concatenate(columns), ends))
        norms = np.empty((len(self.members), scores.shape[1]))
        for piece in _pieces(scores.shape[1]):
            part = scores[:, piece].astype(np.result_type(scores.dtype, np.float64))
            norms[:, piece] = summing @ (part.real**2 + part.imag**2)
        return norms


def cut(
    context: Context, members: Mapping[int, Member], memory: TileMemory, *, narrow: bool, same: bool, loadings: bool
) -> list[Panel]:
    """Cut a group into panels of which two, with their couplings, fit in memory; at least one member each."""
    first = next(iter(members.values()))
    samples = first.record.entry.samples
    direction = operand_bytes(first.pack.dtype, first.pack.chunk_samples, narrow=narrow)
    number = coupling_bytes(first.pack.dtype, samples, narrow=narrow, same=same)
    panels: list[dict[int, Member]] = [{}]
    size, loaded, widths = 0, 0, np.zeros(1)
    for position, member in members.items():
        own = np.zeros(max(block.index for block in member.blocks) + 1) if member.blocks else np.zeros(1)
        for block in member.blocks:
            own[block.index] = block.directions
        width = max(len(own), len(widths))
        together = np.pad(own, (0, width - len(own))) + np.pad(widths, (0, width - len(widths)))
        full = (
            (size + member.directions) * direction > memory.operand
            or number * float(together @ together) > memory.couplings
            or (loadings and loaded + member.loadings > memory.loadings)
        )
        if panels[-1] and full:
            panels.append({})
            size, loaded, together = 0, 0, own
        panels[-1][position] = member
        size, loaded, widths = size + member.directions, loaded + member.loadings, together
    return [Panel(context, panel) for panel in panels]


def couplings(
    context: Context,
    a: Panel,
    b: Panel,
    buffers: tuple[InexactArray, InexactArray],
    shared: Sequence[SharedFrequency],
    *,
    narrow: bool,
) -> list[InexactArray]:
    """Couplings of all members of two panels at each shared frequency, summed over all samples."""
    totals = [ProductSum() for _ in shared]
    for chunk in range(a.chunks):
        left = a.read(chunk, buffers[0])
        # The very same array on both sides lets BLAS compute half of the product.
        right = left if b is a else b.read(chunk, buffers[1])
        for part_a, part_b in _widened(left, right) if narrow else [(left, right)]:
            for total, frequency in zip(totals, shared, strict=True):
                with context.timed("coupling"):
                    rows = part_a[a.span(frequency.a)]
                    total.add(rows if frequency.conjugate else rows.conj(), part_b[b.span(frequency.b)])
    return [total.value for total in totals]


def _widened(left: InexactArray, right: InexactArray) -> Iterator[tuple[InexactArray, InexactArray]]:
    """Both operands in double precision, a run of samples at a time."""
    wide_a, wide_b = (np.result_type(side.dtype, np.float64) for side in (left, right))
    for piece in _pieces(left.shape[1]):
        part = left[:, piece].astype(wide_a)
        yield part, part if right is left else right[:, piece].astype(wide_b)


def _pieces(samples: int) -> Iterator[slice]:
    """Runs of samples that are converted to double precision at a time."""
    return (slice(start, min(start + PIECE, samples)) for start in range(0, samples, PIECE))
