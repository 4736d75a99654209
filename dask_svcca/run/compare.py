"""Compare a zoo: from a plan to a finished comparison."""

from __future__ import annotations

import functools
import inspect
import time
import uuid
import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from zarr.storage import MemoryStore

from dask_svcca.errors import (
    DamagedSubspacesError,
    FailedRepresentationWarning,
    FewSamplesWarning,
    ReadingWarning,
)
from dask_svcca.plan.parameters import ONLY_MASK, check_names, make_parameters
from dask_svcca.run.arrays import open_source
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.failures import record_failures, run_all
from dask_svcca.run.leases import Leases
from dask_svcca.run.outcome import Outcome, Tally
from dask_svcca.run.progress import STAGES, Bars
from dask_svcca.run.space import naming_the_store
from dask_svcca.run.steps import finish, job_of, plan_of, unusual_readings
from dask_svcca.run.stores import Stores, choose_mask
from dask_svcca.stores import _io
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.dataset import open_comparison
from dask_svcca.tasks import perform, release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import distributed
    import xarray as xr

    from dask_svcca.plan.parameters import Keep, Mask, Match, Parameters, Precision
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.plan.tasks import Report
    from dask_svcca.readings.choose import Convolutional, Sequential
    from dask_svcca.run.arrays import Arrays
    from dask_svcca.run.executors import Executor
    from dask_svcca.run.outcome import Progress
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.comparison import ComparisonStore
    from dask_svcca.stores.subspaces import SubspaceStore
    from dask_svcca.stores.zoo import Zoo


P = ParamSpec("P")
R = TypeVar("R")


