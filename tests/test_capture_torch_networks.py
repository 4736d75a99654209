"""Capture equals plain hooks on small networks of all kinds; what their axes are is written down here by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch_networks import Lambda, N, torch

from dask_svcca.capture.torch import capture_torch
from dask_svcca.stores.zoo import create_zoo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

nn = torch.nn
F = torch.nn.functional


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Case:
    """A network, what it is fed, and the layout of its outputs where it is not the usual one.

    ``layouts`` maps patterns of layers to the axes of the module's output, a letter each: n for the examples, t for
    tokens, h and w and d for positions, c for neurons. Usual are nc, ntc, nchw and ncdhw.
    """

    model: Any
    inputs: Any
    layouts: dict[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    least: int = 3


def images(height: int = 6, width: int = 5, channels: int = 2) -> Any:
    return torch.randn(N, channels, height, width)


def tokens(width: int = 4) -> Any:
    return torch.randn(N, N, width)


def ids() -> Any:
    return torch.randint(1, 20, (N, N))


def mlp() -> Case:
    return Case(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)), torch.randn(N, 4))


def cnn() -> Case:
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)),
    )
    return Case(model, images(), {"5": "nc.."})


def residual_block(channels: int) -> Any:
    return Lambda(
        lambda self, x: F.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x),
        conv1=nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        bn2=nn.BatchNorm2d(channels),
    )


def resnet() -> Case:
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(2, 4, 3))
    model.add_module("block1", residual_block(4))
    model.add_module("block2", residual_block(4))
    model.add_module("head", Lambda(lambda self, x: self.fc(x.mean((2, 3))), fc=nn.Linear(4, 3)))
    return Case(model, images(), least=12)


def inception() -> Case:
    branches = Lambda(
        lambda self, x: torch.cat([self.a(x), self.b(x), self.pool(x)], 1),
        a=nn.Conv2d(2, 3, 1),
        b=nn.Conv2d(2, 4, 3, padding=1),
        pool=nn.AvgPool2d(3, stride=1, padding=1),
    )
    return Case(nn.Sequential(branches, nn.ReLU()), images())


def unet() -> Case:
    def forward(self: Any, x: Any) -> Any:
        down = self.down(x)
        deep = self.deep(self.pool(down))
        return self.out(torch.cat([self.up(deep), down], 1))

    model = Lambda(
        forward,
        down=nn.Conv2d(2, 4, 3, padding=1),
        pool=nn.MaxPool2d(2),
        deep=nn.Conv2d(4, 8, 3, padding=1),
        up=nn.ConvTranspose2d(8, 4, 2, stride=2),
        out=nn.Conv2d(8, 1, 1),
    )
    return Case(model, images(8, 6))


def lstm() -> Case:
    model = Lambda(
        lambda self, x: self.fc(self.lstm(x)[0][:, -1]), lstm=nn.LSTM(4, 5, batch_first=True), fc=nn.Linear(5, 2)
    )
    return Case(model, tokens(), least=2)


def lstm_tokens_first() -> Case:
    """The loader gives (token, example, feature), and there are as many tokens as examples."""
    model = Lambda(
        lambda self, x: self.fc(self.act(self.lstm(x)[0])), lstm=nn.LSTM(4, 5), act=nn.Tanh(), fc=nn.Linear(5, 2)
    )
    return Case(model, tokens(), {"*": "tnc"})


def gru_transposed() -> Case:
    """Examples come first, and the model turns them for its GRU."""

    def forward(self: Any, x: Any) -> Any:
        hidden, _ = self.gru(self.embed(x).transpose(0, 1))
        return self.fc(self.norm(hidden)[-1])

    model = Lambda(
        forward, embed=nn.Linear(4, 3), gru=nn.GRU(3, 5, bidirectional=True), norm=nn.LayerNorm(10), fc=nn.Linear(10, 2)
    )
    return Case(model, tokens(), {"gru": "tnc", "norm": "tnc"})


def rnn_of_ids() -> Case:
    """Embedding and RNN with batch_first=False, fed (token, example)."""
    model = Lambda(lambda self, x: self.rnn(self.embed(x))[0], embed=nn.Embedding(20, 4), rnn=nn.RNN(4, 5))
    return Case(model, ids(), {"*": "tnc"}, least=2)


def transformer() -> Case:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = Lambda(
        lambda self, x: self.fc(self.encoder(x)),
        encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        fc=nn.Linear(4, 3),
    )
    return Case(model, tokens(), least=12)


def transformer_tokens_first() -> Case:
    layer = nn.TransformerEncoderLayer(4, 2, 8)
    model = Lambda(
        lambda self, x: self.fc(self.encoder(x)),
        encoder=nn.TransformerEncoder(layer, 1, enable_nested_tensor=False),
        fc=nn.Linear(4, 3),
    )
    return Case(model, tokens(), {"*": "tnc"}, least=7)


def transformer_masked() -> Case:
    def forward(self: Any, x: Any) -> Any:
        return self.fc(self.encoder(self.embed(x), src_key_padding_mask=x == 1))

    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = Lambda(
        forward,
        embed=nn.Embedding(20, 4),
        encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        fc=nn.Linear(4, 3),
    )
    return Case(model, ids(), least=12)


def translator() -> Case:
    model = Lambda(
        lambda self, x: self.fc(self.both(x, x.flip(1))),
        both=nn.Transformer(4, 2, 1, 1, 8, batch_first=True),
        fc=nn.Linear(4, 3),
    )
    return Case(model, tokens(), least=12)


def attention() -> Any:
    """Attention by hand, with a norm of its heads: (example, head, token, channel)."""

    def forward(self: Any, x: Any) -> Any:
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.softmax(self.norm_q(q) @ k.transpose(-2, -1))
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, c))

    return Lambda(forward, qkv=nn.Linear(4, 12), norm_q=nn.LayerNorm(2), softmax=nn.Softmax(-1), proj=nn.Linear(4, 4))


def vit() -> Case:
    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.token = nn.Conv2d(2, 4, 2, 2), nn.Parameter(torch.randn(1, 1, 4))
            self.norm1, self.attn, self.norm2 = nn.LayerNorm(4), attention(), nn.LayerNorm(4)
            self.mlp, self.head = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            x = x + self.attn(self.norm1(x))
            x = x + self.mlp(self.norm2(x))
            return self.head(x[:, 0])

    return Case(ViT(), images(), skipped=("attn.norm_q", "attn.softmax"), least=8)


def swin() -> Case:
    """Blocks on (example, height, width, channel), with windows that change the first axis."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attn, self.reduce = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(16, 8)

        def forward(self, x: Any) -> Any:
            b, h, w, c = x.shape
            y = self.norm(x).view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
            y = self.attn(y).view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
            x = x + y
            corners = [x[:, i::2, j::2, :] for i in (0, 1) for j in (0, 1)]
            return self.reduce(torch.cat(corners, -1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.block, self.norm, self.act = nn.Conv2d(2, 4, 2, 2), Block(), nn.LayerNorm(8), nn.GELU()

        def forward(self, x: Any) -> Any:
            return self.act(self.norm(self.block(self.patch(x).permute(0, 2, 3, 1))))

    nhwc = {"block*": "nhwc", "norm": "nhwc", "act": "nhwc"}
    return Case(Net(), images(8, 16), nhwc, skipped=("block.attn",), least=5)


def convnext() -> Case:
    class LayerNorm2d(nn.LayerNorm):
        def forward(self, x: Any) -> Any:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dwconv, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4)
            self.up, self.act, self.down = nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
            return x + self.down(self.act(self.up(y))).permute(0, 3, 1, 2)

    model = nn.Sequential(nn.Conv2d(2, 4, 2, 2), LayerNorm2d(4), Block())
    nhwc = {f"2.{name}": "nhwc" for name in ("norm", "up", "act", "down")}
    return Case(model, images(8, 6), nhwc, least=8)


def channels_last_input() -> Case:
    return Case(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 5), nn.GELU()), torch.randn(N, 4, 5, 3), {"*": "nhwc"})


