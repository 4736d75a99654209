"""Figures: what is in the artists is what is stored, a is y, and names are text."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from noted import read_when_used

import dask_svcca
from dask_svcca.analysis.selection import part_of
from dask_svcca.errors import (
    IncompatibleError,
    InvalidQuestionError,
    MissingPackageError,
    RepresentationNotFoundError,
    UnknownMeasureError,
)
from dask_svcca.variables import PairStatus

mpl = pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from dask_svcca import plot  # noqa: E402
from dask_svcca.plot import _blocks, _names, _panes, _scale, _sides, _steps  # noqa: E402
from dask_svcca.plot._sides import evenly  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = [
    "$$x$$",
    "<img src=x onerror=alert(1)>",
    "</script>",
    "_hidden",
    "שלום",
    "a/b\\c",
    "x" * 300,
    "$\\frac{1}{0}$",
]


def made(
    models: tuple[str, ...] = ("net-s0", "net-s1"),
    steps: tuple[float, ...] = (0, 5, 40, 630),
    layers: tuple[str, ...] = ("conv", "relu", "fc"),
    *,
    values: Any = None,
    **attributes: Any,
) -> xr.Dataset:
    """A comparison of random values that are not symmetric, its layers stored from the deepest to the first."""
    rows = [
        (model, f"step{step:g}", layer, step, depth)
        for model, step in itertools.product(models, steps)
        for depth, layer in reversed(list(enumerate(layers)))
    ]
    count = len(rows)
    if values is None:
        values = np.random.default_rng(0).uniform(size=(count, count))
    coords = {}
    for side in "ab":
        dim = f"representation_{side}"
        coords[dim] = ["/".join(row[:3]) for row in rows]
        for number, name in enumerate(("model", "checkpoint", "layer", "step", "depth")):
            coords[f"{name}_{side}"] = (dim, np.array([row[number] for row in rows]))
    dims = ("representation_a", "representation_b")
    said = {"sense": "similarity", "valid_range": [0.0, 1.0], "symmetric": False, **attributes}
    result = xr.Dataset({"own": (dims, values, said)}, coords=coords, attrs={"parameters": {"measures": ["own"]}})
    if isinstance(values, np.ndarray):
        result["pair_status"] = dims, np.full((count, count), int(PairStatus.DONE), np.uint8)
    result["rank_a"], result["neurons_a"] = (("representation_a", np.arange(count) + add) for add in (2, 9))
    result["variance_kept_a"] = "representation_a", np.linspace(0.5, 1, count)
    return result


def texts(ticks: Any) -> list[str]:
    return [tick.get_text() for tick in ticks]


def every_text(figure: Any) -> list[str]:
    return [one.get_text() for one in figure.findobj(mpl.text.Text) if one.get_text()]


def value(result: xr.Dataset, a: str, b: str) -> float:
    return float(result["own"].sel(representation_a=a, representation_b=b))


def test_matrix__a_is_y_and_b_is_x() -> None:
    result = made()
    pane = plot.matrix(result, a={"model": "net-s0", "step": 630}, b={"model": "net-s1", "layer": ["fc", "relu"]})
    drawn = pane.images[0].get_array()
    assert drawn.shape == (3, 8)
    # In order of depth, though they are stored the other way round.
    a = [f"net-s0/step630/{layer}" for layer in ("conv", "relu", "fc")]
    b = [f"net-s1/step{step}/{layer}" for step in (0, 5, 40, 630) for layer in ("relu", "fc")]
    expected = [[value(result, one, other) for other in b] for one in a]
    np.testing.assert_array_equal(drawn, expected)
    assert texts(pane.get_yticklabels()) == ["conv", "relu", "fc"]
    assert texts(pane.get_xticklabels()) == [label.removeprefix("net-s1/") for label in b]
    assert pane.get_ylabel() == "a: layers of net-s0/step630"
    assert pane.get_xlabel() == "b: representations of net-s1"
    # The first row is at the bottom.
    assert pane.images[0].origin == "lower"


@pytest.mark.parametrize(
    ("attributes", "limits", "colours"),
    [
        ({}, (0.0, 1.0), "viridis"),
        ({"valid_range": [-1.0, 1.0]}, (-1.0, 1.0), "viridis"),
        ({"valid_range": [0.0, None], "sense": "distance"}, (0.0, None), "viridis_r"),
        ({"valid_range": [None, None]}, (None, None), "viridis"),
    ],
)
def test_colours__are_those_of_the_valid_range(
    attributes: dict[str, Any], limits: tuple[float | None, float | None], colours: str
) -> None:
    result = made(**attributes)
    image = plot.matrix(result).images[0]
    low, high = limits
    stored = result["own"].to_numpy()
    assert image.get_clim() == (stored.min() if low is None else low, stored.max() if high is None else high)
    assert image.get_cmap().name == colours
    bar = image.colorbar.ax.get_ylabel()
    assert bar == ("own (a distance: low is alike)" if "sense" in attributes else "own")


def test_missing__is_grey_and_the_legend_says_why() -> None:
    result = made()
    result["own"][:2, :3], result["own"][5, 6] = np.nan, np.nan
    result["pair_status"][:2, :3] = int(PairStatus.MISSING)
    result["pair_status"][5, 6] = int(PairStatus.INCOMPATIBLE_GRIDS)
    image = plot.matrix(result).images[0]
    assert int(np.ma.getmaskarray(image.get_array()).sum()) == 7
    assert to_hex(image.get_cmap().get_bad()) == _scale.GREY
    (said,) = texts(image.colorbar.ax.get_legend().get_texts())
    assert said == "no value:\n1 incompatible grids\n6 not computed yet"
    assert plot.matrix(made()).images[0].colorbar.ax.get_legend() is None


def test_every_kind__of_a_comparison_that_has_nothing_yet() -> None:
    result = made()
    result["own"][:], result["pair_status"][:] = np.nan, int(PairStatus.MISSING)
    for draw in (plot.matrix, plot.dynamics, plot.checkpoints):
        axes = np.ravel(draw(result))
        assert all(np.ma.getmaskarray(pane.images[0].get_array()).all() for pane in axes)
        assert axes[0].images[0].get_clim() == (0, 1)
        assert any("not computed yet" in text for text in every_text(_panes.figure_of(axes)))
    (pane,) = plot.seeds(result)
    assert np.isnan(pane.lines[0].get_ydata()).all()


def test_dynamics__each_pane_is_a_checkpoint_against_the_final_one() -> None:
    result = made()
    axes = plot.dynamics(result, where={"step": [0, 40]})
    assert axes.shape == (2, 2)
    assert [pane.get_title() for pane in axes[1]] == ["step 0", "step 40"]
    layers = ("conv", "relu", "fc")
    for row, model in enumerate(("net-s0", "net-s1")):
        for column, step in enumerate((0, 40)):
            expected = [
                [value(result, f"{model}/step{step}/{one}", f"{model}/step630/{other}") for other in layers]
                for one in layers
            ]
            np.testing.assert_array_equal(axes[row, column].images[0].get_array(), expected)
    assert (axes[0, 0].get_ylabel(), axes[1, 0].get_xlabel()) == ("a: net-s0", "b: at the end, step 630")


def test_checkpoints__in_the_order_of_training() -> None:
    result = made(steps=(9, 10, 100))
    axes = plot.checkpoints(result, where={"model": "net-s1"})
    assert [pane.get_title() for pane in axes] == ["conv", "relu", "fc"]
    expected = [[value(result, f"net-s1/step{a}/fc", f"net-s1/step{b}/fc") for b in (9, 10, 100)] for a in (9, 10, 100)]
    np.testing.assert_array_equal(axes[2].images[0].get_array(), expected)
    # Panes have the same checkpoints, so that the first of a row names them for all.
    assert [texts(pane.get_yticklabels()) for pane in axes] == [["9", "10", "100"], [], []]
    assert [texts(pane.get_xticklabels()) for pane in axes] == [["9", "10", "100"]] * 3


def test_checkpoints__of_a_part_shows_layers_that_both_sides_have() -> None:
    result = made(steps=(9, 10))
    (pane,) = plot.checkpoints(part_of(result, b={"model": "net-s1", "layer": "fc"}))
    expected = [[value(result, f"net-s1/step{a}/fc", f"net-s1/step{b}/fc") for b in (9, 10)] for a in (9, 10)]
    np.testing.assert_array_equal(pane.images[0].get_array(), expected)
    with pytest.raises(IncompatibleError, match="none of 3 on side a, such as 'net-s0/conv', is on side b"):
        plot.checkpoints(part_of(result, {"model": "net-s0"}, {"model": "net-s1"}))


def test_checkpoints__are_more_than_one() -> None:
    result = made(steps=(9, 10))
    with pytest.raises(InvalidQuestionError, match=r"each of 6 layers has one checkpoint here: .*`matrix`"):
        plot.checkpoints(result, where={"step": 9})
    with pytest.raises(InvalidQuestionError, match="and the only layer has one checkpoint here: "):
        plot.checkpoints(result, where={"step": 9, "model": "net-s0", "layer": "fc"})
    # Layers that have but one are left out, and counted.
    some = (result["layer_a"] != "relu") | (result["step_a"] == 10)
    result = result.isel(representation_a=some.to_numpy(), representation_b=some.to_numpy())
    panes = plot.checkpoints(result, where={"model": "net-s0"})
    assert len(panes) == 2
    assert panes[0].get_title().startswith("2 of 3 layers")


def test_cluster__another_order_of_side_b_changes_nothing() -> None:
    result = made(steps=(9,))
    turned = result.isel(representation_b=[3, 5, 0, 1, 4, 2])
    one, other = (plot.cluster(part).images[0].get_array() for part in (result, turned))
    np.testing.assert_array_equal(one, other)
    points = [plot.embedding(part).collections[0].get_offsets() for part in (result, turned)]
    np.testing.assert_allclose(*points, atol=1e-12)
    for draw in (plot.cluster, plot.embedding):
        with pytest.raises(IncompatibleError, match="are on side a alone"):
            draw(result.isel(representation_b=[3, 5, 0]))


def test_settling__a_planted_order_is_found() -> None:
    """Layers that settle third, first and second."""
    steps, settles = (0.0, 1.0, 10.0, 100.0), {"first": 100.0, "second": 1.0, "third": 10.0}
    result = made(("net",), steps, tuple(settles))
    for layer, settled in settles.items():
        for step in steps:
            place = {"representation_a": f"net/step{step:g}/{layer}", "representation_b": f"net/step100/{layer}"}
            result["own"].loc[place] = 1.0 if step >= settled else 0.3
    (pane,) = plot.settling(result)
    curves = [line for line in pane.lines if len(line.get_xdata()) == 4]
    diamonds = [float(np.ravel(line.get_xdata())[0]) for line in pane.lines if line.get_marker() == "D"]
    assert diamonds == list(settles.values())
    for line, settled in zip(curves, settles.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), [1.0 if step >= settled else 0.3 for step in steps])
    # Spearman of (1, 2, 3) and (3, 1, 2).
    assert "settled step and depth: rank correlation -0.50" in " ".join(pane.get_title().split())
    assert pane.get_xscale() == "symlog"
    assert texts(pane.get_xticklabels()) == ["0", "1", "10", "100"]


@pytest.mark.parametrize(("ends", "label"), [((100, 100), "b: at the end, step 100"), ((100, 200), "b: at the end")])
def test_dynamics__says_the_last_step_where_it_is_one(ends: tuple[int, int], label: str) -> None:
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(50)) as zoo:
        for model, end in zip(("one", "two"), ends, strict=True):
            for step in (0, end):
                zoo.write(model, f"at{step}", "fc", rng.normal(size=(50, 4)), step=step, depth=0)
    axes = plot.dynamics(dask_svcca.compare(zoo))
    assert [pane.get_xlabel() for pane in axes.flat if pane.get_xlabel()] == [label]


def test_settling__of_a_layer_without_a_step_in_a_checkpoint_that_has_one() -> None:
    rng = np.random.default_rng(0)
    with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(50)) as zoo:
        for step, layer in itertools.product((0, 10, 100), ("first", "second")):
            known = {} if (step, layer) == (10, "first") else {"step": step}
            zoo.write("net", f"at{step}", layer, rng.normal(size=(50, 4)), depth=0, **known)
    (pane,) = plot.settling(dask_svcca.compare(zoo))
    assert texts(pane.get_xticklabels()) == ["0", "10", "100"]


def test_settling__numbers_are_of_all_models() -> None:
    models, steps, settles = tuple(f"net-s{seed}" for seed in range(10)), (0.0, 1.0, 10.0, 100.0), (1, 10, 100)
    rng = np.random.default_rng(2)
    result = made(models, steps, ("first", "second"))
    for model in models:
        for layer in ("first", "second"):
            # Those of which lines are drawn settle last.
            settled = 100 if model in evenly(models, 6) else rng.choice(settles[:2] if layer == "first" else settles)
            for step in steps:
                place = {
                    "representation_a": f"{model}/step{step:g}/{layer}",
                    "representation_b": f"{model}/step100/{layer}",
                }
                result["own"].loc[place] = 1.0 if step >= settled else 0.3
    (pane,) = plot.settling(result)
    found = dask_svcca.learning_dynamics(result, measure="own")
    diamonds = [float(np.ravel(line.get_xdata())[0]) for line in pane.lines if line.get_marker() == "D"]
    assert diamonds == found["settled_by"].to_numpy().tolist()
    intervals = [list(line.get_xdata()) for line in pane.lines if line.get_marker() == "|"]
    ends = zip(found["settled_low"].to_numpy(), found["settled_high"].to_numpy(), strict=True)
    assert intervals == [[low, high] for low, high in ends if high > low]
    ordered = int(found["depth_correlation"].count())
    assert 0 < ordered < 10
    assert f"rank correlation {float(found['depth_correlation'].mean()):.2f}, {ordered} of 10 models" in " ".join(
        pane.get_title().split()
    )
    assert "lines: 6 of 10 models" in pane.get_title()
    lines = [line.get_ydata() for line in pane.lines if len(line.get_xdata()) == 4]
    np.testing.assert_allclose(lines[0], [0.3, 0.3, 0.3, 1])


def test_seeds__mean_of_both_orders_of_a_directed_measure() -> None:
    result = made()
    (pane,) = plot.seeds(result)
    for line, layer in zip(pane.lines, ("conv", "relu", "fc"), strict=True):
        expected = [
            np.mean([value(result, f"net-s{a}/step{step}/{layer}", f"net-s{1 - a}/step{step}/{layer}") for a in (0, 1)])
            for step in (0, 5, 40, 630)
        ]
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
    assert texts(pane.get_legend().get_texts()) == ["fc", "relu", "conv"]


def test_by_chance__in_seeds_settling_and_groups() -> None:
    result = made(symmetric=True, null="null_own")
    result["null_own"] = result["own"].dims, np.random.default_rng(1).uniform(0, 0.2, result["own"].shape)
    layers, steps = ("conv", "relu", "fc"), (0, 5, 40, 630)

    def chance(a: str, b: str) -> float:
        pairs = [{"representation_a": f"{a}/{layer}", "representation_b": f"{b}/{layer}"} for layer in layers]
        return float(np.mean([float(result["null_own"].sel(pair)) for pair in pairs]))

    across = [chance(f"net-s0/step{step}", f"net-s1/step{step}") for step in steps]
    to_final = [chance(f"net-s1/step{step}", "net-s1/step630") for step in steps]
    for draw, where, expected in ((plot.seeds, None, across), (plot.settling, {"model": "net-s1"}, to_final)):
        (pane,) = draw(result, where=where)
        assert (pane.lines[0].get_linestyle(), to_hex(pane.lines[0].get_color())) == ("--", _scale.GREY)
        assert pane.lines[0].get_zorder() > max(line.get_zorder() for line in pane.lines[1:])
        np.testing.assert_allclose(pane.lines[0].get_ydata(), expected, rtol=1e-12)
        assert texts(pane.texts) == ["by chance"]
    sides: dict[str, Any] = {"zero": {"model": "*s0"}, "one": {"model": "*s1"}}
    pane = plot.groups(result, sides)
    assert pane.get_xlabel() == "own, same layers: mean, spread; grey: by chance"
    marks = [
        float(line.get_xdata()[0])
        for line in pane.lines
        if to_hex(line.get_color()) == _scale.GREY and line.get_ydata()[0] == 1
    ]
    found = dask_svcca.within_and_between(result, sides)
    assert marks == [float(found["null"].sel(group_a="zero", group_b="one"))]


@pytest.mark.parametrize("lacking", [False, True])
def test_seeds_and_settling__say_where_means_are_of_fewer_trainings(lacking: bool) -> None:
    # A checkpoint that one of three lacks: the mean of the others is another, and need not be of what training does.
    result = made(("s0", "s1", "s2"), layers=("fc",), symmetric=True)
    if lacking:
        result = result.drop_sel({f"representation_{side}": ["s1/step40/fc"] for side in "ab"})
    (seeds,), (settling,) = plot.seeds(result), plot.settling(result)
    assert ("means of 1 to 3 pairs of models, by step" in seeds.get_title()) == lacking
    assert ("means of 2 to 3 models, by step" in settling.get_title()) == lacking


def test_rank__of_the_final_checkpoint_in_order_of_depth() -> None:
    result = made()
    result["rank_a"][9] = 0
    upper, lower = plot.rank(result).ravel()
    # Stored from the deepest on; fc of net-s0 has none.
    np.testing.assert_array_equal(upper.lines[1].get_ydata(), [13, 12, np.nan])
    np.testing.assert_array_equal(upper.lines[0].get_ydata(), [20, 19, 18])
    np.testing.assert_array_equal(lower.lines[0].get_ydata(), result["variance_kept_a"].to_numpy()[[11, 10, 9]])
    assert texts(lower.get_xticklabels()) == ["conv", "relu", "fc"]


@pytest.mark.parametrize("width", [(18, 20), (20, 70), (2, 500), (9_999, 10_000), (10**6, 10**6 + 1)])
def test_rank__has_numbers_at_its_axis(width: tuple[int, int]) -> None:
    result = made()
    result["rank_a"][:], result["neurons_a"][:] = width
    upper = plot.rank(result)[0, 0]
    low, high = upper.get_ylim()
    assert sum(low <= tick <= high for tick in upper.get_yticks()) >= 2
    assert all(texts(upper.get_yticklabels()))
    assert len(set(texts(upper.get_yticklabels()))) == len(upper.get_yticks())


@pytest.mark.parametrize("draw", [plot.matrix, plot.checkpoints, plot.cluster, plot.settling, plot.rank])
def test_figures__of_no_representation_say_so(draw: Callable[[xr.Dataset], object]) -> None:
    nothing = made().isel(representation_a=[], representation_b=[])
    with pytest.raises(RepresentationNotFoundError, match="no representation"):
        draw(nothing)


def test_correlations__and_how_many_are_above_chance() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 100, 4))
    result = dask_svcca.compare({"x": x, "xy": np.hstack([x[:, :2], y])}, keep="correlations")
    pane = plot.correlations(result, a={"layer": "x"}, b={"layer": "xy"})
    stored = result["correlations"].sel(representation_a="x", representation_b="xy").to_numpy()
    np.testing.assert_array_equal(pane.lines[0].get_ydata(), stored[np.isfinite(stored)])
    above = int(result["significant"].sel(representation_a="x", representation_b="xy"))
    assert above >= 2
    assert pane.lines[1].get_xdata()[0] == above
    with pytest.raises(IncompatibleError, match="compare once more with keep='correlations'"):
        plot.correlations(made())


def test_identification__marks_the_chosen_layer_and_ties() -> None:
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=(3, 200, 4))
    # 'twin' and 'twin2' are the same layer but for noise: which one is chosen is a tie.
    arrays = {}
    for model in ("s0", "s1"):
        for layer, values in (("x", x), ("y", y), ("twin", z), ("twin2", z)):
            arrays[model, "end", layer] = values + 0.3 * rng.normal(size=x.shape)
    result = dask_svcca.compare(arrays, measures="cka")
    (pane,) = plot.identification(result)
    marks = [(int(line.get_ydata()[0]), int(line.get_xdata()[0]), line) for line in pane.lines]
    stored = result["cka"].to_numpy()[:4, 4:]
    assert [(row, column) for row, column, _ in marks] == list(enumerate(stored.argmax(axis=1)))
    labels = [[str(result[f"representation_{side}"][place].item()) for place in range(8)] for side in "ab"]
    for row, column, line in marks:
        # Against the next, or against the same layer where another was chosen.
        rival = row if column != row else int(np.argsort(stored[row])[-2])
        pairs = [(labels[0][row], labels[1][4 + one]) for one in (column, rival)]
        errors = dask_svcca.jackknife(result, pairs, measures="cka")
        apart = errors["cka_jackknife"][0] - errors["cka_jackknife"][1]
        error = float(np.sqrt(19 / 20 * ((apart - apart.mean()) ** 2).sum()))
        tie = abs(stored[row, column] - stored[row, rival]) < 2 * error
        assert (line.get_markerfacecolor() == "none") == tie
        assert line.get_marker() == ("o" if column == row else "X")
    assert {line.get_markerfacecolor() == "none" for *_, line in marks} == {True, False}
    accuracy = float(dask_svcca.layer_identification(result, "cka").accuracy[0, 0])
    assert pane.get_title() == f"cka\n{accuracy:.0%} of 8 found\ndisc: found, cross: not\nopen: a tie".replace(
        "%", " %"
    )


def test_pooled__cells_are_means_of_what_has_a_value_and_the_title_says_so() -> None:
    result = made()
    result["own"][0, 0] = np.nan
    result["own"][2:4, 0:2] = np.nan
    along = [_sides.Along(side, np.arange(24), _sides.table_of(result, side)) for side in ("a", "b")]
    cells = _blocks.cells_of(result, "own", *along, most=12)
    stored = result["own"].to_numpy()
    expected = np.array([[_mean(stored[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]) for j in range(12)] for i in range(12)])
    np.testing.assert_allclose(cells.matrix, expected, rtol=1e-12)
    assert np.isnan(cells.matrix[1, 0])
    assert not np.isnan(cells.matrix[0, 0])
    assert cells.pooled() == "cells are means of 2 x 2 pairs"


def _mean(block: np.ndarray) -> float:
    known = block[np.isfinite(block)]
    return float(known.mean()) if len(known) else np.nan


@pytest.mark.parametrize("draw", [plot.cluster, plot.embedding])
def test_embedding_and_cluster__read_values_once(draw: Any) -> None:
    """Spread over a large comparison, representations take most of its chunks."""
    stored = made(steps=(9,))["own"].to_numpy()
    read: list[tuple[int, int]] = []
    draw(made(steps=(9,), values=read_when_used(6, lambda rows, columns: stored[np.ix_(rows, columns)], read)))
    assert read == [(6, 6)]


def test_ten_thousand__reads_a_bounded_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    models, layers = (tuple(f"{name}{number}" for number in range(count)) for name, count in (("net-", 50), ("l", 10)))
    endless = read_when_used(10_000, lambda rows, columns: np.add.outer(rows, columns) / 20_000.0, read)
    result = made(models, tuple(range(20)), layers, values=endless)
    result["own"].encoding["chunks"] = (1_000, 1_000)
    pane = plot.matrix(result)
    assert read == [(2048, 2048)]
    drawn = pane.images[0].get_array()
    assert drawn.shape == (256, 256)
    title = pane.get_title().replace("\n", " ")
    assert title == "cells are means of 8 x 8 pairs, of 2,048 x 2,048 of 10,000 x 10,000 pairs"
    assert texts(pane.get_yticklabels())[0] == "net-0"
    # Values grow with the place, but for the order of layers within a checkpoint.
    assert np.all(np.diff(drawn.mean(axis=1)) > 0)
    read.clear()
    monkeypatch.setattr(_blocks, "DECODED", 25 * 1_000_000)
    plot.matrix(result)
    assert read[0][0] * read[0][1] <= 1100**2


def test_small_figures__shorten_names_and_keep_the_panes() -> None:
    long = "features.stage3.block12.conv2"
    result = made((f"resnet-50-{'x' * 30}-s0", f"resnet-50-{'x' * 30}-s1"), (0, 10), (long, "fc"))
    a, b = ({"model": f"*s{number}", "final": True} for number in (0, 1))
    for size, names in (((6.4, 4.8), "features.st…ock12.conv2"), ((3.5, 2.6), "features.…12.conv2")):
        pane = plot.matrix(result, a=a, b=b, ax=_panes.make_figure(*size))
        assert texts(pane.get_yticklabels()) == [names, "fc"]
        figure = _panes.figure_of(pane)
        figure.draw_without_rendering()
        inside = pane.get_position()
        assert min(inside.width, inside.height) > 0.4
        box = figure.get_tightbbox()
        assert box.x0 > -0.05
        assert box.y0 > -0.05
        assert box.x1 < size[0] + 0.05
        assert box.y1 < size[1] + 0.05


def test_names__are_text_as_they_are(tmp_path: Path) -> None:
    result = made(("<b>$m$</b>_", "_n"), (0, 10), tuple(HOSTILE))
    mpl_before = dict(mpl.rcParams)
    for number, draw in enumerate((plot.matrix, plot.settling, plot.rank)):
        options = {"a": {"final": True}, "b": {"final": True}} if draw is plot.matrix else {}
        axes = draw(result, **options)
        figure = _panes.figure_of(axes)
        said = every_text(figure)
        assert any("$$x$$" in text for text in said), draw
        assert any("_hidden" in text for text in said), draw
        assert not any(len(line) > 120 for text in said for line in text.splitlines())
        for one in figure.findobj(mpl.text.Text):
            if any(name in one.get_text() for name in ("$$", "<", "frac", "_")):
                assert not one.get_parse_math(), one.get_text()
        _panes.save(axes, tmp_path / f"{number}.svg")
        root = ET.parse(tmp_path / f"{number}.svg").getroot()
        tags = {element.tag.rpartition("}")[2] for element in root.iter() if isinstance(element.tag, str)}
        assert not tags & {"img", "script", "b", "a", "foreignObject"}
    assert dict(mpl.rcParams) == mpl_before


def test_shown__shortens_in_the_middle_and_hides_nothing() -> None:
    assert _names.shown("a" * 20 + "middle" + "b" * 20) == "a" * 12 + "…" + "b" * 11
    assert _names.shown("line\nturned\u202e") == "line\\nturned\\u202e"
    assert _names.shown("שלום") == "שלום"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([0, 5, 9, 15, 25, 43, 73, 126, 215, 368, 630], [0, 9, 25, 73, 215, 630]),
        (list(range(1000)), [0, 3, 15, 62, 250, 999]),
        ([1, 2], [1, 2]),
    ],
)
def test_log_spaced__most_panes_are_early(steps: list[float], expected: list[float]) -> None:
    found = [steps[place] for place in _steps.log_spaced(steps, 6)]
    assert found == pytest.approx(expected, abs=1)


def test_axes__of_the_caller_and_figures_of_the_caller() -> None:
    result = made()
    figure = Figure()
    given = figure.subplots(2, 4)
    assert plot.dynamics(result, ax=given)[1, 3] is given[1, 3]
    assert plot.matrix(result, ax=figure.add_subplot()).figure is figure
    part = Figure().subfigures(1, 2)[1]
    assert plot.matrix(result, ax=part).get_figure(root=False) is part
    with pytest.raises(InvalidQuestionError, match=r"this figure has 8 panes, and ax= has 3 Axes"):
        plot.dynamics(result, ax=given.ravel()[:3])
    with pytest.raises(InvalidQuestionError, match=r"ax= takes Axes of matplotlib, .*; got 'here'"):
        plot.matrix(result, ax="here")


def test_requests__that_cannot_be_drawn() -> None:
    many = made(tuple(f"net-{number}" for number in range(5)), (0, 1), ("fc",))
    with pytest.raises(InvalidQuestionError, match=r"at most 4, and 5 were chosen; .*--model net-0"):
        plot.dynamics(many)
    with pytest.raises(InvalidQuestionError, match="no two of the models 'net-3' have"):
        plot.seeds(many, where={"model": "net-3"})
    with pytest.raises(InvalidQuestionError, match=r"takes 'model' and 'layer'; got 'step'"):
        plot.settling(many, where={"step": 0})
    with pytest.raises(UnknownMeasureError, match="no measure 'cka'"):
        plot.matrix(many, measure="cka")


def test_pyplot__knows_nothing_of_figures_and_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(pickle.dumps(made()))
    script = (
        "import pathlib, pickle, sys; import dask_svcca.plot; assert 'matplotlib' not in sys.modules;"
        f"result = pickle.loads(pathlib.Path({str(tmp_path / 'made')!r}).read_bytes());"
        "assert dask_svcca.plot.matrix(result).figure._repr_png_()[1:4] == b'PNG';"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_matplotlib__missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dask-svcca\[plot\]'"):
        plot.matrix(made())


def test_matrix__marks_the_best_assignment() -> None:
    result = made()
    a, b = {"model": "net-s0", "final": True}, {"model": "net-s1", "final": True}
    pane = plot.matrix(result, a=a, b=b, match=True)
    best = max(itertools.permutations(range(3)), key=lambda order: pane.images[0].get_array()[range(3), order].sum())
    (crosses,) = pane.lines
    assert sorted(zip(crosses.get_ydata(), crosses.get_xdata(), strict=True)) == list(enumerate(best))


def test_groups__means_of_within_and_between() -> None:
    result = made(("a0", "a1", "b0"), (0,), ("x", "y"), symmetric=True)
    result["own"].values[:] = (result["own"].to_numpy() + result["own"].to_numpy().T) / 2
    pane = plot.groups(result, {"a": {"model": "a*"}, "b": {"model": "b*"}})
    within = np.mean([value(result, f"a0/step0/{layer}", f"a1/step0/{layer}") for layer in "xy"])
    assert float(pane.lines[0].get_xdata()[0]) == pytest.approx(within)
    assert texts(pane.get_yticklabels()) == ["a", "a\nand b", "b"]
    assert texts(pane.texts) == ["2 pairs", "4 pairs", "0 pairs"]


def test_embedding_and_cluster__leave_out_what_has_not_been_compared() -> None:
    result = made(("net",), (0,), ("p", "q", "r", "s"))
    stored = result["own"].to_numpy()
    stored[0], stored[:, 0] = np.nan, np.nan
    result["own"].values[:] = stored
    for draw in (plot.embedding, plot.cluster):
        assert "3 of 4 representations: 1 lack a value" in draw(result).get_title()
        with pytest.raises(IncompatibleError, match="with each other, and 2 of 3 do"):
            draw(result.isel(representation_a=slice(3), representation_b=slice(3)))
    drawn = plot.cluster(result).images[0].get_array()
    assert sorted(drawn.ravel()) == sorted(stored[1:, 1:].ravel())
