"""What a comparison of many small layers costs beside its arithmetic: each command's time, memory and files.

    python tests/benchmarks/bench_scale.py                    # 300, 1,000 and 3,000 layers of 300 x 24, minutes
    python tests/benchmarks/bench_scale.py --full             # and 10,000
    python tests/benchmarks/bench_scale.py --counts 10000 --all-pairs   # its 50 million pairs computed, not drawn

Each step is a process of its own. Seconds are of the wall clock and, in brackets, of the processor: for commands from
the start of Python to its end, for functions without imports. Peaks are of the whole process. Without ``--all-pairs``
the first comparison makes all subspaces, and its pairs get random values: later steps then find what they would find.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

import dask_svcca
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.tasks import GroupTask, TileReport, TileTask
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.backend import backend_of
from dask_svcca.tasks.worker import Context
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_svcca.plan.tasks import Job, Node

EXAMPLES, NEURONS = 300, 24
LAYERS = 10
"""Layers of a checkpoint, and checkpoints of a model."""

CHANGED = 20
QUADRATIC, LINEAR = 1.6, 0.6
"""Exponents of the growth from which it is called so."""

MEASURES = "svcca"
CONSOLE = Console(width=130)


def place(index: int) -> tuple[str, str, str]:
    return f"net{index // LAYERS**2:03}", f"step{index // LAYERS % LAYERS:02}", f"layer{index % LAYERS}"


def write(zoo: dask_svcca.Zoo, index: int, rng: np.random.Generator, *, overwrite: bool = False) -> None:
    common = np.random.default_rng(0).standard_normal((EXAMPLES, NEURONS))
    layer = (common + rng.standard_normal((EXAMPLES, NEURONS)) * rng.uniform(0.2, 2)).astype(np.float32)
    step, depth = index // LAYERS % LAYERS, index % LAYERS
    zoo.write(*place(index), layer, step=step, depth=depth, overwrite=overwrite)


def make_zoo(folder: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(EXAMPLES)) as zoo:
        for index in range(count):
            write(zoo, index, rng)


class Filling:
    """Makes subspaces, and gives pairs random values."""

    budget = Budget(2, 2**31)

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        """Run all tasks, one after the other."""
        groups = {node.task.number: node.task for node in nodes.values() if isinstance(node.task, GroupTask)}
        rng = np.random.default_rng(2)
        for key, node in nodes.items():
            task = node.task
            if isinstance(task, TileTask):
                sizes = [len(groups[number].places) for number in (task.row, task.column)]
                on_done(key, fill(perform.args[0], task, sizes, rng))  # type: ignore[attr-defined]
            elif not isinstance(task, GroupTask):
                on_done(key, perform(task))


def fill(job: Job, task: TileTask, sizes: list[int], rng: np.random.Generator) -> TileReport:
    worker = Context(job).worker
    backend = backend_of(worker.comparison)
    place = tuple(
        slice(number * task.side, number * task.side + size)
        for number, size in zip((task.row, task.column), sizes, strict=True)
    )
    for array in worker.blocks(*(measure.name for measure in job.measures), "pair_status"):
        status = np.full(sizes, PairStatus.DONE, np.uint8)
        values = status if array.name == "pair_status" else rng.random(sizes)
        backend.write_many(array.encoded(place[::-1], values.T))
        backend.write_many(array.encoded(place, values))
    pairs = math.prod(sizes) if task.row != task.column else sizes[0] * (sizes[0] + 1) // 2
    return TileReport(task.row, task.column, pairs, 0, {})


# Steps, each in a process of its own: what it prepares, and what is timed.


def write_one(folder: Path) -> Callable[[], object]:
    zoo = dask_svcca.open_zoo(folder / "zoo.zarr", mode="r+")
    rng, count = np.random.default_rng(3), len(zoo)
    more = range(count + 1, count + 21)
    # What is imported and opened once.
    write(zoo, count, rng)

    def some() -> int:
        for index in more:
            write(zoo, index, rng)
        return len(more)

    return some


def remove(folder: Path) -> Callable[[], object]:
    zoo = dask_svcca.open_zoo(folder / "zoo.zarr", mode="r+")
    last = [place(index) for index in range(len(zoo) - 21, len(zoo))]

    def some() -> int:
        for name in last:
            zoo.delete(name)
        return len(last)

    return some


def plan(folder: Path) -> Callable[[], object]:
    return lambda: dask_svcca.plan_comparison(folder / "zoo.zarr", folder / "c.zarr", measures=MEASURES)


def first(folder: Path) -> Callable[[], object]:
    zoo = dask_svcca.open_zoo(folder / "zoo.zarr")
    return lambda: run_comparison(zoo, folder / "c.zarr", make_parameters(MEASURES), executor=Filling())


def again(folder: Path) -> Callable[[], object]:
    return lambda: dask_svcca.compare(folder / "zoo.zarr", folder / "c.zarr", measures=MEASURES)


def grow(folder: Path) -> Callable[[], object]:
    zoo, rng = dask_svcca.open_zoo(folder / "zoo.zarr", mode="r+"), np.random.default_rng(4)
    for index in range(len(zoo), len(zoo) + CHANGED):
        write(zoo, index, rng)
    return again(folder)


def replace(folder: Path) -> Callable[[], object]:
    """One checkpoint after another is trained anew."""
    zoo, rng = dask_svcca.open_zoo(folder / "zoo.zarr", mode="r+"), np.random.default_rng()
    for index in range(len(zoo) // 2, len(zoo) // 2 + CHANGED):
        write(zoo, index, rng, overwrite=True)
    return again(folder)


def scatter(folder: Path) -> Callable[[], object]:
    """Layers here and there are replaced."""
    zoo, rng = dask_svcca.open_zoo(folder / "zoo.zarr", mode="r+"), np.random.default_rng()
    for index in range(0, len(zoo), len(zoo) // CHANGED):
        write(zoo, index, rng, overwrite=True)
    return again(folder)


def delete(folder: Path) -> Callable[[], object]:
    return lambda: shutil.rmtree(folder / "c.zarr")


STEPS: dict[str, Callable[[Path], Callable[[], object]] | list[str]] = {
    "zoo.write, one more layer": write_one,
    "zoo.delete, one layer": remove,
    "plan_comparison": plan,
    "compare --dry-run": ["compare", "zoo.zarr", "c.zarr", "--dry-run"],
    "compare": first,
    "compare, nothing to do": again,
    "compare, nothing to do, command": ["compare", "zoo.zarr", "c.zarr"],
    "compare --dry-run, nothing to do": ["compare", "zoo.zarr", "c.zarr", "--dry-run"],
    "query": ["query", "c.zarr"],
    "info of the comparison": ["info", "c.zarr"],
    "info of the zoo": ["info", "zoo.zarr"],
    f"compare, {CHANGED} layers more": grow,
    f"compare, {CHANGED} layers replaced": replace,
    f"compare, {CHANGED} layers replaced here and there": scatter,
    "delete": delete,
}


COMMAND = """
import atexit, re, sys
from pathlib import Path
peak = lambda: re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
atexit.register(lambda: Path("peak").write_text(peak()))
from dask_svcca.cli import main
main()
"""


@dataclass(frozen=True)
class Cost:
    """What a step takes.

    Attributes
    ----------
    seconds, busy : float
        Of the wall clock, and of the processor.
    peak : float
        Most memory in MB. What a parent held when it began to run would count in ``ru_maxrss``.
    """

    seconds: float
    busy: float
    peak: float

    def __str__(self) -> str:
        return f"{self.seconds:,.3f} ({self.busy:,.3f}) s {self.peak:>6,.0f} MB"


def run(command: list[str], folder: Path) -> tuple[Cost, str]:
    """What a command takes, and what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, env=environment, text=True, check=False)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command} failed: {done.stderr[-2000:]}")
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, busy, int((folder / "peak").read_text()) / 1e3), done.stdout


