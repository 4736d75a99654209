"""What training does to layers: each checkpoint against the final one, and against every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.sparse.csgraph import connected_components

from dask_svcca.analysis._options import is_number
from dask_svcca.analysis.kin import Kin
from dask_svcca.analysis.measured import as_dataset, find_name, null_of, sign_of
from dask_svcca.analysis.selection import SIDES, column, in_order, is_final, places_of, table_of, values_of
from dask_svcca.analysis.settling import (
    COVERAGE,
    ERRORS,
    SETTLED,
    distances_to_final,
    interval_of_median,
    settled_steps,
)
from dask_svcca.analysis.significance import jackknife
from dask_svcca.errors import IncompatibleError, InvalidQuestionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.stores._io import StoreLike

Variables = dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]


def learning_dynamics(
    result: xr.Dataset | StoreLike,
    *,
    model: str | Sequence[str] = "**",
    layer: str | Sequence[str] = "**",
    measure: str | None = None,
    threshold: float | None = None,
    blocks: int | None = None,
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
        Largest difference of the measure to that of the final layer with itself. Default: 0.1, so that nine tenths of
        the final value are reached; for a distance, a tenth of the largest that a layer of these models has to its
        final self. `noise_ceiling` is not taken for it: layers pass what seeds leave long before they cease to change,
        and one training has none.
    blocks : int, optional
        Leave out so many blocks of examples in turn, as `jackknife` does, with the subspaces of the comparison, for how
        sure each step is. Default: none, which takes no more than the values.

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

        Where several are, also over them: ``settled_by`` (layer), the first step by which more than half of the
        trainings that have a layer of this name have settled; ``settled_low`` and ``settled_high`` (layer), the steps
        between which the median of all trainings that could have been lies, with the probability ``settled_coverage``:
        0.95 or more from six trainings on, and less between the first and the last of fewer, a half with two;
        ``trainings`` (layer), how many. Relatives, as `noise_ceiling` has them, are one training. NaN where one is not
        known, and, but for ``settled_by``, where there is only one training. A checkpoint before a settled step says
        that it is not earlier than that.

        With ``blocks``: ``settled_earliest`` and ``settled_latest`` (layer), the settled step if all differences to the
        final self were smaller, or larger, by 1.96 of their standard errors over examples,
        ``stderr_to_final`` (layer, step): 95 % for each step by itself.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError
        The message says what there is.
    InvalidQuestionError
        Where checkpoints have no steps, or which of them is final cannot be known.
    IncompatibleError
        Where no checkpoint has been compared with the final one; with blocks, where `jackknife` has nothing to go by.

    References
    ----------
    Raghu et al. (2017), SVCCA: Singular Vector Canonical Correlation Analysis, NeurIPS, figures 3 and 4; Efron and
    Stein (1981), The jackknife estimate of variance, Annals of Statistics 9.

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
    trained = _Trainings.read(result, name, places_of(result, "a", {"model": model, "layer": layer}))
    if not np.isfinite(trained.panes[name]).any():
        raise IncompatibleError(
            f"no checkpoint of {', '.join(map(repr, trained.models[:5]))} has a value of {name!r} with its final "
            f"checkpoint. Compare these pairs, dask_svcca.compare(zoo, store, pairs='final'), or wait until they are "
            f"compared"
        )
    # A name is one model; a pattern may mean several.
    several = not isinstance(model, str) or trained.models != [model]
    own = trained.own(name)
    variables: Variables = {"similarity_to_final": (("model", "layer", "step"), own, dict(result[name].attrs))}
    variables |= _settled(result, name, trained, threshold, blocks)
    if several:
        families = connected_components(Kin(result).related(trained.models), directed=False)[1]
        has = np.asarray((trained.places >= 0).any(axis=2))
        variables |= _over_trainings(variables["settled_step"][1], has, families)
    for one, pane in trained.panes.items():
        variables[one] = ("model", "step", "layer", "layer_final"), pane, dict(result[one].attrs)
    if null := null_of(result, name):
        variables["null_to_final"] = ("model", "layer", "step"), trained.own(null), dict(result[null].attrs)
    if "rank_a" in result:
        variables["rank"] = ("model", "layer", "step"), trained.rank, dict(result["rank_a"].attrs)
    found = xr.Dataset(
        variables,
        coords={
            "model": trained.models,
            "step": trained.steps,
            "layer": list(trained.layers),
            "layer_final": list(trained.layers),
            "depth": ("layer", trained.depth),
            "checkpoint": (("model", "step"), trained.checkpoints),
        },
        attrs={"measure": name},
    )
    found["depth_correlation"] = _rank_correlation(found["settled_step"], trained.depth)
    found["depth_correlation"].attrs["long_name"] = "rank correlation of depth and settled step"
    before = found["similarity_to_final"].where(found["step"] < xr.DataArray(trained.ends, dims="model")).mean("step")
    found["similarity_depth_correlation"] = _rank_correlation(-sign_of(result, name) * before, trained.depth)
    found["similarity_depth_correlation"].attrs["long_name"] = (
        "rank correlation of depth and similarity to the final self before the final step, with its sign turned"
    )
    return found if several else found.isel(model=0)


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


@dataclass(frozen=True)
class _Trainings:
    """Checkpoints of some models beside their final ones.

    Attributes
    ----------
    models : list of str
    steps : (step,)
    layers : pandas.Index
    depth : (layer,)
    checkpoints : (model, step) str
        Empty where there is none.
    ends : (model,)
        Step of the final checkpoint.
    panes : dict of str to (model, step, layer, layer)
        The measure, and its null where there is one, of layers with final layers.
    rank : (model, layer, step)
    places : (model, layer, step) int
        In the comparison, on side a; negative where there is none.
    finals : (model, layer) int
        Of the final checkpoint, on side b.
    """

    models: list[str]
    steps: FloatArray
    layers: pd.Index[Any]
    depth: FloatArray
    checkpoints: npt.NDArray[np.str_]
    ends: FloatArray
    panes: dict[str, FloatArray]
    rank: FloatArray
    places: npt.NDArray[np.intp]
    finals: npt.NDArray[np.intp]

    @classmethod
    def read(cls, result: xr.Dataset, name: str, asked: npt.NDArray[np.intp]) -> _Trainings:
        """Those that are at some places of side a."""
        frames = {side: table_of(result, side) for side in SIDES}
        chosen = frames["a"].iloc[asked].assign(place=asked)
        models = list(dict.fromkeys(chosen["model"]))
        known = pd.concat([frame[frame["model"].isin(models)] for frame in frames.values()])
        final = frames["b"].assign(place=np.arange(len(frames["b"])))
        final = final[final["model"].isin(models) & final["layer"].isin(chosen["layer"])]
        final = final[is_final(final, known)]
        _check_steps(chosen)
        # A layer that has none is of its checkpoint's.
        chosen["step"] = chosen.groupby(["model", "checkpoint"], sort=False)["step"].transform("max")
        steps, layers = np.unique(chosen["step"]), in_order(chosen, "layer", "depth")
        shape = len(models), len(layers), len(steps)
        names = [name, *filter(None, [null_of(result, name)])]
        panes = {one: np.full((shape[0], shape[2], shape[1], shape[1]), np.nan) for one in names}
        rank, places, finals = np.full(shape, np.nan), np.full(shape, -1), np.full(shape[:2], -1)
        for number, one in enumerate(models):
            rows, columns = chosen[chosen["model"] == one], final[final["model"] == one]
            at = np.searchsorted(steps, rows["step"].to_numpy()), layers.get_indexer(rows["layer"])
            places[(number, *at[::-1])] = rows["place"]
            finals[number, layers.get_indexer(columns["layer"])] = columns["place"]
            for variable, pane in panes.items():
                block = result[variable][{"representation_a": rows["place"], "representation_b": columns["place"]}]
                pane[(number, *at)] = _spread(values_of(block), layers.get_indexer(columns["layer"]), len(layers))
            if "rank_a" in result:
                rank[(number, *at[::-1])] = values_of(result["rank_a"][{"representation_a": rows["place"]}])
        depth = chosen.groupby("layer")["depth"].mean()[layers].to_numpy()
        ends = final.groupby("model")["step"].max().reindex(models).to_numpy(dtype=np.float64)
        checkpoints = _checkpoints(chosen, models, steps)
        return cls(models, steps, layers, depth, checkpoints, ends, panes, rank, places, finals)

    def own(self, variable: str) -> FloatArray:
        """Of each layer with its final self, (model, layer, step)."""
        return np.moveaxis(np.diagonal(self.panes[variable], axis1=2, axis2=3), 2, 1)


def _settled(
    result: xr.Dataset, name: str, trained: _Trainings, threshold: float | None, blocks: int | None
) -> Variables:
    """When each layer of each model has settled, and between which steps that is by the examples."""
    own, sign, there = trained.own(name), sign_of(result, name), trained.checkpoints != ""
    if threshold is None:
        threshold = SETTLED if sign > 0 else SETTLED * float(np.nanmax(np.abs(own), initial=0.0))
    apart = distances_to_final(own, sign)
    said: dict[str, Any] = {
        "long_name": "first step from which a layer stays near its final self",
        "threshold": threshold,
    }
    variables: Variables = {
        "settled_step": (("model", "layer"), settled_steps(trained.steps, apart, there, threshold), said)
    }
    if blocks is not None:
        error = _error_over_examples(result, name, trained, own, blocks)
        text = "standard error of the difference to the final self: jackknife over blocks of examples"
        variables["stderr_to_final"] = ("model", "layer", "step"), error, {"long_name": text}
        for end, shift in (("earliest", -ERRORS), ("latest", ERRORS)):
            said = {"long_name": f"{end} step from which a layer may have settled", "coverage": COVERAGE}
            shifted = settled_steps(trained.steps, apart + shift * error, there, threshold)
            variables[f"settled_{end}"] = ("model", "layer"), shifted, said
    return variables


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


def _over_trainings(settled: FloatArray, has: npt.NDArray[np.bool_], families: npt.NDArray[Any]) -> Variables:
    """Settled steps of all trainings together, (model, layer): relatives are one training, in their median."""
    found = np.full((4, settled.shape[1]), np.nan)
    count = np.zeros(settled.shape[1], dtype=np.int64)
    for layer in range(settled.shape[1]):
        steps = [
            interval_of_median(settled[has[:, layer] & (families == family), layer]).median
            for family in np.unique(families[has[:, layer]])
        ]
        found[:, layer], count[layer] = interval_of_median(np.array(steps)), len(steps)
    texts = {
        "settled_by": "first step by which more than half of the trainings have settled",
        "settled_low": "lower end of the interval for the median over trainings",
        "settled_high": "upper end of the interval for the median over trainings",
        "settled_coverage": "how often such an interval holds the median",
    }
    variables: Variables = {
        name: (("layer",), values, {"long_name": text})
        for (name, text), values in zip(texts.items(), found, strict=True)
    }
    variables["trainings"] = ("layer",), count, {"long_name": "trainings that have the layer, relatives as one"}
    return variables


def _error_over_examples(
    result: xr.Dataset, name: str, trained: _Trainings, own: FloatArray, blocks: int
) -> FloatArray:
    """Standard error of how far layers are from their final selves, by the jackknife, (model, layer, step)."""
    labels = [column(result, "representation", side).astype(str) for side in SIDES]
    known = np.nonzero(np.isfinite(own))
    rows, columns = labels[0][trained.places[known]], labels[1][trained.finals[known[:2]]]
    pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
    found = jackknife(result, pairs, blocks=blocks, measures=[name])[f"{name}_jackknife"].to_numpy()
    without = np.full((*own.shape, blocks), np.nan)
    without[known] = found
    apart = distances_to_final(without, 1)
    spread = np.square(apart - apart.mean(axis=-1, keepdims=True)).sum(axis=-1)
    return np.asarray(np.sqrt((blocks - 1) / blocks * spread))


def _rank_correlation(values: xr.DataArray, depth: FloatArray) -> xr.DataArray:
    """Spearman's rank correlation of depth with what each layer has, over the layers that have it."""

    def one(row: FloatArray) -> float:
        both = pd.DataFrame({"value": row, "depth": depth}).dropna().rank()
        # Without a spread there is no order.
        varies = len(both) > 1 and bool((both.std() > 0).all())
        return float(both["value"].corr(both["depth"])) if varies else np.nan

    correlation: xr.DataArray = xr.apply_ufunc(one, values, input_core_dims=[["layer"]], vectorize=True)
    return correlation
