"""The page in a browser: every number on it is the stored one, and names are text."""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from explored import NAMES, make_comparison, names_of, serving
from looking import TIMES, Looking, colour_of, same

from dask_svcca.explore.report import write_report
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dask_svcca.explore.server import Explorer

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


def label(place: int) -> str:
    return "/".join(NAMES[place][:3])


def fragment(**words: Any) -> str:
    return urllib.parse.urlencode(words)


@pytest.fixture
def page(browser: Any, explorer: Explorer) -> Looking:
    return Looking(browser, explorer.address)


@pytest.fixture(scope="module")
def stored(store: Path) -> Iterator[xr.Dataset]:
    with xr.open_zarr(store) as opened:
        result = opened.load()
        # Shown beside what is stored, and follows from it.
        yield result.assign(calibrated_svcca=(result.svcca - result.null_svcca) / (1 - result.null_svcca))


def chosen_pairs(stored: xr.Dataset, count: int) -> list[tuple[int, int]]:
    """Some pairs at random, and one of each status."""
    rng = np.random.default_rng(1)
    status = stored.pair_status.to_numpy()
    of_each = [tuple(np.argwhere(status == one)[0].tolist()) for one in PairStatus]
    assert len(of_each) == 8
    return [tuple(pair) for pair in rng.integers(0, len(NAMES), (count, 2)).tolist()] + of_each


def checked(page: Looking, stored: xr.Dataset, a: int, b: int) -> None:
    """Every number that the pane has of this pair is the stored one."""
    title = page.run("return document.querySelector('#pane h2').textContent")
    assert title == f"{label(a)} {TIMES} {label(b)}"
    found = page.pair()
    status = PairStatus(int(stored.pair_status[a, b]))
    assert found.pop("pair_status") == status.name.lower().replace("_", " ")
    variables = {
        name for name, array in stored.data_vars.items() if array.dims == ("representation_a", "representation_b")
    }
    assert set(found) == variables - {"pair_status"}
    for name, text in found.items():
        assert same(text, float(stored[name][a, b])), (name, text)
    problems = page.run("return Array.from(document.querySelectorAll('#pane .problem'), (one) => one.textContent)")
    assert problems == [text for text in (str(stored.problem_a[a].item()), str(stored.problem_b[b].item())) if text]
    columns = page.run("return Array.from(document.querySelectorAll('#pane [data-column]'), (one) => one.textContent)")
    names = ("step", "depth", "rank", "neurons", "samples", "variance_kept")
    expected = [float(stored[f"{name}_{side}"][place]) for name in names for side, place in (("a", a), ("b", b))]
    assert all(same(text, value) for text, value in zip(columns, expected, strict=True))
    kept = stored.correlations[a, b].to_numpy()
    kept = kept[~np.isnan(kept)]
    texts = page.run("return document.querySelector('#pane [data-correlations]')?.textContent ?? ''").split()
    assert all(same(text, value) for text, value in zip(texts, kept, strict=True))
    code = page.text("python")
    assert f'representation_a="{label(a)}", representation_b="{label(b)}"' in code


@pytest.mark.parametrize(
    ("order", "measure", "chance", "count"),
    # The numbers of a pair are written alike whatever the matrix shows.
    [("step", "svcca", "", 50), ("depth", "pwcca", "", 10), ("step", "svcca", "1", 10), ("depth", "gulp", "", 10)],
)
def test_page__every_number_of_a_pair_is_the_stored_one(
    page: Looking, stored: xr.Dataset, order: str, measure: str, chance: str, count: int
) -> None:
    values = stored[measure].to_numpy() - (stored.null_svcca.to_numpy() if chance else 0)
    page.go()
    for a, b in chosen_pairs(stored, count):
        # Two checkpoints, or two layers of models, and the pair somewhere in between.
        parts = [NAMES[place] for place in (a, b)]
        spans = ["/".join((one[0], one[1] if order == "step" else one[2])) for one in parts]
        words = {"measure": measure, "order": order, "a": spans[0], "b": spans[1], "chance": chance}
        page.turn(fragment(**words))
        row, column = (one[4] if order == "step" else (0, 10, 200).index(one[3]) for one in parts)
        page.click(row, column)
        checked(page, stored, a, b)
        readout = page.text("readout")
        first, second = (" / ".join(one[at] for at in ((0, 1, 2) if order == "step" else (0, 2, 1))) for one in parts)
        assert readout.startswith(f"a {first} · b {second} · ")
        said = readout.split(" · ")[2].split(": ")
        number = said[0].removeprefix(measure).removeprefix(" above chance").strip()
        assert same(number, values[a, b])
        if np.isnan(values[a, b]):
            status = PairStatus(int(stored.pair_status[a, b]))
            why = " (not asked for, or not yet computed)" if status == PairStatus.MISSING else ""
            assert said[1] == status.name.lower().replace("_", " ") + why


