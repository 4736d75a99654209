"""The second stage: one tile, from two groups of subspaces to a block of the matrix of results."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dask_svcca.engine import _process
from dask_svcca.kernels.pairs import PairStack
from dask_svcca.measures import Measure, Totals
from dask_svcca.plan.readings import Meeting, meet
from dask_svcca.plan.tasks import Job, TileReport, TileTask, subspace_place
from dask_svcca.stores import _io
from dask_svcca.stores.subspaces import SubspaceRecord, read_record
from dask_svcca.variables import PAIR_STATUS, PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import Grid, SharedFrequency

STACK_BYTES = 32 * 2**20
"""Couplings handed to LAPACK at once: many small ones in one call, without doubling a tile's memory."""


@dataclass(frozen=True, slots=True)
class Run:
    """Directions of one representation in one block, in a panel.

    Attributes
    ----------
    member : int
        Position of the representation in its group.
    kept : int
        Leading directions that the variance threshold keeps.
    """

    member: int
    directions: int
    kept: int


class Panel:
    """Scores of some representations of a group, a chunk of samples at a time, sorted by block.

    Within a block, representations with equally many directions stand together: their couplings form one stack.
    """

    def __init__(self, root: zarr.Group, records: Mapping[int, SubspaceRecord]) -> None:
        self._root = root
        self.members = list(records)
        self._records = list(records.values())
        runs: dict[int, list[tuple[Run, int]]] = {}
        for position, (member, record) in enumerate(records.items()):
            for block in record.blocks:
                run = Run(member, block.directions, block.kept)
                runs.setdefault(block.index, []).append((run, position))
        self.blocks: dict[int, list[Run]] = {}
        self._places: list[list[slice]] = [[] for _ in records]
        self.spans: dict[int, slice] = {}
        start = 0
        for index in sorted(runs):
            runs[index].sort(key=lambda item: (item[0].directions, item[0].kept, item[0].member))
            self.blocks[index] = [run for run, _ in runs[index]]
            first = start
            for run, position in runs[index]:
                self._places[position].append(slice(start, start + run.directions))
                start += run.directions
            self.spans[index] = slice(first, start)
        self.directions = start
        self.chunks = -(-self._records[0].samples // self._records[0].rows)

    def read(self, chunk: int, buffer: InexactArray) -> InexactArray:
        """Scores of all blocks, (direction, sample), into the first rows of a buffer."""
        for record, places in zip(self._records, self._places, strict=True):
            _io.read_scores(self._root, f"{record.place}/scores", chunk, [buffer[place] for place in places])
        return buffer[: self.directions]


def _buffer(panels: Sequence[Panel], record: SubspaceRecord) -> InexactArray:
    """A buffer that takes a chunk of any of the panels: reused, since fresh memory is five times slower to fill."""
    return np.empty((max(panel.directions for panel in panels), record.rows), dtype=record.dtype)


def compute_tile(job: Job, task: TileTask, *_after: object) -> TileReport:
    """Compute the missing pairs of one tile and write them; the status last.

    What else it is handed only makes Dask run it after the subspaces.
    """
    stores = _process.stores(job)
    status_array = stores.variable(PAIR_STATUS.name)
    shape = (len(task.paths_a), len(task.paths_b))
    tile = status_array.chunks[0]
    a = slice(task.row * tile, task.row * tile + shape[0])
    b = slice(task.column * tile, task.column * tile + shape[1])

    asked = np.unpackbits(np.frombuffer(task.selected, np.uint8), count=shape[0] * shape[1]).reshape(shape) > 0
    status = np.asarray(status_array[a, b])
    wanted = asked & (status == PairStatus.MISSING)
    if wanted.any():
        measures = job.parameters.records
        update, values = _tile(job, task, stores.comparison, wanted)
        for measure in measures:
            array = stores.variable(measure.name)
            _write(array, a, b, np.where(update == PairStatus.DONE, values[measure.name], array[a, b]), task)
        status = np.where(update != PairStatus.MISSING, update, status)
        _write(status_array, a, b, status, task)
    found = status[asked]
    return TileReport(
        row=task.row,
        column=task.column,
        done=int((found == PairStatus.DONE).sum()),
        failed=int((found == PairStatus.FAILED).sum()),
        incompatible=int((found > PairStatus.FAILED).sum()),
        missing=int((found == PairStatus.MISSING).sum()),
    )


def _write(array: zarr.Array[Any], a: slice, b: slice, values: npt.NDArray[Any], task: TileTask) -> None:
    # The mirror image first: a tile counts as done by its own status, which is written last of all.
    if task.row != task.column:
        array[b, a] = values.T
    array[a, b] = values


def _tile(
    job: Job, task: TileTask, root: zarr.Group, wanted: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.float64]]]:
    """What becomes of the wanted pairs, `PairStatus.MISSING` for the others, and the values of those done."""
    diagonal = task.row == task.column
    records_a = _records(root, task.paths_a)
    records_b = records_a if diagonal else _records(root, task.paths_b)
    there = np.outer([r is not None for r in records_a], [r is not None for r in records_b])
    sound = np.outer([bool(r and not r.problem) for r in records_a], [bool(r and not r.problem) for r in records_b])
    # On the diagonal each pair once; the other triangle is its mirror image.
    todo = np.triu(wanted) if diagonal else wanted
    status = np.where(todo & there & ~sound, PairStatus.FAILED, PairStatus.MISSING).astype(np.uint8)
    values = {measure.name: np.full(wanted.shape, np.nan) for measure in job.parameters.records}
    for kind_a, members_a in _kinds(records_a).items():
        for kind_b, members_b in _kinds(records_b).items():
            cells = np.ix_(members_a, members_b)
            if not todo[cells].any():
                continue
            meeting = meet(*kind_a, *kind_b, job.parameters.match)
            if isinstance(meeting, PairStatus):
                status[cells] = np.where(todo[cells], meeting, status[cells])
                continue
            chosen_a = _chosen(root, task.paths_a, members_a, records_a, meeting.fold_a)
            chosen_b = _chosen(root, task.paths_b, members_b, records_b, meeting.fold_b)
            part = np.zeros_like(todo)
            part[np.ix_(list(chosen_a), list(chosen_b))] = todo[np.ix_(list(chosen_a), list(chosen_b))]
            same = diagonal and kind_a == kind_b
            found = pair_values(root, chosen_a, chosen_b, part, meeting, job.parameters.records, job.memory, same=same)
            status[part] = PairStatus.DONE
            for name, value in found.items():
                values[name][part] = value[part]
    if diagonal:
        below = np.tri(len(status), k=-1, dtype=np.bool_)
        status = np.where(below, status.T, status)
        values = {name: np.where(below, value.T, value) for name, value in values.items()}
    return status, values


