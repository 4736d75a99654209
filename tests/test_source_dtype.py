"""The precision that activations were computed in is kept with them, and decides what of them is noise."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import cca
from dask_svcca.stores.zoo import Representation

N = 60
NAME = ("net", "step1", "fc")


def rounded(values: np.ndarray) -> np.ndarray:
    """In bfloat16, whose values float32 has all: the upper half of the bits, to nearest."""
    bits = values.astype("float32").view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view("float32")


def low_rank(rank: int = 3, neurons: int = 12, seed: int = 0) -> np.ndarray:
    """Activations of few directions, as a bfloat16 model would give them."""
    rng = np.random.default_rng(seed)
    return rounded(np.random.default_rng(9).normal(size=(N, rank)) @ rng.normal(size=(rank, neurons)))


def unseen(values: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """The same, but for the last bit of one of them: what they were rounded to cannot be seen."""
    values = values.astype(dtype)
    values[-1, -1] = np.nextafter(values[-1, -1], np.inf, dtype=values.dtype)
    return values


X = low_rank()
Y = unseen(X)


def make_zoo() -> dask_svcca.Zoo:
    return dask_svcca.create_zoo(MemoryStore(), examples=range(N))


def bfloat16_of(library: str, values: np.ndarray) -> Any:
    if library == "torch":
        torch = pytest.importorskip("torch", reason="needs PyTorch")
        return torch.from_numpy(values).to(torch.bfloat16).requires_grad_()
    if library == "jax":
        jnp = pytest.importorskip("jax.numpy", reason="needs JAX")
        return jnp.asarray(values).astype(jnp.bfloat16)
    array = values.astype(pytest.importorskip("ml_dtypes", reason="comes with onnx and JAX").bfloat16)
    return {"ml_dtypes": array, "dask": da.from_array(array, chunks=7), "xarray": xr.DataArray(array)}[library]


@pytest.mark.parametrize("library", ["ml_dtypes", "dask", "xarray", "torch", "jax"])
@pytest.mark.parametrize("stored", [None, "float16", "float64"])
def test_write__arrays_in_bfloat16_say_so_and_keep_their_values(library: str, stored: Any) -> None:
    zoo = make_zoo()
    array = bfloat16_of(library, X)
    zoo.write(*NAME, array, dtype=stored)
    zoo.write("net", "step2", "fc", (array[start : start + 9] for start in range(0, N, 9)), dtype=stored)
    for item in dask_svcca.open_zoo(zoo.root.store).entries():
        assert (item.dtype, item.source_dtype, item.epsilon) == (stored or "float32", "bfloat16", 2**-7)
        np.testing.assert_array_equal(zoo[item.name], X.astype(stored or "float32"))


@pytest.mark.parametrize(
    ("given", "options", "source"),
    [
        ("float32", {}, "float32"),
        ("float64", {}, "float64"),
        ("float16", {}, "float16"),
        ("float16", {"dtype": "float32"}, "float16"),
        ("float64", {"dtype": "float16"}, "float16"),
        ("float32", {"source_dtype": "bfloat16"}, "bfloat16"),
        ("float32", {"source_dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ("float32", {"source_dtype": "float64"}, "float32"),
        ("float32", {"source_dtype": "float64", "dtype": "float64"}, "float32"),
    ],
)
def test_write__the_coarsest_type_that_values_were_in(given: str, options: Any, source: str) -> None:
    zoo = make_zoo()
    x = unseen(X, given)
    zoo.write(*NAME, x, **options)
    # Too few to see anything in.
    zoo.append("net", "step2", "fc", x[:9], **options)
    zoo.append("net", "step2", "fc", x[9:])
    assert [item.source_dtype for item in zoo.entries()] == [source] * 2
    assert zoo.representations["source_dtype"].tolist() == [source] * 2
    assert zoo.root["/".join(NAME)].attrs["source_dtype"] == source


def test_write__what_values_were_rounded_to_is_seen() -> None:
    zoo = make_zoo()
    zoo.write(*NAME, X)
    single = np.random.default_rng(0).normal(size=(N, 12)).astype("float32")
    zoo.write("net", "step2", "fc", single.astype("float64"))
    assert [item.source_dtype for item in zoo.entries()] == ["bfloat16", "float32"]


def test_write__one_batch_in_half_precision_counts_for_all() -> None:
    zoo = make_zoo()
    halves = X[:9].astype("float16"), X[9:].astype("float16")
    zoo.write(*NAME, iter([halves[0], Y[9:]]), dtype="float32")
    zoo.write("net", "step2", "fc", iter([Y[:9], halves[1]]), dtype="float32")
    assert [item.source_dtype for item in zoo.entries()] == ["float16"] * 2


def test_write__columns_of_a_table_in_several_types() -> None:
    zoo = make_zoo()
    table = pd.DataFrame(Y).astype({0: "float16", 1: "float64", 2: "int64"})
    zoo.write(*NAME, table)
    (item,) = zoo.entries()
    assert (item.dtype, item.source_dtype) == ("float64", "float16")


def test_getitem__takes_the_precision_along() -> None:
    zoo, other = make_zoo(), make_zoo()
    zoo.write(*NAME, X, source_dtype="bfloat16")
    zoo.write("net", "step2", "fc", Y)
    assert zoo[NAME].attrs["source_dtype"] == "bfloat16"
    assert "source_dtype" not in zoo["net/step2/fc"].attrs
    other.write(*NAME, zoo[NAME][::-1])
    assert other.entries()[0].identity == zoo.entries()[0].identity
    # Of noise that float32 has and bfloat16 has not, nothing is left.
    assert int(cca(zoo[NAME], X).rank_x) < int(cca(zoo["net/step2/fc"], X).rank_x)


def test_representation__of_a_zoo_that_says_nothing_of_it() -> None:
    zoo = make_zoo()
    zoo.write(*NAME, Y)
    (item,) = zoo.entries()
    attributes = {key: value for key, value in item.attributes.items() if key != "source_dtype"}
    assert Representation.from_attributes(item.name, attributes) == item
    assert (item.source_dtype, item.identity) == ("float32", item.digest)


def test_compare__takes_rounding_in_the_source_for_noise() -> None:
    zoo = make_zoo()
    for step, source in enumerate((None, "bfloat16")):
        zoo.write("net", f"step{step}", "fc", Y, source_dtype=source)
    found = dask_svcca.compare(zoo, MemoryStore(), variance=None, measures="cca")
    full, kept = found.rank_a.to_numpy()
    assert kept < full
    # Representations of the same values have subspaces of their own.
    assert len(set(found.subspace_a.to_numpy())) == 2


def test_compare__is_made_anew_where_the_precision_was_not_known() -> None:
    zoo, store = make_zoo(), MemoryStore()
    for step, seed in enumerate((0, 1)):
        zoo.write("net", f"step{step}", "fc", unseen(low_rank(seed=seed)))
    options: dict[str, Any] = {"variance": None, "measures": "cca"}
    before = dask_svcca.compare(zoo, store, **options).load()
    zoo.write("net", "step1", "fc", unseen(low_rank(seed=1)), source_dtype="bfloat16", overwrite=True)
    after = dask_svcca.compare(zoo, store, **options).load()
    assert int(after.rank_a[0]) == int(before.rank_a[0])
    assert int(after.rank_a[1]) < int(before.rank_a[1])
