"""Representations of one side of a comparison, chosen by names, patterns, training steps and depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from dask_svcca.errors import InvalidQuestionError, RepresentationNotFoundError, did_you_mean
from dask_svcca.patterns import RULE, matching, unmatched

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Columns: TypeAlias = Mapping[str, npt.NDArray[Any]]

NAMES: Final = ("model", "checkpoint", "layer", "representation")
NUMBERS: Final = ("step", "depth")
SHOWN = 12
"""How many of the values that there are a message names."""

Choice: TypeAlias = "Mapping[str, Any]"
"""For some of `NAMES` and `NUMBERS`, a value, several, or a slice of numbers; a name may be a pattern."""


def choose(columns: Columns, choice: Choice, count: int, what: str) -> npt.NDArray[np.bool_]:
    """Which representations a choice means.

    Parameters
    ----------
    columns : mapping of str to (representation,)
        Coordinates of one side, without the suffix of the side: those that the choice names.
    choice : mapping
        By column: a value or several of them. Names may be patterns, see `dask_svcca.patterns.matches`; a name always
        matches itself, whatever characters it has. Numbers may be a slice, both ends included.
    count : int
        Number of representations.
    what : str
        What the columns are of, for messages: ``side a``.

    Returns
    -------
    (representation,) bool

    Raises
    ------
    RepresentationNotFoundError
        Where one of the values is not there, beside those of other columns that were chosen before it; the message says
        what is.
    InvalidQuestionError
        Where a value is not of the kind of its column.

    Examples
    --------
    >>> columns = {"layer": np.array(["conv1", "conv2", "fc"]), "step": np.array([0.0, 10.0, 10.0])}
    >>> choose(columns, {"layer": "conv*"}, 3, "side a"), choose(columns, {"step": slice(5, None)}, 3, "side a")
    (array([ True,  True, False]), array([False,  True,  True]))
    """
    chosen = np.ones(count, dtype=np.bool_)
    for name in (*NAMES, *NUMBERS):
        if name in choice:
            by = _by_name if name in NAMES else _by_number
            chosen &= by(name, columns[name], choice[name], chosen, what)
    return chosen


def is_several(value: Any) -> bool:
    """Whether a choice is a collection of values, and not one."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _values(name: str, value: Any, what: str) -> list[Any]:
    values = list(value) if is_several(value) else [value]
    values = [one.item() if isinstance(one, np.ndarray | np.generic) else one for one in values]
    if not values:
        raise InvalidQuestionError(f"an empty list chooses no {name} on {what}; leave {name} out for all of them")
    return values


def _by_name(
    name: str, column: npt.NDArray[Any], value: Any, chosen: npt.NDArray[np.bool_], what: str
) -> npt.NDArray[np.bool_]:
    if name == "representation" and isinstance(value, slice):
        return _by_span(column, value, what)
    wanted = _values(name, value, what)
    for one in wanted:
        if not isinstance(one, str):
            raise InvalidQuestionError(
                f"a {name} is chosen by its name, a pattern, or several of these; got {one!r} on {what}"
            )
    codes, names = factorized(column)
    present = [str(names[code]) for code in dict.fromkeys(codes[chosen].tolist())]
    # Most often they are names as they are, of which there may be thousands.
    known = set(present)
    patterns = [one for one in wanted if one not in known]
    found = known.intersection(wanted).union(matching(present, patterns) if patterns else ())
    missing = unmatched(present, patterns) if patterns else []
    if missing or not found:
        rule = f". In patterns stand {RULE}" if any(set(one) & set("*?[") for one in wanted) else ""
        near = did_you_mean(missing[0], present) if missing else ""
        raise RepresentationNotFoundError(
            f"no {name} matches {' or '.join(map(repr, missing or wanted))} on {what}; there are "
            f"{shown(present)}{rule}{near}"
        )
    return np.isin(codes, [code for code, one in enumerate(names) if one in found])


def _by_span(column: npt.NDArray[Any], span: slice, what: str) -> npt.NDArray[np.bool_]:
    """From one label to another, both included, in the order of the comparison."""
    if span.step is not None:
        raise InvalidQuestionError(f"a slice of representations has no stride; got {span.step!r} on {what}")
    labels = {str(label): place for place, label in enumerate(column)}
    for end in (span.start, span.stop):
        if end is not None and end not in labels:
            raise RepresentationNotFoundError(
                f"no representation is called {end!r} on {what}; there are {shown(list(labels))}"
                f"{did_you_mean(end, labels)}"
            )
    places = np.arange(len(column))
    first = 0 if span.start is None else labels[span.start]
    last = len(column) - 1 if span.stop is None else labels[span.stop]
    return (places >= first) & (places <= last)


def _by_number(
    name: str, column: npt.NDArray[Any], value: Any, chosen: npt.NDArray[np.bool_], what: str
) -> npt.NDArray[np.bool_]:
    numbers = np.asarray(column, dtype=np.float64)
    present = np.unique(numbers[chosen])
    if isinstance(value, slice):
        if value.step is not None:
            raise InvalidQuestionError(f"a slice of {name}s has no stride; got {value.step!r} on {what}")
        low, high = (
            _number(name, end, what) if end is not None else end_of_all
            for end, end_of_all in ((value.start, -np.inf), (value.stop, np.inf))
        )
        within = (numbers >= low) & (numbers <= high)
        if not (within & chosen).any():
            raise RepresentationNotFoundError(
                f"no {name} on {what} is from {low:g} to {high:g}; there are {shown(present)}"
            )
        return within
    matched = np.zeros(len(numbers), dtype=np.bool_)
    for one in _values(name, value, what):
        number = _number(name, one, what)
        equal = np.isnan(numbers) if np.isnan(number) else numbers == number
        if not (equal & chosen).any():
            nearest = present[np.argsort(np.abs(present - number))][:1]
            near = f". The nearest is {nearest[0]:g}" if len(nearest) and not np.isnan(nearest[0]) else ""
            raise RepresentationNotFoundError(f"no {name} on {what} is {number:g}; there are {shown(present)}{near}")
        matched |= equal
    return matched


def _number(name: str, value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidQuestionError(
            f"a {name} is chosen by a number, several of them, or a slice; got {value!r} on {what}"
        )
    return float(value)


def factorized(column: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    """Code of each text of a column, and the text of each code, in the order in which they first appear."""
    import pandas as pd  # noqa: PLC0415 - a worker imports the stores, and needs no pandas

    codes, names = pd.factorize(np.asarray(column, dtype=object))
    return codes, np.asarray(names)


def shown(values: Sequence[Any] | npt.NDArray[Any]) -> str:
    """Values for a message: the first of them, and how many more there are.

    Examples
    --------
    >>> shown(["cnn", "resnet"]), shown(np.arange(14.0))
    ("'cnn', 'resnet'", '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more')
    """
    named = ", ".join(repr(one) if isinstance(one, str) else f"{one:g}" for one in values[:SHOWN])
    return named + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")


def as_slice(places: npt.NDArray[np.integer[Any]]) -> slice | npt.NDArray[np.integer[Any]]:
    """Consecutive places as a slice, which is read much faster; others as they are.

    Examples
    --------
    >>> as_slice(np.array([3, 4, 5])), as_slice(np.array([3, 6, 5]))
    (slice(3, 6, None), array([3, 6, 5]))
    """
    if len(places) and places[-1] - places[0] + 1 == len(places) and bool((np.diff(places) == 1).all()):
        return slice(int(places[0]), int(places[-1]) + 1)
    return places
