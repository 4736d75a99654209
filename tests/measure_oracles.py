"""Every measure from its definition on raw arrays, by other formulas than the package's: slow, and obvious."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from oracles import correlations, translations

if TYPE_CHECKING:
    import numpy.typing as npt

Matrix = "npt.NDArray[np.float64]"
LAMBDA, ALPHA = 0.01, 0.5


def measures(x: Matrix, y: Matrix) -> dict[str, float]:
    """All measures of two sets of samples, (sample, neuron), at their full numerical rank."""
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    return {
        "cca": float(correlations(x, y).mean()),
        "r2_cca": r2_cca(a, b),
        "pwcca": pwcca(a, b),
        "cka": cka(a @ a.T, b @ b.T),
        "cka_debiased": cka_debiased(x @ x.T, y @ y.T),
        "procrustes": scipy.linalg.orthogonal_procrustes(*same_width(a, b))[1]
        / (np.linalg.norm(a) * np.linalg.norm(b)),
        "linear_regression": 1 - residual(a, b) / np.linalg.norm(a) ** 2,
        "pls": np.linalg.norm(a.T @ b, "nuc") / bound(a, b),
        "gulp": gulp(a, b, LAMBDA),
        "partial_procrustes": partial_procrustes(a, b, ALPHA),
    }


def whitened(x: Matrix) -> Matrix:
    """Orthonormal basis of the columns of centred samples, without directions of rounding noise."""
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    return left[:, singular > 1e-6 * singular[0]]


def same_width(a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """Padded with constant neurons."""
    width = max(a.shape[1], b.shape[1])
    return tuple(np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (a, b))


def r2_cca(a: Matrix, b: Matrix) -> float:
    """By the projectors on both subspaces (Kornblith et al. 2019, eq. 12)."""
    p, q = whitened(a), whitened(b)
    return float(np.trace(p @ p.T @ q @ q.T) / min(p.shape[1], q.shape[1]))


def pwcca(a: Matrix, b: Matrix) -> float:
    """By canonical variates and their inner products with the neurons of a (Morcos et al. 2018, eq. 3)."""
    p, q = whitened(a), whitened(b)
    vectors, found, _ = np.linalg.svd(p.conj().T @ q, full_matrices=False)
    weights = np.abs((p @ vectors).conj().T @ a).sum(axis=1)
    return float(weights @ found / weights.sum())


def cka(gram_a: Matrix, gram_b: Matrix) -> float:
    return float((gram_a * gram_b).sum() / np.sqrt((gram_a**2).sum() * (gram_b**2).sum()))


def cka_debiased(gram_a: Matrix, gram_b: Matrix) -> float:
    """By U-centring (Székely and Rizzo 2014), which takes no notice of the diagonals."""
    n = len(gram_a)

    def centred(gram: Matrix) -> Matrix:
        off = gram * (1 - np.eye(n))
        rows = off.sum(axis=0) / (n - 2)
        return (off - rows - rows[:, np.newaxis] + off.sum() / ((n - 1) * (n - 2))) * (1 - np.eye(n))

    return cka(centred(gram_a), centred(gram_b))


def residual(a: Matrix, b: Matrix) -> float:
    """What a least-squares prediction of a from b leaves."""
    return float(np.linalg.norm(a - b @ np.linalg.lstsq(b, a)[0]) ** 2)


def bound(a: Matrix, b: Matrix) -> float:
    """Most covariance that directions of these variances can have: von Neumann's trace inequality."""
    singular = (np.linalg.svd(x, compute_uv=False) for x in (a, b))
    return float(sum(s * t for s, t in zip(*singular, strict=False)))


def gulp(a: Matrix, b: Matrix, lam: float) -> float:
    """By regularised inverses of the covariances (Boix-Adsera et al. 2022, section 3)."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    inverse_a, inverse_b = (np.linalg.inv(x.T @ x + lam * np.eye(x.shape[1])) for x in (a, b))
    own = [np.trace(inverse @ x.T @ x @ inverse @ x.T @ x) for inverse, x in ((inverse_a, a), (inverse_b, b))]
    return float(np.sqrt(max(0.0, sum(own) - 2 * np.trace(inverse_a @ a.T @ b @ inverse_b @ b.T @ a))))


def partial_procrustes(a: Matrix, b: Matrix, alpha: float) -> float:
    """By X (alpha I + (1 - alpha) (X'X)^-1/2), at a mean variance of one a direction (Williams et al. 2021, eq. 9)."""

    def partly(x: Matrix) -> Matrix:
        left, singular, right = np.linalg.svd(x, full_matrices=False)
        rank = int((singular > 1e-6 * singular[0]).sum())
        x = x / np.sqrt((singular**2).sum() / rank)
        root = (left[:, :rank] @ right[:rank]).conj()
        return alpha * x + (1 - alpha) * root.conj()

    a, b = partly(a), partly(b)
    return float(np.linalg.norm(a.T @ b, "nuc") / (np.linalg.norm(a) * np.linalg.norm(b)))


def augmented(*layers: Matrix) -> list[Matrix]:
    """All circular translations of the examples, flattened; of a dense layer, the same example each time."""
    times = max(int(np.prod(layer.shape[1:-1])) for layer in layers)
    return [translations(layer) if layer.ndim > 2 else np.tile(layer, (times, 1)) for layer in layers]


def low_passed(layer: Matrix, sizes: tuple[int, ...]) -> Matrix:
    """A layer on a smaller grid of odd sizes, by the frequencies that this has."""
    axes = tuple(range(1, layer.ndim - 1))
    spectrum = np.fft.fftn(layer, axes=axes, norm="ortho")
    for axis, size in zip(axes, sizes, strict=True):
        spectrum = spectrum.take(np.fft.fftfreq(size, 1 / size).astype(int), axis=axis)
    found = np.fft.ifftn(spectrum, axes=axes, norm="ortho")
    np.testing.assert_allclose(found.imag, 0, rtol=0, atol=1e-12)
    return found.real


def split(layer: Matrix, sizes: tuple[int, ...]) -> list[npt.NDArray[np.complex128]]:
    """A layer at each signed frequency of the full plane of a grid, (sample, neuron); the zero frequency centred."""
    axes = tuple(range(1, layer.ndim - 1))
    spectrum = np.fft.fftn(layer, axes=axes, norm="ortho")
    spectrum[(slice(None), *[0] * len(axes))] -= spectrum[(slice(None), *[0] * len(axes))].mean(axis=0)
    frequencies = product(*(range(-(size // 2), (size + 1) // 2) for size in sizes))
    return [spectrum[(slice(None), *frequency)] for frequency in frequencies]


def by_frequency(x: Matrix, y: Matrix) -> dict[str, float]:
    """Projection-weighted CCA and PLS as defined for convolutional layers: sums over the frequencies that both have."""
    sizes = tuple(map(min, x.shape[1:-1], y.shape[1:-1]))
    weighted = weight = covariance = most = 0.0
    for a, b in zip(split(x, sizes), split(y, sizes), strict=True):
        p, q = whitened(a), whitened(b)
        vectors, found, _ = np.linalg.svd(p.conj().T @ q, full_matrices=False)
        weights = np.abs((p @ vectors).conj().T @ a).sum(axis=1)
        weighted, weight = weighted + weights @ found, weight + weights.sum()
        covariance, most = covariance + np.linalg.norm(a.conj().T @ b, "nuc"), most + bound(a, b)
    return {"pwcca": float(weighted / weight), "pls": float(covariance / most)}
