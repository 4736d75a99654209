"""Names of checkpoints, from paths and patterns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dask_svcca.capture import onnx as capture
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path


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
