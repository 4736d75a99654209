"""The first stage: one representation, from activations to a subspace in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dask_svcca.engine import _process
from dask_svcca.errors import InvalidActivationsError
from dask_svcca.kernels.moments import Moments, merge, moments
from dask_svcca.kernels.readings import mean_over_positions
from dask_svcca.kernels.subspace import Eigenbasis, blocks_of, eigenbasis, gram_correction, project
from dask_svcca.plan.tasks import Job, SubspaceReport, SubspaceTask
from dask_svcca.stores.subspaces import Block, SubspaceWriter, read_record, write_failure

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, InexactArray

GRAM_TOLERANCE = 1e-9
"""Departure of the scores from orthonormality that is left alone: it moves correlations by about as much."""


class Samples:
    """The samples of a representation, chunk by chunk, as often as asked; kept where they are small enough."""

    def __init__(self, array: zarr.Array[Any], reading: Callable[[FloatArray], FloatArray], keep: int) -> None:
        self._array = array
        self._reading = reading
        self._budget = keep
        self._kept: list[FloatArray] | None = []
        self.read = 0

    def __iter__(self) -> Iterator[FloatArray]:
        if self._kept:
            yield from self._kept
            return
        rows = self._array.chunks[0]
        for start in range(0, self._array.shape[0], rows):
            chunk = np.asarray(self._array[start : start + rows])
            self.read += chunk.nbytes
            samples = self._reading(chunk)
            self._budget -= samples.nbytes
            if self._budget < 0:
                self._kept = None
            elif self._kept is not None:
                self._kept.append(samples)
            yield samples

    def describe_not_finite(self) -> str:
        """How many values are not finite, and where the first is."""
        rows, count, first = self._array.chunks[0], 0, ""
        for start in range(0, self._array.shape[0], rows):
            bad = np.argwhere(~np.isfinite(np.asarray(self._array[start : start + rows])))
            if len(bad) and not first:
                index = tuple(int(i) for i in bad[0] + np.array([start, *[0] * (bad.shape[1] - 1)]))
                first = f"the first at index {index}"
            count += len(bad)
        if not count:
            return "values so large that their squares overflow"
        return f"{count} of {self._array.size} values are NaN or infinite, {first}"


def compute_subspace(job: Job, task: SubspaceTask) -> SubspaceReport:
    """Make the subspace of one representation, unless the store has it.

    Activations that cannot be compared are recorded with the reason. A store that cannot be read is reported, not
    recorded, so that another run tries again.
    """
    stores = _process.stores(job)
    zoo, comparison = stores.zoo, stores.comparison
    record = read_record(comparison, task.path)
    if record is not None and record.digest == task.digest:
        return SubspaceReport(task.label, record.problem, read=0, skipped=True)
    try:
        array = zarr.open_array(zoo.store, path=f"{zoo.path}/{task.path}/activations".lstrip("/"), mode="r")
        samples = Samples(array, mean_over_positions, keep=job.memory // 4)
        make_subspace(job, task, samples, comparison)
    except InvalidActivationsError as error:
        write_failure(comparison, task.path, task.digest, str(error))
        return SubspaceReport(task.label, str(error), read=0, skipped=False)
    except (OSError, ValueError, RuntimeError) as error:
        return SubspaceReport(task.label, f"{type(error).__name__}: {error}", read=0, skipped=False)
    return SubspaceReport(task.label, "", read=samples.read, skipped=False)


def make_subspace(job: Job, task: SubspaceTask, samples: Samples, comparison: zarr.Group) -> None:
    """Stream the samples twice: for moments, and for scores."""
    parameters = job.parameters
    found = reduce(merge, map(moments, samples))
    if not np.isfinite(found.scatter).all():
        raise InvalidActivationsError(f"{task.label!r}: {samples.describe_not_finite()}")
    if found.count < 2:
        raise InvalidActivationsError(f"{task.label!r} has {found.count} sample; at least two are needed")
    multiplicity = np.ones(len(found.scatter), dtype=np.int64)
    basis = eigenbasis(
        found,
        multiplicity=multiplicity,
        variance=parameters.variance,
        epsilon=float(np.finfo(samples._array.dtype).eps),
        leading_only=parameters.leading_only,
    )
    if not len(basis.spectrum):
        raise InvalidActivationsError(
            f"{task.label!r} is constant: none of its {found.mean.size} neurons varies over {found.count} samples by "
            f"more than rounding"
        )
    dtype = np.dtype(parameters.precision)
    writer = SubspaceWriter(
        comparison, task.path, samples=found.count, directions=len(basis.spectrum), rows=job.rows, dtype=dtype
    )
    _write_scores(writer, samples, found, basis, job.rows)
    weights = multiplicity[basis.block]
    writer.finish(
        digest=task.digest,
        neurons=found.mean.size,
        blocks=tuple(
            Block(index, int(multiplicity[index]), columns.stop - columns.start, int(basis.kept[columns].sum()))
            for index, columns in blocks_of(basis.block)
        ),
        variance_kept=float((basis.spectrum * weights)[basis.kept].sum() / basis.total),
        arrays={
            "mean": (("neuron",), found.mean),
            "spectrum": (("direction",), basis.spectrum),
            "loadings": (("neuron", "direction"), basis.loadings),
        },
    )


def _write_scores(writer: SubspaceWriter, samples: Samples, found: Moments, basis: Eigenbasis, rows: int) -> None:
    weights = basis.loadings / np.sqrt(basis.spectrum)
    gram = np.zeros((weights.shape[1], weights.shape[1]), dtype=weights.dtype)
    chunks = 0
    for scores in regroup((project(chunk, found.mean, weights, basis.block) for chunk in samples), rows):
        for _, columns in blocks_of(basis.block):
            gram[columns, columns] += scores[:, columns].conj().T @ scores[:, columns]
        writer.write_scores(chunks, scores)
        chunks += 1
    if np.abs(gram - np.eye(len(gram))).max() > GRAM_TOLERANCE:
        correction = gram_correction(gram, basis.block)
        for chunk in range(chunks):
            writer.write_scores(chunk, writer.read_scores(chunk) @ correction)


def regroup(chunks: Iterable[InexactArray], rows: int) -> Iterator[InexactArray]:
    """The same rows in chunks of another length; the last may be shorter.

    Examples
    --------
    >>> [len(chunk) for chunk in regroup([np.zeros((5, 1)), np.zeros((4, 1))], 3)]
    [3, 3, 3]
    """
    pending: list[InexactArray] = []
    count = 0
    for chunk in chunks:
        pending.append(chunk)
        count += len(chunk)
        if count < rows:
            continue
        gathered = pending[0] if len(pending) == 1 else np.concatenate(pending)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield gathered[start : start + rows]
        pending, count = [gathered[whole:]], count - whole
    if count:
        yield np.concatenate(pending)
