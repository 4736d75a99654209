"""What a process may use: under an affinity, under a limit, and beside what it holds."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from dask_svcca import machine

MIB = 2**20


def in_new_process(code: str) -> str:
    """Output of code in a process of its own: the limits are read once, when Dask is imported."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform sets no affinity")
def test_cores__follow_the_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from dask_svcca.machine import cores; print(cores())"
    assert in_new_process(code) == "1"


def test_cores__are_no_more_than_there_are() -> None:
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(sys.platform == "win32", reason="this platform has no resource limits")
def test_memory__follows_the_resource_limit() -> None:
    limit = 300 * MIB
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_RSS, ({limit}, {limit})); "
        f"from dask_svcca.machine import available_memory, memory; print(memory(), available_memory())"
    )
    total, available = map(int, in_new_process(code).split())
    assert total <= limit
    # The process itself holds some of it.
    assert available < total


def test_memory__is_no_more_than_there_is() -> None:
    assert 0 < machine.memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("free", "limit", "held", "expected"),
    [
        (100, 1000, 50, 100),  # other processes hold the rest of the machine
        (900, 500, 200, 300),  # a container that this process has filled in part
        (900, 500, 600, 0),  # one that it has overfilled
    ],
)
def test_available_memory__is_the_smaller_of_two(
    free: int, limit: int, held: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=held * MIB))
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", limit * MIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free * MIB))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert machine.available_memory() == expected * MIB


def test_import__loads_neither_dask_nor_psutil() -> None:
    code = (
        f"import runpy, sys; runpy.run_path({machine.__file__!r}); "
        f"print(sorted({{'dask', 'distributed', 'psutil'}} & set(sys.modules)))"
    )
    assert in_new_process(code) == "[]"


def test_own_time__waiting_for_data_counts_and_waiting_for_a_core_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = {"nanoseconds": 0}
    monkeypatch.setattr(machine._THREAD, "waited", SimpleNamespace(file=0), raising=False)
    monkeypatch.setattr(machine.os, "pread", lambda *_: f"5 {waited['nanoseconds']} 2\n".encode())
    monkeypatch.setattr(machine.time, "perf_counter", lambda: 10.0)
    before = machine.own_time()
    waited["nanoseconds"] = 3_000_000_000
    monkeypatch.setattr(machine.time, "perf_counter", lambda: 17.0)
    assert machine.own_time() - before == pytest.approx(4.0)


def test_own_time__all_counts_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine._THREAD, "waited", SimpleNamespace(file=None), raising=False)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: 10.0)
    assert machine.own_time() == 10.0
