"""Kinds of ONNX models: fixed batches, states, narrow types, integers, and digests of weights and inputs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
from onnx_models import network, new_zoo, save

import dask_svcca
from dask_svcca.capture import onnx as capture
from dask_svcca.capture.onnx.network import open_network
from dask_svcca.errors import CaptureError, CaptureWarning
from dask_svcca.stores import _chunked
from dask_svcca.stores.zoo import open_zoo

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

node = helper.make_node


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


# Fixed numbers of examples


@pytest.mark.parametrize("batch", [1, 4])
def test_capture__fixed_batch_is_run_so_many_at_a_time(tmp_path: Path, batch: int) -> None:
    w, x = normal(3, 2), normal(7, 3, seed=1)
    path = network(
        tmp_path / "net/step1.onnx",
        [node("MatMul", ["x", "w"], ["dense"]), node("Relu", ["dense"], ["relu"])],
        {"x": [batch, 3]},
        "relu",
        {"w": w},
    )
    assert [layer.name for layer in capture.list_layers(path)] == ["dense", "relu"]
    file = save(tmp_path / "x.npz", x=x)
    store = new_zoo(tmp_path, file, "x")
    capture.capture_checkpoint(path, file, store, batch_size=5)
    np.testing.assert_allclose(open_zoo(store)["net", "step1", "relu"], np.maximum(x @ w, 0), atol=1e-5)


@pytest.mark.parametrize("row", [[1, 3], [1, -1]])
def test_capture__fixed_batch_inside(tmp_path: Path, row: list[int]) -> None:
    """The input says any number, and a reshape inside says one."""
    x = normal(7, 3)
    path = network(
        tmp_path / "net/step1.onnx",
        [node("Reshape", ["x", "row"], ["flat"]), node("Tanh", ["flat"], ["y"])],
        {"x": ["n", 3]},
        "y",
        {"row": np.array(row)},
    )
    file = save(tmp_path / "x.npz", x=x)
    store = new_zoo(tmp_path, file, "x")
    capture.capture_checkpoint(path, file, store)
    np.testing.assert_allclose(open_zoo(store)["net", "step1", "y"], np.tanh(x), atol=1e-6)


def test_capture__fixed_batches_that_differ(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx", [node("Add", ["a", "b"], ["y"])], {"a": [2, 3], "b": [1, 3]}, "y")
    with pytest.raises(CaptureError, match=r"take different fixed numbers of examples: \{'a': 2, 'b': 1\}"):
        capture.list_layers(path)


# States, and numbers for all examples


@pytest.mark.parametrize("axis", ["n", 1])
def test_capture__states_begin_as_zeros(tmp_path: Path, axis: Any) -> None:
    w, r, x = normal(1, 8, 3), normal(1, 8, 8, seed=1), normal(6, 5, 3, seed=2)
    path = network(
        tmp_path / "net/step1.onnx",
        [
            node("Transpose", ["x"], ["by_time"], perm=[1, 0, 2]),
            node("RNN", ["by_time", "w", "r", "", "", "state"], ["all", "last"], hidden_size=8),
            node("Squeeze", ["last", "zero"], ["y"]),
        ],
        {"x": ["n", 5, 3], "state": [1, axis, 8]},
        "y",
        {"w": w, "r": r, "zero": np.array([0])},
    )
    np.save(tmp_path / "x.npy", x)
    store = new_zoo(tmp_path, tmp_path / "x.npy", "x")
    capture.capture_checkpoint(path, tmp_path / "x.npy", store)
    h = np.zeros((6, 8))
    for t in range(5):
        h = np.tanh(x[:, t] @ w[0].T + h @ r[0].T)
    np.testing.assert_allclose(open_zoo(store)["net", "step1", "y"], h, atol=1e-5)


def test_capture__one_number_for_all_examples(tmp_path: Path) -> None:
    x = normal(6, 3)
    nodes = [node("Mul", ["x", "gain"], ["y"])]
    path = network(tmp_path / "net/step1.onnx", nodes, {"x": ["n", 3], "gain": []}, "y")
    file = save(tmp_path / "x.npz", x=x, gain=np.float32(3))
    store = new_zoo(tmp_path, file, "x", "gain")
    capture.capture_checkpoint(path, file, store)
    np.testing.assert_allclose(open_zoo(store)["net", "step1", "y"], 3 * x, atol=1e-6)


# Types


def test_capture__precision_of_the_source(tmp_path: Path) -> None:
    """A model computed in half precision that ends in single precision keeps the precision it was computed in."""
    path = network(
        tmp_path / "net/step1.onnx",
        [
            node("Tanh", ["x"], ["single"]),
            node("Cast", ["single"], ["half"], to=TensorProto.FLOAT16),
            node("Relu", ["half"], ["half_relu"]),
            node("Cast", ["half_relu"], ["wide"], to=TensorProto.FLOAT),
            node("Exp", ["wide"], ["y"]),
        ],
        {"x": ["n", 3]},
        "y",
    )
    file = save(tmp_path / "x.npz", x=normal(6, 3))
    store = new_zoo(tmp_path, file, "x")
    capture.capture_checkpoint(path, file, store)
    root = open_zoo(store).root
    attributes = {layer: dict(root[f"net/step1/{layer}"].attrs) for layer in ("single", "half", "wide", "y")}
    assert {name: (one["dtype"], one.get("source_dtype")) for name, one in attributes.items()} == {
        "single": ("float32", "float32"),
        "half": ("float16", "float16"),
        "wide": ("float32", "float16"),
        "y": ("float32", "float16"),
    }


def test_capture__integers_that_stand_for_numbers(tmp_path: Path) -> None:
    """An int8 layer is read by its scale; what is made of it for the next is no layer of its own."""
    rng = np.random.default_rng(0)
    w = rng.integers(-50, 50, size=(3, 4)).astype("i1")
    quantities = {
        "xs": np.float32(0.02),
        "zero": np.int8(0),
        "w": w,
        "ws": np.float32(0.01),
        "ys": np.float32(0.03),
        "shift": np.int8(5),
    }
    path = network(
        tmp_path / "net/step1.onnx",
        [
            node("QuantizeLinear", ["x", "xs", "zero"], ["q"]),
            node("QLinearMatMul", ["q", "xs", "zero", "w", "ws", "zero", "ys", "shift"], ["dense"]),
            node("DequantizeLinear", ["dense", "ys", "shift"], ["y"]),
        ],
        {"x": ["n", 3]},
        "y",
        quantities,
    )
    x = rng.uniform(-2, 2, size=(6, 3)).astype("f4")
    file = save(tmp_path / "x.npz", x=x)
    store = new_zoo(tmp_path, file, "x")
    report = capture.capture_checkpoint(path, file, store)
    zoo = open_zoo(store)
    assert list(zoo.representations.layer) == ["dense"]
    np.testing.assert_allclose(zoo["net", "step1", "dense"], x @ (w * 0.01), atol=0.05)
    assert report.skipped == {"q": "it is int8"}


# Files that are not models, or not whole


def test_list_layers__files_that_cannot_be_read(tmp_path: Path) -> None:
    good = network(
        tmp_path / "good.onnx", [node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 300]}, "y", {"w": normal(300, 4)}
    )
    (tmp_path / "truncated.onnx").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "empty.onnx").write_bytes(b"")
    onnx.save(helper.make_model(helper.make_graph([], "nothing", [], [])), tmp_path / "nothing.onnx")
    for name in ("truncated.onnx", "empty.onnx", "nothing.onnx"):
        with pytest.raises(CaptureError, match=f"cannot read '.*{name}' as an ONNX model"):
            capture.list_layers(tmp_path / name)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    onnx.save(helper.make_model(helper.make_graph([], "through", [value], [value])), tmp_path / "through.onnx")
    with pytest.raises(CaptureError, match="computes nothing: its graph has no operators"):
        capture.list_layers(tmp_path / "through.onnx")


@pytest.mark.parametrize(
    ("location", "message"),
    [("gone.bin", "there is no such file in"), ("../weights.bin", "is outside its folder, where no file is read")],
)
def test_list_layers__weights_that_are_elsewhere(tmp_path: Path, location: str, message: str) -> None:
    path = network(
        tmp_path / "net/m.onnx", [node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 3]}, "y", {"w": normal(3, 4)}
    )
    (tmp_path / "weights.bin").write_bytes(normal(3, 4).tobytes())
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CaptureError, match=rf"has the weights 'w' in '.*', .*{message}|{message}"):
        capture.list_layers(path)


def test_list_layers__constants_outside_the_folder(tmp_path: Path) -> None:
    constant = numpy_helper.from_array(normal(3, 4), "w")
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="../../etc/hosts")
    path = network(
        tmp_path / "net/m.onnx",
        [helper.make_node("Constant", [], ["w"], value=constant), node("MatMul", ["x", "w"], ["y"])],
        {"x": ["n", 3]},
        "y",
    )
    with pytest.raises(CaptureError, match=r"weights 'w' in '\.\./\.\./etc/hosts', which is outside its folder"):
        capture.list_layers(path)
    constant.external_data[0].value = "w.bin"
    constant.external_data.add(key="length", value="-1")
    (tmp_path / "net/w.bin").write_bytes(normal(3, 4).tobytes())
    network(path, [helper.make_node("Constant", [], ["w"], value=constant)], {"x": ["n", 3]}, "w")
    with pytest.raises(CaptureError, match="have the length '-1' in their file: it is damaged"):
        capture.list_layers(path)


@pytest.mark.parametrize("given", ["i4", "f4"])
def test_capture__ids_of_another_type(tmp_path: Path, given: str) -> None:
    path = network(
        tmp_path / "net/step1.onnx",
        [node("Gather", ["table", "ids"], ["y"])],
        {"ids": ["n", 5]},
        "y",
        {"table": normal(9, 3)},
        dtype=TensorProto.INT64,
    )
    file = save(tmp_path / "x.npz", ids=np.ones((4, 5), given), example=range(4))
    with pytest.raises(CaptureError, match=r"input 'ids' of .* is int64, .* Save it with .astype\('int64'\)"):
        dask_svcca.capture_onnx(path, file, tmp_path / "zoo.zarr")


# Digests, and what is there already


def write_dense(path: Path, w: np.ndarray) -> Path:
    return network(path, [node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 3]}, "y", {"w": w})


def test_capture_onnx__other_weights_under_names_that_exist(tmp_path: Path) -> None:
    x, first, second = normal(6, 3), normal(3, 2, seed=1), normal(3, 2, seed=2)
    path, file, store = (
        tmp_path / "net/step1.onnx",
        save(tmp_path / "x.npz", x=x, example=range(6)),
        tmp_path / "zoo.zarr",
    )
    dask_svcca.capture_onnx(write_dense(path, first), file, store)
    # The same once more is nothing to warn of.
    (report,) = dask_svcca.capture_onnx(path, file, store).reports.values()
    assert (report.written, report.present, report.caution) == (0, 1, "")
    write_dense(path, second)
    with pytest.warns(UserWarning, match=r"the zoo has 'net/step1/y' of a model of other weights.*overwrite=True"):
        dask_svcca.capture_onnx(path, file, store)
    np.testing.assert_allclose(open_zoo(store)["net", "step1", "y"], x @ first, atol=1e-6)
    (report,) = dask_svcca.capture_onnx(path, file, store, overwrite=True).reports.values()
    assert (report.written, report.present) == (1, 0)
    np.testing.assert_allclose(open_zoo(store)["net", "step1", "y"], x @ second, atol=1e-6)
    other = save(tmp_path / "x.npz", x=x[::-1], example=range(6))
    with pytest.warns(UserWarning, match="of other inputs"):
        dask_svcca.capture_onnx(path, other, store)


def test_capture_onnx__names_that_exist_in_another_form(tmp_path: Path) -> None:
    x = normal(6, 3)
    path, file, store = write_dense(tmp_path / "net.onnx", normal(3, 2)), save(tmp_path / "x.npz", x=x), tmp_path / "z"
    names = {"model": "net", "checkpoint": "last"}
    dask_svcca.capture_onnx(path, file, store, step=1, **names)
    # Nothing to warn of.
    dask_svcca.capture_onnx(path, file, store, **names)
    dask_svcca.capture_onnx(path, file, store, step=1, dtype="float32", **names)
    with pytest.warns(CaptureWarning, match=r"'net/last/y' with another step, and keeps.*overwrite=True"):
        (report,) = dask_svcca.capture_onnx(path, file, store, step=2, **names).reports.values()
    assert (report.written, report.present) == (0, 1)
    with pytest.warns(CaptureWarning, match="'net/last/y' in another type"):
        dask_svcca.capture_onnx(path, file, store, step=1, dtype="float16", **names)
    (report,) = dask_svcca.capture_onnx(
        path, file, store, step=2, dtype="float16", overwrite=True, **names
    ).reports.values()
    (item,) = open_zoo(store).entries()
    assert (report.caution, item.step, item.dtype.name) == ("", 2, "float16")


def test_capture_onnx__names_that_exist_with_other_axes(tmp_path: Path) -> None:
    path = network(
        tmp_path / "net/step1.onnx",
        [node("Reshape", ["x", "to"], ["y"]), node("Neg", ["y"], ["z"])],
        {"x": ["n", 24]},
        "z",
        {"to": np.array([-1, 2, 3, 4])},
    )
    file, store = save(tmp_path / "x.npz", x=normal(6, 24)), tmp_path / "zoo.zarr"
    first = {"z": ("example", "height", "width", "channel")}
    dask_svcca.capture_onnx(path, file, store, layers="z", dims=first)
    assert dask_svcca.capture_onnx(path, file, store, layers="z", dims=first).reports["net/step1"].caution == ""
    with pytest.warns(CaptureWarning, match="of another shape"):
        dask_svcca.capture_onnx(path, file, store, layers="z", dims={"z": ("example", "channel", "height", "width")})


def test_capture_onnx__an_interrupted_replacement_leaves_all_layers_of_the_old_weights(tmp_path: Path) -> None:
    x, first, second = normal(6, 3), normal(3, 2, seed=1), normal(3, 2, seed=2)
    path, file, store = tmp_path / "net/step1.onnx", save(tmp_path / "x.npz", x=x), tmp_path / "zoo.zarr"
    dask_svcca.capture_onnx(write_two_layers(path, first), file, store)
    digests = open_zoo(store).representations["digest"]
    write_two_layers(path, second)
    write = _chunked.ChunkedArray.write

    def full(array: Any, chunk: int, values: np.ndarray) -> None:
        if (values >= 0).all():
            raise OSError("the disk is full")
        write(array, chunk, values)

    with patch.object(_chunked.ChunkedArray, "write", full), pytest.raises(CaptureError, match="the disk is full"):
        dask_svcca.capture_onnx(path, file, store, overwrite=True)
    zoo = open_zoo(store)
    assert zoo.representations["digest"].equals(digests)
    assert zoo.unfinished == []


# A fixed number of examples


def write_mixing(path: Path, batch: int | str) -> Path:
    """Layers that compute over the examples of a batch, and others of each example."""
    nodes = [
        node("MatMul", ["x", "w"], ["apart"]),
        node("Softmax", ["apart"], ["softmax"], axis=0),
        node("ReduceMean", ["apart", "zero"], ["mean"]),
        node("Sub", ["apart", "mean"], ["centred"]),
        node("Transpose", ["apart"], ["turned"], perm=[1, 0]),
        node("Reshape", ["turned", "to"], ["mixed"]),
        node("Add", ["softmax", "centred"], ["after"]),
        node("Relu", ["apart"], ["relu"]),
        node("Concat", ["after", "mixed", "relu"], ["y"], axis=1),
    ]
    weights = {"w": normal(3, 4, seed=1), "zero": np.array([0]), "to": np.array([-1, 4])}
    return network(path, nodes, {"x": [batch, 3]}, "y", weights)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 64, "n"])
@pytest.mark.parametrize("count", [3, 40])
def test_capture_onnx__layers_that_mix_the_examples_of_a_batch(tmp_path: Path, batch: int | str, count: int) -> None:
    path = write_mixing(tmp_path / "net/step1.onnx", batch)
    x = normal(count, 3)
    (report,) = dask_svcca.capture_onnx(path, save(tmp_path / "x.npz", x=x), tmp_path / "z").reports.values()
    zoo = open_zoo(tmp_path / "z")
    # With one example at a time, neither to turn the batch nor its mean changes anything.
    turned = {"turned", "mixed", "mean", "y"} if batch == 1 else set()
    assert set(zoo.representations["layer"]) - turned == {"apart", "relu"}
    assert {"softmax", "centred", "after"} <= set(report.skipped)
    np.testing.assert_allclose(zoo["net", "step1", "apart"], x @ normal(3, 4, seed=1), atol=1e-5)
    reason = "the same for every example" if batch == 1 else "depend on the other examples"
    assert reason in report.skipped["softmax"]


def write_two_layers(path: Path, w: np.ndarray) -> Path:
    nodes = [node("MatMul", ["x", "w"], ["hidden"]), node("Relu", ["hidden"], ["relu"])]
    return network(path, nodes, {"x": ["n", 3]}, "relu", {"w": w})


@pytest.mark.parametrize("what", ["activations", "weights", "dynamic"])
def test_capture_onnx__quantised_values(tmp_path: Path, what: str) -> None:
    """Rank 63 instead of 8 with all directions, once without a word."""
    scale = {"scale": np.float32(0.04), "zero": np.int8(0)}
    nodes = {
        "activations": [
            node("MatMul", ["x", "w"], ["first"]),
            node("QuantizeLinear", ["first", "scale", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["rounded"]),
            node("MatMul", ["rounded", "v"], ["last"]),
        ],
        "weights": [
            node("MatMul", ["x", "w"], ["first"]),
            node("QuantizeLinear", ["v", "scale", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["rounded"]),
            node("MatMul", ["first", "rounded"], ["last"]),
        ],
        "dynamic": [
            node("MatMul", ["x", "w"], ["first"]),
            node("DynamicQuantizeLinear", ["first"], ["q", "s", "z"]),
            node("DequantizeLinear", ["q", "s", "z"], ["rounded"]),
            node("MatMul", ["rounded", "v"], ["last"]),
        ],
    }[what]
    weights = {"w": normal(3, 4, seed=1), "v": normal(4, 4, seed=2), **scale}
    path = network(tmp_path / "net/step1.onnx", nodes, {"x": ["n", 3]}, "last", weights)
    file = save(tmp_path / "x.npz", x=normal(6, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (report,) = dask_svcca.capture_onnx(path, file, tmp_path / "z").reports.values()
    if what == "weights":
        assert (report.caution, caught) == ("", [])
        return
    assert "'rounded', 'last' of 'net/step1' compute on quantised values" in report.caution
    assert [str(one.message) for one in caught] == [report.caution]
    # Nothing is said where nothing of them is written.
    assert capture.capture_checkpoint(path, file, tmp_path / "z").caution == ""


def test_capture_onnx__another_model_fed_in_another_order(tmp_path: Path) -> None:
    """The ids of the file say nothing of it: a row was moved without its id."""
    x, store = normal(6, 3), tmp_path / "zoo.zarr"
    one, two = (write_two_layers(tmp_path / f"{name}.onnx", normal(3, 2, seed=1)) for name in ("one", "two"))
    dask_svcca.capture_onnx(one, save(tmp_path / "x.npz", x=x, example=np.arange(6)), store)
    moved = save(tmp_path / "moved.npz", x=x[[1, 0, 2, 3, 4, 5]], example=np.arange(6))
    with pytest.raises(CaptureError, match=r"'two/two' is fed the examples that 'one/one/\w+' was .* in another order"):
        dask_svcca.capture_onnx(two, moved, store)
    dask_svcca.capture_onnx(two, tmp_path / "x.npz", store)
    assert set(open_zoo(store).representations["model"]) == {"one", "two"}


@pytest.mark.parametrize(
    ("before", "after", "kept", "overwrite"),
    [(None, "relu", "hidden", True), ("relu", None, "relu", False), ("relu", "hidden", "relu", True)],
)
def test_capture_onnx__layers_of_other_weights_in_one_checkpoint(
    tmp_path: Path, before: str | None, after: str | None, kept: str, overwrite: bool
) -> None:
    x, first, second = normal(6, 3), normal(3, 2, seed=1), normal(3, 2, seed=2)
    path, file, store = tmp_path / "net/step1.onnx", save(tmp_path / "x.npz", x=x), tmp_path / "zoo.zarr"
    dask_svcca.capture_onnx(write_two_layers(path, first), file, store, layers=before)
    digest = open_zoo(store).representations["digest"]
    write_two_layers(path, second)
    with pytest.raises(CaptureError, match=rf"'net', checkpoint 'step1', .* with '{kept}', captured from other weigh"):
        dask_svcca.capture_onnx(path, file, store, layers=after, overwrite=overwrite)
    assert open_zoo(store).representations["digest"].equals(digest)
    # Another checkpoint of the model may have other weights, and all layers may be replaced together.
    dask_svcca.capture_onnx(path, file, store, layers=after, checkpoint="step2", step=2)
    dask_svcca.capture_onnx(path, file, store, overwrite=True)
    np.testing.assert_allclose(open_zoo(store)["net", "step1", "relu"], np.maximum(x @ second, 0), atol=1e-6)


def test_capture_onnx__digest_of_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = write_dense(tmp_path / "net/step1.onnx", normal(3, 2))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    digests = []
    for seed in (1, 1, 2):
        (path.parent / "w.bin").write_bytes(normal(3, 2, seed=seed).tobytes())
        digests.append(open_network(path).weights_digest)
    assert digests[0] == digests[1] != digests[2]


def test_capture_onnx__attention_mask_becomes_the_mask(tmp_path: Path) -> None:
    path = network(
        tmp_path / "net/step1.onnx",
        [node("Gather", ["table", "ids"], ["y"])],
        {"ids": ["n", 5]},
        "y",
        {"table": normal(9, 3)},
        dtype=TensorProto.INT64,
    )
    mask = (np.arange(5) < np.array([[5], [3], [4], [2]])).astype("i8")
    file = save(tmp_path / "x.npz", ids=np.arange(20).reshape(4, 5) % 9, attention_mask=mask)
    dask_svcca.capture_onnx(path, file, tmp_path / "zoo.zarr")
    np.testing.assert_array_equal(open_zoo(tmp_path / "zoo.zarr").coords["mask"], mask.astype(bool))


# Control flow


def test_capture__branch_that_does_not_depend_on_the_examples(tmp_path: Path) -> None:
    """As a model for two sampling rates: the number that is given for all examples chooses."""

    def branch(op: str) -> Any:
        nodes = [node(op, ["x"], [f"{op}_hidden"]), node("Neg", [f"{op}_hidden"], [f"{op}_out"])]
        return helper.make_graph(nodes, op, [], [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)])

    nodes = [
        node("Greater", ["rate", "limit"], ["fast"]),
        node("If", ["fast"], ["y"], "choice", then_branch=branch("Exp"), else_branch=branch("Tanh")),
    ]
    path = network(tmp_path / "net/step1.onnx", nodes, {"x": ["n", 3], "rate": []}, "y", {"limit": np.float32(8)})
    x = normal(6, 3)
    for rate, (op, function) in {16: ("Exp", np.exp), 4: ("Tanh", np.tanh)}.items():
        file = save(tmp_path / f"{rate}.npz", x=x, rate=np.float32(rate))
        (tmp_path / str(rate)).mkdir()
        store = new_zoo(tmp_path / str(rate), file, "x", "rate")
        capture.capture_checkpoint(path, file, store)
        zoo = open_zoo(store)
        assert list(zoo.representations.layer) == [f"{op}_hidden", f"{op}_out"]
        np.testing.assert_allclose(zoo["net", "step1", f"{op}_hidden"], function(x), atol=1e-5)
