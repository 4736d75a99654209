"""Units of work, as values: what a task is told, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask_svcca.measures import leading_only, needs_loadings

if TYPE_CHECKING:
    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.kernels.readings import Reading
    from dask_svcca.measures import Measure
    from dask_svcca.plan.parameters import Parameters


MERGED_AT_ONCE = 4
"""Parts of a representation, or what was merged of them, that one task merges."""


STACK_BYTES = 16 * 2**20
"""Couplings handed to LAPACK at once, in double precision: many small ones in one call."""

STACK_COPIES = 6
"""How often a stack is held, with what measures make of it and what LAPACK works in."""

PIECE = 1024
"""Samples converted to double precision at a time."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all tasks of one run share.

    Attributes
    ----------
    run : str
        Unique to the run; workers keep what they opened for as long as it stays the same.
    zoo, comparison
        Anything zarr opens: a path, a URL, a store.
    parameters : Parameters
    measures : tuple of Measure
        With their companions: records, since a worker may not know of measures of the user's own.
    rows : int
        Samples in a chunk of scores, the same for all representations.
    memory : int
        Bytes a task may use beyond what its process holds anyway.
    """

    run: str
    zoo: Any
    comparison: Any
    parameters: Parameters
    measures: tuple[Measure, ...]
    rows: int
    memory: int

    def __dask_tokenize__(self) -> tuple[str, str]:
        """What tells it from others: without, Dask would look into every part of it, once a task."""
        return type(self).__name__, self.run

    @property
    def leading_only(self) -> bool:
        """Whether no measure looks beyond the directions that the variance threshold keeps."""
        return leading_only(self.measures)

    @property
    def with_loadings(self) -> bool:
        """Whether a measure needs loadings."""
        return needs_loadings(self.measures)


@dataclass(frozen=True, slots=True)
class SubspaceTask:
    """Make the subspace of one representation under one reading.

    Attributes
    ----------
    label, path : str
        Name for people, and place below the root of either store.
    digest : str
        Of the activations; a subspace made from others is made again.
    reading : Reading
    samples : int
        How many it has, without regard to masked tokens.
    fold : tuple of int
        Coarser grid that the representation is folded on for its partners; empty for its own reading.
    parts : int
        In how many parts it is read, side by side.
    memory : int
        Bytes it takes, without what it may keep of the samples between its two passes.
    """

    label: str
    path: str
    digest: str
    reading: Reading
    samples: int
    fold: Grid = ()
    parts: int = 1
    memory: int = 0

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        """What tells it from others of a run."""
        return type(self).__name__, self.place, self.digest

    @property
    def tasks(self) -> int:
        """Number of Dask tasks that make it."""
        if self.parts == 1:
            return 1
        merges, left = 0, self.parts
        while left > 1:
            left = -(-left // MERGED_AT_ONCE)
            merges += left
        # Moments, scores and corrections of each part; the basis, what is to be corrected, and the end.
        return 3 * self.parts + merges + 3

    @property
    def place(self) -> str:
        """Where the subspace lies below the root of the comparison."""
        return subspace_place(self.path, self.fold)


def subspace_place(path: str, fold: Grid = ()) -> str:
    """Where a subspace lies below the root of a comparison.

    Examples
    --------
    >>> subspace_place("a/b/c"), subspace_place("a/b/c", (4, 4))
    ('subspaces/a/b/c', 'subspaces-4x4/a/b/c')
    """
    return f"subspaces{'-' if fold else ''}{'x'.join(map(str, fold))}/{path}"


@dataclass(frozen=True, slots=True)
class SubspaceReport:
    """What became of one subspace.

    Attributes
    ----------
    label : str
    problem : str
        Empty where all went well.
    read : int
        Bytes of activations.
    skipped : bool
        Whether it was there already.
    seconds : dict of str to float
        By stage.
    """

    label: str
    problem: str
    read: int
    skipped: bool
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class TileTask:
    """Compare the representations of one group with those of another.

    Attributes
    ----------
    row, column : int
        Position in the grid of tiles; row <= column.
    side : int
        Representations along the side of a tile: a whole number of tiles of the store.
    paths_a, paths_b : tuple of str
        Places of the subspaces.
    selected : bytes
        Which pairs are asked for: packed bits of the (a, b) mask.
    """

    row: int
    column: int
    side: int
    paths_a: tuple[str, ...]
    paths_b: tuple[str, ...]
    selected: bytes

    def __dask_tokenize__(self) -> tuple[str, int, int]:
        """What tells it from others of a run."""
        return type(self).__name__, self.row, self.column


@dataclass(frozen=True, slots=True)
class TileReport:
    """What became of the pairs asked for in a tile; missing are those whose subspace is."""

    row: int
    column: int
    done: int
    failed: int
    incompatible: int
    missing: int
    seconds: dict[str, float]
