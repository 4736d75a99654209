"""The worked studies run, say something, and write their table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

STUDIES = Path(__file__).parents[1] / "jobs" / "studies"

COLUMNS = {
    "learning_dynamics": {"architecture", "model", "layer", "depth", "step", "svcca", "way"},
    "which_measure": {"stage", "measure", "architecture", "accuracy", "tested", "chance", "p"},
    "where_they_meet": {"model_a", "model_b", "step_a", "step_b", "cka", "estimate", "error"},
    "what_is_chance": {"conv", "layer", "examples", "directions", "svcca", "by_formula", "by_shuffling", "p"},
}
"""By study, the columns of its table."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: they share the zoo, as they do where a person runs them."""
    return tmp_path_factory.mktemp("studies")


def run(study: str, output: Path) -> tuple[str, pd.DataFrame]:
    """What a study prints, and the table it writes; warnings are errors there too."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(STUDIES / f"{study}.py"), "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
        # It imports what stands beside it, and what this process imports.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, pd.read_csv(output / f"{study}.csv")


def test_studies__all_are_here() -> None:
    assert {path.stem for path in STUDIES.glob("*.py")} == {*COLUMNS, "demo_zoo"}


@pytest.mark.slow
def test_learning_dynamics__layers_end_as_themselves(output: Path) -> None:
    printed, table = run("learning_dynamics", output)
    assert set(table) == COLUMNS["learning_dynamics"]
    assert table.svcca.between(0, 1).all()
    last = table[table.step == table.step.max()]
    assert (last.svcca > 0.9999).all()
    assert (last.way > 0.999).all()
    assert len(last) == 2 * 6 + 2 * 8  # networks, and layers of theirs
    assert "rank correlation with depth" in printed.splitlines()[-1]


@pytest.mark.slow
def test_which_measure__guesses_and_findings(output: Path) -> None:
    printed, table = run("which_measure", output)
    assert set(table) == COLUMNS["which_measure"]
    assert table.groupby("architecture").tested.unique().map(list).to_dict() == {"cnn": [12], "resnet": [16]}
    trained = table[(table.stage == "trained") & (table.architecture == "cnn")].set_index("measure")
    # As the demo shows for the same layers.
    assert trained.loc["partial_procrustes", "accuracy"] == pytest.approx(10 / 12)
    assert trained.loc["svcca", "accuracy"] == pytest.approx(2 / 12)
    # Ten of twelve by guesses of one in six.
    assert trained.loc["partial_procrustes", "p"] == pytest.approx(7.86e-7, rel=1e-3)
    assert "Best on trained networks: " in printed


@pytest.mark.slow
def test_what_is_chance__shuffles_agree_with_the_formula(output: Path) -> None:
    printed, table = run("what_is_chance", output)
    assert set(table) == COLUMNS["what_is_chance"]
    assert (table.by_formula - table.by_shuffling).abs().max() < 0.03
    flattened = table[table.conv == "flatten"].groupby("examples").by_shuffling.mean()
    assert flattened.is_monotonic_decreasing  # the more examples, the less is chance
    assert "Formula and shuffles differ by" in printed.splitlines()[-1]


@pytest.mark.slow
def test_where_they_meet__previews_say_where_to_look(output: Path) -> None:
    printed, table = run("where_they_meet", output)
    assert set(table) == COLUMNS["where_they_meet"]
    assert len(table) == 4 * 11**2  # pairs of trainings, and of checkpoints
    assert ((table.cka - table.estimate).abs() < 3 * table.error).mean() > 0.95
    # Where estimates have them meet, they are nearly as similar as they ever are.
    means = table.groupby(["step_a", "step_b"])[["cka", "estimate"]].mean()
    assert means.cka[means.estimate.idxmax()] > means.cka.max() - 0.01
    assert "Exactly, they are most alike at step" in printed
