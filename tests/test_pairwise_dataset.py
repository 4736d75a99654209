"""Results as xarray: directions that stay lazy, and results that memory does not hold."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from pairwise_oracles import IMAGE, N, layers

from dask_svcca import cca, pca, projection
from dask_svcca.errors import MemoryLimitError


def nothing_computes(*_: Any, **__: Any) -> None:
    raise AssertionError("something was computed")


def test_dask__directions_are_lazy() -> None:
    x, y = layers(4, 3)
    read: list[Any] = []

    def block(values: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info:
            read.append(block_info[0]["chunk-location"])
        return values

    lazy = da.from_array(x, chunks=(20, 4)).map_blocks(block, dtype=x.dtype, meta=np.empty((0, 0)))
    found = cca(lazy, y)
    # One pass: each chunk once.
    assert sorted(read) == [(index, 0) for index in range(4)]
    assert isinstance(found.direction_y.data, np.ndarray)
    with dask.config.set(scheduler=nothing_computes):
        one = found.direction_x.isel(component=0)[25:35]
        assert one.data.shape == (10,)
        with pytest.raises(AssertionError, match="computed"):
            one.compute()
    read.clear()
    np.testing.assert_allclose(one.compute(), cca(x, y).direction_x[25:35, 0], rtol=0, atol=1e-12)
    assert read == [(1, 0)]


def test_errors__results_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    (x,) = layers(16, sizes=(8, 8), examples=40)
    monkeypatch.setattr("dask_svcca.pairwise.dataset.available_memory", lambda: 5 * 10**6)
    assert pca(x, components=10, dims=IMAGE).sizes["component"] == 10
    with pytest.raises(MemoryLimitError, match=r"of 1024 components take 0\.0\d GB.* 0\.0\d GB .* pass comp"):
        pca(x, dims=IMAGE)
    with pytest.raises(MemoryLimitError, match="a projector of 1024 x 1024 neurons"):
        projection(x, k=3, method="pca", dims=IMAGE)


def test_coordinates__are_of_both_arrays_and_first_of_x() -> None:
    arrays = []
    for array, label, extra in zip(layers(3, 2), ("from x", "from y"), ("only_x", "only_y"), strict=True):
        coords = {name: ("example", np.full(N, label)) for name in ("label", extra)}
        arrays.append(xr.DataArray(array, dims=("example", "neuron"), coords=coords))
    found = cca(*arrays)
    assert set(found.label.to_numpy()) == {"from x"}
    assert set(found.only_x.to_numpy()) == {"from x"}
    assert set(found.only_y.to_numpy()) == {"from y"}
