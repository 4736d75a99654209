"""Packs: subspaces that one task made, written chunk by chunk, read by ranges of directions."""

from __future__ import annotations

import errno
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dask_svcca.errors import DamagedSubspacesError
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.stores import _chunked, _io

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.stores.subspaces.records import SubspaceEntry, SubspaceRecord
    from dask_svcca.stores.subspaces.store import SubspaceStore


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
    """

    root: zarr.Group
    name: str
    records: tuple[SubspaceRecord, ...]
    chunk_samples: int
    dtype: np.dtype[Any]

    @cached_property
    def _spectrum(self) -> FloatArray:
        count = sum(record.entry.directions for record in self.records)
        with self._reading():
            return _whole(
                _chunked.read_array(self.root, f"{self.name}/spectrum", (count,), np.dtype(np.float64)), "spectrum"
            )

    def spectrum(self, record: SubspaceRecord) -> FloatArray:
        """Eigenvalues of the scatter, (direction,)."""
        return self._spectrum[record.first : record.first + record.entry.directions]

    def mean(self, record: SubspaceRecord) -> InexactArray:
        """Mean of each neuron of the first block, (neuron,); complex for a subspace of the DFT."""
        with self._reading():
            return _read_part(self.root, f"{self.name}/mean", record.mean_start, record.entry.neurons, record.wide)

    def loadings(self, record: SubspaceRecord) -> InexactArray:
        """Orthonormal directions, (neuron, direction); complex for a subspace of the DFT."""
        shape = record.entry.directions, record.entry.neurons
        with self._reading():
            flat = _read_part(self.root, f"{self.name}/loadings", record.loadings_start, math.prod(shape), record.wide)
        return flat.reshape(shape).T

    def read_scores(self, chunk: int, wanted: Sequence[tuple[int, InexactArray]]) -> None:
        """Read scores of some directions in one chunk of samples.

        Parameters
        ----------
        chunk : int
        wanted : sequence of (int, (direction, sample))
            First of some consecutive directions of the pack, and a contiguous buffer that takes their whole chunks.
            What follows the last sample becomes zero.

        Raises
        ------
        DamagedSubspacesError
        """
        with self._reading():
            self._read_scores(chunk, wanted)

    def _read_scores(self, chunk: int, wanted: Sequence[tuple[int, InexactArray]]) -> None:
        path = f"{self.name}/scores"
        local = _io.directory(self.root)
        if local is not None:
            size = self.chunk_samples * self.dtype.itemsize
            # Text: a tile reads tens of thousands of chunks, and Python interns each part of a Path for good.
            _io.read_ranges(
                f"{local}/{path}/c/{chunk}/0",
                [(first * size, part.data.cast("B")) for first, part in wanted],
            )
            return
        array = zarr.open_array(self.root.store, path=f"{self.root.path}/{path}".lstrip("/"), mode="r")
        rows = np.asarray(array[chunk * self.chunk_samples : (chunk + 1) * self.chunk_samples])
        _whole(rows[:1], f"chunk {chunk} of scores")
        for first, part in wanted:
            part[:, : len(rows)] = rows[:, first : first + len(part)].T
            part[:, len(rows) :] = 0

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say which pack is damaged, and what to do about it."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise DamagedSubspacesError(
                f"the pack {self.name!r} of the subspaces at {str(self.root.store_path)!r} is damaged: {error}. Remove "
                f"that folder, and compare again: it is made anew from the activations",
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
            # Column-major: a tile reads consecutive directions straight into its product's operand.
            self._scores = _chunked.ChunkedArray(
                self._root,
                f"{name}/scores",
                shape=(samples, directions),
                rows=chunk_samples,
                dtype=dtype,
                dims=("sample", "direction"),
                column_major=True,
                replace=False,
                fill=math.nan,
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
            Write a draft, whose index counts only for the tasks that write its scores.
        """
        entries = [one.entry if isinstance(one, Subspace) else one for one in subspaces]
        for name, (dims, values) in _arrays([one for one in subspaces if isinstance(one, Subspace)]).items():
            fill = 0 if values.dtype.kind == "i" else math.nan
            _chunked.write_array(self._root, f"{self._name}/{name}", values, dims, replace=False, fill=fill)
        index = {
            "members": [entry.to_json() for entry in entries],
            "chunk_samples": self.chunk_samples,
            "dtype": str(self._dtype),
        }
        _chunked.write_group(self._root, self._name, {"draft": index} if draft else index)


def _arrays(subspaces: Sequence[Subspace]) -> dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]]:
    """Arrays of a pack except the scores, with their dims; loadings direction by direction."""
    if not subspaces:
        return {}
    entries = [one.entry for one in subspaces]
    arrays: dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]] = {
        "member": (("direction",), np.repeat(np.arange(len(entries)), [entry.directions for entry in entries])),
        "spectrum": (("direction",), np.concatenate([one.spectrum for one in subspaces])),
        "mean": (("neuron",), np.concatenate([one.mean for one in subspaces])),
    }
    loadings = [one.loadings.T.ravel() for one in subspaces if one.entry.with_loadings]
    if loadings:
        # Loadings of a single subspace may be as large as all else that a task holds: they are not copied.
        arrays["loadings"] = ("loading",), loadings[0] if len(loadings) == 1 else np.concatenate(loadings)
    if any(entry.grid for entry in entries):
        arrays["multiplicity"] = ("direction",), np.concatenate([entry.multiplicity for entry in entries])
        axes = {len(entry.grid) for entry in entries}
        if len(axes) == 1:
            frequency = [half_plane(entry.grid).frequency[entry.block] for entry in entries]
            arrays["frequency"] = ("direction", "axis"), np.concatenate(frequency)
    return arrays


def _read_part(root: zarr.Group, path: str, start: int, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Consecutive numbers of an array along one axis, stored as one uncompressed chunk."""
    local = _io.directory(root)
    if local is None:
        array = zarr.open_array(root.store, path=f"{root.path}/{path}".lstrip("/"), mode="r")
        return _whole(np.asarray(array[start : start + count]), path)
    numbers = np.fromfile(
        os.path.join(local, path, "c", "0"),  # noqa: PTH118 - see `Pack.read_scores`
        dtype=dtype,
        count=count,
        offset=start * dtype.itemsize,
    )
    if len(numbers) != count:
        raise OSError(f"{path!r} has {len(numbers)} numbers from {start} on where {count} were expected")
    return numbers


def _whole(values: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Values that were read through zarr, where a chunk that is missing reads as NaN."""
    if np.isnan(values).any():
        raise OSError(f"{what} is missing")
    return values
