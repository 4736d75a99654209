"""The processor, with NumPy and LAPACK: the reference, and what is used unless another device is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.kernels.couplings import HostCouplings
from dask_svcca.kernels.fourier import split
from dask_svcca.kernels.grams import GramProducts
from dask_svcca.kernels.leading import leading_eigenvectors
from dask_svcca.kernels.moments import Moments, add_chunk, moments
from dask_svcca.kernels.products import Pieces, ProductSum, samples_in_single
from dask_svcca.kernels.projection import projection
from dask_svcca.kernels.squares import leverages, weighted_squares
from dask_svcca.kernels.subspace import eigenvectors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.devices.interface import Cells
    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.kernels.leading import ChoosesCount
    from dask_svcca.kernels.products import Summing
    from dask_svcca.kernels.projection import Projection
    from dask_svcca.kernels.subspace import Eigenbasis


class HostMoments:
    """Moments of samples, chunk by chunk.

    Infinities and overflow give a scatter that is not finite.

    Examples
    --------
    >>> total = HostMoments()
    >>> for chunk in np.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 2, 1, 1):
    ...     total.add(chunk)
    >>> total.value.mean, total.value.scatter
    (array([3.]), array([[[14.]]]))
    """

    def __init__(self) -> None:
        self._total: Moments | None = None

    def add(self, samples: InexactArray) -> None:
        """Take some samples, (sample, block, neuron)."""
        with np.errstate(over="ignore", invalid="ignore"):
            self._total = moments(samples) if self._total is None else add_chunk(self._total, samples)

    @property
    def value(self) -> Moments:
        """Moments of all samples so far."""
        if self._total is None:
            raise ValueError("there are no samples to sum up")
        return self._total


class NumPyDevice:
    """The processor: arrays are where they are, and nothing is copied."""

    name = "cpu"
    turns = 1

    def memory(self) -> None:
        """None: its memory is the processor's."""

    def synchronise(self) -> None:
        """Nothing is ever left to be done."""

    def use_one_thread(self) -> None:
        """BLAS and LAPACK are limited for all who use them."""

    def sent(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The same array."""
        return array

    def is_complex(self, array: npt.NDArray[Any]) -> bool:
        """Whether the numbers of an array are complex."""
        return array.dtype.kind == "c"

    def host(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The same array."""
        return array

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Memory that is not filled yet."""
        return np.empty(shape, dtype)

    def mark(self) -> Callable[[], None]:
        """Nothing is ever left to be done."""
        return self.synchronise

    def split(self, activations: npt.NDArray[Any], grid: Grid) -> InexactArray:
        """Unitary DFT over the spatial axes."""
        return split(activations, grid)

    def moments(self) -> HostMoments:
        """A sum of moments."""
        return HostMoments()

    def eigenvectors(self, matrix: Any) -> tuple[Any, Any]:
        """Eigenvalues, ascending, and eigenvectors of a Hermitian matrix."""
        return np.linalg.eigh(matrix)

    def eigenvectors_in_place(self, matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The same of a symmetric matrix, which is overwritten."""
        return eigenvectors(matrix)

    def leading_eigenvectors(self, matrix: FloatArray, choose: ChoosesCount) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues, descending, of a symmetric matrix, which is overwritten; eigenvectors of the largest."""
        return leading_eigenvectors(matrix, choose)

    def projection(
        self,
        mean: InexactArray,
        basis: Eigenbasis,
        dtype: np.dtype[Any],
        correction: Mapping[int, InexactArray] | None = None,
    ) -> Projection:
        """What makes scores."""
        return projection(mean, basis, dtype, correction)

    def multiply(self, a: InexactArray, b: InexactArray, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A product of two matrices, written into ``out``."""
        return np.matmul(a, b, out=out)

    def pieces(self, directions: int, samples: int, dtype: np.dtype[Any], summing: Summing) -> Pieces:
        """What cuts scores to what is multiplied at once."""
        return Pieces(directions, samples, dtype, summing)

    def leverages(self, scores: InexactArray, places: Sequence[slice]) -> FloatArray:
        """Squared norms of samples in the directions of several members, (member, sample)."""
        return leverages(scores, places)

    def weighted_squares(
        self,
        scores: InexactArray,
        rows: Sequence[IntArray],
        weights: Sequence[Sequence[FloatArray]],
        step: int,
        members: Sequence[int],
        out: Sequence[FloatArray],
    ) -> None:
        """Weighted sums of squared scores."""
        weighted_squares(scores, rows, weights, step, members, out)

    def products(self, single_samples: int, room: npt.NDArray[Any] | None = None) -> ProductSum:
        """A sum of products."""
        return ProductSum(samples_in_single(single_samples), room)

    def gram_products(
        self, a: int, b: int, samples: int, entries: int, dtype: np.dtype[Any], *, same: bool
    ) -> GramProducts:
        """Sums over inner products of samples."""
        return GramProducts(a, b, samples, entries, dtype, same=same)

    def couplings(self, cells: Sequence[Cells]) -> HostCouplings:
        """Couplings of some pairs as one stack, in double precision."""
        return HostCouplings(cells)


HOST: Final = NumPyDevice()
"""The processor: there is one."""
