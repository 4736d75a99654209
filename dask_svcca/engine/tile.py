"""The second stage: one tile, from two groups of subspaces to a block of the matrix of results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import scipy.sparse

from dask_svcca.engine import _process
from dask_svcca.engine.kept import Correlations, FrequencyMeans, nothing_kept
from dask_svcca.engine.kept import finish as finish_kept
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.kernels.pairs import PairStack, Side
from dask_svcca.kernels.products import ProductSum
from dask_svcca.measures import Measure, Need, Own, PairTotals, Totals
from dask_svcca.plan.keep import COPIES
from dask_svcca.plan.readings import Meeting, meet
from dask_svcca.plan.tasks import PIECE, STACK_BYTES, STACK_COPIES, Job, TileReport, TileTask, subspace_place
from dask_svcca.stores import _io
from dask_svcca.stores.subspaces import SubspaceRecord, read_loadings, read_record, read_spectrum
from dask_svcca.variables import KEPT_VARIABLES, PAIR_STATUS, VALUED, PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.engine.kept import Keeper, Values
    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import Grid, SharedFrequency

NARROW = 48
"""Directions of a representation below which products are formed in double precision.

A sum of many products in single precision is off by about 3e-7 where it comes near 1. The mean over many correlations
averages that out to below 1e-7; the mean over a few does not, and their products are cheap.
"""

WIDE_CELL = 2**12
"""Numbers in a coupling from which copying one by one, converted on the way, beats copying all and then converting."""

ROUNDING = 1e-5
"""How far beyond its range rounding may take a measure of scores in single precision."""


@dataclass(frozen=True, slots=True)
class Run:
    """Directions of one representation in one block, in a panel.

    Attributes
    ----------
    member : int
        Position of the representation in its group.
    start : int
        First of its directions among all of the representation.
    directions, kept : int
        How many there are, and how many of them, the first, the variance threshold keeps.
    """

    member: int
    start: int
    directions: int
    kept: int

    @property
    def columns(self) -> slice:
        """Its directions among all of the representation."""
        return slice(self.start, self.start + self.directions)


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
            first = 0
            for block in record.blocks:
                run = Run(member, first, block.directions, block.kept)
                first += block.directions
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
        with _process.timed("read"):
            for record, places in zip(self._records, self._places, strict=True):
                _io.read_scores(self._root, f"{record.place}/scores", chunk, [buffer[place] for place in places])
        return buffer[: self.directions]

    def row_norms(self, chunk: int, buffer: InexactArray, group: Group) -> FloatArray:
        """Squared norm of each sample of each representation, (member, sample), in the units of the activations."""
        scores = self.read(chunk, buffer)
        columns = [np.r_[tuple(places)] for places in self._places]
        shares = [group.weights[member] * group.spectra[member] for member in self.members]
        ends = np.cumsum([0, *map(len, columns)])
        summing = scipy.sparse.csr_array((np.concatenate(shares), np.concatenate(columns), ends))
        norms = np.empty((len(self.members), scores.shape[1]))
        for piece in _pieces(scores.shape[1]):
            part = scores[:, piece].astype(np.result_type(scores.dtype, np.float64))
            norms[:, piece] = summing @ (part.real**2 + part.imag**2)
        return norms


def _buffer(panels: Sequence[Panel], record: SubspaceRecord) -> InexactArray:
    """A buffer that takes a chunk of any of the panels: reused, since fresh memory is five times slower to fill."""
    return np.empty((max(panel.directions for panel in panels), record.rows), dtype=record.dtype)


def _pieces(samples: int) -> Iterator[slice]:
    """Runs of samples that are converted to double precision at a time."""
    return (slice(start, min(start + PIECE, samples)) for start in range(0, samples, PIECE))


def compute_tile(job: Job, task: TileTask, *_after: object) -> TileReport:
    """Compute the missing pairs of one tile and write them; the status last.

    What else it is handed only makes Dask run it after the subspaces.
    """
    with _process.clock() as seconds:
        return _compute_tile(job, task, seconds)


def _compute_tile(job: Job, task: TileTask, seconds: dict[str, float]) -> TileReport:
    stores = _process.stores(job)
    status_array = stores.variable(PAIR_STATUS.name)
    shape = (len(task.paths_a), len(task.paths_b))
    a = slice(task.row * task.side, task.row * task.side + shape[0])
    b = slice(task.column * task.side, task.column * task.side + shape[1])

    asked = np.unpackbits(np.frombuffer(task.selected, np.uint8), count=shape[0] * shape[1]).reshape(shape) > 0
    status = np.asarray(status_array[a, b])
    wanted = asked & (status == PairStatus.MISSING)
    if wanted.any():
        kept_arrays: dict[str, zarr.Array[Any]] = {
            name: stores.variable(KEPT_VARIABLES[name].name) for name in job.parameters.keep
        }
        kept = nothing_kept(shape, {name: array.shape[2:] for name, array in kept_arrays.items()})
        update, values = _tile(job, task, stores.comparison, wanted, kept)
        valued = np.isin(update, VALUED)
        status = np.where(update != PairStatus.MISSING, update, status)
        with _process.timed("write"):
            results = [(stores.variable(m.name), *values[m.name]) for m in job.measures]
            results += [(kept_arrays[name], found, found) for name, found in kept.items()]
            for array, straight, mirrored in results:
                # The mirror image first: a tile counts as done by its own status, which is written last of all.
                if task.row != task.column:
                    _put(array, (b, a), mirrored.swapaxes(0, 1), valued.T)
                _put(array, (a, b), straight, valued)
            if task.row != task.column:
                status_array[b, a] = status.T
            status_array[a, b] = status
    found = status[asked]
    return TileReport(
        row=task.row,
        column=task.column,
        done=int(np.isin(found, VALUED).sum()),
        failed=int((found == PairStatus.FAILED).sum()),
        incompatible=int(np.isin(found, (PairStatus.INCOMPATIBLE_GRIDS, PairStatus.INCOMPATIBLE_SAMPLES)).sum()),
        missing=int((found == PairStatus.MISSING).sum()),
        seconds=seconds,
    )


def _put(
    array: zarr.Array[Any], place: tuple[slice, slice], values: npt.NDArray[Any], valued: npt.NDArray[np.bool_]
) -> None:
    """Write the values of some pairs of a tile, and leave the others as they are."""
    if not valued.all():
        chosen = valued.reshape(valued.shape + (1,) * (values.ndim - 2))
        values = np.where(chosen, values, np.asarray(array[place]))
    array[place] = values


def _tile(
    job: Job, task: TileTask, root: zarr.Group, wanted: npt.NDArray[np.bool_], kept: Values
) -> tuple[npt.NDArray[np.uint8], dict[str, tuple[FloatArray, FloatArray]]]:
    """What becomes of the wanted pairs, `PairStatus.MISSING` for the others, and the values of those done.

    Values come twice: of a with b, and of b with a; both (a, b). What is kept is put into the arrays for it.
    """
    memory = max(0, job.memory - COPIES * sum(array.nbytes for array in kept.values()))
    diagonal = task.row == task.column
    records_a = _records(root, task.paths_a)
    records_b = records_a if diagonal else _records(root, task.paths_b)
    there = np.outer([r is not None for r in records_a], [r is not None for r in records_b])
    sound = np.outer([bool(r and not r.problem) for r in records_a], [bool(r and not r.problem) for r in records_b])
    # On the diagonal each pair once; the other triangle is its mirror image.
    todo = np.triu(wanted) if diagonal else wanted
    status = np.where(todo & there & ~sound, PairStatus.FAILED, PairStatus.MISSING).astype(np.uint8)
    values = {m.name: (np.full(wanted.shape, np.nan), np.full(wanted.shape, np.nan)) for m in job.measures}
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
            if not part.any():
                # Nothing folded could be made: these pairs stay missing, and the report of the fold says why.
                continue
            same = diagonal and kind_a == kind_b
            found = pair_values(root, chosen_a, chosen_b, part, meeting, job.measures, memory, kept, same=same)
            status[part] = np.where(found.saturated, PairStatus.SATURATED, PairStatus.DONE)[part]
            for name, both in found.values.items():
                for target, value in zip(values[name], both, strict=True):
                    target[part] = value[part]
    finish_kept(kept, diagonal=diagonal)
    if diagonal:
        below = np.tri(len(status), k=-1, dtype=np.bool_)
        status = np.where(below, status.T, status)
        values = {
            name: (np.where(below, back.T, there), np.where(below, there.T, back))
            for name, (there, back) in values.items()
        }
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


@dataclass(frozen=True, slots=True)
class PairValues:
    """Values of all measures for pairs of two groups.

    Attributes
    ----------
    values : dict of str to ((a, b), (a, b))
        Of a with b, and of b with a.
    saturated : (a, b)
        Whether all correlations of a pair are 1 for want of samples.
    """

    values: dict[str, tuple[FloatArray, FloatArray]]
    saturated: npt.NDArray[np.bool_]


def pair_values(
    root: zarr.Group,
    records_a: Mapping[int, SubspaceRecord],
    records_b: Mapping[int, SubspaceRecord],
    todo: npt.NDArray[np.bool_],
    meeting: Meeting,
    measures: Sequence[Measure],
    memory: int,
    kept: Values,
    *,
    same: bool,
) -> PairValues:
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
    kept : dict of str to array
        Takes what is kept of the pairs; see `dask_svcca.engine.kept`.
    same : bool
        Whether both sides are the same subspaces.
    """
    needs = frozenset().union(*(measure.needs for measure in measures))
    group_a = Group(root, records_a, todo.shape[0], meeting, "a", needs)
    group_b = Group(root, records_b, todo.shape[1], meeting, "b", needs)
    narrow, loadings = _is_narrow(records_a, records_b), "loadings" in needs
    panels_a = list(_panels(root, records_a, memory, loadings=loadings, narrow=narrow))
    panels_b = panels_a if same else list(_panels(root, records_b, memory, loadings=loadings, narrow=narrow))
    buffers = _buffer(panels_a, next(iter(records_a.values()))), _buffer(panels_b, next(iter(records_b.values())))
    keepers: list[Keeper] = []
    if "correlations" in kept:
        keepers.append(Correlations(kept["correlations"], todo, group_a.kept_ranks, group_b.kept_ranks))
    if "frequencies" in kept:
        keepers.append(FrequencyMeans(kept["frequencies"], todo, records_a, records_b, meeting))
    single = not narrow and next(iter(records_a.values())).dtype.char in "fF"
    stacks = Stacks(group_a, group_b, meeting, measures, keepers, todo, single=single)
    for panel_a in panels_a:
        for panel_b in panels_b:
            if todo[np.ix_(panel_a.members, panel_b.members)].any():
                group_a.open(panel_a)
                group_b.open(panel_b)
                _add_panel_pair(panel_a, panel_b, buffers, stacks, narrow=narrow)
    first = next(iter(records_a.values()))
    norms: FloatArray = np.zeros(todo.shape)
    if "row_norms" in needs:
        norms = _row_norm_products(panels_a, panels_b, buffers, group_a, group_b)
    translations = sum(shared.multiplicity for shared in meeting.shared)
    if not (first.grid and next(iter(records_b.values())).grid):
        translations = max(math.prod(record.grid) for record in (first, next(iter(records_b.values()))))
    pairs = PairTotals(first.samples, translations, norms)
    turned = PairTotals(first.samples, translations, norms.T)
    return _values(group_a, group_b, stacks, measures, pairs, turned)


