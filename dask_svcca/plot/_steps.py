"""Training along an axis: symmetrically logarithmic, with ticks at checkpoints that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.plot._names import as_number, room, set_ticks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes


def linear_until(steps: npt.NDArray[Any]) -> float:
    """The step up to which the scale is linear: the first above zero."""
    above = np.abs(steps[np.isfinite(steps) & (steps != 0)])
    return float(above.min()) if len(above) else 1.0


def log_spaced(steps: Sequence[float] | npt.NDArray[Any], most: int) -> list[int]:
    """Places of at most so many steps, about evenly spaced on the scale of `draw_steps`, the first and last included.

    Parameters
    ----------
    steps : (step,)
        Ascending; NaN where there is none, and then places alone count.
    most : int
        At least 2.

    Examples
    --------
    >>> steps = [0, 5, 9, 15, 25, 43, 73, 126, 215, 368, 630]
    >>> [steps[place] for place in log_spaced(steps, 5)]
    [0, 15, 43, 215, 630]
    >>> log_spaced([np.nan] * 9, 3)
    [0, 4, 8]
    """
    values = np.asarray(steps, dtype=np.float64)
    if len(values) <= most:
        return list(range(len(values)))
    if np.isfinite(values).all() and values[-1] > values[0]:
        unit = linear_until(values)
        scaled = np.sign(values) * np.log1p(np.abs(values) / unit)
    else:
        scaled = np.arange(len(values), dtype=np.float64)
    chosen: list[int] = []
    for target in np.linspace(scaled[0], scaled[-1], most):
        # Those that are taken are taken: as many panes as there is room for.
        free = [place for place in range(len(values)) if place not in chosen]
        chosen.append(min(free, key=lambda place: abs(scaled[place] - target)))
    return sorted(chosen)


def draw_steps(ax: Axes, steps: npt.NDArray[Any], names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Make x the axis of training, and say where each checkpoint is on it.

    Parameters
    ----------
    ax : Axes
    steps : (checkpoint,)
        Ascending; NaN where they have none.
    names : (checkpoint,) of str
        Of the checkpoints, for ticks where they have no steps.

    Returns
    -------
    (checkpoint,)
        Their steps, or where one has none, their places.
    """
    steps = np.asarray(steps, dtype=np.float64)
    if not np.isfinite(steps).all():
        places = np.arange(len(steps), dtype=np.float64)
        set_ticks(ax, "x", places.tolist(), list(names), upright=True)
        ax.set_xlabel("checkpoint")
        return places
    if len(steps) > 1:
        ax.set_xscale("symlog", linthresh=linear_until(steps), linscale=0.5)
    # A number is about three times as wide as it is high, with the gap to the next.
    chosen = log_spaced(steps, min(8, max(2, room(ax, "x") // 3)))
    ax.set_xticks(steps[chosen], labels=[as_number(step) for step in steps[chosen]])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("training step")
    return steps