def _records(root: zarr.Group, paths: Sequence[str]) -> list[SubspaceRecord | None]:
    return [read_record(root, subspace_place(path)) for path in paths]


def _kinds(records: Sequence[SubspaceRecord | None]) -> dict[tuple[str, Grid], list[int]]:
    """Members of a group by what a sample is and by grid."""
    kinds: dict[tuple[str, Grid], list[int]] = {}
    for member, record in enumerate(records):
        if record is not None and not record.problem:
            kinds.setdefault((record.domain, record.grid), []).append(member)
    return kinds


def _chosen(
    root: zarr.Group, paths: Sequence[str], members: list[int], own: Sequence[SubspaceRecord | None], fold: Grid
) -> dict[int, SubspaceRecord]:
    """The subspaces to compare by: the representations' own, or those folded on a partner's grid."""
    found = {
        member: read_record(root, subspace_place(paths[member], fold)) if fold else own[member] for member in members
    }
    return {member: record for member, record in found.items() if record is not None and not record.problem}


def pair_values(
    root: zarr.Group,
    records_a: Mapping[int, SubspaceRecord],
    records_b: Mapping[int, SubspaceRecord],
    todo: npt.NDArray[np.bool_],
    meeting: Meeting,
    measures: Sequence[Measure],
    memory: int,
    *,
    same: bool,
) -> dict[str, FloatArray]:
    """Values of all measures for pairs of two groups.

    Parameters
    ----------
    root : zarr.Group
        Of the comparison.
    records_a, records_b : mapping of int to SubspaceRecord
        By position in the group. All of one side have the same domain and grid.
    todo : (a, b)
        Pairs wanted. Others have no meaning in what is returned.
    meeting : Meeting
    measures : sequence of Measure
    memory : int
        Bytes to stay within, where a single pair fits.
    same : bool
        Whether both sides are the same subspaces.
    """
    sums = {measure.name: np.zeros(todo.shape) for measure in measures}
    panels_a = list(_panels(root, records_a, memory))
    panels_b = panels_a if same else list(_panels(root, records_b, memory))
    buffers = _buffer(panels_a, next(iter(records_a.values()))), _buffer(panels_b, next(iter(records_b.values())))
    for panel_a in panels_a:
        for panel_b in panels_b:
            if todo[np.ix_(panel_a.members, panel_b.members)].any():
                _add_panel_sums(panel_a, panel_b, buffers, todo, meeting, measures, sums)
    rank_a = _ranks(records_a, todo.shape[0], meeting, side="a")
    rank_b = _ranks(records_b, todo.shape[1], meeting, side="b")
    return {
        measure.name: measure.value(
            sums[measure.name],
            Totals(rank=rank_a[measure.directions][:, np.newaxis]),
            Totals(rank=rank_b[measure.directions][np.newaxis, :]),
        )
        for measure in measures
    }


