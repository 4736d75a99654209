"""Layers to compare, and what the results on them are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

N = 80
IMAGE = ("example", "height", "width", "channel")


def axes(sizes: tuple[int, ...]) -> tuple[str, ...] | None:
    """Names of the axes of layers of these sizes, as ``dims=`` needs them."""
    return IMAGE if len(sizes) == 2 else None


def layers(*widths: int, sizes: tuple[int, ...] = (), examples: int = N, seed: int = 0) -> list[np.ndarray]:
    """Layers that have something in common, and a mean."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(examples, *sizes, 4))
    return [
        common @ rng.normal(size=(4, width)) + rng.normal(size=(examples, *sizes, width)) + 3 * rng.normal(size=width)
        for width in widths
    ]


def centred(array: np.ndarray) -> np.ndarray:
    return array - array.mean(axis=0)


def by_qr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Björck and Golub's own algorithm, for full column rank."""
    bases = (np.linalg.qr(centred(array))[0] for array in (x, y))
    return np.linalg.svd(next(bases).T @ next(bases), compute_uv=False)


def flat(result: xr.Dataset, name: str) -> np.ndarray:
    """Coefficients as (neuron, component), whatever the axes of neurons; means as (neuron,)."""
    values = result[name].to_numpy()
    return values.reshape(-1, values.shape[-1]) if "component" in result[name].dims else values.ravel()


def applied(result: xr.Dataset, array: np.ndarray, suffix: str = "_x") -> np.ndarray:
    """Directions of these samples, by the stated formula."""
    return (array.reshape(len(array), -1) - flat(result, f"mean{suffix}")) @ flat(result, f"coefficients{suffix}")
