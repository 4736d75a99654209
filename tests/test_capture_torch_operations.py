"""Axes and precision through operations that work in place, set parts, or say later what their input was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import Lambda, N, small_zoo, still, torch

from dask_svcca.capture.torch import capture_torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.stores.zoo import Zoo

nn = torch.nn
F = torch.nn.functional

_still = pytest.fixture(autouse=True)(still)
zoo = pytest.fixture(small_zoo)


def capture(model: Any, x: Any, zoo: Zoo, **options: Any) -> Any:
    return capture_torch(model, [x], zoo=zoo, name="net", checkpoint="c", **options)


# What gives tensors with the channels in front, from the output of a linear layer or from the input.
FRONT: dict[str, tuple[Callable[[Any, Any], Any], tuple[int, ...]]] = {
    "adjoint": (lambda s, x: s.fc(x).adjoint(), (4, 4)),
    "mH": (lambda s, x: s.fc(x).mH, (4, 4)),
    "in place": (lambda s, x: s.fc(x).mul(1).transpose_(1, 2), (4, 4)),
    "pieces": (lambda s, x: F.unfold(x, 2, stride=2), (4, 8, 8)),
    "set by steps": (lambda s, x: steps(x.new_zeros(len(x), 4, x.shape[1]), s.fc(x)), (4, 4)),
}


def steps(out: Any, hidden: Any) -> Any:
    for step in range(hidden.shape[1]):
        out[:, :, step] = hidden[:, step]
    return out


@pytest.mark.parametrize("kind", FRONT)
def test_capture_torch__channels_in_front(kind: str, zoo: Zoo) -> None:
    function, shape = FRONT[kind]
    model, x = Lambda(lambda s, x: s.act(function(s, x)), fc=nn.Linear(4, 4), act=nn.Tanh()), torch.randn(N, *shape)
    capture(model, x, zoo, layers="act")
    right = model(x).detach().numpy().transpose(0, 2, 1)
    np.testing.assert_allclose(zoo["net", "c", "act"].values, right, rtol=1e-5, atol=1e-6)


def window(x: Any) -> Any:
    return torch.stft(x, 8, window=torch.ones(8), return_complex=True).abs()


READ: dict[str, tuple[Callable[[Any, Any], Any], tuple[int, ...], Callable[[], Any]]] = {
    "decoder": (lambda s, x: s.fc(x).view(-1, 4, 5), (3,), lambda: nn.ConvTranspose1d(4, 2, 3)),
    "decoder of images": (lambda s, x: s.fc(x).view(-1, 2, 2, 5), (3,), lambda: nn.ConvTranspose2d(2, 2, 2)),
    "spectrum": (lambda s, x: window(x), (64,), lambda: nn.Conv1d(5, 2, 3)),
    "turned": (lambda s, x: x.transpose(1, 2), (7, 3), lambda: nn.Conv1d(3, 2, 3)),
    "waves": (lambda s, x: x, (3, 9), lambda: nn.Conv1d(3, 2, 3)),
}


@pytest.mark.parametrize("kind", READ)
def test_capture_torch__read_by_a_convolution(kind: str, zoo: Zoo) -> None:
    """Nothing says what the axes are, but a convolution that reads it: the channels come first."""
    function, shape, conv = READ[kind]
    model = Lambda(lambda s, x: s.conv(s.act(function(s, x))), fc=nn.Linear(3, 20), act=nn.Tanh(), conv=conv())
    x = torch.randn(N, *shape)
    capture(model, x, zoo, layers="act, conv")
    right = np.moveaxis(torch.tanh(function(model, x)).detach().numpy(), 1, -1)
    np.testing.assert_allclose(zoo["net", "c", "act"].values, right, rtol=1e-5, atol=1e-6)


def test_capture_torch__convolution_over_tokens_names_nothing_again(zoo: Zoo) -> None:
    """Of a linear layer the last axis is the neurons, whatever reads it."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Conv1d(7, 3, 1))
    x = torch.randn(N, 7, 4)
    capture(model, x, zoo, layers="1")
    np.testing.assert_allclose(zoo["net", "c", "1"].values, model[:2](x).detach(), rtol=1e-5, atol=1e-6)


SET: dict[str, Callable[[Any], Any]] = {
    "part": lambda half: set_part(torch.zeros(len(half), half.shape[1]), half),
    "columns": lambda half: set_part(torch.ones(len(half), 2 * half.shape[1]), half, (slice(None), slice(0, 64))),
    "copied": lambda half: torch.empty(half.shape).copy_(half),
    "out": lambda half: torch.add(half.float(), 0, out=torch.empty(half.shape)),
}


def set_part(out: Any, value: Any, index: Any = slice(None)) -> Any:
    out[index] = value
    return out


@pytest.mark.parametrize("kind", SET)
def test_capture_torch__precision_of_what_was_set(kind: str, zoo: Zoo) -> None:
    """Rounded to half precision, and put into a tensor of single precision."""
    model = Lambda(lambda s, x: s.act(SET[kind](s.fc(x).bfloat16())), fc=nn.Linear(4, 64), act=nn.Tanh())
    capture(model, torch.randn(N, 4), zoo, layers="act")
    assert zoo["net", "c", "act"].attrs["source_dtype"] == "bfloat16"
