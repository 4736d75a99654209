"""The plan of a comparison: subspaces to make, tiles to compute, memory, bytes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import MemoryLimitError
from dask_svcca.measures import needs_loadings
from dask_svcca.plan.keep import COPIES, Sizes, kept_sizes, pair_bytes
from dask_svcca.plan.readings import choose_reading, divides
from dask_svcca.plan.tasks import MERGED_AT_ONCE, PIECE, STACK_BYTES, STACK_COPIES, SubspaceTask, TileTask
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pandas as pd

    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.kernels.readings import Reading
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.selection import BoolMatrix

PROCESS_BYTES = 350 * 2**20
"""What a worker process holds before it has done anything: the interpreter, NumPy, SciPy, zarr, Dask."""

MAX_TILE = 128
SMALL_TILE = 8
LONG_PAIR = 1e9
"""Multiplications in the coupling of a pair from which a tile of four by four is worth a task: a second or so."""

SPLIT_BYTES = 64 * 2**20
"""Activations in a part of a representation that is read in parts."""

PARTS_PER_WORKER = 4

BATCH_BYTES = 16 * 2**20
"""Activations of small representations that one task makes subspaces of."""

BATCHES_PER_WORKER = 16
"""At least, before small representations are put together: no worker shall wait long for the last."""

SCORE_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Plan:
    """What a comparison would do; printed by ``--dry-run``.

    Attributes
    ----------
    representations : int
    pairs, pairs_done : int
        Asked for (each pair once, a representation with itself included), and there already.
    subspaces : tuple of SubspaceTask
    batches : tuple of tuple of SubspaceTask
        The same, as they are run: small ones several in one Dask task.
    tiles : tuple of TileTask
    tile : int
        Representations along the side of a tile of the store.
    side : int
        Representations along the side of what one task computes: some whole tiles.
    rows : int
        Samples in a chunk of scores.
    bytes_to_read : int
        Activations, once.
    subspace_bytes, tile_bytes : int
        Most memory a task of either kind takes, beyond its process.
    kept : dict of str to tuple of int
        What is kept of every pair beside its measures, and the sizes of its dims behind those of the pair.
    """

    representations: int
    pairs: int
    pairs_done: int
    subspaces: tuple[SubspaceTask, ...]
    batches: tuple[tuple[SubspaceTask, ...], ...]
    tiles: tuple[TileTask, ...]
    tile: int
    side: int
    rows: int
    bytes_to_read: int
    subspace_bytes: int
    tile_bytes: int
    kept: Sizes = field(default_factory=dict)

    @property
    def tasks(self) -> int:
        """Number of Dask tasks, those that only join others included."""
        groups = {task.row for task in self.tiles} | {task.column for task in self.tiles}
        return sum(batch[0].tasks for batch in self.batches) + len(self.tiles) + len(groups)

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the plan, as JSON values."""
        return {
            "representations": self.representations,
            "pairs": self.pairs,
            "pairs_done": self.pairs_done,
            "subspaces": len(self.subspaces),
            "tiles": len(self.tiles),
            "tile": [self.side, self.side],
            "tasks": self.tasks,
            "bytes_to_read": self.bytes_to_read,
            "bytes_per_subspace_task": self.subspace_bytes,
            "bytes_per_tile_task": self.tile_bytes,
            "bytes_per_process": PROCESS_BYTES,
            "bytes_kept_per_pair": pair_bytes(self.kept),
        }

    def __str__(self) -> str:
        memory = (
            f"at most {self.subspace_bytes / 2**20:,.0f} MiB a subspace and {self.tile_bytes / 2**20:,.0f} MiB a tile, "
            f"beyond {PROCESS_BYTES / 2**20:,.0f} MiB a process"
        )
        rows = [
            ("representations", f"{self.representations:,}, of which {len(self.subspaces):,} subspaces to make"),
            ("pairs", f"{self.pairs:,}, of which {self.pairs - self.pairs_done:,} to compute"),
            ("tiles", f"{len(self.tiles):,} of {self.side} x {self.side} representations"),
            ("tasks", f"{self.tasks:,}"),
            ("bytes to read", f"{self.bytes_to_read / 1e6:,.1f} MB of activations"),
            ("memory per task", memory),
        ]
        if self.kept:
            rows.append(("kept", f"up to {pair_bytes(self.kept):,} bytes a pair, before compression"))
        return "\n".join(f"{name:<16} {text}" for name, text in rows)


