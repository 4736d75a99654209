"""Layers to compare, and their comparison by any measures, for the tests of measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from zarr.storage import MemoryStore

import dask_svcca

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

AXES = {2: None, 3: ("example", "width", "channel"), 4: ("example", "height", "width", "channel")}
BUILT_IN = (
    "svcca",
    "cca",
    "pwcca",
    "r2_cca",
    "r2_cca_adjusted",
    "whitened_procrustes",
    "cka",
    "cka_debiased",
    "procrustes",
    "linear_regression",
    "pls",
    "gulp",
    "partial_procrustes",
)
REFERENCES = (
    "null_svcca",
    "null_svcca_sd",
    "p_svcca",
    "null_cca",
    "null_whitened_procrustes",
    "significant",
    "leverage_overlap",
    "null_leverage_overlap",
    "spurious",
    "spurious_cca",
    "null_cka",
    "null_cka_sd",
    "null_r2_cca",
    "null_r2_cca_sd",
)
DERIVED = ("p_cka", "p_r2_cca", "calibrated_svcca", "calibrated_cka", "calibrated_r2_cca")


def make_zoo(layers: Sequence[np.ndarray], store: Any = None) -> dask_svcca.Zoo:
    zoo = dask_svcca.create_zoo(MemoryStore() if store is None else store, examples=range(len(layers[0])))
    with zoo:
        for index, layer in enumerate(layers):
            zoo.write("net", "1", f"{index:02}", layer, dims=AXES[layer.ndim])
    return zoo


def compared(*layers: np.ndarray, measures: Any = "all", **options: Any) -> xr.Dataset:
    """All pairs of some layers, in their order."""
    with dask.config.set(scheduler="synchronous"):
        return dask_svcca.compare(make_zoo(layers), MemoryStore(), measures=measures, **options).load()


def related(samples: int, *widths: int, seed: int = 0, noise: float = 0.5) -> list[np.ndarray]:
    """Layers of some neurons each that have signals in common, and a mean."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(samples, max(widths)))
    return [
        common[:, :p] @ rng.normal(size=(p, p)) / np.sqrt(p) + noise * rng.normal(size=(samples, p)) + 2 for p in widths
    ]


def images(*sizes: tuple[int, ...], examples: int = 20, seed: int = 0) -> list[np.ndarray]:
    """Convolutional layers over the same images, (height, width, channels) each; smaller ones are strided."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(examples, *sizes[0][:-1], 3))
    found = []
    for *grid, channels in sizes:
        seen = common[(slice(None), *(slice(None, None, fine // n) for fine, n in zip(sizes[0], grid, strict=False)))]
        seen = seen[(slice(None), *map(slice, grid))] @ rng.normal(size=(3, channels))
        found.append(seen + 0.5 * rng.normal(size=seen.shape) + 1)
    return found
