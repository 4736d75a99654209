"""Which entries of a tuple are masks, which stay out as labels, and which could be either."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture.torch.masks import MASKS, is_padded, is_plain, one_run, read_mask, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

LABELS = frozenset({"target", "targets", "y", "class", "classes", "start_positions", "end_positions"})
"""Arguments and keys that hold what a model is to give, beside all that are called a label."""

_SWITCHES = ("return", "output_", "use_")
_WIDE = ("mask", "_ids", "embeds", "states", "key_values", "values", "features", "bias", "head")
_DEEP = ("embeds", "states", "key_values", "values")


def is_label(name: str) -> bool:
    """Whether an argument or a key of this name holds labels."""
    return name in LABELS or "label" in name


@dataclass(frozen=True)
class Signature:
    """Arguments of a model's ``forward``.

    Attributes
    ----------
    accepted : tuple of str
        Names of all.
    positional, by_position, by_name : tuple of str
        Names of those that can be given by position, that only can be given so, and that only can be given by name.
    required, named : int
        How many have no default, of those by position and of those by name only.
    optional : tuple of str
        Names of those with a default that may be a tensor, without labels.
    variadic, open : bool
        Whether it takes any arguments by position, and by name.
    labelled : bool
        Whether it takes labels.
    """

    accepted: tuple[str, ...]
    positional: tuple[str, ...]
    by_position: tuple[str, ...]
    by_name: tuple[str, ...]
    required: int
    named: int
    optional: tuple[str, ...]
    variadic: bool
    open: bool
    labelled: bool

    @classmethod
    def of(cls, model: Any) -> Signature:
        """Of a module."""
        every = list(inspect.signature(model.forward).parameters.values())
        plain = [item for item in every if item.kind not in {item.VAR_KEYWORD, item.VAR_POSITIONAL}]
        positional = [item for item in plain if item.kind is not item.KEYWORD_ONLY]
        by_name = [item for item in plain if item.kind is item.KEYWORD_ONLY]
        needed = max(1, sum(item.default is item.empty for item in positional))
        return cls(
            accepted=tuple(item.name for item in plain),
            positional=tuple(item.name for item in positional),
            by_position=tuple(item.name for item in positional if item.kind is item.POSITIONAL_ONLY),
            by_name=tuple(item.name for item in by_name),
            required=sum(item.default is item.empty for item in positional),
            named=sum(item.default is item.empty for item in by_name),
            optional=tuple(item.name for item in (*positional[needed:], *by_name) if _may_be_tensor(item)),
            variadic=any(item.kind is item.VAR_POSITIONAL for item in every),
            open=any(item.kind is item.VAR_KEYWORD for item in every),
            labelled=any(is_label(item.name) for item in plain),
        )


def _may_be_tensor(item: inspect.Parameter) -> bool:
    if item.default is not None or is_label(item.name) or item.name.startswith(_SWITCHES):
        return False
    said = "" if item.annotation is item.empty else str(item.annotation)
    return not said or any(word in said for word in ("Tensor", "Any", "rray"))


def mask_among(signature: Signature, first: Any, entries: Sequence[Any], axis: int) -> tuple[dict[str, Any], Any]:
    """The mask among the entries behind those that the model needs, and the first that may be an input or a label.

    Labels must never pass for a mask, nor an input for labels. An entry is a mask where ``forward`` has one argument
    that is called so, and where the tokens that it leaves out hold one and the same id, or it runs from the first token
    of every example up to different ones and nothing else in ``forward`` may look like that. ``axis`` is that of the
    examples of the ``first`` entry; masks have them first.
    """
    places = [name for name in signature.optional if "mask" in name]
    place = next((name for name in MASKS if name in places), places[0] if len(places) == 1 else None)
    found: dict[str, Any] = {}
    for entry in entries:
        count = len(getattr(entry, "shape", ()))
        if not count or not hasattr(first, "shape"):
            continue
        if signature.variadic:
            return {}, entry
        kind = values_of(entry).dtype.kind
        open_to = [name for name in signature.optional if _fits(name, count, kind, entry)]
        tokens = None
        if place is not None and 1 < len(first.shape) <= 3:
            shape = (first.shape[axis], first.shape[1 - axis])
            tokens = read_mask(place, values_of(entry), shape)
        if tokens is None:
            if [name for name in open_to if "mask" not in name] or (places and _like_a_mask(entry, first)):
                return {}, entry
            continue
        if found or not _certain(signature, str(place), tokens, first, entry, axis):
            return {}, entry
        found[str(place)] = entry
    return found, None


def _certain(signature: Signature, place: str, tokens: Any, first: Any, entry: Any, axis: int) -> bool:
    if tokens.all():
        # It masks nothing, whatever it is, unless it is a label that is one everywhere.
        return not signature.labelled
    ids = np.moveaxis(values_of(first), axis, 0)
    queries = len(entry.shape) > 2 and entry.shape[-1] == tokens.shape[1]
    if not is_plain(place) and is_padded(ids, ~tokens) and not is_padded(ids, tokens):
        return True
    if is_padded(ids, tokens) or values_of(entry).dtype.kind == "f" or queries:
        return bool(tokens.any(axis=1).all())
    uneven = len(set(tokens.sum(axis=1).tolist())) > 1 or len(tokens) == 1
    return not signature.labelled and uneven and one_run(tokens)


def _fits(name: str, count: int, kind: str, entry: Any) -> bool:
    """Whether an entry with so many axes, of that kind of numbers, may be the argument of that name."""
    if count == 1:
        return not any(word in name for word in _WIDE)
    if count == 2 and any(word in name for word in _DEEP):
        return False
    if "_ids" in name or name == "ids":
        return kind in "iub" and count == 2 and bool((values_of(entry) >= 0).all())
    return True


def _like_a_mask(entry: Any, first: Any) -> bool:
    if not 1 < len(first.shape) <= 3 or len(entry.shape) < 2 or entry.shape[-1] != first.shape[1]:
        return False
    values = values_of(entry)
    return read_mask("attention_mask", values.reshape(-1, values.shape[-1]), None) is not None
