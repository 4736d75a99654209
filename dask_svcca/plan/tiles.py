"""Tiles: how large they are, and what each may take of memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_svcca.plan.details import pair_bytes
from dask_svcca.plan.memory import (
    NARROW,
    SMALL_TASK,
    STACK_BYTES,
    TileMemory,
    coupling_bytes,
    loadings_bytes,
    operand_bytes,
    score_dtype,
    stack_copies,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.measures import Measure
    from dask_svcca.readings import Reading

MAX_TILE = 128
SMALL_TILE = 8
LONG_PAIR = 1e9
"""Multiplications in the coupling of a pair from which a tile of four by four is worth a task: a second or so."""

SCORE_CHUNK_BYTES = 4 * 2**20

DETAIL_COPIES = 4
"""How often a tile holds the details of its pairs: as they are, turned, merged with what the store has, encoded."""

VALUE_COPIES = 8
"""How often it holds the values of a measure: sums and values, of a with b and of b with a."""


def choose_tile(representations: int, workers: int, pair_products: float = 0.0) -> int:
    """Representations along the side of a tile.

    Enough tiles to keep all workers busy to the end (about sixteen each), few enough that the scheduler does not
    notice: a tile of 128 x 128 still makes ten thousand representations into three thousand tasks. Where a pair is long
    work, tiles are twice as many and as small as 4 x 4, so that no worker waits long for the last.

    Parameters
    ----------
    representations, workers : int
    pair_products : float
        Multiplications in the coupling of one pair.

    Examples
    --------
    >>> choose_tile(900, 2), choose_tile(256, 2), choose_tile(10_000, 2), choose_tile(3, 2)
    (120, 32, 128, 8)
    >>> choose_tile(30, 2, 1e10), choose_tile(256, 2, 1e10)
    (4, 24)
    """
    long = pair_products >= LONG_PAIR
    groups = math.ceil(math.sqrt(2 * (32 if long else 16) * workers))
    side = math.ceil(representations / groups)
    if side > SMALL_TILE:
        side = math.ceil(side / SMALL_TILE) * SMALL_TILE
    least = SMALL_TILE // 2 if long else SMALL_TILE
    return max(least, min(MAX_TILE, side))


def choose_chunk_samples(directions: int, itemsize: int) -> int:
    """Most samples in a chunk of scores: chunks of about 4 MB for the widest representation.

    Examples
    --------
    >>> choose_chunk_samples(512, 4), choose_chunk_samples(24, 4)
    (2048, 43690)
    """
    return max(256, SCORE_CHUNK_BYTES // (directions * itemsize))


@dataclass(frozen=True, slots=True)
class Layer:
    """What a tile needs to know of a representation to predict what it takes.

    Attributes
    ----------
    label : str
    domain : str
        What a sample is.
    grid : tuple of int
    samples, neurons : int
        Of a block.
    blocks : int
    width : int
        Most directions of a block.
    """

    label: str
    domain: str
    grid: Grid
    samples: int
    neurons: int
    blocks: int
    width: int

    @classmethod
    def of(cls, label: str, reading: Reading, shape: Sequence[int]) -> Layer:
        """The layer of a shape under a reading."""
        neurons, samples = reading.neurons(shape[-1]), reading.samples(shape[0])
        return cls(
            label, reading.domain, reading.grid, samples, neurons, len(reading.multiplicity), min(neurons, samples)
        )

    @property
    def directions(self) -> int:
        """Most directions, over all blocks."""
        return self.blocks * self.width


@dataclass(frozen=True, slots=True)
class _Panel:
    """Layers of one kind side by side: their directions, and those of a block squared and summed over blocks."""

    layer: Layer
    members: int
    directions: int
    squares: float
    loadings: int
    widest: Layer


@dataclass(frozen=True, slots=True)
class TileOptions:
    """What decides what any tile takes.

    Attributes
    ----------
    chunk_samples : int
        Most samples in a chunk of scores.
    precision : str
    measures : tuple of Measure
    details : dict of str to tuple of int
    """

    chunk_samples: int
    precision: str
    measures: tuple[Measure, ...]
    details: Mapping[str, tuple[int, ...]]

    @property
    def with_loadings(self) -> bool:
        """Whether a measure needs loadings."""
        return any("loadings" in measure.needs for measure in self.measures)


def panels_of(group: Sequence[Layer | None]) -> list[_Panel]:
    """A group by kind of layer: only one kind at a time is compared with another."""
    kinds: dict[tuple[str, Grid], list[Layer]] = {}
    for layer in group:
        if layer is not None:
            kinds.setdefault((layer.domain, layer.grid), []).append(layer)
    found = []
    for layers in kinds.values():
        width = sum(layer.width for layer in layers)
        is_complex = bool(layers[0].grid)
        found.append(
            _Panel(
                layers[0],
                len(layers),
                sum(layer.directions for layer in layers),
                float(layers[0].blocks * width**2),
                sum(loadings_bytes(layer.neurons, layer.directions, is_complex=is_complex) for layer in layers),
                max(layers, key=lambda layer: layer.directions),
            )
        )
    return found


def least_tile(layers: Sequence[Layer], side: int, options: TileOptions) -> tuple[int, Layer]:
    """Bytes that the smallest piece of a tile takes, a representation against another like it, and which takes most.

    Parameters
    ----------
    layers : sequence of Layer
    side : int
        Representations along the side of a tile.
    options : TileOptions
    """
    sizes = [(_pair(layer, layer, side, options, stack=0).peak, layer) for layer in set(layers)]
    return max(sizes, key=lambda item: (item[0], item[1].label))


def tile_memory(
    a: Sequence[_Panel], b: Sequence[_Panel], side: int, options: TileOptions, available: int
) -> TileMemory:
    """What the tile of two groups may take: all that it has use for, as far as there is memory for it.

    Parameters
    ----------
    a, b : list of panels
        See `panels_of`.
    side : int
    options : TileOptions
    available : int
        Bytes.

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> from dask_svcca.readings import Neurons
    >>> options = TileOptions(2000, "float32", find_measures("svcca"), {})
    >>> group = panels_of([Layer.of("a/b/c", Neurons(), (10_000, 512))] * 24)
    >>> [round(tile_memory(group, group, 24, options, memory).peak / 1e6) for memory in (10**10, 3 * 10**8)]
    [1562, 300]
    """
    asked = TileMemory(0, 0, 0, 0, 0)
    for one in a:
        for other in b:
            if one.layer.domain != other.layer.domain:
                continue
            whole = _whole(one, other, side, options)
            if whole.peak > available:
                whole = _shrunk(one, other, side, options, available)
            asked = TileMemory(
                max(asked.operand, whole.operand),
                max(asked.couplings, whole.couplings),
                max(asked.loadings, whole.loadings),
                max(asked.stack, whole.stack),
                max(asked.peak, whole.peak),
            )
    return asked


def _units(one: Layer, other: Layer, options: TileOptions, mean: float) -> tuple[int, int]:
    """Bytes of a direction of a panel, and of a number of the coupling of two."""
    is_complex = bool(one.grid or other.grid)
    dtype = score_dtype(options.precision, is_complex=is_complex)
    narrow = mean < NARROW
    samples = max(one.samples, other.samples)
    return (
        operand_bytes(dtype, min(options.chunk_samples, samples), narrow=narrow),
        coupling_bytes(dtype, samples, narrow=narrow, same=(one.domain, one.grid) == (other.domain, other.grid)),
    )


def _sum_up(
    operands: float, couplings: float, loadings: float, pair: float, pairs: float, side: int, options: TileOptions
) -> TileMemory:
    """The number of bytes of a tile from those of its parts.

    Parameters
    ----------
    operands, loadings : float
        Of one side.
    couplings : float
    pair, pairs : float
        Couplings in double precision: of one pair, and of all.
    side : int
    options : TileOptions
    """
    stack = max(pair, min(STACK_BYTES, pairs))
    tables = side**2 * (VALUE_COPIES * 8 * len(options.measures) + DETAIL_COPIES * pair_bytes(options.details))
    peak = 2 * operands + couplings + 2 * loadings + stack_copies(options.measures) * stack + tables + SMALL_TASK
    return TileMemory(*(math.ceil(number) for number in (operands, couplings, loadings, stack, peak)))


def _pair(one: Layer, other: Layer, side: int, options: TileOptions, stack: float) -> TileMemory:
    """A single pair of representations."""
    direction, number = _units(one, other, options, min(one.directions, other.directions))
    wide = 16 if one.grid or other.grid else 8
    blocks = min(one.blocks, other.blocks)
    loadings = 0
    if options.with_loadings:
        loadings = max(
            loadings_bytes(layer.neurons, layer.directions, is_complex=bool(layer.grid)) for layer in (one, other)
        )
    pair = wide * one.width * other.width
    return _sum_up(
        direction * max(one.directions, other.directions),
        number * blocks * one.width * other.width,
        loadings,
        pair,
        max(pair, stack),
        side,
        options,
    )


def _whole(one: _Panel, other: _Panel, side: int, options: TileOptions) -> TileMemory:
    """All pairs of two panels at once."""
    mean = min(one.directions / one.members, other.directions / other.members)
    direction, number = _units(one.layer, other.layer, options, mean)
    wide = 16 if one.layer.grid or other.layer.grid else 8
    squares = math.sqrt(one.squares * other.squares)
    if bool(one.layer.grid) != bool(other.layer.grid):
        # A dense layer meets the zero frequency alone.
        squares = math.sqrt(one.squares / one.layer.blocks * other.squares / other.layer.blocks)
    return _sum_up(
        direction * max(one.directions, other.directions),
        number * squares,
        max(one.loadings, other.loadings) if options.with_loadings else 0,
        wide * one.widest.width * other.widest.width,
        wide * squares,
        side,
        options,
    )


def _shrunk(one: _Panel, other: _Panel, side: int, options: TileOptions, available: int) -> TileMemory:
    """As much of two panels at once as there is memory for."""
    whole = _whole(one, other, side, options)
    least = _pair(one.widest, other.widest, side, options, stack=whole.stack)
    if least.peak > available:
        least = _pair(one.widest, other.widest, side, options, stack=0)
    low, high = 0.0, 1.0
    found = least
    for _ in range(40):
        share = (low + high) / 2
        tried = _sum_up(
            max(least.operand, share * whole.operand),
            max(least.couplings, share**2 * whole.couplings),
            max(least.loadings, share * whole.loadings),
            least.stack,
            least.stack,
            side,
            options,
        )
        if tried.peak <= available:
            low, found = share, tried
        else:
            high = share
    return found


def pair_products(layers: Sequence[Layer]) -> float:
    """Multiplications in the coupling of the longest pair."""
    return max((float(layer.samples) * layer.blocks * layer.width**2 for layer in layers), default=0.0)


def score_itemsize(layers: Sequence[Layer], precision: str) -> tuple[int, int]:
    """Directions and bytes of a number of the layer whose scores are widest."""
    sizes = [(layer.directions, score_dtype(precision, is_complex=bool(layer.grid)).itemsize) for layer in layers]
    return max(sizes, key=math.prod)