def gpt() -> Case:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln1, self.attn, self.ln2 = (
                nn.LayerNorm(4),
                nn.MultiheadAttention(4, 2, batch_first=True),
                nn.LayerNorm(4),
            )
            self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

        def forward(self, x: Any) -> Any:
            y = self.ln1(x)
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
            return x + self.mlp(self.ln2(x))

    model = Lambda(
        lambda self, x: self.head(self.blocks(self.embed(x) + self.place(torch.arange(x.shape[1])))),
        embed=nn.Embedding(20, 4),
        place=nn.Embedding(N, 4),
        blocks=nn.Sequential(Block(), Block()),
        head=nn.Linear(4, 20, bias=False),
    )
    # Positions are not examples, although there may be as many.
    return Case(model, ids(), skipped=("place",), least=12)


def mixer() -> Case:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.tokens = nn.LayerNorm(4), nn.Sequential(nn.Linear(9, 5), nn.GELU(), nn.Linear(5, 9))
            self.norm2, self.channels = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4))

        def forward(self, x: Any) -> Any:
            x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norm2(x))

    model = Lambda(
        lambda self, x: self.fc(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1)),
        patch=nn.Conv2d(2, 4, 2, 2),
        block=Block(),
        fc=nn.Linear(4, 2),
    )
    return Case(model, images(6, 6), least=11)