def _values(
    group_a: Group, group_b: Group, stacks: Stacks, measures: Sequence[Measure], pairs: PairTotals, turned: PairTotals
) -> PairValues:
    """Values from the sums over all blocks."""
    found = {}
    for measure in measures:
        a, b = group_a.totals(measure), group_b.totals(measure)
        straight = _within(measure.value(stacks.sums[measure.name], _upright(a), _across(b), pairs), measure)
        if measure.symmetric:
            found[measure.name] = straight, straight
        else:
            turned_sums = stacks.reversed_sums[measure.name].transpose(1, 0, 2)
            value = measure.value(turned_sums, _upright(b), _across(a), turned)
            found[measure.name] = straight, _within(value, measure).T
    saturated = np.zeros(pairs.row_norms.shape, dtype=np.bool_)
    # Of the directions that the threshold keeps, where a measure looks at those; else of all.
    for measure in sorted((m for m in measures if m.name in {"spurious", "spurious_cca"}), key=lambda m: m.name)[:1]:
        ranks = np.minimum.outer(group_a.totals(measure).rank, group_b.totals(measure).rank)
        saturated = (ranks > 0) & (found[measure.name][0] >= ranks)
    return PairValues(found, saturated)


def _within(values: FloatArray, measure: Measure) -> FloatArray:
    """Values that rounding took out of a measure's range put back on its edge; what is further out stays to be seen."""
    low, high = measure.valid_range
    values = np.where((values < low) & (values >= low - ROUNDING), low, values)
    return np.where((values > high) & (values <= high + ROUNDING), high, values)


