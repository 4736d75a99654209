"""Capture equals plain hooks on what else people have: precisions, layouts, wrappers, functions that change axes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import Lambda, N, torch

from dask_svcca.capture.torch import capture_torch
from dask_svcca.errors import CaptureWarning
from dask_svcca.stores.zoo import create_zoo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

nn = torch.nn
F = torch.nn.functional


def normal(*shape: int) -> Any:
    return torch.randn(N, *shape)


def tied() -> Any:
    model = Lambda(
        lambda self, x: self.out(self.again(self.fc(self.embed(x)))),
        embed=nn.Embedding(20, 8),
        fc=nn.Linear(8, 8),
        out=nn.Linear(8, 20, bias=False),
    )
    model.again, model.out.weight = model.fc, model.embed.weight
    return model


def hooked() -> Any:
    """What a hook of the user puts in place of an output is what the model computes with."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    model[0].register_forward_hook(lambda module, args, output: output * 10)
    return model


def attention(self: Any, x: Any) -> Any:
    query, key, value = (part.view(len(x), N, 2, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
    mixed = F.scaled_dot_product_attention(query, key, value)
    return self.out(mixed.transpose(1, 2).reshape(len(x), N, 8))


NETWORKS: dict[str, tuple[Callable[[], Any], Any, dict[str, str]]] = {
    "two directions": (
        lambda: Lambda(
            lambda s, x: s.fc(s.r(x)[0]), r=nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True), fc=nn.Linear(10, 2)
        ),
        lambda: normal(N, 4),
        {},
    ),
    "turned": (
        lambda: Lambda(lambda s, x: s.fc(s.r(x.transpose(0, 1))[0]), r=nn.GRU(4, 3), fc=nn.Linear(3, 2)),
        lambda: normal(N, 4),
        {"r": "tnc", "fc": "tnc"},
    ),
    "last state": (
        lambda: Lambda(lambda s, x: s.act(s.r(x)[1][0][-1]), r=nn.LSTM(4, 5, batch_first=True), act=nn.Tanh()),
        lambda: normal(N, 4),
        {},
    ),
    "tied": (tied, lambda: torch.randint(20, (N, N)), {}),
    "channels last in memory": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)).to(
            memory_format=torch.channels_last
        ),
        lambda: normal(3, 9, 8).to(memory_format=torch.channels_last),
        {"*": "nchw"},
    ),
    "half": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).half(), lambda: normal(4).half(), {}),
    "double": (lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU()).double(), lambda: normal(4).double(), {}),
    "data parallel": (lambda: nn.DataParallel(nn.Sequential(nn.Linear(4, 5), nn.ReLU())), lambda: normal(4), {}),
    "hooked": (hooked, lambda: normal(4), {}),
    "in place afterwards": (
        lambda: Lambda(lambda s, x: s.act(s.fc(x).mul_(0.5)), fc=nn.Linear(4, 4), act=nn.ReLU(inplace=True)),
        lambda: normal(4),
        {},
    ),
    "called on other shapes": (
        lambda: Lambda(lambda s, x: s.fc(s.act(x).mean(1)) + s.fc(s.act(x[:, 0])), act=nn.ReLU(), fc=nn.Linear(8, 3)),
        lambda: normal(5, 8),
        {},
    ),
    "complex inside": (
        lambda: Lambda(lambda s, x: s.norm(torch.fft.fft2(s.fc(x)).real), fc=nn.Linear(4, 8), norm=nn.LayerNorm(8)),
        lambda: normal(5, 4),
        {},
    ),
    "attention by function": (
        lambda: Lambda(attention, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)),
        lambda: normal(N, 8),
        {},
    ),
    "checkpointed": (
        lambda: Lambda(
            lambda s, x: torch.utils.checkpoint.checkpoint(s.fc, x, use_reentrant=False), fc=nn.Linear(4, 5)
        ),
        lambda: normal(4),
        {},
    ),
    "parametrised": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))),
        lambda: normal(4),
        {},
    ),
    "sparse": (
        lambda: Lambda(
            lambda s, x: s.fc(s.rare(x).to_dense()), rare=Lambda(lambda s, x: x.relu().to_sparse()), fc=nn.Linear(4, 2)
        ),
        lambda: normal(4),
        {},
    ),
    "gated over channels": (
        lambda: nn.Sequential(nn.Conv1d(4, 10, 1), nn.GLU(dim=1), nn.Conv1d(5, 2, 1)),
        lambda: normal(4, 9),
        {"*": "ncw"},
    ),
    "repeated channels": (
        lambda: Lambda(lambda s, x: s.act(s.conv(x).repeat_interleave(2, 1)), conv=nn.Conv1d(3, 4, 1), act=nn.ReLU()),
        lambda: normal(3, 9),
        {"*": "ncw"},
    ),
    "windows rolled": (
        lambda: Lambda(
            lambda s, x: s.norm(torch.roll(s.conv(x).permute(0, 2, 3, 1), (1, 1), (1, 2))),
            conv=nn.Conv2d(3, 4, 2, 2),
            norm=nn.LayerNorm(4),
        ),
        lambda: normal(3, 12, 8),
        {"conv": "nchw", "norm": "nhwc"},
    ),
    "volumes to tokens": (
        lambda: Lambda(
            lambda s, x: s.norm(s.conv(x).flatten(2).transpose(1, 2)), conv=nn.Conv3d(2, 8, 2, 2), norm=nn.LayerNorm(8)
        ),
        lambda: normal(2, 4, 4, 6),
        {"conv": "ncdhw"},
    ),
}


