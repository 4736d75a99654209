"""Measures at the edge: what chance gives, too few samples, layers of little rank or nothing in common."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from measured import compared, related

from dask_svcca.measures import (
    DERIVED,
    find_measures,
    with_companions,
)
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    import xarray as xr

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]


# Numbers to read others by.


def test_null_cka__is_the_mean_over_all_orders_of_the_examples() -> None:
    x, y = related(4, 3, 2)
    every = [y[list(order)] for order in permutations(range(4))]
    found = compared(x, *every, measures="cka", precision="float64", pairs=np.eye(25, dtype=bool)[[0] * 25].T)
    np.testing.assert_allclose(found.null_cka[0, 1:], float(found.cka[0, 1:].mean()), rtol=1e-9)


@pytest.mark.parametrize(("p", "q", "n"), [(50, 20, 100), (200, 300, 100), (10, 10, 1000)])
def test_null_cka__of_isotropic_noise(p: int, q: int, n: int) -> None:
    rng = np.random.default_rng(4)
    found = compared(*(rng.normal(size=(n, width)) for width in (p, p, p, p, q, q, q, q)), measures="cka")
    expected = np.sqrt(p * q / ((p + n - 1) * (q + n - 1)))
    np.testing.assert_allclose(found.null_cka[:4, 4:], expected, rtol=0.02)
    assert float(found.cka[:4, 4:].mean()) == pytest.approx(expected, rel=0.1)


def test_cka_debiased__of_noise_is_about_zero() -> None:
    rng = np.random.default_rng(5)
    found = compared(*(rng.normal(size=(100, 200)) for _ in range(12)), measures=("cka", "cka_debiased"))
    above = np.triu_indices(12, 1)
    assert found.cka.to_numpy()[above].min() > 0.6
    values = found.cka_debiased.to_numpy()[above]
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))


def test_references__say_what_chance_gives_a_comparison() -> None:
    rng = np.random.default_rng(6)
    common = rng.normal(size=(400, 3))
    x, y, z = (rng.normal(size=(400, 20)) for _ in range(3))
    x[:, :3] += 3 * common
    y[:, :3] += 3 * common
    found = compared(x, y, z, variance=None, measures=("svcca", "cca"))
    assert float(found.null_svcca[0, 2]) == pytest.approx(float(found.svcca[0, 2]), rel=0.1)
    assert found.significant[0].to_numpy().tolist() == [20, 3, 0]
    np.testing.assert_array_equal(found.spurious, 0)
    np.testing.assert_array_equal(found.null_cca, found.null_svcca)


@pytest.mark.parametrize("measures", [("svcca",), ("cca",), ("r2_cca",), ("pwcca",)])
def test_compare__says_where_correlations_are_one_for_want_of_samples(measures: Any) -> None:
    rng = np.random.default_rng(7)
    found = compared(*(rng.normal(size=(30, p)) for p in (40, 28, 15, 12)), variance=None, measures=measures)
    spurious = found["spurious" if measures == ("svcca",) else "spurious_cca"].to_numpy()
    np.testing.assert_array_equal(spurious[0], [29, 28, 15, 12])
    np.testing.assert_array_equal(spurious[1], [28, 27, 14, 11])
    np.testing.assert_array_equal(spurious[2:, 2:], [[1, 0], [0, 0]])
    saturated = found.pair_status == PairStatus.SATURATED
    np.testing.assert_array_equal(saturated[0], True)
    assert not saturated[1:, 1:].any()
    np.testing.assert_allclose(found[measures[0]][0], 1, rtol=0, atol=1e-6)


def test_compare__a_covariance_is_not_saturated() -> None:
    rng = np.random.default_rng(8)
    found = compared(*(rng.normal(size=(10, 40)) for _ in range(2)), measures=("cka", "procrustes"))
    assert (found.pair_status == PairStatus.DONE).all()


WIDTHS = (30, 30, 30, 4, 4, 4)


@pytest.mark.parametrize(
    "name",
    [
        "svcca",
        "cca",
        "pwcca",
        "r2_cca",
        "cka",
        "cka_debiased",
        "procrustes",
        "linear_regression",
        "pls",
        "gulp",
        "gulp(lambda=1e-6)",
        "partial_procrustes",
        "partial_procrustes(alpha=0)",
        "partial_procrustes(alpha=0.001)",
        "partial_procrustes(alpha=1)",
    ],
)
def test_saturates__says_where_ranks_alone_fix_the_value(saturating: xr.Dataset, name: str) -> None:
    (measure,) = find_measures(name)
    values = saturating[name].to_numpy()
    wide = np.array(WIDTHS) == 30
    for of_a, of_b in ((True, True), (True, False), (False, True), (False, False)):
        found = values[np.ix_(wide == of_a, wide == of_b)]
        if of_a == of_b:
            found = found[~np.eye(3, dtype=bool)]
        fixed = {"never": False, "either": of_a or of_b, "b": of_b}[measure.saturates]
        # Three independent layers of each kind: what the data decide differs by far more than rounding.
        assert (np.ptp(found) < 1e-12) == fixed, (of_a, of_b, found)
    assert saturating[name].attrs["saturates"] == measure.saturates


@pytest.fixture(scope="module")
def saturating() -> xr.Dataset:
    """Noise of 10 samples: layers of 30 neurons, which span everything, and of 4."""
    rng = np.random.default_rng(15)
    names = ("all", "gulp(lambda=1e-6)", *(f"partial_procrustes(alpha={alpha})" for alpha in ("0", "0.001", "1")))
    layers = (rng.normal(size=(10, p)) for p in WIDTHS)
    return compared(*layers, measures=names, variance=None, precision="float64")


# Layers at the edge.


def edge_cases() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(9)
    cases = {f"{n} samples": [rng.normal(size=(n, p)) for p in (1, 2, 5)] for n in (2, 3, 4)}
    left, right = (np.linalg.qr(rng.normal(size=(rows, 12)))[0] for rows in (60, 12))
    conditions = [left * np.logspace(0, -decades, 12) @ right for decades in (0, 4, 8, 12)]
    cases["condition to 1e12"] = [*conditions, rng.normal(size=(60, 4))]
    x = rng.normal(size=(40, 3))
    copies = [np.repeat(x[:, :1], 6, axis=1), np.hstack([x, x, 1e-9 * x])]
    scales = [1e15 * x, 1e-15 * x, x + 1e6]
    values = [np.repeat([[0.0], [1.0]], 20, axis=0), 1.0 * (x > 0)]
    cases["copies, scales, few values"] = [x, *copies, *scales, *values]
    return cases


EDGE_CASES = edge_cases()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("case", EDGE_CASES)
def test_measures__at_the_edge_are_numbers_in_their_range(case: str, precision: Any) -> None:
    layers = EDGE_CASES[case]
    found = compared(*layers, precision=precision, variance=None)
    assert found.pair_status.isin([PairStatus.DONE, PairStatus.SATURATED]).all()
    for measure in with_companions(find_measures("all")):
        values = found[measure.name].to_numpy()
        if measure.name == "cka_debiased" and len(layers[0]) < 4:
            assert np.isnan(values).all()
            continue
        if measure.name.startswith("p_") or measure.name.endswith("_sd"):
            assert np.isfinite(values).all() == (len(layers[0]) >= 4)
            values = np.nan_to_num(values)
        if measure.name == "r2_cca_adjusted":
            # Nothing is left where samples fix all correlations.
            values = np.where(found.null_r2_cca > 1 - 1e-9, 1.0, values)
        low, high = measure.valid_range
        assert ((values >= low) & (values <= high)).all(), f"{measure.name} {values}"
    derived = {name: one for name, one in DERIVED.items() if set(one.parents) <= set(found.data_vars)}
    assert {"p_cka", "calibrated_svcca"} < set(derived)
    for name, one in derived.items():
        values, low, high = found[name].to_numpy(), *one.valid_range
        assert ((np.isnan(values) | (values >= low)) & ~(values > high + 1e-6)).all(), f"{name} {values}"


def test_cka_debiased__of_independent_convolutional_layers_is_zero_where_examples_are_samples() -> None:
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(60, 4, 4, 3)) for _ in range(24)]
    layers = [layer + 0.8 * np.roll(layer, 1, axis=1) for layer in layers]
    means = {}
    for conv in ("mean", "flatten", "dft"):
        found = compared(*layers, measures="cka_debiased", conv=conv).cka_debiased
        values = found.to_numpy()[np.triu_indices(24, 1)]
        means[conv] = values.mean()
        if conv != "dft":
            assert abs(means[conv]) < 4 * values.std() / np.sqrt(len(values))
    # As its description and the page on the DFT say.
    assert 0.01 < means["dft"] < 0.02
    assert "translations (conv='dft')" in found.attrs["comment"]


def test_cka_debiased__is_none_where_it_would_divide_zero_by_zero() -> None:
    rng = np.random.default_rng(10)
    # No two samples of the first have anything in common, nor of the second, each neuron of which sees one.
    found = compared(np.eye(50) + 3, np.eye(50)[:, :4], rng.normal(size=(50, 3)))
    np.testing.assert_array_equal(found.cka_debiased.notnull(), np.outer([0, 0, 1], [0, 0, 1]))
    assert "orthogonal to one another" in found.cka_debiased.attrs["comment"]
    assert found.cka.notnull().all()


def test_measures__of_layers_with_nothing_at_the_frequencies_they_share() -> None:
    # The larger layer has one frequency, which the smaller does not reach.
    rng = np.random.default_rng(11)
    stripes = np.cos(np.pi * np.arange(8))[np.newaxis, :, np.newaxis, np.newaxis] * np.ones((20, 8, 8, 1))
    found = compared(stripes * rng.normal(size=(20, 1, 1, 2)), rng.normal(size=(20, 4, 4, 2)))
    assert (found.pair_status == PairStatus.DONE).all()
    for measure in find_measures("all"):
        if measure.role == "similarity":
            assert float(found[measure.name][0, 1]) == 0, measure.name
    assert np.isfinite(found.gulp).all()
