"""Positions of a layer: averaged, chosen, resampled; against loops over examples and positions."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dask_svcca.kernels.positions import (
    chosen_positions,
    first_position,
    last_position,
    mean_over_positions,
    resample,
)

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
CHOICES = st.one_of(
    st.just("all"),
    st.builds("{} {}".format, st.sampled_from(["regular", "random"]), st.integers(1, 40)),
)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def masks(examples: int, tokens: int) -> st.SearchStrategy[np.ndarray]:
    """Any padding that leaves every example a token: before, behind and in between."""
    rows = st.lists(st.booleans(), min_size=tokens, max_size=tokens).filter(any)
    return st.lists(rows, min_size=examples, max_size=examples).map(np.array)


# Chosen.


@given(choice=CHOICES, sizes=SIZES)
def test_chosen_positions__are_as_many_as_asked_each_once(choice: str, sizes: tuple[int, ...]) -> None:
    found = chosen_positions(choice, sizes)
    total = math.prod(sizes)
    expected = total if choice == "all" else min(total, int(choice.split()[1]))
    assert list(found) == sorted(set(found))
    assert len(found) == expected
    assert 0 <= found[0] <= found[-1] < total


@given(count=st.integers(2, 40), sizes=SIZES)
def test_chosen_positions__regular_ones_are_spaced_evenly(count: int, sizes: tuple[int, ...]) -> None:
    found = chosen_positions(f"regular {count}", sizes)
    gaps = np.diff(found)
    assert found[0] == 0
    if len(found) > 1:
        assert found[-1] == math.prod(sizes) - 1
        assert gaps.max() - gaps.min() <= 1


def test_chosen_positions__random_ones_are_the_same_for_all_layers() -> None:
    first = chosen_positions("random 20", (12, 12))
    np.testing.assert_array_equal(first, chosen_positions("random 20", (12, 12)))
    assert len(set(np.diff(first))) > 2


# Resampling.


def resampled_by_repetition(x: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Each position cut into as many equal pieces as there are new cells; each new cell the mean of its pieces."""
    for axis, size in enumerate(sizes, start=1):
        old = x.shape[axis]
        pieces = np.repeat(x, size, axis=axis)
        x = pieces.reshape(*x.shape[:axis], size, old, *x.shape[axis + 1 :]).mean(axis=axis + 1)
    return x


@given(pairs=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3))
def test_resample__averages_over_the_new_cells(pairs: list[tuple[int, int]]) -> None:
    old, new = zip(*pairs, strict=True)
    x = values(2, *old, 3)
    np.testing.assert_allclose(resample(x, new), resampled_by_repetition(x, new), rtol=0, atol=1e-12)


@given(sizes=SIZES)
def test_resample__to_the_same_sizes_changes_nothing(sizes: tuple[int, ...]) -> None:
    x = values(2, *sizes, 3).astype("float32")
    found = resample(x, sizes)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, x)


# Masks.


@given(data=st.data(), tokens=st.integers(1, 6))
def test_mean_over_positions__leaves_padding_out(data: st.DataObject, tokens: int) -> None:
    x, mask = values(3, tokens, 2), data.draw(masks(3, tokens))
    expected = [[x[i, mask[i]].mean(axis=0)] for i in range(3)]
    np.testing.assert_allclose(mean_over_positions(x, mask), expected, rtol=0, atol=1e-12)


@given(data=st.data(), tokens=st.integers(1, 6))
def test_last_position__leaves_padding_out(data: st.DataObject, tokens: int) -> None:
    x, mask = values(3, tokens, 2), data.draw(masks(3, tokens))
    np.testing.assert_array_equal(last_position(x, mask), [[x[i, mask[i]][-1]] for i in range(3)])


@given(data=st.data(), tokens=st.integers(1, 6))
def test_first_position__leaves_padding_out(data: st.DataObject, tokens: int) -> None:
    x, mask = values(3, tokens, 2), data.draw(masks(3, tokens))
    np.testing.assert_array_equal(first_position(x, mask), [[x[i, mask[i]][0]] for i in range(3)])
    np.testing.assert_array_equal(first_position(x), x[:, :1])


def test_mean_over_positions__is_in_double_precision() -> None:
    # A running sum in half precision would stop at 2048.
    assert mean_over_positions(np.ones((1, 5000, 1), dtype="float16"))[0, 0, 0] == 1


def test_mean__does_not_look_at_what_the_mask_leaves_out() -> None:
    values = np.arange(24.0).reshape(2, 4, 3)
    mask = np.array([[True, True, False, False], [True, False, True, False]])
    expected = mean_over_positions(values, mask)
    for padding in (np.nan, np.inf, 1e308):
        for dtype in ("float64", "float32"):
            padded = np.where(mask[..., np.newaxis], values, padding if dtype == "float64" else np.nan).astype(dtype)
            before = padded.copy()
            np.testing.assert_array_equal(mean_over_positions(padded, mask), expected)
            np.testing.assert_array_equal(padded, before)
