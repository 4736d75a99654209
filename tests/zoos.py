"""Zoos of dense layers, each the checkpoint of one network, and what the tests of comparisons do with them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import machine
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run.executors import DaskExecutor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pytest
    import xarray as xr

    from dask_svcca import Zoo

N = 60


def layers(count: int, examples: int = N, seed: int = 0, dtype: str = "float32") -> list[np.ndarray]:
    """Dense layers of 3 to 9 neurons that have something in common, and a mean."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(examples, 6))
    widths = rng.integers(3, 10, count)
    return [
        (common @ rng.normal(size=(6, p)) + rng.normal(size=(examples, p)) + 3 * rng.normal(size=p)).astype(dtype)
        for p in widths
    ]


def write(zoo: Zoo, arrays: Iterable[Any], start: int = 0, **options: Any) -> None:
    """Each array as the layer of a checkpoint of its own, so that the comparison has them in this order."""
    with zoo:
        for step, array in enumerate(arrays, start):
            dims = ("example", "height", "width", "channel") if np.ndim(array) == 4 else None
            zoo.write("net", f"step{step:03}", "fc", array, **{"step": step, "dims": dims, **options})


def make_zoo(store: Any, arrays: Iterable[Any], examples: int | None = None, **options: Any) -> Zoo:
    arrays = arrays if examples else list(arrays)
    zoo = dask_svcca.create_zoo(store, examples=range(examples or len(arrays[0])))
    write(zoo, arrays, **options)
    return zoo


def matrix(arrays: Sequence[Any], **options: Any) -> np.ndarray:
    """SVCCA of every pair, by way of stores in memory."""
    with dask.config.set(scheduler="synchronous"):
        return dask_svcca.compare(make_zoo(MemoryStore(), arrays), MemoryStore(), **options).svcca.to_numpy()


def label(step: int) -> str:
    return f"net/step{step:03}/fc"


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Equal bit by bit, whatever the order in which xarray lists variables."""
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))


def assert_same_to_rounding(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Equal but for the order of sums, which may change with where directions lie in a pack."""
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-12, err_msg=str(name))
        else:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))


def spoil(kind: str, x: np.ndarray) -> np.ndarray:
    """A layer that cannot be compared."""
    x = x.copy()
    match kind:
        case "nan":
            x[7, 2] = x[9, 0] = np.nan
        case "inf":
            x[7, 2] = np.inf
        case "both infinities":
            x[7, 2], x[8, 2] = np.inf, -np.inf
        case "constant":
            x[:] = np.linspace(0.1, 1.1, x.shape[1])
        case "zero":
            x[:] = 0
        case "overflow":
            x = x.astype("float64") * 1e200
    return x


def with_memory(monkeypatch: pytest.MonkeyPatch, task_bytes: int) -> None:
    """Let a task have so much memory beyond its process, and run one at a time."""
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.setattr(machine, "available_memory", lambda: task_bytes / 0.6 + 1)


def with_budget(monkeypatch: pytest.MonkeyPatch, workers: int, memory: int) -> None:
    """Have Dask's local scheduler run so many tasks at a time, in a process of so much memory."""
    monkeypatch.setattr(DaskExecutor, "budget", Budget(workers, memory))


def lose_all_chunks(activations: Path) -> None:
    """Delete all values of an array."""
    shutil.rmtree(activations / "c")


def activations_of(zoo_place: Path, step: int) -> Path:
    """The array of one representation."""
    return zoo_place / "net" / f"step{step:03}" / "fc" / "activations"
