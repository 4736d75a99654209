"""Values of measures for pairs of two groups, from their couplings, block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dask_svcca.devices import HOST
from dask_svcca.evaluate.details import Correlations, FrequencyMeans
from dask_svcca.evaluate.group import Group
from dask_svcca.evaluate.memory import STACK_BYTES, pair_bytes
from dask_svcca.evaluate.unequal import stacks
from dask_svcca.kernels.couplings import HostCouplings
from dask_svcca.kernels.lanes import solves_many
from dask_svcca.kernels.pairs import PairStack
from dask_svcca.measures import Measure, PairTotals, Totals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dask_svcca.devices.interface import Array, Device
    from dask_svcca.evaluate.basis import Basis, MemberBlock
    from dask_svcca.evaluate.details import Details, TakesCorrelations
    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import SharedFrequency
    from dask_svcca.measures import Directions, Kernel
    from dask_svcca.readings import Meeting

ROUNDING = 1e-5
"""How far beyond its range rounding may take a measure of scores in single precision."""


@dataclass(frozen=True, slots=True)
class Values:
    """Values of all measures for pairs of two groups.

    Attributes
    ----------
    values : dict of str to ((a, b), (a, b))
        By measure: of a with b, and of b with a.
    saturated : ((a, b), (a, b))
        Whether the number of samples alone fixes a measure: of a with b, and of b with a.
    """

    values: Mapping[str, tuple[FloatArray, FloatArray]]
    saturated: tuple[BoolArray, BoolArray]


class Evaluation:
    """Takes couplings of pairs, block by block; gives the values of measures when all are there.

    Parameters
    ----------
    a, b : mapping of int to Basis
        By position in the group. All on one side have the same samples and grid.
    meeting : Meeting
        How the two sides are compared.
    measures : sequence of Measure
    todo : (a, b)
        Pairs to evaluate. What is returned for others has no meaning.
    details : dict of str to (a, b, ...), optional
        Arrays that take the details of pairs, see `no_details`.
    single : bool
        Whether scores are in single precision.
    many : bool
        Whether there is so much to evaluate that compiled code is worth to be loaded: see `PairStack.many`.
    stack_bytes : int
        Bytes of the pairs that are solved together, as `pair_bytes` counts them; one pair may take more.
    device : Device
        Where couplings are, and what is made of them is computed.
    """

    def __init__(
        self,
        a: Mapping[int, Basis],
        b: Mapping[int, Basis],
        meeting: Meeting,
        measures: Sequence[Measure],
        todo: BoolArray,
        *,
        details: Details | None = None,
        single: bool = False,
        many: bool = False,
        stack_bytes: int = STACK_BYTES,
        device: Device = HOST,
    ) -> None:
        self.meeting = meeting
        self._measures = measures
        self._todo = todo
        self._single = single
        self._stack_bytes = stack_bytes
        self._device = device
        self._a, self._b = Group(a, todo.shape[0], meeting, "a"), Group(b, todo.shape[1], meeting, "b")
        self._takers = list(self._take(details or {}, a, b))
        self._sums = {m.name: np.zeros((*todo.shape, m.components)) for m in measures}
        self._turned_sums = {m.name: np.zeros((*todo.shape, m.components)) for m in measures if not m.symmetric}
        self._tested = self._blocks_in_common()
        self._many = many
        # Loadings differ from block to block: couplings of different blocks must not share a stack.
        self._by_block = any("loadings" in measure.needs for measure in measures)
        self._each = bool(self._takers)
        self._pieces: dict[_Key, list[_Piece]] = {}
        self._bytes: dict[_Key, int] = {}

    def _take(self, details: Details, a: Mapping[int, Basis], b: Mapping[int, Basis]) -> Iterator[TakesCorrelations]:
        if "correlations" in details:
            ranks = self._a.ranks("kept"), self._b.ranks("kept")
            yield Correlations(details["correlations"], self._todo, *ranks)
        if "frequencies" in details:
            yield FrequencyMeans(details["frequencies"], self._todo, a, b, self.meeting)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of members of each group."""
        return self._todo.shape

    @property
    def row_norm_weights(self) -> tuple[Mapping[int, FloatArray], Mapping[int, FloatArray]]:
        """By what squared scores are multiplied to sum up to squared norms of samples: (direction,) by member."""
        return self._a.row_norm_weights, self._b.row_norm_weights

    @property
    def kernels(self) -> list[Kernel]:
        """Kernels of which measures need the diagonal."""
        needing = (measure.kernel for measure in self._measures if "diagonal" in measure.needs)
        return list(dict.fromkeys(needing))

    @property
    def with_leverages(self) -> bool:
        """Whether a measure needs leverages."""
        return any("leverages" in measure.needs for measure in self._measures)

    def diagonal_weights(self, kernel: Kernel) -> tuple[Mapping[int, FloatArray], Mapping[int, FloatArray]]:
        """By what squared scores are multiplied to sum up to the diagonal of a kernel: (direction,) by member."""
        return self._a.diagonal_weights(kernel), self._b.diagonal_weights(kernel)

    def add(
        self,
        couplings: Array,
        blocks_a: Sequence[MemberBlock],
        blocks_b: Sequence[MemberBlock],
        frequency: SharedFrequency,
        loadings: tuple[Mapping[int, InexactArray], Mapping[int, InexactArray]] = ({}, {}),
        overlaps: FloatArray | None = None,
    ) -> None:
        """Take the couplings of some members of a with some of b.

        Parameters
        ----------
        couplings : (a, b, k, l)
            At one frequency, ``scores_a.conj().T @ scores_b``. May be a view: it is copied when `finish` is called, or
            before.
        blocks_a, blocks_b : sequence of MemberBlock
            Blocks of the two sides, those of one side with equally many directions.
        frequency : SharedFrequency
        loadings : (mapping of int to (neuron, direction), the same)
            Loadings of all directions by member, where a measure needs them.
        overlaps : (a, b), optional
            Sums over the samples of the products of leverages, where they are known and a measure needs them.
        """
        k, l = blocks_a[0].directions, blocks_b[0].directions
        members_a, members_b = (np.array([block.member for block in blocks]) for blocks in (blocks_a, blocks_b))
        rows, columns = np.nonzero(self._todo[members_a][:, members_b])
        key = _Key(
            shape=(k, l),
            kept=(blocks_a[0].kept, blocks_b[0].kept),
            centred=frequency.a == 0 and frequency.b == 0,
            is_complex=self._a.counts_twice(frequency.a) or self._b.counts_twice(frequency.b),
            block=(frequency.a, frequency.b) if self._by_block else None,
        )
        one = pair_bytes(k, l, 16 if self._device.is_complex(couplings) else 8)
        batch = max(1, self._stack_bytes // one)
        if self._bytes.get(key, 0) + one * min(batch, len(rows)) > self._stack_bytes:
            self._solve(key)
        spectra_a, spectra_b = self._a.spectra_of(blocks_a), self._b.spectra_of(blocks_b)
        for start in range(0, len(rows), batch):
            part = slice(start, start + batch)
            piece = _Piece(
                couplings=couplings,
                rows=rows[part],
                columns=columns[part],
                members_a=members_a[rows[part]],
                members_b=members_b[columns[part]],
                spectra_a=spectra_a[rows[part]],
                spectra_b=spectra_b[columns[part]],
                overlaps=None if overlaps is None else overlaps[rows[part], columns[part]],
                frequency=frequency,
            )
            self._pieces.setdefault(key, []).append(piece)
            self._bytes[key] = self._bytes.get(key, 0) + one * len(piece.rows)
            if self._by_block:
                # Where only one of the two frequencies is conjugated, the coupling is that of a's conjugate.
                self._a.take_loadings(loadings[0], blocks_a, conjugate=frequency.conjugate)
                self._b.take_loadings(loadings[1], blocks_b, conjugate=False)
            if self._by_block or self._bytes[key] > self._stack_bytes // 2:
                self._solve(key)

    def takes_unequal(self, product: Array) -> bool:
        """Whether pairs with unequal numbers of directions, of which this is a product, are for `add_unequal`."""
        given = self._single and self._many and self._device is HOST and not self._takers
        given = given and product.dtype.kind == "f" and all(measure.takes_sizes for measure in self._measures)
        # Loading what is compiled comes last.
        return given and solves_many()

    def add_unequal(
        self,
        product: FloatArray,
        blocks_a: Sequence[MemberBlock],
        blocks_b: Sequence[MemberBlock],
        frequency: SharedFrequency,
        overlaps: FloatArray | None = None,
    ) -> None:
        """Take the couplings of all members of two panels, and solve them: few have equally many directions.

        Parameters
        ----------
        product : (directions of a, directions of b)
            At one frequency.
        blocks_a, blocks_b : sequence of MemberBlock
            In the order of the panels.
        frequency : SharedFrequency
        overlaps : (a, b), optional
            See `add`.
        """
        centred = frequency.a == 0 and frequency.b == 0
        for found in stacks(
            product,
            ((self._a, blocks_a), (self._b, blocks_b)),
            self._todo,
            degrees=self._a.samples - 1 if centred else self._a.samples,
            stack_bytes=self._stack_bytes,
            overlaps=overlaps,
            tested=self._tested,
            each=self._each,
        ):
            weights = np.full(len(found.members_a), frequency.multiplicity)
            self._sum_up(found.every, found.leading, found.members_a, found.members_b, weights)
            del found

    def take_norms(self, norms: FloatArray) -> None:
        """Take squared norms of cross-covariances, (a, b), of layers with one block, where no measure asks for more."""
        a, b = self._a, self._b
        blocks = b.blocks()
        spectra = np.zeros((self._todo.shape[1], max((block.directions for block in blocks), default=0)))
        for block in blocks:
            spectra[block.member, : block.directions] = b.spectra_of([block])[0]
        for block in a.blocks():
            members_b = np.flatnonzero(self._todo[block.member])
            members_a = np.full(len(members_b), block.member)
            shape = len(members_b), block.directions, spectra.shape[1]
            stack = PairStack(
                HostCouplings(np.broadcast_to(0.0, shape)),
                a.side(members_a, np.broadcast_to(a.spectra_of([block])[0], shape[:2])),
                b.side(members_b, spectra[members_b]),
                degrees=a.samples - 1,
                norms=norms[block.member, members_b],
            )
            for measure in self._measures:
                width = measure.components
                self._sums[measure.name][block.member, members_b] = measure.sums(stack).reshape(-1, width)
                if not measure.symmetric:
                    turned = measure.sums(stack.reversed).reshape(-1, width)
                    self._turned_sums[measure.name][block.member, members_b] = turned

    def forget_loadings(self) -> None:
        """Let go of the loadings that were given last."""
        self._a.forget_loadings()
        self._b.forget_loadings()

    def finish(self) -> None:
        """Solve what is left, so that couplings given may be overwritten."""
        for key in list(self._pieces):
            self._solve(key)

    def values(
        self,
        row_norms: FloatArray | None = None,
        squared_row_norms: tuple[FloatArray, FloatArray] | None = None,
        diagonals: Mapping[Kernel, tuple[FloatArray, FloatArray]] | None = None,
    ) -> Values:
        """Values of all measures; to be asked for once.

        Parameters
        ----------
        row_norms : (a, b), optional
            Inner products, over samples, of the squared norms of the samples; where a measure needs them.
        squared_row_norms : ((a,), (b,)), optional
            Sums over samples of the fourth powers of the norms.
        diagonals : dict of Kernel to ((a,), (b,)), optional
            Sums of squares of the diagonals of `kernels`, where `Meeting.is_of_samples` and samples are examples.
        """
        self.finish()
        shape = self._todo.shape
        norms = np.zeros(shape) if row_norms is None else row_norms
        fourth = (np.zeros(shape[0]), np.zeros(shape[1])) if squared_row_norms is None else squared_row_norms
        unknown = np.full(shape[0], np.nan), np.full(shape[1], np.nan)
        translations = sum(shared.multiplicity for shared in self.meeting.shared)
        if not (self._a.grid and self._b.grid):
            translations = max(math.prod(self._a.grid), math.prod(self._b.grid))
        pairs = PairTotals(self._a.samples, translations, norms)
        turned = PairTotals(self._a.samples, translations, norms.T)
        values = {}
        for measure in self._measures:
            diagonal = (diagonals or {}).get(measure.kernel, unknown)
            a, b = (
                group.totals(measure, norm, own)
                for group, norm, own in zip((self._a, self._b), fourth, diagonal, strict=True)
            )
            # Sums are let go of one by one: those of all measures, and their values, are a tile's memory.
            value = _within(measure.value(self._sums.pop(measure.name), _upright(a), _across(b), pairs), measure)
            back = value
            if not measure.symmetric:
                sums = self._turned_sums.pop(measure.name).transpose(1, 0, 2)
                back = _within(measure.value(sums, _upright(b), _across(a), turned), measure).T
            values[measure.name] = value, back
        return Values(values, self.saturated(self._measures))

    def saturated(self, measures: Sequence[Measure]) -> tuple[BoolArray, BoolArray]:
        """Whether samples are so few that any of these measures is the same whatever the data, (a, b) both ways.

        It follows from ranks and samples alone: two subspaces of k and l directions among d share k + l - d.
        """
        straight, back = np.zeros(self._todo.shape, dtype=np.bool_), np.zeros(self._todo.shape, dtype=np.bool_)
        for directions, saturates in {(m.directions, m.saturates) for m in measures if m.saturates != "never"}:
            if saturates == "either":
                spurious = self._all_spurious(directions)
                straight, back = straight | spurious, back | spurious
            else:
                straight = straight | _spans(self._a.counts(directions), self._b.counts(directions), self._degrees())
                back = back | _spans(self._b.counts(directions), self._a.counts(directions), self._degrees(True)).T
        return straight & self._todo, back & self._todo

    def _blocks_in_common(self) -> IntArray:
        """At how many frequencies both of a pair keep directions, (a, b)."""
        kept = [(group.counts("kept") > 0).astype(np.int64) for group in (self._a, self._b)]
        shared = self.meeting.shared
        return kept[0][:, [one.a for one in shared]] @ kept[1][:, [one.b for one in shared]].T

    def _degrees(self, turned: bool = False) -> list[tuple[int, int, int, int]]:
        """Blocks of both sides, degrees of freedom and multiplicity of each shared frequency."""
        return [
            (
                shared.b if turned else shared.a,
                shared.a if turned else shared.b,
                self._a.samples - (shared.a == 0 and shared.b == 0),
                shared.multiplicity,
            )
            for shared in self.meeting.shared
        ]

    def _all_spurious(self, directions: Directions) -> BoolArray:
        """Whether all correlations of a pair are 1 since samples are too few."""
        a, b = self._a.counts(directions), self._b.counts(directions)
        spurious = np.zeros(self._todo.shape)
        for block_a, block_b, degrees, multiplicity in self._degrees():
            k, l = a[:, block_a, np.newaxis], b[np.newaxis, :, block_b]
            spurious += multiplicity * np.minimum(np.minimum(k, l), np.maximum(0, k + l - degrees))
        ranks = np.minimum.outer(self._a.ranks(directions), self._b.ranks(directions))
        return np.asarray((ranks > 0) & (spurious >= ranks))

    def _solve(self, key: _Key) -> None:
        pieces = self._pieces.pop(key, [])
        if not pieces:
            return
        del self._bytes[key]
        a, b = self._a, self._b
        members_a = np.concatenate([piece.members_a for piece in pieces])
        members_b = np.concatenate([piece.members_b for piece in pieces])
        counts = [len(piece.members_a) for piece in pieces]
        overlaps = [piece.overlaps for piece in pieces if piece.overlaps is not None]
        weights = np.repeat([piece.frequency.multiplicity for piece in pieces], counts)
        every = PairStack(
            self._device.couplings([(piece.couplings, piece.rows, piece.columns) for piece in pieces]),
            a.side(members_a, np.concatenate([piece.spectra_a for piece in pieces])),
            b.side(members_b, np.concatenate([piece.spectra_b for piece in pieces])),
            degrees=a.samples - 1 if key.centred else a.samples,
            is_complex=key.is_complex,
            single=self._single,
            many=self._many,
            samples=a.samples,
            overlap=np.concatenate(overlaps) if len(overlaps) == len(pieces) else None,
            blocks=self._tested[members_a, members_b],
            each=self._each,
        )
        leading = every.leading(*key.kept)
        for taker in self._takers:
            for piece, stop in zip(pieces, np.cumsum(counts), strict=True):
                part = leading.correlations[stop - len(piece.members_a) : stop]
                taker.add(piece.members_a, piece.members_b, part, piece.frequency)
        self._sum_up(every, leading, members_a, members_b, weights)

    def _sum_up(
        self, every: PairStack, leading: PairStack, members_a: IntArray, members_b: IntArray, weights: IntArray
    ) -> None:
        """Add what measures take of a stack, with all directions and with those that are kept."""
        for measure in self._measures:
            stack = leading if measure.directions == "kept" else every
            _accumulate(self._sums[measure.name], members_a, members_b, weights, measure.sums(stack))
            if not measure.symmetric:
                turned = measure.sums(stack.reversed)
                _accumulate(self._turned_sums[measure.name], members_a, members_b, weights, turned)
            # What one stack is asked for, the next will be.
            self._each |= "correlations" in vars(stack)


def _accumulate(
    target: FloatArray, members_a: IntArray, members_b: IntArray, weights: IntArray, added: FloatArray
) -> None:
    # A pair may be there several times, at several frequencies. One index takes a third of the time of two.
    places = members_a * target.shape[1] + members_b
    for component, values in zip(target.reshape(-1, target.shape[2]).T, added.reshape(len(weights), -1).T, strict=True):
        np.add.at(component, places, weights * values)


def _within(values: FloatArray, measure: Measure) -> FloatArray:
    """Values, put back on the edge of a measure's range where rounding took them out; others stay visible."""
    low, high = measure.valid_range
    values = np.where((values < low) & (values >= low - ROUNDING), low, values)
    return np.where((values > high) & (values <= high + ROUNDING), high, values)


def _upright(totals: Totals) -> Totals:
    return Totals(*(getattr(totals, name)[:, np.newaxis] for name in totals.__slots__))


def _across(totals: Totals) -> Totals:
    return Totals(*(getattr(totals, name)[np.newaxis, :] for name in totals.__slots__))


def _spans(counts_a: IntArray, counts_b: IntArray, degrees: Sequence[tuple[int, int, int, int]]) -> BoolArray:
    """Whether b has as many directions as there are degrees of freedom, wherever a has any, (a, b)."""
    spans = (counts_a.sum(axis=1) > 0)[:, np.newaxis] & np.ones(len(counts_b), dtype=np.bool_)
    compared = np.zeros_like(counts_a)
    for block_a, block_b, available, _ in degrees:
        compared[:, block_a] = counts_a[:, block_a]
        spans &= (counts_a[:, block_a, np.newaxis] == 0) | (counts_b[np.newaxis, :, block_b] >= available)
    # Nothing explains what a has at frequencies that b lacks.
    return np.asarray(spans & (compared.sum(axis=1) == counts_a.sum(axis=1))[:, np.newaxis])


class _Key(NamedTuple):
    """What couplings that are solved together have in common."""

    shape: tuple[int, int]
    kept: tuple[int, int]
    centred: bool
    is_complex: bool
    block: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _Piece:
    """Couplings of some pairs at one frequency.

    Attributes
    ----------
    couplings : (member of a, member of b, k, l)
        A view of the product that they came from.
    rows, columns : (pair,)
        Position of each pair in ``couplings``.
    members_a, members_b : (pair,)
    spectra_a, spectra_b : (pair, k), (pair, l)
    overlaps : (pair,) or None
    frequency : SharedFrequency
    """

    couplings: Array
    rows: IntArray
    columns: IntArray
    members_a: IntArray
    members_b: IntArray
    spectra_a: FloatArray
    spectra_b: FloatArray
    overlaps: FloatArray | None
    frequency: SharedFrequency
