"""Whatever happens to a zoo and its comparison, in whatever order: what is finished equals what was never disturbed."""

from __future__ import annotations

from functools import cache
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from dying import DyingStore, Power
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from thoroughness import ONE_OF
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison

N = 40
FIRST = 7
"""Representations at the beginning: tiles are of eight, so that a second one begins soon."""

MEASURES = ("svcca", "linear_regression", "cka")
STEPS = st.integers(0, 9)
SEEDS = st.integers(0, 2)
CUTS = st.integers(0, 250)


@cache
def activations(step: int, seed: int) -> np.ndarray:
    """Layers that have something in common; those of the last seed cannot be compared."""
    common = np.random.default_rng(99).normal(size=(N, 3))
    rng = np.random.default_rng([step, seed])
    width = int(rng.integers(2, 5))
    values = common @ rng.normal(size=(3, width)) + rng.normal(size=(N, width))
    if seed == 2:
        values[3, 0] = np.nan
    return values


def checkpoint(step: int) -> str:
    return f"step{step:03}"


def label(step: int) -> str:
    return f"net/{checkpoint(step)}/fc"


@cache
def undisturbed(model: frozenset[tuple[int, int]], measures: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What a comparison of a zoo has that was written in one go, by the order of the steps."""
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(N))
    with zoo:
        for step, seed in sorted(model):
            zoo.write("net", checkpoint(step), "fc", activations(step, seed), step=step)
    store = MemoryStore()
    run_comparison(zoo, store, parameters(measures))
    return matrices(store, sorted(model), measures)


def parameters(measures: tuple[str, ...]) -> Parameters:
    return Parameters(measures, precision="float64")


def matrices(store: Any, model: list[tuple[int, int]], measures: tuple[str, ...]) -> dict[str, np.ndarray]:
    found = dask_svcca.open_comparison(store).load()
    order = found.indexes.get("representation_a", found["representation_a"].to_index())
    places = order.get_indexer([label(step) for step, _ in model])
    assert (places >= 0).all()
    chosen = found.isel(representation_a=places, representation_b=places)
    return {name: chosen[name].to_numpy() for name in (*measures, "pair_status", "rank_a", "problem_a")}


class Disturbed(RuleBasedStateMachine):
    """A zoo and its comparison, in memory, to which everything happens that can."""

    def __init__(self) -> None:
        super().__init__()
        self.power = Power()
        self.zoo_store, self.store = DyingStore(self.power), DyingStore(self.power)
        self.shared: DyingStore | None = None
        self.model: dict[int, int] = {}
        self.measures: tuple[str, ...] = MEASURES[:1]
        self.grown = False
        self.begun = False

    @initialize(shared=st.booleans(), cut=CUTS)
    def create(self, shared: bool, cut: int) -> None:
        with self.power.cut_after(cut % 12):
            dask_svcca.create_zoo(self.zoo_store, examples=range(N))
        zoo = dask_svcca.create_zoo(self.zoo_store, examples=range(N), exist_ok=True)
        with zoo:
            for step in range(FIRST):
                zoo.write("net", checkpoint(step), "fc", activations(step, 0), step=step)
                self.model[step] = 0
        if shared:
            self.shared = DyingStore(self.power)

    def open(self) -> dask_svcca.Zoo:
        return dask_svcca.open_zoo(self.zoo_store, mode="r+")

    def run(self, drop_left: bool = False) -> None:
        run_comparison(self.open(), self.store, parameters(self.measures), subspaces=self.shared, drop_left=drop_left)

    def put(self, step: int, seed: int) -> None:
        self.open().write("net", checkpoint(step), "fc", activations(step, seed), step=step, overwrite=True)

    @rule(step=STEPS, seed=SEEDS)
    def write(self, step: int, seed: int) -> None:
        self.put(step, seed)
        self.model[step] = seed
        self.grown = self.begun

    @rule(step=STEPS, seed=SEEDS, cut=st.integers(0, 12))
    def write_and_stop(self, step: int, seed: int, cut: int) -> None:
        with self.power.cut_after(cut):
            self.put(step, seed)
        zoo = self.open()
        name = ("net", checkpoint(step), "fc")
        if name not in zoo:
            assert step not in self.model
            return
        found = np.asarray(zoo[name])
        if np.array_equal(found, activations(step, seed), equal_nan=True):
            self.model[step] = seed
            self.grown = self.begun
        else:
            np.testing.assert_array_equal(found, activations(step, self.model[step]))

    @precondition(lambda self: len(self.model) > 3)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.model)))
        self.open().delete(label(step))
        del self.model[step]
        self.grown = self.begun

    @rule(drop_left=st.booleans())
    def compare(self, drop_left: bool) -> None:
        self.begun = True
        self.run(drop_left)
        self.check()

    @rule(cut=CUTS, drop_left=st.booleans())
    def compare_and_stop(self, cut: int, drop_left: bool) -> None:
        self.begun = True
        with self.power.cut_after(cut):
            self.run(drop_left)
        self.look()

    def is_comparison(self) -> bool:
        """Whether there is one, and not only the beginning of its creation."""
        document = self.store._store_dict.get("zarr.json")
        return document is not None and b'"dask-svcca-comparison"' in document.to_bytes()

    def look(self) -> None:
        """What says that it is a comparison opens without this package, in whatever state it was left."""
        if self.is_comparison():
            with xr.open_zarr(self.store, chunks=None) as found:
                assert found.attrs["format"] == "dask-svcca-comparison"
                assert "pair_status" in found.load()

    @precondition(lambda self: len(self.measures) < len(MEASURES))
    @rule(cut=CUTS)
    def add_a_measure_and_stop(self, cut: int) -> None:
        self.measures = MEASURES[: len(self.measures) + 1]
        self.grown = self.begun
        self.compare_and_stop(cut, False)

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), kind=st.sampled_from(["delete", "empty", "cut", "flip"]))
    def damage_and_repair(self, data: st.DataObject, kind: str) -> None:
        keys = sorted(key for key in self.store._store_dict if "/c/" in key)
        if not keys or not self.is_comparison():
            return
        key = data.draw(st.sampled_from(keys))
        self.spoil(key, kind, data)
        if kind in {"cut", "flip"} or not key.startswith(("pair_status", *self.measures)):
            dask_svcca.verify(self.store, repair=True)
        # What is made anew of the same is in other tiles than before.
        self.grown = True

    def spoil(self, key: str, kind: str, data: st.DataObject) -> None:
        content = bytearray(self.store._store_dict[key].to_bytes())
        if kind == "delete":
            del self.store._store_dict[key]
            return
        if kind == "empty":
            content = bytearray()
        elif content:
            place = data.draw(st.integers(0, len(content) - 1))
            if kind == "cut":
                del content[place:]
            else:
                content[place] ^= 1 << data.draw(st.integers(0, 7))
        self.store._store_dict[key] = type(self.store._store_dict[key]).from_bytes(bytes(content))

    def check(self) -> None:
        model = sorted(self.model.items())
        found, expected = matrices(self.store, model, self.measures), undisturbed(frozenset(model), self.measures)
        for name, values in expected.items():
            if values.dtype.kind == "f" and self.grown:
                np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-12, err_msg=name)
            else:
                np.testing.assert_array_equal(found[name], values, err_msg=name)

    def teardown(self) -> None:
        if self.model:
            self.run()
            self.check()
            left = [key for store in (self.zoo_store, self.store) for key in store._store_dict if "lease" in key]
            assert left == []


def run_machine(examples: int, steps: int) -> None:
    with dask.config.set(scheduler="synchronous"):
        run_state_machine_as_test(
            Disturbed,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_stores__are_right_whatever_happens() -> None:
    run_machine(4, 6)


@pytest.mark.slow
def test_stores__are_right_whatever_happens_for_long() -> None:
    run_machine(60 // ONE_OF, 10)
