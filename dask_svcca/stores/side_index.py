"""One index over names, step and depth of a side, so that several of them choose representations together."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import xarray as xr
from xarray.core.indexing import IndexSelResult

from dask_svcca.errors import InvalidQuestionError
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.choice import NUMBERS, choose, is_several

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    import numpy.typing as npt

COORDINATES = ("model", "checkpoint", "layer", "step", "depth")


class SideIndex(xr.Index):
    """Index of the representations of one side, by all of their coordinates but the label.

    The label has the index that xarray gives it. Both align the same representations with each other, since the label
    follows from the names.

    Parameters
    ----------
    dim : hashable
        Name of the dimension.
    columns : mapping of hashable to (representation,)
        Each coordinate, by its name: arrays, or variables that are read when they are needed.
    kinds : mapping of hashable to str
        Which of `COORDINATES` each of them is: a name may have been changed.

    Examples
    --------
    >>> coords = {name: ("layers", [name]) for name in ("model_a", "checkpoint_a", "layer_a")}
    >>> result = xr.Dataset(coords={**coords, "step_a": ("layers", [1.0])}).set_xindex([*coords, "step_a"], SideIndex)
    >>> result.sel(step_a=slice(1, None), layer_a="layer*").sizes["layers"]
    1
    """

    def __init__(
        self,
        dim: Hashable,
        columns: Mapping[Hashable, npt.NDArray[Any] | xr.Variable],
        kinds: Mapping[Hashable, str],
    ) -> None:
        self.dim, self._columns, self.kinds = dim, dict(columns), dict(kinds)

    @functools.cached_property
    def columns(self) -> dict[Hashable, npt.NDArray[Any]]:
        """Values of each coordinate, by its name."""
        return {
            name: column.to_numpy() if isinstance(column, xr.Variable) else column
            for name, column in self._columns.items()
        }

    @functools.cached_property
    def labels(self) -> pd.Index[Any]:
        """Labels of the representations."""
        by_kind = {kind: self.columns[name] for name, kind in self.kinds.items()}
        names = zip(*(by_kind[kind].tolist() for kind in RepresentationName._fields), strict=True)
        return pd.Index([RepresentationName(*name).label for name in names], dtype="str")

    @classmethod
    def from_variables(cls, variables: Mapping[Any, xr.Variable], *, options: Mapping[str, Any]) -> Self:
        """Index of coordinates of a side, its names among them; there are no options."""
        kinds = {name: str(name).rpartition("_")[0] for name in variables}
        if options or not set(RepresentationName._fields) <= set(kinds.values()) <= set(COORDINATES):
            raise InvalidQuestionError(
                f"the index of a side is over {', '.join(COORDINATES)}, each with the ending of the side; got "
                f"{', '.join(map(repr, variables))}"
            )
        dim = next(iter(variables.values())).dims[0]
        return cls(dim, variables, kinds)

    def create_variables(self, variables: Mapping[Any, xr.Variable] | None = None) -> dict[Any, xr.Variable]:
        """Coordinates, with the attributes of those given."""
        made = {}
        for name, column in self._columns.items():
            known = (variables or {}).get(name)
            attributes, encoding = (known.attrs, known.encoding) if known is not None else (None, None)
            values = column._data if isinstance(column, xr.Variable) else column  # noqa: SLF001 - .data would read it
            made[name] = xr.Variable(self.dim, values, attrs=attributes, encoding=encoding)
        return made

    def to_pandas_index(self) -> pd.Index[Any]:
        """Labels of the representations."""
        return self.labels

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Index of some representations; None where they lose their dimension."""
        place = indexers[self.dim]
        if isinstance(place, xr.Variable):
            if place.dims != (self.dim,):
                return None
            place = place.to_numpy()
        if not isinstance(place, slice) and np.ndim(place) == 0:
            return None
        return self.taken(place)

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: float | None = None) -> IndexSelResult:
        """Places of the representations that coordinates mean, together; see `dask_svcca.stores.choice.choose`."""
        if method is not None or tolerance is not None:
            raise InvalidQuestionError(
                "representations are chosen by names, patterns, numbers and slices, without method= and tolerance="
            )
        for name, label in labels.items():
            if not isinstance(label, slice) and (np.ndim(label) > 1 or np.asarray(label).dtype.kind == "b"):
                raise InvalidQuestionError(
                    f"{name} is chosen by a value, several, or a slice; choose by a mask with .isel or .where, and by "
                    f"an array of labels with .sel({self.dim}=...)"
                )
        wanted = {self.kinds[name]: label for name, label in labels.items()}
        columns = {kind: self.columns[name] for name, kind in self.kinds.items()}
        chosen = np.flatnonzero(choose(columns, wanted, len(self), f"the side {str(self.dim)!r}"))
        return IndexSelResult({self.dim: int(chosen[0]) if self._is_one(wanted, chosen) else chosen})

    def _is_one(self, wanted: Mapping[str, Any], chosen: npt.NDArray[np.intp]) -> bool:
        """Whether a choice names one representation, and is no list, pattern or slice that happens to."""
        columns = {kind: self.columns[name] for name, kind in self.kinds.items()}

        def is_value(kind: str) -> bool:
            value = wanted.get(kind)
            if value is None or isinstance(value, slice) or is_several(value):
                return False
            return kind in NUMBERS or str(value) == str(columns[kind][chosen[0]])

        return (
            len(chosen) == 1 and all(map(is_value, ("model", "layer"))) and any(map(is_value, ("checkpoint", "step")))
        )

    def equals(self, other: xr.Index, **_: Any) -> bool:
        """Whether two sides have the same representations in the same order, with the same coordinates."""
        return self is other or (
            isinstance(other, SideIndex)
            and self.dim == other.dim
            and list(self.columns) == list(other.columns)
            and all(_equal(values, other.columns[name]) for name, values in self.columns.items())
        )

    def join(self, other: Self, how: Any = "inner") -> Self:
        """Index of the representations of both sides (``inner``) or of either (``outer``), as pandas orders them."""
        labels = self.labels.union(other.labels) if how == "outer" else self.labels.intersection(other.labels)
        both = self.concat([self, other], self.dim)
        first = np.flatnonzero(~both.labels.duplicated())
        return both.taken(first[both.labels[first].get_indexer(labels)])

    def reindex_like(self, other: Self) -> dict[Hashable, Any]:
        """Places of the representations of another side; -1 where there is none."""
        if not self.labels.is_unique:
            raise InvalidQuestionError(f"{self.dim!r} has a representation twice: nothing aligns with it")
        return {self.dim: self.labels.get_indexer(other.labels)}

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Iterable[Iterable[int]] | None = None) -> Self:
        """Index of several sides, one behind the other."""
        first = indexes[0]
        columns = {name: np.concatenate([one.columns[name] for one in indexes]) for name in first.columns}
        joined = cls(dim, columns, first.kinds)
        if positions is None:
            return joined
        return joined.taken(np.argsort(np.concatenate([np.asarray(list(part)) for part in positions])))

    def roll(self, shifts: Mapping[Any, int]) -> Self:
        """Index of representations that moved on, the last to the front."""
        return self.taken(np.roll(np.arange(len(self)), shifts[self.dim]))

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """The same with other names of coordinates and of the dimension."""
        columns = {name_dict.get(name, name): column for name, column in self._columns.items()}
        kinds = {name_dict.get(name, name): kind for name, kind in self.kinds.items()}
        return type(self)(dims_dict.get(self.dim, self.dim), columns, kinds)

    def taken(self, place: Any) -> Self:
        """Index of the representations at some places."""
        return type(self)(self.dim, {name: values[place] for name, values in self.columns.items()}, self.kinds)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __repr__(self) -> str:
        return f"SideIndex({self.dim!r}, {len(self)} representations by {', '.join(map(str, self._columns))})"

    def _repr_inline_(self, max_width: int) -> str:
        return "SideIndex"[:max_width]


def _equal(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f" and other.dtype.kind == "f")