def choose_tile(representations: int, workers: int, pair_products: float = 0.0) -> int:
    """Representations along the side of a tile.

    Enough tiles to keep all workers busy to the end (about sixteen each), few enough that the scheduler does not
    notice: a tile of 128 x 128 still makes ten thousand representations into three thousand tasks. Where a pair is long
    work, tiles are twice as many and as small as 4 x 4, so that no worker waits long for the last.

    Parameters
    ----------
    representations, workers : int
    pair_products : float
        Multiplications in the coupling of one pair.

    Examples
    --------
    >>> choose_tile(900, 2), choose_tile(256, 2), choose_tile(10_000, 2), choose_tile(3, 2)
    (120, 32, 128, 8)
    >>> choose_tile(30, 2, 1e10), choose_tile(256, 2, 1e10)
    (4, 24)
    """
    long = pair_products >= LONG_PAIR
    groups = math.ceil(math.sqrt(2 * (32 if long else 16) * workers))
    side = math.ceil(representations / groups)
    if side > SMALL_TILE:
        side = math.ceil(side / SMALL_TILE) * SMALL_TILE
    least = SMALL_TILE // 2 if long else SMALL_TILE
    return max(least, min(MAX_TILE, side))


def choose_rows(directions: int, itemsize: int) -> int:
    """Samples in a chunk of scores: chunks of about 4 MB for the widest representation.

    Examples
    --------
    >>> choose_rows(512, 4), choose_rows(24, 4)
    (2048, 43690)
    """
    return max(256, SCORE_CHUNK_BYTES // (directions * itemsize))


def subspace_memory(
    reading: Reading, *, shape: Sequence[int], chunk_rows: int, rows: int, dtype: np.dtype[Any], loadings: bool
) -> int:
    """Memory of one subspace task in bytes, without what it may keep between its two passes.

    Parameters
    ----------
    reading : Reading
    shape : sequence of int
        Of the activations.
    chunk_rows : int
        Examples in a chunk of activations.
    rows : int
        Samples in a chunk of scores.
    dtype : numpy.dtype
        Of the activations.
    loadings : bool
        Whether a measure needs loadings, so that they are formed however many neurons there are.
    """
    blocks, neurons = len(reading.multiplicity), reading.neurons(shape[-1])
    samples = reading.samples(shape[0])
    itemsize = 16 if reading.grid else 8
    stored = chunk_rows * math.prod(shape[1:]) * dtype.itemsize
    chunk_samples = reading.samples(chunk_rows)
    read = chunk_samples * blocks * neurons * itemsize
    directions = reading.directions(shape)
    # As they are computed, and as they are stored.
    scores = 2 * min(samples, rows) * directions * itemsize
    if reading.by_samples(shape):
        # The Gram matrix of the samples, its eigenvectors, and what the eigensolver works in.
        square = 4 * samples * samples * 8 + (2 * neurons * samples * 8 if loadings else 0)
    else:
        # Scatter of the chunk and of all, eigenvectors, and what the eigensolver works in; or what parts merge.
        square = (MERGED_AT_ONCE + 1) * _scatter_bytes(reading, shape)
    return 2 * stored + 3 * read + square + scores


def _scatter_bytes(reading: Reading, shape: Sequence[int]) -> int:
    return len(reading.multiplicity) * reading.neurons(shape[-1]) ** 2 * (16 if reading.grid else 8)


def _has_parts(reading: Reading, shape: Sequence[int]) -> bool:
    """Whether moments of parts can be merged: not by way of the samples, nor where a mask hides how many there are."""
    return not reading.by_samples(shape) and not reading.mask


def choose_parts(nbytes: int, total: int, workers: int) -> int:
    """In how many parts to read a representation: several where it alone would keep the others waiting.

    Parameters
    ----------
    nbytes, total : int
        Of its activations, and of all that are to be read.
    workers : int

    Examples
    --------
    Of one among many, of one alone on two workers, and on one worker:

    >>> choose_parts(10**9, 10**11, 2), choose_parts(10**9, 10**9, 2), choose_parts(10**9, 10**9, 1)
    (1, 8, 1)
    """
    if workers == 1 or 2 * workers * nbytes <= total:
        return 1
    return max(1, min(PARTS_PER_WORKER * workers, nbytes // SPLIT_BYTES))


def kept_samples(size: int, memory: int) -> int:
    """Bytes of its samples that a task keeps between its two passes, where it takes so many without.

    Examples
    --------
    >>> kept_samples(100, 1000), kept_samples(900, 1000), kept_samples(1100, 1000)
    (250, 100, 0)
    """
    return max(0, min(memory // 4, memory - size))


def _batches(
    subspaces: Sequence[SubspaceTask], sizes: Sequence[int], workers: int
) -> tuple[tuple[SubspaceTask, ...], ...]:
    """Subspaces as they are run: a task costs the scheduler about what a subspace of a small layer takes."""
    most = len(subspaces) // (BATCHES_PER_WORKER * workers)
    batches: list[list[SubspaceTask]] = []
    room = 0
    for task, size in zip(subspaces, sizes, strict=True):
        if size > room or len(batches[-1]) >= most or task.parts > 1:
            batches.append([])
            room = BATCH_BYTES if task.parts == 1 else 0
        batches[-1].append(task)
        room -= size
    return tuple(map(tuple, batches))


def pair_memory(reading: Reading, *, shape: Sequence[int], rows: int, precision: str, loadings: bool) -> int:
    """Memory in bytes of the smallest piece of a tile: a representation against another like it."""
    samples, neurons = reading.samples(shape[0]), reading.neurons(shape[-1])
    blocks, width = len(reading.multiplicity), min(neurons, samples)
    itemsize = np.dtype(precision).itemsize * (2 if reading.grid else 1)
    loaded = 2 * neurons * (16 if reading.grid else 8) if loadings else 0
    return blocks * width * (width * 3 * itemsize + 2 * min(rows, samples) * itemsize + loaded)


def tile_memory(
    readings: Sequence[Reading],
    shapes: Sequence[Sequence[int]],
    *,
    side: int,
    rows: int,
    precision: str,
    measures: int,
    loadings: bool,
) -> int:
    """Memory in bytes that a tile would take at most: all of its couplings at once, before any direction is left out.

    Examples
    --------
    >>> from dask_svcca.kernels.readings import Reading
    >>> layers = [Reading("neurons")] * 24, [(10_000, 512)] * 24
    >>> options = dict(rows=2048, precision="float32", measures=4, loadings=False)
    >>> [tile_memory(*layers, side=side, **options) // 10**6 for side in (4, 8, 24)]
    [234, 503, 2919]
    """
    itemsize = np.dtype(precision).itemsize * (2 if any(reading.grid for reading in readings) else 1)
    wide = max(itemsize, 16 if any(reading.grid for reading in readings) else 8)
    directions, loaded, samples = [], [], 1
    for reading, shape in zip(readings, shapes, strict=True):
        directions.append(reading.directions(shape))
        loaded.append(directions[-1] * reading.neurons(shape[-1]) * wide if loadings else 0)
        samples = max(samples, reading.samples(shape[0]))
    starts = np.arange(0, len(readings), side)
    most = int(np.add.reduceat(directions, starts).max())
    rows = min(rows, samples)
    operands = 2 * most * (itemsize * rows + wide * min(PIECE, rows))
    values = 8 * 8 * measures * min(side, len(readings)) ** 2
    return (
        2 * wide * most**2
        + operands
        + STACK_COPIES * STACK_BYTES
        + 2 * int(np.add.reduceat(loaded, starts).max())
        + values
    )


def needed_folds(grids: Sequence[Grid], missing: BoolMatrix) -> dict[int, tuple[Grid, ...]]:
    """Coarser grids that each representation is folded on, for the pairs that are missing.

    Examples
    --------
    >>> needed_folds([(8, 8), (4, 4), ()], np.ones((3, 3), dtype=bool))
    {0: ((4, 4),)}
    """
    members: dict[Grid, list[int]] = {}
    for index, grid in enumerate(grids):
        members.setdefault(grid, []).append(index)
    found: dict[int, tuple[Grid, ...]] = {}
    for fine, coarse in itertools.permutations(filter(None, members), 2):
        if divides(coarse, fine):
            asked = missing[np.ix_(members[fine], members[coarse])]
            for index, partners in zip(members[fine], asked, strict=True):
                if partners.any():
                    found[index] = (*found.get(index, ()), coarse)
    return found


def make_plan(
    *,
    representations: pd.DataFrame,
    paths: Sequence[str],
    rows_per_chunk: Sequence[int],
    selected: BoolMatrix,
    status: npt.NDArray[np.uint8],
    ready: npt.NDArray[np.bool_],
    parameters: Parameters,
    tile: int,
    side: int,
    rows: int,
    workers: int,
    memory: int,
) -> Plan:
    """Plan a comparison: refuse what cannot fit, before anything runs.

    Parameters
    ----------
    representations : pandas.DataFrame
        As `Zoo.representations`, in the order of the comparison.
    paths : sequence of str
        Place of each representation.
    rows_per_chunk : sequence of int
        Examples in a chunk of activations.
    selected : (representation, representation)
        Pairs asked for, symmetric.
    status : (representation, representation)
        `PairStatus` values of the comparison so far.
    ready : (representation,)
        Whether the subspace is there already.
    parameters : Parameters
    tile, side : int
        See `choose_tile`; ``side`` is a multiple of ``tile``.
    rows : int
        See `choose_rows`.
    workers : int
        Tasks at a time.
    memory : int
        Bytes a worker process may take.

    Raises
    ------
    MemoryLimitError
        Naming the representation and both numbers.
    """
    count = len(representations)
    missing = selected & (status == PairStatus.MISSING)
    needed: npt.NDArray[np.bool_] = missing.any(axis=1)
    readings = [
        choose_reading(dims, shape, parameters)
        for dims, shape in zip(representations["dims"], representations["shape"], strict=True)
    ]
    folds = needed_folds([reading.grid for reading in readings], missing) if parameters.match == "fold" else {}
    loadings = needs_loadings(parameters.records)
    subspaces: list[SubspaceTask] = []
    sizes: list[int] = []
    subspace_bytes = 0
    # Its own reading, unless that is there already, and what its partners need it folded on.
    asked = [
        (*([()] if needed[index] and not ready[index] else []), *(folds.get(index, ()) if needed[index] else ()))
        for index in range(count)
    ]
    nbytes = [int(size) for size in representations["nbytes"]]
    total = sum(size * len(grids) for size, grids in zip(nbytes, asked, strict=True))
    for index, (label, row) in enumerate(representations.iterrows()):
        for grid in asked[index]:
            reading = replace(readings[index], grid=grid) if grid else readings[index]
            size = subspace_memory(
                reading,
                shape=row["shape"],
                chunk_rows=rows_per_chunk[index],
                rows=rows,
                dtype=np.dtype(row["dtype"]),
                loadings=loadings,
            )
            _must_fit(f"the subspace of {label!r}, an array of shape {row['shape']},", size, memory)
            parts = choose_parts(nbytes[index], total, workers) if _has_parts(reading, row["shape"]) else 1
            parts = min(parts, -(-row["shape"][0] // rows_per_chunk[index]))
            # Parts wait in the memory of a worker until they are merged.
            waiting = PARTS_PER_WORKER * _scatter_bytes(reading, row["shape"])
            if parts > 1 and size + waiting + PROCESS_BYTES <= memory:
                size += waiting
            else:
                parts = 1
            held = kept_samples(size, memory - PROCESS_BYTES) if parts == 1 else 0
            # As double precision complex numbers at most.
            subspace_bytes = max(
                subspace_bytes, size + min(held, nbytes[index] * 16 // np.dtype(row["dtype"]).itemsize)
            )
            samples = reading.samples(row["shape"][0])
            subspaces.append(SubspaceTask(str(label), paths[index], row["digest"], reading, samples, grid, parts, size))
            sizes.append(nbytes[index])

    tiles = []
    for first in range(0, count, side):
        for second in range(first, count, side):
            a, b = slice(first, first + side), slice(second, second + side)
            if missing[a, b].any():
                mask = np.packbits(missing[a, b]).tobytes()
                tiles.append(TileTask(first // side, second // side, side, tuple(paths[a]), tuple(paths[b]), mask))
    kept = kept_sizes(parameters.keep, readings, list(representations["shape"]))
    kept_bytes = COPIES * min(side, count) ** 2 * pair_bytes(kept)
    smallest = max(
        (
            kept_bytes + pair_memory(reading, shape=shape, rows=rows, precision=parameters.precision, loadings=loadings)
            for reading, shape in set(zip(readings, map(tuple, representations["shape"]), strict=True))
        ),
        default=0,
    )
    largest = tile_memory(
        readings,
        list(representations["shape"]),
        side=side,
        rows=rows,
        precision=parameters.precision,
        measures=len(parameters.records),
        loadings=loadings,
    )
    if tiles:
        _must_fit("one pair of the widest representations", smallest, memory)
    return Plan(
        representations=count,
        pairs=int(np.count_nonzero(np.triu(selected))),
        pairs_done=int(np.count_nonzero(np.triu(selected & ~missing))),
        subspaces=tuple(subspaces),
        batches=_batches(subspaces, sizes, workers),
        tiles=tuple(tiles),
        tile=tile,
        side=side,
        rows=rows,
        bytes_to_read=total,
        subspace_bytes=subspace_bytes,
        tile_bytes=max(smallest, min(memory - PROCESS_BYTES, kept_bytes + largest)) if tiles else 0,
        kept=kept,
    )


def _must_fit(what: str, size: int, memory: int) -> None:
    if size + PROCESS_BYTES > memory:
        raise MemoryLimitError(
            f"{what} needs {(size + PROCESS_BYTES) / 2**20:,.0f} MiB in one worker ({size / 2**20:,.0f} MiB beyond its "
            f"process), and a worker has {memory / 2**20:,.0f} MiB. Use fewer workers with more memory each"
        )
