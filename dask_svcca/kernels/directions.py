"""Directions of one or two sets of neurons: principal (PCA), canonical (CCA), and of greatest covariance (PLS)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.kernels.noise import is_noise, live_noise, rounding_of_rows, rows_above_noise
from dask_svcca.kernels.threshold import leading_directions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray


@dataclass(frozen=True, slots=True)
class Principal:
    """Principal directions of one block: singular vectors and values of its rows, all or the leading ones.

    Attributes
    ----------
    rows : (row, neuron)
        The samples, up to a rotation of the samples.
    left : (row, k)
        Orthonormal.
    singular : (k,)
        Descending, above zero.
    loadings : (neuron, k)
        Orthonormal.
    whole : bool
        Whether these are all directions that the neurons have.
    """

    rows: InexactArray
    left: InexactArray
    singular: FloatArray
    loadings: InexactArray
    whole: bool

    def leading(self, count: int) -> Principal:
        """Only the leading directions."""
        return replace(
            self,
            left=self.left[:, :count],
            singular=self.singular[:count],
            loadings=self.loadings[:, :count],
            whole=self.whole and count >= len(self.singular),
        )


@dataclass(frozen=True, slots=True)
class Aligned:
    """Components of one block: pairs of directions.

    Attributes
    ----------
    values : (component,)
        Correlations, or singular values of the cross-scatter; descending.
    coefficients_a, coefficients_b : (neuron, component)
        Weights from the centred neurons to the directions.
    directions_a, directions_b : (row, component)
        Up to a rotation of the samples.
    loads_a, loads_b : (neuron, component)
        Weights from the directions back to the neurons: ``directions @ loads.conj().T``.
    """

    values: FloatArray
    coefficients_a: InexactArray
    coefficients_b: InexactArray
    directions_a: InexactArray
    directions_b: InexactArray
    loads_a: InexactArray
    loads_b: InexactArray


def principal_directions(
    blocks: Sequence[InexactArray],
    *,
    samples: int,
    weights: IntArray,
    variance: float | None,
    mean: FloatArray,
    epsilon: float,
) -> list[Principal]:
    """Principal directions of each block, those above rounding noise, by SVD.

    Parameters
    ----------
    blocks : sequence of (row, neuron)
    samples : int
        Number of samples; the rows are a rotation of them.
    weights : (block,)
        How often a block counts.
    variance : float or None
        Share of the variance of all blocks that the kept directions explain together. None keeps all.
    mean : (neuron,)
        Mean of each neuron in the first block.
    epsilon : float
        Relative precision of the activations; see `dask_svcca.kernels.noise.neuron_noise`.

    Returns
    -------
    list of Principal
        They have no direction where nothing rises above noise.

    Examples
    --------
    >>> x = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])
    >>> options = dict(samples=4, weights=np.ones(1, int), mean=np.zeros(3), epsilon=2e-16)
    >>> [principal] = principal_directions([x], variance=None, **options)
    >>> principal.singular.round(6), principal.whole
    (array([4.242641, 1.414214]), True)
    >>> [principal] = principal_directions([x], variance=0.8, **options)
    >>> principal.singular.round(6), principal.whole
    (array([4.242641]), False)
    """
    diagonals = np.array([np.square(np.abs(block)).sum(axis=0) for block in blocks])
    noise = live_noise(diagonals, mean, samples, weights, epsilon)
    live = noise > 0
    rows = [block * live for block in blocks]
    decompositions = [_decompose(part, noise, samples) for part in rows]
    ranks = [len(singular) for _, singular, _ in decompositions]
    owner = np.repeat(np.arange(len(blocks)), ranks)
    spectrum = np.concatenate([singular**2 for _, singular, _ in decompositions])
    kept = leading_directions(spectrum, weights[owner], variance)
    return [
        _principal(part, *decomposition, count=int(kept[owner == index].sum()))
        for index, (part, decomposition) in enumerate(zip(rows, decompositions, strict=True))
    ]


def _decompose(rows: InexactArray, noise: FloatArray, samples: int) -> tuple[InexactArray, FloatArray, InexactArray]:
    """Singular vectors and values of one block, those above rounding noise."""
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    values, most = singular**2, min(int(np.any(rows != 0, axis=0).sum()), len(singular))
    rounding = rounding_of_rows(rows, samples) ** 2 * values.max(initial=0.0)
    rank = int((values > max(noise.max(initial=0.0), rounding)).sum())
    if rank < most and not is_noise(values[rank:most], noise, rounding):
        basis = rows_above_noise(rows, noise, samples)
        left, singular, right = np.linalg.svd(basis.conj().T @ rows, full_matrices=False)
        left, rank = basis @ left, len(singular)
    return left[:, :rank], singular[:rank], right[:rank]


def _principal(
    rows: InexactArray, left: InexactArray, values: FloatArray, right: InexactArray, *, count: int
) -> Principal:
    # A constant neuron takes no part, not even by rounding.
    varies = np.any(rows != 0, axis=0)
    loadings = right[:count].conj().T * varies[:, np.newaxis]
    return Principal(rows, left[:, :count], values[:count], loadings, whole=count == int(varies.sum()))


def canonical_directions(a: Principal, b: Principal) -> Aligned:
    """Canonical correlation analysis of one block.

    Parameters
    ----------
    a, b : Principal
        From the same samples, in the same rotation.

    Returns
    -------
    Aligned
        Values are correlations, in [0, 1]; directions are orthonormal.

    References
    ----------
    Björck and Golub (1973), Numerical methods for computing angles between linear subspaces, Mathematics of
    Computation 27.

    Examples
    --------
    >>> options = dict(samples=3, weights=np.ones(1, int), variance=None, mean=np.zeros(1), epsilon=2e-16)
    >>> [a] = principal_directions([np.array([[1.0], [-1.0], [0.0]])], **options)
    >>> [b] = principal_directions([np.array([[1.0], [0.0], [-1.0]])], **options)
    >>> canonical_directions(a, b).values.round(12)
    array([0.5])
    """
    (basis_a, weights_a), (basis_b, weights_b) = _orthonormal(a), _orthonormal(b)
    u, correlations, v = _svd(basis_a.conj().T @ basis_b)
    coefficients_a, coefficients_b = weights_a @ u, weights_b @ v
    phase = phases(coefficients_a)
    directions_a, directions_b = basis_a @ u * phase, basis_b @ v * phase
    return Aligned(
        np.clip(correlations, 0.0, 1.0),
        coefficients_a * phase,
        coefficients_b * phase,
        directions_a,
        directions_b,
        a.rows.conj().T @ directions_a,
        b.rows.conj().T @ directions_b,
    )


def covariance_directions(a: Principal, b: Principal) -> Aligned:
    """Partial least squares (PLS-SVD) of one block: directions of greatest covariance.

    Parameters
    ----------
    a, b : Principal
        From the same samples, in the same rotation.

    Returns
    -------
    Aligned
        Values are singular values of the cross-scatter; coefficients are orthonormal.

    References
    ----------
    Wold (1985), Partial least squares, Encyclopedia of Statistical Sciences 6.

    Examples
    --------
    >>> options = dict(samples=3, weights=np.ones(1, int), variance=None, mean=np.zeros(1), epsilon=2e-16)
    >>> [a] = principal_directions([np.array([[1.0], [-1.0], [0.0]])], **options)
    >>> [b] = principal_directions([np.array([[2.0], [0.0], [-2.0]])], **options)
    >>> covariance_directions(a, b).values.round(12)
    array([2.])
    """
    scores_a, scores_b = a.left * a.singular, b.left * b.singular
    u, values, v = _svd(scores_a.conj().T @ scores_b)
    coefficients_a, coefficients_b = a.loadings @ u, b.loadings @ v
    phase = phases(coefficients_a)
    coefficients_a, coefficients_b = coefficients_a * phase, coefficients_b * phase
    directions_a, directions_b = scores_a @ u * phase, scores_b @ v * phase
    return Aligned(values, coefficients_a, coefficients_b, directions_a, directions_b, coefficients_a, coefficients_b)


def own_directions(a: Principal, b: Principal) -> Aligned:  # noqa: ARG001 - called as the others are
    """Principal component analysis of one block. It takes two, as the others do, and uses a alone.

    Returns
    -------
    Aligned
        Values are eigenvalues of the scatter; coefficients are orthonormal; both sides are the same.

    References
    ----------
    Pearson (1901), On lines and planes of closest fit to systems of points in space, Philosophical Magazine 2.

    Examples
    --------
    >>> options = dict(samples=3, weights=np.ones(1, int), variance=None, mean=np.zeros(1), epsilon=2e-16)
    >>> [a] = principal_directions([np.array([[1.0], [-1.0], [0.0]])], **options)
    >>> own_directions(a, a).values.round(12)
    array([2.])
    """
    phase = phases(a.loadings)
    coefficients, directions = a.loadings * phase, a.left * a.singular * phase
    return Aligned(a.singular**2, coefficients, coefficients, directions, directions, coefficients, coefficients)


def _svd(coupling: InexactArray) -> tuple[InexactArray, FloatArray, InexactArray]:
    """Left singular vectors, values, and right singular vectors as columns."""
    count = min(coupling.shape)
    if not count:
        return np.zeros((coupling.shape[0], 0)), np.zeros(0), np.zeros((coupling.shape[1], 0))
    u, values, v = np.linalg.svd(coupling, full_matrices=False)
    return u, values, v.conj().T


def _orthonormal(principal: Principal) -> tuple[InexactArray, InexactArray]:
    """Orthonormal basis of the directions, (row, k), and the weights, (neuron, k), that make it from the rows.

    For all directions of the neurons together any basis will do: with each neuron scaled to one length first, neurons
    of very different scales cost no accuracy.
    """
    if not principal.whole:
        return principal.left, principal.loadings / principal.singular
    lengths = np.abs(principal.rows).max(axis=0, initial=0.0)
    lengths = np.where(lengths > 0, lengths, np.inf)
    count = len(principal.singular)
    left, values, right = np.linalg.svd(principal.rows / lengths, full_matrices=False)
    weights = right[:count].conj().T / values[:count] / lengths[:, np.newaxis]
    return left[:, :count], weights


def phases(coefficients: InexactArray) -> InexactArray:
    """Factors that make the largest coefficient of each component real and positive, (component,)."""
    if not coefficients.size:
        return np.ones(coefficients.shape[1])
    largest = np.take_along_axis(coefficients, np.abs(coefficients).argmax(axis=0)[np.newaxis], axis=0)[0]
    return np.asarray(largest.conj() / np.abs(largest))
