"""Capture from ONNX: values, layout, what counts as a layer, resuming, and what goes wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.capture import onnx as capture
from dask_svcca.capture._common import dims_of, listing, select
from dask_svcca.errors import CaptureError, MismatchedExamplesError
from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
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


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def conv_net(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Conv, Relu, pooling to (N, C, 1, 1), Flatten, Gemm."""
    return network(
        tmp_path / "net-a" / "step00012.onnx",
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


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> Path:
    x = rng.normal(size=(11, 2, 5, 4)).astype("f4")
    return save(tmp_path / "images.npz", input=x, label=np.arange(11) % 3, example=np.arange(100, 111))


# Values and layout


def test_capture__values_are_the_models(conv_net: Path, images: Path, tmp_path: Path) -> None:
    store = new_zoo(tmp_path, images, "input")
    report = capture.capture_checkpoint(conv_net, images, store, batch_size=4)

    x = load(images)["input"]
    logits = runtime.InferenceSession(conv_net, providers=["CPUExecutionProvider"]).run(["logits"], {"input": x})[0]
    weights = {w.name: numpy_helper.to_array(w) for w in onnx.load(conv_net).graph.initializer}
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]), (3, 3), axis=(2, 3))
    conv = np.einsum("ncyxij,kcij->nyxk", windows, weights["w"]) + weights["b"]
    pooled = np.maximum(conv, 0).mean((1, 2))

    for layer, expected in {
        "conv": conv,
        "relu": np.maximum(conv, 0),
        "pooled": pooled,
        "logits": pooled @ weights["v"],
    }.items():
        np.testing.assert_allclose(stored(store, "net-a", "step00012", layer).values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stored(store, "net-a", "step00012", "logits").values, logits, rtol=1e-5)
    assert stored(store, "net-a", "step00012", "conv").dims == ("example", "height", "width", "channel")
    assert stored(store, "net-a", "step00012", "pooled").dims == ("example", "neuron")

    assert (report.model, report.checkpoint, report.written, report.present) == ("net-a", "step00012", 4, 0)
    assert report.examples == 11
    assert report.nbytes == sum(a.nbytes for a in (conv, conv, pooled, logits))
    assert report.seconds > 0
    assert report.skipped == {}


def test_capture__index_knows_step_and_order(conv_net: Path, images: Path, tmp_path: Path) -> None:
    store = new_zoo(tmp_path, images, "input")
    capture.capture_checkpoint(conv_net, images, store)
    table = open_zoo(store).representations
    assert list(table.layer) == ["conv", "relu", "pooled", "logits"]
    assert list(table.depth) == [0, 1, 2, 3]
    assert set(table.step) == {12}


def test_capture__coordinates_and_ids_come_from_the_file(conv_net: Path, images: Path, tmp_path: Path) -> None:
    store = new_zoo(tmp_path, images, "input")
    capture.capture_checkpoint(conv_net, images, store, layers="logits")
    array = stored(store, "net-a", "step00012", "logits")
    assert list(array.example.values) == list(range(100, 111))
    assert list(array.label.values) == [i % 3 for i in range(11)]


@pytest.mark.parametrize("architecture", ["cnn", "resnet"])
def test_capture__demo_network(architecture: str, tmp_path: Path) -> None:
    path = DEMO / f"{architecture}-s0" / "step00630.onnx"
    store = new_zoo(tmp_path, EXAMPLES, "input")
    report = capture.capture_checkpoint(path, EXAMPLES, store)
    assert report.written == len(layer_names(path)) == {"cnn": 13, "resnet": 28}[architecture]
    assert report.skipped == {}
    examples = load(EXAMPLES)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = stored(store, f"{architecture}-s0", "step00630", "logits").values
    np.testing.assert_allclose(logits, session.run(None, {"input": examples["input"]})[0], rtol=1e-3, atol=1e-4)
    assert (logits.argmax(1) == examples["label"]).mean() > 0.97


def test_demo__files_are_small_and_say_nothing_of_the_machine() -> None:
    files = [*DEMO.glob("*/*.onnx"), EXAMPLES]
    assert len(files) == 45
    assert sum(file.stat().st_size for file in files) < 2_500_000
    for file in files:
        content = file.read_bytes()
        assert b"/home" not in content
        assert b"/root" not in content
        assert b".py" not in content


