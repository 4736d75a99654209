"""Sums of matrix products, in as few passes over memory as BLAS allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from dask_svcca.kernels.blas import add_product, add_square

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from dask_svcca.kernels._types import InexactArray


class SumsProducts(Protocol):
    """The sum of ``rows @ columns.T`` over many samples, chunk by chunk, wherever it is computed."""

    def add(self, rows: Any, columns: Any) -> None:
        """Add the product of one chunk, (k, sample) and (l, sample)."""

    @property
    def value(self) -> InexactArray:
        """The sum, as an array of NumPy."""

    @property
    def kept(self) -> Any:
        """The sum, left where it was computed."""


MakesProducts: TypeAlias = "Callable[[int], SumsProducts]"
"""From the number of samples that are multiplied in one precision before they are added up in double."""

SINGLE_SAMPLES = 2**14
"""Samples that are summed in single precision before they are added up in double.

Up to here the sum is off by no more than its terms are: 1.4e-7 with 2,000 samples, 2e-7 with 10,000.
"""

FEW_SAMPLES = 256
"""The same where directions are few."""

FEW_DIRECTIONS = 48
"""Directions of a representation below which sums are kept short.

A sum of many products in single precision is off by about 3e-7. The mean over many correlations averages that out to
below 1e-7; the mean over fewer does not.
"""

LEAST_DIRECTIONS = 24
"""Directions below which not even short sums will do, and products are formed in double precision: they are cheap.

However many samples there are: scores of one-hot or whole numbers repeat a few values, whose sums are rounded the same
way again and again, which no number of samples averages out.
"""


SHORT_SUMS = 4
"""Short sums that are added up in single precision before they are in double.

Of 1,000 samples, in four sums, means of correlations are off by less than 1e-8 in most pairs, and 5e-8 in all; where
each is added up in double precision, by as much or a third of it, as BLAS sums up the samples of each.
"""


def samples_in_single(samples: int) -> int:
    """Samples whose products, of so many at once, are added up in single precision before they are in double.

    Examples
    --------
    >>> samples_in_single(256), samples_in_single(16384)
    (1024, 16384)
    """
    return samples if samples > FEW_SAMPLES else SHORT_SUMS * samples


class Summing(NamedTuple):
    """How products are summed over samples.

    Attributes
    ----------
    samples : int
        Samples that are multiplied at once; see `samples_in_single`.
    double : bool
        Whether they are converted to double precision before.
    """

    samples: int
    double: bool

    @classmethod
    def of(cls, directions: float) -> Summing:
        """How to sum products of representations with so many directions, so that means are right to 1e-7.

        Examples
        --------
        >>> [Summing.of(directions) for directions in (12, 30, 100)]
        [Summing(samples=256, double=True), Summing(samples=256, double=False), Summing(samples=16384, double=False)]
        """
        few = directions < FEW_DIRECTIONS
        return cls(FEW_SAMPLES if few else SINGLE_SAMPLES, directions < LEAST_DIRECTIONS)


class Pieces:
    """Scores some samples at a time, contiguous and as precise as is wanted, in memory that is reused.

    Parameters
    ----------
    directions, samples : int
        Most of each that are given at once.
    dtype : numpy.dtype
    summing : Summing

    Examples
    --------
    >>> pieces = Pieces(1, 3, np.dtype(np.float32), Summing(2, double=True))
    >>> [piece.copy() for piece in pieces.of(np.array([[1, 2, 3]], np.float32))]
    [array([[1., 2.]]), array([[3., 0.]])]
    """

    def __init__(self, directions: int, samples: int, dtype: np.dtype[Any], summing: Summing) -> None:
        # As even as can be, so that no product runs over padding.
        self._length = -(-samples // -(-samples // summing.samples))
        wanted = np.result_type(dtype, np.float64) if summing.double else dtype
        self._room: npt.NDArray[Any] | None = None
        if self._length < samples or wanted != dtype:
            self._room = np.empty((directions, self._length), dtype=wanted)

    def of(self, scores: InexactArray) -> Iterator[InexactArray]:
        """All samples, (direction, sample), followed by zeros."""
        if self._room is None:
            yield scores
            return
        for start in range(0, scores.shape[1], self._length):
            part = scores[:, start : start + self._length]
            self._room[:, : part.shape[1]] = part
            self._room[:, part.shape[1] :] = 0
            yield self._room


class Room:
    """Memory for sums of products that are formed one after another.

    It takes a sixth of the time of a short product to be given fresh memory for it.

    Parameters
    ----------
    dtype : numpy.dtype

    Examples
    --------
    >>> room = Room(np.dtype(np.float32))
    >>> [part.shape for part in room.cut([(2, 3), (1, 4)])]
    [(2, 3), (1, 4)]
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        # What sums leave out of a symmetric product is read: it must be numbers.
        self._memory: npt.NDArray[Any] = np.zeros(0, dtype)

    def cut(self, shapes: Sequence[tuple[int, int]]) -> list[npt.NDArray[Any]]:
        """Arrays of some shapes, which those of the next call overwrite."""
        sizes = [rows * columns for rows, columns in shapes]
        if sum(sizes) > len(self._memory):
            # What was there is let go of first: both are not held.
            dtype, self._memory = self._memory.dtype, self._memory[:0].copy()
            self._memory = np.zeros(sum(sizes), dtype)
        ends = np.cumsum(sizes, dtype=np.int64).tolist()
        each = zip(shapes, sizes, ends, strict=True)
        return [self._memory[end - size : end].reshape(shape) for shape, size, end in each]


