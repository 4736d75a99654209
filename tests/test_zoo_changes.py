"""Representations that change, leave the zoo or come back: what is known stays, and nothing is made up."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from dying import DyingStore, Power
from measured import images
from oracles import correlations
from thoroughness import ONE_OF
from zarr.storage import MemoryStore
from zoos import N, assert_same, assert_same_to_rounding, label, layers, make_zoo, write

import dask_svcca
from dask_svcca.measures import DERIVED
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import REPRESENTATION_VARIABLES, PairStatus

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca import Zoo
    from dask_svcca.run.outcome import Outcome

MISSING, DONE, PARTIAL = PairStatus.MISSING, PairStatus.DONE, PairStatus.PARTIAL


def run(zoo: Zoo, store: Any, **options: Any) -> Outcome:
    return run_comparison(zoo, store, Parameters(**options))


def take_away(tmp_path: Path, step: int) -> Zoo:
    """The zoo without a representation, which is laid aside."""
    shutil.move(tmp_path / "zoo.zarr" / "net" / f"step{step:03}", tmp_path / f"aside{step:03}")
    return dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+")


def bring_back(tmp_path: Path, step: int) -> Zoo:
    shutil.move(tmp_path / f"aside{step:03}", tmp_path / "zoo.zarr" / "net" / f"step{step:03}")
    return dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+")


def test_compare__of_a_representation_that_left_all_stays_as_it_was(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", [*layers(3), np.ones((N, 4), "float32")], depth=2)
    run(zoo, tmp_path / "c")
    before = dask_svcca.open_comparison(tmp_path / "c").load()
    take_away(tmp_path, 3)
    zoo = take_away(tmp_path, 1)
    outcome = run(zoo, tmp_path / "c")
    assert (outcome.plan.tasks, outcome.plan.subspaces, outcome.problems) == (0, 0, {})
    assert outcome.plan.pairs == 3
    assert_same(dask_svcca.open_comparison(tmp_path / "c").load(), before)
    write(zoo, layers(5)[4:], start=4)
    run(zoo, tmp_path / "c")
    after = dask_svcca.open_comparison(tmp_path / "c").load()
    for variable in REPRESENTATION_VARIABLES:
        np.testing.assert_array_equal(after[f"{variable.name}_a"][:4], before[f"{variable.name}_a"])
    expected = np.where(np.isin(np.arange(4), (1, 3)), MISSING, DONE)
    np.testing.assert_array_equal(after.pair_status[4, :4], expected)


def test_compare__of_a_representation_that_left_no_measure_is_added(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(10))
    before = dask_svcca.compare(zoo, tmp_path / "c").load()
    zoo = take_away(tmp_path, 4)
    outcome = run(zoo, tmp_path / "c", measures=("cka",))
    assert outcome.computed == 9 * 10 // 2
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    gone = np.zeros((10, 10), dtype=bool)
    gone[4] = gone[:, 4] = True
    np.testing.assert_array_equal(found.svcca, before.svcca)
    np.testing.assert_array_equal(found.cka.isnull(), gone)
    np.testing.assert_array_equal(found.pair_status, np.where(gone, PARTIAL, DONE))

    # Come back as it was, it lacks the new measure alone, and its subspace is there.
    outcome = run(bring_back(tmp_path, 4), tmp_path / "c")
    assert (outcome.plan.subspaces, outcome.computed, outcome.bytes_read) == (0, 10, 0)
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    np.testing.assert_array_equal(found.svcca, before.svcca)
    assert (found.pair_status == DONE).all()
    assert found.cka.notnull().all()


def test_compare__of_a_representation_that_comes_back_changed_nothing_old_is_left(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(10))
    dask_svcca.compare(zoo, tmp_path / "c", measures=("svcca", "cka"))
    zoo = take_away(tmp_path, 4)
    run(zoo, tmp_path / "c", measures=("procrustes",))
    write(zoo, layers(1, seed=9), start=4)
    run(zoo, tmp_path / "c")
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    measures = ("svcca", "cka", "procrustes")
    fresh = dask_svcca.compare(zoo, tmp_path / "fresh", measures=measures)
    for name in measures:
        np.testing.assert_allclose(found[name], fresh[name], rtol=0, atol=1e-12)
    assert (found.pair_status == DONE).all()
    assert found.digest_a[4] == fresh.digest_a[4]
    assert found.rank_b[4] == fresh.rank_b[4]


def test_compare__correlations_of_the_widest_stay_when_they_have_left(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(N, p)) for p in (3, 11, 12, 4)]
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    options: dict[str, Any] = {"keep": ("correlations",), "variance": None}
    run(zoo, tmp_path / "c", **options)
    before = dask_svcca.open_comparison(tmp_path / "c").load()
    take_away(tmp_path, 1)
    zoo = take_away(tmp_path, 2)
    run(zoo, tmp_path / "c", **options)
    assert_same(dask_svcca.open_comparison(tmp_path / "c").load(), before)
    # Narrower ones are still added.
    new = rng.normal(size=(N, 5))
    write(zoo, [new], start=4)
    run(zoo, tmp_path / "c", **options)
    after = dask_svcca.open_comparison(tmp_path / "c").load()
    np.testing.assert_array_equal(after.correlations[:4, :4], before.correlations)
    found = after.correlations[4, 3]
    np.testing.assert_allclose(found.dropna("component"), correlations(new, arrays[3]), rtol=0, atol=1e-6)
    assert (after.pair_status[4] == np.where(np.isin(np.arange(5), (1, 2)), MISSING, DONE)).all()


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
def test_compare__frequencies_stay_when_all_images_have_left(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", images((4, 4, 2), (4, 4, 3), examples=N))
    options: dict[str, Any] = {"keep": ("frequencies",)}
    run(zoo, tmp_path / "c", **options)
    before = dask_svcca.open_comparison(tmp_path / "c").load()
    write(zoo, layers(1), start=2)
    take_away(tmp_path, 0)
    zoo = take_away(tmp_path, 1)
    run(zoo, tmp_path / "c")
    after = dask_svcca.open_comparison(tmp_path / "c").load()
    np.testing.assert_array_equal(after.svcca_by_frequency[:2, :2], before.svcca_by_frequency)
    assert after.pair_status[2, 2] == DONE


def test_compare__of_a_replaced_representation_no_measure_keeps_its_old_value(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(10))
    before = dask_svcca.compare(zoo, tmp_path / "c", measures=("svcca", "cka"), keep="correlations").load()
    zoo.write("net", "step004", "fc", layers(1, seed=9)[0], step=4, overwrite=True)
    # At once with a measure that is new: pairs of the others lack it alone.
    outcome = run(zoo, tmp_path / "c", measures=("procrustes",))
    assert [member.label for pack in outcome.plan.packs for member in pack.members] == [label(4)]
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    others = np.arange(10) != 4
    for name in ("svcca", "cka"):
        np.testing.assert_array_equal(found[name][others, others], before[name][others, others])
    fresh = dask_svcca.compare(
        zoo, tmp_path / "fresh", measures=("svcca", "cka", "procrustes"), keep="correlations"
    ).load()
    for name in ("svcca", "cka", "procrustes"):
        np.testing.assert_allclose(found[name], fresh[name], rtol=0, atol=1e-12)
    assert (found.pair_status == DONE).all()


# Representations that have left.


def test_compare__says_which_have_left_the_zoo(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(10))
    assert "left_zoo" not in dask_svcca.compare(zoo, tmp_path / "c").attrs
    zoo = take_away(tmp_path, 4)
    assert run(zoo, tmp_path / "c").left == ("net/step004/fc",)
    found = dask_svcca.compare(zoo, tmp_path / "c")
    assert json.loads(found.attrs["left_zoo"]) == ["net/step004/fc"]
    assert xr.open_zarr(tmp_path / "c").attrs["left_zoo"] == ["net/step004/fc"]
    assert "left_zoo" not in dask_svcca.compare(bring_back(tmp_path, 4), tmp_path / "c").attrs


WITH_DETAILS: dict[str, Any] = {"measures": ("svcca", "pwcca"), "keep": "correlations"}


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A zoo and its comparison, and what that holds."""
    folder = tmp_path_factory.mktemp("twenty")
    zoo = make_zoo(folder / "zoo.zarr", layers(20))
    return folder, dask_svcca.compare(zoo, folder / "c", **WITH_DETAILS).load()


