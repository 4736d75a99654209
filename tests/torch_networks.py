"""Networks of PyTorch for the tests of captures, and what these tests share; where it is missing, they are skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dask_svcca.capture.torch import capture_torch
from dask_svcca.stores.zoo import create_zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dask_svcca.stores.zoo import Zoo

torch = pytest.importorskip("torch", reason="needs PyTorch")

N = 6
"""Examples. Sequences of some tests are as long, so that a wrong axis has the right size."""


class Lambda(torch.nn.Module):  # type: ignore[misc, name-defined]  # PyTorch is not there where types are checked
    """A network of some modules that does what a function says."""

    def __init__(self, function: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def capture(model: Any, batches: Any, zoo: Any, checkpoint: str = "c", **options: Any) -> Any:
    return capture_torch(model, batches, zoo=zoo, name="net", checkpoint=checkpoint, **options)


def still() -> Iterator[None]:
    """One thread and the same random numbers, as a fixture."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def small_zoo(tmp_path: Path) -> Iterator[Zoo]:
    """A zoo of so few examples, as a fixture."""
    with create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        yield zoo
