"""Representations in an order in which models, checkpoints and layers are intervals, so that a view is two of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    IntVector = npt.NDArray[np.int64]

OrderName: TypeAlias = Literal["step", "depth"]
Level: TypeAlias = Literal["model", "checkpoint", "layer"]

LEVELS: Final[dict[OrderName, tuple[Level, Level, Level]]] = {
    "step": ("model", "checkpoint", "layer"),
    "depth": ("model", "layer", "checkpoint"),
}
"""What the intervals of an order are, from the widest on."""

MOST_CELLS: Final = 400
"""Cells that a view has along one side, at most; where there is more to show, neighbours are pooled."""


@dataclass(frozen=True, slots=True)
class Cells:
    """What a view shows along one side.

    Attributes
    ----------
    level : str
        What its cells are.
    edges : (cell + 1,) int
        Positions at which cells begin, and the end of the last.
    """

    level: Level
    edges: IntVector

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def single(self) -> bool:
        """Whether each cell is one representation."""
        return int(self.edges[-1] - self.edges[0]) == len(self)


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Representations by model, then by step and depth, or by depth and step.

    Attributes
    ----------
    name : {"step", "depth"}
    places : (representation,) int
        Places in the comparison, by position in this order.
    starts : tuple of (start,) int
        Positions at which another interval begins, for each of `LEVELS`.
    """

    name: OrderName
    places: IntVector
    starts: tuple[IntVector, IntVector, IntVector]

    @classmethod
    def build(cls, name: OrderName, columns: Mapping[str, npt.NDArray[Any]]) -> Order:
        """Order representations.

        Parameters
        ----------
        name : {"step", "depth"}
        columns : mapping of str to (representation,)
            ``model``, ``checkpoint``, ``layer``, ``step`` and ``depth``.

        Examples
        --------
        >>> names = {"model": ["m"] * 4, "checkpoint": ["c9", "c9", "c10", "c10"], "layer": ["fc", "in", "fc", "in"]}
        >>> columns = {**names, "step": [9, 9, 10, 10], "depth": [1, 0, 1, 0]}
        >>> order = Order.build("depth", {name: np.array(values) for name, values in columns.items()})
        >>> order.places, order.cells(0, 4).edges, order.cells(2, 4).level
        (array([1, 3, 0, 2]), array([0, 2, 4]), 'checkpoint')
        """
        model = _codes(columns["model"])
        number = {"checkpoint": np.asarray(columns["step"], float), "layer": np.asarray(columns["depth"], float)}
        _, middle, last = LEVELS[name]
        codes = {level: _codes(columns[level]) for level in ("checkpoint", "layer")}
        # A checkpoint, or a layer of a model, is one interval even where its representations say different numbers.
        first = _smallest(model * (codes[middle].max(initial=0) + 1) + codes[middle], number[middle])
        places = np.lexsort((codes[last], number[last], codes[middle], first, model))
        changed = np.diff(model[places], prepend=-1) != 0
        changed_too = changed | (np.diff(codes[middle][places], prepend=-1) != 0)
        count = len(places)
        return cls(name, places, (np.flatnonzero(changed), np.flatnonzero(changed_too), np.arange(count)))

    def cells(self, low: int, high: int) -> Cells:
        """Cells of a view from one position up to another: models, or what one model has.

        Parameters
        ----------
        low, high : int
            ``0 <= low < high``.
        """
        for level, starts in zip(LEVELS[self.name], self.starts, strict=True):
            inner = starts[np.searchsorted(starts, low, "right") : np.searchsorted(starts, high)]
            if len(inner) or level == LEVELS[self.name][-1]:
                edges = np.concatenate([[low], inner, [high]])
                together = -(-(len(edges) - 1) // MOST_CELLS)
                return Cells(level, np.append(edges[:-1][::together], high))
        raise AssertionError  # the last level has been met

    def groups(self, most: int) -> IntVector:
        """Edges of at most so many groups: intervals of the second level, or neighbours of these together."""
        starts = self.starts[1]
        return np.append(starts[:: max(1, -(-len(starts) // most))], len(self.places))


def _codes(names: npt.NDArray[Any]) -> IntVector:
    """A number for each name, in the order in which they first appear."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(str(name), len(numbers)) for name in names], dtype=np.int64)


def _smallest(groups: IntVector, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """For each element, the smallest value of its group; infinity where it has none."""
    _, inverse = np.unique(groups, return_inverse=True)
    smallest = np.full(inverse.max(initial=-1) + 1, np.inf)
    np.fmin.at(smallest, inverse, values)
    return np.asarray(smallest[inverse])
