"""References: numbers to read other measures by, such as what chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.kernels.chance import expected_correlation, significant_correlations, spurious_correlations
from dask_svcca.measures.common import SPECTRUM, over_geometric_mean, sum_of_squares
from dask_svcca.measures.record import Measure, PairTotals, Totals

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack


def _expected_correlations(pairs: PairStack) -> FloatArray:
    k, l = pairs.coupling.shape[1:]
    return np.full(len(pairs.coupling), min(k, l) * expected_correlation(k, l, pairs.degrees))


def _significant(pairs: PairStack) -> FloatArray:
    k, l = pairs.coupling.shape[1:]
    counts = significant_correlations(pairs.correlations, k, l, pairs.degrees, is_complex=pairs.is_complex)
    return counts.astype(np.float64)


def _spurious(pairs: PairStack) -> FloatArray:
    k, l = pairs.coupling.shape[1:]
    return np.full(len(pairs.coupling), float(spurious_correlations(k, l, pairs.degrees)))


def _expected_cross_covariance(pairs: PairStack) -> FloatArray:
    return np.asarray(pairs.a.spectrum.sum(axis=-1) * pairs.b.spectrum.sum(axis=-1) / pairs.degrees)


def _the_sum(sums: FloatArray, _a: Totals, _b: Totals, _: PairTotals) -> FloatArray:
    return sums[..., 0]


MEASURES: Final = (
    Measure(
        name="null_svcca",
        version="1",
        description="svcca expected of independent representations of these ranks: Wachter's law",
        sums=_expected_correlations,
        directions="kept",
        reference="Wachter (1980), Annals of Statistics 8",
        role="reference",
    ),
    Measure(
        name="null_cca",
        version="1",
        description="cca expected of independent representations of these ranks: Wachter's law",
        sums=_expected_correlations,
        reference="Wachter (1980), Annals of Statistics 8",
        role="reference",
    ),
    Measure(
        name="significant",
        version="1",
        description="correlations that are more than chance: Bartlett's test, Lawley's correction, at level 0.05 (with "
        "conv='dft', at each spatial frequency)",
        sums=_significant,
        value=_the_sum,
        directions="kept",
        valid_range=(0.0, np.inf),
        reference="Bartlett (1941), Biometrika 32; Lawley (1959), Biometrika 46",
        role="reference",
    ),
    Measure(
        name="spurious",
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
