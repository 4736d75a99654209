"""Figures over examples: classes, and directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.errors import InvalidQuestionError

pytest.importorskip("matplotlib")

from dask_svcca import plot
from dask_svcca.plot import labelled


def texts(ticks: Any) -> list[str]:
    return [tick.get_text() for tick in ticks]


def labelled_zoo() -> dask_svcca.Zoo:
    """Two trainings, the second a rotation of the first but for one direction; classes show at the end."""
    rng = np.random.default_rng(0)
    label = np.repeat(["cat", "$dog$"], [40, 60])[rng.permutation(100)]
    with dask_svcca.create_zoo(MemoryStore(), examples=range(100), coords={"label": label}) as zoo:
        x, y = rng.normal(size=(2, 100, 4))
        for step, strength in ((0, 0.0), (10, 3.0)):
            shown = x + strength * (label == "cat")[:, np.newaxis]
            zoo.write("s0", f"step{step}", "conv", y + x, step=step, depth=0)
            zoo.write("s0", f"step{step}", "fc", shown, step=step, depth=1)
            zoo.write("s1", f"step{step}", "fc", shown @ rng.normal(size=(4, 4)), step=step, depth=1)
    return zoo


def test_class_sensitivity__lines_are_what_the_question_answers() -> None:
    zoo = labelled_zoo()
    result = dask_svcca.compare(zoo)
    (pane,) = plot.class_sensitivity(result, zoo=zoo, where={"model": "s0", "final": True})
    found = dask_svcca.class_sensitivity(result, zoo=zoo, where={"model": "s0", "final": True}).squeeze()
    expected = [
        *(found[name].sel({"class": one}) for one in ("$dog$", "cat") for name in ("sensitivity", "untrained")),
        found["chance"],
    ]
    for line, values in zip(pane.lines, expected, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert expected[0][1] > expected[1][1]
    assert texts(pane.get_xticklabels()) == ["conv", "fc"]
    assert texts(pane.get_legend().get_texts()) == ["$dog$", "cat", "by chance"]
    assert pane.get_legend().get_title().get_text() == "thin: untrained"
    assert pane.get_title() == "s0/step10"
    panes = plot.class_sensitivity(result, zoo=zoo)
    assert [pane.get_legend() is not None for pane in panes] == [False, True]


def test_directions__over_examples_in_the_order_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = labelled_zoo()
    result = dask_svcca.compare(zoo, variance=None)
    a, b = {"model": "s0", "final": True, "layer": "fc"}, {"model": "s1", "final": True}
    axes = plot.directions(result, zoo=zoo, a=a, b=b, components=2)
    assert axes.shape == (2, 2)
    found = dask_svcca.canonical_directions(zoo, ("s0", "step10", "fc"), ("s1", "step10", "fc"), components=2)
    for panes, kind in zip(axes, ("neuron", "direction"), strict=True):
        for component, pane in enumerate(panes):
            for line, side in zip(pane.lines[:2], "ab", strict=True):
                values = found[f"{kind}_{side}"].to_numpy()[:, component]
                np.testing.assert_allclose(line.get_ydata(), (values - values.mean()) / values.std(), rtol=1e-9)
    assert [pane.get_title() for pane in axes[1]] == [f"direction {number}: r = 1.00" for number in (1, 2)]
    closest = found["neuron_correlation"].to_numpy()
    numbers = [int(found[f"neuron_number_{side}"][0]) for side in "ab"]
    title = axes[0, 0].get_title().replace("\n", " ")
    assert title == f"neurons {numbers[0]}, {numbers[1]}: r = {closest[0]:.2f}"
    # Sixty dogs come first, and a line is between them and the cats.
    assert texts(axes[1, 0].get_xticklabels()) == ["$dog$", "cat"]
    assert axes[1, 0].get_xticks().tolist() == [29.5, 79.5]
    assert axes[1, 0].lines[2].get_xdata()[0] == 59.5
    monkeypatch.setattr(labelled, "POINTS", 40)
    pooled = plot.directions(result, zoo=zoo, a=a, b=b, components=1)
    drawn, whole = (each[1, 0].lines[0].get_ydata() for each in (pooled, axes))
    np.testing.assert_allclose(drawn, [whole[start : start + 3].mean() for start in range(0, 100, 3)], rtol=1e-9)
    assert pooled[1, 0].get_xlabel().replace("\n", " ") == "examples by label, means of 3"
    with pytest.raises(InvalidQuestionError, match=r"and 4 were chosen on side a, such as 'step0/conv'"):
        plot.directions(result, zoo=zoo, a={"model": "s0"}, b=b)
    with pytest.raises(InvalidQuestionError, match=r"1 to 8 directions; got components=9"):
        plot.directions(result, zoo=zoo, a=a, b=b, components=9)
