"""Choose pairs of a comparison by name and value, reading no more than their rows and columns."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from dask_svcca.analysis._options import check_count, is_number
from dask_svcca.analysis.measured import as_dataset, estimates_of, find_names, say_estimates, sign_of, warn_of_estimates
from dask_svcca.analysis.selection import COLUMNS, Side, Where, numbered, places_of, values_of
from dask_svcca.errors import InvalidQuestionError
from dask_svcca.stores.choice import as_slice
from dask_svcca.variables import ESTIMATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import xarray as xr

    from dask_svcca.stores._io import StoreLike

    BoolVector = npt.NDArray[np.bool_]

BLOCK_ELEMENTS = 2**21
"""Elements of the matrix that are read at a time."""

Across: TypeAlias = Literal["checkpoints", "models"]


def query(
    comparison: xr.Dataset | StoreLike,
    measure: str | Sequence[str] | None = None,
    *,
    a: Where | None = None,
    b: Where | None = None,
    across: Across | None = None,
    low: float | None = None,
    high: float | None = None,
    top: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Pairs of a comparison by name and value, the most similar first.

    Each pair is listed once, with a directed measure once each way, and no representation with itself. Layers of one
    network are often most similar to their neighbours: ``across`` leaves such pairs out. Only the rows and columns
    asked for are read.

    Parameters
    ----------
    comparison : xarray.Dataset, path, zarr store, or URL
        From `open_comparison` or `compare`, or where it is.
    measure : str or sequence of str, optional
        Of several, pairs are sorted and bounded by the first. Default: the first measure that was asked for. After a
        preview also ``cka_estimate``, by its name alone, and ``cka_estimate_error``: they are there for pairs that had
        no value then, and other pairs are not listed.
    a, b : mapping, optional
        Which representations to take as a and as b. ``model``, ``checkpoint`` and ``layer``: a name, a pattern, or
        several of these. In a pattern stand ``*`` for one level (text without dots and slashes), ``**`` for any text,
        ``?`` for one character and ``[abc]`` for one of some. ``step`` and ``depth``: a number, several, or a slice
        with both ends. ``final``: True for the final checkpoint of each model, False for the others. Default: all.
    across : {"checkpoints", "models"}, optional
        Only pairs of layers of different checkpoints, or of different models. Default: all pairs, those of layers of
        one checkpoint among them.
    low, high : float, optional
        Bounds of the value, both included.
    top : int, optional
        How many pairs, at least 1. Default: all that match.
    storage_options : mapping, optional
        For a URL: see `create_zoo`.

    Returns
    -------
    pandas.DataFrame
        One row per pair that has a value, sorted by it: descending, or ascending where the measure is a distance or a
        p-value, such as ``p_cka``. Columns are ``model_a``, ``checkpoint_a``, ``layer_a``, ``step_a``, ``depth_a``,
        the same for b, and the measures.

    Raises
    ------
    RepresentationNotFoundError, UnknownMeasureError
        The message says what there is.
    StoreFormatError
        Where there is no comparison.
    InvalidQuestionError
        Where ``a`` or ``b`` is not valid, ``top`` is not positive, ``low`` is above ``high``, or ``across`` is
        something else.

    Warns
    -----
    OnlyEstimatesWarning
        Where no pair has a value, and some have an estimate.

    Examples
    --------
    >>> import tempfile, dask_svcca
    >>> folder = tempfile.mkdtemp()
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 100, 4))
    >>> with dask_svcca.create_zoo(folder + "/zoo.zarr", examples=range(100)) as zoo:
    ...     for layer, values in {"conv1": x, "conv2": x + y, "fc": y}.items():
    ...         zoo.write("net", "end", layer, values)
    >>> comparison = dask_svcca.compare(zoo, folder + "/comparison.zarr")
    >>> query(comparison, a={"layer": "conv*"}, top=2)[["layer_a", "layer_b", "svcca"]].round(2)
      layer_a layer_b  svcca
    0   conv2      fc   0.74
    1   conv1   conv2   0.73
    """
    if top is not None:
        check_count("top", top, "how many pairs to list", ", or None for all")
    dataset = as_dataset(comparison, storage_options)
    pairs = PairQuery.build(dataset, measure, a=a, b=b, across=across, low=low, high=high)
    found, total = pairs.most_similar(top)
    if not total:
        warn_of_estimates(pairs.measure, pairs.say_estimates())
    return found