def _panels(root: zarr.Group, records: Mapping[int, SubspaceRecord], memory: int) -> Iterator[Panel]:
    """Cut a group into panels whose couplings with another such panel fit in memory."""
    first = next(iter(records.values()))
    itemsize = first.dtype.itemsize
    # Of a side x side product: as it comes, summed up in double precision; and two operands of side x rows.
    quadratic, linear = 3.0 * itemsize, 2.0 * itemsize * first.rows
    budget = max(0, memory - 2 * STACK_BYTES)
    side = (np.sqrt(linear**2 + 4 * quadratic * budget) - linear) / (2 * quadratic)
    chosen: dict[int, SubspaceRecord] = {}
    size = 0
    for member, record in records.items():
        if chosen and size + record.directions > side:
            yield Panel(root, chosen)
            chosen, size = {}, 0
        chosen[member] = record
        size += record.directions
    yield Panel(root, chosen)


def _ranks(
    records: Mapping[int, SubspaceRecord], count: int, meeting: Meeting, side: Literal["a", "b"]
) -> dict[str, npt.NDArray[np.float64]]:
    """Ranks that a mean divides by: of the whole layer, or of the frequencies compared where some were cropped."""
    weights: dict[int, int] = {}
    for shared in meeting.shared:
        index = getattr(shared, side)
        weights[index] = weights.get(index, 0) + shared.multiplicity
    found = {"kept": np.zeros(count), "all": np.zeros(count)}
    for member, record in records.items():
        for block in record.blocks:
            weight = weights.get(block.index, 0) if meeting.cropped else block.multiplicity
            found["kept"][member] += weight * block.kept
            found["all"][member] += weight * block.directions
    return found


def _add_panel_sums(
    a: Panel,
    b: Panel,
    buffers: tuple[InexactArray, InexactArray],
    todo: npt.NDArray[np.bool_],
    meeting: Meeting,
    measures: Sequence[Measure],
    sums: dict[str, npt.NDArray[np.float64]],
) -> None:
    shared = [meet for meet in meeting.shared if meet.a in a.blocks and meet.b in b.blocks]
    stacks = _Stacks(measures, sums)
    for frequency, coupling in zip(shared, _couplings(a, b, buffers, shared), strict=True):
        row = 0
        for class_a in _classes(a.blocks[frequency.a]):
            height = len(class_a) * class_a[0].directions
            column = 0
            for class_b in _classes(b.blocks[frequency.b]):
                width = len(class_b) * class_b[0].directions
                piece = coupling[row : row + height, column : column + width]
                stacks.add(piece, class_a, class_b, frequency.multiplicity, todo)
                column += width
            row += height
    stacks.finish()


