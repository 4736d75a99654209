"""Capture from a live PyTorch model: what hooks record is what the modules put out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dask_svcca.capture.onnx import capture_checkpoint
from dask_svcca.capture.torch import capture_torch
from dask_svcca.errors import CaptureError, MismatchedExamplesError, StoreFormatError
from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo

torch = pytest.importorskip("torch", reason="needs PyTorch")
nn = torch.nn

DEMO = Path(__file__).parents[1] / "jobs" / "demo"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images() -> Any:
    return torch.randn(10, 2, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return create_zoo(tmp_path / "zoo.zarr", examples=range(10))


class ConvNet(nn.Module):
    """Batch norm, dropout, an in-place activation, one module called twice, a block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.5))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4, 3)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        x = self.act(self.bn(self.conv(x)))
        x = self.act(self.block(x) + x)
        return self.fc(self.flatten(self.pool(x)))


@pytest.fixture
def model(images: Any) -> Any:
    torch.manual_seed(0)
    model = ConvNet()
    model(images)  # moves the running statistics of the batch norm
    return model


def test_capture_torch__values_are_the_modules(model: Any, images: Any, zoo: Zoo) -> None:
    report = capture_torch(model, images.split(4), zoo=zoo, name="net", checkpoint="c", step=3)

    model.eval()
    with torch.no_grad():
        conv = model.conv(images)
        bn = model.bn(conv)
        act = torch.relu(bn)
        inner = model.block(act)
        act2 = torch.relu(inner + act)
        pooled = act2.mean((2, 3))
        expected = {
            "conv": conv,
            "bn": bn,
            "act": act,
            "block.0": inner,
            "act#2": act2,
            "pool": pooled,
            "fc": model.fc(pooled),
        }
    table = zoo.representations
    assert list(table.layer) == list(expected)
    assert list(table.depth) == [0, 1, 2, 3, 5, 6, 8]
    assert set(table.step) == {3}
    for layer, values in expected.items():
        array = zoo["net", "c", layer]
        last = values.permute(0, 2, 3, 1) if values.ndim == 4 else values
        np.testing.assert_allclose(array.values, last, rtol=1e-4, atol=1e-5)
        assert array.dtype == np.float32
        assert array.dims == (("example", "height", "width", "channel") if values.ndim == 4 else ("example", "neuron"))
    assert (report.model, report.checkpoint, report.written, report.present, report.examples) == ("net", "c", 7, 0, 10)
    assert report.nbytes == sum(values.numel() * 4 for values in expected.values())
    assert report.skipped == {
        "unused": "it was not called",
        "block": "it repeats 'block.0'",
        "block.1": "it repeats 'block.0'",
        "flatten": "it repeats 'pool'",
    }


def test_capture_torch__leaves_the_model_as_it_was(model: Any, images: Any, zoo: Zoo) -> None:
    model.train()
    model.bn.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    capture_torch(model, [images], zoo=zoo, name="net", checkpoint="c")
    assert {name for name, module in model.named_modules() if not module.training} == {"bn"}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())

    with pytest.raises(RuntimeError):
        capture_torch(model, [images[:, :1]], zoo=zoo, name="net", checkpoint="broken")
    assert {name for name, module in model.named_modules() if not module.training} == {"bn"}
    assert not any(module._forward_hooks for module in model.modules())


def test_capture_torch__patterns(model: Any, images: Any, zoo: Zoo) -> None:
    capture_torch(model, [images], zoo=zoo, name="net", checkpoint="c", layers="block, act")
    table = zoo.representations
    assert list(table.layer) == ["act", "block", "act#2"]
    assert list(table.depth) == [2, 4, 5]
    for layers in ("relu", "act, relu", ["act", "relu"]):
        with pytest.raises(CaptureError, match=r"no layer of the model 'net' matches 'relu'; it has 'conv', 'bn'"):
            capture_torch(model, [images], zoo=zoo, name="net", checkpoint="c", layers=layers)
    with pytest.raises(CaptureError, match=r"matches 'blok\.\*'; it has .*Did you mean 'block.1'"):
        capture_torch(model, [images], zoo=zoo, name="net", checkpoint="c", layers="act,blok.*")
    with pytest.raises(CaptureError, match=r"layers=\[\] chooses no module of the model 'net'; it has 'conv'"):
        capture_torch(model, [images], zoo=zoo, name="net", checkpoint="c", layers=[])


