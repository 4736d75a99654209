"""Arrays chunked along their first axis, and groups, written without zarr's bookkeeping where the store is local.

Creating one small array through zarr takes about five milliseconds, filling it two more: a hundred times what the file
system needs, and most of the time of a zoo of small layers. What is written here is plain zarr v3, by its
specification; the tests read it back through zarr. Any other store is written through zarr.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import zarr

from dask_svcca.stores._documents import CRC_BYTES, Compression, array_document, crc, group_document, is_whole
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.stores.backend import Backend


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
        if compression not in get_args(Compression):
            choices = ", ".join(map(repr, get_args(Compression)))
            raise ValueError(f"compression is one of {choices}; got {compression!r}")
        self._compression = compression
        self._order = tuple(reversed(range(len(shape)))) if column_major else None
        self._backend, self._path = backend_of(root), path
        if exist_ok:
            return
        if replace:
            self._backend.remove(path)
        document = array_document(
            shape=shape,
            chunk_shape=self._chunk_shape,
            dtype=dtype.name,
            fill=fill,
            dims=dims,
            compression=compression,
            order=self._order,
        )
        self._backend.write(f"{path}/zarr.json", document)

    @property
    def _chunk_shape(self) -> tuple[int, ...]:
        return (self.rows, *self.shape[1:])

    def write(self, chunk: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Write one chunk; the last may be shorter. Returns it as it is stored, before compression."""
        data = self.stored(values)
        key, parts = self.item(chunk, data)
        self._backend.write(key, *parts)
        return data

    def stored(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One chunk as it is stored, before compression."""
        whole = values.astype(self.dtype, copy=False)
        if len(values) < self.rows:
            # In the order in which it is stored: otherwise it would be copied once more.
            whole = np.zeros(self._chunk_shape, dtype=self.dtype, order="C" if self._order is None else "F")
            whole[: len(values)] = values
        return np.ascontiguousarray(whole if self._order is None else whole.transpose(self._order))

    def item(self, chunk: int, stored: npt.NDArray[Any]) -> tuple[str, tuple[memoryview, bytes]]:
        """Key and bytes of one chunk, with its checksum."""
        encoded = self._encode(stored)
        return self._key(chunk), (encoded, crc(encoded))

    def read(self, chunk: int) -> npt.NDArray[Any]:
        """Read back one chunk of an uncompressed array."""
        count = min(self.rows, self.shape[0] - chunk * self.rows)
        shape = self._chunk_shape
        stored = read_numbers(self._backend, self._key(chunk), math.prod(shape), self.dtype)
        if self._order is None:
            return stored.reshape(shape)[:count]
        return stored.reshape([shape[axis] for axis in self._order]).transpose(self._order)[:count]

    def _key(self, chunk: int) -> str:
        return chunk_key(self._path, chunk, len(self.shape))

    @cached_property
    def _codec(self) -> Any:
        if self._compression == "lz4":
            return numcodecs.blosc.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.blosc.SHUFFLE)
        return numcodecs.zstd.Zstd(level=1, checksum=True)

    def _encode(self, data: npt.NDArray[Any]) -> memoryview:
        if self._compression == "none":
            return data.data.cast("B")
        return memoryview(self._codec.encode(data)).cast("B")


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
        self._backend, self._path = backend_of(root), path
        self._crc = False
        self._begun: dict[int, Callable[[], bytes | None]] = {}
        metadata = _plain_metadata(self._backend.read(f"{path}/zarr.json"))
        if metadata is None:
            self._array = zarr.open_array(root.store, path=f"{root.path}/{path}".lstrip("/"), mode="r")
            self.shape, self.rows, self.dtype = self._array.shape, self._array.chunks[0], self._array.dtype
            return
        self.shape, self._chunk_shape = (
            tuple(metadata["shape"]),
            tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]),
        )
        self.rows, self.dtype = self._chunk_shape[0], np.dtype(metadata["data_type"])
        names = [codec["name"] for codec in metadata["codecs"]]
        self._crc = names[-1] == "crc32c"
        if "blosc" in names:
            self._codec = numcodecs.blosc.Blosc()
        elif "zstd" in names:
            self._codec = numcodecs.zstd.Zstd()

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.shape[0] // self.rows)

    def read(self, chunk: int, *, check: bool = False, ahead: bool = False) -> npt.NDArray[Any]:
        """Read one chunk; the last may be shorter.

        Parameters
        ----------
        chunk : int
        ahead : bool
            Whether the next chunk is read next: a store elsewhere is asked for it now.
        check : bool
            Whether to verify the checksum of a chunk that is not compressed; that of a compressed one always is, since
            what decompresses trusts it. Without, the caller compares a digest of the values with the zoo's.

        Raises
        ------
        OSError
            Where it is missing, or is not what was written.
        """
        count = min(self.rows, self.shape[0] - chunk * self.rows)
        if self._array is not None:
            return np.asarray(self._array[chunk * self.rows : chunk * self.rows + count])
        wait = self._begun.pop(chunk, None) or self._begin(chunk)
        if ahead:
            self._begun = {chunk + 1: self._begin(chunk + 1)}
        data = wait()
        del wait
        if data is None:
            raise OSError(f"chunk {chunk} of {self.chunks} is missing from the store")
        if self._crc and (check or self._codec is not None) and not is_whole(data):
            raise OSError(f"chunk {chunk} of {self.chunks} is not what was written")
        decoded = memoryview(data)[:-CRC_BYTES] if self._crc else memoryview(data)
        if self._codec is not None:
            decoded = self._codec.decode(decoded)
        del data
        whole = np.frombuffer(decoded, dtype=self.dtype).reshape(self._chunk_shape)
        # A view of a part would keep all of a chunk that is filled up behind the last row.
        return whole if count == self.rows else whole[:count].copy()

    def _begin(self, chunk: int) -> Callable[[], bytes | None]:
        return self._backend.begin(chunk_key(self._path, chunk, len(self.shape)))


def chunk_key(path: str, chunk: int, axes: int) -> str:
    """Key of a chunk of an array that is chunked along its first axis only."""
    return "/".join([path, "c", str(chunk), *["0"] * (axes - 1)])


def _plain_metadata(document: bytes) -> dict[str, Any] | None:
    """Metadata of an array, if it is stored as `ChunkedArray` would store it, row-major; None otherwise."""
    metadata: dict[str, Any] = json.loads(document)
    names = [codec["name"] for codec in metadata["codecs"]]
    # Those that others write may have no checksum.
    codecs = names[:-1] if names[-1] == "crc32c" else names
    little = metadata["codecs"][0].get("configuration", {}).get("endian", "little") == "little"
    key = metadata["chunk_key_encoding"]
    grid = metadata["chunk_grid"]
    plain = (
        codecs in (["bytes"], ["bytes", "blosc"], ["bytes", "zstd"])
        and little
        and key == {"name": "default", "configuration": {"separator": "/"}}
        and grid["name"] == "regular"
        and grid["configuration"]["chunk_shape"][1:] == metadata["shape"][1:]
        and metadata["data_type"] in {"float16", "float32", "float64"}
    )
    return metadata if plain else None


def joined_items(
    path: str, parts: Sequence[npt.NDArray[Any]], dim: str, *, fill: float = 0
) -> Iterator[tuple[str, tuple[bytes | memoryview, ...]]]:
    """Keys and bytes of an array of one axis, from its parts, that is stored whole, as one uncompressed chunk.

    Parameters
    ----------
    path : str
    parts : sequence of (number,) arrays
        Of one type, at least one number together, one part behind the other.
    dim : str
    fill : float
        What it reads as through zarr where the chunk is missing.
    """
    size, dtype = sum(map(len, parts)), parts[0].dtype.name
    document = array_document(shape=(size,), chunk_shape=(size,), dtype=dtype, fill=fill, dims=[dim])
    yield f"{path}/zarr.json", (document,)
    data = [part.data.cast("B") for part in parts]
    yield chunk_key(path, 0, 1), (*data, crc(*data))


def read_numbers(backend: Backend, key: str, count: int, dtype: np.dtype[Any], *, start: int = 0) -> npt.NDArray[Any]:
    """Consecutive numbers of an uncompressed chunk, from that at a position on."""
    numbers = np.empty(count, dtype)
    if count:
        backend.read_ranges({key: [(start * dtype.itemsize, numbers.data.cast("B"))]})
    return numbers


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
    backend = backend_of(root)
    if clear:
        backend.remove(path)
    parts = path.split("/")
    above = ["/".join(parts[:count]) + "/zarr.json" for count in range(1, len(parts))]
    there = backend.read_many(above)
    for key, document in zip(above, there, strict=True):
        if document is None:
            backend.write(key, group_document({}))
    backend.write(f"{path}/zarr.json", group_document(attributes))


def remove_group(root: zarr.Group, path: str) -> None:
    """Remove a group and all that is in it."""
    backend_of(root).remove(path)


def move_group(root: zarr.Group, path: str, target: str, attributes: Mapping[str, Any]) -> None:
    """Move a group to another place below the same root, where an unfinished one may be, and give it other attributes.

    Whenever it is interrupted, the group is whole in at least one of the two places.
    """
    write_group(root, target, {"complete": False}, clear=True)
    backend_of(root).move(path, target)
    write_group(root, target, attributes)


def copy_array(root: zarr.Group, path: str, target: str) -> None:
    """Copy an array to another place below the same root, where another may be, byte by byte.

    Where the file system can, both places share their files, until one is removed.
    """
    backend = backend_of(root)
    backend.remove(target)
    backend.copy(path, target)
