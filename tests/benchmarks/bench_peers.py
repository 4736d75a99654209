"""What a comparison costs beside a NumPy script that keeps a decomposition of each layer, and beside the recipe.

    python tests/benchmarks/bench_peers.py                           # about ten minutes, 6 GB of memory
    python tests/benchmarks/bench_peers.py --cases 400x500x32 200x1000x64
    python tests/benchmarks/bench_peers.py --unequal                 # layers of unequal spectra, as in a real zoo

The script is written as a careful user would write it for zoos that fit in memory: single precision, one decomposition
a layer, one product and one small problem a pair, as many BLAS threads as this has workers; for SVCCA by the SVD of
each layer, and by the eigenvectors of its covariance, which is faster and less accurate; for CKA of more neurons than
examples by the inner products of examples. It is given its arrays; the comparison reads them from a store, and writes
its results with what helps to read them. All of a table is measured in one run, on the same data; differences are those
from each script. What it takes to start workers, to import and to compile is said below the table.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import threadpoolctl
from rich.console import Console
from rich.table import Table

import dask_svcca
from dask_svcca.connections import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import distributed

    Array = np.ndarray[tuple[int, int], np.dtype[np.float32]]
    Similarity = np.ndarray[tuple[int, int], np.dtype[np.float64]]

VARIANCE = 0.99
PAIRS_OF_RECIPE = 2
"""Times that the recipe is run for a pair; all pairs take as long, since it recomputes all of a pair each time."""

CONSOLE = Console(width=120)


@dataclass(frozen=True)
class Case:
    """A zoo of equal layers."""

    representations: int
    examples: int
    neurons: int

    @classmethod
    def parse(cls, text: str) -> Case:
        return cls(*map(int, text.split("x")))

    @property
    def pairs(self) -> int:
        return self.representations * (self.representations - 1) // 2

    def __str__(self) -> str:
        return f"{self.representations} x {self.examples:,} x {self.neurons:,}"


SMALL = Case(200, 300, 24)
"""What workers compare first, to import and to compile: so many that each of them solves pairs abreast."""

CASES = [Case(400, 500, 32), Case(200, 1000, 64), Case(48, 5000, 256), Case(24, 20_000, 1024)]


def make_layers(case: Case, *, unequal: bool = False) -> list[Array]:
    """Layers with decaying spectra that share something with all others.

    All decay alike, and keep almost equally many directions; or each in its own way, and these are a twentieth to most.
    """
    rng = np.random.default_rng(0)
    shape = case.examples, case.neurons
    common = rng.standard_normal(shape, dtype=np.float32)
    directions = np.arange(1, case.neurons + 1, dtype=np.float32)
    powers = rng.uniform(0.5, 1.3, case.representations) if unequal else np.full(case.representations, 0.85)
    layers = [
        (common * np.float32(rng.uniform(0.3, 1.0)) + rng.standard_normal(shape, dtype=np.float32)) * directions**-power
        for power in powers.astype(np.float32)
    ]
    if case.neurons > case.examples:
        return layers
    mixing = np.linalg.qr(rng.standard_normal((case.neurons, case.neurons), dtype=np.float32))[0]
    return [layer @ mixing for layer in layers]


def make_zoo(place: Path, layers: Sequence[Array]) -> Path:
    """A zoo of some layers."""
    shutil.rmtree(place, ignore_errors=True)
    with dask_svcca.create_zoo(place, examples=range(len(layers[0]))) as zoo:
        for index, layer in enumerate(layers):
            zoo.write("net", f"{index:04}", "layer", layer)
    return place


def of_all_pairs(count: int, similarity: Callable[[int, int], float]) -> Similarity:
    values = np.eye(count)
    for i in range(count):
        for j in range(i + 1, count):
            values[i, j] = values[j, i] = similarity(i, j)
    return values


def orthonormal_by_svd(x: Array) -> Array:
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    return left[:, : kept(singular**2)]


def orthonormal_by_covariance(x: Array) -> Array:
    values, vectors = np.linalg.eigh(x.T @ x)
    count = kept(np.maximum(values[::-1], 0))
    return (x @ vectors[:, ::-1][:, :count]) / np.sqrt(values[::-1][:count])


def kept(variances: np.ndarray[tuple[int], np.dtype[np.float32]]) -> int:
    return int(np.searchsorted(np.cumsum(variances) / np.sum(variances), VARIANCE)) + 1


def script_svcca(layers: Sequence[Array], orthonormal: Callable[[Array], Array]) -> Similarity:
    bases = [orthonormal(x - x.mean(axis=0)) for x in layers]
    return of_all_pairs(len(bases), lambda i, j: float(np.linalg.svd(bases[i].T @ bases[j], compute_uv=False).mean()))


def script_cka(layers: Sequence[Array]) -> Similarity:
    centred = [x - x.mean(axis=0) for x in layers]
    if len(centred[0]) < centred[0].shape[1]:
        grams = [x @ x.T for x in centred]
        grams = [gram / np.linalg.norm(gram) for gram in grams]
        return of_all_pairs(len(grams), lambda i, j: float(np.einsum("ij,ij->i", grams[i], grams[j]).sum()))
    norms = [np.linalg.norm(x.T @ x) for x in centred]
    return of_all_pairs(
        len(centred),
        lambda i, j: float(np.linalg.norm(centred[i].T @ centred[j])) ** 2 / float(norms[i] * norms[j]),
    )


def recipe(x: Array, y: Array) -> float:
    """SVCCA of one pair as published: SVD of each, full covariances, inverse square roots, SVD; in double precision."""

    def truncated(z: Array) -> Similarity:
        left, singular, _ = np.linalg.svd(z.astype(np.float64) - z.mean(axis=0), full_matrices=False)
        count = kept(singular**2)
        return left[:, :count] * singular[:count]

    def inverse_root(covariance: Similarity) -> Similarity:
        values, vectors = np.linalg.eigh(covariance)
        return (vectors / np.sqrt(values)) @ vectors.T

    a, b = truncated(x), truncated(y)
    joint, size = np.cov(a, b, rowvar=False), a.shape[1]
    cross = inverse_root(joint[:size, :size]) @ joint[:size, size:] @ inverse_root(joint[size:, size:])
    return float(np.linalg.svd(cross, compute_uv=False).mean())


def timed(function: Callable[[], Similarity], repeats: int, made: Path | None = None) -> tuple[float, Similarity]:
    """The shortest of some times, and the result; what it makes is removed before, in nobody's time."""
    best, result = np.inf, np.zeros((0, 0))
    for _ in range(repeats):
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def compared(zoo: Path, place: Path, measures: str, client: distributed.Client) -> Similarity:
    found = dask_svcca.compare(
        dask_svcca.open_zoo(zoo), place, measures=measures.split("+"), variance=VARIANCE, client=client
    )
    values: Similarity = found[measures.split("+", maxsplit=1)[0]].to_numpy()
    return values


