"""The one pass over the examples: chunk by chunk here, or a tree of Dask tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from dask_svcca import machine
from dask_svcca.arrays import as_given
from dask_svcca.errors import InvalidActivationsError
from dask_svcca.kernels.factors import Factor, factor, merge
from dask_svcca.pairwise.arrays import as_floating, chunked_by_example, examples_at_a_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.pairwise.arrays import InputArray
    from dask_svcca.pairwise.layout import Layout

FAN_IN = 4
"""Factors merged in one task."""


@dataclass(frozen=True, slots=True)
class NotFinite:
    """Values of one array that are NaN or infinite.

    Attributes
    ----------
    count : int
    index : tuple of int
        Where the first of them is; empty where there are none.
    """

    count: int
    index: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PartialFactor:
    """Factor of some of the examples, or which of their values are not finite.

    Attributes
    ----------
    factor : Factor or None
        None where values of any array are not finite.
    not_finite : tuple of NotFinite
        One for each array.
    """

    factor: Factor | None
    not_finite: tuple[NotFinite, ...]


def factor_of_examples(layout: Layout, inputs: Sequence[InputArray]) -> Factor:
    """Read all examples once, and reduce them to their factor.

    Parameters
    ----------
    layout : Layout
        How the readings of the arrays stand side by side.
    inputs : sequence of InputArray
        One Dask array among them makes it a Dask computation, on the scheduler that is set.

    Raises
    ------
    InvalidActivationsError
        For values that are NaN or infinite.
    """
    whole = (_read_by_dask if any(array.lazy for array in inputs) else _read_here)(layout, inputs)
    for array, wrong in zip(inputs, whole.not_finite, strict=True):
        if wrong.count:
            raise InvalidActivationsError(
                f"{wrong.count} of {math.prod(array.values.shape)} values of {array.name} are NaN or infinite, the "
                f"first at index {wrong.index}; leave such examples out of all arrays"
            )
    assert whole.factor is not None  # noqa: S101 - some values were not finite otherwise
    return whole.factor


def _read_here(layout: Layout, inputs: Sequence[InputArray]) -> PartialFactor:
    size = examples_at_a_time(inputs)
    parts = (
        _factor_of_chunk(layout, start, *(array.values[start : start + size] for array in inputs))
        for start in range(0, inputs[0].examples, size)
    )
    return reduce(lambda merged, part: _merge([merged, part]), parts)


def _read_by_dask(layout: Layout, inputs: Sequence[InputArray]) -> PartialFactor:
    chunks = next(array.values.chunks[0] for array in inputs if array.lazy)
    columns = [chunked_by_example(array.values, chunks).to_delayed(optimize_graph=False).ravel() for array in inputs]
    starts = (sum(chunks[:index]) for index in range(len(chunks)))
    level = [
        dask.delayed(_factor_of_chunk)(layout, start, *arrays)
        for start, size, *arrays in zip(starts, chunks, *columns, strict=True)
        if size
    ]
    while len(level) > 1:
        level = [dask.delayed(_merge)(level[start : start + FAN_IN]) for start in range(0, len(level), FAN_IN)]
    # There are as many tasks as cores; threads of BLAS on top would only contend.
    with machine.one_blas_thread():
        (whole,) = dask.compute(level[0])
    return whole  # type: ignore[no-any-return]


def _factor_of_chunk(layout: Layout, start: int, *arrays: npt.NDArray[Any]) -> PartialFactor:
    # What Dask says of its blocks may not be what they are.
    arrays = tuple(as_given(array, "a block of a dask array").data for array in arrays)
    not_finite = tuple(_not_finite(array, start) for array in arrays)
    if any(wrong.count for wrong in not_finite):
        return PartialFactor(None, not_finite)
    # Overflow gives rows that are not finite; they are refused later, with the name of the array.
    with np.errstate(over="ignore", invalid="ignore"):
        return PartialFactor(factor(layout.read([as_floating(array) for array in arrays])), not_finite)


def _not_finite(array: npt.NDArray[Any], start: int) -> NotFinite:
    wrong = ~np.isfinite(array)
    count = int(wrong.sum())
    if not count:
        return NotFinite(0, ())
    example, *rest = map(int, np.unravel_index(int(wrong.argmax()), wrong.shape))
    return NotFinite(count, (start + example, *rest))


def _merge(parts: Sequence[PartialFactor]) -> PartialFactor:
    not_finite = tuple(
        NotFinite(sum(part.count for part in array), next((part.index for part in array if part.count), ()))
        for array in zip(*(part.not_finite for part in parts), strict=True)
    )
    factors = [part.factor for part in parts if part.factor is not None]
    if len(factors) < len(parts):
        return PartialFactor(None, not_finite)
    with np.errstate(over="ignore", invalid="ignore"):
        return PartialFactor(merge(factors), not_finite)
