"""Plans: values in, one value out; the pairs asked for and no others, each once; subspaces that are not there yet."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import GIGABYTE, index_of, keys_of, pairs_of, plan_of, representation, representations, state_of

import dask_svcca
from dask_svcca.errors import InvalidActivationsError, ParametersChangedError
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.plan.memory import PROCESS_BYTES
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.sides import MAX_TILE, choose_tile
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.tiles import (
    FEW_SAMPLES,
    LONG_TILE,
    Layer,
    TileOptions,
    by_kind,
    choose_chunk_samples,
    tile_limits,
)
from dask_svcca.plan.values import choose_patch, stored_bytes, value_bytes
from dask_svcca.readings import Neurons
from dask_svcca.run.compare import plan_run
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dask_svcca.plan.plan import Plan


@pytest.fixture(autouse=True)
def nothing_is_computed() -> Iterator[None]:
    """Whatever would be computed fails: a plan is made of values alone."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def planned_pairs(plan: Plan) -> set[tuple[int, int]]:
    """Pairs of all tiles, each once."""
    return {(i, j) for tile in plan.tiles for i, j in pairs_of(tile, plan) if i <= j}


def members_of(plan: Plan) -> list[str]:
    return [member.key for pack in plan.packs for member in pack.members]


# Which tiles.


