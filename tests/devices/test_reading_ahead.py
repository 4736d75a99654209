"""Scores on their way to a device: no buffer is filled while it is read from, and none is read twice that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from zarr.storage import MemoryStore
from zoos import layers, make_zoo

import dask_svcca
from dask_svcca.devices.numpy import NumPyDevice
from dask_svcca.plan import comparison as plan_module
from dask_svcca.tasks import panel as panel_module
from dask_svcca.tasks import worker
from dask_svcca.tasks.held import Held

if TYPE_CHECKING:
    import numpy.typing as npt
    import pytest


class Slow(NumPyDevice):
    """A device that reads from a buffer until somebody asks whether it is ready, as a GPU does."""

    name = "slow"
    turns = 2

    def __init__(self) -> None:
        self.busy: set[int] = set()

    def sent(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self.busy.add(array.ctypes.data)
        return array.copy()

    def ready(self, buffer: npt.NDArray[Any]) -> None:
        self.busy.discard(buffer.ctypes.data)


def compared(monkeypatch: pytest.MonkeyPatch, device: NumPyDevice, room: int = 0) -> tuple[np.ndarray, int]:
    """SVCCA of twenty layers whose scores have several chunks, and how often scores were read."""
    reads = 0
    read = panel_module.Panel.read

    def watched(self: Any, chunk: int, buffer: Any) -> Any:
        nonlocal reads
        reads += 1
        assert buffer.ctypes.data not in getattr(device, "busy", set())
        return read(self, chunk, buffer)

    monkeypatch.setattr(panel_module.Panel, "read", watched)
    monkeypatch.setattr(worker, "open_device", lambda _: device)
    monkeypatch.setattr(worker, "Held", lambda _: Held(room))
    monkeypatch.setattr(plan_module, "_chunk_samples", lambda *_: 25)
    with dask.config.set(scheduler="synchronous"):
        found = dask_svcca.compare(make_zoo(MemoryStore(), layers(20)), MemoryStore()).svcca.to_numpy()
    monkeypatch.setattr(panel_module.Panel, "read", read)
    return found, reads


def test_scores__that_fit_the_device_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, often = compared(monkeypatch, NumPyDevice())
    streamed, again = compared(monkeypatch, Slow())
    held, once = compared(monkeypatch, Slow(), 2**30)
    np.testing.assert_array_equal(streamed, expected)
    np.testing.assert_array_equal(held, expected)
    # Three groups of up to eight layers, in three chunks.
    assert (again, once) == (often, 9)
    assert often > once


def test_held__lets_go_of_what_was_not_used_for_longest() -> None:
    held, arrays = Held(3 * 80), {name: np.zeros(10) for name in "abcd"}
    for name in "abc":
        held.add(name, arrays[name])
    assert held.get("a") is arrays["a"]
    held.add("d", arrays["d"])
    assert [name for name in "abcd" if held.get(name) is not None] == ["a", "c", "d"]
    held.add("large", np.zeros(100))
    assert held.get("large") is None
    assert held.get("d") is arrays["d"]
    held.clear()
    assert held.get("d") is None
