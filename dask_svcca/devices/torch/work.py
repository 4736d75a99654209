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


class _TrueSingle:
    """Settings of the whole process, changed only where a user allowed less, and only while one of us is at work.

    Of several threads the first changes them and the last puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work = 0
        self._found: list[tuple[Any, str]] = []

    def begin(self) -> None:
        with self._lock:
            if self._at_work == 0:
                self._found = list(_reduced())
                for place, _ in self._found:
                    _set(place, "ieee")
            self._at_work += 1

    def end(self) -> None:
        with self._lock:
            self._at_work -= 1
            if self._at_work == 0:
                for place, value in self._found:
                    # What was only inherited from a more general setting is to follow it again.
                    _set(place, "none")
                    if _get(place) != value:
                        _set(place, value)
                self._found = []


def _reduced() -> Iterator[tuple[Any, str]]:
    """Settings that allow less than single precision in matrix products, and what they are."""
    for backend in (torch.backends.cuda, torch.backends.mkldnn):
        place = getattr(backend, "matmul", None)
        value = _get(place)
        if value in REDUCED:
            yield place, value


def _get(place: Any) -> str | None:
    """The precision of products; None before PyTorch 2.9, which has one setting for all of them."""
    try:
        found: str = place.fp32_precision
    except AttributeError:
        return None
    return found


def _set(place: Any, value: str) -> None:
    place.fp32_precision = value


_TRUE_SINGLE = _TrueSingle()


@contextmanager
def true_single() -> Iterator[None]:
    """Multiply numbers in single precision as such, whatever the process allows elsewhere."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    _TRUE_SINGLE.begin()
    try:
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
        with true_single():
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
