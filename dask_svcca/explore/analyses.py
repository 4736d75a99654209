"""What `dask_svcca.analysis` says of one model, as the page draws it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.explore.data import Explored

ANALYSES: Final[dict[str, Callable[[Explored, str, str], dict[str, Any]]]] = {}
