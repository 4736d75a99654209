"""Sketches that guide a comparison: where they are, that they are of the same, and made where they are not there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zarr.storage import MemoryStore

from dask_svcca.coarse.estimated import Estimated
from dask_svcca.errors import DamagedStoreError, StoreFormatError
from dask_svcca.sketches.family import Family
from dask_svcca.sketches.identity import digests_of, identity_of
from dask_svcca.sketches.make import check_place, run_sketches
from dask_svcca.sketches.store import DIM, KIND, SketchStore
from dask_svcca.stores import _create, _io
from dask_svcca.stores._urls import like

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.connections import Client
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.run.executors import Executor
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo

SUFFIX = ".zarr"


def place_beside(store: StoreLike) -> StoreLike:
    """Where the sketches of a comparison are, unless another place is named.

    Raises
    ------
    StoreFormatError
        For a store that has no name.

    Examples
    --------
    >>> place_beside("/data/comparison.zarr"), place_beside("s3://bucket/comparison")
    ('/data/comparison.sketches.zarr', 's3://bucket/comparison.sketches')
    """
    if isinstance(store, str | os.PathLike):
        text = os.fspath(store).rstrip("/")
        stem, suffix = (text[: -len(SUFFIX)], SUFFIX) if text.endswith(SUFFIX) else (text, "")
        return like(store, f"{stem}.sketches{suffix}")
    if _io.in_memory(store):
        # For as long as they are used: what is in memory is quickly sketched again.
        return MemoryStore()
    raise StoreFormatError(
        f"the comparison {_io.describe(store)!r} has no name that its sketches could have one from. Name a place for "
        f"them with sketches="
    )


def estimated(
    zoo: Zoo,
    place: StoreLike,
    parameters: Parameters,
    *,
    make: bool = True,
    before: Callable[[], None] | None = None,
    wait: bool = False,
    client: Client | None = None,
    executor: Executor | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Estimated:
    """What sketches say of all pairs of a zoo.

    Parameters
    ----------
    zoo : Zoo
    place : path, zarr store, or URL
        Where they are, or are to be.
    parameters : Parameters
        Of the comparison: layers are read as there.
    make : bool
        Whether those that are not there are made; otherwise that is an error.
    before : callable, optional
        Called before any is made.
    wait, client, executor, progress
        See `run_sketches`.

    Raises
    ------
    ParametersChangedError
        Where the sketches are of other examples, or layers were read in another way: nothing is estimated of what is
        not comparable.
    StoreFormatError
        Where something else is there; or where sketches are lacking that are not to be made.
    """
    check_place(place, zoo.root.store_path, "zoo")
    there = _io.is_group(place) and not _create.is_unfinished(place, KIND)
    family = SketchStore.open(place).family if there else Family()
    if there:
        SketchStore.open(place).check(identity_of(zoo, parameters, family))
    if not there or not _are_all_made(SketchStore.open(place), zoo):
        if not make:
            raise StoreFormatError(
                f"the pairs hang on sketches of {len(zoo)} representations at {_io.describe(place)!r}, and not all of "
                f"them are there. They are made by compare on its way, and not by this, which computes nothing. Make "
                f"them first, with layers read in the same way: sketch(zoo, {_io.describe(place)!r}, "
                f"conv={parameters.conv!r}), or dask-svcca sketch with --conv {parameters.conv}"
            )
        if before is not None:
            before()
        run_sketches(zoo, place, parameters, family, wait=wait, client=client, executor=executor, progress=progress)
    return Estimated(SketchStore.open(place), [item.label for item in zoo.entries()])


def _are_all_made(store: SketchStore, zoo: Zoo) -> bool:
    """Whether there is a sketch of every representation as it is now, or the reason why it has none."""
    try:
        columns = store.columns()
        whole = store.whole_rows(len(columns[DIM]))
    except DamagedStoreError:
        return False
    known = {
        str(label): str(digest)
        for label, digest, problem, there in zip(
            columns[DIM], columns["digest"], columns["problem"], whole, strict=True
        )
        if there or problem
    }
    entries = zoo.entries()
    return all(known.get(item.label) == digest for item, digest in zip(entries, digests_of(zoo, entries), strict=True))
