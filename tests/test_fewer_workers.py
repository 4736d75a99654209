"""A run that goes on with fewer workers, or more, makes what the first would have made, bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
import xarray as xr
from zoos import layers, with_budget, write

import dask_svcca
from dask_svcca.coarse.compare import plan_comparison
from dask_svcca.plan import subspaces as subspaces_module
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.zoo import write as zoo_module

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.usefixtures("several_tiles"),
]

MEMORY = 2**31
PARAMETERS = Parameters(precision="float64")
COUNT = 70
"""Tiles of eight for eight workers, and of sixteen for one."""


class Stopped(Exception):
    """The run was killed."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dask_svcca.Zoo:
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo_module, "CHUNK_BYTES", 2**13)
        zoo = dask_svcca.create_zoo(tmp_path_factory.mktemp("zoo") / "zoo.zarr", examples=range(300))
        # The first is read in parts, where there are workers for them.
        write(zoo, [rng.normal(size=(300, 100)), *layers(COUNT - 1, 300)])
    return zoo


def run(zoo: dask_svcca.Zoo, place: Path, workers: int, stop: tuple[str, int] | None = None) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if (stage, done) == stop:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(subspaces_module, "SPLIT_BYTES", 2**12)
        with_budget(patch, workers, MEMORY)
        run_comparison(zoo, place, PARAMETERS, progress=progress)


@pytest.fixture(scope="module")
def undisturbed(zoo: dask_svcca.Zoo, tmp_path_factory: pytest.TempPathFactory) -> dict[int, xr.Dataset]:
    """What so many workers make of it."""
    folder, found = tmp_path_factory.mktemp("undisturbed"), {}
    for workers in (1, 8):
        run(zoo, folder / str(workers), workers)
        found[workers] = dask_svcca.open_comparison(folder / str(workers)).load()
    # Otherwise nothing is shown.
    assert not np.array_equal(found[1].svcca, found[8].svcca)
    return found


@pytest.mark.parametrize("stop", [("subspaces", 1), ("tiles", 20)])
@pytest.mark.parametrize(("first", "then"), [(8, 1), (1, 8)])
def test_compare__goes_on_with_other_workers(
    zoo: dask_svcca.Zoo,
    undisturbed: dict[int, xr.Dataset],
    tmp_path: Path,
    stop: tuple[str, int],
    first: int,
    then: int,
) -> None:
    if stop == ("tiles", 20) and first == 1:
        stop = ("tiles", 10)
    with pytest.raises(Stopped):
        run(zoo, tmp_path / "c", first, stop)
    with pytest.MonkeyPatch.context() as patch:
        with_budget(patch, then, MEMORY)
        plan = plan_comparison(zoo, tmp_path / "c", precision="float64")
    assert plan.tiles
    run(zoo, tmp_path / "c", then)
    with dask_svcca.open_comparison(tmp_path / "c") as found:
        xr.testing.assert_identical(found.load().drop_attrs(), undisturbed[first].drop_attrs())
