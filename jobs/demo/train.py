"""Train the demo's zoo: two small networks on scikit-learn's digits, eleven ONNX checkpoints each.

``python jobs/demo/train.py`` writes ``<architecture>-s<seed>/step<NNNNN>.onnx`` and ``examples.npz`` beside this file
in about 20 seconds. It needs ``torch onnx onnxscript scikit-learn``; the demo itself needs none but ``onnx``.
"""

from __future__ import annotations

import argparse
import ast
import copy
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.reference
import onnxscript.optimizer
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

N_TRAIN = 1297
BATCH = 64
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-3
FIRST_STEP = 5
"""The first checkpoint after initialisation; the others are spaced evenly in log(step)."""


@dataclass(frozen=True)
class Digits:
    """Some of the digits: images in [0, 1], their labels, and their index in scikit-learn's data set."""

    images: Tensor
    labels: Tensor
    index: Tensor


class CNN(nn.Module):
    """Four convolutions and two dense layers; no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(1, 12, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(12, 16, 3, padding=1), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv3, self.relu3 = nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()
        self.conv4, self.relu4 = nn.Conv2d(24, 24, 3, padding=1), nn.ReLU()
        self.fc1, self.relu5 = nn.Linear(24, 32), nn.ReLU()
        self.fc2 = nn.Linear(32, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # PyTorch's default is too small for a network without normalisation: it learns nothing for 100 steps.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.pool(self.relu2(self.conv2(self.relu1(self.conv1(images)))))
        x = self.relu4(self.conv4(self.relu3(self.conv3(x)))).mean((2, 3))
        logits: Tensor = self.fc2(self.relu5(self.fc1(x)))
        return logits


class Block(nn.Module):
    """A residual block of two normalised convolutions."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(channels), nn.ReLU()
        same = stride == 1 and channels_in == channels
        self.short = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch of feature maps."""
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        features: Tensor = self.relu2(branch + self.short(x))
        return features


class ResNet(nn.Module):
    """A stem and three residual blocks, each convolution with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn, self.relu = nn.BatchNorm2d(8), nn.ReLU()
        self.block1, self.block2, self.block3 = Block(8, 8, 1), Block(8, 16, 2), Block(16, 20, 2)
        self.fc = nn.Linear(20, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.relu(self.bn(self.stem(images)))
        logits: Tensor = self.fc(self.block3(self.block2(self.block1(x))).mean((2, 3)))
        return logits


ARCHITECTURES: dict[str, type[nn.Module]] = {"cnn": CNN, "resnet": ResNet}


def digits() -> tuple[Digits, Digits]:
    """Training and held-out digits, a fixed random split."""
    data = load_digits()
    order = np.random.default_rng(12345).permutation(len(data.target))
    images = (data.images[order, None] / 16).astype(np.float32)
    everything = [torch.from_numpy(a) for a in (images, data.target[order].astype(np.int64), order)]
    return Digits(*(a[:N_TRAIN] for a in everything)), Digits(*(a[N_TRAIN:] for a in everything))


def checkpoint_steps(last: int, count: int) -> list[int]:
    """Choose the steps to export at: 0, then `count` - 1 evenly in log(step) up to `last`."""
    return sorted({0, *np.geomspace(FIRST_STEP, last, count - 1).round().astype(int).tolist()})


def export_template(network: nn.Module, images: Tensor) -> onnx.ModelProto:
    """Graph of `network` with tensors named by module path and without anything of the machine it was made on.

    Exported once per architecture: the checkpoints differ in their initialisers only.
    """
    network.eval()
    program: Any = torch.onnx.export(
        network,
        (images[:2],),
        dynamo=True,
        input_names=["input"],
        output_names=["logits"],
        opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        # Optimising would fuse batch normalisation into the convolutions, and so hide layers.
        optimize=False,
        verbose=False,
    )
    onnxscript.optimizer.fold_constants(program.model, onnx_shape_inference=True)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    model: onnx.ModelProto = program.model_proto
    outputs = {tensor.name for tensor in model.graph.output}
    names: dict[str, str] = {}
    for node in model.graph.node:
        name = module_path(node)
        if node.output[0] not in outputs:
            names[node.output[0]] = name
        node.name = name
        node.doc_string = ""
        del node.metadata_props[:]
    if len(set(names.values())) != len(names):
        raise ValueError(f"two tensors have one name: {sorted(names.values())}; give each call a module of its own")
    for node in model.graph.node:
        node.input[:] = [names.get(tensor, tensor) for tensor in node.input]
        node.output[:] = [names.get(tensor, tensor) for tensor in node.output]
    for described in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        described.doc_string = ""
        del described.metadata_props[:]
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return model


def module_path(node: onnx.NodeProto) -> str:
    """Path of the module that computes `node`; operations outside a leaf module add their own name."""
    scopes = {prop.key: prop.value for prop in node.metadata_props}["pkg.torch.onnx.name_scopes"]
    *modules, operation = [scope for scope in ast.literal_eval(scopes) if scope]
    leaf = {"Conv", "Gemm", "BatchNormalization", "Relu", "MaxPool"}
    owner = modules[-1] if modules else ""
    # The tracer numbers operations over the whole graph ("add_40"), which says nothing about the network.
    return owner if node.op_type in leaf else f"{owner}.{operation.split('_')[0]}".strip(".")


def with_weights(template: onnx.ModelProto, network: nn.Module, images: Tensor) -> onnx.ModelProto:
    """`template` with the weights of `network`; checked on `images` to compute the same logits."""
    model = copy.deepcopy(template)
    state: dict[str, Tensor] = network.state_dict()
    weights = {name: w.numpy() for name, w in state.items() if not name.endswith("num_batches_tracked")}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights.pop(tensor.name), tensor.name))
    if weights:
        raise ValueError(f"the exported graph has no initialiser for {sorted(weights)}: were they fused away?")
    network.eval()
    with torch.no_grad():
        expected = network(images).numpy()
    computed: Any = onnx.reference.ReferenceEvaluator(model).run(None, {"input": images.numpy()})
    np.testing.assert_allclose(computed[0], expected, rtol=1e-3, atol=1e-4)
    return model


