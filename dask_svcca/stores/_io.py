"""Access to stores, with small reads straight from files where the store is a local directory.

Opening an array through zarr takes about a millisecond, reading a small one another; a tile of 64 x 64 small
representations would spend most of its time on that. A local store is read as the zarr v3 specification lays it out.
Any other store is read through zarr.
"""

from __future__ import annotations

import json
import os
import uuid
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import zarr
import zarr.errors
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore, StorePath

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


from dask_svcca.errors import DaskSvccaError, StoreAccessError, StoreFormatError

_READ_BYTES = os.O_RDONLY | getattr(os, "O_BINARY", 0)
"""Flags to open a file with: otherwise Windows would translate line ends."""

_MOST_BUFFERS = 512
"""Most buffers in one system call; Linux takes up to 1,024."""

StoreLike: TypeAlias = str | os.PathLike[str] | Store | StorePath

_ABSENT = (
    FileNotFoundError,
    NotADirectoryError,
    zarr.errors.GroupNotFoundError,
    zarr.errors.NodeTypeValidationError,
    zarr.errors.ContainsArrayError,
)
"""What zarr raises where there is no group."""


def absolute(store: StoreLike) -> StoreLike:
    """A store's place for a worker, which may have another working directory; URLs and stores stay as they are.

    A leading ``~`` is the home folder, as in a shell.

    Examples
    --------
    >>> absolute("s3://bucket/zoo.zarr"), absolute("/data/zoo.zarr")
    ('s3://bucket/zoo.zarr', '/data/zoo.zarr')
    """
    path = _path_of(store)
    return store if path is None else str(path.absolute())


def is_place(value: object) -> bool:
    """Whether a value says where a store is: a path, a URL, or a zarr store.

    Examples
    --------
    >>> is_place("zoo.zarr"), is_place(Path("zoo.zarr")), is_place({})
    (True, True, False)
    """
    return isinstance(value, str | os.PathLike | Store | StorePath)


def in_memory(store: StoreLike) -> bool:
    """Whether a store is in the memory of this process, where other processes cannot reach it.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> in_memory(MemoryStore()), in_memory("memory://zoo"), in_memory("zoo.zarr")
    (True, True, False)
    """
    if isinstance(store, StorePath):
        return in_memory(store.store)
    if isinstance(store, str | os.PathLike):
        return str(store).startswith("memory:")
    # A file system of fsspec, which may be wrapped to be asynchronous.
    files = getattr(store, "fs", None)
    return isinstance(store, MemoryStore) or "memory" in getattr(getattr(files, "sync_fs", files), "protocol", ())


def folder_of(store: StoreLike) -> Path | None:
    """Folder of a store on the local file system, without links; None for any other."""
    folder = local_folder(store)
    return None if folder is None else folder.resolve()


def is_group(store: StoreLike) -> bool:
    """Whether there is a zarr v3 group, of this package or not.

    Raises
    ------
    StoreAccessError
        Where this cannot be found out, for example for lack of rights.
    """
    try:
        open_group(store, mode="r")
    except _ABSENT:
        return False
    return True


def read_kind(store: StoreLike) -> str:
    """Kind of a store: ``zoo``, ``comparison`` or ``subspaces``."""
    if not is_group(store):
        raise StoreFormatError(f"there is no zarr v3 group at {describe(store)!r}{_why_absent(store)}")
    stored_format = open_group(store, mode="r").attrs.get("format")
    kind = str(stored_format).removeprefix("dask-svcca-")
    if kind not in {"zoo", "comparison", "subspaces"}:
        raise StoreFormatError(
            f"{describe(store)!r} holds neither a zoo nor a comparison nor subspaces: its format is {stored_format!r}"
        )
    return kind


def open_root(store: StoreLike, *, mode: str, kind: str, version: int) -> zarr.Group:
    """Open a store of this package.

    Parameters
    ----------
    store : path, zarr store, or URL
    mode : {"r", "r+"}
    kind : str
        Kind that it must be: ``zoo``, ``comparison`` or ``subspaces``.
    version : int
        The only version of its format that is read.

    Raises
    ------
    StoreFormatError
        Where it is not there, is something else, or is of another version.
    StoreAccessError
        Where it cannot be read.
    """
    noun = "store of subspaces" if kind == "subspaces" else kind
    try:
        root = open_group(store, mode=mode)
    except _ABSENT:
        raise StoreFormatError(
            f"no {noun} at {describe(store)!r}: there is no zarr v3 group{_why_absent(store)}"
        ) from None
    check_root(root, store, kind=kind, version=version)
    return root


