"""Names on figures, as they are: never as mathematics, never so long that nothing else has room."""

from __future__ import annotations

from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.text import Text

LONGEST: Final = 24
"""Characters of a name at a tick."""

LONGEST_IN_SENTENCE: Final = 40
"""Characters of a name in a title or the label of an axis."""

PLAIN: Final[dict[str, Any]] = {"parse_math": False, "usetex": False}
"""Properties of a text that has names in it: ``$x$`` is a name, whatever the settings say of TeX."""

LINE: Final = 1.25
"""Height of a line of text, in font sizes."""

WIDTH: Final = 0.6
"""Width of a character, in font sizes."""

LEFT: Final = 0.8
"""Share of an axis that names, legends and bars beside it leave of it."""

BESIDE: Final = 0.4
"""Share of a pane that names beside it may take of it."""

SHORTEST: Final = 7
"""Characters that are left of a name however small the figure is."""

PARTS: Final = ("model", "checkpoint", "layer")


def shown(name: str, longest: int = LONGEST) -> str:
    r"""A name as it is drawn: shortened in the middle, and without characters that cannot be seen.

    Examples
    --------
    >>> print(shown("conv1"), shown("features.stage3.block12.conv2"), shown("turned" + chr(0x202E)))
    conv1 features.sta…ock12.conv2 turned\u202e
    """
    if len(name) > longest:
        head = longest // 2
        name = f"{name[:head]}…{name[head + 1 - longest :]}"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def in_a_sentence(name: str) -> str:
    """A name in a title or the label of an axis."""
    return shown(name, LONGEST_IN_SENTENCE)


