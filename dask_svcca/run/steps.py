"""What a run is made of, whoever runs it: its plan, what its tasks are given, and what is written at its end."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dask_svcca import machine
from dask_svcca.dims import TOKEN
from dask_svcca.errors import DamagedSubspacesError, InvalidActivationsError
from dask_svcca.measures import find_measures
from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.selection import finals_of, select_pairs
from dask_svcca.plan.tasks import Job
from dask_svcca.run.describe import describe
from dask_svcca.run.outcome import SAMPLES_PER_DIRECTION
from dask_svcca.run.space import check_space

if TYPE_CHECKING:
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.run.outcome import Outcome, Tally
    from dask_svcca.run.stores import Stores
    from dask_svcca.stores.comparison import ComparisonStore
    from dask_svcca.stores.subspaces import SubspaceStore
    from dask_svcca.stores.zoo import Zoo


@machine.collecting_later()
def plan_of(stores: Stores, pairs: Pairs, budget: Budget) -> Plan:
    """Plan of what a store lacks, within a budget.

    Raises
    ------
    InvalidActivationsError
        Where the zoo is empty.
    DiskSpaceError
        Where the disk has less room than the plan writes.
    """
    zoo, parameters = stores.zoo, stores.parameters
    if not len(zoo):
        unfinished = f"; {len(zoo.unfinished)} are unfinished" if zoo.unfinished else ""
        unfinished += "".join(f". {sentence}" for sentence in zoo.damaged.values())
        raise InvalidActivationsError(
            f"the zoo {str(zoo.root.store_path)!r} has no complete representation{unfinished}. Capture some first"
        )
    representations = zoo.representations
    selected = select_pairs(pairs, representations)
    plan = make_plan(zoo.entries(), selected, stores.state, stores.read_index(), parameters, budget)
    check_space(plan, stores.store, stores.place)
    return replace(plan, final=finals_of(pairs, representations), dropped=tuple(stores.dropped.values()))


def job_of(
    run: str,
    zoo: Zoo,
    packs: SubspaceStore | None,
    comparison: ComparisonStore,
    parameters: Parameters,
    **planned: Any,
) -> Job:
    """What all tasks of a run are given."""
    return Job(
        run=run,
        zoo=zoo.root.store_path,
        subspaces=None if packs is None else packs.root.store_path,
        comparison=comparison.root.store_path,
        parameters=parameters,
        **planned,
    )


def finish(
    outcome: Outcome,
    tally: Tally,
    comparison: ComparisonStore,
    packs: SubspaceStore | None,
    parameters: Parameters,
    zoo: Zoo,
) -> None:
    """Write what is known of representations now, and add it to the outcome."""
    plan = outcome.plan
    numbers: dict[str, tuple[int, int]] = {}
    try:
        outcome.problems, numbers = describe(
            comparison,
            plan.rows,
            packs,
            tally.problems,
            parameters.variance,
            # What was computed may have found directions that no measure asks for.
            directions=plan.orthonormal or bool(plan.tiles),
        )
        outcome.problems |= {name.label: problem for name, problem in zoo.damaged.items()}
    except DamagedSubspacesError as error:
        if not error.pack:
            raise
        tally.damaged[error.pack] = error
    if any(measure.saturates != "never" for measure in plan.measures):
        outcome.few_samples = {
            label: (samples, rank)
            for label, (samples, rank) in numbers.items()
            if samples < SAMPLES_PER_DIRECTION * rank
        }
    outcome.left = plan.left
    comparison.set_left(outcome.left)


def unusual_readings(plan: Plan, parameters: Parameters) -> dict[str, frozenset[str]]:
    """Measures asked for whose papers read convolutional layers in another way."""
    layers = (row.representation for row in plan.rows)
    shapes = [item.shape for item in layers if item is not None and TOKEN not in item.dims]
    if all(math.prod(shape[1:-1]) == 1 for shape in shapes):
        return {}
    return {
        measure.name: frozenset(measure.readings)
        for measure in find_measures(parameters.measures)
        if measure.readings and parameters.conv not in measure.readings
    }
