"""Measures: each against its definition on raw arrays, its stated invariances, symmetry and range; names; one's own."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import dask
import measure_oracles as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import OTHER, RAMP
from test_compare import graph_of, peak_memory
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.cluster import connect
from dask_svcca.engine import tile as tile_module
from dask_svcca.engine.compare import plan_comparison
from dask_svcca.errors import UnknownMeasureError
from dask_svcca.kernels.pairs import PairStack, Side
from dask_svcca.measures import (
    Measure,
    PairTotals,
    Totals,
    find_measures,
    register_measure,
    with_companions,
)
from dask_svcca.plan.parameters import Parameters
from dask_svcca.stores.subspaces import read_record
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import xarray as xr

pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")

AXES = {2: None, 3: ("example", "width", "channel"), 4: ("example", "height", "width", "channel")}
BUILT_IN = (
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
    "partial_procrustes",
)
REFERENCES = ("null_svcca", "null_cca", "significant", "spurious", "spurious_cca", "null_cka")


def make_zoo(layers: Sequence[np.ndarray], store: Any = None) -> dask_svcca.Zoo:
    zoo = dask_svcca.create_zoo(MemoryStore() if store is None else store, examples=range(len(layers[0])))
    with zoo:
        for index, layer in enumerate(layers):
            zoo.write("net", "1", f"{index:02}", layer, dims=AXES[layer.ndim])
    return zoo


def compared(*layers: np.ndarray, measures: Any = "all", **options: Any) -> xr.Dataset:
    """All pairs of some layers, in their order."""
    with dask.config.set(scheduler="synchronous"):
        return dask_svcca.compare(make_zoo(layers), MemoryStore(), measures=measures, **options).load()


def related(samples: int, *widths: int, seed: int = 0, noise: float = 0.5) -> list[np.ndarray]:
    """Layers of some neurons each that have signals in common, and a mean."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(samples, max(widths)))
    return [
        common[:, :p] @ rng.normal(size=(p, p)) / np.sqrt(p) + noise * rng.normal(size=(samples, p)) + 2 for p in widths
    ]


def images(*sizes: tuple[int, ...], examples: int = 20, seed: int = 0) -> list[np.ndarray]:
    """Convolutional layers over the same images, (height, width, channels) each; smaller ones are strided."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(examples, *sizes[0][:-1], 3))
    found = []
    for *grid, channels in sizes:
        seen = common[(slice(None), *(slice(None, None, fine // n) for fine, n in zip(sizes[0], grid, strict=False)))]
        seen = seen[(slice(None), *map(slice, grid))] @ rng.normal(size=(3, channels))
        found.append(seen + 0.5 * rng.normal(size=seen.shape) + 1)
    return found


def assert_agrees(found: xr.Dataset, a: int, b: int, expected: dict[str, float], tolerance: float) -> None:
    for name, value in expected.items():
        computed = float(found[name][a, b])
        if name == "gulp":
            # The root of a small difference of sums over all directions: what is exact is its square.
            rank = int(max(found.rank_a[a], found.rank_a[b]))
            assert computed**2 == pytest.approx(value**2, abs=rank * tolerance), name
        else:
            assert computed == pytest.approx(value, abs=tolerance), name


# Against the definitions.


@pytest.mark.parametrize(
    ("samples", "widths"),
    [(200, (7, 5)), (100, (1, 30)), (40, (50, 9)), (30, (29, 28))],
    ids=["few", "one neuron", "more neurons than samples", "hardly fewer"],
)
def test_measures__are_their_definitions(samples: int, widths: tuple[int, int]) -> None:
    layers = related(samples, *widths)
    found = compared(*layers, variance=None, precision="float64")
    for a, b in np.ndindex(2, 2):
        assert_agrees(found, a, b, oracle.measures(layers[a], layers[b]), 1e-10)


def test_measures__of_scores_in_single_precision() -> None:
    layers = related(300, 60, 40, 8)
    found = compared(*layers, variance=None)
    for a, b in np.ndindex(3, 3):
        expected = oracle.measures(layers[a], layers[b])
        assert_agrees(found, a, b, expected, 1e-6)
        assert float(found.svcca[a, b]) == pytest.approx(expected["cca"], abs=1e-7)


@pytest.mark.parametrize("variance", [0.5, 0.9])
def test_measures__look_at_the_kept_directions_or_at_all(variance: float) -> None:
    layers = related(200, 12, 9, noise=0.1)
    found = compared(*layers, variance=variance, precision="float64")
    assert (found.rank_a < [12, 9]).all()
    kept = []
    for layer, rank in zip(layers, found.rank_a.to_numpy(), strict=True):
        left, singular, _ = np.linalg.svd(layer - layer.mean(axis=0), full_matrices=False)
        kept.append(left[:, :rank] * singular[:rank])
    assert float(found.svcca[0, 1]) == pytest.approx(oracle.measures(*kept)["cca"], abs=1e-10)
    assert_agrees(found, 0, 1, oracle.measures(*layers), 1e-10)


def test_measures__of_deficient_rank() -> None:
    rng = np.random.default_rng(1)
    thin, other = related(100, 4, 6)
    wide = thin @ rng.normal(size=(4, 9)) + 5
    found = compared(wide, other, variance=None, precision="float64")
    np.testing.assert_array_equal(found.rank_a, [4, 6])
    assert_agrees(found, 0, 1, oracle.measures(wide, other), 1e-10)
    assert_agrees(found, 1, 0, oracle.measures(other, wide), 1e-10)


def augmented(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Measures of all translations; those whose definition for convolutional layers is by frequency are left out."""
    found = oracle.measures(*oracle.augmented(x, y))
    return {name: value for name, value in found.items() if name not in {"pwcca", "pls"}}


