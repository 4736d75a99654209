"""Couplings of a stack of pairs in the processor's memory, and what is computed of them alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.kernels.lanes import singular_values_of_cells
from dask_svcca.kernels.pairs import (
    PairStack,
    Side,
    canonical_correlations,
    canonical_correlations_of_sizes,
    singular_values,
    squared_magnitudes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray

    Cells = tuple[InexactArray, IntArray, IntArray]

WIDE_CELL = 2**12
"""Numbers in a coupling from which copying one by one, converted on the way, beats copying all and then converting."""

LEAST_CELLS = 64
"""Pairs of a product that are solved where they are: of fewer, lanes would be left empty."""

GATHERED_AT_ONCE = 2**17
"""Numbers of small couplings that are copied at a time, before they are converted."""

SQUARED_AT_ONCE = 2**17
"""Numbers that are squared at a time, where only sums of the squares are asked for."""

NEURONS_AT_ONCE = 64
"""Least number of neurons whose inner products with canonical directions are formed at a time."""


class HostCouplings:
    """Couplings as an array of NumPy: see `dask_svcca.kernels.pairs.Couplings`.

    Parameters
    ----------
    coupling : (pair, k, l), or a sequence of ((a, b, k, l), (pair,), (pair,))
        An array, or what `gathered` makes one of.
    sizes : (pair, 2), optional
        Directions of both sides of each pair, where these are unequal: it is zero beyond.
    original : HostCouplings, optional
        Those of ``coupling``, of which these are the adjoints: what they have computed is not computed again.

    Examples
    --------
    >>> couplings = HostCouplings(np.array([[[3.0, 0.0], [0.0, 4.0]]]))
    >>> couplings.singular_sums(np.ones((1, 2)), np.ones((1, 2)))
    array([7.])
    """

    def __init__(
        self,
        coupling: InexactArray | Sequence[Cells],
        sizes: IntArray | None = None,
        original: HostCouplings | None = None,
    ) -> None:
        self._source, self._sizes, self._original = coupling, sizes, original

    @cached_property
    def _given(self) -> InexactArray:
        """As one array: cells of products are copied only where more than their singular values is asked for."""
        if self._original is not None:
            return self._original._given  # noqa: SLF001 - of the same class
        return self._source if isinstance(self._source, np.ndarray) else gathered(self._source)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of pairs and of directions on both sides."""
        if self._original is not None:
            pairs, k, l = self._original.shape
            return pairs, l, k
        if isinstance(self._source, np.ndarray):
            pairs, k, l = self._source.shape
        else:
            k, l = self._source[0][0].shape[2:]
            pairs = sum(len(rows) for _, rows, _ in self._source)
        return pairs, k, l

    @cached_property
    def _abreast(self) -> tuple[FloatArray, FloatArray, FloatArray | None] | None:
        """Canonical correlations of many couplings, their sums, and sums of squares unless these are of several sizes.

        Sums come from the same code however couplings are given, so that no bit hangs on that. None where LAPACK is to
        solve them.
        """
        if self._sizes is not None:
            return *canonical_correlations_of_sizes(self._given.real, self._sizes), None
        source = self._source
        if isinstance(source, np.ndarray) or min(len(rows) for _, rows, _ in source) < LEAST_CELLS:
            places = np.arange(len(self._given))
            source = [(self._given[:, np.newaxis], places, np.zeros_like(places))]
        found = []
        for cells, rows, columns in source:
            one = singular_values_of_cells(cells, rows, columns, most=1.0)
            if one is None:
                return None
            found.append(one)
        if len(found) == 1:
            return found[0]
        values, sums, squares = map(np.concatenate, zip(*found, strict=True))
        return values, sums, squares

    @cached_property
    def host(self) -> InexactArray:
        """The array."""
        return self._given if self._original is None else self._given.conj().transpose(0, 2, 1)

    @cached_property
    def squares(self) -> FloatArray:
        """Squared absolute values, (pair, k, l)."""
        if self._original is not None:
            return self._original.squares.transpose(0, 2, 1)
        return squared_magnitudes(self._given)

    @cached_property
    def decomposition(self) -> tuple[InexactArray, FloatArray, InexactArray]:
        """Left singular vectors, singular values, and the adjoint of the right vectors."""
        if self._original is not None:
            left, values, adjoint = self._original.decomposition
            return adjoint.conj().transpose(0, 2, 1), values, left.conj().transpose(0, 2, 1)
        left, values, adjoint = np.linalg.svd(self._given, full_matrices=False)
        return left, np.asarray(values), adjoint

    @property
    def adjoint(self) -> HostCouplings:
        """The couplings with both sides exchanged."""
        return HostCouplings(self._source, self._sizes, self)

    def leading(self, k: int, l: int) -> HostCouplings:
        """The couplings of leading directions."""
        return HostCouplings(self.host[:, :k, :l])

    def correlations(self, *, single: bool, many: bool) -> FloatArray:
        """Singular values, (pair, min(k, l)): see `dask_svcca.kernels.pairs.canonical_correlations`."""
        if self._original is not None:
            return self._original.correlations(single=single, many=many)
        if single and many and (abreast := self._abreast) is not None:
            return abreast[0]
        return canonical_correlations(self._given, single=single)

    def correlation_sums(self, *, single: bool, many: bool, each: bool = False) -> FloatArray | None:
        """Sum of the singular values, (pair,), where these come with their sums; else None."""
        if self._original is not None:
            return self._original.correlation_sums(single=single, many=many, each=each)
        abreast = self._abreast if single and many else None
        return None if abreast is None else abreast[1]

    def square_sums(self) -> FloatArray:
        """Sum of the squares, (pair,)."""
        if self._original is not None:
            return self._original.square_sums()
        if (abreast := vars(self).get("_abreast")) is not None and abreast[2] is not None:
            return np.asarray(abreast[2])
        # As the inner products of couplings with themselves: no array of their squares is made.
        flat = self._given.reshape(len(self._given), -1)
        return np.asarray(np.vecdot(flat, flat).real)

    def weighted_sums(self, a: FloatArray, b: FloatArray | None) -> FloatArray:
        """Sum of the squares with rows weighted, (pair, k), and columns, (pair, l): (pair,)."""
        if self._original is not None:
            return self._original._sums_of_squares(b, a)  # noqa: SLF001 - of the same class
        return self._sums_of_squares(a, b)

    def _sums_of_squares(self, a: FloatArray | None, b: FloatArray | None) -> FloatArray:
        """Sum of the squares, weighted where weights are given; of some numbers at a time, which caches hold."""
        pairs, k, l = self._given.shape
        step, rows = max(1, SQUARED_AT_ONCE // max(1, k * l)), max(1, SQUARED_AT_ONCE // max(1, l))
        sums = np.zeros(pairs)
        for start in range(0, pairs, step):
            some = slice(start, start + step)
            by_column = np.zeros((len(sums[some]), l))
            for first in range(0, k, rows):
                part = slice(first, first + rows)
                squares = squared_magnitudes(self._given[some, part])
                # No array larger than (pair, l) is made of the weights of rows and the squares.
                by_column += squares.sum(axis=1) if a is None else (a[some, np.newaxis, part] @ squares)[:, 0]
                del squares
            sums[some] = (by_column if b is None else by_column * b[some]).sum(axis=-1)
        return sums

    def weighted(self, a: FloatArray, b: FloatArray) -> InexactArray:
        """The couplings with rows and columns weighted, (pair, k), (pair, l)."""
        product = self.host * a[:, :, np.newaxis]
        product *= b[:, np.newaxis, :]
        return product

    def singular_sums(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Sum of the singular values of `weighted`, (pair,)."""
        return np.asarray(singular_values(self.weighted(a, b)).sum(axis=-1))

    def neuron_weights(self, side: Side) -> tuple[FloatArray, FloatArray]:
        """Sums of the absolute inner products of canonical directions and neurons of the first side; singular values.

        Both are (pair, min(k, l)).
        """
        if self._original is None:
            vectors, values, _ = self.decomposition
        else:
            # They are conjugated below, those of some pairs at a time.
            _, values, adjoint = self._original.decomposition
            vectors = adjoint.transpose(0, 2, 1)
        weights = np.zeros((len(vectors), vectors.shape[-1]))
        deviations = np.sqrt(side.spectrum)
        for member in np.unique(side.member):
            chosen = np.flatnonzero(side.member == member)
            scaled = vectors[chosen]
            if self._original is not None:
                np.conjugate(scaled, out=scaled)
            scaled *= deviations[chosen][:, :, np.newaxis]
            loadings = side.loadings[int(member)]
            # As many neurons at a time as directions: their inner products take no more memory than the couplings.
            step = max(NEURONS_AT_ONCE, *self.shape[1:])
            for start in range(0, len(loadings), step):
                # Inner products of neurons and canonical directions, V S u, without any sample.
                products = loadings[start : start + step] @ scaled
                magnitudes = np.abs(products, out=products) if products.dtype.kind == "f" else np.abs(products)
                weights[chosen] += magnitudes.sum(axis=1)
                del products, magnitudes
        return weights, values


def gathered(cells: Sequence[Cells]) -> InexactArray:
    """Couplings of some pairs as one stack, (pair, k, l), in double precision.

    Parameters
    ----------
    cells : sequence of ((a, b, k, l), (pair,), (pair,))
        Couplings of members with members, and the positions of the pairs in them.

    Examples
    --------
    >>> couplings = np.arange(4.0, dtype=np.float32).reshape(2, 2, 1, 1)
    >>> gathered([(couplings, np.array([0, 1]), np.array([1, 0]))]).ravel()
    array([1., 2.])
    """
    first = cells[0][0]
    dtype: np.dtype[Any] = np.result_type(first.dtype, np.float64)
    stack: npt.NDArray[Any] = np.empty((sum(len(rows) for _, rows, _ in cells), *first.shape[2:]), dtype)
    start = 0
    for couplings, rows, columns in cells:
        part = stack[start : start + len(rows)]
        start += len(part)
        cell = max(1, part[0].size)
        if (whole := _rectangle(couplings, rows, columns)) is not None:
            part.reshape(whole.shape)[...] = whole
        elif cell < WIDE_CELL:
            step = GATHERED_AT_ONCE // cell
            for begin in range(0, len(part), step):
                some = slice(begin, begin + step)
                part[some] = couplings[rows[some], columns[some]]
        else:
            for target, row, column in zip(part, rows, columns, strict=True):
                target[...] = couplings[row, column]
    # A measure that works in place must fail, and not change what other measures see.
    stack.flags.writeable = False
    return stack


def gathered_of_sizes(product: FloatArray, tops: IntArray, lefts: IntArray, sizes: IntArray) -> FloatArray:
    """Couplings of pairs of several sizes as one stack, (pair, k, l), in double precision; zero beyond each.

    Parameters
    ----------
    product : (directions of a, directions of b)
        Couplings of all members with all.
    tops, lefts : (pair,)
        Where in it each pair begins.
    sizes : (pair, 2)

    Examples
    --------
    >>> product = np.arange(1.0, 7).reshape(2, 3)
    >>> gathered_of_sizes(product, np.array([0, 1]), np.array([0, 1]), np.array([[1, 1], [1, 2]])).tolist()
    [[[1.0, 0.0]], [[5.0, 6.0]]]
    """
    stack: FloatArray = np.zeros((len(sizes), *sizes.max(axis=0)))
    for target, top, left, (k, l) in zip(stack, tops.tolist(), lefts.tolist(), sizes.tolist(), strict=True):
        target[:k, :l] = product[top : top + k, left : left + l]
    stack.flags.writeable = False
    return stack


def _rectangle(couplings: InexactArray, rows: IntArray, columns: IntArray) -> InexactArray | None:
    """Couplings of pairs that are all of some consecutive rows and columns, row by row; None where they are not."""
    top, left, width = int(rows[0]), int(columns.min()), int(np.ptp(columns)) + 1
    height, rest = divmod(len(rows), width)
    if rest or not np.array_equal((rows - top) * width + columns - left, np.arange(len(rows))):
        return None
    return couplings[top : top + height, left : left + width]


def leading_of_sizes(pairs: PairStack, sizes: IntArray) -> PairStack:
    """The same pairs with so many leading directions of each, (pair, 2); zero beyond.

    Examples
    --------
    >>> side = Side(np.ones((1, 2)), np.ones(1), np.ones(1), np.zeros(1, int))
    >>> couplings, sizes = HostCouplings(np.eye(2)[np.newaxis]), np.array([[2, 2]])
    >>> whole = PairStack(couplings, side, side, degrees=9, single=True, sizes=sizes)
    >>> leading_of_sizes(whole, np.array([[1, 2]])).correlations
    array([[1.]])
    """
    if pairs.sizes is not None and np.array_equal(pairs.sizes, sizes):
        return pairs
    k, l = sizes.max(axis=0)
    part = pairs.coupling[:, :k, :l].copy()
    for coupling, (rows, columns) in zip(part, sizes.tolist(), strict=True):
        coupling[rows:] = 0
        coupling[:, columns:] = 0
    a, b = (side.leading_of(counts) for side, counts in ((pairs.a, sizes[:, 0]), (pairs.b, sizes[:, 1])))
    return replace(pairs, couplings=HostCouplings(part, sizes), a=a, b=b, sizes=sizes, _turned=None)
