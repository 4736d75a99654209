"""SLURM itself, two nodes on loopback: as a cluster of workers, and as an array job with no scheduler of Dask."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
from zoos import assert_same, layers, make_zoo

import dask_svcca
from dask_svcca.jobs import submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_svcca import Zoo

NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "munged")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(
        not all(map(shutil.which, NEEDED)) or not hasattr(os, "getuid") or os.getuid() != 0,
        reason="needs SLURM (slurm-wlm, slurm-client and munge) and the right to start it",
    ),
]
ROOT = Path(__file__).parents[2]
SECONDS = 120

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=3
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=6000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=6000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def called(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    controller, first, second = free_ports(3)
    host = socket.gethostname().split(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=host, controller=controller, first=first, second=second)
    )
    if subprocess.run(["pgrep", "-u", "munge", "munged"], capture_output=True, check=False).returncode:
        called("install", "-d", "-o", "munge", "-g", "munge", "-m", "755", "/run/munge")
        called("runuser", "-u", "munge", "--", shutil.which("munged") or "munged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        # Jobs find the programs of this environment, and this checkout.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(ROOT))
        try:
            try:
                called("slurmctld", "-i")
                for node in ("n1", "n2"):
                    called("slurmd", "-N", node)
                wait_until(lambda: called("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2")
            except AssertionError as error:
                pytest.skip(f"SLURM is there, and does not start: {error}")
            yield
        finally:
            for file in folder.glob("*.pid"):
                os.kill(int(file.read_text()), signal.SIGTERM)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


@pytest.fixture
def large(tmp_path: Path) -> Zoo:
    """Enough work for something to happen in the middle."""
    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=(5000, 200)).astype("float32") for _ in range(40))
    return make_zoo(tmp_path / "zoo.zarr", arrays, examples=5000)


def job_file(folder: Path, cluster: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(f"zoo: zoo.zarr\ncomparison: c.zarr\ncluster: {cluster}\n")
    return path


def test_slurm__workers_are_jobs_and_one_is_cancelled(slurm: None, tmp_path: Path, large: Zoo) -> None:
    options = '{cores: 1, memory: 1GiB, walltime: "00:10:00", interface: lo}'
    cluster = f"{{class: dask_jobqueue.SLURMCluster, options: {options}, adapt: {{minimum: 2, maximum: 2}}}}"
    submitted = [sys.executable, "-m", "dask_svcca", "submit", str(job_file(tmp_path, cluster)), "--json"]
    found = json.loads(called(*submitted, "--allow-class", "dask_jobqueue", cwd=tmp_path))
    # From this process: another takes seconds to start.
    wait_until(lambda: submit.status(found["id"]).state == "running")
    called("scancel", called("squeue", "-h", "-t", "R", "-o", "%i").split()[0])
    wait_until(lambda: submit.status(found["id"]).state not in {"waiting", "running"})
    assert submit.status(found["id"]).state == "done", submit.status(found["id"])
    # All its jobs have ended with it.
    wait_until(lambda: not called("squeue", "-h", "-o", "%i").split())
    with dask.config.set(scheduler="synchronous"):
        expected = dask_svcca.compare(large, tmp_path / "here.zarr")
    found_values = dask_svcca.open_comparison(tmp_path / "c.zarr")
    assert (found_values.pair_status == expected.pair_status).all()
    assert float(abs(found_values.svcca - expected.svcca).max()) < 1e-7


def test_slurm__an_array_job_needs_no_scheduler(slurm: None, tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(20))
    script = (ROOT / "jobs" / "slurm-array.sh").read_text().replace("memory=4G", "memory=1G")
    (tmp_path / "array.sh").write_text(script)
    done = subprocess.run(
        ["bash", str(tmp_path / "array.sh"), str(job_file(tmp_path, "local")), "3"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not called("squeue", "-h", "-o", "%i").split())
    last = max(tmp_path.glob("slurm-*.out"), key=lambda path: path.stat().st_mtime)
    assert "210 of 210 pairs are there." in last.read_text()
    with dask.config.set(scheduler="synchronous"):
        expected = dask_svcca.compare(zoo, tmp_path / "here.zarr").load()
    assert_same(dask_svcca.open_comparison(tmp_path / "c.zarr"), expected)
