"""Arrays chunked along their first axis, and groups, written without zarr's bookkeeping where the store is local.

Creating one small array through zarr takes about five milliseconds, filling it two more: a hundred times what the file
system needs, and most of the time of a zoo of small layers. What is written here is plain zarr v3, by its
specification; the tests read it back through zarr. Any other store is written through zarr.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import zarr
import zarr.codecs
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from dask_svcca.stores import _io

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

Compression: TypeAlias = Literal["lz4", "zstd", "none"]


class ChunkedArray:
    """An array to be written, chunked along its first axis only; each chunk whole, by one writer.

    Parameters
    ----------
    root : zarr.Group
    path : str
        Path below the root; an array that is there is replaced.
    shape : tuple of int
    rows : int
        Rows in a chunk.
    dtype : numpy.dtype
    dims : sequence of str
    compression : {"lz4", "zstd", "none"}
    column_major : bool
        Store a chunk column by column, so that the bytes of consecutive columns are consecutive.
    replace : bool
        Remove what is there first. Without, files are overwritten one by one, each whole: for arrays that two tasks may
        write at the same time, with the same values.
    fill : float
        What a chunk that is missing reads as through zarr.
    exist_ok : bool
        Write to the array that is there, made by the same call.
    """

    def __init__(
        self,
        root: zarr.Group,
        path: str,
        *,
        shape: tuple[int, ...],
        rows: int,
        dtype: np.dtype[Any],
        dims: Sequence[str],
        compression: Compression = "none",
        column_major: bool = False,
        replace: bool = True,
        fill: float = 0,
        exist_ok: bool = False,
    ) -> None:
        self.shape, self.rows, self.dtype = shape, rows, dtype
        self._compression, self._fill = compression, fill
        self._compressors = _compressors(compression)
        self._order = tuple(reversed(range(len(shape)))) if column_major else None
        local = _io.directory(root)
        self._directory = None if local is None else local / path
        self._array: zarr.Array[Any] | None = None
        if self._directory is None and exist_ok:
            opened = zarr.open_array(root.store, path=f"{root.path}/{path}".lstrip("/"), mode="r+")
            self._array = opened.with_config({"write_empty_chunks": True})
            return
        if self._directory is None:
            self._array = root.create_array(
                path,
                shape=shape,
                dtype=dtype,
                chunks=self._chunk_shape,
                filters=[zarr.codecs.TransposeCodec(order=self._order)] if self._order else "auto",
                compressors=self._compressors,
                fill_value=fill,
                dimension_names=dims,
                overwrite=True,
            ).with_config({"write_empty_chunks": True})
            return
        if exist_ok:
            return
        if replace and self._directory.exists():
            shutil.rmtree(self._directory)
        _write(self._directory / "zarr.json", json.dumps(self._metadata(dims)).encode())

    @property
    def _chunk_shape(self) -> tuple[int, ...]:
        return (self.rows, *self.shape[1:])

    def write(self, chunk: int, values: npt.NDArray[Any]) -> None:
        """Write one chunk; the last may be shorter."""
        if self._array is not None:
            # A store in memory keeps the array that it is given, and the caller may overwrite that.
            self._array[chunk * self.rows : chunk * self.rows + len(values)] = values.copy()
            return
        whole = values.astype(self.dtype, copy=False)
        if len(values) < self.rows:
            # In the order in which it is stored: otherwise it would be copied once more.
            whole = np.zeros(self._chunk_shape, dtype=self.dtype, order="C" if self._order is None else "F")
            whole[: len(values)] = values
        data = np.ascontiguousarray(whole if self._order is None else whole.transpose(self._order))
        _write(self._file(chunk), self._encode(data))

    def read(self, chunk: int) -> npt.NDArray[Any]:
        """Read back one chunk of an uncompressed array."""
        count = min(self.rows, self.shape[0] - chunk * self.rows)
        if self._array is not None:
            return np.asarray(self._array[chunk * self.rows : chunk * self.rows + count])
        stored = np.fromfile(self._file(chunk), dtype=self.dtype)
        shape = self._chunk_shape
        if self._order is None:
            return stored.reshape(shape)[:count]
        return stored.reshape([shape[axis] for axis in self._order]).transpose(self._order)[:count]

    def _file(self, chunk: int) -> Path:
        if self._directory is None:
            raise RuntimeError("only an array in a local store has files")
        return self._directory.joinpath("c", str(chunk), *["0"] * (len(self.shape) - 1))

    @cached_property
    def _codec(self) -> Any:
        if self._compression == "lz4":
            return numcodecs.blosc.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.blosc.SHUFFLE)
        return numcodecs.zstd.Zstd(level=1, checksum=True)

    def _encode(self, data: npt.NDArray[Any]) -> memoryview:
        if self._compression == "none":
            return data.data.cast("B")
        return memoryview(self._codec.encode(data)).cast("B")

    def _metadata(self, dims: Sequence[str]) -> dict[str, Any]:
        codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
        if self._order is not None:
            codecs.insert(0, {"name": "transpose", "configuration": {"order": list(self._order)}})
        codecs += [codec.to_dict() for codec in self._compressors or []]
        for codec in codecs:
            if codec["name"] == "blosc":
                codec["configuration"]["typesize"] = self.dtype.itemsize
        # JSON has no NaN; zarr writes it as text.
        fill = "NaN" if math.isnan(self._fill) else float(self._fill) if self.dtype.kind == "c" else self._fill
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self._chunk_shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": [fill, fill] if self.dtype.kind == "c" else fill,
            "codecs": codecs,
            "attributes": {},
            "dimension_names": list(dims),
            "storage_transformers": [],
        }


class ChunkReader:
    """Reads an array chunked along its first axis only, chunk by chunk, whoever wrote it.

    Where the store is local and the codecs are those of `ChunkedArray`, files are read directly: a small array takes a
    twentieth of the time that zarr takes, a large one half. A missing chunk is an error, not a chunk of fill values.

    Attributes
    ----------
    shape : tuple of int
    rows : int
        Rows in a chunk.
    dtype : numpy.dtype
    """

    def __init__(self, root: zarr.Group, path: str) -> None:
        self._array: zarr.Array[Any] | None = None
        self._codec: Any = None
        local = _io.directory(root)
        metadata = None if local is None else _plain_metadata(local / path / "zarr.json")
        if local is None or metadata is None:
            self._array = zarr.open_array(root.store, path=f"{root.path}/{path}".lstrip("/"), mode="r")
            self.shape, self.rows, self.dtype = self._array.shape, self._array.chunks[0], self._array.dtype
            return
        self._directory = local / path / "c"
        self.shape, self._chunk_shape = (
            tuple(metadata["shape"]),
            tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]),
        )
        self.rows, self.dtype = self._chunk_shape[0], np.dtype(metadata["data_type"])
        names = [codec["name"] for codec in metadata["codecs"]]
        if names[-1] == "blosc":
            self._codec = numcodecs.blosc.Blosc()
        elif names[-1] == "zstd":
            self._codec = numcodecs.zstd.Zstd()

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.shape[0] // self.rows)

    def read(self, chunk: int) -> npt.NDArray[Any]:
        """Read one chunk; the last may be shorter."""
        count = min(self.rows, self.shape[0] - chunk * self.rows)
        if self._array is not None:
            return np.asarray(self._array[chunk * self.rows : chunk * self.rows + count])
        try:
            data = self._directory.joinpath(str(chunk), *["0"] * (len(self.shape) - 1)).read_bytes()
        except FileNotFoundError:
            raise OSError(f"chunk {chunk} of {self.chunks} is missing from the store") from None
        decoded = data if self._codec is None else self._codec.decode(data)
        del data
        whole = np.frombuffer(decoded, dtype=self.dtype).reshape(self._chunk_shape)
        # A view of a part would keep all of a chunk that is filled up behind the last row.
        return whole if count == self.rows else whole[:count].copy()


def _plain_metadata(file: Path) -> dict[str, Any] | None:
    """Metadata of an array, if it is stored as `ChunkedArray` would store it, row-major; None otherwise."""
    metadata: dict[str, Any] = json.loads(file.read_bytes())
    names = [codec["name"] for codec in metadata["codecs"]]
    little = metadata["codecs"][0].get("configuration", {}).get("endian", "little") == "little"
    key = metadata["chunk_key_encoding"]
    grid = metadata["chunk_grid"]
    plain = (
        names in (["bytes"], ["bytes", "blosc"], ["bytes", "zstd"])
        and little
        and key == {"name": "default", "configuration": {"separator": "/"}}
        and grid["name"] == "regular"
        and grid["configuration"]["chunk_shape"][1:] == metadata["shape"][1:]
        and metadata["data_type"] in {"float16", "float32", "float64"}
    )
    return metadata if plain else None


def write_array(
    root: zarr.Group, path: str, values: npt.NDArray[Any], dims: Sequence[str], *, replace: bool = True, fill: float = 0
) -> None:
    """Write a small array whole, as one uncompressed chunk; ``replace`` and ``fill`` as for `ChunkedArray`.

    An axis may be empty, such as the neurons of loadings that were not computed.
    """
    array = ChunkedArray(
        root,
        path,
        shape=values.shape,
        rows=max(1, len(values)),
        dtype=values.dtype,
        dims=dims,
        replace=replace,
        fill=fill,
    )
    if values.size:
        array.write(0, values)


def read_array(root: zarr.Group, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Read back what `write_array` wrote."""
    local = _io.directory(root)
    if local is None:
        return np.asarray(zarr.open_array(root.store, path=f"{root.path}/{path}".lstrip("/"), mode="r")[...])
    return np.fromfile(local.joinpath(path, "c", *["0"] * len(shape)), dtype=dtype).reshape(shape)