def check_root(root: zarr.Group, store: StoreLike, *, kind: str, version: int) -> None:
    """Raise `StoreFormatError` where a group is not a store of a kind in a version; see `open_root`."""
    noun = "store of subspaces" if kind == "subspaces" else kind
    stored_format = root.attrs.get("format")
    if stored_format != f"dask-svcca-{kind}":
        what = f"it says format {stored_format!r}" if stored_format else "it has no 'format' attribute"
        raise StoreFormatError(f"{describe(store)!r} is not a {noun} of dask-svcca: {what}")
    number = root.attrs.get("format_version")
    if not isinstance(number, int) or number > version:
        raise StoreFormatError(
            f"the {noun} at {describe(store)!r} has format version {number!r}; this dask-svcca reads up to {version}. "
            f"Upgrade dask-svcca"
        )
    if number < version:
        raise StoreFormatError(
            f"the {noun} at {describe(store)!r} has format version {number}, which an older dask-svcca wrote, and this "
            f"one reads version {version} only. Make the {noun} anew with this version, or use the older dask-svcca"
        )


def _why_absent(store: StoreLike) -> str:
    """Rest of a sentence that says that there is no store."""
    try:
        with accessing(store):
            zarr.open(absolute(store), mode="r", zarr_format=2)
    except (*_ABSENT, StoreAccessError, ValueError, KeyError, TypeError):
        return ". Is the path right, and was it created?"
    return (
        " but a store of zarr format 2, which zarr before version 3 wrote. This package reads and writes format 3 "
        "only: make it anew from its arrays, zarr.open(..., zarr_format=2)"
    )


def open_array(root: zarr.Group, path: str) -> zarr.Array[Any]:
    """Open an array below a root through zarr, for reading.

    Raises
    ------
    StoreFormatError
        Where this zarr cannot read it, as when a newer one wrote it.
    """
    full = f"{root.path}/{path}".lstrip("/")
    with _understanding(root.store_path / path):
        return zarr.open_array(root.store, path=full, mode="r")


@contextmanager
def _understanding(place: object) -> Iterator[None]:
    """Raise `StoreFormatError` for metadata that this version of zarr does not understand."""
    try:
        yield
    except (*_ABSENT, DaskSvccaError):
        raise
    except (ValueError, TypeError, KeyError, AttributeError, zarr.errors.BaseZarrError) as error:
        raise StoreFormatError(
            f"zarr {zarr.__version__} cannot read the metadata of {str(place)!r} ({type(error).__name__}: {error}). A "
            f"newer zarr may have written it: upgrade zarr; otherwise the file is damaged"
        ) from error


def open_group(store: StoreLike, *, mode: str) -> zarr.Group:
    with accessing(store), _understanding(store):
        folder = local_folder(store)
        if folder is not None:
            # zarr may report a folder that must not be entered as one that is not there.
            (folder / "zarr.json").stat()
        # Consolidated metadata may be older than the store.
        return zarr.open_group(
            absolute(store),
            mode=mode,  # type: ignore[arg-type]
            zarr_format=3,
            use_consolidated=False,
        )


def local_folder(store: StoreLike) -> Path | None:
    """Folder of a store on the local file system, None for any other."""
    if isinstance(store, StorePath):
        above = local_folder(store.store)
        return None if above is None else above / store.path
    if isinstance(store, LocalStore):
        return Path(store.root)
    return _path_of(store)


def _path_of(store: object) -> Path | None:
    """Path that is given as a store, None for a URL or a store itself."""
    if not isinstance(store, str | os.PathLike):
        return None
    # As zarr prints the place of a local store.
    text = os.fspath(store).removeprefix("file://")
    return None if "://" in text else Path(text).expanduser()


@contextmanager
def accessing(place: object) -> Iterator[None]:
    """Raise `StoreAccessError` for an error of the system, unless it says that there is nothing."""
    try:
        yield
    except (*_ABSENT, FileExistsError, StoreAccessError):
        raise
    except OSError as error:
        raise StoreAccessError(
            f"cannot access {str(place)!r}: {error}. Check your rights, and that the disk or network works"
        ) from error


def describe(store: StoreLike) -> str:
    """Short text that names a store in messages and attributes."""
    return str(store)


def directory(group: zarr.Group) -> Path | None:
    """Directory of a group in a local store, None elsewhere."""
    store = group.store
    return Path(store.root) / group.path if isinstance(store, LocalStore) else None


