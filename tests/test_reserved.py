"""Room on the disk for files that take the place of others."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import zarr

from dask_svcca.errors import StoreAccessError
from dask_svcca.stores import _reserved
from dask_svcca.stores._reserved import reserve
from dask_svcca.stores.backend import LocalBackend, backend_of, local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIZE = 2**18


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file of this process becomes longer in the block."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    found = backend_of(zarr.create_group(tmp_path / "store.zarr"))
    assert isinstance(found, LocalBackend)
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the call")
def test_reserve(tmp_path: Path) -> None:
    with (tmp_path / "file").open("xb") as file:
        if not reserve(file.fileno(), SIZE):
            pytest.skip("this file system cannot")
        there = os.fstat(file.fileno())
        assert (there.st_size, there.st_blocks * 512 >= SIZE) == (0, True)
        file.write(b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc"
    with (tmp_path / "file").open("rb") as file:
        assert not reserve(file.fileno(), SIZE)


SHUTDOWN = 0x8004587D
"""What ends a file system of ext4 at once; its argument says that not even its journal is written."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A disk of its own, of ext4: each call has the power fail, but for the first, and gives its folder."""
    if not sys.platform.startswith("linux") or os.getuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs Linux, the rights of root, and mkfs.ext4")
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)

    def cut() -> Path:
        if os.path.ismount(place):
            fcntl = pytest.importorskip("fcntl")
            folder = os.open(place, os.O_RDONLY)
            try:
                fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", 2))
            except OSError as error:
                pytest.skip(f"this system does not end a file system: {error}")
            finally:
                os.close(folder)
            subprocess.run(["umount", place], check=True)
        if subprocess.run(["mount", "-o", "loop", image, place], check=False).returncode:
            pytest.skip("may not mount a disk")
        return place

    yield cut
    if os.path.ismount(place):
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_write_many__before_the_power_fails_leaves_all_of_a_block_or_less_than_its_size(
    disk: Callable[[], Path],
) -> None:
    place, old, new = disk(), b"a" * SIZE, b"b" * SIZE
    backend = LocalBackend(str(place))
    backend.write_many([("c/0", [old])])
    os.sync()
    backend.write_many([("c/0", [new])])
    # The journal has its name then, and the disk may have nothing else of it.
    with (place / "other").open("wb") as file:
        os.fsync(file.fileno())
    disk()
    found = (place / "c" / "0").read_bytes()
    assert found == new or len(found) < SIZE


def test_write__reserves_room_where_it_takes_the_place_of_a_large_file(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def watched(descriptor: int, size: int) -> bool:
        asked.append(size)
        return reserve(descriptor, size)

    monkeypatch.setattr(local, "reserve", watched)
    for fill in (b"a", b"b"):
        parts = [memoryview(fill * SIZE).cast("I"), fill * 4]
        backend.write_many([("large", parts), ("small", [fill * 100])])
        assert backend.read("large") == fill * (SIZE + 4)
        assert backend.read("small") == fill * 100
    assert asked == [SIZE + 4]


def test_write__leaves_documents_to_the_file_system(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the power fails, ext4 has the old document or the new one; with room that was never filled it had zeros.
    monkeypatch.setattr(local, "reserve", lambda *_: pytest.fail("it got room"))
    for fill in (b"a", b"b"):
        backend.write("zarr.json", fill * SIZE)
        assert backend.read("zarr.json") == fill * SIZE


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOTTY, 524, errno.ENOSPC])
def test_write_many__needs_no_room_beforehand(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    # 524 is what some network file systems say in place of EOPNOTSUPP; others that compress have room for less.
    def failing(*_: int) -> int:
        ctypes.set_errno(error)
        return -1

    monkeypatch.setattr(_reserved, "_FALLOCATE", failing)
    for fill in (b"a", b"b"):
        backend.write_many([("large", [fill * SIZE])])
    assert backend.read("large") == b"b" * SIZE


def test_write_many__without_room_leaves_what_was_there(backend: LocalBackend, tmp_path: Path) -> None:
    backend.write_many([("large", [b"a" * SIZE])])
    with at_most(SIZE), pytest.raises(StoreAccessError, match="free some space"):
        backend.write_many([("large", [b"b" * (SIZE + 1)])])
    assert backend.read("large") == b"a" * SIZE
    assert sorted(path.name for path in (tmp_path / "store.zarr").iterdir()) == ["large", "zarr.json"]


def test_write__without_room_leaves_what_was_there(backend: LocalBackend, tmp_path: Path) -> None:
    backend.write("large", b"a" * SIZE)
    with at_most(SIZE), pytest.raises(StoreAccessError, match="free some space") as raised:
        backend.write("large", b"b" * (SIZE + 1))
    assert str(tmp_path / "store.zarr" / "large") in str(raised.value)
    assert backend.read("large") == b"a" * SIZE
    assert sorted(path.name for path in (tmp_path / "store.zarr").iterdir()) == ["large", "zarr.json"]
