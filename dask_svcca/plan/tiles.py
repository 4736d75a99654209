"""Tiles: how large they are, and what memory each may take."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dask_svcca.evaluate import STACK_BYTES, pair_bytes, solving_bytes
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.kernels.products import Summing
from dask_svcca.measures import norms_only, of_directions
from dask_svcca.plan.details import pair_bytes as detail_bytes
from dask_svcca.plan.grams import memory_by_samples
from dask_svcca.plan.memory import SMALL_TASK, PanelUnits, TileMemory, loadings_bytes, score_dtype
from dask_svcca.plan.relations import operand_bytes
from dask_svcca.plan.shares import largest
from dask_svcca.plan.values import choose_patch, stored_bytes, value_bytes
from dask_svcca.readings import Meeting, meet
from dask_svcca.stores.subspaces import chunk_length

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dask_svcca.kernels._types import IntArray
    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.measures import Measure
    from dask_svcca.readings import Reading

T = TypeVar("T")

LONG_TILE = 128
"""The same where pairs are not short work."""

TILE_COUPLINGS = 128 * 2**20
"""Bytes of couplings from which a tile of more than `LONG_TILE` takes no more than one of that size would."""

FEW_SAMPLES = 1500
"""Samples up to which a quarter of these is made at a time: to write them and to gather pairs is long work, too.

