"""Which subspaces are to be made, in which packs, and what memory each may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from dask_svcca.errors import MemoryLimitError
from dask_svcca.kernels.leading import GREATEST_SHARE, LEAST_NEURONS
from dask_svcca.kernels.noise import precision_of_means
from dask_svcca.plan.memory import SubspaceMemory, stored_costs, subspace_costs
from dask_svcca.plan.process import process_bytes, said_of_process
from dask_svcca.plan.relations import relation_costs
from dask_svcca.plan.tasks import PackTask, SubspacePlace, SubspaceTask
from dask_svcca.stores.subspaces import chunk_length

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from dask_svcca.measures import Relation
    from dask_svcca.plan.memory import SubspaceCosts
    from dask_svcca.readings import Reading
    from dask_svcca.stores.subspaces import SubspaceRecord
    from dask_svcca.stores.zoo import Representation

SPLIT_BYTES = 64 * 2**20
"""Activations in a part of a representation that is read in parts."""

PARTS_PER_WORKER = 4

BATCH_BYTES = 16 * 2**20
"""Activations of small representations that one task makes subspaces of."""

BATCHES_PER_WORKER = 8
"""Tasks per worker when small representations share a task: those that wait for the last compare others meanwhile."""

LARGE_CHUNK_BYTES = 64 * 2**20
"""Bytes of a chunk of samples, stored as they are, beyond which neurons are too many to store them so."""

LEAST_BATCH_BYTES = 2**18
"""Activations below which a pack takes more, whatever the number of tasks: a few milliseconds of work for each."""

ON_DEVICE = 1e9
"""Multiplications in a covariance from which a device makes a subspace: what is shorter is soon done on a core."""

ENOUGH_BATCHES = 32
"""Number of tasks beyond which there are no more than two per worker: the pack of each is seven files."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What is available to run a plan.

    Attributes
    ----------
    workers : int
        Number of tasks at a time.
    memory : int
        Bytes that a worker process may take.
    device : str
        What tasks compute with: see `dask_svcca.compare`.
    device_memory : int or None
        Bytes that a task may take of a device with memory of its own.
    in_parts : bool
        Whether workers are the parts of an array job, whose memory is said by ``--memory``.
    fallback : str
        Why ``auto`` is the CPU, where it was asked for.
    """

    workers: int
    memory: int
    device: str = "cpu"
    device_memory: int | None = None
    in_parts: bool = False
    fallback: str = ""

    @property
    def available(self) -> int:
        """Bytes that a task may take beyond what its process holds anyway."""
        return max(0, self.memory - process_bytes(self.device))

    def check(self, what: str, size: int, otherwise: str = "") -> None:
        """Raise `MemoryLimitError`, with both numbers, where something does not fit.

        Parameters
        ----------
        what : str
        size : int
            Bytes that it takes beyond what its process holds.
        otherwise : str
            What else could be used than more memory.
        """
        if size <= self.available:
            return
        if self.in_parts:
            where, memory, more = "part", "may take {} of its --memory", "more --memory for each part"
        else:
            where, memory, more = "worker", "may take {} of its memory", "fewer workers with more memory each"
        remedies = [more]
        if self.device != "cpu" and size + process_bytes("cpu") <= self.memory:
            remedies.append("device='cpu'")
        remedies += [otherwise] if otherwise else []
        # What is needed is rounded up, and what is there down: they are never the same number.
        needed, beyond = (f"{math.ceil(number / 2**20):,} MiB" for number in (size + process_bytes(self.device), size))
        there = f"{self.memory // 2**20:,} MiB"
        raise MemoryLimitError(
            f"{what} needs {needed} in one {where} ({beyond} beyond its process, which holds "
            f"{said_of_process(self.device)}), and a {where} {memory.format(there)}. Use {', or '.join(remedies)}"
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A subspace that is to be made.

    Attributes
    ----------
    representation : Representation
    reading : Reading
    key : str
    source : SubspaceRecord or None
        Its samples, stored as they are: the activations are not read then.
    relation : Relation or None
        What is wanted of its samples among one another in place of a subspace.
    """

    representation: Representation
    reading: Reading
    key: str
    source: SubspaceRecord | None = None
    relation: Relation | None = None


