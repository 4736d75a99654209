"""What a store elsewhere costs, against a local one and against obstore alone: all on one server that speaks S3.

The server is moto's, in a process of its own on this machine. What it takes to answer says nothing of this package: its
processor time is measured, and taken off. Takes some minutes:

    python -m pytest tests/benchmarks/bench_remote.py -m benchmark -n 0 -s
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import dask
import numpy as np
import psutil
import pytest
import zarr
from rich.console import Console
from rich.table import Table
from zarr.storage import ObjectStore

import dask_svcca
from dask_svcca.stores import _io
from dask_svcca.stores.backend import IN_FLIGHT, backend_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest.importorskip("obstore")
pytest.importorskip("moto")
pytest.importorskip("flask")

REPRESENTATIONS, EXAMPLES, NEURONS = 120, 2_000, 96
MEASURES = ("svcca", "cka")

OBJECTS, OBJECT_BYTES, REPEATS = 64, 4 * 2**20, 5

LEAST_SHARE = 0.7
"""Share of the bytes a second of obstore alone that ours must reach."""

MOST_TIMES = 3.0
"""How many times as long as locally a comparison elsewhere may take, without the server's own time."""


class Server:
    """A server of S3 in a process of its own."""

    def __init__(self) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            with suppress(OSError):
                urlopen(Request(f"{self.url}/bucket", method="PUT")).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"no server came up at {self.url}")

    @property
    def seconds(self) -> float:
        """Processor time that it took so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server()
    for name, value in {
        "AWS_ENDPOINT_URL": running.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield running
    running.stop()


def timed(server: Server, work: Callable[[], Any]) -> dict[str, float]:
    """Seconds of the clock, of the server's processor, and of this process'."""
    start, own, serving = time.perf_counter(), time.process_time(), server.seconds
    work()
    return {
        "clock": time.perf_counter() - start,
        "own": time.process_time() - own,
        "server": server.seconds - serving,
    }


def show(title: str, rows: dict[str, list[str]], columns: list[str]) -> None:
    table = Table("", *columns, title=title)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console(width=120).print(table)


@pytest.mark.benchmark
def test_bytes__against_obstore_alone(server: Server) -> None:
    store = _io.opened("s3://bucket")
    assert isinstance(store, ObjectStore)
    bare, keys = store.store, [f"object/{number}" for number in range(OBJECTS)]
    backend = backend_of(zarr.open_group(store, mode="a"))
    data = np.random.default_rng(0).bytes(OBJECT_BYTES)
    room = {key: [(0, memoryview(bytearray(OBJECT_BYTES)))] for key in keys}

    def together(one: Callable[[str], Any]) -> None:
        async def every() -> None:
            limit = asyncio.Semaphore(IN_FLIGHT)

            async def limited(key: str) -> None:
                async with limit:
                    await one(key)

            await asyncio.gather(*map(limited, keys))

        asyncio.run(every())

    async def put(key: str) -> None:
        await bare.put_async(key, data)

    async def get(key: str) -> None:
        await (await bare.get_async(key)).bytes_async()

    async def get_range(key: str) -> None:
        room[key][0][1][:] = await bare.get_range_async(key, start=0, end=OBJECT_BYTES)

    work = {
        "write": (lambda: together(put), lambda: backend.write_many((key, (data,)) for key in keys)),
        "read": (lambda: together(get), lambda: backend.read_many(keys)),
        "read into buffers": (lambda: together(get_range), lambda: backend.read_ranges(room)),
    }
    rows, shares = {}, {}
    for name, both in work.items():
        # In turn, so that what else goes on here meets both.
        taken = [[timed(server, one)["clock"] for one in both] for _ in range(REPEATS)]
        alone, ours = np.median(taken, axis=0)
        speeds = [OBJECTS * OBJECT_BYTES / 1e6 / seconds for seconds in (alone, ours)]
        shares[name] = float(np.median([first / second for first, second in taken]))
        rows[name] = [f"{speeds[0]:,.0f}", f"{speeds[1]:,.0f}", f"{shares[name]:.0%}"]
    show(f"MB a second, {IN_FLIGHT} requests in flight", rows, ["obstore alone", "dask-svcca", "share"])
    assert min(shares.values()) >= LEAST_SHARE


@pytest.mark.benchmark
def test_compare__against_a_local_store(server: Server, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(EXAMPLES, NEURONS)).astype("float32")
    layers = [
        common @ rng.normal(size=(NEURONS, NEURONS)).astype("float32")
        + rng.normal(size=(EXAMPLES, NEURONS)).astype("float32")
        for _ in range(REPRESENTATIONS)
    ]

    def make(place: Any) -> None:
        with dask_svcca.create_zoo(f"{place}/zoo.zarr", examples=range(EXAMPLES)) as zoo:
            for number, layer in enumerate(layers):
                zoo.write("net", f"step{number:03}", "fc", layer, step=number)

    def compare(place: Any) -> None:
        dask_svcca.compare(f"{place}/zoo.zarr", f"{place}/comparison.zarr", measures=MEASURES)

    work = {
        "the zoo is written": make,
        "it is compared": compare,
        "compared again": compare,
        "the result is read": lambda place: dask_svcca.open_comparison(f"{place}/comparison.zarr").load(),
        "all is verified": lambda place: dask_svcca.verify(f"{place}/comparison.zarr"),
    }
    rows, times = {}, {}
    with dask.config.set(scheduler="synchronous"):
        for name, step in work.items():
            here, there = (
                timed(server, lambda step=step, place=place: step(place)) for place in (tmp_path, "s3://bucket")
            )
            times[name] = (there["clock"] - there["server"]) / here["clock"]
            rows[name] = [
                *(f"{seconds:.1f}" for seconds in (here["clock"], there["clock"], there["server"])),
                f"{times[name]:.1f}",
                f"{there['own'] / here['own']:.1f}",
            ]
    columns = ["local, s", "S3, s", "of it the server", "times as long", "own processor time, times"]
    show(f"{REPRESENTATIONS} representations of {EXAMPLES:,} x {NEURONS}, one thread", rows, columns)
    assert times["it is compared"] <= MOST_TIMES