Of 300 samples and 24 directions that is a tenth faster, of 2,000 it makes no difference.
"""

SCORE_CHUNK_BYTES = 4 * 2**20

DETAIL_COPIES = 4
"""How often a tile holds the details of its pairs while it writes them: measured."""

DIRECTION_BYTES = 48
"""Bytes that a tile holds of each direction beside its scores: its eigenvalue, its block, its weight."""

BLOCK_BYTES = 600
"""Bytes that a tile holds of each block of a representation: where it is in the store and in the panel."""


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
        Samples and neurons of a block.
    blocks : int
    width : int
        Most directions of a block.
    kernel : bool
        Whether the inner products of its samples are stored, and no directions.
    """

    label: str
    domain: str
    grid: Grid
    samples: int
    neurons: int
    blocks: int
    width: int
    kernel: bool = False

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

    def folded(self, grid: Grid) -> Layer:
        """The layer folded on a coarser grid, where there is one."""
        if not grid:
            return self
        neurons = self.neurons * (math.prod(self.grid) // math.prod(grid))
        blocks = len(half_plane(grid).multiplicity)
        return replace(self, grid=grid, neurons=neurons, blocks=blocks, width=min(neurons, self.samples))


@dataclass(frozen=True, slots=True)
class TileOptions:
    """What decides how much memory a tile takes.

    Attributes
    ----------
    chunk_samples : int
        Most samples in a chunk of scores.
    precision : str
    match : {"crop", "fold"}
        What becomes of grids of unequal size.
    measures : tuple of Measure
    details : dict of str to tuple of int
    """

    chunk_samples: int
    precision: str
    match: str
    measures: tuple[Measure, ...]
    details: Mapping[str, tuple[int, ...]]

    @property
    def with_loadings(self) -> bool:
        """Whether a measure needs loadings."""
        return any("loadings" in measure.needs for measure in self.measures)

    @property
    def directions(self) -> bool:
        """Whether anything looks at directions."""
        return bool(self.details) or bool(of_directions(self.measures))

    @property
    def norms_only(self) -> bool:
        """Whether the inner products of samples say all that is asked for of layers with one block."""
        return not self.details and self.directions and norms_only(self.measures)

    @property
    def sample_sums(self) -> int:
        """How many numbers measures need of each sample."""
        kernels = {measure.kernel for measure in self.measures if "diagonal" in measure.needs}
        return len(kernels) + any("row_norms" in measure.needs for measure in self.measures)

    @property
    def with_leverages(self) -> bool:
        """Whether measures need leverages of samples."""
        return any("leverages" in measure.needs for measure in self.measures)


def by_kind(group: Sequence[Layer | None]) -> list[list[Layer]]:
    """Layers of a group by kind: the layers of one kind are compared with those of another at a time."""
    kinds: dict[tuple[str, Grid], list[Layer]] = {}
    for layer in group:
        if layer is not None:
            kinds.setdefault((layer.domain, layer.grid), []).append(layer)
    return list(kinds.values())


@dataclass(frozen=True, slots=True)
class Side:
    """Layers of one kind side by side.

    Attributes
    ----------
    units : PanelUnits
    members, directions, width : int
        Number of layers, of their directions over all blocks, and of those in one block.
    loadings, most : int
        Bytes of all loadings, and of the largest of one layer; 0 where no measure needs them.
    operand : float
        Bytes of their scores that are read at a time.
    widest : Layer
    widths : (member,)
        Directions of each layer in a block.
    kernels : bool
        Whether any of them has only the inner products of its samples.
    """

    units: PanelUnits
    members: int
    directions: int
    width: int
    loadings: int
    most: int
    operand: float
    widest: Layer
    widths: IntArray
    kernels: bool

    @classmethod
    def of(cls, layers: Sequence[Layer], units: PanelUnits, *, loadings: bool) -> Side:
        """The side that these layers make."""
        width, directions = sum(layer.width for layer in layers), sum(layer.directions for layer in layers)
        sizes = [
            loadings_bytes(layer.neurons, layer.directions, is_complex=bool(layer.grid)) if loadings else 0
            for layer in layers
        ]
        return cls(
            units,
            len(layers),
            directions,
            width,
            sum(sizes),
            max(sizes),
            units.operand(directions, width),
            max(layers, key=lambda layer: layer.directions),
            np.array([layer.width for layer in layers]),
            any(layer.kernel for layer in layers),
        )


@dataclass(frozen=True, slots=True)
class KindPair:
    """All layers of one kind in one group, and all of a kind in the other.

    Attributes
    ----------
    a, b : Side
    shared : int
        Number of frequencies at which they are compared.
    stack : float
        Bytes of the pairs that can be solved together.
    wide : int
        Bytes of a number of a coupling when it is solved.
    same : bool
        Whether both sides are the same layers.
    conjugates : bool
        Whether loadings of one side are conjugated.
    """

    a: Side
    b: Side
    shared: int
    stack: float
    wide: int
    same: bool
    conjugates: bool

    def limits(self, share: float, most: float = TILE_COUPLINGS) -> TileMemory:
        """Limits of a tile that takes a share of each side at a time, and bytes of couplings; at least one pair."""
        widest = [side.units.operand(side.widest.directions, side.widest.width) for side in (self.a, self.b)]
        width = max(self.a.width, self.b.width)
        least = max(self.a.widest.width, self.b.widest.width)
        number = max(self.a.units.number, self.b.units.number) * self.shared
        usual = width * min(1.0, LONG_TILE / max(self.a.members, self.b.members))
        part = 4 if self.a.widest.samples <= FEW_SAMPLES else 1
        couplings = min(number * (share * width) ** 2, max(most, number * usual**2) / part)
        return TileMemory(
            math.ceil(max(*widest, share * self.a.operand, share * self.b.operand)),
            math.ceil(max(number * least**2, couplings)),
            math.ceil(max(self.a.most, self.b.most, share * self.a.loadings, share * self.b.loadings)),
            math.ceil(max(pair_bytes(*self._widths, self.wide), share * self.stack)),
            0,
        )

    def peak(self, limits: TileMemory, options: TileOptions) -> float:
        """Bytes that it takes within these limits."""
        whole = self.same and limits.operand >= self.a.operand and limits.couplings >= self._couplings(self.a, self.a)
        whole = whole and limits.loadings >= self.a.loadings
        sides = (self.a,) if whole else (self.a, self.b)
        operands = sum(min(side.operand, limits.operand) for side in sides)
        couplings = min(self._couplings(self.a, self.b), limits.couplings)
        loadings = float(sum(min(side.loadings, limits.loadings) for side in sides))
        if self.same:
            # Two parts of the same side have no member in common.
            loadings = min(loadings, self.a.loadings)
        if self.conjugates:
            loadings += min(self.a.loadings, limits.loadings) / self.a.widest.blocks
        solving = solving_bytes(options.measures, limits.stack, *self._widths, self.wide)
        one_each = sum(side.members for side in sides) * chunk_length(self.a.widest.samples, options.chunk_samples) * 8
        norms = options.sample_sums * one_each + limits.stack if options.sample_sums else 0.0
        leverages, overlaps = 0.0, 0.0
        if options.with_leverages:
            leverages, overlaps = one_each, 8 * self.shared * self.a.members * self.b.members
        return operands + max(couplings + loadings + overlaps + max(solving, leverages), norms)

    @property
    def _widths(self) -> tuple[int, int]:
        """Directions of the widest of each side."""
        return self.a.widest.width, self.b.widest.width

    def _couplings(self, one: Side, other: Side) -> float:
        return max(one.units.number, other.units.number) * self.shared * one.width * other.width


def tile_limits(
    a: Sequence[Sequence[Layer]],
    b: Sequence[Sequence[Layer]],
    side: int,
    options: TileOptions,
    available: int,
    device: float = math.inf,
) -> TileMemory:
    """Memory that the tile of two groups may take: all that it can use, as far as it is available.

    Where that is not enough for a single pair: what the pair takes.

    Parameters
    ----------
    a, b : list of list of Layer
        See `by_kind`. The very same list for a tile on the diagonal.
    side : int
        Representations along each axis of a tile: of one at the edge, too, chunks are written at their full size.
    options : TileOptions
    available : int
        Bytes.
    device : float
        Bytes of the device that makes inner products of samples, where it has memory of its own.

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> from dask_svcca.readings import Neurons
    >>> options = TileOptions(2000, "float32", "crop", find_measures("svcca"), {})
    >>> group = by_kind([Layer.of("a/b/c", Neurons(), (10_000, 512))] * 24)
    >>> [round(tile_limits(group, group, 24, options, memory).peak / 1e6) for memory in (10**10, 3 * 10**8)]
    [742, 300]
    """
    patch = choose_patch(side, options.measures, available)
    members = [layer for group in ((a,) if a is b else (a, b)) for kind in group for layer in kind]
    if patch < side:
        # Two patches of a group are two sides.
        a, b = _widest(a, patch), _widest(b, patch)
    kind_pairs = [
        kind_pair
        for one in a
        for other in b
        if (kind_pair := pair_kinds(one, other, options, same=a is b and one is other)) is not None
    ]
    beside = SMALL_TASK + sum(DIRECTION_BYTES * layer.directions + BLOCK_BYTES * layer.blocks for layer in members)
    values = side**2 * stored_bytes(options.measures) + patch**2 * value_bytes(options.measures)
    details = side**2 * detail_bytes(options.details)
    samples = {layer.samples for layer in members}
    related = max((operand_bytes(options.measures, count, patch) for count in samples), default=0)
    if not kind_pairs or not options.directions:
        return TileMemory(0, 0, 0, 0, beside + values + max(related, DETAIL_COPIES * details), patch=patch)

    def tried(share: float) -> TileMemory:
        each = [kind_pair.limits(share) for kind_pair in kind_pairs]
        limits = TileMemory(
            max(one.operand for one in each),
            max(one.couplings for one in each),
            max(one.loadings for one in each),
            max(one.stack for one in each),
            0,
            patch=patch,
        )
        working = max(related, *(kind_pair.peak(limits, options) for kind_pair in kind_pairs))
        # Working memory is free when the details are written.
        peak = beside + values + max(details + working, DETAIL_COPIES * details)
        return replace(limits, peak=math.ceil(peak))

    by_samples = memory_by_samples(kind_pairs, options, min(available - beside - values, device))
    if by_samples is not None:
        peak = beside + values + max(related, by_samples.peak)
        return replace(by_samples, peak=math.ceil(peak), patch=patch)
    return largest(tried, lambda limits: limits.peak <= available)


def _widest(group: Sequence[Sequence[Layer]], count: int) -> list[list[Layer]]:
    """The widest layers of each kind, so many at most."""
    return [sorted(kind, key=lambda layer: layer.directions, reverse=True)[:count] for kind in group]


def limits_by_tile(
    kinds: Sequence[Sequence[Sequence[Layer]]],
    places: Mapping[tuple[int, int], bool],
    find: Callable[[Sequence[Sequence[Layer]], Sequence[Sequence[Layer]]], T],
) -> dict[tuple[int, int], T]:
    """Memory that each tile may take: found once for all tiles whose layers are of the same sizes.

    Parameters
    ----------
    kinds : sequence of list of list of Layer
        Those of each group: see `by_kind`.
    places : dict of (int, int) to bool
        Groups of each tile, and whether it compares all of a group with itself: where only some of these pairs are
        missing, both sides are held.
    find : callable
        Given the layers of two groups, what a tile of them may take: see `tile_limits`.
    """
    sizes = [tuple(tuple(sorted(_sizes(kind).items())) for kind in group) for group in kinds]
    known: dict[Any, T] = {}
    found = {}
    for (row, column), same in places.items():
        alike = sizes[row], sizes[column], same
        if alike not in known:
            other = kinds[row] if same else list(kinds[column])
            known[alike] = find(kinds[row], other)
        found[row, column] = known[alike]
    return found


def _sizes(kind: Sequence[Layer]) -> Counter[tuple[Any, ...]]:
    """How many layers of a kind have which sizes."""
    return Counter(
        (layer.domain, layer.grid, layer.samples, layer.neurons, layer.blocks, layer.width, layer.kernel)
        for layer in kind
    )


def pair_kinds(
    one: Sequence[Layer], other: Sequence[Layer], options: TileOptions, *, same: bool, most: float | None = None
) -> KindPair | None:
    """How layers of two kinds are compared, on a device with ``most`` bytes of pairs together; None if they cannot."""
    meeting = meet(one[0].domain, one[0].grid, other[0].domain, other[0].grid, options.match)
    if not isinstance(meeting, Meeting):
        return None
    layers = [layer.folded(meeting.fold_a) for layer in one], [layer.folded(meeting.fold_b) for layer in other]
    summing = Summing.of(min(sum(layer.directions for layer in side) / len(side) for side in layers))
    dtypes = [score_dtype(options.precision, is_complex=bool(side[0].grid)) for side in layers]
    coupling = np.result_type(*dtypes)
    samples = layers[0][0].samples
    length = chunk_length(samples, options.chunk_samples)
    a, b = (
        Side.of(
            side,
            PanelUnits.of(dtype, coupling, length, samples, summing, on_device=most is not None),
            loadings=options.with_loadings,
        )
        for side, dtype in zip(layers, dtypes, strict=True)
    )
    wide = np.result_type(coupling, np.float64).itemsize
    # Pairs with equally many directions are solved together; where loadings differ, not those of two frequencies.
    together = 1
    if not options.with_loadings:
        twice = sum(frequency.multiplicity > 1 for frequency in meeting.shared)
        together = max(1, twice, len(meeting.shared) - twice - 1)
    stack = max(
        pair_bytes(k, l, wide) * count_a * count_b / (2 if same and count_a == count_b else 1)
        for k, count_a in zip(*np.unique(a.widths, return_counts=True), strict=True)
        for l, count_b in zip(*np.unique(b.widths, return_counts=True), strict=True)
    )
    return KindPair(
        a,
        b,
        len(meeting.shared),
        min(STACK_BYTES if most is None else most, together * float(stack)),
        wide,
        same,
        conjugates=any(frequency.conjugate for frequency in meeting.shared),
    )
