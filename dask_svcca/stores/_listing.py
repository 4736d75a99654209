"""What stores elsewhere list."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from zarr.storage import ObjectStore

if TYPE_CHECKING:
    from zarr.abc.store import Store


def is_strange(name: str) -> bool:
    """Whether a name is none of ours: those of editors and file managers begin so."""
    return name.startswith((".", "_"))


async def sizes_below(store: Store, prefix: str) -> dict[str, int]:
    """Bytes of everything whose key begins so, by the rest of its key."""
    if isinstance(store, ObjectStore):
        # A service that lists its objects says their sizes, and zarr would ask for each of them again.
        lists = store.store.list(prefix)
        every = [(str(one["path"]), int(one["size"])) async for some in lists for one in some]
    else:
        keys = await _keys_below(store, prefix, prefix)
        every = list(zip(keys, await asyncio.gather(*map(store.getsize, keys)), strict=True))
    return {key.removeprefix(prefix): size for key, size in sorted(every)}


async def _keys_below(store: Store, prefix: str, above: str) -> list[str]:
    try:
        return [one async for one in store.list_prefix(above) if one.startswith(prefix)]
    except Exception as error:
        # icechunk lists what is below groups and arrays, and nothing in between.
        if not above or not type(error).__module__.startswith("icechunk"):
            raise
    return await _keys_below(store, prefix, above[: above.rstrip("/").rfind("/") + 1])
