"""From moments to a subspace: spectrum, rank, loadings, and orthonormal scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.moments import Moments


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


def noise_floor(moments: Moments, epsilon: float) -> float:
    """Smallest eigenvalue of the scatter that is more than rounding noise.

    Rounding the input to relative precision ``epsilon`` perturbs each entry by up to ``epsilon`` times its size, mean
    included, and so each eigenvalue by up to ``epsilon**2`` times the largest second moment. Forming the scatter in
    double precision perturbs it by its own share.

    Parameters
    ----------
    moments : Moments
    epsilon : float
        Relative precision of the stored activations: 1.2e-7 for float32.

    Returns
    -------
    float
        Zero only for data that are zero.

    Examples
    --------
    >>> from dask_svcca.kernels.moments import moments
    >>> x = np.random.default_rng(0).normal(size=(100, 1, 3))
    >>> 1e-14 < noise_floor(moments(x), epsilon=1.2e-7) / 100 < 1e-13
    True
    """
    neurons = moments.scatter.shape[-1]
    variances = np.einsum("bii->bi", moments.scatter).real
    bound = float(variances.sum(axis=1).max())
    # A neuron that does not vary is rounded alike in all samples: no noise, however large its mean.
    varies = variances[0] > 0
    second = float((varies * (variances[0] + moments.count * np.abs(moments.mean) ** 2)).max())
    return float(max(epsilon**2 * max(bound, second), neurons * np.finfo(np.float64).eps * bound))


def eigenbasis(moments: Moments, *, multiplicity: IntArray, epsilon: float) -> Eigenbasis:
    """Principal directions by eigendecomposition of each block's scatter.

    Parameters
    ----------
    moments : Moments
    multiplicity : (block,)
        How often a block counts: 2 where it stands for a conjugate pair of frequencies.
    epsilon : float
        Relative precision of the stored activations; see `noise_floor`.

    Returns
    -------
    Eigenbasis
        With no direction at all where nothing rises above rounding noise: a constant representation.

    Examples
    --------
    >>> from dask_svcca.kernels.moments import moments
    >>> x = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])[:, np.newaxis]
    >>> eigenbasis(moments(x), multiplicity=np.ones(1, int), epsilon=1e-7).spectrum
    array([18.,  2.])
    """
    blocks, neurons, _ = moments.scatter.shape
    floor = noise_floor(moments, epsilon)
    total = 0.0
    spectra: list[FloatArray] = []
    ranks: list[int] = []
    # Block by block, each straight to its place: the eigenvectors of all blocks are as large as the scatter.
    directions = np.empty((blocks * min(neurons, moments.count), neurons), dtype=moments.scatter.dtype)
    for scatter, times in zip(moments.scatter, multiplicity, strict=True):
        ascending, vectors = np.linalg.eigh(scatter)
        values = ascending[::-1]
        total += float(times * np.clip(values, 0.0, None).sum())
        # Centring takes one sample's worth of directions from the first block; no block has more than its samples.
        rank = min(int((values > floor).sum()), moments.count - (not ranks))
        start = sum(ranks)
        directions[start : start + rank] = vectors[:, ::-1].T[:rank]
        spectra.append(values[:rank])
        ranks.append(rank)
    block = np.repeat(np.arange(blocks), ranks)
    return Eigenbasis(np.concatenate(spectra), directions[: len(block)].T, block, total)


def dual_basis(gram: FloatArray, mean_square: float, *, epsilon: float) -> tuple[Eigenbasis, FloatArray]:
    """Principal directions from inner products of samples, where neurons outnumber samples.

    Parameters
    ----------
    gram : (sample, sample)
        Inner products of the centred samples; overwritten.
    mean_square : float
        Largest squared mean of a neuron that varies.
    epsilon : float
        As for `eigenbasis`.

    Returns
    -------
    Eigenbasis
        One block, without loadings: (0, direction).
    scores : (sample, direction)
        Orthonormal.

    Examples
    --------
    >>> x = np.array([[1.0, 2, 2], [-1, -2, -2]])
    >>> basis, scores = dual_basis(x @ x.T, 0.0, epsilon=1e-7)
    >>> basis.spectrum.round(12), np.abs(scores[:, 0]).round(4)
    (array([18.]), array([0.7071, 0.7071]))
    """
    count = len(gram)
    # The rounding of the means is one error common to all samples: left in, constant neurons would seem to vary.
    gram -= gram.mean(axis=0)
    gram -= gram.mean(axis=1, keepdims=True)
    bound = float(np.trace(gram))
    # LAPACK takes columns: the transpose is the same matrix, and is overwritten without a copy.
    ascending, vectors = scipy.linalg.eigh(gram.T, overwrite_a=True, check_finite=False)
    values = ascending[::-1]
    floor = max(epsilon**2 * max(bound, count * mean_square), count * np.finfo(np.float64).eps * bound)
    rank = min(int((values > floor).sum()), count - 1)
    basis = Eigenbasis(values[:rank], np.zeros((0, rank)), np.zeros(rank, dtype=np.int64), bound)
    return basis, vectors[:, ::-1][:, :rank]


def leading_directions(
    spectrum: FloatArray, weights: IntArray, variance: float | None
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Fewest directions that explain at least a share of the variance.

    Parameters
    ----------
    spectrum, weights : (direction,)
        Variance of a direction, and how often it counts.
    variance : float or None
        Share of the sum, in (0, 1]. None keeps all.

    Returns
    -------
    (direction,)
        Boolean.

    References
    ----------
    Raghu et al. (2017), SVCCA, section 2.1, step 1.

    Examples
    --------
    >>> leading_directions(np.array([1.0, 6.0, 3.0]), np.ones(3, int), 0.8)
    array([False,  True,  True])
    """
    if variance is None or not len(spectrum):
        return np.ones(len(spectrum), dtype=np.bool_)
    order = np.argsort(-spectrum, kind="stable")
    explained = np.cumsum((spectrum * weights)[order])
    # A hair below the threshold counts as reached, so that variance=1.0 does not depend on the last bit of a sum.
    enough = int(np.searchsorted(explained, variance * explained[-1] * (1 - 1e-12))) + 1
    kept = np.zeros(len(spectrum), dtype=np.bool_)
    kept[order[:enough]] = True
    return kept


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


WELL_CONDITIONED = 1e-5
"""Share of the largest eigenvalue above which the covariance route leaves scores orthonormal to 1e-9.

The eigenvectors of a scatter of 10,000 samples of 512 neurons are off by some 1e-15 of its largest eigenvalue, and
whitening divides that by the eigenvalue of the direction.
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
    present, starts = np.unique(block, return_index=True)
    stops = np.append(starts[1:], len(block))
    return [(int(index), slice(int(a), int(b))) for index, a, b in zip(present, starts, stops, strict=True)]
