"""Models: what is printed is what the function finds."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from cli_runner import run

import dask_svcca

if TYPE_CHECKING:
    from pathlib import Path


def test_models__lists_both_orders(comparison: Path) -> None:
    shown = run("models comparison.zarr")
    found = dask_svcca.model_similarity(str(comparison))
    header, *rows = shown.stdout.splitlines()
    assert header.split() == ["model", "model", "svcca", "null_svcca", "p_svcca"]
    values = {(row.split()[0], row.split()[1]): row.split()[2] for row in rows}
    assert values == {
        (one, other): f"{found.svcca.sel(model_a=one, model_b=other).item():.4f}"
        for one, other in (("net-s0", "net-s1"), ("net-s1", "net-s0"))
    }
    assert not shown.stderr


def test_models__p_values_that_are_too_small_for_a_number_say_so(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2000, 300))
    arrays = {("one", "1", "fc"): x, ("two", "1", "fc"): x, ("three", "1", "fc"): x[:, ::-1] + 1}
    dask_svcca.compare(arrays, tmp_path / "c.zarr", measures="cka")
    for command in ("models", "query --measure cka --measure p_cka"):
        name, _, rest = command.partition(" ")
        shown = run(f"{name} {tmp_path / 'c.zarr'} {rest}").stdout.splitlines()
        assert {row.split()[-1] for row in shown[1:]} == {"<1e-300"}


def test_models__csv_and_json_are_the_same(comparison: Path) -> None:
    csv = pd.read_csv(io.StringIO(run("models comparison.zarr --checkpoint ** --kind transport --csv").stdout))
    assert len(csv) == 4 * 3 / 2
    assert list(csv.columns[:3]) == ["model_a", "checkpoint_a", "step_a"]
    report = json.loads(run("models comparison.zarr --checkpoint ** --kind transport --json").stdout)
    assert (report["matching"], report["without"], report["measures"]) == (6, 0, ["svcca"])
    np.testing.assert_allclose([pair["svcca"] for pair in report["pairs"]], csv["svcca"])
    run("models comparison.zarr --checkpoint ** --kind transport --csv=models.csv")
    pd.testing.assert_frame_equal(pd.read_csv("models.csv"), csv)
    shown = run("models comparison.zarr --checkpoint ** --kind maximum --top 2")
    assert shown.stdout.splitlines()[0].split()[:4] == ["model", "checkpoint", "model", "checkpoint"]
    assert "2 of 6 pairs" in shown.stderr


def test_models__says_what_is_missing(comparison: Path) -> None:
    assert "There is one model" in run("models comparison.zarr --model net-s0").stderr


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("--depth 0.5", 2, "--depth is for --kind transport"),
        ("--json --csv", 2, "use one"),
        ("--csv=none/models.csv", 2, "there is no folder 'none' to write 'models.csv' into"),
        ("--kind transport --depth nan", 2, "a number of at least 0; got nan"),
        ("--measure cka", 2, "no measure 'cka' in this comparison; it has svcca"),
        ("--exclude relu", 2, "no layer of this comparison matches exclude='relu'"),
    ],
)
def test_models__what_cannot_be_is_said(comparison: Path, options: str, status: int, message: str) -> None:
    assert message in run(f"models comparison.zarr {options}", status=status).stderr
