"""Sketches whose run is cut off at any moment: they open, and the same call goes on to the same end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import xarray as xr

import dask_svcca
from dask_svcca.connections import connect
from dask_svcca.stores.backend.local import LocalBackend

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 40, 5))


class CutError(BaseException):
    """What ends a process."""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(40)) as made:
        for number in range(3):
            made.write("net", "0", f"fc{number}", X[number])
    return tmp_path / "zoo.zarr"


def grow(zoo: Path) -> None:
    with dask_svcca.open_zoo(zoo, mode="r+") as made:
        made.write("net", "0", "fc1", X[5], overwrite=True)
        for number in range(6, 9):
            made.write("net", "1", f"fc{number}", X[number])


def look(store: Path) -> None:
    """Whatever is there can be opened, and what counts as made is."""
    if (store / "zarr.json").exists():
        for found in (dask_svcca.open_sketches(store).load(), xr.open_zarr(store, chunks=None).load()):
            there = (found.digest.values != "") & (found.problem.values == "")
            assert np.isfinite(found.sketch.values[there]).all()
            assert np.isfinite(found.norm.values[there]).all()


def test_sketch__cut_off_at_any_write_goes_on(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = LocalBackend.write, [0]

    def write(self: LocalBackend, key: str, *parts: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise CutError
        real(self, key, *parts)

    begun = tmp_path / "begun.zarr"
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.sketch(zoo, begun, size=64)
        grow(zoo)
        whole = dask_svcca.sketch(zoo, size=64).sortby("representation")
        monkeypatch.setattr(LocalBackend, "write", write)
        cuts = 0
        while True:
            store = tmp_path / f"s{cuts}.zarr"
            shutil.copytree(begun, store)
            # A few writes apart, since there are a hundred.
            left[0] = 1 + 13 * cuts
            try:
                dask_svcca.sketch(zoo, store, size=64)
                break
            except CutError:
                cuts += 1
            look(store)
            left[0] = 0
            found = dask_svcca.sketch(zoo, store, size=64).load().sortby("representation")
            for name in whole.variables:
                np.testing.assert_array_equal(found[name], whole[name], err_msg=str(name))
    assert cuts > 5


@pytest.mark.slow
def test_sketch__whose_processes_are_killed_goes_on(zoo: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    words = [sys.executable, "-m", "dask_svcca", "sketch", str(zoo), "s.zarr", "--size", "64", "--workers", "2"]
    grow(zoo)
    whole = dask_svcca.sketch(zoo, size=64)
    started = time.perf_counter()
    (tmp_path / "first").mkdir()
    subprocess.run(words, cwd=tmp_path / "first", check=True, capture_output=True)
    seconds = time.perf_counter() - started
    for number in range(2):
        folder = tmp_path / f"killed{number}"
        folder.mkdir()
        with subprocess.Popen(words, cwd=folder, stdout=-1, stderr=-1, start_new_session=True) as process:
            try:
                process.wait(rng.uniform(0.4, 1) * seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        look(folder / "s.zarr")
        done = subprocess.run(words, cwd=folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(dask_svcca.open_sketches(folder / "s.zarr").sketch, whole.sketch)


@pytest.mark.slow
def test_sketch__grows_on_a_cluster(zoo: Path, tmp_path: Path) -> None:
    store, overlaps, subspaces = (tmp_path / f"{name}.zarr" for name in ("s", "o", "c"))
    with connect(workers=2, memory=2**30) as client:
        for number in range(2):
            if number:
                grow(zoo)
            dask_svcca.sketch(zoo, store, size=64, client=client)
            dask_svcca.compare(zoo, subspaces, measures="cca", conv="mean", client=client)
            made = dask_svcca.sketch(
                zoo, overlaps, size=64, measure="overlap", subspaces=subspaces, client=client
            ).load()
    with dask.config.set(scheduler="synchronous"):
        here = dask_svcca.sketch(zoo, store, size=64).load()
        np.testing.assert_array_equal(here.sortby("representation").sketch, dask_svcca.sketch(zoo, size=64).sketch)
    assert np.isfinite(made.sketch).all()