@pytest.mark.parametrize(
    "layers",
    [
        images((4, 4, 2), (4, 4, 3)),
        images((3, 4, 3), (3, 4, 2)),
        images((5, 4), (5, 2)),
        [images((4, 3, 3))[0], related(20, 4)[0]],
    ],
    ids=["even", "odd and even", "one axis", "dense"],
)
def test_measures__of_convolutional_layers_are_those_of_all_translations(layers: list[np.ndarray]) -> None:
    found = compared(*layers, variance=None, precision="float64")
    for a, b in np.ndindex(2, 2):
        assert_agrees(found, a, b, augmented(layers[a], layers[b]), 1e-10)


@pytest.mark.parametrize(
    "sizes", [((4, 4, 2), (4, 4, 3)), ((8, 8, 2), (4, 4, 3)), ((8, 6, 3), (4, 6, 2)), ((6, 6, 2), (3, 3, 2))]
)
def test_measures__weighted_by_frequency_are_sums_over_the_full_plane(sizes: Any) -> None:
    layers = images(*sizes)
    found = compared(*layers, variance=None, precision="float64")
    for a, b in np.ndindex(2, 2):
        assert_agrees(found, a, b, oracle.by_frequency(layers[a], layers[b]), 1e-10)


@pytest.mark.parametrize("sizes", [((6, 6, 2), (3, 3, 2)), ((5, 6, 2), (5, 3, 3))])
def test_measures__of_cropped_layers_are_those_of_the_low_passed(sizes: Any) -> None:
    layers = images(*sizes)
    low = [oracle.low_passed(layer, sizes[1][:-1]) for layer in layers]
    found = compared(*layers, variance=None, precision="float64")
    for a, b in ((0, 1), (1, 0)):
        assert_agrees(found, a, b, augmented(low[a], low[b]), 1e-10)


# The kernels alone.


