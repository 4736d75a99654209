"""Scores on their way into a store, chunk by chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from dask_svcca.kernels.subspace import blocks_of, gram_correction, needs_correction
from dask_svcca.stores.subspaces import Block, Subspace, SubspaceEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    from dask_svcca.devices.interface import Array, Projection
    from dask_svcca.kernels._types import InexactArray
    from dask_svcca.kernels.subspace import Eigenbasis
    from dask_svcca.plan.tasks import SubspaceTask
    from dask_svcca.tasks.worker import Context

GRAM_TOLERANCE = 1e-9
"""Departure of the scores from orthonormality that is left alone: it moves correlations by about as much."""


class ScoreWriter(Protocol):
    """Takes the scores of one subspace, chunk by chunk."""

    chunk_samples: int

    def write_scores(self, chunk: int, scores: npt.NDArray[Any]) -> None:
        """Take one chunk, (sample, direction)."""

    def read_scores(self, chunk: int) -> InexactArray:
        """Give one chunk back."""


Begin: TypeAlias = "Callable[[int, int, np.dtype[Any]], ScoreWriter]"
"""Makes what takes scores: from the numbers of samples and of directions, and the type of the scores."""


class HeldScores:
    """Scores of one subspace in memory, until those of the whole pack are there."""

    def __init__(self, samples: int, directions: int, dtype: np.dtype[Any], chunk_samples: int) -> None:
        self.chunk_samples = chunk_samples
        # In the order in which they are stored: the scores of a direction side by side.
        self.scores: npt.NDArray[Any] = np.empty((directions, samples), dtype=dtype).T

    def write_scores(self, chunk: int, scores: npt.NDArray[Any]) -> None:
        """Take one chunk, (sample, direction)."""
        self.scores[chunk * self.chunk_samples :][: len(scores)] = scores

    def read_scores(self, chunk: int) -> InexactArray:
        """Give one chunk back, as it is held."""
        return self.scores[chunk * self.chunk_samples :][: self.chunk_samples]


def subspace_of(
    task: SubspaceTask, neurons: int, count: int, mean: InexactArray, basis: Eigenbasis, *, with_loadings: bool
) -> Subspace:
    """What is stored of a subspace beside its scores."""
    multiplicity = task.reading.multiplicity
    entry = SubspaceEntry(
        key=task.key,
        samples=count,
        neurons=neurons,
        domain=task.reading.domain,
        grid=task.reading.grid,
        total=basis.total,
        blocks=tuple(
            Block(index, int(multiplicity[index]), columns.stop - columns.start)
            for index, columns in blocks_of(basis.block)
        ),
        with_loadings=with_loadings,
    )
    return Subspace(entry, mean, basis.spectrum, basis.loadings)


def score_chunks(
    context: Context, samples: Iterable[Array], projected: Projection, directions: int, length: int
) -> Iterator[InexactArray]:
    """Scores, ``length`` samples at a time; the last may be fewer. Each chunk overwrites the one before."""
    # In the order in which they are stored: the scores of a direction side by side.
    buffer = np.empty((directions, length), dtype=projected.dtype).T
    filled = 0
    for chunk in samples:
        start = 0
        while start < len(chunk):
            part = chunk[start : start + length - filled]
            with context.timed("project"):
                projected(part, buffer[filled : filled + len(part)])
            start, filled = start + len(part), filled + len(part)
            del part
            if filled == length:
                yield buffer
                filled = 0
        del chunk
    if filled:
        yield buffer[:filled]


def write_scores(
    context: Context, writer: ScoreWriter, first: int, chunks: Iterable[InexactArray], basis: Eigenbasis
) -> list[tuple[slice, InexactArray]]:
    """Write chunks of scores. Returns the Gram matrix, over all of them, of each block that may need correction."""
    weak = [columns for _, columns in blocks_of(basis.block) if needs_correction(basis, columns)]
    grams: list[InexactArray | float] = [0.0] * len(weak)
    for number, scores in enumerate(chunks, start=first):
        with context.timed("project"):
            for index, columns in enumerate(weak):
                part = scores[:, columns]
                room = np.empty((part.shape[1], part.shape[1]), part.dtype)
                grams[index] = grams[index] + context.device.multiply(part.conj().T, part, out=room)
                del part, room
        with context.timed("write"):
            writer.write_scores(number, scores)
    return [(columns, np.asarray(gram)) for columns, gram in zip(weak, grams, strict=True)]


def corrections(grams: Iterable[tuple[slice, InexactArray]]) -> list[tuple[slice, InexactArray]]:
    """Factors, from the right, for scores that the covariance route left short of orthonormal."""
    return [(columns, gram_correction(gram)) for columns, gram in grams if not _is_identity(gram)]


def _is_identity(gram: InexactArray) -> bool:
    return all(
        float(np.abs(row - (np.arange(len(row)) == index)).max()) <= GRAM_TOLERANCE for index, row in enumerate(gram)
    )
