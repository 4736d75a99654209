"""The readings: what a sample, a block and a neuron is, how many there are, and what reading a chunk takes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import numpy as np

from dask_svcca.kernels.fourier import Grid, fold, half_plane, split
from dask_svcca.kernels.positions import chosen_positions, last_position, mean_over_positions, resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray, IntArray

PositionsAs: TypeAlias = Literal["none", "neurons", "samples"]


@dataclass(frozen=True, slots=True)
class Reading(ABC):
    """How one representation is read.

    Attributes
    ----------
    sizes : tuple of int
        Lengths of the axes between examples and neurons.
    """

    sizes: Grid = ()

    @property
    def grid(self) -> Grid:
        """Sizes of the grid of the DFT; empty where there is none."""
        return ()

    @property
    def mask(self) -> str:
        """Name of the mask that says which positions count; empty where all do."""
        return ""

    @property
    def domain(self) -> str:
        """What a sample is: only representations with equal domains have samples in common."""
        return "examples"

    @property
    def positions_as(self) -> PositionsAs:
        """Whether each position stays: as neurons of its own, or as a sample of its own."""
        return "none"

    @property
    def identity(self) -> str:
        """Text that tells this reading from any other."""
        return repr(self)

    @property
    def is_complex(self) -> bool:
        """Whether samples are complex."""
        return bool(self.grid)

    @property
    def multiplicity(self) -> IntArray:
        """How often each block counts."""
        return half_plane(self.grid).multiplicity

    def neurons(self, channels: int) -> int:
        """Neurons of a block."""
        return channels

    def samples(self, examples: int) -> int:
        """Number of samples, without regard to masked positions."""
        return examples

    def directions(self, shape: Sequence[int]) -> int:
        """Most directions that activations of a shape can have, over all blocks."""
        return len(self.multiplicity) * min(self.neurons(shape[-1]), self.samples(shape[0]))

    def by_samples(self, shape: Sequence[int]) -> bool:
        """Whether directions are found by way of the samples: neurons outnumber them."""
        return len(self.multiplicity) == 1 and self.neurons(shape[-1]) > self.samples(shape[0])

    def sample_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """Bytes of the samples of so many examples, as `__call__` returns them.

        Parameters
        ----------
        shape : sequence of int
            Of the activations.
        examples : int
        itemsize : int
            Bytes of a stored number.
        """
        return self.samples(examples) * self.neurons(shape[-1]) * itemsize

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:  # noqa: ARG002 - as the others
        """Bytes that `__call__` takes at most beyond the chunk of activations, its result included."""
        return 0

    @abstractmethod
    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:
        """Read one chunk.

        Parameters
        ----------
        activations : (example, *sizes, neuron)
        mask : (example, position), optional
            Positions that count; padding is false.

        Returns
        -------
        (sample, block, neuron)
        """


@dataclass(frozen=True, slots=True)
class Neurons(Reading):
    """A dense layer as it is, (example, neuron)."""

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:  # noqa: ARG002
        """Read one chunk."""
        return activations[:, np.newaxis]


@dataclass(frozen=True, slots=True)
class Flatten(Reading):
    """The neurons of each position are neurons of their own."""

    @property
    def positions_as(self) -> PositionsAs:
        """Each position's neurons stay."""
        return "neurons"

    def neurons(self, channels: int) -> int:
        """Neurons of all positions."""
        return math.prod(self.sizes) * channels

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:  # noqa: ARG002
        """Read one chunk."""
        return activations.reshape(len(activations), 1, -1)


@dataclass(frozen=True, slots=True)
class _Masked(Reading):
    """One sample an example, from the positions that count."""

    mask_name: str = ""

    @property
    def mask(self) -> str:
        """Name of the mask."""
        return self.mask_name


@dataclass(frozen=True, slots=True)
class Mean(_Masked):
    """Averaged over positions."""

    def sample_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:  # noqa: ARG002
        """Means are in double precision."""
        return examples * shape[-1] * 8

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """Under a mask, the chunk in double precision."""
        found = self.sample_bytes(shape, examples, itemsize)
        return found + (math.prod(self.sizes) * found if self.mask_name else 0)

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:
        """Read one chunk."""
        return mean_over_positions(activations, mask)