def _upright(totals: Totals) -> Totals:
    return Totals(*(getattr(totals, name)[:, np.newaxis] for name in totals.__slots__))


def _across(totals: Totals) -> Totals:
    return Totals(*(getattr(totals, name)[np.newaxis, :] for name in totals.__slots__))


class Group:
    """What measures need of the representations of one side beside their scores."""

    def __init__(
        self,
        root: zarr.Group,
        records: Mapping[int, SubspaceRecord],
        count: int,
        meeting: Meeting,
        side: Literal["a", "b"],
        needs: frozenset[Need],
    ) -> None:
        self._count = count
        self.multiplicity = half_plane(next(iter(records.values())).grid).multiplicity
        # Means divide by the whole layer, or by the frequencies compared where some were cropped.
        shared: dict[int, int] = {}
        for frequency in meeting.shared:
            index = getattr(frequency, side)
            shared[index] = shared.get(index, 0) + frequency.multiplicity
        self.weights: dict[int, FloatArray] = {}
        self.kept: dict[int, npt.NDArray[np.bool_]] = {}
        self.spectra: dict[int, FloatArray] = {}
        self._root, self._records = root, records
        self._with_loadings = "loadings" in needs
        self._loadings: dict[int, InexactArray] = {}
        for member, record in records.items():
            blocks = record.blocks
            weights = [shared.get(b.index, 0) if meeting.cropped else b.multiplicity for b in blocks]
            self.weights[member] = np.repeat(np.array(weights, dtype=float), [b.directions for b in blocks])
            self.kept[member] = record.kept
            if needs:
                self.spectra[member] = read_spectrum(root, record)
        self.samples = next(iter(records.values())).samples
        self.squared_row_norms = np.zeros(count)
        self._totals: dict[tuple[str, Own], Totals] = {}
        self._block_loadings: dict[int, InexactArray] = {}
        self._whole = self._sum_up("all", lambda _spectrum, _weights: 0.0)
        self.kept_ranks = self._sum_up("kept", lambda _spectrum, _weights: 0.0).rank
        self.neurons = max(record.neurons for record in records.values()) if self._with_loadings else 0

    def class_spectra(self, members: Sequence[Run]) -> FloatArray:
        """Spectra of runs of equally many directions, (run, direction); zeros where no measure needs them."""
        if not self.spectra:
            return np.zeros((len(members), members[0].directions))
        return np.stack([self.spectra[run.member][run.columns] for run in members])

    def open(self, panel: Panel) -> None:
        """Have the loadings of a panel at hand, where a measure needs them, and no others."""
        if self._with_loadings and list(self._loadings) != panel.members:
            self._loadings.clear()
            self._loadings.update((m, read_loadings(self._root, self._records[m])) for m in panel.members)

    def take_loadings(self, members: Sequence[Run], *, conjugate: bool) -> None:
        """Have the next stack see the loadings of these runs."""
        parts = {run.member: self._loadings[run.member][:, run.columns] for run in members}
        self._block_loadings = {member: part.conj() for member, part in parts.items()} if conjugate else parts

    def side(self, members: IntArray, spectra: FloatArray) -> Side:
        """What a stack knows of some representations."""
        return Side(spectra, self._whole.variance[members], self._whole.rank[members], members, self._block_loadings)

    def totals(self, measure: Measure) -> Totals:
        """What a measure may divide by, (member,)."""
        key = measure.directions, measure.own
        if key not in self._totals:
            self._totals[key] = self._sum_up(measure.directions, measure.own)
        return self._totals[key]

    def _sum_up(self, directions: Literal["kept", "all"], own: Own) -> Totals:
        rank, variance, numbers = np.zeros(self._count), np.zeros(self._count), np.zeros(self._count)
        for member, weights in self.weights.items():
            chosen = self.kept[member] if directions == "kept" else slice(None)
            rank[member] = weights[chosen].sum()
            if self.spectra:
                spectrum = self.spectra[member][chosen]
                variance[member] = weights[chosen] @ spectrum
                numbers[member] = own(spectrum, weights[chosen])
        return Totals(rank, variance, numbers, self.squared_row_norms)