def test_page__alike_together_the_numbers_are_those_of_the_names(page: Looking, stored: xr.Dataset) -> None:
    page.go(fragment(measure="pwcca", order="cluster", a="net a/step0", b="wide/step10"))
    met = set()
    for row, column in np.random.default_rng(2).integers(0, 4, (16, 2)):
        page.click(row, column)
        title = page.run("return document.querySelector('#pane h2').textContent").split(f" {TIMES} ")
        a, b = ([label(place) for place in range(len(NAMES))].index(name) for name in title)
        checked(page, stored, a, b)
        value = float(stored.pwcca[a, b])
        if not np.isnan(value):
            np.testing.assert_allclose(page.colours()[row, column], colour_of(value, 0, 1), atol=1)
        met.add((a, b))
    assert len(met) > 8


@pytest.mark.parametrize(
    ("measure", "order", "chance"),
    [("svcca", "step", ""), ("gulp", "step", ""), ("pwcca", "depth", ""), ("svcca", "depth", "1")],
)
def test_page__colours_are_those_of_the_stored_values(
    page: Looking, stored: xr.Dataset, measure: str, order: str, chance: str
) -> None:
    values = stored[measure].to_numpy() - (stored.null_svcca.to_numpy() if chance else 0)
    compared = 0
    page.go()
    for a, b in (("net a", "net b"), ("net b", "wide"), ("wide", "net a")):
        for second in ("step0", "step10", "step200") if order == "step" else ("conv1", "conv2", "fc", "out"):
            page.turn(fragment(measure=measure, order=order, a=f"{a}/{second}", b=f"{b}/{second}", chance=chance))
            rows, columns = (
                [at for at, name in enumerate(NAMES) if name[0] == model and second in name[1:3]] for model in (a, b)
            )
            part = values[np.ix_(rows, columns)]
            limits = (0.0, 1.0) if measure != "gulp" else (0.0, float(np.nanmax(part)))
            found = page.colours()
            assert found.shape[:2] == part.shape
            for place, value in np.ndenumerate(part):
                expected = (
                    np.array([0x9A] * 3) if np.isnan(value) else colour_of(value, *limits, distance=measure == "gulp")
                )
                np.testing.assert_allclose(found[place], expected, atol=1)
                compared += 1
    assert compared >= 100


def test_page__a_is_down_and_b_across(tmp_path: Path, browser: Any) -> None:
    # 2 layers by 5, and a measure that is not symmetric.
    names = names_of(["two"], [0], ["x", "y"]) + names_of(["five"], [0], ["p", "q", "r", "s", "t"])
    make_comparison(tmp_path / "comparison.zarr", names, components=0)
    with xr.open_zarr(tmp_path / "comparison.zarr") as result:
        values = result.pwcca.to_numpy()[:2, 2:]
    with serving(tmp_path / "comparison.zarr") as explorer:
        page = Looking(browser, explorer.address)
        page.go(fragment(measure="pwcca", a="two", b="five"))
        found = page.colours()
        assert found.shape == (2, 5, 3)
        for place, value in np.ndenumerate(values):
            if not np.isnan(value):
                np.testing.assert_allclose(found[place], colour_of(value, 0, 1), atol=1)
        page.click(1, 3)
        assert f"two/step0/y {TIMES} five/step0/s" in page.text("pane")


def test_page__shows_a_changed_value_after_reloading(tmp_path: Path, browser: Any) -> None:
    place = tmp_path / "comparison.zarr"
    make_comparison(place, NAMES[:8], components=0)
    with serving(place) as explorer:
        page = Looking(browser, explorer.address)
        page.go(fragment(measure="pwcca", a="net a/step0", b="net a/step10"))
        page.click(2, 1)
        before = page.pair()["pwcca"]
        ComparisonStore.open(place, mode="r+").array("pwcca")[2, 5] = 0.123456789
        browser.refresh()
        page.settle()
        assert before != page.pair()["pwcca"] == "0.123457"
        np.testing.assert_allclose(page.colours()[2, 1], colour_of(0.123456789, 0, 1), atol=1)


