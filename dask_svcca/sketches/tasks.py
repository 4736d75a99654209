"""What a worker does: sketches of some representations. No Dask: a task is a value, and `perform` does one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import InvalidActivationsError, UnreadableActivationsError
from dask_svcca.kernels.fourier import half_plane, plane_frequencies
from dask_svcca.kernels.noise import neuron_noise
from dask_svcca.kernels.positions import chosen_positions
from dask_svcca.kernels.sketch import Hashes, at, concentration, coordinates, counts, finished, seeded
from dask_svcca.readings import Positions
from dask_svcca.sketches.family import words_of
from dask_svcca.stores._access import accessing
from dask_svcca.stores.zoo.examples import read_coord
from dask_svcca.tasks import Context
from dask_svcca.tasks.samples import Samples, check, check_scale, constant

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.sketch import Words
    from dask_svcca.plan.tasks import Job, SubspaceTask
    from dask_svcca.readings import Reading
    from dask_svcca.sketches.family import Family

COUNTED = 256
"""Neurons that are summed in buckets at a time, where samples are held."""


@dataclass(frozen=True, slots=True)
class Member:
    """One representation to make a sketch of.

    Attributes
    ----------
    row : int
        Its row in the store.
    read : SubspaceTask
        How it is read.
    pieces : int
        Parts of its neurons, or of its frequencies, that are held one after the other, each by a pass over the
        activations; 0 where chunks are summed up as they come.
    """

    row: int
    read: SubspaceTask
    pieces: int


@dataclass(frozen=True, slots=True)
class SketchTask:
    """Make the sketches of some representations.

    Attributes
    ----------
    number : int
    members : tuple of Member
    family : Family
    """

    number: int
    members: tuple[Member, ...]
    family: Family

    def __dask_tokenize__(self) -> tuple[str, int]:
        """What tells it from others of a run."""
        return type(self).__name__, self.number


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What became of one sketch.

    Attributes
    ----------
    row : int
    label : str
    digest : str
        Of the activations; empty where they could not be read, so that another run tries again.
    problem : str
        A sentence whose subject is the representation; empty where all went well.
    numbers : (size,) or None
    norm : float
        Frobenius norm of the Gram matrix of the centred samples.
    concentration : float
    samples, neurons : int
    read : int
        Bytes of activations.
    """

    row: int
    label: str
    digest: str
    problem: str = ""
    numbers: npt.NDArray[np.float32] | None = None
    norm: float = np.nan
    trace: float = np.nan
    concentration: float = np.nan
    samples: int = -1
    neurons: int = -1
    read: int = 0


def perform(job: Job, task: SketchTask) -> list[Made]:
    """Make the sketches of a task; activations that cannot be compared are reported with the reason."""
    with accessing(job.comparison):
        context = Context(job)
        words = seeded(words_of(read_coord(context.worker.zoo, EXAMPLE)), task.family.seed)
        return [_attempt(context, member, words, task.family.size) for member in task.members]


def _attempt(context: Context, member: Member, words: Words, size: int) -> Made:
    made = Made(member.row, member.read.label, member.read.key)
    samples = None
    try:
        samples = Samples(context, member.read)
        made = replace(made, neurons=samples.neurons)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            made = _make(samples, member, words, size, made)
    except InvalidActivationsError as error:
        made = replace(made, problem=str(error))
    except UnreadableActivationsError as error:
        made = replace(made, digest="", problem=str(error))
    return replace(made, read=0 if samples is None else samples.read)


def _make(samples: Samples, member: Member, words: Words, size: int, made: Made) -> Made:
    own = sample_words(member.read.reading, samples.mask, words)
    check(samples, len(own), finite=True)
    sums = _Held(samples, member, own, size) if member.pieces else _Streamed(samples, own, size)
    total, norm = sums.total, sums.norm
    unscaled = np.float64(norm) / np.square(np.float64(sums.scale))
    check(samples, len(own), finite=bool(np.isfinite(unscaled) and np.isfinite(total).all()))
    noise = neuron_noise(sums.variances, sums.squares, len(own), samples.epsilon)
    if not norm or (sums.variances <= noise).all():
        raise constant(len(own))
    check_scale(float(unscaled))
    numbers = finished(total, norm)
    return replace(
        made,
        numbers=numbers,
        norm=float(unscaled),
        trace=float((sums.variances * sums.weights).sum() / norm),
        concentration=float(concentration(numbers)),
        samples=len(own),
    )


