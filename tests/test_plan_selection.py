"""Which pairs are asked for, and parameters that are refused."""

from __future__ import annotations

import json
import re
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from planned import representation, representations

from dask_svcca.errors import UnknownMeasureError
from dask_svcca.plan.final import final_checkpoints
from dask_svcca.plan.pairs import find_missing
from dask_svcca.plan.parameters import Parameters, make_parameters
from dask_svcca.plan.selection import Selection, select_pairs
from dask_svcca.stores.zoo import frame_of
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd


def frame(models: int = 2, checkpoints: int = 3, layers: int = 2) -> pd.DataFrame:
    return frame_of(representations(models, checkpoints, layers))


# Which pairs.


def selected(pairs: Any, representations: pd.DataFrame) -> np.ndarray:
    """The whole matrix, put together of blocks."""
    every = np.arange(len(representations))
    chosen = select_pairs(pairs, representations)
    return np.block(
        [[chosen.block(rows, columns) for columns in (every[:3], every[3:])] for rows in np.split(every, 2)]
    )


Row = Any  # of DataFrame.itertuples


def is_final(row: Row, every: list[Row]) -> bool:
    return row.step == max(other.step for other in every if other.model == row.model)


SELECTIONS: dict[str, Callable[[Row, Row, list[Row]], bool]] = {
    "all": lambda a, b, every: True,
    "same-layer": lambda a, b, every: a.layer == b.layer,
    "same-checkpoint": lambda a, b, every: a.model == b.model and a.checkpoint == b.checkpoint,
    "within-model": lambda a, b, every: a.model == b.model,
    "final": lambda a, b, every: a.model == b.model and (is_final(a, every) or is_final(b, every)),
    "between net0 net1": lambda a, b, every: {a.model, b.model} == {"net0", "net1"},
    "between net1 net1": lambda a, b, every: a.model == b.model == "net1",
}


@pytest.mark.parametrize("pairs", SELECTIONS)
def test_select_pairs__agrees_with_asking_each_pair(pairs: str) -> None:
    shuffled = frame(models=3, checkpoints=3).sample(frac=1, random_state=0)
    rows = list(shuffled.itertuples())
    expected = [[SELECTIONS[pairs](a, b, rows) for b in rows] for a in rows]
    np.testing.assert_array_equal(selected(pairs, shuffled), expected)


def test_select_pairs__final_without_steps_is_the_last_by_name() -> None:
    without = frame(models=1, checkpoints=2, layers=1).assign(step=np.nan)
    assert list(without["checkpoint"]) == ["step0", "step8"]
    np.testing.assert_array_equal(selected("final", without), [[False, True], [True, True]])


@pytest.mark.parametrize("pairs", ["between 'ResNet 50' ViT", 'between "ResNet 50" ViT', r"between ResNet\ 50 ViT"])
def test_select_pairs__names_with_spaces_are_quoted_as_in_a_shell(pairs: str) -> None:
    found = selected(pairs, frame_of([representation("ResNet 50"), representation("ViT")]))
    np.testing.assert_array_equal(found, [[False, True], [True, False]])


def test_select_pairs__a_mask_goes_both_ways_and_stays_as_it_was() -> None:
    mask = np.zeros((12, 12), dtype=bool)
    mask[2, 7] = True
    assert sorted(map(tuple, np.argwhere(selected(mask, frame())))) == [(2, 7), (7, 2)]
    assert mask.sum() == 1


def test_select_pairs__a_labelled_mask_may_be_in_any_order() -> None:
    labels = frame().index.to_numpy()
    mask = xr.DataArray(
        np.zeros((12, 12), dtype=bool),
        dims=("representation_b", "representation_a"),
        coords={"representation_a": labels[::-1], "representation_b": labels},
    )
    mask.loc[{"representation_a": labels[2], "representation_b": labels[7]}] = True
    assert sorted(map(tuple, np.argwhere(selected(mask, frame())))) == [(2, 7), (7, 2)]
    pandas = mask.transpose("representation_a", "representation_b").to_pandas()
    assert sorted(map(tuple, np.argwhere(selected(pandas, frame())))) == [(2, 7), (7, 2)]
    assert sorted(map(tuple, np.argwhere(selected(pandas.astype("boolean"), frame())))) == [(2, 7), (7, 2)]


