"""Regression of one representation on the other, and what regressions on both predict."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.errors import UnknownMeasureError
from dask_svcca.measures.common import ORTHOGONAL, SPECTRUM
from dask_svcca.measures.record import Family, Measure, PairTotals, Totals

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack


def _explained_variance(pairs: PairStack) -> FloatArray:
    return pairs.weighted_sum(pairs.a.spectrum)


def _over_variance_of_a(sums: FloatArray, a: Totals, _b: Totals, _: PairTotals) -> FloatArray:
    return np.asarray(sums[..., 0] / np.where(a.variance > 0, a.variance, 1))


def _ridge(spectrum: FloatArray, variance: FloatArray, lam: float) -> FloatArray:
    # Cropped layers may have no variance at the frequencies they share.
    share = spectrum / np.where(variance > 0, variance, 1)
    return np.asarray(share / (share + lam))


def _ridge_cross(pairs: PairStack, lam: float) -> FloatArray:
    a = _ridge(pairs.a.spectrum, pairs.a.variance[:, np.newaxis], lam)
    b = _ridge(pairs.b.spectrum, pairs.b.variance[:, np.newaxis], lam)
    return pairs.weighted_sum(a, b)


def _sum_of_squared_ridges(spectrum: FloatArray, weights: FloatArray, lam: float) -> float:
    return float(weights @ _ridge(spectrum, np.asarray(weights @ spectrum), lam) ** 2)


def _ridge_distance(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    """The root of what is left of three sums: in single precision right to about 1e-3 near 0, its square to 1e-6.

    What rounding leaves below 0 is 0.
    """
    return np.asarray(np.sqrt(np.maximum(a.own + b.own - 2 * sums[..., 0], 0)))


def _gulp(name: str, lam: float) -> Measure:
    if not 0 < lam < np.inf:
        raise UnknownMeasureError(f"gulp's lambda is above 0, a share of the variance; got {lam!r}")
    return Measure(
        name=name,
        version="1",
        description=f"GULP distance, largest difference of ridge predictions, lambda={lam:g} of the total variance: "
        "sqrt(|R_a|**2 + |R_b|**2 - 2 |R_a**(1/2) C R_b**(1/2)|**2), R = S**2 / (S**2 + lambda)",
        sums=partial(_ridge_cross, lam=lam),
        value=_ridge_distance,
        own=partial(_sum_of_squared_ridges, lam=lam),
        needs=SPECTRUM,
        valid_range=(0.0, np.inf),
        invariances=ORTHOGONAL,
        reference="Boix-Adsera et al. (2022), GULP: a prediction-based metric between representations, NeurIPS",
        role="distance",
    )


MEASURES: Final = (
    Measure(
        name="linear_regression",
        version="1",
        description="share of the variance of a that a linear regression on b explains: |S_a C|**2 / |S_a|**2",
        sums=_explained_variance,
        value=_over_variance_of_a,
        needs=SPECTRUM,
        invariances=("translation", "isotropic scaling", "invertible linear transformation of b"),
        reference="Kornblith et al. (2019), Similarity of neural network representations revisited, ICML, eq. 7",
        readings=frozenset({"flatten"}),
        symmetric=False,
        saturates="b",
    ),
)

FAMILIES: Final = (Family("gulp", "lambda", 0.01, _gulp),)
