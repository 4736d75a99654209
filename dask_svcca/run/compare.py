"""Compare a zoo: from a plan to a finished comparison. What people call is in `dask_svcca.coarse.compare`."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from zarr.storage import MemoryStore

from dask_svcca.devices.names import parse_device
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.run.arrays import open_source
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.failures import record_failures, run_all
from dask_svcca.run.leases import Leases
from dask_svcca.run.outcome import Outcome, Tally
from dask_svcca.run.space import naming_the_store
from dask_svcca.run.steps import finish, job_of, plan_of, unusual_readings
from dask_svcca.run.stores import Stores, choose_mask
from dask_svcca.run.waves import places_of, waves_of
from dask_svcca.stores import _io
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.subspaces import gather
from dask_svcca.tasks import perform, release

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import distributed

    from dask_svcca.plan.parameters import Mask, Parameters
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.plan.tasks import Report
    from dask_svcca.run.arrays import Arrays
    from dask_svcca.run.executors import Executor
    from dask_svcca.run.outcome import Progress
    from dask_svcca.run.waves import Wave
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.comparison import ComparisonStore
    from dask_svcca.stores.estimates import Likeness
    from dask_svcca.stores.subspaces import SubspaceStore
    from dask_svcca.stores.zoo import Zoo


def asked_for(
    zoo: Zoo | Arrays | StoreLike,
    store: StoreLike | None,
    measures: str | Iterable[str],
    mask: Mask,
    dims: Mapping[Any, Sequence[str]] | None,
    subspaces: StoreLike | None,
    client: distributed.Client | None,
    device: str,
    storage_options: Mapping[str, Any] | None,
    parameters: Mapping[str, Any],
) -> tuple[Zoo, StoreLike, Parameters, DaskExecutor, StoreLike | None]:
    """Zoo, store, parameters, executor and subspaces that arguments of `plan_comparison` stand for."""
    device = parse_device(device)
    source = open_source(with_options(zoo, storage_options), dims)
    place = MemoryStore() if store is None else with_options(store, storage_options)
    subspaces = with_options(subspaces, storage_options)
    options = make_parameters(measures, mask=choose_mask(source, mask), **parameters)
    executor = DaskExecutor(client, "", in_memory=_in_memory(source, place, subspaces), device=device)
    return source, place, options, executor, subspaces


def budget_for(
    client: distributed.Client | None,
    zoo: Zoo,
    store: StoreLike,
    subspaces: StoreLike | None = None,
    device: str = "cpu",
) -> Budget:
    """Budget of a run that Dask does, with a client or without."""
    return DaskExecutor(client, "", in_memory=_in_memory(zoo, store, subspaces), device=device).budget


def plan_run(
    zoo: Zoo,
    store: StoreLike,
    parameters: Parameters,
    budget: Budget,
    *,
    pairs: Pairs = "all",
    subspaces: StoreLike | None = None,
    drop_left: bool = False,
) -> Plan:
    """What `run_comparison` would do within a budget; nothing is written."""
    _check_drop_left(drop_left)
    stores = Stores.open(zoo, store, parameters, subspaces, mode="r", drop_left=drop_left)
    return plan_of(stores, pairs, budget)


@naming_the_store
def run_comparison(
    zoo: Zoo,
    store: StoreLike,
    parameters: Parameters,
    *,
    pairs: Pairs = "all",
    subspaces: StoreLike | None = None,
    drop_left: bool = False,
    wait: bool = False,
    likeness: Likeness | None = None,
    client: distributed.Client | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Compare as `compare` does, by what the zoo object has read of its index, and return what became of it.

    Parameters
    ----------
    zoo, store, parameters, subspaces, drop_left, wait, client, device
        See `compare`.
    pairs : str, boolean matrix, or Selection
        See `dask_svcca.plan.selection.select_pairs`.
    likeness : Likeness, optional
        What is known of the pairs before: those that are most alike are compared first.
    executor : Executor, optional
        What runs the tasks, in place of Dask with this client and device.
    progress : callable, optional
    """
    _check_drop_left(drop_left)
    started, forgotten, mended, computed, settled = time.perf_counter(), set[str](), False, 0, 0
    dropped: tuple[str, ...] = ()
    # What draws bars can say for whom it waits, too; what reports of a job knows that it was asked to end.
    with Leases(wait=wait, told=getattr(progress, "say", None), check=getattr(progress, "check", None)) as leases:
        while True:
            run = uuid.uuid4().hex[:12]
            chosen = executor or DaskExecutor(client, run, in_memory=_in_memory(zoo, store, subspaces), device=device)
            stores = Stores.open(zoo, store, parameters, subspaces, mode="r+", drop_left=drop_left, leases=leases)
            # Asked for once: at the end of a run there may be no worker left to ask about.
            budget = chosen.budget
            plan = plan_of(stores, pairs, budget)
            # What another round would find removed already.
            dropped = dropped or plan.dropped
            # Only now: a plan that is refused must not leave a store with its parameters behind.
            prepared = stores.prepare(plan, leases)
            if prepared is None:
                continue
            comparison, packs = prepared
            # What this call did before it found damage is not what was there before.
            plan = replace(plan, pairs_done=plan.pairs_done - computed - settled, dropped=dropped)
            outcome = Outcome(plan, computed=computed, settled=settled, readings=unusual_readings(plan, parameters))
            waves = [] if likeness is None else waves_of(plan, likeness, places_of(plan, zoo), budget.workers)
            try:
                tally = _run(outcome, comparison, packs, leases, parameters, zoo, run, chosen, progress, waves)
            finally:
                outcome.seconds = time.perf_counter() - started
                if outcome.computed > computed:
                    leases.check()
                    comparison.add_run(outcome.timing(budget.workers))
            damaged = tally.damaged
            # Pairs that turned out to be damaged beside those of the plan are compared now, too: once, for a disk may
            # lose them again.
            if not (damaged or (tally.has_lost and not mended)) or packs is None:
                if plan.packs and packs is not None:
                    gather(packs)
                leases.sweep(used=plan.tasks > 0)
                return outcome
            # What can only be read cannot be made anew there.
            again = sorted(damaged.keys() if packs.root.read_only else damaged.keys() & forgotten)
            if again:
                raise damaged[again[0]]
            # They cost what is in them: that is made anew, and all that is finished stays.
            for name in sorted(damaged):
                packs.forget(name)
            forgotten |= damaged.keys()
            mended |= tally.has_lost
            computed, settled = outcome.computed, outcome.settled


