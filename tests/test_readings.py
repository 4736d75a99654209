"""Which reading a layer gets, and how two readings meet or say why they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_svcca.kernels.fourier import half_plane, shared_frequencies
from dask_svcca.readings import (
    First,
    Flatten,
    Fourier,
    Last,
    Mean,
    Meeting,
    Neurons,
    Positions,
    Reading,
    ReadingOptions,
    choose_reading,
    divides,
    meet,
    needed_folds,
)
from dask_svcca.variables import PairStatus

DENSE = ("example", "neuron"), (500, 24)
LINE = ("example", "width", "channel"), (500, 12, 6)
CONV = ("example", "height", "width", "channel"), (500, 8, 6, 16)
VOLUME = ("example", "depth", "height", "width", "channel"), (500, 2, 3, 4, 5)
POINT = ("example", "height", "width", "channel"), (500, 1, 1, 16)
TOKENS = ("example", "token", "neuron"), (500, 12, 24)


@pytest.mark.parametrize(
    ("layer", "options", "expected"),
    [
        (DENSE, {}, Neurons()),
        (DENSE, {"conv": "positions", "sequence": "last", "mask": "mask"}, Neurons()),
        (LINE, {}, Fourier.of((12,))),
        (CONV, {}, Fourier.of((8, 6))),
        (VOLUME, {}, Fourier.of((2, 3, 4))),
        (CONV, {"conv": "mean", "mask": "mask"}, Mean((8, 6))),
        (CONV, {"conv": "flatten"}, Flatten((8, 6))),
        (CONV, {"conv": "positions"}, Positions((8, 6))),
        (
            CONV,
            {"conv": "positions", "positions": "random 9", "spatial_size": (4, 4), "mask": "mask"},
            Positions((8, 6), choice="random 9", resampled=(4, 4)),
        ),
        # One position has one frequency: it is a dense layer.
        (POINT, {}, Flatten((1, 1))),
        (POINT, {"conv": "mean"}, Flatten((1, 1))),
        # With another number of axes a layer is not resampled.
        (LINE, {"conv": "positions", "spatial_size": (4, 4)}, Positions((12,))),
        (TOKENS, {}, Mean((12,))),
        (TOKENS, {"sequence": "last", "mask": "mask"}, Last((12,), mask_name="mask")),
        (TOKENS, {"sequence": "first", "mask": "mask"}, First((12,), mask_name="mask")),
        (
            TOKENS,
            {"sequence": "positions", "positions": "regular 3", "mask": "mask", "spatial_size": (4,)},
            Positions((12,), choice="regular 3", mask_name="mask"),
        ),
    ],
)
def test_choose_reading(layer: Any, options: Any, expected: Reading) -> None:
    assert choose_reading(*layer, ReadingOptions(**options)) == expected


@pytest.mark.parametrize("match", ["crop", "fold"])
@pytest.mark.parametrize(("grid_a", "grid_b"), [((8, 8), (8, 8)), ((8, 8), ()), ((), (5,)), ((), ())])
def test_meet__of_one_grid_or_a_dense_layer(match: str, grid_a: Any, grid_b: Any) -> None:
    expected = Meeting((), (), shared_frequencies(grid_a, grid_b), cropped=False)
    assert meet("examples", grid_a, "examples", grid_b, match) == expected


def test_meet__crops_to_what_both_have() -> None:
    assert meet("examples", (8, 5), "examples", (4, 7), "crop") == Meeting(
        (), (), shared_frequencies((8, 5), (4, 7)), cropped=True
    )


@pytest.mark.parametrize(
    ("fine", "coarse"), [((8, 8), (4, 4)), ((8, 8), (8, 2)), ((12,), (3,)), ((4, 4, 4), (2, 2, 2))]
)
def test_meet__folds_the_finer(fine: Any, coarse: Any) -> None:
    shared = shared_frequencies(coarse, coarse)
    assert meet("examples", fine, "examples", coarse, "fold") == Meeting(coarse, (), shared, cropped=False)
    assert meet("examples", coarse, "examples", fine, "fold") == Meeting((), coarse, shared, cropped=False)


@pytest.mark.parametrize(
    ("grid_a", "grid_b", "match"),
    [
        ((8, 8), (5, 5), "fold"),
        # Each is finer along one axis.
        ((8, 4), (4, 8), "fold"),
        ((8,), (8, 8), "fold"),
        ((8,), (8, 8), "crop"),
        ((8, 8), (8, 8, 8), "crop"),
    ],
)
def test_meet__says_that_grids_are_incompatible(grid_a: Any, grid_b: Any, match: str) -> None:
    assert meet("examples", grid_a, "examples", grid_b, match) is PairStatus.INCOMPATIBLE_GRIDS
    assert meet("examples", grid_b, "examples", grid_a, match) is PairStatus.INCOMPATIBLE_GRIDS


@pytest.mark.parametrize("match", ["crop", "fold"])
def test_meet__says_that_samples_are_incompatible(match: str) -> None:
    positions = Positions((4, 4)).domain
    for other, grid in (("examples", ()), ("examples", (4, 4)), (Positions((2, 2)).domain, ())):
        assert meet(positions, (), other, grid, match) is PairStatus.INCOMPATIBLE_SAMPLES
    assert isinstance(meet(positions, (), positions, (), match), Meeting)


GRIDS = st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=1, max_size=2).map(tuple)


@given(a=GRIDS, b=GRIDS)
def test_divides__is_an_order(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert divides(a, a)
    assert (divides(a, b) and divides(b, a)) == (a == b)
    if divides(a, b):
        assert len(half_plane(a).frequency) <= len(half_plane(b).frequency)


@given(grids=st.lists(st.one_of(st.just(()), GRIDS), min_size=1, max_size=6), data=st.data())
def test_needed_folds__are_those_that_pairs_meet_by(grids: list[tuple[int, ...]], data: st.DataObject) -> None:
    count = len(grids)
    flags = data.draw(st.lists(st.booleans(), min_size=count**2, max_size=count**2))
    missing = np.array(flags).reshape(count, count)
    missing |= missing.T
    expected: dict[int, set[tuple[int, ...]]] = {}
    for i, j in np.argwhere(missing):
        meeting = meet("examples", grids[i], "examples", grids[j], "fold")
        if isinstance(meeting, Meeting) and meeting.fold_a:
            expected.setdefault(int(i), set()).add(meeting.fold_a)
    found = needed_folds(grids, lambda a, b: missing[np.ix_(a, b)].any(axis=1))
    assert {index: set(folds) for index, folds in found.items()} == expected
    assert all(len(set(folds)) == len(folds) for folds in found.values())
