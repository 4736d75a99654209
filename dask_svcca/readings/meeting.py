"""How two readings are brought together, or why they cannot be."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_svcca.kernels.fourier import Grid, SharedFrequency, shared_frequencies
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_svcca.kernels._types import BoolArray


EXAMPLES = "examples"
"""What a sample is where there is one of each example."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """How two representations are compared.

    Attributes
    ----------
    fold_a, fold_b : tuple of int
        Coarser grid that the representation is folded on; empty for its own grid.
    shared : tuple of SharedFrequency
        Frequencies at which they are compared.
    cropped : bool
        Whether frequencies that only one of the layers has were left out.
    """

    fold_a: Grid
    fold_b: Grid
    shared: tuple[SharedFrequency, ...]
    cropped: bool

    @property
    def is_of_samples(self) -> bool:
        """Whether they are compared at the zero frequency alone, which sees samples and no translations of them."""
        return [(one.a, one.b) for one in self.shared] == [(0, 0)]


def meet(  # noqa: PLR0911 - one return per case
    domain_a: str, grid_a: Grid, domain_b: str, grid_b: Grid, match: str
) -> Meeting | PairStatus:
    """How two readings are brought together, or why they cannot be.

    Parameters
    ----------
    domain_a, domain_b : str
        What a sample is: `Reading.domain`.
    grid_a, grid_b : tuple of int
        Grid of the DFT; empty for a dense layer, which is compared with the zero frequency of a convolutional layer.
    match : {"crop", "fold"}
        What to do with grids of unequal size.

    Examples
    --------
    >>> meet("examples", (8, 8), "examples", (4, 4), "fold").fold_a
    (4, 4)
    >>> meet("examples", (8, 8), "examples", (5, 5), "fold").name
    'INCOMPATIBLE_GRIDS'
    """
    if domain_a != domain_b:
        return PairStatus.INCOMPATIBLE_SAMPLES
    if grid_a == grid_b or not grid_a or not grid_b:
        return Meeting((), (), shared_frequencies(grid_a, grid_b), cropped=False)
    if len(grid_a) != len(grid_b):
        return PairStatus.INCOMPATIBLE_GRIDS
    if match == "crop":
        return Meeting((), (), shared_frequencies(grid_a, grid_b), cropped=True)
    if divides(grid_b, grid_a):
        return Meeting(grid_b, (), shared_frequencies(grid_b, grid_b), cropped=False)
    if divides(grid_a, grid_b):
        return Meeting((), grid_a, shared_frequencies(grid_a, grid_a), cropped=False)
    return PairStatus.INCOMPATIBLE_GRIDS


def divides(coarse: Grid, fine: Grid) -> bool:
    """Whether a grid can be folded on another: sizes divide axis by axis.

    Examples
    --------
    >>> divides((4, 4), (8, 8)), divides((4, 8), (8, 4))
    (True, False)
    """
    return len(coarse) == len(fine) and all(f % c == 0 for c, f in zip(coarse, fine, strict=True))


def needed_folds(
    grids: Sequence[Grid], asked: Callable[[list[int], list[int]], BoolArray]
) -> dict[int, tuple[Grid, ...]]:
    """Coarser grids that each representation is folded on.

    Parameters
    ----------
    grids : sequence of tuple of int
        Grid of each representation; empty without one.
    asked : callable
        Takes two lists of representations, and says which of the first are to be compared with any of the second.

    Examples
    --------
    >>> import numpy as np
    >>> needed_folds([(8, 8), (4, 4), ()], lambda a, b: np.ones(len(a), dtype=bool))
    {0: ((4, 4),)}
    """
    members: dict[Grid, list[int]] = {}
    for index, grid in enumerate(grids):
        members.setdefault(grid, []).append(index)
    folds: dict[int, tuple[Grid, ...]] = {}
    for fine, coarse in itertools.permutations(filter(None, members), 2):
        if divides(coarse, fine):
            for index, wanted in zip(members[fine], asked(members[fine], members[coarse]), strict=True):
                if wanted:
                    folds[index] = (*folds.get(index, ()), coarse)
    return folds
