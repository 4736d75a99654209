"""The order of tiles where something is known before: the most telling first, in waves that grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.stores.estimates import estimates_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.tasks import PackTask, TileTask
    from dask_svcca.stores.estimates import Likeness
    from dask_svcca.stores.zoo import Zoo

FIRST_WAVE: Final = 2
"""Tiles of the first wave for each worker; each wave has twice as many as the one before it."""

Wave = tuple[tuple["PackTask", ...], tuple["TileTask", ...]]


def places_of(plan: Plan, zoo: Zoo) -> npt.NDArray[np.int64]:
    """Where in the zoo each row of a plan is; -1 if it has left."""
    at = {item.label: place for place, item in enumerate(zoo.entries())}
    return np.array([at[row.label] if row.representation is not None else -1 for row in plan.rows], dtype=np.int64)


def waves_of(plan: Plan, likeness: Likeness, places: npt.NDArray[np.int64], workers: int) -> list[Wave]:
    """Tiles of a plan in waves, each with the packs that it is the first to need: those of higher estimates first.

    It is an order of work alone: what a tile computes does not hang on when it does.

    Parameters
    ----------
    plan : Plan
    likeness : Likeness
    places : (row,) int
        See `places_of`.
    workers : int
    """
    scores = _scores(plan.tiles, likeness, places)
    # Where estimates are the same, or there are none, it stays as it is.
    tiles = [plan.tiles[number] for number in np.argsort(-scores, kind="stable")]
    packs = {pack.name: pack for pack in plan.packs}
    waves: list[Wave] = []
    size = FIRST_WAVE * workers
    while tiles:
        wave, tiles = tiles[:size], tiles[size:]
        needed = dict.fromkeys(name for tile in wave for name in packs_of(tile, plan) if name in packs)
        waves.append((tuple(packs.pop(name) for name in needed), tuple(wave)))
        size *= 2
    return waves


def packs_of(tile: TileTask, plan: Plan) -> list[str]:
    """Names of the packs that have the subspaces of a tile."""
    groups = [plan.groups[number] for number in dict.fromkeys((tile.row, tile.column))]
    return list(dict.fromkeys(place.pack for group in groups for member in group.places for place in member))


def _scores(tiles: Sequence[TileTask], likeness: Likeness, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean of the estimates of what each tile computes; a representation with itself says nothing."""
    scores = np.zeros(len(tiles))
    by_row: dict[tuple[int, int], list[int]] = {}
    for number, tile in enumerate(tiles):
        by_row.setdefault((tile.row, tile.side), []).append(number)
    for (row, side), numbers in by_row.items():
        members = places[row * side : (row + 1) * side]
        others = [places[tiles[one].column * side : (tiles[one].column + 1) * side] for one in numbers]
        # One product for all tiles of a row.
        found, _ = estimates_of(likeness, members, np.concatenate(others))
        ends = np.cumsum([len(one) for one in others])
        for number, part in zip(numbers, np.split(found, ends[:-1], axis=1), strict=True):
            asked = tiles[number].pairs(*part.shape)
            if tiles[number].column == row:
                asked = np.triu(asked, 1)
            known = part[asked & np.isfinite(part)]
            scores[number] = known.sum(dtype=np.float64) / max(1, np.count_nonzero(asked))
    return scores
