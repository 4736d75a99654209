"""Preloaded by the workers of `test_kills.py`: each tile says when it begins to compute pairs, and when it has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dask_svcca.tasks import tile


def dask_setup(worker: Any) -> None:
    """Have all tiles that this worker computes said in a file that all workers share."""
    place = os.environ["TILES_REPORTED"]
    whole = tile._Tile.compute

    def say(what: str, one: Any, pairs: int) -> None:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(f"{what} {one._task.row} {one._task.column} {pairs}\n")

    def compute(self: Any, wanted: Any, status: Any, without: Any) -> Any:
        say("began", self, int(wanted.sum()))
        found = whole(self, wanted, status, without)
        say("ended", self, int(wanted.sum()))
        return found

    tile._Tile.compute = compute  # type: ignore[method-assign]
