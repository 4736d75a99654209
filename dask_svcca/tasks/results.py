"""What becomes of the pairs of a tile, before it is written."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """What becomes of the pairs of a tile.

    Attributes
    ----------
    status, turned : (a, b)
        `PairStatus` values, of a with b and of b with a; `PairStatus.MISSING` for pairs that were not looked at.
    values : dict of str to ((a, b), (a, b))
        By measure: of a with b, and of b with a; one array where these are the same.
    """

    status: StatusArray
    turned: StatusArray
    values: dict[str, tuple[FloatArray, FloatArray]]

    @classmethod
    def nothing(cls, shape: tuple[int, int], measures: Sequence[Measure]) -> Results:
        """Results of pairs that were not looked at."""
        values = {}
        for measure in measures:
            straight = np.full(shape, np.nan)
            values[measure.name] = straight, straight if measure.symmetric else straight.copy()
        status = np.full(shape, PairStatus.MISSING, dtype=np.uint8)
        return cls(status, status.copy(), values)

    def part(self, rows: slice, columns: slice) -> Results:
        """Those of some rows and columns: what is put there is in all of them."""
        values = {}
        for name, (straight, back) in self.values.items():
            some = straight[rows, columns]
            values[name] = some, some if back is straight else back[rows, columns]
        return Results(self.status[rows, columns], self.turned[rows, columns], values)

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

    def mirror(self) -> None:
        """On the diagonal, copy the upper triangle to the lower."""
        below = np.tri(len(self.status), k=-1, dtype=np.bool_)
        for straight, back in ((self.status, self.turned), *self.values.values()):
            np.copyto(straight, back.T, where=below)
            if back is not straight:
                np.copyto(back, straight.T, where=below)
