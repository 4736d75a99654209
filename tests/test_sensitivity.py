"""Sensitivity to classes: against least squares, at full rank, beside chance and the untrained network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import class_sensitivity
from dask_svcca.errors import (
    IncompatibleError,
    InvalidQuestionError,
    MismatchedExamplesError,
    RepresentationNotFoundError,
)

if TYPE_CHECKING:
    import numpy.typing as npt

N = 120
IMAGE = ("example", "height", "width", "channel")
LABEL = np.random.default_rng(3).integers(3, size=N)
NAMES = np.array(["cat", "dog", "emu"])[LABEL]


def make_zoo() -> dask_svcca.Zoo:
    """Two models with layers of their own; classes show in the last checkpoint of one."""
    rng = np.random.default_rng(0)
    coords = {
        "label": LABEL,
        "name": NAMES,
        "one": np.zeros(N, dtype=int),
        "weight": rng.normal(size=N),
        "word": rng.integers(2, size=(N, 4)),
        "mask": np.arange(4) <= rng.integers(1, 4, size=(N, 1)),
    }
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords=coords)
    with zoo:
        for step, strength in ((0, 0.0), (10, 0.5), (20, 2.0)):
            conv = rng.normal(size=(N, 4, 4, 3)) + 0.1 * strength * LABEL[:, np.newaxis, np.newaxis, np.newaxis]
            fc = rng.normal(size=(N, 6)) @ rng.normal(size=(6, 8)) + strength * np.eye(8)[LABEL]
            zoo.write("net", f"step{step}", "conv", conv, step=step, depth=0, dims=IMAGE)
            zoo.write("net", f"step{step}", "fc", fc, step=step, depth=1)
            zoo.write("net", f"step{step}", "logits", fc[:, :4] + rng.normal(size=(N, 4)), step=step, depth=2)
        zoo.write("other", "end", "fc", rng.normal(size=(N, 5)))
    return zoo


@pytest.fixture(scope="module")
def zoo() -> dask_svcca.Zoo:
    return make_zoo()


@pytest.fixture(scope="module")
def result(zoo: dask_svcca.Zoo) -> xr.Dataset:
    return dask_svcca.compare(zoo)


def by_least_squares(samples: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> float:
    """Multiple correlation: of a target with its best linear prediction."""
    design = np.column_stack([np.ones(len(samples)), samples])
    predicted = design @ np.linalg.lstsq(design, target, rcond=1e-6)[0]
    return float(np.sqrt(predicted.var() / target.var()))


@pytest.mark.parametrize("conv", ["dft", "mean", "positions", "flatten"])
def test_sensitivity__is_that_of_least_squares_at_full_rank(zoo: dask_svcca.Zoo, conv: str) -> None:
    # What the comparison leaves out of its measures is there.
    found = class_sensitivity(dask_svcca.compare(zoo, conv=conv, variance=0.5), zoo=zoo)
    assert found.sensitivity.dims == ("model", "checkpoint", "layer", "class")
    for item in zoo.entries():
        values = zoo[item.name].to_numpy()
        for label in range(3):
            target = (label == LABEL).astype(float)
            if values.ndim == 4 and conv in {"dft", "positions"}:
                if conv == "dft":
                    # The zero frequency is the sum over positions.
                    samples = values.sum(axis=(1, 2))
                else:
                    samples, target = values.reshape(-1, 3), np.repeat(target, 16)
            else:
                samples = values.mean(axis=(1, 2)) if values.ndim == 4 and conv == "mean" else values.reshape(N, -1)
            one = found.sensitivity.sel({**item.name._asdict(), "class": label})
            assert one.item() == pytest.approx(by_least_squares(samples, target), abs=2e-5)


def test_sensitivity__of_logits_of_the_same_checkpoint(zoo: dask_svcca.Zoo, result: xr.Dataset) -> None:
    found = class_sensitivity(result, zoo=zoo, logits="logits", where={"model": "net"})
    assert found.attrs["logits"] == "logits"
    for step in (0, 20):
        logits = zoo["net", f"step{step}", "logits"].to_numpy()
        for index, layer in ((0, "fc"), (3, "fc"), (2, "logits")):
            one = found.sensitivity.sel(model="net", checkpoint=f"step{step}", layer=layer)[index]
            samples = zoo["net", f"step{step}", layer].to_numpy()
            assert one.item() == pytest.approx(by_least_squares(samples, logits[:, index]), abs=1e-5)
    np.testing.assert_allclose(found.sensitivity.sel(layer="logits"), 1, atol=1e-5)


def test_sensitivity__wide_layers_whose_samples_are_stored_as_they_are() -> None:
    rng = np.random.default_rng(1)
    wide, tall = rng.normal(size=(N, 300)), rng.normal(size=(N, 20))
    with dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords={"label": LABEL}) as zoo:
        zoo.write("net", "1", "wide", wide)
        zoo.write("net", "1", "tall", tall)
    found = class_sensitivity(dask_svcca.compare(zoo, measures="cka"), zoo=zoo).squeeze()
    np.testing.assert_allclose(found.sel(layer="wide").sensitivity, 1, atol=1e-5)
    assert found.chance.sel(layer="wide").item() == pytest.approx(1)
    expected = [by_least_squares(tall, (label == LABEL).astype(float)) for label in range(3)]
    np.testing.assert_allclose(found.sel(layer="tall").sensitivity, expected, atol=1e-5)


@pytest.mark.parametrize("conv", ["dft", "positions"])
def test_chance__is_that_of_shuffled_labels(zoo: dask_svcca.Zoo, conv: str) -> None:
    found = class_sensitivity(dask_svcca.compare(zoo, conv=conv), zoo=zoo, where={"checkpoint": "step0"})
    rng = np.random.default_rng(0)
    for layer in ("conv", "fc"):
        values = zoo["net", "step0", layer].to_numpy()
        by_position = values.reshape(-1, values.shape[-1])
        samples = values.sum(axis=(1, 2)) if values.ndim == 4 and conv == "dft" else by_position
        each = len(samples) // N
        shuffled = [
            by_least_squares(samples, np.repeat(rng.permutation((LABEL == 0).astype(float)), each)) for _ in range(300)
        ]
        chance = found.chance.sel(model="net", layer=layer).item()
        assert chance == pytest.approx(np.mean(shuffled), rel=0.05)


def test_untrained__is_the_first_step_also_where_it_is_not_asked_for(zoo: dask_svcca.Zoo, result: xr.Dataset) -> None:
    whole = class_sensitivity(result, zoo=zoo)
    last = class_sensitivity(result, zoo=zoo, where={"final": True})
    assert last.checkpoint.to_numpy().tolist() == ["step20", "end"]
    assert last.first_step.sel(model="net").item() == 0
    first = whole.sensitivity.sel(model="net", checkpoint="step0")
    xr.testing.assert_equal(
        last.untrained.sel(model="net").drop_vars(["first_step", "depth"]),
        first.drop_vars(["first_step", "depth", "checkpoint", "step"]).rename("untrained"),
    )
    # It has no steps.
    assert last.untrained.sel(model="other").isnull().all()
    trained, untrained = last.sensitivity.sel(checkpoint="step20"), last.untrained
    assert (trained.sel(model="net", layer="fc") > 2 * untrained.sel(model="net", layer="fc")).all()


def test_order__checkpoints_by_step_and_layers_by_depth(zoo: dask_svcca.Zoo, result: xr.Dataset) -> None:
    found = class_sensitivity(result, zoo=zoo, labels="name")
    assert found.checkpoint.to_numpy().tolist() == ["step0", "step10", "step20", "end"]
    assert found.layer.to_numpy().tolist() == ["conv", "fc", "logits"]
    assert found["class"].to_numpy().tolist() == ["cat", "dog", "emu"]
    assert found.depth.sel(model="net").to_numpy().tolist() == [0, 1, 2]
    assert found.step.sel(model="net").to_numpy()[:3].tolist() == [0, 10, 20]
    assert found["rank"].sel(model="net", checkpoint="step0").to_numpy().tolist() == [3, 6, 4]
    np.testing.assert_array_equal(found.sensitivity, class_sensitivity(result, zoo=zoo).sensitivity)


def test_gaps__a_layer_that_was_not_compared_has_no_value(zoo: dask_svcca.Zoo) -> None:
    with dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords={"label": LABEL}) as other:
        other.write("net", "1", "dead", np.ones((N, 3)))
        other.write("net", "1", "fc", zoo["net", "step20", "fc"].to_numpy())
    with pytest.warns(dask_svcca.errors.FailedRepresentationWarning):
        compared = dask_svcca.compare(other)
    found = class_sensitivity(compared, zoo=other)
    assert found.sensitivity.sel(layer="dead").isnull().all()
    assert found.sensitivity.sel(layer="fc").notnull().all()
    with pytest.raises(IncompatibleError, match="'net/1/dead' could not be compared"):
        class_sensitivity(compared, zoo=other, where={"layer": "dead"})


def test_result__as_a_path_and_to_netcdf(zoo: dask_svcca.Zoo, tmp_path) -> None:  # type: ignore[no-untyped-def]
    dask_svcca.compare(zoo, tmp_path / "c.zarr")
    found = class_sensitivity(tmp_path / "c.zarr", zoo=zoo, where={"model": "net"})
    found.to_netcdf(tmp_path / "c.nc")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "c.nc"), found)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"labels": "lable"}, "no coordinate 'lable'; it has 'label', .* mean 'label'"),
        ({"labels": "weight"}, "'weight' is not a class for each example: it has 1 axes and the type float64"),
        ({"labels": "word"}, "'word' is not a class for each example: it has 2 axes"),
        ({"labels": "one"}, "all 120 examples have the one 0"),
        ({"logits": "conv", "where": {"model": "net"}}, r"'net/step0/conv' has the axes \('example', 'height'"),
    ],
)
def test_errors__labels_that_are_not_classes(
    zoo: dask_svcca.Zoo, result: xr.Dataset, asked: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidQuestionError, match=message):
        class_sensitivity(result, zoo=zoo, **asked)  # type: ignore[arg-type]


def test_errors__logits_that_a_model_lacks_and_other_examples(zoo: dask_svcca.Zoo, result: xr.Dataset) -> None:
    with pytest.raises(RepresentationNotFoundError, match="other/end"):
        class_sensitivity(result, zoo=zoo, logits="logits")
    other = dask_svcca.create_zoo(MemoryStore(), examples=range(N + 1), coords={"label": np.arange(N + 1)})
    with pytest.raises(MismatchedExamplesError, match=r"120 examples .* and 121"):
        class_sensitivity(result, zoo=other)


def test_errors__samples_that_do_not_say_of_which_example_they_are(zoo: dask_svcca.Zoo) -> None:
    with dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords=zoo.coords) as other:
        other.write("net", "1", "block", np.random.default_rng(0).normal(size=(N, 4, 3)))
    compared = dask_svcca.compare(other, sequence="positions", mask="mask")
    with pytest.raises(IncompatibleError, match="different numbers of tokens"):
        class_sensitivity(compared, zoo=other)
