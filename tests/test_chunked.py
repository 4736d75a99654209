"""Arrays written past zarr are plain zarr v3: zarr reads them back, and they are never there by half."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from dask_svcca.stores import _chunked
from dask_svcca.stores._documents import unsealed
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> zarr.Group:
    return zarr.create_group(tmp_path / "store.zarr" if request.param == "local" else MemoryStore())


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    imaginary = 1j * rng.normal(size=shape) if np.dtype(dtype).kind == "c" else 0
    return (rng.normal(size=shape) + imaginary).astype(dtype)


@pytest.mark.parametrize("column_major", [False, True])
@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128", "int64"])
def test_chunked_array__is_read_by_zarr(root: zarr.Group, dtype: str, compression: Any, column_major: bool) -> None:
    x = values((23, 4, 3), dtype)
    array = _chunked.ChunkedArray(
        root,
        "some/where/x",
        shape=x.shape,
        rows=10,
        dtype=x.dtype,
        dims=("example", "width", "channel"),
        compression=compression,
        column_major=column_major,
    )
    for chunk, start in enumerate(range(0, 23, 10)):
        array.write(chunk, x[start : start + 10])
    found = zarr.open_array(root.store, path="some/where/x", mode="r")
    assert (found.dtype, found.chunks) == (x.dtype, (10, 4, 3))
    assert found.metadata.dimension_names == ("example", "width", "channel")
    np.testing.assert_array_equal(found[...], x)
    assert found.nchunks_initialized == 3


def test_chunked_array__chunks_of_zeros_are_there(root: zarr.Group) -> None:
    array = _chunked.ChunkedArray(root, "x", shape=(20, 3), rows=10, dtype=np.dtype("float32"), dims=("a", "b"))
    array.write(1, np.zeros((10, 3), dtype="float32"))
    assert zarr.open_array(root.store, path="x", mode="r").nchunks_initialized == 1


@pytest.mark.parametrize("column_major", [False, True])
def test_chunked_array__reads_back(root: zarr.Group, column_major: bool) -> None:
    x = values((23, 4), "float32")
    array = _chunked.ChunkedArray(
        root, "x", shape=x.shape, rows=10, dtype=x.dtype, dims=("a", "b"), column_major=column_major
    )
    for chunk, start in enumerate(range(0, 23, 10)):
        array.write(chunk, x[start : start + 10])
        np.testing.assert_array_equal(array.read(chunk), x[start : start + 10])


def test_chunked_array__replaces_what_was_there(root: zarr.Group) -> None:
    for length in (20, 10):
        array = _chunked.ChunkedArray(root, "x", shape=(length, 2), rows=5, dtype=np.dtype("float32"), dims=("a", "b"))
    array.write(0, np.ones((5, 2), dtype="float32"))
    found = zarr.open_array(root.store, path="x", mode="r")
    assert found.shape == (10, 2)
    assert found.nchunks_initialized == 1


def test_joined_items__are_read_by_zarr(root: zarr.Group) -> None:
    parts = [values((5,), "float64"), np.empty(0), values((3,), "float64")]
    backend_of(root).write_many(_chunked.joined_items("group/x", parts, "number"))
    np.testing.assert_array_equal(zarr.open_array(root.store, path="group/x", mode="r")[...], np.concatenate(parts))


def test_write_group__replaces_attributes_and_keeps_or_clears_the_rest(root: zarr.Group) -> None:
    _chunked.write_group(root, "a/b/c", {"x": 1, "y": 2})
    backend_of(root).write_many(_chunked.joined_items("a/b/c/array", [np.ones(3)], "axis"))
    _chunked.write_group(root, "a/b/c", {"x": 3})
    again = zarr.open_group(root.store, mode="r")
    assert unsealed(again["a/b/c"].attrs.asdict()) == {"x": 3}
    assert list(again["a/b/c"].array_keys()) == ["array"]
    # The groups above are there too, so that zarr can walk down to it.
    assert list(again.group_keys()) == ["a"]
    _chunked.write_group(root, "a/b/c", {}, clear=True)
    again = zarr.open_group(root.store, mode="r")
    assert unsealed(again["a/b/c"].attrs.asdict()) == {}
    assert list(again["a/b/c"].array_keys()) == []


# Reading activations: straight from files where they are as ours, else through zarr.


def read_all(reader: _chunked.ChunkReader) -> np.ndarray:
    return np.concatenate([reader.read(chunk) for chunk in range(reader.chunks)])


@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_chunk_reader__reads_what_we_write(root: zarr.Group, dtype: str, compression: Any) -> None:
    x = values((23, 4, 3), dtype)
    dims = ("example", "token", "neuron")
    array = _chunked.ChunkedArray(
        root, "a/x", shape=x.shape, rows=10, dtype=x.dtype, dims=dims, compression=compression
    )
    for chunk, start in enumerate(range(0, 23, 10)):
        array.write(chunk, x[start : start + 10])
    reader = _chunked.ChunkReader(root, "a/x")
    assert (reader.shape, reader.rows, reader.dtype, reader.chunks) == (x.shape, 10, x.dtype, 3)
    np.testing.assert_array_equal(read_all(reader), x)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compressors": zarr.codecs.GzipCodec()},
        {"compressors": [zarr.codecs.BloscCodec(cname="zstd"), zarr.codecs.Crc32cCodec()]},
        {"compressors": zarr.codecs.BloscCodec(cname="zlib", shuffle="bitshuffle")},
        {"filters": zarr.codecs.TransposeCodec(order=(1, 0))},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"shards": (20, 4)},
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
    ],
    ids=["zstd", "gzip", "blosc with checksums", "bits shuffled", "transposed", "big-endian", "shards", "keys"],
)
def test_chunk_reader__reads_what_others_write(root: zarr.Group, options: Any) -> None:
    x = values((23, 4), "float32")
    root.create_array("x", shape=x.shape, chunks=(10, 4), dtype=x.dtype, **options)[...] = x
    np.testing.assert_array_equal(read_all(_chunked.ChunkReader(root, "x")), x)


def test_chunk_reader__a_chunk_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "store.zarr")
    array = _chunked.ChunkedArray(root, "x", shape=(20, 3), rows=10, dtype=np.dtype("float32"), dims=("a", "b"))
    array.write(1, np.ones((10, 3), dtype="float32"))
    reader = _chunked.ChunkReader(root, "x")
    np.testing.assert_array_equal(reader.read(1), 1)
    with pytest.raises(OSError, match="chunk 0 of 2 is missing from the store"):
        reader.read(0)


def test_chunk_reader__takes_the_zarrs_pipeline_where_zarr_reads(tmp_path: Path) -> None:
    pytest.importorskip("zarrs", reason="needs the extra 'zarrs'")
    root = zarr.create_group(tmp_path)
    values = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    # Not among the codecs that are read from files without zarr.
    array = root.create_array(
        "x", shape=values.shape, chunks=(7, 4), dtype="float32", compressors=zarr.codecs.GzipCodec()
    )
    array[...] = values
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        reader = _chunked.ChunkReader(zarr.open_group(tmp_path, mode="r"), "x")
        found = np.concatenate([reader.read(chunk) for chunk in range(reader.chunks)])
    np.testing.assert_array_equal(found, values)
