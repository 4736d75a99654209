"""Polar factors of a stack of matrices by products alone: batched singular values are slow on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from dask_svcca.devices.torch.work import wide

if TYPE_CHECKING:
    from collections.abc import Sequence

COEFFICIENTS: Final = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
"""Of the odd polynomials that bring singular values from 0.001 to 1 nearest to 1, one after another."""

LIMIT: Final = (1.875, -1.25, 0.375)
"""Of all steps after them. Values that are still small grow by the first number at each."""

SLACK: Final = 1.01
"""By what singular values are kept below 1 at the start: rounding may have taken one above it."""


def polar_steps(x: torch.Tensor, first: int, stop: int) -> torch.Tensor:
    """Some steps towards the polar factor of each matrix of a stack.

    Parameters
    ----------
    x : (matrix, k, l)
        With k <= l. Before the first step, singular values are at most 1.
    first, stop : int
        Number of the first step, and of the first that is not made.

    References
    ----------
    Amsel et al. (2025), The Polar Express: optimal matrix sign methods and their application to the Muon algorithm.
    """
    for step in range(first, stop):
        a, b, c = COEFFICIENTS[step] if step < len(COEFFICIENTS) else LIMIT
        gram = x @ x.mH
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def nuclear_norms(
    matrices: torch.Tensor, bounds: torch.Tensor | float, checks: Sequence[int], tolerance: torch.Tensor | float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of singular values, and whether they have settled.

    With singular values ``s`` of the polar factor so far, a sum is short by that of ``(1 - s)`` times the values of the
    matrix. What ``(1 - s**2)`` times them is, the factor says itself: the norm of what is left of the matrix without
    its part in the factor, times the root of the number of values, is never less than the error.

    Parameters
    ----------
    matrices : (matrix, k, l)
    bounds : float or (matrix,)
        No singular value is larger.
    checks : sequence of int
        Numbers of steps after which those that have settled are left alone.
    tolerance : float or (matrix,)
        Of a sum.

    Returns
    -------
    sums : (matrix,)
        In double precision.
    settled : (matrix,) of bool
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.mH
    count = len(matrices)
    sums = torch.zeros(count, dtype=torch.float64, device=matrices.device)
    settled = torch.zeros(count, dtype=torch.bool, device=matrices.device)
    limits = torch.as_tensor(tolerance, dtype=torch.float64, device=matrices.device).expand(count)
    scale = SLACK * torch.as_tensor(bounds, dtype=torch.float64, device=matrices.device).expand(count)
    # A matrix of zeros stays one.
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    x = matrices / scale.to(matrices.real.dtype)[:, None, None]
    places, done = torch.arange(count, device=matrices.device), 0
    for stop in checks:
        x = polar_steps(x, done, stop)
        done = stop
        rest = torch.linalg.matrix_norm(torch.baddbmm(matrices, x @ x.mH, matrices, alpha=-1)).double()
        found = torch.linalg.vecdot(wide(x).flatten(1), wide(matrices).flatten(1)).real
        enough = rest * matrices.shape[-2] ** 0.5 <= limits[places]
        sums[places], settled[places] = found, enough
        open_still = ~enough
        if not bool(open_still.any()):
            break
        places, x, matrices = places[open_still], x[open_still], matrices[open_still]
    return sums, settled


def polar_factors(matrices: torch.Tensor, checks: Sequence[int], tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Polar factors of matrices with singular values up to 1, and whether their rows are orthonormal.

    Parameters
    ----------
    matrices : (matrix, k, l)
        With k <= l.
    checks : sequence of int
        Numbers of steps after which all may be done.
    tolerance : float
        Departure from orthonormality.
    """
    x, done = matrices / SLACK, 0
    unit = torch.eye(matrices.shape[-2], dtype=matrices.dtype, device=matrices.device)
    settled = torch.zeros(len(matrices), dtype=torch.bool, device=matrices.device)
    for stop in checks:
        x = polar_steps(x, done, stop)
        done = stop
        settled = torch.linalg.matrix_norm(x @ x.mH - unit) <= tolerance
        if bool(settled.all()):
            break
    return x, settled
