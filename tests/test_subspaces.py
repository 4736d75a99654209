"""Subspaces that comparisons share: made once a zoo, and of use to any comparison that reads layers alike."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import zarr
from measured import images
from test_growing import forget_activations
from zarr.storage import MemoryStore
from zoos import N, activations_of, assert_same, label, layers, lose_all_chunks, make_zoo, spoil, with_budget, write

import dask_svcca
from dask_svcca.errors import DamagedSubspacesError, ParametersChangedError, StoreFormatError, StoreInUseError
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.stores import Stores
from dask_svcca.stores.backend import LocalBackend
from dask_svcca.stores.subspaces import SubspaceStore
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import xarray as xr

    from dask_svcca import Zoo
    from dask_svcca.run.outcome import Outcome

MISSING, DONE, FAILED = PairStatus.MISSING, PairStatus.DONE, PairStatus.FAILED


def run(zoo: Zoo, store: Any, subspaces: Any = None, **options: Any) -> Outcome:
    return run_comparison(zoo, store, Parameters(**options), subspaces=subspaces)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, and what is in them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("second", [{"variance": 0.7}, {"variance": None, "measures": ("pwcca", "cka")}])
def test_compare__over_the_same_subspaces_reads_no_activations(tmp_path: Path, second: dict[str, Any]) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(9))
    alone = dask_svcca.compare(zoo, tmp_path / "alone", **second).load()
    run(zoo, tmp_path / "first", tmp_path / "subspaces")
    assert "subspaces" not in zarr.open_group(tmp_path / "first", mode="r", use_consolidated=False)
    forget_activations(tmp_path / "zoo.zarr")
    outcome = run(zoo, tmp_path / "second", tmp_path / "subspaces", **second)
    assert (outcome.plan.subspaces, outcome.bytes_read, outcome.problems) == (0, 0, {})
    assert_same(dask_svcca.open_comparison(tmp_path / "second").load(), alone)


def test_compare__match_and_shared_subspaces_of_folds(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", images((4, 4, 3), (2, 2, 2), examples=40))
    crop = run(zoo, tmp_path / "crop", tmp_path / "subspaces")
    assert crop.plan.subspaces == 2
    fold = run(zoo, tmp_path / "fold", tmp_path / "subspaces", match="fold")
    assert fold.plan.subspaces == 1
    forget_activations(tmp_path / "zoo.zarr")
    again = run(zoo, tmp_path / "again", tmp_path / "subspaces", match="fold", variance=0.8)
    assert (again.plan.subspaces, again.bytes_read, again.problems) == (0, 0, {})


def test_compare__subspaces_of_one_comparison_serve_another(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(4))
    run(zoo, tmp_path / "first")
    forget_activations(tmp_path / "zoo.zarr")
    outcome = run(zoo, tmp_path / "second", tmp_path / "first" / "subspaces", measures=("cka",))
    assert (outcome.plan.subspaces, outcome.problems) == (0, {})


def test_compare__subspaces_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(4))
    monkeypatch.chdir(tmp_path)
    run(zoo, "c", "subspaces")
    monkeypatch.chdir("/")
    write(zoo, layers(5)[4:], start=4)
    outcome = run(zoo, tmp_path / "c")
    assert outcome.plan.subspaces == 1
    assert len(SubspaceStore.open(tmp_path / "subspaces").read_index().records) == 5


def test_compare__subspaces_may_be_anywhere() -> None:
    zoo, subspaces = make_zoo(MemoryStore(), layers(9)), MemoryStore()
    run(zoo, MemoryStore(), subspaces)
    second = MemoryStore()
    outcome = run(zoo, second, subspaces, variance=0.8, measures=("pwcca",))
    assert (outcome.plan.subspaces, outcome.bytes_read) == (0, 0)
    expected = dask_svcca.compare(zoo, MemoryStore(), variance=0.8, measures="pwcca").load()
    assert_same(dask_svcca.open_comparison(second).load(), expected)


def test_compare__other_subspaces_leave_what_is_known(tmp_path: Path) -> None:
    arrays = [*layers(3), np.ones((N, 4), "float32")]
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    options: dict[str, Any] = {"keep": ("correlations",)}
    first = run(zoo, tmp_path / "c", **options)
    before = dask_svcca.open_comparison(tmp_path / "c").load()
    outcome = run(zoo, tmp_path / "c", tmp_path / "others", **options)
    assert (outcome.plan.tasks, outcome.problems) == (0, first.problems)
    assert_same(dask_svcca.open_comparison(tmp_path / "c").load(), before)


def test_compare__subspaces_that_are_gone_are_made_again(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(4))
    run(zoo, tmp_path / "c", tmp_path / "subspaces")
    shutil.rmtree(tmp_path / "subspaces")
    before = dask_svcca.open_comparison(tmp_path / "c").load()
    assert run(zoo, tmp_path / "c").plan.tasks == 0
    assert run(zoo, tmp_path / "c", measures=("cka",)).plan.subspaces == 4
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    np.testing.assert_array_equal(found.svcca, before.svcca)
    assert (found.pair_status == DONE).all()


def test_compare__identical_activations_share_a_subspace(tmp_path: Path) -> None:
    x, y = layers(2)
    outcome = run(make_zoo(tmp_path / "zoo.zarr", [x, y, x]), tmp_path / "c")
    assert outcome.plan.subspaces == 2
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    assert (found.pair_status == DONE).all()
    np.testing.assert_allclose(found.svcca[0, 2], 1, rtol=0, atol=1e-7)
    # One pair is the mirror image of the other, and BLAS rounds a product and its transpose apart.
    np.testing.assert_allclose(found.svcca[0, 1], found.svcca[2, 1], rtol=0, atol=1e-12)
    assert found.rank_a[0] == found.rank_a[2]


def test_compare__identical_bad_activations_are_told_of_each(tmp_path: Path) -> None:
    bad = np.ones((N, 3), "float32")
    outcome = run(make_zoo(tmp_path / "zoo.zarr", [bad, *layers(1), bad]), tmp_path / "c")
    assert outcome.problems == {
        label(step): f"'{label(step)}' is constant: none of its neurons varies over {N} samples by more than rounding"
        for step in (0, 2)
    }


def test_pack__of_good_and_bad_members_spoils_none_of_the_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_budget(monkeypatch, 1, 2**31)
    monkeypatch.setattr("dask_svcca.plan.subspaces.LEAST_BATCH_BYTES", 0)
    arrays = layers(6)
    shapes = [array.copy() for array in arrays]
    shapes[1] = np.ones_like(arrays[1])
    shapes[2] = spoil("nan", arrays[2])
    # Enough that one task makes several.
    more = layers(102, seed=7)[6:]
    zoo = make_zoo(tmp_path / "zoo.zarr", [*shapes, *more])
    shutil.copytree(activations_of(tmp_path / "zoo.zarr", 4), tmp_path / "away")
    lose_all_chunks(activations_of(tmp_path / "zoo.zarr", 4))
    outcome = run(zoo, tmp_path / "c")
    assert len(outcome.plan.packs[0].members) == 12
    assert sorted(outcome.problems) == [label(step) for step in (1, 2, 4)]
    found = dask_svcca.open_comparison(tmp_path / "c").load()
    expected = np.full((102, 102), DONE)
    expected[4] = expected[:, 4] = MISSING
    for step in (1, 2):
        expected[step] = expected[:, step] = FAILED
    # Of one that failed and one that cannot be read, nothing is known yet.
    expected[4, [1, 2]] = expected[[1, 2], 4] = MISSING
    np.testing.assert_array_equal(found.pair_status, expected)
    np.testing.assert_array_equal(found.svcca.notnull(), expected == DONE)

    shutil.copytree(tmp_path / "away", activations_of(tmp_path / "zoo.zarr", 4), dirs_exist_ok=True)
    repaired = run(zoo, tmp_path / "c")
    assert [member.label for pack in repaired.plan.packs for member in pack.members] == [label(4)]
    assert sorted(repaired.problems) == [label(1), label(2)]
    again = dask_svcca.open_comparison(tmp_path / "c").load()
    np.testing.assert_array_equal(again.svcca.where(found.svcca.notnull()), found.svcca)
    assert (again.pair_status[4] == np.where(np.isin(np.arange(102), (1, 2)), FAILED, DONE)).all()


def test_compare__directions_without_loadings_outlive_a_failed_attempt_at_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    zoo = make_zoo(tmp_path / "zoo.zarr", [rng.normal(size=(N, 90)) for _ in range(2)])
    options: dict[str, Any] = {"variance": 0.6}
    run(zoo, tmp_path / "c", tmp_path / "subspaces", **options)
    forget_activations(tmp_path / "zoo.zarr")
    assert len(run(zoo, tmp_path / "other", tmp_path / "subspaces", measures=("pwcca",), **options).problems) == 2
    outcome = run(zoo, tmp_path / "c", measures=("cka",), **options)
    assert (outcome.plan.subspaces, outcome.problems) == (0, {})


# Refused, in a sentence, before anything is written.


def other_examples(folder: Path) -> Zoo:
    zoo = dask_svcca.create_zoo(folder / "other zoo", examples=range(1, N + 1))
    write(zoo, layers(2))
    return zoo


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float64"}, "were made with precision='float32', now precision='float64' is asked for"),
        ({"conv": "mean"}, "were made with conv='dft', now conv='mean' is asked for"),
        ({"sequence": "last"}, "were made with sequence='mean', now sequence='last' is asked for"),
    ],
)
def test_compare__subspaces_made_otherwise_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    run(zoo, tmp_path / "c", tmp_path / "subspaces")
    before = tree(tmp_path)
    with pytest.raises(ParametersChangedError, match=message):
        dask_svcca.compare(zoo, tmp_path / "new", subspaces=tmp_path / "subspaces", **options)
    with pytest.raises(ParametersChangedError, match=message):
        dask_svcca.plan_comparison(zoo, tmp_path / "new", subspaces=tmp_path / "subspaces", **options)
    assert tree(tmp_path) == before


def test_compare__subspaces_of_another_zoo_are_refused(tmp_path: Path) -> None:
    run(make_zoo(tmp_path / "zoo.zarr", layers(2)), tmp_path / "c", tmp_path / "subspaces")
    other = other_examples(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ParametersChangedError, match=r"are of another zoo: 60 examples \(.*\), this zoo has 60"):
        dask_svcca.compare(other, tmp_path / "new", subspaces=tmp_path / "subspaces")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("what", ["zoo", "comparison", "group", "array", "file", "folder"])
@pytest.mark.parametrize("argument", ["subspaces", "store"])
def test_compare__a_place_that_holds_something_else_is_refused(tmp_path: Path, what: str, argument: str) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    there = tmp_path / what
    match what:
        case "zoo":
            there = tmp_path / "zoo.zarr"
        case "comparison":
            run(zoo, there)
            # As a comparison it is one of other parameters.
        case "group":
            zarr.create_group(there, attributes={"mine": 1})
        case "array":
            zarr.create_array(there, shape=(3,), dtype="float32")
        case "file":
            there.write_text("mine")
        case "folder":
            there.mkdir()
            (there / "mine.txt").write_text("mine")
    places = {"store": tmp_path / "new", "subspaces": tmp_path / "new subspaces", argument: there}
    before = tree(tmp_path)
    message = "is not a (comparison|store of subspaces)|there is already something else|was made with variance"
    with pytest.raises((StoreFormatError, ParametersChangedError), match=message):
        dask_svcca.compare(zoo, places["store"], subspaces=places["subspaces"], variance=0.9)
    assert tree(tmp_path) == before


def test_compare__one_place_for_both_is_refused(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    before = tree(tmp_path)
    with pytest.raises(StoreFormatError, match="comparison and its subspaces cannot both be at"):
        dask_svcca.compare(zoo, tmp_path / "new", subspaces=tmp_path / "new")
    assert tree(tmp_path) == before


def test_compare__of_another_mask_of_the_same_name_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(N, 5, 4)) for _ in range(2)]
    whole = np.ones((N, 5), dtype=bool)
    masks = {"whole": whole, "short": whole & (np.arange(5) < 2)}
    zoos = {}
    for name, mask in masks.items():
        zoos[name] = dask_svcca.create_zoo(tmp_path / name, examples=range(N), coords={"mask": mask})
        write(zoos[name], arrays)
    run(zoos["whole"], tmp_path / "c", tmp_path / "subspaces", mask="mask")
    with pytest.raises(ParametersChangedError, match="was made with a mask of other values"):
        run(zoos["short"], tmp_path / "c", tmp_path / "others", mask="mask", measures=("cka",))
    with pytest.raises(ParametersChangedError, match="mask_digest"):
        run(zoos["short"], tmp_path / "other", tmp_path / "subspaces", mask="mask")
    assert not (tmp_path / "other").exists()


def test_compare__that_is_finished_stays_with_its_subspaces(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    run(zoo, tmp_path / "c", tmp_path / "subspaces")
    assert run(zoo, tmp_path / "c", tmp_path / "elsewhere").computed == 0
    assert not (tmp_path / "elsewhere").exists()
    result = dask_svcca.open_comparison(tmp_path / "c")
    null = dask_svcca.permutation_null(result, [(label(0), label(1))], permutations=3)
    assert np.isfinite(null.svcca_null).all()
    shutil.rmtree(tmp_path / "subspaces")
    assert run(zoo, tmp_path / "c").computed == 0


def test_compare__another_run_cannot_overtake_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    run(zoo, tmp_path / "c")
    prepare = Stores.prepare

    def overtaken(stores: Stores, *arguments: Any) -> Any:
        monkeypatch.setattr(Stores, "prepare", prepare)
        with pytest.raises(StoreInUseError, match=r"the comparison .*c' is in use by process"):
            run(zoo, tmp_path / "c", measures=("procrustes",))
        return prepare(stores, *arguments)

    monkeypatch.setattr(Stores, "prepare", overtaken)
    run(zoo, tmp_path / "c", measures=("cka",))
    run(zoo, tmp_path / "c", measures=("procrustes",))
    found = dask_svcca.open_comparison(tmp_path / "c")
    for name in ("svcca", "procrustes", "cka"):
        assert np.isfinite(found[name]).all()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("scores/c/0/0", "missing"),
        ("scores/c/0/0", "short"),
        ("bases/c/0", "missing"),
        ("zarr.json", "another program's"),
    ],
)
def test_compare__a_damaged_pack_costs_its_own_representations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    # A few packs of several.
    monkeypatch.setattr("dask_svcca.plan.subspaces.BATCHES_PER_WORKER", 1)
    monkeypatch.setattr("dask_svcca.plan.subspaces.LEAST_BATCH_BYTES", 0)
    with_budget(monkeypatch, 2, 2**30)
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(9))
    with dask.config.set(scheduler="synchronous"):
        expected = run_twice(zoo, tmp_path / "whole")
        run(zoo, tmp_path / "c")
        pack, other, *_ = sorted(path for path in (tmp_path / "c" / "subspaces").iterdir() if path.is_dir())
        file = pack / name
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:5] if damage == "short" else b'{"attributes": {"members": [1]}}')
        untouched = {path: path.stat().st_mtime_ns for path in other.rglob("*")}
        outcome = run(zoo, tmp_path / "c", measures=("cka",))
    assert outcome.problems == {}
    assert outcome.plan.pairs_done + outcome.computed == 45
    # Its own are made anew, and no others.
    assert 0 < outcome.plan.subspaces < 9
    assert {path: path.stat().st_mtime_ns for path in other.rglob("*")} == untouched
    found = dask_svcca.open_comparison(tmp_path / "c")
    for measure in ("svcca", "cka"):
        np.testing.assert_allclose(found[measure], expected[measure], rtol=0, atol=1e-6)


def run_twice(zoo: Zoo, place: Path) -> xr.Dataset:
    run(zoo, place)
    run(zoo, place, measures=("cka",))
    return dask_svcca.open_comparison(place)


def test_compare__a_chunk_that_is_missing_in_memory_is_made_anew() -> None:
    zoo, place = make_zoo(MemoryStore(), layers(3)), MemoryStore()
    run(zoo, place)
    key = next(key for key in place._store_dict if "/scores/c/" in key)
    del place._store_dict[key]
    with dask.config.set(scheduler="synchronous"):
        assert run(zoo, place, measures=("cka",)).computed == 6
    assert np.isfinite(dask_svcca.open_comparison(place).cka).all()


def test_compare__a_pack_that_stays_damaged_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    run(zoo, tmp_path / "c")
    read_ranges = LocalBackend.read_ranges

    def gone_bad(backend: LocalBackend, wanted: Mapping[str, Any]) -> None:
        if any("scores" in key for key in wanted):
            raise OSError("gone bad")
        read_ranges(backend, wanted)

    monkeypatch.setattr(LocalBackend, "read_ranges", gone_bad)
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(DamagedSubspacesError, match=r"gone bad.*Compare again"),
    ):
        run(zoo, tmp_path / "c", measures=("cka",))
