"""Permutation nulls and jackknives from stored scores, against comparisons of shuffled and of fewer examples."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.analysis import significance
from dask_svcca.errors import (
    IncompatibleError,
    InvalidActivationsError,
    RepresentationNotFoundError,
    UnknownMeasureError,
)
from dask_svcca.measures import find_measures
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.ReadingWarning"),
]

N = 40
AXES = {2: None, 3: ("example", "token", "neuron"), 4: ("example", "height", "width", "channel")}
ALL = [measure.name for measure in find_measures("all")]
PAIR = [("net/1/0", "net/1/1")]


def related(*shapes: tuple[int, ...], samples: int = N, seed: int = 0) -> list[np.ndarray]:
    """Layers with signals in common, of these shapes behind the examples; smaller images are strided."""
    rng = np.random.default_rng(seed)
    largest = max(shapes, key=len)[:-1]
    common = rng.normal(size=(samples, *largest, 3)) + 0.5 * rng.normal(size=(samples, *[1] * len(largest), 3))
    found = []
    for *grid, channels in shapes:
        if grid:
            seen = common[(slice(None), *(slice(None, None, n // m) for n, m in zip(largest, grid, strict=True)))]
        else:
            seen = common.reshape(samples, -1, 3).mean(axis=1)
        found.append(seen @ rng.normal(size=(3, channels)) + 0.5 * rng.normal(size=(*seen.shape[:-1], channels)) + 1)
    return found


def compared(
    layers: Sequence[np.ndarray], store: Any = None, measures: Any = ALL, **options: Any
) -> tuple[Any, xr.Dataset]:
    """A comparison, and where it is."""
    store = MemoryStore() if store is None else store
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(len(layers[0])))
    with zoo:
        for index, layer in enumerate(layers):
            zoo.write("net", "1", str(index), layer, dims=AXES[layer.ndim])
    options = {"precision": "float64", **options}
    with dask.config.set(scheduler="synchronous"):
        return store, dask_svcca.compare(zoo, store, measures=measures, **options).load()


def value(result: xr.Dataset, name: str, pair: tuple[str, str] = PAIR[0]) -> float:
    return float(result[name].sel(representation_a=pair[0], representation_b=pair[1]))


KINDS: dict[str, tuple[list[np.ndarray], dict[str, Any]]] = {
    "dense": (related((7,), (5,)), {"variance": 0.8}),
    "more neurons than samples": (related((60,), (5,)), {"variance": 0.9}),
    "convolutional": (related((4, 4, 3), (4, 4, 2)), {"variance": 0.8}),
    "cropped": (related((8, 4, 2), (4, 4, 2)), {"variance": 0.95}),
    "folded": (related((4, 4, 2), (2, 2, 3)), {"variance": 0.9, "match": "fold"}),
    "dense and convolutional": (related((4, 4, 3), (4,)), {"variance": 0.9}),
    "tokens": (related((3, 4), (3, 2)), {"variance": 0.9, "sequence": "positions"}),
}


# Shuffled examples.


@pytest.fixture(
    scope="module",
    params=[
        *("dense", "more neurons than samples", "convolutional", "folded"),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cropped", "dense and convolutional", "tokens")),
    ],
)
def kind(request: pytest.FixtureRequest) -> tuple[list[np.ndarray], dict[str, Any], Any, xr.Dataset]:
    """Two layers, how they are compared, where, and what comes of it."""
    layers, options = KINDS[request.param]
    return layers, options, *compared(layers, **options)


def test_permutation_null__is_what_shuffled_examples_score(kind: Any) -> None:
    (x, y), options, store, whole = kind
    found = dask_svcca.permutation_null(store, PAIR, permutations=1, measures=ALL, seed=3)
    _, shuffled = compared([x, y[np.random.default_rng(3).permutation(N)]], **options)
    for name in ALL:
        np.testing.assert_allclose(found[name], [value(whole, name)], rtol=0, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(found[f"{name}_null"], [[value(shuffled, name)]], rtol=0, atol=1e-9, err_msg=name)


def test_permutation_null__finds_what_is_not_chance() -> None:
    layers = [*related((4,), (5,), (3,)), np.random.default_rng(1).normal(size=(N, 4))]
    store, whole = compared(layers)
    pairs = [("net/1/0", "net/1/1"), ("net/1/0", "net/1/3"), ("net/1/2", "net/1/0")]
    found = dask_svcca.permutation_null(store, pairs, permutations=99, measures=ALL)
    assert found.sizes == {"pair": 3, "permutation": 99}
    assert list(zip(found.representation_a.to_numpy(), found.representation_b.to_numpy(), strict=True)) == pairs
    for name in ALL:
        p, corrected = found[f"{name}_p"].to_numpy(), found[f"{name}_p_corrected"].to_numpy()
        np.testing.assert_allclose(p[[0, 2]], 0.01, err_msg=name)
        np.testing.assert_allclose(corrected[[0, 2]], 0.01, err_msg=name)
        assert corrected[1] > 0.05
        assert (corrected >= p).all()
    null = found[["svcca_null", "cka_null"]].mean("permutation")
    np.testing.assert_allclose(null.svcca_null[0], value(whole, "null_svcca"), rtol=0.15)
    np.testing.assert_allclose(null.cka_null[0], value(whole, "null_cka"), rtol=0.15)


def test_p_values__chance_is_rarely_the_most_similar_of_many() -> None:
    # Of layers of unequal width, some of which chance gives more, in orders that are all alike.
    rng = np.random.default_rng(0)
    level, spread = np.linspace(0.1, 0.8, 7)[:, np.newaxis], np.linspace(0.1, 0.01, 7)[:, np.newaxis]
    smallest = np.array(
        [[p.min() for p in significance._p_values(level + spread * rng.normal(size=(7, 20)))] for _ in range(1000)]
    )
    alone, corrected = (smallest <= 0.1).mean(axis=0)
    assert alone > 0.4
    assert corrected == pytest.approx(0.1, abs=3 * np.sqrt(0.1 * 0.9 / 1000))


def test_permutation_null__p_values_are_counts() -> None:
    layers = related((3,), (4,), (5,), samples=16, seed=5)
    store, _ = compared([*layers, np.random.default_rng(2).normal(size=(16, 3))], measures=("cka", "gulp"))
    pairs = [("net/1/0", f"net/1/{index}") for index in (1, 2, 3)]
    found = dask_svcca.permutation_null(store, pairs, permutations=50, measures=("cka", "gulp"))
    for name, sign in (("cka", 1), ("gulp", -1)):
        every = sign * np.hstack([found[name].to_numpy()[:, np.newaxis], found[f"{name}_null"]])
        scaled = (every - every.mean(axis=1, keepdims=True)) / every.std(axis=1, keepdims=True)
        for pair in range(3):
            alone = sum(every[pair, order] >= every[pair, 0] for order in range(51)) / 51
            among = sum(max(scaled[:, order]) >= scaled[pair, 0] for order in range(51)) / 51
            assert float(found[f"{name}_p"][pair]) == pytest.approx(alone)
            assert float(found[f"{name}_p_corrected"][pair]) == pytest.approx(among)


def test_permutation_null__the_seed_decides_and_the_pairs_do_not() -> None:
    store, _ = compared(related((3,), (4,), (5,)), measures="svcca")
    pairs = [("net/1/0", "net/1/1"), ("net/1/1", "net/1/2")]
    both = dask_svcca.permutation_null(store, pairs, permutations=5, seed=1)
    alone = dask_svcca.permutation_null(store, pairs[1:], permutations=5, seed=1)
    np.testing.assert_array_equal(both.svcca_null[1], alone.svcca_null[0])
    other = dask_svcca.permutation_null(store, pairs[1:], permutations=5, seed=2)
    assert (other.svcca_null != alone.svcca_null).all()


def test_permutation_null__in_small_stacks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = compared(related((4, 4, 2), (4, 4, 3)), measures="svcca")
    whole = dask_svcca.permutation_null(store, PAIR, permutations=7)
    monkeypatch.setattr(significance, "STACK_BYTES", 1)
    np.testing.assert_allclose(
        dask_svcca.permutation_null(store, PAIR, permutations=7).svcca_null, whole.svcca_null, atol=1e-12
    )


def test_permutation_null__of_a_saturated_pair_is_no_evidence() -> None:
    rng = np.random.default_rng(4)
    store, whole = compared([rng.normal(size=(10, 20)), rng.normal(size=(10, 3))], precision="float32")
    assert whole.pair_status[0, 1] == PairStatus.SATURATED
    found = dask_svcca.permutation_null(store, PAIR, permutations=30, measures=("svcca", "cka"))
    assert found.svcca_p.item() == found.svcca_p_corrected.item() == 1
    assert found.cka_p.item() > 0.05


def test_permutation_null__without_a_value_there_is_no_p_value() -> None:
    store, _ = compared([np.eye(N), *related((3,), (4,))])
    pairs = [("net/1/0", "net/1/1"), ("net/1/1", "net/1/2")]
    found = dask_svcca.permutation_null(store, pairs, permutations=19, measures="cka_debiased")
    np.testing.assert_array_equal(found.cka_debiased_p.isnull(), [True, False])
    np.testing.assert_array_equal(found.cka_debiased_p_corrected, [np.nan, 0.05])


# Without some of the examples.


def without(layers: Sequence[np.ndarray], block: int, blocks: int, **options: Any) -> xr.Dataset:
    """A comparison of the examples that remain."""
    edges = np.linspace(0, N, blocks + 1).round().astype(int)
    remain = np.r_[0 : edges[block], edges[block + 1] : N]
    return compared([layer[remain] for layer in layers], **options)[1]


def test_jackknife__is_what_comparisons_of_the_other_examples_give(kind: Any) -> None:
    layers, options, store, whole = kind
    found = dask_svcca.jackknife(store, PAIR, blocks=2, measures=ALL)
    results = [without(layers, block, 2, **options) for block in range(2)]
    for name in ALL:
        expected = np.array([value(result, name) for result in results])
        np.testing.assert_allclose(found[name], [value(whole, name)], rtol=0, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(found[f"{name}_jackknife"][0], expected, rtol=0, atol=1e-7, err_msg=name)
        error = np.sqrt(1 / 2 * np.square(expected - expected.mean()).sum())
        np.testing.assert_allclose(found[f"{name}_stderr"], [error], rtol=0, atol=1e-7, err_msg=name)


def test_jackknife__of_scores_in_single_precision() -> None:
    layers, options = KINDS["convolutional"]
    store, _ = compared(layers, precision="float32", **options)
    found = dask_svcca.jackknife(store, PAIR, blocks=4, measures=ALL)
    results = [without(layers, block, 4, **options) for block in range(4)]
    for name in ALL:
        expected = [value(result, name) for result in results]
        np.testing.assert_allclose(found[f"{name}_jackknife"][0], expected, atol=3e-6, err_msg=name)


def test_jackknife__of_neurons_that_only_one_block_has() -> None:
    x, y = related((3,), (4,))
    x[10:, 2] = 0.5
    options: dict[str, Any] = {"variance": None}
    store, _ = compared([x, y], **options)
    found = dask_svcca.jackknife(store, PAIR, blocks=4, measures=ALL)
    results = [without([x, y], block, 4, **options) for block in range(4)]
    for name in ALL:
        expected = [value(result, name) for result in results]
        np.testing.assert_allclose(found[f"{name}_jackknife"][0], expected, rtol=0, atol=1e-7, err_msg=name)


def test_jackknife__is_the_standard_error() -> None:
    # Of one neuron against another, the correlation, whose standard error is known.
    rng = np.random.default_rng(6)
    common = rng.normal(size=(2000, 1))
    layers = [common + 0.5 * rng.normal(size=(2000, 1)) for _ in range(5)]
    store, _ = compared(layers, measures="svcca")
    pairs = [(f"net/1/{a}", f"net/1/{b}") for a in range(5) for b in range(a)]
    found = dask_svcca.jackknife(store, pairs, blocks=50)
    r = found.svcca.to_numpy()
    assert r == pytest.approx(0.8, abs=0.05)
    np.testing.assert_allclose(found.svcca_stderr.mean(), ((1 - r**2) / np.sqrt(2000)).mean(), rtol=0.2)


def test_significance__reads_no_activations(tmp_path: Path) -> None:
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(N))
    for index, layer in enumerate(related((3,), (4,))):
        zoo.write("net", "1", str(index), layer)
    dask_svcca.compare(zoo, tmp_path / "c.zarr")
    shutil.rmtree(tmp_path / "zoo.zarr")
    jackknifed = dask_svcca.jackknife(str(tmp_path / "c.zarr"), PAIR)
    null = dask_svcca.permutation_null(tmp_path / "c.zarr", PAIR, permutations=3)
    assert jackknifed.sizes["block"] == 20
    np.testing.assert_array_equal(jackknifed.svcca, null.svcca)
    assert jackknifed.attrs["blocks"] == 20
    assert (null.attrs["permutations"], null.attrs["seed"]) == (3, 0)


# Refused.


def test_significance__of_a_name_that_labels_spell_otherwise() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(N))
    first, second = related((4,), (5,))
    zoo.write("réseau", "étape", "/fc", first)
    zoo.write("net", "1", "fc", second)
    result = dask_svcca.compare(zoo, MemoryStore())
    named = "réseau/étape//fc"
    with pytest.raises(RepresentationNotFoundError, match=f"no representation '{named}' .*Did you mean") as caught:
        dask_svcca.jackknife(result, [("net/1/fc", named)], blocks=2)
    (meant,) = re.findall("Did you mean '(.*)'", str(caught.value))
    assert dask_svcca.jackknife(result, [("net/1/fc", meant)], blocks=2).svcca.notnull().all()


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning")
@pytest.mark.parametrize(
    ("call", "number"), [(dask_svcca.permutation_null, {"permutations": 2}), (dask_svcca.jackknife, {"blocks": 2})]
)
def test_significance__says_what_is_missing(call: Any, number: Any) -> None:
    bad = np.full((N, 3), np.nan)
    store, _ = compared([*related((3,), (4,)), bad], measures="svcca", variance=0.99)
    with pytest.raises(
        RepresentationNotFoundError, match=r"no representation 'net/1/x' in the comparison .*; it has 3"
    ):
        call(store, [("net/1/0", "net/1/x")], **number)
    with pytest.raises(ValueError, match=r"no pairs asked for; give some as \[\(label_a, label_b\), ...\]"):
        call(store, [], **number)
    with pytest.raises(UnknownMeasureError, match="no measure 'svca'"):
        call(store, PAIR, measures="svca", **number)
    with pytest.raises(UnknownMeasureError, match="'null_svcca' is not a measure of similarity"):
        call(store, PAIR, measures="null_svcca", **number)
    with pytest.raises(IncompatibleError, match=r"'net/1/2' could not be compared: .*NaN"):
        call(store, [("net/1/0", "net/1/2")], **number)


def test_significance__of_layers_that_do_not_meet() -> None:
    store, _ = compared(related((4, 4, 2), (2, 2, 2), (4,)), conv="positions", measures="svcca")
    with pytest.raises(IncompatibleError, match="'net/1/0' and 'net/1/1' cannot be compared: incompatible_samples"):
        dask_svcca.jackknife(store, PAIR)


def test_significance__without_loadings() -> None:
    store, _ = compared(related((60,), (4,)), measures=("svcca", "cka"))
    with pytest.raises(IncompatibleError, match=r"'net/1/0' has more neurons than samples, .* without loadings"):
        dask_svcca.jackknife(store, PAIR, measures="pwcca")


def test_significance__under_a_mask_examples_cannot_be_told_apart() -> None:
    mask = np.arange(4) < np.random.default_rng(7).integers(1, 5, N)[:, np.newaxis]
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(N), coords={"mask": mask})
    for index, layer in enumerate(related((4, 3), (4, 2))):
        zoo.write("net", "1", str(index), layer)
    store = MemoryStore()
    dask_svcca.compare(zoo, store, sequence="positions", mask="mask")
    for call in (dask_svcca.jackknife, dask_svcca.permutation_null):
        with pytest.raises(IncompatibleError, match="under the mask 'mask' examples have different numbers of tokens"):
            call(store, PAIR)


@pytest.mark.parametrize("blocks", [1, 21])
def test_jackknife__refuses_too_few_and_too_many_blocks(blocks: int) -> None:
    store, _ = compared(related((3,), (4,)), measures="svcca")
    with pytest.raises(ValueError, match=f"blocks is from 2 to half the number of examples, 20; got {blocks}"):
        dask_svcca.jackknife(store, PAIR, blocks=blocks)


def test_permutation_null__refuses_no_permutation() -> None:
    store, _ = compared(related((3,), (4,)), measures="svcca")
    with pytest.raises(ValueError, match=r"permutations is how many orders .*, at least 1; got 0"):
        dask_svcca.permutation_null(store, PAIR, permutations=0)


def test_jackknife__says_where_nothing_is_left() -> None:
    x, y = related((3,), (4,))
    x[10:] = 0.5
    store, _ = compared([x, y], measures="svcca")
    with pytest.raises(
        InvalidActivationsError, match="'net/1/0' is constant without samples 0 to 10; use more and smaller"
    ):
        dask_svcca.jackknife(store, PAIR, blocks=4)
