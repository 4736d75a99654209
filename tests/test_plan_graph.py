"""A plan as tasks: each behind those that it needs, and none that waits for more than it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from planned import index_of, plan_of, representation, representations, state_of

from dask_svcca.plan.tasks import MERGED_AT_ONCE, GroupTask, PackTask, PartTask, TileTask
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.tasks import Node


def long_and_short() -> Plan:
    """Two long representations, read in parts, among forty short ones, some of them there already."""
    short = representations(2, 10, 2)
    long = [representation("long", f"step{i}", shape=(10**7, 64), chunk_examples=4096) for i in range(2)]
    return plan_of([*short[:20], long[0], *short[20:], long[1]], index=index_of(short[:5]))


def of_kind(nodes: dict[str, Node], kind: type) -> dict[str, Node]:
    return {key: node for key, node in nodes.items() if isinstance(node.task, kind)}


PLANS = {
    "long and short": long_and_short(),
    "long": plan_of([representation(shape=(10**7, 64), chunk_examples=4096)], workers=16),
    "folded": plan_of([representation(layer=str(n), shape=(500, n, n, 3)) for n in (8, 4, 2)], match="fold"),
    "in shares": plan_of(representations(4, 4, 4, (5000, 256)), workers=4, measures="cka"),
    "nothing to make": plan_of(representations(), index=index_of(representations())),
    "nothing": plan_of(representations(), state=state_of(representations(), PairStatus.DONE)),
}


@pytest.mark.parametrize("case", PLANS)
def test_nodes_of__every_need_is_a_task_before_it(case: str) -> None:
    nodes = PLANS[case].nodes
    before: set[str] = set()
    for key, node in nodes.items():
        assert key == node.task.key
        assert {*node.needs} <= before
        before.add(key)
    assert len(nodes) == PLANS[case].tasks


@pytest.mark.parametrize("case", PLANS)
def test_nodes_of__whoever_runs_it_hears_of_each_pack_and_each_tile_once(case: str) -> None:
    plan = PLANS[case]
    nodes = plan.nodes
    reporting = [key for key, node in nodes.items() if node.reports]
    assert sorted(reporting) == sorted([*(pack.key for pack in plan.packs), *(tile.key for tile in plan.tiles)])
    # Nothing is done in vain.
    needed = {key for node in nodes.values() for key in node.needs}
    assert {*nodes} - needed <= {*reporting}


@pytest.mark.parametrize("case", PLANS)
def test_nodes_of__a_tile_waits_for_its_two_groups(case: str) -> None:
    plan = PLANS[case]
    tiles = of_kind(plan.nodes, TileTask)
    assert [node.task for node in tiles.values()] == list(plan.tiles)
    for node in tiles.values():
        assert isinstance(node.task, TileTask)
        # One for either side of it, even where they are the same; and what was summed for it.
        place, shares = f"{node.task.row}-{node.task.column}", node.task.shares
        shared = [f"share-{place}-{number}" for number in range(shares if shares > 1 else 0)]
        assert node.needs == (f"group-{node.task.row}", f"group-{node.task.column}", *shared)
        assert bool(shared) == (case == "in shares")


@pytest.mark.parametrize("case", PLANS)
def test_nodes_of__a_group_waits_for_the_packs_of_its_members_only(case: str) -> None:
    plan = PLANS[case]
    nodes = plan.nodes
    groups = of_kind(nodes, GroupTask)
    assert {node.task for node in groups.values()} == {
        plan.groups[number] for tile in plan.tiles for number in (tile.row, tile.column)
    }
    made = {pack.name: pack.key for pack in plan.packs}
    for node in groups.values():
        assert isinstance(node.task, GroupTask)
        members = plan.rows[node.task.number * plan.side :][: plan.side]
        labels = {row.label for row in members}
        assert len(node.task.places) == len(members)
        expected = {pack.key for pack in plan.packs if labels & {member.label for member in pack.members}}
        assert {*node.needs} == expected
        # What was there before, nobody waits for.
        places = [place for own in node.task.places for place in own]
        assert {made[place.pack] for place in places if place.pack != "there"} == expected


def test_nodes_of__groups_do_not_wait_for_one_another() -> None:
    nodes = long_and_short().nodes
    groups = of_kind(nodes, GroupTask)
    assert len(groups) > 2
    everything = {key for key, node in nodes.items() if isinstance(node.task, PackTask) or node.reports}
    assert all({*node.needs} < everything for node in groups.values())


@pytest.mark.parametrize("workers", [2, 5, 16])
def test_nodes_of__parts_are_merged_in_a_tree(workers: int) -> None:
    plan = plan_of([representation(shape=(10**7, 64), chunk_examples=4096)], workers=workers)
    (pack,) = plan.packs
    assert pack.parts > MERGED_AT_ONCE
    steps: dict[str, dict[str, Node]] = {}
    for key, node in of_kind(plan.nodes, PartTask).items():
        assert isinstance(node.task, PartTask)
        assert node.task.pack == pack
        steps.setdefault(node.task.step, {})[key] = node
    parts = range(pack.parts)
    for step in ("moments", "scores", "correct"):
        assert sorted(node.task.number for node in steps[step].values()) == list(parts)
    assert all(node.needs == () for node in steps["moments"].values())
    # Each part is merged once, a few at a time, and what comes out of it is the basis.
    (basis,) = steps["basis"].values()
    merges = steps["merge"]
    assert max(len(node.needs) for node in merges.values()) == MERGED_AT_ONCE

    def merged(key: str) -> list[str]:
        return [one for need in merges[key].needs for one in merged(need)] if key in merges else [key]

    assert sorted(merged(basis.needs[0])) == sorted(steps["moments"])
    assert len({need for node in merges.values() for need in node.needs}) == len(merges) - 1 + pack.parts
    # All parts are projected on it, all of them tell what is to be put right, and each is put right.
    (basis_key,), (corrections_key,) = steps["basis"], steps["corrections"]
    assert all(node.needs == (basis_key,) for node in steps["scores"].values())
    assert steps["corrections"][corrections_key].needs == tuple(steps["scores"])
    assert all(node.needs == (basis_key, corrections_key) for node in steps["correct"].values())
    assert steps["finish"][pack.key].needs == (basis_key, corrections_key, *steps["correct"])
    assert next(key for key, node in plan.nodes.items() if node.reports) == pack.key
