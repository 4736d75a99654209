"""A Dataset knows the comparison that it was opened from, so that more can be asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore
from zoos import label, layers, make_zoo

import dask_svcca
from dask_svcca.errors import StoreFormatError
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.dataset import store_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAIRS = [(label(0), label(1))]

USES: dict[str, Callable[[Any], xr.Dataset]] = {
    "permutation_null": lambda comparison: dask_svcca.permutation_null(comparison, PAIRS, permutations=5),
    "jackknife": lambda comparison: dask_svcca.jackknife(comparison, PAIRS, blocks=5),
}


def sources(tmp_path: Path, store: Any) -> dict[str, xr.Dataset]:
    made = dask_svcca.compare(make_zoo(tmp_path / "zoo.zarr", layers(2)), store)
    opened = dask_svcca.open_comparison(store)
    return {"compare": made, "open_comparison": opened, "load": opened.load(), "compare and load": made.load()}


@pytest.mark.parametrize("where", ["directory", "memory"])
def test_store_of__takes_what_was_opened(tmp_path: Path, where: str) -> None:
    store: Any = tmp_path / "c" if where == "directory" else MemoryStore()
    for name, dataset in sources(tmp_path, store).items():
        found = ComparisonStore.open(store_of(dataset)).read_state()
        assert found.labels == (label(0), label(1)), name
    assert store_of(store) is store


@pytest.mark.parametrize("where", ["directory", "memory"])
@pytest.mark.parametrize("use", USES)
def test_significance__takes_a_dataset_as_it_takes_a_place(tmp_path: Path, use: str, where: str) -> None:
    store: Any = tmp_path / "c" if where == "directory" else MemoryStore()
    found = sources(tmp_path, store)
    expected = USES[use](store)
    for dataset in found.values():
        xr.testing.assert_equal(USES[use](dataset), expected)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("lose", [lambda found: xr.Dataset(found.data_vars), lambda found: found.drop_encoding()])
def test_significance__of_a_dataset_without_source_says_what_to_pass(
    tmp_path: Path, use: str, lose: Callable[[xr.Dataset], xr.Dataset]
) -> None:
    dataset = sources(tmp_path, tmp_path / "c")["load"]
    lost = lose(dataset[["svcca"]])
    with pytest.raises(StoreFormatError, match=r"does not say which comparison it was .* Pass what open_comp"):
        USES[use](lost)
    with pytest.raises(StoreFormatError, match="does not say which comparison"):
        store_of(xr.Dataset({"svcca": ("x", np.zeros(2))}))


@pytest.mark.parametrize("use", USES)
def test_significance__of_a_comparison_whose_subspaces_are_elsewhere(tmp_path: Path, use: str) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    inside = dask_svcca.compare(zoo, tmp_path / "inside")
    outside = dask_svcca.compare(zoo, tmp_path / "outside", subspaces=tmp_path / "subspaces")
    xr.testing.assert_equal(USES[use](outside), USES[use](inside))
    unknown = dask_svcca.compare(zoo, tmp_path / "unknown", subspaces=MemoryStore())
    with pytest.raises(StoreFormatError, match=r"does not say where its subspaces are.*subspaces="):
        USES[use](unknown)
