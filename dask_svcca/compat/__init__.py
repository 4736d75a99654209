"""The functions of the published code, google/svcca, by its names, argument order and keys; right where it is wrong.

Arrays are (neuron, datapoint), as there. To move on: `dask_svcca.cca`, `dask_svcca.pls`, `dask_svcca.pca` and
`dask_svcca.compare`, whose arrays are (example, neuron).

Where the published code is wrong, and what is done here instead:

=====================  ==============================================  ===============================================
function               published                                       here
=====================  ==============================================  ===============================================
get_cca_similarity     keeps rounding noise: neurons that depend on    numerical rank; correlations beyond it are 0
                       each other give NaN or "SVD did not converge"
get_cca_similarity     checks only the first set for more neurons      refuses both: all correlations would be 1,
                       than datapoints                                 whatever the data
get_cca_similarity     ``epsilon`` drops neurons of small variance,    leaves out *directions* of less than
                       so that units decide; and as a ridge puts a     ``epsilon`` times the largest variance; adds
                       set against itself below 1                      nothing
get_cca_similarity     adds the mean of the i-th neuron to the i-th    directions have mean zero
                       direction
get_cca_similarity     ``compute_dirns`` without ``compute_coefs`` is  computes both
                       a KeyError
get_cca_similarity     a constant set: "too many values to unpack"     InvalidActivationsError, saying so
robust_cca_similarity  passes ``threshold`` as ``epsilon``: 0.503 for  not included: nothing fails to converge
                       a set against itself
compute_pwcca          IndexError where the second set has fewer       weights of the set with fewer neurons
                       neurons
compute_pwcca          leaves out the whitening and adds means of      the definition: 0.890 below
                       neurons: 0.917 to 0.946 below, by the signs
                       that the singular vectors happen to have
fourier_ccas           does not run: mixed tabs and ``xrange``, and    runs
                       deletes keys that are not there
fourier_ccas           centres every frequency                         centres the zero frequency alone: exactly the
                                                                       CCA of all circular translations
fourier_ccas           inverse transform over neurons and datapoints   over height and width
fourier_ccas           refuses to crop layers that are not square      crops either axis
get_pls_similarity     directions centred by datapoint, not by neuron  by neuron
get_pca                centred by datapoint, not by neuron: all wrong  by neuron
=====================  ==============================================  ===============================================

What is not wrong stays: the mean of ``get_cca_similarity`` is that of the leading correlations that make up
``threshold`` of their sum; ``eigenvals`` of ``get_pca`` are singular values.

How the papers read convolutional layers, which decides numbers as much as the measure does, and how to ask
`dask_svcca.compare` for the same; it warns where one of the second row is read in another way:

=================================================  ==================================================================
measure                                            reading
=================================================  ==================================================================
svcca (Raghu et al. 2017)                          ``conv="positions"`` for the same layer, ``"flatten"`` or ``"dft"``
                                                   (section 3) for different ones
cka, cka_debiased, r2_cca, linear_regression       ``conv="flatten"``
(Kornblith et al. 2019)
=================================================  ==================================================================

`fourier_ccas` is ``conv="dft"``; the other functions here take arrays of two axes, however they were made.

Which number is right, for 20 datapoints that anyone can type:

>>> n = np.arange(20.0)
>>> x = np.stack([10 * n, n**2 % 19, n**3 % 17]) + 20
>>> y = np.stack([n + n**3 % 7, n**2 % 19 + n % 5, n**3 % 11, n**2 % 13])

=======  ======  =============================================================================================
measure  value   how it comes about
=======  ======  =============================================================================================
SVCCA    0.8999  right: centred, 99 % of the variance, mean over the smaller number of directions
SVCCA    0.9336  keeps the first correlation alone
SVCCA    0.9045  does not centre
SVCCA    0.8868  centres after truncating, and by singular values instead of their squares (moskomule/anatome)
PWCCA    0.8904  right: weights are inner products of directions with neurons
PWCCA    0.7115  weights all alike: the mean of all correlations
PWCCA    0.7123  weights are sums over a direction itself, so all but alike (moskomule/anatome)
PWCCA    0.9166  not whitened (google/svcca)
=======  ======  =============================================================================================

>>> import dask_svcca
>>> round(float(dask_svcca.cca(x.T, y.T, variance=0.99).mean_correlation), 4)
0.8999
>>> round(compute_pwcca(x, y)[0], 4)
0.8904

A layer of rank 1, ``arange(32)``, against eight examples of four neurons gives 0.8125: the correlation of its one
direction with the best combination of the four neurons, whose four directions are all kept at 99 % of the variance.

>>> ramp = np.arange(32.0).reshape(8, 4)
>>> other = np.array([[1, 2, 27, 22], [0, 28, 15, 18], [12, 9, 14, 8], [11, 19, 16, 13],
...                   [31, 20, 10, 3], [24, 5, 7, 29], [4, 30, 21, 6], [26, 17, 23, 25]])
>>> result = dask_svcca.cca(ramp, other, variance=0.99)
>>> result.correlation.values.round(4), int(result.rank_x), int(result.rank_y)
(array([0.8125]), 1, 4)

References
----------
Raghu et al. (2017), SVCCA, NeurIPS; Morcos, Raghu and Bengio (2018), Insights on representational similarity in neural
networks with canonical correlation, NeurIPS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.fft

from dask_svcca.compat._sets import (
    CONVOLUTIONS,
    SETS,
    by_frequency,
    check_datapoints,
    check_labels,
    checked,
    decompose_both,
)
from dask_svcca.kernels.directions import canonical_directions
from dask_svcca.kernels.factors import compress
from dask_svcca.kernels.fourier import wave

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray

__all__ = ["compute_pwcca", "fourier_ccas", "get_cca_similarity", "get_pca", "get_pls_similarity"]


def get_cca_similarity(
    acts1: npt.ArrayLike,
    acts2: npt.ArrayLike,
    epsilon: float = 0.0,
    threshold: float = 0.98,
    compute_coefs: bool = True,
    compute_dirns: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Canonical correlations of two sets of neurons.

    Parameters
    ----------
    acts1, acts2 : (neuron, datapoint)
        Each with fewer neurons than datapoints.
    epsilon : float
        Directions of less than this share of the largest variance are left out.
    threshold : float
        In [0, 1]: ``mean`` is over the leading correlations that make up this share of their sum.
    compute_coefs, compute_dirns : bool
        Whether the coefficients, and the directions, are returned.
    verbose : bool
        Without effect: nothing is printed.

    Returns
    -------
    dict
        ``cca_coef1``, ``cca_coef2`` (component): the correlations, twice the same. ``mean``, ``sum``: pairs of equal
        numbers. ``x_idxs``, ``y_idxs`` (neuron): neurons that are not constant. With ``compute_coefs`` ``coef_x``,
        ``invsqrt_xx``, ``full_coef_x``, ``full_invsqrt_xx``, ``neuron_means1`` and those of y: directions are
        ``full_coef_x @ full_invsqrt_xx @ (acts1 - neuron_means1)``. With ``compute_dirns`` the directions
        themselves, ``cca_dirns1`` and ``cca_dirns2`` (component, datapoint), of equal norms.

    Raises
    ------
    MismatchedExamplesError
        For unequal numbers of datapoints.
    InvalidActivationsError
        For fewer datapoints than neurons, values that are not finite, or a constant set.
    ValueError
        For a threshold out of range.

    Examples
    --------
    >>> x = np.array([[1.0, 0, -1, 0], [0, 1, 0, -1]])
    >>> result = get_cca_similarity(x, x[:1] + 3, verbose=False)
    >>> result["cca_coef1"].round(12), result["neuron_means2"]
    (array([1.]), array([[3.]]))
    """
    del verbose
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is the share of the sum of correlations, from 0 to 1; got {threshold!r}")
    x, y = decompose_both(acts1, acts2, epsilon)
    # The published whitening is symmetric, so that its directions are known in terms of the neurons.
    coupling = x.principal.left.T @ y.principal.left
    u, s, v = np.linalg.svd(x.principal.loadings @ coupling @ y.principal.loadings.T)
    s = np.clip(s, 0.0, 1.0)
    s[min(coupling.shape) :] = 0.0
    result: dict[str, Any] = {}
    sets = ((x, u.T, "x", "1"), (y, v, "y", "2"))
    if compute_coefs:
        for neurons, coefficients, letter, number in sets:
            result[f"coef_{letter}"] = coefficients
            result[f"invsqrt_{letter * 2}"] = neurons.whitening
            result[f"full_coef_{letter}"] = neurons.over_all_neurons(coefficients)
            result[f"full_invsqrt_{letter * 2}"] = neurons.over_all_neurons(neurons.whitening)
            result[f"neuron_means{number}"] = neurons.mean
    result |= {"cca_coef1": s, "cca_coef2": s, "x_idxs": x.varies, "y_idxs": y.varies}
    result |= _mean_and_sum(s, threshold)
    if compute_dirns:
        for neurons, coefficients, _, number in sets:
            forward = neurons.over_all_neurons(coefficients) @ neurons.over_all_neurons(neurons.whitening)
            result[f"cca_dirns{number}"] = forward @ (neurons.acts - neurons.mean)
    return result


