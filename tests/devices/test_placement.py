"""Which worker computes on which device: processes with a GPU each, clusters of both kinds, GPUs that are shared."""

from __future__ import annotations

import multiprocessing
import os
import sys
import types
from typing import TYPE_CHECKING, Any

import cloudpickle
import distributed
import numpy as np
import pytest
from cli_runner import run
from fake_torch import fake_torch
from zoos import layers, make_zoo

import dask_svcca
from dask_svcca.connections import Resources, connect, local, local_resources, visible_gpus
from dask_svcca.devices import open_device
from dask_svcca.errors import ClusterError, DeviceError, DeviceFailedError, MemoryLimitError
from dask_svcca.plan.tasks import Node
from dask_svcca.run import workers
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.graphs import run_graph
from dask_svcca.run.workers import Own, Placed, asked_apart, place_each, place_here, place_local, place_on
from dask_svcca.tasks import worker
from dask_svcca.tasks.held import Held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Workers cannot import this module: they get its functions whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

GIB = 2**30


class Holds:
    """A device with memory of its own."""

    def __init__(self, memory: int) -> None:
        self._memory = memory

    def memory(self) -> int:
        return self._memory


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and workers that are threads of it, find two GPUs of 10 GiB."""
    monkeypatch.setitem(sys.modules, "torch", fake_torch(2))
    monkeypatch.setattr(workers, "open_device", lambda _: Holds(10 * GIB))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def address(*_: Any) -> str:
    return str(distributed.get_worker().address)


TRIED: list[int] = []


def fails_twice() -> int:
    """Of tries on workers of this process, the third succeeds."""
    TRIED.append(len(TRIED))
    if len(TRIED) < 3:
        raise RuntimeError("injected")
    return len(TRIED)


def in_threads(*resources: dict[str, float], threads: int = 1) -> distributed.LocalCluster:
    """A cluster in this process whose workers have these resources."""
    workers = {
        number: {"cls": distributed.Worker, "options": {"nthreads": threads, "resources": own}}
        for number, own in enumerate(resources)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"protocol": "inproc://", "dashboard": False, "dashboard_address": "127.0.0.1:0"},
    }
    return distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=False)


@pytest.fixture
def mixed() -> Iterator[distributed.Client]:
    """Two workers without a GPU, and one with."""
    with in_threads({}, {"GPU": 1}, {}) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client


# --- a cluster on this machine -------------------------------------------------------------------------------------


def test_local_resources__count_gpus(two_gpus: None) -> None:
    assert local_resources(device="cuda").gpus == ("0", "1")
    assert local_resources(device="cuda").workers == 2
    assert local_resources(1, device="cuda").gpus == ("0",)
    assert local_resources(device="auto") == local_resources(device="cuda")
    # One of them: its worker sees all, and knows which it is by its number.
    assert (local_resources(device="cuda:1").workers, local_resources(device="cuda:1").gpus) == (1, ())
    assert local_resources(3).gpus == ()


def test_local_resources__refuse_more_workers_than_gpus(two_gpus: None) -> None:
    with pytest.raises(ClusterError, match=r"3 workers need as many, and this machine has 2\. Use fewer workers"):
        local_resources(3, device="cuda")
    with pytest.raises(ClusterError, match=r"2 workers need as many, and 'cuda:1' is one\. Use fewer workers"):
        local_resources(2, device="cuda:1")
    with pytest.raises(DeviceError, match="there is no 'cuda:2'"):
        local_resources(device="cuda:2")


@pytest.mark.parametrize(
    ("seen", "gpus"),
    [("5,3", ("5", "3")), (" 4 , 6 ,7", ("4", "6")), ("GPU-a1,GPU-b2", ("GPU-a1", "GPU-b2")), ("", ("0", "1"))],
)
def test_visible_gpus__are_those_of_this_process(
    seen: str, gpus: tuple[str, ...], two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert visible_gpus() == gpus


@pytest.mark.slow
def test_connect__workers_have_a_gpu_each(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    with connect(device="cuda", memory="400MiB") as client:
        assert sorted(client.run(visible).values()) == ["3", "5"]
        assert [one["resources"] for one in client.scheduler_info(n_workers=-1)["workers"].values()] == [{"GPU": 1}] * 2
        # A nanny starts a worker again with the GPU that it had.
        client.restart()
        assert sorted(client.run(visible).values()) == ["3", "5"]
    assert visible() == "5,3"


@pytest.mark.slow
def test_connect__without_a_gpu_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    with connect(workers=1, memory="400MiB") as client:
        assert list(client.run(visible).values()) == ["5,3"]
        assert [one["resources"] for one in client.scheduler_info(n_workers=-1)["workers"].values()] == [{}]


def test_connect__leaves_it_to_dask_cuda_where_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def cluster(**options: Any) -> Any:
        asked.update(options)
        raise RuntimeError("no GPU here")

    monkeypatch.setitem(sys.modules, "dask_cuda", types.SimpleNamespace(LocalCUDACluster=cluster))
    with pytest.raises(ClusterError, match="no GPU here"), local.start_local(Resources(2, GIB, ("5", "3"))):
        pass
    assert asked["CUDA_VISIBLE_DEVICES"] == ["5", "3"]
    assert (asked["n_workers"], asked["threads_per_worker"], asked["memory_limit"]) == (2, 1, GIB)
    assert asked["resources"] == {"GPU": 1}
    assert asked["host"] == "127.0.0.1"


def test_connect__to_a_scheduler_takes_no_device() -> None:
    with (
        pytest.raises(ClusterError, match="device='cuda' are for a local cluster"),
        connect("tcp://x:1", device="cuda"),
    ):
        pass


# --- a cluster that is there ---------------------------------------------------------------------------------------


def test_place_here__shares_the_device_between_tasks(two_gpus: None) -> None:
    assert place_here("cuda", 4) == Placed("cuda", 2 * GIB)
    assert place_here("cpu", 4) == Placed("cpu", None)


def test_place_here__lets_go_of_what_earlier_runs_left(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(1000)
    held.add("scores", np.zeros(100))
    monkeypatch.setattr(worker, "_WORKERS", {"before": types.SimpleNamespace(held=held)})
    place_here("cuda", 1)
    assert held.get("scores") is None


def test_place_local__without_a_gpu_is_what_this_process_has() -> None:
    assert place_local("cpu", 2) == Placed("cpu")
    with pytest.raises(DeviceError, match="device is 'cpu'"):
        place_local("gpu", 2)


def test_place_each__has_what_the_least_of_the_gpus_has() -> None:
    free = [Own(f"cuda:{number}", memory, str(number), "") for number, memory in enumerate((10 * GIB, 5 * GIB))]
    assert place_each("cuda", "cuda", free) == Placed("cuda", 4 * GIB)
    assert place_each("auto", "cuda", free) == Placed("cuda", 4 * GIB)
    assert place_each("auto", "cuda", [*free, "'cuda:2' is busy"]) == Placed("cpu", None, "'cuda:2' is busy")
    with pytest.raises(DeviceError, match="'cuda:2' is busy"):
        place_each("cuda", "cuda", [*free, "'cuda:2' is busy"])


def test_asked_apart__leaves_no_process_behind_and_opens_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "open_device", lambda _: pytest.fail("it was opened here"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here, there = asked_apart(["cpu", "cuda:7"])
    assert here == Own("cpu", None, "0", "")
    assert isinstance(there, str)
    assert there.startswith("device='cuda:7' needs")
    assert not multiprocessing.active_children()


def test_place_on__asks_those_with_the_resource_alone(two_gpus: None, mixed: distributed.Client) -> None:
    assert place_on(mixed, "cuda") == Placed("cuda", 8 * GIB)
    assert place_on(mixed, "auto") == Placed("cuda", 8 * GIB)
    assert place_on(mixed, "cpu") == Placed("cpu", None)


def test_place_on__workers_of_a_machine_share_its_gpu(two_gpus: None) -> None:
    with in_threads({}, {}) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        assert place_on(client, "cuda") == Placed("cuda", 4 * GIB)
    with in_threads({}, threads=4) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        assert place_on(client, "cuda:1") == Placed("cuda:1", 2 * GIB)


def test_place_on__names_a_worker_without_the_device(
    mixed: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(0))
    (with_gpu,) = workers.with_gpus(mixed)
    with pytest.raises(DeviceError) as error:
        place_on(mixed, "cuda")
    assert str(error.value).startswith(
        f"the worker {with_gpu} cannot compute with device='cuda': device='cuda' needs a"
    )
    placed = place_on(mixed, "auto")
    assert (placed.device, placed.memory) == ("cpu", None)
    assert "the worker " in placed.fallback


def test_compare__writes_nothing_where_a_worker_has_no_device(
    zoo: dask_svcca.Zoo, place: Path, mixed: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    before = sorted(place.parent.rglob("*"))
    for call in (dask_svcca.compare, dask_svcca.plan_comparison):
        with pytest.raises(DeviceError, match=r"the worker .* cannot compute with device='cuda'.*needs PyTorch"):
            call(zoo, place, device="cuda", client=mixed)
    assert sorted(place.parent.rglob("*")) == before


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and workers that are threads of it, find a GPU whose memory others hold."""

    def memory() -> int:
        raise DeviceFailedError("the device 'cuda' failed at asking for its memory: CUDA error: out of memory")

    monkeypatch.setitem(sys.modules, "torch", fake_torch(1))
    monkeypatch.setattr(workers, "open_device", lambda _: types.SimpleNamespace(memory=memory))


