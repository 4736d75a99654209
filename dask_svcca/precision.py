"""Floating types by name, and their precision: what activations were computed in decides what of them is rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

EPSILON = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float8_e3m4": 2.0**-4,
    "float8_e4m3": 2.0**-3,
    "float8_e4m3fn": 2.0**-3,
    "float8_e4m3fnuz": 2.0**-3,
    "float8_e4m3b11fnuz": 2.0**-3,
    "float8_e5m2": 2.0**-2,
    "float8_e5m2fnuz": 2.0**-2,
}
"""Machine epsilon, the spacing of numbers at 1, by the name that NumPy, PyTorch and JAX give to a type."""


def epsilon_of(name: str) -> float:
    """Machine epsilon of a floating type.

    Parameters
    ----------
    name : str
        One of `EPSILON`.

    Raises
    ------
    ValueError
        Where the name is not among them.

    Examples
    --------
    >>> epsilon_of("float16"), epsilon_of("bfloat16")
    (0.0009765625, 0.0078125)
    """
    if name not in EPSILON:
        raise ValueError(f"a source_dtype is one of {', '.join(map(repr, EPSILON))}; got {name!r}")
    return EPSILON[name]


def coarsest(*names: str | None) -> str:
    """The type of least precision among some; None stands for a type that is not known.

    Examples
    --------
    >>> coarsest("float32", None, "float16", "float64")
    'float16'
    """
    return max((name for name in names if name is not None), key=epsilon_of)


def precision_of(dtype: np.dtype[Any], source: str | None) -> float:
    """Machine epsilon of values, the coarser of their own type and that in which they were computed.

    Parameters
    ----------
    dtype : numpy.dtype
        Integers and booleans become numbers in double precision, and longer types are computed with in it.
    source : str or None

    Examples
    --------
    >>> import numpy as np
    >>> precision_of(np.dtype("float32"), "bfloat16"), precision_of(np.dtype("int8"), None)
    (0.0078125, 2.220446049250313e-16)
    """
    own = EPSILON.get(dtype.name, EPSILON["float64"])
    return own if source is None else max(own, epsilon_of(source))
