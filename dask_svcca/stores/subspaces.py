"""Subspaces in a comparison: written once a representation, read by every tile that needs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.stores import _chunked, _io

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import zarr

    from dask_svcca.kernels._types import InexactArray


@dataclass(frozen=True, slots=True)
class Block:
    """A run of directions that belong to one block of a representation.

    Attributes
    ----------
    index : int
    multiplicity : int
    directions, kept : int
        How many are stored, and how many of those, the first, the variance threshold keeps.
    """

    index: int
    multiplicity: int
    directions: int
    kept: int


@dataclass(frozen=True, slots=True)
class SubspaceRecord:
    """What a store says of one subspace, without its arrays.

    Attributes
    ----------
    place : str
        Below the root of the comparison.
    digest : str
        Of the activations it was made from.
    problem : str
        Why there is no subspace; empty if there is one.
    samples, neurons : int
    domain : str
        What a sample is.
    grid : tuple of int
        Of the DFT; empty where there is none.
    variance_kept : float
    blocks : tuple of Block
        In the order of the stored directions.
    rows : int
        Samples in a chunk of scores.
    dtype : numpy.dtype
        Of the scores.
    """

    place: str
    digest: str
    problem: str
    samples: int = 0
    neurons: int = 0
    domain: str = ""
    grid: tuple[int, ...] = ()
    variance_kept: float = float("nan")
    blocks: tuple[Block, ...] = ()
    rows: int = 1
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))

    @property
    def directions(self) -> int:
        """Number of stored directions."""
        return sum(block.directions for block in self.blocks)

    @property
    def block(self) -> npt.NDArray[np.int64]:
        """The block of each direction, (direction,)."""
        return np.repeat([block.index for block in self.blocks], [block.directions for block in self.blocks])

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Whether the variance threshold keeps a direction, (direction,)."""
        return np.concatenate([np.arange(block.directions) < block.kept for block in self.blocks])

    @property
    def rank(self) -> int:
        """Directions stored, counted with multiplicities."""
        return sum(block.directions * block.multiplicity for block in self.blocks)

    @property
    def kept_rank(self) -> int:
        """Directions kept by the variance threshold, counted with multiplicities."""
        return sum(block.kept * block.multiplicity for block in self.blocks)


def read_record(root: zarr.Group, place: str) -> SubspaceRecord | None:
    """Record of one subspace; None where it was not made yet, or not finished."""
    attributes = _io.read_attributes(root, place)
    if attributes is None or "digest" not in attributes:
        return None
    return _record(place, attributes)


def read_draft(root: zarr.Group, place: str, digest: str) -> SubspaceRecord | None:
    """Record of a subspace of these activations whose scores are still to be written; None where there is none."""
    attributes = _io.read_attributes(root, place)
    if attributes is None or attributes.get("draft", {}).get("digest") != digest:
        return None
    return _record(place, attributes["draft"])


def _record(place: str, attributes: Mapping[str, Any]) -> SubspaceRecord:
    if attributes["problem"]:
        return SubspaceRecord(place, attributes["digest"], attributes["problem"])
    return SubspaceRecord(
        place=place,
        digest=attributes["digest"],
        problem="",
        samples=attributes["samples"],
        neurons=attributes["neurons"],
        domain=attributes["domain"],
        grid=tuple(attributes["grid"]),
        variance_kept=attributes["variance_kept"],
        blocks=tuple(Block(*block) for block in attributes["blocks"]),
        rows=attributes["rows"],
        dtype=np.dtype(attributes["dtype"]),
    )


def read_mean(root: zarr.Group, record: SubspaceRecord) -> InexactArray:
    """Mean of each neuron of the first block, (neuron,); complex for a subspace of the DFT."""
    dtype = np.dtype(np.complex128 if record.grid else np.float64)
    return _chunked.read_array(root, f"{record.place}/mean", (record.neurons,), dtype)


def read_spectrum(root: zarr.Group, record: SubspaceRecord) -> npt.NDArray[np.float64]:
    """Eigenvalues of the scatter, (direction,)."""
    return _chunked.read_array(root, f"{record.place}/spectrum", (record.directions,), np.dtype(np.float64))


def read_loadings(root: zarr.Group, record: SubspaceRecord) -> InexactArray:
    """Orthonormal directions, (neuron, direction); complex for a subspace of the DFT."""
    dtype = np.dtype(np.complex128 if record.grid else np.float64)
    return _chunked.read_array(root, f"{record.place}/loadings", (record.neurons, record.directions), dtype)


def write_failure(root: zarr.Group, place: str, digest: str, problem: str) -> None:
    """Record why a representation has no subspace."""
    _chunked.write_group(root, place, {"digest": digest, "problem": problem}, clear=True)


class SubspaceWriter:
    """One subspace on its way into a comparison: scores chunk by chunk, then the rest, then the record."""

    def __init__(
        self,
        root: zarr.Group,
        place: str,
        *,
        samples: int,
        directions: int,
        rows: int,
        dtype: np.dtype[Any],
        exist_ok: bool = False,
    ) -> None:
        self._root, self._place = root, place
        self.rows = rows
        if not exist_ok:
            # The record of an earlier attempt goes first: it must not vouch for scores that change.
            _chunked.write_group(root, place, {}, clear=True)
        # Column-major: a tile reads whole runs of directions straight into its product's operand.
        self._scores = _chunked.ChunkedArray(
            root,
            f"{place}/scores",
            shape=(samples, directions),
            rows=rows,
            dtype=dtype,
            dims=("sample", "direction"),
            column_major=True,
            exist_ok=exist_ok,
        )

    def write_scores(self, chunk: int, scores: InexactArray) -> None:
        """Write one chunk of scores, (sample, direction)."""
        self._scores.write(chunk, scores.astype(self._scores.dtype, copy=False))

    def read_scores(self, chunk: int) -> InexactArray:
        """Read back one chunk of scores, (sample, direction)."""
        return self._scores.read(chunk)

    def finish(
        self,
        *,
        digest: str,
        neurons: int,
        domain: str,
        grid: tuple[int, ...],
        blocks: tuple[Block, ...],
        variance_kept: float,
        arrays: dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]],
        draft: bool = False,
    ) -> None:
        """Write the small arrays, given with their dims, and last of all the record that makes it count.

        The record of a draft counts for nobody but those who write its scores.
        """
        for name, (dims, values) in arrays.items():
            _chunked.write_array(self._root, f"{self._place}/{name}", values, dims)
        record = {
            "digest": digest,
            "problem": "",
            "samples": self._scores.shape[0],
            "neurons": neurons,
            "domain": domain,
            "grid": list(grid),
            "variance_kept": variance_kept,
            "blocks": [[b.index, b.multiplicity, b.directions, b.kept] for b in blocks],
            "rows": self.rows,
            "dtype": str(self._scores.dtype),
        }
        _chunked.write_group(self._root, self._place, {"draft": record} if draft else record)
