"""Which tensors of a batch are masks of tokens: their names say it, and the ids that stand for padding."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture.torch.entries import is_label
from dask_svcca.capture.torch.masks import (
    MASKS,
    as_tokens,
    fits,
    is_certain,
    is_padded,
    is_plain,
    marks_tokens,
    one_run,
    read_mask,
    values_of,
)
from dask_svcca.capture.torch.records import DECODER, MAIN
from dask_svcca.capture.torch.sequences import BESIDE, mask_sense, split_name
from dask_svcca.capture.torch.told import sense_of, unread
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.capture.torch.told import Told

_LENGTHS = re.compile(r"(^|_)(len|lens|length|lengths)$")


@dataclass
class Found:
    """The masks of one batch.

    Attributes
    ----------
    masks : dict of str to (example, token) array of bool
        By sequence, true for tokens.
    names : dict of str to str
        The tensors that hold them.
    open : set of str
        Sequences whose tensor masks nothing in this batch, so that it may be anything: its name does not say it.
    refused : CaptureError or None
        Of a mask that cannot be read, unless the model turns out to take its tokens first, or tells what it means.
    """

    masks: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    refused: CaptureError | None = None

    def add(self, sequence: str, name: str, mask: npt.NDArray[np.bool_]) -> None:
        """Take the mask of a sequence."""
        self.masks[sequence], self.names[sequence] = mask, name


@dataclass(frozen=True)
class _Ids:
    name: str
    sequence: str
    values: npt.NDArray[Any]


class Finder:
    """Finds the masks in batch after batch, each in one sense.

    Parameters
    ----------
    model : str
        Name for messages.

    Attributes
    ----------
    heard : dict of str to (bool, str)
        What true says of a token in a tensor that the model hands to its modules as a mask, and of which sequence.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.heard: dict[str, tuple[bool, str]] = {}
        self._inverse: dict[str, bool] = {}

    def learn(self, tensors: Mapping[str, Any], main: str, examples: int, told: Sequence[Told]) -> bool:
        """Note which tensors modules were ``told`` are masks, and in which sense; whether one was not known before."""
        before = len(self.heard)
        for name, values in unread(tensors, [key for key in tensors if is_plain(key)], main, examples).items():
            sense = sense_of(name, values, told)
            if sense is not None:
                self.heard.setdefault(name, sense)
        return len(self.heard) > before

    def find(
        self,
        tensors: Mapping[str, Any],
        beside: Mapping[str, Any],
        examples: int,
        mains: Sequence[str],
        prefixes: Mapping[str, str],
        axis: int,
    ) -> Found:
        """Masks among the tensors of a batch.

        Parameters
        ----------
        tensors, beside : mapping of str to tensor
            Those that go into the model, and the others.
        examples : int
        mains : sequence of str
            Names of the model's input, the likeliest first.
        prefixes : mapping of str to str
            See `prefixes_of`.
        axis : int
            Axis of the examples of what goes into the model. Masks have them first.

        Raises
        ------
        CaptureError
            Where an argument that is a mask by its name cannot be read as one, or says of the ids the other way round
            which are padding.
        """
        every = {**beside, **tensors}
        ids = list(_ids_among(every, tensors, mains, prefixes, axis))
        found = Found()
        for name in (*[key for key in MASKS if key in every], *every):
            sequence, rest = split_name(name, prefixes)
            if name in self.heard:
                true, heard = self.heard[name]
                sequence = sequence if heard == MAIN else heard
                mask = as_tokens(values_of(every[name]), true=true)
                if mask is not None and sequence not in found.masks and len(mask) == examples:
                    found.add(sequence, name, mask)
                continue
            if sequence in found.masks or mask_sense(name, prefixes) is None:
                continue
            prefix = name.removesuffix(rest)
            inputs = [key for key in tensors if key.startswith(prefix)] if prefix else mains
            main = next((tensors[key] for key in inputs if key in tensors and key != name), None)
            mask = None
            if rest in MASKS or "pad" in rest or not _is_picture(main):
                mask = self._named(name, rest, every[name], _of(sequence, name, ids), examples, found)
                if mask is None and is_certain(rest) and found.refused is None:
                    found.refused = self._unreadable(name, every[name])
            if mask is not None:
                found.add(sequence, name, mask)
                if mask.all() and _has_queries(every[name]):
                    # Causal, say, without a word on padding.
                    found.open.add(sequence)
        for name, tensor in every.items():
            _by_ids(found, name, tensor, ids, prefixes)
        return found

    def _named(
        self, name: str, rest: str, tensor: Any, ids: Iterable[_Ids], examples: int, found: Found
    ) -> npt.NDArray[np.bool_] | None:
        """The mask that a tensor holds by its name; ``rest`` is the name without a prefix."""
        values = values_of(tensor)
        if len(values.shape) > 1 and len(values) == 1:
            values = np.broadcast_to(values, (examples, *values.shape[1:]))
        mask = read_mask(rest, values, None)
        if mask is None or len(mask) != examples:
            return None
        same = next((one for one in ids if one.values.shape == mask.shape), None)
        right, inverse = (same is not None and fits(same.values, tokens) for tokens in (mask, ~mask))
        # What is added can be meant in one way only.
        if is_plain(rest) or (values.dtype.kind == "f" and bool((values < 0).any())):
            if same is not None and not right and is_padded(same.values, ~mask):
                raise self._contradicted(name, rest, same)
            return mask
        if right != inverse:
            if self._inverse.setdefault(name, inverse) != inverse:
                raise self._changing(name)
            tokens = ~mask if inverse else mask
            # Padding stands at an end: what is in between, such as tokens to be predicted, is not padding.
            return tokens if right or _in_one_piece(tokens) else None
        tokens = ~mask if self._inverse.setdefault(name, False) else mask
        if marks_tokens(rest):
            return tokens if one_run(tokens) and not _is_causal(tokens) else None
        if not tokens.any(axis=1).all():
            found.refused = self._all_padding(name, int(np.argmin(tokens.any(axis=1))))
            return None
        return tokens

    def _unreadable(self, name: str, tensor: Any) -> CaptureError:
        return CaptureError(
            f"the argument {name!r} of {self._model!r}, shape {tuple(tensor.shape)}, does not say plainly "
            f"which tokens are padding. It must be (example, token), of 0 and 1, or of 0 for tokens and -inf for "
            f"padding. Give the model such a mask, as 'attention_mask' (true for tokens) or 'padding_mask' (true "
            f"for padding), and make of it there what the model needs, or "
            f"leave it out of the batches"
        )

    def _contradicted(self, name: str, rest: str, ids: _Ids) -> CaptureError:
        sense = "a token" if marks_tokens(rest) else "padding"
        return CaptureError(
            f"the mask {name!r} of {self._model!r} and {ids.name!r} contradict each other: by its name, true is "
            f"{sense}, and what would be padding then has many ids, what would be tokens a single one. Give the "
            f"inverse, or a name that says what true is: 'attention_mask' (a token) or 'key_padding_mask' (padding)"
        )

    def _changing(self, name: str) -> CaptureError:
        return CaptureError(
            f"the mask {name!r} of {self._model!r} is true for padding in some batches and for tokens in others, as "
            f"the ids of the tokens say. Give it as 'attention_mask' (true for tokens)"
        )

    def _all_padding(self, name: str, example: int) -> CaptureError:
        return CaptureError(
            f"the mask {name!r} of {self._model!r} says of example {example} of a batch that all of its tokens are "
            f"padding, if true is padding as usual. Where true is a token, call it 'attention_mask' or "
            f"'non_{name}'; leave out examples that have no tokens"
        )


