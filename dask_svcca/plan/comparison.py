"""The plan of a comparison: subspaces to make, tiles to compute, memory, bytes. Pure: values in, one value out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dask_svcca.errors import InvalidActivationsError, ParametersChangedError
from dask_svcca.measures import (
    find_measures,
    leading_only,
    needs_loadings,
    of_directions,
    relations_of,
    with_companions,
)
from dask_svcca.plan.details import detail_sizes, smaller_tile
from dask_svcca.plan.on_device import Room, check_pair, device_limits, pair_of, tile_on_device
from dask_svcca.plan.pairs import find_missing
from dask_svcca.plan.plan import Plan, Row, asks_for_directions
from dask_svcca.plan.sides import (
    SMALL_TILE,
    choose_tile,
    gram_shares,
    pair_products,
    score_itemsize,
    tile_by_samples,
)
from dask_svcca.plan.subspaces import Wanted, holds_kernel, plan_subspaces
from dask_svcca.plan.tasks import GroupTask, SubspacePlace, TileTask
from dask_svcca.plan.tiles import (
    Layer,
    TileOptions,
    by_kind,
    choose_chunk_samples,
    limits_by_tile,
    tile_limits,
)
from dask_svcca.plan.values import stored_bytes
from dask_svcca.readings import Fourier, choose_reading, needed_folds
from dask_svcca.stores.subspaces import relation_key, subspace_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.measures import Measure, Relation
    from dask_svcca.plan.details import Sizes
    from dask_svcca.plan.memory import TileMemory
    from dask_svcca.plan.pairs import MissingPairs
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.selection import Selection
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.readings import Reading
    from dask_svcca.stores._state import ComparisonState
    from dask_svcca.stores.subspaces import SubspaceIndex, SubspaceRecord
    from dask_svcca.stores.zoo import Representation


OUTGROWN = 4
"""How many times as large as the tiles of a comparison those of its new size are when its results are moved to such."""


def make_plan(
    representations: Sequence[Representation],
    selected: Selection,
    state: ComparisonState | None,
    index: SubspaceIndex | None,
    parameters: Parameters,
    budget: Budget,
    *,
    side: int | None = None,
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
    side : int, optional
        Representations along each axis of a tile, where tiles of another plan are tried; chosen by default.

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
    measures = _measures(parameters, state)
    _check_samples(measures, items, readings)
    rows = tuple(
        Row(label, None, "", ())
        if item is None or reading is None
        else Row(
            label,
            item,
            subspace_key(item.identity, reading.identity),
            reading.grid,
            reading.neurons(item.shape[-1]),
            tuple(_relation_key(item, reading, relation) for relation in relations_of(measures)),
        )
        for label, item, reading in zip(order, items, readings, strict=True)
    )
    details = _details(parameters, state, items, readings)
    lacking = state is not None and state.lacks([*(measure.name for measure in measures), *details])
    changed = _changed(state, rows)
    orthonormal = asks_for_directions(measures, details)
    need = _Need(
        loadings=needs_loadings(measures),
        orthonormal=orthonormal,
        # Layers on a grid meet others at one frequency, which inner products do not tell from others.
        kernels=not orthonormal and not any(reading.grid for reading in readings if reading is not None),
        share=_share(measures, details, parameters.variance),
        subspaces=bool(details) or bool(of_directions(measures)),
        relations=relations_of(measures),
    )
    layers = [
        None if item is None or reading is None else Layer.of(item.label, reading, item.shape)
        for item, reading in zip(items, readings, strict=True)
    ]
    chunk_samples = _chunk_samples(index, [layer for layer in layers if layer is not None], parameters)
    if need.kernels:
        layers = [
            None
            if layer is None or item is None or reading is None
            else replace(layer, kernel=holds_kernel(reading, item, parameters.precision, chunk_samples))
            for layer, item, reading in zip(layers, items, readings, strict=True)
        ]
    present_layers = [layer for layer in layers if layer is not None]
    options = TileOptions(chunk_samples, parameters.precision, parameters.match, measures, details)
    # A run that goes on with other workers makes what the first would have made, bit by bit.
    grows = state is None or len(rows) > len(state.labels) or not state.workers
    workers = budget.workers if grows or state is None else state.workers
    given = side
    side = given or smaller_tile(
        choose_tile(
            len(rows),
            replace(budget, workers=workers),
            pair_products(present_layers, directions=options.directions),
            stored_bytes(measures),
            len(measures) + len(details) + 1,
        ),
        details,
    )
    # One that began small has small tiles: a task takes several, up to where there would be far too many files.
    outgrown = state is not None and len(rows) > len(state.labels) and side >= OUTGROWN * state.tile
    step = min(SMALL_TILE, side) if state is None or outgrown else state.tile
    side = step * max(1, side // step)
    side = given or tile_by_samples(present_layers, step, side, workers, options, shared=not budget.in_parts)
    side = given or tile_on_device(len(rows), step, side, workers, measures, budget)
    tile = side if state is None or outgrown else state.tile
    places = [present.get(label, -1) for label in order]
    missing = find_missing(selected, places, state, changed, side, lacking=lacking)
    wanted, subspaces = _wanted(rows, readings, missing, index, parameters, need)
    kept = set(range(len(known))) - set(changed) if state is not None and state.workers else set()
    packs = plan_subspaces(
        list(wanted.values()),
        budget,
        parts=state.parts if state is not None else {},
        settled={key for number in kept for key in subspaces[number].values()},
        chunk_samples=chunk_samples,
        precision=parameters.precision,
        with_loadings=need.loadings,
        orthonormal=need.orthonormal,
        kernels=need.kernels,
        share=need.share,
    )
    made = {member.key: (pack.name, place) for pack in packs for place, member in enumerate(pack.members)}
    groups = tuple(
        GroupTask(
            number,
            tuple(
                tuple(
                    SubspacePlace(*(made.get(key) or need.place(index, key)), fold, relation)
                    for (fold, relation), key in subspaces[row].items()
                )
                for row in range(start, min(start + side, len(rows)))
            ),
        )
        for number, start in enumerate(range(0, len(rows), side))
    )
    tiles = _tiles(missing, layers, options, budget, workers)
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
        tile_bytes=max((task.worker_bytes(shared=budget.device_memory is None) for task in tiles), default=0),
        device=budget.device,
        device_memory=budget.device_memory,
        fallback=budget.fallback,
        device_bytes=max((task.on.peak for task in tiles if task.on is not None), default=0),
        workers=workers,
        parts={
            **({} if state is None else state.parts),
            **{member.key: pack.parts for pack in packs if pack.parts > 1 for member in pack.members},
        },
    )


def _check_samples(
    measures: Sequence[Measure], items: Sequence[Representation | None], readings: Sequence[Reading | None]
) -> None:
    """Refuse a measure of the samples among one another that has too few of them, or one of neurons with too many."""
    known = [
        (item, reading)
        for item, reading in zip(items, readings, strict=True)
        if item is not None and reading is not None
    ]
    if not known:
        return
    widest, read = max(known, key=lambda one: one[1].neurons(one[0].shape[-1]))
    neurons = read.neurons(widest.shape[-1])
    for measure in measures:
        if measure.related is not None:
            measure.related.relation.check(measure.name, min(reading.samples(item.shape[0]) for item, reading in known))
        if 0 < measure.most_neurons < neurons:
            raise InvalidActivationsError(
                f"{measure.name} matches neurons one by one, up to {measure.most_neurons:,} of a layer, and "
                f"{widest.label!r} has {neurons:,}. Compare it by other measures, or read layers so that they have "
                f"fewer (conv=, sequence=)"
            )


def _relation_key(item: Representation, reading: Reading, relation: Relation) -> str:
    return relation_key(subspace_key(item.identity, reading.in_one_block.identity), relation.identity)


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
) -> tuple[dict[str, Wanted], list[dict[tuple[Grid, str], str]]]:
    """Subspaces and relations to make, by key; and for each row the keys of its own.

    By the grid that the row is folded on, and the identity of a relation.
    """
    grids = [() if reading is None else reading.grid for reading in readings]
    folds: dict[int, tuple[Grid, ...]] = {}
    if parameters.match == "fold" and need.subspaces:
        folds = needed_folds(grids, missing.with_any)
    wanted: dict[str, Wanted] = {}
    subspaces: list[dict[tuple[Grid, str], str]] = []
    for number, (row, reading) in enumerate(zip(rows, readings, strict=True)):
        keys: dict[tuple[Grid, str], str] = {}
        if row.representation is not None and reading is not None and missing.needed[number]:
            own: list[tuple[Grid, Reading]] = [((), reading)] if need.subspaces else []
            if isinstance(reading, Fourier) and need.subspaces:
                own += [(grid, reading.folded(grid)) for grid in folds.get(number, ())]
            for grid, folded in own:
                key = keys[grid, ""] = subspace_key(row.representation.identity, folded.identity)
                if not need.is_met(index, key):
                    wanted.setdefault(key, Wanted(row.representation, folded, key, need.source(index, key)))
            for relation in need.relations:
                key = keys[(), relation.identity] = _relation_key(row.representation, reading, relation)
                if index is None or key not in index.records:
                    found = Wanted(row.representation, reading.in_one_block, key, relation=relation)
                    wanted.setdefault(key, found)
        subspaces.append(keys)
    return wanted, subspaces


def _share(measures: Sequence[Measure], details: Sizes, variance: float | None) -> float:
    """Share of the variance up to which directions are asked for; single correlations ask for more precision."""
    if variance is None or details or needs_loadings(measures) or not leading_only(measures):
        return 1.0
    return variance


@dataclass(frozen=True, slots=True)
class _Need:
    """What measures need of a subspace."""

    loadings: bool
    orthonormal: bool
    kernels: bool
    share: float
    subspaces: bool
    relations: tuple[Relation, ...]

    def is_met(self, index: SubspaceIndex | None, key: str) -> bool:
        """Whether a subspace is there that says enough."""
        record = None if index is None else self._record(index, key)
        if record is None:
            return False
        entry = record.entry
        enough = (entry.with_loadings or not self.loadings) and (entry.orthonormal or not self.orthonormal)
        if not entry.orthonormal:
            # Samples of more neurons serve to make their inner products, or directions.
            enough = enough and (self.kernels if entry.is_kernel else entry.directions <= entry.samples)
        return bool(entry.problem) or (enough and entry.share >= self.share)

    def place(self, index: SubspaceIndex | None, key: str) -> tuple[str, int]:
        """Pack of a subspace, and its place there."""
        record = None if index is None else self._record(index, key)
        if record is None:
            raise RuntimeError(f"the subspace {key!r} is neither there nor planned")
        return record.pack, record.position

    def _record(self, index: SubspaceIndex, key: str) -> SubspaceRecord | None:
        record = index.records.get(key)
        if record is None or self.orthonormal:
            return record
        # Leading directions do not say what samples do.
        other = index.raw.get(key) if record.entry.share < 1 else record
        return index.kernels.get(key, other) if self.kernels else other

    def source(self, index: SubspaceIndex | None, key: str) -> SubspaceRecord | None:
        """Samples that are stored as they are, where that is enough to make it."""
        return None if index is None else index.raw.get(key)


def _tiles(
    missing: MissingPairs, layers: Sequence[Layer | None], options: TileOptions, budget: Budget, workers: int
) -> tuple[TileTask, ...]:
    side = missing.side
    groups = [layers[start : start + side] for start in range(0, len(layers), side)]
    kinds, length = [by_kind(group) for group in groups], min(side, len(layers))
    places, room = missing.with_itself(), Room.of(budget)
    available = room.device if room is not None and room.shared else budget.available
    device = math.inf if room is None else room.device
    memory = limits_by_tile(kinds, places, lambda a, b: tile_limits(a, b, length, options, available, device))
    largest = max(missing.tiles, key=lambda place: memory[place].peak, default=None)
    if largest is None:
        return ()
    widest = max(
        (layer for group in largest for kind in kinds[group] for layer in kind), key=lambda layer: layer.directions
    )
    # A tile takes more than is available only where its widest pair alone does.
    budget.check(
        pair_of(widest),
        memory[largest].peak,
        "a reading with fewer neurons (conv=, sequence=)",
    )
    on: dict[tuple[int, int], TileMemory] = {}
    if room is not None and options.directions:
        on = limits_by_tile(kinds, places, lambda a, b: device_limits(a, b, options, room))
        # Inner products of samples are cut alike on both.
        on = {place: limits for place, limits in on.items() if not memory[place].by_samples}
        for place, limits in on.items():
            check_pair(widest, memory[place], limits, budget)
    shares: dict[tuple[int, int], int] = {}
    if not budget.in_parts and not relations_of(options.measures):
        by_samples = [place for place in missing.tiles if memory[place].by_samples]
        shares = gram_shares(by_samples, groups, workers)
    return tuple(
        TileTask(
            row=row,
            column=column,
            side=side,
            selected=bits,
            details=dict(options.details),
            memory=memory[row, column],
            on=on.get((row, column)),
            shares=shares.get((row, column), 1),
        )
        for (row, column), bits in missing.tiles.items()
    )
