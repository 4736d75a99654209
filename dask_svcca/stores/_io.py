"""Access to stores: where they are, what they are, and the attributes of their groups."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import zarr
import zarr.errors
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore, StorePath, ZipStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


from dask_svcca.errors import DamagedStoreError, StoreAccessError, StoreFormatError, did_you_mean
from dask_svcca.stores._access import ABSENT, UNREADABLE, accessing
from dask_svcca.stores._documents import SEAL, is_sealed, parse, parsed, sealed, unsealed
from dask_svcca.stores._links import refuse_links
from dask_svcca.stores._metadata import check_attributes, understanding
from dask_svcca.stores._urls import store_of_url
from dask_svcca.stores.backend import backend_of

StoreLike: TypeAlias = str | os.PathLike[str] | Store | StorePath


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


def opened(store: StoreLike) -> StoreLike:
    """What zarr is given for a store: a path made absolute, a service's store for its URL, a zipped store to read.

    See `store_of_url` for URLs.

    Raises
    ------
    StoreAccessError, StoreFormatError
    """
    if isinstance(store, str) and _path_of(store) is None:
        return store_of_url(store)
    path = _path_of(store)
    if path is not None and _is_zip(path):
        return ZipStore(path.absolute(), mode="r")
    return absolute(store)


def _is_zip(path: Path) -> bool:
    return path.suffix == ".zip" and path.is_file()


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
    return group_at(store) is not None


def group_at(store: StoreLike) -> zarr.Group | None:
    """The group that is there, open for reading; None where there is none. See `is_group` for errors."""
    try:
        return open_group(store, mode="r")
    except ABSENT:
        return None


def read_kind(store: StoreLike) -> str:
    """Kind of a store: ``zoo``, ``comparison``, ``subspaces`` or ``sketches``."""
    root = group_at(store)
    if root is None:
        raise StoreFormatError(f"there is no zarr v3 group at {describe(store)!r}{_why_absent(store)}")
    stored_format = root.attrs.get("format")
    kind = str(stored_format).removeprefix("dask-svcca-")
    _refuse_unfinished(store, stored_format)
    if kind not in {"zoo", "comparison", "subspaces", "sketches"}:
        raise StoreFormatError(
            f"{describe(store)!r} holds neither a zoo nor a comparison nor subspaces nor sketches: its format is "
            f"{stored_format!r}"
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
    noun = f"store of {kind}" if kind in {"subspaces", "sketches"} else kind
    try:
        root = open_group(store, mode=mode)
    except ABSENT:
        raise StoreFormatError(
            f"no {noun} at {describe(store)!r}: there is no zarr v3 group{_why_absent(store)}"
        ) from None
    check_root(root, store, kind=kind, version=version)
    if mode != "r" and kind != "zoo" and (folder := local_folder(store)) is not None:
        # What a zoo holds is written by this package alone, which looks each time.
        refuse_links(str(folder))
    return root


def _refuse_unfinished(store: StoreLike, stored_format: object) -> None:
    if str(stored_format).startswith("dask-svcca-") and str(stored_format).endswith("-unfinished"):
        raise StoreFormatError(
            f"{describe(store)!r} was stopped while it was created, and holds nothing yet: do again what creates it"
        )


def check_root(root: zarr.Group, store: StoreLike, *, kind: str, version: int) -> None:
    """Raise `StoreFormatError` where a group is not a store of a kind in a version; see `open_root`."""
    noun = f"store of {kind}" if kind in {"subspaces", "sketches"} else kind
    stored_format = root.attrs.get("format")
    _refuse_unfinished(store, stored_format)
    if stored_format != f"dask-svcca-{kind}":
        what = f"it says format {stored_format!r}" if stored_format else "it has no 'format' attribute"
        raise StoreFormatError(f"{describe(store)!r} is not a {noun} of dask-svcca: {what}")
    number = root.attrs.get("format_version")
    if not isinstance(number, int) or isinstance(number, bool) or number > version:
        raise StoreFormatError(
            f"the {noun} at {describe(store)!r} has format version {number!r}; this dask-svcca reads up to {version}. "
            f"Upgrade dask-svcca"
        )
    if number < version:
        raise StoreFormatError(
            f"the {noun} at {describe(store)!r} has format version {number}, which an older dask-svcca wrote, and this "
            f"one reads version {version} only. Make the {noun} anew with this version, or use the older dask-svcca"
        )
    check_attributes(root.attrs, kind, describe(store))
    if kind == "sketches" and SEAL not in root.attrs:
        raise StoreFormatError(
            f"{describe(store)!r} is a Dataset that xarray saved, or another program, and not a store of sketches: "
            f"search, estimates and merge_sketches take it as xarray.open_zarr opens it, and "
            f"merge_sketches(..., store=) or export_sketches keeps sketches as a store or a file"
        )
    if not is_sealed(dict(root.attrs)):
        raise DamagedStoreError(
            f"the attributes of the {noun} at {describe(store)!r} are not what was written: its file 'zarr.json' is "
            f"damaged. Restore that file from a copy, or make the {noun} anew"
        )


def _why_absent(store: StoreLike) -> str:
    """Rest of a sentence that says that there is no store."""
    path = _path_of(store)
    if path is not None and path.suffix == ".nc" and path.is_file():
        return (
            " but a file of netCDF. Questions about the values of a comparison that was saved so take it as "
            "xarray.open_dataset opens it; for all else, give the path of the comparison itself"
        )
    try:
        with accessing(store):
            zarr.open(opened(store), mode="r", zarr_format=2)
    except UNREADABLE:
        return _where_it_may_be(path)
    return (
        " but a store of zarr format 2, which zarr before version 3 wrote. This package reads and writes format 3 "
        "only: make it anew from its arrays, zarr.open(..., zarr_format=2)"
    )


def _where_it_may_be(path: Path | None) -> str:
    """What to look at where there is no store: one of nearly that name beside it, or the folder that was searched."""
    if path is None:
        return ". Is the path right, and was it created?"
    beside: list[str] = []
    with suppress(OSError):
        beside = [one.parent.name for one in path.absolute().parent.glob("*/zarr.json")]
    searched = "" if path.is_absolute() else f", seen from the folder {str(Path.cwd())!r}"
    return did_you_mean(path.name, beside) or f". Is the path right{searched}, and was it created?"


def open_group(store: StoreLike, *, mode: str) -> zarr.Group:
    if not is_place(store):
        raise StoreFormatError(
            f"a store is given by its path, its URL, or as a store of zarr; got {type(store).__name__}"
        )
    with accessing(store), understanding(store):
        folder = local_folder(store)
        if folder is not None:
            # zarr may report a folder that must not be entered as one that is not there.
            (folder / "zarr.json").stat()
        place = opened(store)
        if mode != "r":
            check_writable(place, store)
        if folder is not None and isinstance(place, str) and (group := _group_in(Path(place), mode)) is not None:
            return group
        # Consolidated metadata may be older than the store.
        return zarr.open_group(
            place,
            mode=mode,  # type: ignore[arg-type]
            zarr_format=3,
            use_consolidated=False,
        )


def _group_in(folder: Path, mode: str) -> zarr.Group | None:
    """The group of a folder, by its file of metadata: zarr takes ten times as long, and commands open some.

    None where zarr is to say what is wrong.
    """
    try:
        document = parse((folder / "zarr.json").read_bytes())
        if (document["node_type"], document["zarr_format"]) != ("group", 3):
            return None
        document.pop("consolidated_metadata", None)
        return zarr.Group(zarr.AsyncGroup.from_dict(StorePath(LocalStore(folder, read_only=mode == "r")), document))
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def check_writable(place: StoreLike, store: StoreLike) -> None:
    """Refuse a store that cannot be written to by several processes, or at all.

    Parameters
    ----------
    place : path, zarr store
        As it was opened.
    store : path, zarr store, or URL
        As it was given, for the message.

    Raises
    ------
    StoreAccessError
    """
    holder = place.store if isinstance(place, StorePath) else place
    if getattr(holder, "read_only", False):
        raise StoreAccessError(f"{describe(store)!r} can only be read: it is zipped, or was opened for reading")
    if type(holder).__module__.startswith("icechunk"):
        raise StoreAccessError(
            f"{describe(store)!r} is a writable session of icechunk, which cannot be sent to workers (it is not "
            f"pickled) and loses what is not committed. Write into a folder or a bucket, and commit a copy of it"
        )


def is_writable(store: StoreLike) -> bool:
    """Whether a store may be written to, as far as can be told before it is: false for one that is zipped."""
    place = opened(store)
    folder = local_folder(store)
    if folder is not None:
        return not folder.exists() or os.access(folder, os.W_OK)
    return not getattr(place, "read_only", False)


def local_folder(store: StoreLike) -> Path | None:
    """Folder of a store on the local file system, None for any other."""
    if isinstance(store, StorePath):
        above = local_folder(store.store)
        return None if above is None else above / store.path
    if isinstance(store, LocalStore):
        return Path(store.root)
    path = _path_of(store)
    return None if path is None or _is_zip(path) else path


def _path_of(store: object) -> Path | None:
    """Path that is given as a store, None for a URL or a store itself."""
    if not isinstance(store, str | os.PathLike):
        return None
    # As zarr prints the place of a local store.
    text = os.fspath(store).removeprefix("file://")
    if "://" in text:
        return None
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise StoreAccessError(f"there is no home folder for {text!r}; give the whole path") from None


def describe(store: StoreLike) -> str:
    """Short text that names a store in messages and attributes."""
    return str(store)


def read_attributes(root: zarr.Group, path: str) -> dict[str, Any] | None:
    """Attributes of a group below a root, None where there is no such group; empty where they are damaged.

    Raises
    ------
    StoreAccessError
        Where it may be there and cannot be read.
    """
    return read_attributes_of(root, [path])[0]


def read_attributes_of(root: zarr.Group, paths: Sequence[str]) -> list[dict[str, Any] | None]:
    """Attributes of several groups below a root, as `read_attributes` gives them."""
    documents = backend_of(root).read_many([f"{path}/zarr.json" for path in paths])
    return [None if document is None else attributes_in(document) for document in documents]


def attributes_in(document: bytes) -> dict[str, Any]:
    """Attributes of the document of a group; empty where it is damaged."""
    # Damaged, or written by something else: what is in this group does not count, and the others do.
    found = parsed(document)
    return {} if found is None else unsealed(found["attributes"])


def walk_attributes(root: zarr.Group, depth: int, *, below: str = "") -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Paths and attributes of all groups exactly ``depth`` levels below a root, or below a path in it.

    Empty attributes where they are damaged, and None where a folder has none.

    Raises
    ------
    StoreAccessError
        Where a folder on the way cannot be read.
    """
    backend = backend_of(root)
    paths = [below]
    for _ in range(depth):
        named = zip(paths, backend.names_many(paths), strict=True)
        paths = [f"{path}/{name}".lstrip("/") for path, names in named for name in names]
    documents = backend.read_many([f"{path}/zarr.json" for path in paths])
    for path, document in zip(paths, documents, strict=True):
        yield path, None if document is None else attributes_in(document)


