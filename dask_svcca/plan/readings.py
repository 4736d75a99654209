"""How representations are read under the parameters of a comparison, and how two readings meet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_svcca.kernels.fourier import Grid, SharedFrequency, shared_frequencies
from dask_svcca.kernels.readings import Reading
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.plan.parameters import Parameters


def choose_reading(dims: Sequence[str], shape: Sequence[int], parameters: Parameters) -> Reading:
    """How a representation of these dims is read.

    Parameters
    ----------
    dims : sequence of str
        The first is ``example``, the last ``neuron`` or ``channel``.
    shape : sequence of int
    parameters : Parameters

    Examples
    --------
    >>> from dask_svcca.plan.parameters import Parameters
    >>> choose_reading(("example", "height", "width", "channel"), (100, 8, 8, 16), Parameters(conv="dft")).grid
    (8, 8)
    >>> choose_reading(("example", "neuron"), (100, 16), Parameters()).kind
    'neurons'
    """
    sizes = tuple(shape[1:-1])
    if not sizes:
        return Reading("neurons")
    if "token" in dims:
        return Reading(parameters.sequence, sizes, positions=parameters.positions, mask=parameters.mask or "")
    if parameters.conv == "positions":
        size = parameters.spatial_size or ()
        # A layer with another number of axes stays as it is, and has no samples in common with those resampled.
        resampled = size if len(size) == len(sizes) else ()
        return Reading("positions", sizes, positions=parameters.positions, resampled=resampled)
    if math.prod(sizes) == 1:
        # One position has one frequency: it is a dense layer.
        return Reading("flatten", sizes)
    return Reading(parameters.conv, sizes, grid=sizes if parameters.conv == "dft" else ())


@dataclass(frozen=True, slots=True)
class Meeting:
    """How two representations are compared.

    Attributes
    ----------
    fold_a, fold_b : tuple of int
        Grid whose subspace is taken, where it is not the representation's own; empty otherwise.
    shared : tuple of SharedFrequency
    cropped : bool
        Whether frequencies that only one of the layers has were left out.
    """

    fold_a: Grid
    fold_b: Grid
    shared: tuple[SharedFrequency, ...]
    cropped: bool


def meet(  # noqa: PLR0911 - one return a case, in the order they are told apart
    domain_a: str, grid_a: Grid, domain_b: str, grid_b: Grid, match: str
) -> Meeting | PairStatus:
    """How two readings meet, or why they do not.

    Parameters
    ----------
    domain_a, domain_b : str
        What a sample is: `Reading.domain`.
    grid_a, grid_b : tuple of int
        Of the DFT; empty for a dense layer, which meets the zero frequency of a convolutional one.
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
