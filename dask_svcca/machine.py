"""Cores and memory that this process may use: less than the machine has in a container or a batch job.

Dask knows these limits. It is imported by the functions themselves, so that this module costs nothing to import.
"""

# ruff: noqa: PLC0415 - for that reason

from __future__ import annotations


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
