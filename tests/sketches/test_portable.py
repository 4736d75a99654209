"""Sketches of two people meet, and a file from anywhere is looked at before it is believed."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import (
    DamagedStoreError,
    MismatchedExamplesError,
    ParametersChangedError,
    RepresentationExistsError,
    StoreFormatError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, 50, 6))
DIMS = ("example", "height", "width", "channel")


def overlap(layers: dict[str, Any]) -> Any:
    subspaces = MemoryStore()
    dask_svcca.compare(layers, measures="cca", conv="mean", subspaces=subspaces)
    return dask_svcca.sketch(layers, size=64, measure="overlap", subspaces=subspaces)


def test_merge_sketches__are_those_of_one_zoo(tmp_path: Path) -> None:
    images = RNG.standard_normal((50, 2, 2, 3))
    options: dict[str, Any] = {"size": 512, "conv": "positions"}
    one = dask_svcca.sketch({"a": X, "b": Y}, **options)
    other = dask_svcca.sketch({"conv": images, "b": Y}, dims={"conv": DIMS}, **options)
    every = dask_svcca.sketch({"a": X, "b": Y, "conv": images}, dims={"conv": DIMS}, **options)
    merged = dask_svcca.merge_sketches(one, other, str(tmp_path / "s.zarr"))
    assert merged.representation.values.tolist() == ["a", "b", "conv"]
    np.testing.assert_array_equal(merged.sketch, every.sketch)
    np.testing.assert_array_equal(dask_svcca.estimates(merged).cka, dask_svcca.estimates(every).cka)


def test_merge_sketches__says_how_they_are_kept(tmp_path: Path) -> None:
    one, other = (dask_svcca.sketch({name: values}, size=64) for name, values in (("a", X), ("b", Y)))
    merged = dask_svcca.merge_sketches(one, other)
    place = tmp_path / "saved.zarr"
    merged.to_zarr(place, consolidated=False)
    with pytest.raises(StoreFormatError, match=r"is a Dataset that xarray saved, .*as xarray\.open_zarr opens it"):
        dask_svcca.open_sketches(place)
    with xr.open_zarr(place, chunks=None, consolidated=False) as saved:
        np.testing.assert_array_equal(dask_svcca.estimates(saved).cka, dask_svcca.estimates(merged).cka)
    kept = str(tmp_path / "both.zarr")
    dask_svcca.merge_sketches(one, other, kept)
    dask_svcca.export_sketches(kept, tmp_path / "both.npz")
    said = r"there are sketches already at '.*both.zarr', .*merge_sketches\('.*both.zarr', another, store=third\)"
    for again in (
        lambda: dask_svcca.import_sketches(tmp_path / "both.npz", kept),
        lambda: dask_svcca.merge_sketches(one, other, kept),
    ):
        with pytest.raises(StoreFormatError, match=said):
            again()


def test_merge_sketches__takes_once_what_is_the_same_in_another_order() -> None:
    stores = []
    for turn in (1, -1):
        zoo = dask_svcca.create_zoo(MemoryStore(), examples=np.arange(50)[::turn])
        zoo.write("net", "1", "fc", X[::turn])
        stores.append(dask_svcca.sketch(zoo, size=64))
    assert dask_svcca.merge_sketches(*stores).sizes["representation"] == 1


def test_merge_sketches__refuses_what_cannot_be_compared() -> None:
    one = dask_svcca.sketch({"a": X}, size=64)
    for other, error, problem in (
        (dask_svcca.sketch({"a": X[:40]}, size=64), MismatchedExamplesError, "has 50 .*has 40"),
        (dask_svcca.sketch({"a": X}, size=66), ParametersChangedError, "different size cannot"),
        (dask_svcca.sketch({"a": X}, size=64, seed=1), ParametersChangedError, "different seed cannot"),
        (overlap({"a": X}), ParametersChangedError, "different measure cannot"),
        (dask_svcca.sketch({"a": X}, size=64, conv="dft"), ParametersChangedError, "different conv cannot"),
        (dask_svcca.sketch({"a": Y}, size=64), RepresentationExistsError, "'a' is in both, .* other activations"),
    ):
        with pytest.raises(error, match=problem):
            dask_svcca.merge_sketches(one, other)


def test_import_sketches__are_those_that_were_exported(tmp_path: Path) -> None:
    made = dask_svcca.sketch({("net", "1", "fc"): X, "b": Y}, size=300)
    dask_svcca.export_sketches(made, tmp_path / "s.npz")
    read = dask_svcca.import_sketches(tmp_path / "s.npz", tmp_path / "s.zarr")
    np.testing.assert_array_equal(read.sketch, made.sketch)
    for name in made.variables:
        np.testing.assert_array_equal(read[name], made[name])
    assert {name: read.attrs[name] for name in ("seed", "size", "examples_digest", "n_examples", "domains")} == {
        name: made.attrs[name] for name in ("seed", "size", "examples_digest", "n_examples", "domains")
    }
    with pytest.raises(StoreFormatError, match="already"):
        dask_svcca.export_sketches(made, tmp_path / "s.npz")
    with pytest.raises(StoreFormatError, match="already"):
        dask_svcca.import_sketches(tmp_path / "s.npz", tmp_path / "s.zarr")


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(arrays: dict[str, Any]) -> None:
        arrays[name] = change(arrays[name])

    return apply


def said(**values: Any) -> Callable[[dict[str, Any]], None]:
    def apply(arrays: dict[str, Any]) -> None:
        says = {**json.loads(arrays["attributes"].tobytes()), **values}
        arrays["attributes"] = np.frombuffer(json.dumps(says).encode(), np.uint8)

    return apply


@pytest.mark.parametrize(
    "spoil",
    [
        changed("sketch", lambda x: x * np.nan),
        changed("sketch", lambda x: x * 100),
        changed("sketch", lambda x: x[:, :10]),
        changed("sketch", lambda x: x.astype("float64")),
        changed("sketch", lambda x: x.astype(object)),
        changed("norm", lambda x: x[:1]),
        changed("norm", lambda x: -x),
        changed("domain", lambda x: x + 5),
        changed("concentration", lambda x: x + 2),
        changed("representation", lambda x: np.array(["a", "a"])),
        changed("layer", lambda x: np.array([1, 2])),
        changed("attributes", lambda x: x[:-3]),
        said(size=10**9),
        said(size="64"),
        said(family="other"),
        said(format_version=3),
        said(domains=3),
        lambda arrays: arrays.pop("norm"),
        lambda arrays: arrays.update(more=np.zeros(1)),
    ],
)
def test_import_sketches__refuses_a_file_that_is_not_one(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    dask_svcca.export_sketches(dask_svcca.sketch({"a": X, "b": Y}, size=64), tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as file:
        arrays = dict(file)
    spoil(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(StoreFormatError, match=r"bad\.npz"):
        dask_svcca.import_sketches(tmp_path / "bad.npz", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_import_sketches__refuses_what_is_packed_cut_or_no_archive(tmp_path: Path) -> None:
    dask_svcca.export_sketches(dask_svcca.sketch({"a": X}, size=64), tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as file:
        np.savez_compressed(tmp_path / "packed.npz", **dict(file))
    whole = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-40])
    (tmp_path / "text.npz").write_text("sketch")
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    for name in ("packed", "cut", "text", "empty", "none"):
        with pytest.raises(StoreFormatError, match=f"{name}.npz' is not a file of sketches"):
            dask_svcca.import_sketches(tmp_path / f"{name}.npz")


def test_export__refuses_numbers_that_are_gone(tmp_path: Path) -> None:
    made = dask_svcca.sketch({"fc": np.random.default_rng(0).standard_normal((60, 5))}, size=64)
    made["sketch"][0, 3] = np.nan
    with pytest.raises(DamagedStoreError, match=r"the sketch of 'fc' .* has NaN"):
        dask_svcca.export_sketches(made, tmp_path / "mine.npz")
    assert not list(tmp_path.iterdir())


def test_export__into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    sketches = dask_svcca.sketch({"fc": np.random.default_rng(0).normal(size=(50, 4))}, size=64)
    with pytest.raises(StoreFormatError, match=r"there is no folder '.*no' to write 'mine.npz' to. Make it first"):
        dask_svcca.export_sketches(sketches, tmp_path / "no" / "mine.npz")