def _explained(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which says what a keyword may be that it does not have."""

    @functools.wraps(function)
    def checked(*arguments: P.args, **options: P.kwargs) -> R:
        check_names(options, inspect.signature(function).parameters, function.__name__)
        return function(*arguments, **options)

    return checked


@_explained
def compare(
    zoo: Zoo | Arrays | StoreLike,
    store: StoreLike | None = None,
    *,
    measures: str | Iterable[str] = ("svcca",),
    variance: float | None = 0.99,
    conv: Convolutional = "dft",
    match: Match = "crop",
    sequence: Sequential = "mean",
    positions: str = "all",
    spatial_size: Sequence[int] | None = None,
    mask: Mask = ONLY_MASK,
    precision: Precision = "float32",
    keep: Keep | Iterable[Keep] = (),
    pairs: Pairs = "all",
    dims: Mapping[Any, Sequence[str]] | None = None,
    subspaces: StoreLike | None = None,
    drop_left: bool = False,
    wait: bool = False,
    progress: bool = False,
    client: distributed.Client | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Compare every layer of every checkpoint of a zoo, or all of some arrays, with every other.

    Work that the store has already is not done again: after an interruption, or when the zoo has grown, only what is
    missing is computed.

    Parameters
    ----------
    zoo : Zoo, path, zarr store, or URL; or mapping of names to arrays
        From `open_zoo`, or where it is. Or arrays at hand, (example, ...) each: NumPy, Dask, xarray, pandas or torch. A
        name is that of a layer, in whole; or (checkpoint, layer), or (model, checkpoint, layer). The examples of arrays
        that label them (the coordinate ``example`` of a DataArray, the index of a DataFrame) are put into one order.
        Arrays are held in memory, Dask's too.
    store : path, zarr store, or URL, optional
        Where the comparison is: a new place, or that of an earlier comparison of the same zoo and parameters. By
        default in memory, for as long as the result is used.
    measures : str or tuple of str
        Names of measures; in one text, separated by commas. An existing comparison gains those that it lacks; only
        these are computed.
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
    sequence : {"mean", "positions", "first", "last"}
        How layers with tokens are read: averaged; each token as a sample; or the first token that counts, such as CLS,
        or the last.
    positions : str
        Which positions or tokens are samples, under ``positions``: ``all``, ``regular N`` or ``random N``.
    spatial_size : sequence of int, optional
        Resample convolutional layers with as many axes to this size, under ``positions``. By default only layers of
        equal sizes have samples in common.
    mask : str or None
        Coordinate of the zoo, (example, token), true for tokens that count: padding is left out. By default the only
        such coordinate of the zoo, if it has one; None declines it.
    precision : {"float32", "float64"}
        Precision of scores and their products. Correlations are right to about 1e-7 or 1e-12.
    keep : {"correlations", "frequencies"} or sequence of these
        What to store of every pair beside its measures; an existing comparison gains what it lacks. ``correlations``:
        all canonical correlations of the kept directions, (representation_a, representation_b, component).
        ``frequencies``: their mean at each spatial frequency of convolutional layers under ``dft``,
        ``svcca_by_frequency`` (representation_a, representation_b, frequency_y, frequency_x).
    pairs : str, or boolean matrix
        Which pairs: see `dask_svcca.plan.selection.select_pairs`.
    dims : mapping of names to sequence of str, optional
        What the axes of arrays at hand are, such as ``{"conv1": ("example", "height", "width", "channel")}``, by the
        names of the arrays; see `Zoo.write`. A DataArray says it itself. Three axes are tokens without: of a
        convolution in one dimension, name ``("example", "channel", "width")``.
    subspaces : path, zarr store, or URL, optional
        Where the directions of all representations are stored: comparisons of one zoo can share them, if they read
        layers alike and in the same precision. By default inside the comparison. Once they are there, no activations
        are read, except for ``pwcca`` of layers with more neurons than samples.
    drop_left : bool
        Remove the results of representations that have left the zoo. By default they stay, and the attribute
        ``left_zoo`` of the result names them.
    wait : bool
        Where another run is at work on the comparison or its subspaces, wait for its end. By default that is an error.
        A run that was killed is not waited for: on this machine not at all, on others for a minute.
    progress : bool
        Whether to show how far it is: bars in a terminal or a notebook, a line now and then elsewhere.
    client : distributed.Client, optional
        Default: the current client, else Dask's local scheduler, as for any Dask collection. Where the zoo or the
        comparison is in memory, always the local scheduler.
    storage_options : mapping, optional
        For the URLs among ``zoo``, ``store`` and ``subspaces``: see `create_zoo`.

    Returns
    -------
    xarray.Dataset
        As `open_comparison`.

    Raises
    ------
    ParametersChangedError
        Where the comparison that is there has other parameters or examples, the subspaces were made with others, or
        what a measure computes has changed.
    StoreInUseError
        Where another run is at work on the comparison or its subspaces; it says which, since when and until when.
    MemoryLimitError
        Where a task cannot fit in a worker; before anything runs.
    MismatchedExamplesError
        Where arrays do not have the same examples.
    InvalidActivationsError
        Where the zoo is empty, or arrays at hand are not valid activations. A representation that cannot be compared
        does not raise: variable ``problem_a`` of the result has the reason, and ``pair_status`` says ``failed`` for its
        pairs. Nor does a task that fails three times, or whose workers die: its pairs are ``failed`` too, the attribute
        ``failures`` of the result has the reason, and the next call tries them again.

    Warns
    -----
    FailedRepresentationWarning
        Where representations could not be compared, or the tasks of some pairs failed.
    FewSamplesWarning
        For representations with fewer than five samples per kept direction; ``null_svcca`` says what they score by
        chance.
    ReadingWarning
        For measures of convolutional layers that are read in another way than in the paper of the measure.
    UnalignedExamplesWarning
        For arrays whose examples have names in an order that says nothing, beside arrays without: they are compared
        row by row.

    Examples
    --------
    Arrays at hand, all in memory:

    >>> import numpy as np, dask_svcca
    >>> x = np.random.default_rng(0).normal(size=(200, 6))
    >>> result = dask_svcca.compare({"fc1": x, "fc2": x @ np.diag([1, 2, 3, 4, 5, 6])}, variance=None)
    >>> float(result.svcca.sel(representation_a="fc1", representation_b="fc2").round(6))
    1.0

    A zoo on disk:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    >>> with dask_svcca.create_zoo(folder + "/zoo.zarr", examples=range(200)) as zoo:
    ...     zoo.write("net", "step1", "fc1", x)
    ...     zoo.write("net", "step2", "fc1", x @ np.diag([1, 2, 3, 4, 5, 6]).astype("float32"))
    >>> result = dask_svcca.compare(folder + "/zoo.zarr", folder + "/comparison.zarr", variance=1.0)
    >>> float(result.svcca.sel(representation_a="net/step1/fc1", representation_b="net/step2/fc1").round(6))
    1.0
    """
    source = open_source(with_options(zoo, storage_options), dims)
    parameters = make_parameters(
        measures,
        variance=variance,
        conv=conv,
        match=match,
        sequence=sequence,
        positions=positions,
        spatial_size=spatial_size,
        mask=choose_mask(source, mask),
        precision=precision,
        keep=keep,
    )
    place = MemoryStore() if store is None else with_options(store, storage_options)
    subspaces = with_options(subspaces, storage_options)
    with Bars(STAGES) if progress else nullcontext() as bars:
        outcome = run_comparison(
            source,
            place,
            parameters,
            pairs=pairs,
            subspaces=subspaces,
            drop_left=drop_left,
            wait=wait,
            client=client,
            progress=bars,
        )
    # The line of the caller, behind that of `_explained`.
    if outcome.caution:
        warnings.warn(outcome.caution, FewSamplesWarning, stacklevel=3)
    if outcome.failure:
        warnings.warn(outcome.failure, FailedRepresentationWarning, stacklevel=3)
    if outcome.block_failure:
        warnings.warn(outcome.block_failure, FailedRepresentationWarning, stacklevel=3)
    if outcome.reading_caution:
        warnings.warn(outcome.reading_caution, ReadingWarning, stacklevel=3)
    result = open_comparison(place)
    return result.load() if store is None else result


def plan_comparison(
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
    storage_options: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Plan:
    """What `compare` would do with the same arguments; nothing is computed, and nothing written.

    Parameters
    ----------
    zoo, store, measures, mask, pairs, dims, subspaces, drop_left, client, storage_options
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
    >>> import tempfile, numpy as np, dask_svcca
    >>> folder = tempfile.mkdtemp()
    >>> with dask_svcca.create_zoo(folder + "/zoo.zarr", examples=range(200)) as zoo:
    ...     zoo.write("net", "step1", "fc1", np.random.default_rng(0).normal(size=(200, 6)))
    >>> plan = plan_comparison(zoo, folder + "/comparison.zarr")
    >>> plan.pairs, plan.to_dict()["subspaces"]
    (1, 1)
    """
    source, place, options, executor, subspaces = asked_for(
        zoo, store, measures, mask, dims, subspaces, client, storage_options, parameters
    )
    return plan_run(source, place, options, executor.budget, pairs=pairs, subspaces=subspaces, drop_left=drop_left)


def asked_for(
    zoo: Zoo | Arrays | StoreLike,
    store: StoreLike | None,
    measures: str | Iterable[str],
    mask: Mask,
    dims: Mapping[Any, Sequence[str]] | None,
    subspaces: StoreLike | None,
    client: distributed.Client | None,
    storage_options: Mapping[str, Any] | None,
    parameters: Mapping[str, Any],
) -> tuple[Zoo, StoreLike, Parameters, DaskExecutor, StoreLike | None]:
    """Zoo, store, parameters, executor and subspaces that arguments of `plan_comparison` stand for."""
    source = open_source(with_options(zoo, storage_options), dims)
    place = MemoryStore() if store is None else with_options(store, storage_options)
    subspaces = with_options(subspaces, storage_options)
    options = make_parameters(measures, mask=choose_mask(source, mask), **parameters)
    executor = DaskExecutor(client, "", in_memory=_in_memory(source, place, subspaces))
    return source, place, options, executor, subspaces


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
    client: distributed.Client | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Compare as `compare` does, by what the zoo object has read of its index, and return what became of it.

    Parameters
    ----------
    zoo, store, parameters, pairs, subspaces, drop_left, wait, client
        See `compare`.
    executor : Executor, optional
        What runs the tasks, in place of Dask.
    progress : callable, optional
    """
    _check_drop_left(drop_left)
    started, forgotten, computed, settled = time.perf_counter(), set[str](), 0, 0
    # What draws bars can say for whom it waits, too; what reports of a job knows that it was asked to end.
    with Leases(wait=wait, told=getattr(progress, "say", None), check=getattr(progress, "check", None)) as leases:
        while True:
            run = uuid.uuid4().hex[:12]
            chosen = executor or DaskExecutor(client, run, in_memory=_in_memory(zoo, store, subspaces))
            stores = Stores.open(zoo, store, parameters, subspaces, mode="r+", drop_left=drop_left, leases=leases)
            # Asked for once: at the end of a run there may be no worker left to ask about.
            budget = chosen.budget
            plan = plan_of(stores, pairs, budget)
            # Only now: a plan that is refused must not leave a store with its parameters behind.
            prepared = stores.prepare(plan, leases)
            if prepared is None:
                continue
            comparison, packs = prepared
            # What this call did before it found damage is not what was there before.
            plan = replace(plan, pairs_done=plan.pairs_done - computed - settled)
            outcome = Outcome(plan, computed=computed, settled=settled, readings=unusual_readings(plan, parameters))
            try:
                damaged = _run(outcome, comparison, packs, leases, parameters, zoo, run, chosen, progress)
            finally:
                outcome.seconds = time.perf_counter() - started
                if outcome.computed > computed:
                    leases.check()
                    comparison.add_run(outcome.timing(budget.workers))
            if not damaged or packs is None:
                if plan.packs and packs is not None:
                    packs.gather()
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
) -> dict[str, DamagedSubspacesError]:
    """Run a plan, and add to its outcome what becomes of it. Returns the packs that are damaged."""
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
    )
    tally = Tally(outcome, progress)
    if plan.tiles and "correlations" in plan.details:
        comparison.resize_components(max(*plan.details["correlations"], *comparison.details["correlations"]))

    def take(_: str, report: Report) -> None:
        leases.check()
        tally.add(report)

    try:
        failures = run_all(executor, plan, partial(perform, job), take)
        if failures:
            leases.check()
            outcome.failed, outcome.failures = record_failures(comparison, plan, failures)
            tally.problems |= failures.problems
    finally:
        release(run)
        leases.check()
        finish(outcome, tally, comparison, packs, parameters, zoo)
    return tally.damaged


def _check_drop_left(drop_left: object) -> None:
    """Refuse what is not a yes or no: a name would be taken for a yes, and all results dropped."""
    if not isinstance(drop_left, bool):
        raise ValueError(f"drop_left is True or False, for all that have left; got {drop_left!r}")  # noqa: TRY004


def _in_memory(zoo: Zoo, store: StoreLike, subspaces: StoreLike | None) -> bool:
    places = (zoo.root.store, store, *(() if subspaces is None else (subspaces,)))
    return any(map(_io.in_memory, places))
