"""Clusters: what their workers start with, who can reach them, and that nothing of them stays behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import cloudpickle
import dask
import dask_jobqueue
import distributed
import psutil
import pytest

from dask_svcca import connections
from dask_svcca.connections import (
    ENVIRONMENT,
    SETTINGS,
    Resources,
    _settings,
    _with_private_dashboards,
    connect,
    local_resources,
    start_cluster,
)
from dask_svcca.errors import ClusterError
from dask_svcca.run.graphs import run_graph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# Workers cannot import this module: they get its functions whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def environment() -> dict[str, str]:
    return dict(os.environ)


def blocked_signals() -> set[signal.Signals]:
    return {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])}


def family() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def listening(processes: list[psutil.Process]) -> set[Any]:
    """Addresses at which processes listen."""
    connections = (connection for process in processes for connection in process.net_connections("inet"))
    return {connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN}


@pytest.fixture(scope="module")
def before() -> set[Any]:
    """What listens already: this process may have run other tests."""
    return listening([psutil.Process(), *family()])


@pytest.fixture(scope="module")
def client(before: set[Any]) -> Iterator[distributed.Client]:
    with connect(workers=2) as client:
        yield client


def test_local_resources__shares_the_machine() -> None:
    whole = local_resources(1)
    assert whole.workers == 1
    assert local_resources(4) == Resources(4, whole.memory // 4)
    assert local_resources(2, "1GiB") == Resources(2, 2**30)
    assert local_resources(2, 10**8) == Resources(2, 10**8)


@pytest.mark.parametrize(
    ("workers", "memory", "message"),
    [
        (0, None, "at least one worker; got 0"),
        (2, "much", "'much' is not an amount of memory; write it like 4GiB"),
        (2, "0", "2 workers of 0 B each do not fit"),
        (2, "10PiB", r"2 workers of 10\.00 PiB each do not fit into the .* of this machine"),
    ],
)
def test_local_resources__refuses_nonsense(workers: int, memory: str | None, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        local_resources(workers, memory)


def test_connect__refuses_workers_for_a_running_scheduler() -> None:
    with (
        pytest.raises(ClusterError, match=r"'tcp://somewhere:8786'.*Leave out either"),
        connect("tcp://somewhere:8786", workers=2),
    ):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_connect__says_that_no_scheduler_answers(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=f"no Dask scheduler answers at '{address}'"), connect(address):
        pass


@pytest.mark.slow
def test_connect__workers_start_with_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # What an earlier cluster of this process, or the user's shell, may have left.
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    with connect(workers=2) as client:
        found = client.run(environment)
        assert len(found) == 2
        for variables in found.values():
            assert variables.items() >= ENVIRONMENT.items()
    assert {name: os.environ.get(name) for name in ENVIRONMENT} == before


@pytest.mark.slow
def test_connect__workers_are_processes_of_one_thread(client: distributed.Client) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    assert [worker["nthreads"] for worker in workers] == [1, 1]
    assert {worker["memory_limit"] for worker in workers} == {local_resources(2).memory}
    assert os.getpid() not in client.run(os.getpid).values()


@pytest.mark.slow
def test_connect__listens_on_this_machine_only(client: distributed.Client, before: set[Any]) -> None:
    assert {address.ip for address in listening([psutil.Process(), *family()]) - before} == {"127.0.0.1"}


@pytest.mark.slow
def test_connect__workers_never_see_an_interrupt(client: distributed.Client) -> None:
    assert all(signal.SIGINT in found for found in client.run(blocked_signals).values())
    assert signal.SIGINT not in blocked_signals()


@pytest.mark.slow
def test_connect__leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    levels = [handler.level for handler in logging.getLogger("distributed").handlers]
    workers: list[psutil.Process] = []

    def fail() -> None:
        with connect(workers=2) as client:
            workers.extend(psutil.Process(pid) for pid in client.run(os.getpid).values())
            assert client.submit(sum, [1, 2]).result() == 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)
    assert [handler.level for handler in logging.getLogger("distributed").handlers] == levels
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match="No clients found"):
        distributed.default_client()


@pytest.mark.slow
def test_connect__joins_a_running_scheduler(client: distributed.Client) -> None:
    with connect(client.scheduler.address) as other:
        assert other.submit(sum, [1, 2]).result() == 3
    # It was not ours to stop.
    assert client.submit(sum, [3, 4]).result() == 7


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_connect__workers_go_with_a_killed_process(number: signal.Signals) -> None:
    script = """
        import os, sys
        from dask_svcca.connections import connect
        if __name__ == "__main__":
            with connect(workers=2) as client:
                print(*client.run(os.getpid).values(), flush=True)
                sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        process.send_signal(number)
        process.wait(30)
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive


