"""A first look at a comparison: estimates of what it lacks, within seconds, and nothing computed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_svcca.errors import InvalidQuestionError
from dask_svcca.plan.selection import select_pairs
from dask_svcca.run.leases import Leases
from dask_svcca.run.space import naming_the_store
from dask_svcca.run.steps import plan_of
from dask_svcca.run.stores import Stores
from dask_svcca.run.waves import places_of
from dask_svcca.stores.estimates import add_estimates, write_estimates
from dask_svcca.variables import ESTIMATED_MEASURE

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.estimates import Likeness
    from dask_svcca.stores.zoo import Zoo


@dataclass(frozen=True, slots=True)
class Preview:
    """What a first look has.

    Attributes
    ----------
    representations : int
    pairs, done, estimated : int
        Pairs asked for, each once; those with all values; and those that have an estimate and no value.
    seconds : float
    """

    representations: int
    pairs: int
    done: int
    estimated: int
    seconds: float


def check_estimable(parameters: Parameters) -> None:
    """Raise `InvalidQuestionError` where no measure that is asked for has an estimate."""
    if ESTIMATED_MEASURE not in parameters.measures:
        raise InvalidQuestionError(
            f"a preview has estimates of {ESTIMATED_MEASURE!r} alone, and {', '.join(map(repr, parameters.measures))} "
            f"is asked for. Ask for {ESTIMATED_MEASURE!r} as well, or compare without a preview"
        )


@naming_the_store
def run_preview(
    zoo: Zoo,
    store: StoreLike,
    parameters: Parameters,
    likeness: Likeness,
    budget: Budget,
    *,
    pairs: Pairs = "all",
    subspaces: StoreLike | None = None,
    drop_left: bool = False,
    wait: bool = False,
    told: Callable[[str], None] | None = None,
) -> Preview:
    """Make a comparison, or open it, and write estimates of the pairs asked for that it lacks.

    Parameters
    ----------
    zoo, store, parameters, pairs, subspaces, drop_left, wait
        See `dask_svcca.run.compare.run_comparison`.
    likeness : Likeness
    budget : Budget
        Of the run that is to come: tiles are as large as it makes them.
    told : callable, optional
        Called with a sentence that says for whom it waits.
    """
    check_estimable(parameters)
    started = time.perf_counter()
    with Leases(wait=wait, told=told) as leases:
        while True:
            stores = Stores.open(zoo, store, parameters, subspaces, mode="r+", drop_left=drop_left, leases=leases)
            plan = plan_of(stores, pairs, budget)
            prepared = stores.prepare(plan, leases)
            if prepared is not None:
                break
        comparison, _ = prepared
        add_estimates(comparison.root, plan.representations, comparison.tile)
        leases.check()
        asked = select_pairs(pairs, zoo.representations)
        estimated = write_estimates(comparison.root, likeness, asked, places_of(plan, zoo).tolist())
    return Preview(plan.representations, plan.pairs, plan.pairs_done, estimated, time.perf_counter() - started)
