"""Sketches of a zoo: those of the definition under every reading, made once, and whole after an interruption."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import (
    FailedRepresentationWarning,
    IncompatibleError,
    InvalidActivationsError,
    MemoryLimitError,
    ParametersChangedError,
    StoreFormatError,
    StoreInUseError,
)
from dask_svcca.kernels.sketch import Hashes, coordinates, counts, finished, seeded
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.plan.subspaces import Budget
from dask_svcca.sketches.family import Family, words_of
from dask_svcca.sketches.make import run_sketches
from dask_svcca.sketches.store import SketchStore

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((60, 6, 6, 3))
KINDS = {
    "other": IMAGES + RNG.standard_normal((60, 6, 6, 3)) @ RNG.standard_normal((3, 3)),
    "dense": RNG.standard_normal((60, 7)),
    "wide": RNG.standard_normal((60, 300)),
    "conv": IMAGES,
    "small": IMAGES.reshape(60, 3, 2, 3, 2, 3).mean(axis=(2, 4)),
    "odd": RNG.standard_normal((60, 5, 5, 2)) + IMAGES[:, :5, :5, :2],
}


class OneByOne:
    """Runs tasks here, with a budget of its own, and stops behind one where it is told to."""

    def __init__(self, memory: int = 4 * 2**30, stop: int | None = None) -> None:
        self.budget, self._stop = Budget(1, memory), stop
        self.ran = 0

    def run(self, nodes: Any, perform: Any, on_done: Any) -> None:
        for key, node in nodes.items():
            if self._stop is not None and self.ran == self._stop:
                raise KeyboardInterrupt
            on_done(key, perform(node.task))
            self.ran += 1


def definition(samples: npt.NDArray[Any], ids: npt.NDArray[Any], size: int, seed: int = 0) -> npt.NDArray[np.float32]:
    x = samples - samples.mean(axis=0)
    total = coordinates(counts(x.astype(np.float32), Hashes.of(seeded(words_of(ids), seed), size)))
    return finished(total, float(np.linalg.norm(x.T @ x)))


def exact(dataset: xr.Dataset, a: str, b: str) -> float:
    return float(dataset.cka.sel(representation_a=a, representation_b=b))


def products(sketches: xr.Dataset) -> npt.NDArray[Any]:
    return sketches.sketch.to_numpy().astype(float) @ sketches.sketch.to_numpy().T


@pytest.mark.parametrize("layer", ["dense", "wide"])
def test_sketch__is_that_of_the_definition(layer: str) -> None:
    x = KINDS[layer] * 1e-30 + 3e-30
    made = dask_svcca.sketch({layer: x}, size=128, seed=5)
    np.testing.assert_allclose(made.sketch[0], definition(KINDS[layer], np.arange(60), 128, seed=5), atol=1e-5)
    centred = (x - x.mean(axis=0)) * 1e30
    assert float(made.norm[0]) * 1e60 == pytest.approx(np.linalg.norm(centred.T @ centred), rel=1e-5)
    assert (made.samples.item(), made.neurons.item(), made.attrs["seed"]) == (60, x.shape[1], "5")


def test_sketch__does_not_hang_on_the_order_of_examples_nor_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, ids = KINDS["dense"].astype(np.float32), [f"image-{number}" for number in range(60)]
    order = np.random.default_rng(1).permutation(60)
    one, other = MemoryStore(), MemoryStore()
    with dask_svcca.create_zoo(one, examples=ids) as zoo:
        zoo.write("m", "c", "l", x)
    with dask_svcca.create_zoo(other, examples=[ids[place] for place in order]) as zoo:
        monkeypatch.setattr("dask_svcca.stores.zoo.write.CHUNK_BYTES", 300, raising=False)
        zoo.write("m", "c", "l", x[order])
    first, second = (dask_svcca.sketch(store, size=128) for store in (one, other))
    np.testing.assert_allclose(first.sketch, second.sketch, atol=1e-6)
    assert first.attrs["examples_digest"] == second.attrs["examples_digest"]


@pytest.mark.parametrize(
    "options",
    [
        {"conv": "dft"},
        {"conv": "mean"},
        {"conv": "flatten"},
        {"conv": "positions", "spatial_size": (3, 3)},
        {"conv": "positions", "positions": "random 4", "spatial_size": (3, 3)},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_sketch__products_estimate_cka_under_every_reading(options: dict[str, Any]) -> None:
    layers = {name: KINDS[name] for name in ("conv", "other", "small", "odd", "dense")}
    dims = dict.fromkeys(("conv", "other", "small", "odd"), ("example", "height", "width", "channel"))
    if options["conv"] == "positions":
        del layers["dense"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        true = dask_svcca.compare(layers, measures="cka", variance=None, dims=dims, **options)
    made = [dask_svcca.sketch(layers, size=2048, seed=seed, dims=dims, **options) for seed in range(3)]
    mean = np.mean([products(one) for one in made], axis=0)
    for i, a in enumerate(layers):
        for j, b in enumerate(layers):
            if made[0].domain[i] == made[0].domain[j] and i != j:
                # Three seeds of at most 1.9 / sqrt(2048) each.
                assert mean[i, j] == pytest.approx(exact(true, a, b), abs=4 * 1.9 / np.sqrt(2048 * 3)), (a, b)


def test_sketch__of_sequences_leaves_padding_out() -> None:
    mask = np.arange(5) < RNG.integers(1, 6, size=(40, 1))
    tokens = RNG.standard_normal((40, 5, 3))
    stores = []
    for filling in (0.0, 100.0):
        stores.append(MemoryStore())
        with dask_svcca.create_zoo(stores[-1], examples=range(40), coords={"mask": mask}) as zoo:
            zoo.write("m", "c", "l", np.where(mask[..., np.newaxis], tokens, filling))
    for sequence in ("mean", "positions", "last"):
        first, second = (dask_svcca.sketch(store, size=64, sequence=sequence) for store in stores)
        np.testing.assert_array_equal(first.sketch, second.sketch)
        assert first.samples.item() == (mask.sum() if sequence == "positions" else 40)


@pytest.mark.parametrize(("layer", "options"), [("wide", {}), ("conv", {"conv": "dft"})])
def test_run_sketches__reads_a_large_layer_in_pieces(layer: str, options: dict[str, Any]) -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(60))
    zoo.write(
        "m", "c", layer, KINDS[layer], dims=("example", "height", "width", "channel") if layer == "conv" else None
    )
    made, read = [], []
    for memory in (4 * 2**30, 360 * 2**20):
        store = MemoryStore()
        outcome = run_sketches(zoo, store, make_parameters("cka", **options), Family(64), executor=OneByOne(memory))
        made.append(dask_svcca.open_sketches(store).sketch.to_numpy())
        read.append(outcome.bytes_read)
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)


def test_sketch__refuses_a_layer_beyond_memory_and_leaves_no_store(tmp_path: Path) -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(60))
    zoo.write("m", "c", "l", KINDS["wide"])
    with pytest.raises(MemoryLimitError, match=r"the sketch of 'm/c/l', an array of shape \(60, 300\), needs"):
        run_sketches(
            zoo, str(tmp_path / "s.zarr"), make_parameters("cka"), Family(4096), executor=OneByOne(351 * 2**20)
        )
    assert not (tmp_path / "s.zarr").exists()


def test_sketch__records_what_has_none(tmp_path: Path) -> None:
    bad = KINDS["dense"].copy()
    bad[3, 2] = np.nan
    layers = {"good": KINDS["dense"], "nan": bad, "constant": np.ones((60, 4)), "huge": KINDS["dense"] * 1e200}
    with pytest.warns(
        FailedRepresentationWarning, match=r"3 of 4 representations have no sketch. The first: 'nan' has 1"
    ):
        made = dask_svcca.sketch(layers, size=64)
    problems = dict(zip(made.representation.values.tolist(), made.problem.values.tolist(), strict=True))
    assert problems["good"] == ""
    assert problems["huge"] == "has values so large that their squares overflow"
    assert "1 of 420 values that are NaN or infinite" in problems["nan"]
    assert problems["constant"].startswith("is constant")
    np.testing.assert_array_equal(np.isnan(made.sketch).all(axis=1), [False, True, True, True])


def test_sketch__of_values_whose_squares_leave_doubles_has_a_reason() -> None:
    layers = {"good": KINDS["dense"], "small": KINDS["dense"] * 1e-90, "large": KINDS["dense"] * 1e75}
    with pytest.warns(FailedRepresentationWarning, match="2 of 3 representations have no sketch"):
        made = dask_svcca.sketch(layers, size=64)
    problems = dict(zip(made.representation.values.tolist(), made.problem.values.tolist(), strict=True))
    for size in ("small", "large"):
        assert problems[size].startswith(f"has values so {size} that squares of its variance leave the range")
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(60))
    zoo.write("m", "c", "l", KINDS["dense"])
    with pytest.raises(IncompatibleError, match="the query has no sketch: it has values so small that squares"):
        dask_svcca.search(dask_svcca.sketch(zoo, size=64), KINDS["dense"] * 1e-90, zoo=zoo)


def test_sketch__grows_with_the_zoo_and_makes_nothing_twice(tmp_path: Path) -> None:
    place = str(tmp_path / "s.zarr")
    zoo = dask_svcca.create_zoo(str(tmp_path / "zoo.zarr"), examples=range(60))
    zoo.write("m", "0", "a", KINDS["dense"])
    dask_svcca.sketch(zoo, place, size=64)
    zoo.write("m", "0", "b", KINDS["wide"])
    parameters = make_parameters("cka", conv="mean")
    assert run_sketches(zoo, place, parameters, Family(64)).made == 1
    assert run_sketches(zoo, place, parameters, Family(64)).made == 0
    zoo.write("m", "0", "a", KINDS["dense"] ** 3, overwrite=True)
    assert run_sketches(zoo, place, parameters, Family(64)).made == 1
    plain = xr.open_zarr(place)
    assert plain.representation.values.tolist() == ["m/0/a", "m/0/b"]
    np.testing.assert_allclose(plain.sketch[0], definition(KINDS["dense"] ** 3, np.arange(60), 64), atol=1e-5)


def test_sketch__goes_on_after_an_interruption(tmp_path: Path) -> None:
    place = str(tmp_path / "s.zarr")
    zoo = dask_svcca.create_zoo(str(tmp_path / "zoo.zarr"), examples=range(60))
    for number in range(4):
        zoo.write("m", "0", f"l{number}", KINDS["dense"] + number * KINDS["dense"][::-1])
    parameters = make_parameters("cka", conv="mean")
    with pytest.raises(KeyboardInterrupt):
        run_sketches(zoo, place, parameters, Family(64), executor=OneByOne(stop=2))
    half = dask_svcca.open_sketches(place)
    np.testing.assert_array_equal(half.digest.values != "", [True, True, False, False])
    np.testing.assert_array_equal(np.isnan(half.sketch).any(axis=1), [False, False, True, True])
    assert run_sketches(zoo, place, parameters, Family(64)).made == 2
    np.testing.assert_array_equal(dask_svcca.open_sketches(place).sketch, dask_svcca.sketch(zoo, size=64).sketch)


def test_sketch__makes_again_what_is_gone(tmp_path: Path) -> None:
    place = tmp_path / "s.zarr"
    zoo = dask_svcca.create_zoo(str(tmp_path / "zoo.zarr"), examples=range(60))
    zoo.write("m", "0", "a", KINDS["dense"])
    dask_svcca.sketch(zoo, place, size=64)
    (place / "sketch" / "c" / "0" / "0").unlink()
    assert np.isfinite(dask_svcca.sketch(zoo, place, size=64).sketch).all()


def test_sketch__refuses_what_others_were_made_of(tmp_path: Path) -> None:
    place, x = str(tmp_path / "s.zarr"), {"l": KINDS["dense"]}
    dask_svcca.sketch(x, place, size=64)
    for options, problem in (
        ({"size": 128}, "were made with size=64, now size=128"),
        ({"seed": 1}, "were made with seed='0', now seed='1'"),
        ({"conv": "flatten"}, "were made with conv='mean', now conv='flatten'"),
    ):
        with pytest.raises(ParametersChangedError, match=problem):
            dask_svcca.sketch(x, place, **{"size": 64, **options})
    with pytest.raises(ParametersChangedError, match=r"are of 60 examples \(digest \w{8}\), the zoo has 50 "):
        dask_svcca.sketch({"l": KINDS["dense"][:50]}, place, size=64)


def test_sketch__refuses_other_stores_and_an_empty_zoo(tmp_path: Path) -> None:
    zoo = dask_svcca.create_zoo(str(tmp_path / "zoo.zarr"), examples=range(60))
    with pytest.raises(InvalidActivationsError, match="has no complete representation"):
        dask_svcca.sketch(zoo)
    with pytest.raises(StoreFormatError, match="is not a store of sketches of dask-svcca: it says format"):
        dask_svcca.sketch({"l": KINDS["dense"]}, str(tmp_path / "zoo.zarr"))
    with pytest.raises(ValueError, match="mask='nope' is not a coordinate of the zoo along examples and tokens"):
        dask_svcca.sketch({"l": KINDS["dense"]}, mask="nope")
    with pytest.raises(StoreFormatError, match="no store of sketches at"):
        dask_svcca.open_sketches(tmp_path / "none.zarr")


def test_sketch__is_for_one_run_at_a_time(tmp_path: Path) -> None:
    place, x = str(tmp_path / "s.zarr"), KINDS["dense"]
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(60))
    zoo.write("m", "0", "a", x)

    class Meanwhile(OneByOne):
        def run(self, nodes: Any, perform: Any, on_done: Any) -> None:
            with pytest.raises(StoreInUseError, match=r"the sketches .* is in use by process"):
                run_sketches(zoo, place, make_parameters("cka"), Family(64))
            super().run(nodes, perform, on_done)

    assert run_sketches(zoo, place, make_parameters("cka"), Family(64), executor=Meanwhile()).made == 1


def test_sketch_store__another_family_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "s.zarr"
    dask_svcca.sketch({"l": KINDS["dense"]}, place, size=64)
    from dask_svcca.stores import _io

    root = SketchStore.open(place, mode="r+").root
    _io.set_attributes(root, {**root.attrs, "family": "other-9"})
    with pytest.raises(
        StoreFormatError, match=r"'family' of the sketches .* is not the family 'fourier-2x-1'.*'other-9'"
    ):
        dask_svcca.open_sketches(place)


def test_sketch__refuses_a_place_in_the_zoo(tmp_path: Path) -> None:
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(30)) as zoo:
        zoo.write("net", "end", "fc", np.random.default_rng(0).normal(size=(30, 4)))
    with pytest.raises(StoreFormatError, match=r"the sketches at '.*' would lie in the zoo at '.*zoo.zarr'"):
        dask_svcca.sketch(zoo, tmp_path / "zoo.zarr" / "s.zarr")
    assert not (tmp_path / "zoo.zarr" / "s.zarr").exists()
