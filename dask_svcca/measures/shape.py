"""Shapes: what is left of the difference after the best rotation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.errors import UnknownMeasureError
from dask_svcca.measures.common import ORTHOGONAL, SPECTRUM, nuclear_norm, over_geometric_mean
from dask_svcca.measures.record import Family, Measure, PairTotals, Totals

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack


def over_deviations(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    """The sum over the roots of the variances of both sides."""
    norms = np.sqrt(a.variance) * np.sqrt(b.variance)
    return np.asarray(sums[..., 0] / np.where(norms > 0, norms, 1))


def _partly_whitened(spectrum: FloatArray, variance: FloatArray, rank: FloatArray, alpha: float) -> FloatArray:
    mean = np.where(variance > 0, variance, 1) / np.maximum(rank, 1)
    return np.asarray(alpha * np.sqrt(spectrum / mean) + (1 - alpha))


def _partial_nuclear_norm(pairs: PairStack, alpha: float) -> FloatArray:
    a = _partly_whitened(pairs.a.spectrum, pairs.a.variance[:, np.newaxis], pairs.a.rank[:, np.newaxis], alpha)
    b = _partly_whitened(pairs.b.spectrum, pairs.b.variance[:, np.newaxis], pairs.b.rank[:, np.newaxis], alpha)
    return pairs.weighted_nuclear_norm(a, b)


def _partial_norm(spectrum: FloatArray, weights: FloatArray, alpha: float) -> float:
    whitened = _partly_whitened(spectrum, np.asarray(weights @ spectrum), np.asarray(weights.sum()), alpha)
    return float(weights @ whitened**2)


def _partial_procrustes(name: str, alpha: float) -> Measure:
    if not 0 <= alpha <= 1:
        raise UnknownMeasureError(f"partial_procrustes' alpha is from 0 (whitened) to 1 (procrustes); got {alpha!r}")
    return Measure(
        name=name,
        version="1",
        description=f"procrustes of partly whitened representations, X (alpha I + (1 - alpha) (X'X)**(-1/2)) at a mean "
        f"variance of 1 per direction: alpha={alpha:g} between whitened, 0, and procrustes, 1",
        sums=partial(_partial_nuclear_norm, alpha=alpha),
        value=over_geometric_mean,
        own=partial(_partial_norm, alpha=alpha),
        needs=SPECTRUM,
        invariances=ORTHOGONAL,
        reference="Williams et al. (2021), Generalized shape metrics on neural representations, NeurIPS",
        # Whitened, only the correlations are left.
        saturates="either" if alpha == 0 else "never",
    )


MEASURES: Final = (
    Measure(
        name="procrustes",
        version="1",
        description="nuclear norm of the cross-covariance, the cosine of the angular Procrustes distance: "
        "|S_a C S_b|_* / (|S_a| |S_b|)",
        sums=nuclear_norm,
        value=over_deviations,
        needs=SPECTRUM,
        invariances=ORTHOGONAL,
        reference="Williams et al. (2021), Generalized shape metrics on neural representations, NeurIPS",
    ),
)

FAMILIES: Final = (Family("partial_procrustes", "alpha", 0.5, _partial_procrustes),)