def test_place__says_that_a_gpu_is_busy(busy: None, mixed: distributed.Client) -> None:
    said = r"device='cuda' is there, and cannot be used: .* out of memory\. nvidia-smi lists the programs"
    with pytest.raises(DeviceError, match=said):
        place_here("cuda", 1)
    with pytest.raises(DeviceError, match=f"the worker .* cannot compute with device='cuda': {said}"):
        place_on(mixed, "cuda")
    for placed in (place_here("auto", 1), place_on(mixed, "auto")):
        assert (placed.device, placed.memory) == ("cpu", None)
        assert "out of memory" in placed.fallback


@pytest.mark.parametrize(
    "command",
    ["run {job}", "compare {zoo} {comparison} --device torch:cpu --scheduler {scheduler}"],
)
def test_workers__are_asked_once_what_they_have(
    command: str, place: Path, mixed: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    asked: list[str] = []

    def opened(name: str) -> Any:
        asked.append(name)
        return open_device(name)

    monkeypatch.setattr(workers, "open_device", opened)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.parent / "home"))
    zoo, scheduler = place.parent / "zoo.zarr", mixed.scheduler.address
    make_zoo(zoo, layers(4))
    job = place.parent / "job.yaml"
    job.write_text(f"zoo: {zoo}\ncomparison: {place}\ndevice: torch:cpu\ncluster: {scheduler}\n")
    run(command.format(job=job, zoo=zoo, comparison=place, scheduler=scheduler))
    # The one with a GPU, and nobody else.
    assert asked == ["torch:cpu"]


