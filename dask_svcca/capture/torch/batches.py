"""What a batch holds: arguments of the model, ids of the examples, a mask of the tokens, and labels that stay out."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import listing
from dask_svcca.capture.torch.entries import Signature, is_label, mask_among
from dask_svcca.capture.torch.feeds import fields_of, with_values
from dask_svcca.capture.torch.finding import Finder
from dask_svcca.capture.torch.masks import values_of
from dask_svcca.capture.torch.records import MAIN, Feed
from dask_svcca.capture.torch.sequences import prefixes_of, sequences_of
from dask_svcca.capture.torch.told import masks_of
from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import CaptureError, MismatchedExamplesError

if TYPE_CHECKING:
    from dask_svcca.capture.torch.told import Told

IDS = (EXAMPLE, "example_id", "id")
"""Keys of a batch that hold ids of the examples, where the model takes no such argument."""

_MAIN = ("input_ids", "inputs_embeds", "pixel_values", "input_values", "input_features")
_SAMPLERS = ("sampler", "batch_sampler", "_index_sampler")
_WRAPPERS = ("base_dataloader", "dataloader", "iterable")
_LOOKED_AT = 100_000
_ORDERED = ("SequentialSampler", "BatchSampler", "DistributedSampler", "_InfiniteConstantSampler")


def check_order(batches: Any, model: str) -> None:
    """Refuse a loader that draws its examples at random, and what is not a series of batches.

    Raises
    ------
    MismatchedExamplesError
        Where a sampler is random, also inside a batch sampler; one of an unknown kind, where two passes differ.
    CaptureError
        Where the batches are a single one.
    """
    if isinstance(batches, Mapping) or hasattr(batches, "shape"):
        shape = f" of shape {tuple(batches.shape)}" if hasattr(batches, "shape") else ""
        raise CaptureError(
            f"the batches for {model!r} are one {type(batches).__name__}{shape}, which is a single batch: give a list "
            f"of batches, such as [x], or a DataLoader"
        )
    seen: set[int] = set()
    inside = [(batches, False)]
    while inside:
        part, samples = inside.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        kind = type(part).__name__
        random = part is not batches and ("Random" in kind or (samples and kind not in _ORDERED and _differs(part)))
        if random or (kind.endswith("DistributedSampler") and getattr(part, "shuffle", False)):
            raise MismatchedExamplesError(
                f"the loader for {model!r} draws its examples at random ({kind}), and all representations of a zoo "
                f"have the zoo's examples in the zoo's order. Make it with shuffle=False and without a random sampler"
            )
        parts = {name: getattr(part, name, None) for name in (*_SAMPLERS, *_WRAPPERS)}
        inside += [(value, name in _SAMPLERS) for name, value in parts.items() if value is not None]


def _differs(sampler: Any) -> bool:
    """Whether two passes of a sampler give other indices: nothing else tells it of one that someone wrote."""
    if isinstance(sampler, Iterator):
        # It can be passed once only.
        return False
    passes = [islice(sampler, _LOOKED_AT) for _ in range(2)]
    return any(str(one) != str(other) for one, other in zip_longest(*passes))


def _placed(entries: Sequence[Any], start: int = 0) -> dict[str, Any]:
    """Entries of a tuple that have no names, those from ``start`` on."""
    return {f"entry {place}": entry for place, entry in enumerate(entries) if place >= start}


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
        self._signature = Signature.of(model)
        self._finder = Finder(name)

    def feed(self, batch: Any) -> Feed:
        """One batch as the model takes it.

        Raises
        ------
        CaptureError
            Where it cannot be told what of the batch goes into the model.
        """
        if isinstance(batch, Mapping):
            return self._from_mapping(batch)
        fields = fields_of(batch)
        if fields and (not isinstance(batch, tuple) or not {*self._signature.accepted}.isdisjoint(fields)):
            return self._from_mapping(fields, batch)
        if isinstance(batch, tuple | list):
            return self._from_entries(batch)
        tensor, only = self._move(batch), self._signature.by_name
        if not self._signature.positional and not self._signature.variadic and len(only) == 1:
            return self._complete((), {only[0]: tensor}, {only[0]: tensor}, None, {})
        self._check_named()
        return self._complete((tensor,), {}, {self._first: tensor}, None, {})

    @property
    def _first(self) -> str:
        return self._signature.positional[0] if self._signature.positional else "input"

    def _check_named(self) -> None:
        """Refuse entries without names for a model that takes its arguments by name only."""
        signature = self._signature
        if signature.named or not (signature.positional or signature.variadic):
            raise CaptureError(
                f"the forward of {self.name!r} takes {listing(signature.by_name)} by name only: feed dicts with these "
                f"keys, or name the entries of a tuple with inputs=, for example inputs={signature.accepted!r}"
            )

    def _whole(self, batch: Mapping[Any, Any]) -> bool:
        """Whether a dict is the model's one argument, rather than its arguments by name."""
        signature = self._signature
        one = signature.positional and signature.required <= 1 and not signature.named
        return bool(one) and not signature.open and {*signature.accepted}.isdisjoint(batch)

    def _from_mapping(
        self, batch: Mapping[str, Any], given: Any = None, others: Mapping[str, Any] | None = None
    ) -> Feed:
        """Arguments from a dict, or from the fields of what was ``given``; with ``others`` beside it."""
        ids_key: Any = self.ids
        if ids_key is None:
            ids_key = next((key for key in IDS if key in batch and key not in self._signature.accepted), None)
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
        elif self._whole(batch):
            moved = {key: self._move(value) for key, value in batch.items()}
            feed = self._complete(
                (with_values(batch if given is None else given, moved),),
                {},
                {str(key): value for key, value in moved.items()},
                None if ids_key is None else batch[ids_key],
                others or {},
            )
            return dataclasses.replace(feed, whole=True)
        else:
            taken = {
                key: value
                for key, value in batch.items()
                if key != ids_key
                and (key in self._signature.accepted or (self._signature.open and not is_label(str(key))))
            }
            unknown = [key for key in batch if key not in taken and key != ids_key and not is_label(str(key))]
            if unknown:
                raise CaptureError(
                    f"{self._unknown(unknown)}. Name what goes in with inputs=, for example inputs={list(taken)!r}"
                )
        kwargs = {key: self._move(value) for key, value in taken.items()}
        left = {str(key): value for key, value in batch.items() if key not in taken and key != ids_key}
        return self._complete(
            (), kwargs, kwargs, None if ids_key is None else batch[ids_key], {**left, **(others or {})}
        )

    def _unknown(self, keys: Iterable[Any]) -> str:
        return (
            f"the batches for {self.name!r} have {listing(map(str, keys))}, which its forward does not take: it takes "
            f"{listing(self._signature.accepted)}"
        )

    def inside_another(self, batch: Any, error: Exception) -> CaptureError | None:
        """Error where a model failed that was given a batch inside a tuple of one, if it was."""
        if not (isinstance(batch, tuple) and len(batch) == 1 and isinstance(batch[0], tuple | list)):
            return None
        return CaptureError(
            f"a batch for {self.name!r} is a tuple with one {type(batch[0]).__name__} inside, as zip(loader) gives, "
            f"and with that as its argument the model failed with {type(error).__name__}: {error}. Feed the loader "
            f"itself"
        )

    def as_whole(self, feed: Feed, error: Exception) -> CaptureError:
        """Error where a model failed that was given a dict as its one argument."""
        return CaptureError(
            f"{self._unknown(feed.tensors)}; given the whole, it failed with {type(error).__name__}: {error}. Call the "
            f"keys as its arguments are called, or feed tensors or tuples"
        )

    def _from_entries(self, batch: Sequence[Any]) -> Feed:
        entries = list(batch)
        ids = None
        numbered = len(entries) == 2 and type(entries[0]) is int and self.ids is None and self.inputs is None
        if numbered and (self._signature.required <= 1 or isinstance(entries[1], tuple | list | Mapping)):
            raise CaptureError(
                f"a batch for {self.name!r} is the number {entries[0]} and a {type(entries[1]).__name__}, as "
                f"enumerate(loader) gives: feed the loader itself"
            )
        if self.ids is not None:
            if not isinstance(self.ids, int) or not -len(entries) <= self.ids < len(entries):
                raise CaptureError(
                    f"a batch for {self.name!r} is a tuple of {len(entries)} entries: ids= must be the position of its "
                    f"ids, not {self.ids!r}"
                )
            ids = entries.pop(self.ids)
        if isinstance(entries[0], Mapping) and self._signature.required <= 1:
            # As from a loader of encoded texts and labels.
            feed = self._from_mapping(entries[0], others=_placed(entries, 1))
            return feed if ids is None else dataclasses.replace(feed, ids=values_of(ids))
        if self.inputs is not None:
            return self._named(entries, self.inputs, ids)
        self._check_named()
        count = max(1, self._signature.required)
        if len(entries) == 1 < count and isinstance(entries[0], tuple | list):
            entries = [*entries[0]]
        elif isinstance(entries[0], tuple | list) and len(entries[0]) == count > 1:
            entries = [*entries[0], *entries[1:]]
        if len(entries) < count:
            raise CaptureError(
                f"a batch for {self.name!r} has {len(entries)} entries, and its forward needs {count}: "
                f"{listing(self._signature.positional[:count])}"
            )
        names = [
            *self._signature.positional[:count],
            *[f"input{i}" for i in range(len(self._signature.positional), count)],
        ]
        args = tuple(self._move(entry) for entry in entries[:count])
        found, unclear = mask_among(self._signature, args[0], entries[count:], self.example_axis)
        if unclear is not None:
            raise self._unclear(tuple(unclear.shape))
        kwargs = {key: self._move(entry) for key, entry in found.items()}
        tensors = {**dict(zip(names, args, strict=True)), **kwargs}
        return self._complete(args, kwargs, tensors, ids, _placed(entries, count))

    def _named(self, entries: Sequence[Any], inputs: Sequence[str | None], ids: Any) -> Feed:
        named = dict(zip(inputs, entries, strict=False))
        if len(entries) < len(inputs):
            raise CaptureError(
                f"a batch for {self.name!r} has {len(entries)} entries, and inputs={tuple(inputs)!r} names "
                f"{len(inputs)}"
            )
        moved = {name: self._move(value) for name, value in named.items() if name is not None}
        by_position = self._signature.by_position
        if self._signature.variadic and not self._signature.open:
            by_position = tuple(name for name in moved if name not in self._signature.by_name)
        args = tuple(moved[name] for name in by_position if name in moved)
        kwargs = {name: value for name, value in moved.items() if name not in by_position}
        placed = {place for place, name in enumerate(inputs) if name is not None}
        left = {key: entry for place, (key, entry) in enumerate(_placed(entries).items()) if place not in placed}
        return self._complete(args, kwargs, moved, ids, left)

    def _unclear(self, shape: tuple[int, ...]) -> CaptureError:
        return CaptureError(
            f"an entry of shape {shape} in the batches for {self.name!r} may be an input of the model, which takes "
            f"{listing(self._signature.accepted) if self._signature.accepted else 'anything'}, or a label. Say it "
            f"with inputs=, a name for each entry and None for one that stays out, for example "
            f"inputs={(self._first, None)!r}; or feed dicts"
        )

    def _move(self, value: Any) -> Any:
        torch = self.torch
        if isinstance(value, np.ndarray):
            return torch.as_tensor(value, device=self.device)
        if isinstance(value, torch.Tensor):
            # A tensor of its own: what is noted on it must not stay on the caller's.
            return value.to(self.device).detach()
        if isinstance(value, tuple | list) and type(value) in {tuple, list}:
            return type(value)(self._move(entry) for entry in value)
        if isinstance(value, Mapping) or fields_of(value):
            inside = value if isinstance(value, Mapping) else fields_of(value)
            return with_values(value, {key: self._move(entry) for key, entry in inside.items()})
        return value.to(self.device) if hasattr(value, "to") else value

    def _complete(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        named: Mapping[str, Any],
        ids: Any,
        others: Mapping[str, Any],
    ) -> Feed:
        tensors = dict(self._tensors(named))
        if not tensors:
            raise CaptureError(f"a batch for {self.name!r} holds no tensor for the model, only {listing(named)}")
        examples = self._count(tensors, ids, others)
        beside = {name: value for name, value in others.items() if hasattr(value, "shape") and name not in tensors}
        prefixes = prefixes_of((*tensors, *beside))
        mains = (*_MAIN, self._first)
        found = self._finder.find(tensors, beside, examples, mains, prefixes, self.example_axis)
        masked = found.masks[MAIN].shape if MAIN in found.masks else None
        main = next((key for key in (*mains, *tensors) if key in tensors), "")
        masks = {*found.names.values(), *self._finder.heard}
        sequences = sequences_of(tensors, masked, main, self.example_axis, prefixes, masks)
        return Feed(
            args,
            kwargs,
            examples,
            tensors,
            None if ids is None else values_of(ids),
            found.masks,
            found.names,
            sequences,
            main=main,
            beside={name: value for name, value in beside.items() if not is_label(name)},
            open=frozenset(found.open),
            refused=found.refused,
        )

    def learn(self, feed: Feed, told: Sequence[Told]) -> bool:
        """Note which inputs the model hands to its modules as masks; whether one was not known before."""
        return self._finder.learn(feed.tensors, feed.main, feed.examples, told)

    def heard(self, feed: Feed, told: Iterable[Told]) -> Feed:
        """The batch with the masks that the model makes itself, where it has none for these tokens."""
        masks, names = masks_of(told)
        known = feed.masks.keys() - feed.open
        new = {sequence: mask for sequence, mask in masks.items() if sequence not in known}
        hiding = {sequence: mask for sequence, mask in new.items() if not mask.all()}
        return dataclasses.replace(
            feed,
            masks={**feed.masks, **hiding},
            mask_names={**feed.mask_names, **{sequence: names[sequence] for sequence in hiding}},
            told=new,
        )

    def _tensors(self, named: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Tensors by name, those inside of tuples and dicts behind the others."""
        inner: dict[str, Any] = {}
        for key, value in named.items():
            if isinstance(value, self.torch.Tensor):
                yield key, value
                continue
            inside: Iterable[tuple[Any, Any]] = fields_of(value).items()
            if isinstance(value, tuple | list):
                inside = enumerate(value)
            inner |= {f"{key}.{name}": part for name, part in inside}
        if inner:
            yield from self._tensors(inner)

    def _count(self, tensors: Mapping[str, Any], ids: Any, others: Mapping[str, Any]) -> int:
        """How many examples: position ids and scalars, say, do not have them along their first axis."""
        axis = self.example_axis
        main = next((tensors[name] for name in (*_MAIN, self._first) if name in tensors), None)
        if main is not None and main.ndim > axis:
            return int(main.shape[axis])
        if ids is not None:
            return len(ids)
        every = [value for value in (*tensors.values(), *others.values()) if getattr(value, "ndim", 0) > axis]
        sizes = Counter(int(value.shape[axis]) for value in every)
        if not sizes:
            raise CaptureError(f"no tensor of a batch for {self.name!r} has an axis of examples")
        return max(sizes, key=lambda size: (sizes[size], size))
