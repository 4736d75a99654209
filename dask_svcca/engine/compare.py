"""Compare a zoo: from a plan to a finished comparison."""

from __future__ import annotations

import math
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import psutil

from dask_svcca.engine import run
from dask_svcca.engine.parts import subspace_graph
from dask_svcca.engine.subspace import compute_subspace, compute_subspaces
from dask_svcca.engine.tile import compute_tile
from dask_svcca.errors import FewSamplesWarning, InvalidActivationsError, ParametersChangedError
from dask_svcca.plan.comparison import PROCESS_BYTES, Plan, choose_rows, choose_tile, make_plan
from dask_svcca.plan.keep import Sizes, kept_sizes, smaller_tile
from dask_svcca.plan.parameters import Convolutional, Keep, Match, Parameters, Precision, Sequential, make_parameters
from dask_svcca.plan.readings import choose_reading
from dask_svcca.plan.selection import Pairs, select_pairs
from dask_svcca.plan.tasks import Job, SubspaceReport, TileReport, subspace_place
from dask_svcca.stores._io import is_group
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.comparison import ComparisonStore, open_comparison
from dask_svcca.stores.subspaces import SubspaceRecord, read_record
from dask_svcca.stores.zoo import Representation, frame_of
from dask_svcca.variables import VALUED, PairStatus

if TYPE_CHECKING:
    import distributed
    import numpy.typing as npt
    import xarray as xr

    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo


Stage = Literal["subspaces", "tiles"]
Progress = Callable[[Stage, int, int], None]
"""Called with the stage, how many tasks of it are done, and how many there are."""


SAMPLES_PER_DIRECTION = 5
"""Fewer are warned of: at five, two independent representations of equally many directions score 0.39."""

USABLE_SHARE = 0.75
"""Of the memory limit of a worker; Dask pauses a worker at 80 %."""


@dataclass
class Outcome:
    """What became of a run.

    Attributes
    ----------
    plan : Plan
    problems : dict of str to str
        Representations that could not be compared, with the reason.
    computed, settled : int
        Pairs that this run gave a value, and pairs that have none for a reason that is now recorded.
    seconds : float
        From the call to the end.
    stages : dict of str to float
        Seconds that tasks spent in each stage, over all workers.
    bytes_read : int
        Of activations.
    few_samples : dict of str to (int, int)
        Representations with fewer than five samples a kept direction, and how many they have of either.
    """

    plan: Plan
    problems: dict[str, str] = field(default_factory=dict)
    computed: int = 0
    settled: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    bytes_read: int = 0
    few_samples: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def caution(self) -> str:
        """What to say of `few_samples`; empty where there are none."""
        if not self.few_samples:
            return ""
        worst, (samples, directions) = min(self.few_samples.items(), key=lambda item: item[1][0] / item[1][1])
        return (
            f"{len(self.few_samples)} of {self.plan.representations} representations have fewer than "
            f"{SAMPLES_PER_DIRECTION} samples a kept direction, and correlate by chance. Fewest has {worst!r}: "
            f"{samples} samples, {directions} directions. Use more examples, or a lower variance; null_svcca is what "
            f"independent ones would score"
        )


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
        Of the comparison: new, or an earlier one of the same zoo and parameters.
    measures : str or tuple of str
        Names of measures.
    variance : float or None
        Share of the variance that the kept directions explain, above 0 and up to 1: SVCCA's first step. None keeps
        the full numerical rank.
    conv : {"dft", "mean", "positions", "flatten"}
        How layers with spatial axes are read. ``dft``: as plain CCA of all circular translations of the examples,
        split by spatial frequency (Raghu et al. 2017, section 3); a dense layer meets the zero frequency. ``mean``:
        averaged over positions. ``positions``: positions as samples. ``flatten``: positions as neurons.
    match : {"crop", "fold"}
        How layers of unequal sizes meet under ``dft``. ``crop``: at the frequencies that both have, as published.
        ``fold``: exactly, where one is a strided version of the other, so that sizes divide.
    sequence : {"mean", "positions", "last"}
        How layers with tokens are read.
    positions : str
        Which positions or tokens are samples, under ``positions``: ``all``, ``regular N`` or ``random N``.
    spatial_size : sequence of int, optional
        Resample convolutional layers with as many axes to this size, under ``positions``; without, only layers of
        equal sizes have samples in common.
    mask : str, optional
        Coordinate of the zoo, (example, token), true for tokens that count: padding is left out.
    precision : {"float32", "float64"}
        Of scores and their products. Correlations are right to about 1e-7 and 1e-12.
    keep : {"correlations", "frequencies"} or sequence of these
        What to store of every pair beside its measures. ``correlations``: all canonical correlations of the kept
        directions, (representation_a, representation_b, component). ``frequencies``: of convolutional layers under
        ``dft``, their mean at each spatial frequency, ``svcca_by_frequency`` (representation_a, representation_b,
        frequency_y, frequency_x).
    pairs : str, or boolean matrix
        Which pairs: see `dask_svcca.plan.selection.select_pairs`.
    client : distributed.Client, optional
        Default: as any Dask collection, the current client, else Dask's local scheduler.

    Returns
    -------
    xarray.Dataset
        As `open_comparison`.

    Raises
    ------
    ParametersChangedError
        Where the store holds a comparison of other parameters or examples.
    MemoryLimitError
        Where a task cannot fit in a worker; before anything runs.
    InvalidActivationsError
        Where the zoo is empty. A representation that cannot be compared does not raise: variable ``problem_a`` of
        the result has the reason, and ``pair_status`` says ``failed`` for its pairs.

    Warns
    -----
    FewSamplesWarning
        For representations with fewer than five samples a kept direction: ``null_svcca`` says what chance gives them.

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
    outcome = run_comparison(zoo, store, parameters, pairs=pairs, client=client)
    if outcome.few_samples:
        warnings.warn(outcome.caution, FewSamplesWarning, stacklevel=2)
    return open_comparison(store)


