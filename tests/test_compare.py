"""Comparisons end to end: right whatever the chunks, the scheduler and the order of events, and nothing bad spreads."""

from __future__ import annotations

import re
import shutil
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import psutil
import pytest
import xarray as xr
import zarr
from dask_svcca.engine import compare as compare_module
from dask_svcca.engine import tile as tile_module
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import basis, svcca, svcca_matrix, translations
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import InvalidActivationsError, MemoryLimitError, ParametersChangedError, StoreFormatError
from dask_svcca.plan import comparison as plan_module
from dask_svcca.plan.comparison import PROCESS_BYTES
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from dask_svcca import Zoo

N = 60
MISSING, DONE, FAILED = PairStatus.MISSING, PairStatus.DONE, PairStatus.FAILED


def layers(count: int, examples: int = N, seed: int = 0, dtype: str = "float32") -> list[np.ndarray]:
    """Dense layers of 3 to 9 neurons that have something in common, and a mean."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(examples, 6))
    widths = rng.integers(3, 10, count)
    return [
        (common @ rng.normal(size=(6, p)) + rng.normal(size=(examples, p)) + 3 * rng.normal(size=p)).astype(dtype)
        for p in widths
    ]


def write(zoo: Zoo, arrays: Iterable[Any], start: int = 0, **options: Any) -> None:
    """Each array as the layer of a checkpoint of its own, so that the comparison has them in this order."""
    with zoo:
        for step, array in enumerate(arrays, start):
            zoo.write("net", f"step{step:03}", "fc", array, step=step, **options)


def make_zoo(store: Any, arrays: Iterable[Any], examples: int | None = None, **options: Any) -> Zoo:
    arrays = arrays if examples else list(arrays)
    zoo = dask_svcca.create_zoo(store, examples=range(examples or len(arrays[0])))
    write(zoo, arrays, **options)
    return zoo


def matrix(arrays: Sequence[Any], **options: Any) -> np.ndarray:
    """SVCCA of every pair, by way of stores in memory."""
    with dask.config.set(scheduler="synchronous"):
        return dask_svcca.compare(make_zoo(MemoryStore(), arrays), MemoryStore(), **options).svcca.to_numpy()


def label(step: int) -> str:
    return f"net/step{step:03}/fc"


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """Twenty layers: three groups of up to eight, six tiles."""
    return make_zoo(tmp_path / "zoo.zarr", layers(20))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "comparison.zarr"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """The comparison of the same twenty layers where nothing went wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return dask_svcca.compare(make_zoo(folder / "zoo.zarr", layers(20)), folder / "comparison.zarr").load()


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Equal bit by bit, whatever the order in which xarray lists variables."""
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))


# Right: against the oracle.


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0, None])
def test_compare__agrees_with_the_oracle(variance: float | None) -> None:
    arrays = [*layers(6, 300), *layers(2, 300, dtype="float16"), *layers(2, 300, dtype="float64")]
    np.testing.assert_allclose(matrix(arrays, variance=variance), svcca_matrix(arrays, variance), rtol=0, atol=1e-7)


def test_compare__agrees_with_the_oracle_closely_in_double_precision() -> None:
    arrays = layers(6, 300, dtype="float64")
    found = matrix(arrays, variance=0.95, precision="float64")
    np.testing.assert_allclose(found, svcca_matrix(arrays, 0.95), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-7), ("float64", 1e-12)])
def test_compare__of_many_directions_half_of_them_in_common(precision: Any, tolerance: float) -> None:
    rng = np.random.default_rng(3)
    centred = rng.normal(size=(600, 140))
    axes = np.linalg.qr(centred - centred.mean(axis=0))[0]
    # The other half is orthogonal: correlations of zero are where squaring would cost most.
    turned = [axes[:, i : i + 70] @ np.linalg.qr(rng.normal(size=(70, 70)))[0] for i in (0, 35, 70)]
    arrays = [array * np.linspace(1, 2, 70) for array in turned]
    found = matrix(arrays, variance=None, precision=precision)
    np.testing.assert_allclose(found, [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]], rtol=0, atol=tolerance)


def test_compare__agrees_with_the_oracle_on_directions_of_small_variance() -> None:
    # Standard deviations over six decades: the Gram correction is what keeps the scores orthonormal.
    rng = np.random.default_rng(1)
    arrays = [
        rng.normal(size=(300, 10)) * np.logspace(0, -6, 10) @ np.linalg.qr(rng.normal(size=(10, 10)))[0]
        for _ in range(4)
    ]
    found = matrix(arrays, variance=None, precision="float64")
    np.testing.assert_allclose(found, svcca_matrix(arrays, None), rtol=0, atol=1e-8)
    np.testing.assert_allclose(np.diag(found), 1, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@pytest.mark.parametrize("variance", [0.9, None])
def test_compare__more_neurons_than_examples(variance: float | None) -> None:
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=(40, p)) * np.linspace(2, 0.2, p) + 5 for p in (39, 40, 41, 120, 3)]
    found = matrix(arrays, variance=variance, precision="float64")
    np.testing.assert_allclose(found, svcca_matrix(arrays, variance), rtol=0, atol=1e-10)


def test_compare__constant_neurons_and_deficient_rank_count_for_nothing() -> None:
    x, y = layers(2, 200, seed=3)
    same = np.hstack([x, np.full((200, 2), 1e4, "float32"), x[:, :2], x @ np.ones((x.shape[1], 1), "float32")])
    found = dask_svcca.compare(make_zoo(MemoryStore(), [x, same, y]), MemoryStore(), variance=None)
    assert found.rank_a.to_numpy().tolist() == [x.shape[1], x.shape[1], y.shape[1]]
    np.testing.assert_allclose(found.svcca[0, 1], 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.svcca[1, 2], svcca(x, y, None), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
def test_compare__reads_convolutional_layers_as_asked() -> None:
    rng = np.random.default_rng(4)
    common = rng.normal(size=(40, 4, 4, 3))
    arrays = [common @ rng.normal(size=(3, c)) + rng.normal(size=(40, 4, 4, c)) for c in (2, 3)]
    dense = rng.normal(size=(40, 5)) + common.mean(axis=(1, 2))[:, [0, 1, 2, 0, 1]]

    def check(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], conv: str) -> None:
        given = matrix(found, conv=conv, precision="float64", variance=0.9)
        np.testing.assert_allclose(given, svcca_matrix(expected, 0.9), rtol=0, atol=1e-10)

    check([*arrays, dense], [*(array.mean(axis=(1, 2)) for array in arrays), dense], "mean")
    check(arrays, [array.reshape(40, -1) for array in arrays], "flatten")
    check(arrays, [array.reshape(40 * 16, -1) for array in arrays], "positions")
    check(arrays, [translations(array) for array in arrays], "dft")


def test_compare__reads_sequences_as_asked() -> None:
    arrays = [x.reshape(N, 4, -1) for x in (layers(1, 4 * N)[0], layers(1, 4 * N, seed=5)[0])]
    for reading, expected in (
        ("mean", [array.mean(axis=1, dtype=float) for array in arrays]),
        ("last", [array[:, -1] for array in arrays]),
        ("positions", [array.reshape(4 * N, -1) for array in arrays]),
    ):
        np.testing.assert_allclose(matrix(arrays, sequence=reading), svcca_matrix(expected), rtol=0, atol=1e-7)


def test_compare__describes_what_it_compared(undisturbed: xr.Dataset) -> None:
    arrays = layers(20)
    kept = [basis(array, 0.99).shape[1] for array in arrays]
    for axis in "ab":
        assert undisturbed[f"representation_{axis}"].to_numpy().tolist() == [label(step) for step in range(20)]
        assert undisturbed[f"checkpoint_{axis}"].to_numpy().tolist() == [f"step{step:03}" for step in range(20)]
        assert undisturbed[f"step_{axis}"].to_numpy().tolist() == list(range(20))
        assert undisturbed[f"neurons_{axis}"].to_numpy().tolist() == [array.shape[1] for array in arrays]
        assert undisturbed[f"rank_{axis}"].to_numpy().tolist() == kept
        assert (undisturbed[f"samples_{axis}"] == N).all()
        assert ((undisturbed[f"variance_kept_{axis}"] >= 0.99) & (undisturbed[f"variance_kept_{axis}"] <= 1)).all()
        assert not (undisturbed[f"problem_{axis}"] != "").any()
    assert (undisturbed.pair_status == DONE).all()


def test_compare__needs_this_package_to_be_made_and_not_to_be_read(zoo: Zoo, place: Path) -> None:
    result = dask_svcca.compare(zoo, place)
    with xr.open_zarr(place) as plain:
        xr.testing.assert_equal(plain.svcca.load(), result.svcca.load())
        assert plain.svcca.sel(representation_a=label(3)).argmax("representation_b") == 3


# Properties.


@st.composite
def activations(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Two layers over the same examples; widths above their number, and deficient ranks, among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    examples = draw(st.integers(4, 30))
    found = []
    for _ in range(2):
        neurons = draw(st.integers(1, 35))
        rank = draw(st.integers(1, neurons))
        found.append(rng.normal(size=(examples, rank)) @ rng.normal(size=(rank, neurons)) + rng.normal(size=neurons))
    return found[0], found[1], rng


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@settings(max_examples=10)
@given(given_layers=activations(), variance=st.sampled_from([0.6, 0.99, 1.0, None]))
def test_compare__sees_neither_rotation_scale_translation_nor_order(
    given_layers: tuple[np.ndarray, np.ndarray, np.random.Generator], variance: float | None
) -> None:
    x, y, rng = given_layers
    p = x.shape[1]
    rotation = np.linalg.qr(rng.normal(size=(p, p)))[0]
    alike = [x, x @ rotation, -7.5 * x, x + 100 * rng.normal(size=p), x[:, rng.permutation(p)]]
    found = matrix([*alike, y], variance=variance, precision="float64")
    np.testing.assert_array_equal(found, found.T)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found[:5, :5], 1, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[:5, 5], found[0, 5], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[5, 5], 1, rtol=0, atol=1e-8)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**16), p=st.integers(1, 8))
def test_compare__of_full_rank_sees_no_invertible_map(seed: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(40, p)), rng.normal(size=(40, 3))
    mixing = np.linalg.qr(rng.normal(size=(p, p)))[0] * np.logspace(0, -2, p)
    found = matrix([x, x @ mixing + 5, y], variance=None, precision="float64")
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk_rows", [1, 7, 256, 300])
def test_compare__chunks_of_activations_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    arrays = [np.hstack([x, x**2])[:, :6] for x in layers(2, 300, dtype="float64")]
    monkeypatch.setattr(zoo_module, "CHUNK_BYTES", chunk_rows * arrays[0][0].nbytes)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    assert {entry.chunk_examples for entry in zoo.entries()} == {chunk_rows}
    found = dask_svcca.compare(zoo, MemoryStore(), precision="float64").svcca
    np.testing.assert_allclose(found, svcca_matrix(arrays), rtol=0, atol=1e-12)


def test_compare__chunks_of_scores_do_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrays = layers(10, 700)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    results = {}
    for size in (1, 2**22):
        monkeypatch.setattr(plan_module, "SCORE_CHUNK_BYTES", size)
        for precision in ("float32", "float64"):
            place = tmp_path / f"{size}-{precision}"
            results[size, precision] = dask_svcca.compare(zoo, place, precision=precision).svcca.load()
            scores = zarr.open_array(place / "subspaces" / "net" / "step000" / "fc" / "scores", mode="r")
            assert scores.nchunks == (3 if size == 1 else 1)
    np.testing.assert_allclose(results[1, "float64"], results[2**22, "float64"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(results[1, "float32"], results[2**22, "float32"], rtol=0, atol=1e-7)


def with_memory(monkeypatch: pytest.MonkeyPatch, task_bytes: int) -> None:
    """Let a task have so much memory beyond its process."""
    monkeypatch.setattr(psutil, "cpu_count", lambda: 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=task_bytes / 0.6 + 1))


def test_compare__little_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(20))
    whole = dask_svcca.compare(zoo, tmp_path / "whole", precision="float64").svcca
    monkeypatch.setattr(tile_module, "STACK_BYTES", 2**10)
    with_memory(monkeypatch, 2**16)
    members, make = [], tile_module.Panel

    def watched(root: zarr.Group, records: Any) -> Any:
        members.append(len(records))
        return make(root, records)

    monkeypatch.setattr(tile_module, "Panel", watched)
    split = dask_svcca.compare(zoo, tmp_path / "split", precision="float64").svcca
    assert max(members) < 8  # representations of a group
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-12)


def test_compare__couplings_gathered_one_by_one_are_the_same(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = ("svcca", "linear_regression")
    together = dask_svcca.compare(zoo, tmp_path / "together", measures=measures).load()
    monkeypatch.setattr(tile_module, "WIDE_CELL", 0)
    assert_same(dask_svcca.compare(zoo, tmp_path / "one by one", measures=measures), together)


def graph_of(zoo: Zoo, place: Path, **options: Any) -> dict[str, Any]:
    """What a comparison hands to Dask, with everything made ready for it and nothing computed."""
    graphs = []
    with dask.config.set(scheduler=lambda graph, keys, **_: graphs.append(graph)):
        run_comparison(zoo, place, Parameters(**options))
    return graphs[0]


def peak_memory(task: Sequence[Any]) -> tuple[Any, int]:
    """Result of a task, and the most bytes it held at a time."""
    function, job, value = task[:3]
    tracemalloc.start()
    try:
        return function(job, value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(3000, 200), (400, 700), (500, 8, 8, 12)])
def test_compute_subspace__stays_within_its_predicted_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", [np.random.default_rng(6).normal(size=shape).astype("float32")])
    plan = plan_comparison(zoo, tmp_path / "c", Parameters(variance=None), memory=2**31)
    graph = graph_of(zoo, tmp_path / "c", variance=None)
    ((function, job, task),) = [task for key, task in graph.items() if key.startswith("subspace")]
    # With no memory to spare it keeps nothing between its passes.
    report, peak = peak_memory((function, replace(job, memory=0), task))
    assert report.problem == ""
    assert peak < plan.subspace_bytes


def test_compute_tile__stays_within_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    zoo = make_zoo(tmp_path / "zoo.zarr", [rng.normal(size=(400, 60)).astype("float32") for _ in range(16)])
    monkeypatch.setattr(tile_module, "STACK_BYTES", 2**18)
    memory = 3 * 2**20
    with_memory(monkeypatch, memory)
    graph = graph_of(zoo, tmp_path / "c", variance=None)
    tasks = {kind: [task for key, task in graph.items() if key.startswith(kind)] for kind in ("subspace", "tile")}
    for function, job, task in tasks["subspace"]:
        function(job, task)
    for task in tasks["tile"]:
        assert abs(task[1].memory - memory) < 10
        report, peak = peak_memory(task)
        assert report.missing == 0
        assert peak < memory


@pytest.mark.parametrize(("examples", "count"), [(40_000, 8), (4000, 80)])
def test_compare__ten_times_as_much_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: int, count: int
) -> None:
    monkeypatch.setattr(tile_module, "STACK_BYTES", 2**17)
    monkeypatch.setattr(plan_module, "SCORE_CHUNK_BYTES", 2**17)
    monkeypatch.setattr(zoo_module, "CHUNK_BYTES", 2**17)
    memory = 3 * 2**20
    with_memory(monkeypatch, memory)
    peaks = []
    for name, (n, layers_of) in {"small": (4000, 8), "large": (examples, count)}.items():
        rng = np.random.default_rng(8)
        zoo = make_zoo(
            tmp_path / f"zoo-{name}.zarr", (rng.normal(size=(n, 60)).astype("float32") for _ in range(layers_of)), n
        )
        graph = graph_of(zoo, tmp_path / name, variance=None)
        found = {}
        for kind in ("subspace", "tile"):
            tasks = [task for key, task in graph.items() if key.startswith(kind)]
            found[kind] = max(peak_memory(task)[1] for task in tasks[: None if kind == "subspace" else 1])
        peaks.append(found)
    small, large = peaks
    for kind in small:
        assert large[kind] <= memory
        assert large[kind] <= 1.25 * small[kind]


# On the scheduler of the user's choice.


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_compare__scheduler_changes_no_bit(zoo: Zoo, place: Path, undisturbed: xr.Dataset, scheduler: str) -> None:
    with dask.config.set(scheduler=scheduler):
        assert_same(dask_svcca.compare(zoo, place), undisturbed)


def test_compare__runs_on_dask_and_nowhere_else(zoo: Zoo, place: Path, undisturbed: xr.Dataset) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse), pytest.raises(AssertionError, match="something was computed"):
        dask_svcca.compare(zoo, place)
    with dask_svcca.open_comparison(place) as begun:
        assert (begun.pair_status == MISSING).all()
        assert begun.svcca.isnull().all()
    assert_same(dask_svcca.compare(zoo, place), undisturbed)


def test_compare__stores_may_be_anywhere(undisturbed: xr.Dataset) -> None:
    found = dask_svcca.compare(make_zoo(MemoryStore(), layers(20)), MemoryStore())
    assert_same(found, undisturbed)


def test_compare__a_tile_waits_for_its_own_groups_only(zoo: Zoo, place: Path) -> None:
    plan = plan_comparison(zoo, place, Parameters(), memory=2**30)
    graph = graph_of(zoo, place)
    assert len(graph) == plan.tasks

    def named(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(named, value))
        return {value} if isinstance(value, str) and value in graph else set()

    def labels_before(key: str) -> set[str]:
        before = set().union(*(named(value) for value in graph[key][1:]))
        own = {graph[key][2].path} if key.startswith("subspace") else set()
        return own.union(*map(labels_before, before))

    tiles = [key for key in graph if key.startswith("tile")]
    assert {(graph[key][2].row, graph[key][2].column) for key in tiles} == {(t.row, t.column) for t in plan.tiles}
    for key in tiles:
        assert labels_before(key) == {*graph[key][2].paths_a, *graph[key][2].paths_b}


def test_run_comparison__tells_how_it_goes(zoo: Zoo, place: Path) -> None:
    told = []
    with dask.config.set(scheduler="synchronous"):
        outcome = run_comparison(zoo, place, Parameters(), progress=lambda *event: told.append(event))
    assert [event for event in told if event[0] == "subspaces"] == [("subspaces", i + 1, 20) for i in range(20)]
    assert [event for event in told if event[0] == "tiles"] == [("tiles", i + 1, 6) for i in range(6)]
    assert outcome.problems == {}


# Again and again: what is there is not done again.


def test_compare__small_ones_in_batches(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "resources", lambda client: (1, 2**31))
    arrays = layers(40)
    arrays[7] = spoil("nan", arrays[7])
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    told: list[tuple[str, int, int]] = []
    outcome = run_comparison(zoo, place, Parameters(), progress=lambda *event: told.append(event))
    assert {len(batch) for batch in outcome.plan.batches} == {2}
    assert [event for event in told if event[0] == "subspaces"] == [("subspaces", i + 1, 40) for i in range(40)]
    assert list(outcome.problems) == [label(7)]
    found = dask_svcca.open_comparison(place).svcca.to_numpy()
    others = np.arange(40) != 7
    expected = svcca_matrix([array for array, good in zip(arrays, others, strict=True) if good])
    np.testing.assert_allclose(found[np.ix_(others, others)], expected, rtol=0, atol=1e-7)


def test_compare__again_has_nothing_to_do(zoo: Zoo, place: Path, undisturbed: xr.Dataset) -> None:
    dask_svcca.compare(zoo, place)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        assert_same(dask_svcca.compare(zoo, place), undisturbed)


def test_compare__a_zoo_that_grew_adds_its_rows_and_columns(zoo: Zoo, place: Path) -> None:
    before = dask_svcca.compare(zoo, place).load()
    more = layers(5, seed=8)
    write(zoo, more[:4], start=20)
    # The zoo sorts this one to the front; the matrix keeps its order.
    zoo.write("a net", "step0", "fc", more[4])
    outcome = run_comparison(zoo, place, Parameters())
    assert len(outcome.plan.subspaces) == 5
    # The finished tiles are those of the first two groups alone; the third group was not full.
    assert {(tile.row, tile.column) for tile in outcome.plan.tiles} == {(i, j) for j in (2, 3) for i in range(j + 1)}
    after = dask_svcca.open_comparison(place)
    order = [*(label(step) for step in range(20)), "a net/step0/fc", *(label(step) for step in range(20, 24))]
    assert after.representation_a.to_numpy().tolist() == order
    np.testing.assert_array_equal(after.svcca[:20, :20], before.svcca)
    np.testing.assert_allclose(after.svcca, svcca_matrix([*layers(20), more[4], *more[:4]]), rtol=0, atol=1e-7)
    with xr.open_zarr(place) as plain:
        assert plain.sizes["representation_a"] == 25


def test_compare__a_zoo_that_grew_much_has_larger_tasks_and_the_same_tiles(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "resources", lambda client: (1, 2**31))
    arrays = layers(60)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays[:5])
    dask_svcca.compare(zoo, place)
    write(zoo, arrays[5:], start=5)
    plan = run_comparison(zoo, place, Parameters()).plan
    assert (plan.tile, plan.side) == (8, 16)
    assert zarr.open_array(place / "svcca", mode="r").chunks == (8, 8)
    found = dask_svcca.open_comparison(place)
    np.testing.assert_array_equal(found.pair_status, DONE)
    np.testing.assert_allclose(found.svcca, svcca_matrix(arrays), rtol=0, atol=1e-7)


def test_compare__a_replaced_representation_is_compared_anew(zoo: Zoo, place: Path) -> None:
    before = dask_svcca.compare(zoo, place).load()
    new = layers(1, seed=9)[0]
    zoo.write("net", "step012", "fc", new, step=12, overwrite=True)
    outcome = run_comparison(zoo, place, Parameters())
    assert [task.label for task in outcome.plan.subspaces] == [label(12)]
    assert {(tile.row, tile.column) for tile in outcome.plan.tiles} == {(0, 1), (1, 1), (1, 2)}
    after = dask_svcca.open_comparison(place)
    arrays = [*layers(20)[:12], new, *layers(20)[13:]]
    others = np.arange(20) != 12
    np.testing.assert_array_equal(after.svcca[others, others], before.svcca[others, others])
    np.testing.assert_allclose(after.svcca[12], svcca_matrix(arrays)[12], rtol=0, atol=1e-7)
    assert after.neurons_b[12] == new.shape[1]
    assert after.digest_b[12] != before.digest_b[12]


@pytest.mark.parametrize("pairs", ["final", "mask"])
def test_compare__other_pairs_asked_for_later_are_added(
    zoo: Zoo, place: Path, undisturbed: xr.Dataset, pairs: str
) -> None:
    chosen = np.zeros((20, 20), dtype=bool)
    if pairs == "final":
        chosen[19] = chosen[:, 19] = True
    else:
        # On the diagonal of tiles, and beside it; in the first tile a column without its row.
        chosen[[0, 3, 1, 19], [7, 3, 12, 2]] = True
    first = dask_svcca.compare(zoo, place, pairs=chosen if pairs == "mask" else pairs).load()
    chosen |= chosen.T
    np.testing.assert_array_equal(first.pair_status, np.where(chosen, DONE, MISSING))
    np.testing.assert_allclose(first.svcca, np.where(chosen, undisturbed.svcca, np.nan), rtol=0, atol=1e-7)
    second = dask_svcca.compare(zoo, place).load()
    np.testing.assert_array_equal(np.where(chosen, second.svcca, np.nan), first.svcca)
    np.testing.assert_allclose(second.svcca, undisturbed.svcca, rtol=0, atol=1e-7)
    assert (second.pair_status == DONE).all()


def test_compare__a_representation_that_went_away_keeps_its_results(
    zoo: Zoo, place: Path, tmp_path: Path, undisturbed: xr.Dataset
) -> None:
    dask_svcca.compare(zoo, place)
    shutil.rmtree(tmp_path / "zoo.zarr" / "net" / "step004")
    more = layers(21)[20]
    write(dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+"), [more], start=20)
    result = dask_svcca.compare(dask_svcca.open_zoo(tmp_path / "zoo.zarr"), place).load()
    old = {"representation_a": slice(0, 20), "representation_b": slice(0, 20)}
    np.testing.assert_array_equal(result.svcca.isel(old), undisturbed.svcca)
    status = result.pair_status.sel(representation_a=label(20))
    assert int(status.sel(representation_b=label(4))) == MISSING
    assert (status.drop_sel(representation_b=label(4)) == DONE).all()


# Stopped at any moment.


@pytest.mark.parametrize(("stage", "after"), [("subspaces", 19), ("tiles", 1), ("tiles", 5)])
def test_compare__interrupted_and_resumed_is_as_if_it_had_not_been(
    zoo: Zoo, place: Path, undisturbed: xr.Dataset, stage: str, after: int
) -> None:
    def interrupt(at: str, done: int, total: int) -> None:
        if (at, done) == (stage, after):
            raise KeyboardInterrupt

    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        run_comparison(zoo, place, Parameters(), progress=interrupt)
    with dask_svcca.open_comparison(place) as begun:
        assert (begun.pair_status == MISSING).any()
        np.testing.assert_array_equal(begun.svcca.isnull(), begun.pair_status == MISSING)
    assert_same(dask_svcca.compare(zoo, place), undisturbed)


def test_compute_tile__its_status_is_written_last(
    zoo: Zoo, place: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_chunk = zarr.Array.__setitem__

    def power_cut(self: zarr.Array, selection: Any, value: Any) -> None:
        if self.basename == "pair_status":
            raise OSError("power cut")
        write_chunk(self, selection, value)

    with monkeypatch.context() as broken:
        broken.setattr(zarr.Array, "__setitem__", power_cut)
        with dask.config.set(scheduler="synchronous"), pytest.raises(OSError, match="power cut"):
            dask_svcca.compare(zoo, place)
    with dask_svcca.open_comparison(place) as begun:
        # The values of the first tile are there, and do not count.
        assert begun.svcca.notnull().any()
        assert (begun.pair_status == MISSING).all()
    assert_same(dask_svcca.compare(zoo, place), undisturbed)


@pytest.mark.parametrize("stop_at", ["problem_b", "digest_a", "representation_b", "representation_a"])
def test_compare__stopped_while_it_took_in_representations(
    zoo: Zoo, place: Path, tmp_path: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    whole = dask_svcca.open_zoo(tmp_path / "zoo.zarr")
    for step in range(7, 20):
        (tmp_path / "zoo.zarr" / "net" / f"step{step:03}").rename(tmp_path / f"later{step:03}")
    assert dask_svcca.compare(zoo, place).sizes["representation_a"] == 7
    for step in range(7, 20):
        (tmp_path / f"later{step:03}").rename(tmp_path / "zoo.zarr" / "net" / f"step{step:03}")
    create = zarr.Group.create_array

    def power_cut(self: zarr.Group, name: str, **options: Any) -> Any:
        if name == stop_at:
            raise OSError("power cut")
        return create(self, name, **options)

    with monkeypatch.context() as broken:
        broken.setattr(zarr.Group, "create_array", power_cut)
        with pytest.raises(OSError, match="power cut"):
            dask_svcca.compare(whole, place)
    found = dask_svcca.compare(whole, place)
    assert found.representation_a.to_numpy().tolist() == undisturbed.representation_a.to_numpy().tolist()
    np.testing.assert_allclose(found.svcca, undisturbed.svcca, rtol=0, atol=1e-7)


# Bad representations.


def spoil(kind: str, x: np.ndarray) -> np.ndarray:
    """A layer that cannot be compared."""
    x = x.copy()
    match kind:
        case "nan":
            x[7, 2] = x[9, 0] = np.nan
        case "inf":
            x[7, 2] = np.inf
        case "both infinities":
            x[7, 2], x[8, 2] = np.inf, -np.inf
        case "constant":
            x[:] = np.linspace(0.1, 1.1, x.shape[1])
        case "zero":
            x[:] = 0
        case "overflow":
            x = x.astype("float64") * 1e200
    return x


REASONS = {
    "nan": "2 of {size} values are NaN or infinite, the first at index (7, 2)",
    "inf": "1 of {size} values are NaN or infinite, the first at index (7, 2)",
    "both infinities": "2 of {size} values are NaN or infinite, the first at index (7, 2)",
    "constant": "is constant",
    "zero": "is constant",
    "overflow": "values so large that their squares overflow",
}


@pytest.mark.parametrize(("neurons", "dtype"), [(5, "float32"), (80, "float64")])
@pytest.mark.parametrize("kind", REASONS)
def test_compare__a_bad_representation_is_recorded_and_stops_nothing(kind: str, neurons: int, dtype: str) -> None:
    wide = np.random.default_rng(10).normal(size=(N, neurons)).astype(dtype)
    bad, good = spoil(kind, wide), layers(2)
    found = dask_svcca.compare(make_zoo(MemoryStore(), [good[0], bad, good[1]]), MemoryStore())
    fine = np.array([True, False, True])
    np.testing.assert_array_equal(found.pair_status, np.where(np.outer(fine, fine), DONE, FAILED))
    np.testing.assert_array_equal(found.svcca.notnull(), np.outer(fine, fine))
    np.testing.assert_allclose(found.svcca[0, 2], svcca(*good), rtol=0, atol=1e-7)
    for axis in "ab":
        problem = found[f"problem_{axis}"].to_numpy().tolist()
        assert problem[0] == problem[2] == ""
        assert problem[1].startswith("'net/step001/fc'")
        assert REASONS[kind].format(size=bad.size) in problem[1]
        assert found[f"rank_{axis}"][1] == -1


def test_compare__a_bad_representation_is_told_in_the_outcome(zoo: Zoo, place: Path) -> None:
    zoo.write("net", "step003", "fc", spoil("nan", layers(1)[0]), step=3, overwrite=True)
    outcome = run_comparison(zoo, place, Parameters())
    assert list(outcome.problems) == [label(3)]
    # What is known to be bad is not tried again, and still told.
    again = run_comparison(zoo, place, Parameters())
    assert again.plan.tasks == 0
    assert again.problems == outcome.problems


def test_compare__a_representation_gone_bad_leaves_no_number(zoo: Zoo, place: Path, undisturbed: xr.Dataset) -> None:
    dask_svcca.compare(zoo, place)
    good = layers(20)[3]
    zoo.write("net", "step003", "fc", spoil("nan", good), step=3, overwrite=True)
    bad = dask_svcca.compare(zoo, place).load()
    gone = np.zeros((20, 20), dtype=bool)
    gone[3] = gone[:, 3] = True
    np.testing.assert_array_equal(bad.svcca.isnull(), gone)
    np.testing.assert_array_equal(bad.pair_status, np.where(gone, FAILED, DONE))
    zoo.write("net", "step003", "fc", good, step=3, overwrite=True)
    assert_same(dask_svcca.compare(zoo, place), undisturbed)


# Damaged stores.


def lose_all_chunks(activations: Path) -> None:
    shutil.rmtree(activations / "c")


def lose_a_chunk(activations: Path) -> None:
    max((activations / "c").rglob("0")).unlink()


def cut_a_chunk_short(activations: Path) -> None:
    file = max((activations / "c").rglob("0"))
    file.write_bytes(file.read_bytes()[:20])


def flip_a_bit(activations: Path) -> None:
    file = max((activations / "c").rglob("0"))
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)


def lose_the_array(activations: Path) -> None:
    (activations / "zarr.json").unlink()


@pytest.fixture(scope="module", params=["lz4", "none"])
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A zoo of three layers in several chunks each, and its comparison."""
    folder = tmp_path_factory.mktemp("intact")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(zoo_module, "CHUNK_BYTES", 500)
        zoo = make_zoo(folder / "zoo.zarr", layers(3), compression=request.param)
    return folder / "zoo.zarr", dask_svcca.compare(zoo, folder / "comparison.zarr").load()