def plain_hooks(model: Any, x: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            calls = sum(layer.partition("#")[0] == name for layer in found)
            found[f"{name}#{calls + 1}" if calls else name] = first.detach().to_dense().clone().numpy()

        return hook

    inner = model.module if isinstance(model, nn.DataParallel) else model
    handles = [module.register_forward_hook(keep(name)) for name, module in inner.named_modules() if name]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_capture_torch__equals_hooks_on_other_kinds(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs, layouts = NETWORKS[name]
    model, x = make(), inputs()
    expected = plain_hooks(model, x)
    with create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        report = capture_torch(model, x.split(4), zoo=zoo, name="net", checkpoint="c")
    layers = set(zoo.representations.layer)
    assert expected.keys() - layers == {layer for layer in report.skipped if layer in expected}
    assert all("repeats" in report.skipped[layer] or "not depend" in report.skipped[layer] for layer in report.skipped)
    for layer in layers:
        right = expected[layer]
        layout = layouts.get(layer, layouts.get("*", {2: "nc", 3: "ntc"}.get(right.ndim, "")))
        order = [layout.index(axis) for axis in sorted(layout, key="ntdhwc".index)]
        array = zoo["net", "c", layer]
        assert array.dtype == right.dtype
        np.testing.assert_allclose(array.values, right.transpose(order), rtol=1e-3, atol=1e-5, err_msg=layer)


@pytest.mark.parametrize("context", ["inference", "autocast"])
def test_capture_torch__within_the_context_of_the_caller(context: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(168, 5)), normal(3, 9, 8)
    inside = torch.inference_mode if context == "inference" else lambda: torch.autocast("cpu", torch.bfloat16)
    with create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo, inside():
        right = model(x).detach().float().numpy()
        capture_torch(model, x.split(4), zoo=zoo, name="net", checkpoint="c")
    np.testing.assert_allclose(zoo["net", "c", "2"].values, right, rtol=1e-2, atol=1e-2)
    assert zoo["net", "c", "2"].attrs.get("source_dtype") == ("bfloat16" if context == "autocast" else None)


def test_capture_torch__quantised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # PyTorch gives up this way of quantising.
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), {nn.Linear})
    x = normal(4)
    with create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        # Its scales are those of the whole batch. Once there was no word of rank 63 instead of 8.
        with pytest.warns(CaptureWarning, match=r"^'0' of 'net/c' compute on quantised values: .*variance=None"):
            capture_torch(model, [x], zoo=zoo, name="net", checkpoint="c", layers="0, 1")
        assert capture_torch(nn.Linear(4, 5), [x], zoo=zoo, name="plain", checkpoint="c").caution == ""
    np.testing.assert_allclose(zoo["net", "c", "1"].values, model(x).numpy(), rtol=1e-5, atol=1e-6)


MAPS: dict[str, Callable[[Any], Any]] = {
    "product": lambda maps: torch.einsum("ncw,kc->nkw", maps, torch.ones(7, 4)),
    "copies": lambda maps: maps.repeat(1, 2, 1),
    "other groups": lambda maps: maps.reshape(len(maps), 6, -1),
}


@pytest.mark.parametrize("kind", MAPS)
def test_capture_torch__maps_of_unknown_axes_are_not_guessed(kind: str, tmp_path: Path) -> None:
    """Three axes are tokens and neurons, but not where a convolution had the channels in front."""
    model = Lambda(lambda s, x: s.act(MAPS[kind](s.conv(x))), conv=nn.Conv1d(3, 4, 1), act=nn.ReLU())
    with create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        report = capture_torch(model, normal(3, 9).split(4), zoo=zoo, name="net", checkpoint="c")
        assert "nothing says what its 3 axes are" in report.skipped["act"]
        dims = {"act": ("example", "channel", "width")}
        report = capture_torch(model, normal(3, 9).split(4), zoo=zoo, name="said", checkpoint="c", dims=dims)
    assert zoo["said", "c", "act"].dims == ("example", "width", "channel")
