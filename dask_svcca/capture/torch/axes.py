"""What the axes of a module's output are: followed through the operations of a pass, never guessed from a shape.

A convolution, a batch norm or a pooling says that channels come first, a linear layer or a layer norm that they come
last, a recurrent or attention module where its examples are. What an operation does to the axes of its input is known
for those that move, merge or drop axes; operations that keep the shape keep the axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from dask_svcca.dims import EXAMPLE, NEURONS, SPATIAL, SPATIAL_DIMS, TOKEN

Axes: TypeAlias = tuple[str | None, ...]
"""A name for each axis; None for one that nothing is known of, `LOST` for one that a reshape made."""

LOST = "?"

_POSITIONED = re.compile(
    r"(?:conv|conv_transpose|max_pool|avg_pool|adaptive_avg_pool|adaptive_max_pool|lp_pool|fractional_max_pool|"
    r"max_unpool)([123])d(?:_with_indices)?"
)
_CHANNELS_FIRST = frozenset(
    {"batch_norm", "group_norm", "instance_norm", "local_response_norm", "interpolate", "grid_sample"}
    | {"pixel_shuffle", "pixel_unshuffle", "channel_shuffle"}
)
_CHANNELS_LAST = frozenset({"linear", "bilinear", "layer_norm", "rms_norm"})
_MOVING = frozenset({"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "T", "mT", "t"})
_RESHAPING = frozenset({"flatten", "reshape", "view", "unflatten", "reshape_as", "view_as"})
_DROPPING = frozenset(
    {"mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "prod", "select", "unbind"}
)
_KEEPING = frozenset({"pad", "cat", "concat", "chunk", "split", "tensor_split", "narrow", "index_select", "expand"})
_MULTIPLYING = frozenset({"matmul", "__matmul__", "addmm", "mm", "bmm"})
_LOSING = frozenset({"einsum", "tensordot", "as_strided", "stack", "unfold", "fold", "gather", "repeat"})

_COARSENESS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


class Trace(NamedTuple):
    """What is known of a tensor.

    Attributes
    ----------
    axes : tuple
    source : str
        Coarsest floating type that its values passed through: what bounds their precision.
    constant : bool
        Whether it is made of weights and constants alone, such as embedded positions.
    """

    axes: Axes
    source: str
    constant: bool = False


class Named(NamedTuple):
    """Names of the axes of a module's output as it is, and why it has none where it cannot be a representation."""

    dims: tuple[str, ...]
    reason: str = ""


def coarsest(types: Sequence[str]) -> str:
    """Name of the least precise of some floating types.

    Examples
    --------
    >>> coarsest(["float32", "bfloat16", "float64"])
    'bfloat16'
    """
    return max(types, key=lambda name: _COARSENESS.index(name) if name in _COARSENESS else len(_COARSENESS))


def name_axes(axes: Axes | None, shape: Sequence[int], examples: int) -> Named:
    """Names for all axes of a module's output.

    Parameters
    ----------
    axes : tuple, or None
        What is known of them.
    shape : sequence of int
    examples : int
        Number of examples that went in.

    Returns
    -------
    Named
        Up to three axes have names by default: the examples first, then tokens, then neurons.

    Examples
    --------
    >>> name_axes((None, "channel", "height", "width"), (8, 3, 5, 4), 8).dims
    ('example', 'channel', 'height', 'width')
    >>> name_axes(("token", "example", None), (8, 8, 3), 8).dims
    ('token', 'example', 'neuron')
    >>> name_axes(("example", "?", "?", "neuron"), (8, 2, 5, 4), 8).reason
    'nothing says what its 4 axes are: shape (8, 2, 5, 4). Say it with dims='
    """
    shape = tuple(shape)
    known = (None,) * len(shape) if axes is None else axes
    at = known.index(EXAMPLE) if EXAMPLE in known else 0
    if not shape or (EXAMPLE not in known and known[0] not in {None, LOST}) or shape[at] != examples:
        return Named((), f"its first axis is not the {examples} examples: shape {shape}")
    if 0 in shape:
        return Named((), f"it is empty: shape {shape}")
    others = [axis for axis in range(len(shape)) if axis != at]
    if len(others) <= 1:
        return Named(tuple(EXAMPLE if axis == at else "neuron" for axis in range(len(shape))))
    channel = next((axis for axis in others if known[axis] in NEURONS), None)
    names = {at: EXAMPLE}
    if len(others) == 2:
        if channel is None:
            channel = others[0] if known[others[1]] == TOKEN else others[1]
        (other,) = (axis for axis in others if axis != channel)
        place = known[other]
        names[other] = place if place in SPATIAL else TOKEN  # type: ignore[assignment]
        names[channel] = "channel" if place in SPATIAL else "neuron"
        return Named(tuple(names[axis] for axis in range(len(shape))))
    places = [known[axis] for axis in others if axis != channel]
    if channel is None or len(set(places)) != len(places) or not set(places) <= set(SPATIAL):
        return Named((), f"nothing says what its {len(shape)} axes are: shape {shape}. Say it with dims=")
    names.update({axis: str(known[axis]) for axis in others})
    names[channel] = "channel"
    return Named(tuple(names[axis] for axis in range(len(shape))))


