"""Nulls of all pairs: what a comparison stores, against the orders of the examples themselves."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from measured import compared, images, make_zoo, related
from oracles import basis
from test_orders import KINDS, layer
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import FailedRepresentationWarning
from dask_svcca.measures import DERIVED, find_measures
from dask_svcca.plan import comparison
from dask_svcca.tasks.panel import Panel

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]

NULLED = ("cka", "r2_cca", "svcca")


def in_all_orders(x: np.ndarray, y: np.ndarray, measures: Any, **options: Any) -> Any:
    """The first layer against the second in each order of its examples."""
    every = [y[list(order)] for order in permutations(range(len(y)))]
    count = len(every) + 1
    pairs = np.zeros((count, count), dtype=bool)
    pairs[0, 1:] = True
    return compared(x, *every, measures=measures, pairs=pairs, **options).isel(representation_a=0)


@pytest.mark.parametrize(
    ("measures", "precision"),
    [
        ("cka", "float64"),
        ("r2_cca", "float64"),
        (("cka", "r2_cca", "svcca"), "float64"),
        (("cka", "r2_cca", "svcca"), "float32"),
    ],
)
def test_null__is_mean_and_deviation_over_all_orders_of_the_examples(measures: Any, precision: str) -> None:
    x, y = related(5, 3, 2)
    found = in_all_orders(x, y, measures, precision=precision, variance=None)
    others = found.isel(representation_b=slice(1, None))
    for name in {"cka", "r2_cca"} & set(np.atleast_1d(measures)):
        every, tolerance = others[name].to_numpy(), 1e-9 if precision == "float64" else 1e-5
        np.testing.assert_allclose(others[f"null_{name}"], every.mean(), rtol=tolerance, err_msg=name)
        np.testing.assert_allclose(others[f"null_{name}_sd"], every.std(), rtol=tolerance, err_msg=name)
        np.testing.assert_allclose(
            others[f"calibrated_{name}"], (every - every.mean()) / (1 - every.mean()), atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        (((30, 6), (30, 9)), {}),
        pytest.param(((30, 6), (30, 9)), {"precision": "float64"}, marks=pytest.mark.slow),
        pytest.param(((30, 50), (30, 70)), {"variance": 0.8}, marks=pytest.mark.slow),
    ],
    ids=["dense", "double", "wide"],
)
def test_p_value__is_how_often_orders_of_the_examples_score_as_much(sizes: Any, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    common = rng.normal(size=(30, 2))
    x, y = (rng.normal(size=size) for size in sizes)
    x[:, :2] += 0.8 * common
    y[:, :2] += 0.8 * common
    found = compared(x, y, measures=NULLED, **options)
    orders = [y[rng.permutation(30)] for _ in range(300)]
    pairs = np.zeros((301, 301), dtype=bool)
    pairs[0, 1:] = True
    shuffled = compared(x, *orders, measures=NULLED, pairs=pairs, **options).isel(representation_a=0)
    shuffled = shuffled.isel(representation_b=slice(1, None))
    for name in NULLED:
        null, seen = shuffled[name].to_numpy(), float(found[name][0, 1])
        assert float(found[f"null_{name}"][0, 1]) == pytest.approx(null.mean(), rel=0.05), name
        assert float(found[f"null_{name}_sd"][0, 1]) == pytest.approx(null.std(), rel=0.2, abs=1e-6), name
        if name == "svcca":
            # Its p-value is of the squares of the same correlations.
            kept = [basis(one.astype(np.float32), options.get("variance", 0.99)) for one in (x, y, *orders)]
            seen, *null = (np.square(kept[0].T @ one).sum() for one in kept[1:])
        assert float(found[f"p_{name}"][0, 1]) == pytest.approx(np.mean(null >= seen - 1e-6), abs=0.08), name


def test_null__of_a_dense_layer_and_a_convolutional_one_is_that_of_the_zero_frequency() -> None:
    x, y = images((4, 4, 2), examples=5)[0], related(5, 2)[0]
    found = in_all_orders(x, y, ("cka", "r2_cca"), precision="float64", conv="dft")
    others = found.isel(representation_b=slice(1, None))
    for name in ("cka", "r2_cca"):
        every = others[name].to_numpy()
        np.testing.assert_allclose(others[f"null_{name}"], every.mean(), rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(others[f"null_{name}_sd"], every.std(), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("conv", ["dft", "positions"])
def test_null__where_orders_of_samples_are_not_orders_of_examples(conv: str) -> None:
    found = compared(*images((4, 4, 2), (4, 4, 3)), measures=NULLED, conv=conv)
    for name in NULLED:
        assert np.isnan(found[f"null_{name}_sd"]).all()
        assert np.isnan(found[f"p_{name}"]).all()
        assert np.isfinite(found[f"null_{name}"]).all()
        assert np.isfinite(found[f"calibrated_{name}"]).all()


def test_null__where_samples_fix_all_correlations() -> None:
    found = compared(*related(8, 12, 9), measures=NULLED, variance=None)
    for name in ("r2_cca", "svcca"):
        np.testing.assert_allclose(found[f"null_{name}"], 1)
        np.testing.assert_allclose(found[f"null_{name}_sd"], 0)
        np.testing.assert_allclose(found[f"p_{name}"], 1)
        assert np.isnan(found[f"calibrated_{name}"]).all()
    assert float(found.null_cka_sd[0, 1]) > 0


def test_null__is_symmetric_and_of_a_layer_with_itself() -> None:
    found = compared(*related(40, 4, 6, 5), measures=NULLED)
    for name in NULLED:
        for companion in (f"null_{name}", f"null_{name}_sd", f"p_{name}", f"calibrated_{name}"):
            np.testing.assert_allclose(found[companion], found[companion].T, rtol=1e-9, err_msg=companion)
        np.testing.assert_allclose(np.diag(found[f"calibrated_{name}"]), 1, atol=1e-5)
        assert (np.diag(found[f"p_{name}"]) < 1e-6).all()


def test_null__is_declared() -> None:
    found = compared(*related(20, 3, 4), measures=NULLED)
    for name in NULLED:
        attributes = found[name].attrs
        declared = [attributes[which] for which in ("null", "null_sd", "p_value", "calibrated")]
        assert declared == [f"null_{name}", f"null_{name}_sd", f"p_{name}", f"calibrated_{name}"]
        assert set(declared) <= set(find_measures(name)[0].companions)
        assert all(found[one].attrs["sense"] == "reference" for one in declared)


def test_derived__is_computed_where_it_is_read_and_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    dask_svcca.compare(make_zoo(related(20, 3, 4, 2)), store, measures="cka")
    assert not {*DERIVED} & {*zarr.open_group(store, mode="r")}
    asked: list[tuple[int, ...]] = []

    def formula(score: np.ndarray, null: np.ndarray) -> np.ndarray:
        asked.append(score.shape)
        return score - null

    monkeypatch.setitem(DERIVED, "calibrated_cka", replace(DERIVED["calibrated_cka"], formula=formula))
    result = dask_svcca.open_comparison(store)
    chosen = result.calibrated_cka.isel(representation_a=[2, 0], representation_b=slice(1, 3))[:, ::-1]
    assert asked == []
    np.testing.assert_array_equal(chosen, (result.cka - result.null_cka).to_numpy()[[2, 0]][:, [2, 1]])
    assert asked == [(2, 2)]
    assert float(result.calibrated_cka[1, 2]) == float(result.cka[1, 2] - result.null_cka[1, 2])


def test_derived__is_not_there_without_what_it_follows_from() -> None:
    found = compared(*related(20, 3, 4), measures="svcca")
    assert "calibrated_svcca" in found
    assert not {"p_cka", "calibrated_cka", "p_r2_cca"} & {*found}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_null__agrees_with_shuffled_examples_on_two_hundred_pairs(kind: str, tmp_path: Path) -> None:
    layers = [layer(kind, 60, 3 + seed % 4, whitened=False, seed=seed) for seed in range(21)]
    store = str(tmp_path / "comparison.zarr")
    names = ("cka", "r2_cca")
    found = dask_svcca.compare(make_zoo(layers), store, measures=names, precision="float64")
    labels = found.representation_a.to_numpy()
    pairs = list(combinations(labels.tolist(), 2))[:200]
    shuffled = dask_svcca.permutation_null(store, pairs, permutations=150, measures=names)
    place = {
        f"representation_{side}": xr.DataArray(list(some), dims="pair")
        for side, some in zip("ab", zip(*pairs, strict=True), strict=True)
    }
    for name in names:
        seen, expected = shuffled[f"{name}_null"], found.sel(place)
        deviation = expected[f"null_{name}_sd"].to_numpy()
        error = (seen.mean("permutation").to_numpy() - expected[f"null_{name}"].to_numpy()) / (deviation / 150**0.5)
        # All pairs are shuffled by the same orders, so that their errors go together.
        assert np.abs(error).max() < 5
        assert np.square(error).mean() < 3
        assert np.median(seen.std("permutation").to_numpy() / deviation) == pytest.approx(1, abs=0.1)
        p = expected[f"p_{name}"].to_numpy()
        by_orders = shuffled[f"{name}_p"].to_numpy()
        # Where one example dominates a layer the law is rough in its middle, and holds in its tail.
        rough = name == "cka" and kind in {"t(2)", "lognormal", "scaled rows"}
        assert np.abs(by_orders - p).mean() < (0.2 if rough else 0.06)
        assert abs((by_orders < 0.05).mean() - (p < 0.05).mean()) < 0.06


def test_p_r2_cca__is_one_where_samples_fix_all_correlations() -> None:
    rng = np.random.default_rng(0)
    layers = [np.maximum(rng.normal(size=(120, width)), 0).astype("float32") for width in (150, 3, 12)]
    found = compared(*layers, measures="r2_cca")
    np.testing.assert_array_equal(found.null_r2_cca_sd[0, 1:], 0)
    np.testing.assert_array_equal(found.p_r2_cca[0, 1:], 1)
    assert (found.null_r2_cca_sd[1, 2] > 0).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("samples", [4, 5, 6, 9])
def test_p_value__of_few_examples_in_single_precision_is_one_where_all_orders_score_the_same(samples: int) -> None:
    rng = np.random.default_rng(0)
    kinds = [rng.normal(size=(samples, samples)), rng.normal(size=(samples, 1)), np.eye(samples)[:, :-1]]
    kinds += [np.r_[1000 * rng.normal(size=(1, samples)), rng.normal(size=(samples - 1, samples))]]
    kinds += [np.repeat(rng.normal(size=(samples // 2 + 1, 3)), 2, axis=0)[:samples]]
    names = ("r2_cca", "cka")
    found, exact = (compared(*kinds, measures=names, variance=None, precision=one) for one in ("float32", "float64"))
    for name in names:
        same = exact[f"null_{name}_sd"].to_numpy() == 0
        assert same.any() or name == "cka"
        assert (found[f"null_{name}_sd"].to_numpy()[same] == 0).all()
        assert not np.signbit(found[f"null_{name}_sd"].to_numpy()).any()
        assert (found[f"p_{name}"].to_numpy()[same] == 1).all()


def test_p_mutual_knn__is_unknown_where_the_order_of_the_zoo_decides() -> None:
    rng = np.random.default_rng(0)
    one_hot = [np.eye(4)[rng.integers(0, 4, 200)] for _ in range(2)]
    found = compared(*one_hot, rng.normal(size=(200, 5)), measures="mutual_knn,jaccard")
    assert float(found.mutual_knn[0, 1]) > 3 * 10 / 199
    for name in ("null_mutual_knn", "null_mutual_knn_sd", "p_mutual_knn", "calibrated_mutual_knn", "null_jaccard"):
        assert np.isnan(found[name][0, 1]), name
        # Beside a layer without ties, orders of the examples still say what chance gives.
        assert np.isfinite(found[name][:2, 2]).all(), name
    assert not dask_svcca.discoveries(found, measure="mutual_knn")[0, 2:].any()


def test_distance_correlation__of_a_constant_layer_leaves_the_others_alone() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6))
    with pytest.warns(FailedRepresentationWarning):
        found = compared(x, np.ones((50, 4)), x[:, :3], measures="distance_correlation,svcca")
    assert np.isfinite(found.svcca.to_numpy()[::2, ::2]).all()
    assert np.isfinite(found.p_distance_correlation.to_numpy()[::2, ::2]).all()


@pytest.mark.slow
def test_p_distance_correlation__counts_that_pairs_were_sampled() -> None:
    rng = np.random.default_rng(0)
    found = compared(*(rng.normal(size=(5000, 4)) for _ in range(8)), measures="distance_correlation")
    p = found.p_distance_correlation.to_numpy()[np.triu_indices(8, 1)]
    assert ((p < 0.05) | (p > 0.95)).mean() < 0.35


def test_null__finds_the_diagonal_of_a_layer_once_for_all_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, summed, sums_of_squares = related(40, *range(4, 10)), [], Panel.sums_of_squares
    whole = compared(*arrays, measures="svcca")

    def watched(self: Panel, *given: Any, **options: Any) -> None:
        summed.extend(self.members)
        sums_of_squares(self, *given, **options)

    monkeypatch.setattr(comparison, "choose_tile", lambda *_: 2)
    monkeypatch.setattr(Panel, "sums_of_squares", watched)
    found = compared(*arrays, measures="svcca")
    assert len(summed) == len(arrays)
    for name in ("null_svcca", "null_svcca_sd", "p_svcca"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-9, err_msg=name)
