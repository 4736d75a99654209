"""The second stage: one tile, from two groups of subspaces to a block of the matrix of results."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import DamagedStoreError
from dask_svcca.evaluate import finish_details, no_details
from dask_svcca.measures import needs_loadings
from dask_svcca.plan.tasks import TileReport
from dask_svcca.stores._stored import damaged
from dask_svcca.stores.backend import backend_of
from dask_svcca.tasks.gram import Share, together
from dask_svcca.tasks.patch import Patch, patches
from dask_svcca.tasks.results import Results
from dask_svcca.variables import DETAIL_VARIABLES, PAIR_STATUS, PENDING, UNFINISHED, VALUED, PairStatus, have_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.evaluate import Details
    from dask_svcca.kernels._types import BoolArray
    from dask_svcca.measures import Measure
    from dask_svcca.plan.tasks import Places, ShareTask, SubspacePlace, TileTask
    from dask_svcca.stores._blocks import BlockArray, Parts, Place
    from dask_svcca.stores.subspaces import SubspaceEntry
    from dask_svcca.tasks.gram import Sums, SumsKey
    from dask_svcca.tasks.worker import Context

    StatusArray = npt.NDArray[np.uint8]


def compute_tile(context: Context, task: TileTask, places_a: Places, places_b: Places, *shares: Share) -> TileReport:
    """Compute the missing pairs of one tile and write them; the status last.

    Parameters
    ----------
    context : Context
    task : TileTask
    places_a, places_b : tuple of tuple of SubspacePlace
        Where the subspaces of the two groups are.
    *shares : Share
        What was summed for it; all is summed here where that is nothing.
    """
    damaged_share = next((share.damage for share in shares if share.damage is not None), None)
    if damaged_share is not None:
        raise damaged_share
    tile = _Tile(context, task, places_a, places_b, together(shares))
    asked = task.asked(*tile.shape)
    status = tile.known(asked, mends=True)
    # Pairs that have some measures need only the others.
    for states, names in ((PENDING, ()), ((PairStatus.PARTIAL,), context.job.settled)):
        wanted = asked & have_status(status, states)
        if wanted.any():
            tile.compute(wanted, status, without=names)
    # All pairs that were asked for count: an attempt before this one may have computed some and died.
    outcomes = status[task.pairs(*tile.shape)]
    valued = int(have_status(outcomes, VALUED).sum())
    missing = int(have_status(outcomes, UNFINISHED).sum())
    seconds = Counter(context.seconds)
    for share in shares:
        seconds.update(share.seconds)
    return TileReport(
        task.row, task.column, valued, len(outcomes) - valued - missing, dict(seconds), lost=tile.has_lost
    )


def sum_share(context: Context, task: ShareTask, places_a: Places, places_b: Places) -> Share:
    """Sum a share of the inner products of samples of the missing pairs of a tile.

    Parameters
    ----------
    context : Context
    task : ShareTask
    places_a, places_b : tuple of tuple of SubspacePlace
    """
    tile = _Tile(context, task.tile, places_a, places_b, {})
    asked = task.tile.asked(*tile.shape)
    # What is damaged is taken away by the tile alone.
    wanted = asked & have_status(tile.known(asked, mends=False), PENDING)
    return Share(tile.sums(wanted, task.number), context.seconds)


class _Tile:
    """One tile at work.

    Attributes
    ----------
    has_lost : bool
        Whether values of other pairs turned out to be damaged where some were written beside them.
    """

    def __init__(
        self, context: Context, task: TileTask, places_a: Places, places_b: Places, sums: Mapping[SumsKey, Sums]
    ) -> None:
        self._context, self._task, self._sums = context, task, sums
        self.has_lost = False
        self.diagonal = task.row == task.column
        self.shape = len(places_a), len(places_b)
        first, second = task.row * task.side, task.column * task.side
        self.place = slice(first, first + self.shape[0]), slice(second, second + self.shape[1])
        self._backend = backend_of(context.worker.comparison)
        self._places = places_a, places_b
        with context.timed("read"):
            context.worker.read_packs(place.pack for places in self._places for own in places for place in own)
            self._entries = [[_entry(context, own) for own in places] for places in self._places]

    def known(self, asked: BoolArray, *, mends: bool) -> StatusArray:
        """What has become of its pairs; those of a block are missing where something of it cannot be read.

        With ``mends``, that is taken away. Values are looked at only where they are to count together with some that
        are added. All other values are looked at when others are written beside them.
        """
        (array,) = self._context.worker.blocks(PAIR_STATUS.name)
        status = np.full(self.shape, PairStatus.MISSING, dtype=np.uint8)
        with self._context.timed("read"):
            for block, part in array.blocks(self.place):
                try:
                    stored = array.read_block(block)
                    if stored is not None and (stored[asked[part]] == PairStatus.PARTIAL).any():
                        self._check_values(block, stored)
                except DamagedStoreError:
                    if mends:
                        self._forget(block)
                else:
                    if stored is not None:
                        status[part] = stored
        return status

    def _forget(self, block: tuple[int, int]) -> None:
        """Have a block and its mirror image missing: nothing must count of which values are gone."""
        (array,) = self._context.worker.blocks(PAIR_STATUS.name)
        for one in (block[::-1], block):
            for key in array.keys(one):
                self._backend.remove(key)

    def _check_values(self, block: tuple[int, int], status: StatusArray) -> None:
        """Raise `DamagedStoreError` where values of a block, or of its mirror image, are gone."""
        job = self._context.job
        some = set(np.unique(status).tolist())
        needed = [*(measure.name for measure in job.measures), *job.details] if some & set(VALUED) else []
        if not needed and PairStatus.PARTIAL in some:
            needed = list(job.settled)
        for array in self._context.worker.blocks(*map(_stored_name, needed)):
            for one in {block, block[::-1]}:
                if array.read_block(one) is None:
                    raise damaged(self._context.worker.comparison, array.keys(one)[0])

    def compute(self, wanted: BoolArray, known: StatusArray, without: Sequence[str]) -> None:
        """Compute some pairs and write them.

        Parameters
        ----------
        wanted : (a, b)
        known : (a, b)
            What has become of all pairs so far; takes what becomes of these, and changes where values turn out to be
            gone.
        without : sequence of str
            Measures and details that these pairs have.
        """
        measures = tuple(measure for measure in self._context.job.measures if measure.name not in without)
        sizes = {name: size for name, size in self._task.details.items() if name not in without}
        part = self._part(wanted)
        details = no_details(wanted[part].shape, sizes)
        results = self._evaluate(wanted[part], part, measures, details)
        valued = have_status(results.status, VALUED)
        with self._context.timed("write"):
            values = {measure.name: results.values[measure.name] for measure in measures}
            values |= {_stored_name(name): (both, both) for name, both in details.items()}
            arrays = self._context.worker.blocks(*values)
            self._write(lambda: self._encoded(part, arrays, values, valued, known), known)
            if without:
                self._empty(part, ~have_status(results.status, (PairStatus.MISSING, *VALUED)), known)
            # The mirror image first: a tile counts as done by its own status, which is written last of all.
            (array,) = self._context.worker.blocks(PAIR_STATUS.name)
            place = self._place(part)
            turned = [] if self.diagonal else [(place[::-1], results.turned.T)]
            for one, states in (*turned, (place, results.status)):
                self._write(partial(array.merged, one, states, states != PairStatus.MISSING), known)
        np.copyto(known[part], results.status, where=results.status != PairStatus.MISSING)

    def _part(self, wanted: BoolArray) -> Place:
        """The rows and columns that some pairs span: of a tile to which few are new, the others are not held.

        Half of a tile on the diagonal is the mirror image of the other half: it is all of these.
        """
        if self.diagonal:
            return slice(0, self.shape[0]), slice(0, self.shape[1])
        rows, columns = (np.flatnonzero(wanted.any(axis=axis)) for axis in (1, 0))
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    def _place(self, part: Place) -> Place:
        """Where a part of the tile is in the matrix."""
        rows, columns = (
            slice(whole.start + one.start, whole.start + one.stop) for whole, one in zip(self.place, part, strict=True)
        )
        return rows, columns

    def _empty(self, part: Place, pairs: BoolArray, known: StatusArray) -> None:
        """Take from pairs what they have, where what is added says that they cannot be compared."""
        names = [name for name in self._context.job.settled if name not in DETAIL_VARIABLES] if pairs.any() else []
        arrays, nothing = self._context.worker.blocks(*names), np.full(pairs.shape, np.nan)
        values = dict.fromkeys(names, (nothing, nothing))
        self._write(lambda: self._encoded(part, arrays, values, pairs, known), known)

    def _write(self, encoded: Callable[[], Iterator[tuple[str, Parts]]], known: StatusArray) -> None:
        """Write chunks, with what is there of other pairs; what of that is damaged is missing from now on."""
        while True:
            try:
                self._backend.write_many(encoded())
            except DamagedStoreError as error:
                # It is rare, and the others are written once more.
                name, _, row, column = error.key.split("/")[:4]
                lost = int(row), int(column)
                self.has_lost = True
                self._forget(lost)
                (array,) = self._context.worker.blocks(name)
                for key in array.keys(lost):
                    self._backend.remove(key)
                for block, part in array.blocks(self.place):
                    if lost in {block, block[::-1]}:
                        known[part] = PairStatus.MISSING
            else:
                return

    def _encoded(
        self,
        part: Place,
        arrays: Sequence[BlockArray],
        values: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]],
        pairs: BoolArray,
        known: StatusArray,
    ) -> Iterator[tuple[str, Parts]]:
        """Keys and bytes of the values of some pairs of a part, by name, and of their mirror images."""
        settled = {
            DETAIL_VARIABLES[name].name if name in DETAIL_VARIABLES else name for name in self._context.job.settled
        }
        place = self._place(part)
        done, partly = (have_status(known, states) for states in (VALUED, (PairStatus.PARTIAL,)))
        for array, (straight, back) in zip(arrays, values.values(), strict=True):
            valued = done | partly if array.name in settled else done
            # A chunk that is gone takes the values of all pairs of its block with it, not of those of the part alone.
            there = {block for block, inner in array.blocks(self.place) if valued[inner].any()}
            if not self.diagonal:
                turned = {block[::-1] for block in there}
                yield from array.merged(place[::-1], back.swapaxes(0, 1), pairs.T, turned)
            yield from array.merged(place, straight, pairs, there)

    def _evaluate(self, wanted: BoolArray, part: Place, measures: Sequence[Measure], details: Details) -> Results:
        """What becomes of the wanted pairs of a part."""
        results = Results.nothing(wanted.shape, measures)
        for patch, todo, rows, columns in self._patches(wanted, part):
            patch.evaluate(
                todo,
                measures,
                {name: values[rows, columns] for name, values in details.items()},
                results.part(rows, columns),
            )
        finish_details(details, diagonal=self.diagonal)
        if self.diagonal:
            results.mirror()
        return results

    def sums(self, wanted: BoolArray, number: int) -> dict[SumsKey, Sums]:
        """A share of the inner products of samples of the wanted pairs."""
        found: dict[SumsKey, Sums] = {}
        part = self._part(wanted) if wanted.any() else None
        for patch, todo, _, _ in self._patches(wanted[part], part) if part is not None else ():
            found |= patch.sums(todo, number)
        return found

    def _patches(self, wanted: BoolArray, part: Place) -> Iterator[tuple[Patch, BoolArray, slice, slice]]:
        """Those of a part that have wanted pairs, with these, and their rows and columns."""
        # On the diagonal each pair once; the other triangle is its mirror image.
        todo = np.triu(wanted) if self.diagonal else wanted
        places = self._places[0][part[0]], self._places[1][part[1]]
        entries = self._entries[0][part[0]], self._entries[1][part[1]]
        for rows, columns in patches(todo.shape, self._task.memory.patch):
            if todo[rows, columns].any():
                patch = Patch(
                    self._context,
                    self._task,
                    (places[0][rows], places[1][columns]),
                    (entries[0][rows], entries[1][columns]),
                    self._sums,
                    same=self.diagonal and rows == columns,
                )
                yield patch, todo[rows, columns], rows, columns


def _entry(context: Context, own: Sequence[SubspacePlace]) -> SubspaceEntry | None:
    """What is known of a representation; None where it was not made, or not with the loadings that a measure needs.

    That is what its subspace says, or, where no measure looks at directions, the first relation that could be made.
    """
    entries = []
    for place in own[: 1 if own and not own[0].relation else None]:
        pack = context.worker.pack(place.pack)
        entry = None if pack is None else pack.records[place.position].entry
        lacking = needs_loadings(context.job.measures) and entry and not (entry.problem or entry.with_loadings)
        if entry is not None and entry.key and not lacking:
            entries.append(entry)
    return next((entry for entry in entries if not entry.problem), entries[0] if entries else None)


def _stored_name(name: str) -> str:
    """Name of the variable of a measure or a detail."""
    return DETAIL_VARIABLES[name].name if name in DETAIL_VARIABLES else name
