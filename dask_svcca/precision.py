"""Floating types by name, and their precision: what activations were computed in decides what of them is rounding."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

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


@lru_cache(maxsize=256)
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


_COARSER = {
    "float32": ((np.uint32, 23), {"bfloat16": 7, "float16": 10}),
    "float64": ((np.uint64, 52), {"bfloat16": 7, "float16": 10, "float32": 23}),
}
"""By type: unsigned integers of its size, bits of its significand, and those of types whose values it may hold."""

LEAST_VALUES = 256
"""Values from which a type is seen in them."""

LAST_BIT_SHARE = 0.4
"""Share of rounded values, of two that differ in it, whose last bit is set: a half, but for chance."""

LEAST_OCTAVES = 3
"""Octaves that nine tenths of the values span, at least: whole numbers may fill the bits of a type by chance."""


def seen_in(values: npt.NDArray[Any]) -> str | None:
    """The coarser type that values have been rounded to, where their bits leave no doubt.

    All low bits of the significand are zero, and the last bit of the coarser type is set in about half of the values:
    so it is in what was computed in that type and converted, as `Tensor.float` does, and not in counts or labels.

    Parameters
    ----------
    values : array
        Single or double precision; of other types nothing is seen.

    Returns
    -------
    str or None
        ``bfloat16``, ``float16`` or ``float32``.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=1000)
    >>> seen_in(x.astype("float16").astype("float32")), seen_in(x), seen_in(np.round(100 * x))
    ('float16', None, None)
    """
    if values.dtype.name not in _COARSER or values.size < LEAST_VALUES:
        return None
    (integer, significand), types = _COARSER[values.dtype.name]
    bits = np.ascontiguousarray(values).reshape(-1).view(integer)
    for name, kept in types.items():
        dropped = significand - kept
        low = integer(2**dropped - 1)
        # Most arrays are told by their first values.
        if np.bitwise_or.reduce(bits[:LEAST_VALUES]) & low or np.bitwise_or.reduce(bits) & low:
            continue
        nonzero = values[values != 0]
        if len(nonzero) < LEAST_VALUES:
            return None
        last = float(np.mean(nonzero.view(integer) >> integer(dropped) & integer(1)))
        octaves = np.ptp(np.quantile(np.frexp(nonzero)[1], [0.05, 0.95]))
        return name if last >= LAST_BIT_SHARE and octaves >= LEAST_OCTAVES else None
    return None
