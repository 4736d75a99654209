"""One block of many pairs at once: the coupling, and what measures take from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dask_svcca.kernels.lanes import singular_values_of_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray


GRAM_FROM = 64
"""Directions from which the eigenvalues of ``C* C`` are clearly faster to compute than the singular values of ``C``."""


def canonical_correlations(coupling: InexactArray, *, single: bool = False) -> FloatArray:
    """Canonical correlations of one pair, or of a stack of pairs.

    Parameters
    ----------
    coupling : (..., k, l)
        ``scores_a.conj().T @ scores_b``, both orthonormal.
    single : bool
        Whether it is of scores in single precision, which are off by about 1e-7 themselves. Then its Gram matrix will
        do: squaring costs a correlation of ``r`` about ``1e-15 / r``, and one of zero at most 1e-7. Large couplings
        take two thirds of the time.

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
    if single and min(coupling.shape[-2:]) >= GRAM_FROM:
        wide = coupling if coupling.shape[-2] <= coupling.shape[-1] else coupling.swapaxes(-1, -2)
        gram = np.empty((*wide.shape[:-1], wide.shape[-2]), dtype=wide.dtype)
        # One by one: of complex ones all together, a conjugate copy would be held as well.
        for place in np.ndindex(gram.shape[:-2]):
            np.matmul(wide[place], wide[place].conj().T, out=gram[place])
        return np.asarray(np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0.0, 1.0))[..., ::-1])
    return np.asarray(np.clip(singular_values(coupling), 0.0, 1.0))


def canonical_correlations_of_sizes(coupling: FloatArray, sizes: IntArray) -> tuple[FloatArray, FloatArray]:
    """Canonical correlations of many pairs of several sizes, of scores in single precision, and their sums.

    Parameters
    ----------
    coupling : (pair, k, l)
        Zero beyond the directions of each pair.
    sizes : (pair, 2)
        Directions of both sides of each.

    Returns
    -------
    (pair, min(k, l)), (pair,)
        As `canonical_correlations` of each alone; zero beyond those that it has.
    """

    def one(pair: FloatArray) -> FloatArray:
        return canonical_correlations(pair, single=True)

    return singular_values_of_sizes(coupling, sizes, one, most=1.0)


def singular_values(matrices: InexactArray) -> FloatArray:
    """Singular values of a stack, descending; none for matrices without rows or columns."""
    if 0 in matrices.shape[-2:]:
        return np.zeros((*matrices.shape[:-2], 0))
    return np.asarray(np.linalg.svd(matrices, compute_uv=False))


def squared_magnitudes(numbers: InexactArray) -> FloatArray:
    """Squares of the absolute values in double precision, without a copy of the numbers in it.

    Nor is there an array of zeros for the imaginary part of real numbers.

    Examples
    --------
    >>> squared_magnitudes(np.array([3 + 4j])), squared_magnitudes(np.array([0.1], np.float32))
    (array([25.]), array([0.01]))
    """
    squares = np.square(numbers.real, dtype=np.float64)
    if numbers.dtype.kind == "c":
        squares += np.square(numbers.imag, dtype=np.float64)
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

    def leading_of(self, counts: IntArray) -> Side:
        """The same with so many leading directions of each, (pair,); zero beyond."""
        most = int(counts.max(initial=0))
        spectrum = np.where(np.arange(most) < counts[:, np.newaxis], self.spectrum[:, :most], 0.0)
        return Side(spectrum, self.variance, self.rank, self.member)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same array, so that a measure that works in place fails, and does not change what other measures see."""
    array.flags.writeable = False
    return array


class Couplings(Protocol):
    """Couplings of a stack of pairs, wherever they are: ``scores_a.conj().T @ scores_b``, (pair, k, l)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of pairs and of directions on both sides."""

    @property
    def host(self) -> InexactArray:
        """An array of NumPy."""

    @property
    def squares(self) -> FloatArray:
        """Squared absolute values, (pair, k, l)."""

    @property
    def decomposition(self) -> tuple[InexactArray, FloatArray, InexactArray]:
        """Left singular vectors, singular values, and the adjoint of the right vectors."""

    @property
    def adjoint(self) -> Couplings:
        """The couplings with both sides exchanged."""

    def leading(self, k: int, l: int) -> Couplings:
        """The couplings of leading directions."""

    def correlations(self, *, single: bool, many: bool) -> FloatArray:
        """Singular values, (pair, min(k, l)), descending: see `canonical_correlations`."""

    def correlation_sums(self, *, single: bool, many: bool, each: bool = False) -> FloatArray | None:
        """Their sum, (pair,); None where that costs no less than they do, or, with ``each``, they are needed anyway."""

    def square_sums(self) -> FloatArray:
        """Sum of the squares, (pair,)."""

    def weighted_sums(self, a: FloatArray, b: FloatArray | None) -> FloatArray:
        """Sum of the squares with rows weighted, (pair, k), and columns, (pair, l): (pair,)."""

    def weighted(self, a: FloatArray, b: FloatArray) -> InexactArray:
        """The couplings with rows and columns weighted, (pair, k), (pair, l)."""

    def singular_sums(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Sum of the singular values of `weighted`, (pair,)."""

    def neuron_weights(self, side: Side) -> tuple[FloatArray, FloatArray]:
        """Sums of absolute inner products of canonical directions and neurons of the first side; singular values."""


