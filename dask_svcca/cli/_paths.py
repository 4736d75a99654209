"""Places of stores as people give them."""

from __future__ import annotations

import shlex
from pathlib import Path


def absolute(store: str) -> str:
    """A store's place for a worker, which may have another working directory; URLs stay as they are.

    Examples
    --------
    >>> absolute("s3://bucket/zoo.zarr"), absolute("/data/zoo.zarr")
    ('s3://bucket/zoo.zarr', '/data/zoo.zarr')
    """
    return store if "://" in store else str(Path(store).absolute())


def quoted(store: str) -> str:
    """A store's place as a shell takes it.

    Examples
    --------
    >>> quoted("my zoo.zarr")
    "'my zoo.zarr'"
    """
    return shlex.quote(store)
