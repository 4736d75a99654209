"""A device is tried before it is used: what it must not do is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dask_svcca.errors import DeviceFailedError

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed")

from dask_svcca.devices.torch import TorchDevice, try_out  # noqa: E402 - PyTorch may be missing


class Coarse(TorchDevice):
    """A device that keeps some bits behind the point of the numbers that it is sent, as TF32 does."""

    def __init__(self, bits: int) -> None:
        super().__init__("torch:cpu")
        self._scale = 2.0**bits

    def sent(self, array: Any) -> Any:
        return self.tensor((np.round(array * self._scale) / self._scale).astype(array.dtype))


class Wavering(TorchDevice):
    """One that is sent another last bit every second time."""

    def __init__(self) -> None:
        super().__init__("torch:cpu")
        self._times = 0

    def sent(self, array: Any) -> Any:
        self._times += 1
        return self.tensor(array + (self._times % 2) * np.spacing(array.real.dtype.type(1)))


class Late(TorchDevice):
    """One that looks at a buffer only when it is asked for a result, and so after it was filled again."""

    def __init__(self) -> None:
        super().__init__("torch:cpu")

    def products(self, single_samples: int, room: Any = None) -> Any:
        return Later(super().products(single_samples, room))


class Later:
    def __init__(self, total: Any) -> None:
        self._total = total
        self._asked: list[tuple[Any, Any]] = []

    def add(self, rows: Any, columns: Any) -> None:
        self._asked.append((rows, columns))

    @property
    def value(self) -> Any:
        for rows, columns in self._asked:
            self._total.add(rows, columns)
        return self._total.value


def test_try_out__is_content_with_true_single_and_double_precision() -> None:
    try_out(TorchDevice("torch:cpu"))


@pytest.mark.parametrize(("bits", "kind"), [(10, "float32"), (23, "float64")])
def test_try_out__notices_products_of_fewer_digits(bits: int, kind: str) -> None:
    with pytest.raises(DeviceFailedError, match=f"'torch:cpu' failed when it was tried: its products of {kind} have f"):
        try_out(Coarse(bits))


@pytest.mark.parametrize(
    ("device", "what"),
    [(Wavering, "its products of float32 have other bits the second time"), (Late, "it computes with a buffer when")],
)
def test_try_out__notices_what_else_would_be_wrong(device: type[TorchDevice], what: str) -> None:
    with pytest.raises(DeviceFailedError, match=what):
        try_out(device())