def compute_pwcca(
    acts1: npt.ArrayLike, acts2: npt.ArrayLike, epsilon: float = 0.0
) -> tuple[float, FloatArray, FloatArray]:
    """Projection-weighted canonical correlation: the mean, weighted by how much of the neurons a direction explains.

    Parameters
    ----------
    acts1, acts2 : (neuron, datapoint)
        Weights come from the set with fewer neurons; from ``acts1`` where both have equally many.
    epsilon : float
        As for `get_cca_similarity`.

    Returns
    -------
    pwcca : float
        In [0, 1].
    weights, correlations : (component,)
        Weights sum to 1.

    Raises
    ------
    MismatchedExamplesError, InvalidActivationsError
        As `get_cca_similarity`.

    References
    ----------
    Morcos, Raghu and Bengio (2018), section 3, eq. 3.

    Examples
    --------
    >>> x = np.array([[3.0, 0, -3, 0], [0, 1, 0, -1]])
    >>> y = np.array([[1.0, 0, -1, 0], [0, 1, 0, 1]])
    >>> value, weights, correlations = compute_pwcca(x, y)
    >>> weights.round(12), correlations.round(12), round(value, 12)
    (array([0.75, 0.25]), array([1., 0.]), 0.75)
    """
    x, y = decompose_both(acts1, acts2, epsilon)
    aligned = canonical_directions(x.principal, y.principal)
    neurons = int(x.varies.sum()), int(y.varies.sum())
    loads = aligned.loads_a if neurons[0] <= neurons[1] else aligned.loads_b
    weights = np.abs(loads).sum(axis=0)
    padding = (0, min(neurons) - len(weights))
    weights, correlations = np.pad(weights / weights.sum(), padding), np.pad(aligned.values, padding)
    return float(weights @ correlations), weights, correlations


