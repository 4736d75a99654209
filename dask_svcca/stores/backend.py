"""Bytes of a store by key: the one interface behind which a local folder and any other zarr store differ.

Keys are those of the zarr v3 specification, below a group: ``net/step1/fc/activations/c/0/0``. Opening an array through
zarr takes about a millisecond, reading a small one another; a tile of 64 x 64 small representations would spend most of
its time on that. So whatever this package writes itself it also reads itself, as the specification lays it out.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import _get_loop, sync
from zarr.storage import LocalStore, ObjectStore

from dask_svcca.stores._access import accessing, creating
from dask_svcca.stores._exclusive import PARTIAL, age_of_file, age_of_object, create_file, sweep_folder
from dask_svcca.stores._links import (
    link_file,
    nothing_in_the_way,
    path_to_write,
    refuse_outside,
    remove_tree,
    replace_file,
)
from dask_svcca.stores._listing import is_strange, sizes_below
from dask_svcca.stores._ranges import consecutive, read_into, too_short

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    import zarr
    from zarr.abc.store import Store

IN_FLIGHT = 32
"""Requests to a store elsewhere that wait for an answer at the same time."""

_READ_BYTES = os.O_RDONLY | getattr(os, "O_BINARY", 0)
"""Flags to open a file with: otherwise Windows would translate line ends."""

T = TypeVar("T")


class Backend(Protocol):
    """Bytes below a group.

    All methods raise `StoreAccessError` where the system or the service refuses or fails.
    """

    def read(self, key: str) -> bytes:
        """All bytes at a key.

        Raises
        ------
        FileNotFoundError
            Where there is nothing.
        """
        ...

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """All bytes at some keys, requested together; None where there is nothing."""
        ...

    def begin(self, key: str) -> Callable[[], bytes | None]:
        """Begin to read all bytes at a key, and return what waits for them; None where there is nothing."""
        ...

    def read_ranges(self, wanted: Mapping[str, Sequence[tuple[int, memoryview]]]) -> None:
        """Read ranges of bytes into buffers, requested together.

        Parameters
        ----------
        wanted : mapping of str to sequence of (int, memoryview)
            By key: where a range begins, and the buffer that takes it. Adjacent ranges are one request.

        Raises
        ------
        FileNotFoundError
            Where there is nothing.
        OSError
            Where there are too few bytes.
        """
        ...

    def write(self, key: str, *parts: bytes | memoryview) -> None:
        """Write bytes, one part behind the other, so that they are there whole or not at all."""
        ...

    def write_many(self, items: Iterable[tuple[str, Sequence[bytes | memoryview]]]) -> None:
        """Write keys and their parts, some at a time, in no order; items are made as they are needed."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write bytes where there is nothing; False where something is, or another process was faster."""
        ...

    def age(self, key: str) -> float | None:
        """Seconds since a key was written, by the clock of the store; None where it has none.

        Raises
        ------
        FileNotFoundError
            Where there is nothing.
        """
        ...

    def sweep(self, key: str) -> None:
        """Remove what is half written below a key, where nobody is writing, but for leases."""
        ...

    def children(self, key: str) -> list[str]:
        """Names of all that is directly below a key, in order, but for what is still being written."""
        ...

    def names(self, key: str) -> list[str]:
        """Names of what may be groups directly below a key, in order; none where there is nothing."""
        ...

    def names_many(self, keys: Sequence[str]) -> list[list[str]]:
        """The same below some keys, requested together."""
        ...

    def sizes(self, key: str) -> dict[str, int]:
        """Bytes of everything below a key, by the rest of its key."""
        ...

    def sizes_many(self, keys: Sequence[str]) -> list[dict[str, int]]:
        """The same below some keys, requested together."""
        ...

    def remove(self, key: str) -> None:
        """Remove what is at a key, and everything below it; nothing may be there."""
        ...

    def move(self, key: str, target: str) -> None:
        """Move all from below a key to below another, where nothing is but metadata; either metadata may stay."""
        ...

    def copy(self, key: str, target: str) -> None:
        """Copy everything below a key to below another, where nothing is; files may be shared until one is removed."""
        ...