def sample_words(reading: Reading, mask: npt.NDArray[np.bool_] | None, words: Words) -> Words:
    """Words of all samples of a representation, in their order."""
    if not isinstance(reading, Positions) or reading.domain == "examples":
        return words
    places = chosen_positions(reading.choice, reading.resampled or reading.sizes)
    own = at(np.repeat(words, len(places)), np.tile(places, len(words)))
    return own if mask is None else own[mask[:, places].ravel()]


class _Scaled:
    """Samples in single precision, from near their mean, in a unit in which their squares neither overflow nor vanish.

    Attributes
    ----------
    scale : float
        By which they were multiplied: a power of two.
    """

    def __init__(self) -> None:
        self.scale = 0.0
        self._shifts: list[InexactArray] = []

    @property
    def shift(self) -> InexactArray:
        """What was taken off, (neuron,)."""
        return self._shifts[0]

    def __call__(self, chunk: InexactArray) -> InexactArray:
        """One chunk, (sample, block, neuron); only the first block has a mean."""
        wide = chunk.astype(np.result_type(chunk.dtype, np.float64))
        if not self._shifts:
            self._shifts.append(wide[:, 0].mean(axis=0))
        wide[:, 0] -= self.shift
        if not self.scale:
            most = float(np.abs(wide).max())
            # Where all is the same so far, it is zero in any unit.
            self.scale = float(2.0 ** -np.frexp(most)[1]) if 0 < most < np.inf else 0.0
        wide *= self.scale or 1.0
        return wide.astype(np.complex64 if wide.dtype.kind == "c" else np.float32)


class _Streamed:
    """Sums of samples that come chunk by chunk, fewer neurons than samples, and one block.

    Attributes
    ----------
    total : (size / 2,)
        Coordinates.
    norm : float
    variances, squares : (neuron,)
        Sums of squares about the mean, and with it.
    weights : (neuron,)
        How often each counts.
    scale : float
        By which samples were multiplied, in all of these.
    """

    def __init__(self, samples: Samples, words: Words, size: int) -> None:
        neurons = samples.neurons
        sums = np.zeros((2, size, neurons), dtype=np.float32)
        ones = np.zeros((2, size, 1), dtype=np.float32)
        scatter, added = np.zeros((neurons, neurons)), np.zeros(neurons)
        hashes, scaled, start = Hashes.of(words, size), _Scaled(), 0
        for chunk in samples:
            x = scaled(chunk)[:, 0].real
            del chunk
            part = hashes.part(start, start + len(x))
            sums += counts(x, part)
            ones += counts(np.ones((len(x), 1), dtype=np.float32), part)
            scatter += x.T @ x
            added += x.sum(axis=0, dtype=np.float64)
            start += len(x)
        mean = added / start
        sums -= ones * mean.astype(np.float32)
        scatter -= np.multiply.outer(mean * start, mean)
        self.scale = scaled.scale or 1.0
        self.total, self.norm = coordinates(sums), float(np.sqrt(np.vdot(scatter, scatter)))
        self.variances, self.weights = scatter.diagonal(), np.ones(neurons)
        self.squares = self.variances + start * np.square(scaled.shift.real * self.scale + mean)


