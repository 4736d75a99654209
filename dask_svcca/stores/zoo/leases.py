"""Which process writes a checkpoint: one at a time, and any number of them to different checkpoints."""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import xxhash

from dask_svcca.dims import EXAMPLE
from dask_svcca.stores import _io
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.lease import Lease
from dask_svcca.stores.zoo.replace import clear_beside, settle

if TYPE_CHECKING:
    import zarr

    from dask_svcca.stores._names import RepresentationName


@dataclass(eq=False)
class _Checkpoint:
    """A checkpoint that this process writes.

    Attributes
    ----------
    lease : Lease
    writers : set of (int, RepresentationName)
        Representations that are being written, each with the zoo object that does.
    """

    lease: Lease
    writers: set[tuple[int, RepresentationName]] = field(default_factory=set)


_LOCK = threading.RLock()
_WRITTEN: dict[tuple[str, str], _Checkpoint] = {}
"""By the place of the zoo and the path of the checkpoint. Objects of one process share a lease: a notebook may have
lost one that still has something open."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WRITTEN.clear)

_FOLLOWED: weakref.WeakSet[object] = weakref.WeakSet()
"""Zoo objects whose end is noticed."""


def begin_writing(zoo: object, root: zarr.Group, name: RepresentationName) -> None:
    """Take the lease of a checkpoint for as long as a representation of it is being written.

    What a writer left that was stopped is put in order. A zoo in memory has no other process to take it from.

    Raises
    ------
    StoreInUseError
        Where another process writes the checkpoint.
    """
    if _io.in_memory(root.store):
        return
    path = name.path.rpartition("/")[0]
    with _LOCK:
        checkpoint = _WRITTEN.get((str(root.store_path), path))
        if checkpoint is None:
            checkpoint = _taken(root, path, f"{name.model}/{name.checkpoint}")
            _WRITTEN[str(root.store_path), path] = checkpoint
        checkpoint.writers.add((id(zoo), name))
        if zoo not in _FOLLOWED:
            _FOLLOWED.add(zoo)
            weakref.finalize(zoo, _end_all, id(zoo))


def end_writing(zoo: object, root: zarr.Group, name: RepresentationName) -> None:
    """Say that a representation is no longer being written; the last one gives the lease back."""
    with _LOCK:
        _end(str(root.store_path), name.path.rpartition("/")[0], {(id(zoo), name)})


def check_writing(root: zarr.Group, name: RepresentationName) -> None:
    """Raise `StoreInUseError` where another process has taken the checkpoint over meanwhile."""
    checkpoint = _WRITTEN.get((str(root.store_path), name.path.rpartition("/")[0]))
    if checkpoint is not None:
        checkpoint.lease.check()


def _end(place: str, path: str, writers: set[tuple[int, RepresentationName]]) -> None:
    checkpoint = _WRITTEN.get((place, path))
    if checkpoint is None:
        return
    checkpoint.writers -= writers
    if not checkpoint.writers:
        del _WRITTEN[place, path]
        checkpoint.lease.release()


def _end_all(zoo: int) -> None:
    with _LOCK:
        for (place, path), checkpoint in list(_WRITTEN.items()):
            _end(place, path, {writer for writer in checkpoint.writers if writer[0] == zoo})


def _taken(root: zarr.Group, path: str, label: str) -> _Checkpoint:
    """A lease beside the chunks of the ids, which every zoo has: zarr lists nothing there."""
    backend = backend_of(root)
    lease = Lease(
        backend,
        f"{EXAMPLE}/lease-{xxhash.xxh3_64_hexdigest(path.encode())}",
        f"the checkpoint {label!r} of the zoo {str(root.store_path)!r}",
        "Let that writer end, or write another checkpoint",
        _PROCESS,
    )
    if lease.take(patient=True):
        backend.sweep(path)
        for layer in backend.names(path):
            settle(root, f"{path}/{layer}")
            clear_beside(root, f"{path}/{layer}")
    return _Checkpoint(lease)


class _Process:
    """What leases of checkpoints serve, since they are given back by name."""


_PROCESS = _Process()
