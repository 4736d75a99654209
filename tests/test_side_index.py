"""What a comparison is in xarray: several coordinates select together, and everyday operations go on working."""

from __future__ import annotations

import pickle
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

import dask_svcca
from dask_svcca.errors import InvalidQuestionError, RepresentationNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS, LAYERS = (0, 10, 630), ("conv1", "conv2", "fc")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(50)) as zoo:
        for model, step, (depth, layer) in product(("cnn-s0", "cnn-s1"), STEPS, enumerate(LAYERS)):
            zoo.write(model, f"step{step}", layer, rng.normal(size=(50, 3)), step=step, depth=depth)
    dask_svcca.compare(zoo, folder / "comparison.zarr", measures=("svcca", "gulp"))
    return folder / "comparison.zarr"


@pytest.fixture
def result(store: Path) -> xr.Dataset:
    return dask_svcca.open_comparison(store)


def test_sel__several_coordinates_of_both_sides(result: xr.Dataset) -> None:
    found = result.svcca.sel(model_a="cnn-s0", step_a=630, layer_b="conv*")
    assert found.shape == (3, 12)
    expected = result.svcca.to_numpy()[6:9][:, [place for place in range(18) if place % 3 < 2]]
    np.testing.assert_array_equal(found, expected)
    assert found.sel(step_a=slice(10, None), layer_a=["fc", "conv1"]).layer_a.to_numpy().tolist() == ["conv1", "fc"]
    assert result.sel(step_b=slice(5, 630), checkpoint_b=["step0", "step10"], model_b="*s1").sizes == {
        "representation_a": 18,
        "representation_b": 3,
    }


def test_sel__names_of_one_representation_take_it_out(result: xr.Dataset) -> None:
    one = result.svcca.sel(model_a="cnn-s0", step_a=10, layer_a="fc", representation_b="cnn-s1/step0/conv1")
    assert one.shape == ()
    assert one.item() == result.svcca.to_numpy()[5, 9]
    assert result.svcca.sel(model_a="cnn-s0", step_a=10, layer_a="f*").sizes["representation_a"] == 1
    assert result.svcca.sel(model_a="cnn-s0", step_a=10, layer_a=["fc"]).sizes["representation_a"] == 1


def test_sel__labels_pair_by_pair(result: xr.Dataset) -> None:
    labels = [result[f"representation_{side}"].to_numpy() for side in "ab"]
    places = [np.array([3, 1, 17]), np.array([0, 1, 9])]
    pairs = [xr.DataArray(label[place], dims="pair") for label, place in zip(labels, places, strict=True)]
    found = result.svcca.sel(representation_a=pairs[0], representation_b=pairs[1])
    np.testing.assert_array_equal(found, result.svcca.to_numpy()[tuple(places)])


def test_sel__says_what_there_is(result: xr.Dataset) -> None:
    with pytest.raises(
        RepresentationNotFoundError, match=r"no step on the side 'representation_a' is 11; there are 0, 10"
    ):
        result.sel(model_a="cnn-s0", step_a=11)
    with pytest.raises(RepresentationNotFoundError, match=r"no layer matches 'conv3' .*Did you mean 'conv"):
        result.sel(layer_b="conv3")
    with pytest.raises(InvalidQuestionError, match="without method= and tolerance="):
        result.sel(step_a=11, method="nearest")
    with pytest.raises(InvalidQuestionError, match=r"choose by a mask with \.isel or \.where"):
        result.sel(layer_a=result.layer_a == "fc")


def rows(result: xr.Dataset, *places: int) -> xr.Dataset:
    return result.isel(representation_a=list(places))


