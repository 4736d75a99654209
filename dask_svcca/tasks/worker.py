"""What a worker process holds between the tasks of one run, and one task with its times."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal

import threadpoolctl
import zarr

from dask_svcca.devices import leave_cores, open_device
from dask_svcca.machine import own_time
from dask_svcca.stores._blocks import block_arrays
from dask_svcca.stores.subspaces import Pack, SubspaceStore
from dask_svcca.tasks.held import Held

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dask_svcca.measures import Kernel
    from dask_svcca.plan.tasks import Job
    from dask_svcca.stores._blocks import BlockArray


class Worker:
    """The stores of one run, each opened once in a process.

    Attributes
    ----------
    run : str
    zoo, comparison : zarr.Group
    subspaces : SubspaceStore
    diagonals : dict of (str, int, Kernel) to float
        Sums of squares of the diagonals of kernels, by pack, position in it, and kernel, as far as tiles found them.
    held : Held
        Scores that are on the device.
    """

    def __init__(self, job: Job) -> None:
        self.run = job.run
        self.diagonals: dict[tuple[str, int, Kernel], float] = {}
        self.zoo = zarr.open_group(job.zoo, mode="r", zarr_format=3, use_consolidated=False)
        self.comparison = zarr.open_group(job.comparison, mode="r+", zarr_format=3, use_consolidated=False)
        # Shared subspaces may be in a place where nobody can write, and all there.
        mode: Literal["r", "r+"] = "r" if getattr(job.subspaces, "read_only", False) else "r+"
        self.subspaces = SubspaceStore(zarr.open_group(job.subspaces, mode=mode, zarr_format=3, use_consolidated=False))
        self.held = Held(job.device_held)
        self._blocks: dict[str, BlockArray] = {}
        self._packs: dict[str, Pack] = {}

    def blocks(self, *names: str) -> list[BlockArray]:
        """Variables of the comparison along pairs."""
        unknown = [name for name in names if name not in self._blocks]
        if unknown:
            self._blocks |= block_arrays(self.comparison, unknown)
        return [self._blocks[name] for name in names]

    def pack(self, name: str) -> Pack | None:
        """One pack of subspaces; None where it was not made."""
        if name not in self._packs:
            self.read_packs([name])
        return self._packs.get(name)

    def read_packs(self, names: Iterable[str]) -> None:
        """Read the indices and spectra of packs that are not known yet, requested together."""
        unknown = sorted(set(names) - self._packs.keys())
        found = [pack for pack in self.subspaces.packs(unknown) if pack is not None]
        Pack.read_spectra(found)
        self._packs |= {pack.name: pack for pack in found}


class Context:
    """One task at work: the job, the worker, and the seconds spent by stage.

    Attributes
    ----------
    job : Job
    worker : Worker
    device : Device
        Where the operations are done that carry the time.
    seconds : dict of str to float
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.device = open_device(job.device)
        self.worker = _worker_of(job)
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage, without waiting for cores that others have. Blocks are not nested."""
        start = own_time()
        try:
            yield
        finally:
            taken = own_time() - start
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + taken


_LOCK = threading.Lock()
_WORKERS: dict[str, Worker] = {}


def _worker_of(job: Job) -> Worker:
    """The worker of a run. Only that of the latest run is held: this run may have resized the stores."""
    with _LOCK:
        worker = _WORKERS.get(job.run)
        if worker is None:
            worker = Worker(job)
            _WORKERS.clear()
            _WORKERS[job.run] = worker
        return worker


def release(run: str) -> None:
    """Let go of what this process holds for a run: stores in memory would otherwise stay as long as it lives."""
    with _LOCK:
        _WORKERS.pop(run, None)


def clear_devices() -> None:
    """Let go of what tasks of this process have left on devices: otherwise their memory would seem to be taken."""
    with _LOCK:
        for worker in _WORKERS.values():
            worker.held.clear()


@cache
def single_blas_thread() -> None:
    """Limit BLAS to one thread, once in a worker process.

    Nannies set the limit by the environment; workers without a nanny have none. It holds for the whole process, so it
    is not set around a task: the task of another thread would lose it in the middle.
    """
    threadpoolctl.threadpool_limits(1)
    leave_cores()
