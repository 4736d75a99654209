"""A part of a zoo as a tree of groups, as xarray shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import RepresentationNotFoundError
from dask_svcca.patterns import matching

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from dask_svcca.stores._names import RepresentationName
    from dask_svcca.stores.zoo.view import ZooView

SHOWN = 8


def tree_of(zoo: ZooView, **wanted: str | Sequence[str] | None) -> xr.DataTree:
    """The representations whose ``model`` and ``checkpoint`` are wanted; see `Zoo.to_datatree`."""
    import xarray as xr  # noqa: PLC0415 - a worker imports this package, and needs no xarray

    names = list(zoo)
    for part, patterns in wanted.items():
        if patterns is not None:
            names = _matching(names, part, patterns)
    groups = {"/": xr.Dataset(coords={EXAMPLE: zoo.examples})}
    for name in names:
        array = zoo[name]
        groups[name.path] = xr.Dataset({"activations": array}, attrs=array.attrs)
    return xr.DataTree.from_dict(groups)


def _matching(names: list[RepresentationName], part: str, patterns: str | Sequence[str]) -> list[RepresentationName]:
    """Names of which a part matches."""
    present = list(dict.fromkeys(str(getattr(name, part)) for name in names))
    found = set(matching(present, patterns))
    if not found:
        shown = ", ".join(map(repr, present[:SHOWN])) or "none"
        more = f" and {len(present) - SHOWN} more" if len(present) > SHOWN else ""
        raise RepresentationNotFoundError(f"no {part} matches {patterns!r} in this zoo; it has {shown}{more}")
    return [name for name in names if getattr(name, part) in found]
