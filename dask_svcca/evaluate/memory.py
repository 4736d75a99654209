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
"""Stacks held at the worst moment: couplings, and those weighted by the spectra or their Gram matrices."""

STACKS_OF_VECTORS = 5.5
"""The same where canonical vectors are needed: vectors of both sides, scaled, and times the neurons; measured."""

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


def solving_bytes(measures: Iterable[Measure], stack: float, pair: float) -> float:
    """Bytes of a stack that is solved, with all that measures compute from it.

    Parameters
    ----------
    measures : iterable of Measure
    stack : float
        Bytes of the pairs that are solved together.
    pair : float
        Bytes of the largest pair.

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> [round(solving_bytes(find_measures(names), 4e8, 1e8) / 1e8) for names in ("svcca", "pwcca")]
    [9, 22]
    """
    measures = tuple(measures)
    pieces = min(SMALL_STACK, 2 * stack)
    # Covariances of neurons, their correlations, and what the assignment takes.
    pieces += max(MATCHED * 8 * measure.most_neurons**2 for measure in measures) if measures else 0
    if any(isinstance(measure, OwnMeasure) for measure in measures):
        pieces += STACKS_OF_OWN * stack
    if any("loadings" in measure.needs for measure in measures):
        return pieces + max(STACKS_OF_VECTORS * stack, 3 * stack + LAPACK_VECTORS * pair)
    return pieces + STACKS * stack + LAPACK_VALUES * pair
