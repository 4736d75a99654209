"""Memory that an evaluation takes: for the plan that promises it, and for the evaluation that keeps to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_svcca.measures import OwnMeasure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dask_svcca.measures import Measure

STACK_BYTES = 16 * 2**20
"""Bytes of the pairs handed to LAPACK at once: many small ones in one call."""

STACKS = 2.0
"""Copies of the couplings of a stack at the worst moment: as they are, and weighted by spectra or Gram matrices."""

STACKS_OF_VECTORS = {8: 4.5, 16: 5.5}
"""The same where canonical vectors are needed: vectors of both sides, scaled, and times the neurons; measured.

By the bytes of a number: those of complex ones are conjugated, too.
"""

STACKS_OF_OWN = 1.0
"""What comes to them where a measure is the user's own, which may ask for the squares; others only sum them up."""

LAPACK_VALUES = 1.05
"""Workspace of LAPACK for singular values alone, in couplings of one pair: a copy of it. Measured."""

LAPACK_VECTORS = 6.0
"""The same for singular vectors; measured. By then the stack takes the vectors of both sides."""

MATCHED = 8
"""Numbers that are held of a pair of neurons while they are matched, at most where linear programs do it; measured."""

SMALL_STACK = 2 * 2**20
"""Bytes that do not grow with a large stack: pieces of it that are gathered, tested or put in place at a time."""


def pair_bytes(k: int, l: int, itemsize: int) -> int:
    """Bytes of one pair in a stack: its coupling, and rows of spectra, correlations and sums beside it.

    Parameters
    ----------
    k, l : int
        Directions.
    itemsize : int
        Bytes of a number in double precision, real or complex.

    Examples
    --------
    >>> pair_bytes(100, 100, 8), pair_bytes(1, 1, 8)
    (86592, 264)
    """
    # Spectra of both sides as they are gathered and as they are handed over; correlations and what follows from them.
    return itemsize * k * l + 8 * (2 * (k + l) + 4 * min(k, l) + 24)


def solving_bytes(measures: Iterable[Measure], stack: float, k: int, l: int, itemsize: int) -> float:
    """Bytes of a stack that is solved, with all that measures compute from it.

    Parameters
    ----------
    measures : iterable of Measure
    stack : float
        Bytes of the pairs that are solved together.
    k, l, itemsize : int
        Of the largest pair: see `pair_bytes`.

    Examples
    --------
    Only couplings are copied, and of narrow layers these are the smaller part:

    >>> from dask_svcca.measures import find_measures
    >>> measures = [find_measures(name) for name in ("svcca", "pwcca")]
    >>> [[round(solving_bytes(one, 1e8, width, width, 8) / 1e6) for one in measures] for width in (500, 4)]
    [[203, 447], [135, 191]]
    """
    measures = tuple(measures)
    pair, coupling = pair_bytes(k, l, itemsize), itemsize * k * l
    couplings = stack * coupling / pair
    # Spectra are held once more while couplings are weighted by them.
    beside = stack - couplings + stack * 8 * (k + l) / pair + min(SMALL_STACK, 2 * stack)
    # Covariances of neurons, their correlations, and what the assignment takes.
    beside += max(MATCHED * 8 * measure.most_neurons**2 for measure in measures) if measures else 0
    if any(isinstance(measure, OwnMeasure) for measure in measures):
        beside += STACKS_OF_OWN * stack
    if any("loadings" in measure.needs for measure in measures):
        return beside + max(STACKS_OF_VECTORS[itemsize] * couplings, 3 * couplings + LAPACK_VECTORS * pair)
    return beside + STACKS * couplings + LAPACK_VALUES * pair
