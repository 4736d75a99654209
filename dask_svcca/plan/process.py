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
