"""What a comparison will take: from its plan, and from a few of its tasks, tried for seconds where it is to run."""

from __future__ import annotations

import dataclasses
import heapq
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.machine import own_time
from dask_svcca.measures import OwnMeasure
from dask_svcca.plan.parameters import ONLY_MASK
from dask_svcca.plan.process import process_bytes
from dask_svcca.plan.tasks import Node
from dask_svcca.plan.work import Amounts, Kept, Work, bytes_read, known_kept
from dask_svcca.run.compare import asked_for, plan_run
from dask_svcca.run.probe import Probed, Sample, probe, readings_of
from dask_svcca.stores import _io

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import distributed

    from dask_svcca.kernels._types import BoolArray
    from dask_svcca.plan.parameters import Mask, Parameters
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.readings import Reading
    from dask_svcca.run.arrays import Arrays
    from dask_svcca.run.executors import Executor
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo
    from dask_svcca.stores.zoo.index import Representation

NOMINAL_RATE: Final = 5e9
"""Multiplications, or bytes, a second, by which the size of a probe is chosen; what it finds replaces it."""

MEASURING_SECONDS: Final = 0.6
"""Work of a probe of a forecast, at the nominal rate."""

GLANCE_SECONDS: Final = 0.05
"""The same of a dry run."""

LEAST_EXAMPLES: Final = 256
"""Examples that a probe reads at least: with fewer, layers keep too few directions to tell."""

SCRATCH_SECONDS: Final = 0.01
"""Time that a probe takes for a representation beside making its subspace: reading it, and writing it anew."""

MOST_PROBES: Final = 4

EMPTY_TASKS: Final = 32
"""Tasks that do nothing, which a forecast has run for each worker, to see what a task costs beside its work."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a comparison will take, as far as it is not done already.

    Attributes
    ----------
    seconds : float
        From the call to the end, on workers that are there and have loaded what they need.
    core_hours : float
        Time of all workers.
    bytes_read, bytes_written : int
        Of activations; and of subspaces and results, before compression.
    memory : int
        Bytes that a worker process takes at most.
    workers : int
        That work at a time.
    stages : dict of str to float
        Seconds of all workers by stage, on cores of their own: ``pack covariance``, ``tile values`` and so on.
    """

    seconds: float
    core_hours: float
    bytes_read: int
    bytes_written: int
    memory: int
    workers: int
    stages: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "seconds": round(self.seconds, 1 if self.seconds < 100 else 0),
            "core_hours": round(self.core_hours, 5),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "memory": self.memory,
            "workers": self.workers,
            "stages": {name: round(seconds, 3) for name, seconds in sorted(self.stages.items())},
        }


