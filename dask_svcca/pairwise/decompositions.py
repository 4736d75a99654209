"""Canonical correlations, partial least squares and principal components of arrays, with their directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.kernels.directions import canonical_directions, covariance_directions, own_directions
from dask_svcca.pairwise.components import find_components
from dask_svcca.pairwise.dataset import as_dataset
from dask_svcca.pairwise.principals import decompose
from dask_svcca.pairwise.summary import summarize
from dask_svcca.plan.parameters import Parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from dask_svcca.pairwise.arrays import Array
    from dask_svcca.plan.parameters import Match
    from dask_svcca.readings.choose import Convolutional, Sequential


def cca(
    x: Array,
    y: Array,
    *,
    variance: float | None = None,
    components: int | None = None,
    conv: Convolutional = "dft",
    match: Match = "crop",
    sequence: Sequential = "mean",
    dims: Sequence[str] | None = None,
) -> xr.Dataset:
    """Canonical correlations of two arrays, with the directions behind them; SVCCA with ``variance=0.99``.

    Parameters
    ----------
    x, y : (example, neuron), (example, token, neuron), or axes as named
        NumPy, Dask, xarray, pandas, PyTorch or JAX; the same examples in the same order. Where both have ids along
        their examples (a coordinate ``example``, the index of a DataFrame), y is put in the order of x by them. Each
        core reads one chunk of examples of a Dask array at a time, and keeps ``p * p`` numbers for ``p`` neurons of x
        and y together (fewer where there are fewer examples). A DataArray whose dims are named as in ``dims`` may have
        them in any order.
    variance : float, optional
        Share of the variance, in (0, 1], that is kept of each array before they are compared: SVCCA's first step.
        None keeps all that is more than rounding noise.
    components : int, optional
        How many of the leading components to return; None returns all. A layer of many positions has many under
        ``dft``, and each has as many coefficients. Variables without the dim ``component`` count all of them.
    conv : {"dft", "mean", "positions", "flatten"}
        How an array with spatial axes is read. Under ``dft`` the result is that of all circular translations of the
        examples, flattened.
    match : {"crop", "fold"}
        Under ``dft``, how arrays of unequal sizes are compared. ``crop``: at the frequencies that both have. ``fold``:
        exactly, with the finer array folded on the coarser grid, whose sizes must divide its own.
    sequence : {"mean", "positions", "first", "last"}
        How an array with tokens is read: averaged, each token as a sample, or the first (such as CLS) or last token.
    dims : sequence of str, optional
        Names of the axes of each array without names that has as many: ``example``; ``neuron`` or ``channel``;
        ``height``, ``width``, ``depth``; ``token``. Four axes and more need them, here or in a DataArray: for example
        ``("example", "channel", "height", "width")``. Three without are tokens: a convolution in one dimension says
        ``("example", "channel", "width")``.

    Returns
    -------
    xarray.Dataset
        ``correlation`` (component)
            In [0, 1], descending.
        ``direction_x``, ``direction_y`` (example, component)
            Aligned directions: orthonormal, and ``direction_x.T @ direction_y`` is the diagonal of correlations. Lazy
            where the array is a Dask array. With positions as samples there is one value per position. Under ``dft``
            both statements hold on average over all translations.
        ``coefficients_x``, ``coefficients_y`` (neuron_x or neuron_y, component)
            ``direction = (array - mean) @ coefficients``. Under ``dft``, (height, width, channel, component).
        ``explained_variance_x``, ``explained_variance_y`` (component)
            Share of the variance of all neurons that a direction explains, in [0, 1].
        ``mean_x``, ``mean_y`` (neuron_x or neuron_y)
            Mean of each neuron over the samples.
        ``mean_correlation``, ``rank_x``, ``rank_y``
            The mean over the smaller rank: correlations that are missing count as zero. Where frequencies were
            cropped, it is the rank at the frequencies that are compared.
        ``expected_correlation``, ``significant``, ``spurious``
            Mean correlation that independent arrays of these ranks would have; how many correlations are more than
            chance, at level 0.05, also where some examples are extreme in both arrays, as `compare` counts them; how
            many are 1 whatever the data, since examples are too few. The second takes the examples once more, and is
            lazy where an array is a Dask array.

        Each component's largest coefficient in x is positive. Where ``dft`` crops to a grid of even size, its highest
        frequency is real in one array and complex in the other: coefficients and directions are then complex.

    Raises
    ------
    MismatchedExamplesError
        For other examples, or unequal numbers of them.
    InvalidActivationsError
        For values that are not finite, a constant array, fewer than two examples, axes without names, and what is
        masked, sparse or quantised.
    IncompatibleError
        For arrays whose readings have no samples, or no grid, in common.
    MemoryLimitError
        For results that are larger than the free memory.
    ValueError
        For options out of range.

    References
    ----------
    Hotelling (1936), Relations between two sets of variates, Biometrika 28; Björck and Golub (1973), Mathematics of
    Computation 27; Raghu et al. (2017), SVCCA, NeurIPS.

    Examples
    --------
    >>> x = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    >>> result = cca(x, x[:, :1] + 3)
    >>> result.correlation.values.round(12), result.mean_y.values
    (array([1.]), array([3.]))
    >>> result.direction_x.values[:, 0].round(3) + 0.0
    array([ 0.707,  0.   , -0.707,  0.   ])
    """
    parameters = Parameters(variance=variance, conv=conv, match=match, sequence=sequence)
    canonical = find_components(decompose(parameters, (x, y), dims=dims), canonical_directions, components)
    return as_dataset(
        "canonical correlation analysis",
        canonical,
        {"correlation": (canonical.values, "canonical correlation", "1")},
        summarize(canonical),
    )


def pls(
    x: Array,
    y: Array,
    *,
    components: int | None = None,
    conv: Convolutional = "dft",
    match: Match = "crop",
    sequence: Sequential = "mean",
    dims: Sequence[str] | None = None,
) -> xr.Dataset:
    """Directions of greatest covariance of two arrays: partial least squares by SVD of the cross-covariance.

    Parameters
    ----------
    x, y, components, conv, match, sequence, dims
        As for `cca`.

    Returns
    -------
    xarray.Dataset
        As from `cca`, without the variables that sum up correlations, and with these differences:

        ``covariance`` (component)
            Covariance of the two directions, over the number of samples less one; descending.
        ``correlation`` (component)
            Correlation of the two directions, in [0, 1].
        ``coefficients_x``, ``coefficients_y``
            Orthonormal, where those of `cca` make directions orthonormal.
        ``explained_variance_x``, ``explained_variance_y``
            Share of the variance of all neurons that lies along a direction.

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
    aligned = find_components(decompose(parameters, (x, y), dims=dims), covariance_directions, components)
    correlations = np.clip(aligned.values / aligned.lengths(0) / aligned.lengths(1), 0.0, 1.0)
    return as_dataset(
        "partial least squares",
        aligned,
        {
            "covariance": (
                aligned.values * aligned.decomposition.per_degree,
                "covariance of the two directions",
                "",
            ),
            "correlation": (correlations, "correlation of the two directions", "1"),
        },
        {},
    )


