"""One block of many pairs at once: the coupling, and what measures take from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray, InexactArray


def canonical_correlations(coupling: InexactArray) -> FloatArray:
    """Canonical correlations of one pair, or of a stack of pairs.

    Parameters
    ----------
    coupling : (..., k, l)
        ``scores_a.conj().T @ scores_b``, both orthonormal.

    Returns
    -------
    (..., min(k, l))
        In [0, 1], descending; clipped, since round-off can leave 1 + 2e-16.

    References
    ----------
    Björck and Golub (1973), Mathematics of Computation 27, 579-594.

    Examples
    --------
    Two planes that share one axis:

    >>> xy, xz = np.eye(3)[:, [0, 1]], np.eye(3)[:, [0, 2]]
    >>> canonical_correlations(xy.T @ xz)
    array([1., 0.])
    """
    if 0 in coupling.shape[-2:]:
        return np.zeros((*coupling.shape[:-2], 0))
    return np.asarray(np.clip(np.linalg.svd(coupling, compute_uv=False), 0.0, 1.0))


@dataclass(frozen=True)
class PairStack:
    """One block of a stack of pairs, all with the same numbers of directions.

    What several measures need is computed once, at first use.

    Attributes
    ----------
    coupling : (pair, k, l)
        ``scores_a.conj().T @ scores_b``.
    """

    coupling: InexactArray

    @cached_property
    def correlations(self) -> FloatArray:
        """Canonical correlations, (pair, min(k, l)), descending."""
        return canonical_correlations(self.coupling)

    def leading(self, k: int, l: int) -> PairStack:
        """The same pairs, of their leading directions only."""
        return self if self.coupling.shape[1:] == (k, l) else PairStack(self.coupling[:, :k, :l])
