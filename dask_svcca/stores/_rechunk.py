"""Larger tiles for a comparison that has outgrown its own: results are copied, and then take the place of the old.

A comparison of ten representations has chunks of eight by eight. With ten thousand, each variable would be a million
files. Wherever this is interrupted, nothing is lost: up to one write the old variables are those that count, and from
then on the new ones.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import StoreFormatError
from dask_svcca.stores import _chunked, _io
from dask_svcca.stores.backend import UNREADABLE, backend_of
from dask_svcca.variables import PAIR_STATUS, PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import zarr

    Block = tuple[int, int]
    Place = tuple[slice, slice]

COPIES = "rechunked"
"""Group that holds the new variables until they are at their places, and attribute that says that they count."""


def rechunk(root: zarr.Group, arrays: Sequence[zarr.Array[Any]], tile: int) -> None:
    """Give the variables of pairs chunks of as many representations.

    Parameters
    ----------
    root : zarr.Group
        The comparison.
    arrays : sequence of zarr.Array
        All variables of pairs; the status is written last.
    tile : int
    """
    _chunked.remove_group(root, COPIES)
    _chunked.write_group(root, COPIES, {})
    lost: set[Block] = set()
    for array in sorted(arrays, key=lambda array: array.basename == PAIR_STATUS.name):
        copy = root.create_array(
            f"{COPIES}/{array.basename}",
            shape=array.shape,
            chunks=(tile, tile, *array.chunks[2:]),
            dtype=array.dtype,
            fill_value=array.fill_value,
            compressors=array.compressors,
            dimension_names=array.metadata.dimension_names,  # type: ignore[union-attr]
            attributes=dict(array.attrs),
        ).with_config({"write_empty_chunks": True})
        for place in _places(array.shape[0], tile):
            copy[place] = _read(array, place, lost)
    # A value that cannot be read is computed again, and so is its mirror image.
    side = arrays[0].chunks[0]
    for row, column in sorted(lost | {block[::-1] for block in lost}):
        copy[row * side : (row + 1) * side, column * side : (column + 1) * side] = PairStatus.MISSING
    root.update_attributes({COPIES: tile})
    finish_rechunking(root)


def is_rechunking(root: zarr.Group) -> bool:
    """Whether new variables count that are not all at their places yet."""
    return COPIES in root.attrs


def check_rechunked(root: zarr.Group) -> None:
    """Raise `StoreFormatError` where they are not."""
    if is_rechunking(root):
        raise StoreFormatError(
            f"the comparison {str(root.store_path)!r} has grown, and a run is moving its results into larger tiles, or "
            f"was interrupted while it did. Wait for it, or compare again; nothing is lost"
        )


def finish_rechunking(root: zarr.Group) -> None:
    """Bring the new variables to their places; where this was interrupted, what is left."""
    backend = backend_of(root)
    for name in backend.names(COPIES):
        (document,) = backend.read_many([f"{COPIES}/{name}/zarr.json"])
        # Without, it has been moved, and its removal was interrupted.
        if document is not None:
            backend.remove(name)
            backend.write(f"{name}/zarr.json", document)
            backend.move(f"{COPIES}/{name}", name)
    _io.consolidate(root)
    attributes: dict[str, Any] = dict(root.attrs)
    tile = attributes.pop(COPIES)
    root.attrs.put({**attributes, "tile": tile})
    _chunked.remove_group(root, COPIES)
    _io.consolidate(root)


def _places(count: int, side: int) -> Iterator[Place]:
    parts = [slice(start, min(start + side, count)) for start in range(0, count, side)]
    return product(parts, parts)


def _read(array: zarr.Array[Any], place: Place, lost: set[Block]) -> Any:
    """Values of a block; fill values where a chunk cannot be read, which is then lost."""
    try:
        return array[place]
    except UNREADABLE:
        pass
    side = array.chunks[0]
    shape = tuple(part.stop - part.start for part in place)
    values = np.full((*shape, *array.shape[2:]), array.fill_value, array.dtype)
    for inner in product(*(range(part.start // side, -(-part.stop // side)) for part in place)):
        within = tuple(
            slice(max(part.start, number * side), min(part.stop, (number + 1) * side))
            for part, number in zip(place, inner, strict=True)
        )
        target = tuple(
            slice(one.start - part.start, one.stop - part.start) for one, part in zip(within, place, strict=True)
        )
        try:
            values[target] = array[within]
        except UNREADABLE:
            lost.add((inner[0], inner[1]))
    return values
