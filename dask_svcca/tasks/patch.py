"""Some rows and columns of a tile, whose pairs are evaluated at a time: that takes more than their values do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dask_svcca.devices import HOST
from dask_svcca.evaluate import Basis, Evaluation, Values, are_unequal
from dask_svcca.kernels.lanes import LEAST_NUMBERS
from dask_svcca.kernels.products import Room, Summing, samples_in_single
from dask_svcca.measures import leading_only, needs_loadings, of_directions
from dask_svcca.plan.memory import PanelUnits
from dask_svcca.readings import EXAMPLES, meet
from dask_svcca.tasks.gram import norms_by_samples, sums_by_samples
from dask_svcca.tasks.norms import sum_over_samples
from dask_svcca.tasks.panel import Member, couplings, cut
from dask_svcca.tasks.rectangles import rectangles
from dask_svcca.tasks.related import related_values
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dask_svcca.evaluate import Details
    from dask_svcca.kernels._types import BoolArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.measures import Kernel, Measure
    from dask_svcca.plan.tasks import Places, TileTask
    from dask_svcca.readings import Meeting
    from dask_svcca.stores.subspaces import SubspaceEntry
    from dask_svcca.tasks.gram import Sums, SumsKey
    from dask_svcca.tasks.panel import Panel
    from dask_svcca.tasks.results import Results
    from dask_svcca.tasks.worker import Context


def patches(shape: tuple[int, int], side: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the patches of a tile, row by row.

    Parameters
    ----------
    shape : (int, int)
    side : int
        Representations along each axis of a patch, at most; 0 where there is one.

    Examples
    --------
    >>> patches((3, 2), 2)
    [(slice(0, 2, None), slice(0, 2, None)), (slice(2, 3, None), slice(0, 2, None))]
    """
    side = side or max(shape)
    rows, columns = ([slice(start, min(start + side, length)) for start in range(0, length, side)] for length in shape)
    return list(itertools.product(rows, columns))


class _Kinds(NamedTuple):
    """Members of one kind on each side, and pairs of them.

    Attributes
    ----------
    a, b : list of int
    todo : (a, b) of the patch
    same : bool
        Whether both are the same members.
    """

    a: list[int]
    b: list[int]
    todo: BoolArray
    same: bool


class _Part(NamedTuple):
    """Members of one kind on each side whose pairs are evaluated together.

    Attributes
    ----------
    a, b : dict of int to Member
        By position among the rows and columns that these pairs span; the very same for a side with itself.
    pairs : (a, b) of the patch
    cells : ((row, 1), (1, column))
        Rows and columns that these pairs span.
    many : bool
        Whether so much is evaluated of the patch that compiled code is worth to be loaded.
    """

    a: Mapping[int, Member]
    b: Mapping[int, Member]
    pairs: BoolArray
    cells: tuple[IntArray, ...]
    many: bool

    @property
    def todo(self) -> BoolArray:
        """These pairs within what they span."""
        return self.pairs[self.cells]


