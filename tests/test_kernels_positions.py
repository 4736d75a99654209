"""Readings: against loops over examples and positions, and no sample that a reading does not announce."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from dask_svcca.kernels.readings import Reading, chosen_positions, last_position, mean_over_positions, resample
from hypothesis import given
from hypothesis import strategies as st

from dask_svcca.kernels.fourier import fold, split

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


# Positions.


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


@given(data=st.data(), tokens=st.integers(1, 6), choice=CHOICES)
def test_positions__leave_padding_out(data: st.DataObject, tokens: int, choice: str) -> None:
    x, mask = values(3, tokens, 2), data.draw(masks(3, tokens))
    chosen = chosen_positions(choice, (tokens,))
    expected = [x[i, p] for i in range(3) for p in chosen if mask[i, p]]
    found = Reading("positions", (tokens,), positions=choice)(x, mask)
    np.testing.assert_array_equal(found[:, 0], np.reshape(expected, (-1, 2)))


@pytest.mark.parametrize("kind", ["mean", "last", "positions"])
def test_reading__a_mask_of_all_positions_is_none(kind: Any) -> None:
    x = values(4, 5, 3)
    reading = Reading(kind, (5,))
    np.testing.assert_allclose(reading(x, np.ones((4, 5), dtype=bool)), reading(x), rtol=1e-14)


def test_mean_over_positions__is_in_double_precision() -> None:
    # A running sum in half precision would stop at 2048.
    assert mean_over_positions(np.ones((1, 5000, 1), dtype="float16"))[0, 0, 0] == 1


# Readings.


@given(
    kind=st.sampled_from(["mean", "flatten", "positions", "dft"]),
    sizes=SIZES,
    choice=CHOICES,
    channels=st.integers(1, 3),
)
def test_reading__announces_what_it_yields(kind: Any, sizes: tuple[int, ...], choice: str, channels: int) -> None:
    reading = Reading(kind, sizes, grid=sizes if kind == "dft" else (), positions=choice)
    samples, blocks, neurons = reading(values(4, *sizes, channels)).shape
    assert samples == reading.samples(4)
    assert blocks == len(reading.multiplicity)
    assert neurons == reading.neurons(channels)


@pytest.mark.parametrize(("sizes", "grid"), [((4, 6), (2, 3)), ((8,), (2,)), ((4, 4), (4, 4))])
def test_reading__folds_before_it_splits(sizes: tuple[int, ...], grid: tuple[int, ...]) -> None:
    x = values(3, *sizes, 2)
    reading = Reading("dft", sizes, grid=grid)
    found = reading(x)
    np.testing.assert_array_equal(found, split(fold(x, sizes, grid), grid))
    assert found.shape[2] == reading.neurons(2)


def test_reading__of_neurons_and_flattened() -> None:
    dense, conv = values(4, 7), values(4, 3, 2, 5)
    np.testing.assert_array_equal(Reading("neurons")(dense), dense[:, np.newaxis])
    np.testing.assert_array_equal(Reading("flatten", (3, 2))(conv), conv.reshape(4, 1, 30))


def test_reading__positions_are_in_the_order_of_examples() -> None:
    x = values(4, 3, 2, 5)
    found = Reading("positions", (3, 2))(x)
    np.testing.assert_array_equal(found[:, 0], [x[i, h, w] for i in range(4) for h in range(3) for w in range(2)])


def test_reading__takes_positions_of_the_resampled_layer() -> None:
    x = values(4, 6, 6, 5)
    reading = Reading("positions", (6, 6), positions="regular 2", resampled=(2, 2))
    corners = np.stack([x[:, :3, :3].mean(axis=(1, 2)), x[:, 3:, 3:].mean(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(reading(x)[:, 0], corners.reshape(8, 5), rtol=0, atol=1e-12)
    assert reading.samples(4) == 8


# What a sample is.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Reading("positions", (4, 4)), Reading("positions", (4, 4))),
        (Reading("positions", (8, 8), resampled=(4, 4)), Reading("positions", (4, 4))),
        (Reading("neurons"), Reading("dft", (4, 4), grid=(4, 4))),
        (Reading("mean", (4,), mask="mask"), Reading("neurons")),
        # Of one position each, the examples are the samples.
        (Reading("positions", (1, 1)), Reading("neurons")),
        (Reading("positions", (8, 8), resampled=(1, 1)), Reading("neurons")),
    ],
)
def test_domain__is_equal_where_samples_are(one: Reading, other: Reading) -> None:
    assert one.domain == other.domain


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Reading("positions", (4, 4)), Reading("positions", (2, 8))),
        (Reading("positions", (4, 4)), Reading("positions", (16,))),
        (Reading("positions", (4, 4)), Reading("neurons")),
        (Reading("positions", (4, 4)), Reading("positions", (4, 4), positions="regular 4")),
        (Reading("positions", (12,)), Reading("positions", (12,), mask="mask")),
    ],
)
def test_domain__differs_where_samples_do(one: Reading, other: Reading) -> None:
    assert one.domain != other.domain
