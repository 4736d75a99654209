"""What chance gives: laws against simulation and against the sums they approximate, counts against the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import FewSamplesWarning
from dask_svcca.kernels.chance import (
    expected_correlation,
    significant_correlations,
    significant_of_sizes,
    spurious_correlations,
)

if TYPE_CHECKING:
    import xarray as xr


def simulate(
    samples: int,
    k: int,
    m: int,
    *,
    repeats: int = 1,
    planted: tuple[float, ...] = (),
    complex_values: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, int]:
    """Canonical correlations of Gaussian layers, (repeat, component), and the degrees of freedom.

    The first directions have the planted correlations, the others none. Real samples are centred, complex ones are not:
    as the frequencies of a convolutional layer.
    """
    rng = np.random.default_rng(seed)

    def layer(width: int) -> np.ndarray:
        values = rng.normal(size=(repeats, samples, width))
        return values + 1j * rng.normal(size=values.shape) if complex_values else values

    a, b = layer(k), layer(m)
    for index, strength in enumerate(planted):
        b[..., index] = strength * a[..., index] + np.sqrt(1 - strength**2) * b[..., index]
    if not complex_values:
        a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    bases = [x @ np.linalg.inv(np.linalg.cholesky(x.conj().swapaxes(1, 2) @ x)).conj().swapaxes(1, 2) for x in (a, b)]
    coupling = bases[0].conj().swapaxes(1, 2) @ bases[1]
    return np.linalg.svd(coupling, compute_uv=False), samples - (not complex_values)


# Wachter's law.


def test_expected_correlation__of_a_hundred_neurons_and_fifty() -> None:
    found, degrees = simulate(2000, 100, 50, repeats=3)
    assert found.mean() == pytest.approx(0.2084, abs=0.0008)
    # The law is of infinitely many: here it is half a percent high.
    assert found.mean() == pytest.approx(expected_correlation(100, 50, degrees), rel=0.005)


def test_expected_correlation__of_five_hundred_neurons() -> None:
    found, degrees = simulate(10_000, 500, 500)
    assert found.mean() == pytest.approx(0.1908, abs=0.0005)
    assert found.mean() == pytest.approx(expected_correlation(500, 500, degrees), abs=0.0005)
    assert found[0, :20].mean() == pytest.approx(0.412, abs=0.002)


@pytest.mark.parametrize(("k", "m", "samples"), [(40, 40, 200), (20, 60, 90), (70, 50, 100)])
@pytest.mark.parametrize("complex_values", [False, True])
def test_expected_correlation__is_what_simulation_gives(k: int, m: int, samples: int, complex_values: bool) -> None:
    found, degrees = simulate(samples, k, m, repeats=30, complex_values=complex_values)
    assert found.mean() == pytest.approx(expected_correlation(k, m, degrees), rel=0.01)
    assert expected_correlation(k, m, degrees) == expected_correlation(m, k, degrees)


@given(degrees=st.integers(2, 400), data=st.data())
def test_expected_correlation__is_one_only_without_degrees_to_spare(degrees: int, data: st.DataObject) -> None:
    k, m = (data.draw(st.integers(1, degrees)) for _ in range(2))
    found = expected_correlation(k, m, degrees)
    assert 0 < found <= 1
    assert (found == 1) == (max(k, m) >= degrees)
    # More samples: less chance.
    assert expected_correlation(k, m, 2 * degrees) < found
    # Those that are 1 whatever the data are counted as such.
    assert found >= spurious_correlations(k, m, degrees) / min(k, m)


def test_expected_correlation__of_no_direction_is_none() -> None:
    assert expected_correlation(0, 5, 10) == expected_correlation(5, 0, 10) == 0


# Correlations of 1 whatever the data.


@pytest.mark.parametrize(("k", "m", "samples"), [(30, 25, 40), (39, 10, 40), (39, 39, 40), (20, 19, 40), (20, 20, 40)])
@pytest.mark.parametrize("complex_values", [False, True])
def test_spurious_correlations__are_those_that_are_one(k: int, m: int, samples: int, complex_values: bool) -> None:
    found, degrees = simulate(samples, k, m, repeats=5, complex_values=complex_values)
    ones = (found > 1 - 1e-10).sum(axis=1)
    np.testing.assert_array_equal(ones, spurious_correlations(k, m, degrees))


# Significance.


def by_the_law(r: np.ndarray, k: int, m: int, degrees: int, level: float, overlap: float, *, half: bool) -> int:
    """How many are significant, from the definition; ``half`` the variance is that of complex samples."""
    for found in range(len(r)):
        left = degrees - 2 * found + min(np.sum(r[:found] ** -2.0), degrees)
        x, y = k - found, m - found
        mean = x * y / left
        variance = 2 * x * y * (left - x) * (left - y) / (left**2 * (left + 2) * (left - 1))
        if half:
            variance = x * y * (left - x) * (left - y) / (left**2 * (left**2 - 1))
        law = scipy.stats.gamma(a=mean**2 / variance, scale=overlap * variance / mean)
        if law.sf(np.sum(r[found:] ** 2)) >= level:
            return found
    return len(r)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("complex_values", [False, True])
@pytest.mark.parametrize(("k", "m", "samples"), [(1, 1, 4), (2, 3, 7), (12, 9, 60), (30, 29, 60), (3, 96, 100)])
def test_significant_correlations__are_those_of_the_law(
    k: int, m: int, samples: int, complex_values: bool, many: bool
) -> None:
    rng = np.random.default_rng(k)
    planted = (0.95, 0.7)[: min(k, m)]
    r, degrees = simulate(samples, k, m, repeats=60, planted=planted, complex_values=complex_values)
    level, overlap = rng.choice([0.5, 0.05, 4e-4], 60), rng.choice([0.7, 1.0, 1.1], 60)
    found = significant_correlations(
        r, k, m, degrees, is_complex=complex_values, level=level, overlap=overlap, many=many
    )
    each = zip(r, level, np.maximum(overlap, 1), strict=True)
    expected = [by_the_law(one, k, m, degrees, *rest, half=complex_values) for one, *rest in each]
    np.testing.assert_array_equal(found, expected)
    assert len({*found.tolist()}) > 1


@given(
    r=arrays(np.float64, (9, 7), elements=st.floats(0, 1) | st.sampled_from([0.0, 1e-160, 0.3, 1.0])),
    k=st.integers(7, 30),
    degrees=st.integers(7, 90),
    complex_values=st.booleans(),
    seed=st.integers(0, 99),
)
def test_significant_correlations__are_the_same_compiled(
    r: np.ndarray, k: int, degrees: int, complex_values: bool, seed: int
) -> None:
    r, rng = -np.sort(-r, axis=1), np.random.default_rng(seed)
    level, overlap = rng.choice([0.5, 0.05, 4e-4], 9), rng.choice([0.7, 1.0, 3.0], 9)
    one, other = (
        significant_correlations(r, k, 7, degrees, is_complex=complex_values, level=level, overlap=overlap, many=many)
        for many in (False, True)
    )
    np.testing.assert_array_equal(one, other)
    if not complex_values:
        sizes = rng.integers(1, 8, (9, 2))
        r[np.arange(7) >= sizes.min(axis=1, keepdims=True)] = 0
        one, other = (
            significant_of_sizes(r, sizes, degrees, level=level, overlap=overlap, many=many) for many in (False, True)
        )
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("complex_values", [False, True])
def test_significant_correlations__just_above_and_below_every_threshold(complex_values: bool, many: bool) -> None:
    levels = np.concatenate([np.logspace(-12, -2, 60), np.linspace(0.01, 0.5, 60)])
    for m in (1, 2, 3, 5, 8, 15, 40, 200, 3000):
        for degrees in (m + 3, 2 * m + 1, 10 * m, 10_000 * m):
            freedom = degrees**2 - 1 if complex_values else (degrees + 2) * (degrees - 1) / 2
            shape = m * freedom / ((degrees - 1) * (degrees - m))
            threshold = m / degrees * scipy.special.gammainccinv(shape, levels) / shape
            for factor in (1 - 1e-9, 1 + 1e-9):
                r = np.sqrt(threshold * factor)[:, np.newaxis]
                found = significant_correlations(r, 1, m, degrees, is_complex=complex_values, level=levels, many=many)
                assert (found == (factor > 1)).all(), (m, degrees, levels[found != (factor > 1)])


@pytest.mark.parametrize(("k", "m", "degrees"), [(4, 3, 30), (20, 5, 60)])
def test_significant_correlations__moments_are_those_of_independent_layers(k: int, m: int, degrees: int) -> None:
    found, _ = simulate(degrees + 1, k, m, repeats=3000)
    sums = np.square(found).sum(axis=1)
    variance = 2 * k * m * (degrees - k) * (degrees - m) / (degrees**2 * (degrees + 2) * (degrees - 1))
    assert sums.mean() == pytest.approx(k * m / degrees, rel=0.01)
    assert sums.var() == pytest.approx(variance, rel=0.08)


@pytest.mark.parametrize("complex_values", [False, True])
@pytest.mark.parametrize(("k", "m", "samples"), [(10, 8, 200), (20, 20, 50), (15, 14, 32), (5, 5, 12), (1, 1, 20)])
def test_significant_correlations__chance_is_rarely_taken_for_more(
    k: int, m: int, samples: int, complex_values: bool
) -> None:
    repeats = 1000
    found, degrees = simulate(samples, k, m, repeats=repeats, complex_values=complex_values)
    counts = significant_correlations(found, k, m, degrees, is_complex=complex_values)
    # At the level 0.05, to three standard errors of the share.
    assert (counts > 0).mean() == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / repeats))


@pytest.mark.parametrize("complex_values", [False, True])
def test_significant_correlations__finds_those_that_were_planted(complex_values: bool) -> None:
    repeats = 200
    planted = (0.9, 0.8, 0.7)
    found, degrees = simulate(300, 20, 15, repeats=repeats, planted=planted, complex_values=complex_values)
    counts = significant_correlations(found, 20, 15, degrees, is_complex=complex_values)
    assert counts.min() == 3
    assert (counts > 3).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)


@pytest.mark.parametrize("level", [0.5, 0.05])
def test_significant_correlations__many_samples_are_chi_squared(level: float) -> None:
    found, degrees = simulate(5000, 4, 3, repeats=200)
    chance = scipy.special.chdtrc(12, degrees * np.square(found).sum(axis=1))
    counts = significant_correlations(found, 4, 3, degrees, is_complex=False, level=level)
    clear = np.abs(chance - level) > 0.01
    np.testing.assert_array_equal(counts[clear] > 0, chance[clear] < level)


@pytest.mark.parametrize(("k", "m"), [(20, 19), (25, 20), (30, 30)])
def test_significant_correlations__without_degrees_to_spare(k: int, m: int) -> None:
    # As many directions as 40 samples have degrees of freedom, or more: some are 1 whatever the data.
    found, degrees = simulate(40, k, m, repeats=1000)
    counts = significant_correlations(found, k, m, degrees, is_complex=False)
    assert (counts > 0).mean() == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 1000))
    planted, _ = simulate(40, k, m, repeats=100, planted=(0.99,) * 8)
    assert significant_correlations(planted, k, m, degrees, is_complex=False).mean() > 0.5


def test_significant_correlations__where_samples_fix_all_are_none() -> None:
    found, degrees = simulate(40, 39, 5)
    np.testing.assert_array_equal(significant_correlations(found, 39, 5, degrees, is_complex=False), [0])


def test_significant_correlations__of_a_layer_with_itself_are_all() -> None:
    # Correlations of exactly 1, and one of exactly 0.
    counts = significant_correlations(np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]), 3, 3, 99, is_complex=False)
    np.testing.assert_array_equal(counts, [3, 2])


def test_significant_correlations__of_no_direction_are_none() -> None:
    assert significant_correlations(np.zeros((4, 0)), 3, 0, 99, is_complex=False).tolist() == [0, 0, 0, 0]


# Said where it matters.


def compared(*layers: np.ndarray, **options: Any) -> xr.Dataset:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(len(layers[0])))
    for index, layer in enumerate(layers):
        dims = ("example", "height", "width", "channel") if layer.ndim == 4 else None
        zoo.write("net", "1", str(index), layer, dims=dims)
    return dask_svcca.compare(zoo, MemoryStore(), **options)


def test_compare__warns_once_of_few_samples_with_numbers() -> None:
    rng = np.random.default_rng(2)
    layers = [rng.normal(size=(100, p)) for p in (20, 21, 50, 3)]
    with pytest.warns(FewSamplesWarning) as caught:
        compared(*layers, variance=None)
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith("2 of 4 representations have fewer than 5 samples per kept direction")
    assert "'net/1/2': 100 samples, 50 directions" in message
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        (3, "With 3 examples, fewer than 10, p-values are NaN"),
        (9, "With 9 examples, .*rough, and none is below 2.8e-06,"),
    ],
)
def test_compare__warns_once_of_few_examples_with_their_number(examples: int, said: str) -> None:
    x, y = np.random.default_rng(2).normal(size=(2, examples, 1))
    with pytest.warns(FewSamplesWarning, match=said) as caught:
        compared(x, y, measures="svcca, cka")
    assert len(caught) == 1


def test_compare__of_few_examples_says_nothing_of_p_values_that_there_are_not() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 9, 1))
    compared(x, y, measures="procrustes")
    x, y = np.random.default_rng(2).normal(size=(2, 10, 1))
    compared(x, y, measures="svcca, cka")


def test_compare__names_the_null_that_there_is() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 30, 20))
    for measure, null in {"svcca": "; null_svcca is what", "cca": "; null_cca is what", "r2_cca_adjusted": ""}.items():
        with pytest.warns(FewSamplesWarning, match=f"or a lower variance{null or '$'}"):
            compared(x, y, measures=measure, variance=None)


def test_compare__counts_the_directions_that_are_kept() -> None:
    rng = np.random.default_rng(3)
    compared(rng.normal(size=(100, 50)) * np.logspace(0, -2, 50), variance=0.9)


def test_compare__counts_translations_as_samples() -> None:
    rng = np.random.default_rng(4)
    compared(rng.normal(size=(30, 8, 8, 6)), variance=None)
    with pytest.warns(FewSamplesWarning, match="1920 samples, 448 directions"):
        compared(rng.normal(size=(30, 8, 8, 7)), variance=None)
