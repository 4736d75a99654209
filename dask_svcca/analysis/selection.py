"""Representations that a question is about: ``where=``, ``a=`` and ``b=`` of all functions of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import pandas as pd

from dask_svcca.errors import IncompatibleError, InvalidQuestionError, RepresentationNotFoundError, did_you_mean
from dask_svcca.plan.final import final_of_models
from dask_svcca.stores._metadata import reading
from dask_svcca.stores.choice import NAMES, NUMBERS, choose
from dask_svcca.variables import PAIR_STATUS, UNFINISHED

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

KEYS: Final = (*NAMES, *NUMBERS, "final")
COLUMNS: Final = ("model", "checkpoint", "layer", "step", "depth")

Side: TypeAlias = Literal["a", "b"]
SIDES: Final[tuple[Side, Side]] = ("a", "b")
Where: TypeAlias = "Mapping[str, Any]"
"""Some of `KEYS`, with a value, several of them, a pattern of names, or a slice of numbers; ``final`` is a boolean."""


def places_of(result: xr.Dataset, side: Side, where: Where | None = None) -> npt.NDArray[np.intp]:
    """Places of the representations of one side that a choice means, in the order of the comparison.

    Parameters
    ----------
    result : xarray.Dataset
        From `open_comparison` or `compare`, finished or not, or a part of one.
    side : {"a", "b"}
    where : mapping, optional
        ``model``, ``checkpoint``, ``layer`` and ``representation``: a name, a pattern, or several of these. ``step``
        and ``depth``: a number, several, or a slice with both ends included. ``final``: True for the final checkpoint
        of each model, False for all others. Default: all.

    Returns
    -------
    (chosen,) int

    Raises
    ------
    RepresentationNotFoundError
        Where one of the values is not there; the message says what is.
    InvalidQuestionError
        Where a key or a value is not valid, or which checkpoint is final cannot be known.
    IncompatibleError
        Where the Dataset lacks a side or a coordinate.

    Examples
    --------
    >>> import dask_svcca
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> result = dask_svcca.compare({("net", "1", layer): x for layer in ("conv1", "conv2", "fc")})
    >>> places_of(result, "a", {"layer": "conv*"}), places_of(result, "b", {"layer": ["fc", "conv1"]})
    (array([0, 1]), array([0, 2]))
    """
    where = {} if where is None else where
    if not isinstance(where, Mapping):
        raise InvalidQuestionError(
            f"representations on side {side} are chosen by a mapping, such as dict(model='net', final=True); got "
            f"{where!r}"
        )
    for key in where:
        if key not in KEYS:
            raise InvalidQuestionError(
                f"side {side} is chosen by {', '.join(map(repr, KEYS))}; got {key!r}{did_you_mean(key, KEYS)}"
            )
    count = len(column(result, "representation", side))
    choice = {key: value for key, value in where.items() if key != "final"}
    chosen = choose({key: column(result, key, side) for key in choice}, choice, count, f"side {side}")
    if "final" in where:
        chosen &= _by_final(result, side, where["final"], chosen)
    return np.flatnonzero(chosen)


def part_of(result: xr.Dataset, a: Where | None = None, b: Where | None = None) -> xr.Dataset:
    """Rows and columns of a comparison that two choices mean, in its own order; see `places_of`."""
    return result.isel(representation_a=places_of(result, "a", a), representation_b=places_of(result, "b", b))


def table_of(result: xr.Dataset, side: Side) -> pd.DataFrame:
    """Names, step and depth of the representations of one side, in the order of the comparison."""
    return pd.DataFrame({name: column(result, name, side) for name in COLUMNS})


def numbered(result: xr.Dataset) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """A number for each representation of side a, and of side b: the same for the same label, ascending along a.

    A part of a comparison may have other representations on one side than on the other, or in another order.
    """
    a, b = (column(result, "representation", side) for side in SIDES)
    if np.array_equal(a, b):
        return np.arange(len(a)), np.arange(len(b))
    numbers, _ = pd.factorize(np.concatenate([a.astype(object), b.astype(object)]))
    return numbers[: len(a)], numbers[len(a) :]


def counterparts(result: xr.Dataset, places: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Places on side b of the representations that are at some places of side a.

    Raises
    ------
    IncompatibleError
        Where one of them is not on side b.
    """
    numbers, others = numbered(result)
    at = dict(zip(others.tolist(), range(len(others)), strict=True))
    found = [at.get(number, -1) for number in numbers[places].tolist()]
    if missing := found.count(-1):
        label = str(column(result, "representation", "a")[places[found.index(-1)]])
        raise IncompatibleError(
            f"each representation is needed on both sides of the comparison, and {missing:,} of {len(found):,} are on "
            f"side a alone, the first {label!r}: choose others, or pass the whole comparison and not a part of it"
        )
    return np.asarray(found, dtype=np.intp)


