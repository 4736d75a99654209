"""Settings that hold for every test, and the comparison that many of them look at."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import threadpoolctl
from hypothesis import settings
from zoos import layers, make_zoo

import dask_svcca
from dask_svcca.measures import registry

if TYPE_CHECKING:
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


@pytest.fixture(autouse=True)
def no_measures_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test, or a documented example, registers is not there for another."""
    monkeypatch.setattr(registry, "_OWN", {})


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """Twenty layers: three groups of up to eight, six tiles."""
    return make_zoo(tmp_path / "zoo.zarr", layers(20))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "comparison.zarr"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """The comparison of the same twenty layers where nothing went wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return dask_svcca.compare(make_zoo(folder / "zoo.zarr", layers(20)), folder / "comparison.zarr").load()
