"""From moments to a subspace: spectrum, rank, loadings, and orthonormal scores."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from dask_svcca.kernels.noise import (
    DOUBLE,
    SCATTER_SUFFICES,
    above_noise,
    is_noise,
    live_noise,
    rows_above_noise,
    scatter_above_noise,
    singular_directions,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.factors import Factor
    from dask_svcca.kernels.moments import Moments

    SymmetricSolver = Callable[[FloatArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True, slots=True)
class Eigenbasis:
    """Principal directions of a representation, those above rounding noise only.

    Directions are sorted by block, and by descending variance within a block.

    Attributes
    ----------
    spectrum : (direction,)
        Eigenvalues of the scatter: the variance of a direction times the number of samples. Descending in a block.
    loadings : (neuron, direction)
        Orthonormal within a block. No rows where the directions came from the samples alone.
    block : (direction,)
        The block of each direction, ascending.
    total : float
        Sum of all eigenvalues of all blocks, with multiplicities.
    """

    spectrum: FloatArray
    loadings: InexactArray
    block: IntArray
    total: float


def eigenbasis(
    moments: Moments,
    *,
    multiplicity: IntArray,
    epsilon: float,
    solve: Callable[[InexactArray], tuple[FloatArray, InexactArray]] = np.linalg.eigh,
) -> Eigenbasis | None:
    """Principal directions by eigendecomposition of each block's scatter.

    Parameters
    ----------
    moments : Moments
        Where noise has to be told from neurons of a small scale, the scatter is overwritten.
    multiplicity : (block,)
        How often a block counts: 2 where it stands for a conjugate pair of frequencies.
    epsilon : float
        Relative precision of the stored activations; see `neuron_noise`.
    solve : callable
        Gives the eigenvalues, ascending, and eigenvectors of a Hermitian matrix.

    Returns
    -------
    Eigenbasis or None
        With no direction at all where nothing rises above rounding noise: a constant representation. None where
        activations in double precision may have directions that their scatter, which squares them, does not show;
        see `eigenbasis_of_rows`.

    Examples
    --------
    >>> from dask_svcca.kernels.moments import moments
    >>> x = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])[:, np.newaxis]
    >>> eigenbasis(moments(x), multiplicity=np.ones(1, int), epsilon=1e-7).spectrum
    array([18.,  2.])
    """
    blocks, neurons, _ = moments.scatter.shape
    diagonals = np.einsum("bii->bi", moments.scatter).real
    noise = live_noise(diagonals, moments.mean, moments.count, multiplicity, epsilon)
    live = noise > 0
    if not live.all():
        moments.scatter[:, ~live] = 0
        moments.scatter[:, :, ~live] = 0
    total = 0.0
    spectra: list[FloatArray] = []
    ranks: list[int] = []
    # Block by block, each straight to its place: the eigenvectors of all blocks are as large as the scatter.
    directions = np.empty((blocks * min(neurons, moments.count), neurons), dtype=moments.scatter.dtype)
    # Forming a scatter in double precision perturbs it by its own share.
    rounding = neurons * DOUBLE * float(diagonals.sum(axis=1).max())
    floor = max(float(noise.max()), rounding)
    for index, (scatter, times) in enumerate(zip(moments.scatter, multiplicity, strict=True)):
        # Centring takes one sample's worth of directions from the first block; no block has more than its samples.
        most = min(int(live.sum()), moments.count - (not index))
        ascending, vectors = solve(scatter)
        values, columns = ascending[::-1], vectors[:, ::-1]
        total += float(times * np.clip(values, 0.0, None).sum())
        rank = min(int((values > floor).sum()), most)
        if rank < most and not is_noise(values[rank:most], noise, rounding / neurons):
            if epsilon < SCATTER_SUFFICES:
                return None
            # LAPACK works beside the factor: the vectors must not be there at the same time.
            del vectors, columns
            columns, values = singular_directions(scatter_above_noise(scatter, noise))
            rank = min(len(values), most)
        start = sum(ranks)
        directions[start : start + rank] = columns.T[:rank]
        spectra.append(values[:rank])
        ranks.append(rank)
    block = np.repeat(np.arange(blocks), ranks)
    return Eigenbasis(np.concatenate(spectra), directions[: len(block)].T, block, total)


def eigenbasis_of_rows(factor: Factor, *, multiplicity: IntArray, epsilon: float) -> Eigenbasis:
    """Principal directions by singular values of rows that stand for the samples: nothing is squared.

    Parameters
    ----------
    factor : Factor
        Its rows are set to zero for constant neurons.
    multiplicity, epsilon
        As for `eigenbasis`.

    Examples
    --------
    >>> from dask_svcca.kernels.factors import factor
    >>> x = np.array([[3.0, 0], [-3, 0], [0, 1e-9], [0, -1e-9]])
    >>> eigenbasis_of_rows(factor([x]), multiplicity=np.ones(1, int), epsilon=2.2e-16).spectrum
    array([1.8e+01, 2.0e-18])
    """
    variances = np.array([np.square(np.abs(rows)).sum(axis=0) for rows in factor.rows])
    variances[0] *= factor.varies
    noise = live_noise(variances, factor.mean, factor.count, multiplicity, epsilon)
    spectra, ranks, loadings = [], [], []
    for index, rows in enumerate(factor.rows):
        if index == 0:
            # A constant neuron takes no part, not even by rounding.
            rows[:, ~factor.varies] = 0
        within = rows_above_noise(rows, noise, factor.count).conj().T @ rows
        within *= noise > 0
        directions, values = singular_directions(within.conj().T)
        del within
        rank = min(len(values), factor.count - (not index))
        spectra.append(values[:rank])
        ranks.append(rank)
        loadings.append(directions[:, :rank])
    block = np.repeat(np.arange(len(ranks)), ranks)
    total = float(multiplicity @ variances[:, noise > 0].sum(axis=1))
    # As the scatter's: a direction's loadings side by side.
    return Eigenbasis(np.concatenate(spectra), np.ascontiguousarray(np.hstack(loadings).T).T, block, total)


def eigenvectors(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix, which is overwritten; it takes twice its memory.

    By divide and conquer: where many eigenvalues are nearly equal, the usual way takes eight times as long.

    Examples
    --------
    >>> values, vectors = eigenvectors(np.array([[2.0, 0.0], [0.0, 1.0]]))
    >>> values, np.abs(vectors)
    (array([1., 2.]), array([[0., 1.],
           [1., 0.]]))
    """
    # LAPACK takes columns: the transpose is the same matrix, and is overwritten without a copy.
    ascending, vectors = scipy.linalg.eigh(matrix.T, driver="evd", overwrite_a=True, check_finite=False)
    return ascending, vectors


