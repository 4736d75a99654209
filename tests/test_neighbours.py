"""Measures of shared nearest neighbours, against their definitions on whole matrices of examples x examples."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from comparisons import graph_of, peak_memory, tasks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import compared, images, related
from measured import make_zoo as zoo_of
from scipy.spatial.distance import cdist, cosine
from zarr.storage import MemoryStore
from zoos import make_zoo, with_memory

import dask_svcca
from dask_svcca.errors import FailedRepresentationWarning, InvalidActivationsError, UnknownMeasureError
from dask_svcca.kernels import cosines as cosine_kernel
from dask_svcca.kernels import neighbours as kernel
from dask_svcca.kernels.chosen import seeded_examples
from dask_svcca.kernels.neighbours import Nearest, chance_of_shared, count_shared
from dask_svcca.measures import Cosines, Distances, Neighbours
from dask_svcca.plan.stored import from_json, to_json
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.tasks import relations as task
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

NAMES = ("mutual_knn", "jaccard")
pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")


def nearest(x: np.ndarray, k: int) -> list[set[int]]:
    """Neighbours from the whole matrix of cosines, as the published code has it."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = np.round(unit @ unit.T, 12)
    np.fill_diagonal(cosines, -np.inf)
    return [set(np.argsort(-row, kind="stable")[:k].tolist()) for row in cosines]


