"""Measures of a few pairs from the scores of a comparison, again and again under changed samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from dask_svcca.errors import IncompatibleError, RepresentationNotFoundError, UnknownMeasureError
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.kernels.pairs import PairStack, Side
from dask_svcca.measures import Measure, PairTotals, Totals, find_measures, leading_only, with_companions
from dask_svcca.plan.readings import Meeting, meet
from dask_svcca.plan.tasks import subspace_place
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import read_loadings, read_record, read_spectrum
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.kernels.fourier import Grid, SharedFrequency
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.subspaces import SubspaceRecord

HELD = 8
"""Subspaces held in memory at a time."""


@dataclass(frozen=True)
class Basis:
    """Directions of one representation: those of the comparison, or those it has without some of its samples.

    Attributes
    ----------
    spectrum : dict of int to (direction,)
        By block, descending.
    kept : dict of int to int
        How many of them, the first, the variance threshold keeps.
    multiplicity : dict of int to int
    loadings : dict of int to (neuron, direction)
        Empty where no measure needs them.
    """

    spectrum: Mapping[int, FloatArray]
    kept: Mapping[int, int]
    multiplicity: Mapping[int, int]
    loadings: Mapping[int, InexactArray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Subspace:
    """One representation of a comparison, in memory.

    Attributes
    ----------
    record : SubspaceRecord
    scores : (sample, direction)
        In double precision.
    columns : dict of int to slice
        Directions of each block.
    basis : Basis
    """

    record: SubspaceRecord
    scores: InexactArray
    columns: Mapping[int, slice]
    basis: Basis

    def row_norms(self, weights: Mapping[int, float]) -> FloatArray:
        """Squared norm of each sample, in the units of the activations, blocks counted so often."""
        squares = self.scores.real**2 + self.scores.imag**2
        norms = np.zeros(len(squares))
        for index, columns in self.columns.items():
            norms += weights[index] * (squares[:, columns] @ self.basis.spectrum[index])
        return norms


class Label(NamedTuple):
    """A pair by its labels."""

    a: str
    b: str


class Pairs:
    """Some pairs of a comparison, and the measures to look at them by."""

    def __init__(self, store: StoreLike, pairs: Iterable[tuple[str, str]], measures: str | Iterable[str]) -> None:
        self._comparison = ComparisonStore.open(store)
        self.measures = find_measures(measures)
        self.labels = [Label(*map(str, pair)) for pair in pairs]
        self._names = self._find_names()
        self._check_measures()
        self._with_loadings = any("loadings" in measure.needs for measure in self.measures)
        self.with_row_norms = any("row_norms" in measure.needs for measure in self.measures)
        self._load = lru_cache(maxsize=HELD)(self._read)

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

    @cached_property
    def leading_only(self) -> bool:
        """Whether the comparison holds kept directions only."""
        if self.parameters["variance"] is None:
            return False
        return leading_only(with_companions(find_measures(self.parameters["measures"])))

    def open(self, label: Label) -> tuple[Subspace, Subspace, Meeting]:
        """Both subspaces of a pair, and how they meet."""
        records = [self._record(name, ()) for name in label]
        meeting = meet(records[0].domain, records[0].grid, records[1].domain, records[1].grid, self.parameters["match"])
        if isinstance(meeting, PairStatus):
            raise IncompatibleError(f"{label.a!r} and {label.b!r} cannot be compared: {meeting.name.lower()}")
        return self._load(label.a, meeting.fold_a), self._load(label.b, meeting.fold_b), meeting

    def samples_per_example(self, subspace: Subspace) -> int:
        """How many samples, one behind the other, are of one example."""
        count, rest = divmod(subspace.record.samples, self.examples)
        if rest or " where " in subspace.record.domain:
            raise IncompatibleError(
                f"under the mask {self.parameters['mask']!r} examples have different numbers of tokens: they cannot "
                f"be told apart in the scores. Compare with sequence='mean' for this"
            )
        return count

    def dataset(self, variables: dict[str, tuple[tuple[str, ...], FloatArray, str]], **attributes: Any) -> xr.Dataset:
        """What was found, one entry a pair."""
        return xr.Dataset(
            {name: (dims, values, {"long_name": text}) for name, (dims, values, text) in variables.items()},
            coords={
                f"representation_{side}": ("pair", [getattr(label, side) for label in self.labels]) for side in "ab"
            },
            attrs={"comparison": self.place, **attributes},
        )

    def _find_names(self) -> dict[str, RepresentationName]:
        if not self.labels:
            raise ValueError("no pairs asked for; give some as [(label_a, label_b), ...]")
        columns = (self._comparison.column(name) for name in ("representation", "model", "checkpoint", "layer"))
        known = {str(label): RepresentationName(*map(str, name)) for label, *name in zip(*columns, strict=True)}
        for label in {name for pair in self.labels for name in pair} - set(known):
            shown = ", ".join(map(repr, list(known)[:5]))
            raise RepresentationNotFoundError(
                f"no representation {label!r} in the comparison {self.place!r}; it has {len(known)}, the first {shown}"
            )
        return known

    def _check_measures(self) -> None:
        for measure in self.measures:
            if measure.role == "reference":
                raise UnknownMeasureError(f"{measure.name!r} is no measure of similarity, but a number to read one by")
            if measure.directions == "all" and self.leading_only:
                raise IncompatibleError(
                    f"{measure.name!r} looks at all directions, and the comparison {self.place!r} has only those that "
                    f"variance={self.parameters['variance']} keeps: it was made for "
                    f"{', '.join(self.parameters['measures'])}. Compare with measures={measure.name!r} among them"
                )

    def _record(self, label: str, fold: Grid) -> SubspaceRecord:
        record = read_record(self._comparison.root, subspace_place(self._names[label].path, fold))
        if record is None:
            raise IncompatibleError(
                f"{label!r} has no subspace{f' on the grid {fold}' if fold else ''}: compare it first"
            )
        if record.problem:
            raise IncompatibleError(f"{label!r} could not be compared: {record.problem}")
        return record

    def _read(self, label: str, fold: Grid) -> Subspace:
        root, record = self._comparison.root, self._record(label, fold)
        scores = np.asarray(root[f"{record.place}/scores"][...])  # type: ignore[index]
        spectrum = read_spectrum(root, record)
        if self._with_loadings and f"{record.place}/loadings" not in root:
            raise IncompatibleError(
                f"{label!r} has more neurons than samples, and the comparison was made without loadings; compare with "
                f"measures='pwcca' among others"
            )
        stops = np.cumsum([block.directions for block in record.blocks])
        columns = {
            b.index: slice(int(stop) - b.directions, int(stop)) for b, stop in zip(record.blocks, stops, strict=True)
        }
        loadings = read_loadings(root, record) if self._with_loadings else None
        basis = Basis(
            spectrum={index: spectrum[part] for index, part in columns.items()},
            kept={block.index: block.kept for block in record.blocks},
            multiplicity={block.index: block.multiplicity for block in record.blocks},
            loadings={} if loadings is None else {index: loadings[:, part] for index, part in columns.items()},
        )
        return Subspace(record, scores.astype(np.result_type(scores.dtype, np.float64), copy=False), columns, basis)


@dataclass(frozen=True)
class RowNorms:
    """Of both representations, summed over samples: fourth powers of the norms, and products of their squares."""

    a: float = 0.0
    b: float = 0.0
    products: FloatArray = field(default_factory=lambda: np.zeros(1))


def shared_weights(basis: Basis, meeting: Meeting, side: str) -> dict[int, float]:
    """How often each block counts: where layers were cropped, only with the frequencies that both have."""
    if not meeting.cropped:
        return {index: float(count) for index, count in basis.multiplicity.items()}
    weights = dict.fromkeys(basis.multiplicity, 0.0)
    for frequency in meeting.shared:
        index = getattr(frequency, side)
        if index in weights:
            weights[index] += frequency.multiplicity
    return weights


def measure_pair(
    measures: Sequence[Measure],
    bases: tuple[Basis, Basis],
    meeting: Meeting,
    grids: tuple[Grid, Grid],
    couplings: Iterable[tuple[SharedFrequency, InexactArray]],
    samples: int,
    norms: RowNorms,
) -> dict[str, FloatArray]:
    """Values of measures, of a with b.

    Parameters
    ----------
    measures : sequence of Measure
    bases : (Basis, Basis)
    meeting : Meeting
    grids : (tuple of int, tuple of int)
    couplings : iterable of (SharedFrequency, (repeat, k, l))
        At the frequencies where both have directions, for as many changes of the samples as are looked at together.
    samples : int
    norms : RowNorms

    Returns
    -------
    dict of str to (repeat,)
    """
    a, b = bases
    weights = shared_weights(a, meeting, "a"), shared_weights(b, meeting, "b")
    totals = [
        {measure.name: _totals(measure, *side) for measure in measures}
        for side in ((a, weights[0], norms.a), (b, weights[1], norms.b))
    ]
    planes = [half_plane(grid).multiplicity for grid in grids]
    sums: dict[str, FloatArray] = {}
    for frequency, coupling in couplings:
        count = len(coupling)
        every = PairStack(
            coupling,
            _side(a, frequency.a, weights[0], count, conjugate=frequency.conjugate),
            _side(b, frequency.b, weights[1], count, conjugate=False),
            degrees=samples - 1 if frequency.a == 0 and frequency.b == 0 else samples,
            is_complex=bool(planes[0][frequency.a] > 1 or planes[1][frequency.b] > 1),
        )
        leading = every.leading(a.kept[frequency.a], b.kept[frequency.b])
        for measure in measures:
            added = measure.sums(leading if measure.directions == "kept" else every).reshape(1, count, -1)
            sums[measure.name] = sums.get(measure.name, 0.0) + frequency.multiplicity * added
    translations = sum(shared.multiplicity for shared in meeting.shared)
    if not (grids[0] and grids[1]):
        translations = max(map(math.prod, grids))
    pair = PairTotals(samples, translations, norms.products[np.newaxis])
    nothing = np.zeros((1, len(norms.products), 1))
    return {
        measure.name: measure.value(
            sums.get(measure.name, np.repeat(nothing, measure.components, axis=2)),
            totals[0][measure.name],
            totals[1][measure.name],
            pair,
        )[0]
        for measure in measures
    }


def _side(basis: Basis, block: int, weights: Mapping[int, float], count: int, *, conjugate: bool) -> Side:
    """One block of a representation, ``count`` times."""
    rank = sum(weights[index] * len(spectrum) for index, spectrum in basis.spectrum.items())
    variance = sum(weights[index] * spectrum.sum() for index, spectrum in basis.spectrum.items())
    loadings = {0: basis.loadings[block].conj() if conjugate else basis.loadings[block]} if basis.loadings else {}
    return Side(
        spectrum=np.repeat(basis.spectrum[block][np.newaxis], count, axis=0),
        variance=np.full(count, variance),
        rank=np.full(count, float(rank)),
        member=np.zeros(count, dtype=np.int64),
        loadings=loadings,
    )


def _totals(measure: Measure, basis: Basis, weights: Mapping[int, float], norms: float) -> Totals:
    """What a measure may divide by, of one representation."""
    counts = (
        basis.kept if measure.directions == "kept" else {i: len(spectrum) for i, spectrum in basis.spectrum.items()}
    )
    spectrum = np.concatenate([basis.spectrum[index][:count] for index, count in counts.items()])
    often = np.repeat([weights[index] for index in counts], list(counts.values()))
    numbers = often.sum(), often @ spectrum, measure.own(spectrum, often), norms
    return Totals(*(np.array([[float(number)]]) for number in numbers))
