"""How similar the same layer is over trainings."""

from __future__ import annotations

import numpy as np
import pytest

import dask_svcca
from dask_svcca.errors import IncompatibleError, InvalidQuestionError

SEEDS = ("s0", "s1", "s2", "s3")


@pytest.fixture(scope="module")
def result() -> object:
    rng = np.random.default_rng(0)
    layers = {}
    for step in (1, 2):
        for layer in ("fc1", "fc2"):
            common = rng.normal(size=(50, 4))
            for seed in SEEDS:
                layers[seed, str(step), layer] = step * common + rng.normal(size=common.shape)
    layers["alone", "1", "head"] = rng.normal(size=(50, 3))
    return dask_svcca.compare(layers, measures=("svcca", "linear_regression"))


@pytest.mark.parametrize("measure", ["svcca", "linear_regression"])
def test_noise_ceiling__is_the_mean_over_pairs_of_trainings(result: object, measure: str) -> None:
    found = dask_svcca.noise_ceiling(result, by="model", measure=measure)
    assert found[["checkpoint", "layer"]].to_numpy().tolist() == [
        ["1", "fc1"],
        ["1", "fc2"],
        ["2", "fc1"],
        ["2", "fc2"],
    ]
    assert found.models.tolist() == [4] * 4
    assert found.pairs.tolist() == [6] * 4
    labels = [f"{seed}/2/fc1" for seed in SEEDS]
    values = result[measure].sel(representation_a=labels, representation_b=labels).to_numpy()
    values = (values + values.T) / 2
    upper = values[np.triu_indices(4, 1)]
    row = found[(found.checkpoint == "2") & (found.layer == "fc1")].iloc[0]
    assert row[measure] == pytest.approx(upper.mean())
    assert row[f"{measure}_sd"] == pytest.approx(upper.std(ddof=1))
    without = [np.delete(np.delete(values, one, 0), one, 1)[np.triu_indices(3, 1)].mean() for one in range(4)]
    assert row[f"{measure}_stderr"] == pytest.approx(np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2)))
    assert ("null_svcca" in found) == (measure == "svcca")


def test_noise_ceiling__of_checkpoints_by_other_names(result: object) -> None:
    final = dask_svcca.noise_ceiling(result, where={"checkpoint": "2"})
    assert "checkpoint" not in final
    assert final.layer.tolist() == ["fc1", "fc2"]
    over = dask_svcca.noise_ceiling(result, by="checkpoint", where={"model": "s0"})
    assert over[["model", "layer", "checkpoints", "pairs"]].to_numpy().tolist() == [
        ["s0", "fc1", 2, 1],
        ["s0", "fc2", 2, 1],
    ]
    assert np.isnan(over.svcca_sd).all()
    assert np.isnan(over.svcca_stderr).all()


def test_noise_ceiling__says_what_is_not_valid(result: object) -> None:
    with pytest.raises(InvalidQuestionError, match=r"by is what representations differ in, .*; got 'models'"):
        dask_svcca.noise_ceiling(result, by="models")
    with pytest.raises(IncompatibleError, match="differ in model alone, alike in layer: compare"):
        dask_svcca.noise_ceiling(result, where={"model": "s0", "checkpoint": "1"})
