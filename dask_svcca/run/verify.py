"""Whether all that a store holds is still what was written."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask_svcca.errors import StoreFormatError
from dask_svcca.plan.tasks import Node
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.stores import _io
from dask_svcca.stores._stored import stored_names
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import INSIDE, SubspaceStore
from dask_svcca.stores.zoo import open_zoo
from dask_svcca.stores.zoo.index import find_lost, name_of
from dask_svcca.tasks.verify import (
    BlocksCheck,
    ColumnCheck,
    Damage,
    LostCheck,
    PackCheck,
    RepresentationCheck,
    VariableCheck,
    perform_check,
)
from dask_svcca.variables import PAIR_STATUS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import distributed

    from dask_svcca.stores._io import StoreLike
    from dask_svcca.tasks.verify import Check

__all__ = ["Damage", "Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    kind : {"zoo", "comparison", "subspaces"}
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
    """Read everything of a zoo, a comparison, or shared subspaces, and name what is damaged or missing.

    Parameters
    ----------
    store : path, zarr store, or URL
    repair : bool
        Mark damaged blocks of a comparison as missing, and let damaged subspaces no longer count, so that the next
        `compare` makes both anew. Activations cannot be made anew: capture them again.
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
        checks = _comparison_checks(ComparisonStore.open(store))
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
    coordinates: list[str] = zoo.root.attrs["example_coordinates"]  # type: ignore[assignment]
    return {
        "representations": [
            *(RepresentationCheck(place, entry.path, entry.label, entry.digest) for entry in entries),
            *(LostCheck(path, name_of(path).label) for path in find_lost(zoo.root, entries)),
        ],
        "coordinates": [ColumnCheck(place, name) for name in coordinates],
    }


def _comparison_checks(comparison: ComparisonStore) -> dict[str, list[Check]]:
    place, tile = comparison.root.store_path, comparison.tile
    pairs, columns = stored_names(comparison.root)
    try:
        rows = comparison.rows
    except StoreFormatError:
        # `VariableCheck` names it.
        rows = 0
    checks: dict[str, list[Check]] = {
        "block rows": [BlocksCheck(place, row, tuple(pairs[1:])) for row in range(-(-rows // tile))],
        "columns": [ColumnCheck(place, name) for name in columns],
        "variables": [VariableCheck(place, name) for name in (*pairs, *columns)],
    }
    if not comparison.subspaces and _io.has_node(comparison.root, INSIDE):
        checks["packs"] = _pack_checks(SubspaceStore.open_inside(comparison.root))
    return checks


def _pack_checks(subspaces: SubspaceStore) -> list[Check]:
    return [PackCheck(subspaces.root.store_path, name) for name in sorted(subspaces.read_index().packs)]


def _performed(
    checks: Sequence[Check],
    store: StoreLike,
    client: distributed.Client | None,
    progress: Callable[[str, int, int], None] | None,
) -> list[Damage]:
    executor = DaskExecutor(client, uuid.uuid4().hex[:12], in_memory=_io.in_memory(store))
    found: dict[int, list[Damage]] = {}

    def take(key: str, damage: Any) -> None:
        found[int(key.rpartition("-")[2])] = damage
        if progress is not None:
            progress("checks", len(found), len(checks))

    executor.run(
        {f"check-{number}": Node(check, reports=True) for number, check in enumerate(checks)}, perform_check, take
    )
    return [one for number in sorted(found) for one in found[number]]


def _repair(store: StoreLike, kind: str, damage: Sequence[Damage]) -> None:
    """Remove what is damaged, and what says that it is there."""
    lasting = [one for one in damage if one.key.endswith("zarr.json")]
    if lasting:
        raise StoreFormatError(
            f"{lasting[0].what} of {_io.describe(store)!r} cannot be repaired, since its metadata is damaged "
            f"({lasting[0].problem}); nothing was changed. Restore {lasting[0].key!r} from a copy, or compare into "
            f"another store"
        )
    if kind == "subspaces":
        subspaces = SubspaceStore.open(store, mode="r+")
        for name in {one.key for one in damage}:
            subspaces.forget(name)
        return
    comparison = ComparisonStore.open(store, mode="r+")
    backend = backend_of(comparison.root)
    for one in damage:
        if one.what.startswith("subspace"):
            SubspaceStore.open_inside(comparison.root).forget(one.key)
        elif one.block is not None:
            # The status first: a pair without a value must not be marked as done. A block and its mirror image are
            # made together.
            for row, column in {one.block, one.block[::-1]}:
                backend.remove(f"{PAIR_STATUS.name}/c/{row}/{column}")
            backend.remove(one.key)
        else:
            _repair_column(comparison, one)


def _repair_column(comparison: ComparisonStore, damage: Damage) -> None:
    """Columns of the two axes are equal: one is taken for the other."""
    name, _, chunk = damage.key.partition("/")
    twin = f"{name[:-2]}_{'b' if name.endswith('_a') else 'a'}"
    backend = backend_of(comparison.root)
    (whole,) = backend.read_many([f"{twin}/{chunk}"])
    if whole is None:
        backend.remove(damage.key)
    else:
        backend.write(damage.key, whole)
