"""Arrays along pairs, block by block: read and written as they lie in the store, many at a time.

A block is what one task writes: a chunk of a matrix, and a chunk, or a few, of what has further axes. Matrices are not
compressed, unless most of their pairs have no value or share a few, so that the size of a file shows that all of it is
there; of a compressed chunk, its head says the size.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numcodecs.blosc
import numpy as np

from dask_svcca.errors import DamagedStoreError, StoreAccessError
from dask_svcca.stores._access import ABSENT, accessing
from dask_svcca.stores._documents import CRC_BYTES, array_document, crc, is_whole
from dask_svcca.stores._ranges import ShortFileError
from dask_svcca.stores._stored import damaged, stored
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.stores.backend import Backend
    from dask_svcca.variables import Variable

    Block = tuple[int, int]
    Place = tuple[slice, slice]
    Parts = tuple[bytes | memoryview, ...]

_CHUNK = re.compile(r"\d+(/\d+)+$")
"""Key of a chunk, below ``c``; file managers leave other files."""

AXES = ("representation_a", "representation_b")

AHEAD = 32
"""Blocks that are requested at a time, where a store is elsewhere."""

HEAD = 16
"""Bytes of the head of a chunk that Blosc compressed; its own size is in the last four."""


class BlockArray:
    """One array along pairs.

    Parameters
    ----------
    root : zarr.Group
        The comparison.
    name : str
    document : bytes or None
        Its metadata, as stored.
    tile : int, optional
        See `check_stored`.

    Raises
    ------
    DamagedStoreError
        Where its metadata is damaged, or not as it is declared.
    """

    def __init__(self, root: zarr.Group, name: str, document: bytes | None, tile: int | None = None) -> None:
        found = stored(document, name, root, tile)
        if found is None:
            raise damaged(root, f"{name}/zarr.json")
        self._root, self.name = root, name
        self.shape = tuple(found["shape"])
        self._chunk_shape = tuple(found["chunk_grid"]["configuration"]["chunk_shape"])
        self._dtype = np.dtype(found["data_type"])
        self._fill = np.nan if found["fill_value"] == "NaN" else found["fill_value"]
        compressed = any(codec["name"] == "blosc" for codec in found["codecs"])
        self._codec = numcodecs.blosc.Blosc("lz4", 5, numcodecs.blosc.SHUFFLE) if compressed else None

    @property
    def side(self) -> int:
        """Representations along each axis of a block."""
        return int(self._chunk_shape[0])

    def _pieces(self) -> list[tuple[int, ...]]:
        """Chunks of a block along the axes behind those of the pairs."""
        further = zip(self.shape[2:], self._chunk_shape[2:], strict=True)
        return list(product(*(range(-(-size // chunk)) for size, chunk in further)))

    def _part(self, values: npt.NDArray[Any], piece: tuple[int, ...]) -> npt.NDArray[Any]:
        """What a chunk has of the values of its block."""
        starts = (number * size for number, size in zip(piece, self._chunk_shape[2:], strict=True))
        cut = (slice(start, start + size) for start, size in zip(starts, self._chunk_shape[2:], strict=True))
        part: npt.NDArray[Any] = values[(slice(None), slice(None), *cut)]
        return part

    def keys(self, block: Block) -> list[str]:
        """Keys of the chunks of a block."""
        return ["/".join([self.name, "c", *map(str, (*block, *piece))]) for piece in self._pieces()]

    def blocks(self, place: Place) -> Iterator[tuple[Block, Place]]:
        """Blocks that make up a place, and where each is in it.

        Parameters
        ----------
        place : (slice, slice)
            Some rows and columns.
        """
        return ((block, part) for block, part, _ in self.parts(place))

    def parts(self, place: Place) -> Iterator[tuple[Block, Place, Place]]:
        """Blocks that a place meets, where each is in it, and which part of the block that is.

        Parameters
        ----------
        place : (slice, slice)
            Some rows and columns.
        """
        side, along = self.side, []
        for one in place:
            starts = range(one.start // side * side, one.stop, side) if one.stop > one.start else range(0)
            ends = [(start, max(start, one.start), min(start + side, one.stop)) for start in starts]
            along.append(
                [
                    (start // side, slice(low - one.start, high - one.start), slice(low - start, high - start))
                    for start, low, high in ends
                ]
            )
        for (row, rows, inner_rows), (column, columns, inner_columns) in product(*along):
            yield (row, column), (rows, columns), (inner_rows, inner_columns)

    def encoded(self, place: Place, values: npt.NDArray[Any]) -> Iterator[tuple[str, Parts]]:
        """Keys and bytes of the chunks of a place, one after the other; see `blocks`.

        Parameters
        ----------
        place : (slice, slice)
        values : (a, b, ...)
            Of all of its pairs.
        """
        for block, part in self.blocks(place):
            yield from self._encoded(block, values[part])

    def merged(
        self,
        place: Place,
        values: npt.NDArray[Any],
        chosen: npt.NDArray[np.bool_],
        there: Collection[Block] = (),
    ) -> Iterator[tuple[str, Parts]]:
        """Keys and bytes of the chunks of a place in which values of some pairs change, with what is stored of others.

        Where a comparison has grown these are a few rows or columns of blocks, and the others are left alone.

        Parameters
        ----------
        place : (slice, slice)
            Some rows and columns, which may begin and end within blocks.
        values : (a, b, ...)
        chosen : (a, b)
            Pairs that change.
        there : collection of (int, int), optional
            Blocks of which some pair has a value, be it outside the place. By default it does not matter whether there
            are any.

        Raises
        ------
        DamagedStoreError
            Where what is stored is not what was written, or is gone.
        """
        for block, part, inner in self.parts(place):
            mine, new = chosen[part], values[part]
            if not mine.any():
                continue
            whole = tuple(one.stop - one.start for one in inner) == self._sizes(block)
            if whole and mine.all():
                yield from self._encoded(block, new)
                continue
            old = self._to_change(block)
            if old is None:
                if block in there:
                    raise damaged(self._root, self.keys(block)[0])
                old = np.full((*self._chunk_shape[:2], *self.shape[2:]), self._fill, self._dtype)
            np.copyto(old[inner], new, where=mine.reshape(mine.shape + (1,) * (new.ndim - 2)))
            yield from self._encoded(block, old)

    def emptied(self, gone: npt.NDArray[np.bool_]) -> Iterator[tuple[str, Parts]]:
        """Keys and bytes of the chunks that have pairs of some representations, without these; each chunk once.

        Parameters
        ----------
        gone : (representation,)

        Raises
        ------
        DamagedStoreError
            Where what is stored is not what was written.
        """
        whole = slice(0, self.shape[0])
        for block, (rows, columns) in self.blocks((whole, whole)):
            if not (gone[rows].any() or gone[columns].any()):
                continue
            values = self._to_change(block)
            if values is not None:
                values[: rows.stop - rows.start][gone[rows]] = self._fill
                values[:, : columns.stop - columns.start][:, gone[columns]] = self._fill
                yield from self._encoded(block, values)

    def _to_change(self, block: Block) -> npt.NDArray[Any] | None:
        """Values of a block to write others into, with room for all that it may have; None where it has none."""
        room = *self._chunk_shape[:2], *self.shape[2:]
        if room == self._chunk_shape:
            # Read where it is changed, and not copied: most of adding a few rows to a large comparison is such blocks.
            (key,) = self.keys(block)
            whole = self._read_whole(key) if self._codec is None else self._decompress_whole(self._codec, key)
            if whole is None:
                return None
            rows, columns = self._sizes(block)
            whole[rows:] = whole[:, columns:] = self._fill
            return whole
        values = self.read_block(block)
        if values is None:
            return None
        whole = np.full(room, self._fill, self._dtype)
        whole[tuple(map(slice, values.shape[:2]))] = values
        return whole

    def _read_whole(self, key: str) -> npt.NDArray[Any] | None:
        """Values of a chunk that is not compressed, as it is stored; None where there is none."""
        whole, check = np.empty(self._chunk_shape, self._dtype), bytearray(CRC_BYTES)
        data = whole.data.cast("B")
        try:
            with accessing(self._root.store_path / key):
                backend_of(self._root).read_ranges({key: [(0, data), (data.nbytes, memoryview(check))]})
        except ABSENT:
            return None
        except StoreAccessError as error:
            if isinstance(error.__cause__, ShortFileError):
                raise damaged(self._root, key) from error
            raise
        if crc(data) != check:
            raise damaged(self._root, key)
        return whole

    def _decompress_whole(self, codec: numcodecs.blosc.Blosc, key: str) -> npt.NDArray[Any] | None:
        """The same of a chunk that is compressed."""
        stored = backend_of(self._root).begin(key)()
        if stored is None:
            return None
        whole, inner = np.empty(self._chunk_shape, self._dtype), memoryview(stored)[:-CRC_BYTES]
        # What is shorter would leave a part of the array as it was before.
        if not is_whole(stored) or len(inner) < HEAD or struct.unpack_from("<I", inner, 4)[0] != whole.nbytes:
            raise damaged(self._root, key)
        try:
            codec.decode(inner, out=whole)
        except (RuntimeError, ValueError) as error:
            raise damaged(self._root, key) from error
        return whole

    def _sizes(self, block: Block) -> tuple[int, int]:
        """Rows and columns of a block that are of representations."""
        rows, columns = (
            min(self._chunk_shape[axis], self.shape[axis] - block[axis] * self._chunk_shape[axis]) for axis in (0, 1)
        )
        return rows, columns

    def _encoded(self, block: Block, values: npt.NDArray[Any]) -> Iterator[tuple[str, Parts]]:
        for key, piece in zip(self.keys(block), self._pieces(), strict=True):
            whole = part = self._part(values, piece)
            if part.shape != self._chunk_shape or part.dtype != self._dtype or not part.flags.c_contiguous:
                whole = np.full(self._chunk_shape, self._fill, self._dtype)
                whole[tuple(map(slice, part.shape))] = part
            data = whole.data.cast("B") if self._codec is None else memoryview(self._codec.encode(whole)).cast("B")
            yield key, (data, crc(data))

    def widening(self, keys: Iterable[str]) -> Iterator[tuple[str, Parts]]:
        """Keys and bytes of chunks that blocks lack since the array became wider, given the keys of those they have.

        Parameters
        ----------
        keys : iterable of str
            Below the array's ``c``.
        """
        places = [tuple(map(int, key.split("/"))) for key in keys if _CHUNK.match(key)]
        there = {"/".join([self.name, "c", *map(str, place)]) for place in places}
        nothing = np.full((*self._chunk_shape[:2], *self.shape[2:]), self._fill, self._dtype)
        for block in {(place[0], place[1]) for place in places}:
            if not there.issuperset(self.keys(block)):
                yield from ((key, parts) for key, parts in self._encoded(block, nothing) if key not in there)

    def narrowing(self, count: int, keys: Iterable[str]) -> Iterator[tuple[str, Parts]]:
        """Keys and bytes of chunks that reach over the end that the array is to have, with nothing behind it.

        Where it grows again, what lies there would be taken for values of other pairs.

        Parameters
        ----------
        count : int
            Representations that stay.
        keys : iterable of str
            Of the chunks that are there, below the array's ``c``.

        Raises
        ------
        DamagedStoreError
            Where what is stored is not what was written.
        """
        edge = count // self.side
        places = {tuple(map(int, key.split("/")[:2])) for key in keys if _CHUNK.match(key)}
        for row, column in sorted(place for place in places if max(place) == edge and count % self.side):
            values = self.read_block((row, column))
            if values is not None:
                stay = (slice(count - row * self.side), slice(count - column * self.side))
                yield from self._encoded((row, column), values[stay])

    def read_block(self, block: Block) -> npt.NDArray[Any] | None:
        """Values of the pairs of a block; None where it has none.

        Raises
        ------
        DamagedStoreError
            Where they are not what was written, or some are missing.
        """
        found = next(self.read_blocks([block]))
        return None if found is None else found.copy()

    def read_blocks(self, blocks: Sequence[Block]) -> Iterator[npt.NDArray[Any] | None]:
        """Values of the pairs of some blocks, as `read_block` gives them, to be read only.

        The next are requested before one is waited for.
        """
        begin = backend_of(self._root).begin
        waiting = iter([(block, self.keys(block)) for block in blocks])
        begun: deque[tuple[Block, list[str], list[Callable[[], bytes | None]]]] = deque()
        while True:
            for block, some in islice(waiting, AHEAD - len(begun)):
                begun.append((block, some, list(map(begin, some))))
            if not begun:
                return
            block, some, reads = begun.popleft()
            data = [read() for read in reads]
            if all(one is None for one in data):
                yield None
                continue
            rows, columns = self._sizes(block)
            if self.shape[2:] == self._chunk_shape[2:]:
                yield self._values_of(some[0], data[0])[:rows, :columns]
                continue
            values = np.empty((rows, columns, *self.shape[2:]), self._dtype)
            for key, one, piece in zip(some, data, self._pieces(), strict=True):
                target = self._part(values, piece)
                target[...] = self._values_of(key, one)[tuple(map(slice, target.shape))]
            yield values

    def _values_of(self, key: str, data: bytes | None) -> npt.NDArray[Any]:
        """Values of a chunk, as it is stored."""
        if data is None or not is_whole(data):
            raise damaged(self._root, key)
        inner = memoryview(data)[:-CRC_BYTES]
        try:
            decoded = inner if self._codec is None else self._codec.decode(inner)
            return np.frombuffer(decoded, self._dtype).reshape(self._chunk_shape)
        except (RuntimeError, ValueError) as error:
            raise damaged(self._root, key) from error

    def nothing(self, place: Place) -> npt.NDArray[Any]:
        """Fill values for the pairs of a place."""
        rows, columns = (one.stop - one.start for one in place)
        return np.full((rows, columns, *self.shape[2:]), self._fill, self._dtype)

    def read(self, place: Place) -> npt.NDArray[Any]:
        """Values of the pairs of a place; see `blocks`, and for errors `read_block`."""
        values = self.nothing(place)
        for block, part in self.blocks(place):
            stored = self.read_block(block)
            if stored is not None:
                values[part] = stored
        return values

    def read_sound(self, place: Place, lost: set[Block]) -> npt.NDArray[Any]:
        """Values of the pairs of any place; fill values where a block cannot be read, which ``lost`` takes."""
        values = self.nothing(place)
        for block, part, inner in self.parts(place):
            try:
                stored = self.read_block(block)
            except DamagedStoreError:
                lost.add(block)
                continue
            if stored is not None:
                values[part] = stored[inner]
        return values

    def are_sized(self, backend: Backend, sizes: Mapping[str, int]) -> dict[str, bool]:
        """Whether chunks have the size that they should have, by key; other files are left out.

        Parameters
        ----------
        backend : Backend
        sizes : mapping of str to int
            Bytes by key, below the array's ``c``.
        """
        sizes = {key: size for key, size in sizes.items() if _CHUNK.match(key)}
        if self._codec is None:
            right = int(np.prod(self._chunk_shape)) * self._dtype.itemsize + CRC_BYTES
            return {key: size == right for key, size in sizes.items()}
        heads = {key: bytearray(4) for key, size in sizes.items() if size >= HEAD + CRC_BYTES}
        backend.read_ranges({f"{self.name}/c/{key}": [(HEAD - 4, memoryview(head))] for key, head in heads.items()})
        said = {key: struct.unpack("<I", head)[0] for key, head in heads.items()}
        return {key: said.get(key) == size - CRC_BYTES for key, size in sizes.items()}


def block_arrays(root: zarr.Group, names: Sequence[str]) -> dict[str, BlockArray]:
    """Some arrays along pairs, by name; their metadata is read together."""
    documents = backend_of(root).read_many([f"{name}/zarr.json" for name in names])
    return {name: BlockArray(root, name, document) for name, document in zip(names, documents, strict=True)}


def pair_document(
    variable: Variable,
    sizes: tuple[int, ...],
    attributes: Mapping[str, Any],
    *,
    count: int,
    tile: int,
    compressed: bool = False,
) -> bytes:
    """Document of an array along pairs.

    Parameters
    ----------
    variable : Variable
    sizes : tuple of int
        Of the axes behind those of the pairs.
    attributes : mapping
    count : int
        Representations.
    tile : int
        Representations along each axis of a block.
    compressed : bool
        Whether most pairs have no value, or few different ones.
    """
    return array_document(
        shape=(count, count, *sizes),
        chunk_shape=(tile, tile, *sizes),
        dtype=variable.dtype,
        fill=variable.fill,
        dims=(*AXES, *variable.dims),
        compression="lz4" if sizes or compressed else "none",
        attributes=attributes,
    )
