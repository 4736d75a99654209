"""References: numbers to read other measures by, such as what chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.kernels.chance import (
    expected_correlation,
    significant_correlations,
    significant_of_sizes,
    spurious_correlations,
)
from dask_svcca.measures.common import LEVERAGES, SPECTRUM, over_geometric_mean, over_mean_rank, sum_of_squares
from dask_svcca.measures.record import Measure, PairTotals, Totals

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack


LEVEL: Final = 0.05
"""Of a pair's test for any correlation that is more than chance."""


def _expected_correlations(pairs: PairStack) -> FloatArray:
    return pairs.of_sizes(lambda k, l: min(k, l) * expected_correlation(k, l, pairs.degrees))


def _significant(pairs: PairStack) -> FloatArray:
    level = LEVEL / np.maximum(1 if pairs.blocks is None else pairs.blocks, 1)
    # Where nobody knows the samples, extreme ones cannot be told.
    overlap: FloatArray | float = 1.0
    if pairs.overlap is not None:
        overlap = pairs.overlap * pairs.samples / pairs.of_sizes(lambda k, l: max(1, k * l))
    if pairs.sizes is not None:
        counts = significant_of_sizes(
            pairs.correlations, pairs.sizes, pairs.degrees, level=level, overlap=overlap, many=pairs.many
        )
    else:
        counts = significant_correlations(
            pairs.correlations,
            *pairs.shape[1:],
            pairs.degrees,
            is_complex=pairs.is_complex,
            level=level,
            overlap=overlap,
            many=pairs.many,
        )
    return counts.astype(np.float64)


def _spurious(pairs: PairStack) -> FloatArray:
    return pairs.of_sizes(lambda k, l: spurious_correlations(k, l, pairs.degrees))


def _overlap(pairs: PairStack) -> FloatArray:
    return np.full(pairs.shape[0], np.nan) if pairs.overlap is None else pairs.overlap


def _expected_overlap(pairs: PairStack) -> FloatArray:
    return pairs.of_sizes(lambda k, l: k * l / max(1, pairs.samples))


def _expected_cross_covariance(pairs: PairStack) -> FloatArray:
    return np.asarray(pairs.a.spectrum.sum(axis=-1) * pairs.b.spectrum.sum(axis=-1) / pairs.degrees)


def _the_sum(sums: FloatArray, _a: Totals, _b: Totals, _: PairTotals) -> FloatArray:
    return sums[..., 0]


MEASURES: Final = (
    Measure(
        name="null_svcca",
        takes_sizes=True,
        few_values=True,
        version="1",
        description="svcca expected of independent representations of these ranks: Wachter's law",
        sums=_expected_correlations,
        directions="kept",
        reference="Wachter (1980), Annals of Statistics 8",
        role="reference",
    ),
    Measure(
        name="null_whitened_procrustes",
        takes_sizes=True,
        few_values=True,
        version="1",
        description="whitened_procrustes expected of independent representations of these ranks: Wachter's law",
        sums=_expected_correlations,
        value=over_mean_rank,
        directions="kept",
        reference="Wachter (1980), Annals of Statistics 8",
        role="reference",
    ),
    Measure(
        name="null_cca",
        takes_sizes=True,
        few_values=True,
        version="1",
        description="cca expected of independent representations of these ranks: Wachter's law",
        sums=_expected_correlations,
        reference="Wachter (1980), Annals of Statistics 8",
        role="reference",
    ),
    Measure(
        name="significant",
        takes_sizes=True,
        few_values=True,
        version="2",
        description="correlations that are more than chance, at level 0.05 for finding any: Pillai's trace of those "
        "that remain, Lawley's correction, times leverage_overlap where that is more than chance gives. With "
        "conv='dft' the level is divided by the spatial frequencies at which both layers keep directions",
        sums=_significant,
        value=_the_sum,
        directions="kept",
        needs=LEVERAGES,
        valid_range=(0.0, np.inf),
        reference="Pillai (1955), Annals of Mathematical Statistics 26; Lawley (1959), Biometrika 46",
        role="reference",
    ),
    Measure(
        name="leverage_overlap",
        takes_sizes=True,
        version="1",
        description="sum over the samples of the products of both leverages: squared norms of the whitened scores in "
        "the kept directions. Far above null_leverage_overlap a few samples are extreme in both: shuffled ones are no "
        "fair null then",
        sums=_overlap,
        value=_the_sum,
        directions="kept",
        needs=LEVERAGES,
        valid_range=(0.0, np.inf),
        reference="Hoaglin and Welsch (1978), The hat matrix in regression and ANOVA, The American Statistician 32",
        null="null_leverage_overlap",
        role="reference",
    ),
    Measure(
        name="null_leverage_overlap",
        takes_sizes=True,
        few_values=True,
        version="1",
        description="leverage_overlap of unrelated samples: k l / n",
        sums=_expected_overlap,
        value=_the_sum,
        directions="kept",
        valid_range=(0.0, np.inf),
        reference="mean over all orders of the samples of one side",
        role="reference",
    ),
    Measure(
        name="spurious",
        takes_sizes=True,
        few_values=True,
        version="1",
        description="correlations of svcca that are 1 whatever the data, since samples are too few",
        sums=_spurious,
        value=_the_sum,
        directions="kept",
        valid_range=(0.0, np.inf),
        reference="two subspaces of dimensions k and l in one of dimension d meet in k + l - d",
        role="reference",
    ),
    Measure(
        name="spurious_cca",
        takes_sizes=True,
        few_values=True,
        version="1",
        description="correlations of cca that are 1 whatever the data, since samples are too few",
        sums=_spurious,
        value=_the_sum,
        valid_range=(0.0, np.inf),
        reference="two subspaces of dimensions k and l in one of dimension d meet in k + l - d",
        role="reference",
    ),
    Measure(
        name="null_cka",
        takes_sizes=True,
        version="1",
        description="cka expected of independent representations of these spectra",
        sums=_expected_cross_covariance,
        value=over_geometric_mean,
        own=sum_of_squares,
        needs=SPECTRUM,
        looks_at="kernels",
        reference="mean of the linear CKA over all permutations of the samples of one side",
        role="reference",
    ),
)