def stack_of(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[PairStack, list[tuple[Totals, Totals]], list[float]]:
    """Pairs of layers as one stack; what their measures divide by; and the products of their row norms."""
    sides: list[list[Any]] = [[], []]
    for pair in pairs:
        for side, layer in zip(sides, pair, strict=True):
            side.append(np.linalg.svd(layer - layer.mean(axis=0), full_matrices=False))
    coupling = np.stack([a[0].T @ b[0] for a, b in zip(*sides, strict=True)])
    spectra = [np.stack([singular**2 for _, singular, _ in side]) for side in sides]
    made = [
        Side(
            spectrum=spectrum,
            variance=spectrum.sum(axis=1),
            rank=np.full(len(pairs), spectrum.shape[1], dtype=float),
            member=np.arange(len(pairs)),
            loadings={index: right.T for index, (_, _, right) in enumerate(side)},
        )
        for side, spectrum in zip(sides, spectra, strict=True)
    ]
    norms = [[np.square(layer - layer.mean(axis=0)).sum(axis=1) for layer in pair] for pair in pairs]

    def totals(measure: Measure, side: int, index: int) -> Totals:
        spectrum = spectra[side][index]
        numbers = (
            spectrum.size,
            spectrum.sum(),
            measure.own(spectrum, np.ones(spectrum.size)),
            norms[index][side] @ norms[index][side],
        )
        return Totals(*(np.array([[float(number)]]) for number in numbers))

    return PairStack(coupling, *made, degrees=len(pairs[0][0]) - 1), totals, [a @ b for a, b in norms]  # type: ignore[return-value]


def test_kernels__take_stacks_of_pairs() -> None:
    pairs = [tuple(related(50, 5, 4, seed=seed)) for seed in range(3)]
    stack, totals, norms = stack_of(pairs)
    for measure in find_measures("all"):
        sums = measure.sums(stack).reshape(3, -1)
        assert sums.shape == (3, measure.components)
        for index, (x, y) in enumerate(pairs):
            alone, _, _ = stack_of([(x, y)])
            np.testing.assert_allclose(sums[index], np.ravel(measure.sums(alone)), rtol=1e-12, err_msg=measure.name)
            a, b = totals(measure, 0, index), totals(measure, 1, index)
            value = measure.value(
                sums[index][np.newaxis, np.newaxis], a, b, PairTotals(50, 1, np.array([[norms[index]]]))
            )
            expected = oracle.measures(x, y)
            expected["svcca"] = expected["cca"]
            np.testing.assert_allclose(value, expected[measure.name], rtol=0, atol=1e-10, err_msg=measure.name)


# What each says of itself: invariances, symmetry, range.


def transformations(rng: np.random.Generator, neurons: int) -> dict[str, Any]:
    """Of a layer, by the words in which measures state their invariances."""
    rotation, other = (np.linalg.qr(rng.normal(size=(neurons, neurons)))[0] for _ in range(2))
    invertible = rotation * rng.uniform(0.2, 5, neurons) @ other
    offset, factor = 10 * rng.normal(size=neurons), rng.choice([-30.0, 0.02])
    return {
        "translation": lambda x: x + offset,
        "isotropic scaling": lambda x: factor * x,
        "orthogonal transformation": lambda x: x @ rotation,
        "invertible linear transformation": lambda x: x @ invertible,
    }


def claimed(measure: Measure, transformation: str, side: str) -> bool:
    return {transformation, f"{transformation} of {side}"} & set(measure.invariances) != set()


@settings(max_examples=6)
@given(seed=st.integers(0, 2**16), widths=st.tuples(st.integers(2, 7), st.integers(2, 7)), samples=st.integers(20, 60))
def test_measures__are_invariant_to_what_they_say(seed: int, widths: tuple[int, int], samples: int) -> None:
    x, y = related(samples, *widths, seed=seed)
    changes = transformations(np.random.default_rng(seed), widths[0])
    found = compared(y, x, *(change(x) for change in changes.values()), variance=None, precision="float64")
    checked = 0
    for measure in find_measures("all"):
        values = found[measure.name].to_numpy()
        for index, name in enumerate(changes, start=2):
            for side, before, after in (("a", values[1, 0], values[index, 0]), ("b", values[0, 1], values[0, index])):
                if claimed(measure, name, side) or (
                    name == "orthogonal transformation" and claimed(measure, "invertible linear transformation", side)
                ):
                    np.testing.assert_allclose(
                        after, before, rtol=0, atol=1e-9, err_msg=f"{measure.name}: {name} of {side}"
                    )
                    checked += 1
    assert checked > 60


def test_measures__are_not_invariant_to_what_they_do_not_claim() -> None:
    x, y = related(40, 5, 4)
    changes = transformations(np.random.default_rng(1), 5)
    found = compared(y, x, *(change(x) for change in changes.values()), variance=0.9, precision="float64")
    for measure in find_measures("all"):
        values = found[measure.name].to_numpy()
        for side, before, after in (("a", values[1, 0], values[-1, 0]), ("b", values[0, 1], values[0, -1])):
            assert claimed(measure, "invertible linear transformation", side) == (abs(after - before) < 1e-9), (
                measure.name
            )


@st.composite
def layers_of_any_kind(draw: st.DrawFn) -> list[np.ndarray]:
    """Few samples or many, more neurons than samples, deficient ranks."""
    seed, samples = draw(st.integers(0, 2**16)), draw(st.integers(4, 30))
    widths = draw(st.tuples(st.integers(1, 40), st.integers(1, 8)))
    rank = draw(st.integers(1, max(widths)))
    rng = np.random.default_rng(seed)
    layers = (layer[:, :rank] for layer in related(samples, *widths, seed=seed))
    return [layer @ rng.normal(size=(layer.shape[1], p)) for layer, p in zip(layers, widths, strict=True)]


@settings(max_examples=10)
@given(
    layers=layers_of_any_kind(),
    variance=st.sampled_from([0.8, None]),
    precision=st.sampled_from(["float32", "float64"]),
)
def test_measures__stay_in_their_range_and_symmetric(
    layers: list[np.ndarray], variance: float | None, precision: Any
) -> None:
    found = compared(*layers, variance=variance, precision=precision)
    for measure in with_companions(find_measures("all")):
        values = found[measure.name].to_numpy()
        low, high = measure.valid_range
        assert ((values >= low) & (values <= high)).all(), f"{measure.name} {values}"
        if measure.symmetric:
            np.testing.assert_array_equal(values, values.T, err_msg=measure.name)
        itself = {"similarity": 1.0, "distance": 0.0}.get(measure.role)
        if itself is not None:
            # These two are differences, and magnify the rounding of scores in single precision.
            differences = {"gulp", "cka_debiased"}
            tolerance = 1e-6 if precision == "float64" else 1e-2 if measure.name in differences else 1e-5
            np.testing.assert_allclose(np.diag(values), itself, atol=tolerance, err_msg=measure.name)
    assert found.pair_status.isin([PairStatus.DONE, PairStatus.SATURATED]).all()


def test_measures__that_are_not_symmetric_are_different_either_way() -> None:
    found = compared(*related(60, 7, 4))
    for measure in find_measures("all"):
        difference = abs(float(found[measure.name][0, 1] - found[measure.name][1, 0]))
        assert (difference == 0) == measure.symmetric == found[measure.name].attrs["symmetric"], measure.name


def test_measures__of_a_layer_with_itself_are_one() -> None:
    (x,) = related(300, 20)
    found = compared(x, variance=None, precision="float64")
    for measure in find_measures("all"):
        assert float(found[measure.name][0, 0]) == pytest.approx(0 if measure.role == "distance" else 1, abs=1e-6)


def test_measures__grow_with_what_layers_have_in_common() -> None:
    rng = np.random.default_rng(2)
    x, noise = rng.normal(size=(500, 6)), rng.normal(size=(500, 6))
    found = compared(x, *(np.cos(angle) * x + np.sin(angle) * noise for angle in (0.2, 0.8, 1.4)))
    for measure in find_measures("all"):
        values = found[measure.name][0].to_numpy()
        steps = np.diff(values) * (1 if measure.role == "distance" else -1)
        assert (steps > 0.01).all(), measure.name


# Closed forms.


def orthonormal(samples: int, directions: int) -> np.ndarray:
    """Centred and orthonormal."""
    return np.linalg.qr(
        np.hstack([np.ones((samples, 1)), np.random.default_rng(3).normal(size=(samples, directions))])
    )[0][:, 1:]


def test_measures__of_orthogonal_subspaces_are_zero() -> None:
    basis = orthonormal(40, 9)
    found = compared(basis[:, :5], 3 * basis[:, 5:], variance=None, precision="float64")
    for name in (
        "svcca",
        "cca",
        "pwcca",
        "r2_cca",
        "cka",
        "procrustes",
        "linear_regression",
        "pls",
        "partial_procrustes",
    ):
        assert float(found[name][0, 1]) == pytest.approx(0, abs=1e-12), name
    # U-centring takes from zero what chance would give.
    assert float(found.cka_debiased[0, 1]) < 0
    ridges = [rank * (1 / rank / (1 / rank + 0.01)) ** 2 for rank in (5, 4)]
    assert float(found.gulp[0, 1]) == pytest.approx(np.sqrt(sum(ridges)), rel=1e-12)


def test_measures__of_subspaces_that_share_directions() -> None:
    basis = orthonormal(40, 9)
    # Five and six directions of equal variance, of which two are the same.
    found = compared(basis[:, :5], 7 * basis[:, 3:], variance=None, precision="float64")
    shared = {"svcca": 2 / 5, "cca": 2 / 5, "r2_cca": 2 / 5, "pwcca": None, "linear_regression": 2 / 5, "pls": 2 / 5}
    shared |= dict.fromkeys(("cka", "procrustes", "partial_procrustes"), 2 / np.sqrt(30))
    for name, expected in shared.items():
        if expected is not None:
            assert float(found[name][0, 1]) == pytest.approx(expected, abs=1e-12), name
    assert float(found.linear_regression[1, 0]) == pytest.approx(2 / 6, abs=1e-12)


def test_measures__of_isotropic_scalings_are_one() -> None:
    (x,) = related(50, 6)
    found = compared(x, -1e5 * x, 1e-5 * x + 1, precision="float64")
    for measure in find_measures("all"):
        expected = 0 if measure.role == "distance" else 1
        np.testing.assert_allclose(found[measure.name], expected, rtol=0, atol=1e-6, err_msg=measure.name)


def test_measures__the_published_example() -> None:
    found = compared(RAMP, OTHER.astype(float))
    assert found.rank_a.to_numpy().tolist() == [1, 4]
    assert float(found.cka[0, 1]) == pytest.approx(0.2815, abs=5e-5)
    assert float(found.svcca[0, 1]) == pytest.approx(0.8125, abs=5e-5)


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
        low, high = measure.valid_range
        assert ((values >= low) & (values <= high)).all(), f"{measure.name} {values}"


def test_cka_debiased__is_none_where_it_would_divide_zero_by_zero() -> None:
    rng = np.random.default_rng(10)
    # No two samples of the first have anything in common, nor of the second, each neuron of which sees one.
    found = compared(np.eye(50) + 3, np.eye(50)[:, :4], rng.normal(size=(50, 3)))
    np.testing.assert_array_equal(found.cka_debiased.notnull(), np.outer([0, 0, 1], [0, 0, 1]))
    assert "orthogonal to one another" in found.cka_debiased.attrs["long_name"]
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


# By name.


def test_find_measures__all_are_all_but_the_references() -> None:
    names = {measure.name for measure in find_measures("all")}
    assert names >= set(BUILT_IN)
    assert not names & set(REFERENCES)
    assert {measure.name for measure in with_companions(find_measures(BUILT_IN))} == {*BUILT_IN, *REFERENCES}


def test_measures__describe_themselves() -> None:
    found = compared(*related(30, 3, 2))
    for name in (*BUILT_IN, *REFERENCES):
        attributes = found[name].attrs
        assert attributes["sense"] in {"similarity", "distance", "reference"}
        assert len(attributes["long_name"]) > 20
        assert attributes["reference"]
        assert attributes["valid_range"][0] in {0, -1}
        assert attributes["sense"] == "reference" or "translation" in attributes["invariant_to"]


def test_compare__parameters_stand_side_by_side() -> None:
    layers = related(80, 6, 5)
    names = (
        "gulp(lambda=1)",
        "gulp",
        "gulp(lambda=1e-4)",
        "partial_procrustes(alpha=1)",
        "partial_procrustes(alpha=0.0)",
    )
    found = compared(*layers, measures=(*names, "procrustes", "cca"), variance=None, precision="float64")
    x, y = (layer - layer.mean(axis=0) for layer in layers)
    for name, lam in (("gulp(lambda=1)", 1), ("gulp", 0.01), ("gulp(lambda=1e-4)", 1e-4)):
        assert float(found[name][0, 1]) == pytest.approx(oracle.gulp(x, y, lam), rel=1e-9)
    np.testing.assert_allclose(found["partial_procrustes(alpha=1)"], found.procrustes, rtol=1e-10)
    # Whitened, it is the sum of the correlations over the geometric mean of the ranks.
    assert float(found["partial_procrustes(alpha=0.0)"][0, 1]) == pytest.approx(
        float(found.cca[0, 1]) * 5 / np.sqrt(30)
    )
    again = ("gulp(lambda=1)", "cca")
    assert [measure.name for measure in find_measures((*again, *again))] == list(again)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("svca", "no measure 'svca'; there are .*cka, .*gulp\\(lambda=...\\), .*svcca, .*or 'all'"),
        ("gulp(alpha=1)", "gulp takes one number, lambda=...; got 'gulp\\(alpha=1\\)'"),
        ("gulp(lambda='x')", "gulp takes one number"),
        ("gulp(lambda=x)", "gulp takes one number"),
        ("gulp(lambda=0)", "gulp's lambda is above 0, a share of the variance; got 0.0"),
        ("gulp(lambda=1e999)", "gulp's lambda is above 0"),
        ("partial_procrustes(alpha=1.5)", "alpha is from 0 .* to 1 .*; got 1.5"),
        ("cka(lambda=1)", "no measure 'cka\\(lambda=1\\)'"),
        ("gulp(lambda=1", "no measure"),
    ],
)
def test_find_measures__says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(UnknownMeasureError, match=message):
        find_measures(("svcca", name))


