"""Colours: of a measure over its valid range, and grey for what has no value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.plot._names import PLAIN, legend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.image import AxesImage

COLOURS: Final = "viridis"
"""From dark to light, told apart by people of all colour visions, and in print without colours."""

GREY: Final = "#9a9a9a"
"""What has no value: seen on white and on black, and far from all `COLOURS`."""

MARK: Final = "#e8004c"
"""What is pointed at within a matrix of `COLOURS`."""


@dataclass(frozen=True)
class Scale:
    """How values become colours.

    Attributes
    ----------
    low, high : float
        Values of the first and the last colour.
    reversed : bool
        Whether low values are light: those of a distance.
    label : str
        What the colours mean.
    """

    low: float
    high: float
    reversed: bool
    label: str

    @property
    def colours(self) -> Any:
        """The colours, a map of matplotlib."""
        from matplotlib import colormaps  # noqa: PLC0415 - only who draws needs it

        return colormaps[COLOURS + ("_r" if self.reversed else "")].with_extremes(bad=GREY)


def scale_of(name: str, attributes: Mapping[str, Any], values: Sequence[npt.NDArray[Any]]) -> Scale:
    """Scale of a measure: its valid range, and where that has no bound, the values themselves.

    Parameters
    ----------
    name : str
        Of the measure.
    attributes : mapping
        Of its variable.
    values : sequence of array
        What is drawn, NaN where there is no value.

    Examples
    --------
    >>> scale_of("svcca", {"valid_range": [0.0, 1.0], "sense": "similarity"}, [np.array([0.4, 0.6])])
    Scale(low=0.0, high=1.0, reversed=False, label='svcca')
    >>> scale_of("gulp", {"valid_range": [0.0, None], "sense": "distance"}, [np.array([0.4, np.nan])])
    Scale(low=0.0, high=0.4, reversed=True, label='gulp (a distance: low is alike)')
    """
    low, high = bounds_of(attributes, values)
    return Scale(low, high, attributes.get("sense") == "distance", label_of(name, attributes))


def label_of(name: str, attributes: Mapping[str, Any]) -> str:
    """A measure in words: its name, and that it is a distance where it is."""
    return name + (" (a distance: low is alike)" if attributes.get("sense") == "distance" else "")


def bounds_of(attributes: Mapping[str, Any], values: Sequence[npt.NDArray[Any]]) -> tuple[float, float]:
    """Bounds of a measure, or of what is drawn where the measure has none."""
    bounds = [np.nan if bound is None else float(bound) for bound in attributes.get("valid_range", (None, None))]
    low, high = (bound if np.isfinite(bound) else np.nan for bound in bounds)
    finite = np.concatenate([[], *(each[np.isfinite(each)] for each in values)])
    if np.isnan(low):
        low = float(finite.min()) if len(finite) else 0.0
    if np.isnan(high):
        high = float(finite.max()) if len(finite) else low + 1.0
    return low, high if high > low else low + 1.0


def draw_matrix(ax: Axes, values: npt.NDArray[Any], scale: Scale, *, square: bool = False) -> AxesImage:
    """Values as colours, the first row at the bottom; grey where there is none.

    Parameters
    ----------
    ax : Axes
    values : (y, x)
        NaN where there is no value.
    scale : Scale
    square : bool
        Whether a step of x is as long as one of y.
    """
    ax.grid(visible=False)
    return ax.imshow(
        np.ma.masked_invalid(values),
        cmap=scale.colours,
        vmin=scale.low,
        vmax=scale.high,
        origin="lower",
        aspect="equal" if square else "auto",
        interpolation="nearest",
    )


def add_colour_bar(drawn: ScalarMappable, axes: Any, label: str, without: str = "") -> None:
    """A bar that says what the colours mean; and below it, what grey does.

    Parameters
    ----------
    drawn : ScalarMappable
    axes : Axes or array of Axes
        Those beside which it stands.
    label : str
    without : str
        What it is that has no value; empty where everything has.
    """
    from matplotlib.patches import Patch  # noqa: PLC0415 - only who draws needs it

    beside = list(np.ravel(np.asarray(axes, dtype=object)))
    bar = beside[0].get_figure(root=False).colorbar(drawn, ax=beside)
    bar.set_label(label, **PLAIN)
    if without:
        legend(
            bar.ax,
            [Patch(facecolor=GREY)],
            [without],
            loc="upper left",
            bbox_to_anchor=(-0.6, -0.03),
            borderaxespad=0.0,
            frameon=False,
            handlelength=1.0,
            fontsize="small",
        )


def shades(ax: Axes, count: int) -> list[Any]:
    """Colours for lines in an order, such as of depth: seen on the background that they are drawn on."""
    from matplotlib import colormaps  # noqa: PLC0415 - only who draws needs it
    from matplotlib.colors import to_rgb  # noqa: PLC0415

    red, green, blue = to_rgb(ax.get_facecolor()[:3])
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
    places = np.linspace(*((0.25, 1.0) if dark else (0.0, 0.85)), max(count, 1))
    return [colormaps[COLOURS](place) for place in places]


def kinds(count: int) -> list[dict[str, Any]]:
    """Colours and dashes for lines in no order, such as of models: Okabe and Ito's, without black and yellow."""
    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
    dashes = ("-", "--", ":", "-.")
    return [
        {"color": colours[number % len(colours)], "linestyle": dashes[number // len(colours) % len(dashes)]}
        for number in range(count)
    ]