def backend_of(group: zarr.Group) -> Backend:
    """The bytes below a group.

    Examples
    --------
    >>> import zarr
    >>> from zarr.storage import MemoryStore
    >>> backend = backend_of(zarr.create_group(MemoryStore()))
    >>> backend.write("a/b", b"1234")
    >>> backend.read("a/b"), backend.sizes("a")
    (b'1234', {'b': 4})
    """
    return backend_at(group.store, group.path)


def backend_at(store: Store, path: str = "") -> Backend:
    """The bytes of a store below a path, whether or not there is a group."""
    if isinstance(store, LocalStore):
        return LocalBackend(os.path.join(store.root, path))  # noqa: PTH118 - see `LocalBackend`
    return StoreBackend(store, path)


class LocalBackend:
    """A folder on the local file system.

    Paths are text: a tile reads tens of thousands of chunks, and Python interns each part of a Path for good.

    Parameters
    ----------
    folder : str
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def _path(self, key: str) -> str:
        # Python joins the parts of ten thousand paths in a third of a second.
        return f"{self._folder}{os.sep}{key.replace('/', os.sep)}" if key else self._folder

    def read(self, key: str) -> bytes:
        """See `Backend`."""
        path = self._path(key)
        with accessing(path), open(path, "rb") as file:  # noqa: PTH123
            return file.read()

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Backend`."""
        return [self._read_if_there(key) for key in keys]

    def begin(self, key: str) -> Callable[[], bytes | None]:
        """See `Backend`: the system reads files ahead by itself."""
        return partial(self._read_if_there, key)

    def _read_if_there(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_ranges(self, wanted: Mapping[str, Sequence[tuple[int, memoryview]]]) -> None:
        """See `Backend`."""
        for key, ranges in wanted.items():
            path = self._path(key)
            descriptor = os.open(path, _READ_BYTES)
            try:
                for offset, views in consecutive(ranges):
                    read_into(descriptor, views, offset, path)
            finally:
                os.close(descriptor)

    def write(self, key: str, *parts: bytes | memoryview) -> None:
        """See `Backend`."""
        path = path_to_write(self._folder, key)
        partial = f"{path}.{uuid.uuid4().hex}{PARTIAL}"
        with accessing(path), nothing_in_the_way(path):
            try:
                target = open(partial, "xb")  # noqa: PTH123, SIM115 - closed below
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
                target = open(partial, "xb")  # noqa: PTH123, SIM115
            try:
                with target:
                    target.writelines(parts)
                replace_file(partial, path)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise

    def write_many(self, items: Iterable[tuple[str, Sequence[bytes | memoryview]]]) -> None:
        """See `Backend`."""
        for key, parts in items:
            self.write(key, *parts)

    def create(self, key: str, data: bytes) -> bool:
        """See `Backend`."""
        path = path_to_write(self._folder, key)
        with accessing(path):
            return create_file(path, data)

    def age(self, key: str) -> float | None:
        """See `Backend`."""
        path = path_to_write(self._folder, key)
        with accessing(path):
            return age_of_file(path)

    def sweep(self, key: str) -> None:
        """See `Backend`."""
        path = self._path(key)
        with accessing(path):
            sweep_folder(path)

    def children(self, key: str) -> list[str]:
        """See `Backend`."""
        path = self._path(key)
        try:
            with accessing(path):
                return sorted(name for name in os.listdir(path) if not name.endswith(PARTIAL))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def names(self, key: str) -> list[str]:
        """See `Backend`."""
        path = self._path(key)
        try:
            with accessing(path), os.scandir(path) as scanned:
                return sorted(entry.name for entry in scanned if not is_strange(entry.name) and entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def names_many(self, keys: Sequence[str]) -> list[list[str]]:
        """See `Backend`."""
        return [self.names(key) for key in keys]

    def sizes_many(self, keys: Sequence[str]) -> list[dict[str, int]]:
        """See `Backend`."""
        return [self.sizes(key) for key in keys]

    def sizes(self, key: str) -> dict[str, int]:
        """See `Backend`."""
        top = self._path(key)
        found: dict[str, int] = {}
        waiting = [(top, "")]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                with accessing(folder), os.scandir(folder) as scanned:
                    for entry in scanned:
                        if entry.is_symlink() and entry.is_dir():
                            refuse_outside(self._folder, entry.path)
                        elif entry.is_dir():
                            waiting.append((entry.path, f"{prefix}{entry.name}/"))
                        elif not entry.name.endswith(PARTIAL):
                            found[prefix + entry.name] = entry.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                continue
        return found

    def remove(self, key: str) -> None:
        """See `Backend`."""
        path = path_to_write(self._folder, key)
        with suppress(FileNotFoundError, NotADirectoryError), accessing(path):
            remove_tree(path)

    def move(self, key: str, target: str) -> None:
        """See `Backend`."""
        source, destination = path_to_write(self._folder, key), path_to_write(self._folder, target)
        with accessing(destination):
            remove_tree(destination)
            os.rename(source, destination)  # noqa: PTH104

    def copy(self, key: str, target: str) -> None:
        """See `Backend`."""
        path = path_to_write(self._folder, target)
        with accessing(path):
            shutil.copytree(self._path(key), path, copy_function=link_file, symlinks=True)


class StoreBackend:
    """Any other zarr store, through zarr's own interface; requests that belong together wait together.

    Parameters
    ----------
    store : zarr store
    prefix : str
        Path of the group in it.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = f"{prefix}/" if prefix else ""

    def _key(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def _wait(self, requests: Iterable[Awaitable[T]]) -> list[T]:
        async def together() -> list[T]:
            limit = asyncio.Semaphore(IN_FLIGHT)

            async def limited(request: Awaitable[T]) -> T:
                async with limit:
                    return await request

            return await asyncio.gather(*map(limited, requests))

        return sync(together())

    async def _get(self, key: str) -> bytes | None:
        with accessing(f"{self._store}/{self._key(key)}"):
            found = await self._store.get(self._key(key), default_buffer_prototype())
        return None if found is None else found.to_bytes()

    async def _get_range(self, key: str, start: int, stop: int) -> memoryview | None:
        with accessing(f"{self._store}/{self._key(key)}"):
            found = await self._store.get(self._key(key), default_buffer_prototype(), RangeByteRequest(start, stop))
        # Not copied: it is, into the caller's buffers.
        return None if found is None else found.as_numpy_array().data.cast("B")

    async def _set(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        # A store in memory keeps the buffer that it is given, and the caller may overwrite that.
        buffer = default_buffer_prototype().buffer.from_bytes(b"".join(parts))
        with creating(f"{self._store}/{self._key(key)}"):
            await self._store.set(self._key(key), buffer)

    def read(self, key: str) -> bytes:
        """See `Backend`."""
        (found,) = self._wait([self._get(key)])
        if found is None:
            raise self._nothing(key)
        return found

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Backend`."""
        return self._wait([self._get(key) for key in keys])

    def begin(self, key: str) -> Callable[[], bytes | None]:
        """See `Backend`: in the loop in which zarr waits for its own requests."""
        return asyncio.run_coroutine_threadsafe(self._get(key), _get_loop()).result

    def read_ranges(self, wanted: Mapping[str, Sequence[tuple[int, memoryview]]]) -> None:
        """See `Backend`."""
        runs = [(key, *run) for key, ranges in wanted.items() for run in consecutive(ranges)]
        sizes = [sum(view.nbytes for view in views) for *_, views in runs]
        found = self._wait(
            [self._get_range(key, start, start + size) for (key, start, _), size in zip(runs, sizes, strict=True)]
        )
        for (key, offset, views), size, data in zip(runs, sizes, found, strict=True):
            if data is None:
                raise self._nothing(key)
            if len(data) < size:
                raise too_short(self._key(key), offset + size)
            start = 0
            for view in views:
                view.cast("B")[:] = data[start : start + view.nbytes]
                start += view.nbytes

    def _nothing(self, key: str) -> FileNotFoundError:
        return FileNotFoundError(f"there is nothing at {self._key(key)!r} in {str(self._store)!r}")

    def write(self, key: str, *parts: bytes | memoryview) -> None:
        """See `Backend`."""
        self._wait([self._set(key, parts)])

    def write_many(self, items: Iterable[tuple[str, Sequence[bytes | memoryview]]]) -> None:
        """See `Backend`."""
        waiting = iter(items)
        while some := list(itertools.islice(waiting, IN_FLIGHT)):
            self._wait([self._set(key, parts) for key, parts in some])

    def create(self, key: str, data: bytes) -> bool:
        """See `Backend`."""

        async def put() -> None:
            buffer = default_buffer_prototype().buffer.from_bytes(data)
            with accessing(f"{self._store}/{self._key(key)}"):
                await self._store.set_if_not_exists(self._key(key), buffer)

        self._wait([put()])
        # It does not say whether it wrote.
        return self.read_many([key]) == [data]

    def age(self, key: str) -> float | None:
        """See `Backend`."""
        if not isinstance(self._store, ObjectStore):
            return None
        name = self._key(key)
        with accessing(f"{self._store}/{name}"):
            return age_of_object(self._store.store, name)

    def sweep(self, key: str) -> None:
        """See `Backend`; what is sent to another store is there whole or not at all."""

    def children(self, key: str) -> list[str]:
        """See `Backend`."""
        (found,) = self._wait([self._below(self._key(key).rstrip("/"))])
        return sorted(name for name in found if not name.endswith(PARTIAL))

    def names(self, key: str) -> list[str]:
        """See `Backend`."""
        return self.names_many([key])[0]

    def names_many(self, keys: Sequence[str]) -> list[list[str]]:
        """See `Backend`."""
        found = self._wait([self._below(self._key(key).rstrip("/")) for key in keys])
        return [sorted(name for name in names if not is_strange(name) and name != "zarr.json") for names in found]

    async def _below(self, place: str) -> list[str]:
        with accessing(f"{self._store}/{place}"):
            return [name async for name in self._store.list_dir(place)]

    def sizes(self, key: str) -> dict[str, int]:
        """See `Backend`."""
        return self.sizes_many([key])[0]

    def sizes_many(self, keys: Sequence[str]) -> list[dict[str, int]]:
        """See `Backend`."""
        return self._wait([self._sizes(self._key(f"{key}/" if key else "")) for key in keys])

    async def _sizes(self, prefix: str) -> dict[str, int]:
        with accessing(f"{self._store}/{prefix}"):
            return await sizes_below(self._store, prefix)

    def _listed(self, key: str) -> list[str]:
        prefix = self._key(f"{key}/" if key else "")
        return [f"{prefix}{rest}" for rest in self.sizes(key)]

    def remove(self, key: str) -> None:
        """See `Backend`."""
        # What says that it is there goes first.
        keys = sorted(self._listed(key), key=lambda one: not one.endswith("zarr.json"))
        self._wait([self._store.delete(one) for one in [*keys, self._key(key)]])

    def move(self, key: str, target: str) -> None:
        """See `Backend`."""
        self._copy(key, target, [one for one in self._listed(key) if one != self._key(f"{key}/zarr.json")])
        self.remove(key)

    def copy(self, key: str, target: str) -> None:
        """See `Backend`."""
        self._copy(key, target, self._listed(key))

    def _copy(self, key: str, target: str, keys: Sequence[str]) -> None:
        before, after = self._key(f"{key}/"), self._key(f"{target}/")

        async def copy(one: str) -> None:
            found = await self._store.get(one, default_buffer_prototype())
            if found is not None:
                await self._store.set(after + one.removeprefix(before), found)

        self._wait([copy(one) for one in keys])