@dataclass(frozen=True)
class PairQuery:
    """Some pairs of a comparison, each once, and no representation with itself.

    Attributes
    ----------
    dataset : xarray.Dataset
        From `open_comparison`.
    measure : str
    a, b : (representation,) bool
        Which representations are a, and which b.
    low, high : float
        Bounds of the value, both included.
    others : tuple of str
        Further measures to list.
    across : {"checkpoints", "models"} or None
        What must differ.
    """

    dataset: xr.Dataset
    measure: str
    a: BoolVector
    b: BoolVector
    low: float = -np.inf
    high: float = np.inf
    others: tuple[str, ...] = ()
    across: Across | None = None

    @classmethod
    def build(
        cls,
        dataset: xr.Dataset,
        measure: str | Sequence[str] | None = None,
        *,
        a: Where | None = None,
        b: Where | None = None,
        across: Across | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> PairQuery:
        """Query of the representations that two choices mean: see `dask_svcca.analysis.selection.places_of`.

        Parameters
        ----------
        dataset : xarray.Dataset
        measure : str or sequence of str, optional
            Default: the first measure that was asked for.
        a, b : mapping, optional
        across : {"checkpoints", "models"}, optional
        low, high : float, optional

        Raises
        ------
        RepresentationNotFoundError, UnknownMeasureError
            The message says what there is.
        InvalidQuestionError
            Where ``a`` or ``b`` is not valid, ``low`` is above ``high``, or ``across`` is something else.
        """
        if across not in (None, *get_args(Across)):
            raise InvalidQuestionError(
                f"across is {' or '.join(map(repr, get_args(Across)))}, or None for all; got {across!r}"
            )
        for name, bound in (("low", low), ("high", high)):
            if bound is not None and not is_number(bound):
                raise InvalidQuestionError(f"{name} is a bound of the value, a number or None; got {bound!r}")
        bounds = (-np.inf if low is None else low, np.inf if high is None else high)
        if not bounds[0] <= bounds[1]:
            raise InvalidQuestionError(f"the interval from low={low!r} to high={high!r} is empty: no value lies in it")
        names = find_names(dataset, measure or None, references=True, estimates=True)
        return cls(
            dataset,
            names[0],
            _mask(dataset, "a", a),
            _mask(dataset, "b", b),
            *bounds,
            tuple(dict.fromkeys(names[1:])),
            across,
        )

    def frames(self) -> Iterator[pd.DataFrame]:
        """Pairs with a value, in the order of the matrix, some of its rows at a time.

        Columns are the names, ``step`` and ``depth`` of both sides, and the value.
        """
        for stripe in self._stripes():
            found = [self._found(block, *np.nonzero(block.wanted)) for block in stripe]
            rows, columns, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
            # Of a row, blocks come from left to right.
            order = np.argsort(rows, kind="stable")
            for start in range(0, max(1, len(order)), BLOCK_ELEMENTS):
                some = order[start : start + BLOCK_ELEMENTS]
                yield self._frame(rows[some], columns[some], values[some])

    def most_similar(self, count: int | None = None) -> tuple[pd.DataFrame, int]:
        """The most similar pairs, in that order, and the number of all pairs that match.

        Parameters
        ----------
        count : int, optional
            Default: all of them.

        Returns
        -------
        pandas.DataFrame
            Pairs of equal value in the order of the matrix.
        int
        """
        sign = -sign_of(self.dataset, self.measure)
        rows, columns, values = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 1 + len(self.others)))
        total, worst = 0, np.inf
        for block in itertools.chain.from_iterable(self._stripes()):
            total += int(np.count_nonzero(block.wanted))
            with np.errstate(invalid="ignore"):
                near = block.wanted & (sign * block.matrix <= worst)
                if count is not None and np.count_nonzero(near) > count:
                    found = sign * block.matrix[near]
                    found.partition(count - 1)
                    # Those that are as similar as the last of them are told apart by their place.
                    near &= sign * block.matrix <= found[count - 1]
            row, column = np.nonzero(near)
            if not len(row):
                continue
            more = self._found(block, row, column)
            rows, columns = np.concatenate([rows, more[0]]), np.concatenate([columns, more[1]])
            values = np.concatenate([values, more[2]])
            if count is not None:
                order = np.lexsort((rows, sign * values[:, 0]))[:count]
                rows, columns, values = rows[order], columns[order], values[order]
                worst = float(sign * values[-1, 0]) if len(order) == count else np.inf
        order = np.lexsort((rows, sign * values[:, 0]))
        return self._frame(rows[order], columns[order], values[order]), total

    def say_estimates(self) -> str:
        """Where none of these pairs has a value, whatever the bounds: what to ask for instead; else an empty text."""
        known, whole = estimates_of(self.dataset), replace(self, low=-np.inf, high=np.inf, others=())
        if not known or self.measure in known or whole.most_similar(1)[1]:
            return ""
        return say_estimates(self.dataset, replace(whole, measure=ESTIMATE.name).most_similar(1)[1])

    @cached_property
    def _numbers(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """A number for each representation of either side, the same for the same label."""
        return numbered(self.dataset)

    @cached_property
    def _asked(self) -> tuple[BoolVector, BoolVector]:
        """Whether the representation of each number is among those of a, and among those of b."""
        count = 1 + max(int(numbers.max(initial=-1)) for numbers in self._numbers)
        asked = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
        for one, numbers, mask in zip(asked, self._numbers, (self.a, self.b), strict=True):
            one[numbers[mask]] = True
        return asked

    def _stripes(self) -> Iterator[Iterator[_Block]]:
        """Some rows of the matrix at a time, each in blocks from left to right."""
        rows, columns = np.flatnonzero(self.a), np.flatnonzero(self.b)
        symmetric = self.dataset[self.measure].attrs.get("symmetric", True)
        (of_a, of_b), (in_a, in_b) = self._numbers, self._asked
        tile = int(self.dataset.attrs.get("tile", 1))
        # Whole tiles: none is read twice.
        height = max(1, BLOCK_ELEMENTS // max(1, len(columns)) // tile) * tile
        for start in range(0, len(rows), height):
            block = rows[start : start + height]
            others = columns
            if symmetric and in_b[of_a[block]].all():
                # Pairs with those before the block are mirror images of others.
                others = columns[(of_b[columns] >= of_a[block].min()) | ~in_a[of_b[columns]]]
            yield self._blocks(block, others, tile)

    def _blocks(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], tile: int) -> Iterator[_Block]:
        """Some rows of the matrix, of whole tiles: of a large comparison, all columns of a tile take much memory."""
        width = max(1, BLOCK_ELEMENTS // max(1, len(rows)) // tile) * tile
        ends = np.flatnonzero(np.diff(columns // width)) + 1
        for some in np.split(columns, ends):
            values = self._read(self.measure, rows, some)
            with np.errstate(invalid="ignore"):
                wanted = self._once(rows, some) & (values >= self.low) & (values <= self.high)
            yield _Block(rows, some, values, wanted)

    def _found(
        self, block: _Block, row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Rows and columns of some pairs of a block in the whole matrix, and the values of all measures."""
        values = [block.matrix[row, column]]
        values += [self._read(other, block.rows, block.columns)[row, column] for other in self.others if row.size]
        measured = np.stack(values, axis=1) if row.size else np.zeros((0, 1 + len(self.others)))
        return block.rows[row], block.columns[column], measured

    def _read(
        self, measure: str, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        place = {"representation_a": as_slice(rows), "representation_b": as_slice(columns)}
        return values_of(self.dataset[measure][place])

    def _once(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which pairs are neither a representation with itself nor the mirror image of another pair asked for."""
        (of_a, of_b), (in_a, in_b) = self._numbers, self._asked
        row, column = of_a[rows][:, np.newaxis], of_b[columns][np.newaxis, :]
        wanted = row != column
        if self.dataset[self.measure].attrs.get("symmetric", True):
            wanted &= ~(in_a[column] & in_b[row] & (row > column))
        parts: dict[Across | None, tuple[str, ...]] = {"checkpoints": ("model", "checkpoint"), "models": ("model",)}
        if self.across is not None:
            same = np.ones(wanted.shape, dtype=np.bool_)
            for part in parts[self.across]:
                names = (values_of(self.dataset[f"{part}_{side}"]) for side in "ab")
                same &= np.equal.outer(*(one[index] for one, index in zip(names, (rows, columns), strict=True)))
            wanted &= ~same
        return np.asarray(wanted)

    def _frame(
        self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
    ) -> pd.DataFrame:
        sides = (("a", rows), ("b", columns))
        return pd.DataFrame(
            {
                **{
                    f"{part}_{side}": values_of(self.dataset[f"{part}_{side}"])[index]
                    for side, index in sides
                    for part in COLUMNS
                },
                **dict(zip((self.measure, *self.others), values.T, strict=True)),
            }
        )


def _mask(dataset: xr.Dataset, side: Side, where: Where | None) -> BoolVector:
    mask = np.zeros(dataset.sizes[f"representation_{side}"], dtype=np.bool_)
    mask[places_of(dataset, side, where)] = True
    return mask


@dataclass(frozen=True)
class _Block:
    """Some rows and columns of the matrix of one measure.

    Attributes
    ----------
    rows, columns : (row,), (column,) int
        Which representations.
    matrix : (row, column)
        Values of the measure.
    wanted : (row, column) bool
        Which pairs match.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    matrix: npt.NDArray[np.float64]
    wanted: npt.NDArray[np.bool_]
