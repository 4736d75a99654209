"""Queries: the right pairs, each once, from no more of the matrix than they need."""

from __future__ import annotations

import tracemalloc
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_svcca
from dask_svcca.analysis import query as module
from dask_svcca.analysis.query import PairQuery
from dask_svcca.errors import StoreFormatError, UnknownMeasureError

if TYPE_CHECKING:
    from pathlib import Path

PARTS = ("model", "checkpoint", "layer")
MODELS, STEPS, LAYERS = ("cnn", "resnet"), (0, 10), ("conv1", "conv[2]", "fc")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve representations: two groups, three tiles."""
    folder = tmp_path_factory.mktemp("query")
    rng = np.random.default_rng(0)
    common = rng.normal(size=(50, 5))
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(50)) as zoo:
        for model, step, (depth, layer) in product(MODELS, STEPS, enumerate(LAYERS)):
            x = common @ rng.normal(size=(5, 4)) + rng.normal(size=(50, 4))
            zoo.write(model, f"step{step}", layer, x.astype("float32"), step=step, depth=depth)
    dask_svcca.compare(zoo, folder / "comparison.zarr")
    return folder / "comparison.zarr"


@pytest.fixture(scope="module")
def dataset(store: Path) -> xr.Dataset:
    return dask_svcca.open_comparison(store)


def pairs_of(query: PairQuery) -> list[tuple[str, str, float]]:
    found = []
    for frame in query.frames():
        labels = [["/".join(row) for row in frame[[f"{p}_{s}" for p in PARTS]].to_numpy()] for s in "ab"]
        found += list(zip(*labels, frame[query.measure], strict=True))
    return found


def expected(
    dataset: xr.Dataset, a: list[int], b: list[int], low: float, high: float
) -> set[tuple[frozenset[str], float]]:
    labels, values = dataset["representation_a"].to_numpy(), dataset["svcca"].to_numpy()
    return {
        (frozenset({str(labels[i]), str(labels[j])}), values[i, j])
        for i in a
        for j in b
        if i != j and low <= values[i, j] <= high
    }


@given(
    a=st.sets(st.integers(0, 11)),
    b=st.sets(st.integers(0, 11)),
    low=st.floats(0, 1),
    height=st.integers(1, 40),
)
def test_frames__hold_each_pair_once(dataset: xr.Dataset, a: set[int], b: set[int], low: float, height: int) -> None:
    masks = [np.isin(np.arange(12), list(side)) for side in (a, b)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ELEMENTS", height)
        found = pairs_of(PairQuery(dataset, "svcca", *masks, low=low))
    unordered = [(frozenset({one, other}), value) for one, other, value in found]
    assert len(unordered) == len(set(unordered))
    assert set(unordered) == expected(dataset, sorted(a), sorted(b), low, np.inf)


@settings(max_examples=25)
@given(
    rows=st.lists(st.integers(0, 11), unique=True),
    columns=st.lists(st.integers(0, 11), unique=True),
    height=st.integers(1, 40),
)
def test_frames__of_a_part_in_any_order_go_by_labels(
    dataset: xr.Dataset, rows: list[int], columns: list[int], height: int
) -> None:
    part = dataset.isel(representation_a=rows, representation_b=columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ELEMENTS", height)
        found = pairs_of(PairQuery.build(part))
    unordered = [(frozenset({one, other}), value) for one, other, value in found]
    assert len(unordered) == len(set(unordered))
    assert set(unordered) == expected(dataset, rows, columns, -np.inf, np.inf)


def test_nearest__in_another_order_of_b_leaves_out_the_representation_itself(dataset: xr.Dataset) -> None:
    one = {"model": "cnn", "checkpoint": "step0", "layer": "fc"}
    turned = dataset.isel(representation_b=slice(None, None, -1))
    pd.testing.assert_frame_equal(dask_svcca.nearest(turned, one), dask_svcca.nearest(dataset, one))


def test_frames__keep_both_orders_of_an_asymmetric_measure(dataset: xr.Dataset) -> None:
    lopsided = dataset.copy()
    lopsided["svcca"] = dataset["svcca"].copy()
    lopsided["svcca"].attrs = {**dataset["svcca"].attrs, "symmetric": False}
    assert len(pairs_of(PairQuery.build(lopsided))) == 12 * 11


def test_most_similar__is_sorted_and_counts_all(dataset: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 24)
    best, total = PairQuery.build(dataset).most_similar(5)
    values = dataset["svcca"].to_numpy()[np.triu_indices(12, k=1)]
    assert total == 66
    np.testing.assert_array_equal(best["svcca"], np.sort(values)[::-1][:5])


def test_query__lists_the_smallest_p_values_first(dataset: xr.Dataset) -> None:
    found = dask_svcca.query(dataset, ["p_svcca", "svcca"], top=5)
    every = dataset["p_svcca"].to_numpy()[np.triu_indices(12, k=1)]
    np.testing.assert_array_equal(found["p_svcca"], np.sort(every)[:5])
    # Other references are not of that kind.
    assert dask_svcca.query(dataset, "null_svcca_sd")["null_svcca_sd"].is_monotonic_decreasing


def test_build__combines_patterns_and_bounds(dataset: xr.Dataset) -> None:
    query = PairQuery.build(
        dataset, a={"model": ["cnn"], "layer": ["conv*"]}, b={"model": ["res*"], "checkpoint": ["step10"]}, high=0.9
    )
    found = pairs_of(query)
    assert {one.split("/")[0] for one, _, _ in found} == {"cnn"}
    assert {tuple(other.split("/")[:2]) for _, other, _ in found} == {("resnet", "step10")}
    assert max(value for *_, value in found) <= 0.9


def test_build__names_the_measures(dataset: xr.Dataset) -> None:
    with pytest.raises(UnknownMeasureError, match="no measure 'pair_status' in this comparison; it has svcca"):
        PairQuery.build(dataset, "pair_status")


def test_frames__read_only_the_tiles_asked_for(store: Path) -> None:
    dataset = dask_svcca.open_comparison(store)
    (damaged,) = store.glob("svcca/c/0/1")
    whole = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    try:
        first_group = {"model": ["cnn"]}
        assert len(pairs_of(PairQuery.build(dataset, a=first_group, b=first_group))) == 15
        with pytest.raises(StoreFormatError, match=r"'svcca/c/0/1' of .* is not what was written"):
            pairs_of(PairQuery.build(dataset))
    finally:
        damaged.write_bytes(whole)


def with_values(dataset: xr.Dataset, values: np.ndarray, **attributes: Any) -> xr.Dataset:
    """A comparison of other values, to see what a query makes of them."""
    changed = dataset.copy()
    changed["svcca"] = (dataset["svcca"].dims, values, {**dataset["svcca"].attrs, **attributes})
    return changed


def test_most_similar__holds_less_than_a_row_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 10_000)
    count, tile = 2000, 50
    values = np.random.default_rng(0).random((count, count))
    labels = np.array([f"net/1/{number}" for number in range(count)])
    coords: dict[str, Any] = {}
    for side in "ab":
        names = {"representation": labels, "model": labels, "checkpoint": labels, "layer": labels}
        coords |= {f"{name}_{side}": (f"representation_{side}", one) for name, one in names.items()}
        coords |= {f"{name}_{side}": (f"representation_{side}", np.zeros(count)) for name in ("step", "depth")}
    dims = ("representation_a", "representation_b")
    large = xr.Dataset({"svcca": (dims, values, {"sense": "similarity"})}, coords, {"tile": tile})
    query = PairQuery.build(large)
    tracemalloc.start()
    best, total = query.most_similar(5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == count * (count - 1) // 2
    np.testing.assert_array_equal(best["svcca"], np.sort(values[np.triu_indices(count, k=1)])[::-1][:5])
    assert peak < 8 * tile * count


def test_frames__without_a_match_have_columns(dataset: xr.Dataset) -> None:
    (frame,) = PairQuery.build(dataset, low=2.0).frames()
    assert frame.empty
    assert "svcca" in frame


@pytest.mark.parametrize("height", [1, 12, 1000])
@pytest.mark.parametrize("sense", ["similarity", "distance"])
def test_query__sorts_by_similarity_and_keeps_the_order_of_equals(
    dataset: xr.Dataset, monkeypatch: pytest.MonkeyPatch, sense: str, height: int
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", height)
    few = np.random.default_rng(0).integers(0, 3, size=(12, 12)) / 4
    values = np.triu(few) + np.triu(few, k=1).T
    changed = with_values(dataset, values, sense=sense)
    sign = 1 if sense == "distance" else -1
    pairs = sorted((sign * values[i, j], i, j) for i in range(12) for j in range(i + 1, 12))
    labels = dataset["representation_a"].to_numpy()
    for top in (None, 1, 20, 100):
        frame = dask_svcca.query(changed, top=top)
        expected = [(labels[i], labels[j], values[i, j]) for _, i, j in pairs[:top]]
        names = [frame[[f"{part}_{side}" for part in PARTS]].agg("/".join, axis=1) for side in "ab"]
        assert list(zip(*names, frame["svcca"], strict=True)) == expected
        assert frame.index.tolist() == list(range(len(expected)))


def test_query__takes_a_store_or_a_dataset_and_one_pattern_or_several(store: Path, dataset: xr.Dataset) -> None:
    one = dask_svcca.query(store, "svcca", a={"model": "cnn", "layer": "fc"}, b={"checkpoint": "*0"}, low=0.2)
    other = dask_svcca.query(dataset, a={"model": ("cnn",), "layer": ["fc"]}, b={"checkpoint": ["step0", "step1*"]})
    pd.testing.assert_frame_equal(one, other[other["svcca"] >= 0.2])
    assert set(one["layer_a"]) == {"fc"}
    assert list(one) == [f"{part}_{side}" for side in "ab" for part in (*PARTS, "step", "depth")] + ["svcca"]


def test_query__without_a_match_is_empty(dataset: xr.Dataset) -> None:
    assert dask_svcca.query(dataset, low=2).shape == (0, 11)
    assert dask_svcca.query(dataset, low=2, high=2).shape == (0, 11)


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.1), (float("nan"), None), (None, float("nan"))])
def test_query__an_interval_that_is_empty(dataset: xr.Dataset, low: float | None, high: float | None) -> None:
    with pytest.raises(ValueError, match=f"the interval from low={low} to high={high} is empty"):
        dask_svcca.query(dataset, low=low, high=high)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top is how many pairs to list, at least 1, or None for all; got 0"),
        ({"a": {"layers": "fc"}}, "side a is chosen by 'model', .*; got 'layers'. Did you mean 'layer'?"),
    ],
)
def test_query__refuses_nonsense(dataset: xr.Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dask_svcca.query(dataset, **options)
