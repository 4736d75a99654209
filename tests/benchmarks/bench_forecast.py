"""What a forecast says, beside the run that follows it, in one process and taken in turn.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_forecast.py --demo zoo.zarr     # that of 'dask-svcca demo'
    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_forecast.py --folder kept       # keeps the data

Ratios of a forecast to its run, both in seconds that the process had a core or waited for data, so that others at work
on the machine do not count: what a forecast adds for them is taken off. The first of each case, in which code is loaded
and files are read from the disk, is left out of the median.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import bench_compare
import bench_dft
import dask
import threadpoolctl
from rich.console import Console
from rich.table import Table

from dask_svcca import create_zoo
from dask_svcca.machine import own_time
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.forecast import forecast_run
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_svcca.plan.parameters import Parameters

Case = tuple[str, Path, "Parameters", str]


def dft_zoo(folder: Path) -> Path:
    place = folder / "dft.zarr"
    if not place.exists():
        with create_zoo(place, examples=range(bench_dft.EXAMPLES)) as zoo:
            for index, layer in enumerate(bench_dft.layers()):
                dims = ("example", "height", "width", "channel")
                zoo.write("net", "1", f"conv{index:02}", layer, depth=index, dims=dims)
    return place


def cases(folder: Path, demo: Path | None, wide_layers: int) -> Iterator[Case]:
    if demo is not None:
        yield "demo, averaged", demo, make_parameters("svcca", conv="mean"), "all"
        yield "demo, final, all measures", demo, make_parameters("all", conv="mean"), "final"
        yield "demo, final, dft", demo, make_parameters("svcca", conv="dft"), "final"
    bench_dft.LAYERS, bench_dft.EXAMPLES = 24, 1_000
    yield "24 x 1,000 x 16 x 16 x 32, dft", dft_zoo(folder), make_parameters("svcca"), "all"
    wide = bench_compare.Case(wide_layers, 10_000, 512)
    yield str(wide), bench_compare.make_zoo(wide, folder), make_parameters("svcca"), "all"


def compared(case: Case, folder: Path, repeats: int) -> list[tuple[float, float, float]]:
    """Seconds that a forecast takes, that it foretells, and that the run takes."""
    _, place, parameters, pairs = case
    found = []
    for _ in range(repeats):
        store = folder / "comparison.zarr"
        executor, zoo = DaskExecutor(None, "bench"), open_zoo(place)
        start = own_time()
        plan, _, pace = forecast_run(zoo, store, parameters, executor, pairs=pairs)
        middle = own_time()
        pace.busy = 1.0
        forecast = pace.forecast(plan, parameters, 0.0)
        ready = own_time()
        run_comparison(zoo, store, parameters, executor=executor, pairs=pairs)
        found.append((middle - start, forecast.seconds, own_time() - ready))
        shutil.rmtree(store)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="zoo of the demo")
    parser.add_argument("--folder", type=Path, help="keeps the data for another run; default: a temporary one")
    parser.add_argument("--wide", type=int, default=64, help="layers of 10,000 x 512; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=4)
    arguments = parser.parse_args()
    table = Table(title="Forecasts and runs, seconds, one thread", title_justify="left")
    for column in ("", "forecast takes", "foretells", "run takes", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    with (
        tempfile.TemporaryDirectory() as temporary,
        threadpoolctl.threadpool_limits(1),
        dask.config.set(scheduler="synchronous"),
    ):
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases(folder, arguments.demo, arguments.wide):
            rows = compared(case, Path(temporary), arguments.repeats)[1:]
            medians = [statistics.median(column) for column in zip(*rows, strict=True)]
            ratio = statistics.median(foretold / took for _, foretold, took in rows)
            table.add_row(case[0], *(f"{value:.1f}" for value in medians), f"{ratio:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
