"""What a device does: the only operations of a comparison that are not NumPy's everywhere.

An array that stays on a device is passed on as it is, by whoever holds it: `Array`. It knows its ``shape``, ``len`` and
``dtype.itemsize``, and can be sliced, reshaped and turned by ``swapaxes``, whatever it is made of. What comes back for
good is NumPy's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.kernels.grams import SumsGrams
    from dask_svcca.kernels.leading import ChoosesCount
    from dask_svcca.kernels.moments import Moments
    from dask_svcca.kernels.pairs import Couplings
    from dask_svcca.kernels.products import Summing, SumsProducts
    from dask_svcca.kernels.subspace import Eigenbasis

Array: TypeAlias = Any
"""An array of NumPy, or one that is on a device."""

Cells: TypeAlias = "tuple[Array, IntArray, IntArray]"
"""Couplings of members with members, (a, b, k, l), and the positions of some pairs in them, (pair,) and (pair,)."""


class MomentSum(Protocol):
    """Moments of samples, chunk by chunk."""

    def add(self, samples: Array) -> None:
        """Take some samples, (sample, block, neuron)."""

    @property
    def value(self) -> Moments:
        """Moments of all samples so far."""


class Pieces(Protocol):
    """What cuts scores to pieces that are multiplied at once."""

    def of(self, scores: Array) -> Iterator[Array]:
        """All samples, (direction, sample)."""


class Projection(Protocol):
    """Makes scores of samples."""

    dtype: np.dtype[Any]

    def __call__(self, samples: Array, out: InexactArray) -> None:
        """Write the scores of some samples, (sample, block, neuron), into ``out``, (sample, direction)."""


class Device(Protocol):
    """Where arrays are, and what is done with them there.

    Attributes
    ----------
    name : str
    turns : int
        Buffers to send arrays from by turns: with two, one is filled while the device computes.
    """

    name: str
    turns: int

    def memory(self) -> int | None:
        """Bytes that are free on the device; None where its memory is the processor's."""

    def synchronise(self) -> None:
        """Wait until all that was asked of the device is done."""

    def use_one_thread(self) -> None:
        """Leave the other cores of the processor to other workers."""

    def sent(self, array: npt.NDArray[Any]) -> Array:
        """An array on the device. It may share its memory: whoever fills it again waits for a `mark` behind its use."""

    def is_complex(self, array: Array) -> bool:
        """Whether the numbers of an array are complex."""

    def host(self, array: Array) -> npt.NDArray[Any]:
        """An array as NumPy's."""

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Memory of the processor from which arrays are sent fastest."""

    def mark(self) -> Callable[[], None]:
        """What waits, in any thread, until all is done that was asked of the device so far."""

    def split(self, activations: npt.NDArray[Any], grid: Grid) -> Array:
        """Unitary DFT over the spatial axes: see `dask_svcca.kernels.fourier.split`."""

    def moments(self) -> MomentSum:
        """A sum of moments."""

    def eigenvectors(self, matrix: Any) -> tuple[Any, Any]:
        """Eigenvalues, ascending, and eigenvectors of a Hermitian matrix, as `numpy.linalg.eigh`: NumPy's, as it is."""

    def eigenvectors_in_place(self, matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The same of a symmetric matrix that may be overwritten: see `dask_svcca.kernels.subspace.eigenvectors`."""

    def leading_eigenvectors(self, matrix: FloatArray, choose: ChoosesCount) -> tuple[FloatArray, FloatArray]:
        """Eigenvectors of the largest eigenvalues: see `dask_svcca.kernels.leading.leading_eigenvectors`."""

    def projection(
        self,
        mean: InexactArray,
        basis: Eigenbasis,
        dtype: np.dtype[Any],
        correction: Mapping[int, InexactArray] | None = None,
    ) -> Projection:
        """What makes scores: see `dask_svcca.kernels.projection.projection`."""

    def multiply(self, a: Array, b: Array, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A product of two matrices, written into ``out``."""

    def pieces(self, directions: int, samples: int, dtype: np.dtype[Any], summing: Summing) -> Pieces:
        """What cuts scores to what is multiplied at once: see `dask_svcca.kernels.products.Pieces`."""

    def leverages(self, scores: Array, places: Sequence[slice]) -> Array:
        """Squared norms of samples in the directions of several members, (member, sample)."""

    def weighted_squares(
        self,
        scores: Array,
        rows: Sequence[IntArray],
        weights: Sequence[Sequence[FloatArray]],
        step: int,
        members: Sequence[int],
        out: Sequence[FloatArray],
    ) -> None:
        """Weighted sums of squared scores: see `dask_svcca.kernels.squares.weighted_squares`."""

    def products(self, single_samples: int, room: Any = None) -> SumsProducts:
        """A sum of products, of which so many samples are multiplied in one precision before they are added up.

        On the CPU it may be put into ``room``, see `dask_svcca.kernels.products.Room`.
        """

    def gram_products(
        self, a: int, b: int, samples: int, entries: int, dtype: np.dtype[Any], *, same: bool
    ) -> SumsGrams:
        """Sums over inner products of samples: see `dask_svcca.kernels.grams.GramProducts`."""

    def couplings(self, cells: Sequence[Cells]) -> Couplings:
        """Couplings of some pairs as one stack, in double precision."""
