"""The stores of a comparison: opened to plan, made and written to when it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import StoreFormatError
from dask_svcca.kernels.subspace import leading_directions
from dask_svcca.stores import _io
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import INSIDE, SubspaceStore
from dask_svcca.variables import REPRESENTATION_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.plan.comparison import Plan, Row
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.comparison import ComparisonState
    from dask_svcca.stores.subspaces import SubspaceIndex
    from dask_svcca.stores.zoo import Representation, Zoo


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _of(get: Callable[[Representation], object]) -> Callable[[Row], object]:
    """What the zoo says of a row; None where it has left the zoo."""
    return lambda row: None if row.representation is None else get(row.representation)


_NAMES: dict[str, Callable[[Row], object]] = {
    "representation": lambda row: row.label,
    "model": _of(lambda item: item.name.model),
    "checkpoint": _of(lambda item: item.name.checkpoint),
    "layer": _of(lambda item: item.name.layer),
    "step": _of(lambda item: _number(item.step)),
    "depth": _of(lambda item: _number(item.depth)),
    "digest": _of(lambda item: item.digest),
    "subspace": lambda row: row.key or None,
}
"""What is known of a representation before its subspace is; all else becomes known with it, see `describe`."""


@dataclass
class Stores:
    """A comparison and its subspaces, as far as they are there.

    Attributes
    ----------
    zoo : Zoo
    store : path, zarr store, or URL
        Of the comparison.
    parameters : Parameters
    comparison : ComparisonStore or None
    state : ComparisonState or None
    subspaces : SubspaceStore or None
    place : path, zarr store, URL, or None
        Of the subspaces; None where they are inside the comparison.
    """

    zoo: Zoo
    store: StoreLike
    parameters: Parameters
    comparison: ComparisonStore | None
    state: ComparisonState | None
    subspaces: SubspaceStore | None
    place: StoreLike | None

    @classmethod
    def open(
        cls, zoo: Zoo, store: StoreLike, parameters: Parameters, subspaces: StoreLike | None, *, mode: str
    ) -> Stores:
        """Open what is there, and see that it can serve; nothing is written.

        Raises
        ------
        ParametersChangedError, StoreFormatError
            Where what is there is something else, or was made otherwise.
        """
        place = None if subspaces is None else _io.absolute(subspaces)
        # Stores in memory are equal where they hold the same: nothing, say.
        if store is place or (isinstance(place, str) and place == _io.absolute(store)):
            raise StoreFormatError(
                f"the comparison and its subspaces cannot both be at {_io.describe(place)!r}. Give each a place, or "
                f"leave subspaces= out to have them inside the comparison"
            )
        comparison = ComparisonStore.open(store, mode=mode) if _exists(store) else None
        state = None if comparison is None else comparison.read_state()
        if state is not None:
            state.check(parameters.fixed, parameters.records, zoo.examples_digest, zoo.n_examples)
        if place is None and state is not None and state.subspaces:
            place = state.subspaces
        opened = _open_subspaces(comparison, place, mode)
        if opened is not None:
            opened.check(_identity(zoo, parameters))
        return cls(zoo, store, parameters, comparison, state, opened, place)

    def read_index(self) -> SubspaceIndex | None:
        """What subspaces there are."""
        return None if self.subspaces is None else self.subspaces.read_index()

    def prepare(self, plan: Plan) -> tuple[ComparisonStore, SubspaceStore]:
        """Make what is missing, and room for what the plan adds."""
        place = str(self.place) if isinstance(self.place, str) else ""
        if self.comparison is None:
            self.comparison = ComparisonStore.create(
                self.store,
                parameters=self.parameters.to_dict(),
                tile=plan.tile,
                zoo=str(self.zoo.root.store_path),
                examples_digest=self.zoo.examples_digest,
                n_examples=self.zoo.n_examples,
                subspaces=place,
            )
        elif self.comparison.subspaces != place:
            self.comparison.set_subspaces(place)
        if self.subspaces is None:
            identity = _identity(self.zoo, self.parameters)
            if self.place is None:
                self.subspaces = SubspaceStore.create_inside(self.comparison.root, identity, plan.chunk_samples)
            else:
                self.subspaces = SubspaceStore.create(self.place, identity, plan.chunk_samples)
        asked = tuple(dict.fromkeys((*(() if self.state is None else self.state.measures), *self.parameters.measures)))
        self.comparison.add_results(plan.measures, asked, plan.details, plan.settled)
        self._register(self.comparison, plan)
        return self.comparison, self.subspaces

    def _register(self, comparison: ComparisonStore, plan: Plan) -> None:
        """Make room for new representations, and forget pairs of those that have changed."""
        if plan.changed:
            comparison.invalidate(plan.changed)
        known = 0 if self.state is None else len(self.state.labels)
        if plan.changed or known < len(plan.rows):
            comparison.resize(len(plan.rows))
            forgotten = {*plan.changed, *range(known, len(plan.rows))}
            columns = {}
            for variable in REPRESENTATION_VARIABLES:
                name = variable.name
                get = _NAMES.get(name)
                columns[name] = _column(
                    comparison,
                    name,
                    [
                        (variable.fill if number in forgotten else None) if get is None else get(row)
                        for number, row in enumerate(plan.rows)
                    ],
                )
            comparison.write_columns(columns)
        comparison.consolidate()


def describe(
    comparison: ComparisonStore,
    rows: Sequence[Row],
    index: SubspaceIndex | None,
    met: Mapping[str, str],
    variance: float | None,
) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """Write what the subspaces say of the representations, and problems met in this run.

    Parameters
    ----------
    comparison : ComparisonStore
    rows : sequence of Row
    index : SubspaceIndex or None
    met : mapping of str to str
        Problems by key of the subspace.
    variance : float or None
        See `Parameters`.

    Returns
    -------
    problems : dict of str to str
        All, by label.
    numbers : dict of str to (int, int)
        Samples, translations of a convolutional layer included, and kept directions, by label.
    """
    # A fold that could not be made has another key than the representation's own subspace.
    unmade = {key.split(" ", maxsplit=1)[0]: problem for key, problem in met.items()}
    columns: dict[str, list[Any]] = {name: [] for name in ("neurons", "samples", "rank", "variance_kept", "problem")}
    numbers = {}
    for row in rows:
        record = None if index is None or not row.key else index.records.get(row.key)
        problem = None if row.representation is None else unmade.get(row.representation.digest)
        problem = met.get(row.key, problem)
        # What is known of one that has left the zoo, or whose subspace is elsewhere, stays as it is.
        found: tuple[Any, ...] = (None,) * 4
        if index is not None and record is not None:
            entry, found = record.entry, (-1, -1, -1, np.nan)
            problem = problem or entry.problem
            if not entry.problem:
                spectrum = index.spectrum(record)
                kept = leading_directions(spectrum, entry.multiplicity, variance)
                rank = int(entry.multiplicity[kept].sum())
                share = float((spectrum * entry.multiplicity)[kept].sum() / entry.total)
                found = entry.neurons, entry.samples, rank, share
                numbers[row.label] = entry.samples * math.prod(entry.grid), rank
        for values, value in zip(columns.values(), (*found, problem and f"{row.label!r} {problem}"), strict=True):
            values.append(value)
    arrays = {name: _column(comparison, name, values) for name, values in columns.items()}
    comparison.resize_components(max(arrays["rank"], default=0))
    comparison.write_columns(arrays)
    comparison.consolidate()
    told = {row.label: str(problem) for row, problem in zip(rows, arrays["problem"], strict=True) if row.key}
    return {label: problem for label, problem in told.items() if problem}, numbers


def _column(comparison: ComparisonStore, name: str, values: Sequence[Any]) -> npt.NDArray[Any]:
    """Values of a variable along representations; where there is None, what the comparison has."""
    there = comparison.column(name) if any(value is None for value in values) else None
    found = [there[row] if value is None and there is not None else value for row, value in enumerate(values)]
    return np.array(found, dtype=object) if any(isinstance(value, str) for value in found) else np.array(found)


def _exists(store: StoreLike) -> bool:
    """Whether there is a store of ours, or of somebody else; False where one can be created."""
    if _io.is_group(store):
        return True
    _io.check_free(store)
    return False


def _open_subspaces(comparison: ComparisonStore | None, place: StoreLike | None, mode: str) -> SubspaceStore | None:
    if place is not None:
        return SubspaceStore.open(place, mode=mode) if _exists(place) else None
    if comparison is None or INSIDE not in comparison.root:
        return None
    return SubspaceStore.open_inside(comparison.root)


def _identity(zoo: Zoo, parameters: Parameters) -> dict[str, Any]:
    """What subspaces are of, and how they are read."""
    mask = parameters.mask
    return {
        "examples_digest": zoo.examples_digest,
        "n_examples": zoo.n_examples,
        "precision": parameters.precision,
        **parameters.reading.to_dict(),
        "mask_digest": None if mask is None else zoo.coordinate_digest(mask),
    }
