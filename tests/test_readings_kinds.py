"""Readings: against loops over examples and positions; what each announces, and what it takes of memory."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_svcca.kernels.fourier import fold, split
from dask_svcca.kernels.positions import chosen_positions
from dask_svcca.readings import First, Flatten, Fourier, Last, Mean, Neurons, Positions, Reading

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
CHOICES = st.one_of(
    st.just("all"),
    st.builds("{} {}".format, st.sampled_from(["regular", "random"]), st.integers(1, 40)),
)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# What each makes of a chunk.


def test_reading__of_neurons_and_flattened() -> None:
    dense, conv = values(4, 7), values(4, 3, 2, 5)
    np.testing.assert_array_equal(Neurons()(dense), dense[:, np.newaxis])
    np.testing.assert_array_equal(Flatten((3, 2))(conv), conv.reshape(4, 1, 30))


def test_reading__mean_and_last() -> None:
    x = values(4, 3, 5)
    np.testing.assert_allclose(Mean((3,))(x)[:, 0], [sum(x[i, p] for p in range(3)) / 3 for i in range(4)], rtol=1e-14)
    np.testing.assert_array_equal(Last((3,))(x)[:, 0], [x[i, 2] for i in range(4)])
    np.testing.assert_array_equal(First((3,))(x)[:, 0], [x[i, 0] for i in range(4)])


@pytest.mark.parametrize(("sizes", "grid"), [((4, 6), (2, 3)), ((8,), (2,)), ((4, 4), (4, 4))])
def test_reading__folds_before_it_splits(sizes: tuple[int, ...], grid: tuple[int, ...]) -> None:
    x = values(3, *sizes, 2)
    reading = Fourier.of(sizes).folded(grid)
    found = reading(x)
    np.testing.assert_array_equal(found, split(fold(x, sizes, grid), grid))
    assert found.shape[2] == reading.neurons(2)


@given(sizes=SIZES, choice=CHOICES)
def test_positions__are_in_the_order_of_examples(sizes: tuple[int, ...], choice: str) -> None:
    x = values(4, *sizes, 5)
    places = list(np.ndindex(sizes))
    expected = [x[(i, *places[p])] for i in range(4) for p in chosen_positions(choice, sizes)]
    np.testing.assert_array_equal(Positions(sizes, choice=choice)(x)[:, 0], expected)


def test_positions__are_taken_of_the_resampled_layer() -> None:
    x = values(4, 6, 6, 5)
    reading = Positions((6, 6), choice="regular 2", resampled=(2, 2))
    corners = np.stack([x[:, :3, :3].mean(axis=(1, 2)), x[:, 3:, 3:].mean(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(reading(x)[:, 0], corners.reshape(8, 5), rtol=0, atol=1e-12)
    assert reading.samples(4) == 8


@given(data=st.data(), tokens=st.integers(1, 6), choice=CHOICES)
def test_positions__leave_padding_out(data: st.DataObject, tokens: int, choice: str) -> None:
    rows = st.lists(st.booleans(), min_size=tokens, max_size=tokens)
    x, mask = values(3, tokens, 2), np.array(data.draw(st.lists(rows, min_size=3, max_size=3)))
    chosen = chosen_positions(choice, (tokens,))
    expected = [x[i, p] for i in range(3) for p in chosen if mask[i, p]]
    reading = Positions((tokens,), mask_name="mask", choice=choice)
    found = reading(x, mask)
    np.testing.assert_array_equal(found[:, 0], np.reshape(expected, (-1, 2)))
    # It announces them without regard to the mask.
    assert len(found) <= reading.samples(3) == 3 * len(chosen)


@pytest.mark.parametrize("kind", [Mean, First, Last, Positions])
def test_reading__a_mask_of_all_positions_is_none(kind: Any) -> None:
    x = values(4, 5, 3)
    np.testing.assert_allclose(kind((5,), mask_name="mask")(x, np.ones((4, 5), bool)), kind((5,))(x), rtol=1e-14)


# What each announces.


@dataclass(frozen=True)
class Case:
    """A reading and the shape of a chunk that it reads."""

    reading: Reading
    shape: tuple[int, ...]

    def chunk(self, dtype: Any) -> np.ndarray:
        return values(*self.shape).astype(dtype)

    @property
    def mask(self) -> np.ndarray | None:
        """All positions count, so that all are samples."""
        return np.ones(self.shape[:2], dtype=bool) if self.reading.mask else None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any reading of a chunk that it can read."""
    kind = draw(st.sampled_from([Neurons, Flatten, Mean, First, Last, Positions, Fourier]))
    examples, channels = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    if kind is Neurons:
        return Case(Neurons(), (examples, channels))
    sizes = draw(SIZES)
    masked = {"mask_name": draw(st.sampled_from(["", "mask"]))}
    if masked["mask_name"] or kind in {First, Last}:
        sizes = sizes[:1]
    reading: Reading
    if kind is Fourier:
        coarse = tuple(draw(st.sampled_from([cells for cells in range(1, n + 1) if n % cells == 0])) for n in sizes)
        reading = Fourier.of(sizes).folded(coarse)
    elif kind is Positions:
        new = draw(st.one_of(st.just(()), st.tuples(*[st.integers(1, 5)] * len(sizes))))
        reading = Positions(sizes, **({} if new else masked), choice=draw(CHOICES), resampled=new)
    elif kind is Flatten:
        reading = Flatten(sizes)
    else:
        reading = kind(sizes, **masked)
    return Case(reading, (examples, *sizes, channels))