@pytest.mark.parametrize(
    "damage",
    [lose_all_chunks, lose_a_chunk, cut_a_chunk_short, flip_a_bit, lose_the_array],
    ids=lambda damage: damage.__name__,
)
def test_compare__damaged_activations_are_told_and_tried_again(
    intact: tuple[Path, xr.Dataset], tmp_path: Path, place: Path, damage: Callable[[Path], None]
) -> None:
    source, expected = intact
    shutil.copytree(source, tmp_path / "zoo.zarr")
    activations = tmp_path / "zoo.zarr" / "net" / "step001" / "fc" / "activations"
    damage(activations)
    zoo = dask_svcca.open_zoo(tmp_path / "zoo.zarr")

    damaged = dask_svcca.compare(zoo, place).load()
    fine = np.array([True, False, True])
    np.testing.assert_array_equal(damaged.pair_status, np.where(np.outer(fine, fine), DONE, MISSING))
    np.testing.assert_array_equal(damaged.svcca.notnull(), np.outer(fine, fine))
    np.testing.assert_array_equal(damaged.problem_a != "", ~fine)

    shutil.copytree(source, tmp_path / "zoo.zarr", dirs_exist_ok=True)
    assert_same(dask_svcca.compare(zoo, place), expected)


def test_compare__damage_is_described(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    lose_all_chunks(tmp_path / "zoo.zarr" / "net" / "step001" / "fc" / "activations")
    outcome = run_comparison(zoo, tmp_path / "comparison.zarr", Parameters())
    assert list(outcome.problems) == [label(1)]
    assert "chunk 0 of 1 is missing" in outcome.problems[label(1)]


def test_compare__an_old_subspace_does_not_stand_in_for_new_activations(zoo: Zoo, place: Path, tmp_path: Path) -> None:
    dask_svcca.compare(zoo, place)
    zoo.write("net", "step003", "fc", layers(1, seed=11)[0], step=3, overwrite=True)
    lose_all_chunks(tmp_path / "zoo.zarr" / "net" / "step003" / "fc" / "activations")
    found = dask_svcca.compare(zoo, place)
    assert (found.pair_status[3] == MISSING).all()
    assert found.svcca[3].isnull().all()
    assert found.svcca[:, 3].isnull().all()
    assert "is missing" in str(found.problem_a[3].item())


def test_compare__a_fold_that_cannot_be_made_stops_nothing(tmp_path: Path, place: Path) -> None:
    rng = np.random.default_rng(12)
    zoo = make_zoo(tmp_path / "zoo.zarr", [rng.normal(size=(N, 4, 4, 2))])
    dask_svcca.compare(zoo, place, match="fold")
    # Its own subspace is there; the one on the grid of a new partner needs its activations again.
    lose_all_chunks(tmp_path / "zoo.zarr" / "net" / "step000" / "fc" / "activations")
    write(zoo, [rng.normal(size=(N, 2, 2, 2)), rng.normal(size=(N, 2, 2, 3))], start=1)
    found = dask_svcca.compare(zoo, place, match="fold")
    expected = np.full((3, 3), DONE)
    expected[0, 1:] = expected[1:, 0] = MISSING
    np.testing.assert_array_equal(found.pair_status, expected)
    np.testing.assert_array_equal(found.svcca.notnull(), expected == DONE)
    assert "is missing" in str(found.problem_a[0].item())


# Refused, naming both values.


@pytest.mark.parametrize("refused", [{"pairs": "between net other"}, {"pairs": np.zeros((2, 2), dtype=bool)}])
def test_compare__what_is_refused_leaves_no_store(zoo: Zoo, place: Path, refused: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pairs"):
        dask_svcca.compare(zoo, place, variance=0.5, **refused)
    assert not place.exists()


def test_compare__what_does_not_fit_leaves_no_store(zoo: Zoo, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "resources", lambda client: (1, PROCESS_BYTES))
    with pytest.raises(MemoryLimitError, match="MiB in one worker"):
        dask_svcca.compare(zoo, place)
    assert not place.exists()


def test_compare__other_parameters_are_refused(zoo: Zoo, place: Path) -> None:
    before = dask_svcca.compare(zoo, place).load()
    asked: dict[str, Any] = {"variance": None, "precision": "float64", "conv": "mean", "match": "fold"}
    for name, value in asked.items():
        found = before.attrs["parameters"][name]
        message = f"was made with {name}={found!r}, now {name}={value!r} is asked for"
        with pytest.raises(ParametersChangedError, match=re.escape(message)):
            dask_svcca.compare(zoo, place, **{name: value})
    assert_same(dask_svcca.open_comparison(place), before)


def test_compare__other_examples_are_refused(zoo: Zoo, place: Path, tmp_path: Path) -> None:
    dask_svcca.compare(zoo, place)
    other = dask_svcca.create_zoo(tmp_path / "other.zarr", examples=range(1, N + 1))
    write(other, layers(3))
    with pytest.raises(ParametersChangedError, match=r"of 60 examples \(digest \w+\), the zoo has 60 \(digest \w+\)"):
        dask_svcca.compare(other, place)


def test_compare__an_empty_zoo_is_refused(tmp_path: Path, place: Path) -> None:
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N))
    with pytest.raises(InvalidActivationsError, match=r"has no complete representation\. Capture some first"):
        dask_svcca.compare(zoo, place)
    zoo.append("net", "step0", "fc", np.ones((5, 3), "float32"))
    with pytest.raises(InvalidActivationsError, match="has no complete representation; 1 are unfinished"):
        dask_svcca.compare(zoo, place)
    assert not place.exists()


