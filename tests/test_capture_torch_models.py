"""Models that run in an unusual way, and loops in them: what is captured is still what plain hooks see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import Lambda, N, capture, small_zoo, still, torch

from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    from dask_svcca.stores.zoo import Zoo

nn = torch.nn

_still = pytest.fixture(autouse=True)(still)
zoo = pytest.fixture(small_zoo)


@pytest.fixture
def x() -> Any:
    return torch.randn(N, 4)


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


@pytest.mark.parametrize("cell", ["gru", "linear"])
def test_capture_torch__time_first_inside(cell: str, zoo: Zoo) -> None:
    """As many steps as examples: the loop stacks them in front, and a transpose moves them behind."""

    def forward(self: Any, x: Any) -> Any:
        hidden, steps = torch.zeros(len(x), 3), []
        for k in range(x.shape[1]):
            hidden = self.cell(x[:, k], hidden) if cell == "gru" else self.cell(x[:, k])
            steps.append(hidden)
        return self.norm(self.fc(torch.stack(steps)).transpose(0, 1))

    inner = nn.GRUCell(4, 3) if cell == "gru" else nn.Linear(4, 3)
    model, x = Lambda(forward, cell=inner, fc=nn.Linear(3, 3), norm=nn.LayerNorm(3)), torch.randn(N, N, 4)
    capture(model, [x], zoo, layers="fc, norm")
    right = model(x).detach()
    np.testing.assert_allclose(zoo["net", "c", "norm"].values, right, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.norm(torch.tensor(zoo["net", "c", "fc"].values)).detach(), right, atol=1e-4)


def test_capture_torch__lost_examples_are_not_guessed(zoo: Zoo) -> None:
    model = Lambda(lambda self, x: self.fc(torch.einsum("ntc->tnc", x)), fc=nn.Linear(4, 3))
    with pytest.raises(CaptureError, match=r"fc, nothing says which of its axes are the 6 examples: shape \(6, 6, 3\)"):
        capture(model, [torch.randn(N, N, 4)], zoo)
    report = capture(model, [torch.randn(N, N, 4)], zoo, dims={"fc": ("token", "example", "neuron")})
    assert report.written == 1


@pytest.mark.parametrize("kind", ["ids", "masked"])
def test_capture_torch__convolution_over_tokens(kind: str, zoo: Zoo) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.conv, self.fc = nn.Embedding(20, 4), nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Any, attention_mask: Any = None) -> Any:
            hidden = self.embed(x) if x.ndim == 2 else x
            return self.fc(self.conv(hidden.transpose(1, 2)).relu().transpose(1, 2))

    model, x = Net(), torch.randint(20, (N, 5)) if kind == "ids" else torch.randn(N, 5, 4)
    mask = torch.arange(5) < torch.arange(1, N + 1)[:, None]
    capture(model, [{"x": x, "attention_mask": mask}], zoo)
    for layer in ("conv", "fc"):
        assert zoo["net", "c", layer].dims == ("example", "token", "neuron")
        assert "mask" in zoo["net", "c", layer].coords
    np.testing.assert_allclose(zoo["net", "c", "fc"].values, model(x).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [N, 4])
def test_capture_torch__heads_that_are_put_together(size: int, zoo: Zoo) -> None:
    """A reshape of what has no names has names of its own."""
    model = Lambda(
        lambda self, x: self.flat(self.act(self.fc(x).view(*x.shape[:2], 2, 4))),
        fc=nn.Linear(4, 8),
        act=nn.GELU(),
        flat=nn.Flatten(2),
    )
    x = torch.randn(N, 5, 4)
    report = capture(model, x.split(size), zoo)
    assert set(report.skipped) == {"act"}
    assert zoo["net", "c", "flat"].dims == ("example", "token", "neuron")
    np.testing.assert_allclose(zoo["net", "c", "flat"].values, model(x).detach(), rtol=1e-5, atol=1e-6)