def dual_basis(
    gram: FloatArray, noise: FloatArray, solve: SymmetricSolver = eigenvectors
) -> tuple[Eigenbasis, FloatArray] | None:
    """Principal directions from inner products of samples, where neurons outnumber samples.

    Parameters
    ----------
    gram : (sample, sample)
        Inner products of the centred samples; overwritten.
    noise : (neuron,)
        From `live_noise`; neurons without take no part in the products.
    solve : callable
        As `eigenvectors`.

    Returns
    -------
    Eigenbasis
        One block, without loadings: (0, direction).
    scores : (sample, direction)
        Orthonormal.

    None where directions of small neurons have to be told from noise of large ones: see `samples_above_noise`.

    Examples
    --------
    >>> x = np.array([[1.0, 2, 2], [-1, -2, -2]])
    >>> basis, scores = dual_basis(x @ x.T, np.full(3, 1e-14))
    >>> basis.spectrum.round(12), np.abs(scores[:, 0]).round(4)
    (array([18.]), array([0.7071, 0.7071]))
    """
    count = len(gram)
    bound = centre(gram)
    ascending, vectors = solve(gram)
    values = ascending[::-1]
    rounding = count * DOUBLE * bound
    rank = min(int((values > max(float(noise.max()), rounding)).sum()), count - 1)
    if rank < count - 1 and not is_noise(values[rank : count - 1], noise, rounding / count):
        return None
    return _of_samples(values[:rank], bound), vectors[:, ::-1][:, :rank]


