"""Layer identification: by matrices made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import layer_identification
from dask_svcca.errors import InvalidQuestionError, RepresentationNotFoundError, UnknownMeasureError

if TYPE_CHECKING:
    from collections.abc import Sequence

Name = tuple[str, str, str, float]


def comparison(names: Sequence[Name], **measures: Any) -> xr.Dataset:
    """A comparison of (model, checkpoint, layer, step) with these matrices, as `open_comparison` has it."""
    labels = ["/".join(name[:3]) for name in names]
    coords: dict[str, Any] = {}
    for side in "ab":
        dim = f"representation_{side}"
        coords[dim] = labels
        for position, column in enumerate(("model", "checkpoint", "layer", "step")):
            coords[f"{column}_{side}"] = dim, [name[position] for name in names]
        coords[f"depth_{side}"] = dim, np.full(len(names), np.nan)
    dims = "representation_a", "representation_b"
    senses = {"gulp": "distance", "null_svcca": "reference"}
    return xr.Dataset(
        {
            name: (dims, np.asarray(values, float), {"sense": senses.get(name, "similarity")})
            for name, values in measures.items()
        },
        coords=coords,
    )


TWO = [(model, "end", layer, 9.0) for model in ("s0", "s1") for layer in ("one", "two", "three")]


def between(forth: Any, back: Any) -> np.ndarray:
    """Of two models of three layers, the similarities of the layers of one with those of the other."""
    values = np.ones((6, 6))
    values[:3, 3:], values[3:, :3] = forth, back
    return values


def test_layer_identification__counts_the_layers_that_are_found() -> None:
    forth = [[0.9, 0.5, 0.1], [0.7, 0.6, 0.1], [0.1, 0.2, 0.3]]  # two takes one for itself
    back = [[0.5, 0.4, 0.6], [0.2, 0.9, 0.1], [0.1, 0.2, 0.3]]  # one takes three
    found = layer_identification(comparison(TWO, svcca=between(forth, back)))
    assert found.accuracy.dims == ("measure", "group")
    assert found.measure.to_numpy().tolist() == ["svcca"]
    assert found.group.to_numpy().tolist() == ["s0, s1"]
    assert found.accuracy.item() == pytest.approx(4 / 6)
    assert found.tested.item() == 6
    by_layer = found.layer_accuracy.sel(measure="svcca", group="s0, s1").to_series()
    assert by_layer.to_dict() == {"one": 0.5, "two": 0.5, "three": 1.0}
    chosen = found.chosen.sel(measure="svcca")
    assert chosen.sel(model_a="s0", model_b="s1").to_numpy().tolist() == ["one", "one", "three"]
    assert chosen.sel(model_a="s1", model_b="s0").to_numpy().tolist() == ["three", "two", "three"]
    assert chosen.sel(model_a="s0", model_b="s0").to_numpy().tolist() == ["", "", ""]


def test_layer_identification__of_a_distance_looks_for_the_least() -> None:
    forth = [[0.1, 0.5, 0.6], [0.3, 0.2, 0.9], [0.8, 0.2, 0.3]]
    result = comparison(TWO, gulp=between(forth, np.transpose(forth)), svcca=between(forth, np.transpose(forth)))
    found = layer_identification(result, ["gulp", "svcca"])
    assert found.accuracy.sel(measure="gulp").item() == pytest.approx((2 + 2) / 6)
    assert found.accuracy.sel(measure="svcca").item() == 0


def test_layer_identification__of_all_measures_leaves_references_out() -> None:
    result = comparison(TWO, svcca=np.ones((6, 6)), cka=np.eye(6), null_svcca=np.ones((6, 6)))
    assert layer_identification(result, "all").measure.to_numpy().tolist() == ["svcca", "cka"]


def test_layer_identification__a_tie_is_not_found() -> None:
    # As where all correlations are 1 for want of samples.
    found = layer_identification(comparison(TWO, svcca=np.ones((6, 6))))
    assert (found.accuracy.item(), found.tested.item()) == (0, 6)


def test_layer_identification__pairs_without_a_value_are_not_looked_at() -> None:
    forth = np.array([[0.9, 0.5, 0.1], [0.7, 0.6, np.nan], [0.1, 0.2, np.nan]])
    back = np.full((3, 3), np.nan)
    back[0, 0] = 1
    found = layer_identification(comparison(TWO, svcca=between(forth, back)))
    # Of s0: one is found, two is not, three has no counterpart with a value; of s1 nothing can be told apart.
    assert (found.accuracy.item(), found.tested.item()) == (0.5, 2)
    assert found.layer_accuracy.isnull().to_numpy().ravel().tolist() == [False, False, True]


def test_layer_identification__without_any_value_has_no_accuracy() -> None:
    found = layer_identification(comparison(TWO, svcca=np.full((6, 6), np.nan)))
    assert np.isnan(found.accuracy.item())
    assert found.tested.item() == 0


def test_layer_identification__models_of_the_same_layers_are_of_one_architecture() -> None:
    names = [
        (model, "end", layer, 9.0)
        for model, layers in {
            "cnn-0": "ab",
            "mlp-0": "xy",
            "cnn-1": "ba",
            "cnn-2": "ab",
            "mlp-1": "xy",
            "alone": "z",
        }.items()
        for layer in layers
    ]
    alike = [[float(a[2] == b[2] and a[2] != "y") for b in names] for a in names]
    found = layer_identification(comparison(names, svcca=alike))
    assert found.group.to_numpy().tolist() == ["cnn-0, cnn-1, cnn-2", "mlp-0, mlp-1"]
    assert found.accuracy.to_numpy().tolist() == [[1.0, 0.5]]
    assert found.tested.to_numpy().tolist() == [[3 * 2 * 2, 2 * 2]]
    assert found.layer_accuracy.sel(layer="x").to_numpy().ravel().tolist() == pytest.approx([np.nan, 1], nan_ok=True)


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ({"net": ["s0", "s1"], "again": ("s1", "s0")}, ["net", "again"]),
        ([("s0", "s1")], ["s0, s1"]),
    ],
)
def test_layer_identification__models_may_be_told(groups: Any, names: list[str]) -> None:
    # One of them has a layer more: it is a candidate, and has no counterpart to be looked for.
    more = [*TWO, ("s1", "end", "four", 9.0)]
    values = np.pad(between(np.eye(3), np.eye(3)), ((0, 1), (0, 1)))
    values[2, 6] = 2
    found = layer_identification(comparison(more, svcca=values), groups=groups)
    assert found.group.to_numpy().tolist() == names
    for name in names:
        assert found.accuracy.sel(group=name).item() == pytest.approx(5 / 6)
        assert found.tested.sel(group=name).item() == 6


def test_layer_identification__of_the_last_checkpoint_or_another() -> None:
    names = [
        (model, checkpoint, layer, step)
        for model in ("s0", "s1")
        for checkpoint, step in (("end", 9.0), ("start", 0.0))
        for layer in "ab"
    ]
    values = [[float(a[2] == b[2]) if a[1] == b[1] == "end" else float(a[2] != b[2]) for b in names] for a in names]
    result = comparison(names, svcca=values)
    assert layer_identification(result).accuracy.item() == 1
    assert layer_identification(result, checkpoint="end").accuracy.item() == 1
    assert layer_identification(result, checkpoint="start").accuracy.item() == 0


def test_layer_identification__leaves_layers_out() -> None:
    forth = [[0.5, 0.1, 0.9], [0.1, 0.5, 0.9], [0.1, 0.2, 1.0]]
    result = comparison(TWO, svcca=between(forth, forth))
    assert layer_identification(result).accuracy.item() == pytest.approx(1 / 3)
    found = layer_identification(result, exclude=("th*",))
    assert (found.accuracy.item(), found.tested.item()) == (1, 4)
    assert found.layer.to_numpy().tolist() == ["one", "two"]


def test_layer_identification__of_a_comparison() -> None:
    rng = np.random.default_rng(0)
    layers = {name: rng.normal(size=(100, 5)) for name in ("one", "two", "three")}
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(100))
    with zoo:
        for model in ("s0", "s1"):
            for step, noise in ((0, 3.0), (1, 0.3)):
                for depth, (name, layer) in enumerate(layers.items()):
                    values = layer @ rng.normal(size=(5, 5)) + noise * rng.normal(size=(100, 5))
                    zoo.write(model, str(step), name, values, step=step, depth=depth)
    with dask.config.set(scheduler="synchronous"):
        result = dask_svcca.compare(zoo, MemoryStore(), measures=("svcca", "cka", "gulp"))
    found = layer_identification(result, "all")
    np.testing.assert_array_equal(found.accuracy, 1)
    np.testing.assert_array_equal(found.tested, 6)
    assert found.layer.to_numpy().tolist() == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"measure": "cka"}, UnknownMeasureError, "no measure 'cka' in this comparison; it has svcca"),
        (
            {"groups": {"net": ["s0", "s7"]}},
            RepresentationNotFoundError,
            "no model 's7' in this comparison; it has 's0', 's1'",
        ),
        ({"groups": {"net": ["s0"]}}, ValueError, "a group has two models or more; 'net' has 's0'"),
        ({"groups": {"net": ["s0", "s0"]}}, ValueError, "a group has two models or more"),
        (
            {"checkpoint": "middle"},
            RepresentationNotFoundError,
            "no model of this comparison has a checkpoint 'middle'",
        ),
    ],
)
def test_layer_identification__says_what_is_missing(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        layer_identification(comparison(TWO, svcca=np.ones((6, 6)), null_svcca=np.ones((6, 6))), **options)


def test_layer_identification__of_models_that_are_not_alike() -> None:
    with pytest.raises(InvalidQuestionError, match=r"no two of the models 's0', 's1' have the same layers; .* groups="):
        layer_identification(comparison(TWO[:5], svcca=np.ones((5, 5))))
    nothing = comparison(TWO, svcca=np.ones((6, 6))).isel(representation_a=slice(0), representation_b=slice(0))
    with pytest.raises(InvalidQuestionError, match="no representations here"):
        layer_identification(nothing)


def test_layer_identification__excludes_what_is_there() -> None:
    result = comparison(TWO, svcca=between(np.eye(3), np.eye(3)))
    assert layer_identification(result, exclude=["t*"]).sizes["group"] == 1
    with pytest.raises(RepresentationNotFoundError, match=r"exclude='thre'; it has 'one', .*Did you mean 'three'"):
        layer_identification(result, exclude=["two", "thre"])


def test_chance__is_what_guesses_find_among_the_layers_chosen() -> None:
    rng = np.random.default_rng(0)
    arrays = {(model, "end", layer): rng.normal(size=(60, 3)) for model in ("s0", "s1") for layer in "wxyz"}
    result = dask_svcca.compare(arrays)
    assert dask_svcca.layer_identification(result).chance.item() == 0.25
    found = dask_svcca.layer_identification(result, where={"layer": ["x", "y"]})
    assert found.chance.item() == 0.5
    assert found.tested.item() == 4
    assert found.layer.to_numpy().tolist() == ["x", "y"]
