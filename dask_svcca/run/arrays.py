"""Arrays at hand as a zoo in memory, so that they go the way of any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from zarr.storage import MemoryStore

from dask_svcca.arrays import as_given, is_series
from dask_svcca.dims import agree_dims, check_names, example_axis
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError, did_you_mean
from dask_svcca.examples import check_alike, check_silent, numbers_of, order_by_id
from dask_svcca.stores import _io
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.arrays import Given
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Representation

Key: TypeAlias = "str | tuple[str, str] | tuple[str, str, str]"
"""Name of an array: a layer, (checkpoint, layer), or (model, checkpoint, layer)."""

Arrays: TypeAlias = "Mapping[Any, Any]"
"""Arrays by their names: see `Key`."""


@dataclass(frozen=True, eq=False)
class _Named:
    """One array as it was given.

    Attributes
    ----------
    name : RepresentationName
    given : Given
    dims : tuple of str, or None
        Names of its axes, as they were given beside it.
    examples : int
    ids : pandas.Index or None
        None where its examples have no labels.
    """

    name: RepresentationName
    given: Given
    dims: tuple[str, ...] | None
    examples: int
    ids: pd.Index[Any] | None

    def counting(self) -> _Named:
        """The same, with the numbers of its rows as ids."""
        ids = pd.Index(np.arange(self.examples))
        return replace(self, given=replace(self.given, ids=ids), ids=ids)

    def order(self, first: _Named) -> npt.NDArray[np.intp] | None:
        """Where the examples of another array are among those of this one; None where the order is the same."""
        if self.ids is None or first.ids is None:
            return None
        return order_by_id(self.ids, first.ids, repr(self.name.label), repr(first.name.label))


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


def open_source(zoo: Zoo | Arrays | StoreLike, dims: Mapping[Any, Sequence[str]] | None = None) -> Zoo:
    """What is to be compared, as a zoo: opened where it is, or made of arrays.

    Raises
    ------
    InvalidActivationsError
        Where it is neither.
    """
    if isinstance(zoo, Mapping):
        return zoo_of(zoo, dims)
    if dims is not None:
        raise ValueError("dims= is about arrays at hand, {'name': array, ...}; a zoo says what its axes are")
    if isinstance(zoo, Zoo):
        # Others may have written to it since it was opened.
        zoo.refresh()
        return zoo
    if _io.is_place(zoo):
        return open_zoo(zoo)
    raise InvalidActivationsError(
        f"there is a zoo to compare, or its path, or a mapping of names to arrays, {{'conv1': x, 'fc': y}}; got "
        f"{type(zoo).__name__}"
    )


def zoo_of(arrays: Arrays, dims: Mapping[Any, Sequence[str]] | None = None) -> Zoo:
    """Arrays as a zoo in memory.

    Parameters
    ----------
    arrays : mapping of str or tuple of str to array
        See `Key`. What `Zoo.write` takes as an array; (example, ...) each. The examples of all are put into the
        order of the first array whose examples have labels: the coordinate ``example`` of a DataArray, or the index of
        a DataFrame. Beside those without labels they are taken row by row, which is refused where the labels tell of
        rows that were shuffled. Coordinates along examples and tokens, such as a mask, become coordinates of the zoo.
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
    if dims is not None and not isinstance(dims, Mapping):
        raise InvalidActivationsError(
            f"dims= is a mapping of names of arrays to names of axes, {{{next(iter(arrays))!r}: ('example', "
            f"'neuron')}}; got {dims!r}"
        )
    for key in dims or {}:
        if key not in arrays:
            near = did_you_mean(key, map(str, arrays))
            names = ", ".join(map(repr, list(arrays)[:5])) + (", ..." if len(arrays) > 5 else "")
            raise InvalidActivationsError(f"dims= names {key!r}, and there is no such array; there are {names}{near}")
    given = [_named(key, array, (dims or {}).get(key)) for key, array in arrays.items()]
    if any(numbers_of(one.ids) is not None for one in given):
        # Tables that only count their rows have the ids of which another says that its rows were shuffled, or a part.
        given = [one.counting() if one.given.counted else one for one in given]
    labels = [one.name.label for one in given]
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidActivationsError(f"two arrays are called {label!r}; give each a name of its own")
    first = next((one for one in given if one.ids is not None), given[0])
    coords = _check_examples(given, first)
    ids = np.arange(first.examples) if first.ids is None else first.ids.to_numpy()
    zoo = ArrayZoo(create_zoo(MemoryStore(), examples=ids, coords=coords).root, writable=True)
    for one in given:
        # Stores in memory are read through zarr, and no codec makes that faster.
        zoo.write(*one.name, one.given, dims=one.dims, compression="none")
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


