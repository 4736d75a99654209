"""A Dask cluster on this machine, for as long as it is needed: its size, and how its processes start."""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing.resource_tracker
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dask.config
import dask.system
import dask.utils
import distributed
import distributed.utils
from distributed.system import MEMORY_LIMIT

from dask_svcca.devices.names import count_gpus, find_device, is_gpu
from dask_svcca.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENVIRONMENT: Final = {
    # Otherwise the memory of each chunk returns to the system and is faulted in again, page by page: with Dask's own
    # 64 KiB, reading is several times slower.
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    # Processes are the parallelism: BLAS threads on top would fight over the same cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Environment of the worker processes of a local cluster; an allocator reads it only when a process starts."""

PRIVATE: Final = "127.0.0.1:0"
"""Where a dashboard listens that is reached from its own machine alone, at a port that is free."""

GPU: Final = "GPU"
"""Resource of Dask workers that have a GPU, as its documentation names it."""

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
"""Variable that says which GPUs a process sees."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Size of a local cluster.

    Attributes
    ----------
    workers : int
        Processes, of one thread each.
    memory : int
        Bytes that each worker may take.
    gpus : tuple of str
        For each worker the GPU that it sees, as ``CUDA_VISIBLE_DEVICES`` names it; empty where they use none, or all
        that this process sees.
    """

    workers: int
    memory: int
    gpus: tuple[str, ...] = ()


def local_resources(workers: int | None = None, memory: str | int | None = None, device: str = "cpu") -> Resources:
    """Size of a local cluster: by default a worker for each core, or each GPU, and all memory shared between them.

    Parameters
    ----------
    workers : int, optional
    memory : str or int, optional
        Memory of each worker: bytes, or text such as ``"4GiB"``.
    device : str
        See `connect`.

    Raises
    ------
    ClusterError
        Where a number is not valid, or the machine has less memory, or fewer GPUs.
    DeviceError
        Where the device is not there.

    Examples
    --------
    >>> local_resources(2, "1GiB")
    Resources(workers=2, memory=1073741824, gpus=())
    """
    found = find_device(device)
    gpus = visible_gpus() if found == "cuda" else ()
    count = (len(gpus) or 1 if is_gpu(found) else dask.system.CPU_COUNT) if workers is None else workers
    if count < 1:
        raise ClusterError(f"a cluster needs at least one worker; got {count}")
    if is_gpu(found) and count > max(1, len(gpus)):
        there = f"this machine has {len(gpus)}" if gpus else f"{found!r} is one"
        raise ClusterError(
            f"each worker of device={device!r} takes a GPU of its own: {count} workers need as many, and {there}. Use "
            f"fewer workers"
        )
    gpus = gpus[:count]
    if memory is None:
        return Resources(count, int(MEMORY_LIMIT) // count, gpus)
    limit = parse_memory(memory)
    if limit < 1 or limit * count > MEMORY_LIMIT:
        raise ClusterError(
            f"{count} workers of {dask.utils.format_bytes(limit)} each do not fit into the "
            f"{dask.utils.format_bytes(int(MEMORY_LIMIT))} of this machine. Use fewer workers, or less memory for each"
        )
    return Resources(count, limit, gpus)


def visible_gpus() -> tuple[str, ...]:
    """GPUs that this process can use, each as ``CUDA_VISIBLE_DEVICES`` names it."""
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    count = count_gpus()
    return tuple(named[:count]) if len(named) >= count else tuple(map(str, range(count)))


def parse_memory(memory: str | int) -> int:
    """Bytes, from text such as ``"4GiB"``.

    Raises
    ------
    ClusterError
        Where it is not an amount of memory.

    Examples
    --------
    >>> parse_memory("4GiB")
    4294967296
    """
    try:
        return int(dask.utils.parse_bytes(memory))
    except ValueError:
        raise ClusterError(f"{memory!r} is not an amount of memory; write it like 4GiB or 500MB") from None


@contextlib.contextmanager
def start_local(resources: Resources) -> Iterator[distributed.Client]:
    """A client of a new cluster of that size."""
    opened = contextlib.ExitStack()
    try:
        # After 15 seconds Dask would give a worker up for good whose nanny is just starting it again.
        opened.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": "24 h"}))
        with _environment(ENVIRONMENT), _interrupts_held():
            cluster = opened.enter_context(_start(resources))
            client = opened.enter_context(distributed.Client(cluster, set_as_default=False))
        yield client
    finally:
        # Lost connections are expected now, and a second Ctrl-C must not leave workers behind.
        with distributed.utils.silence_logging_cmgr(logging.CRITICAL), _interrupts_held():
            opened.close()


class _WithGpu(distributed.Nanny):  # type: ignore[misc]
    """Keeps a worker process that sees one GPU, by the number of the worker."""

    def __init__(self, *args: Any, name: int, gpus: tuple[str, ...], **options: Any) -> None:
        super().__init__(*args, name=name, env={VISIBLE: gpus[name]}, **options)


def _start(resources: Resources) -> distributed.LocalCluster:
    kind: Callable[..., distributed.LocalCluster] = distributed.LocalCluster
    placed: dict[str, Any] = {}
    if resources.gpus:
        try:
            # It knows which cores and which network card are next to which GPU.
            kind, placed = importlib.import_module("dask_cuda").LocalCUDACluster, {VISIBLE: list(resources.gpus)}
        except ImportError:
            placed = {"worker_class": _WithGpu, "gpus": resources.gpus}
        placed["resources"] = {GPU: 1}
    try:
        return kind(
            n_workers=resources.workers,
            threads_per_worker=1,
            memory_limit=resources.memory,
            host="127.0.0.1",
            # Without an address, the scheduler's HTTP server would fight for Dask's usual port.
            dashboard_address=PRIVATE,
            scheduler_kwargs={"dashboard": False},
            # Errors of tasks are raised here; all else that is logged is about processes that end.
            silence_logs=logging.CRITICAL,
            **placed,
        )
    except RuntimeError as error:
        raise ClusterError(
            f"the local cluster of {resources.workers} workers did not start: one of its processes ended at once "
            f"({error.__cause__ or error}). It may have run out of memory: use fewer workers. A script "
            f"that starts a cluster has to do so under if __name__ == '__main__'"
        ) from error


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that start in the block; a nanny uses them for restarts too."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C until the end of the block; threads and processes started in it never see one.

    A terminal sends it to all processes. Workers would end by themselves, with a traceback each, and this process
    could no longer end them in order.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # If the first worker started it, later, it would lift the mask again.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
