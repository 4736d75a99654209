"""Capture from ONNX: values and layout, names and inputs, resuming, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx_models import DEMO, EXAMPLES, layer_names, load, network, new_zoo, save, stored, write_conv_net, write_images

from dask_svcca.capture import onnx as capture
from dask_svcca.errors import CaptureError, MismatchedExamplesError, MissingPackageError
from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
from onnx import helper, numpy_helper  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def conv_net(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_conv_net(tmp_path, rng)


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_images(tmp_path, rng)


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


@pytest.mark.parametrize("name", ["/backbone/Conv_output_0", "50%", "a%2Fb", "..", "_x", "a,b", "x[0]", "conv é"])
def test_capture__any_name(name: str, tmp_path: Path) -> None:
    path = network(
        tmp_path / "m" / "step0.onnx",
        [helper.make_node("Relu", ["input"], [name]), helper.make_node("Neg", [name], ["other"])],
        {"input": ["n", 3]},
        "other",
    )
    file = save(tmp_path / "x.npz", input=np.eye(3, dtype="f4"))
    store = new_zoo(tmp_path, file, "input")
    assert capture.capture_checkpoint(path, file, store, layers=name).written == 1
    assert capture.capture_checkpoint(path, file, store).present == 1
    np.testing.assert_array_equal(stored(store, "m", "step0", name).values, np.eye(3))


def test_capture__weights_in_a_file_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    w = rng.normal(size=(300, 4)).astype("f4")
    path = network(
        tmp_path / "m" / "step0.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 300]}, "y", {"w": w}
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (path.parent / "weights.bin").exists()
    x = rng.normal(size=(6, 300)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    store = new_zoo(tmp_path, tmp_path / "x.npy", "x")
    capture.capture_checkpoint(path, tmp_path / "x.npy", store)
    np.testing.assert_allclose(stored(store, "m", "step0", "y").values, x @ w, rtol=1e-4, atol=1e-4)


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


# Names and inputs


def test_capture__names_can_be_given(conv_net: Path, images: Path, tmp_path: Path) -> None:
    store = new_zoo(tmp_path, images, "input")
    capture.capture_checkpoint(conv_net, images, store, model="m", checkpoint="c", step=2.5, layers="logits")
    assert stored(store, "m", "c", "logits").attrs["step"] == 2.5


def test_capture__other_inputs_are_refused(conv_net: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = (save(tmp_path / f"{i}.npz", input=rng.normal(size=(6, 2, 5, 4)).astype("f4")) for i in range(2))
    store = new_zoo(tmp_path, first, "input")
    with pytest.raises(MismatchedExamplesError, match=r"1.npz' has 6 examples \(ids are hashes.*first to differ, at 0"):
        capture.capture_checkpoint(conv_net, second, store)
    fewer = save(tmp_path / "fewer.npz", input=load(first)["input"][:4])
    with pytest.raises(MismatchedExamplesError, match=r"has 4 examples .* the zoo at .*zoo.zarr' has 6\. Capture"):
        capture.capture_checkpoint(conv_net, fewer, store)
    assert len(open_zoo(store)) == 0


def test_capture__several_inputs(tmp_path: Path, rng: np.random.Generator) -> None:
    path = network(
        tmp_path / "m" / "step0.onnx",
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        {"a": ["n", 3], "b": ["n", 3]},
        "sum",
    )
    assert capture.input_names(path) == ["a", "b"]
    a, b = rng.normal(size=(2, 4, 3)).astype("f4")
    file = save(tmp_path / "ab.npz", b=b, a=a)
    store = new_zoo(tmp_path, file, "a", "b")
    capture.capture_checkpoint(path, file, store)
    np.testing.assert_array_equal(stored(store, "m", "step0", "sum").values, a + b)
    np.save(tmp_path / "a.npy", a)
    with pytest.raises(CaptureError, match=r"holds one array, the model has 2 inputs: 'a', 'b'"):
        capture.capture_checkpoint(path, tmp_path / "a.npy", store)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((4, 2, 5, 4), "f4"), "label": [1, 2, 3, 4]}, "no array 'input', only 'image', 'label'"),
        (
            {"input": np.full((4, 2, 5, 4), np.nan, "f4")},
            r"array 'input' of .* holds NaN, first at index \(0, 0, 0, 0\)",
        ),
        ({"input": np.zeros((4, 2, 5, 4), "f4"), "label": [1, 2]}, r"lengths are \{'input': 4, 'label': 2\}"),
        (
            {"input": np.zeros((4, 2, 5, 4), "f4"), "scale": 3},
            "'scale' of .* is a single number, and not an input",
        ),
        ({"input": np.zeros((4, 2, 5, 4))}, r"is float32, and the array given for it is float64.*astype\('float32'\)"),
        (
            {"input": np.zeros((4, 5, 4, 2), "f4")},
            r"has shape \['batch', 2, 5, 4\], and the array given for it has shape \(4, 5, 4, 2\)",
        ),
        ({"input": np.zeros((4, 40), "f4")}, r"the array given for it has shape \(4, 40\)"),
        ({}, "holds no array"),
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


# What goes wrong


def test_capture__not_a_model(images: Path, tmp_path: Path) -> None:
    store = new_zoo(tmp_path, images, "input")
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("text.onnx", "missing.onnx"):
        with pytest.raises(CaptureError, match=f"cannot read '.*{name}' as an ONNX model"):
            capture.capture_checkpoint(tmp_path / name, images, store)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_capture__missing_package_names_the_extra(
    package: str, conv_net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"needs the package '{package}'.*dask-svcca\[onnx\]"):
        capture.list_layers(conv_net)


def test_package__importing_capture_imports_nothing_heavy() -> None:
    code = (
        "import json, sys, dask_svcca.capture.onnx, dask_svcca.capture.torch; "
        "print(json.dumps(sorted({'onnx', 'onnxruntime', 'torch'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DEMO.parents[1])
    assert json.loads(done.stdout) == []
