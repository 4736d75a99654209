"""Examples that are told by coordinates other than an index, and axes that may not be those of the examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError

if TYPE_CHECKING:
    from collections.abc import Callable

N = 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 5))
Y = X @ RNG.normal(size=(5, 5)) + RNG.normal(size=(N, 5))
ORDER = RNG.permutation(N)
NAMES = np.array([f"e{number}" for number in range(N)])


def right() -> float:
    """Mean canonical correlation, from the definition."""
    bases = [np.linalg.svd(values - values.mean(0), full_matrices=False)[0] for values in (X, Y)]
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean())


def by_cca(x: Any, y: Any) -> float:
    return float(dask_svcca.cca(x, y).mean_correlation)


def by_compare(x: Any, y: Any) -> float:
    return float(dask_svcca.compare({"x": x, "y": y}, measures="svcca", variance=None).svcca[0, 1])


both = pytest.mark.parametrize("measured", [by_cca, by_compare])


def labelled(values: Any, dims: tuple[str, ...] = ("example", "neuron"), **coords: Any) -> xr.DataArray:
    return xr.DataArray(values, dims=dims, coords={name: (dims[0], value) for name, value in coords.items()})


@both
@pytest.mark.parametrize("names", [("id", "id"), ("example_id", "ids"), ("id", "example")])
def test_ids__of_a_coordinate_that_is_no_index(names: tuple[str, str], measured: Callable[..., float]) -> None:
    x, y = labelled(X, **{names[0]: NAMES}), labelled(Y[ORDER], **{names[1]: NAMES[ORDER]})
    assert measured(x, y) == pytest.approx(right(), abs=1e-6)
    assert measured(x.rename(example="image"), y.rename(example="sample")) == pytest.approx(right(), abs=1e-6)


def test_ids__of_a_coordinate_go_into_a_zoo_by_them() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=NAMES)
    zoo.write("net", "c", "fc", labelled(X[ORDER], id=NAMES[ORDER]))
    np.testing.assert_array_equal(zoo["net", "c", "fc"].values, X)
    halves = [slice(None, 20), slice(20, None)]
    zoo.write("net", "c", "halves", [labelled(X[half], id=NAMES[half]) for half in halves])
    with pytest.raises(MismatchedExamplesError, match="a batch of 'net/c/other' has the example 'e20' at 0"):
        zoo.write("net", "c", "other", iter([labelled(X[half], id=NAMES[half]) for half in halves[::-1]]))


@both
@pytest.mark.parametrize("dims", [("example", "neuron"), ("sample", "unit")])
def test_labels__in_different_orders(dims: tuple[str, ...], measured: Callable[..., float]) -> None:
    x = labelled(X, dims, stim=NAMES)
    with pytest.raises(MismatchedExamplesError, match=r"the coordinate 'stim' in different orders: at 0, it is 'e\d+'"):
        measured(x, labelled(Y[ORDER], dims, stim=NAMES[ORDER]))
    assert measured(x, labelled(Y, dims, stim=NAMES)) == pytest.approx(right(), abs=1e-6)
    # Of what need not be the same for both nothing is known.
    for other in ({"stim": NAMES + "x"}, {"kind": NAMES[ORDER]}, {"stim": np.repeat(NAMES[:4], N // 4)}):
        assert measured(x, labelled(Y, dims, **other)) == pytest.approx(right(), abs=1e-6)
    if dims[0] == "example":
        ids = {"example": np.arange(N)}
        y = labelled(Y[ORDER], stim=NAMES[ORDER], example=ORDER)
        assert measured(x.assign_coords(ids), y) == pytest.approx(right(), abs=1e-6)


@both
def test_labels__of_an_index_and_a_coordinate(measured: Callable[..., float]) -> None:
    y = labelled(Y[ORDER], ("sample", "unit"), stim=NAMES[ORDER])
    for x in (labelled(X, ("stim", "unit"), stim=NAMES), pd.DataFrame(X, index=pd.Index(NAMES, name="stim"))):
        with pytest.raises(MismatchedExamplesError, match="the coordinate 'stim' in different orders"):
            measured(x, y)


def test_labels__in_another_order_than_the_zoos() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords={"stim": NAMES})
    with pytest.raises(MismatchedExamplesError, match="'net/c/fc' and its zoo have the coordinate 'stim' in different"):
        zoo.write("net", "c", "fc", labelled(X[ORDER], stim=NAMES[ORDER]))
    parts = [labelled(X[part], stim=NAMES[part]) for part in (slice(None, 10), slice(10, None))]
    with pytest.raises(MismatchedExamplesError, match="at 0, it is 'e10' in 'net/c/fc', which is at 10 in its zoo"):
        zoo.write("net", "c", "fc", iter(parts[::-1]))
    zoo.write("net", "c", "fc", iter(parts))
    np.testing.assert_array_equal(zoo["net", "c", "fc"].values, X)


@both
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (xr.DataArray(X.T, dims=("u", "s"), coords={"s": NAMES}), "'s' has labels, and nothing says which"),
        (xr.DataArray(X.T, dims=("u", "stimulus")), "'stimulus' has the name of examples, and nothing says"),
        (
            xr.DataArray(X.T, dims=("unit", "s")),
            r"that of neurons, .*x\.rename\(s='example', unit='neuron'\)",
        ),
        (xr.DataArray(X, dims=("s", "u"), coords={"u": list("abcde")}), "'u' has labels"),
    ],
)
def test_axes__that_may_not_begin_with_the_examples(
    array: xr.DataArray, message: str, measured: Callable[..., float]
) -> None:
    with pytest.raises(InvalidActivationsError, match=message):
        measured(array, Y)
    examples = array.dims[array.shape.index(N)]
    named = array.rename({dim: "example" if dim == examples else "neuron" for dim in array.dims})
    ids = named.coords["example"].data if "example" in named.coords else np.arange(N)
    assert measured(named, labelled(Y, example=ids)) == pytest.approx(right(), abs=1e-6)


def test_axes__that_are_given_may_begin_with_any() -> None:
    x = xr.DataArray(X.T, dims=("unit", "stimulus"), coords={"stimulus": NAMES})
    y = xr.DataArray(Y[ORDER], dims=("example", "neuron"), coords={"example": NAMES[ORDER]})
    found = dask_svcca.compare(
        {"x": x, "y": y}, dims={"x": ("neuron", "example")}, measures="svcca", variance=None
    ).svcca[0, 1]
    assert float(found) == pytest.approx(right(), abs=1e-6)


@both
def test_axes__that_two_arrays_have_in_different_orders(measured: Callable[..., float]) -> None:
    x, y = xr.DataArray(X[:5], dims=("a", "b")), xr.DataArray(Y[:5].T, dims=("b", "a"))
    with pytest.raises(MismatchedExamplesError, match=r"has the axes \('b', 'a'\), and .* has \('a', 'b'\)"):
        measured(x, y)