def mutual_knn(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """As the Platonic code: masks of neighbours, multiplied, over k, mean over examples."""
    masks = np.zeros((2, len(x), len(x)))
    for mask, layer in zip(masks, (x, y), strict=True):
        for i, found in enumerate(nearest(layer, k)):
            mask[i, list(found)] = 1
    return float(((masks[0] * masks[1]).sum(axis=1) / k).mean())


def jaccard(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """As ReSi: intersection over union, mean over examples."""
    both = zip(nearest(x, k), nearest(y, k), strict=True)
    return float(np.mean([len(a & b) / len(a | b) for a, b in both]))


def second_order_cosine(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """As ReSi, of each example: cosine of the distances to all that are near in either, by `scipy`."""
    both = zip(nearest(x, k), nearest(y, k), strict=True)
    distances = [cdist(layer, layer, "cosine") for layer in (x, y)]
    unions = [sorted(a | b) for a, b in both]
    return np.array([1 - cosine(*(side[i, union] for side in distances)) for i, union in enumerate(unions)])


def layers(samples: int = 60, *widths: int, seed: int = 0) -> list[np.ndarray]:
    return related(samples, *(widths or (6, 4, 9)), seed=seed)


def run(*arrays: np.ndarray, measures: Any = NAMES, **options: Any) -> xr.Dataset:
    return compared(*arrays, measures=measures, **options)


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_neighbours__equal_their_definitions(dtype: str) -> None:
    arrays, numbers = [layer.astype(dtype) for layer in layers()], (1, 3, 11)
    found = run(*arrays, measures=[f"{name}(k={k})" for name in NAMES for k in numbers])
    exact = [layer.astype(float) for layer in arrays]
    for name, formula in zip(NAMES, (mutual_knn, jaccard), strict=True):
        for k in numbers:
            expected = [[formula(x, y, k) for y in exact] for x in exact]
            np.testing.assert_allclose(found[f"{name}(k={k})"], expected, rtol=0, atol=1e-12)


def test_neighbours__without_a_number_are_ten() -> None:
    arrays = layers()
    found = run(*arrays, measures=["mutual_knn", "mutual_knn(k=10)", "mutual_knn(k=9)"])
    assert "mutual_knn(k=10)" not in found
    assert found["mutual_knn"].attrs["null"] == "null_mutual_knn"
    assert found["mutual_knn(k=9)"].attrs["calibrated"] == "calibrated_mutual_knn(k=9)"


def test_neighbours__by_hand() -> None:
    """Four directions in the plane, 0, 10, 20 and 80 degrees; and the same with the last two turned: 0, 10, 80, 20."""
    x, y = (np.exp(1j * np.radians(angles)) for angles in ((0, 10, 20, 80), (0, 10, 80, 20)))
    found = run(*(np.stack([one.real, one.imag], axis=1) for one in (x, y)), measures="mutual_knn(k=1)")
    # Nearest of each: 1; 0, which ties with 2; 1; 2. Of the others: 1; 0, which ties with 3; 3; 1.
    assert float(found["mutual_knn(k=1)"][0, 1]) == 0.5


def test_neighbours__is_of_whole_layers_under_each_reading() -> None:
    maps = images((4, 4, 3), (2, 2, 5), examples=30)
    flat = [layer.reshape(30, -1) for layer in maps]
    means = [layer.mean(axis=(1, 2)) for layer in maps]
    for conv, arrays in (("dft", flat), ("flatten", flat), ("mean", means)):
        found = run(*maps, measures="jaccard(k=4)", conv=conv)
        assert float(found["jaccard(k=4)"][0, 1]) == pytest.approx(jaccard(*arrays, k=4), abs=1e-12)


def test_neighbours__of_layers_that_meet_at_one_frequency_are_of_all() -> None:
    (conv,), (dense,) = images((4, 4, 3), examples=30), layers(30, 5)
    found = run(conv, dense, measures=("mutual_knn(k=4)", "svcca"))
    assert float(found["mutual_knn(k=4)"][0, 1]) == pytest.approx(mutual_knn(conv.reshape(30, -1), dense, 4), abs=1e-12)


def test_neighbours__where_samples_are_positions_have_no_spread() -> None:
    found = run(*images((3, 3, 4), (3, 3, 5), examples=8), measures="mutual_knn(k=2)", conv="positions")
    assert np.isnan(found["null_mutual_knn_sd(k=2)"]).all()
    assert np.isfinite(found["mutual_knn(k=2)"]).all()


# --- ties, and what rounding could do ------------------------------------------------------------------------------


def exactly_nearest(x: np.ndarray, k: int) -> list[list[int]]:
    """In whole numbers: squared cosines with their signs, as fractions."""
    rows = [[int(value) for value in row] for row in x]

    def closeness(a: list[int], b: list[int]) -> Fraction:
        product = sum(p * q for p, q in zip(a, b, strict=True))
        return Fraction(product * abs(product), sum(p * p for p in a) * sum(q * q for q in b))

    return [
        sorted((j for j in range(len(rows)) if j != i), key=lambda j: (-closeness(rows[i], rows[j]), j))[:k]
        for i in range(len(rows))
    ]


@given(seed=st.integers(0, 2**32 - 1), block=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_nearest__of_ties_the_first_whatever_the_blocks(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, 2, size=(25, 4))
    x[(x == 0).all(axis=1), 0] = 1
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = Nearest(25, 5)
    starts = [(row, column) for row in range(0, 25, block) for column in range(0, 25, block)]
    for row, column in rng.permutation(starts):
        found.add(unit[row : row + block] @ unit[column : column + block].T, row, column)
    assert found.indices.tolist() == exactly_nearest(x, 5)


def test_neighbours__copies_of_examples_in_any_chunks_are_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 33))[rng.integers(0, 7, size=90)]
    monkeypatch.setattr(task, "SAMPLES_AT_ONCE", 7)
    found = run(x, rng.normal(size=(90, 4)), measures="jaccard(k=3)")
    monkeypatch.undo()
    again = run(x, rng.normal(size=(90, 4)), measures="jaccard(k=3)")
    assert float(found["jaccard(k=3)"][0, 0]) == float(again["jaccard(k=3)"][0, 0]) == 1


# --- properties ----------------------------------------------------------------------------------------------------


def test_neighbours__ignore_rotation_and_scale() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, 5))
    turned = [x @ np.linalg.qr(rng.normal(size=(5, 5)))[0] * scale for scale in (1e-100, 1, 1e100)]
    found = run(x, *turned, y)
    for name in NAMES:
        np.testing.assert_array_equal(found[name][:4, :4], 1)
        np.testing.assert_array_equal(found[name], found[name].T)
        assert float(found[name][4, 4]) == 1
        assert (found[name][4, :4] == found[name][4, 0]).all()


