"""What it costs to compare convolutional layers by the DFT, against doing for each pair what the formulas say.

Forty layers of 2,000 x 16 x 16 x 32, on one thread; takes a few minutes and 6 GB of disk. Seconds are of
processor time, so that others on the machine do not count:

    python -m pytest tests/benchmarks/bench_dft.py -m benchmark -n 0 -s
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from itertools import combinations, product
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import dask_svcca
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.run.compare import run_comparison

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYERS, EXAMPLES, GRID, CHANNELS = 40, 2_000, (16, 16), 32
VARIANCE = 0.99
PAIRS_BY_FORMULA = 3


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


def layers() -> Iterator[np.ndarray]:
    """Rectified 3 x 3 convolutions of the same smooth images, with the falling spectrum that trained layers have."""
    rng = np.random.default_rng(0)
    distance = np.hypot.outer(np.fft.fftfreq(GRID[0], 1 / GRID[0]), np.fft.rfftfreq(GRID[1], 1 / GRID[1]))
    white = np.fft.rfft2(rng.normal(size=(EXAMPLES, *GRID, 8)), axes=(1, 2))
    images = np.fft.irfft2(white / (1 + distance)[..., np.newaxis], s=GRID, axes=(1, 2)).astype("float32")
    for _ in range(LAYERS):
        kernel = rng.normal(size=(3, 3, 8, CHANNELS)).astype("float32")
        layer = sum(np.roll(images, shift, axis=(1, 2)) @ kernel[shift] for shift in product(range(3), range(3)))
        layer += 0.05 * layer.std() * rng.standard_normal(layer.shape, dtype="float32")
        yield np.maximum(layer, 0)


def by_formula(a: np.ndarray, b: np.ndarray) -> float:
    """One pair: the covariances of each frequency of the full plane, the threshold over all of them, one SVD each."""
    kept_a, kept_b = leading_scores(a), leading_scores(b)
    total = sum(
        np.linalg.svd(kept_a[frequency].conj().T @ kept_b[frequency], compute_uv=False).sum() for frequency in kept_a
    )
    return total / min(sum(scores.shape[1] for scores in kept.values()) for kept in (kept_a, kept_b))


def leading_scores(layer: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    plane = np.fft.fft2(layer.astype(np.float64), axes=(1, 2))
    plane[:, 0, 0] -= plane[:, 0, 0].mean(axis=0)
    blocks = {frequency: plane[(slice(None), *frequency)] for frequency in np.ndindex(*GRID)}
    decomposed = {frequency: np.linalg.eigh(block.conj().T @ block) for frequency, block in blocks.items()}
    falling = np.sort(np.concatenate([values for values, _ in decomposed.values()]))[::-1]
    smallest = falling[np.searchsorted(np.cumsum(falling), VARIANCE * falling.sum())]
    scores = {}
    for frequency, (values, vectors) in decomposed.items():
        # A hair below: the two of a conjugate pair are equal but for rounding.
        kept = values > smallest * (1 - 1e-9)
        scores[frequency] = blocks[frequency] @ (vectors[:, kept] / np.sqrt(values[kept]))
    return scores


@pytest.mark.benchmark
def test_forty_convolutional_layers(folder: Path) -> None:
    seconds_of: Counter[str] = Counter()
    with threadpool_limits(1), dask.config.set(scheduler="synchronous"):
        with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(EXAMPLES)) as zoo:
            for index, layer in enumerate(layers()):
                dims = ("example", "height", "width", "channel")
                zoo.write("net", "1", f"conv{index:02}", layer, depth=index, dims=dims)

        last = time.process_time()

        def progress(stage: str, *_: int) -> None:
            # One task at a time: what has passed since the last ended is this one's.
            nonlocal last
            last, before = time.process_time(), last
            seconds_of[stage] += last - before

        parameters = make_parameters("svcca", variance=VARIANCE)
        run_comparison(zoo, folder / "comparison.zarr", parameters, progress=progress)

        chosen = list(combinations(range(LAYERS), 2))[:: LAYERS * (LAYERS - 1) // 2 // PAIRS_BY_FORMULA]
        arrays = {
            index: zoo["net", "1", f"conv{index:02}"].to_numpy() for index in {i for pair in chosen for i in pair}
        }
        started = time.process_time()
        values = [by_formula(arrays[a], arrays[b]) for a, b in chosen]
        formula = (time.process_time() - started) / len(chosen)

    found = dask_svcca.open_comparison(folder / "comparison.zarr").svcca.to_numpy()
    error = max(abs(found[pair] - value) for pair, value in zip(chosen, values, strict=True))
    assert error < 1e-6

    pairs = LAYERS * (LAYERS + 1) // 2
    table = Table(title=f"{LAYERS} layers of {EXAMPLES:,} x {' x '.join(map(str, GRID))} x {CHANNELS}, one thread")
    for column in ("", "CPU seconds", "of them", "ms each", "by formula / this"):
        table.add_column(column, justify="right" if column else "left")
    rows = [
        ("subspaces, once a layer", seconds_of["subspaces"], LAYERS),
        ("pairs, all", seconds_of["tiles"], pairs),
        ("both, for each pair", seconds_of.total(), pairs),
        ("by formula, some pairs", formula * len(chosen), len(chosen)),
    ]
    for name, seconds, count in rows:
        ratio = "" if count == LAYERS else f"{formula / (seconds / count):,.1f}"
        table.add_row(name, f"{seconds:,.1f}", f"{count:,}", f"{1000 * seconds / count:,.1f}", ratio)
    console = Console()
    console.print()
    console.print(table)
    console.print(f"Largest difference between the two: {error:.1e}")
