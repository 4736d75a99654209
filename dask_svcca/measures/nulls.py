"""What a pair scores over all orders of the examples: standard deviation, p-value, and what is above chance.

All follow from a few numbers of each layer. Where a pair is compared at several frequencies, or a sample is a part of
an example, orders of the samples are not orders of the examples: standard deviations and p-values are NaN there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.kernels.orders import (
    KernelSums,
    chance_of,
    moments_over_orders,
    no_rarer_than_one_order,
    spread_of_correlations,
)
from dask_svcca.measures.common import expected_squares, squared_correlations, sum_of_squares
from dask_svcca.measures.record import Derived, Measure, Need, PairTotals, Totals, over_smaller_rank

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack

DIAGONAL: Final[frozenset[Need]] = frozenset({"diagonal"})
OF_KERNELS: Final[frozenset[Need]] = frozenset({"spectrum", "diagonal"})

ORDERS: Final = (
    "Kazi-Aoual et al. (1995), Refined approximations to permutation tests for multivariate inference, "
    "Computational Statistics and Data Analysis 20"
)

LEAST_ROOM: Final = 1e-9
"""Between chance and 1, for a value above chance to mean something."""


def _over_orders(a: Totals, b: Totals, pairs: PairTotals) -> tuple[FloatArray, FloatArray]:
    sums_a, sums_b = (KernelSums(side.trace, side.squares, side.diagonal) for side in (a, b))
    return moments_over_orders(sums_a, sums_b, pairs.samples)


def _in_units(side: Totals) -> KernelSums:
    norms = np.where(side.own > 0, side.own, 1)
    return KernelSums(side.trace / np.sqrt(norms), side.squares / norms, side.diagonal / norms)


def _deviation_over_norms(sums: FloatArray, a: Totals, b: Totals, pairs: PairTotals) -> FloatArray:
    # Over the norms beforehand: products of squares of both sides leave the range of doubles long before they do.
    _, variance = moments_over_orders(_in_units(a), _in_units(b), pairs.samples)
    return np.asarray(sums[..., 0] * np.sqrt(variance))


def _deviation_over_rank(sums: FloatArray, a: Totals, b: Totals, pairs: PairTotals) -> FloatArray:
    _, variance = _over_orders(a, b, pairs)
    return over_smaller_rank(sums * np.sqrt(variance)[..., np.newaxis], a, b, pairs)


def _chance(sums: FloatArray, a: Totals, b: Totals, pairs: PairTotals) -> FloatArray:
    return no_rarer_than_one_order(chance_of(sums[..., 0], *_over_orders(a, b, pairs)), pairs.samples)


def chance_of_score(score: FloatArray, null: FloatArray, deviation: FloatArray) -> FloatArray:
    """How often an order of the examples scores as much, from mean and standard deviation over all of them."""
    return chance_of(score, null, np.square(deviation))


def above_chance(score: FloatArray, null: FloatArray) -> FloatArray:
    """What is above chance, as a share of what could be; NaN where chance gives 1."""
    room = 1 - null
    return np.asarray(np.where(room > LEAST_ROOM, (score - null) / np.where(room > LEAST_ROOM, room, 1), np.nan))


def _one(pairs: PairStack) -> FloatArray:
    return np.ones(pairs.shape[0])


def _spread(pairs: PairStack) -> FloatArray:
    return pairs.of_sizes(lambda k, l: spread_of_correlations(k, l, pairs.degrees))


_P_VALUE: Final = (
    "share of all orders of the examples that score as much: by the gamma distribution of their mean and variance, and "
    "not below 1 / n!. NaN at several frequencies, or where a sample is a part of an example"
)
_DEVIATION: Final = "standard deviation of {} over all orders of the examples: NaN where p_{} is"


MEASURES: Final = (
    Measure(
        name="null_cka_sd",
        takes_sizes=True,
        version="1",
        description=_DEVIATION.format("cka", "cka"),
        sums=_one,
        value=_deviation_over_norms,
        own=sum_of_squares,
        needs=OF_KERNELS,
        looks_at="kernels",
        valid_range=(0.0, np.inf),
        reference=ORDERS,
        role="reference",
    ),
    Measure(
        name="null_r2_cca",
        takes_sizes=True,
        few_values=True,
        version="1",
        description="r2_cca over all orders of the examples: k l / (n - 1) / min(k, l)",
        sums=expected_squares,
        reference=ORDERS,
        role="reference",
    ),
    Measure(
        name="null_r2_cca_sd",
        takes_sizes=True,
        version="1",
        description=_DEVIATION.format("r2_cca", "r2_cca"),
        sums=_one,
        value=_deviation_over_rank,
        needs=DIAGONAL,
        valid_range=(0.0, np.inf),
        reference=ORDERS,
        role="reference",
    ),
    Measure(
        name="null_svcca_sd",
        takes_sizes=True,
        version="1",
        description=f"{_DEVIATION.format('svcca', 'svcca')}. That of the squared correlations, times how much "
        "correlations vary beside their squares in Gaussian layers: too large, by up to 38 %, for few directions of "
        "heavy-tailed layers",
        sums=_spread,
        value=_deviation_over_rank,
        directions="kept",
        needs=DIAGONAL,
        valid_range=(0.0, np.inf),
        reference=f"{ORDERS}; Johansson (1998), Duke Mathematical Journal 91",
        role="reference",
    ),
    Measure(
        name="p_svcca",
        takes_sizes=True,
        version="2",
        description=_P_VALUE.replace("score as much:", "score as much in squared correlations of svcca:"),
        sums=squared_correlations,
        value=_chance,
        directions="kept",
        needs=DIAGONAL,
        reference=ORDERS,
        role="reference",
    ),
)


def _p_value(measure: str) -> Derived:
    parents = measure, f"null_{measure}", f"null_{measure}_sd"
    return Derived(f"p_{measure}", _P_VALUE, parents, chance_of_score, (0.0, 1.0), ORDERS, of_orders=True)


def _calibrated(measure: str) -> Derived:
    return Derived(
        f"calibrated_{measure}",
        f"{measure} above what chance gives: ({measure} - null_{measure}) / (1 - null_{measure}); NaN where that is 1",
        (measure, f"null_{measure}"),
        above_chance,
        (-np.inf, 1.0),
        "as Cohen's kappa: Cohen (1960), Educational and Psychological Measurement 20",
    )


DERIVED: Final = (*map(_p_value, ("cka", "r2_cca")), *map(_calibrated, ("svcca", "cka", "r2_cca")))