@contextmanager
def ignoring_strange_folders() -> Iterator[None]:
    """Do not warn of folders that are none of zarr's, such as those that notebooks and file managers leave."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object at .* is not recognized as a component of a Zarr hierarchy")
        yield


def arrays_of(root: zarr.Group) -> dict[str, dict[str, Any]]:
    """Metadata of the arrays directly below a root, by name; what is none of ours, or not readable, is left out."""
    backend = backend_of(root)
    # A folder may be none of zarr's, such as one that a notebook or a file manager left.
    names = backend.names("")
    found = zip(names, backend.read_many([f"{name}/zarr.json" for name in names]), strict=True)
    nodes = {name: _node(one) for name, one in found if one is not None}
    return {
        name: node
        for name, node in nodes.items()
        if node.get("node_type") == "array" and isinstance(node.get("shape"), list)
    }


def _node(document: bytes) -> dict[str, Any]:
    """Metadata of a node; none where it is not readable: a stray file, or one that `verify` names."""
    try:
        return parse(document)
    except ValueError:
        return {}


def set_attributes(root: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Replace the attributes of a root, and leave what is consolidated there as it is.

    zarr itself would drop that. While a store grows, its arrays differ in size: what is consolidated is what it was
    before, and can be opened.
    """
    backend = backend_of(root)
    document = parse(backend.read("zarr.json"))
    document["attributes"] = sealed(attributes)
    backend.write("zarr.json", json.dumps(document).encode())
    _remember(root, document["attributes"])


def _remember(root: zarr.Group, attributes: Mapping[str, Any]) -> None:
    known = root.metadata.attributes
    known.clear()
    known.update(attributes)


def consolidate(root: zarr.Group, attributes: Mapping[str, Any] | None = None) -> None:
    """Write the metadata of the arrays directly below a root into the root's own, by one write with its attributes.

    Subspaces are left out on purpose: there may be thousands, and nobody opens them from the root. Nothing is written
    where the root says all that already.

    Parameters
    ----------
    root : zarr.Group
    attributes : mapping, optional
        In place of those that it has.
    """
    backend = backend_of(root)
    before = backend.read("zarr.json")
    document = parse(before)
    if attributes is not None:
        document["attributes"] = sealed(attributes)
        _remember(root, document["attributes"])
    arrays = arrays_of(root)
    # xarray lists dims in the order it finds them, and only the matrices have both.
    matrices_first = dict(sorted(arrays.items(), key=lambda item: -len(item[1]["shape"])))
    document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": matrices_first}
    after = json.dumps(document).encode()
    if after != before:
        backend.write("zarr.json", after)
