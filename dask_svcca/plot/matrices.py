"""Layers against layers, and checkpoints against checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.analysis.matching import match_layers
from dask_svcca.analysis.measured import as_dataset, find_names, say_estimates_at, warn_of_estimates
from dask_svcca.analysis.selection import values_of
from dask_svcca.plot._blocks import Cells, cells_of, without_text
from dask_svcca.plot._names import set_labels, set_title
from dask_svcca.plot._panes import one_pane
from dask_svcca.plot._scale import MARK, add_colour_bar, draw_matrix, scale_of
from dask_svcca.plot._sides import along, draw_names

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from dask_svcca.analysis.selection import Where
    from dask_svcca.plot._panes import Place
    from dask_svcca.stores._io import StoreLike


def matrix(
    result: xr.Dataset | StoreLike,
    *,
    a: Where | None = None,
    b: Where | None = None,
    measure: str | None = None,
    match: bool = False,
    ax: Place | None = None,
) -> Axes:
    """Draw every representation of a against every one of b.

    Each is a row or a column: by model, then in the order of training, then of depth. Beyond 256 of them, cells are
    means of neighbours, and beyond 2,048 of a sample of them; the title says so. What has no value is grey.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    a, b : mapping, optional
        Representations on the y axis and on the x axis: ``model``, ``checkpoint``, ``layer``, ``step``, ``depth`` and
        ``final``, see `query`. Default: all.
    measure : str, optional
        Default: the first that was asked for. After a preview also ``cka_estimate``: see `query`.
    match : bool
        Mark the best assignment of layers of a to layers of b, as `match_layers` finds it for one checkpoint of each.
    ax : Axes or Figure, optional
        Where to draw. Default: a new figure, of which pyplot knows nothing.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError
        The message says what there is.

    Warns
    -----
    OnlyEstimatesWarning
        Where no pair has a value, and some have an estimate.

    Examples
    --------
    >>> import dask_svcca, numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> result = dask_svcca.compare({("net", "1", layer): x for layer in ("conv1", "conv2", "fc")})
    >>> ax = matrix(result, a=dict(layer="conv*"), b=dict(layer="fc"))
    >>> ax.images[0].get_array().shape, ax.get_ylabel()
    ((2, 1), 'a: layers of net/1')
    """
    result = as_dataset(result)
    name = find_names(result, measure, references=True, estimates=True)[0]
    cells = cells_of(result, name, along(result, "a", a), along(result, "b", b))
    if np.isnan(cells.matrix).all():
        place = {"representation_a": cells.a.places, "representation_b": cells.b.places}
        warn_of_estimates(name, say_estimates_at(result, name, place))
    pane = one_pane(ax)
    scale = scale_of(name, result[name].attrs, [cells.matrix])
    drawn = draw_matrix(pane, cells.matrix, scale)
    _draw_sides(pane, cells)
    set_title(pane, _mark_matches(pane, result, name, cells) if match else "", cells.pooled())
    add_colour_bar(drawn, pane, scale.label, without_text(cells.without))
    return pane


def _draw_sides(pane: Axes, cells: Cells) -> None:
    """Names of both sides: a is y, and b is x."""
    draw_names(pane, "y", cells.a, cells.first_a)
    draw_names(pane, "x", cells.b, cells.first_b)
    set_labels(pane, x=f"b: {cells.b.what()}", y=f"a: {cells.a.what()}")


def _mark_matches(pane: Axes, result: xr.Dataset, name: str, cells: Cells) -> str:
    """Crosses at the best assignment, and its mean."""
    sides = (cells.a, cells.b)
    where = [{"representation": list(values_of(result[f"representation_{s.side}"])[s.places])} for s in sides]
    found = match_layers(result, a=where[0], b=where[1], measure=name)
    rows, columns = (
        [list(map(str, one.frame["layer"])).index(layer) for layer in found[f"layer_{one.side}"]] for one in sides
    )
    at = [
        np.searchsorted(first, places, side="right") - 1
        for first, places in ((cells.first_b, columns), (cells.first_a, rows))
    ]
    pane.plot(*at, marker="X", markersize=5, color=MARK, linestyle="none")
    return f"crosses: best assignment, mean {found[name].mean():.2f}"
