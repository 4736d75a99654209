"""How subspaces are made: in packs, in parts, within the memory of a worker, or refused before anything runs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from planned import GIGABYTE, index_of, plan_of, representation, representations, state_of

from dask_svcca.errors import MemoryLimitError
from dask_svcca.plan.memory import PROCESS_BYTES, subspace_costs
from dask_svcca.plan.parameters import Parameters
from dask_svcca.readings import choose_reading
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from dask_svcca.plan.memory import SubspaceCosts
    from dask_svcca.plan.plan import Plan


def sizes_of(plan: Plan) -> list[int]:
    return [len(pack.members) for pack in plan.packs]


def parts_of(plan: Plan) -> list[int]:
    return [pack.parts for pack in plan.packs]


# Small representations in packs.


def test_make_plan__many_small_ones_make_few_tasks() -> None:
    plan = plan_of(representations(4, 11, 20))
    assert sum(sizes_of(plan)) == 880
    # In order, so that the first tiles find theirs early.
    assert [member.label for pack in plan.packs for member in pack.members] == [row.label for row in plan.rows]
    assert 8 * 2 <= len(plan.packs) < 20
    assert max(sizes_of(plan)) == 880 // 16
    # Fewer at a time where they have a few megabytes each, and one by one where they have many.
    assert max(sizes_of(plan_of(representations(4, 11, 20, shape=(2**16, 24))))) == 2
    assert {*sizes_of(plan_of(representations(4, 11, 20, shape=(2**18, 24))))} == {1}
    # All workers have something to do.
    assert len(plan_of(representations(4, 11, 20), workers=100).packs) >= 150
    # But there are no more packs than that: each is a dozen files.
    assert len(plan_of(representations(4, 11, 20), workers=16).packs) < 40
    # A few tiny ones are not worth several tasks.
    assert sizes_of(plan_of(representations(1, 1, 20, shape=(100, 24)))) == [20]
    assert len(plan_of(representations(1, 1, 20)).packs) == 4


def test_make_plan__a_pack_is_as_large_as_a_worker_has_room_for() -> None:
    zoo = representations(4, 11, 20, shape=(4000, 60))
    free = plan_of(zoo)
    tight = plan_of(zoo, memory=PROCESS_BYTES + free.subspace_bytes // 2)
    assert max(sizes_of(tight)) < max(sizes_of(free))
    for plan, memory in ((free, GIGABYTE), (tight, PROCESS_BYTES + free.subspace_bytes // 2)):
        assert plan.subspace_bytes == max(pack.memory for pack in plan.packs) <= memory - PROCESS_BYTES


# Long ones in parts.


def test_make_plan__parts_where_representations_are_few_and_long() -> None:
    plan = plan_of(representations(1, 1, 3, shape=(2**20, 64), chunk_examples=4096))
    # 64 MiB each.
    assert parts_of(plan) == [4, 4, 4]
    one = plan_of(representations(1, 1, 1, shape=(10**7, 64), chunk_examples=4096))
    assert parts_of(one) == [8]
    # Moments, two merges and one of these, basis, scores, corrections, corrected scores, index; one tile, one group.
    assert one.tasks == 8 + 2 + 1 + 1 + 8 + 1 + 8 + 1 + 2


def test_make_plan__one_long_among_short_ones() -> None:
    short = representations(1, 1, 9, shape=(10**4, 64))
    plan = plan_of([replace(short[0], shape=(10**7, 64)), *short[1:]])
    assert parts_of(plan) == [8, *[1] * 8]
    assert sizes_of(plan) == [1] * 9


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((10**6, 64), {"workers": 1}),
        # In one chunk.
        ((10**6, 64), {"chunk_examples": 10**6, "memory": 10 * GIGABYTE}),
        # By way of the samples.
        ((1000, 10**6), {"memory": 100 * GIGABYTE}),
        # Under a mask, which hides how many samples there are.
        ((10**5, 10, 64), {"sequence": "positions", "mask": "real"}),
        # Small.
        ((10**5, 64), {}),
    ],
)
def test_make_plan__no_parts_where_they_are_of_no_use(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    item = representation(shape=shape, chunk_examples=options.pop("chunk_examples", 500))
    assert parts_of(plan_of([item], **options)) == [1]


def test_make_plan__a_sequence_without_a_mask_is_read_in_parts() -> None:
    item = representation(shape=(10**5, 10, 64))
    assert parts_of(plan_of([item], sequence="positions")) == [3]


def costs_of(item: Any, plan: Plan) -> SubspaceCosts:
    return subspace_costs(
        choose_reading(item.dims, item.shape, Parameters().reading),
        shape=item.shape,
        chunk_examples=item.chunk_examples,
        chunk_samples=plan.chunk_samples,
        dtype=item.dtype,
        precision="float32",
        with_loadings=False,
    )


def test_make_plan__parts_wait_in_memory_that_is_predicted() -> None:
    wide = representation(shape=(10**5, 2048))
    scatter = 2048**2 * 8
    whole, parts = (plan_of([wide], workers=workers, measures=("cca",)) for workers in (1, 2))
    costs = costs_of(wide, whole)
    assert parts_of(parts) == [8]
    assert parts.subspace_bytes == costs.peak() + 4 * scatter
    # No room for those that wait.
    tight = plan_of([wide], memory=costs.peak() + PROCESS_BYTES + 3 * scatter, measures=("cca",))
    assert parts_of(tight) == parts_of(whole) == [1]
    assert tight.subspace_bytes == whole.subspace_bytes == costs.peak()
    # A task that reads all of it reads it once, where there is room to hold its samples.
    roomy = plan_of([wide], workers=1, memory=10 * GIGABYTE, measures=("cca",))
    assert [member.memory.held for member in roomy.packs[0].members] == [costs.samples]
    assert roomy.subspace_bytes == costs.peak(costs.samples)


# What cannot fit.


def test_make_plan__refuses_a_subspace_that_cannot_fit() -> None:
    zoo = representations(1, 3, 1, shape=(9000, 10))
    zoo[1] = replace(zoo[1], shape=(9000, 8000))
    with pytest.raises(MemoryLimitError) as error:
        plan_of(zoo, memory=2 * GIGABYTE)
    message = str(error.value)
    assert "the subspace of 'net0/step8/fc0', an array of shape (9000, 8000)" in message
    needed, beyond, held, there = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) MiB", message))
    assert needed > there == 2048
    assert needed - beyond == held == PROCESS_BYTES // 2**20
    assert "Use fewer workers with more memory each, or a reading with fewer neurons" in message
    assert isinstance(error.value, MemoryError)
    # It names what it takes: with that much there is a plan, which takes no more.
    plan = plan_of(zoo, memory=(needed + 1) * 2**20)
    assert plan.subspace_bytes <= (needed + 1) * 2**20 - PROCESS_BYTES


def test_make_plan__refuses_a_pair_that_cannot_fit() -> None:
    zoo = representations(1, 2, 1, shape=(9000, 8000))
    with pytest.raises(MemoryLimitError, match=r"one pair of the widest .* needs [\d,]+ MiB .* may take 1,024 MiB"):
        plan_of(zoo, index=index_of(zoo))


def test_make_plan__does_not_refuse_for_what_is_done_already() -> None:
    zoo = representations(1, 2, 1, shape=(9000, 8000))
    assert plan_of(zoo, state=state_of(zoo, PairStatus.DONE)).tasks == 0


def test_make_plan__a_tile_takes_what_its_layers_can_need_or_all_there_is() -> None:
    few = plan_of(representations(2, 2, 2))
    assert few.tile_bytes < 200 * 2**20
    many = plan_of(representations(40, 4, 4, shape=(500, 400)))
    # To within a step of the search for it.
    assert 0.99 * (GIGABYTE - PROCESS_BYTES) < many.tile_bytes <= GIGABYTE - PROCESS_BYTES


def test_make_plan__what_a_tile_may_take_is_of_its_own_layers() -> None:
    narrow, wide = representations(1, 1, 8), representations(1, 8, 1, shape=(500, 400))
    plan = plan_of([*narrow, *wide[1:]], state=state_of(narrow))
    peaks = {(tile.row, tile.column): tile.memory.peak for tile in plan.tiles}
    assert peaks[0, 0] < peaks[0, 1] < peaks[1, 1] == plan.tile_bytes
    np.testing.assert_array_equal([tile.memory.loadings for tile in plan.tiles], 0)
    with_loadings = plan_of([*narrow, *wide[1:]], state=state_of(narrow), measures=("pwcca",))
    assert min(tile.memory.loadings for tile in with_loadings.tiles) > 0