def write_group(root: zarr.Group, path: str, attributes: Mapping[str, Any], *, clear: bool = False) -> None:
    """Write a group with all its attributes, and the groups above it that are missing.

    Parameters
    ----------
    root : zarr.Group
    path : str
    attributes : mapping
        JSON values; what was there is replaced.
    clear : bool
        Remove everything below the group first.
    """
    local = _io.directory(root)
    if local is None:
        full = f"{root.path}/{path}".lstrip("/")
        if clear:
            root.create_group(path, overwrite=True)
        group = zarr.open_group(root.store, path=full, mode="a")
        group.attrs.put(dict(attributes))
        return
    folder = local / path
    if clear and folder.exists():
        shutil.rmtree(folder)
    for parent in reversed(folder.relative_to(local).parents[:-1]):
        if not (local / parent / "zarr.json").exists():
            _write(local / parent / "zarr.json", _group_document({}))
    _write(folder / "zarr.json", _group_document(attributes))


def remove_group(root: zarr.Group, path: str) -> None:
    """Remove a group and all that is in it."""
    local = _io.directory(root)
    if local is None:
        del root[path]
    else:
        shutil.rmtree(local / path)


def move_group(root: zarr.Group, path: str, target: str, attributes: Mapping[str, Any]) -> None:
    """Move a group to another place below the same root, where an unfinished one may be, and give it other attributes.

    Whenever it is interrupted, the group is whole in at least one of the two places.
    """
    write_group(root, target, {"complete": False}, clear=True)
    local = _io.directory(root)
    if local is None:
        _copy_below(root, path, target, but="zarr.json")
        write_group(root, target, attributes)
        write_group(root, path, {"complete": False})
        del root[path]
        return
    shutil.rmtree(local / target)
    (local / path).rename(local / target)
    write_group(root, target, attributes)


