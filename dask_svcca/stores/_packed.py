"""Values of one chunk as they lie in a file: compressed, with a checksum behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numcodecs.vlen
import numcodecs.zstd
import numpy as np

from dask_svcca.stores._documents import CRC_BYTES, crc, is_whole
from dask_svcca.stores._metadata import check_count

if TYPE_CHECKING:
    import numpy.typing as npt

_ZSTD = numcodecs.zstd.Zstd(level=1, checksum=True)
_TEXT = numcodecs.vlen.VLenUTF8()


def is_text(values: npt.NDArray[Any]) -> bool:
    """Whether an array is stored as text."""
    return values.dtype.kind in "OUT"


def packed(values: npt.NDArray[Any]) -> tuple[bytes, bytes]:
    """A chunk of numbers or text, and its checksum.

    Examples
    --------
    >>> unpacked(b"".join(packed(np.array([1.5, 2.5]))), "float64")
    array([1.5, 2.5])
    """
    if is_text(values):
        data = _TEXT.encode(values.astype(object).ravel())
    else:
        data = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    chunk = bytes(_ZSTD.encode(data))
    return chunk, crc(chunk)


def decompressed(chunk: bytes | None) -> bytes:
    """What is in a chunk.

    Raises
    ------
    ValueError
        Where it is missing, or is not what was written.
    """
    if chunk is None or not is_whole(chunk):
        raise ValueError("its chunk is missing, or is not what was written")
    try:
        return bytes(_ZSTD.decode(memoryview(chunk)[:-CRC_BYTES]))
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"its chunk is not compressed as it should be: {error}") from error


def unpacked(chunk: bytes | None, dtype: str) -> npt.NDArray[Any]:
    """Values of a chunk, (value,), not to be changed; text as objects.

    Raises
    ------
    ValueError
        Where it is missing, or is not what was written.
    """
    data = decompressed(chunk)
    if dtype == "string":
        check_count(data)
        texts: npt.NDArray[Any] = _TEXT.decode(data)
        return texts
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
