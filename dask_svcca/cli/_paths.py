"""Places of stores as they are typed."""

from __future__ import annotations

import shlex


def quoted(store: str) -> str:
    """A store's place as a shell takes it.

    Examples
    --------
    >>> quoted("my zoo.zarr")
    "'my zoo.zarr'"
    """
    return shlex.quote(store)
