"""Bytes in any other zarr store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import _get_loop, sync
from zarr.storage import FsspecStore, MemoryStore, ObjectStore

from dask_svcca.stores._access import accessing, creating
from dask_svcca.stores._exclusive import PARTIAL, age_of_object
from dask_svcca.stores._listing import is_strange, sizes_below
from dask_svcca.stores._ranges import consecutive, too_short

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from zarr.abc.store import Store

IN_FLIGHT = 32
"""Requests to a store elsewhere that wait for an answer at the same time."""

WRITTEN_AT_ONCE = 32 * 2**20
"""Bytes from which fewer are written at the same time: all of them are in memory, twice."""

T = TypeVar("T")


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
        # Not of a class that derives from it, which may well wait.
        self._in_memory = type(store) is MemoryStore

    def _key(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def _values(self, requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Results of requests that get or set values: in memory nothing is waited for, let alone by another thread."""
        if not self._in_memory:
            return self._wait(requests)
        every = list(requests)
        try:
            return list(map(_at_once, every))
        finally:
            # Where one fails, the others were not begun.
            for request in every:
                request.close()

    def _wait(self, requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        async def together() -> list[T]:
            limit = asyncio.Semaphore(IN_FLIGHT)

            async def limited(request: Coroutine[Any, Any, T]) -> T:
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
        (found,) = self._values([self._get(key)])
        if found is None:
            raise self._nothing(key)
        return found

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Backend`."""
        return self._values([self._get(key) for key in keys])

    def begin(self, key: str) -> Callable[[], bytes | None]:
        """See `Backend`: in the loop in which zarr waits for its own requests."""
        return asyncio.run_coroutine_threadsafe(self._get(key), _get_loop()).result

    def read_ranges(self, wanted: Mapping[str, Sequence[tuple[int, memoryview]]]) -> None:
        """See `Backend`."""
        runs = [(key, *run) for key, ranges in wanted.items() for run in consecutive(ranges)]
        sizes = [sum(view.nbytes for view in views) for *_, views in runs]
        found = self._values(
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
        self._values([self._set(key, parts)])

    def write_many(self, items: Iterable[tuple[str, Sequence[bytes | memoryview]]]) -> None:
        """See `Backend`."""
        some: list[tuple[str, Sequence[bytes | memoryview]]] = []
        size = 0
        for key, parts in items:
            some.append((key, parts))
            size += sum(memoryview(part).nbytes for part in parts)
            if len(some) == IN_FLIGHT or size >= WRITTEN_AT_ONCE:
                self._set_all(some)
                size = 0
        self._set_all(some)

    def _set_all(self, items: list[tuple[str, Sequence[bytes | memoryview]]]) -> None:
        """Write some, and let go of them."""
        self._values([self._set(key, parts) for key, parts in items])
        items.clear()

    def create(self, key: str, data: bytes) -> bool:
        """See `Backend`."""

        async def put() -> None:
            buffer = default_buffer_prototype().buffer.from_bytes(data)
            with accessing(f"{self._store}/{self._key(key)}"):
                await self._store.set_if_not_exists(self._key(key), buffer)

        self._values([put()])
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
        if isinstance(self._store, FsspecStore):
            self._wait([self._delete(one) for one in keys])
            # A file, or folders that no file is left in: file systems have them, and do not delete them as keys.
            self._wait([self._delete(self._key(key), below=True)])
        else:
            self._wait([self._delete(one) for one in [*keys, self._key(key)]])

    async def _delete(self, name: str, *, below: bool = False) -> None:
        with accessing(f"{self._store}/{name}"):
            await (self._store.delete_dir(name) if below else self._store.delete(name))

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


def _at_once(request: Coroutine[Any, Any, T]) -> T:
    """Result of a request that waits for nothing."""
    try:
        request.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    raise RuntimeError("a store in memory waits for something")
