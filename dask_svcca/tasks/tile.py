"""The second stage: one tile, from two groups of subspaces to a block of the matrix of results."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.evaluate import Basis, Evaluation, finish_details, no_details
from dask_svcca.kernels.subspace import leading_directions
from dask_svcca.measures import leading_only, needs_loadings
from dask_svcca.plan.memory import NARROW, PanelUnits
from dask_svcca.plan.tasks import TileReport
from dask_svcca.readings import meet
from dask_svcca.tasks.panel import Member, couplings, cut
from dask_svcca.variables import DETAIL_VARIABLES, PAIR_STATUS, VALUED, PairStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.evaluate import Details, Values
    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray
    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.measures import Measure
    from dask_svcca.plan.tasks import Places, SubspacePlace, TileTask
    from dask_svcca.readings import Meeting
    from dask_svcca.stores.subspaces import SubspaceEntry
    from dask_svcca.tasks.panel import Panel
    from dask_svcca.tasks.worker import Context

    StatusArray = npt.NDArray[np.uint8]


def compute_tile(context: Context, task: TileTask, places_a: Places, places_b: Places) -> TileReport:
    """Compute the missing pairs of one tile and write them; the status last.

    Parameters
    ----------
    context : Context
    task : TileTask
    places_a, places_b : tuple of tuple of SubspacePlace
        Where the subspaces of either group are.
    """
    tile = _Tile(context, task, places_a, places_b)
    status_array = context.worker.variable(PAIR_STATUS.name)
    asked = np.unpackbits(np.frombuffer(task.selected, np.uint8), count=math.prod(tile.shape)).reshape(tile.shape) > 0
    status = np.asarray(status_array[tile.place], dtype=np.uint8)
    # Pairs of which some measures are there need the others only.
    for state, names in ((PairStatus.MISSING, ()), (PairStatus.PARTIAL, context.job.settled)):
        wanted = asked & (status == state)
        if wanted.any():
            update = tile.compute(wanted, without=names)
            status = np.where(update != PairStatus.MISSING, update, status)
    # Of all that were asked for, whoever computed them: an attempt before this one may have, and not lived to tell.
    found = status[np.triu(asked) if tile.diagonal else asked]
    valued = int(np.isin(found, VALUED).sum())
    missing = int(np.isin(found, (PairStatus.MISSING, PairStatus.PARTIAL)).sum())
    return TileReport(task.row, task.column, valued, len(found) - valued - missing, context.seconds)


class _Tile:
    """One tile at work."""

    def __init__(self, context: Context, task: TileTask, places_a: Places, places_b: Places) -> None:
        self._context, self._task = context, task
        self.diagonal = task.row == task.column
        self.shape = len(places_a), len(places_b)
        first, second = task.row * task.side, task.column * task.side
        self.place = slice(first, first + self.shape[0]), slice(second, second + self.shape[1])
        self._places = places_a, places_b
        self._entries = [[_entry(context, own[0]) if own else None for own in places] for places in self._places]

    def compute(self, wanted: BoolArray, without: Sequence[str]) -> StatusArray:
        """Compute some pairs and write them; what became of them, `PairStatus.MISSING` for all others."""
        measures = tuple(measure for measure in self._context.job.measures if measure.name not in without)
        sizes = {name: size for name, size in self._task.details.items() if name not in without}
        details = no_details(self.shape, sizes)
        update, turned, values = self._evaluate(wanted, measures, details)
        valued = np.isin(update, VALUED)
        with self._context.timed("write"):
            worker = self._context.worker
            results = [(worker.variable(measure.name), *values[measure.name]) for measure in measures]
            results += [(worker.variable(DETAIL_VARIABLES[name].name), found, found) for name, found in details.items()]
            mirrored = self.place[::-1]
            for array, straight, back in results:
                # The mirror image first: a tile counts as done by its own status, which is written last of all.
                if not self.diagonal:
                    _put(array, mirrored, back.swapaxes(0, 1), valued.T)
                _put(array, self.place, straight, valued)
            status = worker.variable(PAIR_STATUS.name)
            if not self.diagonal:
                _put(status, mirrored, turned.T, turned.T != PairStatus.MISSING)
            _put(status, self.place, update, update != PairStatus.MISSING)
        return update

    def _evaluate(
        self, wanted: BoolArray, measures: Sequence[Measure], details: Details
    ) -> tuple[StatusArray, StatusArray, dict[str, tuple[FloatArray, FloatArray]]]:
        """What becomes of the wanted pairs, of a with b and of b with a; and the values of those done, both (a, b)."""
        entries_a, entries_b = self._entries
        there = np.outer([e is not None for e in entries_a], [e is not None for e in entries_b])
        sound = np.outer(
            [e is not None and not e.problem for e in entries_a], [e is not None and not e.problem for e in entries_b]
        )
        # On the diagonal each pair once; the other triangle is its mirror image.
        todo = np.triu(wanted) if self.diagonal else wanted
        status = np.where(todo & there & ~sound, PairStatus.FAILED, PairStatus.MISSING).astype(np.uint8)
        turned = status.copy()
        values = {m.name: (np.full(self.shape, np.nan), np.full(self.shape, np.nan)) for m in measures}
        for kind_a, members_a in _kinds(entries_a).items():
            for kind_b, members_b in _kinds(entries_b).items():
                cells = np.ix_(members_a, members_b)
                if not todo[cells].any():
                    continue
                meeting = meet(*kind_a, *kind_b, self._context.job.parameters.match)
                if isinstance(meeting, PairStatus):
                    for one in (status, turned):
                        one[cells] = np.where(todo[cells], meeting, one[cells])
                    continue
                kept_only = leading_only(measures)
                side_a = self._members(0, members_a, meeting.fold_a, kept_only=kept_only)
                same = self.diagonal and kind_a == kind_b
                side_b = side_a if same else self._members(1, members_b, meeting.fold_b, kept_only=kept_only)
                part = np.zeros_like(todo)
                part[np.ix_(list(side_a), list(side_b))] = todo[np.ix_(list(side_a), list(side_b))]
                if not part.any():
                    # Nothing folded could be made: these pairs stay missing, and the report of the fold says why.
                    continue
                found = self._pairs(side_a, side_b, part, meeting, measures, details)
                for one, saturated in zip((status, turned), found.saturated, strict=True):
                    one[part] = np.where(saturated, PairStatus.SATURATED, PairStatus.DONE)[part]
                for name, both in found.values.items():
                    for target, value in zip(values[name], both, strict=True):
                        target[part] = value[part]
        finish_details(details, diagonal=self.diagonal)
        if self.diagonal:
            below = np.tri(len(status), k=-1, dtype=np.bool_)
            status, turned = np.where(below, turned.T, status), np.where(below, status.T, turned)
            values = {
                name: (np.where(below, back.T, there), np.where(below, there.T, back))
                for name, (there, back) in values.items()
            }
        return status, turned, values

    def _members(self, side: int, members: Sequence[int], fold: Grid, *, kept_only: bool) -> dict[int, Member]:
        """The subspaces to compare by: the representations' own, or those folded on a partner's grid."""
        found = {}
        for member in members:
            place = next((place for place in self._places[side][member] if place.fold == fold), None)
            pack = None if place is None else self._context.worker.pack(place.pack)
            if place is None or pack is None:
                continue
            record = pack.records[place.position]
            if record.entry.key and not record.entry.problem:
                spectrum = pack.spectrum(record)
                variance = self._context.job.parameters.variance
                basis = Basis(
                    spectrum=spectrum,
                    block=record.entry.block,
                    kept=leading_directions(spectrum, record.entry.multiplicity, variance),
                    grid=record.entry.grid,
                    samples=record.entry.samples,
                    neurons=record.entry.neurons,
                )
                found[member] = Member(pack, record, basis, tuple(basis.member_blocks(member, kept_only=kept_only)))
        return found

    def _pairs(
        self,
        a: Mapping[int, Member],
        b: Mapping[int, Member],
        todo: BoolArray,
        meeting: Meeting,
        measures: Sequence[Measure],
        details: Details,
    ) -> Values:
        """Values of all measures for pairs of two sides, each of one kind."""
        context, memory = self._context, self._task.memory
        narrow = min(sum(member.directions for member in side.values()) / len(side) for side in (a, b)) < NARROW
        loadings, same = needs_loadings(measures), b is a
        first_a, first_b = (next(iter(side.values())) for side in (a, b))
        units = [
            PanelUnits.of(
                first.pack.dtype,
                np.result_type(first_a.pack.dtype, first_b.pack.dtype),
                first.pack.chunk_samples,
                first.record.entry.samples,
                narrow=narrow,
            )
            for first in (first_a, first_b)
        ]
        met = [
            np.bincount([getattr(one, side) for one in meeting.shared], minlength=len(first.basis.block_multiplicity))
            for side, first in (("a", first_a), ("b", first_b))
        ]
        panels_a = cut(context, a, units[0], memory, met[0], loadings=loadings)
        panels_b = panels_a if same else cut(context, b, units[1], memory, met[1], loadings=loadings)
        # A panel with itself needs no second buffer.
        buffers = _largest(panels_a), _largest(panels_b if not same or len(panels_a) > 1 else [])
        evaluation = Evaluation(
            {number: member.basis for number, member in a.items()},
            {number: member.basis for number, member in b.items()},
            meeting,
            measures,
            todo,
            details=details,
            single=not narrow and panels_a[0].dtype.char in "fF",
            stack_bytes=memory.stack,
        )
        for panel_a in panels_a:
            partners = [panel for panel in panels_b if todo[np.ix_(panel_a.members, panel.members)].any()]
            loadings_a = panel_a.read_loadings() if loadings and partners else {}
            for panel_b in partners:
                loadings_b = loadings_a
                if loadings and panel_b is not panel_a:
                    loadings_b = panel_b.read_loadings()
                _add(context, evaluation, panel_a, panel_b, buffers, (loadings_a, loadings_b), narrow=narrow)
                # Or they would still be there while the next are read.
                evaluation.forget_loadings()
                del loadings_b
            del loadings_a
        norms = None
        if any("row_norms" in measure.needs for measure in measures):
            norms = _row_norms(evaluation, panels_a, panels_b, buffers, memory.stack)
        with context.timed("values"):
            found = evaluation.values(*(norms or ()))
            # What makes a pair's value what it is may be told by measures that are there already.
            return replace(found, saturated=evaluation.saturated(context.job.measures))


def _entry(context: Context, place: SubspacePlace) -> SubspaceEntry | None:
    """What is known of a subspace; None where it was not made."""
    pack = context.worker.pack(place.pack)
    entry = None if pack is None else pack.records[place.position].entry
    return entry if entry is not None and entry.key else None


def _kind(entry: SubspaceEntry) -> tuple[str, Grid]:
    return entry.domain, entry.grid


def _kinds(entries: Sequence[SubspaceEntry | None]) -> dict[tuple[str, Grid], list[int]]:
    """Members of a group by what a sample is and by grid."""
    kinds: dict[tuple[str, Grid], list[int]] = {}
    for member, entry in enumerate(entries):
        if entry is not None and not entry.problem:
            kinds.setdefault(_kind(entry), []).append(member)
    return kinds


def _largest(panels: Sequence[Panel]) -> InexactArray:
    """A buffer that takes a chunk of any of the panels: reused, since fresh memory is five times slower to fill."""
    return max(panels, key=lambda panel: panel.directions).buffer() if panels else np.empty((0, 0))


def _add(
    context: Context,
    evaluation: Evaluation,
    a: Panel,
    b: Panel,
    buffers: tuple[InexactArray, InexactArray],
    loadings: tuple[Mapping[int, InexactArray], Mapping[int, InexactArray]],
    *,
    narrow: bool,
) -> None:
    """Give the couplings of two panels to an evaluation."""
    shared = [one for one in evaluation.meeting.shared if a.has(one.a) and b.has(one.b)]
    products = couplings(context, a, b, buffers, shared, narrow=narrow)
    for frequency, product in zip(shared, products, strict=True):
        row = 0
        for blocks_a in a.alike(frequency.a):
            k = blocks_a[0].directions
            column = 0
            for blocks_b in b.alike(frequency.b):
                l = blocks_b[0].directions
                part = product[row : row + len(blocks_a) * k, column : column + len(blocks_b) * l]
                cells = part.reshape(len(blocks_a), k, len(blocks_b), l).transpose(0, 2, 1, 3)
                with context.timed("values"):
                    evaluation.add(cells, blocks_a, blocks_b, frequency, loadings)
                column += len(blocks_b) * l
            row += len(blocks_a) * k
    with context.timed("values"):
        evaluation.finish()


def _row_norms(
    evaluation: Evaluation,
    panels_a: Sequence[Panel],
    panels_b: Sequence[Panel],
    buffers: tuple[InexactArray, InexactArray],
    room: int,
) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
    """Inner products, over all samples, of the squared norms of the samples of two sides; sums of their squares."""
    same = panels_b is panels_a
    sides = list(zip((panels_a, panels_b), buffers, evaluation.weights, strict=True))[: 1 if same else 2]
    norms = [np.zeros((count, panels_a[0].length)) for count in evaluation.shape[: len(sides)]]
    products, squares = np.zeros(evaluation.shape), [np.zeros(len(norm)) for norm in norms]
    for chunk in range(panels_a[0].chunks):
        for (panels, buffer, weights), norm, square in zip(sides, norms, squares, strict=True):
            for panel in panels:
                panel.row_norms(chunk, buffer, weights, room, out=norm)
            square += np.einsum("ms,ms->m", norm, norm)
        products += norms[0] @ norms[-1].T
    return products, (squares[0], squares[-1])


def _put(
    array: zarr.Array[Any], place: tuple[slice, slice], values: npt.NDArray[Any], valued: npt.NDArray[np.bool_]
) -> None:
    """Write the values of some pairs of a tile, and leave the others as they are."""
    if not valued.all():
        chosen = valued.reshape(valued.shape + (1,) * (values.ndim - 2))
        there = np.array(array[place])
        np.copyto(there, values, where=chosen)
        values = there
    array[place] = values
