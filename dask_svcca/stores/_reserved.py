"""Room on the disk for a file that is about to be written."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_UNABLE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EINTR}
"""What says that a file system, or this system, cannot; the file is written without."""


def _load() -> Callable[[int, int, int, int], int] | None:
    """The system call of Linux: where a file system lacks it, `os.posix_fallocate` writes a byte into each block."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    call.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = call
    return found


_FALLOCATE = _load()


def reserve(descriptor: int, size: int) -> None:
    """Give room to an open file that will take the place of another, where the file system can.

    ext4 sends a file to the disk at once, within the call that renames it, if it takes another's place and has no room
    yet: that takes three times as long as to write it, and one thread waits for the other. What is lost without it,
    where the power fails soon after, checksums find.

    Parameters
    ----------
    descriptor : int
    size : int
        Bytes, at least one.

    Raises
    ------
    OSError
        Where there is no room.
    """
    if _FALLOCATE is not None and _FALLOCATE(descriptor, 0, 0, size):
        error = ctypes.get_errno()
        if error not in _UNABLE:
            raise OSError(error, os.strerror(error))
