"""What is read while a device computes: no buffer is filled while it is read from, and none is read twice that fits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from zarr.storage import MemoryStore
from zoos import assert_same, layers, make_zoo

import dask_svcca
from dask_svcca.devices.numpy import HostMoments, NumPyDevice
from dask_svcca.errors import DaskSvccaError, FailedRepresentationWarning
from dask_svcca.kernels.products import ProductSum
from dask_svcca.plan import comparison as plan_module
from dask_svcca.plan import subspaces
from dask_svcca.stores._chunked import ChunkReader
from dask_svcca.stores.zoo import write
from dask_svcca.tasks import panel as panel_module
from dask_svcca.tasks import worker
from dask_svcca.tasks.held import Held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt


class Slow(NumPyDevice):
    """A device that computes with a buffer until somebody waits for what was asked before, as a GPU may."""

    name = "slow"
    turns = 2

    def __init__(self) -> None:
        self.busy: set[int] = set()

    def sent(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self.busy.add(array.ctypes.data)
        return array.copy()

    def mark(self) -> Callable[[], None]:
        asked = set(self.busy)
        return lambda: self.busy.difference_update(asked)


class Waiting(Slow):
    """One that has done with the first chunk only when the second is being read; it may fail at the second."""

    def __init__(self, failure: BaseException | None = None) -> None:
        super().__init__()
        self.second_is_read, self.failure, self.products_so_far = threading.Event(), failure, 0

    def products(self, single_samples: int, room: Any = None) -> ProductSum:
        device = self

        class Products(ProductSum):
            def add(self, rows: Any, columns: Any) -> None:
                device.products_so_far += 1
                assert device.second_is_read.wait(timeout=30)
                if device.failure is not None and device.products_so_far == 2:
                    raise device.failure
                super().add(rows, columns)

        return Products(single_samples, room)


class Reads:
    """How often something was read, for whoever waits for the next time."""

    def __init__(self) -> None:
        self.count, self._changed = 0, threading.Condition()

    def add(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count >= count, timeout=30)


class WaitingWithNorms(Slow):
    """One that has done with the first norms of samples only when the scores for the next are being read."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self._reads, self._before, self._asked, self.waited = reads, 0, False, False

    def products(self, single_samples: int, room: Any = None) -> ProductSum:
        device = self

        class Products(ProductSum):
            def add(self, rows: Any, columns: Any) -> None:
                # With the last of them, all scores of a tile have been read for its couplings.
                device._before = device._reads.count
                super().add(rows, columns)

        return Products(single_samples, room)

    def weighted_squares(self, *given: Any) -> None:
        if not self._asked:
            self._asked = True
            self._reads.wait_for(self._before + 2)
            self.waited = True
        super().weighted_squares(*given)


class WaitingWithMoments(Slow):
    """One that has done with the first activations only when the next are being read; it may fail then."""

    def __init__(self, reads: Reads, failure: BaseException | None = None) -> None:
        super().__init__()
        self._reads, self._failure, self._asked, self.waited = reads, failure, False, False

    def moments(self) -> HostMoments:
        device = self

        class Sum(HostMoments):
            def add(self, samples: Any) -> None:
                if not device._asked:
                    device._asked = True
                    device._reads.wait_for(2)
                    device.waited = True
                    if device._failure is not None:
                        raise device._failure
                super().add(samples)

        return Sum()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not readers()


def compared(monkeypatch: pytest.MonkeyPatch, device: NumPyDevice, room: int = 0) -> tuple[np.ndarray, int]:
    """SVCCA of twenty layers whose scores have several chunks, and how often scores were read."""
    reads = 0
    read = panel_module.Panel.read

    def watched(self: Any, chunk: int, buffer: Any) -> Any:
        nonlocal reads
        reads += 1
        assert buffer.ctypes.data not in getattr(device, "busy", set())
        if isinstance(device, Waiting) and chunk == 1:
            device.second_is_read.set()
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


def test_scores__are_read_while_the_device_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = compared(monkeypatch, NumPyDevice())
    found, _ = compared(monkeypatch, Waiting())
    np.testing.assert_array_equal(found, expected)


def test_norms__are_of_scores_that_are_read_while_the_device_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = compared(monkeypatch, NumPyDevice())
    reads, read = Reads(), panel_module.read_scores

    def watched(*given: Any) -> None:
        reads.add()
        read(*given)

    monkeypatch.setattr(panel_module, "read_scores", watched)
    device = WaitingWithNorms(reads)
    found, _ = compared(monkeypatch, device)
    assert device.waited
    np.testing.assert_array_equal(found, expected)


