"""When layers settle, and how sure that is: over trainings against counting, over examples against CKA by hand."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

import dask_svcca
from dask_svcca import learning_dynamics
from dask_svcca.analysis.settling import interval_of_median
from dask_svcca.errors import InvalidQuestionError, UnknownMeasureError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import xarray as xr

STEPS = (0, 1, 10, 100, 1000)
# The share of its way that the layer of a model has made at each step.
SETTLES: Mapping[str, tuple[float, ...]] = {
    "s0": (0, 1, 1, 1, 1),
    "s1": (0, 0, 1, 1, 1),
    "s2": (0, 0, 0, 1, 1),
    "tuned": (0, 0, 0, 0, 1),
}


def trained(parents: Mapping[str, str], *, models: tuple[str, ...] = tuple(SETTLES)) -> xr.Dataset:
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(60)) as zoo:
        for model in models:
            start, end = rng.normal(size=(2, 60, 3))
            for step, way in zip(STEPS, SETTLES[model], strict=True):
                values = (1 - way) * start + way * end
                zoo.write(model, f"at{step}", "fc", values, step=step, depth=0, parent=parents.get(model))
    return dask_svcca.compare(zoo, measures="cka", pairs="final")


@pytest.mark.parametrize("count", [2, 5, 6, 9, 11])
def test_interval_of_median__is_as_sure_as_counting_says(count: int) -> None:
    """Each training is below the median, or above: all ways in which they may fall."""
    found = interval_of_median(np.arange(float(count)))
    below = np.array([sum(way) for way in product((0, 1), repeat=count)])
    low, high = int(found.low), int(found.high)
    # The median is above the training at `low` and below that at `high`.
    holds = (below > low) & (below <= high)
    assert found.coverage == pytest.approx(holds.mean())
    assert found.coverage >= 0.95 or (low, high) == (0, count - 1)
    if count > 6:
        narrower = (below > low + 1) & (below <= high - 1)
        assert narrower.mean() < 0.95


def test_interval_of_median__of_an_unknown_step_is_unknown() -> None:
    assert np.isnan(interval_of_median(np.array([1.0, np.nan, 3.0]))).all()
    assert np.isnan(interval_of_median(np.zeros(0))).all()


def test_interval_of_median__of_one_training_is_none() -> None:
    np.testing.assert_array_equal(interval_of_median(np.array([7.0])), [7, np.nan, np.nan, np.nan])
    # Relatives are one.
    found = learning_dynamics(trained({"tuned": "s2/at1000"}, models=("s2", "tuned")))
    assert (found.trainings.item(), found.settled_by.item()) == (1, found.settled_step.max().item())
    assert np.isnan([found[f"settled_{one}"].item() for one in ("low", "high", "coverage")]).all()


def test_learning_dynamics__says_by_when_trainings_have_settled() -> None:
    found = learning_dynamics(trained({}, models=("s0", "s1", "s2")))
    np.testing.assert_array_equal(found.settled_step.squeeze(), [1, 10, 100])
    assert [found[f"settled_{one}"].item() for one in ("by", "low", "high", "coverage")] == [10, 1, 100, 0.75]
    assert found.trainings.item() == 3
    assert "settled_by" not in learning_dynamics(trained({}, models=("s0",)), model="s0")


def test_learning_dynamics__relatives_are_one_training() -> None:
    found = learning_dynamics(trained({"tuned": "s2/at1000"}))
    assert found.trainings.item() == 3
    # Of s2 and of what began with it, the last to settle counts.
    assert [found[f"settled_{one}"].item() for one in ("by", "low", "high")] == [10, 1, 1000]
    alone = learning_dynamics(trained({}))
    assert (alone.trainings.item(), alone.settled_by.item()) == (4, 100)


def test_learning_dynamics__of_trainings_that_are_not_known_says_nothing() -> None:
    result = trained({}).load().copy(deep=True)
    missing = (result.model_a == "s1").to_numpy() & (result.step_a == 10).to_numpy()
    result["cka"].to_numpy()[missing] = np.nan
    found = learning_dynamics(result)
    assert np.isnan([found[f"settled_{one}"].item() for one in ("by", "low", "high")]).all()
    assert found.trainings.item() == 4
    # It does not matter to the others.
    assert learning_dynamics(result, model=["s0", "s2"]).settled_by.item() == 100


def cka(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))


def first_within(apart: np.ndarray) -> float:
    """The step after the last that is too far away."""
    outside = [place for place, value in enumerate(apart[:-1]) if value > 0.1]
    return float(STEPS[outside[-1] + 1 if outside else 0])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, list[np.ndarray]]:
    """A layer that comes close to its final self slowly."""
    rng = np.random.default_rng(1)
    start, end = rng.normal(size=(2, 80, 4))
    layers = [end + share * start for share in (2.0, 0.4, 0.36, 0.3, 0.0)]
    folder: Path = tmp_path_factory.mktemp("noisy")
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(80)) as zoo:
        for step, values in zip(STEPS, layers, strict=True):
            zoo.write("net", f"at{step}", "fc", values, step=step, depth=0)
    return dask_svcca.compare(zoo, folder / "comparison.zarr", measures=["cka", "mutual_knn"]), layers


def test_learning_dynamics__says_between_which_steps_by_the_examples(
    noisy: tuple[xr.Dataset, list[np.ndarray]],
) -> None:
    result, layers = noisy
    found = learning_dynamics(result, model="net", measure="cka", blocks=8).squeeze()
    apart = np.array([1 - cka(one, layers[-1]) for one in layers])
    kept = [np.delete(np.arange(80), slice(start, start + 10)) for start in range(0, 80, 10)]
    without = np.array([[1 - cka(one[rows], layers[-1][rows]) for rows in kept] for one in layers])
    error = np.sqrt(7 * np.var(without, axis=1))
    np.testing.assert_allclose(found.stderr_to_final, error, atol=1e-6)
    expected = [first_within(apart + shift * error) for shift in (-1.96, 0, 1.96)]
    assert [found[f"settled_{one}"].item() for one in ("earliest", "step", "latest")] == expected
    assert expected[0] < expected[1] < expected[2]


def test_learning_dynamics__by_the_examples_needs_directions(noisy: tuple[xr.Dataset, list[np.ndarray]]) -> None:
    with pytest.raises(UnknownMeasureError, match="'mutual_knn' is about examples among one another"):
        learning_dynamics(noisy[0], measure="mutual_knn", blocks=8)
    for blocks in (1, 5.0, "5"):
        with pytest.raises(InvalidQuestionError, match=f"blocks is from 2 to half .* examples, 40; got {blocks!r}"):
            learning_dynamics(noisy[0], measure="cka", blocks=blocks)  # type: ignore[arg-type]
