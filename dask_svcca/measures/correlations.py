"""Canonical correlations, by their means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.measures.common import LINEAR, ORTHOGONAL, expected_squares, over_mean_rank, ratio, squared_correlations
from dask_svcca.measures.record import Measure, PairTotals, Totals

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack


def _correlations(pairs: PairStack) -> FloatArray:
    return pairs.correlation_sum


def _squares_and_expected(pairs: PairStack) -> FloatArray:
    return np.stack([squared_correlations(pairs), expected_squares(pairs)], axis=-1)


def _above_expected(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    most = np.minimum(a.rank, b.rank)
    room = most - sums[..., 1]
    # Where samples fix all correlations, nothing is left once chance is taken off.
    known = room > LEAST_ROOM * most
    above = np.where(known, (sums[..., 0] - sums[..., 1]) / np.where(known, room, 1), np.nan)
    # Cropped layers may keep nothing at the frequencies they share: a similarity of zero.
    return np.asarray(np.where(most > 0, above, 0.0))


LEAST_ROOM = 1e-9
"""Between what chance gives and 1, for a value above chance to mean something."""


def _projection_weighted(pairs: PairStack) -> FloatArray:
    weights, correlations = pairs.neuron_weights
    return np.stack([(weights * correlations).sum(axis=-1), weights.sum(axis=-1)], axis=-1)


MEASURES: Final = (
    Measure(
        name="svcca",
        takes_sizes=True,
        version="1",
        description="mean canonical correlation of the directions that explain most variance: sum(r) / min(k, l)",
        sums=_correlations,
        directions="kept",
        invariances=ORTHOGONAL,
        reference="Raghu et al. (2017), SVCCA: Singular Vector Canonical Correlation Analysis, NeurIPS",
        saturates="either",
        companions=(
            "null_svcca",
            "null_svcca_sd",
            "p_svcca",
            "calibrated_svcca",
            "significant",
            "spurious",
            "leverage_overlap",
            "null_leverage_overlap",
        ),
        null="null_svcca",
        null_sd="null_svcca_sd",
        p_value="p_svcca",
        calibrated="calibrated_svcca",
    ),
    Measure(
        name="whitened_procrustes",
        takes_sizes=True,
        version="1",
        description="correlations of svcca over the geometric mean of the ranks: sum(r) / sqrt(k l). Unlike by svcca, "
        "a layer of few directions that is contained in a larger one is not the same as it",
        sums=_correlations,
        value=over_mean_rank,
        directions="kept",
        invariances=ORTHOGONAL,
        reference="Williams et al. (2021), Generalized shape metrics on neural representations, NeurIPS: the cosine "
        "of their angle, of whitened layers",
        saturates="either",
        companions=("null_whitened_procrustes", "spurious"),
        null="null_whitened_procrustes",
    ),
    Measure(
        name="cca",
        takes_sizes=True,
        version="1",
        description="mean canonical correlation: sum(r) / min(k, l)",
        sums=_correlations,
        invariances=LINEAR,
        reference="Hotelling (1936), Relations between two sets of variates, Biometrika 28",
        saturates="either",
        companions=("null_cca", "spurious_cca"),
        null="null_cca",
    ),
    Measure(
        name="pwcca",
        version="1",
        description="canonical correlations weighted by how much of a's neurons x_j their directions h account for: "
        "sum(w r) / sum(w), w = sum_j |<h, x_j>|",
        sums=_projection_weighted,
        value=ratio,
        components=2,
        needs=frozenset({"spectrum", "loadings"}),
        invariances=("translation", "isotropic scaling", "invertible linear transformation of b"),
        reference="Morcos, Raghu and Bengio (2018), Insights on representational similarity, NeurIPS, eq. 3",
        symmetric=False,
        saturates="either",
        companions=("spurious_cca",),
    ),
    Measure(
        name="r2_cca",
        takes_sizes=True,
        version="1",
        description="mean squared canonical correlation: sum(r**2) / min(k, l)",
        sums=squared_correlations,
        invariances=LINEAR,
        reference="Kornblith et al. (2019), Similarity of neural network representations revisited, ICML, table 1",
        readings=frozenset({"flatten"}),
        saturates="either",
        companions=("null_r2_cca", "null_r2_cca_sd", "p_r2_cca", "calibrated_r2_cca", "spurious_cca"),
        null="null_r2_cca",
        null_sd="null_r2_cca_sd",
        p_value="p_r2_cca",
        calibrated="calibrated_r2_cca",
    ),
    Measure(
        name="r2_cca_adjusted",
        takes_sizes=True,
        version="1",
        description="r2_cca without what chance gives: (sum(r**2) - k l / (n - 1)) / (min(k, l) - k l / (n - 1)), 0 on "
        "average for independent representations. NaN where samples fix all correlations",
        sums=_squares_and_expected,
        value=_above_expected,
        components=2,
        valid_range=(-np.inf, 1.0),
        invariances=LINEAR,
        reference="for one direction the adjusted R2 of Ezekiel (1930), Methods of correlation analysis",
        saturates="either",
        companions=("spurious_cca",),
    ),
)