def follower(torch: Any, mark: str, buffers: frozenset[int]) -> Any:
    """Make a mode in which every tensor that a function returns gets its `Trace`, as attribute ``mark``.

    ``buffers`` are the ids of the model's own tensors that are not parameters.
    """

    class Follower(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            tensors = _strided(torch, (args, *kwargs.values()))
            given = [_Given(tensor, getattr(tensor, mark, None), tuple(tensor.shape)) for tensor in tensors]
            result = func(*args, **kwargs)
            name = getattr(func, "__name__", "")
            if name == "__get__":
                name = getattr(func.__self__, "__name__", "")
            for output in _strided(torch, result):
                own = [item for item in given if not isinstance(item.tensor, torch.nn.Parameter)]
                constant = all(
                    id(item.tensor) in buffers if item.trace is None else item.trace.constant for item in own
                )
                sources = [
                    _type(item.tensor) if item.trace is None else item.trace.source
                    for item in own
                    if item.tensor.is_floating_point()
                ]
                sources.append(_type(output) if output.is_floating_point() else _COARSENESS[0])
                shape = tuple(output.shape)
                axes = _followed(torch, func, name, args, kwargs, given, shape) if given else (None,) * len(shape)
                # What is returned as it came, such as a parameter, stays as it is.
                if not any(output is item.tensor for item in given) or name.endswith("_"):
                    setattr(output, mark, Trace(axes, coarsest(sources), constant))
            return result

    return Follower()


class _Given(NamedTuple):
    tensor: Any
    trace: Trace | None
    shape: tuple[int, ...]


def _type(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _strided(torch: Any, values: Any) -> Iterator[Any]:
    """Tensors with a shape, also within tuples and lists."""
    if isinstance(values, torch.Tensor):
        if not values.is_nested:
            yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _strided(torch, value)


def _followed(
    torch: Any,
    func: Any,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    given: Sequence[_Given],
    shape: tuple[int, ...],
) -> Axes:
    """Axes of a function's result."""
    lost: Axes = (None, *[LOST] * (len(shape) - 1))[: len(shape)]
    first, size = given[0].trace, given[0].shape
    axes: Axes = (None,) * len(size) if first is None else first.axes
    if match := _POSITIONED.fullmatch(name):
        return _channels_first(axes, shape, int(match[1]) + 2, lost)
    if name in _CHANNELS_FIRST:
        return _channels_first(axes, shape, len(shape), lost)
    if name in _CHANNELS_LAST:
        return _channels_last(axes, shape)
    if name == "embedding":
        # Its arguments come as (input, weight); three and more axes of tokens have no names.
        return (*axes, "neuron") if len(shape) <= 3 else (*axes[:1], *[LOST] * (len(shape) - 2), "neuron")
    if name in _MOVING:
        probe = torch.empty(tuple(range(2, 2 + len(size))), device="meta")
        moved = func(*([probe, *args[1:]] if name not in {"T", "mT"} else [probe]), **kwargs)
        return tuple(axes[length - 2] for length in moved.shape)
    if name in _RESHAPING:
        return _reshaped(axes, size, shape)
    if name == "__getitem__":
        return _indexed(axes, args[1], len(shape), lost)
    if name == "unsqueeze":
        at = (kwargs["dim"] if "dim" in kwargs else args[1]) % len(shape)
        return (*axes[:at], LOST, *axes[at:])
    if name == "squeeze":
        return tuple(axis for axis, length in zip(axes, size, strict=True) if length != 1) if 1 not in shape else lost
    if name in _DROPPING and shape != size:
        return _dropped(axes, args, kwargs, shape, lost)
    if name in _LOSING:
        return lost
    alike = [trace.axes for _, trace, other in given if trace is not None and other == shape]
    if name in _KEEPING:
        alike += [trace.axes for _, trace, other in given if trace is not None and len(other) == len(shape)]
    if name in _MULTIPLYING:
        alike += [trace.axes for _, trace, other in given if trace is not None and other[:-1] == shape[:-1]]
    if not alike:
        # A tensor made from nothing that is followed, such as a parameter, has no axes of the batch.
        return (None,) * len(shape) if all(trace is None for _, trace, _ in given) else lost
    return max(alike, key=lambda known: sum(axis not in {None, LOST} for axis in known))


def _channels_first(axes: Axes, shape: tuple[int, ...], expected: int, lost: Axes) -> Axes:
    if len(shape) != expected:
        return (LOST,) * len(shape) if len(shape) == expected - 1 and len(shape) > 1 else lost
    if len(axes) == len(shape) and axes[1] in NEURONS and TOKEN in axes[2:]:
        return axes
    first = axes[0] if len(axes) == len(shape) and axes[0] == EXAMPLE else None
    if len(shape) == 2:
        return (first, "neuron")
    return (first, "channel", *SPATIAL_DIMS[len(shape)]) if len(shape) in SPATIAL_DIMS else lost


def _channels_last(axes: Axes, shape: tuple[int, ...]) -> Axes:
    if len(axes) != len(shape) or len(shape) < 2:
        return (None,) * len(shape)
    *others, _ = axes
    name = "neuron" if len(shape) <= 3 else "channel"
    if any(axis in NEURONS for axis in others):
        # It mixes positions, not channels, as in an MLP-Mixer; only the order of its own axes remains.
        return (axes[0], *[None if len(shape) == 3 else LOST] * (len(shape) - 2), None if len(shape) == 3 else name)
    if len(shape) in {4, 5} and set(others[1:]) == {None}:
        return (axes[0], *SPATIAL_DIMS[len(shape)], name)
    return (*others, name)


def _reshaped(axes: Axes, before: tuple[int, ...], after: tuple[int, ...]) -> Axes:
    """Axes after a reshape: groups of axes with equal sizes keep, merge or lose their names."""
    names: list[str | None] = []
    i = j = 0
    while i < len(before) or j < len(after):
        start, left, right = (i, j), 1, 1
        while True:
            if left <= right and i < len(before):
                left *= before[i]
                i += 1
            elif j < len(after):
                right *= after[j]
                j += 1
            else:
                break
            if left == right and j > start[1]:
                break
            if i == len(before) and j == len(after):
                break
        old, new = axes[start[0] : i], j - start[1]
        if len(old) == 1 and new == 1:
            names += old
        elif new == 1 and EXAMPLE not in old and LOST not in old and old:
            channels = any(axis in NEURONS for axis in old)
            names.append("neuron" if channels else None if None in old else TOKEN)
        else:
            names += [LOST] * new
    if names and names[0] == LOST:
        names[0] = None
    if TOKEN in names:
        names = ["neuron" if axis == "channel" else axis for axis in names]
    return tuple(names)


def _indexed(axes: Axes, index: Any, count: int, lost: Axes) -> Axes:
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or part is Ellipsis or isinstance(part, slice | int) for part in parts):
        return lost
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    names: list[str | None] = []
    rest = list(axes)
    for part in parts:
        if part is None:
            names.append(LOST)
        elif part is Ellipsis:
            free = len(axes) - taken
            names += rest[:free]
            rest = rest[free:]
        else:
            name = rest.pop(0)
            if isinstance(part, slice):
                names.append(name)
    return tuple(names) if len(names) == count else lost


def _dropped(
    axes: Axes, args: tuple[Any, ...], kwargs: Mapping[str, Any], shape: tuple[int, ...], lost: Axes
) -> Axes:
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if isinstance(dims, int):
        dims = (dims,)
    if not isinstance(dims, tuple | list) or not all(isinstance(dim, int) for dim in dims):
        return lost
    gone = {dim % len(axes) for dim in dims}
    if len(shape) == len(axes):
        return axes
    kept = tuple(axis for at, axis in enumerate(axes) if at not in gone)
    return kept if len(kept) == len(shape) else lost
