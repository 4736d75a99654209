"""How activations become a representation of a zoo: batches are checked against the first, and cut into chunks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import InvalidActivationsError
from dask_svcca.precision import coarsest
from dask_svcca.stores import _chunked
from dask_svcca.stores._digest import chunk_digest, combined_digest
from dask_svcca.stores.zoo.batches import mismatch
from dask_svcca.stores.zoo.index import Representation
from dask_svcca.stores.zoo.replace import switch

if TYPE_CHECKING:
    import numpy.typing as npt
    import zarr

    from dask_svcca.stores._names import RepresentationName
    from dask_svcca.stores.zoo.batches import Batch
    from dask_svcca.stores.zoo.options import WriteOptions

CHUNK_BYTES = 8 * 2**20
"""Target size of a chunk of activations, before compression."""


PENDING_BYTES = 256 * 2**20
"""What examples that wait for a chunk to be full take at most, of all representations that are being written."""

FLOAT16_ERROR = 1e-4
"""How far SVCCA and CKA move, at most, for activations stored as float16, where 99 % of the variance is kept.

Measured on all pairs of the demo's 82 trained layers: 7e-5 averaged over positions, 5e-5 under the DFT split, 7e-6 in
the median. With ``variance=None`` CKA moves no further, but SVCCA by up to 0.2: rounding decides what is noise.
"""


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
    place : str
        Path of the group that gets the array. Another than that of the name replaces what is there: see
        `dask_svcca.stores.zoo.replace`.

    Attributes
    ----------
    count : int
        Examples taken so far.
    """

    def __init__(
        self,
        root: zarr.Group,
        name: RepresentationName,
        first: Batch,
        examples: int,
        options: WriteOptions,
        place: str,
    ) -> None:
        self.name, self.options, self.count = name, options, 0
        self._place = place
        self.attrs = options.attrs
        self.waiting = 0
        example_bytes = max(1, math.prod(first.values.shape[1:]) * first.values.dtype.itemsize)
        self._root = root
        self._dims = first.dims
        self._source_dtype = first.source_dtype
        self._examples = examples
        self._shape = (examples, *first.values.shape[1:])
        self._dtype = first.values.dtype
        self._rows = max(1, min(examples, CHUNK_BYTES // example_bytes))
        self._array: _chunked.ChunkedArray | None = None
        self._pending: list[npt.NDArray[Any]] = []
        self._digests: list[bytes] = []

    @property
    def replaces(self) -> bool:
        """Whether there is a complete representation of its name, which stays until this one is."""
        return self._place != self.name.path

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
            Where an example has another shape, type or axes than in the first batch.
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
        if batch.dims != self._dims:
            raise InvalidActivationsError(
                f"batches of {self.name.label!r} differ: the first had axes {self._dims}, this one {batch.dims}"
            )
        if self.count + len(values) > examples:
            raise mismatch(self.name, self.count + len(values), examples, more=True)
        self.count += len(values)
        self._source_dtype = coarsest(self._source_dtype, batch.source_dtype)
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
                f"{self._place}/activations",
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
        """Mark the representation as complete; an error if it is not.

        What replaces another is valid then, and has still to be brought to its place by `replace.settle`.
        """
        if not self.complete:
            raise mismatch(self.name, self.count, self._shape[0])
        representation = Representation(
            name=self.name,
            dims=self._dims,
            shape=self._shape,
            dtype=self._dtype,
            chunk_examples=self._rows,
            step=self.options.step,
            depth=self.options.depth,
            digest=combined_digest(self._digests),
            source_dtype=self._source_dtype,
            parent=self.options.parent or "",
            beside=self.replaces,
        )
        attributes = {**(self.attrs or {}), **representation.attributes, "complete": True}
        if self.replaces:
            switch(self._root, self.name.path, attributes)
        else:
            _chunked.write_group(self._root, self.name.path, attributes)
        return representation
