"""One block of many pairs at once: the coupling, and what measures take from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.kernels.lanes import singular_values_abreast

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray


GRAM_FROM = 64
"""Directions from which the eigenvalues of ``C* C`` are clearly faster to compute than the singular values of ``C``."""


def canonical_correlations(coupling: InexactArray, *, single: bool = False, many: bool = False) -> FloatArray:
    """Canonical correlations of one pair, or of a stack of pairs.

    Parameters
    ----------
    coupling : (..., k, l)
        ``scores_a.conj().T @ scores_b``, both orthonormal.
    single : bool
        Whether it is of scores in single precision, which are off by about 1e-7 themselves. Then its Gram matrix will
        do: squaring costs a correlation of ``r`` about ``1e-15 / r``, and one of zero at most 1e-7. Large couplings
        take two thirds of the time.
    many : bool
        Whether there are so many in all that it is worth to load what takes a fifth of the time: see
        `dask_svcca.kernels.lanes`.

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
    if single and many and (abreast := singular_values_abreast(coupling)) is not None:
        return np.asarray(np.minimum(abreast, 1.0))
    if single and min(coupling.shape[-2:]) >= GRAM_FROM:
        adjoint = coupling.conj().swapaxes(-1, -2)
        gram = coupling @ adjoint if coupling.shape[-2] <= coupling.shape[-1] else adjoint @ coupling
        return np.asarray(np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0.0, 1.0))[..., ::-1])
    return np.asarray(np.clip(singular_values(coupling), 0.0, 1.0))


def singular_values(matrices: InexactArray) -> FloatArray:
    """Singular values of a stack, descending; none for matrices without rows or columns."""
    if 0 in matrices.shape[-2:]:
        return np.zeros((*matrices.shape[:-2], 0))
    return np.asarray(np.linalg.svd(matrices, compute_uv=False))


def squared_magnitudes(numbers: InexactArray) -> FloatArray:
    """Squares of the absolute values, without an array of zeros for the imaginary part of real numbers.

    Examples
    --------
    >>> squared_magnitudes(np.array([3 + 4j])), squared_magnitudes(np.array([2.0]))
    (array([25.]), array([4.]))
    """
    squares = np.square(numbers.real)
    if numbers.dtype.kind == "c":
        squares += np.square(numbers.imag)
    return np.asarray(squares)


