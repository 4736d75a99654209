"""What is planned, as one value: rows of the comparison, tasks, memory, bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dask_svcca.measures import kernels_only
from dask_svcca.plan.details import pair_bytes
from dask_svcca.plan.graph import nodes_of
from dask_svcca.plan.process import process_bytes
from dask_svcca.stores import html

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.measures import Measure
    from dask_svcca.plan.details import Sizes
    from dask_svcca.plan.tasks import GroupTask, Node, PackTask, TileTask
    from dask_svcca.stores.zoo import Representation


def asks_for_directions(measures: Sequence[Measure], details: Sizes) -> bool:
    """Whether a measure or a detail asks for directions of the representations."""
    return bool(details) or not kernels_only(measures)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a comparison.

    Attributes
    ----------
    label : str
    representation : Representation or None
        None where it has left the zoo: its results stay, and nothing more is computed.
    key : str
        Key of its subspace; empty where it has left the zoo.
    grid : tuple of int
        Sizes of the grid of the DFT; empty without one.
    neurons : int
        Neurons of a block.
    relations : tuple of str
        Keys of what measures need of its samples among one another.
    """

    label: str
    representation: Representation | None
    key: str
    grid: Grid
    neurons: int = 0
    relations: tuple[str, ...] = ()


SPARSE: Final = 8
"""Times as many pairs as are asked for from which on matrices are compressed: below, it saves less than half."""

BLANK: Final = 200
"""Times smaller that matrices without values become by that."""

