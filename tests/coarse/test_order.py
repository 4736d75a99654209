"""``order="by estimate"``: the tiles of the most similar pairs first, the results the same bit by bit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from zarr.storage import MemoryStore
from zoos import assert_same, make_zoo

import dask_svcca
from dask_svcca.errors import FailedRepresentationWarning
from dask_svcca.plan.tasks import PackTask, TileTask
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning"),
    pytest.mark.usefixtures("several_tiles"),
]

perform_module: Any = importlib.import_module("dask_svcca.tasks.perform")

GROUPS = 5
"""Groups of eight layers, as small comparisons have them."""


@pytest.fixture
def zoo(tmp_path: Path) -> dask_svcca.Zoo:
    """Layers of the second group and of the last are alike; all others are not."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(60, 4))
    arrays = [
        common + rng.normal(size=(60, 4)) / 10 if place // 8 in {1, 4} else rng.normal(size=(60, 4))
        for place in range(8 * GROUPS)
    ]
    return make_zoo(tmp_path / "zoo.zarr", arrays)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Tasks in the order in which they begin."""
    found: list[Any] = []
    for name in ("make_pack", "compute_tile"):
        whole = getattr(perform_module, name)

        def noting(context: Any, task: Any, *rest: Any, whole: Any = whole) -> Any:
            found.append(task)
            return whole(context, task, *rest)

        monkeypatch.setattr(perform_module, name, noting)
    return found


def test_order__the_most_telling_tiles_first(zoo: dask_svcca.Zoo, tmp_path: Path, begun: list[Any]) -> None:
    with dask.config.set(scheduler="synchronous"):
        result = dask_svcca.compare(zoo, tmp_path / "c.zarr", order="by estimate")
        tiles = [(task.row, task.column) for task in begun if isinstance(task, TileTask)]
        assert set(tiles[:3]) == {(1, 1), (1, 4), (4, 4)}
        assert len(tiles) == len(set(tiles)) == GROUPS * (GROUPS + 1) // 2
        expected = dask_svcca.compare(zoo, tmp_path / "d.zarr")
    assert_same(result, expected)


def test_order__a_subspace_that_cannot_be_made_costs_its_pairs_alone(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = perform_module.make_pack

    def failing(context: Any, task: PackTask, *rest: Any) -> Any:
        if any(member.label == "net/step009/fc" for member in task.members):
            raise RuntimeError("injected")
        return whole(context, task, *rest)

    monkeypatch.setattr(perform_module, "make_pack", failing)
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.warns(FailedRepresentationWarning, match="injected"),
    ):
        result = dask_svcca.compare(zoo, tmp_path / "c.zarr", order="by estimate")
    gone = np.arange(8 * GROUPS) == 9
    wanted = np.where(np.logical_or.outer(gone, gone), PairStatus.FAILED, PairStatus.DONE)
    np.testing.assert_array_equal(result.pair_status, wanted)


def test_order__in_memory_and_with_the_nearest(zoo: dask_svcca.Zoo) -> None:
    first = dask_svcca.compare(zoo, MemoryStore(), pairs="nearest 2", order="by estimate")
    assert_same(first.load(), dask_svcca.compare(zoo, MemoryStore(), pairs="nearest 2").load())


def test_order__goes_on_where_it_was_interrupted(
    zoo: dask_svcca.Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, tiles = perform_module.compute_tile, []

    def interrupted(context: Any, task: TileTask, *rest: Any) -> Any:
        tiles.append((task.row, task.column))
        if len(tiles) == 5:
            raise KeyboardInterrupt
        return whole(context, task, *rest)

    with dask.config.set(scheduler="synchronous"):
        with monkeypatch.context() as patched:
            patched.setattr(perform_module, "compute_tile", interrupted)
            with pytest.raises(KeyboardInterrupt):
                dask_svcca.compare(zoo, tmp_path / "c.zarr", order="by estimate")
        half = dask_svcca.open_comparison(tmp_path / "c.zarr")
        # The most telling pairs are there already.
        assert (half.pair_status[8:16, 32:40] == PairStatus.DONE).all()
        assert (half.pair_status == PairStatus.MISSING).any()
        result = dask_svcca.compare(zoo, tmp_path / "c.zarr", order="by estimate")
        assert_same(result, dask_svcca.compare(zoo, tmp_path / "d.zarr"))
