"""What sums up a comparison: chance, and the numbers that independent layers are known to give."""

from __future__ import annotations

import numpy as np
import pytest
from pairwise_oracles import IMAGE, layers

from dask_svcca import cca


def test_golden__independent_layers() -> None:
    rng = np.random.default_rng(2)
    found = [cca(rng.normal(size=(2000, 100)), rng.normal(size=(2000, 50))) for _ in range(6)]
    # Of one such pair it is 0.0025 off, as standard deviations go.
    mean = np.mean([one.mean_correlation for one in found])
    np.testing.assert_allclose(mean, 0.2084, atol=2 * 0.0008)
    np.testing.assert_allclose(found[0].expected_correlation, mean, atol=2 * 0.0008)
    assert int(found[0].significant) <= 1


@pytest.mark.slow
def test_golden__large_independent_layers() -> None:
    rng = np.random.default_rng(3)
    found = cca(rng.normal(size=(10_000, 500)), rng.normal(size=(10_000, 500)))
    np.testing.assert_allclose(found.mean_correlation, 0.1908, atol=0.001)
    np.testing.assert_allclose(found.correlation[:20].mean(), 0.412, atol=0.003)


def test_cca__says_what_chance_gives() -> None:
    x, y = layers(6, 5, examples=10)
    found = cca(x, y)
    # Subspaces of 6 and 5 dimensions in one of 9 meet in two.
    assert int(found.spurious) == 2
    np.testing.assert_allclose(found.correlation[:2], 1, rtol=0, atol=1e-12)
    assert int(found.significant) == 0
    assert int(cca(*layers(6, 5, examples=400)).significant) == 4
    # By frequency, of which pairs count twice; the zero frequency alone is centred.
    conv = cca(*layers(3, 3, sizes=(3, 1), examples=5), dims=IMAGE)
    assert int(conv.spurious) == 2 * (3 + 3 - 5) + (3 + 3 - 4)
    np.testing.assert_allclose(conv.correlation[:4], 1, rtol=0, atol=1e-12)
