"""Checkpoints of a training: against the final one, and against each other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.analysis.measured import as_dataset, find_names
from dask_svcca.analysis.selection import in_order
from dask_svcca.errors import IncompatibleError, InvalidQuestionError
from dask_svcca.plot._blocks import Cells, cells_of, without_text
from dask_svcca.plot._names import (
    as_number,
    in_a_sentence,
    make_small,
    set_labels,
    set_ticks,
    set_title,
    shown,
    thinned,
)
from dask_svcca.plot._panes import some_panes, wrapped_panes
from dask_svcca.plot._scale import add_colour_bar, draw_matrix, scale_of
from dask_svcca.plot._sides import along, draw_names, evenly, in_training, of_model, some_of
from dask_svcca.plot._steps import log_spaced

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr
    from matplotlib.axes import Axes

    from dask_svcca.analysis.selection import Where
    from dask_svcca.plot._panes import Place
    from dask_svcca.plot._sides import Along
    from dask_svcca.stores._io import StoreLike

MODELS: Final = 4
"""Largest number of models in a figure that has a row of panes for each."""

MOMENTS: Final = 6
"""Largest number of checkpoints that have a pane each."""

LAYERS: Final = 16
"""Largest number of layers that have a pane each."""

MOMENT: Final = frozenset({"checkpoint", "step", "final", "representation"})
"""What chooses checkpoints, and says nothing of the final one that they are compared with."""


def dynamics(
    result: xr.Dataset | StoreLike, *, where: Where | None = None, measure: str | None = None, ax: Place | None = None
) -> npt.NDArray[Any]:
    """Draw the layers of checkpoints against those of the final one: a row of panes a model, a pane a checkpoint.

    Panes are at six checkpoints, evenly spaced on a logarithmic scale: most happens early.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    where : mapping, optional
        Representations: ``model``, ``checkpoint``, ``layer``, ``step`` and ``depth``, see `query`; of at most four
        models. Default: all.
    measure : str, optional
        Default: the first that was asked for.
    ax : sequence of Axes, or Figure, optional
        Where to draw: as many Axes as there are panes, row by row, or a figure to make them in. Default: a new figure,
        of which pyplot knows nothing.

    Returns
    -------
    (model, checkpoint) of Axes
        Without panes where a model has fewer checkpoints.

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError
        The message says what there is.

    References
    ----------
    Raghu et al. (2017), SVCCA, NeurIPS, figure 3.

    Examples
    --------
    >>> import dask_svcca
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> result = dask_svcca.compare({("net", step, layer): x for step in ("1", "2") for layer in ("conv", "fc")})
    >>> axes = dynamics(result)
    >>> axes.shape, axes[0, 0].get_title(), axes[0, 1].get_title()
    ((1, 2), '1', '2')
    """
    result = as_dataset(result)
    name = find_names(result, measure, references=True)[0]
    whole = along(result, "a", where)
    models = list(dict.fromkeys(map(str, whole.frame["model"])))
    if len(models) > MODELS:
        raise InvalidQuestionError(
            f"this figure has a row for each model, at most {MODELS}, and {len(models):,} were chosen; choose some: "
            f"where=dict(model={models[0]!r}), or --model {models[0]}"
        )
    ends = along(
        result, "b", {**{key: value for key, value in (where or {}).items() if key not in MOMENT}, "final": True}
    )
    rows = [_moments(result, name, whole, ends, model) for model in models]
    count = max(len(row) for row in rows)
    axes = some_panes(ax, len(rows), count, width=1.0 + 2.0 * count + 0.8, height=0.6 + 2.4 * len(rows), sharey=True)
    scale = scale_of(name, result[name].attrs, [cells.matrix for row in rows for cells in row])
    without: Counter[str] = Counter()
    drawn = None
    # One label is for all rows: models may end at different steps.
    last = {in_training(cells.b.frame) for row in rows for cells in row}
    end = f"b: at the end{f', {last.pop()}' if len(last) == 1 else ''}"
    for line, (row, panes) in enumerate(zip(rows, axes, strict=True)):
        for cells, pane in zip(row, panes, strict=False):
            make_small(pane)
            drawn = draw_matrix(pane, cells.matrix, scale)
            without += cells.without
            set_title(pane, in_training(cells.a.frame), cells.pooled())
            draw_names(pane, "x", cells.b, cells.first_b)
            if pane is panes[0]:
                draw_names(pane, "y", cells.a, cells.first_a)
            set_labels(
                pane,
                x=end if line == len(rows) - 1 and pane is _middle(panes, row) else "",
                y=f"a: {shown(models[line])}" if pane is panes[0] else "",
            )
        for spare in panes[len(row) :]:
            spare.set_axis_off()
    assert drawn is not None  # noqa: S101 - every model has a checkpoint
    add_colour_bar(drawn, axes, scale.label, without_text(without))
    return axes


def _middle(panes: npt.NDArray[Any], row: list[Cells]) -> Any:
    """The pane under which the label of a whole row stands."""
    return panes[(len(row) - 1) // 2]


def checkpoints(
    result: xr.Dataset | StoreLike, *, where: Where | None = None, measure: str | None = None, ax: Place | None = None
) -> npt.NDArray[Any]:
    """Draw the checkpoints of a layer against each other, a pane a layer: phases of training are blocks.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    where : mapping, optional
        Representations: ``model``, ``checkpoint``, ``layer``, ``step`` and ``depth``, see `query`. Of more than
        sixteen layers, sixteen are shown, evenly spaced, and the title says so. Default: all.
    measure : str, optional
        Default: the first that was asked for.
    ax : sequence of Axes, or Figure, optional
        Where to draw: as many Axes as there are panes, or a figure to make them in. Default: a new figure, of which
        pyplot knows nothing.

    Returns
    -------
    (layer,) of Axes

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError
        The message says what there is.
    IncompatibleError
        Where no layer is on both sides of a part of a comparison.

    Examples
    --------
    >>> import dask_svcca
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> result = dask_svcca.compare({("net", step, "fc"): x for step in ("1", "2", "3")})
    >>> (pane,) = checkpoints(result)
    >>> pane.images[0].get_array().shape, [text.get_text() for text in pane.get_xticklabels()]
    ((3, 3), ['1', '2', '3'])
    """
    result = as_dataset(result)
    name = find_names(result, measure, references=True)[0]
    a, b = along(result, "a", where), along(result, "b", where)
    rows, columns = _by_layer(a), _by_layer(b)
    both = [key for key in rows if key in columns]
    if not both:
        model, layer = next(iter(rows))
        raise IncompatibleError(
            f"this figure is of layers that are on both sides of the comparison, and none of {len(rows):,} on side a, "
            f"such as {f'{model}/{layer}'!r}, is on side b: pass the whole comparison, or a part with one model on "
            f"both sides"
        )
    trained = [key for key in both if max(len(rows[key]), len(columns[key])) > 1]
    if not trained:
        which = "the only layer" if len(both) == 1 else f"each of {len(both):,} layers"
        raise InvalidQuestionError(
            f"this figure is of layers through training, and {which} has one checkpoint here: "
            f"choose more checkpoints, or draw the layers against each other, as `matrix` does"
        )
    chosen = evenly(trained, LAYERS)
    blocks = [cells_of(result, name, a.take(rows[key]), b.take(columns[key])) for key in chosen]
    axes, first, lowest = wrapped_panes(ax, len(blocks), width=2.5, height=2.5)
    # Ticks at the edges hold for all panes where these have the same checkpoints.
    alike = len({tuple(cells.b.frame["checkpoint"]) for cells in blocks}) == 1
    scale = scale_of(name, result[name].attrs, [cells.matrix for cells in blocks])
    several = len({model for model, _ in chosen}) > 1
    without: Counter[str] = Counter()
    for pane, leading, low, cells, (model, layer) in zip(axes, first, lowest, blocks, chosen, strict=True):
        make_small(pane)
        drawn = draw_matrix(pane, cells.matrix, scale)
        without += cells.without
        _draw_moments(pane, "x", cells.b if low or not alike else None, cells.first_b)
        _draw_moments(pane, "y", cells.a if leading or not alike else None, cells.first_a)
        what = "step" if cells.a.frame["step"].notna().all() else "checkpoint"
        set_labels(pane, x=f"b: {what}" if low else "", y=f"a: {what}" if leading else "")
        titled = f"{model}/{layer}" if several else layer
        note = some_of(len(chosen), len(both), "layers") if pane is axes[0] else ""
        set_title(pane, note, in_a_sentence(titled), cells.pooled())
    add_colour_bar(drawn, axes, scale.label, without_text(without))
    return axes


def _moments(result: xr.Dataset, name: str, whole: Along, ends: Along, model: str) -> list[Cells]:
    """Layers of some checkpoints of a model against those of the final one."""
    mine, final = of_model(whole, model), of_model(ends, model)
    names = mine.frame["checkpoint"].to_numpy()
    steps = mine.frame["step"].to_numpy(dtype=np.float64)
    _, first = np.unique(names, return_index=True)
    first.sort()
    return [
        cells_of(result, name, mine.take(np.flatnonzero(names == names[first[place]])), final)
        for place in log_spaced(steps[first], MOMENTS)
    ]


def _draw_moments(pane: Axes, axis: str, one: Along | None, first: npt.NDArray[Any]) -> None:
    """Steps of training along an axis, or names of checkpoints where those have none; nothing for None."""
    if one is None:
        set_ticks(pane, axis, [], [])
        return
    drawn = one.take(first)
    steps = drawn.frame["step"].to_numpy(dtype=np.float64)
    if np.isfinite(steps).all():
        # They lie side by side, so that ticks are as far apart as they need to be.
        places = thinned(len(steps), 8)
        set_ticks(pane, axis, places, [as_number(steps[place]) for place in places], upright=True)
    else:
        set_ticks(
            pane,
            axis,
            list(range(len(steps))),
            list(map(str, drawn.frame["checkpoint"])),
            upright=True,
        )


def _by_layer(one: Along) -> dict[tuple[str, str], list[int]]:
    """Places of the checkpoints of each layer of each model, in the order of models and of depth."""
    found: dict[tuple[str, str], list[int]] = {}
    for model in dict.fromkeys(map(str, one.frame["model"])):
        mine = one.frame["model"] == model
        layers = one.frame["layer"].astype(str)
        for layer in in_order(one.frame[mine], "layer", "depth"):
            found[model, layer] = np.flatnonzero((mine & (layers == layer)).to_numpy()).tolist()
    return found
