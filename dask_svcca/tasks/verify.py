"""Checks of what is stored: everything is read, and what is damaged or missing is named."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import zarr

from dask_svcca.errors import DamagedStoreError, DamagedSubspacesError
from dask_svcca.stores._access import UNREADABLE
from dask_svcca.stores._blocks import BlockArray
from dask_svcca.stores._chunked import ChunkReader, chunk_key
from dask_svcca.stores._digest import chunk_digest, combined_digest
from dask_svcca.stores._documents import is_whole, parse, parsed
from dask_svcca.stores._mend import copies_of
from dask_svcca.stores._stored import stored
from dask_svcca.stores.backend import backend_at, backend_of
from dask_svcca.stores.subspaces import SubspaceStore
from dask_svcca.stores.zoo.examples import read_coord
from dask_svcca.variables import ESTIMATE_VARIABLES, PAIR_STATUS, VALUED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zarr.storage import StorePath

    from dask_svcca.stores.subspaces import Pack


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
    pack : str
        Name of the pack, for subspaces.
    store : str
        Where the file is, if in another store than the one that is verified: subspaces that comparisons share.
    """

    what: str
    key: str
    problem: str
    block: tuple[int, int] | None = None
    pack: str = ""
    store: str = ""


_CHUNK = re.compile(r".*/c/\d+(/\d+)*")
"""Key of a chunk; file managers leave other files."""

ATTRIBUTES = "the attributes of the store"
WRITTEN = "it is not what was written"
LACKING = "it is missing"


@dataclass(frozen=True, slots=True)
class RepresentationCheck:
    """Read the activations of a representation.

    Attributes
    ----------
    root : StorePath
        The zoo.
    path, label, digest : str
    shape : tuple of int
    chunk_examples : int
        See `Representation`.
    """

    root: StorePath
    path: str
    label: str
    digest: str
    shape: tuple[int, ...]
    chunk_examples: int

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        group = _group(self.root)
        what, place = f"representation {self.label!r}", f"{self.path}/activations"
        damaged = list(_documents(group, what, [f"{place}/zarr.json"]))
        yield from damaged
        try:
            array = ChunkReader(group, place)
            if (array.shape, array.rows) != (self.shape, self.chunk_examples):
                raise ValueError(
                    f"its shape is {array.shape}, in chunks of {array.rows} examples, and its attributes say "
                    f"{self.shape}, in chunks of {self.chunk_examples}"
                )
        except UNREADABLE as error:
            if not damaged:
                yield Damage(what, f"{place}/zarr.json", _said(error))
            return
        digests, whole = [], True
        for chunk in range(array.chunks):
            try:
                digests.append(chunk_digest(array.read(chunk, check=True)))
            except UNREADABLE as error:
                whole = False
                yield Damage(what, chunk_key(place, chunk, len(array.shape)), _said(error))
        if whole and combined_digest(digests) != self.digest:
            yield Damage(what, place, "its values are not those that were written")


@dataclass(frozen=True, slots=True)
class GroupCheck:
    """Read the attributes of a group, such as a checkpoint of a zoo.

    Attributes
    ----------
    root : StorePath
        The store.
    path : str
    lost : bool
        Whether its attributes are not those of what it should be.
    """

    root: StorePath
    path: str
    lost: bool

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        what, key = f"group {self.path!r}", f"{self.path}/zarr.json"
        damaged = list(_documents(_group(self.root), what, [key]))
        yield from damaged
        if self.lost and not damaged:
            yield Damage(what, key, WRITTEN)


@dataclass(frozen=True, slots=True)
class CoordinateCheck:
    """Read a coordinate of a zoo.

    Attributes
    ----------
    root : StorePath
    name : str
    """

    root: StorePath
    name: str

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        try:
            read_coord(_group(self.root), self.name)
        except DamagedStoreError as error:
            yield Damage(f"coordinate {self.name!r}", self.name, _said(error))


@dataclass(frozen=True, slots=True)
class PackCheck:
    """Read the subspaces of a pack.

    Attributes
    ----------
    root : StorePath
        The store of subspaces.
    name : str
    store : str
        As for `Damage`.
    """

    root: StorePath
    name: str
    store: str = ""

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        group = _group(self.root)
        pack = SubspaceStore(group).pack(self.name)
        if pack is None:
            # It does not count, whatever is left of it; unless what it says of itself is damaged.
            found = _documents(group, f"pack {self.name!r}", [f"{self.name}/zarr.json"])
        else:
            found = itertools.chain(self._values(pack), self._files(group))
        for one in found:
            yield replace(one, pack=self.name, store=self.store)

    def _values(self, pack: Pack) -> Iterator[Damage]:
        """What tasks could not read."""
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
                what = f"subspace {position} of pack {self.name!r}"
                yield Damage(what, self.name, _said(error.__cause__ or error))

    def _files(self, group: zarr.Group) -> Iterator[Damage]:
        """What no task reads, and what lies behind the values."""
        what = f"pack {self.name!r}"
        keys = [f"{self.name}/{key}" for key in backend_of(group).sizes(self.name)]
        yield from _documents(group, what, [key for key in keys if key.endswith("/zarr.json")])
        yield from _chunks(group, what, [key for key in keys if _CHUNK.fullmatch(key)])


