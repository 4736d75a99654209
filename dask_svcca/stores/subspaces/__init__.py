"""Subspaces: the directions of many representations, packed; made once, read by every tile that needs them.

A pack is what one task makes: the subspaces of one long representation or of many small ones, in a few arrays that
xarray opens. Its index, the attributes of its group, is written last; without it a pack does not count. The key of a
subspace is the digest of its activations with the identity of their reading, so that a changed representation gets a
new one and the others stay as they are.
"""

from dask_svcca.stores.subspaces.gathering import gather
from dask_svcca.stores.subspaces.packs import Pack, PackWriter, Subspace, read_scores
from dask_svcca.stores.subspaces.records import (
    Block,
    SubspaceEntry,
    SubspaceRecord,
    chunk_length,
    relation_key,
    subspace_key,
)
from dask_svcca.stores.subspaces.store import INSIDE, SubspaceIndex, SubspaceStore

__all__ = [
    "INSIDE",
    "Block",
    "Pack",
    "PackWriter",
    "Subspace",
    "SubspaceEntry",
    "SubspaceIndex",
    "SubspaceRecord",
    "SubspaceStore",
    "chunk_length",
    "gather",
    "read_scores",
    "relation_key",
    "subspace_key",
]
