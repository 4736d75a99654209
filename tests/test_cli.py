"""The command line: what it says, what it writes, and the status it ends with."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import dask_svcca
from dask_svcca.cli import _console, main
from dask_svcca.demo import find_networks

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
N = 40


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run on Dask's local scheduler; that they start and stop a cluster is tested with the demo."""

    @contextlib.contextmanager
    def connected(*_: Any) -> Iterator[None]:
        yield None

    for module in ("capture", "compare", "demo"):
        monkeypatch.setattr(sys.modules[f"dask_svcca.cli.{module}"], "connected", connected)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, status: int = 0) -> Result:
    """Run a command as it is typed, without the ``dask-svcca`` before it."""
    result = CliRunner().invoke(main, shlex.split(command), prog_name="dask-svcca")
    assert result.exit_code == status, result.output
    # A traceback on the screen is for our mistakes only.
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def activations(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, *shape)).astype("float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a zoo, of two models of two checkpoints of two layers, and its comparison."""
    folder = tmp_path_factory.mktemp("made")
    common = activations(0, 5)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(N), coords={"label": np.arange(N) % 3}) as zoo:
        for number in range(8):
            model, step, layer = f"net-s{number // 4}", number // 2 % 2, ("conv", "fc")[number % 2]
            x = common @ activations(1, 4)[:5] + activations(number + 2, 4)
            zoo.write(model, f"step{step}", layer, x, step=step, depth=number % 2)
    dask_svcca.compare(zoo, folder / "comparison.zarr")
    return folder


@pytest.fixture
def zoo(folder: Path, made: Path) -> Path:
    return Path(shutil.copytree(made / "zoo.zarr", folder / "zoo.zarr"))


@pytest.fixture
def comparison(zoo: Path, made: Path) -> Path:
    return Path(shutil.copytree(made / "comparison.zarr", zoo.with_name("comparison.zarr")))


def commands() -> dict[str, click.Command]:
    """All commands that do something, by what is typed."""
    found: dict[str, click.Command] = {}
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
        else:
            found[name] = command
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_help__has_examples_that_parse(name: str) -> None:
    text = run(f"{name} --help").output
    assert "Examples:" in text
    lines = re.sub(r"\\\n\s*", "", text.split("Examples:")[1]).strip().splitlines()
    for line in lines:
        check_command(line.strip())