def test_neighbours__see_the_mean() -> None:
    """They are of the activations as they are, not centred."""
    x = layers()[0]
    assert float(run(x, x + 100, measures="mutual_knn")["mutual_knn"][0, 1]) < 0.9


@pytest.mark.parametrize("at_once", [7, 60])
def test_count_shared__in_pieces(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(kernel, "EXAMPLES_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    a, b = (np.argsort(rng.random((n, 60, 60)), axis=2)[..., :7] for n in (3, 4))
    wanted = rng.random((3, 4)) < 0.7
    shared = np.zeros((3, 4, 8), dtype=np.int64)
    count_shared(shared, a.transpose(0, 2, 1), b.transpose(0, 2, 1), wanted)
    for i, j in np.ndindex(3, 4):
        counts = [len(set(p) & set(q)) for p, q in zip(a[i].tolist(), b[j].tolist(), strict=True)]
        np.testing.assert_array_equal(shared[i, j], np.bincount(counts, minlength=8) * wanted[i, j])


# --- chance --------------------------------------------------------------------------------------------------------


def test_chance_of_shared__is_that_of_draws_without_putting_back() -> None:
    k, others = 4, 11
    expected = [math.comb(k, c) * math.comb(others - k, k - c) / math.comb(others, k) for c in range(k + 1)]
    np.testing.assert_allclose(chance_of_shared(k, others + 1), expected, rtol=1e-12)
    # Sets that must overlap.
    np.testing.assert_allclose(chance_of_shared(4, 7)[:2], 0)


@pytest.mark.parametrize("kind", ["gaussian", "hubs", "one line"])
def test_null__is_the_mean_over_orders_of_the_examples(kind: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 3))
    if kind == "hubs":
        x, y = (layer + 3 * np.abs(layer[:, :1]) for layer in (x, y))
    if kind == "one line":
        x = np.stack([np.ones(30), rng.normal(size=30)], axis=1)
    scores: dict[str, list[float]] = {name: [] for name in NAMES}
    neighbours = [nearest(layer, 4) for layer in (x, y)]
    for _ in range(2000):
        order = rng.permutation(30)
        back = np.argsort(order)
        turned = [{int(back[j]) for j in neighbours[1][order[i]]} for i in range(30)]
        overlaps = np.array([len(p & q) for p, q in zip(neighbours[0], turned, strict=True)])
        scores["mutual_knn"].append(float((overlaps / 4).mean()))
        scores["jaccard"].append(float((overlaps / (8 - overlaps)).mean()))
    found = run(x, y, measures=[f"{name}(k=4)" for name in NAMES])
    for name, values in scores.items():
        error = 4 * np.std(values) / math.sqrt(len(values))
        assert float(found[f"null_{name}(k=4)"][0, 1]) == pytest.approx(np.mean(values), abs=error)
    assert float(found["null_mutual_knn(k=4)"][0, 1]) == pytest.approx(4 / 29, rel=1e-12)
    assert float(found["null_mutual_knn_sd(k=4)"][0, 1]) == pytest.approx(np.std(scores["mutual_knn"]), rel=0.06)
    score = float(found["mutual_knn(k=4)"][0, 1])
    as_much = np.mean([value >= score - 1e-12 for value in scores["mutual_knn"]])
    assert float(found["p_mutual_knn(k=4)"][0, 1]) == pytest.approx(as_much, abs=0.12)


def test_calibrated__is_what_is_above_chance() -> None:
    found = run(*layers())
    for name in NAMES:
        expected = (found[name] - found[f"null_{name}"]) / (1 - found[f"null_{name}"])
        np.testing.assert_allclose(found[f"calibrated_{name}"], expected, atol=1e-15)


# --- second order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-7)])
def test_second_order_cosine__equals_its_definition(precision: str, tolerance: float) -> None:
    arrays, numbers = layers(), (1, 3, 11)
    found = run(*arrays, measures=[f"second_order_cosine(k={k})" for k in numbers], precision=precision)
    for k in numbers:
        expected = [[second_order_cosine(x, y, k).mean() for y in arrays] for x in arrays]
        np.testing.assert_allclose(found[f"second_order_cosine(k={k})"], expected, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(found[f"second_order_cosine_error(k={k})"], 0)


def test_second_order_cosine__of_more_examples_is_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine_kernel, "MOST_NUMBERS", 60 * 40)
    monkeypatch.setattr(task, "SAMPLES_AT_ONCE", 7)
    arrays = layers()
    found = run(*arrays, measures="second_order_cosine(k=5)", precision="float64")
    chosen = seeded_examples(60, 40, cosine_kernel.SEED)
    assert len(set(chosen.tolist())) == len(chosen) == 40
    for i, j in np.ndindex(3, 3):
        each = second_order_cosine(arrays[i], arrays[j], 5)
        assert float(found["second_order_cosine(k=5)"][i, j]) == pytest.approx(each[chosen].mean(), abs=1e-12)
        error = np.std(each[chosen], ddof=1) / np.sqrt(40) * np.sqrt(1 - 40 / 60)
        assert float(found["second_order_cosine_error(k=5)"][i, j]) == pytest.approx(error, abs=1e-7)


def test_second_order_cosine__of_copies_has_nothing_to_compare() -> None:
    """All that is near to an example are copies of it, in both layers or in one."""
    rng = np.random.default_rng(0)
    x, y = np.repeat(rng.normal(size=(6, 5)), 4, axis=0), rng.normal(size=(24, 5))
    found = run(x, 2 * x, y, measures="second_order_cosine(k=3)")["second_order_cosine(k=3)"]
    np.testing.assert_array_equal(found[:2, :2], 1)
    assert 0 < float(found[0, 2]) < 1


@pytest.mark.parametrize("kind", ["gaussian", "hubs", "heavy tails", "clusters", "copies"])
@pytest.mark.parametrize(("examples", "k", "tolerance"), [(6, 1, 1e-9), (6, 2, 1e-3), (6, 3, 1e-9), (40, 4, None)])
def test_second_order_cosine__by_chance_is_the_mean_over_orders(
    monkeypatch: pytest.MonkeyPatch, kind: str, examples: int, k: int, tolerance: float | None
) -> None:
    """Of few examples over all orders of them, of more over some."""
    # Neighbours are permuted as they were found, so that ties do no harm here.
    monkeypatch.setattr("dask_svcca.measures.neighbours.TIED", 1.0)
    rng = np.random.default_rng(3)
    x, y = rng.standard_t(2, size=(2, examples, 4)) if kind == "heavy tails" else rng.normal(size=(2, examples, 4))
    if kind == "hubs":
        x, y = (layer + 3 * np.abs(layer[:, :1]) for layer in (x, y))
    if kind == "clusters":
        x, y = (3 * layer[:3][rng.integers(0, 3, size=examples)] + 0.3 * layer for layer in (x, y))
    if kind == "copies":
        # All that is near to some examples are copies of them, in both layers.
        x[: k + 1], y[: k + 1] = x[0], y[0]
    sides = []
    for layer in (x, y):
        unit = layer / np.linalg.norm(layer, axis=1, keepdims=True)
        distances = np.where(1 - unit @ unit.T < 1e-12, 0.0, 1 - unit @ unit.T)
        sides.append((distances, nearest(layer, k)))
    every = permutations(range(examples)) if examples < 10 else (rng.permutation(examples) for _ in range(1000))
    scores = []
    masks = []
    for _, neighbours in sides:
        mask = np.zeros((examples, examples), dtype=bool)
        for i, found in enumerate(neighbours):
            mask[i, list(found)] = True
        masks.append(mask)
    for order in map(list, every):
        turned = np.ix_(order, order)
        near = masks[0] | masks[1][turned]
        a, b = sides[0][0] * near, sides[1][0][turned] * near
        sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        alike = (a == b).all(axis=1)
        scores.append(np.where(sizes > 0, (a * b).sum(axis=1) / np.where(sizes > 0, sizes, 1), alike).mean())
    name = f"second_order_cosine(k={k})"
    result = run(x, y, measures=name, precision="float64")
    null = float(result[f"null_{name}"][0, 1])
    assert null == pytest.approx(np.mean(scores), abs=tolerance or 4 * np.std(scores) / np.sqrt(len(scores)))
    expected = (float(result[name][0, 1]) - null) / (1 - null)
    assert float(result[f"calibrated_{name}"][0, 1]) == pytest.approx(expected)
    assert result[name].attrs["null"] == f"null_{name}"


def test_second_order_cosine__has_no_chance_level_where_the_order_of_the_zoo_decides() -> None:
    rng = np.random.default_rng(0)
    x, y = (np.repeat(rng.normal(size=(6, 5)), 5, axis=0) for _ in range(2))
    found = run(x, y, rng.normal(size=(30, 5)), measures="second_order_cosine(k=3)")
    null = found["null_second_order_cosine(k=3)"].to_numpy()
    assert np.isnan(null[0, 1])
    assert np.isfinite(null[:2, 2]).all()


# --- beside other measures, and again ------------------------------------------------------------------------------


def test_neighbours__alone_make_no_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("nobody asked for directions")

    monkeypatch.setattr("dask_svcca.tasks.subspace._make_subspace", refused)
    found = run(*layers())
    assert (found.rank_a == 0).all()
    assert found.neurons_a.to_numpy().tolist() == [6, 4, 9]
    assert (found.samples_a == 60).all()
    assert (found.pair_status == PairStatus.DONE).all()


def test_neighbours__added_later_read_only_what_they_need() -> None:
    zoo, store = zoo_of(layers()), MemoryStore()
    with dask.config.set(scheduler="synchronous"):
        before = dask_svcca.compare(zoo, store, measures="svcca").load()
        after = dask_svcca.compare(zoo, store, measures="jaccard").load()
        plan = dask_svcca.plan_comparison(zoo, store, measures="jaccard, svcca")
    np.testing.assert_array_equal(before.svcca, after.svcca)
    np.testing.assert_array_equal(before.pair_status, after.pair_status)
    np.testing.assert_allclose(after.jaccard, run(*layers(), measures="jaccard").jaccard)
    assert plan.subspaces == 0
    assert plan.pairs_done == plan.pairs


def test_neighbours__then_directions() -> None:
    zoo, store = zoo_of(layers()), MemoryStore()
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.compare(zoo, store, measures="jaccard")
        after = dask_svcca.compare(zoo, store, measures="cka").load()
    np.testing.assert_array_equal(after.cka, run(*layers(), measures="cka").cka)
    assert np.isfinite(after.jaccard).all()


def test_neighbours__of_a_zoo_that_grew_are_made_of_what_is_new() -> None:
    arrays, store = layers(), MemoryStore()
    zoo = zoo_of(arrays[:2])
    names = ["jaccard", "rsa", "second_order_cosine"]
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.compare(zoo, store, measures=names)
        zoo.write("net", "1", "02", arrays[2])
        plan = dask_svcca.plan_comparison(zoo, store, measures=names)
        found = dask_svcca.compare(zoo, store, measures=names).load()
    assert plan.subspaces == len(names)
    whole = run(*arrays, measures=names)
    for name in names:
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-12)


