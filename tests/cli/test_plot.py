"""Figures from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import run

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot__in_the_format_of_the_ending(comparison: Path, ending: str, start: bytes) -> None:
    said = run(f"plot matrix comparison.zarr --final --model-a net-s0 --model-b net-s1 -o figure.{ending}").stdout
    assert said == f"figure.{ending}: matrix of comparison.zarr\n"
    assert Path(f"figure.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    "kind", ["checkpoints", "cluster", "dynamics", "embedding", "identification", "rank", "seeds", "settling"]
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
    assert "--match says nothing about rank" in run("plot rank comparison.zarr --match -o f.png", status=2).stderr


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
        ("matrix comparison.zarr -o nowhere/f.png", "FileNotFoundError"),
    ],
)
def test_plot__wrong_requests(comparison: Path, arguments: str, message: str) -> None:
    assert message in run(f"plot {arguments}", status=2).stderr
