"""Small packs put together: a comparison that grows by a layer at a time would else have seven files for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xxhash

from dask_svcca.errors import DamagedSubspacesError, StoreAccessError
from dask_svcca.stores import _chunked
from dask_svcca.stores.subspaces.packs import PackWriter, Subspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.stores.subspaces.packs import Pack
    from dask_svcca.stores.subspaces.store import SubspaceStore

SMALL_BYTES = 2**20
"""Scores and loadings of a small pack, at most."""

MANY = 16
"""Small packs of one kind that are put together."""


def gather(store: SubspaceStore) -> None:
    """Put small packs together, where there are many; those that this replaces are removed by the next call.

    Until then, a run that began before finds them where it looks for them. The numbers stay the same, bit by bit.

    Parameters
    ----------
    store : SubspaceStore
    """
    packs = dict(store.read_index().packs)
    for name in {name for pack in packs.values() for name in pack.gathered} & packs.keys():
        _chunked.remove_group(store.root, name)
        del packs[name]
    kinds: dict[tuple[object, ...], list[Pack]] = {}
    for name in sorted(packs):
        pack = packs[name]
        made = [record.entry for record in pack.records if record.entry.key and not record.entry.problem]
        # Samples that are stored as they are, and leading directions, serve only until all directions are made.
        if made and all(entry.orthonormal and entry.share == 1 for entry in made) and _size(pack) <= SMALL_BYTES:
            kind = made[0].domain, made[0].samples, pack.chunk_samples, pack.dtype
            kinds.setdefault(kind, []).append(pack)
    for alike in kinds.values():
        if len(alike) >= MANY:
            _together(store, alike)


def _size(pack: Pack) -> int:
    """Bytes of scores and loadings."""
    size = 0
    for record in pack.records:
        entry = record.entry
        loadings = entry.neurons * record.wide.itemsize if entry.with_loadings else 0
        size += entry.directions * (entry.samples * pack.dtype.itemsize + loadings)
    return size


def _together(store: SubspaceStore, packs: Sequence[Pack]) -> None:
    """Write what is in some packs of one kind as one."""
    samples = next(record.entry.samples for record in packs[0].records if not record.entry.problem)
    counts = [sum(record.entry.directions for record in pack.records) for pack in packs]
    names = [pack.name for pack in packs]
    length = packs[0].chunk_samples
    name = xxhash.xxh3_64_hexdigest("\n".join(names).encode())
    writer = PackWriter(
        store,
        name,
        samples=samples,
        directions=sum(counts),
        dtype=packs[0].dtype,
        chunk_samples=length,
    )
    stops = np.cumsum(counts)
    buffer = np.empty((sum(counts), length), packs[0].dtype)
    try:
        for chunk in range(-(-samples // length)):
            for pack, count, stop in zip(packs, counts, stops, strict=True):
                pack.read_scores(chunk, [(0, buffer[stop - count : stop])])
            writer.write_scores(chunk, buffer[:, : samples - chunk * length].T)
        writer.finish(
            [
                record.entry
                if record.entry.problem
                else Subspace(
                    record.entry,
                    pack.mean(record),
                    pack.spectrum(record),
                    pack.loadings(record) if record.entry.with_loadings else np.zeros((0, 0)),
                )
                for pack in packs
                for record in pack.records
                if record.entry.key
            ],
            gathered=names,
        )
    except (DamagedSubspacesError, StoreAccessError):
        # Whoever needs what is damaged says so, and has it made anew. Where the disk is full, they stay as they are.
        _chunked.remove_group(store.root, name)
