"""A plan in parts that need no scheduler: each is a process of its own, and they meet in the store alone."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dask_svcca.devices.names import is_gpu, parse_device
from dask_svcca.errors import DeviceError, JobError, MemoryLimitError, StoreFormatError
from dask_svcca.plan.graph import nodes_of_pack
from dask_svcca.plan.on_device import device_bytes
from dask_svcca.plan.stored import from_json, to_json
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.tasks import SubspaceReport
from dask_svcca.run.failed import Failed
from dask_svcca.run.failures import name_of, span, without
from dask_svcca.run.graphs import attempt
from dask_svcca.run.leases import Leases
from dask_svcca.run.outcome import Outcome, Tally, timing
from dask_svcca.run.steps import finish, job_of, plan_of
from dask_svcca.run.stores import Stores
from dask_svcca.run.workers import place_here
from dask_svcca.stores import _chunked, _io
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import SubspaceStore
from dask_svcca.tasks import perform, release
from dask_svcca.tasks.worker import single_blas_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.plan.tasks import GroupTask, Job, PackTask, TileTask
    from dask_svcca.run.outcome import Progress
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo

T = TypeVar("T")

_GROUP: Final = "parts"
_FAILURES: Final = "failures"
_RUNS: Final = "runs"

WAIT_SECONDS: Final = 10.0
"""How long a part waits for subspaces that others make, while none comes, before it makes one of them itself."""

POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Parts:
    """What was planned, in parts.

    Attributes
    ----------
    count : int
    owners : dict of str to int
        The part that makes a pack, by its name.
    """

    count: int
    owners: dict[str, int]


def budget_of_parts(parts: int, memory: int, device: str) -> Budget:
    """Budget of so many processes, each with so many bytes, and with a device that need not be here."""
    with contextlib.suppress(DeviceError):
        placed = place_here(device, 1)
        return Budget(parts, memory, placed.device, placed.memory, in_parts=True, fallback=placed.fallback)
    return Budget(parts, memory, parse_device(device), in_parts=True)


def begin(
    zoo: Zoo,
    store: StoreLike,
    parameters: Parameters,
    *,
    parts: int,
    memory: int,
    pairs: Pairs = "all",
    subspaces: StoreLike | None = None,
    drop_left: bool = False,
    device: str = "cpu",
) -> Plan:
    """Make a comparison, and store what each part is to do; again, of what is missing now.

    Parameters
    ----------
    zoo, store, parameters, pairs, subspaces, drop_left
        See `dask_svcca.run.compare.run_comparison`.
    parts : int
        Number of processes.
    memory : int
        Bytes that each of them may take.
    device : str
        What they compute with, which need not be here: then ``memory`` bounds what they take of it.
    """
    budget = budget_of_parts(parts, memory, device)
    with Leases(wait=False, told=None) as leases:
        while True:
            stores = Stores.open(zoo, store, parameters, subspaces, mode="r+", drop_left=drop_left, leases=leases)
            plan = plan_of(stores, pairs, budget)
            prepared = stores.prepare(plan, leases)
            if prepared is not None:
                break
        comparison, _ = prepared
        if plan.tiles and "correlations" in plan.details:
            comparison.resize_components(max(*plan.details["correlations"], *comparison.details["correlations"]))
        # What parts have recorded of themselves goes with their documents.
        for record in runs_of_parts(comparison):
            comparison.add_run(record)
        _write(comparison, plan, budget)
    return plan


def runs_of_parts(comparison: ComparisonStore) -> list[dict[str, Any]]:
    """Where the time of parts went, of those that have computed pairs since they were planned: see `Outcome.timing`."""
    planned = _io.read_attributes(comparison.root, _GROUP) or {}
    documents = (_io.read_attributes(comparison.root, f"{_GROUP}/{part}") for part in range(planned.get("count", 0)))
    found = [record for document in documents for record in (document or {}).get(_RUNS, [])]
    return sorted(found, key=lambda record: str(record["finished"]))


def _write(comparison: ComparisonStore, plan: Plan, budget: Budget) -> None:
    parts = budget.workers
    owners = {pack.name: number % parts for number, pack in enumerate(plan.packs)}
    # Neighbours in the grid share subspaces.
    shares = [
        plan.tiles[len(plan.tiles) * part // parts : len(plan.tiles) * (part + 1) // parts] for part in range(parts)
    ]
    for part, tiles in enumerate(shares):
        groups = sorted({number for tile in tiles for number in (tile.row, tile.column)})
        document = {
            "packs": [to_json(pack) for pack in plan.packs if owners[pack.name] == part],
            "tiles": [to_json(tile) for tile in tiles],
            "groups": [to_json(plan.groups[number]) for number in groups],
        }
        _chunked.write_group(comparison.root, f"{_GROUP}/{part}", document)
    # Last: with it they count.
    _chunked.write_group(
        comparison.root,
        _GROUP,
        {
            "count": parts,
            "memory": budget.memory,
            "device": budget.device,
            "device_memory": budget.device_memory,
            "owners": owners,
            "details": list(plan.details),
            "settled": list(plan.settled),
            "chunk_samples": plan.chunk_samples,
        },
    )


class Part:
    """One part at work.

    Parameters
    ----------
    zoo : Zoo
    store : StoreLike
    parameters : Parameters
    number : int
    device : str
        What it computes with.

    Attributes
    ----------
    failures : dict of str to str
        What failed for good, with the reason; run again, it is tried again. Stored with the part, for `conclude`.
    on_cpu : list of str
        For each task that was computed on the CPU in the end since the device failed, why.

    Raises
    ------
    JobError
        Where there are no parts, or no such part.
    DeviceError
        Where the device is not there.
    MemoryLimitError
        Where it has less memory than a task was planned to take of it.
    """

    def __init__(self, zoo: Zoo, store: StoreLike, parameters: Parameters, number: int, *, device: str = "cpu") -> None:
        self._comparison = ComparisonStore.open(store, mode="r+")
        document = _io.read_attributes(self._comparison.root, _GROUP)
        if document is None:
            raise JobError(f"{_io.describe(store)!r} was not planned in parts: begin with init")
        try:
            self.parts = Parts(document["count"], document["owners"])
            plain = tuple(document["details"]), tuple(document["settled"]), int(document["chunk_samples"])
        except (KeyError, TypeError) as error:
            raise StoreFormatError(f"what was planned in {_io.describe(store)!r} is not readable: {error}") from None
        planned = str(document.get("device", "cpu"))
        # What was planned for the CPU alone is not known to fit on a GPU.
        self._placed = place_here(planned if device == "auto" else device, 1)
        if is_gpu(self._placed.device) and not is_gpu(planned):
            raise JobError(
                f"{_io.describe(store)!r} was planned for device={planned!r}, and this part is to compute with "
                f"{device!r}. Plan again with init"
            )
        if not 0 <= number < self.parts.count:
            raise JobError(f"there are parts 0 to {self.parts.count - 1}; got {number}")
        self._number = number
        self._labels = self._comparison.column("representation").tolist()
        self.failures: dict[str, str] = {}
        self.on_cpu: list[str] = []
        self._stages: dict[str, float] = {}
        self._bytes_read = 0
        self._on_cpu: dict[str, int] = {}
        self._lost: set[str] = set()
        place = self._comparison.subspaces
        self._packs = (
            SubspaceStore.open(place, mode="r+") if place else SubspaceStore.open_inside(self._comparison.root)
        )
        self._job = self._job_of(zoo, parameters, *plain)

    def _device_left(self) -> int:
        """Bytes that tiles leave of the device; those that were planned for more than it has are refused."""
        memory = self._placed.memory
        tiles = () if memory is None else self._tasks(self._number)["tiles"]
        needed = max((device_bytes(tile.memory_on(self._placed.device)) for tile in tiles), default=0)
        if memory is not None and needed > memory:
            raise MemoryLimitError(
                f"a tile of part {self._number} was planned to take {needed / 2**20:,.0f} MiB of the device "
                f"{self._placed.device!r}, and a task may take {memory / 2**20:,.0f} MiB of it. Plan again with init, "
                f"where that device is, or with less --memory"
            )
        return 0 if memory is None else memory - needed

    def _job_of(
        self, zoo: Zoo, parameters: Parameters, details: tuple[str, ...], settled: tuple[str, ...], chunk_samples: int
    ) -> Job:
        return job_of(
            f"part-{self._number}-{uuid.uuid4().hex[:8]}",
            zoo,
            self._packs,
            self._comparison,
            parameters,
            measures=parameters.records,
            details=details,
            settled=settled,
            chunk_samples=chunk_samples,
            device=self._placed.device,
            device_held=self._device_left(),
        )

    def run(self, progress: Progress | None) -> tuple[int, int]:
        """Do it. What is done already is left alone.

        Returns
        -------
        subspaces, pairs : int
            Made, and compared. What failed for good is in `failures`, and all else is done.
        """
        single_blas_thread()
        began = time.perf_counter()
        mine = self._tasks(self._number)
        made = pairs = 0
        try:
            done, asked = 0, sum(len(pack.members) for pack in mine["packs"])
            for pack in mine["packs"]:
                made += self._made(pack)
                done += len(pack.members)
                if progress is not None:
                    progress("subspaces", done, asked)
            groups: dict[int, GroupTask] = {group.number: group for group in mine["groups"]}
            for count, tile in enumerate(self._ready(mine["tiles"], groups), start=1):
                places = [without(groups[number], self._lost).places for number in (tile.row, tile.column)]
                report = self._attempt(
                    name_of(tile, self._labels), "compares them", partial(perform, self._job, tile, *places)
                )
                if report is not None and report.damage is not None:
                    raise report.damage
                pairs += 0 if report is None else report.computed
                self._note([report])
                if progress is not None:
                    progress("tiles", count, len(mine["tiles"]))
        finally:
            release(self._job.run)
            self._remember(time.perf_counter() - began, pairs)
        return made, pairs

    def _remember(self, seconds: float, pairs: int) -> None:
        """Store what failed, in place of what did before, and where the time went."""
        document = _io.read_attributes(self._comparison.root, f"{_GROUP}/{self._number}") or {}
        # A tile that was done before counts its pairs all the same, and writes nothing.
        worked = pairs > 0 and "write" in self._stages
        if worked or document.get(_FAILURES, {}) != self.failures:
            document[_FAILURES] = self.failures
            if worked:
                record: dict[str, Any] = {"part": self._number, "device": self._placed.device}
                if self.on_cpu:
                    record |= {"on_cpu": self._on_cpu, "device_failure": self.on_cpu[0]}
                record |= timing(seconds, self._stages, workers=1, pairs=pairs, bytes_read=self._bytes_read)
                document[_RUNS] = [*document.get(_RUNS, []), record]
            _chunked.write_group(self._comparison.root, f"{_GROUP}/{self._number}", document)

    def _attempt(self, what: str, does: str, work: Callable[[], T]) -> T | None:
        """What a task gives; None where it failed for good."""
        found = attempt(work)
        if isinstance(found, Failed):
            self.failures[what] = f"the task that {does} {found.reason}"
            return None
        return found

    def _made(self, pack: PackTask) -> int:
        """Make a pack, unless it is there, or cannot be made. Returns how many subspaces were made."""
        names = span([member.label for member in pack.members])
        made = self._attempt(f"the subspaces of {names}", "makes them", partial(self._make, pack))
        if made is None:
            self._lost.add(pack.name)
        return made or 0

    def _tasks(self, part: int) -> dict[str, Any]:
        document = _io.read_attributes(self._comparison.root, f"{_GROUP}/{part}") or {}
        return {name: from_json(document.get(name, [])) for name in ("packs", "tiles", "groups")}

    def _make(self, pack: PackTask) -> int:
        """Make a pack, unless it is there. Returns how many subspaces were made."""
        if self._packs.pack(pack.name) is not None:
            return 0
        results: dict[str, Any] = {}
        for key, node in nodes_of_pack(pack).items():
            results[key] = perform(self._job, node.task, *(results[needed] for needed in node.needs))
        self._note(results[pack.key])
        return len(pack.members)

    def _note(self, reports: Iterable[Any]) -> None:
        for report in reports:
            if report is None:
                continue
            made = isinstance(report, SubspaceReport)
            for name, seconds in report.seconds.items():
                self._stages[name] = self._stages.get(name, 0.0) + seconds
            self._bytes_read += report.read if made else 0
            if report.device_failure:
                stage = "subspaces" if made else "tiles"
                self._on_cpu[stage] = self._on_cpu.get(stage, 0) + 1
                self.on_cpu.append(report.device_failure)

    def _ready(self, tiles: tuple[TileTask, ...], groups: dict[int, GroupTask]) -> Iterator[TileTask]:
        """Tiles, each when its subspaces are there; while none is, this part helps others to make them."""
        needed = {
            tile.key: {
                place.pack
                for number in (tile.row, tile.column)
                for member in groups[number].places
                for place in member
                if place.pack in self.parts.owners
            }
            for tile in tiles
        }
        there: set[str] = set()
        waiting, since = {tile.key: tile for tile in tiles}, time.monotonic()
        while waiting:
            unknown = set(itertools.chain.from_iterable(needed[key] for key in waiting)) - there
            there |= unknown & self._lost
            unknown -= self._lost
            found = {name for name in unknown if self._packs.pack(name) is not None}
            there |= found
            ready = [key for key in waiting if needed[key] <= there]
            for key in ready:
                yield waiting.pop(key)
            if found or ready:
                since = time.monotonic()
            elif time.monotonic() - since < WAIT_SECONDS:
                time.sleep(POLL_SECONDS)
            elif waiting:
                # Nobody has made one for a while: others may not have begun.
                name = random.choice(sorted(unknown - there))  # noqa: S311
                for pack in self._tasks(self.parts.owners[name])["packs"]:
                    if pack.name == name:
                        self._made(pack)
                        there.add(name)


def conclude(
    zoo: Zoo,
    store: StoreLike,
    parameters: Parameters,
    *,
    pairs: Pairs = "all",
    subspaces: StoreLike | None = None,
) -> tuple[Outcome, list[int]]:
    """Write what the parts have found out about representations, and see which parts are not finished.

    Returns
    -------
    outcome : Outcome
        Its failures are those that kept parts from finishing.
    unfinished : list of int
        Numbers of parts that have left tiles.
    """
    with Leases(wait=False, told=None) as leases:
        stores = Stores.open(zoo, store, parameters, subspaces, mode="r+", leases=leases)
        if stores.comparison is None:
            raise JobError(f"there is no comparison at {_io.describe(store)!r}: begin with init")
        document = _io.read_attributes(stores.comparison.root, _GROUP)
        if document is None:
            raise JobError(f"{_io.describe(store)!r} was not planned in parts: begin with init")
        budget = Budget(
            document["count"],
            document["memory"],
            document.get("device", "cpu"),
            document.get("device_memory"),
            in_parts=True,
        )
        plan = plan_of(stores, pairs, budget)
        outcome = Outcome(plan)
        finish(outcome, Tally(outcome, None), stores.comparison, stores.subspaces, parameters, zoo)
        left = {(tile.row, tile.column) for tile in plan.tiles}
        unfinished = []
        for part in range(document["count"]):
            mine = _io.read_attributes(stores.comparison.root, f"{_GROUP}/{part}") or {}
            if any((tile.row, tile.column) in left for tile in from_json(mine.get("tiles", []))):
                unfinished.append(part)
                outcome.failures |= mine.get(_FAILURES, {})
        if not left:
            stores.comparison.consolidate()
    return outcome, unfinished
