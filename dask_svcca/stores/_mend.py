"""Metadata and columns of a comparison that are damaged, written anew from what the store has twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.stores._blocks import damaged
from dask_svcca.stores._columns import mend_columns, write_columns
from dask_svcca.stores._documents import is_whole, parsed, resized
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import DETAIL_VARIABLES, FREQUENCY_AXES, PAIR_STATUS, REPRESENTATION_VARIABLES

if TYPE_CHECKING:
    import zarr


def pair_names(root: zarr.Group) -> list[str]:
    """Names of all arrays along pairs, the status first."""
    attributes: dict[str, Any] = dict(root.attrs)
    keep = attributes["parameters"]["keep"]
    return [PAIR_STATUS.name, *attributes["versions"], *(DETAIL_VARIABLES[name].name for name in keep)]


def column_names(root: zarr.Group) -> list[str]:
    """Names of all arrays along one axis."""
    axes = FREQUENCY_AXES if DETAIL_VARIABLES["frequencies"].name in pair_names(root) else ()
    return [f"{one.name}_{side}" for one in REPRESENTATION_VARIABLES for side in "ab"] + [axis.name for axis in axes]


def copies_of(root: zarr.Group) -> dict[str, Any]:
    """Copies of the metadata of arrays, as the root holds them for whoever opens all at once."""
    document = json.loads(backend_of(root).read("zarr.json"))
    copies: dict[str, Any] = (document.get("consolidated_metadata") or {}).get("metadata", {})
    return copies


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
    documents = dict(zip(names, map(parsed, backend.read_many([f"{name}/zarr.json" for name in names])), strict=True))
    lost = [name for name, document in documents.items() if document is None]
    if not lost:
        return
    copies = copies_of(root)
    counts = [document["shape"][0] for document in documents.values() if document is not None]
    for name in lost:
        copy = parsed(json.dumps(copies.get(name)).encode())
        if copy is None:
            raise damaged(root, f"{name}/zarr.json")
        # The root may not know yet how many representations there are.
        count = min(counts, default=copy["shape"][0])
        backend.write(f"{name}/zarr.json", resized(copy, (count, count, *copy["shape"][2:])))


def _mend_frequencies(root: zarr.Group) -> None:
    name, backend = DETAIL_VARIABLES["frequencies"].name, backend_of(root)
    if name not in pair_names(root):
        return
    document = parsed(backend.read(f"{name}/zarr.json"))
    sizes = document["shape"][2:] if document is not None else ()
    for axis, size in zip(FREQUENCY_AXES, sizes, strict=True):
        own, chunk = backend.read_many([f"{axis.name}/zarr.json", f"{axis.name}/c/0"])
        if parsed(own) is None or chunk is None or not is_whole(chunk):
            write_columns(root, [(axis, axis.name, np.arange(size) - size // 2)])