def _classes(runs: list[Run]) -> list[list[Run]]:
    """Runs of equally many directions, which stand together in a panel."""
    return [list(members) for _, members in groupby(runs, key=lambda run: (run.directions, run.kept))]


def _couplings(
    a: Panel, b: Panel, buffers: tuple[InexactArray, InexactArray], shared: Sequence[SharedFrequency]
) -> list[InexactArray]:
    """Couplings of all representations of two panels at each shared frequency, summed over all samples."""
    total: list[npt.NDArray[Any]] = []
    for chunk in range(a.chunks):
        left = a.read(chunk, buffers[0])
        # The very same array on both sides lets BLAS compute half of the product.
        right = left if b is a else b.read(chunk, buffers[1])
        for position, frequency in enumerate(shared):
            rows = left[a.spans[frequency.a]]
            product = (rows if frequency.conjugate else rows.conj()) @ right[b.spans[frequency.b]].T
            if a.chunks == 1:
                total.append(product)
            elif chunk == 0:
                total.append(product.astype(np.result_type(product.dtype, np.float64)))
            else:
                total[position] += product
    return total


class _Stacks:
    """Gathers couplings of equal shape over classes and frequencies, so that LAPACK gets many in one call."""

    def __init__(self, measures: Sequence[Measure], sums: dict[str, npt.NDArray[np.float64]]) -> None:
        self._measures = measures
        self._sums = sums
        self._pieces: dict[tuple[int, ...], list[tuple[InexactArray, IntArray, int]]] = {}
        self._bytes: dict[tuple[int, ...], int] = {}

    def add(
        self,
        coupling: InexactArray,
        class_a: list[Run],
        class_b: list[Run],
        multiplicity: int,
        todo: npt.NDArray[np.bool_],
    ) -> None:
        """Take the couplings of two classes, (members of a x k, members of b x l)."""
        k, l = class_a[0].directions, class_b[0].directions
        members_a, members_b = [run.member for run in class_a], [run.member for run in class_b]
        cells = coupling.reshape(len(class_a), k, len(class_b), l).transpose(0, 2, 1, 3)
        wanted = todo[members_a][:, members_b]
        places = np.add.outer(np.multiply(members_a, todo.shape[1]), members_b)[wanted]
        key = (k, l, class_a[0].kept, class_b[0].kept)
        batch = max(1, STACK_BYTES // (2 * coupling.itemsize * k * l))
        chosen = cells.reshape(-1, k, l) if wanted.all() else cells[wanted]
        for start in range(0, len(chosen), batch):
            piece = chosen[start : start + batch]
            self._pieces.setdefault(key, []).append((piece, places[start : start + batch], multiplicity))
            self._bytes[key] = self._bytes.get(key, 0) + piece.nbytes
            if self._bytes[key] > STACK_BYTES // 2:
                self._solve(key)

    def finish(self) -> None:
        """Solve what is left."""
        for key in list(self._pieces):
            self._solve(key)

    def _solve(self, key: tuple[int, ...]) -> None:
        pieces = self._pieces.pop(key)
        del self._bytes[key]
        couplings = np.concatenate([piece for piece, _, _ in pieces])
        places = np.concatenate([place for _, place, _ in pieces])
        weights = np.repeat([weight for _, _, weight in pieces], [len(place) for _, place, _ in pieces])
        stack = PairStack(couplings.astype(np.result_type(couplings.dtype, np.float64), copy=False))
        kept = stack.leading(*key[2:])
        for measure in self._measures:
            added = measure.sums(kept if measure.directions == "kept" else stack)
            # A pair may be there several times, at several frequencies.
            np.add.at(self._sums[measure.name].reshape(-1), places, weights * added)
