"""Directions of blocks: fewer of them, and the precision that decides which are noise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from dask_svcca.kernels.directions import Principal, canonical_directions, principal_directions


def principal(rows: np.ndarray, variance: float | None = None) -> Principal:
    weights = np.ones(1, dtype=int)
    (found,) = principal_directions(
        [rows], samples=len(rows), weights=weights, variance=variance, mean=np.zeros(rows.shape[1]), epsilon=1e-15
    )
    return found


def test_leading__directions_are_those_of_a_threshold() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 4)) * [4, 3, 2, 1]
    whole = principal(rows)
    shares = np.cumsum(whole.singular**2) / (whole.singular**2).sum()
    for count in (1, 2, 3):
        by_count, by_share = whole.leading(count), principal(rows, float(shares[count - 1]))
        for name in ("rows", "left", "singular", "loadings", "whole"):
            np.testing.assert_array_equal(getattr(by_count, name), getattr(by_share, name))
    assert whole.leading(4).whole


@pytest.mark.parametrize("count", [1, 2, 3])
def test_leading__correlations_are_those_of_the_leading_subspace(count: int) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 3)) * [3, 2, 1], rng.normal(size=(30, 3))
    left = np.linalg.svd(x, full_matrices=False)[0][:, :count]
    expected = np.sort(np.cos(scipy.linalg.subspace_angles(left, y)))[::-1]
    aligned = canonical_directions(principal(x).leading(count), principal(y))
    np.testing.assert_allclose(aligned.values, expected, rtol=0, atol=1e-12)