SCATTERED_BYTES: Final = 48
"""Bytes of a value among such, compressed: it interrupts them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a comparison would do; printed by ``--dry-run``.

    Attributes
    ----------
    rows : tuple of Row
        All representations, in the order of the comparison.
    changed : tuple of int
        Rows whose activations have changed since they were compared.
    measures : tuple of Measure
        All measures of the comparison, with their companions.
    details : dict of str to tuple of int
        Details that are stored of every pair, and the sizes of their dims after those of the pair.
    settled : tuple of str
        Measures and details that partial pairs have already.
    pairs, pairs_done : int
        Pairs asked for (each once, a representation with itself included), and those that are there already.
    packs : tuple of PackTask
        Subspaces to make.
    groups : tuple of GroupTask
    tiles : tuple of TileTask
    tile : int
        Representations along each axis of a tile of the store.
    side : int
        Representations along each axis of what one task computes: some whole tiles.
    chunk_samples : int
        Most samples in a chunk of scores.
    bytes_to_read : int
        Bytes of activations, each counted once.
    subspace_bytes, tile_bytes : int
        Most memory that a task of each kind takes, beyond its process.
    device : str
        What long tasks compute with.
    device_memory : int or None
        Bytes that a task may take of a device with memory of its own.
    device_bytes : int
        Most bytes that a tile takes of it; 0 without. In the rest scores stay from tile to tile.
    fallback : str
        Why the device is the CPU, where ``auto`` was asked for.
    workers, parts
        What decides the order of sums, for runs that go on with other workers: see `ComparisonState`.
    final : mapping of str to str
        Final checkpoint of each model, where the pairs asked for are those with final checkpoints.
    dropped : tuple of str
        Representations that left the zoo and whose results are removed; no rows.
    """

    rows: tuple[Row, ...]
    changed: tuple[int, ...]
    measures: tuple[Measure, ...]
    details: Sizes
    settled: tuple[str, ...]
    pairs: int
    pairs_done: int
    packs: tuple[PackTask, ...]
    groups: tuple[GroupTask, ...]
    tiles: tuple[TileTask, ...]
    tile: int
    side: int
    chunk_samples: int
    bytes_to_read: int
    subspace_bytes: int
    tile_bytes: int
    workers: int
    parts: Mapping[str, int]
    final: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    device_memory: int | None = None
    device_bytes: int = 0
    fallback: str = ""
    dropped: tuple[str, ...] = ()

    @property
    def left(self) -> tuple[str, ...]:
        """Representations that left the zoo and whose results stay."""
        return tuple(row.label for row in self.rows if row.representation is None)

    @property
    def orthonormal(self) -> bool:
        """Whether measures ask for directions of the representations."""
        return asks_for_directions(self.measures, self.details)

    @property
    def representations(self) -> int:
        """Number of representations."""
        return len(self.rows)

    @property
    def subspaces(self) -> int:
        """Number of subspaces to make."""
        return sum(len(pack.members) for pack in self.packs)

    @property
    def _to_make(self) -> str:
        related = sum(member.relation is not None for pack in self.packs for member in pack.members)
        subspaces = f"{self.subspaces - related:,} subspaces"
        return f"{subspaces} and {related:,} sets of neighbours or distances" if related else subspaces

    @property
    def tasks(self) -> int:
        """Number of tasks, those that only join others included."""
        return len(self.nodes)

    @property
    def nodes(self) -> dict[str, Node]:
        """Tasks by key, each after those that it waits for."""
        return nodes_of(self.packs, self.groups, self.tiles)

    @property
    def subspaces_to_write(self) -> int:
        """Bytes of the subspaces to make, at most: where they have as many directions as they can."""
        return sum(member.memory.result for pack in self.packs for member in pack.members)

    @property
    def is_sparse(self) -> bool:
        """Whether so few of all pairs are asked for that matrices are stored compressed, where they are new."""
        return SPARSE * self.pairs < math.comb(len(self.rows) + 1, 2)

    @property
    def results_to_write(self) -> int:
        """Bytes of the results to compute, at most: blocks are written whole, and for either side of the diagonal."""
        cells = sum(_cells(task, len(self.rows), self.tile) for task in self.tiles)
        values = 2 * (self.pairs - self.pairs_done)
        each = cells * 8 // BLANK + values * SCATTERED_BYTES if self.is_sparse else cells * 8
        return cells + len(self.measures) * each + values * pair_bytes(self.details)

    @property
    def device_held(self) -> int:
        """Bytes of the device in which scores stay from tile to tile."""
        return max(0, (self.device_memory or 0) - self.device_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the plan, as JSON values."""
        return {
            "representations": self.representations,
            "pairs": self.pairs,
            "pairs_done": self.pairs_done,
            "subspaces": self.subspaces,
            "tiles": len(self.tiles),
            "tile": [self.side, self.side],
            "tasks": self.tasks,
            "bytes_to_read": self.bytes_to_read,
            "bytes_to_write": {"subspaces": self.subspaces_to_write, "results": self.results_to_write},
            "bytes_per_subspace_task": self.subspace_bytes,
            "bytes_per_tile_task": self.tile_bytes,
            "bytes_per_process": process_bytes(self.device),
            "bytes_kept_per_pair": pair_bytes(self.details),
            "device": self.device,
            **({"fallback": self.fallback} if self.fallback else {}),
            **(
                {}
                if self.device_memory is None
                else {
                    "device_memory": self.device_memory,
                    "bytes_per_tile_on_device": self.device_bytes,
                    "bytes_held_on_device": self.device_held,
                }
            ),
            **({"final": dict(self.final)} if self.final else {}),
            **({"left": len(self.left)} if self.left else {}),
            **({"dropped": len(self.dropped)} if self.dropped else {}),
        }

    def _facts(self) -> list[tuple[str, str]]:
        memory = (
            f"at most {self.subspace_bytes / 2**20:,.0f} MiB per subspace and {self.tile_bytes / 2**20:,.0f} MiB per "
            f"tile, beyond {process_bytes(self.device) / 2**20:,.0f} MiB per process"
        )
        written = (
            f"at most {self.subspaces_to_write / 1e6:,.1f} MB of subspaces and {self.results_to_write / 1e6:,.1f} MB "
            f"of results"
        )
        gone = f"; {len(self.left):,} left the zoo, and their results stay" if self.left else ""
        gone += f"; results of {len(self.dropped):,} that left the zoo are removed" if self.dropped else ""
        lines = [
            ("representations", f"{self.representations:,}, of which {self._to_make} to make{gone}"),
            ("pairs", f"{self.pairs:,}, of which {self.pairs - self.pairs_done:,} to compute"),
            ("tiles", f"{len(self.tiles):,} of {self.side} x {self.side} representations"),
            ("tasks", f"{self.tasks:,}"),
            ("bytes to read", f"{self.bytes_to_read / 1e6:,.1f} MB of activations"),
            ("bytes to write", written),
            ("memory per task", memory),
        ]
        if self.device_memory is not None:
            on_device = (
                f"{self.device}: at most {self.device_bytes / 2**20:,.0f} MiB per tile, and "
                f"{self.device_held / 2**20:,.0f} MiB of scores that stay there, of the "
                f"{self.device_memory / 2**20:,.0f} MiB that a task may take of its memory"
            )
            lines.append(("device", on_device))
        elif self.device != "cpu":
            lines.append(("device", f"{self.device}, in the memory of the process"))
        elif self.fallback:
            lines.append(("device", f"cpu (auto: {self.fallback})"))
        if self.details:
            lines.append(("details", f"up to {pair_bytes(self.details):,} bytes per pair, before compression"))
        if self.final:
            lines.append(("final", self.finals))
        return lines

    def __str__(self) -> str:
        return "\n".join(f"{name:<16} {text}" for name, text in self._facts())

    def _repr_html_(self) -> str:
        """What notebooks show: the same."""
        return html.page("Plan of a comparison", self._facts())

    @property
    def finals(self) -> str:
        """What was taken for the final checkpoint of each model, as text."""
        shown = [f"{checkpoint!r} of {model!r}" for model, checkpoint in self.final.items()]
        return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def _cells(task: TileTask, count: int, tile: int) -> int:
    """Values in the blocks that a task writes of a matrix, its mirror image included."""
    sides = (min(task.side, count - place * task.side) for place in (task.row, task.column))
    rows, columns = (-(-side // tile) * tile for side in sides)
    return rows * columns * (1 if task.row == task.column else 2)
