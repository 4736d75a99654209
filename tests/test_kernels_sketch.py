"""Sketches against exact CKA: unbiased, as precise as they say, and the same for everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.kernels.sketch import (
    Hashes,
    at,
    concentration,
    coordinates,
    counts,
    estimate,
    finished,
    mixed,
    seeded,
    standard_error,
)

if TYPE_CHECKING:
    import numpy.typing as npt

EXAMPLES = 150


def sketch(x: npt.NDArray[Any], words: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.float32]:
    x = x - x.mean(axis=0)
    total = coordinates(counts(x.astype(np.float32), Hashes.of(words, size)))
    return finished(total, float(np.linalg.norm(x.T @ x)))


def slow(x: npt.NDArray[Any], words: npt.NDArray[np.uint64], size: int) -> npt.NDArray[Any]:
    """By the definition: the Gram matrix between two vectors for each coordinate."""
    x, half = x - x.mean(axis=0), size // 2
    gram, hashes = x @ x.conj().T, Hashes.of(words, size)
    made = []
    for f in range(half):
        u, v = 1j**hashes.turn * np.exp(-2j * np.pi * f * hashes.bucket / half)
        made.append(u @ gram @ v)
    return np.array(made) / np.linalg.norm(gram) / np.sqrt(half)


def exact(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))


def layers(kind: str, rng: np.random.Generator) -> list[npt.NDArray[Any]]:
    """Five layers of all similarities, with one dominant direction, equal directions, or each twice."""
    base, other = rng.standard_normal((2, EXAMPLES, 12))
    weights = np.full(12, 0.15) if kind == "dominant" else np.ones(12)
    weights[0] = 1
    mixes = [0.0, 0.3, 0.6, 1.0, 3.0]
    made = [(base + mix * other) * weights for mix in mixes]
    return [np.repeat(x, 2, axis=1) if kind == "twice" else x for x in made]


def words_of(examples: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    return seeded(np.arange(examples, dtype=np.uint64), seed)


def test_mixed__is_the_published_finaliser() -> None:
    # The first outputs of SplitMix64 from the seed 1234567, as its reference implementation prints them.
    states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("is_complex", [False, True])
def test_coordinates__are_those_of_the_definition(is_complex: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 70)) + (1j * rng.standard_normal((20, 70)) if is_complex else 0)
    words, centred = words_of(20), x - x.mean(axis=0)
    parts = [counts(part.astype(np.float32), Hashes.of(words, 64)) for part in (centred.real, centred.imag)]
    total = coordinates(parts[0], parts[1] if is_complex else None)
    made = finished(total, float(np.linalg.norm(centred @ centred.conj().T)))
    np.testing.assert_allclose(made.view(np.complex64), slow(x, words, 64), atol=2e-6)


def test_counts__add_up_over_samples_in_any_order() -> None:
    x = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    hashes, order = Hashes.of(words_of(30), 128), np.random.default_rng(1).permutation(30)
    shuffled = Hashes(hashes.bucket[:, order], hashes.turn[:, order], hashes.half)
    parts = counts(x[:20], hashes.part(0, 20)) + counts(x[20:], hashes.part(20, 30))
    np.testing.assert_allclose(parts, counts(x[order], shuffled), atol=1e-6)


def test_hashes__use_all_buckets_and_turns_alike() -> None:
    hashes = Hashes.of(words_of(40_000), 100)
    for side in range(2):
        assert np.bincount(hashes.bucket[side], minlength=50) == pytest.approx(800, rel=0.15)
        assert np.bincount(hashes.turn[side], minlength=4) == pytest.approx(10_000, rel=0.05)
    assert abs(np.corrcoef(hashes.bucket)[0, 1]) < 0.02


def test_at__places_have_words_of_their_own() -> None:
    words = words_of(5)
    made = np.stack([words, *(at(words, np.array(place)) for place in (-2, -1, 0, 1))])
    assert len(np.unique(made)) == made.size
    np.testing.assert_array_equal(at(words, np.array([0, 1, 2, 3, 4]))[1], at(words[1:2], np.array(1))[0])


@pytest.mark.parametrize("kind", ["dominant", "flat", "twice"])
def test_estimate__is_unbiased_and_says_how_far_it_errs(kind: str) -> None:
    size, seeds = 512, 200
    made = layers(kind, np.random.default_rng(3))
    rows, columns = np.triu_indices(len(made), 1)
    true = np.array([exact(made[i], made[j]) for i, j in zip(rows, columns, strict=True)])
    assert true.min() < 0.3
    assert true.max() > 0.85
    found, errors = [], []
    for seed in range(seeds):
        words = words_of(EXAMPLES, seed)
        s = np.stack([sketch(x, words, size) for x in made])
        own, spread = np.sum(s * s, axis=1), concentration(s)
        found.append(estimate((s @ s.T)[rows, columns], own[rows], own[columns]))
        errors.append(standard_error(found[-1], spread[rows], spread[columns], size))
    values, said = np.array(found), np.array(errors)
    off = values - true
    # Of ten pairs, the furthest of their means.
    assert np.abs(off.mean(axis=0) / (off.std(axis=0) / np.sqrt(seeds))).max() < 4
    # The error falls with the root of the size: 0.02 at 4,096.
    assert np.sqrt((off**2).mean()) < 0.02 * np.sqrt(4096 / size)
    assert 0.93 <= np.mean(np.abs(off) < 1.96 * said) <= 0.97


def test_estimate__is_exact_for_a_layer_with_itself() -> None:
    s = sketch(np.random.default_rng(0).standard_normal((50, 3)), words_of(50), 256)
    own = s @ s
    assert estimate(own, own, own) == pytest.approx(1, abs=1e-6)
    assert standard_error(np.array(1.0), concentration(s), concentration(s), 256) == 0


def test_concentration__is_that_of_the_spectrum() -> None:
    rng = np.random.default_rng(0)
    for directions in (1, 4, 40):
        x = np.linalg.qr(rng.standard_normal((100, directions)))[0]
        many = [concentration(sketch(x, words_of(100, seed), 1024)) for seed in range(20)]
        assert np.mean(many) == pytest.approx(1 / directions, abs=0.2)
