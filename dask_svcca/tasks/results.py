"""What becomes of the pairs of a tile, before it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.evaluate import Values
    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray
    from dask_svcca.measures import Measure

    StatusArray = npt.NDArray[np.uint8]


class Results:
    """What becomes of the pairs of a tile.

    Attributes
    ----------
    status, turned : (a, b)
        `PairStatus` values, of a with b and of b with a; `PairStatus.MISSING` for pairs that were not looked at.
    values : dict of str to ((a, b), (a, b))
        By measure: of a with b, and of b with a; one array where these are the same.
    """

    def __init__(self, shape: tuple[int, int], measures: Sequence[Measure]) -> None:
        self.status: StatusArray = np.full(shape, PairStatus.MISSING, dtype=np.uint8)
        self.turned = self.status.copy()
        self.values: dict[str, tuple[FloatArray, FloatArray]] = {}
        for measure in measures:
            straight = np.full(shape, np.nan)
            self.values[measure.name] = straight, straight if measure.symmetric else straight.copy()

    def settle(self, status: PairStatus, pairs: BoolArray) -> None:
        """Record that some pairs have no value."""
        self.status[pairs] = self.turned[pairs] = status

    def take(self, pairs: BoolArray, values: Values, cells: tuple[IntArray, ...]) -> None:
        """Take the values of some pairs, given for the rows and columns that `numpy.ix_` made ``cells`` of."""
        inner = pairs[cells]
        for status, saturated in zip((self.status, self.turned), values.saturated, strict=True):
            status[pairs] = np.where(saturated, PairStatus.SATURATED, PairStatus.DONE)[inner]
        for name, both in values.values.items():
            for target, value in zip(self.values[name], both, strict=True):
                if inner.shape == pairs.shape:
                    np.copyto(target, value, where=pairs)
                else:
                    target[pairs] = value[inner]
                if self.values[name][0] is self.values[name][1]:
                    break

    def put(self, pairs: BoolArray, values: Mapping[str, tuple[FloatArray, FloatArray]]) -> None:
        """Take values of some pairs, given for all of the tile, and say nothing of their status."""
        for name, both in values.items():
            for target, value in zip(self.values[name], both, strict=True):
                np.copyto(target, value, where=pairs)

    def mirrored(self) -> Results:
        """On the diagonal, the upper triangle copied to the lower."""
        below = np.tri(len(self.status), k=-1, dtype=np.bool_)
        self.status, self.turned = (
            np.where(below, self.turned.T, self.status),
            np.where(below, self.status.T, self.turned),
        )
        for name, (straight, back) in self.values.items():
            whole = np.where(below, back.T, straight)
            self.values[name] = whole, whole if back is straight else np.where(below, straight.T, back)
        return self
