"""What samples are among one another: which tasks make it, and the memory that they and the tiles take for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_svcca.kernels.distances import MOST_AMONG
from dask_svcca.measures import Cosines, Distances, relations_of
from dask_svcca.plan.memory import Pass, SubspaceCosts, sample_costs
from dask_svcca.stores.subspaces import chunk_length

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from dask_svcca.measures import Measure, Relation
    from dask_svcca.readings import Reading

SAMPLES_AT_ONCE = 1024
"""Samples whose products with as many others are held at a time."""

PRODUCT_COPIES = 4
"""Copies of these products, and of what is found among them: as they are, as keys, and parted."""

FOUND_COPIES = 4
"""How often what is found of each sample is held: so far, joined with what comes, and sorted."""

OPERAND_BYTES = 64 * 2**20
"""Bytes of what is stored of some representations that a tile holds of each side, or of one representation."""

PAIR_BYTES = 60
"""Bytes that a pair takes for a neighbour of each example: places in both layers, distances, how often it counts."""

AMONG_COPIES = 4
"""Matrices of distances of some examples that are held, times two, while triples of pairs are summed."""

SAMPLE_COPIES = 6
"""Numbers that are held of each sample: lengths, sums of distances, and where its pairs begin."""

SUM_COPIES = 3
"""How often a tile holds the numbers that a pair has of a relation: counted, joined, and multiplied."""


def relation_costs(
    relation: Relation,
    reading: Reading,
    *,
    shape: Sequence[int],
    chunk_examples: int,
    dtype: np.dtype[np.generic],
    precision: str,
) -> SubspaceCosts:
    """Memory that it takes to find what samples are among one another.

    Parameters
    ----------
    relation : Relation
    reading : Reading
        Of one block.
    shape : sequence of int
        Shape of the activations.
    chunk_examples : int
        Examples in a chunk of activations.
    dtype : numpy.dtype
        Type of the activations.
    precision : str
    """
    neurons, samples = reading.neurons(shape[-1]), reading.samples(shape[0])
    vector = neurons * 8
    at_once = min(SAMPLES_AT_ONCE, samples)
    stored = relation.rows(samples) * relation.width(samples)
    found = FOUND_COPIES * stored * 8 + SAMPLE_COPIES * samples * 8
    if isinstance(relation, Distances):
        found += AMONG_COPIES * min(samples, MOST_AMONG) ** 2 * 8
    products = PRODUCT_COPIES * at_once**2 * 8
    block = reading.samples(min(chunk_examples, shape[0])) * neurons * 8
    return SubspaceCosts(
        **sample_costs(reading, shape, chunk_examples, dtype),
        first=Pass(5 * vector, 8 * vector),
        between=2 * found,
        gram=Pass(found, found + block + products),
        last=Pass(0, 0),
        centred=block,
        all_centred=samples * neurons * 8,
        scatter=0,
        result=stored * relation.dtype(precision).itemsize,
    )


def sum_bytes(measures: Iterable[Measure]) -> int:
    """Bytes that a tile holds of the numbers that one pair has of a relation; those of one relation at a time.

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> sum_bytes(find_measures("svcca")), sum_bytes(find_measures("jaccard(k=3)"))
    (0, 96)
    """
    return max((SUM_COPIES * 8 * relation.pair_numbers for relation in relations_of(measures)), default=0)


def members_at_once(relation: Relation, width: int, rows: int) -> int:
    """How many representations a tile holds of each side at a time.

    Parameters
    ----------
    relation : Relation
    width, rows : int
        Numbers in a row of what is stored, and rows in a chunk.
    """
    return max(1, OPERAND_BYTES // (relation.held_bytes * width * rows))


def operand_bytes(measures: Iterable[Measure], samples: int, members: int) -> int:
    """Bytes that a tile takes of what is stored of the samples, for both sides.

    Parameters
    ----------
    measures : iterable of Measure
    samples : int
    members : int
        Representations on a side, at most.
    """
    most = 0
    for relation in relations_of(measures):
        width, rows = relation.width(samples), chunk_length(relation.rows(samples), relation.chunk_rows(samples))
        held = min(members, members_at_once(relation, width, rows)) + 1
        most = max(most, held * relation.held_bytes * width * rows)
        if isinstance(relation, Cosines):
            most += width * relation.count * (PAIR_BYTES + relation.count)
    return 2 * most
