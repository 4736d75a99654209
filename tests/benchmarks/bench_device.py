"""What a device makes of a comparison, beside the CPU: both in one run, on one machine and the same data.

    python tests/benchmarks/bench_device.py --device cuda                     # some minutes, 3 GB of disk
    python tests/benchmarks/bench_device.py --device torch:cpu --case 24x2000x128

A task at a time, in this process; seconds leave out waiting for cores that others had. It prints Markdown, to be pasted
into an issue as it is; what it is at meanwhile goes to stderr. A GPU goes on while the processor asks for more: which
stage its time belongs to is said only under `CUDA_LAUNCH_BLOCKING=1`, which makes all of it slower.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import threadpoolctl
from bench_compare import VARIANCE, Case, make_zoo
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from dask_svcca import capture_torch, create_zoo, open_comparison, open_zoo
from dask_svcca.devices import open_device
from dask_svcca.devices.names import find_device, is_gpu
from dask_svcca.errors import DeviceError
from dask_svcca.machine import available_memory, cores, own_time
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.executors import LOCAL_SHARE, Here
from dask_svcca.run.workers import place_here

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

CONSOLE = Console(width=140, highlight=False)
PROGRESS = Console(stderr=True, highlight=False)
WARM = Case(8, 500, 64)
"""Loads what is loaded once."""

COLUMNS = """
- whole: from activations; stored: the same pairs again, from subspaces that are stored
- pairs a second: of these; speed-up: how many times as many as the CPU's
- product rate: of two square matrices in single precision, measured here; share: what the multiplications in the
  couplings of all pairs, alone, would take at that rate, of the seconds that the pairs took