def is_final(frame: pd.DataFrame, known: pd.DataFrame | None = None) -> npt.NDArray[np.bool_]:
    """Whether each representation of a table is of the final checkpoint of its model.

    Parameters
    ----------
    frame : pandas.DataFrame
        As from `table_of`.
    known : pandas.DataFrame, optional
        All representations that there are of these models. Default: those of the table.

    Raises
    ------
    InvalidQuestionError
        Where neither steps nor names say which checkpoint is final.
    """
    try:
        finals = final_of_models(frame if known is None else known)
    except ValueError as error:
        raise InvalidQuestionError(str(error)) from None
    return np.asarray(frame["checkpoint"].to_numpy() == frame["model"].map(finals).to_numpy(), dtype=np.bool_)


def column(result: xr.Dataset, name: str, side: Side) -> npt.NDArray[Any]:
    """A coordinate of one side, (representation,)."""
    dim, full = f"representation_{side}", f"{name}_{side}"
    if dim not in result.dims or full not in result.variables:
        lacks = f"the dimension {dim!r}" if dim not in result.dims else f"the coordinate {full!r}"
        raise IncompatibleError(
            f"this Dataset lacks {lacks}: pass what compare or open_comparison returned, or a part of it with both "
            f"dimensions, such as result.isel(representation_{side}=[0])"
        )
    return values_of(result[full])


def values_of(array: xr.DataArray) -> npt.NDArray[Any]:
    """What is stored of a variable, or of a part of it."""
    with reading(str(array.name), array.encoding.get("source", "the comparison")):
        return array.to_numpy()


def not_computed(result: xr.Dataset, name: str, place: Mapping[str, npt.NDArray[np.intp]]) -> npt.NDArray[np.bool_]:
    """Pairs without a value that are still to be computed, or were not selected, (a, b).

    Others without a value cannot have one: one of the two failed, or they are not comparable. ``pair_status`` says
    which; of a comparison without it, as where variables were picked, all pairs without a value are taken for such.

    Parameters
    ----------
    result : xarray.Dataset
    name : str
        Variable with the values.
    place : mapping of str to (representation,) int
        Places on both sides, by dimension.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y, z = np.random.default_rng(0).normal(size=(3, 100, 4))
    >>> near = np.abs(np.subtract.outer(np.arange(3), np.arange(3))) < 2
    >>> result = dask_svcca.compare({"x": x, "y": y, "z": z}, pairs=near)
    >>> not_computed(result, "svcca", {f"representation_{side}": np.arange(3) for side in "ab"}).astype(int)
    array([[0, 0, 1],
           [0, 0, 0],
           [1, 0, 0]])
    """
    dims = tuple(f"representation_{side}" for side in SIDES)
    without = ~np.isfinite(values_of(result[name].isel(place).transpose(*dims)))
    # Comparisons that were joined have one of each.
    states = [
        one for one in result.data_vars if str(one).startswith(PAIR_STATUS.name) and set(dims) <= set(result[one].dims)
    ]
    if not states:
        return np.asarray(without & ("parameters" in result.attrs))
    pending = [np.isin(values_of(result[one].isel(place).transpose(*dims)), UNFINISHED) for one in states]
    return np.asarray(without & np.logical_or.reduce(pending))


def in_order(frame: pd.DataFrame, name: str, by: str) -> pd.Index[Any]:
    """Names in the order of a number, on average over models; those without one last, as in the comparison."""
    numbers = frame.groupby(name, sort=False)[by].mean()
    names: pd.Index[Any] = pd.Index(numbers.sort_values(kind="stable").index.to_list())
    return names


def architectures(frame: pd.DataFrame) -> list[list[str]]:
    """Models by architecture: those whose layers have the same names."""
    alike: dict[frozenset[str], list[str]] = {}
    for model, rows in frame.groupby("model", sort=False):
        alike.setdefault(frozenset(map(str, rows["layer"])), []).append(str(model))
    return list(alike.values())


def _by_final(result: xr.Dataset, side: Side, final: Any, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    if not isinstance(final, bool | np.bool_):
        raise InvalidQuestionError(f"final is True or False; got {final!r} on side {side}")
    frame = table_of(result, side)
    # Of other models, which checkpoint is final need not be known.
    asked = frame["model"].isin(frame["model"][chosen].unique()).to_numpy()
    found = np.zeros(len(frame), dtype=np.bool_)
    found[asked] = is_final(frame[asked]) == bool(final)
    if not (found & chosen).any():
        raise RepresentationNotFoundError(
            f"final={bool(final)} leaves no representation on side {side}: those chosen are of "
            f"{'other checkpoints than the final one' if final else 'the final checkpoint'} of their model"
        )
    return found
