"""From principal directions to components: those of all paired frequencies together, in one order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.pairwise.layout import Filters, copies, signed_frequency

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.directions import Aligned, Principal
    from dask_svcca.pairwise.layout import Kind, Pairing
    from dask_svcca.pairwise.principals import Decomposition


@dataclass(frozen=True, slots=True, eq=False)
class AlignedPairing:
    """Two paired frequencies, and the directions that are aligned between them."""

    pairing: Pairing
    kind: Kind
    aligned: Aligned

    @property
    def copies(self) -> int:
        """How many components each of its directions stands for."""
        return copies(self.kind)


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Components of all paired frequencies, by descending value. A double component counts as two.

    Attributes
    ----------
    decomposition : Decomposition
    pairings : tuple of AlignedPairing
    all_values : (component,)
        Values of all components, not only of those asked for.
    order : (component,)
        Place of each component asked for, in the concatenation of the components of all pairings.
    """

    decomposition: Decomposition
    pairings: tuple[AlignedPairing, ...]
    all_values: FloatArray
    order: IntArray

    def leading(self, count: int) -> Components:
        """Only the leading components."""
        return replace(self, order=self.order[:count])

    @property
    def values(self) -> FloatArray:
        """Correlations, or singular values."""
        return self.all_values[: len(self.order)]

    def forward(self, array: int) -> Filters:
        """Linear maps from activations of an array, 0 or 1, to its directions."""
        return self._filters(array, lambda aligned: (aligned.coefficients_a, aligned.coefficients_b)[array])

    def backward(self, array: int) -> Filters:
        """Linear maps from directions of an array to its activations, transposed."""
        return self._filters(array, lambda aligned: (aligned.loads_a, aligned.loads_b)[array])

    def lengths(self, array: int) -> FloatArray:
        """Norms of the directions."""
        return self._gather(lambda one: _norms((one.aligned.directions_a, one.aligned.directions_b)[array]))

    def explained(self, array: int) -> FloatArray:
        """Share of the variance of all neurons that a direction explains."""
        loads = self._gather(lambda one: _norms((one.aligned.loads_a, one.aligned.loads_b)[array]))
        return np.asarray((self.lengths(array) * loads) ** 2 / self.decomposition.arrays[array].scatter)

    def frequencies(self, array: int) -> IntArray:
        """Spatial frequency of each component, (component, axis)."""
        grid = self.decomposition.arrays[array].source.reading.grid
        return self._gather(
            lambda one: np.tile(signed_frequency(grid, one.pairing.members[array]), (len(one.aligned.values), 1))
        )

    def _gather(self, values_of: Callable[[AlignedPairing], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """One value per component, from one value per direction of each pairing."""
        return np.concatenate([np.repeat(values_of(one), one.copies, axis=0) for one in self.pairings])[self.order]

    def _filters(self, array: int, weights_of: Callable[[Aligned], InexactArray]) -> Filters:
        decomposed = self.decomposition.arrays[array]
        parts = []
        for one in self.pairings:
            weights = weights_of(one.aligned)
            parts.append((one.pairing.members[array], one.kind, weights.conj() if one.pairing.conjugated else weights))
        return Filters(decomposed.source.reading, decomposed.mean, tuple(parts), self.order)


def find_components(
    decomposition: Decomposition, align: Callable[[Principal, Principal], Aligned], count: int | None
) -> Components:
    """Align the directions of paired frequencies, and put all components in order.

    Parameters
    ----------
    decomposition : Decomposition
    align : callable
        One of `dask_svcca.kernels.directions`.
    count : int or None
        How many of the leading components are asked for; None for all.

    Raises
    ------
    ValueError
        For a count below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"components is how many to return, at least 1, or None for all; got {count!r}")
    layout, arrays = decomposition.layout, decomposition.arrays
    pairings = []
    for pairing in layout.pairings:
        a, b = (arrays[member.array].principals[member] for member in (pairing.a, pairing.b))
        pairings.append(AlignedPairing(pairing, layout.kind(pairing), align(a, b)))
    values = np.concatenate([np.repeat(one.aligned.values, one.copies) for one in pairings])
    order = np.argsort(-values, kind="stable")
    components = Components(decomposition, tuple(pairings), values[order], order)
    return components if count is None else components.leading(count)


def _norms(columns: InexactArray) -> FloatArray:
    return np.asarray(np.linalg.norm(columns, axis=0))
