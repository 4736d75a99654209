"""Which pairs to compare."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from dask_svcca.errors import did_you_mean
from dask_svcca.plan.final import final_checkpoints, final_of_models

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Rule: TypeAlias = "Callable[[IntVector, IntVector], BoolMatrix]"

IntVector: TypeAlias = "npt.NDArray[np.int64]"
BoolMatrix: TypeAlias = "npt.NDArray[np.bool_]"
Pairs: TypeAlias = "str | npt.NDArray[np.bool_] | xr.DataArray | pd.DataFrame | Selection"

SELECTIONS = ("all", "same-layer", "same-checkpoint", "within-model", "final", "nearest N", "between A B")


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Pairs asked for, by a rule that says it of any block of their matrix: the matrix itself is never made.

    Attributes
    ----------
    count : int
        Number of representations.
    rule : callable
        Takes positions of some rows and of some columns, and gives which of their pairs are asked for, (row, column).
    symmetric : bool
        Whether it says the same of a pair both ways.
    """

    count: int
    rule: Rule
    symmetric: bool = False

    @classmethod
    def of(cls, mask: BoolMatrix) -> Self:
        """Pairs of a boolean matrix, (representation, representation)."""
        return cls(len(mask), lambda rows, columns: mask[np.ix_(rows, columns)])

    @classmethod
    def of_partners(cls, partners: IntVector) -> Self:
        """Each representation with itself, and with some partners.

        Parameters
        ----------
        partners : (representation, partner) int
            Positions of those of each; -1 for none.

        Examples
        --------
        >>> every = np.arange(3)
        >>> Selection.of_partners(np.array([[1], [0], [-1]])).block(every, every).astype(int)
        array([[1, 1, 0],
               [1, 1, 0],
               [0, 0, 1]])
        """
        count = len(partners)

        def rule(rows: IntVector, columns: IntVector) -> BoolMatrix:
            # Where each representation is among the columns; those that have left, and no partner, are nowhere.
            at = np.full(count + 1, -1, dtype=np.int64)
            there = np.flatnonzero(columns >= 0)
            at[columns[there]] = there
            found = at[np.where(rows[:, np.newaxis] >= 0, partners[rows], -1)]
            chosen = np.equal.outer(rows, columns)
            row, place = np.nonzero(found >= 0)
            chosen[row, found[row, place]] = True
            return chosen

        return cls(count, rule)

    def block(self, rows: IntVector, columns: IntVector) -> BoolMatrix:
        """Which pairs of some representations are asked for, one way or the other, (row, column).

        Examples
        --------
        >>> Selection.of(np.array([[False, True], [False, False]])).block(np.array([1]), np.array([0, 1]))
        array([[ True, False]])
        """
        either = self.rule(rows, columns)
        if not self.symmetric:
            either |= self.rule(columns, rows).T
        return either


def select_pairs(pairs: Pairs, representations: pd.DataFrame) -> Selection:
    """Selected pairs, as a rule; whatever their number, this takes the memory of the names.

    Parameters
    ----------
    pairs : str, or boolean matrix, or Selection
        ``all``; ``same-layer`` (equal names of layers); ``same-checkpoint`` (of the same model);
        ``within-model``; ``final`` (each against the final checkpoint of its model: see
        `dask_svcca.plan.final.final_of_models`);
        ``between A B`` (model A against model B; names with spaces in quotes, as in a shell); ``nearest N``, which
        `compare` makes a `Selection` of by sketches: each with itself and with the N that are most similar to it, by
        estimates of linear CKA; or a boolean
        (representation, representation) array in the order of the frame; or a labelled one: a DataArray with
        ``representation_a`` and ``representation_b``, or a DataFrame whose index and columns are labels.
    representations : pandas.DataFrame
        As `Zoo.representations`: one row each.

    Returns
    -------
    Selection
        Symmetric.

    Raises
    ------
    ValueError
        Where the selection is unknown, does not fit, or selects nothing, or it cannot be known which checkpoint is
        final.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"model": list("aab"), "checkpoint": list("121"), "layer": list("xxx"), "step": [1, 2, 1]})
    >>> every = np.arange(3)
    >>> select_pairs("final", frame).block(every, every).astype(int)
    array([[0, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """
    if isinstance(pairs, Selection):
        return pairs
    if nearest_of(pairs) is not None:
        raise ValueError(
            f"pairs={pairs!r} is chosen by sketches of the layers, which are not made here. Compare so, or make "
            f"sketches first and look at the plan of compare with sketches= (--sketches)"
        )
    if isinstance(pairs, str):
        # Every selection by name has a pair, where there is a representation.
        return Selection(len(representations), _by_name(pairs, representations), symmetric=pairs.split() == ["all"])
    mask = _by_mask(pairs, representations)
    if len(mask) and not mask.any():
        raise ValueError(f"pairs=the given mask selects no pair of {len(mask)}")
    return Selection.of(mask)