def autoencoder() -> Case:
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3), nn.Linear(3, 24)),
        *(nn.Unflatten(1, (4, 3, 2)), nn.ConvTranspose2d(4, 2, 2, 2), nn.Sigmoid()),
    )
    return Case(model, images(6, 4), least=6)


def siamese() -> Case:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.head = nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(10, 1)

        def forward(self, x: Any, y: Any) -> Any:
            return self.head(torch.cat([self.tower(x), self.tower(y)], 1))

    return Case(Net(), (torch.randn(N, 4), torch.randn(N, 4)), least=5)


def reused() -> Case:
    model = Lambda(lambda self, x: self.act(self.fc(self.act(self.fc(x)))), fc=nn.Linear(4, 4), act=nn.ReLU())
    return Case(model, torch.randn(N, 4), least=4)


def outputs() -> Case:
    """Modules that return dicts and tuples."""
    first = Lambda(lambda self, x: {"hidden": self.fc(x) + 1, "other": x}, fc=nn.Linear(4, 5))
    second = Lambda(lambda self, x: (self.fc(x) * 2, None), fc=nn.Linear(5, 3))
    return Case(
        Lambda(lambda self, x: self.second(self.first(x)["hidden"])[0], first=first, second=second), torch.randn(N, 4)
    )


def one_dimensional() -> Case:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2))
    return Case(model, torch.randn(N, 2, 9), {"*": "ncw"})


def three_dimensional() -> Case:
    model = nn.Sequential(nn.Conv3d(2, 4, 2), nn.ReLU(), nn.MaxPool3d(2))
    return Case(model, torch.randn(N, 2, 5, 6, 7))


def grouped() -> Case:
    model = nn.Sequential(
        *(nn.Conv2d(4, 4, 3, groups=4), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 8, 1)),
        *(nn.PixelShuffle(2), nn.InstanceNorm2d(2), nn.Upsample(scale_factor=2)),
    )
    return Case(model, images(channels=4), least=7)


def gated() -> Case:
    """Squeeze-excitation: maps of a single position, and a product with them."""
    model = Lambda(
        lambda self, x: self.out(x * self.gate(self.squeeze(self.pool(x)))),
        pool=nn.AdaptiveAvgPool2d(1),
        squeeze=nn.Conv2d(2, 2, 1),
        gate=nn.Sigmoid(),
        out=nn.Hardswish(),
    )
    return Case(model, images(), {"out": "nchw", "*": "nc.."}, skipped=("out",))


def bag() -> Case:
    return Case(nn.Sequential(nn.EmbeddingBag(20, 4), nn.Linear(4, 3)), ids(), least=2)


