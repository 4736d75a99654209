"""Whether all that a store holds is still what was written."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import DamagedStoreError, StoreFormatError
from dask_svcca.plan.tasks import Node
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.failed import Failed
from dask_svcca.run.leases import Leases
from dask_svcca.stores import _io, _nodes
from dask_svcca.stores._documents import resized
from dask_svcca.stores._mend import copies_of, mend
from dask_svcca.stores._stored import COLUMN_CHUNK, column_names, pair_names
from dask_svcca.stores._urls import like, with_options
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import INSIDE, SubspaceStore
from dask_svcca.stores.zoo import open_zoo
from dask_svcca.tasks.verify import (
    ATTRIBUTES,
    ArrayCheck,
    BlocksCheck,
    CoordinateCheck,
    Damage,
    GroupCheck,
    PackCheck,
    RepresentationCheck,
    RootCheck,
    VariableCheck,
    perform_check,
)
from dask_svcca.variables import COARSE, PAIR_STATUS, SKETCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import distributed
    import zarr

    from dask_svcca.stores._io import StoreLike
    from dask_svcca.tasks.verify import Check

__all__ = ["Damage", "Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    kind : {"zoo", "comparison", "subspaces", "sketches"}
    place : str
        The store.
    checked : dict of str to int
        How many of each kind of part were read.
    damage : tuple of Damage
        What is damaged or missing: ``what`` it belongs to, its ``key`` below the root of the store, and the
        ``problem``.
    repaired : bool
        Whether what is damaged was marked as missing.
    """

    kind: str
    place: str
    checked: dict[str, int]
    damage: tuple[Damage, ...]
    repaired: bool = False

    @property
    def ok(self) -> bool:
        """Whether all is whole."""
        return not self.damage


