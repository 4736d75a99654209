"""Measures of the distances of examples, against SciPy on whole matrices of examples x examples."""

from __future__ import annotations

import math
from itertools import permutations
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
import scipy.stats
from comparisons import graph_of, peak_memory, tasks_of
from measured import compared, images, related
from scipy.spatial.distance import pdist, squareform
from zarr.storage import MemoryStore
from zoos import make_zoo, with_memory

import dask_svcca
from dask_svcca.errors import FailedRepresentationWarning, InvalidActivationsError, UnknownMeasureError
from dask_svcca.kernels import distances as kernel
from dask_svcca.kernels.distances import PairDistances, compare_values, example_pairs
from dask_svcca.measures import RelatedSums, find_measures
from dask_svcca.measures.relations import Distances
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.tasks import relations as task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RSA = ["rsa", "rsa(compare=spearman)", "rsa(distance=euclidean)", "rsa(distance=euclidean, compare=spearman)"]
OTHERS = ["rsm_norm_difference", "distance_correlation", "uniformity_difference", "magnitude_difference"]
pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")


def expected(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """A measure by its definition."""
    if name.startswith("rsa"):
        a, b = (pdist(layer, "euclidean" if "distance=euclidean" in name else "correlation") for layer in (x, y))
        compare = scipy.stats.spearmanr if "spearman" in name else scipy.stats.pearsonr
        return float(compare(a, b).statistic)
    if name == "magnitude_difference":
        return float(abs(np.linalg.norm(x.mean(axis=0)) - np.linalg.norm(y.mean(axis=0))))
    a, b = (squareform(pdist(layer)) for layer in (x, y))
    if name == "rsm_norm_difference":
        return float(np.linalg.norm(a - b))
    if name == "uniformity_difference":
        return float(abs(np.log(np.exp(-2 * a**2).mean()) - np.log(np.exp(-2 * b**2).mean())))
    a, b = (d - d.mean(axis=0) - d.mean(axis=1)[:, np.newaxis] + d.mean() for d in (a, b))
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


def layers(samples: int = 50, *widths: int, seed: int = 0) -> list[np.ndarray]:
    return [0.3 * layer for layer in related(samples, *(widths or (6, 4, 9)), seed=seed)]


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-7)])
def test_distances__equal_their_definitions(precision: str, tolerance: float) -> None:
    arrays = layers()
    found = compared(*arrays, measures=[*RSA, *OTHERS], precision=precision)
    for name in (*RSA, *OTHERS):
        values = [[expected(name, x, y) for y in arrays] for x in arrays]
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=tolerance, err_msg=name)
        if f"{name}_error" in found:
            np.testing.assert_array_equal(found[f"{name}_error"], 0)


def test_rsa__is_by_correlation_and_pearson() -> None:
    found = compared(*layers(), measures=["rsa(distance=correlation, compare=pearson)", "rsa(compare=spearman)"])
    assert {"rsa", "rsa_error", "rsa(compare=spearman)", "rsa_error(compare=spearman)"} <= set(found.data_vars)


def test_distances__in_blocks_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = layers()
    monkeypatch.setattr(task, "SAMPLES_AT_ONCE", 7)
    monkeypatch.setattr("dask_svcca.measures.relations.CHUNK_VALUES", 100)
    monkeypatch.setattr("dask_svcca.plan.relations.OPERAND_BYTES", 1)
    found = compared(*arrays, measures=[RSA[3], *OTHERS], precision="float64")
    for name in (RSA[3], *OTHERS):
        values = [[expected(name, x, y) for y in arrays] for x in arrays]
        np.testing.assert_allclose(found[name], values, atol=1e-10, err_msg=name)


def test_distances__of_convolutional_layers_are_of_all_positions() -> None:
    maps = images((4, 4, 3), (2, 2, 5), examples=15)
    found = compared(*maps, measures=RSA[2], precision="float64")
    flat = [layer.reshape(15, -1) for layer in maps]
    assert float(found[RSA[2]][0, 1]) == pytest.approx(expected(RSA[2], *flat), abs=1e-10)


