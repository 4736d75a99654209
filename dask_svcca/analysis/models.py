"""Models beside models: one number for each two of them, from the similarities of their layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import xarray as xr

from dask_svcca.analysis._options import is_number
from dask_svcca.analysis._searches import (
    best_by_chance,
    chance_of_largest,
    largest_of_blocks,
    of_all,
    searched,
    sums,
    widest,
)
from dask_svcca.analysis.identification import check_excluded
from dask_svcca.analysis.measured import (
    as_dataset,
    centred_by_chance,
    find_names,
    null_of,
    say_estimates_at,
    sign_of,
    spread_of,
    warn_of_estimates,
)
from dask_svcca.analysis.selection import SIDES, column, numbered, places_of, table_of, values_of
from dask_svcca.errors import InvalidQuestionError, RepresentationNotFoundError
from dask_svcca.kernels.orders import chance_of, no_rarer_than_one_order
from dask_svcca.kernels.transport import transport_plan
from dask_svcca.patterns import matching
from dask_svcca.stores.choice import as_slice
from dask_svcca.stores.dataset import parameters_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dask_svcca.analysis.selection import Side, Where
    from dask_svcca.kernels._types import FloatArray, IntArray
    from dask_svcca.stores._io import StoreLike

BLOCK_ELEMENTS: Final = 2**21
"""Pairs of layers that are in memory at a time."""

BEGINS: Final = 2.0
"""Standard deviations below 0 at which the gamma distribution of `rsa` begins, so that its skewness is 1."""

CHECKPOINTS: Final = frozenset({"checkpoint", "step", "final", "representation"})
"""Keys of a choice that say which checkpoints are meant."""

Kind: TypeAlias = Literal["best", "maximum", "transport"]

WORDS: Final[dict[str, str]] = {
    "best": "mean over the layers of a of {} with the most similar layer of b",
    "maximum": "{} of the most similar two layers",
    "transport": "mean {} under the optimal transport plan between layers",
}

BY_CHANCE: Final[dict[str, str]] = {
    "best": "mean over the layers of a of the {} that the best of the layers of b has by chance",
    "maximum": "{} that the best of all pairs of layers has by chance",
    "transport": "{} that each layer's best match has by chance, which no plan exceeds",
}

P_VALUE: Final = (
    "how often the same search finds as much by chance. However layers of one network depend on each other, it is not "
    "less than that, as far as the p-values of pairs of layers are right"
)

ASSUMES: Final = (
    "layers as independent of each other as shuffled examples make a pair of them. Layers of one network are alike, so "
    "that the search is among fewer and chance gives less. Where the standard deviation of a null is unknown, its mean "
    "alone is searched, and chance gives more"
)


def model_similarity(
    result: xr.Dataset | StoreLike,
    *,
    measure: str | Sequence[str] | None = None,
    kind: Kind = "best",
    where: Where | None = None,
    exclude: Sequence[str] = (),
    depth: float = 0.0,
) -> xr.Dataset:
    """How similar models are: one number for each two of them, from the similarities of their layers.

    All functions that ask a comparison take the result as well: `embedding`, `cluster`, `nearest`, `query`, and the
    figures of `dask_svcca.plot`.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is, finished or not. It is read in blocks.
    measure : str or sequence of str, optional
        ``all`` for all measures of the comparison. Default: the first that it was asked for.
    kind : {"best", "maximum", "transport"}
        ``best``: each layer of a with the most similar layer of b, and the mean over the layers of a; so a small
        network may be in a large one and not the other way round. ``maximum``: the most similar two layers.
        ``transport``: the plan of largest similarity that shares out each layer of a over layers of b, all of equal
        weight; with as many layers on both sides, the best assignment. It is symmetric where the measure is.
    where : mapping, optional
        Which representations: see `query`. Default: the final checkpoint of each model, also where only ``model``,
        ``layer`` or ``depth`` are given. ``{"checkpoint": "**"}`` takes all checkpoints, each an entry of its own.
    exclude : sequence of str
        Names of layers to leave out, such as the logits, which any training makes alike; or patterns of names.
    depth : float
        For ``transport``: what a plan pays for a layer at the input that goes to one at the output, in units of the
        measure; less between layers in between. The value is the similarity alone.

    Returns
    -------
    xarray.Dataset
        The measure, (model_a, model_b), and the null of it where it has one (and of ``rsa``), under its name: what the
        same search finds by chance. It takes the null of each pair of layers and its standard deviation, and values
        that are independent from layer to layer; since layers of one network are alike, chance gives somewhat less.
        Where standard deviations are unknown (`compare` says when), it is the search among the nulls themselves, and
        chance gives more. ``p_`` and the name of the measure: how often the same search finds as much by chance, as if
        the layers of a network said the same over and over, by ``maximum`` the sum over all pairs of layers, so that it
        is rather too large than too small, as far as the p-values of pairs of layers are right: see the page on chance.
        That of ``rsa`` takes its values by chance to be skewed. NaN where a standard deviation is not known.
        `discoveries` corrects it for the number of models. ``missing`` is the number of pairs of layers without a
        value, and ``compared`` the share of those with one: where any is missing, as under ``pairs="nearest 20"``,
        neither has the pair of models. Coordinates along both: ``model``, ``checkpoint``, ``step``, ``parent`` and
        ``layers``, their number.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError, InvalidQuestionError

    Warns
    -----
    OnlyEstimatesWarning
        Where no pair has a value, and some have an estimate of a preview: `estimates` of its sketches has all of them.

    References
    ----------
    Optimal transport between the layers of two networks: arXiv 2510.01706, which also transports neurons; here
    the measure compares layers.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y, z = np.random.default_rng(0).normal(size=(3, 100, 4))
    >>> layers = {("one", "1", "a"): x, ("one", "1", "b"): y, ("two", "1", "c"): y, ("two", "1", "d"): x}
    >>> result = dask_svcca.compare({**layers, ("three", "1", "e"): z})
    >>> found = model_similarity(result)
    >>> found.svcca.sel(model_a="one").to_numpy().round(2)
    array([1.  , 1.  , 0.17])
    """
    result = as_dataset(result)
    names = find_names(result, measure)
    _check(kind, depth)
    check_excluded(result, exclude)
    a, b = (_side(result, side, where, exclude) for side in SIDES)
    gain = partial(_transported, weight=float(depth)) if kind == "transport" else None
    if depth:
        _check_depths(a, b)
    shape = len(a), len(b)
    missing = np.zeros(shape, dtype=np.int64)
    variables: dict[str, tuple[tuple[str, str], Any, dict[str, Any]]] = {}
    dims = "model_a", "model_b"
    for name in names:
        null = ""
        if sign_of(result, name) > 0:
            null = f"null_{name}" if centred_by_chance(result, name) else null_of(result, name)
        summary = _Summary(result, name, null, kind, gain)
        values, chance, p_values, lacking = summary.of(a, b)
        missing = np.maximum(missing, lacking)
        if np.isnan(values).all():
            place = {"representation_a": a.places, "representation_b": b.places}
            warn_of_estimates(name, say_estimates_at(result, name, place))
        variables[name] = dims, values, _attributes(result, name, kind, null)
        if null:
            text = BY_CHANCE[kind].format(name)
            variables[null] = dims, chance, {"long_name": text, "sense": "reference", "assumes": ASSUMES}
            if spread_of(result, name):
                text = f"p-value of {name}"
                p_values = no_rarer_than_one_order(p_values, result.attrs.get("n_examples", np.inf))
                variables[f"p_{name}"] = dims, p_values, {"long_name": text, "sense": "reference", "comment": P_VALUE}
    variables["missing"] = dims, missing, {"long_name": "pairs of layers without a value"}
    compared = 1 - missing / np.outer(np.diff(a.bounds), np.diff(b.bounds))
    variables["compared"] = dims, compared, {"long_name": "share of the pairs of layers that have a value"}
    coords = {
        f"{one}_{side}": (f"model_{side}", values)
        for side, its in zip(SIDES, (a, b), strict=True)
        for one, values in its.coords.items()
    }
    attributes: dict[str, Any] = {"kind": kind, "depth": float(depth)}
    if parameters := parameters_of(result):
        attributes["parameters"] = json.dumps({**parameters, "measures": names})
    return xr.Dataset(variables, coords=coords, attrs=attributes)


def _check(kind: Any, depth: Any) -> None:
    if kind not in get_args(Kind):
        raise InvalidQuestionError(f"kind is {', '.join(map(repr, get_args(Kind)))}; got {kind!r}")
    if not is_number(depth) or not 0 <= depth < np.inf:
        raise InvalidQuestionError(
            f"depth is what a plan pays for a layer at the input that goes to one at the output, a number of at least "
            f"0; got {depth!r}"
        )
    if depth and kind != "transport":
        raise InvalidQuestionError(f"depth={depth!r} is for kind='transport', which makes a plan; got kind={kind!r}")


def _check_depths(a: _Checkpoints, b: _Checkpoints) -> None:
    for side in (a, b):
        if (without := np.flatnonzero(np.isnan(side.depth))).size:
            raise InvalidQuestionError(
                f"{str(side.labels[without[0]])!r} has no depth, and so {len(without):,} of {len(side.depth):,} "
                f"representations: give depths when they are written, zoo.write(..., depth=), or leave out depth="
            )


def _attributes(result: xr.Dataset, name: str, kind: Kind, null: str) -> dict[str, Any]:
    given = result[name].attrs
    kept = {key: given[key] for key in ("units", "valid_range", "sense", "reference") if key in given}
    symmetric = bool(given.get("symmetric", True)) and kind != "best"
    return {"long_name": WORDS[kind].format(name), **kept, "symmetric": int(symmetric), "null": null}


@dataclass(frozen=True)
class _Checkpoints:
    """Checkpoints of one side, each with its layers side by side.

    Attributes
    ----------
    places : (representation,) int
        Where layers are in the comparison.
    first : (checkpoint,) int
        The first layer of each checkpoint.
    depth : (representation,)
        From 0 for the first layer of a checkpoint to 1 for its last; NaN where it is not known.
    labels : (representation,) str
    coords : dict of str to (checkpoint,)
    """

    places: IntArray
    first: IntArray
    depth: FloatArray
    labels: IntArray
    coords: dict[str, Any]

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def bounds(self) -> IntArray:
        """Where the layers of each checkpoint begin, and where those of the last end, (checkpoint + 1,)."""
        return np.array([*self.first, len(self.places)])

    def layers(self, start: int, stop: int) -> slice:
        """Layers of some neighbours among the checkpoints."""
        return slice(int(self.bounds[start]), int(self.bounds[stop]))

    def batches(self, start: int, most: int) -> Iterator[tuple[int, int]]:
        """Neighbours among the checkpoints from one on, at most so many layers together, or one checkpoint."""
        while start < len(self):
            stop = max(start + 1, int(np.searchsorted(self.bounds[1:], self.first[start] + most, side="right")))
            yield start, stop
            start = stop


def _side(result: xr.Dataset, side: Side, where: Where | None, exclude: Sequence[str]) -> _Checkpoints:
    # Another type is refused by `places_of`, with a sentence.
    chosen: Any = {} if where is None else where
    if isinstance(chosen, Mapping) and not chosen.keys() & CHECKPOINTS:
        chosen = {**chosen, "final": True}
    places = places_of(result, side, chosen)
    frame = table_of(result, side)
    wanted = ~frame["layer"].isin(matching(frame["layer"].unique(), exclude)).to_numpy()
    places = places[wanted[places]]
    if not len(places):
        raise RepresentationNotFoundError(f"exclude={list(exclude)!r} leaves no layer on side {side}")
    frame = frame.iloc[places]
    number = frame.groupby(["model", "checkpoint"], sort=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    places, frame, number = places[order], frame.iloc[order], number[order]
    first = np.flatnonzero(np.diff(number, prepend=-1))
    leading = frame.iloc[first]
    coords = {one: leading[one].to_numpy(dtype=np.str_) for one in ("model", "checkpoint")}
    if f"parent_{side}" in result.variables:
        # Layers that were written before one of their checkpoint said it have none.
        parents = pd.Series(column(result, "parent", side)[places].astype(str)).groupby(number).max()
        coords["parent"] = parents.to_numpy().astype(np.str_)
    coords |= {"step": leading["step"].to_numpy(dtype=np.float64), "layers": np.diff([*first, len(places)])}
    return _Checkpoints(places, first, _relative(frame, number), column(result, "representation", side)[places], coords)


def _relative(frame: pd.DataFrame, number: IntArray) -> FloatArray:
    """Depth of each layer, as a share of that of its checkpoint."""
    grouped = frame["depth"].astype(np.float64).groupby(number)
    above = (frame["depth"] - grouped.transform("min")).to_numpy(dtype=np.float64)
    span = (grouped.transform("max") - grouped.transform("min")).to_numpy(dtype=np.float64)
    return np.where(span > 0, above / np.where(span > 0, span, 1.0), above)


@dataclass(frozen=True)
class _Summary:
    """What is computed of one measure.

    Attributes
    ----------
    result : xarray.Dataset
    name, null : str
        Of the measure, and of its null; empty for none.
    kind : {"best", "maximum", "transport"}
    transported : callable or None
        Takes similarities, and both sides with the checkpoints that they are of; for ``transport``.
    """

    result: xr.Dataset
    name: str
    null: str
    kind: Kind
    transported: Callable[..., FloatArray] | None

    def of(self, a: _Checkpoints, b: _Checkpoints) -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
        """Values, values by chance, p-values and numbers of missing pairs, (a, b)."""
        found, chance, p_values = (np.full((len(a), len(b)), np.nan) for _ in range(3))
        missing = np.zeros(found.shape, dtype=np.int64)
        mirrored = bool(self.result[self.name].attrs.get("symmetric", True)) and self._same(a, b)
        for rows in a.batches(0, max(1, BLOCK_ELEMENTS // len(b.places))):
            height = a.layers(*rows)
            for columns in b.batches(rows[0] if mirrored else 0, BLOCK_ELEMENTS // (height.stop - height.start)):
                self._fill(a, b, rows, columns, (found, chance, p_values, missing), mirrored=mirrored)
        return found, chance, p_values, missing

    def _same(self, a: _Checkpoints, b: _Checkpoints) -> bool:
        of_a, of_b = numbered(self.result)
        return np.array_equal(of_a[a.places], of_b[b.places])

    def _fill(
        self,
        a: _Checkpoints,
        b: _Checkpoints,
        rows: tuple[int, int],
        columns: tuple[int, int],
        into: tuple[FloatArray, FloatArray, FloatArray, IntArray],
        *,
        mirrored: bool,
    ) -> None:
        """Entries of some rows and columns; where layers are as similar in both orders, also their mirror images."""
        found, chance, p_values, missing = into
        chosen, others = a.layers(*rows), b.layers(*columns)
        places = a.places[chosen], b.places[others]
        first = a.first[slice(*rows)] - chosen.start, b.first[slice(*columns)] - others.start
        here, mirror = (slice(*rows), slice(*columns)), (slice(*columns), slice(*rows))
        sign = sign_of(self.result, self.name)
        values = sign * self._read(self.name, *places)
        nulls = None
        if self.null:
            nulls = self._nulls(*places)
        lacking = sums(~np.isfinite(values), first)
        if self.transported is not None:
            one = self.transported(values, a, b, rows, columns)
            both = one, one.T
        else:
            both = searched(values, first, self.kind), searched(values.T, first[::-1], self.kind)
        expected = None if nulls is None else self._expected(nulls, first, both)
        for place, part, lacks, turned in ((here, both[0], lacking, False), (mirror, both[1], lacking.T, True)):
            if turned and not mirrored:
                continue
            found[place] = sign * part
            missing[place] = lacks
            if expected is not None:
                for target, values_of_both in zip((chance, p_values), expected, strict=True):
                    target[place] = np.where(lacks == 0, values_of_both[int(turned)], np.nan)

    def _nulls(self, rows: IntArray, columns: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of each pair by chance."""
        name = spread_of(self.result, self.name)
        spread = self._read(name, rows, columns) if name else np.zeros((len(rows), len(columns)))
        if not centred_by_chance(self.result, self.name):
            return self._read(self.null, rows, columns), spread
        stem, bracket, options = self.name.partition("(")
        if (error := f"{stem}_error{bracket}{options}") in self.result:
            # From a sample of the pairs of examples, a score is off by more than orders make it.
            spread = np.hypot(spread, self._read(error, rows, columns))
        return np.zeros(spread.shape), spread

    def _read(self, name: str, rows: IntArray, columns: IntArray) -> FloatArray:
        # In the order of the comparison, each of its chunks is read once.
        (row, of_row), (column, of_column) = (np.unique(each, return_inverse=True) for each in (rows, columns))
        place = {"representation_a": as_slice(row), "representation_b": as_slice(column)}
        values = values_of(self.result[name][place].transpose("representation_a", "representation_b"))
        in_order = np.array_equal(row, rows) and np.array_equal(column, columns)
        return values if in_order else values[of_row[:, np.newaxis], of_column]

    def _expected(
        self,
        nulls: tuple[FloatArray, FloatArray],
        first: tuple[IntArray, IntArray],
        found: tuple[FloatArray, FloatArray],
    ) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
        """What the search finds by chance, and how often it finds as much as it did: each as (a, b) and (b, a)."""
        mean, spread = nulls
        known = sums(~(np.isfinite(mean) & np.isfinite(spread)), first) == 0
        shift: FloatArray = np.zeros(found[0].shape)
        if centred_by_chance(self.result, self.name):
            # Orders of the examples make correlations of distances skewed, and a search asks for their tail.
            shift = BEGINS * widest(spread, first)
            mean, found = of_all(shift, spread.shape, first), (found[0] + shift, found[1] + shift.T)
        if self.kind == "maximum":
            whole = largest_of_blocks(mean, spread, first) - shift
            p_value = np.where(known, chance_of_largest(found[0], mean, spread, first), np.nan)
            return (whole, whole.T), (p_value, p_value.T)
        one = best_by_chance(mean, spread, first)
        other = best_by_chance(mean.T, spread.T, first[::-1])
        chances = [
            np.where(sure, chance_of(score, expected, np.square(deviation)), np.nan)
            for score, (expected, deviation), sure in zip(found, (one, other), (known, known.T), strict=True)
        ]
        if self.kind == "transport":
            # Each layer's best match is at least what a plan gives it, on either side.
            least, rarest = np.minimum(one[0], other[0].T) - shift, np.minimum(chances[0], chances[1].T)
            return (least, least.T), (rarest, rarest.T)
        return (one[0] - shift, other[0] - shift.T), (chances[0], chances[1])


def _transported(
    values: FloatArray,
    a: _Checkpoints,
    b: _Checkpoints,
    rows: tuple[int, int],
    columns: tuple[int, int],
    *,
    weight: float,
) -> FloatArray:
    """Mean similarity under the plan between each two checkpoints."""
    found = np.full((rows[1] - rows[0], columns[1] - columns[0]), np.nan)
    chosen, others = a.layers(*rows), b.layers(*columns)
    gains = values
    if weight:
        gains = values - weight * np.abs(a.depth[chosen][:, np.newaxis] - b.depth[others])
    of_a, of_b = (
        [slice(start, stop) for start, stop in pairwise((side.bounds[some[0] : some[1] + 1] - first).tolist())]
        for side, some, first in ((a, rows, chosen.start), (b, columns, others.start))
    )
    whole = np.isfinite(values)
    for i, one in enumerate(of_a):
        for j, other in enumerate(of_b):
            if whole[one, other].all():
                found[i, j] = np.vdot(transport_plan(gains[one, other]), values[one, other])
    return found
