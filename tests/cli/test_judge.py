"""Judge: what is printed is what the function finds."""

from __future__ import annotations

import io
import json
import re
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from cli_runner import run

import dask_svcca

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings on one thing, two on another, and one that began with the first; by two measures."""
    folder = tmp_path_factory.mktemp("judged")
    rng = np.random.default_rng(0)
    common = rng.normal(size=(2, 3, 60, 4))
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(60)) as zoo:
        for model, task in {"true-0": 0, "true-1": 0, "tuned": 0, "other-0": 1, "other-1": 1}.items():
            for depth in range(3):
                values = common[task, depth] + 0.7 * rng.normal(size=(60, 4))
                parent = "true-0/end" if model == "tuned" else None
                zoo.write(model, "end", f"fc{depth}", values, depth=depth, parent=parent)
    dask_svcca.compare(zoo, folder / "judged.zarr", measures=["svcca", "cka"])
    return folder


@pytest.fixture
def trainings(folder: Path, made: Path) -> str:
    """A copy of them, in the working directory."""
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return "judged.zarr"


GROUPS = "--group true=true-* --group other=other-*"


def test_judge__prints_what_judge_measures_finds(trainings: str) -> None:
    shown = run(f"judge {trainings} {GROUPS}")
    groups = {name: {"model": f"{name}-*"} for name in ("true", "other")}
    found = dask_svcca.judge_measures(trainings, groups=groups)
    header, *rows, chance = shown.stdout.splitlines()
    assert re.split(r" {2,}", header.strip()) == [
        "other-0, other-1 and 3 more, 54 layers looked for",
        "groups told apart",
    ]
    assert len(rows) == 2
    for row in rows:
        name, *cells = re.split(r" {2,}", row.strip())
        own = found.sel(measure=name)
        expected = [(own[f"{one}"].item(), own[f"{one}_stderr"].item()) for one in ("identification", "separation")]
        assert cells == [f"{value:.2f} ± {error:.2f}" for value, error in expected]
    assert chance.split() == ["(by", "chance)", "0.33", "0.50"]
    assert "1 pair of models left out, of which one began with the other" in shown.stderr
    assert "left out" not in run(f"judge {trainings} --relatives").stderr


def test_judge__says_where_nothing_could_be_looked_for(trainings: str) -> None:
    dask_svcca.compare("zoo.zarr", "seen.zarr", measures="cka", preview=True)
    dask_svcca.compare("zoo.zarr", "near.zarr", measures="cka", pairs="nearest 1")
    for store in ("seen.zarr", "near.zarr"):
        shown = run(f"judge {store}")
        assert shown.stdout.startswith("No layer could be looked for: that takes two trainings")
        assert "nan" not in shown.stdout


def test_judge__csv_and_json_are_the_same(trainings: str) -> None:
    csv = pd.read_csv(io.StringIO(run(f"judge {trainings} --measure cka --csv").stdout))
    assert list(csv["measure"]) == ["cka"]
    report = json.loads(run(f"judge {trainings} --measure cka --json").stdout)
    pd.testing.assert_frame_equal(pd.DataFrame(report["judged"]), csv)
    run(f"judge {trainings} --measure cka --csv=judged.csv")
    pd.testing.assert_frame_equal(pd.read_csv("judged.csv"), csv)


def test_judge__of_some_has_errors_over_examples(trainings: str) -> None:
    shown = run(f"judge {trainings} --measure cka --layer fc0,fc1 --model true-* --blocks 2 --json").stdout
    (judged,) = json.loads(shown)["judged"]
    assert (judged["architecture"], judged["identification_tested"]) == ("true-0, true-1", 4)
    assert judged["identification_stderr_examples"] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--json --csv", "use one"),
        ("--csv=none/judged.csv", "there is no folder 'none' to write 'judged.csv' into"),
        ("--measure rsa", "no measure 'rsa' in this comparison; it has svcca, cka"),
        ("--exclude relu", "no layer of this comparison matches exclude='relu'"),
        ("--group true", "--group 'true' is not a name and a pattern of models; write it like true='a-*'"),
        ("--group true=true-*", "as in --group true='true-*' --group other='b-*'"),
        ("--group a=true-* --group b=true-0", "'true-0/end/fc0' is in the groups 'a' and 'b'"),
        ("--model true-0", "no two of the models 'true-0' have the same layers"),
    ],
)
def test_judge__what_cannot_be_is_said(trainings: str, options: str, message: str) -> None:
    assert message in run(f"judge {trainings} {options}", status=2).stderr
