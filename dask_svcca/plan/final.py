"""Which checkpoint of each model is the final one: by its step, by the number in its name, or by the name alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.stores._names import natural_order

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

FINAL = frozenset({"final", "last", "latest"})
"""Names of a checkpoint, or endings of them, that say that it is the final one."""

INITIAL = frozenset({"init", "initial"})
"""Names that say that it is not, where there are others."""

_ALONE = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DATE = r"(?:19|20)[0-9]{2}-?[01][0-9]-?[0-3][0-9](?:[T_ -]?[0-2][0-9][-:.]?[0-5][0-9](?:[-:.]?[0-5][0-9])?)?"
_NUMBER = re.compile(rf"(?<![0-9.]){_DATE}(?![0-9.])|[0-9]+(?:\.[0-9]+)*")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")
_VERSION = re.compile(r"(?<![A-Za-z])[vV]$")


def final_of_models(frame: pd.DataFrame) -> dict[str, str]:
    """The final checkpoint of each model.

    It is that of the highest step. Where checkpoints have no steps, it is the one called ``final``, ``last`` or
    ``latest``; else that of the highest number, where their names differ in nothing but numbers, and where no number
    of another is higher than its own. One called ``init`` or ``initial`` is not the final one where there are others.

    Parameters
    ----------
    frame : pandas.DataFrame
        With ``model``, ``checkpoint`` and ``step``, one row a representation.

    Returns
    -------
    dict of str to str
        Model to checkpoint.

    Raises
    ------
    ValueError
        Where neither steps nor names say which it is.

    Examples
    --------
    >>> import pandas as pd
    >>> names = ["init", "epoch9", "epoch10"]
    >>> final_of_models(pd.DataFrame({"model": "net", "checkpoint": names, "step": np.nan}))
    {'net': 'epoch10'}
    """
    found: dict[str, dict[str, float]] = {}
    for model, checkpoint, step in zip(frame["model"], frame["checkpoint"], frame["step"], strict=True):
        steps = found.setdefault(model, {})
        steps[checkpoint] = float(np.fmax(steps.get(checkpoint, np.nan), step))
    return {model: _final(model, checkpoints) for model, checkpoints in found.items()}


def final_checkpoints(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Whether each representation is of the final checkpoint of its model; see `final_of_models`."""
    final = frame["model"].map(final_of_models(frame))
    return np.asarray(frame["checkpoint"].to_numpy() == final.to_numpy(), dtype=np.bool_)


def _final(model: str, steps: dict[str, float]) -> str:
    """The final one of the checkpoints of a model, from their steps, NaN where they have none."""
    without = [name for name, step in steps.items() if np.isnan(step)]
    if without:
        named = [name for name in without if _stage(name) in FINAL]
        if len(named) == 1:
            return named[0]
        steps = {name: step for name, step in steps.items() if _stage(name) not in INITIAL} or steps
    if len(steps) == 1:
        return next(iter(steps))
    without = [name for name, step in steps.items() if np.isnan(step)]
    if not without:
        first, second = sorted(steps, key=lambda name: -steps[name])[:2]
        if steps[first] == steps[second]:
            raise _unknown(model, f"{first!r} and {second!r} have the same step, {steps[first]:g}")
        return first
    if len(without) < len(steps):
        stepped = next(name for name in steps if name not in without)
        raise _unknown(model, f"{stepped!r} has the step {steps[stepped]:g}, and {without[0]!r} has none")
    if all(map(_ALONE.fullmatch, steps)):
        return _highest_number(model, list(steps))
    return _highest_name(model, list(steps))


def _highest_number(model: str, names: list[str]) -> str:
    """The highest of names that are numbers."""
    first, second = sorted(names, key=lambda name: (float(name), name), reverse=True)[:2]
    if float(first) == float(second):
        raise _same(model, first, second)
    latest = max(names, key=natural_order)
    # Nobody writes decimal numbers of unequal length with a zero at their end.
    if latest != first and any(_DECIMAL.fullmatch(name) and name.endswith("0") for name in names):
        raise _versions(model, first, latest)
    return first


def _highest_name(model: str, names: list[str]) -> str:
    """The name with the highest numbers, of several that differ in nothing but numbers."""
    first, *others = sorted(names, key=natural_order, reverse=True)
    for other in others:
        if _NUMBER.sub("0", other) != _NUMBER.sub("0", first):
            raise _unknown(
                model, f"they have no steps, and {other!r} and {first!r} differ in more than the numbers in their names"
            )
        signs = set()
        for one, another in zip(_readings(first), _readings(other), strict=True):
            as_decimal, as_version = ((a > b) - (a < b) for a, b in zip(one, another, strict=True))
            if as_decimal != as_version:
                raise _versions(model, first, other)
            signs.add(as_version)
        if {-1, 1} <= signs:
            raise _unknown(
                model,
                f"they have no steps, and of the numbers in {first!r} one is higher than in {other!r}, another lower",
            )
        if 1 not in signs:
            raise _same(model, first, other)
    return first


def _readings(name: str) -> list[tuple[tuple[float, ...], tuple[int, ...]]]:
    """Each number in a name as a decimal number, where it can be one, and as a version, of which each part counts."""
    readings: list[tuple[tuple[float, ...], tuple[int, ...]]] = []
    for match in _NUMBER.finditer(name):
        parts = tuple(map(int, re.findall("[0-9]+", match.group())))
        decimal = len(parts) == 1 or (_DECIMAL.fullmatch(match.group()) and not _VERSION.search(name[: match.start()]))
        readings.append(((float(match.group()),) if decimal else parts, parts))
    return readings


def _stage(name: str) -> str:
    """Last word of a name, in lower case: ``final`` of ``resnet_Final``."""
    return re.split(r"[^a-z]+", name.lower())[-1]


def _unknown(model: str, why: str) -> ValueError:
    return ValueError(
        f"which checkpoint of {model!r} is the final one cannot be known: {why}. Give them steps, "
        f"zoo.write(..., step=), or choose the pairs by a boolean matrix (for layer_identification: checkpoint=)"
    )


def _same(model: str, first: str, other: str) -> ValueError:
    return _unknown(model, f"they have no steps, and {first!r} and {other!r} have the same number")


def _versions(model: str, first: str, other: str) -> ValueError:
    return _unknown(
        model, f"they have no steps, and the numbers in {first!r} and {other!r} may be decimal numbers or versions"
    )
