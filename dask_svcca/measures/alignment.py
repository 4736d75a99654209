"""Alignment of covariances: kernels, and partial least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.measures.common import ORTHOGONAL, SPECTRUM, nuclear_norm, over_geometric_mean, ratio, sum_of_squares
from dask_svcca.measures.record import Measure, PairTotals, Totals

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack


def _cross_covariance_norm(pairs: PairStack) -> FloatArray:
    return pairs.squared_norm


def _partial_least_squares(pairs: PairStack) -> FloatArray:
    count = min(pairs.shape[1:])
    most = np.sqrt(pairs.a.spectrum[:, :count] * pairs.b.spectrum[:, :count]).sum(axis=-1)
    return np.stack([nuclear_norm(pairs), most], axis=-1)


_CANCELLED = 1e-5
"""Share of its terms below which a difference, of scores in single precision, is rounding to 1 % or more."""


def _debiased(sums: FloatArray, a: Totals, b: Totals, pairs: PairTotals) -> FloatArray:
    times = pairs.translations
    count = pairs.samples * times
    if count < 4:
        return np.full(sums.shape[:2], np.nan)

    def unbiased(cross: FloatArray, norms: FloatArray, variances: FloatArray) -> FloatArray:
        return np.asarray(
            times**2 * cross
            - times * norms * (count / (count - 2))
            + times**2 * variances / ((count - 1) * (count - 2))
        )

    def norm(side: Totals) -> FloatArray:
        # For samples that are orthogonal to one another, as they are or translated, only rounding is left.
        estimate = unbiased(side.own, side.squared_row_norms, side.variance**2)
        return np.where(estimate > _CANCELLED * times**2 * side.own, estimate, np.nan)

    cross = unbiased(sums[..., 0], pairs.row_norms, a.variance * b.variance)
    # Cropped layers without variance at the frequencies they share have a similarity of zero.
    return np.where(a.variance * b.variance > 0, np.clip(cross / np.sqrt(norm(a)) / np.sqrt(norm(b)), -1.0, 1.0), 0.0)


MEASURES: Final = (
    Measure(
        name="cka",
        takes_sizes=True,
        version="1",
        description="linear centred kernel alignment: |S_a C S_b|**2 / (|S_a**2| |S_b**2|)",
        sums=_cross_covariance_norm,
        value=over_geometric_mean,
        own=sum_of_squares,
        needs=SPECTRUM,
        looks_at="kernels",
        invariances=ORTHOGONAL,
        reference="Kornblith et al. (2019), Similarity of neural network representations revisited, ICML, eq. 4",
        readings=frozenset({"flatten"}),
        companions=("null_cka", "null_cka_sd", "p_cka", "calibrated_cka"),
        null="null_cka",
        null_sd="null_cka_sd",
        p_value="p_cka",
        calibrated="calibrated_cka",
    ),
    Measure(
        name="cka_debiased",
        takes_sizes=True,
        version="1",
        description="linear centred kernel alignment from unbiased estimates: 0 on average for "
        "independent representations of independent samples, which translations (conv='dft') or positions of one "
        "example are not. NaN with fewer than four samples, or where all are orthogonal to one another",
        sums=_cross_covariance_norm,
        value=_debiased,
        own=sum_of_squares,
        needs=frozenset({"spectrum", "row_norms"}),
        looks_at="kernels",
        valid_range=(-1.0, 1.0),
        invariances=ORTHOGONAL,
        reference="Song et al. (2012), Feature selection via dependence maximization, JMLR 13, eq. 4",
        readings=frozenset({"flatten"}),
    ),
    Measure(
        name="pls",
        version="1",
        description="covariance of the partial least squares directions over the most that such spectra allow: "
        "|S_a C S_b|_* / sum(s_a s_b)",
        sums=_partial_least_squares,
        value=ratio,
        components=2,
        needs=SPECTRUM,
        invariances=ORTHOGONAL,
        reference="Wold (1985), Partial least squares; the bound is von Neumann's trace inequality",
    ),
)
