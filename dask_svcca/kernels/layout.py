"""Frequencies of two arrays side by side, and directions from frequencies back to activations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dask_svcca.kernels.fourier import half_plane

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import Grid, SharedFrequency
    from dask_svcca.kernels.readings import Reading

Kind: TypeAlias = Literal["real", "pair", "complex"]


@dataclass(frozen=True, slots=True)
class Member:
    """One frequency of one array.

    Attributes
    ----------
    side : int
        Which array.
    frequency : int
        Position in its half plane.
    conjugate : bool
        Whether it stands in its block as its conjugate.
    """

    side: int
    frequency: int
    conjugate: bool = False


@dataclass(frozen=True, slots=True)
class Meet:
    """Frequencies that are compared, one of either array.

    Attributes
    ----------
    a, b : Member
        Of one array alone, the same twice.
    multiplicity : int
        How often their components count.
    turned : bool
        Whether directions are conjugated. Where one frequency meets two, its directions in the one are those of the
        frequency, in the other those of its conjugate: over all translations, they are uncorrelated.
    """

    a: Member
    b: Member
    multiplicity: int
    turned: bool = False

    @property
    def members(self) -> tuple[Member, Member]:
        """As the directions have them."""
        if not self.turned:
            return self.a, self.b
        return replace(self.a, conjugate=not self.a.conjugate), replace(self.b, conjugate=not self.b.conjugate)


@dataclass(frozen=True, slots=True)
class Layout:
    """Frequencies side by side in blocks, so that those that meet have samples in common.

    Attributes
    ----------
    readings : tuple of Reading
        Of the arrays.
    neurons : tuple of int
        Of a frequency of each.
    blocks : tuple of tuple of Member
        Every frequency of every array is in one block; the zero frequency is in the first.
    meetings : tuple of Meet
    """

    readings: tuple[Reading, ...]
    neurons: tuple[int, ...]
    blocks: tuple[tuple[Member, ...], ...]
    meetings: tuple[Meet, ...]

    def read(self, arrays: Sequence[FloatArray]) -> list[InexactArray]:
        """Samples of each block, (sample, neuron): neurons of its members side by side.

        Parameters
        ----------
        arrays : sequence of (example, *sizes, neuron)
            One chunk of each array.
        """
        samples = [reading(array) for reading, array in zip(self.readings, arrays, strict=True)]
        return [
            np.hstack([frequency_of(samples[member.side], self.readings[member.side], member) for member in block])
            for block in self.blocks
        ]

    def split(self, rows: Sequence[InexactArray]) -> list[dict[Member, InexactArray]]:
        """Of each array, the columns of its members; the other way round.

        Parameters
        ----------
        rows : sequence of (row, neuron)
            By block.
        """
        found: list[dict[Member, InexactArray]] = [{} for _ in self.readings]
        for block, stacked in zip(self.blocks, rows, strict=True):
            start = 0
            for member in block:
                stop = start + self.neurons[member.side]
                found[member.side][member] = stacked[:, start:stop]
                start = stop
        return found

    def kind(self, met: Meet) -> Kind:
        """What a component of two members is.

        A ``pair`` stands for two real ones, a cosine and a sine. ``complex`` are those of a frequency that is its own
        conjugate in one array alone: at the edge of a cropped grid.
        """
        if met.multiplicity == 2:
            return "pair"
        own = (self.readings[member.side].multiplicity[member.frequency] == 1 for member in (met.a, met.b))
        return "real" if all(own) else "complex"


def frequency_of(samples: InexactArray, reading: Reading, member: Member) -> InexactArray:
    """One frequency of samples (sample, block, neuron), as a member of its block."""
    chosen = samples[:, member.frequency]
    if reading.multiplicity[member.frequency] == 1:
        return chosen.real
    return chosen.conj() if member.conjugate else chosen


def signed_frequency(grid: Grid, member: Member) -> IntArray:
    """Cycles over the whole of each axis.

    Examples
    --------
    >>> signed_frequency((4, 5), Member(0, 4, conjugate=True))
    array([-1, -1])
    """
    index = half_plane(grid).frequency[member.frequency]
    half = np.array(grid) // 2
    return np.asarray((half - index) % np.array(grid) - half if member.conjugate else index)


def lay_out(readings: tuple[Reading, ...], neurons: tuple[int, ...], shared: Sequence[SharedFrequency]) -> Layout:
    """Layout of one array, or of two that meet at some frequencies.

    Parameters
    ----------
    readings : tuple of Reading
    neurons : tuple of int
        Of a frequency of each.
    shared : sequence of SharedFrequency
        The zero frequency foremost. Of no consequence for one array.

    Examples
    --------
    >>> from dask_svcca.kernels.fourier import shared_frequencies
    >>> from dask_svcca.kernels.readings import Reading
    >>> fine, coarse = (Reading("dft", (size,), (size,)) for size in (3, 1))
    >>> found = lay_out((fine, coarse), (5, 5), shared_frequencies((3,), (1,)))
    >>> [[(member.side, member.frequency) for member in block] for block in found.blocks]
    [[(0, 0), (1, 0)], [(0, 1)]]
    """
    blocks: list[list[Member]] = []
    places: dict[tuple[int, int], tuple[int, Member]] = {}

    def place(member: Member, block: int) -> Member:
        if block == len(blocks):
            blocks.append([])
        blocks[block].append(member)
        places[member.side, member.frequency] = block, member
        return member

    meetings = []
    for one in shared if len(readings) == 2 else ():
        # At the edge of a cropped grid one frequency meets two: they form one block.
        turned = (0, one.a) in places or (1, one.b) in places
        if (0, one.a) in places:
            block, a = places[0, one.a]
            b = place(Member(1, one.b, a.conjugate != one.conjugate), block)
        elif (1, one.b) in places:
            block, b = places[1, one.b]
            a = place(Member(0, one.a, b.conjugate != one.conjugate), block)
        else:
            a = place(Member(0, one.a), len(blocks))
            b = place(Member(1, one.b, one.conjugate), len(blocks) - 1)
        meetings.append(Meet(a, b, one.multiplicity, turned))
    for side, reading in enumerate(readings):
        for frequency, multiplicity in enumerate(reading.multiplicity):
            if (side, frequency) not in places:
                member = place(Member(side, frequency), len(blocks))
                if len(readings) == 1:
                    meetings.append(Meet(member, member, int(multiplicity)))
    return Layout(readings, neurons, tuple(map(tuple, blocks)), tuple(meetings))


@dataclass(frozen=True, slots=True, eq=False)
class Filters:
    """Directions of one array, as linear maps of its activations.

    Attributes
    ----------
    reading : Reading
    mean : (neuron,)
        Of the first block.
    parts : tuple of (Member, Kind, (neuron, component) array)
        Coefficients by frequency.
    order : (component,)
        Which of all components, a pair being two, come in which order.
    """

    reading: Reading
    mean: FloatArray
    parts: tuple[tuple[Member, Kind, InexactArray], ...]
    order: IntArray

    @property
    def dtype(self) -> np.dtype[Any]:
        """Complex only if a part is."""
        return np.dtype(np.complex128 if any(kind == "complex" for _, kind, _ in self.parts) else np.float64)

    def first(self, count: int) -> Filters:
        """The leading components alone."""
        return replace(self, order=self.order[:count])

    def __call__(self, activations: FloatArray) -> InexactArray:
        """Directions of one chunk.

        Parameters
        ----------
        activations : (example, *sizes, neuron)

        Returns
        -------
        (example, component)
            (example, *sizes, component) where positions are samples.
        """
        samples = self.reading(activations)
        found = np.empty((len(samples), len(self.order)), dtype=self.dtype)
        for member, kind, coefficients, chosen, places in self._columns():
            part = frequency_of(samples, self.reading, member)
            part = part - self.mean if member.frequency == 0 else part
            found[:, places] = _expand(part @ coefficients, kind)[:, chosen]
        shape = (len(activations), *self.reading.sizes) if self.reading.kind == "positions" else (len(activations),)
        return found.reshape(*shape, len(self.order))

    def coefficients(self) -> InexactArray:
        """From activations less their mean to directions, (*neuron axes, component).

        Neuron axes are those of the activations where positions are neurons of their own (``dft``, ``flatten``), else
        the last alone.
        """
        found = np.empty((*self.neuron_mean().shape, len(self.order)), dtype=self.dtype)
        for member, kind, coefficients, chosen, places in self._columns():
            found[..., places] = _expand(self._at_positions(coefficients, member), kind)[..., chosen]
        return found

    def _columns(self) -> Iterator[tuple[Member, Kind, InexactArray, IntArray, IntArray]]:
        """Of each part the components that are in order, which of them once expanded, and their places in order."""
        start = 0
        for member, kind, coefficients in self.parts:
            copies = 2 if kind == "pair" else 1
            stop = start + copies * coefficients.shape[1]
            places = np.flatnonzero((self.order >= start) & (self.order < stop))
            component, copy = np.divmod(self.order[places] - start, copies)
            wanted, index = np.unique(component, return_inverse=True)
            if len(places):
                yield member, kind, coefficients[:, wanted], index * copies + copy, places
            start = stop

    def neuron_mean(self) -> FloatArray:
        """Means of the neurons, (*neuron axes)."""
        return np.asarray(self._at_positions(self.mean[:, np.newaxis], Member(0, 0))[..., 0])

    def _at_positions(self, coefficients: InexactArray, member: Member) -> InexactArray:
        """The transpose of the DFT: (neuron of the frequency, component) to (*neuron axes, component)."""
        reading, count = self.reading, coefficients.shape[1]
        if not reading.grid:
            sizes = reading.sizes if reading.kind == "flatten" else ()
            return coefficients.reshape(*sizes, -1, count)
        waves = _wave(reading.grid, member.frequency)
        waves = waves.conj() if member.conjugate else waves
        spread = np.multiply.outer(waves, coefficients)
        return _unfold(spread, reading.sizes, reading.grid)


def _expand(values: InexactArray, kind: Kind) -> InexactArray:
    """A pair as a cosine and a sine, along the last axis; real ones without the imaginary part that is all zeros."""
    if kind == "pair":
        both = np.stack([values.real, values.imag], axis=-1) * math.sqrt(2)
        return both.reshape(*values.shape[:-1], -1)
    return values.real if kind == "real" else values


@lru_cache(maxsize=64)
def _wave(grid: Grid, frequency: int) -> InexactArray:
    """What the unitary DFT multiplies each position by; real where the frequency is its own conjugate."""
    plane = half_plane(grid)
    cycles = sum(
        (
            np.expand_dims(np.arange(size) * step / size, tuple(other for other in range(len(grid)) if other != axis))
            for axis, (size, step) in enumerate(zip(grid, plane.frequency[frequency], strict=True))
        ),
        start=np.zeros(grid),
    )
    wave = np.exp(-2j * np.pi * cycles) / math.sqrt(math.prod(grid))
    return wave.real if plane.multiplicity[frequency] == 1 else wave


def _unfold(values: InexactArray, sizes: Grid, grid: Grid) -> InexactArray:
    """From cells of a coarser grid and their phases back to positions: the inverse of `fourier.fold`.

    Parameters
    ----------
    values : (*grid, phases and channels, component)

    Returns
    -------
    (*sizes, channel, component)
    """
    axes = len(grid)
    phases = [size // cells for size, cells in zip(sizes, grid, strict=True)]
    split = values.reshape(*grid, *phases, -1, values.shape[-1])
    woven = [axis for pair in zip(range(axes), range(axes, 2 * axes), strict=True) for axis in pair]
    return split.transpose(*woven, 2 * axes, 2 * axes + 1).reshape(*sizes, -1, values.shape[-1])
