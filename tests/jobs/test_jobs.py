"""Jobs on real processes: submitted, followed, cancelled, killed; their results are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from cli_runner import run

import dask_svcca
from dask_svcca.connections import KeepBusyWorkers, start_cluster
from dask_svcca.errors import ClusterError
from dask_svcca.jobs import submit
from dask_svcca.stores.comparison import ComparisonStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import xarray as xr

MEASURES = "[svcca, cka]"
CLUSTER = "{workers: 1, memory: 1GiB}"
SECONDS = 120
"""Within which anything is to happen on a machine that others use too."""


def make_zoo(place: Path, count: int, examples: int = 300, neurons: int = 24) -> dask_svcca.Zoo:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(examples, 6))
    with dask_svcca.create_zoo(place, examples=range(examples)) as zoo:
        for step in range(count):
            x = common @ rng.normal(size=(6, neurons)) + rng.normal(size=(examples, neurons))
            zoo.write("net", f"step{step:03}", "fc", x.astype("float32"), step=step)
    return zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for something to happen in the middle."""
    place = tmp_path_factory.mktemp("zoo") / "zoo.zarr"
    make_zoo(place, 120, examples=2000, neurons=96)
    return place


@pytest.fixture(scope="module")
def undisturbed(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    with dask.config.set(scheduler="synchronous"):
        return dask_svcca.compare(
            zoo, tmp_path_factory.mktemp("undisturbed") / "c.zarr", measures=["svcca", "cka"]
        ).load()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this user submitted is nobody else's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


def job_file(folder: Path, zoo: Path, cluster: str = CLUSTER) -> Path:
    path = folder / "job.yaml"
    path.write_text(f"zoo: {zoo}\ncomparison: c.zarr\nmeasures: {MEASURES}\ncluster: {cluster}\n")
    return path


def command(*words: str) -> Any:
    """What a command prints as JSON, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "dask_svcca", *words, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for(name: str, state: str) -> None:
    """Until a job is in a state. Asked from this process: another takes seconds to start, and time from the job."""
    wait_until(lambda: submit.status(name).state == state)


def assert_same(place: Path, expected: xr.Dataset, *, svcca: float = 0.0, cka: float = 0.0) -> None:
    found = dask_svcca.open_comparison(place)
    np.testing.assert_array_equal(found.pair_status, expected.pair_status)
    for name, rounding in (("svcca", svcca), ("cka", cka)):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=rounding, err_msg=name)


def pairs_done(place: Path) -> int:
    if not (place / "zarr.json").exists():
        return 0
    return sum(count for status, count in ComparisonStore.open(place).count_pairs().items() if status.name == "DONE")


# --- here ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
def test_run__is_what_compare_gives_and_says(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", 3, examples=40)
    printed = run(f"run {job_file(tmp_path, tmp_path / 'zoo.zarr')}").output
    assert "Compared 6 pairs of 3 representations" in printed
    assert "Caution: 3 of 3 representations have fewer than 5 samples per kept direction" in printed
    with dask.config.set(scheduler="synchronous"):
        expected = dask_svcca.compare(zoo, measures=["svcca", "cka"])
    assert_same(tmp_path / "c.zarr", expected)
    status = json.loads(run(f"status {tmp_path / 'c.zarr'} --json").output)
    assert (status["state"], status["pairs_done"], status["pairs"]) == ("done", 6, 6)
    assert run(f"logs {tmp_path / 'c.zarr'}").output.rstrip().endswith("done")
    assert dask_svcca.verify(tmp_path / "c.zarr").ok


def test_run__begins_with_estimates_where_the_job_says_so(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", 3)
    file = job_file(tmp_path, tmp_path / "zoo.zarr")
    file.write_text(f"{file.read_text()}preview: true\n")
    run(f"run {file}")
    with dask.config.set(scheduler="synchronous"):
        assert_same(tmp_path / "c.zarr", dask_svcca.compare(zoo, measures=["svcca", "cka"]))
    assert "There are estimates of 6 pairs; now they are compared" in run(f"logs {tmp_path / 'c.zarr'}").output
    found = dask_svcca.open_comparison(tmp_path / "c.zarr")
    assert float((abs(found.cka_estimate - found.cka) / (found.cka_estimate_error + 1e-6)).max()) < 4


def test_commands__about_a_job_that_is_not_there(tmp_path: Path) -> None:
    for name in ("status", "attach", "logs", "cancel"):
        assert "no job '20250101-abcdef' was submitted" in run(f"{name} 20250101-abcdef", status=2).output
        assert "there is no job and no comparison" in run(f"{name} {tmp_path / 'c.zarr'}", status=2).output
    assert "There are no jobs" in run("jobs").output


def test_commands__about_a_comparison_without_a_job(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", 2)
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.compare(zoo, tmp_path / "c.zarr")
    assert "was not made by a job" in run(f"status {tmp_path / 'c.zarr'}", status=2).output
    assert json.loads(run(f"jobs {tmp_path / 'c.zarr'} --json").output) == {"jobs": []}
    for name in ("status", "attach", "logs", "cancel"):
        refused = run(f"{name} {tmp_path / 'zoo.zarr'}", status=2).output
        assert "is a store of kind 'zoo', and jobs make comparisons" in refused


@pytest.mark.parametrize(
    ("name", "allowed", "said"),
    [
        ("distributed.LocalCluster", [], "--allow-class distributed"),
        ("distributed.LocalCluster", ["dist", "distributed.Local"], "is not allowed"),
        ("distributed.Cluster4", ["distributed"], "there is no 'Cluster4' in 'distributed'"),
        ("no_such_package.Cluster", ["no_such_package"], "pip install no-such-package"),
        ("distributed.Client", ["distributed"], "is not a class of Dask clusters"),
        ("os.system", ["os"], "is not a class of Dask clusters"),
        ("distributed.LocalCluster", ["distributed"], "did not start with options"),
    ],
)
def test_start_cluster__refuses(name: str, allowed: list[str], said: str) -> None:
    with pytest.raises(ClusterError, match=said), start_cluster(name, {"colour": "red"}, allowed=allowed, scale=1):
        pass


def test_keep_busy_workers__gives_up_idle_ones_and_never_the_last() -> None:
    busy, idle, other = (
        SimpleNamespace(processing={"tile": 1}),
        SimpleNamespace(processing={}),
        SimpleNamespace(processing={}),
    )
    found = KeepBusyWorkers().valid_workers_downscaling
    assert found(SimpleNamespace(workers=[busy, idle]), [busy, idle]) == [idle]
    assert found(SimpleNamespace(workers=[idle, other]), [idle, other]) == [other]
    assert found(SimpleNamespace(workers=[idle]), [idle]) == []


# --- submitted -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_submit__goes_on_alone_and_is_followed_by_others(tmp_path: Path, zoo: Path, undisturbed: xr.Dataset) -> None:
    job = job_file(tmp_path, zoo)
    found = command("submit", str(job))
    assert found["state"] == "waiting"
    again = command("submit", str(job))
    assert again["submitted_before"]
    assert again["id"] == found["id"]
    attached = subprocess.run(
        [sys.executable, "-m", "dask_svcca", "attach", found["id"]], capture_output=True, text=True, check=False
    )
    assert attached.returncode == 0, attached.stderr
    assert f"The job {found['id']} is done. 7,260 of 7,260 pairs." in attached.stdout
    assert command("status", str(tmp_path / "c.zarr"))["state"] == "done"
    assert [one["id"] for one in command("jobs")["jobs"]] == [found["id"]]
    assert any("Working with 1 worker" in line for line in command("logs", found["id"])["lines"])
    assert_same(tmp_path / "c.zarr", undisturbed)
    assert dask_svcca.verify(tmp_path / "c.zarr").ok


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancel", "kill"])
def test_submit__goes_on_where_it_was_ended(tmp_path: Path, zoo: Path, undisturbed: xr.Dataset, how: str) -> None:
    job, place = job_file(tmp_path, zoo), tmp_path / "c.zarr"
    first = command("submit", str(job))
    wait_until(lambda: pairs_done(place) > 0)
    if how == "cancel":
        # On a busy machine the job would end before the command that is to end it has begun.
        os.kill(first["process"], signal.SIGSTOP)
        command("cancel", first["id"])
        os.kill(first["process"], signal.SIGCONT)
        wait_for(first["id"], "cancelled")
    else:
        os.kill(first["process"], signal.SIGKILL)
        wait_for(first["id"], "stalled")
    done = pairs_done(place)
    assert 0 < done < 7260
    second = command("submit", str(job))
    assert second["id"] != first["id"]
    wait_for(second["id"], "done")
    assert_same(place, undisturbed)


@pytest.mark.slow
def test_submit__a_job_that_fails_says_why(tmp_path: Path) -> None:
    make_zoo(tmp_path / "zoo.zarr", 2)
    job = job_file(
        tmp_path, tmp_path / "zoo.zarr", "{class: distributed.LocalCluster, options: {colour: red}, scale: 1}"
    )
    assert "Submitted " in run(f"submit {job}").output
    found = command("jobs")["jobs"][0]
    wait_for(found["id"], "failed")
    assert "--allow-class distributed" in command("status", found["id"])["message"]


# --- on a cluster that runs ----------------------------------------------------------------------------------------


class Dask:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        self.address_file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{kind}{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + f"dask_{kind}", *words, *self.options],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )
        self.processes.append(process)
        return process

    def scheduler(self) -> subprocess.Popen[bytes]:
        return self.start(
            "scheduler",
            *("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--no-show"),
            *("--scheduler-file", str(self.address_file)),
        )

    def worker(self) -> subprocess.Popen[bytes]:
        return self.start(
            "worker",
            *("--scheduler-file", str(self.address_file), "--nthreads", "1", "--memory-limit", "1GiB"),
            *("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--no-nanny"),
        )

    @property
    def address(self) -> str:
        wait_until(self.address_file.exists)
        return str(json.loads(self.address_file.read_text())["address"])

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Dask]:
    found = Dask(tmp_path)
    found.scheduler()
    wait_until(found.address_file.exists)
    found.worker()
    found.worker()
    try:
        yield found
    finally:
        found.close()


@pytest.mark.slow
def test_submit__to_a_scheduler_outlives_the_worker_that_drives_it(
    tmp_path: Path, zoo: Path, undisturbed: xr.Dataset, cluster: Dask
) -> None:
    place = tmp_path / "c.zarr"
    found = command("submit", str(job_file(tmp_path, zoo, cluster.address)))
    wait_until(lambda: pairs_done(place) > 0)
    driving = submit.status(found["id"]).record.process
    assert driving in {process.pid for process in cluster.processes}
    os.kill(driving, signal.SIGKILL)
    cluster.worker()
    wait_for(found["id"], "done")
    assert command("status", found["id"])["process"] != driving
    # Another number of workers has other packs and tiles, whose sums in single precision are in another order: CKA is
    # right to 1e-6 so, and some processors need more of that than others.
    assert_same(place, undisturbed, svcca=1e-7, cka=1e-6)


@pytest.mark.slow
def test_submit__to_a_scheduler_is_cancelled_from_elsewhere(tmp_path: Path, zoo: Path, cluster: Dask) -> None:
    place = tmp_path / "c.zarr"
    found = command("submit", str(job_file(tmp_path, zoo, cluster.address)))
    wait_until(lambda: pairs_done(place) > 0)
    # By the path of the comparison, as from another machine.
    submit.cancel(str(place))
    wait_for(found["id"], "cancelled")
    assert command("status", found["id"])["state"] == "cancelled"


@pytest.mark.slow
def test_run__workers_with_too_little_memory(tmp_path: Path) -> None:
    make_zoo(tmp_path / "zoo.zarr", 2)
    printed = run(f"run {job_file(tmp_path, tmp_path / 'zoo.zarr', '{workers: 1, memory: 150MiB}')}", status=2).output
    assert re.search(r"needs \d+ MiB in one worker .* and a worker may take 112 MiB of its memory\. Use fewer", printed)
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.slow
def test_run__workers_that_are_not_there_in_time(tmp_path: Path, zoo: Path) -> None:
    alone = Dask(tmp_path)
    alone.scheduler()
    try:
        job = job_file(tmp_path, zoo, f"{{address: '{alone.address}', workers_within: 1}}")
        assert "no worker was there within 1 seconds" in run(f"run {job}", status=2).output
    finally:
        alone.close()
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.slow
def test_run__a_scheduler_that_goes_while_a_worker_is_waited_for(tmp_path: Path, zoo: Path) -> None:
    alone = Dask(tmp_path)
    scheduler = alone.scheduler()
    words = [sys.executable, "-m", "dask_svcca", "run", str(job_file(tmp_path, zoo, alone.address))]
    try:
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "Waiting up to 600 seconds for the first worker.\n"
            scheduler.kill()
            said = process.communicate(timeout=SECONDS)[1]
    finally:
        alone.close()
    assert process.returncode == 2
    # Dask may say a line before, of a connection that was closed.
    assert f"Error: the scheduler at '{alone.address}' went away before a worker was there." in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_run__a_scheduler_with_certificates(tmp_path: Path) -> None:
    make_zoo(tmp_path / "zoo.zarr", 3)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-out", str(certificate), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    tls = ("--tls-ca-file", str(certificate), "--tls-cert", str(certificate), "--tls-key", str(key))
    secure = Dask(tmp_path, *tls, "--protocol", "tls")
    secure.scheduler()
    try:
        secure.worker()
        refused = job_file(tmp_path, tmp_path / "zoo.zarr", secure.address)
        assert "no Dask scheduler answers" in run(f"run {refused}", status=2).output
        files = f"{{ca_file: {certificate}, cert: {certificate}, key: {key}}}"
        job = job_file(tmp_path, tmp_path / "zoo.zarr", f"{{address: '{secure.address}', tls: {files}}}")
        assert "Compared 6 pairs" in run(f"run {job}").output
    finally:
        secure.close()
