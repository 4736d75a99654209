"""Layers of a model before they are captured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import run

import dask_svcca


def test_layers__are_those_that_are_captured(networks: Path) -> None:
    file = "networks/resnet-s0/step00000.onnx"
    said = json.loads(run(f"layers {file} --json").stdout)
    assert said["model"] == file
    run(f"capture onnx {file} --inputs networks/examples.npz --zoo zoo.zarr")
    frame = dask_svcca.open_zoo("zoo.zarr").representations
    assert [layer["layer"] for layer in said["layers"]] == frame["layer"].tolist()
    first = said["layers"][0]
    assert (first["operator"], first["dims"]) == ("Conv", ["example", "channel", "height", "width"])
    channels, *sizes = first["shape"]
    assert [*sizes, channels] == list(frame["shape"].iloc[0][1:])
    listed = run("info zoo.zarr --layers").stdout.splitlines()
    assert len(listed) == 1 + len(frame)
    assert listed[1].split()[:3] == ["resnet-s0", "stem", str(sizes[0])]


def test_layers__by_patterns_and_why_others_are_left_out(networks: Path) -> None:
    text = run("layers networks/cnn-s0/step00000.onnx --layers 'relu*' --layers logits").stdout
    assert [line.split()[0] for line in text.splitlines()[1:]] == [*(f"relu{n}" for n in range(1, 6)), "logits"]
    assert "no layer of" in run("layers networks/cnn-s0/step00000.onnx --layers nope", status=2).stderr


def test_layers__of_what_is_not_a_model(folder: Path) -> None:
    Path("bad.onnx").write_text("not a model")
    pytest.importorskip("onnxruntime")
    assert "cannot read 'bad.onnx' as an ONNX model" in run("layers bad.onnx", status=2).stderr
    assert "does not exist" in run("layers gone.onnx", status=2).stderr
