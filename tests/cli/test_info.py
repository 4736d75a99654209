"""Info: what it shows of zoos and comparisons."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import zarr
from cli_runner import N, activations, run

import dask_svcca
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison

if TYPE_CHECKING:
    from pathlib import Path


def test_info__of_a_zoo(zoo: Path) -> None:
    with contextlib.suppress(ValueError), dask_svcca.open_zoo(zoo, mode="r+") as store:
        store.append("net-s0", "step9", "half", activations(0, 3)[:7])
        raise ValueError
    text = run("info zoo.zarr").output
    assert re.search(r"examples +40, with label \(int64\)", text)
    assert re.search(r"representations +8, 5\.1 kB", text)
    assert re.search(r"net-s0 +2 +0 to 1 +2 +4 +2\.6 kB +4", text)
    assert "1 representation begun and never finished" in text
    assert "net-s0/step9/half" in text


def test_info__of_an_empty_zoo(folder: Path) -> None:
    dask_svcca.create_zoo("zoo.zarr", examples=range(3))
    assert re.search(r"representations +0, 0 B", run("info zoo.zarr").output)


def test_info__of_a_comparison(zoo: Path) -> None:
    run("compare zoo.zarr comparison.zarr --pairs same-checkpoint --variance 0.9")
    text = run("info comparison.zarr").output
    for name, value in [
        ("variance", "0.9"),
        ("measures", "svcca"),
        ("examples", "40"),
        ("mask", "none"),
        ("keep", "none"),
    ]:
        assert re.search(rf"^{name} +{value}$", text, flags=re.MULTILINE)
    assert re.search(r"pairs +12 of 36 done", text)
    assert re.search(r"missing +24: not asked for yet, or interrupted", text)


def test_info__of_a_comparison_whose_measures_ask_for_no_directions(zoo: Path) -> None:
    run("compare zoo.zarr cka.zarr --measure cka")
    assert re.search(r"directions kept +none: no measure asks for them\n", run("info cka.zarr").output)
    run("compare zoo.zarr cka.zarr --measure svcca")
    assert re.search(r"directions kept +\d", run("info cka.zarr").output)


def test_info__of_a_comparison_without_a_value(folder: Path) -> None:
    with dask_svcca.create_zoo("zoo.zarr", examples=range(N)) as zoo:
        for layer in ("conv", "fc"):
            zoo.write("net", "end", layer, np.ones((N, 2)))
    run("compare zoo.zarr failed.zarr", status=1)
    text = run("info failed.zarr").output
    assert re.search(r"pairs +0 of 3 done; 3 failed", text)
    assert "dask-svcca query" not in text

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        run_comparison(zoo, "missing.zarr", Parameters(), progress=interrupted)
    text = run("info missing.zarr").output
    assert re.search(r"pairs +0 of 3 done", text)
    assert "No pair has a value yet; the command that made the comparison goes on with it." in text


def test_info__of_subspaces(zoo: Path) -> None:
    run("compare zoo.zarr comparison.zarr --subspaces shared.zarr")
    text = run("info shared.zarr").output
    assert re.search(r"made +8 subspaces in \d+ packs?, [\d,.]+ k?B of scores", text)
    assert re.search(r"^conv +dft$", text, flags=re.MULTILINE)
    assert re.search(r"subspaces +/.*shared.zarr", run("info comparison.zarr").output)
    assert "'shared.zarr' is of kind 'subspaces'" in run("info shared.zarr --timing", status=2).stderr


def test_info__of_something_else(folder: Path) -> None:
    said = run("info nowhere.zarr", status=2).stderr
    assert "there is no zarr v3 group at" in said
    assert f"seen from the folder {str(folder)!r}" in said
    zarr.create_group("other.zarr")
    assert (
        "neither a zoo nor a comparison nor subspaces nor sketches: its format is None"
        in run("info other.zarr", status=2).stderr
    )
    assert "there is no zarr v3 group. Did you mean 'other.zarr'?" in run("query othr.zarr", status=2).stderr


def test_info__json(zoo: Path) -> None:
    run("compare zoo.zarr comparison.zarr --pairs same-checkpoint --subspaces shared.zarr --measure cka,svcca")
    said = json.loads(run("info zoo.zarr --json --layers").stdout)
    assert {key: said[key] for key in ("kind", "store", "examples", "representations", "nbytes")} == {
        "kind": "zoo",
        "store": "zoo.zarr",
        "examples": 40,
        "representations": 8,
        "nbytes": 8 * 40 * 4 * 4,
    }
    assert said["models"][0] | {"nbytes": 0} == {
        "model": "net-s0",
        "checkpoints": ["step0", "step1"],
        "steps": [0, 1],
        "parents": {},
        "layers": 2,
        "representations": 4,
        "nbytes": 0,
    }
    assert said["layers"][1] == {
        "model": "net-s0",
        "layer": "fc",
        "shape": [4],
        "dims": ["neuron"],
        "dtype": "float32",
        "checkpoints": 2,
    }
    said = json.loads(run("info comparison.zarr --json --timing").stdout)
    assert said["pairs"] == {"missing": 24, "done": 12} | {
        name: 0 for name in said["pairs"] if name not in {"missing", "done"}
    }
    assert said["parameters"]["measures"] == ["cka", "svcca"]
    assert len(said["runs"]) == 1
    assert json.loads(run("info shared.zarr --json").stdout)["made"] == 8
    assert "--layers lists the layers of a zoo" in run("info comparison.zarr --layers", status=2).stderr
