"""Matching: each neuron of one representation to one of the other, from loadings, spectra and the coupling alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.optimize

from dask_svcca.kernels.transport import transport_plan
from dask_svcca.measures.record import Measure, PairTotals, Totals
from dask_svcca.measures.shape import over_deviations

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack

MOST_NEURONS: Final = 1024
"""Neurons of a layer that are matched: the assignment takes time with their cube, a tenth of a second here."""

CONSTANT: Final = 1e-12
"""Times the largest deviation, below which that of a neuron is rounding: directions are of 1e-10 of it at least."""

_LIVE: Final = "Neurons that do not vary are left out"

_MATCHED: Final = (
    f"(SciPy's linear_sum_assignment; up to {MOST_NEURONS:,} neurons). NaN of convolutional layers at several "
    "frequencies, conv='dft'"
)


def _of_neurons(pairs: PairStack, score: Callable[[FloatArray, FloatArray, FloatArray], float]) -> FloatArray:
    """A number of each pair, from the cross-covariance of its neurons and the deviations of both, (pair,)."""
    found = np.zeros(len(pairs.coupling))
    # Of layers under the DFT there is no value in the end, see `_of_one_block`.
    if pairs.coupling.dtype.kind == "c":
        return found
    for place, (a, b) in enumerate(zip(pairs.a.member, pairs.b.member, strict=True)):
        neurons = [
            side.loadings[int(member)] * np.sqrt(side.spectrum[place]) for side, member in ((pairs.a, a), (pairs.b, b))
        ]
        deviations = [np.sqrt(np.einsum("nk,nk->n", one, one)) for one in neurons]
        found[place] = score(neurons[0] @ pairs.coupling[place] @ neurons[1].T, *deviations)
    return found


def _correlations(covariance: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """Of the neurons that vary: that of a constant one is not defined, and it has no part in a match."""
    live = [one > CONSTANT * one.max() for one in (a, b)]
    return np.asarray(covariance[np.ix_(*live)] / np.outer(a[live[0]], b[live[1]]))


def _hard(covariance: FloatArray, a: FloatArray, b: FloatArray) -> float:
    correlations = _correlations(covariance, a, b)
    return float(correlations[scipy.optimize.linear_sum_assignment(correlations, maximize=True)].mean())


def _soft(covariance: FloatArray, a: FloatArray, b: FloatArray) -> float:
    correlations = _correlations(covariance, a, b)
    return float(correlations.max(axis=0).mean() + correlations.max(axis=1).mean()) / 2


def _transported(covariance: FloatArray, a: FloatArray, b: FloatArray) -> float:
    correlations = _correlations(covariance, a, b)
    return float((transport_plan(correlations) * correlations).sum())


def _permuted(covariance: FloatArray, _a: FloatArray, _b: FloatArray) -> float:
    return float(covariance[scipy.optimize.linear_sum_assignment(covariance, maximize=True)].sum())


def _of_one_block(values: FloatArray, pairs: PairTotals) -> FloatArray:
    return np.asarray(values if pairs.translations == 1 else np.full(values.shape, np.nan))


def _the_score(sums: FloatArray, _a: Totals, _b: Totals, pairs: PairTotals) -> FloatArray:
    return _of_one_block(sums[..., 0], pairs)


def _over_deviations(sums: FloatArray, a: Totals, b: Totals, pairs: PairTotals) -> FloatArray:
    return _of_one_block(over_deviations(sums, a, b, pairs), pairs)


_COMMON: Final = {
    "needs": frozenset({"spectrum", "loadings"}),
    "valid_range": (-1.0, 1.0),
    "readings": frozenset({"positions", "mean", "flatten"}),
    "most_neurons": MOST_NEURONS,
}

MEASURES: Final = (
    Measure(
        name="hard_correlation_match",
        version="2",
        description="mean correlation of neurons that are matched one to one so that it is greatest; of the layer with "
        f"more neurons the rest is left out {_MATCHED}. {_LIVE}",
        sums=partial(_of_neurons, score=_hard),
        value=_the_score,
        invariances=("translation", "scaling and permutation of neurons"),
        reference="Li et al. (2015), Convergent learning: do different neural networks learn the same "
        "representations?, ICLR workshop",
        **_COMMON,  # type: ignore[arg-type]
    ),
    Measure(
        name="soft_correlation_match",
        version="2",
        description="mean correlation of each neuron with the one of the other layer that it correlates with most, "
        f"mean of both directions. NaN of convolutional layers at several frequencies, conv='dft'. {_LIVE}",
        sums=partial(_of_neurons, score=_soft),
        value=_the_score,
        invariances=("translation", "scaling and permutation of neurons"),
        reference="Li et al. (2015), Convergent learning, ICLR workshop; as in Klabunde et al. (2025), ReSi, ICLR",
        **_COMMON,  # type: ignore[arg-type]
    ),
    Measure(
        name="soft_matching",
        version="2",
        description="mean correlation of neurons under the plan that shares out the neurons of one layer over those "
        "of the other so that it is greatest, all of a layer with equal weight, also of layers of unequal widths; of "
        f"equal widths it is hard_correlation_match. The soft matching distance of neurons of variance 1 is sqrt(2 - 2 "
        f"soft_matching) {_MATCHED.replace('linear_sum_assignment', 'linear_sum_assignment, or linprog')}. {_LIVE}",
        sums=partial(_of_neurons, score=_transported),
        value=_the_score,
        invariances=("translation", "scaling and permutation of neurons"),
        reference="Khosla and Williams (2024), Soft matching distance: a metric on neural representations that "
        "captures single-neuron tuning, UniReps",
        **_COMMON,  # type: ignore[arg-type]
    ),
    Measure(
        name="permutation_procrustes",
        version="1",
        description="procrustes with permutations of neurons in place of rotations: the largest sum of covariances of "
        f"neurons that are matched one to one, over |S_a| |S_b| {_MATCHED}",
        sums=partial(_of_neurons, score=_permuted),
        value=_over_deviations,
        invariances=("translation", "isotropic scaling", "permutation of neurons"),
        reference="Williams et al. (2021), Generalized shape metrics on neural representations, NeurIPS",
        **_COMMON,  # type: ignore[arg-type]
    ),
)
