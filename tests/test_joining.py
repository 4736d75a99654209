"""Several comparisons of one zoo as one Dataset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import join
from dask_svcca.errors import IncompatibleError, InvalidQuestionError, MismatchedExamplesError

if TYPE_CHECKING:
    from pathlib import Path

N = 90
IMAGE = ("example", "height", "width", "channel")


def make_zoo(models: tuple[str, ...] = ("net-s0", "net-s1"), examples: int = N) -> dask_svcca.Zoo:
    with dask_svcca.create_zoo(MemoryStore(), examples=range(examples)) as zoo:
        for model in models:
            rng = np.random.default_rng(sum(map(ord, model)))
            for step in (0, 10):
                conv = rng.normal(size=(examples, 2, 2, 3))
                zoo.write(model, f"step{step}", "conv", conv, step=step, depth=0, dims=IMAGE)
                zoo.write(model, f"step{step}", "fc", rng.normal(size=(examples, 4)), step=step, depth=1)
    return zoo


@pytest.fixture(scope="module")
def zoo() -> dask_svcca.Zoo:
    return make_zoo()


def same(joined: xr.DataArray, result: xr.DataArray) -> None:
    """Values of one comparison are in the joined one, at their labels."""
    labels = {dim: result[dim].to_numpy() for dim in result.dims}
    np.testing.assert_array_equal(joined.sel(labels).to_numpy(), result.to_numpy())


def test_join__of_other_measures_and_readings(zoo: dask_svcca.Zoo) -> None:
    dft, mean = (dask_svcca.compare(zoo, conv=conv) for conv in ("dft", "mean"))
    joined = join(dft, mean, dask_svcca.compare(zoo, measures="cca"))
    assert "svcca" not in joined
    same(joined.svcca_conv_dft, dft.svcca)
    same(joined.svcca_conv_mean, mean.svcca)
    same(joined.rank_a_conv_mean, mean.rank_a)
    # It does not depend on the reading.
    same(joined.neurons_a, dft.neurons_a)
    assert joined.svcca_conv_mean.attrs["null"] == "null_svcca_conv_mean"
    assert joined.svcca_conv_mean.attrs["p_value"] == "p_svcca_conv_mean"
    same(joined.p_svcca_conv_mean, mean.p_svcca)
    assert json.loads(joined.svcca_conv_mean.attrs["companions"])[0] == "null_svcca_conv_mean"
    same(joined.null_svcca_conv_mean, mean.null_svcca)
    assert json.loads(joined.cca.attrs["parameters"])["conv"] == "dft"
    assert json.loads(joined.attrs["parameters"])["measures"] == ["svcca_conv_dft", "svcca_conv_mean", "cca"]
    found = joined.svcca_conv_mean.sel(model_a="net-s0", step_a=10, layer_a="fc", model_b="net-s1")
    assert found.sizes == {"representation_b": 4}
    matched = dask_svcca.match_layers(
        joined, a={"model": "net-s0", "final": True}, b={"model": "net-s1", "final": True}, measure="svcca_conv_mean"
    )
    assert len(matched) == 2


def test_join__of_other_representations_completes(zoo: dask_svcca.Zoo) -> None:
    more = make_zoo(("net-s1", "other"))
    one, two = dask_svcca.compare(zoo), dask_svcca.compare(more)
    joined = join(one, two)
    assert joined.sizes == {"representation_a": 12, "representation_b": 12}
    assert joined.representation_a.to_numpy().tolist()[:8] == one.representation_a.to_numpy().tolist()
    same(joined.svcca, one.svcca)
    same(joined.svcca, two.svcca)
    same(joined.pair_status, one.pair_status)
    same(joined.problem_a, two.problem_a)
    strangers = joined.sel(model_a="net-s0", model_b="other")
    assert strangers.svcca.isnull().all()
    assert (strangers.pair_status == 0).all()
    assert joined.step_a.to_numpy()[-1] == 10
    assert joined.pair_status.dtype == one.pair_status.dtype


def test_join__of_other_pairs_completes(zoo: dask_svcca.Zoo) -> None:
    labels = zoo.representations.index.to_numpy()
    wanted = np.zeros((8, 8), dtype=bool)
    wanted[:3] = True
    parts = []
    for mask in (wanted, ~wanted & ~wanted.T):
        pairs = xr.DataArray(mask, coords={"representation_a": labels, "representation_b": labels})
        parts.append(dask_svcca.compare(zoo, pairs=pairs))
    whole = dask_svcca.compare(zoo)
    np.testing.assert_allclose(join(*parts).svcca, whole.svcca, atol=1e-6)


def test_join__to_netcdf_and_back(zoo: dask_svcca.Zoo, tmp_path: Path) -> None:
    results = [dask_svcca.compare(zoo, tmp_path / f"{share}.zarr", variance=share) for share in (None, 0.5)]
    joined = join(tmp_path / "None.zarr", tmp_path / "0.5.zarr")
    same(joined["svcca_variance_0.5"], results[1].svcca)
    joined.to_netcdf(tmp_path / "joined.nc")
    read = xr.load_dataset(tmp_path / "joined.nc")
    same(read.svcca_variance_none, results[0].svcca)
    assert read.attrs["comparisons"] == joined.attrs["comparisons"]
    assert "None.zarr" in joined.attrs["comparisons"]


@pytest.mark.parametrize("keep", [("correlations",)])
def test_join__details_of_other_lengths(keep: Any) -> None:
    parts = [dask_svcca.compare(make_zoo((model,)), keep=keep, conv="mean") for model in ("net-s0", "net-s1")]
    with dask_svcca.create_zoo(MemoryStore(), examples=range(N)) as wide:
        wide.write("wide", "1", "fc", np.random.default_rng(0).normal(size=(N, 9)))
    parts.append(dask_svcca.compare(wide, keep=keep, conv="mean"))
    joined = join(*parts)
    one = joined.correlations.sel(model_a="wide", model_b="wide").squeeze()
    np.testing.assert_allclose(one, parts[-1].correlations.squeeze(), atol=1e-6)
    narrow = joined.correlations.sel(model_a="net-s0", model_b="net-s0")
    assert narrow.isel({narrow.dims[-1]: slice(4, None)}).isnull().all()


def test_errors__other_examples_activations_and_one_alone(zoo: dask_svcca.Zoo) -> None:
    result = dask_svcca.compare(zoo)
    with pytest.raises(MismatchedExamplesError, match=r"90 examples, digest .*; 91 examples"):
        join(result, dask_svcca.compare(make_zoo(examples=N + 1)))
    changed = make_zoo()
    changed.write("net-s1", "step10", "fc", np.random.default_rng(9).normal(size=(N, 4)), step=10, overwrite=True)
    with pytest.raises(IncompatibleError, match="'net-s1/step10/fc' had other activations"):
        join(result, dask_svcca.compare(changed))
    with pytest.raises(InvalidQuestionError, match="two comparisons or more; got 1"):
        join(result)
