"""Which measure to trust: what each finds that it should find, with errors and what chance would give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats

from dask_svcca.analysis.identification import identified, looked_for
from dask_svcca.analysis.kin import Kin
from dask_svcca.analysis.measured import as_dataset, find_names, sign_of
from dask_svcca.analysis.selection import (
    SIDES,
    architectures,
    counterparts,
    not_computed,
    places_of,
    table_of,
    values_of,
)
from dask_svcca.analysis.significance import jackknife
from dask_svcca.errors import InvalidQuestionError
from dask_svcca.measures import find_measures
from dask_svcca.patterns import matching
from dask_svcca.variables import PAIR_STATUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pandas as pd
    import xarray as xr

    from dask_svcca.analysis.selection import Where
    from dask_svcca.kernels._types import BoolArray, FloatArray
    from dask_svcca.stores._io import StoreLike


def judge_measures(
    result: xr.Dataset | StoreLike,
    measure: str | Sequence[str] = "all",
    *,
    groups: Mapping[str, Where] | None = None,
    exclude: Sequence[str] = (),
    where: Where | None = None,
    blocks: int | None = None,
    relatives: bool = False,
) -> xr.Dataset:
    """What each measure finds that it should find: the same layer of another training, and groups of models.

    Two tests that need no retraining, over all measures of a comparison.

    Parameters
    ----------
    result : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    measure : str or sequence of str
        ``all`` for all measures of the comparison.
    groups : mapping of str to mapping, optional
        Two groups or more whose members should be alike, such as networks that were trained on true labels and on
        shuffled ones, as `within_and_between` takes them. Default: layers are looked for alone.
    exclude : sequence of str
        Names of layers to leave out, such as the logits, which any training makes alike; or patterns of names.
    where : mapping, optional
        Representations to look for, and to look among: see `query`. Default: all.
    blocks : int, optional
        Leave out so many blocks of examples in turn as well, as `jackknife` does, with the subspaces of the comparison.
        Default: none, which takes no more than the values.
    relatives : bool
        Look for layers among relatives too, as in `layer_identification`. Groups are taken as they are given.

    Returns
    -------
    xarray.Dataset
        ``identification``, ``identification_stderr``, ``identification_chance``, ``identification_tested``,
        ``identification_missing`` and ``identification_relatives`` (measure, architecture): the accuracy of
        `layer_identification`, its standard error over layers, what guesses would find, how many layers were looked
        for, how many were not since pairs of the two models were not selected or are not computed yet, and how many
        pairs of models were left out, as relatives. With blocks, ``identification_stderr_examples`` (measure,
        architecture): its standard error over examples; NaN for measures of examples among one another, such as
        ``mutual_knn`` and ``rsa``, which do not follow from directions. With groups, ``separation`` (measure): the
        share of cases in which two models of one group are more similar than two of different groups, in the same
        layer; half where they are equally similar. ``separation_missing`` (measure): how many layers were left out
        since a pair of them was not selected or is not computed yet. ``separation_stderr`` (measure): its standard
        error by leaving out one model after another; NaN for fewer than three models. ``separation_chance`` is 0.5.

    Raises
    ------
    UnknownMeasureError, RepresentationNotFoundError
    InvalidQuestionError
        Also where there are no two models of one architecture.

    References
    ----------
    Kornblith et al. (2019), Similarity of neural network representations revisited, ICML; Klabunde et al. (2025),
    ReSi: A comprehensive benchmark for representational similarity measures, ICLR, whose tests of labels and shortcuts
    take the models that learnt each as groups.

    Examples
    --------
    >>> import dask_svcca
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 2, 100, 4))
    >>> arrays = {}
    >>> for model, layers in {"true-0": x, "true-1": x, "other-0": y, "other-1": y}.items():
    ...     for name, layer in zip(("early", "late"), layers):
    ...         arrays[model, "end", name] = layer + 0.3 * rng.normal(size=layer.shape)
    >>> groups = {"true": {"model": "true-*"}, "other": {"model": "other-*"}}
    >>> found = judge_measures(dask_svcca.compare(arrays, measures=("svcca", "cka")), groups=groups)
    >>> found.separation.to_series().to_dict()
    {'svcca': 1.0, 'cka': 1.0}
    """
    result = as_dataset(result)
    names = find_names(result, measure)
    kin = None if relatives else Kin(result)
    found = identified(result, names, kin, exclude=exclude, where=where).rename(group="architecture")
    kept = {
        "accuracy": "identification",
        "accuracy_stderr": "identification_stderr",
        "chance": "identification_chance",
        "tested": "identification_tested",
        "missing": "identification_missing",
        "relatives": "identification_relatives",
    }
    judged = found[list(kept)].rename(kept)
    judged["identification"].attrs["null"] = "identification_chance"
    if blocks is not None:
        error = _error_over_examples(result, names, kin, exclude, where, blocks)
        text = "standard error of identification: jackknife over blocks of examples"
        judged["identification_stderr_examples"] = judged["identification"].copy(data=error)
        judged["identification_stderr_examples"].attrs = {"long_name": text, "units": "1"}
    if groups is None:
        return judged
    given: Any = groups
    if not isinstance(given, Mapping) or len(given) < 2:
        raise InvalidQuestionError(
            f"groups is a mapping of two names or more to what is in them, {{'true': {{'model': 'a*'}}, 'shuffled': "
            f"{{'model': 'b*'}}}}; got {groups!r}"
        )
    members = _members(result, groups, exclude, where)
    separated = np.array([_separation(result, name, members) for name in names])
    text = "share of cases in which two models of one group are more similar than two of different groups"
    return judged.assign(
        separation=("measure", separated[:, 0], {"long_name": text, "units": "1", "null": "separation_chance"}),
        separation_stderr=("measure", separated[:, 1], {"long_name": "its standard error: jackknife over models"}),
        separation_missing=("measure", separated[:, 2].astype(np.int64), {"long_name": "layers that were left out"}),
        separation_chance=("measure", np.full(len(names), 0.5), {"long_name": "share by chance", "units": "1"}),
    )


def _error_over_examples(
    result: xr.Dataset,
    names: Sequence[str],
    kin: Kin | None,
    exclude: Sequence[str],
    where: Where | None,
    blocks: int,
) -> FloatArray:
    """Standard error of the accuracy of each measure for each architecture, by leaving out blocks of examples.

    NaN for measures that do not follow from directions, and where no pair has a value.
    """
    able = [name for name in names if find_measures(name)[0].related is None]
    frames = [looked_for(result, side, exclude=exclude, where=where) for side in SIDES]
    places = {f"representation_{side}": frame["place"].to_numpy() for side, frame in zip(SIDES, frames, strict=True)}
    kept = [name for name in result.data_vars if name in able or str(name).startswith(PAIR_STATUS.name)]
    part = result[kept].isel(places).transpose("representation_a", "representation_b", ...).copy(deep=True)
    models = [group for group in architectures(frames[0]) if len(group) > 1]
    of_group = {model: number for number, group in enumerate(models) for model in group}
    groups = [frame["model"].map(of_group).to_numpy(dtype=np.float64) for frame in frames]
    wanted = groups[0][:, np.newaxis] == groups[1]
    wanted &= frames[0]["model"].to_numpy()[:, np.newaxis] != frames[1]["model"].to_numpy()
    if kin is not None:
        known, codes = np.unique(np.concatenate([frame["model"] for frame in frames]).astype(str), return_inverse=True)
        of_a, of_b = codes[: len(frames[0])], codes[len(frames[0]) :]
        wanted &= ~kin.related(known.tolist())[np.ix_(of_a, of_b)]
    error = np.full((len(names), len(models)), np.nan)
    if able:
        wanted &= np.all([np.isfinite(values_of(part[name])) for name in able], axis=0)
    rows, columns = np.nonzero(wanted)
    if not (able and len(rows)):
        return error
    labels = [part[dim].to_numpy() for dim in ("representation_a", "representation_b")]
    pairs = list(zip(map(str, labels[0][rows]), map(str, labels[1][columns]), strict=True))
    without = jackknife(result, pairs, blocks=blocks, measures=able)
    accuracies = []
    for block in range(blocks):
        for name in able:
            part[name].to_numpy()[rows, columns] = without[f"{name}_jackknife"].to_numpy()[:, block]
        accuracies.append(identified(part, able, kin)["accuracy"].to_numpy())
    spread = np.square(np.array(accuracies) - np.mean(accuracies, axis=0)).sum(axis=0)
    error[[names.index(name) for name in able]] = np.sqrt((blocks - 1) / blocks * spread)
    return error


def _members(
    result: xr.Dataset, groups: Mapping[str, Where], exclude: Sequence[str], where: Where | None
) -> pd.DataFrame:
    """Representations of groups: their place, model, layer, and group."""
    frame = table_of(result, "a")
    frame["group"] = ""
    wanted = np.zeros(len(frame), dtype=np.bool_)
    wanted[places_of(result, "a", where)] = True
    wanted &= ~frame["layer"].isin(matching(frame["layer"].unique(), exclude)).to_numpy()
    for name, group in groups.items():
        places = places_of(result, "a", group)
        taken = frame["group"].to_numpy()[places] != ""
        if taken.any():
            one = frame.iloc[places[taken]].iloc[0]
            raise InvalidQuestionError(
                f"'{one['model']}/{one['checkpoint']}/{one['layer']}' is in the groups {one['group']!r} and {name!r}; "
                f"a model is in one of them"
            )
        frame.loc[places, "group"] = name
    return frame[wanted & (frame["group"] != "").to_numpy()].reset_index(names="place")


def _separation(result: xr.Dataset, measure: str, members: pd.DataFrame) -> tuple[float, float, int]:
    """Share of cases in which a pair within a group is more similar than one between, its error, and layers without."""
    read = [_Block.read(result, measure, rows) for _, rows in members.groupby("layer", sort=False)]
    blocks = [block for block in read if block is not None]
    missing = len(read) - len(blocks)
    whole = _share(blocks, None)
    models = members["model"].unique()
    if len(models) < 3:
        return whole, np.nan, missing
    shares = np.array([_share(blocks, model) for model in models])
    count = len(shares)
    return whole, float(np.sqrt((count - 1) / count * np.square(shares - shares.mean()).sum())), missing


@dataclass(frozen=True)
class _Block:
    """Pairs of one layer in two models.

    Attributes
    ----------
    similarity : (pair,)
        Higher is more similar.
    within : (pair,) bool
        Whether both are of one group.
    models : (2, pair)
    """

    similarity: FloatArray
    within: BoolArray
    models: npt.NDArray[Any]

    @classmethod
    def read(cls, result: xr.Dataset, measure: str, rows: pd.DataFrame) -> _Block | None:
        """Pairs that have a value, in the mean of both orders; None where some are not computed."""
        places = rows["place"].to_numpy()
        place = {"representation_a": places, "representation_b": counterparts(result, places)}
        values = values_of(result[measure][place].transpose("representation_a", "representation_b"))
        values = sign_of(result, measure) * (values + values.T) / 2
        model, group = rows["model"].to_numpy(), rows["group"].to_numpy()
        if (not_computed(result, measure, place) & (model[:, np.newaxis] != model)).any():
            return None
        one, other = np.triu_indices(len(rows), 1)
        chosen = np.isfinite(values[one, other]) & (model[one] != model[other])
        one, other = one[chosen], other[chosen]
        return cls(values[one, other], group[one] == group[other], np.stack([model[one], model[other]]))


def _share(blocks: Sequence[_Block], without: str | None) -> float:
    """Share of cases over all layers, without one model; NaN where there are none.

    Examples
    --------
    >>> models = np.array([["a", "a", "a"], ["b", "c", "d"]])
    >>> block = _Block(np.array([0.9, 0.5, 0.9]), np.array([True, False, False]), models)
    >>> _share([block], None), _share([block], "d")
    (0.75, 1.0)
    """
    higher, cases = 0.0, 0
    for block in blocks:
        kept = (block.models != without).all(axis=0)
        within = block.within[kept]
        ranks = scipy.stats.rankdata(block.similarity[kept])
        count = int(within.sum())
        higher += float(ranks[within].sum()) - count * (count + 1) / 2
        cases += count * (len(within) - count)
    return higher / cases if cases else float("nan")
