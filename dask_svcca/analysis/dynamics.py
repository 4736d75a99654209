"""What training does to layers: each checkpoint against the final one, and against every other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from dask_svcca.analysis._options import is_number
from dask_svcca.analysis.measured import as_dataset, find_name, null_of, sign_of
from dask_svcca.analysis.selection import SIDES, in_order, is_final, places_of, table_of, values_of
from dask_svcca.errors import IncompatibleError, InvalidQuestionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.stores._io import StoreLike

SETTLED = 0.1
"""How far from its final self a layer may be and count as settled."""

Variables = dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]


def learning_dynamics(
    result: xr.Dataset | StoreLike,
    *,
    model: str | Sequence[str] = "**",
    layer: str | Sequence[str] = "**",
    measure: str | None = None,
    threshold: float | None = None,
) -> xr.Dataset:
    """How similar layers are to their final selves during training, and when they settle.

    Each checkpoint of a model is a, and its final checkpoint is b. A layer has settled at the first step from which it
    stays within a threshold of its final self, up to the final checkpoint, which is always within. A layer that only
    passes the input on, or has few directions, may be settled from the start: `rank` says how many directions it has.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is; it needs the pairs of ``pairs="final"``.
    model : str or sequence of str
        A name, or a pattern or several, as in `query`. With a name the result has no dimension ``model``; with more,
        it shows the spread of several trainings: ``.std("model")``. Default: all.
    layer : str or sequence of str
        Names or patterns of the layers to look at. Default: all.
    measure : str, optional
        Default: the first that the comparison was asked for.
    threshold : float, optional
        Largest difference of the measure to that of the final layer with itself. Default: 0.1; for a distance, a tenth
        of the largest that a layer of these models has to its final self.

    Returns
    -------
    xarray.Dataset
        Steps ascend, layers are in order of depth. The measure itself (step, layer, layer_final): a pane of layers by
        final layers for each step, and its null beside it where there is one. ``similarity_to_final`` (layer, step): of
        each layer with itself, and ``null_to_final``. ``settled_step`` (layer): NaN where pairs without a value leave
        it open. ``depth_correlation``: rank correlation of depth and settled step; ``similarity_depth_correlation``:
        of depth and similarity to the final self, on average before the final step, with its sign turned. Both are
        positive where layers closer to the input settle first. ``rank`` (layer, step): directions kept. All of them
        have a dimension ``model`` in front where several are asked for.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError
        The message says what there is.
    InvalidQuestionError
        Where checkpoints have no steps, or which of them is final cannot be known.
    IncompatibleError
        Where no checkpoint has been compared with the final one.

    References
    ----------
    Raghu et al. (2017), SVCCA: Singular Vector Canonical Correlation Analysis, NeurIPS, figures 3 and 4.

    Examples
    --------
    >>> import dask_svcca, zarr
    >>> rng = np.random.default_rng(0)
    >>> noise, final = rng.normal(size=(2, 2, 100, 4))
    >>> way = {0: (1.0, 0.0), 10: (1.0, 0.5), 20: (1.0, 1.0)}
    >>> with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(100)) as zoo:
    ...     for step, shares in way.items():
    ...         for depth, share in enumerate(shares):
    ...             values = share * final[depth] + (1 - share) * noise[depth]
    ...             zoo.write("net", f"step{step}", f"layer{depth}", values, step=step, depth=depth)
    >>> found = learning_dynamics(dask_svcca.compare(zoo), model="net")
    >>> found.similarity_to_final.round(1).to_numpy().tolist(), found.settled_step.to_numpy().tolist()
    ([[1.0, 1.0, 1.0], [0.2, 0.7, 1.0]], [0.0, 20.0])
    """
    if threshold is not None and (not is_number(threshold) or not threshold >= 0):
        raise InvalidQuestionError(
            f"threshold is how far a layer may be from its final self, a number of at least 0; got {threshold!r}"
        )
    result = as_dataset(result)
    name = find_name(result, measure)
    frames = {side: table_of(result, side) for side in SIDES}
    asked = places_of(result, "a", {"model": model, "layer": layer})
    chosen = frames["a"].iloc[asked].assign(place=asked)
    models = list(dict.fromkeys(chosen["model"]))
    known = pd.concat([frame[frame["model"].isin(models)] for frame in frames.values()])
    final = frames["b"].assign(place=np.arange(len(frames["b"])))
    final = final[final["model"].isin(models) & final["layer"].isin(chosen["layer"])]
    final = final[is_final(final, known)]
    _check_steps(chosen)
    steps, layers = np.unique(chosen["step"]), in_order(chosen, "layer", "depth")
    names = [name, *filter(None, [null_of(result, name)])]
    panes = {one: np.full((len(models), len(steps), len(layers), len(layers)), np.nan) for one in names}
    rank = np.full((len(models), len(layers), len(steps)), np.nan)
    for number, one in enumerate(models):
        rows, columns = chosen[chosen["model"] == one], final[final["model"] == one]
        at = np.searchsorted(steps, rows["step"].to_numpy()), layers.get_indexer(rows["layer"])
        for variable, pane in panes.items():
            block = result[variable][{"representation_a": rows["place"], "representation_b": columns["place"]}]
            pane[(number, *at)] = _spread(values_of(block), layers.get_indexer(columns["layer"]), len(layers))
        if "rank_a" in result:
            rank[(number, *at[::-1])] = values_of(result["rank_a"][{"representation_a": rows["place"]}])
    own = {one: np.moveaxis(np.diagonal(pane, axis1=2, axis2=3), 2, 1) for one, pane in panes.items()}
    if not np.isfinite(panes[name]).any():
        raise IncompatibleError(
            f"no checkpoint of {', '.join(map(repr, models[:5]))} has a value of {name!r} with its final checkpoint. "
            f"Compare these pairs, dask_svcca.compare(zoo, store, pairs='final'), or wait until they are compared"
        )
    checkpoints = _checkpoints(chosen, models, steps)
    variables = _dynamics(result[name], own[name], steps, checkpoints != "", sign_of(result, name), threshold)
    for one in names:
        variables[one] = ("model", "step", "layer", "layer_final"), panes[one], dict(result[one].attrs)
    if len(names) > 1:
        variables["null_to_final"] = ("model", "layer", "step"), own[names[1]], dict(result[names[1]].attrs)
    if "rank_a" in result:
        variables["rank"] = ("model", "layer", "step"), rank, dict(result["rank_a"].attrs)
    depth = chosen.groupby("layer")["depth"].mean()[layers].to_numpy()
    found = xr.Dataset(
        variables,
        coords={
            "model": models,
            "step": steps,
            "layer": list(layers),
            "layer_final": list(layers),
            "depth": ("layer", depth),
            "checkpoint": (("model", "step"), checkpoints),
        },
        attrs={"measure": name},
    )
    found["depth_correlation"] = _rank_correlation(found["settled_step"], depth)
    found["depth_correlation"].attrs["long_name"] = "rank correlation of depth and settled step"
    ends = xr.DataArray(final.groupby("model")["step"].max().reindex(models).to_numpy(dtype=np.float64), dims="model")
    before = found["similarity_to_final"].where(found["step"] < ends).mean("step")
    found["similarity_depth_correlation"] = _rank_correlation(-sign_of(result, name) * before, depth)
    found["similarity_depth_correlation"].attrs["long_name"] = (
        "rank correlation of depth and similarity to the final self before the final step, with its sign turned"
    )
    # A name is one model; a pattern may mean several.
    return found.isel(model=0) if isinstance(model, str) and models == [model] else found


def training_phases(
    result: xr.Dataset | StoreLike, *, model: str, layer: str | Sequence[str], measure: str | None = None
) -> xr.Dataset:
    """Each checkpoint of a layer against every other: phases of training are blocks along the diagonal.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    model : str
        Its name.
    layer : str or sequence of str
        A name, or a pattern or several, as in `query`. With a name the result has no dimension ``layer``.
    measure : str, optional
        Default: the first that the comparison was asked for.

    Returns
    -------
    xarray.Dataset
        The measure (layer, checkpoint_a, checkpoint_b), and its null where there is one, in order of training.
        Coordinates ``step_a`` and ``step_b``. NaN where a pair has no value.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError, InvalidQuestionError

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 4))
    >>> result = dask_svcca.compare({("net", "1", "fc"): x, ("net", "2", "fc"): x + y, ("net", "3", "fc"): x + y})
    >>> training_phases(result, model="net", layer="fc").svcca.to_numpy().round(2)
    array([[1.  , 0.73, 0.73],
           [0.73, 1.  , 1.  ],
           [0.73, 1.  , 1.  ]])
    """
    result = as_dataset(result)
    name = find_name(result, measure)
    sides = {side: places_of(result, side, {"model": model, "layer": layer}) for side in SIDES}
    frames = {side: table_of(result, side).iloc[sides[side]].assign(place=sides[side]) for side in SIDES}
    if len(models := set(frames["a"]["model"])) > 1:
        raise InvalidQuestionError(
            f"training is that of one model; {model!r} means {', '.join(map(repr, sorted(models)))}"
        )
    layers = in_order(frames["a"], "layer", "depth")
    # Without steps they stay in the order of the comparison, which is that of the numbers in their names.
    orders = {
        side: frame.sort_values("step", kind="stable").drop_duplicates("checkpoint") for side, frame in frames.items()
    }
    at = {side: pd.Index(order["checkpoint"]) for side, order in orders.items()}
    variables: Variables = {}
    for variable in (name, *filter(None, [null_of(result, name)])):
        values = np.full((len(layers), len(at["a"]), len(at["b"])), np.nan)
        for number, one in enumerate(layers):
            a, b = (frame[frame["layer"] == one] for frame in frames.values())
            block = result[variable][{"representation_a": a["place"], "representation_b": b["place"]}]
            rows, columns = at["a"].get_indexer(a["checkpoint"]), at["b"].get_indexer(b["checkpoint"])
            values[number][np.ix_(rows, columns)] = values_of(block)
        variables[variable] = ("layer", "checkpoint_a", "checkpoint_b"), values, dict(result[variable].attrs)
    found = xr.Dataset(
        variables,
        coords={
            "layer": list(layers),
            **{f"checkpoint_{side}": list(index) for side, index in at.items()},
            **{f"step_{side}": (f"checkpoint_{side}", order["step"].to_numpy()) for side, order in orders.items()},
        },
        attrs={"measure": name, "model": model},
    )
    return found.isel(layer=0) if isinstance(layer, str) and list(layers) == [layer] else found


def _check_steps(frame: pd.DataFrame) -> None:
    """Refuse checkpoints that have no place in the order of training, or share one."""
    steps = frame.groupby(["model", "checkpoint"], sort=False)["step"].max().reset_index()
    for row in steps[steps["step"].isna()].itertuples():
        raise InvalidQuestionError(
            f"the checkpoint {row.checkpoint!r} of {row.model!r} has no step: say when in training it is, "
            f"zoo.write(..., step=)"
        )
    double = steps[steps.duplicated(["model", "step"])]
    for row in double.itertuples():
        raise InvalidQuestionError(
            f"two checkpoints of {row.model!r} have the step {row.step:g}, one of them {row.checkpoint!r}: give each a "
            f"step of its own"
        )


def _spread(values: FloatArray, columns: npt.NDArray[np.intp], count: int) -> FloatArray:
    """Columns at their places among so many."""
    spread = np.full((len(values), count), np.nan)
    spread[:, columns] = values
    return spread


def _checkpoints(frame: pd.DataFrame, models: list[str], steps: FloatArray) -> npt.NDArray[np.str_]:
    names = np.full((len(models), len(steps)), "", dtype=object)
    names[pd.Index(models).get_indexer(pd.Index(frame["model"])), np.searchsorted(steps, frame["step"])] = frame[
        "checkpoint"
    ]
    return names.astype(np.str_)


def _dynamics(
    measure: xr.DataArray,
    own: FloatArray,
    steps: FloatArray,
    there: npt.NDArray[np.bool_],
    sign: int,
    threshold: float | None,
) -> Variables:
    """What follows from the similarity of layers to their final selves, (model, layer, step).

    Whether a model has a checkpoint at a step is ``there``, (model, step): steps of other models leave nothing open.
    """
    final = np.full(own.shape[:2], np.nan)
    for place in np.ndindex(final.shape):
        present = np.flatnonzero(np.isfinite(own[place]))
        # The final checkpoint of a model need not be at the last step of all models.
        final[place] = own[place][present[-1]] if len(present) else np.nan
    if threshold is None:
        threshold = SETTLED if sign > 0 else SETTLED * float(np.nanmax(np.abs(own), initial=0.0))
    with np.errstate(invalid="ignore"):
        within = sign * (final[..., np.newaxis] - own) <= threshold
    settled = np.full(final.shape, np.nan)
    for place in np.ndindex(final.shape):
        mine = there[place[0]]
        settled[place] = settled_step(steps[mine], within[place][mine], np.isfinite(own[place][mine]))
    return {
        "similarity_to_final": (("model", "layer", "step"), own, dict(measure.attrs)),
        "settled_step": (
            ("model", "layer"),
            settled,
            {"long_name": "first step from which a layer stays near its final self", "threshold": threshold},
        ),
    }


def settled_step(steps: FloatArray, within: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> float:
    """First step from which a layer stays within, up to the last that is known.

    Parameters
    ----------
    steps : (step,)
        Ascending.
    within, known : (step,) bool
        Whether a layer is near its final self, and whether it has a value.

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


def _rank_correlation(values: xr.DataArray, depth: FloatArray) -> xr.DataArray:
    """Spearman's rank correlation of depth with what each layer has, over the layers that have it."""

    def one(row: FloatArray) -> float:
        both = pd.DataFrame({"value": row, "depth": depth}).dropna().rank()
        # Without a spread there is no order.
        varies = len(both) > 1 and bool((both.std() > 0).all())
        return float(both["value"].corr(both["depth"])) if varies else np.nan

    correlation: xr.DataArray = xr.apply_ufunc(one, values, input_core_dims=[["layer"]], vectorize=True)
    return correlation
