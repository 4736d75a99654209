"""How similar the same layer is over trainings: as similar as another layer can be expected to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components

from dask_svcca.analysis.kin import Kin
from dask_svcca.analysis.measured import as_dataset, find_name, null_of
from dask_svcca.analysis.selection import counterparts, not_computed, places_of, table_of, values_of
from dask_svcca.errors import IncompatibleError, InvalidQuestionError, did_you_mean

if TYPE_CHECKING:
    import xarray as xr

    from dask_svcca.analysis.selection import Where
    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray
    from dask_svcca.stores._io import StoreLike

By = Literal["model", "checkpoint", "layer"]

LEAST_FOR_ERROR = 3
"""Trainings from which one may be left out and a pair is left."""


def noise_ceiling(
    result: xr.Dataset | StoreLike,
    by: By = "model",
    *,
    where: Where | None = None,
    measure: str | None = None,
    relatives: bool = False,
) -> pd.DataFrame:
    """How similar representations are that differ in their model alone, layer by layer: what seeds leave.

    A layer that is as similar to another one as it is to itself in another training is as similar as can be seen.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    by : {"model", "checkpoint", "layer"}
        What representations differ in; they are alike in the other two. Where each model has one checkpoint, its name
        does not matter.
    where : mapping, optional
        Among which to look, such as ``dict(final=True)``; see `query`. Default: all.
    measure : str, optional
        Default: the first that the comparison was asked for.
    relatives : bool
        Count relatives as trainings of their own too: models of which one began with the other, or both with one, by
        ``parent`` of `Zoo.write`. Default: pairs of them are left out, since a training resembles what it began with.

    Returns
    -------
    pandas.DataFrame
        One row for what is alike, in the order of the comparison: ``checkpoint`` and ``layer``, for example, with
        ``step`` and ``depth`` where these are alike too; the measure, its mean over pairs that have a value;
        ``{measure}_sd``, its standard deviation over them; ``{measure}_stderr``, the standard error of the mean by the
        jackknife over models (pairs that share one are not independent), relatives together, NaN below three; the null
        beside it, where there is one; ``models``, how many; ``pairs``, how many have a value; ``missing``, how many
        were not selected or are not computed yet; and, by models, ``relatives``, the pairs that were left out for that.
        Where a pair is missing, the mean, its spread and its null are NaN: under ``pairs="nearest 20"`` those that are
        there were chosen for being similar.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError, InvalidQuestionError
    IncompatibleError
        Where no two representations differ in this alone, or only those of relatives do, or a representation is on side
        a of a part of a comparison alone.

    References
    ----------
    Nili et al. (2014), A toolbox for representational similarity analysis, PLOS Computational Biology 10, of the
    ceiling; Efron and Stein (1981), The jackknife estimate of variance, Annals of Statistics 9.

    Examples
    --------
    >>> import dask_svcca
    >>> rng = np.random.default_rng(0)
    >>> x, y, z = rng.normal(size=(3, 100, 4))
    >>> layers = {"s0": x, "s1": x + y, "s2": x + z}
    >>> result = dask_svcca.compare({(name, "1", "fc"): one for name, one in layers.items()})
    >>> noise_ceiling(result)[["layer", "svcca", "svcca_sd", "models", "pairs"]].round(2)
      layer  svcca  svcca_sd  models  pairs
    0    fc   0.68      0.11       3      3
    """
    if by not in get_args(By):
        raise InvalidQuestionError(
            f"by is what representations differ in, 'model', 'checkpoint' or 'layer'; got {by!r}"
            f"{did_you_mean(str(by), get_args(By))}"
        )
    result = as_dataset(result)
    name = find_name(result, measure)
    places = places_of(result, "a", where)
    on_b = dict(zip(places.tolist(), counterparts(result, places).tolist(), strict=True))
    frame = table_of(result, "a").iloc[places].assign(place=places)
    alike = [key for key in get_args(By) if key != by]
    if by == "model" and not frame.drop_duplicates(["model", "checkpoint"])["model"].duplicated().any():
        alike = ["layer"]
    kin = Kin(result) if by == "model" and not relatives else None
    several = [some for _, some in frame.groupby(alike, sort=False) if len(set(some[by])) > 1]
    rows = [row for some in several if (row := _row(result, name, by, alike, some, on_b, kin)) is not None]
    if several and not rows:
        one, other = several[0]["model"].unique()[:2]
        raise IncompatibleError(
            f"all models that have layers of these names are relatives, such as {one!r} and {other!r}: one began with "
            f"the other, or both with one, and are not trainings of their own. Compare others as well, or "
            f"count these too, by relatives=True"
        )
    if not rows:
        raise IncompatibleError(
            f"no two representations differ in {by} alone, alike in {' and '.join(alike)}: compare several {by}s that "
            f"share these names, or choose others by where="
        )
    return pd.DataFrame(rows)


def _row(
    result: xr.Dataset,
    name: str,
    by: By,
    alike: list[str],
    some: pd.DataFrame,
    on_b: dict[int, int],
    kin: Kin | None,
) -> dict[str, Any] | None:
    """What is said of some representations that are alike; None where all are of relatives."""
    members, codes = np.unique(some[by].to_numpy().astype(str), return_inverse=True)
    related = np.eye(len(members), dtype=np.bool_) if kin is None else kin.related(members.tolist())
    if related.all():
        return None
    families = connected_components(related, directed=False)[1]
    apart = ~related[np.ix_(codes, codes)]
    rows = some["place"].to_numpy()
    place = {"representation_a": rows, "representation_b": [on_b[row] for row in rows.tolist()]}
    values = _both_ways(values_of(result[name][place]))
    every = codes[:, np.newaxis] < codes
    present = every & apart & np.isfinite(values)
    unseen = not_computed(result, name, {dim: np.asarray(at) for dim, at in place.items()})
    missing = every & apart & ~present & (unseen | unseen.T)
    # Some of the pairs may be there for their values.
    pairs = present & ~missing.any()
    found: dict[str, Any] = {key: some[key].iloc[0] for key in alike}
    found |= {key: some[key].iloc[0] for key in ("step", "depth") if len(some[key].drop_duplicates()) == 1}
    found[name] = values[pairs].mean() if pairs.any() else np.nan
    found[f"{name}_sd"] = values[pairs].std(ddof=1) if pairs.sum() > 1 else np.nan
    found[f"{name}_stderr"] = _error(values, pairs, families[codes], int(families.max()) + 1)
    if null := null_of(result, name):
        chance = values_of(result[null][place])
        found[null] = chance[pairs].mean() if pairs.any() else np.nan
    found |= {
        f"{by}s": int((~related.all(axis=1)).sum()),
        "pairs": int(present.sum()),
        "missing": int(missing.sum()),
    }
    left_out = int((every & ~apart & np.isfinite(values)).sum())
    return found if by != "model" else {**found, "relatives": left_out}


def _both_ways(values: FloatArray) -> FloatArray:
    """The mean of both directions of a pair, or the one that is there."""
    there = np.isfinite(values)
    both = np.where(there, values, 0.0)
    count = there + there.T.astype(int)
    return np.where(count > 0, (both + both.T) / np.maximum(count, 1), np.nan)


def _error(values: FloatArray, pairs: BoolArray, codes: IntArray, count: int) -> float:
    """Standard error of the mean over pairs: the jackknife over what they are pairs of."""
    if count < LEAST_FOR_ERROR:
        return float("nan")
    means = []
    for member in range(count):
        without = pairs & (codes != member)[:, np.newaxis] & (codes != member)
        if not without.any():
            return float("nan")
        means.append(values[without].mean())
    return float(np.sqrt((count - 1) / count * np.square(means - np.mean(means)).sum()))