def _panels(
    root: zarr.Group, records: Mapping[int, SubspaceRecord], memory: int, *, loadings: bool, narrow: bool
) -> Iterator[Panel]:
    """Cut a group into panels that fit in memory with another such panel and their couplings."""
    first = next(iter(records.values()))
    itemsize = first.dtype.itemsize
    wide = np.result_type(first.dtype, np.float64).itemsize
    budget = max(0, memory - STACK_COPIES * STACK_BYTES)
    most = budget // 4 if loadings else 0
    # Of a side x side product: as it comes, summed up in double precision; and two operands of side x rows.
    quadratic = 2.0 * wide if narrow else float(itemsize + wide)
    linear = 2.0 * (itemsize * first.rows + wide * min(PIECE, first.rows))
    side = (np.sqrt(linear**2 + 4 * quadratic * (budget - 2 * most)) - linear) / (2 * quadratic)
    chosen: dict[int, SubspaceRecord] = {}
    size, loaded = 0, 0
    for member, record in records.items():
        own = _loadings_bytes(record) if loadings else 0
        if chosen and (size + record.directions > side or loaded + own > most):
            yield Panel(root, chosen)
            chosen, size, loaded = {}, 0, 0
        chosen[member] = record
        size, loaded = size + record.directions, loaded + own
    yield Panel(root, chosen)


