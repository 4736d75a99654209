"""Components: the leading ones, and the frequency of each."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from pairwise_oracles import IMAGE, axes, layers

from dask_svcca import cca, pca


@pytest.mark.parametrize("sizes", [(), (4, 3)])
@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_components__are_the_leading_ones(count: int, sizes: tuple[int, ...]) -> None:
    x, y = layers(3, 4, sizes=sizes)
    for found, every in (
        (cca(x, y, components=count, dims=axes(sizes)), cca(x, y, dims=axes(sizes))),
        (pca(x, components=count, dims=axes(sizes)), pca(x, dims=axes(sizes))),
    ):
        xr.testing.assert_allclose(found, every.isel(component=slice(count)), rtol=0, atol=1e-14)


def test_dft__names_the_frequency_of_each_component() -> None:
    (x,) = layers(1, sizes=(4, 3), examples=40)
    # A wave down the height, of random amplitude and phase, is one pair of components.
    rng = np.random.default_rng(6)
    phase = 2 * np.pi * (np.arange(4) / 4 + rng.uniform(size=(40, 1)))
    x = 0.01 * x + (rng.normal(size=(40, 1)) * np.cos(phase))[:, :, np.newaxis, np.newaxis]
    found = pca(x, dims=IMAGE)
    assert np.abs(found.frequency[:2]).to_numpy().tolist() == [[1, 0], [1, 0]]
    assert found.axis.to_numpy().tolist() == ["height", "width"]
    assert (found.explained_variance[:2] > 0.4).all()
