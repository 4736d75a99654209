"""Putting a zoo in order: names, metadata, what strays into a folder, and many who create the same zoo."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import (
    IncompleteRepresentationError,
    RepresentationExistsError,
    RepresentationNotFoundError,
    StoreAccessError,
    StoreFormatError,
)
from dask_svcca.stores import _chunked, _create, _io
from dask_svcca.stores.dataset import parameters_of
from dask_svcca.stores.zoo import create as create_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dask_svcca import Zoo

N = 40
NAME = ("net", "step1", "fc")
X = np.random.default_rng(0).normal(size=(N, 3)).astype("float32")


@pytest.fixture(params=["local", "memory"])
def zoo(request: pytest.FixtureRequest, tmp_path: Path) -> Zoo:
    store: Any = tmp_path / "zoo.zarr" if request.param == "local" else MemoryStore()
    return dask_svcca.create_zoo(store, examples=range(N), coords={"label": np.arange(N)})


def names(zoo: Zoo) -> list[str]:
    """Labels as a new look finds them, which are those that the zoo knows."""
    found = dask_svcca.open_zoo(zoo.root.store_path).representations.index.tolist()
    assert [name.label for name in zoo] == found
    return found


# Keys.


def test_zoo__is_selected_from_by_label(zoo: Zoo) -> None:
    for name in (NAME, ("a/b", "50%", "/conv/x")):
        zoo.write(*name, X)
    for label in ("net/step1/fc", "a%2Fb/50%25//conv/x"):
        assert label in zoo
        np.testing.assert_array_equal(zoo[label], X)
    assert names(zoo) == zoo.representations.index.tolist()
    for name in zoo:
        assert name in zoo
        assert name.label in zoo
        np.testing.assert_array_equal(zoo[name], X)
    assert [(model, layer) for model, _, layer in zoo] == [("a/b", "/conv/x"), ("net", "fc")]
    for absent in ("net/step1/other", "net/step1", 3, None, ("net", "step1")):
        assert absent not in zoo


@pytest.mark.parametrize("key", ["net/step1", "fc", 0, ("net", "fc"), None, slice(3)])
def test_zoo__says_what_a_key_is(zoo: Zoo, key: Any) -> None:
    with pytest.raises(RepresentationNotFoundError, match="does not name a representation: give its model"):
        zoo[key]


# Deleting and renaming.


@pytest.mark.parametrize("key", [("net/step1/fc",), NAME, (NAME,)])
@pytest.mark.parametrize("looked", [False, True])
def test_delete__removes_a_representation(zoo: Zoo, key: Any, looked: bool) -> None:
    zoo.write(*NAME, X)
    zoo.write("net", "step2", "fc", X)
    zoo.append("net", "step3", "fc", X[:3])
    if looked:
        assert len(zoo) == 2
    zoo.delete(*key)
    assert names(zoo) == ["net/step2/fc"]
    with pytest.raises(
        RepresentationNotFoundError, match="no checkpoint 'step1' for 'net/step1/fc' in this zoo; it has"
    ):
        zoo.delete(*key)
    assert zoo.unfinished == ["net/step3/fc"]
    zoo.delete("net/step3/fc")
    assert zoo.unfinished == []
    zoo.write(*NAME, X + 1)
    np.testing.assert_array_equal(zoo[NAME], X + 1)


@pytest.mark.parametrize("key", [("net", "step1"), ("net", None, "fc")])
def test_delete__of_more_than_one_says_how(zoo: Zoo, key: Any) -> None:
    zoo.write(*NAME, X)
    with pytest.raises(
        RepresentationNotFoundError,
        match=r"does not name a representation: give .* for all of a checkpoint, delete each: for name in zoo",
    ):
        zoo.delete(*key)
    assert names(zoo) == ["net/step1/fc"]


def test_delete__goes_through_a_zoo(zoo: Zoo) -> None:
    for step in range(4):
        zoo.write("net", f"step{step % 2}", f"fc{step}", X)
    for name in zoo:
        if name.checkpoint == "step1":
            zoo.delete(name)
    assert names(zoo) == ["net/step0/fc0", "net/step0/fc2"]


def test_rename__keeps_everything_but_the_name(zoo: Zoo) -> None:
    zoo.write(*NAME, X, step=3, depth=2, attrs={"note": "mine"}, compression="zstd", source_dtype="bfloat16")
    (before,) = zoo.entries()
    zoo.rename("net/step1/fc", ("other net", "step/1", "fc.2"))
    assert names(zoo) == ["other net/step%2F1/fc.2"]
    (after,) = zoo.entries()
    assert zoo.entries() == dask_svcca.open_zoo(zoo.root.store_path).entries()
    assert {**after.attributes, **before.name._asdict()} == before.attributes
    np.testing.assert_array_equal(zoo[after.name], X)
    attributes = zoo.root[after.path].attrs.asdict()
    assert (attributes["note"], attributes["model"], attributes["complete"]) == ("mine", "other net", True)
    # Nothing is left, and a new one may have the name.
    assert zoo.unfinished == []
    zoo.write(*NAME, X)
    assert len(names(zoo)) == 2


def test_rename__over_what_was_never_finished(zoo: Zoo) -> None:
    zoo.write(*NAME, X)
    zoo.append("net", "step2", "fc", X[:3])
    zoo.rename(NAME, ("net", "step2", "fc"))
    assert names(zoo) == ["net/step2/fc"]
    np.testing.assert_array_equal(zoo["net/step2/fc"], X)
    zoo.rename("net/step2/fc", "net/step2/fc")
    assert names(zoo) == ["net/step2/fc"]


def test_rename__refuses(zoo: Zoo) -> None:
    zoo.write(*NAME, X)
    zoo.write("net", "step2", "fc", X)
    zoo.append("net", "step3", "fc", X[:3])
    with pytest.raises(RepresentationExistsError, match="'net/step2/fc' is already in the zoo"):
        zoo.rename(NAME, "net/step2/fc")
    with pytest.raises(RepresentationNotFoundError, match="no checkpoint 'step9' for 'net/step9/fc'"):
        zoo.rename("net/step9/fc", NAME)
    with pytest.raises(IncompleteRepresentationError, match="'net/step3/fc' was begun and never finished"):
        zoo.rename("net/step3/fc", "net/step4/fc")
    with pytest.raises(ValueError, match="a model cannot be called 'label': a coordinate"):
        zoo.rename(NAME, "label/step1/fc")
    with pytest.raises(ValueError, match="the name of a checkpoint must be text"):
        zoo.rename(NAME, ("net", 3, "fc"))  # type: ignore[arg-type]
    reader = dask_svcca.open_zoo(zoo.root.store_path)
    for change in (lambda: reader.delete(NAME), lambda: reader.rename(NAME, "a/b/c")):
        with pytest.raises(StoreFormatError, match="was opened for reading"):
            change()
    assert names(zoo) == ["net/step1/fc", "net/step2/fc"]


def test_rename__of_a_compared_zoo_makes_no_subspace_again(tmp_path: Path) -> None:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        for step in range(3):
            zoo.write("net", f"step{step}", "fc", np.roll(X, step, axis=0))
    options: dict[str, Any] = {"variance": None}
    dask_svcca.compare(zoo, tmp_path / "c", **options)
    zoo.rename("net/step1/fc", "net/middle/fc")
    assert dask_svcca.plan_comparison(zoo, tmp_path / "c", **options).to_dict()["subspaces"] == 0


@pytest.mark.parametrize("broken", ["write_group", "rmtree", "rename", "last write_group"])
def test_delete_and_rename__interrupted_anywhere_lose_nothing_else(tmp_path: Path, broken: str) -> None:
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N))
    zoo.write(*NAME, X, step=1)
    zoo.write("net", "step2", "fc", X + 1)

    calls = []

    def fails(*given: Any, **more: Any) -> None:
        calls.append(given)
        if broken == "last write_group" and len(calls) == 1:
            _write_group(*given, **more)
            return
        raise OSError("out of power")

    _write_group = _chunked.write_group
    target: dict[str, Any] = {
        "write_group": (_chunked, "write_group"),
        "last write_group": (_chunked, "write_group"),
        "rmtree": (shutil, "rmtree"),
        "rename": (type(tmp_path), "rename"),
    }[broken]
    for change in ("rename", "delete"):
        calls.clear()
        with patch.object(*target, fails):
            try:
                zoo.rename(NAME, "net/new/fc") if change == "rename" else zoo.delete(NAME)
            except (OSError, RepresentationNotFoundError) as error:
                assert "out of power" in str(error) or "no checkpoint" in str(error)  # noqa: PT017
        zoo = dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+")
        found = [name.label for name in zoo]
        assert "net/step2/fc" in found
        for name in zoo:
            np.testing.assert_array_equal(zoo[name], X + (name.checkpoint == "step2"))
        # A representation is there under one of its names, unless it is being deleted.
        if change == "rename":
            assert len(found) == 2
        zoo.write(*NAME, X, overwrite=True)


# Metadata is checked before the first byte.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": "epoch-1"}, "step must be a finite number, or None for none; got 'epoch-1'"),
        ({"step": True}, "step must be a finite number"),
        ({"step": 10**400}, "step must be a finite number"),
        ({"depth": [1]}, "depth must be a finite number"),
        ({"attrs": {"lr": object()}}, r"attrs\['lr'\] is <object object .*>, which cannot be stored: attributes are"),
        ({"attrs": {"lr": [1.0, float("nan")]}}, r"attrs\['lr'\]\[1\] is nan, which cannot be stored"),
        ({"attrs": {1: "one"}}, r"attrs is \{1: 'one'\}, which cannot be stored"),
        ({"attrs": {"when": np.datetime64("2026-01-01")}}, r"attrs\['when'\] is datetime"),
        ({"attrs": {"step": 3}}, "attrs has 'step', which the zoo itself stores of a representation"),
        ({"attrs": {"complete": True}}, "attrs has 'complete'"),
        ({"attrs": "note"}, "attrs is a mapping of text to values; got 'note'"),
        ({"compression": "gzip"}, "compression is one of 'lz4', 'zstd', 'none'; got 'gzip'"),
        ({"dtype": "int8"}, "dtype is one of 'float16', 'float32', 'float64'; got 'int8'"),
        ({"source_dtype": "half"}, "a source_dtype is one of 'float64', .*; got 'half'"),
    ],
)
def test_write__checks_all_metadata_before_the_first_byte(zoo: Zoo, options: Any, message: str) -> None:
    for write in (zoo.write, zoo.append):
        with pytest.raises(ValueError, match=message):
            write(*NAME, X, **options)
    assert (len(zoo), zoo.unfinished) == (0, [])


@pytest.mark.parametrize("name", [("net", 100, "fc"), (None, "step1", "fc"), ("net", "step1", 3.5)])
def test_write__checks_names_before_the_first_byte(zoo: Zoo, name: Any) -> None:
    for write in (zoo.write, zoo.append):
        with pytest.raises(ValueError, match=r"the name of a \w+ must be text of at least one character; got"):
            write(*name, X)
    assert (len(zoo), zoo.unfinished) == (0, [])


def test_write__takes_numbers_of_numpy_as_metadata(zoo: Zoo) -> None:
    attrs = {
        "lr": np.float32(0.5),
        "seed": np.int64(3),
        "best": np.bool_(True),
        "name": np.str_("mine"),
        "sizes": np.arange(3),
        "more": {"nested": (np.float64(1.5), None)},
    }
    zoo.write(*NAME, X, step=np.float32(2.5), depth=np.int8(3), attrs=attrs)
    (item,) = dask_svcca.open_zoo(zoo.root.store_path).entries()
    assert (item.step, item.depth) == (2.5, 3)
    found = zoo.root["/".join(NAME)].attrs.asdict()
    assert {key: found[key] for key in attrs} == {
        "lr": 0.5,
        "seed": 3,
        "best": True,
        "name": "mine",
        "sizes": [0, 1, 2],
        "more": {"nested": [1.5, None]},
    }


@pytest.mark.parametrize("spoiled", [{"step": "epoch-1"}, {"shape": None}, {"dtype": "no"}, {"source_dtype": "half"}])
def test_zoo__one_spoiled_representation_leaves_the_others_readable(zoo: Zoo, spoiled: dict[str, Any]) -> None:
    zoo.write(*NAME, X)
    zoo.write("net", "step2", "fc", X)
    zoo.root["net/step1/fc"].attrs.update(spoiled)
    again = dask_svcca.open_zoo(zoo.root.store_path, mode="r+")
    assert again.representations.index.tolist() == ["net/step2/fc"]
    assert again.unfinished == ["net/step1/fc"]
    again.delete("net/step1/fc")
    assert again.unfinished == []


@pytest.mark.parametrize("variance", [np.float32(0.99), np.float64(0.99), np.float16(0.99)])
def test_compare__takes_numbers_of_numpy(tmp_path: Path, variance: Any) -> None:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        zoo.write(*NAME, X)
    dask_svcca.compare(zoo, tmp_path / "c", variance=variance)
    # The store opens, and is that of the number as it prints.
    dask_svcca.compare(zoo, tmp_path / "c", variance=0.99)
    assert parameters_of(dask_svcca.open_comparison(tmp_path / "c"))["variance"] == 0.99


@pytest.mark.parametrize("variance", ["0.99", True, np.bool_(True), [0.99], np.float32("nan"), 1j])
def test_compare__refuses_what_is_not_a_share(tmp_path: Path, variance: Any) -> None:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        zoo.write(*NAME, X)
    with pytest.raises(ValueError, match="variance is the share of the variance to keep, above 0 and up to 1; got"):
        dask_svcca.compare(zoo, tmp_path / "c", variance=variance)
    assert not (tmp_path / "c").exists()


# Folders and what strays into them.


def test_zoo__does_not_mind_what_strays_into_its_folder(tmp_path: Path) -> None:
    place = tmp_path / "zoo.zarr"
    place.mkdir()
    (place / ".DS_Store").write_text("a file manager was here")
    zoo = dask_svcca.create_zoo(place, examples=range(N))
    zoo.write(*NAME, X)
    zoo.write("net", "step2", "fc", X + 1)
    for stray in (".ipynb_checkpoints", "net/.ipynb_checkpoints", "net/step1/.ipynb_checkpoints", "__MACOSX", "notes"):
        shutil.copytree(place / "net" / "step2", place / stray / "step1" / "fc", dirs_exist_ok=True)
    for folder in (place, place / "net", place / "net" / "step1", place / "net" / "step1" / "fc"):
        (folder / "._zarr.json").write_text("a resource fork")
        (folder / ".DS_Store").write_text("")
    zoo = dask_svcca.open_zoo(place)
    assert zoo.representations.index.tolist() == ["net/step1/fc", "net/step2/fc"]
    comparison = tmp_path / "c"
    dask_svcca.compare(zoo, comparison, variance=None)
    for stray in (".ipynb_checkpoints", "notes"):
        (comparison / stray).mkdir()
        (comparison / "subspaces" / stray).mkdir()
        (comparison / stray / "x.txt").write_text("")
    dask_svcca.open_zoo(place, mode="r+").write("net", "step3", "fc", X[:, :2])
    found = dask_svcca.compare(zoo, comparison, variance=None)
    assert found.sizes["representation_a"] == 3


@pytest.mark.parametrize("where", [".", "sub"])
def test_create__refuses_a_folder_with_other_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        zoo.write(*NAME, X)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    (tmp_path / "sub" / "notes.txt").write_text("mine")
    place = {".": ".", "sub": tmp_path / "sub"}[where]
    message = r"there is already something else at .*: the folder holds 'notes\.txt'; choose another place, for example"
    attempts: list[Callable[[], Any]] = [
        lambda: dask_svcca.create_zoo(place, examples=range(N)),
        lambda: dask_svcca.create_zoo(place, examples=range(N), exist_ok=True),
        lambda: dask_svcca.compare(zoo, place),
        lambda: dask_svcca.compare(zoo, tmp_path / "c", subspaces=place),
        lambda: _create.create_root(place, {}),
    ]
    for attempt in attempts:
        with pytest.raises(StoreFormatError, match=message):
            attempt()
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["notes.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sub", "zoo.zarr"]


def test_create_zoo__at_the_end_of_a_link(tmp_path: Path) -> None:
    for target in ("there", "not there"):
        place = tmp_path / f"link to {target}"
        place.symlink_to(tmp_path / target)
        if target == "there":
            (tmp_path / target).mkdir()
        dask_svcca.create_zoo(place, examples=range(N)).write(*NAME, X)
        assert place.is_symlink()
        assert NAME in dask_svcca.open_zoo(tmp_path / target)


def test_stores__expand_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with dask_svcca.create_zoo("~/zoo.zarr", examples=range(N)) as zoo:
        zoo.write(*NAME, X)
    assert NAME in dask_svcca.open_zoo("~/zoo.zarr")
    assert NAME in dask_svcca.open_zoo(f"file://{tmp_path}/zoo.zarr")
    assert NAME in dask_svcca.open_zoo(str(zoo.root.store_path))
    dask_svcca.compare(zoo, "~/c.zarr", subspaces="~/s.zarr", variance=None)
    assert dask_svcca.open_comparison("~/c.zarr").sizes["representation_a"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr", "s.zarr", "zoo.zarr"]


# Creating a zoo: at once, or not at all.


@pytest.mark.parametrize("store", ["local", "memory"])
@pytest.mark.parametrize("exist_ok", [False, True])
def test_create_zoo__after_it_was_interrupted(tmp_path: Path, store: str, exist_ok: bool) -> None:
    place: Any = tmp_path / "zoo.zarr" if store == "local" else MemoryStore()
    original = create_module.write_coords

    def breaks(*given: Any) -> None:
        original(*given)
        raise KeyboardInterrupt

    with patch.object(create_module, "write_coords", breaks), pytest.raises(KeyboardInterrupt):
        dask_svcca.create_zoo(place, examples=range(3, N))
    with pytest.raises(StoreFormatError):
        dask_svcca.open_zoo(place)
    zoo = dask_svcca.create_zoo(place, examples=range(N), coords={"label": np.arange(N)}, exist_ok=exist_ok)
    assert dask_svcca.open_zoo(place).examples.tolist() == list(range(N))
    assert set(zoo.coords) == {"label"}


def test_create_zoo__where_a_folder_cannot_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    with patch.object(type(tmp_path), "rename", side_effect=OSError(16, "Device or resource busy")):
        zoo = dask_svcca.create_zoo(tmp_path / "mounted", examples=range(N))
    zoo.write(*NAME, X)
    assert [path.name for path in tmp_path.iterdir()] == ["mounted"]
    assert NAME in dask_svcca.open_zoo(tmp_path / "mounted")
    with (
        patch.object(type(tmp_path), "rename", side_effect=OSError(28, "No space left on device")),
        pytest.raises(StoreAccessError, match=r"cannot access .*No space left"),
    ):
        dask_svcca.create_zoo(tmp_path / "full", examples=range(N))
    assert [path.name for path in tmp_path.iterdir()] == ["mounted"]


# Other versions of zarr.


@pytest.mark.parametrize("group", [True, False])
def test_open_zoo__says_that_a_store_is_of_zarr_format_2(tmp_path: Path, group: bool) -> None:
    if group:
        zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    else:
        zarr.create_array(tmp_path / "old.zarr", shape=(3,), dtype="float32", zarr_format=2)
    for attempt in (dask_svcca.open_zoo, dask_svcca.open_comparison, _io.read_kind):
        with pytest.raises(StoreFormatError, match="a store of zarr format 2, which zarr before version 3 wrote"):
            attempt(tmp_path / "old.zarr")


@pytest.mark.parametrize("file", ["zarr.json", "example/zarr.json", "net/step1/fc/activations/zarr.json"])
@pytest.mark.parametrize("change", [{"zarr_format": 4}, {"codecs": [{"name": "new"}], "attributes": 3}])
def test_zoo__says_that_a_newer_zarr_wrote_it(tmp_path: Path, file: str, change: dict[str, Any]) -> None:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        zoo.write(*NAME, X)
    metadata = tmp_path / "zoo.zarr" / file
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), **change}))
    with pytest.raises(StoreFormatError, match=r"zarr 3\.\S+ cannot read the metadata of .* upgrade zarr; otherwise"):
        dask_svcca.open_zoo(tmp_path / "zoo.zarr")[NAME]
