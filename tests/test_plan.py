"""Plans: the pairs asked for and no others, each once; few tasks; refused before running where they cannot fit."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_svcca
from dask_svcca.errors import MemoryLimitError, UnknownMeasureError
from dask_svcca.plan.comparison import MAX_TILE, PROCESS_BYTES, Plan, choose_rows, choose_tile, make_plan
from dask_svcca.plan.parameters import Parameters, make_parameters
from dask_svcca.plan.selection import select_pairs
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dask_svcca.plan.tasks import TileTask

GIGABYTE = 2**30


def frame(models: int = 2, checkpoints: int = 3, layers: int = 2, shape: tuple[int, ...] = (500, 24)) -> pd.DataFrame:
    """What `Zoo.representations` would be for a zoo of dense layers."""
    index = pd.MultiIndex.from_product([range(models), range(checkpoints), range(layers)], names=["m", "c", "l"])
    m, c, l = (index.get_level_values(name) for name in index.names)
    found = pd.DataFrame(
        {
            "model": [f"net{i}" for i in m],
            # The names do not sort as the steps do.
            "checkpoint": [f"step{i}" for i in 8 * c],
            "layer": [f"fc{i}" for i in l],
            "step": 8.0 * np.asarray(c),
            "depth": np.asarray(l, dtype=float),
        }
    )
    found["dims"] = [("example", "neuron")] * len(found)
    found["shape"] = [shape] * len(found)
    found["dtype"] = "float32"
    found["nbytes"] = int(np.prod(shape)) * 4
    found["digest"] = [f"digest{i}" for i in range(len(found))]
    found.index = pd.Index(found["model"] + "/" + found["checkpoint"] + "/" + found["layer"], name="representation")
    return found


def plan_of(representations: pd.DataFrame, **options: Any) -> Plan:
    count = len(representations)
    side = options.pop("side", choose_tile(count, 2))
    defaults: dict[str, Any] = {
        "paths": list(representations.index),
        "rows_per_chunk": [500] * count,
        "selected": np.ones((count, count), dtype=bool),
        "status": np.zeros((count, count), dtype=np.uint8),
        "ready": np.zeros(count, dtype=bool),
        "parameters": Parameters(),
        "tile": side,
        "side": side,
        "workers": 2,
        "rows": 500,
        "memory": GIGABYTE,
    }
    return make_plan(representations=representations, **{**defaults, **options})


def pairs_of(tile: TileTask) -> list[tuple[int, int]]:
    """Pairs that a tile is asked for, by position in the whole matrix."""
    shape = len(tile.paths_a), len(tile.paths_b)
    mask = np.unpackbits(np.frombuffer(tile.selected, np.uint8), count=shape[0] * shape[1]).reshape(shape)
    return [(tile.row * tile.side + int(i), tile.column * tile.side + int(j)) for i, j in np.argwhere(mask)]


# Which pairs.

Row = Any  # of DataFrame.itertuples


def is_final(row: Row, every: list[Row]) -> bool:
    return row.step == max(other.step for other in every if other.model == row.model)


SELECTIONS: dict[str, Callable[[Row, Row, list[Row]], bool]] = {
    "all": lambda a, b, every: True,
    "same-layer": lambda a, b, every: a.layer == b.layer,
    "same-checkpoint": lambda a, b, every: a.model == b.model and a.checkpoint == b.checkpoint,
    "within-model": lambda a, b, every: a.model == b.model,
    "final": lambda a, b, every: a.model == b.model and (is_final(a, every) or is_final(b, every)),
    "between net0 net1": lambda a, b, every: {a.model, b.model} == {"net0", "net1"},
    "between net1 net1": lambda a, b, every: a.model == b.model == "net1",
}


@pytest.mark.parametrize("pairs", SELECTIONS)
def test_select_pairs__agrees_with_asking_each_pair(pairs: str) -> None:
    representations = frame(models=3, checkpoints=3).sample(frac=1, random_state=0)
    rows = list(representations.itertuples())
    expected = [[SELECTIONS[pairs](a, b, rows) for b in rows] for a in rows]
    np.testing.assert_array_equal(select_pairs(pairs, representations), expected)


def test_select_pairs__final_without_steps_is_the_last_by_name() -> None:
    representations = frame(models=1, checkpoints=2, layers=1).assign(step=np.nan)
    assert list(representations["checkpoint"]) == ["step0", "step8"]
    np.testing.assert_array_equal(select_pairs("final", representations), [[False, True], [True, True]])


def test_select_pairs__a_mask_goes_both_ways_and_stays_as_it_was() -> None:
    mask = np.zeros((12, 12), dtype=bool)
    mask[2, 7] = True
    selected = select_pairs(mask, frame())
    assert sorted(map(tuple, np.argwhere(selected))) == [(2, 7), (7, 2)]
    assert mask.sum() == 1


def test_select_pairs__a_labelled_mask_may_be_in_any_order() -> None:
    representations = frame()
    labels = representations.index.to_numpy()
    mask = xr.DataArray(
        np.zeros((12, 12), dtype=bool),
        dims=("representation_b", "representation_a"),
        coords={"representation_a": labels[::-1], "representation_b": labels},
    )
    mask.loc[{"representation_a": labels[2], "representation_b": labels[7]}] = True
    assert sorted(map(tuple, np.argwhere(select_pairs(mask, representations)))) == [(2, 7), (7, 2)]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("some", "pairs='some' is not a selection; there are 'all', 'same-layer', .*, or a mask"),
        ("between net0", "pairs='between net0' is not a selection"),
        ("between net0 other", "no model 'other' for pairs='between net0 other'; there are net0, net1"),
        (np.ones((3, 3), dtype=bool), r"boolean, \(12, 12\) for 12 representations; got bool, \(3, 3\)"),
        (np.ones((12, 12)), "boolean, .* got float64"),
        (np.zeros((12, 12), dtype=bool), "pairs=the given mask selects no pair of 12"),
        (
            xr.DataArray([[True]], coords={"representation_a": ["a"], "representation_b": ["b"]}),
            "no representation_a for 12 representations of the zoo, among them 'net0/step0/fc0'",
        ),
    ],
)
def test_select_pairs__refuses_what_selects_nothing(pairs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_pairs(pairs, frame())


# Parameters.


@pytest.mark.parametrize("variance", [0, -0.1, 1.01, 99, float("nan")])
def test_parameters__refuse_a_variance_that_is_no_share(variance: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"above 0 and up to 1; got {variance!r}. The paper's is 0.99")):
        Parameters(variance=variance)


@pytest.mark.parametrize("name", ["conv", "match", "sequence", "precision"])
def test_parameters__name_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is one of '\w+', .*'; got 'other'"):
        Parameters(**{name: "other"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ("svca", "no measure 'svca'; there are .*svcca"),
        (("svcca", "nothing"), "no measure 'nothing'"),
        ((), "no measure asked for; the usual one is 'svcca'"),
    ],
)
def test_make_parameters__refuses_unknown_measures(measures: Any, message: str) -> None:
    with pytest.raises(UnknownMeasureError, match=message):
        make_parameters(measures)


@pytest.mark.parametrize("parameters", [Parameters(), Parameters(variance=None, conv="positions", spatial_size=(4, 4))])
def test_parameters__are_json(parameters: Parameters) -> None:
    # A comparison is refused where the parameters in its attributes differ from these.
    assert json.loads(json.dumps(parameters.to_dict())) == parameters.to_dict()


# Which tiles.


@settings(max_examples=40)
@given(
    count=st.integers(1, 24),
    side=st.sampled_from([1, 4, 8, 32]),
    asked=st.floats(0.0, 1.0),
    done=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_make_plan__each_missing_pair_is_in_exactly_one_tile(
    count: int, side: int, asked: float, done: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    selected = np.triu(rng.random((count, count)) <= asked)
    status = np.where(np.triu(rng.random((count, count)) <= done), PairStatus.DONE, PairStatus.MISSING).astype(np.uint8)
    selected, status = selected | selected.T, np.maximum(status, status.T)
    ready = rng.random(count) < 0.5
    plan = plan_of(frame(count, 1, 1), selected=selected, status=status, ready=ready, side=side)
    missing = selected & (status == PairStatus.MISSING)
    expected = {(int(i), int(j)) for i, j in np.argwhere(np.triu(missing))}
    found = Counter((i, j) for tile in plan.tiles for i, j in pairs_of(tile) if i <= j)
    assert found == Counter(expected)
    for tile in plan.tiles:
        assert tile.row <= tile.column
        assert pairs_of(tile)
    assert [task.path for task in plan.subspaces] == list(frame(count, 1, 1).index[missing.any(axis=1) & ~ready])
    assert plan.pairs == np.triu(selected).sum()
    assert plan.pairs - plan.pairs_done == len(expected)


def test_make_plan__nothing_left_is_nothing_to_do() -> None:
    status = np.full((12, 12), PairStatus.DONE, dtype=np.uint8)
    status[0] = status[:, 0] = PairStatus.FAILED
    plan = plan_of(frame(), status=status)
    assert (plan.tasks, plan.bytes_to_read, plan.tile_bytes) == (0, 0, 0)
    assert plan.pairs == plan.pairs_done == 78


def test_make_plan__reads_only_what_has_no_subspace_yet() -> None:
    ready = np.arange(12) < 10
    assert plan_of(frame(), ready=ready).bytes_to_read == 2 * 500 * 24 * 4


@pytest.mark.parametrize("workers", [1, 2, 16, 128])
def test_make_plan__the_demo_is_a_few_thousand_tasks_at_most(workers: int) -> None:
    representations = frame(4, 11, 20)
    plan = plan_of(representations, side=choose_tile(len(representations), workers))
    assert plan.pairs == 880 * 881 // 2
    assert plan.tasks < 4000
    assert len(plan.tiles) >= workers


def test_make_plan__ten_thousand_representations_are_thousands_of_tasks() -> None:
    representations = frame(10, 50, 20)
    plan = plan_of(representations, side=choose_tile(len(representations), 2))
    assert plan.pairs == 50_005_000
    assert len(plan.tiles) < 4000
    assert plan.tasks < 15_000


@given(representations=st.integers(1, 20_000), workers=st.integers(1, 1000))
def test_choose_tile__keeps_all_workers_busy_with_few_tiles(representations: int, workers: int) -> None:
    tile = choose_tile(representations, workers)
    assert 8 <= tile <= MAX_TILE
    assert tile % 8 == 0
    tiles = -(-representations // tile)
    # As many tiles as keep every worker busy, unless they would be too small to be worth a task.
    assert tiles * (tiles + 1) // 2 >= workers or tile == 8
    assert tile == MAX_TILE or tiles <= np.ceil(np.sqrt(32 * workers))


def test_choose_tile__is_smaller_where_a_pair_is_long_work() -> None:
    assert choose_tile(8, 2) == 8
    assert choose_tile(8, 2, 1e9) == 4
    assert choose_tile(10_000, 2, 1e9) == choose_tile(10_000, 2) == MAX_TILE


def test_make_plan__a_tile_takes_what_its_layers_can_need_or_all_there_is() -> None:
    few = plan_of(frame(2, 2, 2))
    assert few.tile_bytes < 200 * 2**20
    many = plan_of(frame(40, 4, 4, shape=(500, 400)), memory=GIGABYTE)
    assert many.tile_bytes == GIGABYTE - PROCESS_BYTES


# Small representations in batches.


def test_make_plan__many_small_ones_make_few_tasks() -> None:
    representations = frame(4, 11, 20)
    plan = plan_of(representations)
    assert tuple(task for batch in plan.batches for task in batch) == plan.subspaces
    assert 16 * 2 <= len(plan.batches) < 40
    assert max(map(len, plan.batches)) == 880 // 32
    # Of a few megabytes each, fewer; and of many megabytes, one by one.
    larger = plan_of(frame(4, 11, 20, shape=(2**16, 24)))
    assert max(map(len, larger.batches)) == 2
    assert {len(batch) for batch in plan_of(frame(4, 11, 20, shape=(2**18, 24))).batches} == {1}
    # All workers have something to do.
    assert {len(batch) for batch in plan_of(representations, workers=100).batches} == {1}


# Representations in parts.


def test_make_plan__parts_where_representations_are_few_and_long() -> None:
    long = frame(1, 1, 3, shape=(2**20, 64))
    plan = plan_of(long, rows_per_chunk=[4096] * 3)
    # Of 64 MiB each.
    assert [task.parts for task in plan.subspaces] == [4, 4, 4]
    one = plan_of(frame(1, 1, 1, shape=(10**7, 64)), rows_per_chunk=[4096])
    assert [task.parts for task in one.subspaces] == [8]
    # Moments, two merges and one of these, basis, scores, correction, corrected scores, report; one tile, one group.
    assert one.tasks == 8 + 2 + 1 + 1 + 8 + 1 + 8 + 1 + 2


def test_make_plan__one_long_among_short_ones() -> None:
    mixed = frame(1, 1, 9, shape=(10**4, 64))
    mixed["shape"] = [(10**7, 64), *[(10**4, 64)] * 8]
    mixed["nbytes"] = [int(np.prod(shape)) * 4 for shape in mixed["shape"]]
    assert [task.parts for task in plan_of(mixed).subspaces] == [8, *[1] * 8]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((10**6, 64), {"workers": 1}),
        # As one chunk.
        ((10**6, 64), {"rows_per_chunk": [10**6], "memory": 10 * GIGABYTE}),
        # By way of the samples.
        ((1000, 10**6), {"memory": 100 * GIGABYTE}),
        # Small.
        ((10**5, 64), {}),
    ],
)
def test_make_plan__no_parts_where_they_are_of_no_use(shape: tuple[int, int], options: dict[str, Any]) -> None:
    plan = plan_of(frame(1, 1, 1, shape=shape), **{"rows_per_chunk": [500], **options})
    assert [task.parts for task in plan.subspaces] == [1]


def test_make_plan__parts_wait_in_memory_that_is_predicted() -> None:
    wide = frame(1, 1, 1, shape=(10**5, 2048))
    scatter = 2048**2 * 8
    (whole, parts) = (plan_of(wide, workers=workers) for workers in (1, 2))
    assert parts.subspaces[0].parts > 1
    assert parts.subspace_bytes == parts.subspaces[0].memory == whole.subspaces[0].memory + 4 * scatter
    tight = plan_of(wide, memory=whole.subspaces[0].memory + PROCESS_BYTES + scatter)
    assert tight.subspaces[0].parts == 1
    # What is left, a task that reads all of it uses to read less twice.
    assert whole.subspace_bytes == whole.subspaces[0].memory + (GIGABYTE - PROCESS_BYTES) // 4
    assert tight.subspace_bytes == tight.subspaces[0].memory + scatter


@given(directions=st.integers(1, 100_000), itemsize=st.sampled_from([4, 8, 16]))
def test_choose_rows__a_chunk_of_scores_is_worth_a_file(directions: int, itemsize: int) -> None:
    rows = choose_rows(directions, itemsize)
    assert rows >= 256
    assert rows == 256 or rows * directions * itemsize <= 4 * 2**20


# How much memory.


def test_make_plan__refuses_a_subspace_that_cannot_fit() -> None:
    representations = frame(1, 3, 1)
    representations["shape"] = [(9000, 10), (9000, 8000), (9000, 10)]
    with pytest.raises(MemoryLimitError) as error:
        plan_of(representations, memory=2 * GIGABYTE)
    message = str(error.value)
    assert "the subspace of 'net0/step8/fc0', an array of shape (9000, 8000)" in message
    needed, beyond, there = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) MiB", message))
    assert needed > there == 2048
    assert needed - beyond == PROCESS_BYTES // 2**20
    assert "Use fewer workers with more memory each" in message
    assert isinstance(error.value, MemoryError)
    # It names what it takes: with that much there is a plan.
    plan = plan_of(representations, memory=(needed + 1) * 2**20)
    assert plan.subspace_bytes <= (needed + 1) * 2**20 - PROCESS_BYTES


def test_make_plan__refuses_a_pair_that_cannot_fit() -> None:
    representations = frame(1, 2, 1, shape=(9000, 8000))
    with pytest.raises(MemoryLimitError, match=r"one pair of the widest .* needs [\d,]+ MiB .* has 1,024 MiB"):
        plan_of(representations, ready=np.ones(2, dtype=bool))


def test_make_plan__does_not_refuse_for_what_is_done_already() -> None:
    representations = frame(1, 2, 1, shape=(9000, 8000))
    done = np.full((2, 2), PairStatus.DONE, dtype=np.uint8)
    assert plan_of(representations, status=done).tasks == 0


# As values, and as text.


def test_plan__is_json_and_prints_its_numbers() -> None:
    plan = plan_of(frame(4, 11, 20))
    numbers = plan.to_dict()
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["pairs"] == 387_640
    assert numbers["tasks"] == plan.tasks == len(plan.batches) + numbers["tiles"] + -(-880 // plan.side)
    text = str(plan)
    for line, number in {
        "representations": "880",
        "pairs": "387,640",
        "tiles": f"{len(plan.tiles)} of {plan.side} x {plan.side}",
        "tasks": f"{plan.tasks:,}",
        "bytes to read": "42.2 MB",
        "memory per task": "MiB a subspace",
    }.items():
        assert re.search(rf"^{line} .*{re.escape(number)}", text, re.MULTILINE)


def test_plan__its_tasks_are_values() -> None:
    plan = plan_of(frame())
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    assert len({*plan.tiles, *again.tiles}) == len(plan.tiles)
    assert len({*plan.subspaces, *again.subspaces}) == 12


def test_plan_comparison__reads_names_only_and_writes_nothing(tmp_path: Path) -> None:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(50)) as zoo:
        for step in range(5):
            zoo.write("net", str(step), "fc", np.random.default_rng(step).normal(size=(50, 4)), step=step)
    expected = plan_comparison(zoo, tmp_path / "comparison.zarr", Parameters(), memory=GIGABYTE)
    assert (expected.pairs, len(expected.subspaces)) == (15, 5)
    for chunks in tmp_path.glob("zoo.zarr/*/*/*/activations/c"):
        shutil.rmtree(chunks)
    before = sorted(tmp_path.rglob("*"))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        zoo = dask_svcca.open_zoo(tmp_path / "zoo.zarr")
        assert plan_comparison(zoo, tmp_path / "comparison.zarr", Parameters(), memory=GIGABYTE) == expected
    assert sorted(tmp_path.rglob("*")) == before