def perform(name: str, folder: Path) -> None:
    """One step, in this process."""
    step = STEPS[name]
    assert callable(step)
    timed = step(folder)
    start, busy = time.perf_counter(), time.process_time()
    repeats = timed()
    repeats = repeats if isinstance(repeats, int) else 1
    taken = [(time.perf_counter() - start) / repeats, (time.process_time() - busy) / repeats]
    (peak,) = re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    (folder / "peak").write_text(peak)
    sys.stdout.write(json.dumps(taken))


def measure(folder: Path, count: int, only: list[str], *, all_pairs: bool) -> dict[str, Cost | int]:
    """What each step takes, and the numbers of files."""
    if not (folder / "zoo.zarr").exists():
        make_zoo(folder, count)
    found: dict[str, Cost | int] = {}
    for name, step in STEPS.items():
        if only and not any(part in name for part in only):
            continue
        if callable(step) and not (all_pairs and step is first):
            cost, output = run([sys.executable, str(Path(__file__).resolve()), "--step", name], folder)
            found[name] = Cost(*json.loads(output), cost.peak)
        else:
            arguments = ["compare", "zoo.zarr", "c.zarr"] if callable(step) else step
            found[name], _ = run([sys.executable, "-c", COMMAND, *arguments], folder)
        CONSOLE.print(f"{count:>6,}  {name:<50} {found[name]!s:>40}", highlight=False)
        if step is first:
            for part in ("zoo.zarr", "c.zarr"):
                files = sum(len(names) for _, _, names in os.walk(folder / part))
                found[f"files of {part}"] = files
                CONSOLE.print(f"{count:>6,}  files of {part:<41} {files:>40,}", highlight=False)
    return found