def test_compare__does_not_write_into_another_store(zoo: Zoo, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "zoo.zarr").rglob("*")}
    with pytest.raises(StoreFormatError, match="is not a comparison of dask-svcca: it says format 'dask-svcca-zoo'"):
        dask_svcca.compare(zoo, tmp_path / "zoo.zarr")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "zoo.zarr").rglob("*")} == before


def test_compare__an_unfinished_representation_is_left_out(zoo: Zoo, place: Path) -> None:
    zoo.append("net", "step999", "fc", np.ones((5, 3), "float32"))
    assert dask_svcca.compare(zoo, place).sizes["representation_a"] == 20


def test_compare__awkward_names_are_labels(tmp_path: Path, place: Path) -> None:
    names = [("/net", "50%", "/backbone/Conv_0"), ("/net", "50%", "zarr.json"), ("é", "..", "_x"), ("é", ".", "c")]
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N))
    for name, x in zip(names, layers(4), strict=True):
        zoo.write(*name, x)
    found = dask_svcca.compare(zoo, place)
    triples = zip(*(found[f"{part}_a"].to_numpy().tolist() for part in ("model", "checkpoint", "layer")), strict=True)
    assert sorted(triples) == sorted(names)
    a, b = (dict(zip(names, layers(4), strict=True))[name] for name in names[:2])
    picked = found.svcca.where((found.layer_a == names[0][2]) & (found.layer_b == names[1][2]), drop=True)
    np.testing.assert_allclose(picked.item(), svcca(a, b), rtol=0, atol=1e-7)
