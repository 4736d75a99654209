"""Small ONNX models and files of examples, and zoos for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.capture import onnx as capture
from dask_svcca.stores.zoo import create_zoo, open_zoo

if TYPE_CHECKING:
    from collections.abc import Sequence

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

DEMO = Path(__file__).parents[1] / "jobs" / "demo"
EXAMPLES = DEMO / "examples.npz"
FLOAT = TensorProto.FLOAT


def load(file: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file, which is closed."""
    with np.load(file) as archive:
        return dict(archive)


def network(
    path: Path,
    nodes: Sequence[Any],
    inputs: dict[str, Sequence[int | str]],
    output: str,
    weights: dict[str, Any] | None = None,
    dtype: int = FLOAT,
) -> Path:
    """Write a model of a few nodes; outputs get no shape, so that nothing but running it tells."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def new_zoo(tmp_path: Path, inputs_path: Path, *names: str) -> Path:
    inputs = capture.load_inputs(inputs_path)
    create_zoo(tmp_path / "zoo.zarr", examples=inputs.ids(names), coords=inputs.coords(names))
    return tmp_path / "zoo.zarr"


def layer_names(path: Path, **options: Any) -> list[str]:
    return [layer.name for layer in capture.list_layers(path, **options)]


def stored(store: Path, model: str, checkpoint: str, layer: str) -> Any:
    return open_zoo(store)[model, checkpoint, layer]


def write_conv_net(folder: Path, rng: np.random.Generator) -> Path:
    """Conv, Relu, pooling to (N, C, 1, 1), Flatten, Gemm."""
    return network(
        folder / "net-a" / "step00012.onnx",
        [
            helper.make_node("Conv", ["input", "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["conv"], ["relu"]),
            helper.make_node("Identity", ["relu"], ["same"]),
            helper.make_node("GlobalAveragePool", ["same"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "v"], ["logits"]),
        ],
        {"input": ["batch", 2, 5, 4]},
        "logits",
        {
            "w": rng.normal(size=(3, 2, 3, 3)).astype("f4"),
            "b": rng.normal(size=3).astype("f4"),
            "v": rng.normal(size=(3, 6)).astype("f4"),
        },
    )


def write_images(folder: Path, rng: np.random.Generator) -> Path:
    """Examples for it, with labels and ids."""
    x = rng.normal(size=(11, 2, 5, 4)).astype("f4")
    return save(folder / "images.npz", input=x, label=np.arange(11) % 3, example=np.arange(100, 111))
