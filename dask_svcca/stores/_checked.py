"""The store of a comparison as zarr reads its matrices for people: what is damaged is named, and never read as NaN."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.storage import WrapperStore

from dask_svcca.stores._access import accessing
from dask_svcca.stores._documents import CRC_BYTES, is_whole
from dask_svcca.stores._stored import damaged
from dask_svcca.variables import ESTIMATE_VARIABLES, PAIR_STATUS, VALUED

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

_CHUNK = re.compile(r"([^/]+)/c/(\d+)/(\d+)(?:/\d+)*$")


_OPTIONAL = frozenset(variable.name for variable in (PAIR_STATUS, *ESTIMATE_VARIABLES))
"""What says nothing where it is not there."""


class CheckedStore(WrapperStore[Any]):
    """A store, each of whose chunks of results is verified as it is read.

    Parameters
    ----------
    store : zarr store
    root : zarr.Group
        The comparison in it.
    """

    def __init__(self, store: Store, root: zarr.Group) -> None:
        super().__init__(store)
        self._root = root
        self._prefix = f"{root.path}/" if root.path else ""
        # While measures are added, pairs may be marked as done that lack them.
        self._growing = bool(root.attrs["growing"])

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """See `zarr.abc.store.Store`."""
        with accessing(f"{self._store}/{key}"):
            found: Buffer | None = await self._store.get(key, prototype, byte_range)
        matched = _CHUNK.match(key.removeprefix(self._prefix)) if key.startswith(self._prefix) else None
        if matched is None or byte_range is not None:
            return found
        if found is None and await self._lost(matched, prototype):
            # It may have been written in the meantime.
            found = await self._store.get(key, prototype)
            if found is None:
                raise damaged(self._root, matched[0])
        if found is not None and not is_whole(found.to_bytes()):
            raise damaged(self._root, matched[0])
        return found

    async def _lost(self, key: re.Match[str], prototype: BufferPrototype) -> bool:
        """Whether a chunk that is not there should be."""
        name, row, column = key.groups()
        if self._growing or name in _OPTIONAL:
            return False
        status = await self._store.get(f"{self._prefix}{PAIR_STATUS.name}/c/{row}/{column}", prototype)
        if status is None:
            return False
        states = np.frombuffer(status.to_bytes()[:-CRC_BYTES], np.uint8)
        return bool(np.isin(states, VALUED).any())
