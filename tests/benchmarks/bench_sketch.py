"""Sketches: what making, estimating and searching takes, and how far estimates are off.

``python tests/benchmarks/bench_sketch.py`` with made-up sketches of 10,000 and, with ``--million``, 1,000,000 layers;
with ``--zoo ZOO``, such as the demo's, sketches of that zoo against exact CKA; with ``--index ROWS`` what an index of
made-up sketches takes and finds.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import dask_svcca
from dask_svcca.kernels.sketch import concentration
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.sketches.family import Family
from dask_svcca.sketches.index import INDEXED
from dask_svcca.sketches.make import run_sketches
from dask_svcca.sketches.nearest import nearest
from dask_svcca.sketches.opened import opened
from dask_svcca.sketches.store import COLUMNS, SketchStore, identity_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

GROUP = 50
"""Rows of made-up sketches that are near one another."""


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def timed(work: Callable[[], Any], times: int = 1) -> tuple[float, Any]:
    """Median of some times, in seconds, and the last result."""
    taken, result = [], None
    for _ in range(times):
        start = time.perf_counter()
        result = work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), result


def make_up(place: str, rows: int, size: int) -> SketchStore:
    """A store of random numbers, in groups that are near one another."""
    zoo = dask_svcca.create_zoo(f"{place}.zoo", examples=range(2))
    store = SketchStore.create(place, identity_of(zoo, make_parameters("cka", conv="mean"), Family(size)), rows)
    store.domain("examples")
    rng = np.random.default_rng(0)
    spread = np.empty(rows)
    for start in range(0, rows, 10 * 1024):
        count = min(10 * 1024, rows - start)
        centres = rng.standard_normal((-(-count // GROUP), size), dtype=np.float32).repeat(GROUP, axis=0)[:count]
        own = rng.standard_normal((count, size), dtype=np.float32)
        share = rng.uniform(0, 0.9, (count, 1)).astype(np.float32)
        numbers: npt.NDArray[np.float32] = np.sqrt(share) * centres + np.sqrt(1 - share) * own
        numbers /= np.float32(np.sqrt(size))
        spread[start : start + count] = concentration(numbers)
        store.write_rows({start + row: numbers[row] for row in range(count)})
    labels = np.array([f"net{row // 100}/end/layer{row % 100}" for row in range(rows)], dtype=object)
    parts = np.array([label.split("/") for label in labels], dtype=object)
    given = {"representation": labels, "model": parts[:, 0], "checkpoint": parts[:, 1], "layer": parts[:, 2]}
    given |= {"digest": labels, "concentration": spread, "norm": np.ones(rows), "trace": np.ones(rows)}
    store.write_columns(
        {
            one.name: given.get(one.name, np.full(rows, one.fill, object if one.dtype == "string" else one.dtype))
            for one in COLUMNS
        }
    )
    return store


def of_zoo(place: str, size: int) -> None:
    """Sketches of a zoo against exact values."""
    zoo = dask_svcca.open_zoo(place)
    with tempfile.TemporaryDirectory() as folder:
        sketches = f"{folder}/s.zarr"
        seconds, outcome = timed(lambda: run_sketches(zoo, sketches, make_parameters("cka", conv="mean"), Family(size)))
        say(f"{outcome.made} sketches of {size}: {seconds:.1f} s, {1e3 * seconds / outcome.made:.2f} ms each")
        true = dask_svcca.compare(zoo, measures="cka", variance=None, conv="mean").cka.to_numpy()
        seconds, found = timed(lambda: dask_svcca.estimates(sketches))
        rows, columns = np.triu_indices(len(true), 1)
        off, errors = (found.cka.to_numpy() - true)[rows, columns], found.cka_error.to_numpy()[rows, columns]
        say(
            f"estimates {seconds:.2f} s: rms error {np.sqrt((off**2).mean()):.4f}, mean {off.mean():+.5f}; "
            f"{np.mean(np.abs(off) < 1.96 * errors):.3f} within 1.96 errors"
        )
        source, before, after = opened(sketches), [], []
        for row in np.random.default_rng(0).choice(len(true), min(500, len(true)), replace=False).tolist():
            near, *_ = nearest(source, source.read_rows(np.array([row]))[0], 0.1, 51, 11)
            near = near[near != row]
            wanted = np.sort(np.delete(true[row], row))[-10] - 1e-9
            before.append((true[row, near[:10]] >= wanted).mean())
            after.append((np.sort(true[row, near])[-10:] >= wanted).mean())
        say(f"ten nearest: {np.mean(before):.3f} by estimates, {np.mean(after):.3f} ranked again among 50")


def of_index(rows: int) -> None:
    """An index of made-up sketches, and what it finds of the nearest."""
    from usearch.index import Index

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((-(-rows // GROUP), INDEXED), dtype=np.float32).repeat(GROUP, axis=0)[:rows]
    share = rng.uniform(0, 0.9, (rows, 1)).astype(np.float32)
    numbers = np.sqrt(share) * centres + np.sqrt(1 - share) * rng.standard_normal((rows, INDEXED), dtype=np.float32)
    graph = Index(ndim=INDEXED, metric="cos", dtype="i8")
    start = time.process_time()
    graph.add(np.arange(rows, dtype=np.uint64), numbers, threads=2)
    say(f"{rows:,} rows added: {1e3 * (time.process_time() - start) / rows:.2f} ms of a core each")
    say(f"{graph.serialized_length / rows:.0f} bytes each")
    queries = rng.choice(rows, 200, replace=False)
    own = np.sqrt(np.einsum("rf,rf->r", numbers, numbers))
    true = numbers[queries] @ numbers.T / own
    for count in (128, 512):
        graph.expansion_search = count
        start = time.process_time()
        found = [graph.search(numbers[query], count).keys for query in queries.tolist()]
        seconds = (time.process_time() - start) / len(queries)
        kept = [np.isin(np.argsort(-row)[1:11], near).mean() for row, near in zip(true, found, strict=True)]
        say(f"{count} found in {1e3 * seconds:.1f} ms of a core: {np.mean(kept):.4f} of the ten nearest are among them")


def main() -> None:
    """Print what it takes here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--index", type=int, metavar="ROWS")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.index:
        of_index(asked.index)
        return
    if asked.zoo:
        of_zoo(asked.zoo, asked.size)
        return
    rows = 1_000_000 if asked.million else 10_000
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        seconds, store = timed(lambda: make_up(f"{folder}/s.zarr", rows, asked.size))
        say(f"{rows:,} made-up sketches of {asked.size} written in {seconds:.1f} s")
        if not asked.million:
            seconds, _ = timed(lambda: dask_svcca.estimates(store), 3)
            say(f"all {rows * (rows - 1) // 2:,} estimates and errors: {seconds:.2f} s")
        query = store.read_rows(np.array([rows // 2]))[0]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        seconds, found = timed(lambda: nearest(store, query, 0.1, 51, 11), 7)
        own = (time.process_time() - start) / 7
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        say(f"the 51 nearest: {1e3 * seconds:.0f} ms, {1e3 * own:.0f} ms of a core")
        say(f"peak memory {after / 1024:.0f} MiB, {before / 1024:.0f} before")
        assert found[0][0] == rows // 2


if __name__ == "__main__":
    main()