def _run(
    outcome: Outcome,
    comparison: ComparisonStore,
    packs: SubspaceStore | None,
    leases: Leases,
    parameters: Parameters,
    zoo: Zoo,
    run: str,
    executor: Executor,
    progress: Progress | None,
    waves: Sequence[Wave],
) -> Tally:
    """Run a plan, and add to its outcome what becomes of it."""
    plan = outcome.plan
    job = job_of(
        run,
        zoo,
        packs,
        comparison,
        parameters,
        measures=plan.measures,
        details=tuple(plan.details),
        settled=plan.settled,
        chunk_samples=plan.chunk_samples,
        device=plan.device,
        device_held=plan.device_held,
    )
    tally = Tally(outcome, progress)
    if plan.tiles and "correlations" in plan.details:
        comparison.resize_components(max(*plan.details["correlations"], *comparison.details["correlations"]))

    def take(_: str, report: Report) -> None:
        leases.check()
        tally.add(report)

    try:
        failures = run_all(executor, plan, partial(perform, job), take, waves)
        if failures:
            leases.check()
            outcome.failed, outcome.failures = record_failures(comparison, plan, failures)
            tally.problems |= failures.problems
    finally:
        release(run)
        leases.check()
        finish(outcome, tally, comparison, packs, parameters, zoo)
    return tally


def _check_drop_left(drop_left: object) -> None:
    """Refuse what is not a yes or no: a name would be taken for a yes, and all results dropped."""
    if not isinstance(drop_left, bool):
        raise ValueError(f"drop_left is True or False, for all that have left; got {drop_left!r}")  # noqa: TRY004


def _in_memory(zoo: Zoo, store: StoreLike, subspaces: StoreLike | None) -> bool:
    places = (zoo.root.store, store, *(() if subspaces is None else (subspaces,)))
    return any(map(_io.in_memory, places))
