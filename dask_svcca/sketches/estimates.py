"""Estimates for all pairs of some layers, from their sketches alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from dask_svcca import machine
from dask_svcca.errors import MemoryLimitError
from dask_svcca.sketches.opened import made, numbers_of, opened, places_of
from dask_svcca.sketches.pairs import Batch, estimated
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.choice import as_slice

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import xarray as xr

    from dask_svcca.sketches.opened import Opened, SketchesLike

    Places = npt.NDArray[np.intp]
    Numbers = npt.NDArray[np.float32]

KEPT_BYTES: Final = 2**29
"""Bytes of sketches that stay in memory between two parts of pairs that are read, at most."""

LONG_NAMES: Final = {"cka": "linear CKA", "overlap": "the overlap of subspaces, tr(P_a P_b) / sqrt(k l)"}

LABELS: Final = ("representation", "model", "checkpoint", "layer", "step", "depth")

Part: TypeAlias = Literal["value", "error", "null"]


def estimates(
    sketches: SketchesLike,
    *,
    a: Mapping[str, Any] | None = None,
    b: Mapping[str, Any] | None = None,
    lazy: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Estimates of linear CKA, or of overlap, for all pairs, each with its standard error; no activations are read.

    The questions that are asked of a comparison take the result as well: `query`, `nearest`, `embedding` and more.

    Parameters
    ----------
    sketches : xarray.Dataset, path, zarr store, or URL
        From `sketch` or `open_sketches`, or where they are.
    a, b : mapping, optional
        Which representations: ``model``, ``checkpoint``, ``layer`` and ``representation`` by a name, a pattern, or
        several; ``step`` and ``depth`` by a number, several, or a slice. Default: all.
    lazy : bool
        Estimate pairs when they are read, those that are asked for and no others: for more than fit in memory.
    storage_options : mapping, optional
        For a URL: see `create_zoo`.

    Returns
    -------
    xarray.Dataset
        ``cka`` and ``cka_error``, or ``overlap`` and ``overlap_error``, by what the sketches are of
        (representation_a, representation_b), in single precision, with labels on both axes.
        An estimate may be a little below zero: cut off, small ones would be biased. NaN where one has no sketch, or
        samples are not the same. Nineteen in twenty are within 1.96 errors of the exact value. ``null_cka``, or
        ``null_overlap``, is what layers of these spectra have on average if their examples are shuffled, NaN under
        ``dft``.

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

    source = opened(with_options(sketches, storage_options))
    rows, columns = (places_of(source, where, f"side {side}") for where, side in ((a, "a"), (b, "b")))
    own = (len(rows) + len(columns)) * source.family.size * 4
    if not lazy and (needed := len(rows) * len(columns) * 8 + own) > (most := machine.available_memory()):
        raise MemoryLimitError(
            f"estimates of {len(rows):,} x {len(columns):,} pairs take {needed / 2**20:,.0f} MiB, and "
            f"{most / 2**20:,.0f} MiB are available. Choose fewer with a= and b=, have them estimated when they are "
            f"read with lazy=True, or look for the nearest with search"
        )
    labels = {
        f"{name}_{side}": (f"representation_{side}", _plain(source.column(name)[places]))
        for side, places in (("a", rows), ("b", columns))
        for name in LABELS
    }
    pairs = _Pairs(source)
    deferred = {part: _deferred(pairs, part, rows, columns) for part in ("value", "error", "null")}
    values, errors = (deferred["value"], deferred["error"]) if lazy else pairs.estimated(rows, columns)
    dims, measure = ("representation_a", "representation_b"), str(source.attributes["measure"])
    what = f"estimate of {LONG_NAMES[measure]}"
    known = {"units": "1", "sense": "similarity", "symmetric": 1, "null": f"null_{measure}"}
    null = f"mean of {LONG_NAMES[measure]} if examples are shuffled"
    return xr.Dataset(
        {
            measure: (dims, values, {"long_name": what, **known}),
            f"{measure}_error": (dims, errors, {"long_name": f"standard error of the {what}", "units": "1"}),
            f"null_{measure}": (dims, deferred["null"], {"long_name": null, "units": "1", "sense": "reference"}),
        },
        coords=labels,
        attrs={"sketches": source.place, "size": source.family.size, "seed": str(source.family.seed)},
    )


def _plain(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(object).astype(np.str_) if values.dtype.kind in "OT" else values


class _Pairs:
    """Pairs of sketches, and what is known of each side."""

    def __init__(self, source: Opened) -> None:
        self._source = source
        self._made = made(source)
        self._spread = source.column("concentration").astype(np.float32)
        self._domain = source.column("domain")
        self._trace, self._samples = source.column("trace"), source.column("samples")
        self._has_null = np.array([" frequencies" not in str(one) for one in source.attributes["domains"]] or [True])
        self._kept: tuple[Places, Numbers] = np.empty(0, np.intp), np.empty((0, source.family.size), np.float32)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the numbers that are kept.
        return _Pairs, (self._source,)

    def part(self, part: Part, rows: Places, columns: Places) -> npt.NDArray[np.float32]:
        """Estimates of some pairs, their errors, or what they have by chance, (row, column)."""
        if part == "value":
            return self.estimated(rows, columns, errors=False)[0]
        if part == "error":
            return self.estimated(rows, columns)[1]
        alike = self._domain[rows, np.newaxis] == self._domain[columns]
        alike &= self._has_null[self._domain[columns]] & self._made[rows, np.newaxis] & self._made[columns]
        products = np.multiply.outer(self._trace[rows], self._trace[columns] / (self._samples[columns] - 1.0))
        return np.where(alike, products, np.nan).astype(np.float32)

    def estimated(self, rows: Places, columns: Places, *, errors: bool = True) -> tuple[Numbers, Numbers]:
        """Estimates of some pairs, and their errors, if these are asked for; none otherwise."""
        b = self._batch(columns)
        a = b if np.array_equal(rows, columns) else self._batch(rows)
        return estimated(a, b, errors=errors)

    def _batch(self, rows: Places) -> Batch:
        return Batch.of(self._numbers(rows), self._spread[rows], self._domain[rows])

    def _numbers(self, rows: Places) -> Numbers:
        """Numbers of some rows. Whoever reads pairs part by part asks for the same again: the most rows are kept."""
        known, kept = self._kept
        at = np.full(self._source.rows, -1, dtype=np.intp)
        at[known] = np.arange(len(known))
        places = at[rows]
        if (places >= 0).all():
            return kept[as_slice(places)]
        numbers = numbers_of(self._source, rows, self._made)
        if len(known) < len(rows) and numbers.nbytes <= min(KEPT_BYTES, machine.available_memory() // 4):
            self._kept = rows, numbers
        return numbers


class _Deferred(BackendArray):
    """Pairs of a Dataset that are estimated when they are read."""

    def __init__(self, pairs: _Pairs, part: Part, rows: Places, columns: Places) -> None:
        self._pairs, self._part, self._places = pairs, part, (rows, columns)
        self.shape, self.dtype = (len(rows), len(columns)), np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> npt.NDArray[Any]:
        return np.asarray(
            indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)
        )

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        rows, columns = (places[one] for places, one in zip(self._places, key, strict=True))
        found = self._pairs.part(self._part, np.atleast_1d(rows), np.atleast_1d(columns))
        # A place alone has no axis.
        return found[tuple(0 if np.ndim(one) == 0 else slice(None) for one in (rows, columns))]


def _deferred(pairs: _Pairs, part: Part, rows: Places, columns: Places) -> indexing.LazilyIndexedArray:
    return indexing.LazilyIndexedArray(_Deferred(pairs, part, rows, columns))
