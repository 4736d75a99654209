"""The stores of a comparison: opened to plan, made and written to when it runs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.arrays import is_mask
from dask_svcca.dims import TOKEN
from dask_svcca.errors import DamagedStoreError, InvalidActivationsError, StoreAccessError, StoreFormatError
from dask_svcca.evaluate import try_measure
from dask_svcca.measures import OwnMeasure
from dask_svcca.plan.parameters import MaskChoice
from dask_svcca.stores import _create, _io, _nodes
from dask_svcca.stores._failures import forget_failures
from dask_svcca.stores._mend import mend
from dask_svcca.stores._urls import like
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import INSIDE, SubspaceStore
from dask_svcca.variables import REPRESENTATION_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.plan.parameters import Mask, Parameters
    from dask_svcca.plan.plan import Plan, Row
    from dask_svcca.run.leases import Leases
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores._state import ComparisonState
    from dask_svcca.stores.subspaces import SubspaceIndex
    from dask_svcca.stores.zoo import Representation, Zoo


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _from_zoo(get: Callable[[Representation], object]) -> Callable[[Row], object]:
    """What the zoo says of a representation; None where it has left the zoo."""
    return lambda row: None if row.representation is None else get(row.representation)


_NAMES: dict[str, Callable[[Row], object]] = {
    "representation": lambda row: row.label,
    "model": _from_zoo(lambda item: item.name.model),
    "checkpoint": _from_zoo(lambda item: item.name.checkpoint),
    "layer": _from_zoo(lambda item: item.name.layer),
    "step": _from_zoo(lambda item: _number(item.step)),
    "depth": _from_zoo(lambda item: _number(item.depth)),
    "parent": _from_zoo(lambda item: item.parent),
    "digest": _from_zoo(lambda item: item.identity),
    "subspace": lambda row: row.key or None,
}
"""Variables that are known before the subspace is made; `dask_svcca.run.describe` writes the others."""

CORRECTED = ("step", "depth", "parent")
"""Variables that may be others of the same activations."""


@dataclass
class Stores:
    """A comparison and its subspaces, as far as they are there.

    Attributes
    ----------
    zoo : Zoo
    store : path, zarr store, or URL
        Where the comparison is.
    parameters : Parameters
    comparison : ComparisonStore or None
    state : ComparisonState or None
    subspaces : SubspaceStore or None
    place : path, zarr store, URL, or None
        Where the subspaces are; None if inside the comparison.
    dropped : mapping of int to str
        Rows of the comparison that `prepare` removes, and their labels; ``state`` is without them.
    """

    zoo: Zoo
    store: StoreLike
    parameters: Parameters
    comparison: ComparisonStore | None
    state: ComparisonState | None
    subspaces: SubspaceStore | None
    place: StoreLike | None
    dropped: Mapping[int, str]

    @classmethod
    def open(
        cls,
        zoo: Zoo,
        store: StoreLike,
        parameters: Parameters,
        subspaces: StoreLike | None,
        *,
        mode: str,
        drop_left: bool = False,
        leases: Leases | None = None,
    ) -> Stores:
        """Open what is there, and check that it can be used; nothing is written but leases.

        Parameters
        ----------
        zoo, store, parameters, subspaces, drop_left
            See `run_comparison`.
        mode : {"r", "r+"}
        leases : Leases, optional
            Taken before anything is read that another run may change.

        Raises
        ------
        ParametersChangedError, StoreFormatError
            Where something else is there, or it was made with other parameters.
        """
        if parameters.mask is not None:
            check_mask(zoo, parameters.mask)
        place = None if subspaces is None else _io.absolute(subspaces)
        # Stores in memory are equal where their contents are: only identity says that two are the same.
        if store is place or (isinstance(place, str) and place == _io.absolute(store)):
            raise StoreFormatError(
                f"the comparison and its subspaces cannot both be at {_io.describe(place)!r}. Give each its own "
                f"place, or leave subspaces= out to have them inside the comparison"
            )
        _check_places(zoo, store, place)
        comparison = ComparisonStore.open(store, mode=mode) if _exists(store, "comparison") else None
        # Nothing is mended while another run is at work.
        _take(leases, comparison, "comparison")
        if comparison is not None and mode == "r+":
            comparison.finish_rechunking()
            mend(comparison.root)
        state = None if comparison is None else comparison.read_state()
        if state is not None:
            fixed = {**parameters.fixed, "mask_digest": _mask_digest(zoo, parameters)}
            state.check(fixed, parameters.records, zoo.examples_digest, zoo.n_examples)
        for measure in parameters.records:
            if isinstance(measure, OwnMeasure) and (state is None or measure.name not in state.versions):
                # Before it is recorded: a comparison goes on with all measures that it has.
                try_measure(measure)
        if place is None and state is not None and state.subspaces:
            place = like(store, state.subspaces)
        opened = _open_subspaces(comparison, place, mode)
        if opened is not None:
            opened.check(_identity(zoo, parameters))
            _take(leases, None if place is None else opened, "subspaces")
        dropped: dict[int, str] = {}
        if drop_left and state is not None:
            # Those that are there and cannot be read have not left.
            present = {item.label for item in zoo.entries()} | {name.label for name in zoo.damaged}
            dropped = {place: label for place, label in enumerate(state.labels) if label not in present}
            state = state.without(dropped)
        return cls(zoo, store, parameters, comparison, state, opened, place, dropped)

    def read_index(self) -> SubspaceIndex | None:
        """Read what subspaces there are."""
        return None if self.subspaces is None else self.subspaces.read_index()

    def prepare(self, plan: Plan, leases: Leases) -> tuple[ComparisonStore, SubspaceStore | None] | None:
        """Make what is missing, and room for what the plan adds.

        Parameters
        ----------
        plan : Plan
        leases : Leases
            Those of stores that are made here are taken.

        Returns
        -------
        comparison : ComparisonStore
        subspaces : SubspaceStore or None
            None only where there are none and nothing is to be computed.

        None instead of both where another run has made one of them since this one looked, or pairs are missing that
        could not be read: look again.
        """
        if plan.packs and self.subspaces is not None and self.subspaces.root.read_only:
            raise StoreAccessError(
                f"the subspaces at {self.subspaces.place!r} can only be read, and {plan.subspaces:,} that this "
                f"comparison needs are not among them. Keep its subspaces in another place, or have these made by "
                f"somebody who may write there"
            )
        if self.comparison is None:
            return self._create(plan, leases)
        self.comparison.forget_lost()
        forget_failures(self.comparison.root)
        lost = bool(self.dropped) and self.comparison.drop(list(self.dropped))
        if plan.tile != self.comparison.tile:
            lost |= self.comparison.rechunk(plan.tile)
        # Where nothing is computed, results stay with the subspaces that they are from.
        if plan.tiles and self.comparison.subspaces != self._where:
            self.comparison.set_subspaces(self._where)
        if self.subspaces is None and plan.tiles:
            self.subspaces = self._create_subspaces(self.comparison.root, plan)
            if not self._is_first(leases):
                return None
        lost |= self._fill(self.comparison, plan)
        return None if lost else (self.comparison, self.subspaces)

    def _is_first(self, leases: Leases) -> bool:
        """Whether subspaces that this run has just made are for it alone, and no other run was faster."""
        if self.place is None or self.subspaces is None:
            return True
        leases.take(self.subspaces.root, "subspaces")
        return not self.subspaces.read_index().packs

    def _create(self, plan: Plan, leases: Leases) -> tuple[ComparisonStore, SubspaceStore | None] | None:
        if self.place is not None and self.subspaces is None and plan.tiles:
            self.subspaces = self._create_subspaces(None, plan)

        def fill(root: zarr.Group) -> None:
            # First: where it is made in its place, it is open to others with its first attributes.
            leases.take(root, "comparison", _io.describe(self.store))
            if self.place is None and plan.tiles:
                self._create_subspaces(root, plan)
            ComparisonStore.create(
                root,
                parameters={**self.parameters.to_dict(), "mask_digest": _mask_digest(self.zoo, self.parameters)},
                tile=plan.tile,
                zoo=str(self.zoo.root.store_path),
                examples_digest=self.zoo.examples_digest,
                n_examples=self.zoo.n_examples,
                subspaces=self._where,
                columns=_columns(plan, range(len(plan.rows)), None),
                planned=_planned(plan),
                **self._results(plan),
            )

        root = None
        try:
            root = _create.create_whole(self.store, "comparison", {}, fill)
        finally:
            leases.follow(root)
        if root is None:
            return None
        self.comparison = ComparisonStore(root)
        if self.place is None and plan.tiles:
            self.subspaces = SubspaceStore.open_inside(root)
        return (self.comparison, self.subspaces) if self._is_first(leases) else None

    @property
    def _where(self) -> str:
        """Where the subspaces are, as the comparison stores it; empty if inside, or in no place that has a name."""
        return self.place if isinstance(self.place, str) else ""

    def _create_subspaces(self, comparison: zarr.Group | None, plan: Plan) -> SubspaceStore:
        identity = _identity(self.zoo, self.parameters)
        if self.place is not None:
            return SubspaceStore.create(self.place, identity, plan.chunk_samples)
        if comparison is None:
            raise RuntimeError("subspaces without a place of their own are inside a comparison")
        return SubspaceStore.create_inside(comparison, identity, plan.chunk_samples)

    def _results(self, plan: Plan) -> dict[str, Any]:
        """Arguments of `ComparisonStore.add_results`."""
        before = () if self.state is None else self.state.measures
        return {
            "measures": plan.measures,
            "asked": tuple(dict.fromkeys((*before, *self.parameters.measures))),
            "details": plan.details,
            "settled": plan.settled,
            "sparse": plan.is_sparse,
        }

    def _fill(self, comparison: ComparisonStore, plan: Plan) -> bool:
        comparison.add_results(**self._results(plan))
        return self._register(comparison, plan)

    def _register(self, comparison: ComparisonStore, plan: Plan) -> bool:
        """Make room for new representations, and forget pairs of those that have changed; whether others are lost."""
        lost = bool(plan.changed) and comparison.invalidate(plan.changed)
        known = 0 if self.state is None else len(self.state.labels)
        if (plan.workers, plan.parts) != ((self.state.workers, self.state.parts) if self.state else None):
            # Before there are rows of which a run that goes on would not know it.
            comparison.set_planned(_planned(plan))
        sizes = comparison.sizes
        if plan.changed or known < len(plan.rows) or sizes != {len(plan.rows)}:
            if max(sizes) > known:
                # A run was stopped while it changed that: what lies behind may be of others.
                comparison.resize(known)
            comparison.resize(len(plan.rows))
            comparison.write_columns(_columns(plan, {*plan.changed, *range(known, len(plan.rows))}, comparison))
        else:
            # What the zoo says of activations that are the same may have been corrected.
            before = comparison.columns(*CORRECTED)
            now = _columns(plan, (), comparison, CORRECTED)
            others = [name for name in CORRECTED if not _are_equal(before[name], now[name])]
            comparison.update_columns({name: now[name] for name in others})
        comparison.consolidate()
        return lost


def _planned(plan: Plan) -> dict[str, Any]:
    return {"workers": plan.workers, "parts": dict(plan.parts)}


def _are_equal(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == other.dtype.kind == "f")


def _columns(
    plan: Plan,
    forgotten: Container[int],
    comparison: ComparisonStore | None,
    names: Collection[str] = (),
) -> dict[str, npt.NDArray[Any]]:
    """Variables along the representations of a plan.

    Parameters
    ----------
    plan : Plan
    forgotten : container of int
        Rows of which nothing is known but what the zoo says.
    comparison : ComparisonStore or None
        What it says holds for what is not forgotten, and for what has left the zoo.
    names : collection of str
        Which of them; all where there are none.
    """
    columns = {}
    for variable in REPRESENTATION_VARIABLES:
        if names and variable.name not in names:
            continue
        get = _NAMES.get(variable.name)
        values = [
            (variable.fill if number in forgotten else None) if get is None else get(row)
            for number, row in enumerate(plan.rows)
        ]
        stored: Sequence[Any] | npt.NDArray[Any] = ()
        if any(value is None for value in values):
            stored = [variable.fill] * len(values) if comparison is None else comparison.column(variable.name)
        filled = [stored[row] if value is None else value for row, value in enumerate(values)]
        text = any(isinstance(value, str) for value in filled)
        columns[variable.name] = np.array(filled, dtype=object) if text else np.array(filled)
    return columns


def _check_places(zoo: Zoo, store: StoreLike, subspaces: StoreLike | None) -> None:
    """Raise where a store is none, or would lie in the folder of another, which would take it for a part of itself."""
    for given in (store, subspaces):
        if given is not None and not _io.is_place(given):
            raise StoreFormatError(f"a store is a path, a URL, or a store of zarr; got {given!r}")
    places = {"zoo": _io.folder_of(zoo.root.store_path), "comparison": _io.folder_of(store)}
    places["subspaces"] = None if subspaces is None else _io.folder_of(subspaces)
    for (inner, inside), (outer, outside) in itertools.permutations(places.items(), 2):
        if inside is not None and outside is not None and outside in inside.parents:
            raise StoreFormatError(
                f"the {inner} at {str(inside)!r} would lie in the {outer} at {str(outside)!r}. Give each its own folder"
            )


def _take(leases: Leases | None, store: ComparisonStore | SubspaceStore | None, kind: str) -> None:
    if leases is not None and store is not None:
        leases.take(store.root, kind)


def _exists(store: StoreLike, kind: str) -> bool:
    """Whether there is any zarr group; False where a store can be created."""
    root = _io.group_at(store)
    if root is None:
        _create.check_free(store)
    return root is not None and not _create.has_begun(root, kind)


def _open_subspaces(comparison: ComparisonStore | None, place: StoreLike | None, mode: str) -> SubspaceStore | None:
    if place is not None:
        # Those of another person, or zipped, serve as long as nothing has to be added.
        mode = mode if _io.is_writable(place) else "r"
        return SubspaceStore.open(place, mode=mode) if _exists(place, "subspaces") else None
    if comparison is None or not _nodes.has_node(comparison.root, INSIDE):
        return None
    try:
        return SubspaceStore.open_inside(comparison.root)
    except DamagedStoreError:
        # What it says of itself is gone; all in it can be made anew.
        return None


def _identity(zoo: Zoo, parameters: Parameters) -> dict[str, Any]:
    """Examples and options that subspaces are made from."""
    return {
        "examples_digest": zoo.examples_digest,
        "n_examples": zoo.n_examples,
        "precision": parameters.precision,
        **parameters.reading.to_dict(),
        "mask_digest": _mask_digest(zoo, parameters),
    }


def _mask_digest(zoo: Zoo, parameters: Parameters) -> str | None:
    """Digest of the values of the mask: the same examples may have another mask of that name in another zoo."""
    return None if parameters.mask is None else zoo.coordinate_digest(parameters.mask)


def check_mask(zoo: Zoo, name: str) -> None:
    """Raise ValueError where a mask is not a coordinate of the zoo that can be one."""
    coords = zoo.coords
    if name not in coords or coords[name].ndim != 2:
        masks = [repr(other) for other, values in coords.items() if values.ndim == 2]
        raise ValueError(
            f"mask={name!r} is not a coordinate of the zoo along examples and tokens; it has "
            f"{', '.join(masks) or 'none'}. Give it to create_zoo as coords={{{name!r}: mask}}"
        )
    if not is_mask(coords[name]):
        values = coords[name].ravel()
        other = next(value for value in values.tolist() if value not in {0, 1})
        raise ValueError(
            f"mask={name!r} has values other than true and false, such as {other!r}. A mask is true, or 1, for tokens "
            f"that count"
        )


def choose_mask(zoo: Zoo, mask: Mask) -> str | None:
    """Name of the mask to read sequences under: the one that is asked for, or the zoo's only one.

    A mask is a coordinate along examples and tokens that is true for tokens that count, some of every example: of
    booleans, or of 0 and 1.

    Raises
    ------
    ValueError
        Where the zoo has several, and layers with tokens, and none is named.
    InvalidActivationsError
        Where the only one leaves no token of an example.
    """
    if not isinstance(mask, MaskChoice):
        return mask
    yes_or_no = [name for name, values in zoo.coords.items() if values.ndim == 2 and is_mask(values)]
    masks = [name for name in yes_or_no if zoo.coords[name].any(axis=1).all()]
    if not masks and yes_or_no:
        _check_rows(zoo, yes_or_no[0])
    if len(masks) > 1:
        if not any(TOKEN in item.dims for item in zoo.entries()):
            return None
        raise ValueError(
            f"the zoo has several masks, {', '.join(map(repr, masks))}: say which of them is true for tokens that "
            f"count, mask={masks[0]!r} (--mask), or decline them all with mask=None (--no-mask)"
        )
    return masks[0] if masks else None


def _check_rows(zoo: Zoo, name: str) -> None:
    """Refuse a mask under which an example has no token that counts, where layers have such tokens."""
    mask = zoo.coords[name]
    empty = np.flatnonzero(~mask.any(axis=1))
    sizes = (dict(zip(item.dims, item.shape, strict=True)) for item in zoo.entries())
    if len(empty) and any(size.get(TOKEN) == mask.shape[1] for size in sizes):
        raise InvalidActivationsError(
            f"the mask {name!r} says of the example {str(zoo.examples[empty[0]])!r} that none of its tokens counts, "
            f"and of {len(empty)} in all. It is true for tokens, and may be inverted. Leave such examples out of the "
            f"zoo, or decline it, mask=None (--no-mask)"
        )
