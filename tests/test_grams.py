"""Pairs by the inner products of samples: as their definitions, and as by couplings, within the memory promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from comparisons import graph_of, peak_memory, tasks_of
from measured import make_zoo
from zoos import with_memory

import dask_svcca
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.plan import grams, sides, tiles
from dask_svcca.readings import Neurons
from dask_svcca.tasks import patch as patch_module

if TYPE_CHECKING:
    from pathlib import Path

MEASURES = ["cka", "cka_debiased"]


def layers(count: int, examples: int, dtype: str = "float32") -> list[np.ndarray]:
    """Layers of 20 to 90 neurons that have something in common."""
    rng = np.random.default_rng(examples)
    common = rng.normal(size=(examples, 30))
    widths = rng.integers(20, 90, count)
    return [(common @ rng.normal(size=(30, p)) + 3 * rng.normal(size=(examples, p)) + 2).astype(dtype) for p in widths]


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (array - array.mean(axis=0) for array in (x.astype(float), y.astype(float)))
    return np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each group that is compared with another by the inner products of samples."""
    calls: list[int] = []
    by_samples = patch_module.norms_by_samples

    def watched(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return by_samples(*arguments, **options)

    monkeypatch.setattr(patch_module, "norms_by_samples", watched)
    return calls


@pytest.mark.parametrize(
    ("examples", "chunk_bytes", "precision"),
    [
        (120, 2**22, "float32"),
        (301, 2**22, "float64"),
        (1100, 2**17, "float32"),
        pytest.param(1100, 2**17, "float64", marks=pytest.mark.slow),
    ],
)
def test_norms_by_samples__are_their_definitions_and_those_by_couplings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int], examples: int, chunk_bytes: int, precision: Any
) -> None:
    monkeypatch.setattr(tiles, "SCORE_CHUNK_BYTES", chunk_bytes)
    arrays = layers(20, examples)
    zoo = make_zoo(arrays, tmp_path / "zoo.zarr")
    found = []
    for name, share in (("samples", 100.0), ("couplings", 0.0)):
        monkeypatch.setattr(grams, "GRAMS_CHEAPER", share)
        with dask.config.set(scheduler="synchronous"):
            found.append(dask_svcca.compare(zoo, tmp_path / name, measures=MEASURES, precision=precision).load())
        assert bool(counted) == (name == "samples")
        counted.clear()
    by_samples, by_couplings = found
    exact = [[linear_cka(x, y) for y in arrays] for x in arrays]
    # In single precision what is promised of every measure: a BLAS may sum its products in any order, and has been
    # seen 1.6e-7 away here, where another was within 1e-7.
    close, equal = (1e-6, 2e-6) if precision == "float32" else (1e-12, 2e-11)
    np.testing.assert_allclose(by_samples.cka, exact, rtol=0, atol=close)
    for name in (*MEASURES, "null_cka"):
        np.testing.assert_allclose(by_samples[name], by_couplings[name], rtol=0, atol=equal)
    np.testing.assert_array_equal(by_samples.pair_status, by_couplings.pair_status)


@pytest.mark.parametrize("options", [{"keep": "correlations"}, {"measures": ["cka", "svcca"]}])
def test_compare__needs_couplings_for_more_than_their_norms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int], options: dict[str, Any]
) -> None:
    monkeypatch.setattr(grams, "GRAMS_CHEAPER", 100.0)
    zoo = make_zoo(layers(3, 1000), tmp_path / "zoo.zarr")
    dask_svcca.compare(zoo, tmp_path / "c", **{"measures": "cka", **options})
    assert not counted


@pytest.mark.parametrize("shape", [(500, 60), (1500, 60)])
def test_norms_by_samples__stay_within_their_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int], shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(grams, "GRAMS_CHEAPER", 100.0)
    monkeypatch.setattr(tiles, "SCORE_CHUNK_BYTES", 2**17)
    with_memory(monkeypatch, 2**30)
    rng = np.random.default_rng(0)
    zoo = make_zoo([rng.normal(size=shape).astype("float32") for _ in range(24)], tmp_path / "zoo.zarr")
    graph = graph_of(zoo, tmp_path / "c.zarr", variance=None, measures=MEASURES)
    for function, task in tasks_of(graph, "subspaces"):
        function(task)
    for task in tasks_of(graph, "tile"):
        assert task[1].memory.by_samples
        _, peak = peak_memory(task)
        assert 0.3 * task[1].memory.peak < peak < task[1].memory.peak
    assert counted


def test_tile_by_samples__is_larger_where_gram_matrices_serve_more_pairs() -> None:
    options = tiles.TileOptions(4096, "float32", "crop", with_companions(find_measures("cka")), {})
    wide = [tiles.Layer.of("a/b/c", Neurons(), (2000, 8192))] * 24
    # Directions from two thousand samples cost as much as ten couplings; their inner products next to nothing.
    assert sides.tile_by_samples(wide, 4, 4, 1, options) == 24
    assert sides.tile_by_samples(wide, 4, 4, 100, options) < 24
    svcca = tiles.TileOptions(4096, "float32", "crop", with_companions(find_measures("svcca")), {})
    assert sides.tile_by_samples(wide, 4, 4, 1, svcca) == 4