@settings(max_examples=40)
@given(
    count=st.integers(1, 40),
    tile=st.sampled_from([1, 4, 8, 32]),
    asked=st.floats(0.0, 1.0),
    done=st.floats(0.0, 1.0),
    left=st.floats(0.0, 0.5),
    seed=st.integers(0, 99),
)
def test_make_plan__each_missing_pair_is_in_exactly_one_tile(
    count: int, tile: int, asked: float, done: float, left: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    every = representations(count, 1, 1)
    selected = np.triu(rng.random((count, count)) <= asked)
    selected |= selected.T
    status = np.where(np.triu(rng.random((count, count)) <= done), PairStatus.DONE, PairStatus.MISSING)
    status = np.maximum(status, status.T)
    present = rng.random(count) >= left
    # A zoo without any is refused before.
    present[0] = True
    ready = [item for item in every if rng.random() < 0.5]
    zoo = [item for item, there in zip(every, present, strict=True) if there]
    plan = plan_of(
        zoo,
        selected=selected[np.ix_(present, present)],
        state=state_of(every, status, tile=tile),
        index=index_of(ready),
    )
    asked_for = selected & np.outer(present, present)
    missing = asked_for & (status == PairStatus.MISSING)
    expected = {(int(i), int(j)) for i, j in np.argwhere(np.triu(missing))}
    found = Counter((i, j) for one in plan.tiles for i, j in pairs_of(one, plan) if i <= j)
    assert found == Counter(expected)
    for one in plan.tiles:
        assert one.row <= one.column
        assert one.side % tile == 0
        assert pairs_of(one, plan)
    needed = [keys_of(item) for item, needs in zip(every, missing.any(axis=1), strict=True) if needs]
    assert sorted(members_of(plan)) == sorted({*needed} - {keys_of(item) for item in ready})
    assert plan.pairs == np.triu(asked_for).sum()
    assert plan.pairs - plan.pairs_done == len(expected)


def test_make_plan__nothing_left_is_nothing_to_do() -> None:
    status = np.full((12, 12), PairStatus.DONE)
    status[0] = status[:, 0] = PairStatus.FAILED
    status[1, 2:4] = status[2:4, 1] = PairStatus.SATURATED
    status[2, 5:7] = status[5:7, 2] = PairStatus.INCOMPATIBLE_GRIDS
    status[3, 8:9] = status[8:9, 3] = PairStatus.INCOMPATIBLE_SAMPLES
    # And no subspaces are there: nobody needs any.
    plan = plan_of(representations(), state=state_of(representations(), status))
    assert (plan.tasks, plan.packs, plan.tiles, plan.bytes_to_read, plan.tile_bytes) == (0, (), (), 0, 0)
    assert plan.pairs == plan.pairs_done == 78


def test_make_plan__new_representations_come_behind() -> None:
    zoo = representations()
    known = [zoo[7], zoo[2], zoo[9]]
    plan = plan_of(zoo, state=state_of(known, PairStatus.DONE))
    labels = [row.label for row in plan.rows]
    assert labels[:3] == [item.label for item in known]
    assert labels[3:] == [item.label for item in zoo if item not in known]
    assert all(row.representation is not None and row.key == keys_of(row.representation) for row in plan.rows)
    assert planned_pairs(plan) == {(i, j) for i in range(12) for j in range(max(i, 3), 12)}


def test_make_plan__nothing_is_fabricated_for_what_has_left_the_zoo() -> None:
    zoo = representations()
    stayed = [*zoo[:4], *zoo[6:]]
    plan = plan_of(stayed, state=state_of(zoo), match="fold", measures=("svcca", "pwcca"))
    gone = [number for number, row in enumerate(plan.rows) if row.representation is None]
    assert gone == [4, 5]
    assert [(plan.rows[number].label, plan.rows[number].key) for number in gone] == [
        (item.label, "") for item in zoo[4:6]
    ]
    # No task touches them.
    assert not any({i, j} & {*gone} for i, j in planned_pairs(plan))
    assert {label for pack in plan.packs for label in (member.label for member in pack.members)} == {
        item.label for item in stayed
    }
    places = [own for group in plan.groups for own in group.places]
    assert [number for number, own in enumerate(places) if not own] == gone
    assert plan.pairs == 55
    assert plan.bytes_to_read == sum(item.nbytes for item in stayed)
    # Nor where they were changed before they left.
    assert plan_of(stayed, state=state_of(zoo, digests=("",) * 12)).changed == (0, 1, 2, 3, 6, 7, 8, 9, 10, 11)


def test_make_plan__changed_activations_are_compared_again() -> None:
    before = representations()
    zoo = [*before[:5], replace(before[5], digest="another"), *before[6:]]
    plan = plan_of(zoo, state=state_of(before, PairStatus.DONE), index=index_of(before))
    assert plan.changed == (5,)
    assert planned_pairs(plan) == {(min(5, other), max(5, other)) for other in range(12)}
    assert members_of(plan) == [keys_of(zoo[5])]


@pytest.mark.usefixtures("several_tiles")
def test_make_plan__a_comparison_that_began_small_takes_whole_tiles_of_it() -> None:
    zoo = representations(10, 10, 9)
    plan = plan_of(zoo, state=state_of(zoo[:5], tile=32))
    assert (plan.tile, plan.side) == (32, choose_tile(900, Budget(2, GIGABYTE)) // 32 * 32)
    assert plan.side == {tile.side for tile in plan.tiles}.pop() > 32


# Measures that are added.


def test_make_plan__done_pairs_are_planned_again_where_measures_are_added_and_not_otherwise() -> None:
    zoo = representations()
    there = index_of(zoo)
    status = np.full((12, 12), PairStatus.DONE)
    status[3] = status[:, 3] = PairStatus.FAILED
    status[1, 2] = status[2, 1] = PairStatus.SATURATED
    names = ("svcca", "cka")
    versions = {measure.name: measure.version for measure in Parameters(measures=names).records}
    stored = {**Parameters().to_dict(), "measures": list(names)}
    state = state_of(zoo, status, versions=versions, parameters=stored)
    for same in (names, names[:1], names[::-1]):
        plan = plan_of(zoo, state=state, index=there, measures=same)
        assert plan.tasks == 0
        assert {"svcca", "cka"} <= {measure.name for measure in plan.measures}
    plan = plan_of(zoo, state=state, index=there, measures=("procrustes",))
    # Those it has come first, and partial pairs need not compute them; nothing is read and no subspace made.
    assert [measure.name for measure in plan.measures if measure.name in {*names, "procrustes"}] == [
        "svcca",
        "cka",
        "procrustes",
    ]
    assert set(plan.settled) == set(versions)
    assert (plan.packs, plan.bytes_to_read) == ((), 0)
    # What failed by one measure may have a value of another.
    assert planned_pairs(plan) == {(i, j) for i in range(12) for j in range(i, 12)}
    assert plan.pairs - plan.pairs_done == 78
    # Only those asked for.
    only = plan_of(zoo, state=state, index=there, measures=("procrustes",), selected=np.eye(12, dtype=bool))
    assert planned_pairs(only) == {(i, i) for i in range(12)}


def test_make_plan__partial_pairs_need_what_their_comparison_lacks() -> None:
    zoo = representations()
    names = ("svcca", "cka")
    versions = {measure.name: measure.version for measure in Parameters(measures=names).records}
    stored = {**Parameters().to_dict(), "measures": list(names)}
    status = np.full((12, 12), PairStatus.DONE)
    status[:4, :4] = PairStatus.PARTIAL
    state = state_of(zoo, status, versions=versions, parameters=stored, settled=("svcca", "null_svcca"))
    # A run that added a measure was stopped: the next does what is left, whatever it asks for.
    for measures in (names, ("svcca",)):
        plan = plan_of(zoo, state=state, index=index_of(zoo), measures=measures)
        assert planned_pairs(plan) == {(i, j) for i in range(4) for j in range(i, 4)}
        assert plan.settled == ("svcca", "null_svcca")
    # With one measure more, all that partial pairs are sure to have is what they had before.
    more = plan_of(zoo, state=state, index=index_of(zoo), measures=("procrustes",))
    assert len(planned_pairs(more)) == 78
    assert more.settled == ("svcca", "null_svcca")
    # Stopped before any pair was marked as partial.
    growing = replace(state, status=np.full((12, 12), PairStatus.DONE, dtype=np.uint8), growing=True)
    plan = plan_of(zoo, state=growing, index=index_of(zoo))
    assert len(planned_pairs(plan)) == 78
    assert plan.settled == ("svcca", "null_svcca")


def test_make_plan__details_are_added_as_measures_are() -> None:
    zoo = representations()
    state = state_of(zoo, PairStatus.DONE)
    plan = plan_of(zoo, state=state, index=index_of(zoo), keep=("correlations",))
    assert plan.details == {"correlations": (24,)}
    assert set(plan.settled) == set(state.versions)
    assert len(planned_pairs(plan)) == 78
    kept = replace(state, details={"correlations": (24,)})
    assert plan_of(zoo, state=kept, index=index_of(zoo)).details == {"correlations": (24,)}
    assert plan_of(zoo, state=kept, index=index_of(zoo), keep=("correlations",)).tasks == 0


def test_make_plan__frequencies_have_the_room_that_they_had() -> None:
    small, large = (representation(layer=str(size), shape=(500, size, size, 3)) for size in (4, 8))
    state = state_of([large], PairStatus.DONE, details={"frequencies": (8, 8)})
    assert plan_of([small], state=state).details == {"frequencies": (8, 8)}
    state = state_of([small], PairStatus.DONE, details={"frequencies": (4, 4)})
    message = "'comparison' keeps frequencies of grids up to 4 x 4, and the zoo now has a grid of 8 x 8"
    with pytest.raises(ParametersChangedError, match=message):
        plan_of([small, large], state=state)
    with pytest.raises(InvalidActivationsError, match=r"keep='frequencies' .* the zoo has no such layer yet"):
        plan_of(representations(), keep=("frequencies",))


# Which subspaces.


def test_make_plan__reads_only_what_has_no_subspace_yet() -> None:
    zoo = representations()
    plan = plan_of(zoo, index=index_of(zoo[:10]))
    assert plan.bytes_to_read == 2 * 500 * 24 * 4
    assert plan.subspaces == 2
    # Those that are there and those that are to be made are found where they are.
    made = {member.key: (pack.name, place) for pack in plan.packs for place, member in enumerate(pack.members)}
    for number, own in enumerate(own for group in plan.groups for own in group.places):
        expected = ("there", number) if number < 10 else made[keys_of(zoo[number])]
        assert [(place.pack, place.position, place.fold) for place in own] == [(*expected, ())]


def test_make_plan__each_subspace_is_made_once() -> None:
    # Weights that were not trained: the same activations under several names.
    zoo = [replace(item, digest=f"digest {number % 3}") for number, item in enumerate(representations())]
    plan = plan_of(zoo)
    assert sorted(members_of(plan)) == sorted({keys_of(item) for item in zoo})
    assert (plan.subspaces, plan.bytes_to_read) == (3, 3 * 500 * 24 * 4)
    places = [own for group in plan.groups for own in group.places]
    assert places[:3] * 4 == places


def test_make_plan__loadings_that_a_measure_needs_are_made_where_they_are_not_there() -> None:
    dual = representations(1, 3, 1, shape=(50, 400))
    without = index_of(dual, with_loadings=False)
    assert plan_of(dual, index=without, measures=("cka",)).subspaces == 0
    plan = plan_of(dual, index=without, measures=("pwcca",))
    assert plan.subspaces == 3
    assert all(member.with_loadings for pack in plan.packs for member in pack.members)
    assert {place.pack for own in plan.groups[0].places for place in own} == {pack.name for pack in plan.packs}
    assert plan_of(dual, index=index_of(dual), measures=("pwcca",)).subspaces == 0
    # What cannot be made is not tried again.
    assert plan_of(dual, index=index_of(dual, problem="is constant"), measures=("pwcca",)).subspaces == 0
    without_pwcca = plan_of(dual, measures=("cka",))
    assert not any(member.with_loadings for pack in without_pwcca.packs for member in pack.members)


CONV = [representation(layer=str(grid), shape=(500, *grid, 3)) for grid in ((8, 8), (4, 4), (2, 2), (3, 3), (4, 8))]


def folds_of(plan: Plan) -> list[set[tuple[int, ...]]]:
    """Of each row, the grids that it is folded on; empty for its own."""
    return [{place.fold for place in own} for group in plan.groups for own in group.places]


def test_make_plan__folds_are_made_for_the_partners_that_ask_for_them() -> None:
    dense = representation()
    plan = plan_of([*CONV, dense], match="fold")
    assert folds_of(plan) == [
        {(), (4, 4), (2, 2), (4, 8)},
        {(), (2, 2)},
        {()},
        {()},
        {(), (4, 4), (2, 2)},
        {()},
    ]
    expected = [keys_of(item) for item in [*CONV, dense]]
    expected += [keys_of(CONV[0], fold=fold) for fold in ((4, 4), (2, 2), (4, 8))]
    expected += [keys_of(CONV[1], fold=(2, 2)), *(keys_of(CONV[4], fold=fold) for fold in ((4, 4), (2, 2)))]
    assert sorted(members_of(plan)) == sorted(expected)
    assert folds_of(plan_of(CONV, match="crop")) == [{()}] * 5
    # Of one pair alone.
    selected = np.zeros((5, 5), dtype=bool)
    selected[0, 2] = selected[2, 0] = True
    assert folds_of(plan_of(CONV, match="fold", selected=selected)) == [{(), (2, 2)}, set(), {()}, set(), set()]
    # Nor for a pair that is done, or a partner that has left.
    done = state_of(CONV, np.where(selected, PairStatus.DONE, PairStatus.MISSING))
    assert (2, 2) not in folds_of(plan_of(CONV, match="fold", state=done))[0]
    assert folds_of(plan_of([CONV[0], CONV[3]], match="fold", state=state_of(CONV)))[0] == {()}


def test_make_plan__a_pack_holds_members_of_one_domain_and_kind() -> None:
    tokens = [representation(layer=f"tokens {count}", shape=(500, count, 24)) for count in (6, 6, 7)]
    tokens = [replace(item, digest=f"{item.digest} {number}") for number, item in enumerate(tokens)]
    tokens = [replace(item, name=item.name._replace(layer=f"{number}")) for number, item in enumerate(tokens)]
    zoo = [*representations(4, 20, 5), *CONV, *tokens]
    # Interleaved, as the layers of a network are.
    zoo = [zoo[number] for number in np.random.default_rng(0).permutation(len(zoo))]
    plan = plan_of(zoo, sequence="positions", match="fold")
    kinds = [
        {(member.reading.domain, member.samples, member.reading.is_complex) for member in pack.members}
        for pack in plan.packs
    ]
    assert {len(kind) for kind in kinds} == {1}
    assert len({pack.name for pack in plan.packs}) == len(plan.packs)
    # Of each kind there are full packs, however they were interleaved.
    assert max(len(pack.members) for pack in plan.packs) == plan.subspaces // 16
    assert sorted(members_of(plan)) == sorted({*members_of(plan)})
    # The same members make the same pack.
    assert plan_of(zoo, sequence="positions", match="fold").packs == plan.packs


# How many.


@pytest.mark.parametrize("workers", [1, 2, 16, 128])
def test_make_plan__the_demo_is_a_few_thousand_tasks_at_most(workers: int) -> None:
    plan = plan_of(representations(4, 11, 20), workers=workers)
    assert plan.pairs == 880 * 881 // 2
    assert plan.tasks < 4000
    assert len(plan.tiles) >= workers


def test_make_plan__ten_thousand_representations_are_thousands_of_tasks() -> None:
    plan = plan_of(representations(10, 50, 20))
    assert plan.pairs == 50_005_000
    assert len(plan.tiles) < 4000
    assert plan.tasks < 15_000


@given(count=st.integers(1, 20_000), workers=st.integers(1, 1000))
def test_choose_tile__keeps_all_workers_busy_with_few_tiles(count: int, workers: int) -> None:
    tile = choose_tile(count, Budget(workers, GIGABYTE))
    assert 8 <= tile <= MAX_TILE
    assert tile % 8 == 0
    tiles = -(-count // tile)
    # As many tiles as keep every worker busy, unless they would be too small to be worth a task.
    assert tiles * (tiles + 1) // 2 >= workers or tile == 8
    assert tile == MAX_TILE or tiles <= np.ceil(np.sqrt(32 * workers))


def test_choose_tile__is_smaller_where_a_pair_is_long_work() -> None:
    two = Budget(2, GIGABYTE)
    assert choose_tile(8, two) == 8
    assert choose_tile(8, two, 1e9) == 4
    assert choose_tile(10_000, two, 300 * 24**2) == choose_tile(10_000, two) == MAX_TILE
    assert choose_tile(10_000, two, 1e9) == LONG_TILE
    assert LONG_TILE < choose_tile(10_000, two, 1000 * 64**2) < MAX_TILE


def test_choose_tile__has_room_for_the_values_of_all_its_pairs() -> None:
    for names, memory in (("svcca", GIGABYTE), ("all", GIGABYTE), ("all", PROCESS_BYTES + 2**24), ("svcca", 0)):
        budget, measures = Budget(2, memory), with_companions(find_measures(names))
        tile = choose_tile(10_000, budget, 1.0, stored_bytes(measures), len(measures) + 1)
        assert tile % 8 == 0
        assert tile == 8 or tile**2 * stored_bytes(measures) <= 0.75 * budget.available
        patch = choose_patch(tile, measures, budget.available)
        held = tile**2 * stored_bytes(measures) + patch**2 * value_bytes(measures)
        assert patch == 1 or held < 0.9 * budget.available
        assert patch == tile or names == "all" or not memory


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize(("names", "gigabytes"), [("svcca", 1), ("all", 1), ("all", 2), ("all", 4)])
def test_choose_tile__makes_few_files_of_many_variables(names: str, gigabytes: int, workers: int) -> None:
    measures = with_companions(find_measures(names))
    products, variables = 300 * 24**2, len(measures) + 1
    tile = choose_tile(10_000, Budget(workers, gigabytes * GIGABYTE), products, stored_bytes(measures), variables)
    assert tile > MAX_TILE
    # The others are those of packs, and of variables along one axis.
    assert variables * np.ceil(10_000 / tile) ** 2 <= 1500
    # Where there are more workers, none waits for want of tiles.
    many = choose_tile(10_000, Budget(32, 16 * GIGABYTE), products, stored_bytes(measures), variables)
    assert np.ceil(10_000 / many) ** 2 / 2 > 4 * 32


@given(directions=st.integers(1, 100_000), itemsize=st.sampled_from([4, 8, 16]))
def test_choose_chunk_samples__a_chunk_of_scores_is_worth_a_file(directions: int, itemsize: int) -> None:
    samples = choose_chunk_samples(directions, itemsize)
    assert samples >= 256
    assert samples == 256 or samples * directions * itemsize <= 4 * 2**20


def test_make_plan__chunks_of_scores_are_those_that_are_there() -> None:
    zoo = representations()
    assert plan_of(zoo, index=index_of(zoo[:1])).chunk_samples == 1000
    assert plan_of(zoo).chunk_samples == choose_chunk_samples(24, 4)


# As values, and as text.


def test_plan__is_json_and_prints_its_numbers() -> None:
    plan = plan_of(representations(4, 11, 20))
    numbers = plan.to_dict()
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["pairs"] == 387_640
    assert numbers["subspaces"] == 880
    assert numbers["tasks"] == plan.tasks == len(plan.packs) + numbers["tiles"] + -(-880 // plan.side)
    text = str(plan)
    for line, number in {
        "representations": "880, of which 880 subspaces to make",
        "pairs": "387,640",
        "tiles": f"{len(plan.tiles)} of {plan.side} x {plan.side}",
        "tasks": f"{plan.tasks:,}",
        "bytes to read": "42.2 MB",
        "memory per task": "MiB per subspace",
    }.items():
        assert re.search(rf"^{line} .*{re.escape(number)}", text, re.MULTILINE)


def test_plan__its_tasks_are_values() -> None:
    plan = plan_of(representations(), measures=("svcca", "cka"))
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan == plan_of(representations(), measures=("svcca", "cka"))
    assert len({*plan.groups, *again.groups}) == len(plan.groups)
    assert len({*plan.packs, *again.packs}) == len(plan.packs)
    assert {tile.key for tile in again.tiles} == {tile.key for tile in plan.tiles}


def test_plan_run__reads_names_only_and_writes_nothing(tmp_path: Path) -> None:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(50)) as zoo:
        for step in range(5):
            zoo.write("net", str(step), "fc", np.random.default_rng(step).normal(size=(50, 4)), step=step)
    place, budget = tmp_path / "comparison.zarr", Budget(2, GIGABYTE)
    expected = plan_run(zoo, place, Parameters(), budget)
    assert (expected.pairs, expected.subspaces) == (15, 5)
    for chunks in tmp_path.glob("zoo.zarr/*/*/*/activations/c"):
        shutil.rmtree(chunks)
    before = sorted(tmp_path.rglob("*"))
    zoo = dask_svcca.open_zoo(tmp_path / "zoo.zarr")
    assert plan_run(zoo, place, Parameters(), budget, subspaces=tmp_path / "subspaces.zarr") == expected
    assert plan_run(zoo, place, Parameters(), budget) == expected
    assert sorted(tmp_path.rglob("*")) == before


def test_tile_limits__couplings_of_few_samples_are_made_a_quarter_at_a_time() -> None:
    options = TileOptions(4000, "float32", "crop", find_measures("svcca"), {})
    few, many = (
        by_kind([Layer.of("a/b/c", Neurons(), (samples, 64))] * 256) for samples in (FEW_SAMPLES, FEW_SAMPLES + 1)
    )
    a, b = (tile_limits(group, group, 256, options, 2**32) for group in (few, many))
    assert a.couplings == b.couplings / 4
    assert a.peak < b.peak
    # Where that is not enough for a pair, one is made.
    wide = by_kind([Layer.of("a/b/c", Neurons(), (1000, 1000))] * 2)
    assert tile_limits(wide, wide, 2, options, 2**20).couplings >= 4 * 1000**2


def test_tile_limits__parts_of_one_side_hold_no_loadings_twice() -> None:
    options = TileOptions(4000, "float32", "crop", find_measures("pwcca"), {})
    group = by_kind([Layer.of("a/b/c", Neurons(), (FEW_SAMPLES, 20_000))] * 6)
    loadings = 6 * 8 * FEW_SAMPLES * 20_000
    diagonal, two = (tile_limits(group, other, 6, options, 2**36) for other in (group, [*group]))
    # Couplings are made a quarter at a time, and so are those of the whole side with itself.
    assert diagonal.couplings < 4 * (6 * FEW_SAMPLES) ** 2
    assert loadings < diagonal.peak < two.peak - loadings * 0.99


def test_tile_limits__of_few_layers_have_room_for_the_values_of_all_places() -> None:
    options = TileOptions(4000, "float32", "crop", find_measures("svcca"), {})
    few = by_kind([Layer.of("a/b/c", Neurons(), (100, 4))] * 80)
    # Those that have left the zoo have values, too, and at the edge chunks are written at their full size.
    assert tile_limits(few, few, 800, options, 2**30).peak > 800**2 * stored_bytes(options.measures)
