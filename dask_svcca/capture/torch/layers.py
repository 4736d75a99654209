"""Which outputs become representations: the layers of the first batch, their dims, and which only repeat another."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from dask_svcca.capture._common import listing
from dask_svcca.capture.torch.axes import name_axes
from dask_svcca.capture.torch.hooks import THE_INPUT
from dask_svcca.capture.torch.operations import LOST, MAPS
from dask_svcca.capture.torch.records import HEAD, MAIN, Layer, Pool, stored_dims, with_heads
from dask_svcca.capture.torch.sequences import kept_sequence, other_tokens, sequence_of, told_apart, without_mask
from dask_svcca.dims import EXAMPLE, NEURONS, SPATIAL, TOKEN
from dask_svcca.errors import CaptureError, did_you_mean
from dask_svcca.patterns import matches

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.capture.torch.operations import Axes
    from dask_svcca.capture.torch.records import Feed, Record


@dataclass
class Chosen:
    """The layers of the first batch, and what becomes of repeats.

    Attributes
    ----------
    layers : dict of str to Layer
    repeats : dict of str to str
        Layers that are left out, and what they repeat.
    suspects : dict of str to list of str
        Layers that had the values of others so far, and these.
    kept : str
        The sequence whose mask the zoo keeps.
    cautions : list of str
        Sentences on layers and masks that do not fit.
    """

    layers: dict[str, Layer] = field(default_factory=dict)
    repeats: dict[str, str] = field(default_factory=dict)
    suspects: dict[str, list[str]] = field(default_factory=dict)
    kept: str = MAIN
    cautions: list[str] = field(default_factory=list)


def choose(
    records: Mapping[str, Record],
    feed: Feed,
    *,
    dims: Mapping[str, Sequence[str]],
    pool: Pool | None,
    drop: bool,
    whole: bool,
    lengths: Collection[int],
    found: Mapping[str, Sequence[int] | str],
    skipped: dict[str, str],
) -> Chosen:
    """Layers among the records of the first batch; those that cannot be are noted as ``skipped``.

    Parameters
    ----------
    records : mapping of str to Record
    feed : Feed
    dims : mapping of str to sequence of str
        Dims of the layers whose names match.
    pool : str, optional
    drop : bool
        Leave out layers that repeat another.
    whole : bool
        Whether the batch has all examples, so that it is certain what repeats.
    lengths : collection of int
        Tokens of the masks that the zoo has.
    found : mapping of str to sequence of int, or str
        What a second pass found: axes that may be the examples, or why none is.
    skipped : dict of str to str
    """
    chosen = Chosen()
    for pattern in dims:
        if not any(matches(layer, pattern) for layer in records):
            raise CaptureError(
                f"dims= has {pattern!r}, which matches none of the layers {listing(records)}"
                f"{did_you_mean(pattern, records)}"
            )
    for layer, record in records.items():
        if record.repeats:
            chosen.repeats[layer] = record.repeats
            continue
        if record.values is None:
            continue
        shape = record.values.shape
        said = next((tuple(value) for pattern, value in dims.items() if matches(layer, pattern)), None)
        axes, doubt = _settled(record.axes if said is None else said, found.get(layer), shape)
        given, reason = name_axes(axes, shape, feed.examples) if said is None else _said(said, shape, layer, feed)
        reason = reason or doubt
        sequence, others = sequence_of(record, feed)
        reason = reason or _unpoolable(given, shape, pool, feed, sequence)
        if reason:
            skipped[layer] = reason
            continue
        stored = stored_dims(given, shape)
        pooled = (EXAMPLE, "neuron") if pool is not None and TOKEN in stored else stored
        chosen.layers[layer] = Layer(layer, given, pooled, record.depth, sequence, others)
    _apart(chosen, records, feed, lengths, skipped, asked=not drop)
    if drop:
        _find_repeats(chosen, records, feed, whole=whole)
    # A repeat of what is not a layer is not a layer either.
    for layer, original in chosen.repeats.items():
        skipped[layer] = (
            skipped[original] if original in skipped and original not in chosen.repeats else repeated(original)
        )
    return chosen


def _settled(axes: Axes | None, found: Sequence[int] | str | None, shape: tuple[int, ...]) -> tuple[Axes | None, str]:
    """Axes with the examples where a second pass found them, and why there are none where it contradicts."""
    if found is None or isinstance(found, str):
        return axes, found or ""
    known = (None,) * len(shape) if axes is None else axes
    at = known.index(EXAMPLE) if EXAMPLE in known else 0
    if at not in found:
        return axes, (
            f"its {f'axis {at}' if at else 'first axis'} is not the examples, which are along axis {found[0]}: shape "
            f"{shape}. Say it with dims="
        )
    unnamed = known[at] in {None, LOST, MAPS}
    return tuple(EXAMPLE if unnamed and place == at else axis for place, axis in enumerate(known)), ""


def _apart(
    chosen: Chosen,
    records: Mapping[str, Record],
    feed: Feed,
    lengths: Collection[int],
    skipped: dict[str, str],
    *,
    asked: bool,
) -> None:
    """Leave out layers that the mask of another sequence would be applied to, since a zoo keeps one."""
    tokens = {
        layer: records[layer].values.shape[known.given.index(TOKEN)]  # type: ignore[union-attr]
        for layer, known in chosen.layers.items()
        if TOKEN in known.dims
    }
    chosen.kept = kept_sequence(chosen.layers, feed.masks, asked=asked)
    kept = feed.masks.get(chosen.kept)
    if not feed.masks:
        chosen.cautions = without_mask(tokens, feed, lengths)
        return
    masked = {*lengths} if kept is None else {*lengths, kept.shape[1]}
    left = {
        layer: reason
        for layer, count in tokens.items()
        if (reason := other_tokens(chosen.layers[layer], count, chosen.kept, feed, masked))
    }
    skipped.update(left)
    chosen.layers = {layer: known for layer, known in chosen.layers.items() if layer not in left}
    chosen.cautions = told_apart(list(chosen.layers.values()), tokens, chosen.kept, feed, left)


def _unpoolable(
    given: tuple[str, ...], shape: tuple[int, ...], pool: Pool | None, feed: Feed, sequence: str | None
) -> str:
    """Why the tokens of a layer cannot be pooled under their mask; empty if they can."""
    if pool is None or TOKEN not in given or not feed.masks:
        return ""
    if sequence is None:
        return f"nothing says whose tokens it has: pool={pool!r} cannot tell its tokens from padding"
    mask = feed.masks.get(sequence)
    if mask is None or shape[given.index(TOKEN)] == mask.shape[1]:
        return ""
    return (
        f"it has {shape[given.index(TOKEN)]} tokens an example and the mask {mask.shape[1]}: pool={pool!r} cannot "
        f"tell its tokens from padding"
    )


def still_repeats(records: Mapping[str, Record], feed: Feed, chosen: Chosen, model: str) -> None:
    """Look at a later batch for what was left out as a repeat.

    Raises
    ------
    CaptureError
        Where a module gives values of its own now: those of the first batch were not kept.
    """

    @functools.cache
    def keys(layer: str) -> frozenset[str]:
        if layer == THE_INPUT:
            return _input_keys(feed)
        return _keys(records.get(layer), chosen.layers.get(layer))

    for layer, original in chosen.repeats.items():
        record = records.get(layer)
        if record is not None and not record.repeats and not keys(layer) & keys(original):
            raise CaptureError(
                f"module {layer!r} of {model!r} repeated {_shown(original)} in the first batch, and does not in a "
                f"later one. Choose the modules with layers=, then none is left out"
            )
    for layer, originals in chosen.suspects.items():
        originals[:] = [original for original in originals if keys(layer) & keys(original)]


def _find_repeats(chosen: Chosen, records: Mapping[str, Record], feed: Feed, *, whole: bool) -> None:
    seen: dict[str, list[str]] = {key: [THE_INPUT] for key in _input_keys(feed)}
    for layer, known in list(chosen.layers.items()):
        keys = _keys(records[layer], known)
        originals = list(dict.fromkeys(original for key in keys for original in seen.get(key, ())))
        if originals and whole:
            chosen.repeats[layer] = originals[0]
            del chosen.layers[layer]
            continue
        if originals:
            chosen.suspects[layer] = originals
        for key in keys:
            seen.setdefault(key, []).append(layer)


def repeated(original: str) -> str:
    """Why a layer is left out that has the values of another."""
    return f"it repeats {_shown(original)}"


def _shown(original: str) -> str:
    return original if original == THE_INPUT else repr(original)


def _keys(record: Record | None, layer: Layer | None) -> frozenset[str]:
    """Digests of the values, in the order of the module and in that of the store."""
    if record is None or record.values is None:
        return frozenset()
    keys = {_digest(record.values)}
    if layer is not None and record.values.ndim == len(layer.given):
        order = with_heads(layer.given)
        keys.add(_digest(record.values.transpose([layer.given.index(dim) for dim in order])))
    return frozenset(keys)


def _input_keys(feed: Feed) -> frozenset[str]:
    values = [value for value in feed.tensors.values() if value.is_floating_point() and value.ndim > 1]
    # As the recorder copies them: half, single and double as they are, all others as single.
    exact = {"torch.float16", "torch.float32", "torch.float64"}
    return frozenset(_digest(np.asarray((v if str(v.dtype) in exact else v.float()).cpu())) for v in values)


def _digest(values: npt.NDArray[Any]) -> str:
    return f"{values.dtype} {values.size} {xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).data)}"


def _said(said: tuple[str, ...], shape: tuple[int, ...], layer: str, feed: Feed) -> tuple[tuple[str, ...], str]:
    """Dims that the caller gave, and why the layer cannot be a representation under them."""
    known = {EXAMPLE, TOKEN, HEAD, *NEURONS, *SPATIAL}
    neurons = [dim for dim in said if dim in NEURONS]
    if len(said) != len(shape) or len(set(said)) != len(said) or len(neurons) != 1 or EXAMPLE not in said:
        raise CaptureError(
            f"dims={said!r} do not describe the {len(shape)} axes of {layer!r}, shape {shape}: name each once, one "
            f"'example' and one 'neuron' or 'channel' among them"
        )
    if not set(said) <= known:
        raise CaptureError(f"dims={said!r} of {layer!r} are not all known; they can be {', '.join(sorted(known))}")
    found = shape[said.index(EXAMPLE)]
    return said, "" if found == feed.examples else f"its axis 'example' has {found} of {feed.examples} examples"
