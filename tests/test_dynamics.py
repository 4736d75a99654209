"""Learning dynamics: orders that were planted are found, whatever the measure, and gaps are said."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.stats
import xarray as xr
import zarr

import dask_svcca
from dask_svcca import learning_dynamics, training_phases
from dask_svcca.errors import (
    IncompatibleError,
    InvalidQuestionError,
    RepresentationNotFoundError,
    UnknownMeasureError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STEPS = (0, 1, 10, 100, 1000)
# Layers settle in the order 3, 1, 2: the share of the way that each has made.
WAYS = {"one": (0, 0, 0.5, 1, 1), "two": (0, 0.2, 0.3, 0.5, 1), "three": (0, 1, 1, 1, 1)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Two trainings whose layers settle in a known order, compared with their final selves by two measures."""
    folder = tmp_path_factory.mktemp("dynamics")
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(200)) as zoo:
        for model, (depth, layer) in product(("net-s0", "net-s1"), enumerate(WAYS)):
            start, end = rng.normal(size=(2, 200, 3))
            for step, way in zip(STEPS, WAYS[layer], strict=True):
                zoo.write(model, f"at{step}", layer, (1 - way) * start + way * end, step=step, depth=depth)
    return dask_svcca.compare(zoo, folder / "comparison.zarr", measures=("svcca", "gulp"), pairs="final")


def of_pairs(result: xr.Dataset, measure: str, model: str, step: float, layer: str, other: str) -> float:
    """A value looked up by hand: of a layer at a step with a layer of the last checkpoint."""
    names = [name for name in result.xindexes if name not in result.dims]
    frame = result[measure].drop_indexes(names).to_dataframe().reset_index()
    row = frame[
        (frame.model_a.astype(str) == model)
        & (frame.step_a == step)
        & (frame.layer_a.astype(str) == layer)
        & (frame.model_b.astype(str) == model)
        & (frame.step_b == STEPS[-1])
        & (frame.layer_b.astype(str) == other)
    ]
    return float(row[measure].item())


@pytest.mark.parametrize("measure", ["svcca", pytest.param("gulp", marks=pytest.mark.slow)])
def test_learning_dynamics__panes_are_layers_by_final_layers(planted: xr.Dataset, measure: str) -> None:
    found = learning_dynamics(planted, measure=measure)
    assert found[measure].dims == ("model", "step", "layer", "layer_final")
    assert found.layer.to_numpy().tolist() == list(WAYS)
    for step, layer, other in product(STEPS, WAYS, WAYS):
        value = found[measure].sel(model="net-s1", step=step, layer=layer, layer_final=other).item()
        assert value == of_pairs(planted, measure, "net-s1", step, layer, other)
    own = found.similarity_to_final.sel(model="net-s0", layer="two")
    assert own.to_numpy().tolist() == [of_pairs(planted, measure, "net-s0", step, "two", "two") for step in STEPS]


@pytest.mark.parametrize("measure", ["svcca", "gulp"])
def test_learning_dynamics__finds_the_planted_order(planted: xr.Dataset, measure: str) -> None:
    found = learning_dynamics(planted, measure=measure, model="net-s0")
    assert found.settled_step.dims == ("layer",)
    assert found.settled_step.to_series().to_dict() == {"one": 100, "two": 1000, "three": 1}
    rho = scipy.stats.spearmanr([0, 1, 2], [100, 1000, 1]).statistic
    assert found.depth_correlation.item() == pytest.approx(rho)
    before = found.similarity_to_final.isel(step=slice(None, -1)).mean("step").to_numpy()
    sign = -1 if measure == "svcca" else 1
    assert found.similarity_depth_correlation.item() == pytest.approx(
        scipy.stats.spearmanr([0, 1, 2], sign * before).statistic
    )


def test_learning_dynamics__a_name_is_one_model_and_a_pattern_may_be_several(planted: xr.Dataset) -> None:
    assert "model" not in learning_dynamics(planted, model="net-s0").dims
    assert learning_dynamics(planted, model="net-s?").sizes["model"] == 2
    assert learning_dynamics(planted, model=["net-s1"]).settled_step.dims == ("model", "layer")
    both = learning_dynamics(planted).similarity_to_final
    assert (both.std("model").sel(layer="two", step=[1, 10]) > 0).all()
    xr.testing.assert_equal(both.sel(model="net-s1"), learning_dynamics(planted, model="net-s1").similarity_to_final)


def test_learning_dynamics__has_the_null_and_the_rank_beside(planted: xr.Dataset) -> None:
    found = learning_dynamics(planted, model="net-s0", measure="svcca")
    assert found.null_svcca.dims == found.svcca.dims
    assert found.null_to_final.dims == ("layer", "step")
    assert (found["rank"] == 3).all()


def settled_by_hand(steps: Sequence[float], values: Sequence[float], threshold: float) -> float:
    for place, step in enumerate(steps):
        if all(values[-1] - later <= threshold for later in values[place:]):
            return step
    return float("nan")


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.3, 1.0])
def test_learning_dynamics__settles_as_by_hand(planted: xr.Dataset, threshold: float) -> None:
    found = learning_dynamics(planted, threshold=threshold, measure="svcca")
    for model, layer in product(found.model.to_numpy(), found.layer.to_numpy()):
        one = found.sel(model=model, layer=layer)
        values = one.similarity_to_final.to_numpy().tolist()
        assert one.settled_step.item() == settled_by_hand(STEPS, values, threshold)


