"""What the functions return goes on in xarray: everyday operations work on every result, and files hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import dask_svcca

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

PAIRS = [("net-s0/step0/conv", "net-s1/step9/fc"), ("net-s0/step9/fc", "net-s1/step9/fc")]

RESULTS: dict[str, Callable[[Mapping[str, Any]], xr.Dataset]] = {
    "compare": lambda made: made["result"],
    "a part": lambda made: made["result"].sel(model_a="net-s0", layer_b="fc"),
    "compare of arrays": lambda made: dask_svcca.compare({"x": made["x"], "y": made["x"][:, :2]}),
    "join": lambda made: dask_svcca.join(made["result"], dask_svcca.compare(made["zoo"], variance=None)),
    "learning_dynamics": lambda made: dask_svcca.learning_dynamics(made["result"]),
    "learning_dynamics of one": lambda made: dask_svcca.learning_dynamics(made["result"], model="net-s0"),
    "training_phases": lambda made: dask_svcca.training_phases(made["result"], model="net-s0", layer="*"),
    "within_and_between": lambda made: dask_svcca.within_and_between(
        made["result"], {"all": {}, "fc": {"layer": "fc"}}
    ),
    "embedding": lambda made: dask_svcca.embedding(made["result"]),
    "layer_identification": lambda made: dask_svcca.layer_identification(made["result"], ["svcca", "cka"]),
    "class_sensitivity": lambda made: dask_svcca.class_sensitivity(made["result"], zoo=made["zoo"]),
    "canonical_directions": lambda made: dask_svcca.canonical_directions(
        made["zoo"], ("net-s0", "step9", "fc"), ("net-s1", "step9", "fc"), components=2
    ),
    "permutation_null": lambda made: dask_svcca.permutation_null(made["result"], PAIRS, permutations=9),
    "jackknife": lambda made: dask_svcca.jackknife(made["result"], PAIRS, blocks=5),
    "cca": lambda made: dask_svcca.cca(made["x"], made["x"][:, :2]),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("results")
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(60), coords={"label": np.arange(60) % 3}) as zoo:
        for model in ("net-s0", "net-s1"):
            for step in (0, 9):
                for depth, layer in enumerate(("conv", "fc")):
                    zoo.write(model, f"step{step}", layer, rng.normal(size=(60, 4)), step=step, depth=depth)
    dask_svcca.compare(zoo, folder / "comparison.zarr", measures=("svcca", "cka", "gulp"))
    return {"zoo": zoo, "result": dask_svcca.open_comparison(folder / "comparison.zarr"), "x": rng.normal(size=(60, 4))}


@pytest.fixture(scope="module", params=RESULTS)
def found(request: pytest.FixtureRequest, made: dict[str, Any]) -> xr.Dataset:
    return RESULTS[request.param](made)


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    with mpl.rc_context({"backend": "Agg"}):
        yield
        plt.close("all")


def numbers(found: xr.Dataset) -> list[xr.DataArray]:
    """Variables that are numbers, the first of those with the same dimensions."""
    arrays = [array for array in found.data_vars.values() if array.dtype.kind in "fiu" and array.ndim]
    return list({array.dims: array for array in reversed(arrays)}.values())


def labelled(array: xr.DataArray | xr.Dataset) -> list[str]:
    """Dimensions whose labels are known."""
    return [str(dim) for dim in array.dims if dim in array.coords]


def plain(found: xr.Dataset) -> xr.Dataset:
    """The same without the index over coordinates of a side."""
    return found.drop_indexes([name for name in found.xindexes if name not in found.dims])


def test_plot__of_every_variable(found: xr.Dataset) -> None:
    for array in numbers(found):
        drawn = array.isel(dict.fromkeys(array.dims[:-2], 0))
        drawn = drawn.sortby(labelled(drawn))
        # What is left of one number is a histogram, for which there must be one.
        if np.isfinite(drawn).any():
            drawn.plot(ax=plt.figure().add_subplot())
            plt.close()


def test_idxmax__along_every_dimension(found: xr.Dataset) -> None:
    for array in numbers(found):
        for dim in labelled(array):
            best = array.fillna(-np.inf).idxmax(dim)
            np.testing.assert_array_equal(best, array[dim].to_numpy()[array.fillna(-np.inf).argmax(dim).to_numpy()])


def test_where__drops_what_is_not_wanted(found: xr.Dataset) -> None:
    for dim in labelled(found):
        kept = found.where(found[dim] == found[dim][-1], drop=True)
        assert kept.sizes[dim] == 1
        assert kept[dim].item() == found[dim][-1].item()


def test_reindex__adds_what_is_not_there(found: xr.Dataset) -> None:
    for dim in labelled(found):
        label = found[dim].to_numpy()[-1]
        new = np.array([label, "new" if found[dim].dtype.kind == "U" else label + 1])
        moved = plain(found).reindex({dim: new})
        for array in numbers(found):
            if dim in array.dims:
                xr.testing.assert_equal(moved[array.name].isel({dim: 0}), plain(found)[array.name].isel({dim: -1}))
                assert moved[array.name].isel({dim: 1}).isnull().all()


def test_combine_first__completes_a_part(found: xr.Dataset) -> None:
    for dim in labelled(found):
        whole = found.isel({dim: [0]}).combine_first(found)
        for array in numbers(found):
            np.testing.assert_array_equal(whole.sel({dim: found[dim].to_numpy()})[array.name], array)


@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
def test_files__hold_it(found: xr.Dataset, tmp_path: Path) -> None:
    found.to_netcdf(tmp_path / "found.nc", engine="scipy")
    found.to_zarr(tmp_path / "found.zarr", consolidated=False)
    with xr.open_dataset(tmp_path / "found.nc", engine="scipy") as one:
        other = xr.open_zarr(tmp_path / "found.zarr", consolidated=False)
        for array in numbers(found):
            np.testing.assert_array_equal(one[array.name], array)
            np.testing.assert_array_equal(other[array.name], array)
        assert one.attrs.keys() == other.attrs.keys() == found.attrs.keys()


def test_to_dataframe__has_every_value(found: xr.Dataset) -> None:
    for array in numbers(found):
        frame = array.to_dataframe(name="value")
        np.testing.assert_array_equal(frame["value"].to_numpy(), array.to_numpy().ravel())
        if all(dim in array.coords for dim in array.dims):
            labels = frame.index.to_frame().iloc[-1].tolist()
            assert labels == [array[dim].to_numpy()[-1] for dim in array.dims]


def test_groupby__every_coordinate(found: xr.Dataset) -> None:
    for array in numbers(found):
        for name, coordinate in array.coords.items():
            if coordinate.ndim == 1 and coordinate.notnull().all():
                groups = array.groupby(str(name)).mean()
                assert groups.sizes[name] == len(np.unique(coordinate))


def test_concat__of_halves_is_the_whole(found: xr.Dataset) -> None:
    for array in numbers(found):
        for dim in labelled(array):
            halves = [array.isel({dim: slice(0, 1)}), array.isel({dim: slice(1, None)})]
            xr.testing.assert_equal(xr.concat(halves, dim), array)
