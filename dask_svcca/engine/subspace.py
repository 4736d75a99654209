"""The first stage: one representation, from activations to a subspace in the store."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dask_svcca.engine import _process
from dask_svcca.errors import InvalidActivationsError
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.kernels.moments import Moments, merge, moments
from dask_svcca.kernels.readings import chosen_positions
from dask_svcca.kernels.subspace import Eigenbasis, blocks_of, dual_basis, eigenbasis, gram_correction, project
from dask_svcca.plan.comparison import kept_samples
from dask_svcca.plan.tasks import Job, SubspaceReport, SubspaceTask
from dask_svcca.stores._chunked import ChunkReader
from dask_svcca.stores.subspaces import Block, SubspaceWriter, read_record, write_failure
from dask_svcca.stores.zoo import chunk_digest, combined_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.readings import Reading

GRAM_TOLERANCE = 1e-9
"""Departure of the scores from orthonormality that is left alone: it moves correlations by about as much."""


class Samples:
    """The samples of a representation, chunk by chunk, as often as asked; kept where they are small enough.

    Attributes
    ----------
    array : ChunkReader
    digests : dict of int to bytes
        Of the chunks read so far.
    read : int
        Bytes of activations.
    epsilon : float
        Relative precision of the activations.
    neurons : int
        Of a block.
    """

    def __init__(
        self,
        array: ChunkReader,
        digest: str,
        reading: Reading,
        mask: npt.NDArray[np.bool_] | None = None,
        keep: int = 0,
    ) -> None:
        self.array = array
        self._digest = digest
        self._reading = reading
        self._mask = mask
        self._budget = keep
        self._kept: dict[int, InexactArray] = {}
        self.digests: dict[int, bytes] = {}
        self.read = 0
        self.epsilon = float(np.finfo(array.dtype).eps)
        self.neurons = reading.neurons(array.shape[-1])

    def __iter__(self) -> Iterator[InexactArray]:
        yield from self.of_chunks(0, self.array.chunks)
        verify(self.digests, self._digest)

    def of_chunks(self, first: int, stop: int) -> Iterator[InexactArray]:
        """Samples of some chunks, (sample, block, neuron) each."""
        for chunk in range(first, stop):
            samples = self._kept[chunk] if chunk in self._kept else self._load(chunk)
            # Of the positions chosen, a mask may leave none in a whole chunk.
            if len(samples):
                yield samples

    def _load(self, chunk: int) -> InexactArray:
        with _process.timed("read"):
            activations = self.array.read(chunk)
            self.digests[chunk] = chunk_digest(activations)
        self.read += activations.nbytes
        start = chunk * self.array.rows
        mask = None if self._mask is None else self._mask[start : start + len(activations)]
        with _process.timed("transform"):
            samples = self._reading(activations, mask)
        self._budget -= samples.nbytes
        if self._budget >= 0:
            self._kept[chunk] = samples
        return samples

    def describe_not_finite(self) -> str:
        """How many values are not finite, and where the first is."""
        count, first = 0, ""
        for chunk in range(self.array.chunks):
            bad = np.argwhere(~np.isfinite(self.array.read(chunk)))
            if len(bad) and not first:
                index = (chunk * self.array.rows + int(bad[0][0]), *map(int, bad[0][1:]))
                first = f"the first at index {index}"
            count += len(bad)
        if not count:
            return "values so large that their squares overflow"
        return f"{count} of {math.prod(self.array.shape)} values are NaN or infinite, {first}"


def verify(digests: Mapping[int, bytes], digest: str) -> None:
    """Raise OSError where the store does not hold what was written: a lost chunk would read as zeros."""
    if combined_digest(digests[chunk] for chunk in sorted(digests)) != digest:
        raise OSError("the activations in the store are not those that were written: a chunk is missing or damaged")


def compute_subspace(job: Job, task: SubspaceTask) -> SubspaceReport:
    """Make the subspace of one representation, unless the store has it.

    Activations that cannot be compared are recorded with the reason. A store that cannot be read is reported, not
    recorded, so that another run tries again.
    """
    with _process.clock() as seconds:
        return _compute_subspace(job, task, seconds)


def compute_subspaces(job: Job, tasks: Sequence[SubspaceTask]) -> list[SubspaceReport]:
    """Make the subspaces of several small representations, one after the other."""
    return [compute_subspace(job, task) for task in tasks]


def _compute_subspace(job: Job, task: SubspaceTask, seconds: dict[str, float]) -> SubspaceReport:
    stores = _process.stores(job)
    record = read_record(stores.comparison, task.place)
    if record is not None and record.digest == task.digest:
        return SubspaceReport(task.label, record.problem, read=0, skipped=True, seconds=seconds)
    if record is not None:
        # Made from other activations: should the new ones not be readable, no tile may take it for theirs.
        stores.comparison.create_group(task.place, overwrite=True)
    try:
        array = ChunkReader(stores.zoo, f"{task.path}/activations")
        keep = kept_samples(task.memory, job.memory)
        samples = Samples(array, task.digest, task.reading, _mask(task, stores.zoo), keep)
        make_subspace(job, task, samples, stores.comparison)
    except InvalidActivationsError as error:
        write_failure(stores.comparison, task.place, task.digest, str(error))
        return SubspaceReport(task.label, str(error), read=0, skipped=False, seconds=seconds)
    except (OSError, ValueError, RuntimeError) as error:
        problem = f"{task.label!r}: {type(error).__name__}: {error}"
        return SubspaceReport(task.label, problem, read=0, skipped=False, seconds=seconds)
    return SubspaceReport(task.label, "", read=samples.read, skipped=False, seconds=seconds)


def _mask(task: SubspaceTask, zoo: zarr.Group) -> npt.NDArray[np.bool_] | None:
    """Which tokens count, for a sequence under a mask."""
    name = task.reading.mask
    if not name:
        return None
    mask = np.asarray(zoo[name][...], dtype=np.bool_)  # type: ignore[index]
    if mask.shape[1:] != task.reading.sizes:
        sizes, tokens = (" x ".join(map(str, shape)) for shape in (task.reading.sizes, mask.shape[1:]))
        raise InvalidActivationsError(f"{task.label!r} has {sizes} tokens, the mask {name!r} has {tokens}")
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise InvalidActivationsError(f"the mask {name!r} leaves no token of example {int(empty[0])}")
    if task.reading.kind == "positions" and not mask[:, chosen_positions(task.reading.positions, mask.shape[1:])].any():
        raise InvalidActivationsError(f"the mask {name!r} leaves no token among {task.reading.positions} positions")
    return mask


def make_subspace(job: Job, task: SubspaceTask, samples: Samples, comparison: zarr.Group) -> None:
    """Make a subspace from samples that can be iterated over several times."""
    dual = task.reading.by_samples(samples.array.shape)
    mean, basis, writer = (_by_samples if dual else _by_neurons)(job, task, samples, comparison)
    finish(writer, task, samples.neurons, mean, basis)


def finish(
    writer: SubspaceWriter,
    task: SubspaceTask,
    neurons: int,
    mean: InexactArray,
    basis: Eigenbasis,
    *,
    draft: bool = False,
) -> None:
    """Write all but the scores, and the record last; as a draft, where the scores are not there yet."""
    multiplicity = task.reading.multiplicity
    arrays: dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]]
    arrays = {"mean": (("neuron",), mean), "spectrum": (("direction",), basis.spectrum)}
    if len(basis.loadings):
        arrays["loadings"] = (("neuron", "direction"), basis.loadings)
    if task.reading.grid:
        frequency = half_plane(task.reading.grid).frequency
        arrays["frequency"] = (("direction", "axis"), frequency[basis.block])
        arrays["multiplicity"] = (("direction",), multiplicity[basis.block])
    with _process.timed("write"):
        writer.finish(
            digest=task.digest,
            neurons=neurons,
            domain=task.reading.domain,
            grid=task.reading.grid,
            blocks=tuple(
                Block(index, int(multiplicity[index]), columns.stop - columns.start, int(basis.kept[columns].sum()))
                for index, columns in blocks_of(basis.block)
            ),
            variance_kept=float((basis.spectrum * multiplicity[basis.block])[basis.kept].sum() / basis.total),
            arrays=arrays,
            draft=draft,
        )


_Made: TypeAlias = "tuple[InexactArray, Eigenbasis, SubspaceWriter]"


def _by_neurons(job: Job, task: SubspaceTask, samples: Samples, comparison: zarr.Group) -> _Made:
    """Two passes: moments, then scores."""
    found = sum_moments(samples)
    check(task, samples, found.count, finite=bool(np.isfinite(found.scatter).all()))
    basis = find_basis(job, task, samples, found)
    writer = open_writer(job, task, comparison, basis, found.count)
    weights = basis.loadings / np.sqrt(basis.spectrum)
    grams = write_scores(writer, 0, score_chunks(samples, found.mean, weights, basis.block, writer.rows), basis.block)
    wrong = corrections(grams)
    for chunk in range(-(-found.count // writer.rows) if wrong else 0):
        scores = writer.read_scores(chunk)
        for columns, factor in wrong:
            scores[:, columns] = scores[:, columns] @ factor
        writer.write_scores(chunk, scores)
    return found.mean, basis, writer


def sum_moments(chunks: Iterable[InexactArray]) -> Moments:
    """Moments of some chunks together.

    Infinities and overflow end in a scatter that is not finite, which is refused by name.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return reduce(merge, map(_timed_moments, chunks))