def check_command(line: str) -> None:
    """Whether a line that is shown to people names a command and options that exist."""
    program, *words = shlex.split(line, comments=True)
    assert program == "dask-svcca"
    name = next(
        (name for name in sorted(commands(), key=len, reverse=True) if words[: len(name.split())] == name.split()), ""
    )
    assert name, f"no such command: {line!r}"
    known = {option for parameter in commands()[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, line


def test_readme__commands_exist() -> None:
    lines = re.findall(r"`(dask-svcca [^`]+)`|&& (dask-svcca \S+)", (ROOT / "README.md").read_text("utf-8"))
    assert len(lines) > 5
    for line in lines:
        check_command("".join(line))


def test_readme__python_runs(folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["result"].sizes == {"representation_a": 2, "representation_b": 2}


def test_version() -> None:
    assert run("--version").output == f"dask-svcca, version {dask_svcca.__version__}\n"


# import


def test_import__npy_and_back(folder: Path) -> None:
    x = activations(0, 3, 4, 5)
    np.save("conv.npy", x)
    result = run(
        "import conv.npy --zoo zoo.zarr --model m/1 --checkpoint c --layer l --step 7 --depth 2 "
        "--dims example,channel,height,width"
    )
    assert "Imported 1 representation of 40 examples: 9.6 kB." in result.output
    zoo = dask_svcca.open_zoo("zoo.zarr")
    stored = zoo["m/1", "c", "l"]
    assert stored.dims == ("example", "height", "width", "channel")
    assert (stored.attrs["step"], stored.attrs["depth"]) == (7, 2)
    np.testing.assert_array_equal(stored.to_numpy(), x.transpose(0, 2, 3, 1))
    assert zoo.examples.tolist() == list(range(N))


def test_import__each_array_of_an_npz_is_a_layer(folder: Path) -> None:
    np.savez("layers.npz", conv=activations(0, 2, 2, 3), fc=activations(1, 4))
    run("import layers.npz --zoo zoo.zarr --model m --checkpoint c")
    frame = dask_svcca.open_zoo("zoo.zarr").representations
    assert frame["layer"].tolist() == ["conv", "fc"]
    assert frame["depth"].tolist() == [0, 1]


def test_import__one_array_of_an_npz(folder: Path) -> None:
    np.savez("layers.npz", conv=activations(0, 3), labels=np.arange(N))
    run("import layers.npz --zoo zoo.zarr --model m --checkpoint c --array conv --layer conv1")
    assert dask_svcca.open_zoo("zoo.zarr").representations.index.tolist() == ["m/c/conv1"]


def test_import__in_half_precision(folder: Path) -> None:
    np.save("x.npy", activations(0, 3))
    result = run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l --dtype float16")
    assert "Imported 1 representation of 40 examples: 240 B." in result.output
    assert dask_svcca.open_zoo("zoo.zarr")["m", "c", "l"].dtype == "float16"


def test_import__ids_and_coordinates(folder: Path) -> None:
    np.save("x.npy", activations(0, 3))
    np.savez("examples.npz", example=np.arange(N) + 100, label=np.arange(N) % 5, input=activations(0, 8, 8))
    run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l --examples examples.npz")
    zoo = dask_svcca.open_zoo("zoo.zarr")
    assert zoo.examples[0] == 100
    assert list(zoo.coords) == ["label"]
    other = run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l2 --examples x.npy", status=2)
    assert "Error: examples are ids" in other.output
    np.save("ids.npy", np.arange(N))
    other = run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l2 --examples ids.npy", status=2)
    assert "not the same ones" in other.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("x.npy", "does not say what layer it is; name it with --layer"),
        ("x.npy --layer l --array a", "holds a single array without a name; leave out --array"),
        ("two.npz --layer l", "holds several arrays, 'a', 'b'; choose one with --array"),
        ("two.npz --array c", "has no array 'c'; it has 'a', 'b'"),
        ("integers.npy --layer l", "is int64; activations are float16, float32 or float64"),
        ("objects.npy --layer l", "holds Python objects, never loaded, for they"),
        ("objects.npz --array o", "array 'o' of 'objects.npz' holds Python objects"),
        ("nothing.npy --layer l", "cannot read 'nothing.npy'"),
        ("unequal.npz", "must have the same examples; their numbers are {'a': 40, 'b': 39}"),
        ("x.npy --layer l --dims example,neuron,what", "do not describe the 2 axes"),
        ("short.npy --layer l", "'m/c/l' has 39 examples, its zoo 40"),
        ("x.npy --layer taken", "'taken' of 'm', 'c' is already in the zoo"),
    ],
)
def test_import__refuses(folder: Path, arguments: str, message: str) -> None:
    np.save("x.npy", activations(0, 3))
    run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer taken")
    np.savez("two.npz", a=activations(0, 3), b=activations(0, 3))
    np.savez("unequal.npz", a=activations(0, 3), b=activations(0, 3)[1:])
    np.save("short.npy", activations(0, 3)[1:])
    np.save("integers.npy", np.arange(N))
    np.save("objects.npy", np.array([{}] * N))
    np.savez("objects.npz", o=np.array([{}] * N))
    Path("nothing.npy").write_text("nothing")
    result = run(f"import {arguments} --zoo zoo.zarr --model m --checkpoint c", status=2)
    assert message in " ".join(result.output.split())
    assert dask_svcca.open_zoo("zoo.zarr").representations.index.tolist() == ["m/c/taken"]


def test_import__overwrite(folder: Path) -> None:
    for seed, option in ((0, ""), (1, "--overwrite")):
        np.save("x.npy", activations(seed, 3))
        run(f"import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l {option}")
    np.testing.assert_array_equal(dask_svcca.open_zoo("zoo.zarr")["m", "c", "l"].to_numpy(), activations(1, 3))


# compare


def test_compare__then_nothing_to_do(zoo: Path) -> None:
    result = run("compare zoo.zarr comparison.zarr")
    assert "Making subspaces: 8 of 8 representations" in result.stderr
    assert re.search(r"Compared 36 pairs of 8 representations in .* 36 of 36 pairs are there now\.", result.stdout)
    values = dask_svcca.open_comparison("comparison.zarr")["svcca"].to_numpy()
    assert np.isfinite(values).all()
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
    assert "2 of 3 representations have fewer than 5 samples a kept direction" in result.stderr
    assert f"Fewest has 'm/c/l2': {N} samples, 30 directions." in result.stderr
    assert "Caution" not in run("compare zoo.zarr other.zarr --variance 0.1").stderr


def test_compare__dry_run_writes_nothing(zoo: Path) -> None:
    result = run("compare zoo.zarr comparison.zarr --dry-run")
    assert "representations  8, of which 8 subspaces to make" in result.output
    plan = json.loads(run("compare zoo.zarr comparison.zarr --dry-run --json --pairs same-layer").stdout)
    assert (plan["representations"], plan["pairs"]) == (8, 20)
    assert {"tiles", "tasks", "bytes_to_read", "bytes_per_tile_task"} <= plan.keys()
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
        ("zoo.zarr other.zarr --spatial-size 8,8", "'8,8' is no size; write it like 8x8"),
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
        assert "  'bad/c/nan': 1 of 120 values are NaN or infinite, the first at index (5, 1)" in result.stderr
    text = run("info comparison.zarr").output
    assert re.search(r"pairs +36 of 55 done; 19 failed", text)
    assert "'bad/c/constant'" in text


def test_compare__ctrl_c_says_what_is_kept(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["dask_svcca.cli.compare"], "run_comparison", interrupted)
    result = run("compare zoo.zarr comparison.zarr", status=130)
    assert result.stderr == "Interrupted. All finished tiles are kept: the same command goes on from there.\n"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
def test_errors__of_the_system_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def failing(*_: Any) -> None:
        raise error

    monkeypatch.setattr(sys.modules["dask_svcca.cli.info"], "read_kind", failing)
    assert run("info zoo.zarr", status=2).stderr == f"Error: {type(error).__name__}: {error}\n"


# info


def test_info__of_a_zoo(zoo: Path) -> None:
    with contextlib.suppress(ValueError), dask_svcca.open_zoo(zoo, mode="r+") as store:
        store.append("net-s0", "step9", "half", activations(0, 3)[:7])
        raise ValueError
    text = run("info zoo.zarr").output
    assert re.search(r"examples +40, with label \(int64\)", text)
    assert re.search(r"representations +8, 5\.1 kB", text)
    assert re.search(r"net-s0 +2 +0 to 1 +2 +4 +2\.6 kB +4", text)
    assert "1 representation begun and never finished" in text
    assert "net-s0/step9/half" in text


def test_info__of_an_empty_zoo(folder: Path) -> None:
    dask_svcca.create_zoo("zoo.zarr", examples=range(3))
    assert re.search(r"representations +0, 0 B", run("info zoo.zarr").output)


def test_info__of_a_comparison(zoo: Path) -> None:
    run("compare zoo.zarr comparison.zarr --pairs same-checkpoint --variance 0.9")
    text = run("info comparison.zarr").output
    for name, value in [("variance", "0.9"), ("measures", "svcca"), ("examples", "40"), ("mask", "none")]:
        assert re.search(rf"^{name} +{value}$", text, flags=re.MULTILINE)
    assert re.search(r"pairs +12 of 36 done", text)
    assert re.search(r"missing +24: not asked for yet, or interrupted", text)


def test_info__of_something_else(folder: Path) -> None:
    assert "there is no zarr v3 group at" in run("info nowhere.zarr", status=2).stderr
    import zarr

    zarr.create_group("other.zarr")
    assert "neither a zoo nor a comparison: its format is None" in run("info other.zarr", status=2).stderr


# query


def test_query__csv_is_the_matrix(comparison: Path) -> None:
    frame = pd.read_csv(io.StringIO(run("query comparison.zarr --csv").stdout))
    result = dask_svcca.open_comparison("comparison.zarr")
    assert len(frame) == 8 * 7 / 2
    for row in frame.to_dict("records"):
        labels = {
            f"representation_{s}": f"{row[f'model_{s}']}/{row[f'checkpoint_{s}']}/{row[f'layer_{s}']}" for s in "ab"
        }
        assert float(result["svcca"].sel(labels)) == pytest.approx(row["svcca"], rel=1e-15)
    run("query --csv=pairs.csv comparison.zarr")
    pd.testing.assert_frame_equal(pd.read_csv("pairs.csv"), frame)


def test_query__highest_first(comparison: Path) -> None:
    csv = pd.read_csv(io.StringIO(run("query comparison.zarr --top 3 --csv").stdout))
    assert csv["svcca"].is_monotonic_decreasing
    shown = run("query comparison.zarr --top 3 --model-a net-s0 --model-b net-s0")
    header, *rows = shown.stdout.splitlines()
    assert header.split() == ["model", "checkpoint", "layer", "model", "checkpoint", "layer", "svcca"]
    assert len(rows) == 3
    assert all(row.count("net-s0") == 2 for row in rows)
    assert "3 of 6 pairs; more with --top N" in shown.stderr


def test_query__bounds(comparison: Path) -> None:
    values = pd.read_csv(io.StringIO(run("query comparison.zarr --csv").stdout))["svcca"]
    middle = values.median()
    bounded = pd.read_csv(io.StringIO(run(f"query comparison.zarr --csv --min {middle}").stdout))["svcca"]
    assert len(bounded) == (values >= middle).sum()
    assert "No pair with a value matches" in run("query comparison.zarr --min 2").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model-a vit", "no model matches 'vit' on side a; there are 'net-s0', 'net-s1'"),
        ("--layer-b 'conv*' --layer-b x --model-b 'n*' --checkpoint-b 9", "no checkpoint matches '9'"),
        ("--measure cka", "no measure 'cka' in this comparison; it has svcca"),
    ],
)
def test_query__names_what_exists(comparison: Path, arguments: str, message: str) -> None:
    assert message in run(f"query comparison.zarr {arguments}", status=2).stderr