class Patch:
    """Pairs of a tile that are evaluated at a time.

    Parameters
    ----------
    context : Context
    task : TileTask
        The tile.
    places : (Places, Places)
        Where the subspaces of its rows and columns are.
    entries : (sequence of SubspaceEntry or None, the same)
        What is known of them; None where one was not made.
    sums : dict of SumsKey to Sums
        Inner products of samples that other tasks have summed.
    same : bool
        Whether rows and columns are the same.
    """

    def __init__(
        self,
        context: Context,
        task: TileTask,
        places: tuple[Places, Places],
        entries: tuple[Sequence[SubspaceEntry | None], Sequence[SubspaceEntry | None]],
        sums: Mapping[SumsKey, Sums],
        *,
        same: bool,
    ) -> None:
        self._context, self._task, self._sums = context, task, sums
        self._places, self._entries, self._same = places, entries, same

    def evaluate(self, todo: BoolArray, measures: Sequence[Measure], details: Details, results: Results) -> None:
        """Find what becomes of some pairs, each to be given once.

        Parameters
        ----------
        todo : (a, b)
        measures : sequence of Measure
        details : dict of str to (a, b, ...)
            Take those of the pairs, not sorted yet.
        results : Results
            Takes their values.
        """
        results.settle(PairStatus.FAILED, todo & self._failed())
        for meeting, kinds in self._meetings(todo):
            if isinstance(meeting, PairStatus):
                results.settle(meeting, kinds.todo)
            elif kinds.todo.any():
                self._compare(kinds, meeting, measures, details, results)

    def sums(self, todo: BoolArray, number: int) -> dict[SumsKey, Sums]:
        """One share of the inner products of samples of some pairs; see `dask_svcca.tasks.gram.sums_by_samples`."""
        found: dict[SumsKey, Sums] = {}
        measures = of_directions(self._context.job.measures)
        for meeting, kinds in self._meetings(todo):
            if isinstance(meeting, PairStatus) or not kinds.todo.any():
                continue
            for part in self._parts(kinds, meeting, kept_only=leading_only(measures), whole=False):
                kernels = _kernels(self._evaluation(part, meeting, measures), part)
                found |= sums_by_samples(
                    self._context,
                    part.a,
                    part.b,
                    self._task.memory,
                    (number, self._task.shares),
                    row_norms=_row_norms(measures, kernels),
                )
        return found

    def _meetings(self, todo: BoolArray) -> Iterator[tuple[Meeting | PairStatus, _Kinds]]:
        """How members of one kind meet those of another, and their pairs."""
        for kind_a, members_a in _kinds(self._entries[0]).items():
            for kind_b, members_b in _kinds(self._entries[1]).items():
                part = np.zeros_like(todo)
                cells = np.ix_(members_a, members_b)
                part[cells] = todo[cells]
                same = self._same and kind_a == kind_b
                meeting = meet(*kind_a, *kind_b, self._context.job.parameters.match)
                yield meeting, _Kinds(members_a, members_b, part, same)

    def _failed(self) -> BoolArray:
        """Pairs of which both subspaces were looked for, and one could not be made."""
        there = [[entry is not None for entry in entries] for entries in self._entries]
        sound = [[entry is not None and not entry.problem for entry in entries] for entries in self._entries]
        return np.asarray(np.outer(there[0], there[1]) & ~np.outer(sound[0], sound[1]))

    def _compare(
        self, kinds: _Kinds, meeting: Meeting, measures: Sequence[Measure], details: Details, results: Results
    ) -> None:
        """Compare members of one kind with those of another, and add their results."""
        related, todo = related_values(self._context, self._places, measures, kinds.todo)
        measures = of_directions(measures)
        if not (details or of_directions(self._context.job.measures)):
            results.settle(PairStatus.DONE, todo)
            results.put(todo, related)
            return
        kinds = kinds._replace(todo=todo)
        for part in self._parts(kinds, meeting, kept_only=leading_only(measures), whole=bool(details)):
            values = self._pairs(part, meeting, measures, details)
            results.take(part.pairs, values, part.cells)
            results.put(part.pairs, related)

    def _parts(self, kinds: _Kinds, meeting: Meeting, *, kept_only: bool, whole: bool) -> Iterator[_Part]:
        """Pairs of some kinds that are evaluated together; ``whole`` where their rows and columns are all of the patch.

        Where a folded subspace could not be made, pairs stay missing, and its report says why.
        """
        todo = kinds.todo
        rows, columns = (np.asarray(todo.any(axis=axis)) for axis in (1, 0))
        if kinds.same:
            rows = columns = rows | columns
        a = self._members(0, [one for one in kinds.a if rows[one]], meeting.fold_a, kept_only=kept_only)
        b = a
        if not kinds.same:
            b = self._members(1, [one for one in kinds.b if columns[one]], meeting.fold_b, kept_only=kept_only)
        there = np.zeros_like(todo)
        cells = np.ix_(list(a), list(b))
        there[cells] = todo[cells]
        kept_a, kept_b = (np.zeros(length) for length in todo.shape)
        for kept, side in ((kept_a, a), (kept_b, b)):
            kept[list(side)] = [np.count_nonzero(member.basis.kept) for member in side.values()]
        many = float(kept_a @ there @ kept_b) >= LEAST_NUMBERS
        for pairs in _parts(there, a, b):
            # Of a tile to which few are new, only what these span is evaluated; details are put in place as they come.
            in_rows, in_columns = (np.asarray(pairs.any(axis=axis)) for axis in (1, 0))
            cells = np.ix_(*(np.flatnonzero(some | whole) for some in (in_rows, in_columns)))
            some_a = _renumbered(a, cells[0].ravel(), in_rows)
            some_b = some_a
            if not kinds.same or not np.array_equal(in_rows, in_columns):
                some_b = _renumbered(b, cells[1].ravel(), in_columns)
            yield _Part(some_a, some_b, pairs, cells, many)

    def _members(self, side: int, members: Sequence[int], fold: Grid, *, kept_only: bool) -> dict[int, Member]:
        """The subspaces to compare by: the representations' own, or those folded on a partner's grid."""
        found = {}
        for member in members:
            place = next((one for one in self._places[side][member] if one.fold == fold and not one.relation), None)
            pack = None if place is None else self._context.worker.pack(place.pack)
            if place is not None and pack is not None:
                record = pack.records[place.position]
                if record.entry.key and not record.entry.problem:
                    found[member] = pack, record
        with self._context.timed("read"):
            spectra = [pack.spectrum(record) for pack, record in found.values()]
        variance = self._context.job.parameters.variance
        chosen = {}
        for (member, (pack, record)), spectrum in zip(found.items(), spectra, strict=True):
            basis = Basis(
                spectrum=spectrum,
                block=record.entry.block,
                kept=record.entry.kept(spectrum, variance),
                grid=record.entry.grid,
                samples=record.entry.samples,
                neurons=record.entry.neurons,
                squares=None if record.entry.orthonormal else record.entry.squares,
            )
            chosen[member] = Member(pack, record, basis, tuple(basis.member_blocks(member, kept_only=kept_only)))
        return chosen

    def _pairs(self, part: _Part, meeting: Meeting, measures: Sequence[Measure], details: Details) -> Values:
        """Values of all measures for pairs of two sides, each of one kind."""
        context, memory = self._context, self._task.memory_on(self._context.device.name)
        a, b, todo = part.a, part.b, part.todo
        if not (measures or details):
            # The status is about all measures, also those that a pair has already.
            return Values({}, self._evaluation(part, meeting, ()).saturated(context.job.measures))
        if memory.by_samples:
            return self._pairs_by_samples(part, meeting, measures)
        # All of a side are summed alike.
        summing = Summing.of(min(member.directions for side in (a, b) for member in side.values()))
        loadings, same = needs_loadings(measures), b is a
        first_a, first_b = (next(iter(side.values())) for side in (a, b))
        units = [
            PanelUnits.of(
                first.pack.dtype,
                np.result_type(first_a.pack.dtype, first_b.pack.dtype),
                first.pack.chunk_samples,
                first.record.entry.samples,
                summing,
                on_device=memory is not self._task.memory,
            )
            for first in (first_a, first_b)
        ]
        times = [
            np.bincount([getattr(one, side) for one in meeting.shared], minlength=len(first.basis.block_multiplicity))
            for side, first in (("a", first_a), ("b", first_b))
        ]
        panels_a = cut(context, a, units[0], memory, times[0], loadings=loadings)
        panels_b = panels_a if same else cut(context, b, units[1], memory, times[1], loadings=loadings)
        dtype = np.result_type(first_a.pack.dtype, first_b.pack.dtype, np.float64 if summing.double else np.float32)
        # What is made of couplings is made before the next ones come. Sums in single precision that are added up in
        # double are let go of before that.
        stays = summing.double or first_a.record.entry.samples <= samples_in_single(summing.samples)
        room = Room(dtype) if context.device is HOST and stays else None
        # A panel with itself needs no second buffer.
        buffers = _largest(panels_a), _largest(panels_b if not same or len(panels_a) > 1 else [])
        evaluation = Evaluation(
            {number: member.basis for number, member in a.items()},
            {number: member.basis for number, member in b.items()},
            meeting,
            measures,
            todo,
            details=details,
            single=panels_a[0].dtype.char in "fF",
            many=part.many,
            stack_bytes=memory.stack,
            device=context.device,
        )
        for panel_a in panels_a:
            partners = [panel for panel in panels_b if todo[np.ix_(panel_a.members, panel.members)].any()]
            loadings_a = panel_a.read_loadings() if loadings and partners else {}
            for panel_b in partners:
                loadings_b = loadings_a
                if loadings and panel_b is not panel_a:
                    loadings_b = panel_b.read_loadings()
                _add(
                    context, evaluation, panel_a, panel_b, buffers, (loadings_a, loadings_b), summing=summing, room=room
                )
                # Otherwise they would be held while the next are read.
                evaluation.forget_loadings()
                del loadings_b
            del loadings_a
        del room
        sums = sum_over_samples(
            context,
            evaluation,
            panels_a,
            panels_b,
            buffers,
            memory.stack,
            row_norms=any("row_norms" in measure.needs for measure in measures),
            kernels=_kernels(evaluation, part),
        )
        with context.timed("values"):
            values = evaluation.values(*sums)
            # The status is about all measures, also those that a pair has already.
            return replace(values, saturated=evaluation.saturated(context.job.measures))

    def _pairs_by_samples(self, part: _Part, meeting: Meeting, measures: Sequence[Measure]) -> Values:
        """The same by the inner products of samples."""
        context = self._context
        evaluation = self._evaluation(part, meeting, measures)
        kernels = _kernels(evaluation, part)
        norms = norms_by_samples(
            context,
            part.a,
            part.b,
            part.todo.shape,
            self._task.memory,
            row_norms=_row_norms(measures, kernels),
            found=self._sums,
        )
        with context.timed("values"):
            evaluation.take_norms(norms.cross)
            # Of one block, in the units of the activations: the squares of the diagonal of their inner products.
            values = evaluation.values(norms.rows, norms.squares, dict.fromkeys(kernels, norms.squares))
            return replace(values, saturated=evaluation.saturated(context.job.measures))

    def _evaluation(self, part: _Part, meeting: Meeting, measures: Sequence[Measure]) -> Evaluation:
        """An evaluation that is given no couplings."""
        a, b = ({number: member.basis for number, member in side.items()} for side in (part.a, part.b))
        return Evaluation(a, b, meeting, measures, part.todo)


