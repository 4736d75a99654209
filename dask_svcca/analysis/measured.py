"""Measures of a comparison: which there are, which way round they are, and what chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from dask_svcca.errors import InvalidQuestionError, UnknownMeasureError, did_you_mean
from dask_svcca.stores._io import is_place
from dask_svcca.stores.choice import is_several
from dask_svcca.stores.dataset import as_opened, open_comparison, parameters_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from dask_svcca.stores._io import StoreLike

SENSES = ("similarity", "distance")


def as_dataset(comparison: xr.Dataset | StoreLike, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """A comparison as `open_comparison` has it; a Dataset stays one, also where xarray alone opened or saved it.

    Raises
    ------
    InvalidQuestionError
        For anything else than a Dataset or where one is.
    """
    if isinstance(comparison, xr.Dataset):
        return as_opened(comparison)
    if not is_place(comparison):
        whole = ", which is a part of one: pass the Dataset itself" if isinstance(comparison, xr.DataArray) else ""
        raise InvalidQuestionError(
            f"questions are about a comparison: what compare or open_comparison returned, or where it is; got "
            f"{type(comparison).__name__}{whole}"
        )
    return open_comparison(comparison, storage_options=storage_options)


def measures_of(result: xr.Dataset) -> list[str]:
    """Measures of a comparison, those that were asked for first and in that order, without references."""
    known = [str(name) for name, array in result.data_vars.items() if array.attrs.get("sense") in SENSES]
    asked = [name for name in parameters_of(result).get("measures", ()) if name in known]
    return list(dict.fromkeys([*asked, *sorted(known)]))


def references_of(result: xr.Dataset) -> list[str]:
    """References of a comparison, such as values by chance, by name."""
    return sorted(str(name) for name, array in result.data_vars.items() if array.attrs.get("sense") == "reference")


def find_names(result: xr.Dataset, measure: str | Sequence[str] | None, *, references: bool = False) -> list[str]:
    """Names of measures that were asked for.

    Parameters
    ----------
    result : xarray.Dataset
    measure : str or sequence of str, optional
        ``all`` for all measures. Default: the first that the comparison was asked for.
    references : bool
        Whether those may be asked for as well.

    Raises
    ------
    UnknownMeasureError
        The message says what there is.
    """
    measures = measures_of(result)
    if not measures:
        raise UnknownMeasureError("this Dataset has no measure; pass what compare or open_comparison returned")
    if measure is None:
        return measures[:1]
    if measure == "all" and "all" not in result:
        return measures
    present = [*measures, *(references_of(result) if references else ())]
    given: Any = measure
    names: list[str] = list(given) if is_several(given) else [given]
    for name in names:
        if name not in present:
            raise UnknownMeasureError(
                f"no measure {name!r} in this comparison; it has {', '.join(present)}{did_you_mean(name, present)}"
            )
    return names


def find_name(result: xr.Dataset, measure: str | None) -> str:
    """Name of one measure; see `find_names`."""
    if measure is not None and not isinstance(measure, str):
        raise UnknownMeasureError(f"this takes one measure by its name; got {measure!r}")
    return find_names(result, [measure] if measure is not None else None)[0]


def sign_of(result: xr.Dataset, measure: str) -> int:
    """1 where higher is more similar, -1 where lower is."""
    return -1 if result[measure].attrs.get("sense") == "distance" else 1


def null_of(result: xr.Dataset, measure: str) -> str:
    """Name of the variable that says what chance would give; empty where the comparison has none."""
    name = str(result[measure].attrs.get("null", ""))
    return name if name in result else ""
