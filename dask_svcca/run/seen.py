"""What a worker is asked first, without heavy imports: one too small for these is to be told so, and not to die."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from dask_svcca.stores import _io

if TYPE_CHECKING:
    from collections.abc import Sequence


def look(places: Sequence[str]) -> tuple[str, list[str]]:
    """Version of the package on a worker, and the stores that it does not see."""
    return version("dask-svcca"), [place for place in places if not _io.is_group(place)]
