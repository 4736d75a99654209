"""What ``where=``, ``a=`` and ``b=`` mean: the right places, and a sentence for what is not there."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

import dask_svcca
from dask_svcca.analysis.selection import part_of, places_of
from dask_svcca.errors import IncompatibleError, InvalidQuestionError, RepresentationNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

MODELS, STEPS, LAYERS = ("cnn", "resnet"), (0, 10, 630), ("conv1", "conv[2]", "fc")
NAMES = list(product(MODELS, STEPS, range(3)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("selection")
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(50)) as zoo:
        for model, step, depth in NAMES:
            zoo.write(model, f"step{step}", LAYERS[depth], rng.normal(size=(50, 4)), step=step, depth=depth)
    dask_svcca.compare(zoo, folder / "comparison.zarr")
    return folder / "comparison.zarr"


def places(wanted: Any) -> list[int]:
    """Places of what is true of (model, step, depth); the comparison has them in the order of the zoo."""
    return [place for place, name in enumerate(NAMES) if wanted(*name)]


CASES: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda model, step, depth: True),
    ({"model": "cnn"}, lambda model, step, depth: model == "cnn"),
    ({"model": ["resnet", "cnn"]}, lambda model, step, depth: True),
    ({"layer": "conv*"}, lambda model, step, depth: depth < 2),
    ({"layer": "conv[2]"}, lambda model, step, depth: depth == 1),
    ({"layer": np.array(["fc", "c*1"])}, lambda model, step, depth: depth != 1),
    ({"checkpoint": "*0", "model": "c*"}, lambda model, step, depth: model == "cnn"),
    ({"step": 10}, lambda model, step, depth: step == 10),
    ({"step": np.array([630, 0])}, lambda model, step, depth: step != 10),
    ({"step": range(0, 20, 10)}, lambda model, step, depth: step < 20),
    ({"step": slice(5, 630)}, lambda model, step, depth: step >= 5),
    ({"step": slice(None, 10), "depth": slice(1, None)}, lambda model, step, depth: step <= 10 and depth >= 1),
    ({"depth": np.int64(2)}, lambda model, step, depth: depth == 2),
    ({"final": True}, lambda model, step, depth: step == 630),
    ({"final": False, "layer": "fc"}, lambda model, step, depth: step < 630 and depth == 2),
    ({"representation": "cnn/step0/*"}, lambda model, step, depth: model == "cnn" and step == 0),
    ({"representation": slice("cnn/step10/fc", "resnet/step0/fc")}, lambda *name: 5 <= NAMES.index(name) <= 11),
]


@pytest.mark.parametrize(("where", "wanted"), CASES)
def test_places_of__are_those_that_a_choice_means(store: Path, where: dict[str, Any], wanted: Any) -> None:
    for result in (dask_svcca.open_comparison(store), xr.open_zarr(store)):
        for side in ("a", "b"):
            assert places_of(result, side, where).tolist() == places(wanted)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"model": "vit"}, r"no model matches 'vit' on side b; there are 'cnn', 'resnet'"),
        ({"checkpoint": ["a*", "b"]}, r"no checkpoint matches 'a\*' or 'b' on side b; there are 'step0', .*stand \*"),
        ({"model": "cnn", "layer": "con1"}, r"no layer matches 'con1' on side b; there are .*Did you mean 'conv1'\?"),
        ({"layer": "fc, con1"}, r"no layer matches 'con1' on side b"),
        ({"step": 631}, r"no step on side b is 631; there are 0, 10, 630. The nearest is 630"),
        ({"step": [0, np.nan]}, r"no step on side b is nan; there are 0, 10, 630"),
        ({"depth": slice(5, 9)}, r"no depth on side b is from 5 to 9; there are 0, 1, 2"),
        ({"step": 0, "final": True}, r"final=True leaves no representation on side b: those chosen are of other"),
        ({"representation": slice("cnn/step0/fc", "x")}, r"no representation is called 'x' on side b"),
    ],
)
def test_places_of__says_what_there_is(store: Path, where: dict[str, Any], message: str) -> None:
    with pytest.raises(RepresentationNotFoundError, match=message):
        places_of(dask_svcca.open_comparison(store), "b", where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("cnn", r"side a are chosen by a mapping, such as dict\(model='net', final=True\); got 'cnn'"),
        ({"layers": "fc"}, r"side a is chosen by 'model', .*got 'layers'. Did you mean 'layer'\?"),
        ({"model": 3}, r"a model is chosen by its name, a pattern, or several of these; got 3"),
        ({"model": None}, r"a model is chosen by its name, .*; got None"),
        ({"layer": []}, r"an empty list chooses no layer on side a; leave layer out"),
        ({"step": "10"}, r"a step is chosen by a number, several of them, or a slice; got '10'"),
        ({"step": True}, r"a step is chosen by a number, .*; got True"),
        ({"step": slice(0, 20, 10)}, r"a slice of steps has no stride; got 10"),
        ({"final": "yes"}, r"final is True or False; got 'yes'"),
    ],
)
def test_places_of__refuses_what_is_not_valid(store: Path, where: Any, message: str) -> None:
    with pytest.raises(InvalidQuestionError, match=message):
        places_of(dask_svcca.open_comparison(store), "a", where)


def test_places_of__which_checkpoint_is_final_matters_for_the_models_chosen_only() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    result = dask_svcca.compare(
        {("net", name, "fc"): x for name in ("1", "2")} | {("odd", "a", "y"): x, ("odd", "b", "y"): x}
    )
    assert places_of(result, "a", {"model": "net", "final": True}).tolist() == [1]
    with pytest.raises(ValueError, match="which checkpoint of 'odd' is the final one cannot be known"):
        places_of(result, "a", {"final": True})


def test_part_of__rows_and_columns(store: Path) -> None:
    part = part_of(dask_svcca.open_comparison(store), {"model": "cnn", "final": True}, {"layer": "fc"})
    assert part.svcca.shape == (3, 6)
    assert set(part.model_a.to_numpy()) == {"cnn"}
    assert set(part.layer_b.to_numpy()) == {"fc"}


def test_places_of__without_a_side_or_coordinate_says_so(store: Path) -> None:
    result = dask_svcca.open_comparison(store)
    with pytest.raises(IncompatibleError, match="lacks the dimension 'representation_a'"):
        places_of(result.isel(representation_a=0), "a", {"layer": "fc"})
    with pytest.raises(IncompatibleError, match="lacks the coordinate 'step_b'"):
        places_of(xr.open_zarr(store).drop_vars("step_b"), "b", {"step": 0})
