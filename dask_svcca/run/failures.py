"""Tasks that fail for good: retried, then recorded with the reason, while all the rest is finished."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dask_svcca.plan.graph import nodes_of, nodes_of_pack
from dask_svcca.plan.process import process_bytes
from dask_svcca.plan.subspaces import pack_of
from dask_svcca.run.failed import Failed
from dask_svcca.run.waves import packs_of
from dask_svcca.stores._failures import Block, mark_failed, write_failures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.tasks import GroupTask, PackTask, SubspacePlace, TileTask
    from dask_svcca.run.executors import Executor
    from dask_svcca.run.waves import Wave
    from dask_svcca.stores.comparison import ComparisonStore


@dataclass
class Failures:
    """What of a plan failed for good.

    Attributes
    ----------
    tiles : dict of str to str
        Reasons by the key of the task.
    problems : dict of str to str
        Reasons by the key of a subspace that was not made: sentences whose subject is the representation.
    lost : set of (str, int)
        Packs and positions in them where the plan has these subspaces.
    """

    tiles: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    lost: set[tuple[str, int]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.tiles or self.problems)


def run_all(
    executor: Executor,
    plan: Plan,
    perform: Callable[..., Any],
    on_done: Callable[[str, Any], None],
    waves: Sequence[Wave] = (),
) -> Failures:
    """Run all tasks of a plan. What does not depend on a task that fails for good is finished.

    Parameters
    ----------
    executor : Executor
    plan : Plan
    perform, on_done : callable
        See `Executor.run`; reports alone are handed over.
    waves : sequence of Wave, optional
        Its packs and tiles in the order in which they are to be done; by default all at once.
    """
    failed: dict[str, Failed] = {}

    def take(key: str, result: Any) -> None:
        if isinstance(result, Failed):
            failed[key] = result
        else:
            failed.pop(key, None)
            on_done(key, result)

    for needed, wanted in waves or [(plan.packs, plan.tiles)]:
        gone = {pack.name: failed[pack.key] for pack in plan.packs if pack.key in failed}
        # What an earlier wave did not make, this one cannot read.
        waiting = {tile.key: name for tile in wanted if gone for name in packs_of(tile, plan) if name in gone}
        failed |= {key: gone[name] for key, name in waiting.items()}
        ready = tuple(tile for tile in wanted if tile.key not in waiting)
        executor.run(nodes_of(needed, plan.groups, ready), perform, take)
    instead, rounds = _apart(plan, failed)
    for packs in rounds:
        executor.run({key: node for pack in packs for key, node in nodes_of_pack(pack).items()}, perform, take)
    failures = Failures()
    for place, pack in instead.items():
        if pack.key in failed:
            failures.lost.add(place)
            reason = _with_promise(failed[pack.key], pack.memory, plan)
            failures.problems[pack.members[0].key] = f"has no subspace: the task that makes it {reason}"
    groups = tuple(_with(group, instead, failures.lost) for group in plan.groups)
    waited = [tile for tile in plan.tiles if tile.key in failed and _needs(tile, plan.groups, instead.keys())]
    alone = [tile for tile in plan.tiles if tile.key in failed and failed[tile.key].died and tile not in waited]
    for tiles in ([waited] if waited else []) + [[tile] for tile in alone]:
        executor.run(nodes_of((), groups, tiles), perform, take)
    failures.tiles = {
        tile.key: _with_promise(failed[tile.key], tile.memory.peak, plan) for tile in plan.tiles if tile.key in failed
    }
    return failures


def _apart(plan: Plan, failed: Mapping[str, Failed]) -> tuple[dict[tuple[str, int], PackTask], list[list[PackTask]]]:
    """What of the packs that failed is made alone: one subspace must not cost those that it was to be stored with.

    Returns
    -------
    instead : dict of (str, int) to PackTask
        By pack and position; packs of one subspace stay as they are.
    rounds : list of list of PackTask
        Those that are to be tried, at the same time: a worker that dies takes down all that it has in hand, so what
        was running then is tried with nothing beside it.
    """
    instead: dict[tuple[str, int], PackTask] = {}
    beside: list[PackTask] = []
    alone: list[list[PackTask]] = []
    for pack in plan.packs:
        if pack.key not in failed:
            continue
        singles = [pack] if len(pack.members) == 1 else [pack_of([one]) for one in pack.members]
        instead |= {(pack.name, position): single for position, single in enumerate(singles)}
        if failed[pack.key].died:
            alone += [[single] for single in singles]
        elif len(singles) > 1:
            beside += singles
    return instead, [*([beside] if beside else []), *alone]


def _with_promise(failed: Failed, promised: int, plan: Plan) -> str:
    """A reason; of workers that died, with what the plan said that the task takes."""
    if not failed.died:
        return failed.reason
    promised += process_bytes(plan.device)
    return f"{failed.reason}. It was planned to take up to {promised / 2**20:,.0f} MiB"


def _with(
    group: GroupTask, instead: Mapping[tuple[str, int], PackTask], lost: AbstractSet[tuple[str, int]]
) -> GroupTask:
    """A group whose subspaces are where they were made in the end, without those that were not."""

    def found(place: SubspacePlace) -> SubspacePlace:
        pack = instead.get((place.pack, place.position))
        return place if pack is None or pack.name == place.pack else replace(place, pack=pack.name, position=0)

    places = []
    for member in group.places:
        there = tuple(found(place) for place in member if (place.pack, place.position) not in lost)
        # All others are of no use without the first, the representation's own.
        places.append(there if there and (member[0].pack, member[0].position) not in lost else ())
    return replace(group, places=tuple(places))


def without(group: GroupTask, packs: AbstractSet[str]) -> GroupTask:
    """A group without the subspaces of some packs."""
    lost = {(place.pack, place.position) for member in group.places for place in member if place.pack in packs}
    return _with(group, {}, lost)


def _needs(tile: TileTask, groups: Sequence[GroupTask], places: AbstractSet[tuple[str, int]]) -> bool:
    return any(
        (place.pack, place.position) in places
        for number in {tile.row, tile.column}
        for member in groups[number].places
        for place in member
    )


def record_failures(comparison: ComparisonStore, plan: Plan, failures: Failures) -> tuple[int, dict[str, str]]:
    """Store what failed: the status of its pairs, and the reasons.

    Returns
    -------
    pairs : int
        That failed, each once.
    reasons : dict of str to str
        Of each block whose task failed: its first and last pair, and the reason.
    """
    concerned = [tile for tile in plan.tiles if tile.key in failures.tiles or _needs(tile, plan.groups, failures.lost)]
    pairs = sum(_mark(comparison, plan, tile) for tile in concerned)
    blocks = [
        Block((number, number + 1), (0, len(plan.rows)), f"{row.label!r} {reason}")
        for number, row in enumerate(plan.rows)
        if (reason := _of_row(row.key, failures.problems)) is not None
    ]
    reasons, labels = {}, [row.label for row in plan.rows]
    for tile in plan.tiles:
        if tile.key in failures.tiles:
            block = _block(plan, tile, f"the task that compares them {failures.tiles[tile.key]}")
            blocks.append(block)
            reasons[name_of(tile, labels)] = block.reason
    write_failures(comparison.root, blocks)
    return pairs, reasons


def _of_row(key: str, problems: Mapping[str, str]) -> str | None:
    """Why a subspace of a representation was not made, its own or one on a coarser grid; None where all were."""
    if not key or not problems:
        return None
    mine = key.split(" ", maxsplit=1)[0]
    own = problems.get(key)
    return own or next((reason for name, reason in problems.items() if name.split(" ", maxsplit=1)[0] == mine), None)


def name_of(tile: TileTask, labels: Sequence[str]) -> str:
    """What a tile compares, by the first and last of its representations, of those of the comparison."""
    groups = (labels[number * tile.side : (number + 1) * tile.side] for number in (tile.row, tile.column))
    return " with ".join(map(span, groups))


def span(labels: Sequence[str]) -> str:
    """The first and the last of some names.

    Examples
    --------
    >>> span(["a", "b", "c"]), span(["a"])
    ("'a' to 'c'", "'a'")
    """
    ends = dict.fromkeys((str(labels[0]), str(labels[-1])))
    return " to ".join(map(repr, ends))


def _block(plan: Plan, tile: TileTask, reason: str) -> Block:
    ends = [(number * tile.side, min((number + 1) * tile.side, len(plan.rows))) for number in (tile.row, tile.column)]
    return Block(ends[0], ends[1], reason)


def _mark(comparison: ComparisonStore, plan: Plan, tile: TileTask) -> int:
    block = _block(plan, tile, "")
    place = slice(*block.rows), slice(*block.columns)
    rows, columns = (one.stop - one.start for one in place)
    return mark_failed(comparison.root, place, tile.pairs(rows, columns))
