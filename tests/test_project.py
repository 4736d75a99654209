"""What stands in two places says the same in both."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


def read_yaml(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github" / path).read_text("utf-8"))
    return found


def read_project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def test_citation__is_of_this_version_licence_and_address() -> None:
    citation, project = read_yaml("CITATION.cff"), read_project()
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Source"]
    assert citation["url"] == project["urls"]["Documentation"]


def test_workflow__runs_every_study() -> None:
    studies = {path.stem for path in (ROOT / "jobs" / "studies").glob("*.py")} - {"demo_zoo"}
    assert set(read_yaml("workflows/ci.yml")["jobs"]["studies"]["strategy"]["matrix"]["study"]) == studies


def test_workflow__oldest_versions_on_the_oldest_python() -> None:
    project = read_project()
    steps = read_yaml("workflows/ci.yml")["jobs"]["minimum-versions"]["steps"]
    (version,) = [step["with"]["python-version"] for step in steps if "python-version" in step.get("with", {})]
    assert project["requires-python"] == f">={version}"
    assert all(">=" in requirement for requirement in project["dependencies"])
