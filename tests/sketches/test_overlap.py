"""Sketches of the directions of subspaces: the overlap of any two layers, and searches that read no activations."""

from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import (
    FailedRepresentationWarning,
    IncompatibleError,
    MismatchedExamplesError,
    ParametersChangedError,
    ReadingWarning,
    StoreFormatError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca.stores.zoo import Zoo

RNG = np.random.default_rng(0)
IDS = [f"image-{number}" for number in range(90)]
DIMS = ("example", "height", "width", "channel")
BASE = RNG.standard_normal((90, 8)) * np.geomspace(1, 0.01, 8)
IMAGES = RNG.standard_normal((90, 4, 4, 3))
DENSE = {f"net/s0/fc{k}": BASE + k * RNG.standard_normal((90, 8)) / 8 for k in range(6)}
CONV = {f"cnn/s0/conv{k}": IMAGES + k * RNG.standard_normal((90, 4, 4, 3)) / 3 for k in range(6)}


def projection(x: npt.NDArray[Any], variance: float | None) -> npt.NDArray[Any]:
    """On the directions that explain a share of the variance, by a decomposition of the samples."""
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    shares = np.cumsum(s**2) / np.sum(s**2)
    count = len(s) if variance is None else int(np.searchsorted(shares, variance)) + 1
    return u[:, :count] @ u[:, :count].T


def translations(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """All circular translations of images as samples of their own, flattened."""
    turned = [np.roll(x, (i, j), axis=(1, 2)).reshape(len(x), -1) for i in range(4) for j in range(4)]
    return np.concatenate(turned)


def overlap(a: npt.NDArray[Any], b: npt.NDArray[Any], variance: float | None = 0.99) -> float:
    p, q = projection(a, variance), projection(b, variance)
    return float(np.sum(p * q) / np.sqrt(np.trace(p) * np.trace(q)))


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    made = dask_svcca.create_zoo(MemoryStore(), examples=IDS)
    for label, x in {**DENSE, **CONV}.items():
        made.write(*label.split("/"), x, dims=DIMS if x.ndim == 4 else None)
    return made


@pytest.fixture(scope="module")
def places(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("overlap")
    made = {name: str(folder / f"{name}.zarr") for name in ("mean", "dft", "shared", "o-mean", "o-dft", "cka")}
    dask_svcca.compare(zoo, made["mean"], measures="cca", conv="mean")
    dask_svcca.compare(zoo, str(folder / "c.zarr"), measures="cca", conv="dft", subspaces=made["dft"])
    for conv in ("mean", "dft"):
        dask_svcca.sketch(zoo, made[f"o-{conv}"], measure="overlap", subspaces=made[conv], conv=conv, size=1024)
    dask_svcca.sketch(zoo, made["cka"], size=1024)
    return made


@pytest.mark.parametrize("variance", [0.99, 0.6, None])
def test_sketch__products_estimate_the_overlap(zoo: Zoo, places: dict[str, str], variance: float | None) -> None:
    made = dask_svcca.sketch(zoo, measure="overlap", subspaces=places["mean"], variance=variance, size=1024)
    found = dask_svcca.estimates(made, a={"model": "net"}, b={"model": "net"})
    true = np.array([[overlap(x, y, variance) for y in DENSE.values()] for x in DENSE.values()])
    off = (found.overlap.to_numpy() - true) / np.where(np.eye(6), 1, found.overlap_error.to_numpy())
    assert np.abs(off).max() < 4
    assert np.abs(np.diag(off)).max() < 1e-6
    ranks = [np.trace(projection(x, variance)) for x in DENSE.values()]
    np.testing.assert_allclose(made.norm.sel(representation=list(DENSE)) ** 2, ranks)
    assert found.attrs["size"] == 1024


def test_sketch__of_frequencies_is_the_overlap_over_all_translations(places: dict[str, str]) -> None:
    found = dask_svcca.estimates(places["o-dft"], a={"model": "cnn"}, b={"model": "cnn"})
    true = np.array([[overlap(translations(x), translations(y)) for y in CONV.values()] for x in CONV.values()])
    rows, columns = np.triu_indices(6, 1)
    off = (found.overlap.to_numpy() - true)[rows, columns] / found.overlap_error.to_numpy()[rows, columns]
    assert np.abs(off).max() < 4
    # A dense layer has other samples.
    assert np.isnan(dask_svcca.estimates(places["o-dft"], a={"model": "cnn"}, b={"model": "net"}).overlap).all()


@pytest.mark.parametrize("conv", ["mean", "dft"])
def test_search__ranks_again_by_exact_overlaps(places: dict[str, str], conv: str) -> None:
    read = (lambda x: x.mean(axis=(1, 2))) if conv == "mean" else translations
    found = dask_svcca.search(places[f"o-{conv}"], "cnn/s0/conv1", subspaces=places[conv], top=5)
    others = [label for label in found.index if label.startswith("cnn")]
    true = {label: overlap(read(CONV["cnn/s0/conv1"]), read(x)) for label, x in CONV.items() if label in others}
    assert len(true) >= 4
    for label, value in true.items():
        assert found.overlap[label] == pytest.approx(value, abs=1e-5)
    assert found.overlap.is_monotonic_decreasing
    if conv == "mean":
        x, y = (read(CONV[label]) for label in ("cnn/s0/conv1", others[0]))
        shuffled = [overlap(x, y[np.random.default_rng(seed).permutation(90)]) for seed in range(200)]
        assert found.null_overlap[others[0]] == pytest.approx(np.mean(shuffled), rel=0.1)


def test_search__exact_cka_is_the_same_from_subspaces_as_from_activations(zoo: Zoo, places: dict[str, str]) -> None:
    query = BASE + RNG.standard_normal((90, 8)) / 20
    raw = MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReadingWarning)
        dask_svcca.compare(zoo, measures="cka", conv="mean", subspaces=raw)
    for asked in ("net/s0/fc2", query):
        one = dask_svcca.search(places["cka"], asked, zoo=zoo)
        for subspaces in (places["mean"], raw):
            other = dask_svcca.search(places["cka"], asked, zoo=zoo, subspaces=subspaces)
            assert other.index.tolist() == one.index.tolist()
            np.testing.assert_allclose(other.cka, one.cka, atol=1e-6)


def test_search__activations_have_their_overlap_too(zoo: Zoo, places: dict[str, str]) -> None:
    query = BASE + RNG.standard_normal((90, 8)) / 20
    found = dask_svcca.search(places["o-mean"], query, zoo=zoo, subspaces=places["mean"], top=3)
    for label, value in found.overlap.items():
        assert value == pytest.approx(overlap(query, {**DENSE}[str(label)]), abs=1e-5)
    assert "overlap" not in dask_svcca.search(places["o-mean"], query, zoo=zoo, top=3)


def test_sketch__overlap_refuses_what_it_cannot_be_made_of(zoo: Zoo, places: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"measure is one of 'cka', 'overlap'; got 'overlop'. Did you mean 'overlap'"):
        dask_svcca.sketch(zoo, measure="overlop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'overlap' is made from subspaces: give a comparison"):
        dask_svcca.sketch(zoo, measure="overlap")
    with pytest.raises(ValueError, match="subspaces= is for measure='overlap'"):
        dask_svcca.sketch(zoo, subspaces=places["mean"])
    with pytest.raises(StoreFormatError, match=r"subspaces are in a comparison, .* holds sketches"):
        dask_svcca.sketch(zoo, measure="overlap", subspaces=places["cka"])
    with pytest.raises(ParametersChangedError, match="were made with conv='dft', and the sketches with conv='mean'"):
        dask_svcca.sketch(zoo, measure="overlap", subspaces=places["dft"])
    with pytest.raises(ParametersChangedError, match=r"were made with variance=0.99, now variance=0.9"):
        dask_svcca.sketch(zoo, places["o-mean"], measure="overlap", subspaces=places["mean"], variance=0.9, size=1024)
    turned = dask_svcca.create_zoo(MemoryStore(), examples=IDS[::-1])
    turned.write("net", "s0", "fc0", DENSE["net/s0/fc0"][::-1])
    with pytest.raises(MismatchedExamplesError, match="or the same in another order"):
        dask_svcca.sketch(turned, measure="overlap", subspaces=places["mean"])


def test_sketch__overlap_grows_with_the_subspaces(zoo: Zoo, tmp_path: Path) -> None:
    place, subspaces = tmp_path / "s.zarr", tmp_path / "p.zarr"
    own = dask_svcca.create_zoo(MemoryStore(), examples=IDS)
    own.write("net", "s0", "fc0", BASE)
    own.write("net", "s0", "flat", np.ones((90, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedRepresentationWarning)
        dask_svcca.compare(own, measures="cca", conv="mean", subspaces=subspaces)
    own.write("net", "s0", "fc1", DENSE["net/s0/fc1"])
    with pytest.warns(FailedRepresentationWarning, match="2 of 3 representations have no sketch"):
        made = dask_svcca.sketch(own, place, measure="overlap", subspaces=subspaces, size=64)
    problems = dict(zip(made.layer.values.tolist(), made.problem.values.tolist(), strict=True))
    assert problems["fc0"] == ""
    assert "constant" in problems["flat"]
    assert problems["fc1"].startswith("has no subspace in ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedRepresentationWarning)
        dask_svcca.compare(own, measures="cca", conv="mean", subspaces=subspaces)
        made = dask_svcca.sketch(own, place, measure="overlap", subspaces=subspaces, size=64)
    assert sorted(made.layer.values[made.problem.values == ""]) == ["fc0", "fc1"]


def test_sketch__overlap_needs_directions(tmp_path: Path) -> None:
    raw, layers = MemoryStore(), {name: x.astype(np.float32) for name, x in DENSE.items()}
    dask_svcca.compare(layers, measures="cka", subspaces=raw)
    with pytest.warns(FailedRepresentationWarning, match="and no directions: compare it there by svcca or cca"):
        dask_svcca.sketch(layers, measure="overlap", subspaces=raw, size=64, conv="dft")


def test_search__refuses_subspaces_of_something_else(zoo: Zoo, places: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ParametersChangedError, match="were made with conv='dft', and the sketches with conv='mean'"):
        dask_svcca.search(places["cka"], "net/s0/fc0", subspaces=places["dft"])
    with pytest.raises(IncompatibleError, match="exact overlaps are from subspaces, and zoo= has activations"):
        dask_svcca.search(places["o-mean"], "net/s0/fc0", zoo=zoo)
    sketches = dask_svcca.open_sketches(places["cka"]).load()
    sketches["norm"][:] = sketches["norm"] * 1.01
    with pytest.raises(IncompatibleError, match=r"the subspace of 'net/s0/fc0' in .* their norms are"):
        dask_svcca.search(sketches, "net/s0/fc0", subspaces=places["mean"])


def test_sketch__says_which_subspace_is_damaged(zoo: Zoo, places: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "p.zarr"
    shutil.copytree(places["dft"], broken)
    for file in broken.glob("*/scores/c/*/*"):
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(FailedRepresentationWarning, match="has a subspace that is damaged: compare it again"):
        dask_svcca.sketch(zoo, measure="overlap", subspaces=str(broken), conv="dft", size=64)
