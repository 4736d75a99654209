"""The leading principal directions of a wide layer, in single precision: all that a variance threshold asks for.

A scatter summed in single precision is off by some 1e-9 of its largest eigenvalue, and by more where samples are so few
that `dask_svcca.kernels.raw.summing_of` takes double precision. That turns the last direction that a threshold keeps
towards the first that it drops, whose eigenvalues hardly differ. So some more are projected, and what is kept of them
follows from their own inner products, which are as precise as the samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from dask_svcca.kernels.products import ProductSum
from dask_svcca.kernels.threshold import fewest

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.products import MakesProducts
    from dask_svcca.kernels.subspace import SymmetricSolver

    ChoosesCount = Callable[[FloatArray], int]
    LeadingSolver = Callable[[FloatArray, ChoosesCount], tuple[FloatArray, FloatArray]]

GREATEST_SHARE = 0.999
"""Share of the variance up to which directions are found so.

Measured with 300 to 20,000 samples of 128 to 512 neurons, of even and steep spectra, with large means and after ReLU:
up to this share the mean of canonical correlations is within 4e-7 of that in double precision, each one within 1e-5.
"""

LEAST_NEURONS = 128
"""Neurons from which on it is worth two packs in place of one."""

MORE = 4
"""One more direction is projected for so many that are kept."""

LEAST_MORE = 16
"""Directions that are projected beyond those that are kept, where there are so many."""

LEAST_RATIO = 1e-6
"""Ratio of a kept eigenvalue to the largest down to which single precision tells directions from its own rounding."""

MOST_TURN = 100.0
"""Greatest turn, see `turn`, with which the directions that are kept are told from those that are not.

Measured with 1,000 samples of 128 to 512 neurons whose eigenvalues differ by 1e-7 to 0.3 at the threshold: the mean of
canonical correlations is off by at most 2e-9 for each unit, 2e-7 here. Even and steep spectra have turns below 15.
"""

TOLD = 1e-7
"""The same for directions beyond those that are kept."""

MOST_NOISE = 1e-6
"""Share of the variance in directions that are rounding of the activations, up to which it does not matter.

