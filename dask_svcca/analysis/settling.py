"""When a layer has settled, and how sure that is: over trainings, and over the examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import scipy.special
import scipy.stats

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import BoolArray, FloatArray

SETTLED: Final = 0.1
"""How far from its final self a layer may be and count as settled."""

COVERAGE: Final = 0.95
"""How often an interval is to hold what it is of."""

ERRORS: Final = float(scipy.special.ndtri((1 + COVERAGE) / 2))
"""Standard errors on either side of a value that hold it as often."""


class Interval(NamedTuple):
    """When layers have settled, over several trainings.

    Attributes
    ----------
    median : float
        The first step by which more than half of them have settled.
    low, high : float
    coverage : float
        How often such an interval holds the median of all trainings that could have been.
    """

    median: float
    low: float
    high: float
    coverage: float


def interval_of_median(steps: FloatArray) -> Interval:
    """Median of settled steps, and the interval between two of them that holds the median of all trainings.

    It takes no more than trainings that are independent: each settles before the median with probability a half. With
    fewer than six it is from the first to the last, which is less sure than is asked for. One training has a median
    and no interval: NaN.

    Parameters
    ----------
    steps : (training,)
        NaN where one is not known: then nothing is.

    References
    ----------
    Conover (1999), Practical nonparametric statistics, section 3.2.

    Examples
    --------
    >>> interval_of_median(np.array([10.0, 40.0, 20.0]))
    Interval(median=20.0, low=10.0, high=40.0, coverage=0.75)
    >>> interval_of_median(np.arange(20.0))
    Interval(median=10.0, low=5.0, high=14.0, coverage=0.9586105346679688)
    """
    count = len(steps)
    if not count or not np.isfinite(steps).all():
        return Interval(np.nan, np.nan, np.nan, np.nan)
    ordered = np.sort(steps)
    if count == 1:
        return Interval(float(ordered[0]), np.nan, np.nan, np.nan)
    # How many on either side may be left out.
    outside = max(0, int(scipy.stats.binom.ppf((1 - COVERAGE) / 2, count, 0.5)) - 1)
    coverage = 1 - 2 * float(scipy.stats.binom.cdf(outside, count, 0.5))
    return Interval(float(ordered[count // 2]), float(ordered[outside]), float(ordered[count - 1 - outside]), coverage)


def settled_step(steps: FloatArray, within: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> float:
    """First step from which a layer stays within, up to the last that is known.

    Parameters
    ----------
    steps : (step,)
        Ascending.
    within, known : (step,) bool
        Whether the layer is near its final self, and whether it has a value.

    Returns
    -------
    float
        NaN where a value that is not known could make another step of it.

    Examples
    --------
    >>> steps, yes = np.array([0.0, 1.0, 2.0, 3.0]), np.ones(4, dtype=bool)
    >>> settled_step(steps, np.array([True, False, True, True]), yes)
    2.0
    >>> settled_step(steps, np.array([False, False, True, True]), np.array([True, False, True, True]))
    nan
    """
    if not known.any():
        return np.nan
    last = int(np.flatnonzero(known)[-1])
    outside = np.flatnonzero(known[:last] & ~within[:last])
    first = int(outside[-1]) + 1 if len(outside) else 0
    return float(steps[first]) if known[first : last + 1].all() else np.nan


def distances_to_final(own: FloatArray, sign: int) -> FloatArray:
    """How much less similar layers are to their final selves than these to themselves, (model, layer, step).

    Parameters
    ----------
    own : (model, layer, step, ...)
        Similarity to the final self; the last step that has a value is the final one.
    sign : {1, -1}
        -1 for a distance.
    """
    final = np.full((*own.shape[:2], 1, *own.shape[3:]), np.nan)
    for place in np.ndindex(own.shape[:2]):
        values = own[place].reshape(own.shape[2], -1)
        present = np.flatnonzero(np.isfinite(values).all(axis=1))
        if len(present):
            # The final checkpoint of a model need not be at the last step of all models.
            final[place] = own[place][present[-1]]
    return sign * (final - own)


def settled_steps(steps: FloatArray, apart: FloatArray, there: BoolArray, threshold: float) -> FloatArray:
    """First step from which each layer stays within a threshold of its final self, (model, layer).

    Parameters
    ----------
    steps : (step,)
    apart : (model, layer, step)
        As from `distances_to_final`; NaN where it is not known.
    there : (model, step) bool
        Whether a model has a checkpoint at a step: steps of other models leave nothing open.
    threshold : float
    """
    with np.errstate(invalid="ignore"):
        within = apart <= threshold
    settled = np.full(apart.shape[:2], np.nan)
    for place in np.ndindex(settled.shape):
        mine = there[place[0]]
        settled[place] = settled_step(steps[mine], within[place][mine], np.isfinite(apart[place][mine]))
    return settled