def pca(
    x: Array,
    *,
    components: int | None = None,
    conv: Convolutional = "dft",
    sequence: Sequential = "mean",
    dims: Sequence[str] | None = None,
) -> xr.Dataset:
    """Principal directions of one array.

    Parameters
    ----------
    x, components, conv, sequence, dims
        As for `cca`.

    Returns
    -------
    xarray.Dataset
        ``variance`` (component)
            Descending; over the number of samples less one.
        ``explained_variance`` (component)
            Share of the variance of all neurons, in [0, 1].
        ``direction`` (example, component)
            Uncorrelated; each has its ``variance``.
        ``coefficients`` (neuron, component)
            Orthonormal; ``direction = (array - mean) @ coefficients``.
        ``mean`` (neuron)
            Mean of each neuron over the samples.
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
    >>> result = pca(np.array([[3.0, 1], [-3, 1], [0, 2], [0, 0]]))
    >>> result.explained_variance.values, result.variance.values.round(12)
    (array([0.9, 0.1]), array([6.        , 0.66666667]))
    """
    parameters = Parameters(variance=None, conv=conv, sequence=sequence)
    principal = find_components(decompose(parameters, (x,), dims=dims), own_directions, components)
    variances = principal.values * principal.decomposition.per_degree
    return as_dataset("principal components", principal, {"variance": (variances, "variance of the direction", "")}, {})
