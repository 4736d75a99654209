"""Sums over all samples of two groups of subspaces that do not follow from their couplings."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.evaluate import Evaluation
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.measures import Kernel
    from dask_svcca.tasks.panel import Panel


class SampleSums(NamedTuple):
    """What `Evaluation.values` takes.

    Attributes
    ----------
    rows : (a, b) or None
        Inner products of the squared norms of the samples; None where they are not needed.
    squares : ((a,), (b,)) or None
        Sums of the fourth powers of the norms.
    diagonals : mapping of Kernel to ((a,), (b,))
        Sums of squares of the diagonal of each kernel.
    """

    rows: FloatArray | None
    squares: tuple[FloatArray, FloatArray] | None
    diagonals: Mapping[Kernel, tuple[FloatArray, FloatArray]]


def sum_over_samples(
    evaluation: Evaluation,
    panels_a: Sequence[Panel],
    panels_b: Sequence[Panel],
    buffers: tuple[list[InexactArray], list[InexactArray]],
    room: int,
    *,
    row_norms: bool,
    kernels: Sequence[Kernel],
) -> SampleSums:
    """Sums over all samples of two sides, which are read once more where any are needed.

    Parameters
    ----------
    evaluation : Evaluation
    panels_a, panels_b : sequence of Panel
        The very same for a group with itself.
    buffers : (list of (direction, sample), the same)
    room : int
        Bytes that scores in double precision may take.
    row_norms : bool
        Whether norms of samples are needed.
    kernels : sequence of Kernel
        Kernels of which the diagonal is needed.
    """
    if not row_norms and not kernels:
        return SampleSums(None, None, {})
    asked = [evaluation.row_norm_weights] if row_norms else []
    asked += [evaluation.diagonal_weights(kernel) for kernel in kernels]
    count = 1 if panels_b is panels_a else 2
    panels = (panels_a, panels_b)[:count]
    out = [np.zeros((len(asked), members, panels_a[0].length)) for members in evaluation.shape[:count]]
    squares = [np.zeros(norms.shape[:2]) for norms in out]
    products = np.zeros(evaluation.shape)
    for chunk in range(panels_a[0].chunks):
        for side, (some, norms, square) in enumerate(zip(panels, out, squares, strict=True)):
            for panel in some:
                weights = [both[side] for both in asked]
                panel.sums_of_squares(chunk, buffers[side][0], weights, room, out=list(norms))
            np.add(square, np.einsum("wms,wms->wm", norms, norms), out=square)
        if row_norms:
            products += out[0][0] @ out[-1][0].T
    pairs = list(zip(squares[0], squares[-1], strict=True))
    diagonals = dict(zip(kernels, pairs[row_norms:], strict=True))
    return SampleSums(products, pairs[0], diagonals) if row_norms else SampleSums(None, None, diagonals)
