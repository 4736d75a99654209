"""Details of pairs beside their measures, where they are asked for: all correlations, or their mean by frequency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from dask_svcca.kernels.fourier import half_plane, plane_frequencies

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from dask_svcca.evaluate.basis import Basis
    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray
    from dask_svcca.kernels.fourier import Grid, SharedFrequency
    from dask_svcca.readings import Meeting

Details = dict[str, "npt.NDArray[np.float32]"]
"""Arrays by name, (a, b, ...)."""


PLACED_AT_ONCE = 2**16
"""Correlations that are put in their places at a time: the places take as much memory as the correlations."""


class TakesCorrelations(Protocol):
    """Takes correlations as they are computed."""

    def add(self, a: IntArray, b: IntArray, correlations: FloatArray, frequency: SharedFrequency) -> None:
        """Take the correlations of pairs at one frequency.

        Parameters
        ----------
        a, b : (pair,)
            Members of the two groups; no pair is given twice at a frequency.
        correlations : (pair, component)
        frequency : SharedFrequency
        """


class Correlations:
    """Puts all canonical correlations of each pair into an array, which `finish_details` sorts."""

    def __init__(self, values: npt.NDArray[np.float32], todo: BoolArray, ranks_a: IntArray, ranks_b: IntArray) -> None:
        self._values = values
        self._filled = np.zeros(todo.shape, dtype=np.int64)
        for a, b in np.argwhere(todo):
            # A direction at a frequency where the other layer keeps none has a correlation of zero.
            values[a, b, : int(min(ranks_a[a], ranks_b[b]))] = 0

    def add(self, a: IntArray, b: IntArray, correlations: FloatArray, frequency: SharedFrequency) -> None:
        """Take the correlations of pairs at one frequency, each as often as the frequency counts."""
        count = frequency.multiplicity * correlations.shape[1]
        step = max(1, PLACED_AT_ONCE // max(1, count))
        for start in range(0, len(a), step):
            some = slice(start, start + step)
            places = self._filled[a[some], b[some]][:, np.newaxis] + np.arange(count)
            repeated = np.tile(correlations[some], frequency.multiplicity)
            self._values[a[some, np.newaxis], b[some, np.newaxis], places] = repeated
        self._filled[a, b] += count


class FrequencyMeans:
    """Mean canonical correlation of each pair at each frequency of the plane."""

    def __init__(
        self,
        values: npt.NDArray[np.float32],
        todo: BoolArray,
        bases_a: Mapping[int, Basis],
        bases_b: Mapping[int, Basis],
        meeting: Meeting,
    ) -> None:
        self._values = values
        self._places: dict[SharedFrequency, tuple[IntArray, IntArray]] = {}
        grid_a, grid_b = (next(iter(bases.values())).grid for bases in (bases_a, bases_b))
        if len(grid_a) != 2 or len(grid_b) != 2:
            return
        keeps_a, keeps_b = _keeps(bases_a, todo.shape[0], grid_a), _keeps(bases_b, todo.shape[1], grid_b)
        for shared, frequencies in zip(meeting.shared, plane_frequencies(grid_a, grid_b), strict=True):
            y, x = (frequencies + np.array(values.shape[2:]) // 2).T
            self._places[shared] = y, x
            a, b = np.nonzero(todo & np.logical_or.outer(keeps_a[:, shared.a], keeps_b[:, shared.b]))
            values[a[:, np.newaxis], b[:, np.newaxis], y, x] = 0

    def add(self, a: IntArray, b: IntArray, correlations: FloatArray, frequency: SharedFrequency) -> None:
        """Take the correlations of pairs at one frequency."""
        if correlations.shape[1] and frequency in self._places:
            y, x = self._places[frequency]
            self._values[a[:, np.newaxis], b[:, np.newaxis], y, x] = correlations.mean(axis=1)[:, np.newaxis]


def _keeps(bases: Mapping[int, Basis], count: int, grid: Grid) -> BoolArray:
    """Which members keep directions at which frequency of the half plane, (member, frequency)."""
    keeps = np.zeros((count, len(half_plane(grid).multiplicity)), dtype=np.bool_)
    for member, basis in bases.items():
        keeps[member, basis.block[basis.kept]] = True
    return keeps


def no_details(shape: tuple[int, ...], sizes: Mapping[str, tuple[int, ...]]) -> Details:
    """Arrays for the details of pairs, full of NaN."""
    return {name: np.full((*shape, *size), np.nan, dtype=np.float32) for name, size in sizes.items()}


def finish_details(details: Details, *, diagonal: bool) -> None:
    """Sort correlations; in a tile on the diagonal, copy the upper triangle to the lower."""
    if "correlations" in details:
        values = details["correlations"]
        # Descending, with missing values at the end.
        np.negative(values, out=values)
        values.sort(axis=-1)
        np.negative(values, out=values)
    if diagonal:
        for values in details.values():
            for row in range(1, len(values)):
                values[row, :row] = values[:row, row]
