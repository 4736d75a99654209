"""Measures of a few pairs, from the scores of a comparison, recomputed for changed samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from dask_svcca import machine
from dask_svcca.errors import (
    IncompatibleError,
    InvalidQuestionError,
    MemoryLimitError,
    RepresentationNotFoundError,
    UnknownMeasureError,
)
from dask_svcca.evaluate import STACK_BYTES, Basis, Evaluation, pair_bytes, solving_bytes
from dask_svcca.kernels.pairs import squared_magnitudes
from dask_svcca.kernels.raw import orthonormal
from dask_svcca.measures import find_measures, needs_loadings
from dask_svcca.readings import meet
from dask_svcca.stores import _io
from dask_svcca.stores._names import RepresentationName, label_of
from dask_svcca.stores.choice import is_several
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.dataset import store_of
from dask_svcca.stores.subspaces import Block, SubspaceStore
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dask_svcca.evaluate import MemberBlock
    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.fourier import Grid, SharedFrequency
    from dask_svcca.measures import Measure
    from dask_svcca.readings import Meeting
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.subspaces import Pack, SubspaceEntry, SubspaceRecord

HELD = 8
"""Largest number of subspaces in memory at a time."""

USABLE_SHARE = 0.6
"""Share of the free memory that subspaces may take."""

VECTORS = 8
"""Numbers per sample that are held beside the scores: two orders of samples, norms of both sides, changed norms."""

PIECE = 1024
"""Samples whose squared norms are formed at a time."""


@dataclass(frozen=True, eq=False)
class Subspace:
    """One representation of a comparison, in memory.

    Attributes
    ----------
    label : str
    entry : SubspaceEntry
    scores : (sample, direction)
        In double precision.
    single : bool
        Whether the stored scores are in single precision.
    basis : Basis
    loadings : (neuron, direction) or None
        None where no measure needs them.
    """

    label: str
    entry: SubspaceEntry
    scores: InexactArray
    single: bool
    basis: Basis
    loadings: InexactArray | None

    @cached_property
    def blocks(self) -> dict[int, MemberBlock]:
        """Directions of each block, by its index."""
        return {block.index: block for block in self.basis.member_blocks(0)}

    def row_norms(self, weights: FloatArray) -> FloatArray:
        """Squared norm of each sample, in the units of the activations, with a weight for each direction."""
        scale, norms = weights * self.basis.spectrum, np.empty(len(self.scores))
        for start in range(0, len(self.scores), PIECE):
            piece = slice(start, start + PIECE)
            norms[piece] = squared_magnitudes(self.scores[piece]) @ scale
        return norms

    def leverages(self) -> FloatArray:
        """Squared norm of each sample in the kept directions, whitened, (sample,)."""
        return self.row_norms(np.where(self.basis.kept, self.basis.multiplicity / self.basis.spectrum, 0.0))


class LabelPair(NamedTuple):
    """Labels of the representations of a pair."""

    a: str
    b: str


class Pairs:
    """Some pairs of a comparison, and the measures to compute of them.

    Parameters
    ----------
    comparison : Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    pairs : iterable of (str, str)
        Labels of representations.
    measures : str or iterable of str
    left_out : int
        Number of blocks of examples that are left out in turn; what remains of a subspace is held for each.
    """

    def __init__(
        self,
        comparison: xr.Dataset | StoreLike,
        pairs: Iterable[tuple[str, str]] | pd.DataFrame,
        measures: str | Iterable[str],
        *,
        left_out: int = 0,
    ) -> None:
        place = store_of(comparison)
        if not _io.is_place(place):
            raise InvalidQuestionError(
                f"pairs are of a comparison, which has the directions of all layers: pass what compare or "
                f"open_comparison returned, or its path, and labels, as in (result, [('net/step0/fc1', "
                f"'net/step9/fc1')]); got {type(place).__name__} in its place. Compare these layers first"
            )
        self._comparison = ComparisonStore.open(place)
        shared = self._comparison.subspaces
        subspaces = SubspaceStore.open(shared) if shared else SubspaceStore.open_inside(self._comparison.root)
        self._place, self._index = subspaces.place, subspaces.read_index()
        self.measures = find_measures(measures)
        self.labels = _label_pairs(pairs)
        self._keys = self._find_keys()
        self._check_measures()
        self.with_loadings = needs_loadings(self.measures)
        self.with_row_norms = any("row_norms" in measure.needs for measure in self.measures)
        self._left_out = left_out

    @property
    def place(self) -> str:
        """Where the comparison is."""
        return str(self._comparison.root.store_path)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the comparison."""
        return self._comparison.parameters

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(self._comparison.root.attrs["n_examples"])  # type: ignore[arg-type]

    def open(self, labels: LabelPair) -> tuple[Subspace, Subspace, Meeting]:
        """Both subspaces of a pair, and how they are compared."""
        meeting = self._meeting(labels)
        return self._load(labels.a, meeting.fold_a), self._load(labels.b, meeting.fold_b), meeting

    def _meeting(self, labels: LabelPair) -> Meeting:
        a, b = (self._record(label, ())[1].entry for label in labels)
        meeting = meet(a.domain, a.grid, b.domain, b.grid, self.parameters["match"])
        if isinstance(meeting, PairStatus):
            raise IncompatibleError(f"{labels.a!r} and {labels.b!r} cannot be compared: {meeting.name.lower()}")
        return meeting

    def samples_per_example(self, subspace: Subspace) -> int:
        """Number of consecutive samples that belong to one example."""
        count, rest = divmod(subspace.entry.samples, self.examples)
        if rest or " where " in subspace.entry.domain:
            raise IncompatibleError(
                f"under the mask {self.parameters['mask']!r} examples have different numbers of tokens, and the "
                f"scores do not say which example a sample is of. Compare with sequence='mean' for this"
            )
        return count

    def dataset(self, variables: dict[str, tuple[tuple[str, ...], FloatArray, str]], **attributes: Any) -> xr.Dataset:
        """Results as a Dataset, one entry per pair."""
        return xr.Dataset(
            {name: (dims, values, {"long_name": text}) for name, (dims, values, text) in variables.items()},
            coords={
                f"representation_{side}": ("pair", [getattr(label, side) for label in self.labels]) for side in "ab"
            },
            attrs={"comparison": self.place, **attributes},
        )

    def _find_keys(self) -> dict[str, str]:
        """Keys of subspaces by label."""
        if not self.labels:
            raise InvalidQuestionError("no pairs asked for; give some as [(label_a, label_b), ...]")
        columns = (self._comparison.column(name) for name in ("representation", "subspace"))
        known = {str(label): str(key) for label, key in zip(*columns, strict=True)}
        for label in {name for pair in self.labels for name in pair} - set(known):
            shown = ", ".join(map(repr, list(known)[:5]))
            spelt = label_of(label)
            meant = f". Did you mean {spelt!r}?" if spelt in known else ""
            raise RepresentationNotFoundError(
                f"no representation {label!r} in the comparison {self.place!r}; it has {len(known)}, the first {shown}"
                f"{meant}"
            )
        return known

    def _check_measures(self) -> None:
        for measure in self.measures:
            if measure.related is not None:
                raise UnknownMeasureError(
                    f"{measure.name!r} is about examples among one another, and this follows from directions: ask for "
                    f"a measure of these, such as 'svcca' or 'cka'"
                )
            if measure.role == "reference":
                raise UnknownMeasureError(
                    f"{measure.name!r} is not a measure of similarity, but a reference to read one by"
                )

    @cached_property
    def _load(self) -> Callable[[str, Grid], Subspace]:
        return lru_cache(maxsize=self.held)(self._read)

    @cached_property
    def held(self) -> int:
        """How many subspaces to hold in memory: at least two, with what is computed from them."""
        sizes: dict[str, int] = {}
        working = 0
        for labels in self.labels:
            try:
                meeting = self._meeting(labels)
                entries = [
                    self._record(label, fold)[1].entry
                    for label, fold in zip(labels, (meeting.fold_a, meeting.fold_b), strict=True)
                ]
            except IncompatibleError:
                # The error is raised when the pair is opened.
                continue
            for label, entry in zip(labels, entries, strict=True):
                sizes[label] = max(sizes.get(label, 0), held_bytes(entry, self._left_out, loadings=self.with_loadings))
            working = max(working, working_bytes(entries[0], entries[1], meeting, self.measures))
        widest = max(sizes, key=lambda label: sizes[label], default=None)
        if widest is None:
            return 2
        available, needed = int(machine.available_memory() * USABLE_SHARE), 2 * sizes[widest] + working
        if needed > available:
            raise MemoryLimitError(
                f"two representations like {widest!r}, with what is computed from their scores, need "
                f"{needed / 2**20:,.0f} MiB, and {available / 2**20:,.0f} MiB are available. Do this where there is "
                f"more memory, or compare fewer samples (positions=) into another store"
            )
        return max(2, min(HELD, int(available - working) // max(1, sizes[widest])))

    def _record(self, label: str, fold: Grid) -> tuple[Pack, SubspaceRecord]:
        record = self._index.records.get(self._keys[label])
        if fold:
            digest = self._keys[label].split(" ", maxsplit=1)[0]
            others = (other for key, other in self._index.records.items() if key.startswith(f"{digest} "))
            record = next((other for other in others if other.entry.grid == fold), None)
        if record is not None and (record.entry.share < 1 or record.entry.is_kernel):
            # What is left out of the examples changes all directions, and all inner products.
            record = self._index.raw.get(record.entry.key)
        if record is None:
            raise IncompatibleError(
                f"{label!r} has no subspace{f' on the grid {fold}' if fold else ''} in {self._place!r}. Compare it "
                f"first; if it was, ask for one more measure there, which makes the subspace again"
            )
        if record.entry.problem:
            raise IncompatibleError(f"{label!r} could not be compared: it {record.entry.problem}")
        return self._index.packs[record.pack], record

    def _read(self, label: str, fold: Grid) -> Subspace:
        pack, record = self._record(label, fold)
        scores, spectrum, entry = pack.scores(record), pack.spectrum(record), record.entry
        loadings = pack.loadings(record) if self.with_loadings and entry.with_loadings else None
        if not entry.orthonormal:
            made, scores = orthonormal(scores.real * np.sqrt(spectrum), pack.mean(record), entry.epsilon)
            spectrum, loadings = made.spectrum, made.loadings if len(made.loadings) else None
            entry = replace(entry, orthonormal=True, blocks=(Block(0, 1, len(spectrum)),))
        if self.with_loadings and loadings is None:
            raise IncompatibleError(
                f"{label!r} has more neurons than samples, and the comparison was made without loadings; compare with "
                f"measures='pwcca' among others"
            )
        basis = Basis(
            spectrum=spectrum,
            block=entry.block,
            kept=entry.kept(spectrum, self.parameters["variance"]),
            grid=entry.grid,
            samples=entry.samples,
            neurons=entry.neurons,
        )
        return Subspace(label, entry, scores, pack.dtype.char in "fF", basis, loadings)


def _label_pairs(pairs: Any) -> list[LabelPair]:
    """What was given as pairs, each two labels."""
    if isinstance(pairs, pd.DataFrame):
        return _found_pairs(pairs)
    found = []
    for pair in pairs if is_several(pairs) else [pairs]:
        if not is_several(pair) or len(labels := [str(label) for label in pair]) != 2:
            raise InvalidQuestionError(
                f"pairs are two labels each, as in [('net/step0/fc1', 'net/step9/fc1')]; got {pair!r}"
            )
        found.append(LabelPair(*labels))
    return found


def _found_pairs(frame: pd.DataFrame) -> list[LabelPair]:
    """The labels of pairs that `dask_svcca.query` found."""
    sides = [[f"{part}_{side}" for part in RepresentationName._fields] for side in "ab"]
    needed = [*sides[0], *sides[1]]
    if any(name not in frame for name in needed):
        raise InvalidQuestionError(
            f"of a DataFrame, columns {', '.join(map(repr, needed))} are needed, as query returns them; got "
            f"{', '.join(map(repr, frame.columns))}"
        )
    a, b = ([RepresentationName(*names).label for names in frame[side].itertuples(index=False)] for side in sides)
    return [LabelPair(*labels) for labels in zip(a, b, strict=True)]


def held_bytes(entry: SubspaceEntry, left_out: int, *, loadings: bool) -> int:
    """Bytes of a subspace in memory, and of what remains of it without each of some blocks of its examples."""
    wide = 16 if entry.grid else 8
    rotations = sum(block.directions**2 for block in entry.blocks)
    vectors = entry.directions * (entry.neurons if loadings else 4)
    # Directions are made of samples that were stored as they are: by their scatter, or by their inner products.
    making = 0 if entry.orthonormal else 2 * entry.samples * entry.directions
    making += 0 if entry.orthonormal else 4 * min(entry.samples, entry.directions) ** 2
    return wide * (entry.samples * entry.directions + vectors + left_out * (rotations + vectors) + making)


def working_bytes(a: SubspaceEntry, b: SubspaceEntry, meeting: Meeting, measures: Iterable[Measure]) -> int:
    """Bytes that a pair takes beside its subspaces.

    Scores in another order at one frequency, conjugates of complex scores, and what is computed from couplings of many
    orders.
    """
    wide = 16 if a.grid or b.grid else 8
    widths = [{block.index: block.directions for block in entry.blocks} for entry in (a, b)]
    sizes = [(widths[0].get(one.a, 0), widths[1].get(one.b, 0)) for one in meeting.shared]
    couplings = sum(k * l for k, l in sizes) * wide
    # Orders of the samples, norms of both sides, and norms that change.
    vectors = VECTORS * 8 * a.samples
    scores = a.samples * max(max(pair) for pair in sizes) * wide * (2 if wide == 16 else 1)
    stack = max(STACK_BYTES, couplings)
    pair, k, l = max((pair_bytes(k, l, wide), k, l) for k, l in sizes)
    # A product is held while the couplings are summed up; no scores in another order while they are solved.
    solving = solving_bytes(measures, max(STACK_BYTES, pair), k, l, wide)
    rotating = 8 * wide * max(max(pair) for pair in sizes) ** 2
    return int(vectors + stack + max(scores, couplings) + max(solving, rotating))


@dataclass(frozen=True)
class RowNorms:
    """Sums over samples: fourth powers of the norms of a and of b, and products of squared norms, (change,)."""

    a: float
    b: float
    products: FloatArray


def measure_pair(
    measures: Sequence[Measure],
    bases: tuple[Basis, Basis],
    meeting: Meeting,
    couplings: Iterable[tuple[SharedFrequency, InexactArray]],
    count: int,
    *,
    norms: RowNorms | None = None,
    loadings: tuple[InexactArray | None, InexactArray | None] = (None, None),
) -> dict[str, FloatArray]:
    """Values of measures, of a with b, under several changes of the samples.

    Parameters
    ----------
    measures : sequence of Measure
    bases : (Basis, Basis)
        The same under all changes.
    meeting : Meeting
    couplings : iterable of (SharedFrequency, (change, k, l))
        At the frequencies where both have directions.
    count : int
        Number of changes.
    norms : RowNorms, optional
    loadings : ((neuron, direction), (neuron, direction))
        Where a measure needs them.

    Returns
    -------
    dict of str to (change,)
    """
    a, b = bases
    # Each change is a member of b, and all are compared with the only member of a.
    evaluation = Evaluation(
        {0: a},
        dict.fromkeys(range(count), b),
        meeting,
        measures,
        np.ones((1, count), dtype=np.bool_),
        stack_bytes=STACK_BYTES,
    )
    blocks_a, blocks_b = ({block.index: block for block in basis.member_blocks(0)} for basis in bases)
    loaded: tuple[Mapping[int, InexactArray], Mapping[int, InexactArray]] = ({}, {})
    if loadings[0] is not None and loadings[1] is not None:
        loaded = {0: loadings[0]}, dict.fromkeys(range(count), loadings[1])
    for frequency, coupling in couplings:
        members = [replace(blocks_b[frequency.b], member=member) for member in range(count)]
        evaluation.add(coupling[np.newaxis], [blocks_a[frequency.a]], members, frequency, loaded)
    if norms is None:
        return {name: values[0][0] for name, values in evaluation.values().values.items()}  # noqa: PD011 - no frame
    squares = np.array([norms.a]), np.full(count, norms.b)
    evaluated = evaluation.values(norms.products[np.newaxis], squares)
    return {name: values[0][0] for name, values in evaluated.values.items()}  # noqa: PD011 - no frame
