"""The examples of a zoo: their ids, and coordinates along them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.arrays import as_given
from dask_svcca.dims import EXAMPLE, TOKEN
from dask_svcca.errors import (
    DamagedStoreError,
    InvalidActivationsError,
    MismatchedExamplesError,
    StoreFormatError,
)
from dask_svcca.examples import order_by_id
from dask_svcca.stores import _io
from dask_svcca.stores._digest import values_digest
from dask_svcca.stores._names import encode
from dask_svcca.stores._single import NUMBERS, read_single, write_single

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import zarr


def example_ids(examples: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Ids of examples as an array of unique integers, or of unique text as objects.

    Raises
    ------
    InvalidActivationsError
        Where they are not valid ids, or fewer than two.
    MismatchedExamplesError
        Where an id occurs twice.

    Examples
    --------
    >>> example_ids(["a", "b"])
    array(['a', 'b'], dtype=object)
    """
    ids = np.asarray(as_given(examples, "examples").data)
    if ids.ndim != 1 or ids.dtype.kind not in "iuUOT":
        raise InvalidActivationsError(
            f"examples must be ids, an integer or text for each; got an array of shape {ids.shape} and type "
            f"{ids.dtype}. Make text of an index of pandas with index.map(str)"
        )
    if ids.dtype.kind == "O":
        wrong = [value for value in ids.tolist() if isinstance(value, bool) or not isinstance(value, str | int)]
        if wrong:
            raise InvalidActivationsError(
                f"examples must be ids, an integer or text for each; {wrong[0]!r} is of type "
                f"{type(wrong[0]).__name__!r}. Make text of an index of pandas with index.map(str)"
            )
    if ids.dtype.kind in "UOT":
        ids = np.array([str(value) for value in ids], dtype=object)
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        raise MismatchedExamplesError(
            f"ids of examples must be unique; {unique[counts > 1][0]!r} occurs {counts.max()} times"
        )
    if len(ids) < 2:
        raise InvalidActivationsError(f"a zoo needs at least two examples to compare anything; got {len(ids)}")
    return ids


def example_coords(ids: npt.NDArray[Any], coords: Mapping[str, npt.ArrayLike] | None) -> dict[str, npt.NDArray[Any]]:
    """All coordinates of a zoo, the ids first.

    Raises
    ------
    MismatchedExamplesError
        Where a coordinate is not as long as the ids, or is labelled with other examples.
    InvalidActivationsError
        Where a coordinate is masked, or is not an array.
    ValueError
        Where a coordinate has the name of the ids, more than two axes, or a type that cannot be stored, or two have
        unequal numbers of tokens.
    """
    if coords and EXAMPLE in coords:
        raise ValueError("the coordinate 'example' holds the ids, given as examples=; give the coordinate another name")
    every = {EXAMPLE: ids, **{name: _values(name, value, ids) for name, value in (coords or {}).items()}}
    tokens: dict[str, int] = {}
    for name, value in every.items():
        if value.shape[:1] != ids.shape:
            raise MismatchedExamplesError(f"coordinate {name!r} has shape {value.shape}; there are {len(ids)} examples")
        if value.ndim > 2 or 0 in value.shape:
            raise ValueError(
                f"a coordinate has one value per example, or one per example and token; {name!r} has shape "
                f"{value.shape}"
            )
        if value.ndim == 2:
            tokens[name] = value.shape[1]
    if len(set(tokens.values())) > 1:
        raise ValueError(f"coordinates along tokens must have equally many tokens; they have {tokens}")
    return every


def _values(name: Any, value: Any, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values of a coordinate in the order of the ids."""
    if not isinstance(name, str) or encode(name) != name or not name:
        raise ValueError(f"a coordinate's name is a plain word, for example 'label'; got {name!r}")
    what = f"the coordinate {name!r}"
    given = as_given(value, what)
    values = np.asarray(given.data)
    if given.names is not None and EXAMPLE in given.names:
        values = np.moveaxis(values, given.names.index(EXAMPLE), 0)
    elif given.names is not None and given.names[:1] == (TOKEN,):
        raise InvalidActivationsError(
            f"{what} has the axes {given.names}, and (example, token) are expected; call that of the examples 'example'"
        )
    if given.ids is not None and not given.counted:
        order = order_by_id(given.ids, ids, what, "the zoo")
        values = values if order is None else values[order]
    if values.dtype.kind == "O" and not all(isinstance(entry, str) for entry in values.flat):
        raise ValueError(f"{what} holds Python objects; give numbers, booleans or text")
    if values.dtype.kind not in "UOT" and values.dtype.name not in NUMBERS:
        raise ValueError(f"{what} is {values.dtype}, which cannot be stored; give numbers, booleans or text")
    return values


def write_coords(root: zarr.Group, coords: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write coordinates as arrays of one chunk each; `digests_of` goes into the attributes of the zoo."""
    for name, value in coords.items():
        write_single(root, name, value, (EXAMPLE, TOKEN)[: value.ndim])


def digests_of(coords: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    """Digests of coordinates, by name and in their order."""
    return {name: values_digest(value) for name, value in coords.items()}


def add_coord(root: zarr.Group, name: str, value: npt.NDArray[Any]) -> None:
    """Give a zoo one more coordinate."""
    digests: dict[str, str] = root.attrs["example_coordinates"]  # type: ignore[assignment]
    write_coords(root, {name: value})
    # Written last: until then the array is not a coordinate.
    every = {**digests, **digests_of({name: value})}
    _io.set_attributes(root, {**root.attrs, "example_coordinates": every})


def read_coords(root: zarr.Group) -> dict[str, npt.NDArray[Any]]:
    """Read back what `write_coords` wrote, in its order.

    Raises
    ------
    DamagedStoreError
        Where a coordinate is not what was written.
    """
    digests: dict[str, str] = root.attrs["example_coordinates"]  # type: ignore[assignment]
    return {name: read_coord(root, name) for name in digests}


def read_coord(root: zarr.Group, name: str) -> npt.NDArray[Any]:
    """Read back one coordinate; see `read_coords`."""
    digests: dict[str, str] = root.attrs["example_coordinates"]  # type: ignore[assignment]
    try:
        values = read_single(root, name)
    except (ValueError, StoreFormatError) as error:
        raise _damaged(root, name, f" ({error})") from error
    if values.shape[:1] != (root.attrs["n_examples"],) or values.ndim > (1 if name == EXAMPLE else 2):
        examples = root.attrs["n_examples"]
        raise _damaged(root, name, f" (its shape is {values.shape}, and the zoo has {examples} examples)")
    if values_digest(values) != digests[name]:
        raise _damaged(root, name)
    return values


def _damaged(root: zarr.Group, name: str, why: str = "") -> DamagedStoreError:
    return DamagedStoreError(
        f"the coordinate {name!r} of the zoo {str(root.store_path)!r} is not what was written: a file below "
        f"'{name}/' is damaged or missing{why}. Restore these files from a copy, or make the zoo anew"
    )
