"""Representations by how similar they are: groups of them, clusters, and a plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.analysis import matching
from dask_svcca.analysis.measured import as_dataset, find_name, say_estimates_at
from dask_svcca.analysis.selection import counterparts
from dask_svcca.errors import IncompatibleError
from dask_svcca.plot._blocks import cells_of, read_pairs, without_text
from dask_svcca.plot._curves import beside, set_values
from dask_svcca.plot._names import PLAIN, as_number, set_labels, set_ticks, set_title, small_enough
from dask_svcca.plot._panes import one_pane
from dask_svcca.plot._scale import GREY, add_colour_bar, draw_matrix, kinds, label_of, scale_of, shades
from dask_svcca.plot._sides import Along, along, evenly, some_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr
    from matplotlib.axes import Axes

    from dask_svcca.analysis.selection import Where
    from dask_svcca.plot._panes import Place
    from dask_svcca.stores._io import StoreLike

POINTS: Final = 512
"""Largest number of representations of which every pair is read."""

LEAST: Final = 3
"""Representations that a plane or a tree takes at least, where others lack a value."""


def groups(
    result: xr.Dataset | StoreLike,
    groups: Mapping[str, Where],
    *,
    measure: str | None = None,
    ax: Place | None = None,
) -> Axes:
    r"""Draw how similar the same layers are within groups of models and between them: means, spread, number of pairs.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    groups : mapping of str to mapping
        Name to what is in a group, as `within_and_between` takes it.
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
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError
        The message says what there is.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 50, 4))
    >>> result = dask_svcca.compare({(name, "1", "fc"): one for name, one in {"s0": x, "s1": x, "r0": y}.items()})
    >>> ax = groups(result, {"s": dict(model="s*"), "r": dict(model="r*")})
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['s', 's\nand r', 'r']
    >>> [text.get_text() for text in ax.texts]
    ['1 pair', '2 pairs', '0 pairs']
    """
    result = as_dataset(result)
    name = find_name(result, measure)
    found = matching.within_and_between(result, groups, measure=name)
    names = list(groups)
    both = [(one, other) for place, one in enumerate(names) for other in names[place:]]
    pane = one_pane(ax, height=1.2 + 0.4 * len(both))
    texts = []
    for place, (one, other) in enumerate(both):
        at = {"group_a": one, "group_b": other}
        mean, spread, pairs = (float(found[part].sel(at)) for part in ("mean", "spread", "pairs"))
        colour = kinds(2)[int(one != other)]["color"]
        error = spread if np.isfinite(spread) else None
        pane.errorbar(mean, place, xerr=error, marker="o", color=colour, capsize=3, linestyle="none")
        if "null" in found and np.isfinite(chance := float(found["null"].sel(at))):
            pane.plot(chance, place, marker="|", markersize=12, color=GREY, linestyle="none")
        texts.append("\nand ".join(small_enough(pane, group) for group in dict.fromkeys((one, other))))
        pane.annotate(
            f"{pairs:,.0f} pair{'' if pairs == 1 else 's'}",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    set_values(pane, result[name].attrs, [found["mean"].to_numpy()], "")
    pane.set_xlim(pane.get_ylim())
    pane.set_ylim(len(both) - 0.5, -0.5)
    pane.set_yticks(range(len(both)), labels=texts, fontsize="small", **PLAIN)
    chance_too = "; grey: by chance" if "null" in found else ""
    set_labels(pane, x=f"{label_of(name, result[name].attrs)}, same layers: mean, spread{chance_too}")
    return pane


def embedding(
    result: xr.Dataset | StoreLike, *, where: Where | None = None, measure: str | None = None, ax: Place | None = None
) -> Axes:
    """Draw representations as points of a plane: near where they are similar, as `embedding` of the package has them.

    Colours are models; the deeper a layer, the larger its point. Of more than 512 representations 512 are drawn, evenly
    spaced, and of those that have not been compared with all others none; the title says so.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    where : mapping, optional
        Representations: ``model``, ``checkpoint``, ``layer``, ``step``, ``depth`` and ``final``, see `query`. Default:
        all.
    measure : str, optional
        Default: the first that was asked for. After a preview also ``cka_estimate``: see `query`.
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
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 50, 4))
    >>> ax = embedding(dask_svcca.compare({"x": x, "y": y, "same as x": 2 * x}))
    >>> ax.get_title()
    'this plane shows 100 % of the squared distances'
    """
    result = as_dataset(result)
    name = find_name(result, measure, estimates=True)
    one, part, note = complete(result, name, where)
    found = matching.embedding(part, measure=name)
    pane = one_pane(ax)
    models = list(dict.fromkeys(map(str, one.frame["model"])))
    depth = one.frame["depth"].to_numpy(dtype=np.float64)
    span = np.nanmax(depth, initial=0.0) - np.nanmin(depth, initial=0.0)
    sizes = np.where(np.isfinite(depth), 12 + 60 * (depth - np.nanmin(depth, initial=0.0)) / (span or 1), 30)
    x, y = (found[axis].to_numpy() for axis in ("x", "y"))
    colours = shades(pane, len(models)) if len(models) > 6 else [each["color"] for each in kinds(len(models))]
    handles = []
    for model, colour in zip(models, colours, strict=True):
        mine = (one.frame["model"] == model).to_numpy()
        handles.append(pane.scatter(x[mine], y[mine], s=sizes[mine], color=colour, alpha=0.7, linewidths=0))
    chosen = evenly(range(len(models)), 16)
    if len(models) > 1:
        beside(pane, [handles[place] for place in chosen], [small_enough(pane, models[place]) for place in chosen])
    pane.set_aspect("equal", adjustable="datalim")
    pane.set_xticks([])
    pane.set_yticks([])
    share = f"this plane shows {float(found['explained']) * 100:.3g} % of the squared distances"
    # Models have no depth.
    larger = "; large: deep layers" if np.isfinite(depth).any() else ""
    set_labels(pane, x=f"near: similar by {label_of(name, result[name].attrs)}{larger}")
    set_title(pane, note, share)
    return pane


def cluster(
    result: xr.Dataset | StoreLike, *, where: Where | None = None, measure: str | None = None, ax: Place | None = None
) -> Axes:
    """Draw representations against each other, similar ones side by side: in the order of `dask_svcca.cluster`.

    Of more than 512 representations 512 are drawn, evenly spaced, and of those that have not been compared with all
    others none; the title says so.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    where : mapping, optional
        Representations: ``model``, ``checkpoint``, ``layer``, ``step``, ``depth`` and ``final``, see `query`. Default:
        all.
    measure : str, optional
        Default: the first that was asked for. After a preview also ``cka_estimate``: see `query`.
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
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 50, 4))
    >>> ax = cluster(dask_svcca.compare({"x": x, "y": y, "same as x": 2 * x}))
    >>> names = [text.get_text() for text in ax.get_yticklabels()]
    >>> "y" in {names[0], names[-1]}
    True
    """
    result = as_dataset(result)
    name = find_name(result, measure, estimates=True)
    one, part, note = complete(result, name, where)
    order = np.argsort(matching.cluster(part, measure=name)["place"].to_numpy())
    pane = one_pane(ax)
    cells = cells_of(part, name, one.take(order), Along("b", order, one.frame.iloc[order]))
    scale = scale_of(name, result[name].attrs, [cells.matrix])
    drawn = draw_matrix(pane, cells.matrix, scale)
    # Models alternate here, so that each representation is named that has room.
    texts = cells.a.take(cells.first_a).texts()
    for axis in ("x", "y"):
        set_ticks(pane, axis, list(range(len(texts))), texts, upright=True)
    set_labels(pane, x=f"b: {cells.b.what()}", y=f"a: {cells.a.what()}")
    set_title(pane, note, cells.pooled())
    add_colour_bar(drawn, pane, scale.label, without_text(cells.without))
    return pane


def complete(result: xr.Dataset, name: str, where: Where | None) -> tuple[Along, xr.Dataset, str]:
    """Representations that have a value with each other, the comparison of these alone, and how many they are not.

    Places are those in this part, the same on both sides; its values are in memory.
    """
    whole = along(result, "a", where)
    one = whole.take(evenly(range(len(whole)), POINTS))
    other = Along("b", counterparts(result, one.places), one.frame)
    values = read_pairs(result, name, one, other)
    known = np.isfinite(values)
    kept = np.arange(len(one))
    # The one that lacks most goes first: a failed one costs itself alone.
    while len(kept) > 1 and not (inside := (known & known.T)[np.ix_(kept, kept)]).all():
        kept = np.delete(kept, inside.sum(axis=0).argmin())
    note = some_of(len(kept), len(whole), "representations")
    if len(kept) < min(LEAST, len(one)):
        said = say_estimates_at(result, name, {"representation_a": one.places, "representation_b": other.places})
        raise IncompatibleError(
            f"this figure takes representations that all have a value of {name!r} with each other, and {len(kept)} of "
            f"{len(one):,} do. Compare all pairs of them, or choose others, by where= or --model, --checkpoint, --layer"
            f"{said and f'. {said}'}"
        )
    if len(kept) < len(one):
        note += f": {as_number(len(one) - len(kept))} lack a value"
    places = {"representation_a": one.places[kept], "representation_b": other.places[kept]}
    part = result[[name]].isel(places).transpose("representation_a", "representation_b", ...)
    # Spread over a large comparison, they take most of its chunks, which are not to be read once more.
    part[name] = part[name].copy(data=values[np.ix_(kept, kept)])
    return Along("a", np.arange(len(kept)), one.frame.iloc[kept]), part, note
