"""What a device makes of a comparison, beside the CPU: both in one run, on one machine and the same data.

    python tests/benchmarks/bench_device.py --device cuda                     # 128 x 10,000 x 512: 3 GB of disk
    python tests/benchmarks/bench_device.py --device torch:cpu --case 24x2000x128

A task at a time, in this process; seconds leave out waiting for cores that others had. The first table is of the whole,
from activations and from stored subspaces, and what of the device's own rate of matrix products in single precision its
couplings reach; the second says where the time of tiles goes. A GPU goes on while the processor asks for more: which
stage its time belongs to is said only under `CUDA_LAUNCH_BLOCKING=1`, which makes all of it slower.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import threadpoolctl
from bench_compare import VARIANCE, Case, make_zoo
from rich.console import Console
from rich.table import Table

from dask_svcca import capture_torch, create_zoo, open_comparison, open_zoo
from dask_svcca.devices import open_device
from dask_svcca.devices.names import find_device, is_gpu
from dask_svcca.errors import DeviceError
from dask_svcca.machine import available_memory, own_time
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.executors import LOCAL_SHARE, Here
from dask_svcca.run.workers import place_here

if TYPE_CHECKING:
    from collections.abc import Callable

CONSOLE = Console(width=120)
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
        for name in ("first", "again", "subspaces"):
            shutil.rmtree(folder / f"{name}.zarr", ignore_errors=True)
        seconds, _, failed = run(zoo, folder / "first.zarr", folder / "subspaces.zarr", device)
        again = run(zoo, folder / "again.zarr", folder / "subspaces.zarr", device)
        if number or repeats == 1:
            # The first loads what is loaded once.
            whole.append(seconds)
            stored.append((again[0], again[1], failed + again[2]))
    chosen = min(stored, key=lambda one: one[0])
    rank = open_comparison(folder / "again.zarr").rank_a.to_numpy().astype(float)
    # Each pair once: half of all, and the pairs of a representation with itself.
    products = (rank.sum() ** 2 + (rank**2).sum()) / 2
    operations = 2 * case.examples * products
    return Found(
        statistics.median(whole), chosen[0], chosen[1], case.pairs, operations, product_rate(device), chosen[2]
    )


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
    table = Table(title=f"{case}, {VARIANCE:.0%} of the variance, one task at a time")
    for name in (
        "device",
        "whole",
        "from subspaces",
        "pairs a second",
        "products",
        "of its rate",
        "speed-up",
        "on CPU",
    ):
        table.add_column(name, justify="left" if name == "device" else "right")
    reference = found["cpu"].stored
    for device, one in found.items():
        table.add_row(
            device,
            f"{one.whole:,.2f} s",
            f"{one.stored:,.2f} s",
            f"{one.pairs / one.stored:,.0f}",
            f"{one.rate / 1e9:,.0f} GFLOP/s",
            f"{one.operations / one.stored / one.rate:.0%}",
            f"{reference / one.stored:.1f}",
            str(one.on_cpu),
        )
    CONSOLE.print(table)
    stages = sorted({name for one in found.values() for name in one.stages})
    table = Table(title="Tiles from stored subspaces: seconds, and pairs a second if that were all")
    table.add_column("device")
    for name in [*stages, "beside"]:
        table.add_column(name, justify="right")
    for device, one in found.items():
        seconds = [one.stages.get(name, 0.0) for name in stages]
        seconds.append(max(0.0, one.stored - sum(seconds)))
        table.add_row(device, *(f"{each:,.2f} s, {one.pairs / max(each, 1e-3):,.0f}" for each in seconds))
    CONSOLE.print(table)


def parse(text: str) -> Case:
    representations, examples, neurons = map(int, text.split("x"))
    return Case(representations, examples, neurons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", nargs="+", default=["auto"], help="beside the CPU, which is always measured")
    parser.add_argument("--case", nargs="+", type=parse, default=[Case(128, 10_000, 512)], help="such as 48x5000x256")
    parser.add_argument(
        "--repeats", type=int, default=3, help="the first loads what is loaded once, and does not count"
    )
    parser.add_argument("--capture", type=int, default=0, metavar="EXAMPLES", help="capture_torch of so many, too")
    arguments = parser.parse_args()
    try:
        devices = list(dict.fromkeys(["cpu", *map(find_device, arguments.device)]))
    except DeviceError as error:
        parser.error(str(error))
    for case in arguments.case:
        with tempfile.TemporaryDirectory() as folder:
            show(case, {device: measure(case, Path(folder), device, arguments.repeats) for device in devices})
    for device in devices[1:] if arguments.capture else ():
        seconds = capture_seconds(device, arguments.capture)
        values = 24 * arguments.capture * 256 * 4
        CONSOLE.print(
            f"capture_torch on {device}: {seconds:.2f} s, {values / seconds / 1e6:,.0f} MB of activations a second"
        )


if __name__ == "__main__":
    main()
