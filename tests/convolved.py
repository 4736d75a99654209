"""Convolutional layers and sequences of one checkpoint, and their comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import dask_svcca

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

AXES = {2: ("neuron",), 3: ("width", "channel"), 4: ("height", "width", "channel")}
AXES[5] = ("depth", *AXES[4])


def related(*grids: tuple[int, ...], examples: int = 15, channels: Sequence[int] = (3, 2), seed: int = 0) -> Any:
    """Layers that see the same random images, on grids that divide the first: strided 1 x 1 convolutions and noise."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(examples, *grids[0], 3))
    layers = []
    for grid, width in zip(grids, channels, strict=False):
        strides = [slice(None, None, fine // coarse) for fine, coarse in zip(grids[0], grid, strict=True)]
        seen = images[(slice(None), *strides)]
        layers.append(seen @ rng.normal(size=(3, width)) + 0.5 * rng.normal(size=(*seen.shape[:-1], width)) + 1)
    return layers


def compare_stored(
    zoo_store: Any, store: Any, layers: Mapping[str, np.ndarray], coords: Any = None, **options: Any
) -> xr.Dataset:
    """Compare layers, as those of one checkpoint."""
    examples = range(len(next(iter(layers.values()))))
    with dask_svcca.create_zoo(zoo_store, examples=examples, coords=coords) as zoo:
        for name, layer in layers.items():
            dims = ("example", *AXES[layer.ndim])
            zoo.write("m", "1", name, layer, dims=None if name.startswith("tokens") else dims)
    return dask_svcca.compare(zoo, store, **options).load()


def value(result: xr.Dataset, a: str, b: str, name: str = "svcca") -> float:
    return float(result[name].sel(representation_a=f"m/1/{a}", representation_b=f"m/1/{b}"))


def rank(result: xr.Dataset, layer: str) -> int:
    return int(result.rank_a.sel(representation_a=f"m/1/{layer}"))
