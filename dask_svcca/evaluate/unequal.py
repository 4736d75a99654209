"""Stacks of pairs with unequal numbers of directions, as a threshold of the variance leaves them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dask_svcca.evaluate.memory import pair_bytes
from dask_svcca.kernels.couplings import HostCouplings, gathered_of_sizes, leading_of_sizes
from dask_svcca.kernels.lanes import MOST_DIRECTIONS
from dask_svcca.kernels.pairs import PairStack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dask_svcca.evaluate.basis import MemberBlock
    from dask_svcca.evaluate.group import Group
    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray
    from dask_svcca.kernels.pairs import Side

FEW_ALIKE = 64
"""Pairs with equally many directions, on average, below which those of a panel are solved together.

A stack takes half a millisecond beside what its pairs take: as long as ten pairs of forty directions.
"""


class Unequal(NamedTuple):
    """A stack of pairs, and what measures look at.

    Attributes
    ----------
    every, leading : PairStack
        With all directions, and with those that are kept.
    members_a, members_b : (pair,)
    """

    every: PairStack
    leading: PairStack
    members_a: IntArray
    members_b: IntArray


def are_unequal(blocks_a: Sequence[Sequence[MemberBlock]], blocks_b: Sequence[Sequence[MemberBlock]]) -> bool:
    """Whether members of two panels, given those with equally many directions together, are better put into one stack.

    Compiled code takes no larger ones.
    """
    pairs = sum(map(len, blocks_a)) * sum(map(len, blocks_b))
    widest = max(alike[0].directions for blocks in (blocks_a, blocks_b) for alike in blocks)
    return pairs < FEW_ALIKE * len(blocks_a) * len(blocks_b) and widest <= MOST_DIRECTIONS


class _Side:
    """Members of one panel."""

    def __init__(self, group: Group, blocks: Sequence[MemberBlock]) -> None:
        self._group = group
        self.members = np.array([block.member for block in blocks])
        self.directions = np.array([block.directions for block in blocks])
        self.kept = np.array([block.kept for block in blocks])
        self.starts = np.cumsum(self.directions) - self.directions
        # The power of two up to which numbers are in one stack: at most four times the memory of a pair.
        self.classes = np.array([1 << (count - 1).bit_length() for count in self.directions.tolist()])
        self._spectra = np.zeros((len(blocks), self.directions.max()))
        for row, block in zip(self._spectra, blocks, strict=True):
            row[: block.directions] = group.spectra_of([block])[0]

    def of(self, places: IntArray) -> Side:
        """What a stack knows of some members; zero beyond the directions of each."""
        most = self.directions[places].max()
        return self._group.side(self.members[places], self._spectra[places, :most])


def stacks(
    product: FloatArray,
    sides: tuple[tuple[Group, Sequence[MemberBlock]], tuple[Group, Sequence[MemberBlock]]],
    todo: BoolArray,
    *,
    degrees: int,
    stack_bytes: int,
    overlaps: FloatArray | None,
    tested: IntArray,
    each: bool,
) -> Iterator[Unequal]:
    """Stacks of all pairs of two panels, of real scores in single precision.

    Parameters
    ----------
    product : (directions of a, directions of b)
        Their couplings.
    sides : ((Group, sequence of MemberBlock), the same)
        Members of both panels, in its order.
    todo : (a, b)
        Pairs of the groups that are asked for.
    degrees, each
        See `PairStack`.
    stack_bytes : int
        Bytes of the pairs of a stack, as `pair_bytes` counts them; one pair may take more.
    overlaps : (member of panel a, member of panel b), optional
    tested : (a, b)
        `PairStack.blocks` of all pairs of the groups.
    """
    a, b = (_Side(*side) for side in sides)
    for k, l in itertools.product(np.unique(a.classes).tolist(), np.unique(b.classes).tolist()):
        in_a, in_b = np.flatnonzero(a.classes == k), np.flatnonzero(b.classes == l)
        pairs = np.flatnonzero(todo[np.ix_(a.members[in_a], b.members[in_b])])
        batch = max(1, stack_bytes // pair_bytes(k, l, 8))
        for start in range(0, len(pairs), batch):
            rows, columns = np.divmod(pairs[start : start + batch], len(in_b))
            at, beside = in_a[rows], in_b[columns]
            sizes = np.stack([a.directions[at], b.directions[beside]], axis=1)
            coupling = gathered_of_sizes(product, a.starts[at], b.starts[beside], sizes)
            members = a.members[at], b.members[beside]
            every = PairStack(
                HostCouplings(coupling, sizes),
                a.of(at),
                b.of(beside),
                degrees=degrees,
                single=True,
                many=True,
                samples=sides[0][0].samples,
                overlap=None if overlaps is None else overlaps[at, beside],
                blocks=tested[members],
                each=each,
                sizes=sizes,
            )
            kept = np.stack([a.kept[at], b.kept[beside]], axis=1)
            yield Unequal(every, leading_of_sizes(every, kept), *members)
            # Otherwise they would be held while the next are gathered.
            del coupling, every
