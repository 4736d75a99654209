"""A store of packs, and its index: what subspaces there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import numpy as np

from dask_svcca.errors import DamagedStoreError, ParametersChangedError, StoreFormatError
from dask_svcca.stores import _chunked, _create, _io, _nodes
from dask_svcca.stores._documents import parse, parsed, sealed
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.subspaces.packs import Pack
from dask_svcca.stores.subspaces.records import SubspaceEntry, SubspaceRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import zarr

    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.stores._io import StoreLike

FORMAT_VERSION = 8
FORMAT = "dask-svcca-subspaces"
INSIDE = "subspaces"
"""Group of a comparison that holds its subspaces, where they are not shared."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Contents:
    """What the index of a pack says: see `Pack`."""

    records: tuple[SubspaceRecord, ...]
    chunk_samples: int
    dtype: np.dtype[Any]
    checks: Mapping[str, Sequence[int]]
    gathered: tuple[str, ...]


_CONTENTS: WeakValueDictionary[tuple[str, bytes], _Contents] = WeakValueDictionary()
"""By name of a pack and its document, for as long as a store holds them: who plans may be the process that computes."""


@dataclass(frozen=True)
class SubspaceIndex:
    """What a store of subspaces holds: one value, read at once.

    Attributes
    ----------
    packs : dict of str to Pack
    records : dict of str to SubspaceRecord
        By key. Where a key is in several packs, the record that says most: with all directions before one with the
        leading ones, with loadings before one without, and last one whose directions are not orthonormal.
    raw : dict of str to SubspaceRecord
        By key, records whose directions are neurons: what orthonormal ones can be made from.
    kernels : dict of str to SubspaceRecord
        By key, records of the inner products of samples.
    chunk_samples : int
        Most samples in a chunk of scores.
    """

    packs: Mapping[str, Pack]
    chunk_samples: int
    records: Mapping[str, SubspaceRecord] = field(init=False)
    raw: Mapping[str, SubspaceRecord] = field(init=False)
    kernels: Mapping[str, SubspaceRecord] = field(init=False)

    def __post_init__(self) -> None:
        records: dict[str, SubspaceRecord] = {}
        raw: dict[str, SubspaceRecord] = {}
        kernels: dict[str, SubspaceRecord] = {}
        # What has been put together is soon removed.
        replaced = {name for pack in self.packs.values() for name in pack.gathered}
        for name in sorted(self.packs, key=lambda name: (name in replaced, name)):
            for record in self.packs[name].records:
                if not record.entry.key:
                    continue
                if not record.entry.orthonormal:
                    (kernels if record.entry.is_kernel else raw)[record.entry.key] = record
                before = records.get(record.entry.key)
                if before is None or _says_more(record.entry, before.entry):
                    records[record.entry.key] = record
        object.__setattr__(self, "records", records)
        object.__setattr__(self, "raw", raw)
        object.__setattr__(self, "kernels", kernels)

    def spectrum(self, record: SubspaceRecord) -> FloatArray:
        """Eigenvalues of the scatter, (direction,)."""
        return self.packs[record.pack].spectrum(record)


