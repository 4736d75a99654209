"""What measures need of the representations of one side of a tile, beside their couplings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from dask_svcca.evaluate.basis import block_weights, direction_weights, kernel_weights
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.kernels.pairs import Side
from dask_svcca.measures import Totals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.evaluate.basis import Basis, MemberBlock
    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.measures import Directions, Kernel, Measure, Own
    from dask_svcca.readings import Meeting


class Group:
    """What measures need of the representations of one side beside their couplings."""

    def __init__(self, bases: Mapping[int, Basis], count: int, meeting: Meeting, side: Literal["a", "b"]) -> None:
        first = next(iter(bases.values()))
        self._bases, self._count = bases, count
        self._multiplicity = half_plane(first.grid).multiplicity
        self.grid, self.samples = first.grid, first.samples
        self.neurons = max(basis.neurons for basis in bases.values())
        self._times = block_weights(self.grid, meeting, side)
        self.weights = {member: direction_weights(basis, meeting, side) for member, basis in bases.items()}
        self._counts: dict[Directions, IntArray] = {}
        self._totals: dict[tuple[Directions, Own], tuple[FloatArray, FloatArray, FloatArray]] = {}
        self._diagonals: dict[Kernel, dict[int, FloatArray]] = {}
        self._kernels: dict[Kernel, tuple[FloatArray, FloatArray]] = {}
        self._loadings: dict[int, InexactArray] = {}
        self._variance, self._rank, _ = self._sum_up("all", _nothing)

    @property
    def row_norm_weights(self) -> dict[int, FloatArray]:
        """By what squared scores are multiplied to sum up to squared norms of samples: (direction,) by member."""
        return {member: weights * self._bases[member].spectrum for member, weights in self.weights.items()}

    def counts_twice(self, block: int) -> bool:
        """Whether a block stands for a pair of conjugate frequencies."""
        return bool(self._multiplicity[block] > 1)

    def blocks(self) -> list[MemberBlock]:
        """All directions of each member, block by block."""
        return [block for member, basis in self._bases.items() for block in basis.member_blocks(member)]

    def spectra_of(self, blocks: Sequence[MemberBlock]) -> FloatArray:
        """Spectra of some members' directions, equally many, (member, direction)."""
        return np.stack([self._bases[block.member].spectrum[block.columns] for block in blocks])

    def take_loadings(
        self, loadings: Mapping[int, InexactArray], blocks: Sequence[MemberBlock], *, conjugate: bool
    ) -> None:
        """Use the loadings of these directions for the next stack."""
        parts = {block.member: loadings[block.member][:, block.columns] for block in blocks}
        self._loadings = {member: part.conj() for member, part in parts.items()} if conjugate else parts

    def forget_loadings(self) -> None:
        """Let go of the loadings that were taken last."""
        self._loadings = {}

    def side(self, members: IntArray, spectra: FloatArray) -> Side:
        """What a stack knows of some representations."""
        return Side(spectra, self._variance[members], self._rank[members], members, self._loadings)

    def counts(self, directions: Directions) -> IntArray:
        """Directions of each member in each block, (member, block)."""
        if directions not in self._counts:
            counts = np.zeros((self._count, len(self._multiplicity)), dtype=np.int64)
            for member, basis in self._bases.items():
                chosen = basis.block[basis.kept] if directions == "kept" else basis.block
                counts[member] = np.bincount(chosen, minlength=len(self._multiplicity))
            self._counts[directions] = counts
        return self._counts[directions]

    def ranks(self, directions: Directions) -> IntArray:
        """Directions with multiplicities, (member,)."""
        return np.asarray(self.counts(directions) @ self._times)

    def diagonal_weights(self, kernel: Kernel) -> dict[int, FloatArray]:
        """By what squared scores are multiplied to sum up to the diagonal of a kernel: (direction,) by member."""
        if kernel not in self._diagonals:
            self._diagonals[kernel] = {member: kernel_weights(basis, kernel) for member, basis in self._bases.items()}
        return self._diagonals[kernel]

    def totals(self, measure: Measure, squared_row_norms: FloatArray, diagonal: FloatArray) -> Totals:
        """What a measure may divide by, (member,)."""
        key = measure.directions, measure.own
        if key not in self._totals:
            self._totals[key] = self._sum_up(measure.directions, measure.own)
        variance, rank, own = self._totals[key]
        trace, squares = self._kernel_sums(measure.kernel)
        return Totals(rank, variance, own, squared_row_norms, trace, squares, diagonal)

    def _kernel_sums(self, kernel: Kernel) -> tuple[FloatArray, FloatArray]:
        """Trace of a kernel at the zero frequency, and sum of the squares of all of its numbers, (member,)."""
        if kernel not in self._kernels:
            trace, squares = np.zeros(self._count), np.zeros(self._count)
            for member, weights in self.diagonal_weights(kernel).items():
                whole = self._bases[member].squares
                trace[member], squares[member] = weights.sum(), weights @ weights if whole is None else whole
            self._kernels[kernel] = trace, squares
        return self._kernels[kernel]

    def _sum_up(self, directions: Directions, own: Own) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Variance, rank, and what a measure makes of the spectrum of each member."""
        variance, rank, numbers = np.zeros(self._count), np.zeros(self._count), np.zeros(self._count)
        for member, weights in self.weights.items():
            chosen = self._bases[member].kept if directions == "kept" else slice(None)
            spectrum = self._bases[member].spectrum[chosen]
            rank[member] = weights[chosen].sum()
            variance[member] = weights[chosen] @ spectrum
            squares = self._bases[member].squares
            numbers[member] = own(spectrum, weights[chosen]) if squares is None else squares
        return variance, rank, numbers


def _nothing(_spectrum: FloatArray, _weights: FloatArray) -> float:
    return 0.0
