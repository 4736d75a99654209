"""Bytes of a store by key: the one interface behind which a local folder and any other zarr store differ.

Keys are those of the zarr v3 specification, below a group: ``net/step1/fc/activations/c/0/0``. Opening an array through
zarr takes about a millisecond, reading a small one another; a tile of 64 x 64 small representations would spend most of
its time on that. So whatever this package writes itself it also reads itself, as the specification lays it out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zarr.storage import LocalStore

from dask_svcca.stores.backend.elsewhere import IN_FLIGHT, StoreBackend
from dask_svcca.stores.backend.interface import Backend
from dask_svcca.stores.backend.local import LocalBackend

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

__all__ = ["IN_FLIGHT", "Backend", "LocalBackend", "StoreBackend", "backend_at", "backend_of"]


def backend_of(group: zarr.Group) -> Backend:
    """The bytes below a group.

    Examples
    --------
    >>> import zarr
    >>> from zarr.storage import MemoryStore
    >>> backend = backend_of(zarr.create_group(MemoryStore()))
    >>> backend.write("a/b", b"1234")
    >>> backend.read("a/b"), backend.sizes("a")
    (b'1234', {'b': 4})
    """
    return backend_at(group.store, group.path)


def backend_at(store: Store, path: str = "") -> Backend:
    """The bytes of a store below a path, whether or not there is a group."""
    if isinstance(store, LocalStore):
        # Joined with nothing, it would end in a separator, and messages would have two in a row.
        return LocalBackend(os.path.join(store.root, path) if path else os.fspath(store.root))  # noqa: PTH118
    return StoreBackend(store, path)
