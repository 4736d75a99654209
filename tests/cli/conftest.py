"""Zoos, comparisons and networks that commands work on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runner import N, activations, without_cluster

import dask_svcca
from dask_svcca.demo import find_networks


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """That commands start and stop a cluster is tested with the demo."""
    without_cluster(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a zoo, of two models of two checkpoints of two layers, and its comparison."""
    folder = tmp_path_factory.mktemp("made")
    common = activations(0, 5)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(N), coords={"label": np.arange(N) % 3}) as zoo:
        for number in range(8):
            model, step, layer = f"net-s{number // 4}", number // 2 % 2, ("conv", "fc")[number % 2]
            x = common @ activations(1, 4)[:5] + activations(number + 2, 4)
            zoo.write(model, f"step{step}", layer, x, step=step, depth=number % 2)
    dask_svcca.compare(zoo, folder / "comparison.zarr")
    return folder


@pytest.fixture
def zoo(folder: Path, made: Path) -> Path:
    return Path(shutil.copytree(made / "zoo.zarr", folder / "zoo.zarr"))


@pytest.fixture
def comparison(zoo: Path, made: Path) -> Path:
    return Path(shutil.copytree(made / "comparison.zarr", zoo.with_name("comparison.zarr")))


@pytest.fixture
def networks(folder: Path) -> Path:
    """The demo's networks, at a path that is easy to type."""
    pytest.importorskip("onnxruntime")
    (folder / "networks").symlink_to(find_networks())
    return folder / "networks"
