"""Examples told by their ids: the order of one array's examples in another's."""

from __future__ import annotations

import inspect
import re
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from dask_svcca.arrays import counts
from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import MismatchedExamplesError, UnalignedExamplesWarning

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from dask_svcca.arrays import Given

Ids: TypeAlias = "pd.Index[Any] | None"

_DIGITS = re.compile("([0-9]+)")
_PLAIN = re.compile("-?[1-9][0-9]*|0")
_EXACT = 2.0**53


def order_by_id(
    ids: pd.Index[Any], wanted: pd.Index[Any] | npt.NDArray[Any], what: str, whose: str
) -> npt.NDArray[np.intp] | None:
    """Where the wanted ids are among some; None where they are the same, in the same order.

    Parameters
    ----------
    ids, wanted : (example,)
        Integers and text are equal where they print alike, as in the digest of a zoo's examples.
    what, whose : str
        What has the ids, and what has those that are wanted, in errors.

    Raises
    ------
    MismatchedExamplesError
        Where they are not the same set, or one occurs twice; the message names the first.

    Examples
    --------
    >>> order_by_id(pd.Index(["b", "a", "c"]), np.array(["a", "b", "c"]), "x", "the zoo")
    array([1, 0, 2])
    """
    if len(ids) == len(wanted) and np.array_equal(_as_text(ids), _as_text(wanted)):
        return None
    found, expected = pd.Index(_as_text(ids)), pd.Index(_as_text(wanted))
    for index, name in ((found, what), (expected, whose)):
        if not index.is_unique:
            double = index[index.duplicated()][0]
            raise MismatchedExamplesError(
                f"{name} has the example {double!r} twice, and examples are told by their ids; give each an id of "
                f"its own"
            )
    remedy = (
        f"Give the examples of {whose}, each once, or leave the ids out, for example with .to_numpy(), where the order "
        f"is right"
    )
    unknown = np.flatnonzero(expected.get_indexer(found) < 0)
    if len(unknown):
        raise MismatchedExamplesError(
            f"{what} has {len(ids)} examples, {whose} has {len(wanted)}: {found[unknown[0]]!r} of {what}, at "
            f"{unknown[0]}, is not among the examples of {whose}. {remedy}"
        )
    order = found.get_indexer(expected)
    missing = np.flatnonzero(order < 0)
    if len(missing):
        raise MismatchedExamplesError(
            f"{what} has {len(ids)} examples, {whose} has {len(wanted)}: {expected[missing[0]]!r} of {whose}, at "
            f"{missing[0]}, is missing. {remedy}"
        )
    return np.asarray(order)


def order_of(ids: Ids, wanted: Ids, what: str, whose: str) -> npt.NDArray[np.intp] | None:
    """Where the examples of one array are among those of another; None where they are in the same order, or unlabelled.

    An index of pandas that only counts its rows is an id where the other's ids are numbers too.

    Parameters
    ----------
    ids, wanted : pandas.Index or None
    what, whose : str
        What has them, in errors.

    Raises
    ------
    MismatchedExamplesError
        Where they are not the same examples, or one has an order of its own and the other does not say which it has.

    Warns
    -----
    UnalignedExamplesWarning
        See `check_silent`.

    Examples
    --------
    >>> order_of(pd.Index([2, 0, 1]), pd.RangeIndex(3), "y", "x")
    array([1, 2, 0])
    """
    said, meant = (index is not None and not counts(index) for index in (ids, wanted))
    if (said or meant) and ids is not None and wanted is not None:
        given, asked = numbers_of(ids), numbers_of(wanted)
        if given is not None and asked is not None:
            return order_by_id(pd.Index(given), pd.Index(asked), what, whose)
        if said and meant:
            return order_by_id(ids, wanted, what, whose)
    if said:
        check_silent(ids, what, whose)
    elif meant:
        check_silent(wanted, whose, what)
    return None


def numbers_of(ids: Ids) -> npt.NDArray[Any] | None:
    """Ids that are whole numbers, as these; also where text or floating numbers stand for them.

    Parameters
    ----------
    ids : pandas.Index or None

    Returns
    -------
    (example,) or None
        None where they are not all whole numbers. Text such as ``"007"`` is not, since no number prints so.

    Examples
    --------
    >>> numbers_of(pd.Index(["2", "0", "1"])), numbers_of(pd.Index(["a", "0"]))
    (array([2, 0, 1]), None)
    """
    if ids is None or isinstance(ids, pd.MultiIndex):
        return None
    kind = ids.dtype.kind
    if kind in "iu":
        return ids.to_numpy()
    if kind == "f":
        values = ids.to_numpy(dtype=np.float64)
        whole = bool((np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < _EXACT)).all())
        return values.astype(np.int64) if whole else None
    texts = _as_text(ids)
    if kind not in "OUT" or not all(_PLAIN.fullmatch(text) for text in texts):
        return None
    return np.array([int(text) for text in texts])


def check_silent(ids: Ids, what: str, silent: str) -> None:
    """Refuse ids that tell of rows that were shuffled, beside an array without ids.

    Numbers, dates, and names that differ in their numbers only tell it where they do not ascend. Other names may be
    in an order of their own, such as that of files.

    Parameters
    ----------
    ids : pandas.Index or None
    what, silent : str
        What has the ids, and what has none.

    Raises
    ------
    MismatchedExamplesError

    Warns
    -----
    UnalignedExamplesWarning
        Where names are in an order that says nothing.

    Examples
    --------
    >>> check_silent(pd.Index([2, 0, 1]), "y", "x")
    Traceback (most recent call last):
    dask_svcca.errors.MismatchedExamplesError: y has its examples in an order of its own, 2, 0, 1, and x does not ...
    """
    if ids is None or _ascends(ids):
        return
    some = ", ".join(map(str, ids[:3])) + (" ..." if len(ids) > 3 else "")
    if _is_shuffled(ids):
        raise MismatchedExamplesError(
            f"{what} has its examples in an order of its own, {some}, and {silent} does not say which of them it has. "
            f"Give {silent} ids too, or take those of {what} off, for example with .to_numpy(), where both have one "
            f"order"
        )
    warnings.warn(
        f"{what} names its examples, {some}, and {silent} does not: they are compared row by row. Give {silent} the "
        f"same ids, which puts both in one order, or take those of {what} off, for example with .to_numpy(), where "
        f"both have one order",
        UnalignedExamplesWarning,
        stacklevel=_level(),
    )