def compiled() -> Case:
    return Case(torch.compile(cnn().model, backend="eager"), images(), {"5": "nc.."})


def functional() -> Case:
    """Convolutions by functions alone; one module without modules inside."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))

        def forward(self, x: Any) -> Any:
            return F.relu(F.conv2d(x, self.weight)) ** 2

    return Case(Net(), images(), least=1)


CASES = [
    *(mlp, cnn, resnet, inception, unet, lstm, lstm_tokens_first, gru_transposed, rnn_of_ids, transformer),
    *(transformer_tokens_first, transformer_masked, translator, vit, swin, convnext, channels_last_input, gpt, mixer),
    *(autoencoder, siamese, reused, outputs, one_dimensional, three_dimensional, grouped, gated, bag, compiled),
    functional,
]


def plain_hooks(model: Any, inputs: Any) -> dict[str, Any]:
    """What the modules give for all examples at once."""
    model = getattr(model, "_orig_mod", model)
    found: dict[str, Any] = {}
    calls: Counter[str] = Counter()

    def hook(name: str) -> Any:
        def keep(module: Any, args: Any, output: Any) -> None:
            calls[name] += 1
            if isinstance(output, dict):
                output = next(iter(output.values()))
            if isinstance(output, tuple):
                output = output[0]
            found[name if calls[name] == 1 else f"{name}#{calls[name]}"] = output.detach().clone()

        return keep

    named = [(path or type(model).__name__, module) for path, module in model.named_modules()]
    handles = [module.register_forward_hook(hook(name)) for name, module in named]
    model.eval()
    with torch.no_grad():
        model(*inputs if isinstance(inputs, tuple) else (inputs,))
    for handle in handles:
        handle.remove()
    return found


def stored(values: Any, layout: str) -> Any:
    """An output with its axes in the order of the store."""
    if layout.endswith(".."):
        return values.flatten(1).numpy()
    order = sorted(layout, key="ntdhwc".index)
    return values.permute([layout.index(axis) for axis in order]).numpy()


@pytest.mark.parametrize("size", [4, N], ids=["two batches", "one batch"])
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_capture_torch__equals_plain_hooks(make: Callable[[], Case], size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    case = make()
    expected = plain_hooks(case.model, case.inputs)
    tokens_first = case.layouts.get("*") == "tnc"
    along = 1 if tokens_first else 0
    whole = case.inputs if isinstance(case.inputs, tuple) else (case.inputs,)
    batches = list(zip(*(part.split(size, dim=along) for part in whole), strict=True))
    with create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        report = capture_torch(case.model, batches, zoo=zoo, name="net", checkpoint="c")
    captured = list(zoo.representations.layer)
    assert len(captured) >= case.least
    for layer in captured:
        usual = {2: "nc", 3: "ntc", 4: "nchw", 5: "ncdhw"}[expected[layer].ndim]
        layout = next((value for pattern, value in case.layouts.items() if fnmatchcase(layer, pattern)), usual)
        layout = layout if len(layout) == expected[layer].ndim else usual
        right = stored(expected[layer], layout)
        array = zoo["net", "c", layer]
        names = {"n": "example", "t": "token", "d": "depth", "h": "height", "w": "width"}
        if not layout.endswith(".."):
            spatial = set("dhw") & set(layout)
            last = "channel" if spatial else "neuron"
            assert array.dims == tuple(names.get(axis, last) for axis in sorted(layout, key="ntdhwc".index)), layer
        np.testing.assert_allclose(array.values, right, rtol=1e-4, atol=1e-5, err_msg=layer)
    # Nothing is left out without a reason, and nothing that is no repeat without being expected here.
    called = expected.keys() - {type(getattr(case.model, "_orig_mod", case.model)).__name__}
    assert called <= {*captured, *report.skipped}
    left = {layer for layer, reason in report.skipped.items() if "repeats" not in reason and "not called" not in reason}
    assert left == {*case.skipped} - {*captured}
