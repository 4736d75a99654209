"""Memory that a task takes: said once, for the plan that promises it and for the task that obeys it.

The plan chooses the numbers of `SubspaceMemory` and `TileMemory`; a task cuts its work by them and by the functions
here, and by nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.kernels.products import samples_in_single
from dask_svcca.kernels.raw import at_once, summing_of
from dask_svcca.readings import Neurons
from dask_svcca.stores.subspaces import chunk_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.kernels.products import Summing
    from dask_svcca.readings import Reading
    from dask_svcca.stores.subspaces import SubspaceEntry

PROCESS_BYTES = 350 * 2**20
"""What a worker process holds beside its tasks: the interpreter, NumPy, SciPy, zarr, Dask, and Numba at its compiling.

Measured: 150 MiB after all measures, 250 with what Numba compiled before, 285 where it compiles.
"""

LEAST_PIECE = 8
"""Least number of samples whose squared norms are formed at a time."""

NORM_COPIES = 2
"""Copies of scores in double precision that are held then: as they are, and squared."""

NEURONS_AT_ONCE = 1024
"""Neurons whose loadings are added up at a time, where directions come from the samples."""

ROW_SAMPLES = 1000
"""Samples up to which, where directions come from the samples, those of double precision may be read as rows.

Rows show directions of a ten-billionth of the largest standard deviation, inner products of a ten-millionth. They take
several times the memory, which for more samples than this is most of what a task takes.
"""

CHUNK_BYTES = 2**13
"""Bytes beside the numbers of a chunk that is held: objects, and the rest of its last page of memory. Measured."""

SMALL_TASK = 2**20
"""Bytes that any task takes: Python's own objects, buffers of files, tables of the tile."""

MEMBER_BYTES = 14 * 2**10
"""Bytes that a pack holds of each of its members beside numbers: objects, and room left among them; measured."""


@dataclass(frozen=True, slots=True)
class SubspaceMemory:
    """What making one subspace may take.

    Attributes
    ----------
    held : int
        Bytes of its samples that it may keep between its passes.
    streamed : int
        Bytes of centred samples that it may hold while later ones stream past, where directions or inner products come
        from the samples; or of scores, until the leading directions are known.
    result : int
        Bytes of the result.
    peak : int
        Bytes at most, ``held`` included.
    ahead : bool
        Whether a chunk may be read while the one before is worked on.
    """

    held: int
    streamed: int
    result: int
    peak: int
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class TileMemory:
    """What a tile may take.

    Attributes
    ----------
    operand : int
        Bytes of the scores of one side that are read at a time, with copies of them that BLAS is given.
    couplings : int
        Bytes of the couplings of a panel with itself: those of two panels are no more than that of the larger.
    loadings : int
        Bytes of loadings of one side; 0 where no measure needs them.
    stack : int
        Bytes of pairs that are solved together, as `dask_svcca.evaluate.pair_bytes` counts them.
    peak : int
        Bytes at most.
    by_samples : int
        Members of each side that are compared at a time by the inner products of samples; 0 for couplings.
    narrow, held : int
        How often narrower blocks of inner products are, for want of memory; and of how many chunks the samples of their
        rows are held at a time.
    patch : int
        Representations along each axis of what is evaluated at a time; 0 for all.
    """

    operand: int
    couplings: int
    loadings: int
    stack: int
    peak: int
    by_samples: int = 0
    narrow: int = 1
    held: int = 1
    patch: int = 0


# --- subspaces -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pass:
    """Bytes that a pass over the samples takes beside them: while a chunk is read, and while it is worked on."""

    reading: int
    working: int