OPERATIONS: dict[str, Callable[[xr.Dataset], Any]] = {
    "isel": lambda r: r.isel(representation_a=slice(2, 9, 3)).layer_a.to_numpy().tolist() == ["fc"] * 3,
    "isel of one": lambda r: r.isel(representation_a=3).layer_a.item() == "conv1",
    "idxmax": lambda r: r.svcca.idxmax("representation_b")[4].item() == "cnn-s0/step10/conv2",
    "where, drop": lambda r: r.where(r.layer_a == "fc", drop=True).sizes["representation_a"] == 6,
    "where of values": lambda r: r.svcca.where(r.svcca > 0.99, drop=True).shape == (18, 18),
    "sel of labels, in their order": lambda r: (
        r.sel(representation_a=["cnn-s1/step0/fc", "cnn-s0/step0/fc"]).model_a.to_numpy().tolist()
        == ["cnn-s1", "cnn-s0"]
    ),
    "reindex_like": lambda r: r.reindex_like(rows(r, 5, 1)).layer_a.to_numpy().tolist() == ["fc", "conv2"],
    # What is no part of an index, as the parent is, xarray leaves out where a part has it too.
    "combine_first": lambda r: r.combine_first(rows(r, 2)).svcca.equals(r.svcca.drop_vars("parent_a")),
    "combine_first of parts": lambda r: (
        rows(r, 0).combine_first(rows(r, 4)).layer_a.to_numpy().tolist() == ["conv1", "conv2"]
    ),
    "to_dataframe": lambda r: r.svcca.to_dataframe().svcca["cnn-s0/step0/fc", "cnn-s1/step0/fc"] < 1,
    "to_series": lambda r: len(r.gulp.to_series()) == 18**2,
    "to_pandas": lambda r: r.svcca.to_pandas().index[3] == "cnn-s0/step10/conv1",
    "groupby": lambda r: r.svcca.groupby("model_a").mean().sizes["model_a"] == 2,
    "groupby of both": lambda r: r.groupby(["layer_a", "model_a"]).mean().svcca.shape == (18, 3, 2),
    "groupby, map": lambda r: r.svcca.groupby("layer_a").map(lambda x: x).step_a.equals(r.step_a),
    "concat": lambda r: xr.concat([rows(r, 3, 4), rows(r, 1)], "representation_a", data_vars="minimal").step_a[2] == 0,
    "merge": lambda r: (
        xr.merge([rows(r, 0, 1), rows(r, 2)], join="outer", compat="no_conflicts").svcca.sel(layer_a="fc").shape
        == (1, 18)
    ),
    "align": lambda r: xr.align(rows(r, 4, 1, 2), rows(r, 1, 4), join="inner")[0].sizes["representation_a"] == 2,
    "align, exact": lambda r: xr.align(r, r.copy(), join="exact")[0].equals(r),
    "difference": lambda r: (r.svcca - rows(r, 3).svcca).shape == (1, 18),
    "stack": lambda r: (
        r.svcca.stack(pair=("representation_a", "representation_b")).unstack().variable.equals(r.svcca.variable)
    ),
    "assign": lambda r: r.assign(twice=2 * r.svcca).twice.model_a.equals(r.model_a),
    "sortby": lambda r: r.sortby("layer_a").layer_a[-1] == "fc",
    "rename": lambda r: r.rename(representation_a="x", layer_a="name").sel(name="fc", step_a=10).sizes["x"] == 2,
    "roll": lambda r: r.roll(representation_a=1, roll_coords=True).layer_a[0] == "fc",
    "expand_dims": lambda r: r.expand_dims(zoo=["one"]).sel(layer_a="fc").sizes["representation_a"] == 6,
    "pickle": lambda r: pickle.loads(pickle.dumps(r)).sel(layer_a="fc", step_a=0).sizes["representation_a"] == 2,
    "copy": lambda r: r.copy(deep=True).equals(r),
    "chunk": lambda r: float(r.chunk().svcca.mean()) == pytest.approx(float(r.svcca.mean())),
    "drop_sel": lambda r: r.drop_sel(representation_a="cnn-s0/step0/fc").sizes["representation_a"] == 17,
    "repr": lambda r: "SideIndex" in repr(r) and "SideIndex" in r._repr_html_(),
    "reindex": lambda r: (
        r.drop_indexes([f"{name}_a" for name in ("model", "checkpoint", "layer", "step", "depth")])
        .reindex(representation_a=["cnn-s0/step0/fc", "new"])
        .svcca.isnull()
        .any("representation_b")
        .to_numpy()
        .tolist()
        == [False, True]
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_xarray__works_on_a_comparison(result: xr.Dataset, operation: str) -> None:
    assert OPERATIONS[operation](result)


def test_files__hold_a_comparison_and_its_attributes(result: xr.Dataset, tmp_path: Path) -> None:
    result.to_netcdf(tmp_path / "c.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "c.nc", engine="scipy") as read:
        np.testing.assert_array_equal(read.svcca, result.svcca)
        assert [str(name) for name in read.layer_a.to_numpy()] == result.layer_a.to_numpy().tolist()
        assert read.svcca.attrs["null"] == "null_svcca"
    result.to_zarr(tmp_path / "c.zarr", consolidated=False)
    assert xr.open_zarr(tmp_path / "c.zarr", consolidated=False).svcca.equals(result.svcca)


def test_plot__takes_the_coordinates(result: xr.Dataset) -> None:
    # Those of other kinds are refused by xarray's figures.
    assert {result[name].dtype.kind for name in result.coords} == {"U", "f"}


def test_open_comparison__is_what_xarray_alone_reads(store: Path, result: xr.Dataset) -> None:
    alone = xr.open_zarr(store)
    derived = {name for name, array in result.data_vars.items() if "derived_from" in array.attrs}
    assert set(alone.variables) == set(result.variables) - derived
    for name in alone.variables:
        np.testing.assert_array_equal(alone[name].astype(object), result[name].astype(object))