def samples_above_noise(in_units: FloatArray, solve: SymmetricSolver = eigenvectors) -> FloatArray:
    """Orthonormal basis, over the samples, of what is above noise.

    Parameters
    ----------
    in_units : (sample, sample)
        Inner products of the centred samples, each neuron divided by the square root of its noise; overwritten.
    solve : callable
        As `eigenvectors`.

    Returns
    -------
    (sample, direction)

    Examples
    --------
    >>> x = np.array([[1e3, 0.1], [-1e3, 0.1], [0, -0.2]])
    >>> samples_above_noise((x / [1, 1e-3]) @ (x / [1, 1e-3]).T).shape
    (3, 2)
    """
    count = len(in_units)
    centre(in_units)
    ascending, vectors = solve(in_units)
    rank = min(above_noise(ascending[::-1], count * DOUBLE), count - 1)
    return np.ascontiguousarray(vectors[:, ::-1][:, :rank])


def dual_basis_within(
    gram: FloatArray, basis: FloatArray, solve: SymmetricSolver = eigenvectors
) -> tuple[Eigenbasis, FloatArray]:
    """As `dual_basis`, from what is above noise alone.

    Parameters
    ----------
    gram : (sample, sample)
        Inner products of the centred samples; overwritten.
    basis : (sample, direction)
        From `samples_above_noise`.
    solve : callable
        As `eigenvectors`.

    Examples
    --------
    >>> x = np.array([[1e3, 0.1], [-1e3, 0.1], [0, -0.2]])
    >>> basis, scores = dual_basis_within(x @ x.T, samples_above_noise((x / [1, 1e-3]) @ (x / [1, 1e-3]).T))
    >>> basis.spectrum.round(6)
    array([2.e+06, 6.e-02])
    """
    bound = centre(gram)
    count, rank = basis.shape
    part = basis.T @ gram
    # What follows lies where the inner products were: no more than three arrays of their size are there at a time.
    room = gram.reshape(-1)
    within = np.matmul(part, basis, out=room[: rank * rank].reshape(rank, rank))
    del part
    ascending, vectors = solve(within)
    # Where the largest is larger by more than double precision has digits, rounding decides what is least.
    values = np.maximum(ascending[::-1], DOUBLE**2 * bound)
    scores = np.matmul(vectors.T, basis.T, out=room[: rank * count].reshape(rank, count)).T
    return _of_samples(values, bound), scores[:, ::-1]


def dual_basis_of_rows(rows: FloatArray, in_units: FloatArray) -> tuple[Eigenbasis, FloatArray]:
    """As `dual_basis`, from rows that stand for the neurons: nothing is squared.

    Parameters
    ----------
    rows : (row, sample)
        The centred neurons, up to a rotation of them.
    in_units : (row, sample)
        The same where each neuron was divided by the square root of its noise before.

    Examples
    --------
    >>> x = np.array([[1.0, 2e-9, 0], [-1.0, 2e-9, 0], [0, -4e-9, 0]])
    >>> basis, scores = dual_basis_of_rows(x.T, x.T / 1e-15)
    >>> basis.spectrum
    array([2.0e+00, 2.4e-17])
    """
    count = rows.shape[1]
    centred = [part - part.mean(axis=1, keepdims=True) for part in (in_units, rows)]
    basis = rows_above_noise(centred[0].T, np.ones(len(in_units)), count)[:, : count - 1]
    vectors, values = singular_directions(basis.T @ centred[1].T)
    return _of_samples(values, float(np.square(centred[1]).sum())), basis @ vectors


def centre(gram: FloatArray) -> float:
    """Take the mean sample off once more, and return the trace.

    The rounding of the means is one error common to all samples: left in, constant neurons would seem to vary.
    """
    gram -= gram.mean(axis=0)
    gram -= gram.mean(axis=1, keepdims=True)
    return float(np.trace(gram))


def _of_samples(values: FloatArray, total: float) -> Eigenbasis:
    rank = len(values)
    return Eigenbasis(values, np.zeros((0, rank)), np.zeros(rank, dtype=np.int64), total)


