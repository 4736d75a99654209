"""What holds for every operation of PyTorch: products in true single precision, and failures that say what failed."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from dask_svcca.errors import DaskSvccaError, DeviceFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator

REDUCED: Final = frozenset({"tf32", "bf16"})
"""What PyTorch may be told to multiply numbers in single precision in. TF32 keeps 10 bits: 1e-5 of a correlation."""

IEEE: Final = "ieee"
HIGHEST: Final = "highest"
"""True single precision, as the newer and the older setting call it."""


class _TrueSingle:
    """Settings of the whole process, changed only where a user allowed less, and only while one of us is at work.

    Of several threads the first changes them and the last puts them back. PyTorch 2.9 and newer has two ways to say the
    same, and raises in the middle of its own work where they contradict each other: both are made to agree.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work = 0
        self._general = HIGHEST
        self._found: list[tuple[Any, str]] = []

    def begin(self) -> None:
        with self._lock:
            if self._at_work == 0:
                self._forbid()
            self._at_work += 1

    def end(self) -> None:
        with self._lock:
            self._at_work -= 1
            if self._at_work == 0:
                self._allow()

    def _forbid(self) -> None:
        found = [(place, place.fp32_precision) for place in _places()]
        reduced = any(value in REDUCED for _, value in found)
        if not reduced and torch.get_float32_matmul_precision() == HIGHEST:
            return
        self._found = found
        for place, _ in found:
            # The older setting can be asked for only where the newer does not contradict it.
            place.fp32_precision = IEEE
        self._general = torch.get_float32_matmul_precision()
        if self._general != HIGHEST:
            torch.set_float32_matmul_precision(HIGHEST)

    def _allow(self) -> None:
        if self._general != HIGHEST:
            torch.set_float32_matmul_precision(self._general)
        for place, value in self._found:
            # What was only inherited from a more general setting is to follow it again.
            place.fp32_precision = "none"
            if place.fp32_precision != value:
                place.fp32_precision = value
        self._general, self._found = HIGHEST, []


def _places() -> list[Any]:
    """Where PyTorch keeps the precision of matrix products; none before 2.9, which has one setting for all of them."""
    places = (getattr(backend, "matmul", None) for backend in (torch.backends.cuda, torch.backends.mkldnn))
    return [place for place in places if hasattr(place, "fp32_precision")]


_TRUE_SINGLE = _TrueSingle()


@contextmanager
def true_single(kind: str = "cpu") -> Iterator[None]:
    """Multiply numbers in single precision as such, whatever the process or this thread allows elsewhere.

    Parameters
    ----------
    kind : str
        ``cpu`` or ``cuda``: where the numbers are.
    """
    _TRUE_SINGLE.begin()
    try:
        # Inside of torch.autocast, products of all numbers in single precision would be those of 8 or 11 bits.
        with torch.autocast(kind, enabled=False):
            yield
    finally:
        _TRUE_SINGLE.end()


@contextmanager
def at_work(device: torch.device, name: str, operation: str) -> Iterator[None]:
    """Do one operation on a device.

    Raises
    ------
    DeviceFailedError
        Where PyTorch fails: with the operation, the name of the device, and what PyTorch says.
    """
    try:
        with true_single(device.type):
            yield
    except DaskSvccaError:
        raise
    except (RuntimeError, MemoryError) as error:
        out_of_memory = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        if out_of_memory and device.type == "cuda":
            # What is only kept for later is given back, so that another attempt has it.
            torch.cuda.empty_cache()
        said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DeviceFailedError(f"the device {name!r} failed at {operation}: {said}") from error


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in double precision, real or complex."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