def test_capture_torch__kinds_of_batches(model: Any, images: Any, zoo: Zoo) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.arange(10)), batch_size=3)
    kinds = {
        "tensors": images.split(7),
        "loader": loader,
        "dicts": ({"x": part} for part in images.split(5)),
        "numpy": [images.numpy()],
    }
    for checkpoint, batches in kinds.items():
        capture_torch(model, batches, zoo=zoo, name="net", checkpoint=checkpoint, layers="fc")
    values = [zoo["net", checkpoint, "fc"].values for checkpoint in kinds]
    for other in values[1:]:
        np.testing.assert_allclose(other, values[0], rtol=1e-4, atol=1e-6)


def test_capture_torch__goes_on_where_it_stopped(model: Any, images: Any, zoo: Zoo) -> None:
    def breaks() -> Any:
        yield images[:4]
        raise KeyboardInterrupt

    capture_torch(model, [images], zoo=zoo, name="net", checkpoint="c", layers="conv")
    with pytest.raises(KeyboardInterrupt):
        capture_torch(model, breaks(), zoo=zoo, name="net", checkpoint="c")
    assert list(zoo.representations.layer) == ["conv"]
    report = capture_torch(model, images.split(4), zoo=zoo, name="net", checkpoint="c")
    assert (report.written, report.present) == (6, 1)

    read = 0

    def counted() -> Any:
        nonlocal read
        for part in images.split(2):
            read += 1
            yield part

    report = capture_torch(model, counted(), zoo=zoo, name="net", checkpoint="c")
    # The inputs are looked at in full, to say whether they are others.
    assert (report.written, report.present, read) == (0, 7, 5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([0, 6], "have 6 examples, the zoo has 10"),
        ([0, 10, 4], "at least 14 examples, the zoo has 10"),
        ([], "0 examples"),
    ],
)
def test_capture_torch__wrong_number_of_examples(
    parts: list[int], message: str, model: Any, images: Any, zoo: Zoo
) -> None:
    batches = [images[:size] for size in parts if size]
    with pytest.raises(MismatchedExamplesError, match=message):
        capture_torch(model, batches, zoo=zoo, name="net", checkpoint="c")


def test_capture_torch__read_only_zoo(model: Any, images: Any, zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(StoreFormatError, match="opened for reading"):
        capture_torch(model, [images], zoo=open_zoo(tmp_path / "zoo.zarr"), name="net", checkpoint="c")


def test_capture_torch__sequences_and_one_dimensional_convolutions(zoo: Zoo) -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv1d(2, 4, 3))
    model.add_module("act", nn.GELU())
    model.add_module("tokens", nn.Flatten(2))
    model.add_module("lstm", nn.LSTM(7, 5, batch_first=True))
    x = torch.randn(10, 2, 9)
    report = capture_torch(model, [x], zoo=zoo, name="net", checkpoint="c")
    sizes = {layer: dict(zoo["net", "c", layer].sizes) for layer in ("conv", "act", "lstm")}
    assert sizes == {
        "conv": {"example": 10, "width": 7, "channel": 4},
        "act": {"example": 10, "width": 7, "channel": 4},
        "lstm": {"example": 10, "token": 4, "neuron": 5},
    }
    np.testing.assert_allclose(
        zoo["net", "c", "act"].values, model[1](model[0](x)).detach().permute(0, 2, 1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(zoo["net", "c", "lstm"].values, model(x)[0].detach(), rtol=1e-4, atol=1e-5)
    assert report.skipped == {"tokens": "it repeats 'act'"}


def test_capture_torch__channels_last_modules(zoo: Zoo) -> None:
    """As in ConvNeXt: channels are where the modules have them, whatever the number of axes says."""

    class Conv1D(nn.Module):  # a linear layer by that name, as in transformers
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 6))

        def forward(self, x: Any) -> Any:
            return x @ self.weight

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.linear = nn.Conv2d(2, 3, 1), nn.LayerNorm(3), nn.Linear(3, 7)
            self.act, self.mine = nn.GELU(), Conv1D()

        def forward(self, x: Any) -> Any:
            x = self.norm(self.conv(x).permute(0, 2, 3, 1))
            return self.act(self.linear(x)), self.mine(x.flatten(1, 2))

    capture_torch(Net(), [torch.randn(10, 2, 5, 4)], zoo=zoo, name="net", checkpoint="c")
    sizes = {layer: tuple(zoo["net", "c", layer].sizes.items()) for layer in zoo.representations.layer}
    place = (("example", 10), ("height", 5), ("width", 4))
    assert sizes == {
        "conv": (*place, ("channel", 3)),
        "norm": (*place, ("channel", 3)),
        "linear": (*place, ("channel", 7)),
        "act": (*place, ("channel", 7)),
        "mine": (("example", 10), ("token", 20), ("neuron", 6)),
    }


