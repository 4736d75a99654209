"""Which measure to trust: errors and shares against what one would count by hand."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import judge_measures, layer_identification
from dask_svcca.errors import InvalidQuestionError, RepresentationNotFoundError, UnknownMeasureError
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    import xarray as xr

    from dask_svcca.kernels._types import FloatArray

MODELS = ("a0", "a1", "b0", "b1")
LAYERS = ("conv", "relu", "fc", "logits")
GROUPS: dict[str, dict[str, Any]] = {"a": {"model": "a*"}, "b": {"model": "b*"}}


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    """Two groups of two models, whose layers are alike within a group, more or less."""
    rng = np.random.default_rng(3)
    common = rng.normal(size=(2, len(LAYERS), 50, 3))
    return dask_svcca.compare(
        {
            (model, "end", layer): common["ab".index(model[0]), depth] + (1 + depth) * rng.normal(size=(50, 3))
            for model in MODELS
            for depth, layer in enumerate(LAYERS)
        },
        measures=("svcca", "gulp", "linear_regression"),
    )


def without_some(result: xr.Dataset) -> xr.Dataset:
    """The same without a fifth of the values, a layer with its counterpart among them."""
    changed = result.copy(deep=True)
    rng = np.random.default_rng(0)
    for name in ("svcca", "gulp", "linear_regression"):
        changed[name].to_numpy()[rng.random(changed[name].shape) < 0.2] = np.nan
    return changed


def jackknife(values: list[float]) -> float:
    known: FloatArray = np.array([value for value in values if np.isfinite(value)])
    return float(np.sqrt((len(known) - 1) / len(known) * ((known - known.mean()) ** 2).sum()))


@pytest.mark.parametrize("complete", [pytest.param(True, marks=pytest.mark.slow), False])
def test_layer_identification__error_is_that_of_leaving_out_layers(result: xr.Dataset, complete: bool) -> None:
    part = result if complete else without_some(result)
    found = layer_identification(part, "all")
    for measure in found["measure"].to_numpy():
        shares = [layer_identification(part, measure, exclude=[layer])["accuracy"].item() for layer in LAYERS]
        assert found["accuracy_stderr"].sel(measure=measure).item() == pytest.approx(jackknife(shares))
    assert (found["accuracy_stderr"] > 0).any()
    few = layer_identification(part, "all", exclude=LAYERS[2:])
    assert few["accuracy_stderr"].isnull().all()


def counted(result: xr.Dataset, measure: str, models: tuple[str, ...], layers: tuple[str, ...]) -> float:
    """Share of cases, one after another."""
    sign = -1 if measure == "gulp" else 1

    def value(one: str, other: str, layer: str) -> float:
        orders = [(one, other), (other, one)]
        found = [
            float(result[measure].sel(representation_a=f"{a}/end/{layer}", representation_b=f"{b}/end/{layer}"))
            for a, b in orders
        ]
        return sign * sum(found) / 2

    cases: list[float] = []
    for layer in layers:
        pairs = [(value(one, other, layer), one[0] == other[0]) for one, other in combinations(models, 2)]
        pairs = [pair for pair in pairs if np.isfinite(pair[0])]
        within, between = ([each for each, inside in pairs if inside is wanted] for wanted in (True, False))
        cases += [1.0 if one > other else 0.5 if one == other else 0.0 for one, other in product(within, between)]
    return float(np.mean(cases)) if cases else np.nan


def test_judge_measures__checkpoints_of_one_model_do_not_count() -> None:
    rng = np.random.default_rng(0)
    values = dict(zip(MODELS, rng.normal(size=(4, 50, 3)), strict=True))
    arrays = {(model, step, "fc"): values[model] for model in MODELS for step in ("step1", "step2")}
    twice = judge_measures(dask_svcca.compare(arrays), groups=GROUPS, where={"checkpoint": "**"}, exclude=[])
    once = {(model, "end", "fc"): values[model] for model in MODELS}
    expected = counted(dask_svcca.compare(once), "svcca", MODELS, ("fc",))
    assert twice["separation"].item() == pytest.approx(expected)


@pytest.mark.parametrize("complete", [True, False])
def test_judge_measures__separation_is_counted(result: xr.Dataset, complete: bool) -> None:
    part = result if complete else without_some(result)
    found = judge_measures(part, groups=GROUPS, exclude=["logits"])
    layers = LAYERS[:-1]
    for measure in found["measure"].to_numpy().tolist():
        assert found["separation"].sel(measure=measure).item() == pytest.approx(counted(part, measure, MODELS, layers))
        shares = [counted(part, measure, tuple(set(MODELS) - {left}), layers) for left in MODELS]
        if np.isfinite(shares).all():
            assert found["separation_stderr"].sel(measure=measure).item() == pytest.approx(jackknife(shares))
    assert found["separation_chance"].to_numpy().tolist() == [0.5] * 3


def test_judge_measures__identification_is_that_of_the_function(result: xr.Dataset) -> None:
    found = judge_measures(result, exclude=["logits"])
    expected = layer_identification(result, "all", exclude=["logits"])
    for name, other in {"identification": "accuracy", "identification_chance": "chance"}.items():
        for measure in ("svcca", "gulp", "linear_regression"):
            one, two = found[name].sel(measure=measure), expected[other].sel(measure=measure)
            np.testing.assert_array_equal(one.to_numpy(), two.to_numpy())
    assert "separation" not in found


def test_judge_measures__error_over_examples_is_that_of_the_jackknife() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(size=(3, 60, 3))
    with dask_svcca.create_zoo(MemoryStore(), examples=range(60)) as zoo:
        for model in ("s0", "s1"):
            for depth in range(3):
                values = common[depth] + 1.5 * rng.normal(size=(60, 3)) + common[0]
                zoo.write(model, "end", f"fc{depth}", values, depth=depth)
    result = dask_svcca.compare(zoo, MemoryStore(), measures=("svcca", "linear_regression"))
    found = judge_measures(result, blocks=6)
    labels = {model: [f"{model}/end/fc{depth}" for depth in range(3)] for model in ("s0", "s1")}
    for measure in ("svcca", "linear_regression"):
        counts = np.zeros(6)
        for one, other in (("s0", "s1"), ("s1", "s0")):
            pairs = list(product(labels[one], labels[other]))
            without = dask_svcca.jackknife(result, pairs, blocks=6, measures=measure)[f"{measure}_jackknife"].to_numpy()
            counts += (without.reshape(3, 3, 6).argmax(axis=1) == np.arange(3)[:, np.newaxis]).sum(axis=0)
        error = found["identification_stderr_examples"].sel(measure=measure).item()
        assert error == pytest.approx(jackknife((counts / 6).tolist()))
    assert (found["identification_stderr_examples"] > 0).any()


def test_judge_measures__what_is_not_whole_is_left_out(result: xr.Dataset) -> None:
    part = result.copy(deep=True)
    place = {"representation_a": "a0/end/conv", "representation_b": "a1/end/conv"}
    for name in ("svcca", "gulp", "linear_regression"):
        part[name].loc[place] = np.nan
    part["pair_status"].loc[place] = PairStatus.MISSING
    found, whole = (judge_measures(one, groups=GROUPS, measure="svcca") for one in (part, result))
    # Of twelve ordered pairs of models one is not whole, of four layers one.
    assert found["identification_tested"].item() == 11 * len(LAYERS)
    assert found["identification_missing"].item() == len(LAYERS)
    assert (found["separation_missing"].item(), whole["separation_missing"].item()) == (1, 0)
    assert found["separation"].item() == pytest.approx(counted(result, "svcca", MODELS, LAYERS[1:]))
    # Where a pair cannot be compared, it is not missing.
    part["pair_status"].loc[place] = PairStatus.FAILED
    assert judge_measures(part, groups=GROUPS, measure="svcca")["identification_missing"].item() == 0


def test_judge_measures__without_errors_over_examples_where_none_follow() -> None:
    rng = np.random.default_rng(1)
    with dask_svcca.create_zoo(MemoryStore(), examples=range(60)) as zoo:
        for model in ("s0", "s1"):
            for layer in ("x", "y"):
                zoo.write(model, "end", layer, rng.normal(size=(60, 3)))
    measures = ("rsa", "svcca", "mutual_knn(k=5)")
    result = dask_svcca.compare(zoo, MemoryStore(), measures=measures)
    found = judge_measures(result, measures, blocks=4)["identification_stderr_examples"]
    assert found.isnull().to_numpy().ravel().tolist() == [True, False, True]
    alone = judge_measures(result, "svcca", blocks=4)["identification_stderr_examples"]
    assert found.sel(measure="svcca").item() == alone.item()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groups": {"a": {"model": "a*"}}}, InvalidQuestionError, "groups is a mapping of two names or more"),
        ({"groups": ["a*", "b*"]}, InvalidQuestionError, r"groups is a mapping .*; got \['a\*', 'b\*'\]"),
        (
            {"groups": {"a": {"model": "a*"}, "all": {}}},
            InvalidQuestionError,
            "'a0/end/conv' is in the groups 'a' and 'all'",
        ),
        ({"groups": {"a": {"model": "a*"}, "c": {"model": "c*"}}}, RepresentationNotFoundError, "c"),
        ({"measure": "svca"}, UnknownMeasureError, "no measure 'svca'"),
        ({"exclude": ["pool"]}, RepresentationNotFoundError, "exclude='pool'"),
    ],
)
def test_judge_measures__what_cannot_be_is_said(
    result: xr.Dataset, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        judge_measures(result, **options)