class _Held:
    """The same of samples that are held in memory, a piece of their neurons or frequencies after the other.

    Attributes are those of `_Streamed`; ``variances`` and ``squares`` are of all neurons of all blocks.
    """

    def __init__(self, samples: Samples, member: Member, words: Words, size: int) -> None:
        reading = member.read.reading
        self._labels = labels_of(reading.grid)
        self._size, self._multiplicity = size, reading.multiplicity
        blocks = len(reading.multiplicity)
        self.total: InexactArray = np.zeros(size // 2, dtype=np.complex128)
        self._squared, self._scaled = 0.0, _Scaled()
        self._grams: list[InexactArray] = []
        variances, means = [], []
        edges = np.linspace(0, samples.neurons if blocks == 1 else blocks, member.pieces + 1).astype(int)
        for first, stop in itertools.pairwise(edges.tolist()):
            piece = (slice(None), slice(first, stop)) if blocks == 1 else (slice(first, stop), slice(None))
            held = self._hold(samples, piece, len(words))
            mean = np.zeros(held.shape[1:], dtype=np.complex128 if held.dtype.kind == "c" else np.float64)
            if blocks == 1 or first == 0:
                mean[0] = held[:, 0].mean(axis=0, dtype=mean.dtype)
                held[:, 0] -= mean[0].astype(held.dtype)
                mean[0] += self._scaled.shift[piece[1]] * (self._scaled.scale or 1.0)
            variances.append(np.square(np.abs(held)).sum(axis=0, dtype=np.float64).ravel())
            means.append(np.abs(mean).ravel())
            for number in range(held.shape[1]):
                self._add(held[:, number], number if blocks == 1 else first + number, words, single=blocks == 1)
            del held
        for gram in self._grams:
            self._squared += float(np.vdot(gram, gram).real)
        self.scale = self._scaled.scale or 1.0
        self.norm = float(np.sqrt(self._squared))
        self.variances = np.concatenate(variances)
        self.weights = np.repeat(self._multiplicity, samples.neurons)
        self.squares = self.variances + len(words) * np.square(np.concatenate(means))

    def _hold(self, samples: Samples, piece: tuple[slice, slice], count: int) -> InexactArray:
        held: InexactArray = np.empty(0, dtype=np.float32)
        start = 0
        for chunk in samples:
            x = self._scaled(chunk)[:, piece[0], piece[1]]
            del chunk
            if not start:
                held = np.empty((count, *x.shape[1:]), dtype=x.dtype)
            held[start : start + len(x)] = x
            start += len(x)
        return held

    def _add(self, x: InexactArray, block: int, words: Words, *, single: bool) -> None:
        """Add some neurons of a block, (sample, neuron), centred."""
        if single:
            # All pieces of one block share a Gram matrix; it is the smaller one.
            more = (x @ x.T).astype(np.float64)
            self._grams = [self._grams[0] + more] if self._grams else [more]
        else:
            small = x.conj().T @ x if x.shape[1] <= len(x) else x @ x.conj().T
            self._squared += int(self._multiplicity[block]) * float(np.vdot(small, small).real)
        for frequency, mirrored in self._labels[block]:
            hashes = Hashes.of(words_at(words, frequency), self._size)
            for start in range(0, x.shape[1], COUNTED):
                part = x[:, start : start + COUNTED]
                real = counts(np.ascontiguousarray(part.real), hashes)
                imaginary: FloatArray | None = None
                if part.dtype.kind == "c":
                    imaginary = counts(np.ascontiguousarray(-part.imag if mirrored else part.imag), hashes)
                self.total = self.total + coordinates(real, imaginary)


def words_at(words: Words, frequency: tuple[int, ...]) -> Words:
    """Words of samples at a spatial frequency."""
    for step in frequency:
        words = at(words, np.array(step))
    return words


def labels_of(grid: tuple[int, ...]) -> list[list[tuple[tuple[int, ...], bool]]]:
    """What the samples of each block are called: signed frequencies, and whether the block is the conjugate there.

    Zero has no name: dense layers are compared with it.
    """
    if not grid:
        return [[((), False)]]
    names = []
    for own, plane in zip(half_plane(grid).frequency.tolist(), plane_frequencies(grid, grid), strict=True):
        every = [tuple(one) for one in plane.tolist()]
        names.append([(one if any(one) else (), one != tuple(own)) for one in every])
    return names
