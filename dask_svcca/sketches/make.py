"""Sketches of a zoo: one pass over its activations, on Dask."""

from __future__ import annotations

import time
import uuid
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from zarr.storage import MemoryStore

from dask_svcca.errors import FailedRepresentationWarning, InvalidActivationsError, StoreFormatError
from dask_svcca.plan.parameters import ONLY_MASK, make_parameters
from dask_svcca.plan.tasks import Job, Node
from dask_svcca.readings import check_choice, choose_reading
from dask_svcca.run.arrays import open_source
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.progress import Bars
from dask_svcca.run.space import naming_the_store
from dask_svcca.run.stores import check_mask, choose_mask
from dask_svcca.sketches.dataset import open_sketches
from dask_svcca.sketches.family import MEASURES, Family
from dask_svcca.sketches.identity import digests_of, identity_of
from dask_svcca.sketches.kept import Kept
from dask_svcca.sketches.plan import Wanted, plan_sketches
from dask_svcca.sketches.scores import perform_scores
from dask_svcca.sketches.store import COLUMNS, KIND, SketchStore
from dask_svcca.sketches.tasks import perform
from dask_svcca.stores import _create, _io
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.lease import Lease
from dask_svcca.tasks import release

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    import xarray as xr

    from dask_svcca.connections import Client
    from dask_svcca.plan.parameters import Mask, Parameters
    from dask_svcca.readings import Reading
    from dask_svcca.readings.choose import Convolutional, Sequential
    from dask_svcca.run.arrays import Arrays
    from dask_svcca.run.executors import Executor
    from dask_svcca.sketches.tasks import Made
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo

Measure: TypeAlias = Literal["cka", "overlap"]

STAGES: Final = {"sketches": ("Making sketches", "representations")}
"""What there is to be counted of a run."""

WRITTEN_EVERY: Final = 15.0
"""Seconds after which what is finished is written: a run that is killed loses no more."""

HELD_BYTES: Final = 64 * 2**20
"""Bytes of sketches that wait to be written, at most."""


@dataclass
class Outcome:
    """What became of a run.

    Attributes
    ----------
    representations : int
        Representations of the zoo.
    made : int
        Sketches that this run made.
    problems : dict of str to str
        Representations without a sketch, with the reason.
    bytes_read : int
        Bytes of activations.
    seconds : float
    """

    representations: int
    made: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    bytes_read: int = 0
    seconds: float = 0.0

    @property
    def failure(self) -> str:
        """What to say of `problems`; empty where there are none."""
        if not self.problems:
            return ""
        label, first = next(iter(self.problems.items()))
        return (
            f"{len(self.problems)} of {self.representations} representations have no sketch. The first: {label!r} "
            f"{first}. The variable problem of the result has all reasons"
        )


