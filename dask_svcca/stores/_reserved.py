"""Room on the disk for a file that is about to be written."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_KEEP_SIZE = 1
"""The file is as long as what is written of it, as of a file without: whatever the power leaves of it is cut short."""


def _load() -> Callable[[int, int, int, int], int] | None:
    """The system call of Linux: where a file system lacks it, `os.posix_fallocate` writes a byte into each block."""
    # Where a long has 32 bits, C libraries differ in how many an offset has.
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_long) < 8:
        return None
    try:
        call = ctypes.CDLL(None).fallocate
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    call.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = call
    return found


_FALLOCATE = _load()


def reserve(descriptor: int, size: int) -> bool:
    """Give room to an open file that will take the place of another, where the file system can.

    ext4 sends a file to the disk at once, within the call that renames it, if it takes another's place and has no room
    yet: that takes three times as long as to write it, and one thread waits for the other. Without that, where the
    power fails soon after, the file is cut short, and what it replaced is lost: a block is made anew, since its size
    tells, but a store without its document cannot be opened.

    Parameters
    ----------
    descriptor : int
    size : int
        Bytes, at least one: no more than will be written.

    Returns
    -------
    bool
        Whether it has. Where it has not, writing says why, or works: some network file systems have errors of their
        own, and those that compress need less.
    """
    return _FALLOCATE is not None and _FALLOCATE(descriptor, _KEEP_SIZE, 0, size) == 0
