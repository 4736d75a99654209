"""What the explorer costs at 10,000 x 10,000: the first view, clicks, the memory of the server.

    python tests/benchmarks/bench_explore.py              # 5 models of 100 checkpoints of 20 layers, a minute, 1 GB

Needs Chromium, its driver and selenium. Values are random, and nothing is cached before. Seconds are of the wall clock,
from the moment when the page is asked for, or a cell is clicked, until the canvas shows what was asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from dask_svcca.measures import find_measures
from dask_svcca.stores import _create
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import PAIR_STATUS, REPRESENTATION_VARIABLES, PairStatus

TILE = 120
CLICKS = 20

TIMED = """
const [fragment, done] = arguments;
const matrix = document.getElementById('matrix'), start = performance.now();
new MutationObserver((_, observer) => {
  if (matrix.dataset.shows === location.hash.slice(1)) {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
  }
}).observe(matrix, { attributes: true });
location.hash = fragment;
"""


def make(place: Path, models: int, checkpoints: int, layers: int) -> int:
    """A comparison of random values; the number of its representations."""
    names = [
        (f"m{model}", f"step{step}", f"layer{layer}", float(step), float(layer))
        for model in range(models)
        for step in range(checkpoints)
        for layer in range(layers)
    ]
    count, rng = len(names), np.random.default_rng(0)
    (measure,) = find_measures("pls")
    store = ComparisonStore.create(
        _create.create_root(place, {}),
        parameters={"variance": 0.99, "conv": "mean"},
        tile=TILE,
        zoo="zoo.zarr",
        examples_digest="a" * 32,
        n_examples=300,
    )
    store.add_results([measure], ["pls"], {}, ())
    store.resize(count)
    columns: dict[str, Any] = {
        "representation": ["/".join(name[:3]) for name in names],
        **{
            key: [name[at] for name in names]
            for at, key in enumerate(("model", "checkpoint", "layer", "step", "depth"))
        },
        **{key: [10] * count for key in ("rank", "neurons", "samples")},
        "variance_kept": [0.99] * count,
    }
    store.write_columns(
        {
            one.name: np.array(
                columns.get(one.name, [""] * count), dtype=object if one.dtype == "string" else one.dtype
            )
            for one in REPRESENTATION_VARIABLES
        }
    )
    values, status = store.array("pls"), store.array(PAIR_STATUS.name)
    for start in range(0, count, TILE):
        rows = slice(start, min(start + TILE, count))
        values[rows] = rng.random((rows.stop - start, count))
        status[rows] = np.full((rows.stop - start, count), PairStatus.DONE, dtype=np.uint8)
    store.consolidate()
    return count


def browser() -> Any:
    """Chromium without a window."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1366,768"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))


def state_of(folder: Path) -> list[tuple[str, int, int]]:
    """Sizes and times of all files."""
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def measured(place: Path, count: int) -> dict[str, Any]:
    """Numbers of one session, and the time at which the overview was whole."""
    before, found = state_of(place), {}
    command = [sys.executable, "-m", "dask_svcca", "explore", str(place), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            address, process = server.stdout.readline().strip(), psutil.Process(server.pid)
            started, driver = process.memory_info().rss, browser()
            try:
                look(driver, address, count, found)
            finally:
                driver.quit()
            found["memory of the server before and at most, MB"] = [
                round(size / 1e6) for size in (started, peak(process))
            ]
        finally:
            server.terminate()
    found["store unchanged"] = state_of(place) == before
    return found


def peak(process: psutil.Process) -> int:
    """Most memory that a process has had, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def look(driver: Any, address: str, count: int, found: dict[str, Any]) -> None:
    """Open the page and click."""
    start = time.perf_counter()
    driver.get(address)
    wait(driver, "return !!document.getElementById('matrix').dataset.shows")
    found["first view, s"] = round(time.perf_counter() - start, 2)
    clicked = timed(driver, [f"a=m{at % 5}/step{7 * at % 100}&b=m{3 * at % 5}/step{at}" for at in range(CLICKS)])
    found["two checkpoints while the overview is read, ms"] = clicked
    wait(driver, "return document.getElementById('matrix').dataset.done === '1'", fragment="a=&b=")
    found["overview whole, s"] = round(time.perf_counter() - start, 2)
    found["two checkpoints, ms"] = timed(driver, [f"a=m{at % 5}/step{at}&b=m1/step{3 * at}" for at in range(CLICKS)])
    found["two models, ms"] = timed(driver, [f"a=m{at % 5}&b=m{3 * at % 5}" for at in range(CLICKS)])
    found["layers of two models, ms"] = timed(
        driver, [f"order=depth&a=m{at % 5}&b=m{3 * at % 5}" for at in range(CLICKS)]
    )
    ask = (
        "const start = performance.now();"
        "return fetch(arguments[0]).then((one) => one.json()).then(() => performance.now() - start)"
    )
    pairs = [driver.execute_script(ask, f"pair?c=0&a={at * 37 % count}&b={at * 1009 % count}") for at in range(CLICKS)]
    rows = [driver.execute_script(ask, f"row?c=0&measure=pls&side=a&place={at * 37}&top=200") for at in range(CLICKS)]
    found["a pair, ms"], found["a row, ms"] = summed(pairs), summed(rows)


def timed(driver: Any, fragments: list[str]) -> dict[str, float]:
    """Milliseconds of going to some views."""
    driver.set_script_timeout(60)
    return summed([driver.execute_async_script(TIMED, fragment) for fragment in fragments])


def summed(times: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(times)), "most": round(max(times))}


def wait(driver: Any, script: str, fragment: str | None = None) -> None:
    """Wait until a script is true, in a view."""
    if fragment is not None:
        driver.execute_script("location.hash = arguments[0]", fragment)
    until = time.monotonic() + 120
    while not driver.execute_script(script):
        if time.monotonic() > until:
            raise TimeoutError(script)
        time.sleep(0.01)


def main() -> None:
    """Make the comparison, look at it twice: without a cache, and with what the first time left beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        place = Path(folder) / "comparison.zarr"
        count = make(place, 5, options.checkpoints, 20)
        sys.stdout.write(f"{count} representations\n")
        for title in ("nothing cached", "with the overview beside it"):
            sys.stdout.write(f"{title}: {json.dumps(measured(place, count), indent=1)}\n")


if __name__ == "__main__":
    main()
