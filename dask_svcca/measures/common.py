"""What measures of several kinds have in common: sums, values, needs, invariances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack
    from dask_svcca.measures.record import Need, PairTotals, Totals

ORTHOGONAL: Final = ("translation", "isotropic scaling", "orthogonal transformation")
LINEAR: Final = ("translation", "invertible linear transformation")
SPECTRUM: Final[frozenset[Need]] = frozenset({"spectrum"})
LEVERAGES: Final[frozenset[Need]] = frozenset({"leverages"})


def not_of_couplings(_: PairStack) -> FloatArray:
    """What stands for the sums of a measure that does not look at couplings."""
    raise RuntimeError("a measure of the examples among one another has no sums over directions")


def nuclear_norm(pairs: PairStack) -> FloatArray:
    """Sum of the singular values of the cross-covariance of each block."""
    return pairs.nuclear_norm


def squared_correlations(pairs: PairStack) -> FloatArray:
    """Sum of the squared canonical correlations of each block."""
    return pairs.square_sum


def expected_squares(pairs: PairStack) -> FloatArray:
    """What independent layers give for the sum of the squared canonical correlations of each block."""
    return pairs.of_sizes(lambda k, l: min(k, pairs.degrees) * min(l, pairs.degrees) / pairs.degrees)


def sum_of_squares(spectrum: FloatArray, weights: FloatArray) -> float:
    """Squared Frobenius norm of the scatter."""
    return float(weights @ spectrum**2)


def ratio(sums: FloatArray, _a: Totals, _b: Totals, _: PairTotals) -> FloatArray:
    """The first sum over the second."""
    # Cropped layers without variance at the frequencies they share have no weights either.
    return np.asarray(sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1))


def over_geometric_mean(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    """The sum over the geometric mean of the own numbers of both sides."""
    # Each root by itself: the product of the numbers leaves the range of doubles long before they do.
    norms = np.sqrt(a.own) * np.sqrt(b.own)
    return np.asarray(sums[..., 0] / np.where(norms > 0, norms, 1))


def over_mean_rank(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    """The sum over the geometric mean of the ranks of both sides."""
    return np.asarray(sums[..., 0] / np.maximum(np.sqrt(a.rank * b.rank), 1))
