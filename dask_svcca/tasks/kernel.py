"""Inner products of samples, where neurons outnumber them and no measure asks for directions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.stores.subspaces import Block, Subspace

if TYPE_CHECKING:
    from dask_svcca.plan.tasks import SubspaceTask
    from dask_svcca.tasks.leading import GivesSamples
    from dask_svcca.tasks.scores import Begin
    from dask_svcca.tasks.worker import Context

SINGLE = np.dtype(np.float32)


def make_kernel(context: Context, task: SubspaceTask, raw: Subspace, samples: GivesSamples, begin: Begin) -> Subspace:
    """Write the inner products of samples that are stored as they are, over the norm of all of them.

    Single precision is enough for sums over all pairs of samples: it is off by 1e-7 of an inner product, not of a
    direction.

    Parameters
    ----------
    context : Context
    task : SubspaceTask
        Its memory says how much of the samples is held while others stream past.
    raw : Subspace
        The samples as they are: what is known of them beside their numbers.
    samples : GivesSamples
    begin : Begin
    """
    count, length = raw.entry.samples, samples.chunk_samples
    total = float(raw.spectrum.sum())
    # Of variance one in all: no square leaves the range of single precision.
    scale = np.sqrt(raw.spectrum / total).astype(SINGLE)
    gram = np.empty((count, count), SINGLE)
    first, chunks = 0, -(-count // length)
    # As many chunks as there is room for, in one piece: products of many samples are the fastest.
    group = max(1, min(chunks, task.memory.streamed // (length * raw.entry.directions * SINGLE.itemsize)))
    room = np.empty((raw.entry.directions, min(count, group * length)), SINGLE).T
    while first < chunks:
        start, stop = first * length, min(count, (first + group) * length)
        held = room[: stop - start]
        for chunk in range(first, chunks):
            place = slice(chunk * length, min(count, (chunk + 1) * length))
            with context.timed("read"):
                part = samples.read_scores(chunk)
            with context.timed("covariance"):
                if chunk < first + group:
                    np.multiply(part, scale, out=held[place.start - start : place.stop - start])
                    if place.stop == stop:
                        sent = context.device.sent(held)
                        context.device.multiply(sent, sent.T, out=gram[start:stop, start:stop])
                else:
                    context.device.multiply(np.multiply(part, scale), sent.T, out=gram[place, start:stop])
                    gram[start:stop, place] = gram[place, start:stop].T
            del part
        first += group
    del held, room, sent
    with context.timed("covariance"):
        own = total * gram.diagonal().astype(np.float64)
        norm = float(np.sqrt(np.vecdot(gram, gram).sum(dtype=np.float64)))
        gram /= SINGLE.type(norm)
    writer = begin(count, count, SINGLE)
    for chunk, start in enumerate(range(0, count, length)):
        with context.timed("write"):
            # It is symmetric, and stored direction by direction.
            writer.write_scores(chunk, gram[:, start : start + length].T)
    entry = replace(raw.entry, squares=(total * norm) ** 2, blocks=(Block(0, 1, count),))
    return Subspace(entry, raw.mean, own, np.zeros((0, count)))
