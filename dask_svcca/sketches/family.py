"""What the numbers of a sketch hang on: the ids of the examples, a seed and a size, so that anyone makes the same."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels.sketch import Words

FAMILY: Final = "fourier-2x-1"
"""Name of the hash family and its version; `.github/docs/explanation/sketches.md` specifies it."""

MEASURES: Final = ("cka", "overlap")
"""What products of sketches estimate: linear CKA, or the overlap of subspaces, tr(P_a P_b) / sqrt(k l)."""

LEAST_SIZE: Final = 64


@dataclass(frozen=True, slots=True)
class Family:
    """Which numbers a sketch has.

    Attributes
    ----------
    size : int
        Numbers of a layer, even.
    seed : int
        From 0 to 2**64 - 1.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> Family(size=-1)
    Traceback (most recent call last):
    ValueError: size is how many numbers a sketch has, an even number from 64 on; got -1
    """

    size: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name, says in (
            ("size", f"how many numbers a sketch has, an even number from {LEAST_SIZE} on"),
            ("seed", "a whole number from 0 to 2**64 - 1"),
        ):
            value = getattr(self, name)
            try:
                number = -1 if isinstance(value, bool) else operator.index(value)
            except TypeError:
                number = -1
            good = 0 <= number < 2**64 if name == "seed" else LEAST_SIZE <= number <= 2**24 and number % 2 == 0
            if not good:
                raise ValueError(f"{name} is {says}; got {value!r}")
            object.__setattr__(self, name, number)


def words_of(ids: npt.NDArray[Any]) -> Words:
    """Words of examples: XXH3 (64 bits) of the text of each id in UTF-8, whatever its type.

    Examples
    --------
    >>> words_of(np.array([0, 1])) == words_of(np.array(["0", "1"], dtype=object))
    array([ True,  True])
    """
    return np.array([xxhash.xxh3_64_intdigest(str(one).encode()) for one in ids.tolist()], dtype=np.uint64)


def digest_of(words: Words) -> str:
    """Digest of a set of examples, in any order: XXH3 (128 bits) of their words, sorted, with the lowest byte first.

    Examples
    --------
    >>> digest_of(words_of(np.arange(3))) == digest_of(words_of(np.array([2, 0, 1])))
    True
    """
    return xxhash.xxh3_128_hexdigest(np.sort(words).astype("<u8").tobytes())


def order_of(words: Words) -> str:
    """Digest of a set of examples in their order, beside `digest_of`.

    Examples
    --------
    >>> order_of(words_of(np.arange(3))) == order_of(words_of(np.array([2, 0, 1])))
    False
    """
    return xxhash.xxh3_128_hexdigest(words.astype("<u8").tobytes())


def mask_digest_of(words: Words, mask: npt.NDArray[np.bool_]) -> str:
    """Digest of what a mask, (example, token), says of each example, whatever their order.

    Examples
    --------
    >>> words, mask = words_of(np.arange(3)), np.array([[True, True], [True, False], [True, False]])
    >>> mask_digest_of(words, mask) == mask_digest_of(words[::-1], mask[::-1])
    True
    """
    return xxhash.xxh3_128_hexdigest(f"{mask.shape}".encode() + np.packbits(mask[np.argsort(words)]).tobytes())