def _level() -> int:
    """How far up the call is that came from outside of this package, for a warning of the function that asks."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]:
        frame, level = frame.f_back, level + 1
    return level


def _ascends(ids: pd.Index[Any]) -> bool:
    """Whether ids are in the order in which one would count them: names by the size of their numbers."""
    numbers = numbers_of(ids)
    if numbers is not None:
        return bool((numbers[1:] >= numbers[:-1]).all())
    if ids.dtype.kind not in "OUT":
        return bool(ids.is_monotonic_increasing)
    keys = [_parts(text) for text in _as_text(ids)]
    return all(one <= other for one, other in pairwise(keys))


def _is_shuffled(ids: pd.Index[Any]) -> bool:
    """Whether ids that do not ascend cannot be in an order such as that of files."""
    if ids.dtype.kind not in "OUT" or numbers_of(ids) is not None:
        return True
    texts = _as_text(ids)
    alike = len({tuple(_parts(text)[::2]) for text in texts}) == 1
    # Sorted as text, "image10" stands before "image2".
    return alike and any(one > other for one, other in pairwise(texts))


def _parts(text: str) -> list[Any]:
    """Text and numbers in turn.

    Examples
    --------
    >>> _parts("image10.png")
    ['image', 10, '.png']
    """
    return [int(part) if place % 2 else part for place, part in enumerate(_DIGITS.split(text))]


def check_next(ids: pd.Index[Any], expected: npt.NDArray[Any], start: int, what: str) -> None:
    """Raise where the ids of a batch are not the next ids of a zoo.

    Parameters
    ----------
    ids : (batch,)
    expected : (example,)
        All ids of the zoo.
    start : int
        Examples that came before.
    what : str

    Raises
    ------
    MismatchedExamplesError
        The message names the first that differs.
    """
    found, following = _as_text(ids), _as_text(expected[start : start + len(ids)])
    differ = np.flatnonzero(found[: len(following)] != following)
    if len(differ):
        place = int(differ[0])
        raise MismatchedExamplesError(
            f"a batch of {what} has the example {found[place]!r} at {start + place}, where its zoo has "
            f"{following[place]!r}. Batches have the zoo's examples in the zoo's order; an array of all examples is "
            f"put in order by its ids"
        )


def _as_text(ids: pd.Index[Any] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.array([str(value) for value in ids], dtype=object)


def check_alike(one: Given, other: Given, what: str, whose: str) -> None:
    """Refuse two arrays whose examples are not in one order by what they say of them, beside their ids.

    Parameters
    ----------
    one, other : Given
        Not both with ids, which would put them in order.
    what, whose : str
        What they are, in errors.

    Raises
    ------
    MismatchedExamplesError
        Where a coordinate has the same values in another order, or the first axis of one is called as another axis of
        the other.

    Examples
    --------
    >>> from dask_svcca.arrays import as_given
    >>> x = as_given(pd.DataFrame({"a": [1.5, 2.5]}, index=pd.Index([7, 9], name="image")), "x")
    >>> y = as_given(pd.DataFrame({"a": [2.5, 1.5]}, index=pd.Index([9, 7], name="image")), "y")
    >>> check_alike(y, x, "y", "x")
    Traceback (most recent call last):
    dask_svcca.errors.MismatchedExamplesError: y and x have the coordinate 'image' in different orders: at 0, it is ...
    """
    if one.names and other.names and EXAMPLE not in (*one.names, *other.names):
        for (first, *_), (_, *rest) in ((one.names, other.names), (other.names, one.names)):
            if first in rest:
                raise MismatchedExamplesError(
                    f"{what} has the axes {one.names!r}, and {whose} has {other.names!r}: the first of each would be "
                    f"taken as the examples. Call the axis of the examples 'example' in both"
                )
    check_labels(one.labels, other.labels, what, whose)


def check_labels(
    labels: Mapping[str, pd.Index[Any]], others: Mapping[str, pd.Index[Any]], what: str, whose: str, start: int = 0
) -> None:
    """Refuse coordinates that have the values of others in another order.

    Parameters
    ----------
    labels : mapping of str to (example,)
        Unique values.
    others : mapping of str to (example,)
        Those that have the same names are compared.
    what, whose : str
        What has them, in errors.
    start : int
        Number of examples that came before those of ``labels``.

    Raises
    ------
    MismatchedExamplesError
    """
    for name in labels.keys() & others.keys():
        found, wanted = labels[name], others[name]
        if not wanted.is_unique:
            continue
        places = wanted.get_indexer(found)
        moved = np.flatnonzero(places != np.arange(start, start + len(found)))
        if len(moved) and (places >= 0).all():
            at = int(moved[0])
            raise MismatchedExamplesError(
                f"{what} and {whose} have the coordinate {name!r} in different orders: at {start + at}, it is "
                f"{found[at]!r} in {what}, which is at {places[at]} in {whose}. Make it their ids, which puts them in "
                f"order: call it 'id' in both; or put both in one order; or leave it behind, x.drop_vars({name!r})"
            )
