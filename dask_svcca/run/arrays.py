"""Arrays at hand as a zoo in memory, so that they go the way of any other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from zarr.storage import MemoryStore

from dask_svcca.dims import EXAMPLE, TOKEN, example_axis
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError, did_you_mean
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo import Zoo, create_zoo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.stores.zoo import Representation

Key: TypeAlias = "str | tuple[str, str] | tuple[str, str, str]"
"""Name of an array: a layer, (checkpoint, layer), or (model, checkpoint, layer)."""

Arrays: TypeAlias = "Mapping[Any, Any]"
"""Arrays by their names: see `Key`."""


@dataclass(frozen=True, eq=False)
class _Given:
    """One array as it was given.

    Attributes
    ----------
    name : RepresentationName
    values : array
    dims : tuple of str, or None
    ids : (example,), or None
        None where its examples have no labels.
    coords : dict of str to (example, token)
    """

    name: RepresentationName
    values: Any
    dims: tuple[str, ...] | None
    ids: npt.NDArray[Any] | None
    coords: dict[str, npt.NDArray[Any]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(map(int, self.values.shape))

    def in_order(self, ids: npt.NDArray[Any], of: RepresentationName) -> _Given:
        """The same array with its examples in the order of ids, those of another array."""
        if self.ids is None or np.array_equal(self.ids, ids):
            return self
        own = pd.Index(self.ids)
        places = own.get_indexer(pd.Index(ids)) if own.is_unique else None
        if places is None or len(own) != len(ids) or (places < 0).any():
            raise MismatchedExamplesError(self._difference(own, pd.Index(ids), of))
        axis = example_axis(self.dims)
        values = self.values[(slice(None),) * axis + (places,)]
        return replace(self, values=values, ids=ids, coords={name: mask[places] for name, mask in self.coords.items()})

    def _difference(self, own: pd.Index[Any], other: pd.Index[Any], of: RepresentationName) -> str:
        if not own.is_unique:
            return f"ids of the examples of {self.name.label!r} must be unique; {own[own.duplicated()][0]!r} is twice"
        (strange, here, there), *_ = [
            (missing[0], has, lacks)
            for missing, has, lacks in (
                (other[~other.isin(own)], of.label, self.name.label),
                (own[~own.isin(other)], self.name.label, of.label),
            )
            if len(missing)
        ]
        return (
            f"{self.name.label!r} and {of.label!r} have different examples: {strange!r} is in {here!r} and not in "
            f"{there!r}. Select the examples that both have"
        )


class ArrayZoo(Zoo):
    """A zoo of arrays in memory, in the order in which they were given. Models and checkpoints may have no name."""

    _order: tuple[RepresentationName, ...] = ()

    def entries(self) -> list[Representation]:
        """Index of the representations, in the order in which they were given."""
        place = {name: number for number, name in enumerate(self._order)}
        return sorted(super().entries(), key=lambda item: place[item.name])

    def _for_writing(self, model: str, checkpoint: str, layer: str) -> RepresentationName:
        self._order = (*self._order, RepresentationName(model, checkpoint, layer))
        return self._order[-1]


def zoo_of(arrays: Arrays, dims: Mapping[Any, Sequence[str]] | None = None) -> Zoo:
    """Arrays as a zoo in memory.

    Parameters
    ----------
    arrays : mapping of str or tuple of str to array
        See `Key`. NumPy, Dask, xarray, pandas or torch; (example, ...) each. The examples of all are put into the
        order of the first array whose examples have labels: the coordinate ``example`` of a DataArray, or the index of
        a DataFrame. Coordinates along examples and tokens, such as a mask, become coordinates of the zoo.
    dims : mapping of the same names to sequence of str, optional
        Names of the axes, as for `Zoo.write`; those of a DataArray by default.

    Raises
    ------
    InvalidActivationsError
        For names that are not valid, or activations that `Zoo.write` refuses.
    MismatchedExamplesError
        Where two arrays do not have the same examples.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(10, 3))
    >>> zoo = zoo_of({"fc": x, ("net", "step10", "conv"): x})
    >>> list(zoo.representations.index)
    ['fc', 'net/step10/conv']
    """
    if not arrays:
        raise InvalidActivationsError("there are no arrays to compare; give some as {'name': array, ...}")
    for key in dims or {}:
        if key not in arrays:
            near = did_you_mean(key, map(str, arrays))
            raise InvalidActivationsError(f"dims= names {key!r}, and there is no such array{near}")
    given = [_given(key, values, (dims or {}).get(key)) for key, values in arrays.items()]
    labels = [one.name.label for one in given]
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidActivationsError(f"two arrays are called {label!r}; give each a name of its own")
    given = _aligned(given)
    first = given[0]
    ids = next((one.ids for one in given if one.ids is not None), np.arange(_examples(first)))
    zoo = ArrayZoo(create_zoo(MemoryStore(), examples=ids, coords=_coords(given)).root, writable=True)
    for one in given:
        # Stores in memory are read through zarr, and no codec makes that faster.
        zoo.write(*one.name, one.values, dims=one.dims, compression="none")
    return zoo


def _name(key: Any) -> RepresentationName:
    parts = (key,) if isinstance(key, str) else key
    if not isinstance(parts, tuple) or not 1 <= len(parts) <= 3 or not all(isinstance(part, str) for part in parts):
        raise InvalidActivationsError(
            f"an array is called by the name of its layer, or by (checkpoint, layer) or (model, checkpoint, layer), "
            f"all of them text; got {key!r}"
        )
    padded = ("",) * (3 - len(parts)) + tuple(map(str, parts))
    name = RepresentationName(*padded)
    # Only names that are left out may be empty.
    RepresentationName(*(part or "-" for part in padded[: 3 - len(parts)]), *parts).check()
    return name


def _given(key: Any, values: Any, dims: Sequence[str] | None) -> _Given:
    name = _name(key)
    own_dims = None if dims is None else tuple(map(str, dims))
    if isinstance(values, pd.DataFrame):
        labelled = not isinstance(values.index, pd.RangeIndex)
        ids = values.index.to_numpy() if labelled else None
        return _Given(name, values.to_numpy(), own_dims, ids, {})
    if not isinstance(values, xr.DataArray):
        # Tensors of torch may belong to a graph or to another device.
        plain = values.detach().cpu().numpy() if hasattr(values, "detach") else values
        return _Given(name, plain if hasattr(plain, "shape") else np.asarray(plain), own_dims, None, {})
    named = tuple(map(str, values.dims))
    if own_dims is None and named != tuple(f"dim_{axis}" for axis in range(values.ndim)):
        own_dims = named
    examples = named[example_axis(own_dims)] if values.ndim else ""
    ids = values.coords[examples].to_numpy() if examples in values.coords else None
    coords = {
        str(coordinate): array.transpose(EXAMPLE, TOKEN).to_numpy()
        for coordinate, array in values.coords.items()
        if set(array.dims) == {EXAMPLE, TOKEN}
    }
    return _Given(name, values.data, own_dims, ids, coords)


def _examples(given: _Given) -> int:
    axis, shape = example_axis(given.dims), given.shape
    if axis >= len(shape):
        raise InvalidActivationsError(f"{given.name.label!r} has the shape {shape}, without an axis of examples")
    return shape[axis]


def _aligned(given: list[_Given]) -> list[_Given]:
    """All arrays with their examples in one order."""
    first = next((one for one in given if one.ids is not None), given[0])
    for one in given:
        if _examples(one) != _examples(first):
            raise MismatchedExamplesError(
                f"{one.name.label!r} has {_examples(one)} examples, and {first.name.label!r} has {_examples(first)}: "
                f"all arrays must be of the same examples"
            )
    if first.ids is None:
        return given
    aligned = [one.in_order(first.ids, first.name) for one in given]
    moved = next((new for old, new in zip(given, aligned, strict=True) if old is not new), None)
    silent = next((one for one in given if one.ids is None), None)
    if moved is not None and silent is not None:
        raise MismatchedExamplesError(
            f"{moved.name.label!r} and {first.name.label!r} have their examples in different orders, and "
            f"{silent.name.label!r} does not say which of them it has. Label its examples, or put all in one order"
        )
    return aligned


def _coords(given: Iterable[_Given]) -> dict[str, npt.NDArray[Any]]:
    coords: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    for one in given:
        for name, values in one.coords.items():
            label, known = coords.setdefault(name, (one.name.label, values))
            if not np.array_equal(known, values):
                raise MismatchedExamplesError(
                    f"{label!r} and {one.name.label!r} have different coordinates {name!r}. Give one of them another "
                    f"name, or compare them apart"
                )
    return {name: values for name, (_, values) in coords.items()}
