"""Subspaces in a comparison: written once a representation, read by every tile that needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
import zarr.codecs

from dask_svcca.stores import _io

if TYPE_CHECKING:
    import numpy.typing as npt

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
    dtype: np.dtype[Any] = np.dtype(np.float32)

    @property
    def directions(self) -> int:
        """Number of stored directions."""
        return sum(block.directions for block in self.blocks)

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


def write_failure(root: zarr.Group, place: str, digest: str, problem: str) -> None:
    """Record why a representation has no subspace."""
    group = root.create_group(place, overwrite=True)
    group.update_attributes({"digest": digest, "problem": problem})


class SubspaceWriter:
    """One subspace on its way into a comparison: scores chunk by chunk, then the rest, then the record."""

    def __init__(
        self, root: zarr.Group, place: str, *, samples: int, directions: int, rows: int, dtype: np.dtype[Any]
    ) -> None:
        self._group = root.create_group(place, overwrite=True)
        self.rows = rows
        array = self._group.create_array(
            "scores",
            shape=(samples, directions),
            chunks=(rows, directions),
            dtype=dtype,
            # Direction by direction on disk: a tile reads whole runs of directions straight into its product's operand.
            filters=[zarr.codecs.TransposeCodec(order=(1, 0))],
            compressors=None,
            fill_value=0,
            dimension_names=("sample", "direction"),
            overwrite=True,
        )
        # A chunk of zeros that is not there would look like one that was lost.
        self._scores = array.with_config({"write_empty_chunks": True})

    def write_scores(self, chunk: int, scores: InexactArray) -> None:
        """Write one chunk of scores, (sample, direction)."""
        start = chunk * self.rows
        self._scores[start : start + len(scores)] = scores.astype(self._scores.dtype)

    def read_scores(self, chunk: int) -> InexactArray:
        """Read back one chunk of scores, (sample, direction)."""
        start = chunk * self.rows
        return np.asarray(self._scores[start : start + self.rows])

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
    ) -> None:
        """Write the small arrays, given with their dims, and last of all the record that makes it count."""
        for name, (dims, values) in arrays.items():
            self._group.create_array(
                name, data=np.ascontiguousarray(values), compressors=None, dimension_names=dims, overwrite=True
            )
        self._group.update_attributes(
            {
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
        )

