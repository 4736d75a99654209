"""The published functions: equal where they are right; and where they are wrong, that they are, and that ours is not.

The recipes of google/svcca are written out here from what it computes, formula by formula, in as few lines as possible.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from oracles import correlations, translations
from pairwise_oracles import IMAGE

import dask_svcca
from dask_svcca import compat
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError

M = 60
TABLE = np.arange(20.0)
X = np.stack([10 * TABLE, TABLE**2 % 19, TABLE**3 % 17]) + 20
Y = np.stack([TABLE + TABLE**3 % 7, TABLE**2 % 19 + TABLE % 5, TABLE**3 % 11, TABLE**2 % 13])


def sets(*neurons: int, seed: int = 0) -> list[np.ndarray]:
    """Sets of neurons, (neuron, datapoint), that have something in common, and means."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(4, M))
    return [rng.normal(size=(p, 4)) @ common + rng.normal(size=(p, M)) + 3 * rng.normal(size=(p, 1)) for p in neurons]


def centred(acts: np.ndarray) -> np.ndarray:
    return acts - acts.mean(axis=1, keepdims=True)


def root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.sqrt(values)) @ vectors.conj().T


def published(acts1: np.ndarray, acts2: np.ndarray, epsilon: float = 0.0) -> dict[str, Any]:
    """get_cca_similarity of google/svcca."""
    p = len(acts1)
    covariance = np.cov(acts1, acts2)
    xx, xy, yy = covariance[:p, :p], covariance[:p, p:], covariance[p:, p:]
    scales = np.abs(xx).max(), np.abs(yy).max()
    xx, xy, yy = xx / scales[0], xy / np.sqrt(scales[0] * scales[1]), yy / scales[1]
    kept = [np.abs(np.diagonal(side)) >= epsilon for side in (xx, yy)]
    xx, xy, yy = xx[np.ix_(kept[0], kept[0])], xy[np.ix_(*kept)], yy[np.ix_(kept[1], kept[1])]
    whiten = [root(np.linalg.pinv(side + epsilon * np.eye(len(side)))) for side in (xx, yy)]
    u, s, v = np.linalg.svd(whiten[0] @ xy @ whiten[1])
    means = [acts.mean(axis=1, keepdims=True) for acts in (acts1, acts2)]
    return {
        "cca_coef1": s,
        "coef_x": u.T,
        "coef_y": v,
        "invsqrt_xx": whiten[0],
        "invsqrt_yy": whiten[1],
        "neuron_means1": means[0],
        "neuron_means2": means[1],
        "x_idxs": kept[0],
        "y_idxs": kept[1],
        "cca_dirns1": u.T @ whiten[0] @ (acts1[kept[0]] - means[0][kept[0]]) + means[0][kept[0]],
        "cca_dirns2": v @ whiten[1] @ (acts2[kept[1]] - means[1][kept[1]]) + means[1][kept[1]],
    }


def published_mean(correlations: np.ndarray, threshold: float) -> float:
    shares = [correlations[:count].sum() / correlations.sum() for count in range(len(correlations))]
    return correlations[: next((i for i, share in enumerate(shares) if share >= threshold), None)].mean()


def published_pwcca(
    acts1: np.ndarray, acts2: np.ndarray, signs: Any = 1, *, whitened: bool = False, moved: bool = True
) -> float:
    """compute_pwcca of google/svcca; with other signs of singular vectors, and with its mistakes put right."""
    found = published(acts1, acts2)
    smaller = found["x_idxs"].sum() <= found["y_idxs"].sum()
    side, number, acts = ("x", "1", acts1) if smaller else ("y", "2", acts2)
    mean = found[f"neuron_means{number}"]
    coefficients = np.reshape(signs, (-1, 1)) * found[f"coef_{side}"]
    if whitened:
        coefficients = coefficients @ found[f"invsqrt_{side * 2}"]
    directions = coefficients @ (acts1[found[f"{side}_idxs"]] - mean) + moved * mean
    weights = np.abs(np.linalg.qr(directions.T)[0].T @ acts.T).sum(axis=1)
    return float((weights / weights.sum())[: len(found["cca_coef1"])] @ found["cca_coef1"])