def copy_array(root: zarr.Group, path: str, target: str) -> None:
    """Copy an array to another place below the same root, where another may be, byte by byte.

    Where the file system can, both places share their files, until one is removed.
    """
    local = _io.directory(root)
    if local is not None:
        if (local / target).exists():
            shutil.rmtree(local / target)
        shutil.copytree(local / path, local / target, copy_function=_link)
        return
    if target in root:
        del root[target]
    _copy_below(root, path, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _copy_below(root: zarr.Group, path: str, target: str, *, but: str = "") -> None:
    """Copy all below a group or array, but one file of its own, byte by byte."""
    store = root.store
    before, after = (f"{root.path}/{place}/".lstrip("/") for place in (path, target))

    async def copy() -> None:
        async for key in store.list_prefix(before):
            if key != f"{before}{but}":
                value = await store.get(key, default_buffer_prototype())
                if value is not None:
                    await store.set(f"{after}{key.removeprefix(before)}", value)

    sync(copy())


def _group_document(attributes: Mapping[str, Any]) -> bytes:
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}).encode()


def _compressors(compression: Compression) -> list[zarr.codecs.BloscCodec | zarr.codecs.ZstdCodec] | None:
    if compression not in get_args(Compression):
        raise ValueError(f"compression is one of {', '.join(map(repr, get_args(Compression)))}; got {compression!r}")
    if compression == "none":
        return None
    if compression == "zstd":
        return [zarr.codecs.ZstdCodec(level=1, checksum=True)]
    return [zarr.codecs.BloscCodec(typesize=1, cname="lz4", clevel=5, shuffle="shuffle")]


def _write(file: Path, data: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        target = partial.open("xb")
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        target = partial.open("xb")
    with target:
        target.write(data)
    partial.replace(file)
