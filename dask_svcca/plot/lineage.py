"""Checkpoints of a zoo on their way: which training began with which, and how far each went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.analysis import matching
from dask_svcca.analysis.measured import as_dataset, find_name
from dask_svcca.analysis.models import model_similarity
from dask_svcca.plot._curves import beside
from dask_svcca.plot._names import set_labels, set_title, small_enough
from dask_svcca.plot._panes import one_pane
from dask_svcca.plot._scale import GREY, kinds, label_of, shades
from dask_svcca.plot._sides import evenly
from dask_svcca.plot.maps import complete
from dask_svcca.stores._names import checkpoint_label

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from dask_svcca.analysis.selection import Where
    from dask_svcca.plot._panes import Place
    from dask_svcca.stores._io import StoreLike

NAMED = 16
"""Largest number of models that a legend names."""


def lineage(
    result: xr.Dataset | StoreLike, *, where: Where | None = None, measure: str | None = None, ax: Place | None = None
) -> Axes:
    """Draw checkpoints as points of a plane: a line along each training, and an arrow from where it began.

    They are near where they are similar, as `model_similarity` has it in the mean of both orders. The last checkpoint
    of a model is a larger point. A grey arrow goes from the ``parent`` of a checkpoint to the first one of its model.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    where : mapping, optional
        Representations: ``model``, ``checkpoint``, ``layer``, ``step``, ``depth`` and ``final``, see `query`; of more
        than 512 checkpoints 512 are drawn, and of those that have not been compared with all others none; the title
        says so. Default: all.
    measure : str, optional
        Default: the first that was asked for.
    ax : Axes or Figure, optional
        Where to draw. Default: a new figure, of which pyplot knows nothing.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError, IncompatibleError
        The message says what there is.

    Examples
    --------
    >>> import dask_svcca, zarr
    >>> x, y, noise = np.random.default_rng(0).normal(size=(3, 50, 4))
    >>> with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(50)) as zoo:
    ...     zoo.write("base", "start", "fc", x, step=0)
    ...     zoo.write("base", "end", "fc", y, step=9)
    ...     zoo.write("tuned", "end", "fc", y + noise / 3, parent="base/end")
    >>> ax = lineage(dask_svcca.compare(zoo))
    >>> len(ax.lines), len(ax.texts), ax.get_title().splitlines()[0]
    (2, 1, '1 training began with another')
    """
    result = as_dataset(result)
    name = find_name(result, measure)
    named = {} if where is None else dict(where)
    chosen = (
        named if named.keys() & {"checkpoint", "step", "final", "representation"} else {**named, "checkpoint": "**"}
    )
    models = as_dataset(model_similarity(result, measure=name, where=chosen))
    one, part, note = complete(models, name, None)
    found = matching.embedding(part, measure=name)
    pane = one_pane(ax)
    points = np.column_stack([found["x"].to_numpy(), found["y"].to_numpy()])
    of_model = one.frame["model"].to_numpy()
    every = list(dict.fromkeys(map(str, of_model)))
    colours = shades(pane, len(every)) if len(every) > 6 else [each["color"] for each in kinds(len(every))]
    lines = []
    for model, colour in zip(every, colours, strict=True):
        way = points[of_model == model]
        (line,) = pane.plot(*way.T, color=colour, marker="o", markersize=3, linewidth=1.2)
        pane.scatter(way[-1, 0], way[-1, 1], s=36, color=[colour], zorder=3)
        lines.append(line)
    began, unknown = _draw_arrows(pane, points, of_model, one.frame["checkpoint"].to_numpy(), _parents(part))
    shown = evenly(range(len(every)), NAMED)
    if len(every) > 1:
        beside(pane, [lines[place] for place in shown], [small_enough(pane, every[place]) for place in shown])
    pane.set_aspect("equal", adjustable="datalim")
    pane.set_xticks([])
    pane.set_yticks([])
    share = f"this plane shows {float(found['explained']) * 100:.3g} % of the squared distances"
    set_labels(pane, x=f"near: similar by {label_of(name, result[name].attrs)}; large: the last of a training")
    set_title(pane, note, _said(began, unknown), share)
    return pane


def _parents(part: xr.Dataset) -> list[str]:
    """Label of the parent of each checkpoint; empty for none."""
    count = part.sizes["representation_a"]
    return list(map(str, part["parent_a"].to_numpy())) if "parent_a" in part.variables else [""] * count


def _draw_arrows(pane: Axes, points: Any, models: Any, checkpoints: Any, parents: list[str]) -> tuple[int, int]:
    """An arrow for each training that began with another: how many there are, and how many lack their beginning."""
    at = {checkpoint_label(*name): place for place, name in enumerate(zip(models, checkpoints, strict=True))}
    first: dict[tuple[str, str], int] = {}
    for place, (model, parent) in enumerate(zip(models, parents, strict=True)):
        if parent and (parent not in at or models[at[parent]] != model):
            first.setdefault((str(model), parent), place)
    known = {key: place for key, place in first.items() if key[1] in at}
    for (_, parent), place in known.items():
        arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.0, "shrinkA": 4, "shrinkB": 4}
        pane.annotate("", points[place], points[at[parent]], arrowprops=arrow)
    return len(known), len(first) - len(known)


def _said(began: int, unknown: int) -> str:
    """For a title: how many trainings began with another."""
    if not began + unknown:
        return ""
    text = f"{began + unknown:,} training{'' if began + unknown == 1 else 's'} began with another"
    return text + (f", {unknown:,} with one not drawn" if unknown else "")
