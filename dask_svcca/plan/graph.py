"""A plan as tasks and what each of them waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_svcca.plan.tasks import MERGED_AT_ONCE, Node, PartTask, ShareTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.plan.tasks import GroupTask, PackTask, TileTask


def nodes_of(packs: Sequence[PackTask], groups: Sequence[GroupTask], tiles: Sequence[TileTask]) -> dict[str, Node]:
    """Tasks by key, each after those that it waits for.

    A tile waits for the subspaces of its two groups, not for all; and for what is summed for it in shares.
    """
    nodes: dict[str, Node] = {}
    for pack in packs:
        nodes |= nodes_of_pack(pack)
    made = {pack.name: pack.key for pack in packs}
    met = {number for tile in tiles for number in (tile.row, tile.column)}
    for number in sorted(met):
        group = groups[number]
        needs = dict.fromkeys(made[place.pack] for member in group.places for place in member if place.pack in made)
        nodes[group.key] = Node(group, tuple(needs))
    for tile in tiles:
        both = groups[tile.row].key, groups[tile.column].key
        shares = [ShareTask(tile, number) for number in range(tile.shares if tile.shares > 1 else 0)]
        nodes |= {share.key: Node(share, both, on_device=share.on_device) for share in shares}
        summed = tuple(share.key for share in shares)
        nodes[tile.key] = Node(tile, both + summed, reports=True, on_device=tile.on_device)
    return nodes


def nodes_of_pack(pack: PackTask) -> dict[str, Node]:
    """Tasks that make a pack, each after those that it waits for."""
    return _in_parts(pack) if pack.parts > 1 else {pack.key: Node(pack, reports=True, on_device=pack.on_device)}


def _in_parts(pack: PackTask) -> dict[str, Node]:
    """Steps of one long representation: parts side by side, and a tree that merges their moments."""
    nodes: dict[str, Node] = {}

    def add(step: str, number: int, *needs: str, reports: bool = False) -> str:
        task = PartTask(step, pack, number)
        nodes[task.key] = Node(task, needs, reports, task.on_device)
        return task.key

    level = [add("moments", part) for part in range(pack.parts)]
    merges = 0
    while len(level) > 1:
        batches = [level[start : start + MERGED_AT_ONCE] for start in range(0, len(level), MERGED_AT_ONCE)]
        level = [add("merge", merges + number, *batch) for number, batch in enumerate(batches)]
        merges += len(batches)
    basis = add("basis", 0, level[0])
    scores = [add("scores", part, basis) for part in range(pack.parts)]
    corrections = add("corrections", 0, *scores)
    corrected = [add("correct", part, basis, corrections) for part in range(pack.parts)]
    add("finish", 0, basis, corrections, *corrected, reports=True)
    return nodes
