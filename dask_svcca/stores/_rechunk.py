"""Larger tiles for a comparison that has outgrown its own: results are copied, and then take the place of the old.

A comparison of ten representations has chunks of eight by eight. With ten thousand, each variable would be a million
files. Wherever this is interrupted, nothing is lost: up to one write the old variables are those that count, and from
then on the new ones.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from dask_svcca.errors import StoreFormatError
from dask_svcca.stores import _chunked, _io
from dask_svcca.stores._blocks import BlockArray
from dask_svcca.stores._documents import parsed, rechunked
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import PAIR_STATUS, PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import zarr

    Block = tuple[int, int]
    Place = tuple[slice, slice]

COPIES = "rechunked"
"""Group that holds the new variables until they are at their places, and attribute that says that they count."""


def rechunk(root: zarr.Group, names: Sequence[str], tile: int) -> bool:
    """Give the variables of pairs chunks of as many representations.

    Parameters
    ----------
    root : zarr.Group
        The comparison.
    names : sequence of str
        All variables of pairs; the status is written last.
    tile : int
        A whole number of tiles as they are.

    Returns
    -------
    bool
        Whether pairs are missing, since something of them could not be read.
    """
    _chunked.remove_group(root, COPIES)
    _chunked.write_group(root, COPIES, {})
    lost: set[Block] = set()
    for name in sorted(names, key=lambda name: name == PAIR_STATUS.name):
        _copy(root, name, tile, lost)
    _io.set_attributes(root, {**root.attrs, COPIES: tile})
    finish_rechunking(root)
    return bool(lost)


def _copy(root: zarr.Group, name: str, tile: int, lost: set[Block]) -> None:
    """Write a variable in larger chunks; pairs of which a value was lost are missing."""
    backend = backend_of(root)
    (document,) = backend.read_many([f"{name}/zarr.json"])
    array = BlockArray(root, name, document)
    larger = rechunked(parsed(document) or {}, tile)
    backend.write(f"{COPIES}/{name}/zarr.json", larger)
    copy = BlockArray(root, f"{COPIES}/{name}", larger, tile)
    count, is_status = array.shape[0], name == PAIR_STATUS.name
    if is_status:
        # Of the status itself too, before any of it is written: a pair and its mirror image are lost together.
        for place in _places(count, array.side):
            array.read_sound(place, lost)
        lost |= {block[::-1] for block in lost}
    for place in _places(count, tile):
        values = array.read_sound(place, lost)
        if is_status:
            for block, part in array.blocks(place):
                if block in lost:
                    values[part] = PairStatus.MISSING
        backend.write_many(copy.encoded(place, values))


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
    attributes: dict[str, Any] = dict(root.attrs)
    tile = attributes.pop(COPIES)
    _io.consolidate(root, {**attributes, "tile": tile})
    _chunked.remove_group(root, COPIES)


def _places(count: int, side: int) -> Iterator[Place]:
    parts = [slice(start, min(start + side, count)) for start in range(0, count, side)]
    return product(parts, parts)