# What only svcca needs.


def test_compare__svcca_alone_does_not_pay_for_full_rank() -> None:
    layers = related(100, 20, 15, noise=0.05)
    images_too = images((4, 4, 3), examples=100)
    for measures, full in (("svcca", False), (("svcca", "cka"), True)):
        store = MemoryStore()
        with dask.config.set(scheduler="synchronous"):
            found = dask_svcca.compare(make_zoo([*layers, *images_too]), store, measures=measures, variance=0.8)
        for index, neurons in enumerate((20, 15, 48)):
            record = read_record(
                dask_svcca.stores.comparison.ComparisonStore.open(store).root, f"subspaces/net/1/{index:02}"
            )
            assert record is not None
            assert record.kept_rank == int(found.rank_a[index]) < neurons
            assert record.rank == (neurons if full else record.kept_rank)


@pytest.mark.parametrize(
    ("shape", "measures"),
    [((400, 60), "all"), ((300, 4, 4, 8), "all"), ((400, 30), "pwcca"), ((6000, 12), "svcca")],
    ids=["dense", "convolutional", "loadings", "narrow"],
)
def test_compute_tile__stays_within_its_memory_whatever_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], measures: str
) -> None:
    monkeypatch.setattr(tile_module, "STACK_BYTES", 2**17)
    rng = np.random.default_rng(12)
    zoo = make_zoo([rng.normal(size=shape).astype("float32") for _ in range(9)], tmp_path / "zoo.zarr")
    memory = 2**21
    names = tuple(measure.name for measure in find_measures(measures))
    graph = graph_of(zoo, tmp_path / "c.zarr", variance=None, measures=names)
    for key, (function, job, value, *_) in ((key, task) for key, task in graph.items() if not key.startswith("group")):
        if key.startswith("subspace"):
            function(job, value)
        else:
            report, peak = peak_memory((function, replace(job, memory=memory), value))
            assert report.missing == 0
            assert peak < memory


