"""Comparisons again and again: on any scheduler, stopped at any moment, of a zoo that changes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from comparisons import graph_of
from oracles import svcca_matrix
from zarr.storage import MemoryStore
from zoos import assert_same, assert_same_to_rounding, label, layers, make_zoo, spoil, with_budget, write

import dask_svcca
from dask_svcca.errors import StoreFormatError
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.tasks import PackTask
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores import _create
from dask_svcca.stores.backend import LocalBackend
from dask_svcca.tasks import patch as patch_module
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca import Zoo

MISSING, DONE = PairStatus.MISSING, PairStatus.DONE

pytestmark = pytest.mark.usefixtures("several_tiles")


# On the scheduler of the user's choice.


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_compare__scheduler_changes_no_bit(zoo: Zoo, place: Path, undisturbed: xr.Dataset, scheduler: str) -> None:
    with dask.config.set(scheduler=scheduler):
        assert_same(dask_svcca.compare(zoo, place), undisturbed)


def test_compare__runs_on_dask_and_nowhere_else(zoo: Zoo, place: Path, undisturbed: xr.Dataset) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse), pytest.raises(AssertionError, match="something was computed"):
        dask_svcca.compare(zoo, place)
    with dask_svcca.open_comparison(place) as begun:
        assert (begun.pair_status == MISSING).all()
        assert begun.svcca.isnull().all()
    assert_same(dask_svcca.compare(zoo, place), undisturbed)


def test_compare__stores_may_be_anywhere(undisturbed: xr.Dataset) -> None:
    found = dask_svcca.compare(make_zoo(MemoryStore(), layers(20)), MemoryStore())
    assert_same(found, undisturbed)


def test_compare__a_tile_waits_for_its_own_groups_only(zoo: Zoo, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_budget(monkeypatch, 2, 2**30)
    monkeypatch.setattr("dask_svcca.plan.subspaces.LEAST_BATCH_BYTES", 0)
    graph = graph_of(zoo, place)
    plan = run_comparison(zoo, place, Parameters()).plan
    assert len(graph) == plan.tasks

    def labels_before(key: str) -> set[str]:
        task = graph[key][1]
        own = {member.label for member in task.members} if isinstance(task, PackTask) else set()
        return own.union(*map(labels_before, graph[key][2:]))

    tiles = [key for key in graph if key.startswith("tile")]
    assert {(graph[key][1].row, graph[key][1].column) for key in tiles} == {(t.row, t.column) for t in plan.tiles}
    for key in tiles:
        task = graph[key][1]
        groups = [range(20)[start * task.side :][: task.side] for start in (task.row, task.column)]
        assert labels_before(key) == {label(step) for group in groups for step in group}


def test_run_comparison__tells_how_it_goes(zoo: Zoo, place: Path) -> None:
    told = []
    with dask.config.set(scheduler="synchronous"):
        outcome = run_comparison(zoo, place, Parameters(), progress=lambda *event: told.append(event))
    assert [event for event in told if event[0] == "subspaces"] == [("subspaces", i + 1, 20) for i in range(20)]
    assert [event for event in told if event[0] == "tiles"] == [("tiles", i + 1, 6) for i in range(6)]
    assert outcome.problems == {}


# Again and again: what is there is not done again.


def test_compare__small_ones_in_batches(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_budget(monkeypatch, 1, 2**31)
    monkeypatch.setattr("dask_svcca.plan.subspaces.LEAST_BATCH_BYTES", 0)
    arrays = layers(40)
    arrays[7] = spoil("nan", arrays[7])
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    told: list[tuple[str, int, int]] = []
    outcome = run_comparison(zoo, place, Parameters(), progress=lambda *event: told.append(event))
    assert {len(pack.members) for pack in outcome.plan.packs} == {5}
    assert [event for event in told if event[0] == "subspaces"] == [("subspaces", i + 1, 40) for i in range(40)]
    assert list(outcome.problems) == [label(7)]
    found = dask_svcca.open_comparison(place).svcca.to_numpy()
    others = np.arange(40) != 7
    expected = svcca_matrix([array for array, good in zip(arrays, others, strict=True) if good])
    np.testing.assert_allclose(found[np.ix_(others, others)], expected, rtol=0, atol=1e-7)


def test_compare__again_has_nothing_to_do(zoo: Zoo, place: Path, undisturbed: xr.Dataset) -> None:
    dask_svcca.compare(zoo, place)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        assert_same(dask_svcca.compare(zoo, place), undisturbed)


def test_compare__a_zoo_that_grew_adds_its_rows_and_columns(zoo: Zoo, place: Path) -> None:
    before = dask_svcca.compare(zoo, place).load()
    more = layers(5, seed=8)
    write(zoo, more[:4], start=20)
    # The zoo sorts this one to the front; the matrix keeps its order.
    zoo.write("a net", "step0", "fc", more[4])
    outcome = run_comparison(zoo, place, Parameters())
    assert outcome.plan.subspaces == 5
    # The finished tiles are those of the first two groups alone; the third group was not full.
    assert {(tile.row, tile.column) for tile in outcome.plan.tiles} == {(i, j) for j in (2, 3) for i in range(j + 1)}
    after = dask_svcca.open_comparison(place)
    order = [*(label(step) for step in range(20)), "a net/step0/fc", *(label(step) for step in range(20, 24))]
    assert after.representation_a.to_numpy().tolist() == order
    np.testing.assert_array_equal(after.svcca[:20, :20], before.svcca)
    np.testing.assert_allclose(after.svcca, svcca_matrix([*layers(20), more[4], *more[:4]]), rtol=0, atol=1e-7)
    with xr.open_zarr(place) as plain:
        assert plain.sizes["representation_a"] == 25


@pytest.fixture(scope="module")
def ten_and_eleven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A zoo of eleven layers with a comparison of the first ten, and what one of all eleven holds."""
    folder, arrays = tmp_path_factory.mktemp("ten"), layers(11)
    zoo = make_zoo(folder / "zoo", arrays[:10])
    dask_svcca.compare(zoo, folder / "c", keep="correlations")
    write(zoo, arrays[10:], start=10)
    return folder, dask_svcca.compare(zoo, MemoryStore(), keep="correlations").load()


