"""Long representations, read in parts: what comes out is what one task makes, whatever is lost on the way."""

from __future__ import annotations

import shutil
import tracemalloc
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from comparisons import graph_of
from zarr.storage import MemoryStore
from zoos import with_budget

import dask_svcca
from dask_svcca.connections import connect
from dask_svcca.plan import subspaces as plan_module
from dask_svcca.plan import tiles as tiles_module
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run.compare import plan_run, run_comparison
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import SubspaceStore
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.tasks import parts as parts_module
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dask_svcca import Zoo

EXAMPLES = 700
SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "dense": ((EXAMPLES, 24), {}),
    "dft": ((EXAMPLES, 5, 4, 3), {}),
    "positions": ((EXAMPLES, 3, 2, 4), {"conv": "positions"}),
    "tokens": ((EXAMPLES, 5, 6), {"sequence": "positions"}),
    "flatten": ((EXAMPLES, 3, 2, 4), {"conv": "flatten"}),
    "full rank": ((EXAMPLES, 24), {"variance": None, "measures": ("svcca", "pwcca")}),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of scores, and two workers whatever the machine has."""
    monkeypatch.setattr(tiles_module, "SCORE_CHUNK_BYTES", 1)
    with_budget(monkeypatch, 2, 2**31)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every representation is long."""
    monkeypatch.setattr(plan_module, "SPLIT_BYTES", 1)


def layers(shape: tuple[int, ...], count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(*shape[:-1], 4))
    return [
        (common @ rng.normal(size=(4, shape[-1])) + rng.normal(size=shape) + 3).astype("float32") for _ in range(count)
    ]


def make_zoo(store: Any, arrays: list[np.ndarray], rows: int = 64) -> Zoo:
    with dask_svcca.create_zoo(store, examples=range(len(arrays[0]))) as zoo, pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo_module, "CHUNK_BYTES", rows * arrays[0][0].nbytes)
        for step, array in enumerate(arrays):
            dims = ("example", "height", "width", "channel") if array.ndim == 4 else None
            zoo.write("net", f"step{step}", "layer", array, step=step, dims=dims)
    return zoo


def run(graph: dict[str, Any], key: str, done: dict[str, Any] | None = None) -> Any:
    """Run the tasks that a key needs and that are not done yet."""
    done = {} if done is None else done

    def value(argument: Any) -> Any:
        if isinstance(argument, str) and argument in graph:
            if argument not in done:
                function, *arguments = graph[argument]
                done[argument] = function(*map(value, arguments))
            return done[argument]
        return argument

    return value(key)


def keys_of(graph: dict[str, Any], step: str) -> list[str]:
    """Tasks of one step; ``subspaces`` is the last, which makes the pack count."""
    return [key for key in graph if key.startswith(f"{step}-")]


def scores_at(place: Path) -> np.ndarray:
    """Scores of the only subspace of a comparison."""
    index = SubspaceStore.open_inside(ComparisonStore.open(place).root).read_index()
    (record,) = index.records.values()
    return index.packs[record.pack].scores(record)


def labels_with_subspaces(place: Path) -> list[str]:
    """Representations of a comparison that have one."""
    comparison = ComparisonStore.open(place)
    records = SubspaceStore.open_inside(comparison.root).read_index().records
    keys = dict(zip(comparison.column("representation"), comparison.column("subspace"), strict=True))
    return [label for label, key in keys.items() if key in records]