@dataclass(frozen=True, slots=True)
class SubspaceCosts:
    """Bytes that making a subspace takes.

    Attributes
    ----------
    arriving : int
        For a chunk while it is read: as it is stored, decoded, and what the reading makes of it.
    chunk : int
        For a chunk of samples once it is read.
    samples : int
        For all samples, as they are held.
    first : Pass
    between : int
        While no samples are asked for: LAPACK at work.
    objects : int
        For chunks that are held, beside their numbers.
    gram : Pass or None
        Where directions come from the samples, or leading ones are asked for; what is held beside is not included.
    last : Pass
    centred : int
        For a chunk, centred, that is held while others stream past.
    all_centred : int
        For all samples in that form, or all scores.
    scatter : int
        For the moments.
    result : int
    """

    arriving: int
    chunk: int
    samples: int
    first: Pass
    between: int
    objects: int
    gram: Pass | None
    last: Pass
    centred: int
    all_centred: int
    scatter: int
    result: int

    @property
    def least(self) -> int:
        """Least bytes at the worst moment: holding all samples may take less than reading them once more."""
        return min(self.peak(), self.peak(self.samples))

    def peak(self, held: int = 0, streamed: int = 0, *, ahead: bool = False) -> int:
        """Bytes at the worst moment, with ``held`` bytes of samples kept, and ``streamed`` that others stream past.

        Where chunks are read ahead, the next arrives while one is worked on.
        """
        chunk = min(held + self.chunk, self.samples)
        passes = [(self.first, 0)]
        if self.gram is not None:
            passes.append((self.gram, min(max(streamed, self.centred), self.all_centred)))
        peak = max(
            self.first.reading + min(held, self.samples - self.chunk) + self.arriving,
            self.between + min(held, self.samples),
            *(one.working + extra + chunk for one, extra in [*passes, (self.last, 0)]),
        )
        if ahead:
            reading = [*passes, (self.last, 0)] if held < self.samples else passes[:1]
            peak = max(peak, *(one.working + extra + chunk + self.arriving for one, extra in reading))
        if held < self.samples:
            peak = max(peak, *(one.reading + extra + held + self.arriving for one, extra in [*passes, (self.last, 0)]))
        return peak + self.objects + SMALL_TASK


def subspace_costs(
    reading: Reading,
    *,
    shape: Sequence[int],
    chunk_examples: int,
    chunk_samples: int,
    dtype: np.dtype[Any],
    precision: str,
    with_loadings: bool,
    orthonormal: bool = True,
    leading: bool = False,
) -> SubspaceCosts:
    """Memory that making a subspace takes.

    Parameters
    ----------
    reading : Reading
    shape : sequence of int
        Shape of the activations.
    chunk_examples : int
        Examples in a chunk of activations.
    chunk_samples : int
        Most samples in a chunk of scores.
    dtype : numpy.dtype
        Type of the activations.
    precision : str
        Precision of the scores.
    with_loadings : bool
        Whether loadings are made even where directions come from the samples.
    orthonormal : bool
        Whether directions are asked for.
    leading : bool
        Whether leading directions are asked for, beside the samples as they are; all may be made after all.
    """
    wide = 16 if reading.is_complex else 8
    neurons, samples = reading.neurons(shape[-1]), reading.samples(shape[0])
    directions = reading.directions(shape)
    examples = min(chunk_examples, shape[0])
    length = chunk_length(samples, chunk_samples)
    score = score_dtype(precision, is_complex=reading.is_complex).itemsize
    # A chunk that is not whole is filled up; one of another type is converted.
    written = length * directions * ((score if samples % length else 0) + (score if score < wide else 0))
    common = sample_costs(reading, shape, chunk_examples, dtype)
    # One block of a chunk in double precision; for complex samples its conjugate too.
    block = reading.samples(examples) * neurons * wide * (2 if reading.is_complex else 1)
    if reading.by_samples(shape) and not orthonormal:
        return _kernel_costs(common, samples, neurons, length)
    if reading.by_samples(shape):
        square, vector = samples * samples * 8, neurons * 8
        rows = 9 * square if dtype == np.float64 and reads_rows(samples) else 0
        loadings = neurons * directions * 8 if with_loadings else 0
        slab = min(NEURONS_AT_ONCE, neurons) * (directions + reading.samples(examples)) * 8
        adding = loadings + slab + reading.samples(examples) * directions * 8 if with_loadings else 0
        # Scores are the eigenvectors in descending order: what is written of them is always a copy.
        written += length * directions * (8 if score == wide else 0)
        return SubspaceCosts(
            **common,
            first=Pass(5 * vector, 8 * vector),
            # Inner products, LAPACK's eigenvectors in which it works, and those above noise; then what is written.
            between=max(3 * square + 4 * vector, square + vector + loadings + written),
            gram=Pass(
                max(2 * square, rows) + 4 * vector,
                max(2 * square + block + reading.samples(examples) ** 2 * 8, rows) + 4 * vector,
            ),
            last=Pass(square + vector + loadings, square + vector + adding),
            centred=block,
            all_centred=samples * neurons * 8,
            scatter=0,
            result=samples * directions * score + loadings + vector,
        )
    if not orthonormal:
        return _raw_costs(common, samples, neurons, length)
    extra = _leading_costs(common, samples, neurons, length) if leading else None
    blocks = len(reading.multiplicity)
    one, least = neurons * neurons * wide, min(neurons, samples) ** 2 * wide
    scatter, loadings = blocks * one, neurons * directions * wide
    # Samples in double precision may be read as rows: those so far, those with some more, and LAPACK at work.
    rows = 2 * scatter + 5 * one if dtype == np.float64 else 0
    # Gram matrices of the scores, which show where these are not orthonormal; a product, and its sum with one.
    grams = (blocks + 2) * least + (length * min(neurons, samples) * wide if reading.is_complex else 0)
    projecting = loadings + grams + length * directions * wide
    costs = SubspaceCosts(
        **common,
        first=Pass(max(scatter, rows), max(scatter + block + one, rows)),
        # The eigenvectors of a block before those of all; LAPACK works in a copy of it and two more of its size. For
        # what is above noise it is three more, beside the factor and its vectors.
        between=scatter + loadings + 5 * one,
        gram=None,
        last=Pass(projecting, projecting + max(block, written)),
        centred=0,
        all_centred=0,
        scatter=scatter,
        result=samples * directions * score + loadings + neurons * wide,
    )
    return costs if extra is None else _worst(costs, extra)


