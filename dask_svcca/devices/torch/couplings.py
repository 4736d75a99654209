"""Couplings of a stack of pairs on a device: of what is computed of them, only sums come back."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from dask_svcca.devices.torch.eigen import eigenvalues, eigenvectors
from dask_svcca.devices.torch.polar import nuclear_norms, polar_factors

if TYPE_CHECKING:
    from dask_svcca.devices.torch.device import TorchDevice
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.pairs import Side

POLAR_FROM: Final = 33
"""Directions from which sums of singular values come from products: up to 32, a GPU has fast solvers of its own."""

CORRELATION_TOLERANCE: Final = 3e-7
"""Of a mean correlation that comes from products."""

NUCLEAR_TOLERANCE: Final = 1e-7
"""Relative, of the sum of the singular values of a cross-covariance."""

SINGLE_STEPS: Final = (8, 12)
"""Steps in single precision after which sums are looked at. What has not settled by then begins anew in double."""

CORRELATION_STEPS: Final = (8, 12, 16, 20)
NUCLEAR_STEPS: Final = (12, 18, 24, 32)
"""The same in double precision. What has not settled by then is solved exactly."""

VECTOR_STEPS: Final = (24, 32, 40)
ORTHONORMAL: Final = 1e-10
"""The same for canonical vectors, and how far these may be from orthonormal."""

NEURONS_AT_ONCE: Final = 64
"""Least number of neurons whose inner products with canonical directions are formed at a time."""


class TorchCouplings:
    """Couplings in double precision as a tensor: see `dask_svcca.kernels.pairs.Couplings`.

    Parameters
    ----------
    device : TorchDevice
    tensor : (pair, k, l)
    original : TorchCouplings, optional
        Those of which these are the adjoints: what they have computed is not computed again.
    """

    def __init__(self, device: TorchDevice, tensor: torch.Tensor, original: TorchCouplings | None = None) -> None:
        self._device, self._tensor, self._original = device, tensor, original

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of pairs and of directions on both sides."""
        pairs, k, l = self._tensor.shape
        return pairs, k, l

    @cached_property
    def host(self) -> InexactArray:
        """A copy of NumPy."""
        with self._device.at_work("a copy of couplings"):
            found = self._device.host(self._tensor)
        # As on the processor: a measure that works in place must fail.
        found.flags.writeable = False
        return found

    @property
    def squares(self) -> FloatArray:
        """Squared absolute values, (pair, k, l): a copy."""
        with self._device.at_work("a copy of couplings"):
            return self._device.host(self._squares)

    @cached_property
    def _squares(self) -> torch.Tensor:
        if self._original is not None:
            return self._original._squares.mT  # noqa: SLF001 - of the same class
        if self._tensor.is_complex():
            return self._tensor.real.square() + self._tensor.imag.square()
        return self._tensor.square()

    @property
    def decomposition(self) -> tuple[InexactArray, FloatArray, InexactArray]:
        """Left singular vectors, singular values, and the adjoint of the right vectors."""
        with self._device.at_work("canonical vectors"):
            left, values, adjoint = (self._device.host(part) for part in self._decomposition)
        return left, values, adjoint

    @cached_property
    def _decomposition(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """By the polar factor, and the eigenvectors of what is left of the coupling without it: nothing is squared.

        As Higham and Papadimitriou (1994), A parallel algorithm for computing the polar decomposition.
        """
        if self._original is not None:
            left, values, adjoint = self._original._decomposition  # noqa: SLF001 - of the same class
            return adjoint.mH, values, left.mH
        _, k, l = self.shape
        if k > l:
            return TorchCouplings(self._device, self._tensor.mH)._turned_decomposition()  # noqa: SLF001
        matrices = self._tensor
        factors, settled = polar_factors(matrices, VECTOR_STEPS, ORTHONORMAL)
        stretch = matrices @ factors.mH
        ascending, vectors = eigenvectors((stretch + stretch.mH) / 2)
        left, values = vectors.flip(-1), ascending.flip(-1).clamp(min=0)
        adjoint = left.mH @ factors
        if not bool(settled.all()):
            # Correlations that are zero to rounding have no direction that products would find.
            exact: Any = np.linalg.svd(self._device.host(matrices[~settled]), full_matrices=False)
            for target, found in zip((left, values, adjoint), exact, strict=True):
                target[~settled] = self._device.tensor(found)
        return left, values, adjoint

    def _turned_decomposition(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, values, adjoint = self._decomposition
        return adjoint.mH, values, left.mH

    @property
    def adjoint(self) -> TorchCouplings:
        """The couplings with both sides exchanged."""
        return TorchCouplings(self._device, self._tensor.mH, self)

    def leading(self, k: int, l: int) -> TorchCouplings:
        """The couplings of leading directions."""
        return TorchCouplings(self._device, self._tensor[:, :k, :l])

    def correlations(self, *, single: bool, many: bool) -> FloatArray:  # noqa: ARG002 - as on the processor
        """Singular values, (pair, min(k, l)), descending, in [0, 1]: by the eigenvalues of the smaller Gram matrix.

        Squaring costs a value of ``r`` about ``1e-15 / r``, and one of zero 1e-8.
        """
        _, k, l = self.shape
        if not min(self.shape):
            return np.zeros((len(self._tensor), min(k, l)))
        with self._device.at_work("canonical correlations"):
            matrices = self._tensor if k <= l else self._tensor.mH
            values = eigenvalues(matrices @ matrices.mH).clamp(0.0, 1.0).sqrt()
            return self._device.host(values.flip(-1))

    def correlation_sums(self, *, single: bool, many: bool, each: bool = False) -> FloatArray | None:
        """Sums of the canonical correlations, (pair,), by products alone; None of small matrices, or with ``each``."""
        count = min(self.shape[1:])
        if each or count < POLAR_FROM or not len(self._tensor):
            return None
        with self._device.at_work("sums of canonical correlations"):
            found = self._tensor.new_zeros(len(self._tensor), dtype=torch.float64)
            places = torch.arange(len(found), device=found.device)
            # Rounding in single precision alone may leave more open than is allowed, whatever the steps.
            for steps in (SINGLE_STEPS, CORRELATION_STEPS) if single else (CORRELATION_STEPS,):
                matrices = self._tensor if len(places) == len(found) else self._tensor[places]
                if steps is SINGLE_STEPS:
                    matrices = matrices.to(torch.complex64 if matrices.is_complex() else torch.float32)
                sums, settled = nuclear_norms(matrices, 1.0, steps, count * CORRELATION_TOLERANCE)
                found[places] = sums
                places = places[~settled]
                if not len(places):
                    break
            else:
                exact = TorchCouplings(self._device, self._tensor[places]).correlations(single=single, many=many)
                found[places] = self._device.tensor(exact.sum(axis=-1))
            return np.asarray(np.clip(self._device.host(found), 0.0, count))

    def square_sums(self) -> FloatArray:
        """Sum of the squares, (pair,)."""
        with self._device.at_work("sums of squared couplings"):
            return self._device.host(self._squares.sum((-2, -1)))

    def weighted_sums(self, a: FloatArray, b: FloatArray | None) -> FloatArray:
        """Sum of the squares with rows weighted, (pair, k), and columns, (pair, l): (pair,)."""
        with self._device.at_work("sums of squared couplings"):
            by_column = torch.bmm(self._device.tensor(a)[:, None, :], self._squares)[:, 0]
            if b is not None:
                by_column = by_column * self._device.tensor(b)
            return self._device.host(by_column.sum(-1))

    def weighted(self, a: FloatArray, b: FloatArray) -> InexactArray:
        """The couplings with rows and columns weighted, (pair, k), (pair, l): a copy."""
        with self._device.at_work("a copy of couplings"):
            return self._device.host(self._weighted(a, b))

    def _weighted(self, a: FloatArray, b: FloatArray) -> torch.Tensor:
        return self._tensor * self._device.tensor(a)[:, :, None] * self._device.tensor(b)[:, None, :]

    def singular_sums(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Sum of the singular values of `weighted`, (pair,)."""
        if not min(self.shape):
            return np.zeros(len(self._tensor))
        with self._device.at_work("nuclear norms"):
            matrices = self._weighted(a, b)
            gram = matrices @ matrices.mH if matrices.shape[-2] <= matrices.shape[-1] else matrices.mH @ matrices
            # No singular value is larger than the root of the norm of their squares; no sum is less than the largest.
            bounds = torch.linalg.matrix_norm(gram).sqrt()
            least = torch.linalg.matrix_norm(matrices)
            sums, settled = nuclear_norms(matrices, bounds, NUCLEAR_STEPS, NUCLEAR_TOLERANCE * least)
            found = self._device.host(sums)
            wrong = ~self._device.host(settled)
            if wrong.any():
                exact = self._device.host(matrices[~settled])
                found[wrong] = np.linalg.svd(exact, compute_uv=False).sum(axis=-1)
        return found

    def neuron_weights(self, side: Side) -> tuple[FloatArray, FloatArray]:
        """Sums of absolute inner products of canonical directions and neurons of the first side; singular values."""
        with self._device.at_work("inner products of neurons and canonical directions"):
            vectors, values, _ = self._decomposition
            weights = torch.zeros_like(values)
            deviations = self._device.tensor(np.sqrt(side.spectrum))
            step = max(NEURONS_AT_ONCE, *self.shape[1:])
            for member in np.unique(side.member):
                chosen = self._device.tensor(np.flatnonzero(side.member == member))
                scaled = vectors[chosen] * deviations[chosen][:, :, None]
                loadings = self._device.tensor(side.loadings[int(member)]).to(scaled.dtype)
                total = torch.zeros_like(weights[chosen])
                for start in range(0, len(loadings), step):
                    total += (loadings[start : start + step] @ scaled).abs().sum(1)
                weights[chosen] = total
            return self._device.host(weights), self._device.host(values)
