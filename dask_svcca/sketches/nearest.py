"""The rows whose estimates with some numbers are highest, among as many as there are."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from dask_svcca import machine
from dask_svcca.errors import DamagedStoreError
from dask_svcca.kernels.sketch import estimate, standard_error
from dask_svcca.sketches.opened import buffer_bytes, made, numbers_of
from dask_svcca.sketches.store import COARSE_FEATURES, FEATURES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from dask_svcca.sketches.opened import Opened

    Nearest: TypeAlias = tuple[npt.NDArray[np.intp], npt.NDArray[np.float32], npt.NDArray[np.float32]]
    """Rows, their estimates, and the errors of these; the highest first."""

WHOLE_BYTES: Final = 64 * 2**20
"""Bytes of sketches below which all their numbers are read; beyond, first the coarser sketches that begin them."""

ROWS_BYTES: Final = 8 * 2**20
"""Bytes of rows that are read one by one, at most."""

SCANNED_BYTES: Final = 2**31
"""Bytes of sketches up to which all of them are looked at, where the coarser sketches leave too many rows. Beyond, the
highest by them are: that happens only where thousands of layers are about as near as the nearest, so that few differ
by more than the error of an estimate."""

HIGHEST: Final = 256
"""Rows of the highest coarser estimates that are looked at then, at least. Among a million layers that are near nothing
the last of these is at 0.22, where one that is similar by 0.4 is at 0.4 with an error of 0.05."""

SURE: Final = 4.0
"""Standard errors of the coarser estimate within which a layer may still be among the nearest."""

TOGETHER: Final = 16
"""Chunks of rows that a thread looks at in turn: handing out each by itself takes as long as looking at it."""

_GRID: Final = np.linspace(-1, 1, 4001, dtype=np.float32)


def nearest(
    source: Opened,
    numbers: npt.NDArray[np.float32],
    spread: float,
    count: int,
    sure: int,
    among: npt.NDArray[np.bool_] | None = None,
) -> Nearest:
    """Rows of the highest estimates, and these with their errors, the highest first; ``among`` some rows, or all.

    Where there are many, a coarser sketch says which rows are looked at: all that may be among the first ``sure``, and
    those of the highest estimates by it. Where these are too many, and so is the whole, only the highest are.
    """
    shorter, each = source.family.size // COARSE_FEATURES, source.family.size * 4
    if source.rows * each > WHOLE_BYTES and shorter > 1:
        coarse = _estimates(source, numbers, among, coarse=True)
        rows = _likely(coarse, spread, count, sure)
        if len(rows) * shorter < source.rows and len(rows) * each <= ROWS_BYTES:
            return ranked(source, rows, numbers, spread, count)
        if source.rows * each > SCANNED_BYTES:
            return ranked(source, _highest(coarse, max(4 * count, HIGHEST)), numbers, spread, count)
    values = _estimates(source, numbers, among, coarse=False)
    return _best(source, np.arange(source.rows), values, numbers, spread, count)


def ranked(
    source: Opened, rows: npt.NDArray[np.intp], numbers: npt.NDArray[np.float32], spread: float, count: int
) -> Nearest:
    """The nearest among some rows, by all of their numbers."""
    # Nearly each is in another file: to open them takes most of the time, and cores share it.
    cores = machine.cores()
    with ThreadPoolExecutor(cores) as threads:
        found = np.concatenate(list(threads.map(partial(numbers_of, source), np.array_split(rows, cores))))
    own = np.vecdot(found, found)
    return _best(source, rows, estimate(found @ numbers, own, np.array(numbers @ numbers)), numbers, spread, count)


def _likely(values: npt.NDArray[np.float32], spread: float, count: int, sure: int) -> npt.NDArray[np.intp]:
    """Rows that may be among the first by their whole sketches, and those of the highest coarser estimates."""
    there = np.count_nonzero(np.isfinite(values))
    if there <= max(sure, 4 * count):
        return np.flatnonzero(np.isfinite(values))
    # NaN sorts last.
    places = [there - sure, there - 4 * count]
    highest = np.partition(values, places)[places]
    # The higher an estimate, the higher either end of its interval.
    both = np.concatenate([_GRID, highest[:1]])
    errors = SURE * standard_error(both, np.ones(1, np.float32), np.array(spread, dtype=np.float32), COARSE_FEATURES)
    reaching = _GRID[_GRID + errors[:-1] >= highest[0] - errors[-1]]
    return np.flatnonzero(values >= min(reaching[0], highest[1]))


def _highest(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    """Rows of the highest values, in their order; NaN is none."""
    # NaN sorts last.
    best = np.sort(np.argpartition(-values, min(count, len(values)) - 1)[:count])
    return best[np.isfinite(values[best])]


def _best(
    source: Opened,
    rows: npt.NDArray[np.intp],
    values: npt.NDArray[np.float32],
    numbers: npt.NDArray[np.float32],
    spread: float,
    count: int,
) -> Nearest:
    there = np.flatnonzero(np.isfinite(values))
    best = there[np.argsort(-values[there], kind="stable")[:count]]
    spreads = source.values("concentration", rows[best]).astype(np.float32)
    errors = standard_error(values[best], spreads, np.array(spread, dtype=np.float32), len(numbers))
    return rows[best], values[best], errors


def _estimates(
    source: Opened, numbers: npt.NDArray[np.float32], among: npt.NDArray[np.bool_] | None, *, coarse: bool
) -> npt.NDArray[np.float32]:
    """Estimates of all rows with a query, or of the coarser sketches of all; NaN of those that are not ``among``."""
    count, size = source.rows, len(numbers)
    read = numbers[:COARSE_FEATURES] if coarse else numbers
    # What a part of a sketch has is the share of the whole that its length is.
    share = np.float32(size / len(read))
    step = np.float32(source.coarse_step if coarse else 1)
    of_query = np.array(read @ read) * share
    values = np.empty(count, dtype=np.float32)
    rows = source.coarse_rows if coarse else source.chunk_rows
    chunks = -(-count // rows)
    local = threading.local()

    def blocks(chunk: int) -> Iterator[npt.NDArray[np.float32]]:
        """Numbers of a chunk of rows, some of the features after others."""
        if not coarse:
            yield from (source.read_part(chunk, part, local.buffer) for part in range(-(-size // FEATURES)))
            return
        rounded = source.read_coarse(chunk, local.buffer)
        numbers = local.numbers[: len(rounded)]
        np.copyto(numbers, rounded)
        yield numbers

    def work(first: int) -> None:
        if not hasattr(local, "buffer"):
            # One a thread, which stays in its cache.
            local.buffer = memoryview(bytearray(buffer_bytes(source)))
            local.numbers = np.empty((rows, len(read)), dtype=np.float32)
        last = min(first + TOGETHER, chunks)
        products, own = np.zeros((2, (last - first) * rows), dtype=np.float32)
        for chunk in range(first, last):
            start = (chunk - first) * rows
            try:
                for part, block in enumerate(blocks(chunk)):
                    place = slice(start, start + len(block))
                    products[place] += block @ read[part * FEATURES : part * FEATURES + block.shape[1]]
                    own[place] += np.vecdot(block, block)
            except DamagedStoreError:
                # Of rows none of which has a sketch, nothing was written: sums of zero are no estimate.
                if made(source, np.arange(chunk * rows, min(count, (chunk + 1) * rows))).any():
                    raise
        # Of all these rows at once: a step of NumPy on the few of a chunk takes little longer than to begin it.
        into = values[first * rows : last * rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            into[:] = estimate(products[: len(into)] * (share * step), own[: len(into)] * (share * step**2), of_query)

    with machine.one_blas_thread(), ThreadPoolExecutor(machine.cores()) as threads:
        list(threads.map(work, range(0, chunks, TOGETHER)))
    if among is not None:
        values[~among] = np.nan
    return values
