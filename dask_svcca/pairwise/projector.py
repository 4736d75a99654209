"""A layer's projector onto few directions, for compressing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import xarray as xr

from dask_svcca.errors import IncompatibleError
from dask_svcca.kernels.directions import canonical_directions, covariance_directions, own_directions
from dask_svcca.pairwise.components import find_components
from dask_svcca.pairwise.dataset import check_memory
from dask_svcca.pairwise.principals import decompose
from dask_svcca.plan.parameters import Parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.pairwise.arrays import Array
    from dask_svcca.plan.parameters import Match
    from dask_svcca.readings.choose import Convolutional, Sequential

Method: TypeAlias = Literal["cca", "pls", "pca"]

ALIGNMENTS = {"cca": canonical_directions, "pls": covariance_directions, "pca": own_directions}


def projection(
    x: Array,
    y: Array | None = None,
    *,
    k: int,
    method: Method = "cca",
    conv: Convolutional = "dft",
    match: Match = "crop",
    sequence: Sequential = "mean",
    dims: Sequence[str] | None = None,
) -> xr.Dataset:
    """Projector onto the k leading directions of x, for compressing a layer.

    ``(x - mean) @ projector + mean`` is the layer compressed. With ``cca`` it is the best reconstruction from the k
    directions, by least squares. With ``pls`` and ``pca``, whose coefficients are orthonormal, it is the orthogonal
    projection onto the coefficients of the k directions.

    Parameters
    ----------
    x : array
        The layer to compress; as for `cca`.
    y : array, optional
        What its directions are aligned with. None for ``pca``.
    k : int
        Number of directions, at least 1.
    method : {"cca", "pls", "pca"}
    conv, match, sequence, dims
        As for `cca`.

    Returns
    -------
    xarray.Dataset
        ``projector`` (neuron, neuron_out)
            Idempotent, of rank k: ``coefficients @ reconstruction``.
        ``coefficients`` (neuron, component), ``reconstruction`` (component, neuron_out)
            The projector as two factors, through k neurons: what to compute with.
        ``mean`` (neuron)
            Mean of each neuron of x over the samples.
        ``explained_variance``
            Share of the variance of x that the projector retains.

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
    >>> result = projection(x, k=1, method="pca")
    >>> result.projector.values + 0.0, round(float(result.explained_variance), 6)
    (array([[1., 0.], [0., 0.]]), 0.9)
    """
    if method not in ALIGNMENTS:
        raise ValueError(f"method is one of {', '.join(map(repr, ALIGNMENTS))}; got {method!r}")
    if (y is None) != (method == "pca"):
        remedy = "pass y, or method='pca'" if y is None else "leave y out, or pass method='cca'"
        raise ValueError(f"method={method!r} takes {'one array' if method == 'pca' else 'two arrays'}; {remedy}")
    parameters = Parameters(variance=None, conv=conv, match=match, sequence=sequence)
    components = find_components(
        decompose(parameters, (x,) if y is None else (x, y), dims=dims), ALIGNMENTS[method], None
    )
    if not 1 <= k <= len(components.order):
        raise ValueError(f"k is from 1 to the number of components, {len(components.order)}; got {k!r}")
    components = components.leading(k)
    sources = [array.source for array in components.decomposition.arrays]
    forward, backward = components.forward(0), components.backward(0)
    if forward.dtype.kind == "c":
        grids = [source.reading.grid for source in sources]
        raise IncompatibleError(
            f"the projector would be complex: the grids {grids[0]} of x and {grids[1]} of y share a frequency that is "
            f"real in one and complex in the other. Pass match='fold', or another conv="
        )
    neurons = sources[0].coefficient_dims
    size = forward.neuron_mean().size
    check_memory(8 * size**2, f"a projector of {size} x {size} neurons", "conv='positions' or 'mean'")
    outputs = tuple(f"{dim}_out" for dim in neurons)
    coefficients, reconstruction = forward.coefficients(), np.moveaxis(backward.coefficients(), -1, 0)
    explained = float(components.explained(0).sum())
    return xr.Dataset(
        {
            "projector": ((*neurons, *outputs), np.tensordot(coefficients, reconstruction, axes=1)),
            "coefficients": ((*neurons, "component"), coefficients),
            "reconstruction": (("component", *outputs), reconstruction),
            "mean": (neurons, forward.neuron_mean()),
            "explained_variance": (
                (),
                explained,
                {"long_name": "share of the variance of x that the projector retains", "units": "1"},
            ),
        },
        attrs={"long_name": f"projector onto the top {k} directions by {method}"},
    )
