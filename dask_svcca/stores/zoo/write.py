"""How activations become a representation of a zoo: batches are checked, brought in order and cut into chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import xarray as xr

from dask_svcca.dims import canonical_dims, example_axis
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError
from dask_svcca.stores import _chunked
from dask_svcca.stores._digest import chunk_digest, combined_digest
from dask_svcca.stores.zoo.index import Representation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.stores._chunked import Compression
    from dask_svcca.stores._names import RepresentationName

CHUNK_BYTES = 8 * 2**20
"""Target size of a chunk of activations, before compression."""

PENDING_BYTES = 256 * 2**20
"""What examples that wait for a chunk to be full take at most, of all representations that are being written."""

Stored: TypeAlias = Literal["float16", "float32", "float64"]

FLOAT16_ERROR = 1e-4
"""How far SVCCA and CKA move, at most, for activations stored as float16, where 99 % of the variance is kept.

Measured on all pairs of the demo's 82 trained layers: 7e-5 averaged over positions, 5e-5 under the DFT split, 7e-6 in
the median. With ``variance=None`` CKA moves no further, but SVCCA by up to 0.2: rounding decides what is noise.
"""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a representation is written; see `Zoo.write`."""

    step: float | None
    depth: float | None
    dims: Sequence[str] | None
    attrs: Mapping[str, Any] | None
    compression: Compression
    dtype: Stored | None

    def __post_init__(self) -> None:
        given: dict[str, object] = {"step": self.step, "depth": self.depth}
        for name, value in given.items():
            if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number, or None for none; got {value!r}")


@dataclass(frozen=True, slots=True)
class Batch:
    """Activations of some examples as they are stored.

    Attributes
    ----------
    values : (example, ..., neuron) array
    dims : tuple of str
    """

    values: npt.NDArray[Any]
    dims: tuple[str, ...]


def prepare(values: npt.ArrayLike, name: RepresentationName, options: WriteOptions) -> Batch:
    """Bring activations into the order of axes and the precision in which they are stored.

    Raises
    ------
    InvalidActivationsError
        Where they are not floating, have an empty axis, are not what ``dims`` says, or too large for ``dtype``.
    """
    values = np.asarray(values)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if options.dtype is not None and values.dtype.kind == "f":
        values = _rounded(values, options.dtype, name)
    dims = canonical_dims(options.dims, values.shape, name.label)
    if options.dims is not None:
        values = values.transpose([list(options.dims).index(dim) for dim in dims])
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        raise InvalidActivationsError(
            f"activations of {name.label!r} are {values.dtype}; write float16, float32 or float64, for example "
            f"x.astype('float32')"
        )
    if 0 in values.shape[1:]:
        raise InvalidActivationsError(f"activations of {name.label!r} have an empty axis: shape {values.shape}")
    return Batch(values, dims)


