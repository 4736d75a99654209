"""Capture of many checkpoints: what lands in the zoo, what one bad file leaves alone, and what stops the whole."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx_models import DEMO, EXAMPLES, helper, load, network, save
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.capture import onnx
from dask_svcca.errors import CaptureError, DaskSvccaError, MismatchedExamplesError, MissingPackageError
from dask_svcca.run.capture import capture_each

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = [DEMO / "cnn-s0" / "step00000.onnx", DEMO / "resnet-s1" / "step00630.onnx"]
LABELS = ["cnn-s0/step00000", "resnet-s1/step00630"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_capture_onnx__is_each_checkpoint_captured(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    outcome = dask_svcca.capture_onnx(
        FILES, EXAMPLES, "zoo.zarr", layers="relu*,logits", progress=lambda *done: calls.append(done)
    )
    assert list(outcome.reports) == LABELS
    assert outcome.problems == {}
    assert calls == [(1, 2), (2, 2)]
    inputs = onnx.load_inputs(EXAMPLES)
    dask_svcca.create_zoo("one.zarr", examples=inputs.ids(["input"]), coords=inputs.coords(["input"]))
    for file in FILES:
        onnx.capture_checkpoint(file, EXAMPLES, "one.zarr", layers="relu*,logits")
    many, one = (dask_svcca.open_zoo(store) for store in ("zoo.zarr", "one.zarr"))
    columns = ["step", "depth", "digest"]
    assert many.representations[columns].sort_index().equals(one.representations[columns].sort_index())
    assert many.examples.tolist() == one.examples.tolist()
    np.testing.assert_array_equal(many.coords["label"], load(EXAMPLES)["label"])


def test_capture_onnx__every_pattern_matches(folder: Path) -> None:
    for files, where in ((FILES[:1], repr(str(FILES[0]))), (FILES, "any of 2 models")):
        with pytest.raises(CaptureError, match=rf"no layer of {where} matches 'logit'; .*Did you mean 'logits'\?"):
            dask_svcca.capture_onnx(files, EXAMPLES, "zoo.zarr", layers="relu1,logit")
    # Of several models, one may be without.
    outcome = dask_svcca.capture_onnx(FILES, EXAMPLES, "zoo.zarr", layers=["block1.add", "relu1, logits"])
    assert [report.written for report in outcome.reports.values()] == [2, 2]


def test_capture_onnx__inputs_are_a_file(folder: Path) -> None:
    x: Any = load(EXAMPLES)["input"]
    with pytest.raises(CaptureError, match=r"inputs is the path of a file .*; got ndarray. Save arrays first: np.save"):
        dask_svcca.capture_onnx(FILES, x, "zoo.zarr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": 3}, "model is a name, and so text, such as '3'; got 3"),
        ({"checkpoint": 3}, "checkpoint is a name, and so text, such as '3'; got 3"),
        ({"step": "3"}, "step must be a finite number, or None for none; got '3'"),
    ],
)
def test_capture_onnx__names_are_text_and_steps_numbers(folder: Path, options: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        dask_svcca.capture_onnx(FILES[0], EXAMPLES, "zoo.zarr", **options)


def test_capture_onnx__goes_on_where_it_stopped(folder: Path) -> None:
    first = dask_svcca.capture_onnx(FILES[0], EXAMPLES, "zoo.zarr", layers=("logits",))
    again = dask_svcca.capture_onnx([str(path) for path in FILES], str(EXAMPLES), Path("zoo.zarr"), layers="logits")
    assert [report.written for report in first.reports.values()] == [1]
    assert [(report.written, report.present) for report in again.reports.values()] == [(0, 1), (1, 0)]


def test_capture_onnx__names_and_options_are_passed_on(folder: Path) -> None:
    store = MemoryStore()
    options: dict[str, Any] = {"layers": "logits", "dtype": "float16", "compression": "none", "batch_size": 7}
    dask_svcca.capture_onnx(FILES[:1], EXAMPLES, store, model="m", checkpoint="c", step=2.5, **options)
    dask_svcca.capture_onnx(FILES[1:], EXAMPLES, store, pattern="{model}-s1/step{step}", **options)
    zoo = dask_svcca.open_zoo(store)
    assert zoo.representations["step"].to_dict() == {"m/c/logits": 2.5, "resnet/step00630/logits": 630}
    assert zoo["m", "c", "logits"].dtype == "float16"
    assert zoo.root["m/c/logits/activations"].compressors == (Crc32cCodec(),)


def test_capture_onnx__workers_may_have_another_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place that is sent to a worker is absolute."""
    (folder / "elsewhere").mkdir()
    shutil.copy(FILES[0], "net.onnx")
    shutil.copy(EXAMPLES, "x.npz")
    capture = onnx.capture_checkpoint

    def elsewhere(*args: Any, **kwargs: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.chdir(folder / "elsewhere")
            return capture(*args, **kwargs)

    monkeypatch.setattr(onnx, "capture_checkpoint", elsewhere)
    outcome = dask_svcca.capture_onnx("net.onnx", "x.npz", "zoo.zarr", layers="logits")
    assert list(outcome.reports) == ["net/net"]
    assert len(dask_svcca.open_zoo("zoo.zarr")) == 1


def test_capture_onnx__a_bad_file_does_not_stop_the_rest(folder: Path) -> None:
    """Not even where it is the first of its model, and another model's inputs are called otherwise."""
    for name in ("net/1.onnx", "net/2.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no model")
    for number in (3, 4):
        network(folder / f"net/{number}.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 3]}, "y")
    network(folder / "other/1.onnx", [helper.make_node("Neg", ["z"], ["y"])], {"z": ["n", 2]}, "y")
    save(folder / "inputs.npz", x=np.eye(4, 3, dtype="f4"), z=np.eye(4, 2, dtype="f4"), example=range(4))
    outcome = dask_svcca.capture_onnx(sorted(folder.glob("*/*.onnx")), "inputs.npz", "zoo.zarr")
    assert list(outcome.reports) == ["net-3/3", "net-4/4", "other-1/1"]
    assert list(outcome.problems) == ["net-1/1", "net-2/2"]
    assert "1.onnx' as an ONNX model" in outcome.problems["net-1/1"]
    assert list(dask_svcca.open_zoo("zoo.zarr").coords) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": []}, "no model file is given"),
        ({"checkpoint": "c"}, "checkpoint and step name a single file, and 2 files are given"),
        ({"step": 3}, "checkpoint and step name a single file, and 2 files are given"),
        ({"paths": [FILES[0], FILES[0]]}, "would both be checkpoint 'step00000'"),
        ({"pattern": "{modle}"}, "'{modle}' is not a valid pattern of names"),
        ({"paths": ["nowhere.onnx"]}, r"cannot read '.*nowhere.onnx' as an ONNX model: .*nowhere.onnx'$"),
        ({"paths": ["a/1.onnx", "a/2.onnx"]}, r"cannot read .*1.onnx' .*\(and 1 more of 2 files failed\)$"),
        ({"layers": "nonsense"}, r"no layer of .* matches 'nonsense'.*\(and 1 more of 2 files failed\)$"),
        ({"inputs": "nowhere.npz"}, "cannot read '.*nowhere.npz'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_capture_onnx__refuses(folder: Path, options: dict[str, Any], message: str) -> None:
    asked = {"paths": [DEMO / "cnn-s0" / f"step{step:05d}.onnx" for step in (0, 5)], "inputs": EXAMPLES, **options}
    with pytest.raises(CaptureError, match=message):
        dask_svcca.capture_onnx(zoo="zoo.zarr", **asked)


def test_capture_onnx__refuses_a_zoo_of_other_examples(folder: Path) -> None:
    dask_svcca.create_zoo("zoo.zarr", examples=range(500))
    with pytest.raises(MismatchedExamplesError, match="they are not the same"):
        dask_svcca.capture_onnx(FILES, EXAMPLES, "zoo.zarr")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_capture_onnx__needs_the_extra(folder: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"needs the package '{package}'.*dask-svcca\[onnx\]") as caught:
        dask_svcca.capture_onnx(FILES, EXAMPLES, "zoo.zarr")
    # A worker sends it to the client.
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (type(sent), str(sent)) == (MissingPackageError, str(caught.value))
    assert isinstance(sent, DaskSvccaError)
    assert isinstance(sent, ImportError)


@pytest.mark.parametrize("error", [ImportError("no name 'x'"), TypeError("no such argument")])
def test_capture_each__does_not_hide_mistakes_of_ours(error: Exception) -> None:
    def failing() -> int:
        raise error

    with pytest.raises(type(error), match=str(error)):
        capture_each({"good": lambda: 1, "bad": failing})


@pytest.mark.parametrize(
    ("error", "problem"),
    [(CaptureError("it has no layers"), "it has no layers"), (OSError(28, "No space"), "OSError: [Errno 28] No space")],
)
def test_capture_each__records_what_is_wrong_with_one(error: Exception, problem: str) -> None:
    def failing() -> int:
        raise error

    captures: dict[str, Callable[[], int]] = {"bad": failing, "good": lambda: 1}
    outcome = capture_each(captures)
    assert (outcome.reports, outcome.problems) == ({"good": 1}, {"bad": problem})