def growth(counts: list[int], values: list[float]) -> str:
    """How a figure grows with the number of layers: the exponent of its last two values, in a word."""
    if len(counts) < 2 or min(values[-2:]) <= 0:
        return ""
    exponent = math.log(values[-1] / values[-2]) / math.log(counts[-1] / counts[-2])
    return "quadratic" if exponent >= QUADRATIC else "linear" if exponent >= LINEAR else "less than linear"


def show(found: dict[int, dict[str, Cost | int]]) -> None:
    counts = list(found)
    table = Table(title=f"Layers of {EXAMPLES} x {NEURONS}", title_justify="left")
    table.add_column("step")
    for count in counts:
        table.add_column(f"{count:,}", justify="right")
    table.add_column("grows")
    for name in found[counts[-1]]:
        costs = [found[count][name] for count in counts]
        cells = [f"{cost:,}" if isinstance(cost, int) else str(cost) for cost in costs]
        table.add_row(name, *cells, growth(counts, [cost if isinstance(cost, int) else cost.busy for cost in costs]))
    CONSOLE.print(table)


@pytest.mark.benchmark
def test_benchmark__quick(tmp_path: Path) -> None:
    (tmp_path / "100").mkdir()
    assert measure(tmp_path / "100", 100, [], all_pairs=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="10,000 layers too")
    parser.add_argument("--counts", type=int, nargs="+", help="other numbers of layers")
    parser.add_argument("--all-pairs", action="store_true", help="compute all pairs of the first comparison")
    parser.add_argument("--only", nargs="+", default=[], help="steps whose names contain one of these")
    parser.add_argument("--folder", type=Path, help="keeps the data for another run; default: a temporary one")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        with dask.config.set(scheduler="threads"):
            perform(arguments.step, Path())
        return
    with tempfile.TemporaryDirectory() as temporary:
        found = {}
        for count in arguments.counts or [300, 1_000, 3_000, *([10_000] if arguments.full else [])]:
            folder = (arguments.folder or Path(temporary)) / str(count)
            folder.mkdir(parents=True, exist_ok=True)
            found[count] = measure(folder, count, arguments.only, all_pairs=arguments.all_pairs)
        show(found)


if __name__ == "__main__":
    main()
