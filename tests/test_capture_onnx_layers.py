"""Layers of ONNX models: what counts as one, its axes, and models that have none to capture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx_models import DEMO, FLOAT, layer_names, network, new_zoo, save, stored, write_conv_net

from dask_svcca.capture import onnx as capture
from dask_svcca.errors import CaptureError
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
from onnx import TensorProto, helper  # noqa: E402


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def conv_net(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_conv_net(tmp_path, rng)


def test_list_layers__leaves_out_what_repeats(conv_net: Path) -> None:
    layers = capture.list_layers(conv_net)
    assert [(layer.name, layer.op_type, layer.depth) for layer in layers] == [
        ("conv", "Conv", 0),
        ("relu", "Relu", 1),
        ("pooled", "GlobalAveragePool", 2),
        ("logits", "Gemm", 3),
    ]


def test_list_layers__keeps_what_a_reshape_brings_back(tmp_path: Path, rng: np.random.Generator) -> None:
    """Rows mixed with positions are no layer; reshaped back they are."""
    path = network(
        tmp_path / "m.onnx",
        [
            helper.make_node("Reshape", ["input", "flat"], ["rows"]),
            helper.make_node("MatMul", ["rows", "w"], ["projected"]),
            helper.make_node("Reshape", ["projected", "back"], ["tokens"]),
            helper.make_node("Reshape", ["tokens", "flat4"], ["again"]),
        ],
        {"input": ["n", 5, 3]},
        "again",
        {
            "flat": np.array([-1, 3]),
            "w": rng.normal(size=(3, 4)).astype("f4"),
            "back": np.array([-1, 5, 4]),
            "flat4": np.array([-1, 20]),
        },
    )
    (layer,) = capture.list_layers(path)
    assert (layer.name, layer.dims) == ("tokens", ("example", "token", "neuron"))


def test_list_layers__leaves_out_what_does_not_see_the_input(tmp_path: Path) -> None:
    path = network(
        tmp_path / "m.onnx",
        [
            helper.make_node("Shape", ["input"], ["shape"]),
            helper.make_node("Expand", ["position", "shape"], ["expanded"]),
            helper.make_node("Add", ["input", "expanded"], ["sum"]),
        ],
        {"input": ["n", 3]},
        "sum",
        {"position": np.ones((1, 3), "f4")},
    )
    assert layer_names(path) == ["sum"]


def test_capture__skips_what_is_no_representation(tmp_path: Path, rng: np.random.Generator) -> None:
    path = network(
        tmp_path / "m" / "step0.onnx",
        [
            helper.make_node("Relu", ["input"], ["relu"]),
            helper.make_node("QuantizeLinear", ["relu", "scale", "zero"], ["quantised"]),
            helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["restored"]),
            helper.make_node("Transpose", ["restored"], ["transposed"], perm=[1, 0]),
            helper.make_node("MatMul", ["input", "transposed"], ["similarity"]),
            helper.make_node("ReduceMax", ["similarity"], ["largest"], keepdims=0),
            helper.make_node("ReduceSum", ["relu", "last"], ["total"], keepdims=0),
        ],
        {"input": ["n", 6]},
        "total",
        {"scale": np.float32(0.1), "zero": np.int8(0), "last": np.array([1])},
    )
    x = rng.normal(size=(7, 6)).astype("f4")
    file = save(tmp_path / "x.npz", input=x)
    store = new_zoo(tmp_path, file, "input")
    report = capture.capture_checkpoint(path, file, store)
    assert set(open_zoo(store).representations.layer) == {"relu", "restored", "total"}
    np.testing.assert_allclose(
        stored(store, "m", "step0", "total").values, np.maximum(x, 0).sum(1, keepdims=True), 1e-5
    )
    assert report.skipped["quantised"] == "it is int8"
    for name in ("similarity", "largest"):
        assert "first axis is not the examples" in report.skipped[name]


def test_capture__half_and_double_precision_stay(tmp_path: Path, rng: np.random.Generator) -> None:
    path = network(
        tmp_path / "m" / "step0.onnx",
        [
            helper.make_node("Cast", ["input"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["input"], ["double"], to=TensorProto.DOUBLE),
            helper.make_node("Cast", ["input"], ["bfloat"], to=TensorProto.BFLOAT16),
        ],
        {"input": ["n", 6]},
        "half",
    )
    file = save(tmp_path / "x.npz", input=rng.normal(size=(7, 6)).astype("f4"))
    store = new_zoo(tmp_path, file, "input")
    report = capture.capture_checkpoint(path, file, store)
    assert {layer: stored(store, "m", "step0", layer).dtype for layer in ("half", "double")} == {
        "half": np.dtype("f2"),
        "double": np.dtype("f8"),
    }
    # Without a NumPy array of its own, bfloat16 is read as float32, and says what it was.
    attributes = open_zoo(store).root["m/step0/bfloat"].attrs
    assert (attributes["dtype"], attributes["source_dtype"]) == ("float32", "bfloat16")
    assert report.skipped == {}


def test_capture__sequences_and_one_dimensional_convolutions(tmp_path: Path, rng: np.random.Generator) -> None:
    """Axes are named by what computes them: (N, C, L) behind a convolution, (N, T, C) elsewhere."""
    path = network(
        tmp_path / "m" / "step0.onnx",
        [
            helper.make_node("Conv", ["input", "w"], ["conv"]),
            helper.make_node("Relu", ["conv"], ["relu"]),
            helper.make_node("Transpose", ["relu"], ["tokens"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["tokens", "v"], ["mixed"]),
            helper.make_node("Reshape", ["mixed", "heads"], ["reshaped"]),
            helper.make_node("Softmax", ["reshaped"], ["mangled"]),
            helper.make_node("Neg", ["input"], ["plain"]),
        ],
        {"input": ["n", 2, 9]},
        "plain",
        {
            "w": rng.normal(size=(4, 2, 3)).astype("f4"),
            "v": rng.normal(size=(4, 6)).astype("f4"),
            "heads": np.array([0, 21, 2]),
        },
    )
    file = save(tmp_path / "x.npz", input=rng.normal(size=(5, 2, 9)).astype("f4"))
    store = new_zoo(tmp_path, file, "input")
    report = capture.capture_checkpoint(path, file, store)
    zoo = open_zoo(store)
    # Transposed, a layer has the same values for a zoo, which has channels last in any case.
    assert {layer: dict(zoo["m", "step0", layer].sizes) for layer in zoo.representations.layer} == {
        "conv": {"example": 5, "width": 7, "channel": 4},
        "relu": {"example": 5, "width": 7, "channel": 4},
        "mixed": {"example": 5, "width": 7, "channel": 6},
        "plain": {"example": 5, "width": 9, "channel": 2},
    }
    assert "no operator says what its 3 axes are" in report.skipped["mangled"]


def test_capture__follows_channels_through_transpositions(tmp_path: Path, rng: np.random.Generator) -> None:
    """As in ConvNeXt: normalisation and dense layers act on channels-last maps between the convolutions."""
    path = network(
        tmp_path / "m" / "step0.onnx",
        [
            helper.make_node("Conv", ["input", "w"], ["conv"]),
            helper.make_node("Transpose", ["conv"], ["last"], perm=[0, 2, 3, 1]),
            helper.make_node("MatMul", ["last", "v"], ["dense"]),
            helper.make_node("Transpose", ["dense"], ["first"], perm=[0, 3, 1, 2]),
            helper.make_node("Transpose", ["first"], ["reversed"]),
        ],
        {"input": ["n", 2, 6, 5]},
        "reversed",
        {"w": rng.normal(size=(3, 2, 2, 2)).astype("f4"), "v": rng.normal(size=(3, 7)).astype("f4")},
    )
    file = save(tmp_path / "x.npz", input=rng.normal(size=(4, 2, 6, 5)).astype("f4"))
    store = new_zoo(tmp_path, file, "input")
    report = capture.capture_checkpoint(path, file, store)
    assert list(open_zoo(store).representations.layer) == ["conv", "dense"]
    assert dict(stored(store, "m", "step0", "dense").sizes) == {"example": 4, "height": 5, "width": 4, "channel": 7}
    assert report.skipped == {}


def test_capture__volumes(tmp_path: Path, rng: np.random.Generator) -> None:
    path = network(
        tmp_path / "m" / "step0.onnx",
        [
            helper.make_node("Conv", ["input", "w"], ["conv"]),
            helper.make_node("Reshape", ["conv", "shape"], ["six"]),
            helper.make_node("Relu", ["six"], ["relu"]),
        ],
        {"input": ["n", 1, 4, 4, 4]},
        "relu",
        {"w": rng.normal(size=(2, 1, 2, 2, 2)).astype("f4"), "shape": np.array([-1, 2, 3, 3, 3, 1])},
    )
    file = save(tmp_path / "x.npz", input=rng.normal(size=(4, 1, 4, 4, 4)).astype("f4"))
    store = new_zoo(tmp_path, file, "input")
    report = capture.capture_checkpoint(path, file, store)
    assert stored(store, "m", "step0", "conv").dims == ("example", "depth", "height", "width", "channel")
    assert "its 6 axes have no names" in report.skipped["relu"]


def test_list_layers__patterns() -> None:
    path = DEMO / "resnet-s0" / "step00000.onnx"
    assert layer_names(path, pattern="block?.add,logits") == ["block1.add", "block2.add", "block3.add", "logits"]
    assert layer_names(path, pattern=["logits", "bn"]) == ["bn", "logits"]
    with pytest.raises(CaptureError, match=r"no layer of '.*step00000.onnx' matches 'nope\*'; it has 'stem', 'bn'"):
        layer_names(path, pattern="nope*")


def test_list_layers__open_axes(tmp_path: Path) -> None:
    """Without a file of inputs, axes the model leaves open have to be made up."""
    path = network(tmp_path / "m.onnx", [helper.make_node("Relu", ["input"], ["y"])], {"input": ["n", "length"]}, "y")
    assert layer_names(path) == ["y"]
    file = save(tmp_path / "x.npz", input=np.zeros((4, 2), "f4"))
    assert layer_names(path, inputs_path=file) == ["y"]


def test_list_layers__functions_of_the_model_are_opened(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["x"], ["inner"]), helper.make_node("Neg", ["inner"], ["y"])]
    function = helper.make_function("mine", "Twice", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
    graph = helper.make_graph(
        [helper.make_node("Twice", ["input"], ["out"], domain="mine")],
        "graph",
        [helper.make_tensor_value_info("input", FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("out", FLOAT, ["n", 3])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    assert len(layer_names(tmp_path / "m.onnx")) == 2


def test_input_names__weights_of_old_models_are_none(tmp_path: Path) -> None:
    path = network(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["x", "w"], ["y"])],
        {"x": ["n", 2]},
        "y",
        {"w": np.zeros(2, "f4")},
    )
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [2]))
    onnx.save(model, path)
    assert capture.input_names(path) == ["x"]
    assert layer_names(path) == ["y"]


# Layers inside control flow


@pytest.fixture
def branching(tmp_path: Path) -> Callable[[bool], Path]:
    """A model in an If; with a layer before it, or without any."""

    def make(with_backbone: bool) -> Path:
        def branch(op: str) -> Any:
            nodes = [
                helper.make_node(op, ["features" if with_backbone else "input"], [f"{op}_hidden"]),
                helper.make_node("Relu", [f"{op}_hidden"], [f"{op}_out"]),
            ]
            return helper.make_graph(nodes, op, [], [helper.make_tensor_value_info(f"{op}_out", FLOAT, ["n", 3])])

        nodes = [helper.make_node("Neg", ["input"], ["features"])] if with_backbone else []
        nodes += [
            helper.make_node("ReduceSum", ["input"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["positive"]),
            helper.make_node(
                "If", ["positive"], ["out"], "choice", then_branch=branch("Exp"), else_branch=branch("Abs")
            ),
        ]
        weights = {"zero": np.float32(0)}
        return network(tmp_path / "m" / "step0.onnx", nodes, {"input": ["n", 3]}, "out", weights)

    return make


def test_list_layers__all_inside_an_if(branching: Callable[[bool], Path]) -> None:
    path = branching(False)
    with pytest.raises(CaptureError, match=r"no layers that can be captured") as caught:
        capture.list_layers(path)
    message = str(caught.value)
    assert "If node 'choice'" in message
    assert "'Exp_hidden'" in message
    assert "layers='out'" in message
    assert layer_names(path, pattern="out") == ["out"]
    with pytest.raises(CaptureError, match=r"matches 'Exp\*'.*inside If node 'choice'"):
        capture.list_layers(path, "Exp*")


def test_capture__part_inside_an_if_is_reported(branching: Callable[[bool], Path], tmp_path: Path) -> None:
    file = save(tmp_path / "x.npz", input=np.eye(3, dtype="f4"))
    store = new_zoo(tmp_path, file, "input")
    report = capture.capture_checkpoint(branching(True), file, store)
    assert report.written == 2
    assert "'Exp_hidden'" in report.skipped["If node 'choice'"]


# Models that cannot be captured


def test_capture__without_an_axis_of_examples(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": []}, "y")
    file = save(tmp_path / "x.npz", x=np.zeros((8, 3), "f4"))
    store = new_zoo(tmp_path, file, "x")
    with pytest.raises(CaptureError, match=r"is one number for all examples, and the array given for it has shape"):
        capture.capture_checkpoint(path, file, store)


def test_list_layers__nothing_floating(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)]
    path = network(tmp_path / "m.onnx", nodes, {"x": ["n", 3]}, "y")
    with pytest.raises(CaptureError, match=r"no layers that can be captured\. 1 tensors: it is int64"):
        capture.list_layers(path)


def test_list_layers__inputs_that_cannot_be_made_up(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = network(tmp_path / "m.onnx", nodes, {"x": ["n"]}, "y", dtype=TensorProto.STRING)
    with pytest.raises(CaptureError, match=r"is tensor\(string\), for which zeros cannot be made up"):
        capture.list_layers(path)


def test_capture__operator_unknown_to_the_runtime(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx", [helper.make_node("NoSuchOp", ["x"], ["y"])], {"x": ["n", 3]}, "y")
    with pytest.raises(CaptureError, match=r"ONNX Runtime cannot load '.*m.onnx'.*NoSuchOp"):
        capture.list_layers(path)