def test_capture__batch_size_does_not_matter(tmp_path: Path) -> None:
    path = DEMO / "resnet-s1" / "step00025.onnx"
    store = new_zoo(tmp_path, EXAMPLES, "input")
    capture.capture_checkpoint(path, EXAMPLES, store, checkpoint="whole")
    capture.capture_checkpoint(path, EXAMPLES, store, checkpoint="parts", batch_size=33)
    zoo = open_zoo(store)
    for layer in layer_names(path):
        whole, parts = (zoo["resnet-s1", checkpoint, layer].values for checkpoint in ("whole", "parts"))
        np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)


def test_capture__choosing_layers_does_not_change_values(tmp_path: Path) -> None:
    path = DEMO / "resnet-s0" / "step00630.onnx"
    store = new_zoo(tmp_path, EXAMPLES, "input")
    capture.capture_checkpoint(path, EXAMPLES, store, checkpoint="all")
    report = capture.capture_checkpoint(path, EXAMPLES, store, checkpoint="one", layers="block3.bn*")
    assert report.written == 2
    zoo = open_zoo(store)
    alone, together = (zoo["resnet-s0", checkpoint, "block3.bn2"] for checkpoint in ("one", "all"))
    np.testing.assert_array_equal(alone.values, together.values)
    assert alone.attrs["depth"] == together.attrs["depth"]


# What counts as a layer


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
        tmp_path / "m" / "0.onnx",
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
    np.testing.assert_allclose(stored(store, "m", "0", "total").values, np.maximum(x, 0).sum(1, keepdims=True), 1e-5)
    assert report.skipped["quantised"] == "it is int8"
    for name in ("transposed", "similarity", "largest"):
        assert "first axis is not the examples" in report.skipped[name]


