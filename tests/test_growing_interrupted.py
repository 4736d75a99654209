"""Comparisons stopped while they gain measures: wherever it was, the same call goes on to the same end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore
from zoos import assert_same, layers, make_zoo, spoil, write

import dask_svcca
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_svcca import Zoo

FIRST, ADDED, LATER = ("svcca",), ("linear_regression", "cka"), ("procrustes",)
WITH_SVCCA = (PairStatus.DONE, PairStatus.PARTIAL, PairStatus.SATURATED)


class PowerCut(Exception):
    """The machine went down."""


class Mains:
    """Lets so many writes happen, and none after: to stores in memory, and to files.

    Attributes
    ----------
    left : int or None
        None for as many as there are.
    used : int
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.used = 0
        write, put = MemoryStore.set, Path.replace

        async def watched_write(store: MemoryStore, *arguments: Any, **options: Any) -> None:
            self._use()
            await write(store, *arguments, **options)

        def watched_put(path: Path, target: Any) -> Path:
            # What zarr and this package write to a directory comes to its place so.
            self._use()
            return put(path, target)

        monkeypatch.setattr(MemoryStore, "set", watched_write)
        monkeypatch.setattr(Path, "replace", watched_put)

    def _use(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise PowerCut
            self.left -= 1
        self.used += 1


@pytest.fixture
def mains(monkeypatch: pytest.MonkeyPatch) -> Mains:
    return Mains(monkeypatch)


@pytest.fixture(autouse=True)
def _in_order() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def compare(zoo: Zoo, store: Any, *measures: str, **options: Any) -> xr.Dataset:
    run_comparison(zoo, store, Parameters(measures, **options))
    return dask_svcca.open_comparison(store).load()


def copy_of(store: MemoryStore) -> MemoryStore:
    return MemoryStore(dict(store._store_dict))


def stopped_after(mains: Mains, writes: int, act: Callable[[], object]) -> bool:
    """Whether something was stopped after so many writes."""
    mains.left = writes
    try:
        act()
    except PowerCut:
        return True
    finally:
        mains.left = None
    return False


def more_measures(zoo: Zoo) -> None:
    """Nothing but measures is added."""


def more_of_all(zoo: Zoo) -> None:
    """One representation is new, one has changed, and one has gone bad."""
    write(zoo, layers(10)[9:], start=9)
    zoo.write("net", "step003", "fc", layers(1, seed=5)[0], step=3, overwrite=True)
    zoo.write("net", "step005", "fc", spoil("nan", layers(6)[5]), step=5, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [(), ("correlations",)], ids=["measures", "details"])
@pytest.mark.parametrize("grow", [more_measures, more_of_all], ids=lambda grow: grow.__name__)
def test_growing__stopped_at_any_write_is_as_if_it_had_not_been(
    mains: Mains, grow: Callable[[Zoo], None], keep: tuple[Any, ...]
) -> None:
    # Of two tiles a side, so that the states of pairs are converted in two steps.
    zoo, begun = make_zoo(MemoryStore(), layers(9)), MemoryStore()
    before = compare(zoo, begun, *FIRST)
    grow(zoo)
    undisturbed = compare(zoo, copy_of(begun), *ADDED, keep=keep)
    with_more = compare(zoo, copy_of(begun), *ADDED, *LATER, keep=keep)
    same = before.digest_a.to_numpy() == undisturbed.digest_a[:9].to_numpy()
    writes, states = 0, set()
    while True:
        store = copy_of(begun)
        if not stopped_after(mains, writes, lambda: compare(zoo, store, *ADDED, keep=keep)):
            break
        found = ComparisonStore.open(store)
        state = found.read_state()
        states.add((state.growing, *np.unique(state.status)))
        # What is said to be there is, and has not moved.
        there = np.isin(state.status[:9, :9], WITH_SVCCA) & np.outer(same, same)
        np.testing.assert_array_equal(found.array("svcca")[:9, :9][there], before.svcca.to_numpy()[there])
        other = copy_of(store)
        assert_same(compare(zoo, store, *ADDED, keep=keep), undisturbed)
        again = compare(zoo, other, *ADDED, *LATER, keep=keep)
        assert set(again.data_vars) == set(with_more.data_vars)
        for name, values in with_more.data_vars.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(again[name], values, rtol=0, atol=1e-12, err_msg=str(name))
            else:
                np.testing.assert_array_equal(again[name], values, err_msg=str(name))
        writes += 1
    # It was stopped before the conversion of states, in the middle of it, and in the middle of computing.
    assert any(growing and PairStatus.DONE in rest and PairStatus.PARTIAL not in rest for growing, *rest in states)
    assert any(growing and {PairStatus.DONE, PairStatus.PARTIAL} <= set(rest) for growing, *rest in states)
    assert any(not growing and {PairStatus.DONE, PairStatus.PARTIAL} <= set(rest) for growing, *rest in states)