def _loadings_bytes(record: SubspaceRecord) -> int:
    return record.neurons * record.directions * (16 if record.grid else 8)


def _is_narrow(*groups: Mapping[int, SubspaceRecord]) -> bool:
    """Whether the representations of one of the groups have few directions."""
    return min(sum(r.directions for r in group.values()) / len(group) for group in groups) < NARROW


def _add_panel_pair(
    a: Panel, b: Panel, buffers: tuple[InexactArray, InexactArray], stacks: Stacks, *, narrow: bool
) -> None:
    shared = [meet for meet in stacks.meeting.shared if meet.a in a.blocks and meet.b in b.blocks]
    for frequency, coupling in zip(shared, _couplings(a, b, buffers, shared, narrow=narrow), strict=True):
        row = 0
        for class_a in _classes(a.blocks[frequency.a]):
            height = len(class_a) * class_a[0].directions
            column = 0
            for class_b in _classes(b.blocks[frequency.b]):
                width = len(class_b) * class_b[0].directions
                stacks.add(coupling[row : row + height, column : column + width], class_a, class_b, frequency)
                column += width
            row += height
    stacks.finish()


def _row_norm_products(
    panels_a: Sequence[Panel],
    panels_b: Sequence[Panel],
    buffers: tuple[InexactArray, InexactArray],
    a: Group,
    b: Group,
) -> FloatArray:
    """Inner products, over all samples, of the squared norms of the samples of two groups."""
    products = np.zeros((len(a.squared_row_norms), len(b.squared_row_norms)))
    for chunk in range(panels_a[0].chunks):
        norms = []
        for panels, buffer, group in ((panels_a, buffers[0], a), (panels_b, buffers[1], b)):
            found = np.zeros((len(group.squared_row_norms), buffer.shape[1]))
            for panel in panels:
                found[panel.members] = panel.row_norms(chunk, buffer, group)
            norms.append(found)
            group.squared_row_norms += np.square(found).sum(axis=1)
        products += norms[0] @ norms[1].T
    return products


