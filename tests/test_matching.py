"""Layers that belong together, against what one would do by hand."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scipy.spatial.distance
from hypothesis import given
from hypothesis import strategies as st

import dask_svcca
from dask_svcca import cluster, embedding, match_layers, nearest, within_and_between
from dask_svcca.analysis.matching import assignment
from dask_svcca.errors import IncompatibleError, InvalidQuestionError, UnknownMeasureError
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    import xarray as xr

ORDER = (2, 0, 1)


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    """Layers of one model that another has in another order, with noise."""
    rng = np.random.default_rng(0)
    layers = rng.normal(size=(3, 80, 3))
    arrays = {("one", "end", f"x{number}"): layer for number, layer in enumerate(layers)}
    arrays |= {("two", "end", f"y{n}"): layers[of] + 0.2 * rng.normal(size=(80, 3)) for n, of in enumerate(ORDER)}
    return dask_svcca.compare(arrays, measures=("svcca", "gulp"))


def without(result: xr.Dataset, a: int, b: int) -> xr.Dataset:
    """The same without the value of a pair."""
    changed = result.copy(deep=True)
    for measure in ("svcca", "gulp"):
        changed[measure].to_numpy()[[a, b], [b, a]] = np.nan
    return changed


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 100))
def test_assignment__is_the_best_of_all(rows: int, columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    found = values[assignment(values)].sum()
    wide = values if rows <= columns else values.T
    best = max(sum(wide[i, j] for i, j in enumerate(order)) for order in permutations(range(wide.shape[1]), len(wide)))
    assert found == pytest.approx(best)


@pytest.mark.parametrize("measure", ["svcca", "gulp"])
def test_match_layers__finds_the_planted_order(result: xr.Dataset, measure: str) -> None:
    found = match_layers(result, a={"model": "one"}, b={"model": "two"}, measure=measure)
    assert found["layer_a"].tolist() == ["x0", "x1", "x2"]
    assert found["layer_b"].tolist() == [f"y{ORDER.index(number)}" for number in range(3)]
    assert (found["margin"] > 0).all()
    values = result[measure].to_numpy()[:3, 3:]
    sign = -1 if measure == "gulp" else 1
    own = ORDER.index(0)
    expected = sign * values[0, own] - max(sign * values[0, other] for other in range(3) if other != own)
    assert found["margin"][0] == pytest.approx(expected)


def test_match_layers__a_pair_without_a_value_is_not_assigned(result: xr.Dataset) -> None:
    part = without(result, 0, 3 + ORDER.index(0))
    found = match_layers(part, a={"model": "one"}, b={"model": "two"})
    assert np.isfinite(found["svcca"]).all()
    assert ("x0", f"y{ORDER.index(0)}") not in set(zip(found["layer_a"], found["layer_b"], strict=True))
    part["svcca"][:] = np.nan
    with pytest.raises(IncompatibleError, match=r"no pair of .* has a value of 'svcca'"):
        match_layers(part, a={"model": "one"}, b={"model": "two"})


def test_nearest__is_the_most_similar(result: xr.Dataset) -> None:
    for measure in ("svcca", "gulp"):
        found = nearest(result, {"layer": "x1"}, measure=measure, top=1)
        assert found["layer_b"].tolist() == [f"y{ORDER.index(1)}"]
    assert set(nearest(result, {"layer": "x1"}, where={"model": "one"})["layer_b"]) == {"x0", "x2"}
    assert "null_svcca" in nearest(result, {"layer": "x1"})


def test_nearest__p_values_are_corrected_for_the_search(result: xr.Dataset) -> None:
    found = nearest(result, {"layer": "x1"}, top=2)
    # Five others were looked at.
    np.testing.assert_allclose(found["p_svcca_best"], 1 - (1 - found["p_svcca"]) ** 5, atol=1e-12)
    assert "p_gulp" not in nearest(result, {"layer": "x1"}, measure="gulp")


def test_within_and_between__means_over_pairs_that_have_values(result: xr.Dataset) -> None:
    groups: dict[str, Any] = {"one": {"model": "one"}, "all": {}}
    found = within_and_between(result, groups, same_layer=False)
    values = result.svcca.to_numpy()
    one = values[:3, :3][np.triu_indices(3, 1)]
    assert found["mean"].sel(group_a="one", group_b="one").item() == pytest.approx(one.mean())
    assert found["spread"].sel(group_a="one", group_b="one").item() == pytest.approx(one.std(ddof=1))
    assert found["pairs"].to_numpy().tolist() == [[3, 12], [12, 15]]
    assert within_and_between(without(result, 0, 1), groups, same_layer=False)["pairs"][0, 0] == 2
    assert within_and_between(result, groups)["pairs"].to_numpy().tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("measure", ["svcca", "gulp"])
def test_embedding__of_points_in_a_plane_is_exact(result: xr.Dataset, measure: str) -> None:
    points = np.random.default_rng(1).uniform(size=(6, 2)) / 2
    apart = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(points))
    planted = result.copy()
    planted[measure] = planted[measure].copy(data=apart if measure == "gulp" else 1 - apart)
    for kind in ("classical", "metric"):
        found = embedding(planted, measure=measure, kind=kind)
        distances = scipy.spatial.distance.pdist(np.stack([found.x, found.y], axis=1))
        np.testing.assert_allclose(distances, apart[np.triu_indices(6, 1)], atol=1e-7)
        assert found.explained.item() == pytest.approx(1)
        assert found.layer.to_numpy().tolist() == ["x0", "x1", "x2", "y0", "y1", "y2"]


def test_embedding__metric_explains_no_less_of_the_distances(result: xr.Dataset) -> None:
    distance = 1 - result.svcca.to_numpy()
    errors = []
    for kind in ("classical", "metric"):
        found = embedding(result, kind=kind)
        apart = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(np.stack([found.x, found.y], axis=1)))
        errors.append(np.square(distance - apart).sum())
    assert errors[1] <= errors[0]


def test_clusters__puts_corresponding_layers_together(result: xr.Dataset) -> None:
    for measure in ("svcca", "gulp"):
        found = cluster(result, measure=measure, count=3).set_index("layer")["cluster"]
        for number in range(3):
            assert found[f"x{number}"] == found[f"y{ORDER.index(number)}"]
        assert found.nunique() == 3


@pytest.mark.parametrize("ask", [embedding, cluster])
def test_distances__a_pair_without_a_value_is_said(result: xr.Dataset, ask: Any) -> None:
    with pytest.raises(IncompatibleError, match="2 of 36 pairs have no value of 'svcca'"):
        ask(without(result, 0, 4))


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda r: embedding(r, kind="tsne"), InvalidQuestionError, "kind is 'classical' or 'metric'; got 'tsne'"),
        (lambda r: cluster(r, count=0), InvalidQuestionError, "at least 1; got 0"),
        (lambda r: nearest(r, {"model": "one"}), InvalidQuestionError, "means 3 representations; name one"),
        (lambda r: nearest(r, {"layer": "x1"}, top=0), InvalidQuestionError, "at least 1; got 0"),
        (lambda r: match_layers(r, a={}, b={}), InvalidQuestionError, "side a is one checkpoint of one model"),
        (lambda r: within_and_between(r, {}), InvalidQuestionError, "groups is a mapping of names"),
        (lambda r: nearest(r, {"layer": "x1"}, measure="cka"), UnknownMeasureError, "no measure 'cka'"),
    ],
)
def test_questions__refuse_what_is_not_valid(
    result: xr.Dataset, ask: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ask(result)


QUESTIONS = {
    "embedding": lambda result: embedding(result).to_dataframe().reset_index(drop=True),
    "cluster": lambda result: cluster(result, count=3),
    "within_and_between": lambda result: within_and_between(
        result, {"one": {"model": "one"}, "two": {"model": "two"}}, same_layer=False
    ).to_dataframe(),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_matching__another_order_of_side_b_changes_nothing(result: xr.Dataset, question: str) -> None:
    turned = result.isel(representation_b=[3, 5, 0, 1, 4, 2])
    pd.testing.assert_frame_equal(QUESTIONS[question](turned), QUESTIONS[question](result))


@pytest.mark.parametrize("question", QUESTIONS)
def test_matching__what_is_on_one_side_alone_is_named(result: xr.Dataset, question: str) -> None:
    with pytest.raises(IncompatibleError, match=r"are on side a alone, the first 'one/end/x0'"):
        QUESTIONS[question](result.isel(representation_b=slice(1, None)))


def test_within_and_between__says_how_many_pairs_are_missing(result: xr.Dataset) -> None:
    part = without(result, 0, 1)
    part["pair_status"].to_numpy()[[0, 1], [1, 0]] = PairStatus.MISSING
    found = within_and_between(part, {"one": {"model": "one"}, "two": {"model": "two"}}, same_layer=False)
    assert found.missing.to_numpy().tolist() == [[1, 0], [0, 0]]
    assert found.pairs.to_numpy().tolist() == [[2, 9], [9, 3]]
