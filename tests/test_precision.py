"""Floating types by name: the precision that activations were computed in."""

from __future__ import annotations

import numpy as np
import pytest

from dask_svcca.precision import EPSILON, coarsest, epsilon_of, precision_of


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
