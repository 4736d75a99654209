"""What a batch holds: arguments of the model, ids of the examples, a mask of the tokens, and labels that stay out."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import listing
from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import CaptureError, MismatchedExamplesError

if TYPE_CHECKING:
    import numpy.typing as npt

IDS = (EXAMPLE, "example_id", "id")
"""Keys of a batch that hold ids of the examples, where the model takes no such argument."""

MASKS = {"attention_mask": True, "src_key_padding_mask": False, "key_padding_mask": False, "padding_mask": False}
"""Arguments that tell tokens from padding, and what they say of tokens."""

_LABELS = frozenset(
    {"label", "labels", "target", "targets", "y", "class", "classes", "label_ids", "start_positions", "end_positions"}
)
_MAIN = ("input_ids", "inputs_embeds", "pixel_values", "input_values", "input_features")
_WRAPPERS = ("sampler", "batch_sampler", "base_dataloader", "dataloader")


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
    mask : (example, token) array of bool, or None
        True for tokens.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    examples: int
    tensors: Mapping[str, Any]
    ids: npt.NDArray[Any] | None
    mask: npt.NDArray[np.bool_] | None


def check_order(batches: Any, model: str) -> None:
    """Refuse a loader that draws its examples at random.

    Raises
    ------
    MismatchedExamplesError
        Where a sampler is random, also inside a batch sampler.
    """
    seen: set[int] = set()
    inside = [batches]
    while inside:
        part = inside.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        kind = type(part).__name__
        if "Random" in kind or (kind.endswith("DistributedSampler") and getattr(part, "shuffle", False)):
            raise MismatchedExamplesError(
                f"the loader for {model!r} draws its examples at random ({kind}), and all representations of a zoo "
                f"have the zoo's examples in the zoo's order. Make it with shuffle=False and without a random sampler"
            )
        inside += [getattr(part, name) for name in _WRAPPERS if getattr(part, name, None) is not None]


class Feeder:
    """Brings batches into the form in which a model takes them.

    Parameters
    ----------
    torch : module
    model : torch.nn.Module
    name : str
        The model's, for messages.
    inputs : sequence of str or None, optional
        Names of the arguments: of the entries of a tuple, None for one that stays out; or keys of a dict that go in.
    ids : str or int, optional
        Key or position of the ids.
    """

    def __init__(
        self, torch: Any, model: Any, name: str, inputs: Sequence[str | None] | None, ids: str | int | None
    ) -> None:
        self.torch, self.name, self.inputs, self.ids = torch, name, inputs, ids
        self.example_axis = 0
        parameter = next(iter(model.parameters()), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        parameters = list(inspect.signature(model.forward).parameters.values())
        self._open = any(item.kind is item.VAR_KEYWORD for item in parameters)
        self._accepted = [item.name for item in parameters if item.kind not in {item.VAR_KEYWORD, item.VAR_POSITIONAL}]
        positional = [item for item in parameters if item.kind in {item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD}]
        self._positional = [item.name for item in positional]
        self._required = sum(item.default is item.empty for item in positional)

    def feed(self, batch: Any) -> Feed:
        """One batch as the model takes it.

        Raises
        ------
        CaptureError
            Where it cannot be told what of the batch goes into the model.
        """
        if isinstance(batch, Mapping):
            return self._from_mapping(batch)
        if isinstance(batch, tuple | list):
            return self._from_entries(batch)
        tensor = self._move(batch)
        return self._complete((tensor,), {}, {self._first: tensor}, None, [])

    @property
    def _first(self) -> str:
        return self._positional[0] if self._positional else "input"

    def _from_mapping(self, batch: Mapping[str, Any]) -> Feed:
        ids_key: Any = self.ids
        if ids_key is None:
            ids_key = next((key for key in IDS if key in batch and key not in self._accepted), None)
        elif ids_key not in batch:
            raise CaptureError(f"the batches for {self.name!r} have no ids {ids_key!r}; they have {listing(batch)}")
        if self.inputs is not None:
            missing = [name for name in self.inputs if name not in batch]
            if missing:
                raise CaptureError(
                    f"the batches for {self.name!r} have no {listing(map(str, missing))}, which inputs= names; they "
                    f"have {listing(batch)}"
                )
            taken = {str(key): batch[key] for key in self.inputs if key is not None}
        else:
            taken = {
                key: value
                for key, value in batch.items()
                if key != ids_key and (key in self._accepted or (self._open and key not in _LABELS))
            }
            unknown = [key for key in batch if key not in taken and key != ids_key and key not in _LABELS]
            if unknown:
                raise CaptureError(
                    f"the batches for {self.name!r} have {listing(unknown)}, which its forward does not take: it takes "
                    f"{listing(self._accepted)}. Name what goes in with inputs=, for example inputs={list(taken)!r}"
                )
        kwargs = {key: self._move(value) for key, value in taken.items()}
        others = [value for key, value in batch.items() if key not in taken]
        return self._complete((), kwargs, kwargs, None if ids_key is None else batch[ids_key], others)

    def _from_entries(self, batch: Sequence[Any]) -> Feed:
        entries = list(batch)
        ids = None
        if self.ids is not None:
            if not isinstance(self.ids, int) or not -len(entries) <= self.ids < len(entries):
                raise CaptureError(
                    f"a batch for {self.name!r} is a tuple of {len(entries)} entries: ids= must be the position of its "
                    f"ids, not {self.ids!r}"
                )
            ids = entries.pop(self.ids)
        if self.inputs is not None:
            named = dict(zip(self.inputs, entries, strict=False))
            if len(entries) < len(self.inputs):
                raise CaptureError(
                    f"a batch for {self.name!r} has {len(entries)} entries, and inputs={tuple(self.inputs)!r} names "
                    f"{len(self.inputs)}"
                )
            kwargs = {name: self._move(value) for name, value in named.items() if name is not None}
            return self._complete((), kwargs, kwargs, ids, entries)
        count = max(1, self._required)
        if len(entries) == 1 < count and isinstance(entries[0], tuple | list):
            entries = [*entries[0]]
        elif isinstance(entries[0], tuple | list) and len(entries[0]) == count > 1:
            entries = [*entries[0], *entries[1:]]
        if len(entries) < count:
            raise CaptureError(
                f"a batch for {self.name!r} has {len(entries)} entries, and its forward needs {count}: "
                f"{listing(self._positional[:count])}"
            )
        names = [*self._positional[:count], *[f"input{i}" for i in range(len(self._positional), count)]]
        args = tuple(self._move(entry) for entry in entries[:count])
        kwargs = self._masks(args[0], entries[count:])
        tensors = {**dict(zip(names, args, strict=True)), **kwargs}
        return self._complete(args, kwargs, tensors, ids, entries[count:])

    def _masks(self, first: Any, entries: Sequence[Any]) -> dict[str, Any]:
        """The mask among the entries behind those that the model needs; labels stay out.

        Labels must never pass for a mask. A mask has the shape of the tokens and holds one run of each of two values in
        every row, and the model has an argument that is called a mask. What could be either is refused.
        """
        optional = self._accepted[max(1, self._required) :]
        places = [name for name in optional if "mask" in name and not name.startswith("return")]
        found: dict[str, Any] = {}
        for entry in entries:
            shape = tuple(getattr(entry, "shape", ()))
            if len(shape) < 1 or not hasattr(first, "shape"):
                continue
            tokens = len(shape) == 2 and shape == tuple(first.shape[:2])
            if tokens and places and self._binary(entry):
                name = next((name for name in MASKS if name in places), places[0] if len(places) == 1 else None)
                if name is None or name in found or not self._one_run(entry):
                    raise self._unclear(shape)
                found[name] = self._move(entry)
            elif len(shape) == 1 and any("length" in name for name in optional):
                raise self._unclear(shape)
        return found

    def _unclear(self, shape: tuple[int, ...]) -> CaptureError:
        return CaptureError(
            f"an entry of shape {shape} in the batches for {self.name!r} may be an input of the model, which takes "
            f"{listing(self._accepted)}, or a label. Say it with inputs=, a name for each entry and None for one that "
            f"stays out, for example inputs={(self._first, None)!r}"
        )

    def _binary(self, entry: Any) -> bool:
        values = _array(entry)
        return values.dtype == np.bool_ or bool(np.isin(values, (0, 1)).all())

    def _one_run(self, entry: Any) -> bool:
        changes = np.diff(_array(entry).astype(np.int8), axis=1) != 0
        return bool((changes.sum(axis=1) <= 1).all())

    def _move(self, value: Any) -> Any:
        torch = self.torch
        if isinstance(value, np.ndarray):
            return torch.as_tensor(value, device=self.device)
        if isinstance(value, torch.Tensor):
            # A tensor of its own: what is noted on it must not stay on the caller's.
            return value.to(self.device).detach()
        if isinstance(value, tuple | list) and type(value) in {tuple, list}:
            return type(value)(self._move(entry) for entry in value)
        if isinstance(value, Mapping):
            return {key: self._move(entry) for key, entry in value.items()}
        return value.to(self.device) if hasattr(value, "to") else value

    def _complete(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        named: Mapping[str, Any],
        ids: Any,
        others: Sequence[Any],
    ) -> Feed:
        tensors = {key: value for key, value in named.items() if isinstance(value, self.torch.Tensor)}
        for key, value in named.items():
            inside = enumerate(value) if isinstance(value, tuple | list) else ()
            tensors |= {f"{key}.{i}": part for i, part in inside if isinstance(part, self.torch.Tensor)}
        if not tensors:
            raise CaptureError(f"a batch for {self.name!r} holds no tensor for the model, only {listing(named)}")
        examples = self._count(tensors, ids, others)
        mask = None
        for key, tokens in MASKS.items():
            value = tensors.get(key)
            if value is not None and value.ndim == 2 and len(value) == examples and self._binary(value):
                mask = (_array(value) != 0) == tokens
                break
        return Feed(args, kwargs, examples, tensors, None if ids is None else _array(ids), mask)

    def _count(self, tensors: Mapping[str, Any], ids: Any, others: Sequence[Any]) -> int:
        """How many examples: position ids and scalars, say, do not have them along their first axis."""
        axis = self.example_axis
        main = next((tensors[name] for name in (*_MAIN, self._first) if name in tensors), None)
        if main is not None and main.ndim > axis:
            return int(main.shape[axis])
        if ids is not None:
            return len(ids)
        every = [value for value in (*tensors.values(), *others) if getattr(value, "ndim", 0) > axis]
        sizes = Counter(int(value.shape[axis]) for value in every)
        if not sizes:
            raise CaptureError(f"no tensor of a batch for {self.name!r} has an axis of examples")
        return max(sizes, key=lambda size: (sizes[size], size))


def _array(values: Any) -> npt.NDArray[Any]:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
