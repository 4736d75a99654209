"""Places of stores as people give them, and what else lies in their folders."""

from __future__ import annotations

import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import pytest
from cli_runner import run
from zoos import assert_same, assert_same_to_rounding, layers, make_zoo

import dask_svcca
from dask_svcca.errors import RepresentationExistsError, StoreAccessError, StoreFormatError
from dask_svcca.stores import _links
from dask_svcca.stores._urls import Url

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _synchronous() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def test_compare__in_the_memory_of_this_process(tmp_path: Path) -> None:
    place = f"memory://{tmp_path.name}"
    make_zoo(f"{place}/zoo.zarr", layers(3))
    found = dask_svcca.compare(f"{place}/zoo.zarr", f"{place}/c.zarr").load()
    assert_same(found, dask_svcca.compare(make_zoo(tmp_path / "zoo.zarr", layers(3))).load())
    assert len(dask_svcca.query(f"{place}/c.zarr", top=1)) == 1
    assert dask_svcca.verify(f"{place}/c.zarr").ok


@pytest.mark.parametrize("command", ["compare zoo.zarr memory://c", "info memory://c", "query memory://c --top 1"])
def test_command__refuses_its_own_memory(command: str) -> None:
    assert "is the memory of this command, and ends with it" in run(command, status=2).output


def test_place__home_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make_zoo("~/zoo.zarr", layers(3))
    dask_svcca.compare(f"file://{tmp_path}/zoo.zarr", Path("~/c.zarr"), subspaces=f"file://{tmp_path}/s.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr", "s.zarr", "zoo.zarr"]
    assert "3 of 1 model" in run("info ~/c.zarr").output
    with pytest.raises(StoreAccessError, match="there is no home folder for '~nobody-at-all"):
        dask_svcca.open_zoo("~nobody-at-all/zoo.zarr")


@pytest.mark.parametrize(
    ("place", "options", "error", "message"),
    [
        ("nothing://x/y", None, StoreFormatError, "is not a place that can be opened: Protocol not known: nothing"),
        ("memory://none-there", None, StoreFormatError, "no zoo at 'memory://none-there'"),
        ("s3://x/y", {"colour": 1}, StoreAccessError, "cannot be opened with these storage_options: .*'colour'"),
    ],
)
def test_open_zoo__says_what_is_wrong_with_a_url(
    place: str, options: dict[str, Any] | None, error: type[Exception], message: str
) -> None:
    if place.startswith("s3"):
        pytest.importorskip("obstore")
    with pytest.raises(error, match=message):
        dask_svcca.open_zoo(place, storage_options=options)


def test_open_zoo__names_what_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(StoreAccessError, match=r"what reads and writes 'gcs://x/y' is not installed.*'fsspec\[gcs\]'"):
        dask_svcca.open_zoo("gcs://x/y")


def test_url__is_text_that_takes_its_options_along() -> None:
    url = pickle.loads(pickle.dumps(Url("s3://bucket/zoo.zarr", {"region": "x"})))
    assert (url, url.options) == ("s3://bucket/zoo.zarr", {"region": "x"})


STRAYS = (
    ".DS_Store",
    "._zarr.json",
    "Thumbs.db",
    "desktop.ini",
    ".ipynb_checkpoints/zarr-checkpoint.json",
    "notes.txt",
)


def test_stray_files__break_nothing(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    dask_svcca.compare(zoo, tmp_path / "c.zarr", subspaces=tmp_path / "s.zarr")
    stores = [tmp_path / name for name in ("zoo.zarr", "c.zarr", "s.zarr")]
    for store in stores:
        for folder in [path for path in [store, *store.rglob("*")] if path.is_dir()]:
            for stray in STRAYS:
                (folder / stray).parent.mkdir(exist_ok=True)
                (folder / stray).write_bytes(b"\0\5\26\7 not ours")
    again = dask_svcca.open_zoo(stores[0], mode="r+")
    assert len(again) == 3
    assert again.unfinished == []
    assert [one for store in stores for one in dask_svcca.verify(store).damage] == []
    again.write("net", "step003", "fc", layers(4)[3], step=3)
    again.write("net", "step000", "fc", layers(1, seed=5)[0], step=0, overwrite=True)
    found = dask_svcca.compare(stores[0], stores[1], measures=("svcca", "cka"), subspaces=stores[2]).load()
    fresh = make_zoo(tmp_path / "fresh.zarr", [layers(1, seed=5)[0], *layers(4)[1:]])
    assert_same_to_rounding(found, dask_svcca.compare(fresh, measures=("svcca", "cka")))
    assert [one for store in stores for one in dask_svcca.verify(store).damage] == []
    assert len(dask_svcca.query(stores[1])) == 6


def test_write__names_that_the_disk_takes_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(1))
    x = layers(1)[0]
    # Here they are two.
    zoo.write("net", "step000", "FC", x)
    zoo.delete("net", "step000", "FC")
    whole = os.path.lexists
    monkeypatch.setattr(
        _links.os.path,
        "lexists",
        lambda path: (
            whole(path) or Path(path).name.lower() in {one.name.lower() for one in Path(path).parent.iterdir()}
        ),
    )
    for name, taken in {("net", "step000", "FC"): "net/step000/fc", ("NET", "new", "fc"): "net"}.items():
        with pytest.raises(RepresentationExistsError, match="does not distinguish upper and lower case"):
            zoo.write(*name, x)
        assert _links.under_other_case(str(tmp_path / "zoo.zarr"), "/".join(name)) == taken.rpartition("/")[2]
    zoo.write("net", "step000", "fc2", x)