class Pace:
    """How fast the tasks of a plan go here, as a probe of some of them found it.

    Parameters
    ----------
    zoo : Zoo
    plan : Plan
    parameters : Parameters
    executor : Executor
        Runs the probes: where the comparison is to run.
    seconds : float
        Of work, at the nominal rate, in each of them.
    in_memory : bool
        Whether the results are in memory.

    Attributes
    ----------
    busy : float
        How many times longer tasks take for others at work on the same cores.
    """

    def __init__(
        self,
        zoo: Zoo,
        plan: Plan,
        parameters: Parameters,
        executor: Executor,
        *,
        seconds: float,
        in_memory: bool = False,
    ) -> None:
        # Asked for once: a cluster is asked over its network.
        budget = executor.budget
        self.workers = budget.workers
        names = [measure.name for measure in plan.measures if not isinstance(measure, OwnMeasure)]
        asked = [name for name in names if name not in plan.settled] or names or ["svcca"]
        # Workers may not know a user's own measures by name.
        probed = dataclasses.replace(parameters, measures=tuple(asked))
        samples = _samples(zoo, plan, probed, budget, seconds, in_memory=in_memory)
        self.found: list[Probed] = []
        executor.run(
            {sample.key: Node(sample, reports=True, on_device=True) for sample in samples},
            probe,
            lambda _, found: self.found.append(found),
        )
        seconds_of, work_of = Amounts(), Amounts()
        for each in self.found:
            seconds_of.add(each.seconds)
            work_of.add(each.work)
        self.rates = {name: seconds_of[name] / amount for name, amount in work_of.items() if amount > 0}
        # What tasks take on a core of their own is steady; others that are at work on the machine are another matter.
        elapsed, own = (sum(getattr(each, name) for each in self.found) for name in ("elapsed", "own"))
        self.busy = max(1.0, elapsed / own) if own else 1.0
        self.task_seconds = _task_seconds(executor, self.workers) if samples else 0.0
        self._learnt = _Learnt(plan, self.found)

    def forecast(self, plan: Plan, parameters: Parameters, planning: float, workers: int | None = None) -> Forecast:
        """What a plan takes at this pace.

        Parameters
        ----------
        plan : Plan
        parameters : Parameters
        planning : float
            Seconds that it took to plan.
        workers : int, optional
            Another number of workers.
        """
        readings = readings_of(plan, parameters)
        kept = [
            None
            if row.representation is None or reading is None
            else self._learnt.kept(number, row.representation, reading)
            for number, (row, reading) in enumerate(zip(plan.rows, readings, strict=True))
        ]
        work = Work(plan, parameters, readings, kept)
        count = workers or self.workers
        stages: Amounts = Amounts()
        durations: list[float] = []
        for pack in plan.packs:
            amounts = self._seconds("pack", work.of_pack(pack))
            stages.add(amounts)
            durations += [sum(amounts.values()) / pack.parts] * pack.parts
        for tile in plan.tiles:
            amounts = self._seconds("tile", work.of_tile(tile))
            stages.add(amounts)
            durations += [sum(amounts.values()) / tile.shares] * tile.shares
        beside = max((each.beside for each in self.found), default=0.0)
        total = planning + self.busy * (beside + makespan(durations, count) + plan.tasks * self.task_seconds)
        scores = np.dtype(parameters.precision).itemsize
        subspaces = 0.0
        items = {row.label: (row.representation, own) for row, own in zip(plan.rows, kept, strict=True)}
        read = 0
        for pack in plan.packs:
            for member in pack.members:
                item, own = items[member.label]
                if item is None or own is None:
                    continue
                read += bytes_read(member, item.dtype.itemsize)
                wide = 2 if member.reading.is_complex else 1
                loadings = 8 * member.reading.neurons(member.shape[-1]) * member.with_loadings * member.orthonormal
                subspaces += own.stored * wide * (member.samples * scores + loadings)
                if pack.samples:
                    subspaces += member.reading.neurons(member.shape[-1]) * member.samples * scores
        return Forecast(
            seconds=total,
            core_hours=total * count / 3600,
            bytes_read=read,
            bytes_written=round(subspaces) + plan.results_to_write,
            memory=process_bytes(plan.device) + max(plan.subspace_bytes, plan.tile_bytes),
            workers=count,
            stages=dict(stages),
        )

    def _seconds(self, kind: str, amounts: Mapping[str, float]) -> dict[str, float]:
        return {f"{kind} {name}": amount * self.rates.get(f"{kind} {name}", 0.0) for name, amount in amounts.items()}


