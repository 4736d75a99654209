"""Which layers belong together: the nearest, the best assignment, and groups of representations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.optimize import linear_sum_assignment

from dask_svcca.analysis._options import check_count
from dask_svcca.analysis.measured import (
    as_dataset,
    find_name,
    null_of,
    p_value_of,
    say_estimates_at,
    sign_of,
    warn_of_estimates,
)
from dask_svcca.analysis.query import PairQuery
from dask_svcca.analysis.selection import COLUMNS, column, counterparts, not_computed, places_of, table_of, values_of
from dask_svcca.errors import IncompatibleError, InvalidQuestionError

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.analysis.selection import Where
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.stores._io import StoreLike


def nearest(
    result: xr.Dataset | StoreLike,
    representation: Where,
    *,
    where: Where | None = None,
    measure: str | None = None,
    top: int = 10,
) -> pd.DataFrame:
    """The representations most similar to one.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    representation : mapping
        What names one: ``dict(model=..., checkpoint=..., layer=...)``, see `query`.
    where : mapping, optional
        Among which to look. Default: all others.
    measure : str, optional
        Default: the first that the comparison was asked for. After a preview also ``cka_estimate``: see `query`.
    top : int
        How many, at least 1.

    Returns
    -------
    pandas.DataFrame
        As from `query`, the most similar first, with the null and the p-value beside the measure where there are such.
        ``{p-value}_best`` is corrected for the search: how often the best of as many unrelated layers as were looked at
        would have such a p-value, ``1 - (1 - p)**L`` (Šidák's). L counts layers that were not selected or are not
        computed yet, since ``pairs="nearest 20"`` has looked at all of them. Pairs without a value are not listed.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError, InvalidQuestionError

    Warns
    -----
    OnlyEstimatesWarning
        Where no pair has a value, and some have an estimate.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 4))
    >>> result = dask_svcca.compare({"x": x, "y": y, "sum": x + y})
    >>> nearest(result, {"layer": "x"}, top=1)[["layer_b", "svcca"]].round(2)
      layer_b  svcca
    0     sum   0.73
    """
    check_count("top", top, "how many to list")
    result = as_dataset(result)
    name = find_name(result, measure, estimates=True)
    if len(places := places_of(result, "a", representation)) != 1:
        raise InvalidQuestionError(f"{representation!r} means {len(places)} representations; name one of them")
    p_value = p_value_of(result, name)
    names = [name, *filter(None, [null_of(result, name), p_value])]
    pairs = PairQuery.build(result, names, a=representation, b=where)
    found, searched = pairs.most_similar(top)
    if not searched:
        warn_of_estimates(name, pairs.say_estimates())
    if p_value:
        others = places_of(result, "b", where)
        others = others[column(result, "representation", "b")[others] != column(result, "representation", "a")[places]]
        searched += int(not_computed(result, name, {"representation_a": places, "representation_b": others}).sum())
        with np.errstate(divide="ignore"):
            found[f"{p_value}_best"] = -np.expm1(searched * np.log1p(-found[p_value]))
    return found


def match_layers(result: xr.Dataset | StoreLike, *, a: Where, b: Where, measure: str | None = None) -> pd.DataFrame:
    """The best assignment of layers of a to layers of b: each to one other, most similar in sum.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    a, b : mapping
        One checkpoint each, such as ``dict(model="cnn-s0", final=True)``; see `query`.
    measure : str, optional
        Default: the first that the comparison was asked for. After a preview also ``cka_estimate``: see `query`.

    Returns
    -------
    pandas.DataFrame
        ``layer_a``, ``layer_b``, the measure, its null where there is one, and ``margin``: by how much the assigned
        layer is more similar to a than any other layer of b; negative where another is more similar. One row a layer
        that is assigned, in order of depth of a: as many as the fewer layers of the two. A pair without a value is
        never assigned.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError, InvalidQuestionError
    IncompatibleError
        Where no pair of them has a value.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 4))
    >>> result = dask_svcca.compare({("n", "1", "p"): x, ("n", "1", "q"): y, ("m", "1", "r"): y, ("m", "1", "s"): x})
    >>> match_layers(result, a={"model": "n"}, b={"model": "m"})[["layer_a", "layer_b", "svcca"]].round(2)
      layer_a layer_b  svcca
    0       p       s    1.0
    1       q       r    1.0
    """
    result = as_dataset(result)
    name = find_name(result, measure, estimates=True)
    sign, null = sign_of(result, name), null_of(result, name)
    sides = {}
    for side, where in (("a", a), ("b", b)):
        places = places_of(result, side, where)  # type: ignore[arg-type]
        frame = table_of(result, side).iloc[places].assign(place=places)  # type: ignore[arg-type]
        if len(frame.drop_duplicates(["model", "checkpoint"])) > 1:
            raise InvalidQuestionError(
                f"side {side} is one checkpoint of one model, such as dict(model='net', final=True); {where!r} means "
                f"{len(frame.drop_duplicates(['model', 'checkpoint']))}"
            )
        sides[side] = frame.sort_values("depth", kind="stable")
    place = {f"representation_{side}": frame["place"].to_numpy() for side, frame in sides.items()}
    values = values_of(result[name][place])
    rows, columns = assignment(sign * values)
    if not len(rows):
        said = say_estimates_at(result, name, place)
        raise IncompatibleError(
            f"no pair of {a!r} and {b!r} has a value of {name!r}; compare them first, or wait{said and f'. {said}'}"
        )
    found = pd.DataFrame(
        {
            "layer_a": sides["a"]["layer"].to_numpy()[rows],
            "layer_b": sides["b"]["layer"].to_numpy()[columns],
            name: values[rows, columns],
        }
    )
    if null:
        found[null] = values_of(result[null][place])[rows, columns]
    others = np.where(np.isfinite(values), sign * values, -np.inf)[rows]
    others[np.arange(len(rows)), columns] = -np.inf
    margin = sign * found[name].to_numpy() - others.max(axis=1)
    return found.assign(margin=np.where(np.isfinite(margin), margin, np.nan))


def assignment(similarity: FloatArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of the best assignment: as many pairs as can be, of largest sum.

    Parameters
    ----------
    similarity : (a, b)
        Higher is more similar; NaN where a pair cannot be assigned.

    Examples
    --------
    >>> assignment(np.array([[0.9, 0.8], [0.8, 0.1]]))
    (array([0, 1]), array([1, 0]))
    """
    known = np.isfinite(similarity)
    if not known.any():
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    spread = float(np.ptp(similarity[known])) + 1
    # One pair less is worse than any other choice of values.
    worst = similarity[known].min() - spread * min(similarity.shape) - 1
    rows, columns = linear_sum_assignment(np.where(known, similarity, worst), maximize=True)
    valued = known[rows, columns]
    return rows[valued], columns[valued]