def _kind(entry: SubspaceEntry) -> tuple[str, Grid]:
    return entry.domain, entry.grid


def _kinds(entries: Sequence[SubspaceEntry | None]) -> dict[tuple[str, Grid], list[int]]:
    """Members of a group by what a sample is and by grid."""
    kinds: dict[tuple[str, Grid], list[int]] = {}
    for member, entry in enumerate(entries):
        if entry is not None and not entry.problem:
            kinds.setdefault(_kind(entry), []).append(member)
    return kinds


def _kernels(evaluation: Evaluation, part: _Part) -> Sequence[Kernel]:
    """Kernels whose diagonals are needed: where pairs compare examples as they are, orders of samples are theirs."""
    first = next(iter(part.a.values()))
    of_examples = evaluation.meeting.is_of_samples and first.record.entry.domain == EXAMPLES
    return evaluation.kernels if of_examples else ()


def _row_norms(measures: Sequence[Measure], kernels: Sequence[Kernel]) -> bool:
    """Whether norms of samples are needed, where inner products of samples are summed."""
    return bool(kernels) or any("row_norms" in measure.needs for measure in measures)


def _parts(pairs: BoolArray, a: Mapping[int, Member], b: Mapping[int, Member]) -> Iterator[BoolArray]:
    """Pairs in parts of which all on one side are summed alike: a value must not hang on what else is compared."""
    of_a, of_b = ({number: Summing.of(one.directions) for number, one in side.items()} for side in (a, b))
    for first, second in itertools.product(sorted(set(of_a.values())), sorted(set(of_b.values()))):
        part = np.zeros_like(pairs)
        rows, columns = ([number for number in of if of[number] == one] for of, one in ((of_a, first), (of_b, second)))
        part[np.ix_(rows, columns)] = pairs[np.ix_(rows, columns)]
        if part.any():
            yield from rectangles(part)


