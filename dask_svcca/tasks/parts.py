"""The first stage of a long representation: parts of it side by side, and a tree that merges their moments.

Where representations are many, each is one task and all workers are busy. Where they are few and long, a worker would
read one of them while the others wait. The basis, which follows from all parts together, is in the store before any
part is projected on it: if it is needed again, because a worker died or a run was stopped, it is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import DamagedSubspacesError, InvalidActivationsError, UnreadableActivationsError
from dask_svcca.kernels.moments import merge
from dask_svcca.kernels.subspace import Eigenbasis
from dask_svcca.plan.tasks import SubspaceReport
from dask_svcca.stores.subspaces import PackWriter, SubspaceEntry, chunk_length
from dask_svcca.tasks.samples import Samples, check, verify
from dask_svcca.tasks.scores import corrections, score_chunks, subspace_of, write_scores
from dask_svcca.tasks.subspace import find_basis, is_finite, sum_moments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.devices.interface import Array
    from dask_svcca.kernels._types import InexactArray
    from dask_svcca.plan.tasks import PartTask, SubspaceTask
    from dask_svcca.stores.subspaces import Pack
    from dask_svcca.tasks.scores import ScoreWriter
    from dask_svcca.tasks.worker import Context


@dataclass(frozen=True, slots=True)
class Found:
    """What a step computed, or why it could not; with its reads and its time.

    Attributes
    ----------
    value : object
    problem : str
        Empty where all went well.
    lasting : bool
        Whether the problem is the activations' own, so that it is recorded.
    digests : dict of int to bytes
        Digests of the chunks of activations that were read.
    read : int
        Bytes of activations that were read.
    seconds : dict of str to float
        Time by stage.
    device_failure : str
        Why it, or a step before it, was computed on the CPU in the end, where the device failed.
    """

    value: Any = None
    problem: str = ""
    lasting: bool = False
    digests: Mapping[int, bytes] = field(default_factory=dict)
    read: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    device_failure: str = ""


def perform_part(context: Context, task: PartTask, *needed: Found) -> Found | list[SubspaceReport]:
    """Do one step.

    Parameters
    ----------
    context : Context
    task : PartTask
    *needed : Found
        Results of the steps before; see `dask_svcca.plan.graph`.
    """
    result: Found | list[SubspaceReport] = STEPS[task.step](context, task, needed)
    return result


def _moments(context: Context, task: PartTask, _: Sequence[Found]) -> Found:
    """Moments of one part of the samples; none where an earlier run has made the basis."""

    def moments(samples: Samples) -> Any:
        if _draft(context, task) is not None:
            return None
        return sum_moments(context, samples.of_chunks(*_share(samples.array.chunks, task.pack.parts, task.number)))

    return _attempt(context, task, [], moments)


def _merged(context: Context, _task: PartTask, parts: Sequence[Found]) -> Found:
    """Moments of several parts together."""
    values = [part.value for part in parts]
    # With an earlier basis, or after a failure, there are none.
    if any(value is None for value in values):
        return _together(parts, None)
    with context.timed("covariance"):
        merged = merge(*values)
    return _together([*parts, Found(seconds=context.seconds)], merged)


def _basis(context: Context, task: PartTask, needed: Sequence[Found]) -> Found:
    """Principal directions, (mean, basis); in the store before anything is projected on them."""
    (merged,) = needed

    def basis(samples: Samples) -> tuple[InexactArray, Eigenbasis]:
        earlier = _draft(context, task)
        if earlier is not None:
            return earlier
        if merged.value is None:
            raise UnreadableActivationsError("was not made: what an earlier run left of it was damaged just now")
        total, member = merged.value, _member(task)
        verify(merged.digests, member.digest)
        check(samples, total.count, finite=is_finite(total))
        directions = find_basis(context, member, samples, [replace(total, scatter=total.scatter.copy())])
        subspace = subspace_of(member, samples.neurons, total.count, total.mean, directions, with_loadings=True)
        with context.timed("write"):
            _writer(context, task, directions, exist_ok=False).finish([subspace], draft=True)
        return total.mean, directions

    return _together([merged, made := _attempt(context, task, [merged], basis)], made.value)


def _draft(context: Context, task: PartTask) -> tuple[InexactArray, Eigenbasis] | None:
    """The mean and the basis that an earlier attempt, or an earlier run, left; one that is damaged no longer counts."""
    subspaces = context.worker.subspaces
    with context.timed("read"):
        draft = subspaces.draft(task.pack.name)
        if draft is None or draft.records[0].entry.key != _member(task).key:
            return None
        try:
            return _read_basis(draft)
        except DamagedSubspacesError as error:
            if not error.pack:
                raise
            subspaces.forget(task.pack.name)
            return None


def _read_basis(draft: Pack) -> tuple[InexactArray, Eigenbasis]:
    (record,) = draft.records
    basis = Eigenbasis(
        draft.spectrum(record).copy(), draft.loadings(record), record.entry.block, total=record.entry.total
    )
    return draft.mean(record), basis


def _scores(context: Context, task: PartTask, needed: Sequence[Found]) -> Found:
    """Scores of one part, written unless they are being corrected; Gram matrices of blocks that may need correction."""
    (basis,) = needed
    return _attempt(context, task, needed, lambda samples: _project(context, task, samples, basis, {}))


def _corrections(context: Context, task: PartTask, scores: Sequence[Found]) -> Found:
    """Factors that make scores orthonormal, by the first direction of the block; none where all are."""
    before = _together(scores, None)
    if before.problem:
        return before
    try:
        with context.timed("project"):
            factors = _factors([item for part in scores for item in part.value])
    except np.linalg.LinAlgError as error:
        return _together(scores, None, f"has scores that cannot be made orthonormal: {error}")
    if factors:
        with context.timed("write"):
            context.worker.subspaces.begin_correction(task.pack.name)
    return _together([*scores, Found(seconds=context.seconds)], factors)


def _factors(grams: Sequence[tuple[slice, InexactArray]]) -> dict[int, InexactArray]:
    """Corrections by the first direction of the block, from the Gram matrices of all parts."""
    totals: dict[int, tuple[slice, InexactArray]] = {}
    for columns, gram in grams:
        totals[columns.start] = columns, totals[columns.start][1] + gram if columns.start in totals else gram
    return {columns.start: factor for columns, factor in corrections(totals.values())}


def _corrected(context: Context, task: PartTask, needed: Sequence[Found]) -> Found:
    """Scores of one part again, where they need correction: from the activations, so that it can be repeated."""
    basis, correction = needed
    if not correction.value:
        return Found(problem=correction.problem, lasting=correction.lasting)
    return _attempt(context, task, needed, lambda samples: _project(context, task, samples, basis, correction.value))


def _finish(context: Context, task: PartTask, needed: Sequence[Found]) -> list[SubspaceReport]:
    """Write the index of the pack, now that all of its parts are there."""
    basis, correction, *_ = needed
    member = _member(task)

    def index(samples: Samples) -> None:
        verify(correction.digests, member.digest)
        mean, directions = basis.value
        subspace = subspace_of(member, samples.neurons, member.samples, mean, directions, with_loadings=True)
        with context.timed("write"):
            _writer(context, task, directions).finish([subspace])

    ended = _attempt(context, task, needed, index)
    result = _together([*needed, ended], None)
    if result.lasting:
        dtype = _dtype(context, task)
        failed = PackWriter(
            context.worker.subspaces, task.pack.name, samples=1, directions=0, dtype=dtype, chunk_samples=1
        )
        failed.finish([SubspaceEntry(member.key, result.problem)])
    return [SubspaceReport(member.label, member.key, result.problem, result.read, dict(result.seconds))]


STEPS: dict[str, Callable[[Context, PartTask, Sequence[Found]], Any]] = {
    "moments": _moments,
    "merge": _merged,
    "basis": _basis,
    "scores": _scores,
    "corrections": _corrections,
    "correct": _corrected,
    "finish": _finish,
}


def _project(
    context: Context, task: PartTask, samples: Samples, basis: Found, correction: Mapping[int, InexactArray]
) -> list[tuple[slice, InexactArray]]:
    mean, directions = basis.value
    member = _member(task)
    writer: ScoreWriter = _writer(context, task, directions)
    if not correction and context.worker.subspaces.is_corrected(task.pack.name):
        writer = _Dropped(writer.chunk_samples)
    length = writer.chunk_samples
    first, stop = _share(-(-member.samples // length), task.pack.parts, task.number)
    window = _window(samples, member, first * length, min(stop * length, member.samples))
    projected = context.device.projection(mean, directions, _dtype(context, task), correction)
    chunks = score_chunks(context, window, projected, len(directions.spectrum), length)
    return write_scores(context, writer, first, chunks, directions)


class _Dropped:
    """Takes scores that are not to be written."""

    def __init__(self, chunk_samples: int) -> None:
        self.chunk_samples = chunk_samples

    def write_scores(self, chunk: int, scores: npt.NDArray[Any]) -> None:
        """Take one chunk, (sample, direction)."""

    def read_scores(self, chunk: int) -> InexactArray:
        """Give nothing back."""
        raise NotImplementedError(f"chunk {chunk} was not written")


def _window(samples: Samples, member: SubspaceTask, start: int, stop: int) -> Iterator[Array]:
    """Some samples, chunk by chunk."""
    each = member.reading.samples(samples.array.rows)
    first = start // each
    for number, chunk in enumerate(samples.of_chunks(first, -(-stop // each)), start=first):
        yield chunk[max(0, start - number * each) : stop - number * each]
        del chunk


def _member(task: PartTask) -> SubspaceTask:
    (member,) = task.pack.members
    return member


def _dtype(context: Context, task: PartTask) -> np.dtype[Any]:
    return _member(task).score_dtype(context.job.parameters.precision)


def _writer(context: Context, task: PartTask, basis: Eigenbasis, *, exist_ok: bool = True) -> PackWriter:
    samples = _member(task).samples
    return PackWriter(
        context.worker.subspaces,
        task.pack.name,
        samples=samples,
        directions=len(basis.spectrum),
        dtype=_dtype(context, task),
        chunk_samples=chunk_length(samples, context.job.chunk_samples),
        exist_ok=exist_ok,
    )


def _share(count: int, parts: int, part: int) -> tuple[int, int]:
    """First of some items in a row that a part takes, and the first that the next part takes.

    Examples
    --------
    >>> [_share(7, 3, part) for part in range(3)]
    [(0, 2), (2, 4), (4, 7)]
    """
    return count * part // parts, count * (part + 1) // parts


def _attempt(context: Context, task: PartTask, before: Sequence[Found], do: Callable[[Samples], Any]) -> Found:
    """Do a part of the work, unless what it builds upon failed."""
    failed = next((result for result in before if result.problem), None)
    if failed is not None:
        return Found(problem=failed.problem, lasting=failed.lasting)
    try:
        with Samples(context, _member(task)) as samples:
            value = do(samples)
    except InvalidActivationsError as error:
        return Found(problem=str(error), lasting=True, seconds=context.seconds)
    except UnreadableActivationsError as error:
        return Found(problem=str(error), seconds=context.seconds)
    except np.linalg.LinAlgError as error:
        return Found(problem=f"has directions that LAPACK cannot compute: {error}", seconds=context.seconds)
    return Found(value, digests=samples.digests, read=samples.read, seconds=context.seconds)


def _together(results: Sequence[Found], value: Any, problem: str = "") -> Found:
    """A value from several results, with all their reads and times, and the first of their problems."""
    failed = next((result for result in results if result.problem), Found(problem=problem))
    seconds: dict[str, float] = {}
    for result in results:
        for stage, took in result.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + took
    digests = {chunk: digest for result in results for chunk, digest in result.digests.items()}
    read = sum(result.read for result in results)
    return Found(value, failed.problem, failed.lasting, digests, read, seconds)