def find_basis(job: Job, task: SubspaceTask, samples: Samples, found: Moments) -> Eigenbasis:
    """Principal directions from the moments of all samples."""
    with _process.timed("eigen"):
        return eigenbasis(
            found,
            multiplicity=task.reading.multiplicity,
            variance=job.parameters.variance,
            epsilon=samples.epsilon,
            leading_only=job.leading_only,
        )


def _timed_moments(chunk: InexactArray) -> Moments:
    with _process.timed("covariance"):
        return moments(chunk)


def score_chunks(
    samples: Iterable[InexactArray], mean: InexactArray, weights: InexactArray, block: IntArray, rows: int
) -> Iterator[InexactArray]:
    """Scores, ``rows`` samples at a time; the last may be fewer. What was handed out before is overwritten."""
    # In the order in which they are stored: a direction's scores side by side.
    buffer = np.empty((len(block), rows), dtype=np.result_type(weights.dtype, np.float64)).T
    filled = 0
    for chunk in samples:
        start = 0
        while start < len(chunk):
            part = chunk[start : start + rows - filled]
            with _process.timed("project"):
                project(part, mean, weights, block, out=buffer[filled : filled + len(part)])
            start, filled = start + len(part), filled + len(part)
            if filled == rows:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def write_scores(
    writer: SubspaceWriter, first: int, chunks: Iterable[InexactArray], block: IntArray
) -> list[tuple[slice, InexactArray]]:
    """Write chunks of scores; the Gram matrix of each block of directions, (direction, direction), over all of them."""
    grams: list[InexactArray | float] = []
    runs = [columns for _, columns in blocks_of(block)]
    grams = [0.0] * len(runs)
    for number, scores in enumerate(chunks, start=first):
        with _process.timed("project"):
            for index, columns in enumerate(runs):
                grams[index] = grams[index] + scores[:, columns].conj().T @ scores[:, columns]
        with _process.timed("write"):
            writer.write_scores(number, scores)
    return [(columns, np.asarray(gram)) for columns, gram in zip(runs, grams, strict=True)]


