"""What a comparison costs, against the papers' recipe and against what this machine could do at best.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_compare.py            # minutes, 1 GB of disk
    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_compare.py --full     # the figures of the changelog, 6 GB

Everything in one table is measured in one run, on the same data. Figures are medians; on a machine that does other
work too, trust the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import dask
import distributed
import numpy as np
import psutil
import pytest
import threadpoolctl
from rich.console import Console
from rich.table import Table

from dask_svcca import create_zoo, open_comparison, open_zoo
from dask_svcca.connections import connect
from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.selection import select_pairs
from dask_svcca.plan.sides import choose_tile
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.tasks import Job
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo import Representation, frame_of
from dask_svcca.tasks import perform

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from dask_svcca.plan.plan import Plan

VARIANCE = 0.99
CONSOLE = Console(width=110)


@dataclass(frozen=True)
class Case:
    """A zoo of equal layers."""

    representations: int
    examples: int
    neurons: int

    @property
    def pairs(self) -> int:
        return self.representations * (self.representations + 1) // 2

    def __str__(self) -> str:
        return f"{self.representations} x {self.examples:,} x {self.neurons}"


def median(function: Callable[[], object], repeats: int = 3) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def layer(case: Case, index: int, common: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A layer with a decaying spectrum that shares something with all others."""
    rng = np.random.default_rng(index)
    own = rng.standard_normal((case.examples, case.neurons), dtype=np.float32)
    scales = np.arange(1, case.neurons + 1, dtype=np.float32) ** -0.85
    mixing = np.linalg.qr(rng.standard_normal((case.neurons, case.neurons), dtype=np.float32))[0]
    return ((common * rng.uniform(0.3, 1.0) + own).astype(np.float32) * scales) @ mixing


def make_zoo(case: Case, folder: Path) -> Path:
    place = folder / f"zoo-{case.representations}-{case.examples}-{case.neurons}.zarr"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        rng = np.random.default_rng(2**20)
        common = rng.standard_normal((case.examples, case.neurons), dtype=np.float32)
        with create_zoo(place, examples=range(case.examples)) as zoo:
            for index in range(case.representations):
                zoo.write(
                    f"net-{index // 16}", f"step{index % 16:02}", "layer", layer(case, index, common), step=index % 16
                )
        (place / "done").touch()
    return place


@dataclass(frozen=True)
class Measured:
    seconds: float
    directions: int
    peak: float
    record: dict[str, Any]


