"""Pairs by the inner products of samples: as their definitions, and as by couplings, within the memory promised."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from comparisons import graph_of, peak_memory, tasks_of
from measured import make_zoo
from zoos import with_budget, with_memory

import dask_svcca
from dask_svcca.kernels import grams as grams_module
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.plan import grams, sides, tiles
from dask_svcca.readings import Neurons
from dask_svcca.tasks import gram
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


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled for few members is not too much for small ones."""
    monkeypatch.setattr(grams_module, "LEAST_PRODUCTS", 0)


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


@pytest.mark.parametrize("same", [False, True])
def test_gram_products__of_few_members_are_those_of_blas(monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(members, 30, 91)).astype(np.float32) for members in (5, 7))
    sides = [a] if same else [a, b]
    found = []
    for least in (0, np.inf):
        monkeypatch.setattr(grams_module, "LEAST_PRODUCTS", least)
        products = grams_module.GramProducts(5, 5 if same else 7, 91, 91 * 90, a.dtype, same=same)
        for columns in (90, 60, 37):
            products.add([[(one, one[:, :columns]) for one in side] for side in sides], 2)
        found.append(products.take())
    (compiled, own), (by_blas, own_by_blas) = found
    np.testing.assert_allclose(compiled, by_blas, rtol=1e-6)
    assert not np.array_equal(compiled, by_blas)
    for one, other in zip(own, own_by_blas, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


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


@pytest.mark.parametrize("shape", grams.SHAPES)
def test_norms_by_samples__are_the_same_in_less_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(grams, "GRAMS_CHEAPER", 100.0)
    monkeypatch.setattr(tiles, "SCORE_CHUNK_BYTES", 2**17)
    with_memory(monkeypatch, 2**30)
    arrays = layers(8, 1500)
    zoo = make_zoo(arrays, tmp_path / "zoo.zarr")
    graph = graph_of(zoo, tmp_path / "c.zarr", variance=None, measures=MEASURES)
    for function, task in tasks_of(graph, "subspaces"):
        function(task)
    ((function, whole, *needed),) = tasks_of(graph, "tile")
    assert (whole.memory.narrow, whole.memory.held) == grams.SHAPES[0]
    group = tiles.by_kind([tiles.Layer.of("a/b/c", Neurons(), array.shape) for array in arrays])
    options = tiles.TileOptions(
        2**17 // 4 // max(array.shape[1] for array in arrays),
        "float32",
        "crop",
        with_companions(find_measures(MEASURES)),
        {},
    )
    monkeypatch.setattr(grams, "SHAPES", (shape,))
    limits = tiles.tile_limits(group, group, 8, options, 2**30)
    assert (limits.narrow, limits.held) == shape
    _, peak = peak_memory((function, replace(whole, memory=limits), *needed))
    assert 0.3 * limits.peak < peak < limits.peak
    found = dask_svcca.open_comparison(tmp_path / "c.zarr").load()
    np.testing.assert_allclose(found.cka, [[linear_cka(x, y) for y in arrays] for x in arrays], rtol=0, atol=1e-6)


def test_tile_limits__narrow_blocks_before_they_give_up_inner_products(monkeypatch: pytest.MonkeyPatch) -> None:
    options = tiles.TileOptions(4096, "float32", "crop", with_companions(find_measures("cka")), {})
    group = tiles.by_kind([tiles.Layer.of("a/b/c", Neurons(), (20_000, 256))] * 100)
    monkeypatch.setattr(grams, "GRAMS_CHEAPER", 100.0)
    found = []
    for memory in np.geomspace(4e9, 1e8, 60).astype(int).tolist():
        limits = tiles.tile_limits(group, group, 100, options, memory)
        assert limits.peak <= memory
        found.append((limits.narrow, limits.held) if limits.by_samples else None)
    assert list(dict.fromkeys(found)) == [*grams.SHAPES, None]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have four workers share one tile, however short its work is."""
    for module in (grams, sides):
        monkeypatch.setattr(module, "GRAMS_CHEAPER", 100.0)
    monkeypatch.setattr(sides, "SHORT_TILE", 1.0)
    with_budget(monkeypatch, 4, 2**30)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("examples", [120, 1100])
def test_compare__is_the_same_whether_workers_share_a_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    monkeypatch.setattr(tiles, "SCORE_CHUNK_BYTES", 2**17)
    zoo = make_zoo(layers(10, examples), tmp_path / "zoo.zarr")
    with_shares = graph_of(zoo, tmp_path / "graph", variance=None, measures=MEASURES)
    assert len(tasks_of(with_shares, "share")) == 4
    together = dask_svcca.compare(zoo, tmp_path / "shares", measures=MEASURES).load()
    for function, *arguments in tasks_of(with_shares, "subspaces") + tasks_of(with_shares, "tile"):
        function(*arguments)
    given_nothing = dask_svcca.open_comparison(tmp_path / "graph").load()
    with_budget(monkeypatch, 1, 2**30)
    whole = dask_svcca.compare(zoo, tmp_path / "whole", measures=MEASURES).load()
    for name in MEASURES:
        np.testing.assert_array_equal(given_nothing[name], together[name])
        np.testing.assert_array_equal(whole[name], together[name])


@pytest.mark.parametrize("shares", [1, 2, 8, 16])
def test_sums__are_added_in_one_order(shares: int) -> None:
    rng = np.random.default_rng(0)
    sums = [gram.Sums(*(rng.normal(size=(3, 3)) for _ in range(2)), *((np.zeros(3),) * 2,) * 2) for _ in range(16)]
    each = 16 // shares
    parts = [gram._added(sums[start : start + each]) for start in range(0, 16, each)]
    np.testing.assert_array_equal(gram._added(parts).cross, gram._added(sums).cross)
    np.testing.assert_allclose(gram._added(parts).rows, sum(one.rows for one in sums), rtol=1e-12)


@pytest.mark.usefixtures("shared")
def test_compare__sums_anew_where_shares_are_of_other_members(tmp_path: Path) -> None:
    zoo = make_zoo(layers(4, 200), tmp_path / "zoo.zarr")
    expected = dask_svcca.compare(zoo, tmp_path / "expected", measures=MEASURES).load()
    graph = graph_of(zoo, tmp_path / "graph", variance=None, measures=MEASURES)
    for function, task in tasks_of(graph, "subspaces"):
        function(task)
    shares = [function(task, *places) for function, task, *places in tasks_of(graph, "share")]
    others = [
        replace(
            share,
            sums={
                (True, ((("other", number, 9),),)): sums._replace(cross=2 * sums.cross)
                for number, sums in enumerate(share.sums.values())
            },
        )
        for share in shares
    ]
    ((function, *arguments),) = tasks_of(graph, "tile")
    function(*arguments, *others)
    found = dask_svcca.open_comparison(tmp_path / "graph").load()
    for name in MEASURES:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.usefixtures("shared")
def test_compare__makes_anew_what_a_share_finds_damaged(tmp_path: Path) -> None:
    zoo = make_zoo(layers(6, 200), tmp_path / "zoo.zarr")
    expected = dask_svcca.compare(zoo, tmp_path / "c", measures="cka").load()
    dask_svcca.compare(zoo, tmp_path / "other", measures="cka", subspaces=tmp_path / "subspaces")
    for scores in (tmp_path / "subspaces").glob("*/scores/c/0/*"):
        scores.write_bytes(b"damaged" + scores.read_bytes()[7:])
    found = dask_svcca.compare(zoo, tmp_path / "again", measures="cka", subspaces=tmp_path / "subspaces")
    np.testing.assert_array_equal(found.cka, expected.cka)


@pytest.mark.usefixtures("shared")
def test_share__stays_within_the_memory_of_its_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SCORE_CHUNK_BYTES", 2**17)
    rng = np.random.default_rng(0)
    zoo = make_zoo([rng.normal(size=(1500, 60)).astype("float32") for _ in range(24)], tmp_path / "zoo.zarr")
    graph = graph_of(zoo, tmp_path / "c.zarr", variance=None, measures=MEASURES)
    for function, task in tasks_of(graph, "subspaces"):
        function(task)
    shares = tasks_of(graph, "share")
    assert len(shares) == 4
    for share in shares:
        _, peak = peak_memory(share)
        assert 0.3 * share[1].tile.memory.peak < peak < share[1].tile.memory.peak


@pytest.mark.parametrize("held", [1, 2, 3])
@pytest.mark.parametrize(("length", "samples", "most"), [(5, 5, 2), (4, 11, 3), (7, 20, 7), (3, 20, 2)])
def test_blocks__cover_each_pair_of_samples_once(length: int, samples: int, most: int, held: int) -> None:
    times = np.zeros((samples, samples), dtype=int)
    blocks = list(gram._blocks(length, samples, most, held))
    assert max(one.entries for one in blocks) <= length * most
    assert sum(one.is_first for one in blocks) == -(-samples // length)
    for one in blocks:
        rows = np.arange(samples)[one.chunk * length :][one.rows]
        columns = np.arange(samples)[one.other * length :][one.columns]
        times[np.ix_(rows, columns)] += 1
        if not one.on_diagonal:
            times[np.ix_(columns, rows)] += 1
    assert (times == 1).all()


@pytest.mark.parametrize(("length", "samples", "most", "held"), [(500, 5000, 250, 4), (300, 2900, 60, 1)])
def test_portions__are_as_even_as_blocks_allow(length: int, samples: int, most: int, held: int) -> None:
    entries, largest = np.zeros(grams_module.PORTIONS), 0
    for portion, block in gram._portions(list(gram._blocks(length, samples, most, held))):
        entries[portion] += block.entries
        largest = max(largest, block.entries)
    assert np.abs(entries - entries.mean()).max() <= largest


def test_tile_by_samples__is_larger_where_gram_matrices_serve_more_pairs() -> None:
    options = tiles.TileOptions(4096, "float32", "crop", with_companions(find_measures("cka")), {})
    wide = [tiles.Layer.of("a/b/c", Neurons(), (2000, 8192))] * 24
    # Directions from two thousand samples cost as much as ten couplings; their inner products next to nothing.
    assert sides.tile_by_samples(wide, 4, 4, 1, options) == 24
    assert sides.tile_by_samples(wide, 4, 4, 100, options, shared=False) < 24
    svcca = tiles.TileOptions(4096, "float32", "crop", with_companions(find_measures("svcca")), {})
    assert sides.tile_by_samples(wide, 4, 4, 1, svcca) == 4


@pytest.mark.parametrize(
    ("count", "shape", "by_samples"),
    # What each takes was measured: by inner products 0.8, 0.9, 0.7, 1.4, 1.2, 2.3 times as long.
    [
        (48, (5000, 256), True),
        (24, (20_000, 1024), True),
        (400, (500, 32), True),
        (48, (10_000, 256), False),
        (200, (2000, 64), False),
        (400, (2000, 32), False),
    ],
)
def test_tile_by_samples__is_chosen_where_it_is_faster(count: int, shape: tuple[int, int], by_samples: bool) -> None:
    options = tiles.TileOptions(4096, "float32", "crop", with_companions(find_measures("cka")), {})
    group = [tiles.Layer.of("a/b/c", Neurons(), shape)] * count
    assert (sides.tile_by_samples(group, 8, 8, 1, options) > 8) == by_samples


@pytest.mark.parametrize(("count", "shape"), [(200, (1000, 64)), (400, (500, 32))])
def test_tile_by_samples__is_one_for_one_worker_where_it_takes_a_second(count: int, shape: tuple[int, int]) -> None:
    options = tiles.TileOptions(4096, "float32", "crop", with_companions(find_measures("cka")), {})
    group = [tiles.Layer.of("a/b/c", Neurons(), shape)] * count
    assert sides.tile_by_samples(group, 8, 200, 1, options) == count
