"""Memory that is given to compiled code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

CACHE_LINE = 64
"""Bytes of a line of the cache."""


def at_a_line(numbers: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Room for so many numbers that begins with a line of the cache.

    A vector of a register that lies across two lines takes up to twice the time.

    Examples
    --------
    >>> at_a_line(3, "float32").shape, at_a_line(3, "float32").ctypes.data % CACHE_LINE
    ((3,), 0)
    """
    size = numbers * np.dtype(dtype).itemsize
    whole = np.empty(size + CACHE_LINE, dtype=np.uint8)
    start = -whole.ctypes.data % CACHE_LINE
    return whole[start : start + size].view(dtype)
