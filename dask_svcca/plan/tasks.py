"""Units of work, as values: what a task is given, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dask_svcca.plan.memory import MEMBER_BYTES, SMALL_TASK, score_dtype

if TYPE_CHECKING:
    from dask_svcca.errors import DamagedSubspacesError
    from dask_svcca.kernels._types import BoolArray
    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.measures import Measure, Relation
    from dask_svcca.plan.details import Sizes
    from dask_svcca.plan.memory import SubspaceMemory, TileMemory
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.readings import Reading

MERGED_AT_ONCE = 4
"""Parts of a representation, or merged parts, that one task merges."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all tasks of one run share.

    Attributes
    ----------
    run : str
        Unique to the run; workers keep what they opened for as long as it stays the same.
    zoo, subspaces, comparison
        Anything zarr opens: a path, a URL, a store.
    parameters : Parameters
    measures : tuple of Measure
        All measures of the comparison, with their companions: records, since a worker may not know a user's own.
    details : tuple of str
        Details that are stored of every pair.
    settled : tuple of str
        Measures and details that every partial pair has already.
    chunk_samples : int
        Most samples in a chunk of scores.
    device : str
        What long tasks compute with: see `dask_svcca.compare`.
    device_held : int
        Bytes of a device with memory of its own in which scores stay from tile to tile.
    """

    run: str
    zoo: Any
    subspaces: Any
    comparison: Any
    parameters: Parameters
    measures: tuple[Measure, ...]
    details: tuple[str, ...]
    settled: tuple[str, ...]
    chunk_samples: int
    device: str = "cpu"
    device_held: int = 0

    def __dask_tokenize__(self) -> tuple[str, str]:
        """What tells it from others: otherwise Dask would look into every part of it, once per task."""
        return type(self).__name__, self.run


@dataclass(frozen=True, slots=True)
class SubspaceTask:
    """Make the subspace of one representation under one reading.

    Attributes
    ----------
    label, path : str
        Name for people, and place below the root of the zoo.
    shape : tuple of int
    chunk_examples : int
        What the memory of the task was planned for: an array of another shape, or in other chunks, is not read.
    digest : str
        Digest of the activations.
    epsilon : float
        Relative precision of the activations.
    key : str
        Key of the subspace.
    reading : Reading
    samples : int
        Number of samples, without regard to masked tokens.
    with_loadings : bool
        Whether loadings are made even where directions come from the samples.
    memory : SubspaceMemory
    orthonormal : bool
        Whether directions are asked for. Otherwise the samples are stored as they are, where that is as precise.
    source : SubspacePlace or None
        Where samples are stored as they are, to make directions of; None for those of the zoo.
    share : float
        Share of the variance up to which directions are asked for; below 1 no loadings are.
    relation : Relation or None
        What of its samples among one another is stored in place of directions.
    on_device : bool
        Whether the device of the run is to make it.
    """

    label: str
    path: str
    shape: tuple[int, ...]
    chunk_examples: int
    digest: str
    epsilon: float
    key: str
    reading: Reading
    samples: int
    with_loadings: bool
    memory: SubspaceMemory
    orthonormal: bool = True
    source: SubspacePlace | None = None
    share: float = 1.0
    relation: Relation | None = None
    on_device: bool = False

    def most_rows(self, chunk_samples: int) -> int:
        """Most rows in a chunk of what is stored, where scores have so many samples at most."""
        return chunk_samples if self.relation is None else self.relation.chunk_rows(self.samples)

    def score_dtype(self, precision: str) -> np.dtype[Any]:
        """Type of what is stored of each sample."""
        if self.relation is not None:
            return self.relation.dtype(precision)
        return score_dtype(precision, is_complex=self.reading.is_complex)

    @property
    def makes_kernel(self) -> bool:
        """Whether the inner products of samples are asked for, and not the samples as they are."""
        return not self.orthonormal and self.reading.by_samples(self.shape)

    @property
    def stores_samples(self) -> bool:
        """Whether samples are stored as they are beside what is asked for."""
        return self.source is None and (self.share < 1 or self.makes_kernel)


@dataclass(frozen=True, slots=True)
class PackTask:
    """Make the subspaces of one long representation, or of several small ones, and write them as a pack.

    Attributes
    ----------
    name : str
        Name of the pack.
    members : tuple of SubspaceTask
        Members of one domain, all real or all complex.
    parts : int
        Number of parts that a single member is read in, side by side.
    samples : str
        Name of another pack that it writes, of the samples as they are; empty for none.
    """

    name: str
    members: tuple[SubspaceTask, ...]
    parts: int = 1
    samples: str = ""

    def __dask_tokenize__(self) -> tuple[str, str]:
        """What tells it from others of a run."""
        return type(self).__name__, self.name

    @property
    def key(self) -> str:
        """Name of the task."""
        return f"subspaces-{self.name}"

    @property
    def memory(self) -> int:
        """Bytes it takes at most: those of its largest member, and what all leave behind until it is written."""
        left = sum(member.memory.result for member in self.members) if len(self.members) > 1 else 0
        # To be written, it is put together once more, the scores chunk by chunk.
        most = max(left + SMALL_TASK, *(member.memory.peak for member in self.members))
        return left + most + MEMBER_BYTES * (len(self.members) - 1)

    @property
    def on_device(self) -> bool:
        """Whether the device of the run is to make it."""
        return any(member.on_device for member in self.members)


@dataclass(frozen=True, slots=True)
class PartTask:
    """One step of a pack whose single member is read in parts.

    Attributes
    ----------
    step : str
        ``moments`` of a part; ``merge`` those of several; ``basis`` from all; ``scores`` of a part; ``corrections``
        that scores need, if any; ``correct`` those of a part; ``finish``.
    pack : PackTask
    number : int
        Number of the part, or of the merge.
    """

    step: str
    pack: PackTask
    number: int = 0

    def __dask_tokenize__(self) -> tuple[str, str, str, int]:
        """What tells it from others of a run."""
        return type(self).__name__, self.step, self.pack.name, self.number

    @property
    def on_device(self) -> bool:
        """See `PackTask`."""
        return self.pack.on_device

    @property
    def key(self) -> str:
        """Name of the task."""
        return self.pack.key if self.step == "finish" else f"{self.step}-{self.pack.name}-{self.number}"


@dataclass(frozen=True, slots=True)
class SubspacePlace:
    """Where a tile finds a subspace.

    Attributes
    ----------
    pack : str
    position : int
        Place in the index of the pack.
    fold : tuple of int
        Coarser grid that the representation is folded on; empty for its own reading.
    relation : str
        Identity of what of its samples among one another is there in place of a subspace; empty for a subspace.
    """

    pack: str
    position: int
    fold: Grid = ()
    relation: str = ""


Places: TypeAlias = "tuple[tuple[SubspacePlace, ...], ...]"
"""For each member of a group its own subspace, those on coarser grids, and its relations; none if it left the zoo.

