"""Estimates of CKA for all pairs of some layers, from their sketches alone."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import threadpoolctl

from dask_svcca import machine
from dask_svcca.errors import MemoryLimitError
from dask_svcca.kernels.sketch import estimate, standard_error
from dask_svcca.sketches.opened import made, numbers_of, opened, places_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import xarray as xr

    from dask_svcca.sketches.opened import Opened, SketchesLike

BLOCK: Final = 512
"""Rows and columns of pairs that are estimated together: what they take stays in the cache."""

LABELS: Final = ("representation", "model", "checkpoint", "layer", "step", "depth")


def estimates(
    sketches: SketchesLike,
    *,
    a: Mapping[str, Any] | None = None,
    b: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Estimates of linear CKA for all pairs, each with its standard error; no activations are read.

    Parameters
    ----------
    sketches : xarray.Dataset, path, zarr store, or URL
        From `sketch` or `open_sketches`, or where they are.
    a, b : mapping, optional
        Which representations: ``model``, ``checkpoint``, ``layer`` and ``representation`` by a name, a pattern, or
        several; ``step`` and ``depth`` by a number, several, or a slice. Default: all.

    Returns
    -------
    xarray.Dataset
        ``cka`` and ``cka_error`` (representation_a, representation_b), in single precision, with labels on both axes.
        An estimate may be a little below zero: cut off, small ones would be biased. NaN where one has no sketch, or
        samples are not the same. Nineteen in twenty are within 1.96 errors of the exact value.

    Raises
    ------
    RepresentationNotFoundError, InvalidQuestionError
        Where a choice means nothing.
    StoreFormatError
        Where there are no sketches, or of another version or family.
    MemoryLimitError
        Where the pairs are more than fit in memory.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 300, 8))
    >>> found = estimates(dask_svcca.sketch({"conv1": x, "conv2": x + y / 2, "fc": y}), a={"layer": "conv1"})
    >>> found.cka.round(1).values, float(found.cka_error.max()) < 0.017
    (array([[1. , 0.8, 0. ]], dtype=float32), True)
    """
    import xarray as xr  # noqa: PLC0415 - as elsewhere, only where there is a Dataset

    source = opened(sketches)
    rows, columns = (places_of(source, where, f"side {side}") for where, side in ((a, "a"), (b, "b")))
    needed = len(rows) * len(columns) * 8 + (len(rows) + len(columns)) * source.family.size * 4
    if needed > (most := machine.available_memory()):
        raise MemoryLimitError(
            f"estimates of {len(rows):,} x {len(columns):,} pairs take {needed / 2**20:,.0f} MiB, and "
            f"{most / 2**20:,.0f} MiB are available. Choose fewer with a= and b=, or look for the nearest with search"
        )
    values, errors = _estimated(source, rows, columns)
    labels = {
        f"{name}_{side}": (f"representation_{side}", source.column(name)[places])
        for side, places in (("a", rows), ("b", columns))
        for name in LABELS
    }
    dims = ("representation_a", "representation_b")
    return xr.Dataset(
        {
            "cka": (dims, values, {"long_name": "estimate of linear CKA", "units": "1"}),
            "cka_error": (dims, errors, {"long_name": "standard error of the estimate", "units": "1"}),
        },
        coords=labels,
        attrs={"sketches": source.place, "size": source.family.size, "seed": str(source.family.seed)},
    )


def _estimated(
    source: Opened, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    there, spread, domain = made(source), source.column("concentration"), source.column("domain")
    mirrored = np.array_equal(rows, columns)
    a = numbers_of(source, rows, there)
    b = a if mirrored else numbers_of(source, columns, there)
    own_a, own_b = (np.einsum("rf,rf->r", one, one) for one in (a, b))
    spread_a, spread_b = (spread[one].astype(np.float32) for one in (rows, columns))
    values, errors = np.empty((2, len(rows), len(columns)), dtype=np.float32)

    def work(place: tuple[int, int]) -> None:
        i, j = (slice(start, start + BLOCK) for start in place)
        found = estimate(a[i] @ b[j].T, own_a[i, np.newaxis], own_b[j])
        found[domain[rows[i], np.newaxis] != domain[columns[j]]] = np.nan
        values[i, j] = found
        errors[i, j] = standard_error(found, spread_a[i, np.newaxis], spread_b[j], source.family.size)
        if mirrored:
            values[j, i], errors[j, i] = values[i, j].T, errors[i, j].T

    starts = itertools.product(range(0, len(rows), BLOCK), range(0, len(columns), BLOCK))
    # One thread of BLAS each: what comes after the product is work for all cores too.
    with (
        threadpoolctl.threadpool_limits(1),
        ThreadPoolExecutor(machine.cores()) as threads,
        np.errstate(invalid="ignore"),
    ):
        list(threads.map(work, [place for place in starts if not mirrored or place[0] <= place[1]]))
    return values, errors
