"""Level and power of the tests against chance, on activations as they are: the table of the documentation."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import dask_svcca
from dask_svcca.kernels.chance import significant_correlations
from dask_svcca.kernels.orders import KernelSums, chance_of, moments_over_orders

LEVEL = 0.05
REPEATS = 400
SIZES = ((100, 10), (500, 10), (300, 30))
PLANTED = (0.6, 0.5)
"""Correlations of the directions that both layers have, where power is measured."""

TESTS = ("significant", "p_svcca", "p_cka")


def scaled(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape) * rng.standard_t(2, size=(*shape[:-1], 1))


def rectified(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """What two layers with random weights make of Gaussian inputs."""
    hidden = rng.normal(size=(*shape[:-1], 32))
    for width in (64, shape[-1]):
        weights = rng.normal(size=(hidden.shape[-1], width)) * np.sqrt(2 / hidden.shape[-1])
        hidden = np.maximum(hidden @ weights - 0.5, 0)
    return hidden


KINDS = {
    "Gaussian": lambda rng, shape: rng.normal(size=shape),
    "sparse": lambda rng, shape: np.where(rng.random(shape) < 0.03, rng.normal(size=shape), 0.0),
    "t(2)": lambda rng, shape: rng.standard_t(2, size=shape),
    "lognormal": lambda rng, shape: rng.lognormal(size=shape),
    "scaled rows": scaled,
    "rectified": rectified,
    "shared scales": lambda rng, shape: rng.normal(size=shape),
}
SHARED = "shared scales"
"""The same examples are extreme in both layers, and tests against shuffling find that."""


def layers(kind: str, samples: int, width: int, *, related: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two layers of so many directions, many times over, (repeat, sample, direction)."""
    rng = np.random.default_rng(seed)
    a, b = (KINDS[kind](rng, (REPEATS, samples, width)) for _ in range(2))
    if kind == SHARED:
        scales = rng.standard_t(2, size=(REPEATS, samples, 1))
        a, b = scales * a, scales * b
    for index, strength in enumerate(PLANTED if related else ()):
        spread = (b[..., index].std(axis=1) / (a[..., index].std(axis=1) + 1e-12))[:, np.newaxis]
        b[..., index] = strength * spread * a[..., index] + np.sqrt(1 - strength**2) * b[..., index]
    return a, b


def whitened(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal scores, (repeat, sample, direction), those of no variance zero; and how many are not, (repeat,)."""
    variances, vectors = np.linalg.eigh(x.swapaxes(1, 2) @ x)
    there = variances > 1e-12 * variances[:, -1:]
    scales = np.where(there, 1 / np.sqrt(np.where(there, variances, 1)), 0)
    return x @ (vectors * scales[:, np.newaxis]), there.sum(axis=1)


def sums(x: np.ndarray) -> KernelSums:
    products, lengths = x.swapaxes(1, 2) @ x, np.square(x).sum(axis=2)
    return KernelSums(lengths.sum(axis=1), np.square(products).sum(axis=(1, 2)), np.square(lengths).sum(axis=1))


def rejected(kind: str, samples: int, width: int, *, related: bool, seed: int = 0) -> dict[str, float]:
    """Share of the pairs that each test takes for related."""
    raw = [x - x.mean(axis=1, keepdims=True) for x in layers(kind, samples, width, related=related, seed=seed)]
    (a, ranks_a), (b, ranks_b) = map(whitened, raw)
    r = np.clip(np.linalg.svd(a.swapaxes(1, 2) @ b, compute_uv=False), 0, 1)
    overlap = (np.square(a).sum(axis=2) * np.square(b).sum(axis=2)).sum(axis=1) / (ranks_a * ranks_b / samples)
    found = {"significant": np.zeros(REPEATS, dtype=bool)}
    for k, m in {*zip(ranks_a.tolist(), ranks_b.tolist(), strict=True)}:
        some = (ranks_a == k) & (ranks_b == m)
        count = significant_correlations(
            r[some, : min(k, m)], k, m, samples - 1, is_complex=False, level=LEVEL, overlap=overlap[some]
        )
        found["significant"][some] = count > 0
    for test, (left, right) in {"p_svcca": (a, b), "p_cka": raw}.items():
        score = np.square(left.swapaxes(1, 2) @ right).sum(axis=(1, 2))
        found[test] = chance_of(score, *moments_over_orders(sums(left), sums(right), samples)) < LEVEL
    return {test: float(each.mean()) for test, each in found.items()}


def documented() -> dict[tuple[str, int, int], list[float]]:
    """The table of the documentation: level and power of each test, by kind and size."""
    page = Path(__file__).parents[1] / ".github" / "docs" / "explanation" / "chance.md"
    rows = re.findall(
        r"^\| ([\w() ]+) \| (\d+) \| (\d+) \|((?: [\d.]+ \|)+)$", page.read_text("utf-8"), flags=re.MULTILINE
    )
    return {
        (kind, int(samples), int(width)): [float(number) for number in values.split("|")[:-1]]
        for kind, samples, width, values in rows
    }


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "width"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_levels__are_held_and_documented(kind: str, samples: int, width: int) -> None:
    level = rejected(kind, samples, width, related=False)
    power = rejected(kind, samples, width, related=True)
    error = 3 * np.sqrt(LEVEL * (1 - LEVEL) / REPEATS)
    held = level if kind != SHARED else {"significant": level["significant"]}
    assert all(share < LEVEL + 0.01 + error for share in held.values()), level
    found = [number for test in TESTS for number in (level[test], power[test])]
    np.testing.assert_allclose(documented()[kind, samples, width], found, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rsa", "rsa(compare=spearman)", "rsa(distance=euclidean)"])
def test_level__of_p_rsa_of_layers_of_few_directions(name: str) -> None:
    """Where a normal distribution has 5.4 to 6.7 % and 1.4 to 2.6 %."""
    found: list[np.ndarray] = []
    for zoo in range(8):
        rng = np.random.default_rng(100 + zoo)
        layers = {}
        for model in range(20):
            signals = rng.normal(size=(80, 5))
            for depth in range(4):
                values = signals @ rng.normal(size=(5, 7)) + rng.normal(size=(80, 7))
                layers[f"m{model:02}", "1", f"fc{depth}"] = values
        result = dask_svcca.compare(layers, measures=name)
        apart = result.model_a.to_numpy()[:, np.newaxis] < result.model_b.to_numpy()
        found.append(result[name.replace("rsa", "p_rsa")].to_numpy()[apart])
    p_values = np.concatenate(found)
    assert 0.045 < (p_values < 0.05).mean() < 0.055
    assert 0.007 < (p_values < 0.01).mean() < 0.014


if __name__ == "__main__":
    for name in KINDS:
        for size in SIZES:
            shares = [rejected(name, *size, related=related) for related in (False, True)]
            cells = [f"{one[test]:.2f}" for test in TESTS for one in shares]
            sys.stdout.write(f"| {name} | {size[0]} | {size[1]} | {' | '.join(cells)} |\n")