def test_compute_subspace__counts_the_memory_of_loadings(tmp_path: Path) -> None:
    zoo = make_zoo([np.random.default_rng(13).normal(size=(100, 4000)).astype("float32")], tmp_path / "zoo.zarr")
    plans, peaks = [], []
    for measures in (("cka",), ("pwcca",)):
        parameters = Parameters(measures=measures)
        plans.append(plan_comparison(zoo, tmp_path / measures[0], parameters, memory=2**31))
        graph = graph_of(zoo, tmp_path / measures[0], measures=measures)
        (task,) = [task for key, task in graph.items() if key.startswith("subspace")]
        report, peak = peak_memory((task[0], replace(task[1], memory=0), task[2]))
        assert report.problem == ""
        peaks.append(peak)
    assert plans[1].subspace_bytes > peaks[1] > peaks[0]
    assert plans[0].subspace_bytes > peaks[0]


# One's own.


@pytest.fixture
def max_correlation() -> Iterator[str]:
    """A measure that only this process knows of."""
    name = "max_correlation"

    @register_measure(
        name,
        description="largest canonical correlation",
        directions="kept",
        value=lambda sums, _a, _b, _pairs: sums[..., 0],
        invariances=("translation",),
    )
    def largest(pairs: PairStack) -> np.ndarray:
        return pairs.correlations[:, 0]

    yield name
    dask_svcca.measures._REGISTRY.pop(name)


