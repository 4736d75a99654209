"""Arrays as input: named dims, coordinates, and those that are refused."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from pairwise_oracles import IMAGE, N, layers

from dask_svcca import cca, pca
from dask_svcca.errors import IncompatibleError, InvalidActivationsError, MismatchedExamplesError


def test_xarray__takes_named_dims_in_any_order_and_keeps_coordinates() -> None:
    x, y = layers(3, 2, sizes=(4, 5))
    labels = {"example": [f"image{index}" for index in range(N)], "label": ("example", np.arange(N) % 10)}
    given = xr.DataArray(x, dims=("example", "height", "width", "channel"), coords=labels)
    other = xr.DataArray(np.moveaxis(y, -1, 1), dims=("example", "channel", "height", "width"))
    found = cca(given.transpose("width", "example", "channel", "height"), other)
    xr.testing.assert_allclose(found.drop_vars(["example", "label"]), cca(x, y, dims=IMAGE))
    xr.testing.assert_equal(found.direction_y.label, given.label)
    xr.testing.assert_equal(cca(y, given, dims=IMAGE).label, given.label)
    units = xr.DataArray(x[:, 0, 0], dims=("example", "unit"), coords=labels).transpose()
    xr.testing.assert_equal(pca(units).label, given.label)
    np.testing.assert_allclose(pca(units).variance, pca(x[:, 0, 0]).variance, rtol=1e-12)
    one_axis = xr.DataArray(x[:, 0], dims=("example", "width", "channel"))
    np.testing.assert_allclose(pca(one_axis).variance, pca(x[:, :1], dims=IMAGE).variance, rtol=1e-10)


def test_errors__mismatched_examples() -> None:
    x, y = layers(3, 2)
    with pytest.raises(MismatchedExamplesError, match="x has 80 examples and y has 79"):
        cca(x, y[:-1])


def test_errors__unknown_chunks() -> None:
    x = da.from_array(layers(3)[0], chunks=20)
    with pytest.raises(InvalidActivationsError, match="compute_chunk_sizes"):
        pca(x[x[:, 0] > 0])


def test_errors__readings_that_do_not_meet() -> None:
    x, y = layers(3, 2, sizes=(5, 5))
    with pytest.raises(IncompatibleError, match=r"x has the grid \(5, 5\), y \(2, 2\)"):
        cca(x, y[:, :2, :2], match="fold", dims=IMAGE)
    with pytest.raises(IncompatibleError, match="samples of x are all positions of 5x5, those of y examples"):
        cca(x, y[:, 0, 0], conv="positions", dims=IMAGE)
