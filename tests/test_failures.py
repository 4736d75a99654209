"""Tasks that fail: tried again, and where that does not help, recorded, while all the rest is finished."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import xarray as xr
from zoos import layers, write

import dask_svcca
from dask_svcca.coarse.compare import plan_comparison
from dask_svcca.errors import FailedRepresentationWarning
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")

perform_module = importlib.import_module("dask_svcca.tasks.perform")
"""A function of that name hides it."""

COUNT = 20
"""Three groups of eight, eight and four: six tiles."""


@pytest.fixture
def zoo(tmp_path: Path) -> dask_svcca.Zoo:
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(40))
    write(zoo, layers(COUNT, 40))
    return zoo


def fail(monkeypatch: pytest.MonkeyPatch, name: str, fails: Callable[[Any], bool], times: int = 10**6) -> list[Any]:
    """Some tasks raise so many times each; returns those that were begun."""
    begun: list[Any] = []
    whole = getattr(perform_module, name)

    def failing(context: Any, task: Any, *needed: Any) -> Any:
        key = task.key
        begun.append(key)
        if fails(task) and begun.count(key) <= times:
            raise RuntimeError(f"injected into {key}")
        return whole(context, task, *needed)

    monkeypatch.setattr(perform_module, name, failing)
    return begun


def expected(zoo: dask_svcca.Zoo) -> xr.Dataset:
    with dask.config.set(scheduler="synchronous"):
        return dask_svcca.compare(zoo)


def opened(place: Path) -> xr.Dataset:
    with dask_svcca.open_comparison(place) as found:
        return found.load()


def middle(task: Any) -> bool:
    return (task.row, task.column) == (0, 1)


def run(zoo: dask_svcca.Zoo, place: Path) -> Any:
    with dask.config.set(scheduler="synchronous"):
        return run_comparison(zoo, place, Parameters())


def test_compare__a_task_that_fails_twice_leaves_no_trace(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = expected(zoo)
    begun = fail(monkeypatch, "compute_tile", lambda _: True, times=2)
    fail(monkeypatch, "make_pack", lambda _: True, times=2)
    outcome = run(zoo, tmp_path / "c.zarr")
    assert begun.count("tile-0-1") == 3
    assert not outcome.problems
    assert not outcome.failures
    xr.testing.assert_equal(opened(tmp_path / "c.zarr"), right)
    assert "failures" not in opened(tmp_path / "c.zarr").attrs


def test_compare__a_tile_that_always_fails(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, place = expected(zoo), tmp_path / "c.zarr"
    with monkeypatch.context() as patch:
        begun = fail(patch, "compute_tile", middle)
        outcome = run(zoo, place)
    assert begun.count("tile-0-1") == 3
    assert outcome.failed == 64
    reason = "the task that compares them failed 3 times (RuntimeError: injected into tile-0-1)"
    first, last = str(right.representation_a[0].item()), str(right.representation_a[7].item())
    others = str(right.representation_a[8].item()), str(right.representation_a[15].item())
    assert outcome.failures == {f"{first!r} to {last!r} with {others[0]!r} to {others[1]!r}": reason}
    found = opened(place)
    failed = found.pair_status == PairStatus.FAILED
    assert failed[:8, 8:16].all()
    assert failed[8:16, :8].all()
    assert failed.sum() == 128
    np.testing.assert_array_equal(found.svcca.where(~failed), right.svcca.where(~failed))
    assert np.isnan(found.svcca.where(failed)).all()
    assert json.loads(found.attrs["failures"]) == [{"rows": [0, 8], "columns": [8, 16], "reason": reason}]
    assert not found.problem_a.any()
    # It is tried again, alone.
    with dask.config.set(scheduler="synchronous"):
        plan = plan_comparison(zoo, place)
    assert [tile.key for tile in plan.tiles] == ["tile-0-1"]
    assert plan.pairs - plan.pairs_done == 64
    outcome = run(zoo, place)
    assert (outcome.computed, outcome.failed) == (64, 0)
    xr.testing.assert_equal(opened(place), right)
    assert "failures" not in opened(place).attrs
    assert dask_svcca.verify(place).ok


def test_compare__subspaces_that_always_fail_cost_their_own_pairs(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, place = expected(zoo), tmp_path / "c.zarr"
    victim = str(right.representation_a[3].item())
    with monkeypatch.context() as patch:
        fail(patch, "make_pack", lambda task: any(member.label == victim for member in task.members))
        outcome = run(zoo, place)
    assert list(outcome.problems) == [victim]
    assert outcome.problems[victim].startswith(
        f"{victim!r} has no subspace: the task that makes it failed 3 times (RuntimeError: injected into subspaces-"
    )
    found = opened(place)
    failed = found.pair_status == PairStatus.FAILED
    lost = found.representation_a == victim, found.representation_b == victim
    np.testing.assert_array_equal(failed, np.logical_or.outer(lost[0].values, lost[1].values))
    np.testing.assert_array_equal(found.svcca.where(~failed), right.svcca.where(~failed))
    assert outcome.failed == COUNT
    outcome = run(zoo, place)
    assert (outcome.computed, outcome.plan.subspaces) == (COUNT, 1)
    assert not outcome.problems
    # Products of one row are summed in another order than those of a whole tile.
    xr.testing.assert_allclose(opened(place), right, rtol=0, atol=1e-7)
    xr.testing.assert_equal(opened(place).svcca.where(~failed), right.svcca.where(~failed))
    assert not opened(place).problem_a.any()
    assert "failures" not in opened(place).attrs
    assert dask_svcca.verify(place).ok


def test_compare__what_failed_is_warned_of(zoo: dask_svcca.Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "compute_tile", middle)
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.warns(
            FailedRepresentationWarning, match=r"64 pairs could not be compared, in a block .* failed 3 times"
        ),
    ):
        dask_svcca.compare(zoo)


def test_compare__a_memory_error_is_a_failure_like_others(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(context: Any, task: Any, *needed: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(perform_module, "compute_tile", full)
    outcome = run(zoo, tmp_path / "c.zarr")
    assert outcome.failed == COUNT * (COUNT + 1) // 2
    assert (opened(tmp_path / "c.zarr").pair_status == PairStatus.FAILED).all()
    assert len(outcome.failures) == 6
    assert set(outcome.failures.values()) == {"the task that compares them failed 3 times (MemoryError)"}
