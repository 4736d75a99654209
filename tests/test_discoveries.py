"""Discoveries among all pairs: Benjamini and Hochberg's procedure, by its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from measured import compared
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import discoveries
from dask_svcca.errors import InvalidQuestionError
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    import xarray as xr


def layers(count: int, related: int, seed: int = 0) -> list[np.ndarray]:
    """Independent layers, some of which have a signal in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(60, 2))
    found = [rng.normal(size=(60, 4)) for _ in range(count)]
    for layer in found[:related]:
        layer[:, :2] += common
    return found


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    return compared(*layers(8, 3), measures=("cka", "svcca", "cca"))


def by_definition(p: np.ndarray, level: float) -> np.ndarray:
    """The largest k for which the k smallest p-values are at most k / m times the level."""
    ordered = sorted(p)
    passing = [k for k in range(1, len(p) + 1) if ordered[k - 1] <= k / len(p) * level]
    return p <= ordered[max(passing) - 1] if passing else np.zeros(len(p), dtype=bool)


@pytest.mark.parametrize("level", [1e-9, 0.01, 0.05, 0.5])
@pytest.mark.parametrize("measure", ["cka", "svcca"])
def test_discoveries__are_those_of_the_definition(result: xr.Dataset, measure: str, level: float) -> None:
    found = discoveries(result, level, measure=measure)
    above = np.triu_indices(8, 1)
    expected = by_definition(result[f"p_{measure}"].to_numpy()[above], level)
    np.testing.assert_array_equal(found.to_numpy()[above], expected)
    np.testing.assert_array_equal(found, found.T)
    assert not np.diag(found).any()
    assert (found.attrs["measure"], found.attrs["level"], found.attrs["pairs"]) == (measure, level, 28)


def test_discoveries__of_some_layers_against_others(result: xr.Dataset) -> None:
    # Those of one side that are on the other side too count once.
    part = result.isel(representation_a=slice(0, 3), representation_b=slice(1, 8))
    found = discoveries(part, measure="cka")
    assert found.attrs["pairs"] == 3 * 7 - 2 - 1
    assert found.to_numpy()[0, :2].all()


def test_discoveries__pairs_that_were_not_selected_count(result: xr.Dataset) -> None:
    every = result.isel(representation_a=slice(1, 6), representation_b=slice(1, 6))
    p = every.p_cka.to_numpy()
    least = np.unravel_index(np.argmin(np.where(np.eye(5, dtype=bool), 1, p)), p.shape)
    selected = np.eye(5, dtype=bool)
    selected[least] = selected[least[::-1]] = True
    part = every.copy(deep=True)
    part["p_cka"].to_numpy()[~selected] = np.nan
    part["pair_status"].to_numpy()[~selected] = PairStatus.MISSING
    # It is the least of ten: by itself it would pass at its own value.
    level = float(p[least]) * 2
    found = discoveries(part, level, measure="cka")
    assert (found.attrs["pairs"], found.attrs["computed"], int(found.sum())) == (10, 1, 0)
    found = discoveries(part, level * 6, measure="cka")
    assert int(found.sum()) == 2
    # Variables alone, without a status: the same.
    assert discoveries(part[["cka", "p_cka"]], level, measure="cka").attrs["pairs"] == 10
    part["pair_status"].to_numpy()[~selected] = PairStatus.INCOMPATIBLE_GRIDS
    assert discoveries(part, level, measure="cka").attrs["pairs"] == 1


def test_discoveries__of_the_nearest_finds_nothing_in_noise() -> None:
    rng = np.random.default_rng(1)
    with dask_svcca.create_zoo(MemoryStore(), examples=range(100)) as zoo:
        for number in range(24):
            zoo.write(f"m{number:02}", "end", "fc", rng.normal(size=(100, 3)))
    near = dask_svcca.compare(zoo, MemoryStore(), measures="cka", pairs="nearest 1", sketches=MemoryStore())
    found = discoveries(near, 0.2)
    assert (found.attrs["pairs"], int(found.sum())) == (24 * 23 // 2, 0)
    assert found.attrs["computed"] < 24
    best = dask_svcca.nearest(near, {"model": "m03"}, top=1)
    np.testing.assert_allclose(best["p_cka_best"], 1 - (1 - best["p_cka"]) ** 23)
    ceiling = dask_svcca.noise_ceiling(near)
    assert np.isnan(ceiling.cka).all()
    assert (ceiling.pairs + ceiling.missing).tolist() == [24 * 23 // 2]


@pytest.mark.parametrize("kind", ["best", "maximum", "transport"])
def test_discoveries__the_order_of_models_does_not_matter(kind: Literal["best", "maximum", "transport"]) -> None:
    rng = np.random.default_rng(3)
    common = rng.normal(size=(60, 2))
    # A small model is in a large one and not the other way round: its p-values differ by direction.
    arrays = {
        (f"m{number}", "end", f"fc{depth}"): rng.normal(size=(60, 4)) + (0.8 * common[:, [depth % 2]] if number else 0)
        for number in range(5)
        for depth in range(1 + number)
    }
    models = dask_svcca.model_similarity(dask_svcca.compare(arrays, measures="cka"), kind=kind)
    p = models["p_cka"].to_numpy()
    tested = ~np.eye(5, dtype=bool) if kind == "best" else np.triu(np.ones((5, 5), dtype=bool), 1)
    for level in (0.01, 0.05, 0.2, 0.5):
        found = discoveries(models, level)
        np.testing.assert_array_equal(found.to_numpy()[tested], by_definition(p[tested], level))
        if kind != "best":
            np.testing.assert_array_equal(found, found.T)
        assert found.attrs["pairs"] == tested.sum()
        for _ in range(3):
            order = rng.permutation(5)
            turned = discoveries(models.isel(model_a=order, model_b=order), level)
            np.testing.assert_array_equal(turned, found.to_numpy()[np.ix_(order, order)])
            assert turned.attrs == pytest.approx(found.attrs, nan_ok=True)


def test_discoveries__without_p_values() -> None:
    found = compared(*layers(3, 2), measures=("cca", "cka"))
    assert discoveries(found, measure="cka").any()
    with pytest.raises(InvalidQuestionError, match="'cca' has no p-values here"):
        discoveries(found)
    with pytest.raises(InvalidQuestionError, match="Of this comparison cka have"):
        discoveries(found)
    with pytest.raises(InvalidQuestionError, match="svcca, cka, r2_cca, mutual_knn, rsa, distance_correlation have"):
        discoveries(found[["cca"]])
    with pytest.raises(InvalidQuestionError, match=r"'cka' has no p-values here\. Compare again into this store"):
        discoveries(found[["cka"]])
    with pytest.raises(InvalidQuestionError, match=r"level is a number between 0 and 1; got 'cka'"):
        discoveries(found, "cka")  # type: ignore[arg-type]
    with pytest.raises(InvalidQuestionError, match="level is between 0 and 1, without these; got 1"):
        discoveries(found, 1)


def test_discoveries__where_nothing_is_tested(result: xr.Dataset) -> None:
    one = result.isel(representation_a=[0], representation_b=[0])
    found = discoveries(one, measure="cka")
    assert not found.any()
    assert found.attrs["pairs"] == 0
    assert np.isnan(found.attrs["largest_p"])


def test_discoveries__says_where_no_p_value_is_known() -> None:
    images = np.random.default_rng(0).normal(size=(40, 3, 3, 4))
    found = compared(images, images + 1, measures="svcca", conv="positions")
    with pytest.raises(InvalidQuestionError, match="no pair has a p-value of 'svcca' here"):
        discoveries(found)
