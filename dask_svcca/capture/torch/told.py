"""What a model itself says of padding: masks that it hands to its modules; and inputs that may be one, unexplained."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture.torch.entries import is_label
from dask_svcca.capture.torch.masks import MASKS, read_mask, values_of
from dask_svcca.capture.torch.records import DECODER, MAIN
from dask_svcca.capture.torch.sequences import BESIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from dask_svcca.capture.torch.records import Feed

_LIKELY = ("pad", "valid", "mask", "real", "keep")
_UNLIKELY = ("masked", "special", "global", "causal")
_TARGET = "tgt_"


@dataclass(frozen=True, slots=True)
class Told:
    """A mask that a module was given.

    Attributes
    ----------
    path : str
        The module.
    argument : str
    sequence : str
        The sequence whose tokens it tells.
    tokens : (example, token) array of bool
        True for tokens.
    """

    path: str
    argument: str
    sequence: str
    tokens: npt.NDArray[np.bool_]


def mask_places(module: Any) -> tuple[str, ...]:
    """Names of a module's arguments in order; empty where none of them is a mask of tokens."""
    try:
        names = tuple(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return ()
    return names if any(name.removeprefix(_TARGET) in MASKS for name in names) else ()


def hear(path: str, arguments: Mapping[str, Any], examples: int) -> list[Told]:
    """Masks of tokens among the arguments of a module."""
    found = []
    for name, value in arguments.items():
        plain = name.removeprefix(_TARGET)
        if plain not in MASKS or not hasattr(value, "detach") or value.is_nested or value.ndim < 2:
            continue
        tokens = read_mask(plain, values_of(value), (examples, value.shape[-1]))
        if tokens is not None:
            found.append(Told(path, name, DECODER if plain != name else MAIN, tokens))
    return found


def packed(path: str, sequence: Any, lengths: npt.NDArray[Any], inputs: Iterable[Any], examples: int) -> list[Told]:
    """The mask that a packed sequence of these lengths tells of the first input that is as long."""
    inputs = list(inputs)
    plain = [values_of(tensor) for tensor in inputs if tensor.ndim == 1 and not tensor.is_floating_point()]
    # Sorted before it was packed, it does not say which example is which.
    sorted_before = sequence.sorted_indices is None and not any(np.array_equal(values, lengths) for values in plain)
    counts = [count for tensor in inputs if (count := _tokens(tensor, examples)) >= lengths.max()]
    if len(lengths) != examples or sorted_before or not counts:
        return []
    return [Told(path, "lengths", MAIN, np.arange(counts[0]) < lengths[:, np.newaxis])]


def _tokens(tensor: Any, examples: int) -> int:
    """How many tokens an input has, if any."""
    if tensor.ndim < 2 or examples not in tensor.shape[:2]:
        return 0
    return int(tensor.shape[1] if tensor.shape[0] == examples else tensor.shape[0])


def unread(tensors: Mapping[str, Any], known: Iterable[str], main: str, examples: int) -> dict[str, Any]:
    """Inputs that say yes or no of every token, and of which nothing says what they mean; (example, token) of bool."""
    found = {}
    for name, tensor in tensors.items():
        beside = any(word in name for word in (*BESIDE, "ids", "causal"))
        if name in {*known, main} or beside or tensor.ndim < 2 or examples not in tensor.shape[:2]:
            continue
        if any(size != 1 for size in tensor.shape[2:]):
            continue
        values = values_of(tensor)
        if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            continue
        if values.shape[0] != examples:
            values = np.swapaxes(values, 0, 1)
        values = values.reshape(len(values), *[size for size in values.shape[1:] if size != 1])
        if values.ndim == 2 and not (values.shape[0] == values.shape[1] and np.array_equal(values, np.tril(values))):
            found[name] = values.astype(bool)
    return found


def _at_an_end(values: npt.NDArray[np.bool_]) -> bool:
    """Whether what is false stands at the same end of all examples, as padding does, or what is true."""
    steps = np.diff(values.astype(np.int8), axis=1)
    return bool((steps <= 0).all() or (steps >= 0).all())


def sense_of(name: str, values: npt.NDArray[np.bool_], told: Iterable[Told]) -> tuple[bool, str] | None:
    """What true says in an input that is handed on as a mask, and of which sequence; None where it is not.

    Parameters
    ----------
    name : str
    values : (example, token) array of bool
    told : iterable of Told
        What the modules were given.

    Examples
    --------
    >>> tokens = np.array([[True, False]])
    >>> sense_of("pad", ~tokens, [Told("encoder", "src_key_padding_mask", MAIN, tokens)])
    (False, '')
    """
    constant = values.all() or not values.any()
    if constant and (any(word in name for word in _UNLIKELY) or not any(word in name for word in _LIKELY)):
        return None
    alike = [one for one in told if one.tokens.shape == values.shape]
    found = [
        (true, one.sequence) for one in alike for true in (True, False) if np.array_equal(one.tokens, values == true)
    ]
    if len({true for true, _ in found}) != 1:
        return None
    return found[0][0], MAIN if any(sequence == MAIN for _, sequence in found) else DECODER


def masks_of(told: Iterable[Told]) -> tuple[dict[str, npt.NDArray[np.bool_]], dict[str, str]]:
    """The mask of each sequence on which all modules agree, and the module and argument that it is known from."""
    by_sequence: dict[str, list[Told]] = {}
    for one in told:
        by_sequence.setdefault(one.sequence, []).append(one)
    agreed = {
        sequence: heard[0]
        for sequence, heard in by_sequence.items()
        if all(np.array_equal(one.tokens, heard[0].tokens) for one in heard)
    }
    return (
        {sequence: one.tokens for sequence, one in agreed.items()},
        {sequence: f"{one.path}.{one.argument}" for sequence, one in agreed.items()},
    )


@dataclass
class Unread:
    """Inputs of all batches that may tell tokens from padding, and are not read as a mask."""

    counts: frozenset[int] = frozenset()
    found: dict[str, list[npt.NDArray[np.bool_]]] = field(default_factory=dict)
    lengths: set[str] = field(default_factory=set)

    def note(self, feed: Feed) -> None:
        """Look at one more batch."""
        given = [mask for sequence, mask in feed.masks.items() if sequence not in feed.open]
        known = {mask.shape[1] for mask in (*given, *feed.told.values())}
        every = {**feed.beside, **feed.tensors}
        inputs = unread(every, feed.mask_names.values(), feed.main, feed.examples)
        for name, tensor in every.items():
            if "len" in name and tuple(tensor.shape) == (feed.examples,) and values_of(tensor).dtype.kind in "iu":
                count = max((_tokens(other, feed.examples) for other in feed.tensors.values()), default=0)
                inputs[name] = np.arange(count) < values_of(tensor)[:, np.newaxis]
                self.lengths.add(name)
        for name, values in inputs.items():
            if any(word in name for word in _UNLIKELY) or is_label(name):
                continue
            # What stays out of the model may well be labels.
            if name in feed.beside and name not in self.lengths and not _at_an_end(values):
                continue
            if values.shape[1] not in known and values.shape[1] in self.counts:
                self.found.setdefault(name, []).append(values)

    def sentences(self, masks: Iterable[npt.NDArray[Any]]) -> list[str]:
        """What is to be said of them beside the ``masks`` that the zoo has."""
        known = [mask.astype(bool) for mask in masks]
        said = []
        for name, parts in self.found.items():
            if all(part.all() for part in parts) or not any(part.any() for part in parts):
                continue
            whole = np.concatenate(parts) if len({part.shape[1] for part in parts}) == 1 else None
            if any(np.array_equal(whole, mask) or np.array_equal(whole, ~mask) for mask in known if whole is not None):
                continue
            what = "counts tokens" if name in self.lengths else f"says yes or no of each of {parts[0].shape[1]} tokens"
            said.append(
                f"the input {name!r} {what}, and nothing says whether the others are padding: all are taken for "
                f"tokens. If some are padding, call the argument (or the key of a dict) 'attention_mask', true for "
                f"tokens, or 'padding_mask', true for padding; or capture into a zoo that has the mask, "
                f"create_zoo(..., coords={{'mask': mask}})"
            )
        return said
