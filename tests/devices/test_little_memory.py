"""A whole comparison on a device with little memory of its own: in panels that fit, with the same values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from zoos import layers, make_zoo

import dask_svcca
from dask_svcca.errors import MemoryLimitError
from dask_svcca.plan.on_device import device_bytes
from dask_svcca.run.workers import DEVICE_SHARE
from dask_svcca.tasks import panel, patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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