def _classes(runs: list[Run]) -> list[list[Run]]:
    """Runs of equally many directions, which stand together in a panel."""
    return [list(members) for _, members in groupby(runs, key=lambda run: (run.directions, run.kept))]


def _couplings(
    a: Panel, b: Panel, buffers: tuple[InexactArray, InexactArray], shared: Sequence[SharedFrequency], *, narrow: bool
) -> list[InexactArray]:
    """Couplings of all representations of two panels at each shared frequency, summed over all samples."""
    totals = [ProductSum() for _ in shared]
    for chunk in range(a.chunks):
        left = a.read(chunk, buffers[0])
        # The very same array on both sides lets BLAS compute half of the product.
        right = left if b is a else b.read(chunk, buffers[1])
        for part_a, part_b in _widened(left, right) if narrow else [(left, right)]:
            for total, frequency in zip(totals, shared, strict=True):
                with _process.timed("coupling"):
                    rows = part_a[a.spans[frequency.a]]
                    total.add(rows if frequency.conjugate else rows.conj(), part_b[b.spans[frequency.b]])
    return [total.value for total in totals]


def _widened(left: InexactArray, right: InexactArray) -> Iterator[tuple[InexactArray, InexactArray]]:
    """Both operands in double precision, a run of samples at a time."""
    wide_a, wide_b = (np.result_type(side.dtype, np.float64) for side in (left, right))
    for piece in _pieces(left.shape[1]):
        part = left[:, piece].astype(wide_a)
        yield part, part if right is left else right[:, piece].astype(wide_b)