def plan_comparison(
    zoo: Zoo, store: StoreLike, parameters: Parameters, *, pairs: Pairs = "all", workers: int = 1, memory: int
) -> Plan:
    """What `run_comparison` would do; nothing is written."""
    plan, _ = _plan(zoo, _existing(store, mode="r"), parameters, pairs, workers, memory)
    return plan


def run_comparison(
    zoo: Zoo,
    store: StoreLike,
    parameters: Parameters,
    *,
    pairs: Pairs = "all",
    client: distributed.Client | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Do what `compare` says, and tell how it went."""
    started = time.perf_counter()
    zoo.refresh()
    client = run.current_client(client)
    workers, memory = resources(client)
    comparison = _existing(store, mode="r+")
    plan, entries = _plan(zoo, comparison, parameters, pairs, workers, memory)
    if comparison is None:
        # Only now: a plan that is refused must not leave a store that insists on its parameters.
        comparison = _create(store, zoo, parameters, plan)
    _register(comparison, entries)
    if plan.tiles and "correlations" in plan.kept:
        comparison.resize_components(max(*plan.kept["correlations"], *comparison.kept["correlations"]))
    job = Job(
        run=uuid.uuid4().hex[:12],
        zoo=_reference(zoo.root),
        comparison=_reference(comparison.root),
        parameters=parameters,
        measures=parameters.records,
        rows=plan.rows,
        memory=max(0, memory - PROCESS_BYTES),
    )
    graph, keys = build_graph(plan, job)
    outcome = Outcome(plan)
    before = comparison.status()
    tally = _Tally(outcome, progress)

    try:
        run.run_graph(graph, keys, lambda _, found: tally.add(found), client)
    finally:
        records = _records(comparison, entries)
        outcome.problems = _describe(comparison, entries, records, outcome.problems)
        outcome.few_samples = _few_samples(entries, records)
        after = comparison.status()
        new = np.triu(after != before)
        outcome.computed = int((new & np.isin(after, VALUED)).sum())
        outcome.settled = int(new.sum()) - outcome.computed
        outcome.seconds = time.perf_counter() - started
        if outcome.computed:
            comparison.add_run(_timing(outcome, workers))
    return outcome


class _Tally:
    """Adds to an outcome what tasks report, and tells how it goes."""

    def __init__(self, outcome: Outcome, progress: Progress | None) -> None:
        self._outcome, self._progress = outcome, progress
        self._done: dict[Stage, int] = {"subspaces": 0, "tiles": 0}
        self._totals: dict[Stage, int] = {"subspaces": len(outcome.plan.subspaces), "tiles": len(outcome.plan.tiles)}

    def add(self, found: SubspaceReport | list[SubspaceReport] | TileReport) -> None:
        """Take the result of one task."""
        for report in found if isinstance(found, list) else [found]:
            stage: Stage = "subspaces" if isinstance(report, SubspaceReport) else "tiles"
            self._done[stage] += 1
            for name, seconds in report.seconds.items():
                self._outcome.stages[name] = self._outcome.stages.get(name, 0.0) + seconds
            if isinstance(report, SubspaceReport):
                self._outcome.bytes_read += report.read
                if report.problem:
                    self._outcome.problems[report.label] = report.problem
            if self._progress is not None:
                self._progress(stage, self._done[stage], self._totals[stage])


def _timing(outcome: Outcome, workers: int) -> dict[str, Any]:
    """Where the time of a run went, as stored with the comparison."""
    busy = sum(outcome.stages.values())
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(outcome.seconds, 3),
        "workers": workers,
        "pairs": outcome.computed,
        "pairs_per_second": round(outcome.computed / outcome.seconds, 1),
        "bytes_read": outcome.bytes_read,
        "stages": {name: round(seconds, 3) for name, seconds in sorted(outcome.stages.items())},
        # Dask, Python, waiting for the last tile: what the workers had time for and did not spend in a stage.
        "overhead": round(max(0.0, outcome.seconds * workers - busy), 3),
    }


def build_graph(plan: Plan, job: Job) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    """The Dask graph of a plan, and the keys whose results are reports.

    A tile waits for the subspaces of its two groups, not for all.
    """
    graph: dict[str, tuple[Any, ...]] = {}
    waiting: dict[str, list[str]] = {}
    keys = []
    for batch in plan.batches:
        task = batch[0]
        key = f"subspace-{job.run}-{task.place}"
        if len(batch) > 1:
            graph[key] = (compute_subspaces, job, batch)
        elif task.parts > 1:
            graph |= subspace_graph(job, task, key)
        else:
            graph[key] = (compute_subspace, job, task)
        for each in batch:
            waiting.setdefault(each.path, []).append(key)
        keys.append(key)
    for tile in plan.tiles:
        groups = []
        for index, paths in ((tile.row, tile.paths_a), (tile.column, tile.paths_b)):
            group = f"group-{job.run}-{index}"
            if group not in graph:
                graph[group] = (_joined, list(dict.fromkeys(key for path in paths for key in waiting.get(path, ()))))
            groups.append(group)
        key = f"tile-{job.run}-{tile.row}-{tile.column}"
        graph[key] = (compute_tile, job, tile, *groups)
        keys.append(key)
    return graph, keys


def _joined(_: list[SubspaceReport | list[SubspaceReport]]) -> None:
    """Join the subspaces of a group, so that a tile has two dependencies and not hundreds."""


def resources(client: distributed.Client | None) -> tuple[int, int]:
    """Number of tasks at a time, and memory for each in bytes."""
    if client is None:
        threads = psutil.cpu_count() or 1
        return threads, int(psutil.virtual_memory().available * 0.6 / threads) + PROCESS_BYTES
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not workers:
        raise RuntimeError("the cluster has no workers; wait for some with client.wait_for_workers(1)")
    limits = [worker["memory_limit"] / worker["nthreads"] for worker in workers if worker["memory_limit"]]
    memory = USABLE_SHARE * min(limits) if limits else psutil.virtual_memory().available * 0.6 / len(workers)
    return sum(worker["nthreads"] for worker in workers), int(memory)


def _existing(store: StoreLike, *, mode: str) -> ComparisonStore | None:
    """The comparison that is there already, if there is anything."""
    return ComparisonStore.open(store, mode=mode) if is_group(store) else None


def _create(store: StoreLike, zoo: Zoo, parameters: Parameters, plan: Plan) -> ComparisonStore:
    return ComparisonStore.create(
        store,
        parameters=parameters.to_dict(),
        measures=parameters.records,
        tile=plan.tile,
        rows=plan.rows,
        zoo=str(zoo.root.store_path),
        examples_digest=zoo.examples_digest,
        n_examples=zoo.n_examples,
        kept=plan.kept,
    )


def _plan(
    zoo: Zoo, comparison: ComparisonStore | None, parameters: Parameters, pairs: Pairs, workers: int, memory: int
) -> tuple[Plan, list[Representation]]:
    if not len(zoo):
        unfinished = f"; {len(zoo.unfinished)} are unfinished" if zoo.unfinished else ""
        raise InvalidActivationsError(
            f"the zoo {str(zoo.root.store_path)!r} has no complete representation{unfinished}. Capture some first"
        )
    if parameters.mask is not None:
        _check_mask(zoo, parameters.mask)
    by_label = {entry.name.label: entry for entry in zoo.entries()}
    frame = zoo.representations
    selected = pd.DataFrame(select_pairs(pairs, frame), index=frame.index, columns=frame.index)
    known: list[str] = []
    changed = np.zeros(0, dtype=np.bool_)
    old = np.zeros((0, 0), dtype=np.uint8)
    if comparison is not None:
        comparison.check(parameters.to_dict(), zoo.examples_digest, zoo.n_examples)
        known = [str(label) for label in comparison.column("representation")]
        # A run that was stopped while it added representations may have left more of them in some variables.
        digests = comparison.column("digest")[: len(known)]
        changed = np.array(
            [label in by_label and by_label[label].digest != d for label, d in zip(known, digests, strict=True)],
            dtype=np.bool_,
        )
        old = comparison.status()[: len(known), : len(known)]
        # What was compared and has left the zoo keeps its place and its results; nothing more is computed of it.
        by_label = {**_departed(comparison, set(known) - set(by_label)), **by_label}
    # New representations come behind those that are there, so that finished tiles stay where they are.
    order = known + [label for label in by_label if label not in set(known)]
    status = np.zeros((len(order), len(order)), dtype=np.uint8)
    status[: len(known), : len(known)] = old
    status[: len(known)][changed] = PairStatus.MISSING
    status[:, : len(known)][:, changed] = PairStatus.MISSING
    entries = [by_label[label] for label in order]
    selected = selected.reindex(index=order, columns=order, fill_value=False)
    ready = np.zeros(len(order), dtype=np.bool_)
    if comparison is not None:
        for index, entry in enumerate(entries[: len(known)]):
            record = read_record(comparison.root, subspace_place(entry.name.path))
            ready[index] = record is not None and record.digest == entry.digest
    side = _tile_side(entries, parameters, workers)
    tile = side if comparison is None else comparison.tile
    plan = make_plan(
        representations=frame_of(entries),
        paths=[entry.name.path for entry in entries],
        rows_per_chunk=[entry.chunk_examples for entry in entries],
        selected=selected.to_numpy(),
        status=status,
        ready=ready,
        parameters=parameters,
        tile=tile,
        # A comparison that began small has small tiles: a task takes several, or there would be far too many tasks.
        side=tile * max(1, side // tile),
        rows=comparison.rows if comparison is not None else _rows(entries, parameters),
        workers=workers,
        memory=memory,
    )
    if comparison is not None and "frequencies" in plan.kept:
        grid, room = plan.kept["frequencies"], comparison.kept["frequencies"]
        if any(size > there for size, there in zip(grid, room, strict=True)):
            raise ParametersChangedError(
                f"the comparison {str(comparison.root.store_path)!r} keeps frequencies of grids up to "
                f"{' x '.join(map(str, room))}, and the zoo now has one of {' x '.join(map(str, grid))}. Compare into "
                f"another store"
            )
    return plan, entries


def _departed(comparison: ComparisonStore, labels: set[str]) -> dict[str, Representation]:
    """Representations that were compared and are no longer in the zoo, as far as the comparison knows them."""
    if not labels:
        return {}
    names = ("representation", "model", "checkpoint", "layer", "step", "depth", "neurons", "digest")
    found = {}
    for label, model, checkpoint, layer, step, depth, neurons, digest in zip(
        *(comparison.column(name) for name in names), strict=True
    ):
        if label in labels:
            found[str(label)] = Representation(
                name=RepresentationName(str(model), str(checkpoint), str(layer)),
                dims=("example", "neuron"),
                shape=(int(comparison.root.attrs["n_examples"]), max(1, int(neurons))),  # type: ignore[arg-type]
                dtype=np.dtype(np.float32),
                chunk_examples=1,
                step=None if np.isnan(step) else float(step),
                depth=None if np.isnan(depth) else float(depth),
                digest=str(digest),
            )
    return found


def _check_mask(zoo: Zoo, name: str) -> None:
    coords = zoo.coords
    if name in coords and coords[name].ndim == 2:
        return
    masks = [repr(other) for other, values in coords.items() if values.ndim == 2]
    raise ValueError(
        f"mask={name!r} is no coordinate of the zoo along examples and tokens; it has {', '.join(masks) or 'none'}. "
        f"Give it to create_zoo as coords={{{name!r}: mask}}"
    )


def _kept(entries: Sequence[Representation], parameters: Parameters) -> Sizes:
    """Sizes of what is kept of every pair."""
    readings = [choose_reading(entry.dims, entry.shape, parameters) for entry in entries]
    sizes = kept_sizes(parameters.keep, readings, [entry.shape for entry in entries])
    if sizes.get("frequencies") == (0, 0):
        raise InvalidActivationsError(
            "keep='frequencies' keeps those of layers with height and width, and the zoo has none yet"
        )
    return sizes


def _tile_side(entries: Sequence[Representation], parameters: Parameters, workers: int) -> int:
    """Representations along the side of a tile."""
    products = 0.0
    for entry in entries:
        reading = choose_reading(entry.dims, entry.shape, parameters)
        directions, blocks = reading.directions(entry.shape), len(reading.multiplicity)
        products = max(products, reading.samples(entry.shape[0]) * directions**2 / blocks)
    return smaller_tile(choose_tile(len(entries), workers, products), _kept(entries, parameters))


def _rows(entries: Sequence[Representation], parameters: Parameters) -> int:
    """Samples in a chunk of scores, from the widest representation under its reading."""
    widths = []
    for entry in entries:
        reading = choose_reading(entry.dims, entry.shape, parameters)
        widths.append(reading.directions(entry.shape) * (2 if reading.grid else 1))
    return choose_rows(max(widths), np.dtype(parameters.precision).itemsize)


def _register(comparison: ComparisonStore, entries: list[Representation]) -> None:
    """Make room for new representations, and forget pairs of those that have changed."""
    known = [str(label) for label in comparison.column("representation")]
    digests = comparison.column("digest")[: len(known)]
    changed = [i for i, digest in enumerate(digests) if digest != entries[i].digest]
    if changed:
        comparison.invalidate(np.array(changed))
    if changed or len(known) < len(entries):
        comparison.resize(len(entries))
        comparison.write_columns(
            {
                "representation": _text(entry.name.label for entry in entries),
                "model": _text(entry.name.model for entry in entries),
                "checkpoint": _text(entry.name.checkpoint for entry in entries),
                "layer": _text(entry.name.layer for entry in entries),
                "step": np.array([np.nan if entry.step is None else entry.step for entry in entries]),
                "depth": np.array([np.nan if entry.depth is None else entry.depth for entry in entries]),
                "digest": _text(entry.digest for entry in entries),
            }
        )
        _describe(comparison, entries, _records(comparison, entries))


def _records(comparison: ComparisonStore, entries: Sequence[Representation]) -> list[SubspaceRecord | None]:
    return [read_record(comparison.root, subspace_place(entry.name.path)) for entry in entries]


def _few_samples(
    entries: Sequence[Representation], records: Sequence[SubspaceRecord | None]
) -> dict[str, tuple[int, int]]:
    """Representations of few samples, translations of a convolutional layer included, and many kept directions."""
    found = {}
    for entry, record in zip(entries, records, strict=True):
        if record is not None and not record.problem:
            numbers = record.samples * math.prod(record.grid), record.kept_rank
            if numbers[0] < SAMPLES_PER_DIRECTION * numbers[1]:
                found[entry.name.label] = numbers
    return found


def _describe(
    comparison: ComparisonStore,
    entries: list[Representation],
    records: Sequence[SubspaceRecord | None],
    met: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Write what the subspaces say of the representations, and problems met in this run; return all problems."""
    comparison.resize_components(max(0 if record is None else record.kept_rank for record in records))
    problems = [
        (record.problem if record is not None else "") or met.get(entry.name.label, "")
        for entry, record in zip(entries, records, strict=True)
    ]
    comparison.write_columns(
        {
            "neurons": np.array([-1 if r is None or r.problem else r.neurons for r in records]),
            "samples": np.array([-1 if r is None or r.problem else r.samples for r in records]),
            "rank": np.array([-1 if r is None or r.problem else r.kept_rank for r in records]),
            "variance_kept": np.array([np.nan if r is None else r.variance_kept for r in records]),
            "problem": _text(problems),
        }
    )
    comparison.consolidate()
    return {entry.name.label: problem for entry, problem in zip(entries, problems, strict=True) if problem}


def _text(values: Any) -> npt.NDArray[np.object_]:
    return np.array(list(values), dtype=object)


def _reference(group: Any) -> Any:
    """What a worker opens a store by."""
    return group.store_path