@dataclass(frozen=True, slots=True)
class Last(_Masked):
    """The last position that counts."""

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """The result."""
        return self.sample_bytes(shape, examples, itemsize)

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:
        """Read one chunk."""
        return last_position(activations, mask)


@dataclass(frozen=True, slots=True)
class Positions(_Masked):
    """Each position of each example is a sample.

    Attributes
    ----------
    choice : str
        Which: ``all``, ``regular N`` or ``random N``.
    resampled : tuple of int
        Sizes that the layer is resampled to before; empty for none.
    """

    choice: str = "all"
    resampled: Grid = ()

    @property
    def domain(self) -> str:
        """What a sample is."""
        sizes = self.resampled or self.sizes
        if math.prod(sizes) == 1:
            return "examples"
        where = f" where {self.mask_name!r}" if self.mask_name else ""
        return f"{self.choice} positions of {'x'.join(map(str, sizes))}{where}"

    @property
    def positions_as(self) -> PositionsAs:
        """Each position stays, as a sample."""
        return "samples"

    def samples(self, examples: int) -> int:
        """Number of samples, without regard to masked positions."""
        return examples * len(chosen_positions(self.choice, self.resampled or self.sizes))

    def sample_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """Resampled ones are in double precision."""
        return self.samples(examples) * shape[-1] * (8 if self.resampled else itemsize)

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """The positions chosen, those of them that count, and what resampling goes through."""
        found = self.sample_bytes(shape, examples, itemsize)
        resampling = 0
        if self.resampled:
            # Axis by axis, each of them twice: as it was, and with its axis moved for the product.
            larger = math.prod(map(max, self.sizes, self.resampled))
            resampling = 3 * examples * larger * shape[-1] * 8
        return found * (2 if self.mask_name else 1) + resampling

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:
        """Read one chunk."""
        if self.resampled:
            activations = resample(activations, self.resampled)
        rows = activations.reshape(len(activations), -1, activations.shape[-1])
        chosen = chosen_positions(self.choice, self.resampled or self.sizes)
        rows = rows[:, chosen]
        samples = rows.reshape(-1, rows.shape[-1]) if mask is None else rows[mask[:, chosen]]
        return samples[:, np.newaxis]


@dataclass(frozen=True, slots=True)
class Fourier(Reading):
    """One block a spatial frequency.

    Attributes
    ----------
    cells : tuple of int
        The grid of the DFT: ``sizes``, or a coarser one that the layer is folded on.
    """

    cells: Grid = ()

    @classmethod
    def of(cls, sizes: Grid) -> Self:
        """On its own grid."""
        return cls(sizes, cells=sizes)

    def folded(self, coarse: Grid) -> Fourier:
        """The same layer on a coarser grid."""
        return replace(self, cells=coarse)

    @property
    def grid(self) -> Grid:
        """Sizes of the grid of the DFT."""
        return self.cells

    @property
    def positions_as(self) -> PositionsAs:
        """Each position's neurons stay."""
        return "neurons"

    def neurons(self, channels: int) -> int:
        """Channels, of all phases where the layer is folded."""
        return channels * (math.prod(self.sizes) // math.prod(self.cells))

    def sample_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:  # noqa: ARG002
        """Complex, in double precision."""
        return examples * len(self.multiplicity) * self.neurons(shape[-1]) * 16

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """The chunk in double precision, its transform, and one of each pair of frequencies."""
        numbers = examples * math.prod(self.sizes) * shape[-1]
        half = numbers // self.cells[-1] * (self.cells[-1] // 2 + 1)
        folding = numbers * itemsize if self.cells != self.sizes else 0
        wide = numbers * 8 if itemsize < 8 else 0
        return folding + half * 16 + max(wide, self.sample_bytes(shape, examples, itemsize))

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:  # noqa: ARG002
        """Read one chunk."""
        folded = fold(activations, self.sizes, self.cells) if self.cells != self.sizes else activations
        return split(folded, self.cells)
