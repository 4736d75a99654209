"""What would make a comparison shorter, and by which factor."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from zarr.storage import MemoryStore

from dask_svcca.errors import DaskSvccaError
from dask_svcca.run.compare import plan_run
from dask_svcca.run.probe import readings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.run.forecast import Forecast, Pace
    from dask_svcca.stores.zoo import Zoo

LONG: Final = 10.0
"""Seconds below which nothing is advised."""

WORTH: Final = 1.3
"""Factor from which something is advised."""

ABREAST: Final = 5.0
"""How much faster compiled code solves many small pairs: see `dask_svcca.kernels.lanes`."""


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that would make a comparison shorter.

    Attributes
    ----------
    what : str
    factor : float
        How many times shorter.
    """

    what: str
    factor: float

    def __str__(self) -> str:
        return f"{self.what}: {self.factor:.1f} times faster"


def advise(
    zoo: Zoo, plan: Plan, parameters: Parameters, pace: Pace, found: Forecast, budget: Budget, *, pairs: Pairs = "all"
) -> list[Advice]:
    """What would make a comparison shorter by a factor worth it, that which helps most first.

    Parameters
    ----------
    zoo, plan, parameters, pace, found
        As `dask_svcca.run.forecast.forecast_run` takes and returns them.
    budget : Budget
    pairs : str or boolean matrix
    """
    if found.seconds < LONG:
        return []
    advised = []
    # What a comparison has was made with its parameters: those cannot be changed.
    for what, changed, chosen in _alternatives(plan, parameters, pairs) if not plan.pairs_done else ():
        try:
            other = plan_run(zoo, MemoryStore(), changed, budget, pairs=chosen)
        except (DaskSvccaError, ValueError):
            continue
        advised.append(Advice(what, found.seconds / pace.forecast(other, changed, 0.0).seconds))
    values = found.stages.get("tile values", 0.0) / found.workers
    if find_spec("numba") is None and parameters.precision == "float32":
        left = found.seconds - values * (1 - 1 / ABREAST)
        advised.append(
            Advice("Numba, which solves small pairs abreast (pip install dask-svcca[fast])", found.seconds / left)
        )
    more = pace.forecast(plan, parameters, 0.0, workers=2 * found.workers)
    advised.append(Advice(f"{2 * found.workers} workers, each with a core of its own", found.seconds / more.seconds))
    return sorted((one for one in advised if one.factor >= WORTH), key=lambda one: -one.factor)


def _alternatives(plan: Plan, parameters: Parameters, pairs: Pairs) -> Iterator[tuple[str, Parameters, Any]]:
    """Other parameters and pairs that would be less work, with what to say of each."""
    readings = [reading for reading in readings_of(plan, parameters) if reading is not None]
    if (
        parameters.conv != "mean"
        and "frequencies" not in parameters.keep
        and any(reading.sizes for reading in readings)
    ):
        yield "layers averaged over positions (conv='mean')", dataclasses.replace(parameters, conv="mean"), pairs
    if isinstance(pairs, str) and pairs == "all":
        yield "pairs with final checkpoints only (pairs='final')", parameters, "final"
    if parameters.precision == "float64":
        yield "single precision (precision='float32')", dataclasses.replace(parameters, precision="float32"), pairs
    if len(parameters.measures) > 1:
        first = parameters.measures[:1]
        yield (
            f"{first[0]} alone, of {len(parameters.measures)} measures",
            dataclasses.replace(parameters, measures=first),
            pairs,
        )