def test_place_on__refuses_workers_that_would_end_when_they_are_asked(
    mixed: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "open_device", lambda _: pytest.fail("a worker was asked"))
    for worker_there in mixed.cluster.scheduler.workers.values():
        worker_there.memory_limit = 400 * 2**20
    said = r"the worker .* has 400 MiB of memory, and with device='torch:cpu' its process holds 550 MiB, of which 200"
    with pytest.raises(MemoryLimitError, match=f"{said}.* Use fewer workers with more memory each, or device='cpu'"):
        place_on(mixed, "torch:cpu")


def test_run_graph__long_tasks_wait_for_workers_with_a_gpu(mixed: distributed.Client) -> None:
    graph: dict[str, tuple[Any, ...]] = {f"small-{number}": (address, number) for number in range(20)}
    graph |= {f"tile-{number}": (address, f"small-{number}") for number in range(20)}
    found: dict[str, str] = {}
    on_gpu = frozenset(name for name in graph if name.startswith("tile"))
    run_graph(graph, list(graph), found.__setitem__, mixed, on_gpu=on_gpu)
    (with_gpu,) = workers.with_gpus(mixed)
    assert {found[name] for name in on_gpu} == {with_gpu}
    assert len(found) == 40


def test_run_graph__tasks_with_a_gpu_are_tried_again(mixed: distributed.Client) -> None:
    TRIED.clear()
    found: dict[str, Any] = {}
    run_graph({"tile": (fails_twice,)}, ["tile"], found.__setitem__, mixed, on_gpu=frozenset({"tile"}))
    assert found == {"tile": 3}


@pytest.mark.parametrize(("device", "placed"), [("cuda", True), ("cpu", False)])
def test_executor__asks_for_a_gpu_where_the_device_is_one(
    device: str, placed: bool, two_gpus: None, mixed: distributed.Client
) -> None:
    nodes = {
        **{f"small-{number}": Node(number, reports=True) for number in range(20)},
        **{f"tile-{number}": Node(number, (f"small-{number}",), reports=True, on_device=True) for number in range(20)},
    }
    found: dict[str, str] = {}
    executor = DaskExecutor(mixed, "run", device=device)
    executor.run(nodes, address, found.__setitem__)
    (with_gpu,) = workers.with_gpus(mixed)
    tiles = {found[name] for name in nodes if name.startswith("tile")}
    assert (tiles == {with_gpu}) is placed
    assert executor.budget.device == device
    assert executor.budget.device_memory == (8 * GIB if placed else None)


def test_run_graph__ends_where_no_worker_with_a_gpu_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_svcca.run.graphs.LOOK_SECONDS", 0.0)
    graph, on_gpu = {"tile": (address,)}, frozenset({"tile"})
    with (
        in_threads({}) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        pytest.raises(ClusterError, match="no worker with a GPU is left"),
    ):
        run_graph(graph, ["tile"], lambda *_: None, client, on_gpu=on_gpu, workers_within=0)


def test_compare__on_a_cluster_with_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(6))
    with in_threads({}, {}) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        there = dask_svcca.compare(zoo, tmp_path / "comparison.zarr", device="torch:cpu", client=client)
    np.testing.assert_allclose(there.svcca, dask_svcca.compare(zoo).svcca, rtol=0, atol=1e-6)