def plan_subspaces(
    wanted: Sequence[Wanted],
    budget: Budget,
    *,
    chunk_samples: int,
    precision: str,
    with_loadings: bool,
    orthonormal: bool = True,
    kernels: bool = False,
    share: float = 1.0,
    parts: Mapping[str, int] = MappingProxyType({}),
    settled: AbstractSet[str] = frozenset(),
) -> tuple[PackTask, ...]:
    """Tasks that make subspaces, each of one or of several small ones.

    Parameters
    ----------
    wanted : sequence of Wanted
        Each key once.
    budget : Budget
    chunk_samples : int
        Most samples in a chunk of scores.
    precision : str
    with_loadings : bool
        Whether loadings are made even where directions come from the samples.
    orthonormal : bool
        Whether directions are asked for: otherwise samples are stored as they are where they can be.
    kernels : bool
        Whether, of samples that neurons outnumber, the inner products will do; never where directions are asked for.
    share : float
        Share of the variance up to which directions are asked for: for wide layers, those alone are made.
    parts : mapping of str to int
        By key, in how many parts an earlier run would have read some activations.
    settled : set of str
        Keys that an earlier run planned, in parts or whole: this one plans them alike, since moments that are merged
        in another order differ in their last bits.

    Raises
    ------
    MemoryLimitError
        The message names the representation and both numbers.
    """
    total = sum(subspace.representation.nbytes for subspace in wanted if subspace.source is None)
    tasks: list[tuple[SubspaceTask, int]] = []
    # Most zoos have thousands of layers of few shapes.
    known: dict[tuple[Any, ...], SubspaceCosts] = {}
    for subspace in wanted:
        item, source = subspace.representation, subspace.source
        if source is not None:
            task = _of_stored(
                subspace,
                source,
                budget,
                chunk_samples,
                precision,
                with_loadings=with_loadings,
                orthonormal=not kernels,
                share=share,
            )
            tasks.append((task, 1))
            continue
        if subspace.relation is not None:
            tasks.append((_of_relation(subspace, subspace.relation, budget, precision), 1))
            continue
        pieces = 1
        # Parts have moments to merge, unless directions come from the samples, or a mask hides how many there are.
        if not subspace.reading.by_samples(item.shape) and not subspace.reading.mask:
            pieces = choose_parts(item.nbytes, total, budget.workers)
            if subspace.key in settled:
                pieces = parts.get(subspace.key, 1)
            pieces = min(pieces, -(-item.shape[0] // item.chunk_examples))
        by_samples = subspace.reading.by_samples(item.shape)
        if by_samples:
            holds = kernels and holds_kernel(subspace.reading, item, precision, chunk_samples)
        else:
            holds = holds_samples(subspace.reading, item, precision)
        as_it_is = holds and pieces == 1
        wide = subspace.reading.neurons(item.shape[-1]) >= LEAST_NEURONS
        leading = share <= GREATEST_SHARE and as_it_is and wide and not by_samples
        kind = subspace.reading, item.shape, item.chunk_examples, item.dtype, orthonormal or not holds, leading
        costs = known.get(kind)
        if costs is None:
            costs = known[kind] = subspace_costs(
                subspace.reading,
                shape=item.shape,
                chunk_examples=item.chunk_examples,
                chunk_samples=chunk_samples,
                dtype=item.dtype,
                precision=precision,
                with_loadings=with_loadings,
                orthonormal=orthonormal or not holds,
                leading=leading,
            )
        budget.check(
            f"the subspace of {item.label!r}, an array of shape {item.shape},",
            costs.least,
            "a reading with fewer neurons (conv=, sequence=)",
        )
        # Parts wait in the memory of a worker until they are merged.
        waiting = PARTS_PER_WORKER * costs.scatter
        if costs.peak() + waiting > budget.available:
            pieces = 1
        on_device = _on_device(subspace, costs.peak(), budget)
        memory = _memory(costs, budget.available, waiting if pieces > 1 else 0, ahead=on_device)
        task = _task(
            subspace,
            samples=subspace.reading.samples(item.shape[0]),
            with_loadings=with_loadings or not (leading or by_samples),
            memory=memory,
            orthonormal=orthonormal or not as_it_is,
            share=share if leading else 1.0,
            on_device=on_device,
        )
        tasks.append((task, pieces))
    return _packs(tasks, [subspace.representation.nbytes for subspace in wanted], budget)


def _on_device(subspace: Wanted, taken: int, budget: Budget) -> bool:
    """Whether the device makes a subspace: where it is long work, and the bytes that are taken at least fit there."""
    reading, shape = subspace.reading, subspace.representation.shape
    neurons, samples, blocks = reading.neurons(shape[-1]), reading.samples(shape[0]), len(reading.multiplicity)
    if budget.device == "cpu" or float(samples) * blocks * neurons * min(neurons, samples) < ON_DEVICE:
        return False
    return budget.device_memory is None or taken <= budget.device_memory


def _task(subspace: Wanted, **rest: Any) -> SubspaceTask:
    """Make a subspace, by what its representation and reading are."""
    item = subspace.representation
    return SubspaceTask(
        label=item.label,
        path=item.place,
        shape=item.shape,
        chunk_examples=item.chunk_examples,
        digest=item.digest,
        epsilon=item.epsilon,
        key=subspace.key,
        reading=subspace.reading,
        **rest,
    )


def _of_relation(subspace: Wanted, relation: Relation, budget: Budget, precision: str) -> SubspaceTask:
    """Find what samples are among one another."""
    item, reading = subspace.representation, subspace.reading
    costs = relation_costs(
        relation,
        reading,
        shape=item.shape,
        chunk_examples=item.chunk_examples,
        dtype=item.dtype,
        precision=precision,
    )
    budget.check(
        f"what the examples of {item.label!r}, an array of shape {item.shape}, are among one another "
        f"({relation.identity})",
        costs.least,
        "a reading with fewer neurons (conv=, sequence=)",
    )
    return _task(
        subspace,
        samples=reading.samples(item.shape[0]),
        with_loadings=False,
        memory=_memory(costs, budget.available, 0, ahead=False),
        relation=relation,
    )


def holds_samples(reading: Reading, item: Representation, precision: str) -> bool:
    """Whether scores as they are stored hold all that samples do, so that directions can be made of them later."""
    epsilon = precision_of_means(item.epsilon, reading.averaged)
    return precision == "float32" and not reading.grid and epsilon >= float(np.finfo(np.float32).eps)


def holds_kernel(reading: Reading, item: Representation, precision: str, chunk_samples: int) -> bool:
    """Whether inner products of samples are stored where no measure asks for directions, and the samples beside them.

    That takes neurons that outnumber samples, but not so many that a chunk of samples is large.
    """
    chunk = chunk_length(reading.samples(item.shape[0]), chunk_samples) * reading.neurons(item.shape[-1]) * 4
    return reading.by_samples(item.shape) and holds_samples(reading, item, precision) and chunk <= LARGE_CHUNK_BYTES


def _of_stored(
    subspace: Wanted,
    source: SubspaceRecord,
    budget: Budget,
    chunk_samples: int,
    precision: str,
    *,
    with_loadings: bool,
    orthonormal: bool,
    share: float,
) -> SubspaceTask:
    """Make directions, or inner products, of samples that are stored as they are."""
    item, entry = subspace.representation, source.entry
    costs = stored_costs(
        entry,
        chunk_samples=chunk_samples,
        precision=precision,
        with_loadings=with_loadings,
        orthonormal=orthonormal,
    )
    budget.check(
        f"the subspace of {item.label!r}, from {entry.samples:,} x {entry.directions:,} stored samples,", costs
    )
    by_samples = entry.neurons > entry.samples
    leading = share <= GREATEST_SHARE and entry.neurons >= LEAST_NEURONS and not by_samples
    return _task(
        subspace,
        samples=entry.samples,
        with_loadings=with_loadings or not (leading or by_samples),
        memory=SubspaceMemory(
            0, 0, entry.samples * min(entry.samples, entry.directions) * np.dtype(precision).itemsize, costs
        ),
        orthonormal=orthonormal,
        source=SubspacePlace(source.pack, source.position),
        share=share if leading else 1.0,
        on_device=_on_device(subspace, costs, budget),
    )


@lru_cache(maxsize=64)
def _memory(costs: SubspaceCosts, available: int, waiting: int, *, ahead: bool) -> SubspaceMemory:
    """What a task may take: samples are kept between its passes where there is room, so that they are read once.

    On a device they are read ahead, where there is room for that, too.
    """
    # All samples, or else as many as take a quarter of the memory.
    held = (
        0 if waiting or min(costs.samples, costs.peak(costs.samples) - costs.peak()) > available // 4 else costs.samples
    )
    if costs.peak(held) > available:
        held = 0 if waiting else max(0, min(available // 4, available - costs.peak()))
    room = available - costs.peak(held)
    streamed = max(costs.centred, min(available // 4, costs.centred + room)) if costs.gram is not None else 0
    # A single chunk has no next.
    ahead = ahead and costs.chunk < costs.samples and costs.peak(held, streamed, ahead=True) + waiting <= available
    peak = costs.peak(held, streamed, ahead=ahead) + waiting
    return SubspaceMemory(held, streamed, costs.result, peak, ahead)


def choose_parts(nbytes: int, total: int, workers: int) -> int:
    """Number of parts to read a representation in: several where other workers would wait for it alone.

    Parameters
    ----------
    nbytes, total : int
        Bytes of its activations, and of all that are to be read.
    workers : int

    Examples
    --------
    One representation among many, one alone on two workers, and one on a single worker:

    >>> choose_parts(10**9, 10**11, 2), choose_parts(10**9, 10**9, 2), choose_parts(10**9, 10**9, 1)
    (1, 8, 1)
    """
    if workers == 1 or 2 * workers * nbytes <= total:
        return 1
    return max(1, min(PARTS_PER_WORKER * workers, nbytes // SPLIT_BYTES))


def _packs(tasks: Sequence[tuple[SubspaceTask, int]], sizes: Sequence[int], budget: Budget) -> tuple[PackTask, ...]:
    """Subspaces put together: a task costs the scheduler about as much as the subspace of a small layer."""
    batches = min(BATCHES_PER_WORKER * budget.workers, max(ENOUGH_BATCHES, 2 * budget.workers))
    most = max(1, len(tasks) // batches)
    packs: list[tuple[list[SubspaceTask], int]] = []
    # Scores of one pack have the same samples, and are all real or all complex.
    open_packs: dict[tuple[Any, ...], tuple[list[SubspaceTask], int]] = {}
    for (task, parts), size in zip(tasks, sizes, strict=True):
        kind = task.reading.domain, task.samples, task.reading.is_complex, task.stores_samples, task.relation
        members, room = open_packs.get(kind, ([], 0))
        enough = len(members) >= most and BATCH_BYTES - room + size > LEAST_BATCH_BYTES
        if parts > 1 or size > room or enough or not _fits([*members, task], budget):
            members, room = [], BATCH_BYTES
            packs.append((members, parts))
        members.append(task)
        open_packs[kind] = members, room - size if parts == 1 else 0
    return tuple(pack_of(members, parts) for members, parts in packs)


def _samples(members: Sequence[SubspaceTask]) -> str:
    """Name of the pack of the samples as they are, beside what is asked for; empty for none."""
    return _digest(f"{member.key} as it is" for member in members) if members[0].stores_samples else ""


def _fits(members: list[SubspaceTask], budget: Budget) -> bool:
    return PackTask("", tuple(members)).memory <= budget.available


def pack_of(members: Sequence[SubspaceTask], parts: int = 1) -> PackTask:
    """The task that makes some subspaces and stores them together."""
    return PackTask(_name(members), tuple(members), parts, _samples(members))


def _name(members: Sequence[SubspaceTask]) -> str:
    """Name of a pack: the same for the same members, in any run.

    With loadings it is another name: until that pack is made, and if it cannot be, the one without them serves.
    """
    identities = [
        # Samples as they are stay where they are when directions are made of them.
        f"{member.key} by its inner products"
        if member.makes_kernel
        else f"{member.key} as it is"
        if not member.orthonormal
        else f"{member.key} up to {member.share}"
        if member.share < 1
        else member.key
        if member.with_loadings
        else f"{member.key} without loadings"
        for member in members
    ]
    return _digest(identities)


def _digest(identities: Iterable[str]) -> str:
    return xxhash.xxh3_64_hexdigest("\n".join(identities).encode())
