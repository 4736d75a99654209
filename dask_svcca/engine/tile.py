"""The second stage: one tile, from two groups of subspaces to a block of the matrix of results."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.engine import _process
from dask_svcca.kernels.pairs import PairStack
from dask_svcca.measures import Measure, Totals
from dask_svcca.plan.tasks import Job, TileReport, TileTask
from dask_svcca.stores import _io
from dask_svcca.stores.subspaces import SubspaceRecord, read_record
from dask_svcca.variables import PAIR_STATUS, PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.kernels._types import InexactArray

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
    multiplicity: int


class Panel:
    """Scores of some representations of a group, a chunk of samples at a time, sorted by block.

    Within a block, representations with equally many directions stand together: their couplings form one stack.
    """

    def __init__(self, root: zarr.Group, records: Sequence[SubspaceRecord], members: Sequence[int]) -> None:
        self._root = root
        self.members = members
        self._records = [records[member] for member in members]
        runs: dict[int, list[tuple[Run, int]]] = {}
        for position, member in enumerate(members):
            for block in records[member].blocks:
                run = Run(member, block.directions, block.kept, block.multiplicity)
                runs.setdefault(block.index, []).append((run, position))
        self.blocks: dict[int, list[Run]] = {}
        self._places: list[list[slice]] = [[] for _ in members]
        self._spans: dict[int, slice] = {}
        start = 0
        for index in sorted(runs):
            runs[index].sort(key=lambda item: (item[0].directions, item[0].kept, item[0].member))
            self.blocks[index] = [run for run, _ in runs[index]]
            first = start
            for run, position in runs[index]:
                self._places[position].append(slice(start, start + run.directions))
                start += run.directions
            self._spans[index] = slice(first, start)
        self.directions = start
        self.rows = self._records[0].rows
        self.chunks = -(-self._records[0].samples // self.rows)
        self.dtype = np.result_type(*(record.dtype for record in self._records))

    def read(self, chunk: int, buffer: InexactArray) -> dict[int, InexactArray]:
        """Scores of each block, (direction, sample)."""
        for record, places in zip(self._records, self._places, strict=True):
            path = f"subspaces/{record.path}/scores"
            if len(places) == 1:
                _io.read_scores(self._root, path, chunk, buffer[places[0]])
                continue
            whole = np.empty((record.directions, buffer.shape[1]), dtype=record.dtype)
            _io.read_scores(self._root, path, chunk, whole)
            start = 0
            for place in places:
                buffer[place] = whole[start : start + place.stop - place.start]
                start += place.stop - place.start
        return {index: buffer[span] for index, span in self._spans.items()}


def compute_tile(job: Job, task: TileTask, *_after: object) -> TileReport:
    """Compute the missing pairs of one tile and write them; the status last.

    What else it is handed only makes Dask run it after the subspaces.
    """
    stores = _process.stores(job)
    comparison = stores.comparison
    measures = job.parameters.records
    shape = (len(task.paths_a), len(task.paths_b))
    status_array = stores.variable(PAIR_STATUS.name)
    tile = status_array.chunks[0]
    a = slice(task.row * tile, task.row * tile + shape[0])
    b = slice(task.column * tile, task.column * tile + shape[1])

    selected = np.unpackbits(np.frombuffer(task.selected, np.uint8), count=shape[0] * shape[1]).reshape(shape)
    status = np.asarray(status_array[a, b])
    wanted = selected.astype(np.bool_) & (status == PairStatus.MISSING)
    records_a = [read_record(comparison, path) for path in task.paths_a]
    records_b = records_a if task.row == task.column else [read_record(comparison, path) for path in task.paths_b]
    wanted &= np.outer([r is not None for r in records_a], [r is not None for r in records_b])
    good = np.outer(
        [r is not None and not r.problem for r in records_a], [r is not None and not r.problem for r in records_b]
    )
    failed, todo = wanted & ~good, wanted & good
    if not wanted.any():
        return TileReport(task.row, task.column, 0, 0, int((selected.astype(np.bool_) & (status == 0)).sum()))

    if todo.any():
        values = tile_values(
            comparison, records_a, records_b, todo, measures, memory=job.memory, diagonal=task.row == task.column
        )
        for measure in measures:
            array = stores.variable(measure.name)
            _write(array, a, b, np.where(todo, values[measure.name], array[a, b]), task)
    status = np.where(todo, PairStatus.DONE, np.where(failed, PairStatus.FAILED, status)).astype(np.uint8)
    _write(status_array, a, b, status, task)
    left = int((selected.astype(np.bool_) & (status == PairStatus.MISSING)).sum())
    return TileReport(task.row, task.column, int(todo.sum()), int(failed.sum()), left)


def _write(array: zarr.Array[Any], a: slice, b: slice, values: npt.NDArray[Any], task: TileTask) -> None:
    # The mirror image first: a tile counts as done by its own status, which is written last of all.
    if task.row != task.column:
        array[b, a] = values.T
    array[a, b] = values


def tile_values(
    root: zarr.Group,
    records_a: Sequence[SubspaceRecord | None],
    records_b: Sequence[SubspaceRecord | None],
    wanted: npt.NDArray[np.bool_],
    measures: Sequence[Measure],
    *,
    memory: int,
    diagonal: bool,
) -> dict[str, npt.NDArray[np.float64]]:
    """Values of all measures for the wanted pairs of two groups; NaN elsewhere.

    On the diagonal only pairs on and above it are computed, and mirrored.
    """
    todo = np.triu(wanted | wanted.T) if diagonal else wanted
    sums = {measure.name: np.zeros(wanted.shape) for measure in measures}
    panels_a = list(_panels(root, records_a, todo.any(axis=1), memory))
    panels_b = panels_a if diagonal else list(_panels(root, records_b, todo.any(axis=0), memory))
    for panel_a in panels_a:
        for panel_b in panels_b:
            if not todo[np.ix_(panel_a.members, panel_b.members)].any():
                continue
            _add_panel_sums(panel_a, panel_b, todo, measures, sums)
    totals_a, totals_b = _totals(records_a, axis=0), _totals(records_b, axis=1)
    values = {}
    for measure in measures:
        # Pairs that were not asked for divide zero by zero; they are masked.
        with np.errstate(invalid="ignore", divide="ignore"):
            value = measure.value(sums[measure.name], totals_a[measure.directions], totals_b[measure.directions])
        value = np.where(todo, value, np.nan)
        if diagonal:
            value = np.where(np.tri(*value.shape, k=-1, dtype=np.bool_), value.T, value)
        values[measure.name] = value
    return values


def _panels(
    root: zarr.Group, records: Sequence[SubspaceRecord | None], needed: npt.NDArray[np.bool_], memory: int
) -> Iterator[Panel]:
    """Cut a group into panels whose couplings with another such panel fit in memory."""
    members = [index for index in np.flatnonzero(needed) if records[index] is not None]
    present = [record for record in records if record is not None and not record.problem]
    rows = max(record.rows for record in present)
    itemsize = max(record.dtype.itemsize for record in present)
    # side**2 couplings, in double precision and as they come from the product; two operands of side x rows.
    quadratic, linear = 8.0 + itemsize, 2.0 * itemsize * rows
    side = (np.sqrt(linear**2 + 4 * quadratic * max(0, memory - 2 * STACK_BYTES)) - linear) / (2 * quadratic)
    chosen: list[int] = []
    size = 0
    for member in members:
        directions = records[member].directions  # type: ignore[union-attr]
        if chosen and size + directions > side:
            yield Panel(root, records, chosen)  # type: ignore[arg-type]
            chosen, size = [], 0
        chosen.append(member)
        size += directions
    if chosen:
        yield Panel(root, records, chosen)  # type: ignore[arg-type]


def _totals(records: Sequence[SubspaceRecord | None], axis: int) -> dict[str, Totals]:
    found = [record if record is not None else SubspaceRecord("", "", "missing") for record in records]
    return {
        "kept": Totals(rank=np.expand_dims(np.array([record.kept_rank for record in found], dtype=float), 1 - axis)),
        "all": Totals(rank=np.expand_dims(np.array([record.rank for record in found], dtype=float), 1 - axis)),
    }


def _add_panel_sums(
    a: Panel,
    b: Panel,
    todo: npt.NDArray[np.bool_],
    measures: Sequence[Measure],
    sums: dict[str, npt.NDArray[np.float64]],
) -> None:
    for index, coupling in _couplings(a, b).items():
        row = 0
        for class_a in _classes(a.blocks[index]):
            height = len(class_a) * class_a[0].directions
            column = 0
            for class_b in _classes(b.blocks[index]):
                width = len(class_b) * class_b[0].directions
                piece = coupling[row : row + height, column : column + width]
                _add_stacks(piece, class_a, class_b, todo, measures, sums)
                column += width
            row += height


def _classes(runs: list[Run]) -> list[list[Run]]:
    """Runs of equally many directions, which stand together in a panel."""
    return [list(members) for _, members in groupby(runs, key=lambda run: (run.directions, run.kept))]


def _couplings(a: Panel, b: Panel) -> dict[int, InexactArray]:
    """Couplings of all representations of two panels, block by block, summed over all samples."""
    rows, dtype = a.rows, a.dtype
    buffer_a = np.empty((a.directions, rows), dtype=dtype)
    buffer_b = buffer_a if b is a else np.empty((b.directions, rows), dtype=dtype)
    total: dict[int, InexactArray] = {}
    for chunk in range(a.chunks):
        left = a.read(chunk, buffer_a)
        # The very same array on both sides lets BLAS compute half of the product.
        right = left if b is a else b.read(chunk, buffer_b)
        for index in left.keys() & right.keys():
            product = left[index].conj() @ right[index].T
            if a.chunks == 1:
                total[index] = product
            elif index in total:
                total[index] += product
            else:
                total[index] = product.astype(np.result_type(dtype, np.float64))
    return total


def _add_stacks(
    coupling: InexactArray,
    class_a: list[Run],
    class_b: list[Run],
    todo: npt.NDArray[np.bool_],
    measures: Sequence[Measure],
    sums: dict[str, npt.NDArray[np.float64]],
) -> None:
    first_a, first_b = class_a[0], class_b[0]
    k, l = first_a.directions, first_b.directions
    members_a, members_b = np.array([run.member for run in class_a]), np.array([run.member for run in class_b])
    pairs = np.argwhere(todo[np.ix_(members_a, members_b)])
    cells = coupling.reshape(len(class_a), k, len(class_b), l).transpose(0, 2, 1, 3)
    batch = max(1, STACK_BYTES // (8 * k * l))
    for start in range(0, len(pairs), batch):
        in_a, in_b = pairs[start : start + batch].T
        stack = PairStack(cells[in_a, in_b].astype(np.result_type(cells.dtype, np.float64), copy=False))
        kept = stack.leading(first_a.kept, first_b.kept)
        for measure in measures:
            added = measure.sums(kept if measure.directions == "kept" else stack)
            sums[measure.name][members_a[in_a], members_b[in_b]] += first_a.multiplicity * added
