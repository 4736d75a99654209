"""What a layer has by itself, and what one pair has: ranks, and single canonical correlations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.analysis.measured import as_dataset
from dask_svcca.analysis.selection import architectures, values_of
from dask_svcca.errors import IncompatibleError
from dask_svcca.plot._blocks import read_pairs
from dask_svcca.plot._curves import beside
from dask_svcca.plot._names import as_number, set_labels, set_ticks, set_title, small_enough
from dask_svcca.plot._panes import one_pane, some_panes
from dask_svcca.plot._scale import kinds
from dask_svcca.plot._sides import along, evenly, some_of
from dask_svcca.variables import DETAIL_VARIABLES

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes

    from dask_svcca.analysis.selection import Where
    from dask_svcca.plot._panes import Place
    from dask_svcca.stores._io import StoreLike

GROUPS: Final = 4
"""Largest number of architectures that have panes of their own."""

NETWORKS: Final = 12
"""Largest number of checkpoints in a pane."""

PAIRS: Final = 12
"""Largest number of pairs whose correlations are drawn."""


def rank(result: xr.Dataset | StoreLike, *, where: Where | None = None, ax: Place | None = None) -> npt.NDArray[Any]:
    """Draw how many directions each layer has, of how many neurons, and the share of the variance in them.

    A layer of three directions looks like everything: few directions are easily explained by many.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    where : mapping, optional
        Representations: ``model``, ``checkpoint``, ``layer``, ``step``, ``depth`` and ``final``, see `query`; of more
        than four architectures, or twelve checkpoints of one, as many are shown, evenly spaced, and the title says so.
        Default: the final checkpoint of each model.
    ax : sequence of Axes, or Figure, optional
        Where to draw: as many Axes as there are panes, row by row, or a figure to make them in. Default: a new figure,
        of which pyplot knows nothing.

    Returns
    -------
    (2, architecture) of Axes
        Directions on a logarithmic scale, and below them the variance.

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    RepresentationNotFoundError, InvalidQuestionError
        The message says what there is.

    Examples
    --------
    >>> import dask_svcca
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> result = dask_svcca.compare({"conv": x, "fc": x[:, :2]})
    >>> axes = rank(result)
    >>> axes[0, 0].lines[1].get_ydata().tolist(), [text.get_text() for text in axes[1, 0].get_xticklabels()]
    ([4.0, 2.0], ['conv', 'fc'])
    """
    result = as_dataset(result)
    whole = along(result, "a", {"final": True} if where is None else where)
    columns = {
        name: values_of(result[f"{name}_a"])[whole.places].astype(float)
        for name in ("rank", "neurons", "variance_kept")
    }
    frame = whole.frame.assign(**columns)
    groups = architectures(frame)
    chosen = evenly(groups, GROUPS)
    axes = some_panes(ax, 2, len(chosen), width=1.2 + 4.2 * len(chosen), height=5.2)
    for number, (models, panes) in enumerate(zip(chosen, axes.T, strict=True)):
        note = some_of(len(chosen), len(groups), "architectures") if number == 0 else ""
        _draw_ranks(panes, frame[frame["model"].isin(models)], first=number == 0, note=note)
    return axes


def _draw_ranks(panes: npt.NDArray[Any], frame: pd.DataFrame, *, first: bool, note: str) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - only who draws needs it

    upper, lower = panes
    networks = list(frame.groupby(["model", "checkpoint"], sort=False))
    some = evenly(networks, NETWORKS)
    one_each = len(networks) == len(frame["model"].unique())
    handles, names = [], []
    for style, ((model, checkpoint), each) in zip(kinds(len(some)), some, strict=True):
        rows = each.sort_values("depth", kind="stable")
        places = np.arange(len(rows))
        # A rank of 0 is none: no measure asked for directions. On a logarithmic scale it has no place either.
        directions, neurons = (rows[name].where(rows[name] > 0).to_numpy() for name in ("rank", "neurons"))
        upper.plot(places, neurons, color=style["color"], linewidth=0.8, alpha=0.5, drawstyle="steps-mid")
        (line,) = upper.plot(places, directions, marker="o", markersize=3, **style)
        lower.plot(places, rows["variance_kept"].to_numpy(), marker="o", markersize=3, **style)
        handles.append(line)
        names.append(small_enough(upper, str(model) if one_each else f"{model}/{checkpoint}"))
    layers = list(map(str, some[0][1].sort_values("depth", kind="stable")["layer"]))
    upper.set_yscale("log", base=2)
    upper.yaxis.set_major_formatter(lambda value, _: as_number(value))
    upper.minorticks_off()
    least, most = upper.get_ylim()
    if most < 4 * least:
        # Of the powers of two there may be one in between, or none.
        upper.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if most < 1.1 * least:
        # Four digits would not tell them apart.
        upper.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    lower.set_ylim(-0.03, 1.03)
    set_ticks(upper, "x", [], [])
    set_ticks(lower, "x", list(range(len(layers))), layers, upright=True)
    set_labels(upper, y="directions" if first else "")
    set_labels(lower, y="variance kept" if first else "")
    beside(upper, handles, names, title="thin: neurons")
    set_title(upper, note, some_of(len(some), len(networks), "checkpoints"))


def correlations(
    result: xr.Dataset | StoreLike, *, a: Where | None = None, b: Where | None = None, ax: Place | None = None
) -> Axes:
    """Draw the canonical correlations of pairs, the highest first: a line a pair.

    A circle is at the last correlation above chance, where the comparison says how many are. The mean of a line is
    `svcca`: two pairs of equal means may share few directions perfectly, or many somewhat.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `compare` with ``keep="correlations"``, or where it is; finished or not.
    a, b : mapping, optional
        Representations of both sides: ``model``, ``checkpoint``, ``layer``, ``step``, ``depth`` and ``final``, see
        `query`. Every one of a is paired with every one of b; of more than twelve pairs, twelve are shown, evenly
        spaced, and the title says so. Default: all.
    ax : Axes or Figure, optional
        Where to draw. Default: a new figure, of which pyplot knows nothing.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    IncompatibleError
        Where the correlations were not kept.
    RepresentationNotFoundError, InvalidQuestionError
        The message says what there is.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 50, 4))
    >>> result = dask_svcca.compare({"x": x, "xy": np.hstack([x[:, :2], y])}, keep="correlations")
    >>> ax = correlations(result, a=dict(layer="x"), b=dict(layer="xy"))
    >>> ax.lines[0].get_xdata().tolist(), ax.lines[0].get_ydata()[:2].round(2).tolist()
    ([1, 2, 3, 4], [1.0, 1.0])
    """
    result = as_dataset(result)
    kept = DETAIL_VARIABLES["correlations"].name
    if kept not in result:
        raise IncompatibleError(
            "this comparison has no single correlations: compare once more with keep='correlations', or with --keep "
            "correlations, which adds them to what is there"
        )
    rows, columns = along(result, "a", a), along(result, "b", b)
    count = len(rows) * len(columns)
    chosen = [divmod(place, len(columns)) for place in evenly(range(count), PAIRS)]
    pane = one_pane(ax)
    texts = rows.texts(), columns.texts()
    handles, names, missing = [], [], 0
    for style, (row, column) in zip(kinds(len(chosen)), chosen, strict=True):
        one, other = rows.take([row]), columns.take([column])
        values = read_pairs(result, kept, one, other)[0, 0]
        values = values[np.isfinite(values)]
        missing += not len(values)
        (line,) = pane.plot(np.arange(1, len(values) + 1), values, linewidth=1.2, **style)
        if "significant" in result and len(values):
            above = read_pairs(result, "significant", one, other)[0, 0]
            if np.isfinite(above) and above >= 1:
                last = min(round(float(above)), len(values))
                pane.plot(last, values[last - 1], marker="o", fillstyle="none", markersize=7, color=style["color"])
        handles.append(line)
        both = " and ".join(small_enough(pane, side[place]) for side, place in zip(texts, (row, column), strict=True))
        names.append(both + ("" if len(values) else " (no value)"))
    pane.set_ylim(-0.03, 1.03)
    pane.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    set_labels(
        pane,
        x="direction (circle: the last above chance)" if "significant" in result else "direction",
        y="canonical correlation",
    )
    set_title(
        pane,
        f"a: {rows.what()}",
        f"b: {columns.what()}",
        some_of(len(chosen), count, "pairs"),
        f"{missing} without a value" if missing else "",
    )
    beside(pane, handles, names)
    return pane