def train(network: nn.Module, data: Digits, steps: list[int], seed: int) -> Iterator[int]:
    """Train `network` in place, pausing at each of `steps`."""
    shuffle = torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps[-1] + 1)
    batches: list[Tensor] = []
    for step in range(steps[-1] + 1):
        if step in steps:
            yield step
        if not batches:
            batches = list(torch.split(torch.randperm(N_TRAIN, generator=shuffle), BATCH))
        rows = batches.pop()
        network.train()
        loss: Any = functional.cross_entropy(network(data.images[rows]), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def accuracy(network: nn.Module, data: Digits) -> float:
    """Share of `data` that `network` labels correctly."""
    network.eval()
    with torch.no_grad():
        return float((network(data.images).argmax(1) == data.labels).float().mean())


def main() -> None:
    """Train and export every network, and write the held-out images as the examples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to (default: here)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="one network of each architecture a seed")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--checkpoints", type=int, default=11, help="how many, the untrained network included")
    options = parser.parse_args()

    # The networks are too small to share between threads: on a busy machine a second one makes a step 16 times slower.
    torch.set_num_threads(1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    train_data, test_data = digits()
    steps = checkpoint_steps(math.ceil(N_TRAIN / BATCH) * options.epochs, options.checkpoints)

    print("step".ljust(12), *(f"{step:6d}" for step in steps))
    for architecture, network_class in ARCHITECTURES.items():
        template = export_template(network_class(), test_data.images)
        for seed in options.seeds:
            name = f"{architecture}-s{seed}"
            folder = options.output / name
            folder.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(seed)
            network = network_class()
            accuracies = []
            for step in train(network, train_data, steps, seed):
                accuracies.append(accuracy(network, test_data))
                model = with_weights(template, network, test_data.images[:8])
                properties = {"architecture": architecture, "seed": seed, "step": step, "data": "digits"}
                onnx.helper.set_model_props(model, {key: str(value) for key, value in properties.items()})
                onnx.save(model, folder / f"step{step:05d}.onnx")
            print(name.ljust(12), *(f"{value:6.3f}" for value in accuracies), flush=True)
    np.savez_compressed(
        options.output / "examples.npz",
        input=test_data.images.numpy(),
        label=test_data.labels.numpy(),
        example=test_data.index.numpy(),
    )


if __name__ == "__main__":
    main()