def test_neighbours__of_folded_layers_are_of_the_layers_themselves() -> None:
    maps = images((4, 4, 3), (2, 2, 5), examples=30)
    found = run(*maps, measures=["svcca", "jaccard(k=4)"], match="fold")
    expected = jaccard(*(layer.reshape(30, -1) for layer in maps), k=4)
    assert float(found["jaccard(k=4)"][0, 1]) == pytest.approx(expected, abs=1e-12)
    assert np.isfinite(found.svcca).all()


def test_relations__are_found_by_processes_that_have_only_the_store() -> None:
    for relation in (Neighbours(10), Cosines(5), Distances("euclidean", "ranks")):
        assert from_json(to_json(relation)) == relation


def test_all__leaves_them_out() -> None:
    assert not {"mutual_knn", "jaccard"} & set(run(*layers(), measures="all"))


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [2, 8, 11])
def test_neighbours__too_few_examples_are_refused_before_anything_runs(samples: int) -> None:
    x = np.random.default_rng(0).normal(size=(samples, 3))
    with pytest.raises(InvalidActivationsError, match=f"mutual_knn compares the 10 nearest .* of {samples} examples"):
        run(x, measures="mutual_knn")


@pytest.mark.parametrize("name", ["mutual_knn(k=0)", "jaccard(k=2.5)", "jaccard(k=-1)", "mutual_knn(k=inf)"])
def test_neighbours__a_number_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UnknownMeasureError, match="k"):
        run(*layers(), measures=name)


