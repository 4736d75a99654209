"""Bytes of a store: a local folder and any other zarr store do the same."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
import zarr
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from dask_svcca.errors import StoreAccessError
from dask_svcca.stores.backend import Backend, LocalBackend, StoreBackend, backend_of, elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Line ends and an end of file, for whoever reads text.
DATA = b"\r\n\x1a\n" + bytes(range(249)) * 4


@pytest.fixture(params=["folder", "store", "group of a store"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "folder":
        found = backend_of(zarr.create_group(tmp_path / "store.zarr"))
        assert isinstance(found, LocalBackend)
        return found
    root = zarr.create_group(MemoryStore())
    found = backend_of(root if request.param == "store" else root.create_group("above").create_group("it"))
    assert isinstance(found, StoreBackend)
    return found


def test_backend__gives_back_what_was_written(backend: Backend) -> None:
    buffer = bytearray(DATA)
    backend.write("a/c/0/0", memoryview(buffer))
    buffer[:4] = b"else"
    assert backend.read("a/c/0/0") == DATA
    backend.write("a/c/0/0", b"new")
    assert backend.read("a/c/0/0") == b"new"
    backend.write("a/c/1/0", b"1")
    backend.write("b", b"")
    assert backend.read_many(["b", "a/c/2/0", "a/c/1/0", "b/c"]) == [b"", None, b"1", None]
    with pytest.raises(FileNotFoundError):
        backend.read("a/c/2/0")


def test_store_backend__removes_from_a_file_system_that_has_folders(tmp_path: Path) -> None:
    options = {"auto_mkdir": True}
    backend = StoreBackend(FsspecStore.from_url(f"file://{tmp_path.as_posix()}/s", storage_options=options), "")
    for key in ("x/zarr.json", "x/c/0/1/0", "x/c/0/10/0", "y"):
        backend.write(key, key.encode())
    for key in ("x/c/0/1", "x/c/0/1", "y", "y", "nothing/here"):
        # The second time there is not even a folder.
        backend.remove(key)
    assert backend.sizes("") == {"x/zarr.json": 11, "x/c/0/10/0": 10}
    assert backend.children("") == ["x"]
    backend.remove("x")
    assert backend.children("") == []


def test_backend__tells_what_is_there(backend: Backend) -> None:
    assert backend.names("x") == []
    assert backend.sizes("x") == {}
    for key in ("x/b/zarr.json", "x/a/c/0", "x/a/c/1/0", "x/zarr.json", "x/.cache/y", "xx/a"):
        backend.write(key, key.encode())
    assert backend.names("x") == ["a", "b"]
    assert backend.names("") == ["x", "xx"]
    assert backend.sizes("x/a") == {"c/0": 7, "c/1/0": 9}
    assert backend.sizes("x")["b/zarr.json"] == 13


def test_backend__removes_and_moves(backend: Backend) -> None:
    backend.remove("nothing")
    for key in ("x/zarr.json", "x/c/0", "xx/c/0"):
        backend.write(key, key.encode())
    backend.write("y/zarr.json", b"y")
    backend.move("x", "y")
    backend.write("y/zarr.json", b"y")
    assert backend.read("y/c/0") == b"x/c/0"
    assert backend.names("") == ["xx", "y"]
    backend.copy("y", "z")
    backend.remove("y")
    assert backend.sizes("y") == {}
    assert backend.sizes("z") == {"c/0": 5, "zarr.json": 1}
    assert backend.read("z/c/0") == b"x/c/0"
    assert backend.read("xx/c/0") == b"xx/c/0"


# More pieces than one system call takes; with gaps; in an order of their own.
CUTS = {
    "none": [],
    "one": [(0, 1000)],
    "many": [(start, start + 1) for start in range(1000)],
    "gaps": [(3, 10), (10, 400), (500, 501), (900, 1000)],
    "back": [(900, 1000), (0, 4), (4, 5)],
}


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("with_preadv", [True, False])
def test_backend__reads_ranges(
    backend: Backend, cuts: list[tuple[int, int]], with_preadv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> list[bytes]:
        buffers = [bytearray(stop - start) for start, stop in cuts]
        wanted = zip((start for start, _ in cuts), map(memoryview, buffers), strict=True)
        end = bytearray(3)
        backend.read_ranges({"a/0": list(wanted), "a/1": [(2, memoryview(end))]})
        assert end == b"234"
        return [bytes(buffer) for buffer in buffers]

    if not with_preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
    backend.write("a/0", DATA)
    backend.write("a/1", b"01234")
    assert read() == [DATA[start:stop] for start, stop in cuts]
    if not cuts:
        return
    backend.write("a/0", DATA[:700])
    with pytest.raises(OSError, match=r"0' is shorter than the \d+ bytes that were expected"):
        read()
    backend.remove("a")
    with pytest.raises(FileNotFoundError):
        read()


def test_local_backend__leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LocalBackend(str(tmp_path))
    backend.write("a/chunk", b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", full)
        with pytest.raises(StoreAccessError, match=r"chunk.*no space left"):
            backend.write("a/chunk", b"new")
    assert backend.read("a/chunk") == b"old"
    # What did not come to be is not counted, and takes no room.
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["chunk"]


class Slow(MemoryStore):
    """A store that counts how many requests wait at the same time."""

    waiting = most = 0

    async def get(self, *args: Any, **options: Any) -> Any:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        # Others are let in, as where an answer takes its time.
        for _ in range(10):
            await asyncio.sleep(0)
        self.waiting -= 1
        return await super().get(*args, **options)


def test_store_backend__requests_wait_together() -> None:
    store = Slow()
    backend = StoreBackend(store, "")
    for number in range(100):
        backend.write(str(number), b"x")
    assert backend.read_many([str(number) for number in range(100)]) == [b"x"] * 100
    assert 10 < store.most <= 32


def test_store_backend__writes_few_at_a_time_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "WRITTEN_AT_ONCE", 10)
    backend, made, there = StoreBackend(MemoryStore(), ""), [], []

    def items() -> Iterator[tuple[str, list[bytes]]]:
        for number, size in enumerate((3, 3, 4, 20, 1)):
            made.append(str(number))
            there.append(sum(data is not None for data in backend.read_many(made)))
            yield str(number), [b"x" * size, b"y"]

    backend.write_many(items())
    # What had been written when each was made.
    assert there == [0, 0, 0, 3, 4]
    assert backend.read_many(made) == [b"x" * size + b"y" for size in (3, 3, 4, 20, 1)]


def test_store_backend__in_memory_waits_for_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("another thread was asked")

    monkeypatch.setattr(elsewhere, "sync", refuse)
    backend = StoreBackend(MemoryStore(), "below")
    backend.write("a", b"1", b"2")
    backend.write_many([("b", [b"3"]), ("c", [b"4"])])
    assert backend.create("d", b"5")
    assert not backend.create("a", b"5")
    assert backend.read_many(["a", "b", "c", "d", "e"]) == [b"12", b"3", b"4", b"5", None]
    with pytest.raises(FileNotFoundError, match="'below/e'"):
        backend.read("e")
    read_only = StoreBackend(MemoryStore(read_only=True), "")
    # The first fails, and nothing is heard of the second.
    with pytest.raises(ValueError, match="read-only"):
        read_only.write_many([("a", [b"1"]), ("b", [b"2"])])


def test_backend_of__a_local_store_by_any_name(tmp_path: Path) -> None:
    root = zarr.create_group(LocalStore(tmp_path / "store.zarr")).create_group("below")
    backend_of(root).write("a", b"1")
    assert (tmp_path / "store.zarr" / "below" / "a").read_bytes() == b"1"
