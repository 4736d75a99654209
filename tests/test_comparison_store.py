"""The comparison as a store: a labelled Dataset to anyone with xarray, the truth about progress to the engine."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import numcodecs.blosc
import numpy as np
import pytest
import xarray as xr
import zarr

import dask_svcca
from dask_svcca.errors import DamagedStoreError, ParametersChangedError, StoreFormatError
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.stores import _create
from dask_svcca.stores._blocks import block_arrays
from dask_svcca.stores._documents import crc
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.backend.local import LocalBackend
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import SubspaceStore
from dask_svcca.variables import PAIR_STATUS, REPRESENTATION_VARIABLES, PairStatus

if TYPE_CHECKING:
    from pathlib import Path

PARAMETERS = {"measures": ["svcca"], "variance": 0.99, "conv": "mean"}
FIXED = {"variance": 0.99, "conv": "mean"}
SVCCA = find_measures("svcca")[0]
LABELS = np.array([f"net/step{i}//layer%{i}" for i in range(5)], dtype=object)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "comparison.zarr"


@pytest.fixture
def store(place: Path) -> ComparisonStore:
    made = ComparisonStore.create(
        _create.create_root(place, {}),
        parameters=PARAMETERS,
        tile=2,
        zoo="zoo.zarr",
        examples_digest="a" * 32,
        n_examples=60,
    )
    made.add_results([SVCCA], ["svcca"], {}, ())
    SubspaceStore.create_inside(made.root, {}, 100)
    return made


def register(store: ComparisonStore) -> None:
    """Five representations, and no pair of them."""
    store.resize(5)
    texts = {v.name: LABELS for v in REPRESENTATION_VARIABLES if v.dtype == "string"}
    numbers = {v.name: np.arange(5.0) for v in REPRESENTATION_VARIABLES if v.dtype != "string"}
    store.write_columns({**texts, **numbers})
    store.consolidate()


def fill(store: ComparisonStore) -> None:
    """Five representations, and a value for each pair."""
    register(store)
    store.array("svcca")[...] = np.arange(25.0).reshape(5, 5) / 25
    store.array(PAIR_STATUS.name)[...] = PairStatus.DONE


@pytest.mark.parametrize("open_it", [dask_svcca.open_comparison, xr.open_zarr])
def test_comparison__is_a_labelled_dataset(store: ComparisonStore, place: Path, open_it: Any) -> None:
    fill(store)
    with open_it(place) as result:
        assert result.svcca.dims == ("representation_a", "representation_b")
        assert result.sizes == {"representation_a": 5, "representation_b": 5}
        for axis in "ab":
            names = {f"{name}_{axis}" for name in ("representation", "model", "checkpoint", "layer", "step", "depth")}
            assert names <= set(result.coords)
            assert {f"rank_{axis}", f"problem_{axis}"} <= set(result.data_vars)
        picked = result.svcca.sel(representation_a=LABELS[1], representation_b=LABELS[3])
        assert float(picked) == 8 / 25
        assert picked.layer_a == LABELS[1]
        assert result.step_b.to_numpy().tolist() == [0, 1, 2, 3, 4]
        # Subspaces are the engine's: a person who opens the comparison sees how they are known, and no more.
        assert [name for name in sorted(result.variables) if "subspace" in name] == ["subspace_a", "subspace_b"]


def test_comparison__variables_say_what_they_are(store: ComparisonStore, place: Path) -> None:
    fill(store)
    result = dask_svcca.open_comparison(place)
    assert result.svcca.attrs["valid_range"] == [0, 1]
    assert result.svcca.attrs["sense"] == "similarity"
    assert all("long_name" in result[name].attrs for name in result.variables)
    meanings = result.pair_status.attrs["flag_meanings"].split()
    assert dict(zip(meanings, result.pair_status.attrs["flag_values"], strict=True)) == {
        status.name.lower(): status for status in PairStatus
    }


def test_comparison__pairs_never_written_are_missing(store: ComparisonStore, place: Path) -> None:
    register(store)
    with dask_svcca.open_comparison(place) as result:
        assert np.isnan(result.svcca).all()
        assert (result.pair_status == PairStatus.MISSING).all()


def test_open_comparison__reads_nothing_until_it_is_looked_at(
    store: ComparisonStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    asked = []
    get = zarr.storage.LocalStore.get

    async def watched(self: Any, key: str, *args: Any, **options: Any) -> Any:
        asked.append(key)
        return await get(self, key, *args, **options)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", watched)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse), dask_svcca.open_comparison(place) as result:
        corner = result.svcca[:2, 2:4]
        assert not [key for key in asked if key.startswith("svcca/c/")]
        corner.load()
        assert {key for key in asked if key.startswith("svcca/c/")} == {"svcca/c/0/1"}


def test_open_comparison__columns_are_those_that_xarray_reads(store: ComparisonStore, place: Path) -> None:
    fill(store)
    found = dask_svcca.open_comparison(place)
    with xr.open_zarr(place) as twin:
        for one in REPRESENTATION_VARIABLES:
            for name in (f"{one.name}_a", f"{one.name}_b"):
                assert found[name].to_numpy().tolist() == twin[name].to_numpy().tolist()
                assert found[name].dims == twin[name].dims
                assert (name in found.coords) == (name in twin.coords)
                kept, wanted = ({key: str(value) for key, value in ds[name].encoding.items()} for ds in (found, twin))
                assert kept == wanted


def test_open_comparison__a_damaged_column_is_named_when_it_is_read(store: ComparisonStore, place: Path) -> None:
    fill(store)
    for name in ("problem_b", "rank_a"):
        file = place / name / "c" / "0"
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    found = dask_svcca.open_comparison(place)
    assert found.problem_a.to_numpy().tolist() == list(LABELS)
    for name in ("problem_b", "rank_a"):
        with pytest.raises(DamagedStoreError, match=f"the file '{name}/c/0' .* is missing, or is not what was written"):
            found[name].load()


def test_update_columns__stopped_anywhere_leaves_no_column_new_on_the_first_axis_alone(
    store: ComparisonStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    write, left = LocalBackend.write, [0]

    def stopping(self: LocalBackend, key: str, *parts: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        write(self, key, *parts)

    monkeypatch.setattr(LocalBackend, "write", stopping)
    seen = set()
    for writes in range(4):
        new = np.arange(5) + 100 * (writes + 1)
        left[0] = writes
        with pytest.raises(KeyboardInterrupt):
            store.update_columns({"rank": new, "samples": new})
        found = dask_svcca.open_comparison(place)
        for name in ("rank", "samples"):
            first, second = ((found[f"{name}_{axis}"].to_numpy() == new).all() for axis in "ab")
            assert second or not first
            seen.add((bool(first), bool(second)))
    assert seen == {(False, False), (False, True), (True, True)}


@pytest.mark.parametrize("name", ["nothing", "zoo"])
def test_open_comparison__says_what_is_there_instead(tmp_path: Path, name: str) -> None:
    dask_svcca.create_zoo(tmp_path / "zoo", examples=range(3))
    with pytest.raises(StoreFormatError, match=f"{name}.*(no zarr v3 group|it says format 'dask-svcca-zoo')"):
        dask_svcca.open_comparison(tmp_path / name)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (5, r"format version 5; this dask-svcca reads up to 4\. Upgrade"),
        (2, "format version 2, which an older dask-svcca wrote, and this one reads version 4 only"),
    ],
)
def test_open_comparison__refuses_another_format(
    store: ComparisonStore, place: Path, version: int, message: str
) -> None:
    store.root.update_attributes({"format_version": version})
    with pytest.raises(StoreFormatError, match=message):
        dask_svcca.open_comparison(place)


def test_read_state__is_what_the_comparison_was_made_with(store: ComparisonStore, place: Path) -> None:
    fill(store)
    state = ComparisonStore.open(place).read_state()
    state.check(FIXED, [SVCCA], "a" * 32, 60)
    assert (state.tile, state.measures, state.versions) == (2, ("svcca",), {"svcca": SVCCA.version})
    assert (state.parameters, state.details, state.settled) == ({**PARAMETERS, "keep": []}, {}, ())
    assert not state.growing
    assert state.labels == state.digests == tuple(LABELS)
    assert (state.status[:, :] == PairStatus.DONE).all()
    assert state.subspaces == ""
    assert (state.lacks(["svcca"]), state.lacks(["svcca", "cka"])) == (False, True)


def test_read_state__gives_any_rows_and_columns_of_the_status(store: ComparisonStore, place: Path) -> None:
    fill(store)
    array = store.array("pair_status")
    stored = np.arange(array.size).reshape(array.shape).astype(np.uint8) % len(PairStatus)
    array[:] = stored
    status, ends = ComparisonStore.open(place).read_state().status, range(array.shape[0] + 1)
    parts = [slice(*pair) for pair in itertools.combinations(ends, 2)]
    for rows, columns in list(itertools.product(parts, repeat=2))[::11]:
        np.testing.assert_array_equal(status[rows, columns], stored[rows, columns])


def test_merged__changes_pairs_of_any_rows_and_columns(store: ComparisonStore) -> None:
    fill(store)
    (array,) = block_arrays(store.root, ["svcca"]).values()
    backend, rng = backend_of(store.root), np.random.default_rng(3)
    ends = range(array.shape[0] + 1)
    parts = [slice(*pair) for pair in itertools.combinations(ends, 2)]
    for rows, columns in list(itertools.product(parts, repeat=2))[::11]:
        expected = np.array(store.array("svcca")[:])
        values = rng.random(expected[rows, columns].shape)
        chosen = rng.random(values.shape) < 0.7
        expected[rows, columns][chosen] = values[chosen]
        backend.write_many(array.merged((rows, columns), values, chosen))
        np.testing.assert_array_equal(store.array("svcca")[:], expected)


@pytest.mark.parametrize(
    ("fixed", "digest", "message"),
    [
        ({"variance": 0.9}, "a" * 32, r"was made with variance=0\.99, now variance=0\.9 is asked for"),
        ({"new": 1}, "a" * 32, "was made with new=None, now new=1 is asked for"),
        ({}, "b" * 32, r"60 examples \(digest aaaaaaaa\), the zoo has 50 \(digest bbbbbbbb\)"),
    ],
)
def test_check__names_both_values(store: ComparisonStore, fixed: Any, digest: str, message: str) -> None:
    with pytest.raises(ParametersChangedError, match=message):
        store.read_state().check({**FIXED, **fixed}, [SVCCA], digest, 50)


def test_check__of_a_measure_that_computes_something_else_names_both_versions(store: ComparisonStore) -> None:
    changed = replace(SVCCA, version="2")
    with pytest.raises(
        ParametersChangedError, match=f"'svcca' in version '{SVCCA.version}', and the measure now has version '2'"
    ):
        store.read_state().check(FIXED, [changed], "a" * 32, 60)


def test_resize__keeps_what_is_there(store: ComparisonStore) -> None:
    fill(store)
    store.resize(7)
    again = store.array("svcca")[...]
    np.testing.assert_array_equal(again[:5, :5], np.arange(25).reshape(5, 5) / 25)
    assert np.isnan(again[5:]).all()
    assert np.isnan(again[:, 5:]).all()
    assert (store.array("pair_status")[5:] == PairStatus.MISSING).all()


def test_invalidate__forgets_a_row_and_its_column(store: ComparisonStore) -> None:
    fill(store)
    store.invalidate(np.array([1]))
    gone = np.zeros((5, 5), dtype=bool)
    gone[1] = gone[:, 1] = True
    np.testing.assert_array_equal(store.array("pair_status")[...], np.where(gone, PairStatus.MISSING, PairStatus.DONE))
    # A number of activations that are no longer there must not be left to look like a result.
    np.testing.assert_array_equal(np.isnan(store.array("svcca")[...]), gone)


@pytest.mark.parametrize("file", ["zarr.json", "c/0"])
def test_columns__that_both_axes_have_lost_are_not_said_to_be_repaired(
    store: ComparisonStore, place: Path, file: str
) -> None:
    fill(store)
    for axis in "ab":
        damaged = place / f"rank_{axis}" / file
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    said = rf"'rank_a/{file}' and 'rank_b/{file}' of the comparison .* Compare into another store"
    with pytest.raises(DamagedStoreError, match=said):
        store.columns("rank")
    with pytest.raises(DamagedStoreError, match=said):
        dask_svcca.verify(place, repair=True)


def test_array__of_a_group_is_refused(store: ComparisonStore) -> None:
    with pytest.raises(StoreFormatError, match=r"'subspaces' .* is a group, not an array"):
        store.array("subspaces")


def test_count_pairs__counts_each_pair_once_stripe_by_stripe(
    store: ComparisonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    status = np.random.default_rng(0).integers(0, len(PairStatus), (5, 5))
    store.array("pair_status")[...] = status
    expected = {one: int((status[np.triu_indices(5)] == one).sum()) for one in PairStatus}
    assert len(set(expected.values())) > 1
    # One stripe of all rows, and three of two.
    for stripe in (640, 1):
        monkeypatch.setattr("dask_svcca.stores._sound.STRIPE", stripe)
        assert store.count_pairs() == expected


def test_invalidate__rewrites_each_chunk_once(
    store: ComparisonStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    written = []
    write = LocalBackend.write

    def watched(self: LocalBackend, key: str, *parts: bytes | memoryview) -> None:
        written.append(key)
        write(self, key, *parts)

    monkeypatch.setattr(LocalBackend, "write", watched)
    store.invalidate([0, 1])
    chunks = [key for key in written if key.startswith("svcca/c/")]
    assert len(chunks) == len(set(chunks)) == 5
    assert np.isnan(store.array("svcca")[:2]).all()
    assert np.isfinite(store.array("svcca")[2:, 2:]).all()


def test_merged__keeps_what_is_stored_of_other_pairs(store: ComparisonStore) -> None:
    fill(store)
    (array,) = block_arrays(store.root, ["svcca"]).values()
    chosen = np.zeros((3, 5), dtype=bool)
    chosen[1] = chosen[:, 0] = True
    rows = slice(2, 5), slice(0, 5)
    backend_of(store.root).write_many(array.merged(rows, np.full((3, 5), 7.0), chosen))
    expected = np.arange(25.0).reshape(5, 5) / 25
    expected[2:][chosen] = 7.0
    np.testing.assert_array_equal(store.array("svcca")[...], expected)


def with_null(store: ComparisonStore) -> None:
    """The same, and a reference of which pairs share few values."""
    store.add_results(with_companions([SVCCA]), ["svcca"], {}, ())
    fill(store)
    store.array("null_svcca")[...] = np.arange(25.0).reshape(5, 5) % 3


def test_merged__keeps_what_is_compressed_of_other_pairs(store: ComparisonStore) -> None:
    with_null(store)
    (array,) = block_arrays(store.root, ["null_svcca"]).values()
    assert [codec["name"] for codec in store.array("null_svcca").metadata.to_dict()["codecs"]][1] == "blosc"
    chosen = np.zeros((3, 5), dtype=bool)
    chosen[1] = chosen[:, 0] = True
    rows = slice(2, 5), slice(0, 5)
    backend_of(store.root).write_many(array.merged(rows, np.full((3, 5), 7.0), chosen))
    expected = np.arange(25.0).reshape(5, 5) % 3
    expected[2:][chosen] = 7.0
    np.testing.assert_array_equal(store.array("null_svcca")[...], expected)


@pytest.mark.parametrize("name", ["svcca", "null_svcca"])
@pytest.mark.parametrize("way", ["gone", "flipped", "cut", "empty", "of fewer", "of nothing"])
def test_merged__a_damaged_block_is_not_merged_with(store: ComparisonStore, place: Path, way: str, name: str) -> None:
    with_null(store)
    (array,) = block_arrays(store.root, [name]).values()
    file = place / name / "c" / "1" / "0"
    data = file.read_bytes()
    few = np.ones(3)
    fewer = few.tobytes() if name == "svcca" else numcodecs.blosc.Blosc("lz4").encode(few)
    changed = {
        "gone": None,
        "flipped": bytes([data[0] ^ 1, *data[1:]]),
        "cut": data[:-9],
        "empty": b"",
        "of fewer": fewer + crc(fewer),
        "of nothing": crc(b""),
    }[way]
    file.unlink()
    if changed is not None:
        file.write_bytes(changed)
    some = np.array([[True, False], [False, False]])
    with pytest.raises(DamagedStoreError, match="svcca"):
        list(array.merged((slice(2, 4), slice(0, 2)), np.ones((2, 2)), some, {(1, 0)}))
