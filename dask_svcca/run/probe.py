"""Tries a plan's tasks on a few of its representations, in scratch stores, and takes their time."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from dask_svcca.kernels.lanes import LEAST_PAIRS, singular_values_abreast
from dask_svcca.machine import own_time
from dask_svcca.measures import leading_only
from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.selection import select_pairs
from dask_svcca.plan.tasks import PackTask, PartTask, ShareTask, TileTask
from dask_svcca.plan.work import Amounts, Kept, Work, known_kept
from dask_svcca.readings import choose_reading
from dask_svcca.run.leases import Leases
from dask_svcca.run.outcome import Outcome, Tally
from dask_svcca.run.steps import finish, job_of
from dask_svcca.run.stores import Stores
from dask_svcca.stores._chunked import ChunkReader
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo import create_zoo, frame_of
from dask_svcca.tasks import perform, release

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import BoolArray, FloatArray
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.plan.tasks import Job
    from dask_svcca.readings import Reading
    from dask_svcca.stores.subspaces import SubspaceStore
    from dask_svcca.stores.zoo import Representation


@dataclass(frozen=True, slots=True)
class Sample:
    """What a probe is given.

    Attributes
    ----------
    zoo : zarr.storage.StorePath
    parameters : Parameters
    budget : Budget
    side : int
        Representations along each axis of a tile.
    rows : tuple of int
        Rows of the plan whose tiles are tried.
    members : tuple of (Representation, int)
        For each of these rows, the representation, and the place in ``sources`` of the one that it is taken to be like.
    sources : tuple of Representation
        Those that are read.
    examples : int
        Of how many examples.
    mask : (example, token), optional
    in_memory : bool
        Whether results go to memory.
    asked : (row, row), optional
        Pairs that the plan asks for, symmetric; by default all.
    """

    zoo: Any
    parameters: Parameters
    budget: Budget
    side: int
    rows: tuple[int, ...]
    members: tuple[tuple[Representation, int], ...]
    sources: tuple[Representation, ...]
    examples: int
    mask: npt.NDArray[Any] | None = None
    in_memory: bool = False
    asked: BoolArray | None = None

    @property
    def key(self) -> str:
        """Name of the task."""
        return f"probe-{self.rows[0]}-{self.rows[-1]}"


@dataclass
class Probed:
    """What a probe found.

    Attributes
    ----------
    seconds, work : Amounts
        By stage, of the tasks that were tried: ``pack read``, ``tile values`` and so on.
    beside : float
        Seconds of planning and writing around the tasks.
    elapsed, own : float
        Seconds of the whole probe: of the clock on the wall, and without waiting for cores that others have.
    shares : dict of int to (block,)
        By row of the plan, the share of the directions that tiles compare; of the sources alone.
    stored : dict of int to float
        Share of the directions that are stored.
    """

    seconds: Amounts = field(default_factory=Amounts)
    work: Amounts = field(default_factory=Amounts)
    beside: float = 0.0
    elapsed: float = 0.0
    own: float = 0.0
    shares: dict[int, FloatArray] = field(default_factory=dict)
    stored: dict[int, float] = field(default_factory=dict)


def _kind_of(task: object) -> str:
    """Of which kind a task is, as stages are named."""
    if isinstance(task, TileTask | ShareTask):
        return "tile"
    return "pack" if isinstance(task, PackTask | PartTask) else ""


def probe(sample: Sample) -> Probed:
    """Try the tasks of two groups of representations, and take their time; nothing is written but scratch stores."""
    found = Probed()
    root = zarr.open_group(sample.zoo, mode="r", zarr_format=3, use_consolidated=False)
    began, start = time.perf_counter(), own_time()
    own = start
    arrays = [_read(root, item, sample.examples) for item in sample.sources]
    reading = own_time() - start
    with tempfile.TemporaryDirectory() as folder, Leases(wait=False, told=None) as leases:
        coords = {} if sample.mask is None else {sample.parameters.mask: (("example", "token"), sample.mask)}
        scratch = create_zoo(str(Path(folder) / "zoo.zarr"), examples=range(sample.examples), coords=coords or None)  # type: ignore[arg-type]
        first: dict[int, int] = {}
        with scratch:
            for number, (item, source) in enumerate(sample.members):
                if source not in first:
                    # In the order of the plan, whatever they are called there.
                    first[source] = number
                    precision = sample.sources[source].source_dtype
                    scratch.write(*_name(number), arrays[source], dims=item.dims, step=number, source_dtype=precision)
        entries = {int(item.name.checkpoint): item for item in scratch.entries()}
        # The others are the same arrays by other names: made once, compared as often as there are such in the plan.
        members = [
            replace(entries[first[source]], name=RepresentationName(*_name(number)), step=float(number))
            for number, (_, source) in enumerate(sample.members)
        ]
        del arrays
        place: Any = MemoryStore() if sample.in_memory else str(Path(folder) / "comparison.zarr")
        start = own_time()
        stores = Stores.open(scratch, place, sample.parameters, None, mode="r+", leases=leases)
        selected = select_pairs("all" if sample.asked is None else sample.asked, frame_of(members))
        plan = make_plan(members, selected, None, None, sample.parameters, sample.budget, side=sample.side)
        prepared = stores.prepare(plan, leases)
        assert prepared is not None  # noqa: S101 - nobody else knows of this place
        comparison, packs = prepared
        job = job_of(
            f"probe-{id(sample)}",
            scratch,
            packs,
            comparison,
            sample.parameters,
            measures=plan.measures,
            details=tuple(plan.details),
            settled=(),
            chunk_samples=plan.chunk_samples,
            device=plan.device,
            device_held=plan.device_held,
        )
        tally = Tally(Outcome(plan), None)
        try:
            working = _try_tasks(found, job, plan, tally)
        finally:
            release(job.run)
        finish(Outcome(plan), tally, comparison, packs, sample.parameters, scratch)
        found.beside = own_time() - start - working
        found.seconds["pack read"] = reading
        if packs is not None:
            _take_work(found, sample, plan, packs)
    found.elapsed, found.own = time.perf_counter() - began, own_time() - own
    return found


def _try_tasks(found: Probed, job: Job, plan: Plan, tally: Tally) -> float:
    """Do all tasks of a plan, and take their time by stage. Returns the seconds of all."""
    results: dict[str, Any] = {}
    working = 0.0
    for key, node in plan.nodes.items():
        if isinstance(node.task, TileTask) and job.parameters.precision == "float32":
            # What is loaded once, or compiled once in the life of an installation, is not a tile's work.
            singular_values_abreast(np.ones((LEAST_PAIRS, 2, 2)))
        kind, began = _kind_of(node.task), own_time()
        results[key] = perform(job, node.task, *(results[needed] for needed in node.needs))
        took = own_time() - began
        working += took
        if node.reports:
            tally.add(results[key])
            for report in results[key] if isinstance(results[key], list) else [results[key]]:
                found.seconds.add(report.seconds, kind)
                took -= sum(report.seconds.values())
        found.seconds.add({"beside": took}, kind)
    return working


def _name(number: int) -> tuple[str, str, str]:
    return "probe", f"{number:06}", "layer"


def _read(root: zarr.Group, item: Representation, examples: int) -> npt.NDArray[Any]:
    """The first examples of a representation."""
    reader = ChunkReader(root, f"{item.place}/activations")
    parts, there = [], 0
    for chunk in range(reader.chunks):
        parts.append(reader.read(chunk))
        there += len(parts[-1])
        if there >= examples:
            break
    return np.concatenate(parts)[:examples]


def readings_of(plan: Plan, parameters: Parameters) -> list[Reading | None]:
    """How each row of a plan is read."""
    known: dict[Any, Reading] = {}
    readings: list[Reading | None] = []
    for row in plan.rows:
        item = row.representation
        if item is None:
            readings.append(None)
            continue
        key = item.dims, item.shape
        if key not in known:
            known[key] = choose_reading(item.dims, item.shape, parameters.reading)
        readings.append(known[key])
    return readings


def _take_work(found: Probed, sample: Sample, plan: Plan, packs: SubspaceStore) -> None:
    """What these tasks were, and how many directions the representations that were read have."""
    index = packs.read_index()
    readings, kept = readings_of(plan, sample.parameters), list[Kept | None]()
    leading = leading_only(plan.measures)
    known = set[int]()
    for number, (row, reading) in enumerate(zip(plan.rows, readings, strict=True)):
        record = index.records.get(row.key) or index.raw.get(row.key)
        if record is None or record.entry.problem or reading is None or row.representation is None:
            kept.append(None)
            continue
        spectrum, entry = index.spectrum(record), record.entry
        chosen = np.ones(len(spectrum), dtype=bool)
        if leading:
            chosen = entry.kept(spectrum, sample.parameters.variance)
        blocks = len(reading.multiplicity)
        compared = np.bincount(entry.block[chosen], minlength=blocks).astype(float)
        kept.append(Kept(compared, float(len(spectrum))))
        source = sample.members[number][1]
        if source not in known:
            known.add(source)
            most = known_kept(reading, row.representation.shape, np.ones(1))
            found.shares[sample.rows[number]] = compared / most.compared
            found.stored[sample.rows[number]] = len(spectrum) / most.stored
    work = Work(plan, sample.parameters, readings, kept)
    for pack in plan.packs:
        found.work.add(work.of_pack(pack), "pack")
    for tile in plan.tiles:
        found.work.add(work.of_tile(tile), "tile")
