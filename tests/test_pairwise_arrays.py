"""Arrays as input: named dims, coordinates, and those that are refused."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from pairwise_oracles import IMAGE, N, layers

from dask_svcca import cca, compare, pca, pls, projection
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


def test_dims__name_the_axes_of_arrays_without_names() -> None:
    x, y = layers(3, 2, sizes=(4, 5))
    first = ("example", "channel", "height", "width")
    found = cca(np.moveaxis(x, -1, 1), np.moveaxis(y, -1, 1), dims=first)
    xr.testing.assert_allclose(found, cca(x, y, dims=IMAGE))
    # Names of a labelled array hold, and arrays of fewer axes are as ever.
    xr.testing.assert_allclose(cca(xr.DataArray(x, dims=IMAGE), np.moveaxis(y, -1, 1), dims=first), found)
    dense = y[:, 0, 0]
    xr.testing.assert_allclose(cca(np.moveaxis(x, -1, 1), dense, dims=first), cca(x, dense, dims=IMAGE))
    np.testing.assert_allclose(pca(dense.T, dims=("neuron", "example")).variance, pca(dense).variance, rtol=1e-12)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (None, "x has 4 axes"),
        (("example", "head", "token", "channel"), "have an axis 'head'; names are .* reshape: heads of attention"),
        (("example", "neuron"), r"dims=\('example', 'neuron'\) has 2 names, and x has 4 axes; name each axis"),
        (("image", "height", "width", "channel"), "do not describe the 4 axes of 'x'"),
        ("NHWC", "dims is a sequence of names, one an axis; got the text 'NHWC'"),
    ],
)
def test_errors__axes_that_nobody_knows(dims: Any, message: str) -> None:
    x, y = layers(3, 2, sizes=(4, 4))
    calls: list[Any] = [cca, pls, lambda x, y, dims: projection(x, y, k=1, dims=dims)]
    for call in calls:
        with pytest.raises(InvalidActivationsError, match=message):
            call(x, y, dims=dims)
    with pytest.raises(InvalidActivationsError, match=message):
        pca(x, dims=dims)
    if isinstance(dims, tuple) and len(dims) == 4:
        with pytest.raises(InvalidActivationsError, match=r"an axis .head.|x has 4 axes"):
            pca(xr.DataArray(x, dims=dims))


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


def test_cca__means_under_a_mask_are_judged_as_those_of_a_zoo() -> None:
    """Means of half-precision tokens are finer than each of them: directions that they show are no rounding noise."""
    rng = np.random.default_rng(0)
    examples, tokens, neurons = 300, 64, 8
    mask = np.arange(tokens) < rng.integers(16, tokens + 1, size=(examples, 1))
    signal = rng.normal(size=(examples, 1, neurons)) * np.logspace(0, -3.2, neurons)
    x, y = (
        xr.DataArray(
            (
                signal @ np.linalg.qr(rng.normal(size=(neurons, neurons)))[0]
                + 1e-5 * rng.normal(size=(examples, tokens, neurons))
            ).astype("float16"),
            dims=("example", "token", "neuron"),
            coords={"mask": (("example", "token"), mask)},
        )
        for _ in range(2)
    )
    pair = cca(x, y, variance=None, sequence="mean")
    zoo = compare({"x": x, "y": y}, measures="cca", variance=None, sequence="mean")
    assert (pair["rank_x"].item(), pair["rank_y"].item()) == tuple(zoo["rank_a"].values) == (8, 8)
    np.testing.assert_allclose(pair["mean_correlation"], zoo["cca"].values[0, 1], atol=1e-6)
