"""The DFT split of convolutional layers: which frequencies there are, and how often each counts."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import scipy.fft

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray

Grid: TypeAlias = tuple[int, ...]
"""Sizes of the spatial axes; empty for a dense layer."""


@dataclass(frozen=True, slots=True, eq=False)
class HalfPlane:
    """Frequencies of a real signal, one of each conjugate pair.

    Attributes
    ----------
    grid : tuple of int
    index : (axes, frequency)
        Places in the output of ``rfftn``, for fancy indexing.
    frequency : (frequency, axes)
        Signed indices as from ``fftfreq``: cycles over the whole axis. The first is zero.
    multiplicity : (frequency,)
        2 for a frequency that stands for its conjugate too, 1 for one that is its own conjugate.
    """

    grid: Grid
    index: IntArray
    frequency: IntArray
    multiplicity: IntArray


@lru_cache(maxsize=256)
def half_plane(grid: Grid) -> HalfPlane:
    """Frequencies of a grid, one of each conjugate pair.

    Parameters
    ----------
    grid : tuple of int

    Examples
    --------
    >>> plane = half_plane((4,))
    >>> plane.frequency[:, 0], plane.multiplicity
    (array([ 0,  1, -2]), array([1, 2, 1]))
    >>> int(half_plane((8, 8)).multiplicity.sum())
    64
    """
    if not grid:
        return HalfPlane(grid, np.zeros((0, 1), dtype=int), np.zeros((1, 0), dtype=int), np.ones(1, dtype=int))
    half = (*grid[:-1], grid[-1] // 2 + 1)
    index = np.stack([axis.ravel() for axis in np.indices(half)])
    sizes = np.array(grid)[:, np.newaxis]
    conjugate = -index % sizes
    own = (index == conjugate).all(axis=0)
    # In the first and the Nyquist column of the last axis a frequency and its conjugate are both there.
    both = conjugate[-1] < half[-1]
    later = np.ravel_multi_index(tuple(index), grid) > np.ravel_multi_index(tuple(conjugate), grid)
    chosen = ~(both & later)
    signed = np.where(index >= (sizes + 1) // 2, index - sizes, index)
    return HalfPlane(grid, index[:, chosen], signed[:, chosen].T, np.where(own, 1, 2)[chosen])


def split(activations: FloatArray, grid: Grid) -> InexactArray:
    """Unitary DFT over the spatial axes, one of each conjugate pair of frequencies.

    Parameters
    ----------
    activations : (example, *grid, channel)
    grid : tuple of int

    Returns
    -------
    (example, frequency, channel)
        Complex, in double precision. Over all circular translations of the examples, different frequencies are
        uncorrelated: the covariance has one block per frequency.

    References
    ----------
    Raghu et al. (2017), SVCCA, section 3.

    Examples
    --------
    >>> split(np.ones((1, 4, 1)), (4,))[0, :, 0].real
    array([2., 0., 0.])
    """
    axes = tuple(range(1, len(grid) + 1))
    spectrum = scipy.fft.rfftn(activations.astype(np.float64, copy=False), axes=axes, norm="ortho")
    return np.asarray(spectrum[(slice(None), *half_plane(grid).index)])


def fold(activations: FloatArray, grid: Grid, coarse: Grid) -> FloatArray:
    """A layer on a coarser grid: the positions of one coarse cell become channels (polyphase).

    A translation by one cell of the coarse grid is a translation by several of the fine one, so frequencies of the
    fine grid that alias onto one of the coarse belong together: they are the channels' DFT on the coarse grid.

    Parameters
    ----------
    activations : (example, *grid, channel)
    grid, coarse : tuple of int
        ``coarse`` divides ``grid`` axis by axis.

    Returns
    -------
    (example, *coarse, more channels)

    Examples
    --------
    >>> fold(np.arange(4.0).reshape(1, 4, 1), (4,), (2,))[0]
    array([[0., 1.],
           [2., 3.]])
    """
    axes = len(grid)
    sizes = [size for fine, cells in zip(grid, coarse, strict=True) for size in (cells, fine // cells)]
    split_axes = activations.reshape(activations.shape[0], *sizes, activations.shape[-1])
    cells, phases = range(1, 2 * axes + 1, 2), range(2, 2 * axes + 2, 2)
    ordered = split_axes.transpose(0, *cells, *phases, 2 * axes + 1)
    return ordered.reshape(activations.shape[0], *coarse, -1)


@dataclass(frozen=True, slots=True)
class SharedFrequency:
    """A frequency at which two layers are compared.

    Attributes
    ----------
    a, b : int
        Position in the half plane of each layer.
    conjugate : bool
        Whether one of the two half planes has it as its conjugate, and the other not.
    multiplicity : int
    """

    a: int
    b: int
    conjugate: bool
    multiplicity: int


@lru_cache(maxsize=1024)
def shared_frequencies(grid_a: Grid, grid_b: Grid) -> tuple[SharedFrequency, ...]:
    """Frequencies at which two layers are compared.

    These are all frequencies for layers of one grid, and zero for a dense layer and a convolutional one. Layers of
    different grids are compared at the frequencies that both have, by signed index (the cropped plane of the paper),
    each counted once in the full plane; at the edge of the smaller, even grid a frequency is its own conjugate in the
    smaller layer and not in the larger, so that the two halves of the plane differ there.

    Parameters
    ----------
    grid_a, grid_b : tuple of int

    Raises
    ------
    ValueError
        For grids of different numbers of axes.

    Examples
    --------
    >>> [(f.a, f.b, f.multiplicity) for f in shared_frequencies((4,), (8,))]
    [(0, 0, 1), (1, 1, 2), (2, 2, 1)]
    """
    if not grid_a or not grid_b:
        return (SharedFrequency(0, 0, conjugate=False, multiplicity=1),)
    if len(grid_a) != len(grid_b):
        raise ValueError(f"grids {grid_a} and {grid_b} have different numbers of axes")
    return tuple(SharedFrequency(*key, multiplicity=len(plane)) for key, plane in _shared_plane(grid_a, grid_b))


def plane_frequencies(grid_a: Grid, grid_b: Grid) -> tuple[IntArray, ...]:
    """Frequencies of the full plane that each shared frequency stands for.

    Parameters
    ----------
    grid_a, grid_b : tuple of int
        Grids with equally many axes, at least one.

    Returns
    -------
    tuple of (multiplicity, axes)
        Signed indices, in the order of `shared_frequencies`.

    Examples
    --------
    >>> [plane[:, 0].tolist() for plane in plane_frequencies((4,), (8,))]
    [[0], [-1, 1], [-2]]
    """
    return tuple(np.array(plane) for _, plane in _shared_plane(grid_a, grid_b))


@lru_cache(maxsize=64)
def _shared_plane(grid_a: Grid, grid_b: Grid) -> tuple[tuple[tuple[int, int, bool], tuple[tuple[int, ...], ...]], ...]:
    """Frequencies that both grids have, by their places in the half planes and whether one is its conjugate there."""
    common = tuple(map(min, grid_a, grid_b))
    place_a, place_b = _places(grid_a), _places(grid_b)
    shared: dict[tuple[int, int, bool], list[tuple[int, ...]]] = {}
    for frequency in itertools.product(*(range(-(size // 2), (size + 1) // 2) for size in common)):
        (a, flipped_a), (b, flipped_b) = place_a[frequency], place_b[frequency]
        shared.setdefault((a, b, flipped_a != flipped_b), []).append(frequency)
    return tuple((key, tuple(frequencies)) for key, frequencies in sorted(shared.items()))


def _places(grid: Grid) -> dict[tuple[int, ...], tuple[int, bool]]:
    """Position in the half plane of each signed frequency of the full plane, and whether as its conjugate."""
    plane = half_plane(grid)
    places: dict[tuple[int, ...], tuple[int, bool]] = {}
    for position, (frequency, multiplicity) in enumerate(zip(plane.frequency, plane.multiplicity, strict=True)):
        places[tuple(map(int, frequency))] = (position, False)
        if multiplicity == 2:
            mirrored = (-frequency) % np.array(grid)
            signed = np.where(mirrored >= (np.array(grid) + 1) // 2, mirrored - np.array(grid), mirrored)
            places[tuple(map(int, signed))] = (position, True)
    return places


def wave(grid: Grid, frequency: Iterable[int]) -> InexactArray:
    """Factors by which the unitary DFT multiplies the positions.

    Parameters
    ----------
    grid : tuple of int
    frequency : (axes,)
        Cycles over the whole of each axis.

    Returns
    -------
    (*grid)
        Complex, with norm 1.

    Examples
    --------
    >>> wave((2,), [1]).real.round(3)
    array([ 0.707, -0.707])
    """
    by_axis = [np.arange(size) * int(step) / size for size, step in zip(grid, frequency, strict=True)]
    cycles = reduce(np.add.outer, by_axis, np.zeros(()))
    return np.asarray(np.exp(-2j * np.pi * cycles) / math.sqrt(math.prod(grid)))
