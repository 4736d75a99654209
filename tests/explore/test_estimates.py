"""Estimates on the page: hatched until they are exact, with their errors, and never among exact values."""

from __future__ import annotations

import json
import urllib.parse
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from explored import answered, block_at, make_estimated, serving
from looking import TIMES, Looking, colour_of

import dask_svcca
from dask_svcca.explore.report import write_report
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dask_svcca.explore.server import Explorer

MODELS = ("net a/step0", "net a/step10", "net b/step0", "net b/step10")
SIDE = 3
"""Layers of a checkpoint."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_estimated(tmp_path_factory.mktemp("estimated"))


@pytest.fixture(scope="module")
def stored(place: Path) -> xr.Dataset:
    with xr.open_zarr(place) as result:
        return result.load()


@pytest.fixture(scope="module")
def explorer(place: Path) -> Iterator[Explorer]:
    with serving(place) as served:
        yield served


def block(explorer: Explorer, measure: str, a: str, b: str, chance: str = "") -> dict[str, Any]:
    return block_at(explorer, f"block?c=0&measure={measure}&order=step&a={a}&b={b}&chance={chance}")


def test_block__has_estimates_where_nothing_is_computed(explorer: Explorer, stored: xr.Dataset) -> None:
    found = block(explorer, "cka", "0:3", "3:6")
    np.testing.assert_allclose(found["values"], stored.cka_estimate[:3, 3:6])
    assert (found["estimated"] == 1).all()
    assert (found["status"] == PairStatus.ESTIMATED).all()
    exact = block(explorer, "cka", "0:3", "0:3")
    np.testing.assert_array_equal(exact["values"], stored.cka[:3, :3])
    assert not exact["estimated"].any()
    assert (exact["status"] == PairStatus.DONE).all()


def test_block__means_say_how_many_are_estimated(explorer: Explorer, stored: xr.Dataset) -> None:
    found = block(explorer, "cka", "0:12", "0:12")
    both = np.where(np.isnan(stored.cka), stored.cka_estimate, stored.cka).reshape(2, 6, 2, 6)
    np.testing.assert_allclose(found["values"], both.mean(axis=(1, 3)))
    np.testing.assert_array_equal(found["counts"], np.full((2, 2), 36))
    np.testing.assert_array_equal(found["estimated"], [[18, 36], [36, 18]])


def test_block__other_measures_have_none(explorer: Explorer, stored: xr.Dataset) -> None:
    found = block(explorer, "svcca", "0:3", "3:6")
    assert found["estimated"] is False
    assert np.isnan(found["values"]).all()
    # What is above chance is not known of an estimate.
    assert np.isnan(block(explorer, "svcca", "0:3", "3:6", chance="1")["values"]).all()


def test_row_and_pair__estimates_are_not_among_values(explorer: Explorer, stored: xr.Dataset) -> None:
    row = answered(explorer, "row?c=0&measure=cka&side=a&place=0&top=20&chance=0")
    assert sorted(row["places"]) == [1, 2]
    pair = answered(explorer, "pair?c=0&a=0&b=7")
    assert (pair["status"], pair["unfinished"], pair["values"]["cka"]) == ("estimated", True, None)
    assert pair["values"]["cka_estimate"] == float(stored.cka_estimate[0, 7])


def test_overview__is_read_anew_where_pairs_become_exact(tmp_path: Path) -> None:
    place = make_estimated(tmp_path)
    with serving(place) as explorer:
        assert block(explorer, "cka", "0:12", "0:12")["estimated"].any()
        exact = dask_svcca.compare(tmp_path / "zoo.zarr", place, measures=("svcca", "cka"), variance=None)
        answered(explorer, "meta?c=0")
        found = block(explorer, "cka", "0:12", "0:12")
        assert not found["estimated"].any()
        means = exact.cka.to_numpy().reshape(2, 6, 2, 6).mean(axis=(1, 3))
        np.testing.assert_allclose(found["values"], means)


def spots(page: Looking, row: int, column: int) -> np.ndarray[Any, Any]:
    """Colours of 16 x 16 pixels in the middle of a cell."""
    x, y = page.middle(row, column)
    read = page.run(
        "const context = document.getElementById('matrix').getContext('2d');"
        "return Array.from(context.getImageData(arguments[0] - 8, arguments[1] - 8, 16, 16).data)",
        x,
        y,
    )
    return np.array(read).reshape(-1, 4)[:, :3]


def looked_at(page: Looking, stored: xr.Dataset) -> None:
    """Cells are hatched where they are estimated, in the colour of the estimate; pane and readout say it."""
    for a, b in ((0, 0), (0, 2), (2, 0)):
        page.go(urllib.parse.urlencode({"measure": "cka", "a": MODELS[a], "b": MODELS[b]}))
        hatched = a != b
        assert page.run("return document.getElementById('estimated').hidden") is not hatched
        for row, column in ((0, 1), (2, 1)):
            i, j = SIDE * a + row, SIDE * b + column
            found = spots(page, row, column)
            value = float((stored.cka_estimate if hatched else stored.cka)[i, j])
            plain = np.abs(found - colour_of(value, 0, 1)).max(axis=1) <= 1
            assert 0.1 < plain.mean() < 0.9 if hatched else plain.all()
            page.click(row, column)
            assert f"{stored.representation_a[i].item()} {TIMES} " in page.text("pane")
            numbers = page.pair()
            assert numbers["pair_status"] == ("estimated" if hatched else "done")
            estimate, error = (f"{float(stored[name][i, j]):.6g}" for name in ("cka_estimate", "cka_estimate_error"))
            if hatched:
                assert f"cka is not computed yet: estimated, {estimate} ± {error} (standard error)" in page.text("pane")
                assert page.text("readout").endswith(f" · cka {estimate}: estimated, not computed yet")
            else:
                assert float(numbers["cka"]) == pytest.approx(value, rel=5e-6)
                assert "estimated" not in page.text("readout")
    page.go(urllib.parse.urlencode({"measure": "svcca", "a": MODELS[0], "b": MODELS[2]}))
    assert page.run("return document.getElementById('estimated').hidden")


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_page__is_hatched_until_pairs_are_exact(browser: Any, explorer: Explorer, stored: xr.Dataset) -> None:
    page = Looking(browser, explorer.address)
    looked_at(page, stored)
    page.go("measure=cka")
    page.press("a")
    assert f"mean of 6 {TIMES} 6, 18 estimated" in page.text("readout")
    assert page.log() == []


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_report__is_hatched_as_the_page_is(browser: Any, place: Path, stored: xr.Dataset, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(place, file)
    page = Looking(browser, file.as_uri())
    looked_at(page, stored)
    assert page.log() == []


def test_report__has_estimates_beside_exact_values(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(place, file)
    text = file.read_text()
    assert all(f'data-name="{name}"' in text for name in ("cka", "cka_estimate", "cka_estimate_error"))
    head = json.loads(text.split('id="embedded">')[1].split("</script>")[0])
    assert head["meta"]["unfinished"] == [PairStatus.MISSING, PairStatus.ESTIMATED, PairStatus.PARTIAL]
    assert [one["estimate"] for one in head["meta"]["measures"]] == ["", "cka_estimate"]
