"""Measures of a comparison: which there are, which way round they are, and what chance would give."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from dask_svcca.analysis.selection import values_of
from dask_svcca.errors import InvalidQuestionError, OnlyEstimatesWarning, UnknownMeasureError, did_you_mean
from dask_svcca.measures import find_measures, one_name
from dask_svcca.stores._io import is_place
from dask_svcca.stores._names import checkpoint_label
from dask_svcca.stores.choice import is_several
from dask_svcca.stores.dataset import as_opened, open_comparison, parameters_of
from dask_svcca.variables import ESTIMATE, ESTIMATE_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from dask_svcca.stores._io import StoreLike

SENSES = ("similarity", "distance")
BLOCK_ELEMENTS = 2**22
"""Elements of a matrix that are read at a time."""

MODELS = ("model_a", "model_b")
"""Dimensions of what `dask_svcca.analysis.models.model_similarity` returns."""


def as_dataset(comparison: xr.Dataset | StoreLike, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """A comparison as `open_comparison` has it; a Dataset stays one, also where xarray alone opened or saved it.

    One of `model_similarity` has each checkpoint as a representation with a layer without a name, so that all questions
    take it.

    Raises
    ------
    InvalidQuestionError
        For anything else than a Dataset or where one is.
    """
    if isinstance(comparison, xr.Dataset):
        return _models_as_layers(comparison) if set(MODELS) <= set(comparison.dims) else as_opened(comparison)
    if not is_place(comparison):
        whole = ", which is a part of one: pass the Dataset itself" if isinstance(comparison, xr.DataArray) else ""
        raise InvalidQuestionError(
            f"questions are about a comparison: what compare or open_comparison returned, or where it is; got "
            f"{type(comparison).__name__}{whole}"
        )
    return open_comparison(comparison, storage_options=storage_options)


def _models_as_layers(models: xr.Dataset) -> xr.Dataset:
    dims = {dim: f"representation{dim[-2:]}" for dim in MODELS}
    result = models.drop_indexes([dim for dim in MODELS if dim in models.xindexes]).rename_dims(dims)
    for dim in dims.values():
        model, checkpoint = (result[f"{name}{dim[-2:]}"].to_numpy() for name in ("model", "checkpoint"))
        names = zip(model.tolist(), checkpoint.tolist(), strict=True)
        labels = np.array([checkpoint_label(*name) for name in names], dtype=np.str_)
        result = result.assign_coords(
            {
                dim: labels,
                f"layer{dim[-2:]}": (dim, np.full(len(labels), "", dtype="<U1")),
                f"depth{dim[-2:]}": (dim, np.full(len(labels), np.nan)),
            }
        )
    return result


def measures_of(result: xr.Dataset) -> list[str]:
    """Measures of a comparison, those that were asked for first and in that order, without references."""
    known = [str(name) for name, array in result.data_vars.items() if array.attrs.get("sense") in SENSES]
    asked = [name for name in parameters_of(result).get("measures", ()) if name in known]
    return list(dict.fromkeys([*asked, *sorted(known)]))


def references_of(result: xr.Dataset) -> list[str]:
    """References of a comparison, such as values by chance, by name."""
    return sorted(str(name) for name, array in result.data_vars.items() if array.attrs.get("sense") == "reference")


def estimates_of(result: xr.Dataset) -> list[str]:
    """Variables of estimates that a preview left in a comparison, and their standard errors: not measures."""
    return [one.name for one in ESTIMATE_VARIABLES if "estimate_of" in result.get(one.name, xr.DataArray()).attrs]


def say_estimates(result: xr.Dataset, count: int) -> str:
    """What to add where pairs have no value, and some of them an estimate; empty where none has."""
    if not count:
        return ""
    return (
        f"{count:,} of these pairs have an estimate of {result[ESTIMATE.name].attrs['estimate_of']!r} from a preview, "
        f"which is asked for by its own name, {ESTIMATE.name!r}"
    )


def warn_of_estimates(measure: str, said: str) -> None:
    """Warn the caller of a question that nothing has a value, where there is something to say of estimates."""
    if said:
        text = f"no pair asked for has a value of {measure!r} yet: {said}"
        warnings.warn(text, OnlyEstimatesWarning, stacklevel=3)


def say_estimates_at(result: xr.Dataset, measure: str, place: Mapping[str, Any]) -> str:
    """The same of the pairs at some places, which have no value of a measure."""
    if measure in (known := estimates_of(result)) or not known:
        return ""
    rows, columns = place["representation_a"], place["representation_b"]
    height = max(1, BLOCK_ELEMENTS // max(1, len(columns)))
    parts = ({**place, "representation_a": rows[start : start + height]} for start in range(0, len(rows), height))
    return say_estimates(result, sum(int(np.isfinite(values_of(result[ESTIMATE.name][part])).sum()) for part in parts))


def find_names(
    result: xr.Dataset, measure: str | Sequence[str] | None, *, references: bool = False, estimates: bool = False
) -> list[str]:
    """Names of measures that were asked for.

    Parameters
    ----------
    result : xarray.Dataset
    measure : str or sequence of str, optional
        ``all`` for all measures. Default: the first that the comparison was asked for.
    references : bool
        Whether those may be asked for as well, and standard errors of estimates.
    estimates : bool
        Whether estimates may be asked for by their name; neither by default nor as one of all measures.

    Raises
    ------
    UnknownMeasureError
        The message says what there is.
    """
    measures = measures_of(result)
    taken = [name for name in estimates_of(result) if estimates and (references or name == ESTIMATE.name)]
    if not measures and not (taken and measure is not None):
        raise UnknownMeasureError("this Dataset has no measure; pass what compare or open_comparison returned")
    if measure is None:
        return measures[:1]
    if measure == "all" and "all" not in result:
        return measures
    present = [*measures, *(references_of(result) if references else ()), *taken]
    given: Any = measure
    names: list[str] = list(given) if is_several(given) else [given]
    for name in names:
        if name in estimates_of(result) and name not in present:
            raise UnknownMeasureError(
                f"{name!r} is not a measure: a preview made it from sketches, and this takes measures alone. "
                f"{ESTIMATE.name!r} is taken by query, nearest, match_layers, embedding, cluster, and the figures "
                f"matrix, embedding and cluster; estimates('comparison.sketches.zarr') has all of them as a comparison"
            )
    return [named(name, present) for name in names]


def named(name: str, present: Sequence[str]) -> str:
    """One of the measures that are present, however its parameters are spelled.

    Raises
    ------
    UnknownMeasureError
        The message says what there is.

    Examples
    --------
    >>> named("mutual_knn(k=10)", ["svcca", "mutual_knn"]), named("gulp(lambda=0.10)", ["gulp(lambda=0.1)"])
    ('mutual_knn', 'gulp(lambda=0.1)')
    """
    if name in present:
        return name
    advice = did_you_mean(name, present)
    with suppress(UnknownMeasureError):
        # Comparisons that exist may have another spelling than the one name.
        wanted, stem = one_name(str(name)), str(name).partition("(")[0].strip()
        for one in present:
            if one.partition("(")[0] == stem and one_name(one) == wanted:
                return one
        find_measures(str(name))
        advice = f". compare adds it to what is there: measures={name!r}, or --measure {name!r}"
    raise UnknownMeasureError(f"no measure {name!r} in this comparison; it has {', '.join(present)}{advice}")


def find_name(result: xr.Dataset, measure: str | None, *, estimates: bool = False) -> str:
    """Name of one measure; see `find_names`."""
    if measure is not None and not isinstance(measure, str):
        raise UnknownMeasureError(f"this takes one measure by its name; got {measure!r}")
    return find_names(result, [measure] if measure is not None else None, estimates=estimates)[0]


def sign_of(result: xr.Dataset, measure: str) -> int:
    """1 where higher is more similar, -1 where lower is: of a distance, and of the p-values of a measure."""
    sense = result[measure].attrs.get("sense")
    if sense == "reference":
        return -1 if measure in p_values_of(result) else 1
    return -1 if sense == "distance" else 1


def null_of(result: xr.Dataset, measure: str) -> str:
    """Name of the variable that says what chance would give; empty where the comparison has none."""
    name = str(result[measure].attrs.get("null", ""))
    return name if name in result else ""


def spread_of(result: xr.Dataset, measure: str) -> str:
    """Name of the variable with the standard deviation of what chance would give; empty where there is none."""
    null = null_of(result, measure)
    # Comparisons that gained it later do not say so at the measure.
    name = str(result[measure].attrs.get("null_sd", "")) or (f"{null}_sd" if null else "")
    return name if name in result else ""


def centred_by_chance(result: xr.Dataset, measure: str) -> bool:
    """Whether chance gives a measure 0 on average, with a standard deviation that is known, as `rsa`."""
    return not null_of(result, measure) and bool(spread_of(result, measure))


def p_value_of(result: xr.Dataset, measure: str) -> str:
    """Name of the variable with p-values of a measure; empty where the comparison has none."""
    # Comparisons that gained p-values later do not say so at the measure.
    name = str(result[measure].attrs.get("p_value", "")) or f"p_{measure}"
    return name if name in result else ""


def p_values_of(result: xr.Dataset) -> frozenset[str]:
    """Names of all variables with p-values of a comparison."""
    return frozenset(filter(None, (p_value_of(result, one) for one in measures_of(result))))