def test_neighbours__of_an_example_that_is_zero_are_refused() -> None:
    arrays = layers()
    arrays[1][17] = 0
    with pytest.warns(FailedRepresentationWarning, match="1 of 3 .*01' has a sample that is zero .* at index 17"):
        found = run(*arrays)
    assert found.pair_status[0].to_numpy().tolist() == [PairStatus.DONE, PairStatus.FAILED, PairStatus.DONE]


def test_neighbours__of_an_example_that_is_zero_leave_other_measures() -> None:
    arrays = layers()
    arrays[1][17] = 0
    zoo, store = zoo_of(arrays), MemoryStore()
    with dask.config.set(scheduler="synchronous"):
        for _ in range(2):
            with pytest.warns(FailedRepresentationWarning, match="by all measures, and their pairs are NaN in those"):
                found = dask_svcca.compare(zoo, store, measures="svcca, jaccard").load()
    assert np.isfinite(found.svcca).all()
    assert np.isnan(found.jaccard[1]).all()
    assert np.isfinite(found.jaccard[0, 2])
    assert "zero in all neurons" in str(found.problem_a[1].values)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_neighbours__of_what_is_not_finite_are_refused(bad: float) -> None:
    arrays = layers()
    arrays[1][3, 2] = bad
    with pytest.warns(FailedRepresentationWarning, match="NaN or infinite"):
        found = run(*arrays)
    assert (found.pair_status[1] == PairStatus.FAILED).all()


