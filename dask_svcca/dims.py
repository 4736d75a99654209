"""The axes of activations: their names, the order they are stored in, and defaults for arrays without names.

The first axis is always `EXAMPLE`, and the last the neurons: ``neuron``, or ``channel`` of a convolution. Between them
lie the spatial axes of a convolution, in the order of `SPATIAL`, or the `TOKEN` axis of a sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_svcca.errors import InvalidActivationsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

EXAMPLE = "example"
TOKEN = "token"  # noqa: S105 - an axis, not a secret
NEURONS = ("neuron", "channel")
"""Names that the last axis may have."""
SPATIAL = ("depth", "height", "width")
"""Spatial axes in the order they are stored in."""

DEFAULT_DIMS = {
    2: (EXAMPLE, "neuron"),
    3: (EXAMPLE, TOKEN, "neuron"),
    4: (EXAMPLE, "height", "width", "channel"),
}
"""Names of the axes of an array without names, by their number."""

SPATIAL_DIMS = {3: ("width",), 4: ("height", "width"), 5: SPATIAL}
"""Spatial axes of a convolution's output, by the number of all its axes."""


def canonical_dims(dims: Sequence[str] | None, shape: Sequence[int], label: str) -> tuple[str, ...]:
    """Names of the axes of activations in the order they are stored in.

    Parameters
    ----------
    dims : sequence of str, or None
        Names of the axes as the array has them; None for `DEFAULT_DIMS`.
    shape : sequence of int
    label : str
        The name of the representation in messages.

    Returns
    -------
    tuple of str
        A permutation of ``dims``: see `arrange_dims`.

    Raises
    ------
    InvalidActivationsError
        Where the dims do not describe the axes. Without dims, where so many axes have no default names, or look
        channels-first.

    Examples
    --------
    >>> canonical_dims(("example", "channel", "height", "width"), (100, 16, 8, 8), "net/1/conv")
    ('example', 'height', 'width', 'channel')
    >>> canonical_dims(None, (100, 12, 64), "net/1/attention")
    ('example', 'token', 'neuron')
    """
    axes = len(shape)
    if dims is None:
        if axes not in DEFAULT_DIMS:
            raise InvalidActivationsError(
                f"activations of {label!r} have {axes} axes; say what they are with dims=, for example "
                f"dims=('example', 'width', 'channel')"
            )
        if looks_channels_first(shape):
            raise InvalidActivationsError(
                f"activations of {label!r} look channels-first: {tuple(shape[1:])}. Say what the axes are: "
                f"dims=('example', 'channel', 'height', 'width') if so, dims={DEFAULT_DIMS[axes]!r} if not"
            )
        return DEFAULT_DIMS[axes]
    neurons = [dim for dim in dims if dim in NEURONS]
    if len(dims) != axes or EXAMPLE not in dims or len(neurons) != 1 or len(set(dims)) != axes:
        raise InvalidActivationsError(
            f"dims={tuple(dims)!r} do not describe the {axes} axes of {label!r}: name each once, one 'example' "
            f"and one 'neuron' or 'channel' among them"
        )
    return arrange_dims(dims)


def arrange_dims(dims: Sequence[str], spatial: Sequence[str] = SPATIAL) -> tuple[str, ...]:
    """Names of axes in order: examples first, neurons last, spatial axes between them.

    Parameters
    ----------
    dims : sequence of str
        ``example`` must be among them. The neurons are ``neuron`` or ``channel``, or else the last.
    spatial : sequence of str
        Order of the spatial axes. Axes with other names stand before them, in the order in which they come.

    Examples
    --------
    >>> arrange_dims(("width", "channel", "time", "height", "example"))
    ('example', 'time', 'height', 'width', 'channel')

    Spatial axes in the order of another array:

    >>> arrange_dims(("example", "row", "column", "feature"), spatial=("column", "row"))
    ('example', 'column', 'row', 'feature')
    """
    rest = [dim for dim in dims if dim != EXAMPLE]
    if not rest:
        return (EXAMPLE,)
    neurons = next((dim for dim in rest if dim in NEURONS), rest[-1])
    rest.remove(neurons)
    place = {dim: index for index, dim in enumerate(spatial)}
    return (EXAMPLE, *sorted(rest, key=lambda dim: place.get(dim, -1)), neurons)


def looks_channels_first(shape: Sequence[int]) -> bool:
    """Whether four axes look like (example, channel, height, width): the last two are equal, and the second is not.

    Examples
    --------
    >>> looks_channels_first((100, 16, 8, 8)), looks_channels_first((100, 8, 8, 16)), looks_channels_first((100, 8, 8))
    (True, False, False)
    """
    return len(shape) == 4 and shape[1] != shape[2] == shape[3]


def example_axis(dims: Sequence[str] | None) -> int:
    """Which axis the examples are on; the first by default.

    Examples
    --------
    >>> example_axis(("neuron", "example")), example_axis(None)
    (1, 0)
    """
    return list(dims).index(EXAMPLE) if dims is not None and EXAMPLE in dims else 0


def dims_of(shape: Sequence[int], channel_axis: int | None) -> tuple[str, ...] | None:
    """Names of the axes of a batch of activations.

    Parameters
    ----------
    shape : sequence of int
        The first axis is the examples.
    channel_axis : int, optional
        Axis of the channels of a convolution. Without, three axes are taken for a sequence, and more have no names.

    Returns
    -------
    tuple of str, or None
        None where the axes have no names. Two names for a dense layer, which `as_dims` reshapes to two axes.

    Examples
    --------
    >>> dims_of((500, 16, 8, 8), 1), dims_of((500, 16, 100), 1), dims_of((500, 16, 8, 8), None)
    (('example', 'channel', 'height', 'width'), ('example', 'channel', 'width'), None)

    Pooled to a single position, channels are neurons:

    >>> dims_of((500, 16, 1, 1), 1)
    ('example', 'neuron')
    """
    if len(shape) <= 2:
        return (EXAMPLE, "neuron")
    if channel_axis is None:
        return (EXAMPLE, TOKEN, "neuron") if len(shape) == 3 else None
    if all(size == 1 for axis, size in enumerate(shape) if axis not in {0, channel_axis}):
        return (EXAMPLE, "neuron")
    if len(shape) not in SPATIAL_DIMS:
        return None
    dims = [EXAMPLE, *SPATIAL_DIMS[len(shape)]]
    dims.insert(channel_axis, "channel")
    return tuple(dims)


def as_dims(values: npt.NDArray[Any], dims: tuple[str, ...]) -> npt.NDArray[Any]:
    """Activations reshaped to the axes that `dims_of` names."""
    return values.reshape(len(values), -1) if len(dims) == 2 else values