They are no directions, so that the threshold is a share of what remains. Measured with 5,000 samples of 160 neurons in
half precision: correlations are off by at most a tenth of this share, and some direction more is kept beyond it.
"""


@dataclass(frozen=True, slots=True)
class Leading:
    """Leading directions of samples that are centred and scaled to length one, neuron by neuron.

    Attributes
    ----------
    spectrum : (direction,)
        Eigenvalues of the scatter, descending.
    weights : (neuron, direction)
        In single precision: samples times these are their scores.
    """

    spectrum: FloatArray
    weights: FloatArray


def leading_eigenvectors(matrix: FloatArray, choose: ChoosesCount) -> tuple[FloatArray, FloatArray]:
    """All eigenvalues of a symmetric matrix, and the eigenvectors of the largest; it takes three times its memory.

    The matrix is overwritten. Its tridiagonal form has all of its eigenvectors by divide and conquer; turning them back
    is almost half of the work, and is done for those alone that are chosen.

    Parameters
    ----------
    matrix : (row, row)
        In double precision.
    choose : callable
        From the eigenvalues, descending: how many eigenvectors are wanted.

    Returns
    -------
    values : (row,)
        Descending.
    vectors : (row, chosen)

    References
    ----------
    Gu and Eisenstat (1995), A divide-and-conquer algorithm for the symmetric tridiagonal eigenproblem.

    Examples
    --------
    >>> values, vectors = leading_eigenvectors(np.diag([1.0, 3.0, 2.0]), lambda values: int((values > 2.5).sum()))
    >>> values, np.abs(vectors.T)
    (array([3., 2., 1.]), array([[0., 1., 0.]]))
    """
    size = len(matrix)
    lwork = max(1, int(lapack.dsytrd_lwork(size, lower=1)[0]))
    # LAPACK takes columns: the transpose is the same matrix, and is overwritten without a copy.
    reflected, diagonal, beside, factors, _ = lapack.dsytrd(matrix.T, lower=1, lwork=lwork, overwrite_a=1)
    ascending, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside, check_finite=False)
    values = ascending[::-1]
    count = choose(values)
    # Each goes as soon as it has served, so that no more than two are there beside the matrix.
    first, rest = vectors[0, size - count :].copy(), np.array(vectors[1:, size - count :], order="F")
    del vectors
    if rest.size:
        # The first row is never turned.
        below = np.array(reflected[1:, :-1], order="F")
        rest, _, _ = lapack.dormqr("L", "N", below, factors, rest, lwork=lwork, overwrite_c=1)
        del below
    turned = np.empty((count, size)).T
    turned[0], turned[1:] = first[::-1], rest[:, ::-1]
    return values, turned


def leading(
    products: FloatArray,
    variances: FloatArray,
    samples: int,
    share: float,
    noise: float = 0.0,
    solve: LeadingSolver = leading_eigenvectors,
) -> Leading | None:
    """The leading directions, and some more.

    Parameters
    ----------
    products : (neuron, neuron)
        Inner products of the neurons, centred and of length one, in double precision; overwritten.
    variances : (neuron,)
        Their squared lengths before.
    samples : int
    share : float
        Share of the variance.
    noise : float
        Largest scatter that rounding of the activations may give a direction; see `dask_svcca.kernels.noise`.
    solve : callable
        As `leading_eigenvectors`.

    Returns
    -------
    Leading or None
        None where single precision does not tell some of them from its rounding, or from those that are not kept; or
        where rounding of the activations has a share of the variance.

    Examples
    --------
    >>> x = np.diag([3.0, 2.0, 1.0])
    >>> found = leading(np.eye(3), np.array([9.0, 4, 1]), samples=4, share=0.9)
    >>> found.spectrum, np.abs(found.weights[0, 0])
    (array([9., 4., 1.]), np.float32(1.0))
    """
    lengths = np.sqrt(variances)
    products *= lengths
    products *= lengths[:, np.newaxis]
    total = float(variances.sum())
    values, directions = solve(products, lambda values: _how_many(values, samples, share, total, noise))
    count = directions.shape[1]
    if not count:
        return None
    weights = np.empty((len(values), count), np.float32, order="F")
    np.multiply(directions, lengths[:, np.newaxis], out=weights, casting="same_kind")
    weights /= np.sqrt(values[:count])
    return Leading(values[:count], weights)


def _how_many(values: FloatArray, samples: int, share: float, total: float, noise: float) -> int:
    """How many directions to project on, from all eigenvalues, descending; 0 where single precision will not do."""
    if float(values.clip(min=0).sum(where=values <= noise)) > MOST_NOISE * total:
        return 0
    kept = fewest(np.cumsum(values), share, total)
    told = min(int((values > TOLD * values[0]).sum()), samples - 1)
    if kept > told or values[kept - 1] < LEAST_RATIO * values[0]:
        return 0
    count = min(kept + max(LEAST_MORE, kept // MORE), told)
    return 0 if turn(values[:count], kept) > MOST_TURN else count


def turn(spectrum: FloatArray, kept: int) -> float:
    """How far the directions that are kept turn towards the others, each, for a unit of rounding.

    Parameters
    ----------
    spectrum : (direction,)
        Eigenvalues, descending and above zero.
    kept : int
        How many of them are kept.

    Returns
    -------
    float
        Infinite where some that is kept equals some that is not.

    References
    ----------
    Stewart and Sun (1990), Matrix Perturbation Theory, section V.2: to first order.

    Examples
    --------
    >>> round(turn(np.array([2.0, 1.01, 1.0]), 2)), turn(np.array([2.0, 1.0, 1.0]), 2)
    (50, inf)
    """
    with np.errstate(divide="ignore"):
        ratios = spectrum[kept:] / spectrum[:kept, np.newaxis]
        turns = ratios / (1 - ratios) ** 2
    return float(np.sqrt(turns.sum()) / kept)


class ScoreProducts:
    """Inner products of scores, chunk by chunk.

    Parameters
    ----------
    products : callable
        Makes a sum of products, from the number of samples that are multiplied in one precision.

    Examples
    --------
    >>> products = ScoreProducts()
    >>> products.add(np.eye(3, 2))
    >>> products.value
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(self, products: MakesProducts = ProductSum) -> None:
        # Each chunk in single precision, their sum in double.
        self._total = products(1)

    def add(self, scores: InexactArray) -> None:
        """Take some scores, (sample, direction)."""
        rows = np.ascontiguousarray(scores.T)
        self._total.add(rows, rows)

    @property
    def value(self) -> FloatArray:
        """The sum, (direction, direction), in double precision."""
        return np.asarray(self._total.value, dtype=np.float64)


def refined(
    spectrum: FloatArray, products: FloatArray, solve: SymmetricSolver = np.linalg.eigh
) -> tuple[FloatArray, FloatArray]:
    """Principal directions among some, and what turns scores on these into orthonormal ones.

    Parameters
    ----------
    spectrum : (direction,)
        From `leading`.
    products : (direction, direction)
        Inner products of the scores, near the identity.
    solve : callable
        As `numpy.linalg.eigh`.

    Returns
    -------
    spectrum : (direction,)
        Descending.
    factor : (direction, direction)
        Scores are multiplied by it from the right; in single precision.

    References
    ----------
    Parlett (1998), The Symmetric Eigenvalue Problem, section 11.3: the Rayleigh-Ritz procedure.

    Examples
    --------
    >>> z = np.array([[1.0, 0.1], [0.0, 1.0], [0.0, 0.1]])
    >>> values, factor = refined(np.array([4.0, 1.0]), z.T @ z)
    >>> np.allclose((z @ factor).T @ (z @ factor), np.eye(2), atol=1e-6), values.round(3)
    (True, array([4.013, 1.007]))
    """
    deviations = np.sqrt(spectrum)
    scatter = products * deviations * deviations[:, np.newaxis]
    ascending, vectors = solve(scatter)
    values = ascending[::-1]
    factor = deviations[:, np.newaxis] * vectors[:, ::-1] / np.sqrt(values)
    return values, factor.astype(np.float32)
