"""Sizes of the details of a pair that a comparison stores beside its measures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dask_svcca.variables import DETAIL_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.readings import Reading

DETAIL_BYTES = 32 * 2**20
"""Largest size of the details of a tile, which is made small enough for it."""

Sizes = dict[str, tuple[int, ...]]
"""By name, sizes of the dims of a detail's variable after those of the pair."""


def detail_sizes(keep: Sequence[str], readings: Sequence[Reading], shapes: Sequence[Sequence[int]]) -> Sizes:
    """Sizes that hold the details of any pair of these representations.

    Parameters
    ----------
    keep : sequence of {"correlations", "frequencies"}
    readings : sequence of Reading
    shapes : sequence of sequence of int
        Shapes of the activations.

    Returns
    -------
    dict of str to tuple of int
        As many components as a layer can have directions; and the largest height and width of a DFT, 0 where there
        is none.

    Examples
    --------
    >>> from dask_svcca.readings import Fourier, Neurons
    >>> layers = [Neurons(), Fourier.of((8, 4))]
    >>> detail_sizes(("correlations", "frequencies"), layers, [(50, 64), (50, 8, 4, 3)])
    {'correlations': (96,), 'frequencies': (8, 4)}
    """
    sizes: Sizes = {}
    if "correlations" in keep:
        directions = (
            math.prod(reading.grid) * min(reading.neurons(shape[-1]), reading.samples(shape[0]))
            for reading, shape in zip(readings, shapes, strict=True)
        )
        sizes["correlations"] = (max(directions, default=1),)
    if "frequencies" in keep:
        grids = [reading.grid for reading in readings if len(reading.grid) == 2] or [(0, 0)]
        sizes["frequencies"] = (max(grid[0] for grid in grids), max(grid[1] for grid in grids))
    return sizes


def pair_bytes(sizes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of the details of one pair.

    Examples
    --------
    >>> pair_bytes({"correlations": (100,), "frequencies": (8, 8)})
    656
    """
    itemsizes = {name: int(variable.dtype.removeprefix("float")) // 8 for name, variable in DETAIL_VARIABLES.items()}
    return sum(math.prod(size) * itemsizes[name] for name, size in sizes.items())


def smaller_tile(tile: int, sizes: Mapping[str, tuple[int, ...]]) -> int:
    """Representations along each axis of a tile with at most `DETAIL_BYTES` of details, or with a single pair.

    Examples
    --------
    >>> smaller_tile(112, {"correlations": (16_384,)}), smaller_tile(8, {"correlations": (10**7,)})
    (16, 1)
    """
    own = pair_bytes(sizes)
    side = min(tile, max(1, math.isqrt(DETAIL_BYTES // own))) if own else tile
    return side - side % 8 if side > 8 else side
