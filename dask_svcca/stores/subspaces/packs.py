"""Packs: subspaces that one task made, written chunk by chunk, read by ranges of directions."""

from __future__ import annotations

import errno
import math
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import DamagedSubspacesError, StoreAccessError
from dask_svcca.stores import _chunked
from dask_svcca.stores._digest import checksum, row_checksums
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.stores.backend import Backend
    from dask_svcca.stores.subspaces.records import SubspaceEntry, SubspaceRecord
    from dask_svcca.stores.subspaces.store import SubspaceStore

    Wanted = Sequence[tuple[int, InexactArray]]

SCORES = "scores"
SCORE_CHECKS = "scores_check"
"""Checksums of the scores, direction by direction and chunk by chunk: tiles read some directions only."""

BASES = "bases"
"""Numbers in double precision: the spectra of all subspaces, then all means, then all loadings; complex ones are two.

One array, since small packs are many: each array is two files, and three folders.
"""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """Scores of one pack that are being read, and the checksums of those that no one has checked yet."""

    pack: Pack
    chunk: int
    ranges: Mapping[str, Sequence[tuple[int, memoryview]]]
    unseen: Wanted
    known: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Pack:
    """Subspaces made together.

    Attributes
    ----------
    root : zarr.Group
        Group that holds all packs.
    name : str
    records : tuple of SubspaceRecord
    chunk_samples : int
        Samples in a chunk of scores.
    dtype : numpy.dtype
        Type of the scores.
    checks : dict of str to list of int
        Checksums of all arrays but the scores, one for each record.
    gathered : tuple of str
        Names of the packs that it takes the place of.
    """

    root: zarr.Group
    name: str
    records: tuple[SubspaceRecord, ...]
    chunk_samples: int
    dtype: np.dtype[Any]
    checks: Mapping[str, Sequence[int]]
    gathered: tuple[str, ...] = ()

    @cached_property
    def _backend(self) -> Backend:
        return backend_of(self.root)

    @cached_property
    def _spectra(self) -> FloatArray:
        # Whole: it is small, and each record's is asked for.
        return self._read(0, self.directions, np.dtype(np.float64))

    def spectrum(self, record: SubspaceRecord) -> FloatArray:
        """Eigenvalues of the scatter, (direction,)."""
        with self.reading():
            found = self._spectra[record.first : record.first + record.entry.directions]
            return self._checked("spectrum", record, found)

    @staticmethod
    def read_spectra(packs: Sequence[Pack]) -> None:
        """Read the spectra of several packs, requested together; those that cannot be read are left to `spectrum`."""
        unread = [pack for pack in packs if "_spectra" not in pack.__dict__ and pack.directions]
        found = {pack.name: np.empty(pack.directions, np.float64) for pack in unread}
        if len(unread) < 2:
            return
        with suppress(OSError):
            backend_of(unread[0].root).read_ranges(
                {
                    _chunked.chunk_key(f"{name}/{BASES}", 0, 1): [(0, values.data.cast("B"))]
                    for name, values in found.items()
                }
            )
            for pack in unread:
                pack.__dict__["_spectra"] = found[pack.name]

    def _read(self, start: int, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Consecutive numbers, from one in double precision on."""
        key, double = _chunked.chunk_key(f"{self.name}/{BASES}", 0, 1), np.dtype(np.float64)
        numbers = _chunked.read_numbers(
            self._backend, key, count * dtype.itemsize // double.itemsize, double, start=start
        )
        return numbers.view(dtype)

    def _place(self, record: SubspaceRecord, *, loadings: bool) -> int:
        """Where the mean or the loadings of a subspace begin among the numbers of the pack."""
        each = record.wide.itemsize // np.dtype(np.float64).itemsize
        if not loadings:
            return self.directions + record.mean_start * each
        return self.directions + (self._neurons + record.loadings_start) * each

    @cached_property
    def _neurons(self) -> int:
        return sum(record.entry.neurons for record in self.records)

    def _checked(self, name: str, record: SubspaceRecord, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if numbers.size and checksum(numbers) != self.checks[name][record.position]:
            raise OSError(f"the {name} of its subspace {record.position} is not what was written")
        return numbers

    def mean(self, record: SubspaceRecord) -> InexactArray:
        """Mean of each neuron of the first block, (neuron,); complex for a subspace of the DFT."""
        with self.reading():
            return self._checked(
                "mean", record, self._read(self._place(record, loadings=False), record.entry.neurons, record.wide)
            )

    def loadings(self, record: SubspaceRecord) -> InexactArray:
        """Orthonormal directions, (neuron, direction); complex for a subspace of the DFT."""
        shape = record.entry.directions, record.entry.neurons
        with self.reading():
            flat = self._read(self._place(record, loadings=True), math.prod(shape), record.wide)
            return self._checked("loadings", record, flat).reshape(shape).T

    def read_scores(self, chunk: int, wanted: Wanted) -> None:
        """Read scores of some directions in one chunk of samples; see `read_scores`."""
        read_scores(chunk, [(self, wanted)])

    def prepare(self, chunk: int, wanted: Wanted) -> _Request:
        """What to read for some scores: themselves, and their checksums unless they were checked before."""
        size = self.chunk_samples * self.dtype.itemsize
        ranges = {
            _chunked.chunk_key(f"{self.name}/{SCORES}", chunk, 2): [
                (first * size, part.data.cast("B")) for first, part in wanted
            ]
        }
        seen = self._seen.setdefault(chunk, np.zeros(self.directions, np.bool_))
        unseen = [(first, part) for first, part in wanted if not seen[first : first + len(part)].all()]
        known = np.empty(self.directions, np.uint64)
        if unseen:
            ranges[_chunked.chunk_key(f"{self.name}/{SCORE_CHECKS}", chunk, 1)] = [(0, known.data.cast("B"))]
        return _Request(self, chunk, ranges, unseen, known)

    def check(self, request: _Request) -> None:
        """Compare scores that were read with their checksums."""
        for first, part in request.unseen:
            found = np.array(row_checksums(part), np.uint64)
            wrong = np.flatnonzero(found != request.known[first : first + len(part)])
            if len(wrong):
                direction = first + wrong[0]
                raise OSError(f"direction {direction} in chunk {request.chunk} of scores is not what was written")
            self._seen[request.chunk][first : first + len(part)] = True

    @cached_property
    def _seen(self) -> dict[int, npt.NDArray[np.bool_]]:
        """By chunk, directions whose scores were checked: a process reads them for many tiles, and checks them once."""
        return {}

    @cached_property
    def directions(self) -> int:
        """Directions of all subspaces."""
        return sum(record.entry.directions for record in self.records)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Say which pack is damaged, and what to do about it."""
        try:
            yield
        except StoreAccessError:
            raise
        except (OSError, ValueError) as error:
            raise DamagedSubspacesError(
                f"the pack {self.name!r} of the subspaces at {str(self.root.store_path)!r} is damaged: {error}. "
                f"Compare again: it is made anew from the activations",
                # Of what the system says, only that a file is not there is about the pack.
                self.name if getattr(error, "errno", None) in {None, errno.ENOENT} else "",
            ) from error

    def scores(self, record: SubspaceRecord) -> InexactArray:
        """All scores of one subspace, (sample, direction), in double precision."""
        samples, directions = record.entry.samples, record.entry.directions
        whole = np.empty((samples, directions), dtype=np.result_type(self.dtype, np.float64))
        buffer = np.empty((directions, self.chunk_samples), dtype=self.dtype)
        for chunk, start in enumerate(range(0, samples, self.chunk_samples)):
            self.read_scores(chunk, [(record.first, buffer)])
            part = whole[start : start + self.chunk_samples]
            part[...] = buffer[:, : len(part)].T
        return whole


def read_scores(chunk: int, wanted: Sequence[tuple[Pack, Wanted]]) -> None:
    """Read scores of some directions of several packs in one chunk of samples, requested together.

    Parameters
    ----------
    chunk : int
    wanted : sequence of (Pack, sequence of (int, (direction, sample)))
        By pack, all of one store: first of some consecutive directions, and a contiguous buffer that takes their whole
        chunks. What follows the last sample becomes zero.

    Raises
    ------
    DamagedSubspacesError
    """
    requests = [pack.prepare(chunk, some) for pack, some in wanted]
    backend = backend_of(requests[0].pack.root)
    try:
        backend.read_ranges({key: ranges for request in requests for key, ranges in request.ranges.items()})
    except OSError:
        # One at a time: it says which pack it is.
        for request in requests:
            with request.pack.reading():
                backend.read_ranges(request.ranges)
    for request in requests:
        with request.pack.reading():
            request.pack.check(request)


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
        Samples, the same for all subspaces, and directions of all together: none where all of them failed.
    dtype : numpy.dtype
        Type of the scores.
    chunk_samples : int
    exist_ok : bool
        Go on with a draft that the same call made.
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
            # The index of an earlier attempt is removed first: its scores are about to change. Its files are
            # overwritten and not removed, since a task may run twice at the same time.
            _chunked.write_group(self._root, name, {})
        self._scores: _chunked.ChunkedArray | None = None
        if directions:
            self._checks = _chunked.ChunkedArray(
                self._root,
                f"{name}/{SCORE_CHECKS}",
                shape=(-(-samples // chunk_samples) * directions,),
                rows=directions,
                dtype=np.dtype(np.uint64),
                dims=("check",),
                replace=False,
                exist_ok=exist_ok,
            )
            # Column-major: a tile reads consecutive directions straight into its product's operand.
            self._scores = _chunked.ChunkedArray(
                self._root,
                f"{name}/{SCORES}",
                shape=(samples, directions),
                rows=chunk_samples,
                dtype=dtype,
                dims=("sample", "direction"),
                column_major=True,
                replace=False,
                fill=-1 if dtype.kind == "i" else math.nan,
                exist_ok=exist_ok,
            )

    def write_scores(self, chunk: int, scores: npt.NDArray[Any]) -> None:
        """Write one chunk of scores, (sample, direction)."""
        stored = self._array.stored(scores.astype(self._dtype, copy=False))
        checks = np.array(row_checksums(stored), np.uint64)
        backend_of(self._root).write_many([self._array.item(chunk, stored), self._checks.item(chunk, checks)])

    def read_scores(self, chunk: int) -> InexactArray:
        """Read back one chunk of scores, (sample, direction)."""
        return self._array.read(chunk)

    @property
    def _array(self) -> _chunked.ChunkedArray:
        if self._scores is None:
            raise RuntimeError(f"the pack {self._name!r} has no directions, and so no scores")
        return self._scores

    def finish(
        self,
        subspaces: Sequence[Subspace | SubspaceEntry],
        *,
        draft: bool = False,
        gathered: Sequence[str] = (),
    ) -> None:
        """Write all but the scores, and last of all the index that makes the pack count.

        Parameters
        ----------
        subspaces : sequence of Subspace or SubspaceEntry
            In the order of their directions. An entry alone says why there is no subspace.
        draft : bool
            Write a draft, whose index counts only for the tasks that write its scores.
        gathered : sequence of str
            See `Pack`.
        """
        entries = [one.entry if isinstance(one, Subspace) else one for one in subspaces]
        numbers = _numbers([one for one in subspaces if isinstance(one, Subspace)])
        if numbers:
            items = _chunked.joined_items(f"{self._name}/{BASES}", numbers, "number", fill=math.nan)
            backend_of(self._root).write_many(items)
        index = {
            "members": [entry.to_json() for entry in entries],
            "chunk_samples": self.chunk_samples,
            "dtype": str(self._dtype),
            "checks": _checks(subspaces),
            "gathered": list(gathered),
        }
        _chunked.write_group(self._root, self._name, {"draft": index} if draft else index)


def _checks(subspaces: Sequence[Subspace | SubspaceEntry]) -> dict[str, list[int]]:
    """Checksums of what is read of each subspace; zero where there is none."""
    none = np.zeros(0)
    parts = [
        (one.spectrum, one.mean, one.loadings.T) if isinstance(one, Subspace) else (none,) * 3 for one in subspaces
    ]
    return {
        name: [checksum(array) if array.size else 0 for array in arrays]
        for name, arrays in zip(("spectrum", "mean", "loadings"), zip(*parts, strict=True), strict=True)
    }


def _numbers(subspaces: Sequence[Subspace]) -> list[FloatArray]:
    """What `BASES` holds, some at a time; loadings direction by direction."""
    parts = [one.spectrum for one in subspaces] + [one.mean for one in subspaces]
    # Loadings may be as large as all else that a task holds: they are not copied.
    parts += [one.loadings.T for one in subspaces if one.entry.with_loadings]
    return [np.ascontiguousarray(part).ravel().view(np.float64) for part in parts if part.size]
