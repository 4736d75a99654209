"""On a real cluster of processes: the same bits as without one, even if workers are killed in the middle."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.threaded
import numpy as np
import pytest
from distributed.diagnostics.plugin import WorkerPlugin

import dask_svcca
from dask_svcca.connections import connect
from dask_svcca.errors import MemoryLimitError
from dask_svcca.plan import grams, sides
from dask_svcca.plan.memory import PROCESS_BYTES
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    import distributed
    import xarray as xr

    from dask_svcca import Zoo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning"),
    pytest.mark.usefixtures("several_tiles"),
]

WORKERS = 2
MEMORY = 2**30
SECONDS = 120
"""Within which a nanny is to have started another worker, on a machine that others use too."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.Client]:
    # Each worker that dies is one more to be started: the second that a task takes down is enough to blame it.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        connect(workers=WORKERS, memory=MEMORY) as client,
    ):
        yield client


@pytest.fixture
def client(cluster: distributed.Client) -> distributed.Client:
    # A test before may have killed some; nannies start others.
    cluster.wait_for_workers(WORKERS, timeout=SECONDS)
    return cluster


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Forty layers, one of them bad: five groups, fifteen tiles."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(100, 6))
    zoo = dask_svcca.create_zoo(tmp_path_factory.mktemp("zoo") / "zoo.zarr", examples=range(100))
    for step, neurons in enumerate(rng.integers(3, 12, 40)):
        x = common @ rng.normal(size=(6, neurons)) + rng.normal(size=(100, neurons))
        if step == 17:
            x[3, 1] = np.nan
        zoo.write("net", f"step{step:03}", "fc", x.astype("float32"), step=step)
    return zoo


@pytest.fixture(scope="module")
def undisturbed(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """The comparison without a cluster."""
    with dask.config.set(scheduler="synchronous"):
        return dask_svcca.compare(zoo, tmp_path_factory.mktemp("undisturbed") / "comparison.zarr").load()


def assert_same(place: Path, expected: xr.Dataset) -> None:
    found = dask_svcca.open_comparison(place)
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))


def test_compare__a_cluster_changes_no_bit(
    client: distributed.Client, zoo: Zoo, tmp_path: Path, undisturbed: xr.Dataset
) -> None:
    dask_svcca.compare(zoo, tmp_path / "comparison.zarr", client=client)
    assert_same(tmp_path / "comparison.zarr", undisturbed)


def test_compare__workers_that_share_a_tile_change_no_bit(
    client: distributed.Client, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (grams, "GRAMS_CHEAPER", 100.0),
        (sides, "GRAMS_CHEAPER", 100.0),
        (sides, "SHORT_TILE", 1.0),
    ):
        monkeypatch.setattr(module, name, value)
    plan = dask_svcca.plan_comparison(zoo, tmp_path / "comparison.zarr", measures="cka", client=client)
    assert [tile.shares for tile in plan.tiles] == [WORKERS]
    with dask.config.set(scheduler="synchronous"):
        alone = dask_svcca.compare(zoo, tmp_path / "alone.zarr", measures="cka").load()
    dask_svcca.compare(zoo, tmp_path / "comparison.zarr", measures="cka", client=client)
    assert_same(tmp_path / "comparison.zarr", alone)


