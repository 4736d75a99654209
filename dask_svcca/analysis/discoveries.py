"""Which of all pairs are more alike than chance makes them, corrected for there being so many."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats

from dask_svcca.analysis.measured import as_dataset, find_name, measures_of, p_value_of
from dask_svcca.analysis.selection import not_computed
from dask_svcca.errors import InvalidQuestionError, UnknownMeasureError
from dask_svcca.kernels.orders import LEAST_SAMPLES
from dask_svcca.measures import find_measures

if TYPE_CHECKING:
    import xarray as xr

    from dask_svcca.kernels._types import BoolArray, IntArray
    from dask_svcca.stores._io import StoreLike

PAIR_DIMS = ("representation_a", "representation_b")

WITH_P_VALUES = ("svcca", "cka", "r2_cca", "mutual_knn", "rsa", "distance_correlation")
"""Measures of this package whose mean and spread over all orders of the examples are known."""


def discoveries(comparison: xr.Dataset | StoreLike, level: float = 0.05, *, measure: str | None = None) -> xr.DataArray:
    """Pairs that are more alike than shuffled examples make them: Benjamini and Hochberg's procedure over all pairs.

    All pairs of the representations count as tested, also those that were not selected or are not computed yet: a
    selection such as ``pairs="nearest 20"`` has looked at them all to find the most similar. Their p-values are taken
    as 1. To ask about fewer, pass the part of the comparison that was meant before any value was seen.

    Parameters
    ----------
    comparison : Dataset, path, zarr store, or URL
        What `compare` or `open_comparison` returned, or a part of it, or where it is.
    level : float
        Share of false discoveries among all, in expectation; between 0 and 1.
    measure : str, optional
        One with a p-value: ``svcca``, ``cka``, ``r2_cca``, ``mutual_knn``, ``rsa`` or ``distance_correlation``.
        Default: the first that the comparison was asked for.

    Returns
    -------
    xarray.DataArray
        Whether a pair is one, (representation_a, representation_b). False for a representation with itself and where
        there is no p-value. Attributes: ``measure``, ``level``, ``pairs`` (how many count as tested: each once, or in
        both directions where the measure is not symmetric, as `model_similarity` by ``best``), ``computed`` (how many
        of these have a p-value), and ``largest_p`` (the largest p-value of a discovery; NaN without any). Pairs that
        cannot have a p-value, such as those that are not comparable, do not count.

    Raises
    ------
    UnknownMeasureError
    InvalidQuestionError
        Where the measure has no p-values here, or the level is not between 0 and 1.

    References
    ----------
    Benjamini and Hochberg (1995), Controlling the false discovery rate, JRSS B 57. Pairs that share a layer
    depend on each other; it is proved for dependence that is positive: Benjamini and Yekutieli (2001), Annals of
    Statistics 29.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> import dask_svcca
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 100, 4))
    >>> with dask_svcca.create_zoo(MemoryStore(), examples=range(100)) as zoo:
    ...     for layer, values in {"x": x, "y": y, "z": x + y}.items():
    ...         zoo.write("net", "1", layer, values)
    >>> found = discoveries(dask_svcca.compare(zoo, MemoryStore()))
    >>> found.to_numpy()
    array([[False, False,  True],
           [False, False,  True],
           [ True,  True, False]])
    """
    given: Any = level
    if not isinstance(given, Real):
        raise InvalidQuestionError(
            f"level is a number between 0 and 1; got {level!r}. A measure is named by measure=, a level goes before it"
        )
    if not 0 < level < 1:
        raise InvalidQuestionError(f"level is between 0 and 1, without these; got {level}")
    result = as_dataset(comparison)
    name = find_name(result, measure)
    p_name = p_value_of(result, name)
    if not p_name:
        raise InvalidQuestionError(f"{name!r} has no p-values here. {_remedy(result, name)}")
    p = result[p_name].transpose(*PAIR_DIMS).load()
    unseen = not_computed(result, p_name, {dim: np.arange(p.sizes[dim]) for dim in PAIR_DIMS})
    others = _others(p)
    values = np.where(unseen, 1.0, p.to_numpy())
    tested = others & np.isfinite(values)
    # Where the two directions of a pair are two questions, each is a test.
    symmetric = bool(result[name].attrs.get("symmetric", True))
    test = _pairs_of(p, tested) if symmetric else np.arange(tested.sum())
    if others.any() and not tested.any():
        raise InvalidQuestionError(
            f"no pair has a p-value of {name!r} here: it is not known where layers meet at several frequencies "
            f"(conv='dft'), samples are parts of examples (conv or sequence 'positions'), examples are fewer than "
            f"{LEAST_SAMPLES}, or a layer could not be compared. Compare with conv='mean', or ask permutation_null "
            f"about some pairs"
        )
    chosen = np.zeros(values.shape, dtype=np.bool_)
    largest, count = np.nan, int(test.max(initial=-1)) + 1
    if count:
        # The two directions may differ by round-off.
        each = np.ones(count)
        np.minimum.at(each, test, values[tested])
        if (found := each[scipy.stats.false_discovery_control(each, method="bh") <= level]).size:
            largest = float(found.max())
            chosen[tested] = each[test] <= largest
    made = p.copy(data=chosen)
    counts = {"pairs": count, "computed": len(np.unique(test[~unseen[tested]]))}
    made.attrs = {"measure": name, "level": level, **counts, "largest_p": largest}
    return made.rename("discovery")


def _remedy(result: xr.Dataset, measure: str) -> str:
    """What to do for p-values, where a measure has none."""
    try:
        gains = bool(find_measures(measure)[0].p_value)
    except UnknownMeasureError:
        # One of the user's own that is not registered here, or a name that `join` gave.
        gains = False
    if gains:
        return "Compare again into this store, which adds them"
    if here := [one for one in measures_of(result) if p_value_of(result, one)]:
        return f"Of this comparison {', '.join(here)} have: ask for one of these by measure="
    return f"{', '.join(WITH_P_VALUES)} have: compare by one of these"


def _others(p: xr.DataArray) -> BoolArray:
    """Pairs of two representations."""
    a, b = (p[dim].to_numpy() for dim in PAIR_DIMS)
    return np.asarray(a[:, np.newaxis] != b)


def _pairs_of(p: xr.DataArray, wanted: BoolArray) -> IntArray:
    """Number of the pair of each wanted entry, the same in both directions, (entry,)."""
    a, b = (p[dim].to_numpy() for dim in PAIR_DIMS)
    labels, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    rows, columns = codes[: len(a), np.newaxis], codes[len(a) :]
    pair = np.minimum(rows, columns) * len(labels) + np.maximum(rows, columns)
    return np.unique(pair[wanted], return_inverse=True)[1]
