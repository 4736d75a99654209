"""Names on figures, as they are: never as mathematics, never so long that nothing else has room."""

from __future__ import annotations

from itertools import pairwise
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

LEFT: Final = 0.8
"""Share of an axis that names, legends and bars beside it leave of it."""

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
    """Small labels, where there are many panes."""
    ax.tick_params(labelsize="x-small")
    ax.title.set_fontsize("medium")


def set_title(ax: Axes, *lines: str) -> Text:
    """A title of some lines, those that are empty left out."""
    size = ax.title.get_fontsize()
    return ax.set_title("\n".join(line for line in lines if line), fontsize=size, **PLAIN)


def set_labels(ax: Axes, x: str = "", y: str = "") -> None:
    """Labels of both axes."""
    ax.set_xlabel(x, **PLAIN)
    ax.set_ylabel(y, **PLAIN)


def room(ax: Axes, axis: str) -> int:
    """How many lines of text have room along an axis, at least 2."""
    from matplotlib import rcParams  # noqa: PLC0415 - only who draws needs it
    from matplotlib.font_manager import FontProperties  # noqa: PLC0415

    box = ax.get_position()
    figure: Any = ax.get_figure(root=True)
    length = box.width * figure.get_figwidth() if axis == "x" else box.height * figure.get_figheight()
    drawn: Any = ax.xaxis if axis == "x" else ax.yaxis
    size = FontProperties(
        size=drawn.get_tick_params().get("labelsize", rcParams["xtick.labelsize" if axis == "x" else "ytick.labelsize"])
    ).get_size_in_points()
    return max(2, int(LEFT * length * 72 / (size * LINE)))


def thinned(count: int, most: int) -> list[int]:
    """Places of at most so many of some items, evenly spaced, the first among them.

    Examples
    --------
    >>> thinned(5, 8), thinned(10, 4)
    ([0, 1, 2, 3, 4], [0, 3, 6, 9])
    """
    return list(range(0, count, max(1, -(-count // most))))


def set_ticks(ax: Axes, axis: str, places: Sequence[float], texts: Sequence[str], *, upright: bool = False) -> None:
    """Ticks with texts, as many of them as have room.

    Parameters
    ----------
    ax : Axes
    axis : {"x", "y"}
    places : sequence of float
        Where on the axis.
    texts : sequence of str
        As they are drawn.
    upright : bool
        Whether the texts of x stand on their side, as names do.
    """
    chosen = thinned(len(places), room(ax, axis) if upright or axis == "y" else max(2, room(ax, axis) // 2))
    options: dict[str, Any] = dict(PLAIN)
    if axis == "x" and upright:
        options |= {"rotation": 90}
    set_them = ax.set_xticks if axis == "x" else ax.set_yticks
    set_them([places[one] for one in chosen], labels=[texts[one] for one in chosen], **options)
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