def project(
    samples: InexactArray,
    mean: InexactArray,
    weights: InexactArray,
    block: IntArray,
    out: InexactArray | None = None,
) -> InexactArray:
    """Scores of one chunk of samples.

    Parameters
    ----------
    samples : (sample, block, neuron)
    mean : (neuron,)
        Mean of the first block.
    weights : (neuron, direction)
        Loadings divided by the square roots of the spectrum, so that scores come out orthonormal.
    block : (direction,)
        The block of each direction, ascending.
    out : (sample, direction), optional
        Takes the scores.

    Returns
    -------
    (sample, direction)
        In double precision.

    Examples
    --------
    >>> project(np.array([[[1.0, 2.0]], [[3.0, 6.0]]]), np.array([2.0, 4.0]), np.eye(2), np.zeros(2, int))
    array([[-1., -2.],
           [ 1.,  2.]])
    """
    shape = (samples.shape[0], weights.shape[1])
    scores = np.empty(shape, dtype=np.result_type(weights.dtype, np.float64)) if out is None else out
    for index, columns in blocks_of(block):
        wide = np.result_type(samples.dtype, np.float64)
        if index == 0:
            chunk = samples[:, index].astype(wide)
            chunk -= mean
        else:
            chunk = samples[:, index].astype(wide, copy=False)
        np.matmul(chunk, weights[:, columns], out=scores[:, columns])
    return scores


WELL_CONDITIONED = 1e-6
"""Share of the largest eigenvalue above which the covariance route leaves scores orthonormal to 1e-9.

The eigenvectors of a scatter are off by some 1e-16 of its largest eigenvalue, and whitening divides that by the
eigenvalue of the direction. Measured with 4,000 to 8,000 samples of 256 to 1,024 neurons: 4e-10 at most at half of this
share, where all others are much larger or much smaller; 1e-11 for spectra that decay evenly.
"""


def needs_correction(basis: Eigenbasis, columns: slice) -> bool:
    """Whether directions of a block are so weak that their scores may be short of orthonormal.

    Examples
    --------
    >>> basis = Eigenbasis(np.array([1.0, 1e-3, 1e-9]), np.eye(3), np.zeros(3, int), 1.0)
    >>> needs_correction(basis, slice(0, 2)), needs_correction(basis, slice(0, 3))
    (False, True)
    """
    values = basis.spectrum[columns]
    return bool(values.min() < WELL_CONDITIONED * values.max())


def gram_correction(gram: InexactArray) -> InexactArray:
    """Upper-triangular T for which ``scores @ T``, of one block, is orthonormal to rounding.

    The covariance route loses orthogonality in directions of small variance: an error of the machine precision times
    the ratio of the largest variance to theirs. A Cholesky factor of the Gram matrix corrects this. Being
    triangular, it mixes into a direction only directions of larger variance.

    Parameters
    ----------
    gram : (direction, direction)
        ``scores.conj().T @ scores``, near the identity.

    References
    ----------
    Yamamoto et al. (2015), Roundoff error analysis of the CholeskyQR2 algorithm.

    Examples
    --------
    >>> z = np.array([[2.0, 1.0], [0.0, 1.0]])
    >>> np.round(z @ gram_correction(z.T @ z), 12)
    array([[1., 0.],
           [0., 1.]])
    """
    lower = np.linalg.cholesky(gram)
    return np.asarray(scipy.linalg.solve_triangular(lower, np.eye(len(gram), dtype=gram.dtype), lower=True).conj().T)


def blocks_of(block: IntArray) -> list[tuple[int, slice]]:
    """Blocks, and the slice of directions of each.

    Parameters
    ----------
    block : (direction,)
        The block of each direction, ascending.

    Examples
    --------
    >>> blocks_of(np.array([0, 0, 3]))
    [(0, slice(0, 2, None)), (3, slice(2, 3, None))]
    """
    if not len(block):
        return []
    if block[0] == block[-1]:
        # Dense layers have one, and a tile asks for thousands of them.
        return [(int(block[0]), slice(0, len(block)))]
    edges = [0, *(np.flatnonzero(block[1:] != block[:-1]) + 1).tolist(), len(block)]
    return [(int(block[start]), slice(start, stop)) for start, stop in itertools.pairwise(edges)]
