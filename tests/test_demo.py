"""The demo as a user runs it: real processes, real signals, and numbers that an independent computation agrees with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
import xarray as xr
from oracles import svcca

import dask_svcca
import dask_svcca.cli.demo as cli_demo
from dask_svcca.demo import (
    PARAMETERS,
    architectures,
    describe_jump,
    describe_settling,
    describe_smaller_rank,
    dynamics_of,
    find_networks,
)
from dask_svcca.measures import find_measures
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable

REPRESENTATIONS = 902
PAIRS = REPRESENTATIONS * (REPRESENTATIONS + 1) // 2
PATIENCE = 300
"""Seconds that anything may take: a machine may be busy, a test must not hang."""


def environment() -> dict[str, str]:
    """That of a user who has activated the virtual environment these tests run in."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def start(*command: str, folder: Path) -> subprocess.Popen[str]:
    """Start a command as a terminal does, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "dask_svcca", *command],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Wait for a command; nothing it started may outlive it, and none of it may print a traceback."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, err
    assert "Traceback" not in err
    deadline = time.monotonic() + 30
    while left := [p for p in psutil.process_iter() if _is_in_group(p, process.pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
    return out, err


def _is_in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    """What the first run prints."""
    out, err = finish(start("demo", "--workers", "2", folder=folder))
    assert "Capturing activations: 44 of 44 checkpoints" in err
    assert "Comparing pairs" in err
    return out


@pytest.fixture
def zoo(output: str, folder: Path) -> dask_svcca.Zoo:
    return dask_svcca.open_zoo(folder / "dask-svcca-demo" / "zoo.zarr")


@pytest.fixture
def comparison(output: str, folder: Path) -> Path:
    return folder / "dask-svcca-demo" / "comparison.zarr"


def test_find_networks__are_44_small_files() -> None:
    files = sorted(find_networks().glob("*/*.onnx"))
    assert len(files) == 44
    assert sum(file.stat().st_size for file in files) < 2.5e6


def orders(**correlations: list[float]) -> dict[str, xr.Dataset]:
    return {
        name: xr.Dataset({"depth_correlation": ("model", values)}, attrs={"measure": "cka"})
        for name, values in correlations.items()
    }


@pytest.mark.parametrize(
    ("dynamics", "beginning"),
    [
        (orders(a=[0.9, 0.8]), "By cka, layers closer to the input settle earlier"),
        (orders(a=[-0.9, -0.8]), "By cka, layers closer to the output settle earlier"),
        (orders(a=[0.9, 0.9], b=[0.3, 0.5]), "By cka, layers closer to the input tend to settle earlier"),
        (orders(a=[0.9, 0.9], b=[0.1, 0.3]), "By cka, there is no clear order in which layers settle"),
        (orders(a=[0.9], b=[-0.9]), "By cka, there is no clear order in which layers settle"),
        (orders(a=[0.9], b=[np.nan]), "By cka, there is no clear order in which layers settle"),
    ],
)
def test_settling__claims_no_more_than_the_numbers(dynamics: dict[str, xr.Dataset], beginning: str) -> None:
    assert describe_settling(dynamics).startswith(f"{beginning}: ")


def test_jump__is_the_largest_step_on_average() -> None:
    values = xr.DataArray(
        [[[0.1, 0.2, 0.8, 1.0]], [[0.1, 0.6, 0.9, 1.0]]],
        dims=("model", "layer", "step"),
        coords={"layer": ["logits"], "step": [0, 5, 9, 15]},
    )
    found = describe_jump({"cnn": xr.Dataset({"similarity_to_final": values}, attrs={"measure": "svcca"})}, "logits")
    assert found == (
        "By svcca, the logits take their largest step towards their final selves from 0.40 to 0.85 between steps 5 "
        "and 9 (cnn)."
    )


@pytest.mark.parametrize(("error", "said"), [(0.1, "stands at chance"), (0.02, "finds more than guesses do")])
def test_smaller_rank__claims_no_more_than_the_numbers(error: float, said: str) -> None:
    # The first layer keeps the fewest directions, and is taken by the second of s0 and the third of s1.
    ranks = {"x": 2, "y": 5, "z": 9}
    sides = {
        f"{name}_{side}": (f"representation_{side}", [row[place] for row in product(("s0", "s1"), ranks)])
        for side in "ab"
        for place, name in enumerate(("model", "layer"))
    }
    for side in "ab":
        dim = f"representation_{side}"
        sides |= {f"rank_{side}": (dim, 2 * list(ranks.values())), f"checkpoint_{side}": (dim, 6 * ["end"])}
        sides |= {f"{name}_{side}": (dim, 6 * [1.0]) for name in ("step", "depth")}
    chosen = [[["", "", ""], ["y", "x", "z"]], [["z", "y", "x"], ["", "", ""]]]
    shares = {name: (("measure", "group"), [[value]]) for name, value in (("accuracy", 0.35), ("chance", 0.25))}
    found = xr.Dataset(
        {
            **shares,
            "accuracy_stderr": (("measure", "group"), [[error]]),
            "chosen": (("measure", "model_a", "model_b", "layer"), [chosen]),
        },
        coords={
            "measure": ["svcca"],
            "group": ["net"],
            "model_a": ["s0", "s1"],
            "model_b": ["s0", "s1"],
            "layer": list("xyz"),
        },
    )
    text = describe_smaller_rank(found, xr.Dataset(sides))
    assert f"svcca {said}: 0.35 ± {error:.2f} against 0.25 (net)." in text
    assert "of 6 layers, svcca took one that keeps the fewest directions for 2." in text
    assert "whitened_procrustes" not in text


@pytest.mark.slow
def test_demo__summary(output: str) -> None:
    assert f"= {REPRESENTATIONS} representations of 500 images" in output
    assert re.search(rf"compare +\S+ s +{PAIRS:,} pairs, [\d,]+ a second", output)
    lines = output.splitlines()
    for architecture, layers in (("cnn", ["relu1", "logits"]), ("resnet", ["relu", "block2.relu2", "logits"])):
        begins = [n for n, line in enumerate(lines) if re.match(rf"{architecture} +directions ", line)]
        assert len(begins) == 3
        for begin in begins:
            steps = ["step", "0", "5", "9", "15", "25", "43", "73", "126", "215", "368", "630"]
            assert lines[begin].split()[2:] == steps
            rows = {line.split()[0].rstrip("*"): line.split()[1:] for line in lines[begin + 1 : lines.index("", begin)]}
            assert set(layers) <= rows.keys()
            assert all(values[-1] == "1.00" for values in rows.values())
    said = " ".join(output.split())
    # What was found by hand in these networks.
    assert "By cka, layers closer to the input tend to settle earlier" in said
    assert "By svcca, there is no clear order in which layers settle" in said
    assert "svcca 0.39 at step 0 and 0.93 at the end (cnn), 0.39 at step 0 and 0.87 at the end (resnet)" in said
    assert "between steps 15 and 25 (cnn)" in said
    assert re.search(r"the logits tell apart least are (8|9) \(\S+\), (8|9) ", said)
    begin = next(
        n
        for n, line in enumerate(lines)
        if re.fullmatch(r" *cnn, 5 layers both ways +resnet, 7 layers both ways", line)
    )
    measures = [measure.name for measure in find_measures("all")]
    end = begin + 1 + len(measures)
    identified = {line.split()[0]: [float(line.split()[place]) for place in (1, 4)] for line in lines[begin + 1 : end]}
    assert set(identified) == set(measures)
    # As in Kornblith et al. (2019), table 2.
    assert max(identified["svcca"]) < min(identified["cka"])
    assert lines[end].split() == ["(by", "chance)", "0.20", "0.14"]
    assert "Among all layers but the logits svcca stands at chance: 0.12 ± 0.06 against 0.08 (cnn)" in said
    assert max(map(len, lines[: lines.index("Next:")])) <= 130


@pytest.mark.parametrize("drawn", [True, False])
def test_next_commands__one_by_cka(drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_demo, "find_spec", lambda name: object() if drawn else None)
    (command,) = [one for one, _ in cli_demo._next_commands(Path("out")) if "cka" in one.replace("dask-svcca", "")]
    assert command.startswith(f"dask-svcca {'plot settling' if drawn else 'query'} out/comparison-measures.zarr ")


@pytest.mark.slow
def test_demo__next_commands_work_as_printed(output: str, folder: Path) -> None:
    commands = [line.strip() for line in output.split("Next:")[1].splitlines() if line and "#" not in line]
    assert len(commands) == 4
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        # A figure is a file, and what is said of it a line.
        assert len(done.stdout.splitlines()) > (0 if " plot " in command else 5)
    assert (folder / "dask-svcca-demo" / "settling.png").stat().st_size > 10**4


@pytest.mark.slow
def test_demo__opens_with_xarray_alone(comparison: Path) -> None:
    # Warnings are errors here.
    with xr.open_zarr(comparison) as dataset:
        assert dict(dataset.sizes) == {"representation_a": REPRESENTATIONS, "representation_b": REPRESENTATIONS}
        labels = {
            name: dataset["svcca"].coords[name] for name in ("model_a", "checkpoint_a", "layer_a", "step_a", "depth_a")
        }
        assert len(set(labels["model_a"].to_numpy())) == 4
        assert set(labels["step_a"].to_numpy()) == {0, 5, 9, 15, 25, 43, 73, 126, 215, 368, 630}
        one = dataset["svcca"].sel(
            representation_a="cnn-s0/step00630/conv1", representation_b="resnet-s1/step00630/block1.conv1"
        )
        assert 0 < float(one) < 1
        values = dataset["svcca"].to_numpy()
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values, values.T)
    np.testing.assert_allclose(np.diag(values), 1, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_demo__agrees_with_angles_between_subspaces(zoo: dask_svcca.Zoo, comparison: Path) -> None:
    dataset = dask_svcca.open_comparison(comparison)
    entries = zoo.entries()
    for i, j in np.random.default_rng(0).integers(len(entries), size=(10, 2)):
        # The demo averages over positions.
        a, b = (
            zoo[entries[k].name].to_numpy().astype("float64").reshape(500, -1, entries[k].shape[-1]).mean(axis=1)
            for k in (i, j)
        )
        found = dataset["svcca"].sel(representation_a=entries[i].name.label, representation_b=entries[j].name.label)
        assert float(found) == pytest.approx(svcca(a, b, PARAMETERS.variance), abs=1e-6)


@pytest.mark.slow
def test_dynamics__against_a_loop(comparison: Path) -> None:
    dataset = dask_svcca.open_comparison(comparison)
    groups = architectures(dataset)
    assert groups == {"cnn": ["cnn-s0", "cnn-s1"], "resnet": ["resnet-s0", "resnet-s1"]}
    found = dynamics_of(dataset, "svcca")["cnn"]["similarity_to_final"].mean("model")
    assert found["layer"].to_numpy().tolist()[:3] == ["conv1", "relu1", "conv2"]
    values = dataset["svcca"].load()
    for layer, step in [("conv1", 0), ("relu5", 43), ("logits", 368)]:
        expected = [
            float(
                values.sel(
                    representation_a=f"{model}/step{step:05}/{layer}", representation_b=f"{model}/step00630/{layer}"
                )
            )
            for model in groups["cnn"]
        ]
        assert float(found.sel(layer=layer, step=step)) == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.slow
def test_demo__report_is_one_file(output: str, folder: Path) -> None:
    page = folder / "dask-svcca-demo" / "report.html"
    assert f"{page.relative_to(folder)} (" in output
    assert 10**6 < page.stat().st_size < 6 * 10**6


@pytest.mark.slow
def test_demo__second_run_does_nothing(output: str, folder: Path, comparison: Path) -> None:
    def written() -> dict[str, int]:
        files = [*comparison.parent.glob("*.zarr/svcca/c/*/*"), *comparison.parent.glob("zoo.zarr/*/*/*/zarr.json")]
        return {str(file): file.stat().st_mtime_ns for file in files}

    before = written()
    assert len(before) > REPRESENTATIONS
    out, err = finish(start("demo", "--workers", "2", folder=folder))
    assert written() == before
    assert re.search(r"capture +\S+ s +nothing to do, all were there", out)
    assert len(re.findall(r"compare +\S+ s +nothing to do, all there", out)) == 3
    assert "Comparing pairs" not in err
    # The same findings as the first time.
    assert out.split("Similarity of each layer")[1] == output.split("Similarity of each layer")[1]


@pytest.mark.slow
def test_compare__interrupted_and_resumed_is_the_same_bit_by_bit(comparison: Path, folder: Path) -> None:
    store = folder / "interrupted.zarr"
    command = ("compare", "dask-svcca-demo/zoo.zarr", store.name, "--conv", PARAMETERS.conv, "--workers", "2")
    process = start(*command, folder=folder)
    wait_until(lambda: next(store.glob("pair_status/c/*/*"), None), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = finish(process, status=130)
    assert "Interrupted. All finished subspaces and tiles are kept: the same command goes on from there." in err
    status = dask_svcca.open_comparison(store)["pair_status"].to_numpy()
    done = int(np.triu(status == PairStatus.DONE).sum())
    assert 0 < done < PAIRS

    out, _ = finish(start(*command, folder=folder))
    assert f"Compared {PAIRS - done:,} pairs" in out
    resumed, whole = dask_svcca.open_comparison(store), dask_svcca.open_comparison(comparison)
    assert set(resumed.variables) == set(whole.variables)
    for name in whole.variables:
        a, b = resumed[name].to_numpy(), whole[name].to_numpy()
        assert a.tobytes() == b.tobytes() if a.dtype.kind in "fiu" else (a == b).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_demo__interrupted_anywhere_leaves_nothing_running(again: bool, tmp_path: Path, folder: Path) -> None:
    process = start("demo", "--workers", "2", folder=tmp_path)
    wait_until(lambda: next(tmp_path.glob("dask-svcca-demo/zoo.zarr/*/*/*/zarr.json"), None), process)
    os.killpg(process.pid, signal.SIGINT)
    if again:
        # Someone who cannot wait for the end of the end.
        os.killpg(process.pid, signal.SIGINT)
    _, err = finish(process, status=130)
    # The first checkpoint may be under way.
    assert re.search(r"Interrupted\. (All finished checkpoints, .* are kept|This run has finished nothing yet)", err)