def test_capture_torch__skips_what_is_no_representation(zoo: Zoo) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("whole", "none", "integers", "scalar", "rows", "empty", "mapping", "six"):
                self.add_module(name, Returns(name))

        def forward(self, x: Any) -> Any:
            for module in self.children():
                module(x)

    class Returns(nn.Module):
        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

        def forward(self, x: Any) -> Any:
            return {
                "whole": x * 2,
                "none": None,
                "integers": x.long(),
                "scalar": x.sum(),
                "rows": x.flatten(),
                "empty": x[:, :0],
                "mapping": {"hidden": (3 * x).to(torch.bfloat16), "other": x},
                "six": x.reshape(-1, 2, 1, 1, 1, 2),
            }[self.what]

    report = capture_torch(Odd(), [torch.ones(10, 4)], zoo=zoo, name="odd", checkpoint="c")
    assert list(zoo.representations.layer) == ["whole", "mapping"]
    assert set(report.skipped) == {"none", "integers", "scalar", "rows", "empty", "six"}
    assert report.skipped["none"] == "it returns NoneType, not a tensor"
    assert report.skipped["integers"] == "it returns torch.int64"
    with pytest.raises(CaptureError, match=r"no module of 'odd' gave a representation: .*rows, its first axis is not"):
        capture_torch(Odd(), [torch.ones(10, 4)], zoo=zoo, name="odd", checkpoint="d", layers="rows")


def test_capture_torch__a_module_that_stops_answering(zoo: Zoo) -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.often, self.seldom = nn.Identity(), nn.Identity()

        def forward(self, x: Any) -> Any:
            x = self.often(x)
            return self.seldom(x) if len(x) > 4 else x

    with pytest.raises(CaptureError, match=r"'seldom' of 'net' gave nothing for the 4 examples up to 10"):
        capture_torch(Sometimes(), torch.ones(10, 2).split(6), zoo=zoo, name="net", checkpoint="c", layers="*")
    with pytest.raises(CaptureError, match=r"no module of 'net' gave a representation: 'often, it repeats the input"):
        capture_torch(Sometimes(), torch.ones(10, 2).split(6), zoo=zoo, name="net", checkpoint="d")


def test_capture_torch__agrees_with_onnx_runtime(tmp_path: Path) -> None:
    """The demo's network rebuilt from the weights in its file."""
    onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    path = DEMO / "cnn-s0" / "step00630.onnx"

    class CNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for i, (before, after) in enumerate([(1, 12), (12, 16), (16, 24), (24, 24)], 1):
                self.add_module(f"conv{i}", nn.Conv2d(before, after, 3, padding=1))
                self.add_module(f"relu{i}", nn.ReLU())
            self.pool, self.fc1, self.relu5, self.fc2 = nn.MaxPool2d(2), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 10)

        def forward(self, x: Any) -> Any:
            x = self.pool(self.relu2(self.conv2(self.relu1(self.conv1(x)))))
            x = self.relu4(self.conv4(self.relu3(self.conv3(x)))).mean((2, 3))
            return self.fc2(self.relu5(self.fc1(x)))

    model = CNN()
    weights = {w.name: torch.tensor(onnx.numpy_helper.to_array(w)) for w in onnx.load(path).graph.initializer}
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("val_")})
    with np.load(DEMO / "examples.npz") as archive:
        examples = dict(archive)
    images = torch.tensor(examples["input"])
    with create_zoo(tmp_path / "zoo.zarr", examples=examples["example"]) as zoo:
        capture_torch(model, images.split(128), zoo=zoo, name="torch", checkpoint="c")
        capture_checkpoint(path, DEMO / "examples.npz", tmp_path / "zoo.zarr", model="onnx", checkpoint="c")
        zoo.refresh()
    table = zoo.representations
    by_torch, by_onnx = (set(table.query(f"model == '{name}'").layer) for name in ("torch", "onnx"))
    assert by_onnx - by_torch == {"mean", "logits"}
    assert by_torch - by_onnx == {"fc2"}
    for layer in by_torch:
        one, other = zoo["torch", "c", layer], zoo["onnx", "c", layer.replace("fc2", "logits")]
        assert one.dims == other.dims
        np.testing.assert_allclose(one.values, other.values, rtol=1e-3, atol=1e-4)


def test_capture_torch__missing_package_names_the_extra(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs the package 'torch'.*dask-svcca\[torch\]"):
        capture_torch(None, [], zoo=zoo, name="net", checkpoint="c")