# capture


@pytest.fixture
def networks(folder: Path) -> Path:
    """The demo's networks, at a path that is easy to type."""
    pytest.importorskip("onnxruntime")
    (folder / "networks").symlink_to(find_networks())
    return folder / "networks"


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
            "--checkpoint and --step name a single",
        ),
        ("networks/cnn-s0/step00000.onnx --name '{modle}'", "'{modle}' is no pattern of names"),
        ("networks/cnn-s0/step00000.onnx --name 'epoch{step}'", "does not end as 'epoch{step}' says"),
    ],
)
def test_capture__refuses(networks: Path, arguments: str, message: str) -> None:
    Path("bad.onnx").write_text("not a model")
    result = run(f"capture onnx {arguments} --inputs networks/examples.npz --zoo zoo.zarr", status=2)
    assert message in " ".join(result.output.split())


# progress


def test_bars__without_a_terminal_speak_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with _console.Bars({"read": ("Reading", "files")}) as bars:
        for done in range(1, 1001):
            bars("read", done, 1000)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"Reading: 1,000 of 1,000 files, \d\.\d s\n", err)


def test_bars__in_a_terminal_show_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        _console, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100, color_system=None)
    )
    stages = {"read": ("Reading", "files"), "write": ("Writing", "files"), "idle": ("Idling", "hours")}
    with _console.Bars(stages) as bars:
        bars("read", 1, 2)
        bars("read", 2, 2)
        bars("write", 5, 5)
    last = screen.getvalue().replace("\x1b[2K", "").split("\x1b[1A")[-1]
    shown = screen.getvalue()
    assert re.search(r"Reading .*2/2 files", shown)
    assert re.search(r"Writing .*5/5 files", shown)
    assert "Idling" not in last


def test_problems__are_a_few_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    _console.echo_problems({f"layer{number}": "is bad" for number in range(1200)}, "representation")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1,200 representations failed:"
    assert lines[1] == "  layer0: is bad"
    assert lines[-1] == "  and 1,195 more"
