"""Checks of what is stored: everything is read, and what is damaged or missing is named."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dask_svcca.errors import DamagedSubspacesError, StoreFormatError
from dask_svcca.stores._chunked import ChunkReader, chunk_key
from dask_svcca.stores._digest import chunk_digest, combined_digest
from dask_svcca.stores._metadata import check_texts
from dask_svcca.stores.backend import UNREADABLE, backend_of
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import SubspaceStore
from dask_svcca.stores.zoo.examples import open_coord
from dask_svcca.variables import PAIR_STATUS, VALUED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.storage import StorePath


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is damaged or missing.

    Attributes
    ----------
    what : str
        A representation, a block of results, or a pack of subspaces, for people.
    key : str
        Where it is below the root of the store.
    problem : str
        What is wrong with it.
    block : (int, int) or None
        Position among the tiles of the matrix, for results.
    """

    what: str
    key: str
    problem: str
    block: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class RepresentationCheck:
    """Read the activations of a representation.

    Attributes
    ----------
    root : StorePath
        The zoo.
    path, label, digest : str
        See `Representation`.
    """

    root: StorePath
    path: str
    label: str
    digest: str

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        what, place = f"representation {self.label!r}", f"{self.path}/activations"
        try:
            array = ChunkReader(_group(self.root), place)
        except UNREADABLE as error:
            yield Damage(what, place, f"its metadata cannot be read: {error}")
            return
        digests, whole = [], True
        for chunk in range(array.chunks):
            try:
                digests.append(chunk_digest(array.read(chunk)))
            except UNREADABLE as error:
                whole = False
                yield Damage(what, chunk_key(place, chunk, len(array.shape)), _said(error))
        if whole and combined_digest(digests) != self.digest:
            yield Damage(what, place, "its values are not those that were written")


@dataclass(frozen=True, slots=True)
class LostCheck:
    """Say that a representation is lost, which no index has any more.

    Attributes
    ----------
    path, label : str
    """

    path: str
    label: str

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        what = f"representation {self.label!r}"
        yield Damage(what, f"{self.path}/zarr.json", "its attributes are missing, or not those that were written")


@dataclass(frozen=True, slots=True)
class VariableCheck:
    """Read the metadata of a variable of a comparison.

    Attributes
    ----------
    root : StorePath
        The comparison.
    name : str
    """

    root: StorePath
    name: str

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        try:
            ComparisonStore(_group(self.root)).array(self.name)
        except StoreFormatError as error:
            yield Damage(f"variable {self.name!r}", f"{self.name}/zarr.json", str(error))


@dataclass(frozen=True, slots=True)
class PackCheck:
    """Read the subspaces of a pack.

    Attributes
    ----------
    root : StorePath
        The store of subspaces.
    name : str
    """

    root: StorePath
    name: str

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        pack = SubspaceStore(_group(self.root)).pack(self.name)
        if pack is None:
            return
        for position, record in enumerate(pack.records):
            if record.entry.problem:
                continue
            try:
                pack.spectrum(record)
                pack.mean(record)
                if record.entry.with_loadings:
                    pack.loadings(record)
                buffer = np.empty((record.entry.directions, pack.chunk_samples), pack.dtype)
                for chunk in range(-(-record.entry.samples // pack.chunk_samples)):
                    pack.read_scores(chunk, [(record.first, buffer)])
            except DamagedSubspacesError as error:
                yield Damage(f"subspace {position} of pack {self.name!r}", self.name, _said(error.__cause__ or error))


@dataclass(frozen=True, slots=True)
class BlocksCheck:
    """Read one row of blocks of a comparison.

    Attributes
    ----------
    root : StorePath
        The comparison.
    row : int
        Position of the row among the tiles.
    variables : tuple of str
        Names of all variables along pairs but the status.
    """

    root: StorePath
    row: int
    variables: tuple[str, ...]

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        group = _group(self.root)
        comparison, arrays = ComparisonStore(group), []
        status = comparison.array(PAIR_STATUS.name)
        for name in self.variables:
            # `VariableCheck` names those whose metadata is damaged.
            with suppress(StoreFormatError):
                arrays.append(comparison.array(name))
        there = [set(backend_of(group).sizes(f"{array.basename}/c/{self.row}")) for array in arrays]
        side = status.chunks[0]
        for column in range(-(-status.shape[1] // side)):
            place = slice(self.row * side, (self.row + 1) * side), slice(column * side, (column + 1) * side)
            block = self.row, column
            what = f"block {self.row}, {column}"
            try:
                states = np.asarray(status[place])
            except UNREADABLE as error:
                yield Damage(what, f"{PAIR_STATUS.name}/c/{self.row}/{column}", _said(error), block)
                continue
            done = bool(np.isin(states, VALUED).any())
            for array, chunks in zip(arrays, there, strict=True):
                name = "/".join([str(column), *["0"] * (array.ndim - 2)])
                key = f"{array.basename}/c/{self.row}/{name}"
                if name not in chunks:
                    if done:
                        yield Damage(what, key, "it is missing, and its pairs are marked as done", block)
                    continue
                try:
                    array[place]
                except UNREADABLE as error:
                    yield Damage(what, key, _said(error), block)


@dataclass(frozen=True, slots=True)
class ColumnCheck:
    """Read a variable along one axis, of a zoo or a comparison.

    Attributes
    ----------
    root : StorePath
    name : str
    """

    root: StorePath
    name: str

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        group, what = _group(self.root), f"variable {self.name!r}"
        if "example_coordinates" not in group.attrs:
            # `VariableCheck` names the metadata of comparisons.
            with suppress(StoreFormatError):
                yield from self._find(group, ComparisonStore(group).array(self.name))
            return
        try:
            array = open_coord(group, self.name)
        except StoreFormatError as error:
            yield Damage(what, f"{self.name}/zarr.json", _said(error))
            return
        yield from self._find(group, array)

    def _find(self, group: zarr.Group, array: zarr.Array[Any]) -> Iterator[Damage]:
        length, metadata = array.chunks[0], array.metadata.to_dict()
        for chunk in range(-(-array.shape[0] // length)):
            key = chunk_key(self.name, chunk, array.ndim)
            try:
                (stored,) = backend_of(group).read_many([key])
                if stored is not None and metadata["data_type"] == "string":
                    check_texts(metadata["codecs"], stored)  # type: ignore[arg-type]
                array[chunk * length : (chunk + 1) * length]
            except UNREADABLE as error:
                yield Damage(f"variable {self.name!r}", key, _said(error))


Check = RepresentationCheck | LostCheck | VariableCheck | PackCheck | BlocksCheck | ColumnCheck


def perform_check(check: Check) -> list[Damage]:
    """Everything that is damaged in one part of a store."""
    return list(check.find())


def _group(place: StorePath) -> zarr.Group:
    return zarr.open_group(place, mode="r", use_consolidated=False)


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
