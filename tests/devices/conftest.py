"""Both implementations of the operations that carry the time; PyTorch's where it is installed, on a GPU too if any."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from dask_svcca.devices import leave_cores, open_device
from dask_svcca.devices.names import count_gpus

if TYPE_CHECKING:
    from dask_svcca.devices.interface import Device

# There are as many test processes as cores.
leave_cores()


@pytest.fixture(params=["cpu", "torch:cpu", *(["cuda"] if count_gpus() else [])])
def device(request: pytest.FixtureRequest) -> Device:
    """Each of the devices that this machine has."""
    if request.param != "cpu" and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    return open_device(request.param)