@pytest.mark.parametrize(("case", "rows"), [*((case, 53) for case in SHAPES), ("dft", 64), ("dft", 1000)])
def test_parts__make_what_one_task_makes(case: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, options = SHAPES[case]
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(shape), rows)
    options = {"precision": "float64", **options}
    whole = dask_svcca.compare(zoo, tmp_path / "whole", **options).load()
    monkeypatch.setattr(plan_module, "SPLIT_BYTES", 1)
    plan = plan_run(zoo, tmp_path / "parts", Parameters(**options), Budget(2, 2**31))
    assert {pack.parts for pack in plan.packs} == {min(8, -(-EXAMPLES // rows))}
    found = dask_svcca.compare(zoo, tmp_path / "parts", **options).load()
    assert set(found.variables) == set(whole.variables)
    for name in found.data_vars:
        if found[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], whole[name], rtol=0, atol=1e-12, err_msg=str(name))
        else:
            np.testing.assert_array_equal(found[name], whole[name], err_msg=str(name))


@pytest.mark.usefixtures("in_parts")
def test_parts__in_any_store() -> None:
    arrays = layers((EXAMPLES, 24))
    with dask.config.set(scheduler="synchronous"):
        found = dask_svcca.compare(make_zoo(MemoryStore(), arrays), MemoryStore(), precision="float64")
    assert np.isfinite(found.svcca).all()
    np.testing.assert_allclose(np.diag(found.svcca), 1, rtol=0, atol=1e-12)


def nearly_deficient() -> np.ndarray:
    """A layer of so falling a spectrum that its scores have to be put right."""
    rng = np.random.default_rng(1)
    turned = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    return rng.normal(size=(EXAMPLES, 12)) * np.logspace(0, -6, 12) @ turned


@pytest.mark.usefixtures("in_parts")
def test_parts__are_put_right_where_the_covariance_falls_short(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", [nearly_deficient()])
    graph = graph_of(zoo, tmp_path / "c", variance=None, precision="float64")
    done: dict[str, Any] = {}
    run(graph, keys_of(graph, "subspaces")[0], done)
    assert done[keys_of(graph, "corrections")[0]].value
    scores = scores_at(tmp_path / "c")
    np.testing.assert_allclose(scores.T @ scores, np.eye(12), rtol=0, atol=1e-9)


def not_finite(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[300, 2] = np.nan
    return array


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (not_finite, "has 1 of 16800 values that are NaN or infinite, the first at index (300, 2)"),
        (np.ones_like, "is constant"),
    ],
)
def test_parts__bad_activations_are_recorded(
    tmp_path: Path, spoil: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    arrays = layers((EXAMPLES, 24))
    zoo = make_zoo(tmp_path / "zoo.zarr", [arrays[0], spoil(arrays[1]), arrays[2]])
    outcome = run_comparison(zoo, tmp_path / "c", Parameters())
    assert list(outcome.problems) == ["net/step1/layer"]
    assert reason in outcome.problems["net/step1/layer"]
    found = dask_svcca.open_comparison(tmp_path / "c")
    assert (found.pair_status[1] == PairStatus.FAILED).all()
    assert np.isfinite(found.svcca[::2, ::2]).all()
    assert run_comparison(zoo, tmp_path / "c", Parameters()).plan.tasks == 0


@pytest.mark.usefixtures("in_parts")
def test_parts__a_lost_chunk_is_told_and_tried_again(tmp_path: Path) -> None:
    arrays = layers((EXAMPLES, 24))
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    dask_svcca.compare(zoo, tmp_path / "c")
    # Replaced, and then damaged: the old subspace may not stand for the new activations.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo_module, "CHUNK_BYTES", 64 * arrays[0][0].nbytes)
        zoo.write("net", "step1", "layer", arrays[1] + 1, step=1, overwrite=True)
    chunk = tmp_path / "zoo.zarr" / "net" / "step1" / "layer" / "activations" / "c" / "3" / "0"
    away = shutil.move(chunk, tmp_path / "away")
    outcome = run_comparison(zoo, tmp_path / "c", Parameters())
    assert "chunk 3 of 11 is missing" in outcome.problems["net/step1/layer"]
    found = dask_svcca.open_comparison(tmp_path / "c")
    assert (found.pair_status[1] == PairStatus.MISSING).all()
    assert labels_with_subspaces(tmp_path / "c") == ["net/step0/layer", "net/step2/layer"]
    shutil.move(away, chunk)
    outcome = run_comparison(zoo, tmp_path / "c", Parameters())
    assert not outcome.problems
    assert np.isfinite(dask_svcca.open_comparison(tmp_path / "c").svcca).all()


@pytest.mark.usefixtures("in_parts")
def test_parts__the_basis_is_found_once(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers((EXAMPLES, 5, 4, 3)))
    graph = graph_of(zoo, tmp_path / "c", variance=0.9)
    first: dict[str, Any] = {}
    mean, basis = run(graph, keys_of(graph, "basis")[0], first).value
    assert all(first[key].read for key in graph if key.startswith("moments-") and key in first)
    # Again, as after a worker that died with all it held, or a run that was stopped: from the store, and the same.
    again: dict[str, Any] = {}
    mean_again, basis_again = run(graph, keys_of(graph, "basis")[0], again).value
    assert not any(again[key].read for key in again)
    np.testing.assert_array_equal(mean_again, mean)
    for name in ("spectrum", "loadings", "block"):
        np.testing.assert_array_equal(getattr(basis_again, name), getattr(basis, name))
    assert basis_again.total == pytest.approx(basis.total, rel=1e-12)


@pytest.mark.usefixtures("in_parts")
def test_parts__a_chunk_that_changed_under_an_earlier_basis_is_told(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers((EXAMPLES, 24), 1))
    graph = graph_of(zoo, tmp_path / "c")
    run(graph, keys_of(graph, "basis")[0])
    chunks = tmp_path / "zoo.zarr" / "net" / "step0" / "layer" / "activations" / "c"
    shutil.copy(chunks / "2" / "0", chunks / "3" / "0")
    (report,) = run(graph, keys_of(graph, "subspaces")[0])
    assert report.label == "net/step0/layer"
    assert report.problem.startswith("cannot be read: ")
    assert "a chunk is missing or damaged" in report.problem
    assert labels_with_subspaces(tmp_path / "c") == []


@pytest.mark.usefixtures("in_parts")
def test_parts__scores_that_are_there_survive_the_loss_of_a_worker(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers((EXAMPLES, 24), 1))
    whole = graph_of(zoo, tmp_path / "whole")
    run(whole, keys_of(whole, "subspaces")[0])
    graph = graph_of(zoo, tmp_path / "c")
    done: dict[str, Any] = {}
    scores = [key for key in graph if key.startswith("scores-")]
    # The first have no chunk of their own: there are more parts than chunks of scores.
    for key in scores[:5]:
        run(graph, key, done)
    for key in [key for key in done if key.startswith(("basis", "merge", "moments"))]:
        del done[key]
    (report,) = run(graph, keys_of(graph, "subspaces")[0], done)
    assert report.problem == ""
    np.testing.assert_array_equal(scores_at(tmp_path / "c"), scores_at(tmp_path / "whole"))


@pytest.mark.usefixtures("in_parts")
def test_parts__scores_that_were_put_right_survive_the_loss_of_what_put_them_right(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", [nearly_deficient()])
    options: dict[str, Any] = {"variance": None, "precision": "float64"}
    whole = graph_of(zoo, tmp_path / "whole", **options)
    run(whole, keys_of(whole, "subspaces")[0])
    graph = graph_of(zoo, tmp_path / "c", **options)
    done: dict[str, Any] = {}
    for key in keys_of(graph, "correct")[4:]:
        run(graph, key, done)
    # A worker died that held all but what the others found of their parts.
    for key in [key for key in done if not key.startswith("correct-")]:
        del done[key]
    (report,) = run(graph, keys_of(graph, "subspaces")[0], done)
    assert report.problem == ""
    np.testing.assert_array_equal(scores_at(tmp_path / "c"), scores_at(tmp_path / "whole"))


@pytest.mark.usefixtures("in_parts")
def test_parts__stay_within_their_predicted_memory(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers((4000, 150), 1), rows=256)
    plan = plan_run(zoo, tmp_path / "c", Parameters(variance=None), Budget(2, 2**31))
    graph = graph_of(zoo, tmp_path / "c", variance=None)
    peaks = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            value = function(*arguments)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            return value

        return call

    tracemalloc.start()
    try:
        run({key: (watched(task[0]), *task[1:]) for key, task in graph.items()}, keys_of(graph, "subspaces")[0])
    finally:
        tracemalloc.stop()
    # Moments and scores of eight parts, scores put right; two merges and one of these, basis, corrections, index.
    assert len(peaks) == 3 * 8 + 3 + 3
    waiting = 4 * 150**2 * 8
    assert max(peaks) + waiting < plan.subspace_bytes


@pytest.mark.slow
def test_parts__on_worker_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(plan_module, "SPLIT_BYTES", 2**20)
    zoo = make_zoo(tmp_path / "zoo.zarr", layers((20_000, 64), 1), rows=1024)
    with connect(workers=2) as client:
        outcome = run_comparison(zoo, tmp_path / "c", Parameters(), client=client)
    (pack,) = outcome.plan.packs
    assert pack.parts == 4
    assert outcome.problems == {}
    assert outcome.bytes_read >= 2 * 20_000 * 64 * 4
    assert float(dask_svcca.open_comparison(tmp_path / "c").svcca[0, 0]) == pytest.approx(1, abs=1e-7)


def test_share__covers_everything_once() -> None:
    for count in range(20):
        for parts in range(1, 8):
            shares = [range(*parts_module._share(count, parts, part)) for part in range(parts)]
            assert [number for share in shares for number in share] == list(range(count))
