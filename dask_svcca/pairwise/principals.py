"""From the arrays to their principal directions, by frequency: what all results follow from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.dims import check_names
from dask_svcca.errors import InvalidActivationsError
from dask_svcca.kernels.directions import principal_directions
from dask_svcca.kernels.factors import range_problem
from dask_svcca.kernels.noise import precision_of_means
from dask_svcca.pairwise.arrays import align_examples, as_input, match_readings
from dask_svcca.pairwise.factors import factor_of_examples
from dask_svcca.pairwise.layout import lay_out
from dask_svcca.readings import Meeting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray
    from dask_svcca.kernels.directions import Principal
    from dask_svcca.pairwise.arrays import Array, InputArray
    from dask_svcca.pairwise.layout import Layout, Member
    from dask_svcca.plan.parameters import Parameters


@dataclass(frozen=True, slots=True, eq=False)
class DecomposedArray:
    """One array and its principal directions.

    Attributes
    ----------
    source : InputArray
    mean : (neuron,)
        Means at the zero frequency.
    principals : dict of Member to Principal
    rank : int
        Number of directions, with multiplicities.
    scatter : float
        Variance of all neurons together, times the number of samples.
    """

    source: InputArray
    mean: FloatArray
    principals: dict[Member, Principal]
    rank: int
    scatter: float

    def directions(self, member: Member) -> int:
        """Number of directions at one frequency."""
        return len(self.principals[member].singular)


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """One array or two, decomposed.

    Attributes
    ----------
    arrays : tuple of DecomposedArray
    layout : Layout
        Which frequencies are paired.
    meeting : Meeting
        How two arrays are compared; not used for one.
    samples : int
    """

    arrays: tuple[DecomposedArray, ...]
    layout: Layout
    meeting: Meeting
    samples: int

    @property
    def per_degree(self) -> float:
        """Factor that turns sums over samples into covariances over the set of all translations."""
        grids = [array.source.reading.grid for array in self.arrays]
        translations = math.prod(map(min, zip(*grids, strict=True))) if all(grids) else 1
        return 1 / (self.samples - 1 / translations)


def decompose(
    parameters: Parameters, arrays: tuple[Array] | tuple[Array, Array], *, dims: Sequence[str] | None = None
) -> Decomposition:
    """Check one array or two, read them once, and find their principal directions.

    Parameters
    ----------
    parameters : Parameters
        How they are read, and the share of the variance that is kept of each.
    arrays : tuple of one array or two
    dims : sequence of str, optional
        As for `dask_svcca.cca`.

    Raises
    ------
    MismatchedExamplesError, InvalidActivationsError, IncompatibleError
        As `dask_svcca.cca`.
    """
    if dims is not None:
        check_names(dims)
    inputs: tuple[InputArray, ...] = (as_input(arrays[0], "x", parameters, dims=dims),)
    meeting = Meeting((), (), (), cropped=False)
    if len(arrays) == 2:
        other = align_examples(inputs[0], as_input(arrays[1], "y", parameters, inputs[0].spatial_dims, dims))
        inputs, meeting = match_readings(inputs[0], other, parameters)
    if dims is not None and all(len(dims) != array.given.data.ndim for array in inputs):
        raise InvalidActivationsError(
            f"dims={dims!r} has {len(dims)} names, and {' and '.join(_axes(array) for array in inputs)}; name each "
            f"axis of an array once"
        )
    layout = lay_out(tuple(array.reading for array in inputs), tuple(array.neurons for array in inputs), meeting.shared)
    factor = factor_of_examples(layout, inputs)
    decomposed, start = [], 0
    for array, rows in zip(inputs, layout.split(factor.rows), strict=True):
        columns = slice(start, start + array.neurons)
        decomposed.append(
            _decompose_one(array, rows, factor.count, factor.mean[columns], factor.varies[columns], parameters.variance)
        )
        start = columns.stop
    return Decomposition(tuple(decomposed), layout, meeting, factor.count)


def _axes(array: InputArray) -> str:
    return f"{array.name} has {array.given.data.ndim} axes"


def _decompose_one(
    source: InputArray,
    rows: dict[Member, InexactArray],
    samples: int,
    mean: FloatArray,
    varies: BoolArray,
    variance: float | None,
) -> DecomposedArray:
    rows = {member: part * varies if member.frequency == 0 else part for member, part in rows.items()}
    problem = range_problem(rows.values())
    if problem:
        raise InvalidActivationsError(f"{source.name} {problem}")
    multiplicities = np.array([source.reading.multiplicity[member.frequency] for member in rows])
    principals = principal_directions(
        list(rows.values()),
        samples=samples,
        weights=multiplicities,
        variance=variance,
        mean=mean,
        epsilon=precision_of_means(source.epsilon, source.reading.averaged),
    )
    rank = sum(int(times) * len(one.singular) for times, one in zip(multiplicities, principals, strict=True))
    if not rank:
        raise InvalidActivationsError(
            f"{source.name} is constant: none of its neurons varies over {samples} samples by more than rounding; "
            f"leave it out"
        )
    squares = np.array([np.linalg.norm(part) ** 2 for part in rows.values()])
    by_member = dict(zip(rows, principals, strict=True))
    return DecomposedArray(source, mean, by_member, rank, float(multiplicities @ squares))
