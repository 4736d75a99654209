"""What the page asks of a comparison, and nothing else: names, blocks, rows, pairs. Only read, never written."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from dask_svcca.analysis.measured import measures_of, null_of, sign_of
from dask_svcca.errors import (
    DaskSvccaError,
    IncompatibleError,
    RepresentationNotFoundError,
    UnknownMeasureError,
    did_you_mean,
)
from dask_svcca.explore.cache import Cache, fingerprint
from dask_svcca.explore.classes import Classes
from dask_svcca.explore.clustering import leaf_order
from dask_svcca.explore.order import LEVELS, Cells, Order, OrderName
from dask_svcca.explore.passes import Means, Pass, runs, touched
from dask_svcca.explore.values import as_json
from dask_svcca.stores._documents import SEAL
from dask_svcca.stores._metadata import reading
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.dataset import open_comparison
from dask_svcca.variables import DETAIL_VARIABLES, ESTIMATE, PAIR_STATUS, UNFINISHED, PairStatus

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

    from dask_svcca.stores._io import StoreLike

    IntVector = npt.NDArray[np.int64]
    FloatMatrix = npt.NDArray[np.float64]

Arrangement = Literal["step", "depth", "cluster"]
Side = Literal["a", "b"]

AT_ONCE: Final = 2**21
"""Elements of the matrix that are read while the page waits; what takes more is read in the background."""

GROUPS: Final = 1000
"""Groups along each side of an overview."""

HELD: Final = 6
"""Passes whose results are in memory at a time."""

COLUMNS: Final = ("representation", "model", "checkpoint", "layer", "step", "depth")
NUMBERS: Final = ("rank", "neurons", "samples", "variance_kept")


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What a view shows.

    Attributes
    ----------
    a, b : Cells
    order_a, order_b : (cell,) int
        In which order its cells stand.
    values : (a, b) float
        Means of the values that are numbers.
    counts : (a, b) int
        Of how many.
    estimated : (a, b) int or None
        How many of these are estimates, since there is no exact value yet; None where there are no estimates.
    status : (a, b) uint8 or None
        `PairStatus`, where each cell is one pair.
    done : float
        Share of what there is to read that has been read.
    limits : (float, float)
        Bounds of the measure, for colours.
    """

    a: Cells
    b: Cells
    order_a: IntVector
    order_b: IntVector
    values: FloatMatrix
    counts: npt.NDArray[np.int64]
    estimated: npt.NDArray[np.int64] | None
    status: npt.NDArray[np.uint8] | None
    done: float
    limits: tuple[float, float]