Where no measure looks at directions, relations are all that is there.
"""


@dataclass(frozen=True, slots=True)
class GroupTask:
    """Wait for the subspaces of a group, so that a tile has two dependencies and not hundreds; say where they are.

    Attributes
    ----------
    number : int
    places : tuple of tuple of SubspacePlace
    """

    number: int
    places: Places

    on_device = False

    def __dask_tokenize__(self) -> tuple[str, int]:
        """What tells it from others of a run."""
        return type(self).__name__, self.number

    @property
    def key(self) -> str:
        """Name of the task."""
        return f"group-{self.number}"


@dataclass(frozen=True, slots=True)
class TileTask:
    """Compare the representations of one group with those of another.

    Attributes
    ----------
    row, column : int
        Position in the grid of tiles; row <= column.
    side : int
        Representations along each axis of the tile: a whole number of tiles of the store.
    selected : bytes
        Which pairs are asked for: packed bits of the (a, b) mask.
    details : dict of str to tuple of int
        Sizes of the details that are stored of a pair.
    memory : TileMemory
        What it may take of a worker's memory, on the CPU.
    on : TileMemory or None
        What it may take of a device with memory of its own.
    shares : int
        In how many tasks before it the inner products of samples are summed, side by side; 1 where it does so itself.
    """

    row: int
    column: int
    side: int
    selected: bytes
    details: Sizes
    memory: TileMemory
    on: TileMemory | None = None
    shares: int = 1

    on_device = True

    def __dask_tokenize__(self) -> tuple[str, int, int]:
        """What tells it from others of a run."""
        return type(self).__name__, self.row, self.column

    def memory_on(self, device: str) -> TileMemory:
        """What it may take on a device: on the CPU, where a device has failed, what was planned for a worker."""
        return self.memory if self.on is None or device == "cpu" else self.on

    def worker_bytes(self, *, shared: bool) -> int:
        """Bytes that it takes of its worker at most, beyond the process; ``shared`` where the device's are the same."""
        return self.memory.peak + (self.on.peak if shared and self.on is not None else 0)

    def asked(self, a: int, b: int) -> BoolArray:
        """Pairs of groups of ``a`` and ``b`` members that are asked for, (a, b)."""
        return np.unpackbits(np.frombuffer(self.selected, np.uint8), count=a * b).reshape(a, b) > 0

    def pairs(self, a: int, b: int) -> BoolArray:
        """The same, each pair once."""
        asked = self.asked(a, b)
        return np.triu(asked) if self.row == self.column else asked

    @property
    def key(self) -> str:
        """Name of the task."""
        return f"tile-{self.row}-{self.column}"


