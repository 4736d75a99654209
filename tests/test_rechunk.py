"""Comparisons that outgrow their tiles: results move into larger ones, and an interruption loses none of them."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import zarr
from planned import plan_of, representations, state_of
from zarr.storage import MemoryStore
from zoos import assert_same_to_rounding, layers, make_zoo, write

import dask_svcca
from dask_svcca.errors import StoreFormatError
from dask_svcca.stores.backend import LocalBackend
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_svcca import Zoo


class PowerCut(Exception):
    """The machine went down."""


class Changes:
    """Lets so many changes to stores happen, and none ever after.

    Attributes
    ----------
    left : int or None
        How many; None for all.
    made : int
        Changes so far.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.made = 0
        for kind, name in ((MemoryStore, "set"), (MemoryStore, "delete")):
            monkeypatch.setattr(kind, name, self._counted_async(getattr(kind, name)))
        for name in ("write", "remove", "move"):
            monkeypatch.setattr(LocalBackend, name, self._counted(getattr(LocalBackend, name)))
        # In the middle of a move.
        monkeypatch.setattr("dask_svcca.stores.backend.os.rename", self._counted(os.rename))

    def _use(self) -> None:
        self.made += 1
        if self.left is not None:
            if self.left == 0:
                raise PowerCut
            self.left -= 1

    def _counted(self, do: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self._use()
            return do(*arguments)

        return counted

    def _counted_async(self, do: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*arguments: Any) -> Any:
            self._use()
            return await do(*arguments)

        return counted


pytestmark = pytest.mark.usefixtures("several_tiles")


@pytest.fixture(autouse=True)
def _in_order() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def zoo() -> Zoo:
    return make_zoo(MemoryStore(), layers(20))


def copy_of(store: Any) -> Any:
    if isinstance(store, MemoryStore):
        return MemoryStore(dict(store._store_dict))
    shutil.copytree(store, place := store.with_name(uuid.uuid4().hex))
    return place


def values_of(store: Any, mode: str = "r+") -> dict[str, np.ndarray]:
    comparison = ComparisonStore.open(store, mode=mode)
    if mode == "r+":
        comparison.finish_rechunking()
    return {name: np.asarray(array[...]) for name, array in comparison.root.arrays() if array.ndim >= 2}


def test_make_plan__a_comparison_that_has_outgrown_its_tiles_gets_larger_ones() -> None:
    before, zoo = representations(1, 1, 10), representations(40, 4, 4)
    assert plan_of(before).tile == 8
    plan, fresh = plan_of(zoo, state=state_of(before, PairStatus.DONE)), plan_of(zoo)
    assert plan.tile == plan.side == fresh.tile > 4 * 8
    # Four of them are in both.
    assert plan.pairs_done == 10
    # Not where it is only somewhat larger, nor where it stays as it is.
    assert plan_of(representations(5, 4, 4), state=state_of(before)).tile == 8
    assert plan_of(zoo, state=state_of(zoo)).tile == 8


def test_compare__that_has_outgrown_its_tiles_is_as_one_that_began_large(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("dask_svcca.plan.comparison.OUTGROWN", 2)
    arrays = layers(50)
    zoo = make_zoo(tmp_path / "zoo", arrays[:10])
    before = dask_svcca.compare(zoo, tmp_path / "c", keep="correlations").load()
    write(zoo, arrays[10:], start=10)
    found = dask_svcca.compare(zoo, tmp_path / "c", keep="correlations")
    fresh = dask_svcca.compare(zoo, tmp_path / "fresh", keep="correlations")
    np.testing.assert_array_equal(found.svcca[:10, :10], before.svcca)
    assert_same_to_rounding(found.load(), fresh.load())
    for name in ("svcca", "pair_status", "correlations"):
        chunks = [zarr.open_array(tmp_path / place / name).chunks for place in ("c", "fresh")]
        assert chunks[0] == chunks[1]
        assert chunks[0][0] == 16
    assert not (tmp_path / "c" / "rechunked").exists()


@pytest.mark.parametrize("where", [pytest.param("memory", marks=pytest.mark.slow), "directory"])
def test_rechunk__stopped_anywhere_loses_nothing(
    zoo: Zoo, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    begun: Any = MemoryStore() if where == "memory" else tmp_path / "begun"
    dask_svcca.compare(zoo, begun)
    expected = values_of(begun)
    changes, tiles, refused = Changes(monkeypatch), [], 0
    ComparisonStore.open(copy_of(begun), mode="r+").rechunk(16)
    made = changes.made
    # Some while the copies are made, more while they are brought to their places.
    for number in (*range(0, made - made // 4, made // 3), *range(made - made // 4, made, max(1, made // 25))):
        stopped = copy_of(begun)
        changes.left = number
        with pytest.raises(PowerCut):
            ComparisonStore.open(stopped, mode="r+").rechunk(16)
        changes.left = None
        try:
            seen = values_of(stopped, "r")
        except StoreFormatError:
            refused += 1
        else:
            np.testing.assert_equal(seen, expected)
        np.testing.assert_equal(values_of(stopped), expected)
        tiles.append(ComparisonStore.open(stopped).tile)
        if number % 3 == 0:
            # What is left of an attempt does no harm.
            ComparisonStore.open(stopped, mode="r+").rechunk(24)
            np.testing.assert_equal(values_of(stopped, "r"), expected)
    assert {*tiles} == {8, 16}
    assert refused > 2
    assert dask_svcca.plan_comparison(zoo, stopped).tasks == 0


def test_rechunk__what_cannot_be_read_is_computed_again(zoo: Zoo, tmp_path: Any) -> None:
    dask_svcca.compare(zoo, tmp_path / "c")
    expected = values_of(tmp_path / "c")
    chunk = tmp_path / "c" / "svcca" / "c" / "0" / "1"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    ComparisonStore.open(tmp_path / "c", mode="r+").rechunk(16)
    status = values_of(tmp_path / "c")["pair_status"] == PairStatus.MISSING
    assert status[:8, 8:16].all()
    assert status[8:16, :8].all()
    assert status.sum() == 128
    assert dask_svcca.plan_comparison(zoo, tmp_path / "c").pairs_done == 210 - 64
    dask_svcca.compare(zoo, tmp_path / "c")
    for name, values in values_of(tmp_path / "c").items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-12)
