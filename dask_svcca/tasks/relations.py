"""From activations to what the samples of a representation are among one another, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import InvalidActivationsError
from dask_svcca.kernels.cosines import NearestOfChosen
from dask_svcca.kernels.distances import PairDistances
from dask_svcca.kernels.neighbours import Nearest, neighbour_sums
from dask_svcca.measures import Cosines, Distances, Neighbours
from dask_svcca.plan.relations import SAMPLES_AT_ONCE
from dask_svcca.stores.subspaces import Block, Subspace, SubspaceEntry
from dask_svcca.tasks.dual import sum_neurons
from dask_svcca.tasks.samples import constant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.measures import Relation
    from dask_svcca.plan.tasks import SubspaceTask
    from dask_svcca.tasks.dual import Neurons
    from dask_svcca.tasks.samples import Samples
    from dask_svcca.tasks.scores import Begin
    from dask_svcca.tasks.worker import Context

    Prepare = Callable[[InexactArray, int], FloatArray]
    Take = Callable[[FloatArray, int, int], None]

LEVEL = 1e-13
"""Length of a sample less its mean, where its largest value is 1, that is rounding."""


def make_relation(context: Context, task: SubspaceTask, relation: Relation, samples: Samples, begin: Begin) -> Subspace:
    """Find what the samples of a representation are among one another, and store it.

    Raises
    ------
    InvalidActivationsError
        Where the samples are not finite, all alike, too few, or one of them has no cosine or correlation with others.
    """
    neurons = sum_neurons(context, samples)
    if not neurons.variances.any():
        raise constant(neurons.count)
    try:
        relation.check("what is asked of it", neurons.count)
    except InvalidActivationsError as error:
        # A mask may leave fewer than the plan knew.
        raise InvalidActivationsError(f"has too few samples: {error}") from None
    stored, own = _FINDING[type(relation)](context, task, relation, samples, neurons)
    width = stored.shape[1]
    writer = begin(len(stored), width, relation.dtype(context.job.parameters.precision))
    with context.timed("write"):
        for number, start in enumerate(range(0, len(stored), writer.chunk_samples)):
            writer.write_scores(number, stored[start : start + writer.chunk_samples])
    entry = SubspaceEntry(
        key=task.key,
        samples=len(stored),
        domain=task.reading.domain,
        blocks=(Block(0, 1, width),),
        sums=(float(neurons.count), *own),
    )
    return Subspace(entry, np.zeros(0), np.zeros(width), np.zeros((0, 0)))


def _neighbours(
    context: Context, task: SubspaceTask, relation: Neighbours, samples: Samples, neurons: Neurons
) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    # One more than is asked for says whether the order of the zoo has decided which is the last.
    nearest = Nearest(neurons.count, relation.count + 1)

    def take(cosines: FloatArray, row: int, column: int) -> None:
        nearest.add(cosines, row, column)
        if row != column:
            nearest.add(cosines.T, column, row)

    _each_product(context, samples, neurons.count, task.memory.streamed, _of_length_one, take)
    with context.timed("eigen"):
        indices = nearest.indices[:, :-1]
        return indices, (*neighbour_sums(indices), nearest.tied)


def _cosines(
    context: Context, task: SubspaceTask, relation: Cosines, samples: Samples, neurons: Neurons
) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    found = NearestOfChosen(neurons.count, relation.count)
    _each_product(context, samples, neurons.count, task.memory.streamed, _of_length_one, found.add)
    with context.timed("eigen"):
        return found.found()


def _distances(
    context: Context, task: SubspaceTask, relation: Distances, samples: Samples, neurons: Neurons
) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    found = PairDistances(neurons.count, relation.metric)

    def prepare(some: InexactArray, first: int) -> FloatArray:
        if relation.metric == "correlation":
            return _standardised(some, first)
        # Distances are the same, and rounding is less, where the mean is taken off.
        centred = np.subtract(some, neurons.mean, dtype=np.float64)
        found.know_lengths(np.einsum("si,si->s", centred, centred), first)
        return centred

    _each_product(context, samples, neurons.count, task.memory.streamed, prepare, found.add)
    with context.timed("eigen"):
        values, own = found.found(relation.form, relation.dtype(context.job.parameters.precision))
    return values[:, np.newaxis], (*own, float(np.linalg.norm(neurons.mean)))


_FINDING: dict[type, Callable[..., tuple[npt.NDArray[Any], tuple[float, ...]]]] = {
    Neighbours: _neighbours,
    Cosines: _cosines,
    Distances: _distances,
}


def _of_length_one(samples: InexactArray, first: int) -> FloatArray:
    """Samples in double precision, of length one.

    The largest value of each is taken out first: squares of what is far from 1 leave the range of doubles.
    """
    wide: FloatArray = samples.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    empty = np.flatnonzero(largest == 0)
    if len(empty):
        raise InvalidActivationsError(
            f"has a sample that is zero in all neurons, at index {first + int(empty[0])}: it has no cosine with "
            f"others, and no nearest neighbours. Leave such examples out of the zoo, or compare it by other measures"
        )
    wide /= largest
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide


def _standardised(samples: InexactArray, first: int) -> FloatArray:
    """Samples in double precision, each less its mean over neurons, and of length one."""
    if samples.shape[1] == 1:
        raise InvalidActivationsError(
            "has one neuron, and samples correlate over neurons, of which it takes two or more. Compare it by "
            "distance=euclidean or other measures"
        )
    wide: FloatArray = samples.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    wide /= np.where(largest > 0, largest, 1)
    wide -= wide.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    level = np.flatnonzero(lengths <= LEVEL)
    if len(level):
        raise InvalidActivationsError(
            f"has a sample that is the same in all neurons, at index {first + int(level[0])}: it has no correlation "
            f"with others. Leave such examples out of the zoo, or compare it by distance=euclidean or other measures"
        )
    wide /= lengths
    return wide


def _each_product(context: Context, samples: Samples, count: int, budget: int, prepare: Prepare, take: Take) -> None:
    """Hand on the inner products of all samples, each pair of blocks once: some held, all later ones streamed past."""
    first = 0
    while first < count:
        held: list[tuple[int, FloatArray]] = []
        size, stop, position = 0, first, 0
        for chunk in samples:
            start, position = position, position + len(chunk)
            if start >= first:
                with context.timed("transform"):
                    rows = prepare(chunk[:, 0], start)
                if stop == start and (not held or size + rows.nbytes <= budget):
                    held.append((start, rows))
                    size += rows.nbytes
                    stop = position
                with context.timed("covariance"):
                    for place, part in held:
                        for row, column in _blocks(len(rows), len(part), same=part is rows):
                            product = rows[row] @ part[column].T
                            take(product, start + row.start, place + column.start)
                            del product
                del rows
            del chunk
        first = stop


def _blocks(rows: int, columns: int, *, same: bool) -> Iterator[tuple[slice, slice]]:
    """Blocks of the products of some samples with others; with themselves, each pair of blocks once."""
    for row in range(0, rows, SAMPLES_AT_ONCE):
        for column in range(0, row + 1 if same else columns, SAMPLES_AT_ONCE):
            yield slice(row, row + SAMPLES_AT_ONCE), slice(column, column + SAMPLES_AT_ONCE)
