"""Arrays as the published code takes them: checked, and decomposed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.arrays import as_given
from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError
from dask_svcca.examples import order_of
from dask_svcca.kernels.directions import principal_directions
from dask_svcca.kernels.factors import factor, range_problem
from dask_svcca.precision import precision_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray
    from dask_svcca.kernels.directions import Principal
    from dask_svcca.kernels.factors import Factor

SETS = ("neuron", EXAMPLE)
CONVOLUTIONS = (EXAMPLE, "height", "width", "channel")


@dataclass(frozen=True, slots=True, eq=False)
class NeuronSet:
    """One of two sets of neurons, decomposed."""

    acts: FloatArray
    varies: BoolArray
    mean: FloatArray
    principal: Principal

    @property
    def whitening(self) -> FloatArray:
        """Inverse square root of the covariance over its largest entry, for the neurons that vary."""
        loadings, singular = self.principal.loadings, self.principal.singular
        largest = float((self.principal.rows**2).sum(axis=0).max())
        return np.asarray((loadings * (np.sqrt(largest) / singular)) @ loadings.T)

    def over_all_neurons(self, matrix: FloatArray) -> FloatArray:
        """A matrix over the neurons that vary, extended to all neurons by zeros."""
        full = np.zeros((len(self.varies), len(self.varies)))
        full[np.ix_(self.varies, self.varies)] = matrix
        return full


def decompose_both(acts1: npt.ArrayLike, acts2: npt.ArrayLike, epsilon: float) -> tuple[NeuronSet, NeuronSet]:
    """Both sets of neurons, (neuron, datapoint) each, checked and decomposed."""
    x, y = checked(acts1, "acts1"), checked(acts2, "acts2")
    check_datapoints(x, y)
    check_labels((acts1, acts2), ("acts1", "acts2"), SETS)
    both = factor([np.hstack([x.T, y.T])])
    precision_x, precision_y = (_precision(acts) for acts in (acts1, acts2))
    return (
        _decompose(x, precision_x, both, slice(len(x)), epsilon, "acts1"),
        _decompose(y, precision_y, both, slice(len(x), None), epsilon, "acts2"),
    )


def _decompose(
    acts: FloatArray, precision: float, both: Factor, columns: slice, epsilon: float, name: str
) -> NeuronSet:
    varies, mean = both.varies[columns], both.mean[columns]
    problem = range_problem([both.rows[0][:, columns]])
    if problem:
        raise InvalidActivationsError(f"{name} {problem}")
    (principal,) = principal_directions(
        [both.rows[0][:, columns][:, varies]],
        samples=both.count,
        weights=np.ones(1, dtype=np.int64),
        variance=None,
        mean=mean[varies],
        epsilon=precision,
    )
    principal = principal.leading(int((principal.singular**2 >= epsilon * principal.singular[:1] ** 2).sum()))
    if not len(principal.singular):
        raise InvalidActivationsError(f"{name} is constant: none of its neurons varies by more than rounding")
    return NeuronSet(acts, varies, mean[:, np.newaxis], principal)


def by_frequency(rows: list[InexactArray], acts: npt.ArrayLike, name: str) -> list[Principal]:
    """Principal directions of one convolutional layer, at each frequency."""
    layer = np.asarray(as_given(acts, name, CONVOLUTIONS).data)
    count = len(layer)
    problem = range_problem(rows)
    if problem:
        raise InvalidActivationsError(f"{name} {problem}")
    principals = principal_directions(
        rows,
        samples=count,
        weights=np.ones(len(rows), dtype=np.int64),
        variance=None,
        mean=np.abs(layer).max(axis=(0, 1, 2)),
        epsilon=_precision(acts, CONVOLUTIONS),
    )
    if not any(len(one.singular) for one in principals):
        raise InvalidActivationsError(f"{name} is constant: none of its channels varies by more than rounding")
    return principals


def _precision(acts: npt.ArrayLike, dims: tuple[str, ...] = SETS) -> float:
    given = as_given(acts, "acts", dims)
    return precision_of(given.data.dtype, given.source_dtype)


def checked(acts: npt.ArrayLike, name: str, *, conv: bool = False) -> FloatArray:
    """Values in double precision, of the axes that the published code expects."""
    dims = CONVOLUTIONS if conv else SETS
    given = as_given(acts, name, dims)
    values = np.asarray(given.data)
    expected = tuple("datapoint" if dim == EXAMPLE else dim for dim in dims)
    if given.names is not None and EXAMPLE in given.names and given.names.index(EXAMPLE) != dims.index(EXAMPLE):
        raise InvalidActivationsError(
            f"{name} has the axes {given.names}, and ({', '.join(expected)}) are expected; transpose it"
        )
    if values.ndim == 1 and not conv:
        raise InvalidActivationsError(
            f"{name} has 1 axis, and ({', '.join(expected)}) are expected: write a single neuron as x[None]"
        )
    if values.ndim != len(expected) or values.dtype.kind not in "fiub":
        raise InvalidActivationsError(
            f"{name} is {' x '.join(map(str, values.shape))} of {values.dtype}; real numbers ({', '.join(expected)}) "
            f"are expected"
        )
    neurons, datapoints = (values.shape[-1], len(values)) if conv else values.shape
    if not 0 < neurons < datapoints:
        raise InvalidActivationsError(
            f"{name} has {neurons} neurons and {datapoints} datapoints; fewer neurons than datapoints are expected, as "
            f"({', '.join(expected)}). Is it transposed? dask_svcca.cca takes more neurons than examples"
        )
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        count = int((~np.isfinite(wide)).sum())
        raise InvalidActivationsError(f"{count} of {values.size} values of {name} are NaN or infinite; leave them out")
    return wide


def check_labels(both: tuple[npt.ArrayLike, npt.ArrayLike], names: tuple[str, str], dims: tuple[str, ...]) -> None:
    """Refuse arrays whose labels say that they do not have the same datapoints in the same order."""
    first, second = (as_given(acts, name, dims).ids for acts, name in zip(both, names, strict=True))
    if order_of(second, first, names[1], names[0]) is not None:
        raise MismatchedExamplesError(
            f"{names[1]} has the datapoints of {names[0]} in another order; put them in one order, for example with "
            f"reindex_like, or use dask_svcca.cca, which does so itself"
        )


def check_datapoints(x: FloatArray, y: FloatArray) -> None:
    """Refuse sets of neurons that have not equally many datapoints."""
    if x.shape[1] != y.shape[1]:
        raise MismatchedExamplesError(
            f"the first set has {x.shape[1]} datapoints, the second {y.shape[1]}: both must have the same datapoints "
            f"in the same order"
        )
