"""How functions are compiled: apart from any of them, since a module that is loaded is compiled whole, for seconds."""

from __future__ import annotations

from typing import Any

import numba


def compiled(function: Any, signature: Any = None) -> Any:
    """A function compiled by Numba, and kept for the next process; at once, where a signature is given."""
    options = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except (RuntimeError, OSError):
        # There is no folder that it could be cached in, or no room.
        return numba.njit(signature, **options)(function)
