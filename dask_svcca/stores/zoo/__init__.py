"""The zoo: activations of many layers of many checkpoints over the same examples."""

from dask_svcca.dims import DEFAULT_DIMS
from dask_svcca.stores._digest import chunk_digest, combined_digest
from dask_svcca.stores.zoo.create import FORMAT_VERSION, as_zoo, create_zoo, open_zoo
from dask_svcca.stores.zoo.index import Representation, frame_of
from dask_svcca.stores.zoo.options import Stored
from dask_svcca.stores.zoo.store import Zoo
from dask_svcca.stores.zoo.write import CHUNK_BYTES, FLOAT16_ERROR

__all__ = [
    "CHUNK_BYTES",
    "DEFAULT_DIMS",
    "FLOAT16_ERROR",
    "FORMAT_VERSION",
    "Representation",
    "Stored",
    "Zoo",
    "as_zoo",
    "chunk_digest",
    "combined_digest",
    "create_zoo",
    "frame_of",
    "open_zoo",
]