MIRRORED_AT_ONCE = 192
"""Rows of a symmetric sum that are copied to the other half at a time: few enough to stay in the cache."""


class ProductSum:
    """The sum of ``rows @ columns.T`` over many samples, chunk by chunk.

    BLAS adds to the sum while it multiplies. Adding afterwards would read and write the sum once more per chunk: for a
    thousand directions on both sides, this takes a seventh of the time of the product.

    Parameters
    ----------
    single_samples : int
        Samples that are summed in single precision before they are added up in double.
    room : (k, l), optional
        What the first product may be written into, and the sum may be returned in; of the precision of products.

    Examples
    --------
    >>> total = ProductSum()
    >>> x = np.arange(6.0).reshape(2, 3)
    >>> for chunk in (x[:, :2], x[:, 2:]):
    ...     total.add(np.ascontiguousarray(chunk), np.ascontiguousarray(chunk))
    >>> np.array_equal(total.value, x @ x.T)
    True
    """

    def __init__(self, single_samples: int = SINGLE_SAMPLES, room: npt.NDArray[Any] | None = None) -> None:
        self._most = single_samples
        self._room = room
        self._part: npt.NDArray[Any] | None = None
        self._whole: npt.NDArray[Any] | None = None
        self._samples = 0
        # Whether the upper triangles are still to be filled.
        self._half = False

    def add(self, rows: InexactArray, columns: InexactArray) -> None:
        """Add the product of one chunk.

        Parameters
        ----------
        rows : (k, sample)
        columns : (l, sample)
            Both contiguous along samples, and of one precision. The very same array on both sides takes half the time.
        """
        if self._samples + rows.shape[1] > self._most:
            self._flush()
        half = rows.dtype.kind == "f" and rows.ctypes.data == columns.ctypes.data and rows.shape == columns.shape
        if self._half and not half:
            self._mirror()
        onto = self._samples > 0 and self._part is not None
        half &= self._half or (self._part is None and self._whole is None)
        if self._part is None:
            dtype = np.result_type(rows, columns)
            # What a symmetric sum leaves out is read before it is filled.
            shape, make = (len(rows), len(columns)), np.zeros if half else np.empty
            self._part = make(shape, dtype) if self._room is None else self._room
        if half:
            self._half = True
            add_square(rows, self._part, onto=onto)
        else:
            rows, columns = (one.astype(self._part.dtype, copy=False) for one in (rows, columns))
            add_product(rows, columns, self._part, onto=onto)
        self._samples += rows.shape[1]

    def _mirror(self) -> None:
        """Fill the halves of symmetric sums that BLAS left out."""
        sums = [total for total in (self._part, self._whole) if total is not None and self._half]
        for total in sums:
            for start in range(0, len(total), MIRRORED_AT_ONCE):
                square = slice(start, start + MIRRORED_AT_ONCE)
                total[:start, square] = total[square, :start].T
                corner = total[square, square]
                corner[...] = np.tril(corner) + np.tril(corner, -1).T
        self._half = False

    def _flush(self) -> None:
        if self._part is None or self._samples == 0 or self._part.dtype.char not in "fF":
            return
        if self._whole is None:
            self._whole = self._part.astype(np.result_type(self._part.dtype, np.float64))
        else:
            self._whole += self._part
        # Its memory is filled anew.
        self._samples = 0

    @property
    def value(self) -> InexactArray:
        """The sum: in double precision, or in single where that was enough."""
        if self._whole is not None:
            self._flush()
            self._part = None
        self._mirror()
        total = self._part if self._whole is None else self._whole
        if total is None:
            raise ValueError("nothing was added yet")
        return total

    @property
    def kept(self) -> InexactArray:
        """The same: it is where it was computed."""
        return self.value
