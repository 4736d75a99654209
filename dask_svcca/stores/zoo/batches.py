"""What people hand in as activations: taken as it comes, by the batch, in the zoo's order of examples and of axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from dask_svcca.arrays import (
    ON_DISK,
    Given,
    as_given,
    check_unshuffled,
    is_array,
    is_mask,
    is_series,
    packages_of,
    stacked,
)
from dask_svcca.dims import EXAMPLE, agree_dims, canonical_dims, example_axis
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError
from dask_svcca.examples import check_labels, check_next, numbers_of, order_by_id
from dask_svcca.machine import available_memory
from dask_svcca.precision import coarsest

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.stores._names import RepresentationName
    from dask_svcca.stores.zoo.options import Stored, WriteOptions

Coords: TypeAlias = "dict[str, npt.NDArray[Any]]"

READ_BYTES = 64 * 2**20
"""How much of an array on disk is read at a time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Activations of some examples as they are stored.

    Attributes
    ----------
    values : (example, ..., neuron) array
    dims : tuple of str
    source_dtype : str
        Type of least precision that they have been in.
    """

    values: npt.NDArray[Any]
    dims: tuple[str, ...]
    source_dtype: str


def batches_of(activations: Any, name: RepresentationName, options: WriteOptions, coords: Coords) -> Iterator[Batch]:
    """Activations of all examples of a zoo as consecutive batches, without empty ones.

    Parameters
    ----------
    activations : array, or iterable of batches
    name : RepresentationName
    options : WriteOptions
    coords : dict of str to array
        Coordinates of the zoo, the ids of its examples among them.

    Raises
    ------
    MismatchedExamplesError
        Where an array has other examples than the zoo, or brings another mask; for batches, the caller has to check
        their number.
    InvalidActivationsError
        See `prepare`.
    """
    what = f"activations of {name.label!r}"
    examples = coords[EXAMPLE]
    if (
        isinstance(activations, Sequence)
        and not isinstance(activations, memoryview)
        and any(map(is_array, activations))
    ):
        activations = _sorted_out(list(activations), options.dims, len(examples), what, name)
    if is_series(activations):
        check_unshuffled(activations, what)
        yield from _series(activations, name, options, coords)
    elif packages_of(activations) & ON_DISK and hasattr(activations, "shape"):
        yield from _from_disk(activations, name, options, coords)
    else:
        yield from _whole(as_given(activations, what, options.dims), name, options, coords)


def prepare(values: Any, name: RepresentationName, options: WriteOptions, coords: Coords, start: int) -> Batch:
    """Bring a batch into the order of axes and the precision in which it is stored.

    Parameters
    ----------
    values : array
        Activations of the next examples.
    name : RepresentationName
    options : WriteOptions
    coords : dict of str to array
        Coordinates of the zoo, the ids of its examples among them.
    start : int
        Number of examples that came before.

    Raises
    ------
    InvalidActivationsError
        Where they are not floating, have an empty axis, are not what ``dims`` says, or too large for ``dtype``.
    MismatchedExamplesError
        Where the batch has ids, and they are not the next ones of the zoo, or brings another mask than the zoo's.
    """
    what = f"activations of {name.label!r}"
    examples = coords[EXAMPLE]
    if isinstance(values, list | tuple) and any(map(is_array, values)):
        raise InvalidActivationsError(
            f"a batch of {name.label!r} is a {type(values).__name__} of {len(values)} arrays, and not one array; give "
            f"the activations alone, for example (batch[0] for batch in batches)"
        )
    given = as_given(values, what, options.dims)
    if given.counted:
        if not start:
            _check_counted(examples, name)
    elif given.ids is not None and not _counts_on(given.ids, examples, start):
        check_next(given.ids, examples, start, repr(name.label))
    if given.labels and (given.ids is None or given.counted):
        check_labels(given.labels, _labels(coords), repr(name.label), "its zoo", start)
    _check_masks(given.masks, {key: mask[start:] for key, mask in coords.items()}, name)
    return _arranged(given, name, options)


def _labels(coords: Coords) -> dict[str, pd.Index[Any]]:
    """Coordinates of a zoo with one value an example."""
    return {key: pd.Index(values) for key, values in coords.items() if values.ndim == 1}


def _check_masks(masks: Coords, coords: Coords, name: RepresentationName) -> None:
    """Refuse activations whose mask would be lost, since the zoo does not have it.

    Parameters
    ----------
    masks : dict of str to (example, token)
        In the order of the zoo.
    coords : dict of str to array
        Coordinates of the zoo, from the first of these examples.
    """
    known = [mask for mask in coords.values() if mask.ndim == 2 and is_mask(mask)]
    for key, mask in masks.items():
        if any(np.array_equal(mask, other[: len(mask)]) for other in known) or (mask.all() and not known):
            continue
        has = "which has another of that name" if key in coords else "which does not have it"
        raise MismatchedExamplesError(
            f"{name.label!r} brings the mask {key!r} along, and would lose it in this zoo, {has}: make the zoo with "
            f"create_zoo(..., coords={{{key!r}: mask}}), or leave the mask behind, x.drop_vars({key!r})"
        )


def mismatch(
    name: RepresentationName, got: int, examples: int, *, more: bool = False, shape: tuple[int, ...] = ()
) -> MismatchedExamplesError:
    """Error for activations of another number of examples than the zoo has; the shape may tell that they lie across."""
    if shape[1:] == (examples,):
        return MismatchedExamplesError(
            f"{name.label!r} has {got} examples, its zoo has {examples}, and the array is {shape[0]} x {shape[1]}. If "
            f"its neurons come first, say so: dims=('neuron', 'example'), or --dims neuron,example"
        )
    return MismatchedExamplesError(
        f"{name.label!r} has {'at least ' if more else ''}{got} examples, its zoo has {examples}. All representations "
        f"of a zoo have the same examples in the same order: capture it again with the zoo's examples, or keep it in a "
        f"zoo of its own"
    )


def _counts_on(ids: pd.Index[Any], examples: npt.NDArray[Any], start: int) -> bool:
    """Whether the ids only count the rows of a longer table, as pandas does where the zoo's ids are not numbers."""
    counting = isinstance(ids, pd.RangeIndex) and (ids.start, ids.step) == (start, 1)
    return counting and numbers_of(pd.Index(examples[start : start + len(ids)])) is None