def sample_costs(reading: Reading, shape: Sequence[int], chunk_examples: int, dtype: np.dtype[Any]) -> dict[str, int]:
    """What `SubspaceCosts` says of the samples alone."""
    examples = min(chunk_examples, shape[0])
    stored = examples * math.prod(shape[1:]) * dtype.itemsize
    chunk = max(reading.sample_bytes(shape, examples, dtype.itemsize), 1)
    made = reading.transform_bytes(shape, examples, dtype.itemsize)
    return {
        "arriving": max(2 * stored, stored + made),
        # Samples that are not a copy are a view of the whole chunk.
        "chunk": chunk if made else stored,
        "objects": CHUNK_BYTES * -(-shape[0] // examples),
        "samples": max(reading.sample_bytes(shape, shape[0], dtype.itemsize), chunk if made else stored),
    }


def _worst(one: SubspaceCosts, other: SubspaceCosts) -> SubspaceCosts:
    """What two ways to make a subspace take at most, of the same samples."""
    return replace(
        one,
        first=_longest(one.first, other.first),
        between=max(one.between, other.between),
        gram=other.gram,
        all_centred=other.all_centred,
        last=_longest(one.last, other.last),
        scatter=0,
        result=max(one.result, other.result),
    )


def _longest(one: Pass, other: Pass) -> Pass:
    return Pass(max(one.reading, other.reading), max(one.working, other.working))


def _leading_costs(common: dict[str, int], samples: int, neurons: int, length: int) -> SubspaceCosts:
    """Bytes that leading directions take, beside samples in single precision."""
    raw, scores = _raw_costs(common, samples, neurons, length, directed=True), length * neurons * 4
    square, vector = neurons**2 * 8, neurons * 8
    # Chunks of samples and of scores, one of them as it is stored; weights, inner products of scores and their sums.
    working = 4 * scores + 3 * square + 4 * vector
    return replace(
        raw,
        # Inner products of the neurons in both precisions; in the latter LAPACK works, beside the eigenvectors.
        between=max(raw.between, 3 * square + 8 * vector),
        last=_longest(raw.last, Pass(raw.last.reading, working)),
        # Beside scores that are held.
        gram=Pass(working, working),
        all_centred=samples * neurons * 4,
        # No samples are asked for then, but they may be held.
        result=2 * raw.result,
    )


def _raw_costs(
    common: dict[str, int], samples: int, neurons: int, length: int, *, directed: bool = False
) -> SubspaceCosts:
    """Bytes that it takes to store samples as they are, in single precision; before directions are made, perhaps."""
    vector, scores = neurons * 8, length * neurons * 4
    summing = summing_of(neurons, samples if directed else None)
    products = neurons**2 * (8 if summing.double else 12 if samples > summing.samples else 4)
    # Samples of a chunk that is not whole, or summed up some at a time, are copied; those centred may be double.
    copied = min(length, summing.samples) * neurons * (8 if summing.double else 4)
    beside = max(copied, scores if samples % length else 0, at_once(neurons) * vector)
    return SubspaceCosts(
        **common,
        first=Pass(5 * vector, 8 * vector),
        between=products + at_once(neurons) * vector,
        gram=None,
        last=Pass(scores + products + 4 * vector, scores + products + beside + 4 * vector),
        centred=0,
        all_centred=0,
        scatter=0,
        result=scores // length * samples + 2 * vector,
    )


def _kernel_costs(common: dict[str, int], samples: int, neurons: int, length: int) -> SubspaceCosts:
    """Bytes that it takes to store samples as they are, and their inner products, in single precision."""
    vector, chunk, square = neurons * 8, length * neurons * 4, samples**2 * 4
    # A chunk that is not whole is filled up; those centred may be double.
    beside = max(chunk if samples % length else 0, at_once(neurons) * vector)
    # A chunk as it is stored, and scaled; products of those held, and what is written of them.
    working = 2 * square + 2 * chunk + 4 * vector + 2 * length * samples * 4
    return SubspaceCosts(
        **common,
        first=Pass(5 * vector, 8 * vector),
        between=0,
        gram=Pass(working, working),
        last=Pass(chunk + 4 * vector, chunk + beside + 4 * vector),
        centred=chunk,
        all_centred=samples * neurons * 4,
        scatter=0,
        result=samples * neurons * 4 + square + 2 * vector,
    )


def stored_costs(
    entry: SubspaceEntry, *, chunk_samples: int, precision: str, with_loadings: bool, orthonormal: bool
) -> int:
    """Bytes that it takes to make directions, or inner products, of samples that were stored as they are."""
    count, width = entry.samples, entry.directions
    length = chunk_length(count, chunk_samples)
    # A chunk as it is stored, and in double precision.
    chunk = length * width * 12
    if not orthonormal:
        return 2 * count**2 * 4 + chunk + 2 * length * count * 4 + 8 * width * 8 + SMALL_TASK
    costs = subspace_costs(
        Neurons(),
        shape=(count, width),
        chunk_examples=length,
        chunk_samples=chunk_samples,
        dtype=np.dtype(np.float32),
        precision=precision,
        with_loadings=with_loadings,
    )
    return costs.peak() + chunk


def reads_rows(samples: int) -> bool:
    """Whether samples in double precision may be read as rows, where directions come from them.

    Examples
    --------
    >>> reads_rows(500), reads_rows(5000)
    (True, False)
    """
    return samples <= ROW_SAMPLES


# --- tiles ---------------------------------------------------------------------------------------------------------


def score_dtype(precision: str, *, is_complex: bool) -> np.dtype[Any]:
    """Type of stored scores.

    Examples
    --------
    >>> score_dtype("float32", is_complex=True)
    dtype('complex64')
    """
    return np.result_type(precision, np.complex64) if is_complex else np.dtype(precision)


@dataclass(frozen=True, slots=True)
class PanelUnits:
    """Memory that panels of one side take.

    Attributes
    ----------
    direction : int
        Bytes of a chunk of the scores of a direction; where it is multiplied in pieces, with a copy of one.
    copied : int
        Bytes of the copy that BLAS is given of a direction, at one frequency after another: conjugate, or complex.
    number : int
        Bytes of a number of the coupling with a panel of the other side.
    """

    direction: int
    copied: int
    number: int

    @classmethod
    def of(
        cls,
        dtype: np.dtype[Any],
        coupling: np.dtype[Any],
        chunk_samples: int,
        samples: int,
        summing: Summing,
        *,
        on_device: bool = False,
    ) -> PanelUnits:
        """Units of scores of a type whose couplings are of another; a device has no pieces, and double sums.

        Examples
        --------
        >>> from dask_svcca.kernels.products import Summing
        >>> single, pair = np.dtype("float32"), np.dtype("complex64")
        >>> PanelUnits.of(single, single, 2000, 10_000, Summing.of(100))
        PanelUnits(direction=8000, copied=0, number=4)
        >>> PanelUnits.of(single, single, 2000, 10_000, Summing.of(30))
        PanelUnits(direction=9000, copied=0, number=12)
        >>> PanelUnits.of(single, pair, 2000, 100_000, Summing.of(12))
        PanelUnits(direction=10000, copied=4000, number=16)
        >>> PanelUnits.of(single, single, 2000, 10_000, Summing.of(100), on_device=True)
        PanelUnits(direction=8000, copied=0, number=12)
        """
        piece = chunk_samples if on_device else chunk_length(chunk_samples, summing.samples)
        wide = np.result_type(coupling, np.float64).itemsize
        own = wide if summing.double else coupling.itemsize
        converted = (np.result_type(dtype, np.float64) if summing.double else dtype).itemsize
        copies = piece < chunk_samples or converted > dtype.itemsize
        return cls(
            dtype.itemsize * chunk_samples + (converted * piece if copies else 0),
            piece * own if coupling.kind == "c" else 0,
            own + (wide if own < wide and (on_device or samples > samples_in_single(summing.samples)) else 0),
        )

    def operand(self, directions: float, widest: float) -> float:
        """Bytes of a number of directions, of which ``widest`` are at the frequency that has most."""
        return self.direction * directions + self.copied * widest


def loadings_bytes(neurons: int, directions: int, *, is_complex: bool) -> int:
    """Bytes of the loadings of one representation."""
    return neurons * directions * (16 if is_complex else 8)
