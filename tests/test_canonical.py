"""Aligned directions of two layers of a zoo, beside their neurons."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import canonical_directions, cca
from dask_svcca.errors import IncompatibleError, InvalidQuestionError, RepresentationNotFoundError

N = 150
A, B = ("net-s0", "end", "conv"), ("net-s1", "end", "conv")
FC_A, FC_B = ("net-s0", "end", "fc"), ("net-s1", "end", "fc")
LABEL = np.random.default_rng(5).integers(4, size=N)


@pytest.fixture(scope="module")
def zoo() -> dask_svcca.Zoo:
    rng = np.random.default_rng(0)
    coords = {"label": LABEL, "word": np.ones((N, 3), dtype=int)}
    shared = rng.normal(size=(N, 6))
    images = rng.normal(size=(N, 4, 4, 3))
    with dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords=coords) as zoo:
        for model in ("net-s0", "net-s1"):
            conv = images @ rng.normal(size=(3, 3)) + rng.normal(size=images.shape)
            fc = np.column_stack([shared @ rng.normal(size=(6, 5)), np.full(N, 3.0)]) + 100
            fc[:, 0] += rng.normal(size=N)
            zoo.write(model, "end", "conv", conv, dims=("example", "height", "width", "channel"))
            zoo.write(model, "end", "fc", fc)
    return zoo


@pytest.mark.parametrize("conv", ["dft", "mean", "flatten", "positions"])
def test_directions__are_those_of_cca_in_the_order_of_labels(zoo: dask_svcca.Zoo, conv: str) -> None:
    found = canonical_directions(zoo, A, B, conv=conv, components=3)  # type: ignore[arg-type]
    expected = cca(zoo[A], zoo[B], conv=conv, components=3).isel(example=np.argsort(LABEL, kind="stable"))  # type: ignore[arg-type]
    for one, other in (
        ("correlation", "correlation"),
        ("direction_a", "direction_x"),
        ("direction_b", "direction_y"),
        ("explained_variance_b", "explained_variance_y"),
        ("rank_a", "rank_x"),
    ):
        np.testing.assert_array_equal(found[one], expected[other])
    np.testing.assert_array_equal(found.label, np.sort(LABEL))
    np.testing.assert_array_equal(found.example, expected.example)
    said = {"a": "net-s0/end/conv", "b": "net-s1/end/conv", "order": "label", "conv": conv}
    assert found.attrs == {**expected.attrs, **said}


@pytest.mark.parametrize(("conv", "layer"), [("dft", "conv"), ("mean", "conv"), ("positions", "conv"), ("dft", "fc")])
def test_neurons__are_the_most_correlated_ones(zoo: dask_svcca.Zoo, conv: str, layer: str) -> None:
    found = canonical_directions(zoo, ("net-s0", "end", layer), ("net-s1", "end", layer), conv=conv, order=None)  # type: ignore[arg-type]
    chosen = {}
    for side, model in (("a", "net-s0"), ("b", "net-s1")):
        values = zoo[model, "end", layer].to_numpy()
        if values.ndim == 4 and conv == "mean":
            values = values.mean(axis=(1, 2))
        values = values.reshape(-1, 3) if conv == "positions" else values.reshape(N, -1)
        directions = found[f"direction_{side}"].to_numpy().reshape(len(values), -1)
        for component in range(found.sizes["component"]):
            with np.errstate(invalid="ignore"):
                correlations = np.corrcoef(values.T, directions[:, component])[-1, :-1]
            best = np.nanargmax(np.abs(correlations))
            assert found[f"neuron_number_{side}"][component] == best
            closeness = found[f"neuron_direction_correlation_{side}"][component].item()
            assert closeness == pytest.approx(correlations[best], abs=1e-10)
            neuron = found[f"neuron_{side}"].to_numpy().reshape(len(values), -1)[:, component]
            np.testing.assert_allclose(neuron, values[:, best], rtol=1e-12)
            chosen[side, component] = neuron
    for component in range(found.sizes["component"]):
        expected = np.corrcoef(chosen["a", component], chosen["b", component])[0, 1]
        assert found.neuron_correlation[component].item() == pytest.approx(expected, abs=1e-10)


def test_neurons__differ_where_directions_are_alike(zoo: dask_svcca.Zoo) -> None:
    found = canonical_directions(zoo, FC_A, FC_B, components=4)
    assert (found.correlation > 0.8).all()
    assert np.abs(found.neuron_correlation).mean() < found.correlation.mean() - 0.1


def test_neurons__the_same_in_small_chunks(zoo: dask_svcca.Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = canonical_directions(zoo, A, B, conv="positions")
    monkeypatch.setattr("dask_svcca.pairwise.canonical.examples_at_a_time", lambda _: 7)
    xr.testing.assert_allclose(canonical_directions(zoo, A, B, conv="positions"), whole, rtol=1e-12)


def test_result__to_netcdf(zoo: dask_svcca.Zoo, tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = canonical_directions(zoo, FC_A, "net-s1/end/fc")
    found.to_netcdf(tmp_path / "directions.nc")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "directions.nc"), found)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("lable", "no coordinate 'lable' to sort examples by; it has 'label', 'word'.* mean 'label'"),
        ("word", "cannot be sorted by 'word', which has 3 values for each"),
    ],
)
def test_errors__what_examples_cannot_be_sorted_by(zoo: dask_svcca.Zoo, order: str, message: str) -> None:
    with pytest.raises(InvalidQuestionError, match=message):
        canonical_directions(zoo, FC_A, FC_B, order=order)


def test_errors__layers_that_are_not_there_or_not_alike(zoo: dask_svcca.Zoo) -> None:
    with pytest.raises(RepresentationNotFoundError, match="net-s0/end/nc"):
        canonical_directions(zoo, ("net-s0", "end", "nc"), B)
    with pytest.raises(IncompatibleError, match="cannot be compared"):
        canonical_directions(zoo, A, FC_B, conv="positions")