class Writer:
    """One representation on its way into a zoo: gathers examples until they fill a chunk.

    Parameters
    ----------
    root : zarr.Group
    name : RepresentationName
    first : Batch
        Its dims, type and shape of an example hold for the others. It is not written yet.
    examples : int
        Number of examples of the zoo.
    options : WriteOptions

    Attributes
    ----------
    count : int
        Examples taken so far.
    """

    def __init__(
        self, root: zarr.Group, name: RepresentationName, first: Batch, examples: int, options: WriteOptions
    ) -> None:
        self.name, self.options, self.count = name, options, 0
        self.attrs = options.attrs
        self.waiting = 0
        example_bytes = max(1, math.prod(first.values.shape[1:]) * first.values.dtype.itemsize)
        self._root = root
        self._dims = first.dims
        self._examples = examples
        self._shape = (examples, *first.values.shape[1:])
        self._dtype = first.values.dtype
        self._rows = max(1, min(examples, CHUNK_BYTES // example_bytes))
        self._array: _chunked.ChunkedArray | None = None
        self._pending: list[npt.NDArray[Any]] = []
        self._digests: list[bytes] = []

    @property
    def complete(self) -> bool:
        """Whether all examples are there."""
        return self.count == self._examples

    @property
    def spillable(self) -> bool:
        """Whether examples wait, and the size of a chunk is not fixed yet."""
        return self._array is None and bool(self._pending)

    def append(self, batch: Batch) -> None:
        """Take the next examples, and write those that fill a chunk.

        Raises
        ------
        InvalidActivationsError
            Where an example has another shape or type than in the first batch.
        MismatchedExamplesError
            Where there are more examples than the zoo has. Nothing of the batch is taken then.
        """
        values = batch.values
        examples, *shape = self._shape
        if values.shape[1:] != tuple(shape) or values.dtype != self._dtype:
            raise InvalidActivationsError(
                f"batches of {self.name.label!r} differ: the first had examples of shape {tuple(shape)} and "
                f"{self._dtype}, this one {values.shape[1:]} and {values.dtype}"
            )
        if self.count + len(values) > examples:
            raise mismatch(self.name, self.count + len(values), examples, more=True)
        self.count += len(values)
        self._pending.append(values)
        self.waiting += values.nbytes
        if sum(map(len, self._pending)) < self._rows and not self.complete:
            # A caller may reuse its buffer before the chunk is full.
            self._pending[-1] = values.copy()
            return
        self._write()

    def spill(self) -> None:
        """Write what waits as the first chunk, whose size the others then have."""
        self._rows = sum(map(len, self._pending))
        self._write()

    def _write(self) -> None:
        """Write the chunks that are full, and the last one."""
        if self._array is None:
            self._array = _chunked.ChunkedArray(
                self._root,
                f"{self.name.path}/activations",
                shape=self._shape,
                rows=self._rows,
                dtype=self._dtype,
                dims=self._dims,
                compression=self.options.compression,
            )
        whole = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
        end = len(whole) if self.complete else len(whole) - len(whole) % self._rows
        for start in range(0, end, self._rows):
            chunk = whole[start : start + self._rows]
            self._array.write(len(self._digests), chunk)
            self._digests.append(chunk_digest(chunk))
        self._pending = [whole[end:].copy()] if end < len(whole) else []
        self.waiting = sum(part.nbytes for part in self._pending)

    def finish(self) -> Representation:
        """Mark the representation as complete; an error if it is not."""
        if not self.complete:
            raise mismatch(self.name, self.count, self._shape[0])
        representation = Representation(
            name=self.name,
            dims=self._dims,
            shape=self._shape,
            dtype=self._dtype,
            chunk_examples=self._rows,
            step=_plain(self.options.step),
            depth=_plain(self.options.depth),
            digest=combined_digest(self._digests),
        )
        attributes = {**(self.attrs or {}), **representation.attributes, "complete": True}
        _chunked.write_group(self._root, self.name.path, attributes)
        return representation


def batches(
    activations: npt.ArrayLike | Iterable[npt.ArrayLike],
    name: RepresentationName,
    dims: Sequence[str] | None,
    examples: int,
) -> Iterator[npt.NDArray[Any]]:
    """Activations as consecutive arrays along the examples, without empty ones.

    Raises
    ------
    MismatchedExamplesError
        Where an array has more or fewer examples than the zoo; for an iterator, the caller has to check.
    """
    along = example_axis(dims)
    if isinstance(activations, Iterator):
        for batch in map(np.asarray, activations):
            if batch.ndim and batch.shape[along]:
                yield batch
        return
    values: Any = activations if hasattr(activations, "shape") else np.asarray(activations)
    if values.ndim == 0 or values.shape[along] != examples:
        raise mismatch(name, values.shape[along] if values.ndim else 0, examples)
    if isinstance(values, xr.DataArray):
        values = values.data
    import dask.array  # noqa: PLC0415 - a worker imports this module, and needs no Dask

    if not isinstance(values, dask.array.Array):
        yield np.asarray(values)
        return
    stop = 0
    for length in values.chunks[along]:
        start, stop = stop, stop + length
        index = [slice(None)] * values.ndim
        index[along] = slice(start, stop)
        if length:
            yield np.asarray(values[tuple(index)])


def mismatch(name: RepresentationName, got: int, examples: int, *, more: bool = False) -> MismatchedExamplesError:
    """Error for activations of another number of examples than the zoo has."""
    return MismatchedExamplesError(
        f"{name.label!r} has {'at least ' if more else ''}{got} examples, its zoo has {examples}. All representations "
        f"of a zoo have the same examples in the same order: capture it again with the zoo's examples, or keep it in a "
        f"zoo of its own"
    )


def _plain(number: Any) -> Any:
    """A number as JSON takes it: not a NumPy scalar."""
    return number.item() if isinstance(number, np.generic) else number


def _rounded(values: npt.NDArray[Any], dtype: Stored, name: RepresentationName) -> npt.NDArray[Any]:
    """Values in another precision; refused where one would become infinite."""
    if dtype not in get_args(Stored):
        raise ValueError(f"dtype is one of {', '.join(map(repr, get_args(Stored)))}; got {dtype!r}")
    if np.can_cast(values.dtype, dtype):
        return values.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    lost = np.isinf(rounded) & np.isfinite(values)
    if lost.any():
        raise InvalidActivationsError(
            f"activations of {name.label!r} are as large as {np.abs(values[lost]).max():.3g}, and {dtype} reaches "
            f"{np.finfo(dtype).max:.3g}; choose a wider dtype, or leave it out to store them as {values.dtype}"
        )
    return rounded
