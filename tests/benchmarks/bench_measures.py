"""What each measure costs a layer and a pair, beside SVCCA, and beside its formula in NumPy in the same run.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_measures.py           # twenty minutes, 5 GB of memory
    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_measures.py --measures svcca mutual_knn cka

Seconds of processor time, one thread. Of a layer is what is made once and stored; of a pair what each further pair
costs. They are differences of whole runs, so that Dask, planning and writing are in both as far as they grow; what a
run costs by itself is in neither, and of a few ms a pair little is certain. The formula is written down as in the
paper, in double precision, from the activations of two layers, and computes all of them anew for each pair, as
published code does.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import scipy.stats
import threadpoolctl
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment

import dask_svcca
from dask_svcca.measures import find_measures
from dask_svcca.measures.registry import _BUILT_IN, _FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Array = np.ndarray[tuple[int, int], np.dtype[np.float64]]

CONSOLE = Console(width=140)
LAYERS, REPEATS = 6, 3
VARIANCE = 0.99
NEIGHBOURS = 10


def centred(x: Array) -> Array:
    return x - x.mean(axis=0)


def kept(x: Array) -> Array:
    """Orthonormal scores of the directions that explain most variance."""
    left, singular, _ = np.linalg.svd(centred(x), full_matrices=False)
    return left[:, : int(np.searchsorted(np.cumsum(singular**2) / np.sum(singular**2), VARIANCE)) + 1]


def correlations(x: Array, y: Array) -> Array:
    bases = [np.linalg.qr(centred(one))[0] for one in (x, y)]
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)


def svcca(x: Array, y: Array) -> float:
    return float(np.linalg.svd(kept(x).T @ kept(y), compute_uv=False).mean())


def whitened_procrustes(x: Array, y: Array) -> float:
    a, b = kept(x), kept(y)
    return float(np.linalg.norm(a.T @ b, "nuc") / np.sqrt(a.shape[1] * b.shape[1]))


def cca(x: Array, y: Array) -> float:
    return float(correlations(x, y).mean())


def r2_cca(x: Array, y: Array) -> float:
    return float(np.square(correlations(x, y)).mean())


def pwcca(x: Array, y: Array) -> float:
    x = centred(x)
    a, b = np.linalg.qr(x)[0], np.linalg.qr(centred(y))[0]
    left, r, _ = np.linalg.svd(a.T @ b)
    weights = np.abs((a @ left[:, : len(r)]).T @ x).sum(axis=1)
    return float(weights @ r / weights.sum())


def cka(x: Array, y: Array) -> float:
    x, y = centred(x), centred(y)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def procrustes(x: Array, y: Array) -> float:
    x, y = centred(x), centred(y)
    return float(np.linalg.norm(x.T @ y, "nuc") / (np.linalg.norm(x) * np.linalg.norm(y)))


def linear_regression(x: Array, y: Array) -> float:
    x, y = centred(x), centred(y)
    return float(np.linalg.norm(np.linalg.qr(y)[0].T @ x) ** 2 / np.linalg.norm(x) ** 2)


def neighbours(x: Array) -> Array:
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argpartition(-cosines, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def shared(x: Array, y: Array) -> Array:
    both = zip(neighbours(x), neighbours(y), strict=True)
    return np.array([np.intersect1d(a, b, assume_unique=True).size for a, b in both])


def mutual_knn(x: Array, y: Array) -> float:
    return float(shared(x, y).mean() / NEIGHBOURS)


def jaccard(x: Array, y: Array) -> float:
    both = shared(x, y)
    return float((both / (2 * NEIGHBOURS - both)).mean())


def second_order_cosine(x: Array, y: Array) -> float:
    near = [neighbours(one) for one in (x, y)]
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (x, y)]
    found = []
    for example, either in enumerate(zip(*near, strict=True)):
        some = np.union1d(*either)
        a, b = (1 - one[some] @ one[example] for one in unit)
        found.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return float(np.mean(found))


def distances(x: Array) -> Array:
    """Euclidean ones of all examples."""
    lengths = np.square(x).sum(axis=1)
    squares = np.maximum(np.add.outer(lengths, lengths) - 2 * x @ x.T, 0)
    np.fill_diagonal(squares, 0)
    return np.sqrt(squares)


def of_pairs(matrix: Array) -> Array:
    return matrix[np.triu_indices(len(matrix), 1)]


def rsa(x: Array, y: Array) -> float:
    return float(np.corrcoef(*(of_pairs(1 - np.corrcoef(one)) for one in (x, y)))[0, 1])


def rsa_spearman(x: Array, y: Array) -> float:
    return float(np.corrcoef(*(scipy.stats.rankdata(of_pairs(-np.corrcoef(one))) for one in (x, y)))[0, 1])


def rsm_norm_difference(x: Array, y: Array) -> float:
    return float(np.linalg.norm(distances(x) - distances(y)))


def distance_correlation(x: Array, y: Array) -> float:
    found = []
    for one in (x, y):
        matrix = distances(one)
        found.append(matrix - matrix.mean(axis=0) - matrix.mean(axis=1)[:, np.newaxis] + matrix.mean())
    a, b = found
    return float(np.sqrt(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))))


def hard_correlation_match(x: Array, y: Array) -> float:
    found = np.corrcoef(x, y, rowvar=False)[: x.shape[1], x.shape[1] :]
    return float(found[linear_sum_assignment(found, maximize=True)].mean())


def soft_correlation_match(x: Array, y: Array) -> float:
    found = np.corrcoef(x, y, rowvar=False)[: x.shape[1], x.shape[1] :]
    return float(found.max(axis=0).mean() + found.max(axis=1).mean()) / 2


def permutation_procrustes(x: Array, y: Array) -> float:
    x, y = centred(x), centred(y)
    products = x.T @ y
    best = products[linear_sum_assignment(products, maximize=True)].sum()
    return float(best / (np.linalg.norm(x) * np.linalg.norm(y)))


def r2_cca_adjusted(x: Array, y: Array) -> float:
    ranks = sorted(one.shape[1] for one in (x, y))
    by_chance = ranks[1] / (len(x) - 1)
    return (r2_cca(x, y) - by_chance) / (1 - by_chance)


def cka_debiased(x: Array, y: Array) -> float:
    """By features, as Kornblith and others have it: no matrix of examples x examples."""
    x, y, n = centred(x), centred(y), len(x)

    def product(a: Array, b: Array) -> float:
        lengths = [np.square(one).sum(axis=1) for one in (a, b)]
        off = n / (n - 2) * (lengths[0] @ lengths[1]) - lengths[0].sum() * lengths[1].sum() / ((n - 1) * (n - 2))
        return float(np.linalg.norm(a.T @ b) ** 2 - off)

    return product(x, y) / float(np.sqrt(product(x, x) * product(y, y)))


def pls(x: Array, y: Array) -> float:
    x, y = centred(x), centred(y)
    spectra = [np.linalg.svd(one, compute_uv=False) for one in (x, y)]
    return float(np.linalg.norm(x.T @ y, "nuc") / (spectra[0] @ spectra[1]))


def gulp(x: Array, y: Array) -> float:
    scaled = [centred(one) / np.linalg.norm(centred(one)) for one in (x, y)]
    covariances = [one.T @ one for one in scaled]
    ridges = [np.linalg.inv(one + 0.01 * np.eye(len(one))) for one in covariances]
    own = sum(np.trace(r @ c @ r @ c) for r, c in zip(ridges, covariances, strict=True))
    across = scaled[0].T @ scaled[1]
    return float(np.sqrt(own - 2 * np.trace(ridges[0] @ across @ ridges[1] @ across.T)))


def partial_procrustes(x: Array, y: Array) -> float:
    half = []
    for one in (centred(x), centred(y)):
        left, singular, right = np.linalg.svd(one, full_matrices=False)
        half.append((left * (0.5 * singular * np.sqrt(len(singular)) / np.linalg.norm(singular) + 0.5)) @ right)
    return float(np.linalg.norm(half[0].T @ half[1], "nuc") / (np.linalg.norm(half[0]) * np.linalg.norm(half[1])))


def uniformity_difference(x: Array, y: Array) -> float:
    a, b = (float(np.log(np.mean(np.exp(-2 * np.square(distances(one)))))) for one in (x, y))
    return abs(a - b)


def magnitude_difference(x: Array, y: Array) -> float:
    return float(abs(np.linalg.norm(x.mean(axis=0)) - np.linalg.norm(y.mean(axis=0))))


FORMULAS: dict[str, Callable[[Array, Array], float]] = {
    "svcca": svcca,
    "whitened_procrustes": whitened_procrustes,
    "cca": cca,
    "pwcca": pwcca,
    "r2_cca": r2_cca,
    "r2_cca_adjusted": r2_cca_adjusted,
    "cka": cka,
    "cka_debiased": cka_debiased,
    "pls": pls,
    "procrustes": procrustes,
    "linear_regression": linear_regression,
    "partial_procrustes": partial_procrustes,
    "gulp": gulp,
    "mutual_knn": mutual_knn,
    "jaccard": jaccard,
    "second_order_cosine": second_order_cosine,
    "rsa": rsa,
    "rsa(compare=spearman)": rsa_spearman,
    "rsm_norm_difference": rsm_norm_difference,
    "distance_correlation": distance_correlation,
    "uniformity_difference": uniformity_difference,
    "magnitude_difference": magnitude_difference,
    "hard_correlation_match": hard_correlation_match,
    "soft_correlation_match": soft_correlation_match,
    "soft_matching": hard_correlation_match,
    "permutation_procrustes": permutation_procrustes,
}
"""Formulas as published."""


def names() -> list[str]:
    """All measures that are no references, with the usual parameters of families, and ranks for distances."""
    found = [name for name in (*_BUILT_IN, *_FAMILIES) if find_measures(name)[0].role != "reference"]
    place = found.index("rsa") + 1
    return [*found[:place], "rsa(compare=spearman)", *found[place:]]


def make_zoo(folder: Path, examples: int, neurons: int) -> tuple[dask_svcca.Zoo, list[Array]]:
    """Layers with decaying spectra that have something in common, in single precision."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(examples, neurons))
    scales = np.arange(1, neurons + 1) ** -0.85
    layers = []
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(examples)) as zoo:
        for number in range(LAYERS):
            own = rng.normal(size=(examples, neurons))
            mixing = np.linalg.qr(rng.normal(size=(neurons, neurons)))[0]
            layer = (((common + own) * scales) @ mixing).astype(np.float32)
            zoo.write("net", "end", f"layer{number}", layer, depth=number)
            layers.append(layer.astype(np.float64))
    return zoo, layers


