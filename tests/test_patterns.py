"""Patterns of names: one level, any text, one character, and names that look like patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_svcca.patterns import matched, matches, matching, unmatched

NAMES = [
    "blocks.1",
    "blocks.10",
    "blocks.10.attn",
    "blocks.10.attn.qkv",
    "/backbone/blocks.1/Conv_output_0",
    "conv[1]",
    "conv1",
    "a,b",
]


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("blocks.?", ["blocks.1"]),
        ("blocks.*", ["blocks.1", "blocks.10"]),
        ("blocks.**", ["blocks.1", "blocks.10", "blocks.10.attn", "blocks.10.attn.qkv"]),
        ("blocks.*.*", ["blocks.10.attn"]),
        ("**.qkv", ["blocks.10.attn.qkv"]),
        ("*.qkv", []),
        ("/*/*.*/Conv*", ["/backbone/blocks.1/Conv_output_0"]),
        ("**Conv*", ["/backbone/blocks.1/Conv_output_0"]),
        ("*", ["conv[1]", "conv1", "a,b"]),
        ("**", NAMES),
        ("blocks?1", []),
        ("conv[1]", ["conv[1]", "conv1"]),
        ("conv[!2-9]", ["conv1"]),
        ("conv[9-0]", []),
        ("conv[", []),
        ("a,b", ["a,b"]),
        ("conv1, blocks.?", ["blocks.1", "conv1"]),
        ("CONV1", []),
        ("", []),
        (["conv1", "blocks.1"], ["blocks.1", "conv1"]),
        ([], []),
    ],
)
def test_matching__levels(pattern: str | list[str], chosen: list[str]) -> None:
    assert matching(NAMES, pattern) == chosen


@pytest.mark.parametrize(
    ("patterns", "missing"),
    [
        ("conv1, cov1", ["cov1"]),
        (["conv1", "cov1,conv?", "blocks.*.*.*.*"], ["cov1", "blocks.*.*.*.*"]),
        ("a,b", []),
        ("a,c", ["a", "c"]),
        ("conv1,", []),
        ("", []),
        ([], []),
        ("**", []),
    ],
)
def test_unmatched__of_several(patterns: str | list[str], missing: list[str]) -> None:
    assert unmatched(NAMES, patterns) == missing
    assert matching(NAMES, matched(NAMES, patterns)) == matching(NAMES, patterns)


@given(st.text(alphabet="ab1.*?[]!-^\\/,() \n", min_size=1))
def test_matches__a_name_matches_itself_and_any_text_everything(name: str) -> None:
    assert matches(name, name)
    assert matches(name, "**")
    assert matches(name, "*") == (not re.search(r"[./]", name) or name == "*")
