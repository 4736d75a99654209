"""How many directions are more than chance: what compare counts, on activations as they are."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from measured import compared, images, related
from oracles import basis
from test_chance import by_the_law

import dask_svcca
from dask_svcca.kernels.chance import significant_correlations
from dask_svcca.pairwise.leverages import leverage_overlaps
from dask_svcca.pairwise.principals import decompose
from dask_svcca.plan.parameters import Parameters

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]


def leverages(scores: np.ndarray) -> np.ndarray:
    return np.square(np.abs(scores)).sum(axis=-1)


def by_frequency(x: np.ndarray, variance: float | None) -> list[np.ndarray]:
    """Orthonormal scores at each spatial frequency of all, of (example, height, width, channel)."""
    spectra = np.fft.fft2(x, axes=(1, 2)).reshape(len(x), -1, x.shape[-1])
    found = []
    for frequency in range(spectra.shape[1]):
        rows = spectra[:, frequency] - (spectra[:, 0].mean(axis=0) if frequency == 0 else 0)
        found.append(np.linalg.svd(rows, full_matrices=False)[0])
    assert variance is None
    return found


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_leverage_overlap__is_the_sum_of_products_of_leverages(precision: Any) -> None:
    layers = related(60, 7, 4, 12)
    found = compared(*layers, measures="svcca", variance=0.9, precision=precision)
    each = np.array([leverages(basis(one, 0.9)) for one in layers])
    ranks = each.sum(axis=1)
    np.testing.assert_allclose(found.leverage_overlap, each @ each.T, rtol=1e-5)
    np.testing.assert_allclose(found.null_leverage_overlap, np.outer(ranks, ranks) / 60, rtol=1e-9)
    assert found.leverage_overlap.attrs["null"] == "null_leverage_overlap"


def test_leverage_overlap__of_convolutional_layers_is_over_all_frequencies() -> None:
    x, y = images((4, 3, 2), (4, 3, 3), examples=25)
    found = compared(x, y, related(25, 2)[0], measures="svcca", conv="dft", variance=None)
    scores = [by_frequency(one, None) for one in (x, y)]
    expected = sum(leverages(a) @ leverages(b) for a, b in zip(*scores, strict=True))
    assert float(found.leverage_overlap[0, 1]) == pytest.approx(expected, rel=1e-5)
    assert float(found.null_leverage_overlap[0, 1]) == pytest.approx(12 * 2 * 3 / 25)
    dense = basis(related(25, 2)[0], None)
    assert float(found.leverage_overlap[2, 1]) == pytest.approx(leverages(dense) @ leverages(scores[1][0]), rel=1e-5)


def test_significant__of_dense_layers_are_those_of_the_law() -> None:
    rng = np.random.default_rng(0)
    scale = rng.lognormal(size=(50, 1))
    layers = [scale * (one + 1) for one in related(50, 6, 4, 9, noise=3.0)]
    found = compared(*layers, measures="svcca", variance=None, precision="float64")
    scores = [basis(one, None) for one in layers]
    for i, a in enumerate(scores):
        for j, b in enumerate(scores):
            k, m = a.shape[1], b.shape[1]
            overlap = leverages(a) @ leverages(b) / (k * m / 50)
            assert overlap > 1
            r = np.linalg.svd(a.T @ b, compute_uv=False)
            assert int(found.significant[i, j]) == by_the_law(r, k, m, 49, 0.05, overlap, half=False)


def test_significant__is_corrected_for_the_frequencies() -> None:
    # Of 40 layers of 24 frequencies: at 0.05 each, an independent pair would have one or two.
    rng = np.random.default_rng(1)
    layers = [rng.normal(size=(60, 6, 6, 2)) for _ in range(40)]
    found = compared(*layers, measures="svcca", conv="dft", variance=None)
    others = found.significant.to_numpy()[np.triu_indices(40, 1)]
    assert (others > 0).mean() == pytest.approx(0.05, abs=0.03)
    assert (np.diag(found.significant) == 36 * 2).all()


def test_significant__counts_frequencies_at_which_both_keep_directions() -> None:
    # Without variation over positions only the zero frequency is left, and nothing is to be corrected for.
    rng = np.random.default_rng(2)
    flat = np.broadcast_to(rng.normal(size=(60, 1, 1, 3)), (60, 4, 4, 3))
    dense = flat[:, 0, 0] + 2.0 * rng.normal(size=(60, 3))
    found = compared(np.array(flat), dense, measures="svcca", conv="dft", variance=None)
    r = np.linalg.svd(basis(flat[:, 0, 0], None).T @ basis(dense, None), compute_uv=False)
    each = [leverages(basis(one, None)) for one in (flat[:, 0, 0], dense)]
    expected = by_the_law(r, 3, 3, 59, 0.05, max(1, each[0] @ each[1] / (9 / 60)), half=False)
    assert int(found.significant[0, 1]) == expected


@pytest.mark.parametrize("lazy", [False, True])
def test_cca__counts_them_as_a_comparison_does(lazy: bool) -> None:
    rng = np.random.default_rng(0)
    scale = rng.lognormal(size=(50, 1))
    x, y = (scale * (one + 1) for one in related(50, 6, 4, noise=2.0))
    found = dask_svcca.cca(*((da.from_array(one, chunks=(13, 2)) for one in (x, y)) if lazy else (x, y)))
    a, b = basis(x, None), basis(y, None)
    r = np.linalg.svd(a.T @ b, compute_uv=False)
    overlap = leverages(a) @ leverages(b) / (24 / 50)
    assert int(found.significant) == by_the_law(r, 6, 4, 49, 0.05, overlap, half=False)
    # Of samples that nobody knows more would be.
    assert int(found.significant) < significant_correlations(r[np.newaxis], 6, 4, 49, is_complex=False)[0]


def test_cca__of_convolutional_layers_counts_them_as_a_comparison_does() -> None:
    rng = np.random.default_rng(0)
    scale = rng.lognormal(size=(40, 1, 1, 1))
    x, y = (scale * one for one in images((4, 3, 2), (4, 3, 3), examples=40))
    compared_as = compared(x, y, measures="svcca", conv="dft", variance=None)
    found = dask_svcca.cca(x, y, dims=("example", "height", "width", "channel"))
    assert int(found.significant) == int(compared_as.significant[0, 1])
    plain = leverage_overlaps_of(x, y)
    expected = [leverages(a) @ leverages(b) for a, b in zip(by_frequency(x, None), by_frequency(y, None), strict=True)]
    # Those of the half plane, each as its conjugate.
    assert all(np.isclose(expected, each).any() for each in plain)
    assert plain.max() > 1.5 * 2 * 3 / 40


def leverage_overlaps_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    parameters = Parameters(variance=None, conv="dft")
    decomposition = decompose(parameters, (x, y), dims=("example", "height", "width", "channel"))
    return np.asarray(leverage_overlaps(decomposition))
