"""A user's array as input: NumPy, Dask or xarray, its axes in one order, checked, and how it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr

from dask_svcca.dims import DEFAULT_DIMS
from dask_svcca.errors import IncompatibleError, InvalidActivationsError, MismatchedExamplesError
from dask_svcca.kernels.directions import relative_precision
from dask_svcca.readings import Fourier, Meeting, choose_reading, meet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.readings import Reading

Array: TypeAlias = Any
"""NumPy or Dask array, xarray.DataArray, or what NumPy makes an array of."""

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
    reading : Reading
    epsilon : float
        Relative precision of the values.
    """

    name: str
    values: Any
    neuron_dim: str
    spatial_dims: tuple[str, ...]
    coords: dict[str, xr.DataArray]
    reading: Reading
    epsilon: float

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
    array: Array, name: str, parameters: Parameters, spatial_order: Sequence[str] = ("height", "width")
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
        Spatial dims of a DataArray come in this order, and any other after them.

    Raises
    ------
    InvalidActivationsError
        For axes or values that activations do not have.
    """
    dims: tuple[str, ...] | None = None
    coords: dict[str, xr.DataArray] = {}
    values = array
    if isinstance(array, xr.DataArray):
        if "example" in array.dims:
            dims = _ordered_dims(array, spatial_order)
            array = array.transpose(*dims)
            coords = {str(key): value for key, value in array.coords.items() if value.dims == ("example",)}
        values = array.data
    if not isinstance(values, da.Array):
        values = np.asarray(values)
    dims = DEFAULT_DIMS.get(values.ndim) if dims is None else dims
    if dims is None or len(dims) < 2:
        raise InvalidActivationsError(
            f"{name} has {values.ndim} axes; (example, neuron), (example, token, neuron) or (example, height, width, "
            f"channel) is expected. Name others in a DataArray, such as dims=('example', 'width', 'channel')"
        )
    if values.dtype.kind not in "fiub":
        raise InvalidActivationsError(f"{name} holds {values.dtype} values; activations are real numbers")
    if any(math.isnan(size) for size in values.shape):
        raise InvalidActivationsError(f"{name} has chunks of unknown sizes; call its compute_chunk_sizes() first")
    if values.shape[0] < 2 or 0 in values.shape:
        raise InvalidActivationsError(
            f"{name} is {' x '.join(map(str, values.shape))} {dims}; at least two examples and one neuron are needed"
        )
    reading = choose_reading(dims, values.shape, parameters.reading)
    return InputArray(name, values, dims[-1], dims[1:-1], coords, reading, relative_precision(values.dtype))


def _ordered_dims(array: xr.DataArray, spatial_order: Sequence[str]) -> tuple[str, ...]:
    """Dims in order: examples, spatial dims, neurons."""
    rest = [str(dim) for dim in array.dims if dim != "example"]
    neuron_dim = next((dim for dim in rest if dim in {"neuron", "channel"}), rest[-1] if rest else "")
    spatial = sorted(
        (dim for dim in rest if dim != neuron_dim),
        key=lambda dim: spatial_order.index(dim) if dim in spatial_order else len(spatial_order),
    )
    return ("example", *spatial, *([neuron_dim] if neuron_dim else []))


def check_examples(x: InputArray, y: InputArray) -> None:
    """Refuse arrays of unequal numbers, or labels, of examples.

    Raises
    ------
    MismatchedExamplesError
    """
    if x.examples != y.examples:
        raise MismatchedExamplesError(
            f"x has {x.examples} examples and y has {y.examples}: both must be of the same examples in the same order"
        )
    if "example" in x.coords and "example" in y.coords:
        labels = x.coords["example"].to_numpy(), y.coords["example"].to_numpy()
        differ = np.flatnonzero(labels[0] != labels[1])
        if len(differ):
            place = int(differ[0])
            raise MismatchedExamplesError(
                f"x and y are labelled with different examples, first at {place}: {labels[0].item(place)!r} and "
                f"{labels[1].item(place)!r}. Put them in one order, y.sel(example=x.example), or drop the labels"
            )


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
