"""All questions take a comparison or where it is, and say in a sentence what they cannot answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dask_svcca
from dask_svcca.errors import InvalidQuestionError, StoreFormatError, UnknownMeasureError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE, TWO, PAIR = {"model": "s0"}, {"model": "s1"}, (("s0", "end", "fc"), ("s1", "end", "fc"))

LABELS = ("s0/end/fc", "s1/end/fc")

QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "query": dask_svcca.query,
    "nearest": lambda result: dask_svcca.nearest(result, {**ONE, "layer": "fc"}),
    "match_layers": lambda result: dask_svcca.match_layers(result, a=ONE, b=TWO),
    "within_and_between": lambda result: dask_svcca.within_and_between(result, {"all": {}}),
    "embedding": dask_svcca.embedding,
    "cluster": dask_svcca.cluster,
    "learning_dynamics": dask_svcca.learning_dynamics,
    "training_phases": lambda result: dask_svcca.training_phases(result, model="s0", layer="fc"),
    "layer_identification": dask_svcca.layer_identification,
    "judge_measures": dask_svcca.judge_measures,
    "model_similarity": dask_svcca.model_similarity,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo and its comparison."""
    folder = tmp_path_factory.mktemp("questions")
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(folder / "zoo", examples=range(60), coords={"label": np.arange(60) % 3}) as zoo:
        for model in ("s0", "s1"):
            for depth, layer in enumerate(("conv", "fc")):
                zoo.write(model, "end", layer, rng.normal(size=(60, 4)), step=1, depth=depth)
    dask_svcca.compare(zoo, folder / "comparison")
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Any]:
    """What questions answer of the comparison."""
    return {name: ask(dask_svcca.open_comparison(folder / "comparison")) for name, ask in QUESTIONS.items()}


@pytest.fixture(scope="module")
def joined(folder: Path) -> list[tuple[xr.Dataset, xr.Dataset]]:
    """Another comparison, and one of which most was left out, each with what it gives joined to the first."""
    opened = dask_svcca.open_comparison(folder / "comparison")
    whole = dask_svcca.compare(folder / "zoo", variance=None)
    return [(whole, dask_svcca.join(opened, whole)), (opened, dask_svcca.join(_first(opened), opened))]


def _first(comparison: xr.Dataset) -> xr.Dataset:
    return comparison.isel(representation_a=[0], representation_b=slice(2))


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions__take_the_path_of_a_comparison(folder: Path, answers: dict[str, Any], question: str) -> None:
    store = str(folder / "comparison")
    there, opened = QUESTIONS[question](store), answers[question]
    if isinstance(there, xr.Dataset):
        xr.testing.assert_identical(there, opened)
    else:
        assert there.equals(opened)
    for nonsense in (None, 5, [store]):
        with pytest.raises(InvalidQuestionError, match=r"questions are about a comparison: .*; got"):
            QUESTIONS[question](nonsense)
    with pytest.raises(InvalidQuestionError, match="got DataArray, which is a part of one: pass the Dataset itself"):
        QUESTIONS[question](dask_svcca.open_comparison(store).svcca)


def _saved(folder: Path, by: str) -> xr.Dataset:
    """The comparison as xarray alone opens it: as it is stored, or as xarray itself has saved it."""
    if by == "store":
        return xr.open_zarr(folder / "comparison")
    if by == "zarr":
        dask_svcca.open_comparison(folder / "comparison").to_zarr(folder / "saved", mode="w", consolidated=False)
        return xr.open_zarr(folder / "saved", consolidated=False)
    dask_svcca.open_comparison(folder / "comparison").to_netcdf(folder / "saved.nc", engine="scipy")
    with xr.open_dataset(folder / "saved.nc", engine="scipy") as opened:
        return opened.load()


@pytest.mark.parametrize("by", ["store", "zarr", "netcdf"])
def test_questions__take_what_xarray_alone_opens(
    folder: Path, answers: dict[str, Any], joined: list[tuple[xr.Dataset, xr.Dataset]], by: str
) -> None:
    saved, opened = _saved(folder, by), dask_svcca.open_comparison(folder / "comparison")
    for name, ask in QUESTIONS.items():
        found, expected = ask(saved), answers[name]
        if isinstance(found, xr.Dataset):
            xr.testing.assert_equal(found, expected)
        else:
            pd.testing.assert_frame_equal(found, expected)
    for first, (second, expected) in zip((saved, _first(saved)), joined, strict=True):
        xr.testing.assert_equal(dask_svcca.join(first, second), expected)
    assert dask_svcca.plot.matrix(saved).get_ylabel() == dask_svcca.plot.matrix(opened).get_ylabel()


