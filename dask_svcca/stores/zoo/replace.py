"""How a representation takes the place of another: it is written beside it, and one small write makes it the valid one.

The attributes of a representation say where its array is. While a replacement is written, they are those of the old
one, and say nothing of the new array, which is in a group of its own at the root. Writing the new attributes replaces
the old representation at once, in any store; the array is then brought to its usual place. Whenever this is
interrupted, attributes and array belong together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xxhash

from dask_svcca.stores import _chunked, _io

if TYPE_CHECKING:
    from collections.abc import Mapping

    import zarr


def beside(path: str) -> str:
    """Path of the group in which what replaces a representation is written.

    Examples
    --------
    >>> beside("net/step1/fc")
    '_new-7596bec55d18df34'
    """
    return f"_new-{xxhash.xxh3_64_hexdigest(path.encode())}"


def begin_beside(root: zarr.Group, path: str) -> str:
    """Make an empty place for what is to replace a representation, and return its path."""
    settle(root, path)
    place = beside(path)
    _chunked.write_group(root, place, {"complete": False}, clear=True)
    return place


def switch(root: zarr.Group, path: str, attributes: Mapping[str, Any]) -> None:
    """Make what was written beside a representation the valid one, by one write."""
    _chunked.write_group(root, path, {**attributes, "beside": True})


def settle(root: zarr.Group, path: str) -> None:
    """Bring an array that `switch` made the valid one to its usual place."""
    attributes = _io.read_attributes(root, path) or {}
    if not attributes.pop("beside", False):
        return
    place = beside(path)
    _chunked.copy_array(root, f"{place}/activations", f"{path}/activations")
    _chunked.write_group(root, path, attributes)
    _chunked.remove_group(root, place)


def clear_beside(root: zarr.Group, path: str) -> None:
    """Remove what was written to replace a representation and is not valid."""
    if _io.read_attributes(root, beside(path)) is not None:
        _chunked.remove_group(root, beside(path))
