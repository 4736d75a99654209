"""What is said of a job: by its record, by whoever is to begin it, and of the newest of a comparison."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import dask
import distributed
import numpy as np
import pytest
from cli_runner import run

import dask_svcca
from dask_svcca import machine
from dask_svcca.errors import JobError
from dask_svcca.jobs import status
from dask_svcca.jobs.driver import Reporter
from dask_svcca.jobs.records import Jobs, Pointer, Record, find, new_id, now, pointers
from dask_svcca.jobs.status import status_of
from dask_svcca.jobs.submit import running_job

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 120
"""Within which anything is to happen on a machine that others use too."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this user submitted is nobody else's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


@pytest.fixture
def zoo(tmp_path: Path) -> dask_svcca.Zoo:
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(60)) as zoo:
        for layer in ("conv", "fc"):
            zoo.write("net", "end", layer, rng.normal(size=(60, 4)))
    return zoo


@pytest.fixture
def comparison(tmp_path: Path, zoo: dask_svcca.Zoo) -> str:
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.compare(zoo, tmp_path / "c.zarr")
    return str(tmp_path / "c.zarr")


def test_status_of__a_process_that_is_gone_has_stalled(comparison: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        mine = Record("20250101-abcdef", "z", comparison, "running", process=process.pid, submitted=now())
        started = machine.process_start(process.pid)
        record = Record(**{**mine.to_dict(), "machine": machine.host(), "started": started})
        Jobs(comparison, mode="r+").write(record)
        assert status_of(record.id, comparison, None).state == "running"
        assert running_job(comparison) is not None
        process.kill()
        process.wait()
        found = status_of(record.id, comparison, None)
    assert found.state == "stalled"
    assert "is gone; submit the job again" in found.record.message
    assert running_job(comparison) is None


def test_status_of__nobody_writes_any_more(comparison: str) -> None:
    record = Record(new_id(), "z", comparison, "running", machine="another", process=1, submitted=now())
    Jobs(comparison, mode="r+").write(record)
    assert status_of(record.id, comparison, None).state == "running"
    document = Path(comparison, "jobs", record.id, "zarr.json")
    long_ago = time.time() - 100
    os.utime(document, (long_ago, long_ago))
    found = status_of(record.id, comparison, None)
    assert found.state == "stalled"
    assert "nobody has written its record for 100 seconds" in found.record.message


def test_status_of__a_job_that_a_cluster_has_not_begun_to_drive_waits(tmp_path: Path) -> None:
    pointer = Pointer(new_id(), str(tmp_path / "c.zarr"), now())
    pointer.write()
    assert status_of(pointer.id, pointer.comparison, pointer).state == "waiting"
    assert running_job(pointer.comparison) is not None
    long_ago = Pointer(pointer.id, pointer.comparison, "2025-01-01T00:00:00+00:00", cluster="tcp://10.0.0.1:8786")
    found = status_of(pointer.id, pointer.comparison, long_ago)
    assert found.state == "stalled"
    assert found.record.message.startswith("'tcp://10.0.0.1:8786' does not answer, or does not know the job")


def test_status_of__a_process_that_has_not_begun_for_long_waits(tmp_path: Path) -> None:
    long_ago = "2025-01-01T00:00:00+00:00"
    started = machine.process_start(os.getpid()) or ""
    pointer = Pointer(new_id(), str(tmp_path / "c.zarr"), long_ago, process=os.getpid(), started=started)
    assert status_of(pointer.id, pointer.comparison, pointer).state == "waiting"
    gone = dataclasses.replace(pointer, started="another")
    assert status_of(pointer.id, pointer.comparison, gone).state == "stalled"


FREE = threading.Event()


def hold() -> None:
    """Keep a worker busy."""
    assert FREE.wait(SECONDS)


@pytest.fixture
def busy() -> Iterator[str]:
    """Address of a scheduler whose only worker has something else to do."""
    FREE.clear()
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        held = client.submit(hold)
        yield str(cluster.scheduler_address)
        FREE.set()
        held.result()


@pytest.mark.usefixtures("zoo")
def test_submit__to_a_scheduler_that_is_busy(tmp_path: Path, busy: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"zoo: zoo.zarr\ncomparison: c.zarr\ncluster: {busy}\n")
    printed = run(f"submit {job}").output
    (name,) = re.findall(r"Submitted ([\w-]+)\.", printed)
    (dashboard,) = re.findall(r"The dashboard, (http://\S+) , shows the cluster at work", printed)
    pointer = next(one for one in pointers() if one.id == name)
    dataclasses.replace(pointer, submitted="2025-01-01T00:00:00+00:00").write()
    found = json.loads(run(f"status {name} --json").output)
    assert (found["state"], found["cluster"], found["dashboard"]) == ("waiting", busy, dashboard)
    assert f"The job {name} is at work on this comparison already" in run(f"submit {job}").output
    assert f"The job {name} is cancelled." in run(f"cancel {name}").output
    FREE.set()
    assert not status.task_waits(pointer)
    assert json.loads(run(f"status {name} --json").output)["state"] == "cancelled"
    assert "cancelled before it had begun" in run(f"logs {name}").output
    assert not (tmp_path / "c.zarr").exists()


def test_commands__about_a_job_that_was_cancelled(comparison: str) -> None:
    job = new_id()
    Jobs(comparison, mode="r+").write(Record(job, "z", comparison, "cancelled", submitted=now()))
    Pointer(job, comparison, now()).write()
    for name in (job, comparison):
        assert f"the job {job!r} has ended already: it is cancelled" in run(f"cancel {name}", status=2).output
        assert f"The job {job} is cancelled." in run(f"attach {name}", status=1).output
        assert json.loads(run(f"status {name} --json").output)["state"] == "cancelled"
    assert running_job(comparison) is None


def test_cancel__of_another_users_job(comparison: str) -> None:
    record = Record(new_id(), "z", comparison, "running", user="someone", machine="another", submitted=now())
    Jobs(comparison, mode="r+").write(record)
    assert "was submitted by 'someone'" in run(f"cancel {comparison}", status=2).output


def test_cancel__of_a_job_that_has_ended(comparison: str) -> None:
    Jobs(comparison, mode="r+").write(Record(new_id(), "z", comparison, "done", submitted=now()))
    assert "has ended already: it is done" in run(f"cancel {comparison}", status=2).output


def test_find__the_newest_job_of_a_comparison(comparison: str) -> None:
    for moment, job in (("2025-01-02", "20250102-aaaaaa"), ("2025-01-01", "20250101-bbbbbb")):
        Jobs(comparison, mode="r+").write(Record(job, "z", comparison, "done", submitted=moment))
    assert find(comparison)[0] == "20250102-aaaaaa"
    Pointer("20250103-cccccc", comparison, "2025-01-03").write()
    assert find(comparison)[0] == "20250103-cccccc"
    assert find("20250103-cccccc")[1] == comparison


def test_jobs__with_nothing_to_do_are_left_out_but_for_the_latest(comparison: str) -> None:
    done, nothing = {"tiles": (3, 3)}, {"tiles": (0, 0)}
    stored = Jobs(comparison, mode="r+")
    for day, state, stages in ((1, "done", done), (2, "done", nothing), (3, "failed", nothing), (4, "done", nothing)):
        stored.write(Record(f"2025010{day}-aaaaaa", "z", comparison, state, submitted=f"2025-01-0{day}", stages=stages))

    def listed(*options: str) -> list[str]:
        found = json.loads(run(f"jobs {comparison} --json {' '.join(options)}").output)["jobs"]
        return [one["submitted"][-1] for one in found]

    assert listed() == ["1", "3", "4"]
    assert listed("--all") == ["1", "2", "3", "4"]
    stored.write(Record("20250105-aaaaaa", "z", comparison, "done", submitted="2025-01-05", stages=done))
    assert listed() == ["1", "3", "5"]


def test_reporter__says_where_the_dashboard_is(comparison: str) -> None:
    said: list[str] = []
    bars = SimpleNamespace(say=said.append)
    client = SimpleNamespace(scheduler_info=lambda **_: {"workers": {"a": {}}})
    reporter = Reporter(Record(new_id(), "z", comparison, submitted=now()), bars)  # type: ignore[arg-type]
    reporter.joined(client, "http://10.0.0.1:8787/status")  # type: ignore[arg-type]
    assert ["http://10.0.0.1:8787/status" in line for line in said] == [True]
    reporter.write()
    found = json.loads(run(f"status {comparison} --json").output)
    assert found["dashboard"] == "http://10.0.0.1:8787/status"


def test_read__a_record_that_is_not_one(comparison: str) -> None:
    job = new_id()
    Jobs(comparison, mode="r+").write(Record(job, "z", comparison))
    for text in ("{", '{"attributes": []}', '{"attributes": {"id": 3}}', '{"attributes": {"zoo": "z"}}'):
        Path(comparison, "jobs", job, "zarr.json").write_text(text)
        with pytest.raises(JobError, match="has no record"):
            status_of(job, comparison, None)