def test_select_pairs__the_last_of_checkpoints_without_steps_is_by_number() -> None:
    names = ["epoch-9", "epoch-10", "500", "1500"]
    for last, others in (
        ("epoch-10", names[:2]),
        ("1500", names[2:]),
        ("final", ["init", "epoch9", "final"]),
        ("net_Last", ["net_9", "net_Last"]),
        ("epoch10", ["init", "epoch9", "epoch10"]),
        ("0.5", ["0.25", "0.5"]),
        ("1e3", ["5e2", "1e3"]),
        ("0", ["-1", "0"]),
        ("v1.10", ["v1.9", "v1.10"]),
        ("net-1.2.10", ["net-1.2.9", "net-1.2.10"]),
        ("step1.5", ["step1", "step1.5"]),
        ("step2e3", ["step1e3", "step2e3"]),
        ("2025-01-02", ["2024-12-11", "2025-01-02"]),
        ("run_20250102-0900", ["run_20241230-1000", "run_20250102-0900"]),
        ("epoch=4-step=400", ["epoch=3-step=300", "epoch=4-step=400"]),
        ("seed1-step10", ["seed01-step9", "seed1-step10"]),
        ("a", ["init", "a"]),
        ("a", ["a"]),
        ("init", ["init"]),
    ):
        found = frame_of([representation("net", checkpoint=name) for name in others])
        np.testing.assert_array_equal(final_checkpoints(found), [name == last for name in others])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"epoch9": None, "swa": None}, "they have no steps, and 'epoch9' and 'swa' differ in more than the numbers"),
        ({"a": None, "b": None}, "'a' and 'b' differ in more"),
        ({"final": None, "last": None}, "'final' and 'last' differ in more"),
        ({"epoch-9": None, "epoch-09": None}, "'epoch-9' and 'epoch-09' have the same number"),
        (
            {"seed2-step5": None, "seed1-step10": None},
            "in 'seed2-step5' one is higher than in 'seed1-step10'",
        ),
        ({"step9-lr0.5": None, "step10-lr0.1": None}, "in 'step10-lr0.1' one is higher"),
        ({"step1e3": None, "step5e2": None}, "in 'step5e2' one is higher than in 'step1e3', another lower"),
        ({"1.9": None, "1.10": None}, "'1.9' and '1.10' may be decimal numbers or versions"),
        ({"net1.9": None, "net1.10": None}, "'net1.10' and 'net1.9' may be decimal numbers or versions"),
        ({"step0.5": None, "step0.25": None}, "may be decimal numbers or versions"),
        ({"1.0": None, "1": None}, "'1.0' and '1' have the same number"),
        ({"step5": 5, "swa": None}, "'step5' has the step 5, and 'swa' has none. Give them steps"),
        ({"a": 5, "b": 5, "c": 1}, "'a' and 'b' have the same step, 5"),
    ],
)
def test_select_pairs__the_final_checkpoint_is_not_guessed(steps: dict[str, float | None], message: str) -> None:
    found = frame_of([representation("net", checkpoint=name, step=step) for name, step in steps.items()])
    with pytest.raises(ValueError, match=rf"which checkpoint of 'net' is the final one cannot be known: .*{message}"):
        select_pairs("final", found)


