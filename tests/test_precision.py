"""Floating types by name: the precision that activations were computed in."""

from __future__ import annotations

import numpy as np
import pytest

import dask_svcca
from dask_svcca.precision import EPSILON, coarsest, epsilon_of, precision_of, seen_in


@pytest.mark.parametrize("name", EPSILON)
def test_epsilon_of__is_the_spacing_at_one(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="comes with onnx and JAX")
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    info = ml_dtypes.finfo(dtype) if hasattr(ml_dtypes, name) else np.finfo(dtype)
    assert epsilon_of(name) == float(info.eps)


@pytest.mark.parametrize("name", ["int8", "float", "torch.bfloat16", "", None, 16])
def test_epsilon_of__refuses_what_is_not_a_floating_type(name: object) -> None:
    with pytest.raises(ValueError, match=r"a source_dtype is one of 'float64', 'float32', 'float16', .*; got"):
        epsilon_of(name)  # type: ignore[arg-type]


def test_coarsest__is_that_of_least_precision() -> None:
    assert coarsest("float64", None, "bfloat16", "float16") == "bfloat16"
    assert coarsest("float8_e5m2", "float8_e4m3fn") == "float8_e5m2"


@pytest.mark.parametrize(
    ("stored", "source", "counts_as"),
    [
        ("float16", None, "float16"),
        ("float32", None, "float32"),
        ("int32", None, "float64"),
        ("longdouble", None, "float64"),
        ("float32", "float16", "float16"),
        ("float16", "float64", "float16"),
    ],
)
def test_precision_of__is_the_coarser(stored: str, source: str | None, counts_as: str) -> None:
    assert precision_of(np.dtype(stored), source) == np.finfo(counts_as).eps


@pytest.mark.parametrize("coarse", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_seen_in__what_was_rounded_and_converted(coarse: str, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="comes with onnx and JAX")
    x = np.maximum(np.random.default_rng(0).normal(size=(100, 20)), 0)
    rounded = x.astype(getattr(ml_dtypes, coarse, coarse)).astype(dtype)
    assert seen_in(rounded) == (None if coarse == dtype else coarse)
    assert seen_in(rounded.T) == seen_in(rounded)
    # Already in one value of many it is not.
    rounded[-1, -1] = 1 / 3
    assert seen_in(rounded) in ({None, "float32"} if dtype == "float64" else {None})


COUNTS = {
    "bytes": lambda rng: rng.integers(0, 256, size=5000),
    "twelve bits": lambda rng: rng.integers(0, 4096, size=5000),
    "eleven bits, high": lambda rng: rng.integers(1024, 2048, size=5000),
    "labels": lambda rng: rng.integers(0, 2, size=5000),
    "tenths in binary": lambda rng: rng.integers(0, 1000, size=5000) / 1024,
    "few": lambda rng: rng.normal(size=20).astype("float16"),
    "zeros": lambda _: np.zeros(5000),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_seen_in__numbers_that_happen_to_be_short_are_not_rounded(kind: str) -> None:
    values = COUNTS[kind](np.random.default_rng(0))
    for dtype in ("float32", "float64"):
        assert seen_in(values.astype(dtype)) is None


def test_cca__half_precision_is_seen_behind_a_conversion() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 8))
    x, y = ((z @ rng.normal(size=(8, 64))).astype("float16").astype("float32") for _ in range(2))
    assert int(dask_svcca.cca(x, y).rank_x) == 8
    result = dask_svcca.compare({"x": x, "y": y}, variance=None)
    assert result.rank_a.values.tolist() == [8, 8]
    np.testing.assert_allclose(result.svcca, 1, atol=1e-4)
