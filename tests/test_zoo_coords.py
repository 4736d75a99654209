"""Coordinates of a zoo along examples and tokens, and axes that are not what they seem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import FailedRepresentationWarning, InvalidActivationsError, MismatchedExamplesError

if TYPE_CHECKING:
    from pathlib import Path

N, TOKENS = 20, 6
MASK = np.arange(TOKENS) < np.random.default_rng(0).integers(1, TOKENS + 1, size=(N, 1))
COORDS = {"label": np.arange(N) % 3, "mask": MASK, "word": np.full((N, TOKENS), "a word")}


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N, *shape)).astype("float32")


def test_coords__come_back_from_the_store(tmp_path: Path) -> None:
    dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N), coords=COORDS)
    found = dask_svcca.open_zoo(tmp_path / "zoo.zarr").coords
    assert found.keys() == COORDS.keys()
    for name, expected in COORDS.items():
        np.testing.assert_array_equal(found[name], expected)
    with xr.open_datatree(tmp_path / "zoo.zarr", engine="zarr", consolidated=False) as tree:
        assert tree["mask"].dims == tree["word"].dims == ("example", "token")
        assert tree["label"].dims == ("example",)
        np.testing.assert_array_equal(tree["mask"], MASK)


@pytest.mark.parametrize("store", ["folder", "memory"])
def test_getitem__labels_tokens_where_there_are_as_many(tmp_path: Path, store: str) -> None:
    x = values(TOKENS, 3)
    root: Any = MemoryStore() if store == "memory" else tmp_path / "zoo.zarr"
    with dask_svcca.create_zoo(root, examples=range(N), coords=COORDS) as zoo:
        zoo.write("net", "1", "tokens", x)
        zoo.write("net", "1", "longer", values(TOKENS + 1, 3))
        zoo.write("net", "1", "dense", values(TOKENS))
        zoo.write("net", "1", "conv", values(TOKENS, 3), dims=("example", "width", "channel"))
    assert zoo["net", "1", "tokens"].coords["mask"].dims == ("example", "token")
    np.testing.assert_array_equal(zoo["net", "1", "tokens"].where(lambda tokens: tokens.mask).count(), MASK.sum() * 3)
    for layer in ("longer", "dense", "conv"):
        assert set(zoo["net", "1", layer].coords) == {"example", "label"}


def test_zoo__is_a_datatree_whatever_the_numbers_of_tokens(tmp_path: Path) -> None:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N), coords={"mask": MASK}) as zoo:
        zoo.write("net", "1", "tokens", values(TOKENS, 3))
    options: Any = {"engine": "zarr", "consolidated": False}
    with xr.open_datatree(tmp_path / "zoo.zarr", **options) as tree:
        assert tree["net/1/tokens/activations"].dims == ("example", "token", "neuron")
    zoo.write("net", "1", "longer", values(TOKENS + 1, 3))
    with xr.open_datatree(tmp_path / "zoo.zarr", drop_variables="mask", **options) as tree:
        assert tree["net/1/longer/activations"].sizes["token"] == TOKENS + 1


@pytest.mark.parametrize(
    ("coords", "error", "message"),
    [
        ({"mask": MASK[1:]}, MismatchedExamplesError, r"coordinate 'mask' has shape \(19, 6\); there are 20 examples"),
        ({"mask": MASK.T}, MismatchedExamplesError, r"coordinate 'mask' has shape \(6, 20\); there are 20 examples"),
        ({"label": np.array(3)}, MismatchedExamplesError, r"coordinate 'label' has shape \(\); there are 20 examples"),
        ({"box": np.zeros((N, 2, 2))}, ValueError, r"per example and token; 'box' has shape \(20, 2, 2\)"),
        ({"mask": MASK[:, :0]}, ValueError, r"per example and token; 'mask' has shape \(20, 0\)"),
        (
            {"mask": MASK, "word": MASK[:, 1:]},
            ValueError,
            "must have equally many tokens; they have {'mask': 6, 'word': 5}",
        ),
    ],
)
def test_create_zoo__refuses_coordinates_that_do_not_fit(
    tmp_path: Path, coords: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N), coords=coords)
    assert not (tmp_path / "zoo.zarr").exists()


# Four axes and more.


@pytest.mark.parametrize("shape", [(64, 8, 8), (3, 32, 32), (64, 1, 1), (8, 8, 64), (8, 8, 8), (8, 4, 6), (2, 3, 4, 5)])
def test_write__never_guesses_four_axes(shape: tuple[int, ...]) -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(N))
    x = values(*shape)
    unnamed = xr.DataArray(x, dims=("image", *(f"axis{axis}" for axis in range(len(shape)))))
    for activations in (x, iter([x]), [x[:9], x[9:]], dask.array.from_array(x, chunks=7), xr.DataArray(x), unnamed):
        with pytest.raises(InvalidActivationsError, match=rf"have {x.ndim} axes; say what they are with dims="):
            zoo.write("net", "1", "conv", activations)
    with pytest.raises(InvalidActivationsError, match="say what they are"):
        zoo.append("net", "1", "conv", x[:9])
    assert len(zoo) == 0
    assert zoo.unfinished == []
    # What it says to do works.
    spatial = ("height", "width") if x.ndim == 4 else ("depth", "height", "width")
    zoo.write("net", "1", "first", x, dims=("example", "channel", *spatial))
    zoo.write("net", "1", "last", x, dims=("example", *spatial, "channel"))
    zoo.write("net", "1", "named", xr.DataArray(x, dims=("example", "channel", *spatial)))
    assert zoo["net", "1", "first"].sizes["channel"] == zoo["net", "1", "named"].sizes["channel"] == shape[0]
    assert zoo["net", "1", "last"].sizes["channel"] == shape[-1]


def test_write__heads_of_attention_are_refused_and_can_be_reshaped() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(N))
    heads = values(3, TOKENS, 4)
    with pytest.raises(InvalidActivationsError, match=r"have an axis 'head'; .* reshape: heads of attention"):
        zoo.write("net", "1", "heads", heads, dims=("example", "head", "token", "channel"))
    zoo.write("net", "1", "heads", heads.transpose(0, 2, 1, 3).reshape(N, TOKENS, 12))
    assert zoo["net", "1", "heads"].sizes["token"] == TOKENS


# Masks that arrays bring along.

MEANS = np.array([row[: one.sum()].mean(axis=0) for row, one in zip(values(TOKENS, 3), MASK, strict=True)])


def masked(mask: np.ndarray = MASK, **more: Any) -> xr.DataArray:
    coords = {"example": np.arange(N), "mask": (("example", "token"), mask), **more}
    return xr.DataArray(values(TOKENS, 3), dims=("example", "token", "neuron"), coords=coords)


@pytest.mark.parametrize("axes", [("token", "example"), ("example", "token")])
def test_create_zoo__takes_coordinates_in_any_order_of_axes(axes: tuple[str, str]) -> None:
    mask = xr.DataArray(MASK, dims=("example", "token"), coords={"example": np.arange(N)})[::-1].transpose(*axes)
    found = dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords={"mask": mask}).coords["mask"]
    np.testing.assert_array_equal(found, MASK)
    turned = xr.DataArray(MASK[:TOKENS], dims=("token", "image"))
    with pytest.raises(InvalidActivationsError, match="call that of the examples 'example'"):
        dask_svcca.create_zoo(MemoryStore(), examples=range(TOKENS), coords={"mask": turned})


def test_write__never_loses_a_mask() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords={"mask": MASK})
    x = masked()
    zoo.write("net", "1", "whole", x)
    zoo.write("net", "1", "turned", x[::-1])
    zoo.write("net", "1", "batches", [x[:7], x[7:]])
    foreign = x.rename(example="text", token="place").drop_vars("text")
    zoo.write("net", "1", "named", foreign, dims=("example", "token", "neuron"))
    other = dask_svcca.create_zoo(MemoryStore(), examples=range(N))
    changed = x.assign_coords(mask=~x.mask)
    for place, array in ((other, x), (other, foreign), (zoo, changed), (zoo, x.assign_coords(mask=x.mask | True))):
        for given in (array, iter([array])):
            with pytest.raises(
                MismatchedExamplesError, match=r"brings the mask 'mask' along, and would lose it .*drop_v"
            ):
                place.write("net", "2", "x", given, dims=("example", "token", "neuron"))
    assert (len(other), other.unfinished) == (0, [])
    other.write("net", "1", "all", masked(np.ones_like(MASK)))
    other.write("net", "1", "without", x.drop_vars("mask"))


@pytest.mark.parametrize("kind", ["numpy", "dask", "ints", "named otherwise"])
def test_cca__reads_the_tokens_that_count(kind: str) -> None:
    y = values(4)
    x = {
        "numpy": masked(),
        "dask": masked().chunk({"example": 7, "token": 2}),
        "ints": masked(MASK.astype(int)),
        "named otherwise": masked().rename(example="text", token="place"),
    }[kind].copy()
    x = x.where(xr.DataArray(MASK, dims=x.dims[:2]), 1e3 if kind != "numpy" else np.nan)
    named = {} if kind != "named otherwise" else {"dims": ("example", "token", "neuron")}
    expected = dask_svcca.cca(MEANS, y)
    y = xr.DataArray(y, dims=("example", "neuron"), coords={"example": np.arange(N)})
    for found in (dask_svcca.cca(x, y, **named), dask_svcca.cca(y, x[::-1], **named) if not named else None):
        if found is not None:
            np.testing.assert_allclose(found.correlation, expected.correlation, atol=1e-6)
    last = values(TOKENS, 3)[np.arange(N), MASK.sum(axis=1) - 1]
    found = dask_svcca.pca(x, sequence="last", **named)
    np.testing.assert_allclose(found.variance, dask_svcca.pca(last).variance, rtol=1e-5)
    np.testing.assert_allclose(np.abs(found.direction), np.abs(dask_svcca.pca(last).direction), atol=1e-4)


def test_cca__refuses_masks_that_it_cannot_obey() -> None:
    y = values(4)
    with pytest.raises(
        InvalidActivationsError, match=r"sequence='positions' takes all: use dask_svcca.compare, or leave"
    ):
        dask_svcca.cca(masked(), masked(), sequence="positions")
    with pytest.raises(InvalidActivationsError, match=r"example at 3 that none of its tokens counts.* may be inverted"):
        dask_svcca.cca(masked(MASK & (np.arange(N) != 3)[:, np.newaxis]), y)
    with pytest.raises(InvalidActivationsError, match="brings several masks along, 'mask', 'other'"):
        dask_svcca.cca(masked(other=(("example", "token"), MASK)), y)
    with pytest.raises(InvalidActivationsError, match="y, which has as many tokens, does not say which"):
        dask_svcca.cca(masked(), values(TOKENS, 2))


def test_compare__refuses_a_mask_under_which_an_example_has_no_token() -> None:
    empty = MASK & (np.arange(N) != 3)[:, np.newaxis]
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(100, 100 + N), coords={"mask": empty})
    zoo.write("net", "1", "dense", values(2))
    dask_svcca.compare(zoo)
    zoo.write("net", "1", "tokens", values(TOKENS, 3))
    for options in ({}, {"sequence": "last"}):
        with pytest.raises(
            InvalidActivationsError,
            match=r"example '103' that none of its tokens counts, and of 1 in.* may be inverted",
        ):
            dask_svcca.compare(zoo, **options)
    dask_svcca.compare(zoo, mask=None)
    with pytest.warns(FailedRepresentationWarning, match="'net/1/tokens' has no token of example 3 that counts"):
        dask_svcca.compare(zoo, mask="mask")