def _series(batches: Iterable[Any], name: RepresentationName, options: WriteOptions, coords: Coords) -> Iterator[Batch]:
    start = 0
    for values in batches:
        batch = prepare(values, name, options, coords, start)
        if len(batch.values):
            yield batch
        start += len(batch.values)


def _sorted_out(
    arrays: list[Any], dims: Sequence[str] | None, examples: int, what: str, name: RepresentationName
) -> Any:
    """A list of arrays: an iterator of them where they are batches, one array where each is an example."""
    shapes = [tuple(getattr(array, "shape", np.shape(array))) for array in arrays]
    axes = {len(shape) for shape in shapes}
    if len(axes) > 1:
        raise InvalidActivationsError(
            f"cannot take {what} from a list of arrays with {' and '.join(map(str, sorted(axes)))} axes: give batches "
            f"of the activations alone"
        )
    (ndim,) = axes
    named = any(EXAMPLE in map(str, getattr(array, "dims", ())) for array in arrays)
    along = example_axis(tuple(map(str, arrays[0].dims)) if named and hasattr(arrays[0], "dims") else dims)
    total = sum(shape[along] for shape in shapes) if ndim > along else 0
    if dims is not None or named:
        batched = named or len(dims or ()) == ndim
    else:
        batched = ndim >= 2 and total == examples
        if batched and len(arrays) == examples:
            raise InvalidActivationsError(
                f"cannot tell what the list of {len(arrays)} arrays of shape {shapes[0]} is for {name.label!r}: "
                f"batches of one example, or an example each? Put them together with numpy.concatenate or "
                f"numpy.stack, or pass dims="
            )
    if batched:
        return iter(arrays)
    if len(arrays) != examples:
        raise mismatch(name, total if ndim >= 2 else len(arrays), examples)
    return stacked(arrays, what)