def forecast(
    zoo: Zoo | Arrays | StoreLike,
    store: StoreLike | None = None,
    *,
    measures: str | Iterable[str] = ("svcca",),
    mask: Mask = ONLY_MASK,
    pairs: Pairs = "all",
    dims: Mapping[Any, Sequence[str]] | None = None,
    subspaces: StoreLike | None = None,
    drop_left: bool = False,
    client: distributed.Client | None = None,
    device: str = "cpu",
    storage_options: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Forecast:
    """How long `compare` would take with the same arguments, and what it would read, write and hold.

    Tries a few of its tasks for some seconds, where it would run, in scratch stores; nothing is written to its own.

    Parameters
    ----------
    zoo, store, measures, mask, pairs, dims, subspaces, drop_left, client, device, storage_options
        As for `compare`.
    **parameters : object
        All other parameters of `compare`.

    Returns
    -------
    Forecast
        ``seconds``, ``core_hours``, ``bytes_read``, ``bytes_written``, ``memory`` (bytes of a worker), ``workers``, and
        ``stages``, seconds by stage. What is done already does not count. ``to_dict()`` has the same.

    Raises
    ------
    ParametersChangedError, MemoryLimitError, InvalidActivationsError, DeviceError
        As `compare` would.

    Examples
    --------
    >>> import numpy as np
    >>> found = forecast({"fc1": np.eye(50, 6), "fc2": np.eye(50, 8)})
    >>> found.bytes_read, found.seconds > 0
    (5600, True)
    """
    source, place, options, executor, subspaces = asked_for(
        zoo, store, measures, mask, dims, subspaces, client, device, storage_options, parameters
    )
    _, found, _ = forecast_run(source, place, options, executor, pairs=pairs, subspaces=subspaces, drop_left=drop_left)
    return found


def forecast_run(
    zoo: Zoo, store: StoreLike, parameters: Parameters, executor: Executor, *, glance: bool = False, **options: Any
) -> tuple[Plan, Forecast, Pace]:
    """What `dask_svcca.run.compare.run_comparison` would take; nothing is written to the stores.

    Parameters
    ----------
    zoo, store, parameters
    executor : Executor
        Runs the probes.
    glance : bool
        Whether a second's measuring is to do.
    **options : object
        Pairs, subspaces and ``drop_left``.
    """
    start = time.perf_counter()
    plan = plan_run(zoo, store, parameters, executor.budget, **options)
    planning = time.perf_counter() - start
    seconds = GLANCE_SECONDS if glance else MEASURING_SECONDS
    pace = Pace(zoo, plan, parameters, executor, seconds=seconds, in_memory=_io.in_memory(store))
    return plan, pace.forecast(plan, parameters, planning), pace


def makespan(durations: Sequence[float], workers: int) -> float:
    """Seconds until the last of some tasks is done, each taken by the first worker that is free.

    Examples
    --------
    >>> makespan([3.0, 1.0, 1.0, 1.0], 2), makespan([], 2)
    (3.0, 0.0)
    """
    free = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


class _Learnt:
    """Shares of directions that the representations of a probe keep, and those that others are taken to keep."""

    def __init__(self, plan: Plan, found: Sequence[Probed]) -> None:
        self._alike: dict[Any, list[int]] = {}
        self._shares = {row: share for each in found for row, share in each.shares.items()}
        self._stored = {row: share for each in found for row, share in each.stored.items()}
        for row in sorted(self._shares):
            item = plan.rows[row].representation
            if item is not None:
                self._alike.setdefault((item.dims, item.shape[1:]), []).append(row)

    def kept(self, row: int, item: Representation, reading: Reading) -> Kept:
        """Directions of a row, as the nearest row of the same shape has them, or else the nearest of all."""
        rows = self._alike.get((item.dims, item.shape[1:])) or sorted(self._shares)
        if not rows:
            return known_kept(reading, item.shape, np.ones(1))
        nearest = rows[int(np.argmin(np.abs(np.array(rows) - row)))]
        share = self._shares[nearest]
        blocks = len(reading.multiplicity)
        if len(share) != blocks:
            # The first frequency is the mean over positions.
            share = (
                share[:1] if blocks == 1 else np.interp(np.linspace(0, 1, blocks), np.linspace(0, 1, len(share)), share)
            )
        whole = known_kept(reading, item.shape, share)
        return dataclasses.replace(whole, stored=whole.stored * self._stored[nearest])


def _samples(
    zoo: Zoo, plan: Plan, parameters: Parameters, budget: Budget, seconds: float, *, in_memory: bool
) -> list[Sample]:
    """What to try: some of the plan's tiles, cut down to what takes so long."""
    if not plan.tiles:
        return []
    readings = readings_of(plan, parameters)
    kept = [
        None
        if row.representation is None or reading is None
        else known_kept(reading, row.representation.shape, np.full(1, 0.5))
        for row, reading in zip(plan.rows, readings, strict=True)
    ]
    work = Work(plan, parameters, readings, kept)
    cost = {(tile.row, tile.column): sum(work.of_tile(tile).values()) / NOMINAL_RATE for tile in plan.tiles}
    # Where the work is, spread over the plan.
    ends = np.cumsum(list(cost.values()))
    count = min(len(cost), MOST_PROBES if budget.workers > 2 else 2)
    chosen = {list(cost)[int(np.searchsorted(ends, ends[-1] * (part + 0.5) / count))] for part in range(count)}
    each = {
        member.label: sum(work.of_pack(dataclasses.replace(pack, members=(member,), parts=1)).values()) / NOMINAL_RATE
        for pack in plan.packs
        for member in pack.members
    }
    mask = None if parameters.mask is None else zoo.coords[parameters.mask]
    found = []
    for row, column in sorted(chosen):
        groups = [
            range(start * plan.side, min((start + 1) * plan.side, len(plan.rows))) for start in sorted({row, column})
        ]
        # The two groups make three tiles.
        share = min(1.0, (seconds / (2 * cost[row, column])) ** 0.5)
        side = max(2, round(plan.side * share))
        rows = [
            number
            for group in groups
            for number in np.unique(
                np.linspace(group[0], group[-1], min(side, len(group))).round().astype(int)
            ).tolist()
            if kept[number] is not None
        ]
        if not rows:
            continue
        sources, places, examples = _read_for(plan, rows, each, seconds)
        found.append(
            Sample(
                zoo=zoo.root.store_path,
                parameters=parameters,
                budget=budget,
                side=side,
                rows=tuple(rows),
                members=tuple(zip(_items(plan, rows), places, strict=True)),
                sources=tuple(_items(plan, sources)),
                examples=examples,
                mask=None if mask is None else mask[:examples],
                in_memory=in_memory,
                asked=_asked(plan, rows),
            )
        )
    return found


def _asked(plan: Plan, rows: Sequence[int]) -> BoolArray | None:
    """Pairs of some rows that the tiles of a plan ask for, (row, row); None where all or none are."""
    numbers, side = np.array(rows), plan.side
    asked = np.zeros((len(rows), len(rows)), dtype=np.bool_)
    groups = set((numbers // side).tolist())
    for tile in plan.tiles:
        if {tile.row, tile.column} <= groups:
            sizes = [min(side, len(plan.rows) - place * side) for place in (tile.row, tile.column)]
            a, b = (np.flatnonzero(numbers // side == place) for place in (tile.row, tile.column))
            asked[np.ix_(a, b)] = tile.pairs(sizes[0], sizes[1])[
                np.ix_(numbers[a] - tile.row * side, numbers[b] - tile.column * side)
            ]
    asked |= asked.T
    return asked if asked.any() and not asked.all() else None


def _items(plan: Plan, rows: Iterable[int]) -> list[Representation]:
    """Representations of some rows, but of those that have left the zoo."""
    return [item for row in rows if (item := plan.rows[row].representation) is not None]


def _read_for(
    plan: Plan, rows: Sequence[int], each: Mapping[str, float], seconds: float
) -> tuple[list[int], list[int], int]:
    """Which of some rows are read for all.

    Returns
    -------
    sources : list of int
        These rows.
    places : list of int
        For each of all rows, the place among them of that which it is taken to be like.
    examples : int
        Of how many examples they are read.
    """
    items = dict(zip(rows, _items(plan, rows), strict=True))
    kinds: dict[Any, list[int]] = {}
    for row, item in items.items():
        kinds.setdefault((item.dims, item.shape, item.dtype), []).append(row)
    # One of each kind, then others in turn.
    ordered = [
        row for turn in range(max(map(len, kinds.values()))) for own in kinds.values() for row in own[turn : turn + 1]
    ]
    usual = sum(each.values()) / len(each) if each else seconds / len(rows)
    costs = {row: each.get(items[row].label, usual) for row in ordered}
    least = sum(costs[row] for row in ordered[: len(kinds)])
    total = next(iter(items.values())).shape[0]
    examples = min(total, max(LEAST_EXAMPLES, round(total * min(1.0, seconds / least))))
    spent, sources = 0.0, list[int]()
    for row in ordered:
        spent += costs[row] * examples / total + SCRATCH_SECONDS
        if len(sources) >= len(kinds) and spent > seconds:
            break
        sources.append(row)
    place = {row: number for number, row in enumerate(sources)}
    places = []
    for row, item in items.items():
        alike = [other for other in kinds[item.dims, item.shape, item.dtype] if other in place]
        places.append(place[min(alike, key=lambda other: abs(other - row))])
    return sources, places, examples


def _nothing(number: int) -> int:
    """A task without work."""
    return number


def _task_seconds(executor: Executor, workers: int) -> float:
    """Seconds that a task takes of the run beside its work."""
    nodes = {f"empty-{number}": Node(number, reports=True) for number in range(EMPTY_TASKS * min(workers, 8))}
    start = own_time()
    executor.run(nodes, _nothing, lambda *_: None)
    return (own_time() - start) / len(nodes)