_ESTIMATES = frozenset(variable.name for variable in ESTIMATE_VARIABLES)
"""Which pairs that are done may lack."""


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
        names = [PAIR_STATUS.name, *self.variables]
        documents = backend_of(group).read_many([f"{name}/zarr.json" for name in names])
        arrays = []
        for name, document in zip(names, documents, strict=True):
            # `VariableCheck` names those that are damaged.
            with suppress(DamagedStoreError):
                arrays.append(BlockArray(group, name, document))
        if not arrays:
            return
        side = arrays[0].side
        for column in range(-(-arrays[0].shape[1] // side)):
            yield from self._block(arrays, (self.row, column))

    def _block(self, arrays: list[BlockArray], block: tuple[int, int]) -> Iterator[Damage]:
        done = False
        for array in arrays:
            try:
                values = array.read_block(block)
            except DamagedStoreError as error:
                yield Damage(f"block {block[0]}, {block[1]}", error.key, WRITTEN, block)
                continue
            if array.name == PAIR_STATUS.name:
                done = values is not None and bool(np.isin(values, VALUED).any())
            elif values is None and done and array.name not in _ESTIMATES:
                problem = "it is missing, and its pairs are marked as done"
                yield Damage(f"block {block[0]}, {block[1]}", array.keys(block)[0], problem, block)


@dataclass(frozen=True, slots=True)
class VariableCheck:
    """Read the metadata of a variable of a comparison, and the values of one along one axis.

    Attributes
    ----------
    root : StorePath
        The comparison.
    name : str
    with_values : bool
        Whether it is along one axis; `BlocksCheck` reads the values of the others.
    """

    root: StorePath
    name: str
    with_values: bool

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        group, what = _group(self.root), f"variable {self.name!r}"
        (document,) = backend_of(group).read_many([f"{self.name}/zarr.json"])
        try:
            found = stored(document, self.name, group)
        except DamagedStoreError as error:
            yield Damage(what, error.key, _said(error))
            return
        if found is None:
            yield Damage(what, f"{self.name}/zarr.json", LACKING if document is None else WRITTEN)
            return
        if copies_of(group).get(self.name) != found:
            yield Damage(what, "zarr.json", "the copy of its metadata for xr.open_zarr is not what it should be")
        if self.with_values:
            chunks = range(-(-found["shape"][0] // found["chunk_grid"]["configuration"]["chunk_shape"][0]))
            yield from _chunks(group, what, [f"{self.name}/c/{chunk}" for chunk in chunks])


@dataclass(frozen=True, slots=True)
class RootCheck:
    """Read the attributes of a store.

    Attributes
    ----------
    root : StorePath
    """

    root: StorePath

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        yield from _documents(_group(self.root), ATTRIBUTES, ["zarr.json"])


@dataclass(frozen=True, slots=True)
class ArrayCheck:
    """Read an array of sketches: its metadata, and chunks.

    Attributes
    ----------
    root : StorePath
        The store of sketches.
    name : str
    chunks : tuple of str
        Keys of the chunks that must be there, below the array.
    """

    root: StorePath
    name: str
    chunks: tuple[str, ...]

    def find(self) -> Iterator[Damage]:
        """What is damaged."""
        group, key = _group(self.root), f"{self.name}/zarr.json"
        what = f"variable {self.name!r}"
        damaged = list(_documents(group, what, [key]))
        yield from damaged
        (document,) = backend_of(group).read_many([key])
        if not damaged and copies_of(group).get(self.name) != parsed(document):
            yield Damage(what, "zarr.json", "the copy of its metadata for xr.open_zarr is not what it should be")
        yield from _chunks(group, what, [f"{self.name}/c/{chunk}" for chunk in self.chunks])


_ESTIMATES = frozenset(variable.name for variable in ESTIMATE_VARIABLES)
"""Which pairs that are done may lack."""

Check = (
    ArrayCheck
    | RootCheck
    | RepresentationCheck
    | GroupCheck
    | CoordinateCheck
    | PackCheck
    | BlocksCheck
    | VariableCheck
)


def perform_check(check: Check) -> list[Damage]:
    """Everything that is damaged in one part of a store."""
    return list(check.find())


def _group(place: StorePath) -> zarr.Group:
    """The root of a store that was opened before it was checked: zarr would take longer to open it than a check."""
    document = parse(backend_at(place.store, place.path).read("zarr.json"))
    # What is consolidated may be older than the store.
    document.pop("consolidated_metadata", None)
    return zarr.Group(zarr.AsyncGroup.from_dict(place, document))


def _documents(group: zarr.Group, what: str, keys: Sequence[str]) -> Iterator[Damage]:
    """Documents that are damaged or missing."""
    for key, document in zip(keys, backend_of(group).read_many(keys), strict=True):
        if parsed(document) is None:
            yield Damage(what, key, LACKING if document is None else WRITTEN)


def _chunks(group: zarr.Group, what: str, keys: Sequence[str]) -> Iterator[Damage]:
    """Chunks that are damaged or missing."""
    for key in keys:
        (chunk,) = backend_of(group).read_many([key])
        if chunk is None or not is_whole(chunk):
            yield Damage(what, key, LACKING if chunk is None else WRITTEN)


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
