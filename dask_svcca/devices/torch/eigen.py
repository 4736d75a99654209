"""Eigenvalues and eigenvectors on a device, checked: batched solvers have been silently wrong in some releases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray

TOLERANCE: Final = 1e-10
"""Relative difference of sums of eigenvalues from what the matrix says, in double precision; rounding gives 1e-13."""

MOST_AT_ONCE: Final = 2**14
"""Matrices that are solved by one call: of more than some 2**15, cuSOLVER refuses to."""


def eigenvalues(matrices: torch.Tensor) -> torch.Tensor:
    """Eigenvalues, ascending, of a stack of Hermitian matrices in double precision, (matrix, n, n).

    Their sum and that of their squares are compared with the trace and the norm. Matrices where they differ are solved
    again by LAPACK.
    """
    parts = [_eigenvalues(part) for part in matrices.split(MOST_AT_ONCE)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _eigenvalues(matrices: torch.Tensor) -> torch.Tensor:
    try:
        values = torch.linalg.eigvalsh(matrices)
    except torch.linalg.LinAlgError:
        values = torch.full(matrices.shape[:-1], torch.nan, dtype=torch.float64, device=matrices.device)
    wrong = ~_agree(matrices, values)
    if bool(wrong.any()):
        again: Any = np.linalg.eigvalsh(matrices[wrong].cpu().numpy())
        values[wrong] = torch.from_numpy(again).to(values.device)
    return values


def eigenvectors(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with eigenvectors: what is left of the matrices without them is nothing, and they are orthonormal."""
    parts = [_eigenvectors(part) for part in matrices.split(MOST_AT_ONCE)]
    if len(parts) == 1:
        return parts[0]
    values, vectors = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(vectors)


def _eigenvectors(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except torch.linalg.LinAlgError:
        values = torch.full(matrices.shape[:-1], torch.nan, dtype=torch.float64, device=matrices.device)
        vectors = matrices.clone()
    left = torch.linalg.matrix_norm(matrices @ vectors - vectors * values[..., None, :])
    unit = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    skew = torch.linalg.matrix_norm(vectors.mH @ vectors - unit)
    good = _agree(matrices, values) & (left <= TOLERANCE * torch.linalg.matrix_norm(matrices)) & (skew <= TOLERANCE)
    wrong = ~good
    if bool(wrong.any()):
        again: tuple[FloatArray, Any] = np.linalg.eigh(matrices[wrong].cpu().numpy())
        for target, found in zip((values, vectors), again, strict=True):
            target[wrong] = torch.from_numpy(found).to(target.device)
    return values, vectors


def _agree(matrices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Whether eigenvalues have the sum and the norm of their matrices; never where one is not a number."""
    norm = torch.linalg.matrix_norm(matrices)
    trace = torch.diagonal(matrices, dim1=-2, dim2=-1).real.sum(-1)
    return ((values.sum(-1) - trace).abs() <= TOLERANCE * norm) & (
        (torch.linalg.vector_norm(values, dim=-1) - norm).abs() <= TOLERANCE * norm
    )
