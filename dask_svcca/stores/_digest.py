"""Digests of what a zoo holds: they tell activations that changed, and chunks that are damaged. Not for secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

DIGEST = "xxh3-128"
"""The hash behind all of them, as a zoo's attributes name it."""


def chunk_digest(chunk: npt.NDArray[Any]) -> bytes:
    """Digest of one chunk of activations, as it is stored and as it is read: of its shape, its type and its values.

    Examples
    --------
    >>> chunk = np.arange(8, dtype="float32").reshape(4, 2)
    >>> chunk_digest(chunk).hex()
    '787906e2a65975c5fcb8cd53de70b7cc'
    >>> chunk_digest(chunk.reshape(4, 1, 2)) == chunk_digest(chunk)
    False
    """
    found = xxhash.xxh3_128(f"{chunk.dtype.name} {chunk.shape}".encode())
    found.update(np.ascontiguousarray(chunk).data)
    return found.digest()


def combined_digest(digests: Iterable[bytes]) -> str:
    """Digest of a representation from those of its chunks, in order."""
    return xxhash.xxh3_128_hexdigest(b"".join(digests))


def ids_digest(ids: npt.NDArray[Any]) -> str:
    """Digest of the ids of examples, which tells other examples, and the same in another order."""
    return xxhash.xxh3_128_hexdigest("\0".join(map(str, ids)).encode())
