"""Ranges of bytes of a file, read into buffers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MOST_BUFFERS = 512
"""Most buffers in one system call; Linux takes up to 1,024."""


def consecutive(wanted: Sequence[tuple[int, memoryview]]) -> Iterator[tuple[int, list[memoryview]]]:
    """Buffers of adjacent ranges, and where the first of these begins."""
    offset, end, views = 0, -1, list[memoryview]()
    for start, view in wanted:
        if start != end and views:
            yield offset, views
            views = []
        if not views:
            offset = start
        views.append(view)
        end = start + view.nbytes
    if views:
        yield offset, views


def read_into(descriptor: int, views: list[memoryview], offset: int, file: str) -> None:
    """Fill buffers with the bytes of an open file from an offset on; OSError where it is shorter."""
    wanted = offset + sum(view.nbytes for view in views)
    while views:
        count = _read_some(descriptor, views, offset)
        if count == 0:
            raise too_short(file, wanted)
        offset += count
        while views and count >= views[0].nbytes:
            count -= views.pop(0).nbytes
        if count:
            views[0] = views[0][count:]


class ShortFileError(OSError):
    """A file ends before the bytes that are wanted."""


def too_short(place: str, wanted: int) -> ShortFileError:
    """Error for a file that ends before the bytes that are wanted."""
    return ShortFileError(f"{place!r} is shorter than the {wanted} bytes that were expected")


def _read_some(descriptor: int, views: list[memoryview], offset: int) -> int:
    """Read from an offset into the first buffers, and return the number of bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, views[:_MOST_BUFFERS], offset)
    # Windows has no read into several buffers.
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(offset)
        return file.readinto(views[0])
