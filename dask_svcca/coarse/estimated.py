"""What sketches say of the pairs of a zoo before they are compared: how similar they are, and which are nearest."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca import machine
from dask_svcca.errors import MemoryLimitError
from dask_svcca.kernels.sketch import estimate, standard_error
from dask_svcca.plan.selection import Selection
from dask_svcca.sketches.opened import made, numbers_of
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
    def _numbers(self) -> tuple[FloatMatrix, FloatMatrix, FloatMatrix, IntVector]:
        """Numbers of the sketches, sums of their squares, concentrations, and kinds of samples; NaN for none."""
        numbers = np.full((len(self._rows), self._sketches.family.size), np.nan, dtype=np.float32)
        spread = np.full(len(self._rows), np.nan, dtype=np.float32)
        domain = np.full(len(self._rows), -1, dtype=np.int64)
        rows = self._rows[self._there]
        numbers[self._there] = numbers_of(self._sketches, rows)
        spread[self._there] = self._sketches.column("concentration")[rows]
        domain[self._there] = self._sketches.column("domain")[rows]
        return numbers, np.einsum("rf,rf->r", numbers, numbers), spread, domain

    def block(self, rows: IntVector, columns: IntVector) -> tuple[FloatMatrix, FloatMatrix]:
        """Estimates and standard errors of some pairs, (a, b); NaN where two are not comparable, or one has no sketch.

        Parameters
        ----------
        rows, columns : (a,) and (b,) int
            Positions in the zoo.
        """
        numbers, own, spread, domain = self._numbers
        with np.errstate(invalid="ignore"):
            found = estimate(numbers[rows] @ numbers[columns].T, own[rows, np.newaxis], own[columns])
            found[domain[rows, np.newaxis] != domain[columns]] = np.nan
            errors = standard_error(found, spread[rows, np.newaxis], spread[columns], self._sketches.family.size)
        return found.astype(np.float32), errors.astype(np.float32)

    def partners(self, count: int) -> IntVector:
        """Positions of the representations that are most similar to each, (representation, partner), by estimate.

        Parameters
        ----------
        count : int
            How many of each, at most; -1 where there are fewer that it can be compared with.
        """
        every = np.arange(len(self._rows))
        kept = min(count, len(every) - 1)
        chosen = np.full((len(every), kept), -1, dtype=np.int64)
        for start in range(0, len(every) if kept else 0, STRIPE):
            rows = every[start : start + STRIPE]
            distance = -self.block(rows, every)[0]
            distance[np.arange(len(rows)), rows] = np.nan
            distance[np.isnan(distance)] = np.inf
            best = np.argpartition(distance, kept - 1, axis=1)[:, :kept]
            chosen[rows] = np.where(np.isfinite(np.take_along_axis(distance, best, axis=1)), best, -1)
        return chosen

    def nearest(self, count: int) -> Selection:
        """Pairs of each representation with itself, and with those that are most similar to it."""
        return Selection.of_partners(self.partners(count))