@pytest.mark.parametrize("gone", [pytest.param((0,), marks=pytest.mark.slow), (4, 5, 17), (19,), tuple(range(1, 20))])
def test_compare__drops_those_that_have_left(
    tmp_path: Path, twenty: tuple[Path, xr.Dataset], gone: tuple[int, ...]
) -> None:
    shutil.copytree(twenty[0], tmp_path, dirs_exist_ok=True)
    before, options = twenty[1], WITH_DETAILS
    for step in gone:
        zoo = take_away(tmp_path, step)
    plan = dask_svcca.plan_comparison(zoo, tmp_path / "c", drop_left=True, **options)
    assert (plan.representations, plan.pairs - plan.pairs_done) == (20 - len(gone), 0)
    assert_same(dask_svcca.open_comparison(tmp_path / "c").load(), before)
    found = dask_svcca.compare(zoo, tmp_path / "c", drop_left=True, **options).load()
    kept = [step for step in range(20) if step not in gone]
    expected = before.isel(representation_a=kept, representation_b=kept)
    expected = expected.isel(component=slice(found.sizes["component"]))
    assert_same(found, expected)
    assert "left_zoo" not in found.attrs
    # As it is stored, it lacks what follows from the rest.
    assert_same(xr.open_zarr(tmp_path / "c").load(), expected.drop_vars(DERIVED, errors="ignore"))


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A zoo that two have left, its comparison from before, and what is right afterwards."""
    folder = tmp_path_factory.mktemp("twelve")
    dask_svcca.compare(make_zoo(folder / "zoo.zarr", layers(12)), folder / "c", measures=("svcca", "cka"))
    take_away(folder, 2)
    zoo = take_away(folder, 7)
    return folder, dask_svcca.compare(zoo, folder / "fresh", measures=("svcca", "cka")).load()


@pytest.mark.parametrize(
    ("stopped", "call"),
    [("_move_up", 1), ("_move_up", 2), ("write_columns", 1), ("write_columns", 2), ("resize", 1), ("consolidate", 1)],
)
def test_compare__goes_on_where_dropping_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twelve: tuple[Path, xr.Dataset], stopped: str, call: int
) -> None:
    zoo, expected = dask_svcca.open_zoo(twelve[0] / "zoo.zarr"), twelve[1]
    shutil.copytree(twelve[0] / "c", tmp_path / "c")
    done = getattr(ComparisonStore, stopped)
    calls = iter(range(1, 100))

    def stop(*arguments: Any) -> None:
        if next(calls) == call:
            raise KeyboardInterrupt
        done(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ComparisonStore, stopped, stop)
        with pytest.raises(KeyboardInterrupt):
            dask_svcca.compare(zoo, tmp_path / "c", drop_left=True)
    found = dask_svcca.compare(zoo, tmp_path / "c", drop_left=True).load()
    kept = [step for step in range(12) if step not in {2, 7}]
    assert list(found.representation_a.to_numpy()) == [label(step) for step in kept]
    assert_same_to_rounding(found, expected)


def test_compare__what_was_dropped_is_not_seen_again_where_a_bad_one_takes_its_place(tmp_path: Path) -> None:
    arrays = layers(12)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    run(zoo, tmp_path / "c", keep=("correlations",))
    zoo.delete(label(4))
    run_comparison(zoo, tmp_path / "c", Parameters(keep=("correlations",)), drop_left=True)
    write(zoo, [np.where(np.arange(N)[:, None] == 3, np.nan, arrays[4])], start=4)
    run(zoo, tmp_path / "c", keep=("correlations",))
    found = dask_svcca.open_comparison(tmp_path / "c").load().sel(representation_a=label(4))
    assert (found.pair_status == PairStatus.FAILED).all()
    for name in ("svcca", "null_svcca", "correlations"):
        assert found[name].isnull().all(), name


@pytest.mark.parametrize("cuts", [range(60, 75, 3), pytest.param(range(0, 90, ONE_OF), marks=pytest.mark.slow)])
def test_compare__goes_on_where_the_power_went_while_results_were_dropped(cuts: range) -> None:
    arrays = layers(9)
    parameters, more = Parameters(("svcca", "cka")), Parameters(("svcca", "cka", "cca"))
    bad, names = np.full_like(arrays[0], np.nan), [label(step) for step in range(1, 10)]
    whole = make_zoo(MemoryStore(), [*arrays[1:], bad], start=1)
    run_comparison(whole, undisturbed := MemoryStore(), more)
    expected = dask_svcca.open_comparison(undisturbed).load()
    for changes in cuts:
        power = Power()
        zoo = make_zoo(MemoryStore(), arrays)
        run_comparison(zoo, store := DyingStore(power), parameters)
        zoo.delete(label(0))
        with power.cut_after(changes):
            run_comparison(zoo, store, parameters, drop_left=True)
        write(zoo, [bad], start=9)
        run_comparison(zoo, store, more)
        found = dask_svcca.open_comparison(store).load().sel(representation_a=names, representation_b=names)
        for name in ("svcca", "cka", "cca", "pair_status"):
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-6, err_msg=f"{name}, {changes}")
