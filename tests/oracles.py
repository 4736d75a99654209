"""Slow, obvious twins of what the package computes: from the definitions, by SVD, sharing no code with it."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    import numpy.typing as npt


# Eight examples of four neurons, the first of rank 1 once centred, whose numbers are known from elsewhere.
RAMP = np.arange(32.0).reshape(8, 4)
OTHER = np.array(
    [
        [1, 2, 27, 22],
        [0, 28, 15, 18],
        [12, 9, 14, 8],
        [11, 19, 16, 13],
        [31, 20, 10, 3],
        [24, 5, 7, 29],
        [4, 30, 21, 6],
        [26, 17, 23, 25],
    ]
)


def scatter(samples: npt.NDArray[np.inexact]) -> npt.NDArray[np.inexact]:
    """Sum of ``conj(x) x.T`` over the samples of each block, (sample, block, neuron); the first block centred."""
    wide = samples.astype(np.result_type(samples.dtype, np.float64))
    blocks = [wide[:, 0] - np.mean(wide[:, 0], axis=0), *(wide[:, index] for index in range(1, wide.shape[1]))]
    return np.stack([sum(np.outer(row.conj(), row) for row in block) for block in blocks])


def fewest(variances: npt.ArrayLike, share: float | None) -> int:
    """How many of these variances, largest first, it takes to reach a share of their sum."""
    ordered = sorted(np.asarray(variances, dtype=float), reverse=True)
    if share is None:
        return len(ordered)
    enough = share * sum(ordered) * (1 - 1e-9)
    return next(count for count in range(1, len(ordered) + 1) if sum(ordered[:count]) >= enough)


def basis(activations: npt.ArrayLike, variance: float | None) -> npt.NDArray[np.float64]:
    """Orthonormal basis of the centred activations' leading directions, by SVD: SVCCA's first step.

    Directions of equal variance are kept together: which of them came first would be chance.
    """
    stored = np.asarray(activations)
    wide = stored.astype(np.float64)
    left, singular, _ = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    precision = max(np.finfo(stored.dtype).eps, max(wide.shape) * np.finfo(np.float64).eps)
    variances = singular[singular > singular[0] * precision] ** 2
    smallest = variances[fewest(variances, variance) - 1]
    return left[:, : int((variances > smallest * (1 - 1e-9)).sum())]


def correlations(a: npt.ArrayLike, b: npt.ArrayLike, variance: float | None = None) -> npt.NDArray[np.float64]:
    """Canonical correlations: cosines of the angles between the two subspaces, descending."""
    return np.sort(np.cos(scipy.linalg.subspace_angles(basis(a, variance), basis(b, variance))))[::-1]


def svcca(a: npt.ArrayLike, b: npt.ArrayLike, variance: float | None = 0.99) -> float:
    """Mean canonical correlation of the truncated activations."""
    return float(correlations(a, b, variance).mean())


def svcca_matrix(arrays: list[npt.ArrayLike], variance: float | None = 0.99) -> npt.NDArray[np.float64]:
    """SVCCA of every pair."""
    return np.array([[svcca(a, b, variance) for b in arrays] for a in arrays])


def translations(activations: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """A convolutional layer over all circular translations of its examples, flattened: (example x shift, neuron)."""
    axes = tuple(range(1, activations.ndim - 1))
    shifts = product(*(range(activations.shape[axis]) for axis in axes))
    return np.concatenate([np.roll(activations, shift, axes).reshape(len(activations), -1) for shift in shifts])
