"""Small reads that would drown in bookkeeping: straight from files where the store is a local directory.

Opening an array through zarr takes about a millisecond, reading a small one another; a tile of 64 x 64 small
representations would spend most of its time so. A local store is read as the zarr v3 specification lays it out.
Any other store is read through zarr.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import zarr
import zarr.errors
from zarr.abc.store import Store
from zarr.storage import LocalStore, StorePath

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


from dask_svcca.errors import StoreFormatError

_MOST_BUFFERS = 512
"""Buffers handed to one system call; Linux takes up to 1,024."""

StoreLike: TypeAlias = str | os.PathLike[str] | Store | StorePath

_NO_GROUP = (zarr.errors.GroupNotFoundError, zarr.errors.NodeTypeValidationError, zarr.errors.ContainsArrayError)


def create_root(store: StoreLike, attributes: Mapping[str, Any]) -> zarr.Group:
    """Create a group with attributes at the root of an empty store."""
    try:
        return zarr.create_group(store, attributes=dict(attributes), zarr_format=3)
    except (FileExistsError, NotADirectoryError, zarr.errors.ContainsArrayError, zarr.errors.ContainsGroupError):
        raise StoreFormatError(
            f"there is something at {describe(store)!r} already, and it is not ours; choose another place"
        ) from None


def is_group(store: StoreLike) -> bool:
    """Whether there is a zarr v3 group, ours or not."""
    try:
        zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
    except (OSError, *_NO_GROUP):
        return False
    return True


def read_kind(store: StoreLike) -> str:
    """Which of our stores one is: ``zoo`` or ``comparison``."""
    if not is_group(store):
        raise StoreFormatError(f"there is no zarr v3 group at {describe(store)!r}. Is the path right?")
    found = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False).attrs.get("format")
    kind = str(found).removeprefix("dask-svcca-")
    if kind not in {"zoo", "comparison"}:
        raise StoreFormatError(f"{describe(store)!r} is neither a zoo nor a comparison: its format is {found!r}")
    return kind


def open_root(store: StoreLike, *, mode: str, kind: str, version: int) -> zarr.Group:
    """Open a store of ours, or say what is wrong with it."""
    try:
        # What was consolidated may be older than what is there.
        root = zarr.open_group(store, mode=mode, zarr_format=3, use_consolidated=False)  # type: ignore[arg-type]
    except (FileNotFoundError, NotADirectoryError, *_NO_GROUP):
        raise StoreFormatError(
            f"no {kind} at {describe(store)!r}: there is no zarr v3 group. Is the path right, and was the {kind} "
            f"created?"
        ) from None
    found = root.attrs.get("format")
    if found != f"dask-svcca-{kind}":
        what = f"it says format {found!r}" if found else "it has no 'format' attribute"
        raise StoreFormatError(f"{describe(store)!r} is not a {kind} of dask-svcca: {what}")
    number = root.attrs.get("format_version")
    if not isinstance(number, int) or number > version:
        raise StoreFormatError(
            f"the {kind} at {describe(store)!r} has format version {number!r}; this dask-svcca reads up to {version}. "
            f"Upgrade dask-svcca"
        )
    return root


def describe(store: StoreLike) -> str:
    """Short text that names a store in messages and attributes."""
    return str(store)


def directory(group: zarr.Group) -> Path | None:
    """Directory of a group in a local store, None elsewhere."""
    store = group.store
    return Path(store.root) / group.path if isinstance(store, LocalStore) else None


def read_attributes(root: zarr.Group, path: str) -> dict[str, Any] | None:
    """Attributes of a group below a root, None where there is no such group."""
    local = directory(root)
    if local is None:
        try:
            node = root[path]
        except KeyError:
            return None
        return dict(node.attrs)
    try:
        text = (local / path / "zarr.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    attributes: dict[str, Any] = json.loads(text).get("attributes", {})
    return attributes


def walk_attributes(root: zarr.Group, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths and attributes of all groups exactly ``depth`` levels below a root."""
    local = directory(root)
    if local is None:
        for path, node in root.members(max_depth=depth):
            if path.count("/") == depth - 1 and isinstance(node, zarr.Group):
                yield path, dict(node.attrs)
        return
    stack = [(local, "", 0)]
    while stack:
        folder, path, level = stack.pop()
        if level == depth:
            attributes = read_attributes(root, path)
            if attributes is not None:
                yield path, attributes
            continue
        try:
            entries = sorted((entry for entry in os.scandir(folder) if entry.is_dir()), key=lambda e: e.name)
        except FileNotFoundError:
            continue
        stack.extend((Path(entry.path), f"{path}/{entry.name}".lstrip("/"), level + 1) for entry in entries)


def read_runs(file: str, wanted: Sequence[tuple[int, memoryview]]) -> None:
    """Read runs of bytes of a file into buffers.

    Parameters
    ----------
    file : str
    wanted : sequence of (int, memoryview)
        Where a run begins, and the buffer that takes it. Runs that follow one another are read in one call.

    Raises
    ------
    OSError
        Where the file ends before.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        for offset, views in _consecutive(wanted):
            _read_into(descriptor, views, offset, file)
    finally:
        os.close(descriptor)


def _consecutive(wanted: Sequence[tuple[int, memoryview]]) -> Iterator[tuple[int, list[memoryview]]]:
    """Buffers of runs that follow one another, and where the first of them begins."""
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
        count = os.preadv(descriptor, views[:_MOST_BUFFERS], offset)
        if count == 0:
            raise OSError(f"{file!r} has {offset} bytes where {wanted} were expected")
        offset += count
        while views and count >= views[0].nbytes:
            count -= views.pop(0).nbytes
        if count:
            views[0] = views[0][count:]


def consolidate(root: zarr.Group) -> None:
    """Write the metadata of the arrays directly below a root into the root's own.

    Subspaces are left out on purpose: there may be thousands, and nobody opens them from the root.
    """
    local = directory(root)
    if local is None:
        return
    file = local / "zarr.json"
    document = json.loads(file.read_bytes())
    names = sorted(entry.name for entry in os.scandir(local) if entry.is_dir())
    nodes = {name: json.loads((local / name / "zarr.json").read_bytes()) for name in names}
    arrays = {name: node for name, node in nodes.items() if node["node_type"] == "array"}
    # xarray lists dims in the order it meets them: the matrices have them in the right one.
    matrices_first = dict(sorted(arrays.items(), key=lambda item: -len(item[1]["shape"])))
    document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": matrices_first}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(document))
    partial.replace(file)
