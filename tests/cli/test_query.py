"""Query: the pairs on the screen and in CSV are those of the matrix."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from cli_runner import run

import dask_svcca

if TYPE_CHECKING:
    from pathlib import Path


def test_query__csv_is_the_matrix(comparison: Path) -> None:
    frame = pd.read_csv(io.StringIO(run("query comparison.zarr --csv").stdout))
    result = dask_svcca.open_comparison("comparison.zarr")
    assert len(frame) == 8 * 7 / 2
    for row in frame.to_dict("records"):
        labels = {
            f"representation_{s}": f"{row[f'model_{s}']}/{row[f'checkpoint_{s}']}/{row[f'layer_{s}']}" for s in "ab"
        }
        assert float(result["svcca"].sel(labels)) == pytest.approx(row["svcca"], rel=1e-15)
    run("query --csv=pairs.csv comparison.zarr")
    pd.testing.assert_frame_equal(pd.read_csv("pairs.csv"), frame)


def test_query__highest_first(comparison: Path) -> None:
    csv = pd.read_csv(io.StringIO(run("query comparison.zarr --top 3 --csv").stdout))
    assert csv["svcca"].is_monotonic_decreasing
    shown = run("query comparison.zarr --top 3 --model-a net-s0 --model-b net-s0")
    header, *rows = shown.stdout.splitlines()
    assert header.split() == ["model", "checkpoint", "layer", "model", "checkpoint", "layer", "svcca"]
    assert len(rows) == 3
    assert all(row.count("net-s0") == 2 for row in rows)
    assert "3 of 6 pairs; more with --top N" in shown.stderr


def test_query__bounds(comparison: Path) -> None:
    values = pd.read_csv(io.StringIO(run("query comparison.zarr --csv").stdout))["svcca"]
    middle = values.median()
    bounded = pd.read_csv(io.StringIO(run(f"query comparison.zarr --csv --min {middle}").stdout))["svcca"]
    assert len(bounded) == (values >= middle).sum()
    assert "No pair with a value matches" in run("query comparison.zarr --min 2").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model-a vit", "no model matches 'vit' on side a; there are 'net-s0', 'net-s1'"),
        ("--layer-b 'conv*' --layer-b x --model-b 'n*' --checkpoint-b 9", "no checkpoint matches '9'"),
        ("--measure cka", "no measure 'cka' in this comparison; it has svcca"),
    ],
)
def test_query__names_what_exists(comparison: Path, arguments: str, message: str) -> None:
    assert message in run(f"query comparison.zarr {arguments}", status=2).stderr
