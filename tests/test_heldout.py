"""Correlations of examples that directions were not fitted to: a twin by the activations themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from measured import compared, make_zoo, related
from oracles import basis, fewest

import dask_svcca
from dask_svcca.errors import InvalidQuestionError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]

LABELS = "net/1/00", "net/1/01"


def stored(tmp_path: Path, *layers: np.ndarray, **options: Any) -> str:
    store = str(tmp_path / "comparison.zarr")
    dask_svcca.compare(make_zoo(layers), store, **options)
    return store


def directions(x: np.ndarray, variance: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and a map to orthonormal scores of the directions that explain so much."""
    mean = x.mean(axis=0)
    _, singular, right = np.linalg.svd(x - mean, full_matrices=False)
    count = fewest(np.square(singular), variance)
    return mean, right[:count].T / singular[:count]


def held_out(x: np.ndarray, y: np.ndarray, left: np.ndarray, variance: float | None) -> float:
    """By the activations: directions of the examples that are not left out, seen by those that are."""
    rest = np.setdiff1d(np.arange(len(x)), left)
    (mean_x, to_x), (mean_y, to_y) = (directions(one[rest], variance) for one in (x, y))
    scores = [((one - mean) @ to) for one, mean, to in ((x, mean_x, to_x), (y, mean_y, to_y))]
    u, _, vt = np.linalg.svd(scores[0][rest].T @ scores[1][rest], full_matrices=False)
    seen = scores[0][left] @ u, scores[1][left] @ vt.T
    each = (seen[0] * seen[1]).sum(axis=0) / np.linalg.norm(seen[0], axis=0) / np.linalg.norm(seen[1], axis=0)
    return float(each.sum() / min(to_x.shape[1], to_y.shape[1]))


@pytest.mark.parametrize("variance", [None, 0.9])
def test_cca_heldout__is_what_the_activations_say(variance: float | None, tmp_path: Path) -> None:
    x, y = related(60, 7, 5)
    store = stored(tmp_path, x, y, variance=variance, precision="float64")
    found = dask_svcca.cca_heldout(store, [LABELS], folds=4, seed=3)
    dealt = np.array_split(np.random.default_rng(3).permutation(60), 4)
    expected = [held_out(x, y, np.sort(fold), variance) for fold in dealt]
    np.testing.assert_allclose(found.cca_heldout_by_fold[0], expected, atol=1e-9)
    np.testing.assert_allclose(found.cca_heldout[0], np.mean(expected), atol=1e-9)
    kept = [basis(one, variance) for one in (x, y)]
    in_sample = np.linalg.svd(kept[0].T @ kept[1], compute_uv=False).mean()
    np.testing.assert_allclose(found.svcca[0], in_sample, atol=1e-9)


def test_cca_heldout__does_not_grow_with_the_number_of_directions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 500, 60))
    # The mean correlation of the two is 0.4.
    strength = np.repeat([0.8, 0.0], 30)
    related_to_x = strength * x + np.sqrt(1 - strength**2) * rng.normal(size=x.shape)
    store = stored(tmp_path, x, y, related_to_x, variance=None)
    found = dask_svcca.cca_heldout(store, [LABELS, ("net/1/00", "net/1/02")])
    assert found.svcca[0] > 0.28
    assert found.svcca[1] > 0.5
    assert abs(float(found.cca_heldout[0])) < 0.02
    assert float(found.cca_heldout[1]) == pytest.approx(0.375, abs=0.02)