def run_job(zoo: Path, folder: Path, workers: int) -> Measured:
    """The whole job on a cluster that is up already: Dask, zarr and writing included."""
    place = folder / "comparison.zarr"
    shutil.rmtree(place, ignore_errors=True)
    with connect(workers=workers) as client:
        client.run(__import__, "dask_svcca.tasks")
        start = time.perf_counter()
        run_comparison(open_zoo(zoo), place, make_parameters("svcca", variance=VARIANCE), client=client)
        seconds = time.perf_counter() - start
        peaks = client.run(lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    result = open_comparison(place)
    record = json.loads(result.attrs.get("runs", "[{}]"))[-1]
    return Measured(seconds, int(np.median(result.rank_a)), max(peaks.values()), record)


def recipe(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """SVCCA of one pair as published: SVD of each, full covariances, inverse square roots, SVD."""

    def truncated(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        left, singular, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
        explained = np.cumsum(singular**2) / np.sum(singular**2)
        keep = int(np.searchsorted(explained, VARIANCE)) + 1
        return left[:, :keep] * singular[:keep]

    def inverse_root(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        values, vectors = np.linalg.eigh(covariance)
        return (vectors / np.sqrt(values)) @ vectors.T

    a, b = truncated(x), truncated(y)
    joint = np.cov(a, b, rowvar=False)
    size = a.shape[1]
    cross = inverse_root(joint[:size, :size]) @ joint[:size, size:] @ inverse_root(joint[size:, size:])
    return float(np.linalg.svd(cross, compute_uv=False).mean())


def machine_limit(case: Case, directions: int, tiles: int, group: int) -> dict[str, float]:
    """Seconds on one core for the products, the LAPACK problems and the bytes, and nothing else."""
    rng = np.random.default_rng(0)
    n, p, k = case.examples, case.neurons, directions
    rows = min(n, 2048)
    wide = rng.standard_normal((rows, p))
    single = rng.standard_normal((8 * k, rows), dtype=np.float32)
    stack = rng.standard_normal((4, k, k)) / np.sqrt(n)
    scatter = wide.T @ wide
    gemm = 2 * (8 * k) ** 2 * rows / median(lambda: single @ single[::-1].T)
    symmetric = rows * p * p / median(lambda: wide.T @ wide)
    projection = 2 * rows * p * k / median(lambda: wide @ scatter[:, :k])
    solve = min(
        median(lambda: np.linalg.svd(stack, compute_uv=False)),
        median(lambda: [np.linalg.svd(one, compute_uv=False) for one in stack]),
    ) / len(stack)
    with tempfile.NamedTemporaryFile() as file:
        size = 64 * 2**20
        file.write(os.urandom(size))
        file.flush()
        buffer = memoryview(bytearray(size))

        def read() -> None:
            with Path(file.name).open("rb", buffering=0) as source:
                source.readinto(buffer)

        rate = size / median(read)
    scores = case.representations * n * k * 4
    return {
        "covariance": case.representations * n * p * p / symmetric,
        "eigenvectors": case.representations * median(lambda: np.linalg.eigh(scatter)),
        "projection": case.representations * 2 * n * p * k / projection,
        "products": case.pairs * 2 * n * k * k / gemm,
        "singular values": case.pairs * solve,
        "bytes": (case.representations * n * p * 4 + scores + tiles * 2 * group * n * k * 4) / rate,
    }


def headline(case: Case, folder: Path) -> None:
    zoo = make_zoo(case, folder)
    one, two = run_job(zoo, folder, 1), run_job(zoo, folder, 2)
    group = choose_tile(case.representations, Budget(2, 2**31), 1e9)
    groups = -(-case.representations // group)
    limit = machine_limit(case, two.directions, groups * (groups + 1) // 2, group)
    published = time_of_recipe(zoo)
    table = Table(title=f"{case} float32, {two.directions} directions kept, {case.pairs:,} pairs", title_justify="left")
    for name in ("what", "seconds", "ms a pair", "ratio"):
        table.add_column(name, justify="left" if name == "what" else "right")
    table.add_row("papers' recipe, one core", "", f"{published * 1e3:,.1f}", "")
    for label, job in (("ours, 1 worker", one), ("ours, 2 workers", two)):
        pair = job.seconds / case.pairs
        table.add_row(
            label, f"{job.seconds:,.1f}", f"{pair * 1e3:,.2f}", f"{published / pair:,.0f} x faster than the recipe"
        )
    least = sum(limit.values())
    table.add_row(
        "machine's limit, one core",
        f"{least:,.1f}",
        f"{least / case.pairs * 1e3:,.2f}",
        f"{one.seconds / least:.2f} x the limit, 1 worker",
    )
    for name, seconds in limit.items():
        table.add_row(f"  {name}", f"{seconds:,.1f}", "", "")
    table.add_row("1 to 2 workers", "", "", f"{one.seconds / two.seconds:.2f} x faster")
    table.add_row("peak of a worker", "", "", f"{max(one.peak, two.peak):.2f} GiB")
    CONSOLE.print(table)
    for label, job in (("1 worker", one), ("2 workers", two)):
        CONSOLE.print(
            f"stages on {label}, seconds: {json.dumps(job.record['stages'])}, overhead {job.record['overhead']}"
        )


def growth(cases: list[Case], folder: Path) -> None:
    table = Table(title="How it grows: ours on 2 workers, the recipe on one core", title_justify="left")
    for name in (
        "zoo",
        "pairs",
        "directions",
        "seconds",
        "ms a pair",
        "recipe, ms a pair",
        "ratio",
        "peak of a worker",
    ):
        table.add_column(name, justify="right")
    for case in cases:
        zoo = make_zoo(case, folder)
        job = run_job(zoo, folder, 2)
        each = job.seconds / case.pairs * 1e3
        published = time_of_recipe(zoo, repeats=1) * 1e3
        table.add_row(
            str(case),
            f"{case.pairs:,}",
            str(job.directions),
            f"{job.seconds:,.1f}",
            f"{each:,.2f}",
            f"{published:,.0f}",
            f"{published / each:,.0f}",
            f"{job.peak:.2f} GiB",
        )
    CONSOLE.print(table)


def time_of_recipe(zoo: Path, repeats: int = 3) -> float:
    opened = open_zoo(zoo)
    x, y = (opened[entry.name].to_numpy().astype(np.float64) for entry in opened.entries()[:2])
    return median(lambda: recipe(x, y), repeats)


def scheduler_bytes(plan: Plan) -> tuple[int, int]:
    """Size of the graph as it is sent, and what a scheduler holds for it."""
    parameters = make_parameters("svcca")
    job = Job(
        run="bench",
        zoo="zoo",
        subspaces="subspaces",
        comparison="comparison",
        parameters=parameters,
        measures=plan.measures,
        details=(),
        settled=(),
        chunk_samples=plan.chunk_samples,
    )
    graphs = []
    with dask.config.set(scheduler=lambda graph, keys, **_: graphs.append((graph, keys))):
        DaskExecutor(None, "bench").run(plan.nodes, partial(perform, job), lambda *_: None)
    ((graph, keys),) = graphs
    with (
        distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        process = psutil.Process()
        before = process.memory_info().rss
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GiB"}):
            futures = client.get(graph, keys, sync=False)
        while len(cluster.scheduler.tasks) < len(graph):
            time.sleep(0.01)
        held = process.memory_info().rss - before
        del futures
    return len(cloudpickle.dumps(graph)), held


def plans() -> None:
    table = Table(title="Plans, not run", title_justify="left")
    for name in ("representations", "pairs", "tasks", "tiles", "seconds to plan", "peak", "graph", "scheduler"):
        table.add_column(name, justify="right")
    parameters = make_parameters("svcca")
    for count in (256, 2_000, 10_000):
        zoo = [
            Representation(
                RepresentationName(f"net-{i // 100}", f"step{i % 100}", "layer"),
                ("example", "neuron"),
                (10_000, 512),
                np.dtype("float32"),
                4096,
                float(i % 100),
                None,
                f"digest {i}",
            )
            for i in range(count)
        ]
        selected = select_pairs("all", frame_of(zoo))
        start = time.perf_counter()
        plan = make_plan(zoo, selected, None, None, parameters, Budget(2, 2 * 2**30))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        table.add_row(
            f"{count:,}",
            f"{plan.pairs:,}",
            f"{plan.tasks:,}",
            f"{len(plan.tiles):,}",
            f"{seconds:.1f}",
            f"{peak:.2f} GiB",
            *(f"{size / 2**20:.0f} MiB" for size in scheduler_bytes(plan)),
        )
    CONSOLE.print(table)


@pytest.mark.benchmark
def test_benchmark__quick(tmp_path: Path) -> None:
    with threadpoolctl.threadpool_limits(1):
        headline(Case(16, 2_000, 128), tmp_path)
        plans()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--full", action="store_true", help="256 representations of 10,000 x 512, and all growth tables"
    )
    parser.add_argument("--folder", type=Path, help="keeps the data for another run; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, threadpoolctl.threadpool_limits(1):
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        plans()
        if arguments.full:
            headline(Case(256, 10_000, 512), folder)
            growth([Case(count, 10_000, 512) for count in (16, 64)], folder)
            growth([Case(64, examples, 512) for examples in (2_000, 50_000)], folder)
            growth([Case(64, 10_000, neurons) for neurons in (128, 2_048)], folder)
        else:
            headline(Case(32, 10_000, 512), folder)
            growth([Case(count, 2_000, 128) for count in (16, 64, 256)], folder)


if __name__ == "__main__":
    main()