def _from_disk(array: Any, name: RepresentationName, options: WriteOptions, coords: Coords) -> Iterator[Batch]:
    examples = coords[EXAMPLE]
    shape = tuple(array.shape or ())
    along = example_axis(options.dims)
    if len(shape) <= along or shape[along] != len(examples):
        raise mismatch(name, shape[along] if len(shape) > along else 0, len(examples), shape=shape)
    size = max(1, READ_BYTES // max(1, math.prod(shape) // shape[along] * np.dtype(array.dtype).itemsize))
    slices = [slice(None)] * len(shape)
    parts = []
    for start in range(0, shape[along], size):
        slices[along] = slice(start, start + size)
        parts.append(tuple(slices))
    yield from _series((array[part] for part in parts), name, options, coords)


def _whole(given: Given, name: RepresentationName, options: WriteOptions, coords: Coords) -> Iterator[Batch]:
    examples = coords[EXAMPLE]
    values, what = given.data, f"activations of {name.label!r}"
    dims = agree_dims(given.names, options.dims, values.ndim, what)
    along = example_axis(dims)
    if values.ndim <= along:
        raise mismatch(name, 0, len(examples))
    order = None
    if given.ids is not None:
        order = _order(given, examples, name)
    if given.labels and (given.ids is None or given.counted):
        check_labels(given.labels, _labels(coords), repr(name.label), "its zoo")
    if values.shape[along] != len(examples):
        raise mismatch(name, values.shape[along], len(examples), shape=values.shape)
    ordered = {key: mask if order is None else mask[order] for key, mask in given.masks.items()}
    _check_masks(ordered, coords, name)
    if given.lazy:
        # Refused before anything is computed.
        canonical_dims(dims, values.shape, name.label)
    for block in _blocks(values, along, order):
        # What Dask says of its blocks may not be what they are.
        whole = as_given(block, what)
        source = given.source_dtype if whole.source_dtype is None else whole.source_dtype
        batch = _arranged(replace(given, data=whole.data, ids=None, source_dtype=source), name, options)
        if len(batch.values):
            yield batch


def _blocks(values: Any, along: int, order: npt.NDArray[np.intp] | None) -> Iterator[npt.NDArray[Any]]:
    """Consecutive parts of an array along its examples, put in order."""
    if order is not None and not isinstance(values, np.ndarray):
        if values.nbytes > available_memory() // 4:
            values, order = values[(slice(None),) * along + (order,)], None
        else:
            # Put in order by Dask, each of its blocks would be made of parts of all.
            values = values.compute()
    if not isinstance(values, np.ndarray):
        yield from _computed(values, along)
    elif order is None:
        yield values
    else:
        size = max(1, READ_BYTES // max(1, values.nbytes // len(order)))
        for start in range(0, len(order), size):
            yield np.take(values, order[start : start + size], axis=along)


def _order(given: Given, examples: npt.NDArray[Any], name: RepresentationName) -> npt.NDArray[np.intp] | None:
    """Where the zoo's examples are among those of an array with ids."""
    ids = given.ids
    if ids is None:
        return None
    if not given.counted:
        return order_by_id(ids, examples, repr(name.label), "its zoo")
    if len(ids) == len(examples):
        _check_counted(examples, name)
    return None


def _check_counted(examples: npt.NDArray[Any], name: RepresentationName) -> None:
    """Refuse a table that counts its rows where the zoo has the same numbers in another order."""
    numbers = numbers_of(pd.Index(examples))
    count = np.arange(len(examples))
    if numbers is not None and not np.array_equal(numbers, count) and np.array_equal(np.sort(numbers), count):
        raise MismatchedExamplesError(
            f"the table of {name.label!r} counts its rows 0, 1, 2 ..., and the examples of its zoo have these ids in "
            f"another order, {examples[0]}, {examples[1]} ...: give the table the ids as its index, or pass "
            f"table.to_numpy() where its rows are in the zoo's order"
        )


def _arranged(given: Given, name: RepresentationName, options: WriteOptions) -> Batch:
    """Axes in the order in which they are stored, values in the type."""
    values, what = given.data, f"activations of {name.label!r}"
    if given.lazy:
        values = as_given(values.compute(), what).data
    source = coarsest_of(values.dtype, given.source_dtype, options.source_dtype)
    if options.dtype is not None and values.dtype.kind == "f":
        values = _rounded(values, options.dtype, name)
    dims = agree_dims(given.names, options.dims, values.ndim, what)
    stored = canonical_dims(dims, values.shape, name.label)
    if dims is not None:
        values = values.transpose([list(dims).index(dim) for dim in stored])
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        raise InvalidActivationsError(
            f"activations of {name.label!r} are {values.dtype}; write float16, float32 or float64, for example "
            f"x.astype('float32')"
        )
    if 0 in values.shape[1:]:
        raise InvalidActivationsError(f"activations of {name.label!r} have an empty axis: shape {values.shape}")
    return Batch(values, stored, coarsest(source, values.dtype.name))


def coarsest_of(dtype: np.dtype[Any], *names: str | None) -> str:
    """The type of least precision among that of an array, where it is floating, and some others."""
    own = dtype.name if dtype.name in {"float16", "float32"} else "float64"
    return coarsest(own, *names)


def _rounded(values: npt.NDArray[Any], dtype: Stored, name: RepresentationName) -> npt.NDArray[Any]:
    """Values in another precision; refused where one would become infinite."""
    if np.can_cast(values.dtype, dtype):
        return values.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    lost = np.isinf(rounded) & np.isfinite(values)
    if lost.any():
        raise InvalidActivationsError(
            f"activations of {name.label!r} are as large as {np.abs(values[lost]).max():.3g}, and {dtype} reaches "
            f"{np.finfo(dtype).max:.3g}; choose a wider dtype, or leave it out to store them as {values.dtype}"
        )
    return rounded


def _computed(values: Any, along: int) -> Iterator[npt.NDArray[Any]]:
    """Blocks of a Dask array along its examples, each piece of work done once as far as memory allows."""
    most = available_memory() // 4 if _share_work(values, along) else 0
    start = stop = 0
    row = values.nbytes // max(1, values.shape[along])
    for position, length in enumerate(values.chunks[along]):
        stop += length
        following = values.chunks[along][position + 1 : position + 2]
        if following and (stop - start + following[0]) * row <= most:
            continue
        if stop > start:
            index = [slice(None)] * values.ndim
            index[along] = slice(start, stop)
            yield values[tuple(index)].compute()
        start = stop


def _share_work(values: Any, along: int) -> bool:
    """Whether blocks along the examples need the same work, such as one load of the whole, which each would repeat."""
    from dask.core import get_dependencies, istask  # noqa: PLC0415 - a worker imports this module, and needs no Dask

    graph = dict(values.__dask_graph__())
    owners: dict[Any, int] = {}
    for block in product(*map(range, values.numblocks)):
        owner = block[along]
        waiting = [(values.name, *block)]
        while waiting:
            key = waiting.pop()
            node = graph[key]
            works = hasattr(node, "func") or (isinstance(node, tuple) and istask(node))
            if key in owners and works:
                if owners[key] != owner:
                    return True
                continue
            if owners.get(key) == owner:
                continue
            owners[key] = owner
            waiting.extend(get_dependencies(graph, key))
    return False