def within_and_between(
    result: xr.Dataset | StoreLike, groups: Mapping[str, Where], *, measure: str | None = None, same_layer: bool = True
) -> xr.Dataset:
    """How similar representations are within groups and between them, such as seeds that generalise or memorise.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    groups : mapping of str to mapping
        Name to what is in a group: see `query`.
    measure : str, optional
        Default: the first that the comparison was asked for.
    same_layer : bool
        Whether only pairs of layers of the same name count.

    Returns
    -------
    xarray.Dataset
        ``mean``, ``spread`` (standard deviation, NaN for fewer than two pairs) and ``pairs``, (group_a, group_b):
        over the pairs that have a value, each once, and no representation with itself; ``null`` is the mean of the
        null of the measure, where there is one. ``missing`` (group_a, group_b): how many pairs were not selected or
        are not computed yet; under ``pairs="nearest 20"`` those that have a value were chosen for being similar, so
        that the mean is too high where any is missing.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError, InvalidQuestionError
    IncompatibleError
        Where a representation is on side a of a part of a comparison alone.

    Warns
    -----
    OnlyEstimatesWarning
        Where no pair has a value, and some have an estimate.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 4))
    >>> result = dask_svcca.compare({(name, "1", "fc"): one for name, one in {"s0": x, "s1": x, "r0": y}.items()})
    >>> found = within_and_between(result, {"s": {"model": "s*"}, "r": {"model": "r*"}})
    >>> found.pairs.to_numpy().tolist(), found["mean"].to_numpy().round(2).tolist()
    ([[1, 2], [2, 0]], [[1.0, 0.17], [0.17, nan]])
    """
    if not all((isinstance(groups, Mapping), groups)):
        raise InvalidQuestionError(
            f"groups is a mapping of names to what is in them, {{'seeds': {{'model': 'cnn-*'}}}}; got {groups!r}"
        )
    result = as_dataset(result)
    name = find_name(result, measure)
    null = null_of(result, name)
    places = {group: places_of(result, "a", where) for group, where in groups.items()}
    on_b = {group: counterparts(result, found) for group, found in places.items()}
    layers = table_of(result, "a")["layer"].to_numpy()
    size = len(places), len(places)
    mean, spread, chance = (np.full(size, np.nan) for _ in range(3))
    pairs, missing = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    members = zip(places.values(), on_b.values(), strict=True)
    for (i, (rows, _)), (j, (columns, columns_b)) in combinations_with_replacement(enumerate(members), 2):
        wanted = rows[:, np.newaxis] != columns
        # A pair of two members of one group, or of both groups, would count twice.
        wanted &= ~(np.isin(rows, columns)[:, np.newaxis] & np.isin(columns, rows) & (rows[:, np.newaxis] > columns))
        if same_layer:
            wanted &= layers[rows][:, np.newaxis] == layers[columns]
        place = {"representation_a": rows, "representation_b": columns_b}
        values = values_of(result[name][place])
        known = wanted & np.isfinite(values)
        pairs[i, j] = pairs[j, i] = known.sum()
        missing[i, j] = missing[j, i] = (wanted & not_computed(result, name, place)).sum()
        if known.any():
            mean[i, j] = mean[j, i] = values[known].mean()
            if null:
                chance[i, j] = chance[j, i] = values_of(result[null][place])[known].mean()
        if known.sum() > 1:
            spread[i, j] = spread[j, i] = values[known].std(ddof=1)
    dims = ("group_a", "group_b")
    variables: dict[str, Any] = {"mean": (dims, mean), "spread": (dims, spread), "pairs": (dims, pairs)}
    variables["missing"] = dims, missing
    if null:
        variables["null"] = (dims, chance)
    if not pairs.any():
        everything = {
            f"representation_{side}": np.unique(np.concatenate(list(found.values())))
            for side, found in (("a", places), ("b", on_b))
        }
        warn_of_estimates(name, say_estimates_at(result, name, everything))
    return xr.Dataset(variables, coords={dim: list(places) for dim in dims}, attrs={"measure": name})