def test_capture__half_and_double_precision_stay(tmp_path: Path, rng: np.random.Generator) -> None:
    path = network(
        tmp_path / "m" / "0.onnx",
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
    assert {layer: stored(store, "m", "0", layer).dtype for layer in ("half", "double")} == {
        "half": np.dtype("f2"),
        "double": np.dtype("f8"),
    }
    assert report.skipped == {"bfloat": "it is tensor(bfloat16)"}


def test_capture__sequences_and_one_dimensional_convolutions(tmp_path: Path, rng: np.random.Generator) -> None:
    """Axes are named by what computes them: (N, C, L) behind a convolution, (N, T, C) elsewhere."""
    path = network(
        tmp_path / "m" / "0.onnx",
        [
            helper.make_node("Conv", ["input", "w"], ["conv"]),
            helper.make_node("Relu", ["conv"], ["relu"]),
            helper.make_node("Transpose", ["relu"], ["tokens"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["tokens", "v"], ["mixed"]),
            helper.make_node("Reshape", ["mixed", "heads"], ["reshaped"]),
            helper.make_node("Softmax", ["reshaped"], ["plain"]),
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
    capture.capture_checkpoint(path, file, store)
    sizes = {layer: dict(stored(store, "m", "0", layer).sizes) for layer in ("relu", "tokens", "mixed", "plain")}
    assert sizes == {
        "relu": {"example": 5, "width": 7, "channel": 4},
        "tokens": {"example": 5, "width": 7, "channel": 4},
        "mixed": {"example": 5, "width": 7, "channel": 6},
        "plain": {"example": 5, "token": 21, "neuron": 2},
    }
    relu, tokens = (stored(store, "m", "0", layer).values for layer in ("relu", "tokens"))
    np.testing.assert_array_equal(relu, tokens)


def test_capture__follows_channels_through_transpositions(tmp_path: Path, rng: np.random.Generator) -> None:
    """As in ConvNeXt: normalisation and dense layers act on channels-last maps between the convolutions."""
    path = network(
        tmp_path / "m" / "0.onnx",
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
    dense, first = (stored(store, "m", "0", layer) for layer in ("dense", "first"))
    assert dict(dense.sizes) == {"example": 4, "height": 5, "width": 4, "channel": 7}
    np.testing.assert_array_equal(dense.values, first.values)
    assert list(report.skipped) == ["reversed"]


def test_capture__volumes(tmp_path: Path, rng: np.random.Generator) -> None:
    path = network(
        tmp_path / "m" / "0.onnx",
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
    assert stored(store, "m", "0", "conv").dims == ("example", "depth", "height", "width", "channel")
    assert "6 axes have no names" in report.skipped["relu"]


@pytest.mark.parametrize("name", ["/backbone/Conv_output_0", "50%", "a%2Fb", "..", "_x", "a,b", "x[0]", "conv é"])
def test_capture__any_name(name: str, tmp_path: Path) -> None:
    path = network(
        tmp_path / "m" / "0.onnx",
        [helper.make_node("Relu", ["input"], [name]), helper.make_node("Neg", [name], ["other"])],
        {"input": ["n", 3]},
        "other",
    )
    file = save(tmp_path / "x.npz", input=np.eye(3, dtype="f4"))
    store = new_zoo(tmp_path, file, "input")
    assert capture.capture_checkpoint(path, file, store, layers=name).written == 1
    assert capture.capture_checkpoint(path, file, store).present == 1
    np.testing.assert_array_equal(stored(store, "m", "0", name).values, np.eye(3))


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


def test_capture__weights_in_a_file_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    w = rng.normal(size=(300, 4)).astype("f4")
    path = network(
        tmp_path / "m" / "0.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 300]}, "y", {"w": w}
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (path.parent / "weights.bin").exists()
    x = rng.normal(size=(6, 300)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    store = new_zoo(tmp_path, tmp_path / "x.npy", "x")
    capture.capture_checkpoint(path, tmp_path / "x.npy", store)
    np.testing.assert_allclose(stored(store, "m", "0", "y").values, x @ w, rtol=1e-4, atol=1e-4)


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
        return network(tmp_path / "m" / "0.onnx", nodes, {"input": ["n", 3]}, "out", weights)

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


# Resuming


def test_capture__goes_on_where_it_stopped(
    conv_net: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_zoo(tmp_path, images, "input")
    append, calls = Zoo.append, iter(range(100))

    def interrupted(self: Zoo, *args: Any, **options: Any) -> None:
        if next(calls) == 10:
            raise KeyboardInterrupt
        append(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Zoo, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            capture.capture_checkpoint(conv_net, images, store, batch_size=5)
    assert list(open_zoo(store).representations.layer) == ["conv", "relu"]

    report = capture.capture_checkpoint(conv_net, images, store, batch_size=5)
    assert (report.written, report.present) == (2, 2)
    again = capture.capture_checkpoint(conv_net, images, store, batch_size=5)
    assert (again.written, again.present, again.nbytes) == (0, 4, 0)
    zoo = open_zoo(store)
    digests = zoo.representations.digest
    capture.capture_checkpoint(conv_net, images, store, model="unbroken", batch_size=5)
    zoo.refresh()
    assert list(digests) == list(zoo.representations.query("model == 'unbroken'").digest)


# Names of checkpoints


@pytest.mark.parametrize(
    ("stem", "step"),
    [("step00100", 100), ("epoch_7", 7), ("resnet18-step200-acc97", 200), ("ckpt-v2-1000", 1000), ("final", None)],
)
def test_name_checkpoints__step(stem: str, step: int | None) -> None:
    (named,) = capture.name_checkpoints([f"zoo/net/{stem}.onnx"])
    assert (named.model, named.checkpoint, named.step) == ("net", stem, step)


def test_name_checkpoints__relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert capture.name_checkpoints(["step3.onnx"])[0].model == tmp_path.name


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (["net/a.onnx", "net/a.onnx"], {}, "would both be checkpoint 'a'"),
        (["a/net/step1.onnx", "b/net/step1.onnx"], {}, "would both be checkpoint 'step1' of model 'net'"),
        (["net/step1.onnx", "net/step01.onnx"], {}, "would both be step 1 of model 'net'"),
        (["a/step1.onnx", "b/step1.onnx"], {"model": "m"}, "of model 'm'"),
    ],
)
def test_name_checkpoints__duplicates(paths: list[str], options: dict[str, str], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture.name_checkpoints(paths, **options)


def test_capture__names_can_be_given(conv_net: Path, images: Path, tmp_path: Path) -> None:
    store = new_zoo(tmp_path, images, "input")
    capture.capture_checkpoint(conv_net, images, store, model="m", checkpoint="c", step=2.5, layers="logits")
    assert stored(store, "m", "c", "logits").attrs["step"] == 2.5


# Inputs


def test_inputs__default_ids_are_hashes_of_the_content(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 3)).astype("f4")
    x[4] = x[0]
    np.save(tmp_path / "x.npy", x)
    ids = capture.load_inputs(tmp_path / "x.npy").ids(["anything"])
    assert len(set(ids)) == 5
    assert [len(i) for i in ids] == [16, 16, 16, 16, 18]
    assert ids[4] == f"{ids[0]}#2"
    # Neither labels nor the kind of file make other examples; other values, types and shapes do.
    labelled = capture.load_inputs(save(tmp_path / "x.npz", x=x, label=np.arange(5)))
    assert list(labelled.ids(["x"])) == list(ids)
    for other in (x + 1, x.astype("f8"), x.reshape(5, 1, 3)):
        np.save(tmp_path / "y.npy", other)
        assert not set(capture.load_inputs(tmp_path / "y.npy").ids(["x"])) & set(ids)


def test_capture__other_inputs_are_refused(conv_net: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = (save(tmp_path / f"{i}.npz", input=rng.normal(size=(6, 2, 5, 4)).astype("f4")) for i in range(2))
    store = new_zoo(tmp_path, first, "input")
    with pytest.raises(MismatchedExamplesError, match=r"1.npz' has 6 examples \(ids are hashes.*first to differ, at 0"):
        capture.capture_checkpoint(conv_net, second, store)
    fewer = save(tmp_path / "fewer.npz", input=load(first)["input"][:4])
    with pytest.raises(MismatchedExamplesError, match=r"has 4 examples .* the zoo at .*zoo.zarr' 6\. Capture"):
        capture.capture_checkpoint(conv_net, fewer, store)
    assert len(open_zoo(store)) == 0


def test_capture__several_inputs(tmp_path: Path, rng: np.random.Generator) -> None:
    path = network(
        tmp_path / "m" / "0.onnx",
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        {"a": ["n", 3], "b": ["n", 3]},
        "sum",
    )
    assert capture.input_names(path) == ["a", "b"]
    a, b = rng.normal(size=(2, 4, 3)).astype("f4")
    file = save(tmp_path / "ab.npz", b=b, a=a)
    store = new_zoo(tmp_path, file, "a", "b")
    capture.capture_checkpoint(path, file, store)
    np.testing.assert_array_equal(stored(store, "m", "0", "sum").values, a + b)
    np.save(tmp_path / "a.npy", a)
    with pytest.raises(CaptureError, match=r"holds one array, the model has 2 inputs: 'a', 'b'"):
        capture.capture_checkpoint(path, tmp_path / "a.npy", store)


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


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((4, 2, 5, 4), "f4"), "label": [1, 2, 3, 4]}, "no array 'input', only 'image', 'label'"),
        (
            {"input": np.full((4, 2, 5, 4), np.nan, "f4")},
            r"array 'input' of .* holds NaN, first at index \(0, 0, 0, 0\)",
        ),
        ({"input": np.zeros((4, 2, 5, 4), "f4"), "label": [1, 2]}, r"lengths are \{'input': 4, 'label': 2\}"),
        ({"input": np.zeros((4, 2, 5, 4), "f4"), "scale": 3}, "'scale': None"),
        ({"input": np.zeros((4, 2, 5, 4))}, r"is float32, the array given for it float64.*astype\('float32'\)"),
        (
            {"input": np.zeros((4, 5, 4, 2), "f4")},
            r"has shape \['batch', 2, 5, 4\], the array given for it \(4, 5, 4, 2\)",
        ),
        ({"input": np.zeros((4, 40), "f4")}, r"the array given for it \(4, 40\)"),
        ({}, "must all have one entry"),
        ({"input": np.zeros((0, 2, 5, 4), "f4")}, r"lengths are \{'input': 0\}"),
    ],
)
def test_capture__inputs_that_do_not_fit(arrays: dict[str, Any], message: str, conv_net: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "x.npz", **arrays)
    create_zoo(tmp_path / "zoo.zarr", examples=range(4))
    with pytest.raises(CaptureError, match=message):
        capture.capture_checkpoint(conv_net, file, tmp_path / "zoo.zarr")


def test_capture__batch_size_out_of_range(conv_net: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"batch_size must be at least 1.*got 0"):
        capture.capture_checkpoint(conv_net, images, new_zoo(tmp_path, images, "input"), batch_size=0)


def test_inputs__first_nan_is_found_behind_the_first_block(tmp_path: Path) -> None:
    x = np.zeros((3000, 2), "f4")
    x[2500, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(CaptureError, match=r"the array of .*x.npy' holds NaN, first at index \(2500, 1\)"):
        capture.load_inputs(tmp_path / "x.npy").feeds(["x"])


def test_inputs__coordinates_have_one_value_an_example(tmp_path: Path) -> None:
    inputs = capture.load_inputs(save(tmp_path / "x.npz", input=np.zeros((4, 3)), mask=np.zeros((4, 3))))
    with pytest.raises(CaptureError, match=r"array 'mask' of .* is no input of the models \(those are 'input'\)"):
        inputs.coords(["input"])
    assert inputs.coords(["input", "mask"]) == {}


def test_load_inputs__unreadable(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("objects.npy", "text.npy", "empty.npz", "broken.npz", "missing.npz"):
        with pytest.raises(CaptureError, match=f"cannot read '.*{name}': .* It must be npy, or npz"):
            capture.load_inputs(tmp_path / name)


# Models that cannot be captured


@pytest.mark.parametrize("shape", [[1, 3], [8, 3], []])
def test_capture__fixed_batch(shape: list[int], tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": shape}, "y")
    file = save(tmp_path / "x.npz", x=np.zeros((8, 3), "f4"))
    store = new_zoo(tmp_path, file, "x")
    for attempt in (lambda: capture.capture_checkpoint(path, file, store), lambda: capture.list_layers(path)):
        with pytest.raises(CaptureError, match=r"fixed batch size of its shape .*dynamic batch axis"):
            attempt()


def test_list_layers__fixed_batch_inside(tmp_path: Path) -> None:
    path = network(
        tmp_path / "m.onnx",
        [helper.make_node("Reshape", ["x", "one"], ["row"]), helper.make_node("Relu", ["row"], ["y"])],
        {"x": ["n", 3]},
        "y",
        {"one": np.array([1, 3])},
    )
    with pytest.raises(CaptureError, match=r"cannot run '.*m.onnx' on inputs of shape .*fixed batch size inside"):
        capture.list_layers(path)


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


def test_capture__not_a_model(images: Path, tmp_path: Path) -> None:
    store = new_zoo(tmp_path, images, "input")
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("text.onnx", "missing.onnx"):
        with pytest.raises(CaptureError, match=f"cannot read '.*{name}' as an ONNX model"):
            capture.capture_checkpoint(tmp_path / name, images, store)


def test_capture__operator_unknown_to_the_runtime(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx", [helper.make_node("NoSuchOp", ["x"], ["y"])], {"x": ["n", 3]}, "y")
    with pytest.raises(CaptureError, match=r"ONNX Runtime cannot load '.*m.onnx'.*NoSuchOp"):
        capture.list_layers(path)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_capture__missing_package_names_the_extra(
    package: str, conv_net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs the package '{package}'.*dask-svcca\[onnx\]"):
        capture.list_layers(conv_net)


def test_package__importing_capture_imports_nothing_heavy() -> None:
    import subprocess

    code = (
        "import json, sys, dask_svcca.capture.onnx, dask_svcca.capture.torch; "
        "print(json.dumps(sorted({'onnx', 'onnxruntime', 'torch'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DEMO.parents[1])
    assert json.loads(done.stdout) == []


# Helpers


def test_select__order_and_repetition() -> None:
    names = ["a", "b.c", "b.d", "e,f"]
    assert select(names, None) == names
    assert select(names, "b.*,a") == ["a", "b.c", "b.d"]
    assert select(names, ["e,f", "a"]) == ["a", "e,f"]
    assert select(names, "B.*") == []


def test_dims_of__unnamed() -> None:
    assert dims_of((2, 3, 4, 5, 6), None) is None
    assert dims_of((2, 3, 4, 5, 6, 7), 1) is None
    assert dims_of((2,), None) == ("example", "neuron")


def test_listing__nothing_hidden_silently() -> None:
    assert listing(map(str, range(9)), limit=8) == "'0', '1', '2', '3', '4', '5', '6', '7' and 1 more"