def _is_picture(main: Any) -> bool:
    """Whether the input of a model has pixels or features, and no tokens."""
    return main is None or main.ndim > 3 or (main.ndim == 2 and main.is_floating_point())


def _has_queries(tensor: Any) -> bool:
    return len(tensor.shape) > 2 and tensor.shape[-2] == tensor.shape[-1] > 1


def _ids_among(
    every: Mapping[str, Any], tensors: Mapping[str, Any], mains: Sequence[str], prefixes: Mapping[str, str], axis: int
) -> Iterator[_Ids]:
    """Ids of tokens, examples first: the inputs of a sequence that are integers, and what is called so."""
    for name in dict.fromkeys((*[key for key in mains if key in tensors], *every)):
        if is_label(name) or "mask" in name or any(word in name for word in BESIDE):
            continue
        if len(every[name].shape) == 2 and (name in mains or name in prefixes or "ids" in name):
            values = np.moveaxis(values_of(every[name]), axis, 0)
            if values.dtype.kind in "iu":
                yield _Ids(name, split_name(name, prefixes)[0], values)


def _of(sequence: str, name: str, ids: Sequence[_Ids]) -> Iterator[_Ids]:
    """The ids that a mask may belong to: those of its sequence, else those of the model's input."""
    yield from (one for one in ids if one.sequence == sequence and one.name != name)
    if sequence not in {MAIN, DECODER}:
        yield from (one for one in ids if one.sequence == MAIN and one.name != name)