@pytest.fixture
def long_layers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dask_svcca.Zoo, Reads]]:
    """Layers of several chunks of activations, all of them long work; and how many chunks were read of them."""
    reads, read = Reads(), ChunkReader.read

    def watched(self: ChunkReader, chunk: int, **options: Any) -> Any:
        reads.add()
        return read(self, chunk, **options)

    monkeypatch.setattr(write, "CHUNK_BYTES", 600)
    monkeypatch.setattr(subspaces, "_on_device", lambda *_: True)
    zoo = make_zoo(MemoryStore(), layers(4))
    monkeypatch.setattr(ChunkReader, "read", watched)
    with dask.config.set(scheduler="synchronous"):
        yield zoo, reads


@pytest.mark.parametrize("measures", ["svcca", "cka"])
def test_activations__are_read_while_the_device_computes(
    measures: str, long_layers: tuple[dask_svcca.Zoo, Reads], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, reads = long_layers
    expected = dask_svcca.compare(zoo, measures=measures).load()
    often, reads.count = reads.count, 0
    device = WaitingWithMoments(reads)
    monkeypatch.setattr(worker, "open_device", lambda _: device)
    found = dask_svcca.compare(zoo, measures=measures).load()
    assert device.waited == (measures == "svcca")
    assert reads.count == often > 8
    assert_same(found, expected)


def test_activations__no_thread_reads_on_when_the_run_is_interrupted(
    long_layers: tuple[dask_svcca.Zoo, Reads], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, reads = long_layers
    interrupt = KeyboardInterrupt()
    device = WaitingWithMoments(reads, interrupt)
    monkeypatch.setattr(worker, "open_device", lambda _: device)
    with pytest.raises(KeyboardInterrupt) as raised:
        dask_svcca.compare(zoo)
    assert raised.value is interrupt
    assert not readers()


def test_activations__that_are_damaged_are_found_by_a_thread_as_without(
    long_layers: tuple[dask_svcca.Zoo, Reads], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, _ = long_layers
    store: Any = zoo.root.store
    (key,) = [key for key in store._store_dict if key.endswith("step001/fc/activations/c/1/0")]
    del store._store_dict[key]
    problems = []
    for device in (NumPyDevice(), Slow()):
        monkeypatch.setattr(worker, "open_device", lambda _, device=device: device)
        with pytest.warns(FailedRepresentationWarning):
            problems.append(dask_svcca.compare(zoo).problem_a.to_numpy().tolist())
    assert problems[0] == problems[1]
    assert "chunk 1 of" in problems[0][1]


def test_scores__no_thread_reads_on_when_the_run_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as raised:
        compared(monkeypatch, Waiting(interrupt))
    # The traceback is here still, and with it what was at work.
    assert raised.value is interrupt
    assert not readers()


def test_scores__are_read_again_by_the_next_attempt_when_the_device_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = compared(monkeypatch, NumPyDevice())
    found, _ = compared(monkeypatch, Waiting(MemoryError("no memory")))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["cpu", "torch:cpu"])
def test_scores__that_are_damaged_are_found_by_a_thread_as_without(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "cpu":
        pytest.importorskip("torch")
    monkeypatch.setattr(plan_module, "_chunk_samples", lambda *_: 25)
    zoo, place = make_zoo(tmp_path / "zoo.zarr", layers(20)), tmp_path / "comparison.zarr"
    found: list[tuple[str, str]] = []
    read = panel_module.Panel.read

    def watched(self: Any, chunk: int, buffer: Any) -> Any:
        try:
            return read(self, chunk, buffer)
        except DaskSvccaError as error:
            found.append((threading.current_thread().name, str(error)))
            raise

    monkeypatch.setattr(panel_module.Panel, "read", watched)
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.compare(zoo, place, measures="svcca")
        files = [file for file in (place / "subspaces").glob("**/scores/c/2/*") if file.is_file()]
        assert files
        for file in files:
            file.write_bytes(file.read_bytes()[:-100] + b"\xff" * 100)
        # Nothing is there any more but subspaces: all of their scores are read.
        repaired = dask_svcca.compare(zoo, subspaces=place / "subspaces", measures="svcca", device=name)
        expected = dask_svcca.compare(zoo, measures="svcca")
    assert found
    assert all("is not what was written" in text for _, text in found)
    assert all(thread.startswith("ahead") == (name != "cpu") for thread, _ in found)
    np.testing.assert_allclose(repaired.svcca, expected.svcca, rtol=0, atol=1e-6)


@pytest.mark.parametrize("measures", [("svcca",), ("cka", "cka_debiased", "svcca"), ("pwcca", "procrustes")])
def test_scores__of_several_chunks_have_the_values_of_the_processor(
    measures: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(plan_module, "_chunk_samples", lambda *_: 25)
    zoo = make_zoo(MemoryStore(), layers(20))
    with dask.config.set(scheduler="threads"):
        here, *there = (
            dask_svcca.compare(zoo, MemoryStore(), measures=measures, device=name).load()
            for name in ("cpu", "torch:cpu", "torch:cpu")
        )
    for name in measures:
        np.testing.assert_allclose(there[0][name], here[name], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(there[0][name], there[1][name])


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
