"""Values as JSON has them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_VALUES: Final = 200_000
"""Values that one answer has, at most."""


def evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most so many of some places, from the first to the last.

    Examples
    --------
    >>> evenly(7, 3)
    array([0, 3, 6])
    """
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def as_json(value: Any) -> Any:
    """A value as JSON has it: None in place of what is not a finite number.

    Examples
    --------
    >>> as_json({"rank": np.int64(3), "values": np.array([0.5, np.nan])})
    {'rank': 3, 'values': [0.5, None]}
    """
    match value:
        case np.ndarray():
            return as_json(value.tolist())
        case np.generic():
            return as_json(value.item())
        case dict():
            return {str(key): as_json(one) for key, one in value.items()}
        case list() | tuple():
            return [as_json(one) for one in value]
        case float() if not math.isfinite(value):
            return None
    return value
