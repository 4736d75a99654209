"""The zoo: what goes in comes out, labelled and lazy; what must not go in is refused and loses nothing."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import xxhash
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import (
    IncompleteRepresentationError,
    InvalidActivationsError,
    MismatchedExamplesError,
    RepresentationExistsError,
    RepresentationNotFoundError,
    StoreFormatError,
)
from dask_svcca.stores.zoo import DEFAULT_DIMS, FLOAT16_ERROR
from dask_svcca.stores.zoo import index as index_module
from dask_svcca.stores.zoo import write as zoo_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dask_svcca import Zoo

N = 60
NAME = ("net", "step1", "fc")


def values(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape or (N, 5)).astype(dtype)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N))


@contextmanager
def nothing_computes() -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def digest(zoo: Zoo, name: tuple[str, str, str] = NAME) -> str:
    """What the store says of the values it holds."""
    return zoo.root["/".join(name)].attrs["digest"]


# What goes in comes out.


def test_zoo__as_the_documentation_has_it(tmp_path: Path) -> None:
    store, ids, labels = tmp_path / "zoo.zarr", [f"image{i}" for i in range(N)], np.arange(N) % 10
    activations = values()
    with dask_svcca.create_zoo(store, examples=ids, coords={"label": labels}) as zoo:
        zoo.write("resnet-s0", "step00100", "block1.conv1", activations, step=100, depth=3)
    zoo = dask_svcca.open_zoo(store)
    (row,) = zoo.representations.reset_index().to_dict("records")
    assert row["representation"] == "resnet-s0/step00100/block1.conv1"
    assert (row["model"], row["checkpoint"], row["layer"]) == ("resnet-s0", "step00100", "block1.conv1")
    assert (row["step"], row["depth"], row["shape"], row["dtype"]) == (100, 3, (N, 5), "float32")
    assert (row["dims"], row["nbytes"]) == (("example", "neuron"), activations.nbytes)
    array = zoo["resnet-s0", "step00100", "block1.conv1"]
    xr.testing.assert_identical(
        array.compute(),
        xr.DataArray(
            activations,
            dims=("example", "neuron"),
            coords={"example": ids, "label": ("example", labels)},
            name="activations",
            attrs={
                "model": "resnet-s0",
                "checkpoint": "step00100",
                "layer": "block1.conv1",
                "step": 100,
                "depth": 3,
            },
        ),
    )


def test_zoo__needs_no_local_folder() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords={"label": np.arange(N)})
    zoo.write(*NAME, iter(np.split(X, 4)), step=1)
    zoo.append("net", "step2", "fc", X[:9])
    again = dask_svcca.open_zoo(zoo.root.store)
    assert list(again.representations.index) == ["net/step1/fc"]
    assert again.unfinished == ["net/step2/fc"]
    np.testing.assert_array_equal(again[NAME], X)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("shape", [(N, 1), (N, 7, 5), (N, 4, 3, 2)])
def test_write__keeps_values_and_precision(zoo: Zoo, shape: tuple[int, ...], dtype: str) -> None:
    activations = values(*shape, dtype=dtype)
    dims = DEFAULT_DIMS.get(len(shape), ("example", "height", "width", "channel"))
    zoo.write(*NAME, activations, dims=dims if len(shape) == 4 else None)
    found = zoo[NAME]
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert found.dims == dims
    np.testing.assert_array_equal(found, activations)


X = values()


@pytest.mark.parametrize(
    "activations",
    [
        pytest.param(X.tolist(), id="lists"),
        pytest.param(da.from_array(X, chunks=(7, 2)), id="dask"),
        pytest.param(xr.DataArray(X), id="xarray"),
        pytest.param(xr.DataArray(X.T, dims=("neuron", "example")), id="xarray transposed"),
        pytest.param(xr.DataArray(da.from_array(X.T, chunks=(2, 7)), dims=("neuron", "example")), id="xarray of dask"),
        pytest.param(pd.DataFrame(X), id="pandas"),
    ],
)
def test_write__takes_any_array(zoo: Zoo, activations: Any) -> None:
    zoo.write(*NAME, activations)
    assert zoo[NAME].dims == ("example", "neuron")
    np.testing.assert_array_equal(zoo[NAME], X)


def test_write__takes_an_iterator_of_batches(zoo: Zoo) -> None:
    zoo.write(*NAME, (X[start : start + 7] for start in range(0, N, 7)))
    np.testing.assert_array_equal(zoo[NAME], X)


def test_write__puts_the_channels_last(zoo: Zoo) -> None:
    first = values(N, 3, 4, 5)
    dims = ("example", "channel", "height", "width")
    zoo.write("net", "1", "array", first, dims=dims)
    zoo.write("net", "1", "batches", iter(np.split(first, 4)), dims=dims)
    zoo.write("net", "1", "labelled", xr.DataArray(first, dims=dims).transpose("width", "example", ...))
    for layer in ("array", "batches"):
        assert zoo["net", "1", layer].dims == ("example", "height", "width", "channel")
        np.testing.assert_array_equal(zoo["net", "1", layer], first.transpose(0, 2, 3, 1))
    xr.testing.assert_equal(
        zoo["net", "1", "labelled"].drop_vars("example"),
        xr.DataArray(first, dims=dims).transpose("example", "height", "width", "channel"),
    )


def test_write__batches_with_examples_on_another_axis(zoo: Zoo) -> None:
    zoo.write(*NAME, iter(np.split(X.T, 3, axis=1)), dims=("neuron", "example"))
    np.testing.assert_array_equal(zoo[NAME], X)


@settings(max_examples=25)
@given(cuts=st.sets(st.integers(0, N - 1), max_size=12), chunk_rows=st.integers(1, N + 5))
def test_append__batch_sizes_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, cuts: set[int], chunk_rows: int
) -> None:
    with patch.object(zoo_module, "CHUNK_BYTES", chunk_rows * X[0].nbytes):
        zoo = dask_svcca.create_zoo(tmp_path_factory.mktemp("batches") / "zoo.zarr", examples=range(N))
        zoo.write("net", "whole", "fc", X)
        buffer = np.empty_like(X)
        with zoo:
            for batch in np.split(X, sorted(cuts)):
                # As a capture loop would: one buffer for all batches.
                buffer[: len(batch)] = batch
                zoo.append(*NAME, buffer[: len(batch)])
                buffer[:] = np.nan
    np.testing.assert_array_equal(zoo[NAME], X)
    assert digest(zoo) == digest(zoo, ("net", "whole", "fc"))


def test_write__holds_one_block_of_a_dask_array_at_a_time(zoo: Zoo) -> None:
    log = []
    append = zoo_module.Writer.append

    def block(block_info: Any) -> np.ndarray:
        log.append("compute")
        (start, stop), columns = block_info[None]["array-location"]
        return X[start:stop, slice(*columns)]

    def watched_append(*args: Any, **options: Any) -> None:
        log.append("append")
        append(*args, **options)

    lazy = da.map_blocks(block, chunks=((20, 20, 20), (5,)), dtype=X.dtype, meta=X[:0])
    with patch.object(zoo_module.Writer, "append", watched_append):
        zoo.write(*NAME, lazy)
    assert log == ["compute", "append"] * 3
    np.testing.assert_array_equal(zoo[NAME], X)


@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"])
def test_write__compression_changes_no_value(zoo: Zoo, compression: Any) -> None:
    zoo.write(*NAME, X, compression=compression)
    np.testing.assert_array_equal(zoo[NAME], X)
    codecs = zoo.root["/".join(NAME)]["activations"].compressors
    # A checksum comes last.
    assert len(codecs) == (1 if compression == "none" else 2)


def test_write__refuses_an_unknown_compression(zoo: Zoo) -> None:
    with pytest.raises(ValueError, match="compression is one of 'lz4', 'zstd', 'none'; got 'gzip'"):
        zoo.write(*NAME, X, compression="gzip")


def test_write__takes_numbers_of_numpy(zoo: Zoo) -> None:
    zoo.write(*NAME, X, step=np.int64(100), depth=np.float32(1.5))
    assert zoo.representations[["step", "depth"]].to_numpy().tolist() == [[100, 1.5]]


@pytest.mark.parametrize("number", [np.nan, float("inf"), "100", 1j])
def test_write__refuses_what_orders_nothing(zoo: Zoo, number: Any) -> None:
    for option in ("step", "depth"):
        with pytest.raises(ValueError, match=f"{option} must be a finite number, or None for none; got"):
            zoo.write(*NAME, X, **{option: number})
    assert zoo.unfinished == []


@pytest.mark.parametrize(
    "dims", [("width", "example", "channel", "height", "depth"), ("example", "depth", "height", "width", "channel")]
)
def test_write__orders_spatial_axes(zoo: Zoo, dims: tuple[str, ...]) -> None:
    stored = ("example", "depth", "height", "width", "channel")
    given = xr.DataArray(values(N, 2, 3, 4, 5), dims=stored)
    zoo.write(*NAME, given.transpose(*dims).to_numpy(), dims=dims)
    assert zoo[NAME].dims == stored
    np.testing.assert_array_equal(zoo[NAME], given)


@pytest.mark.parametrize(
    "name",
    [
        ("/net/1", "50%", "/backbone/Conv_output_0"),
        ("..", ".", "zarr.json"),
        ("__net", "é🧠", "a b\n"),
        ("activations", "example", "activations"),
        ("c", "0", "c"),
    ],
)
def test_zoo__awkward_names_come_back(zoo: Zoo, name: tuple[str, str, str]) -> None:
    zoo.write(*name, X)
    again = dask_svcca.open_zoo(zoo.root.store_path)
    assert again.representations[["model", "checkpoint", "layer"]].to_numpy().tolist() == [list(name)]
    assert name in again
    np.testing.assert_array_equal(again[name], X)


@pytest.mark.parametrize("examples", [range(N), [f"image {i}/é" for i in range(N)], np.arange(N)[::-1]])
def test_create_zoo__examples_label_every_representation(tmp_path: Path, examples: Any) -> None:
    coords = {"label": np.arange(N) % 3, "split": ["train", "test"] * (N // 2), "hard": np.arange(N) > 50}
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=examples, coords=coords) as zoo:
        zoo.write(*NAME, X)
    zoo = dask_svcca.open_zoo(tmp_path / "zoo.zarr")
    assert list(zoo.examples) == list(examples)
    assert {name: list(found) for name, found in zoo.coords.items()} == {k: list(v) for k, v in coords.items()}
    array = zoo[NAME]
    np.testing.assert_array_equal(array.sel(example=examples[7]), X[7])
    np.testing.assert_array_equal(array[array.split == "test"], X[1::2])


def test_zoo__is_a_datatree_to_people(zoo: Zoo, tmp_path: Path) -> None:
    zoo.write("net", "1", "a/b", X)
    zoo.write("net", "2", "conv", values(N, 2, 2, 3), dims=("example", "height", "width", "channel"))
    with xr.open_datatree(tmp_path / "zoo.zarr", engine="zarr", consolidated=False) as tree:
        np.testing.assert_array_equal(tree["net/1/a%2Fb/activations"], X)
        assert tree["net/2/conv/activations"].dims == ("example", "height", "width", "channel")
        assert list(tree["net/2/conv"].coords["example"]) == list(range(N))


def test_to_datatree__opens_a_part_as_xarray_opens_all(zoo: Zoo, tmp_path: Path) -> None:
    for model, checkpoint in (("net", "1"), ("net", "2"), ("other", "1")):
        zoo.write(model, checkpoint, "a/b", X, step=float(checkpoint))
        zoo.write(model, checkpoint, "conv", values(N, 2, 2, 3), dims=("example", "height", "width", "channel"))
    # What is not asked for is not looked at.
    shutil.rmtree(tmp_path / "zoo.zarr" / "net" / "2" / "conv" / "activations")
    tree = dask_svcca.open_zoo(tmp_path / "zoo.zarr").to_datatree(model=["net", "oth*"], checkpoint="1")
    assert [node.path for node in tree.leaves] == [
        f"/{model}/1/{layer}" for model in ("net", "other") for layer in ("a%2Fb", "conv")
    ]
    with xr.open_datatree(tmp_path / "zoo.zarr", engine="zarr", consolidated=False, group="net/1") as whole:
        for layer in ("a%2Fb", "conv"):
            ours, theirs = tree[f"net/1/{layer}"].to_dataset(), whole[layer].to_dataset()
            np.testing.assert_array_equal(ours.activations, theirs.activations)
            assert ours.activations.dims == theirs.activations.dims
            assert list(ours.example) == list(range(N))
            assert ours.attrs.items() <= theirs.attrs.items()
    assert ours.activations.chunks is not None


def test_to_datatree__says_what_there_is(zoo: Zoo) -> None:
    zoo.write("net", "1", "fc", X)
    with pytest.raises(RepresentationNotFoundError, match="no checkpoint matches '2' in this zoo; it has '1'"):
        zoo.to_datatree(model="net", checkpoint="2")


# The index.


def test_representations__are_in_the_order_of_training_and_depth(zoo: Zoo) -> None:
    zoo.write("net", "late", "b", X, step=1000, depth=1)
    zoo.write("net", "late", "a", X, step=1000, depth=2)
    zoo.write("net", "early", "a", X, step=20, depth=2)
    zoo.write("net", "undated", "a", X)
    zoo.write("a net", "z", "a", X, step=5)
    expected = ["a net/z/a", "net/early/a", "net/late/b", "net/late/a", "net/undated/a"]
    assert list(zoo.representations.index) == expected
    assert list(dask_svcca.open_zoo(zoo.root.store_path).representations.index) == expected
    frame = zoo.representations
    assert np.isnan(frame.loc["net/undated/a", ["step", "depth"]].to_numpy(dtype=float)).all()


def test_entries__are_what_a_new_look_finds(zoo: Zoo) -> None:
    rng = np.random.default_rng(0)
    names = [(f"net{i % 2}", f"step{i % 3}", f"layer{i % 5}") for i in range(30)]
    for index in rng.integers(len(names), size=60):
        # Some are there already, and move to another place.
        zoo.write(*names[index], X[:, :2], step=float(rng.integers(3)), depth=float(rng.integers(3)), overwrite=True)
        assert zoo.entries() == dask_svcca.open_zoo(zoo.root.store_path).entries()
    assert {item.label for item in zoo.entries()} == set(zoo.representations.index) <= set(map("/".join, names))
    assert all(item.path == item.label for item in zoo.entries())


def test_append__puts_a_representation_in_its_place_without_sorting_all(zoo: Zoo) -> None:
    for step in range(40):
        zoo.write("net", f"step{step}", "fc", X[:, :1], step=step)
    assert len(zoo) == 40
    with patch.object(index_module, "_order", wraps=index_module._order) as order:
        zoo.write("net", "early", "fc", X[:, :1], step=0.5)
    assert order.call_count < 10
    assert [item.step for item in zoo.entries()] == [0, 0.5, *range(1, 40)]


def test_representations__of_an_empty_zoo_have_the_same_columns(zoo: Zoo) -> None:
    empty = zoo.representations
    zoo.write(*NAME, X)
    assert list(empty.columns) == list(zoo.representations.columns)
    assert len(empty) == 0


def test_zoo__is_a_container(zoo: Zoo) -> None:
    assert NAME not in zoo
    zoo.write(*NAME, X)
    assert NAME in zoo
    assert len(zoo) == 1
    assert "1 representations, 60 examples" in repr(zoo)


@pytest.mark.parametrize("looked", [False, True])
def test_zoo__knows_what_it_has_begun(zoo: Zoo, looked: bool) -> None:
    if looked:
        assert len(zoo) == 0
    zoo.append(*NAME, X[:10])
    assert NAME not in zoo
    assert zoo.unfinished == ["net/step1/fc"]
    zoo.append(*NAME, X[10:])
    assert NAME in zoo
    assert zoo.unfinished == []


def test_zoo__refresh_shows_what_others_wrote(zoo: Zoo) -> None:
    reader = dask_svcca.open_zoo(zoo.root.store_path)
    assert len(reader) == 0
    zoo.write(*NAME, X)
    reader.refresh()
    assert NAME in reader


def test_getitem__is_lazy(zoo: Zoo) -> None:
    zoo.write(*NAME, X)
    with nothing_computes():
        again = dask_svcca.open_zoo(zoo.root.store_path)
        assert len(again.representations) == 1
        part = again[NAME][10:20, :2].mean("example")
        with pytest.raises(AssertionError, match="something was computed"):
            part.compute()
    np.testing.assert_allclose(part, X[10:20, :2].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (("nut", "1", "a"), "no model 'nut' for 'nut/1/a' in this zoo; it has 'net', 'other'"),
        (("net", "3", "a"), "no checkpoint '3' for 'net/3/a' in this zoo; it has '1', '2'"),
        (("net", "2", "b"), "no layer 'b' for 'net/2/b' in this zoo; it has 'a'"),
    ],
)
def test_getitem__names_what_there_is(zoo: Zoo, name: tuple[str, str, str], message: str) -> None:
    for found in (("net", "1", "a"), ("net", "1", "b"), ("net", "2", "a"), ("other", "1", "c")):
        zoo.write(*found, X)
    with pytest.raises(RepresentationNotFoundError) as error:
        zoo[name]
    assert str(error.value) == message
    assert isinstance(error.value, KeyError)


# What must not go in.


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64", "longdouble"])
def test_write__refuses_what_is_not_floating(zoo: Zoo, dtype: str) -> None:
    with pytest.raises(InvalidActivationsError, match=r"'net/step1/fc' are \w+; write float16, float32 or float64"):
        zoo.write(*NAME, np.ones((N, 3), dtype=dtype))
    assert len(zoo) == 0


@pytest.mark.parametrize(
    ("activations", "options", "message"),
    [
        (X[:, 0], {}, r"have 1 axis; .* x\[:, None\]"),
        (values(N, 1, 2, 3, 4), {}, "have 5 axes; say what they are with dims="),
        (values(N, 0), {}, r"have an empty axis: shape \(60, 0\)"),
        (X, {"dims": ("example", "feature")}, r"dims=\('example', 'feature'\) do not describe the 2 axes"),
        (X, {"dims": ("sample", "neuron")}, "one 'example' and one 'neuron' or 'channel'"),
        (X, {"dims": ("example", "token", "neuron")}, "do not describe the 2 axes"),
        (values(N, 2, 3), {"dims": ("example", "neuron", "channel")}, "one 'neuron' or 'channel'"),
    ],
)
def test_write__refuses_an_unexpected_shape(zoo: Zoo, activations: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidActivationsError, match=message):
        zoo.write(*NAME, activations, **options)
    assert len(zoo) == 0


@pytest.mark.parametrize(
    ("activations", "rows"),
    [
        (X[:50], "50"),
        (np.vstack([X, X]), "120"),
        (da.from_array(X[:50], chunks=20), "50"),
        (iter([X[:20], X[:30]]), "50"),
        (iter([X[:50], X[:20]]), "at least 70"),
        (iter([X, X[:1]]), "at least 61"),
        (iter([]), "0"),
        (np.float32(1), "0"),
    ],
)
def test_write__refuses_a_wrong_number_of_rows(zoo: Zoo, activations: Any, rows: str) -> None:
    with pytest.raises(MismatchedExamplesError, match=f"'net/step1/fc' has {rows} examples, its zoo has 60"):
        zoo.write(*NAME, activations)
    for reader in (zoo, dask_svcca.open_zoo(zoo.root.store_path)):
        assert NAME not in reader


@pytest.mark.parametrize("batch", [values(10, 4), values(10, 5, dtype="float64")])
def test_append__refuses_batches_that_differ(zoo: Zoo, batch: np.ndarray) -> None:
    zoo.append(*NAME, X[:10])
    with pytest.raises(InvalidActivationsError, match=r"'net/step1/fc' differ: .*\(5,\) and float32, this one"):
        zoo.append(*NAME, batch)


def test_append__goes_on_after_a_batch_that_differed(zoo: Zoo) -> None:
    zoo.append(*NAME, X[:10])
    with pytest.raises(InvalidActivationsError):
        zoo.append(*NAME, values(10, 4))
    zoo.append(*NAME, X[10:])
    np.testing.assert_array_equal(zoo[NAME], X)


def test_append__begins_anew_where_a_batch_was_written_by_half(zoo: Zoo) -> None:
    zoo.append(*NAME, X[:10])
    with (
        patch.object(zoo_module, "chunk_digest", side_effect=OSError("no space left on device")),
        pytest.raises(OSError, match="no space left"),
    ):
        zoo.append(*NAME, X[10:])
    for batch in (X[:10], X[10:]):
        zoo.append(*NAME, batch)
    np.testing.assert_array_equal(zoo[NAME], X)


def test_append__options_of_the_first_batch_hold_for_all(zoo: Zoo) -> None:
    first = values(N, 3, 4, 5)
    zoo.append(*NAME, first[:20], dims=("example", "channel", "height", "width"), step=3, dtype="float64")
    zoo.append(*NAME, first[20:])
    assert (zoo[NAME].dtype, zoo[NAME].attrs["step"]) == (np.float64, 3)
    np.testing.assert_array_equal(zoo[NAME], first.transpose(0, 2, 3, 1))


def test_append__refuses_too_many_rows(zoo: Zoo) -> None:
    zoo.append(*NAME, X[:50])
    with pytest.raises(MismatchedExamplesError, match="at least 70 examples, its zoo has 60"):
        zoo.append(*NAME, X[:20])
    assert NAME not in zoo


def test_write__refuses_a_name_that_is_there(zoo: Zoo) -> None:
    zoo.write(*NAME, X)
    for write in (zoo.write, zoo.append):
        with pytest.raises(RepresentationExistsError, match=r"'net/step1/fc' is already in the zoo .*overwrite=True"):
            write(*NAME, X + 1)
    np.testing.assert_array_equal(zoo[NAME], X)


def test_write__overwrite_replaces_everything_but_its_place_in_training(zoo: Zoo) -> None:
    zoo.write(*NAME, X, step=1, attrs={"note": "old"})
    before = digest(zoo)
    zoo.write(*NAME, values(N, 3, dtype="float64"), depth=2, overwrite=True)
    attributes = zoo.root["/".join(NAME)].attrs.asdict()
    assert "note" not in attributes
    assert (attributes["step"], attributes["depth"]) == (1, 2)
    zoo.write(*NAME, X, step=0, overwrite=True)
    (item,) = zoo.entries()
    assert (item.step, item.depth) == (0, 2)
    assert attributes["digest"] != before


@pytest.mark.parametrize("shape", [(N, 12), (N, 2, 6), (N, 2, 2, 3), (N // 2, 24)])
def test_write__other_shapes_of_the_same_values_have_other_digests(zoo: Zoo, shape: tuple[int, ...]) -> None:
    x = values(N, 6, 2)
    zoo.write(*NAME, x)
    before = digest(zoo)
    if shape[0] != N:
        zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(shape[0]))
    dims = ("example", "height", "width", "channel") if len(shape) == 4 else None
    zoo.write(*NAME, x.reshape(shape), dims=dims, overwrite=True)
    assert digest(zoo) != before


def test_write__digests_are_those_of_the_chunks_as_read(zoo: Zoo) -> None:
    with patch.object(zoo_module, "CHUNK_BYTES", 7 * X[0].nbytes):
        zoo.write(*NAME, X)
    (item,) = zoo.entries()
    assert item.chunk_examples == 7
    assert zoo.root.attrs["digest"] == "xxh3-128"
    # As any program would compute it from what zarr reads.
    chunks = [zoo[NAME].to_numpy()[start : start + 7] for start in range(0, N, 7)]
    each = [xxhash.xxh3_128_digest(f"float32 {chunk.shape}".encode() + chunk.tobytes()) for chunk in chunks]
    assert item.digest == digest(zoo) == xxhash.xxh3_128_hexdigest(b"".join(each))
    assert zoo.examples_digest == xxhash.xxh3_128_hexdigest("\0".join(map(str, range(N))).encode())


def test_write__overwrite_keeps_no_old_chunks(zoo: Zoo) -> None:
    zoo.write(*NAME, X)
    zoo.write(*NAME, values(N, 3, dtype="float64"), depth=2, overwrite=True)
    np.testing.assert_array_equal(zoo[NAME], values(N, 3, dtype="float64"))


def test_write__after_a_failure_begins_anew(zoo: Zoo) -> None:
    def breaks() -> Iterator[np.ndarray]:
        yield X[:30] + 100
        raise RuntimeError("out of power")

    with pytest.raises(RuntimeError, match="out of power"):
        zoo.write(*NAME, breaks())
    zoo.write(*NAME, iter([X[:30], X[30:]]))
    np.testing.assert_array_equal(zoo[NAME], X)


def test_zoo__says_what_was_not_finished(zoo: Zoo) -> None:
    zoo.write("net", "0", "fc", X)
    zoo.append(*NAME, X[:35])
    with (
        pytest.raises(IncompleteRepresentationError, match=r"1 .* begun and not finished, .* with 35 of 60 examples"),
        zoo,
    ):
        pass
    for reader in (zoo, dask_svcca.open_zoo(zoo.root.store_path)):
        reader.refresh()
        assert list(reader.representations.index) == ["net/0/fc"]
        assert reader.unfinished == ["net/step1/fc"]
        with pytest.raises(IncompleteRepresentationError, match="'net/step1/fc' was begun and never finished"):
            reader[NAME]


def test_zoo__does_not_hide_the_error_that_left_it_unfinished(zoo: Zoo) -> None:
    zoo.append(*NAME, X[:35])
    with pytest.raises(KeyboardInterrupt), zoo:
        raise KeyboardInterrupt


def test_zoo__opened_for_reading_is_not_written(zoo: Zoo) -> None:
    reader = dask_svcca.open_zoo(zoo.root.store_path)
    with pytest.raises(StoreFormatError, match=r"opened for reading; use open_zoo\(store, mode='r\+'\)"):
        reader.write(*NAME, X)
    dask_svcca.open_zoo(zoo.root.store_path, mode="r+").write(*NAME, X)
    reader.refresh()
    assert NAME in reader


# Which examples.


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ([1], InvalidActivationsError, "at least two examples to compare anything; got 1"),
        ([], InvalidActivationsError, "got"),
        ([1.0, 2.0], InvalidActivationsError, "ids, an integer or text for each; got an array of .* float64"),
        (
            [[1, 2], [3, 4]],
            InvalidActivationsError,
            r"ids, an integer or text for each; got an array of shape \(2, 2\)",
        ),
        (["a", "b", "a"], MismatchedExamplesError, "must be unique; 'a' occurs 2 times"),
    ],
)
def test_create_zoo__refuses_bad_ids(tmp_path: Path, examples: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=examples)
    assert not (tmp_path / "zoo.zarr").exists()


def test_create_zoo__refuses_coordinates_of_other_examples(tmp_path: Path) -> None:
    with pytest.raises(MismatchedExamplesError, match=r"coordinate 'label' has shape \(7,\); there are 60 examples"):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N), coords={"label": np.arange(7)})


def test_create_zoo__names_of_coordinates_are_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'example' holds the ids"):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N), coords={"example": np.arange(N)})
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N), coords={"label": np.arange(N)})
    for model in ("example", "label"):
        with pytest.raises(ValueError, match=f"a model cannot be called '{model}': a coordinate"):
            zoo.write(model, "1", "fc", X)


def test_create_zoo__does_not_replace_a_zoo(zoo: Zoo, tmp_path: Path) -> None:
    zoo.write(*NAME, X)
    with pytest.raises(StoreFormatError, match=r"there is a zoo at .* already; open it with open_zoo"):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N))
    assert NAME in dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N), exist_ok=True)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (range(1, N + 1), r"60 examples \(digest \w{8}\), these are 60 "),
        (range(N - 1), r"60 examples \(digest \w{8}\), these are 59 "),
        (range(N - 1, -1, -1), "the same 60 examples in another order: open it with open_zoo"),
    ],
)
def test_create_zoo__does_not_mix_examples(zoo: Zoo, tmp_path: Path, examples: range, message: str) -> None:
    with pytest.raises(MismatchedExamplesError, match=message):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=examples, exist_ok=True)


# What is not a zoo.


def test_open_zoo__refuses_a_newer_format(zoo: Zoo, tmp_path: Path) -> None:
    zoo.root.update_attributes({"format_version": 4})
    with pytest.raises(StoreFormatError, match=r"has format version 4; this dask-svcca reads up to 3\. Upgrade"):
        dask_svcca.open_zoo(tmp_path / "zoo.zarr")
    with pytest.raises(StoreFormatError, match="has format version 4"):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N), exist_ok=True)


def test_open_zoo__refuses_an_older_format(zoo: Zoo, tmp_path: Path) -> None:
    zoo.root.update_attributes({"format_version": 2})
    message = r"format version 2, which an older .* reads version 3 only\. Make the zoo anew .* or use the older"
    with pytest.raises(StoreFormatError, match=message):
        dask_svcca.open_zoo(tmp_path / "zoo.zarr")
    with pytest.raises(StoreFormatError, match=message):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N), exist_ok=True)


def nothing(path: Path) -> None:
    """Not even a folder."""


def file(path: Path) -> None:
    path.write_text("not a folder")


def array(path: Path) -> None:
    zarr.create_array(path, shape=(3,), dtype="float32")


def dataset(path: Path) -> None:
    xr.Dataset({"x": ("time", np.arange(3.0))}).to_zarr(path, consolidated=False)


def other(path: Path) -> None:
    zarr.create_group(path, attributes={"format": "something-else"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing, "no zoo at .*: there is no zarr v3 group. Is the path right"),
        (file, "no zoo at .*: there is no zarr v3 group"),
        (array, "no zoo at .*: there is no zarr v3 group"),
        (dataset, "is not a zoo of dask-svcca: it has no 'format' attribute"),
        (other, "is not a zoo of dask-svcca: it says format 'something-else'"),
    ],
)
def test_open_zoo__says_what_is_there_instead(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "store")
    with pytest.raises(StoreFormatError, match=message):
        dask_svcca.open_zoo(tmp_path / "store")


@pytest.mark.parametrize("make", [file, array, dataset, other])
@pytest.mark.parametrize("exist_ok", [False, True])
def test_create_zoo__touches_nothing_that_is_not_a_zoo(tmp_path: Path, make: Any, exist_ok: bool) -> None:
    make(tmp_path / "store")
    before = {path: path.read_bytes() for path in [tmp_path / "store", *tmp_path.rglob("*")] if path.is_file()}
    with pytest.raises(StoreFormatError):
        dask_svcca.create_zoo(tmp_path / "store", examples=range(N), exist_ok=exist_ok)
    assert {path: path.read_bytes() for path in before} == before


# In another precision.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_write__in_another_precision(tmp_path: Path, dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=(50, 7)).astype("float32")
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(50)) as zoo:
        zoo.write("m", "c", "whole", x, dtype=dtype)
        zoo.write("m", "c", "batches", (x[start : start + 9] for start in range(0, 50, 9)), dtype=dtype)
    for layer in ("whole", "batches"):
        stored = zoo["m", "c", layer].to_numpy()
        assert stored.dtype == dtype
        np.testing.assert_allclose(stored, x, rtol=5e-4 if dtype == "float16" else 0)


def test_write__half_precision_moves_similarities_as_little_as_stated(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(size=(400, 30)) * np.arange(1, 31) ** -0.8
    found = {}
    for dtype in ("float32", "float16"):
        with dask_svcca.create_zoo(tmp_path / f"{dtype}.zarr", examples=range(400)) as zoo:
            for step in range(4):
                noise = np.random.default_rng(step).normal(size=(400, 30)) * np.arange(1, 31) ** -0.8
                zoo.write("m", str(step), "l", (common + 0.5 * noise).astype("float32"), step=step, dtype=dtype)
        found[dtype] = dask_svcca.compare(zoo, tmp_path / f"{dtype}-c.zarr", measures=("svcca", "cka"))
    for measure in ("svcca", "cka"):
        np.testing.assert_allclose(found["float16"][measure], found["float32"][measure], atol=FLOAT16_ERROR)


def test_write__refuses_values_that_a_precision_does_not_reach(tmp_path: Path) -> None:
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(3))
    with pytest.raises(InvalidActivationsError, match=r"as large as 7e\+04, and float16 reaches 6.55e\+04; choose"):
        zoo.write("m", "c", "l", np.array([[1.0], [-7e4], [2.0]]), dtype="float16")
    with pytest.raises(ValueError, match="dtype is one of 'float16', 'float32', 'float64'; got 'int8'"):
        zoo.write("m", "c", "l", np.ones((3, 1)), dtype="int8")  # type: ignore[arg-type]