@settings(max_examples=200)
@given(case=cases(), dtype=st.sampled_from(["float16", "float32", "float64"]))
def test_reading__announces_what_it_yields(case: Case, dtype: str) -> None:
    reading, shape = case.reading, case.shape
    chunk = case.chunk(dtype)
    found = reading(chunk, case.mask)
    samples, blocks, neurons = found.shape
    assert samples == reading.samples(shape[0])
    assert blocks == len(reading.multiplicity)
    assert neurons == reading.neurons(shape[-1])
    assert np.iscomplexobj(found) == reading.is_complex
    assert found.nbytes == reading.sample_bytes(shape, shape[0], chunk.itemsize)
    # Of a longer layer, so much for so many examples.
    assert found.nbytes == reading.sample_bytes((10 * shape[0], *shape[1:]), shape[0], chunk.itemsize)


@settings(max_examples=100)
@given(case=cases())
def test_reading__announces_as_many_directions_as_there_can_be(case: Case) -> None:
    found = case.reading(case.chunk("float64"), case.mask)
    ranks = [np.linalg.matrix_rank(found[:, block]) for block in range(found.shape[1])]
    directions = case.reading.directions(case.shape)
    resampled = isinstance(case.reading, Positions) and case.reading.resampled
    # Positions of a layer that was resampled are not independent of one another.
    assert sum(ranks) <= directions if resampled else sum(ranks) == directions
    by_samples = found.shape[1] == 1 and found.shape[2] > found.shape[0]
    assert case.reading.by_samples(case.shape) == by_samples


# What a sample is, and what tells readings apart.

APART = [
    Neurons(),
    *(
        kind(sizes, **options)
        for kind, sizes, options in itertools.chain(
            itertools.product([Flatten], [(4, 4), (2, 8), (16,)], [{}]),
            itertools.product([Mean, First, Last, Positions], [(4, 4), (2, 8), (16,)], [{}, {"mask_name": "mask"}]),
            [(Mean, (16,), {"mask_name": "other"})],
            [
                (Positions, (4, 4), {"choice": choice, "resampled": new})
                for choice in ("all", "regular 4", "random 4", "random 5")
                for new in ((), (2, 2), (2, 4))
                if (choice, new) != ("all", ())
            ],
            [(Fourier, (8, 8), {"cells": cells}) for cells in itertools.product((1, 2, 4, 8), repeat=2)],
            [(Fourier, (8,), {"cells": (8,)}), (Fourier, (4, 4), {"cells": (4, 4)})],
        )
    ),
]


def test_identity__differs_where_readings_do() -> None:
    assert len({reading.identity for reading in APART}) == len({*APART}) == len(APART)


