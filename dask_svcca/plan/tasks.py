"""Units of work, as values: what a task is told, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_svcca.plan.parameters import Parameters


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
    rows : int
        Samples in a chunk of scores, the same for all representations.
    memory : int
        Bytes a task may use beyond what its process holds anyway.
    """

    run: str
    zoo: Any
    comparison: Any
    parameters: Parameters
    rows: int
    memory: int


@dataclass(frozen=True, slots=True)
class SubspaceTask:
    """Make the subspace of one representation.

    Attributes
    ----------
    label, path : str
        Name for people, and place below the root of either store.
    digest : str
        Of the activations; a subspace made from others is made again.
    spatial : int
        Number of axes between examples and neurons.
    tokens : bool
        Whether that axis is one of tokens.
    """

    label: str
    path: str
    digest: str
    spatial: int
    tokens: bool


@dataclass(frozen=True, slots=True)
class SubspaceReport:
    """What became of one subspace. ``problem`` is empty where all went well."""

    label: str
    problem: str
    read: int
    skipped: bool


@dataclass(frozen=True, slots=True)
class TileTask:
    """Compare the representations of one group with those of another.

    Attributes
    ----------
    row, column : int
        Position in the grid of tiles; row <= column.
    paths_a, paths_b : tuple of str
        Places of the subspaces.
    selected : bytes
        Which pairs are asked for: packed bits of the (a, b) mask.
    """

    row: int
    column: int
    paths_a: tuple[str, ...]
    paths_b: tuple[str, ...]
    selected: bytes


@dataclass(frozen=True, slots=True)
class TileReport:
    """How many pairs of a tile were computed, failed, or stay missing because a subspace is."""

    row: int
    column: int
    done: int
    failed: int
    missing: int