def test_register_measure__is_compared_by(max_correlation: str) -> None:
    x, y = related(60, 6, 5)
    found = compared(x, y, measures=("svcca", max_correlation), keep="correlations", precision="float64")
    np.testing.assert_allclose(found[max_correlation], found.correlations.max("component"), rtol=0, atol=1e-6)
    assert found[max_correlation].attrs["sense"] == "similarity"
    assert max_correlation in {measure.name for measure in find_measures("all")}


def test_register_measure__workers_need_not_know_it(max_correlation: str, tmp_path: Path) -> None:
    layers = related(60, 6, 5, 4)
    expected = compared(*layers, measures=max_correlation)
    zoo = make_zoo(layers, tmp_path / "zoo.zarr")
    with connect(workers=1, memory="1GiB") as client:
        known = client.run(lambda: "max_correlation" in __import__("dask_svcca.measures").measures._REGISTRY)
        assert not any(known.values())
        found = dask_svcca.compare(zoo, tmp_path / "comparison.zarr", measures=max_correlation, client=client).load()
    np.testing.assert_array_equal(found[max_correlation], expected[max_correlation])


@pytest.mark.parametrize("name", ["svcca", "gulp", "null_cka"])
def test_register_measure__does_not_replace_ours(name: str) -> None:
    with pytest.raises(UnknownMeasureError, match=f"there is a measure '{name}' already"):
        register_measure(name, description="mine")(lambda pairs: pairs.correlations.sum(axis=-1))


@pytest.mark.parametrize("name", ["1st", "my measure", "a/b", ""])
def test_register_measure__needs_a_name(name: str) -> None:
    with pytest.raises(UnknownMeasureError, match="is no name for a measure"):
        register_measure(name, description="mine")


@pytest.mark.parametrize("name", ["pair_status", "correlations", "svcca_by_frequency", "rank_a", "frequency_y"])
def test_register_measure__does_not_hide_what_else_is_stored(name: str) -> None:
    with pytest.raises(UnknownMeasureError, match=f"{name!r} is the name of another variable of a comparison"):
        register_measure(name, description="mine")


def test_register_measure__twice_is_the_latter(max_correlation: str) -> None:
    register_measure(max_correlation, description="another")(lambda pairs: pairs.correlations[:, -1])
    assert find_measures(max_correlation)[0].description == "another"
