"""A checkpoint is written by one process at a time, and what a writer left that was killed is put in order."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import dask_svcca
from dask_svcca import machine
from dask_svcca.errors import StoreInUseError
from dask_svcca.stores.lease import Holder

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca import Zoo

X = np.random.default_rng(0).normal(size=(20, 3))
NEW = X + 1


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(20))


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "example").glob("lease*"))


def hand_over(folder: Path, *, alive: bool) -> None:
    """Make the leases of this process those of another, which lives or was killed."""
    parent = os.getppid()
    started = machine.process_start(parent) if alive else "1"
    for name in held(folder):
        path = folder / "example" / name
        holder = replace(Holder(**json.loads(path.read_text())), owner="other", process=parent, started=started or "")
        path.write_text(json.dumps(asdict(holder)))


def another(folder: Path, *, alive: bool, overwrite: bool = False) -> None:
    """Another process writes a checkpoint, and lives or was killed in the middle."""
    zoo = dask_svcca.open_zoo(folder, mode="r+")
    zoo.append("net", "step1", "fc", NEW[:12], overwrite=overwrite)
    zoo._bound()
    hand_over(folder, alive=alive)


def test_write__of_a_checkpoint_that_another_process_writes_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    folder = tmp_path / "zoo.zarr"
    another(folder, alive=True)
    gc.collect()
    with pytest.raises(StoreInUseError, match=rf"the checkpoint 'net/step1' of the zoo .* process {os.getppid()} of"):
        zoo.write("net", "step1", "other", X)
    with pytest.raises(StoreInUseError, match="'net/step1'"):
        zoo.append("net", "step1", "fc", X[:3])
    zoo.write("net", "step2", "fc", X)
    assert [str(name.label) for name in zoo] == ["net/step2/fc"]
    assert len(held(folder)) == 1


def test_write__of_a_checkpoint_whose_writer_was_killed_takes_it_over(zoo: Zoo, tmp_path: Path) -> None:
    folder = tmp_path / "zoo.zarr"
    zoo.write("net", "step1", "old", X)
    zoo.write("net", "step1", "fc", X)
    another(folder, alive=False, overwrite=True)
    stray = folder / "net" / "step1" / "old" / "zarr.json.abc.partial"
    stray.write_text("")
    gc.collect()
    assert list(folder.glob("_new-*"))
    np.testing.assert_array_equal(zoo["net", "step1", "fc"], X)
    zoo.write("net", "step1", "more", X)
    assert not list(folder.glob("_new-*"))
    assert not stray.exists()
    assert held(folder) == []
    np.testing.assert_array_equal(zoo["net", "step1", "fc"], X)


def test_append__has_the_checkpoint_until_the_last_layer_is_whole(zoo: Zoo, tmp_path: Path) -> None:
    folder = tmp_path / "zoo.zarr"
    for layer in ("a", "b"):
        zoo.append("net", "step1", layer, X[:5])
    assert len(held(folder)) == 1
    zoo.append("net", "step1", "a", X[5:])
    assert len(held(folder)) == 1
    zoo.abandon("net", "step1", "b")
    assert held(folder) == []


def test_append__whose_zoo_is_gone_gives_the_checkpoint_back(tmp_path: Path) -> None:
    folder = tmp_path / "zoo.zarr"
    zoo = dask_svcca.create_zoo(folder, examples=range(20))
    zoo.append("net", "step1", "fc", X[:5])
    assert len(held(folder)) == 1
    del zoo
    gc.collect()
    assert held(folder) == []


def test_append__by_two_objects_of_one_process_goes_on(zoo: Zoo, tmp_path: Path) -> None:
    zoo.append("net", "step1", "a", X[:5])
    with dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+") as other:
        other.write("net", "step1", "b", X)
    assert len(held(tmp_path / "zoo.zarr")) == 1
    zoo.append("net", "step1", "a", X[5:])
    assert held(tmp_path / "zoo.zarr") == []


@pytest.mark.parametrize("bad", [np.full((20, 3), "x"), X[:7]])
def test_write__that_is_refused_gives_the_checkpoint_back(zoo: Zoo, tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(dask_svcca.errors.DaskSvccaError):
        zoo.write("net", "step1", "fc", bad)
    zoo.write("net", "step1", "fc", X)
    with pytest.raises(dask_svcca.errors.RepresentationExistsError):
        zoo.write("net", "step1", "fc", X)
    assert held(tmp_path / "zoo.zarr") == []


def test_write__does_not_finish_what_another_has_taken_over(zoo: Zoo, tmp_path: Path) -> None:
    from dask_svcca.stores.zoo.leases import _WRITTEN

    zoo.append("net", "step1", "fc", X[:5])
    (checkpoint,) = _WRITTEN.values()
    checkpoint.lease._lost = "another run has taken over the checkpoint"
    with pytest.raises(StoreInUseError, match="another run has taken over"):
        zoo.append("net", "step1", "fc", X[5:])
    assert zoo.unfinished == ["net/step1/fc"]
