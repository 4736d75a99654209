"""A user's array as input: NumPy, Dask or xarray, its axes in one order, checked, and how it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr

from dask_svcca.arrays import as_given
from dask_svcca.dims import DEFAULT_DIMS, ONE_NEURON, TOKEN, agree_dims, canonical_dims, check_known, example_of
from dask_svcca.errors import IncompatibleError, InvalidActivationsError, MismatchedExamplesError
from dask_svcca.examples import check_alike, order_of
from dask_svcca.kernels.noise import precision_of_means
from dask_svcca.precision import precision_of
from dask_svcca.readings import Fourier, Meeting, Neurons, choose_reading, meet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.arrays import Given
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.readings import Reading

Array: TypeAlias = Any
"""NumPy or Dask array, DataArray, DataFrame, tensor, or what else `dask_svcca.arrays.as_given` takes."""

CHUNK_BYTES = 2**25
"""How much of NumPy arrays is read at a time, as bytes in double precision."""


@dataclass(frozen=True, slots=True, eq=False)
class InputArray:
    """One array, as (example, *sizes, neuron), and how it is read.

    Attributes
    ----------
    name : str
        Name in errors: x or y.
    values : numpy.ndarray or dask.array.Array
    neuron_dim : str
    spatial_dims : tuple of str
        Names of the axes between examples and neurons.
    coords : dict of str to DataArray
        Coordinates along the examples.
    given : Given
        As it was handed in, with its ids.
    reading : Reading
    epsilon : float
        Relative precision of the values.
    masked : int
        Tokens of each example, of those that count the values are made; 0 where all count.
    """

    name: str
    values: Any
    neuron_dim: str
    spatial_dims: tuple[str, ...]
    coords: dict[str, xr.DataArray]
    given: Given
    reading: Reading
    epsilon: float
    masked: int = 0

    @property
    def lazy(self) -> bool:
        """Whether it is a Dask array."""
        return isinstance(self.values, da.Array)

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(self.values.shape[0])

    @property
    def samples(self) -> int:
        """Number of samples that the examples are read as."""
        return self.reading.samples(self.examples)

    @property
    def neurons(self) -> int:
        """Neurons of one frequency."""
        return self.reading.neurons(self.values.shape[-1])

    @property
    def coefficient_dims(self) -> tuple[str, ...]:
        """Dims of the neurons that coefficients belong to."""
        by_position = self.reading.positions_as == "neurons"
        return (*self.spatial_dims, self.neuron_dim) if by_position else (self.neuron_dim,)

    @property
    def sample_dims(self) -> tuple[str, ...]:
        """Dims of the samples that directions have a value for."""
        return ("example", *self.spatial_dims) if self.reading.positions_as == "samples" else ("example",)


def as_input(
    array: Array,
    name: str,
    parameters: Parameters,
    spatial_order: Sequence[str] = ("height", "width"),
    dims: Sequence[str] | None = None,
) -> InputArray:
    """Check a user's array, and put its axes in the order of the kernels.

    Parameters
    ----------
    array : array
        A DataArray with a dim ``example`` says what its axes are; any other array has them in the usual order.
    name : str
        Name in errors.
    parameters : Parameters
        How it is to be read.
    spatial_order : sequence of str
        Spatial dims come in this order, and any other after them.
    dims : sequence of str, optional
        Names of the axes of an array without names that has as many.

    Raises
    ------
    InvalidActivationsError
        For axes or values that activations do not have.
    """
    given = as_given(array, name, dims)
    values = given.data
    named_already = given.names is not None and "example" in given.names
    said = dims if dims is not None and len(dims) == values.ndim and not named_already else None
    if said is not None:
        canonical_dims(said, values.shape, name)
    named = agree_dims(given.names, said, values.ndim, name)
    ordered = DEFAULT_DIMS.get(values.ndim)
    if named is not None and "example" in named:
        if len(named) > 2:
            check_known(named, f"{name}, with the axes {named},")
        ordered = _ordered_dims(named, spatial_order)
        values = values.transpose([named.index(dim) for dim in ordered])
    if ordered is None and dims is not None:
        raise InvalidActivationsError(
            f"dims={dims!r} has {len(dims)} names, and {name} has {values.ndim} axes; name each axis of an array once"
        )
    if values.ndim == 1:
        raise InvalidActivationsError(f"{name} has 1 axis{ONE_NEURON}")
    if ordered is None or len(ordered) < 2:
        raise InvalidActivationsError(
            f"{name} has {values.ndim} axes; (example, neuron) or (example, token, neuron) is expected. Say what other "
            f"axes are, with {example_of(values.ndim)}, or name them in a DataArray"
        )
    if values.dtype.kind not in "fiub":
        raise InvalidActivationsError(f"{name} holds {values.dtype} values; activations are real numbers")
    if values.shape[0] < 2 or 0 in values.shape:
        raise InvalidActivationsError(
            f"{name} is {' x '.join(map(str, values.shape))} {ordered}; at least two examples and one neuron are needed"
        )
    coords: dict[str, xr.DataArray] = {}
    if isinstance(array, xr.DataArray) and "example" in array.dims:
        coords = {str(key): value for key, value in array.coords.items() if value.dims == ("example",)}
    whole = InputArray(
        name=name,
        values=values,
        neuron_dim=ordered[-1],
        spatial_dims=ordered[1:-1],
        coords=coords,
        given=given,
        reading=choose_reading(ordered, values.shape, parameters.reading),
        epsilon=precision_of(values.dtype, given.source_dtype),
    )
    return _under_mask(whole, given.masks) if TOKEN in ordered else whole


def _under_mask(array: InputArray, masks: dict[str, npt.NDArray[Any]]) -> InputArray:
    """The same array, read from the tokens that count under the mask that it brings along."""
    if len(masks) > 1:
        raise InvalidActivationsError(
            f"{array.name} brings several masks along, {', '.join(map(repr, masks))}: leave all but one of them "
            f"behind, for example {array.name}.drop_vars({next(iter(masks))!r})"
        )
    for name, values in masks.items():
        mask = values.astype(bool)
        if mask.all():
            continue
        without = f"leave it behind, {array.name}.drop_vars({name!r})"
        if array.reading.positions_as == "samples":
            raise InvalidActivationsError(
                f"{array.name} brings the mask {name!r} along, under which examples have unequal numbers of tokens, "
                f"and sequence='positions' takes all: use dask_svcca.compare, or {without}"
            )
        empty = np.flatnonzero(~mask.any(axis=1))
        if len(empty):
            raise InvalidActivationsError(
                f"the mask {name!r} of {array.name} says of the example at {empty[0]} that none of its tokens counts. "
                f"It is true for tokens, and may be inverted. Leave such examples out, or {without}"
            )
        read = _read(array.values, mask, array.reading)
        # The example with the fewest tokens holds for all.
        averaged = int(mask.sum(axis=1).min()) if array.reading.averaged > 1 else 1
        return replace(
            array,
            values=read,
            spatial_dims=(),
            reading=Neurons(),
            epsilon=precision_of_means(array.epsilon, averaged),
            masked=mask.shape[1],
        )
    return array


def _read(values: Any, mask: npt.NDArray[Any], reading: Reading) -> Any:
    """One row of neurons an example."""
    if isinstance(values, da.Array):
        chunks = values.chunks[0]
        return da.map_blocks(
            lambda block, rows: _read(as_given(block, "a block of a dask array").data, rows, reading),
            chunked_by_example(values, chunks),
            da.from_array(mask[..., np.newaxis], chunks=(chunks, -1, 1)),
            chunks=(chunks, (values.shape[-1],)),
            drop_axis=1,
            meta=np.empty((0, 0)),
        )
    return np.asarray(reading(as_floating(values), mask.reshape(len(mask), -1))[:, 0])


def _ordered_dims(dims: Sequence[str], spatial_order: Sequence[str]) -> tuple[str, ...]:
    """Dims in order: examples, spatial dims, neurons."""
    rest = [dim for dim in dims if dim != "example"]
    neuron_dim = next((dim for dim in rest if dim in {"neuron", "channel"}), rest[-1] if rest else "")
    spatial = sorted(
        (dim for dim in rest if dim != neuron_dim),
        key=lambda dim: spatial_order.index(dim) if dim in spatial_order else len(spatial_order),
    )
    return ("example", *spatial, *([neuron_dim] if neuron_dim else []))


def align_examples(x: InputArray, y: InputArray) -> InputArray:
    """The second array with its examples in the order of the first, where both have ids.

    The index of a DataFrame that only counts its rows is an id where the other's ids are the same numbers.

    Raises
    ------
    MismatchedExamplesError
        For other examples, or unequal numbers of them, or where only one says that it has an order of its own.
    """
    for one, other in ((x, y), (y, x)):
        alike = other.spatial_dims == (TOKEN,) and other.values.shape[1] == one.masked
        if alike and not other.given.masks:
            raise InvalidActivationsError(
                f"{one.name} brings a mask along, and {other.name}, which has as many tokens, does not say which of "
                f"them count. Give {other.name} the same coordinate, or drop that of {one.name}, with drop_vars"
            )
    if any(one.given.ids is None or one.given.counted for one in (x, y)):
        check_alike(y.given, x.given, "y", "x")
    order = order_of(y.given.ids, x.given.ids, "y", "x")
    if x.examples != y.examples:
        raise MismatchedExamplesError(
            f"x has {x.examples} examples and y has {y.examples}: both must be of the same examples in the same order"
        )
    if order is None:
        return y
    coords = {key: value.isel(example=order) for key, value in y.coords.items()}
    return replace(y, values=y.values[order], coords=coords)


def match_readings(
    x: InputArray, y: InputArray, parameters: Parameters
) -> tuple[tuple[InputArray, InputArray], Meeting]:
    """Both arrays, read so that they can be compared, and the frequencies that they are compared at.

    Raises
    ------
    IncompatibleError
        For readings whose samples, or whose grids, have nothing in common.
    """
    a, b = x.reading, y.reading
    meeting = meet(a.domain, a.grid, b.domain, b.grid, parameters.match)
    if not isinstance(meeting, Meeting):
        what = (
            f"samples of x are {a.domain}, those of y {b.domain}; read both alike, by conv= and sequence="
            if a.domain != b.domain
            else f"x has the grid {a.grid}, y {b.grid}, and neither divides the other; pass match='crop' or conv='mean'"
        )
        raise IncompatibleError(f"x and y cannot be compared: {what}")
    if meeting.fold_a and isinstance(a, Fourier):
        x = replace(x, reading=a.folded(meeting.fold_a))
    if meeting.fold_b and isinstance(b, Fourier):
        y = replace(y, reading=b.folded(meeting.fold_b))
    return (x, y), meeting


def examples_at_a_time(inputs: Sequence[InputArray]) -> int:
    """How many examples of NumPy arrays to read at a time: enough that merging factors costs little."""
    neurons = sum(array.neurons for array in inputs)
    values = int(sum(math.prod(array.values.shape[1:]) for array in inputs))
    return max(4 * neurons, CHUNK_BYTES // (8 * values))


def chunked_by_example(values: Any, chunks: tuple[int, ...]) -> da.Array:
    """A Dask array with these chunks of examples, and each example whole."""
    whole = (chunks, *((size,) for size in values.shape[1:]))
    return values.rechunk(whole) if isinstance(values, da.Array) else da.from_array(values, chunks=whole)


def as_floating(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values as floating-point numbers; floating ones keep their precision."""
    return values if values.dtype.kind == "f" else values.astype(np.float64)