def test_page__another_comparison_shows_the_same_pair_in_it(tmp_path: Path, browser: Any, store: Path) -> None:
    # Its layers are others, and those that it shares stand at other places.
    make_comparison(tmp_path / "other.zarr", NAMES[8:20], components=0, seed=1)
    with serving(store, tmp_path / "other.zarr") as explorer, xr.open_zarr(tmp_path / "other.zarr") as other:
        page = Looking(browser, explorer.address)
        page.go(fragment(measure="pwcca", a="net a/step200", b="net b/step0"))
        page.click(1, 2)
        page.run(
            "const one = document.getElementById('comparison'); one.selectedIndex = 1;"
            "one.dispatchEvent(new Event('change'))"
        )
        page.wait("return location.hash.startsWith('#c=1&')")
        page.settle()
        assert page.run("return document.querySelector('#pane h2').textContent") == f"{label(9)} {TIMES} {label(14)}"
        assert same(page.pair()["pwcca"], float(other.pwcca[1, 6]))
        np.testing.assert_allclose(page.colours()[1, 2], colour_of(float(other.pwcca[1, 6]), 0, 1), atol=1)


def test_page__keys_alone_lead_from_the_zoo_to_a_pair(page: Looking, stored: xr.Dataset) -> None:
    from selenium.webdriver.common.keys import Keys

    page.go()
    for _ in range(30):
        if page.run("return document.activeElement.id") == "matrix":
            break
        page.press(Keys.TAB)
    # Model net b by wide, step 200 by step 10, fc by conv2.
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.text("live").startswith("a net b · b wide · svcca ")
    page.press(Keys.ENTER)
    page.press(Keys.HOME, *[Keys.ARROW_UP] * 4, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert page.text("live").startswith("a net b / step200 · b wide / step10 · svcca ")
    page.press(Keys.ENTER)
    page.press(Keys.HOME, *[Keys.ARROW_UP] * 4, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    page.press(Keys.ENTER)
    checked(page, stored, 22, 29)
    page.press(Keys.ESCAPE)
    page.press(Keys.ESCAPE)
    assert page.place["rows"] == page.place["columns"] == 3
    assert page.text("live")


def test_page__selectors_sliders_and_history(page: Looking, stored: xr.Dataset) -> None:
    page.go(fragment(measure="svcca", a="net a/step0", b="net b/step0"))
    page.run(
        "const slider = document.getElementById('slide-a'); slider.value = 2; slider.dispatchEvent(new Event('input'))"
    )
    page.settle()
    # Both move together.
    assert page.text("at-a") == page.text("at-b") == "step200"
    page.click(0, 0)
    checked(page, stored, 8, 20)
    page.run(
        "const one = document.getElementById('measure'); one.value = 'pwcca'; one.dispatchEvent(new Event('change'))"
    )
    page.settle()
    np.testing.assert_allclose(page.colours()[1, 1], colour_of(float(stored.pwcca[9, 21]), 0, 1), atol=1)
    page.run(
        "const one = document.getElementById('order'); one.value = 'depth'; one.dispatchEvent(new Event('change'))"
    )
    page.settle()
    assert (page.place["rows"], page.place["columns"]) == (4, 4)
    page.driver.back()
    page.settle()
    assert page.run("return document.getElementById('order').value") == "step"
    page.run("document.querySelector('[data-pane=row]').click()")
    page.settle()
    first = page.run("return document.querySelector('#pane tbody button').textContent")
    values = stored.pwcca.to_numpy()[8].copy()
    values[8] = np.nan
    assert first == label(int(np.nanargmax(values)))


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (2560, 1440)])
@pytest.mark.parametrize("dark", [False, True])
def test_page__fits_the_screen_and_the_scheme(
    open_browser: Callable[..., Any], explorer: Explorer, width: int, height: int, dark: bool
) -> None:
    page = Looking(open_browser(width, height, dark=dark), explorer.address)
    page.go(fragment(a="net a/step0", b="net b/step0"))
    page.click(1, 1)
    sizes = page.run("const one = document.documentElement; return [one.scrollWidth, one.scrollHeight]")
    assert sizes == [width, height]
    place = page.place
    assert min(place["width"], place["height"]) > 0.4 * height
    paper = page.run("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(",")))
    assert (brightness < 200) == dark
    for name in ("settling", "phases", "zoo", "provenance"):
        page.run(f"document.querySelector('[data-pane={name}]').click()")
        page.settle()
        assert page.run("return document.querySelector('#pane h2') !== null"), page.text("pane")
    assert page.log() == []


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "$$x$$",
    "\u202eright to left \u05d0\u05d1",
    "n" * 300,
    "quote\"s and \\ and '",
    "a~b%2Fc#d?e&f",
)


