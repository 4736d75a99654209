"""Schedulers, workers and clients that are killed at random moments: the same bits in the end, and nothing twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distributed
import numpy as np
import pytest

import dask_svcca
from dask_svcca.jobs import submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import xarray as xr

KINDS = ("worker", "workers", "scheduler", "client", "driver")
RUNS = int(os.environ.get("KILLED_RUNS", "5"))
"""A multiple of five: each kind of kill as often. 100 take half an hour."""

SECONDS = 120
"""Within which anything is to happen on a machine that others use too."""


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Cluster:
    """A scheduler and two workers, each a process of its own, at an address that stays."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.reported = folder / "tiles.txt"
        self.reported.touch()
        self.home = folder / "home"
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()
        wait_until(self.file.exists)
        self.address = str(json.loads(self.file.read_text())["address"])
        self.start_workers()
        # Values of a plan for one worker differ in their last bits.
        with distributed.Client(self.address, set_as_default=False) as one:
            one.wait_for_workers(2, timeout=SECONDS)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:]],
                env={**os.environ, "TILES_REPORTED": str(self.reported), "XDG_CONFIG_HOME": str(self.home)},
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )

    def start_scheduler(self) -> None:
        port = self.address.rpartition(":")[2] if hasattr(self, "address") else "0"
        self._scheduler = self._start(
            *("scheduler", "--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0", "--no-show"),
            *("--scheduler-file", str(self.file)),
        )

    def start_workers(self) -> None:
        self._workers = [one for one in self._workers if one.poll() is None]
        while len(self._workers) < 2:
            self._workers.append(
                self._start(
                    *("worker", self.address, "--nthreads", "1", "--memory-limit", "1GiB", "--host", "127.0.0.1"),
                    *("--dashboard-address", "127.0.0.1:0", "--no-nanny"),
                    *("--preload", str(Path(__file__).with_name("reporting.py"))),
                )
            )

    def kill_worker(self) -> None:
        self._kill(self._workers[0])

    def kill_workers(self) -> None:
        for worker in self._workers:
            self._kill(worker)

    def kill_worker_of(self, process: int) -> None:
        """The one whose process has a task that drives a job."""
        self._kill(next(worker for worker in self._workers if worker.pid == process))

    def kill_scheduler(self) -> None:
        assert self._scheduler is not None
        self._kill(self._scheduler)
        # Those that it leaves behind linger, or end by themselves.
        self.kill_workers()

    def restart(self) -> None:
        assert self._scheduler is not None
        if self._scheduler.poll() is not None:
            self.start_scheduler()
        self.start_workers()

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for process in [*self._workers, *([self._scheduler] if self._scheduler else [])]:
            self._kill(process)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("zoo") / "zoo.zarr"
    rng = np.random.default_rng(0)
    common = rng.normal(size=(600, 6))
    with dask_svcca.create_zoo(place, examples=range(600)) as zoo:
        for step in range(64):
            x = common @ rng.normal(size=(6, 48)) + rng.normal(size=(600, 48))
            zoo.write("net", f"step{step:03}", "fc", x.astype("float32"), step=step)
    return place


def client(cluster: Cluster, zoo: Path, place: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dask_svcca", "compare", str(zoo), str(place), "--scheduler", cluster.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def begun(place: Path) -> bool:
    return (place / "zarr.json").exists()


def finish(cluster: Cluster, zoo: Path, place: Path) -> None:
    with client(cluster, zoo, place) as process:
        said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, float]:
    place = tmp_path_factory.mktemp("undisturbed") / "c.zarr"
    with client(cluster, zoo, place) as process:
        wait_until(lambda: begun(place) or process.poll() is not None)
        started = time.monotonic()
        said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    return dask_svcca.open_comparison(place).load(), time.monotonic() - started


def twice(reported: str) -> list[str]:
    """Tiles that were begun again after all of their pairs had been computed."""
    ended: set[tuple[str, ...]] = set()
    found = []
    for line in reported.splitlines():
        what, *one = line.split()
        if what == "ended":
            ended.add(tuple(one))
        elif tuple(one) in ended:
            found.append(line)
    return found


def assert_nothing_lost(cluster: Cluster, zoo: Path, place: Path, right: xr.Dataset) -> None:
    cluster.restart()
    finish(cluster, zoo, place)
    found = dask_svcca.open_comparison(place).load()
    for name in right.data_vars:
        np.testing.assert_array_equal(found[name], right[name], err_msg=str(name))
    reported = cluster.reported.read_text()
    assert reported
    assert twice(reported) == []
    assert dask_svcca.verify(place).ok


@pytest.mark.slow
@pytest.mark.parametrize("run", range(RUNS))
def test_compare__killed_at_any_moment(
    cluster: Cluster,
    zoo: Path,
    tmp_path: Path,
    undisturbed: tuple[xr.Dataset, float],
    run: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right, whole = undisturbed
    moment = random.Random(run).uniform(0, whole)
    cluster.reported.write_text("")
    place = tmp_path / "c.zarr"
    if KINDS[run % len(KINDS)] == "driver":
        monkeypatch.setenv("XDG_CONFIG_HOME", str(cluster.home))
        kill_the_driver(cluster, zoo, place, moment)
    else:
        kill_one_of_a_run(cluster, zoo, place, moment, KINDS[run % len(KINDS)])
    assert_nothing_lost(cluster, zoo, place, right)


def kill_one_of_a_run(cluster: Cluster, zoo: Path, place: Path, moment: float, kind: str) -> None:
    said: Any = ("", "")
    with client(cluster, zoo, place) as process:
        wait_until(lambda: begun(place) or process.poll() is not None)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            if kind == "client":
                process.kill()
            else:
                getattr(cluster, f"kill_{kind}")()
                cluster.restart()
        said = process.communicate(timeout=SECONDS)
    assert "Traceback" not in said[1], said[1]
    if kind in {"worker", "workers"}:
        assert process.returncode == 0, said


def kill_the_driver(cluster: Cluster, zoo: Path, place: Path, moment: float) -> None:
    job = place.with_name("job.yaml")
    job.write_text(f"zoo: {zoo}\ncomparison: {place}\ncluster: {cluster.address}\n")
    words = [sys.executable, "-m", "dask_svcca", "submit", str(job), "--json"]
    name = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=SECONDS).stdout)["id"]
    wait_until(lambda: begun(place))
    time.sleep(moment)
    found = submit.status(name)
    if found.state == "running":
        cluster.kill_worker_of(found.record.process)
        cluster.restart()
    wait_until(lambda: submit.status(name).state in {"done", "failed"})
    assert submit.status(name).state == "done", submit.log_of(name)
