"""Models that run in an unusual way, and loops in them: what is captured is still what plain hooks see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.capture.torch import capture_torch
from dask_svcca.stores.zoo import create_zoo

if TYPE_CHECKING:
    from pathlib import Path

    from dask_svcca.stores.zoo import Zoo

torch = pytest.importorskip("torch", reason="needs PyTorch")
nn = torch.nn

N = 6


@pytest.fixture(autouse=True)
def _still() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return create_zoo(tmp_path / "zoo.zarr", examples=range(N))


@pytest.fixture
def x() -> Any:
    return torch.randn(N, 4)


def capture(model: Any, batches: Any, zoo: Any, checkpoint: str = "c", **options: Any) -> Any:
    return capture_torch(model, batches, zoo=zoo, name="net", checkpoint=checkpoint, **options)


class Decorated(nn.Sequential):
    @torch.inference_mode()
    def forward(self, x: Any) -> Any:
        return super().forward(x)


@pytest.mark.parametrize("place", ["around", "forward"])
@pytest.mark.parametrize("size", [N, 4])
def test_capture_torch__inference_mode(place: str, size: int, zoo: Zoo, x: Any) -> None:
    """Such tensors count no changes: an activation in place is a layer of its own all the same."""
    kind = Decorated if place == "forward" else nn.Sequential
    model = kind(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Identity(), nn.Linear(3, 2))
    with torch.inference_mode(place == "around"):
        report = capture(model, x.split(size), zoo)
    first = model[0](x).detach()
    np.testing.assert_allclose(zoo["net", "c", "0"].values, first, rtol=1e-5)
    np.testing.assert_allclose(zoo["net", "c", "1"].values, first.relu(), rtol=1e-5)
    assert report.skipped == {"2": "it repeats '1'"}


def test_capture_torch__transformed_by_vmap(zoo: Zoo, x: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.fc = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Any) -> Any:
            return self.fc(torch.func.vmap(self.inner)(x))

    model = Net()
    report = capture(model, [x], zoo)
    assert report.skipped == {"inner": "its values are not at hand while the model runs, as within torch.func.vmap"}
    np.testing.assert_allclose(zoo["net", "c", "fc"].values, model(x).detach(), rtol=1e-5)
