"""Axes of ONNX tensors: from operators, followed through the graph, and never guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx_models import network, new_zoo, save

import dask_svcca
from dask_svcca.capture import onnx as capture
from dask_svcca.errors import CaptureError, DaskSvccaError
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
from onnx import helper  # noqa: E402

N, T, H, D = 6, 5, 3, 4
node = helper.make_node


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


def captured(
    tmp_path: Path,
    nodes: Sequence[Any],
    x: np.ndarray,
    weights: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Activations by layer, and what was skipped; the last axis of examples is open."""
    path = network(tmp_path / "net" / "step1.onnx", nodes, {"x": ["n", *x.shape[1:]]}, nodes[-1].output[0], weights)
    file = save(tmp_path / "x.npz", x=x)
    store = new_zoo(tmp_path, file, "x")
    report = capture.capture_checkpoint(path, file, store, **options)
    zoo = open_zoo(store)
    return {name: zoo["net", "step1", name].compute() for name in zoo.representations.layer}, dict(report.skipped)


def test_capture__attention_heads_are_neurons_of_their_token(tmp_path: Path) -> None:
    """As BERT is exported; once heads became channels, and tokens a map of width 4."""
    w = {name: normal(H * D, H * D, seed=seed) / 4 for seed, name in enumerate("qkvo")}
    nodes = [node("MatMul", ["x", name], [f"{name}_all"]) for name in "qkv"]
    nodes += [node("Reshape", [f"{name}_all", "heads"], [f"{name}_split"]) for name in "qkv"]
    nodes += [
        node("Transpose", ["q_split"], ["queries"], perm=[0, 2, 1, 3]),
        node("Transpose", ["k_split"], ["keys"], perm=[0, 2, 3, 1]),
        node("Transpose", ["v_split"], ["values"], perm=[0, 2, 1, 3]),
        node("MatMul", ["queries", "keys"], ["scores"]),
        node("Div", ["scores", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["attention"], axis=-1),
        node("MatMul", ["attention", "values"], ["context"]),
        node("Transpose", ["context"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "merged"], ["together"]),
        node("MatMul", ["together", "o"], ["out"]),
        node("Add", ["out", "x"], ["residual"]),
    ]
    weights = {**w, "heads": np.array([0, 0, H, D]), "merged": np.array([0, 0, H * D]), "scale": np.float32(2)}
    x = normal(N, T, H * D, seed=9)
    layers, skipped = captured(tmp_path, nodes, x, weights)

    q, k, v = (x @ w[name] for name in "qkv")
    q, k, v = (part.reshape(N, T, H, D).transpose(0, 2, 1, 3) for part in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / 2
    attention = np.exp(scores - scores.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    context = (attention @ v).transpose(0, 2, 1, 3).reshape(N, T, H * D)
    assert list(layers) == ["q_all", "k_all", "v_all", "attention", "context", "out", "residual"]
    assert {layer.dims for layer in layers.values()} == {("example", "token", "neuron")}
    np.testing.assert_allclose(layers["context"], context, atol=1e-5)
    np.testing.assert_allclose(layers["attention"], attention.transpose(0, 2, 1, 3).reshape(N, T, H * T), atol=1e-5)
    np.testing.assert_allclose(layers["residual"], context @ w["o"] + x, atol=1e-4)
    assert set(skipped) == {"scores", "scaled"}
    assert "scores of attention" in skipped["scores"]


def test_capture__heads_from_queries_keys_and_values_in_one(tmp_path: Path) -> None:
    """As in timm's vision transformers."""
    nodes = [
        node("MatMul", ["x", "w"], ["qkv"]),
        node("Reshape", ["qkv", "shape"], ["split"]),
        node("Transpose", ["split"], ["stacked"], perm=[2, 0, 3, 1, 4]),
        node("Gather", ["stacked", "zero"], ["q"], axis=0),
        node("Tanh", ["q"], ["squashed"]),
    ]
    weights = {"w": normal(H * D, 3 * H * D), "shape": np.array([0, T, 3, H, D]), "zero": np.array(0)}
    x = normal(N, T, H * D, seed=1)
    layers, _ = captured(tmp_path, nodes, x, weights)
    expected = np.tanh((x @ weights["w"])[..., : H * D])
    np.testing.assert_allclose(layers["squashed"], expected, atol=1e-5)
    assert layers["squashed"].dims == ("example", "token", "neuron")


def test_capture__channels_last_blocks(tmp_path: Path) -> None:
    """As in Swin and ConvNeXt: layer normalisation and dense layers have channels last, whatever the lengths."""
    nodes = [
        node("LayerNormalization", ["x", "scale"], ["norm"], axis=-1),
        node("MatMul", ["norm", "w"], ["dense"]),
        node("Relu", ["dense"], ["relu"]),
    ]
    x = normal(N, 5, 7, 7)
    layers, skipped = captured(tmp_path, nodes, x, {"scale": np.ones(7, "f4"), "w": normal(7, 8)})
    assert {name: dict(layer.sizes) for name, layer in layers.items()} == {
        "norm": {"example": N, "height": 5, "width": 7, "channel": 7},
        "dense": {"example": N, "height": 5, "width": 7, "channel": 8},
        "relu": {"example": N, "height": 5, "width": 7, "channel": 8},
    }
    assert not skipped


def test_capture__images_before_the_first_convolution(tmp_path: Path) -> None:
    """What scales them says nothing; the convolution that takes them does."""
    nodes = [node("Sub", ["x", "mean"], ["scaled"]), node("Conv", ["scaled", "w"], ["conv"])]
    layers, _ = captured(tmp_path, nodes, normal(N, 3, 6, 4), {"mean": normal(1, 3, 1, 1), "w": normal(2, 3, 3, 3)})
    assert dict(layers["scaled"].sizes) == {"example": N, "height": 6, "width": 4, "channel": 3}


def test_capture__patches_become_tokens(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["patches"], strides=[2, 2]),
        node("Reshape", ["patches", "shape"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("Add", ["tokens", "positions"], ["embedded"]),
    ]
    weights = {"w": normal(8, 3, 2, 2), "shape": np.array([0, 8, -1]), "positions": normal(1, 9, 8)}
    layers, _ = captured(tmp_path, nodes, normal(N, 3, 6, 6), weights)
    assert dict(layers["embedded"].sizes) == {"example": N, "token": 9, "neuron": 8} or dict(
        layers["embedded"].sizes
    ) == {"example": N, "token": 9, "channel": 8}


def test_capture__group_normalisation_brings_channels_back(tmp_path: Path) -> None:
    """It is exported as an instance normalisation of groups, which is no map of so many channels."""
    nodes = [
        node("Conv", ["x", "w"], ["conv"]),
        node("Reshape", ["conv", "groups"], ["grouped"]),
        node("InstanceNormalization", ["grouped", "ones", "zeros"], ["normalised"]),
        node("Reshape", ["normalised", "maps"], ["maps_again"]),
        node("Relu", ["maps_again"], ["relu"]),
    ]
    weights = {
        "w": normal(4, 3, 3, 3),
        "groups": np.array([0, 2, -1]),
        "ones": np.ones(2, "f4"),
        "zeros": np.zeros(2, "f4"),
        "maps": np.array([-1, 4, 4, 2]),
    }
    layers, skipped = captured(tmp_path, nodes, normal(N, 3, 6, 4), weights)
    assert list(layers) == ["conv", "maps_again", "relu"]
    assert dict(layers["maps_again"].sizes) == {"example": N, "height": 4, "width": 2, "channel": 4}
    assert list(skipped) == ["normalised"]


def test_capture__four_axes_that_nothing_names(tmp_path: Path) -> None:
    x = normal(N, 7, 5, 5)
    with pytest.raises(CaptureError, match="no operator says what its 4 axes are"):
        captured(tmp_path, [node("Tanh", ["x"], ["y"])], x, layers="y")


def test_capture__dims_that_are_given(tmp_path: Path) -> None:
    x = normal(N, 7, 5, 5)
    nodes = [node("Tanh", ["x"], ["mix.y"])]
    layers, _ = captured(tmp_path, nodes, x, dims={"mix.*": ("example", "channel", "height", "width")})
    np.testing.assert_allclose(layers["mix.y"], np.tanh(x).transpose(0, 2, 3, 1), atol=1e-6)


def test_capture__dims_of_another_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"dims=\('example', 'neuron'\) name 2 axes, and it has 4"):
        captured(
            tmp_path, [node("Tanh", ["x"], ["y"])], normal(N, 7, 5, 5), dims={"y": ("example", "neuron")}, layers="y"
        )


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ("y=example,neuron", r"dims is a mapping of names of tensors.*; got 'y=example,neuron'"),
        (1, "dims is a mapping of names of tensors.*; got 1"),
        ({1: ("example", "neuron")}, "dims has names of tensors as its keys, or patterns of them; got 1"),
        ({"y": "example,height,width,channel"}, "dims of 'y' is a sequence of names.*; got 'example,height,width,cha"),
        ({"y": 1}, "dims of 'y' is a sequence of names, one an axis, such as .*; got 1"),
        ({"y": ()}, r"dims of 'y' is a sequence of names, one an axis, such as .*; got \(\)"),
        ({"y": ("channel", "example", "height", "width")}, "only tensors with the examples first can be captured"),
        ({"y": ("example", "head", "head", "neuron")}, "dims of 'y' are .*, with 'head' twice; name each axis once"),
        ({"y": ("example", "hight", "width", "channel")}, "have an axis 'hight'; names are"),
        ({"y": ("example", "height", "width")}, "name each once, one 'example' and one 'neuron' or 'channel'"),
        (
            {"Y": ("example", "channel", "height", "width")},
            r"the axes of 'Y', and no such tensor is computed by '.*step1\.onnx'",
        ),
        ({"y": ("example", "neuron"), "typo*": ("example", "neuron")}, r"the axes of 'typo\*', and no such tensor"),
    ],
)
def test_capture__dims_that_cannot_be(tmp_path: Path, dims: Any, message: str) -> None:
    """Refused before anything is run or made."""
    path = network(tmp_path / "net/step1.onnx", [node("Tanh", ["x"], ["y"])], {"x": ["n", 7, 5, 5]}, "y")
    file = save(tmp_path / "x.npz", x=normal(N, 7, 5, 5))
    with pytest.raises(DaskSvccaError, match=message):
        dask_svcca.capture_onnx(path, file, tmp_path / "zoo.zarr", dims=dims)
    assert not (tmp_path / "zoo.zarr").exists()
    with pytest.raises(DaskSvccaError, match=message):
        capture.list_layers(path, dims=dims)


def test_capture__dims_for_some_of_several_models(tmp_path: Path) -> None:
    files = [
        network(tmp_path / f"{name}.onnx", [node("Tanh", ["x"], [name])], {"x": ["n", 7, 5, 5]}, name)
        for name in ("first", "second")
    ]
    file, dims = save(tmp_path / "x.npz", x=normal(N, 7, 5, 5)), ("example", "channel", "height", "width")
    given = {"first": dims, "sec*": dims}
    outcome = dask_svcca.capture_onnx(files, file, tmp_path / "zoo.zarr", dims=given)
    assert [report.written for report in outcome.reports.values()] == [1, 1]
    with pytest.raises(
        CaptureError, match=r"'frist', and no such tensor is computed by any of 2 files. Did you mean 'first'\?"
    ):
        dask_svcca.capture_onnx(files, file, tmp_path / "zoo.zarr", dims={**given, "frist": dims})


def recurrent(layout: str) -> list[Any]:
    before = [node("Transpose", ["x"], ["by_time"], perm=[1, 0, 2])] if layout == "batch_first" else []
    source = "by_time" if before else "x"
    return [
        *before,
        node("LSTM", [source, "w", "r"], ["states"], hidden_size=D),
        node("Squeeze", ["states", "one"], ["hidden"]),
        *([node("Transpose", ["hidden"], ["back"], perm=[1, 0, 2])] if before else []),
    ]


def test_capture__recurrent_with_examples_first(tmp_path: Path) -> None:
    weights = {"w": normal(1, 4 * D, 3), "r": normal(1, 4 * D, D, seed=1), "one": np.array([1])}
    layers, _ = captured(tmp_path, recurrent("batch_first"), normal(N, T, 3), weights)
    assert list(layers) == ["back"]
    assert dict(layers["back"].sizes) == {"example": N, "token": T, "neuron": D}


@pytest.mark.parametrize("tokens", [T, N])
def test_capture__recurrent_with_time_first_is_refused(tmp_path: Path, tokens: int) -> None:
    """Examples fed along the axis of time would be the steps of one sequence."""
    weights = {"w": normal(1, 4 * D, 3), "r": normal(1, 4 * D, D, seed=1), "one": np.array([1])}
    with pytest.raises(CaptureError, match="has no layers that can be captured"):
        captured(tmp_path, recurrent("time_first"), normal(N, tokens, 3), weights)


def test_capture__values_that_depend_on_other_examples_are_left_out(tmp_path: Path) -> None:
    nodes = [
        node("Tanh", ["x"], ["y"]),
        node("ReduceMean", ["y", "first"], ["mean"]),
        node("Sub", ["y", "mean"], ["centred"]),
    ]
    layers, skipped = captured(tmp_path, nodes, normal(N, 4), {"first": np.array([0])})
    assert list(layers) == ["y"]
    assert "depend on the other examples" in skipped["centred"]


def test_capture__heads_folded_into_the_examples(tmp_path: Path) -> None:
    """As PyTorch's own attention is exported: time first, and heads beside the examples for a while."""
    nodes = [
        node("Transpose", ["x"], ["by_time"], perm=[1, 0, 2]),
        node("MatMul", ["by_time", "w"], ["projected"]),
        node("Reshape", ["projected", "folded"], ["split"]),
        node("Transpose", ["split"], ["heads_first"], perm=[1, 0, 2]),
        node("Reshape", ["heads_first", "unfolded"], ["heads"]),
        node("Tanh", ["heads"], ["squashed"]),
        node("Transpose", ["squashed"], ["time_again"], perm=[2, 0, 1, 3]),
        node("Reshape", ["time_again", "rows"], ["flat"]),
        node("MatMul", ["flat", "v"], ["mixed"]),
        node("Reshape", ["mixed", "tokens"], ["by_time_again"]),
        node("Transpose", ["by_time_again"], ["out"], perm=[1, 0, 2]),
    ]
    weights = {
        "w": normal(H * D, H * D),
        "folded": np.array([T, -1, D]),
        "unfolded": np.array([-1, H, T, D]),
        "rows": np.array([-1, H * D]),
        "v": normal(H * D, H * D, seed=2),
        "tokens": np.array([T, -1, H * D]),
    }
    x = normal(N, T, H * D, seed=1)
    layers, _ = captured(tmp_path, nodes, x, weights)
    squashed = np.tanh(x @ weights["w"])
    assert list(layers) == ["heads", "squashed", "out"]
    np.testing.assert_allclose(layers["squashed"], squashed, atol=1e-5)
    np.testing.assert_allclose(layers["out"], squashed @ weights["v"], atol=1e-4)
    assert layers["out"].dims == ("example", "token", "neuron")


def test_capture__queries_keys_and_values_as_pytorch_stacks_them(tmp_path: Path) -> None:
    """An axis is put in front, exchanged with that of the three, and taken out again."""
    nodes = [
        node("Transpose", ["x"], ["by_time"], perm=[1, 0, 2]),
        node("MatMul", ["by_time", "w"], ["packed"]),
        node("Reshape", ["packed", "three"], ["unpacked"]),
        node("Unsqueeze", ["unpacked", "zero"], ["one_more"]),
        node("Transpose", ["one_more"], ["exchanged"], perm=[3, 1, 2, 0, 4]),
        node("Squeeze", ["exchanged", "last"], ["stacked"]),
        node("Gather", ["stacked", "second"], ["keys"], axis=0),
        node("Transpose", ["keys"], ["examples_first"], perm=[1, 0, 2]),
    ]
    weights = {
        "w": normal(4, 12),
        "three": np.array([T, -1, 3, 4]),
        "zero": np.array([0]),
        "last": np.array([-2]),
        "second": np.array(1),
    }
    x = normal(N, T, 4, seed=1)
    layers, _ = captured(tmp_path, nodes, x, weights)
    np.testing.assert_allclose(layers["examples_first"], (x @ weights["w"])[..., 4:8], atol=1e-5)
    assert layers["examples_first"].dims == ("example", "token", "neuron")