def distances(result: xr.Dataset, measure: str | None, where: Where | None) -> tuple[str, pd.DataFrame, FloatArray]:
    """Name of the measure, representations, and the distance of each to each: 1 less a similarity, both orders' mean.

    Raises
    ------
    IncompatibleError
        Where a pair has no value, or a representation is on one side alone.
    """
    name = find_name(result, measure, estimates=True)
    places = places_of(result, "a", where)
    frame = table_of(result, "a").iloc[places]
    place = {"representation_a": places, "representation_b": counterparts(result, places)}
    values = values_of(result[name][place]).astype(np.float64)
    values = (values + values.T) / 2
    missing = int((~np.isfinite(values)).sum())
    if missing:
        said = say_estimates_at(result, name, place)
        raise IncompatibleError(
            f"{missing:,} of {values.size:,} pairs have no value of {name!r}, and a distance of every pair is needed: "
            f"choose representations that have been compared with each other, where={said and f'. {said}'}"
        )
    if sign_of(result, name) > 0:
        values = 1 - values
    np.fill_diagonal(values, 0)
    return name, frame.reset_index(drop=True), np.maximum(values, 0)


def embedding(
    result: xr.Dataset | StoreLike, *, measure: str | None = None, where: Where | None = None, kind: str = "classical"
) -> xr.Dataset:
    """Representations as points of a plane, whose distances are as near as can be to how little similar they are.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    measure : str, optional
        Default: the first that the comparison was asked for. The distance is 1 less a similarity. After a preview also
        ``cka_estimate``: see `query`.
    where : mapping, optional
        Which representations: see `query`. Default: all.
    kind : {"classical", "metric"}
        ``classical``: the two leading coordinates of the double-centred squared distances. ``metric``: least squares of
        the distances themselves, by majorisation (SMACOF) from there.

    Returns
    -------
    xarray.Dataset
        ``x`` and ``y`` (representation), with names, step and depth. ``explained``: for ``classical`` the share of the
        positive eigenvalues that these two have; for ``metric`` 1 less the sum of squared errors over that of squared
        distances.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError, InvalidQuestionError
    IncompatibleError
        Where a pair has no value, or a representation is on side a of a part of a comparison alone.

    References
    ----------
    Torgerson (1952), Psychometrika 17; de Leeuw (1977), Applications of convex analysis to multidimensional scaling.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 4))
    >>> found = embedding(dask_svcca.compare({"x": x, "y": y, "same as x": 2 * x}))
    >>> float(found.explained.round(2)), bool(abs(found.x[0] - found.x[2]) < 1e-6)
    (1.0, True)
    """
    if kind not in ("classical", "metric"):
        raise InvalidQuestionError(f"kind is 'classical' or 'metric'; got {kind!r}")
    name, frame, distance = distances(as_dataset(result), measure, where)
    points, explained = _classical(distance)
    if kind == "metric":
        points = _majorised(distance, points)
        apart = np.linalg.norm(points[:, np.newaxis] - points, axis=-1)
        total = float(np.square(distance).sum())
        explained = 1 - float(np.square(distance - apart).sum()) / total if total else 1.0
    kinds = {one: None if one in {"step", "depth"} else np.str_ for one in COLUMNS}
    coords = {one: ("representation", frame[one].to_numpy(dtype=kind)) for one, kind in kinds.items()}
    return xr.Dataset(
        {"x": ("representation", points[:, 0]), "y": ("representation", points[:, 1]), "explained": explained},
        coords=coords,
        attrs={"measure": name, "kind": kind},
    )


