"""SVCCA's first step: the fewest directions that explain a share of the variance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, IntArray

EQUAL = 1e-6
"""Relative difference of two eigenvalues up to which they are equal to rounding, of values in single precision.

Of values in double precision too: a threshold is not to keep other directions because of how they were stored.
"""


def leading_directions(
    spectrum: FloatArray, weights: IntArray, variance: float | None, total: float | None = None
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Fewest directions that explain at least a share of the variance, and those equal to the last of them.

    Which of several equal directions comes first is an accident of the eigensolver: they stay together.

    Parameters
    ----------
    spectrum, weights : (direction,)
        Variance of a direction, and how often it counts.
    variance : float or None
        Share of the sum, in (0, 1]. None keeps all.
    total : float, optional
        The sum, where there are directions beyond these.

    Returns
    -------
    (direction,)
        Boolean.

    References
    ----------
    Raghu et al. (2017), SVCCA, section 2.1, step 1.

    Examples
    --------
    >>> leading_directions(np.array([1.0, 6.0, 3.0]), np.ones(3, int), 0.8)
    array([False,  True,  True])
    >>> leading_directions(np.array([6.0, 2.0, 2.0]), np.ones(3, int), 0.8)
    array([ True,  True,  True])
    """
    if variance is None or not len(spectrum):
        return np.ones(len(spectrum), dtype=np.bool_)
    # Those of one block are in order already.
    ordered = bool((spectrum[1:] <= spectrum[:-1]).all())
    order = slice(None) if ordered else np.argsort(-spectrum, kind="stable")
    explained = (spectrum * weights)[order].cumsum()
    least = spectrum[order][fewest(explained, variance, explained[-1] if total is None else total) - 1]
    return np.asarray(spectrum >= least - EQUAL * abs(least))


def fewest(explained: FloatArray, share: float, total: float) -> int:
    """How many directions explain at least a share of the total; all where these do not.

    Parameters
    ----------
    explained : (direction,)
        Sums of the variances of a direction and those before it.
    share, total : float

    Examples
    --------
    >>> fewest(np.array([6.0, 9.0, 10.0]), 0.8, 10.0)
    2
    """
    # A hair below the threshold counts as reached, so that variance=1.0 does not depend on the last bit of a sum.
    return min(int(explained.searchsorted(share * total * (1 - 1e-12))) + 1, len(explained))