def test_select_pairs__the_final_checkpoint_of_names_and_steps() -> None:
    steps = {"init": None, "step5": 5, "step10": 10}
    for more, last in (({}, "step10"), ({"final": None}, "final"), ({"final": 7}, "step10")):
        every = {**steps, **more}
        found = frame_of([representation("net", checkpoint=name, step=step) for name, step in every.items()])
        np.testing.assert_array_equal(final_checkpoints(found), [name == last for name in found["checkpoint"]])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("", "pairs='' is not a selection"),
        ("some", "pairs='some' is not a selection; there are 'all', 'same-layer', .*, or a mask"),
        ("all net0", "pairs='all net0' is not a selection"),
        ("between net0", "pairs='between net0' is not a selection"),
        ("between net0 other", "no model 'other' for pairs='between net0 other'; there are net0, net1"),
        ("between 'net0 net1", "pairs=.* cannot be read: No closing quotation. Close every quote"),
        (np.ones((3, 3), dtype=bool), r"boolean, \(12, 12\) for 12 representations; got bool, \(3, 3\)"),
        (np.ones((12, 12)), "boolean, .* got float64"),
        ("finale", "Did you mean 'final'"),
        (frame().reset_index(drop=True)[["step"]], "a mask of pairs is boolean; columns of this DataFrame are not"),
        (np.zeros((12, 12), dtype=bool), "pairs=the given mask selects no pair of 12"),
        (
            xr.DataArray([[True]], coords={"representation_a": ["a"], "representation_b": ["b"]}),
            "no representation_a for 12 representations of the zoo, among them 'net0/step0/fc0'",
        ),
    ],
)
def test_select_pairs__refuses_what_selects_nothing(pairs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_pairs(pairs, frame())


def test_find_missing__holds_no_matrix_of_all_pairs() -> None:
    count, read = 4000, []

    class Done:
        def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
            read.append(place)
            return np.full([one.stop - one.start for one in place], PairStatus.DONE, dtype=np.uint8)

    every = Selection(count, lambda rows, columns: np.ones((len(rows), len(columns)), dtype=bool))
    state: Any = SimpleNamespace(labels=range(count), status=Done())
    tracemalloc.start()
    try:
        found = find_missing(every, range(count), state, [5], 64, lacking=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Those of the representation that has changed, in the first row of tiles.
    assert (found.asked, found.missing) == (count * (count + 1) // 2, count)
    assert list(found.tiles) == [(0, column) for column in range(-(-count // 64))]
    assert peak < count**2 / 4
    # Where only some pairs of a group with itself are missing, its tile holds two sides.
    assert not any(found.with_itself().values())
    fresh = find_missing(every, range(count), None, [], 2400, lacking=False)
    assert fresh.with_itself() == {(0, 0): True, (0, 1): False, (1, 1): True}
    # Nothing below the diagonal is read.
    assert all(columns.start == rows.start for rows, columns in read)


@pytest.mark.parametrize("lacking", [False, True])
def test_find_missing__is_what_the_whole_matrix_says(lacking: bool) -> None:
    """More pairs than are looked at together, some of which nobody asked for, and some of what has left or changed."""
    rng = np.random.default_rng(5)
    count, known, side = 1200, 1150, 400
    mask = rng.random((count, count)) < 0.6
    status = np.full((known, known), PairStatus.DONE, np.uint8)
    # Whole tiles are done, and others miss some.
    status[500:, 900:] = rng.integers(0, len(PairStatus), (known - 500, known - 900))
    places = [-1 if place in {3, 700} else place for place in range(count)]
    state: Any = SimpleNamespace(labels=range(known), status=status)
    found = find_missing(Selection.of(mask), places, state, [20, 1100], side, lacking=lacking)

    asked = np.triu(mask | mask.T)
    asked[[3, 700]] = asked[:, [3, 700]] = False
    states = set(PairStatus) - {PairStatus.INCOMPATIBLE_GRIDS, PairStatus.INCOMPATIBLE_SAMPLES}
    if not lacking:
        states -= {PairStatus.DONE, PairStatus.SATURATED, PairStatus.FAILED}
    missing = np.ones((count, count), dtype=bool)
    missing[:known, :known] = np.isin(status, list(states))
    missing[[20, 1100]] = missing[:, [20, 1100]] = True
    missing &= asked
    assert (found.asked, found.missing, found.partial) == (asked.sum(), missing.sum(), True)
    tiles = {}
    for (row, column), bits in found.tiles.items():
        shape = min(side, count - row * side), min(side, count - column * side)
        tiles[row, column] = np.unpackbits(np.frombuffer(bits, np.uint8), count=np.prod(shape)).reshape(shape)
    again = np.zeros_like(missing)
    for (row, column), pairs in tiles.items():
        again[row * side :, column * side :][: pairs.shape[0], : pairs.shape[1]] = pairs
    np.testing.assert_array_equal(np.triu(again), missing)
    assert found.needed[missing.any(axis=0) | missing.any(axis=1)].all()


def test_select_pairs__all_is_asked_one_way() -> None:
    every = select_pairs("all", frame())
    assert every.symmetric
    assert every.block(np.arange(3), np.arange(5)).all()
    assert not select_pairs("between net0 net1", frame()).symmetric


# Parameters.


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"variance": np.float64(0.9)}, {"variance": 0.9}),
        ({"variance": np.float32(0.99)}, {"variance": 0.99}),
        ({"variance": np.array(0.9)}, {"variance": 0.9}),
        ({"variance": 1}, {"variance": 1.0}),
        ({"spatial_size": np.array([4, 8])}, {"spatial_size": [4, 8]}),
        ({"spatial_size": [np.int64(4)]}, {"spatial_size": [4]}),
        ({"keep": np.str_("correlations")}, {"keep": ["correlations"]}),
        ({"keep": ["correlations", "correlations"]}, {"keep": ["correlations"]}),
        ({"conv": np.str_("mean"), "mask": np.str_("real")}, {"conv": "mean", "mask": "real"}),
        ({"measures": np.array(["cka", "svcca"])}, {"measures": ["cka", "svcca"]}),
    ],
)
def test_parameters__become_values_of_json(given: dict[str, Any], plain: dict[str, Any]) -> None:
    found = make_parameters(**{"measures": "svcca", **given}).to_dict()
    assert json.loads(json.dumps(found)) == {**Parameters().to_dict(), **plain}
    for name, value in plain.items():
        assert type(found[name]) is type(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": True}, "variance is the share .* got True"),
        ({"variance": "0.99"}, "variance is the share .* got '0.99'"),
        ({"variance": [0.9]}, r"variance is the share .* got \[0.9\]"),
        ({"spatial_size": 8}, r"spatial_size is one size an axis, whole numbers such as \(8, 8\); got 8"),
        ({"spatial_size": (8.5, 8)}, "spatial_size is one size an axis, whole numbers"),
        ({"spatial_size": (True, 8)}, "spatial_size is one size an axis, whole numbers"),
        ({"mask": True}, "mask is the name of a coordinate of the zoo, or None; got True"),
        ({"keep": None}, "keep is a name, or several names; got None"),
        ({"measures": [1]}, "measures is a name, or several names; got 1"),
        ({"conv": None}, "conv is one of 'dft', 'mean', 'positions', 'flatten'; got None"),
        ({"conv": ["dft"]}, r"conv is one of 'dft', .*; got \['dft'\]"),
        ({"positions": 4}, "positions is one of 'all', 'regular N', 'random N'; got 4"),
        ({"positions": "4"}, "positions is 'all', 'regular N' or 'random N'; got '4'"),
        ({"sequence": "frist"}, "got 'frist'. Did you mean 'first'?"),
        ({"measures": "svca"}, "no measure 'svca'; .* Did you mean 'svcca'?"),
    ],
)
def test_parameters__refuse_what_is_not_valid(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_parameters(**{"measures": "svcca", **options})


def test_parameters__an_unknown_one_is_explained() -> None:
    with pytest.raises(TypeError, match=r"compare\(\) has no parameter 'varience'. Did you mean 'variance'?"):
        make_parameters("svcca", varience=0.9)


@pytest.mark.parametrize("variance", [0, -0.1, 1.01, 99, float("nan")])
def test_parameters__refuse_a_variance_that_is_not_a_share(variance: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"above 0 and up to 1; got {variance!r}. The paper's is 0.99")):
        Parameters(variance=variance)


@pytest.mark.parametrize("name", ["conv", "match", "sequence", "precision"])
def test_parameters__name_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is one of '\w+', .*'; got 'other'"):
        Parameters(**{name: "other"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "some"}, "positions is 'all', 'regular N' or 'random N'; got 'some'"),
        ({"positions": "regular 0"}, "got 'regular 0'"),
        ({"spatial_size": (4, 0)}, r"one size an axis, each at least 1; got \(4, 0\)"),
        ({"spatial_size": ()}, r"one size an axis, each at least 1; got \(\)"),
        ({"keep": ("loadings",)}, "keep is some of 'correlations', 'frequencies'; got 'loadings'"),
        ({"keep": ("frequencies",), "conv": "mean"}, "keep='frequencies' needs conv='dft', .* got 'mean'"),
    ],
)
def test_parameters__refuse_other_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parameters(**options)


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ("svca", "no measure 'svca'; there are .*svcca"),
        (("svcca", "nothing"), "no measure 'nothing'"),
        ((), "no measure asked for; the usual one is 'svcca'"),
    ],
)
def test_make_parameters__refuses_unknown_measures(measures: Any, message: str) -> None:
    with pytest.raises(UnknownMeasureError, match=message):
        make_parameters(measures)


@pytest.mark.parametrize("parameters", [Parameters(), Parameters(variance=None, conv="positions", spatial_size=(4, 4))])
def test_parameters__are_json(parameters: Parameters) -> None:
    # A comparison is refused where the parameters in its attributes differ from these.
    assert json.loads(json.dumps(parameters.to_dict())) == parameters.to_dict()


def test_parameters__measures_and_details_may_be_added_and_all_else_is_fixed() -> None:
    one = Parameters()
    assert replace(one, measures=("cka",), keep=("correlations",)).fixed == one.fixed
    assert {*one.to_dict()} - {*one.fixed} == {"measures", "keep"}
    for name, other in {"variance": 0.5, "conv": "mean", "match": "fold", "precision": "float64", "mask": "m"}.items():
        assert replace(one, **{name: other}).fixed != one.fixed
