"""How many representations a tile has along each axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dask_svcca.kernels.grams import PORTIONS, products_by_samples
from dask_svcca.plan.grams import GRAMS_CHEAPER
from dask_svcca.plan.memory import score_dtype
from dask_svcca.plan.tiles import LONG_TILE
from dask_svcca.plan.values import most_by_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.plan.tiles import Layer, TileOptions

MAX_TILE = 640
"""Largest number of representations along a tile: ten thousand make 136 tiles, and 256 files of each variable."""

FILES = 1500
"""Files of all variables beyond which tiles are made larger than that, while there are enough for all workers."""

LEAST_TILES = 6
"""Tiles for each worker that are enough."""

SMALL_TILE = 8

TILE_PRODUCTS = 1e11
"""Multiplications in the couplings of a tile of that size from which it is made smaller: seconds of work."""

LONG_PAIR = 1e9
"""Multiplications in the coupling of a pair from which a tile of four by four is worth a task: a second or so."""

SHORT_TILE = 2e10
"""Multiplications below which a tile is not worth a task, and its files: a few tenths of a second."""

FEW_TILES = 24
"""Representations of which there are few tiles, however small."""

FEW_WORKERS = 2
"""Workers up to which a tile may take seconds, however few tiles there are: one never waits, two wait half a tile."""

EACH_PAIR = 2e6
"""Multiplications that a pair is as long as beside its coupling: its values, and its share of all that is written."""

MAX_GRAM_TILE = 512
"""Representations along each axis of a tile by inner products of samples, where its work is a second or so."""


LOOKED_UP = 1000
"""Multiplications that it is as long as to look up the neighbours of a sample."""


def pair_products(layers: Sequence[Layer], *, directions: bool = True) -> float:
    """Multiplications in the coupling of the longest pair, or what is as long where nothing looks at directions."""
    if not directions:
        return max((LOOKED_UP * float(layer.samples) for layer in layers), default=0.0)
    return max((float(layer.samples) * layer.blocks * layer.width**2 for layer in layers), default=0.0)


def score_itemsize(layers: Sequence[Layer], precision: str) -> tuple[int, int]:
    """Directions and bytes of a number of the layer whose scores are widest."""
    sizes = [(layer.directions, score_dtype(precision, is_complex=bool(layer.grid)).itemsize) for layer in layers]
    return max(sizes, key=math.prod)


def choose_tile(
    representations: int, budget: Budget, pair_products: float = 0.0, stored_bytes: int = 0, variables: int = 1
) -> int:
    """Representations along each axis of a tile.

    Enough tiles to keep all workers busy to the end (about sixteen each), few enough that neither the scheduler nor the
    file system notices: a tile is a chunk of each variable. Where a pair is long work, tiles are twice as many and as
    small as 4 x 4, so that no worker waits long for the last; where it is short, tiles are as large as makes a task
    worth it, and larger where workers are few.

    Parameters
    ----------
    representations : int
    budget : Budget
    pair_products : float
        Multiplications in the coupling of one pair; 0 where that is not known.
    stored_bytes : int
        Bytes that a tile holds of one pair until it is written: see `dask_svcca.plan.values.stored_bytes`.
    variables : int
        Variables of pairs: a tile is a file of each.

    Examples
    --------
    >>> from dask_svcca.plan.subspaces import Budget
    >>> two = Budget(2, 2**31)
    >>> choose_tile(900, two), choose_tile(256, two), choose_tile(10_000, two), choose_tile(3, two)
    (120, 32, 640, 8)
    >>> choose_tile(30, two, 1e10), choose_tile(256, two, 1e10), choose_tile(10_000, two, 1e10)
    (4, 24, 128)
    >>> choose_tile(400, two, 500 * 32**2), choose_tile(400, Budget(1, 2**31), 500 * 32**2)
    (136, 200)
    """
    long = pair_products >= LONG_PAIR
    groups = math.ceil(math.sqrt(2 * (32 if long else 16) * budget.workers))
    side = math.ceil(representations / groups)
    few = math.ceil(representations / max(1, math.isqrt(FILES // variables)))
    largest = max(MAX_TILE, math.ceil(few / SMALL_TILE) * SMALL_TILE)
    share = min(1.0, math.sqrt(TILE_PRODUCTS / max(1.0, pair_products)) / MAX_TILE)
    most = max(LONG_TILE, int(largest * share))
    if stored_bytes:
        most = min(most, most_by_values(budget.available, stored_bytes))
    few_workers = budget.workers <= FEW_WORKERS
    if pair_products and representations > (FEW_TILES if few_workers else LONG_TILE):
        enough, least = (TILE_PRODUCTS, 2 * budget.workers - 1) if few_workers else (SHORT_TILE, budget.workers)
        worthwhile = math.ceil(math.sqrt(enough / (pair_products + EACH_PAIR)))
        side = max(side, min(worthwhile, math.ceil(representations / least)))
    if not long and few > MAX_TILE:
        side = max(side, min(few, math.ceil(representations / math.sqrt(2 * LEAST_TILES * budget.workers))))
    if side > SMALL_TILE:
        side = math.ceil(side / SMALL_TILE) * SMALL_TILE
    least = SMALL_TILE // 2 if long else SMALL_TILE
    return max(least, min(most // SMALL_TILE * SMALL_TILE, side))


def tile_by_samples(
    layers: Sequence[Layer], step: int, side: int, workers: int, options: TileOptions, *, shared: bool = True
) -> int:
    """Representations along each axis of what one task computes, where the inner products of samples may be cheaper.

    A tile makes the Gram matrices of all its members anew: the larger it is the better, up to where workers wait. They
    do not where they can share a tile.

    Parameters
    ----------
    layers : sequence of Layer
    step, side : int
        What it must be a multiple of; and the same without such products.
    workers : int
    options : TileOptions
    shared : bool
        Whether tasks can be handed what others have summed: see `gram_shares`.

    Examples
    --------
    >>> from dask_svcca.measures import find_measures
    >>> from dask_svcca.plan.tiles import Layer, TileOptions
    >>> from dask_svcca.readings import Neurons
    >>> layers = [Layer.of("a/b/c", Neurons(), (5000, 256))] * 48
    >>> for names in ("svcca", "cka"):
    ...     options = TileOptions(4096, "float32", "crop", find_measures(names), {})
    ...     print(tile_by_samples(layers, 8, 8, 1, options), tile_by_samples(layers, 8, 8, 40, options))
    8 8
    48 8
    """
    if not options.norms_only or any(layer.grid for layer in layers):
        return side
    count, directions = len(layers), sum(layer.directions for layer in layers)
    samples = max((layer.samples for layer in layers), default=0)
    pairs = count * (count + 1) // 2
    best, shortest = side, samples * (directions / max(1, count)) ** 2 * pairs / workers * GRAMS_CHEAPER
    for groups in range(1, -(-count // side) + 1):
        each = step * -(-count // (groups * step))
        tiles = groups * (groups + 1) // 2
        work = products_by_samples(samples, directions * groups, count * groups, pairs)
        longest = work / min(workers, max(tiles, int(work / SHORT_TILE) if shared else 1))
        fits = each <= LONG_TILE or (each <= MAX_GRAM_TILE and work / tiles <= TILE_PRODUCTS)
        if fits and longest < shortest:
            best, shortest = each, longest
    return best


def gram_shares(
    places: Sequence[tuple[int, int]], groups: Sequence[Sequence[Layer | None]], workers: int
) -> dict[tuple[int, int], int]:
    """In how many tasks each tile sums the inner products of samples, so that all workers have their share.

    A power of two, of which sums are the same bit by bit.

    Parameters
    ----------
    places : sequence of (int, int)
        Groups of the tiles that do so.
    groups : sequence of sequence of Layer or None
        The layers of each.
    workers : int

    Examples
    --------
    >>> from dask_svcca.plan.tiles import Layer
    >>> from dask_svcca.readings import Neurons
    >>> group = [Layer.of("a/b/c", Neurons(), (5000, 256))] * 48
    >>> gram_shares([(0, 0)], [group], 2), gram_shares([(0, 0), (0, 1), (1, 1)], [group, group], 6)
    ({(0, 0): 2}, {(0, 0): 8, (0, 1): 16, (1, 1): 8})
    """

    def work(row: int, column: int) -> float:
        sides = [[layer for layer in groups[number] if layer is not None] for number in (row, column)]
        # Of kernels there is nothing to make.
        directions = [sum(layer.directions for layer in side if not layer.kernel) for side in sides]
        samples = max((layer.samples for side in sides for layer in side), default=0)
        counts = [len(side) for side in sides]
        one_each = slice(1 if row == column else 2)
        return products_by_samples(samples, sum(directions[one_each]), sum(counts[one_each]), math.prod(counts))

    each = {place: work(*place) for place in places}
    whole = sum(each.values())
    # Tiles of unequal work leave no worker without some where it is cut finer.
    tasks = workers * min(2, len(each))
    return {
        place: _power_of_two(min(round(tasks * own / whole), int(own / SHORT_TILE)))
        for place, own in each.items()
        if whole
    }


def _power_of_two(shares: int) -> int:
    """How many shares so many workers take: twice the next power of two where they are none, to be even among them.

    Examples
    --------
    >>> [_power_of_two(shares) for shares in (0, 1, 2, 3, 4, 6, 20)]
    [1, 1, 2, 8, 4, 16, 16]
    """
    power = 1 << max(0, shares - 1).bit_length()
    return min(PORTIONS, power if power <= max(1, shares) else 2 * power)
