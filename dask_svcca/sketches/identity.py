"""What sketches are of, as a store says it: two whose identities are equal can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from dask_svcca.errors import DamagedStoreError
from dask_svcca.sketches.family import FAMILY, MEASURES, digest_of, mask_digest_of, order_of, words_of
from dask_svcca.stores._metadata import are_texts, is_text
from dask_svcca.stores._metadata import is_whole as is_count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.sketches.family import Family
    from dask_svcca.stores.zoo import Representation, Zoo

FORMAT_VERSION: Final = 2

LEAST_ROWS, MOST_ROWS = 64, 1024
"""Rows in a chunk of coarser sketches: few for a small zoo, and few files for a large one."""

IDENTITY: Final = (
    "measure",
    "family",
    "size",
    "seed",
    "examples_digest",
    "conv",
    "sequence",
    "positions",
    "spatial_size",
    "mask",
    "mask_digest",
    "variance",
)
"""Attributes that must be the same for sketches to be compared."""


def identity_of(zoo: Zoo, parameters: Parameters, family: Family, measure: str = "cka") -> dict[str, Any]:
    """What decides the numbers of sketches, as it is stored: two stores with equal ones can be compared."""
    words = words_of(zoo.examples)
    return {
        "measure": measure,
        "family": FAMILY,
        "size": family.size,
        # As text: JSON numbers are not exact beyond 2**53 everywhere.
        "seed": str(family.seed),
        "examples_digest": digest_of(words),
        "n_examples": zoo.n_examples,
        **parameters.reading.to_dict(),
        "mask_digest": None if parameters.mask is None else mask_digest(zoo, parameters.mask),
        "variance": parameters.variance if measure == "overlap" else None,
    }


def mask_digest(zoo: Zoo, name: str) -> str:
    """Digest of a mask of a zoo, as sketches know it."""
    return mask_digest_of(words_of(zoo.examples), zoo.coords[name].astype(np.bool_))


def digests_of(zoo: Zoo, items: Sequence[Representation]) -> list[str]:
    """Digests of representations of a zoo, as sketches know them: of their values, and of the order of examples."""
    order = order_of(words_of(zoo.examples))
    return [xxhash.xxh3_128_hexdigest(f"{order} {item.identity}".encode()) for item in items]


def subspace_digest(key: str) -> str:
    """Digest of the key of a subspace, as sketches know it: keys are long, and rows many."""
    return xxhash.xxh3_128_hexdigest(key.encode())


_RULES: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "format_version": (f"{FORMAT_VERSION}, which this version reads", lambda value: value == FORMAT_VERSION),
    "measure": (f"one of {', '.join(map(repr, MEASURES))}", lambda value: value in MEASURES),
    "family": (f"the family {FAMILY!r}, which this version reads", lambda value: value == FAMILY),
    "size": ("an even number from 64 on", lambda value: is_count(value, 64) and value % 2 == 0 and value <= 2**24),
    "seed": ("a whole number, as text", lambda value: is_text(value) and value.isdecimal() and int(value) < 2**64),
    "examples_digest": ("a digest", lambda value: is_text(value) and len(value) == 32),
    "n_examples": ("a whole number from 2 on", lambda value: is_count(value, 2)),
    "coarse_rows": ("a whole number", lambda value: is_count(value, LEAST_ROWS) and value <= MOST_ROWS),
    "domains": ("a list of texts", are_texts),
}


def check_identity(attributes: Mapping[str, Any], place: str) -> None:
    """Raise `DamagedStoreError` where attributes are not those of sketches, or of another family."""
    for name, (what, valid) in _RULES.items():
        if not valid(attributes.get(name)):
            raise DamagedStoreError(
                f"the attribute {name!r} of the sketches {place!r} is not {what}: {str(attributes.get(name))[:80]!r}. "
                f"Another version made them, or the store is damaged: make the sketches anew"
            )
