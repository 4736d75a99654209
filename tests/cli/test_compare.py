"""Compare: what it computes, what it leaves alone, what it refuses, and the status it ends with."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from cli_runner import N, activations, run

import dask_svcca
from dask_svcca.cli._console import Bars
from dask_svcca.run.leases import Leases
from dask_svcca.stores.dataset import parameters_of

if TYPE_CHECKING:
    from collections.abc import Callable


def test_compare__then_nothing_to_do(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("compare zoo.zarr comparison.zarr")
    assert "Making subspaces: 8 of 8 subspaces" in result.stderr
    assert re.search(r"Compared 36 pairs of 8 representations in .* 36 of 36 pairs are there now\.", result.stdout)
    values = dask_svcca.open_comparison("comparison.zarr")["svcca"].to_numpy()
    assert np.isfinite(values).all()
    # No cluster is started for it.
    monkeypatch.delattr(importlib.import_module("dask_svcca.cli.compare"), "connected")
    again = run("compare zoo.zarr comparison.zarr")
    assert "Nothing to do: all 36 pairs of 8 representations are there." in again.stdout
    for line in re.findall(r"dask-svcca .*", again.stdout):
        assert run(line.removeprefix("dask-svcca ")).output


def test_compare__what_the_zoo_gained(comparison: Path) -> None:
    np.save("x.npy", activations(9, 3))
    run("import x.npy --zoo zoo.zarr --model new --checkpoint c --layer l")
    result = run("compare zoo.zarr comparison.zarr")
    assert "Compared 9 pairs of 9 representations" in result.stdout
    assert "45 of 45 pairs are there now" in result.stdout


def test_compare__cautions_of_few_examples_once(folder: Path) -> None:
    for number in range(3):
        np.save("x.npy", activations(number, (5, 12, 30)[number]))
        run(f"import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l{number}")
    result = run("compare zoo.zarr comparison.zarr --variance none")
    assert result.stderr.count("Caution:") == 1
    assert "2 of 3 representations have fewer than 5 samples per kept direction" in result.stderr
    assert f"The worst is 'm/c/l2': {N} samples, 30 directions." in result.stderr
    assert "Caution" not in run("compare zoo.zarr other.zarr --variance 0.1").stderr


def test_compare__dry_run_writes_nothing(zoo: Path) -> None:
    result = run("compare zoo.zarr comparison.zarr --dry-run")
    assert "representations  8, of which 8 subspaces to make" in result.output
    plan = json.loads(run("compare zoo.zarr comparison.zarr --dry-run --json --pairs same-layer").stdout)
    assert (plan["representations"], plan["pairs"]) == (8, 20)
    assert {"tiles", "tasks", "bytes_to_read", "bytes_per_tile_task", "seconds", "faster"} <= plan.keys()
    assert [path.name for path in zoo.parent.iterdir()] == ["zoo.zarr"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("zoo.zarr comparison.zarr --variance 0.5", "was made with variance=0.99, now variance=0.5 is asked for"),
        ("zoo.zarr other.zarr --variance 2", "variance is the share of the variance to keep"),
        ("zoo.zarr other.zarr --variance x", "'x' is not a valid float"),
        ("zoo.zarr other.zarr --measure nonsense", "no measure 'nonsense'"),
        ("zoo.zarr other.zarr --conv nonsense", "'nonsense' is not one of 'dft'"),
        ("zoo.zarr other.zarr --pairs nonsense", "pairs='nonsense' is not a selection; there are 'all'"),
        ("zoo.zarr other.zarr --pairs 'between net-s0 x'", "no model 'x'"),
        ("zoo.zarr other.zarr --spatial-size 8,8", "'8,8' is not a valid size; write it like 8x8"),
        ("zoo.zarr other.zarr --json", "--json shows the plan; use it with --dry-run"),
        ("zoo.zarr other.zarr --dry-run --worker-memory lots", "'lots' is not an amount of memory"),
        ("zoo.zarr other.zarr --dry-run --worker-memory 400MiB", "MiB in one worker"),
        ("nowhere.zarr other.zarr", "no zoo at"),
        ("comparison.zarr other.zarr", "is not a zoo of dask-svcca"),
        ("zoo.zarr zoo.zarr", "is not a comparison of dask-svcca"),
        ("empty.zarr other.zarr", "has no complete representation"),
    ],
)
def test_compare__refuses(comparison: Path, arguments: str, message: str) -> None:
    dask_svcca.create_zoo("empty.zarr", examples=range(3))
    result = run(f"compare {arguments}", status=2)
    assert message in " ".join(result.output.split())
    assert not Path("other.zarr").exists()


def test_compare__waits_for_another_run_or_says_who_it_is(comparison: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    root = zarr.open_group(comparison)
    with Leases(wait=False, told=None) as others:
        others.take(root, "comparison")
        result = run("compare zoo.zarr comparison.zarr", status=2)
        words = " ".join(result.output.split())
        assert f"is in use by process {os.getpid()} of" in words
        assert "Wait for that run with wait=True (--wait), or let it end" in words
        assert "Nothing to do" not in words

        def end(_: Bars, sentence: str) -> None:
            said.append(sentence)
            others.__exit__(None, None, None)

        monkeypatch.setattr(Bars, "say", end)
        assert "Nothing to do" in run("compare zoo.zarr comparison.zarr --wait").stdout
    assert len(said) == 1
    assert said[0].startswith("Waiting for the comparison 'file://")
    assert not list(comparison.rglob("lease*"))


def test_compare__uses_the_mask_of_a_zoo_unless_it_is_declined(folder: Path) -> None:
    mask = np.arange(4) < np.arange(N)[:, np.newaxis] % 4 + 1
    with dask_svcca.create_zoo("zoo.zarr", examples=range(N), coords={"real": mask, "other": mask}) as zoo:
        zoo.write("m", "c", "tokens", activations(0, 12).reshape(N, 4, 3))
    result = run("compare zoo.zarr comparison.zarr", status=2)
    assert "several masks, 'real', 'other': say which" in " ".join(result.output.split())
    for options, used in (("--mask real", "real"), ("--no-mask", None)):
        place = f"comparison{used}.zarr"
        run(f"compare zoo.zarr {place} {options}")
        assert parameters_of(dask_svcca.open_comparison(place))["mask"] == used
    result = run("compare zoo.zarr comparison.zarr --mask real --no-mask", status=2)
    assert "--mask names a mask, and --no-mask declines it" in result.output


def test_compare__names_and_drops_what_left_the_zoo(comparison: Path) -> None:
    shutil.rmtree("zoo.zarr/net-s1/step1")
    result = run("compare zoo.zarr comparison.zarr")
    assert "2 representations left the zoo, 'net-s1/step1/conv' among them: their results are from" in result.stdout
    result = run("compare zoo.zarr comparison.zarr --dry-run")
    assert "representations  8, of which 0 subspaces to make; 2 left the zoo, and their results stay" in result.stdout
    result = run("compare zoo.zarr comparison.zarr --drop-left --dry-run")
    assert "  6, of which 0 subspaces to make; results of 2 that left the zoo are removed" in result.stdout
    assert dask_svcca.open_comparison("comparison.zarr").sizes["representation_a"] == 8
    result = run("compare zoo.zarr comparison.zarr --drop-left")
    assert result.stdout.startswith(
        "Removed 2 representations that left the zoo, such as 'net-s1/step1/conv'. All 21 pairs of 6 representations"
    )
    assert run("compare zoo.zarr comparison.zarr --drop-left").stdout.startswith("Nothing to do: all 21 pairs of 6 ")
    assert dask_svcca.open_comparison("comparison.zarr").sizes["representation_a"] == 6


def test_compare__cautions_of_readings_that_papers_do_not_use(folder: Path) -> None:
    with dask_svcca.create_zoo("zoo.zarr", examples=range(N)) as zoo:
        dims = ("example", "height", "width", "channel")
        zoo.write("m", "c", "conv", activations(0, 8).reshape(N, 2, 2, 2), dims=dims)
    result = run("compare zoo.zarr comparison.zarr --measure cka")
    assert result.stderr.count("Caution: convolutional layers are read by another conv= here") == 1


def test_compare__records_what_failed_and_says_so(zoo: Path) -> None:
    bad = activations(0, 3)
    bad[5, 1] = np.nan
    with dask_svcca.open_zoo(zoo, mode="r+") as store:
        store.write("bad", "c", "nan", bad)
        store.write("bad", "c", "constant", np.ones((N, 2), dtype="float32"))
    # Recorded, so that a second run says the same without trying again.
    for _ in range(2):
        result = run("compare zoo.zarr comparison.zarr", status=1)
        assert "2 representations failed:" in result.stderr
        assert "  'bad/c/nan' has 1 of 120 values that are NaN or infinite, the first at index (5, 1)" in result.stderr
    text = run("info comparison.zarr").output
    assert re.search(r"pairs +36 of 55 done; 19 failed", text)
    assert "'bad/c/constant'" in text


@pytest.mark.parametrize(
    ("done", "kept"),
    [
        (1, "All finished subspaces and tiles are kept: the same command goes on from there."),
        (0, "This run has finished nothing yet; what was there before is kept. The same command starts it again."),
    ],
)
def test_compare__ctrl_c_says_what_is_kept(zoo: Path, monkeypatch: pytest.MonkeyPatch, done: int, kept: str) -> None:
    def interrupted(*_: Any, progress: Callable[[str, int, int], None], **__: Any) -> None:
        progress("tiles", done, 9)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["dask_svcca.cli.compare"], "run_comparison", interrupted)
    result = run("compare zoo.zarr comparison.zarr", status=130)
    assert result.stderr.splitlines()[-1] == f"Interrupted. {kept}"


def test_compare__says_which_checkpoint_it_took_for_final(tmp_path: Path) -> None:
    place = tmp_path / "zoo.zarr"
    with dask_svcca.create_zoo(place, examples=range(30)) as zoo:
        for seed, checkpoint in enumerate(("init", "epoch9", "epoch10")):
            zoo.write("net", checkpoint, "fc", np.random.default_rng(seed).normal(size=(30, 4)))
    plan = run(f"compare {place} {tmp_path}/c.zarr --pairs final --dry-run").output
    assert "final            'epoch10' of 'net'" in plan
    zoo.write("net", "swa", "fc", np.random.default_rng(4).normal(size=(30, 4)))
    refused = run(f"compare {place} {tmp_path}/c.zarr --pairs final --dry-run", status=2)
    assert "which checkpoint of 'net' is the final one cannot be known" in refused.stderr


def test_compare__dry_run_needs_no_sketches_for_the_order(zoo: Path) -> None:
    command = "compare zoo.zarr comparison.zarr --dry-run --json"
    plans = [json.loads(run(f"{command}{order}").stdout)["pairs"] for order in ("", " --order 'by estimate'")]
    assert plans[0] == plans[1]
    assert not zoo.with_name("comparison.sketches.zarr").exists()


def test_compare__coarse_first_and_exactly_later(zoo: Path) -> None:
    command = "compare zoo.zarr cka.zarr --measure cka"
    output = run(f"{command} --preview").output
    assert "36 of 36 pairs have an estimate of cka and no value, 0 are computed" in output
    assert "dask-svcca explore cka.zarr" in output
    assert "28 pairs" in run("query cka.zarr --measure cka_estimate --top 2").output
    said = "No pair with a value matches; 28 of these pairs have an estimate of 'cka' from a preview"
    assert said in run("query cka.zarr").output
    for asked in ("models cka.zarr --checkpoint '**'", "plot matrix cka.zarr -o cka.png"):
        assert "Caution: no pair asked for has a value of 'cka' yet: " in run(asked).stderr
    assert "0 of 36 done; 36 estimated" in run("info cka.zarr").output
    output = run(f"{command} --pairs 'nearest 1' --dry-run").output
    planned = int(re.search(r"(\d+) to compute", output)[1])  # type: ignore[index]
    assert 8 < planned < 36
    assert f"Compared {planned} pairs" in run(f"{command} --pairs 'nearest 1' --order 'by estimate'").output
    assert f"all {planned} pairs of 8 representations are there" in run(f"{command} --pairs 'nearest 1'").output
    assert f"{planned} of 36 done; {36 - planned} estimated" in run("info cka.zarr").output
    assert "36 of 36 pairs are there now" in run(command).output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--preview", "a preview has estimates of 'cka' alone, and 'svcca' is asked for"),
        ("--preview --measure cka --dry-run", "--preview computes nothing that could be planned"),
        ("--pairs 'nearest 0'", "pairs='nearest 0': N of 'nearest N' is how many partners each layer has"),
        (
            "--pairs 'nearest 2' --dry-run",
            "sketches of 8 representations at 'new.sketches.zarr', and not all of them are there",
        ),
        ("--sketches s.zarr", "nothing that is asked for goes by them"),
        ("--pairs 'nearest 2' --sketches zoo.zarr", "the sketches at 'zoo.zarr' would lie in the zoo at "),
        ("--pairs 'nearest 2' --sketches other.zarr", "'other.zarr' is not a store of sketches"),
    ],
)
def test_compare__refuses_what_does_not_go_by_sketches(zoo: Path, options: str, sentence: str) -> None:
    dask_svcca.create_zoo("other.zarr", examples=range(N))
    assert sentence in " ".join(run(f"compare zoo.zarr new.zarr {options}", 2).output.split())
    assert not zoo.with_name("new.zarr").exists()
