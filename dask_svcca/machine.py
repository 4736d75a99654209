"""Cores and memory that this process may use: less than the machine has in a container or a batch job.

Dask knows these limits. It is imported by the functions themselves, so that this module costs nothing to import.
"""

# ruff: noqa: PLC0415 - for that reason

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import threadpoolctl


def cores() -> int:
    """Number of cores that this process may use.

    Returns
    -------
    int
        At least 1. The affinity of the process and the CPU quota of its container (cgroups) count; the quota is
        rounded up to whole cores.

    Examples
    --------
    >>> cores() >= 1
    True
    """
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def memory() -> int:
    """Memory that processes of this machine or container may hold together, in bytes.

    Returns
    -------
    int
        The memory of the machine, or less where its container (cgroups) or ``ulimit -m`` (RLIMIT_RSS) allows less.

    Examples
    --------
    >>> memory() > 0
    True
    """
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)


def available_memory() -> int:
    """Memory that this process may still take, in bytes.

    Returns
    -------
    int
        The smaller of what the machine has available and what `memory` allows beyond what this process holds. Never
        below zero.

    Examples
    --------
    >>> 0 <= available_memory() <= memory()
    True
    """
    import psutil

    held = int(psutil.Process().memory_info().rss)
    return max(0, min(int(psutil.virtual_memory().available), memory() - held))


def one_blas_thread() -> AbstractContextManager[object]:
    """Context in which BLAS has one thread, as work that is done by several threads needs it.

    Examples
    --------
    >>> with one_blas_thread():
    ...     pass
    """
    limited: AbstractContextManager[object] = _blas(len(sys.modules)).limit(limits=1)
    return limited


@lru_cache(maxsize=1)
def _blas(_modules: int) -> threadpoolctl.ThreadpoolController:
    """The libraries, looked for again only when modules were imported since, which bring them: it takes long."""
    import threadpoolctl

    return threadpoolctl.ThreadpoolController()


@contextmanager
def collecting_later() -> Iterator[None]:
    """Context in which objects are made that stay: the garbage collector would look through them while they grow.

    Of a plan of ten thousand layers there are half a million.

    Examples
    --------
    >>> with collecting_later():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def collecting_new() -> Iterator[None]:
    """Context in which the garbage collector looks through what is made within alone, and not at what was there before.

    Examples
    --------
    >>> with collecting_new():
    ...     gc.get_freeze_count() > 0
    True
    >>> gc.get_freeze_count()
    0
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def host() -> str:
    """What tells this machine, as it has been running since its last start, from every other; containers are machines.

    Process numbers mean the same only where this is equal.

    Examples
    --------
    >>> host() == host()
    True
    """
    import platform
    import uuid
    from pathlib import Path

    parts = [platform.node()]
    try:
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()]
        parts += [os.readlink("/proc/self/ns/pid")]  # noqa: PTH115
    except OSError:
        # Not Linux.
        parts += [f"{uuid.getnode():x}"]
    return " ".join(parts)


def process_start(process: int) -> str | None:
    """When a process of this machine began; None where there is no such process, or it has ended.

    A number that was given to another process since has another start.

    Examples
    --------
    >>> import os
    >>> process_start(os.getpid()) == process_start(os.getpid())
    True
    """
    from pathlib import Path

    try:
        # psutil would look a millisecond for what stands here, and every lease asks.
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _start_elsewhere(process)
    fields = stat.rpartition(")")[2].split()
    # Ticks since the machine began: no clock that is set can change them.
    return None if fields[0] == "Z" else fields[19]


def _start_elsewhere(process: int) -> str | None:
    """The same where the system is not Linux."""
    import psutil

    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else str(round(found.create_time()))
    except psutil.NoSuchProcess:
        return None


def own_time() -> float:
    """Seconds of this thread, from an arbitrary start, without those in which it waited for a core that others had.

    Differences are what work takes on a core of its own, waiting for data included. Where the system does not say how
    long threads waited (other than Linux), all seconds count.

    Examples
    --------
    >>> own_time() <= own_time()
    True
    """
    if not hasattr(_THREAD, "waited"):
        _THREAD.waited = _Waited()
    file = _THREAD.waited.file
    waited = 0 if file is None else int(os.pread(file, 64, 0).split()[1])
    return time.perf_counter() - waited / 1e9


class _Waited:
    """The file that says how long this thread has waited for cores, as long as the thread lives."""

    def __init__(self) -> None:
        try:
            self.file: int | None = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
            os.pread(self.file, 64, 0).split()[1]
        except (OSError, IndexError):
            self.file = None

    def __del__(self) -> None:
        if self.file is not None:
            os.close(self.file)


_THREAD = threading.local()
