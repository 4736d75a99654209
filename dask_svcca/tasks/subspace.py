"""The first stage: from activations to subspaces in the store, one pack per task."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dask_svcca.errors import DamagedSubspacesError, InvalidActivationsError, UnreadableActivationsError
from dask_svcca.kernels.factors import Factor, factor, merge
from dask_svcca.kernels.subspace import eigenbasis, eigenbasis_of_rows
from dask_svcca.plan.tasks import SubspaceReport
from dask_svcca.stores.subspaces import PackWriter, Subspace, SubspaceEntry, chunk_length
from dask_svcca.tasks.dual import by_samples, sum_neurons
from dask_svcca.tasks.kernel import make_kernel
from dask_svcca.tasks.leading import make_leading
from dask_svcca.tasks.raw import StoredSamples, store_samples
from dask_svcca.tasks.relations import make_relation
from dask_svcca.tasks.samples import Samples, check, not_constant
from dask_svcca.tasks.scores import HeldScores, corrections, score_chunks, subspace_of, write_scores

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dask_svcca.devices.interface import Array
    from dask_svcca.kernels._types import InexactArray
    from dask_svcca.kernels.moments import Moments
    from dask_svcca.kernels.subspace import Eigenbasis
    from dask_svcca.plan.tasks import PackTask, SubspaceTask
    from dask_svcca.tasks.dual import Neurons
    from dask_svcca.tasks.scores import Begin, ScoreWriter
    from dask_svcca.tasks.worker import Context

NOT_MADE = SubspaceEntry("", "was not made: its activations cannot be read")


def make_pack(context: Context, task: PackTask) -> list[SubspaceReport]:
    """Make the subspaces of a pack, unless the store has them.

    Activations that cannot be compared are recorded with the reason. A store that cannot be read is reported, not
    recorded, so that another run tries again.
    """
    there = context.worker.subspaces.pack(task.name)
    if there is not None and _is_whole(task, [record.entry for record in there.records]):
        return [
            SubspaceReport(member.label, member.key, record.entry.problem, 0, {})
            for member, record in zip(task.members, there.records, strict=True)
        ]
    made = _make(context, task)
    reports = [
        SubspaceReport(member.label, member.key, problem, read, {})
        for member, (problem, read) in zip(task.members, made, strict=True)
    ]
    return [replace(reports[0], seconds=context.seconds), *reports[1:]]


def _is_whole(task: PackTask, entries: list[SubspaceEntry]) -> bool:
    return len(entries) == len(task.members) and all(
        entry.key == member.key
        and (bool(entry.problem) or ((entry.with_loadings or not member.with_loadings) and entry.share >= member.share))
        for entry, member in zip(entries, task.members, strict=True)
    )


_Made: TypeAlias = "tuple[str, int]"
"""A problem, empty where all went well, and bytes of activations read."""


def _make(context: Context, task: PackTask) -> list[_Made]:
    """Make the members of a pack, and of that of their samples as they are, if any; this one counts first."""
    pack = _PackOfOne if len(task.members) == 1 else _PackOfSeveral
    packs = [pack(context, task, name) for name in (task.samples, task.name) if name]
    made: list[_Made] = []
    for member in task.members:
        counts = [one.begun for one in packs]
        subspaces, problem, read = attempt(context, member, [one.begin for one in packs])
        for one, count, subspace in zip(packs, counts, subspaces, strict=True):
            one.add(subspace, count)
        made.append((problem, read))
    for one in packs:
        one.finish()
    return made


class _PackOfOne:
    """A pack of one member, whose scores go to the store as they come."""

    def __init__(self, context: Context, task: PackTask, name: str) -> None:
        self._context, self._task, self._name = context, task, name
        self._writers: list[PackWriter] = []
        self._subspaces: list[Subspace | SubspaceEntry] = []

    @property
    def begun(self) -> int:
        """How many members have begun to write scores."""
        return len(self._writers)

    def begin(self, samples: int, directions: int, dtype: np.dtype[Any]) -> ScoreWriter:
        """What takes the scores of the next member."""
        self._writers.append(_writer(self._context, self._task, self._name, samples, directions, dtype))
        return self._writers[-1]

    def add(self, subspace: Subspace | SubspaceEntry, _begun: int) -> None:
        """Take what is stored beside the scores."""
        if subspace is not NOT_MADE:
            self._subspaces.append(subspace)

    def finish(self) -> None:
        """Write the index, unless there was nothing to be read."""
        if not self._subspaces:
            return
        if not self._writers:
            self.begin(1, 0, self._task.members[0].score_dtype(self._context.job.parameters.precision))
        with self._context.timed("write"):
            self._writers[-1].finish(self._subspaces)


class _PackOfSeveral:
    """A pack of several members, whose scores wait for one another."""

    def __init__(self, context: Context, task: PackTask, name: str) -> None:
        self._context, self._task, self._name = context, task, name
        self._held: list[HeldScores] = []
        self._subspaces: list[Subspace | SubspaceEntry] = []

    @property
    def begun(self) -> int:
        """How many members have begun to write scores."""
        return len(self._held)

    def begin(self, samples: int, directions: int, dtype: np.dtype[Any]) -> ScoreWriter:
        """What takes the scores of the next member."""
        length = chunk_length(samples, self._task.members[0].most_rows(self._context.job.chunk_samples))
        self._held.append(HeldScores(samples, directions, dtype, length))
        return self._held[-1]

    def add(self, subspace: Subspace | SubspaceEntry, begun: int) -> None:
        """Take what is stored beside the scores of a member, before which ``begun`` others had begun."""
        if not isinstance(subspace, Subspace):
            # Scores that were begun may be there in part.
            del self._held[begun:]
        self._subspaces.append(subspace)

    def finish(self) -> None:
        """Write all members."""
        held, context = self._held, self._context
        with context.timed("write"):
            dtype = self._task.members[0].score_dtype(context.job.parameters.precision)
            samples = len(held[0].scores) if held else 1
            directions = sum(one.scores.shape[1] for one in held)
            writer = _writer(context, self._task, self._name, samples, directions, dtype)
            # In the order in which they are stored: a direction's scores side by side.
            room = np.empty((directions, min(samples, writer.chunk_samples)), dtype).T
            for chunk, start in enumerate(range(0, samples if held else 0, writer.chunk_samples)):
                parts = [one.scores[start : start + writer.chunk_samples] for one in held]
                writer.write_scores(chunk, np.concatenate(parts, axis=1, out=room[: len(parts[0])]))
            del room
            writer.finish(self._subspaces)


def _writer(
    context: Context, task: PackTask, name: str, samples: int, directions: int, dtype: np.dtype[Any]
) -> PackWriter:
    return PackWriter(
        context.worker.subspaces,
        name,
        samples=samples,
        directions=directions,
        dtype=dtype,
        chunk_samples=chunk_length(samples, task.members[0].most_rows(context.job.chunk_samples)),
    )


def attempt(
    context: Context, member: SubspaceTask, begin: Sequence[Begin]
) -> tuple[list[Subspace | SubspaceEntry], str, int]:
    """Make one subspace. Returns it or its entry alone, for each pack, what went wrong, and bytes that were read."""
    read = 0
    try:
        if member.source is not None:
            return [_from_raw(context, member, *begin)], "", 0
        with Samples(context, member, held=member.memory.held) as samples:
            try:
                subspaces = _make_subspaces(context, member, samples, begin)
            finally:
                read = samples.read
    except DamagedSubspacesError as error:
        if not error.pack:
            raise
        # The next run makes it from the activations.
        context.worker.subspaces.forget(error.pack)
        return [NOT_MADE] * len(begin), f"was not made: {error}", read
    except InvalidActivationsError as error:
        return [SubspaceEntry(member.key, str(error))] * len(begin), str(error), read
    except UnreadableActivationsError as error:
        return [NOT_MADE] * len(begin), str(error), read
    except np.linalg.LinAlgError as error:
        return [NOT_MADE] * len(begin), f"has directions that LAPACK cannot compute: {error}", read
    return subspaces, "", read


def _make_subspaces(
    context: Context, task: SubspaceTask, samples: Samples, begin: Sequence[Begin]
) -> list[Subspace | SubspaceEntry]:
    """Make a subspace; before its leading directions, or inner products, its samples as they are."""
    if task.relation is not None:
        return [make_relation(context, task, task.relation, samples, begin[0])]
    if not task.stores_samples:
        return [_make_subspace(context, task, samples, begin[0])]
    neurons = sum_neurons(context, samples)
    raw, writer, norm = store_samples(context, task, samples, neurons, begin[0])
    if not task.orthonormal:
        kernel = make_kernel(context, task, raw, writer, begin[1])
        return [replace(raw, entry=replace(raw.entry, squares=kernel.entry.squares)), kernel]
    found = make_leading(context, task, raw, writer, norm, begin[1])
    return [raw, found or _by_neurons(context, task, samples, begin[1])]


def _make_subspace(context: Context, task: SubspaceTask, samples: Samples, begin: Begin) -> Subspace:
    """Make a subspace from samples that can be iterated over several times."""
    dual = task.reading.by_samples(samples.array.shape)
    if not dual and task.orthonormal:
        return _by_neurons(context, task, samples, begin)
    neurons = sum_neurons(context, samples)
    if not task.orthonormal:
        return store_samples(context, task, samples, neurons, begin)[0]
    return _by_samples(context, task, samples, neurons, neurons.mean, begin)


def _by_samples(
    context: Context,
    task: SubspaceTask,
    samples: Samples | StoredSamples,
    neurons: Neurons,
    mean: InexactArray,
    begin: Begin,
) -> Subspace:
    """Directions from inner products of samples."""
    basis, scores = by_samples(context, task, samples, neurons)
    writer = begin(len(scores), scores.shape[1], task.score_dtype(context.job.parameters.precision))
    with context.timed("write"):
        for number, start in enumerate(range(0, len(scores), writer.chunk_samples)):
            writer.write_scores(number, scores[start : start + writer.chunk_samples])
    return subspace_of(task, samples.neurons, neurons.count, mean, basis, with_loadings=task.with_loadings)


def _from_raw(context: Context, task: SubspaceTask, begin: Begin) -> Subspace:
    """Make a subspace from samples that were stored as they are."""
    samples = StoredSamples(context, task)
    raw = Subspace(samples.entry, samples.mean, samples.variances, np.zeros((0, 0)))
    if not task.orthonormal:
        return make_kernel(context, task, raw, samples, begin)
    if task.share < 1:
        return make_leading(context, task, raw, samples, None, begin) or _by_neurons(context, task, samples, begin)
    if samples.neurons > samples.entry.samples:
        return _by_samples(context, task, samples, samples.sum_neurons(), samples.mean, begin)
    return _by_neurons(context, task, samples, begin)


def _by_neurons(context: Context, task: SubspaceTask, samples: Samples | StoredSamples, begin: Begin) -> Subspace:
    """Two passes: moments, then scores."""
    totals = [sum_moments(context, samples)]
    count, mean = totals[0].count, totals[0].mean
    if isinstance(samples, Samples):
        check(samples, count, finite=is_finite(totals[0]))
    else:
        # The mean that was taken off says how much noise its rounding left.
        totals = [replace(totals.pop(), mean=samples.mean)]
    # The scatter may be as large as all else: nothing else holds it.
    basis = find_basis(context, task, samples, totals)
    dtype = task.score_dtype(context.job.parameters.precision)
    writer = begin(count, len(basis.spectrum), dtype)
    projected = context.device.projection(mean, basis, dtype)
    chunks = score_chunks(context, samples, projected, len(basis.spectrum), writer.chunk_samples)
    grams = write_scores(context, writer, 0, chunks, basis)
    with context.timed("project"):
        factors = corrections(grams)
    del grams
    for chunk in range(-(-count // writer.chunk_samples) if factors else 0):
        with context.timed("read"):
            scores = writer.read_scores(chunk)
        with context.timed("project"):
            for columns, factor in factors:
                room = np.empty((len(scores), len(factor)), np.result_type(scores, factor))
                scores[:, columns] = context.device.multiply(scores[:, columns], factor, out=room)
                del room
        with context.timed("write"):
            writer.write_scores(chunk, scores)
        del scores
    whole_mean = mean if isinstance(samples, Samples) else samples.mean
    return subspace_of(task, samples.neurons, count, whole_mean, basis, with_loadings=True)


def sum_moments(context: Context, chunks: Iterable[Array]) -> Moments:
    """Moments of some chunks together.

    Infinities and overflow give a scatter that is not finite, which `check` refuses.
    """
    total = context.device.moments()
    for chunk in chunks:
        with context.timed("covariance"):
            total.add(chunk)
        del chunk
    with context.timed("covariance"):
        return total.value


def is_finite(total: Moments) -> bool:
    """Whether all of the scatter is finite: block by block, since booleans for all take an eighth of it."""
    return all(bool(np.isfinite(block).all()) for block in total.scatter)


def find_basis(
    context: Context, task: SubspaceTask, samples: Samples | StoredSamples, total: list[Moments]
) -> Eigenbasis:
    """Principal directions from the moments of all samples, which are taken out of their list.

    Samples in double precision, with directions that their squares do not show, are read once more.
    """
    count = total[0].count
    multiplicity = task.reading.multiplicity
    with context.timed("eigen"):
        solve = context.device.eigenvectors
        basis = eigenbasis(total.pop(), multiplicity=multiplicity, epsilon=samples.epsilon, solve=solve)
    if basis is None:
        rows = _rows(context, samples)
        with context.timed("eigen"):
            basis = eigenbasis_of_rows(rows, multiplicity=multiplicity, epsilon=samples.epsilon)
    return not_constant(basis, count)


def _rows(context: Context, samples: Samples | StoredSamples) -> Factor:
    """All samples up to a rotation: some at a time, since the rows of as many neurons are as large as the scatter."""
    total: Factor | None = None
    step = -(-samples.neurons // 2)
    for chunk in samples:
        for start in range(0, len(chunk), step):
            with context.timed("covariance"):
                first, *others = np.moveaxis(context.device.host(chunk[start : start + step]), 1, 0)
                part = factor([first.real, *others])
                total = part if total is None else merge([total, part])
            del part, first, others
        del chunk
    assert total is not None  # noqa: S101 - its moments were summed up before
    return total
