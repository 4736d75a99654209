"""Subspaces that are stored, as sketches and searches take them: by the digests of their keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from dask_svcca.errors import MismatchedExamplesError, ParametersChangedError, StoreFormatError
from dask_svcca.kernels.subspace import blocks_of
from dask_svcca.sketches.identity import subspace_digest
from dask_svcca.stores import _io
from dask_svcca.stores._urls import like
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import SubspaceStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray
    from dask_svcca.readings import ReadingOptions
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.subspaces import Pack, SubspaceIndex, SubspaceRecord
    from dask_svcca.stores.zoo import Zoo

NORMS_DIFFER: Final = 1e-3
"""Relative difference of two norms beyond which they are not of the same samples: rounding is far below it."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Stored subspaces, and what sketches estimate.

    Attributes
    ----------
    store : SubspaceStore
    index : SubspaceIndex
    measure : {"cka", "overlap"}
    variance : float or None
        Share of the variance of the directions that an overlap is of.
    """

    store: SubspaceStore
    index: SubspaceIndex
    measure: str
    variance: float | None

    @classmethod
    def open(cls, place: StoreLike, measure: str, variance: float | None) -> Self:
        """Open subspaces: those of a comparison, or shared ones.

        Raises
        ------
        StoreFormatError
            Where there are none.
        """
        kind = _io.read_kind(place)
        if kind == "subspaces":
            store = SubspaceStore.open(place)
        elif kind == "comparison":
            comparison = ComparisonStore.open(place)
            shared = comparison.subspaces
            store = SubspaceStore.open(like(place, shared)) if shared else SubspaceStore.open_inside(comparison.root)
        else:
            raise StoreFormatError(
                f"subspaces are in a comparison, or in a store that compare was given with subspaces=; "
                f"{_io.describe(place)!r} holds {'a zoo' if kind == 'zoo' else kind}"
            )
        return cls(store, store.read_index(), measure, variance)

    @property
    def place(self) -> str:
        """Where they are."""
        return self.store.place

    @property
    def identity(self) -> Mapping[str, Any]:
        """Examples and options that they were made from."""
        return dict(self.store.root.attrs["identity"])  # type: ignore[arg-type]

    def check(self, reading: ReadingOptions, zoo: Zoo | None = None) -> None:
        """Raise where they were read otherwise, or are of another zoo, or of one in another order.

        Raises
        ------
        ParametersChangedError, MismatchedExamplesError
        """
        have = self.identity
        for name, asked in reading.to_dict().items():
            if have.get(name) != asked:
                raise ParametersChangedError(
                    f"the subspaces at {self.place!r} were made with {name}={have.get(name)!r}, and the sketches with "
                    f"{name}={asked!r}: they are not of the same samples. Ask for the same of both"
                )
        if zoo is not None and zoo.examples_digest != have.get("examples_digest"):
            raise MismatchedExamplesError(
                f"the subspaces at {self.place!r} are of {have.get('n_examples')} examples (digest "
                f"{str(have.get('examples_digest'))[:8]}), the zoo {_io.describe(zoo.root.store_path)!r} has "
                f"{zoo.n_examples} (digest {zoo.examples_digest[:8]}), or the same in another order. Give both of one "
                f"zoo"
            )
        if zoo is not None and reading.mask is not None:
            own = zoo.coordinate_digest(reading.mask)
            if own != have.get("mask_digest"):
                raise ParametersChangedError(
                    f"the subspaces at {self.place!r} were made under another mask {reading.mask!r} (digest "
                    f"{str(have.get('mask_digest'))[:8]}) than the zoo has now (digest {own[:8]}). Compare again in "
                    f"another place"
                )

    @cached_property
    def _records(self) -> Mapping[str, SubspaceRecord]:
        # Samples as they are hold all that CKA needs; an overlap is of directions.
        records = dict(self.index.records)
        if self.measure == "cka":
            records |= self.index.raw
        return {subspace_digest(key): record for key, record in records.items()}

    def find(self, digest: str) -> SubspaceRecord | None:
        """Subspace by the digest of its key; None where there is none."""
        return self._records.get(digest)

    def lacking(self, record: SubspaceRecord | None) -> str:
        """Why a subspace does not serve, a sentence whose subject is the representation; empty where it does."""
        if record is None:
            return f"has no subspace in {self.place!r}: compare it there first"
        entry = record.entry
        if entry.problem:
            return entry.problem
        if self.measure == "overlap" and not entry.orthonormal:
            return (
                f"has its samples in {self.place!r}, and no directions: compare it there by svcca or cca, which need "
                f"them"
            )
        if entry.share < 1 and (self.measure == "cka" or self.variance is None or self.variance > entry.share):
            return (
                f"has only the directions of {entry.share:.4g} of its variance in {self.place!r}: compare it there by "
                f"a measure of all of them, such as cca"
            )
        return ""

    def pack(self, record: SubspaceRecord) -> Pack:
        """The pack that a subspace is in."""
        return self.index.packs[record.pack]

    def chosen(self, record: SubspaceRecord) -> BoolArray:
        """Directions that count, (direction,); in each block they come first."""
        if self.measure == "cka":
            return np.ones(record.entry.directions, dtype=np.bool_)
        return record.entry.kept(self.pack(record).spectrum(record), self.variance)

    def norm(self, record: SubspaceRecord) -> float:
        """Frobenius norm of the Gram matrix: of the samples, or of the projection on the directions."""
        entry = record.entry
        if self.measure == "overlap":
            return float(np.sqrt(entry.multiplicity[self.chosen(record)].sum()))
        if not entry.orthonormal:
            return float(np.sqrt(entry.squares))
        return float(np.sqrt(entry.multiplicity @ np.square(self.pack(record).spectrum(record))))

    def parts(self, record: SubspaceRecord) -> Iterator[tuple[int, dict[int, InexactArray]]]:
        """Columns of a root of the Gram matrix, (sample, direction) by block, chunk by chunk with their first sample.

        Raises
        ------
        DamagedSubspacesError
        """
        pack, entry, chosen = self.pack(record), record.entry, self.chosen(record)
        scale: FloatArray = np.ones(entry.directions)
        if self.measure == "cka":
            scale = np.sqrt(pack.spectrum(record))
        buffer = np.empty((entry.directions, pack.chunk_samples), dtype=pack.dtype)
        columns = [(block, np.arange(some.start, some.stop)[chosen[some]]) for block, some in blocks_of(entry.block)]
        for chunk, start in enumerate(range(0, entry.samples, pack.chunk_samples)):
            pack.read_scores(chunk, [(record.first, buffer)])
            count = min(pack.chunk_samples, entry.samples - start)
            yield start, {block: buffer[some, :count].T * scale[some] for block, some in columns if len(some)}
