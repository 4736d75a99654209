"""So few samples that a value says nothing: told of the pair, for every measure that it makes meaningless."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from measured import compared

from dask_svcca.variables import PairStatus

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]

DONE, SATURATED = PairStatus.DONE, PairStatus.SATURATED
EITHER = ("svcca", "cca", "r2_cca", "pwcca", "partial_procrustes(alpha=0)")
NEVER = ("cka", "procrustes", "gulp", "pls", "cka_debiased", "partial_procrustes")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


WIDE = {
    "dense": [noise(10, 30), noise(10, 30, seed=1)],
    "dft": [noise(10, 3, 4, 12), noise(10, 3, 4, 12, seed=1)],
}


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("measure", [*EITHER, "linear_regression"])
def test_saturation__is_told_of_a_measure_alone(kind: str, measure: str) -> None:
    found = compared(*WIDE[kind], measures=measure, variance=None)
    np.testing.assert_array_equal(found.pair_status, SATURATED)
    np.testing.assert_allclose(found[measure], 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("measure", NEVER)
def test_saturation__is_not_told_where_the_spectra_decide(kind: str, measure: str) -> None:
    found = compared(*WIDE[kind], measures=measure, variance=None)
    np.testing.assert_array_equal(found.pair_status, DONE)


def test_saturation__of_one_measure_among_others_is_told() -> None:
    found = compared(*WIDE["dense"], measures=(*NEVER, "cca"), variance=None)
    np.testing.assert_array_equal(found.pair_status, SATURATED)


@pytest.mark.parametrize(
    "layers",
    [
        [noise(10, 30), noise(10, 4, seed=1)],
        [noise(10, 3, 4, 12), noise(10, 3, 4, 3, seed=1)],
    ],
    ids=["dense", "dft"],
)
def test_saturation__of_a_regression_on_what_spans_everything_is_told_of_that_direction(
    layers: list[np.ndarray],
) -> None:
    found = compared(*layers, measures="linear_regression", variance=None)
    # Of a from b: the second is explained by the first whatever the data, and not the first by the second.
    np.testing.assert_array_equal(found.pair_status, [[SATURATED, DONE], [SATURATED, DONE]])
    np.testing.assert_allclose(found.linear_regression[1, 0], 1, rtol=0, atol=1e-6)
    assert found.linear_regression[0, 1] < 0.9
    either = compared(*layers, measures="cca", variance=None)
    np.testing.assert_array_equal(either.pair_status, [[SATURATED, SATURATED], [SATURATED, DONE]])


@pytest.mark.parametrize(("variance", "status"), [(None, SATURATED), (0.5, DONE)])
def test_saturation__is_of_the_directions_that_a_measure_looks_at(variance: Any, status: PairStatus) -> None:
    found = compared(*WIDE["dense"], measures="svcca", variance=variance)
    np.testing.assert_array_equal(found.pair_status, status)


def test_saturation__is_not_told_of_enough_samples() -> None:
    found = compared(noise(100, 30), noise(100, 30, seed=1), measures="all", variance=None)
    np.testing.assert_array_equal(found.pair_status, DONE)