def test_neighbours__of_a_constant_layer_are_refused() -> None:
    arrays = layers()
    arrays[1][...] = 7
    with pytest.warns(FailedRepresentationWarning, match="is constant"):
        run(*arrays)


def test_canonical_directions__of_neighbours_are_none() -> None:
    zoo, store = zoo_of(layers()), MemoryStore()
    with dask.config.set(scheduler="synchronous"):
        result = dask_svcca.compare(zoo, store, measures="svcca")
    labels = [(str(result.representation_a[0].values), str(result.representation_a[1].values))]
    with pytest.raises(UnknownMeasureError, match="'jaccard' is about examples among one another"):
        dask_svcca.jackknife(result, labels, measures="jaccard")


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mebibytes", [pytest.param(2000, marks=pytest.mark.slow), 80])
def test_neighbours__take_no_more_memory_than_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mebibytes: int
) -> None:
    """With little of it samples are not held, but read again for each block that others are compared with."""
    monkeypatch.setattr(zoo_module, "CHUNK_BYTES", 2**20)
    arrays = np.random.default_rng(0).normal(size=(3, 3000, 600)).astype("float32")
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    del arrays
    with_memory(monkeypatch, mebibytes * 2**20)
    graph = graph_of(zoo, tmp_path / "c", measures=("mutual_knn", "second_order_cosine"))
    tasks = [*tasks_of(graph, "subspaces"), *tasks_of(graph, "tile")]
    for work in tasks:
        _, peak = peak_memory(work)
        promised = work[1].memory if hasattr(work[1], "members") else work[1].memory.peak
        assert peak <= promised <= mebibytes * 2**20
    assert len(tasks) == 7
