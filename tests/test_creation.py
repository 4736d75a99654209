"""How stores come to be: whole, by one of several processes, over what others left that were killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import MismatchedExamplesError, StoreFormatError
from dask_svcca.stores import _create
from dask_svcca.stores._create import create_root, create_whole
from dask_svcca.stores.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable


def fill(root: zarr.Group) -> None:
    root.create_group("inside")


def test_create__sweeps_what_those_left_who_are_gone(tmp_path: Path) -> None:
    maker = _create._maker()
    host, process, started = maker.split("-")
    gone = [f".zoo.zarr.{host}-{process}-1.aa.partial", f".zoo.zarr.elsewhere-{process}-{started}.bb.partial"]
    at_work = [f".zoo.zarr.{maker}.cc.partial", f".zoo.zarr.elsewhere-{process}-{started}.dd.partial"]
    others = [f".other.zarr.{host}-{process}-1.ee.partial", ".zoo.zarr.partial"]
    for name in (*gone, *at_work, *others):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / gone[1], (1e9, 1e9))
    dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["zoo.zarr", *at_work, *others])


class Outpaced(Lease):
    """Another process creates the store while this one waits."""

    other: Any = None

    def take(self, **options: Any) -> bool:
        other, Outpaced.other = Outpaced.other, None
        if other is not None:
            other()
        return super().take(**options)


def test_create__in_place_by_two_is_done_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_create, "Lease", Outpaced)
    store = MemoryStore()
    filled = []

    def other() -> None:
        assert create_whole(store, "zoo", {"format": "first"}, fill) is not None

    Outpaced.other = other
    assert create_whole(store, "zoo", {"format": "second"}, filled.append) is None
    assert filled == []
    assert zarr.open_group(store).attrs["format"] == "first"
    assert sorted(store._store_dict) == ["inside/zarr.json", "zarr.json"]


def test_create_zoo__in_place_with_other_examples_mixes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_create, "Lease", Outpaced)
    store = MemoryStore()
    Outpaced.other = lambda: dask_svcca.create_zoo(store, examples=range(5))
    with pytest.raises(MismatchedExamplesError, match="has 5 examples"):
        dask_svcca.create_zoo(store, examples=range(4), exist_ok=True)
    assert dask_svcca.open_zoo(store).examples.tolist() == [0, 1, 2, 3, 4]


def test_create_root__of_two_one_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other looked before it was there."""
    store = MemoryStore()
    check_free = _create.check_free

    def overtaken(place: Any) -> None:
        check_free(place)
        monkeypatch.setattr(_create, "check_free", check_free)
        create_root(store, {"made": "first"})

    monkeypatch.setattr(_create, "check_free", overtaken)
    with pytest.raises(StoreFormatError, match="already something else"):
        create_root(store, {"made": "second"})
    assert zarr.open_group(store).attrs["made"] == "first"


def test_create__beside_leaves_nothing_where_it_was_outpaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename
    others = iter([None])

    def outpaced(path: Path, target: Path) -> Any:
        if path.name.endswith(".partial") and next(others, 1) is None:
            dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(3))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", outpaced)
    with pytest.raises(StoreFormatError, match="there is a zoo at"):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(3))
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.zarr"]


@pytest.mark.parametrize("ask", [dask_svcca.verify, dask_svcca.open_comparison, dask_svcca.query, dask_svcca.open_zoo])
def test_create__that_was_stopped_in_its_place_is_said(ask: Callable[[Any], Any]) -> None:
    store = MemoryStore()
    zarr.open_group(store, mode="w", attributes={"format": "dask-svcca-comparison-unfinished"})
    with pytest.raises(StoreFormatError, match="was stopped while it was created, and holds nothing yet: do again"):
        ask(store)
    layers = dict(zip("ab", np.random.default_rng(0).normal(size=(2, 50, 4)), strict=True))
    assert dask_svcca.compare(layers, store).svcca.notnull().all()
