"""What commands print for programs: one JSON object on standard output, and nothing else there."""

from __future__ import annotations

import json
import math
from typing import Any

import click
import numpy as np


def echo_json(value: Any) -> None:
    """Print one object; numbers that are not finite are null, which JSON has for them."""
    click.echo(json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Values as JSON takes them.

    Examples
    --------
    >>> plain({"shape": (2, np.int64(3)), "step": np.nan, "values": np.array([0.5, np.inf])})
    {'shape': [2, 3], 'step': None, 'values': [0.5, None]}
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)