def test_rsa__equal_distances_share_their_rank() -> None:
    """Distances between corners of a cube are three; copies of an example have none."""
    corners = np.array(list(np.ndindex(2, 2, 2)), dtype=float)
    x, y = np.concatenate([corners, corners[:3]]) * 7 + 1000.1, layers(11)[0]
    found = compared(x, y, measures=RSA[3], precision="float64")
    exact = np.concatenate([corners, corners[:3]])
    assert float(found[RSA[3]][0, 1]) == pytest.approx(expected(RSA[3], exact, y), abs=1e-10)


def test_distances__ignore_what_they_say() -> None:
    rng = np.random.default_rng(0)
    x, y = layers(40, 6, 6)
    turned = x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + rng.normal(size=6)
    found = compared(x, turned, 3 * x, y, measures=["distance_correlation", RSA[2], RSA[3], *OTHERS[:3:2]])
    for name in ("distance_correlation", RSA[2], RSA[3]):
        np.testing.assert_allclose(found[name][0, :3], 1, atol=1e-6)
        np.testing.assert_allclose(found[name][3, :3], found[name][3, 0], atol=1e-6)
    for name in OTHERS[:3:2]:
        np.testing.assert_allclose(found[name][0, :2], 0, atol=1e-3)
        assert float(found[name][0, 2]) > 0.1
    by_correlation = compared(x, x[:, ::-1] * 2, x + rng.normal(size=(40, 1)), measures="rsa")
    np.testing.assert_allclose(by_correlation.rsa, 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "heavy tails"])
def test_null__of_distance_correlation_is_that_over_orders(kind: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 30, 4)) if kind == "gaussian" else rng.standard_t(2, size=(2, 30, 4))
    scores = np.array([expected("distance_correlation", x, y[rng.permutation(30)]) for _ in range(1500)])
    found = compared(x, y, measures="distance_correlation")
    score, null = (float(found[name][0, 1]) for name in ("distance_correlation", "null_distance_correlation"))
    assert null == pytest.approx(np.sqrt(np.mean(scores**2)), abs=4 * np.std(scores) / np.sqrt(1500))
    assert float(found.p_distance_correlation[0, 1]) == pytest.approx(np.mean(scores >= score), abs=0.05)
    assert float(found.calibrated_distance_correlation[0, 1]) == pytest.approx((score - null) / (1 - null))
    assert found.distance_correlation.attrs["null"] == "null_distance_correlation"