def _by_ids(found: Found, name: str, tensor: Any, ids: Sequence[_Ids], prefixes: Mapping[str, str]) -> None:
    """Take a tensor of any name as a mask where what it leaves out is padding, as the ids say."""
    sequence, rest = split_name(name, prefixes)
    if name in found.names.values() or is_label(name) or mask_sense(name, prefixes) is False:
        return
    for one in _of(sequence, name, ids):
        if one.sequence in found.masks and one.sequence not in found.open:
            continue
        for tokens in _forms(rest, tensor, one.values.shape):
            if _leaves_out_padding(one.values, tokens):
                found.add(one.sequence, name, tokens)
                found.open.discard(one.sequence)
                return
            if tokens.all() and one.sequence not in found.masks and not any(word in name for word in BESIDE):
                found.add(one.sequence, name, tokens)
                found.open.add(one.sequence)


def _forms(rest: str, tensor: Any, shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.bool_]]:
    """The masks that a tensor may stand for: itself, or what lengths leave of tokens that come first or last."""
    if tuple(tensor.shape) == shape:
        tokens = as_tokens(values_of(tensor), true=True)
        if tokens is not None:
            yield tokens
    elif tuple(tensor.shape) in {shape[:1], (shape[0], 1)} and _LENGTHS.search(rest):
        lengths = values_of(tensor).reshape(shape[0], 1)
        if lengths.dtype.kind in "iuf" and np.isin(lengths, np.arange(1, shape[1] + 1)).all():
            tokens = np.arange(shape[1]) < lengths
            yield from (tokens, tokens[:, ::-1])


def _leaves_out_padding(ids: npt.NDArray[Any], tokens: npt.NDArray[np.bool_]) -> bool:
    if tokens.all() or not fits(ids, tokens) or not tokens.any(axis=1).all() or not _in_one_piece(tokens):
        return False
    # A single place may be chance, unless its id is nowhere else.
    return is_padded(ids, tokens) or not np.isin(ids[tokens], ids[~tokens]).any()


def _in_one_piece(tokens: npt.NDArray[np.bool_]) -> bool:
    """Whether the tokens of every example stand together."""
    starts = np.diff(tokens.astype(np.int8), axis=1, prepend=0) == 1
    return bool((starts.sum(axis=1) <= 1).all())


def _is_causal(tokens: npt.NDArray[np.bool_]) -> bool:
    """Whether it may be a square of queries and keys in place of examples and tokens."""
    return tokens.shape[0] == tokens.shape[1] > 1 and np.array_equal(tokens, np.tri(len(tokens), dtype=bool))
