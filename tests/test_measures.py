"""Measures: each against its definition on raw arrays, its stated invariances, symmetry and range."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import measure_oracles as oracle
import numpy as np
import pytest
from comparisons import graph_of, peak_memory, tasks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import compared, images, make_zoo, related
from oracles import OTHER, RAMP
from zoos import with_memory

from dask_svcca.kernels.couplings import HostCouplings
from dask_svcca.kernels.pairs import PairStack, Side
from dask_svcca.measures import (
    Measure,
    PairTotals,
    Totals,
    find_measures,
    with_companions,
)
from dask_svcca.plan import tiles as tiles_module
from dask_svcca.tasks import panel as panel_module
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]


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
        # What `SINGLE_SAMPLES` says of sums in single precision, whichever layers are compared beside.
        assert float(found.svcca[a, b]) == pytest.approx(expected["cca"], abs=1.4e-7)


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
            # Sums of kernels are for references alone.
            *3 * [np.nan],
        )
        return Totals(*(np.array([[float(number)]]) for number in numbers))

    return PairStack(HostCouplings(coupling), *made, degrees=len(pairs[0][0]) - 1), totals, [a @ b for a, b in norms]  # type: ignore[return-value]


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
            expected["whitened_procrustes"] = expected["cca"] * 4 / np.sqrt(5 * 4)
            expected["r2_cca_adjusted"] = (4 * expected["r2_cca"] - 5 * 4 / 49) / (4 - 5 * 4 / 49)
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
        if measure.name == "r2_cca_adjusted":
            # Nothing is left where samples fix all correlations.
            values = np.where(found.null_r2_cca > 1 - 1e-9, 1.0, values)
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


# What measures need.


@pytest.mark.parametrize(("measures", "all_directions"), [("svcca", False), (("svcca", "cka"), True)])
def test_compare__svcca_alone_does_not_pay_for_full_rank(
    monkeypatch: pytest.MonkeyPatch, measures: Any, all_directions: bool
) -> None:
    panels, make = [], panel_module.Panel

    def watched(context: Any, members: Any) -> Any:
        panels.append(make(context, members))
        return panels[-1]

    monkeypatch.setattr(panel_module, "Panel", watched)
    layers = [*related(100, 20, 15, noise=0.05), *images((4, 4, 3), examples=100)]
    found = compared(*layers, measures=measures, variance=0.8)
    directions = {tuple(panel.members): panel.directions for panel in panels}
    ranks = found.rank_a.to_numpy()
    assert (ranks < [20, 15, 48]).all()
    # Three channels at each of ten frequencies, of which six count twice.
    assert directions[0, 1] == (35 if all_directions else ranks[:2].sum())
    # The only one of its kind.
    assert directions[0,] == 30 if all_directions else ranks[2] / 2 <= directions[0,] < 30


@pytest.mark.parametrize(
    ("shape", "measures"),
    [((400, 60), "all"), ((300, 4, 4, 8), "all"), ((400, 30), "pwcca"), ((6000, 12), "svcca")],
    ids=["dense", "convolutional", "loadings", "narrow"],
)
def test_compute_tile__stays_within_its_memory_whatever_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], measures: str
) -> None:
    monkeypatch.setattr(tiles_module, "STACK_BYTES", 2**17)
    with_memory(monkeypatch, memory := 4 * 2**20)
    rng = np.random.default_rng(12)
    zoo = make_zoo([rng.normal(size=shape).astype("float32") for _ in range(9)], tmp_path / "zoo.zarr")
    names = tuple(measure.name for measure in find_measures(measures))
    graph = graph_of(zoo, tmp_path / "c.zarr", variance=None, measures=names)
    for function, task in tasks_of(graph, "subspaces"):
        function(task)
    for task in tasks_of(graph, "tile"):
        assert task[1].memory.peak <= memory
        report, peak = peak_memory(task)
        assert report.computed in {36, 8, 1}
        assert peak < task[1].memory.peak


def test_make_pack__counts_the_memory_of_loadings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 2**31)
    zoo = make_zoo([np.random.default_rng(13).normal(size=(100, 4000)).astype("float32")], tmp_path / "zoo.zarr")
    predicted, peaks = [], []
    for measures in (("cka",), ("pwcca",)):
        ((function, pack),) = tasks_of(graph_of(zoo, tmp_path / measures[0], measures=measures), "subspaces")
        (member,) = pack.members
        # With no memory to spare it keeps nothing between its passes.
        least = replace(pack, members=(replace(member, memory=replace(member.memory, held=0)),))
        (report,), peak = peak_memory((function, least))
        assert report.problem == ""
        predicted.append(pack.memory)
        peaks.append(peak)
    assert predicted[1] > peaks[1] > peaks[0]
    assert predicted[0] > peaks[0]
