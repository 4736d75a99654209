"""Stores and files that are damaged at random: only errors of this package, no wrong number, nothing written outside.

``pytest -m fuzz -o faulthandler_timeout=0`` tries 100,000 cases; ``FUZZ_CASES`` and ``FUZZ_FIRST`` say how many, and
from which seed on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import fuzz_cases
import pytest
from fuzzing import Templates

if TYPE_CHECKING:
    from pathlib import Path

CASES = {"arrays": 620, "zoo": 200, "comparison": 100, "shared": 80}
"""Cases of each kind: a thousand in all, a third of them quick."""


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return Templates(tmp_path_factory.mktemp("templates"))


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        pytest.param(kind, first, marks=[] if first < count / 3 else pytest.mark.slow)
        for kind, count in CASES.items()
        for first in range(0, count, 20)
    ],
)
def test_damage__ends_in_a_sentence_or_in_the_same_numbers(
    kind: str, first: int, templates: Templates, tmp_path: Path
) -> None:
    for seed in range(first, first + 20):
        fuzz_cases.check(kind, seed, templates, tmp_path / str(seed), quick=True)


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", list(fuzz_cases.KINDS))
def test_damage__of_all_kinds(kind: str, templates: Templates, tmp_path: Path) -> None:
    first, count = int(os.environ.get("FUZZ_FIRST", "1000")), int(os.environ.get("FUZZ_CASES", "100000"))
    for seed in range(first, first + count // len(fuzz_cases.KINDS)):
        fuzz_cases.check(kind, seed, templates, tmp_path / "case")
