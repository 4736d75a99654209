"""The order of tiles where something is known before: the most telling first, in waves that grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

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
    scores = [_score(tile, likeness, places) for tile in plan.tiles]
    # Where estimates are the same, or there are none, it stays as it is.
    tiles = [plan.tiles[number] for number in np.argsort(-np.array(scores), kind="stable")]
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


def _score(tile: TileTask, likeness: Likeness, places: npt.NDArray[np.int64]) -> float:
    """Mean of the estimates of what a tile computes; a representation with itself says nothing."""
    sides: Sequence[npt.NDArray[np.int64]] = [
        places[number * tile.side : (number + 1) * tile.side] for number in (tile.row, tile.column)
    ]
    asked = tile.pairs(len(sides[0]), len(sides[1]))
    if tile.row == tile.column:
        asked = np.triu(asked, 1)
    here, there = (side >= 0 for side in sides)
    found, _ = likeness.block(sides[0][here], sides[1][there])
    values = found[asked[np.ix_(here, there)]]
    known = values[np.isfinite(values)]
    return float(known.sum() / max(1, len(values)))
