"""Sums over samples, chunk by chunk, that stay on a device until all samples are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from dask_svcca.devices.torch.work import wide
from dask_svcca.kernels.grams import TERMS
from dask_svcca.kernels.moments import Moments
from dask_svcca.kernels.subspace import blocks_of, needs_correction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dask_svcca.devices.interface import Array
    from dask_svcca.devices.torch.device import TorchDevice
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.subspace import Eigenbasis

SINGLE_SAMPLES: Final = 2**11
"""Samples whose products are summed in single precision, at most.

A GPU adds them one after another: 2,000 are off by 2e-7 of a product, where the blocks of a processor's BLAS are with
10,000. Adding the sum up in double precision takes a tenth of the time of the product.
"""


class TorchMoments:
    """Moments of samples: see `dask_svcca.kernels.moments`.

    Parameters
    ----------
    device : TorchDevice
    """

    def __init__(self, device: TorchDevice) -> None:
        self._device = device
        self._count = 0
        self._mean: Any = None
        self._scatter: Any = None

    def add(self, samples: Array) -> None:
        """Take some samples, (sample, block, neuron)."""
        with self._device.at_work("the scatter of samples"):
            given = self._device.tensor(samples)
            first = wide(given[:, 0])
            mean = first.mean(0)
            first = first - mean
            # The rounding of a mean is one error common to all samples: left in, a constant neuron would seem to vary.
            rest = first.mean(0)
            first -= rest
            if self._scatter is None:
                _, blocks, neurons = given.shape
                self._scatter = first.new_zeros((blocks, neurons, neurons))
                self._mean = torch.zeros_like(mean)
            self._scatter[0].addmm_(first.mH, first)
            if len(self._scatter) > 1:
                others = wide(given[:, 1:]).swapaxes(0, 1)
                self._scatter[1:].baddbmm_(others.mH, others)
            self._shift(len(given), mean + rest)

    def _shift(self, count: int, mean: torch.Tensor) -> None:
        """Take in that the scatter of these samples is about a mean of their own."""
        total = self._count + count
        shift = mean - self._mean
        if self._count:
            self._scatter[0] += torch.outer(shift.conj(), shift) * (self._count * count / total)
        self._mean = self._mean + shift * (count / total) if self._count else mean
        self._count = total

    @property
    def value(self) -> Moments:
        """Moments of all samples so far."""
        if self._scatter is None:
            raise ValueError("there are no samples to sum up")
        with self._device.at_work("the scatter of samples"):
            return Moments(self._count, self._device.host(self._mean), self._device.host(self._scatter))


class TorchPieces:
    """Scores as precise as is wanted: see `dask_svcca.kernels.products.Pieces`."""

    def __init__(self, device: TorchDevice, *, double: bool) -> None:
        self._device, self._double = device, double

    def of(self, scores: torch.Tensor) -> Iterator[torch.Tensor]:
        """All samples at once, (direction, sample)."""
        with self._device.at_work("a product of scores"):
            found = wide(scores) if self._double else scores
        yield found


class TorchProducts:
    """The sum of ``rows @ columns.T`` over many samples: see `dask_svcca.kernels.products.ProductSum`.

    Parameters
    ----------
    device : TorchDevice
    single_samples : int
        Samples that are summed in single precision before they are added up in double, at most.
    """

    def __init__(self, device: TorchDevice, single_samples: int) -> None:
        self._device = device
        self._most = min(single_samples, SINGLE_SAMPLES)
        self._total: Any = None
        self._room: Any = None

    def add(self, rows: Array, columns: Array) -> None:
        """Add the product of one chunk."""
        with self._device.at_work("a product of scores"):
            a, b = self._device.tensor(rows), self._device.tensor(columns)
            dtype = torch.promote_types(a.dtype, b.dtype)
            a, b = a.to(dtype), b.to(dtype)
            if self._total is None:
                exact = torch.complex128 if dtype.is_complex else torch.float64
                self._total = torch.zeros((len(a), len(b)), dtype=exact, device=a.device)
            if dtype == self._total.dtype:
                self._total.addmm_(a, b.T)
                return
            # A chunk may be of few samples: what it leaves is not worth adding up in single precision.
            for start in range(0, a.shape[1], self._most):
                part = slice(start, start + self._most)
                if self._room is None:
                    self._room = torch.empty_like(self._total, dtype=dtype)
                self._total += torch.matmul(a[:, part], b[:, part].T, out=self._room)

    @property
    def kept(self) -> Any:
        """The sum, on the device."""
        if self._total is None:
            raise ValueError("nothing was added yet")
        self._room = None
        return self._total

    @property
    def value(self) -> InexactArray:
        """The sum."""
        with self._device.at_work("a product of scores"):
            return self._device.host(self.kept)


class TorchGramProducts:
    """Sums over all entries of the products of Gram matrices: see `dask_svcca.kernels.grams.GramProducts`.

    Parameters
    ----------
    device : TorchDevice
    a, b, entries, dtype, same
        As there.
    """

    def __init__(self, device: TorchDevice, a: int, b: int, entries: int, dtype: np.dtype[Any], *, same: bool) -> None:
        self._device = device
        like = device.tensor(np.zeros(1, dtype))
        counts = (a,) if same else (a, b)
        pieces = -(-entries // TERMS)
        self._rooms = [like.new_empty((count, pieces * TERMS)) for count in counts]
        self._total = wide(like.new_zeros((a, b)))
        self._own = [] if same else [wide(like.new_zeros(count)) for count in counts]

    def add(self, groups: Sequence[Sequence[Any]], times: int) -> None:
        """Add one block of all Gram matrices."""
        with self._device.at_work("inner products of samples"):
            entries = 0
            for room, members in zip(self._rooms, groups, strict=True):
                for gram, member in zip(room, members, strict=True):
                    part = member
                    if isinstance(member, tuple):
                        row, column = map(self._device.tensor, member)
                        part = column.T @ row
                    entries = part.numel()
                    gram[:entries].view(part.shape).copy_(part)
            whole = -(-entries // TERMS) * TERMS
            # Some entries at a time in one precision, as the processor does, and all of these sums at once.
            parts = []
            for room in self._rooms:
                room[:, entries:whole] = 0
                parts.append(room[:, :whole].view(len(room), -1, TERMS).swapaxes(0, 1))
            self._total += times * wide(torch.bmm(parts[0], parts[-1].mT)).sum(0)
            if self._own:
                self._own = [
                    own + times * wide(torch.linalg.vecdot(part, part)).sum(0)
                    for own, part in zip(self._own, parts, strict=True)
                ]

    def take(self) -> tuple[FloatArray, list[FloatArray]]:
        """Sums of all pairs so far, and of each member with itself; then it begins anew."""
        with self._device.at_work("inner products of samples"):
            own = self._own or [self._total.diagonal()]
            taken = self._device.host(self._total), [self._device.host(one).copy() for one in own]
            self._total = torch.zeros_like(self._total)
            self._own = [torch.zeros_like(one) for one in self._own]
            return taken


class TorchProjection:
    """Projects samples on directions in double precision: see `dask_svcca.kernels.projection`.

    Parameters
    ----------
    device : TorchDevice
    mean, basis, dtype, correction
        As for `dask_svcca.kernels.projection.projection`.
    """

    def __init__(
        self,
        device: TorchDevice,
        mean: InexactArray,
        basis: Eigenbasis,
        dtype: np.dtype[Any],
        correction: Mapping[int, InexactArray] | None,
    ) -> None:
        self._device, self._blocks = device, blocks_of(basis.block)
        with device.at_work("a projection on directions"):
            self._mean = wide(device.tensor(mean))
            self._weights = wide(device.tensor(basis.loadings)) * device.tensor(1 / np.sqrt(basis.spectrum))
            for first, factor in (correction or {}).items():
                columns = slice(first, first + len(factor))
                self._weights[:, columns] = self._weights[:, columns] @ device.tensor(factor).to(self._weights.dtype)
        # Scores that may need correction are handed over in double precision, which shows it.
        weak = any(needs_correction(basis, columns) for _, columns in self._blocks)
        exact = np.result_type(dtype, np.float64)
        self.dtype: np.dtype[Any] = exact if weak or correction else dtype

    def __call__(self, samples: Array, out: InexactArray) -> None:
        """Write the scores of some samples, (sample, block, neuron), into ``out``, (sample, direction)."""
        with self._device.at_work("a projection on directions"):
            given = self._device.tensor(samples)
            for index, columns in self._blocks:
                chunk = wide(given[:, index])
                if index == 0:
                    chunk = chunk - self._mean
                # In the order in which they are stored: the scores of a direction side by side.
                scores = self._weights[:, columns].T @ chunk.T
                torch.from_numpy(out[:, columns].T).copy_(scores)
