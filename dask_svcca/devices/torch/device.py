"""A device of PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from dask_svcca.devices.torch.couplings import TorchCouplings
from dask_svcca.devices.torch.eigen import eigenvectors
from dask_svcca.devices.torch.sums import TorchGramProducts, TorchMoments, TorchPieces, TorchProducts, TorchProjection
from dask_svcca.devices.torch.work import at_work, wide
from dask_svcca.kernels.fourier import half_plane

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from dask_svcca.devices.interface import Array, Cells
    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import Grid
    from dask_svcca.kernels.leading import ChoosesCount
    from dask_svcca.kernels.products import Summing
    from dask_svcca.kernels.subspace import Eigenbasis

KEPT: Final = frozenset(map(np.dtype, ("f2", "f4", "f8", "c8", "c16", "i8")))
"""Types that stay as they are: of numbers, and of positions."""


class TorchDevice:
    """A CUDA GPU; or, with PyTorch's own code for it, the processor.

    Parameters
    ----------
    name : str
        ``cuda``, ``cuda:N`` or ``torch:cpu``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # Without a number it would be that which each thread of the process has chosen.
        self._device = torch.device("cuda:0" if name == "cuda" else name.removeprefix("torch:"))
        self.turns = 2

    @property
    def _is_processor(self) -> bool:
        return str(self._device.type) == "cpu"

    def at_work(self, operation: str) -> AbstractContextManager[None]:
        """Do one operation: see `dask_svcca.devices.torch.work.at_work`."""
        return at_work(self._device, self.name, operation)

    def memory(self) -> int | None:
        """Bytes that are free on the device, with those that PyTorch holds for later; None on the processor."""
        if self._is_processor:
            return None
        with self.at_work("asking for its memory"):
            free, _ = torch.cuda.mem_get_info(self._device)
            held = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(free + held)

    def synchronise(self) -> None:
        """Wait until all that was asked of the device is done."""
        if not self._is_processor:
            with self.at_work("what was asked of it before"):
                torch.cuda.synchronize(self._device)

    def use_one_thread(self) -> None:
        """Use one thread of the processor."""
        torch.set_num_threads(1)

    def tensor(self, array: Array) -> torch.Tensor:
        """An array as a tensor on the device."""
        if isinstance(array, torch.Tensor):
            return array
        given = _plain(array)
        found = torch.from_numpy(given)
        if self._is_processor:
            return found
        # From a buffer it is copied in turn with what the device computes, and this thread goes on.
        return found.to(self._device, non_blocking=found.is_pinned())

    def sent(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """An array on the device."""
        with self.at_work("taking an array"):
            return self.tensor(array)

    def mark(self) -> Callable[[], None]:
        """What waits until all is done that was asked of the device so far."""
        if self._is_processor:
            return self.synchronise
        with self.at_work("what was asked of it before"):
            # Whoever waits leaves the core to others meanwhile.
            event = torch.cuda.Event(blocking=True)
            event.record(torch.cuda.current_stream(self._device))

        def wait() -> None:
            with self.at_work("what was asked of it before"):
                event.synchronize()

        return wait

    def is_complex(self, array: Array) -> bool:
        """Whether the numbers of an array are complex."""
        return bool(array.dtype.is_complex)

    def host(self, array: Array) -> npt.NDArray[Any]:
        """An array as NumPy's."""
        found: npt.NDArray[Any] = array.resolve_conj().cpu().numpy() if isinstance(array, torch.Tensor) else array
        return found

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Memory that the processor does not move, from which a GPU takes arrays by itself."""
        if self._is_processor:
            return np.empty(shape, dtype)
        with self.at_work("making room for scores"):
            like = torch.from_numpy(np.empty(0, dtype))
            found: npt.NDArray[Any] = torch.empty(shape, dtype=like.dtype, device="cpu", pin_memory=True).numpy()
        return found

    def split(self, activations: npt.NDArray[Any], grid: Grid) -> torch.Tensor:
        """Unitary DFT over the spatial axes, (example, frequency, channel)."""
        with self.at_work("a Fourier transform"):
            axes = tuple(range(1, len(grid) + 1))
            spectrum = torch.fft.rfftn(wide(self.tensor(activations)), dim=axes, norm="ortho")
            return spectrum[(slice(None), *(self.tensor(axis) for axis in half_plane(grid).index))]

    def moments(self) -> TorchMoments:
        """A sum of moments."""
        return TorchMoments(self)

    def eigenvectors(self, matrix: Any) -> tuple[Any, Any]:
        """Eigenvalues, ascending, and eigenvectors of a Hermitian matrix."""
        with self.at_work("eigenvectors"):
            values, vectors = eigenvectors(wide(self.tensor(matrix))[None])
            return self.host(values[0]), self.host(vectors[0])

    def eigenvectors_in_place(self, matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The same of a symmetric matrix."""
        return self.eigenvectors(matrix)

    def leading_eigenvectors(self, matrix: FloatArray, choose: ChoosesCount) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues, descending, of a symmetric matrix; eigenvectors of the largest, which alone leave the device."""
        with self.at_work("eigenvectors"):
            ascending, vectors = eigenvectors(wide(self.tensor(matrix))[None])
            values = self.host(ascending[0])[::-1]
            return values, self.host(vectors[0].flip(-1)[:, : choose(values)])

    def projection(
        self,
        mean: InexactArray,
        basis: Eigenbasis,
        dtype: np.dtype[Any],
        correction: Mapping[int, InexactArray] | None = None,
    ) -> TorchProjection:
        """What makes scores."""
        return TorchProjection(self, mean, basis, dtype, correction)

    def multiply(self, a: Array, b: Array, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A product of two matrices, written into ``out``."""
        with self.at_work("a matrix product"):
            first, second = self.tensor(a), self.tensor(b)
            dtype = torch.promote_types(first.dtype, second.dtype)
            torch.from_numpy(out).copy_(first.to(dtype) @ second.to(dtype))
        return out

    def pieces(self, directions: int, samples: int, dtype: np.dtype[Any], summing: Summing) -> TorchPieces:  # noqa: ARG002 - as on the processor
        """What makes scores as precise as is wanted: sums are cut to pieces where they are made."""
        return TorchPieces(self, double=summing.double)

    def leverages(self, scores: Array, places: Sequence[slice]) -> torch.Tensor:
        """Squared norms of samples in the directions of several members, (member, sample)."""
        with self.at_work("leverages"):
            given = self.tensor(scores)
            return torch.stack([_squares(given[place]).sum(0) for place in places])

    def weighted_squares(
        self,
        scores: Array,
        rows: Sequence[IntArray],
        weights: Sequence[Sequence[FloatArray]],
        step: int,
        members: Sequence[int],
        out: Sequence[FloatArray],
    ) -> None:
        """Weighted sums of squared scores, member by member: squares take no more than is planned for them."""
        with self.at_work("sums of squared scores"):
            given = self.tensor(scores)
            for start in range(0, given.shape[1], step):
                part = given[:, start : start + step]
                found = [
                    [self.tensor(one[number]) @ squares for one in weights]
                    for number, chosen in enumerate(rows)
                    for squares in [_squares(part[self.tensor(chosen)])]
                ]
                for target, sums in zip(out, zip(*found, strict=True), strict=True):
                    target[members, start : start + step] = self.host(torch.stack(sums))

    def products(self, single_samples: int, room: None = None) -> TorchProducts:  # noqa: ARG002 - as of NumPy
        """A sum of products; PyTorch keeps memory for them by itself."""
        return TorchProducts(self, single_samples)

    def gram_products(
        self,
        a: int,
        b: int,
        samples: int,  # noqa: ARG002 - as of NumPy
        entries: int,
        dtype: np.dtype[Any],
        *,
        same: bool,
    ) -> TorchGramProducts:
        """Sums over inner products of samples."""
        with self.at_work("inner products of samples"):
            return TorchGramProducts(self, a, b, entries, dtype, same=same)

    def couplings(self, cells: Sequence[Cells]) -> TorchCouplings:
        """Couplings of some pairs as one stack, in double precision."""
        with self.at_work("gathering couplings"):
            parts = [
                wide(self.tensor(couplings)[self.tensor(rows), self.tensor(columns)])
                for couplings, rows, columns in cells
            ]
            return TorchCouplings(self, parts[0] if len(parts) == 1 else torch.cat(parts))


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array that PyTorch takes as it is: it itself, or a copy.

    PyTorch knows neither half of NumPy's types nor the other order of bytes, nor arrays that run backwards or lie askew
    in memory, and warns of what is read-only.
    """
    dtype = array.dtype.newbyteorder("=")
    if dtype not in KEPT:
        dtype = np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
    given = array.astype(dtype, copy=False)
    askew = any(stride < 0 or stride % given.itemsize for stride in given.strides)
    return given.copy() if askew or not given.flags.writeable else given


def _squares(scores: torch.Tensor) -> torch.Tensor:
    """Squared absolute values, in double precision."""
    exact = wide(scores)
    return exact.real.square() + exact.imag.square() if exact.is_complex() else exact.square()
