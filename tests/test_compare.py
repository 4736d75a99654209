"""Comparisons end to end: right whatever the chunks and the properties of the data; what cannot be is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import basis, svcca, svcca_matrix, translations
from zarr.storage import MemoryStore
from zoos import N, assert_same, label, layers, make_zoo, matrix, with_budget, write

import dask_svcca
from dask_svcca.errors import InvalidActivationsError, MemoryLimitError, ParametersChangedError, StoreFormatError
from dask_svcca.plan import tiles as tiles_module
from dask_svcca.plan.memory import PROCESS_BYTES
from dask_svcca.stores.dataset import parameters_of
from dask_svcca.stores.subspaces import SubspaceStore
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dask_svcca import Zoo

DONE = PairStatus.DONE


# Right: against the oracle.


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0, None])
def test_compare__agrees_with_the_oracle(variance: float | None) -> None:
    arrays = [*layers(6, 300), *layers(2, 300, dtype="float16"), *layers(2, 300, dtype="float64")]
    np.testing.assert_allclose(matrix(arrays, variance=variance), svcca_matrix(arrays, variance), rtol=0, atol=1e-7)


def test_compare__agrees_with_the_oracle_closely_in_double_precision() -> None:
    arrays = layers(6, 300, dtype="float64")
    found = matrix(arrays, variance=0.95, precision="float64")
    np.testing.assert_allclose(found, svcca_matrix(arrays, 0.95), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-7), ("float64", 1e-12)])
def test_compare__of_many_directions_half_of_them_in_common(precision: Any, tolerance: float) -> None:
    rng = np.random.default_rng(3)
    centred = rng.normal(size=(600, 140))
    axes = np.linalg.qr(centred - centred.mean(axis=0))[0]
    # The other half is orthogonal: correlations of zero are where squaring would cost most.
    turned = [axes[:, i : i + 70] @ np.linalg.qr(rng.normal(size=(70, 70)))[0] for i in (0, 35, 70)]
    arrays = [array * np.linspace(1, 2, 70) for array in turned]
    found = matrix(arrays, variance=None, precision=precision)
    np.testing.assert_allclose(found, [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]], rtol=0, atol=tolerance)


def test_compare__agrees_with_the_oracle_on_directions_of_small_variance() -> None:
    # Standard deviations over six decades: the Gram correction is what keeps the scores orthonormal.
    rng = np.random.default_rng(1)
    arrays = [
        rng.normal(size=(300, 10)) * np.logspace(0, -6, 10) @ np.linalg.qr(rng.normal(size=(10, 10)))[0]
        for _ in range(4)
    ]
    found = matrix(arrays, variance=None, precision="float64")
    np.testing.assert_allclose(found, svcca_matrix(arrays, None), rtol=0, atol=1e-8)
    np.testing.assert_allclose(np.diag(found), 1, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@pytest.mark.parametrize("variance", [0.9, None])
def test_compare__more_neurons_than_examples(variance: float | None) -> None:
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=(40, p)) * np.linspace(2, 0.2, p) + 5 for p in (39, 40, 41, 120, 3)]
    found = matrix(arrays, variance=variance, precision="float64")
    np.testing.assert_allclose(found, svcca_matrix(arrays, variance), rtol=0, atol=1e-10)


def test_compare__constant_neurons_and_deficient_rank_count_for_nothing() -> None:
    x, y = layers(2, 200, seed=3)
    same = np.hstack([x, np.full((200, 2), 1e4, "float32"), x[:, :2], x @ np.ones((x.shape[1], 1), "float32")])
    found = dask_svcca.compare(make_zoo(MemoryStore(), [x, same, y]), MemoryStore(), variance=None)
    assert found.rank_a.to_numpy().tolist() == [x.shape[1], x.shape[1], y.shape[1]]
    np.testing.assert_allclose(found.svcca[0, 1], 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.svcca[1, 2], svcca(x, y, None), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
def test_compare__reads_convolutional_layers_as_asked() -> None:
    rng = np.random.default_rng(4)
    common = rng.normal(size=(40, 4, 4, 3))
    arrays = [common @ rng.normal(size=(3, c)) + rng.normal(size=(40, 4, 4, c)) for c in (2, 3)]
    dense = rng.normal(size=(40, 5)) + common.mean(axis=(1, 2))[:, [0, 1, 2, 0, 1]]

    def check(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], conv: str) -> None:
        given = matrix(found, conv=conv, precision="float64", variance=0.9)
        np.testing.assert_allclose(given, svcca_matrix(expected, 0.9), rtol=0, atol=1e-10)

    check([*arrays, dense], [*(array.mean(axis=(1, 2)) for array in arrays), dense], "mean")
    check(arrays, [array.reshape(40, -1) for array in arrays], "flatten")
    check(arrays, [array.reshape(40 * 16, -1) for array in arrays], "positions")
    check(arrays, [translations(array) for array in arrays], "dft")


def test_compare__reads_sequences_as_asked() -> None:
    arrays = [x.reshape(N, 4, -1) for x in (layers(1, 4 * N)[0], layers(1, 4 * N, seed=5)[0])]
    for reading, expected in (
        ("mean", [array.mean(axis=1, dtype=float) for array in arrays]),
        ("last", [array[:, -1] for array in arrays]),
        ("positions", [array.reshape(4 * N, -1) for array in arrays]),
    ):
        np.testing.assert_allclose(matrix(arrays, sequence=reading), svcca_matrix(expected), rtol=0, atol=1e-7)


def test_compare__describes_what_it_compared(undisturbed: xr.Dataset) -> None:
    arrays = layers(20)
    kept = [basis(array, 0.99).shape[1] for array in arrays]
    for axis in "ab":
        assert undisturbed[f"representation_{axis}"].to_numpy().tolist() == [label(step) for step in range(20)]
        assert undisturbed[f"checkpoint_{axis}"].to_numpy().tolist() == [f"step{step:03}" for step in range(20)]
        assert undisturbed[f"step_{axis}"].to_numpy().tolist() == list(range(20))
        assert undisturbed[f"neurons_{axis}"].to_numpy().tolist() == [array.shape[1] for array in arrays]
        assert undisturbed[f"rank_{axis}"].to_numpy().tolist() == kept
        assert (undisturbed[f"samples_{axis}"] == N).all()
        assert ((undisturbed[f"variance_kept_{axis}"] >= 0.99) & (undisturbed[f"variance_kept_{axis}"] <= 1)).all()
        assert not (undisturbed[f"problem_{axis}"] != "").any()
    assert (undisturbed.pair_status == DONE).all()


def test_compare__needs_this_package_to_be_made_and_not_to_be_read(zoo: Zoo, place: Path) -> None:
    result = dask_svcca.compare(zoo, place)
    with xr.open_zarr(place) as plain:
        xr.testing.assert_equal(plain.svcca.load(), result.svcca.load())
        assert plain.svcca.sel(representation_a=label(3)).argmax("representation_b") == 3


# Properties.


@st.composite
def activations(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Two layers over the same examples; widths above their number, and deficient ranks, among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    examples = draw(st.integers(4, 30))
    found = []
    for _ in range(2):
        neurons = draw(st.integers(1, 35))
        rank = draw(st.integers(1, neurons))
        found.append(rng.normal(size=(examples, rank)) @ rng.normal(size=(rank, neurons)) + rng.normal(size=neurons))
    return found[0], found[1], rng


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@settings(max_examples=10)
@given(given_layers=activations(), variance=st.sampled_from([0.6, 0.99, 1.0, None]))
def test_compare__sees_neither_rotation_scale_translation_nor_order(
    given_layers: tuple[np.ndarray, np.ndarray, np.random.Generator], variance: float | None
) -> None:
    x, y, rng = given_layers
    p = x.shape[1]
    rotation = np.linalg.qr(rng.normal(size=(p, p)))[0]
    alike = [x, x @ rotation, -7.5 * x, x + 100 * rng.normal(size=p), x[:, rng.permutation(p)]]
    found = matrix([*alike, y], variance=variance, precision="float64")
    np.testing.assert_array_equal(found, found.T)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found[:5, :5], 1, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[:5, 5], found[0, 5], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[5, 5], 1, rtol=0, atol=1e-8)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**16), p=st.integers(1, 8))
def test_compare__of_full_rank_sees_no_invertible_map(seed: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(40, p)), rng.normal(size=(40, 3))
    mixing = np.linalg.qr(rng.normal(size=(p, p)))[0] * np.logspace(0, -2, p)
    found = matrix([x, x @ mixing + 5, y], variance=None, precision="float64")
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk_rows", [1, 7, 256, 300])
def test_compare__chunks_of_activations_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    arrays = [np.hstack([x, x**2])[:, :6] for x in layers(2, 300, dtype="float64")]
    monkeypatch.setattr(zoo_module, "CHUNK_BYTES", chunk_rows * arrays[0][0].nbytes)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    assert {entry.chunk_examples for entry in zoo.entries()} == {chunk_rows}
    found = dask_svcca.compare(zoo, MemoryStore(), precision="float64").svcca
    np.testing.assert_allclose(found, svcca_matrix(arrays), rtol=0, atol=1e-12)


def test_compare__chunks_of_scores_do_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrays = layers(10, 700)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    results = {}
    for size in (1, 2**22):
        monkeypatch.setattr(tiles_module, "SCORE_CHUNK_BYTES", size)
        for precision in ("float32", "float64"):
            place = tmp_path / f"{size}-{precision}"
            results[size, precision] = dask_svcca.compare(zoo, place, precision=precision).svcca.load()
            index = SubspaceStore.open_inside(zarr.open_group(place, mode="r", use_consolidated=False)).read_index()
            for name in index.packs:
                scores = zarr.open_array(place / "subspaces" / name / "scores", mode="r")
                assert scores.nchunks == (3 if size == 1 else 1)
    np.testing.assert_allclose(results[1, "float64"], results[2**22, "float64"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(results[1, "float32"], results[2**22, "float32"], rtol=0, atol=1e-7)


def test_compare__a_pair_does_not_hang_on_what_else_is_compared() -> None:
    rng = np.random.default_rng(3)
    narrow, wide, some = (rng.normal(size=(1500, width)).astype("f4") for width in (3, 150, 30))
    # A direction of one example: sums in single precision lose what is added to it.
    narrow[:] = 0
    narrow[0] = 1
    measures = ("svcca", "cka", "linear_regression")
    few = dask_svcca.compare({"narrow": narrow, "some": some}, measures=measures)
    all_of_them = dask_svcca.compare(
        {"narrow": narrow, "wide": wide, "some": some, "more": wide[:, :60]}, measures=measures
    )
    for name in measures:
        both = {"representation_a": few.representation_a, "representation_b": few.representation_b}
        found = all_of_them[name].sel(both)
        np.testing.assert_array_equal(found, few[name])
        np.testing.assert_allclose(np.diag(found), 1.0, rtol=0, atol=1e-7)


# Refused, naming both values.


@pytest.mark.parametrize("refused", [{"pairs": "between net other"}, {"pairs": np.zeros((2, 2), dtype=bool)}])
def test_compare__what_is_refused_leaves_no_store(zoo: Zoo, place: Path, refused: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pairs"):
        dask_svcca.compare(zoo, place, variance=0.5, **refused)
    assert not place.exists()


def test_compare__what_does_not_fit_leaves_no_store(zoo: Zoo, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_budget(monkeypatch, 1, PROCESS_BYTES)
    with pytest.raises(MemoryLimitError, match="MiB in one worker"):
        dask_svcca.compare(zoo, place)
    assert not place.exists()


def test_compare__other_parameters_are_refused(zoo: Zoo, place: Path) -> None:
    before = dask_svcca.compare(zoo, place).load()
    asked: dict[str, Any] = {"variance": None, "precision": "float64", "conv": "mean", "match": "fold"}
    for name, value in asked.items():
        found = parameters_of(before)[name]
        message = f"was made with {name}={found!r}, now {name}={value!r} is asked for"
        with pytest.raises(ParametersChangedError, match=re.escape(message)):
            dask_svcca.compare(zoo, place, **{name: value})
    assert_same(dask_svcca.open_comparison(place), before)


def test_compare__other_examples_are_refused(zoo: Zoo, place: Path, tmp_path: Path) -> None:
    dask_svcca.compare(zoo, place)
    other = dask_svcca.create_zoo(tmp_path / "other.zarr", examples=range(1, N + 1))
    write(other, layers(3))
    with pytest.raises(ParametersChangedError, match=r"has 60 examples \(digest \w+\), the zoo has 60 \(digest \w+\)"):
        dask_svcca.compare(other, place)


def test_compare__an_empty_zoo_is_refused(tmp_path: Path, place: Path) -> None:
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N))
    with pytest.raises(InvalidActivationsError, match=r"has no complete representation\. Capture some first"):
        dask_svcca.compare(zoo, place)
    zoo.append("net", "step0", "fc", np.ones((5, 3), "float32"))
    with pytest.raises(InvalidActivationsError, match="has no complete representation; 1 are unfinished"):
        dask_svcca.compare(zoo, place)
    assert not place.exists()


def test_compare__does_not_write_into_another_store(zoo: Zoo, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "zoo.zarr").rglob("*")}
    with pytest.raises(StoreFormatError, match="is not a comparison of dask-svcca: it says format 'dask-svcca-zoo'"):
        dask_svcca.compare(zoo, tmp_path / "zoo.zarr")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "zoo.zarr").rglob("*")} == before


def test_compare__an_unfinished_representation_is_left_out(zoo: Zoo, place: Path) -> None:
    zoo.append("net", "step999", "fc", np.ones((5, 3), "float32"))
    assert dask_svcca.compare(zoo, place).sizes["representation_a"] == 20


def test_compare__awkward_names_are_labels(tmp_path: Path, place: Path) -> None:
    names = [("/net", "50%", "/backbone/Conv_0"), ("/net", "50%", "zarr.json"), ("é", "..", "_x"), ("é", ".", "c")]
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N))
    for name, x in zip(names, layers(4), strict=True):
        zoo.write(*name, x)
    found = dask_svcca.compare(zoo, place)
    triples = zip(*(found[f"{part}_a"].to_numpy().tolist() for part in ("model", "checkpoint", "layer")), strict=True)
    assert sorted(triples) == sorted(names)
    a, b = (dict(zip(names, layers(4), strict=True))[name] for name in names[:2])
    picked = found.svcca.where((found.layer_a == names[0][2]) & (found.layer_b == names[1][2]), drop=True)
    np.testing.assert_allclose(picked.item(), svcca(a, b), rtol=0, atol=1e-7)
