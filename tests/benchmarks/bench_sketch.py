"""Sketches: what making, estimating and searching takes, and how far estimates are off.

``python tests/benchmarks/bench_sketch.py`` with made-up sketches of 10,000 and, with ``--million``, 1,000,000 layers,
of which only the numbers are made up that a search reads of all of them: 1 GB in place of 16, and holes; with ``--zoo
ZOO``, such as the demo's, sketches of that zoo against exact CKA; with ``--index ROWS`` what an index of made-up
sketches takes and finds; with ``--coarse ROWS`` what a preview of a made-up zoo takes, and to choose the pairs of
``nearest 20``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

import dask_svcca
from dask_svcca import plan_comparison
from dask_svcca.analysis.models import Kind
from dask_svcca.kernels.sketch import concentration
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.sketches.family import Family
from dask_svcca.sketches.identity import MOST_ROWS, identity_of
from dask_svcca.sketches.index import INDEXED
from dask_svcca.sketches.make import run_sketches
from dask_svcca.sketches.nearest import nearest
from dask_svcca.sketches.opened import opened
from dask_svcca.sketches.store import COARSE_FEATURES, COLUMNS, ROWS, SketchStore
from dask_svcca.stores._documents import crc
from dask_svcca.variables import COARSE, SKETCH

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

GROUP = 50
"""Rows of made-up sketches that are near one another."""

LAYERS = 10
"""Layers of a made-up network."""


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Taken(NamedTuple):
    """Medians, in seconds.

    Attributes
    ----------
    clock, cores : float
        By the clock, and of all cores together: these hang less on what else the machine does.
    """

    clock: float
    cores: float

    def __str__(self) -> str:
        return f"{self.clock:.2f} s, {self.cores:.2f} s of a core"


def timed(work: Callable[[], Any], times: int = 1) -> tuple[Taken, Any]:
    """What some times take, and the last result."""
    taken, result = [], None
    for _ in range(times):
        start = time.perf_counter(), time.process_time()
        # What is made anew does not lie beside what was made before.
        result = None
        result = work()
        taken.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return Taken(*map(statistics.median, zip(*taken, strict=True))), result


def peak() -> str:
    """The most memory that this process has held so far."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"


