"""Tiles on a device with memory of its own: as large as that allows, and refused where one pair does not fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dask_svcca.errors import MemoryLimitError
from dask_svcca.plan.memory import TileMemory
from dask_svcca.plan.shares import largest
from dask_svcca.plan.tiles import pair_kinds
from dask_svcca.plan.values import most_by_values, stored_bytes, value_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.measures import Measure
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.plan.tiles import KindPair, Layer, TileOptions

TILE_SHARE: Final = 1 / 4
"""Share of a device's memory for a tile at work; scores that stay there from tile to tile have the rest."""

STACK_SHARE: Final = 1 / 32
"""Share of that for pairs that are solved together: it is fast where they are many."""

DEVICE_CHUNKS: Final = 2
"""Chunks of the scores of each side that a device holds: one at work, and one on its way."""

DEVICE_STACKS: Final = 12.0
"""Stacks of pairs that it holds: as they are, weighted, and what an iteration makes of them."""

KEPT_BUFFERS: Final = 2
"""How often PyTorch may hold what it gives as buffers: it keeps those of smaller tiles before, by powers of two."""


def device_bytes(limits: TileMemory) -> int:
    """Bytes that a tile takes of a device: scores, couplings of two panels, loadings, and pairs that are solved."""
    both = 2 * (DEVICE_CHUNKS * limits.operand + limits.loadings)
    return math.ceil(both + limits.couplings + DEVICE_STACKS * limits.stack)


def staged_bytes(limits: TileMemory) -> int:
    """Bytes of a worker's own memory that it takes for that: scores on their way, and loadings.

    Memory from which a GPU copies by itself is given out by powers of two.

    Examples
    --------
    >>> staged_bytes(TileMemory(operand=1025, couplings=0, loadings=100, stack=0, peak=0))
    16584
    """
    buffer = 1 << max(0, limits.operand - 1).bit_length()
    return 2 * (DEVICE_CHUNKS * KEPT_BUFFERS * buffer + limits.loadings)


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that there is for a tile.

    Attributes
    ----------
    device : int
        Bytes that it may take of the device.
    worker : int
        Bytes of the worker's own for what is on its way.
    shared : bool
        Whether both are the same memory, of which each has its part.
    """

    device: int
    worker: int
    shared: bool = False

    @classmethod
    def of(cls, budget: Budget) -> Room | None:
        """Memory of a budget for tiles on its device; None on the CPU."""
        if budget.device_memory is not None:
            return cls(int(TILE_SHARE * budget.device_memory), budget.available)
        return None if budget.device == "cpu" else cls(budget.available // 2, budget.available, shared=True)


TILES: Final = 8
"""Least number of tiles for each worker, so that one that stops has not done all for nothing, and none waits long."""


def device_limits(
    a: Sequence[Sequence[Layer]], b: Sequence[Sequence[Layer]], options: TileOptions, room: Room
) -> TileMemory:
    """What a tile of two groups may take of a device: all that it can use, as far as it is there.

    Its ``peak`` is what it takes of the device. Where that is not enough for a single pair: what the pair takes.

    Parameters
    ----------
    a, b : list of list of Layer
        See `dask_svcca.plan.tiles.by_kind`. The very same list for a tile on the diagonal.
    options : TileOptions
    room : Room

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> from dask_svcca.plan.tiles import Layer, TileOptions, by_kind
    >>> from dask_svcca.readings import Neurons
    >>> options = TileOptions(2000, "float32", "crop", find_measures("svcca"), {})
    >>> group = by_kind([Layer.of("a/b/c", Neurons(), (10_000, 512))] * 24)
    >>> rooms = [Room(memory, 10**10) for memory in (10**11, 10**9, 10**6)]
    >>> [round(device_limits(group, group, options, room).peak / 1e6) for room in rooms]
    [9567, 1000, 45]
    """
    kind_pairs = _kind_pairs(a, b, options, room)
    return largest(lambda share: _limits(kind_pairs, share), lambda limits: _fits(limits, room))


def _kind_pairs(
    a: Sequence[Sequence[Layer]], b: Sequence[Sequence[Layer]], options: TileOptions, room: Room
) -> list[KindPair]:
    most = STACK_SHARE * room.device
    found = [pair_kinds(one, other, options, same=a is b and one is other, most=most) for one in a for other in b]
    return [kind_pair for kind_pair in found if kind_pair is not None]


def _limits(kind_pairs: Sequence[KindPair], share: float) -> TileMemory:
    """Limits of a tile that takes a share of each side at a time."""
    each = [kind_pair.limits(share, math.inf) for kind_pair in kind_pairs]
    operand, couplings, loadings, stack = (
        max((getattr(one, name) for one in each), default=0) for name in ("operand", "couplings", "loadings", "stack")
    )
    limits = TileMemory(operand, couplings, loadings, stack, peak=0)
    return replace(limits, peak=device_bytes(limits))


def _fits(limits: TileMemory, room: Room) -> bool:
    return limits.peak <= room.device and staged_bytes(limits) <= room.worker


def check_pair(widest: Layer, worker: TileMemory, device: TileMemory, budget: Budget) -> None:
    """Refuse a pair that does not fit on the device.

    Parameters
    ----------
    widest : Layer
        The widest that is compared.
    worker, device : TileMemory
        What its tile may take on the CPU, and on the device.
    budget : Budget

    Raises
    ------
    MemoryLimitError
        With both numbers.
    """
    memory, what = budget.device_memory, pair_of(widest)
    if memory is None:
        budget.check(what, worker.peak + device.peak)
        return
    if device.peak > memory:
        needed, there = math.ceil(device.peak / 2**20), memory // 2**20
        raise MemoryLimitError(
            f"{what} needs {needed:,} MiB of the memory of the device {budget.device!r}, and a task may take {there:,} "
            f"MiB of it. Use device='cpu', fewer tasks at a time on that device, or a reading with fewer neurons "
            f"(conv=, sequence=); nvidia-smi lists other programs that hold its memory"
        )
    budget.check(what, staged_bytes(device))


def pair_of(widest: Layer) -> str:
    """What a plan is refused for, where it does not fit."""
    return (
        f"one pair of the widest representations, such as {widest.label!r} with up to {widest.directions:,} directions,"
    )


def tile_on_device(layers: int, step: int, side: int, workers: int, measures: Sequence[Measure], budget: Budget) -> int:
    """Representations along each axis of what one task computes on a device: many, where its memory is its own.

    A tile reads and sends the scores of both its sides, and panels are as large as memory allows: the larger a tile,
    the less often the same scores are sent. Where there is no such device, it is as it is.

    Parameters
    ----------
    layers : int
    step, side : int
        What it must be a multiple of; and the same on a CPU, its least.
    workers : int
    measures : sequence of Measure
    budget : Budget

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> from dask_svcca.plan.subspaces import Budget
    >>> cpu, gpu = Budget(1, 2**34), Budget(1, 2**34, "cuda", 2**36)
    >>> [tile_on_device(1000, 8, 40, 1, find_measures("svcca"), budget) for budget in (cpu, gpu)]
    [40, 248]
    """
    room = Room.of(budget)
    if room is None or room.shared:
        return side
    groups = math.ceil(math.sqrt(2 * TILES * workers))
    # Values are the worker's to hold, whatever computes them; in patches, scores would be sent as often as in tiles.
    most = most_by_values(budget.available, stored_bytes(measures) + value_bytes(measures))
    return max(side, min(most, math.ceil(layers / groups)) // step * step)