class Stacks:
    """Gathers couplings of equal shape over classes and frequencies, so that LAPACK gets many in one call.

    Attributes
    ----------
    sums : dict of str to (a, b, components)
        Of each measure, over all blocks added and solved so far.
    reversed_sums : dict of str to (a, b, components)
        The same of b with a, for measures that are not symmetric.
    """

    def __init__(
        self,
        a: Group,
        b: Group,
        meeting: Meeting,
        measures: Sequence[Measure],
        keepers: Sequence[Keeper],
        todo: npt.NDArray[np.bool_],
        *,
        single: bool,
    ) -> None:
        self.meeting = meeting
        self._single = single
        self._keepers = keepers
        self._groups = a, b
        self._measures = measures
        self._todo = todo
        self.sums = {m.name: np.zeros((*todo.shape, m.components)) for m in measures}
        self.reversed_sums = {m.name: np.zeros((*todo.shape, m.components)) for m in measures if not m.symmetric}
        # Loadings differ from block to block: couplings of different blocks must not meet in one stack.
        self._by_block = any("loadings" in measure.needs for measure in measures)
        self._pieces: dict[_Key, list[_Piece]] = {}
        self._bytes: dict[_Key, int] = {}

    def add(self, coupling: InexactArray, class_a: list[Run], class_b: list[Run], frequency: SharedFrequency) -> None:
        """Take the couplings of two classes, (members of a x k, members of b x l)."""
        a, b = self._groups
        k, l = class_a[0].directions, class_b[0].directions
        members_a, members_b = np.array([run.member for run in class_a]), np.array([run.member for run in class_b])
        cells = coupling.reshape(len(class_a), k, len(class_b), l).transpose(0, 2, 1, 3)
        wanted = self._todo[members_a][:, members_b]
        rows, columns = np.nonzero(wanted)
        key = _Key(
            shape=(k, l),
            kept=(class_a[0].kept, class_b[0].kept),
            centred=frequency.a == 0 and frequency.b == 0,
            is_complex=bool(a.multiplicity[frequency.a] > 1 or b.multiplicity[frequency.b] > 1),
            block=(frequency.a, frequency.b) if self._by_block else None,
        )
        wide = np.result_type(coupling.dtype, np.float64).itemsize
        batch = max(1, STACK_BYTES // (wide * max(k * l, min(k, l) * max(a.neurons, b.neurons))))
        for start in range(0, len(rows), batch):
            part = slice(start, start + batch)
            piece = _Piece(
                cells=cells,
                rows=rows[part],
                columns=columns[part],
                members_a=members_a[rows[part]],
                members_b=members_b[columns[part]],
                spectra_a=a.class_spectra(class_a)[rows[part]],
                spectra_b=b.class_spectra(class_b)[columns[part]],
                frequency=frequency,
            )
            self._pieces.setdefault(key, []).append(piece)
            self._bytes[key] = self._bytes.get(key, 0) + wide * k * l * len(piece.rows)
            if self._by_block:
                # Where one of the two stands as its conjugate, the coupling is that of a's conjugate.
                a.take_loadings(class_a, conjugate=frequency.conjugate)
                b.take_loadings(class_b, conjugate=False)
            if self._by_block or self._bytes[key] > STACK_BYTES // 2:
                self._solve(key)

    def finish(self) -> None:
        """Solve what is left."""
        for key in list(self._pieces):
            self._solve(key)

    def _solve(self, key: _Key) -> None:
        pieces = self._pieces.pop(key)
        del self._bytes[key]
        a, b = self._groups
        members_a = np.concatenate([piece.members_a for piece in pieces])
        members_b = np.concatenate([piece.members_b for piece in pieces])
        counts = [len(piece.members_a) for piece in pieces]
        weights = np.repeat([piece.frequency.multiplicity for piece in pieces], counts)
        with _process.timed("coupling"):
            coupling = _gathered(pieces)
        every = PairStack(
            coupling,
            a.side(members_a, np.concatenate([piece.spectra_a for piece in pieces])),
            b.side(members_b, np.concatenate([piece.spectra_b for piece in pieces])),
            degrees=a.samples - 1 if key.centred else a.samples,
            is_complex=key.is_complex,
            single=self._single,
        )
        leading = every.leading(*key.kept)
        with _process.timed("singular values"):
            for keeper in self._keepers:
                for piece, stop in zip(pieces, np.cumsum(counts), strict=True):
                    part = leading.correlations[stop - len(piece.members_a) : stop]
                    keeper.add(piece.members_a, piece.members_b, part, piece.frequency)
            for measure in self._measures:
                stack = leading if measure.directions == "kept" else every
                self._accumulate(self.sums[measure.name], members_a, members_b, weights, measure.sums(stack))
                if not measure.symmetric:
                    turned = measure.sums(stack.reversed)
                    self._accumulate(self.reversed_sums[measure.name], members_a, members_b, weights, turned)

    @staticmethod
    def _accumulate(
        target: FloatArray, members_a: IntArray, members_b: IntArray, weights: IntArray, added: FloatArray
    ) -> None:
        # A pair may be there several times, at several frequencies.
        np.add.at(target, (members_a, members_b), weights[:, np.newaxis] * added.reshape(len(weights), -1))


class _Key(NamedTuple):
    """What couplings have in common that are solved together."""

    shape: tuple[int, int]
    kept: tuple[int, int]
    centred: bool
    is_complex: bool
    block: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _Piece:
    """Couplings of some pairs at one frequency.

    Attributes
    ----------
    cells : (member of class a, member of class b, k, l)
        Couplings of two classes; a view of the product that they came from.
    rows, columns : (pair,)
        Which of them.
    members_a, members_b : (pair,)
    spectra_a, spectra_b : (pair, k), (pair, l)
    frequency : SharedFrequency
    """

    cells: InexactArray
    rows: IntArray
    columns: IntArray
    members_a: IntArray
    members_b: IntArray
    spectra_a: FloatArray
    spectra_b: FloatArray
    frequency: SharedFrequency


def _gathered(pieces: Sequence[_Piece]) -> InexactArray:
    """Couplings of all pieces as one stack, (pair, k, l), in double precision."""
    first = pieces[0].cells
    stack = np.empty((sum(len(p.rows) for p in pieces), *first.shape[2:]), np.result_type(first.dtype, np.float64))
    start = 0
    for piece in pieces:
        part = stack[start : start + len(piece.rows)]
        start += len(part)
        if part[0].size < WIDE_CELL:
            part[...] = piece.cells[piece.rows, piece.columns]
        else:
            for target, row, column in zip(part, piece.rows, piece.columns, strict=True):
                target[...] = piece.cells[row, column]
    return stack
