"""How a store is created: in a free place, and whole or not at all."""

from __future__ import annotations

import errno
import shutil
import uuid
from typing import TYPE_CHECKING, Any

import zarr
import zarr.errors

from dask_svcca.errors import StoreFormatError
from dask_svcca.stores import _io
from dask_svcca.stores.backend import accessing, creating

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_svcca.stores._io import StoreLike

_STRAY = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that file managers leave in any folder that they show."""

_NOT_BESIDE = frozenset(
    {errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTEMPTY, errno.EEXIST}
)
"""Errors where a folder cannot be replaced, but perhaps written to: a container mounts it, or it has a stray file."""


def create_root(store: StoreLike, attributes: Mapping[str, Any]) -> zarr.Group:
    """Create a group with attributes at the root of an empty store."""
    try:
        check_free(store)
        place = _io.opened(store)
        _io.check_writable(place, store)
        with creating(store):
            return zarr.create_group(place, attributes=dict(attributes), zarr_format=3)
    except (FileExistsError, NotADirectoryError, zarr.errors.ContainsArrayError, zarr.errors.ContainsGroupError):
        raise _taken(store) from None


def create_whole(
    store: StoreLike, kind: str, attributes: Mapping[str, Any], fill: Callable[[zarr.Group], None]
) -> zarr.Group | None:
    """Create a store that is there whole or not at all, and that only one of several processes creates.

    Parameters
    ----------
    store : path, zarr store, or URL
    kind : str
    attributes : mapping
        Attributes of the root, written last.
    fill : callable
        Writes what is below the root; it may be called again after an interruption.

    Returns
    -------
    zarr.Group or None
        None where another process created it in the meantime.

    Raises
    ------
    StoreFormatError
        Where something else is there.
    StoreAccessError
    """
    folder = _io.local_folder(store)
    if is_unfinished(store, kind) or folder is None:
        return _create_in_place(store, kind, attributes, fill)
    try:
        check_free(store)
    except StoreFormatError:
        if _io.is_group(store):
            return None
        raise
    # What a link leads to, and not the link, is replaced.
    folder = folder.resolve()
    # Beside it, on the same file system, so that it can take its place at once.
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        root = zarr.create_group(str(partial), zarr_format=3)
        fill(root)
        root.update_attributes(dict(attributes))
        partial.rename(folder)
    except OSError as error:
        if _io.is_group(store):
            return None
        if error.errno in _NOT_BESIDE and folder.exists():
            return _create_in_place(store, kind, attributes, fill)
        with accessing(store):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _io.open_group(store, mode="r+")


def is_unfinished(store: StoreLike, kind: str) -> bool:
    """Whether a store was begun by `create_whole` where it cannot be created at once, and is not finished."""
    return _io.is_group(store) and _io.open_group(store, mode="r").attrs.get("format") == _unfinished(kind)


def _create_in_place(
    store: StoreLike, kind: str, attributes: Mapping[str, Any], fill: Callable[[zarr.Group], None]
) -> zarr.Group:
    with accessing(store):
        if is_unfinished(store, kind):
            root = _io.open_group(store, mode="r+")
        else:
            root = create_root(store, {"format": _unfinished(kind)})
        fill(root)
        root.update_attributes(dict(attributes))
    return root


def _unfinished(kind: str) -> str:
    return f"dask-svcca-{kind}-unfinished"


def check_free(store: StoreLike) -> None:
    """Raise where there is something other than a group, so that no store can be created there.

    Raises
    ------
    StoreFormatError, StoreAccessError
    """
    folder = _io.local_folder(store)
    with accessing(store):
        if folder is not None:
            if folder.is_dir():
                others = sorted(entry.name for entry in folder.iterdir() if entry.name not in _STRAY)
                if others:
                    raise _taken(store, others[0])
                return
            taken = folder.exists()
        else:
            try:
                zarr.open_array(_io.opened(store), mode="r", zarr_format=3)
            except FileNotFoundError:
                taken = False
            else:
                taken = True
    if taken:
        raise _taken(store)


def _taken(store: StoreLike, other: str = "") -> StoreFormatError:
    if other:
        return StoreFormatError(
            f"there is already something else at {_io.describe(store)!r}: the folder holds {other!r}; choose another "
            f"place, for example a new folder in it"
        )
    return StoreFormatError(f"there is already something else at {_io.describe(store)!r}; choose another place")
