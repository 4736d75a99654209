"""Disks that are full, cannot be written to, or fail: before a run, where that can be told, and in its middle."""

from __future__ import annotations

import functools
import os
import shutil
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from dask_svcca.errors import DiskSpaceError, StoreAccessError
from dask_svcca.stores import _io
from dask_svcca.stores._access import ABSENT, accessing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dask_svcca.plan.plan import Plan
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo

P = ParamSpec("P")
R = TypeVar("R")


def naming_the_store(
    function: Callable[Concatenate[Zoo, StoreLike, P], R],
) -> Callable[Concatenate[Zoo, StoreLike, P], R]:
    """The same function of a zoo and a store, whose errors of the system are `StoreAccessError`, and name the store."""

    @functools.wraps(function)
    def named(zoo: Zoo, store: StoreLike, /, *arguments: P.args, **options: P.kwargs) -> R:
        place = _io.describe(store)
        try:
            with accessing(place):
                return function(zoo, store, *arguments, **options)
        except StoreAccessError:
            raise
        except ABSENT as error:
            raise StoreAccessError(
                f"something has gone from {place!r} while it was used, or was never whole: {error}. "
                f"'dask-svcca verify' names what is missing"
            ) from error

    return named


def check_space(plan: Plan, store: StoreLike, subspaces: StoreLike | None) -> None:
    """Refuse a plan that writes more than the disk has room for.

    Nothing is checked of a store that is not on a local disk. Layers under the DFT as a rule keep few of the directions
    that they may have: of these only as many are counted as a layer of one position has.

    Parameters
    ----------
    plan : Plan
    store : path, zarr store, or URL
    subspaces : path, zarr store, URL, or None
        Where the subspaces are; None if inside the comparison.

    Raises
    ------
    DiskSpaceError
        The message has both numbers.
    """
    needed: dict[int, int] = {}
    places: dict[int, Path] = {}
    for place, count in ((store, plan.results_to_write), (store if subspaces is None else subspaces, _surely(plan))):
        folder = _io.folder_of(place)
        if folder is not None:
            above = next(one for one in (folder, *folder.parents) if one.exists())
            disk = os.stat(above).st_dev  # noqa: PTH116 - of the disk
            needed[disk] = needed.get(disk, 0) + count
            places[disk] = above
    for disk, count in needed.items():
        free = shutil.disk_usage(places[disk]).free
        if count > free:
            raise DiskSpaceError(
                f"the comparison would write {count / 1e6:,.1f} MB to the disk of {str(places[disk])!r}, which has "
                f"{free / 1e6:,.1f} MB free. Free some, compare into another place, or keep the subspaces on another "
                f"disk with subspaces= (--subspaces)"
            )


def _surely(plan: Plan) -> int:
    members = [member for pack in plan.packs for member in pack.members]
    return sum(member.memory.result // len(member.reading.multiplicity) for member in members)