def processor_time(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def cost(zoo: dask_svcca.Zoo, folder: Path, measure: str) -> tuple[float, float, float]:
    """Seconds of a layer and of a pair, and the value of the first two layers."""
    alone = np.eye(LAYERS, dtype=bool)
    subspaces, store = folder / "subspaces.zarr", folder / "comparison.zarr"
    shutil.rmtree(subspaces, ignore_errors=True)

    def run(pairs: Any) -> float:
        shutil.rmtree(store, ignore_errors=True)
        options = {"measures": measure, "variance": VARIANCE, "subspaces": str(subspaces)}
        return processor_time(lambda: dask_svcca.compare(zoo, str(store), pairs=pairs, **options))

    with dask.config.set(scheduler="synchronous"):
        first = run(alone)
        again = statistics.median(run(alone) for _ in range(REPEATS))
        whole = statistics.median(run("all") for _ in range(REPEATS))
    value = float(dask_svcca.open_comparison(store)[measure][0, 1])
    return (first - again) / LAYERS, (whole - again) / (LAYERS * (LAYERS - 1) / 2), value


def costs(
    measures: Sequence[str], folder: Path, examples: int, neurons: int
) -> tuple[Table, list[tuple[str, float, float]]]:
    """A table of what they cost; and each with its value, and that by its formula."""
    zoo, layers = make_zoo(folder, examples, neurons)
    title = f"{LAYERS} layers of {examples:,} x {neurons} float32, processor time on one thread"
    table = Table(title=title, title_justify="left")
    for name in (
        "measure",
        "ms a layer",
        "ms a pair",
        "of svcca's pair",
        "formula, ms a pair",
        "ratio",
        "value",
        "by it",
    ):
        table.add_column(name, justify="left" if name == "measure" else "right")
    # What is loaded on first use is no cost of a measure.
    *_, usual = (cost(zoo, folder, "svcca")[1] for _ in range(2))
    values: list[tuple[str, float, float]] = []
    for measure in measures:
        layer, pair, value = cost(zoo, folder, measure)
        row = [measure, f"{layer * 1e3:,.0f}", f"{pair * 1e3:,.2f}", f"{pair / usual:.1f} x"]
        found: list[float] = []
        formula = FORMULAS[measure]
        seconds = processor_time(lambda formula=formula, found=found: found.append(formula(*layers[:2])))  # type: ignore[misc]
        ratio = f"{seconds / pair:,.0f} x" if pair > 0 else ""
        table.add_row(*row, f"{seconds * 1e3:,.0f}", ratio, f"{value:.4f}", f"{found[0]:.4f}")
        values.append((measure, value, found[0]))
    return table, values


@pytest.mark.benchmark
def test_costs_are_measured(tmp_path: Path) -> None:
    table, values = costs(names(), tmp_path, 300, 16)
    CONSOLE.print(table)
    for name, ours, formula in values:
        assert ours == pytest.approx(formula, abs=2e-4, rel=1e-3), name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measures", nargs="+", default=names())
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--neurons", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, threadpoolctl.threadpool_limits(1):
        CONSOLE.print(costs(options.measures, Path(folder), options.examples, options.neurons)[0])


if __name__ == "__main__":
    main()
