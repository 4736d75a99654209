"""A module in the place of PyTorch, that finds as many GPUs as it is told, as its own functions would say it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def fake_torch(gpus: int, reason: str = "Torch not compiled with CUDA enabled") -> Any:
    """What `dask_svcca.devices.names` asks PyTorch, on a machine with so many GPUs."""

    def init() -> None:
        if not gpus:
            raise AssertionError(reason)

    cuda = SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus, init=init)
    return SimpleNamespace(__version__="2.99.0", cuda=cuda)
