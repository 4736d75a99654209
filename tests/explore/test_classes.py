"""The pane of classes: the numbers of `class_sensitivity`, where the zoo has labels."""

from __future__ import annotations

import json
import shutil
import urllib.parse
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from explored import answered, ask, make_comparison, make_labelled, names_of, serving
from looking import Looking, colour_of

import dask_svcca
from dask_svcca import class_sensitivity
from dask_svcca.explore import classes
from dask_svcca.explore.report import write_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import xarray as xr

    from dask_svcca.explore.server import Explorer

PATH = "classes?" + urllib.parse.urlencode({"c": 0, "labels": "label", "model": "net*"})


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def explorer(labelled: tuple[Path, Path]) -> Iterator[Explorer]:
    with serving(labelled[0]) as served:
        yield served


@pytest.fixture(scope="module")
def expected(labelled: tuple[Path, Path]) -> xr.Dataset:
    # "net*" as a pattern means both models.
    found = class_sensitivity(labelled[0], zoo=dask_svcca.open_zoo(labelled[1]))
    layers = ["fc[1], fc2", "*", "out"]
    return found.sel(model="net*", checkpoint=["step0", "step10", "step20"], layer=layers)


def test_labels__are_coordinates_that_can_be_classes(explorer: Explorer) -> None:
    # Not numbers with a fraction, nor those that are all alike, or all different.
    assert answered(explorer, "meta?c=0")["labels"] == ["label", "half"]


def test_classes__are_those_of_class_sensitivity(explorer: Explorer, expected: xr.Dataset) -> None:
    found = answered(explorer, PATH)
    assert (found["layers"], found["checkpoints"]) == (["fc[1], fc2", "*", "out"], ["step0", "step10", "step20"])
    assert (found["classes"], found["steps"], found["first_step"]) == (["<b>dog</b>", "cat", "emu"], [0, 10, 20], 0)
    for name, dims in (
        ("sensitivity", ("checkpoint", "layer", "class")),
        ("chance", ("checkpoint", "layer")),
        ("rank", ("checkpoint", "layer")),
        ("untrained", ("layer", "class")),
    ):
        key = "values" if name == "sensitivity" else name
        np.testing.assert_array_equal(found[key], expected[name].transpose(*dims), err_msg=name)
    assert np.mean(found["values"][2][2]) > 0.9 > np.mean(found["untrained"])


def test_classes__are_computed_once(
    labelled: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, expected: xr.Dataset
) -> None:
    with serving(labelled[0]) as explorer:
        first = answered(explorer, PATH)
        monkeypatch.setattr(classes, "class_sensitivity", lambda *_, **__: pytest.fail("it was computed again"))
        answered(explorer, "meta?c=0")
        assert answered(explorer, PATH) == first
    assert first["chance"] == expected["chance"].to_numpy().tolist()


def test_classes__some_of_many(labelled: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "SHOWN_CLASSES", 2)
    monkeypatch.setattr(classes, "MOST_VALUES", 12)
    with serving(labelled[0]) as explorer:
        found = answered(explorer, PATH)
    assert found["available"] == {"checkpoint": 3, "class": 3}
    assert (found["checkpoints"], found["classes"]) == (["step0", "step20"], ["<b>dog</b>", "cat"])
    assert np.shape(found["values"]) == (2, 3, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"labels": "weight", "model": "net*"}, "has no labels 'weight'; it has label, half"),
        ({"model": "net*"}, "has no labels ''"),
        ({"labels": "label", "model": "net"}, "no model 'net' in "),
        ({"labels": "label"}, "no model '' in "),
    ],
)
def test_classes__refuse_with_a_sentence(explorer: Explorer, words: dict[str, str], said: str) -> None:
    status, _, body = ask(explorer, f"classes?{urllib.parse.urlencode({'c': 0, **words})}")
    assert status == 400
    assert said in json.loads(body)["error"]


def test_classes__of_another_zoo_or_none(tmp_path: Path) -> None:
    comparison, zoo = make_labelled(tmp_path)
    with serving(comparison) as explorer:
        shutil.rmtree(zoo)
        # A zoo at the same place, of other examples.
        dask_svcca.create_zoo(zoo, examples=range(4), coords={"label": [0, 0, 1, 1]})
        assert answered(explorer, "meta?c=0")["labels"] == ["label"]
        status, _, body = ask(explorer, PATH)
        assert (status, "of other examples than the zoo" in json.loads(body)["error"]) == (400, True)
        shutil.rmtree(zoo)
        assert answered(explorer, "meta?c=0")["labels"] == []
        assert ask(explorer, PATH)[0] == 400


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_page__has_the_numbers_and_colours_of_classes(
    tmp_path: Path, labelled: tuple[Path, Path], expected: xr.Dataset, explorer: Explorer, browser: Any
) -> None:
    made = write_report(labelled[0], tmp_path / "report.html")
    assert made.size < 6_000_000
    for address in (explorer.address, (tmp_path / "report.html").as_uri()):
        page = Looking(browser, address)
        page.go(urllib.parse.urlencode({"a": "net%2A", "b": "net a", "pane": "classes"}))
        for number in (2, 0, 1):
            page.run(
                "const one = document.getElementById('slide-classes'); one.value = arguments[0];"
                "one.dispatchEvent(new Event('input'))",
                number,
            )
            assert page.text("at-classes") == f"step{10 * number}"
            rows = page.run(
                "return Array.from(document.querySelectorAll('#pane tbody tr'), (row) => [row.dataset.layer,"
                "row.dataset.row, ...Array.from(row.children, (cell) => [cell.textContent, cell.title,"
                "getComputedStyle(cell).backgroundColor])])"
            )
            assert len(rows) == (3 if number == 0 else 6)
            for layer, kind, _, rank, chance, *cells in rows:
                at = 0 if kind == "untrained" else number
                one = expected.sel(layer=layer).isel(checkpoint=at)
                assert (rank[0], chance[0]) == (f"{one['rank'].item():.0f}", f"{one['chance'].item():.2f}")
                assert len(cells) == 3
                for (text, title, colour), value in zip(cells, one["sensitivity"].to_numpy(), strict=True):
                    assert text == f"{value:.2f}"
                    assert float(title) == pytest.approx(value, rel=5e-6)
                    bands = [int(band) for band in colour.removeprefix("rgb(").removesuffix(")").split(",")]
                    np.testing.assert_allclose(bands, colour_of(value, 0, 1), atol=1)
        assert page.run("return document.querySelectorAll('#pane b').length") == 0
        # A checkpoint on side a is the one that is shown.
        page.turn(urllib.parse.urlencode({"a": "net%2A/step10", "b": "net a", "pane": "classes", "labels": "half"}))
        assert page.text("at-classes") == "step10"
        assert page.run("return document.querySelectorAll('#pane thead th').length") == 5
        assert page.log() == []


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_page__has_no_classes_without_labels(tmp_path: Path, browser: Any) -> None:
    make_comparison(tmp_path / "comparison.zarr", names_of(["m"], [0, 1], ["fc"]), components=0)
    with serving(tmp_path / "comparison.zarr") as explorer:
        page = Looking(browser, explorer.address)
        page.go("pane=classes")
        assert page.run("return document.querySelector('[data-pane=classes]')") is None
        assert page.run("return document.querySelector('[data-pane=pair]').ariaSelected") == "true"