def test_compare__runs_on_the_current_client(
    client: distributed.Client,
    zoo: Zoo,
    tmp_path: Path,
    undisturbed: xr.Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed in this process")

    monkeypatch.setattr(dask.threaded, "get", refuse)
    with client.as_current():
        dask_svcca.compare(zoo, tmp_path / "comparison.zarr")
    assert_same(tmp_path / "comparison.zarr", undisturbed)


@pytest.mark.parametrize(("stage", "after"), [("subspaces", 5), ("tiles", 2)])
def test_compare__survives_a_killed_worker(
    client: distributed.Client, zoo: Zoo, tmp_path: Path, undisturbed: xr.Dataset, stage: str, after: int
) -> None:
    victim, *_ = client.run(os.getpid).values()
    told = []

    def kill(at: str, done: int, total: int) -> None:
        told.append((at, done))
        if (at, done) == (stage, after):
            os.kill(victim, signal.SIGKILL)

    outcome = run_comparison(zoo, tmp_path / "comparison.zarr", Parameters(), client=client, progress=kill)
    assert told.index((stage, after)) < len(told) - 1
    assert list(outcome.problems) == ["net/step017/fc"]
    assert_same(tmp_path / "comparison.zarr", undisturbed)
    client.wait_for_workers(WORKERS, timeout=SECONDS)
    assert victim not in client.run(os.getpid).values()


def test_compare__resumes_after_an_interrupt(
    client: distributed.Client, zoo: Zoo, tmp_path: Path, undisturbed: xr.Dataset
) -> None:
    def interrupt(at: str, done: int, total: int) -> None:
        if (at, done) == ("tiles", 3):
            raise KeyboardInterrupt

    place = tmp_path / "comparison.zarr"
    with pytest.raises(KeyboardInterrupt):
        run_comparison(zoo, place, Parameters(), client=client, progress=interrupt)
    with dask_svcca.open_comparison(place) as begun:
        assert (begun.pair_status == PairStatus.MISSING).any()
        assert (begun.pair_status == PairStatus.DONE).any()
    outcome = run_comparison(zoo, place, Parameters(), client=client)
    assert outcome.plan.subspaces < 40
    assert 0 < len(outcome.plan.tiles) <= 12
    assert_same(place, undisturbed)


DEADLY = "net/step030/fc"


@pytest.mark.parametrize(("stage", "how"), [("subspaces", "dies"), ("tiles", "dies"), ("tiles", "grows")])
def test_compare__a_task_that_kills_its_workers_costs_its_own_pairs(
    client: distributed.Client, zoo: Zoo, tmp_path: Path, undisturbed: xr.Dataset, stage: str, how: str
) -> None:
    def arm(name: str, armed: bool) -> None:
        # In a worker, whichever nanny started it.
        import importlib
        import os
        import signal
        import time

        module = importlib.import_module("dask_svcca.tasks.perform")
        whole = getattr(module, name)
        module_whole = getattr(whole, "whole", whole)

        def deadly(context: Any, task: Any, *needed: Any) -> Any:
            members = [one.label for one in getattr(task, "members", ())]
            if "net/step030/fc" in members or task.key == "tile-1-3":
                held = [b""]
                while how == "grows" and len(held) < 64:
                    # The nanny looks ten times a second, and ends a worker that has reached its limit.
                    held.append(b"x" * 2**25)
                    time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGKILL)
            return module_whole(context, task, *needed)

        deadly.whole = module_whole
        setattr(module, name, deadly if armed else module_whole)

    name = {"subspaces": "make_pack", "tiles": "compute_tile"}[stage]

    class Armed(WorkerPlugin):
        name = "armed"

        def setup(self, worker: Any) -> None:
            arm(name, True)

        def teardown(self, worker: Any) -> None:
            arm(name, False)

    client.register_plugin(Armed())
    try:
        outcome = run_comparison(zoo, tmp_path / "comparison.zarr", Parameters(), client=client)
    finally:
        client.wait_for_workers(WORKERS, timeout=SECONDS)
        client.unregister_worker_plugin("armed")
    found = dask_svcca.open_comparison(tmp_path / "comparison.zarr").load()
    bad = np.asarray(undisturbed.representation_a == "net/step017/fc")
    if stage == "tiles":
        lost = np.zeros((40, 40), dtype=bool)
        lost[8:16, 24:32] = lost[24:32, 8:16] = True
        (reason,) = outcome.failures.values()
    else:
        deadly = np.asarray(undisturbed.representation_a == DEADLY)
        lost = np.logical_or.outer(deadly, deadly)
        reason = outcome.problems[DEADLY]
    assert re.search(
        r"killed 2 workers that ran it, the last of them at tcp://127.* with 1,024 MiB of memory: most likely they had "
        r"too little. Use fewer workers with more memory each. It was planned to take up to \d+ MiB",
        reason,
    )
    failed = np.asarray(found.pair_status == PairStatus.FAILED)
    np.testing.assert_array_equal(failed, lost | np.logical_or.outer(bad, bad))
    np.testing.assert_array_equal(found.svcca.where(~lost), undisturbed.svcca.where(~lost))
    run_comparison(zoo, tmp_path / "comparison.zarr", Parameters(), client=client)
    again = dask_svcca.open_comparison(tmp_path / "comparison.zarr").load()
    np.testing.assert_array_equal(again.pair_status, undisturbed.pair_status)
    np.testing.assert_allclose(again.svcca, undisturbed.svcca, rtol=0, atol=1e-7)


def test_compare__refuses_what_does_not_fit_in_a_worker(client: distributed.Client, tmp_path: Path) -> None:
    budget = DaskExecutor(client, "").budget
    assert budget.workers == WORKERS
    # Dask pauses a worker before it reaches its limit.
    assert 0.5 * MEMORY < budget.memory < 0.8 * MEMORY
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(4000))
    zoo.write("net", "step0", "wide", np.zeros((4000, 4000), dtype="float16"))
    with pytest.raises(MemoryLimitError, match=r"'net/step0/wide'.* needs [\d,]+ MiB in one .* may take 768 MiB"):
        dask_svcca.compare(zoo, tmp_path / "comparison.zarr", client=client)


# Memory of whole processes.


LITTLE = 640 * 2**20
"""Memory of a worker that a tile of even the smaller zoo would fill."""


def peak_of(folder: Path, examples: int, count: int) -> tuple[int, int]:
    """Most bytes that a worker process held, and most that the plan said."""

    def held() -> int:
        # Not by getrusage, which counts the process that forked this one. Defined here, to be sent as it is.
        status = Path("/proc/self/status").read_text("utf-8")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

    rng = np.random.default_rng(1)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(examples)) as zoo:
        for step in range(count):
            x = rng.standard_normal((examples, 256), dtype=np.float32)
            zoo.write("net", f"step{step:03}", "fc", x, step=step, compression="none")
    with connect(workers=WORKERS, memory=LITTLE) as client:
        outcome = run_comparison(zoo, folder / "comparison.zarr", Parameters(), client=client)
        peaks = client.run(held)
    assert outcome.computed == count * (count + 1) // 2
    return max(peaks.values()), PROCESS_BYTES + max(outcome.plan.subspace_bytes, outcome.plan.tile_bytes)


def test_compare__workers_hold_no_more_of_ten_times_as_much(tmp_path: Path) -> None:
    # Two groups, so that a tile of two full ones is among them.
    small, _ = peak_of(tmp_path / "small", 4000, 16)
    for name, examples, count in (("examples", 40_000, 16), ("representations", 4000, 160)):
        peak, predicted = peak_of(tmp_path / name, examples, count)
        assert peak <= predicted <= LITTLE
        assert peak <= 1.25 * small
