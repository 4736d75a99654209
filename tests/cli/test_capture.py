"""Capture: names, layers and labels in the zoo, and what one bad file leaves alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_runner import run

import dask_svcca


def test_capture__names_layers_and_labels(networks: Path) -> None:
    command = (
        "capture onnx networks/cnn-s0/step00000.onnx networks/cnn-s0/step00630.onnx "
        "--inputs networks/examples.npz --zoo zoo.zarr --layers 'relu*,logits'"
    )
    result = run(command)
    assert "Captured 12 representations of 2 checkpoints" in result.stdout
    assert "Capturing activations: 2 of 2 checkpoints" in result.stderr
    zoo = dask_svcca.open_zoo("zoo.zarr")
    assert list(zoo.coords) == ["label"]
    assert set(zoo.representations["step"]) == {0, 630}
    again = run(command).stdout
    assert "Captured 0 representations of 2 checkpoints" in again
    assert "12 representations were there already" in again
    for line in re.findall(r"dask-svcca .*", again):
        assert run(line.removeprefix("dask-svcca ")).output


def test_capture__names_from_a_pattern_or_options(networks: Path) -> None:
    shared = "--inputs networks/examples.npz --zoo zoo.zarr --layers logits"
    run(f"capture onnx networks/cnn-s0/step00009.onnx {shared} --name '{{model}}-s0/{{checkpoint}}.onnx'")
    run(f"capture onnx networks/cnn-s0/step00015.onnx {shared} --model other --checkpoint best --step 3")
    frame = dask_svcca.open_zoo("zoo.zarr").representations
    assert frame.index.tolist() == ["cnn/step00009/logits", "other/best/logits"]
    assert frame["step"].tolist() == [9, 3]


def test_capture__a_bad_file_does_not_stop_the_rest(networks: Path) -> None:
    Path("bad.onnx").write_text("not a model")
    result = run(
        "capture onnx bad.onnx networks/cnn-s0/step00000.onnx --inputs networks/examples.npz --zoo zoo.zarr", status=1
    )
    assert "Captured 13 representations of 1 checkpoint" in result.stdout
    assert "1 checkpoint failed:" in result.stderr
    assert "bad.onnx' as an ONNX model" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("networks/cnn-s0/step00000.onnx --layers nonsense", "no layer of"),
        ("bad.onnx", "cannot read"),
        (
            "networks/cnn-s0/step00000.onnx networks/cnn-s0/step00005.onnx --step 3",
            "checkpoint and step name a single file, and 2 files are given",
        ),
        ("networks/cnn-s0/step00000.onnx --name '{modle}'", "'{modle}' is not a valid pattern of names"),
        ("networks/cnn-s0/step00000.onnx --name 'epoch{step}'", "does not end as 'epoch{step}' says"),
    ],
)
def test_capture__refuses(networks: Path, arguments: str, message: str) -> None:
    Path("bad.onnx").write_text("not a model")
    result = run(f"capture onnx {arguments} --inputs networks/examples.npz --zoo zoo.zarr", status=2)
    assert message in " ".join(result.output.split())


def test_capture__paths_that_a_shell_left_as_they_are(networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    run(
        "capture onnx '~/networks/cnn-s?/step00000.onnx' --inputs '~/networks/examples.npz' --zoo '~/zoo.zarr' "
        "--layers logits"
    )
    assert dask_svcca.open_zoo("zoo.zarr").representations.index.tolist() == [
        "cnn-s0/step00000/logits",
        "cnn-s1/step00000/logits",
    ]
    assert "representations  2" in run("info '~/zoo.zarr'").stdout
    for name, message in [("gone*.onnx", "there is no file 'gone*.onnx'"), ("networks", "'networks' is a folder")]:
        assert message in run(f"capture onnx '{name}' --inputs networks/examples.npz --zoo zoo.zarr", 2).stderr


def test_capture__step_pattern_and_overwrite(networks: Path) -> None:
    for name, source in [("net_005", "step00005"), ("net_630", "step00630")]:
        Path(f"{name}.onnx").write_bytes(Path(f"networks/cnn-s0/{source}.onnx").read_bytes())
    shared = "--inputs networks/examples.npz --zoo zoo.zarr --layers logits"
    run(rf"capture onnx net_005.onnx net_630.onnx {shared} --step-pattern '_(\d+)$'")
    frame = dask_svcca.open_zoo("zoo.zarr").representations
    assert frame["step"].to_dict() == {"net/005/logits": 5, "net/630/logits": 630}
    Path("net_005.onnx").write_bytes(Path("net_630.onnx").read_bytes())
    again = run(rf"capture onnx net_005.onnx {shared} --step-pattern '_(\d+)$'")
    assert "Caution: the zoo has 'net/005/logits' of a model of other weights" in " ".join(again.stderr.split())
    assert "Captured 0 representations" in again.stdout
    assert (
        "Captured 1 representation "
        in run(rf"capture onnx net_005.onnx {shared} --step-pattern '_(\d+)$' --overwrite").stdout
    )
    first, second = dask_svcca.open_zoo("zoo.zarr").representations["digest"]
    assert first == second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--step-pattern '('", "is not a valid regular expression"),
        ("--dims logits", "--dims 'logits' is not PATTERN=NAMES"),
        ("--step nan", "step must be a finite number"),
    ],
)
def test_capture__options_that_are_wrong(networks: Path, options: str, message: str) -> None:
    line = f"capture onnx networks/cnn-s0/step00000.onnx --inputs networks/examples.npz --zoo zoo.zarr {options}"
    assert message in " ".join(run(line, status=2).stderr.split())
