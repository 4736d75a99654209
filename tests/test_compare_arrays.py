"""Arrays at hand, compared without stores: names, order of examples, axes, masks, and what the result is good for."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import dask
import dask.array as da
import distributed
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import svcca
from zarr.storage import MemoryStore
from zoos import N, assert_same, layers, make_zoo

import dask_svcca
from dask_svcca.errors import (
    ClusterError,
    FailedRepresentationWarning,
    InvalidActivationsError,
    MismatchedExamplesError,
    ReadingWarning,
    StoreFormatError,
)
from dask_svcca.run.arrays import zoo_of
from dask_svcca.stores.dataset import parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True, scope="module")
def in_this_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


X, Y = (layer.astype("float64") for layer in layers(2))
IDS = np.array([f"image {number}" for number in range(N)], dtype=object)


def value(result: xr.Dataset, a: str, b: str, name: str = "svcca") -> float:
    return float(result[name].sel(representation_a=a, representation_b=b))


def labelled(array: np.ndarray, order: Any = slice(None)) -> xr.DataArray:
    return xr.DataArray(array[order], dims=("example", "neuron"), coords={"example": IDS[order]})


def test_arrays__equal_a_zoo_on_disk_bit_by_bit(tmp_path: Path) -> None:
    names = [("net", f"step{step}", layer) for step in (1, 2) for layer in ("conv", "fc")]
    arrays = dict(zip(names, layers(4), strict=True))
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        for name, array in arrays.items():
            zoo.write(*name, array)
    stored = dask_svcca.compare(tmp_path / "zoo.zarr", tmp_path / "comparison.zarr", measures=("svcca", "pwcca", "cka"))
    found = dask_svcca.compare(arrays, measures=("svcca", "pwcca", "cka"))
    assert_same(found, stored.load())
    assert parameters_of(found) == parameters_of(stored)


def test_arrays__names_are_layers_or_tuples() -> None:
    result = dask_svcca.compare({"b/1": X, ("step10", "a"): Y, ("net", "step10", "fc"): X})
    assert list(result.representation_a.to_numpy()) == ["b/1", "step10/a", "net/step10/fc"]
    assert list(result.model_a.to_numpy()) == ["", "", "net"]
    assert list(result.checkpoint_a.to_numpy()) == ["", "step10", "step10"]
    assert list(result.layer_a.to_numpy()) == ["b/1", "a", "fc"]
    assert abs(value(result, "b/1", "step10/a") - svcca(X, Y, 0.99)) < 1e-6


def test_arrays__the_result_can_be_asked_further() -> None:
    models = {(model, "end", layer): array for model in "ab" for layer, array in (("x", X), ("y", Y))}
    result = dask_svcca.compare(models)
    assert len(dask_svcca.query(result, a={"model": "a"}, b={"model": "b"})) == 4
    pairs = [("a/end/x", "b/end/y")]
    expected = value(result, *pairs[0])
    assert abs(float(dask_svcca.permutation_null(result, pairs, permutations=9).svcca[0]) - expected) < 1e-6
    assert abs(float(dask_svcca.jackknife(result, pairs, blocks=5).svcca[0]) - expected) < 1e-6
    assert float(dask_svcca.layer_identification(result).accuracy.mean()) == 1


def test_arrays__go_into_a_store_where_one_is_given(tmp_path: Path) -> None:
    found = dask_svcca.compare({"x": X, "y": Y}, tmp_path / "comparison.zarr", subspaces=tmp_path / "subspaces.zarr")
    assert_same(dask_svcca.open_comparison(tmp_path / "comparison.zarr").load(), found.load())
    grown = dask_svcca.compare({"x": X, "y": Y, "z": X + 1}, tmp_path / "comparison.zarr")
    assert abs(value(grown, "x", "z") - 1) < 1e-6


@given(seeds=st.tuples(*[st.integers(0, 1000)] * 3))
@settings(max_examples=20)
def test_arrays__are_put_into_one_order_of_their_examples(seeds: tuple[int, int, int]) -> None:
    orders = [np.random.default_rng(seed).permutation(N) for seed in seeds]
    frame = pd.DataFrame(Y, index=IDS).iloc[orders[1]]
    lazy = labelled(Y, orders[2]).chunk({"example": 7})
    zoo = zoo_of({"x": labelled(X, orders[0]), "y": frame, "z": lazy, "t": lazy.T})
    assert list(zoo.examples) == list(IDS[orders[0]])
    for name, array in {"x": X, "y": Y, "z": Y, "t": Y}.items():
        np.testing.assert_array_equal(zoo["", "", name], array[orders[0]])


def test_arrays__in_any_order_give_the_same() -> None:
    expected = dask_svcca.compare({"x": X, "y": Y})
    found = dask_svcca.compare({"x": labelled(X), "y": labelled(Y, slice(None, None, -1))})
    assert value(found, "x", "y") == value(expected, "x", "y")


def test_arrays__the_first_example_that_differs_is_named() -> None:
    other = labelled(Y).assign_coords(example=np.where(IDS == "image 7", "stranger", IDS))
    with pytest.raises(MismatchedExamplesError, match=r"'stranger' of 'y', at 7, is not among the examples of 'x'"):
        dask_svcca.compare({"x": labelled(X), "y": other})
    twice = labelled(Y).assign_coords(example=np.where(IDS == "image 7", "image 8", IDS))
    with pytest.raises(MismatchedExamplesError, match="'y' has the example 'image 8' twice"):
        dask_svcca.compare({"x": labelled(X), "y": twice})


def test_arrays__without_labels_have_the_order_of_all_that_have() -> None:
    found = dask_svcca.compare({"x": X, "y": labelled(Y)})
    assert value(found, "x", "y") == value(dask_svcca.compare({"x": X, "y": Y}), "x", "y")
    with pytest.raises(MismatchedExamplesError, match="'z' does not say which of them it has"):
        dask_svcca.compare({"x": labelled(X), "y": labelled(Y, slice(None, None, -1)), "z": X})


@pytest.mark.parametrize("kind", ["numpy", "dask", "xarray", "pandas", "torch", "fortran", "big-endian"])
def test_arrays__of_any_kind_give_the_same(kind: str) -> None:
    x, y = X.astype("float32"), Y.astype("float32")
    made: dict[str, Any] = {
        "numpy": lambda array: array,
        "dask": lambda array: da.from_array(array, chunks=(7, 2)),
        "xarray": xr.DataArray,
        "pandas": pd.DataFrame,
        "torch": lambda array: pytest.importorskip("torch").tensor(array, requires_grad=True),
        "fortran": np.asfortranarray,
        "big-endian": lambda array: array.astype(">f4"),
    }
    found = dask_svcca.compare({"x": made[kind](x), "y": made[kind](y)})
    assert_same(found, dask_svcca.compare({"x": x, "y": y}))


def test_arrays__dims_say_what_axes_are() -> None:
    image = np.random.default_rng(0).normal(size=(N, 5, 3, 4))
    dims = ("example", "height", "width", "channel")
    named = xr.DataArray(np.moveaxis(image, 3, 1), dims=("example", "channel", "height", "width"))
    found = dask_svcca.compare({"a": image, "b": named, "c": X}, dims={"a": dims}, conv="mean")
    assert abs(value(found, "a", "b") - 1) < 1e-6
    assert list(found.neurons_a.to_numpy()) == [4, 4, X.shape[1]]
    expected = svcca(image.mean(axis=(1, 2)), X, 0.99)
    assert abs(value(found, "a", "c") - expected) < 1e-6


def test_arrays__bring_their_mask() -> None:
    rng = np.random.default_rng(1)
    mask = np.arange(4) < rng.integers(1, 5, size=(N, 1))
    tokens = np.where(mask[..., np.newaxis], rng.normal(size=(N, 4, 3)), 1e3 * rng.normal(size=(N, 4, 3)))
    array = xr.DataArray(
        tokens,
        dims=("example", "token", "neuron"),
        coords={"example": IDS, "real": (("example", "token"), mask)},
    )
    shuffled = array.isel(example=rng.permutation(N))
    found = dask_svcca.compare({"x": shuffled, "dense": labelled(X)}, precision="float64")
    assert parameters_of(found)["mask"] == "real"
    means = np.array([row[one].mean(axis=0) for row, one in zip(tokens, mask, strict=True)])
    assert abs(value(found, "x", "dense") - svcca(means, X, 0.99)) < 1e-9
    with pytest.raises(MismatchedExamplesError, match="'x' and 'y' have different coordinates 'real'"):
        dask_svcca.compare({"x": array, "y": array.assign_coords(real=~array.coords["real"])})


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({}, {}, "there are no arrays to compare"),
        ({0: X}, {}, "text; got 0"),
        ({("net", 100, "fc"): X}, {}, r"text; got \('net', 100, 'fc'\)"),
        ({("a", "net", "1", "fc"): X}, {}, r"\(checkpoint, layer\) or \(model, checkpoint, layer\)"),
        ({("", "1", "fc"): X}, {}, "the name of a model must be text of at least one character"),
        ({"": X}, {}, "the name of a layer must be text of at least one character"),
        ({"a/b": X, ("a", "b"): X}, {}, "two arrays are called 'a/b'"),
        ({"x": X, "y": Y[:-1]}, {}, f"'y' has {N - 1} examples, and 'x' has {N}"),
        ({"x": np.float64(1)}, {}, r"activations of 'x' have the shape \(\), without an axis of examples"),
        ({"x": X[:1]}, {}, "at least two examples"),
        ({"x": X}, {"dims": {"y": ("example", "neuron")}}, "dims= names 'y', and there is no such array"),
        ([X, Y], {}, "a mapping of names to arrays, .* got list"),
        (X, {}, "a mapping of names to arrays, .* got ndarray"),
        ({"x": iter([X])}, {}, "activations of 'x' are a series of batches; put them together"),
        ({"x": np.zeros((9, 8, 2, 2))}, {}, "'x'"),
    ],
)
def test_arrays__that_are_not_valid_are_refused(arrays: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidActivationsError, MismatchedExamplesError, ValueError), match=message):
        dask_svcca.compare(arrays, **options)


def test_compare__an_unknown_keyword_is_explained() -> None:
    options: dict[str, Any] = {"varience": 0.9}
    with pytest.raises(TypeError, match=r"compare\(\) has no parameter 'varience'. Did you mean 'variance'?"):
        dask_svcca.compare({"x": X}, **options)


def test_compare__dims_are_those_of_arrays(zoo: dask_svcca.Zoo) -> None:
    with pytest.raises(ValueError, match="dims= is about arrays at hand"):
        dask_svcca.compare(zoo, dims={"fc": ("example", "neuron")})


@pytest.mark.parametrize("store", [5, {}, True])
def test_compare__a_store_is_a_place(store: Any) -> None:
    with pytest.raises(StoreFormatError, match="a store is a path, a URL, or a store of zarr; got"):
        dask_svcca.compare({"x": X}, store)


def test_compare__takes_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = dask_svcca.compare(make_zoo(tmp_path / "zoo.zarr", layers(3)))
    assert_same(dask_svcca.compare("~/zoo.zarr", "~/comparison.zarr").load(), expected)
    assert (tmp_path / "comparison.zarr").is_dir()
    assert_same(dask_svcca.compare(tmp_path / "zoo.zarr", tmp_path / "comparison.zarr").load(), expected)
    assert len(dask_svcca.query("~/comparison.zarr", top=3)) == 3
    assert dask_svcca.plan_comparison("~/zoo.zarr", "~/comparison.zarr").pairs_done == 6


def test_compare__one_store_in_another_is_refused(
    tmp_path: Path, zoo: dask_svcca.Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreFormatError, match=r"the zoo at .* would lie in the comparison at"):
        dask_svcca.compare(zoo, ".")
    with pytest.raises(StoreFormatError, match=r"the comparison at .* would lie in the zoo at"):
        dask_svcca.compare(zoo, "zoo.zarr/comparison.zarr")
    with pytest.raises(StoreFormatError, match=r"the subspaces at .* would lie in the comparison at"):
        dask_svcca.compare(zoo, "c.zarr", subspaces="c.zarr/other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(StoreFormatError, match=r"already something else at '\.'"):
        dask_svcca.compare(zoo, ".")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["other", "zoo.zarr"]


def test_compare__strange_folders_are_passed_over(place: Path) -> None:
    zoo = make_zoo(place.with_name("few.zarr"), layers(2))
    first = dask_svcca.compare(zoo, place, subspaces=place.with_name("subspaces.zarr")).load()
    for folder in (place, place.with_name("subspaces.zarr")):
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / "notes").mkdir()
    assert_same(dask_svcca.compare(zoo, place).load(), first)
    assert set(dask_svcca.compare(zoo, place, measures="cka").data_vars) > set(first.data_vars)


# Where the work is done.


def test_memory__work_stays_in_this_process() -> None:
    cluster = distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0")
    with cluster, distributed.Client(cluster) as client, dask.config.set(scheduler=None):
        with pytest.raises(ClusterError, match="Leave client= out, and the work runs in threads"):
            dask_svcca.compare({"x": X, "y": Y}, client=client)
        # Copies of the stores would have taken the values of a client that is only there.
        found = dask_svcca.compare({"x": X, "y": Y})
    assert abs(value(found, "x", "y") - svcca(X, Y, 0.99)) < 1e-6


def test_memory__other_processes_are_refused(zoo: dask_svcca.Zoo) -> None:
    with dask.config.set(scheduler="processes"):
        for arguments in (({"x": X},), (zoo, MemoryStore())):
            with pytest.raises(ClusterError, match="Dask is set to run in processes"):
                dask_svcca.compare(*arguments)


def test_compare__a_client_is_a_client(zoo: dask_svcca.Zoo, place: Path) -> None:
    client: Any = "tcp://127.0.0.1:8786"
    with pytest.raises(ClusterError, match=r"client is a distributed.Client, .* got 'tcp:"):
        dask_svcca.compare(zoo, place, client=client)


def test_memory__of_a_run_is_let_go_of() -> None:
    seen = []

    def remembered(arrays: Any, dims: Any = None) -> dask_svcca.Zoo:
        zoo = zoo_of(arrays, dims)
        seen.append(weakref.ref(zoo.root.store))
        return zoo

    with patch.object(sys.modules["dask_svcca.run.arrays"], "zoo_of", remembered):
        result = dask_svcca.compare({"x": X, "y": Y})
    gc.collect()
    assert seen[0]() is None
    assert len(dask_svcca.jackknife(result, [("x", "y")]).pair) == 1


# What is said.


def test_warnings__say_that_a_representation_failed() -> None:
    arrays = {"x": X, "bad": np.where(Y > 2, np.nan, Y), "worse": np.full((N, 2), 1.0), "y": Y}
    with pytest.warns(FailedRepresentationWarning, match="2 of 4 representations could not .* The first: 'bad' has"):
        result = dask_svcca.compare(arrays)
    assert np.isnan(value(result, "x", "bad"))
    assert value(result, "x", "y") > 0


def test_compare__takes_measures_as_one_text() -> None:
    result = dask_svcca.compare({"x": X, "y": Y}, measures="cca, cka,gulp(lambda=0.1)")
    assert {"cca", "cka", "gulp(lambda=0.1)"} <= set(result.data_vars)


@pytest.mark.parametrize("drop_left", ["x", None, 1])
def test_compare__drop_left_is_yes_or_no(zoo: dask_svcca.Zoo, drop_left: Any) -> None:
    for call in (dask_svcca.compare, dask_svcca.plan_comparison):
        with pytest.raises(ValueError, match="drop_left is True or False"):
            call(zoo, drop_left=drop_left)


@pytest.mark.parametrize("axis", [0, 1])
def test_pairs__labels_are_not_there_twice(axis: int) -> None:
    names = ["x", "y"]
    labels = [names, names]
    labels[axis] = ["x", "y", "y"]
    frame = pd.DataFrame(True, index=labels[0], columns=labels[1])
    axes = ("representation_a", "representation_b")
    array = xr.DataArray(frame.to_numpy(), dict(zip(axes, labels, strict=True)), axes)
    for mask in (frame, array):
        with pytest.raises(ValueError, match=f"the mask of pairs has the {axes[axis]} 'y' twice"):
            dask_svcca.compare({"x": X, "y": Y}, pairs=mask)


def test_warnings__name_the_line_of_the_caller() -> None:
    image = np.random.default_rng(0).normal(size=(12, 2, 2, 6))
    named = xr.DataArray(image, dims=("example", "height", "width", "channel"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dask_svcca.compare({"x": named, "y": X[:12]}, measures=("svcca", "cka"))
    assert [one.category.__name__ for one in caught] == ["FewSamplesWarning", "ReadingWarning"]
    assert {one.filename for one in caught} == {__file__}


@pytest.mark.parametrize(
    ("measures", "conv", "said"),
    [
        ("cka", "dft", "cka"),
        ("cka", "mean", "cka"),
        (["svcca", "r2_cca", "linear_regression"], "dft", "r2_cca, linear_regression"),
        ("cka", "flatten", ""),
        ("svcca", "mean", ""),
    ],
)
def test_warnings__readings_that_papers_do_not_use(measures: Any, conv: Any, said: str) -> None:
    image = np.random.default_rng(0).normal(size=(100, 2, 2, 3))
    named = xr.DataArray(image, dims=("example", "height", "width", "channel"))
    dense = {"x": X, "one position": named[:N, :1, :1], "tokens": X.reshape(N, 1, -1)}
    dask_svcca.compare(dense, measures=measures, conv=conv)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dask_svcca.compare({"x": named, "y": -named}, measures=measures, conv=conv)
    assert [(one.category, str(one.message).split("have ")[1]) for one in caught] == (
        [(ReadingWarning, f"conv='flatten' for {said}")] if said else []
    )


def test_progress__is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    dask_svcca.compare({"x": X, "y": Y})
    assert capsys.readouterr().err == ""
    dask_svcca.compare({"x": X, "y": Y}, progress=True)
    shown = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[0] for line in shown] == [
        "Making subspaces: 2 of 2 subspaces",
        "Comparing pairs: 1 of 1 tiles",
    ]
