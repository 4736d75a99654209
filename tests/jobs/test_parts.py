"""A job in parts that need no scheduler: in any order, some twice, some late, they give what one run gives."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from cli_runner import run
from measured import images
from zoos import assert_same, layers, with_budget, write

import dask_svcca
from dask_svcca.errors import JobError, StoreFormatError
from dask_svcca.plan import subspaces as subspaces_module
from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.selection import select_pairs
from dask_svcca.plan.stored import from_json, to_json
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run import slices
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.tasks import perform
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from dask_svcca import Zoo

MEMORY = 2**30


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "WAIT_SECONDS", 0.0)


def begin(zoo: Zoo, place: Path, parts: int, parameters: Parameters | None = None) -> None:
    slices.begin(zoo, place, parameters or Parameters(), parts=parts, memory=MEMORY)


def do(zoo: Zoo, place: Path, number: int, parameters: Parameters | None = None) -> tuple[int, int]:
    return slices.Part(zoo, place, parameters or Parameters(), number).run(None)


def test_parts__in_any_order_give_what_one_run_gives(zoo: Zoo, place: Path, undisturbed: xr.Dataset) -> None:
    begin(zoo, place, 3)
    # The first makes what it needs of the others itself; the last is done twice.
    for number in (2, 0, 1):
        do(zoo, place, number)
    assert do(zoo, place, 1)[0] == 0
    outcome, unfinished = slices.conclude(zoo, place, Parameters())
    assert outcome.plan.pairs_done == outcome.plan.pairs
    assert not unfinished
    assert_same(dask_svcca.open_comparison(place), undisturbed)
    assert dask_svcca.verify(place).ok
    # The part that was done twice found nothing to do.
    runs = json.loads(run(f"info {place} --timing --json").stdout)["runs"]
    assert sorted(record["part"] for record in runs) == [0, 1, 2]
    assert sum(record["pairs"] for record in runs) == outcome.plan.pairs
    assert all(record["stages"] for record in runs)
    assert "1 (part 2)" in run(f"info {place} --timing").output
    # Planned anew, what they took is still known.
    begin(zoo, place, 1)
    assert json.loads(run(f"info {place} --timing --json").stdout)["runs"] == runs


def test_parts__that_have_not_run_are_named_and_planned_again(zoo: Zoo, place: Path, undisturbed: xr.Dataset) -> None:
    begin(zoo, place, 3)
    do(zoo, place, 1)
    outcome, unfinished = slices.conclude(zoo, place, Parameters())
    assert 0 < outcome.plan.pairs_done < outcome.plan.pairs
    assert unfinished == [0, 2]
    begin(zoo, place, 2)
    for number in range(2):
        do(zoo, place, number)
    assert slices.conclude(zoo, place, Parameters())[1] == []
    assert_same(dask_svcca.open_comparison(place), undisturbed)


def test_parts__whose_task_fails_do_all_else(
    zoo: Zoo, place: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(zoo, place, 2)

    def failing(job: Any, task: Any, *needed: Any) -> Any:
        if task.key == "tile-0-0":
            raise RuntimeError("injected")
        return perform(job, task, *needed)

    parts = [slices.Part(zoo, place, Parameters(), number) for number in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(slices, "perform", failing)
        for part in parts:
            part.run(None)
    (failures,) = [part.failures for part in parts if part.failures]
    block = "'net/step000/fc' to 'net/step007/fc'"
    assert failures == {f"{block} with {block}": "the task that compares them failed 3 times (RuntimeError: injected)"}
    outcome, unfinished = slices.conclude(zoo, place, Parameters())
    assert (outcome.failures, unfinished) == (failures, [0])
    job = place.with_name("job.yaml")
    job.write_text(f"zoo: {place.with_name('zoo.zarr')}\ncomparison: {place}\n")
    printed = run(f"finalise {job}", status=1).output
    assert f"{block} with {block}: the task that compares them failed 3 times (RuntimeError: injected)" in printed
    assert json.loads(run(f"finalise {job} --json", status=1).stdout)["failures"] == failures
    do(zoo, place, 0)
    outcome, unfinished = slices.conclude(zoo, place, Parameters())
    assert (outcome.failures, unfinished) == ({}, [])
    assert_same(dask_svcca.open_comparison(place), undisturbed)


def test_parts__more_than_there_is_work(zoo: Zoo, place: Path) -> None:
    begin(zoo, place, 20)
    for number in range(20):
        do(zoo, place, number)
    assert slices.conclude(zoo, place, Parameters())[1] == []


@pytest.fixture
def of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """Layers that come in packs, one that is read in parts, folded ones and one that cannot be compared."""
    with_budget(monkeypatch, 2, 2**31)
    monkeypatch.setattr(subspaces_module, "SPLIT_BYTES", 2**12)
    monkeypatch.setattr(zoo_module, "CHUNK_BYTES", 2**13)
    rng = np.random.default_rng(0)
    small = layers(9, 600)
    small[5][7, 1] = np.nan
    zoo = dask_svcca.create_zoo(tmp_path / "kinds.zarr", examples=range(600))
    write(zoo, [*small, rng.normal(size=(600, 160)), *images((4, 4, 2), (2, 2, 2), examples=600)])
    return zoo


PARAMETERS = Parameters(("svcca", "cka_debiased", "pwcca"), match="fold", keep=("correlations",))


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning")
@pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning")
@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
def test_parts__of_layers_of_all_kinds(of_all_kinds: Zoo, tmp_path: Path) -> None:
    begin(of_all_kinds, tmp_path / "parts.zarr", 2, PARAMETERS)
    for number in range(2):
        do(of_all_kinds, tmp_path / "parts.zarr", number, PARAMETERS)
    outcome, unfinished = slices.conclude(of_all_kinds, tmp_path / "parts.zarr", PARAMETERS)
    assert list(outcome.problems) == ["net/step005/fc"]
    assert not unfinished
    with dask.config.set(scheduler="synchronous"):
        expected = dask_svcca.compare(
            of_all_kinds,
            tmp_path / "whole.zarr",
            measures=PARAMETERS.measures,
            match="fold",
            keep="correlations",
        )
    found = dask_svcca.open_comparison(tmp_path / "parts.zarr")
    for name in expected.variables:
        if expected[name].dtype.kind == "f":
            # Packs are others for another number of workers, and may differ by rounding.
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-12, err_msg=str(name))
        else:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))


def test_to_json__every_task_comes_back_as_it_was(of_all_kinds: Zoo) -> None:
    entries, selected = of_all_kinds.entries(), select_pairs("all", of_all_kinds.representations)
    plan = make_plan(entries, selected, None, None, PARAMETERS, Budget(2, MEMORY))
    tasks: list[Any] = [*plan.packs, *plan.tiles, *plan.groups]
    assert {type(task).__name__ for task in tasks} == {"PackTask", "TileTask", "GroupTask"}
    assert any(pack.parts > 1 for pack in plan.packs)
    for task in tasks:
        assert from_json(json.loads(json.dumps(to_json(task)))) == task
    assert plan.nodes


@pytest.mark.parametrize(
    "document",
    [
        {"class": "os.system"},
        {"class": "PackTask"},
        {"class": "PackTask", "name": "a", "members": [], "parts": 1, "command": "true"},
        {"class": "PackTask", "name": "../../outside", "members": []},
        {"class": ["PackTask"]},
    ],
)
def test_from_json__refuses_what_is_not_a_task(document: dict[str, Any]) -> None:
    with pytest.raises(StoreFormatError, match="begin again with init"):
        from_json(document)


def test_part__that_is_not_there(zoo: Zoo, place: Path) -> None:
    begin(zoo, place, 2)
    with pytest.raises(JobError, match="there are parts 0 to 1; got 2"):
        do(zoo, place, 2)


def test_part__of_a_comparison_that_was_not_planned_in_parts(zoo: Zoo, place: Path) -> None:
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.compare(zoo, place)
    for begun in (lambda: do(zoo, place, 0), lambda: slices.conclude(zoo, place, Parameters())):
        with pytest.raises(JobError, match="begin with init"):
            begun()


def test_commands__three_of_them_do_a_job(zoo: Zoo, tmp_path: Path, undisturbed: xr.Dataset) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("zoo: zoo.zarr\ncomparison: c.zarr\n")
    planned = json.loads(run(f"init {job} --parts 2 --memory 1GiB --json").output)
    assert planned["parts"] == 2
    assert 0 < planned["task_memory"] < planned["memory"]
    assert "Parts with pairs left to compare: 0, 1. Run them, and then" in run(f"finalise {job}", status=1).output
    with ThreadPoolExecutor(1) as pool:
        printed = [result.output for result in pool.map(lambda number: run(f"part {job} {number}"), range(2))]
    assert "Part 1 (of 0 to 1): made" in printed[1]
    assert "210 of 210 pairs are there." in run(f"finalise {job}").output
    assert_same(dask_svcca.open_comparison(tmp_path / "c.zarr"), undisturbed)


def test_init__begins_with_estimates_where_the_job_says_so(zoo: Zoo, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("zoo: zoo.zarr\ncomparison: c.zarr\nmeasures: cka\npreview: true\n")
    run(f"init {job} --parts 2 --memory 1GiB")
    first = dask_svcca.open_comparison(tmp_path / "c.zarr")
    assert (first.pair_status == PairStatus.ESTIMATED).all()
    assert (first.cka_estimate_error < 0.03).all()


def test_parts__progress_counts_representations(tmp_path: Path) -> None:
    zoo, place = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(60)), tmp_path / "comparison.zarr"
    write(zoo, layers(12))
    begin(zoo, place, 1)
    shown: list[tuple[str, int, int]] = []
    slices.Part(zoo, place, Parameters(), 0).run(lambda stage, done, total: shown.append((stage, done, total)))
    made = [(done, total) for stage, done, total in shown if stage == "subspaces"]
    assert made[-1] == (12, 12)
    assert all(total == 12 for _, total in made)
