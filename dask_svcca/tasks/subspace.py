"""The first stage: from activations to subspaces in the store, one pack per task."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from dask_svcca.errors import InvalidActivationsError, UnreadableActivationsError
from dask_svcca.kernels.factors import Factor, factor, merge
from dask_svcca.kernels.moments import Moments, add_chunk, moments
from dask_svcca.kernels.projection import projection
from dask_svcca.kernels.subspace import (
    blocks_of,
    eigenbasis,
    eigenbasis_of_rows,
    gram_correction,
    needs_correction,
)
from dask_svcca.plan.memory import score_dtype
from dask_svcca.plan.tasks import SubspaceReport
from dask_svcca.stores.subspaces import Block, PackWriter, Subspace, SubspaceEntry, chunk_length
from dask_svcca.tasks.dual import by_samples
from dask_svcca.tasks.samples import Samples, check, not_constant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy.typing as npt

    from dask_svcca.kernels._types import InexactArray
    from dask_svcca.kernels.subspace import Eigenbasis
    from dask_svcca.plan.tasks import PackTask, SubspaceTask
    from dask_svcca.tasks.worker import Context

GRAM_TOLERANCE = 1e-9
"""Departure of the scores from orthonormality that is left alone: it moves correlations by about as much."""

NOT_MADE = SubspaceEntry("", "was not made: its activations cannot be read")


class ScoreWriter(Protocol):
    """Takes the scores of one subspace, chunk by chunk."""

    chunk_samples: int

    def write_scores(self, chunk: int, scores: InexactArray) -> None:
        """Take one chunk, (sample, direction)."""

    def read_scores(self, chunk: int) -> InexactArray:
        """Give one chunk back."""


Begin: TypeAlias = "Callable[[int, int, np.dtype[Any]], ScoreWriter]"
"""Makes what takes scores: from the numbers of samples and of directions, and the type of the scores."""


class HeldScores:
    """Scores of one subspace in memory, until those of the whole pack are there."""

    def __init__(self, samples: int, directions: int, dtype: np.dtype[Any], chunk_samples: int) -> None:
        self.chunk_samples = chunk_samples
        self.scores: npt.NDArray[Any] = np.empty((samples, directions), dtype=dtype)

    def write_scores(self, chunk: int, scores: InexactArray) -> None:
        """Take one chunk, (sample, direction)."""
        self.scores[chunk * self.chunk_samples :][: len(scores)] = scores

    def read_scores(self, chunk: int) -> InexactArray:
        """Give one chunk back, in double precision."""
        part = self.scores[chunk * self.chunk_samples :][: self.chunk_samples]
        return part.astype(np.result_type(part.dtype, np.float64))


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
    made = _make_one(context, task) if len(task.members) == 1 else _make_several(context, task)
    reports = [
        SubspaceReport(member.label, member.key, problem, read, {})
        for member, (problem, read) in zip(task.members, made, strict=True)
    ]
    return [replace(reports[0], seconds=context.seconds), *reports[1:]]


def _is_whole(task: PackTask, entries: list[SubspaceEntry]) -> bool:
    return len(entries) == len(task.members) and all(
        entry.key == member.key and (bool(entry.problem) or entry.with_loadings or not member.with_loadings)
        for entry, member in zip(entries, task.members, strict=True)
    )


_Made: TypeAlias = "tuple[str, int]"
"""A problem, empty where all went well, and bytes of activations read."""


def _make_one(context: Context, task: PackTask) -> list[_Made]:
    """A pack of one member, whose scores go to the store as they come."""
    (member,) = task.members
    writers: list[PackWriter] = []

    def begin(samples: int, directions: int, dtype: np.dtype[Any]) -> ScoreWriter:
        writers.append(_writer(context, task, samples, directions, dtype))
        return writers[-1]

    subspace, problem, read = attempt(context, member, begin)
    if subspace is not NOT_MADE:
        if not writers:
            begin(1, 0, np.dtype(context.job.parameters.precision))
        with context.timed("write"):
            writers[-1].finish([subspace])
    return [(problem, read)]


def _make_several(context: Context, task: PackTask) -> list[_Made]:
    """A pack of several members, whose scores wait for one another."""
    held: list[HeldScores] = []

    def begin(samples: int, directions: int, dtype: np.dtype[Any]) -> ScoreWriter:
        length = chunk_length(samples, context.job.chunk_samples)
        held.append(HeldScores(samples, directions, dtype, length))
        return held[-1]

    subspaces: list[Subspace | SubspaceEntry] = []
    made: list[_Made] = []
    for member in task.members:
        count = len(held)
        subspace, problem, read = attempt(context, member, begin)
        if not isinstance(subspace, Subspace):
            # Scores that were begun may be there in part.
            del held[count:]
        subspaces.append(subspace)
        made.append((problem, read))
    with context.timed("write"):
        dtype = score_dtype(context.job.parameters.precision, is_complex=task.members[0].reading.is_complex)
        samples = len(held[0].scores) if held else 1
        writer = _writer(context, task, samples, sum(one.scores.shape[1] for one in held), dtype)
        # In the order in which they are stored: a direction's scores side by side.
        room = np.empty((sum(one.scores.shape[1] for one in held), min(samples, writer.chunk_samples)), dtype).T
        for chunk, start in enumerate(range(0, samples if held else 0, writer.chunk_samples)):
            parts = [one.scores[start : start + writer.chunk_samples] for one in held]
            writer.write_scores(chunk, np.concatenate(parts, axis=1, out=room[: len(parts[0])]))
        del room
        writer.finish(subspaces)
    return made


def _writer(context: Context, task: PackTask, samples: int, directions: int, dtype: np.dtype[Any]) -> PackWriter:
    return PackWriter(
        context.worker.subspaces,
        task.name,
        samples=samples,
        directions=directions,
        dtype=dtype,
        chunk_samples=chunk_length(samples, context.job.chunk_samples),
    )


def attempt(context: Context, member: SubspaceTask, begin: Begin) -> tuple[Subspace | SubspaceEntry, str, int]:
    """Make one subspace. Returns it or its entry alone, what went wrong, and bytes of activations read."""
    read = 0
    try:
        samples = Samples(context, member, held=member.memory.held)
        try:
            subspace = _make_subspace(context, member, samples, begin)
        finally:
            read = samples.read
    except InvalidActivationsError as error:
        return SubspaceEntry(member.key, str(error)), str(error), read
    except UnreadableActivationsError as error:
        return NOT_MADE, str(error), read
    except np.linalg.LinAlgError as error:
        return NOT_MADE, f"has directions that LAPACK cannot compute: {error}", read
    return subspace, "", read


def _make_subspace(context: Context, task: SubspaceTask, samples: Samples, begin: Begin) -> Subspace:
    """Make a subspace from samples that can be iterated over several times."""
    if not task.reading.by_samples(samples.array.shape):
        return _by_neurons(context, task, samples, begin)
    count, mean, basis, scores = by_samples(context, task, samples)
    writer = begin(count, len(basis.spectrum), _score_dtype(context, task))
    with context.timed("write"):
        for chunk_index, start in enumerate(range(0, count, writer.chunk_samples)):
            writer.write_scores(chunk_index, scores[start : start + writer.chunk_samples])
    return subspace_of(task, samples.neurons, count, mean, basis, with_loadings=task.with_loadings)


def subspace_of(
    task: SubspaceTask, neurons: int, count: int, mean: InexactArray, basis: Eigenbasis, *, with_loadings: bool
) -> Subspace:
    """What is stored of a subspace beside its scores."""
    multiplicity = task.reading.multiplicity
    entry = SubspaceEntry(
        key=task.key,
        samples=count,
        neurons=neurons,
        domain=task.reading.domain,
        grid=task.reading.grid,
        total=basis.total,
        blocks=tuple(
            Block(index, int(multiplicity[index]), columns.stop - columns.start)
            for index, columns in blocks_of(basis.block)
        ),
        with_loadings=with_loadings,
    )
    return Subspace(entry, mean, basis.spectrum, basis.loadings)


def _by_neurons(context: Context, task: SubspaceTask, samples: Samples, begin: Begin) -> Subspace:
    """Two passes: moments, then scores."""
    totals = [sum_moments(context, samples)]
    count, mean = totals[0].count, totals[0].mean
    check(samples, count, finite=is_finite(totals[0]))
    # The scatter may be as large as all else: nothing else holds it.
    basis = find_basis(context, task, samples, totals)
    writer = begin(count, len(basis.spectrum), _score_dtype(context, task))
    chunks = score_chunks(context, samples, mean, basis, writer.chunk_samples, _score_dtype(context, task))
    grams = write_scores(context, writer, 0, chunks, basis)
    with context.timed("project"):
        factors = corrections(grams)
    del grams
    for chunk in range(-(-count // writer.chunk_samples) if factors else 0):
        with context.timed("read"):
            scores = writer.read_scores(chunk)
        with context.timed("project"):
            for columns, factor in factors:
                scores[:, columns] = scores[:, columns] @ factor
        with context.timed("write"):
            writer.write_scores(chunk, scores)
        del scores
    return subspace_of(task, samples.neurons, count, mean, basis, with_loadings=True)


def sum_moments(context: Context, chunks: Iterable[InexactArray]) -> Moments:
    """Moments of some chunks together.

    Infinities and overflow give a scatter that is not finite, which `check` refuses.
    """
    total: Moments | None = None
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk in chunks:
            with context.timed("covariance"):
                total = moments(chunk) if total is None else add_chunk(total, chunk)
            del chunk
    if total is None:
        raise ValueError("there are no samples to sum up")
    return total


def is_finite(total: Moments) -> bool:
    """Whether all of the scatter is finite: block by block, since booleans for all take an eighth of it."""
    return all(bool(np.isfinite(block).all()) for block in total.scatter)


def find_basis(context: Context, task: SubspaceTask, samples: Samples, total: list[Moments]) -> Eigenbasis:
    """Principal directions from the moments of all samples, which are taken out of their list.

    Samples in double precision, with directions that their squares do not show, are read once more.
    """
    count = total[0].count
    multiplicity = task.reading.multiplicity
    with context.timed("eigen"):
        basis = eigenbasis(total.pop(), multiplicity=multiplicity, epsilon=samples.epsilon)
    if basis is None:
        rows = _rows(context, samples)
        with context.timed("eigen"):
            basis = eigenbasis_of_rows(rows, multiplicity=multiplicity, epsilon=samples.epsilon)
    return not_constant(basis, count)


def _rows(context: Context, samples: Samples) -> Factor:
    """All samples up to a rotation: some at a time, since the rows of as many neurons are as large as the scatter."""
    total: Factor | None = None
    step = -(-samples.neurons // 2)
    for chunk in samples:
        for start in range(0, len(chunk), step):
            with context.timed("covariance"):
                first, *others = np.moveaxis(chunk[start : start + step], 1, 0)
                part = factor([first.real, *others])
                total = part if total is None else merge([total, part])
            del part, first, others
        del chunk
    assert total is not None  # noqa: S101 - its moments were summed up before
    return total


def _score_dtype(context: Context, task: SubspaceTask) -> np.dtype[Any]:
    return score_dtype(context.job.parameters.precision, is_complex=task.reading.is_complex)


def score_chunks(
    context: Context,
    samples: Iterable[InexactArray],
    mean: InexactArray,
    basis: Eigenbasis,
    length: int,
    dtype: np.dtype[Any],
    correction: Mapping[int, InexactArray] | None = None,
) -> Iterator[InexactArray]:
    """Scores, ``length`` samples at a time; the last may be fewer. Each chunk overwrites the one before.

    They are of the type in which they are to be stored, or of double precision. A correction is given by the first
    direction of its block, and multiplies the scores of that block from the right.
    """
    projected = projection(mean, basis, dtype, correction)
    # In the order in which they are stored: the scores of a direction side by side.
    buffer = np.empty((len(basis.spectrum), length), dtype=projected.dtype).T
    filled = 0
    for chunk in samples:
        start = 0
        while start < len(chunk):
            part = chunk[start : start + length - filled]
            with context.timed("project"):
                projected(part, buffer[filled : filled + len(part)])
            start, filled = start + len(part), filled + len(part)
            del part
            if filled == length:
                yield buffer
                filled = 0
        del chunk
    if filled:
        yield buffer[:filled]


def write_scores(
    context: Context, writer: ScoreWriter, first: int, chunks: Iterable[InexactArray], basis: Eigenbasis
) -> list[tuple[slice, InexactArray]]:
    """Write chunks of scores. Returns the Gram matrix, over all of them, of each block that may need correction."""
    weak = [columns for _, columns in blocks_of(basis.block) if needs_correction(basis, columns)]
    grams: list[InexactArray | float] = [0.0] * len(weak)
    for number, scores in enumerate(chunks, start=first):
        with context.timed("project"):
            for index, columns in enumerate(weak):
                grams[index] = grams[index] + scores[:, columns].conj().T @ scores[:, columns]
        with context.timed("write"):
            writer.write_scores(number, scores)
    return [(columns, np.asarray(gram)) for columns, gram in zip(weak, grams, strict=True)]


def corrections(grams: Iterable[tuple[slice, InexactArray]]) -> list[tuple[slice, InexactArray]]:
    """Factors, from the right, for scores that the covariance route left short of orthonormal."""
    return [(columns, gram_correction(gram)) for columns, gram in grams if not _is_identity(gram)]


def _is_identity(gram: InexactArray) -> bool:
    return all(
        float(np.abs(row - (np.arange(len(row)) == index)).max()) <= GRAM_TOLERANCE for index, row in enumerate(gram)
    )
