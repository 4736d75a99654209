"""What a worker process keeps between tasks of one run: open stores, and one BLAS thread."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import threadpoolctl
import zarr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_svcca.plan.tasks import Job


class Stores:
    """The stores of one run, and the variables of its comparison, each opened once in a process."""

    def __init__(self, job: Job) -> None:
        self.zoo = zarr.open_group(job.zoo, mode="r", use_consolidated=False)
        self.comparison = zarr.open_group(job.comparison, mode="r+", use_consolidated=False)
        self._variables: dict[str, zarr.Array[Any]] = {}

    def variable(self, name: str) -> zarr.Array[Any]:
        """One variable of the comparison."""
        if name not in self._variables:
            array = self.comparison[name]
            if not isinstance(array, zarr.Array):
                raise TypeError(f"{name!r} in {str(self.comparison.store_path)!r} is a group, not an array")
            self._variables[name] = array
        return self._variables[name]


_OPEN: dict[str, Stores] = {}
_CLOCK: ContextVar[dict[str, float]] = ContextVar("clock")


@contextmanager
def clock() -> Iterator[dict[str, float]]:
    """Collect what `timed` measures in this task, stage by stage, in seconds."""
    stages: dict[str, float] = {}
    token = _CLOCK.set(stages)
    try:
        yield stages
    finally:
        _CLOCK.reset(token)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Add the time of a block to a stage of the task around it. Blocks are not nested."""
    start = time.perf_counter()
    try:
        yield
    finally:
        stages = _CLOCK.get({})
        stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - start


def stores(job: Job) -> Stores:
    """The stores of a run. Only the latest run's are kept: a later one may have resized them."""
    found = _OPEN.get(job.run)
    if found is None:
        found = Stores(job)
        _OPEN.clear()
        _OPEN[job.run] = found
    return found


@cache
def single_blas_thread() -> None:
    """Limit BLAS to one thread, once in a worker process.

    Nannies set it by the environment; workers without a nanny do not. The limit is the process's own, so that it is
    never set around a task: another thread's task would lose it in the middle.
    """
    threadpoolctl.threadpool_limits(1)
