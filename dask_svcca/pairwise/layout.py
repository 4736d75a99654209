"""Frequencies of two arrays paired and put side by side, and directions as linear maps of activations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dask_svcca.kernels.fourier import half_plane, wave

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import Grid, SharedFrequency
    from dask_svcca.readings import Reading

Kind: TypeAlias = Literal["real", "double", "complex"]
"""What a component of two paired frequencies is.

``real``: one component. ``double``: two real ones, a cosine and a sine, for a frequency and its conjugate.
``complex``: one component, whose frequency is its own conjugate in only one array, at the edge of a cropped grid.
"""


@dataclass(frozen=True, slots=True)
class Member:
    """One frequency of one array.

    Attributes
    ----------
    array : int
        Which array, 0 or 1.
    frequency : int
        Position in its half plane.
    conjugate : bool
        Whether its block holds its conjugate.
    """

    array: int
    frequency: int
    conjugate: bool = False


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two frequencies that are compared, one from each array.

    Attributes
    ----------
    a, b : Member
        The same member twice where there is one array.
    multiplicity : int
        How often their components count.
    conjugated : bool
        Whether directions are conjugated. Where one frequency is paired with two, its directions in the first pairing
        are those of the frequency, and in the second those of its conjugate: over all translations, they are
        uncorrelated.
    """

    a: Member
    b: Member
    multiplicity: int
    conjugated: bool = False

    @property
    def members(self) -> tuple[Member, Member]:
        """Both members as the directions have them: conjugated where directions are."""
        if not self.conjugated:
            return self.a, self.b
        return replace(self.a, conjugate=not self.a.conjugate), replace(self.b, conjugate=not self.b.conjugate)


@dataclass(frozen=True, slots=True)
class Layout:
    """Frequencies side by side in blocks, so that those that are compared have samples in common.

    Attributes
    ----------
    readings : tuple of Reading
        One for each array.
    neurons : tuple of int
        Neurons of one frequency, by array.
    blocks : tuple of tuple of Member
        Every frequency of every array is in one block; the zero frequency is in the first.
    pairings : tuple of Pairing
    """

    readings: tuple[Reading, ...]
    neurons: tuple[int, ...]
    blocks: tuple[tuple[Member, ...], ...]
    pairings: tuple[Pairing, ...]

    def read(self, arrays: Sequence[FloatArray]) -> list[InexactArray]:
        """Samples of each block, (sample, neuron): neurons of its members side by side.

        Parameters
        ----------
        arrays : sequence of (example, *sizes, neuron)
            One chunk of each array.
        """
        samples = [reading(array) for reading, array in zip(self.readings, arrays, strict=True)]
        return [
            np.hstack([frequency_of(samples[member.array], self.readings[member.array], member) for member in block])
            for block in self.blocks
        ]

    def split(self, rows: Sequence[InexactArray]) -> list[dict[Member, InexactArray]]:
        """Columns of each member, by array: the inverse of putting them side by side.

        Parameters
        ----------
        rows : sequence of (row, neuron)
            By block.
        """
        columns: list[dict[Member, InexactArray]] = [{} for _ in self.readings]
        for block, stacked in zip(self.blocks, rows, strict=True):
            start = 0
            for member in block:
                stop = start + self.neurons[member.array]
                columns[member.array][member] = stacked[:, start:stop]
                start = stop
        return columns

    def kind(self, pairing: Pairing) -> Kind:
        """What a component of two paired frequencies is."""
        if pairing.multiplicity == 2:
            return "double"
        members = (pairing.a, pairing.b)
        own = (self.readings[member.array].multiplicity[member.frequency] == 1 for member in members)
        return "real" if all(own) else "complex"


def copies(kind: Kind) -> int:
    """How many components a direction of this kind stands for.

    Examples
    --------
    >>> copies("double"), copies("complex")
    (2, 1)
    """
    return 2 if kind == "double" else 1


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
    """Layout of one array, or of two that are compared at some frequencies.

    Parameters
    ----------
    readings : tuple of Reading
    neurons : tuple of int
        Neurons of one frequency, by array.
    shared : sequence of SharedFrequency
        The zero frequency first. Not used for one array.

    Examples
    --------
    >>> from dask_svcca.kernels.fourier import shared_frequencies
    >>> from dask_svcca.readings import Fourier
    >>> fine, coarse = (Fourier.of((size,)) for size in (3, 1))
    >>> layout = lay_out((fine, coarse), (5, 5), shared_frequencies((3,), (1,)))
    >>> [[(member.array, member.frequency) for member in block] for block in layout.blocks]
    [[(0, 0), (1, 0)], [(0, 1)]]
    """
    blocks: list[list[Member]] = []
    places: dict[tuple[int, int], tuple[int, Member]] = {}

    def place(member: Member, block: int) -> Member:
        if block == len(blocks):
            blocks.append([])
        blocks[block].append(member)
        places[member.array, member.frequency] = block, member
        return member

    pairings = []
    for one in shared if len(readings) == 2 else ():
        # At the edge of a cropped grid one frequency is paired with two: they form one block.
        conjugated = (0, one.a) in places or (1, one.b) in places
        if (0, one.a) in places:
            block, a = places[0, one.a]
            b = place(Member(1, one.b, a.conjugate != one.conjugate), block)
        elif (1, one.b) in places:
            block, b = places[1, one.b]
            a = place(Member(0, one.a, b.conjugate != one.conjugate), block)
        else:
            a = place(Member(0, one.a), len(blocks))
            b = place(Member(1, one.b, one.conjugate), len(blocks) - 1)
        pairings.append(Pairing(a, b, one.multiplicity, conjugated))
    for array, reading in enumerate(readings):
        for frequency, multiplicity in enumerate(reading.multiplicity):
            if (array, frequency) not in places:
                member = place(Member(array, frequency), len(blocks))
                if len(readings) == 1:
                    pairings.append(Pairing(member, member, int(multiplicity)))
    return Layout(readings, neurons, tuple(map(tuple, blocks)), tuple(pairings))


