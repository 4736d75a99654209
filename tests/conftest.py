"""Settings that hold for every test, and the comparison that many of them look at."""

from __future__ import annotations

import gc
import shutil
from typing import TYPE_CHECKING

import pytest
import threadpoolctl
from hypothesis import settings
from zoos import layers, make_zoo

import dask_svcca
from dask_svcca.measures import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import xarray as xr

    from dask_svcca import Zoo

# A time limit for each example says more about a busy machine than about the code; all else stays as hypothesis has it,
# its own settings under continuous integration included.
settings.register_profile("dask-svcca", parent=settings.default, deadline=None)
settings.load_profile("dask-svcca")

# There are as many test processes as cores.
threadpoolctl.threadpool_limits(1)


def pytest_collection_finish() -> None:
    """Let no search for garbage look at modules and tests again and again: half a million objects that stay."""
    gc.collect()
    gc.freeze()
    # Of what the tests themselves leave, little is garbage, and there is more of it with every test.
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def no_measures_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test, or a documented example, registers is not there for another."""
    monkeypatch.setattr(registry, "_OWN", {})


@pytest.fixture(scope="session")
def twenty_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the zoo lies that `zoo` is a copy of."""
    place = tmp_path_factory.mktemp("twenty-layers") / "zoo.zarr"
    make_zoo(place, layers(20))
    return place


@pytest.fixture
def zoo(tmp_path: Path, twenty_layers: Path) -> Zoo:
    """Twenty layers: three groups of up to eight, six tiles."""
    return dask_svcca.open_zoo(shutil.copytree(twenty_layers, tmp_path / "zoo.zarr"), mode="r+")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "comparison.zarr"


@pytest.fixture(scope="module")
def several_tiles() -> Iterator[None]:
    """Small comparisons have several tiles, as where workers are many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dask_svcca.plan.sides.FEW_WORKERS", 0)
        yield


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, twenty_layers: Path) -> xr.Dataset:
    """The comparison of the same twenty layers where nothing went wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return dask_svcca.compare(twenty_layers, folder / "comparison.zarr").load()
