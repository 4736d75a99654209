"""How a store is created: in a free place, and whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from typing import TYPE_CHECKING, Any, cast

import xxhash
import zarr
import zarr.errors
from zarr.storage import LocalStore, StorePath

from dask_svcca import machine
from dask_svcca.errors import StoreFormatError
from dask_svcca.stores import _io
from dask_svcca.stores._access import accessing, creating
from dask_svcca.stores._exclusive import PARTIAL, age_of_file
from dask_svcca.stores.backend import backend_at, backend_of
from dask_svcca.stores.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from zarr.abc.store import Store

    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.backend import Backend

_STRAY = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that file managers leave in any folder that they show."""

_NOT_BESIDE = frozenset(
    {errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTEMPTY, errno.EEXIST}
)
"""Errors where a folder cannot be replaced, but perhaps written to: a container mounts it, or it has a stray file."""


_MADE = re.compile(rf"(\w+)-(\d+)-(\w+)\.\w+{re.escape(PARTIAL)}")
"""Rest of the name of a folder in which a process makes a store: see `_maker`."""

_DEAD_AFTER = 24 * 3600
"""Seconds after which a store that another machine is creating, and has not finished, is given up."""


def create_root(store: StoreLike, attributes: Mapping[str, Any]) -> zarr.Group:
    """Create a group with attributes at the root of an empty store, which only one of several processes does."""
    try:
        check_free(store)
        _io.check_writable(_io.opened(store), store)
        with creating(store):
            document = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
            if not _backend_at(store).create("zarr.json", json.dumps(document).encode()):
                raise _taken(store)
    except (FileExistsError, NotADirectoryError, zarr.errors.ContainsArrayError, zarr.errors.ContainsGroupError):
        raise _taken(store) from None
    return _io.open_group(store, mode="r+")


def _backend_at(store: StoreLike) -> Backend:
    """The bytes of a store that may not be there yet."""
    folder = _io.local_folder(store)
    if folder is not None:
        return backend_at(LocalStore(folder))
    place = _io.opened(store)
    if isinstance(place, StorePath):
        return backend_at(place.store, place.path)
    return backend_at(cast("Store", place))


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
    _sweep(folder)
    partial = folder.with_name(f".{folder.name}.{_maker()}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        root = zarr.create_group(str(partial), zarr_format=3)
        fill(root)
        if attributes:
            _io.set_attributes(root, {**root.attrs, **attributes})
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
    return has_begun(_io.group_at(store), kind)


def has_begun(root: zarr.Group | None, kind: str) -> bool:
    """Whether a group, if there is any, was begun by `create_whole` in its place, and is not finished."""
    return root is not None and root.attrs.get("format") == _unfinished(kind)


def _maker() -> str:
    """Name of this process, which no other has."""
    return f"{xxhash.xxh3_64_hexdigest(machine.host().encode())}-{os.getpid()}-{machine.process_start(os.getpid())}"


def _sweep(folder: Path) -> None:
    """Remove what processes left that were stopped while they made the same store."""
    if not folder.parent.is_dir():
        return
    start = f".{folder.name}."
    for beside in folder.parent.iterdir():
        match = _MADE.fullmatch(beside.name.removeprefix(start)) if beside.name.startswith(start) else None
        if match is None:
            continue
        here, process, started = match[1] == _maker().partition("-")[0], int(match[2]), match[3]
        try:
            dead = machine.process_start(process) != started if here else age_of_file(str(beside)) > _DEAD_AFTER
        except FileNotFoundError:
            continue
        if dead:
            shutil.rmtree(beside, ignore_errors=True)


def _create_in_place(
    store: StoreLike, kind: str, attributes: Mapping[str, Any], fill: Callable[[zarr.Group], None]
) -> zarr.Group | None:
    with accessing(store):
        if not is_unfinished(store, kind):
            try:
                create_root(store, {"format": _unfinished(kind)})
            except StoreFormatError:
                # Where another process was faster, it may have finished too.
                if not _io.is_group(store):
                    raise
        root = _io.open_group(store, mode="r+")
        creation = Lease(backend_of(root), ".creating", f"the new {kind} {_io.describe(store)!r}", "Wait for it")
        creation.take(wait=True)
        try:
            if not is_unfinished(store, kind):
                return None
            fill(root)
            if attributes:
                _io.set_attributes(root, {**root.attrs, **attributes})
        finally:
            creation.release()
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
            except (FileNotFoundError, zarr.errors.NodeTypeValidationError):
                # A group that another process has made since somebody looked is no obstacle: whoever makes it sees it.
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
