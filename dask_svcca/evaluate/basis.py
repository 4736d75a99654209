"""Directions of a representation: what the value of a pair follows from, beside the coupling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dask_svcca.kernels.fourier import half_plane
from dask_svcca.kernels.subspace import blocks_of

if TYPE_CHECKING:
    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray
    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.measures import Kernel
    from dask_svcca.readings import Meeting


@dataclass(frozen=True, slots=True)
class MemberBlock:
    """Directions of one member of a group in one block.

    Attributes
    ----------
    member : int
        Position of the representation in its group.
    index : int
        Index of the block.
    start : int
        First of its directions among all directions of the representation.
    directions, kept : int
        Number of directions, and how many of them the variance threshold keeps; these come first.
    """

    member: int
    index: int
    start: int
    directions: int
    kept: int

    @property
    def columns(self) -> slice:
        """Its directions among all directions of the representation."""
        return slice(self.start, self.start + self.directions)


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Directions of one representation.

    Attributes
    ----------
    spectrum : (direction,)
        Eigenvalues of the scatter: the variance of a direction times the number of samples. Descending in a block.
    block : (direction,)
        The block of each direction, ascending.
    kept : (direction,)
        Whether the variance threshold keeps a direction. In a block the kept directions come first.
    grid : tuple of int
        Sizes of the grid of the DFT; empty without one.
    samples, neurons : int
    squares : float or None
        Sum of squares of all inner products of samples, where directions are not orthonormal: the spectrum does not say
        it then, and only measures that look at kernels can be told of it.
    """

    spectrum: FloatArray
    block: IntArray
    kept: BoolArray
    grid: Grid
    samples: int
    neurons: int
    squares: float | None = None

    @property
    def multiplicity(self) -> IntArray:
        """How often each direction counts, (direction,)."""
        return np.asarray(half_plane(self.grid).multiplicity[self.block])

    @property
    def block_multiplicity(self) -> IntArray:
        """How often each block counts, (block,); blocks without directions are included."""
        return half_plane(self.grid).multiplicity

    @property
    def positions(self) -> int:
        """Circular translations that a sample stands for."""
        return math.prod(self.grid)

    @property
    def rank(self) -> int:
        """All directions, with multiplicities."""
        return int(self.multiplicity.sum())

    @property
    def kept_rank(self) -> int:
        """Kept directions, with multiplicities."""
        return int(self.multiplicity[self.kept].sum())

    def member_blocks(self, member: int, *, kept_only: bool = False) -> list[MemberBlock]:
        """Directions of each block, or only the kept ones; a block without any is left out."""
        blocks = []
        for index, columns in blocks_of(self.block):
            kept = int(np.count_nonzero(self.kept[columns]))
            count = kept if kept_only else columns.stop - columns.start
            if count:
                blocks.append(MemberBlock(member, index, columns.start, count, kept))
        return blocks


def direction_weights(basis: Basis, meeting: Meeting, side: Literal["a", "b"]) -> FloatArray:
    """How often each direction counts, (direction,): in the whole layer, or at the frequencies that both have.

    Where layers were cropped, only frequencies that are compared count.
    """
    return block_weights(basis.grid, meeting, side)[basis.block].astype(np.float64)


def kernel_weights(basis: Basis, kernel: Kernel) -> FloatArray:
    """By what squared scores are multiplied to sum up to the diagonal of a kernel, (direction,).

    It is the kernel of the zero frequency, whose samples are centred.
    """
    weights = np.where(basis.block == 0, basis.spectrum if kernel == "inner products" else 1.0, 0.0)
    return np.where(basis.kept, weights, 0.0) if kernel == "kept projection" else weights


def block_weights(grid: Grid, meeting: Meeting, side: Literal["a", "b"]) -> IntArray:
    """How often each block counts, (block,): see `direction_weights`."""
    multiplicity = half_plane(grid).multiplicity
    if not meeting.cropped:
        return multiplicity
    times = np.zeros_like(multiplicity)
    for frequency in meeting.shared:
        times[getattr(frequency, side)] += frequency.multiplicity
    return times