@dataclass(frozen=True, slots=True, eq=False)
class Filters:
    """Directions of one array, as linear maps of its activations.

    Attributes
    ----------
    reading : Reading
    mean : (neuron,)
        Means at the zero frequency.
    parts : tuple of (Member, Kind, (neuron, component) array)
        Coefficients by frequency.
    order : (component,)
        Indices of components in their order; a double component counts as two.
    """

    reading: Reading
    mean: FloatArray
    parts: tuple[tuple[Member, Kind, InexactArray], ...]
    order: IntArray

    @property
    def dtype(self) -> np.dtype[Any]:
        """Complex only if a part is."""
        return np.dtype(np.complex128 if any(kind == "complex" for _, kind, _ in self.parts) else np.float64)

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
        directions = np.empty((len(samples), len(self.order)), dtype=self.dtype)
        for member, kind, coefficients, chosen, places in self._columns():
            part = frequency_of(samples, self.reading, member)
            part = part - self.mean if member.frequency == 0 else part
            directions[:, places] = _expand(part @ coefficients, kind)[:, chosen]
        shape = (
            (len(activations), *self.reading.sizes) if self.reading.positions_as == "samples" else (len(activations),)
        )
        return directions.reshape(*shape, len(self.order))

    def coefficients(self) -> InexactArray:
        """Weights from activations less their mean to directions, (*neuron axes, component).

        Neuron axes are those of the activations where positions are neurons of their own (``dft``, ``flatten``), else
        the last alone.
        """
        weights = np.empty((*self.neuron_mean().shape, len(self.order)), dtype=self.dtype)
        for member, kind, coefficients, chosen, places in self._columns():
            weights[..., places] = _expand(self._at_positions(coefficients, member), kind)[..., chosen]
        return weights

    def _columns(self) -> Iterator[tuple[Member, Kind, InexactArray, IntArray, IntArray]]:
        """For each part: its components that are in ``order``, which of their copies are, and their places in it."""
        start = 0
        for member, kind, coefficients in self.parts:
            times = copies(kind)
            stop = start + times * coefficients.shape[1]
            places = np.flatnonzero((self.order >= start) & (self.order < stop))
            component, copy = np.divmod(self.order[places] - start, times)
            wanted, index = np.unique(component, return_inverse=True)
            if len(places):
                yield member, kind, coefficients[:, wanted], index * times + copy, places
            start = stop

    def neuron_mean(self) -> FloatArray:
        """Means of the neurons, (*neuron axes)."""
        return np.asarray(self._at_positions(self.mean[:, np.newaxis], Member(0, 0))[..., 0])

    def _at_positions(self, coefficients: InexactArray, member: Member) -> InexactArray:
        """The transpose of the DFT: (neuron of the frequency, component) to (*neuron axes, component)."""
        reading, count = self.reading, coefficients.shape[1]
        if not reading.grid:
            sizes = reading.sizes if reading.positions_as == "neurons" else ()
            return coefficients.reshape(*sizes, -1, count)
        frequency_wave = _half_plane_wave(reading.grid, member.frequency)
        frequency_wave = frequency_wave.conj() if member.conjugate else frequency_wave
        spread = np.multiply.outer(frequency_wave, coefficients)
        return _unfold(spread, reading.sizes, reading.grid)


def _expand(values: InexactArray, kind: Kind) -> InexactArray:
    """Double components as cosines and sines along the last axis; real ones without imaginary parts, all zero."""
    if kind == "double":
        both = np.stack([values.real, values.imag], axis=-1) * math.sqrt(2)
        return both.reshape(*values.shape[:-1], -1)
    return values.real if kind == "real" else values


@lru_cache(maxsize=64)
def _half_plane_wave(grid: Grid, frequency: int) -> InexactArray:
    """The wave of a frequency of the half plane; real where the frequency is its own conjugate."""
    plane = half_plane(grid)
    values = wave(grid, plane.frequency[frequency])
    return values.real if plane.multiplicity[frequency] == 1 else values


def _unfold(values: InexactArray, sizes: Grid, grid: Grid) -> InexactArray:
    """Positions from the cells of a coarser grid and their phases: the inverse of `fourier.fold`.

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
