"""What a task takes of memory: said once, for the plan that promises it and for the task that obeys it.

The plan chooses the numbers of `SubspaceMemory` and `TileMemory`; a task cuts its work by them and by the functions
here, and by nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.kernels.products import SINGLE_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dask_svcca.measures import Measure
    from dask_svcca.readings import Reading

PROCESS_BYTES = 350 * 2**20
"""What a worker process holds before it has done anything: the interpreter, NumPy, SciPy, zarr, Dask."""

STACK_BYTES = 16 * 2**20
"""Couplings handed to LAPACK at once, in double precision: many small ones in one call."""

PIECE = 1024
"""Samples converted to double precision at a time."""

NARROW = 48
"""Directions of a representation below which products are formed in double precision.

A sum of many products in single precision is off by about 3e-7 where it comes near 1. The mean over many correlations
averages that out to below 1e-7; the mean over a few does not, and their products are cheap.
"""

SMALL_TASK = 2**20
"""What any task takes: Python's own objects, buffers of files, tables of the tile."""


@dataclass(frozen=True, slots=True)
class SubspaceMemory:
    """What making one subspace may take.

    Attributes
    ----------
    held : int
        Bytes of its samples that it may keep between its passes.
    streamed : int
        Bytes of centred samples that it may hold while later ones stream past, where directions come from the samples.
    result : int
        Bytes of what is made.
    peak : int
        Bytes at most, ``held`` included.
    """

    held: int
    streamed: int
    result: int
    peak: int


@dataclass(frozen=True, slots=True)
class TileMemory:
    """What a tile may take.

    Attributes
    ----------
    operand : int
        Bytes of the scores of one side that are read at a time.
    couplings : int
        Bytes of the couplings of one panel with another.
    loadings : int
        Bytes of loadings of one side; 0 where no measure needs them.
    stack : int
        Bytes of couplings that are solved together.
    peak : int
        Bytes at most.
    """

    operand: int
    couplings: int
    loadings: int
    stack: int
    peak: int


# --- subspaces -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubspaceCosts:
    """Bytes that making a subspace takes, without samples that it keeps between its passes.

    Attributes
    ----------
    fixed : int
        At the worst moment.
    streamed : int
        Least number of bytes for centred samples that others stream past.
    result : int
    samples : int
        Bytes of all of its samples, as they are kept.
    scatter : int
        Bytes of moments.
    """

    fixed: int
    streamed: int
    result: int
    samples: int
    scatter: int


def subspace_costs(
    reading: Reading,
    *,
    shape: Sequence[int],
    chunk_examples: int,
    chunk_samples: int,
    dtype: np.dtype[Any],
    precision: str,
    with_loadings: bool,
) -> SubspaceCosts:
    """What making a subspace takes.

    Parameters
    ----------
    reading : Reading
    shape : sequence of int
        Of the activations.
    chunk_examples : int
        Examples in a chunk of activations.
    chunk_samples : int
        Samples in a chunk of scores.
    dtype : numpy.dtype
        Of the activations.
    precision : str
        Of the scores.
    with_loadings : bool
        Whether loadings are made even where directions come from the samples.
    """
    wide = 16 if reading.is_complex else 8
    neurons, samples = reading.neurons(shape[-1]), reading.samples(shape[0])
    blocks, directions = len(reading.multiplicity), reading.directions(shape)
    examples = min(chunk_examples, shape[0])
    stored = examples * math.prod(shape[1:]) * dtype.itemsize
    # As it is stored and as it is decoded; then as it is, and what the reading makes of it.
    reading_bytes = max(2 * stored, stored + reading.transform_bytes(shape, examples, dtype.itemsize))
    chunk = max(stored, reading.sample_bytes(shape, examples, dtype.itemsize))
    # One block of a chunk in double precision: centred, and for a product with its conjugate once more.
    block = reading.samples(examples) * neurons * wide * (3 if reading.is_complex else 1)
    score = np.dtype(precision).itemsize * (2 if reading.is_complex else 1)
    scores = min(chunk_samples, samples) * directions * (wide + 2 * score)
    all_samples = reading.sample_bytes(shape, shape[0], dtype.itemsize)
    if reading.by_samples(shape):
        square = samples * samples * 8
        loadings = neurons * directions * 8 if with_loadings else 0
        # The inner products, which LAPACK overwrites, and its eigenvectors with what it works in.
        eigen = 3 * square
        finishing = square + scores + (2 * loadings + chunk + block if with_loadings else 0)
        fixed = max(reading_bytes, square + chunk + 2 * block, eigen, finishing)
        result = samples * directions * score + (loadings + neurons * 8)
        return SubspaceCosts(fixed, block, result, all_samples, 0)
    scatter = blocks * neurons * neurons * wide
    loadings = neurons * directions * wide
    one = neurons * neurons * wide
    summing = chunk + block + 3 * scatter + 2 * one
    # LAPACK works in a copy of one block and two more of its size.
    eigen = 2 * scatter + max(3 * one, loadings)
    most = min(neurons, samples) ** 2 * wide
    projecting = 2 * loadings + chunk + 2 * block + scores + (blocks + 1) * most
    result = samples * directions * score + loadings + neurons * wide
    return SubspaceCosts(max(reading_bytes, summing, eigen, projecting), 0, result, all_samples, scatter)


# --- tiles ---------------------------------------------------------------------------------------------------------


def score_dtype(precision: str, *, is_complex: bool) -> np.dtype[Any]:
    """Type of stored scores.

    Examples
    --------
    >>> score_dtype("float32", is_complex=True)
    dtype('complex64')
    """
    return np.result_type(precision, np.complex64) if is_complex else np.dtype(precision)


def operand_bytes(dtype: np.dtype[Any], chunk_samples: int, *, narrow: bool) -> int:
    """Bytes of one direction of a panel: a chunk of its scores, and a piece of it in double precision.

    Examples
    --------
    >>> [operand_bytes(np.dtype("float32"), 2000, narrow=narrow) for narrow in (False, True)]
    [8000, 16192]
    """
    return dtype.itemsize * chunk_samples + (min(PIECE, chunk_samples) * _wide(dtype) if narrow else 0)


def coupling_bytes(dtype: np.dtype[Any], samples: int, *, narrow: bool, same: bool) -> int:
    """Bytes of one number of the coupling of two panels.

    Where both are the same scores the product is made apart and added. Beyond `SINGLE_SAMPLES` a sum in single
    precision is added up in double.

    Examples
    --------
    >>> [coupling_bytes(np.dtype("float32"), samples, narrow=False, same=False) for samples in (10_000, 100_000)]
    [4, 12]
    """
    wide = _wide(dtype)
    own = wide if narrow else dtype.itemsize
    long = wide if own < wide and samples > SINGLE_SAMPLES else 0
    return own * (2 if same else 1) + long


def loadings_bytes(neurons: int, directions: int, *, is_complex: bool) -> int:
    """Bytes of the loadings of one representation."""
    return neurons * directions * (16 if is_complex else 8)


def stack_copies(measures: Iterable[Measure]) -> float:
    """How often a stack of couplings is held while values are made of it: measured, LAPACK's own work included.

    The couplings, their squares, those weighted by the spectra of both sides and turned, and what is summed of them.
    """
    measures = list(measures)
    if any("loadings" in measure.needs for measure in measures):
        return 9.0
    if any("spectrum" in measure.needs for measure in measures):
        return 6.0
    return 3.5


def _wide(dtype: np.dtype[Any]) -> int:
    """Bytes of a number in double precision."""
    return np.result_type(dtype, np.float64).itemsize
