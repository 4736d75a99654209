"""Tiles whose pairs are evaluated patch by patch: where memory has room for their values, and not for more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from measured import images, make_zoo, related
from zoos import assert_same_to_rounding

import dask_svcca
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.plan import values as values_module
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.plan.values import value_bytes
from dask_svcca.run.compare import plan_run, run_comparison
from dask_svcca.run.executors import Here
from dask_svcca.tasks import patch as patch_module
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
def test_patches__give_what_whole_tiles_give(case: str, tmp_path: Path, in_patches: Any) -> None:
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