def corrections(grams: Iterable[tuple[slice, InexactArray]]) -> list[tuple[slice, InexactArray]]:
    """What puts right, from the right, scores that the covariance route left short of orthonormal."""
    return [
        (columns, gram_correction(gram))
        for columns, gram in grams
        if np.abs(gram - np.eye(len(gram))).max() > GRAM_TOLERANCE
    ]


def _by_samples(job: Job, task: SubspaceTask, samples: Samples, comparison: zarr.Group) -> _Made:
    """The dual route, for more neurons than samples: no array of neurons x neurons."""
    count, total = 0, np.zeros(())
    low, high = np.array(np.inf), np.array(-np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk in samples:
            count += len(chunk)
            total = total + chunk[:, 0].sum(axis=0, dtype=np.float64)
            low, high = np.minimum(low, chunk[:, 0].min(axis=0)), np.maximum(high, chunk[:, 0].max(axis=0))
        mean = total / count
        gram = _sample_gram(samples, mean, count, budget=job.memory // 4)
    check(task, samples, count, finite=bool(np.isfinite(gram).all()))
    basis, scores = dual_basis(
        gram,
        float(np.square(mean[low < high]).max(initial=0.0)),
        variance=job.parameters.variance,
        epsilon=samples.epsilon,
        leading_only=job.leading_only,
    )
    if job.with_loadings:
        basis = replace(basis, loadings=_loadings(samples, mean, basis, scores))
    writer = open_writer(job, task, comparison, basis, count)
    for chunk_index, start in enumerate(range(0, count, writer.rows)):
        writer.write_scores(chunk_index, scores[start : start + writer.rows])
    return mean, basis, writer


def _loadings(samples: Samples, mean: InexactArray, basis: Eigenbasis, scores: FloatArray) -> InexactArray:
    """Loadings of directions that came from the samples alone, by another pass over the activations."""
    loadings: npt.NDArray[Any] = np.zeros((samples.neurons, scores.shape[1]))
    start = 0
    for chunk in samples:
        loadings += (chunk[:, 0] - mean).T @ scores[start : start + len(chunk)]
        start += len(chunk)
    loadings /= np.sqrt(basis.spectrum)
    return loadings


def _sample_gram(samples: Samples, mean: InexactArray, count: int, budget: int) -> FloatArray:
    """Inner products of all centred samples: some rows held, all later ones streamed past them."""
    gram = np.zeros((count, count))
    first = 0
    while first < count:
        held: list[InexactArray] = []
        size, stop, position = 0, first, 0
        for chunk in samples:
            start, position = position, position + len(chunk)
            if start < first:
                continue
            rows = chunk[:, 0] - mean
            if stop == start and (not held or size + rows.nbytes <= budget):
                held.append(rows)
                size += rows.nbytes
                stop = position
            offset = first
            for part in held:
                gram[start:position, offset : offset + len(part)] = rows @ part.T
                offset += len(part)
        first = stop
    lower = np.tril(gram)
    return lower + np.tril(gram, -1).T


def check(task: SubspaceTask, samples: Samples, count: int, *, finite: bool) -> None:
    """Refuse samples that are too few, or whose moments are not finite."""
    if not finite:
        raise InvalidActivationsError(f"{task.label!r}: {samples.describe_not_finite()}")
    if count < 2:
        raise InvalidActivationsError(f"{task.label!r} has {count} sample; at least two are needed")


def open_writer(
    job: Job, task: SubspaceTask, comparison: zarr.Group, basis: Eigenbasis, count: int, *, draft: bool = False
) -> SubspaceWriter:
    """Begin to write a subspace; or go on with its draft."""
    if not len(basis.spectrum):
        raise InvalidActivationsError(
            f"{task.label!r} is constant: none of its neurons varies over {count} samples by more than rounding"
        )
    precision = np.dtype(job.parameters.precision)
    dtype = np.result_type(precision, np.complex64) if np.iscomplexobj(basis.loadings) else precision
    return SubspaceWriter(
        comparison,
        task.place,
        samples=count,
        directions=len(basis.spectrum),
        rows=min(count, job.rows),
        dtype=dtype,
        exist_ok=draft,
    )
