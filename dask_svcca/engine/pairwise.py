"""Two arrays, compared for themselves: correlations, aligned directions, coefficients; NumPy, Dask or xarray.

One pass over chunks of examples reduces each array to its factor (see `dask_svcca.kernels.factors`); all else follows
from the factors, in double precision. Directions, being as long as the data, are made of a Dask array when asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import dask
import dask.array as da
import numpy as np
import psutil
import threadpoolctl
import xarray as xr

from dask_svcca.errors import IncompatibleError, InvalidActivationsError, MemoryLimitError, MismatchedExamplesError
from dask_svcca.kernels.chance import expected_correlation, significant_correlations, spurious_correlations
from dask_svcca.kernels.directions import (
    Aligned,
    Principal,
    canonical_directions,
    covariance_directions,
    own_directions,
    principal_directions,
)
from dask_svcca.kernels.factors import Factor, factor, merge
from dask_svcca.kernels.layout import Filters, Layout, lay_out, signed_frequency
from dask_svcca.plan.parameters import Convolutional, Match, Parameters, Sequential
from dask_svcca.plan.readings import Meeting, choose_reading, meet
from dask_svcca.stores.zoo import DEFAULT_DIMS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.layout import Kind, Meet, Member
    from dask_svcca.kernels.readings import Reading

Array: TypeAlias = Any
"""NumPy or Dask array, xarray.DataArray, or what NumPy makes an array of."""
Method: TypeAlias = Literal["cca", "pls", "pca"]

CHUNK_BYTES = 2**25
"""Of a NumPy array, in double precision, at a time."""
FAN_IN = 4
"""Factors merged in one task."""
GREATEST = 1e140
"""What samples may vary by, and its inverse what they must."""


def cca(
    x: Array,
    y: Array,
    *,
    variance: float | None = None,
    components: int | None = None,
    conv: Convolutional = "dft",
    match: Match = "crop",
    sequence: Sequential = "mean",
) -> xr.Dataset:
    """Canonical correlations of two arrays, with the directions behind them; SVCCA with ``variance=0.99``.

    Parameters
    ----------
    x, y : (example, neuron), (example, token, neuron) or (example, height, width, channel)
        NumPy, Dask or xarray; the same examples in the same order. Of a Dask array one chunk of examples is in memory
        at a time, beside ``p * p`` numbers for ``p`` neurons of x and y together (fewer where there are fewer
        examples). A DataArray whose dims are named as above may have them in any order, and more spatial axes.
    variance : float, optional
        Share of the variance, in (0, 1], that is kept of each array before they are compared: SVCCA's first step.
        None keeps all that is more than rounding noise.
    components : int, optional
        How many of the leading components to return; None returns all. A layer of many positions has many under
        ``dft``, and each has as many coefficients. Numbers that are of no component are those of all.
    conv : {"dft", "mean", "positions", "flatten"}
        How an array with spatial axes is read. Under ``dft`` the result is that of all circular translations of the
        examples, flattened.
    match : {"crop", "fold"}
        Under ``dft``, how arrays of unequal sizes meet: at the frequencies that both have, or exactly, the finer on
        the grid of the coarser, which must divide it.
    sequence : {"mean", "positions", "last"}
        How an array with tokens is read.

    Returns
    -------
    xarray.Dataset
        ``correlation`` (component)
            In [0, 1], descending.
        ``direction_x``, ``direction_y`` (example, component)
            Aligned directions: orthonormal, and ``direction_x.T @ direction_y`` is the diagonal of correlations. Lazy
            where the array is a Dask array. With positions as samples there is one value a position; under ``dft``
            sums over examples are as said on average over all translations.
        ``coefficients_x``, ``coefficients_y`` (neuron_x or neuron_y, component)
            ``direction = (array - mean) @ coefficients``. Under ``dft``, (height, width, channel, component).
        ``explained_variance_x``, ``explained_variance_y`` (component)
            Share of the variance of all neurons that a direction explains, in [0, 1].
        ``mean_x``, ``mean_y`` (neuron_x or neuron_y)
            Of each neuron over the samples.
        ``mean_correlation``, ``rank_x``, ``rank_y``
            The mean over the smaller rank: correlations that are missing count as zero. Where frequencies were
            cropped, that is the rank at those compared.
        ``expected_correlation``, ``significant``, ``spurious``
            Mean correlation that independent arrays of these ranks would have; how many correlations are more than
            chance (Bartlett's test, level 0.05); how many are 1 whatever the data, for want of examples.

        Each component's largest coefficient in x is positive. Where ``dft`` crops to a grid of even size, its highest
        frequency is real in one array and complex in the other: coefficients and directions are then complex.

    Raises
    ------
    MismatchedExamplesError
        For unequal numbers, or labels, of examples.
    InvalidActivationsError
        For values that are not finite, a constant array, or fewer than two examples.
    IncompatibleError
        For arrays whose readings have no samples, or no grid, in common.
    MemoryLimitError
        For results that are larger than the memory there is.
    ValueError
        For options out of range.

    References
    ----------
    Hotelling (1936), Relations between two sets of variates, Biometrika 28; Björck and Golub (1973), Mathematics of
    Computation 27; Raghu et al. (2017), SVCCA, NeurIPS.

    Examples
    --------
    >>> x = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    >>> found = cca(x, x[:, :1] + 3)
    >>> found.correlation.values.round(12), found.mean_y.values
    (array([1.]), array([3.]))
    >>> found.direction_x.values[:, 0].round(3) + 0.0
    array([ 0.707,  0.   , -0.707,  0.   ])
    """
    parameters = Parameters(variance=variance, conv=conv, match=match, sequence=sequence)
    found = _components(_reduce(parameters, x, y), canonical_directions, components)
    return _dataset(
        "canonical correlation analysis",
        found,
        {"correlation": (found.values, "canonical correlation", "1")},
        _summary(found),
    )


def pls(
    x: Array,
    y: Array,
    *,
    components: int | None = None,
    conv: Convolutional = "dft",
    match: Match = "crop",
    sequence: Sequential = "mean",
) -> xr.Dataset:
    """Directions of greatest covariance of two arrays: partial least squares by SVD of the cross-covariance.

    Parameters
    ----------
    x, y, components, conv, match, sequence
        As for `cca`.

    Returns
    -------
    xarray.Dataset
        As of `cca`, except that coefficients, not directions, are orthonormal; with ``covariance`` (component),
        descending: of the two directions, over the number of samples less one; with their ``correlation``; and with
        ``explained_variance_x`` and ``_y`` the variance along a direction, as a share.

    Raises
    ------
    MismatchedExamplesError, InvalidActivationsError, IncompatibleError, MemoryLimitError, ValueError
        As `cca`.

    References
    ----------
    Wold (1985), Partial least squares, Encyclopedia of Statistical Sciences 6.

    Examples
    --------
    >>> x = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    >>> pls(x, 3 * x[:, :1]).covariance.values.round(12)
    array([2.])
    """
    parameters = Parameters(variance=None, conv=conv, match=match, sequence=sequence)
    found = _components(_reduce(parameters, x, y), covariance_directions, components)
    correlations = np.clip(found.values / found.lengths(0) / found.lengths(1), 0.0, 1.0)
    return _dataset(
        "partial least squares",
        found,
        {
            "covariance": (found.values * found.reduced.per_degree, "covariance of the two directions", ""),
            "correlation": (correlations, "correlation of the two directions", "1"),
        },
        {},
    )


def pca(
    x: Array, *, components: int | None = None, conv: Convolutional = "dft", sequence: Sequential = "mean"
) -> xr.Dataset:
    """Principal directions of one array.

    Parameters
    ----------
    x, components, conv, sequence
        As for `cca`.

    Returns
    -------
    xarray.Dataset
        ``variance`` (component)
            Descending; over the number of samples less one.
        ``explained_variance`` (component)
            The same as a share of the whole, in [0, 1].
        ``direction`` (example, component)
            Uncorrelated, each of its variance.
        ``coefficients`` (neuron, component)
            Orthonormal; ``direction = (array - mean) @ coefficients``.
        ``mean`` (neuron)
            Of each neuron over the samples.
        ``rank``
            Number of directions.

    Raises
    ------
    InvalidActivationsError, IncompatibleError, MemoryLimitError, ValueError
        As `cca`.

    References
    ----------
    Pearson (1901), On lines and planes of closest fit to systems of points in space, Philosophical Magazine 2.

    Examples
    --------
    >>> found = pca(np.array([[3.0, 1], [-3, 1], [0, 2], [0, 0]]))
    >>> found.explained_variance.values, found.variance.values.round(12)
    (array([0.9, 0.1]), array([6.        , 0.66666667]))
    """
    parameters = Parameters(variance=None, conv=conv, sequence=sequence)
    found = _components(_reduce(parameters, x), own_directions, components)
    variances = found.values * found.reduced.per_degree
    return _dataset("principal components", found, {"variance": (variances, "variance of the direction", "")}, {})


def projection(
    x: Array,
    y: Array | None = None,
    *,
    k: int,
    method: Method = "cca",
    conv: Convolutional = "dft",
    match: Match = "crop",
    sequence: Sequential = "mean",
) -> xr.Dataset:
    """Low-rank projector that keeps of x what its top k directions tell, for compressing a layer.

    ``(x - mean) @ projector + mean`` is the layer compressed. By ``cca`` it is the best reconstruction from the k
    directions, by least squares; by ``pls`` and ``pca``, whose coefficients are orthonormal, the orthogonal projection
    onto those of the k directions.

    Parameters
    ----------
    x : array
        As for `cca`: the layer to compress.
    y : array, optional
        What its directions are aligned with; not for ``pca``.
    k : int
        Number of directions, at least 1.
    method : {"cca", "pls", "pca"}
    conv, match, sequence
        As for `cca`.

    Returns
    -------
    xarray.Dataset
        ``projector`` (neuron, neuron_out)
            Idempotent, of rank k: ``coefficients @ reconstruction``.
        ``coefficients`` (neuron, component), ``reconstruction`` (component, neuron_out)
            The layer in two, through k neurons: what to compute with.
        ``mean`` (neuron)
            Of each neuron of x over the samples.
        ``explained_variance``
            Share of the variance of x that is kept.

    Raises
    ------
    MismatchedExamplesError, InvalidActivationsError, IncompatibleError, MemoryLimitError
        As `cca`; IncompatibleError also for coefficients that are complex.
    ValueError
        For k beyond the number of components, or a method that lacks y or has no use for it.

    References
    ----------
    Raghu et al. (2017), SVCCA, section 4.4.

    Examples
    --------
    >>> x = np.array([[3.0, 1], [-3, 1], [0, 2], [0, 0]])
    >>> found = projection(x, k=1, method="pca")
    >>> found.projector.values + 0.0, round(float(found.explained_variance), 6)
    (array([[1., 0.], [0., 0.]]), 0.9)
    """
    finders = {"cca": canonical_directions, "pls": covariance_directions, "pca": own_directions}
    if method not in finders:
        raise ValueError(f"method is one of {', '.join(map(repr, finders))}; got {method!r}")
    if (y is None) != (method == "pca"):
        remedy = "pass y, or method='pca'" if y is None else "leave y out, or pass method='cca'"
        raise ValueError(f"method={method!r} is of {'one array' if method == 'pca' else 'two arrays'}; {remedy}")
    parameters = Parameters(variance=None, conv=conv, match=match, sequence=sequence)
    found = _components(_reduce(parameters, x, y), finders[method], None)
    if not 1 <= k <= len(found.order):
        raise ValueError(f"k is from 1 to the number of components, {len(found.order)}; got {k!r}")
    found = found.first(k)
    forth, back = found.forward(0), found.backward(0)
    if forth.dtype.kind == "c":
        grids = [one.reading.grid for one in found.reduced.inputs]
        raise IncompatibleError(
            f"no real projector: the grids {grids[0]} of x and {grids[1]} of y meet at a frequency that is real in one "
            f"and complex in the other. Pass match='fold', or another conv="
        )
    neurons = found.reduced.inputs[0].neuron_dims
    size = forth.neuron_mean().size
    _check_memory(8 * size**2, f"a projector of {size} x {size} neurons", "conv='positions' or 'mean'")
    outputs = tuple(f"{dim}_out" for dim in neurons)
    coefficients, reconstruction = forth.coefficients(), np.moveaxis(back.coefficients(), -1, 0)
    explained = float(found.explained(0).sum())
    return xr.Dataset(
        {
            "projector": ((*neurons, *outputs), np.tensordot(coefficients, reconstruction, axes=1)),
            "coefficients": ((*neurons, "component"), coefficients),
            "reconstruction": (("component", *outputs), reconstruction),
            "mean": (neurons, forth.neuron_mean()),
            "explained_variance": ((), explained, {"long_name": "share of the variance of x kept", "units": "1"}),
        },
        attrs={"long_name": f"projector onto the top {k} directions by {method}"},
    )


# --- inputs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """One array, as (example, *sizes, neuron), and how it is read."""

    name: str
    values: Any
    neuron_name: str
    spatial: tuple[str, ...]
    coords: dict[str, xr.DataArray]
    reading: Reading
    epsilon: float

    @property
    def lazy(self) -> bool:
        return isinstance(self.values, da.Array)

    @property
    def neurons(self) -> int:
        """Of a block."""
        return self.reading.neurons(self.values.shape[-1])

    @property
    def examples(self) -> int:
        return int(self.values.shape[0])

    @property
    def samples(self) -> int:
        return self.reading.samples(self.examples)

    @property
    def neuron_dims(self) -> tuple[str, ...]:
        """Of the coefficients."""
        return (*self.spatial, self.neuron_name) if self.reading.kind in {"flatten", "dft"} else (self.neuron_name,)

    @property
    def sample_dims(self) -> tuple[str, ...]:
        """Of the directions."""
        return ("example", *self.spatial) if self.reading.kind == "positions" else ("example",)


def _as_input(array: Array, name: str, parameters: Parameters, order: Sequence[str] = ("height", "width")) -> _Input:
    """An array, its axes in the order of the engine: spatial ones with a name in this order."""
    dims: tuple[str, ...] | None = None
    coords: dict[str, xr.DataArray] = {}
    values = array
    if isinstance(array, xr.DataArray):
        if "example" in array.dims:
            rest = [str(dim) for dim in array.dims if dim != "example"]
            last = next((dim for dim in rest if dim in {"neuron", "channel"}), rest[-1] if rest else "")
            spatial = sorted(
                (dim for dim in rest if dim != last), key=lambda dim: order.index(dim) if dim in order else len(order)
            )
            dims = ("example", *spatial, *([last] if last else []))
            array = array.transpose(*dims)
            coords = {str(key): value for key, value in array.coords.items() if value.dims == ("example",)}
        values = array.data
    if not isinstance(values, da.Array):
        values = np.asarray(values)
    if dims is None:
        dims = DEFAULT_DIMS.get(values.ndim)
    if dims is None or len(dims) < 2:
        raise InvalidActivationsError(
            f"{name} has {values.ndim} axes; (example, neuron), (example, token, neuron) or (example, height, width, "
            f"channel) is expected. Name others in a DataArray, such as dims=('example', 'width', 'channel')"
        )
    if values.dtype.kind not in "fiub":
        raise InvalidActivationsError(f"{name} is of {values.dtype} values; activations are real numbers")
    if any(math.isnan(size) for size in values.shape):
        raise InvalidActivationsError(f"{name} has chunks of unknown sizes; call its compute_chunk_sizes() before")
    if values.shape[0] < 2 or 0 in values.shape:
        raise InvalidActivationsError(
            f"{name} is {' x '.join(map(str, values.shape))} {dims}; at least two examples and one neuron are needed"
        )
    epsilon = float(np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).eps)
    return _Input(name, values, dims[-1], dims[1:-1], coords, choose_reading(dims, values.shape, parameters), epsilon)


def _check_examples(x: _Input, y: _Input) -> None:
    if x.examples != y.examples:
        raise MismatchedExamplesError(
            f"x has {x.examples} examples and y has {y.examples}: both must be of the same examples in the same order"
        )
    if "example" in x.coords and "example" in y.coords:
        labels = x.coords["example"].to_numpy(), y.coords["example"].to_numpy()
        differ = np.flatnonzero(labels[0] != labels[1])
        if len(differ):
            first = int(differ[0])
            raise MismatchedExamplesError(
                f"x and y are labelled with different examples, first at {first}: {labels[0].item(first)!r} and "
                f"{labels[1].item(first)!r}. Put them in one order, y.sel(example=x.example), or drop the labels"
            )


def _meet(x: _Input, y: _Input, parameters: Parameters) -> tuple[tuple[_Input, ...], Meeting]:
    """Both arrays, read so that they can be compared, and how they are."""
    a, b = x.reading, y.reading
    meeting = meet(a.domain, a.grid, b.domain, b.grid, parameters.match)
    if not isinstance(meeting, Meeting):
        what = (
            f"samples of x are {a.domain}, of y {b.domain}; read both alike, by conv= and sequence="
            if a.domain != b.domain
            else f"x has the grid {a.grid}, y {b.grid}, and neither divides the other; pass match='crop' or conv='mean'"
        )
        raise IncompatibleError(f"x and y cannot be compared: {what}")
    if meeting.fold_a:
        x = replace(x, reading=replace(a, grid=meeting.fold_a))
    if meeting.fold_b:
        y = replace(y, reading=replace(b, grid=meeting.fold_b))
    return (x, y), meeting


# --- one pass over the examples ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """Factor of some examples, or what is wrong with them: by array, how many values, and the index of the first."""

    factor: Factor | None
    wrong: tuple[tuple[int, tuple[int, ...]], ...]


def _part(layout: Layout, start: int, *arrays: npt.NDArray[Any]) -> _Part:
    wrong = tuple(_not_finite(array, start) for array in arrays)
    if any(count for count, _ in wrong):
        return _Part(None, wrong)
    # Overflow ends in rows that are not finite, which are refused by name.
    with np.errstate(over="ignore", invalid="ignore"):
        return _Part(factor(layout.read([_floating(array) for array in arrays])), wrong)


def _floating(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _not_finite(array: npt.NDArray[Any], start: int) -> tuple[int, tuple[int, ...]]:
    bad = ~np.isfinite(array)
    count = int(bad.sum())
    if not count:
        return 0, ()
    first = np.unravel_index(int(bad.argmax()), bad.shape)
    return count, (start + int(first[0]), *map(int, first[1:]))


def _merge_parts(parts: Sequence[_Part]) -> _Part:
    wrong = tuple(
        (sum(count for count, _ in side), next((first for count, first in side if count), ()))
        for side in zip(*(part.wrong for part in parts), strict=True)
    )
    factors = [part.factor for part in parts if part.factor is not None]
    if len(factors) < len(parts):
        return _Part(None, wrong)
    with np.errstate(over="ignore", invalid="ignore"):
        return _Part(merge(factors), wrong)


def _read_all(layout: Layout, inputs: Sequence[_Input]) -> Factor:
    """The factor of all examples."""
    part = (_read_by_dask if any(one.lazy for one in inputs) else _read_here)(layout, inputs)
    for one, (count, first) in zip(inputs, part.wrong, strict=True):
        if count:
            raise InvalidActivationsError(
                f"{count} of {math.prod(one.values.shape)} values of {one.name} are NaN or infinite, the first at "
                f"index {first}; leave such examples out of all arrays"
            )
    assert part.factor is not None  # noqa: S101 - something was wrong otherwise
    return part.factor


def _read_here(layout: Layout, inputs: Sequence[_Input]) -> _Part:
    rows = _rows(inputs)
    starts = range(0, inputs[0].examples, rows)
    parts = (_part(layout, start, *(one.values[start : start + rows] for one in inputs)) for start in starts)
    return reduce(lambda merged, part: _merge_parts([merged, part]), parts)


def _rows(inputs: Sequence[_Input]) -> int:
    """Examples of NumPy arrays at a time: enough that merging factors costs little beside making them."""
    neurons = sum(one.neurons for one in inputs)
    values = int(sum(math.prod(one.values.shape[1:]) for one in inputs))
    return max(4 * neurons, CHUNK_BYTES // (8 * values))


def _read_by_dask(layout: Layout, inputs: Sequence[_Input]) -> _Part:
    chunks = next(one.values.chunks[0] for one in inputs if one.lazy)
    columns = [_in_rows(one.values, chunks).to_delayed(optimize_graph=False).ravel() for one in inputs]
    starts = (sum(chunks[:index]) for index in range(len(chunks)))
    level = [
        dask.delayed(_part)(layout, start, *group)
        for start, size, *group in zip(starts, chunks, *columns, strict=True)
        if size
    ]
    while len(level) > 1:
        level = [dask.delayed(_merge_parts)(level[start : start + FAN_IN]) for start in range(0, len(level), FAN_IN)]
    # There are as many tasks as cores; threads of BLAS on top would only contend.
    with threadpoolctl.threadpool_limits(1):
        (part,) = dask.compute(level[0])
    return part  # type: ignore[no-any-return]


def _in_rows(values: Any, chunks: tuple[int, ...]) -> Any:
    """A Dask array chunked along examples only."""
    whole = (chunks, *((size,) for size in values.shape[1:]))
    return values.rechunk(whole) if isinstance(values, da.Array) else da.from_array(values, chunks=whole)


# --- from factors to results ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One array, decomposed.

    Attributes
    ----------
    principals : dict of Member to Principal
    rank : int
        With multiplicities.
    total : float
        Variance of all neurons, times the number of samples.
    """

    mean: FloatArray
    principals: dict[Member, Principal]
    rank: int
    total: float


@dataclass(frozen=True, slots=True, eq=False)
class _Reduced:
    """One array or two, reduced to what all results follow from."""

    inputs: tuple[_Input, ...]
    layout: Layout
    cropped: bool
    samples: int
    sides: tuple[_Side, ...]

    @property
    def smaller_rank(self) -> int:
        """What means divide by: of the whole arrays, or of the frequencies compared where some were cropped."""
        ranks = [side.rank for side in self.sides]
        if self.cropped:
            ranks = [
                sum(
                    met.multiplicity * len(side.principals[(met.a, met.b)[index]].singular)
                    for met in self.layout.meetings
                )
                for index, side in enumerate(self.sides)
            ]
        return max(min(ranks), 1)

    @property
    def per_degree(self) -> float:
        """From sums over samples to covariances of the set of all translations."""
        grids = [one.reading.grid for one in self.inputs]
        translations = math.prod(map(min, zip(*grids, strict=True))) if all(grids) else 1
        return 1 / (self.samples - 1 / translations)


def _reduce(parameters: Parameters, x: Array, y: Array | None = None) -> _Reduced:
    inputs: tuple[_Input, ...] = (_as_input(x, "x", parameters),)
    meeting = Meeting((), (), (), cropped=False)
    if y is not None:
        other = _as_input(y, "y", parameters, inputs[0].spatial)
        _check_examples(inputs[0], other)
        inputs, meeting = _meet(inputs[0], other, parameters)
    layout = lay_out(tuple(one.reading for one in inputs), tuple(one.neurons for one in inputs), meeting.shared)
    found = _read_all(layout, inputs)
    sides, start = [], 0
    for one, rows in zip(inputs, layout.split(found.rows), strict=True):
        columns = slice(start, start + one.neurons)
        sides.append(
            _decompose(one, rows, found.count, found.mean[columns], found.varies[columns], parameters.variance)
        )
        start = columns.stop
    return _Reduced(inputs, layout, meeting.cropped, found.count, tuple(sides))


def _decompose(
    one: _Input,
    rows: dict[Member, InexactArray],
    samples: int,
    mean: FloatArray,
    varies: BoolArray,
    variance: float | None,
) -> _Side:
    rows = {member: part * varies if member.frequency == 0 else part for member, part in rows.items()}
    largest = max(float(np.abs(part).max(initial=0.0)) for part in rows.values())
    # Not finite are sums that overflowed.
    if largest and not 1 / GREATEST < largest < GREATEST:
        raise InvalidActivationsError(
            f"{one.name} varies by {largest:.0e}, and squares of that leave the range of double precision; rescale it"
        )
    weights = np.array([one.reading.multiplicity[member.frequency] for member in rows])
    means = np.abs(mean) * math.sqrt(samples)
    offset = float(means[varies].max(initial=0.0))
    if one.reading.grid:
        # The transform of a neuron, constant or not, leaves rounding of its own, in double precision.
        offset = max(offset, float(means.max()) * np.finfo(np.float64).eps / one.epsilon)
    principals = principal_directions(
        list(rows.values()),
        samples=samples,
        weights=weights,
        variance=variance,
        offset=offset,
        epsilon=one.epsilon,
    )
    rank = sum(int(times) * len(found.singular) for times, found in zip(weights, principals, strict=True))
    if not rank:
        raise InvalidActivationsError(
            f"{one.name} is constant: none of its neurons varies over {samples} samples by more than rounding; "
            f"leave it out"
        )
    squares = np.array([np.linalg.norm(part) ** 2 for part in rows.values()])
    return _Side(mean, dict(zip(rows, principals, strict=True)), rank, float(weights @ squares))


@dataclass(frozen=True, slots=True, eq=False)
class _Components:
    """All components of all blocks, a pair as two, by falling value.

    Attributes
    ----------
    found : tuple of (Meet, Kind, Aligned)
    every : (component,)
        Values of all components, whichever are asked for.
    order : (component,)
        Place of each that is asked for among those of all blocks, one after the other.
    """

    reduced: _Reduced
    found: tuple[tuple[Meet, Kind, Aligned], ...]
    every: FloatArray
    order: IntArray

    def first(self, count: int) -> _Components:
        """The leading ones alone."""
        return replace(self, order=self.order[:count])

    @property
    def values(self) -> FloatArray:
        """Correlations, or singular values."""
        return self.every[: len(self.order)]

    def gather(self, each: Callable[[Meet, Aligned], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """One value a component, from those of each block."""
        blocks = [np.repeat(each(met, one), _copies(kind), axis=0) for met, kind, one in self.found]
        return np.concatenate(blocks)[self.order]

    def forward(self, side: int) -> Filters:
        """From activations to directions."""
        return self._filters(side, lambda one: (one.coefficients_a, one.coefficients_b)[side])

    def backward(self, side: int) -> Filters:
        """From directions to activations, transposed."""
        return self._filters(side, lambda one: (one.loads_a, one.loads_b)[side])

    def _filters(self, side: int, each: Callable[[Aligned], InexactArray]) -> Filters:
        parts = tuple(
            (met.members[side], kind, each(one).conj() if met.turned else each(one)) for met, kind, one in self.found
        )
        return Filters(self.reduced.inputs[side].reading, self.reduced.sides[side].mean, parts, self.order)

    def lengths(self, side: int) -> FloatArray:
        """Norms of the directions."""
        return self.gather(lambda _, one: np.linalg.norm((one.directions_a, one.directions_b)[side], axis=0))

    def explained(self, side: int) -> FloatArray:
        """Share of the variance of all neurons that a direction stands for."""
        loads = self.gather(lambda _, one: np.linalg.norm((one.loads_a, one.loads_b)[side], axis=0))
        return np.asarray((self.lengths(side) * loads) ** 2 / self.reduced.sides[side].total)

    def frequencies(self, side: int) -> IntArray:
        """Spatial frequency of each component, (component, axis)."""
        grid = self.reduced.inputs[side].reading.grid
        return self.gather(lambda met, one: np.tile(signed_frequency(grid, met.members[side]), (len(one.values), 1)))


def _copies(kind: Kind) -> int:
    return 2 if kind == "pair" else 1


def _components(reduced: _Reduced, align: Callable[[Principal, Principal], Aligned], count: int | None) -> _Components:
    if count is not None and count < 1:
        raise ValueError(f"components is how many to return, at least 1, or None for all; got {count!r}")
    found = []
    for met in reduced.layout.meetings:
        aligned = align(reduced.sides[met.a.side].principals[met.a], reduced.sides[met.b.side].principals[met.b])
        found.append((met, reduced.layout.kind(met), aligned))
    values = np.concatenate([np.repeat(one.values, _copies(kind)) for _, kind, one in found])
    order = np.argsort(-values, kind="stable")
    return _Components(reduced, tuple(found), values[order], order).first(len(order) if count is None else count)


def _summary(components: _Components) -> dict[str, tuple[float | int, str]]:
    """The mean correlation, and what the ranks and the number of samples alone say of correlations."""
    expected, significant, spurious = 0.0, 0, 0
    reduced = components.reduced
    for met, kind, one in components.found:
        k, l = (len(reduced.sides[member.side].principals[member].singular) for member in (met.a, met.b))
        degrees, copies = reduced.samples - (met.a.frequency == 0), _copies(kind)
        expected += copies * min(k, l) * expected_correlation(k, l, degrees)
        spurious += copies * spurious_correlations(k, l, degrees)
        found = significant_correlations(one.values[np.newaxis], k, l, degrees, is_complex=kind != "real")
        significant += copies * int(found[0])
    mean = float(components.every.sum()) / reduced.smaller_rank
    return {
        "mean_correlation": (mean, "mean correlation, over the smaller rank"),
        "expected_correlation": (
            expected / reduced.smaller_rank,
            "mean correlation of independent arrays of these ranks",
        ),
        "significant": (significant, "correlations that are more than chance, at level 0.05"),
        "spurious": (spurious, "correlations that are 1 whatever the data, there being too few samples"),
    }


# --- datasets ------------------------------------------------------------------------------------------------------


def _dataset(
    name: str,
    components: _Components,
    along: dict[str, tuple[FloatArray, str, str]],
    scalars: dict[str, tuple[float | int, str]],
) -> xr.Dataset:
    """The result: what all analyses have in common, and along components and as numbers, what each has of its own."""
    reduced = components.reduced
    filters = [components.forward(side) for side in range(len(reduced.inputs))]
    count = len(components.order)
    numbers = sum(
        one.neuron_mean().size + (0 if data.lazy else data.samples)
        for one, data in zip(filters, reduced.inputs, strict=True)
    )
    _check_memory(
        filters[0].dtype.itemsize * numbers * count,
        f"directions and coefficients of {count} components",
        "components=, or variance=, or another conv=",
    )
    found = xr.Dataset(attrs={"long_name": name, "samples": reduced.samples})
    for key, (values, long_name, units) in along.items():
        found[key] = ("component", values, {"long_name": long_name, "units": units})
    for side, one in enumerate(reduced.inputs):
        suffix = f"_{one.name}" if len(reduced.inputs) == 2 else ""
        neurons = tuple(f"{dim}{suffix}" for dim in one.neuron_dims)
        variables = {
            "direction": (
                (*one.sample_dims, "component"),
                _directions(one, filters[side]),
                f"directions of {one.name}",
                "",
            ),
            "coefficients": ((*neurons, "component"), filters[side].coefficients(), "from neurons to directions", ""),
            "explained_variance": ("component", components.explained(side), "share of the variance explained", "1"),
            "mean": (neurons, filters[side].neuron_mean(), "mean of a neuron", ""),
            "rank": ((), reduced.sides[side].rank, "directions kept, with multiplicities", ""),
        }
        for key, (dims, values, long_name, units) in variables.items():
            attrs = {"long_name": long_name, **({"units": units} if units else {})}
            found[f"{key}{suffix}"] = (dims, values, attrs)
    for key, (value, long_name) in scalars.items():
        found[key] = ((), value, {"long_name": long_name})
    gridded = [side for side, one in enumerate(reduced.inputs) if one.reading.grid]
    if gridded:
        side = gridded[0]
        frequency = ("component", "axis"), components.frequencies(side), {"long_name": "cycles over the whole axis"}
        found = found.assign_coords(axis=list(reduced.inputs[side].spatial), frequency=frequency)
    return found.assign_coords({key: value for one in reversed(reduced.inputs) for key, value in one.coords.items()})


def _check_memory(need: int, what: str, remedy: str) -> None:
    there = psutil.virtual_memory().available
    if need > there:
        raise MemoryLimitError(
            f"{what} take {need / 1e9:.2f} GB, and there are {there / 1e9:.2f} GB of memory free; pass {remedy}"
        )


def _directions(one: _Input, filters: Filters) -> Any:
    """Directions of all examples: of a Dask array lazy, of another computed."""
    count = len(filters.order)
    sizes = one.reading.sizes if one.reading.kind == "positions" else ()
    if not one.lazy:
        found = np.empty((one.examples, *sizes, count), dtype=filters.dtype)
        rows = _rows([one])
        for start in range(0, one.examples, rows):
            found[start : start + rows] = _apply(one.values[start : start + rows], filters)
        return found
    values = _in_rows(one.values, one.values.chunks[0])
    chunks = (values.chunks[0], *((size,) for size in sizes), (count,))
    return values.map_blocks(
        _apply,
        # Once in the graph, not once a chunk.
        filters=dask.delayed(filters),
        dtype=filters.dtype,
        chunks=chunks,
        drop_axis=list(range(1, values.ndim)),
        new_axis=list(range(1, len(chunks))),
        meta=np.empty((0,) * len(chunks), dtype=filters.dtype),
    )


def _apply(values: npt.NDArray[Any], filters: Filters) -> InexactArray:
    return filters(_floating(values))
