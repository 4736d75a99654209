"""Names of checkpoints, from paths and patterns."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from dask_svcca.capture import onnx as capture
from dask_svcca.demo import find_networks
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path


def names(*paths: str, **options: Any) -> list[tuple[str, str, float | None]]:
    return [(one.model, one.checkpoint, one.step) for one in capture.name_checkpoints(paths, **options)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("zoo/net/step00100.onnx", ("net", "step00100", 100)),
        ("run2/epoch_10.onnx", ("run2", "epoch_10", 10)),
        ("zoo/net/final.onnx", ("net", "final", None)),
        ("zoo/resnet50-epoch3.onnx", ("resnet50", "epoch3", 3)),
        ("v2/net_step100_ema.onnx", ("net-ema", "step100", 100)),
        ("net/EPOCH-7.onnx", ("net", "EPOCH-7", 7)),
        ("net/checkpoint.3.onnx", ("net", "checkpoint.3", 3)),
        ("net/ckpt=40.onnx", ("net", "ckpt=40", 40)),
        ("net/iter 12.onnx", ("net", "iter 12", 12)),
        ("net/netStep5.onnx", ("net", "Step5", 5)),
        ("net/epoch0.5.onnx", ("net", "epoch0.5", 0.5)),
        ("net/step1,000.onnx", ("net", "step1,000", 1000)),
        ("net/step12,345,678.onnx", ("net", "step12,345,678", 12_345_678)),
        ("net/global_step2k.onnx", ("net", "global_step2k", 2000)),
        # Of an epoch and a step, the step is finer, in whichever order they come.
        ("net/epoch=3-step=1200.onnx", ("net", "epoch=3-step=1200", 1200)),
        ("net/step1200-epoch3.onnx", ("net", "step1200-epoch3", 1200)),
        ("net/net-step1e3.onnx", ("net", "step1e3", 1000)),
        ("net/net-step1.5e+03.onnx", ("net", "step1.5e+03", 1500)),
        ("net/net-step10.onnx.onnx", ("net", "step10", 10)),
        ("zoo/NET.ONNX", ("NET", "NET", None)),
        # How well a checkpoint did is not the model's name.
        ("r/net_epoch3_acc0.91.onnx", ("net", "epoch3_acc0.91", 3)),
        ("r/net-epoch=3-step=9-val_loss=0.42-top1=0.7.onnx", ("net", "epoch=3-step=9-val_loss=0.42-top1=0.7", 9)),
        ("net/epoch3_f1-0.9/model.onnx", ("net", "epoch3_f1-0.9", 3)),
        ("r/net_step3_ema0.99.onnx", ("net-ema0.99", "step3", 3)),
        ("r/net_loss0.1_step3.onnx", ("net_loss0.1", "step3", 3)),
        # As trainers save them.
        ("bert/checkpoint-500/model.onnx", ("bert", "checkpoint-500", 500)),
        ("run/epoch3/encoder.onnx", ("encoder", "epoch3", 3)),
        ("bert-base/model.onnx", ("bert-base", "model", None)),
        ("run/model_step7.onnx", ("run", "step7", 7)),
        ("run/best-epoch3.onnx", ("run-best", "epoch3", 3)),
        # Numbers that are no steps.
        ("zoo/vgg16.onnx", ("vgg16", "vgg16", None)),
        ("zoo/Jupiter5.onnx", ("Jupiter5", "Jupiter5", None)),
        ("zoo/ckpt-v2-1000.onnx", ("ckpt-v2-1000", "ckpt-v2-1000", None)),
        ("zoo/step1,5.onnx", ("step1,5", "step1,5", None)),
        ("zoo/step1000,000.onnx", ("step1000,000", "step1000,000", None)),
        ("zoo/step3of10.onnx", ("step3of10", "step3of10", None)),
        ("zoo/resnet_2026-11-26.onnx", ("resnet_2026-11-26", "resnet_2026-11-26", None)),
        ("zoo/2026-11-26.onnx", ("zoo-2026-11-26", "2026-11-26", None)),
        ("zoo/step100_2026-11-26.onnx", ("zoo-2026-11-26", "step100", 100)),
    ],
)
def test_name_checkpoints__of_one_path(path: str, expected: tuple[str, str, float | None]) -> None:
    assert names(path) == [expected]


def test_name_checkpoints__only_a_step_makes_a_checkpoint() -> None:
    """Once both were checkpoints of a model 'zoo', at steps 16 and 18."""
    assert names("zoo/vgg16.onnx", "zoo/resnet18.onnx", "zoo/resnet34.onnx") == [
        (name, name, None) for name in ("vgg16", "resnet18", "resnet34")
    ]
    varied = [f"zoo/{net}-lr{rate}-step{step}.onnx" for net, rate, step in itertools.product("ab", (0.1, 0.2), (1, 2))]
    assert {(model, step) for model, _, step in names(*varied)} == {
        (f"{net}-lr{rate}", step) for net, rate, step in itertools.product("ab", (0.1, 0.2), (1, 2))
    }


def test_name_checkpoints__one_name_in_several_folders() -> None:
    assert names("bert/model.onnx", "gpt2/model.onnx") == [("bert", "model", None), ("gpt2", "model", None)]
    assert names("seed0/net-step1.onnx", "seed1/net-step1.onnx", "seed1/net-step2.onnx") == [
        ("seed0-net", "step1", 1),
        ("seed1-net", "step1", 1),
        ("seed1-net", "step2", 2),
    ]
    assert names("a/net/step1.onnx", "b/net/step1.onnx") == [("a-net", "step1", 1), ("b-net", "step1", 1)]
    assert [model for model, *_ in names("a/x/onnx/model.onnx", "b/x/onnx/model.onnx")] == ["a-x-onnx", "b-x-onnx"]


def test_name_checkpoints__of_one_run_with_metrics() -> None:
    files = [f"r/net_epoch{epoch}_acc0.9{epoch}.onnx" for epoch in (3, 4)]
    assert names(*files) == [("net", "epoch3_acc0.93", 3), ("net", "epoch4_acc0.94", 4)]


@pytest.mark.parametrize(
    "files",
    [
        ["net_step1_000", "net_step2_000"],
        ["net_step1_000"],
        ["net_step12_500_000"],
        ["net_step1.000"],
        ["net_epoch3_0.91"],
        ["step1_000/model"],
    ],
)
def test_name_checkpoints__where_a_number_ends(files: list[str]) -> None:
    with pytest.raises(CaptureError, match=r"may have all of 'step.*|may have all of 'epoch3_0.91' for its step"):
        names(*[f"r/{file}.onnx" for file in files])


def test_name_checkpoints__where_a_number_ends_is_said() -> None:
    file = "r/net_step1_000.onnx"
    assert names(file, step_pattern=r"step([\d_]+)") == [("net", "step1_000", 1000)]
    assert names(file, pattern="{model}_step{step}_{checkpoint}") == [("net", "000", 1)]
    assert names("r/net_epoch3_0.91.onnx", pattern="{model}_epoch{step}_{checkpoint}") == [("net", "0.91", 3)]


@pytest.mark.parametrize(
    "files",
    [
        ["net_step10_2026-11-26", "net_step20_2026-11-27"],
        ["net_epoch3_x0.91", "net_epoch4_x0.93"],
        ["net_acc0.91_epoch3", "net_acc0.93_epoch4"],
    ],
)
def test_name_checkpoints__a_number_that_changes_with_the_step(files: list[str]) -> None:
    paths = [f"r/{file}.onnx" for file in files]
    with pytest.raises(CaptureError, match=r"would be models of their own, .*, each with one step, .*--name"):
        names(*paths)
    assert [model for model, *_ in names(*paths, model="net")] == ["net", "net"]


@pytest.mark.parametrize("files", [["r/a/step1", "s/a/step2"], ["r/net-step1", "s/net-step2"]])
def test_name_checkpoints__one_name_in_several_folders_without_a_clash(files: list[str]) -> None:
    """Once they were checkpoints of one model."""
    paths = [f"{file}.onnx" for file in files]
    with pytest.raises(CaptureError, match=r"would both be of model '(a|net)', and are in different folders.*--model"):
        names(*paths)
    assert [(model, step) for model, _, step in names(*paths, model="m")] == [("m", 1), ("m", 2)]


def test_name_checkpoints__numbers_that_are_of_models() -> None:
    for files in (
        ["resnet18-epoch10", "resnet34-epoch20"],
        ["net-lr0.1-step10", "net-lr0.2-step10"],
        ["net-lr0.1-step10", "net-lr0.2-step10", "net-lr0.1-step20"],
    ):
        found = names(*[f"r/{file}.onnx" for file in files])
        assert [(model, checkpoint) for model, checkpoint, _ in found] == [tuple(file.rsplit("-", 1)) for file in files]


def test_name_checkpoints__of_the_demo_stay() -> None:
    networks = find_networks()
    for one in capture.name_checkpoints(sorted(networks.glob("*/*.onnx"))):
        folder, file = one.path.split("/")[-2:]
        assert (one.model, one.checkpoint) == (folder, file.removesuffix(".onnx"))
        assert one.step == int(one.checkpoint.removeprefix("step"))


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("m/a.onnx", "{model}/{checkpoint}", ("m", "a", None)),
        ("m/a.onnx", "{model}/{checkpoint}.onnx", ("m", "a", None)),
        ("m/a.b.onnx", "{model}/{checkpoint}", ("m", "a.b", None)),
        ("m/net.final.onnx", "{model}.{checkpoint}", ("net", "final", None)),
        ("step3/vit.onnx", "step{step}/{model}", ("vit", "vit", 3)),
        ("m/epoch7.onnx", "{model}/epoch{step}.onnx", ("m", "epoch7", 7)),
    ],
)
def test_name_checkpoints__pattern_without_the_suffix(path: str, pattern: str, expected: tuple[str, str, Any]) -> None:
    assert names(path, pattern=pattern) == [expected]


def test_name_checkpoints__step_pattern() -> None:
    assert names("a/net_0100.onnx", "a/net_0200.onnx", step_pattern=r"_(\d+)$") == [
        ("net", "0100", 100),
        ("net", "0200", 200),
    ]
    # Once there is a pattern, it alone says what a step is.
    assert names("a/v7-step3.onnx", "a/final.onnx", step_pattern=r"^v(\d+)") == [
        ("step3", "v7", 7),
        ("a", "final", None),
    ]
    assert names("run/it-30/net.onnx", step_pattern=r"it-(?P<step>\d+)") == [("net", "it-30", 30)]


@pytest.mark.parametrize(
    ("step_pattern", "message"),
    [
        ("(x", r"'\(x' is not a valid regular expression"),
        (r"_(\d+)$", r"finds no number in 'net/final.onnx'"),
        ("(fin)al", "finds 'fin', which is not a number"),
    ],
)
def test_name_checkpoints__step_pattern_that_fails(step_pattern: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        names("net/final.onnx", step_pattern=step_pattern)


def test_name_checkpoints__names_that_are_given() -> None:
    assert names("a/vgg16.onnx", "a/resnet-step3.onnx", model="m") == [("m", "vgg16", None), ("m", "resnet-step3", 3)]
    assert names("a/step3.onnx", checkpoint="best") == [("a", "best", 3)]
    assert names("a/x.onnx", checkpoint="epoch9") == [("x", "epoch9", 9)]


def test_name_checkpoints__relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert capture.name_checkpoints(["step3.onnx"])[0].model == tmp_path.name


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (["net/a.onnx", "net/a.onnx"], {}, r"'net/a.onnx' and 'net/a.onnx' would both be checkpoint 'a'"),
        (["net/step1.onnx", "net/step01.onnx"], {}, "'net/step1.onnx' and 'net/step01.onnx' would both be step 1 of"),
        (["net/epoch1-step5.onnx", "net/epoch2-step5.onnx"], {}, "would both be step 5 of model 'net'"),
        (["a/step1.onnx", "b/step1.onnx"], {"model": "m"}, "of model 'm'"),
        (["a/epoch3.onnx", "a/model-epoch3.onnx"], {}, "would both be checkpoint 'epoch3' of model 'a'"),
    ],
)
def test_name_checkpoints__duplicates(paths: list[str], options: dict[str, str], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture.name_checkpoints(paths, **options)
