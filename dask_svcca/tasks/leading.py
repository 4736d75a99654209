"""Leading directions of wide layers, made from samples that are stored as they are; all others are made later."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dask_svcca.kernels.leading import ScoreProducts, leading, refined
from dask_svcca.kernels.noise import live_noise
from dask_svcca.kernels.raw import KernelNorm
from dask_svcca.kernels.threshold import leading_directions
from dask_svcca.stores.subspaces import Block, Subspace
from dask_svcca.tasks.scores import HeldScores

if TYPE_CHECKING:
    from dask_svcca.kernels._types import InexactArray
    from dask_svcca.plan.tasks import SubspaceTask
    from dask_svcca.tasks.scores import Begin, ScoreWriter
    from dask_svcca.tasks.worker import Context

SINGLE = np.dtype(np.float32)


class GivesSamples(Protocol):
    """Gives samples that are stored as they are, scaled to length one."""

    chunk_samples: int

    def read_scores(self, chunk: int) -> InexactArray:
        """Give one chunk, (sample, neuron)."""


def make_leading(
    context: Context, task: SubspaceTask, raw: Subspace, samples: GivesSamples, norm: KernelNorm | None, begin: Begin
) -> Subspace | None:
    """Write the scores of the directions that the asked share of the variance takes; some more where they are not held.

    Parameters
    ----------
    context : Context
    task : SubspaceTask
        Its memory says whether scores are held between two passes over them, or stored.
    raw : Subspace
        The samples as they are: what is known of them beside their numbers.
    samples : GivesSamples
    norm : KernelNorm or None
        With the inner products of the neurons, where these were computed before.
    begin : Begin

    Returns
    -------
    Subspace or None
        None where directions are so weak that they take double precision, or have to be told from noise.
    """
    variances, count = raw.spectrum, raw.entry.samples
    chunks = range(-(-count // samples.chunk_samples))
    if norm is None:
        norm = KernelNorm(variances, context.device.products, samples=count)
        for chunk in chunks:
            with context.timed("read"):
                part = samples.read_scores(chunk)
            with context.timed("covariance"):
                norm.add(part)
            del part
    with context.timed("eigen"):
        noise = live_noise(variances[np.newaxis], raw.mean, count, np.ones(1, dtype=np.int64), raw.entry.epsilon)
        solve = context.device.leading_eigenvectors
        found = leading(norm.take_products(), variances, count, task.share, float(noise.max()), solve)
    if found is None:
        return None
    width, writer = len(found.spectrum), None
    between: ScoreWriter
    if count * width * SINGLE.itemsize <= task.memory.streamed:
        between = HeldScores(count, width, SINGLE, samples.chunk_samples)
    else:
        between = writer = begin(count, width, SINGLE)
    products = ScoreProducts(context.device.products)
    room = np.empty((width, samples.chunk_samples), SINGLE)
    weights = context.device.sent(found.weights)
    for chunk in chunks:
        with context.timed("read"):
            part = samples.read_scores(chunk)
        with context.timed("project"):
            scores = context.device.multiply(weights.T, part.T, out=room[:, : len(part)]).T
            products.add(scores)
        del part
        with context.timed("write"):
            between.write_scores(chunk, scores)
    with context.timed("eigen"):
        spectrum, factor = refined(found.spectrum, products.value, context.device.eigenvectors)
    if writer is None:
        # Those beyond the threshold have served, where they are not stored already.
        kept = leading_directions(spectrum, np.ones(width, dtype=np.int64), task.share, raw.entry.total)
        spectrum, factor = spectrum[kept], factor[:, kept]
        writer = begin(count, len(spectrum), SINGLE)
    del found, products, weights
    turn, room = context.device.sent(factor), room[: len(spectrum)]
    for chunk in chunks:
        with context.timed("read"):
            part = between.read_scores(chunk)
        with context.timed("project"):
            turned = context.device.multiply(turn.T, part.T, out=room[:, : len(part)]).T
        del part
        with context.timed("write"):
            writer.write_scores(chunk, turned)
    entry = replace(
        raw.entry,
        blocks=(Block(0, 1, len(spectrum)),),
        orthonormal=True,
        squares=0.0,
        epsilon=0.0,
        share=task.share,
    )
    return Subspace(entry, raw.mean, spectrum, np.zeros((0, len(spectrum))))
