"""Which sketches are to be made, in which tasks, and what memory each may take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.kernels.sketch import TRANSFORMED
from dask_svcca.plan.memory import SMALL_TASK, SubspaceMemory
from dask_svcca.plan.tasks import SubspaceTask
from dask_svcca.sketches.tasks import COUNTED, Member, SketchTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.readings import Reading
    from dask_svcca.sketches.family import Family
    from dask_svcca.stores.zoo import Representation

TASK_BYTES = 16 * 2**20
"""Activations of small representations whose sketches one task makes."""

TASKS_PER_WORKER = 8
"""Least number of tasks per worker, where there are as many representations: none waits long for the last."""


def plan_sketches(
    wanted: Sequence[tuple[int, Representation, Reading]], family: Family, budget: Budget
) -> list[SketchTask]:
    """Tasks that make sketches.

    Parameters
    ----------
    wanted : sequence of (int, Representation, Reading)
        With the row of each in the store.
    family : Family
    budget : Budget

    Raises
    ------
    MemoryLimitError
        The message names the representation and both numbers.
    """
    members = [
        Member(row, _task(item, reading), _pieces(item, reading, family, budget)) for row, item, reading in wanted
    ]
    total = sum(item.nbytes for _, item, _ in wanted)
    most = min(TASK_BYTES, total / (TASKS_PER_WORKER * budget.workers))
    return [
        SketchTask(number, tuple(some), family)
        for number, some in enumerate(_batches(zip(members, wanted, strict=True), most))
    ]


def _batches(
    members: Iterable[tuple[Member, tuple[int, Representation, Reading]]], most: float
) -> Iterable[list[Member]]:
    some: list[Member] = []
    size = 0
    for member, (_, item, _) in members:
        if some and size + item.nbytes > most:
            yield some
            some, size = [], 0
        some.append(member)
        size += item.nbytes
    if some:
        yield some


def _task(item: Representation, reading: Reading) -> SubspaceTask:
    return SubspaceTask(
        label=item.label,
        path=item.place,
        shape=item.shape,
        chunk_examples=item.chunk_examples,
        digest=item.digest,
        epsilon=item.epsilon,
        key=item.identity,
        reading=reading,
        samples=reading.samples(item.shape[0]),
        with_loadings=False,
        memory=SubspaceMemory(0, 0, 0, 0),
    )


def _pieces(item: Representation, reading: Reading, family: Family, budget: Budget) -> int:
    """Parts of a representation that are held one after the other; 0 where it is summed up chunk by chunk."""
    samples, neurons = reading.samples(item.shape[0]), reading.neurons(item.shape[-1])
    blocks, wide = len(reading.multiplicity), 8 if reading.is_complex else 4
    examples = min(item.chunk_examples, item.shape[0])
    chunk = examples * math.prod(item.shape[1:]) * item.dtype.itemsize
    # The samples as they are read, in double precision, and in single.
    reading_bytes = chunk + reading.transform_bytes(item.shape, examples, item.dtype.itemsize)
    reading_bytes += reading.sample_bytes(item.shape, examples, 8) * 5 // 2
    what = f"the sketch of {item.label!r}, an array of shape {item.shape},"
    remedy = "Use fewer workers with more memory each, or a reading with fewer neurons (conv=, sequence=)"
    # The buckets of some neurons, their transforms, and the places of all samples.
    work = SMALL_TASK + 3 * 4 * family.size * max(2 * COUNTED, 4 * TRANSFORMED) * (wide // 4) + 64 * samples
    if blocks == 1 and neurons < samples:
        streamed = 3 * 8 * family.size * (neurons + 1) + 3 * 8 * neurons**2
        budget.check(what, reading_bytes + work + streamed, remedy)
        return 0
    small = min(neurons, samples)
    fixed = reading_bytes + work + 2 * (wide + 2 * wide) * small**2
    parts = neurons if blocks == 1 else blocks
    # A piece is held, and copied once where its mean is taken off and its squares are formed.
    held = 4 * samples * neurons * blocks * wide
    budget.check(what, fixed + held // parts, remedy)
    room = budget.available - fixed
    return min(parts, max(1, int(np.ceil(held / room))))
