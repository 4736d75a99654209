"""Values as JSON has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


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
