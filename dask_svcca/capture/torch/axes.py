"""What the axes of a module's output are: followed through the operations of a pass, never guessed from a shape.

A convolution, a batch norm or a pooling says that channels come first, a linear layer or a layer norm that they come
last, a recurrent or attention module where its examples are. What an operation does to the axes of its input is known
for those that move, merge or drop axes; operations that keep the shape keep the axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dask_svcca.capture.torch.operations import LOST, MAPS, Axes, Call, assigned, consumed, follow
from dask_svcca.dims import EXAMPLE, NEURONS, SPATIAL, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
    sequences : frozenset of str
        Sequences of the batch that it was computed from.
    """

    axes: Axes
    source: str
    constant: bool = False
    sequences: frozenset[str] = frozenset()


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
    if not shape or (EXAMPLE not in known and known[0] not in {None, LOST, MAPS}) or shape[at] != examples:
        return Named((), f"its first axis is not the {examples} examples: shape {shape}")
    if 0 in shape or (EXAMPLE not in known and examples in shape[1:]):
        unsaid = f"nothing says which of its axes are the {examples} examples: shape {shape}. Say it with dims="
        return Named((), f"it is empty: shape {shape}" if 0 in shape else unsaid)
    others = [axis for axis in range(len(shape)) if axis != at]
    if len(others) <= 1:
        return Named(tuple(EXAMPLE if axis == at else "neuron" for axis in range(len(shape))))
    channel = next((axis for axis in others if known[axis] in NEURONS), None)
    names = {at: EXAMPLE}
    if len(others) == 2 and {known[axis] for axis in others} != {MAPS}:
        if channel is None:
            channel = others[0] if known[others[1]] == TOKEN else others[1]
        (other,) = (axis for axis in others if axis != channel)
        place = known[other]
        names[other] = place if place in SPATIAL else TOKEN
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
                known = [(None if item.trace is None else item.trace.axes, item.shape) for item in given]
                call = Call(torch, func, name, args, kwargs, known, shape)
                # What is returned as it came, such as a parameter, stays as it is.
                changed = name.endswith("_") or output is kwargs.get("out")
                if changed or not any(output is item.tensor for item in given):
                    setattr(output, mark, Trace(follow(call), coarsest(sources), constant, _sequences(given)))
                named = consumed(call)
                if named is not None and given[0].trace is not None:
                    setattr(given[0].tensor, mark, given[0].trace._replace(axes=named))
            if name == "__setitem__" and (target := getattr(args[0], mark, None)) is not None:
                setattr(args[0], mark, _set(target, args[1], given))
            return result

    return Follower()


class _Given(NamedTuple):
    tensor: Any
    trace: Trace | None
    shape: tuple[int, ...]


def _set(target: Trace, index: Any, given: Sequence[_Given]) -> Trace:
    """What is known of a tensor of which a part was set."""
    traces = [item.trace for item in given if item.trace is not None]
    value = given[-1]
    types = [target.source, *[trace.source for trace in traces]]
    axes = target.axes
    if value.trace is not None and value.trace is not target:
        axes = assigned(axes, index, value.trace.axes)
    if value.trace is None and value.tensor.is_floating_point():
        types.append(_type(value.tensor))
    return Trace(axes, coarsest(types), constant=False, sequences=_sequences(given))


def _sequences(given: Sequence[_Given]) -> frozenset[str]:
    return frozenset().union(*(item.trace.sequences for item in given if item.trace is not None))


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
