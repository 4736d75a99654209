"""Exact values of one layer with some others, from activations or from subspaces: what a search ends with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dask_svcca.errors import IncompatibleError, MismatchedExamplesError, UnreadableActivationsError
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.readings import choose_reading
from dask_svcca.sketches.identity import digests_of
from dask_svcca.sketches.kept import NORMS_DIFFER
from dask_svcca.stores import _io
from dask_svcca.stores._access import UNREADABLE
from dask_svcca.stores._chunked import ChunkReader
from dask_svcca.stores._metadata import said
from dask_svcca.stores.zoo.examples import read_coord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from dask_svcca.kernels._types import InexactArray
    from dask_svcca.readings import Reading, ReadingOptions
    from dask_svcca.sketches.kept import Kept
    from dask_svcca.stores.zoo import Representation, Zoo

    Parts = Iterator[tuple[int, dict[int, InexactArray]]]


@dataclass(frozen=True, slots=True)
class Sketched:
    """What is known of a layer that has a sketch.

    Attributes
    ----------
    label : str
    digest, subspace : str
        Of its activations, and of the key of its subspace.
    norm : float
    """

    label: str
    digest: str
    subspace: str
    norm: float


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """A root of a layer's Gram matrix: its centred samples, or its scores.

    Attributes
    ----------
    blocks : dict of int to (sample, direction)
    grid : tuple of int
    norm : float
        Frobenius norm of the Gram matrix.
    """

    blocks: Mapping[int, InexactArray]
    grid: tuple[int, ...]
    norm: float

    def value(self, parts: Parts, norm: float) -> float:
        """CKA, or overlap, with another layer, whose columns come chunk by chunk."""
        products: dict[int, InexactArray] = {}
        for start, columns in parts:
            for block, some in columns.items():
                if block in self.blocks:
                    # One that is centred is enough.
                    product = self.blocks[block][start : start + len(some)].conj().T @ some
                    products[block] = products[block] + product if block in products else product
        times = half_plane(self.grid).multiplicity
        squares = (int(times[block]) * float(np.vdot(one, one).real) for block, one in products.items())
        return sum(squares) / self.norm / norm


class Source(Protocol):
    """Where exact values are from."""

    @property
    def place(self) -> str:
        """Where that is."""
        ...

    def has(self, what: Sketched) -> bool:
        """Whether a layer is there. One that has changed since its sketch was made raises."""
        ...

    def root(self, what: Sketched) -> Root:
        """A layer, whole."""
        ...

    def parts(self, what: Sketched) -> Parts:
        """A layer, chunk by chunk."""
        ...


class OfActivations:
    """Activations of a zoo; see `Source`.

    Parameters
    ----------
    zoo : Zoo
    options : ReadingOptions
        How the sketches were read.
    place : str
        Where the sketches are.
    """

    def __init__(self, zoo: Zoo, options: ReadingOptions, place: str) -> None:
        self._zoo, self._options, self._sketches = zoo, options, place

    @cached_property
    def _known(self) -> Mapping[str, tuple[Representation, str]]:
        entries = self._zoo.entries()
        return {
            item.label: (item, digest) for item, digest in zip(entries, digests_of(self._zoo, entries), strict=True)
        }

    @cached_property
    def _mask(self) -> npt.NDArray[np.bool_] | None:
        name = self._options.mask
        return None if name is None else np.asarray(read_coord(self._zoo.root, name), dtype=np.bool_)

    @property
    def place(self) -> str:
        """Where they are."""
        return _io.describe(self._zoo.root.store_path)

    def has(self, what: Sketched) -> bool:
        """See `Source`."""
        found = self._known.get(what.label)
        if found is not None and found[1] != what.digest:
            raise MismatchedExamplesError(
                f"{what.label!r} has other activations in the zoo {self.place!r} (digest {found[1][:8]}) than its "
                f"sketch in {self._sketches!r} was made of (digest {what.digest[:8]}): the examples of the zoo are in "
                f"another order, or it was captured anew. Give the zoo that they were made of, make the sketches "
                f"again, or leave out zoo= (--zoo)"
            )
        return found is not None

    def root(self, what: Sketched) -> Root:
        """See `Source`."""
        item, _ = self._known[what.label]
        reading = self._reading(item)
        samples = np.concatenate([chunk.astype(np.result_type(chunk, np.float64)) for chunk in self._chunks(item)])
        samples[:, 0] -= samples[:, 0].mean(axis=0)
        return Root(dict(enumerate(np.moveaxis(samples, 1, 0))), reading.grid, gram_norm(reading, samples))

    def parts(self, what: Sketched) -> Parts:
        """See `Source`."""
        start = 0
        for chunk in self._chunks(self._known[what.label][0]):
            yield start, dict(enumerate(np.moveaxis(chunk, 1, 0)))
            start += len(chunk)

    def _reading(self, item: Representation) -> Reading:
        return choose_reading(item.dims, item.shape, self._options)

    def _chunks(self, item: Representation) -> Iterator[InexactArray]:
        reading = self._reading(item)
        mask = self._mask if reading.mask else None
        try:
            array = ChunkReader(self._zoo.root, f"{item.place}/activations")
            for chunk in range(array.chunks):
                activations = array.read(chunk, check=True)
                rows = slice(chunk * array.rows, chunk * array.rows + len(activations))
                yield reading(activations, None if mask is None else mask[rows])
        except UNREADABLE as error:
            raise UnreadableActivationsError(f"{item.label!r} cannot be read: {said(error)}") from error


class OfSubspaces:
    """Stored subspaces; see `Source`.

    Parameters
    ----------
    kept : Kept
    place : str
        Where the sketches are.
    """

    def __init__(self, kept: Kept, place: str) -> None:
        self._kept, self._sketches = kept, place

    @property
    def place(self) -> str:
        """Where they are."""
        return self._kept.place

    def has(self, what: Sketched) -> bool:
        """See `Source`."""
        record = self._kept.find(what.subspace)
        if record is None or self._kept.lacking(record):
            return False
        norm = self._kept.norm(record)
        if abs(norm - what.norm) > NORMS_DIFFER * what.norm:
            raise IncompatibleError(
                f"the subspace of {what.label!r} in {self.place!r} is not of what its sketch in {self._sketches!r} was "
                f"made of: their norms are {norm:.6g} and {what.norm:.6g}. The mask has changed, or the share of the "
                f"variance that is kept. Make the sketches again, or leave out subspaces= (--subspaces)"
            )
        return True

    def root(self, what: Sketched) -> Root:
        """See `Source`."""
        record = self._kept.find(what.subspace)
        assert record is not None  # noqa: S101 - `has` says so
        blocks: dict[int, list[InexactArray]] = {}
        for _, columns in self._kept.parts(record):
            for block, some in columns.items():
                blocks.setdefault(block, []).append(some)
        joined = {block: np.concatenate(some) for block, some in blocks.items()}
        return Root(joined, record.entry.grid, self._kept.norm(record))

    def parts(self, what: Sketched) -> Parts:
        """See `Source`."""
        record = self._kept.find(what.subspace)
        assert record is not None  # noqa: S101 - `has` says so
        return self._kept.parts(record)


def gram_norm(reading: Reading, samples: InexactArray) -> float:
    """Frobenius norm of the Gram matrix of centred samples, (sample, block, neuron)."""
    total = 0.0
    for block, times in enumerate(reading.multiplicity.tolist()):
        x = samples[:, block]
        small = x.conj().T @ x if x.shape[1] <= len(x) else x @ x.conj().T
        total += times * float(np.vdot(small, small).real)
    return float(np.sqrt(total))
