"""Where the few operations that carry the time are done: on the processor with NumPy, or on a GPU with PyTorch."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from dask_svcca.devices.names import is_gpu
from dask_svcca.devices.numpy import HOST

if TYPE_CHECKING:
    from dask_svcca.devices.interface import Device

__all__ = ["HOST", "leave_cores", "open_device"]


@cache
def open_device(name: str) -> Device:
    """The device of a name, opened once in a process.

    Parameters
    ----------
    name : str
        ``cpu``, ``cuda``, ``cuda:N`` or ``torch:cpu``.

    Raises
    ------
    DeviceFailedError
        Where a GPU does not compute what it should.

    Examples
    --------
    >>> open_device("cpu") is HOST
    True
    """
    if name == HOST.name:
        return HOST
    # PyTorch is a package of the user's choice, and takes a second to load.
    from dask_svcca.devices.torch import TorchDevice, try_out  # noqa: PLC0415

    device = TorchDevice(name)
    if is_gpu(name):
        try_out(device)
    if _CORES_LEFT:
        device.use_one_thread()
    _OPENED.append(device)
    return device


_OPENED: list[Device] = []
_CORES_LEFT: list[bool] = []


def leave_cores() -> None:
    """Use one thread of the processor from now on, whatever the device: other workers have the other cores."""
    _CORES_LEFT.append(True)
    for device in _OPENED:
        device.use_one_thread()
