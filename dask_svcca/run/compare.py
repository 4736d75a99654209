"""Compare a zoo: from a plan to a finished comparison."""

from __future__ import annotations

import time
import uuid
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import FewSamplesWarning, InvalidActivationsError
from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.graph import nodes_of
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.selection import select_pairs
from dask_svcca.plan.tasks import Job
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.outcome import SAMPLES_PER_DIRECTION, Outcome, Tally
from dask_svcca.run.stores import Stores, describe
from dask_svcca.stores.comparison import open_comparison
from dask_svcca.tasks import perform

if TYPE_CHECKING:
    from collections.abc import Sequence

    import distributed
    import xarray as xr

    from dask_svcca.plan.comparison import Plan
    from dask_svcca.plan.parameters import Keep, Match, Parameters, Precision
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.readings.choose import Convolutional, Sequential
    from dask_svcca.run.executors import Executor
    from dask_svcca.run.outcome import Progress
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo


def compare(
    zoo: Zoo,
    store: StoreLike,
    *,
    measures: str | tuple[str, ...] | list[str] = ("svcca",),
    variance: float | None = 0.99,
    conv: Convolutional = "dft",
    match: Match = "crop",
    sequence: Sequential = "mean",
    positions: str = "all",
    spatial_size: Sequence[int] | None = None,
    mask: str | None = None,
    precision: Precision = "float32",
    keep: Keep | Sequence[Keep] = (),
    pairs: Pairs = "all",
    subspaces: StoreLike | None = None,
    client: distributed.Client | None = None,
) -> xr.Dataset:
    """Compare every layer of every checkpoint of a zoo with every other.

    Work that the store has already is not done again: after an interruption, or when the zoo has grown, only what is
    missing is computed.

    Parameters
    ----------
    zoo : Zoo
        From `open_zoo`.
    store : path, zarr store, or URL
        Where the comparison is: a new place, or that of an earlier comparison of the same zoo and parameters.
    measures : str or tuple of str
        Names of measures. An existing comparison gains those that it lacks; only these are computed.
    variance : float or None
        Share of the variance that the kept directions explain, above 0 and up to 1: SVCCA's first step. None keeps
        the full numerical rank.
    conv : {"dft", "mean", "positions", "flatten"}
        How layers with spatial axes are read. ``dft``: as plain CCA of all circular translations of the examples,
        split by spatial frequency (Raghu et al. 2017, section 3); a dense layer is compared with the zero frequency.
        ``mean``: averaged over positions. ``positions``: positions as samples. ``flatten``: positions as neurons.
    match : {"crop", "fold"}
        How layers of unequal sizes are compared under ``dft``. ``crop``: at the frequencies that both have, as
        published. ``fold``: exactly, where one is a strided version of the other, so that sizes divide.
    sequence : {"mean", "positions", "last"}
        How layers with tokens are read.
    positions : str
        Which positions or tokens are samples, under ``positions``: ``all``, ``regular N`` or ``random N``.
    spatial_size : sequence of int, optional
        Resample convolutional layers with as many axes to this size, under ``positions``. By default only layers of
        equal sizes have samples in common.
    mask : str, optional
        Coordinate of the zoo, (example, token), true for tokens that count: padding is left out.
    precision : {"float32", "float64"}
        Precision of scores and their products. Correlations are right to about 1e-7 or 1e-12.
    keep : {"correlations", "frequencies"} or sequence of these
        What to store of every pair beside its measures; an existing comparison gains what it lacks. ``correlations``:
        all canonical correlations of the kept directions, (representation_a, representation_b, component).
        ``frequencies``: their mean at each spatial frequency of convolutional layers under ``dft``,
        ``svcca_by_frequency`` (representation_a, representation_b, frequency_y, frequency_x).
    pairs : str, or boolean matrix
        Which pairs: see `dask_svcca.plan.selection.select_pairs`.
    subspaces : path, zarr store, or URL, optional
        Where the directions of all representations are stored: comparisons of one zoo can share them, if they read
        layers alike and in the same precision. By default inside the comparison. Once they are there, no activations
        are read, except for ``pwcca`` of layers with more neurons than samples.
    client : distributed.Client, optional
        Default: the current client, else Dask's local scheduler, as for any Dask collection.

    Returns
    -------
    xarray.Dataset
        As `open_comparison`.

    Raises
    ------
    ParametersChangedError
        Where the comparison that is there has other parameters or examples, the subspaces were made with others, or
        what a measure computes has changed.
    MemoryLimitError
        Where a task cannot fit in a worker; before anything runs.
    InvalidActivationsError
        Where the zoo is empty. A representation that cannot be compared does not raise: variable ``problem_a`` of
        the result has the reason, and ``pair_status`` says ``failed`` for its pairs.

    Warns
    -----
    FewSamplesWarning
        For representations with fewer than five samples per kept direction; ``null_svcca`` says what they score by
        chance.

    Examples
    --------
    >>> import tempfile, dask_svcca
    >>> folder = tempfile.mkdtemp()
    >>> x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    >>> with dask_svcca.create_zoo(folder + "/zoo.zarr", examples=range(200)) as zoo:
    ...     zoo.write("net", "step1", "fc1", x)
    ...     zoo.write("net", "step2", "fc1", x @ np.diag([1, 2, 3, 4, 5, 6]).astype("float32"))
    >>> result = dask_svcca.compare(zoo, folder + "/comparison.zarr", variance=1.0)
    >>> float(result.svcca.sel(representation_a="net/step1/fc1", representation_b="net/step2/fc1").round(6))
    1.0
    """
    parameters = make_parameters(
        measures,
        variance=variance,
        conv=conv,
        match=match,
        sequence=sequence,
        positions=positions,
        spatial_size=spatial_size,
        mask=mask,
        precision=precision,
        keep=keep,
    )
    outcome = run_comparison(zoo, store, parameters, pairs=pairs, subspaces=subspaces, client=client)
    if outcome.few_samples:
        warnings.warn(outcome.caution, FewSamplesWarning, stacklevel=2)
    return open_comparison(store)


