"""The memory promise: no task takes more than its plan says, nor is so much promised that it refuses what would fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
from measured import make_zoo, related
from memory_plans import ENVIRONMENT, NAMED, PATCHED, Measured
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.analysis import _pairs, significance
from dask_svcca.errors import MemoryLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

PROGRAM = Path(__file__).with_name("memory_plans.py")
LARGE = 100 * 2**20
"""Bytes of a promise from which it is also held to be no larger than need be."""

SHARE = 0.6
"""Of such a promise, what is taken at least."""


def measured(scale: float, seeds: Iterable[int | str]) -> list[Measured]:
    """What the tasks of some random plans take, measured in a process that does nothing else."""
    root = str(PROGRAM.parent.parent)
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(PROGRAM), str(scale), *map(str, seeds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Measured(**one) for line in done.stdout.splitlines() for one in json.loads(line)]


def assert_kept(tasks: Sequence[Measured]) -> None:
    broken = [task for task in tasks if task.peak > task.promised]
    assert not broken, "\n".join(map(str, broken))
    loose = [task for task in tasks if task.exact and task.promised > LARGE and task.peak < SHARE * task.promised]
    assert not loose, "\n".join(map(str, loose))


SOME_PLANS = [(0.5, 0, 50), (1.0, 100, 125), (2.5, 150, 165), (4.0, 180, 190)]
OTHER_PLANS = [(0.5, 50, 100), (1.0, 125, 150), (2.5, 165, 180), (4.0, 190, 200)]
"""Scales and seeds of random plans: with the others, measuring takes ten minutes of a core."""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")


def test_memory__of_random_plans_is_what_was_promised() -> None:
    # The fewest that have tasks of all kinds; more are slow.
    tasks = measured(0.5, (1, 6))
    assert {"tile", "pack of Neurons", "pack of Fourier", "pack of several"} <= {task.kind for task in tasks}
    assert_kept(tasks)


@pytest.mark.parametrize(
    ("scale", "first", "stop"),
    [
        *(pytest.param(*some, marks=pytest.mark.slow) for some in SOME_PLANS),
        *(pytest.param(*others, marks=pytest.mark.fuzz) for others in OTHER_PLANS),
    ],
)
def test_memory__of_two_hundred_random_plans_is_what_was_promised(scale: float, first: int, stop: int) -> None:
    tasks = measured(scale, range(first, stop))
    assert any(task.promised > LARGE for task in tasks) or scale < 4
    assert_kept(tasks)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_memory__of_plans_that_broke_their_promise(part: int) -> None:
    names = list(NAMED)[part::4]
    tasks = measured(1.0, names)
    assert {task.seed for task in tasks} == set(names)
    assert_kept(tasks)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATCHED)
def test_memory__of_tiles_in_patches_is_what_was_promised(name: str) -> None:
    tasks = measured(1.0, [name])
    tiles = [task for task in tasks if task.kind.startswith("tile")]
    # Two sides of uneven length, and each with itself.
    assert len(tiles) >= 3
    assert any(task.kind == "tile in patches" for task in tiles)
    assert_kept(tasks)


def test_memory__a_task_that_takes_more_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Measured(0, "tile", promised=2**28, traced=2**27, resident=2**28, exact=True)
    assert_kept([fine])
    for wrong in (
        replace(fine, traced=2**28 + 1),
        replace(fine, resident=2**28 + 1),
        replace(fine, traced=2**26, resident=2**26),
    ):
        with pytest.raises(AssertionError, match="'tile'"):
            assert_kept([fine, wrong])


# Beside comparisons: permutations and blocks of examples.


def held_at_most(found: Callable[[], object]) -> int:
    """Most bytes held at a time; what is imported and opened once is there before."""
    found()
    tracemalloc.start()
    try:
        found()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory__of_permutations_does_not_grow_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    examples, directions = 40_000, 6
    x, y = np.random.default_rng(0).normal(size=(2, examples, directions))
    zoo = make_zoo([x, x + y], MemoryStore())
    store = MemoryStore()
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.compare(zoo, store, measures="all", variance=None)
    for module in (significance, _pairs):
        monkeypatch.setattr(module, "STACK_BYTES", 2**18)
    pairs = [("net/1/00", "net/1/01")]
    chosen = _pairs.Pairs(store, pairs, ["svcca", "cka_debiased"])
    a, b, meeting = chosen.open(chosen.labels[0])
    scores = sum(_pairs.held_bytes(one.entry, 0, loadings=False) for one in (a, b))
    promised = scores + _pairs.working_bytes(a.entry, b.entry, meeting, chosen.measures)
    peak = held_at_most(
        lambda: dask_svcca.permutation_null(store, pairs, permutations=60, measures=["svcca", "cka_debiased"])
    )
    # All orders at once would take more than the promise.
    assert peak <= promised < 60 * examples * 8
    peak = held_at_most(lambda: dask_svcca.jackknife(store, pairs, blocks=40, measures=["svcca", "cka_debiased"]))
    left_out = sum(_pairs.held_bytes(one.entry, 40, loadings=False) for one in (a, b)) - scores
    assert peak <= promised + left_out


def test_memory__of_permutations_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    with dask.config.set(scheduler="synchronous"):
        dask_svcca.compare(make_zoo(related(60, 3, 4)), store)
    monkeypatch.setattr("dask_svcca.machine.available_memory", lambda: 2**20)
    with pytest.raises(
        MemoryLimitError, match=r"representations like 'net/1/0\d', .* need \d+ MiB, and 1 MiB are available"
    ):
        dask_svcca.permutation_null(store, [("net/1/00", "net/1/01")])
