"""Samples that are stored as they are, where no measure asks for directions; and directions made from them later."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.errors import DamagedSubspacesError
from dask_svcca.kernels.noise import live_noise
from dask_svcca.kernels.raw import Centring, KernelNorm
from dask_svcca.stores.subspaces import Block, Subspace, SubspaceEntry
from dask_svcca.tasks.dual import Neurons
from dask_svcca.tasks.samples import check_scale, constant
from dask_svcca.tasks.scores import score_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.plan.tasks import SubspaceTask
    from dask_svcca.tasks.samples import Samples
    from dask_svcca.tasks.scores import Begin, ScoreWriter
    from dask_svcca.tasks.worker import Context

SINGLE = np.dtype(np.float32)


def store_samples(
    context: Context, task: SubspaceTask, samples: Samples, neurons: Neurons, begin: Begin
) -> tuple[Subspace, ScoreWriter, KernelNorm | None]:
    """Store samples as they are; with what took them, and the inner products of the neurons unless these are more."""
    entry, variances = _entry(task, samples, neurons)
    writer = begin(neurons.count, samples.neurons, SINGLE)
    norm = None
    if not task.reading.by_samples(samples.array.shape):
        directed = neurons.count if task.orthonormal else None
        norm = KernelNorm(variances, context.device.products, samples=directed)
    chunks = score_chunks(context, samples, Centring(neurons.mean, variances), samples.neurons, writer.chunk_samples)
    for number, scores in enumerate(chunks):
        if norm is not None:
            with context.timed("covariance"):
                norm.add(scores)
        with context.timed("write"):
            writer.write_scores(number, scores)
    with context.timed("covariance"):
        squares = 0.0 if norm is None else norm.value
    whole = replace(entry, squares=squares, blocks=(Block(0, 1, len(variances)),))
    return Subspace(whole, neurons.mean, variances, np.zeros((0, len(variances)))), writer, norm


def _entry(task: SubspaceTask, samples: Samples, neurons: Neurons) -> tuple[SubspaceEntry, FloatArray]:
    """What is known before anything is stored, and the variances of neurons that take part."""
    variances = np.where(neurons.noise > 0, neurons.variances, 0.0)
    if not variances.any():
        raise constant(neurons.count)
    total = float(variances.sum())
    check_scale(total)
    return SubspaceEntry(
        key=task.key,
        samples=neurons.count,
        neurons=samples.neurons,
        domain=task.reading.domain,
        total=total,
        orthonormal=False,
        epsilon=samples.epsilon,
    ), variances


class StoredSamples:
    """Samples that were stored as they are, chunk by chunk, without their mean.

    Attributes
    ----------
    entry : SubspaceEntry
    mean : (neuron,)
        The mean that was taken off.
    variances : (neuron,)
        Sums of squares of the neurons.
    chunk_samples : int
    neurons : int
        Number of neurons of a sample as it is stored.
    epsilon : float
        Relative precision that the samples had.
    """

    def __init__(self, context: Context, task: SubspaceTask) -> None:
        if task.source is None:
            raise ValueError(f"the subspace of {task.label!r} is made from its activations")
        pack = context.worker.pack(task.source.pack)
        if pack is None:
            raise DamagedSubspacesError(
                f"the pack {task.source.pack!r} of the subspaces is not there any more. Compare again", task.source.pack
            )
        self._context, self._pack, self._record = context, pack, pack.records[task.source.position]
        self.entry = self._record.entry
        self.neurons, self.epsilon = self.entry.directions, self.entry.epsilon
        self.chunk_samples = pack.chunk_samples
        with context.timed("read"):
            self.mean = pack.mean(self._record)
            self.variances = pack.spectrum(self._record)

    @cached_property
    def _buffer(self) -> InexactArray:
        return np.empty((self.neurons, self.chunk_samples), SINGLE)

    def sum_neurons(self) -> Neurons:
        """What is known of each neuron; their mean is taken off already."""
        variances, count = self.variances, self.entry.samples
        noise = live_noise(variances[np.newaxis], self.mean, count, np.ones(1, dtype=np.int64), self.epsilon)
        return Neurons(count, np.zeros_like(variances), variances, noise)

    def read_scores(self, chunk: int) -> InexactArray:
        """One chunk as it is stored, (sample, neuron), neurons scaled to length one; each overwrites the one before."""
        self._pack.read_scores(chunk, [(self._record.first, self._buffer)])
        return self._buffer.T[: self.entry.samples - chunk * self.chunk_samples]

    def __iter__(self) -> Iterator[InexactArray]:
        scale = np.sqrt(self.variances)
        for chunk in range(-(-self.entry.samples // self.chunk_samples)):
            with self._context.timed("read"):
                stored = self.read_scores(chunk)
            with self._context.timed("transform"):
                samples = np.multiply(stored, scale, dtype=np.float64, order="C")
            yield samples[:, np.newaxis]
            del samples
