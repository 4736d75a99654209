"""The sequences that a batch holds: which arguments belong together, and which mask tells the tokens of which layer.

An encoder-decoder reads two sequences, a model of images and texts two of other kinds. A zoo applies one mask to all
layers that have as many tokens, so that layers of another sequence must not be among them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from dask_svcca.capture._common import listing
from dask_svcca.capture.torch.masks import MASKS, marks_tokens
from dask_svcca.capture.torch.records import DECODER, ENCODER, INSIDE, MAIN
from dask_svcca.dims import TOKEN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence, Sized

    from dask_svcca.capture.torch.records import Feed, Layer, Record

_PREFIXES = {"decoder": DECODER, "tgt": DECODER, "encoder": ENCODER, "memory": ENCODER, "cross": ENCODER}
_PATTERNS = frozenset({"src", "attn", "causal", "global", "head", "tgt", "memory", "cross"})
BESIDE = ("type", "pos", "segment", "bbox", "lang", "time")
"""Words in the names of arguments that say more of the tokens of the input."""


def prefixes_of(names: Iterable[str]) -> dict[str, str]:
    """Prefixes of arguments that have a mask of their own, such as ``visual_`` of ``visual_attention_mask``.

    Examples
    --------
    >>> prefixes_of(["text_ids", "text_mask", "image", "causal_mask"])["text"]
    'text'
    """
    names = list(names)
    found = dict(_PREFIXES)
    for name in names:
        for rest in (*MASKS, "mask"):
            prefix = name.removesuffix(f"_{rest}")
            others = [other for other in names if other != name and f"{other}_".startswith(f"{prefix}_")]
            if prefix != name and prefix not in _PATTERNS and name not in MASKS and others:
                found.setdefault(prefix, prefix)
    return found


def split_name(name: str, prefixes: Mapping[str, str]) -> tuple[str, str]:
    """The sequence that the prefix of an argument names, and the argument without it.

    Examples
    --------
    >>> split_name("decoder_attention_mask", prefixes_of([])), split_name("input_ids", prefixes_of([]))
    (('decoder', 'attention_mask'), ('', 'input_ids'))
    """
    for prefix, sequence in prefixes.items():
        if name == prefix or name.startswith(f"{prefix}_"):
            return sequence, name[len(prefix) + 1 :]
    return MAIN, name


def mask_sense(name: str, prefixes: Mapping[str, str]) -> bool | None:
    """What true in an argument says of a token of its sequence; None where it is not a mask of tokens."""
    sequence, rest = split_name(name, prefixes)
    if sequence == MAIN or rest in MASKS or "pad" in rest:
        return marks_tokens(rest)
    return marks_tokens(rest) if sequence not in {DECODER, ENCODER} else None


def sequences_of(
    tensors: Mapping[str, Any],
    masked: tuple[int, int] | None,
    main: str,
    axis: int,
    prefixes: Mapping[str, str],
    masks: Collection[str],
) -> dict[str, str]:
    """The sequence of each argument that has tokens.

    Parameters
    ----------
    tensors : mapping of str to tensor
    masked : (int, int), or None
        Examples and tokens of the mask without a prefix.
    main : str
        The argument that is the model's input.
    axis : int
        Axis of the examples.
    prefixes : mapping of str to str
        See `prefixes_of`.
    masks : collection of str
        Arguments that are masks.
    """
    if masked is None and main in tensors and tensors[main].ndim >= 2:
        sizes = tuple(tensors[main].shape[:2])
        masked = sizes[::-1] if axis else sizes
    found = {}
    for name, tensor in tensors.items():
        if "mask" in name or name in masks or tensor.ndim < 2:
            continue
        sequence = split_name(name, prefixes)[0]
        if sequence == MAIN and not _along(name, tensor, masked, main, axis):
            sequence = name
        found[name] = sequence
    return found


def _along(name: str, tensor: Any, masked: tuple[int, int] | None, main: str, axis: int) -> bool:
    if masked is None:
        return name == main
    sizes = tuple(tensor.shape[:2])
    beside = name == main or any(word in name for word in BESIDE)
    return beside and tensor.ndim <= 3 and (sizes[::-1] if axis else sizes) in {masked, (1, masked[1])}


def sequence_of(record: Record, feed: Feed) -> tuple[str | None, frozenset[str]]:
    """The sequence whose tokens a layer has, None where it is not known; and what else it was computed from."""
    given, every = record.sequences, set(feed.sequences.values())
    if DECODER in every:
        # What a decoder computes of the encoder's tokens alone, such as keys and values, has these.
        given -= {INSIDE}
    if len(every) < 2 and INSIDE not in given:
        return MAIN if MAIN in feed.masks else next(iter(every), MAIN), frozenset()
    if DECODER in given:
        # A decoder reads the encoder's tokens, and not the other way round.
        return DECODER, frozenset()
    if MAIN in given and INSIDE not in given:
        return MAIN, given - {MAIN, ENCODER}
    return (next(iter(given)), frozenset()) if len(given) == 1 and INSIDE not in given else (None, given)


def kept_sequence(layers: Mapping[str, Layer], masks: Mapping[str, Any], *, asked: bool) -> str:
    """The sequence whose mask a zoo keeps: that without a prefix, unless no layer has its tokens.

    Of layers that a user ``asked`` for, it is the sequence of most.
    """
    tokens = Counter(layer.sequence for layer in layers.values() if TOKEN in layer.dims)
    found = [name for name in sorted(masks) if name in tokens]
    return max(found, key=lambda name: tokens[name] if asked else 0, default=MAIN)


def other_tokens(layer: Layer, tokens: int, kept: str, feed: Feed, lengths: Iterable[int]) -> str:
    """Why a layer must not stand beside a mask; empty if it may.

    Parameters
    ----------
    layer : Layer
    tokens : int
        How many it has.
    kept : str
        The sequence whose mask the zoo keeps.
    feed : Feed
    lengths : iterable of int
        Tokens of the masks that the zoo has or gets.
    """
    if layer.sequence == kept or tokens not in lengths:
        return ""
    whose = "nothing says whose tokens it has"
    remedy = (
        "Keep one vector an example with pool='mean', 'last' or 'first', or capture such layers alone, with layers=, "
        "into a zoo of their own"
    )
    if layer.sequence is not None:
        whose = f"its tokens are those of {_named(layer.sequence, feed)}"
    elif INSIDE in layer.others:
        whose = "it is part of a decoder, and its tokens are made inside the model"
        remedy = "Feed the decoder its own arguments, such as decoder_input_ids and decoder_attention_mask"
    return (
        f"{whose}, and the mask {feed.mask_names.get(kept, 'of the zoo')!r}, which has as many, would hide some of "
        f"them. {remedy}"
    )


def _named(sequence: str, feed: Feed) -> str:
    if sequence in feed.mask_names:
        return f"the mask {feed.mask_names[sequence]!r}"
    arguments = [name for name, other in feed.sequences.items() if other == sequence]
    return listing(arguments) + ", which has no mask"


def told_apart(
    layers: Sequence[Layer], tokens: Mapping[str, int], kept: str, feed: Feed, left: Mapping[str, str]
) -> list[str]:
    """Sentences on layers beside a mask: those ``left`` out, and those that cannot be read under it, or perhaps."""
    mask = feed.masks.get(kept)
    if mask is None:
        return []
    name, length = feed.mask_names[kept], mask.shape[1]
    said = []
    if left:
        layer, reason = next(iter(left.items()))
        said.append(f"{listing(left, 3)} {_verb(left, 'was', 'were')} left out: of {layer!r}, {reason}")
    others = [layer for layer in layers if TOKEN in layer.dims and tokens[layer.name] != length]
    placed = [layer for layer in layers if layer.dims[1:-1] == ("width",) and layer.sequence in feed.masks]
    mixed = [layer for layer in layers if TOKEN in layer.dims and tokens[layer.name] == length and layer.others]
    if others:
        counts = ", ".join(map(str, sorted({tokens[layer.name] for layer in others})))
        said.append(
            f"{listing([layer.name for layer in others], 3)} {_verb(others, 'has', 'have')} {counts} tokens an "
            f"example, and the mask {name!r} {length}: {_verb(others, 'it', 'they')} cannot be compared under it, "
            f"only with mask=None"
        )
    if placed:
        said.append(
            f"{listing([layer.name for layer in placed], 3)} {_verb(placed, 'has', 'have')} positions of a convolution "
            f"in place of the {length} tokens of the mask {name!r}: it does not hide the padding in "
            f"{_verb(placed, 'it', 'them')}"
        )
    if mixed:
        sources = sorted({source for layer in mixed for source in layer.others})
        said.append(
            f"{listing([layer.name for layer in mixed], 3)} {_verb(mixed, 'was', 'were')} computed from "
            f"{listing(sources)} too, and {_verb(mixed, 'is', 'are')} taken to have the tokens of the mask {name!r}, "
            f"as many. Where that is not so, leave {_verb(mixed, 'it', 'them')} out with layers="
        )
    return said


def _verb(names: Sized, one: str, several: str) -> str:
    return one if len(names) == 1 else several


def without_mask(tokens: Mapping[str, int], feed: Feed, lengths: Iterable[int]) -> list[str]:
    """Sentence on layers that a mask of the zoo would be applied to, although no input has these tokens."""
    given = {size for tensor in feed.tensors.values() if 2 <= tensor.ndim <= 3 for size in tensor.shape[:2]}
    layers = [layer for layer, count in tokens.items() if count in lengths and count not in given]
    if not layers:
        return []
    said = (
        f"the zoo has a mask of {tokens[layers[0]]} tokens, and {listing(layers, 3)} "
        f"{_verb(layers, 'has', 'have')} as many, which are not those of an input: a comparison would hide some of "
        f"them. Compare with mask=None, or capture into a zoo of its own"
    )
    return [said]
