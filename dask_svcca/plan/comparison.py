"""The plan of a comparison: subspaces to make, tiles to compute, memory, bytes. Pure: values in, one value out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask_svcca.errors import InvalidActivationsError, ParametersChangedError
from dask_svcca.measures import find_measures, kernels_only, needs_loadings, with_companions
from dask_svcca.plan.details import detail_sizes, pair_bytes, smaller_tile
from dask_svcca.plan.graph import nodes_of
from dask_svcca.plan.memory import PROCESS_BYTES
from dask_svcca.plan.pairs import find_missing
from dask_svcca.plan.sides import SMALL_TILE, choose_tile, tile_by_samples
from dask_svcca.plan.subspaces import Wanted, plan_subspaces
from dask_svcca.plan.tasks import GroupTask, SubspacePlace, TileTask
from dask_svcca.plan.tiles import (
    Layer,
    TileOptions,
    by_kind,
    choose_chunk_samples,
    limits_by_tile,
    pair_products,
    score_itemsize,
    value_bytes,
)
from dask_svcca.readings import Fourier, choose_reading, needed_folds
from dask_svcca.stores import html
from dask_svcca.stores.subspaces import subspace_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.measures import Measure
    from dask_svcca.plan.details import Sizes
    from dask_svcca.plan.pairs import MissingPairs
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.selection import Selection
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.plan.tasks import PackTask
    from dask_svcca.readings import Reading
    from dask_svcca.stores._state import ComparisonState
    from dask_svcca.stores.subspaces import SubspaceIndex, SubspaceRecord
    from dask_svcca.stores.zoo import Representation


OUTGROWN = 4
"""How many times as large as the tiles of a comparison those of its new size are when its results are moved to such."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a comparison.

    Attributes
    ----------
    label : str
    representation : Representation or None
        None where it has left the zoo: its results stay, and nothing more is computed.
    key : str
        Key of its subspace; empty where it has left the zoo.
    grid : tuple of int
        Sizes of the grid of the DFT; empty without one.
    """

    label: str
    representation: Representation | None
    key: str
    grid: Grid


@dataclass(frozen=True, slots=True)
class Plan:
    """What a comparison would do; printed by ``--dry-run``.

    Attributes
    ----------
    rows : tuple of Row
        All representations, in the order of the comparison.
    changed : tuple of int
        Rows whose activations have changed since they were compared.
    measures : tuple of Measure
        All measures of the comparison, with their companions.
    details : dict of str to tuple of int
        Details that are stored of every pair, and the sizes of their dims after those of the pair.
    settled : tuple of str
        Measures and details that partial pairs have already.
    pairs, pairs_done : int
        Pairs asked for (each once, a representation with itself included), and those that are there already.
    packs : tuple of PackTask
        Subspaces to make.
    groups : tuple of GroupTask
    tiles : tuple of TileTask
    tile : int
        Representations along each axis of a tile of the store.
    side : int
        Representations along each axis of what one task computes: some whole tiles.
    chunk_samples : int
        Most samples in a chunk of scores.
    bytes_to_read : int
        Bytes of activations, each counted once.
    subspace_bytes, tile_bytes : int
        Most memory that a task of each kind takes, beyond its process.
    final : mapping of str to str
        Final checkpoint of each model, where the pairs asked for are those with final checkpoints.
    """

    rows: tuple[Row, ...]
    changed: tuple[int, ...]
    measures: tuple[Measure, ...]
    details: Sizes
    settled: tuple[str, ...]
    pairs: int
    pairs_done: int
    packs: tuple[PackTask, ...]
    groups: tuple[GroupTask, ...]
    tiles: tuple[TileTask, ...]
    tile: int
    side: int
    chunk_samples: int
    bytes_to_read: int
    subspace_bytes: int
    tile_bytes: int
    final: Mapping[str, str] = field(default_factory=dict)

    @property
    def orthonormal(self) -> bool:
        """Whether measures ask for directions of the representations."""
        return _asks_for_directions(self.measures, self.details)

    @property
    def representations(self) -> int:
        """Number of representations."""
        return len(self.rows)

    @property
    def subspaces(self) -> int:
        """Number of subspaces to make."""
        return sum(len(pack.members) for pack in self.packs)

    @property
    def tasks(self) -> int:
        """Number of tasks, those that only join others included."""
        return len(nodes_of(self))

    @property
    def subspaces_to_write(self) -> int:
        """Bytes of the subspaces to make, at most: where they have as many directions as they can."""
        return sum(member.memory.result for pack in self.packs for member in pack.members)

    @property
    def results_to_write(self) -> int:
        """Bytes of the results to compute, before compression, which hardly makes them smaller."""
        return 2 * (self.pairs - self.pairs_done) * (8 * len(self.measures) + 1 + pair_bytes(self.details))

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the plan, as JSON values."""
        return {
            "representations": self.representations,
            "pairs": self.pairs,
            "pairs_done": self.pairs_done,
            "subspaces": self.subspaces,
            "tiles": len(self.tiles),
            "tile": [self.side, self.side],
            "tasks": self.tasks,
            "bytes_to_read": self.bytes_to_read,
            "bytes_to_write": {"subspaces": self.subspaces_to_write, "results": self.results_to_write},
            "bytes_per_subspace_task": self.subspace_bytes,
            "bytes_per_tile_task": self.tile_bytes,
            "bytes_per_process": PROCESS_BYTES,
            "bytes_kept_per_pair": pair_bytes(self.details),
            **({"final": dict(self.final)} if self.final else {}),
        }

    def _facts(self) -> list[tuple[str, str]]:
        memory = (
            f"at most {self.subspace_bytes / 2**20:,.0f} MiB per subspace and {self.tile_bytes / 2**20:,.0f} MiB per "
            f"tile, beyond {PROCESS_BYTES / 2**20:,.0f} MiB per process"
        )
        written = (
            f"at most {self.subspaces_to_write / 1e6:,.1f} MB of subspaces and {self.results_to_write / 1e6:,.1f} MB "
            f"of results"
        )
        lines = [
            ("representations", f"{self.representations:,}, of which {self.subspaces:,} subspaces to make"),
            ("pairs", f"{self.pairs:,}, of which {self.pairs - self.pairs_done:,} to compute"),
            ("tiles", f"{len(self.tiles):,} of {self.side} x {self.side} representations"),
            ("tasks", f"{self.tasks:,}"),
            ("bytes to read", f"{self.bytes_to_read / 1e6:,.1f} MB of activations"),
            ("bytes to write", written),
            ("memory per task", memory),
        ]
        if self.details:
            lines.append(("details", f"up to {pair_bytes(self.details):,} bytes per pair, before compression"))
        if self.final:
            lines.append(("final", self.finals))
        return lines

    def __str__(self) -> str:
        return "\n".join(f"{name:<16} {text}" for name, text in self._facts())

    def _repr_html_(self) -> str:
        """What notebooks show: the same."""
        return html.page("Plan of a comparison", self._facts())

    @property
    def finals(self) -> str:
        """What was taken for the final checkpoint of each model, as text."""
        shown = [f"{checkpoint!r} of {model!r}" for model, checkpoint in self.final.items()]
        return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def make_plan(
    representations: Sequence[Representation],
    selected: Selection,
    state: ComparisonState | None,
    index: SubspaceIndex | None,
    parameters: Parameters,
    budget: Budget,
) -> Plan:
    """Plan a comparison: refuse what cannot fit, before anything runs.

    Parameters
    ----------
    representations : sequence of Representation
        Representations of the zoo.
    selected : Selection
        Pairs asked for, by the order of ``representations``.
    state : ComparisonState or None
        What the comparison has; None where there is none yet.
    index : SubspaceIndex or None
        What subspaces there are; None where there is no store of them yet.
    parameters : Parameters
    budget : Budget

    Raises
    ------
    MemoryLimitError
        The message names the representation and both numbers.
    ParametersChangedError
        Where the comparison has no room for details of new representations.
    """
    known = () if state is None else state.labels
    present = {item.label: position for position, item in enumerate(representations)}
    # New representations come after those that are there, so that finished tiles stay where they are.
    order = list(dict.fromkeys((*known, *present)))
    items = [representations[present[label]] if label in present else None for label in order]
    readings = _readings(items, parameters)
    rows = tuple(
        Row(label, None, "", ())
        if item is None or reading is None
        else Row(label, item, subspace_key(item.identity, reading.identity), reading.grid)
        for label, item, reading in zip(order, items, readings, strict=True)
    )
    measures = _measures(parameters, state)
    details = _details(parameters, state, items, readings)
    lacking = state is not None and state.lacks([*(measure.name for measure in measures), *details])
    changed = _changed(state, rows)
    layers = [
        None if item is None or reading is None else Layer.of(item.label, reading, item.shape)
        for item, reading in zip(items, readings, strict=True)
    ]
    present_layers = [layer for layer in layers if layer is not None]
    chunk_samples = _chunk_samples(index, present_layers, parameters)
    options = TileOptions(chunk_samples, parameters.precision, parameters.match, measures, details)
    side = smaller_tile(
        choose_tile(len(rows), budget, pair_products(present_layers), value_bytes(len(measures))), details
    )
    # One that began small has small tiles: a task takes several, up to where there would be far too many files.
    outgrown = state is not None and len(rows) > len(state.labels) and side >= OUTGROWN * state.tile
    step = min(SMALL_TILE, side) if state is None or outgrown else state.tile
    side = step * max(1, side // step)
    side = tile_by_samples(present_layers, step, side, budget.workers, options)
    tile = side if state is None or outgrown else state.tile
    places = [present.get(label, -1) for label in order]
    missing = find_missing(selected, places, state, changed, side, lacking=lacking)
    need = _Need(loadings=needs_loadings(measures), orthonormal=_asks_for_directions(measures, details))
    wanted, subspaces = _wanted(rows, readings, missing, index, parameters, need)
    packs = plan_subspaces(
        list(wanted.values()),
        budget,
        chunk_samples=chunk_samples,
        precision=parameters.precision,
        with_loadings=need.loadings,
        orthonormal=need.orthonormal,
    )
    made = {member.key: (pack.name, place) for pack in packs for place, member in enumerate(pack.members)}
    groups = tuple(
        GroupTask(
            number,
            tuple(
                tuple(
                    SubspacePlace(*(made.get(key) or _place(index, key)), fold) for fold, key in subspaces[row].items()
                )
                for row in range(start, min(start + side, len(rows)))
            ),
        )
        for number, start in enumerate(range(0, len(rows), side))
    )
    tiles = _tiles(missing, layers, options, budget)
    return Plan(
        rows=rows,
        changed=changed,
        measures=measures,
        details=details,
        settled=_settled(state, missing, lacking=lacking),
        pairs=missing.asked,
        pairs_done=missing.asked - missing.missing,
        packs=packs,
        groups=groups,
        tiles=tiles,
        tile=tile,
        side=side,
        chunk_samples=chunk_samples,
        bytes_to_read=sum(subspace.representation.nbytes for subspace in wanted.values() if subspace.source is None),
        subspace_bytes=max((pack.memory for pack in packs), default=0),
        tile_bytes=max((task.memory.peak for task in tiles), default=0),
    )


def _readings(items: Sequence[Representation | None], parameters: Parameters) -> list[Reading | None]:
    """How each representation is read: chosen once for all of one shape."""
    options = parameters.reading
    chosen: dict[Any, Reading] = {}
    for item in items:
        if item is not None and (item.dims, item.shape) not in chosen:
            chosen[item.dims, item.shape] = choose_reading(item.dims, item.shape, options)
    return [None if item is None else chosen[item.dims, item.shape] for item in items]


def _measures(parameters: Parameters, state: ComparisonState | None) -> tuple[Measure, ...]:
    """All measures of the comparison: those it has, and those asked for."""
    names = parameters.measures if state is None else tuple(dict.fromkeys((*state.measures, *parameters.measures)))
    return with_companions(find_measures(names))


def _details(
    parameters: Parameters,
    state: ComparisonState | None,
    items: Sequence[Representation | None],
    readings: Sequence[Reading | None],
) -> Sizes:
    """Sizes of the details of a pair; those that the comparison has stay."""
    shapes = [item.shape for item in items if item is not None]
    keep = sorted({*parameters.keep, *(() if state is None else state.details)})
    sizes = detail_sizes(keep, [reading for reading in readings if reading is not None], shapes)
    stored: Mapping[str, tuple[int, ...]] = {} if state is None else state.details
    if "correlations" in stored:
        # The widest layer may have left the zoo.
        sizes["correlations"] = max(sizes["correlations"], stored["correlations"])
    room = stored.get("frequencies")
    if state is not None and room is not None:
        if any(size > most for size, most in zip(sizes["frequencies"], room, strict=True)):
            raise ParametersChangedError(
                f"the comparison {state.place!r} keeps frequencies of grids up to {' x '.join(map(str, room))}, and "
                f"the zoo now has a grid of {' x '.join(map(str, sizes['frequencies']))}. Compare into another store"
            )
        sizes["frequencies"] = room
    if sizes.get("frequencies") == (0, 0):
        raise InvalidActivationsError(
            "keep='frequencies' is about layers with height and width, and the zoo has no such layer yet"
        )
    return sizes


def _settled(state: ComparisonState | None, found: MissingPairs, *, lacking: bool) -> tuple[str, ...]:
    """Measures and details that partial pairs have."""
    if state is None:
        return ()
    # The first that are added: all pairs have all that there was before.
    return state.names if lacking and not state.growing and not found.partial else state.settled


def _changed(state: ComparisonState | None, rows: Sequence[Row]) -> tuple[int, ...]:
    digests = () if state is None else state.digests
    return tuple(
        number
        for number, (digest, row) in enumerate(zip(digests, rows, strict=False))
        if row.representation is not None and row.representation.identity != digest
    )


def _chunk_samples(index: SubspaceIndex | None, layers: Sequence[Layer], parameters: Parameters) -> int:
    if index is not None:
        return index.chunk_samples
    return choose_chunk_samples(*score_itemsize(layers, parameters.precision))


def _wanted(
    rows: Sequence[Row],
    readings: Sequence[Reading | None],
    missing: MissingPairs,
    index: SubspaceIndex | None,
    parameters: Parameters,
    need: _Need,
) -> tuple[dict[str, Wanted], list[dict[Grid, str]]]:
    """Subspaces to make, by key; and for each row the keys of its subspaces, by the grid that it is folded on."""
    grids = [() if reading is None else reading.grid for reading in readings]
    folds: dict[int, tuple[Grid, ...]] = {}
    if parameters.match == "fold":
        folds = needed_folds(grids, missing.with_any)
    wanted: dict[str, Wanted] = {}
    subspaces: list[dict[Grid, str]] = []
    for number, (row, reading) in enumerate(zip(rows, readings, strict=True)):
        keys: dict[Grid, str] = {}
        if row.representation is not None and reading is not None and missing.needed[number]:
            own: list[tuple[Grid, Reading]] = [((), reading)]
            if isinstance(reading, Fourier):
                own += [(grid, reading.folded(grid)) for grid in folds.get(number, ())]
            for grid, folded in own:
                keys[grid] = subspace_key(row.representation.identity, folded.identity)
                if not need.is_met(index, keys[grid]):
                    source = need.source(index, keys[grid])
                    wanted.setdefault(keys[grid], Wanted(row.representation, folded, keys[grid], source))
        subspaces.append(keys)
    return wanted, subspaces


def _asks_for_directions(measures: Sequence[Measure], details: Sizes) -> bool:
    return bool(details) or not kernels_only(measures)


@dataclass(frozen=True, slots=True)
class _Need:
    """What measures need of a subspace."""

    loadings: bool
    orthonormal: bool

    def is_met(self, index: SubspaceIndex | None, key: str) -> bool:
        """Whether a subspace is there that says enough."""
        record = None if index is None else index.records.get(key)
        if record is None:
            return False
        entry = record.entry
        enough = (entry.with_loadings or not self.loadings) and (entry.orthonormal or not self.orthonormal)
        return bool(entry.problem) or enough

    def source(self, index: SubspaceIndex | None, key: str) -> SubspaceRecord | None:
        """Samples that are stored as they are, where that is enough to make it."""
        record = None if index is None else index.raw.get(key)
        # Of a square root of inner products nobody knows the neurons.
        lacking = record is not None and self.loadings and record.entry.is_square_root
        return None if lacking else record


def _place(index: SubspaceIndex | None, key: str) -> tuple[str, int]:
    if index is None:
        raise RuntimeError(f"the subspace {key!r} is neither there nor planned")
    record = index.records[key]
    return record.pack, record.position


def _tiles(
    missing: MissingPairs, layers: Sequence[Layer | None], options: TileOptions, budget: Budget
) -> tuple[TileTask, ...]:
    side = missing.side
    kinds = [by_kind(layers[start : start + side]) for start in range(0, len(layers), side)]
    length = min(side, len(layers))
    memory = limits_by_tile(kinds, missing.with_itself(), length, options, budget.available)
    largest = max(missing.tiles, key=lambda place: memory[place].peak, default=None)
    if largest is None:
        return ()
    widest = max(
        (layer for group in largest for kind in kinds[group] for layer in kind), key=lambda layer: layer.directions
    )
    # A tile takes more than is available only where its widest pair alone does.
    budget.check(
        f"one pair of the widest representations, such as {widest.label!r} with up to {widest.directions:,} "
        f"directions,",
        memory[largest].peak,
        "Use fewer workers with more memory each, or a reading with fewer neurons (conv=, sequence=)",
    )
    return tuple(
        TileTask(
            row=row,
            column=column,
            side=side,
            selected=bits,
            details=dict(options.details),
            memory=memory[row, column],
        )
        for (row, column), bits in missing.tiles.items()
    )