@pytest.mark.parametrize("reading", APART, ids=str)
def test_identity__is_the_same_for_the_same_reading(reading: Reading) -> None:
    again = replace(reading)
    assert again == reading
    assert again.identity == reading.identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Positions((4, 4)), Positions((4, 4))),
        (Positions((8, 8), resampled=(4, 4)), Positions((4, 4))),
        (Neurons(), Fourier.of((4, 4))),
        (Mean((4,), mask_name="mask"), Neurons()),
        # With one position each, the examples are the samples.
        (Positions((1, 1)), Neurons()),
        (Positions((8, 8), resampled=(1, 1)), Neurons()),
    ],
)
def test_domain__is_equal_where_samples_are(one: Reading, other: Reading) -> None:
    assert one.domain == other.domain


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Positions((4, 4)), Positions((2, 8))),
        (Positions((4, 4)), Positions((16,))),
        (Positions((4, 4)), Neurons()),
        (Positions((4, 4)), Positions((4, 4), choice="regular 4")),
        (Positions((12,)), Positions((12,), mask_name="mask")),
    ],
)
def test_domain__differs_where_samples_do(one: Reading, other: Reading) -> None:
    assert one.domain != other.domain


# What each takes of memory.

SLACK = 2**18
"""Bytes of Python's own objects and of NumPy's buffers, whatever the size of a chunk."""

LARGE = [
    Case(Neurons(), (20_000, 100)),
    Case(Flatten((8, 8)), (1000, 8, 8, 32)),
    Case(Mean((8, 8)), (2000, 8, 8, 32)),
    Case(Mean((2,)), (2000, 2, 1000)),
    Case(Mean((8,), mask_name="mask"), (8000, 8, 32)),
    Case(Mean((800,), mask_name="mask"), (3000, 800, 1)),
    Case(Last((4,)), (3000, 4, 600)),
    Case(First((4,)), (3000, 4, 600)),
    Case(Last((8,), mask_name="mask"), (200_000, 8, 8)),
    Case(Positions((8, 8)), (1000, 8, 8, 32)),
    Case(Positions((8, 8), choice="regular 40"), (1000, 8, 8, 64)),
    Case(Positions((64,), mask_name="mask"), (1000, 64, 32)),
    Case(Positions((800,), mask_name="mask"), (1000, 800, 1)),
    Case(Positions((64,), mask_name="mask", choice="random 50"), (1000, 64, 64)),
    *(
        Case(Positions((8, 8), choice=choice, resampled=new), (500, 8, 8, 32))
        for new in ((4, 4), (8, 8), (16, 16), (16, 4), (4, 16), (8, 1))
        for choice in ("all", "random 5")
    ),
    Case(Positions((4, 4, 4), resampled=(8, 8, 2)), (250, 4, 4, 4, 32)),
    *(
        Case(Fourier.of(sizes), (2**16 // math.prod(sizes), *sizes, 16))
        for sizes in ((8, 8), (7, 5), (1, 9), (32,), (3, 4, 5), (2, 2), (2,))
    ),
    *(Case(Fourier.of((8, 8)).folded(cells), (500, 8, 8, 32)) for cells in ((4, 4), (2, 2), (1, 2), (8, 1))),
    Case(Fourier.of((8,)).folded((2,)), (2000, 8, 64)),
]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, "float32") for case in LARGE),
        *((case, dtype) for case in LARGE[::5] for dtype in ("float16", "float64")),
    ],
    ids=str,
)
def test_transform_bytes__is_what_reading_takes_and_hardly_more(case: Case, dtype: str) -> None:
    chunk, mask = case.chunk(dtype), case.mask
    # What is made once, and kept, is made before.
    case.reading(chunk[:1], None if mask is None else mask[:1])
    predicted = case.reading.transform_bytes(case.shape, case.shape[0], chunk.itemsize)
    tracemalloc.start()
    try:
        case.reading(chunk, mask)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= predicted + SLACK
    if predicted > 10 * 2**20:
        assert peak >= 0.6 * predicted