@pytest.mark.parametrize("name", ["svcca", "significant", "correlations", "pair_status"])
@pytest.mark.parametrize("block", ["1/1", "0/1", "1/0"])
def test_compare__a_block_that_is_damaged_loses_its_own_pairs_where_others_are_written_into_it(
    ten_and_eleven: tuple[Path, xr.Dataset], tmp_path: Path, name: str, block: str
) -> None:
    made, right = ten_and_eleven
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    zoo, place = dask_svcca.open_zoo(tmp_path / "zoo"), tmp_path / "c"
    # Of the right size: only reading it shows it.
    chunk = place / name / "c" / block
    file = chunk if chunk.is_file() else next(one for one in chunk.rglob("*") if one.is_file())
    file.write_bytes(file.read_bytes()[:-6] + b"damage")
    found = dask_svcca.compare(zoo, place, keep="correlations").load()
    assert (found.pair_status[10] == PairStatus.DONE).all()
    assert (found.pair_status[:8, :8] == PairStatus.DONE).all()
    done = found.pair_status == PairStatus.DONE
    np.testing.assert_allclose(found.svcca.where(done), right.svcca.where(done), atol=1e-12)
    assert_same_to_rounding(dask_svcca.compare(zoo, place, keep="correlations"), right)


def test_compare__a_zoo_that_grew_much_has_larger_tasks_and_the_same_tiles(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_budget(monkeypatch, 1, 2**31)
    arrays = layers(60)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays[:5])
    dask_svcca.compare(zoo, place)
    write(zoo, arrays[5:], start=5)
    plan = run_comparison(zoo, place, Parameters()).plan
    assert (plan.tile, plan.side) == (8, 16)
    assert zarr.open_array(place / "svcca", mode="r").chunks == (8, 8)
    found = dask_svcca.open_comparison(place)
    np.testing.assert_array_equal(found.pair_status, DONE)
    np.testing.assert_allclose(found.svcca, svcca_matrix(arrays), rtol=0, atol=1e-7)


def test_compare__a_replaced_representation_is_compared_anew(zoo: Zoo, place: Path) -> None:
    before = dask_svcca.compare(zoo, place).load()
    new = layers(1, seed=9)[0]
    zoo.write("net", "step012", "fc", new, step=12, overwrite=True)
    outcome = run_comparison(zoo, place, Parameters())
    assert [member.label for pack in outcome.plan.packs for member in pack.members] == [label(12)]
    assert {(tile.row, tile.column) for tile in outcome.plan.tiles} == {(0, 1), (1, 1), (1, 2)}
    after = dask_svcca.open_comparison(place)
    arrays = [*layers(20)[:12], new, *layers(20)[13:]]
    others = np.arange(20) != 12
    np.testing.assert_array_equal(after.svcca[others, others], before.svcca[others, others])
    np.testing.assert_allclose(after.svcca[12], svcca_matrix(arrays)[12], rtol=0, atol=1e-7)
    assert after.neurons_b[12] == new.shape[1]
    assert after.digest_b[12] != before.digest_b[12]


