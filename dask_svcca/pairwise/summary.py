"""The numbers that sum up a comparison: its mean correlation, and what chance gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.evaluate import Basis, Evaluation, MemberBlock
from dask_svcca.measures import find_measures, with_companions

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.pairwise.components import Components
    from dask_svcca.pairwise.principals import DecomposedArray

NAMES = {
    "mean_correlation": ("svcca", "mean correlation, over the smaller rank"),
    "expected_correlation": ("null_svcca", "mean correlation of independent arrays of these ranks"),
    "significant": ("significant", "correlations that are more than chance, at level 0.05 for Gaussian samples"),
    "spurious": ("spurious", "correlations that are 1 whatever the data, since samples are too few"),
}
"""Measures whose values sum up a comparison, and what they are called here."""


def summarize(components: Components) -> dict[str, tuple[float | int, str]]:
    """Sum up canonical correlations, and what the ranks and the number of samples alone say of them.

    Parameters
    ----------
    components : Components
        Components of canonical directions. All count, not only those asked for.

    Returns
    -------
    dict
        Value and description by name: ``mean_correlation``, ``expected_correlation``, ``significant``, ``spurious``.
    """
    decomposition = components.decomposition
    a, b = decomposition.arrays
    evaluation = Evaluation(
        {0: _basis(a, decomposition.samples)},
        {0: _basis(b, decomposition.samples)},
        decomposition.meeting,
        with_companions(find_measures("svcca")),
        np.ones((1, 1), dtype=np.bool_),
    )
    for shared, one in zip(decomposition.meeting.shared, components.pairings, strict=True):
        k, l = a.directions(one.pairing.a), b.directions(one.pairing.b)
        if k and l:
            # Between directions that are aligned, the coupling is the diagonal of their correlations.
            coupling = _diagonal(one.aligned.values, k, l)
            blocks = (_block(shared.a, k), _block(shared.b, l))
            evaluation.add(coupling[np.newaxis, np.newaxis], [blocks[0]], [blocks[1]], shared)
    values = {name: value[0].item() for name, value in evaluation.values().values.items()}
    counts = {"significant", "spurious"}
    return {
        name: (int(values[measure]) if name in counts else values[measure], description)
        for name, (measure, description) in NAMES.items()
    }


def _basis(array: DecomposedArray, samples: int) -> Basis:
    """Directions that the threshold keeps, at all frequencies."""
    principals = sorted(array.principals.items(), key=lambda item: item[0].frequency)
    counts = [len(principal.singular) for _, principal in principals]
    return Basis(
        spectrum=np.concatenate([principal.singular**2 for _, principal in principals]),
        block=np.repeat([member.frequency for member, _ in principals], counts),
        kept=np.ones(sum(counts), dtype=np.bool_),
        grid=array.source.reading.grid,
        samples=samples,
        neurons=array.source.neurons,
    )


def _block(index: int, directions: int) -> MemberBlock:
    # No measure here reads the spectrum, so that its offset does not matter.
    return MemberBlock(0, index, 0, directions, directions)


def _diagonal(values: FloatArray, k: int, l: int) -> FloatArray:
    diagonal = np.zeros((k, l))
    np.fill_diagonal(diagonal, values)
    return diagonal
