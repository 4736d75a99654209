"""How much work tasks are: said once, beside what they take of memory; a probe on the cluster says how fast it goes.

Amounts are numbers of multiplications, or of bytes where a stage reads or writes. What each stage does that is neither
is counted as multiplications that take as long: only their proportions matter, since the probe times the same stages of
the same tasks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.kernels.grams import products_by_samples
from dask_svcca.measures import of_directions, relations_of
from dask_svcca.plan.details import pair_bytes
from dask_svcca.plan.memory import score_dtype
from dask_svcca.readings import Meeting, meet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.kernels._types import BoolArray, FloatArray
    from dask_svcca.measures import Relation
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.plan import Plan, Row
    from dask_svcca.plan.tasks import PackTask, SubspaceTask, TileTask
    from dask_svcca.readings import Reading

    Domain = tuple[str, tuple[int, ...]]

CALL = 2e6
"""Multiplications that a handful of calls of NumPy are as long as."""

EIGEN = 8.0
"""Multiplications of eigenvectors, in those of a product of their size."""

ADDED = 5e5
"""The same for couplings that are handed to an evaluation together: equally many directions on each side.

Half as much again for each measure.
"""

PAIR = 4e3
"""The same for a pair at one frequency."""

NUMBER = 12.0
"""The same for a number of a coupling: gathered, converted, squared."""

NEIGHBOUR = 30.0
"""The same for a neighbour that is looked up."""

COMPARED = 300.0
"""The same for a product of two samples that is compared with those so far, by both."""

FILE_BYTES = 2**18
"""Bytes that opening a file is as long as."""


class Amounts(defaultdict[str, float]):
    """Amounts by stage, 0 of those that are not named.

    Examples
    --------
    >>> total = Amounts({"read": 1.0})
    >>> total.add({"read": 2.0, "write": 3.0})
    >>> dict(total)
    {'read': 3.0, 'write': 3.0}
    """

    def __init__(self, amounts: Mapping[str, float] | None = None) -> None:
        super().__init__(float, amounts or {})

    def __reduce__(self) -> tuple[type[Amounts], tuple[dict[str, float]]]:
        return type(self), (dict(self),)

    def add(self, amounts: Mapping[str, float], kind: str = "") -> None:
        """Add those of one task, of a kind that is set before their names."""
        for name, amount in amounts.items():
            self[f"{kind} {name}" if kind else name] += float(amount)


@dataclass(frozen=True, slots=True)
class Kept:
    """Directions of a representation, as far as they are known.

    Attributes
    ----------
    compared : (block,)
        Those that tiles compare.
    stored : float
        All of them.
    """

    compared: FloatArray
    stored: float


class Work:
    """How much work the tasks of a plan are.

    Parameters
    ----------
    plan : Plan
    parameters : Parameters
    readings : sequence of Reading or None
        Of each row.
    kept : sequence of Kept or None
        Of each row; None where it has left the zoo, or cannot be compared.
    """

    def __init__(
        self, plan: Plan, parameters: Parameters, readings: Sequence[Reading | None], kept: Sequence[Kept | None]
    ) -> None:
        self._plan, self._parameters = plan, parameters
        self._rows: dict[str, int] = {row.label: number for number, row in enumerate(plan.rows)}
        self._kept = kept
        self._samples = max(
            (
                reading.samples(row.representation.shape[0])
                for row, reading in zip(plan.rows, readings, strict=True)
                if row.representation is not None and reading is not None
            ),
            default=0,
        )
        self._groups = [
            _Group(range(start, min(start + plan.side, len(plan.rows))), plan.rows, readings, kept)
            for start in range(0, len(plan.rows), plan.side)
        ]

    def of_pack(self, pack: PackTask) -> Amounts:
        """Work of making a pack, by stage."""
        total: Amounts = Amounts({"write": 8 * FILE_BYTES, "beside": CALL})
        for member in pack.members:
            row = self._rows[member.label]
            representation, kept = self._plan.rows[row].representation, self._kept[row]
            if representation is not None and member.relation is not None:
                total.add(_relation_work(member, member.relation, representation.dtype.itemsize))
            elif representation is not None and kept is not None:
                total.add(_member_work(member, representation.dtype.itemsize, kept, self._parameters.precision))
        return total

    def of_tile(self, tile: TileTask) -> Amounts:
        """Work of a tile, by stage."""
        a, b = self._groups[tile.row], self._groups[tile.column]
        asked = tile.pairs(len(a.members), len(b.members))
        measures = len(self._plan.measures)
        files = 2 * math.ceil(tile.side / self._plan.tile) ** 2 * (measures + len(tile.details) + 1)
        pairs = int(asked.sum())
        total: Amounts = Amounts(
            {
                "write": files * FILE_BYTES + 2 * pairs * (8 * measures + 1 + pair_bytes(tile.details)),
                "values": CALL,
                "coupling": 0.0,
                "read": FILE_BYTES,
                "beside": CALL + PAIR * (len(a.members) + len(b.members)),
            }
        )
        for relation in relations_of(self._plan.measures):
            stored = float(relation.rows(self._samples) * relation.width(self._samples))
            total["read"] += stored * 4 * (len(a.members) + len(b.members))
            total["coupling"] += pairs * stored * NEIGHBOUR
        if not of_directions(self._plan.measures):
            return total
        for domain_a, one in a.kinds.items():
            for domain_b, other in b.kinds.items():
                meeting = meet(*domain_a, *domain_b, self._parameters.match)
                part = asked[np.ix_(one.places, other.places)]
                if isinstance(meeting, Meeting) and part.any():
                    total.add(self._of_kinds(one, other, meeting, part, tile))
        return total

    def _of_kinds(self, a: _Kind, b: _Kind, meeting: Meeting, asked: BoolArray, tile: TileTask) -> Amounts:
        pairs = asked.astype(np.float64)
        item = score_dtype(self._parameters.precision, is_complex=bool(a.grid or b.grid)).itemsize
        complexity = 4 if a.grid and b.grid else 2 if a.grid or b.grid else 1
        directions = [side.compared[some].sum() for side, some in ((a, asked.any(1)), (b, asked.any(0)))]
        # Each side is read again for each patch of the other.
        patch = tile.memory.patch or tile.side
        rows, columns = (len({place // patch for place in side.places}) for side in (a, b))
        total: Amounts = Amounts()
        if tile.memory.by_samples:
            read = columns * directions[0] + rows * directions[1]
            members = columns * len(asked) + rows * len(asked.T)
            total["coupling"] = products_by_samples(a.samples, int(read), members, pairs.size) + CALL
            total["values"] = PAIR * pairs.sum() + CALL
            total["read"] = a.samples * item * read + FILE_BYTES * members
            return total
        # Where not all of a side fits, the other side is read again for each panel of it.
        room = tile.memory.operand / max(1, item * min(a.samples, self._plan.chunk_samples))
        panels = max(rows, math.ceil(directions[0] / max(1.0, room)))
        read = columns * directions[0] + panels * directions[1]
        total["read"] = a.samples * item * read + FILE_BYTES * 2 * panels * columns
        folded = bool(meeting.fold_a or meeting.fold_b)
        for shared in meeting.shared:
            k, l = (side.at(0 if folded else block) for side, block in ((a, shared.a), (b, shared.b)))
            numbers = float(k @ pairs @ l)
            if not numbers:
                continue
            there = pairs * (k > 0)[:, np.newaxis] * (l > 0)
            adds = len(np.unique(k[k > 0].round())) * len(np.unique(l[l > 0].round()))
            solved = float(k**1.5 @ pairs @ l**1.5)
            total["coupling"] += complexity * a.samples * numbers + CALL / 4
            measures = len(self._plan.measures)
            total["values"] += ADDED * adds * (1 + measures / 2) + PAIR * there.sum()
            total["values"] += measures * complexity * (NUMBER * numbers + solved)
        return total


class _Kind:
    """Members of a group that are of one kind."""

    def __init__(self, grid: tuple[int, ...], samples: int, places: list[int], kept: list[Kept]) -> None:
        self.grid, self.samples, self.places = grid, samples, places
        width = max(len(one.compared) for one in kept)
        self._compared = np.stack([np.pad(one.compared, (0, width - len(one.compared))) for one in kept])
        self.compared: FloatArray = self._compared.sum(axis=1)

    def at(self, block: int) -> FloatArray:
        """Directions of each member in a block."""
        return self._compared[:, block] if block < self._compared.shape[1] else np.zeros(len(self.places))


class _Group:
    """Rows of a tile along one axis."""

    def __init__(
        self, members: range, rows: Sequence[Row], readings: Sequence[Reading | None], kept: Sequence[Kept | None]
    ) -> None:
        self.members = members
        found: dict[Domain, tuple[int, list[int], list[Kept]]] = {}
        for place, row in enumerate(members):
            reading, own, item = readings[row], kept[row], rows[row].representation
            if reading is not None and own is not None and item is not None:
                samples = reading.samples(item.shape[0])
                _, places, directions = found.setdefault((reading.domain, reading.grid), (samples, [], []))
                places.append(place)
                directions.append(own)
        self.kinds = {kind: _Kind(kind[1], *rest) for kind, rest in found.items()}


def _member_work(member: SubspaceTask, itemsize: int, kept: Kept, precision: str) -> Mapping[str, float]:
    reading, shape = member.reading, member.shape
    neurons, samples, blocks = reading.neurons(shape[-1]), member.samples, len(reading.multiplicity)
    chunks = -(-shape[0] // member.chunk_examples)
    complexity = 4 if reading.is_complex else 1
    score = score_dtype(precision, is_complex=reading.is_complex).itemsize
    by_samples = reading.by_samples(shape)
    products = float(samples) ** 2 * neurons if by_samples else float(samples) * blocks * neurons**2
    side = samples if by_samples else neurons
    projected = 0.0 if by_samples else samples * neurons * kept.stored
    return {
        "read": 0.0 if member.source is not None else bytes_read(member, itemsize) + FILE_BYTES * (1 + chunks),
        "transform": float(math.prod(shape)) * 8 if len(shape) > 2 else CALL / 8,
        "covariance": complexity * products + CALL / 4 * chunks,
        "eigen": (EIGEN * complexity * blocks * float(side) ** 3 + CALL / 4 * blocks) * member.orthonormal + CALL / 4,
        "project": complexity * projected + samples * kept.stored * score * NUMBER + CALL / 4 * chunks,
        "write": samples * kept.stored * score + 8.0 * neurons * kept.stored,
        "beside": CALL / 8,
    }


def _relation_work(member: SubspaceTask, relation: Relation, itemsize: int) -> Mapping[str, float]:
    neurons, samples = member.reading.neurons(member.shape[-1]), member.samples
    stored = float(relation.rows(samples) * relation.width(samples))
    chunks = -(-member.shape[0] // member.chunk_examples)
    return {
        "read": bytes_read(member, itemsize) + FILE_BYTES * (1 + chunks),
        "transform": 3.0 * samples * neurons,
        # In double precision, each pair once, and each of its products looked at from both sides.
        "covariance": float(samples) ** 2 * (neurons + COMPARED),
        "eigen": stored * NUMBER,
        "write": stored * relation.dtype("float32").itemsize,
        "beside": CALL / 8,
    }


def bytes_read(member: SubspaceTask, itemsize: int) -> int:
    """Bytes of activations that making a subspace reads: those that are not held are read for each pass.

    Examples
    --------
    >>> from dask_svcca.plan.memory import SubspaceMemory
    >>> from dask_svcca.plan.tasks import SubspaceTask
    >>> from dask_svcca.readings import Neurons
    >>> def task(held):
    ...     memory = SubspaceMemory(held=held, streamed=0, result=0, peak=0)
    ...     return SubspaceTask("a/b/c", "a/b/c", (1000, 10), 250, "", 1e-7, "", Neurons(), 1000, True, memory)
    >>> bytes_read(task(40_000), 4), bytes_read(task(20_000), 4), bytes_read(task(0), 4)
    (40000, 60000, 80000)
    """
    if member.source is not None:
        return 0
    shape, examples = member.shape, min(member.chunk_examples, member.shape[0])
    whole = math.prod(shape) * itemsize
    chunk = max(1, member.reading.sample_bytes(shape, examples, itemsize))
    held = min(member.memory.held // chunk * examples, shape[0])
    if member.memory.held >= member.reading.sample_bytes(shape, shape[0], itemsize):
        held = shape[0]
    passes = 3 if member.reading.by_samples(shape) and member.orthonormal else 2
    return whole + (passes - 1) * (whole - whole // shape[0] * held)


def known_kept(reading: Reading, shape: Sequence[int], share: FloatArray | Any) -> Kept:
    """Directions of a representation of which each block keeps a share.

    Examples
    --------
    >>> from dask_svcca.readings import Neurons
    >>> known_kept(Neurons(), (1000, 64), np.array([0.25]))
    Kept(compared=array([16.]), stored=64.0)
    """
    width = min(reading.neurons(shape[-1]), reading.samples(shape[0]))
    blocks = len(reading.multiplicity)
    shares = np.resize(share, blocks) if len(share) else np.ones(blocks)
    return Kept(width * shares, float(width * blocks))