@pytest.mark.slow
def test_connect__says_that_a_worker_died_as_it_started(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As by ``kill -9``; the other worker is still on its way, and must not stay behind."""
    dies = f"""
import os, signal
try:
    os.close(os.open({str(tmp_path / "one")!r}, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    pass
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    there = family()
    with (
        dask.config.set({"distributed.worker.preload": [dies]}),
        pytest.raises(ClusterError, match=r"local cluster of 2 workers did not start: .*\(Nanny failed to start"),
        connect(workers=2),
    ):
        pass
    started = [process for process in family() if process not in there]
    assert not [process for process in started if "spawn_main" in " ".join(process.cmdline())]
    assert {name: os.environ.get(name) for name in ENVIRONMENT} == before
    assert signal.SIGINT not in blocked_signals()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_start_cluster__says_that_a_worker_died_as_it_started(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The other goes on."""
    dies = f"""
import os, signal
try:
    os.close(os.open({str(tmp_path / "one")!r}, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    pass
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    options = {"n_workers": 0, "threads_per_worker": 1}
    with (
        dask.config.set({"distributed.worker.preload": [dies]}),
        start_cluster("distributed.LocalCluster", options, allowed=["distributed"], scale=2) as client,
    ):
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
    (record,) = (record for record in caplog.records if record.name == "tornado.application")
    assert record.getMessage() == "A worker of the cluster did not start (Nanny failed to start.). The others go on"
    assert record.exc_info is None


@pytest.mark.parametrize(("options", "address"), [({}, "127.0.0.1"), ({"dashboard_address": ":0"}, "0.0.0.0")])
def test_start_cluster__dashboards_are_for_this_machine_unless_asked(options: dict[str, str], address: str) -> None:
    options = {"n_workers": 0, "processes": False, **options}
    with start_cluster("distributed.LocalCluster", options, allowed=["distributed"], scale=0) as client:
        assert client.cluster.scheduler.http_server.address == address


def test_start_cluster__dashboards_of_batch_systems() -> None:
    private = ["--dashboard-address", "127.0.0.1:0"]
    found = _with_private_dashboards(
        dask_jobqueue.SLURMCluster, {"cores": 1, "worker_extra_args": ["--lifetime", "1h"]}
    )
    assert found["scheduler_options"] == {"dashboard_address": "127.0.0.1:0"}
    assert found["worker_extra_args"] == ["--lifetime", "1h", *private]
    asked = {"scheduler_options": {"dashboard_address": ":8787"}, "worker_extra_args": ["--no-dashboard"]}
    assert _with_private_dashboards(dask_jobqueue.SLURMCluster, asked) == asked
    with dask.config.set({"jobqueue.slurm.scheduler-options": {"dashboard_address": ":1"}}):
        assert _with_private_dashboards(dask_jobqueue.SLURMCluster, {})["scheduler_options"] == {
            "dashboard_address": ":1"
        }


@pytest.mark.slow
def test_run_graph__says_that_workers_die() -> None:
    def run_deadly() -> None:
        with connect(workers=1) as client:
            run_graph({"deadly": (os._exit, 1)}, ["deadly"], lambda *_: None, client)

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(
            ClusterError, match=r"workers that ran 'deadly' died, the last of them at tcp://127\.0\.0\.1:\d+"
        ),
    ):
        run_deadly()


def test_connect__an_address_that_is_none_is_a_sentence_alone() -> None:
    """A client that fails on it would print a traceback when it is deleted, 20 seconds later."""
    wrong = {
        "nonsense": "missing port number",
        "tcp://": "missing port number",
        "http://127.0.0.1:9": "unknown address scheme 'http'",
        "127.0.0.1:99999": "there is no port 99999",
    }
    script = f"""
        import dask_svcca
        for address in {list(wrong)}:
            try:
                with dask_svcca.connect(address):
                    pass
            except dask_svcca.errors.ClusterError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    for line, reason in zip(done.stdout.splitlines(), wrong.values(), strict=True):
        assert reason in line


def test_settings__those_of_the_user_stay() -> None:
    with dask.config.set({"distributed.scheduler.worker-ttl": "7 minutes"}):
        assert _settings() == {name: value for name, value in SETTINGS.items() if not name.endswith("worker-ttl")}