def _renumbered(members: Mapping[int, Member], places: IntArray, chosen: BoolArray) -> dict[int, Member]:
    """Some members of a group by their positions among ``places``, in the same order."""
    return {
        number: members[place] if number == place else members[place].at(number)
        for number, place in enumerate(places.tolist())
        if chosen[place] and place in members
    }


def _largest(panels: Sequence[Panel]) -> list[InexactArray]:
    """Buffers that take a chunk of any of the panels: reused, since fresh memory is five times slower to fill."""
    return max(panels, key=lambda panel: panel.directions).buffers() if panels else []


def _add(
    context: Context,
    evaluation: Evaluation,
    a: Panel,
    b: Panel,
    buffers: tuple[list[InexactArray], list[InexactArray]],
    loadings: tuple[Mapping[int, InexactArray], Mapping[int, InexactArray]],
    *,
    summing: Summing,
    room: Room | None,
) -> None:
    """Give the couplings of two panels to an evaluation."""
    shared = [one for one in evaluation.meeting.shared if a.has(one.a) and b.has(one.b)]
    with_leverages = evaluation.with_leverages
    products = couplings(context, a, b, buffers, shared, summing=summing, room=room, with_leverages=with_leverages)
    for frequency, (product, overlaps) in zip(shared, products, strict=True):
        row, first_a = 0, 0
        alike_a, alike_b = a.alike(frequency.a), b.alike(frequency.b)
        if are_unequal(alike_a, alike_b) and evaluation.takes_unequal(product):
            with context.timed("values"):
                each_a, each_b = ([one for blocks in alike for one in blocks] for alike in (alike_a, alike_b))
                evaluation.add_unequal(product, each_a, each_b, frequency, overlaps)
            continue
        for blocks_a in alike_a:
            k, count_a = blocks_a[0].directions, len(blocks_a)
            column, first_b = 0, 0
            for blocks_b in alike_b:
                l, count_b = blocks_b[0].directions, len(blocks_b)
                part = product[row : row + count_a * k, column : column + count_b * l]
                cells = part.reshape(count_a, k, count_b, l).swapaxes(1, 2)
                some = None if overlaps is None else overlaps[first_a : first_a + count_a, first_b : first_b + count_b]
                with context.timed("values"):
                    evaluation.add(cells, blocks_a, blocks_b, frequency, loadings, some)
                column, first_b = column + count_b * l, first_b + count_b
            row, first_a = row + count_a * k, first_a + count_a
    with context.timed("values"):
        evaluation.finish()