@dataclass(frozen=True)
class Side:
    """What a stack knows of the representations on one side.

    Attributes
    ----------
    spectrum : (pair, k)
        Eigenvalues of the scatter: variances of the directions times the number of samples.
    variance, rank : (pair,)
        Sum of all eigenvalues, and number of directions, of the whole representation: over all of its blocks.
    member : (pair,)
        Which representation.
    loadings : mapping of int to (neuron, k)
        By member. Empty where no measure asked for loadings.
    """

    spectrum: FloatArray
    variance: FloatArray
    rank: FloatArray
    member: IntArray
    loadings: Mapping[int, InexactArray] = field(default_factory=dict)

    def leading(self, count: int) -> Side:
        """The same representations with their leading directions only."""
        loadings = {member: matrix[:, :count] for member, matrix in self.loadings.items()}
        return Side(self.spectrum[:, :count], self.variance, self.rank, self.member, loadings)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same array, so that a measure that works in place fails, and does not change what other measures see."""
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class PairStack:
    """One block of a stack of pairs, all with the same numbers of directions.

    What several measures need is computed once, at first use.

    Attributes
    ----------
    coupling : (pair, k, l)
        ``scores_a.conj().T @ scores_b``.
    a, b : Side
    degrees : int
        Degrees of freedom: samples, less one in a block that was centred.
    is_complex : bool
        Whether the samples of this block are complex: a frequency that is not its own conjugate.
    single : bool
        Whether the scores are in single precision.
    many : bool
        Whether this stack is one of many.
    norms : (pair,), optional
        Squared norms of the cross-covariances, where they are known without the couplings, which are zero then.
    samples : int
        Needed for what chance gives to ``overlap``.
    overlap : (pair,), optional
        Sum over the samples of the products of both leverages: squared norms of the scores in the directions that are
        kept.
    blocks : (pair,), optional
        At how many frequencies both sides keep directions.
    """

    coupling: InexactArray
    a: Side
    b: Side
    degrees: int
    is_complex: bool = False
    single: bool = False
    many: bool = False
    norms: FloatArray | None = None
    samples: int = 0
    overlap: FloatArray | None = None
    blocks: IntArray | None = None
    # The stack whose a and b are exchanged here: what it has computed is not computed again.
    _turned: PairStack | None = field(default=None, repr=False, compare=False)

    @cached_property
    def correlations(self) -> FloatArray:
        """Canonical correlations, (pair, min(k, l)), descending."""
        if self._turned is not None:
            return self._turned.correlations
        return _read_only(canonical_correlations(self.coupling, single=self.single, many=self.many))

    @cached_property
    def squared_coupling(self) -> FloatArray:
        """Squared absolute values of the coupling, (pair, k, l)."""
        if self._turned is not None:
            return self._turned.squared_coupling.transpose(0, 2, 1)
        return _read_only(squared_magnitudes(self.coupling))

    @cached_property
    def squared_norm(self) -> FloatArray:
        """Squared norm of the cross-covariance, (pair,)."""
        if self.norms is not None:
            return _read_only(self.norms)
        return _read_only(self.weighted_sum(self.a.spectrum, self.b.spectrum))

    @cached_property
    def nuclear_norm(self) -> FloatArray:
        """Sum of the singular values of the cross-covariance, (pair,)."""
        weighted = self.weighted(np.sqrt(self.a.spectrum), np.sqrt(self.b.spectrum))
        return _read_only(np.asarray(singular_values(weighted).sum(axis=-1)))

    @property
    def canonical_vectors(self) -> tuple[InexactArray, FloatArray]:
        """Canonical directions of a in terms of its scores, (pair, k, min(k, l)), and the correlations."""
        if self._turned is None:
            vectors, values, _ = self.decomposition
        else:
            _, values, adjoint = self._turned.decomposition
            vectors = adjoint.conj().transpose(0, 2, 1)
        return vectors, np.asarray(np.clip(values, 0.0, 1.0))

    @cached_property
    def decomposition(self) -> tuple[InexactArray, FloatArray, InexactArray]:
        """Left singular vectors of the coupling, its singular values, and the adjoint of the right vectors."""
        left, values, adjoint = np.linalg.svd(self.coupling, full_matrices=False)
        return _read_only(left), _read_only(np.asarray(values)), _read_only(adjoint)

    def weighted(self, a: FloatArray, b: FloatArray) -> InexactArray:
        """The coupling with its rows and columns weighted, (pair, k), (pair, l)."""
        product = self.coupling * a[:, :, np.newaxis]
        product *= b[:, np.newaxis, :]
        return product

    def weighted_sum(self, a: FloatArray, b: FloatArray | None = None) -> FloatArray:
        """Sum of the squared coupling with its rows weighted, (pair, k), and its columns, (pair, l): (pair,)."""
        # No array larger than (pair, l) is made of the weights of rows and the squares.
        by_column = (a[:, np.newaxis, :] @ self.squared_coupling)[:, 0]
        return np.asarray((by_column if b is None else by_column * b).sum(axis=-1))

    @property
    def reversed(self) -> PairStack:
        """The same pairs with a and b exchanged."""
        coupling = self.coupling.conj().transpose(0, 2, 1)
        return replace(self, coupling=coupling, a=self.b, b=self.a, _turned=self)

    def leading(self, k: int, l: int) -> PairStack:
        """The same pairs with their leading directions only."""
        if self.coupling.shape[1:] == (k, l):
            return self
        coupling = self.coupling[:, :k, :l]
        return replace(self, coupling=coupling, a=self.a.leading(k), b=self.b.leading(l), _turned=None)