@dataclass(frozen=True)
class PairStack:
    """One block of a stack of pairs, all with the same numbers of directions; or see ``sizes``.

    What several measures need is computed once, at first use.

    Attributes
    ----------
    couplings : Couplings
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
    each : bool
        Whether correlations are asked for one by one, so that their sum is not worth a way of its own.
    sizes : (pair, 2), optional
        Directions of both sides, where pairs have unequal numbers of them: couplings, spectra and correlations are zero
        beyond. Only measures that take such stacks are given them, see `dask_svcca.measures.Measure.takes_sizes`.
    """

    couplings: Couplings
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
    each: bool = False
    sizes: IntArray | None = None
    # The stack whose a and b are exchanged here: what it has computed is not computed again.
    _turned: PairStack | None = field(default=None, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of pairs, and of directions of a and of b."""
        return self.couplings.shape

    def of_sizes(self, function: Callable[[int, int], float]) -> FloatArray:
        """What a function makes of the numbers of directions of each pair, (pair,)."""
        if self.sizes is None:
            count, k, l = self.shape
            return np.full(count, float(function(k, l)))
        unique, places = self._unique_sizes
        return np.array([float(function(*size)) for size in unique])[places]

    @cached_property
    def _unique_sizes(self) -> tuple[list[tuple[int, int]], IntArray]:
        """Numbers of directions that pairs have, and which of them each has."""
        count = self.shape[2] + 1
        unique, places = np.unique(self.sizes @ np.array([count, 1]), return_inverse=True)
        return [divmod(size, count) for size in unique.tolist()], places

    @property
    def coupling(self) -> InexactArray:
        """``scores_a.conj().T @ scores_b``, (pair, k, l): a copy, where they are on a device."""
        return self.couplings.host

    @cached_property
    def correlations(self) -> FloatArray:
        """Canonical correlations, (pair, min(k, l)), descending."""
        if self._turned is not None:
            return self._turned.correlations
        return _read_only(self.couplings.correlations(single=self.single, many=self.many))

    @cached_property
    def correlation_sum(self) -> FloatArray:
        """Sum of the canonical correlations, (pair,)."""
        if self._turned is not None:
            return self._turned.correlation_sum
        each = self.each or "correlations" in vars(self)
        sums = self.couplings.correlation_sums(single=self.single, many=self.many, each=each)
        return _read_only(np.asarray(self.correlations.sum(axis=-1) if sums is None else sums))

    @property
    def squared_coupling(self) -> FloatArray:
        """Squared absolute values of the coupling, (pair, k, l)."""
        return _read_only(self.couplings.squares)

    @cached_property
    def square_sum(self) -> FloatArray:
        """Sum of the squared canonical correlations, (pair,)."""
        return _read_only(self.couplings.square_sums())

    @cached_property
    def squared_norm(self) -> FloatArray:
        """Squared norm of the cross-covariance, (pair,)."""
        if self.norms is not None:
            return _read_only(self.norms)
        return _read_only(self.weighted_sum(self.a.spectrum, self.b.spectrum))

    @cached_property
    def nuclear_norm(self) -> FloatArray:
        """Sum of the singular values of the cross-covariance, (pair,)."""
        return _read_only(self.weighted_nuclear_norm(np.sqrt(self.a.spectrum), np.sqrt(self.b.spectrum)))

    @property
    def canonical_vectors(self) -> tuple[InexactArray, FloatArray]:
        """Canonical directions of a in terms of its scores, (pair, k, min(k, l)), and the correlations."""
        vectors, values, _ = self.decomposition
        return vectors, np.asarray(np.clip(values, 0.0, 1.0))

    @property
    def decomposition(self) -> tuple[InexactArray, FloatArray, InexactArray]:
        """Left singular vectors of the coupling, its singular values, and the adjoint of the right vectors."""
        left, values, adjoint = self.couplings.decomposition
        return _read_only(left), _read_only(values), _read_only(adjoint)

    @property
    def neuron_weights(self) -> tuple[FloatArray, FloatArray]:
        """How much of a's neurons its canonical directions account for, and the correlations, (pair, min(k, l)) both.

        It is the sum of the absolute inner products of a direction with all neurons; it takes loadings.
        """
        weights, values = self.couplings.neuron_weights(self.a)
        return weights, np.asarray(np.clip(values, 0.0, 1.0))

    def weighted(self, a: FloatArray, b: FloatArray) -> InexactArray:
        """The coupling with its rows and columns weighted, (pair, k), (pair, l)."""
        return self.couplings.weighted(a, b)

    def weighted_sum(self, a: FloatArray, b: FloatArray | None = None) -> FloatArray:
        """Sum of the squared coupling with its rows weighted, (pair, k), and its columns, (pair, l): (pair,)."""
        return self.couplings.weighted_sums(a, b)

    def weighted_nuclear_norm(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Sum of the singular values of the coupling with its rows and columns weighted, (pair,)."""
        return self.couplings.singular_sums(a, b)

    @property
    def reversed(self) -> PairStack:
        """The same pairs with a and b exchanged."""
        sizes = None if self.sizes is None else self.sizes[:, ::-1]
        return replace(self, couplings=self.couplings.adjoint, a=self.b, b=self.a, sizes=sizes, _turned=self)

    def leading(self, k: int, l: int) -> PairStack:
        """The same pairs with their leading directions only."""
        if self.shape[1:] == (k, l):
            return self
        couplings = self.couplings.leading(k, l)
        return replace(self, couplings=couplings, a=self.a.leading(k), b=self.b.leading(l), _turned=None)
