"""Samples, chunk by chunk, as a few rows that have the same inner products: a QR decomposition in one pass.

Unlike a covariance it squares nothing, so that directions of a millionth of the largest standard deviation keep ten
digits and not four. Unlike an SVD of all samples it holds one chunk at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray


GREATEST = 1e140
"""Largest allowed variation of samples; its inverse is the smallest."""


@dataclass(frozen=True, slots=True)
class Factor:
    """A set of samples, centred, up to a rotation of the samples.

    Attributes
    ----------
    count : int
        Number of samples.
    mean, low, high : (neuron,)
        Mean, least and greatest value of each neuron of the first block. Only this block is centred: over all
        translations of the input, the mean of any other spatial frequency is zero.
    rows : tuple of (row, neuron)
        One array per block: ``rows.conj().T @ rows`` is the scatter of the samples. There are no more rows than
        samples, and seldom many more than neurons.
    """

    count: int
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    rows: tuple[InexactArray, ...]

    @property
    def varies(self) -> BoolArray:
        """Whether a neuron of the first block is not constant, (neuron,)."""
        return np.asarray(self.low < self.high)


def range_problem(blocks: Iterable[InexactArray]) -> str:
    """Why samples are too large or too small to be squared, as the rest of a sentence; empty where they are not.

    Parameters
    ----------
    blocks : iterable of (row, neuron)
        Centred.

    Examples
    --------
    >>> range_problem([np.array([[1e200]])]), range_problem([np.zeros((1, 1))])
    ('varies by 1e+200, and squares of that leave the range of double precision; rescale it', '')
    """
    largest = float(np.max([np.abs(block).max(initial=0.0) for block in blocks]))
    if largest == 0 or 1 / GREATEST < largest < GREATEST:
        return ""
    # Sums that overflowed are not finite.
    much = f"{largest:.0e}" if np.isfinite(largest) else "more than double precision holds"
    return f"varies by {much}, and squares of that leave the range of double precision; rescale it"


def compress(rows: InexactArray) -> InexactArray:
    """As many rows as columns, with the same inner products between columns; fewer rows stay as they are.

    Parameters
    ----------
    rows : (row, neuron)

    Returns
    -------
    (min(row, neuron), neuron)

    Examples
    --------
    >>> x = np.arange(8.0).reshape(4, 2)
    >>> r = compress(x)
    >>> r.shape, np.allclose(r.T @ r, x.T @ x)
    ((2, 2), True)
    """
    return rows if len(rows) <= rows.shape[1] else np.asarray(np.linalg.qr(rows, mode="r"))


def factor(blocks: Sequence[InexactArray]) -> Factor:
    """Factor of one chunk.

    Parameters
    ----------
    blocks : sequence of (sample, neuron)
        At least one sample; the first block is real.

    Examples
    --------
    >>> chunk = factor([np.array([[1.0, 2.0], [3.0, 6.0]])])
    >>> chunk.mean, chunk.rows[0]
    (array([2., 4.]), array([[-1., -2.], [ 1.,  2.]]))
    """
    centred = np.array(blocks[0], dtype=np.float64)
    low, high = centred.min(axis=0), centred.max(axis=0)
    # What overflows is not finite, and refused by `range_problem`.
    with np.errstate(over="ignore", invalid="ignore"):
        mean = centred.mean(axis=0)
        centred -= mean
        # Of values far from zero the mean is rounded as much as they are, which is seen in what is left.
        rest = centred.mean(axis=0)
        centred -= rest
        mean += rest
    others = (np.asarray(block, dtype=np.result_type(block.dtype, np.float64)) for block in blocks[1:])
    return Factor(len(centred), mean, low, high, tuple(map(compress, (centred, *others))))


def merge(parts: Sequence[Factor]) -> Factor:
    """Factor of disjoint sets of samples from the factors of each.

    Parameters
    ----------
    parts : sequence of Factor
        At least one.

    References
    ----------
    Demmel et al. (2012), Communication-optimal parallel and sequential QR and LU factorizations, SIAM Journal on
    Scientific Computing 34; the means enter as in Chan, Golub and LeVeque (1979), each as one more row.

    Examples
    --------
    >>> x = np.arange(12.0).reshape(6, 2) ** 2
    >>> both, whole = merge([factor([x[:2]]), factor([x[2:]])]), factor([x])
    >>> np.allclose(both.rows[0].T @ both.rows[0], whole.rows[0].T @ whole.rows[0]), both.count
    (True, 6)
    """
    if len(parts) == 1:
        return parts[0]
    counts = np.array([part.count for part in parts])
    shifts = np.stack([part.mean - parts[0].mean for part in parts])
    shift = counts @ shifts / counts.sum()
    between = np.sqrt(counts)[:, np.newaxis] * (shifts - shift)
    # Block by block: the rows of all blocks may be as large as all else that a task holds.
    blocks = (
        compress(np.vstack([*rows, between] if not index else rows))
        for index, rows in enumerate(zip(*(part.rows for part in parts), strict=True))
    )
    return Factor(
        int(counts.sum()),
        parts[0].mean + shift,
        np.minimum.reduce([part.low for part in parts]),
        np.maximum.reduce([part.high for part in parts]),
        tuple(blocks),
    )