class SubspaceStore:
    """A store of packs: inside a comparison, or shared between comparisons.

    Attributes
    ----------
    root : zarr.Group
    """

    def __init__(self, root: zarr.Group) -> None:
        self.root = root
        self._known: dict[str, tuple[bytes, Pack | None, _Contents | None]] = {}

    @classmethod
    def create(cls, store: StoreLike, identity: Mapping[str, Any], chunk_samples: int) -> Self:
        """Create a store without any subspace yet; where another run has just made the same, open that.

        Parameters
        ----------
        store : path, zarr store, or URL
        identity : mapping
            Examples and options that its subspaces are made from: see `check`.
        chunk_samples : int
            Most samples in a chunk of scores.
        """
        root = _create.create_whole(store, "subspaces", _head(identity, chunk_samples), lambda _: None)
        if root is not None:
            return cls(root)
        made = cls.open(store, mode="r+")
        made.check(identity)
        return made

    @classmethod
    def create_inside(cls, comparison: zarr.Group, identity: Mapping[str, Any], chunk_samples: int) -> Self:
        """Create a store inside a comparison."""
        return cls(comparison.create_group(INSIDE, attributes=sealed(_head(identity, chunk_samples)), overwrite=True))

    @classmethod
    def open(cls, store: StoreLike, *, mode: str = "r") -> Self:
        """Open a store of subspaces.

        Raises
        ------
        StoreFormatError
            Where there is no store of subspaces, or one of another version.
        """
        return cls(_io.open_root(store, mode=mode, kind="subspaces", version=FORMAT_VERSION))

    @classmethod
    def open_inside(cls, comparison: zarr.Group) -> Self:
        """Open the store inside a comparison.

        Raises
        ------
        StoreFormatError
            Where the comparison has no store inside.
        DamagedStoreError
            Where what it says of itself is not what was written.
        """
        (document,) = backend_of(comparison).read_many([f"{INSIDE}/zarr.json"])
        if document is not None and _is_damaged(document):
            raise DamagedStoreError(
                f"the attributes of the subspaces inside {str(comparison.store_path)!r} are not what was written: the "
                f"file '{INSIDE}/zarr.json' is damaged. Compare again: all subspaces are made anew",
                f"{INSIDE}/zarr.json",
            )
        if document is None:
            raise StoreFormatError(
                f"the comparison {str(comparison.store_path)!r} does not say where its subspaces are, and has none "
                f"inside. Compare with subspaces= as a path or a URL, or leave it out"
            )
        root = _nodes.open_inside(comparison, INSIDE)
        _io.check_root(root, root.store_path, kind="subspaces", version=FORMAT_VERSION)
        return cls(root)

    @property
    def place(self) -> str:
        """Where the store is."""
        return str(self.root.store_path)

    @property
    def chunk_samples(self) -> int:
        """Most samples in a chunk of scores."""
        return int(self.root.attrs["chunk_samples"])  # type: ignore[arg-type]

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise `ParametersChangedError` where these subspaces cannot serve a comparison.

        Parameters
        ----------
        identity : mapping
            ``examples_digest``, ``n_examples``, ``precision`` and the options of reading.
        """
        stored: dict[str, Any] = dict(self.root.attrs["identity"])  # type: ignore[arg-type]
        for name, asked in identity.items():
            if stored.get(name) == asked:
                continue
            if name in {"examples_digest", "n_examples"}:
                raise ParametersChangedError(
                    f"the subspaces at {self.place!r} are of another zoo: {stored['n_examples']} examples (digest "
                    f"{str(stored['examples_digest'])[:8]}), this zoo has {identity['n_examples']} (digest "
                    f"{str(identity['examples_digest'])[:8]}). Use subspaces of the same examples, or another place"
                )
            raise ParametersChangedError(
                f"the subspaces at {self.place!r} were made with {name}={stored.get(name)!r}, now {name}={asked!r} is "
                f"asked for. Ask for the same, or keep these subspaces in another place"
            )

    def read_index(self) -> SubspaceIndex:
        """Read what subspaces there are."""
        backend, known = backend_of(self.root), self._known
        names = backend.names("")
        self._known = {}
        for name, document in zip(names, backend.read_many([f"{name}/zarr.json" for name in names]), strict=True):
            # A run reads it several times, and few packs are new.
            before = known.get(name)
            if document is not None and before is not None and before[0] == document:
                self._known[name] = before
            elif document is not None:
                contents = _contents(name, document)
                self._known[name] = document, self._pack(name, contents), contents
        packs = {name: pack for name, (_, pack, _) in self._known.items() if pack is not None}
        return SubspaceIndex(packs, self.chunk_samples)

    def pack(self, name: str) -> Pack | None:
        """One pack; None where it was not made yet, or not finished."""
        return self.packs([name])[0]

    def packs(self, names: Sequence[str]) -> list[Pack | None]:
        """Some packs, as `pack` gives them."""
        documents = backend_of(self.root).read_many([f"{name}/zarr.json" for name in names])
        return [
            None if document is None else self._pack(name, _contents(name, document))
            for name, document in zip(names, documents, strict=True)
        ]

    def forget(self, name: str) -> None:
        """Let a pack that is damaged no longer count: its subspaces are made anew, and no others."""
        self._known.pop(name, None)
        _chunked.write_group(self.root, name, {})

    def draft(self, name: str) -> Pack | None:
        """A pack whose scores are still being written, by several tasks; None where there is none."""
        return self._pack(name, _read(name, (_io.read_attributes(self.root, name) or {}).get("draft", {})))

    def begin_correction(self, name: str) -> None:
        """Mark that the scores of a draft are being corrected, part by part.

        A worker may die that held what a task reported, and the task then runs again. Without the mark it would write
        uncorrected scores over parts that are corrected already.
        """
        attributes = _io.read_attributes(self.root, name) or {}
        _chunked.write_group(self.root, name, {**attributes, "correcting": True})

    def is_corrected(self, name: str) -> bool:
        """Whether scores of a draft may be corrected already, so that they must not be written again."""
        return bool((_io.read_attributes(self.root, name) or {}).get("correcting"))

    def _pack(self, name: str, contents: _Contents | None) -> Pack | None:
        if contents is None:
            return None
        return Pack(
            self.root,
            name,
            contents.records,
            contents.chunk_samples,
            contents.dtype,
            contents.checks,
            contents.gathered,
        )


def _contents(name: str, document: bytes) -> _Contents | None:
    """What the document of a pack says of it; None where it is none, or damaged."""
    found = _CONTENTS.get((name, document))
    if found is None:
        found = _read(name, _io.attributes_in(document))
        if found is not None:
            _CONTENTS[name, document] = found
    return found


def _read(name: str, attributes: Mapping[str, Any]) -> _Contents | None:
    """The index of a pack; None where there is none, or one that another program spoiled."""
    records, first, mean, loadings = [], 0, 0, 0
    try:
        for position, values in enumerate(attributes["members"]):
            entry = SubspaceEntry.from_json(values)
            records.append(SubspaceRecord(name, position, entry, first, mean, loadings))
            directions = entry.directions
            first, mean = first + directions, mean + entry.neurons
            loadings += directions * entry.neurons if entry.with_loadings else 0
        chunk_samples, dtype = int(attributes["chunk_samples"]), np.dtype(str(attributes["dtype"]))
        checks = {str(key): list(values) for key, values in attributes["checks"].items()}
        gathered = tuple(map(str, attributes.get("gathered", ())))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None
    return _Contents(tuple(records), chunk_samples, dtype, checks, gathered)


def _is_damaged(document: bytes) -> bool:
    """Whether what a store inside says of itself is not what was written; one of another version says that."""
    try:
        attributes = parse(document).get("attributes")
    except ValueError:
        return True
    version = attributes.get("format_version") if isinstance(attributes, dict) else None
    return version in {None, FORMAT_VERSION} and parsed(document) is None


def _says_more(entry: SubspaceEntry, other: SubspaceEntry) -> bool:
    return _worth(entry) > _worth(other)


def _worth(entry: SubspaceEntry) -> tuple[bool, bool, float, bool]:
    return entry.orthonormal, entry.is_kernel, entry.share, entry.with_loadings


def _head(identity: Mapping[str, Any], chunk_samples: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "identity": dict(identity),
        "chunk_samples": chunk_samples,
    }