def test_questions__of_saved_subspaces_say_that_there_are_none(folder: Path) -> None:
    zoo = dask_svcca.open_zoo(folder / "zoo")
    for by, name, what in (("zarr", "saved", "is a Dataset that xarray saved"), ("netcdf", "saved.nc", "of netCDF")):
        saved, place = _saved(folder, by), folder / name
        asks: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
            (dask_svcca.permutation_null, (saved, [LABELS]), {}),
            (dask_svcca.jackknife, (saved, [LABELS]), {}),
            (dask_svcca.class_sensitivity, (saved,), {"zoo": zoo}),
            (dask_svcca.open_comparison, (place,), {}),
            (dask_svcca.query, (place,), {}),
        ]
        for ask, given, named in asks:
            with pytest.raises(StoreFormatError, match=rf"{what}.*give the path of the comparison itself"):
                ask(*given, **named)
    with pytest.raises(StoreFormatError, match="or as a store of zarr; got Dataset"):
        dask_svcca.verify(dask_svcca.open_comparison(folder / "comparison"))  # type: ignore[arg-type]


def test_questions__take_the_path_of_a_zoo(folder: Path) -> None:
    zoo = dask_svcca.open_zoo(folder / "zoo")
    for ask in (
        lambda zoo: dask_svcca.class_sensitivity(folder / "comparison", zoo=zoo),
        lambda zoo: dask_svcca.canonical_directions(zoo, *PAIR, components=2),
    ):
        xr.testing.assert_identical(ask(str(folder / "zoo")), ask(zoo))
        for nonsense in (None, 5, [zoo]):
            with pytest.raises(InvalidQuestionError, match="zoo is what open_zoo or create_zoo returned, or"):
                ask(nonsense)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda result: dask_svcca.query(result, top="5"), "top is how many pairs .*; got '5'"),
        (lambda result: dask_svcca.query(result, top=2.5), "top is how many pairs .*; got 2.5"),
        (lambda result: dask_svcca.query(result, low="0.1"), "low is a bound of the value, .*; got '0.1'"),
        (lambda result: dask_svcca.query(result, across=["models"]), r"across is .*; got \['models'\]"),
        (lambda result: dask_svcca.nearest(result, ONE, top="5"), "top is how many to list, at least 1; got '5'"),
        (lambda result: dask_svcca.cluster(result, count="2"), "count is the largest .*; got '2'"),
        (lambda result: dask_svcca.embedding(result, kind=["metric"]), r"kind is .*; got \['metric'\]"),
        (
            lambda result: dask_svcca.permutation_null(result, [LABELS], permutations="9"),
            "permutations is how many .*, at least 1; got '9'",
        ),
        (lambda result: dask_svcca.jackknife(result, [LABELS], blocks="9"), "blocks is from 2 .*; got '9'"),
        (lambda result: dask_svcca.permutation_null(result, LABELS), "pairs are two labels each, .*; got 's0/end/fc'"),
        (lambda result: dask_svcca.jackknife(result, [(*LABELS, "x")]), r"pairs are two labels each, .*; got \('s0"),
        (lambda result: dask_svcca.jackknife(result, None), "pairs are two labels each, .*; got None"),
        (
            lambda result: dask_svcca.learning_dynamics(result, threshold="0.1"),
            "threshold is .*, a number of at least 0; got '0.1'",
        ),
        (
            lambda result: dask_svcca.within_and_between(result, ["cnn*"]),
            r"groups is a mapping of names .*; got \['cnn\*'\]",
        ),
    ],
)
def test_questions__options_of_another_kind_are_named(folder: Path, ask: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(InvalidQuestionError, match=message):
        ask(folder / "comparison")


def test_questions__pairs_are_what_query_found(folder: Path) -> None:
    found = dask_svcca.query(folder / "comparison", a={"model": "s0"}, b={"model": "s1"})
    labels = [
        (f"{a}/{b}/{c}", f"{d}/{e}/{f}")
        for a, b, c, d, e, f in found[
            ["model_a", "checkpoint_a", "layer_a", "model_b", "checkpoint_b", "layer_b"]
        ].to_numpy()
    ]
    assert len(labels) == 4
    for ask in (dask_svcca.permutation_null, dask_svcca.jackknife):
        xr.testing.assert_identical(ask(folder / "comparison", found), ask(folder / "comparison", labels))
    with pytest.raises(InvalidQuestionError, match=r"of a DataFrame, columns .* are needed, as query .*; got"):
        dask_svcca.jackknife(folder / "comparison", found[["model_a", "svcca"]])


def test_questions__a_measure_is_a_name(folder: Path) -> None:
    with pytest.raises(UnknownMeasureError, match="no measure 5 in this comparison"):
        dask_svcca.query(folder / "comparison", 5)