def as_number(value: float) -> str:
    """A step, an epoch or a depth, as people write it.

    Examples
    --------
    >>> as_number(630.0), as_number(0.5), as_number(1_200_000.0)
    ('630', '0.5', '1.2M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if letter == "k" else size)
            return f"{scaled:.4g}{letter}"
    return f"{value:.4g}"


def make_small(ax: Axes) -> None:
    """Small labels, where there are many panes, or a pane is small."""
    ax.tick_params(labelsize="x-small")
    ax.title.set_fontsize("medium")
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_fontsize("small")


def set_title(ax: Axes, *lines: str) -> Text:
    """A title of some lines, those that are empty left out, and those that are longer than the pane is wide broken."""
    size = _points(ax.title.get_fontsize())
    # A title may be somewhat wider than its pane: legends and names stand beside that.
    most = int(1.1 * _length(ax, "x") / (size * WIDTH))
    return ax.set_title("\n".join(part for line in lines for part in _broken(line, most)), fontsize=size, **PLAIN)


def set_labels(ax: Axes, x: str = "", y: str = "") -> None:
    """Labels of both axes: that of x in as many lines as it takes, and of that of y as much as has room."""
    across, up = (
        int(LEFT * _length(ax, axis) / (_points(label.get_fontsize()) * WIDTH))
        for axis, label in (("x", ax.xaxis.label), ("y", ax.yaxis.label))
    )
    ax.set_xlabel("\n".join(_broken(x, max(LONGEST, across))), **PLAIN)
    ax.set_ylabel(shown(y, max(LONGEST // 2, up)), **PLAIN)


def _broken(line: str, most: int) -> list[str]:
    """Lines of at most so many characters: broken between words, and words that are longer shortened."""
    most = max(LONGEST // 2, most)
    return [shown(part, most) for part in wrap(line, most, break_long_words=False, break_on_hyphens=False)]


def small_enough(ax: Axes, name: str) -> str:
    """A name in a legend beside a pane: shorter, where the pane is small."""
    return shown(name, _fitting(_length(ax, "x"), _points("x-small")))


def room(ax: Axes, axis: str) -> int:
    """How many lines of text have room along an axis, at least 2."""
    return max(2, int(LEFT * _length(ax, axis) / (_tick_points(ax, axis) * LINE)))


def room_in_legend(ax: Axes) -> int:
    """How many names have room in a legend beside a pane."""
    return int(LEFT * _length(ax, "y") / (_points("x-small") * (LINE + 0.15)))


def _fitting(length: float, size: float) -> int:
    """Characters of a name beside a pane that is so long, in points."""
    return min(LONGEST, max(SHORTEST, int(BESIDE * length / (size * WIDTH))))


def _length(ax: Axes, axis: str) -> float:
    """Length of an axis, in points, before names take some of it."""
    box = ax.get_position()
    figure: Any = ax.get_figure(root=False)
    pixels = box.width * figure.bbox.width if axis == "x" else box.height * figure.bbox.height
    return float(pixels * 72 / figure.dpi)


def _tick_points(ax: Axes, axis: str) -> float:
    from matplotlib import rcParams  # noqa: PLC0415 - only who draws needs it

    drawn: Any = ax.xaxis if axis == "x" else ax.yaxis
    usual = rcParams["xtick.labelsize" if axis == "x" else "ytick.labelsize"]
    return _points(drawn.get_tick_params().get("labelsize", usual))


def _points(size: str | float) -> float:
    from matplotlib.font_manager import FontProperties  # noqa: PLC0415 - only who draws needs it

    return float(FontProperties(size=size).get_size_in_points())


def thinned(count: int, most: int) -> list[int]:
    """Places of at most so many of some items, evenly spaced, the first among them.

    Examples
    --------
    >>> thinned(5, 8), thinned(10, 4)
    ([0, 1, 2, 3, 4], [0, 3, 6, 9])
    """
    return list(range(0, count, max(1, -(-count // most))))


def set_ticks(ax: Axes, axis: str, places: Sequence[float], texts: Sequence[str], *, upright: bool = False) -> None:
    """Ticks with texts, as many of them and as much of each as has room.

    Parameters
    ----------
    ax : Axes
    axis : {"x", "y"}
    places : sequence of float
        Where on the axis.
    texts : sequence of str
        Names.
    upright : bool
        Whether the texts of x stand on their side, as names do.
    """
    chosen = thinned(len(places), room(ax, axis) if upright or axis == "y" else max(2, room(ax, axis) // 2))
    options: dict[str, Any] = dict(PLAIN)
    if axis == "x" and upright:
        options |= {"rotation": 90}
    set_them = ax.set_xticks if axis == "x" else ax.set_yticks
    across = "y" if axis == "x" else "x"
    # Where panes stand in a row, only the first has names, in the room of all.
    figure: Any = ax.get_figure(root=False)
    whole = (figure.bbox.width if across == "x" else figure.bbox.height) * 72 / figure.dpi
    longest = _fitting(max(_length(ax, across), whole / 2.5), _tick_points(ax, axis))
    set_them([places[one] for one in chosen], labels=[shown(texts[one], longest) for one in chosen], **options)
    set_them([], minor=True)


def legend(ax: Axes, handles: Sequence[Any], texts: Sequence[str], **options: Any) -> None:
    """A legend whose texts are drawn as they are, also those that begin with an underscore."""
    found = ax.legend(handles, ["x"] * len(texts), **options)
    for drawn, text in zip(found.get_texts(), texts, strict=True):
        drawn.set(text=text, **PLAIN)


def runs(values: Sequence[Any]) -> list[tuple[Any, int, int]]:
    """Neighbours of equal value: the value, the place of the first, and the place after the last.

    Examples
    --------
    >>> runs(["cnn", "cnn", "resnet"])
    [('cnn', 0, 2), ('resnet', 2, 3)]
    """
    if not len(values):
        return []
    array = np.asarray(values, dtype=object)
    edges = [0, *(np.flatnonzero(array[1:] != array[:-1]) + 1).tolist(), len(array)]
    return [(array[start], start, stop) for start, stop in pairwise(edges)]
