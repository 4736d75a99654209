"""Tasks stay within what was planned for them, whatever the number of examples and of representations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from comparisons import graph_of, peak_memory, tasks_of
from zoos import layers, make_zoo, with_memory

import dask_svcca
from dask_svcca.kernels.lanes import solves_many
from dask_svcca.plan import tiles as tiles_module
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.tasks import panel as panel_module

if TYPE_CHECKING:
    from pathlib import Path


def test_compare__little_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(20))
    whole = dask_svcca.compare(zoo, tmp_path / "whole", precision="float64").svcca
    monkeypatch.setattr(tiles_module, "STACK_BYTES", 2**10)
    with_memory(monkeypatch, 2**20 + 7 * 2**13)
    members, make = [], panel_module.Panel

    def watched(context: Any, panel: Any) -> Any:
        members.append(len(panel))
        return make(context, panel)

    monkeypatch.setattr(panel_module, "Panel", watched)
    split = dask_svcca.compare(zoo, tmp_path / "split", precision="float64").svcca
    assert max(members) < 8  # representations of a group
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3000, 200), {"variance": None}),
        ((3000, 200), {}),
        ((400, 700), {"variance": None}),
        ((400, 3000), {"measures": "cka"}),
        ((500, 8, 8, 12), {"variance": None}),
    ],
)
def test_make_pack__stays_within_its_predicted_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", [np.random.default_rng(6).normal(size=shape).astype("float32")])
    with_memory(monkeypatch, 2**31)
    (task,) = tasks_of(graph_of(zoo, tmp_path / "c", **options), "subspaces")
    (report,), peak = peak_memory(task)
    assert report.problem == ""
    assert peak < task[1].memory


def test_compute_tile__stays_within_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    zoo = make_zoo(tmp_path / "zoo.zarr", [rng.normal(size=(400, 60)).astype("float32") for _ in range(16)])
    monkeypatch.setattr(tiles_module, "STACK_BYTES", 2**18)
    memory = 4 * 2**20
    with_memory(monkeypatch, memory)
    graph = graph_of(zoo, tmp_path / "c", variance=None)
    for function, task in tasks_of(graph, "subspaces"):
        function(task)
    for task in tasks_of(graph, "tile"):
        assert task[1].memory.peak <= memory
        report, peak = peak_memory(task)
        assert report.computed in {36, 64}
        assert peak < task[1].memory.peak


@pytest.mark.parametrize(
    ("small", "large"), [((2000, 8), (20_000, 8)), pytest.param((4000, 8), (4000, 80), marks=pytest.mark.slow)]
)
def test_compare__ten_times_as_much_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: tuple[int, int], large: tuple[int, int]
) -> None:
    monkeypatch.setattr(tiles_module, "STACK_BYTES", 2**17)
    monkeypatch.setattr(tiles_module, "SCORE_CHUNK_BYTES", 2**17)
    monkeypatch.setattr(zoo_module, "CHUNK_BYTES", 2**17)
    memory = 4 * 2**20
    with_memory(monkeypatch, memory)
    # What is imported, opened and compiled once does not count: it is there before.
    # What is imported, opened and compiled once does not count: it is there before.
    dask_svcca.compare(make_zoo(tmp_path / "zoo-first.zarr", layers(3)), tmp_path / "first", variance=None)
    solves_many()
    peaks = []
    for name, (n, layers_of) in {"small": small, "large": large}.items():
        rng = np.random.default_rng(8)
        zoo = make_zoo(
            tmp_path / f"zoo-{name}.zarr", (rng.normal(size=(n, 60)).astype("float32") for _ in range(layers_of)), n
        )
        graph = graph_of(zoo, tmp_path / name, variance=None)
        found = {}
        for kind in ("subspaces", "tile"):
            tasks = tasks_of(graph, kind)
            found[kind] = max(peak_memory(task)[1] for task in tasks[: None if kind == "subspaces" else 1])
        peaks.append(found)
    of_small, of_large = peaks
    for kind in of_small:
        assert of_large[kind] <= memory
        assert of_large[kind] <= 1.25 * of_small[kind]
