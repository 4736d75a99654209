"""A worker whose link is cut in the middle of a run: the others do its work too, bit by bit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from zoos import assert_same, layers, make_zoo

import dask_svcca
from dask_svcca.connections import SETTINGS, connect
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.netns,
    pytest.mark.skipif(
        shutil.which("ip") is None or not hasattr(os, "getuid") or os.getuid() != 0,
        reason="needs ip (iproute2) and the right to make network namespaces",
    ),
]

SECONDS = 120
"""Within which anything is to happen on a machine that others use too."""

WORKERS = 2


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=SECONDS)


class Network:
    """A scheduler here, and workers each in a network of its own, on one bridge.

    Names and addresses are of this process: another may do the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._name = f"sv{os.getpid() % 10**7}"
        self._subnet = f"10.77.{os.getpid() % 250 + 1}"
        self._file = folder / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        bridge = self._name
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{self._subnet}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number in range(WORKERS):
            space, link = f"{bridge}n{number}", f"{bridge}v{number}"
            ip("netns", "add", space)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", link, "master", bridge, "up")
            ip("-n", space, "addr", "add", f"{self._subnet}.{10 + number}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        self._run("scheduler", "--host", f"{self._subnet}.1", "--port", "0", "--scheduler-file", str(self._file))
        end = time.monotonic() + SECONDS
        while not self._file.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        for number in range(WORKERS):
            self._run(
                *("worker", self.address, "--host", f"{self._subnet}.{10 + number}", "--nthreads", "1"),
                *("--memory-limit", "1GiB"),
                space=f"{bridge}n{number}",
            )

    def _run(self, kind: str, *words: str, space: str = "") -> None:
        within = ["ip", "netns", "exec", space] if space else []
        # What is advised for clusters of one's own, and set for those that are started by class.
        settings = {
            "DASK_" + name.upper().replace(".", "__").replace("-", "_"): str(value) for name, value in SETTINGS.items()
        }
        with (self.folder / f"{kind}{space}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [*within, sys.executable, "-m", f"distributed.cli.dask_{kind}", *words, "--no-dashboard"],
                    env={**os.environ, **settings},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=self.folder,
                )
            )

    @property
    def address(self) -> str:
        return str(json.loads(self._file.read_text())["address"])

    def cut(self, worker: str) -> None:
        """Take the link of a worker down, as a cable that is pulled: no connection is closed."""
        number = int(worker.rpartition(":")[0].rpartition(".")[2]) - 10
        ip("link", "set", f"{self._name}v{number}", "down")

    def close(self) -> None:
        for process in self._processes:
            # A nanny and its worker.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        undo: list[tuple[str, ...]] = [("netns", "del", f"{self._name}n{number}") for number in range(WORKERS)]
        for words in (*undo, ("link", "del", self._name)):
            # Of what was not made there is nothing to remove.
            with contextlib.suppress(subprocess.CalledProcessError):
                ip(*words)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    (tmp_path / "network").mkdir()
    found = Network(tmp_path / "network")
    try:
        try:
            found.start()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"ip cannot make network namespaces here: {error.stderr.strip()}")
        yield found
    finally:
        found.close()


def cut_in_the_middle(
    network: Network, busy: Callable[[], dict[str, tuple[str, ...]]], cuts: list[str]
) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        if cuts or stage != "tiles" or done < total // 3:
            return
        at_work = [worker for worker, tasks in busy().items() if tasks]
        if at_work:
            network.cut(at_work[0])
            cuts.append(at_work[0])

    return progress


def test_compare__one_worker_is_cut_off(network: Network, tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(60))
    cuts: list[str] = []
    with connect(network.address) as client:
        client.wait_for_workers(WORKERS, timeout=SECONDS)
        run_comparison(zoo, tmp_path / "undisturbed", Parameters(), client=client)
        outcome = run_comparison(
            zoo,
            tmp_path / "c.zarr",
            Parameters(),
            client=client,
            progress=cut_in_the_middle(network, client.processing, cuts),
        )
        left = list(client.scheduler_info(n_workers=-1)["workers"])
    assert cuts
    assert cuts[0] not in left
    assert not outcome.failures
    assert_same(dask_svcca.open_comparison(tmp_path / "c.zarr"), dask_svcca.open_comparison(tmp_path / "undisturbed"))
