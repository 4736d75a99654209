"""The readings: what a sample, a block and a neuron is, how many there are, and what memory reading takes."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import numpy as np

from dask_svcca.kernels.fourier import Grid, fold, half_plane, split
from dask_svcca.kernels.positions import (
    chosen_positions,
    first_position,
    last_position,
    mean_over_positions,
    resample,
)
from dask_svcca.readings.meeting import EXAMPLES

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
        """Sizes of the grid of the DFT; empty without one."""
        return ()

    @property
    def mask(self) -> str:
        """Name of the mask that says which positions count; empty where all do."""
        return ""

    @property
    def domain(self) -> str:
        """What a sample is: only representations with equal domains have samples in common."""
        return EXAMPLES

    @property
    def positions_as(self) -> PositionsAs:
        """What positions are: neurons of their own, samples of their own, or neither."""
        return "none"

    @property
    def identity(self) -> str:
        """Text that tells this reading from any other."""
        return _text(self)

    @property
    def is_complex(self) -> bool:
        """Whether samples are complex."""
        return bool(self.grid)

    @property
    def multiplicity(self) -> IntArray:
        """How often each block counts, (block,)."""
        return half_plane(self.grid).multiplicity

    @property
    def in_one_block(self) -> Reading:
        """A reading of the same samples whose neurons are side by side: distances between samples are the same."""
        return Flatten(self.sizes) if self.grid else self

    @property
    def averaged(self) -> int:
        """How many values a number of a sample is the mean of, without regard to masked positions."""
        return 1

    def neurons(self, channels: int) -> int:
        """Number of neurons of a block."""
        return channels

    def samples(self, examples: int) -> int:
        """Number of samples, without regard to masked positions."""
        return examples

    def directions(self, shape: Sequence[int]) -> int:
        """Largest number of directions that activations of a shape can have, over all blocks."""
        return len(self.multiplicity) * min(self.neurons(shape[-1]), self.samples(shape[0]))

    def by_samples(self, shape: Sequence[int]) -> bool:
        """Whether directions are computed from products of samples, since neurons outnumber them."""
        return len(self.multiplicity) == 1 and self.neurons(shape[-1]) > self.samples(shape[0])

    def sample_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """Bytes of the samples that `__call__` returns for a number of examples.

        Parameters
        ----------
        shape : sequence of int
            Shape of the activations.
        examples : int
        itemsize : int
            Bytes of a stored number.
        """
        return self.samples(examples) * self.neurons(shape[-1]) * itemsize

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:  # noqa: ARG002 - as the others
        """Most bytes that `__call__` takes beside the chunk of activations, its result included."""
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


@lru_cache(maxsize=4096)
def _text(reading: Reading) -> str:
    # Layers of a zoo are read in few ways, and each layer asks for the text of its own several times.
    return repr(reading)


@dataclass(frozen=True, slots=True)
class Neurons(Reading):
    """A dense layer as it is, (example, neuron)."""

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:  # noqa: ARG002
        """Read one chunk."""
        return activations[:, np.newaxis]


@dataclass(frozen=True, slots=True)
class Flatten(Reading):
    """Positions as neurons: each has its own."""

    @property
    def positions_as(self) -> PositionsAs:
        """Positions are neurons of their own."""
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

    @property
    def averaged(self) -> int:
        """All positions."""
        return math.prod(self.sizes)

    def sample_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:  # noqa: ARG002
        """Means are in double precision."""
        return examples * shape[-1] * 8

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """Under a mask, the chunk in double precision and the weight of each position."""
        means = self.sample_bytes(shape, examples, itemsize)
        if not self.mask_name:
            return means
        positions = examples * math.prod(self.sizes)
        return means + positions * 8 + positions * shape[-1] * 8

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:
        """Read one chunk."""
        return mean_over_positions(activations, mask)


@dataclass(frozen=True, slots=True)
class _One(_Masked):
    """One position of each example."""

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """The result, and the place of each sample."""
        return self.sample_bytes(shape, examples, itemsize) + 2 * 8 * examples


@dataclass(frozen=True, slots=True)
class First(_One):
    """The first position that counts."""

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:
        """Read one chunk."""
        return first_position(activations, mask)


@dataclass(frozen=True, slots=True)
class Last(_One):
    """The last position that counts."""

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:
        """Read one chunk."""
        return last_position(activations, mask)


@dataclass(frozen=True, slots=True)
class Positions(_Masked):
    """Each position of each example is a sample.

    Attributes
    ----------
    choice : str
        Which positions are samples: ``all``, ``regular N`` or ``random N``.
    resampled : tuple of int
        Sizes to which the layer is resampled first; empty to leave it as it is.
    """

    choice: str = "all"
    resampled: Grid = ()

    @property
    def domain(self) -> str:
        """What a sample is."""
        sizes = self.resampled or self.sizes
        if math.prod(sizes) == 1:
            return EXAMPLES
        where = f" where {self.mask_name!r}" if self.mask_name else ""
        return f"{self.choice} positions of {'x'.join(map(str, sizes))}{where}"

    @property
    def positions_as(self) -> PositionsAs:
        """Positions are samples of their own."""
        return "samples"

    def samples(self, examples: int) -> int:
        """Number of samples, without regard to masked positions."""
        return examples * len(chosen_positions(self.choice, self.resampled or self.sizes))

    def sample_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """Resampled activations are in double precision."""
        return self.samples(examples) * shape[-1] * (8 if self.resampled else itemsize)

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """The steps of resampling; where some positions are chosen, the samples and their places."""
        samples = 0
        if self.choice != "all" or self.mask_name:
            # Under a mask, places of masked positions too, and whether each position counts.
            places = self.samples(examples) * (17 if self.mask_name else 8)
            samples = self.sample_bytes(shape, examples, itemsize) + places
        if not self.resampled:
            return samples
        # Each axis is one step, which holds the layer before and after it.
        axes = range(len(self.sizes) + 1)
        grids = [math.prod((*self.resampled[:axis], *self.sizes[axis:])) for axis in axes]
        stages = [examples * grid * shape[-1] * 8 for grid in grids]
        last = stages[-1]
        if itemsize == 8:
            stages[0] = 0
        return max(last + samples, *(before + after for before, after in itertools.pairwise(stages)))

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:
        """Read one chunk."""
        if self.resampled:
            activations = resample(activations, self.resampled)
        rows = activations.reshape(-1, activations.shape[-1])
        if self.choice == "all" and mask is None:
            return rows[:, np.newaxis]
        sizes = self.resampled or self.sizes
        chosen = chosen_positions(self.choice, sizes)
        places = np.arange(len(activations))[:, np.newaxis] * math.prod(sizes) + chosen
        # Taken once: two selections, one after the other, would hold the samples twice.
        return rows.take(places.ravel() if mask is None else places[mask[:, chosen]], axis=0)[:, np.newaxis]


@dataclass(frozen=True, slots=True)
class Fourier(Reading):
    """One block for each spatial frequency.

    Attributes
    ----------
    cells : tuple of int
        The grid of the DFT: ``sizes``, or a coarser one that the layer is folded on.
    """

    cells: Grid = ()

    @classmethod
    def of(cls, sizes: Grid) -> Self:
        """Reading of a layer on its own grid."""
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
        """Positions are neurons of their own."""
        return "neurons"

    def neurons(self, channels: int) -> int:
        """Channels, of all phases where the layer is folded."""
        return channels * (math.prod(self.sizes) // math.prod(self.cells))

    def sample_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:  # noqa: ARG002
        """Complex, in double precision."""
        return examples * len(self.multiplicity) * self.neurons(shape[-1]) * 16

    def transform_bytes(self, shape: Sequence[int], examples: int, itemsize: int) -> int:
        """The chunk in double precision, its transform, and one frequency of each conjugate pair."""
        numbers = examples * math.prod(self.sizes) * shape[-1]
        half = numbers // self.cells[-1] * (self.cells[-1] // 2 + 1)
        folding = numbers * itemsize if self.cells != self.sizes else 0
        wide = numbers * 8 if itemsize < 8 else 0
        return folding + half * 16 + max(wide, self.sample_bytes(shape, examples, itemsize))

    def fold(self, activations: FloatArray) -> FloatArray:
        """One chunk on the grid of the DFT, (example, *cells, neuron)."""
        return fold(activations, self.sizes, self.cells) if self.cells != self.sizes else activations

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:  # noqa: ARG002
        """Read one chunk."""
        return split(self.fold(activations), self.cells)
