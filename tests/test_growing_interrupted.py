"""Comparisons stopped while they gain measures: wherever it was, the same call goes on to the same end."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from thoroughness import ONE_OF
from zarr.storage import MemoryStore
from zoos import layers, make_zoo, spoil, write

import dask_svcca
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores import lease
from dask_svcca.stores.backend import local
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import xarray as xr

    from dask_svcca import Zoo

FIRST, ADDED, LATER = ("svcca",), ("linear_regression", "cka"), ("procrustes",)
WITH_SVCCA = (PairStatus.DONE, PairStatus.PARTIAL, PairStatus.SATURATED)


class PowerCut(Exception):
    """The machine went down."""


class Mains:
    """Lets so many writes to a store happen, and none ever after: what is at work when it stops may go on for a while.

    Attributes
    ----------
    used : int
        Writes to all stores.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used = 0
        self._left: list[tuple[Any, list[None]]] = []
        write, put = MemoryStore.set, Path.replace

        async def watched_write(store: MemoryStore, *arguments: Any, **options: Any) -> None:
            self._use(lambda place: place is store)
            await write(store, *arguments, **options)

        def watched_put(path: Path, target: Any) -> Path:
            # What zarr writes to a directory comes to its place so.
            self._use(lambda place: isinstance(place, Path) and path.is_relative_to(place))
            return put(path, target)

        replace = local.replace_file

        def watched_replace(partial: str, target: str) -> None:
            # And what this package writes.
            self._use(lambda place: isinstance(place, Path) and Path(target).is_relative_to(place))
            replace(partial, target)

        monkeypatch.setattr(MemoryStore, "set", watched_write)
        monkeypatch.setattr(Path, "replace", watched_put)
        monkeypatch.setattr(local, "replace_file", watched_replace)
        # Another thread writes these, and on a busy machine it would meet the cut in place of the run.
        monkeypatch.setattr(lease._Renewals, "_renewed", staticmethod(lambda _: None))

    def allow(self, store: Any, writes: int) -> None:
        """Refuse all but the next writes to a store."""
        self._left.append((store, [None] * writes))

    def _use(self, is_meant: Callable[[Any], bool]) -> None:
        self.used += 1
        for place, left in self._left:
            if is_meant(place):
                if not left:
                    raise PowerCut
                left.pop()


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


def copy_of(store: Any) -> Any:
    """Another store of the same content."""
    if isinstance(store, MemoryStore):
        return MemoryStore(dict(store._store_dict))
    place = store.with_name(uuid.uuid4().hex)
    shutil.copytree(store, place, ignore=shutil.ignore_patterns("*.partial"))
    return place


def assert_alike(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Equal, values of measures to rounding."""
    assert set(found.variables) == set(expected.variables)
    for name, values in expected.variables.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-12, err_msg=str(name))
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=str(name))


def more_measures(zoo: Zoo) -> None:
    """Nothing but measures is added."""


def more_of_all(zoo: Zoo) -> None:
    """One representation is new, one has changed, and one has gone bad."""
    write(zoo, layers(10)[9:], start=9)
    zoo.write("net", "step003", "fc", layers(1, seed=5)[0], step=3, overwrite=True)
    zoo.write("net", "step005", "fc", spoil("nan", layers(6)[5]), step=5, overwrite=True)


def check_stops(
    mains: Mains, tmp_path: Path | None, grow: Callable[[Zoo], None], stops: Callable[[int], range], **options: Any
) -> set[tuple[Any, ...]]:
    """Stop a comparison that grows after some numbers of writes of all, and go on; in which states it was stopped."""
    # Of two tiles a side, so that the states of pairs are converted in two steps.
    zoo, begun = make_zoo(MemoryStore(), layers(9)), MemoryStore() if tmp_path is None else tmp_path / "begun"
    before = compare(zoo, begun, *FIRST)
    grow(zoo)
    used = mains.used
    undisturbed = compare(zoo, copy_of(begun), *ADDED, **options)
    used = mains.used - used
    with_more = compare(zoo, copy_of(begun), *ADDED, *LATER, **options)
    same = before.digest_a.to_numpy() == undisturbed.digest_a[:9].to_numpy()
    states = set()
    for writes in stops(used):
        stopped = copy_of(begun)
        mains.allow(stopped, writes)
        with pytest.raises(PowerCut):
            compare(zoo, stopped, *ADDED, **options)
        store, other = copy_of(stopped), copy_of(stopped)
        found = ComparisonStore.open(store)
        state = found.read_state()
        known = slice(0, len(state.labels))
        status = state.status[known, known]
        states.add((state.growing, *np.unique(status)))
        # What is said to be there is, and has not moved.
        there = np.isin(status[:9, :9], WITH_SVCCA) & np.outer(same, same)
        np.testing.assert_array_equal(found.array("svcca")[:9, :9][there], before.svcca.to_numpy()[there])
        # Pairs that are left of a tile may be solved in other stacks than all of it.
        assert_alike(compare(zoo, store, *ADDED, **options), undisturbed)
        assert_alike(compare(zoo, other, *ADDED, *LATER, **options), with_more)
    return states


def check_states(states: set[tuple[Any, ...]]) -> None:
    """It was stopped before the conversion of states, in the middle of it, and in the middle of computing."""
    done, partial = PairStatus.DONE, PairStatus.PARTIAL
    assert any(growing and done in rest and partial not in rest for growing, *rest in states)
    assert any(growing and {done, partial} <= set(rest) for growing, *rest in states)
    assert any(not growing and {done, partial} <= set(rest) for growing, *rest in states)


def test_growing__stopped_is_as_if_it_had_not_been(mains: Mains, tmp_path: Path) -> None:
    check_stops(mains, tmp_path, more_measures, lambda used: range(used // 8, used, used // 3))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["memory", "directory"])
@pytest.mark.parametrize("keep", [(), ("correlations",)], ids=["measures", "details"])
def test_growing__stopped_at_any_write_is_as_if_it_had_not_been(
    mains: Mains, tmp_path: Path, where: str, keep: tuple[Any, ...]
) -> None:
    place, step = (tmp_path, 3 * ONE_OF) if where == "directory" else (None, 1)
    states = check_stops(mains, place, more_measures, lambda used: range(0, used, step), keep=keep)
    if step == 1:
        check_states(states)


@pytest.mark.slow
def test_growing__stopped_while_representations_change_too_is_as_if_it_had_not_been(mains: Mains) -> None:
    states = check_stops(mains, None, more_of_all, lambda used: range(0, used, 3 * ONE_OF), keep=("correlations",))
    assert len(states) > 3
