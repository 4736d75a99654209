"""The axes of activations: their names, the order they are stored in, and defaults for arrays without names.

The first axis is always `EXAMPLE`, and the last the neurons: ``neuron``, or ``channel`` of a convolution. Between them
lie the spatial axes of a convolution, in the order of `SPATIAL`, or the `TOKEN` axis of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dask_svcca.errors import InvalidActivationsError

if TYPE_CHECKING:
    import numpy.typing as npt

EXAMPLE = "example"
TOKEN = "token"  # noqa: S105 - an axis, not a secret
NEURONS = ("neuron", "channel")
"""Names that the last axis may have."""
SPATIAL = ("depth", "height", "width")
"""Spatial axes in the order they are stored in."""

OTHERS = (*SPATIAL, TOKEN)
"""Names that the axes between examples and neurons may have."""

KNOWN = (EXAMPLE, *NEURONS, *OTHERS)
"""Names that an axis may have."""

DEFAULT_DIMS = {2: (EXAMPLE, "neuron"), 3: (EXAMPLE, TOKEN, "neuron")}
"""Names of the axes of an array without names, by their number. More axes are never guessed: channels may come first or
last, and heads of attention look like either."""

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
        Where the dims do not describe the axes, or there are none and so many axes have no default names.

    Examples
    --------
    >>> canonical_dims(("example", "channel", "height", "width"), (100, 16, 8, 8), "net/1/conv")
    ('example', 'height', 'width', 'channel')
    >>> canonical_dims(None, (100, 12, 64), "net/1/attention")
    ('example', 'token', 'neuron')
    """
    axes = len(shape)
    if dims is None:
        if axes == 1:
            raise InvalidActivationsError(f"activations of {label!r} have 1 axis{ONE_NEURON}")
        if axes not in DEFAULT_DIMS:
            raise InvalidActivationsError(
                f"activations of {label!r} have {axes} axes; say what they are with dims=, for example "
                f"{example_of(axes)}"
            )
        return DEFAULT_DIMS[axes]
    check_names(dims)
    neurons = [dim for dim in dims if dim in NEURONS]
    if len(dims) != axes or EXAMPLE not in dims or len(neurons) != 1 or len(set(dims)) != axes:
        raise InvalidActivationsError(
            f"dims={tuple(dims)!r} do not describe the {axes} axes of {label!r}: name each once, one 'example' "
            f"and one 'neuron' or 'channel' among them; the others are {', '.join(map(repr, OTHERS))}"
        )
    check_known(dims, f"dims={tuple(dims)!r} of {label!r}")
    return arrange_dims(dims)


ONE_NEURON = "; one of examples and one of neurons are needed: write those of a single neuron as x[:, None]"
"""Rest of a sentence on an array of one axis."""


def example_of(axes: int) -> str:
    """What to write for ``dims``, in messages.

    Examples
    --------
    >>> example_of(3)
    "dims=('example', 'width', 'channel')"
    """
    if axes not in {4, 5}:
        return "dims=('example', 'width', 'channel')"
    spatial = SPATIAL_DIMS[axes]
    return f"dims={(EXAMPLE, 'channel', *spatial)!r}, or with 'channel' last"


def check_names(dims: object) -> None:
    """Refuse text, or what is not a sequence, where a sequence of names is meant.

    Raises
    ------
    InvalidActivationsError

    Examples
    --------
    >>> check_names("example,neuron")
    Traceback (most recent call last):
    dask_svcca.errors.InvalidActivationsError: dims is a sequence of names, one an axis; got the text 'example,neuron'
    """
    if isinstance(dims, str):
        raise InvalidActivationsError(f"dims is a sequence of names, one an axis; got the text {dims!r}")
    if not isinstance(dims, Sequence) or not all(isinstance(dim, str) for dim in dims):
        raise InvalidActivationsError(
            f"dims is a sequence of names, one an axis, for example ('example', 'neuron'); got {dims!r}"
        )


def check_known(dims: Sequence[str], what: str) -> None:
    """Refuse names of axes that have no meaning here.

    Parameters
    ----------
    dims : sequence of str
    what : str
        What has them, in messages.

    Raises
    ------
    InvalidActivationsError

    Examples
    --------
    >>> check_known(("example", "head", "token", "channel"), "dims of 'vit/1/attention'")
    Traceback (most recent call last):
    dask_svcca.errors.InvalidActivationsError: dims of 'vit/1/attention' have an axis 'head'; names are ...
    """
    unknown = [dim for dim in dims if dim not in KNOWN]
    mixed = TOKEN in dims and any(dim in SPATIAL for dim in dims)
    if not unknown and not mixed:
        return
    names = ", ".join(map(repr, KNOWN))
    which = (
        f"an axis {unknown[0]!r}; names are {names}" if unknown else f"{TOKEN!r} beside a spatial axis; a layer has one"
    )
    raise InvalidActivationsError(
        f"{what} have {which}. Rename the axis if it is one of these. Otherwise reshape: heads of attention, for "
        f"example, become channels of their tokens, (example, token, head * channel), by transpose and reshape"
    )


def agree_dims(names: Sequence[str] | None, dims: Sequence[str] | None, axes: int, what: str) -> tuple[str, ...] | None:
    """Names of axes, from those that an array carries and those that were given for it.

    Parameters
    ----------
    names : sequence of str, or None
        As the array has them.
    dims : sequence of str, or None
        As they were given. They may rename axes whose names mean nothing here.
    axes : int
        Number of axes.
    what : str
        What the array is, in messages.

    Returns
    -------
    tuple of str, or None
        None where nothing is said.

    Raises
    ------
    InvalidActivationsError
        Where the two contradict each other, or names of an array without ``example`` contradict the usual order.

    Examples
    --------
    >>> agree_dims(("neuron", "example"), None, 2, "x"), agree_dims(("image", "unit"), None, 2, "x")
    (('neuron', 'example'), None)
    """
    given = None if dims is None else tuple(dims)
    if names is None:
        return given
    if given is None and EXAMPLE in names:
        return tuple(names)
    expected = DEFAULT_DIMS.get(axes) if given is None else given
    if expected is not None and len(expected) == len(names):
        for name, other in zip(names, expected, strict=True):
            if name in KNOWN and name != other and not (given is None and {name, other} <= set(NEURONS)):
                remedy = "rename that of the examples to 'example'" if given is None else "leave dims= out, or agree"
                raise InvalidActivationsError(
                    f"{what} has axes {tuple(names)!r}, which are taken as {expected!r}: {name!r} is not {other!r}; "
                    f"{remedy}"
                )
    return given


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
