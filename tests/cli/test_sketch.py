"""``dask-svcca sketch`` and ``dask-svcca search``."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

import numpy as np
from click.testing import CliRunner

import dask_svcca
from dask_svcca.cli._program import program

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(program, [str(word) for word in words])
    return done.exit_code, done.output


def test_search__by_name_with_and_without_the_zoo(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((60, 6))
    with dask_svcca.create_zoo(str(tmp_path / "zoo.zarr"), examples=range(60)) as zoo:
        for place in range(4):
            zoo.write("net", "1", f"fc{place}", base + place * rng.standard_normal((60, 6)) / 3)
    dask_svcca.sketch(zoo, tmp_path / "s.zarr", size=256)
    code, output = run("search", tmp_path / "s.zarr", "net/1/fc0", "--zoo", tmp_path / "zoo.zarr")
    assert code == 0, output
    assert [line.split()[0] for line in output.splitlines()[-3:]] == ["net/1/fc1", "net/1/fc2", "net/1/fc3"]
    code, output = run("search", tmp_path / "s.zarr", "net/1/fc0", "--top", "1", "--json")
    (nearest,) = json.loads(output)["nearest"]
    assert nearest["representation"] == "net/1/fc1"
    assert "cka" not in nearest
    assert 0 < nearest["null_cka"] < 0.5
    code, output = run("search", tmp_path / "s.zarr", "net/1/fc0")
    assert output.splitlines()[0].split() == ["representation", "estimate", "error", "by", "chance"]
    code, output = run("search", tmp_path / "s.zarr", "net/1/fc9")
    assert code == 2
    assert "there is no sketch of 'net/1/fc9'" in output
    assert "Did you mean 'net/1/fc" in output
    text = run("info", tmp_path / "s.zarr")[1]
    assert [line.split() for line in text.splitlines()[1:4]] == [
        ["examples", "60"],
        ["representations", "4"],
        ["numbers", "256", "each,", "seed", "0,", "of", "cka"],
    ]
    assert f"dask-svcca search {tmp_path / 's.zarr'} net/1/fc0" in text
    code, output = run("info", tmp_path / "s.zarr", "--json")
    assert json.loads(output)["size"] == 256
    assert run("sketch", tmp_path / "s.zarr", "--export", tmp_path / "s.npz")[0] == 0
    code, output = run("sketch", tmp_path / "theirs.zarr", "--import", tmp_path / "s.npz")
    assert (code, output) == (0, f"4 sketches of {tmp_path / 's.npz'} are there now.\n")


def test_sketch__merges_two(tmp_path: Path) -> None:
    places = [tmp_path / f"{name}.zarr" for name in "ab"]
    for place, values in zip(places, np.random.default_rng(0).standard_normal((2, 60, 6)), strict=True):
        dask_svcca.sketch({place.stem: values}, place, size=64)
    code, output = run("sketch", tmp_path / "both.zarr", "--merge", *places)
    assert (code, output) == (0, f"2 sketches of {places[0]} and {places[1]} are there now.\n")
    assert dask_svcca.open_sketches(tmp_path / "both.zarr").representation.values.tolist() == ["a", "b"]
    code, output = run("sketch", tmp_path / "both.zarr", "--merge", *places)
    assert code == 2
    assert "there are sketches already at" in output
    code, output = run("sketch", tmp_path / "more.zarr", "--merge", *places, "--import", __file__)
    assert (code, "--import and --merge both make the sketches" in output) == (2, True)


def test_sketch__starts_no_workers_where_nothing_is_to_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dask_svcca.create_zoo(str(tmp_path / "zoo.zarr"), examples=range(60)) as zoo:
        zoo.write("net", "1", "fc", np.random.default_rng(0).standard_normal((60, 6)))
    dask_svcca.sketch(zoo, tmp_path / "s.zarr", size=256)
    started: list[object] = []
    command = importlib.import_module("dask_svcca.cli.sketch")
    monkeypatch.setattr(command, "connected", lambda *given, **_: started.append(given))
    code, output = run("sketch", tmp_path / "zoo.zarr", tmp_path / "s.zarr", "--size", "256", "--workers", "2")
    assert (code, started) == (0, []), output
    assert "Nothing to do: the sketches of 1 representation are there." in output


def test_sketch__refuses_wrong_use(tmp_path: Path) -> None:
    dask_svcca.create_zoo(str(tmp_path / "zoo.zarr"), examples=range(60))
    code, output = run("sketch", tmp_path / "zoo.zarr")
    assert code == 2
    assert "Name a zoo and its sketches" in output
    code, output = run("sketch", tmp_path / "zoo.zarr", tmp_path / "s.zarr", "--size", "-5")
    assert code == 2
    assert "size is how many numbers a sketch has, an even number from 64 on; got -5" in output