def _named(key: Any, array: Any, dims: Sequence[str] | None) -> _Named:
    name = _name(key)
    what = f"activations of {name.label!r}"
    if is_series(array):
        raise InvalidActivationsError(
            f"{what} are a series of batches; put them together, for example with numpy.concatenate, or write them "
            f"into a zoo"
        )
    if dims is not None:
        check_names(dims)
    own = None if dims is None else tuple(map(str, dims))
    given = as_given(array, what, own)
    shape = given.data.shape
    axis = example_axis(agree_dims(given.names, own, len(shape), what))
    if axis >= len(shape):
        raise InvalidActivationsError(f"{what} have the shape {shape}, without an axis of examples")
    if given.ids is not None:
        _check_ids(given.ids, what)
    return _Named(name, given, own, int(shape[axis]), None if given.counted else given.ids)


def _check_ids(ids: pd.Index[Any], what: str) -> None:
    """Refuse ids that a zoo cannot have."""
    if not isinstance(ids, pd.MultiIndex) and (
        ids.dtype.kind in "iu" or (ids.dtype.kind in "OUT" and all(isinstance(one, str | int) for one in ids))
    ):
        return
    kind = "a MultiIndex" if isinstance(ids, pd.MultiIndex) else f"of type {ids.dtype}"
    raise InvalidActivationsError(
        f"the index of the {what} is {kind}, and examples are told by ids, an integer or text for each; make text of "
        f"it, df.index = df.index.map(str), or leave it out, df.to_numpy(), where the rows of all are in one order"
    )


def _check_examples(given: Sequence[_Named], first: _Named) -> dict[str, npt.NDArray[Any]]:
    """Raise where arrays have not the same examples; returns their coordinates, in the order of the first."""
    moved: _Named | None = None
    coords: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    with_labels: dict[str, _Named] = {}
    for one in given:
        if one.examples != first.examples and one.ids is None:
            raise MismatchedExamplesError(
                f"{one.name.label!r} has {one.examples} examples, and {first.name.label!r} has {first.examples}: all "
                f"arrays must be of the same examples"
            )
        for other in (first, *(with_labels.setdefault(label, one) for label in one.given.labels)):
            if one.ids is None or other.ids is None:
                check_alike(one.given, other.given, repr(one.name.label), repr(other.name.label))
        order = one.order(first)
        moved = moved if order is None else one
        for coordinate, values in one.given.masks.items():
            own = values if order is None else values[order]
            label, known = coords.setdefault(coordinate, (one.name.label, own))
            if not np.array_equal(known, own):
                raise MismatchedExamplesError(
                    f"{label!r} and {one.name.label!r} have different coordinates {coordinate!r}. Give one of them "
                    f"another name, or compare them apart"
                )
    silent = next((one for one in given if one.ids is None), None)
    if silent is not None:
        check_silent(first.ids, repr(first.name.label), repr(silent.name.label))
    if moved is not None and silent is not None:
        raise MismatchedExamplesError(
            f"{moved.name.label!r} and {first.name.label!r} have their examples in different orders, and "
            f"{silent.name.label!r} does not say which of them it has. Label its examples, or put all in one order"
        )
    return {coordinate: values for coordinate, (_, values) in coords.items()}
