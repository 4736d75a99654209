"""What workers do: without Dask, and timed by stage."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from cli_runner import run
from zoos import make_zoo, with_budget

import dask_svcca
from dask_svcca.devices import numpy as numpy_device
from dask_svcca.evaluate import Evaluation
from dask_svcca.kernels import projection as projection_module
from dask_svcca.kernels.grams import GramProducts
from dask_svcca.kernels.products import ProductSum
from dask_svcca.kernels.projection import SingleProjection
from dask_svcca.plan import subspaces as plan_module
from dask_svcca.run import compare as compare_module
from dask_svcca.stores._blocks import BlockArray
from dask_svcca.stores._chunked import ChunkReader
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import Pack, PackWriter
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.tasks import dual as dual_module
from dask_svcca.tasks import panel as panel_module
from dask_svcca.tasks import parts as parts_module
from dask_svcca.tasks import perform
from dask_svcca.tasks import scores as scores_module
from dask_svcca.tasks import subspace as subspace_module
from dask_svcca.tasks.worker import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]


def test_tasks__know_no_dask() -> None:
    code = "import sys, dask_svcca.tasks\nprint({name.split('.')[0] for name in sys.modules} & {'dask', 'distributed'})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# Where the time goes.

FALLING = np.logspace(0, -6, 12)
"""Of so falling a spectrum that scores have to be put right."""

UNEQUAL = np.concatenate([np.logspace(0, -6, 8), np.zeros(82)])
"""Of eight neurons alone, so that noise has to be told from directions."""

ALWAYS = {"read", "transform", "covariance", "eigen", "write", "coupling", "values"}
CASES: dict[str, tuple[tuple[int, ...], Any, dict[str, Any], set[str]]] = {
    "by neurons": ((300, 12), 1, {}, ALWAYS | {"project"}),
    "put right": ((300, 12), FALLING, {}, ALWAYS | {"project"}),
    "by samples": ((30, 90), 1, {"measures": "cka"}, ALWAYS),
    "by samples, with loadings": ((30, 90), 1, {"measures": ("svcca", "pwcca")}, ALWAYS | {"project"}),
    "as rows": ((300, 12), np.logspace(0, -10, 12), {}, ALWAYS | {"project"}),
    "by samples, above noise": ((30, 90), UNEQUAL, {"measures": "cka"}, ALWAYS),
    "by samples, as rows": ((30, 90), UNEQUAL, {"measures": "cka"}, ALWAYS),
    "in parts, as rows": ((700, 12), np.logspace(0, -10, 12), {}, ALWAYS | {"project"}),
    "in parts": ((700, 12), 1, {}, ALWAYS | {"project"}),
    "in parts, put right": ((700, 12), FALLING, {}, ALWAYS | {"project"}),
    "convolutional": ((60, 4, 4, 3), 1, {"keep": ("correlations",)}, ALWAYS | {"project"}),
    "row norms": ((300, 12), 1, {"measures": ("cka_debiased",)}, ALWAYS | {"project"}),
}

WORK: list[tuple[Any, str]] = [
    (ChunkReader, "read"),
    (numpy_device, "moments"),
    (numpy_device, "add_chunk"),
    (parts_module, "merge"),
    (subspace_module, "eigenbasis"),
    (subspace_module, "eigenbasis_of_rows"),
    (subspace_module, "factor"),
    (dual_module, "dual_basis"),
    (dual_module, "dual_basis_of_rows"),
    (dual_module, "dual_basis_within"),
    (dual_module, "samples_above_noise"),
    (projection_module, "project"),
    (SingleProjection, "__call__"),
    (scores_module, "gram_correction"),
    (PackWriter, "write_scores"),
    (PackWriter, "read_scores"),
    (PackWriter, "finish"),
    (Pack, "spectrum"),
    (Pack, "loadings"),
    (panel_module, "read_scores"),
    (ProductSum, "add"),
    (GramProducts, "add"),
    (Evaluation, "add"),
    (Evaluation, "finish"),
    (Evaluation, "values"),
    (BlockArray, "merged"),
]
"""What takes time, and where tasks find it."""


class Watch:
    """Whatever a task does outside of all stages, or in two of them, fails; for tasks one at a time.

    Attributes
    ----------
    done : set of str
        Names of the work that was done.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: set[str] = set()
        self._stages: list[str] = []
        self._tasks = 0
        self._timed = Context.timed

        def timed(context: Context, stage: str) -> AbstractContextManager[None]:
            return self.stage(context, stage)

        monkeypatch.setattr(Context, "timed", timed)
        monkeypatch.setattr(compare_module, "perform", self.task)
        for place, name in WORK:
            monkeypatch.setattr(place, name, self.work(name, getattr(place, name)))

    @contextmanager
    def stage(self, context: Context, stage: str) -> Iterator[None]:
        assert not self._stages, f"{stage} within {self._stages}"
        self._stages.append(stage)
        try:
            with self._timed(context, stage):
                yield
        finally:
            self._stages.pop()

    def task(self, *arguments: Any) -> Any:
        self._tasks += 1
        try:
            return perform(*arguments)
        finally:
            self._tasks -= 1

    def work(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._tasks:
                assert self._stages, f"{name} is done outside of all stages"
                self.done.add(name)
            return function(*arguments, **options)

        return call


@pytest.mark.parametrize("case", CASES)
def test_tasks__time_all_their_work_by_stage(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, scale, options, stages = CASES[case]
    with_budget(monkeypatch, 2, 2**31)
    monkeypatch.setattr(plan_module, "SPLIT_BYTES", 1 if case.startswith("in parts") else 2**40)
    monkeypatch.setattr(zoo_module, "CHUNK_BYTES", 100 * 12 * 8)
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.normal(size=(shape[-1], shape[-1])))[0]
    arrays = [rng.normal(size=shape) * scale @ turned for _ in range(2)]
    if case.endswith("above noise"):
        # Neurons of very unequal scales, of which none is a mixture.
        arrays = [(array @ turned.T).astype("float32") for array in arrays]
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    watch = Watch(monkeypatch)
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.compare(zoo, tmp_path / "comparison.zarr", variance=None, precision="float64", **options)
    (record,) = ComparisonStore.open(tmp_path / "comparison.zarr").root.attrs["runs"]
    assert set(record["stages"]) == stages
    assert {"read", "write_scores", "finish", "spectrum", "read_scores", "add", "values", "merged"} <= watch.done
    assert ("merge" in watch.done) == case.startswith("in parts")
    assert ("dual_basis" in watch.done) == case.startswith("by samples")
    assert ("gram_correction" in watch.done) == case.endswith("put right") or case.endswith("as rows")
    assert ("eigenbasis_of_rows" in watch.done) == (case.endswith("as rows") and not case.startswith("by samples"))
    assert ("dual_basis_of_rows" in watch.done) == (case == "by samples, as rows")
    assert ("dual_basis_within" in watch.done) == (case == "by samples, above noise")
    assert ("loadings" in watch.done) == case.endswith("loadings")
    head, *_ = run(f"info {tmp_path / 'comparison.zarr'} --timing").output.splitlines()
    assert [word for word in head.split() if word in stages] == ["read", *sorted(stages)]
