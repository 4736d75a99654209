"""The numbers that sum up a comparison: its mean correlation, and what chance gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np

from dask_svcca.evaluate import Basis, Evaluation, MemberBlock
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.pairwise.leverages import leverage_overlaps

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.pairwise.components import Components
    from dask_svcca.pairwise.principals import DecomposedArray
    from dask_svcca.readings import Meeting

NAMES = {
    "mean_correlation": ("svcca", "mean correlation, over the smaller rank"),
    "expected_correlation": ("null_svcca", "mean correlation of independent arrays of these ranks"),
    "significant": ("significant", "correlations that are more than chance, at level 0.05"),
    "spurious": ("spurious", "correlations that are 1 whatever the data, since samples are too few"),
}
"""Measures whose values sum up a comparison, and what they are called here."""


def summarize(components: Components) -> dict[str, tuple[Any, str]]:
    """Sum up canonical correlations, and what ranks, the number of samples and extreme samples say of them.

    Parameters
    ----------
    components : Components
        Components of canonical directions. All count, not only those asked for.

    Returns
    -------
    dict
        Value and description by name: ``mean_correlation``, ``expected_correlation``, ``significant``, ``spurious``.
        The third is lazy where an array is a Dask array.
    """
    met = _Met.of(components)
    overlaps = leverage_overlaps(components.decomposition)
    if isinstance(overlaps, np.ndarray):
        values = met.values(overlaps)
    else:
        counted = dask.delayed(_Met.significant)(dask.delayed(met), overlaps)
        values = met.values(None) | {"significant": da.from_delayed(counted, (), dtype=np.int64)}
    return {name: (values[measure], description) for name, (measure, description) in NAMES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Met:
    """Two arrays as they are compared: their directions by frequency, and the correlations of these.

    Attributes
    ----------
    bases : (Basis, Basis)
    meeting : Meeting
    correlations : tuple of (component,)
        At each of the frequencies that are compared.
    ranks : tuple of (int, int)
        Directions of both there.
    """

    bases: tuple[Basis, Basis]
    meeting: Meeting
    correlations: tuple[FloatArray, ...]
    ranks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, components: Components) -> _Met:
        decomposition = components.decomposition
        a, b = decomposition.arrays
        pairings = [one.pairing for one in components.pairings]
        return cls(
            (_basis(a, decomposition.samples), _basis(b, decomposition.samples)),
            decomposition.meeting,
            tuple(one.aligned.values for one in components.pairings),
            tuple((a.directions(one.a), b.directions(one.b)) for one in pairings),
        )

    def values(self, overlaps: FloatArray | None) -> dict[str, Any]:
        """Values of the measures, with what is known of extreme samples."""
        evaluation = Evaluation(
            {0: self.bases[0]},
            {0: self.bases[1]},
            self.meeting,
            with_companions(find_measures("svcca")),
            np.ones((1, 1), dtype=np.bool_),
        )
        known = [None] * len(self.ranks) if overlaps is None else [np.full((1, 1), each) for each in overlaps]
        met = zip(self.meeting.shared, self.correlations, self.ranks, known, strict=True)
        for shared, correlations, (k, l), overlap in met:
            if k and l:
                # Between directions that are aligned, the coupling is the diagonal of their correlations.
                coupling = _diagonal(correlations, k, l)
                blocks = (_block(shared.a, k), _block(shared.b, l))
                evaluation.add(coupling[np.newaxis, np.newaxis], [blocks[0]], [blocks[1]], shared, overlaps=overlap)
        values = {name: value[0].item() for name, value in evaluation.values().values.items()}
        return values | {name: int(values[name]) for name in ("significant", "spurious")}

    def significant(self, overlaps: FloatArray) -> Any:
        """How many correlations are more than chance."""
        return np.int64(self.values(overlaps)["significant"])


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
