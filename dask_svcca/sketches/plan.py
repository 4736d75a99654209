"""Which sketches are to be made, in which tasks, and what memory each may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dask_svcca.kernels.sketch import TRANSFORMED
from dask_svcca.plan.memory import SMALL_TASK, SubspaceMemory
from dask_svcca.plan.tasks import SubspaceTask
from dask_svcca.sketches.identity import subspace_digest
from dask_svcca.sketches.scores import ScoresMember, ScoresTask, scores_bytes
from dask_svcca.sketches.tasks import COUNTED, Member, SketchTask
from dask_svcca.stores.subspaces import subspace_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.readings import Reading
    from dask_svcca.sketches.family import Family
    from dask_svcca.sketches.kept import Kept
    from dask_svcca.stores.zoo import Representation

    AnyMember = TypeVar("AnyMember", Member, ScoresMember)

TASK_BYTES = 16 * 2**20
"""Activations of small representations whose sketches one task makes."""

TASKS_PER_WORKER = 8
"""Least number of tasks per worker, where there are as many representations: none waits long for the last."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A sketch that is to be made.

    Attributes
    ----------
    row : int
        Its row in the store.
    item : Representation
    reading : Reading
    digest : str
        See `digests_of`.
    """

    row: int
    item: Representation
    reading: Reading
    digest: str

    @property
    def subspace(self) -> str:
        """Digest of the key of its subspace."""
        return subspace_digest(subspace_key(self.item.identity, self.reading.identity))


def plan_sketches(
    wanted: Sequence[Wanted], family: Family, budget: Budget, kept: Kept | None = None
) -> list[SketchTask] | list[ScoresTask]:
    """Tasks that make sketches: of activations, or of subspaces that are stored.

    Parameters
    ----------
    wanted : sequence of Wanted
    family : Family
    budget : Budget
    kept : Kept, optional

    Raises
    ------
    MemoryLimitError
        The message names the representation and both numbers.
    """
    if kept is not None:
        parts = [(_scores_member(one, kept, family, budget), _scores_size(one, kept)) for one in wanted]
        return [
            ScoresTask(number, tuple(some), family, kept.variance)
            for number, some in enumerate(_batches(parts, budget))
        ]
    members = [(Member(one.row, _task(one), _pieces(one, family, budget)), one.item.nbytes) for one in wanted]
    return [SketchTask(number, tuple(some), family) for number, some in enumerate(_batches(members, budget))]


def _batches(members: Sequence[tuple[AnyMember, int]], budget: Budget) -> Iterable[list[AnyMember]]:
    """Members of each task, by their sizes in bytes."""
    most = min(TASK_BYTES, sum(size for _, size in members) / (TASKS_PER_WORKER * budget.workers))
    some: list[AnyMember] = []
    total = 0
    for member, size in members:
        if some and total + size > most:
            yield some
            some, total = [], 0
        some.append(member)
        total += size
    if some:
        yield some


def _scores_member(one: Wanted, kept: Kept, family: Family, budget: Budget) -> ScoresMember:
    record = kept.find(one.subspace)
    problem = kept.lacking(record)
    if record is None or problem:
        # What another run may find is not settled.
        settled = one.digest if record is not None and record.entry.problem else ""
        return ScoresMember(one.row, one.item.label, settled, one.reading, None, problem)
    entry = record.entry
    length = kept.pack(record).chunk_samples
    budget.check(
        f"the sketch of the subspace of {one.item.label!r}",
        scores_bytes(family.size, length, entry.samples, is_complex=bool(entry.grid)),
        "smaller sketches (size=, --size)",
    )
    return ScoresMember(one.row, one.item.label, one.digest, one.reading, record)


def _scores_size(one: Wanted, kept: Kept) -> int:
    record = kept.find(one.subspace)
    if record is None or record.entry.problem:
        return 0
    return record.entry.samples * record.entry.directions * kept.pack(record).dtype.itemsize


def _task(one: Wanted) -> SubspaceTask:
    item, reading = one.item, one.reading
    return SubspaceTask(
        label=item.label,
        path=item.place,
        shape=item.shape,
        chunk_examples=item.chunk_examples,
        digest=item.digest,
        epsilon=item.epsilon,
        key=one.digest,
        reading=reading,
        samples=reading.samples(item.shape[0]),
        with_loadings=False,
        memory=SubspaceMemory(0, 0, 0, 0),
    )


def _pieces(one: Wanted, family: Family, budget: Budget) -> int:
    """Parts of a representation that are held one after the other; 0 where it is summed up chunk by chunk."""
    item, reading = one.item, one.reading
    samples, neurons = reading.samples(item.shape[0]), reading.neurons(item.shape[-1])
    blocks, wide = len(reading.multiplicity), 8 if reading.is_complex else 4
    examples = min(item.chunk_examples, item.shape[0])
    chunk = examples * math.prod(item.shape[1:]) * item.dtype.itemsize
    # The samples as they are read, in double precision, and in single.
    reading_bytes = chunk + reading.transform_bytes(item.shape, examples, item.dtype.itemsize)
    reading_bytes += reading.sample_bytes(item.shape, examples, 8) * 5 // 2
    what = f"the sketch of {item.label!r}, an array of shape {item.shape},"
    otherwise = "a reading with fewer neurons (conv=, sequence=)"
    # The buckets of some neurons, their transforms, and the places of all samples.
    work = SMALL_TASK + 3 * 4 * family.size * max(2 * COUNTED, 4 * TRANSFORMED) * (wide // 4) + 64 * samples
    if blocks == 1 and neurons < samples:
        streamed = 3 * 8 * family.size * (neurons + 1) + 3 * 8 * neurons**2
        budget.check(what, reading_bytes + work + streamed, otherwise)
        return 0
    small = min(neurons, samples)
    fixed = reading_bytes + work + 2 * (wide + 2 * wide) * small**2
    parts = neurons if blocks == 1 else blocks
    # A piece is held, and copied once where its mean is taken off and its squares are formed.
    held = 4 * samples * neurons * blocks * wide
    budget.check(what, fixed + held // parts, otherwise)
    room = budget.available - fixed
    return min(parts, max(1, int(np.ceil(held / room))))
