"""What the processes of `test_killed.py` do: a module that they can import wherever the package is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np

import dask_svcca
from dask_svcca.errors import StoreInUseError
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

N = 60
LAYERS = 9
"""Two groups, so that there are tiles of both."""

ZOOS = 20
"""So many are made at once, since not every time do processes get in each other's way."""

FIRST, MORE = ("svcca",), ("svcca", "cka")


def layer(step: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([step, seed])
    return np.random.default_rng(99).normal(size=(N, 3)) @ rng.normal(size=(3, 4)) + rng.normal(size=(N, 4))


def write(zoo: dask_svcca.Zoo, step: int, seed: int = 0) -> None:
    zoo.write("net", f"step{step:03}", "fc", layer(step, seed), step=step, overwrite=True)


def make(folder: str) -> None:
    with dask_svcca.create_zoo(Path(folder, "zoo.zarr"), examples=range(N), exist_ok=True) as zoo:
        for step in range(LAYERS):
            if ("net", f"step{step:03}", "fc") not in zoo:
                write(zoo, step)


def compare(folder: str, measures: tuple[str, ...] = FIRST, wait: bool = False) -> None:
    with dask.config.set(scheduler="synchronous"):
        parameters = Parameters(measures, precision="float64")
        zoo = dask_svcca.open_zoo(Path(folder, "zoo.zarr"))
        run_comparison(zoo, Path(folder, "comparison.zarr"), parameters, wait=wait)


def everything(folder: str) -> None:
    """A zoo is made and compared, changes and grows, and is compared by more measures."""
    make(folder)
    compare(folder)
    with dask_svcca.open_zoo(Path(folder, "zoo.zarr"), mode="r+") as zoo:
        write(zoo, 3, seed=1)
        write(zoo, LAYERS)
    compare(folder, MORE)


def compare_and_wait(folder: str) -> None:
    compare(folder, wait=True)


def compare_or_hear(folder: str) -> None:
    try:
        compare(folder)
    except StoreInUseError:
        sys.exit(7)


def make_whole(folder: str, together: Barrier) -> None:
    together.wait(60)
    for number in range(ZOOS):
        place = Path(folder, f"zoo{number}.zarr")
        zoo = dask_svcca.create_zoo(place, examples=range(N), coords={"label": np.arange(N)}, exist_ok=True)
        assert len(zoo.coords["label"]) == len(dask_svcca.open_zoo(place).examples) == N
