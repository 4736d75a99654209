"""What else is in a local store: links never lead to what is written or removed, and files may be in the way."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dask_svcca.errors import StoreAccessError

if TYPE_CHECKING:
    from collections.abc import Iterator


WAITS = (0.01, 0.05, 0.2, 0.5)
"""Seconds between attempts to replace a file that another process has open."""


def path_to_write(folder: str, key: str) -> str:
    """Path of a key below a folder, where no folder on the way is a link that leads out.

    Raises
    ------
    StoreAccessError
    """
    path = folder
    # The last part is replaced as it is, a link too.
    for part in key.split("/")[:-1]:
        path = f"{path}{os.sep}{part}"
        if os.path.islink(path):  # noqa: PTH114
            refuse_outside(folder, path)
    return f"{folder}{os.sep}{key.replace('/', os.sep)}" if key else folder


def refuse_outside(folder: str, path: str) -> None:
    """Raise where a path below a folder leads out of it.

    Raises
    ------
    StoreAccessError
    """
    target = os.path.realpath(path)
    if Path(os.path.realpath(folder)) not in Path(target).parents:
        raise StoreAccessError(
            f"{path!r} is a link that leads out of the store, to {target!r}: nothing is written or removed there. "
            f"Move what it leads to to the place of the link"
        )


def refuse_links(folder: str) -> None:
    """Raise where an array below a folder, or its chunks, are in a place that a link leads to.

    Raises
    ------
    StoreAccessError
    """
    with os.scandir(folder) as scanned:
        names = [entry.path for entry in scanned if entry.is_symlink() or entry.is_dir()]
    for path in names:
        for part in (path, os.path.join(path, "c")):  # noqa: PTH118
            if os.path.islink(part):  # noqa: PTH114
                refuse_outside(folder, part)


@contextmanager
def nothing_in_the_way(path: str) -> Iterator[None]:
    """Raise `StoreAccessError` where a file is in the place of a folder, or a folder in that of a file.

    Otherwise it would be taken for a sign that there is nothing.
    """
    try:
        yield
    except (NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise StoreAccessError(
            f"cannot write {path!r}: something else is in its way ({error}). Remove what is not of the store"
        ) from error


def under_other_case(folder: str, key: str) -> str | None:
    """What a folder calls a key that it has by a name in other letters, upper or lower case; None where it does not.

    Disks of Windows and macOS take ``fc`` and ``FC`` for one name.
    """
    path = folder
    for part in key.split("/"):
        within = os.path.join(path, part)  # noqa: PTH118
        if not os.path.lexists(within):
            return None
        names = os.listdir(path)  # noqa: PTH208 - text
        if part not in names:
            return next((name for name in names if name.casefold() == part.casefold()), None)
        path = within
    return None


def replace_file(source: str, target: str) -> None:
    """Put a file in the place of another; on Windows, once nobody has that open any more.

    Raises
    ------
    OSError
    """
    for seconds in (*WAITS, None):
        try:
            os.replace(source, target)  # noqa: PTH105
        except PermissionError as error:
            # "Access is denied" and "used by another process", of Windows alone.
            if seconds is None or getattr(error, "winerror", None) not in {5, 32}:
                raise
            time.sleep(seconds)
        else:
            return


def link_file(source: str, target: str) -> None:
    """Give a file another name, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove_tree(path: str) -> None:
    """Remove a folder, a file, or a link, but not what it leads to.

    Raises
    ------
    FileNotFoundError
    """
    if os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH112, PTH114
        Path(path).unlink()
    else:
        shutil.rmtree(path)