def read_attributes(root: zarr.Group, path: str) -> dict[str, Any] | None:
    """Attributes of a group below a root, None where there is no such group.

    Raises
    ------
    StoreAccessError
        Where it may be there and cannot be read.
    """
    local = directory(root)
    if local is None:
        try:
            with accessing(root.store_path / path):
                node = root[path]
        except KeyError:
            return None
        return dict(node.attrs)
    return _attributes_of(str(local / path))


def _attributes_of(folder: str) -> dict[str, Any] | None:
    """Attributes of the group in a folder, as text: an index reads tens of thousands, and a Path takes as long."""
    file = f"{folder}/zarr.json"
    try:
        with accessing(file), open(file, "rb") as source:  # noqa: PTH123
            text = source.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        attributes: dict[str, Any] = json.loads(text).get("attributes", {})
    except (AttributeError, ValueError):
        # Cut short, or written by something else: what is in this group does not count, and the others do.
        return {}
    return attributes


def walk_attributes(root: zarr.Group, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths and attributes of all groups exactly ``depth`` levels below a root.

    Raises
    ------
    StoreAccessError
        Where a folder on the way cannot be read.
    """
    local = directory(root)
    if local is None:
        # What an interrupted deletion left of an array is not one.
        with accessing(root.store_path), ignoring_strange_folders():
            members = root.members(max_depth=depth)
        for path, node in members:
            if isinstance(node, zarr.Group) and path.count("/") == depth - 1 and not path.startswith("_"):
                yield path, dict(node.attrs)
        return
    stack = [(str(local), "", 0)]
    while stack:
        folder, path, level = stack.pop()
        if level == depth:
            attributes = _attributes_of(folder)
            if attributes is not None:
                yield path, attributes
            continue
        try:
            with accessing(folder), os.scandir(folder) as scanned:
                # Names of ours do not begin so; those of editors and file managers do.
                dirs = (entry for entry in scanned if entry.is_dir() and not entry.name.startswith((".", "_")))
                entries = sorted(dirs, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        stack.extend((entry.path, f"{path}/{entry.name}".lstrip("/"), level + 1) for entry in entries)


def read_ranges(file: str, wanted: Sequence[tuple[int, memoryview]]) -> None:
    """Read ranges of bytes of a file into buffers.

    Parameters
    ----------
    file : str
    wanted : sequence of (int, memoryview)
        Where a range begins, and the buffer that takes it. Adjacent ranges are read in one call.

    Raises
    ------
    OSError
        Where the file is too short.
    """
    descriptor = os.open(file, _READ_BYTES)
    try:
        for offset, views in _consecutive(wanted):
            _read_into(descriptor, views, offset, file)
    finally:
        os.close(descriptor)


def _consecutive(wanted: Sequence[tuple[int, memoryview]]) -> Iterator[tuple[int, list[memoryview]]]:
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


def _read_into(descriptor: int, views: list[memoryview], offset: int, file: str) -> None:
    wanted = offset + sum(view.nbytes for view in views)
    while views:
        count = _read_some(descriptor, views, offset)
        if count == 0:
            raise OSError(f"{file!r} is shorter than the {wanted} bytes that were expected")
        offset += count
        while views and count >= views[0].nbytes:
            count -= views.pop(0).nbytes
        if count:
            views[0] = views[0][count:]


def _read_some(descriptor: int, views: list[memoryview], offset: int) -> int:
    """Read from an offset into the first buffers, and return the number of bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, views[:_MOST_BUFFERS], offset)
    # Windows has no read into several buffers.
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(offset)
        return file.readinto(views[0])


@contextmanager
def ignoring_strange_folders() -> Iterator[None]:
    """Do not warn of folders that are none of zarr's, such as those that notebooks and file managers leave."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object at .* is not recognized as a component of a Zarr hierarchy")
        yield


def consolidate(root: zarr.Group) -> None:
    """Write the metadata of the arrays directly below a root into the root's own.

    Subspaces are left out on purpose: there may be thousands, and nobody opens them from the root.
    """
    local = directory(root)
    if local is None:
        return
    file = local / "zarr.json"
    document = json.loads(file.read_bytes())
    # A folder may be none of zarr's, such as one that a notebook or a file manager left.
    found = sorted(local.glob("*/zarr.json"))
    nodes = {one.parent.name: json.loads(one.read_bytes()) for one in found}
    arrays = {name: node for name, node in nodes.items() if node["node_type"] == "array"}
    # xarray lists dims in the order it finds them, and only the matrices have both.
    matrices_first = dict(sorted(arrays.items(), key=lambda item: -len(item[1]["shape"])))
    document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": matrices_first}
    # Another run may do the same at this time.
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    partial.write_text(json.dumps(document))
    partial.replace(file)
