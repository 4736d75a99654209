"""A whole comparison on a device with little memory of its own: in panels that fit, with the same values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from zoos import layers, make_zoo

import dask_svcca
from dask_svcca.errors import MemoryLimitError
from dask_svcca.plan import subspaces
from dask_svcca.plan.on_device import device_bytes
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.tasks import PackTask
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.executors import Here
from dask_svcca.run.workers import DEVICE_SHARE
from dask_svcca.tasks import panel, patch, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from dask_svcca.plan.tasks import Node

torch = pytest.importorskip("torch")

MIB = 2**20


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Have PyTorch find a GPU with so much free memory; its arithmetic is that of the processor."""
    from dask_svcca.devices.torch.device import TorchDevice

    device = TorchDevice("torch:cpu")
    device.name = "cuda"
    shared = device.sent
    # What is sent to a GPU is a copy: it may stay there while the buffer is filled again.
    monkeypatch.setattr(device, "sent", lambda array: shared(array).clone())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for module in ("dask_svcca.run.workers", "dask_svcca.tasks.worker"):
        whole = __import__(module, fromlist=["open_device"]).open_device
        monkeypatch.setattr(
            f"{module}.open_device", lambda name, whole=whole: device if name == "cuda" else whole(name)
        )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)

    def with_memory(free: int) -> None:
        monkeypatch.setattr(device, "memory", lambda: free)

    with dask.config.set(scheduler="synchronous"):
        yield with_memory


def test_compare__in_panels_has_the_same_values(
    gpu: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(12))
    measures = ("svcca", "pwcca", "cka_debiased")
    expected = dask_svcca.compare(zoo, measures=measures).load()
    gpu(1000)
    with pytest.raises(
        MemoryLimitError, match=r"MiB of the memory of the device 'cuda', and a task may take 0 MiB of it"
    ):
        dask_svcca.compare(zoo, measures=measures, device="cuda")
    least, most = 1000, 100 * MIB
    while most - least > 20_000:
        gpu((least + most) // 2)
        try:
            dask_svcca.plan_comparison(zoo, measures=measures, device="cuda")
        except MemoryLimitError:
            least = (least + most) // 2
        else:
            most = (least + most) // 2
    gpu(most)
    plan = dask_svcca.plan_comparison(zoo, measures=measures, device="cuda")
    assert plan.device_memory == int(DEVICE_SHARE * most)
    assert all(one.on is not None and device_bytes(one.on) <= int(DEVICE_SHARE * most) for one in plan.tiles)
    cut: list[int] = []

    def counted(*given: Any, **options: Any) -> list[Any]:
        found = panel.cut(*given, **options)
        cut.append(len(found))
        return found

    monkeypatch.setattr(patch, "cut", counted)
    found = dask_svcca.compare(zoo, measures=measures, device="cuda")
    # One pair fits, and not all: some are compared at a time.
    assert max(cut) > 1
    for name in measures:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found.pair_status, expected.pair_status)


class ThenPacksAgain:
    """Runs all tasks, then those that make subspaces once more; how many arrays stay on the device after either."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.held: list[int] = []

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        Here(self.budget).run(nodes, perform, on_done)
        (at_work,) = worker._WORKERS.values()
        self.held.append(len(at_work.held._arrays))
        for node in nodes.values():
            if isinstance(node.task, PackTask):
                perform(node.task)
        self.held.append(len(at_work.held._arrays))


@pytest.mark.parametrize("on_device", [True, False])
def test_compare__scores_leave_the_device_to_subspaces_that_it_makes(
    on_device: bool, gpu: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subspaces, "ON_DEVICE", 0 if on_device else np.inf)
    gpu(100 * MIB)
    executor = ThenPacksAgain(Budget(1, 2**33, "cuda", 100 * MIB))
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(12))
    run_comparison(zoo, tmp_path / "c.zarr", make_parameters("svcca"), executor=executor)
    before, after = executor.held
    assert before > 0
    assert after == (0 if on_device else before)