def nearest_of(pairs: Pairs) -> int | None:
    """How many partners each representation has under ``nearest N``; None for any other selection.

    Raises
    ------
    ValueError
        Where it does not say how many.

    Examples
    --------
    >>> nearest_of("nearest 20"), nearest_of("all")
    (20, None)
    >>> nearest_of("nearest 0")
    Traceback (most recent call last):
    ValueError: pairs='nearest 0': N of 'nearest N' is how many partners each layer has, a whole number from 1 on...
    """
    words = pairs.split() if isinstance(pairs, str) else []
    if words[:1] != ["nearest"]:
        return None
    if len(words) != 2 or not (words[1].isascii() and words[1].isdecimal()) or not 1 <= int(words[1]) < 2**31:
        raise ValueError(
            f"pairs={pairs!r}: N of 'nearest N' is how many partners each layer has, a whole number from 1 on, such as "
            f"'nearest 20'"
        )
    return int(words[1])


def finals_of(pairs: Pairs, representations: pd.DataFrame) -> dict[str, str]:
    """The checkpoint of each model that a selection takes for its final one; empty where it takes none for such."""
    return final_of_models(representations) if isinstance(pairs, str) and pairs.split() == ["final"] else {}


def _equal(*columns: pd.Series[Any]) -> Rule:
    """Pairs of equal values in all columns."""
    codes = [np.unique(values.to_numpy(dtype=str), return_inverse=True)[1] for values in columns]
    return lambda rows, columns: np.logical_and.reduce(
        [np.equal.outer(code[rows], code[columns]) for code in codes], dtype=np.bool_
    )


def _by_name(pairs: str, frame: pd.DataFrame) -> Rule:
    try:
        # Quotes as in a shell, for names with spaces.
        kind, *names = shlex.split(pairs) or [""]
    except ValueError as error:
        raise ValueError(f"pairs={pairs!r} cannot be read: {error}. Close every quote") from None
    match kind, names:
        case "all", []:
            return lambda rows, columns: np.ones((len(rows), len(columns)), dtype=np.bool_)
        case "same-layer", []:
            return _equal(frame["layer"])
        case "within-model", []:
            return _equal(frame["model"])
        case "same-checkpoint", []:
            return _equal(frame["model"], frame["checkpoint"])
        case "final", []:
            final, same = final_checkpoints(frame), _equal(frame["model"])
            return lambda rows, columns: same(rows, columns) & final[columns]
        case "between", [first, second]:
            models = frame["model"].to_numpy(dtype=str)
            for name in (first, second):
                if name not in models:
                    raise ValueError(f"no model {name!r} for pairs={pairs!r}; there are {', '.join(np.unique(models))}")
            ours, theirs = models == first, models == second
            return lambda rows, columns: np.logical_and.outer(ours[rows], theirs[columns])
    raise ValueError(
        f"pairs={pairs!r} is not a selection; there are {', '.join(map(repr, SELECTIONS))}, or a mask. "
        f"Quote names with spaces, as in a shell{did_you_mean(pairs, SELECTIONS)}"
    )


def _by_mask(mask: npt.NDArray[np.bool_] | xr.DataArray | pd.DataFrame, frame: pd.DataFrame) -> BoolMatrix:
    if isinstance(mask, pd.DataFrame):
        if not all(pd.api.types.is_bool_dtype(dtype) for dtype in mask.dtypes) or mask.isna().to_numpy().any():
            raise ValueError("a mask of pairs is boolean; columns of this DataFrame are not, or lack values")
        axes = {"representation_a": mask.index.to_numpy(), "representation_b": mask.columns.to_numpy()}
        mask = xr.DataArray(mask.to_numpy(dtype=np.bool_), axes, tuple(axes))
    if isinstance(mask, xr.DataArray):
        labels = frame.index.to_numpy()
        for axis in ("representation_a", "representation_b"):
            named = mask.indexes.get(axis, pd.Index([]))
            if not named.is_unique:
                double = named[named.duplicated()][0]
                raise ValueError(f"the mask of pairs has the {axis} {double!r} twice; give each label one place")
            absent = frame.index.difference(named)
            if len(absent):
                raise ValueError(
                    f"the mask of pairs has no {axis} for {len(absent)} representations of the zoo, among them "
                    f"{absent[0]!r}"
                )
        mask = mask.sel(representation_a=labels, representation_b=labels).transpose(
            "representation_a", "representation_b"
        )
    values = np.array(mask)
    count = len(frame)
    if values.dtype != np.bool_ or values.shape != (count, count):
        raise ValueError(
            f"a mask of pairs is boolean, ({count}, {count}) for {count} representations; got {values.dtype}, "
            f"{values.shape}"
        )
    return values
