"""Layers during training: against their final selves, and against those of other seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.analysis.dynamics import learning_dynamics
from dask_svcca.analysis.kin import Kin
from dask_svcca.analysis.measured import as_dataset, find_name, null_of
from dask_svcca.analysis.selection import architectures, in_order
from dask_svcca.errors import InvalidQuestionError
from dask_svcca.plot._blocks import read_pairs
from dask_svcca.plot._curves import draw_chance, draw_lines, extremes, means, means_of, set_values
from dask_svcca.plot._names import in_a_sentence, set_title
from dask_svcca.plot._panes import wrapped_panes
from dask_svcca.plot._scale import label_of
from dask_svcca.plot._sides import along, evenly, of_model, some_of
from dask_svcca.plot._steps import draw_steps, log_spaced

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    import xarray as xr

    from dask_svcca.analysis.selection import Where
    from dask_svcca.plot._panes import Place
    from dask_svcca.plot._sides import Along
    from dask_svcca.stores._io import StoreLike

GROUPS: Final = 4
"""Largest number of architectures that have a pane each."""

LINES: Final = 64
"""Largest number of layers of which lines are drawn, and of checkpoints that they are drawn through."""

SEEDS: Final = 6
"""Largest number of models of an architecture that lines are of: fifteen pairs of them."""


def settling(
    result: xr.Dataset | StoreLike, *, where: Where | None = None, measure: str | None = None, ax: Place | None = None
) -> npt.NDArray[Any]:
    """Draw how layers become what they are at the end of training: a pane an architecture, a line a layer.

    A line is the mean of models whose layers have the same names, a band their spread, a diamond the step by which
    the layer has settled in more than half of them, as `learning_dynamics` has it, on the interval of that step; the
    title has the rank correlation of settled step and depth, positive where layers closer to the input settle first,
    in the mean of the models whose layers do not all settle at one step.
    Of more than six models, lines and bands are of six, and all else is of all.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    where : mapping, optional
        ``model`` and ``layer``, see `query`; of at most four architectures. Of more than 64 layers, 64 are shown, and
        of more than six models, lines of six, evenly spaced; the title says so. Default: all.
    measure : str, optional
        Default: the first that was asked for.
    ax : Axes, sequence of Axes, or Figure, optional
        Where to draw: as many Axes as there are panes, or a figure to make them in. Default: a new figure, of which
        pyplot knows nothing.

    Returns
    -------
    (architecture,) of Axes

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError, IncompatibleError
        The message says what there is.

    Examples
    --------
    >>> import dask_svcca, zarr
    >>> x, y = np.random.default_rng(0).normal(size=(2, 50, 4))
    >>> with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(50)) as zoo:
    ...     for step, share in ((0, 0.0), (10, 0.5), (100, 1.0)):
    ...         zoo.write("net", f"step{step}", "fc", x + share * y, step=step, depth=0)
    >>> (pane,) = settling(dask_svcca.compare(zoo))
    >>> pane.lines[1].get_xdata().tolist(), bool(pane.lines[1].get_ydata()[-1] > 0.999)
    ([0.0, 10.0, 100.0], True)
    """
    result = as_dataset(result)
    name = find_name(result, measure)
    if others := [key for key in where or {} if key not in {"model", "layer"}]:
        raise InvalidQuestionError(
            f"this figure is of whole trainings: where= takes 'model' and 'layer'; got {', '.join(map(repr, others))}"
        )
    frame = along(result, "a", where).frame
    groups = _check_groups(architectures(frame))
    panes, *_ = wrapped_panes(ax, len(groups), width=5.6, height=3.8, most=2)
    for pane, models in zip(panes, groups, strict=True):
        some = evenly(models, SEEDS)
        every = in_order(frame[frame["model"].isin(models)], "layer", "depth").to_list()
        layers = evenly(every, LINES)
        found = learning_dynamics(result, model=models, layer=layers, measure=name)
        drawn = found.sel(model=some)
        drawn = drawn.isel(step=(drawn["checkpoint"] != "").any("model").to_numpy())
        x = draw_steps(pane, drawn["step"].to_numpy(), [])
        values = drawn["similarity_to_final"].to_numpy()
        average = means(values)
        if "null_to_final" in drawn:
            draw_chance(pane, x, means(drawn["null_to_final"].to_numpy()))
        names = [str(layer) for layer in found["layer"].to_numpy()]
        lines = draw_lines(pane, x, average, names, spread=extremes(values) if len(some) > 1 else None)
        settled, *ends = (found[f"settled_{one}"].to_numpy() for one in ("by", "low", "high"))
        for line, step, low, high, row in zip(lines, settled, *ends, average, strict=True):
            if np.isfinite(step):
                height = np.interp(step, x, row)
                if high > low:
                    pane.plot([low, high], [height, height], linewidth=1, marker="|", color=line.get_color())
                pane.plot(step, height, marker="D", markersize=6, color=line.get_color())
        set_values(pane, result[name].attrs, [average], f"{label_of(name, result[name].attrs)} to the final layer")
        if np.isfinite(settled).any():
            pane.set_xlabel(f"{pane.get_xlabel()} (diamonds: settled)")
        order = found["depth_correlation"].to_numpy()
        # Where all layers of a model settle at one step, there is no order to correlate.
        ordered = int(np.isfinite(order).sum())
        correlation = f"settled step and depth: rank correlation {float(means(order)):.2f}"
        set_title(
            pane,
            _named(models),
            f"lines: {text}" if (text := some_of(len(some), len(models), "models")) else "",
            some_of(len(layers), len(every), "layers"),
            means_of(values, "models"),
            ", ".join(filter(None, (correlation, some_of(ordered, len(models), "models")))) if ordered else "",
        )
    return panes


def seeds(
    result: xr.Dataset | StoreLike, *, where: Where | None = None, measure: str | None = None, ax: Place | None = None
) -> npt.NDArray[Any]:
    """Draw how alike layers of different trainings become: a pane an architecture, a line a layer.

    A line is the mean over all pairs of models whose layers have the same names, of the same layer at the same
    checkpoint; a band is the spread of the pairs. Relatives, as `noise_ceiling` has them, are not pairs.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    where : mapping, optional
        Representations: ``model``, ``checkpoint``, ``layer``, ``step`` and ``depth``, see `query`; of at most four
        architectures. Of more than 64 layers or checkpoints, 64 are shown, and six of more models; the title says so.
        Default: all.
    measure : str, optional
        Default: the first that was asked for.
    ax : Axes, sequence of Axes, or Figure, optional
        Where to draw: as many Axes as there are panes, or a figure to make them in. Default: a new figure, of which
        pyplot knows nothing.

    Returns
    -------
    (architecture,) of Axes

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError
        The message says what there is.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 50, 4))
    >>> result = dask_svcca.compare({("s0", "end", "fc"): x, ("s1", "end", "fc"): x + y})
    >>> (pane,) = seeds(result)
    >>> pane.lines[-1].get_ydata().round(1)
    array([0.7])
    """
    result = as_dataset(result)
    name = find_name(result, measure)
    a, b = along(result, "a", where), along(result, "b", where)
    kin = Kin(result)
    groups = [models for models in architectures(a.frame) if next(kin.apart(models), None)]
    if not groups:
        raise InvalidQuestionError(
            "this figure is of several trainings of one architecture, and no two of the models "
            f"{', '.join(map(repr, dict.fromkeys(a.frame['model'])))} have layers of the same names and are trainings "
            f"of their own, of which neither began with the other, nor both with one"
        )
    _check_groups(groups)
    panes, *_ = wrapped_panes(ax, len(groups), width=5.6, height=3.8, most=2)
    null = null_of(result, name)
    ordered = bool(result[name].attrs.get("symmetric", True))
    for pane, models in zip(panes, groups, strict=True):
        some = evenly(models, SEEDS)
        both = list(kin.apart(some))
        if not both:
            some = list(next(kin.apart(models)))
            both = list(kin.apart(some))
        pairs = [pair for pair in both if some.index(pair[0]) < some.index(pair[1])] if ordered else both
        every = in_order(a.frame[a.frame["model"].isin(models)], "layer", "depth").to_list()
        layers = evenly(every, LINES)
        moments, steps, names = _moments(a.frame[a.frame["model"].isin(some)])
        x = draw_steps(pane, steps, names)
        values = {
            variable: np.stack([_same_layers(result, variable, a, b, pair, layers, moments) for pair in pairs])
            for variable in (name, *filter(None, [null]))
        }
        if null:
            draw_chance(pane, x, means(values[null]))
        average = means(values[name])
        draw_lines(pane, x, average, layers, spread=extremes(values[name]) if len(pairs) > 1 else None)
        set_values(pane, result[name].attrs, [average], f"{label_of(name, result[name].attrs)} across seeds")
        set_title(
            pane,
            _named(models),
            some_of(len(some), len(models), "models"),
            some_of(len(layers), len(every), "layers"),
            means_of(values[name], "pairs of models"),
        )
    return panes


def _check_groups(groups: list[list[str]]) -> list[list[str]]:
    if len(groups) > GROUPS:
        raise InvalidQuestionError(
            f"this figure has a pane for each architecture, at most {GROUPS}, and {len(groups):,} were chosen; choose "
            f"some of the models: where=dict(model={groups[0][0]!r}), or --model {groups[0][0]}"
        )
    return groups


def _named(models: list[str]) -> str:
    """Models in a title."""
    text = ", ".join(in_a_sentence(model) for model in models[:3])
    return text + (f" and {len(models) - 3:,} more" if len(models) > 3 else "")


def _moments(frame: pd.DataFrame) -> tuple[dict[Any, int], npt.NDArray[Any], list[str]]:
    """Checkpoints that models share, by step or by name: the number of each, and their steps and names."""
    stepped = bool(frame["step"].notna().all())
    keys = frame["step"] if stepped else frame["checkpoint"]
    order = list(np.unique(keys)) if stepped else list(dict.fromkeys(map(str, keys)))
    steps = np.asarray(order, dtype=np.float64) if stepped else np.full(len(order), np.nan)
    places = log_spaced(steps, LINES)
    chosen = [order[place] for place in places]
    return (
        {key: number for number, key in enumerate(chosen)},
        steps[places],
        [in_a_sentence(str(key)) for key in chosen],
    )


def _same_layers(
    result: xr.Dataset,
    variable: str,
    a: Along,
    b: Along,
    models: tuple[str, str],
    layers: list[str],
    moments: dict[Any, int],
) -> npt.NDArray[np.float64]:
    """Values of the same layer of two models at the same checkpoint, (layer, checkpoint)."""
    by = "checkpoint" if any(isinstance(key, str) for key in moments) else "step"
    found = np.full((len(layers), len(moments)), np.nan)
    ours = [of_model(side, one) for side, one in zip((a, b), models, strict=True)]
    for number, layer in enumerate(layers):
        rows, columns = (
            side.take(np.flatnonzero(((side.frame["layer"] == layer) & side.frame[by].isin(moments)).to_numpy()))
            for side in ours
        )
        block = read_pairs(result, variable, rows, columns)
        at = {key: place for place, key in enumerate(columns.frame[by])}
        for place, key in enumerate(rows.frame[by]):
            if key in at:
                found[number, moments[key]] = block[place, at[key]]
    return found
