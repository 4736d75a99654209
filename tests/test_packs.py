"""Packs of subspaces: what was written is read, by runs of directions, whatever the store and the chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

from dask_svcca.stores.subspaces import Block, Pack, PackWriter, Subspace, SubspaceEntry, SubspaceStore, chunk_length

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = 13


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SubspaceStore:
    place: Any = tmp_path / "subspaces.zarr" if request.param == "local" else MemoryStore()
    return SubspaceStore.create(place, {"examples_digest": "d", "n_examples": SAMPLES}, 5)


def subspace(key: str, directions: int, *, seed: int, grid: tuple[int, ...] = (), loadings: bool = True) -> Subspace:
    rng = np.random.default_rng(seed)
    blocks = (Block(0, 1, directions - 1), Block(2, 2, 1)) if grid else (Block(0, 1, directions),)
    entry = SubspaceEntry(key, "", SAMPLES, 6, "examples", grid, 3.5, blocks, loadings)

    def numbers(*shape: int) -> np.ndarray:
        real = rng.normal(size=shape)
        return real + 1j * rng.normal(size=shape) if grid else real

    return Subspace(entry, numbers(6), np.sort(rng.uniform(1, 2, directions))[::-1], numbers(6, directions))


def write_pack(store: SubspaceStore, members: list[Any], scores: np.ndarray, name: str = "pack") -> Pack:
    writer = PackWriter(
        store,
        name,
        samples=SAMPLES,
        directions=scores.shape[1],
        dtype=scores.dtype,
        chunk_samples=chunk_length(SAMPLES, 5),
    )
    for chunk, start in enumerate(range(0, SAMPLES if scores.shape[1] else 0, 5)):
        writer.write_scores(chunk, scores[start : start + 5])
    assert store.pack(name) is None
    writer.finish(members)
    pack = store.pack(name)
    assert pack is not None
    return pack


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_pack__holds_what_was_written(store: SubspaceStore, dtype: str) -> None:
    grid = (3, 2) if dtype.startswith("complex") else ()
    members = [
        subspace("a", 3, seed=0, grid=grid),
        SubspaceEntry("b", "is constant"),
        subspace("c", 4, seed=1, grid=grid),
    ]
    scores = np.random.default_rng(2).normal(size=(SAMPLES, 7)).astype(dtype)
    pack = write_pack(store, members, scores)
    assert [record.entry.problem for record in pack.records] == ["", "is constant", ""]
    for record, member, columns in (
        (pack.records[0], members[0], slice(0, 3)),
        (pack.records[2], members[2], slice(3, 7)),
    ):
        assert isinstance(member, Subspace)
        assert record.entry == member.entry
        np.testing.assert_array_equal(pack.scores(record), scores[:, columns])
        np.testing.assert_array_equal(pack.spectrum(record), member.spectrum)
        np.testing.assert_array_equal(pack.mean(record), member.mean)
        np.testing.assert_array_equal(pack.loadings(record), member.loadings)


def test_pack__reads_runs_of_directions(store: SubspaceStore) -> None:
    scores = np.random.default_rng(2).normal(size=(SAMPLES, 1500)).astype("float32")
    pack = write_pack(store, [subspace("a", 1500, seed=0)], scores)
    # More than one system call takes, then a gap, then one before them.
    starts = [*range(700), 1200, 3]
    for chunk in range(3):
        out = [np.full((1 if start < 1200 else 300, 5), np.nan, "float32") for start in starts]
        pack.read_scores(chunk, list(zip(starts, out, strict=True)))
        part = scores[chunk * 5 : chunk * 5 + 5].T
        for start, found in zip(starts, out, strict=True):
            np.testing.assert_array_equal(found[:, : part.shape[1]], part[start : start + len(found)])
            assert not found[:, part.shape[1] :].any()


def test_pack__opens_in_xarray(tmp_path: Path) -> None:
    store = SubspaceStore.create(tmp_path / "subspaces.zarr", {}, 5)
    scores = np.random.default_rng(2).normal(size=(SAMPLES, 7)).astype("complex64")
    members = [subspace("a", 3, seed=0, grid=(3, 2)), subspace("c", 4, seed=1, grid=(3, 2))]
    write_pack(store, members, scores)
    with xr.open_zarr(tmp_path / "subspaces.zarr", group="pack", consolidated=False) as found:
        np.testing.assert_array_equal(found.scores, scores)
        assert found.scores.dims == ("sample", "direction")
        np.testing.assert_array_equal(found.member, [0] * 3 + [1] * 4)
        np.testing.assert_array_equal(found.multiplicity, [1, 1, 2, 1, 1, 1, 2])
        assert found.frequency.dims == ("direction", "axis")


def test_index__knows_each_subspace_by_its_key(store: SubspaceStore) -> None:
    scores = np.random.default_rng(2).normal(size=(SAMPLES, 3)).astype("float32")
    write_pack(store, [subspace("a", 3, seed=0, loadings=False)], scores, "first")
    write_pack(store, [SubspaceEntry("b", "is constant")], scores[:, :0], "second")
    # One whose activations could not be read does not count.
    write_pack(store, [SubspaceEntry("", "was not made")], scores[:, :0], "third")
    index = store.read_index()
    assert set(index.records) == {"a", "b"}
    assert not index.records["a"].entry.with_loadings
    write_pack(store, [subspace("a", 3, seed=0)], scores, "another")
    assert store.read_index().records["a"].entry.with_loadings
    write_pack(store, [subspace("a", 3, seed=0, loadings=False)], scores, "zzz")
    assert store.read_index().records["a"].entry.with_loadings


def test_draft__counts_for_those_who_write_it_alone(store: SubspaceStore) -> None:
    member = subspace("a", 3, seed=0)
    options: Any = {"samples": SAMPLES, "directions": 3, "dtype": np.dtype("float32"), "chunk_samples": 5}
    PackWriter(store, "pack", **options).finish([member], draft=True)
    assert store.pack("pack") is None
    assert store.read_index().records == {}
    draft = store.draft("pack")
    assert draft is not None
    np.testing.assert_array_equal(draft.loadings(draft.records[0]), member.loadings)
    scores = np.random.default_rng(2).normal(size=(SAMPLES, 3)).astype("float32")
    # Each part by a writer of its own.
    for chunk in (2, 0, 1):
        PackWriter(store, "pack", **options, exist_ok=True).write_scores(chunk, scores[chunk * 5 : chunk * 5 + 5])
    PackWriter(store, "pack", **options, exist_ok=True).finish([member])
    pack = store.pack("pack")
    assert pack is not None
    np.testing.assert_array_equal(pack.scores(pack.records[0]), scores)


def test_pack__cut_short_is_an_error(tmp_path: Path) -> None:
    store = SubspaceStore.create(tmp_path / "subspaces.zarr", {}, 5)
    pack = write_pack(store, [subspace("a", 3, seed=0)], np.ones((SAMPLES, 3), "float32"))
    for name in ("loadings", "mean"):
        file = tmp_path / "subspaces.zarr" / "pack" / name / "c" / "0"
        file.write_bytes(file.read_bytes()[:8])
        with pytest.raises(OSError, match=f"'pack/{name}' has 1 numbers from 0 on where"):
            getattr(pack, name)(pack.records[0])
