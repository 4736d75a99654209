"""Access to stores: what cannot be read is an error that names it, and not an absence."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import zarr
from zarr.errors import ContainsArrayError, GroupNotFoundError
from zarr.storage import LocalStore, MemoryStore, StorePath

import dask_svcca
from dask_svcca.errors import DaskSvccaError, StoreAccessError, StoreFormatError
from dask_svcca.stores import _create, _io
from dask_svcca.stores._documents import sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = ("net", "step1", "fc")


class Locked(MemoryStore):
    """A store elsewhere whose owner has taken the rights to read away, below a prefix."""

    prefix: str | None = None

    def _look(self, key: str) -> None:
        if self.prefix is not None and key.startswith(self.prefix):
            raise PermissionError(13, "Access denied", key)

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        self._look(key)
        return await super().get(key, *args, **options)

    def get_sync(self, key: str, *args: Any, **options: Any) -> Any:
        self._look(key)
        return super().get_sync(key, *args, **options)

    async def list_dir(self, prefix: str) -> Any:
        self._look(prefix)
        async for key in super().list_dir(prefix):
            yield key


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[dask_svcca.Zoo]:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(5)) as zoo:
        zoo.write(*NAME, np.ones((5, 2)))
        yield zoo


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_open_group__of_a_folder_is_what_zarr_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Literal["r", "r+"]
) -> None:
    made = zarr.create_group(tmp_path / "a" / "b", attributes={"x": [1, None]})
    made.create_array("inside", shape=(3,), dtype="int8")
    zarr.consolidate_metadata(made.store)
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "a" / "b", "a/b", f"file://{tmp_path}/a/b"):
        found = _io.open_group(place, mode=mode)
        expected = zarr.open_group(tmp_path / "a" / "b", mode=mode, use_consolidated=False)
        assert found == expected
        assert found.metadata.consolidated_metadata is None
        assert (found.read_only, found.store_path) == (mode == "r", expected.store_path)
        assert [*found] == ["inside"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"zarr_format": 3, "node_type": 5}',
        b'{"zarr_format": 3, "node_type": "array"}',
        b'{"zarr_format": 3, "node_type": "group", "attributes": 5}',
        b'{"zarr_format": 3, "node_type": "group", "more": 5}',
    ],
)
def test_open_group__of_a_folder_that_is_damaged_says_what_it_says_of_any_store(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "zarr.json").write_bytes(content)
    said = []
    for store in (tmp_path, LocalStore(tmp_path)):
        with pytest.raises((DaskSvccaError, GroupNotFoundError, ContainsArrayError)) as raised:
            _io.open_group(store, mode="r")
        words = str(raised.value).replace("file://", "") if isinstance(raised.value, DaskSvccaError) else ""
        said.append((type(raised.value), words))
    assert said[0] == said[1]


def deny(monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, where: Path) -> None:
    """As the system does for a user without rights; root has them all."""
    original = getattr(owner, function)

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if Path(path) == where:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *args, **options)

    monkeypatch.setattr(owner, function, refuse)


STORES: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "path": Path,
    "store": LocalStore,
    "below a store": lambda path: StorePath(LocalStore(path.parent), path.name),
}


@pytest.mark.parametrize("kind", STORES)
def test_is_group__absence_is_no_error(tmp_path: Path, kind: str) -> None:
    as_store = STORES[kind]
    assert not _io.is_group(as_store(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    assert not _io.is_group(as_store(tmp_path / "empty"))
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="float32")
    assert not _io.is_group(as_store(tmp_path / "array"))
    (tmp_path / "file").write_text("")
    assert not _io.is_group(tmp_path / "file")
    assert not _io.is_group(tmp_path / "file" / "below")
    zarr.create_group(tmp_path / "group")
    assert _io.is_group(as_store(tmp_path / "group"))


@pytest.mark.parametrize("kind", STORES)
def test_is_group__missing_rights_are_no_absence(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = tmp_path / "zoo.zarr"
    deny(monkeypatch, os, "stat", place / "zarr.json")
    store = STORES[kind](place)
    with pytest.raises(StoreAccessError, match=r"zoo\.zarr.*Permission denied.*Check your rights") as error:
        _io.is_group(store)
    assert isinstance(error.value, DaskSvccaError)
    assert isinstance(error.value, OSError)
    for attempt in (
        lambda: dask_svcca.open_zoo(store),
        lambda: dask_svcca.create_zoo(store, examples=range(5)),
        lambda: dask_svcca.create_zoo(store, examples=range(5), exist_ok=True),
        lambda: _io.read_kind(store),
    ):
        with pytest.raises(StoreAccessError, match=r"zoo\.zarr"):
            attempt()


def test_is_group__missing_rights_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Locked()
    dask_svcca.create_zoo(store, examples=range(5))
    monkeypatch.setattr(Locked, "prefix", "")
    for attempt in (_io.is_group, dask_svcca.open_zoo, _io.read_kind):
        with pytest.raises(StoreAccessError, match=r"cannot access 'memory://.*Access denied"):
            attempt(store)


def test_create_root__says_where_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, os, "mkdir", tmp_path / "zoo.zarr")
    with pytest.raises(StoreAccessError, match=r"cannot access .*zoo\.zarr.*Permission denied"):
        _create.create_root(tmp_path / "zoo.zarr", {})


def test_read_attributes__missing_rights_are_no_absence(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path.joinpath("zoo.zarr", *NAME, "zarr.json")
    deny(monkeypatch, builtins, "open", file)
    for attempt in (
        lambda: NAME in dask_svcca.open_zoo(tmp_path / "zoo.zarr"),
        lambda: dask_svcca.open_zoo(tmp_path / "zoo.zarr").entries(),
        # It must not be taken for one that was never written.
        lambda: dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+").write(*NAME, np.zeros((5, 2))),
    ):
        with pytest.raises(StoreAccessError, match=r"net.step1.fc.zarr\.json.*Permission denied"):
            attempt()
    assert _io.read_attributes(zoo.root, "net/step1/other") is None


@pytest.mark.parametrize("folder", ["", "net", "net/step1"])
def test_walk_attributes__a_folder_without_rights_is_not_empty(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    deny(monkeypatch, os, "scandir", tmp_path / "zoo.zarr" / folder)
    with pytest.raises(StoreAccessError, match=r"cannot access '.*zoo\.zarr.*Permission denied"):
        dask_svcca.open_zoo(tmp_path / "zoo.zarr").entries()


def test_attributes__missing_rights_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Locked()
    with dask_svcca.create_zoo(store, examples=range(5)) as zoo:
        zoo.write(*NAME, np.ones((5, 2)))
    assert len(dask_svcca.open_zoo(store)) == 1
    monkeypatch.setattr(Locked, "prefix", "net/step1")
    with pytest.raises(StoreAccessError, match=r"net/step1/fc.*Access denied"):
        _ = NAME in dask_svcca.open_zoo(store)
    with pytest.raises(StoreAccessError, match=r"cannot access 'memory://.*Access denied: 'net/step1"):
        dask_svcca.open_zoo(store).entries()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no rights to take away")
def test_zoo__in_a_folder_that_may_not_be_entered(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    place = tmp_path / "zoo.zarr"
    for locked in (place / "net", place, tmp_path):
        locked.chmod(0)
        try:
            with pytest.raises(StoreAccessError, match=r"zoo\.zarr"):
                dask_svcca.open_zoo(place).entries()
            with pytest.raises((StoreAccessError, StoreFormatError), match=r"zoo\.zarr"):
                dask_svcca.create_zoo(place, examples=range(5))
        finally:
            locked.chmod(0o700)


def test_open_root__refuses_other_versions(tmp_path: Path) -> None:
    def store_of(version: Any) -> Path:
        place = tmp_path / f"{version!r}.zarr"
        zarr.create_group(place, attributes=sealed({"format": "dask-svcca-thing", "format_version": version}))
        return place

    assert _io.open_root(store_of(5), mode="r", kind="thing", version=5).attrs["format_version"] == 5
    with pytest.raises(StoreFormatError, match=r"the thing at .*4.zarr' has format version 4, .* version 5 only"):
        _io.open_root(store_of(4), mode="r", kind="thing", version=5)
    for version in (6, None, "5"):
        with pytest.raises(StoreFormatError, match=f"has format version {version!r}; .* up to 5. Upgrade"):
            _io.open_root(store_of(version), mode="r", kind="thing", version=5)
