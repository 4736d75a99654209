"""Memory that a tile takes which compares layers by the inner products of samples."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dask_svcca.kernels.grams import HELD_SUMS, block_entries, products_by_samples, room_entries
from dask_svcca.plan.memory import TileMemory, score_dtype
from dask_svcca.stores.subspaces import chunk_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.plan.tiles import KindPair, Side, TileOptions

GRAMS_CHEAPER = 0.95
"""Share of the work from which inner products of samples are worth it."""


SHAPES: Final = ((1, 4), (1, 1), (2, 1), (4, 1), (8, 1))
"""How often narrower blocks are, and how many chunks of rows are held: the first that memory allows.

The more chunks are held, the less often those of the columns are read.
"""


def memory_by_samples(kind_pairs: Sequence[KindPair], options: TileOptions, available: float) -> TileMemory | None:
    """What a tile takes by the inner products of samples; None where that is not possible, or not cheaper.

    Where inner products are stored there is no other way.
    """
    if not options.norms_only or any(side.widest.grid for pair in kind_pairs for side in (pair.a, pair.b)):
        return None
    couplings = grams = 0.0
    most = max(side.members for pair in kind_pairs for side in (pair.a, pair.b))
    if any(side.kernels for pair in kind_pairs for side in (pair.a, pair.b)):
        for members in sorted({most, *(2**power for power in range(most.bit_length()))}, reverse=True):
            memory = _memory(kind_pairs, options, members, available)
            if memory.peak <= available:
                break
        return memory
    for pair in kind_pairs:
        sides = (pair.a,) if pair.same else (pair.a, pair.b)
        samples = pair.a.widest.samples
        double = 2 if pair.a.units.number > score_dtype(options.precision, is_complex=False).itemsize else 1
        # A pair of a layer with itself is one of them.
        pairs = pair.a.members * (pair.a.members + 1) / 2 if pair.same else pair.a.members * pair.b.members
        couplings += (
            double * samples * (pair.a.directions / pair.a.members) * (pair.b.directions / pair.b.members) * pairs
        )
        directions, members = (sum(getattr(side, name) for side in sides) for name in ("directions", "members"))
        grams += products_by_samples(samples, directions, members, int(pairs))
    memory = _memory(kind_pairs, options, most, available)
    return memory if memory.peak <= available and grams < GRAMS_CHEAPER * couplings else None


def _memory(kind_pairs: Sequence[KindPair], options: TileOptions, members: int, available: float) -> TileMemory:
    """What it takes with so many members of each side at a time: in the least that there is where that is too much."""
    for narrow, held in SHAPES:
        memory = TileMemory(0, 0, 0, 0, 0, members, narrow, held)
        peak = max(_grams_bytes(pair, options, memory) for pair in kind_pairs)
        if peak <= available:
            break
    return replace(memory, peak=math.ceil(peak))


def _grams_bytes(pair: KindPair, options: TileOptions, memory: TileMemory) -> float:
    """Bytes that two sides take."""
    # Two parts of the same side are two sides.
    members = memory.by_samples
    sides = (pair.a,) if pair.same and members >= pair.a.members else (pair.a, pair.b)
    sums = HELD_SUMS * 16 * min(members, pair.a.members) * min(members, pair.b.members)
    return sums + sum(_gram_bytes(side, options, memory) for side in sides)


def _gram_bytes(side: Side, options: TileOptions, memory: TileMemory) -> float:
    """Bytes of the scores of one side in some chunks, of a block of each Gram matrix, and of what is evaluated."""
    item, samples = score_dtype(options.precision, is_complex=False).itemsize, side.widest.samples
    length = chunk_length(samples, options.chunk_samples)
    members = min(memory.by_samples, side.members)
    directions = min(side.directions, members * side.widest.width)
    scores = min(memory.held + 1, -(-samples // length)) * directions * length * item
    evaluated = 4 * 8 * side.members * (side.width // max(1, side.members) + side.widest.width)
    norms = 3 * 8 * members * length if options.sample_sums else 0
    return (
        scores
        + members * room_entries(block_entries(length, samples, memory.narrow)) * item
        + evaluated
        + norms
        + 2 * 8 * side.directions
    )
