"""How large what a comparison keeps of every pair can be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dask_svcca.variables import KEPT_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.kernels.readings import Reading

KEPT_BYTES = 32 * 2**20
"""What tiles are made small enough for, in what they keep of their pairs."""

COPIES = 5
"""How often a tile holds what it keeps: as it is, turned, merged with what the store has, and as it is written."""

Sizes = dict[str, tuple[int, ...]]
"""By the name of what is kept, sizes of the dims of its variable behind those of the pair."""


def kept_sizes(keep: Sequence[str], readings: Sequence[Reading], shapes: Sequence[Sequence[int]]) -> Sizes:
    """Sizes that hold what is kept of any pair of these representations.

    Parameters
    ----------
    keep : sequence of {"correlations", "frequencies"}
    readings : sequence of Reading
    shapes : sequence of sequence of int
        Of the activations.

    Returns
    -------
    dict of str to tuple of int
        As many components as a layer can have directions; and the largest height and width of a DFT, 0 where there
        is none.

    Examples
    --------
    >>> from dask_svcca.kernels.readings import Reading
    >>> layers = [Reading("neurons"), Reading("dft", (8, 4), grid=(8, 4))]
    >>> kept_sizes(("correlations", "frequencies"), layers, [(50, 64), (50, 8, 4, 3)])
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
    """Bytes kept of one pair.

    Examples
    --------
    >>> pair_bytes({"correlations": (100,), "frequencies": (8, 8)})
    656
    """
    itemsizes = {name: int(variable.dtype.removeprefix("float")) // 8 for name, variable in KEPT_VARIABLES.items()}
    return sum(math.prod(size) * itemsizes[name] for name, size in sizes.items())


def smaller_tile(tile: int, sizes: Mapping[str, tuple[int, ...]]) -> int:
    """Side of a tile that keeps no more than `KEPT_BYTES` of its pairs, if a single one does not.

    Examples
    --------
    >>> smaller_tile(112, {"correlations": (16_384,)}), smaller_tile(8, {"correlations": (10**7,)})
    (16, 1)
    """
    own = pair_bytes(sizes)
    side = min(tile, max(1, math.isqrt(KEPT_BYTES // own))) if own else tile
    return side - side % 8 if side > 8 else side
