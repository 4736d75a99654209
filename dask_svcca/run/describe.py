"""What a comparison says of its representations: their subspaces, and why some have none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.plan.plan import Row
    from dask_svcca.stores.comparison import ComparisonStore
    from dask_svcca.stores.subspaces import SubspaceIndex, SubspaceRecord, SubspaceStore

    Columns = dict[str, npt.NDArray[Any]]

NAMES = ("neurons", "samples", "rank", "variance_kept", "problem")


def describe(
    comparison: ComparisonStore,
    rows: Sequence[Row],
    subspaces: SubspaceStore | None,
    new_problems: Mapping[str, str],
    variance: float | None,
    *,
    directions: bool,
) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """Write what the subspaces say of the representations, and the problems of this run.

    What is known stays as it is, and nothing is read for it; so does what is known of what has left the zoo.

    Parameters
    ----------
    comparison : ComparisonStore
    rows : sequence of Row
    subspaces : SubspaceStore or None
    new_problems : mapping of str to str
        Problems of this run, by key of the subspace.
    variance : float or None
        See `Parameters`.
    directions : bool
        Whether there may be directions of those of which none are known.

    Returns
    -------
    problems : dict of str to str
        All problems, by label.
    numbers : dict of str to (int, int)
        By label, samples (times the translations of a convolutional layer) and kept directions.
    """
    # A fold that could not be made has another key than the representation's own subspace.
    unmade = {key.split(" ", maxsplit=1)[0]: new_problems[key] for key in sorted(new_problems, reverse=True)}
    columns = comparison.columns(*NAMES)
    unknown: dict[int, str | None] = {}
    # A run that was stopped here may have written some of the columns.
    known = (columns["rank"] >= 0) & (columns["neurons"] >= 0) & (columns["samples"] >= 0)
    # Without directions, a rank of zero is all that is known, until another measure asks for them.
    known &= ~np.isnan(columns["variance_kept"]) | ((columns["rank"] == 0) & (not directions))
    for number, (row, there, problem) in enumerate(zip(rows, known, columns["problem"], strict=True)):
        if row.representation is not None and (not there or problem or row.representation.identity in unmade):
            own = (new_problems[key] for key in (row.key, *row.relations) if key in new_problems)
            unknown[number] = next(own, unmade.get(row.representation.identity))
    if unknown:
        before = {name: values.copy() for name, values in columns.items()}
        _describe(columns, rows, unknown, None if subspaces is None else subspaces.read_index(), variance)
        comparison.update_columns({name: values for name, values in columns.items() if not _same(values, before[name])})
    comparison.resize_components(max(columns["rank"], default=0))
    present = [number for number, row in enumerate(rows) if row.representation is not None]
    problems = {rows[number].label: str(columns["problem"][number]) for number in present if columns["problem"][number]}
    numbers = {
        rows[number].label: (
            int(columns["samples"][number]) * math.prod(rows[number].grid),
            int(columns["rank"][number]),
        )
        for number in present
        if columns["rank"][number] > 0
    }
    return problems, numbers


def _describe(
    columns: Columns,
    rows: Sequence[Row],
    unknown: Mapping[int, str | None],
    index: SubspaceIndex | None,
    variance: float | None,
) -> None:
    """Fill in the columns for some rows, by their number, with a problem of this run or None."""
    for number, new in unknown.items():
        row, problem = rows[number], new
        record = None if index is None else index.records.get(row.key)
        related = [] if index is None else [index.records[key].entry for key in row.relations if key in index.records]
        # Without a subspace to read, what is known stays as it is.
        if index is not None and record is not None:
            for name, value in zip(NAMES, _numbers(index, record, variance), strict=False):
                columns[name][number] = value
        elif made := [entry for entry in related if not entry.problem]:
            # Where no measure looks at directions, there are none.
            for name, value in zip(NAMES, (row.neurons, int(made[0].sums[0]), 0, np.nan), strict=False):
                columns[name][number] = value
        entries = ([] if record is None else [record.entry]) + related
        if entries:
            # In their order, whichever was found by this run, or first.
            problem = next((entry.problem for entry in entries if entry.problem), new or "")
        if problem is not None:
            columns["problem"][number] = problem and f"{row.label!r} {problem}"


def _numbers(index: SubspaceIndex, record: SubspaceRecord, variance: float | None) -> tuple[int, int, int, float]:
    """Neurons, samples, rank and share of the variance kept."""
    entry = record.entry
    if entry.problem:
        return -1, -1, -1, np.nan
    if not entry.orthonormal or entry.share < (1.0 if variance is None else variance):
        return entry.neurons, entry.samples, 0, np.nan
    spectrum = index.spectrum(record)
    kept = entry.kept(spectrum, variance)
    share = float((spectrum * entry.multiplicity)[kept].sum() / entry.total)
    return entry.neurons, entry.samples, int(entry.multiplicity[kept].sum()), share


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