@pytest.mark.parametrize("name", RSA[1:3])
def test_null__of_rsa_is_that_over_orders(name: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_t(3, size=(2, 30, 4))
    scores = np.array([expected(name, x, y[rng.permutation(30)]) for _ in range(1500)])
    found = float(compared(x, y, measures=name)[name.replace("rsa", "null_rsa_sd")][0, 1])
    assert np.mean(scores) == pytest.approx(0, abs=4 * found / np.sqrt(1500))
    assert found == pytest.approx(np.std(scores), rel=0.07)


@pytest.mark.parametrize("name", RSA)
def test_p_rsa__is_the_share_of_orders_that_score_as_much(name: str) -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(size=(40, 4))
    x, y, z = (share * common + rng.normal(size=(40, 4)) for share in (0.7, 0.7, 0.0))
    found = compared(x, y, z, measures=name)
    names = {one: name.replace("rsa", one, 1) for one in ("p_rsa", "null_rsa_sd")}
    for other, layer in ((1, y), (2, z)):
        metric = "euclidean" if "distance=euclidean" in name else "correlation"
        vectors = [pdist(each, metric) for each in (x, layer)]
        if "spearman" in name:
            vectors = [scipy.stats.rankdata(each) for each in vectors]
        a, b = (squareform(each - each.mean()) for each in vectors)
        norm = np.linalg.norm(a) * np.linalg.norm(b)
        orders = (rng.permutation(40) for _ in range(2000))
        scores = np.array([np.vdot(a, b[np.ix_(order, order)]) / norm for order in orders])
        assert float(found[names["null_rsa_sd"]][0, other]) == pytest.approx(scores.std(), rel=0.08)
        as_much = (scores >= float(found[name][0, other])).mean()
        assert float(found[names["p_rsa"]][0, other]) == pytest.approx(as_much, abs=0.03)
    assert found[name].attrs["p_value"] == names["p_rsa"]
    assert dask_svcca.discoveries(found, measure=name)[0, 0].item() is False


@pytest.mark.parametrize("name", RSA)
@pytest.mark.parametrize("examples", [4, 5, 6, 7])
def test_null__of_rsa_is_skewed_as_it_is_over_all_orders(name: str, examples: int) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.standard_t(3, size=(2, examples, 4))
    found = compared(x, y, measures=name, precision="float64")
    vectors = [pdist(each, "euclidean" if "distance=euclidean" in name else "correlation") for each in (x, y)]
    if "spearman" in name:
        vectors = [scipy.stats.rankdata(each) for each in vectors]
    a, b = (squareform(each - each.mean()) for each in vectors)
    scores = [np.vdot(a, b[np.ix_(order, order)]) for order in map(list, permutations(range(examples)))]
    skewness = float(found[name.replace("rsa", "null_rsa_skewness")][0, 1])
    assert skewness == pytest.approx(scipy.stats.skew(scores), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", RSA)
def test_null__of_rsa_is_as_skewed_by_samples_of_the_examples(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On average: what one sample is off by falls with its size."""
    rng = np.random.default_rng(5)
    x, y = (np.abs(rng.normal(size=(120, 3))) @ rng.normal(size=(3, 5)) for _ in range(2))
    (measure,) = find_measures(name.replace("rsa", "null_rsa_skewness"))
    assert measure.related is not None
    relation = measure.related.relation
    assert isinstance(relation, Distances)

    def skewness() -> float:
        kernel.example_pairs.cache_clear()
        own = [np.array(found(layer, relation).own)[:, np.newaxis, np.newaxis] for layer in (x, y)]
        return float(measure.related.value(RelatedSums(np.zeros((1, 1, 6)), *own, 120, of_examples=True))[0, 0])

    whole = skewness()
    monkeypatch.setattr(kernel, "MOST_AMONG", 60)
    monkeypatch.setattr(kernel, "MOST_PAIRS", 4_000)
    some = []
    for seed in range(100):
        monkeypatch.setattr(kernel, "SEED", seed)
        some.append(skewness())
    kernel.example_pairs.cache_clear()
    assert whole > 0.1
    assert np.mean(some) == pytest.approx(whole, abs=4 * np.std(some) / 10)


@pytest.mark.parametrize("examples", [8, 11])
def test_rsa__of_examples_that_are_all_as_far_apart_is_not_defined(examples: int) -> None:
    x, y = 0.7 * np.eye(examples), layers(examples)[0]
    found = compared(x, y, measures=(*RSA, "rsm_norm_difference"))
    for name in RSA:
        for one in ("rsa", "rsa_error", "null_rsa_sd", "null_rsa_skewness", "p_rsa"):
            assert found[name.replace("rsa", one)][0].isnull().all(), (name, one)
        assert float(found[name][1, 1]) == pytest.approx(1), name
    assert found.rsm_norm_difference.notnull().all()


@pytest.mark.parametrize("samples", [5, 7])
def test_p_value__of_few_examples_is_that_of_one_order_at_least(samples: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(samples, 3)), rng.normal(size=(samples, 2)) ** 3
    found = compared(x, y, measures="rsa, distance_correlation, r2_cca, svcca, cka, mutual_knn(k=2)")
    least = {name: float(found[name].min()) * math.factorial(samples) for name in found.data_vars if name[:2] == "p_"}
    assert min(least.values()) == pytest.approx(1)
    # Distributions that were fitted have less, here and for a layer with itself.
    assert [least[name] for name in ("p_distance_correlation", "p_r2_cca")] == pytest.approx([1] * 2)
    assert least["p_rsa"] > 1 - 1e-9
    assert least["p_svcca"] == pytest.approx(1, abs=0.02)


def test_p_rsa__knows_of_the_sample_of_pairs(few_pairs: None) -> None:
    x, y = layers(40, 4, 4)
    found = compared(x, y, measures="rsa")
    score, deviation, skewness, error = (
        float(found[one][0, 1]) for one in ("rsa", "null_rsa_sd", "null_rsa_skewness", "rsa_error")
    )
    assert error > 0
    spread = np.hypot(deviation, error)
    expected_p = scipy.stats.pearson3.sf(score / spread, max(skewness, 0) * (deviation / spread) ** 3)
    assert float(found.p_rsa[0, 1]) == pytest.approx(expected_p)


# --- samples of pairs ----------------------------------------------------------------------------------------------


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of more than 25 examples a sample of 300 pairs."""
    monkeypatch.setattr(kernel, "MOST_PAIRS", 300)
    example_pairs.cache_clear()
    yield
    example_pairs.cache_clear()


@pytest.mark.parametrize("examples", [26, 27, 60, 1000])
@pytest.mark.usefixtures("few_pairs")
def test_example_pairs__are_different_and_from_everywhere(examples: int) -> None:
    first, second, share = example_pairs(examples)
    assert len(first) == 300
    assert share == 300 / (examples * (examples - 1) / 2)
    assert ((first >= 0) & (first < second) & (second < examples)).all()
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 300
    places = squareform(np.arange(examples * (examples - 1) // 2))[first, second]
    total = examples * (examples - 1) / 2
    assert np.abs(places - (np.arange(300) + 0.5) * total / 300).max() <= total / 300 + 1


@pytest.mark.parametrize("name", [*RSA[1:3], "rsm_norm_difference", "distance_correlation"])
@pytest.mark.usefixtures("few_pairs")
def test_error__is_how_far_samples_are_from_the_whole(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    x, y = layers(60, 5, 7, seed=3)
    measure, error = find_measures([name, name.replace("rsa", "rsa_error") if "rsa" in name else f"{name}_error"])
    assert measure.related is not None
    assert error.related is not None
    relation = measure.related.relation
    assert isinstance(relation, Distances)
    values, errors, shared = [], [], []
    for seed in range(300):
        monkeypatch.setattr(kernel, "SEED", seed)
        example_pairs.cache_clear()
        kept = [found(layer, relation) for layer in (x, y)]
        pairs = compare_values(kept[0].values[np.newaxis], kept[1].values[np.newaxis], powers=True)
        own = [np.array(one.own)[:, np.newaxis, np.newaxis] for one in kept]
        sums = RelatedSums(pairs, own[0], own[1], 60, of_examples=True)
        values.append(float(measure.related.value(sums)[0, 0]))
        errors.append(float(error.related.value(sums)[0, 0]))
        shared.append(kept[0].own[8])
    whole = expected(name, x, y)
    spread = np.sqrt(np.mean(np.square(np.array(values) - whole)))
    assert np.mean(values) == pytest.approx(whole, abs=0.3 * spread)
    assert np.median(errors) == pytest.approx(spread, rel=0.25)
    if "rsa" in name:
        # What the spread over orders of the examples is made of.
        distances = pdist(x, relation.metric)
        each = squareform(scipy.stats.zscore(scipy.stats.rankdata(distances) if "spearman" in name else distances))
        assert np.mean(shared) == pytest.approx(np.sum(each.sum(axis=0) ** 2) - np.sum(each**2), rel=0.1)


def found(layer: np.ndarray, relation: Distances) -> kernel.Found:
    pairs = PairDistances(len(layer), relation.metric)
    if relation.metric == "correlation":
        layer = layer - layer.mean(axis=1, keepdims=True)
        layer /= np.linalg.norm(layer, axis=1, keepdims=True)
    pairs.know_lengths(np.square(layer).sum(axis=1), 0)
    pairs.add(layer @ layer.T, 0, 0)
    return pairs.found(relation.form)


@pytest.mark.usefixtures("few_pairs")
def test_distances__of_samples_of_pairs_have_errors() -> None:
    arrays = layers(60)
    found = compared(*arrays, measures=[*RSA, *OTHERS], precision="float64")
    for name in (*RSA, *OTHERS[:2]):
        error = found[name.replace("rsa", "rsa_error") if "rsa" in name else f"{name}_error"]
        values = np.array([[expected(name, x, y) for y in arrays] for x in arrays])
        assert (error.to_numpy()[~np.eye(3, dtype=bool)] > 0).all()
        assert (np.abs(found[name] - values) < 4 * error + 1e-9).all()
    # Of all pairs, whatever is kept.
    values = [[expected(OTHERS[2], x, y) for y in arrays] for x in arrays]
    np.testing.assert_allclose(found[OTHERS[2]], values, atol=1e-10)


# --- what cannot be ------------------------------------------------------------------------------------------------


def test_rsa__by_correlation_of_one_neuron_is_refused() -> None:
    arrays = layers()
    arrays[1] = arrays[1][:, :1]
    with pytest.warns(FailedRepresentationWarning, match="has one neuron, and samples correlate over neurons"):
        found = compared(*arrays, measures=["rsa", RSA[2]])
    assert np.isnan(found.rsa[1]).all()
    assert np.isfinite(found[RSA[2]]).all()


def test_rsa__by_correlation_of_a_constant_example_is_refused() -> None:
    arrays = layers()
    arrays[1][17] = 0.1
    with pytest.warns(FailedRepresentationWarning, match="the same in all neurons, at index 17: .* distance=euclidean"):
        compared(*arrays, measures="rsa")
    with pytest.warns(FailedRepresentationWarning, match="at index 17"):
        found = compared(*arrays, measures=["rsa", RSA[2]])
    assert np.isnan(found.rsa[1]).all()
    assert np.isfinite(found[RSA[2]]).all()
    assert "the same in all neurons" in str(found.problem_a[1].values)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rsa(distance=cosine)", "rsa takes distance=correlation|euclidean, compare=pearson|spearman"),
        ("rsa(compare=spearmen)", "Did you mean 'spearman'"),
        ("rsa(metric=euclidean)", "has 'metric'"),
        ("rsa(3)", "has '3'"),
        ("distance_correlation(k=3)", "no measure"),
    ],
)
def test_rsa__words_that_are_none_are_refused(name: str, said: str) -> None:
    with pytest.raises(UnknownMeasureError) as error:
        find_measures(name)
    assert said in str(error.value)


def test_distances__too_few_examples_are_refused() -> None:
    with pytest.raises(InvalidActivationsError, match=r"rsm_norm_difference .* at least 4 examples; there are 3"):
        compared(*layers(3), measures="rsm_norm_difference")


# --- memory --------------------------------------------------------------------------------------------------------


def test_distances__take_no_more_memory_than_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo_module, "CHUNK_BYTES", 2**20)
    zoo = make_zoo(tmp_path / "zoo.zarr", np.random.default_rng(0).normal(size=(3, 2000, 100)).astype("float32"))
    with_memory(monkeypatch, 2000 * 2**20)
    graph = graph_of(zoo, tmp_path / "c", measures=("rsa(compare=spearman)", "distance_correlation"))
    tasks = [*tasks_of(graph, "subspaces"), *tasks_of(graph, "tile")]
    for work in tasks:
        _, peak = peak_memory(work)
        assert peak <= (work[1].memory if hasattr(work[1], "members") else work[1].memory.peak)
    with dask.config.set(scheduler="synchronous"):
        found = dask_svcca.compare(zoo, MemoryStore(), measures="rsa").load()
    assert float(found.rsa_error[0, 1]) == pytest.approx(2**-9.5, rel=0.3)
