"""Room on the disk for files that take the place of others."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import zarr

from dask_svcca.errors import StoreAccessError
from dask_svcca.stores._reserved import reserve
from dask_svcca.stores.backend import LocalBackend, backend_of, local

if TYPE_CHECKING:
    from collections.abc import Iterator
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
        reserve(file.fileno(), SIZE)
        if not os.fstat(file.fileno()).st_size:
            pytest.skip("this file system cannot")
        with at_most(2 * SIZE), pytest.raises(OSError, match="too large"):
            reserve(file.fileno(), 4 * SIZE)
        file.write(b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc".ljust(SIZE, b"\0")


def test_write__reserves_room_where_it_takes_the_place_of_a_large_file(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def watched(descriptor: int, size: int) -> None:
        asked.append(size)
        reserve(descriptor, size)

    monkeypatch.setattr(local, "reserve", watched)
    for fill in (b"a", b"b"):
        parts = [memoryview(fill * SIZE).cast("I"), fill * 4]
        backend.write_many([("large", parts), ("small", [fill * 100])])
        assert backend.read("large") == fill * (SIZE + 4)
        assert backend.read("small") == fill * 100
    assert asked == [SIZE + 4]


def test_write__without_room_leaves_what_was_there(backend: LocalBackend, tmp_path: Path) -> None:
    backend.write("large", b"a" * SIZE)
    with at_most(SIZE), pytest.raises(StoreAccessError, match="free some space") as raised:
        backend.write("large", b"b" * (SIZE + 1))
    assert str(tmp_path / "store.zarr" / "large") in str(raised.value)
    assert backend.read("large") == b"a" * SIZE
    assert sorted(path.name for path in (tmp_path / "store.zarr").iterdir()) == ["large", "zarr.json"]
