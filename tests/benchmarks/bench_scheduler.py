"""What Dask's scheduler costs a plan of many representations: memory, processor time, and what it holds at once.

    python tests/benchmarks/bench_scheduler.py                    # 10,000 representations, about a minute a row
    python tests/benchmarks/bench_scheduler.py --count 2000 --sides 64 --workers 2

Representations are values that no store holds, and tasks do no arithmetic: they give back what real ones report. The
plan, the graph, the run and the handing over of reports are real. Workers are threads of a process with a scheduler and
a client of its own, so that processor time and memory are of all three.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distributed
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.selection import select_pairs
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.tasks import GroupTask, PackTask, SubspaceReport, TileReport, TileTask
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.failures import run_all
from dask_svcca.run.outcome import Outcome, Tally
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo import Representation

if TYPE_CHECKING:
    from dask_svcca.plan.comparison import Plan

EXAMPLES, NEURONS, LAYERS = 2_000, 256, 10
SECONDS = {"read": 0.1, "coupling": 0.2, "values": 0.2, "write": 0.01}


def planned(count: int, side: int, workers: int) -> Plan:
    names = [
        RepresentationName(f"net{n // 100:03}", f"step{n // LAYERS % 10}", f"layer{n % LAYERS}") for n in range(count)
    ]
    items = [
        Representation(
            name, ("example", "neuron"), (EXAMPLES, NEURONS), np.dtype("float32"), EXAMPLES, None, None, name.label
        )
        for name in names
    ]
    frame = pd.DataFrame({"model": [n.model for n in names], "checkpoint": "", "layer": "", "step": 0.0})
    budget = Budget(workers, 4 * 2**30)
    return make_plan(items, select_pairs("all", frame), None, None, Parameters(), budget, side=side)


def perform(task: Any, *needed: Any) -> Any:
    """What a task reports, without its work."""
    match task:
        case GroupTask():
            return task.places
        case PackTask():
            return [SubspaceReport(member.label, member.key, "", 1_000_000, SECONDS) for member in task.members]
        case TileTask():
            return TileReport(task.row, task.column, len(needed[0]) * len(needed[1]), 0, SECONDS)
    raise TypeError(task)


def drive(count: int, side: int, workers: int) -> dict[str, float]:
    """Plan and run, in this process."""
    start = time.process_time()
    plan = planned(count, side, workers)
    planning = time.process_time() - start
    processes, threads = min(2, workers), max(1, workers // 2)
    options: dict[str, Any] = {"n_workers": processes, "threads_per_worker": threads, "dashboard_address": None}
    with (
        distributed.LocalCluster(processes=False, memory_limit=0, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        before, most = resident("VmRSS"), {"processing": 0, "held": 0}
        ended = threading.Event()

        def look() -> None:
            scheduler = cluster.scheduler
            while not ended.wait(0.02):
                in_hand = [len(one.processing) for one in scheduler.workers.values()]
                most["processing"] = max(most["processing"], *in_hand)
                most["held"] = max(most["held"], sum(one.nbytes for one in scheduler.workers.values()))

        tally = Tally(Outcome(plan), None)

        def take(_: str, report: Any) -> None:
            tally.add(report)

        watching = threading.Thread(target=look)
        watching.start()
        wall, start = time.perf_counter(), time.process_time()
        try:
            failures = run_all(DaskExecutor(client, "bench"), plan, perform, take)
        finally:
            ended.set()
            watching.join()
        busy, wall = time.process_time() - start, time.perf_counter() - wall
        assert not failures
    return {
        "tasks": plan.tasks,
        "planning": planning,
        "wall": wall,
        "busy": busy,
        "each": busy / plan.tasks * 1e3,
        "before": before,
        "peak": resident("VmHWM"),
        "in hand": most["processing"] / threads,
        "held": most["held"] / 1e6,
    }


def resident(name: str) -> float:
    """Memory of this process in MB."""
    (found,) = re.findall(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found) / 1e3


def in_process(count: int, side: int, workers: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--drive", str(count), str(side), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def show(rows: list[tuple[int, int, dict[str, float]]], count: int) -> None:
    table = Table(title=f"{count:,} representations; processor seconds and MB of all of it", title_justify="left")
    heads = (
        "side",
        "workers",
        "tasks",
        "plan",
        "run, wall",
        "run",
        "ms a task",
        "MB before",
        "peak",
        "in hand",
        "held",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for side, workers, found in rows:
        table.add_row(
            str(side),
            str(workers),
            f"{found['tasks']:,.0f}",
            *(f"{found[name]:,.1f}" for name in ("planning", "wall", "busy")),
            f"{found['each']:.2f}",
            *(f"{found[name]:,.0f}" for name in ("before", "peak")),
            f"{found['in hand']:.1f}",
            f"{found['held']:,.1f}",
        )
    Console(width=120).print(table)


@pytest.mark.benchmark
def test_benchmark__scheduler_costs_little() -> None:
    found = in_process(500, 16, 4)
    assert found["tasks"] > 500
    assert found["in hand"] < 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 40])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 64])
    parser.add_argument("--drive", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        sys.stdout.write(json.dumps(drive(*arguments.drive)))
        return
    rows = [
        (side, workers, in_process(arguments.count, side, workers))
        for side in arguments.sides
        for workers in arguments.workers
    ]
    show(rows, arguments.count)


if __name__ == "__main__":
    main()
