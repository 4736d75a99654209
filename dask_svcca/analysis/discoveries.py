"""Which of all pairs are more alike than chance makes them, corrected for there being so many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.stats

from dask_svcca.analysis.measured import as_dataset, find_name, p_value_of
from dask_svcca.errors import InvalidQuestionError

if TYPE_CHECKING:
    import xarray as xr

    from dask_svcca.kernels._types import BoolArray
    from dask_svcca.stores._io import StoreLike

PAIR_DIMS = ("representation_a", "representation_b")


def discoveries(comparison: xr.Dataset | StoreLike, level: float = 0.05, *, measure: str | None = None) -> xr.DataArray:
    """Pairs that are more alike than shuffled examples make them: Benjamini and Hochberg's procedure over all pairs.

    Parameters
    ----------
    comparison : Dataset, path, zarr store, or URL
        What `compare` or `open_comparison` returned, or a part of it, or where it is.
    level : float
        Share of false discoveries among all, in expectation; between 0 and 1.
    measure : str, optional
        One with a p-value: ``svcca``, ``cka`` or ``r2_cca``. Default: the first that the comparison was asked for.

    Returns
    -------
    xarray.DataArray
        Whether a pair is one, (representation_a, representation_b). False for a representation with itself and where
        there is no p-value. Attributes: ``measure``, ``level``, ``pairs`` (how many were tested, each once), and
        ``largest_p`` (the largest p-value of a discovery; NaN without any).

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
    if not 0 < level < 1:
        raise InvalidQuestionError(f"level is between 0 and 1, without these; got {level}")
    result = as_dataset(comparison)
    name = find_name(result, measure)
    p_name = p_value_of(result, name)
    if not p_name:
        raise InvalidQuestionError(
            f"{name!r} has no p-values here. svcca, cka and r2_cca have: compare again into this store, which adds "
            f"them, or ask for one of these by measure="
        )
    p = result[p_name].transpose(*PAIR_DIMS).load()
    values, tested = p.to_numpy(), _each_once(p)
    chosen = np.zeros(values.shape, dtype=np.bool_)
    largest = np.nan
    if tested.any():
        adjusted = scipy.stats.false_discovery_control(values[tested], method="bh")
        if (found := values[tested][adjusted <= level]).size:
            largest = float(found.max())
            chosen = _others(p) & (values <= largest)
    made = p.copy(data=chosen)
    made.attrs = {"measure": name, "level": level, "pairs": int(tested.sum()), "largest_p": largest}
    return made.rename("discovery")


def _others(p: xr.DataArray) -> BoolArray:
    """Pairs with a p-value, of two representations."""
    a, b = (p[dim].to_numpy() for dim in PAIR_DIMS)
    return np.asarray(np.isfinite(p.to_numpy()) & (a[:, np.newaxis] != b))


def _each_once(p: xr.DataArray) -> BoolArray:
    """The same, each in one of its two directions."""
    a, b = (p[dim].to_numpy() for dim in PAIR_DIMS)
    labels, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    rows, columns = codes[: len(a), np.newaxis], codes[len(a) :]
    pair = np.minimum(rows, columns) * len(labels) + np.maximum(rows, columns)
    others = np.flatnonzero(_others(p))
    _, first = np.unique(pair.ravel()[others], return_index=True)
    once = np.zeros(pair.size, dtype=np.bool_)
    once[others[first]] = True
    return once.reshape(pair.shape)
