"""Tiles whose pairs are evaluated patch by patch: where memory has room for their values, and not for more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from measured import images, make_zoo, related
from zoos import assert_same_to_rounding

import dask_svcca
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.plan import grams
from dask_svcca.plan import values as values_module
from dask_svcca.plan import work as work_module
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.tiles import FEW_SAMPLES
from dask_svcca.plan.values import value_bytes
from dask_svcca.plan.work import Work, known_kept
from dask_svcca.run.compare import plan_run, run_comparison
from dask_svcca.run.executors import Here
from dask_svcca.run.probe import readings_of
from dask_svcca.tasks import patch as patch_module
from dask_svcca.tasks.panel import Panel
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]

ROOM = Budget(1, 2**30)
SIDE = 3
"""Representations along each axis of a patch; those of a tile are eight, or more."""


@pytest.fixture
def in_patches(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have memory leave room for so much more than the values of a tile."""

    def little(measures: Any) -> None:
        evaluated = value_bytes(with_companions(find_measures(measures)))
        monkeypatch.setattr(values_module, "PATCH_SHARE", (SIDE + 0.5) ** 2 * evaluated / ROOM.available)

    return little


def compared(zoo: dask_svcca.Zoo, place: Path, parameters: dict[str, Any]) -> xr.Dataset:
    run_comparison(zoo, place, make_parameters(precision="float64", **parameters), executor=Here(ROOM))
    return dask_svcca.open_comparison(place).load()


LAYERS = {
    "all measures": (related(40, *range(2, 13)), {"measures": "all"}),
    "of the samples": (related(40, *range(2, 13)), {"measures": ("svcca", "jaccard(k=3)", "rsa")}),
    "inner products alone": (related(12, *[30] * 10), {"measures": "cka"}),
    "correlations": (related(40, *range(2, 13)), {"measures": "pwcca", "keep": "correlations", "variance": None}),
    "frequencies": (images(*[(4, 4, 3), (2, 2, 5)] * 5), {"measures": "svcca", "keep": "frequencies"}),
    "folded": (images(*[(4, 4, 3), (2, 2, 5)] * 5), {"measures": ("svcca", "cka"), "match": "fold"}),
}


@pytest.mark.parametrize("case", LAYERS)
def test_patches__give_what_whole_tiles_give(
    case: str, tmp_path: Path, in_patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grams, "GRAMS_CHEAPER", 100.0 if case == "inner products alone" else 0.0)
    layers, parameters = LAYERS[case]
    layers = [*layers, np.full_like(layers[3], np.nan)]
    zoo = make_zoo(layers, tmp_path / "zoo.zarr")
    whole = compared(zoo, tmp_path / "whole", parameters)
    in_patches(parameters["measures"])
    plan = plan_run(zoo, tmp_path / "patches", make_parameters(precision="float64", **parameters), ROOM)
    assert max(task.memory.patch for task in plan.tiles) == SIDE
    assert {bool(task.memory.by_samples) for task in plan.tiles} == {case == "inner products alone"}
    found = compared(zoo, tmp_path / "patches", parameters)
    assert (found.pair_status == PairStatus.DONE).any()
    assert (found.pair_status == PairStatus.FAILED).sum() == 2 * len(layers) - 1
    assert_same_to_rounding(found, whole)


def test_patches__of_pairs_that_are_there_are_not_evaluated(
    tmp_path: Path, in_patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_patches("svcca")
    layers = related(40, *range(2, 10))
    zoo = make_zoo(layers[:7], tmp_path / "zoo.zarr")
    compared(zoo, tmp_path / "c.zarr", {"measures": "svcca"})
    zoo.write("net", "1", "99", layers[7].astype(np.float32))
    shapes, evaluate = [], patch_module.Patch.evaluate

    def noted(patch: Any, todo: Any, *rest: Any) -> None:
        shapes.append((todo.shape, int(todo.sum())))
        evaluate(patch, todo, *rest)

    monkeypatch.setattr(patch_module.Patch, "evaluate", noted)
    found = compared(zoo, tmp_path / "c.zarr", {"measures": "svcca"})
    assert shapes == [((3, 2), 3), ((3, 2), 3), ((2, 2), 2)]
    assert (found.pair_status == PairStatus.DONE).all()


def test_patches__are_forecast_to_read_each_side_for_each_of_the_other(
    tmp_path: Path, in_patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "FILE_BYTES", 0)
    # Of fewer samples, couplings are made a part at a time.
    count, width, examples = 16, 4, FEW_SAMPLES + 1
    zoo = make_zoo(related(examples, *[width] * count), tmp_path / "zoo.zarr")
    parameters = make_parameters(measures="procrustes", precision="float64", variance=None)
    first = np.arange(count) < count // 2
    of_two_groups = np.not_equal.outer(first, first)
    read, panel_read = [], Panel.read

    def noted(panel: Any, *rest: Any) -> Any:
        scores = panel_read(panel, *rest)
        read.append(scores.nbytes)
        return scores

    monkeypatch.setattr(Panel, "read", noted)
    for times in (1, 3):
        place = tmp_path / f"{times}"
        plan = plan_run(zoo, place, parameters, ROOM, pairs=of_two_groups)
        kept = [known_kept(reading, (examples, width), np.ones(1)) for reading in readings_of(plan, parameters)]
        work = Work(plan, parameters, readings_of(plan, parameters), kept)
        run_comparison(zoo, place, parameters, pairs=of_two_groups, executor=Here(ROOM))
        assert [work.of_tile(tile)["read"] for tile in plan.tiles] == [sum(read)]
        assert sum(read) == times * count * width * examples * 8
        read.clear()
        in_patches("procrustes")
