"""What is seen of a network: the batches that it is fed, what its modules put out, and the layers they make up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dask_svcca.dims import EXAMPLE, SPATIAL, TOKEN, arrange_dims
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from dask_svcca.capture.torch.operations import Axes

Pool: TypeAlias = Literal["mean", "last", "first"]

HEAD = "head"
"""Axis of attention heads; with the channels of a head it makes up the neurons."""

MAIN = ""
"""The sequence of the arguments that are called without a prefix."""

DECODER, ENCODER = "decoder", "encoder"

INSIDE = "inside a decoder"
"""The sequence of a decoder for which the batches have no argument."""


@dataclass(frozen=True)
class Feed:
    """A batch as the model takes it.

    Attributes
    ----------
    args, kwargs
        The model's arguments, on its device.
    examples : int
    tensors : dict of str to tensor
        The arguments that are tensors, by name.
    ids : array, or None
    masks : dict of str to (example, token) array of bool
        By sequence, true for tokens.
    mask_names : dict of str to str
        The arguments that hold them.
    sequences : dict of str to str
        The sequence of each argument that has tokens.
    whole : bool
        Whether the batch goes in as one argument, although it has keys.
    beside : dict of str to tensor
        What of the batch stays out of the model, but for labels.
    open : frozenset of str
        Sequences whose mask leaves out nothing in this batch, and may be no mask.
    refused : CaptureError or None
        What is to be raised unless the model turns out to take its tokens first, or tells what a mask means.
    main : str
        The argument that is the model's input.
    told : dict of str to (example, token) array of bool
        Masks, by sequence, that the model made and handed to its modules, where it was given none.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    examples: int
    tensors: Mapping[str, Any]
    ids: npt.NDArray[Any] | None
    masks: Mapping[str, npt.NDArray[np.bool_]]
    mask_names: Mapping[str, str]
    sequences: Mapping[str, str]
    whole: bool = False
    beside: Mapping[str, Any] = field(default_factory=dict)
    open: frozenset[str] = frozenset()
    refused: CaptureError | None = None
    main: str = ""
    told: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def mask(self) -> npt.NDArray[np.bool_] | None:
        """The mask of the model's main input."""
        return self.masks.get(MAIN)


@dataclass(frozen=True, slots=True)
class Record:
    """What one call of a module put out.

    Attributes
    ----------
    layer : str
    values : array, or None
        None where the tensor is one that was recorded already. While the model runs, a tensor where it computes.
    axes : tuple, or None
    source : str
    depth : int
    repeats : str
        The layer whose tensor it is; empty if it is a tensor of its own.
    sequences : frozenset of str
        Sequences of the batch that it was computed from.
    """

    layer: str
    values: npt.NDArray[Any] | None
    axes: Axes | None
    source: str
    depth: int
    repeats: str
    sequences: frozenset[str]


@dataclass(frozen=True, slots=True)
class Layer:
    """What the records of a layer have in common over all batches.

    Attributes
    ----------
    name : str
    given : tuple of str
        Dims of the module's output.
    dims : tuple of str
        Dims in which it is stored.
    depth : int
    sequence : str, or None
        The sequence whose tokens it has; None where that is not known.
    others : frozenset of str
        Other sequences that it was computed from.
    """

    name: str
    given: tuple[str, ...]
    dims: tuple[str, ...]
    depth: int
    sequence: str | None = MAIN
    others: frozenset[str] = frozenset()

    def arrange(self, record: Record, pool: Pool | None, feed: Feed) -> npt.NDArray[Any]:
        """Activations with their axes in order: heads among the neurons, tokens pooled.

        Raises
        ------
        CaptureError
            Where there are other axes than in the first batch.
        """
        values = record.values
        if values is None or values.ndim != len(self.given):
            raise CaptureError(
                f"module {self.name!r} gave other axes than in the first batch. Leave it out with layers="
            )
        stored = stored_dims(self.given, values.shape)
        if len(stored) == 2 < len(self.given) and HEAD not in self.given:
            return np.moveaxis(values, self.given.index(EXAMPLE), 0).reshape(
                values.shape[self.given.index(EXAMPLE)], -1
            )
        order = with_heads(self.given)
        values = values.transpose([self.given.index(dim) for dim in order])
        if HEAD in order:
            values = values.reshape(*values.shape[:-2], -1)
        return (
            _pooled(values, pool, feed.masks.get(self.sequence or MAIN))
            if pool is not None and TOKEN in stored
            else values
        )


def with_heads(given: tuple[str, ...]) -> tuple[str, ...]:
    """Dims in order, heads just before the channels of a head."""
    order = [dim for dim in arrange_dims(given) if dim != HEAD]
    if HEAD in given:
        order.insert(len(order) - 1, HEAD)
    return tuple(order)


def stored_dims(given: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, ...]:
    """Dims as they are stored; of maps with a single position, only the channels."""
    spatial = [size for dim, size in zip(given, shape, strict=True) if dim in SPATIAL]
    if spatial and len(spatial) == len(given) - 2 and set(spatial) == {1}:
        return (EXAMPLE, "neuron")
    if HEAD not in given:
        return arrange_dims(given)
    rest = arrange_dims([dim for dim in given if dim != HEAD])
    return (*rest[:-1], "neuron" if not set(rest) & set(SPATIAL) else "channel")


def _pooled(values: npt.NDArray[Any], pool: Pool, mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[Any]:
    """Tokens of every example reduced to one: values are (example, token, neuron)."""
    tokens = np.ones(values.shape[:2], dtype=bool) if mask is None else mask
    if tokens.shape != values.shape[:2]:
        raise CaptureError(
            f"a layer has {values.shape[1]} tokens an example and the mask {tokens.shape[1]}: pool={pool!r} cannot "
            f"tell its tokens from padding. Leave it out with layers="
        )
    empty = ~tokens.any(axis=1)
    if empty.any():
        raise CaptureError(f"example {int(np.argmax(empty))} of a batch has padding only; there is no token to pool")
    if pool == "mean":
        # Zero times a NaN would be one: padding may hold anything.
        total = np.where(tokens[..., None], values, 0).sum(axis=1, dtype=np.float64)
        mean: npt.NDArray[Any] = total / tokens.sum(axis=1, keepdims=True)
        return mean if values.dtype == np.float64 else mean.astype(np.float32)
    at = np.argmax(tokens, axis=1) if pool == "first" else len(tokens.T) - 1 - np.argmax(tokens[:, ::-1], axis=1)
    return np.asarray(values[np.arange(len(values)), at])
