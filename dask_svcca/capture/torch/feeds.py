"""A batch as a model takes it, and some of its examples."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.capture.torch.records import Feed


def fields_of(value: Any) -> Mapping[str, Any]:
    """Values of a dict, a named tuple or a dataclass by name; empty for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    return {}


def with_values(container: Any, values: Mapping[Any, Any]) -> Any:
    """What a model is given in place of a dict, a named tuple or a dataclass: its like, with these values."""
    if isinstance(container, tuple):
        return type(container)(**values)
    if isinstance(container, Mapping) and not isinstance(container, MutableMapping):
        return dict(values)
    other = copy.copy(container)
    for key, value in values.items():
        if isinstance(container, Mapping):
            other[key] = value
        else:
            # Also of a frozen dataclass.
            object.__setattr__(other, key, value)
    return other


def axis_of(tensor: Any, examples: int, axis: int) -> int | None:
    """Where a tensor has its examples: at the usual ``axis``, or at the only one of that length.

    Examples
    --------
    >>> import numpy as np
    >>> axis_of(np.ones((4, 3)), 4, 0), axis_of(np.ones((2, 4, 5)), 4, 0), axis_of(np.ones((1, 3)), 4, 0)
    (0, 1, None)
    """
    places = [place for place, size in enumerate(tensor.shape) if size == examples]
    if axis in places:
        return axis
    return places[0] if len(places) == 1 else None


def taken(torch: Any, feed: Feed, order: Sequence[int], axis: int, *, alone: bool = False) -> Feed:
    """Some examples of a batch, as copies.

    Parameters
    ----------
    torch : module
    feed : Feed
    order : sequence of int
        Which examples, in which order.
    axis : int
        Axis of the examples.
    alone : bool
        Leave all but the model's main input as they are.
    """
    copies: dict[int, Any] = {}
    main = feed.tensors.get(feed.main)

    def tensor(value: Any) -> Any:
        place, index = axis_of(value, feed.examples, axis), torch.tensor(order, device=value.device)
        if alone and value is not main:
            return value.clone()
        if place is None and value.ndim and len(value) > feed.examples and len(value) % feed.examples == 0:
            # Several rows an example, as of a mask for each head.
            return value.unflatten(0, (feed.examples, -1)).index_select(0, index).flatten(0, 1)
        return value.clone() if place is None else value.index_select(place, index)

    def take(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            # A tensor that goes in twice stays one.
            if id(value) not in copies:
                copies[id(value)] = tensor(value)
            return copies[id(value)]
        if type(value) in {tuple, list}:
            along = any(isinstance(part, torch.Tensor) and axis_of(part, feed.examples, axis) == 0 for part in value)
            each = len(value) == feed.examples and not along and not alone
            return type(value)(take(value[at]) for at in (order if each else range(len(value))))
        fields = fields_of(value)
        return with_values(value, {key: take(part) for key, part in fields.items()}) if fields else value

    return dataclasses.replace(
        feed,
        args=tuple(take(value) for value in feed.args),
        kwargs={key: take(value) for key, value in feed.kwargs.items()},
        examples=len(order),
        tensors={key: take(value) for key, value in feed.tensors.items()},
        ids=None,
        masks={sequence: mask[list(order)] for sequence, mask in feed.masks.items()},
    )