def same_up_to_sign(found: np.ndarray, expected: np.ndarray) -> None:
    signs = np.sign((found * expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(signs * found, expected, rtol=0, atol=1e-9)


# --- where it is right ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [(3, 5), (5, 3), (4, 4), (1, 2)])
@pytest.mark.parametrize("threshold", [0.5, 0.98, 1.0])
def test_get_cca_similarity__is_as_published(shapes: tuple[int, int], threshold: float) -> None:
    acts = sets(*shapes)
    found, expected = compat.get_cca_similarity(*acts, threshold=threshold, compute_dirns=True), published(*acts)
    for name in ("cca_coef1", "neuron_means1", "neuron_means2", "invsqrt_xx", "invsqrt_yy", "x_idxs", "y_idxs"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found["cca_coef2"], found["cca_coef1"])
    mean = published_mean(expected["cca_coef1"], threshold)
    np.testing.assert_allclose([*found["mean"], *found["sum"]], [mean] * 2 + [expected["cca_coef1"].sum()] * 2)
    count = min(shapes)
    for letter, number in (("x", "1"), ("y", "2")):
        same_up_to_sign(found[f"coef_{letter}"][:count], expected[f"coef_{letter}"][:count])
        np.testing.assert_array_equal(found[f"full_coef_{letter}"], found[f"coef_{letter}"])
        directions = expected[f"cca_dirns{number}"] - expected[f"neuron_means{number}"]
        same_up_to_sign(found[f"cca_dirns{number}"][:count], directions[:count])
    assert found["coef_x"].shape == expected["coef_x"].shape


def test_get_cca_similarity__returns_what_is_asked_for() -> None:
    acts = sets(3, 5)
    always = {"cca_coef1", "cca_coef2", "x_idxs", "y_idxs", "mean", "sum"}
    coefs = {
        *("coef_x", "invsqrt_xx", "full_coef_x", "full_invsqrt_xx", "neuron_means1"),
        *("coef_y", "invsqrt_yy", "full_coef_y", "full_invsqrt_yy", "neuron_means2"),
    }
    directions = {"cca_dirns1", "cca_dirns2"}
    assert set(compat.get_cca_similarity(*acts)) == always | coefs
    assert set(compat.get_cca_similarity(*acts, 0.0, 0.98, False, True)) == always | directions


def test_get_cca_similarity__constant_neurons_take_no_part() -> None:
    x, y = sets(3, 5)
    wider = np.insert(x, 1, 1e4 / 3, axis=0)
    found, expected = (compat.get_cca_similarity(acts, y, compute_dirns=True) for acts in (wider, x))
    assert found["x_idxs"].tolist() == [True, False, True, True]
    np.testing.assert_allclose(found["cca_coef1"], expected["cca_coef1"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["cca_dirns1"][[0, 2, 3]], expected["cca_dirns1"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found["full_invsqrt_xx"][1], 0)
    np.testing.assert_array_equal(found["full_coef_x"][:, 1], 0)
    np.testing.assert_allclose(
        found["full_coef_x"] @ found["full_invsqrt_xx"] @ (wider - found["neuron_means1"]), found["cca_dirns1"]
    )


def test_get_pls_similarity__is_as_published_but_for_directions() -> None:
    x, y = sets(3, 5)
    found = compat.get_pls_similarity(x, y)
    u, s, v = np.linalg.svd(np.cov(x, y)[:3, 3:], full_matrices=False)
    np.testing.assert_allclose(found["eigenvals"], s, rtol=1e-10)
    same_up_to_sign(found["neuron_coeffs1"], u.T)
    same_up_to_sign(found["neuron_coeffs2"], v)
    cross = found["pls_dirns1"] @ found["pls_dirns2"].T / (M - 1)
    np.testing.assert_allclose(cross, np.diag(s), rtol=0, atol=1e-10)
    # It takes off, and adds, the mean of each datapoint over neurons: the directions have other covariances.
    means = [acts.mean(axis=0) for acts in (x, y)]
    theirs = [c @ (acts - mean) + mean for c, acts, mean in zip((u.T, v), (x, y), means, strict=True)]
    assert np.abs(centred(theirs[0]) @ centred(theirs[1]).T / (M - 1) - np.diag(s)).max() > 1


def test_get_pca__is_as_published_where_that_centres_neurons() -> None:
    (x,) = sets(4)
    found = compat.get_pca(x, compute_dirns=True)
    u, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    np.testing.assert_allclose(found["eigenvals"], s, rtol=1e-10)
    same_up_to_sign(found["neuron_coefs"], u.T)
    np.testing.assert_allclose(found["pca_dirns"] @ found["pca_dirns"].T, np.diag(s**2), rtol=0, atol=1e-9)
    assert set(compat.get_pca(x)) == {"eigenvals", "neuron_coefs"}
    # It takes off the mean of each datapoint over neurons.
    theirs = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    assert abs(theirs[0] / s[0] - 1) > 0.1
    both = centred(x - x.mean(axis=0))
    np.testing.assert_allclose(
        compat.get_pca(both)["eigenvals"], np.linalg.svd(both - both.mean(axis=0), compute_uv=False), atol=1e-9
    )


# --- where it is wrong ---------------------------------------------------------------------------------------------


def test_published__keeps_rounding_noise() -> None:
    ramp = np.arange(32.0).reshape(8, 4).T
    other = np.array([[1, 2, 27, 22, 6, 9, 14, 8], [0, 28, 15, 18, 11, 19, 16, 13]], dtype=float)
    try:
        with np.errstate(invalid="ignore"):
            theirs = published(ramp, other)["cca_coef1"]
    except np.linalg.LinAlgError:
        theirs = np.full(2, np.nan)
    expected = correlations(ramp.T, other.T)
    assert not np.allclose(theirs, [*expected, 0], atol=1e-6)
    found = compat.get_cca_similarity(ramp, other)
    np.testing.assert_allclose(found["cca_coef1"], [*expected, 0], rtol=0, atol=1e-12)
    assert found["cca_coef1"][1] == 0
    np.testing.assert_allclose(compat.compute_pwcca(ramp, other)[2], [*expected, 0], rtol=0, atol=1e-12)


def test_published__checks_only_the_first_set() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.normal(size=(3, 20)), rng.normal(size=(40, 20))
    np.testing.assert_allclose(published(few, many, 1e-4)["cca_coef1"], 1, rtol=0, atol=1e-3)
    for acts in ((few, many), (many, few)):
        with pytest.raises(InvalidActivationsError, match="40 neurons and 20 datapoints; fewer neurons"):
            compat.get_cca_similarity(*acts)


def test_published__epsilon_depends_on_units_and_pulls_down() -> None:
    x, y = sets(3, 5)
    in_other_units = x * [[1], [1e-3], [1]]
    assert published(in_other_units, y, 1e-4)["x_idxs"].tolist() == [True, False, True]
    assert published(x, x, 0.1)["cca_coef1"].max() < 0.96
    np.testing.assert_allclose(compat.get_cca_similarity(x, x, epsilon=0.1)["cca_coef1"][0], 1, rtol=0, atol=1e-12)
    assert compat.get_cca_similarity(in_other_units, y, epsilon=1e-4)["x_idxs"].all()
    # What stays: a direction of small variance can be left out.
    q = np.linalg.qr(centred(np.random.default_rng(2).normal(size=(2, M))).T)[0].T
    small = compat.get_cca_similarity(q * [[1], [1e-3]], q, epsilon=1e-5)["cca_coef1"]
    np.testing.assert_allclose(small, [1, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(compat.get_cca_similarity(q * [[1], [1e-3]], q, epsilon=1e-7)["cca_coef1"], [1, 1])
    np.testing.assert_allclose(compat.compute_pwcca(q * [[1], [1e-3]], q, epsilon=1e-5)[1], [1, 0], rtol=0, atol=1e-12)


def test_published__moves_directions_by_means_of_neurons() -> None:
    x, y = sets(3, 5)
    theirs = published(x, y)["cca_dirns1"].mean(axis=1)
    np.testing.assert_allclose(theirs, x.mean(axis=1), rtol=0, atol=1e-9)
    ours = compat.get_cca_similarity(x, y, compute_dirns=True)
    np.testing.assert_allclose(ours["cca_dirns1"].mean(axis=1), 0, rtol=0, atol=1e-12)
    cross = ours["cca_dirns1"] @ ours["cca_dirns2"][:3].T
    np.testing.assert_allclose(cross, np.diag(np.diagonal(cross)), rtol=0, atol=1e-9)


def test_published__robust_takes_a_threshold_for_epsilon() -> None:
    x = np.random.default_rng(3).normal(size=(10, 5000))
    scores = published(x, x, epsilon=0.98)["cca_coef1"]
    np.testing.assert_allclose(published_mean(scores, threshold=True), 0.503, atol=0.002)
    np.testing.assert_allclose(compat.get_cca_similarity(x, x)["mean"][0], 1, rtol=0, atol=1e-12)


def test_published__pwcca_takes_the_wrong_set() -> None:
    x, y = sets(5, 3)
    with pytest.raises(IndexError):
        published_pwcca(x, y)
    value, weights, found = compat.compute_pwcca(x, y)
    other = compat.compute_pwcca(y, x)
    np.testing.assert_allclose(value, other[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(weights, other[1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found, correlations(x.T, y.T), rtol=0, atol=1e-10)


def test_published__pwcca_is_not_whitened_and_follows_arbitrary_signs() -> None:
    values = [published_pwcca(X, Y, signs) for signs in product((1, -1), repeat=3)]
    np.testing.assert_allclose([min(values), max(values)], [0.917, 0.946], atol=5e-4)
    # Put right, it is the definition; whatever the signs.
    put_right = [published_pwcca(X, Y, signs, whitened=True, moved=False) for signs in product((1, -1), repeat=3)]
    np.testing.assert_allclose(compat.compute_pwcca(X, Y)[0], put_right, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shapes", [(3, 5), (4, 4)])
def test_compute_pwcca__is_the_definition(shapes: tuple[int, int]) -> None:
    x, y = sets(*shapes)
    value, weights, found = compat.compute_pwcca(x, y)
    directions = compat.get_cca_similarity(x, y, compute_dirns=True)["cca_dirns1"]
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    expected = [sum(abs(h @ neuron) for neuron in x) for h in directions[: min(shapes)]]
    np.testing.assert_allclose(weights, np.array(expected) / np.sum(expected), rtol=0, atol=1e-9)
    np.testing.assert_allclose(value, weights @ found, rtol=0, atol=1e-12)


def test_published__a_constant_set_is_refused_here_by_name() -> None:
    x, y = sets(3, 5)
    with pytest.raises(InvalidActivationsError, match="acts2 is constant"):
        compat.get_cca_similarity(x, np.full((2, M), 0.1))
    with pytest.raises(InvalidActivationsError, match="acts1 is constant"):
        compat.compute_pwcca(np.zeros((2, M)), y)
    with pytest.raises(InvalidActivationsError, match="conv_acts1 is constant"):
        compat.fourier_ccas(np.full((M, 3, 3, 2), 0.1), np.ones((M, 3, 3, 1)))


# --- convolutional layers ------------------------------------------------------------------------------------------


def conv(*channels: int, sizes: tuple[int, int] = (4, 3), examples: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    common = rng.normal(size=(examples, *sizes, 3))
    return [common @ rng.normal(size=(3, c)) + rng.normal(size=(examples, *sizes, c)) + 5 for c in channels]


def test_fourier_ccas__is_cca_over_all_translations() -> None:
    x, y = conv(2, 3)
    found = compat.fourier_ccas(x, y)
    assert found.location.tolist() == list(product(range(4), range(3)))
    together = np.sort(np.concatenate(found.cca_coef1.tolist()))[::-1]
    expected = correlations(translations(x), translations(y))
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-10)
    # Centred at every frequency, as published, they are others.
    spectra = [np.fft.fft2(array, axes=(1, 2)) for array in (x, y)]
    theirs = [published(*(s[:, i, j].T for s in spectra))["cca_coef1"] for i, j in found.location]
    np.testing.assert_allclose(theirs[0], found.cca_coef1[0], rtol=0, atol=1e-9)
    assert np.abs(np.sort(np.concatenate(theirs))[::-1] - expected).max() > 1e-3
    np.testing.assert_allclose(found["sum"].map(lambda pair: pair[1]), [one.sum() for one in found.cca_coef2])
    np.testing.assert_allclose([mean for mean, _ in found["mean"]], [published_mean(c, 0.98) for c in found.cca_coef1])


@pytest.mark.parametrize("sizes", [(4, 3), (2, 2), (5, 2)])
def test_fourier_ccas__crops_to_the_smaller(sizes: tuple[int, int]) -> None:
    (x,), (y,) = conv(2, sizes=(4, 3)), conv(3, sizes=sizes)
    found = compat.fourier_ccas(x, y)
    assert len(found) == np.prod(np.minimum((4, 3), sizes))
    together = np.sort(np.concatenate(found.cca_coef1.tolist()))[::-1]
    np.testing.assert_allclose(together, dask_svcca.cca(x, y, dims=IMAGE).correlation, rtol=0, atol=1e-10)


def test_fourier_ccas__coefficients_and_directions_are_in_activation_space() -> None:
    x, y = conv(2, 3)
    found = compat.fourier_ccas(x, y, return_coefs=True, compute_dirns=True)
    assert "neuron_coeffs1" not in compat.fourier_ccas(x, y)
    assert "cca_dirns1" not in compat.fourier_ccas(x, y, return_coefs=True)
    for row in found.itertuples():
        np.testing.assert_allclose(row.cca_dirns1 @ row.cca_dirns1.conj().T, np.eye(2), rtol=0, atol=1e-10)
        coupling = row.cca_dirns1.conj() @ row.cca_dirns2.T
        np.testing.assert_allclose(coupling, np.diag(row.cca_coef1), rtol=0, atol=1e-10)
        for coefficients, directions, acts in (
            (row.neuron_coeffs1, row.cca_dirns1, x),
            (row.neuron_coeffs2, row.cca_dirns2, y),
        ):
            assert coefficients.shape == (2, *acts.shape[1:])
            applied = np.einsum("khwc,dhwc->kd", coefficients, acts - acts.mean(axis=(0, 1, 2)))
            np.testing.assert_allclose(applied, directions, rtol=0, atol=1e-10)
            # Of one frequency alone.
            spectrum = np.abs(np.fft.fft2(coefficients.conj(), axes=(1, 2))).sum(axis=(0, 3))
            assert np.argwhere(spectrum > 1e-9 * spectrum.max()).tolist() == [list(row.location)]


def test_fourier_ccas__an_empty_frequency_has_nothing_in_common() -> None:
    x, y = conv(2, 3, sizes=(4, 4))
    smooth = x.mean(axis=(1, 2), keepdims=True) + np.zeros((4, 4, 1))
    found = compat.fourier_ccas(smooth, y).set_index("location")
    np.testing.assert_allclose(found.cca_coef1[0, 0], compat.fourier_ccas(x, y).cca_coef1[0], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(found.cca_coef1[1, 2], 0)
    assert found["mean"][1, 2] == (0, 0)


def test_fourier_ccas__constant_channels_take_no_part() -> None:
    x, y = conv(2, 3)
    wider = np.insert(x, 0, 1e4 / 3, axis=-1)
    found, expected = compat.fourier_ccas(wider, y), compat.fourier_ccas(x, y)
    assert found.x_idxs[0].tolist() == [False, True, True]
    for mine, other in zip(found.cca_coef1, expected.cca_coef1, strict=True):
        np.testing.assert_allclose(mine, [*other, 0], rtol=0, atol=1e-10)


# --- which number is right -----------------------------------------------------------------------------------------


def truncated(acts: np.ndarray, *, by_square: bool = True, reached: bool = True) -> np.ndarray:
    """Leading singular directions, (datapoint, direction), that make up 99 %."""
    left, singular, _ = np.linalg.svd(acts.T, full_matrices=False)
    shares = np.cumsum(singular ** (2 if by_square else 1))
    count = int((shares < 0.99 * shares[-1]).sum()) + reached
    return left[:, :count] * singular[:count]


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.svd(np.linalg.qr(a)[0].T @ np.linalg.qr(b)[0], compute_uv=False)


def less_mean(rows: np.ndarray) -> np.ndarray:
    return rows - rows.mean(axis=0)


def test_table__every_number_in_the_documentation_is_as_it_says() -> None:
    right = angles(truncated(centred(X)), truncated(centred(Y)))
    every = angles(centred(X).T, centred(Y).T)
    # anatome: truncated before it is centred, by singular values, and one direction short.
    short = (less_mean(truncated(acts, by_square=False, reached=False)) for acts in (X, Y))
    directions = compat.get_cca_similarity(X, Y, compute_dirns=True)
    # Its weights: absolute values of a direction, from activations with their mean, summed over datapoints.
    forward = directions["coef_x"] @ directions["invsqrt_xx"]
    sums = np.abs(forward @ X).sum(axis=1)
    numbers = {
        "SVCCA": [
            right.mean(),
            right[0],
            angles(truncated(X), truncated(Y)).mean(),
            angles(*short).mean(),
        ],
        "PWCCA": [compat.compute_pwcca(X, Y)[0], every.mean(), sums @ every / sums.sum()],
    }
    lines = str(compat.__doc__).splitlines()
    for measure, values in numbers.items():
        stated = [float(line.split()[1]) for line in lines if line.startswith(f"{measure}    0.")]
        np.testing.assert_allclose(stated[: len(values)], values, atol=5e-5)
    np.testing.assert_allclose(float(dask_svcca.cca(X.T, Y.T, variance=0.99).mean_correlation), right.mean())
    # The last of the table is one of those that signs may give.
    candidates = [published_pwcca(X, Y, signs) for signs in product((1, -1), repeat=3)]
    np.testing.assert_allclose(np.abs(np.array(candidates) - stated[-1]).min(), 0, atol=5e-5)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [compat.get_cca_similarity, compat.compute_pwcca, compat.get_pls_similarity])
def test_errors(call: Any) -> None:
    x, y = sets(3, 5)
    with pytest.raises(MismatchedExamplesError, match="the first set has 60 datapoints, the second 59"):
        call(x, y[:, 1:])
    with pytest.raises(InvalidActivationsError, match=r"acts2 has 60 neurons and 5 datapoints.* transposed"):
        call(x, y.T)
    x[1, 2] = np.nan
    with pytest.raises(InvalidActivationsError, match="1 of 180 values of acts1 are NaN"):
        call(x, y)
    with pytest.raises(InvalidActivationsError, match=r"acts1 has 1 axis, and \(neuron, datapoint\)"):
        call(np.ones(3), y)


def test_errors__of_convolutional_layers() -> None:
    x, y = conv(2, 3)
    with pytest.raises(MismatchedExamplesError, match="the first set has 40 datapoints, the second 39"):
        compat.fourier_ccas(x, y[1:])
    with pytest.raises(InvalidActivationsError, match="conv_acts2 has 3 neurons and 2 datapoints"):
        compat.fourier_ccas(x, y[:2])
    with pytest.raises(InvalidActivationsError, match="height, width, channel"):
        compat.fourier_ccas(x[0], y)


def test_errors__threshold() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1; got 1\.5"):
        compat.get_cca_similarity(*sets(3, 5), threshold=1.5)


def test_labels__that_differ_are_refused() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 3))
    order = rng.permutation(30)
    ids = np.array([f"image{number}" for number in range(30)], dtype=object)
    plain = compat.get_cca_similarity(x.T, y.T)["mean"]
    for make in (
        lambda values, names: xr.DataArray(values, dims=("example", "neuron"), coords={"example": names}).T,
        lambda values, names: pd.DataFrame(values, index=names).T,
    ):
        assert compat.get_cca_similarity(make(x, ids), make(y, ids))["mean"] == pytest.approx(plain)
        calls = (compat.get_cca_similarity, compat.compute_pwcca, compat.get_pls_similarity)
        for call in calls:
            with pytest.raises(MismatchedExamplesError, match="acts2 has the datapoints of acts1 in another order"):
                call(make(x, ids), make(y[order], ids[order]))
            with pytest.raises(MismatchedExamplesError, match="is not among the examples of acts1"):
                call(make(x, ids), make(y, ids + "b"))
            with pytest.raises(MismatchedExamplesError, match="acts1 has its examples in an order of its own"):
                call(make(x, order), y.T)
    images = rng.normal(size=(30, 2, 2, 3))
    dims = ("example", "height", "width", "channel")
    named = xr.DataArray(images, dims=dims, coords={"example": ids})
    with pytest.raises(MismatchedExamplesError, match="conv_acts2 has the datapoints of conv_acts1 in another order"):
        compat.fourier_ccas(named, named[::-1])
    untransposed = xr.DataArray(x, dims=("example", "neuron"))
    with pytest.raises(InvalidActivationsError, match="are expected; transpose it"):
        compat.get_pca(untransposed)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e160, 1e300, 1e308, np.array([[1e300], [1e-300], [1.0]])])
def test_get_cca_similarity__values_whose_squares_leave_double_precision(scale: Any) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, size=(3, 40))
    with pytest.raises(InvalidActivationsError, match=r"acts1 varies by .* rescale it"):
        compat.get_cca_similarity(x * scale, x)


@pytest.mark.parametrize("offset", [1e13, 1e15])
def test_cca__of_values_far_from_zero(offset: float) -> None:
    """The mean is rounded as much as they are; what they are, as rounded, is compared all the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5)) + offset
    y = (x - offset) @ rng.normal(size=(5, 4)) + 0.3 * rng.normal(size=(40, 4))
    bases = [np.linalg.qr(values - values.mean(axis=0))[0] for values in (x - offset, y)]
    expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    np.testing.assert_allclose(compat.get_cca_similarity(x.T, y.T)["cca_coef1"], expected, atol=1e-9)
    np.testing.assert_allclose(dask_svcca.cca(x, y).correlation, expected, atol=1e-9)
