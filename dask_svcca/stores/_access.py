"""What fails where a store is reached: what says that there is nothing, and what becomes a sentence."""

from __future__ import annotations

import asyncio
import errno
import lzma
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import zarr.errors
from zarr.core.sync import sync

from dask_svcca.errors import DamagedStoreError, DaskSvccaError, StoreAccessError

if TYPE_CHECKING:
    from collections.abc import Iterator

ABSENT = (
    FileNotFoundError,
    NotADirectoryError,
    zarr.errors.GroupNotFoundError,
    zarr.errors.NodeTypeValidationError,
    zarr.errors.ContainsArrayError,
)
"""What is raised where there is nothing, or no group."""

UNREADABLE = (
    OSError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    zarr.errors.BaseZarrError,
    DamagedStoreError,
)
"""What is raised for a chunk or metadata that is missing, damaged, or of a codec that is not installed.

Libraries that decode it trust it: numbers that are text, or sizes beyond memory, fail wherever they are first used.
"""

_OF_ARCHIVES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)
"""What is raised for a zipped store that is damaged; the last where a byte names another compression."""

# Windows has no quotas by that name.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def _remedy(error: OSError) -> str:
    if error.errno in _FULL:
        return "Nothing that is finished is lost: free some space, and do the same again"
    if error.errno == errno.EROFS:
        return "It can only be read: write to another place, or make this one writable"
    return "Check your rights, and that the disk or network works"


@contextmanager
def accessing(place: object) -> Iterator[None]:
    """Raise `StoreAccessError` for an error of the system or a service, unless it says that there is nothing."""
    try:
        yield
    except (*ABSENT, FileExistsError, DaskSvccaError):
        raise
    except OSError as error:
        raise StoreAccessError(f"cannot access {str(place)!r}: {error}. {_remedy(error)}") from error
    except _OF_ARCHIVES as error:
        raise StoreAccessError(f"cannot read {str(place)!r}: {error}. The archive is damaged: zip it again") from error
    except Exception as error:
        if isinstance(error, RuntimeError) and "encrypted" in str(error):
            raise StoreAccessError(f"cannot read {str(place)!r}: {error}. Zip it again, without a password") from error
        # Errors of obstore, an optional package, derive from nothing else.
        if not type(error).__module__.startswith("obstore"):
            raise
        said = str(error).split("Debug source:")[0].strip()
        raise StoreAccessError(
            f"cannot access {str(place)!r}: {said}. Check the endpoint, your credentials and rights, and that the "
            f"network works"
        ) from error


@contextmanager
def creating(place: object) -> Iterator[None]:
    """As `accessing`, where there is nothing yet: that even less is there, such as a bucket, is an error too."""
    try:
        with accessing(place):
            yield
    except FileNotFoundError as error:
        said = str(error).split("<?xml")[0].split("Debug source:")[0].strip()
        raise StoreAccessError(f"cannot write to {str(place)!r}: {said}. Is the bucket or container there?") from error


def let_requests_end(seconds: float = 5.0) -> None:
    """Wait for requests that zarr has begun, and that nobody waits for since one of them failed.

    A process that ends before them would print a traceback for each.
    """

    async def wait() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=seconds)

    sync(wait())
