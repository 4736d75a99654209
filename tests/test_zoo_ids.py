"""Examples are told by their ids where arrays have them: put in order, or refused with the first that differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import cca, pca, pls, projection
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError

N = 20
NAME = ("net", "step1", "fc")
IDS = [f"image{number}" for number in np.random.default_rng(3).permutation(N)]
X = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")
Y = X @ np.random.default_rng(1).normal(size=(4, 3)) + np.random.default_rng(2).normal(size=(N, 3))


def make_zoo(ids: Any = IDS) -> dask_svcca.Zoo:
    return dask_svcca.create_zoo(MemoryStore(), examples=ids)


def labelled(values: np.ndarray, ids: Any = IDS, dims: tuple[str, ...] = ("example", "neuron")) -> xr.DataArray:
    return xr.DataArray(values, dims=dims, coords={"example": ids})


KINDS: dict[str, Any] = {
    "xarray": lambda values, order: labelled(values)[order],
    "transposed": lambda values, order: labelled(values)[order].transpose("neuron", "example"),
    "dask": lambda values, order: labelled(values).chunk({"example": 7})[order],
    "dask, transposed": lambda values, order: labelled(values).chunk(3).transpose("neuron", "example")[:, order],
    "pandas": lambda values, order: pd.DataFrame(values, index=IDS).iloc[order],
    "from pandas": lambda values, order: xr.DataArray(pd.DataFrame(values, index=IDS).iloc[order]),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(order=st.permutations(range(N)))
def test_write__any_order_of_labelled_examples_gives_the_same(kind: str, order: list[int]) -> None:
    zoo = make_zoo()
    zoo.write(*NAME, X)
    zoo.write("net", "step2", "fc", KINDS[kind](X, order))
    assert len({item.digest for item in zoo.entries()}) == 1


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(orders=st.tuples(st.permutations(range(N)), st.permutations(range(N))))
def test_cca__any_order_of_labelled_examples_gives_the_same(kind: str, orders: tuple[list[int], list[int]]) -> None:
    x, y = (KINDS[kind](values, order) for values, order in zip((X, Y), orders, strict=True))
    for call, name in ((cca, "correlation"), (pls, "covariance")):
        np.testing.assert_allclose(call(x, y)[name], call(X, Y)[name], rtol=0, atol=1e-6)


def test_write__a_dask_array_that_memory_does_not_hold_is_put_in_order_by_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_svcca.stores.zoo.batches.available_memory", lambda: 4 * X[:5].nbytes)
    zoo = make_zoo()
    zoo.write(*NAME, labelled(X).chunk({"example": 3})[::-1])
    zoo.write("net", "step2", "fc", labelled(X).chunk({"example": 3}).sel(example=sorted(IDS)))
    for name in zoo:
        np.testing.assert_array_equal(zoo[name], X)


@given(order=st.permutations(range(N)))
@settings(max_examples=4)
def test_write__images_in_any_order(order: list[int]) -> None:
    images = np.random.default_rng(5).normal(size=(N, 3, 2, 4))
    dims = ("example", "channel", "height", "width")
    zoo = make_zoo()
    zoo.write(*NAME, images, dims=dims)
    zoo.write(
        "net", "step2", "fc", labelled(images, dims=dims)[order].transpose("width", "channel", "example", "height")
    )
    assert len({item.digest for item in zoo.entries()}) == 1


def test_zoo__what_comes_out_turned_goes_in_as_it_was() -> None:
    zoo = make_zoo()
    zoo.write(*NAME, X)
    turned = zoo["net", "step1", "fc"][::-1]
    zoo.write("net", "step2", "fc", turned)
    np.testing.assert_array_equal(zoo["net/step2/fc"], X)
    np.testing.assert_allclose(cca(zoo[NAME], turned).correlation, 1, rtol=0, atol=1e-6)
    found = projection(zoo[NAME], turned, k=2)
    np.testing.assert_allclose(found.projector, projection(X, X, k=2).projector, rtol=0, atol=1e-5)
    np.testing.assert_allclose(pca(turned).direction.sel(example=zoo.examples), pca(X).direction, rtol=0, atol=1e-5)


def test_cca__coordinates_of_y_follow_its_examples() -> None:
    y = labelled(Y).assign_coords(kind=("example", IDS))[::-1]
    found = cca(labelled(X), y)
    np.testing.assert_array_equal(found.kind, found.example)
    np.testing.assert_allclose(found.direction_y, cca(X, Y).direction_y, rtol=0, atol=1e-10)


# Refused, with the first that differs.

OTHER = [*IDS[:4], "another", *IDS[5:]]
DOUBLE = [*IDS[:4], IDS[0], *IDS[5:]]


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        (OTHER, N, r"'another' of {what}, at 4, is not among the examples of {whose}"),
        (DOUBLE, N, rf"{{what}} has the example '{IDS[0]}' twice"),
        (IDS[:-1], N - 1, rf"{{what}} has 19 examples, {{whose}} has 20: '{IDS[-1]}' of {{whose}}, at 19, is missing"),
        ([*IDS, "more"], N + 1, r"has 21 examples, {whose} has 20: 'more' of {what}, at 20, is not among"),
        ([np.nan, *range(1, N)], N, r"'nan' of {what}, at 0, is not among"),
        (range(N), N, r"'0' of {what}, at 0, is not among"),
    ],
)
def test_refused__other_examples(ids: Any, rows: int, message: str) -> None:
    zoo = make_zoo()
    values = np.resize(X, (rows, 4))
    tables = [labelled(values, list(ids))]
    if not isinstance(ids, range):
        tables.append(pd.DataFrame(values, index=pd.Index(ids)))
    for given_ in tables:
        with pytest.raises(MismatchedExamplesError, match=message.format(what="'net/step1/fc'", whose="its zoo")):
            zoo.write(*NAME, given_)
        with pytest.raises(MismatchedExamplesError, match=message.format(what="y", whose="x")):
            cca(labelled(Y), given_)
    assert zoo.unfinished == []


# Indices that only count.


def test_write__an_index_that_only_counts_is_not_taken_for_ids() -> None:
    zoo = make_zoo()
    zoo.write(*NAME, pd.DataFrame(X))
    np.testing.assert_array_equal(zoo[NAME], X)
    with pytest.raises(MismatchedExamplesError, match="'19' of 'net/1/fc', at 0, is not among the examples"):
        zoo.write("net", "1", "fc", pd.DataFrame(X)[::-1])
    counted = make_zoo(range(N))
    counted.write(*NAME, pd.DataFrame(X))
    counted.write("net", "step2", "fc", pd.DataFrame(X)[::-1])
    counted.write("net", "step3", "fc", pd.DataFrame(X).sample(frac=1, random_state=0))
    assert len({item.digest for item in counted.entries()}) == 1


def test_write__an_index_that_counts_where_the_ids_are_numbers_in_another_order_is_refused() -> None:
    zoo = make_zoo(np.arange(N)[::-1])
    with pytest.raises(MismatchedExamplesError, match=r"counts its rows 0, 1, 2 \.\.\., .* in another order, 19, 18"):
        zoo.write(*NAME, pd.DataFrame(X))
    zoo.write(*NAME, pd.DataFrame(X).to_numpy())
    zoo.write("net", "step2", "fc", pd.DataFrame(X, index=zoo.examples))
    np.testing.assert_array_equal(zoo["net/step2/fc"], X)


def test_cca__tables_whose_index_counts() -> None:
    table = pd.DataFrame(X)
    turned = table.iloc[np.random.default_rng(4).permutation(N)]
    for x, y in ((table, turned), (turned, table), (table, table[::-1]), (table, table)):
        np.testing.assert_allclose(cca(x, y).correlation, 1, rtol=0, atol=1e-6)
    # A table that counts its rows says nothing where the other has names.
    names = sorted(IDS)
    names.sort(key=len)
    np.testing.assert_allclose(cca(table, labelled(X, names)).correlation, 1, rtol=0, atol=1e-6)


def test_write__without_ids_examples_are_in_the_zoos_order() -> None:
    zoo = make_zoo()
    for step, given_ in enumerate((X, xr.DataArray(X, dims=("example", "neuron")), xr.DataArray(X, dims=("x", "y")))):
        zoo.write("net", f"step{step}", "fc", given_)
    assert len({item.digest for item in zoo.entries()}) == 1


def test_write__a_coordinate_of_another_name_labels_the_first_axis() -> None:
    zoo = make_zoo()
    zoo.write(*NAME, xr.DataArray(X[::-1], dims=("image", "unit"), coords={"image": IDS[::-1]}))
    np.testing.assert_array_equal(zoo[NAME], X)


# Batches.


def test_append__batches_with_ids_are_the_next_in_order() -> None:
    zoo = make_zoo()
    x = labelled(X)
    zoo.append(*NAME, x[:8])
    with pytest.raises(
        MismatchedExamplesError, match=rf"has the example '{IDS[9]}' at 8, where its zoo has '{IDS[8]}'"
    ):
        zoo.append(*NAME, x[9:12])
    with pytest.raises(
        MismatchedExamplesError, match=rf"has the example '{IDS[10]}' at 9, where its zoo has '{IDS[9]}'"
    ):
        zoo.append(*NAME, pd.DataFrame(X[8:11], index=[IDS[8], IDS[10], IDS[9]]))
    # Nothing of them was taken.
    zoo.append(*NAME, x[8:].transpose("neuron", "example"))
    np.testing.assert_array_equal(zoo[NAME], X)


@pytest.mark.parametrize("kind", [iter, list])
def test_write__batches_with_ids_are_the_next_in_order(kind: Any) -> None:
    zoo, x = make_zoo(), labelled(X)
    zoo.write(*NAME, kind([x[:8], x[8:]]))
    np.testing.assert_array_equal(zoo[NAME], X)
    with pytest.raises(
        MismatchedExamplesError, match=rf"has the example '{IDS[8]}' at 0, where its zoo has '{IDS[0]}'"
    ):
        zoo.write("net", "step2", "fc", kind([x[8:], x[:8]]))


def test_append__batches_whose_axes_differ_are_refused() -> None:
    zoo = make_zoo()
    x = labelled(np.ones((N, 3, 3, 3)), dims=("example", "channel", "height", "width"))
    zoo.append(*NAME, x[:8])
    with pytest.raises(
        InvalidActivationsError, match=r"differ: the first had axes \('example', 'height', 'width', 'ch"
    ):
        zoo.append(*NAME, x[8:].rename(height="depth"))


# Coordinates.


def test_create_zoo__labelled_coordinates_are_put_in_order() -> None:
    values = pd.Series(np.arange(N), index=IDS)
    mask = np.arange(N * 3).reshape(N, 3) % 2 == 0
    zoo = dask_svcca.create_zoo(
        MemoryStore(),
        examples=IDS,
        coords={"label": values[::-1], "mask": labelled(mask, dims=("example", "token"))[::-1], "plain": range(N)},
    )
    np.testing.assert_array_equal(zoo.coords["label"], np.arange(N))
    np.testing.assert_array_equal(zoo.coords["mask"], mask)
    np.testing.assert_array_equal(zoo.coords["plain"], np.arange(N))


@pytest.mark.parametrize(
    ("coords", "error", "message"),
    [
        (
            {"label": pd.Series(range(N), index=OTHER)},
            MismatchedExamplesError,
            "'another' of the coordinate 'label', at 4",
        ),
        (
            {"label": np.ma.masked_array(range(N), [True] * N)},
            InvalidActivationsError,
            "the coordinate 'label' from a mask",
        ),
        ({"label": [None] * N}, ValueError, "the coordinate 'label' holds Python objects; give numbers"),
        ({"when": np.full(N, np.datetime64("2026-01-01"))}, ValueError, "the coordinate 'when' is datetime64"),
        ({3: range(N)}, ValueError, "a coordinate's name is a plain word, for example 'label'; got 3"),
        ({"a/b": range(N)}, ValueError, "a coordinate's name is a plain word"),
    ],
)
def test_create_zoo__refuses_coordinates_before_anything_is_written(
    tmp_path: Any, coords: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=IDS, coords=coords)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("examples", [[None, "a"], pd.Series(["a", None])])
def test_create_zoo__refuses_ids_that_are_missing(examples: Any) -> None:
    with pytest.raises(
        InvalidActivationsError, match=r"examples must be ids, an integer or text for each|from a column 0 with missing"
    ):
        dask_svcca.create_zoo(MemoryStore(), examples=examples)


# Arrays beside one that was shuffled, and says so.

SHUFFLED = np.random.default_rng(7).permutation(N)
TABLE = pd.DataFrame(X)


def compared(x: Any, y: Any) -> float:
    result = dask_svcca.compare({"x": x, "y": y}, measures="cca", variance=None)
    return float(result.cca.sel(representation_a="x", representation_b="y"))


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
def test_tables__one_shuffled_beside_one_that_counts_are_put_in_order() -> None:
    expected = float(cca(X, Y).correlation.mean())
    other = pd.DataFrame(Y)
    for x, y in ((TABLE, other.iloc[SHUFFLED]), (TABLE.iloc[SHUFFLED], other), (TABLE.iloc[SHUFFLED], other[::-1])):
        assert abs(float(cca(x, y).correlation.mean()) - expected) < 1e-6
        assert abs(compared(x, y) - expected) < 1e-6


@pytest.mark.parametrize("rows", [SHUFFLED, SHUFFLED[:10]])
def test_tables__one_shuffled_beside_an_array_without_ids_is_refused(rows: np.ndarray) -> None:
    table, plain = TABLE.iloc[rows], Y[: len(rows)]
    for x, y in ((plain, table), (table, plain)):
        for call in (cca, compared):
            with pytest.raises(MismatchedExamplesError, match=r"in an order of its own, .* does not say which of them"):
                call(x, y)
    # By hand, and where the ids only ascend.
    assert cca(plain, table.to_numpy()).sizes["component"] == 3
    assert cca(plain, TABLE.iloc[np.sort(rows)]).sizes["component"] == 3


def test_tables__that_only_count_beside_other_shuffled_ids_are_refused() -> None:
    picked = pd.DataFrame(X, index=SHUFFLED + 100)
    for call in (cca, compared):
        with pytest.raises(MismatchedExamplesError, match="is not among the examples of"):
            call(pd.DataFrame(Y), picked)