def make_up(place: str, rows: int, size: int, *, holes: bool = False) -> None:
    """Make a store of random numbers, in groups that are near one another.

    With holes only the first numbers of each row are there, and the others take no disk: what a search among many reads
    is the same.
    """
    zoo = dask_svcca.create_zoo(f"{place}.zoo", examples=range(2))
    store = SketchStore.create(place, identity_of(zoo, make_parameters("cka", conv="mean"), Family(size)), rows)
    store.domain("examples")
    rng = np.random.default_rng(0)
    spread = np.empty(rows)
    wide = COARSE_FEATURES if holes else size
    for start in range(0, rows, 10 * MOST_ROWS):
        count = min(10 * MOST_ROWS, rows - start)
        centres = rng.standard_normal((-(-count // GROUP), wide), dtype=np.float32).repeat(GROUP, axis=0)[:count]
        own = rng.standard_normal((count, wide), dtype=np.float32)
        share = rng.uniform(0, 0.9, (count, 1)).astype(np.float32)
        numbers: npt.NDArray[np.float32] = np.sqrt(share) * centres + np.sqrt(1 - share) * own
        numbers /= np.float32(np.sqrt(size))
        spread[start : start + count] = concentration(numbers)
        if holes:
            write_first(store, Path(place), start, numbers)
        else:
            store.write_rows({start + row: numbers[row] for row in range(count)})
    labels = np.array([f"net{row // LAYERS}/end/layer{row % LAYERS}" for row in range(rows)], dtype=object)
    parts = np.array([label.split("/") for label in labels], dtype=object)
    given = {"representation": labels, "model": parts[:, 0], "checkpoint": parts[:, 1], "layer": parts[:, 2]}
    given |= {"digest": labels, "concentration": spread, "norm": np.ones(rows), "trace": np.ones(rows)}
    given |= {"samples": np.full(rows, 500)}
    store.write_columns(
        {
            one.name: given.get(one.name, np.full(rows, one.fill, object if one.dtype == "string" else one.dtype))
            for one in COLUMNS
        }
    )


def write_first(store: SketchStore, place: Path, first: int, numbers: npt.NDArray[np.float32]) -> None:
    """Write the first numbers of some rows, from the beginning of a chunk on, and zeros that files leave out."""
    for start in range(0, len(numbers), ROWS):
        some = numbers[start : start + ROWS]
        whole = np.zeros((ROWS, store.wide), dtype="<f4")
        whole[: len(some), : some.shape[1]] = some
        file = chunk_of(place, SKETCH, (first + start) // ROWS)
        with file.open("wb") as stream:
            for row in range(len(some)):
                stream.seek(row * store.wide * 4)
                stream.write(some[row].tobytes())
            stream.seek(whole.nbytes)
            stream.write(crc(whole.data.cast("B")))
    for start in range(0, len(numbers), store.coarse_rows):
        coarse = np.zeros((store.coarse_rows, COARSE_FEATURES), dtype=np.int8)
        some = numbers[start : start + store.coarse_rows]
        coarse[: len(some)] = store.coarse(some)
        file = chunk_of(place, COARSE, (first + start) // store.coarse_rows)
        file.write_bytes(coarse.tobytes() + crc(coarse.data.cast("B")))


def chunk_of(place: Path, name: str, chunk: int) -> Path:
    """The file of a chunk of an array, whose folder is made."""
    file = place / name / "c" / str(chunk) / "0"
    file.parent.mkdir(parents=True)
    return file


def of_zoo(place: str, size: int) -> None:
    """Sketches of a zoo against exact values."""
    zoo = dask_svcca.open_zoo(place)
    with tempfile.TemporaryDirectory() as folder:
        sketches = f"{folder}/s.zarr"
        taken, outcome = timed(lambda: run_sketches(zoo, sketches, make_parameters("cka", conv="mean"), Family(size)))
        each = 1e3 * taken.cores / outcome.made
        say(f"{outcome.made} sketches of {size}: {taken}, {each:.2f} ms of a core each")
        true = dask_svcca.compare(zoo, measures="cka", variance=None, conv="mean").cka.to_numpy()
        taken, found = timed(lambda: dask_svcca.estimates(sketches))
        rows, columns = np.triu_indices(len(true), 1)
        off, errors = (found.cka.to_numpy() - true)[rows, columns], found.cka_error.to_numpy()[rows, columns]
        say(
            f"estimates {taken}: rms error {np.sqrt((off**2).mean()):.4f}, mean {off.mean():+.5f}; "
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
    parser.add_argument("--coarse", type=int, metavar="ROWS")
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
        if asked.coarse:
            of_coarse(folder, asked.coarse)
            return
        # In another process, since the peak of memory is the process's.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            other.submit(make_up, f"{folder}/s.zarr", rows, asked.size, holes=asked.million).result()
        store = SketchStore.open(f"{folder}/s.zarr")
        of_search(store)
        if not asked.million:
            of_pairs(store)


def of_search(store: SketchStore) -> None:
    """The nearest of some of many, by their names: of those that have near ones, and of those that have none."""
    before = peak()
    for row in (store.rows // 8, store.rows // 2):
        label = store.values("representation", np.array([row])).item()
        taken, found = timed(lambda label=label: dask_svcca.search(store, label), 7)
        best = found.cka_estimate.iloc[0]
        say(f"the 10 nearest of {label}, of which the first has {best:.2f}: {taken}; peak {peak()}, {before} before")
        assert len(found) == 10


def of_pairs(store: SketchStore) -> None:
    """All pairs of layers, and all pairs of networks."""
    rows = store.rows
    taken, _ = timed(lambda: dask_svcca.estimates(store), 3)
    say(f"all {rows * (rows - 1) // 2:,} estimates and errors: {taken}; peak memory {peak()}")
    for kind in get_args(Kind):
        taken, found = timed(
            lambda kind=kind: dask_svcca.model_similarity(dask_svcca.estimates(store, lazy=True), kind=kind)
        )
        say(f"{found.sizes['model_a']:,} networks of {LAYERS} layers beside each other, {kind}: {taken}")


def of_coarse(folder: str, rows: int) -> None:
    """What a preview takes, and the choice of pairs."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((300, 24), dtype=np.float32)
    with dask_svcca.create_zoo(f"{folder}/zoo.zarr", examples=range(300)) as zoo:
        for row in range(rows):
            x = (row % GROUP) * base + GROUP * rng.standard_normal((300, 24), dtype=np.float32)
            zoo.write(f"net{row // LAYERS}", "end", f"layer{row % LAYERS}", x)
    parameters, place = make_parameters("cka"), f"{folder}/c.sketches.zarr"
    taken, _ = timed(lambda: run_sketches(zoo, place, parameters, Family()))
    say(f"{rows:,} sketches: {taken}")
    taken, plan = timed(
        lambda: plan_comparison(zoo, f"{folder}/near.zarr", measures="cka", pairs="nearest 20", sketches=place)
    )
    say(f"{plan.pairs:,} pairs of nearest 20 chosen and planned in {len(plan.tiles):,} tiles: {taken}; peak {peak()}")
    taken, _ = timed(lambda: dask_svcca.compare(zoo, f"{folder}/c.zarr", measures="cka", preview=True))
    say(f"preview of all {rows * (rows + 1) // 2:,} pairs: {taken}; peak memory {peak()}")


if __name__ == "__main__":
    main()