class Explored:
    """One comparison, as the page asks for it.

    Parameters
    ----------
    store : path, zarr store, or URL
    cached : bool
        Whether overviews are kept in a folder beside the comparison.
    """

    def __init__(self, store: StoreLike, *, cached: bool = True) -> None:
        self._store = store
        self._cached = cached
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="overview")
        self._lock = threading.Lock()
        self.classes = Classes()
        self._passes: dict[tuple[Any, ...], tuple[str, Pass]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the store anew; overviews of values that have changed are forgotten."""
        self._comparison = ComparisonStore.open(self._store)
        self.dataset = open_comparison(self._store)
        self.columns = {
            name: values[: self.dataset.sizes["representation_a"]]
            for name, values in self._comparison.columns(*COLUMNS, *NUMBERS, "problem").items()
        }
        self.orders: dict[str, Order] = {name: Order.build(name, self.columns) for name in get_args(OrderName)}
        self._cache = Cache.beside(self._comparison.root.store_path if self._cached else None)
        self.classes.refresh(self._comparison)
        with self._lock:
            for key, (known, one_pass) in list(self._passes.items()):
                if key[0] not in {*self.measures, ESTIMATE.name} or known != self._fingerprint(key[0]):
                    one_pass.stopped = True
                    del self._passes[key]

    def check(self) -> None:
        """See that the store still has what the page knows; that it has more by now is no matter.

        Raises
        ------
        StoreFormatError
            Where the comparison is gone.
        IncompatibleError
            Where it has other representations, or other tiles.
        """
        found = ComparisonStore.open(self._store)
        names = found.columns("representation")["representation"][: self.count]
        if found.tile != self._comparison.tile or not np.array_equal(names, self.columns["representation"]):
            raise IncompatibleError(
                f"the comparison {self.place!r} is another than when this page was loaded: its representations or its "
                f"tiles have changed. Load the page again"
            )

    def close(self) -> None:
        """End what is read in the background."""
        for _, one_pass in self._passes.values():
            one_pass.stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def place(self) -> str:
        """Where the comparison is."""
        return self._comparison.place

    @property
    def count(self) -> int:
        """Number of representations."""
        return len(self.columns["representation"])

    def of_model(self, model: str) -> xr.Dataset:
        """The part of the comparison that is of one model, by its exact name."""
        own = np.flatnonzero(self.columns["model"].astype(str) == model)
        if not len(own):
            raise RepresentationNotFoundError(f"no model {model!r} in {self.place!r}")
        return self.dataset.isel(representation_a=own, representation_b=own)

    def meta(self, places: IntVector | None = None) -> dict[str, Any]:
        """Names and numbers of representations, measures, orders, parameters and runs, as JSON has them.

        Parameters
        ----------
        places : (chosen,) int, optional
            Which representations. Default: all.
        """
        columns, orders = self.columns, self.orders
        if places is not None:
            columns = {name: values[places] for name, values in columns.items()}
            orders = {name: Order.build(name, columns) for name in get_args(OrderName)}
        names = {name: dict.fromkeys(map(str, columns[name])) for name in ("model", "checkpoint", "layer")}
        numbers = {name: {text: number for number, text in enumerate(found)} for name, found in names.items()}
        attributes = dict(self._comparison.root.attrs)
        return {
            "place": self.place,
            "name": Path(self.place).name,
            "count": len(columns["representation"]),
            "names": {name: list(found) for name, found in names.items()},
            "codes": {name: [numbers[name][str(text)] for text in columns[name]] for name in names},
            "columns": {name: as_json(columns[name]) for name in ("step", "depth", *NUMBERS)},
            "problems": {str(at): str(text) for at, text in enumerate(columns["problem"]) if text},
            "orders": {
                name: {"places": order.places.tolist(), "starts": [some.tolist() for some in order.starts[:2]]}
                for name, order in orders.items()
            },
            "levels": {name: list(levels) for name, levels in LEVELS.items()},
            "measures": [self._measure(name) for name in self.measures],
            "labels": self.classes.labels,
            "status": [status.name.lower().replace("_", " ") for status in PairStatus],
            "unfinished": [int(status) for status in UNFINISHED],
            "provenance": as_json({name: value for name, value in attributes.items() if name not in {"runs", SEAL}}),
            "runs": as_json(attributes.get("runs", [])),
        }

    @property
    def measures(self) -> list[str]:
        """Measures, those that were asked for first, without references."""
        return measures_of(self.dataset)

    def _measure(self, name: str) -> dict[str, Any]:
        attributes = self.dataset[name].attrs
        return {
            "name": name,
            "description": ": ".join(str(attributes[one]) for one in ("long_name", "comment") if one in attributes),
            "reference": str(attributes.get("reference", "")),
            "range": as_json(attributes.get("valid_range", [None, None])),
            "symmetric": bool(attributes.get("symmetric", True)),
            "sense": str(attributes["sense"]),
            "null": self.null_of(name),
            "estimate": self.estimate_of(name),
        }

    def null_of(self, measure: str) -> str:
        """Variable that says what chance would give; empty where there is none."""
        return null_of(self.dataset, measure)

    def estimate_of(self, measure: str) -> str:
        """Variable that has estimates of a measure; empty where there is none."""
        found = self.dataset.get(ESTIMATE.name)
        return ESTIMATE.name if found is not None and found.attrs.get("estimate_of") == measure else ""

    def read(self, name: str, rows: IntVector, columns: IntVector) -> npt.NDArray[Any]:
        """Values of one variable at some rows and columns, in any order; only tiles that have some of them are read."""
        sorted_rows, back_rows = np.unique(rows, return_inverse=True)
        sorted_columns, back_columns = np.unique(columns, return_inverse=True)
        array, tile = self.dataset[name], self._comparison.tile
        found = np.empty((len(sorted_rows), len(sorted_columns)), array.dtype)
        at_row = 0
        for some_rows in runs(sorted_rows, tile):
            at_column = 0
            for some_columns in runs(sorted_columns, tile):
                first_row, first_column = some_rows[0], some_columns[0]
                with reading(name, self.place):
                    part = array[first_row : some_rows[-1] + 1, first_column : some_columns[-1] + 1].to_numpy()
                found[at_row : at_row + len(some_rows), at_column : at_column + len(some_columns)] = part[
                    np.ix_(some_rows - first_row, some_columns - first_column)
                ]
                at_column += len(some_columns)
            at_row += len(some_rows)
        return found[np.ix_(back_rows, back_columns)]

    def values(self, measure: str, rows: IntVector, columns: IntVector, *, chance: bool) -> FloatMatrix:
        """Values of a measure, or by how much they are above those by chance; or estimates of what is not computed."""
        if measure == ESTIMATE.name:
            return self._estimates(rows, columns)
        values = self.read(measure, rows, columns).astype(np.float64, copy=False)
        return values - self.read(self.null_of(measure), rows, columns) if chance else values

    def _estimates(self, rows: IntVector, columns: IntVector) -> FloatMatrix:
        """Estimates of pairs that have no exact value yet; NaN for all others."""
        estimates = self.read(ESTIMATE.name, rows, columns).astype(np.float64)
        exact = self.read(str(self.dataset[ESTIMATE.name].attrs["estimate_of"]), rows, columns)
        waiting = np.isin(self.read(PAIR_STATUS.name, rows, columns), UNFINISHED) & np.isnan(exact)
        return np.where(waiting, estimates, np.nan)

    def check_measure(self, measure: str, *, chance: bool = False) -> None:
        """See that there is such a measure, and what chance gives for it where that is asked for.

        Raises
        ------
        UnknownMeasureError
        """
        if measure not in self.measures:
            raise UnknownMeasureError(
                f"no measure {measure!r} in {self.place!r}; it has {', '.join(self.measures)}"
                f"{did_you_mean(measure, self.measures)}"
            )
        if chance and not self.null_of(measure):
            raise UnknownMeasureError(f"{self.place!r} does not say what chance gives for {measure!r}")

    def block(
        self,
        measure: str,
        arrangement: Arrangement,
        a: tuple[int, int],
        b: tuple[int, int],
        *,
        chance: bool = False,
    ) -> Block:
        """Values of a view: of pairs, or means over blocks of pairs.

        Parameters
        ----------
        measure : str
        arrangement : {"step", "depth", "cluster"}
            ``cluster``: as ``step``, with cells that are alike beside each other.
        a, b : (int, int)
            Positions from and up to which, in the order of representations.
        chance : bool
            Whether what chance gives is subtracted.

        Raises
        ------
        UnknownMeasureError, RepresentationNotFoundError
        """
        self.check_measure(measure, chance=chance)
        order = self.orders["step" if arrangement == "cluster" else arrangement]
        for low, high in (a, b):
            if not 0 <= low < high <= self.count:
                raise RepresentationNotFoundError(f"there are {self.count} representations, not {low} to {high}")
        cells = order.cells(*a), order.cells(*b)
        (sums, counts), done, limits = self._means(measure, order, cells, chance=chance)
        estimated = None
        if not chance and (estimate := self.estimate_of(measure)):
            (more, estimated), read, _ = self._means(estimate, order, cells, chance=False)
            sums, counts, done = np.nansum([sums, more], axis=0), counts + estimated, min(done, read)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = sums / counts
        status = None
        if cells[0].single and cells[1].single:
            rows, columns = (order.places[one.edges[0] : one.edges[-1]] for one in cells)
            status = self.read(PAIR_STATUS.name, rows, columns)
        orders = [np.arange(len(one)) for one in cells]
        if arrangement == "cluster" and done == 1:
            orders[0] = leaf_order(values)
            orders[1] = orders[0] if a == b else leaf_order(values.T)
            place = np.ix_(*orders)
            values, counts = values[place], counts[place]
            estimated, status = (None if one is None else one[place] for one in (estimated, status))
        return Block(*cells, orders[0], orders[1], values, counts, estimated, status, done, limits)

    def _means(
        self, measure: str, order: Order, cells: tuple[Cells, Cells], *, chance: bool
    ) -> tuple[tuple[FloatMatrix, npt.NDArray[np.int64]], float, tuple[float, float]]:
        """Sums and counts of some cells, the share that has been read of them, and bounds of the colours."""
        find = self._pairs if cells[0].single and cells[1].single else self._pooled
        return find(measure, order, cells, chance=chance)

    def _pairs(
        self, measure: str, order: Order, cells: tuple[Cells, Cells], *, chance: bool
    ) -> tuple[tuple[FloatMatrix, npt.NDArray[np.int64]], float, tuple[float, float]]:
        rows, columns = (order.places[one.edges[0] : one.edges[-1]] for one in cells)
        if touched(rows, columns, self._comparison.tile) > AT_ONCE:
            return self._pooled(measure, order, cells, chance=chance)
        values = self.values(measure, rows, columns, chance=chance)
        finite = np.isfinite(values)
        return (np.where(finite, values, np.nan), finite.astype(np.int64)), 1.0, self._limits(measure, values, chance)

    def _pooled(
        self, measure: str, order: Order, cells: tuple[Cells, Cells], *, chance: bool
    ) -> tuple[tuple[FloatMatrix, npt.NDArray[np.int64]], float, tuple[float, float]]:
        groups = order.groups(GROUPS)
        inner = [np.searchsorted(groups, one.edges) for one in cells]
        if all(np.array_equal(groups[at], one.edges) for at, one in zip(inner, cells, strict=True)):
            one_pass = self._overview(measure, chance=chance)
            means = one_pass.targets[list(self.orders).index(order.name)]
            sums, counts = (
                np.add.reduceat(
                    np.add.reduceat(whole[:, : inner[1][-1]], inner[1][:-1], axis=1)[: inner[0][-1]],
                    inner[0][:-1],
                    axis=0,
                )
                for whole in (means.sums, means.counts)
            )
        else:
            members = [
                [order.places[low:high] for low, high in zip(one.edges[:-1], one.edges[1:], strict=True)]
                for one in cells
            ]
            key = (measure, chance, order.name, *(tuple(one.edges.tolist()) for one in cells))
            one_pass = self._start(key, lambda: [Means.build(self.count, *members)], *map(np.concatenate, members))
            sums, counts = one_pass.targets[0].sums, one_pass.targets[0].counts
        bounds = np.array([one_pass.low, one_pass.high])
        return (sums, counts), one_pass.done, self._limits(measure, bounds, chance)

    def _overview(self, measure: str, *, chance: bool) -> Pass:
        """All of the matrix by models and checkpoints, and by models and layers."""

        def targets() -> list[Means]:
            edges = [order.groups(GROUPS) for order in self.orders.values()]
            members = [
                np.split(order.places, some[1:-1]) for order, some in zip(self.orders.values(), edges, strict=True)
            ]
            return [Means.build(self.count, groups, groups) for groups in members]

        everything = np.arange(self.count)
        return self._start((measure, chance), targets, everything, everything)

    def _start(self, key: tuple[Any, ...], targets: Any, rows: IntVector, columns: IntVector) -> Pass:
        """A pass that was begun, or is found beside the store, or begins now; a small one is done at once."""
        measure, chance = key[:2]
        with self._lock:
            known = self._passes.pop(key, None)
            if known is not None:
                if known[1].problem is not None:
                    raise known[1].problem
                # The one that was used last goes last.
                self._passes[key] = known
                return known[1]
            digest = self._fingerprint(measure)
            one_pass = Pass(np.sort(rows), np.sort(columns), self._comparison.tile, targets())
            for old in list(self._passes)[: 1 - HELD]:
                self._passes.pop(old)[1].stopped = True
            self._passes[key] = digest, one_pass

        def read(rows: IntVector, columns: IntVector) -> FloatMatrix:
            return self.values(measure, rows, columns, chance=chance)

        def work() -> None:
            try:
                one_pass.run(read)
            except DaskSvccaError as error:
                one_pass.problem = error
            if one_pass.done == 1:
                self._cache.write(key, digest, one_pass)

        if touched(rows, columns, self._comparison.tile) <= AT_ONCE:
            one_pass.run(read)
        elif not self._cache.load(key, digest, one_pass):
            self._pool.submit(work)
        return one_pass

    def _fingerprint(self, measure: str) -> str:
        """What changes with the values of a measure."""
        names = [measure, self.null_of(measure)]
        if measure == ESTIMATE.name:
            names = [measure, str(self.dataset[measure].attrs["estimate_of"]), PAIR_STATUS.name]
        return fingerprint(self._comparison.root, names)

    def _limits(self, measure: str, values: npt.NDArray[np.float64], chance: bool) -> tuple[float, float]:
        """Bounds of the colours: those of the measure, or of the values where it has none."""
        low, high = map(float, self.dataset[measure].attrs["valid_range"])
        finite = values[np.isfinite(values)]
        low = (float(finite.min()) if len(finite) else 0.0) if math.isinf(low) else low
        high = (float(finite.max()) if len(finite) else 1.0) if math.isinf(high) else high
        return (0.0 if chance else low), high

    def pair(self, a: int, b: int) -> dict[str, Any]:
        """All that is stored of one pair, as JSON has it."""
        for place in (a, b):
            if not 0 <= place < self.count:
                raise RepresentationNotFoundError(f"there are {self.count} representations, no number {place}")
        details = {variable.name for variable in DETAIL_VARIABLES.values()}
        values: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for name, array in self.dataset.data_vars.items():
            if array.dims[:2] == ("representation_a", "representation_b"):
                with reading(str(name), self.place):
                    value = array[a, b].to_numpy()
                (found if name in details else values)[str(name)] = as_json(value)
        status = values.pop(PAIR_STATUS.name)
        return {
            "a": a,
            "b": b,
            "status": PairStatus(status).name.lower().replace("_", " "),
            "unfinished": bool(np.isin(status, UNFINISHED)),
            "values": values,
            "details": found,
        }

    def row(self, measure: str, side: Side, place: int, *, top: int, chance: bool = False) -> dict[str, Any]:
        """Representations sorted by their similarity to one, the most similar first, as JSON has them.

        Parameters
        ----------
        measure : str
        side : {"a", "b"}
            Whether the one is a or b.
        place : int
            Its number.
        top : int
            How many to list.
        chance : bool
        """
        self.check_measure(measure, chance=chance)
        if not 0 <= place < self.count:
            raise RepresentationNotFoundError(f"there are {self.count} representations, no number {place}")
        one, everything = np.array([place]), np.arange(self.count)
        values = self.values(measure, *((one, everything) if side == "a" else (everything, one)), chance=chance).ravel()
        sign = -sign_of(self.dataset, measure)
        others = np.flatnonzero(np.isfinite(values) & (everything != place))
        best = others[np.argsort(sign * values[others], kind="stable")]
        return {"places": best[:top].tolist(), "values": values[best[:top]].tolist(), "valued": len(best)}
