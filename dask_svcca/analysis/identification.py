"""Layer identification: how often a measure finds the corresponding layer of another training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import xarray as xr

from dask_svcca.analysis.kin import Kin
from dask_svcca.analysis.measured import as_dataset, named, sign_of
from dask_svcca.analysis.selection import SIDES, architectures, not_computed, places_of, table_of
from dask_svcca.errors import InvalidQuestionError, RepresentationNotFoundError, did_you_mean
from dask_svcca.patterns import matching, unmatched
from dask_svcca.plan.final import final_checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from dask_svcca.analysis.selection import Side, Where
    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray
    from dask_svcca.stores._io import StoreLike

Groups: TypeAlias = "Mapping[str, Sequence[str]] | Iterable[Sequence[str]]"


def layer_identification(
    result: xr.Dataset | StoreLike,
    measure: str | Sequence[str] = "svcca",
    *,
    groups: Groups | None = None,
    checkpoint: str | None = None,
    exclude: Sequence[str] = (),
    where: Where | None = None,
    relatives: bool = False,
) -> xr.Dataset:
    """How often the most similar layer of another training of the same architecture is the corresponding layer.

    This tests a measure, and needs no ground truth but the architecture: each layer of one model is looked for among
    the layers of another, for all ordered pairs of models of a group. A layer that is as similar to another layer as
    to its counterpart was not found.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    measure : str or sequence of str
        ``all`` for all measures of the comparison.
    groups : mapping of str to sequence of str, or iterable of sequence of str, optional
        Models of one architecture, by a name for it. Default: models whose layers have the same names.
    checkpoint : str, optional
        Checkpoint of all models. Default: the last of each model.
    exclude : sequence of str
        Names of layers to leave out, such as the logits, which any training makes alike; or patterns of names, as in
        `query`.
    where : mapping, optional
        Representations to look for, and to look among: see `query`. Default: all.
    relatives : bool
        Look among relatives too: models of which one began with the other, or both with one, by ``parent`` of
        `Zoo.write`. Default: not, also where groups are given, since a training resembles what it began with.

    Returns
    -------
    xarray.Dataset
        ``accuracy`` (measure, group): share of layers found. ``accuracy_stderr`` (measure, group): its standard error,
        by leaving out one layer after another, on both sides; NaN for fewer than three. ``chance`` (measure, group):
        the share that guesses would find, the mean of 1 over the number of layers that each was looked for among.
        ``tested`` (measure, group): number of layers that were looked for, which takes pairs that have a value.
        ``missing`` (measure, group): number of layers that were not looked for since a pair of the two models was not
        selected or is not computed yet: ``pairs="nearest 20"`` has similar ones alone, among which any layer is found.
        ``layer_accuracy`` (measure, group, layer): the share for each layer, NaN where it was not looked for.
        ``chosen`` (measure, model_a, model_b, layer): name of the layer of model_b that is most similar to a layer of
        model_a, the first of those that are equally similar; empty where it was not looked for, or the two are of no
        group, or relatives. ``relatives`` (measure, group): how many pairs of models were left out for that.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError
        Where the comparison has no such measure, model or checkpoint.
    InvalidQuestionError
        Where there are no two models to compare, or only relatives.

    References
    ----------
    Kornblith et al. (2019), Similarity of neural network representations revisited, ICML, table 2. Efron and Stein
    (1981), The jackknife estimate of variance, Annals of Statistics 9.

    Examples
    --------
    >>> import tempfile, dask_svcca
    >>> rng, folder = np.random.default_rng(0), tempfile.mkdtemp()
    >>> early, late = rng.normal(size=(2, 100, 4))
    >>> with dask_svcca.create_zoo(folder + "/zoo.zarr", examples=range(100)) as zoo:
    ...     for seed in ("net-0", "net-1"):
    ...         zoo.write(seed, "end", "early", early + 0.3 * rng.normal(size=early.shape))
    ...         zoo.write(seed, "end", "late", late + 0.3 * rng.normal(size=late.shape))
    >>> result = dask_svcca.compare(zoo, folder + "/comparison.zarr")
    >>> found = layer_identification(result, groups={"net": ["net-0", "net-1"]})
    >>> float(found.accuracy.sel(measure="svcca", group="net")), int(found.tested.sel(measure="svcca", group="net"))
    (1.0, 4)
    """
    result = as_dataset(result)
    kin = None if relatives else Kin(result)
    return identified(result, measure, kin, groups=groups, checkpoint=checkpoint, exclude=exclude, where=where)


def identified(
    result: xr.Dataset,
    measure: str | Sequence[str],
    kin: Kin | None,
    *,
    groups: Groups | None = None,
    checkpoint: str | None = None,
    exclude: Sequence[str] = (),
    where: Where | None = None,
) -> xr.Dataset:
    """As `layer_identification`, of a part of a comparison, with the relatives of the whole."""
    measures = _measures(result, measure)
    check_excluded(result, exclude)
    frames = [looked_for(result, side, checkpoint=checkpoint, exclude=exclude, where=where) for side in SIDES]
    chosen = _groups(frames[0], groups)
    apart = {
        name: list(permutations(models, 2) if kin is None else kin.apart(models)) for name, models in chosen.items()
    }
    if not any(apart.values()):
        (first, second), *_ = (models[:2] for models in chosen.values())
        raise InvalidQuestionError(
            f"all models that could be compared are relatives, such as {first!r} and {second!r}: one began with the "
            f"other, or both with one, and are not trainings of their own. Choose others, or look among these too, by "
            f"relatives=True"
        )
    layers = list(dict.fromkeys(layer for models in chosen.values() for layer in _layers_of(frames[0], models)))
    shape = len(measures), len(chosen)
    # Of each layer: found, looked for; and without it, how many others are found more, and no longer looked for.
    found_in, tested, rescued, alone, alone_found = (np.zeros((*shape, len(layers)), dtype=np.int64) for _ in range(5))
    guesses, missing = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    members = list(dict.fromkeys(model for models in chosen.values() for model in models))
    most_similar = np.full((len(measures), len(members), len(members), len(layers)), "", dtype=object)
    for row, name in enumerate(measures):
        sign = sign_of(result, name)
        for column, pairs in enumerate(apart.values()):
            for first, second in pairs:
                a, b = (frame[frame["model"] == model] for frame, model in zip(frames, (first, second), strict=True))
                places = {"representation_a": a["place"].to_numpy(), "representation_b": b["place"].to_numpy()}
                if not_computed(result, name, places).any():
                    missing[row, column] += len(a)
                    continue
                values = sign * result[name].isel(places).to_numpy()
                found = _identify(values, list(a["layer"]), list(b["layer"]))
                guesses[row, column] += _guessed(values, [one.looked_for for one in found])
                for one in found:
                    at = (row, column, layers.index(one.layer))
                    tested[at] += one.looked_for
                    found_in[at] += one.was_found
                    most_similar[row, members.index(first), members.index(second), at[-1]] = one.nearest
                    if one.rival:
                        at = (row, column, layers.index(one.rival))
                        rescued[at] += one.found_without_rival and not one.was_found
                        alone[at] += one.is_only_rival
                        alone_found[at] += one.is_only_rival and one.was_found
    related = [math.comb(len(models), 2) - len(apart[name]) // 2 for name, models in chosen.items()]
    left_out = found_in.sum(axis=-1, keepdims=True) - found_in + rescued - alone_found
    counts = tested.sum(axis=-1, keepdims=True) - tested - alone
    with np.errstate(invalid="ignore"):
        accuracy, by_layer = found_in.sum(axis=-1) / tested.sum(axis=-1), found_in / tested
        chance = guesses / tested.sum(axis=-1)
    return xr.Dataset(
        {
            "accuracy": (
                ("measure", "group"),
                accuracy,
                {"long_name": "share of layers found", "units": "1", "null": "chance"},
            ),
            "accuracy_stderr": (
                ("measure", "group"),
                _jackknife_error(left_out, counts, tested > 0),
                {"long_name": "standard error of accuracy: jackknife over layers", "units": "1"},
            ),
            "chance": (("measure", "group"), chance, {"long_name": "share that guesses find", "units": "1"}),
            "tested": (("measure", "group"), tested.sum(axis=-1), {"long_name": "layers that were looked for"}),
            "missing": (("measure", "group"), missing, {"long_name": "layers of models not compared as a whole"}),
            "layer_accuracy": (
                ("measure", "group", "layer"),
                by_layer,
                {"long_name": "share of the trainings in which a layer was found", "units": "1"},
            ),
            "chosen": (
                ("measure", "model_a", "model_b", "layer"),
                most_similar.astype(np.str_),
                {"long_name": "most similar layer of the other model"},
            ),
            "relatives": (
                ("measure", "group"),
                np.tile(related, (len(measures), 1)),
                {"long_name": "pairs of models that were left out, as relatives"},
            ),
        },
        coords={
            "measure": measures,
            "group": list(chosen),
            "layer": layers,
            "model_a": members,
            "model_b": members,
        },
    )


def _measures(result: xr.Dataset, measure: str | Sequence[str]) -> list[str]:
    known = [
        str(name) for name, array in result.data_vars.items() if array.attrs.get("sense") in {"similarity", "distance"}
    ]
    if measure == "all":
        return known
    wanted = [measure] if isinstance(measure, str) else list(measure)
    return [named(name, known) for name in wanted]


def check_excluded(result: xr.Dataset, exclude: Sequence[str]) -> None:
    """Refuse names of layers to leave out that the comparison does not have."""
    layers = list(dict.fromkeys(str(name) for side in "ab" for name in result[f"layer_{side}"].to_numpy()))
    if missing := unmatched(layers, exclude):
        raise RepresentationNotFoundError(
            f"no layer of this comparison matches exclude={missing[0]!r}; it has {', '.join(map(repr, layers))}"
            f"{did_you_mean(missing[0], layers)}"
        )


def looked_for(
    result: xr.Dataset,
    side: Side,
    *,
    checkpoint: str | None = None,
    exclude: Sequence[str] = (),
    where: Where | None = None,
) -> pd.DataFrame:
    """Representations of one checkpoint of each model, with their place in the matrix, in order of depth.

    Parameters are those of `layer_identification`.
    """
    frame = table_of(result, side)
    frame["place"] = np.arange(len(frame))
    if checkpoint is None:
        chosen: BoolArray = final_checkpoints(frame)
    else:
        chosen = np.asarray(frame["checkpoint"] == checkpoint, dtype=np.bool_)
        if not chosen.any():
            raise RepresentationNotFoundError(f"no model of this comparison has a checkpoint {checkpoint!r}")
    wanted = ~frame["layer"].isin(matching(frame["layer"].unique(), exclude)).to_numpy()
    wanted[np.setdiff1d(np.arange(len(frame)), places_of(result, side, where))] = False
    return frame[chosen & wanted].sort_values("depth", kind="stable")


def _groups(frame: pd.DataFrame, groups: Groups | None) -> dict[str, list[str]]:
    """Models by architecture."""
    known = list(dict.fromkeys(frame["model"]))
    if groups is None:
        chosen = {", ".join(models): models for models in architectures(frame) if len(models) > 1}
        if not known:
            raise InvalidQuestionError("there are no representations here, and so no two models of one architecture")
        if not chosen:
            raise InvalidQuestionError(
                f"no two of the models {', '.join(map(repr, known))} have the same layers; say which are of one "
                f"architecture: groups={{'name': [model, model]}}"
            )
        return chosen
    named = groups.items() if isinstance(groups, Mapping) else ((", ".join(models), models) for models in groups)
    chosen = {name: list(models) for name, models in named}
    for name, models in chosen.items():
        if len(set(models)) < 2:
            raise InvalidQuestionError(
                f"a group has two models or more; {name!r} has {', '.join(map(repr, models)) or 'none'}"
            )
        for model in models:
            if model not in known:
                raise RepresentationNotFoundError(
                    f"no model {model!r} in this comparison; it has {', '.join(map(repr, known))}"
                )
    return chosen


def _layers_of(frame: pd.DataFrame, models: Sequence[str]) -> list[str]:
    return [str(layer) for layer in frame.loc[frame["model"].isin(models), "layer"]]


class _Looked(NamedTuple):
    """What became of a layer that was looked for.

    Attributes
    ----------
    layer : str
    looked_for, was_found : bool
    nearest : str
        The most similar layer; empty where it was not looked for.
    rival : str
        The most similar layer but its counterpart, of another name; empty where it was not looked for.
    found_without_rival, is_only_rival : bool
    """

    layer: str
    looked_for: bool
    was_found: bool = False
    nearest: str = ""
    rival: str = ""
    found_without_rival: bool = False
    is_only_rival: bool = False


def _identify(values: FloatArray, layers_a: Sequence[str], layers_b: Sequence[str]) -> list[_Looked]:
    """Whether each layer of a was looked for in b, and found.

    Parameters
    ----------
    values : (a, b)
        Higher is more similar.
    layers_a, layers_b : sequence of str

    Examples
    --------
    >>> for found in _identify(np.array([[0.9, 0.2], [0.5, 0.4]]), ["x", "y"], ["x", "y"]):
    ...     found.layer, found.was_found, found.nearest, found.rival
    ('x', True, 'x', 'y')
    ('y', False, 'x', 'x')
    """
    identified = []
    for layer, row in zip(layers_a, values, strict=True):
        own = np.array([other == layer for other in layers_b], dtype=np.bool_)
        others = np.flatnonzero(~own & np.isfinite(row))
        if not (np.isfinite(row[own]).any() and len(others)):
            identified.append(_Looked(layer, looked_for=False))
            continue
        mine, rival = row[own].max(), others[np.argmax(row[others])]
        rest = row[others[others != rival]]
        identified.append(
            _Looked(
                layer,
                looked_for=True,
                was_found=bool(mine > row[rival]),
                nearest=layers_b[int(np.nanargmax(row))],
                rival=layers_b[rival],
                found_without_rival=bool(len(rest) and mine > rest.max()),
                is_only_rival=not len(rest),
            )
        )
    return identified


def _jackknife_error(found: IntArray, counts: IntArray, there: BoolArray) -> FloatArray:
    """Standard error of a share, from those without one layer after another, (..., layer).

    Examples
    --------
    Of three layers, two were found: without one of these, 1 of 2; without the third, 2 of 2.

    >>> _jackknife_error(np.array([1, 1, 2]), np.array([2, 2, 2]), np.array([True, True, True])).round(3)
    np.float64(0.333)
    """
    known = there & (counts > 0)
    shares = np.where(known, found / np.where(known, counts, 1), 0.0)
    size = known.sum(axis=-1)
    mean = shares.sum(axis=-1) / np.maximum(size, 1)
    squares = np.where(known, np.square(shares - mean[..., np.newaxis]), 0.0).sum(axis=-1)
    return np.where(size > 2, np.sqrt((size - 1) / np.maximum(size, 1) * squares), np.nan)[()]


def _guessed(values: FloatArray, looked_for: Sequence[bool]) -> float:
    """How many of the layers that are looked for guesses would find, among those that have a value.

    Examples
    --------
    >>> _guessed(np.array([[0.9, 0.2], [0.5, np.nan]]), [True, False])
    0.5
    """
    return float((1 / np.isfinite(values[looked_for]).sum(axis=1)).sum())
