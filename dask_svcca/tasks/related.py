"""Pairs of a tile by what the samples of each representation are among one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dask_svcca.kernels.cosines import second_order
from dask_svcca.kernels.distances import compare_values, is_sampled
from dask_svcca.kernels.neighbours import count_shared
from dask_svcca.measures import Cosines, Distances, Neighbours, RelatedSums, relations_of
from dask_svcca.plan.relations import members_at_once
from dask_svcca.readings import EXAMPLES
from dask_svcca.stores.subspaces import read_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray
    from dask_svcca.measures import Measure, Relation
    from dask_svcca.plan.tasks import Places
    from dask_svcca.stores.subspaces import Pack, SubspaceRecord
    from dask_svcca.tasks.worker import Context

    Values = dict[str, tuple[FloatArray, FloatArray]]


class _Member(NamedTuple):
    """Where a relation of one representation is."""

    pack: Pack
    record: SubspaceRecord


def related_values(
    context: Context, places: tuple[Places, Places], measures: Sequence[Measure], todo: BoolArray
) -> tuple[Values, BoolArray]:
    """Values of measures of the samples among one another, for pairs of two groups of one domain.

    Parameters
    ----------
    context : Context
    places : (Places, Places)
        The very same for a group with itself.
    measures : sequence of Measure
        Others are left out.
    todo : (a, b)

    Returns
    -------
    values : dict of str to ((a, b), (a, b))
        By measure, of a with b and of b with a: NaN where a relation of one of the two cannot be found.
    there : (a, b)
        Those pairs for which it is known whether there are values.
    """
    values: Values = {}
    there = todo
    for relation in relations_of(measures):
        sides = [_found(context, side, relation) for side in places]
        known = [np.array([member is not None for member in side]) for side in sides]
        there = there & np.logical_and.outer(*known)
        a, b = (
            {number: one for number, one in enumerate(side) if one is not None and not one.record.entry.problem}
            for side in sides
        )
        pairs = np.zeros_like(there)
        cells = np.ix_(list(a), list(b))
        pairs[cells] = there[cells]
        of_relation = [one for one in measures if one.related is not None and one.related.relation == relation]
        results = {measure.name: np.full(todo.shape, np.nan) for measure in of_relation}
        if pairs.any():
            sums = _sums(context, relation, a, b, pairs)
            with context.timed("values"):
                for measure in of_relation:
                    if measure.related is not None:
                        found = measure.related.value(sums)
                        results[measure.name][pairs] = found[pairs]
        values |= {name: (found, found) for name, found in results.items()}
    return values, there


def _found(context: Context, places: Places, relation: Relation) -> list[_Member | None]:
    """The relation of each member of a group; None where it was not made."""
    found: list[_Member | None] = []
    for own in places:
        place = next((one for one in own if one.relation == relation.identity), None)
        pack = None if place is None else context.worker.pack(place.pack)
        record = None if place is None or pack is None else pack.records[place.position]
        made = pack is not None and record is not None and record.entry.key
        found.append(_Member(pack, record) if made else None)  # type: ignore[arg-type]
    return found


def _sums(
    context: Context,
    relation: Relation,
    a: Mapping[int, _Member],
    b: Mapping[int, _Member],
    pairs: BoolArray,
) -> RelatedSums:
    """Numbers that pairs have of a relation, and those of the layers themselves."""
    rows, columns = (np.flatnonzero(pairs.any(axis=axis)) for axis in (1, 0))
    entry = a[int(rows[0])].record.entry
    numbers: npt.NDArray[Any] = np.zeros((*pairs.shape, relation.pair_numbers))
    size = members_at_once(relation, entry.directions, a[int(rows[0])].pack.chunk_samples)
    for some in _some_at_a_time(rows, size):
        for others in _some_at_a_time(columns, size):
            cells = np.ix_(some, others)
            if pairs[cells].any():
                both = [a[one] for one in some], [b[one] for one in others]
                numbers[cells] = _of_pairs(context, relation, *both, pairs[cells])
    own = [np.zeros((len(entry.sums) - 1, size)) for size in pairs.shape]
    for side, members in zip(own, (a, b), strict=True):
        for number, member in members.items():
            side[:, number] = member.record.entry.sums[1:]
    samples = int(entry.sums[0])
    return RelatedSums(numbers, own[0][:, :, np.newaxis], own[1][:, np.newaxis], samples, entry.domain == EXAMPLES)


def _some_at_a_time(members: IntArray, size: int) -> list[list[int]]:
    return [members[start : start + size].tolist() for start in range(0, len(members), size)]


def _of_pairs(
    context: Context, relation: Relation, a: Sequence[_Member], b: Sequence[_Member], pairs: BoolArray
) -> npt.NDArray[Any]:
    """Numbers of some pairs, (a, b, number), summed over all that is stored."""
    first = a[0]
    rows, length = first.record.entry.samples, first.pack.chunk_samples
    buffers = [np.empty((len(side), first.record.entry.directions, length), first.pack.dtype) for side in (a, b)]
    # With all pairs of examples there is no error to tell.
    powers = isinstance(relation, Distances) and is_sampled(int(first.record.entry.sums[0]))
    total: npt.NDArray[Any] = np.zeros(
        (*pairs.shape, relation.pair_numbers), np.int64 if isinstance(relation, Neighbours) else np.float64
    )
    for chunk in range(-(-rows // length)):
        for side, buffer in zip((a, b), buffers, strict=True):
            packs = {member.pack.name: member.pack for member in side}
            wanted: dict[str, list[tuple[int, Any]]] = {}
            for member, part in zip(side, buffer, strict=True):
                wanted.setdefault(member.pack.name, []).append((member.record.first, part))
            with context.timed("read"):
                read_scores(
                    chunk,
                    [(packs[name], sorted(ranges, key=lambda one: one[0])) for name, ranges in wanted.items()],
                )
        count = min(length, rows - chunk * length)
        with context.timed("coupling"):
            if isinstance(relation, Cosines):
                total += second_order(buffers[0], buffers[1], pairs, relation.count)
            elif isinstance(relation, Neighbours):
                count_shared(total, buffers[0][..., :count], buffers[1][..., :count], pairs)
            else:
                wide = [buffer[:, 0, :count].astype(np.float64) for buffer in buffers]
                total += compare_values(wide[0], wide[1], powers=powers)
                del wide
    return total
