"""Searches find what exact values would, whatever the query is given as, and however many sketches there are."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xarray as xr
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import (
    DamagedStoreError,
    IncompatibleError,
    InvalidActivationsError,
    MismatchedExamplesError,
    ParametersChangedError,
    RepresentationNotFoundError,
    StoreFormatError,
)
from dask_svcca.sketches.nearest import nearest
from dask_svcca.sketches.opened import opened
from dask_svcca.sketches.store import SketchStore
from dask_svcca.stores._documents import crc

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca.stores.zoo import Zoo

IDS = [f"image-{number}" for number in range(70)]
RNG = np.random.default_rng(0)
BASES = RNG.standard_normal((5, 70, 10))
LAYERS = {
    f"net/s{group}/fc{place:02}": BASES[group] + place * RNG.standard_normal((70, 10)) / 10
    for group in range(5)
    for place in range(16)
}


def exact(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))


def best(query: npt.NDArray[Any], without: str = "") -> dict[str, float]:
    every = {label: exact(query, x) for label, x in LAYERS.items() if label != without}
    return dict(sorted(every.items(), key=lambda item: -item[1]))


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    made = dask_svcca.create_zoo(MemoryStore(), examples=IDS)
    for label, x in LAYERS.items():
        made.write(*label.split("/"), x)
    return made


@pytest.fixture(scope="module")
def store(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("sketches") / "s.zarr")
    dask_svcca.sketch(zoo, place, size=1024)
    return place


def check(found: Any, wanted: dict[str, float], top: int) -> None:
    assert found.index.tolist() == list(wanted)[:top]
    np.testing.assert_allclose(found.cka, list(wanted.values())[:top], atol=1e-6)


def test_search__by_name_is_exact_with_the_zoo(store: str, zoo: Zoo) -> None:
    label = "net/s2/fc03"
    found = dask_svcca.search(store, label, zoo=zoo, top=12)
    check(found, best(LAYERS[label], label), 12)
    assert np.abs((found.cka_estimate - found.cka) / found.cka_error).max() < 4
    assert found.columns.tolist()[:5] == ["model", "checkpoint", "layer", "step", "depth"]
    # What shuffled examples have, on average.
    x, y = LAYERS[label], LAYERS[found.index[0]]
    shuffled = [exact(x, y[np.random.default_rng(seed).permutation(70)]) for seed in range(200)]
    assert found.null_cka.iloc[0] == pytest.approx(np.mean(shuffled), rel=0.03)


def test_search__by_a_name_in_three_parts(store: str, zoo: Zoo) -> None:
    found = dask_svcca.search(store, "net/s0/fc00", top=3)
    for name in (("net", "s0", "fc00"), next(iter(zoo))):
        assert dask_svcca.search(store, name, top=3).equals(found)
    for name in (("net", "s0"), ["net", "s0", "fc00"]):
        with pytest.raises(RepresentationNotFoundError, match="does not name a representation"):
            dask_svcca.search(store, name)


def test_search__by_estimates_alone(store: str) -> None:
    label = "net/s2/fc00"
    found = dask_svcca.search(store, label, top=10)
    assert "cka" not in found
    assert (found.null_cka < 0.3).all()
    assert len(set(found.index) & set(list(best(LAYERS[label], label))[:10])) >= 9
    assert found.cka_estimate.is_monotonic_decreasing


@pytest.mark.parametrize("kind", ["array", "labelled", "labelled alone"])
def test_search__by_activations(store: str, zoo: Zoo, kind: str) -> None:
    query = BASES[1] + RNG.standard_normal((70, 10)) / 5
    order = RNG.permutation(70)
    labelled = xr.DataArray(
        query[order], dims=("example", "neuron"), coords={"example": [IDS[place] for place in order]}
    )
    given = query if kind == "array" else labelled
    if kind == "labelled alone":
        found = dask_svcca.search(store, given)
        assert "cka" not in found
        assert len(set(found.index) & set(list(best(query))[:10])) >= 8
    else:
        check(dask_svcca.search(store, given, zoo=zoo), best(query), 10)


def test_search__by_a_name_as_it_was_given() -> None:
    """Of models and checkpoints too, whose names labels spell otherwise."""
    own = dask_svcca.create_zoo(MemoryStore(), examples=IDS)
    for number, layer in enumerate(("/fc/Relu", "fc2")):
        own.write("réseau 1", "étape", layer, BASES[0] + number * BASES[1])
    sketches = dask_svcca.sketch(own, size=1024)
    label = next(iter(own)).label
    assert label != "réseau 1/étape//fc/Relu"
    expected = dask_svcca.search(sketches, label)
    assert len(expected) == 1
    pd.testing.assert_frame_equal(dask_svcca.search(sketches, "réseau 1/étape//fc/Relu"), expected)
    with pytest.raises(RepresentationNotFoundError, match="there is no sketch of 'réseau 1/étape/fc'"):
        dask_svcca.search(sketches, "réseau 1/étape/fc")


def test_search__by_the_sketch_of_another_zoo_in_another_order(store: str) -> None:
    other = dask_svcca.create_zoo(MemoryStore(), examples=IDS[::-1])
    other.write("mine", "1", "fc", LAYERS["net/s4/fc01"][::-1])
    found = dask_svcca.search(store, dask_svcca.sketch(other, size=1024))
    assert found.index[0] == "net/s4/fc01"
    assert found.cka_estimate.iloc[0] == pytest.approx(1, abs=1e-5)


def test_search__refuses_what_cannot_be_compared(store: str, zoo: Zoo) -> None:
    with pytest.raises(RepresentationNotFoundError, match=r"there is no sketch of 'fc' in"):
        dask_svcca.search(store, "fc")
    with pytest.raises(MismatchedExamplesError, match=r"sketches of different examples cannot be compared: .* has 70"):
        dask_svcca.search(store, BASES[0])
    own = dask_svcca.create_zoo(MemoryStore(), examples=IDS)
    own.write("m", "c", "l", BASES[0])
    small = dask_svcca.sketch(own, size=64)
    with pytest.raises(ParametersChangedError, match=r"sketches of different size .* has 1024, .* has 64"):
        dask_svcca.search(store, small)
    other = dask_svcca.create_zoo(MemoryStore(), examples=range(70))
    with pytest.raises(MismatchedExamplesError, match="Give the zoo that they were made of"):
        dask_svcca.search(store, "net/s2/fc00", zoo=other)
    with pytest.raises(IncompatibleError, match="a query is one sketch; this Dataset has 80"):
        dask_svcca.search(store, dask_svcca.open_sketches(store))
    with pytest.raises(IncompatibleError, match="the query has no sketch: it is constant"):
        dask_svcca.search(store, np.ones((70, 3)), zoo=zoo)
    with pytest.raises(IncompatibleError, match="the query has no sketch: it has 1 of 210 values that are NaN"):
        dask_svcca.search(store, np.where(np.arange(210).reshape(70, 3) == 5, np.nan, 1.0), zoo=zoo)
    for top in (0, 2.5, True, "3"):
        with pytest.raises(ValueError, match=f"top is how many layers to list, at least 1; got {top!r}"):
            dask_svcca.search(store, "net/s2/fc00", top=top)  # type: ignore[arg-type]
    with pytest.raises((InvalidActivationsError, MismatchedExamplesError)):
        dask_svcca.search(store, np.ones((60, 3)), zoo=zoo)


@pytest.mark.parametrize("query", ["net/s4/fc01", LAYERS["net/s4/fc01"][::-1]])
def test_search__refuses_the_zoo_in_another_order(store: str, query: Any) -> None:
    turned = dask_svcca.create_zoo(MemoryStore(), examples=IDS[::-1])
    for label, x in LAYERS.items():
        turned.write(*label.split("/"), x[::-1])
    with pytest.raises(MismatchedExamplesError, match=r"'net/s4/fc..' has other activations in .* another order"):
        dask_svcca.search(store, query, zoo=turned)
    assert dask_svcca.search(store, query, zoo=turned, exact=False).index[0].startswith("net/s4")


def test_search__refuses_a_query_that_was_captured_anew(zoo: Zoo) -> None:
    other = dask_svcca.create_zoo(MemoryStore(), examples=IDS)
    for label, x in list(LAYERS.items())[:3]:
        other.write(*label.split("/"), x if label != "net/s0/fc00" else x[::-1])
    with pytest.raises(MismatchedExamplesError, match=r"'net/s0/fc00' has other activations .* captured anew"):
        dask_svcca.search(dask_svcca.sketch(zoo, size=64), "net/s0/fc00", zoo=other)


def test_search__refuses_the_same_values_of_other_examples(store: str) -> None:
    renamed = dask_svcca.create_zoo(MemoryStore(), examples=IDS[::-1])
    for label, x in LAYERS.items():
        renamed.write(*label.split("/"), x)
    for query in ("net/s4/fc01", BASES[1]):
        with pytest.raises(MismatchedExamplesError, match=r"'net/s./fc..' has other activations"):
            dask_svcca.search(store, query, zoo=renamed)
    # They have other sketches, too, and are not taken for those that are there.
    assert np.abs(dask_svcca.sketch(renamed, size=1024).sketch[0] - dask_svcca.open_sketches(store).sketch[0]).max() > 0


def test_search__refuses_a_zoo_that_has_not_what_is_asked_for(store: str, zoo: Zoo) -> None:
    grown = dask_svcca.create_zoo(MemoryStore(), examples=IDS)
    grown.write("new", "s0", "fc", BASES[0])
    with pytest.raises(RepresentationNotFoundError, match=r"'new/s0/fc' is in the zoo .* no sketch in .* yet"):
        dask_svcca.search(store, "new/s0/fc", zoo=grown)
    with pytest.raises(RepresentationNotFoundError, match=r"'net/s0/fc00' is not in .*exact values need it"):
        dask_svcca.search(store, "net/s0/fc00", zoo=grown)
    with pytest.raises(RepresentationNotFoundError, match=r"none of the 50 layers of the highest estimates is in"):
        dask_svcca.search(store, BASES[0], zoo=grown)
    with pytest.raises(RepresentationNotFoundError, match=r"'new/s0/fc' is not in .*exact values need it"):
        dask_svcca.search(store, dask_svcca.sketch(grown, size=1024), zoo=zoo)


def test_search__a_layer_that_is_not_in_the_zoo_stays_behind(store: str) -> None:
    part = dask_svcca.create_zoo(MemoryStore(), examples=IDS)
    for label, x in LAYERS.items():
        if label != "net/s2/fc01":
            part.write(*label.split("/"), x)
    found = dask_svcca.search(store, "net/s2/fc00", zoo=part, top=79)
    assert found.index[-1] == "net/s2/fc01"
    assert found.cka.isna().tolist() == [False] * 78 + [True]


def test_search__refuses_another_mask(tmp_path: Path) -> None:
    tokens = RNG.standard_normal((40, 5, 3))
    zoos = []
    for number in range(2):
        mask = np.arange(5) < np.random.default_rng(number).integers(1, 6, size=(40, 1))
        zoos.append(dask_svcca.create_zoo(MemoryStore(), examples=range(40), coords={"mask": mask}))
        zoos[-1].write("m", "c", "a", tokens)
        zoos[-1].write("m", "c", "b", tokens**3)
    zoos.append(dask_svcca.create_zoo(MemoryStore(), examples=range(40)))
    zoos[-1].write("m", "c", "a", tokens)
    sketches = dask_svcca.sketch(zoos[0], size=64)
    assert np.isfinite(dask_svcca.search(sketches, "m/c/a", zoo=zoos[0]).cka).all()
    for other, problem in ((1, "has another"), (2, "has none of that name")):
        with pytest.raises(ParametersChangedError, match=rf"under the mask 'mask' \(digest .*{problem}"):
            dask_svcca.search(sketches, "m/c/a", zoo=zoos[other])
    turned = dask_svcca.create_zoo(
        MemoryStore(), examples=range(39, -1, -1), coords={"mask": zoos[0].coords["mask"][::-1]}
    )
    turned.write("m", "c", "c", tokens[::-1])
    merged = dask_svcca.merge_sketches(sketches, dask_svcca.sketch(turned, size=64))
    np.testing.assert_allclose(merged.sketch[0], merged.sketch[2], atol=1e-6)


def test_search__says_that_a_sketch_is_not_made_yet(store: str) -> None:
    sketches = dask_svcca.open_sketches(store).load()
    sketches["digest"][3] = ""
    with pytest.raises(IncompatibleError, match=r"the sketch of 'net/s0/fc03' in .* is not made yet"):
        dask_svcca.search(sketches, "net/s0/fc03")


def test_search__layers_of_other_sizes_take_no_places_under_dft(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(40))
    dims = ("example", "height", "width", "channel")
    base = rng.normal(size=(40, 4, 4, 3)) + 2 * rng.normal(size=(40, 1, 1, 3))
    for place in range(4):
        zoo.write("net", "1", f"own{place}", base + 4 * place * rng.normal(size=base.shape), dims=dims)
    twice = base.repeat(2, axis=1).repeat(2, axis=2)
    for place in range(6):
        # Nearer than their own, by what both have; other samples all the same.
        zoo.write("net", "1", f"other{place}", twice + rng.normal(size=twice.shape) / 10, dims=dims)
    sketches = dask_svcca.sketch(zoo, size=512, conv="dft")
    for whole_bytes in (2**26, 0):
        monkeypatch.setattr("dask_svcca.sketches.nearest.WHOLE_BYTES", whole_bytes)
        found = dask_svcca.search(sketches, "net/1/own0", top=3, exact=False)
        assert sorted(found["layer"]) == ["own1", "own2", "own3"]


def test_nearest__a_coarser_sketch_first_finds_the_same(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(store)
    numbers = source.read_rows(np.array([3]))[0]
    whole = nearest(source, numbers, 0.1, 2, 2)
    monkeypatch.setattr("dask_svcca.sketches.nearest.WHOLE_BYTES", 0)
    read: list[int] = []
    real = SketchStore.read_rows

    def counted(self: SketchStore, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        read.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(SketchStore, "read_rows", counted)
    coarse = nearest(source, numbers, 0.1, 2, 2)
    np.testing.assert_array_equal(coarse[0], whole[0])
    np.testing.assert_allclose(coarse[1], whole[1], atol=1e-6)
    assert 2 <= sum(read) < 80 // 4
    read.clear()
    monkeypatch.setattr("dask_svcca.sketches.nearest.ROWS_BYTES", 0)
    in_turn = nearest(source, numbers, 0.1, 2, 2)
    np.testing.assert_array_equal(in_turn[0], whole[0])
    np.testing.assert_allclose(in_turn[1], whole[1], atol=1e-6)
    assert not read
    # Too many to be looked at one by one, and in turn: those of the highest coarser estimates.
    monkeypatch.setattr("dask_svcca.sketches.nearest.SCANNED_BYTES", 0)
    monkeypatch.setattr("dask_svcca.sketches.nearest.HIGHEST", 0)
    highest = nearest(source, numbers, 0.1, 2, 2)
    np.testing.assert_array_equal(highest[0], whole[0])
    assert sum(read) == 8


def test_search__recall_of_estimates_and_of_ranking_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    examples, layers = 60, 120
    bases = rng.standard_normal((10, examples, 10))
    xs = [bases[i // 12] + (i % 12) * rng.standard_normal((examples, 10)) / 6 for i in range(layers)]
    centred = np.stack([x - x.mean(axis=0) for x in xs])
    grams = np.einsum("lik,ljk->lij", centred, centred).reshape(layers, -1)
    grams /= np.linalg.norm(grams, axis=1, keepdims=True)
    true = grams @ grams.T
    made = dask_svcca.sketch({f"l{number:03}": x for number, x in enumerate(xs)}, size=4096)
    source = opened(made)
    before, after = [], []
    for number in range(layers):
        rows, *_ = nearest(source, source.read_rows(np.array([number]))[0], 0.1, 51, 11)
        rows = rows[rows != number]
        wanted = set(np.argsort(-true[number])[1:11].tolist())
        before.append(len(wanted & set(rows[:10].tolist())))
        after.append(len(wanted & set(rows[np.argsort(-true[number, rows])][:10].tolist())))
    assert np.mean(before) / 10 >= 0.93
    assert np.mean(after) == 10


def test_sketch_store__values_of_some_rows_are_those_of_the_columns(store: str) -> None:
    made = SketchStore.open(store)
    rows = np.array([79, 3, 64, 3])
    columns = made.columns()
    for name, values in columns.items():
        found = made.values(name, rows)
        assert found.dtype == values.astype(found.dtype).dtype
        np.testing.assert_array_equal(found, values[rows])
        assert len(made.values(name, rows[:0])) == 0


@pytest.mark.parametrize("compared", [10_000, 40])
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("fc07", r"Did you mean 'net/s0/fc07', or one of 4 others of that name\?"),
        ("net/s2/fc7", r"Did you mean 'net/s"),
        ("unknown", r"no sketch of 'unknown' in '.*'\. A name is"),
    ],
)
def test_search__a_name_that_is_not_there_is_told_what_is_like_it(
    store: str, query: str, said: str, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_svcca.sketches.search.COMPARED", compared)
    with pytest.raises(RepresentationNotFoundError, match=said):
        dask_svcca.search(store, query)


@pytest.mark.parametrize("chunk", [0, 1])
@pytest.mark.parametrize("left", [None, 100])
def test_search__names_a_file_of_numbers_that_is_gone_or_cut_short(
    store: str, tmp_path: Path, chunk: int, left: int | None
) -> None:
    place = tmp_path / "s.zarr"
    shutil.copytree(store, place)
    file = place / "sketch" / "c" / str(chunk) / "0"
    data = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(data[:left])
    for work in (lambda: dask_svcca.search(place, "net/s0/fc03"), lambda: dask_svcca.estimates(place)):
        with pytest.raises(DamagedStoreError, match=f"the file 'sketch/c/{chunk}/0' of the sketches"):
            work()


@pytest.mark.parametrize("left", [None, 100, -1])
def test_search__names_a_file_of_coarser_sketches_that_is_gone_or_damaged(
    store: str, left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_svcca.sketches.nearest.WHOLE_BYTES", 0)
    place = tmp_path / "s.zarr"
    shutil.copytree(store, place)
    file = place / "coarse" / "c" / "0" / "0"
    data = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(data[:left] if left > 0 else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DamagedStoreError, match="the file 'coarse/c/0/0' of the sketches"):
        dask_svcca.search(place, "net/s0/fc03")


def test_sketch_store__coarser_sketches_are_the_first_numbers_as_the_sketches_grow(tmp_path: Path) -> None:
    place = tmp_path / "s.zarr"
    labels = list(LAYERS)
    growing = dask_svcca.create_zoo(MemoryStore(), examples=IDS)
    for some in (labels[:7], labels[7:70], labels[70:]):
        for label in some:
            growing.write(*label.split("/"), LAYERS[label])
        dask_svcca.sketch(growing, place, size=512)
    growing.write(*labels[0].split("/"), LAYERS[labels[1]] ** 3, overwrite=True)
    dask_svcca.sketch(growing, place, size=512)
    whole = xr.open_zarr(place)
    first = whole.sketch[:, :256].to_numpy()
    # Rounded to the nearest step, a sixteenth of the root of the mean square.
    assert np.abs(whole.coarse.to_numpy() - first).max() <= 0.51 / 16 / np.sqrt(512)
    assert (whole.coarse.to_numpy() != 0).any(axis=1).all()


@pytest.mark.parametrize("texts", [[], ["net/s0/fc03"], None])
def test_search__names_a_file_of_names_that_says_what_is_not_in_it(
    store: str, zoo: Zoo, tmp_path: Path, texts: list[str] | None
) -> None:
    """Whole by its checksum, as whoever wants to harm can make it; None: a number of texts that would take 16 GiB."""
    place = tmp_path / "s.zarr"
    shutil.copytree(store, place)
    data = b"\xff" * 4 if texts is None else VLenUTF8().encode(np.array(texts, dtype=object))
    data = bytes(Zstd().encode(data + b"\x0b\x00\x00\x00net/s0/fc03" * (texts is None)))
    (place / "representation" / "c" / "0").write_bytes(data + crc(data))
    for query in ("net/s0/fc03", zoo["net", "s0", "fc03"]):
        # Where all names are read, zarr does not say which file it could not decode.
        with pytest.raises((DamagedStoreError, StoreFormatError), match=r"representation.* of "):
            dask_svcca.search(place, query)
