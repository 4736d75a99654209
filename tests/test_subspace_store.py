"""Subspaces as a store: packs of them, each of which counts once its index is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore

from dask_svcca.errors import DamagedSubspacesError, ParametersChangedError, StoreAccessError, StoreFormatError
from dask_svcca.stores.subspaces import Block, PackWriter, Subspace, SubspaceEntry, SubspaceStore, gather

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = {"examples_digest": "a" * 32, "n_examples": 60, "precision": "float32", "conv": "dft", "mask_digest": None}
SCORES = np.arange(25.0, dtype="float32").reshape(5, 5)


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SubspaceStore:
    place = tmp_path / "subspaces.zarr" if request.param == "directory" else MemoryStore()
    return SubspaceStore.create(place, IDENTITY, 4)


def subspace(key: str, *blocks: Block, neurons: int = 6, grid: tuple[int, ...] = (), loadings: bool = True) -> Subspace:
    """A subspace of numbers that tell where they should be."""
    directions = sum(block.directions for block in blocks)
    entry = SubspaceEntry(key, "", 5, neurons, "examples", grid, 100.0, blocks, loadings)
    wide = complex if grid else float
    return Subspace(
        entry,
        np.arange(neurons, dtype=wide) + len(key),
        np.arange(directions, 0, -1.0),
        np.arange(neurons * directions, dtype=wide).reshape(neurons, directions) if loadings else np.zeros((0, 0)),
    )


def write_pack(
    store: SubspaceStore, name: str, members: list[Any], *, finish: bool = True, scores: np.ndarray = SCORES
) -> None:
    directions = sum(member.entry.directions for member in members if isinstance(member, Subspace))
    dtype = np.dtype("complex64" if np.iscomplexobj(scores) else "float32")
    writer = PackWriter(store, name, samples=5, directions=directions, dtype=dtype, chunk_samples=4)
    if directions:
        writer.write_scores(0, scores[:4, :directions])
        writer.write_scores(1, scores[4:, :directions])
        np.testing.assert_array_equal(writer.read_scores(1), scores[4:, :directions])
    if finish:
        writer.finish(members)


def test_pack__holds_what_was_written(store: SubspaceStore) -> None:
    first, second = subspace("a", Block(0, 1, 2)), subspace("bb", Block(0, 1, 3), neurons=4)
    bad = SubspaceEntry("c", "is constant")
    write_pack(store, "pack", [first, bad, second])
    index = store.read_index()
    assert list(index.records) == ["a", "c", "bb"]
    assert index.records["c"].entry == bad
    pack = index.packs["pack"]
    for made, columns in ((first, slice(0, 2)), (second, slice(2, 5))):
        record = index.records[made.entry.key]
        assert record.entry == made.entry
        np.testing.assert_array_equal(index.spectrum(record), made.spectrum)
        np.testing.assert_array_equal(pack.mean(record), made.mean)
        np.testing.assert_array_equal(pack.loadings(record), made.loadings)
        np.testing.assert_array_equal(pack.scores(record), SCORES[:, columns])
    assert (pack.chunk_samples, pack.dtype, index.chunk_samples) == (4, np.float32, 4)


def test_pack__of_frequencies_holds_what_was_written(store: SubspaceStore) -> None:
    made = subspace("a", Block(0, 1, 1), Block(2, 2, 2), grid=(4,), neurons=3)
    scores = SCORES * (1 + 2j)
    write_pack(store, "pack", [made], scores=scores.astype("complex64"))
    record = store.read_index().records["a"]
    assert record.entry.block.tolist() == [0, 2, 2]
    assert record.entry.multiplicity.tolist() == [1, 2, 2]
    pack = store.read_index().packs["pack"]
    np.testing.assert_array_equal(pack.loadings(record), made.loadings)
    np.testing.assert_array_equal(pack.mean(record), made.mean)
    np.testing.assert_array_equal(pack.scores(record), scores[:, :3])


def test_pack__says_to_anyone_what_its_arrays_are(store: SubspaceStore) -> None:
    made = [subspace("a", Block(0, 1, 2)), subspace("b", Block(0, 1, 1))]
    write_pack(store, "pack", made)
    group = zarr.open_group(store.root.store_path, path="pack", mode="r")
    dims = {name: array.metadata.dimension_names for name, array in group.arrays()}
    # Each array is two files and three folders, and small packs are many.
    assert dims == {"scores": ("sample", "direction"), "scores_check": ("check",), "bases": ("number",)}
    np.testing.assert_array_equal(group["scores"][...], SCORES[:, :3])
    numbers = [one.spectrum for one in made] + [one.mean for one in made] + [one.loadings.T.ravel() for one in made]
    np.testing.assert_array_equal(group["bases"][...], np.concatenate(numbers))


def test_read_index__does_not_count_what_was_not_finished(store: SubspaceStore) -> None:
    assert store.pack("pack") is None
    write_pack(store, "pack", [subspace("a", Block(0, 1, 2))], finish=False)
    assert store.pack("pack") is None
    assert store.read_index().records == {}


def test_pack_writer__the_old_index_does_not_vouch_for_new_scores(store: SubspaceStore) -> None:
    write_pack(store, "pack", [subspace("a", Block(0, 1, 2))])
    write_pack(store, "pack", [subspace("a", Block(0, 1, 2))], finish=False)
    assert store.pack("pack") is None
    assert store.read_index().records == {}


def test_pack_writer__a_failure_replaces_a_subspace(store: SubspaceStore) -> None:
    write_pack(store, "pack", [subspace("a", Block(0, 1, 2))])
    write_pack(store, "pack", [SubspaceEntry("a", "is constant")])
    record = store.read_index().records["a"]
    assert (record.entry.problem, record.entry.directions) == ("is constant", 0)


def test_pack_writer__a_draft_counts_for_those_who_write_it_only(store: SubspaceStore) -> None:
    writer = PackWriter(store, "pack", samples=5, directions=2, dtype=np.dtype("float32"), chunk_samples=4)
    writer.finish([subspace("a", Block(0, 1, 2))], draft=True)
    assert store.pack("pack") is None
    assert store.read_index().records == {}
    draft = store.draft("pack")
    assert draft is not None
    assert draft.records[0].entry.key == "a"


def test_read_index__what_could_not_be_read_does_not_count(store: SubspaceStore) -> None:
    write_pack(store, "pack", [SubspaceEntry("", "was not made"), subspace("a", Block(0, 1, 2))])
    index = store.read_index()
    assert list(index.records) == ["a"]
    np.testing.assert_array_equal(index.packs["pack"].scores(index.records["a"]), SCORES[:, :2])


@pytest.mark.parametrize("names", [("1", "2"), ("2", "1")])
def test_read_index__prefers_the_one_with_loadings(store: SubspaceStore, names: tuple[str, str]) -> None:
    write_pack(store, names[0], [subspace("a", Block(0, 1, 2), loadings=False)])
    write_pack(store, names[1], [subspace("a", Block(0, 1, 2))])
    assert store.read_index().records["a"].pack == names[1]


def test_pack__cut_short_is_an_error(tmp_path: Path) -> None:
    store = SubspaceStore.create(tmp_path / "s", IDENTITY, 4)
    write_pack(store, "pack", [subspace("a", Block(0, 1, 2))])
    record = store.read_index().records["a"]
    for name, read in (("bases", "mean"), ("scores", "scores")):
        file = max((tmp_path / "s" / "pack" / name / "c").rglob("0"))
        file.write_bytes(file.read_bytes()[:5])
        with pytest.raises(OSError, match="were expected"):
            getattr(store.read_index().packs["pack"], read)(record)


def test_check__accepts_what_they_were_made_with(store: SubspaceStore) -> None:
    SubspaceStore.open(store.root.store_path).check(IDENTITY)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"examples_digest": "b" * 32, "n_examples": 50},
            r"are of another zoo: 60 examples \(digest aaaaaaaa\), this zoo has 50 \(digest bbbbbbbb\)",
        ),
        ({"precision": "float64"}, "were made with precision='float32', now precision='float64' is asked for"),
        ({"conv": "mean"}, "were made with conv='dft', now conv='mean' is asked for"),
    ],
)
def test_check__names_both_values(store: SubspaceStore, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ParametersChangedError, match=message):
        store.check({**IDENTITY, **changed})


def test_open__says_what_is_there_instead(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other", attributes={"format": "something"})
    with pytest.raises(StoreFormatError, match="is not a store of subspaces of dask-svcca: it says format 'something'"):
        SubspaceStore.open(tmp_path / "other")


def test_pack__reads_runs_of_directions(store: SubspaceStore) -> None:
    scores = np.random.default_rng(2).normal(size=(5, 1500)).astype("float32")
    write_pack(store, "pack", [subspace("a", Block(0, 1, 1500))], scores=scores)
    pack = store.pack("pack")
    assert pack is not None
    # More than one system call takes, then a gap, then one before them.
    starts = [*range(700), 1200, 3]
    for chunk in range(2):
        out = [np.full((300 if start == 1200 else 1, 4), np.nan, "float32") for start in starts]
        pack.read_scores(chunk, list(zip(starts, out, strict=True)))
        part = scores[chunk * 4 : chunk * 4 + 4].T
        for start, found in zip(starts, out, strict=True):
            np.testing.assert_array_equal(found[:, : part.shape[1]], part[start : start + len(found)])
            assert not found[:, part.shape[1] :].any()


def test_pack__opens_in_xarray(tmp_path: Path) -> None:
    store = SubspaceStore.create(tmp_path / "subspaces.zarr", IDENTITY, 4)
    members = [subspace(key, Block(0, 1, 2), Block(2, 2, 1), grid=(3, 2)) for key in "ab"]
    scores = np.random.default_rng(2).normal(size=(5, 6)).astype("complex64")
    write_pack(store, "pack", members, scores=scores)
    with xr.open_zarr(tmp_path / "subspaces.zarr", group="pack", consolidated=False) as found:
        np.testing.assert_array_equal(found.scores, scores)
        assert found.scores.dims == ("sample", "direction")
        # Which directions are whose, and of which frequency: index, multiplicity and directions of each block.
        assert [member["blocks"] for member in found.attrs["members"]] == [[[0, 1, 2], [2, 2, 1]]] * 2


@pytest.mark.parametrize(("version", "message"), [(9, "reads up to 8"), (7, "reads version 8 only")])
def test_open__refuses_another_format(tmp_path: Path, version: int, message: str) -> None:
    comparison = zarr.create_group(tmp_path / "comparison")
    inside = SubspaceStore.create_inside(comparison, IDENTITY, 4)
    shared = SubspaceStore.create(tmp_path / "shared", IDENTITY, 4)
    for store in (inside, shared):
        store.root.update_attributes({"format_version": version})
    message = rf"store of subspaces at .* has format version {version}.* {message}"
    with pytest.raises(StoreFormatError, match=message):
        SubspaceStore.open_inside(comparison)
    with pytest.raises(StoreFormatError, match=message):
        SubspaceStore.open(tmp_path / "shared")


def write_many(store: SubspaceStore, numbers: range) -> None:
    for number in numbers:
        made = subspace(f"key{number}", Block(0, 1, 2), loadings=number % 3 > 0)
        bad = [SubspaceEntry(f"bad{number}", "is constant")] if number % 5 == 0 else []
        write_pack(store, f"pack{number:03}", [*bad, made], scores=SCORES + number)


def assert_all_there(store: SubspaceStore, numbers: range) -> None:
    index = store.read_index()
    assert set(index.records) == {f"key{n}" for n in numbers} | {f"bad{n}" for n in numbers if n % 5 == 0}
    for number in numbers:
        made, record = subspace(f"key{number}", Block(0, 1, 2), loadings=number % 3 > 0), index.records[f"key{number}"]
        pack = index.packs[record.pack]
        assert record.entry == made.entry
        np.testing.assert_array_equal(pack.scores(record), (SCORES + number)[:, :2])
        np.testing.assert_array_equal(pack.spectrum(record), made.spectrum)
        np.testing.assert_array_equal(pack.mean(record), made.mean)
        if number % 3:
            np.testing.assert_array_equal(pack.loadings(record), made.loadings)


def test_gather__many_small_packs_become_one(store: SubspaceStore) -> None:
    write_many(store, range(15))
    gather(store)
    assert len(store.read_index().packs) == 15
    write_many(store, range(15, 20))
    before = store.read_index()
    gather(store)
    assert_all_there(store, range(20))
    # A run that begins now does not depend on those that will be removed.
    assert len({record.pack for record in store.read_index().records.values()}) == 1
    # A run that began before still finds what it knows of.
    for record in before.records.values():
        if not record.entry.problem:
            before.packs[record.pack].scores(record)
    gather(store)
    (pack,) = store.read_index().packs.values()
    assert_all_there(store, range(20))
    # And so on: a store that grows by a pack at a time has a handful of them.
    write_many(store, range(20, 60))
    for _ in range(2):
        gather(store)
    assert len(store.read_index().packs) == 1
    assert pack.name not in store.read_index().packs
    assert_all_there(store, range(60))


def test_gather__leaves_what_is_large_or_of_another_kind(store: SubspaceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write_many(store, range(10))
    for number in range(10, 20):
        made = subspace(f"key{number}", Block(0, 1, 1), grid=(4,), neurons=3)
        write_pack(store, f"pack{number}", [made], scores=(SCORES * 1j).astype("complex64"))
    for _ in range(2):
        gather(store)
    assert len(store.read_index().packs) == 20
    write_many(store, range(20, 30))
    monkeypatch.setattr("dask_svcca.stores.subspaces.gathering.SMALL_BYTES", 60)
    gather(store)
    # Those with loadings are larger than that.
    assert len(store.read_index().packs) == 30


def test_gather__what_is_damaged_stays_for_whoever_needs_it(store: SubspaceStore) -> None:
    write_many(store, range(16))
    array = zarr.open_array(store.root.store, path=f"{store.root.path}/pack003/bases".lstrip("/"), mode="r+")
    array[0] = -1.0
    gather(store)
    index = store.read_index()
    assert len(index.packs) == 16
    with pytest.raises(DamagedSubspacesError, match="'pack003'"):
        index.spectrum(index.records["key3"])


def test_gather__without_room_leaves_all_as_it_is(store: SubspaceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write_many(store, range(16))

    def full(*_: Any, **__: Any) -> None:
        raise StoreAccessError("there is no space left")

    with monkeypatch.context() as patched:
        patched.setattr(PackWriter, "finish", full)
        gather(store)
    assert len(store.read_index().packs) == len(dict(store.root.groups())) == 16
    assert_all_there(store, range(16))
    gather(store)
    assert_all_there(store, range(16))
