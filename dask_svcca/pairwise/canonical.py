"""Aligned directions of two layers of a zoo, beside their neurons, example by example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.errors import InvalidQuestionError, did_you_mean
from dask_svcca.pairwise.arrays import as_floating, as_input, examples_at_a_time
from dask_svcca.pairwise.decompositions import cca
from dask_svcca.plan.parameters import Parameters
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo import as_zoo

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import xarray as xr

    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.pairwise.arrays import InputArray
    from dask_svcca.readings.choose import Convolutional, Sequential
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo
    from dask_svcca.stores.zoo.view import Key

SIDES: Final = (("a", "x"), ("b", "y"))
"""Side of the result, and of the canonical correlation analysis."""

KEPT: Final = ("direction", "explained_variance", "rank")
ROUNDING = 1e-12
"""Spread of a neuron, relative to its values, up to which it is constant."""


def canonical_directions(
    zoo: Zoo | StoreLike,
    a: Key,
    b: Key,
    *,
    conv: Convolutional = "dft",
    sequence: Sequential = "mean",
    variance: float | None = None,
    components: int | None = 5,
    order: str | None = "label",
) -> xr.Dataset:
    """Directions in which two layers of a zoo are most alike, and beside each the neuron that is closest to it.

    Two trainings of a network look different neuron by neuron, and may be alike direction by direction.

    Parameters
    ----------
    zoo : Zoo, path, zarr store, or URL
    a, b : (model, checkpoint, layer), or their label
    conv, sequence, variance
        See `cca`.
    components : int, optional
        How many of the leading directions; None for all.
    order : str, optional
        Coordinate of the zoo that examples are sorted by, such as their class; equal ones stay in their order. None
        leaves examples in the order of the zoo.

    Returns
    -------
    xarray.Dataset
        ``direction_a``, ``direction_b`` (example, component) and ``correlation`` (component), ``explained_variance_a``,
        ``rank_a``, ``expected_correlation`` and ``significant``, as from `cca`. ``neuron_a``, ``neuron_b`` (example,
        component): activations of the neuron that is most correlated with the direction of its own layer.
        ``neuron_number_a`` (component) says which, counting all neurons that the reading has, the last axis fastest;
        ``neuron_direction_correlation_a`` (component), in [-1, 1], how close it is. ``neuron_correlation`` (component):
        of the two neurons with each other, to be read beside ``correlation``. Under ``dft`` a neuron has a position.
        With positions as samples, directions and neurons have a value for each position.

    Raises
    ------
    RepresentationNotFoundError, IncompleteRepresentationError
    InvalidQuestionError
        Where the zoo has no such coordinate to sort by, or it has more than one value for each example.
    InvalidActivationsError, IncompatibleError, MemoryLimitError, ValueError
        See `cca`.

    References
    ----------
    Raghu et al. (2017), SVCCA: Singular Vector Canonical Correlation Analysis, NeurIPS, figure 1.

    Examples
    --------
    >>> import dask_svcca, zarr
    >>> rng = np.random.default_rng(0)
    >>> x, label = rng.normal(size=(100, 4)), rng.integers(2, size=100)
    >>> with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(100), coords={"label": label}) as zoo:
    ...     zoo.write("net-s0", "end", "fc", x)
    ...     zoo.write("net-s1", "end", "fc", x @ rng.normal(size=(4, 4)))
    >>> found = canonical_directions(zoo, a=("net-s0", "end", "fc"), b=("net-s1", "end", "fc"), components=2)
    >>> found.correlation.to_numpy().round(6), bool((np.abs(found.neuron_correlation) < 0.99).all())
    (array([1., 1.]), True)
    >>> bool((found.label.diff("example") >= 0).all())
    True
    """
    zoo = as_zoo(zoo)
    sequence_of = np.arange(zoo.n_examples) if order is None else _order(zoo, order)
    names = {"a": RepresentationName.of(a), "b": RepresentationName.of(b)}
    arrays = {side: zoo[name] for side, name in names.items()}
    found = cca(*arrays.values(), conv=conv, sequence=sequence, variance=variance, components=components).compute()
    # Numbers of the frequency domain are not neurons.
    reading = Parameters(conv="flatten" if conv == "dft" else conv, sequence=sequence)
    result = found[["correlation", "expected_correlation", "significant"]]
    neurons = {}
    for side, given in SIDES:
        result = result.assign({f"{name}_{side}": found[f"{name}_{given}"] for name in KEPT})
        direction = result[f"direction_{side}"]
        chosen, closeness, neurons[side] = _closest(as_input(arrays[side], given, reading), direction.to_numpy())
        result[f"direction_{side}"].attrs["long_name"] = f"direction of {names[side].label}"
        result[f"neuron_{side}"] = (
            direction.dims,
            neurons[side].reshape(direction.shape),
            {"long_name": f"neuron of {names[side].label} that is closest to the direction"},
        )
        result[f"neuron_number_{side}"] = "component", chosen, {"long_name": "number of that neuron, from 0"}
        result[f"neuron_direction_correlation_{side}"] = (
            "component",
            closeness,
            {
                "long_name": "correlation of a direction with the neuron that is closest to it",
                "units": "1",
            },
        )
    result["neuron_correlation"] = (
        "component",
        _correlations(neurons["a"], neurons["b"]),
        {
            "long_name": "correlation of the two neurons with each other",
            "units": "1",
        },
    )
    attributes = {"a": names["a"].label, "b": names["b"].label, "order": order or "", "conv": conv}
    return result.isel(example=sequence_of).assign_attrs(attributes)


def _order(zoo: Zoo, name: str) -> IntArray:
    """Places of the examples in the order of a coordinate."""
    if name not in zoo.coords:
        there = ", ".join(map(repr, zoo.coords)) or "none"
        raise InvalidQuestionError(
            f"the zoo has no coordinate {name!r} to sort examples by; it has {there}"
            f"{did_you_mean(name, list(zoo.coords)) or '.'} Pass order= one of them, or None"
        )
    values = zoo.coords[name]
    if values.ndim != 1:
        raise InvalidQuestionError(
            f"examples cannot be sorted by {name!r}, which has {values.shape[1]} values for each; pass order= another "
            f"coordinate, or None"
        )
    return np.argsort(values, kind="stable")


def _closest(array: InputArray, directions: InexactArray) -> tuple[IntArray, FloatArray, FloatArray]:
    """The neuron that is most correlated with each direction: which, its correlation, and its activations.

    Parameters
    ----------
    array : InputArray
    directions : (example, ..., component)

    Returns
    -------
    chosen, correlation : (component,)
    activations : (sample, component)
    """
    directions = directions.reshape(-1, directions.shape[-1])
    centred = directions - directions.mean(axis=0)
    shift, sums, squares, products = np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 0))
    for place, rows in _samples(array):
        if not place.start:
            # What is summed is close to zero then, whatever the mean.
            shift = rows.mean(axis=0)
            sums, squares = np.zeros((2, len(shift)))
            products = np.zeros((len(shift), centred.shape[1]), dtype=centred.dtype)
        shifted = rows - shift
        sums += shifted.sum(axis=0)
        squares += np.square(shifted).sum(axis=0)
        products += shifted.T @ centred[place]
    spread = np.sqrt(np.maximum(squares - sums**2 / len(centred), 0.0))
    varies = spread > ROUNDING * np.sqrt(len(centred)) * np.abs(shift)
    # A direction may be complex; what it says of neurons is in its real part then.
    lengths = np.linalg.norm(centred.real, axis=0)
    scale = np.where(varies, spread, np.inf)[:, np.newaxis] * np.where(lengths > 0, lengths, np.inf)
    correlations = np.asarray(products.real / scale)
    chosen = np.abs(correlations).argmax(axis=0)
    activations = np.concatenate([rows[:, chosen] for _, rows in _samples(array)])
    return chosen, correlations[chosen, np.arange(len(chosen))], activations


def _samples(array: InputArray) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Some samples at a time, and their places; (sample, neuron), in double precision."""
    step = examples_at_a_time([array])
    each = array.samples // array.examples
    for start in range(0, array.examples, step):
        rows = array.reading(as_floating(np.asarray(array.values[start : start + step])))[:, 0].astype(np.float64)
        yield slice(start * each, start * each + len(rows)), rows


def _correlations(x: FloatArray, y: FloatArray) -> FloatArray:
    """Of columns with each other, (component,); NaN for one that is constant."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0)
    products = (x * y).sum(axis=0)
    return np.asarray(np.divide(products, scale, out=np.full(len(scale), np.nan), where=scale > 0))