def test_replace_file__waits_while_windows_has_it_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, failures = os.replace, [2]

    def replace(source: str, target: str) -> None:
        if failures[0]:
            failures[0] -= 1
            error = PermissionError(13, "used by another process")
            error.winerror = 32
            raise error
        whole(source, target)

    monkeypatch.setattr(_links, "WAITS", (0, 0))
    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    _links.replace_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_text() == "new"
    failures[0] = 9
    (tmp_path / "a").write_text("newer")
    with pytest.raises(PermissionError):
        _links.replace_file(str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize("name", ["CON", "aux", "nul.txt", "dots..", "space ", "a" * 255, "Ü/ß:*?", "..", "zarr.json"])
def test_write__names_that_are_no_file_names(tmp_path: Path, name: str) -> None:
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(60))
    x = layers(1)[0]
    zoo.write(name, name, name, x)
    assert [tuple(found) for found in dask_svcca.open_zoo(tmp_path / "zoo.zarr")] == [(name, name, name)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zoo.zarr"]
    zoo.delete(name, name, name)
    with pytest.raises(ValueError, match="takes 256 bytes as a file name, and file systems allow 255"):
        zoo.write("a" * 256, "c", "l", x)


@pytest.mark.parametrize("part", ["net", "net/step000", "net/step000/fc", "net/step000/fc/activations"])
def test_zoo__a_link_that_leads_out_is_read_and_never_written(tmp_path: Path, part: str) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    (tmp_path / "outside").mkdir()
    (tmp_path / "zoo.zarr" / part).rename(tmp_path / "outside" / "moved")
    (tmp_path / "zoo.zarr" / part).symlink_to(tmp_path / "outside" / "moved")
    before = {path: path.stat().st_size for path in (tmp_path / "outside").rglob("*") if path.is_file()}
    assert (dask_svcca.open_zoo(tmp_path / "zoo.zarr")["net/step000/fc"].to_numpy() == layers(2)[0]).all()
    for change in (
        lambda: zoo.write("net", "step000", "fc", layers(2)[1], overwrite=True),
        lambda: zoo.write("net", "step009", "fc", layers(2)[1]),
        lambda: zoo.delete("net/step000/fc"),
    ):
        # What is not below the link is written.
        with suppress(StoreAccessError):
            change()
    assert {path: path.stat().st_size for path in before} == before
    assert set((tmp_path / "outside").rglob("*")) >= set(before)


@pytest.mark.parametrize("part", ["svcca", "svcca/c", "svcca/c/0", "pair_status/c", "model_a/c"])
def test_compare__into_a_link_that_leads_out_is_refused(tmp_path: Path, part: str) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    dask_svcca.compare(zoo, tmp_path / "c.zarr")
    (tmp_path / "outside").mkdir()
    (tmp_path / "c.zarr" / part).rename(tmp_path / "outside" / "moved")
    (tmp_path / "c.zarr" / part).symlink_to(tmp_path / "outside" / "moved")
    with pytest.raises(StoreAccessError, match="is a link that leads out of the store"):
        dask_svcca.compare(zoo, tmp_path / "c.zarr", measures="cka")


def test_icechunk__is_read_and_not_written(tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk")
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3))
    stored: dict[str, Any] = {}
    expected = dask_svcca.compare(zoo, tmp_path / "c.zarr").load()
    for name in ("zoo.zarr", "c.zarr"):
        repository = icechunk.Repository.create(icechunk.in_memory_storage())
        session = repository.writable_session("main")
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        for file in sorted(files, key=lambda path: path.name != "zarr.json"):
            buffer = default_buffer_prototype().buffer.from_bytes(file.read_bytes())
            sync(session.store.set(file.relative_to(tmp_path / name).as_posix(), buffer))
        session.commit("a copy")
        stored[name] = repository.readonly_session("main").store
        with pytest.raises(StoreAccessError, match="a writable session of icechunk, which cannot be sent to workers"):
            dask_svcca.compare(zoo, repository.writable_session("main").store)
    assert_same(dask_svcca.compare(stored["zoo.zarr"], tmp_path / "d.zarr").load(), expected)
    assert_same(dask_svcca.open_comparison(stored["c.zarr"]).load(), expected)
    assert dask_svcca.verify(stored["c.zarr"]).ok