def verify(
    store: StoreLike,
    *,
    repair: bool = False,
    client: distributed.Client | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Verification:
    """Read everything of a zoo, a comparison, shared subspaces, or sketches, and name what is damaged or missing.

    Parameters
    ----------
    store : path, zarr store, or URL
    repair : bool
        Mark damaged blocks of a comparison as missing, and let damaged subspaces no longer count, so that the next
        `compare` makes both anew. Sketches with damaged numbers no longer count either, nor do any where what is known
        of them is damaged: the next `sketch` makes them. Activations cannot be made anew: capture them again.
    client : distributed.Client, optional
        As for `compare`.
    progress : callable, optional
        Called with ``"checks"``, how many parts are read, and how many there are.
    storage_options : mapping, optional
        For a URL: see `create_zoo`.

    Returns
    -------
    Verification
        ``ok`` says whether all is whole; ``damage`` names what is not.

    Raises
    ------
    StoreFormatError
        Where there is no store of this package; or for ``repair`` of a zoo.
    StoreInUseError
        Where ``repair`` is asked for, something is damaged, and a run is at work on the store.

    Examples
    --------
    >>> import tempfile, dask_svcca, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> x = np.random.default_rng(0).normal(size=(200, 6))
    >>> result = dask_svcca.compare({"fc1": x, "fc2": x[:, :3]}, folder + "/c.zarr")
    >>> found = verify(folder + "/c.zarr")
    >>> found.ok, found.checked["block rows"]
    (True, 1)
    """
    store = with_options(store, storage_options)
    kind = _io.read_kind(store)
    if kind == "zoo" and repair:
        raise StoreFormatError(
            f"activations that are damaged cannot be repaired: verify the zoo {_io.describe(store)!r} without repair, "
            f"and capture what it names again, with overwrite"
        )
    checks: dict[str, list[Check]]
    if kind == "zoo":
        checks = _zoo_checks(store)
    elif kind == "comparison":
        checks = _comparison_checks(ComparisonStore.open(store), store)
    elif kind == "sketches":
        checks = _sketch_checks(_io.open_group(store, mode="r"))
    else:
        checks = {"packs": _pack_checks(SubspaceStore.open(store))}
    damage = _performed([check for some in checks.values() for check in some], store, client, progress)
    if repair and damage:
        _repair(store, kind, damage)
    return Verification(
        kind,
        _io.describe(store),
        {name: len(some) for name, some in checks.items()},
        tuple(damage),
        repaired=repair and bool(damage),
    )


def _zoo_checks(store: StoreLike) -> dict[str, list[Check]]:
    zoo = open_zoo(store)
    place, entries = zoo.root.store_path, zoo.entries()
    damaged = {name.path for name in zoo.damaged}
    paths = set(damaged)
    for path in (*damaged, *(entry.path for entry in entries)):
        model, checkpoint, _ = path.split("/")
        paths |= {model, f"{model}/{checkpoint}"}
    return {
        "representations": [
            RepresentationCheck(place, entry.place, entry.label, entry.digest, entry.shape, entry.chunk_examples)
            for entry in entries
        ],
        "coordinates": [CoordinateCheck(place, name) for name in (EXAMPLE, *zoo.coordinate_names)],
        "groups": [GroupCheck(place, path, path in damaged) for path in sorted(paths)],
    }


def _comparison_checks(comparison: ComparisonStore, store: StoreLike) -> dict[str, list[Check]]:
    place = comparison.root.store_path
    columns = set(column_names(comparison.root))
    status, *pairs = pair_names(comparison.root)
    try:
        block_rows = comparison.block_rows
    except StoreFormatError:
        # `VariableCheck` names what is damaged.
        block_rows = 0
    checks: dict[str, list[Check]] = {
        "variables": [VariableCheck(place, name, name in columns) for name in (status, *pairs, *sorted(columns))],
        "block rows": [BlocksCheck(place, row, tuple(pairs)) for row in range(block_rows)],
    }
    if comparison.subspaces:
        shared = like(store, comparison.subspaces)
        if _io.is_group(shared):
            checks["packs"] = _pack_checks(SubspaceStore.open(shared), comparison.subspaces)
    elif _nodes.has_node(comparison.root, INSIDE):
        try:
            checks["packs"] = _pack_checks(SubspaceStore.open_inside(comparison.root))
        except DamagedStoreError:
            checks["groups"] = [GroupCheck(place, INSIDE, lost=True)]
    return checks


def _sketch_checks(root: zarr.Group) -> dict[str, list[Check]]:
    """Checks of sketches, by what their root says of them: the store of sketches is above this module."""
    place, copies = root.store_path, copies_of(root)
    lengths = {name: int(copy["shape"][0]) for name, copy in copies.items()}
    columns = {
        name: tuple(str(chunk) for chunk in range(-(-length // COLUMN_CHUNK)))
        for name, length in lengths.items()
        if len(copies[name]["shape"]) == 1
    }
    checks: dict[str, list[Check]] = {
        "groups": [RootCheck(place)],
        "columns": [ArrayCheck(place, name, chunks) for name, chunks in sorted(columns.items())],
    }
    numbers = copies.get(SKETCH)
    if numbers is None or COARSE not in copies:
        return checks
    (high, wide), (coarse_high, _) = map(_chunk_shape, (numbers, copies[COARSE]))
    parts = range(-(-numbers["shape"][1] // wide))
    try:
        made = (_nodes.read_whole(root, "digest") != "") & (_nodes.read_whole(root, "problem") == "")
    except DamagedStoreError:
        # The columns that are damaged are named.
        made = np.zeros(0, dtype=np.bool_)
    rows, coarse_rows = (np.unique(np.flatnonzero(made) // some).tolist() for some in (high, coarse_high))
    checks["chunks"] = [ArrayCheck(place, SKETCH, tuple(f"{row}/{part}" for part in parts)) for row in rows]
    checks["coarser chunks"] = [ArrayCheck(place, COARSE, (f"{row}/0",)) for row in coarse_rows]
    return checks


def _chunk_shape(document: Mapping[str, Any]) -> tuple[int, int]:
    high, wide = document["chunk_grid"]["configuration"]["chunk_shape"]
    return high, wide


def _repair_sketches(root: zarr.Group, damage: Iterable[Damage]) -> None:
    """Let rows of which numbers are damaged be made anew; and all, where what is known of them is damaged."""
    backend, copies, damage = backend_of(root), copies_of(root), list(damage)
    if any(one.what == ATTRIBUTES for one in damage):
        raise StoreFormatError(
            f"what the sketches {str(root.store_path)!r} say of themselves is damaged, and they cannot be made anew "
            f"there. Make them in another place"
        )
    numbers = [one.key for one in damage if one.key.startswith((f"{SKETCH}/c/", f"{COARSE}/c/"))]
    if len(numbers) == len(damage):
        digests = _nodes.open_array(root, "digest", mode="r+")
        for key in numbers:
            name, _, chunk, _ = key.split("/")
            high, _ = _chunk_shape(copies[name])
            first = int(chunk) * high
            # A row without a digest is not there.
            digests[first : first + high] = ""
            backend.remove(key)
        return
    for name, copy in copies.items():
        backend.remove(f"{name}/c")
        backend.write(f"{name}/zarr.json", resized(copy, (0, *copy["shape"][1:])))
    _io.consolidate(root)


def _pack_checks(subspaces: SubspaceStore, place: str = "") -> list[Check]:
    names = backend_of(subspaces.root).names("")
    return [PackCheck(subspaces.root.store_path, name, place) for name in names]


def _performed(
    checks: Sequence[Check],
    store: StoreLike,
    client: distributed.Client | None,
    progress: Callable[[str, int, int], None] | None,
) -> list[Damage]:
    executor = DaskExecutor(client, uuid.uuid4().hex[:12], in_memory=_io.in_memory(store))
    found: dict[int, list[Damage]] = {}

    def take(key: str, damage: Any) -> None:
        if isinstance(damage, Failed):
            raise damage.error
        found[int(key.rpartition("-")[2])] = damage
        if progress is not None:
            progress("checks", len(found), len(checks))

    executor.run(
        {f"check-{number}": Node(check, reports=True) for number, check in enumerate(checks)}, perform_check, take
    )
    return [one for number in sorted(found) for one in found[number]]


def _repair(store: StoreLike, kind: str, damage: Iterable[Damage]) -> None:
    """Remove what is damaged, and what says that it is there; while no run is at work on it."""
    with Leases(wait=False, told=None) as leases:
        if kind == "sketches":
            root = _io.open_group(store, mode="r+")
            leases.take(root, kind)
            _repair_sketches(root, damage)
            return
        if kind == "subspaces":
            subspaces = SubspaceStore.open(store, mode="r+")
            leases.take(subspaces.root, kind)
            _forget(subspaces, damage)
            return
        comparison = ComparisonStore.open(store, mode="r+")
        leases.take(comparison.root, kind)
        comparison.finish_rechunking()
        _repair_comparison(comparison, store, damage)


def _repair_comparison(comparison: ComparisonStore, store: StoreLike, damage: Iterable[Damage]) -> None:
    mend(comparison.root)
    backend = backend_of(comparison.root)
    for one in damage:
        if one.block is not None:
            # The status first: a pair without a value must not be marked as done. A block and its mirror image are
            # made together.
            for row, column in {one.block, one.block[::-1]}:
                backend.remove(f"{PAIR_STATUS.name}/c/{row}/{column}")
            backend.remove(one.key)
        elif one.key == f"{INSIDE}/zarr.json":
            # What it says of itself is gone; all in it can be made anew.
            backend.remove(INSIDE)
    lost = [one for one in damage if one.pack]
    if lost and comparison.subspaces:
        _forget(SubspaceStore.open(like(store, comparison.subspaces), mode="r+"), lost)
    elif lost:
        _forget(SubspaceStore.open_inside(comparison.root), lost)
    comparison.consolidate()


def _forget(subspaces: SubspaceStore, damage: Iterable[Damage]) -> None:
    for name in {one.pack for one in damage}:
        subspaces.forget(name)
