"""Query: the pairs on the screen and in CSV are those of the matrix."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from cli_runner import activations, run

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
    ("bounds", "given"),
    [("--min 0.9 --max 0.1", "--min 0.9 --max 0.1"), ("--min nan", "--min nan"), ("--max nan --csv", "--max nan")],
)
def test_query__an_interval_that_is_empty(comparison: Path, bounds: str, given: str) -> None:
    message = f"{given} is an empty interval: no value lies in it."
    assert message in run(f"query comparison.zarr {bounds}", status=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model-a vit", "no model matches 'vit' on side a; there are 'net-s0', 'net-s1'"),
        ("--layer-b 'conv*' --layer-b x --model-b 'n*' --checkpoint-b 9", "no checkpoint matches '9'"),
        ("--measure cka", "no measure 'cka' in this comparison; it has svcca"),
        ("--measure pwcca", ". compare adds it to what is there: measures='pwcca', or --measure 'pwcca'"),
        ("--measure svca", ". Did you mean 'svcca'?"),
        ("--measure SVCCA", ". Did you mean 'svcca'?"),
    ],
)
def test_query__names_what_exists(comparison: Path, arguments: str, message: str) -> None:
    assert message in run(f"query comparison.zarr {arguments}", status=2).stderr


def test_query__across(comparison: Path) -> None:
    """Pairs of one checkpoint, and of one model, are listed unless they are left out; and the output says how."""
    counts = {}
    for across in ("", "--across checkpoints", "--across models"):
        frame = pd.read_csv(io.StringIO(run(f"query comparison.zarr --csv {across}").stdout))
        counts[across] = len(frame)
    # Two models of two checkpoints of two layers.
    assert list(counts.values()) == [28, 28 - 4, 16]
    assert "of these are layers of one checkpoint; --across checkpoints" in run("query comparison.zarr").stderr
    assert "one checkpoint" not in run("query comparison.zarr --across checkpoints").stderr
    assert len(dask_svcca.query("comparison.zarr", across="models")) == 16
    assert "'nothing' is not one of 'checkpoints', 'models'" in run("query comparison.zarr --across nothing", 2).stderr


def test_query__json_is_one_object(comparison: Path) -> None:
    said = json.loads(run("query comparison.zarr --json --top 3 --measure svcca,null_svcca").stdout)
    assert (said["comparison"], said["measures"], said["matching"]) == ("comparison.zarr", ["svcca", "null_svcca"], 28)
    frame = dask_svcca.query("comparison.zarr", ["svcca", "null_svcca"], top=3)
    assert said["pairs"] == frame.to_dict("records")
    assert len(json.loads(run("query comparison.zarr --json").stdout)["pairs"]) == 28
    assert json.loads(run("query comparison.zarr --json --min 2").stdout)["pairs"] == []
    assert "use one" in run("query comparison.zarr --json --csv", status=2).stderr


def test_query__json_has_null_for_what_is_missing(folder: Path) -> None:
    with dask_svcca.create_zoo("zoo.zarr", examples=range(40)) as zoo:
        for seed, layer in enumerate(("a", "b")):
            zoo.write("net", "end", layer, activations(seed, 3))
    dask_svcca.compare(zoo, "comparison.zarr")
    (record,) = json.loads(run("query comparison.zarr --json").stdout)["pairs"]
    assert (record["step_a"], record["depth_b"]) == (None, None)
