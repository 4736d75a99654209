"""Memory that a tile takes which compares layers by the inner products of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_svcca.kernels.grams import HELD_SUMS, block_samples, products_by_samples
from dask_svcca.plan.memory import score_dtype
from dask_svcca.stores.subspaces import chunk_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.plan.tiles import KindPair, Side, TileOptions

GRAMS_CHEAPER = 0.8
"""Share of the multiplications from which inner products of samples are worth it: they are many small products."""


def memory_by_samples(
    kind_pairs: Sequence[KindPair], options: TileOptions, available: float
) -> tuple[int, float] | None:
    """How many of each side are compared at a time by the inner products of samples, and the bytes that they take.

    None where that is not possible, or not cheaper. Where inner products are stored there is no other way.
    """
    if not options.norms_only or any(side.widest.grid for pair in kind_pairs for side in (pair.a, pair.b)):
        return None
    couplings = grams = peak = 0.0
    most = max(side.members for pair in kind_pairs for side in (pair.a, pair.b))
    if any(side.kernels for pair in kind_pairs for side in (pair.a, pair.b)):
        for members in sorted({most, *(2**power for power in range(most.bit_length()))}, reverse=True):
            peak = max(_grams_bytes(pair, options, members) for pair in kind_pairs)
            if peak <= available:
                break
        return members, peak
    for pair in kind_pairs:
        sides = (pair.a,) if pair.same else (pair.a, pair.b)
        samples = pair.a.widest.samples
        double = 2 if pair.a.units.number > score_dtype(options.precision, is_complex=False).itemsize else 1
        couplings += double * samples * pair.a.directions * pair.b.directions / (2 if pair.same else 1)
        grams += products_by_samples(samples, sum(side.directions for side in sides), pair.a.members * pair.b.members)
        peak = max(peak, _grams_bytes(pair, options, most))
    return (most, peak) if peak <= available and grams < GRAMS_CHEAPER * couplings else None


def _grams_bytes(pair: KindPair, options: TileOptions, members: int) -> float:
    """Bytes that two sides take, with so many members of each at a time."""
    # Two parts of the same side are two sides.
    sides = (pair.a,) if pair.same and members >= pair.a.members else (pair.a, pair.b)
    sums = HELD_SUMS * 16 * min(members, pair.a.members) * min(members, pair.b.members)
    return sums + sum(_gram_bytes(side, options, members) for side in sides)


def _gram_bytes(side: Side, options: TileOptions, members: int) -> float:
    """Bytes of the scores of one side in two chunks, of a block of each Gram matrix, and of what is evaluated."""
    item, samples = score_dtype(options.precision, is_complex=False).itemsize, side.widest.samples
    length = chunk_length(samples, options.chunk_samples)
    block = block_samples(length, samples)
    members = min(members, side.members)
    directions = min(side.directions, members * side.widest.width)
    scores = min(2, -(-samples // length)) * directions * length * item
    evaluated = 4 * 8 * side.members * (side.width // max(1, side.members) + side.widest.width)
    norms = 3 * 8 * members * length if options.sample_sums else 0
    return scores + members * block**2 * item + evaluated + norms + 2 * 8 * side.directions