def bench(case: Case, folder: Path, workers: Sequence[int], repeats: int, *, unequal: bool = False) -> None:
    layers = make_layers(case, unequal=unequal)
    place = make_zoo(folder / "zoo", layers)
    small = make_zoo(folder / "small", make_layers(SMALL))
    scripts: dict[str, list[Callable[[], Similarity]]] = {
        "svcca": [partial(script_svcca, layers, way) for way in (orthonormal_by_svd, orthonormal_by_covariance)],
        "cka": [partial(script_cka, layers)],
    }
    spectra = "unequal" if unequal else "equal"
    table = Table(title=f"{case} float32, {case.pairs:,} pairs, {spectra} spectra; seconds", title_justify="left")
    for name in ("workers", "measures", "recipe, projected", "script", "this", "script / this", "largest difference"):
        table.add_column(name, justify="right")
    once: list[str] = []
    for count in workers:
        with threadpoolctl.threadpool_limits(count):
            published, _ = timed(lambda: np.array([[recipe(*layers[:2])]]), PAIRS_OF_RECIPE)
            script = {name: [timed(way, repeats) for way in ways] for name, ways in scripts.items()}
        # It has nothing that one would take from the other.
        script["svcca+cka"] = [(seconds + script["cka"][0][0], found) for seconds, found in script["svcca"]]
        start = time.perf_counter()
        with connect(workers=count) as client:
            started = time.perf_counter() - start
            first, _ = timed(partial(compared, small, folder / "first", "svcca+cka", client), 1)
            second, _ = timed(partial(compared, small, folder / "second", "svcca+cka", client), 1)
            shutil.rmtree(folder / "first")
            shutil.rmtree(folder / "second")
            once.append(f"{count}: {started:.1f} s to start, {max(0.0, first - second):.1f} s to import and compile")
            for name, times in script.items():
                own, found = timed(
                    partial(compared, place, folder / "comparison", name, client), repeats, folder / "comparison"
                )
                table.add_row(
                    str(count),
                    name,
                    f"{published * case.pairs:,.0f}" if name == "svcca" else "",
                    " / ".join(f"{seconds:,.1f}" for seconds, _ in times),
                    f"{own:,.1f}",
                    " / ".join(f"{seconds / own:.2f}" for seconds, _ in times),
                    " / ".join(f"{np.abs(found - expected).max():.0e}" for _, expected in times),
                )
    table.caption = "Once, and in no figure, workers " + "; ".join(once)
    table.caption_justify = "left"
    CONSOLE.print(table)


@pytest.mark.benchmark
def test_benchmark__quick(tmp_path: Path) -> None:
    bench(Case(20, 300, 24), tmp_path, [1], 1, unequal=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=Case.parse, default=CASES, help="such as 48x5000x256")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--unequal", action="store_true", help="layers of unequal spectra")
    parser.add_argument("--repeats", type=int, default=1, help="the shortest of so many times counts")
    arguments = parser.parse_args()
    for case in arguments.cases:
        with tempfile.TemporaryDirectory() as folder:
            bench(case, Path(folder), arguments.workers, arguments.repeats, unequal=arguments.unequal)


if __name__ == "__main__":
    main()
