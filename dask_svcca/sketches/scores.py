"""What a worker does for overlaps: sketches of the directions of some subspaces, from their scores."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import DamagedSubspacesError
from dask_svcca.kernels.sketch import Hashes, concentration, coordinates, counts, finished, seeded
from dask_svcca.kernels.subspace import blocks_of
from dask_svcca.sketches.family import words_of
from dask_svcca.sketches.tasks import COUNTED, Made, labels_of, sample_words, words_at
from dask_svcca.stores._access import accessing
from dask_svcca.stores.zoo.examples import read_coord
from dask_svcca.tasks import Context

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.sketch import Words
    from dask_svcca.plan.tasks import Job
    from dask_svcca.readings import Reading
    from dask_svcca.sketches.family import Family
    from dask_svcca.stores.subspaces import Pack, SubspaceRecord


@dataclass(frozen=True, slots=True)
class ScoresMember:
    """One subspace to make a sketch of.

    Attributes
    ----------
    row : int
        Its row in the store of sketches.
    label, digest : str
    reading : Reading
    record : SubspaceRecord or None
        None where there is nothing to be made.
    problem : str
        Why, then.
    """

    row: int
    label: str
    digest: str
    reading: Reading
    record: SubspaceRecord | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ScoresTask:
    """Make the sketches of the directions of some subspaces.

    Attributes
    ----------
    number : int
    members : tuple of ScoresMember
    family : Family
    variance : float or None
        Share of the variance of the directions.
    """

    number: int
    members: tuple[ScoresMember, ...]
    family: Family
    variance: float | None

    def __dask_tokenize__(self) -> tuple[str, int]:
        """What tells it from others of a run."""
        return type(self).__name__, self.number


def scores_bytes(size: int, chunk_samples: int, samples: int, *, is_complex: bool) -> int:
    """Bytes that a sketch of directions takes: some of them in a chunk, their buckets, and the places of samples."""
    wide = 2 if is_complex else 1
    return wide * COUNTED * (3 * 8 * chunk_samples + 3 * 2 * 4 * size) + 64 * samples


def perform_scores(job: Job, task: ScoresTask) -> list[Made]:
    """Make the sketches of a task; a subspace that is damaged is reported, and tried again by another run."""
    with accessing(job.comparison):
        context = Context(job)
        zoo = context.worker.zoo
        words = seeded(words_of(read_coord(zoo, EXAMPLE)), task.family.seed)
        names = {member.record.pack for member in task.members if member.record is not None}
        context.worker.read_packs(names)
        made = []
        for member in task.members:
            one = Made(member.row, member.label, member.digest, problem=member.problem)
            if member.record is not None:
                mask = read_coord(zoo, member.reading.mask).astype(np.bool_) if member.reading.mask else None
                own = sample_words(member.reading, mask, words)
                pack = context.worker.pack(member.record.pack)
                one = _attempt(pack, member.record, task.variance, own, task.family.size, one)
            made.append(one)
        return made


def _attempt(
    pack: Pack | None, record: SubspaceRecord, variance: float | None, words: Words, size: int, made: Made
) -> Made:
    entry = record.entry
    made = replace(made, neurons=entry.neurons)
    gone = "has a subspace that is damaged: compare it again where the subspaces are, which makes it anew"
    if pack is None or len(words) != entry.samples:
        return replace(made, digest="", problem=gone)
    try:
        chosen = entry.kept(pack.spectrum(record), variance)
        total = _total(pack, record, chosen, words, size)
    except DamagedSubspacesError:
        return replace(made, digest="", problem=gone)
    norm = float(np.sqrt(entry.multiplicity[chosen].sum()))
    numbers = finished(total, norm)
    return replace(
        made,
        numbers=numbers,
        norm=norm,
        # The trace of a projection is its rank.
        trace=norm,
        concentration=float(concentration(numbers)),
        samples=entry.samples,
        read=int(chosen.sum()) * entry.samples * pack.dtype.itemsize,
    )


def _total(pack: Pack, record: SubspaceRecord, chosen: npt.NDArray[np.bool_], words: Words, size: int) -> InexactArray:
    """Coordinates of a sum of projections, one for each frequency of the full plane."""
    entry = record.entry
    labels = labels_of(entry.grid)
    total: InexactArray = np.zeros(size // 2, dtype=np.complex128)
    for block, columns in blocks_of(entry.block):
        hashes = [(Hashes.of(words_at(words, at), size), mirrored) for at, mirrored in labels[block]]
        # The chosen ones come first.
        stop = columns.start + int(chosen[columns].sum())
        for first, last in itertools.pairwise([*range(columns.start, stop, COUNTED), stop]):
            sums = [_sums(pack, record, first, last, own, mirrored=mirrored) for own, mirrored in hashes]
            for some in sums:
                total = total + coordinates(*some)
    return total


def _sums(
    pack: Pack, record: SubspaceRecord, first: int, last: int, hashes: Hashes, *, mirrored: bool
) -> tuple[FloatArray, FloatArray | None]:
    """Sums of the scores of some directions in the buckets: of their real, and of their imaginary parts."""
    buffer = np.empty((last - first, pack.chunk_samples), dtype=pack.dtype)
    real = np.zeros((2, 2 * hashes.half, last - first), dtype=np.float32)
    imaginary = np.zeros_like(real) if buffer.dtype.kind == "c" else None
    for chunk, start in enumerate(range(0, record.entry.samples, pack.chunk_samples)):
        pack.read_scores(chunk, [(record.first + first, buffer)])
        stop = min(start + pack.chunk_samples, record.entry.samples)
        scores, part = buffer[:, : stop - start].T, hashes.part(start, stop)
        real += counts(np.ascontiguousarray(scores.real, dtype=np.float32), part)
        if imaginary is not None:
            other = np.ascontiguousarray(scores.imag, dtype=np.float32)
            imaginary += counts(-other if mirrored else other, part)
    return real, imaginary
