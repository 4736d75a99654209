"""The first stage of a long representation: parts of it side by side, and a tree that merges their moments.

Where representations are many, each is one task and all workers are busy. Where they are few and long, a worker would
read one of them while the others wait. What is found of all parts together, the basis, is in the store before any part
is projected on it: should it be needed again, because a worker died or a run was stopped, it is the same one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.engine import _process
from dask_svcca.engine.subspace import (
    Samples,
    check,
    corrections,
    find_basis,
    finish,
    open_writer,
    score_chunks,
    sum_moments,
    verify,
    write_scores,
)
from dask_svcca.errors import InvalidActivationsError
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.kernels.moments import merge
from dask_svcca.kernels.subspace import Eigenbasis
from dask_svcca.plan.tasks import MERGED_AT_ONCE, Job, SubspaceReport, SubspaceTask
from dask_svcca.stores._chunked import ChunkReader
from dask_svcca.stores.subspaces import (
    SubspaceRecord,
    SubspaceWriter,
    read_draft,
    read_loadings,
    read_mean,
    read_record,
    read_spectrum,
    write_failure,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import zarr

    from dask_svcca.kernels._types import InexactArray


@dataclass(frozen=True, slots=True)
class Found:
    """What a task found, or why it found nothing; and what it took.

    Attributes
    ----------
    value : object
    problem : str
        Empty where all went well.
    lasting : bool
        Whether the problem is the activations' own, so that it is recorded.
    digests : dict of int to bytes
        Of the chunks of activations that were read.
    read : int
        Bytes of activations.
    seconds : dict of str to float
        By stage.
    """

    value: Any = None
    problem: str = ""
    lasting: bool = False
    digests: Mapping[int, bytes] = field(default_factory=dict)
    read: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


def subspace_graph(job: Job, task: SubspaceTask, report: str) -> dict[str, tuple[Any, ...]]:
    """The Dask graph of one subspace in parts; ``report`` is the key of its report."""
    name = f"{job.run}-{task.place}"
    graph: dict[str, tuple[Any, ...]] = {}
    level = [f"moments-{name}-{part}" for part in range(task.parts)]
    graph |= {key: (compute_moments, job, task, part) for part, key in enumerate(level)}
    depth = 0
    while len(level) > 1:
        groups = [level[start : start + MERGED_AT_ONCE] for start in range(0, len(level), MERGED_AT_ONCE)]
        level = [f"merged-{name}-{depth}-{number}" for number in range(len(groups))]
        graph |= {key: (merge_moments, group) for key, group in zip(level, groups, strict=True)}
        depth += 1
    basis, wrong = f"basis-{name}", f"correction-{name}"
    graph[basis] = (compute_basis, job, task, level[0])
    scores = [f"scores-{name}-{part}" for part in range(task.parts)]
    graph |= {key: (compute_scores, job, task, part, basis) for part, key in enumerate(scores)}
    graph[wrong] = (find_corrections, task, scores)
    corrected = [f"corrected-{name}-{part}" for part in range(task.parts)]
    graph |= {key: (correct_scores, job, task, part, basis, wrong) for part, key in enumerate(corrected)}
    graph[report] = (finish_subspace, job, task, basis, wrong, corrected)
    return graph


def compute_moments(job: Job, task: SubspaceTask, part: int) -> Found:
    """Moments of one part of the samples; none where an earlier run found the basis already."""

    def moments(samples: Samples) -> Any:
        if read_draft(_process.stores(job).comparison, task.place, task.digest) is not None:
            return None
        return sum_moments(samples.of_chunks(*_share(samples.array.chunks, task.parts, part)))

    return _attempt(job, task, [], moments)


def merge_moments(found: Sequence[Found]) -> Found:
    """Moments of several parts together."""
    values = [part.value for part in found]
    # Under an earlier basis, or after a failure, there are none.
    return _together(found, None if any(value is None for value in values) else reduce(merge, values))


def compute_basis(job: Job, task: SubspaceTask, merged: Found) -> Found:
    """Principal directions, (mean, basis); in the store before anything is projected on them."""

    def basis(samples: Samples) -> tuple[InexactArray, Eigenbasis]:
        root = _process.stores(job).comparison
        draft = read_draft(root, task.place, task.digest)
        if draft is not None:
            return _read_basis(root, draft)
        found = merged.value
        verify(merged.digests, task.digest)
        check(task, samples, found.count, finite=bool(np.isfinite(found.scatter).all()))
        basis = find_basis(job, task, samples, found)
        writer = open_writer(job, task, root, basis, found.count)
        finish(writer, task, samples.neurons, found.mean, basis, draft=True)
        return found.mean, basis

    return _together([merged, made := _attempt(job, task, [merged], basis)], made.value)


def _read_basis(root: zarr.Group, record: SubspaceRecord) -> tuple[InexactArray, Eigenbasis]:
    spectrum, block, kept = read_spectrum(root, record), record.block, record.kept
    weights = half_plane(record.grid).multiplicity[block]
    total = float((weights * spectrum)[kept].sum() / record.variance_kept)
    basis = Eigenbasis(spectrum, read_loadings(root, record), block, kept, total)
    return read_mean(root, record), basis


def compute_scores(job: Job, task: SubspaceTask, part: int, basis: Found) -> Found:
    """Scores of one part, written; their Gram matrices."""
    return _attempt(job, task, [basis], lambda samples: _project(job, task, samples, part, basis, {}))


def find_corrections(task: SubspaceTask, scores: Sequence[Found]) -> Found:
    """What puts scores right that are not orthonormal, by the first direction of the block; none where all are."""
    found = _together(scores, None)
    if found.problem:
        return found
    totals: dict[int, tuple[slice, Any]] = {}
    for columns, gram in (item for part in scores for item in part.value):
        before = totals[columns.start][1] if columns.start in totals else 0.0
        totals[columns.start] = columns, before + gram
    try:
        wrong = {columns.start: factor for columns, factor in corrections(totals.values())}
    except np.linalg.LinAlgError as error:
        return _together(scores, None, f"{task.label!r}: {type(error).__name__}: {error}")
    return _together(scores, wrong)


def correct_scores(job: Job, task: SubspaceTask, part: int, basis: Found, correction: Found) -> Found:
    """Scores of one part once more, where they have to be put right: from the activations, so as to be repeatable."""
    if not correction.value:
        return Found()
    return _attempt(
        job, task, [correction], lambda samples: _project(job, task, samples, part, basis, correction.value)
    )


def finish_subspace(
    job: Job, task: SubspaceTask, basis: Found, correction: Found, corrected: Sequence[Found]
) -> SubspaceReport:
    """Record the subspace, now that all of its parts are there."""

    def record(samples: Samples) -> None:
        verify(correction.digests, task.digest)
        mean, directions = basis.value
        writer = _writer(job, task, directions)
        finish(writer, task, samples.neurons, mean, directions)

    inputs = [basis, correction, *corrected]
    ended = _attempt(job, task, inputs, record)
    found = _together([*inputs, ended], None)
    root = _process.stores(job).comparison
    if found.lasting:
        write_failure(root, task.place, task.digest, found.problem)
    elif found.problem:
        there = read_record(root, task.place)
        if there is not None and there.digest != task.digest:
            # Made from other activations: no tile may take it for theirs.
            root.create_group(task.place, overwrite=True)
    return SubspaceReport(task.label, found.problem, read=found.read, skipped=False, seconds=dict(found.seconds))


def _project(
    job: Job, task: SubspaceTask, samples: Samples, part: int, basis: Found, correction: Mapping[int, InexactArray]
) -> list[tuple[slice, InexactArray]]:
    mean, directions = basis.value
    weights = directions.loadings / np.sqrt(directions.spectrum)
    for first, factor in correction.items():
        columns = slice(first, first + len(factor))
        weights[:, columns] = weights[:, columns] @ factor
    writer = _writer(job, task, directions)
    first, stop = _share(-(-task.samples // writer.rows), task.parts, part)
    window = _window(samples, task, first * writer.rows, min(stop * writer.rows, task.samples))
    chunks = score_chunks(window, mean, weights, directions.block, writer.rows)
    return write_scores(writer, first, chunks, directions.block)


def _window(samples: Samples, task: SubspaceTask, start: int, stop: int) -> Iterator[InexactArray]:
    """Some samples, chunk by chunk."""
    each = task.reading.samples(samples.array.rows)
    first = start // each
    for number, chunk in enumerate(samples.of_chunks(first, -(-stop // each)), start=first):
        yield chunk[max(0, start - number * each) : stop - number * each]


def _writer(job: Job, task: SubspaceTask, basis: Eigenbasis) -> SubspaceWriter:
    return open_writer(job, task, _process.stores(job).comparison, basis, task.samples, draft=True)


def _share(count: int, parts: int, part: int) -> tuple[int, int]:
    """First of some things in a row that a part takes, and the first of the next part's.

    Examples
    --------
    >>> [_share(7, 3, part) for part in range(3)]
    [(0, 2), (2, 4), (4, 7)]
    """
    return count * part // parts, count * (part + 1) // parts


def _attempt(job: Job, task: SubspaceTask, before: Sequence[Found], do: Callable[[Samples], Any]) -> Found:
    """Do a part of the work, unless what it builds upon failed."""
    failed = next((found for found in before if found.problem), None)
    if failed is not None:
        return Found(problem=failed.problem, lasting=failed.lasting)
    with _process.clock() as seconds:
        try:
            array = ChunkReader(_process.stores(job).zoo, f"{task.path}/activations")
            samples = Samples(array, task.digest, task.reading)
            value = do(samples)
        except InvalidActivationsError as error:
            return Found(problem=str(error), lasting=True, seconds=seconds)
        except (OSError, ValueError, RuntimeError) as error:
            return Found(problem=f"{task.label!r}: {type(error).__name__}: {error}", seconds=seconds)
    return Found(value, digests=samples.digests, read=samples.read, seconds=seconds)


def _together(found: Sequence[Found], value: Any, problem: str = "") -> Found:
    """A value found of several, with all they took, and the first problem that any of them had."""
    failed = next((part for part in found if part.problem), Found(problem=problem))
    seconds: dict[str, float] = {}
    for part in found:
        for stage, took in part.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + took
    digests = {chunk: digest for part in found for chunk, digest in part.digests.items()}
    read = sum(part.read for part in found)
    return Found(value, failed.problem, failed.lasting, digests, read, seconds)
