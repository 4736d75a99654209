"""Canonical correlations, by their means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.measures.common import LINEAR, ORTHOGONAL, ratio, squared_correlations
from dask_svcca.measures.record import Measure

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack


def _correlations(pairs: PairStack) -> FloatArray:
    return np.asarray(pairs.correlations.sum(axis=-1))


NEURONS_AT_ONCE = 64
"""Least number of neurons whose inner products with canonical directions are formed at a time."""


def _projection_weighted(pairs: PairStack) -> FloatArray:
    vectors, correlations = pairs.canonical_vectors
    weights = np.zeros(correlations.shape)
    deviations = np.sqrt(pairs.a.spectrum)
    for member in np.unique(pairs.a.member):
        chosen = np.flatnonzero(pairs.a.member == member)
        scaled = vectors[chosen]
        scaled *= deviations[chosen][:, :, np.newaxis]
        loadings = pairs.a.loadings[int(member)]
        # As many neurons at a time as directions: their inner products take no more memory than the couplings.
        step = max(NEURONS_AT_ONCE, *pairs.coupling.shape[1:])
        for start in range(0, len(loadings), step):
            # Inner products of neurons and canonical directions, V S u, without any sample.
            products = loadings[start : start + step] @ scaled
            magnitudes = np.abs(products, out=products) if products.dtype.kind == "f" else np.abs(products)
            weights[chosen] += magnitudes.sum(axis=1)
            del products, magnitudes
    return np.stack([(weights * correlations).sum(axis=-1), weights.sum(axis=-1)], axis=-1)


MEASURES: Final = (
    Measure(
        name="svcca",
        version="1",
        description="mean canonical correlation of the directions that explain most variance: sum(r) / min(k, l)",
        sums=_correlations,
        directions="kept",
        invariances=ORTHOGONAL,
        reference="Raghu et al. (2017), SVCCA: Singular Vector Canonical Correlation Analysis, NeurIPS",
        saturates="either",
        companions=("null_svcca", "null_svcca_sd", "p_svcca", "calibrated_svcca", "significant", "spurious"),
        null="null_svcca",
        null_sd="null_svcca_sd",
        p_value="p_svcca",
        calibrated="calibrated_svcca",
    ),
    Measure(
        name="cca",
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
)
