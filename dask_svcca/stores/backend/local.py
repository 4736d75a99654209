"""Bytes in a folder of the local file system."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dask_svcca.stores._access import accessing
from dask_svcca.stores._exclusive import PARTIAL, age_of_file, create_file, sweep_folder
from dask_svcca.stores._links import (
    link_file,
    nothing_in_the_way,
    path_to_write,
    refuse_outside,
    remove_tree,
    replace_file,
)
from dask_svcca.stores._listing import is_strange
from dask_svcca.stores._ranges import consecutive, read_into
from dask_svcca.stores._reserved import reserve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_READ_BYTES = os.O_RDONLY | getattr(os, "O_BINARY", 0)
"""Flags to open a file with: otherwise Windows would translate line ends."""

RESERVED = 2**16
"""Bytes from which on a file has room on the disk before it takes another's place: of less, the call takes as long."""


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
                    size = sum(memoryview(part).nbytes for part in parts)
                    # Of blocks alone: see `reserve`.
                    if size >= RESERVED and not key.endswith(".json") and os.path.exists(path):  # noqa: PTH110
                        reserve(target.fileno(), size)
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
        with accessing(path), nothing_in_the_way(path):
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
