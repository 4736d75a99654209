"""What a worker process holds beside its tasks."""

from __future__ import annotations

from typing import Final

from dask_svcca.devices.names import is_gpu
from dask_svcca.plan.memory import PROCESS_BYTES

TORCH_BYTES: Final = 200 * 2**20
"""PyTorch, as it was measured without CUDA."""

CUDA_BYTES: Final = 3 * 2**29
"""PyTorch with CUDA, its libraries and the context of a GPU; an assumption, not measured."""


def process_bytes(device: str) -> int:
    """Bytes that a worker process holds beside its tasks, which compute with some device.

    Examples
    --------
    >>> [process_bytes(device) // 2**20 for device in ("cpu", "torch:cpu", "cuda:1")]
    [350, 550, 1886]
    """
    if device == "cpu":
        return PROCESS_BYTES
    return PROCESS_BYTES + (CUDA_BYTES if is_gpu(device) else TORCH_BYTES)


def said_of_process(device: str) -> str:
    """What a worker process holds beside its tasks, for people.

    Examples
    --------
    >>> for device in ("cpu", "torch:cpu", "cuda"):
    ...     print(said_of_process(device))
    350 MiB
    550 MiB, of which 200 MiB are PyTorch
    1,886 MiB, of which 1,536 MiB are assumed for PyTorch with CUDA
    """
    held = process_bytes(device)
    whole, more = (f"{size / 2**20:,.0f} MiB" for size in (held, held - PROCESS_BYTES))
    if device == "cpu":
        return whole
    return f"{whole}, of which {more} are {'assumed for PyTorch with CUDA' if is_gpu(device) else 'PyTorch'}"