def _classical(distance: FloatArray) -> tuple[FloatArray, float]:
    squared = np.square(distance)
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    points = np.zeros((len(distance), 2))
    count = min(2, len(values))
    points[:, :count] = vectors[:, :count] * np.sqrt(values[:count])
    return points, float(values[:2].sum() / values.sum()) if values.sum() else 1.0


def _majorised(distance: FloatArray, points: FloatArray, rounds: int = 300, tolerance: float = 1e-9) -> FloatArray:
    """Guttman transforms until the stress no longer falls."""
    before = np.inf
    for _ in range(rounds):
        apart = np.linalg.norm(points[:, np.newaxis] - points, axis=-1)
        stress = float(np.square(distance - apart).sum())
        if before - stress <= tolerance * max(stress, 1e-300):
            break
        before = stress
        ratio = np.divide(distance, apart, out=np.zeros_like(distance), where=apart > 0)
        points = (ratio.sum(axis=1)[:, np.newaxis] * points - ratio @ points) / len(points)
    return points


def cluster(
    result: xr.Dataset | StoreLike, *, measure: str | None = None, where: Where | None = None, count: int = 2
) -> pd.DataFrame:
    """Representations in groups of similar ones, by average linkage of the distances of `embedding`.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    measure : str, optional
        Default: the first that the comparison was asked for. After a preview also ``cka_estimate``: see `query`.
    where : mapping, optional
        Which representations: see `query`. Default: all.
    count : int
        Largest number of groups, at least 1.

    Returns
    -------
    pandas.DataFrame
        Names, step and depth of each representation, its ``cluster`` (from 1), and its ``place`` in the order of the
        leaves of the tree, in which similar ones are side by side; in the order of the comparison.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError, InvalidQuestionError
    IncompatibleError
        Where a pair has no value, or a representation is on side a of a part of a comparison alone.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 4))
    >>> found = cluster(dask_svcca.compare({"x": x, "y": y, "same as x": 2 * x}))
    >>> found["cluster"][0] == found["cluster"][2], found["cluster"][0] == found["cluster"][1]
    (np.True_, np.False_)
    """
    from scipy.cluster.hierarchy import fcluster, leaves_list, linkage  # noqa: PLC0415 - takes a while to import
    from scipy.spatial.distance import squareform  # noqa: PLC0415

    check_count("count", count, "the largest number of groups")
    _, frame, distance = distances(as_dataset(result), measure, where)
    if len(frame) < 2:
        return frame.assign(cluster=1, place=0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=len(frame) <= 1000)
    return frame.assign(cluster=fcluster(tree, count, "maxclust"), place=np.argsort(leaves_list(tree)))
