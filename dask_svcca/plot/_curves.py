"""Lines of layers: coloured by depth, with the spread of several trainings and what chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.plot._names import PLAIN, legend, room_in_legend, set_labels, small_enough
from dask_svcca.plot._scale import COLOURS, GREY, bounds_of, shades
from dask_svcca.plot._sides import evenly

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes

NAMED: Final = 16
"""Largest number of lines that a legend names; the colours of more are explained by a bar."""


def draw_lines(
    pane: Axes,
    x: npt.NDArray[Any],
    values: npt.NDArray[Any],
    names: Sequence[str],
    *,
    spread: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
) -> list[Any]:
    """A line for each layer, in order of depth, with gaps where there is no value.

    Parameters
    ----------
    pane : Axes
    x : (x,)
    values : (layer, x)
    names : (layer,) of str
    spread : pair of (layer, x), optional
        Lowest and highest values of each.

    Returns
    -------
    list of Line2D
    """
    lines = []
    for number, (row, colour) in enumerate(zip(values, shades(pane, len(values)), strict=True)):
        if spread is not None:
            pane.fill_between(x, spread[0][number], spread[1][number], color=colour, alpha=0.15, linewidth=0)
        # A value between two gaps has no line, and is seen by its dot.
        (line,) = pane.plot(x, row, color=colour, marker="o", markersize=2.5, linewidth=1.2)
        lines.append(line)
    # The deepest, which is often the highest in the figure, first.
    named = min(NAMED, room_in_legend(pane))
    if 1 < len(lines) <= named:
        beside(pane, lines[::-1], [small_enough(pane, name) for name in names[::-1]])
    elif len(lines) > named:
        explain_shades(pane, names)
    return lines


def beside(
    pane: Axes, handles: Sequence[Any], texts: Sequence[str], title: str = "", handlelength: float = 1.2
) -> None:
    """A legend to the right of a pane."""
    legend(
        pane,
        handles,
        texts,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize="x-small",
        handlelength=handlelength,
        labelspacing=0.3,
        title=title or None,
        title_fontsize="x-small",
    )


def explain_shades(pane: Axes, names: Sequence[str]) -> None:
    """A bar from the first layer to the last."""
    from matplotlib.cm import ScalarMappable  # noqa: PLC0415 - only who draws needs it
    from matplotlib.colors import ListedColormap, Normalize  # noqa: PLC0415

    colours = ListedColormap(shades(pane, 64), name=f"{COLOURS} of layers")
    bar = pane.get_figure(root=False).colorbar(  # type: ignore[union-attr]
        ScalarMappable(Normalize(0, len(names) - 1), colours), ax=pane, pad=0.02, aspect=30
    )
    chosen = evenly(range(len(names)), 8)
    texts = [small_enough(pane, names[place]) for place in chosen]
    bar.set_ticks(chosen, labels=texts, fontsize="x-small", **PLAIN)


def draw_chance(pane: Axes, x: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
    """What independent layers of these ranks would have, (layer, x), the mean of all layers, with its name."""
    mean = means(values)
    if np.isfinite(mean).any():
        # Above the layers: where these are as alike as by chance, they lie on it.
        pane.plot(x, mean, color=GREY, linestyle="--", linewidth=1.2, zorder=2.5)
        first = np.flatnonzero(np.isfinite(mean))[0]
        pane.annotate(
            "by chance",
            (x[first], mean[first]),
            xytext=(3, 3),
            textcoords="offset points",
            color=GREY,
            fontsize="x-small",
        )


def set_values(pane: Axes, attributes: Mapping[str, Any], values: Sequence[npt.NDArray[Any]], label: str) -> None:
    """Make y the axis of a measure, over its valid range, with room for what lies on its bounds."""
    low, high = bounds_of(attributes, values)
    margin = 0.03 * (high - low)
    pane.set_ylim(low - margin, high + margin)
    set_labels(pane, pane.get_xlabel(), label)


def means(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mean along the first axis, of what has a value; NaN where nothing has."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.asarray(np.where(known, values, 0.0).sum(axis=0))
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def means_of(values: npt.NDArray[Any], what: str) -> str:
    """For a title: that means along the first axis, (what, layer, x), are of more at some x than at others; or empty.

    Where a training lacks a checkpoint, a line of means may jump though no training does.

    Examples
    --------
    >>> means_of(np.array([[[0.9, 0.9, 0.9]], [[0.1, np.nan, 0.1]]]), "models")
    'means of 1 to 2 models, by step'
    """
    counts = np.isfinite(values).sum(axis=0)
    counts = counts[counts > 0]
    if not counts.size or counts.min() == counts.max():
        return ""
    return f"means of {counts.min():,} to {counts.max():,} {what}, by step"


def extremes(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Lowest and highest along the first axis, of what has a value; NaN where nothing has."""
    known = np.isfinite(values)
    any_known = known.any(axis=0)
    low = np.where(known, values, np.inf).min(axis=0)
    high = np.where(known, values, -np.inf).max(axis=0)
    return np.where(any_known, low, np.nan), np.where(any_known, high, np.nan)
