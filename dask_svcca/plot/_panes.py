"""Axes to draw on: those of the caller, or those of a figure of our own, of which pyplot knows nothing."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from dask_svcca.errors import InvalidQuestionError, MissingPackageError
from dask_svcca.plot._names import make_small

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

Place: TypeAlias = "Axes | Sequence[Axes] | npt.NDArray[Any] | FigureBase"
"""Where to draw: Axes, as many as there are panes, or a figure or part of one, in which the panes are made."""

FORMATS = ("png", "svg", "pdf")

SMALL: Final = 3.2
"""Width or height in inches below which a pane has small labels."""


def require_matplotlib() -> None:
    """Import matplotlib.

    Raises
    ------
    MissingPackageError
        Where it cannot be imported, naming the extra that installs it.
    """
    try:
        import matplotlib.figure  # noqa: F401, PLC0415 - only who draws needs it
    except ImportError as error:
        raise MissingPackageError(
            f"figures need the package 'matplotlib', which cannot be imported ({error}); pip install 'dask-svcca[plot]'"
        ) from error


def make_figure(width: float, height: float) -> Figure:
    """A figure that notebooks show, in inches; pyplot neither keeps it nor has it as its current one."""
    require_matplotlib()
    from matplotlib.figure import Figure  # noqa: PLC0415 - see `require_matplotlib`

    class Drawn(Figure):
        def _repr_png_(self) -> bytes:
            """What a notebook shows."""
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", bbox_inches="tight")
            return buffer.getvalue()

    return Drawn(figsize=(width, height), layout="constrained")


def one_pane(ax: Place | None, width: float = 6.4, height: float = 4.8) -> Axes:
    """Axes for a figure of one pane; see `some_panes`."""
    pane: Axes = some_panes(ax, 1, 1, width=width, height=height)[0, 0]
    return pane


def some_panes(
    ax: Place | None, rows: int, columns: int, *, width: float, height: float, sharey: bool = False
) -> npt.NDArray[Any]:
    """Axes for a figure of several panes.

    Parameters
    ----------
    ax : Axes, sequence of Axes, Figure or SubFigure, optional
        Axes are taken row by row.
    rows, columns : int
    width, height : float
        Of a new figure, in inches.
    sharey : bool
        Whether the panes of a row have one scale of y.

    Returns
    -------
    (rows, columns) of Axes

    Raises
    ------
    InvalidQuestionError
        Where ``ax`` has another number of Axes, or is something else.
    """
    require_matplotlib()
    from matplotlib.axes import Axes  # noqa: PLC0415 - see `require_matplotlib`
    from matplotlib.figure import FigureBase  # noqa: PLC0415

    if ax is None:
        ax = make_figure(width, height)
    if isinstance(ax, FigureBase):
        whole: Any = ax
        made = np.asarray(whole.subplots(rows, columns, squeeze=False, sharey="row" if sharey else False))
        if min(whole.bbox.width / columns, whole.bbox.height / rows) < SMALL * whole.dpi:
            for pane in made.ravel():
                make_small(pane)
        return made
    given = np.ravel(np.asarray(ax, dtype=object))
    if not all(isinstance(one, Axes) for one in given):
        raise InvalidQuestionError(f"ax= takes Axes of matplotlib, several of them, or a figure; got {ax!r}")
    if len(given) != rows * columns:
        raise InvalidQuestionError(
            f"this figure has {rows * columns} panes, and ax= has {len(given)} Axes; give as many, or a figure, in "
            f"which the panes are made"
        )
    return given.reshape(rows, columns)


def wrapped_panes(
    ax: Place | None, count: int, *, width: float, height: float, most: int = 4
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Axes for panes one after another, at most so many in a row.

    Parameters
    ----------
    ax : Axes, sequence of Axes, Figure or SubFigure, optional
    count : int
        Number of panes.
    width, height : float
        Of a pane, in inches.
    most : int
        Largest number of panes in a row.

    Returns
    -------
    (count,) of Axes
    (count,) bool
        Whether each is the first of its row.
    (count,) bool
        Whether each is the lowest of its column.
    """
    columns = min(count, most)
    rows = -(-count // columns)
    first = np.arange(count) % columns == 0
    lowest = np.arange(count) >= count - columns
    # Axes of the caller are as many as there are panes, in whatever order they are arranged.
    if ax is not None and not hasattr(ax, "subplots"):
        given = some_panes(ax, 1, count, width=width, height=height).ravel()
        return given, np.arange(count) == 0, np.ones(count, dtype=bool)
    axes = some_panes(ax, rows, columns, width=width * columns, height=height * rows).ravel()
    for spare in axes[count:]:
        spare.remove()
    return axes[:count], first, lowest


def figure_of(ax: Axes | npt.NDArray[Any]) -> FigureBase:
    """The figure, or part of one, that Axes are in."""
    first: Axes = np.ravel(np.asarray(ax, dtype=object))[0]
    found: FigureBase = first.get_figure(root=False)  # type: ignore[assignment]
    return found


def save(ax: Axes | npt.NDArray[Any], file: str | PathLike[str], **options: Any) -> None:
    """Write the figure that Axes are in, in the format that the ending of the file says."""
    root: Any = figure_of(ax).get_figure(root=True)
    root.savefig(file, **options)
