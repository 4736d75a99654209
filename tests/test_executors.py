"""Who runs a plan is of no consequence: two more executors, and the same bits as Dask's."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

import dask
import distributed
import numpy as np
import pytest
from measured import images
from threadpoolctl import threadpool_limits
from zoos import assert_same, layers, with_budget, write

import dask_svcca
from dask_svcca.plan import subspaces as subspaces_module
from dask_svcca.plan import tiles as tiles_module
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.tasks import TileTask
from dask_svcca.run import compare as compare_module
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.graphs import run_graph
from dask_svcca.run.workers import workers_of
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.tasks import perform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    import xarray as xr

    from dask_svcca.plan.tasks import Node
    from dask_svcca.run.executors import Executor

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
    pytest.mark.usefixtures("several_tiles"),
]

BUDGET = Budget(2, 2**31)


class FuturesExecutor:
    """Runs tasks in threads of this process, by the standard library alone."""

    budget = BUDGET

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        sorter = TopologicalSorter({key: node.needs for key, node in nodes.items()})
        sorter.prepare()
        results: dict[str, Any] = {}
        running: dict[Future[Any], str] = {}
        with threadpool_limits(1), ThreadPoolExecutor(self.budget.workers) as pool:
            while sorter.is_active():
                for key in sorter.get_ready():
                    needed = [results[need] for need in nodes[key].needs]
                    running[pool.submit(perform, nodes[key].task, *needed)] = key
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key = running.pop(future)
                    results[key] = future.result()
                    if nodes[key].reports:
                        on_done(key, results[key])
                    sorter.done(key)


class TwiceExecutor:
    """Runs tasks one by one in any order that their needs allow, each of them twice."""

    budget = BUDGET

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.order: list[str] = []

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        results: dict[str, Any] = {}
        with threadpool_limits(1):
            while len(results) < len(nodes):
                ready = [key for key in nodes if key not in results and {*nodes[key].needs} <= results.keys()]
                key = ready[self._rng.integers(len(ready))]
                self.order.append(key)
                for _ in range(2):
                    results[key] = perform(nodes[key].task, *(results[need] for need in nodes[key].needs))
                if nodes[key].reports:
                    on_done(key, results[key])


@pytest.fixture(scope="module")
def large_and_small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dask_svcca.Zoo]:
    """Layers that come in packs and two that are read in parts, folded ones and one that cannot be compared."""
    with pytest.MonkeyPatch.context() as patch:
        with_budget(patch, BUDGET.workers, BUDGET.memory)
        patch.setattr(subspaces_module, "SPLIT_BYTES", 2**12)
        patch.setattr(subspaces_module, "BATCHES_PER_WORKER", 2)
        patch.setattr(tiles_module, "SCORE_CHUNK_BYTES", 1)
        patch.setattr(zoo_module, "CHUNK_BYTES", 2**13)
        yield make_zoo(tmp_path_factory.mktemp("zoo") / "zoo.zarr")


def make_zoo(place: Path) -> dask_svcca.Zoo:
    rng = np.random.default_rng(0)
    small = layers(21, 600)
    small[5][7, 1] = np.nan
    turned = np.linalg.qr(rng.normal(size=(160, 160)))[0]
    # The second of so falling a spectrum that its scores have to be put right.
    long = [(rng.normal(size=(600, 160)) * scale) @ turned for scale in (1, np.logspace(0, -5, 160))]
    conv = images((4, 4, 2), (2, 2, 2), examples=600)
    zoo = dask_svcca.create_zoo(place, examples=range(600))
    write(zoo, [*small[:9], long[0], conv[0], *small[9:], long[1], conv[1]])
    return zoo


def compared(zoo: dask_svcca.Zoo, place: Path, executor: Executor | None, **options: Any) -> xr.Dataset:
    parameters = Parameters(("svcca", "cka_debiased", "pwcca"), match="fold", keep=("correlations",), **options)
    told: list[tuple[str, int, int]] = []
    with dask.config.set(scheduler="synchronous"):
        outcome = run_comparison(zoo, place, parameters, executor=executor, progress=lambda *step: told.append(step))
    assert list(outcome.problems) == ["net/step005/fc"]
    assert {step[1:] for step in told if step[0] == "tiles"} == {(n, 10) for n in range(1, 11)}
    assert outcome.computed + outcome.settled == 25 * 26 // 2
    plan = outcome.plan
    assert sorted(pack.parts for pack in plan.packs)[-2:] == [8, 8]
    assert max(len(pack.members) for pack in plan.packs) > 2
    return dask_svcca.open_comparison(place).load()


@pytest.fixture(scope="module")
def by_dask(large_and_small: dask_svcca.Zoo, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return compared(large_and_small, tmp_path_factory.mktemp("dask") / "comparison.zarr", None)


def test_executors__in_threads_change_no_bit(
    large_and_small: dask_svcca.Zoo, by_dask: xr.Dataset, tmp_path: Path
) -> None:
    assert_same(compared(large_and_small, tmp_path / "c", FuturesExecutor()), by_dask)


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_executors__tasks_in_any_order_and_done_twice_change_no_bit(
    large_and_small: dask_svcca.Zoo, by_dask: xr.Dataset, tmp_path: Path, seed: int
) -> None:
    executor = TwiceExecutor(seed)
    assert_same(compared(large_and_small, tmp_path / "c", executor), by_dask)
    # Every kind of task was among them.
    steps = {"moments", "merge", "basis", "scores", "corrections", "correct"}
    assert {key.split("-")[0] for key in executor.order} == {"subspaces", "group", "tile", *steps}
    # Some tiles came before subspaces that they do not need.
    kinds = [key.split("-")[0] for key in executor.order]
    assert kinds.index("tile") < len(kinds) - 1 - kinds[::-1].index("subspaces")


@pytest.mark.parametrize("executor", [FuturesExecutor(), TwiceExecutor(0)], ids=["futures", "twice"])
def test_executors__what_a_task_raises_reaches_the_caller(
    large_and_small: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor | None
) -> None:
    def fail(job: Any, task: Any, *needed: Any) -> Any:
        if isinstance(task, TileTask):
            raise ZeroDivisionError("a mistake of ours")
        return perform(job, task, *needed)

    monkeypatch.setattr(compare_module, "perform", fail)
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        compared(large_and_small, tmp_path / "c", executor)


def test_dask_executor__asks_the_scheduler_of_the_user(large_and_small: dask_svcca.Zoo, tmp_path: Path) -> None:
    graphs = []
    with dask.config.set(scheduler=lambda graph, keys, **_: graphs.append((graph, keys))):
        run_comparison(large_and_small, tmp_path / "c", Parameters())
    ((graph, keys),) = graphs
    # By names that no other run has.
    assert {key.rsplit("-", 1)[-1] for key in graph} == {next(iter(graph)).rsplit("-", 1)[-1]}
    assert {*keys} < {*graph}
    assert DaskExecutor(None, "").budget == BUDGET


HELD = threading.Event()


def held() -> None:
    HELD.wait(60)


def test_run_graph__ends_when_it_is_asked_to_and_not_only_when_a_task_ends() -> None:
    class Asked(Exception):
        pass

    looks = []

    def check() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise Asked

    cluster = distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0")
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        try:
            with pytest.raises(Asked):
                run_graph({"held": (held,)}, ["held"], lambda *_: None, client, check=check)
            assert not HELD.is_set()
        finally:
            HELD.set()


BOTH = threading.Barrier(2)


def meet(_: int) -> int:
    return BOTH.wait(timeout=30)


def test_run_graph__no_worker_stands_idle_for_what_another_has() -> None:
    """Both wait for the same: where it is, there is one thread, and they meet."""
    met: list[Any] = []
    graph = {"group": (int,), "share-0": (meet, "group"), "share-1": (meet, "group")}
    with (
        dask.config.set({"distributed.scheduler.work-stealing": False}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        run_graph(graph, ["share-0", "share-1"], lambda _, result: met.append(result), client)
    assert sorted(met) == [0, 1]


class Overwritten:
    """A client whose own look at the scheduler, which leaves workers out, comes between the question and the answer."""

    def __init__(self, workers: dict[str, Any]) -> None:
        self._answers = iter([{"workers": {}}, {"workers": workers}])

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1
        return next(self._answers)


@pytest.mark.parametrize("workers", [{"tcp://one": {}}, {}])
def test_workers_of__are_asked_for_again_where_there_seem_to_be_none(workers: dict[str, Any]) -> None:
    assert workers_of(Overwritten(workers)) == workers
