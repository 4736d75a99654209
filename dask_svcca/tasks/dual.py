"""Subspaces of more neurons than samples: from inner products of samples, with no array of neurons x neurons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.kernels.factors import compress
from dask_svcca.kernels.moments import NeuronSums
from dask_svcca.kernels.noise import SCATTER_SUFFICES, live_noise
from dask_svcca.kernels.subspace import dual_basis, dual_basis_of_rows, dual_basis_within, samples_above_noise
from dask_svcca.plan.memory import NEURONS_AT_ONCE, reads_rows
from dask_svcca.tasks.samples import check, not_constant

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.devices.interface import Array, Device
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.subspace import Eigenbasis
    from dask_svcca.plan.tasks import SubspaceTask
    from dask_svcca.tasks.raw import StoredSamples
    from dask_svcca.tasks.samples import Samples
    from dask_svcca.tasks.worker import Context


@dataclass(frozen=True, slots=True)
class Neurons:
    """What one pass over the samples says of each neuron.

    Attributes
    ----------
    count : int
        Number of samples.
    mean, variances, noise : (neuron,)
        Variances are sums of squares about the mean; noise is from `live_noise`.
    """

    count: int
    mean: FloatArray
    variances: FloatArray
    noise: FloatArray


def sum_neurons(context: Context, samples: Samples) -> Neurons:
    """Mean, variance and noise of each neuron of samples of one block; refuses what cannot be compared."""
    sums = NeuronSums(samples.neurons)
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk in samples:
            with context.timed("covariance"):
                sums.add(context.device.host(chunk)[:, 0])
            del chunk
        count, squares = sums.count, sums.squares
        mean = sums.total / count
        finite = bool(np.isfinite(squares).all())
        # A constant neuron takes no part, not even by rounding.
        variances = np.where(sums.low < sums.high, np.maximum(squares - count * np.square(mean), 0.0), 0.0)
        noise = live_noise(variances[np.newaxis], mean, count, np.ones(1, dtype=np.int64), samples.epsilon)
    check(samples, count, finite=finite)
    return Neurons(count, mean, variances, noise)


def by_samples(
    context: Context, task: SubspaceTask, samples: Samples | StoredSamples, neurons: Neurons
) -> tuple[Eigenbasis, FloatArray]:
    """Principal directions, and scores (sample, direction)."""
    count, mean, noise = neurons.count, neurons.mean, neurons.noise
    live = np.sign(noise)
    gram = sample_gram(context, samples, mean, live, count, task.memory.streamed)
    with context.timed("eigen"):
        found = dual_basis(gram, noise, context.device.eigenvectors_in_place)
    del gram
    if found is None:
        found = _above_noise(context, task, samples, mean, noise, count)
    basis, scores = found
    not_constant(basis, count)
    if task.with_loadings:
        basis = replace(basis, loadings=_loadings(context, samples, mean, basis, scores))
    return basis, scores


def _above_noise(
    context: Context,
    task: SubspaceTask,
    samples: Samples | StoredSamples,
    mean: InexactArray,
    noise: FloatArray,
    count: int,
) -> tuple[Eigenbasis, FloatArray]:
    """Directions of neurons of very unequal scales, by reading the samples again."""
    live = np.sign(noise)
    units = np.divide(live, np.sqrt(noise), out=np.zeros_like(noise), where=noise > 0)
    if samples.epsilon < SCATTER_SUFFICES and reads_rows(count):
        rows, in_units = _rows_of_neurons(context, samples, mean, (live, units), count)
        with context.timed("eigen"):
            return dual_basis_of_rows(rows, in_units)
    streamed = task.memory.streamed
    gram = sample_gram(context, samples, mean, units, count, streamed)
    with context.timed("eigen"):
        within = samples_above_noise(gram, context.device.eigenvectors_in_place)
    del gram
    gram = sample_gram(context, samples, mean, live, count, streamed)
    with context.timed("eigen"):
        return dual_basis_within(gram, within, context.device.eigenvectors_in_place)


def _rows_of_neurons(
    context: Context, samples: Samples | StoredSamples, mean: InexactArray, scales: Sequence[FloatArray], count: int
) -> list[FloatArray]:
    """Centred neurons, scaled in each way and up to a rotation of the neurons: (row, sample) each."""
    rows: list[Any] = [np.zeros((0, count)) for _ in scales]
    part = np.empty((count, count))
    for first in range(0, samples.neurons, count):
        neurons = slice(first, first + count)
        start = 0
        for chunk in samples:
            with context.timed("covariance"):
                mine = chunk[:, 0, neurons] - mean[neurons]
                part[start : start + len(chunk), : mine.shape[1]] = mine
                width = mine.shape[1]
                start += len(chunk)
            del chunk, mine
        with context.timed("covariance"):
            for index, scale in enumerate(scales):
                scaled = (part[:, :width] * scale[neurons]).T
                rows[index] = compress(np.vstack([rows[index], scaled]))
                del scaled
    return rows


def _loadings(
    context: Context, samples: Samples | StoredSamples, mean: InexactArray, basis: Eigenbasis, scores: FloatArray
) -> InexactArray:
    """Loadings of directions that came from the samples alone, by another pass over the activations."""
    # As they are stored, direction by direction.
    directions: npt.NDArray[Any] = np.zeros((scores.shape[1], samples.neurons))
    start = 0
    for chunk in samples:
        with context.timed("project"):
            rows = context.device.host(chunk)[:, 0]
            across = np.ascontiguousarray(scores[start : start + len(chunk)].T)
            # Some neurons at a time: the product of all is as large as the loadings.
            for first in range(0, samples.neurons, NEURONS_AT_ONCE):
                neurons = slice(first, first + NEURONS_AT_ONCE)
                centred = rows[:, neurons] - mean[neurons]
                room = np.empty((len(across), centred.shape[1]), np.result_type(across, centred))
                directions[:, neurons] += context.device.multiply(across, centred, out=room)
                del centred, room
            del rows
            start += len(chunk)
        del chunk
    with context.timed("project"):
        directions /= np.sqrt(basis.spectrum)[:, np.newaxis]
    return directions.T


def sample_gram(
    context: Context, samples: Samples | StoredSamples, mean: InexactArray, scale: FloatArray, count: int, budget: int
) -> FloatArray:
    """Inner products of all samples, centred and scaled: some held, all later ones streamed past them."""
    gram = np.zeros((count, count))
    scaled = bool((scale != 1).any())
    first = 0
    while first < count:
        held: list[Array] = []
        size, stop, position = 0, first, 0
        for chunk in samples:
            start, position = position, position + len(chunk)
            if start >= first:
                with context.timed("covariance"):
                    rows = context.device.host(chunk)[:, 0] - mean
                    if scaled:
                        rows *= scale
                    sent = context.device.sent(rows)
                    if stop == start and (not held or size + rows.nbytes <= budget):
                        held.append(sent)
                        size += rows.nbytes
                        stop = position
                    _add_products(context.device, gram, sent, start, held, first)
                    del rows, sent
            del chunk
        first = stop
    return gram


def _add_products(device: Device, gram: FloatArray, rows: Array, start: int, held: Sequence[Array], first: int) -> None:
    """Inner products of centred samples, from one on, with those held, from another on; both triangles."""
    for part in held:
        product = device.multiply(rows, part.T, out=np.empty((len(rows), len(part))))
        gram[start : start + len(rows), first : first + len(part)] = product
        gram[first : first + len(part), start : start + len(rows)] = product.T
        first += len(part)
        del product
