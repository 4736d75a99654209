"""Layers and what is known of the examples: classes that a layer tells, and aligned directions over sorted examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.analysis.measured import as_dataset
from dask_svcca.analysis.sensitivity import class_sensitivity as find_sensitivity
from dask_svcca.errors import InvalidQuestionError
from dask_svcca.pairwise import canonical_directions
from dask_svcca.plot._curves import beside
from dask_svcca.plot._names import (
    in_a_sentence,
    make_small,
    runs,
    set_labels,
    set_ticks,
    set_title,
    small_enough,
)
from dask_svcca.plot._panes import some_panes, wrapped_panes
from dask_svcca.plot._scale import GREY, kinds
from dask_svcca.plot._sides import along, evenly, some_of
from dask_svcca.stores.dataset import parameters_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import xarray as xr
    from matplotlib.axes import Axes

    from dask_svcca.analysis.selection import Side, Where
    from dask_svcca.plot._panes import Place
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo

NETWORKS: Final = 6
"""Largest number of checkpoints that have a pane each."""

CLASSES: Final = 16
"""Largest number of classes of which lines are drawn."""

COMPONENTS: Final = 8
"""Largest number of directions that have a pane each."""

POINTS: Final = 512
"""Largest number of points of a line over examples."""


def class_sensitivity(
    result: xr.Dataset | StoreLike,
    *,
    zoo: Zoo | StoreLike,
    labels: str = "label",
    logits: str | None = None,
    where: Where | None = None,
    ax: Place | None = None,
) -> npt.NDArray[Any]:
    """Draw how well each layer tells each class: a pane a checkpoint, a line a class, over layers in order of depth.

    Thin lines are of the same classes in the untrained network, where the comparison has it; the dashed grey line is
    what labels have by chance that say nothing of the layer, as `class_sensitivity` of the package has it.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is, with its subspaces; finished or not.
    zoo : Zoo, path, zarr store, or URL
        That the comparison is of.
    labels : str
        Coordinate of the zoo that says of which class each example is.
    logits : str, optional
        Name of a layer whose neurons are the classes, in place of labels.
    where : mapping, optional
        Representations: ``model``, ``checkpoint``, ``layer``, ``step``, ``depth`` and ``final``, see `query`; of more
        than six checkpoints six are shown, and of more than sixteen classes sixteen, evenly spaced, and the title says
        so. Default: the final checkpoint of each model.
    ax : Axes, sequence of Axes, or Figure, optional
        Where to draw: as many Axes as there are panes, or a figure to make them in. Default: a new figure, of which
        pyplot knows nothing.

    Returns
    -------
    (checkpoint,) of Axes

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    MismatchedExamplesError, InvalidQuestionError, RepresentationNotFoundError, IncompatibleError, MemoryLimitError
        The message says what there is.

    References
    ----------
    Raghu et al. (2017), SVCCA, NeurIPS, figure 5.

    Examples
    --------
    >>> import dask_svcca, zarr
    >>> x, label = np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3
    >>> with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(90), coords={"label": label}) as zoo:
    ...     zoo.write("net", "end", "conv", x, depth=0)
    ...     zoo.write("net", "end", "fc", x + 9 * np.eye(4)[label], depth=1)
    >>> (pane,) = class_sensitivity(dask_svcca.compare(zoo), zoo=zoo)
    >>> [text.get_text() for text in pane.get_legend().get_texts()]
    ['0', '1', '2', 'by chance']
    >>> pane.lines[0].get_ydata().round(1)
    array([0.3, 1. ])
    """
    result = as_dataset(result)
    where = {"final": True} if where is None else where
    frame = along(result, "a", where).frame
    every = list(frame.groupby(["model", "checkpoint"], sort=False).groups)
    networks = evenly(every, NETWORKS)
    found = find_sensitivity(result, zoo=zoo, labels=labels, logits=logits, where=where)
    classes = evenly(range(found.sizes["class"]), CLASSES)
    axes, first, _ = wrapped_panes(ax, len(networks), width=4.6, height=3.6, most=3)
    for pane, leading, (model, checkpoint) in zip(axes, first, networks, strict=True):
        layers = list(frame["layer"][(frame["model"] == model) & (frame["checkpoint"] == checkpoint)])
        one = found.sel(model=model, checkpoint=checkpoint, layer=layers)
        _draw_classes(pane, one, classes, named=pane is axes[-1])
        set_ticks(pane, "x", list(range(len(layers))), list(map(str, layers)), upright=True)
        set_labels(pane, x="layer", y="class correlation" if leading else "")
        pane.set_ylim(-0.03, 1.03)
        lacking = int(np.isnan(one["sensitivity"].to_numpy()).all(axis=-1).sum())
        set_title(
            pane,
            some_of(len(networks), len(every), "checkpoints") if pane is axes[0] else "",
            some_of(len(classes), found.sizes["class"], "classes") if pane is axes[0] else "",
            f"{in_a_sentence(str(model))}/{in_a_sentence(str(checkpoint))}",
            f"{lacking} of {len(layers)} layers without a value" if lacking else "",
        )
    return axes


def _draw_classes(pane: Axes, one: xr.Dataset, classes: Sequence[int], *, named: bool) -> None:
    """Lines of classes; their colours are the same in all panes, and one of these names them."""
    places = np.arange(one.sizes["layer"])
    values, untrained = (one[name].to_numpy()[:, classes] for name in ("sensitivity", "untrained"))
    handles = []
    for style, trained, before in zip(kinds(len(classes)), values.T, untrained.T, strict=True):
        (line,) = pane.plot(places, trained, marker="o", markersize=3, linewidth=1.4, **style)
        if np.isfinite(before).any():
            # A value between two gaps has no line, and is seen by its dot.
            pane.plot(places, before, marker="o", markersize=1.5, linewidth=0.7, alpha=0.6, **style)
        handles.append(line)
    handles += pane.plot(
        places, one["chance"].to_numpy(), color=GREY, marker=".", markersize=3, linestyle="--", linewidth=1.2
    )
    if not named:
        return
    names = [small_enough(pane, str(one["class"].to_numpy()[place])) for place in classes]
    beside(
        pane,
        handles,
        [*names, "by chance"],
        title="thin: untrained" if np.isfinite(untrained).any() else "",
        # Long enough for two dashes, which say which of two lines of one colour it is.
        handlelength=3.2,
    )


def directions(
    result: xr.Dataset | StoreLike,
    *,
    zoo: Zoo | StoreLike,
    a: Where,
    b: Where,
    labels: str | None = "label",
    components: int = 3,
    ax: Place | None = None,
) -> npt.NDArray[Any]:
    """Draw two layers over examples: the neurons that are closest to their aligned directions, and the directions.

    Two trainings look different neuron by neuron, and may be alike direction by direction. Lines are centred, and in
    units of their standard deviation. `canonical_directions` computes them anew from the activations, with the reading
    and the share of the variance of the comparison.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; finished or not.
    zoo : Zoo, path, zarr store, or URL
        That the comparison is of.
    a, b : mapping
        One representation each: ``model``, ``checkpoint``, ``layer``, ``step``, ``depth`` and ``final``, see `query`.
    labels : str, optional
        Coordinate of the zoo that examples are sorted by, such as their class; None for the order of the zoo.
    components : int
        How many of the leading directions, at most eight.
    ax : sequence of Axes, or Figure, optional
        Where to draw: as many Axes as there are panes, row by row, or a figure to make them in. Default: a new figure,
        of which pyplot knows nothing.

    Returns
    -------
    (2, component) of Axes
        Neurons, and below them directions. Beyond 512 examples points are means of neighbours, and the label of x says
        so.

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    InvalidQuestionError
        Where a or b is more than one representation, or the zoo has no such coordinate.
    RepresentationNotFoundError, InvalidActivationsError, IncompatibleError, MemoryLimitError
        The message says what there is.

    References
    ----------
    Raghu et al. (2017), SVCCA, NeurIPS, figure 1.

    Examples
    --------
    >>> import dask_svcca, zarr
    >>> rng = np.random.default_rng(0)
    >>> x, label = rng.normal(size=(90, 4)), np.arange(90) % 3
    >>> with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(90), coords={"label": label}) as zoo:
    ...     zoo.write("s0", "end", "fc", x)
    ...     zoo.write("s1", "end", "fc", x @ rng.normal(size=(4, 4)))
    >>> axes = directions(dask_svcca.compare(zoo), zoo=zoo, a=dict(model="s0"), b=dict(model="s1"), components=2)
    >>> axes[1, 0].get_title(), [text.get_text() for text in axes[1, 0].get_xticklabels()]
    ('direction 1: r = 1.00', ['0', '1', '2'])
    """
    result = as_dataset(result)
    if not 1 <= components <= COMPONENTS:
        raise InvalidQuestionError(f"this figure has 1 to {COMPONENTS} directions; got components={components!r}")
    names = [_one(result, "a", a), _one(result, "b", b)]
    read = {name: value for name, value in parameters_of(result).items() if name in {"conv", "sequence", "variance"}}
    found = canonical_directions(zoo, *names, components=components, order=labels, **read)
    count = found.sizes["component"]
    axes = some_panes(ax, 2, count, width=1.6 + 2.9 * count, height=4.8, sharey=True)
    closest, correlation = (found[name].to_numpy() for name in ("neuron_correlation", "correlation"))
    note = ""
    for row, (kind, upper) in enumerate((("neuron", True), ("direction", False))):
        lines = [_over_examples(found[f"{kind}_{side}"]) for side in "ab"]
        for component, pane in enumerate(axes[row]):
            make_small(pane)
            handles = []
            for style, line in zip(kinds(2), lines, strict=True):
                y, each = _pooled(line[:, component])
                handles += pane.plot(np.arange(len(y)) * each, y, linewidth=0.9, color=style["color"])
                note = f", means of {each}" if each > 1 else ""
            if upper:
                numbers = [int(found[f"neuron_number_{side}"][component]) for side in "ab"]
                set_title(pane, f"neurons {numbers[0]}, {numbers[1]}: r = {closest[component]:.2f}")
            else:
                set_title(pane, f"direction {component + 1}: r = {correlation[component]:.2f}")
            _draw_order(pane, found, labels, named=not upper)
            sorted_by = f"examples by {labels}" if labels else "examples"
            set_labels(pane, x="" if upper else sorted_by + note, y=f"{kind}s" if component == 0 else "")
            if row == 0 and component == count - 1:
                texts = [
                    f"{side}: {small_enough(pane, '/'.join(name))}" for side, name in zip("ab", names, strict=True)
                ]
                beside(pane, handles, texts)
    return axes


def _one(result: xr.Dataset, side: Side, where: Where) -> tuple[str, str, str]:
    """The one representation that a choice means."""
    chosen = along(result, side, where)
    if len(chosen) != 1:
        raise InvalidQuestionError(
            f"this figure is of one layer of one checkpoint on each side, and {len(chosen):,} were chosen on side "
            f"{side}, such as {', '.join(map(repr, chosen.texts()[:3]))}; choose one: {side}=dict(model=..., "
            f"final=True, layer=...), or --model-{side}, --final and --layer-{side}"
        )
    row = chosen.frame.iloc[0]
    return str(row["model"]), str(row["checkpoint"]), str(row["layer"])


def _over_examples(values: xr.DataArray) -> npt.NDArray[np.float64]:
    """(example, component): the mean over positions, centred and in standard deviations."""
    positions = [dim for dim in values.dims if dim not in {"example", "component"}]
    real = values.mean(positions).transpose("example", "component").to_numpy().real
    centred = real - real.mean(axis=0)
    spread = centred.std(axis=0)
    return np.asarray(np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0))


def _pooled(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """Means of neighbours, as few as leave at most `POINTS`, and of how many."""
    each = -(-len(values) // POINTS)
    first = np.arange(0, len(values), each)
    return np.add.reduceat(values, first) / np.diff([*first, len(values)]), each


def _draw_order(pane: Axes, found: xr.Dataset, labels: str | None, *, named: bool) -> None:
    """Where one class ends and the next begins, and their names."""
    groups = runs(found[labels].to_numpy().tolist()) if labels else []
    if not 1 < len(groups) <= CLASSES * 2:
        if not named:
            set_ticks(pane, "x", [], [])
        return
    for _, start, _ in groups[1:]:
        pane.axvline(start - 0.5, color=GREY, linewidth=0.5)
    middles = [(start + stop - 1) / 2 for _, start, stop in groups]
    set_ticks(pane, "x", middles if named else [], [str(name) for name, *_ in groups] if named else [])
