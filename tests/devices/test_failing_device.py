"""A device that fails in the middle of a run: tried again, then the CPU; the run goes on, and says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from cli_runner import run
from zoos import layers, make_zoo

import dask_svcca
from dask_svcca.errors import DeviceFailedWarning, FailedRepresentationWarning
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.executors import Here
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import xarray as xr

torch = pytest.importorskip("torch", reason="the second implementation of a device is PyTorch's")

COUNT = 20
"""Three groups of eight, eight and four: six tiles."""

HERE = Here(Budget(1, 2**31, "torch:cpu"))


@pytest.fixture
def zoo(tmp_path: Path) -> dask_svcca.Zoo:
    return make_zoo(tmp_path / "zoo.zarr", layers(COUNT))


@pytest.fixture(autouse=True)
def _one_by_one() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def fail(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool], message: str = "CUDA error: injected"
) -> list[int]:
    """Some calls of a function of PyTorch that every tile takes raise, by their number; returns the numbers so far."""
    calls: list[int] = []
    whole = torch.Tensor.addmm_

    def failing(*given: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if fails(calls[-1]):
            raise RuntimeError(message)
        return whole(*given, **options)

    monkeypatch.setattr(torch.Tensor, "addmm_", failing)
    return calls


def same(found: xr.Dataset, expected: xr.Dataset) -> None:
    np.testing.assert_array_equal(found.pair_status, expected.pair_status)
    np.testing.assert_allclose(found.svcca, expected.svcca, rtol=0, atol=1e-6)


def test_device__that_works_is_not_mentioned(zoo: dask_svcca.Zoo, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fail(monkeypatch, lambda _: False)
    outcome = run_comparison(zoo, place, Parameters(), executor=HERE)
    assert len(calls) >= 6
    assert (outcome.on_cpu, outcome.device_caution) == ({}, "")


def test_device__that_fails_once_is_tried_again(
    zoo: dask_svcca.Zoo, place: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, lambda number: number == 2)
    outcome = run_comparison(zoo, place, Parameters(), executor=HERE)
    assert (outcome.on_cpu, outcome.failed, outcome.computed) == ({}, 0, 210)
    same(dask_svcca.open_comparison(place), undisturbed)


def test_device__that_fails_twice_leaves_the_tile_to_the_cpu(
    zoo: dask_svcca.Zoo, place: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fail(monkeypatch, lambda number: number in {2, 3})
    outcome = run_comparison(zoo, place, Parameters(), executor=HERE)
    assert (outcome.on_cpu, outcome.failed, outcome.computed) == ({"tiles": 1}, 0, 210)
    assert outcome.device_caution == (
        "1 tile of 'torch:cpu' was computed on the CPU, since the device failed twice each time. The first: "
        "the device 'torch:cpu' failed at a product of scores: CUDA error: injected"
    )
    # The tiles after it are computed on the device again.
    assert max(calls) > 3
    result = dask_svcca.open_comparison(place)
    same(result, undisturbed)
    record = json.loads(result.attrs["runs"])[-1]
    assert (record["device"], record["on_cpu"]) == ("torch:cpu", {"tiles": 1})
    assert record["device_failure"].endswith("CUDA error: injected")
    timing = run(f"info {place} --timing").output
    assert "1 on torch:cpu, 1 tile on the CPU" in timing
    assert f"torch:cpu failed, the first time since {record['device_failure']}" in timing


def test_device__that_is_gone_leaves_all_to_the_cpu(
    zoo: dask_svcca.Zoo, place: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, lambda _: True)
    with pytest.warns(
        DeviceFailedWarning, match=r"6 tiles of 'torch:cpu' were computed on the CPU.*CUDA error: injected"
    ):
        result = dask_svcca.compare(zoo, place, device="torch:cpu")
    same(result, undisturbed)


@pytest.mark.parametrize("error", [MemoryError("out of it"), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried")])
def test_device__that_is_out_of_memory_leaves_the_tile_to_the_cpu(
    error: Exception, zoo: dask_svcca.Zoo, place: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(torch.Tensor, "addmm_", failing)
    outcome = run_comparison(zoo, place, Parameters(), executor=HERE)
    assert outcome.on_cpu == {"tiles": 6}
    same(dask_svcca.open_comparison(place), undisturbed)


def test_device__that_fails_where_the_cpu_does_too_has_its_tile_recorded(
    zoo: dask_svcca.Zoo, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, lambda number: number < 6)

    def failing(*_: Any) -> Any:
        raise RuntimeError("the CPU too")

    with monkeypatch.context() as patched:
        patched.setattr("dask_svcca.kernels.products.ProductSum.add", failing)
        with pytest.warns(FailedRepresentationWarning, match="the CPU too"):
            result = dask_svcca.compare(zoo, place, device="torch:cpu").load()
    failed = (result.pair_status == PairStatus.FAILED).to_numpy()
    assert 0 < failed.sum() < failed.size
    assert "the CPU too" in result.attrs["failures"]
    assert np.isfinite(result.svcca.to_numpy()[~failed]).all()
    # The next call tries them again.
    again = dask_svcca.compare(zoo, place, device="torch:cpu")
    assert set(np.unique(again.pair_status)) == {PairStatus.DONE}


def test_device__that_fails_at_a_subspace_leaves_it_to_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_svcca.plan.subspaces.ON_DEVICE", 0.0)
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(4))
    expected = dask_svcca.compare(zoo, measures="cca").load()

    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("cusolver error: injected")

    monkeypatch.setattr("torch.linalg.eigh", failing)
    outcome = run_comparison(zoo, tmp_path / "c.zarr", Parameters(measures=("cca",)), executor=HERE)
    assert outcome.on_cpu.get("subspaces") == 4
    assert "subspaces" in outcome.device_caution
    found = dask_svcca.open_comparison(tmp_path / "c.zarr")
    np.testing.assert_allclose(found.cca, expected.cca, rtol=0, atol=1e-6)


def test_device__that_fails_at_a_part_of_a_subspace_says_so_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_svcca.plan.subspaces.ON_DEVICE", 0.0)
    monkeypatch.setattr("dask_svcca.plan.subspaces.SPLIT_BYTES", 1)
    arrays = layers(2)
    # Chunks of ten examples, which may be read apart.
    monkeypatch.setattr("dask_svcca.stores.zoo.write.CHUNK_BYTES", 10 * arrays[0][0].nbytes)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    failed: list[int] = []
    whole = torch.Tensor.addmm_

    def failing(total: Any, *given: Any) -> Any:
        # The first scatter, and its second attempt; no products of scores.
        if len(failed) < 2:
            failed.append(1)
            raise RuntimeError("injected")
        return whole(total, *given)

    monkeypatch.setattr(torch.Tensor, "addmm_", failing)
    outcome = run_comparison(zoo, tmp_path / "c.zarr", Parameters(), executor=Here(Budget(2, 2**31, "torch:cpu")))
    assert {pack.parts for pack in outcome.plan.packs} != {1}
    assert (outcome.on_cpu, outcome.computed) == ({"subspaces": 1}, 3)


def test_command__says_what_was_computed_on_the_cpu(
    zoo: dask_svcca.Zoo, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, lambda _: True)
    (place.parent / "job.yaml").write_text("zoo: zoo.zarr\ncomparison: comparison.zarr\ndevice: torch:cpu\n")
    run(f"init {place.parent}/job.yaml --parts 1 --memory 1GiB")
    said = run(f"part {place.parent}/job.yaml 0").output
    assert "6 tasks were computed on the CPU in the end, since the device 'torch:cpu' failed. The first: " in said
    assert "CUDA error: injected" in said
    assert "1 (part 0) on torch:cpu, 6 tiles on the CPU" in run(f"info {place} --timing").output
    assert "210 of 210 pairs are there." in run(f"finalise {place.parent}/job.yaml").output