@pytest.mark.parametrize("conv", ["dft", "positions", "mean"])
def test_cca_heldout__of_convolutional_layers(conv: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 4, 4, 2))
    layers = x, x + 0.5 * rng.normal(size=x.shape), rng.normal(size=x.shape)
    store = stored(tmp_path, *layers, conv=conv, variance=None)
    itself, alike, other = (("net/1/00", f"net/1/0{number}") for number in range(3))
    found = dask_svcca.cca_heldout(store, [itself, alike, other])
    np.testing.assert_allclose(found.cca_heldout[0], 1, atol=1e-5)
    assert float(found.cca_heldout[1]) == pytest.approx(1 / np.sqrt(1.25), abs=0.05)
    assert abs(float(found.cca_heldout[2])) < 0.15
    comparison = dask_svcca.open_comparison(store)
    np.testing.assert_allclose(found.svcca, comparison.svcca[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds is from 2 to half the number of examples, 10; got 1"),
        ({"folds": 11}, "folds is from 2 to half the number of examples, 10; got 11"),
        ({"folds": 2.5}, "folds is from 2 to half the number of examples, 10; got 2.5"),
        ({"seed": -1}, "seed is a whole number from 0 on; got -1"),
    ],
)
def test_cca_heldout__says_what_is_not_valid(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    store = stored(tmp_path, *related(20, 3, 2))
    with pytest.raises(InvalidQuestionError, match=message):
        dask_svcca.cca_heldout(store, [LABELS], **options)


def test_whitened_procrustes__is_over_the_geometric_mean_of_the_ranks() -> None:
    x, y = related(60, 7, 3)
    found = compared(x, y, measures="whitened_procrustes", variance=None)
    scores = [np.linalg.svd(one - one.mean(axis=0), full_matrices=False)[0] for one in (x, y)]
    total = np.linalg.svd(scores[0].T @ scores[1], compute_uv=False).sum()
    assert float(found.whitened_procrustes[0, 1]) == pytest.approx(total / np.sqrt(21), abs=1e-5)
    np.testing.assert_allclose(np.diag(found.whitened_procrustes), 1, atol=1e-5)
    assert found.whitened_procrustes.attrs["null"] == "null_whitened_procrustes"


def test_r2_cca_adjusted__of_one_direction_is_the_adjusted_r2_of_regression() -> None:
    x, y = related(40, 5, 1)
    found = compared(x, y, measures=("r2_cca_adjusted", "r2_cca"), variance=None)
    design = np.column_stack([np.ones(40), x])
    residual = y[:, 0] - design @ np.linalg.lstsq(design, y[:, 0], rcond=None)[0]
    expected = 1 - (residual @ residual / (40 - 6)) / y[:, 0].var(ddof=1)
    assert float(found.r2_cca_adjusted[0, 1]) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(found.r2_cca_adjusted, found.calibrated_r2_cca, atol=1e-9)


def test_without_extreme__leaves_out_what_is_extreme_in_both(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 90, 5))
    x[[4, 50]], y[[4, 50]] = 40 * rng.normal(size=(2, 5)), 30 * rng.normal(size=(2, 5))
    # Extreme in one of the two is not enough.
    x[20] *= 20
    store = stored(tmp_path, x, y, measures=("svcca", "cka"), variance=None, precision="float64")
    found = dask_svcca.without_extreme(store, [LABELS], examples=2, measures=("svcca", "cka"))
    assert set(found.left_out[0].to_numpy().tolist()) == {4, 50}
    assert float(found.share.sum()) > 0.5
    rest = np.setdiff1d(np.arange(90), [4, 50])
    expected = compared(x[rest], y[rest], measures=("svcca", "cka"), variance=None, precision="float64")
    for name in ("svcca", "cka"):
        assert float(found[f"{name}_without"][0]) == pytest.approx(float(expected[name][0, 1]), abs=1e-8)
        assert float(found[name][0]) > float(found[f"{name}_without"][0]) + 0.05


@pytest.mark.parametrize(
    ("times", "precision"), [(1e3, "float32"), (1e4, "float32"), (1e4, "float64"), (1e5, "float64")]
)
def test_remainders__of_an_example_that_is_nearly_all_of_a_direction(
    times: float, precision: str, tmp_path: Path
) -> None:
    """As massive activations are: what the others have is not lost beside it."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(100, 4))
    y = rng.normal(size=(100, 6)) + x[:, :1]
    x[3] *= times
    y[3] *= times
    measures = ("svcca", "cka")
    store = stored(tmp_path, x, y, measures=measures, variance=None, precision=precision)

    def without(places: np.ndarray) -> xr.Dataset:
        rest = np.setdiff1d(np.arange(100), places)
        return compared(x[rest], y[rest], measures=measures, variance=None, precision="float64")

    found = dask_svcca.without_extreme(store, [LABELS], examples=1, measures=measures)
    assert found.left_out.to_numpy().tolist() == [[3]]
    again = dask_svcca.jackknife(store, [LABELS], blocks=50, measures=measures)
    for name in measures:
        expected = [float(without(places)[name][0, 1]) for places in ([3], [2, 3], [4, 5])]
        assert float(found[f"{name}_without"][0]) == pytest.approx(expected[0], abs=1e-6)
        np.testing.assert_allclose(again[f"{name}_jackknife"][0, 1:3], expected[1:], rtol=0, atol=1e-6)
    dealt = np.array_split(np.random.default_rng(2).permutation(100), 4)
    expected = [held_out(x, y, np.sort(fold), None) for fold in dealt]
    np.testing.assert_allclose(
        dask_svcca.cca_heldout(store, [LABELS], folds=4, seed=2).cca_heldout_by_fold[0], expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("examples", [0, 11, 1.5])
def test_without_extreme__says_how_many_may_be_left_out(examples: Any, tmp_path: Path) -> None:
    store = stored(tmp_path, *related(20, 3, 2))
    with pytest.raises(InvalidQuestionError, match="examples is how many to leave out, from 1 to half of them, 10; "):
        dask_svcca.without_extreme(store, [LABELS], examples=examples)


def test_pairs__are_of_a_comparison_and_not_of_activations() -> None:
    x, y = related(20, 3, 2)
    for ask in (dask_svcca.cca_heldout, dask_svcca.permutation_null):
        with pytest.raises(InvalidQuestionError, match=r"pass what compare .* got ndarray in its place"):
            ask(x, y)
    zoo = make_zoo([x, y])
    with pytest.raises(InvalidQuestionError, match=r"got DataArray in its place\. Compare these layers first"):
        dask_svcca.cca_heldout(zoo["net/1/00"], zoo["net/1/01"])