- off by: the largest difference of a value from the CPU's; 1e-6 is promised
- on CPU: tasks at which the device failed, so that the CPU did them: 0 is expected
"""
STAGES = """
- coupling: products of scores; values: measures from couplings; read, write: stores; beside: planning and all else
- {blocking}
"""
SIDE = 4096
"""Rows and columns of the products by which the rate of a device is found; a quarter on the CPU."""


@dataclass(frozen=True)
class Found:
    """What one device took: seconds, and the multiplications and additions in the couplings of all pairs."""

    whole: float
    stored: float
    stages: dict[str, float]
    pairs: int
    operations: float
    rate: float
    on_cpu: int
    values: npt.NDArray[np.float64]


def best(function: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def product_rate(device: str) -> float:
    """Operations a second in a product of two square matrices in single precision, on one core of a CPU."""
    side = SIDE if is_gpu(device) else SIDE // 4
    there, rng = open_device(device), np.random.default_rng(0)
    a, b = (there.sent(rng.standard_normal((side, side), dtype=np.float32)) for _ in range(2))

    def multiply() -> None:
        _ = a @ b
        there.synchronise()

    with threadpoolctl.threadpool_limits(1):
        multiply()
        return 2 * side**3 / best(multiply, 7)


def run(zoo: Path, place: Path, subspaces: Path, device: str) -> tuple[float, dict[str, float], int]:
    """A comparison in this process: seconds, those of each stage, and tasks that the CPU did in the end."""
    placed = place_here(device, 1)
    budget = Budget(1, int(LOCAL_SHARE * available_memory()), placed.device, placed.memory)
    start = own_time()
    with threadpoolctl.threadpool_limits(1):
        outcome = run_comparison(
            open_zoo(zoo),
            place,
            make_parameters("svcca", variance=VARIANCE),
            subspaces=subspaces,
            executor=Here(budget),
        )
    return own_time() - start, outcome.stages, sum(outcome.on_cpu.values())


def measure(case: Case, folder: Path, device: str, repeats: int) -> Found:
    zoo = make_zoo(case, folder)
    open_device(device).use_one_thread()
    whole: list[float] = []
    stored: list[tuple[float, dict[str, float], int]] = []
    for number in range(repeats):
        PROGRESS.print(f"{case} on {device}, {number + 1} of {repeats}")
        for name in ("first", "again", "subspaces"):
            shutil.rmtree(folder / f"{name}.zarr", ignore_errors=True)
        seconds, _, failed = run(zoo, folder / "first.zarr", folder / "subspaces.zarr", device)
        again = run(zoo, folder / "again.zarr", folder / "subspaces.zarr", device)
        whole.append(seconds)
        stored.append((again[0], again[1], failed + again[2]))
    chosen = min(stored, key=lambda one: one[0])
    found = open_comparison(folder / "again.zarr")
    rank = found.rank_a.to_numpy().astype(float)
    # Each pair once: half of all, and the pairs of a representation with itself.
    products = (rank.sum() ** 2 + (rank**2).sum()) / 2
    return Found(
        whole=statistics.median(whole),
        stored=chosen[0],
        stages=chosen[1],
        pairs=case.pairs,
        operations=2 * case.examples * products,
        rate=product_rate(device),
        on_cpu=sum(failed for _, _, failed in stored),
        values=found.svcca.to_numpy(),
    )


def machine_facts(devices: list[str]) -> list[str]:
    """What figures are worth nothing without."""
    here = Path(__file__).parent
    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, cwd=here, capture_output=True, text=True, check=False).stdout.strip()
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    python, numpy = f"Python {platform.python_version()}", f"NumPy {np.__version__}"
    facts = [
        f"dask-svcca {version('dask-svcca')} ({commit or 'no commit'}), {python}, {numpy}, {platform.platform()}",
        f"CPU: {names[0] if names else platform.machine()}, {cores()} cores, {available_memory() / 2**30:.0f} GiB free",
    ]
    if devices != ["cpu"]:
        import torch

        facts.append(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, HIP {torch.version.hip}")
        for device in filter(is_gpu, devices):
            found = torch.cuda.get_device_properties(open_device(device).sent(np.zeros(1)).device)
            free = (open_device(device).memory() or 0) / 2**30
            facts.append(f"{device}: {found.name}, {found.total_memory / 2**30:.1f} GiB, {free:.1f} GiB free")
    return facts


def _lines(path: str) -> list[str]:
    place = Path(path)
    return place.read_text().splitlines() if place.exists() else []


def capture_seconds(device: str, examples: int) -> float:
    """Seconds in which a small network is captured, all of its layers, from a device of PyTorch."""
    import torch

    there = torch.device(device.removeprefix("torch:"))
    blocks = [part for _ in range(12) for part in (torch.nn.Linear(256, 256), torch.nn.ReLU())]
    model = torch.nn.Sequential(*blocks).to(there)
    batches = list(torch.randn(examples, 256).split(500))

    def capture() -> None:
        with tempfile.TemporaryDirectory() as folder:
            zoo = create_zoo(Path(folder) / "zoo.zarr", examples=range(examples))
            capture_torch(model, batches, zoo=zoo, name="net", checkpoint="step0")

    capture()
    return best(capture, 3)


def show(case: Case, found: dict[str, Found]) -> None:
    CONSOLE.print(f"\n### {case}, {VARIANCE:.0%} of the variance: {case.pairs:,} pairs, one task at a time\n")
    table = Table(box=MARKDOWN)
    names = ("device", "whole", "stored", "pairs a second", "speed-up", "product rate", "share", "off by", "on CPU")
    for name in names:
        table.add_column(name, justify="left" if name == "device" else "right")
    reference = found["cpu"]
    for device, one in found.items():
        table.add_row(
            device,
            f"{one.whole:,.2f} s",
            f"{one.stored:,.2f} s",
            f"{one.pairs / one.stored:,.0f}",
            f"{reference.stored / one.stored:.1f}",
            f"{one.rate / 1e9:,.0f} GFLOP/s",
            f"{one.operations / one.stored / one.rate:.0%}",
            f"{np.abs(one.values - reference.values).max():.0e}",
            str(one.on_cpu),
        )
    CONSOLE.print(table)
    stages = sorted({name for one in found.values() for name in one.stages})
    CONSOLE.print("\nWhere the time of the stored ones goes, and its share:\n")
    table = Table(box=MARKDOWN)
    table.add_column("device")
    for name in [*stages, "beside"]:
        table.add_column(name, justify="right")
    for device, one in found.items():
        seconds = [one.stages.get(name, 0.0) for name in stages]
        # What threads read while the device computes is in no second of the whole.
        seconds.append(max(0.0, one.stored - sum(seconds)))
        table.add_row(device, *(f"{each:,.2f} s, {each / one.stored:.0%}" for each in seconds))
    CONSOLE.print(table)


def parse(text: str) -> Case:
    representations, examples, neurons = map(int, text.split("x"))
    return Case(representations, examples, neurons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", nargs="+", default=["auto"], help="beside the CPU, which is always measured")
    parser.add_argument("--case", nargs="+", type=parse, default=[Case(128, 10_000, 512)], help="such as 48x5000x256")
    parser.add_argument("--repeats", type=int, default=3, help="of all devices but the CPU, which is measured once")
    parser.add_argument("--capture", type=int, default=0, metavar="EXAMPLES", help="capture_torch of so many, too")
    arguments = parser.parse_args()
    try:
        devices = list(dict.fromkeys(["cpu", *map(find_device, arguments.device)]))
    except DeviceError as error:
        parser.error(str(error))
    for fact in machine_facts(devices):
        CONSOLE.print(f"- {fact}")
    for case in arguments.case:
        with tempfile.TemporaryDirectory() as folder:
            found = {}
            for device in devices:
                measure(WARM, Path(folder), device, 1)
                # Of the CPU a long case takes minutes, and once says enough of it.
                found[device] = measure(case, Path(folder), device, 1 if device == "cpu" else arguments.repeats)
            show(case, found)
    CONSOLE.print(COLUMNS)
    blocking = "CUDA_LAUNCH_BLOCKING" in os.environ
    CONSOLE.print(
        STAGES.format(
            blocking="every stage has its own time (CUDA_LAUNCH_BLOCKING)"
            if blocking
            else "a GPU goes on while the processor asks for more: its time is in the stage that waits for it"
        )
    )
    for device in devices[1:] if arguments.capture else ():
        seconds = capture_seconds(device, arguments.capture)
        values = 24 * arguments.capture * 256 * 4
        CONSOLE.print(
            f"- capture_torch on {device}: {seconds:.2f} s, {values / seconds / 1e6:,.0f} MB of activations a second"
        )


if __name__ == "__main__":
    main()
