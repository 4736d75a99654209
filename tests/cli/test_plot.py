"""Figures from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runner import run

import dask_svcca

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot__in_the_format_of_the_ending(comparison: Path, ending: str, start: bytes) -> None:
    said = run(f"plot matrix comparison.zarr --final --model-a net-s0 --model-b net-s1 -o figure.{ending}").stdout
    assert said == f"figure.{ending}: matrix of comparison.zarr\n"
    assert Path(f"figure.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    "kind",
    ["checkpoints", "cluster", "dynamics", "embedding", "identification", "lineage", "rank", "seeds", "settling"],
)
def test_plot__every_kind_of_the_whole_comparison(comparison: Path, kind: str) -> None:
    run(f"plot {kind} comparison.zarr -o figure.png --size 4x3 --dpi 50")
    width, height = (int.from_bytes(Path("figure.png").read_bytes()[start : start + 4], "big") for start in (16, 20))
    assert (width, height) == (200, 150)


def test_plot__groups_and_matches(comparison: Path) -> None:
    run("plot groups comparison.zarr --final --group a=net-s0 --group b=net-s1 -o groups.png")
    run("plot matrix comparison.zarr --final --model-a net-s0 --model-b net-s1 --match -o matrix.png")
    assert "groups takes --group NAME=PATTERN" in run("plot groups comparison.zarr -o f.png", status=2).stderr
    assert "'a' is not a name and a pattern" in run("plot groups comparison.zarr --group a -o f.png", status=2).stderr
    refused = run("plot rank comparison.zarr -o none/f.png", status=2).stderr
    assert "there is no folder 'none' to write 'f.png' into" in refused
    assert "--match says nothing about rank" in run("plot rank comparison.zarr --match -o f.png", status=2).stderr


def test_plot__of_examples(comparison: Path, zoo: Path) -> None:
    del comparison, zoo
    run("plot class_sensitivity comparison.zarr --zoo zoo.zarr --model net-s0 -o f.png --dpi 50")
    run("plot directions comparison.zarr --zoo zoo.zarr --final --layer fc --model-a net-s0 --model-b net-s1 -o f.svg")


def test_plot__characters_that_the_font_lacks_are_said_once(folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    dask_svcca.compare({("网络", "1", "层"): x, ("网络", "1", "输出"): x}, folder / "comparison.zarr")
    said = run("plot matrix comparison.zarr -o f.png --dpi 50").stderr
    assert said.startswith("5 characters of the names are boxes in the figure")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("matrix comparison.zarr -o figure.jpg", "ends in none of .png, .svg, .pdf"),
        ("nothing comparison.zarr -o figure.png", "'nothing' is not one of"),
        ("matrix comparison.zarr", "Missing option '-o'"),
        ("dynamics comparison.zarr --model-a net-s0 -o f.png", "dynamics has one choice for both sides"),
        ("rank comparison.zarr --measure svcca -o f.png", "--measure says nothing about rank"),
        ("matrix comparison.zarr --size 7 -o f.png", "'7' is not a valid size"),
        ("matrix comparison.zarr --model vit -o f.png", "no model matches 'vit' on side a"),
        ("matrix comparison.zarr --measure cka -o f.png", "no measure 'cka' in this comparison; it has svcca"),
        ("correlations comparison.zarr -o f.png", "keep='correlations'"),
        ("matrix nowhere.zarr -o f.png", "nowhere.zarr"),
        ("matrix comparison.zarr -o nowhere/f.png", "there is no folder 'nowhere'"),
        ("directions comparison.zarr -o f.png", "directions takes --zoo"),
        ("directions comparison.zarr --zoo zoo.zarr -o f.png", "8 were chosen on side a"),
        ("rank comparison.zarr --zoo zoo.zarr -o f.png", "--zoo says nothing about rank"),
        ("class_sensitivity comparison.zarr --zoo zoo.zarr --labels kind -o f.png", "no coordinate 'kind'"),
    ],
)
def test_plot__wrong_requests(comparison: Path, zoo: Path, arguments: str, message: str) -> None:
    assert message in run(f"plot {arguments}", status=2).stderr
