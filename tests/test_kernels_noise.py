"""Rounding noise neuron by neuron: what is one direction, and what is only the rounding of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.kernels.factors import factor
from dask_svcca.kernels.moments import moments
from dask_svcca.kernels.noise import neuron_noise
from dask_svcca.kernels.subspace import Eigenbasis, eigenbasis, eigenbasis_of_rows

if TYPE_CHECKING:
    import xarray as xr

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]

EPSILON = {name: float(np.finfo(name).eps) for name in ("float16", "float32", "float64")}


def compared(*layers: np.ndarray, measures: Any = ("svcca", "linear_regression"), **options: Any) -> xr.Dataset:
    """A comparison of layers in memory, of all their directions."""
    place = MemoryStore()
    with dask_svcca.create_zoo(MemoryStore(), examples=range(len(layers[0]))) as zoo:
        for number, layer in enumerate(layers):
            dims = None if layer.ndim < 4 else ("example", "height", "width", "channel")
            zoo.write("net", str(number), "layer", layer, dims=dims)
    with dask.config.set(scheduler="synchronous"):
        return dask_svcca.compare(zoo, place, measures=measures, variance=None, **options)


def basis_of(x: np.ndarray, epsilon: float) -> Eigenbasis:
    """Principal directions of (sample, neuron), as a comparison finds them."""
    found = eigenbasis(moments(x[:, np.newaxis]), multiplicity=np.ones(1, int), epsilon=epsilon)
    if found is None:
        found = eigenbasis_of_rows(factor([x]), multiplicity=np.ones(1, int), epsilon=epsilon)
    return found


@pytest.mark.parametrize("samples", [50, 2000], ids=["more neurons", "more samples"])
@pytest.mark.parametrize(
    ("dtype", "scale"), [("float16", 1e3), ("float32", 1e3), ("float32", 1e8), ("float64", 1e8), ("float64", 1e12)]
)
def test_compare__a_neuron_a_thousand_times_larger_hides_no_other(dtype: str, scale: float, samples: int) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(samples, 4))
    mixed = z @ rng.normal(size=(4, 100 if samples < 100 else 6))
    wide = np.hstack([scale * rng.normal(size=(samples, 1)), 0.3 * mixed]).astype(dtype)
    result = compared(wide, z.astype(dtype))
    assert result.rank_a.values.tolist() == [5, 4]
    # All of z is in the other layer, up to its rounding.
    np.testing.assert_allclose(result.svcca.values[0, 1], 1.0, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.linear_regression.values[1, 0], 1.0, rtol=0, atol=1e-5)
    found = dask_svcca.cca(wide, z.astype(dtype))
    assert (int(found.rank_x), int(found.rank_y)) == (5, 4)
    np.testing.assert_allclose(float(found.mean_correlation), 1.0, rtol=0, atol=1e-6)


def test_compare__the_rounding_of_large_neurons_is_no_direction_beside_a_small_one() -> None:
    # Rounding a neuron near 1000 to float16 is off by as much as the small neurons vary.
    rng = np.random.default_rng(1)
    z, large = rng.normal(size=(1000, 3)), rng.normal(size=(1000, 1))
    layer = np.hstack([1000 * large, 700 * large, 0.3 * z]).astype("float16")
    result = compared(layer, z.astype("float16"))
    assert result.rank_a.values.tolist() == [4, 3]
    # As far as the rounding happens to be correlated with the small neurons, over a thousand examples.
    np.testing.assert_allclose(result.svcca.values[0, 1], 1.0, rtol=0, atol=1e-3)


@pytest.mark.parametrize("share", [1e-5, 1e-8, 1e-10])
@pytest.mark.parametrize("neurons", [6, 90], ids=["more samples", "more neurons"])
def test_compare__float64_keeps_directions_of_its_own_precision(share: float, neurons: int) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(80, 6))
    turned = (x * [1, 1, 1, share, share, share]) @ rng.normal(size=(6, neurons))
    result = compared(turned, x)
    assert result.rank_a.values.tolist() == [6, 6]
    np.testing.assert_allclose(result.svcca.values[0, 1], 1.0, rtol=0, atol=max(1e-7, 1e-15 / share))
    # In single precision nothing is left of them.
    single = compared(turned.astype("float32"), x)
    assert single.rank_a.values.tolist() == [3 if share < 1e-7 else 6, 6]


@pytest.mark.parametrize(("dtype", "left"), [("float64", 0.01), ("float32", 0.1)])
@pytest.mark.parametrize("seed", [6, 11, 12, 13, 14])
def test_compare__a_neuron_in_which_sums_cancel_adds_no_direction(dtype: str, left: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 1)) @ rng.normal(size=(1, 8)) + rng.normal(size=8)
    weights = rng.normal(size=(8, 8))
    direction = np.linalg.svd(x - x.mean(axis=0))[2][0]
    # Little is left of the only direction in the first neuron, and all of the rounding of the terms.
    weights[:, 0] -= direction * (direction @ weights[:, 0]) * (1 - left)
    turned = x.astype(dtype) @ weights.astype(dtype)
    assert compared(turned, x.astype(dtype)).rank_a.values.tolist() == [1, 1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_compare__a_channel_of_a_large_mean_hides_no_other_under_dft(dtype: str) -> None:
    maps = np.random.default_rng(3).normal(size=(200, 4, 4, 3))
    far = maps + np.array([100.0 if dtype == "float16" else 1000.0, 0, 0])
    result = compared(maps.astype(dtype), far.astype(dtype))
    assert result.rank_a.values.tolist() == [48, 48]
    # The two channels of no mean are equal; the third is up to its rounding.
    np.testing.assert_allclose(result.svcca.values[0, 1], 1.0, rtol=0, atol=1e-3 if dtype == "float16" else 1e-6)
    assert (result.pair_status == dask_svcca.PairStatus.DONE).all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(512,), (16, 16)], ids=["sequence", "maps"])
def test_compare__means_are_finer_than_the_values(dtype: str, shape: tuple[int, ...]) -> None:
    # Of four neurons three have a mean that is large beside what tells examples apart.
    rng = np.random.default_rng(5)
    z = rng.normal(size=(300, 4))
    offset = np.array([0.0, 1, 1, 1]) * (8 if dtype == "float16" else 3e4)
    spread = 0.5 * rng.normal(size=(300, *shape, 4))
    layer = (0.05 * z.reshape(300, *(1,) * len(shape), 4) + offset + spread).astype(dtype)
    means = layer.astype(np.float64).reshape(300, -1, 4).mean(axis=1)
    result = compared(layer, z, measures="svcca, cka", conv="mean")
    assert result.rank_a.values.tolist() == [4, 4]
    centred, other = means - means.mean(axis=0), z - z.mean(axis=0)
    expected = np.linalg.norm(centred.T @ other) ** 2
    expected /= np.linalg.norm(centred.T @ centred) * np.linalg.norm(other.T @ other)
    np.testing.assert_allclose(result.cka.values[0, 1], expected, rtol=0, atol=1e-6)


@given(
    spread=st.integers(0, 12),
    rank=st.integers(1, 8),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**16),
)
def test_eigenbasis__units_of_the_neurons_do_not_matter(spread: int, rank: int, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, rank)) @ rng.normal(size=(rank, 8))
    # Powers of two: rounding is the same before and after.
    units = 2.0 ** rng.integers(-spread, spread + 1, size=8)
    plain, scaled = (basis_of(part, EPSILON[dtype]) for part in (x, x * units))
    assert len(plain.spectrum) == len(scaled.spectrum) == rank
    # The same span in the samples.
    centred = x - x.mean(axis=0)
    spans = [np.linalg.qr(part @ one.loadings)[0] for part, one in ((centred, plain), (centred * units, scaled))]
    np.testing.assert_allclose(spans[0] @ spans[0].T, spans[1] @ spans[1].T, rtol=0, atol=1e-6)


@given(values=arrays(np.float64, (40, 5), elements=st.floats(-1, 1)), dtype=st.sampled_from(["float16", "float32"]))
def test_neuron_noise__is_above_what_rounding_does(values: np.ndarray, dtype: str) -> None:
    # Values below the least normal number are rounded more coarsely, as if they were that large.
    values = np.where(np.abs(values) < np.finfo(dtype).tiny, 0.0, values)
    error = values.astype(dtype).astype(np.float64) - values
    scatter = (error - error.mean(axis=0)).T @ (error - error.mean(axis=0))
    variances = np.square(values - values.mean(axis=0)).sum(axis=0)
    noise = neuron_noise(variances, np.square(values).sum(axis=0), len(values), EPSILON[dtype])
    assert (np.diag(scatter) <= noise * (1 + 1e-9)).all()


def test_eigenbasis_of_rows__is_that_of_the_scatter() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50, 3, 6)) + 1j * rng.normal(size=(50, 3, 6))
    x[:, 0] = x[:, 0].real
    x[:, :, 5] = x[:, :, 0] + x[:, :, 1]
    options: dict[str, Any] = {"multiplicity": np.array([1, 2, 2]), "epsilon": 1.2e-7}
    expected = eigenbasis(moments(x), **options)
    found = eigenbasis_of_rows(factor([x[:, 0].real, x[:, 1], x[:, 2]]), **options)
    assert expected is not None
    np.testing.assert_array_equal(found.block, expected.block)
    assert np.bincount(found.block).tolist() == [5, 5, 5]
    np.testing.assert_allclose(found.spectrum, expected.spectrum, rtol=1e-10)
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-10)
    for block in range(3):
        one, other = found.loadings[:, found.block == block], expected.loadings[:, expected.block == block]
        np.testing.assert_allclose(one @ one.conj().T, other @ other.conj().T, rtol=0, atol=1e-10)
