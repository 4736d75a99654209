"""Estimates of all pairs of some sketches with some others: block by block, on all cores."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from dask_svcca import machine
from dask_svcca.kernels.sketch import estimate, standard_error
from dask_svcca.stores.choice import as_slice

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

BLOCK: Final = 512
"""Rows and columns of pairs whose products are made together."""

STRIP: Final = 64
"""Rows of a block that become estimates at a time: what they take stays in the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some sketches, and what else their estimates hang on.

    Attributes
    ----------
    numbers : (row, size)
        NaN for those that have none.
    own : (row,)
        Sums of their squares.
    spread : (row,)
        See `dask_svcca.kernels.sketch.concentration`.
    domain : (row,) int
        Kinds of samples; pairs of unlike ones have no estimate.
    """

    numbers: FloatArray
    own: FloatArray
    spread: FloatArray
    domain: npt.NDArray[np.int64]

    @classmethod
    def of(cls, numbers: FloatArray, spread: npt.NDArray[np.floating], domain: npt.NDArray[np.int64]) -> Self:
        """Sketches by their numbers, concentrations and kinds of samples."""
        return cls(numbers, np.vecdot(numbers, numbers), spread.astype(np.float32), domain)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: npt.NDArray[np.integer]) -> Batch:
        """Some of them; neighbours are not copied."""
        place = as_slice(rows)
        return Batch(self.numbers[place], self.own[place], self.spread[place], self.domain[place])


def estimated(a: Batch, b: Batch, *, errors: bool = True) -> tuple[FloatArray, FloatArray]:
    """Estimates of all pairs, (a, b), and their standard errors.

    Parameters
    ----------
    a, b : Batch
        Where both are the same object, each pair is estimated once.
    errors : bool
        Whether standard errors are asked for; otherwise none are there, (0, 0).
    """
    mirrored, size = a is b, a.numbers.shape[1]
    values = np.empty((len(a), len(b)), dtype=np.float32)
    off = np.empty(values.shape if errors else (0, 0), dtype=np.float32)
    one_kind = bool((a.domain == b.domain[:1]).all() and (b.domain == b.domain[:1]).all())

    def work(place: tuple[int, int]) -> None:
        columns = slice(place[1], min(place[1] + BLOCK, len(b)))
        # Of a block on the diagonal both are the same memory, and NumPy computes half of it.
        products = a.numbers[place[0] : place[0] + BLOCK] @ b.numbers[columns].T
        for start in range(0, len(products), STRIP):
            strip = products[start : start + STRIP]
            rows = slice(place[0] + start, place[0] + start + len(strip))
            with np.errstate(invalid="ignore", divide="ignore"):
                found = estimate(strip, a.own[rows, np.newaxis], b.own[columns])
            if not one_kind:
                found[a.domain[rows, np.newaxis] != b.domain[columns]] = np.nan
            put(values, rows, columns, found)
            if errors:
                put(off, rows, columns, standard_error(found, a.spread[rows, np.newaxis], b.spread[columns], size))

    def put(matrix: FloatArray, rows: slice, columns: slice, found: FloatArray) -> None:
        matrix[rows, columns] = found
        if mirrored and rows.stop <= columns.start:
            matrix[columns, rows] = found.T

    starts = itertools.product(range(0, len(a), BLOCK), range(0, len(b), BLOCK))
    # One thread of BLAS each: what comes after the product is work for all cores too.
    with machine.one_blas_thread(), ThreadPoolExecutor(machine.cores()) as threads:
        list(threads.map(work, [place for place in starts if not mirrored or place[0] <= place[1]]))
    return values, off
