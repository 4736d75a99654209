"""Processes that are killed, and processes that begin at once: the same call goes on to the same end."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import xarray as xr
from processes import ZOOS, compare, compare_and_wait, compare_or_hear, everything, layer, make, make_whole

import dask_svcca

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KILLS = 38
"""Of a process alone; with those of workers and of groups, 50."""

# A process that starts from here has imported everything, and none of the threads of this one.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["dask_svcca.run.compare", "xarray", "distributed", "processes"])


def look(folder: Path) -> None:
    """What says that it is one of ours can be opened by anybody."""
    document = folder / "comparison.zarr" / "zarr.json"
    if document.exists():
        with xr.open_zarr(folder / "comparison.zarr", chunks=None) as found:
            assert "pair_status" in found.load()
    if (folder / "zoo.zarr" / "zarr.json").exists():
        for name in dask_svcca.open_zoo(folder / "zoo.zarr"):
            step = int(name.checkpoint.removeprefix("step"))
            found = np.asarray(dask_svcca.open_zoo(folder / "zoo.zarr")[name])
            assert any(np.array_equal(found, layer(step, seed)) for seed in (0, 1))


def strays(folder: Path) -> list[str]:
    # A lease that was being taken may leave a hundred bytes; its name is taken by nobody.
    left = (path for path in folder.rglob("*") if not re.fullmatch(r"lease-.*\.partial", path.name))
    return [str(path) for path in left if any(word in path.name for word in ("partial", "lease", "_new-"))]


def assert_equal(folder: Path, expected: Path, tolerance: float = 0) -> None:
    found, right = (dask_svcca.open_comparison(one / "comparison.zarr").load() for one in (folder, expected))
    for name in right.data_vars:
        if right[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], right[name], rtol=0, atol=tolerance, err_msg=str(name))
        else:
            np.testing.assert_array_equal(found[name], right[name], err_msg=str(name))


def begun(target: Callable[..., Any], *arguments: Any) -> Any:
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def ended(processes: list[Any]) -> list[int | None]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.mark.slow
def test_everything__killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    rng = random.Random(0)
    undisturbed = tmp_path / "undisturbed"
    # The server of processes imports everything first.
    assert ended([begun(make, str(tmp_path / "warm"))]) == [0]
    started = time.perf_counter()
    assert ended([begun(everything, str(undisturbed))]) == [0]
    whole = time.perf_counter() - started
    assert strays(undisturbed) == []
    kills = number = 0
    while kills < KILLS:
        number += 1
        folder, before = tmp_path / f"killed{number}", kills
        for _ in range(6):
            process = begun(everything, str(folder))
            # As often in the first moments, where stores are created, as later.
            process.join(rng.uniform(0, whole * rng.choice([0.25, 0.8])))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
            look(folder)
        if kills > before:
            assert ended([begun(everything, str(folder))]) == [0]
            assert_equal(folder, undisturbed, 1e-12)
            # Killed between the last write to a checkpoint and the end of its lease: it is the next writer's to take.
            assert [path for path in strays(folder) if "/example/lease-" not in path] == []


def command(folder: Path) -> subprocess.Popen[str]:
    words = ["-m", "dask_svcca", "compare", "zoo.zarr", "comparison.zarr", "--workers", "2", "--precision", "float64"]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def kill_worker(process: subprocess.Popen[str]) -> None:
    workers = []
    for one in psutil.Process(process.pid).children(recursive=True):
        # A process that ends meanwhile has no command.
        with suppress(psutil.Error):
            workers += [one] if "spawn_main" in " ".join(one.cmdline()) else []
    if workers:
        workers[-1].kill()


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_group, kill_worker])
def test_compare__whose_group_or_worker_is_killed_goes_on(
    tmp_path: Path, kill: Callable[[subprocess.Popen[str]], None]
) -> None:
    rng = random.Random(1)
    undisturbed = tmp_path / "undisturbed"
    make(str(undisturbed))
    started = time.perf_counter()
    with command(undisturbed) as process:
        assert process.wait() == 0
    whole = time.perf_counter() - started
    for number in range(6):
        folder = tmp_path / f"killed{number}"
        make(str(folder))
        with command(folder) as process:
            try:
                process.wait(rng.uniform(0.2, 0.9) * whole)
            except subprocess.TimeoutExpired:
                kill(process)
            said = process.communicate()
        assert "Traceback" not in said[1], said[1]
        look(folder)
        with command(folder) as process:
            said = process.communicate()
        assert process.returncode == 0, said
        assert_equal(folder, undisturbed)
        assert strays(folder) == []


def test_create_zoo__and_compare_in_four_processes_at_once_all_succeed(tmp_path: Path) -> None:
    zoos, together = tmp_path / "zoos", PROCESSES.Barrier(4)
    zoos.mkdir()
    assert ended([begun(make_whole, str(zoos), together) for _ in range(4)]) == [0] * 4
    assert sorted(path.name for path in zoos.iterdir()) == sorted(f"zoo{number}.zarr" for number in range(ZOOS))
    make(str(tmp_path))
    assert ended([begun(compare_and_wait, str(tmp_path)) for _ in range(4)]) == [0] * 4
    make(str(tmp_path / "alone"))
    compare(str(tmp_path / "alone"))
    assert_equal(tmp_path, tmp_path / "alone")
    assert strays(tmp_path) == []


def test_compare__in_four_processes_at_once_is_done_by_one_and_refused_the_others(tmp_path: Path) -> None:
    make(str(tmp_path))
    codes = ended([begun(compare_or_hear, str(tmp_path)) for _ in range(4)])
    assert 0 in codes
    assert set(codes) <= {0, 7}
    make(str(tmp_path / "alone"))
    compare(str(tmp_path / "alone"))
    assert_equal(tmp_path, tmp_path / "alone")
    assert strays(tmp_path) == []