def without(result: xr.Dataset, model: str, step: float, layer: str) -> xr.Dataset:
    """A comparison that lacks the pairs of a representation."""
    frame = [result[f"{name}_a"].to_numpy() for name in ("model", "step", "layer")]
    row = (frame[0] == model) & (frame[1] == step) & (frame[2] == layer)
    changed = result.load().copy(deep=True)
    changed["svcca"].to_numpy()[row] = np.nan
    changed["svcca"].to_numpy()[:, row] = np.nan
    return changed


def test_learning_dynamics__a_pair_that_is_missing_is_not_a_value(planted: xr.Dataset) -> None:
    # What settled before or after the gap is known all the same, where the gap does not matter.
    cases: Mapping[tuple[str, float], float] = {("one", 100): np.nan, ("one", 1): 100, ("three", 10): np.nan}
    for (layer, step), expected in cases.items():
        found = learning_dynamics(without(planted, "net-s0", step, layer), model="net-s0", measure="svcca")
        np.testing.assert_equal(found.settled_step.sel(layer=layer).item(), expected)
        assert found.svcca.sel(step=step, layer=layer).isnull().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"measure": "cka"}, UnknownMeasureError, "no measure 'cka' in this comparison; it has svcca, gulp"),
        ({"measure": "null_svcca"}, UnknownMeasureError, "no measure 'null_svcca'"),
        ({"model": "vit"}, RepresentationNotFoundError, "no model matches 'vit' on side a; there are 'net-s0', 'net-"),
        ({"layer": "on"}, RepresentationNotFoundError, "no layer matches 'on' on side a; .*Did you mean 'one'"),
        ({"threshold": -1}, InvalidQuestionError, "threshold is how far a layer may be .*at least 0; got -1"),
    ],
)
def test_learning_dynamics__says_what_it_cannot_do(
    planted: xr.Dataset, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        learning_dynamics(planted, **options)


X = np.random.default_rng(0).normal(size=(40, 3))


def test_learning_dynamics__without_steps_or_a_final_checkpoint_says_so() -> None:
    with pytest.raises(InvalidQuestionError, match="the checkpoint '1' of 'net' has no step: say when"):
        learning_dynamics(dask_svcca.compare({("net", "1", "fc"): X, ("net", "2", "fc"): X}))
    with pytest.raises(InvalidQuestionError, match="which checkpoint of 'net' is the final one cannot be known"):
        learning_dynamics(dask_svcca.compare({("net", "x", "fc"): X, ("net", "y", "fc"): X}))


def test_learning_dynamics__where_nothing_was_compared_with_the_final_checkpoint(planted: xr.Dataset) -> None:
    part = planted.load().copy(deep=True)
    part["svcca"][:] = np.nan
    with pytest.raises(IncompatibleError, match=r"no checkpoint of 'net-s0', 'net-s1' has a value of 'svcca' with its"):
        learning_dynamics(part, measure="svcca")


def test_training_phases__is_checkpoint_by_checkpoint(planted: xr.Dataset) -> None:
    found = training_phases(planted, model="net-s0", layer="t*", measure="svcca")
    assert found.svcca.dims == ("layer", "checkpoint_a", "checkpoint_b")
    assert found.step_a.to_numpy().tolist() == list(STEPS)
    one = found.svcca.sel(layer="two", checkpoint_a="at10", checkpoint_b="at1000").item()
    assert one == of_pairs(planted, "svcca", "net-s0", 10, "two", "two")
    # Only pairs with the final checkpoint were compared.
    assert found.svcca.isnull().sum() == 2 * 4 * 4
    assert training_phases(planted, model="net-s0", layer="two").svcca.dims == ("checkpoint_a", "checkpoint_b")


def test_training_phases__is_of_one_model(planted: xr.Dataset) -> None:
    with pytest.raises(InvalidQuestionError, match=r"training is that of one model; 'net\*' means 'net-s0', 'net-s1'"):
        training_phases(planted, model="net*", layer="two")


def test_learning_dynamics__steps_of_other_models_leave_nothing_open() -> None:
    """Models of other steps have together what each of them has alone; one has a single checkpoint."""
    rng = np.random.default_rng(0)
    ways = {"s0": {0: (0, 0, 0), 10: (1, 0.4, 0), 20: (1, 1, 1)}, "s1": {0: (0, 0, 0), 5: (1, 0.3, 0.1), 15: (1, 1, 1)}}
    with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(60)) as zoo:
        for model, way in {**ways, "s2": {7: (1, 1, 1)}}.items():
            starts, ends = rng.normal(size=(2, 3, 60, 4))
            for (step, shares), depth in product(way.items(), range(3)):
                values = (1 - shares[depth]) * starts[depth] + shares[depth] * ends[depth]
                zoo.write(model, f"at{step}", f"layer{depth}", values, step=step, depth=depth)
    result = dask_svcca.compare(zoo, measures="cka")
    together = learning_dynamics(result)
    np.testing.assert_array_equal(together.settled_step, [[10, 20, 20], [5, 15, 15], [7, 7, 7]])
    for model in ("s0", "s1", "s2"):
        alone = learning_dynamics(result, model=model)
        for name in ("settled_step", "depth_correlation", "similarity_depth_correlation"):
            np.testing.assert_array_equal(together[name].sel(model=model), alone[name])
    assert together.depth_correlation[:2].to_numpy() == pytest.approx(np.sqrt(0.75))
