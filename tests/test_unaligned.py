"""Arrays with ids beside arrays without: put in order, refused, or said, and never silently compared by row."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import cca, compat
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError, UnalignedExamplesWarning

if TYPE_CHECKING:
    from collections.abc import Callable

N = 60
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
Y = X @ RNG.normal(size=(3, 2)) + RNG.normal(size=(N, 2))
ORDER = RNG.permutation(N)
TRUTH = float(cca(X, Y).correlation.mean())


def compared(x: Any, y: Any) -> float:
    return float(dask_svcca.compare({"x": x, "y": y}, measures="cca", variance=None).cca[0, 1])


def paired(x: Any, y: Any) -> float:
    return float(cca(x, y).correlation.mean())


def published(x: Any, y: Any) -> float:
    return float(compat.get_cca_similarity(x.T, y.T)["mean"][0])


pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
CALLS = pytest.mark.parametrize("call", [compared, paired, published])


def table(values: np.ndarray, ids: Any) -> pd.DataFrame:
    return pd.DataFrame(values, index=pd.Index(list(ids)))


def named(values: np.ndarray, ids: Any) -> xr.DataArray:
    return xr.DataArray(values, dims=("example", "neuron"), coords={"example": list(ids)})


@pytest.mark.parametrize("make", [table, named])
@pytest.mark.parametrize("kind", [str, "image {}.png".format, "{:03}".format, float, "{0}-{0}".format])
@CALLS
def test_ids__shuffled_beside_an_array_without_are_refused(call: Callable[..., float], kind: Any, make: Any) -> None:
    shuffled = make(Y[ORDER], map(kind, ORDER))
    for x, y in ((X, shuffled), (shuffled, X)):
        with pytest.raises(
            (MismatchedExamplesError, InvalidActivationsError), match=r"in an order of its own|index of"
        ):
            call(x, y)


@pytest.mark.parametrize("make", [table, named])
@pytest.mark.parametrize("kind", [int, str])
def test_ids__of_the_rows_of_a_table_that_counts_put_it_in_order(kind: Any, make: Any) -> None:
    shuffled = make(Y[ORDER], map(kind, ORDER))
    for call in (compared, paired):
        assert call(pd.DataFrame(X), shuffled) == pytest.approx(TRUTH, abs=1e-6)
        assert call(shuffled, pd.DataFrame(X)) == pytest.approx(TRUTH, abs=1e-6)
    with pytest.raises(MismatchedExamplesError, match="in another order"):
        published(pd.DataFrame(X), shuffled)


@pytest.mark.parametrize("kind", [int, str, "image{}.png".format, "{:03}".format, "{0}-{0}".format])
@CALLS
def test_ids__in_the_order_of_their_numbers_are_taken_by_row(call: Callable[..., float], kind: Any) -> None:
    assert call(X, table(Y, map(kind, range(N)))) == pytest.approx(TRUTH, abs=1e-6)


WORDS = [f"{word}{number}" for word in ("cat", "ant", "dog") for number in range(N // 3)]


@pytest.mark.parametrize("ids", [WORDS, sorted(f"image{number}" for number in range(N))], ids=["words", "by text"])
@CALLS
def test_ids__in_an_order_that_says_nothing_are_taken_by_row_and_said(
    call: Callable[..., float], ids: list[str]
) -> None:
    with pytest.warns(UnalignedExamplesWarning, match=rf"names its examples, {ids[0]}, .*row by row.*to_numpy") as said:
        assert call(X, table(Y, ids)) == pytest.approx(TRUTH, abs=1e-6)
    assert [(warning.filename, len(said)) for warning in said] == [(__file__, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call(table(X, ids), table(Y, ids)) == pytest.approx(TRUTH, abs=1e-6)


FRAMES = pd.DataFrame(X), pd.DataFrame(Y)


@pytest.mark.parametrize("rows", [slice(10, None), slice(None, None, 2), FRAMES[0].index % 3 > 0])
@CALLS
def test_ids__of_a_part_of_a_table_beside_another_part_are_refused(call: Callable[..., float], rows: Any) -> None:
    x = FRAMES[0][rows]
    y = FRAMES[1].iloc[: len(x)]
    for first, second in ((x, y), (y, x)):
        with pytest.raises(MismatchedExamplesError, match=r"is not among the examples of .*\.to_numpy\(\)"):
            call(first, second)
    part = FRAMES[1][rows]
    assert call(x, part) == call(x, part.to_numpy()) == pytest.approx(published(x.to_numpy(), part.to_numpy()))


def test_write__a_part_of_a_table_is_not_the_first_rows() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(20))
    for given in (FRAMES[0].iloc[10:30], iter([FRAMES[0].iloc[10:20], FRAMES[0].iloc[20:30]])):
        with pytest.raises(MismatchedExamplesError, match=r"'(20|10)'"):
            zoo.write("net", "c", "fc", given)
    zoo.write("net", "c", "fc", iter([FRAMES[0].iloc[:10], FRAMES[0].iloc[10:20]]))
    np.testing.assert_array_equal(zoo["net/c/fc"], X[:20])


def test_write__a_table_that_counts_where_the_ids_are_numbers_as_text() -> None:
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=[str(number) for number in ORDER])
    with pytest.raises(MismatchedExamplesError, match=r"counts its rows 0, 1, 2 \.\.\., .* in another order"):
        zoo.write("net", "c", "fc", FRAMES[0])
    batches = iter([FRAMES[0].iloc[:30], FRAMES[0].iloc[30:]])
    with pytest.raises(MismatchedExamplesError, match="counts its rows"):
        zoo.write("net", "c", "fc", batches)
    zoo.write("net", "c", "fc", table(X[ORDER], ORDER))
    np.testing.assert_array_equal(zoo["net/c/fc"], X[ORDER])


INDICES = {
    "a MultiIndex": pd.MultiIndex.from_arrays([["a"] * N, range(N)]),
    "of type datetime64": pd.date_range("2026-01-01", periods=N),
    "of type float64": pd.Index(np.linspace(0, 1, N)),
}


@pytest.mark.parametrize("kind", INDICES)
def test_compare__an_index_of_another_kind_is_named(kind: str) -> None:
    frame = pd.DataFrame(X, index=INDICES[kind])
    with pytest.raises(InvalidActivationsError, match=rf"activations of 'x' is {kind}.*df\.index\.map\(str\)"):
        compared(frame, Y)
    frame.index = frame.index.map(str)
    assert compared(frame, frame.iloc[::-1]) == pytest.approx(1, abs=1e-6)
    with pytest.raises(InvalidActivationsError, match=r"integer or text for each.*index\.map\(str\)"):
        dask_svcca.create_zoo(MemoryStore(), examples=INDICES[kind])
