"""Bytes of a store by key: the one interface behind which a local folder and any other zarr store differ.

Keys are those of the zarr v3 specification, below a group: ``net/step1/fc/activations/c/0/0``. Opening an array through
zarr takes about a millisecond, reading a small one another; a tile of 64 x 64 small representations would spend most of
its time on that. So whatever this package writes itself it also reads itself, as the specification lays it out.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import uuid
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import zarr
import zarr.errors
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from dask_svcca.errors import StoreAccessError
from dask_svcca.stores._links import nothing_in_the_way, path_to_write, refuse_outside, remove_tree, replace_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence

    from zarr.abc.store import Store

ABSENT = (
    FileNotFoundError,
    NotADirectoryError,
    zarr.errors.GroupNotFoundError,
    zarr.errors.NodeTypeValidationError,
    zarr.errors.ContainsArrayError,
)
"""What is raised where there is nothing, or no group."""

UNREADABLE = (
    OSError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    zarr.errors.BaseZarrError,
)
"""What is raised for a chunk or metadata that is missing, damaged, or of a codec that is not installed.

Libraries that decode it trust it: numbers that are text, or sizes beyond memory, fail wherever they are first used.
"""

IN_FLIGHT = 32
"""Requests to a store elsewhere that wait for an answer at the same time."""

_READ_BYTES = os.O_RDONLY | getattr(os, "O_BINARY", 0)
"""Flags to open a file with: otherwise Windows would translate line ends."""

_MOST_BUFFERS = 512
"""Most buffers in one system call; Linux takes up to 1,024."""

_PARTIAL = ".partial"
"""Ending of files that are still being written."""

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

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Write bytes so that they are there whole or not at all."""
        ...

    def names(self, key: str) -> list[str]:
        """Names of what may be groups directly below a key, in order; none where there is nothing."""
        ...

    def sizes(self, key: str) -> dict[str, int]:
        """Bytes of everything below a key, by the rest of its key."""
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
    >>> from zarr.storage import MemoryStore
    >>> backend = backend_of(zarr.create_group(MemoryStore()))
    >>> backend.write("a/b", b"1234")
    >>> backend.read("a/b"), backend.sizes("a")
    (b'1234', {'b': 4})
    """
    if isinstance(group.store, LocalStore):
        return LocalBackend(os.path.join(group.store.root, group.path))  # noqa: PTH118 - see `LocalBackend`
    return StoreBackend(group.store, group.path)


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
        return os.path.join(self._folder, *key.split("/")) if key else self._folder  # noqa: PTH118

    def read(self, key: str) -> bytes:
        """See `Backend`."""
        path = self._path(key)
        with accessing(path), open(path, "rb") as file:  # noqa: PTH123
            return file.read()

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Backend`."""
        return [self._read_if_there(key) for key in keys]

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
                for offset, views in _consecutive(ranges):
                    _read_into(descriptor, views, offset, path)
            finally:
                os.close(descriptor)

    def write(self, key: str, data: bytes | memoryview) -> None:
        """See `Backend`."""
        path = path_to_write(self._folder, key)
        partial = f"{path}.{uuid.uuid4().hex}{_PARTIAL}"
        with accessing(path), nothing_in_the_way(path):
            try:
                target = open(partial, "xb")  # noqa: PTH123, SIM115 - closed below
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
                target = open(partial, "xb")  # noqa: PTH123, SIM115
            try:
                with target:
                    target.write(data)
                replace_file(partial, path)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise

    def names(self, key: str) -> list[str]:
        """See `Backend`."""
        path = self._path(key)
        try:
            with accessing(path), os.scandir(path) as scanned:
                return sorted(entry.name for entry in scanned if not _is_strange(entry.name) and entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

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
                        elif not entry.name.endswith(_PARTIAL):
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
            shutil.copytree(self._path(key), path, copy_function=_link, symlinks=True)


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

    async def _get(self, key: str, start: int | None = None, stop: int = 0) -> bytes | None:
        part = None if start is None else RangeByteRequest(start, stop)
        with accessing(f"{self._store}/{self._key(key)}"):
            found = await self._store.get(self._key(key), default_buffer_prototype(), part)
        return None if found is None else found.to_bytes()

    async def _set(self, key: str, data: bytes | memoryview) -> None:
        # A store in memory keeps the buffer that it is given, and the caller may overwrite that.
        buffer = default_buffer_prototype().buffer.from_bytes(bytes(data))
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

    def read_ranges(self, wanted: Mapping[str, Sequence[tuple[int, memoryview]]]) -> None:
        """See `Backend`."""
        runs = [(key, *run) for key, ranges in wanted.items() for run in _consecutive(ranges)]
        sizes = [sum(view.nbytes for view in views) for *_, views in runs]
        found = self._wait(
            [self._get(key, start, start + size) for (key, start, _), size in zip(runs, sizes, strict=True)]
        )
        for (key, offset, views), size, data in zip(runs, sizes, found, strict=True):
            if data is None:
                raise self._nothing(key)
            if len(data) < size:
                raise _too_short(self._key(key), offset + size)
            start = 0
            for view in views:
                view.cast("B")[:] = data[start : start + view.nbytes]
                start += view.nbytes

    def _nothing(self, key: str) -> FileNotFoundError:
        return FileNotFoundError(f"there is nothing at {self._key(key)!r} in {str(self._store)!r}")

    def write(self, key: str, data: bytes | memoryview) -> None:
        """See `Backend`."""
        self._wait([self._set(key, data)])

    def names(self, key: str) -> list[str]:
        """See `Backend`."""

        async def listed() -> list[str]:
            with accessing(f"{self._store}/{self._key(key)}"):
                return [name async for name in self._store.list_dir(self._key(key).rstrip("/"))]

        (found,) = self._wait([listed()])
        return sorted(name for name in found if not _is_strange(name) and name != "zarr.json")

    def sizes(self, key: str) -> dict[str, int]:
        """See `Backend`."""
        keys = self._listed(key)
        sizes = self._wait([self._store.getsize(one) for one in keys])
        start = len(self._key(f"{key}/" if key else ""))
        return {one[start:]: size for one, size in zip(keys, sizes, strict=True)}

    def _listed(self, key: str) -> list[str]:
        prefix = self._key(f"{key}/" if key else "")

        async def listed(above: str) -> list[str]:
            with accessing(f"{self._store}/{prefix}"):
                try:
                    return [one async for one in self._store.list_prefix(above) if one.startswith(prefix)]
                except Exception as error:
                    # icechunk lists what is below groups and arrays, and nothing in between.
                    if not above or not type(error).__module__.startswith("icechunk"):
                        raise
            return await listed(above[: above.rstrip("/").rfind("/") + 1])

        (found,) = self._wait([listed(prefix)])
        return sorted(found)

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


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _is_strange(name: str) -> bool:
    """Whether a name is none of ours: those of editors and file managers begin so."""
    return name.startswith((".", "_"))


def _consecutive(wanted: Sequence[tuple[int, memoryview]]) -> Iterator[tuple[int, list[memoryview]]]:
    """Buffers of adjacent ranges, and where the first of these begins."""
    offset, end, views = 0, -1, list[memoryview]()
    for start, view in wanted:
        if start != end and views:
            yield offset, views
            views = []
        if not views:
            offset = start
        views.append(view)
        end = start + view.nbytes
    if views:
        yield offset, views


def _read_into(descriptor: int, views: list[memoryview], offset: int, file: str) -> None:
    wanted = offset + sum(view.nbytes for view in views)
    while views:
        count = _read_some(descriptor, views, offset)
        if count == 0:
            raise _too_short(file, wanted)
        offset += count
        while views and count >= views[0].nbytes:
            count -= views.pop(0).nbytes
        if count:
            views[0] = views[0][count:]


def _too_short(place: str, wanted: int) -> OSError:
    return OSError(f"{place!r} is shorter than the {wanted} bytes that were expected")


def _read_some(descriptor: int, views: list[memoryview], offset: int) -> int:
    """Read from an offset into the first buffers, and return the number of bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, views[:_MOST_BUFFERS], offset)
    # Windows has no read into several buffers.
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(offset)
        return file.readinto(views[0])


# Windows has no quotas by that name.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def _remedy(error: OSError) -> str:
    if error.errno in _FULL:
        return "Nothing that is finished is lost: free some space, and do the same again"
    if error.errno == errno.EROFS:
        return "It can only be read: write to another place, or make this one writable"
    return "Check your rights, and that the disk or network works"


@contextmanager
def accessing(place: object) -> Iterator[None]:
    """Raise `StoreAccessError` for an error of the system or a service, unless it says that there is nothing."""
    try:
        yield
    except (*ABSENT, FileExistsError, StoreAccessError):
        raise
    except OSError as error:
        raise StoreAccessError(f"cannot access {str(place)!r}: {error}. {_remedy(error)}") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise StoreAccessError(f"cannot read {str(place)!r}: {error}. The archive is damaged: zip it again") from error
    except Exception as error:
        # Errors of obstore, an optional package, derive from nothing else.
        if not type(error).__module__.startswith("obstore"):
            raise
        said = str(error).split("Debug source:")[0].strip()
        raise StoreAccessError(
            f"cannot access {str(place)!r}: {said}. Check the endpoint, your credentials and rights, and that the "
            f"network works"
        ) from error


@contextmanager
def creating(place: object) -> Iterator[None]:
    """As `accessing`, where there is nothing yet: that even less is there, such as a bucket, is an error too."""
    try:
        with accessing(place):
            yield
    except FileNotFoundError as error:
        said = str(error).split("<?xml")[0].split("Debug source:")[0].strip()
        raise StoreAccessError(f"cannot write to {str(place)!r}: {said}. Is the bucket or container there?") from error