def plan_comparison(
    zoo: Zoo,
    store: StoreLike,
    *,
    measures: str | tuple[str, ...] | list[str] = ("svcca",),
    pairs: Pairs = "all",
    subspaces: StoreLike | None = None,
    client: distributed.Client | None = None,
    **parameters: Any,
) -> Plan:
    """What `compare` would do with the same arguments; nothing is computed, and nothing written.

    Parameters
    ----------
    zoo, store, measures, pairs, subspaces, client
        As for `compare`.
    **parameters : object
        All other parameters of `compare`.

    Returns
    -------
    Plan
        Prints as a table; ``to_dict()`` has its numbers.

    Raises
    ------
    ParametersChangedError, MemoryLimitError, InvalidActivationsError
        As `compare` would.

    Examples
    --------
    >>> import tempfile, dask_svcca
    >>> folder = tempfile.mkdtemp()
    >>> with dask_svcca.create_zoo(folder + "/zoo.zarr", examples=range(200)) as zoo:
    ...     zoo.write("net", "step1", "fc1", np.random.default_rng(0).normal(size=(200, 6)))
    >>> plan = plan_comparison(zoo, folder + "/comparison.zarr")
    >>> plan.pairs, plan.to_dict()["subspaces"]
    (1, 1)
    """
    options = make_parameters(measures, **parameters)
    return plan_run(zoo, store, options, DaskExecutor(client, "").budget, pairs=pairs, subspaces=subspaces)


def plan_run(
    zoo: Zoo,
    store: StoreLike,
    parameters: Parameters,
    budget: Budget,
    *,
    pairs: Pairs = "all",
    subspaces: StoreLike | None = None,
) -> Plan:
    """What `run_comparison` would do within a budget; nothing is written."""
    stores = Stores.open(zoo, store, parameters, subspaces, mode="r")
    return _plan(stores, pairs, budget)


def run_comparison(
    zoo: Zoo,
    store: StoreLike,
    parameters: Parameters,
    *,
    pairs: Pairs = "all",
    subspaces: StoreLike | None = None,
    client: distributed.Client | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Compare as `compare` does, and return what became of it.

    Parameters
    ----------
    zoo, store, parameters, pairs, subspaces, client
        See `compare`.
    executor : Executor, optional
        What runs the tasks, in place of Dask.
    progress : callable, optional
    """
    started = time.perf_counter()
    run = uuid.uuid4().hex[:12]
    executor = executor or DaskExecutor(client, run)
    budget = executor.budget
    zoo.refresh()
    stores = Stores.open(zoo, store, parameters, subspaces, mode="r+")
    plan = _plan(stores, pairs, budget)
    # Only now: a plan that is refused must not leave a store with its parameters behind.
    comparison, packs = stores.prepare(plan)
    job = Job(
        run=run,
        zoo=zoo.root.store_path,
        subspaces=None if packs is None else packs.root.store_path,
        comparison=comparison.root.store_path,
        parameters=parameters,
        measures=plan.measures,
        details=tuple(plan.details),
        settled=plan.settled,
        chunk_samples=plan.chunk_samples,
    )
    outcome = Outcome(plan)
    tally = Tally(outcome, progress)
    if plan.tiles and "correlations" in plan.details:
        comparison.resize_components(max(*plan.details["correlations"], *comparison.details["correlations"]))
    try:
        executor.run(nodes_of(plan), partial(perform, job), lambda _, report: tally.add(report))
    finally:
        index = None if packs is None else packs.read_index()
        outcome.problems, numbers = describe(comparison, plan.rows, index, tally.problems, parameters.variance)
        if any(measure.saturates != "never" for measure in plan.measures):
            outcome.few_samples = {
                label: (samples, rank)
                for label, (samples, rank) in numbers.items()
                if samples < SAMPLES_PER_DIRECTION * rank
            }
        outcome.seconds = time.perf_counter() - started
        if outcome.computed:
            comparison.add_run(outcome.timing(budget.workers))
    return outcome


def _plan(stores: Stores, pairs: Pairs, budget: Budget) -> Plan:
    zoo, parameters = stores.zoo, stores.parameters
    if not len(zoo):
        unfinished = f"; {len(zoo.unfinished)} are unfinished" if zoo.unfinished else ""
        raise InvalidActivationsError(
            f"the zoo {str(zoo.root.store_path)!r} has no complete representation{unfinished}. Capture some first"
        )
    selected = select_pairs(pairs, zoo.representations)
    return make_plan(zoo.entries(), np.asarray(selected), stores.state, stores.read_index(), parameters, budget)
