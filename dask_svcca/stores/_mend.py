"""Metadata and columns of a comparison that are damaged, written anew from what the store has twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.stores._columns import mend_columns, write_columns
from dask_svcca.stores._documents import is_whole, parse, resized
from dask_svcca.stores._stored import damaged, pair_names, stored
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import DETAIL_VARIABLES, FREQUENCY_AXES, REPRESENTATION_VARIABLES

if TYPE_CHECKING:
    import zarr


def copies_of(root: zarr.Group) -> dict[str, Any]:
    """Copies of the metadata of arrays, as the root holds them for whoever opens all at once."""
    document = parse(backend_of(root).read("zarr.json"))
    consolidated = document.get("consolidated_metadata")
    copies = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    return copies if isinstance(copies, dict) else {}


def mend(root: zarr.Group) -> None:
    """Write anew what is damaged of the metadata of a comparison, and of its columns.

    Raises
    ------
    DamagedStoreError
        Where it is nowhere else.
    """
    _mend_pairs(root)
    mend_columns(root, REPRESENTATION_VARIABLES)
    _mend_frequencies(root)


def _mend_pairs(root: zarr.Group) -> None:
    backend, names = backend_of(root), pair_names(root)
    read = backend.read_many([f"{name}/zarr.json" for name in names])
    documents = {name: stored(document, name, root) for name, document in zip(names, read, strict=True)}
    lost = [name for name, document in documents.items() if document is None]
    if not lost:
        return
    copies = copies_of(root)
    counts = [document["shape"][0] for document in documents.values() if document is not None]
    for name in lost:
        copy = stored(json.dumps(copies.get(name)).encode(), name, root)
        if copy is None:
            raise damaged(root, f"{name}/zarr.json")
        # The root may not know yet how many representations there are.
        count = min(counts, default=copy["shape"][0])
        backend.write(f"{name}/zarr.json", resized(copy, (count, count, *copy["shape"][2:])))


def _mend_frequencies(root: zarr.Group) -> None:
    name, backend = DETAIL_VARIABLES["frequencies"].name, backend_of(root)
    if name not in pair_names(root):
        return
    document = stored(backend.read(f"{name}/zarr.json"), name, root)
    sizes = document["shape"][2:] if document is not None else ()
    for axis, size in zip(FREQUENCY_AXES, sizes, strict=True):
        own, chunk = backend.read_many([f"{axis.name}/zarr.json", f"{axis.name}/c/0"])
        if stored(own, axis.name, root) is None or chunk is None or not is_whole(chunk):
            write_columns(root, [(axis, axis.name, np.arange(size) - size // 2)])