def hostile(place: Path) -> list[str]:
    names = [
        (model, f"{model} {step}", layer, step, depth)
        for model in HOSTILE
        for step in (0, 10)
        for depth, layer in enumerate((HOSTILE[0], HOSTILE[1], "slash/ed/"))
    ]
    make_comparison(place, names)
    return ["/".join(name[:3]) for name in names]


def visit(page: Looking, labels: list[str]) -> None:
    """Go through the zoo, and see that names are text, everywhere."""
    page.go()
    assert page.run("return document.querySelectorAll('img, main script').length") == 0
    for number, model in enumerate(HOSTILE):
        page.go()
        page.click(number, number)
        assert page.run("return document.getElementById('path-a').lastChild.textContent") == model
        page.click(1, 0)
        page.click(2, 1)
        a, b = labels[6 * number + 5], labels[6 * number + 1]
        assert page.run("return document.querySelector('#pane h2').textContent") == f"{a} {TIMES} {b}"
        assert page.text("readout").startswith(f"a {model} / {model} 10 / slash/ed/ · b {model} / {model} 0 / ")
        code = page.text("python").split("\n")[1]
        words = eval(code.split(".sel(")[1].removesuffix(").load()").join(("dict(", ")")))
        assert words == {"representation_a": a, "representation_b": b}
        # The address alone leads to the same view.
        page.driver.refresh()
        page.settle()
        assert page.run("return document.querySelector('#pane h2').textContent") == f"{a} {TIMES} {b}"
        for name in ("row", "settling", "phases", "zoo", "provenance"):
            page.run(f"document.querySelector('[data-pane={name}]').click()")
            page.settle()
            assert page.run("return document.querySelectorAll('img, main script').length") == 0
    assert page.log() == []


def test_page__names_are_text_everywhere(tmp_path: Path, browser: Any) -> None:
    labels = hostile(tmp_path / "a <b>$$x$$.zarr")
    with serving(tmp_path / "a <b>$$x$$.zarr") as explorer:
        page = Looking(browser, explorer.address)
        page.requests()
        visit(page, labels)
        assert page.driver.title == "a <b>$$x$$.zarr · dask-svcca"
        origin = explorer.address.removesuffix("/")
        asked = [url for url in page.requests() if not url.startswith(("data:", "about:"))]
        assert asked
        assert all(url.startswith(f"{origin}/") for url in asked), asked


def test_report__names_are_text_and_nothing_is_asked_for(tmp_path: Path, browser: Any) -> None:
    labels = hostile(tmp_path / "a <b>.zarr")
    file = tmp_path / "report.html"
    write_report(tmp_path / "a <b>.zarr", file)
    page = Looking(browser, file.as_uri())
    page.requests()
    visit(page, labels)
    asked = {url.split("#")[0] for url in page.requests() if not url.startswith(("data:", "about:"))}
    assert asked == {file.as_uri()}


def test_report__has_the_numbers_of_the_store(tmp_path: Path, browser: Any, store: Path, stored: xr.Dataset) -> None:
    file = tmp_path / "report.html"
    made = write_report(store, file)
    assert made.measures == ("svcca", "pwcca", "gulp")
    assert made.size == file.stat().st_size < 6_000_000
    page = Looking(browser, file.as_uri())
    for measure, order in (("svcca", "step"), ("pwcca", "depth"), ("gulp", "step")):
        page.go(fragment(measure=measure, order=order))
        values = stored[measure].to_numpy()
        means = np.array(
            [[np.nanmean(values[12 * i : 12 * i + 12, 12 * j : 12 * j + 12]) for j in range(3)] for i in range(3)]
        )
        high = 1 if measure != "gulp" else np.nanmax(values)
        for place, value in np.ndenumerate(means):
            np.testing.assert_allclose(
                page.colours()[place], colour_of(value, 0, high, distance=measure == "gulp"), atol=1
            )
        for a, b in chosen_pairs(stored, 10):
            parts = [NAMES[place] for place in (a, b)]
            spans = ["/".join((one[0], one[1] if order == "step" else one[2])) for one in parts]
            page.turn(fragment(measure=measure, order=order, a=spans[0], b=spans[1]))
            page.click(*(one[4] if order == "step" else (0, 10, 200).index(one[3]) for one in parts))
            found = page.pair()
            assert found.pop("pair_status") == PairStatus(int(stored.pair_status[a, b])).name.lower().replace("_", " ")
            assert {*made.measures, "null_svcca"} == set(found)
            for name, text in found.items():
                value = float(stored[name][a, b])
                assert text == "no value" if np.isnan(value) else float(text) == pytest.approx(value, rel=5e-6)
    assert page.log() == []
