"""The hash family is what its specification says: others implement it, and meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dask_svcca.kernels.sketch import Hashes, at, coordinates, counts, finished, seeded
from dask_svcca.sketches.family import FAMILY, Family, digest_of, words_of

PAGE = Path(__file__).parents[2] / ".github" / "docs" / "explanation" / "sketches.md"


def row(title: str) -> list[str]:
    """Cells of a row of the table of test vectors."""
    line = next(line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip(" `") for cell in line.strip("|").split("|")[1:]]


def hexadecimal(words: np.ndarray) -> list[str]:
    return [f"{word:016x}" for word in words.tolist()]


def test_family__is_what_the_page_specifies() -> None:
    assert f"`{FAMILY}`" in PAGE.read_text("utf-8")
    words = words_of(np.arange(3))
    assert hexadecimal(words) == row("word")
    assert digest_of(words) in PAGE.read_text("utf-8")
    under = seeded(words, 0)
    assert hexadecimal(under) == row("under seed 0")
    assert hexadecimal(seeded(words, 7)) == row("under seed 7")
    assert hexadecimal(at(under, np.array([5]))) == row("position 5")
    assert hexadecimal(at(under, np.array([-1]))) == row("frequency -1")
    hashes = Hashes.of(under, 4096)
    for side, title in enumerate(("first side: bucket, turn", "second side: bucket, turn")):
        pairs = zip(hashes.bucket[side].tolist(), hashes.turn[side].tolist(), strict=True)
        assert [f"{bucket}, {turn}" for bucket, turn in pairs] == row(title)
    x = np.array([[1.0, 0], [0, 2], [3, 1]])
    x -= x.mean(axis=0)
    made = finished(coordinates(counts(x.astype(np.float32), Hashes.of(under, 64))), float(np.linalg.norm(x.T @ x)))
    assert ", ".join(f"{number:.5f}" for number in made[:4]) in PAGE.read_text("utf-8")


@pytest.mark.parametrize("size", [0, -2, 63, 65, 1.5, True, "many", None])
def test_family__refuses_a_size(size: object) -> None:
    with pytest.raises(ValueError, match=r"size is how many numbers a sketch has, an even number from 64 on; got"):
        Family(size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "a"])
def test_family__refuses_a_seed(seed: object) -> None:
    with pytest.raises(ValueError, match=r"seed is a whole number from 0 to 2\*\*64 - 1; got"):
        Family(seed=seed)  # type: ignore[arg-type]
