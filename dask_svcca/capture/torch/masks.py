"""The mask of the tokens that batches carry: in which forms it comes, and as a coordinate of the zoo."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import CaptureError, MismatchedExamplesError
from dask_svcca.stores import _io
from dask_svcca.stores.zoo.examples import add_coord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.stores.zoo import Zoo

MASK = "mask"
"""Name of the coordinate: true for tokens, false for padding."""

MASKS = {
    "attention_mask": True,
    "input_mask": True,
    "src_key_padding_mask": False,
    "key_padding_mask": False,
    "padding_mask": False,
}
"""Arguments that tell tokens from padding, and what true says of them."""

ADDITIVE = -9.9e3
"""A mask that is added to the scores of attention is zero for tokens, and this or less for padding: -1e4, rounded."""

_OTHERS = ("tgt", "memory", "decoder", "encoder", "cross")
_UNPADDED = re.compile(r"(^|_)(non|not|no|un)_?(is_)?pad")
_UNUSED = re.compile(r"(^|_)pad|(^|_)invalid(_|$)")
_USED = re.compile(
    r"(is_|are_)?(valid|token|tokens)|"
    r"(valid|token|tokens|key|seq|sequence|text|src|x|input|inputs|word|words|sentence)_mask"
)


def values_of(values: Any) -> npt.NDArray[Any]:
    """Values of a tensor or an array; of a floating type that NumPy lacks, in single precision."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    return np.asarray(values)


def marks_tokens(name: str) -> bool | None:
    """What true in an argument of this name says of a token; None where it is not a mask of the input's tokens.

    Examples
    --------
    >>> marks_tokens("pad_mask"), marks_tokens("non_pad_mask"), marks_tokens("causal_mask")
    (False, True, None)
    """
    if name in MASKS:
        return MASKS[name]
    if name.startswith(_OTHERS):
        return None
    if _UNPADDED.search(name):
        return True
    if _UNUSED.search(name):
        return False
    return True if name == "mask" or _USED.fullmatch(name) else None


def is_plain(name: str) -> bool:
    """Whether a name says one thing only: others are read by convention, and both ways are in use."""
    return (name in MASKS and name != "padding_mask") or bool(_UNPADDED.search(name))


def is_certain(name: str) -> bool:
    """Whether an argument of this name cannot be anything but a mask."""
    return name in MASKS or name == "mask" or ("mask" in name and "pad" in name)


def read_mask(name: str, values: npt.NDArray[Any], shape: tuple[int, int] | None) -> npt.NDArray[np.bool_] | None:
    """A mask as (example, token), true for tokens; None where it cannot be read as one, exactly.

    Parameters
    ----------
    name : str
        Argument that takes it.
    values : array
        0 and 1, or additive: 0 for tokens and `ADDITIVE` or less for padding. It is (example, token), or has axes of
        length one beside these, or an axis of queries before that of tokens.
    shape : (int, int), or None
        Examples and tokens that there must be.

    Examples
    --------
    >>> read_mask("attention_mask", np.array([[[[0, -np.inf, -np.inf]]]]), (1, 3))
    array([[ True, False, False]])
    """
    true = marks_tokens(name)
    return None if true is None else as_tokens(values, shape, true=true)


def as_tokens(
    values: npt.NDArray[Any], shape: tuple[int, int] | None = None, *, true: bool
) -> npt.NDArray[np.bool_] | None:
    """As `read_mask`, where ``true`` is what true says of a token."""
    while values.ndim > 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    floating = values.dtype.kind == "f"
    if floating and bool(((values == 0) | (values <= ADDITIVE)).all()):
        seen = values == 0
    elif values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all() or (floating and not true):
        return None
    else:
        seen = (values != 0) == true
    tokens = _of_queries(seen) if values.ndim == 3 else seen
    if tokens is None or tokens.ndim != 2 or (shape is not None and tokens.shape != shape):
        return None
    return np.asarray(tokens)


def _of_queries(seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_] | None:
    """The tokens of a mask of queries and keys, (example, query, key): those that the last query sees.

    None unless each token sees all tokens, or all up to its own. What padding sees does not matter.
    """
    if seen.shape[1] != seen.shape[2]:
        return None
    tokens = np.asarray(seen.any(axis=1))
    for allowed in (np.ones(seen.shape[1:], dtype=bool), np.tri(seen.shape[1], dtype=bool)):
        wanted = tokens[:, None, :] & allowed
        if (seen == wanted)[tokens].all():
            return tokens
    return None


def is_padded(ids: npt.NDArray[Any], tokens: npt.NDArray[np.bool_]) -> bool:
    """Whether what a mask leaves out holds one and the same id, at two places at least."""
    if ids.shape != tokens.shape or ids.dtype.kind not in "iu":
        return False
    padding = ids[~tokens]
    return len(padding) > 1 and len(np.unique(padding)) == 1


def fits(ids: npt.NDArray[Any] | None, tokens: npt.NDArray[np.bool_]) -> bool:
    """Whether what a mask leaves out may be padding: one and the same id, or nothing, and never everything."""
    if ids is None or ids.shape != tokens.shape:
        return False
    return bool(tokens.any()) and len(np.unique(ids[~tokens])) <= 1


def one_run(tokens: npt.NDArray[np.bool_]) -> bool:
    """Whether the tokens of every example stand together, from the first."""
    return bool(tokens[:, 0].all() and (np.diff(tokens.astype(np.int8), axis=1) <= 0).all())


def keep_mask(zoo: Zoo, masks: Sequence[npt.NDArray[np.bool_] | None], label: str) -> None:
    """Write the mask to a zoo that has none; one that it has must be the same.

    Parameters
    ----------
    zoo : Zoo
    masks : sequence of (example, token) array of bool, or None
        One for each batch.
    label : str
        Name for messages.

    Raises
    ------
    CaptureError
        Where some batches have a mask and others none.
    MismatchedExamplesError
        Where the zoo has another mask.
    """
    found = [mask for mask in masks if mask is not None]
    if not found:
        return
    if len(found) < len(masks):
        raise CaptureError(
            f"{len(found)} of the {len(masks)} batches for {label!r} have a mask of tokens: give it to all"
        )
    if len({mask.shape[1] for mask in found}) > 1:
        # Layers along tokens are refused where they are written; the others have no use for a mask.
        return
    mask = np.concatenate(found)
    there = {name: values for name, values in zoo.coords.items() if values.ndim == 2}
    if any(values.shape == mask.shape and np.array_equal(values.astype(bool), mask) for values in there.values()):
        return
    other = there.get(MASK, next(iter(there.values()), None))
    if other is not None and (MASK in there or other.shape != mask.shape):
        where = f"it has {mask.shape[1]} tokens an example, the zoo's {other.shape[1]}"
        if other.shape == mask.shape:
            first = int(np.argmax((other.astype(bool) != mask).any(axis=1)))
            where = f"the first example to differ is {zoo.examples.tolist()[first]!r}"
        raise MismatchedExamplesError(
            f"the mask of the tokens of {label!r} is not the zoo's: {where}. Feed the same tokens, keep one vector an "
            f"example with pool='mean', 'last' or 'first', or capture into a zoo of its own"
        )
    # Also one that masks nothing: what comes next with another is refused, in whatever order they come.
    if _io.read_attributes(zoo.root, MASK) is not None:
        raise CaptureError(
            f"the mask of the tokens of {label!r} cannot be stored: a model of the zoo is called {MASK!r}, as the mask "
            f"would be. Give the zoo the mask when it is created, under another name"
        )
    add_coord(zoo.root, MASK, mask)
