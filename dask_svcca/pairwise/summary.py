"""The numbers that sum up a comparison: its mean correlation, and what chance gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.kernels.chance import expected_correlation, significant_correlations, spurious_correlations

if TYPE_CHECKING:
    from dask_svcca.pairwise.components import Components


def summarize(components: Components) -> dict[str, tuple[float | int, str]]:
    """Sum up canonical correlations, and what the ranks and the number of samples alone say of them.

    Parameters
    ----------
    components : Components
        Those of canonical directions. All count, whichever are asked for.

    Returns
    -------
    dict
        Value and description by name: ``mean_correlation``, ``expected_correlation``, ``significant``, ``spurious``.
    """
    decomposition = components.decomposition
    expected, significant, spurious = 0.0, 0, 0
    for one in components.pairings:
        a, b = one.pairing.a, one.pairing.b
        k, l = (decomposition.arrays[member.array].directions(member) for member in (a, b))
        degrees = decomposition.samples - (a.frequency == 0)
        expected += one.copies * min(k, l) * expected_correlation(k, l, degrees)
        spurious += one.copies * spurious_correlations(k, l, degrees)
        correlations = one.aligned.values[np.newaxis]
        (count,) = significant_correlations(correlations, k, l, degrees, is_complex=one.kind != "real")
        significant += one.copies * int(count)
    smaller_rank = decomposition.smaller_rank
    mean = float(components.all_values.sum()) / smaller_rank
    return {
        "mean_correlation": (mean, "mean correlation, over the smaller rank"),
        "expected_correlation": (expected / smaller_rank, "mean correlation of independent arrays of these ranks"),
        "significant": (significant, "correlations that are more than chance, at level 0.05"),
        "spurious": (spurious, "correlations that are 1 whatever the data, there being too few samples"),
    }
