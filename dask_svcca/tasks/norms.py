"""Sums over all samples of two groups of subspaces that do not follow from their couplings."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dask_svcca.tasks.ahead import Ahead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.evaluate import Evaluation
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.measures import Kernel
    from dask_svcca.tasks.panel import Panel
    from dask_svcca.tasks.worker import Context


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
    context: Context,
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

    Those of a diagonal are of one representation: a process finds them once, for all of its tiles.

    Parameters
    ----------
    context : Context
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
    known = context.worker.diagonals
    asked = [evaluation.row_norm_weights] if row_norms else []
    asked += [evaluation.diagonal_weights(kernel) for kernel in kernels]
    sides = (panels_a, panels_b)[: 1 if panels_b is panels_a else 2]
    some = sides if row_norms else tuple(_lacking(panels, known, kernels) for panels in sides)
    out = [np.zeros((len(asked), members, panels_a[0].length)) for members in evaluation.shape[: len(sides)]]
    squares = [np.zeros(norms.shape[:2]) for norms in out]
    products = np.zeros(evaluation.shape)
    order = [(side, panel) for side, panels in enumerate(some) for panel in panels]
    steps = (
        [panel.coming(chunk, buffers[side], chunk * len(order) + place)]
        for chunk in range(panels_a[0].chunks)
        for place, (side, panel) in enumerate(order)
    )
    with Ahead(context.device) as ahead:
        scores = ahead(steps)
        for _ in range(panels_a[0].chunks if order else 0):
            for side, panel in order:
                panel.sums_of_squares(next(scores)[0], [both[side] for both in asked], room, out=list(out[side]))
            for norms, square in zip(out, squares, strict=True):
                np.add(square, np.einsum("wms,wms->wm", norms, norms), out=square)
            if row_norms:
                products += out[0][0] @ out[-1][0].T
    for panels, found, square in zip(sides, some, squares, strict=True):
        for kernel, sums in zip(kernels, square[row_norms:], strict=True):
            new = {number for panel in found for number in panel.members}
            for number, place in _places(panels).items():
                if number in new:
                    known[*place, kernel] = float(sums[number])
                else:
                    sums[number] = known[*place, kernel]
    pairs = list(zip(squares[0], squares[-1], strict=True))
    diagonals = dict(zip(kernels, pairs[row_norms:], strict=True))
    return SampleSums(products, pairs[0], diagonals) if row_norms else SampleSums(None, None, diagonals)


def _lacking(
    panels: Sequence[Panel], known: Mapping[tuple[str, int, Kernel], float], kernels: Sequence[Kernel]
) -> list[Panel]:
    """The same panels without members whose diagonals are known."""
    places = _places(panels)
    unknown = [number for number, place in places.items() if any((*place, one) not in known for one in kernels)]
    return [few for panel in panels if (few := panel.only(unknown)) is not None]


def _places(panels: Sequence[Panel]) -> dict[int, tuple[str, int]]:
    """Pack of each member, and its position there."""
    return {number: place for panel in panels for number, place in panel.stored.items()}
