"""A device as people ask for one: from Python, the command line and job files; and what the plan says of it."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from cli_runner import run
from fake_torch import fake_torch
from planned import GIGABYTE, representations, state_of
from zoos import layers, make_zoo

import dask_svcca
from dask_svcca.errors import DeviceError, InvalidJobError, JobError, MemoryLimitError
from dask_svcca.jobs.driver import drive
from dask_svcca.jobs.schema import parse_job
from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.on_device import TILES, device_bytes, staged_bytes
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.process import process_bytes
from dask_svcca.plan.selection import Selection
from dask_svcca.plan.stored import from_json, to_json
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run.slices import Part, begin
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from dask_svcca.plan.plan import Plan

MIB = 2**20


def on_gpu(
    there: int | None,
    shape: tuple[int, ...] = (10_000, 512),
    models: int = 4,
    *,
    measure: str = "svcca",
    **changes: Any,
) -> Plan:
    """A plan for a GPU with so much memory for a task."""
    items = representations(models, 8, 4, shape, chunk_examples=1000)
    every = Selection.of(np.ones((len(items), len(items)), dtype=bool))
    budget = replace(Budget(1, 64 * GIGABYTE, "cuda", there), **changes)
    return make_plan(items, every, None, None, Parameters(measures=(measure,)), budget)


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


# --- Python --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["compare", "plan_comparison", "forecast"])
def test_device__is_checked_before_anything_is_read(call: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"got 'gpu'\. Did you mean 'cuda'"):
        getattr(dask_svcca, call)(tmp_path / "nowhere.zarr", tmp_path / "comparison.zarr", device="gpu")
    assert files(tmp_path) == []


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "torch:cpu"])
def test_compare__writes_nothing_where_pytorch_is_missing(
    device: str, zoo: dask_svcca.Zoo, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(place.parent)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError, match="needs PyTorch"):
        dask_svcca.compare(zoo, place, device=device)
    with pytest.raises(DeviceError, match="needs PyTorch"):
        dask_svcca.compare(zoo, place, measures="cka", preview=True, device=device)
    assert files(place.parent) == before


@pytest.mark.parametrize("asked", [{"preview": True}, {"order": "by estimate"}, {"pairs": "nearest 2"}])
def test_compare__makes_no_sketches_where_pairs_do_not_fit_on_the_device(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_zoo(tmp_path / "zoo.zarr", layers(4))
    monkeypatch.setitem(sys.modules, "torch", fake_torch(1))
    monkeypatch.setattr("dask_svcca.run.workers.open_device", lambda _: SimpleNamespace(memory=lambda: 10_000))
    before = files(tmp_path)
    with pytest.raises(MemoryLimitError, match="of the memory of the device 'cuda'"):
        dask_svcca.compare(
            tmp_path / "zoo.zarr", tmp_path / "c.zarr", measures=("svcca", "cka"), device="cuda", **asked
        )
    assert files(tmp_path) == before


def test_compare__auto_is_the_cpu_where_there_is_no_gpu(
    zoo: dask_svcca.Zoo, place: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(0))
    result = dask_svcca.compare(zoo, place, device="auto")
    np.testing.assert_array_equal(result.svcca, undisturbed.svcca)
    record = json.loads(result.attrs["runs"])[-1]
    assert record["device"] == "cpu"
    assert "has no GPU: " in record["fallback"]
    said = f"(auto: {record['fallback']})"
    assert f"cpu {said}" in str(dask_svcca.plan_comparison(zoo, place, device="auto"))
    assert said not in str(dask_svcca.plan_comparison(zoo, place, device="cpu"))
    said_by_command = run(f"compare {zoo.root.store_path} {place} --device auto").output
    assert said in " ".join(said_by_command.split())
    timing = run(f"info {place} --timing").output
    assert "on cpu (auto)" in timing
    assert f"auto was the CPU, since {record['fallback']}" in timing


def test_compare__goes_on_with_another_device(zoo: dask_svcca.Zoo, place: Path) -> None:
    pytest.importorskip("torch")
    first = dask_svcca.compare(zoo, place, measures="svcca").load()
    again = dask_svcca.compare(zoo, place, measures="svcca", device="torch:cpu").load()
    np.testing.assert_array_equal(first.svcca, again.svcca)
    both = dask_svcca.compare(zoo, place, measures=("svcca", "cka"), device="torch:cpu")
    here = dask_svcca.compare(zoo, measures=("svcca", "cka"))
    np.testing.assert_allclose(both.cka, here.cka, rtol=0, atol=1e-6)
    assert "device" not in json.loads(both.attrs["parameters"])
    assert [one["device"] for one in json.loads(both.attrs["runs"])] == ["cpu", "torch:cpu"]
    assert " on torch:cpu " in run(f"info {place} --timing").output


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_compare__on_pytorch_gives_the_same_values(scheduler: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(6))
    measures = ("svcca", "pwcca", "cka", "procrustes")
    with dask.config.set(scheduler=scheduler):
        here, there = (dask_svcca.compare(zoo, measures=measures, device=name) for name in ("cpu", "torch:cpu"))
    for name in here.data_vars:
        if here[name].dtype.kind == "f":
            np.testing.assert_allclose(there[name], here[name], rtol=0, atol=1e-6, err_msg=str(name))
    np.testing.assert_array_equal(there.pair_status, here.pair_status)


# --- the plan ------------------------------------------------------------------------------------------------------


def test_plan__says_what_a_tile_takes_of_the_device() -> None:
    plan = on_gpu(16 * GIGABYTE)
    numbers = plan.to_dict()
    taken = numbers["bytes_per_tile_on_device"]
    assert (numbers["device"], numbers["device_memory"]) == ("cuda", 16 * GIGABYTE)
    assert taken == max(tile.on.peak for tile in plan.tiles if tile.on is not None) > 0
    # What a tile leaves is for scores that later tiles need too.
    assert numbers["bytes_held_on_device"] == 16 * GIGABYTE - taken > 8 * GIGABYTE
    said = f"cuda: at most {taken / MIB:,.0f} MiB per tile, and {16 * 1024 - taken / MIB:,.0f} MiB of scores that stay "
    assert f"{said}there, of the 16,384 MiB that a task may take of its memory" in str(plan)


def test_plan__of_a_cpu_says_nothing_of_devices() -> None:
    plan = on_gpu(None, device="cpu")
    assert plan.to_dict()["device"] == "cpu"
    assert not {"device_memory", "bytes_per_tile_on_device"} & set(plan.to_dict())
    assert "device" not in str(plan)
    assert all(tile.on is None for tile in plan.tiles)
    assert not any(pack.on_device for pack in plan.packs)


@pytest.mark.parametrize("memory", [200 * MIB, GIGABYTE, 16 * GIGABYTE, 80 * GIGABYTE])
def test_plan__tiles_stay_within_the_device_and_the_worker(memory: int) -> None:
    plan = on_gpu(memory)
    for tile in plan.tiles:
        assert tile.on is not None
        assert tile.on.peak == device_bytes(tile.on) <= memory
        assert staged_bytes(tile.on) <= 64 * GIGABYTE
        assert tile.memory.peak <= 64 * GIGABYTE
        assert tile.memory_on("cpu") is tile.memory
        assert tile.memory_on("cuda") is tile.on


def test_plan__tiles_are_as_large_as_the_device_allows() -> None:
    most = [max(tile.on.couplings for tile in on_gpu(there).tiles if tile.on) for there in (GIGABYTE, 8 * GIGABYTE)]
    assert 4 * most[0] < most[1] <= 8 * GIGABYTE


def test_plan__tiles_on_a_device_send_scores_less_often() -> None:
    there, usual = on_gpu(GIGABYTE, models=16), on_gpu(None, models=16, device="cpu")
    assert there.side > usual.side
    assert len(there.tiles) >= TILES
    assert {tile.side % there.tile for tile in there.tiles} == {0}


def test_plan__goes_on_in_the_tiles_of_the_store() -> None:
    items = representations(16, 8, 4, (10_000, 512), chunk_examples=1000)
    every = Selection.of(np.ones((len(items), len(items)), dtype=bool))
    state = state_of(items, PairStatus.MISSING, tile=16, workers=1)
    plan = make_plan(items, every, state, None, Parameters(), Budget(1, 64 * GIGABYTE, "cuda", 16 * GIGABYTE))
    assert plan.tile == 16
    assert plan.side % 16 == 0


def test_plan__little_memory_of_the_worker_bounds_what_is_sent() -> None:
    plan = on_gpu(80 * GIGABYTE, memory=2 * GIGABYTE)
    room = 2 * GIGABYTE - plan.to_dict()["bytes_per_process"]
    assert all(tile.on is not None and staged_bytes(tile.on) <= room for tile in plan.tiles)


def test_plan__buffers_are_within_the_least_memory_of_a_worker_that_it_takes() -> None:
    process = process_bytes("cuda")
    taken = []
    for more in range(4, 400, 12):
        with contextlib.suppress(MemoryLimitError):
            plan = on_gpu(80 * GIGABYTE, memory=process + more * MIB)
            taken.append(more)
            assert all(staged_bytes(tile.on) <= more * MIB for tile in plan.tiles if tile.on is not None)
    with pytest.raises(MemoryLimitError, match=r"needs [\d,]+ MiB in one worker .* may take [\d,]+ MiB of its memory"):
        on_gpu(80 * GIGABYTE, memory=process + (taken[0] - 12) * MIB)


def test_plan__refuses_a_gpu_that_others_use() -> None:
    with pytest.raises(MemoryLimitError, match=r"needs 44 MiB .* may take 0 MiB of it.*nvidia-smi lists"):
        on_gpu(0)


def test_plan__refuses_a_pair_that_does_not_fit_on_the_device() -> None:
    with pytest.raises(MemoryLimitError) as error:
        on_gpu(20 * MIB)
    text = str(error.value)
    assert "one pair of the widest representations, such as 'net0/step0/fc0' with up to 512 directions" in text
    assert "MiB of the memory of the device 'cuda', and a task may take 20 MiB of it. Use device='cpu'" in text
    needed = int(text.partition("needs ")[2].partition(" MiB")[0].replace(",", ""))
    assert on_gpu((needed + 1) * MIB).tiles


def test_plan__long_work_alone_is_the_devices() -> None:
    assert all(pack.on_device for pack in on_gpu(16 * GIGABYTE).packs)
    assert not any(pack.on_device for pack in on_gpu(16 * GIGABYTE, shape=(500, 24)).packs)
    # Inner products of 20,000 samples take more than this device has.
    plans = [on_gpu(there * GIGABYTE, shape=(20_000, 30_000), models=1, measure="cka") for there in (1, 40)]
    assert [{pack.on_device for pack in plan.packs} for plan in plans] == [{False}, {True}]


def test_plan__activations_are_read_ahead_where_the_device_computes_and_there_is_memory() -> None:
    assert all(member.memory.ahead for pack in on_gpu(16 * GIGABYTE).packs for member in pack.members)
    for plan in (on_gpu(None, device="cpu"), on_gpu(16 * GIGABYTE, shape=(500, 24))):
        assert not any(member.memory.ahead for pack in plan.packs for member in pack.members)
    process, found = process_bytes("cuda"), []
    for more in range(20, 200, 2):
        with contextlib.suppress(MemoryLimitError):
            plan = on_gpu(80 * GIGABYTE, memory=process + more * MIB)
            (ahead,) = {member.memory.ahead for pack in plan.packs for member in pack.members}
            assert plan.subspace_bytes <= more * MIB
            found.append((ahead, plan.subspace_bytes))
    # With the least that is accepted there is no room for a second chunk: 1,000 x 512 in single precision, twice.
    first = [ahead for ahead, _ in found].index(True)
    assert first > 0
    assert found[first][1] - found[first - 1][1] <= 2 * 1000 * 512 * 4
    assert all(ahead for ahead, _ in found[first:])


@pytest.mark.parametrize("kind", ["tiles", "packs"])
def test_tasks__are_the_same_as_json(kind: str) -> None:
    task = getattr(on_gpu(16 * GIGABYTE), kind)[0]
    assert from_json(json.loads(json.dumps(to_json(task)))) == task


# --- the command line ----------------------------------------------------------------------------------------------


def test_command__refuses_a_device_that_is_not_there(
    zoo: dask_svcca.Zoo, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = place.parent / "zoo.zarr"
    assert "Did you mean 'cuda'?" in run(f"compare {source} {place} --device gpu", 2).output
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'dask-svcca[torch]'" in run(f"compare {source} {place} --device cuda", 2).output
    assert "pip install 'dask-svcca[torch]'" in run(f"compare {source} {place} --device cuda --dry-run", 2).output
    assert not place.exists()


def test_command__plans_for_the_device(zoo: dask_svcca.Zoo, place: Path) -> None:
    pytest.importorskip("torch")
    source = place.parent / "zoo.zarr"
    text = run(f"compare {source} {place} --device torch:cpu --workers 1 --dry-run").output
    assert "torch:cpu, in the memory of the process" in text
    numbers = json.loads(run(f"compare {source} {place} --device torch:cpu --workers 1 --dry-run --json").output)
    assert numbers["device"] == "torch:cpu"


# --- job files -----------------------------------------------------------------------------------------------------


def test_job__has_a_device() -> None:
    job = parse_job("zoo: z.zarr\ncomparison: c.zarr\ndevice: cuda:01", "job.yaml", Path("/data"))
    assert job.device == "cuda:1"
    assert "device" not in job.options


def test_job__names_line_and_key_of_a_device_that_is_not_one() -> None:
    with pytest.raises(
        InvalidJobError, match=r"^job.yaml, line 3: device is 'cpu', .*; got 'gpu'. Did you mean 'cuda'"
    ):
        parse_job("zoo: z.zarr\ncomparison: c.zarr\ndevice: gpu", "job.yaml", Path("/data"))
    with pytest.raises(InvalidJobError, match=r"^job.yaml, line 3: 'devise' is not a key.*Did you mean 'device'"):
        parse_job("zoo: z.zarr\ncomparison: c.zarr\ndevise: cpu", "job.yaml", Path("/data"))


def test_job__in_parts_computes_on_its_device(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    make_zoo(tmp_path / "zoo.zarr", layers(12))
    (tmp_path / "job.yaml").write_text("zoo: zoo.zarr\ncomparison: c.zarr\ndevice: torch:cpu\n")
    run(f"init {tmp_path}/job.yaml --parts 2 --memory 1GiB")
    for part in (0, 1):
        run(f"part {tmp_path}/job.yaml {part}")
    run(f"finalise {tmp_path}/job.yaml")
    here = dask_svcca.compare(tmp_path / "zoo.zarr")
    there = dask_svcca.open_comparison(tmp_path / "c.zarr")
    np.testing.assert_allclose(there.svcca, here.svcca, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(there.pair_status, here.pair_status)


def test_job__is_planned_in_parts_where_its_device_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_zoo(tmp_path / "zoo.zarr", layers(4))
    (tmp_path / "job.yaml").write_text("zoo: zoo.zarr\ncomparison: c.zarr\ndevice: cuda\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    run(f"init {tmp_path}/job.yaml --parts 1 --memory 4GiB")
    assert "needs PyTorch" in run(f"part {tmp_path}/job.yaml 0", 2).output


@pytest.mark.parametrize("asked", ["preview: true", "pairs: nearest 2"])
def test_job__in_parts_that_is_refused_leaves_nothing_behind(asked: str, tmp_path: Path) -> None:
    make_zoo(tmp_path / "zoo.zarr", layers(4))
    (tmp_path / "job.yaml").write_text(f"zoo: zoo.zarr\ncomparison: c.zarr\nmeasures: [cka]\ndevice: cuda\n{asked}\n")
    before = files(tmp_path)
    printed = " ".join(run(f"init {tmp_path}/job.yaml --parts 2 --memory 2GiB", 2).output.split())
    assert re.search(
        r"in one part \([\d,]+ MiB beyond its process, which holds 1,886 MiB, of which 1,536 MiB are assumed for "
        r"PyTorch with CUDA\), and a part may take 1,536 MiB of its --memory\. Use more --memory for each part, or "
        r"device='cpu', or a reading with fewer neurons",
        printed,
    )
    assert files(tmp_path) == before


@pytest.mark.parametrize(("device", "planned"), [("cuda", None), ("auto", "cpu")])
def test_job__in_parts_that_were_planned_for_the_cpu_takes_no_gpu(
    device: str, planned: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(4))
    (tmp_path / "job.yaml").write_text("zoo: zoo.zarr\ncomparison: c.zarr\n")
    run(f"init {tmp_path}/job.yaml --parts 1 --memory 1GiB")
    monkeypatch.setitem(sys.modules, "torch", fake_torch(1))
    monkeypatch.setattr("dask_svcca.run.workers.open_device", lambda _: SimpleNamespace(memory=lambda: GIGABYTE))
    if planned is None:
        with pytest.raises(JobError, match="was planned for device='cpu', and this part is to compute with 'cuda'"):
            Part(zoo, tmp_path / "c.zarr", Parameters(), 0, device=device)
    else:
        assert Part(zoo, tmp_path / "c.zarr", Parameters(), 0, device=device).run(None) == (4, 10)


def test_job__in_parts_fits_on_the_device_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(4))
    begin(zoo, tmp_path / "c.zarr", Parameters(), parts=1, memory=4 * GIGABYTE, device="cuda")
    monkeypatch.setitem(sys.modules, "torch", fake_torch(1))
    for memory in (GIGABYTE, 10_000):
        monkeypatch.setattr(
            "dask_svcca.run.workers.open_device", lambda _, free=memory: SimpleNamespace(memory=lambda: free)
        )
        if memory == GIGABYTE:
            Part(zoo, tmp_path / "c.zarr", Parameters(), 0, device="cuda")
        else:
            with pytest.raises(
                MemoryLimitError, match=r"a tile of part 0 was planned to take \d MiB of the device 'cuda'"
            ):
                Part(zoo, tmp_path / "c.zarr", Parameters(), 0, device="cuda")


def test_job__is_refused_where_it_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_zoo(tmp_path / "zoo.zarr", layers(2))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "job.yaml").write_text("zoo: zoo.zarr\ncomparison: c.zarr\ndevice: cuda\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "needs PyTorch" in run(f"submit {tmp_path}/job.yaml", 2).output
    assert "needs PyTorch" in run(f"run {tmp_path}/job.yaml", 2).output
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.slow
def test_job__runs_on_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    make_zoo(tmp_path / "zoo.zarr", layers(12))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    text = "zoo: zoo.zarr\ncomparison: c.zarr\ndevice: torch:cpu\ncluster: {workers: 1, memory: 1GiB}"
    outcome = drive(parse_job(text, "job.yaml", tmp_path), "20261127-abcdef")
    assert (outcome.plan.device, outcome.computed, outcome.device_caution) == ("torch:cpu", 78, "")
