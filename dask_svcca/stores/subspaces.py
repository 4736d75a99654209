"""Subspaces: the directions of many representations, packed; made once, read by every tile that needs them.

A pack is what one task makes: the subspaces of one long representation or of many small ones, in a few arrays that
xarray opens. Its index, the attributes of its group, is written last; without it a pack does not count. A subspace is
known by the digest of the activations it was made from and by how they were read, so that a changed representation
gets a new one and the others stay as they are.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import zarr

from dask_svcca.errors import ParametersChangedError, StoreFormatError
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.stores import _chunked, _io

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.stores._io import StoreLike

FORMAT_VERSION = 2
FORMAT = "dask-svcca-subspaces"
INSIDE = "subspaces"
"""Group of a comparison that holds its subspaces, where they are not shared."""


class Block(NamedTuple):
    """A run of directions that belong to one block of a representation.

    Attributes
    ----------
    index : int
    multiplicity : int
    directions : int
    """

    index: int
    multiplicity: int
    directions: int


@dataclass(frozen=True, slots=True)
class SubspaceEntry:
    """What the index of a pack says of one subspace.

    Attributes
    ----------
    key : str
        Of the activations and their reading; see `subspace_key`. Empty for one that could not be made this time, its
        activations being unreadable: it does not count.
    problem : str
        Why there is no subspace; empty if there is one. A sentence whose subject is the representation.
    samples, neurons : int
    domain : str
        What a sample is.
    grid : tuple of int
        Of the DFT; empty where there is none.
    total : float
        Variance of all neurons, times the number of samples.
    blocks : tuple of Block
        In the order of the directions.
    with_loadings : bool
    """

    key: str
    problem: str = ""
    samples: int = 0
    neurons: int = 0
    domain: str = ""
    grid: tuple[int, ...] = ()
    total: float = math.nan
    blocks: tuple[Block, ...] = ()
    with_loadings: bool = False

    @property
    def directions(self) -> int:
        """Number of stored directions."""
        return sum(block.directions for block in self.blocks)

    @property
    def block(self) -> IntArray:
        """The block of each direction, (direction,)."""
        return np.repeat(
            np.array([block.index for block in self.blocks], dtype=np.int64),
            [block.directions for block in self.blocks],
        )

    @property
    def multiplicity(self) -> IntArray:
        """How often each direction counts, (direction,)."""
        return np.repeat(
            np.array([block.multiplicity for block in self.blocks], dtype=np.int64),
            [block.directions for block in self.blocks],
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values, as stored."""
        if self.problem:
            return {"key": self.key, "problem": self.problem}
        return {
            "key": self.key,
            "samples": self.samples,
            "neurons": self.neurons,
            "domain": self.domain,
            "grid": list(self.grid),
            "total": self.total,
            "blocks": [list(block) for block in self.blocks],
            "with_loadings": self.with_loadings,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave."""
        if values.get("problem"):
            return cls(values["key"], values["problem"])
        return cls(
            key=values["key"],
            samples=values["samples"],
            neurons=values["neurons"],
            domain=values["domain"],
            grid=tuple(values["grid"]),
            total=values["total"],
            blocks=tuple(Block(*block) for block in values["blocks"]),
            with_loadings=values["with_loadings"],
        )


def subspace_key(digest: str, reading: str) -> str:
    """What a subspace is known by.

    Parameters
    ----------
    digest : str
        Of the activations.
    reading : str
        Identity of the reading.

    Examples
    --------
    >>> subspace_key("9f3a", "Neurons(sizes=())")
    '9f3a Neurons(sizes=())'
    """
    return f"{digest} {reading}"


def chunk_length(samples: int, most: int) -> int:
    """Samples in a chunk of scores: as even as can be, so that no product runs over padding.

    Examples
    --------
    >>> chunk_length(5_000, 4_096), chunk_length(100, 4_096)
    (2500, 100)
    """
    return -(-samples // -(-samples // most))


@dataclass(frozen=True, slots=True)
class SubspaceRecord:
    """One subspace in its pack.

    Attributes
    ----------
    pack : str
        Name of the pack.
    position : int
        In its index.
    entry : SubspaceEntry
    first : int
        Its first direction among those of the pack.
    mean_start, loadings_start : int
        Where its mean and its loadings begin in those of the pack.
    """

    pack: str
    position: int
    entry: SubspaceEntry
    first: int
    mean_start: int
    loadings_start: int

    @property
    def wide(self) -> np.dtype[Any]:
        """Type of mean and loadings."""
        return np.dtype(np.complex128 if self.entry.grid else np.float64)


@dataclass(frozen=True)
class Pack:
    """Subspaces made together.

    Attributes
    ----------
    root : zarr.Group
        Of all packs.
    name : str
    records : tuple of SubspaceRecord
    chunk_samples : int
        Samples in a chunk of scores.
    dtype : numpy.dtype
        Of the scores.
    """

    root: zarr.Group
    name: str
    records: tuple[SubspaceRecord, ...]
    chunk_samples: int
    dtype: np.dtype[Any]

    @cached_property
    def _spectrum(self) -> FloatArray:
        count = sum(record.entry.directions for record in self.records)
        return _chunked.read_array(self.root, f"{self.name}/spectrum", (count,), np.dtype(np.float64))

    def spectrum(self, record: SubspaceRecord) -> FloatArray:
        """Eigenvalues of the scatter, (direction,)."""
        return self._spectrum[record.first : record.first + record.entry.directions]

    def mean(self, record: SubspaceRecord) -> InexactArray:
        """Mean of each neuron of the first block, (neuron,); complex for a subspace of the DFT."""
        return _read_part(self.root, f"{self.name}/mean", record.mean_start, record.entry.neurons, record.wide)

    def loadings(self, record: SubspaceRecord) -> InexactArray:
        """Orthonormal directions, (neuron, direction); complex for a subspace of the DFT."""
        shape = record.entry.directions, record.entry.neurons
        flat = _read_part(self.root, f"{self.name}/loadings", record.loadings_start, math.prod(shape), record.wide)
        return flat.reshape(shape).T

    def read_scores(self, chunk: int, wanted: Sequence[tuple[int, InexactArray]]) -> None:
        """Read scores of some directions in one chunk of samples.

        Parameters
        ----------
        chunk : int
        wanted : sequence of (int, (direction, sample))
            First direction of a run in the pack, and a contiguous buffer of whole chunks that takes the run. What is
            behind the last sample becomes zero.
        """
        path = f"{self.name}/scores"
        local = _io.directory(self.root)
        if local is not None:
            size = self.chunk_samples * self.dtype.itemsize
            # Text, for a tile reads tens of thousands of chunks, and Python never forgets a part of a Path.
            _io.read_runs(
                f"{local}/{path}/c/{chunk}/0",
                [(first * size, part.data.cast("B")) for first, part in wanted],
            )
            return
        array = zarr.open_array(self.root.store, path=f"{self.root.path}/{path}".lstrip("/"), mode="r")
        rows = np.asarray(array[chunk * self.chunk_samples : (chunk + 1) * self.chunk_samples])
        for first, part in wanted:
            part[:, : len(rows)] = rows[:, first : first + len(part)].T
            part[:, len(rows) :] = 0

    def scores(self, record: SubspaceRecord) -> InexactArray:
        """All scores of one subspace, (sample, direction)."""
        samples, directions = record.entry.samples, record.entry.directions
        whole = np.empty((samples, directions), dtype=self.dtype)
        buffer = np.empty((directions, self.chunk_samples), dtype=self.dtype)
        for chunk, start in enumerate(range(0, samples, self.chunk_samples)):
            self.read_scores(chunk, [(record.first, buffer)])
            part = whole[start : start + self.chunk_samples]
            part[...] = buffer[:, : len(part)].T
        return whole


@dataclass(frozen=True)
class SubspaceIndex:
    """What a store of subspaces holds: one value, read at once.

    Attributes
    ----------
    packs : dict of str to Pack
    records : dict of str to SubspaceRecord
        By key. Where a key is in several packs, the one with loadings.
    chunk_samples : int
        Most samples in a chunk of scores.
    """

    packs: Mapping[str, Pack]
    chunk_samples: int
    records: Mapping[str, SubspaceRecord] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[str, SubspaceRecord] = {}
        for name in sorted(self.packs):
            for record in self.packs[name].records:
                if not record.entry.key:
                    continue
                before = found.get(record.entry.key)
                if before is None or (record.entry.with_loadings and not before.entry.with_loadings):
                    found[record.entry.key] = record
        object.__setattr__(self, "records", found)

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

    @classmethod
    def create(cls, store: StoreLike, identity: Mapping[str, Any], chunk_samples: int) -> Self:
        """Create one without any subspace yet.

        Parameters
        ----------
        store : path, zarr store, or URL
        identity : mapping
            What its subspaces are of, and how they are read: see `check`.
        chunk_samples : int
            Most samples in a chunk of scores.
        """
        return cls(_io.create_root(store, {**_head(identity, chunk_samples)}))

    @classmethod
    def create_inside(cls, comparison: zarr.Group, identity: Mapping[str, Any], chunk_samples: int) -> Self:
        """Create one inside a comparison."""
        return cls(comparison.create_group(INSIDE, attributes=_head(identity, chunk_samples), overwrite=True))

    @classmethod
    def open(cls, store: StoreLike, *, mode: str = "r") -> Self:
        """Open one.

        Raises
        ------
        StoreFormatError
            Where there is none, or one of another version.
        """
        return cls(_io.open_root(store, mode=mode, kind="subspaces", version=FORMAT_VERSION))

    @classmethod
    def open_inside(cls, comparison: zarr.Group) -> Self:
        """Open the one inside a comparison.

        Raises
        ------
        StoreFormatError
            Where there is none.
        """
        if INSIDE not in comparison:
            raise StoreFormatError(
                f"the comparison {str(comparison.store_path)!r} does not say where its subspaces are, and has none "
                f"inside. Compare with subspaces= as a path or a URL, or leave it out"
            )
        root = comparison[INSIDE]
        if not isinstance(root, zarr.Group):
            raise StoreFormatError(f"{INSIDE!r} in {str(comparison.store_path)!r} is an array, not a group")
        return cls(root)

    @property
    def place(self) -> str:
        """Where it is."""
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
        found: dict[str, Any] = dict(self.root.attrs["identity"])  # type: ignore[arg-type]
        for name, asked in identity.items():
            if found.get(name) == asked:
                continue
            if name in {"examples_digest", "n_examples"}:
                raise ParametersChangedError(
                    f"the subspaces at {self.place!r} are of another zoo: {found['n_examples']} examples (digest "
                    f"{str(found['examples_digest'])[:8]}), this one has {identity['n_examples']} (digest "
                    f"{str(identity['examples_digest'])[:8]}). Use subspaces of the same examples, or another place"
                )
            raise ParametersChangedError(
                f"the subspaces at {self.place!r} were made with {name}={found.get(name)!r}, now {name}={asked!r} is "
                f"asked for. Ask for the same, or keep these subspaces in another place"
            )

    def read_index(self) -> SubspaceIndex:
        """What is there."""
        packs = {}
        for name, attributes in _io.walk_attributes(self.root, depth=1):
            if "members" in attributes:
                packs[name] = self._pack(name, attributes)
        return SubspaceIndex(packs, self.chunk_samples)

    def pack(self, name: str) -> Pack | None:
        """One pack; None where it was not made yet, or not finished."""
        attributes = _io.read_attributes(self.root, name)
        return self._pack(name, attributes) if attributes is not None and "members" in attributes else None

    def draft(self, name: str) -> Pack | None:
        """A pack whose scores are still being written, by several tasks; None where there is none."""
        attributes = _io.read_attributes(self.root, name)
        return self._pack(name, attributes["draft"]) if attributes is not None and "draft" in attributes else None

    def _pack(self, name: str, attributes: Mapping[str, Any]) -> Pack:
        records, first, mean, loadings = [], 0, 0, 0
        for position, values in enumerate(attributes["members"]):
            entry = SubspaceEntry.from_json(values)
            records.append(SubspaceRecord(name, position, entry, first, mean, loadings))
            first, mean = first + entry.directions, mean + entry.neurons
            loadings += entry.directions * entry.neurons if entry.with_loadings else 0
        return Pack(
            self.root, name, tuple(records), int(attributes["chunk_samples"]), np.dtype(str(attributes["dtype"]))
        )


def _head(identity: Mapping[str, Any], chunk_samples: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "identity": dict(identity),
        "chunk_samples": chunk_samples,
    }


@dataclass(frozen=True, slots=True, eq=False)
class Subspace:
    """One subspace to be written, without its scores.

    Attributes
    ----------
    entry : SubspaceEntry
    mean : (neuron,)
    spectrum : (direction,)
    loadings : (neuron, direction)
        Empty where the entry says that there are none.
    """

    entry: SubspaceEntry
    mean: InexactArray
    spectrum: FloatArray
    loadings: InexactArray


class PackWriter:
    """One pack on its way into a store: scores chunk by chunk, then the rest, then the index.

    Parameters
    ----------
    store : SubspaceStore
    name : str
    samples, directions : int
        Of all subspaces together: they have the same samples. No direction where all of them failed.
    dtype : numpy.dtype
        Of the scores.
    chunk_samples : int
    exist_ok : bool
        Go on with a draft, made by the same call.
    """

    def __init__(
        self,
        store: SubspaceStore,
        name: str,
        *,
        samples: int,
        directions: int,
        dtype: np.dtype[Any],
        chunk_samples: int,
        exist_ok: bool = False,
    ) -> None:
        self._root, self._name = store.root, name
        self.chunk_samples = chunk_samples
        self._dtype = dtype
        if not exist_ok:
            # The index of an earlier attempt goes first: it must not vouch for scores that change.
            _chunked.write_group(self._root, name, {}, clear=True)
        self._scores: _chunked.ChunkedArray | None = None
        if directions:
            # Column-major: a tile reads whole runs of directions straight into its product's operand.
            self._scores = _chunked.ChunkedArray(
                self._root,
                f"{name}/scores",
                shape=(samples, directions),
                rows=chunk_samples,
                dtype=dtype,
                dims=("sample", "direction"),
                column_major=True,
                exist_ok=exist_ok,
            )

    def write_scores(self, chunk: int, scores: InexactArray) -> None:
        """Write one chunk of scores, (sample, direction)."""
        self._array.write(chunk, scores.astype(self._dtype, copy=False))

    def read_scores(self, chunk: int) -> InexactArray:
        """Read back one chunk of scores, (sample, direction)."""
        return self._array.read(chunk)

    @property
    def _array(self) -> _chunked.ChunkedArray:
        if self._scores is None:
            raise RuntimeError(f"the pack {self._name!r} has no directions, and so no scores")
        return self._scores

    def finish(self, subspaces: Sequence[Subspace | SubspaceEntry], *, draft: bool = False) -> None:
        """Write all but the scores, and last of all the index that makes the pack count.

        Parameters
        ----------
        subspaces : sequence of Subspace or SubspaceEntry
            In the order of their directions. An entry alone says why there is no subspace.
        draft : bool
            The index of a draft counts for nobody but those who write its scores.
        """
        entries = [one.entry if isinstance(one, Subspace) else one for one in subspaces]
        for name, (dims, values) in _arrays([one for one in subspaces if isinstance(one, Subspace)]).items():
            _chunked.write_array(self._root, f"{self._name}/{name}", values, dims)
        index = {
            "members": [entry.to_json() for entry in entries],
            "chunk_samples": self.chunk_samples,
            "dtype": str(self._dtype),
        }
        _chunked.write_group(self._root, self._name, {"draft": index} if draft else index)


def _arrays(subspaces: Sequence[Subspace]) -> dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]]:
    """Arrays of a pack but the scores, with their dims; loadings one after the other, direction by direction."""
    if not subspaces:
        return {}
    entries = [one.entry for one in subspaces]
    found: dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]] = {
        "member": (("direction",), np.repeat(np.arange(len(entries)), [entry.directions for entry in entries])),
        "spectrum": (("direction",), np.concatenate([one.spectrum for one in subspaces])),
        "mean": (("neuron",), np.concatenate([one.mean for one in subspaces])),
    }
    loadings = [one.loadings.T.ravel() for one in subspaces if one.entry.with_loadings]
    if loadings:
        found["loadings"] = ("loading",), np.concatenate(loadings)
    if any(entry.grid for entry in entries):
        found["multiplicity"] = ("direction",), np.concatenate([entry.multiplicity for entry in entries])
        axes = {len(entry.grid) for entry in entries}
        if len(axes) == 1:
            frequency = [half_plane(entry.grid).frequency[entry.block] for entry in entries]
            found["frequency"] = ("direction", "axis"), np.concatenate(frequency)
    return found


def _read_part(root: zarr.Group, path: str, start: int, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A run of a small array along one axis, stored as one uncompressed chunk."""
    local = _io.directory(root)
    if local is None:
        array = zarr.open_array(root.store, path=f"{root.path}/{path}".lstrip("/"), mode="r")
        return np.asarray(array[start : start + count])
    found = np.fromfile(
        os.path.join(local, path, "c", "0"),  # noqa: PTH118 - see `Pack.read_scores`
        dtype=dtype,
        count=count,
        offset=start * dtype.itemsize,
    )
    if len(found) != count:
        raise OSError(f"{path!r} has {len(found)} numbers from {start} on where {count} were expected")
    return found
