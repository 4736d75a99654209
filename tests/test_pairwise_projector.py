"""The projector onto few directions."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from oracles import translations
from pairwise_oracles import IMAGE, axes, centred, flat, layers

from dask_svcca import cca, projection
from dask_svcca.errors import IncompatibleError


@pytest.mark.parametrize("method", ["cca", "pls", "pca"])
@pytest.mark.parametrize("sizes", [(), (3, 2)])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_projection__is_idempotent_and_of_rank_k(method: Any, sizes: tuple[int, ...], k: int) -> None:
    x, y = layers(6, 5, sizes=sizes)
    found = projection(x, None if method == "pca" else y, k=k, method=method, dims=axes(sizes))
    size = 6 * int(np.prod(sizes))
    p = found.projector.to_numpy().reshape(size, size)
    np.testing.assert_allclose(p @ p, p, rtol=0, atol=1e-12)
    assert np.linalg.matrix_rank(p) == k
    np.testing.assert_allclose(p, flat(found, "coefficients") @ found.reconstruction.to_numpy().reshape(k, -1))
    samples = translations(x) if sizes else x
    kept = centred(samples) @ p
    np.testing.assert_allclose(found.explained_variance, (kept**2).sum() / (centred(samples) ** 2).sum(), rtol=1e-10)
    np.testing.assert_allclose(found["mean"].to_numpy().ravel(), samples.mean(axis=0), rtol=1e-10)


def test_projection__reconstructs_by_least_squares() -> None:
    x, y = layers(6, 5)
    directions = cca(x, y).direction_x[:, :3].to_numpy()
    fitted = directions @ np.linalg.lstsq(directions, centred(x))[0]
    found = projection(x, y, k=3)
    np.testing.assert_allclose(centred(x) @ found.projector.to_numpy(), fitted, rtol=0, atol=1e-11)
    np.testing.assert_allclose(
        (x - found["mean"].to_numpy()) @ found.coefficients.to_numpy(), directions, rtol=0, atol=1e-12
    )


def test_projection__onto_all_directions_changes_nothing() -> None:
    x, y = layers(4, 6)
    for method in ("cca", "pls"):
        np.testing.assert_allclose(projection(x, y, k=4, method=method).projector, np.eye(4), rtol=0, atol=1e-12)


def test_projection__of_a_dask_array() -> None:
    x, y = layers(4, 6)
    found = projection(da.from_array(x, chunks=30), da.from_array(y, chunks=17), k=2)
    xr.testing.assert_allclose(found, projection(x, y, k=2), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"k": 0, "method": "pca"}, "from 1 to the number of components, 3; got 0"),
        ({"k": 4, "method": "pca"}, "got 4"),
        ({"k": 1}, "method='cca' takes two arrays; pass y"),
        ({"k": 1, "method": "pca", "y": layers(2)[0]}, "method='pca' takes one array; leave y out"),
        ({"k": 1, "method": "ica"}, "method is one of 'cca', 'pls', 'pca'"),
    ],
)
def test_errors__projection(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        projection(layers(3)[0], **arguments)


def test_errors__projection_at_the_edge_of_a_cropped_grid() -> None:
    x, y = layers(3, 2, sizes=(4, 4))
    with pytest.raises(IncompatibleError, match=r"grids \(4, 4\) of x and \(2, 2\) of y"):
        projection(x, y[:, :2, :2], k=1, dims=IMAGE)