def get_pls_similarity(acts1: npt.ArrayLike, acts2: npt.ArrayLike) -> dict[str, FloatArray]:
    """Partial least squares of two sets of neurons.

    Parameters
    ----------
    acts1, acts2 : (neuron, datapoint)

    Returns
    -------
    dict
        ``eigenvals`` (component): singular values of the cross-covariance. ``neuron_coeffs1``, ``neuron_coeffs2``
        (component, neuron), orthonormal. ``pls_dirns1``, ``pls_dirns2`` (component, datapoint): of mean zero.

    Raises
    ------
    MismatchedExamplesError, InvalidActivationsError
        As `get_cca_similarity`.

    Examples
    --------
    >>> x = np.array([[1.0, 0, -1, 0], [0, 1, 0, -1]])
    >>> get_pls_similarity(x, 3 * x[:1])["eigenvals"].round(12)
    array([2.])
    """
    x, y = checked(acts1, "acts1"), checked(acts2, "acts2")
    check_datapoints(x, y)
    check_labels((acts1, acts2), ("acts1", "acts2"), SETS)
    centred = [acts - acts.mean(axis=1, keepdims=True) for acts in (x, y)]
    u, values, v = np.linalg.svd(centred[0] @ centred[1].T / (x.shape[1] - 1), full_matrices=False)
    return {
        "eigenvals": values,
        "neuron_coeffs1": u.T,
        "neuron_coeffs2": v,
        "pls_dirns1": u.T @ centred[0],
        "pls_dirns2": v @ centred[1],
    }


def get_pca(acts: npt.ArrayLike, compute_dirns: bool = False) -> dict[str, FloatArray]:
    """Principal components of one set of neurons.

    Parameters
    ----------
    acts : (neuron, datapoint)
    compute_dirns : bool

    Returns
    -------
    dict
        ``eigenvals`` (component): singular values of the centred activations; the roots of the eigenvalues of the
        covariance times the number of datapoints less one. ``neuron_coefs`` (component, neuron), orthonormal. With
        ``compute_dirns`` ``pca_dirns`` (component, datapoint): of mean zero.

    Raises
    ------
    InvalidActivationsError
        As `get_cca_similarity`.

    Examples
    --------
    >>> get_pca(np.array([[4.0, 1, -2], [5, 5, 5]]))["eigenvals"].round(6)
    array([4.242641, 0.      ])
    """
    x = checked(acts, "acts")
    centred = x - x.mean(axis=1, keepdims=True)
    u, values, _ = np.linalg.svd(centred, full_matrices=False)
    result = {"eigenvals": values, "neuron_coefs": u.T}
    return {**result, "pca_dirns": u.T @ centred} if compute_dirns else result


