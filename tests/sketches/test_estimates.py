"""Estimates from a store of sketches, with their labels and errors, and what is refused."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import (
    DamagedStoreError,
    IncompatibleError,
    InvalidQuestionError,
    MemoryLimitError,
    RepresentationNotFoundError,
)
from dask_svcca.kernels.sketch import concentration, estimate, standard_error
from dask_svcca.sketches.store import SketchStore

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

RNG = np.random.default_rng(0)
BASE = RNG.standard_normal((80, 12))
LAYERS = {
    (f"net{i % 2}", f"step{i // 6}", f"fc{i % 6}"): BASE + i * RNG.standard_normal((80, 12)) / 4 for i in range(12)
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("sketches") / "s.zarr")
    dask_svcca.sketch(LAYERS, place, size=1024)
    return place


def test_estimates__are_near_exact_values(store: str) -> None:
    true = dask_svcca.compare(LAYERS, measures="cka", variance=None).cka.to_numpy()
    found = dask_svcca.estimates(store)
    off = (found.cka.to_numpy() - true)[np.triu_indices(12, 1)]
    errors = found.cka_error.to_numpy()[np.triu_indices(12, 1)]
    assert np.abs(off / errors).max() < 4
    assert np.sqrt((off**2).mean()) < 0.04
    np.testing.assert_allclose(np.diag(found.cka), 1, atol=1e-6)
    np.testing.assert_allclose(np.diag(found.cka_error), 0, atol=1e-6)
    assert found.model_a.values.tolist() == found.model_b.values.tolist() == [name[0] for name in LAYERS]


def test_estimates__are_those_of_the_kernel_in_blocks_of_any_size(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_svcca.sketches.pairs.BLOCK", 5)
    monkeypatch.setattr("dask_svcca.sketches.pairs.STRIP", 2)
    s = dask_svcca.open_sketches(store).sketch.to_numpy()
    own, spread = (s * s).sum(axis=1), concentration(s)
    cka = estimate(s @ s.T, own[:, np.newaxis], own)
    for found in (dask_svcca.estimates(store), dask_svcca.estimates(dask_svcca.open_sketches(store))):
        np.testing.assert_allclose(found.cka, cka, atol=1e-6)
        expected = standard_error(cka, spread[:, np.newaxis], spread, 1024)
        np.testing.assert_allclose(found.cka_error, expected, atol=1e-5)
        np.testing.assert_array_equal(found.cka, found.cka.T)
        np.testing.assert_array_equal(found.cka_error, found.cka_error.T)


def test_estimates__of_some_are_a_part_of_all(store: str) -> None:
    every = dask_svcca.estimates(store)
    some = dask_svcca.estimates(store, a={"layer": "fc[12]"}, b={"model": "net0", "checkpoint": ["step1"]})
    labels = {f"representation_{side}": some[f"representation_{side}"].values for side in "ab"}
    assert some.cka.shape == (4, 3)
    np.testing.assert_allclose(some.cka, every.cka.sel(labels), atol=1e-6)


@pytest.mark.parametrize(
    "part",
    [
        {"representation_a": [5, 0, 2], "representation_b": slice(3, 9, 2)},
        {"representation_a": 3},
        {"representation_a": slice(None, None, -1), "representation_b": [4]},
        {"representation_a": -1, "representation_b": 0},
    ],
    ids=str,
)
def test_estimates__lazy_ones_are_those_that_are_read(
    store: str, part: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dask_svcca.estimates(store)
    read: list[int] = []
    real = SketchStore.read_rows

    def counted(self: SketchStore, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        read.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(SketchStore, "read_rows", counted)
    lazy = dask_svcca.estimates(store, lazy=True).isel(part)
    assert not read
    for name in ("cka", "cka_error", "null_cka"):
        np.testing.assert_allclose(lazy[name], whole[name].isel(part), atol=1e-5)
    assert max(read) <= max(lazy.cka.sizes.values(), default=1)


def test_estimates__lazy_ones_that_are_read_part_by_part_read_sketches_once(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dask_svcca.estimates(store)
    read: list[int] = []
    real = SketchStore.read_rows

    def counted(self: SketchStore, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        read.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(SketchStore, "read_rows", counted)
    lazy = dask_svcca.estimates(store, lazy=True)
    for start in range(0, 12, 3):
        part = {"representation_a": slice(start, start + 3), "representation_b": slice(start, None)}
        np.testing.assert_allclose(lazy.cka[part], whole.cka[part], atol=1e-5)
    assert read == [12]
    again = pickle.loads(pickle.dumps(lazy))
    np.testing.assert_allclose(again.cka[2, ::-1], whole.cka[2, ::-1], atol=1e-5)
    # None are kept where there is no room for them.
    monkeypatch.setattr("dask_svcca.sketches.estimates.KEPT_BYTES", 1000)
    read.clear()
    for _ in range(2):
        np.testing.assert_allclose(dask_svcca.estimates(store, lazy=True).cka[0], whole.cka[0], atol=1e-5)
    assert sorted(read) == [1, 1, 12, 12]


def test_estimates__say_what_chance_gives(store: str) -> None:
    found = dask_svcca.estimates(store)
    layers = list(LAYERS.values())
    x, y = (layer - layer.mean(axis=0) for layer in (layers[2], layers[7]))
    norm = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    orders = [np.random.default_rng(seed).permutation(80) for seed in range(300)]
    shuffled = [np.linalg.norm(x.T @ y[order]) ** 2 / norm for order in orders]
    assert float(found.null_cka[2, 7]) == pytest.approx(np.mean(shuffled), rel=0.03)


def test_estimates__take_the_questions_of_comparisons(store: str) -> None:
    for lazy in (False, True):
        found = dask_svcca.nearest(dask_svcca.estimates(store, lazy=lazy), {"representation": "net0/step0/fc0"}, top=2)
        assert found["layer_b"].tolist() == ["fc1", "fc2"]
        assert (found["null_cka"] > 0).all()


@pytest.mark.parametrize("kind", ["best", "maximum", "transport"])
def test_model_similarity__of_estimates_is_near_that_of_a_comparison(
    kind: Literal["best", "maximum", "transport"],
) -> None:
    bases = RNG.standard_normal((3, 80, 12))
    layers = {
        (f"net{m}", "end", f"fc{k}"): bases[k] + m * RNG.standard_normal((80, 12)) / 3
        for m in range(4)
        for k in range(3)
    }
    true = dask_svcca.model_similarity(dask_svcca.compare(layers, measures="cka", variance=None), kind=kind)
    sketches = dask_svcca.sketch(layers, size=4096)
    found = dask_svcca.model_similarity(dask_svcca.estimates(sketches, lazy=True), kind=kind)
    np.testing.assert_allclose(found.cka, true.cka, atol=0.05)
    np.testing.assert_allclose(np.diag(found.cka), 1, atol=1e-5)
    # A comparison takes the spread of the nulls as well, where it has it.
    assert (found.null_cka > 0).all()
    assert found.model_a.values.tolist() == true.model_a.values.tolist()


def test_estimates__beyond_memory_are_refused_unless_they_are_lazy(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_svcca.machine.available_memory", lambda: 1000)
    with pytest.raises(MemoryLimitError, match=r"estimates of 12 x 12 pairs take .* lazy=True, or look"):
        dask_svcca.estimates(store)
    assert dask_svcca.estimates(store, lazy=True).cka.shape == (12, 12)


def test_estimates__none_of_what_cannot_be_compared() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(80))
    images = RNG.standard_normal((80, 2, 2, 3))
    zoo.write("m", "c", "conv", images, dims=("example", "height", "width", "channel"))
    zoo.write("m", "c", "fc", BASE)
    zoo.write("m", "c", "constant", np.ones((80, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sketches = dask_svcca.sketch(zoo, size=64, conv="positions")
    found = dask_svcca.estimates(sketches)
    order = found.layer_a.values.tolist()
    for side_a, side_b in [("conv", "fc"), ("fc", "constant"), ("constant", "constant"), ("fc", "conv")]:
        for values in (found.cka, found.cka_error, found.null_cka):
            assert np.isnan(values[order.index(side_a), order.index(side_b)])
    assert found.cka[order.index("fc"), order.index("fc")] == pytest.approx(1)


def test_estimates__refuse_a_bad_choice(store: str) -> None:
    with pytest.raises(RepresentationNotFoundError, match=r"no layer matches 'fc9' on side a; there are 'fc0'"):
        dask_svcca.estimates(store, a={"layer": "fc9"})
    with pytest.raises(InvalidQuestionError, match=r"side b is chosen by 'model', .*; got 'layers'"):
        dask_svcca.estimates(store, b={"layers": "fc1"})
    with pytest.raises(InvalidQuestionError, match="are chosen by a mapping"):
        dask_svcca.estimates(store, b="fc1")  # type: ignore[arg-type]


def test_estimates__refuse_another_dataset(store: str) -> None:
    with pytest.raises(IncompatibleError, match="this Dataset does not hold sketches: it lacks 'sketch'"):
        dask_svcca.estimates(dask_svcca.estimates(store))
    with pytest.raises(IncompatibleError, match="have 10 numbers of 1024"):
        dask_svcca.estimates(dask_svcca.open_sketches(store).isel(feature=slice(10)))
    for name, value in (("format_version", 9), ("family", "another")):
        later = dask_svcca.open_sketches(store).assign_attrs({name: value})
        with pytest.raises(DamagedStoreError, match=rf"{name}' of the sketches .* which this version reads: '{value}'"):
            dask_svcca.estimates(later)


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_estimates__name_a_damaged_file(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "s.zarr"
    dask_svcca.sketch(LAYERS, place, size=64)
    file = place / "sketch" / "c" / "0" / "0"
    if damage == "gone":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[3] = 0x7F
        data[2] = 0xC0
        file.write_bytes(data)
    with pytest.raises(DamagedStoreError):
        dask_svcca.estimates(place)
