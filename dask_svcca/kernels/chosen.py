"""Examples that stand for all, where there are too many."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dask_svcca.kernels._types import IntArray


@lru_cache(maxsize=32)
def seeded_examples(examples: int, count: int, seed: int) -> IntArray:
    """So many of the examples, in ascending order: all where there are no more, else a seeded sample.

    Examples
    --------
    >>> seeded_examples(3, 5, seed=0), seeded_examples(100, 3, seed=0)
    (array([0, 1, 2]), array([51, 63, 83]))
    """
    if count >= examples:
        return np.arange(examples)
    return np.sort(np.random.default_rng(seed).choice(examples, count, replace=False))
