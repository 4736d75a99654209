"""Whether measures find the same layer in another training."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.analysis.identification import layer_identification
from dask_svcca.analysis.kin import Kin
from dask_svcca.analysis.measured import as_dataset, find_names, sign_of
from dask_svcca.analysis.selection import architectures
from dask_svcca.analysis.significance import jackknife
from dask_svcca.errors import DaskSvccaError, InvalidQuestionError
from dask_svcca.plot._blocks import cells_of, without_text
from dask_svcca.plot._names import in_a_sentence, make_small, set_labels, set_title, shown
from dask_svcca.plot._panes import wrapped_panes
from dask_svcca.plot._scale import MARK, add_colour_bar, draw_matrix, scale_of
from dask_svcca.plot._sides import along, draw_names, evenly, of_model, some_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import xarray as xr
    from matplotlib.axes import Axes

    from dask_svcca.analysis.selection import Where
    from dask_svcca.plot._blocks import Cells
    from dask_svcca.plot._panes import Place
    from dask_svcca.stores._io import StoreLike

MEASURES: Final = 12
"""Largest number of measures that have a pane each."""

LAYERS: Final = 32
"""Largest number of layers that are looked for."""

ERRORS: Final = 2.0
"""A difference of fewer standard errors is a tie."""


def identification(
    result: xr.Dataset | StoreLike,
    *,
    where: Where | None = None,
    measure: str | Sequence[str] = "all",
    ax: Place | None = None,
) -> npt.NDArray[Any]:
    """Draw which layer of another training each layer is most similar to: a pane a measure.

    Layers of one model are a, those of another b, both at the end of training: the first two that are not relatives, as
    `layer_identification` has them. The chosen layer of each row is
    marked: by a disc where it is the same layer, by a cross where it is another, and by an open mark where the choice
    is a tie, which is less than two standard errors by `jackknife` from the next, or from the same layer. The title has
    the accuracy over all models of the architecture, as `layer_identification` has it.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is. Without its subspaces ties are not looked for, and the
        title says so.
    where : mapping, optional
        ``model`` and ``layer``, see `query`. Of more than 32 layers, 32 are looked for, evenly spaced. Default: the
        first architecture of which there are two models that are not relatives.
    measure : str or sequence of str
        At most twelve; ``all`` for all of the comparison.
    ax : sequence of Axes, or Figure, optional
        Where to draw: as many Axes as there are panes, or a figure to make them in. Default: a new figure, of which
        pyplot knows nothing.

    Returns
    -------
    (measure,) of Axes

    Raises
    ------
    MissingPackageError
        Where matplotlib is missing.
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError
        The message says what there is.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y, noise = np.random.default_rng(0).normal(size=(3, 50, 4))
    >>> early, late = {("s0", "end", "early"): x, ("s0", "end", "late"): y}, {("s1", "end", "early"): x + noise / 3}
    >>> result = dask_svcca.compare({**early, **late, ("s1", "end", "late"): y + noise / 3})
    >>> (pane,) = identification(result)
    >>> pane.get_title().splitlines()[:2]
    ['svcca', '100 % of 4 found']
    """
    result = as_dataset(result)
    names = find_names(result, measure)
    if len(names) > MEASURES:
        raise InvalidQuestionError(f"this figure has at most {MEASURES} panes; {len(names)} measures were asked for")
    chosen = {**(where or {}), "final": True}
    a, b = along(result, "a", chosen), along(result, "b", chosen)
    kin = Kin(result)
    models, (first, second) = next(
        ((models, pair) for models in architectures(a.frame) for pair in kin.apart(models)), ([], ("", ""))
    )
    if not models:
        raise InvalidQuestionError(
            f"no two of the models {', '.join(map(repr, dict.fromkeys(a.frame['model'])))} have the same layers and "
            f"are trainings of their own, of which neither began with the other, nor both with one"
        )
    a, b = of_model(a, first), of_model(b, second)
    every = list(map(str, a.frame["layer"]))
    layers = evenly(every, LAYERS)
    a, b = (side.take(np.flatnonzero(side.frame["layer"].isin(layers).to_numpy())) for side in (a, b))
    left_out = sorted(set(map(str, result["layer_a"].to_numpy())) - set(layers))
    found = layer_identification(result, names, groups={"all": models}, exclude=left_out)
    blocks = {name: cells_of(result, name, a, b) for name in names}
    choices = {name: _choices(sign_of(result, name) * cells.matrix, cells) for name, cells in blocks.items()}
    ties, note = _ties(result, names, a.places, b.places, choices)
    axes, lefts, lowest = wrapped_panes(ax, len(names), width=2.9, height=3.1)
    without: Counter[str] = Counter()
    for pane, leading, low, name in zip(axes, lefts, lowest, names, strict=True):
        cells = blocks[name]
        make_small(pane)
        scale = scale_of(name, result[name].attrs, [cells.matrix])
        drawn = draw_matrix(pane, cells.matrix, scale)
        without += cells.without
        _mark(pane, cells, choices[name], ties.get(name, {}))
        draw_names(pane, "y", cells.a if leading else None, cells.first_a)
        draw_names(pane, "x", cells.b if low else None, cells.first_b)
        beside, below = f"a: {in_a_sentence(first)}", f"b: {in_a_sentence(second)}"
        set_labels(pane, x=below if low else "", y=beside if leading else "")
        share, tested = (float(found[one].sel(measure=name, group="all")) for one in ("accuracy", "tested"))
        said = f"{share:.0%} of {tested:.0f} found".replace("%", " %") if tested else "nothing to look for"
        marks = ["disc: found, cross: not", "open: a tie" if ties else ""]
        lines = [some_of(len(layers), len(every), "layers"), note, *marks] if pane is axes[0] else []
        set_title(pane, shown(scale.label, 40), said, *lines)
        # Measures have ranges of their own.
        add_colour_bar(drawn, pane, "", without_text(cells.without) if pane is axes[-1] else "")
    return axes


def _choices(values: npt.NDArray[Any], cells: Cells) -> dict[int, tuple[int, int]]:
    """For each row that has a same layer and another: the column chosen, and the one it has to beat."""
    columns = list(map(str, cells.b.frame["layer"]))
    found = {}
    for row, layer in enumerate(map(str, cells.a.frame["layer"])):
        known = np.flatnonzero(np.isfinite(values[row]))
        if layer not in columns or columns.index(layer) not in known or len(known) < 2:
            continue
        best, second = known[np.argsort(-values[row][known], kind="stable")][:2].tolist()
        own = columns.index(layer)
        found[row] = (best, second if best == own else own)
    return found


def _ties(
    result: xr.Dataset,
    names: Sequence[str],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    choices: dict[str, dict[int, tuple[int, int]]],
) -> tuple[dict[str, dict[int, bool]], str]:
    """Whether each choice is a tie, by measure and row; and why that is not known."""
    labels_a, labels_b = (result[f"representation_{side}"].to_numpy() for side in "ab")
    wanted = {
        (str(labels_a[rows[row]]), str(labels_b[columns[column]])): None
        for of_measure in choices.values()
        for row, pair in of_measure.items()
        for column in pair
    }
    if not wanted:
        return {}, ""
    pairs = list(wanted)
    try:
        errors = jackknife(result, pairs, measures=names)
    except DaskSvccaError:
        return {}, "ties not known: no subspaces"
    place = {pair: number for number, pair in enumerate(pairs)}
    found: dict[str, dict[int, bool]] = {}
    for name, of_measure in choices.items():
        values, without = errors[name].to_numpy(), errors[f"{name}_jackknife"].to_numpy()
        count = without.shape[1]
        for row, both in of_measure.items():
            one, other = (place[str(labels_a[rows[row]]), str(labels_b[columns[column]])] for column in both)
            differences = without[one] - without[other]
            error = np.sqrt((count - 1) / count * np.square(differences - differences.mean()).sum())
            found.setdefault(name, {})[row] = bool(abs(values[one] - values[other]) < ERRORS * error)
    return found, ""


def _mark(pane: Axes, cells: Cells, choices: dict[int, tuple[int, int]], ties: dict[int, bool]) -> None:
    """A disc where the same layer was chosen, a cross elsewhere; open where it is a tie."""
    columns = list(map(str, cells.b.frame["layer"]))
    for row, layer in enumerate(map(str, cells.a.frame["layer"])):
        if row not in choices:
            continue
        best = choices[row][0]
        pane.plot(
            best,
            row,
            marker="o" if columns[best] == layer else "X",
            # A cross of the size of a disc is hard to tell from it.
            markersize=5 if columns[best] == layer else 7,
            markerfacecolor="none" if ties.get(row) else MARK,
            markeredgecolor=MARK,
            linestyle="none",
        )
