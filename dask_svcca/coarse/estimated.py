"""What sketches say of the pairs of a zoo before they are compared: how similar they are, and which are nearest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca import machine
from dask_svcca.errors import MemoryLimitError
from dask_svcca.plan.selection import Selection
from dask_svcca.sketches.opened import made, numbers_of
from dask_svcca.sketches.pairs import Batch, estimated
from dask_svcca.sketches.store import DIM

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.sketches.opened import Opened

    FloatMatrix = npt.NDArray[np.float32]
    IntVector = npt.NDArray[np.int64]

STRIPE: Final = 256
"""Rows whose estimates with all others are in memory at a time."""

USED_SHARE: Final = 0.5
"""Share of the free memory that sketches may take: a comparison needs some, too."""


class Estimated:
    """Estimates of linear CKA of the representations of a zoo, by their positions there; see `Likeness`.

    Parameters
    ----------
    sketches : Opened
    labels : sequence of str
        Of the representations of the zoo, in its order; NaN is said of those that have no sketch.

    Raises
    ------
    MemoryLimitError
        Where the sketches do not fit in memory.

    Examples
    --------
    >>> import dask_svcca
    >>> from dask_svcca.sketches.opened import opened
    >>> x, y = np.random.default_rng(0).normal(size=(2, 300, 8))
    >>> sketches = dask_svcca.sketch({"conv1": x, "conv2": x + y / 2, "fc": y})
    >>> found = Estimated(opened(sketches), ["fc", "conv1", "conv2"])
    >>> found.block(np.array([1]), np.array([1, 2]))[0].round(1), found.partners(1).ravel()
    (array([[1. , 0.8]], dtype=float32), array([2, 2, 1]))
    """

    def __init__(self, sketches: Opened, labels: Sequence[str]) -> None:
        self._sketches = sketches
        known = {str(label): row for row, label in enumerate(sketches.column(DIM))}
        self._rows = np.array([known.get(label, -1) for label in labels], dtype=np.int64)
        self._there = np.zeros(len(labels), dtype=np.bool_)
        inside = self._rows >= 0
        self._there[inside] = made(sketches)[self._rows[inside]]
        self._labels = tuple(labels)
        needed, room = len(labels) * sketches.family.size * 4, int(USED_SHARE * machine.available_memory())
        if needed > room:
            raise MemoryLimitError(
                f"the sketches of {len(labels):,} representations take {needed / 2**20:,.0f} MiB, and "
                f"{room / 2**20:,.0f} MiB are free for them. Make smaller sketches in a store of their own, and name it"
            )

    @property
    def count(self) -> int:
        """Number of representations."""
        return len(self._labels)

    @property
    def problems(self) -> dict[str, str]:
        """Representations that have no sketch, with the reason: a sentence that names them."""
        reasons = self._sketches.column("problem")
        return {
            label: str(reasons[row])
            for label, row, there in zip(self._labels, self._rows.tolist(), self._there.tolist(), strict=True)
            if not there and row >= 0
        }

    @property
    def failure(self) -> str:
        """What to say of `problems`; empty where there are none."""
        if not self.problems:
            return ""
        label, first = next(iter(self.problems.items()))
        return f"{len(self.problems)} of {self.count} representations have no estimate. The first: {label!r} {first}"

    @cached_property
    def _batch(self) -> Batch:
        """All sketches, in the order of the zoo; NaN for none."""
        there = self._there
        rows = self._rows[there]
        numbers = numbers_of(self._sketches, rows)
        spread, domain = (self._sketches.column(name)[rows] for name in ("concentration", "domain"))
        if not there.all():
            numbers = _spread_out(numbers, there, np.nan)
            spread, domain = _spread_out(spread, there, np.nan), _spread_out(domain, there, -1)
        return Batch.of(numbers, spread, domain)

    def block(self, rows: IntVector, columns: IntVector) -> tuple[FloatMatrix, FloatMatrix]:
        """Estimates and standard errors of some pairs, (a, b); NaN where two are not comparable, or one has no sketch.

        Parameters
        ----------
        rows, columns : (a,) and (b,) int
            Positions in the zoo.
        """
        a = self._batch.take(rows)
        return estimated(a, a if np.array_equal(rows, columns) else self._batch.take(columns))

    def partners(self, count: int) -> IntVector:
        """Positions of the representations that are most similar to each, (representation, partner), by estimate.

        Parameters
        ----------
        count : int
            How many of each, at most; -1 where there are fewer that it can be compared with.
        """
        every = np.arange(len(self._rows))
        best = Highest(len(every), min(count, len(every) - 1))
        for start in range(0, len(every), STRIPE):
            rows, later = every[start : start + STRIPE], every[start:]
            # Pairs with those before them are known from the other side.
            found, _ = estimated(self._batch.take(rows), self._batch.take(later), errors=False)
            found[np.arange(len(rows)), np.arange(len(rows))] = np.nan
            best.add(rows, later, found)
            if len(later) > len(rows):
                best.add(later[len(rows) :], rows, found[:, len(rows) :].T)
        return best.places

    def nearest(self, count: int) -> Selection:
        """Pairs of each representation with itself, and with those that are most similar to it."""
        return Selection.of_partners(self.partners(count))


class Highest:
    """The columns of the highest values of each row of a matrix, of which parts come one after the other.

    Parameters
    ----------
    rows, kept : int
        Rows of the matrix, and how many columns of each are kept.

    Attributes
    ----------
    places : (row, kept) int
        Columns, in no order; -1 for none.

    Examples
    --------
    >>> best = Highest(2, 2)
    >>> best.add(np.arange(2), np.arange(3), np.array([[0.1, 0.3, 0.2], [0.4, np.nan, np.nan]], dtype=np.float32))
    >>> best.add(np.array([1]), np.array([3]), np.array([[0.5]], dtype=np.float32))
    >>> np.sort(best.places, axis=1)
    array([[1, 2],
           [0, 3]])
    """

    def __init__(self, rows: int, kept: int) -> None:
        self.places = np.full((rows, kept), -1, dtype=np.int64)
        self._values = np.full((rows, kept), -np.inf, dtype=np.float32)

    def add(self, rows: IntVector, columns: IntVector, values: FloatMatrix) -> None:
        """Take values of some rows and columns, (row, column); NaN for none."""
        kept = self.places.shape[1]

        def work(start: int) -> None:
            some = rows[start : start + STRIPE]
            joined = -np.concatenate([self._values[some], values[start : start + STRIPE]], axis=1)
            joined[np.isnan(joined)] = np.inf
            best = np.argpartition(joined, kept - 1, axis=1)[:, :kept]
            lowest = np.take_along_axis(joined, best, axis=1)
            known = np.take_along_axis(self.places[some], np.minimum(best, kept - 1), axis=1)
            place = np.where(best < kept, known, columns[np.maximum(best - kept, 0)])
            self.places[some] = np.where(np.isfinite(lowest), place, -1)
            self._values[some] = -lowest

        with ThreadPoolExecutor(machine.cores()) as threads:
            list(threads.map(work, range(0, len(rows) if kept else 0, STRIPE)))


def _spread_out(values: npt.NDArray[Any], there: npt.NDArray[np.bool_], fill: float) -> npt.NDArray[Any]:
    """Values of those that are there among all."""
    whole = np.full((len(there), *values.shape[1:]), fill, dtype=values.dtype)
    whole[there] = values
    return whole