@dataclass(frozen=True, slots=True)
class ShareTask:
    """Sum a share of the inner products of samples that a tile asks for.

    Attributes
    ----------
    tile : TileTask
    number : int
    """

    tile: TileTask
    number: int

    on_device = True

    def __dask_tokenize__(self) -> tuple[str, int, int, int]:
        """What tells it from others of a run."""
        return type(self).__name__, self.tile.row, self.tile.column, self.number

    @property
    def key(self) -> str:
        """Name of the task."""
        return f"share-{self.tile.row}-{self.tile.column}-{self.number}"


Task: TypeAlias = PackTask | PartTask | GroupTask | TileTask | ShareTask


@dataclass(frozen=True, slots=True)
class Node:
    """A task, and the tasks whose results it is given.

    Attributes
    ----------
    task : Task, or another piece of work
    needs : tuple of str
        Keys; results are handed over in this order.
    reports : bool
        Whether its result is a report for whoever started the run.
    on_device : bool
        Whether it needs the device of the run.
    """

    task: Any
    needs: tuple[str, ...] = ()
    reports: bool = False
    on_device: bool = False


@dataclass(frozen=True, slots=True)
class SubspaceReport:
    """What became of one subspace.

    Attributes
    ----------
    label, key : str
    problem : str
        A sentence whose subject is the representation; empty where all went well.
    read : int
        Bytes of activations that were read.
    seconds : dict of str to float
        Time by stage.
    device_failure : str
        See `TileReport`.
    """

    label: str
    key: str
    problem: str
    read: int
    seconds: dict[str, float]
    device_failure: str = ""


@dataclass(frozen=True, slots=True)
class TileReport:
    """What became of the pairs asked for in a tile, each counted once.

    Attributes
    ----------
    row, column : int
    computed : int
        Pairs that have their values now.
    settled : int
        Pairs that have none, for a reason that is recorded.
    seconds : dict of str to float
        Time by stage.
    damage : DamagedSubspacesError or None
        Why nothing was computed, where subspaces are damaged.
    device_failure : str
        Why it was computed on the CPU in the end, where the device failed; empty where it did not.
    lost : bool
        Whether pairs are missing now that were not before: beside what was written, something could not be read.
    """

    row: int
    column: int
    computed: int
    settled: int
    seconds: dict[str, float]
    damage: DamagedSubspacesError | None = None
    device_failure: str = ""
    lost: bool = False


Report: TypeAlias = "list[SubspaceReport] | TileReport"
