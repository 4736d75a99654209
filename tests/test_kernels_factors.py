"""Factors of samples: their scatter and mean, whatever the chunks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import scatter
from pairwise_oracles import centred

from dask_svcca.kernels.factors import factor, merge


@given(hnp.arrays(np.float64, (23, 4), elements=st.floats(-1e3, 1e3)), st.sets(st.integers(1, 22), max_size=6))
def test_factor__does_not_depend_on_chunks(x: np.ndarray, cuts: set[int]) -> None:
    parts = np.split(x, sorted(cuts))
    whole = merge([factor([part, np.exp(1j * part)]) for part in parts])
    expected = scatter(np.stack([x, np.exp(1j * x)], axis=1))
    for rows, one in zip(whole.rows, expected, strict=True):
        np.testing.assert_allclose(rows.conj().T @ rows, one, rtol=0, atol=1e-10 * max(1.0, np.abs(one).max()))
    np.testing.assert_allclose(whole.mean, x.mean(axis=0), rtol=0, atol=1e-11)
    np.testing.assert_array_equal(whole.varies, np.ptp(x, axis=0) > 0)
    assert whole.count == 23


def test_factor__keeps_a_spread_far_below_the_mean() -> None:
    x = np.random.default_rng(5).normal(size=(1000, 3))
    whole = merge([factor([part + 1e9]) for part in np.split(x, 10)])
    np.testing.assert_allclose(whole.rows[0].T @ whole.rows[0], centred(x).T @ centred(x), rtol=1e-5, atol=1e-4)