def fourier_ccas(
    conv_acts1: npt.ArrayLike,
    conv_acts2: npt.ArrayLike,
    return_coefs: bool = False,
    compute_dirns: bool = False,
    verbose: bool = False,
) -> pd.DataFrame:
    """Canonical correlations of two convolutional layers, by spatial frequency.

    Parameters
    ----------
    conv_acts1, conv_acts2 : (datapoint, height, width, channel)
        Each with fewer channels than datapoints. Layers of unequal sizes are compared at frequencies that both have.
    return_coefs, compute_dirns : bool
    verbose : bool
        Without effect: nothing is printed.

    Returns
    -------
    pandas.DataFrame
        One row per frequency, all ``height * width`` of the smaller layer. ``location``: its index in ``fft2``.
        ``cca_coef1``, ``cca_coef2``, ``mean``, ``sum``, ``x_idxs``, ``y_idxs``: as from `get_cca_similarity`. With
        ``return_coefs`` ``neuron_coeffs1``, ``neuron_coeffs2`` (component, height, width, channel): the inverse
        transform, complex; with ``compute_dirns`` ``cca_dirns1``, ``cca_dirns2`` (component, datapoint): sums of
        coefficients times centred activations, orthonormal.

        The correlations of all rows together are those of all circular translations of the datapoints, flattened.

    Raises
    ------
    MismatchedExamplesError, InvalidActivationsError
        As `get_cca_similarity`.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(10, 2, 2, 1))
    >>> result = fourier_ccas(image, 3 * image)
    >>> result.location.tolist(), [round(float(one[0]), 12) for one in result["mean"]]
    ([(0, 0), (0, 1), (1, 0), (1, 1)], [1.0, 1.0, 1.0, 1.0])
    """
    del verbose
    layers = [checked(acts, name, conv=True) for acts, name in ((conv_acts1, "conv_acts1"), (conv_acts2, "conv_acts2"))]
    check_datapoints(*(layer.reshape(len(layer), -1).T for layer in layers))
    check_labels((conv_acts1, conv_acts2), ("conv_acts1", "conv_acts2"), CONVOLUTIONS)
    height, width = (min(layer.shape[axis] for layer in layers) for axis in (1, 2))
    varies = [np.asarray(np.ptp(layer, axis=(0, 1, 2)) > 0) for layer in layers]
    centred = [(layer - layer.mean(axis=(0, 1, 2))) * varying for layer, varying in zip(layers, varies, strict=True)]
    spectra = [scipy.fft.fft2(layer, axes=(1, 2), norm="ortho") for layer in centred]
    locations = [(i, j) for i in range(height) for j in range(width)]
    signed = [(_signed(i, height), _signed(j, width)) for i, j in locations]
    joint = [compress(np.hstack([spectrum[:, i, j] for spectrum in spectra])) for i, j in signed]
    columns = slice(layers[0].shape[-1]), slice(layers[0].shape[-1], None)
    principals = [
        by_frequency([rows[:, columns[0]] for rows in joint], conv_acts1, "conv_acts1"),
        by_frequency([rows[:, columns[1]] for rows in joint], conv_acts2, "conv_acts2"),
    ]
    table = []
    for location, frequency, *pair in zip(locations, signed, *principals, strict=True):
        aligned = canonical_directions(*pair)
        correlations = np.pad(aligned.values, (0, min(layer.shape[-1] for layer in layers) - len(aligned.values)))
        row: dict[str, Any] = {"location": location, "cca_coef1": correlations, "cca_coef2": correlations}
        row |= _mean_and_sum(correlations, 0.98)
        for index, (letter, forward) in enumerate((("x", aligned.coefficients_a), ("y", aligned.coefficients_b))):
            row[f"{letter}_idxs"] = varies[index]
            waves = wave(layers[index].shape[1:3], frequency)
            coefficients = np.multiply.outer(forward.T, waves).transpose(0, 2, 3, 1)
            if return_coefs:
                row[f"neuron_coeffs{index + 1}"] = coefficients
            if compute_dirns:
                row[f"cca_dirns{index + 1}"] = np.tensordot(coefficients, centred[index], axes=([1, 2, 3], [1, 2, 3]))
        table.append(row)
    return pd.DataFrame(table)


def _mean_and_sum(correlations: FloatArray, threshold: float) -> dict[str, tuple[float, float]]:
    """Mean over the leading correlations that make up a share of their sum, and the sum; each twice."""
    total = float(correlations.sum())
    enough = int(np.searchsorted(np.cumsum(correlations), threshold * total)) + 1
    mean = float(correlations[:enough].mean())
    return {"mean": (mean, mean), "sum": (total, total)}


def _signed(index: int, size: int) -> int:
    return index - size if index >= (size + 1) // 2 else index