def sketch(
    zoo: Zoo | Arrays | StoreLike,
    store: StoreLike | None = None,
    *,
    measure: Measure = "cka",
    size: int = 4096,
    seed: int = 0,
    subspaces: StoreLike | None = None,
    variance: float | None = 0.99,
    conv: Convolutional = "mean",
    sequence: Sequential = "mean",
    positions: str = "all",
    spatial_size: Sequence[int] | None = None,
    mask: Mask = ONLY_MASK,
    dims: Mapping[Any, Sequence[str]] | None = None,
    wait: bool = False,
    progress: bool = False,
    client: Client | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Make a sketch of every representation of a zoo: a few thousand numbers, whose products estimate a similarity.

    Each is made by one pass over the activations. Hashes hang on the ids of the examples, the seed and the size alone:
    sketches of different zoos of the same examples, in any order, can be compared. Sketches that the store has already
    are not made again.

    Parameters
    ----------
    zoo, dims, wait, progress, client, storage_options
        As for `compare`.
    store : path, zarr store, or URL, optional
        Where the sketches are: a new place, or that of earlier ones of the same examples and options. By default in
        memory.
    measure : {"cka", "overlap"}
        Linear CKA, from activations; or the overlap of the directions that explain most variance,
        ``tr(P_a P_b) / sqrt(k l)``, P their projections and k, l how many they are, from subspaces.
    size : int
        Numbers of a sketch, even, from 64 on. The error falls with its square root: 0.016 at 4,096 for layers that are
        unlike, and less where they are alike.
    seed : int
        Sketches of different seeds cannot be compared.
    subspaces : path, zarr store, or URL, optional
        For an overlap: a comparison of this zoo, or its shared subspaces. No activations are read.
    variance : float or None
        For an overlap: the share of the variance that its directions explain, as for `compare`; None for all.
    conv, sequence, positions, spatial_size, mask
        How layers are read, as for `compare`, but averaged over positions by default, so that every layer can be
        compared with every other: under ``dft`` only layers of equal sizes can.

    Returns
    -------
    xarray.Dataset
        As `open_sketches`: ``sketch`` (representation, feature), with ``norm``, ``problem`` and labels of each
        representation.

    Raises
    ------
    ParametersChangedError
        Where the sketches that are there are of other examples, or were made with other options.
    StoreInUseError
        Where another run is at work on them.
    MemoryLimitError
        Where a task cannot fit in a worker; before anything runs.
    MismatchedExamplesError
        Where the subspaces are of other examples, or of the same in another order.
    InvalidActivationsError
        Where the zoo is empty. Activations that have no sketch do not raise: ``problem`` has the reason.
    ValueError
        Where ``size``, ``seed`` or an option is not valid.

    Warns
    -----
    FailedRepresentationWarning
        Where representations have no sketch.

    Examples
    --------
    >>> import dask_svcca
    >>> x = np.random.default_rng(0).normal(size=(200, 6))
    >>> sketches = dask_svcca.sketch({"fc1": x, "fc2": x * 3}, size=256)
    >>> sketches.sizes["feature"], bool(np.allclose(sketches.sketch[0], sketches.sketch[1], atol=1e-6))
    (256, True)
    """
    source = open_source(with_options(zoo, storage_options), dims)
    family = Family(size, seed)
    parameters = make_parameters(
        "cka",
        variance=variance,
        conv=conv,
        sequence=sequence,
        positions=positions,
        spatial_size=spatial_size,
        mask=choose_mask(source, mask),
    )
    place = MemoryStore() if store is None else with_options(store, storage_options)
    kept = open_kept(measure, with_options(subspaces, storage_options), parameters)
    with Bars(STAGES) if progress else nullcontext() as bars:
        outcome = run_sketches(source, place, parameters, family, kept, wait=wait, client=client, progress=bars)
    if outcome.failure:
        warnings.warn(outcome.failure, FailedRepresentationWarning, stacklevel=2)
    result = open_sketches(place)
    return result.load() if store is None else result


def open_kept(measure: str, subspaces: StoreLike | None, parameters: Parameters) -> Kept | None:
    """Subspaces that sketches of a measure are made from; None where that is activations.

    Raises
    ------
    ValueError
        Where the measure is not one of `MEASURES`, or goes without subspaces, or with them.
    StoreFormatError
    """
    check_choice("measure", measure, MEASURES)
    if measure == "cka":
        if subspaces is not None:
            raise ValueError(
                "subspaces= is for measure='overlap'; sketches of cka are made from the activations. Leave out "
                "subspaces= (--subspaces), or ask for the overlap"
            )
        return None
    if subspaces is None:
        raise ValueError(
            "measure='overlap' is made from subspaces: give a comparison of this zoo, or its shared subspaces, as "
            "subspaces= (--subspaces)"
        )
    return Kept.open(subspaces, measure, parameters.variance)


def check_place(sketches: StoreLike, other: StoreLike, what: str) -> None:
    """Refuse a place for sketches that is none, or that is in the folder of another store.

    Parameters
    ----------
    sketches, other : path, zarr store, or URL
    what : str
        What the other store is.

    Raises
    ------
    StoreFormatError

    Examples
    --------
    >>> check_place("/data/c.zarr", "/data/c.zarr", "comparison")
    Traceback (most recent call last):
    dask_svcca.errors.StoreFormatError: the sketches at '/data/c.zarr' would lie in the comparison at '/data/c.zarr'...
    """
    if not _io.is_place(sketches):
        raise StoreFormatError(f"sketches are at a path, a URL, or in a store of zarr; got {type(sketches).__name__}")
    mine, theirs = (_io.folder_of(one) for one in (sketches, other))
    nested = mine is not None and theirs is not None and (mine == theirs or theirs in mine.parents)
    if nested or sketches is other or (isinstance(sketches, str) and sketches == other):
        raise StoreFormatError(
            f"the sketches at {_io.describe(sketches)!r} would lie in the {what} at {str(theirs or other)!r}. Give "
            f"each its own place"
        )


@naming_the_store
def run_sketches(
    zoo: Zoo,
    store: StoreLike,
    parameters: Parameters,
    family: Family,
    kept: Kept | None = None,
    *,
    wait: bool = False,
    client: Client | None = None,
    executor: Executor | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Outcome:
    """Make what sketches a store lacks, as `sketch` does, and say what became of it.

    Parameters
    ----------
    zoo, store, parameters, family
        See `sketch`.
    kept : Kept, optional
        Subspaces, for sketches of the overlap of their directions.
    wait, client, executor, progress
        See `run_comparison`.
    """
    started = time.perf_counter()
    check_place(store, zoo.root.store_path, "zoo")
    entries = zoo.entries()
    if not entries:
        raise InvalidActivationsError(
            f"the zoo {str(zoo.root.store_path)!r} has no complete representation. Capture some first"
        )
    if parameters.mask is not None:
        check_mask(zoo, parameters.mask)
    if kept is not None:
        kept.check(parameters.reading, zoo)
    identity = identity_of(zoo, parameters, family, "cka" if kept is None else kept.measure)
    run = uuid.uuid4().hex[:12]
    places = (zoo.root.store, store, *(() if kept is None else (kept.store.root.store,)))
    chosen = executor or DaskExecutor(client, run, in_memory=any(map(_io.in_memory, places)))
    every = [
        Wanted(row, item, choose_reading(item.dims, item.shape, parameters.reading), digest)
        for row, (item, digest) in enumerate(zip(entries, digests_of(zoo, entries), strict=True))
    ]
    there = _exists(store)
    if not there:
        # Before a store is made: a plan that is refused must not leave one behind.
        plan_sketches(every, family, chosen.budget, kept)
    sketches = SketchStore.open(store, mode="r+") if there else SketchStore.create(store, identity, len(entries))
    lease = Lease(
        backend_of(sketches.root),
        "digest/lease",
        f"the sketches {sketches.place!r}",
        "Wait for that run with wait=True (--wait), or let it end",
    )
    lease.take(wait=wait, told=getattr(progress, "say", None))
    try:
        sketches.check(identity)
        rows = _Rows(sketches, every)
        tasks = plan_sketches(rows.wanted, family, chosen.budget, kept)
        rows.register()
        outcome = Outcome(len(entries))
        total = len(rows.wanted)

        def take(_: str, made: list[Made]) -> None:
            lease.check()
            rows.add(made)
            outcome.made += sum(not one.problem for one in made)
            outcome.bytes_read += sum(one.read for one in made)
            if progress is not None:
                progress("sketches", rows.done, total)

        place = sketches.root.store_path
        job = Job(
            run=run,
            zoo=zoo.root.store_path,
            # A worker of a comparison opens these two; of activations both are the store that it reports for.
            subspaces=place if kept is None else kept.store.root.store_path,
            comparison=place,
            parameters=parameters,
            measures=(),
            details=(),
            settled=(),
            chunk_samples=0,
        )
        try:
            nodes = {f"sketches-{task.number}": Node(task, reports=True) for task in tasks}
            chosen.run(nodes, partial(perform if kept is None else perform_scores, job), take)
        finally:
            release(run)
            lease.check()
            rows.flush()
        outcome.problems = rows.problems
        outcome.seconds = time.perf_counter() - started
        return outcome
    finally:
        lease.release()


def _exists(store: StoreLike) -> bool:
    if _io.is_group(store):
        return not _create.is_unfinished(store, KIND)
    _create.check_free(store)
    return False


def domain_of(reading: Reading) -> str:
    """What a sample is: layers of equal ones can be compared by their sketches.

    Under the DFT, `compare` takes layers of unequal sizes at the frequencies that both have, and their norms at these
    alone: a sketch has the norm of all.
    """
    grid = f" at {'x'.join(map(str, reading.grid))} frequencies" if reading.grid else ""
    return reading.domain + grid


class _Rows:
    """The rows of a store: which are to be made, and what becomes of them.

    Attributes
    ----------
    wanted : list of Wanted
    done : int
        How many of these are done.
    """

    def __init__(self, store: SketchStore, every: Sequence[Wanted]) -> None:
        self._store, self._columns = store, store.columns()
        known = {str(label): row for row, label in enumerate(self._columns["representation"])}
        there = store.whole_rows(len(known))
        self.wanted: list[Wanted] = []
        self.done = 0
        self._current = [one.item.label for one in every]
        self._pending: dict[int, npt.NDArray[np.float32]] = {}
        self._written = time.monotonic()
        for one in every:
            row = known.setdefault(one.item.label, len(known))
            is_there = row < len(there) and (there[row] or self._columns["problem"][row])
            if not is_there or self._columns["digest"][row] != one.digest:
                self.wanted.append(replace(one, row=row))
        self._count = len(known)

    @property
    def problems(self) -> dict[str, str]:
        """Representations of the zoo without a sketch, with the reason."""
        found = zip(self._columns["representation"].tolist(), self._columns["problem"].tolist(), strict=True)
        every = {label: str(problem) for label, problem in found if problem}
        return {label: every[label] for label in self._current if label in every}

    def register(self) -> None:
        """Make room for what is to be made; until it is, its row does not count."""
        if not self.wanted:
            return
        # First of all: what is known of a row must not stand beside the digest of something else.
        digests = self._columns["digest"].copy()
        digests[[one.row for one in self.wanted if one.row < len(digests)]] = ""
        self._store.write_digests(digests)
        for variable in COLUMNS:
            old = self._columns[variable.name]
            column = np.full(self._count, variable.fill, dtype=old.dtype)
            column[: len(old)] = old
            self._columns[variable.name] = column
        for one in self.wanted:
            item = one.item
            values = {
                "representation": item.label,
                **item.name._asdict(),
                "step": np.nan if item.step is None else item.step,
                "depth": np.nan if item.depth is None else item.depth,
                "domain": self._store.domain(domain_of(one.reading)),
                "subspace": one.subspace,
            }
            for variable in COLUMNS:
                self._columns[variable.name][one.row] = values.get(variable.name, variable.fill)
        self._store.write_columns(self._columns)

    def add(self, made: Sequence[Made]) -> None:
        """Take what a task made, and write what waits where that is due."""
        for one in made:
            self.done += 1
            for name in ("neurons", "samples", "norm", "trace", "concentration", "problem", "digest"):
                self._columns[name][one.row] = getattr(one, name)
            if one.numbers is not None:
                self._pending[one.row] = one.numbers
        waiting = sum(numbers.nbytes for numbers in self._pending.values())
        if waiting > HELD_BYTES or time.monotonic() - self._written > WRITTEN_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what waits; the numbers before what says that they are there."""
        if self.done:
            self._store.write_rows(self._pending)
            self._pending = {}
            self._store.write_columns(self._columns)
        self._written = time.monotonic()