@pytest.mark.parametrize("pairs", ["final", "mask"])
def test_compare__other_pairs_asked_for_later_are_added(
    zoo: Zoo, place: Path, undisturbed: xr.Dataset, pairs: str
) -> None:
    chosen = np.zeros((20, 20), dtype=bool)
    if pairs == "final":
        chosen[19] = chosen[:, 19] = True
    else:
        # On the diagonal of tiles, and beside it; in the first tile a column without its row.
        chosen[[0, 3, 1, 19], [7, 3, 12, 2]] = True
    first = dask_svcca.compare(zoo, place, pairs=chosen if pairs == "mask" else pairs).load()
    chosen |= chosen.T
    np.testing.assert_array_equal(first.pair_status, np.where(chosen, DONE, MISSING))
    np.testing.assert_allclose(first.svcca, np.where(chosen, undisturbed.svcca, np.nan), rtol=0, atol=1e-7)
    second = dask_svcca.compare(zoo, place).load()
    np.testing.assert_array_equal(np.where(chosen, second.svcca, np.nan), first.svcca)
    np.testing.assert_allclose(second.svcca, undisturbed.svcca, rtol=0, atol=1e-7)
    assert (second.pair_status == DONE).all()


def test_compare__a_representation_that_went_away_keeps_its_results(
    zoo: Zoo, place: Path, tmp_path: Path, undisturbed: xr.Dataset
) -> None:
    dask_svcca.compare(zoo, place)
    shutil.rmtree(tmp_path / "zoo.zarr" / "net" / "step004")
    more = layers(21)[20]
    write(dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+"), [more], start=20)
    result = dask_svcca.compare(dask_svcca.open_zoo(tmp_path / "zoo.zarr"), place).load()
    old = {"representation_a": slice(0, 20), "representation_b": slice(0, 20)}
    np.testing.assert_array_equal(result.svcca.isel(old), undisturbed.svcca)
    status = result.pair_status.sel(representation_a=label(20))
    assert int(status.sel(representation_b=label(4))) == MISSING
    assert (status.drop_sel(representation_b=label(4)) == DONE).all()


# Stopped at any moment.


@pytest.mark.parametrize(("stage", "after"), [("subspaces", 19), ("tiles", 1), ("tiles", 5)])
def test_compare__interrupted_and_resumed_is_as_if_it_had_not_been(
    zoo: Zoo, place: Path, undisturbed: xr.Dataset, stage: str, after: int
) -> None:
    def interrupt(at: str, done: int, total: int) -> None:
        if (at, done) == (stage, after):
            raise KeyboardInterrupt

    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        run_comparison(zoo, place, Parameters(), progress=interrupt)
    with dask_svcca.open_comparison(place) as begun:
        assert (begun.pair_status == MISSING).any()
        np.testing.assert_array_equal(begun.svcca.isnull(), begun.pair_status == MISSING)
    assert_same(dask_svcca.compare(zoo, place), undisturbed)


def test_compute_tile__its_status_is_written_last(
    zoo: Zoo, place: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LocalBackend.write

    def power_cut(self: LocalBackend, key: str, *parts: Any) -> None:
        if key.startswith("pair_status/c/"):
            raise OSError("power cut")
        write(self, key, *parts)

    with monkeypatch.context() as broken:
        broken.setattr(LocalBackend, "write", power_cut)
        with dask.config.set(scheduler="synchronous"), pytest.raises(OSError, match="power cut"):
            dask_svcca.compare(zoo, place)
    with dask_svcca.open_comparison(place) as begun:
        # The values of the first tile are there, and do not count.
        assert begun.svcca.notnull().any()
        assert (begun.pair_status == MISSING).all()
    assert_same(dask_svcca.compare(zoo, place), undisturbed)


@pytest.mark.parametrize("stop_at", ["problem_b", "digest_a", "representation_b", "representation_a"])
def test_compare__stopped_while_it_took_in_representations(
    zoo: Zoo, place: Path, tmp_path: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    whole = dask_svcca.open_zoo(tmp_path / "zoo.zarr")
    for step in range(7, 20):
        (tmp_path / "zoo.zarr" / "net" / f"step{step:03}").rename(tmp_path / f"later{step:03}")
    assert dask_svcca.compare(zoo, place).sizes["representation_a"] == 7
    for step in range(7, 20):
        (tmp_path / f"later{step:03}").rename(tmp_path / "zoo.zarr" / "net" / f"step{step:03}")
    write = LocalBackend.write

    def power_cut(self: LocalBackend, key: str, *parts: Any) -> None:
        if key == f"{stop_at}/zarr.json":
            raise OSError("power cut")
        write(self, key, *parts)

    with monkeypatch.context() as broken:
        broken.setattr(LocalBackend, "write", power_cut)
        with pytest.raises(OSError, match="power cut"):
            dask_svcca.compare(whole, place)
    with pytest.raises(StoreFormatError, match=r"a run is adding some, or was interrupted .* compare again"):
        dask_svcca.open_comparison(place)
    found = dask_svcca.compare(whole, place)
    assert found.representation_a.to_numpy().tolist() == undisturbed.representation_a.to_numpy().tolist()
    np.testing.assert_allclose(found.svcca, undisturbed.svcca, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shared", [False, True])
def test_compare__of_runs_that_begin_one_store_at_once_all_succeed(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    options: dict[str, Any] = {"subspaces": tmp_path / "subspaces.zarr"} if shared else {}
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(10))
    create = _create.create_whole
    others = iter([None, None])

    def outpaced(*arguments: Any) -> Any:
        # Another run begins and ends between the look of this one and its first step; so does a third.
        if next(others, 1) is None:
            dask_svcca.compare(zoo, place, **options)
        return create(*arguments)

    monkeypatch.setattr(_create, "create_whole", outpaced)
    found = dask_svcca.compare(zoo, place, **options).load()
    assert_same(found, dask_svcca.compare(zoo, tmp_path / "alone.zarr").load())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".zarr"] * (3 + shared)


def test_compare__multiplies_no_more_than_what_is_missing(
    zoo: Zoo, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_budget(monkeypatch, 2, 2**30)
    run_comparison(zoo, place, Parameters())
    write(zoo, [np.random.default_rng(9).normal(size=(zoo.n_examples, 6))], start=3, overwrite=True)
    multiplied, multiply = [], patch_module.couplings

    def watched(context: Any, a: Any, b: Any, *args: Any, **options: Any) -> Any:
        multiplied.append(len(a.members) * len(b.members))
        return multiply(context, a, b, *args, **options)

    monkeypatch.setattr(patch_module, "couplings", watched)
    outcome = run_comparison(zoo, place, Parameters())
    assert outcome.computed == len(zoo)
    # Its row, and its column where that crosses the diagonal.
    assert len(zoo) <= sum(multiplied) < 2 * len(zoo)


def test_compare__nothing_to_do_reads_no_subspace(
    zoo: Zoo, place: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_comparison(zoo, place, Parameters())
    for path in (place / "subspaces").glob("*/*/c"):
        shutil.rmtree(path)
    columns = sorted((path, path.stat().st_mtime_ns) for path in place.glob("*_a/c/*"))
    again = run_comparison(zoo, place, Parameters())
    assert again.plan.tasks == 0
    assert (again.few_samples, again.problems) == (first.few_samples, first.problems)
    assert sorted((path, path.stat().st_mtime_ns) for path in place.glob("*_a/c/*")) == columns
    assert_same(dask_svcca.open_comparison(place), undisturbed)


def test_compare__takes_over_what_was_corrected_of_the_same_activations(zoo: Zoo, place: Path) -> None:
    before = dask_svcca.compare(zoo, place).load()
    last = zoo.entries()[-1]
    values = zoo[tuple(last.name)].load()
    zoo.write(*last.name, values, step=77, depth=5, overwrite=True)
    after = dask_svcca.compare(zoo, place).load()
    chosen = (after.representation_a == last.label).to_numpy()
    for axis in "ab":
        step, depth = (after[f"{name}_{axis}"].to_numpy() for name in ("step", "depth"))
        assert (step[chosen].item(), depth[chosen].item()) == (77, 5)
        np.testing.assert_array_equal(step[~chosen], before[f"step_{axis}"].to_numpy()[~chosen])
    # None of it is computed anew.
    np.testing.assert_array_equal(after.svcca, before.svcca)
    assert (after.pair_status == DONE).all()
