"""What a GPU is asked before it is used: a driver, a setting or a library may have it compute something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_svcca.errors import DeviceFailedError

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.devices.torch.device import TorchDevice

SIDE: Final = 256
SAMPLES: Final = 512
"""Rows and samples of the products that are tried."""

DIGITS: Final = {"f4": (2.0**-12, 1e-6), "c8": (2.0**-12, 1e-6), "f8": (2.0**-30, 1e-12), "c16": (2.0**-30, 1e-12)}
"""By type, what is added to one so that fewer digits lose it, and how far off a sum of squares may be, relative."""

FILLS: Final = 6
"""How often buffers are filled, sent, and filled again."""


def try_out(device: TorchDevice) -> None:
    """See that a device does what all results hang on.

    Its products have all digits of their numbers, and the same bits twice; what was sent is what it computes with, also
    when the buffer is filled again.

    Raises
    ------
    DeviceFailedError
        Where it does not.
    """
    for name, (least, tolerance) in DIGITS.items():
        scores = np.full((SIDE, SAMPLES), 1 + least, name)
        expected = SAMPLES * (1 + least) ** 2
        first, again = (_product(device, scores) for _ in range(2))
        # Unless it says yes: a number that is none is no answer.
        if not bool((np.abs(first - expected) <= tolerance * expected).all()):
            raise _failed(device, f"its products of {np.dtype(name)} have fewer digits than their numbers")
        if first.tobytes() != again.tobytes():
            raise _failed(device, f"its products of {np.dtype(name)} have other bits the second time")
    if not _sends(device):
        raise _failed(device, "it computes with a buffer when that is filled again already")


def _product(device: TorchDevice, scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    total = device.products(SAMPLES)
    sent = device.sent(scores)
    total.add(sent, sent)
    return np.asarray(total.value)


def _sends(device: TorchDevice) -> bool:
    """Whether sums are those of what buffers held when they were sent."""
    buffers = [device.buffer((SIDE, SAMPLES), np.dtype(np.float32)) for _ in range(device.turns)]
    total, expected = device.products(SAMPLES), 0.0
    waits = [device.mark() for _ in buffers]
    for number in range(FILLS):
        turn = number % len(buffers)
        waits[turn]()
        buffers[turn][...] = number
        sent = device.sent(buffers[turn])
        total.add(sent, sent)
        waits[turn] = device.mark()
        expected += SAMPLES * number**2
    return bool((np.asarray(total.value) == expected).all())


def _failed(device: TorchDevice, what: str) -> DeviceFailedError:
    return DeviceFailedError(f"the device {device.name!r} failed when it was tried: {what}")
