"""The representations along an axis of a figure: their order, and what is written beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.analysis.selection import places_of, table_of
from dask_svcca.errors import RepresentationNotFoundError
from dask_svcca.plot._names import PARTS, as_number, in_a_sentence, room, runs, set_ticks
from dask_svcca.stores._names import natural_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes

    from dask_svcca.analysis.selection import Side, Where


@dataclass(frozen=True)
class Along:
    """Representations along one axis, in the order in which they are drawn.

    Attributes
    ----------
    side : {"a", "b"}
    places : (representation,) int
        Where they are in the comparison.
    frame : DataFrame
        ``model``, ``checkpoint``, ``layer``, ``step`` and ``depth``, one row a representation.
    """

    side: Side
    places: npt.NDArray[np.intp]
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.places)

    def take(self, chosen: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Along:
        """Some of them, in the order given."""
        chosen = np.asarray(chosen, dtype=np.intp)
        return Along(self.side, self.places[chosen], self.frame.iloc[chosen])

    def common(self) -> dict[str, str]:
        """Names that all of them share, by part."""
        found = {}
        for part in PARTS:
            names = self.frame[part].unique()
            if len(names) == 1 and str(names[0]):
                found[part] = str(names[0])
        return found

    def what(self) -> str:
        """What they are, for a sentence: ``layers of cnn-s0/step00630``."""
        common = self.common()
        named = [in_a_sentence(common[part]) for part in ("model", "checkpoint") if part in common]
        varies = [part for part in PARTS if part not in common and len(self.frame[part].unique()) > 1]
        if len(varies) == 1:
            kind = f"{varies[0]}s"
        elif varies:
            kind = "representations"
        else:
            kind = "layer"
        if kind == "checkpoints" and "layer" in common:
            named = [in_a_sentence(common[part]) for part in ("model", "layer") if part in common]
        return kind + (f" of {'/'.join(named)}" if named else "")

    def texts(self) -> list[str]:
        """What tells each of them from the others."""
        common = self.common()
        varies = [part for part in PARTS if part not in common] or ["layer"]
        return ["/".join(str(row[part]) for part in varies if row[part]) for _, row in self.frame.iterrows()]


def along(result: xr.Dataset, side: Side, where: Where | None) -> Along:
    """Representations that a choice means: by model, then in the order of training, then of depth.

    Raises
    ------
    RepresentationNotFoundError
        Where there is none.
    """
    places = places_of(result, side, where)
    if not len(places):
        raise RepresentationNotFoundError(
            f"there is no representation on side {side} of this comparison or part of one, and nothing to draw"
        )
    frame = table_of(result, side).iloc[places]
    order = np.lexsort(
        (
            frame["depth"].to_numpy(dtype=np.float64),
            _ranks(frame["checkpoint"], natural_order),
            frame["step"].to_numpy(dtype=np.float64),
            _ranks(frame["model"], None),
        )
    )
    return Along(side, places[order], frame.iloc[order])


def _ranks(names: pd.Series[Any], key: Any) -> npt.NDArray[np.intp]:
    """Number of each name in an order: that of a key, or in which they first appear."""
    present = list(dict.fromkeys(map(str, names)))
    if key is not None:
        present.sort(key=key)
    number = {name: place for place, name in enumerate(present)}
    return np.array([number[str(name)] for name in names], dtype=np.intp)


def draw_names(ax: Axes, axis: str, one: Along | None, cells: npt.NDArray[Any]) -> None:
    """Names along an axis of a matrix: of each representation, or where those have no room, of models or checkpoints.

    Parameters
    ----------
    ax : Axes
    axis : {"x", "y"}
    one : Along or None
        None for no names, where those of the pane beside hold for this one.
    cells : (cell,) int
        The first representation of each cell.
    """
    if one is None:
        set_ticks(ax, axis, [], [])
        return
    most = room(ax, axis)
    if len(one) <= most and len(cells) == len(one):
        set_ticks(ax, axis, list(range(len(one))), one.texts(), upright=True)
        return
    place = np.interp(np.arange(len(one) + 1), [*cells, len(one)], np.arange(len(cells) + 1)) - 0.5
    for parts in (("model", "checkpoint"), ("model",), ("checkpoint",), ("layer",)):
        varies = [part for part in parts if len(one.frame[part].unique()) > 1]
        if not varies:
            continue
        groups = runs(["/".join(each) for each in one.frame[varies].astype(str).to_numpy()])
        if len(groups) <= most or len(parts) == 1:
            middles = [float((place[start] + place[stop]) / 2) for _, start, stop in groups]
            set_ticks(ax, axis, middles, [name for name, *_ in groups], upright=True)
            return


def of_model(one: Along, model: str) -> Along:
    """The representations of one model."""
    return one.take(np.flatnonzero((one.frame["model"] == model).to_numpy()))


def in_training(frame: pd.DataFrame) -> str:
    """A checkpoint in a title: its step, or its name where it has none."""
    step = float(frame["step"].iloc[0])
    return f"step {as_number(step)}" if np.isfinite(step) else in_a_sentence(str(frame["checkpoint"].iloc[0]))


def evenly(items: Sequence[Any] | npt.NDArray[Any], most: int) -> list[Any]:
    """At most so many of some items, evenly spaced, the first and the last among them.

    Examples
    --------
    >>> evenly("abcdefg", 3), evenly("ab", 3)
    (['a', 'd', 'g'], ['a', 'b'])
    """
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int))
    return [items[place] for place in places]


def some_of(shown: int, count: int, what: str) -> str:
    """For a title: that not all are shown; empty where they are."""
    return f"{shown:,} of {count:,} {what}" if shown < count else ""
