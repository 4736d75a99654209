"""What notebooks show: short, whatever the size of the store, and names as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import dask_svcca
from dask_svcca.measures import find_measures
from dask_svcca.stores import _create, html
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import REPRESENTATION_VARIABLES

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca import Zoo

HOSTILE = "<img src=x onerror=alert(1)>"


def many(place: Path, count: int) -> Any:
    """A comparison of many representations, of none of which a pair is there."""
    store = ComparisonStore.create(
        _create.create_root(place, {}),
        parameters={"variance": 0.99, "conv": "mean"},
        tile=120,
        zoo="zoo.zarr",
        examples_digest="a" * 32,
        n_examples=60,
    )
    store.add_results(find_measures(["svcca", "cka", "pwcca"]), ["svcca", "cka", "pwcca"], {}, ())
    store.resize(count)
    labels = np.array([f"{HOSTILE}/step{number}/</script>" for number in range(count)], dtype=object)
    texts = {one.name: labels for one in REPRESENTATION_VARIABLES if one.dtype == "string"}
    numbers = {one.name: np.zeros(count) for one in REPRESENTATION_VARIABLES if one.dtype != "string"}
    store.write_columns({**texts, **numbers})
    store.consolidate()
    return dask_svcca.open_comparison(place)


def test_comparison__is_short_and_escaped(tmp_path: Path) -> None:
    shown = many(tmp_path / "comparison.zarr", 10_000)._repr_html_()
    assert len(shown.encode()) < 100_000
    assert "10000" in shown
    assert "svcca" in shown
    assert HOSTILE not in shown
    assert "</script>" not in shown


def test_zoo__says_bytes_chunks_and_what_is_there(zoo: Zoo) -> None:
    zoo.write(HOSTILE, "</td>", "fc", np.random.default_rng(0).normal(size=(zoo.n_examples, 3)))
    shown = zoo._repr_html_()
    frame = zoo.representations
    assert f"<th>bytes</th><td>{frame['nbytes'].sum() / 1e6:,.1f} MB" in shown
    assert f"<td>{len(frame)} of {frame['model'].nunique()} models</td>" in shown
    assert "<th>&lt;img src=x onerror=alert(1)&gt;</th><td>1</td><td>1</td><td>1</td>" in shown
    assert "<img" not in shown


def test_plan__says_what_it_prints(zoo: Zoo, place: Path) -> None:
    plan = dask_svcca.plan_comparison(zoo, place)
    shown = plan._repr_html_()
    for line in str(plan).splitlines():
        assert line.split(maxsplit=1)[0] in shown
    assert f"{plan.pairs:,}" in shown


@pytest.mark.parametrize("count", [10, 10_000])
def test_html__is_short_whatever_there_is(count: int) -> None:
    rows = [("<" * 1000, number) for number in range(count)]
    shown = html.page("title", [], ("name", "number"), rows)
    assert len(shown) < 100_000
    assert "<<" not in shown
    assert ("and 9,960 more" in shown) == (count == 10_000)
