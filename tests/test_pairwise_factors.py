"""The one pass over the examples: by Dask or here, in parts, each read once."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from pairwise_oracles import axes, layers

from dask_svcca import cca, pca, pls
from dask_svcca.connections import connect
from dask_svcca.errors import InvalidActivationsError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("sizes", [(), (3, 2)])
@pytest.mark.parametrize("call", [cca, pls, lambda x, _, dims: pca(x, dims=dims)])
def test_dask__gives_what_numpy_gives(call: Callable[..., xr.Dataset], sizes: tuple[int, ...]) -> None:
    x, y = layers(4, 3, sizes=sizes)
    given = da.from_array(x, chunks=(13, *[2] * (x.ndim - 1))), da.from_array(y, chunks=(30, *[2] * (y.ndim - 1)))
    found, expected = call(*given, dims=axes(sizes)), call(x, y, dims=axes(sizes))
    assert set(found.variables) == set(expected.variables)
    for name, variable in expected.variables.items():
        if str(name).startswith(("direction", "significant")):
            assert isinstance(found[name].data, da.Array)
        else:
            assert isinstance(found[name].data, np.ndarray)
        # Components of one pair may turn into each other: of equal values, any basis will do.
        if sizes and "component" in variable.dims and str(name).startswith(("direction", "coefficients")):
            continue
        if name == "axis":
            np.testing.assert_array_equal(found[name], variable)
        else:
            np.testing.assert_allclose(found[name], variable, rtol=0, atol=1e-10)


def test_dask__reads_what_both_arrays_are_made_of_once() -> None:
    read: list[int] = []

    def load(values: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info:
            read.append(block_info[0]["chunk-location"][0])
        return values

    source = da.from_array(np.hstack(layers(4, 3)), chunks=(20, 7)).map_blocks(load, meta=np.empty((0, 0)))
    cca(source[:, :4], source[:, 4:])
    assert sorted(read) == [0, 1, 2, 3]


def test_dask__never_holds_the_whole_array() -> None:
    x = da.random.default_rng(8).normal(size=(40_000, 50), chunks=(2_000, 50))
    with dask.config.set(scheduler="synchronous"):
        cca(x[:4_000], x[:4_000, :5])  # what is loaded on first use is no memory of the arrays
        tracemalloc.start()
        cca(x, x[:, :20] + 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < x.nbytes / 2


@pytest.mark.slow
def test_dask__runs_on_a_cluster() -> None:
    x, y = layers(4, 3)
    with connect(workers=2, memory=2**30):
        found = cca(da.from_array(x, chunks=(13, 2)), da.from_array(y, chunks=(20, 3)))
        xr.testing.assert_allclose(found.compute(), cca(x, y), rtol=0, atol=1e-12)


def test_dask__numpy_arrays_of_any_length_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = layers(4, 3, examples=500)
    expected = cca(x, y)
    monkeypatch.setattr("dask_svcca.pairwise.arrays.CHUNK_BYTES", 0)
    xr.testing.assert_allclose(cca(x, y), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunks", [None, 30])
def test_errors__values_that_are_not_finite(chunks: int | None) -> None:
    x, y = layers(3, 2)
    x[41, 2], x[70, 0], x[70, 1] = np.nan, np.inf, -np.inf
    given = x if chunks is None else da.from_array(x, chunks=chunks)
    with pytest.raises(InvalidActivationsError, match=r"3 of 240 values of x are NaN .* first at index \(41, 2\)"):
        cca(given, y)
    with pytest.raises(InvalidActivationsError, match=r"3 of 240 values of y"):
        pls(y, given)
